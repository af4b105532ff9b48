"""Streams as hints: they have a run asked about earlier, and decide, alarm and disturb nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from aiohttp import web

from airflow_provider_runs.base import streams as streaming
from airflow_provider_runs.base import watch as watching
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import CanStream
from airflow_provider_runs.core.drivers import AsyncDriver
from airflow_provider_runs.core.errors import (
    ApiError,
    ConnectionFailed,
    NotFound,
    Unauthorized,
)
from airflow_provider_runs.core.http import Flow, Request
from airflow_provider_runs.core.outcome import Outcome, Verdict
from airflow_provider_runs.core.progress import Note
from airflow_provider_runs.core.run import Run
from airflow_provider_runs.core.sse import Comment, Event, Frame, Retry
from tests.base.fakes import FullApi, Service
from tests.base.test_watch import DOWN, Connections, a_search, a_watch, until, wait

NEWS = Event("message", "news")
LOG = Event("message", "log")
ALIVE = Comment("keepalive")
SLOW = {"poll_interval": 60.0, "min_poll_interval": 60.0}


class Teller:
    """The other end of the streams: what is opened there, and what comes through."""

    def __init__(self) -> None:
        self.connects: list[str] = []
        self.times: list[float] = []
        self.open: dict[str, asyncio.Queue[Frame | Exception | None]] = {}
        self.errors: dict[str, Exception] = {}
        self.refusal: Exception | None = None
        self.most = 0
        self.drivers: list[AsyncDriver] = []

    def tell(self, run_id: str, *frames: Frame | Exception | None) -> None:
        """Send frames; an error breaks the stream off, None ends it."""
        for frame in frames:
            self.open[run_id].put_nowait(frame)

    def begin(self, run_id: str, driver: AsyncDriver) -> None:
        self.connects.append(run_id)
        self.times.append(clock.monotonic())
        if error := self.refusal or self.errors.get(run_id):
            raise error
        self.open[run_id] = asyncio.Queue()
        self.most = max(self.most, len(self.open))
        self.drivers.append(driver)


class StreamApi(FullApi, CanStream):
    """A service that streams; what it says about many runs costs nothing."""

    max_streams = 100

    def stream_request(self, run_id: str) -> Request:
        return Request("GET", f"{self.settings.base_url}/{run_id}")

    def is_news(self, event: Event) -> bool:
        if event.data == "bug":
            raise KeyError(event.data)
        return event.data == "news"


@pytest.fixture
def teller(monkeypatch: pytest.MonkeyPatch) -> Teller:
    told = Teller()

    class Driver(AsyncDriver):
        async def stream_events(
            self, request: Request, *, silence: float = 45.0, opened: Callable[[], None] = lambda: None
        ) -> AsyncGenerator[Frame, None]:
            run_id = request.url.rpartition("/")[2]
            await asyncio.sleep(0)
            told.begin(run_id, self)
            queue = told.open[run_id]
            opened()
            try:
                while (frame := await queue.get()) is not None:
                    if isinstance(frame, Exception):
                        raise frame
                    yield frame
            finally:
                del told.open[run_id]
                await asyncio.sleep(0)

    monkeypatch.setattr(watching, "AsyncDriver", Driver)
    return told


@pytest.fixture
def connections() -> Connections:
    return Connections(StreamApi)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "BACKOFF_BASE", 0.01)
    monkeypatch.setattr(watching, "BACKOFF_CAP", 0.05)
    monkeypatch.setattr(watching, "SOON", 0.1)
    monkeypatch.setattr(streaming, "BROKEN_BASE", 0.01)
    monkeypatch.setattr(streaming, "BROKEN_CAP", 0.05)
    monkeypatch.setattr(streaming, "REFUSED_BASE", 0.05)
    monkeypatch.setattr(streaming, "REFUSED_CAP", 0.2)


async def end_all(service: Service, waiting: list[asyncio.Task[Outcome]]) -> None:
    for run_id in service.runs:
        service.runs[run_id] = "done"
    assert {outcome.verdict for outcome in await asyncio.gather(*waiting)} == {Verdict.SUCCEEDED}


async def leave(*waiting: asyncio.Task[Any]) -> None:
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def streamed(teller: Teller, service: Service, run_id: str = "r1") -> None:
    """Wait until a run has a stream, and has been asked about for the times that this means."""
    await until(lambda: run_id in teller.open)
    await asyncio.sleep(watching.SOON + 0.1)
    service.calls.clear()


# What a stream is for


@pytest.mark.parametrize(
    ("status", "verdict"),
    [("done", Verdict.SUCCEEDED), ("broken", Verdict.FAILED), ("stopped", Verdict.CANCELLED)],
)
async def test_news_have_the_run_asked_about_at_once(
    service: Service, connections: Connections, teller: Teller, status: str, verdict: Verdict
) -> None:
    service.runs["r1"] = "going"
    waiting = asyncio.create_task(wait(connections, a_watch("r1", **SLOW)))
    await streamed(teller, service)
    service.runs["r1"] = status
    teller.tell("r1", NEWS)
    assert (await asyncio.wait_for(waiting, 1)).verdict is verdict
    assert service.called("get") == ["r1"]


async def test_runs_that_were_just_started_have_their_streams_at_once(
    service: Service, connections: Connections, teller: Teller
) -> None:
    service.runs |= dict.fromkeys(("a", "b"), "going")
    watches = [a_watch(name, started_at=clock.time(), **SLOW) for name in service.runs]
    waiting = [asyncio.create_task(wait(connections, watch)) for watch in watches]
    await until(lambda: teller.open.keys() == {"a", "b"})
    service.runs |= dict.fromkeys(("a", "b"), "done")
    for name in ("a", "b"):
        teller.tell(name, NEWS)
    await asyncio.gather(*waiting)


async def test_what_ended_before_the_stream_was_there_is_seen_when_it_opens(
    service: Service, connections: Connections, teller: Teller
) -> None:
    service.runs["r1"] = "going"
    begin = teller.begin

    def ended_meanwhile(run_id: str, driver: AsyncDriver) -> None:
        service.runs[run_id] = "done"
        begin(run_id, driver)

    teller.begin = ended_meanwhile  # type: ignore[method-assign]
    outcome = await asyncio.wait_for(wait(connections, a_watch("r1", **SLOW)), 1)
    assert outcome.verdict is Verdict.SUCCEEDED
    assert service.called("get") == ["r1"] * 2


async def test_what_ended_before_the_service_began_to_listen_is_seen_soon(
    service: Service, connections: Connections, teller: Teller
) -> None:
    service.runs["r1"] = "going"
    waiting = asyncio.create_task(wait(connections, a_watch("r1", **SLOW)))
    await until(lambda: len(service.called("get")) == 2)
    service.runs["r1"] = "done"
    assert (await asyncio.wait_for(waiting, 1)).verdict is Verdict.SUCCEEDED
    assert service.called("get") == ["r1"] * 3


async def test_a_stream_in_which_nothing_happens_costs_no_request(
    service: Service, connections: Connections, teller: Teller
) -> None:
    service.runs["r1"] = "going"
    waiting = asyncio.create_task(wait(connections, a_watch("r1", **SLOW)))
    await streamed(teller, service)
    teller.tell("r1", ALIVE, LOG, ALIVE, LOG)
    await asyncio.sleep(0.3)
    assert service.calls == [] and teller.connects == ["r1"]
    await leave(waiting)


async def test_news_decide_nothing(service: Service, connections: Connections, teller: Teller) -> None:
    service.runs["r1"] = "going"
    waiting = asyncio.create_task(wait(connections, a_watch("r1", **SLOW)))
    await streamed(teller, service)
    teller.tell("r1", NEWS)
    # Asked at once, and once more in case that the answer was older than the news.
    await until(lambda: len(service.called("get")) == 2)
    await asyncio.sleep(0.3)
    assert len(service.called("get")) == 2 and not waiting.done()
    service.runs["r1"] = "done"
    teller.tell("r1", NEWS)
    assert (await waiting).verdict is Verdict.SUCCEEDED


async def test_an_answer_that_is_older_than_the_news_delays_the_end_by_little(
    service: Service, connections: Connections, teller: Teller
) -> None:
    service.runs["r1"] = "going"
    waiting = asyncio.create_task(wait(connections, a_watch("r1", **SLOW)))
    await streamed(teller, service)
    teller.tell("r1", NEWS)
    await until(lambda: service.called("get"))
    service.runs["r1"] = "done"
    assert (await asyncio.wait_for(waiting, 1)).verdict is Verdict.SUCCEEDED


async def test_news_while_the_run_is_being_asked_about_have_it_asked_about_once_more(
    service: Service, connections: Connections, teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering = asyncio.Event()
    answering.set()

    class Driver(watching.AsyncDriver):
        async def drive(self, flow: Any, retry: Any = None) -> Any:
            answer = await super().drive(flow, retry)
            await answering.wait()
            return answer

    monkeypatch.setattr(watching, "AsyncDriver", Driver)
    monkeypatch.setattr(watching, "SOON", 30.0)
    service.runs["r1"] = "going"
    waiting = asyncio.create_task(wait(connections, a_watch("r1", **SLOW)))
    await until(lambda: len(service.called("get")) == 2)
    await asyncio.sleep(0.1)
    service.calls.clear()
    answering.clear()
    teller.tell("r1", NEWS)
    await until(lambda: service.called("get"))
    service.runs["r1"] = "done"
    teller.tell("r1", *[NEWS] * 20)
    await asyncio.sleep(0.05)
    answering.set()
    assert (await asyncio.wait_for(waiting, 1)).verdict is Verdict.SUCCEEDED
    assert service.called("get") == ["r1"] * 2


async def test_a_change_that_no_stream_tells_is_found_by_the_next_look(
    service: Service, connections: Connections, teller: Teller
) -> None:
    service.runs["r1"] = "going"
    waiting = asyncio.create_task(wait(connections, a_watch("r1", min_poll_interval=0.3, poll_interval=0.3)))
    await streamed(teller, service)
    teller.tell("r1", ALIVE)
    service.runs["r1"] = "stopped"
    assert (await waiting).verdict is Verdict.CANCELLED


async def test_runs_that_end_together_are_asked_about_together(
    service: Service, connections: Connections, teller: Teller
) -> None:
    service.runs |= {str(number): "going" for number in range(40)}
    waiting = [asyncio.create_task(wait(connections, a_watch(run_id, **SLOW))) for run_id in service.runs]
    await until(lambda: len(teller.open) == 40)
    await asyncio.sleep(0.4)
    service.calls.clear()
    for run_id in tuple(teller.open):
        service.runs[run_id] = "done"
        teller.tell(run_id, NEWS)
    outcomes = await asyncio.wait_for(asyncio.gather(*waiting), 1)
    assert {outcome.verdict for outcome in outcomes} == {Verdict.SUCCEEDED}
    assert len(service.calls) <= 6


# The looks beside it


async def looks(service: Service, seconds: float) -> int:
    service.calls.clear()
    await asyncio.sleep(seconds)
    return len(service.called("get"))


async def test_a_stream_that_works_replaces_the_frequent_looks_at_a_young_run(
    service: Service, connections: Connections, teller: Teller
) -> None:
    service.runs["r1"] = "going"
    young = {"min_poll_interval": 0.05, "poll_interval": 60.0}
    waiting = asyncio.create_task(wait(connections, a_watch("r1", **young)))
    await streamed(teller, service)
    # As long as nothing has come, something on the way may hold it all back.
    assert await looks(service, 0.5) >= 5
    teller.tell("r1", ALIVE)
    await asyncio.sleep(0.1)
    assert await looks(service, 0.5) == 0
    teller.tell("r1", ConnectionFailed("broken off", sent=True))
    await until(lambda: len(teller.connects) == 2)
    await asyncio.sleep(watching.SOON + 0.1)
    assert await looks(service, 1) >= 3
    await leave(waiting)


async def test_the_looks_at_a_young_run_with_a_stream_have_a_pace_of_their_own(
    service: Service, connections: Connections, teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "STREAMED_INTERVAL", 0.2)
    service.runs["r1"] = "going"
    young = {"min_poll_interval": 0.05, "poll_interval": 60.0}
    waiting = asyncio.create_task(wait(connections, a_watch("r1", **young)))
    await streamed(teller, service)
    teller.tell("r1", ALIVE)
    await asyncio.sleep(0.1)
    assert 3 <= await looks(service, 1.0) <= 6
    await leave(waiting)


async def test_a_wait_for_progress_keeps_its_looks(
    service: Service, connections: Connections, teller: Teller
) -> None:
    service.runs["r1"] = "waiting"
    young = {"min_poll_interval": 0.05, "poll_interval": 60.0, "no_progress_timeout": 1.0}
    waiting = asyncio.create_task(wait(connections, a_watch("r1", **young)))
    await streamed(teller, service)
    teller.tell("r1", ALIVE)
    await asyncio.sleep(0.1)
    # Into this status no service need tell of the change.
    service.runs["r1"] = "going"
    await asyncio.sleep(1)
    assert not waiting.done()
    service.runs["r1"] = "done"
    teller.tell("r1", NEWS)
    assert (await waiting).verdict is Verdict.SUCCEEDED


# What goes wrong with it


async def test_a_stream_that_ends_without_a_word_is_opened_again(
    service: Service, connections: Connections, teller: Teller
) -> None:
    service.runs["r1"] = "going"
    waiting = asyncio.create_task(wait(connections, a_watch("r1", **SLOW)))
    for number in range(1, 4):
        await until(lambda: len(teller.connects) == number and teller.open)  # noqa: B023
        await streamed(teller, service)
        teller.tell("r1", *((None,) if number % 2 else (ConnectionFailed("silence", sent=True),)))
    await until(lambda: len(teller.connects) == 4)
    # What happened meanwhile is in no stream.
    await until(lambda: service.called("get"))
    service.runs["r1"] = "done"
    teller.tell("r1", NEWS)
    assert (await asyncio.wait_for(waiting, 1)).verdict is Verdict.SUCCEEDED


async def test_a_stream_that_does_not_last_is_opened_ever_more_rarely(
    service: Service, connections: Connections, teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "BROKEN_BASE", 0.1)
    monkeypatch.setattr(streaming, "BROKEN_CAP", 10.0)
    service.runs["r1"] = "going"

    async def cut() -> None:
        while True:
            for run_id in tuple(teller.open):
                teller.tell(run_id, ALIVE, None)
            await asyncio.sleep(0.01)

    waiting = asyncio.create_task(wait(connections, a_watch("r1")))
    cutting = asyncio.create_task(cut())
    await asyncio.sleep(1.5)
    assert 3 <= len(teller.connects) <= 6
    await leave(cutting)
    await end_all(service, [waiting])


async def test_the_service_may_say_how_long_to_wait(
    service: Service, connections: Connections, teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "REFUSED_CAP", 10.0)
    service.runs["r1"] = "going"
    waiting = asyncio.create_task(wait(connections, a_watch("r1")))
    await until(lambda: teller.open)
    teller.tell("r1", Retry(0.4), None)
    await until(lambda: len(teller.connects) == 2)
    assert teller.times[1] - teller.times[0] >= 0.4
    await end_all(service, [waiting])


async def test_a_run_that_has_ended_needs_no_stream(
    service: Service, connections: Connections, teller: Teller
) -> None:
    service.runs |= {"r1": "going", "r2": "going"}
    teller.errors["r1"] = ApiError("ended", status=410)
    waiting = [asyncio.create_task(wait(connections, a_watch(run_id, **SLOW))) for run_id in service.runs]
    await until(lambda: service.called("get").count("r1") == 2)
    await asyncio.sleep(0.5)
    # The service may say so of a run that goes again. The others have theirs.
    assert Counter(teller.connects) == {"r1": 1, "r2": 1}
    assert service.called("get").count("r1") == 3
    service.runs["r1"] = "done"
    await leave(waiting[1])
    await leave(waiting[0])


# Made anew for each test: an error that has been raised holds on to the event loop.
REFUSALS: dict[str, Callable[[], Exception]] = {
    "503": lambda: ApiError("too many SSE connections", status=503),
    "429": lambda: ApiError("Too Many Requests", status=429),
    "403": lambda: Unauthorized("requires runs:read", status=403),
    "401": lambda: Unauthorized("who are you", status=401),
    "404": lambda: NotFound("no such route", status=404),
    "200": lambda: ApiError("no stream of events", status=200),
    "500": lambda: ApiError("error", status=500),
    "no connection": lambda: ConnectionFailed("refused", sent=False),
    "bug": lambda: RuntimeError("a mistake of ours"),
}


@pytest.mark.parametrize("error", REFUSALS.values(), ids=REFUSALS.keys())
async def test_runs_whose_stream_is_refused_are_asked_about_as_without(
    service: Service, connections: Connections, teller: Teller, error: Callable[[], Exception]
) -> None:
    teller.refusal = error()
    service.runs |= {str(number): "going" for number in range(20)}
    told: list[Note] = []
    waiting = [asyncio.create_task(wait(connections, a_watch(run_id), told)) for run_id in service.runs]
    await asyncio.sleep(1)
    assert len(service.called("get_many")) > 10
    # The first few together, then one after the other with a pause of up to 0.2 s.
    assert streaming.OPENING < len(teller.connects) <= streaming.OPENING + 11
    teller.refusal = None
    # Until something has come through one, it may be as useless as those before.
    await until(lambda: teller.open)
    await asyncio.sleep(0.3)
    assert len(teller.open) == 1
    teller.tell(*teller.open, ALIVE)
    await until(lambda: len(teller.open) == 20)
    service.runs |= {"1": "broken", "2": "stopped"}
    service.runs |= {run_id: "done" for run_id in service.runs if run_id not in ("1", "2")}
    verdicts = Counter(outcome.verdict for outcome in await asyncio.gather(*waiting))
    assert verdicts == {Verdict.SUCCEEDED: 18, Verdict.FAILED: 1, Verdict.CANCELLED: 1}
    assert not any(note.alarming for note in told)


async def test_streams_through_which_nothing_comes_are_soon_left_alone(
    service: Service, connections: Connections, teller: Teller
) -> None:
    service.runs |= {str(number): "going" for number in range(20)}

    async def cut() -> None:
        while True:
            for run_id in tuple(teller.open):
                teller.tell(run_id, None)
            await asyncio.sleep(0.01)

    cutting = asyncio.create_task(cut())
    waiting = [asyncio.create_task(wait(connections, a_watch(run_id))) for run_id in service.runs]
    await asyncio.sleep(1)
    # The first few together, then one after the other with a pause of up to 0.2 s.
    assert streaming.OPENING <= len(teller.connects) <= 20 + 11
    await leave(cutting)
    await end_all(service, waiting)


async def test_no_stream_is_opened_before_the_service_allows_it(
    service: Service, connections: Connections, teller: Teller
) -> None:
    teller.refusal = ApiError("slow down", status=429)
    teller.refusal.retry_after = 0.5
    service.runs["r1"] = "going"
    waiting = asyncio.create_task(wait(connections, a_watch("r1")))
    await until(lambda: len(teller.connects) == 2)
    assert teller.times[1] - teller.times[0] >= 0.5
    await end_all(service, [waiting])


async def test_one_run_without_a_stream_keeps_none_from_the_others(
    service: Service, connections: Connections, teller: Teller
) -> None:
    teller.errors["young"] = NotFound("this one only", status=404)
    service.runs |= {"old": "going", "young": "going"}
    now = clock.time()
    waiting = [
        asyncio.create_task(wait(connections, a_watch("old", started_at=now - 1000))),
        asyncio.create_task(wait(connections, a_watch("young", started_at=now))),
    ]
    await until(lambda: teller.open)
    assert list(teller.open) == ["old"]
    await end_all(service, waiting)


async def test_a_mistake_in_reading_an_event_ends_no_wait(
    service: Service, connections: Connections, teller: Teller
) -> None:
    service.runs["r1"] = "going"
    waiting = asyncio.create_task(wait(connections, a_watch("r1")))
    await until(lambda: teller.open)
    teller.tell("r1", Event("message", "bug"))
    await until(lambda: len(teller.connects) == 2)
    await end_all(service, [waiting])


# How many


async def test_the_youngest_runs_have_the_streams_and_the_next_one_gets_what_is_free(
    service: Service, teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StreamApi, "max_streams", 2)
    connections = Connections(StreamApi)
    service.runs |= {f"r{age}": "going" for age in (300, 100, 500, 200, 400)}
    now = clock.time()
    waiting = {
        run_id: asyncio.create_task(
            wait(connections, a_watch(run_id, **SLOW, started_at=now - int(run_id[1:])))
        )
        for run_id in service.runs
    }
    # The first one is asked about singly, so that it may have its stream before the others are known.
    await until(lambda: len(teller.open) == 2)
    first = set(teller.open)
    assert len(first & {"r100", "r200", "r300"}) == 2 and "r100" in first
    service.runs["r100"] = "done"
    teller.tell("r100", NEWS)
    await waiting["r100"]
    await until(lambda: len(teller.connects) == 3)
    assert teller.connects[2] == ({"r200", "r300"} - first).pop()
    await asyncio.sleep(0.2)
    assert teller.most == 2 and len(teller.connects) == 3
    await leave(*waiting.values())


async def test_no_stream_is_opened_where_there_shall_be_none(
    service: Service, connections: Connections, teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StreamApi, "max_streams", 0)
    service.runs["r1"] = "going"
    waiting = asyncio.create_task(wait(connections, a_watch("r1")))
    await until(lambda: len(service.called("get")) > 5)
    assert teller.connects == []
    await end_all(service, [waiting])


async def test_a_search_has_no_stream(service: Service, connections: Connections, teller: Teller) -> None:
    service.runs["r1"] = "going"
    waiting = asyncio.create_task(wait(connections, a_search()))
    await until(lambda: len(service.called("list_runs")) > 3)
    assert teller.connects == []
    await end_all(service, [waiting])


async def test_a_run_that_has_ended_at_the_first_look_has_no_stream(
    service: Service, connections: Connections, teller: Teller
) -> None:
    service.runs["r1"] = "done"
    await wait(connections, a_watch("r1"))
    assert teller.connects == []


async def test_two_waits_for_one_run_share_a_stream(
    service: Service, connections: Connections, teller: Teller
) -> None:
    service.runs["r1"] = "going"
    waiting = [asyncio.create_task(wait(connections, a_watch("r1"))) for _ in range(3)]
    await until(lambda: teller.open)
    await leave(waiting.pop())
    await asyncio.sleep(0.1)
    assert teller.connects == ["r1"] and list(teller.open) == ["r1"]
    await end_all(service, waiting)


# The pace and outages


async def test_streams_count_in_the_cap_on_requests_and_come_last(
    service: Service, connections: Connections, teller: Teller
) -> None:
    connections.cap = 600  # ten a second, after a first burst of ten
    service.runs |= {str(number): "going" for number in range(60)}
    waiting = [asyncio.create_task(wait(connections, a_watch(run_id, **SLOW))) for run_id in service.runs]
    began = clock.monotonic()
    await asyncio.sleep(2)
    asked = len(service.called("get")) + len(service.called("get_many"))
    assert 20 <= asked + len(teller.connects) <= 10 + 10 * (clock.monotonic() - began) + 1
    assert len(teller.connects) >= 3
    await leave(*waiting)


async def test_news_do_not_break_the_cap(service: Service, connections: Connections, teller: Teller) -> None:
    connections.cap = 600
    service.runs["r1"] = "going"
    waiting = asyncio.create_task(wait(connections, a_watch("r1", **SLOW)))
    await streamed(teller, service)
    began = clock.monotonic()
    while clock.monotonic() - began < 1:
        teller.tell("r1", NEWS)
        await asyncio.sleep(0.005)
    assert 10 <= len(service.called("get")) <= 21
    await leave(waiting)


async def test_neither_streams_nor_news_bypass_the_probe_of_an_outage(
    service: Service, connections: Connections, teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.runs |= {str(number): "going" for number in range(30)}
    waiting = [asyncio.create_task(wait(connections, a_watch(run_id, **SLOW))) for run_id in service.runs]
    await until(lambda: len(teller.open) == 30)
    await asyncio.sleep(0.4)
    monkeypatch.setattr(watching, "BACKOFF_BASE", 0.2)
    monkeypatch.setattr(watching, "BACKOFF_CAP", 0.2)
    for run_id in service.runs:
        service.errors[run_id] = DOWN
    service.get_errors = [DOWN] * 1000
    for run_id in tuple(teller.open)[:15]:
        teller.tell(run_id, NEWS)
    watcher = watching._watchers[asyncio.get_running_loop()]["key"]
    await until(lambda: watcher._outage is not None)
    service.calls.clear()
    teller.connects.clear()
    for run_id in tuple(teller.open):
        teller.tell(run_id, NEWS, None)
    await asyncio.sleep(1)
    # One every 0.1 to 0.2 s, whatever the streams tell, and none of them is opened again.
    assert len(service.calls) <= 11 and teller.connects == []
    service.get_errors.clear()
    service.errors.clear()
    await until(lambda: len(teller.open) == 30)
    for run_id in tuple(teller.open):
        service.runs[run_id] = "done"
        teller.tell(run_id, NEWS)
    assert {outcome.verdict for outcome in await asyncio.gather(*waiting)} == {Verdict.SUCCEEDED}


# What is left


async def test_nothing_is_left_of_a_stream_whose_wait_is_over(
    service: Service, connections: Connections, teller: Teller
) -> None:
    service.runs |= {f"r{number}": "going" for number in range(10)}
    waiting = [asyncio.create_task(wait(connections, a_watch(run_id))) for run_id in service.runs]
    await until(lambda: len(teller.open) == 10)
    await leave(*waiting[:4])
    await until(lambda: len(teller.open) == 6)
    service.runs["r4"] = "done"
    await waiting[4]
    await until(lambda: len(teller.open) == 5)
    service.runs |= dict.fromkeys(service.runs, "done")
    await asyncio.gather(*waiting[5:])
    assert teller.open == {} and len(asyncio.all_tasks()) == 1


def test_a_loop_that_ends_leaves_no_stream(
    service: Service, connections: Connections, teller: Teller
) -> None:
    service.runs["r1"] = "going"

    async def begin() -> asyncio.Task[Outcome]:
        waiting = asyncio.create_task(wait(connections, a_watch("r1")))
        await until(lambda: teller.open)
        return waiting

    assert asyncio.run(begin()).cancelled()
    assert teller.open == {}


async def test_a_stream_that_is_being_opened_is_given_up_with_the_wait(
    service: Service, connections: Connections, teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = 0

    class Driver(watching.AsyncDriver):
        async def stream_events(self, request: Request, **kwargs: Any) -> AsyncGenerator[Frame, None]:
            nonlocal opening
            opening += 1
            try:
                await asyncio.sleep(60)
            finally:
                opening -= 1
            yield NEWS

    monkeypatch.setattr(watching, "AsyncDriver", Driver)
    service.runs |= {f"r{number}": "going" for number in range(20)}
    waiting = [asyncio.create_task(wait(connections, a_watch(run_id))) for run_id in service.runs]
    await until(lambda: opening == streaming.OPENING)
    await asyncio.sleep(0.1)
    assert opening == streaming.OPENING
    await end_all(service, waiting)
    assert opening == 0 and len(asyncio.all_tasks()) == 1


async def test_streams_follow_a_changed_connection(
    service: Service, connections: Connections, teller: Teller
) -> None:
    service.runs["r1"] = "going"
    waiting = asyncio.create_task(wait(connections, a_watch("r1")))
    await until(lambda: teller.open)
    connections.host = "http://other"
    service.get_errors = [Unauthorized("no", status=401)]
    await until(lambda: len(teller.drivers) == 2 and teller.open)
    assert [driver.api.settings.base_url for driver in teller.drivers] == ["http://fake", "http://other"]
    await end_all(service, [waiting])


# Over a network


class Server:
    """A service with runs that can be asked about, and a stream for each."""

    def __init__(self) -> None:
        self.statuses: dict[str, str] = {}
        self.streams: dict[str, web.StreamResponse] = {}
        self.asked = 0
        self.handlers = 0

    async def get(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.json_response({"status": self.statuses[request.match_info["run"]]})

    async def stream(self, request: web.Request) -> web.StreamResponse:
        run_id = request.match_info["run"]
        self.handlers += 1
        try:
            answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await answer.prepare(request)
            await answer.write(b": welcome\n\n")
            self.streams[run_id] = answer
            await asyncio.sleep(60)
            return answer
        finally:
            self.handlers -= 1


class NetApi(StreamApi):
    """One that is asked over a network."""

    batch_size = 1

    def get(self, run_id: str) -> Flow[Run]:
        answer = yield Request("GET", f"{self.settings.base_url}/runs/{run_id}", safe_to_repeat=True)
        status = answer.text.split('"')[3]
        return Run(run_id, self.statuses.state(status), status)

    def get_many(self, run_ids: Any) -> Flow[dict[str, Run | Exception]]:
        found: dict[str, Run | Exception] = {}
        for run_id in run_ids:
            found[run_id] = yield from self.get(run_id)
        return found

    def stream_request(self, run_id: str) -> Request:
        return Request("GET", f"{self.settings.base_url}/runs/{run_id}/stream")


async def test_many_streams_over_a_network_leave_room_for_the_looks(service: Service) -> None:
    server = Server()
    server.statuses = {str(number): "going" for number in range(60)}
    app = web.Application()
    app.router.add_get("/runs/{run}", server.get)
    app.router.add_get("/runs/{run}/stream", server.stream)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        connections = Connections(NetApi)
        connections.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
        waiting = [
            asyncio.create_task(wait(connections, a_watch(run_id, **SLOW))) for run_id in server.statuses
        ]
        await until(lambda: len(server.streams) == 60)
        await asyncio.sleep(0.3)
        before, began = server.asked, clock.monotonic()
        for run_id, answer in server.streams.items():
            server.statuses[run_id] = "done"
            await answer.write(b"data: news\n\n")
        outcomes = await asyncio.wait_for(asyncio.gather(*waiting), 5)
        assert {outcome.verdict for outcome in outcomes} == {Verdict.SUCCEEDED}
        assert server.asked - before <= 2 * 60
        assert clock.monotonic() - began < 5
        await until(lambda: server.handlers == 0)
        assert len([task for task in asyncio.all_tasks() if "Watcher" in repr(task)]) == 0
    finally:
        await runner.cleanup()
