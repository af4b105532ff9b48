"""When requests may leave: the cap, starts before polls, and what becomes of refusals."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_runs.core.limiter import ABSENCE, GROWTH, MAX_DEBT, MIN_HOLD, MIN_SHARE, RateLimiter

LIMIT = 100
MINUTE = 60.0


def polls(limiter: RateLimiter, number: int, now: float = 0.0) -> list[float]:
    """Return when so many polls leave that wait for nothing but the limiter."""
    left = []
    for _ in range(number):
        now = limiter.available_at(now)
        assert limiter.acquire(now)
        left.append(now)
    return left


def most_within_a_minute(left: list[float]) -> int:
    return max(
        sum(1 for moment in left[first:] if moment < begin + MINUTE) for first, begin in enumerate(left)
    )


@given(
    st.floats(0.5, 1000),
    st.lists(st.tuples(st.floats(0, 20), st.booleans()), min_size=1, max_size=300),
)
def test_no_minute_has_more_polls_and_starts_than_the_cap_and_a_burst(
    per_minute: float, requests: list[tuple[float, bool]]
) -> None:
    limiter = RateLimiter(per_minute)
    now, left = 0.0, []
    for pause, is_start in requests:
        now += pause
        if is_start:
            left.append(limiter.reserve(now))
        else:
            now = limiter.available_at(now)
            assert limiter.acquire(now)
            left.append(now)
    assert most_within_a_minute(sorted(left)) <= per_minute + limiter.burst(0) + 1e-6


@pytest.mark.parametrize(
    ("per_minute", "burst"), [(0.5, 1), (6, 1), (39, 1), (90, 4), (120, 6), (200, 10), (600, 10)]
)
def test_the_burst_is_a_small_part_of_the_cap(per_minute: float, burst: int) -> None:
    assert RateLimiter(per_minute).burst(0) == burst


@given(st.integers(1, 600))
def test_a_busy_connection_settles_at_the_cap(per_minute: int) -> None:
    limiter = RateLimiter(per_minute)
    last = polls(limiter, limiter.burst(0) + per_minute)[-1]
    assert 60 * (1 - 1 / per_minute) - 1e-6 <= last <= 60 + 1e-6


@given(st.floats(1, 600), st.floats(0, 1e9))
def test_a_burst_leaves_at_once_and_the_next_poll_waits_for_its_turn(per_minute: float, now: float) -> None:
    limiter = RateLimiter(per_minute)
    left = polls(limiter, limiter.burst(now) + 1, now)
    assert all(math.isclose(moment, now, abs_tol=1e-6) for moment in left[:-1])
    assert math.isclose(left[-1], now + 60 / per_minute, rel_tol=1e-6, abs_tol=1e-6)
    assert not limiter.acquire(left[-1])


def test_a_start_gets_the_next_slot_and_polls_wait_for_the_one_after() -> None:
    limiter = RateLimiter(60)
    now = polls(limiter, 100)[-1]
    assert limiter.reserve(now + 0.1) == now + 1
    assert not limiter.acquire(now + 1)
    assert limiter.acquire(now + 2)


def test_a_request_that_waits_for_nothing_delays_the_others() -> None:
    limiter = RateLimiter(60)
    now = polls(limiter, 100)[-1]
    for _ in range(3):
        limiter.count(now)
    assert limiter.available_at(now) == now + 4


def test_many_requests_that_wait_for_nothing_delay_the_others_for_some_seconds_only() -> None:
    limiter = RateLimiter(60)
    now = polls(limiter, 100)[-1]
    for _ in range(500):
        limiter.count(now)
    assert limiter.available_at(now) == now + MAX_DEBT


def test_polls_get_their_slots_in_the_order_in_which_they_came() -> None:
    limiter = RateLimiter(60)
    now = polls(limiter, 100)[-1]
    first, second = limiter.join(), limiter.join()
    assert [limiter.available_at(now, place) for place in (first, second)] == [now + 1, now + 2]
    # Neither who comes a moment earlier nor who does not queue goes ahead.
    assert not limiter.acquire(now + 1, second)
    assert not limiter.acquire(now + 1)
    assert limiter.acquire(now + 1, first)
    assert limiter.acquire(now + 2, second)
    assert limiter.acquire(now + 3)


def test_a_place_that_is_given_up_holds_nobody() -> None:
    limiter = RateLimiter(60)
    now = polls(limiter, 100)[-1]
    first, second = limiter.join(), limiter.join()
    limiter.leave(first)
    limiter.leave(first)
    assert limiter.acquire(now + 1, second)


def test_who_does_not_come_for_its_slot_loses_its_place() -> None:
    limiter = RateLimiter(60)
    now = polls(limiter, 100)[-1]
    absent, other = limiter.join(), limiter.join()
    limiter.available_at(now, absent)
    assert not limiter.acquire(now + 1 + ABSENCE, other)
    assert limiter.acquire(now + 1.1 + ABSENCE, other)
    # It may come again, behind those who wait by then.
    waiting = limiter.join()
    assert not limiter.acquire(now + 20, absent)
    assert limiter.acquire(now + 20, waiting)
    assert limiter.acquire(now + 21, absent)


def test_a_new_cap_counts_at_once() -> None:
    limiter = RateLimiter(60)
    limiter.set_cap(6)
    assert polls(limiter, 3) == [0, 10, 20]


@pytest.mark.parametrize(
    ("retry_after", "chance", "hold"),
    [(None, 0.0, MIN_HOLD), (0.0, 0.5, 1.5), (20.0, 0.0, 20.0), (20.0, 0.9, 38.0)],
)
def test_after_a_refusal_nothing_leaves_for_a_while(
    retry_after: float | None, chance: float, hold: float
) -> None:
    limiter = RateLimiter(60)
    limiter.refused(100.0, retry_after, chance)
    assert limiter.is_held(100 + hold - 0.01) and not limiter.is_held(100 + hold)
    assert not limiter.acquire(100 + hold - 0.01)
    assert limiter.available_at(100) == limiter.reserve(100) == pytest.approx(100 + hold)


def test_refusals_halve_the_rate_and_it_grows_back_to_the_cap_and_no_further() -> None:
    limiter = RateLimiter(60)
    limiter.refused(0.0, 10.0, 0.0)
    # One that was under way meanwhile is the same refusal, but its wish counts.
    limiter.refused(5.0, 25.0, 0.0)
    assert limiter.available_at(0) == 30
    assert limiter.rate(30) == 30
    assert limiter.rate(90) == 30 + GROWTH * 60
    limiter.refused(90.0, None, 0.0)
    assert limiter.rate(91) == 18
    assert limiter.rate(1e6) == 60
    now = 100.0
    for _ in range(20):
        limiter.refused(now, None, 0.0)
        now = limiter.available_at(now)
    assert limiter.rate(now) == pytest.approx(MIN_SHARE * 60)


class Server:
    """Take so many requests in each minute of its clock and refuse all others, as Strait does."""

    def __init__(self) -> None:
        self.taken: dict[int, int] = {}

    def retry_after(self, now: float) -> float | None:
        """Return None for a request that is taken, else the seconds until the next minute."""
        window = int(now // MINUTE)
        self.taken[window] = self.taken.get(window, 0) + 1
        return None if self.taken[window] <= LIMIT else MINUTE * (window + 1) - now


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("caps", [(90, 90), (90, 600), (90, 90, 90)], ids=str)
def test_limiters_that_do_not_know_of_each_other_share_what_a_server_takes(
    caps: tuple[int, ...], seed: int
) -> None:
    chance, server = random.Random(seed), Server()
    warm_up, end = 3 * MINUTE, 13 * MINUTE
    sent, refused, longest = [0] * len(caps), 0, 0.0
    moves: list[tuple[float, int, Callable[[float], None]]] = []

    def at(moment: float, move: Callable[[float], None]) -> None:
        heapq.heappush(moves, (moment, len(sent) + chance.getrandbits(32), move))

    def ask(number: int, limiter: RateLimiter, now: float) -> bool:
        nonlocal refused
        wish = server.retry_after(now)
        if wish is not None:
            limiter.refused(now, wish, chance.random())
        if now >= warm_up:
            sent[number] += 1
            refused += wish is not None
        return wish is None

    def poll(number: int, limiter: RateLimiter) -> Callable[[float], None]:
        def move(now: float) -> None:
            if limiter.acquire(now):
                ask(number, limiter, now)
            at(limiter.available_at(now), move)

        return move

    def start(number: int, limiter: RateLimiter, wanted: float) -> Callable[[float], None]:
        def move(now: float) -> None:
            nonlocal longest
            if limiter.is_held(now) or not ask(number, limiter, now):
                at(limiter.reserve(now), move)
            elif wanted >= warm_up:
                longest = max(longest, now - wanted)

        return move

    for number, cap in enumerate(caps):
        limiter = RateLimiter(cap)
        at(chance.random(), poll(number, limiter))
        for index in range(25):
            wanted = 30.0 * index + chance.uniform(0, 30)
            starting = start(number, limiter, wanted)
            at(wanted, lambda now, limiter=limiter, move=starting: at(limiter.reserve(now), move))
    while moves and moves[0][0] < end:
        moment, _, move = heapq.heappop(moves)
        move(moment)
    assert refused < 0.05 * sum(sent)
    assert sum(sent) > 0.6 * LIMIT * 10
    assert longest <= 2 * MINUTE
    assert min(sent) > 0.4 * max(sent) * min(caps) / max(caps)
