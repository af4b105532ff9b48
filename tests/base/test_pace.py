"""
When runs are asked about, shown on the poller itself: hours of many waits on a virtual clock.

Each property stands beside a change of the poller that breaks it, which shows that the property can fail.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_runs.base import poller, subscriptions
from airflow_provider_runs.base.poller import (
    BATCH_WINDOW,
    CONCURRENCY,
    MANY_RUNS,
    RECOVERY_GAP,
    RUNS_PER_REQUEST,
    TICK,
)
from airflow_provider_runs.base.subscriptions import PolledRun
from airflow_provider_runs.core import outage, poll_queue
from airflow_provider_runs.core.api import CanGetMany
from airflow_provider_runs.core.limiter import RateLimiter
from airflow_provider_runs.core.outage import OUTAGE_AFTER
from airflow_provider_runs.core.outcome import Verdict
from airflow_provider_runs.core.poll_queue import MIN_BATCH_SIZE, PollQueue
from airflow_provider_runs.core.schedule import AGE_SHARE, JITTER
from tests.base.virtual import BATCH, BatchApi, Plan, VirtualApi, World

# Counting lines would make them three times as slow; other tests run each.
pytestmark = pytest.mark.no_cover

SINGLE_OR_BATCH = pytest.mark.parametrize("api_class", [VirtualApi, BatchApi], ids=["single", "batch"])
DRAW_SHARE = CanGetMany.draw_share
NEVER = 1e9
OLD = -1e6
"""A start so long ago that a run is asked about after its ``poll_interval``."""


def old_runs(number: int, prefix: str = "r", **changes: Any) -> list[Plan]:
    return [Plan(f"{prefix}{index}", OLD, NEVER, **changes) for index in range(number)]


def most_within(moments: Sequence[float], span: float) -> int:
    """Return the largest number of moments in a span of time, wherever it begins."""
    window: deque[float] = deque()
    most = 0
    for moment in moments:
        window.append(moment)
        while window[0] <= moment - span + 1e-6:
            window.popleft()
        most = max(most, len(window))
    return most


def evenly(mean: float) -> float:
    """Return how many moments fall into a span of time at most, if so many do in the mean and by chance."""
    return mean + 5 * math.sqrt(mean) + 1


# An end is noticed soon


@st.composite
def spans(draw: st.DrawFn) -> tuple[float, float, float]:
    """Draw when a run began, when it ends and when the wait for it begins."""
    joined = draw(st.floats(0, 600))
    began = joined - draw(st.floats(0, 3000))
    return began, began + draw(st.floats(0, 10_000)), joined


def check_bounded_delay(api_class: type[VirtualApi], drawn: Sequence[Any], low: float, factor: float) -> None:
    plans = [Plan(f"r{index}", *span) for index, span in enumerate(drawn)]
    world, high = World(), low * factor
    world.wait(plans, api_class, min_poll_interval=low, poll_interval=high)
    # Two looks under way, one of which was too early, and all others before them.
    slack = 2 * world.latency * (len(plans) / CONCURRENCY + 2)
    for plan in plans:
        assert world.outcomes[plan.name].verdict is Verdict.SUCCEEDED
        over = max(plan.ended, plan.joined)
        bound = min(max(low, AGE_SHARE * (over + slack - plan.began)), high)
        assert world.seen[plan.name] - over <= bound + slack, plan


@SINGLE_OR_BATCH
@settings(max_examples=15)
@given(drawn=st.lists(spans(), min_size=1, max_size=30), low=st.floats(0.5, 10), factor=st.floats(1, 30))
def test_an_end_is_noticed_within_a_tenth_of_the_duration(
    api_class: type[VirtualApi], drawn: Sequence[Any], low: float, factor: float
) -> None:
    check_bounded_delay(api_class, drawn, low, factor)


# A long run is asked about seldom


def check_few_looks(api_class: type[VirtualApi], number: int, low: float, factor: float, more: float) -> None:
    high = low * factor
    duration = high / AGE_SHARE + more * high
    world = World()
    starts = [index * high / number for index in range(number)]
    world.wait(
        [Plan(f"r{index}", start, start + duration, start) for index, start in enumerate(starts)],
        api_class,
        min_poll_interval=low,
        poll_interval=high,
    )
    # The shortest way from one look to the next: the largest draw, and taken along by a batch of others.
    share = (1 - JITTER) * (1 - DRAW_SHARE)
    young = 1 / (AGE_SHARE * share)
    growing = math.log(factor) / math.log(1 + AGE_SHARE * share)
    old = more / share
    for looks in world.looks().values():
        assert len(looks) <= young + growing + old + 3


@SINGLE_OR_BATCH
@settings(max_examples=30)
@given(number=st.integers(1, 12), low=st.floats(0.5, 10), factor=st.floats(1, 1000), more=st.floats(0, 20))
def test_looks_grow_with_the_logarithm_of_the_duration_until_the_interval_is_reached(
    api_class: type[VirtualApi], number: int, low: float, factor: float, more: float
) -> None:
    check_few_looks(api_class, number, low, factor, more)


def test_a_search_that_finds_nothing_is_made_no_more_often_than_one_that_does() -> None:
    for began in (OLD, NEVER):
        world = World()
        plans = [Plan(f"s{index}", began, NEVER, search=True) for index in range(5)]
        world.wait(plans, VirtualApi, min_poll_interval=2, poll_interval=60, until=3600)
        # A search begins young: about thirty looks more until the interval is reached.
        assert max(len(looks) for looks in world.looks().values()) <= 3600 / (60 * (1 - JITTER)) + 40
        gaps = [after - before for looks in world.looks().values() for before, after in pairwise(looks)]
        assert min(gaps) >= 2 * (1 - JITTER)


# An outage


def check_outage(api_class: type[VirtualApi], number: int, interval: float, lasts: float) -> None:
    begin = 3 * interval
    over = begin + lasts
    world = World(outages=[(begin, over)])
    world.wait(
        old_runs(number),
        api_class,
        min_poll_interval=1,
        poll_interval=interval,
        until=over + 40 + 4 * interval,
    )
    assert world.outcomes == {}
    # The requests under way when it began, then one probe at a time, at most half a minute apart.
    probes = math.log2(30) + lasts / 15 + 2
    assert len(world.moments(begin + 2 * world.latency, over)) <= CONCURRENCY + OUTAGE_AFTER + probes
    after = world.moments(over)
    assert after and after[0] <= over + max(31, interval + 1)
    # Some were asked about singly before it was known for an outage: these are looked at soon.
    some = CONCURRENCY + OUTAGE_AFTER + 1
    a_second = max(1 / RECOVERY_GAP, number / (interval * (1 - JITTER)))
    assert most_within(after, 1) <= evenly(a_second) + some
    for looks in world.looks().values():
        assert any(over <= look <= after[0] + 1.2 * interval + 1 for look in looks)


@SINGLE_OR_BATCH
@settings(max_examples=10)
@given(number=st.integers(1, 150), interval=st.floats(10, 120), lasts=st.floats(1, 600))
def test_an_outage_costs_a_few_probes_and_is_followed_by_no_burst(
    api_class: type[VirtualApi], number: int, interval: float, lasts: float
) -> None:
    check_outage(api_class, number, interval, lasts)


# A restart with thousands of triggers

THOUSANDS = 2000


def check_restart(api_class: type[VirtualApi], cap: float) -> None:
    interval = 60.0
    world = World(cap=cap)
    under_way = CONCURRENCY + THOUSANDS / RUNS_PER_REQUEST
    size = BATCH if api_class is BatchApi else 1
    # The first look may only be kept back by the cap and by others under way.
    first_round = THOUSANDS / size
    within = first_round * max(60 / cap, world.latency / under_way) * 1.05 + 2 * world.latency + 1
    world.wait(
        old_runs(THOUSANDS),
        api_class,
        min_poll_interval=2,
        poll_interval=interval,
        until=within + 2.5 * interval if size == 1 and cap > 1e6 else within + interval,
    )
    assert world.connections == 1
    assert world.most_under_way <= under_way
    assert most_within(world.moments(), 60) <= cap + RateLimiter(cap).burst(0)
    assert max(looks[0] for looks in world.looks().values()) <= within
    # From then on the looks are spread over the interval; some were due already in the first round.
    if size == 1 and cap > 60 * THOUSANDS / interval:
        later = world.moments(within + interval)
        assert most_within(later, 0.1 * interval) <= 2 * evenly(0.1 * THOUSANDS / (1 - JITTER))


@pytest.mark.parametrize(
    ("api_class", "cap"),
    [(VirtualApi, 1e9), (VirtualApi, 1000), (BatchApi, 1e9), (BatchApi, 60)],
    ids=["single", "single, capped", "batch", "batch, capped"],
)
def test_a_restart_with_thousands_of_triggers_is_no_herd(api_class: type[VirtualApi], cap: float) -> None:
    check_restart(api_class, cap)


def check_gathering(number: int, rate: float) -> None:
    """Let runs join one by one, so many a second, as Airflow starts triggers."""
    lasts = number / rate
    plans = [replace(plan, joined=index / rate) for index, plan in enumerate(old_runs(number))]
    world = World()
    world.wait(plans, BatchApi, min_poll_interval=2, poll_interval=60, until=lasts + 10)
    first = {name: looks[0] for name, looks in world.looks().items()}
    assert all(first[plan.name] - plan.joined <= BATCH_WINDOW + 0.01 for plan in plans)
    # Those that come within the time of gathering are asked about in batches, and a few that remain singly.
    firsts = [names for moment, names in world.asked if any(first[name] == moment for name in names)]
    assert len(firsts) <= number / BATCH + (MIN_BATCH_SIZE - 1) * (1 + lasts / BATCH_WINDOW)


@settings(max_examples=15)
@given(number=st.integers(1, 2000), rate=st.floats(20, 2000))
def test_runs_that_join_one_by_one_share_their_first_requests(number: int, rate: float) -> None:
    check_gathering(number, rate)


def bursts(number: int) -> float:
    """Return how many bursts of single polls leave each second where so many runs are waited for."""
    # The answers take as good as no time, so that none holds back the next poll.
    world = World(latency=1e-6)
    plans = [replace(plan, joined=index / number) for index, plan in enumerate(old_runs(number))]
    world.wait(plans, VirtualApi, min_poll_interval=2, poll_interval=2, until=60)
    moments = sorted(world.moments(since=10))
    assert len(moments) > 20 * number
    return sum(later - moment > 0.01 for moment, later in pairwise(moments)) / 50


def test_single_polls_of_many_runs_leave_together_and_those_of_few_when_they_are_due() -> None:
    assert bursts(MANY_RUNS * 4) <= 1 / TICK
    assert bursts(MANY_RUNS - 1) > 1.5 / TICK


# The cap


@st.composite
def crowds(draw: st.DrawFn) -> list[Plan]:
    """Draw waits of all ages that begin at any time, for runs and for searches."""
    number = draw(st.integers(1, 60))
    joined = draw(st.lists(st.floats(0, 200), min_size=number, max_size=number))
    return [
        Plan(f"r{index}", moment - 40 * (index % 7), NEVER, moment, search=index % 5 == 4)
        for index, moment in enumerate(joined)
    ]


def check_cap(
    api_class: type[VirtualApi], plans: Sequence[Plan], cap: float, outages: Sequence[tuple[float, float]]
) -> None:
    world = World(cap=cap, outages=outages)
    world.wait(plans, api_class, min_poll_interval=0.5, poll_interval=10, until=400)
    assert most_within(world.moments(), 60) <= cap + RateLimiter(cap).burst(0)
    assert world.most_under_way <= CONCURRENCY


@SINGLE_OR_BATCH
@settings(max_examples=25)
@given(
    plans=crowds(),
    cap=st.integers(1, 120),
    outages=st.lists(st.tuples(st.floats(0, 300), st.floats(1, 60)), max_size=2),
)
def test_no_minute_has_more_requests_than_the_cap_allows(
    api_class: type[VirtualApi], plans: Sequence[Plan], cap: float, outages: Sequence[tuple[float, float]]
) -> None:
    check_cap(api_class, plans, cap, [(begin, begin + lasts) for begin, lasts in outages])


# Fairness


def check_fairness(number: int, searches: int, over: float, late: float) -> None:
    """Wait for more runs than the cap lets be looked at in time; one of them joins late."""
    interval = 20.0
    cap = 60 * number / (over * interval)
    round_ = (number + searches) * 60 / cap
    joined = late * round_
    plans = [
        *old_runs(number),
        *old_runs(searches, "s", search=True),
        Plan("late", OLD, NEVER, joined),
        Plan("late search", OLD, NEVER, joined, search=True),
    ]
    world = World(cap=cap)
    world.wait(
        plans, VirtualApi, min_poll_interval=1, poll_interval=interval, until=joined + 4 * round_ + interval
    )
    # Nobody waits for longer than all of its kind need, who take turns with those of the other kind.
    gap = 60 / cap
    longest = {
        False: 2 * gap * min(number + 2, number + searches + 3),
        True: 2 * gap * (searches + 2),
    }
    if not searches:
        longest[False] = gap * (number + 3) + gap * 2
    for name, looks in world.looks().items():
        plan = world.plans[name]
        bound = longest[plan.search] + interval + 10 * gap
        assert looks, name
        assert looks[0] - plan.joined <= bound, name
        assert max((after - before for before, after in pairwise(looks)), default=0) <= bound


@settings(max_examples=15)
@given(
    number=st.integers(20, 120), searches=st.integers(0, 30), over=st.floats(1.5, 5), late=st.floats(0, 1.5)
)
def test_with_too_many_runs_for_the_cap_all_have_their_turn_and_who_joins_late_too(
    number: int, searches: int, over: float, late: float
) -> None:
    check_fairness(number, searches, over, late)


# Each property can fail


class Unfair(deque[Any]):
    """Serves first who came last."""

    popleft = deque.pop


def always_young(age: float, low: float, high: float, chance: float) -> float:
    return low


def twice_as_long(age: float, low: float, high: float, chance: float) -> float:
    return min(max(2 * AGE_SHARE * age, low), high)


SPANS = [(0.0, 300.0 + 20 * index, 0.0) for index in range(20)]
CROWD = [Plan(f"r{index}", 0.0, NEVER) for index in range(40)]
NO_TURNS = property(lambda self: False, lambda self, value: None)


@pytest.mark.parametrize(
    ("where", "name", "instead", "check"),
    [
        (subscriptions, "next_delay", twice_as_long, lambda: check_bounded_delay(VirtualApi, SPANS, 1, 1000)),
        (subscriptions, "next_delay", always_young, lambda: check_few_looks(VirtualApi, 3, 1, 100, 3)),
        (CanGetMany, "draw_share", 0.9, lambda: check_few_looks(BatchApi, 12, 1, 100, 10)),
        (outage, "BACKOFF_CAP", 1.0, lambda: check_outage(VirtualApi, 100, 30, 300)),
        (poller, "RECOVERY_GAP", 0.0, lambda: check_outage(VirtualApi, 100, 30, 300)),
        (poller, "CONCURRENCY", 100, lambda: check_restart(VirtualApi, 1e9)),
        (PolledRun, "is_old", lambda *_: False, lambda: check_restart(VirtualApi, 1e9)),
        (RateLimiter, "_take", lambda self, moment: None, lambda: check_restart(VirtualApi, 1000)),
        (poller, "BATCH_WINDOW", 0.0, lambda: check_gathering(500, 100)),
        (RateLimiter, "_take", lambda self, moment: None, lambda: check_cap(VirtualApi, CROWD, 10, [])),
        (poll_queue, "deque", Unfair, lambda: check_fairness(60, 0, 3, 1)),
        (PollQueue, "_searched", NO_TURNS, lambda: check_fairness(20, 30, 5, 0)),
    ],
    ids=[
        "delays too long",
        "delays do not grow",
        "batches take along too many",
        "probes too often",
        "all at once after an outage",
        "too many at once",
        "all due together for good",
        "a restart without a cap",
        "each alone that joins",
        "no cap",
        "the last come first",
        "searches come first",
    ],
)
def test_each_property_can_fail(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, instead: Any, check: Callable[[], None]
) -> None:
    check()
    monkeypatch.setattr(where, name, instead, raising=name != "_searched")
    with pytest.raises(AssertionError):
        check()
