"""Every request of a connection passes its one limiter, whatever its call, scope and thread are."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import Token
from airflow_provider_runs.core.connection import Settings
from airflow_provider_runs.core.cycle import Alone, Pause, RequestCycle, Send, Steps
from airflow_provider_runs.core.errors import ApiError, ConnectionFailed
from airflow_provider_runs.core.http import Flow, Request, Response
from airflow_provider_runs.core.retry import NO_RETRY, RetryPolicy
from airflow_provider_runs.core.turns import Turn, limiter_of
from tests.base.fakes import FakeApi

CAP = 60
"""One request a second, after a burst of three."""
BURST = 3


def an_api(conn_id: str = "c", **scope: str) -> FakeApi:
    return FakeApi(Settings(conn_id, "http://fake", extra={"max_requests_per_minute": CAP}), scope)


class Sent:
    """Carries out the steps of a cycle without a network, and keeps when requests were sent."""

    def __init__(self, api: FakeApi, *answers: Any) -> None:
        self.cycle = RequestCycle(api)
        self.answers = list(answers)
        self.moments: list[float] = []
        self.began = clock.monotonic()

    def run(
        self,
        flow: Flow[Any],
        turn: Turn = Turn.POLL,
        retry: RetryPolicy = NO_RETRY,
        *,
        has_slot: bool = False,
    ) -> Any:
        return self._perform(self.cycle.run(flow, retry, self.cycle.turns(turn, has_slot=has_slot)))

    def _perform(self, steps: Steps[Any]) -> Any:
        outcome: Any = None
        try:
            while True:
                outcome = self._carry_out(steps.send(outcome))
        except StopIteration as end:
            return end.value

    def _carry_out(self, step: Any) -> Any:
        if isinstance(step, Pause):
            return clock.sleep(step.seconds)
        if isinstance(step, Alone):
            return self._perform(step.steps)
        assert isinstance(step, Send)
        self.moments.append(clock.monotonic() - self.began)
        return self.answers.pop(0) if self.answers else Response(200, body=b"{}")


def pages(number: int, **rest: Any) -> Flow[int]:
    for _ in range(number):
        yield Request("GET", "http://fake", safe_to_repeat=True, **rest)
    return number


def refused() -> Flow[None]:
    response = yield Request("GET", "http://fake")
    raise ApiError("slow down", status=response.status)


@pytest.mark.parametrize("turn", [Turn.POLL, Turn.CALL])
def test_each_page_of_a_list_waits_for_its_slot(turn: Turn) -> None:
    sent = Sent(an_api())
    assert sent.run(pages(6), turn) == 6
    assert sent.moments == pytest.approx([0, 0, 0, 1, 2, 3], abs=0.01)


def test_each_repeat_of_a_request_waits_for_its_slot() -> None:
    sent = Sent(an_api(), *[ConnectionFailed("down", sent=True)] * 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("airflow_provider_runs.core.retry.backoff_seconds", lambda *args: 0.0)
        sent.run(pages(1), retry=RetryPolicy(attempts=5))
    assert sent.moments == pytest.approx([0, 0, 0, 1, 2], abs=0.01)


def test_a_request_for_a_token_waits_for_its_slot() -> None:
    class Authenticated(FakeApi):
        def authenticates(self) -> bool:
            return True

        def authenticate(self) -> Flow[None]:
            yield Request("POST", "http://fake/token", authenticated=False)
            self.token = Token("token", clock.time(), 1000)

    api = an_api()
    sent = Sent(Authenticated(api.settings, {}))
    sent.run(pages(3, authenticated=True))
    assert sent.moments == pytest.approx([0, 0, 0, 1], abs=0.01)


def test_a_request_whose_slot_was_taken_before_takes_no_other() -> None:
    sent = Sent(an_api())
    sent.run(pages(4), has_slot=True)
    assert sent.moments == pytest.approx([0, 0, 0, 0], abs=0.01)


def test_what_is_urgent_waits_for_nothing_and_others_wait_the_longer() -> None:
    sent = Sent(an_api())
    sent.run(pages(6), Turn.URGENT)
    sent.run(pages(1))
    assert sent.moments == pytest.approx([0] * 6 + [4], abs=0.01)


def test_a_call_sees_the_errors_of_its_requests_and_their_answers() -> None:
    def flow() -> Flow[Any]:
        try:
            yield Request("GET", "http://fake")
        except ConnectionFailed:
            response = yield Request("GET", "http://fake")
            return response.status

    assert Sent(an_api(), ConnectionFailed("down", sent=False), Response(204)).run(flow()) == 204


def test_a_refusal_holds_every_scope_of_the_connection_and_no_other_connection() -> None:
    with pytest.raises(ApiError):
        Sent(an_api(zone="a"), Response(429)).run(refused())
    other, same = Sent(an_api("other")), Sent(an_api(zone="b"))
    other.run(pages(1))
    same.run(pages(2))
    assert other.moments == pytest.approx([0], abs=0.01)
    first, second = same.moments
    assert 1 <= first < 2.01
    # At half the rate: two seconds from one to the next.
    assert second - first == pytest.approx(2, abs=0.05)


def test_a_refusal_of_a_page_that_the_call_survives_counts_too() -> None:
    sent = Sent(an_api(), Response(429, {"retry-after": "20"}))
    sent.run(pages(2))
    assert 20 <= sent.moments[1] <= 40.01


def test_a_service_that_is_broken_is_not_asked_less_often_for_it() -> None:
    class Broken(FakeApi):
        broken_words = "admission control"

    sent = Sent(Broken(an_api().settings, {}), *[Response(429, body=b"database admission control")] * 3)
    sent.run(pages(3))
    assert sent.moments == pytest.approx([0, 0, 0], abs=0.01)
    assert limiter_of(an_api()).rate(clock.monotonic()) == CAP


def test_the_wait_that_a_service_asks_for_is_obeyed_and_known_to_the_caller() -> None:
    with pytest.raises(ApiError) as caught:
        Sent(an_api(), Response(429, {"retry-after": "20"})).run(refused())
    assert caught.value.retry_after == 20
    sent = Sent(an_api())
    sent.run(pages(1), Turn.CALL)
    assert 20 <= sent.moments[0] <= 40.01


def test_a_start_that_waits_for_its_slot_is_held_by_a_refusal_that_comes_meanwhile() -> None:
    limiter = limiter_of(an_api())
    for _ in range(BURST):
        limiter.count(clock.monotonic())
    sent = Sent(an_api())
    waits = sent.cycle.turns(Turn.CALL).pauses()
    clock.sleep(next(waits))
    limiter.refused(clock.monotonic(), 30.0, 0.0)
    for pause in waits:
        clock.sleep(pause)
    assert clock.monotonic() - sent.began >= 31


@pytest.mark.parametrize("held", [True, False], ids=["for its slot", "before a repeat"])
def test_a_call_that_is_stopped_waits_no_longer_and_sends_nothing_more(held: bool) -> None:
    if held:
        limiter_of(an_api()).refused(clock.monotonic(), 100.0, 0.0)
    sent = Sent(an_api(), *([] if held else [Response(503, {"retry-after": "100"})]))
    until = clock.monotonic() + 5
    with pytest.raises(ConnectionFailed, match="was stopped") if held else pytest.raises(ConnectionFailed):
        sent.run(pages(1), Turn.CALL, RetryPolicy(stopped=lambda: clock.monotonic() > until))
    assert clock.monotonic() - sent.began < 7
    assert len(sent.moments) == (0 if held else 1)


def test_a_start_does_not_wait_behind_polls_of_another_thread() -> None:
    polls = [Sent(an_api(zone="a")) for _ in range(60)]
    threads = [threading.Thread(target=each.run, args=(pages(1),)) for each in polls]
    for thread in threads:
        thread.start()
    clock.sleep(10.5)
    start = Sent(an_api(zone="b"))
    start.run(pages(1), Turn.CALL)
    assert start.moments[0] <= 1.01
    for thread in threads:
        thread.join()
    within = [each.moments[0] for each in polls if each.moments[0] < 30]
    assert len(within) <= BURST + 30 - 1
    assert {len(each.moments) for each in polls} == {1}
