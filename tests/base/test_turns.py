"""Every request of a connection passes its one limiter, whatever its driver, scope and event loop are."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from airflow_provider_runs.base.turns import Turn, arun_flow, limiter_of, pauses, run_flow
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.connection import Settings
from airflow_provider_runs.core.errors import ApiError, ConnectionFailed
from airflow_provider_runs.core.http import Flow, Request, Response
from airflow_provider_runs.core.retry import NO_RETRY, RetryPolicy
from tests.base.fakes import FakeApi

CAP = 60
"""One request a second, after a burst of three."""
BURST = 3


def an_api(conn_id: str = "c", **scope: str) -> FakeApi:
    return FakeApi(Settings(conn_id, "http://fake", extra={"max_requests_per_minute": CAP}), scope)


class Sent:
    """Stands for both drivers, and keeps when requests were sent."""

    def __init__(self, api: FakeApi, *answers: Any) -> None:
        self.api: Any = api
        self.answers = list(answers)
        self.moments: list[float] = []
        self.began = clock.monotonic()

    def _answer(self) -> Any:
        self.moments.append(clock.monotonic() - self.began)
        return self.answers.pop(0) if self.answers else Response(200)

    def run(self, flow: Flow[Any]) -> Any:
        try:
            request = next(flow)
            while True:
                assert request.url == "http://fake"
                answer = self._answer()
                request = flow.throw(answer) if isinstance(answer, Exception) else flow.send(answer)
        except StopIteration as end:
            return end.value


class Sync(Sent):
    def drive(self, flow: Flow[Any], retry: RetryPolicy) -> Any:
        return self.run(flow)


class Async(Sent):
    async def drive(self, flow: Flow[Any], retry: RetryPolicy) -> Any:
        return self.run(flow)


def pages(number: int) -> Flow[int]:
    for _ in range(number):
        yield Request("GET", "http://fake")
    return number


def refused() -> Flow[None]:
    response = yield Request("GET", "http://fake")
    raise ApiError("slow down", status=response.status)


def run(sent: Sent, flow: Flow[Any], turn: Turn = Turn.POLL, retry: RetryPolicy = NO_RETRY) -> Any:
    """Run a flow by the driver of either kind."""
    driver: Any = sent
    if isinstance(sent, Sync):
        return run_flow(driver, flow, retry, turn)
    return asyncio.run(arun_flow(driver, flow, retry, turn))


KINDS = pytest.mark.parametrize("kind", [Sync, Async])


@KINDS
@pytest.mark.parametrize("turn", [Turn.POLL, Turn.CALL])
def test_each_page_of_a_list_waits_for_its_slot(kind: type[Sent], turn: Turn) -> None:
    sent = kind(an_api())
    assert run(sent, pages(6), turn) == 6
    assert sent.moments == pytest.approx([0, 0, 0, 1, 2, 3], abs=0.01)


@KINDS
def test_what_is_urgent_waits_for_nothing_and_others_wait_the_longer(kind: type[Sent]) -> None:
    sent = kind(an_api())
    run(sent, pages(6), Turn.URGENT)
    run(sent, pages(1))
    assert sent.moments == pytest.approx([0] * 6 + [4], abs=0.01)


@KINDS
def test_a_call_sees_the_errors_of_its_requests_and_their_answers(kind: type[Sent]) -> None:
    def flow() -> Flow[Any]:
        try:
            yield Request("GET", "http://fake")
        except ConnectionFailed:
            response = yield Request("GET", "http://fake")
            return response.status

    assert run(kind(an_api(), ConnectionFailed("down", sent=False), Response(204)), flow()) == 204


@KINDS
def test_a_refusal_holds_every_scope_of_the_connection_and_no_other_connection(kind: type[Sent]) -> None:
    with pytest.raises(ApiError):
        run(kind(an_api(zone="a"), Response(429)), refused())
    other, same = kind(an_api("other")), kind(an_api(zone="b"))
    run(other, pages(1))
    run(same, pages(2))
    assert other.moments == pytest.approx([0], abs=0.01)
    first, second = same.moments
    assert 1 <= first < 2.01
    # At half the rate: two seconds from one to the next.
    assert second - first == pytest.approx(2, abs=0.05)


def test_the_wait_that_a_service_asks_for_is_obeyed_and_known_to_the_caller() -> None:
    with pytest.raises(ApiError) as caught:
        run(Async(an_api(), Response(429, {"retry-after": "20"})), refused())
    assert caught.value.retry_after == 20
    sent = Async(an_api())
    run(sent, pages(1), Turn.CALL)
    assert 20 <= sent.moments[0] <= 40.01


def test_a_start_that_waits_for_its_slot_is_held_by_a_refusal_that_comes_meanwhile() -> None:
    limiter = limiter_of(an_api())
    for _ in range(BURST):
        limiter.count(clock.monotonic())
    began = clock.monotonic()
    waits = pauses(limiter, Turn.CALL)
    clock.sleep(next(waits))
    limiter.refused(clock.monotonic(), 30.0, 0.0)
    for pause in waits:
        clock.sleep(pause)
    assert clock.monotonic() - began >= 31


def test_a_call_that_is_stopped_waits_no_longer() -> None:
    limiter = limiter_of(an_api())
    limiter.refused(clock.monotonic(), 100.0, 0.0)
    sent = Sync(an_api())
    until = clock.monotonic() + 5
    run(sent, pages(1), Turn.CALL, RetryPolicy(stopped=lambda: clock.monotonic() > until))
    assert sent.moments[0] < 7


def test_a_start_does_not_wait_behind_polls_of_another_event_loop() -> None:
    polls = Async(an_api(zone="a"))

    async def poll() -> None:
        driver: Any = polls
        await asyncio.gather(*(arun_flow(driver, pages(1), NO_RETRY, Turn.POLL) for _ in range(60)))

    thread = threading.Thread(target=lambda: asyncio.run(poll()))
    thread.start()
    clock.sleep(10.5)
    start = Sync(an_api(zone="b"))
    run(start, pages(1), Turn.CALL)
    assert start.moments[0] <= 1.01
    thread.join()
    within = [moment for moment in polls.moments if moment < 30]
    assert len(within) <= BURST + 30 - 1
    assert len(polls.moments) == 60
