from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from airflow_provider_runs.base import channel, poller, subscriptions
from airflow_provider_runs.base.channel import REREAD_SECONDS
from airflow_provider_runs.base.poller import CONCURRENCY, RunPoller, wait_for_run
from airflow_provider_runs.base.subscriptions import MAX_STALE
from airflow_provider_runs.core import clock, outage
from airflow_provider_runs.core.connection import Settings
from airflow_provider_runs.core.drivers import AsyncDriver
from airflow_provider_runs.core.errors import (
    ApiError,
    BadInput,
    ConnectionFailed,
    ConnectionUnreadable,
    NotFound,
    Unauthorized,
)
from airflow_provider_runs.core.http import Flow, Request, Response
from airflow_provider_runs.core.outcome import Limit, Outcome, Verdict
from airflow_provider_runs.core.poll_queue import PollQueue
from airflow_provider_runs.core.progress import Note, Watch
from airflow_provider_runs.core.run import Run
from tests.base import fakes
from tests.base.fakes import FakeApi, FullApi, Service
from tests.virtual import VirtualClock

DOWN = ConnectionFailed("down", sent=False)
SLOW = {"min_poll_interval": 5.0, "poll_interval": 5.0}


class Connections:
    """Counts how often the connection is read."""

    def __init__(self, api_class: type[FakeApi] = FakeApi) -> None:
        self.api_class = api_class
        self.reads = 0
        self.host = "http://fake"
        self.error: Exception | None = None
        self.cap: int | None = None

    async def read(self) -> FakeApi:
        self.reads += 1
        if self.error is not None:
            raise self.error
        extra = {"max_requests_per_minute": self.cap} if self.cap else {}
        return self.api_class(Settings("c", self.host, extra=extra))


@pytest.fixture
def connections() -> Connections:
    return Connections()


def a_watch(run_id: str, **changes: Any) -> Watch:
    return Watch(**{"run_id": run_id, "poll_interval": 0.05, "min_poll_interval": 0.01, **changes})


async def wait(
    connections: Connections, watch: Watch, told: list[Note] | None = None, key: Any = "key"
) -> Outcome:
    notes = told if told is not None else []
    return await asyncio.wait_for(wait_for_run(key, connections.read, watch, "Fake", notes.append), 4000)


def begin(service: Service, connections: Connections, **changes: Any) -> list[asyncio.Task[Outcome]]:
    """Begin to wait for every run."""
    return [asyncio.create_task(wait(connections, a_watch(run_id, **changes))) for run_id in service.runs]


async def all_succeed(service: Service, waiting: Sequence[asyncio.Task[Outcome]]) -> None:
    """End every run well, and see that every wait for one says so."""
    service.runs = dict.fromkeys(service.runs, "done")
    assert {outcome.verdict for outcome in await asyncio.gather(*waiting)} == {Verdict.SUCCEEDED}


def the_poller() -> RunPoller:
    return poller._pollers[asyncio.get_running_loop()]["key"]


async def until(question: Callable[[], Any]) -> None:
    end = clock.monotonic() + 300
    while not question():
        assert clock.monotonic() < end
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("status", "verdict"),
    [("done", Verdict.SUCCEEDED), ("broken", Verdict.FAILED), ("stopped", Verdict.CANCELLED)],
)
async def test_an_ended_run_ends_the_wait(
    service: Service, connections: Connections, status: str, verdict: Verdict
) -> None:
    service.runs["r1"] = status
    outcome = await wait(connections, a_watch("r1"))
    assert (outcome.verdict, outcome.run_id, outcome.status) == (verdict, "r1", status)
    assert service.called("get") == ["r1"]


async def test_a_run_is_asked_about_until_it_ends_and_each_change_is_told(
    service: Service, connections: Connections
) -> None:
    service.runs["r1"] = "waiting"
    notes: list[Note] = []
    waiting = asyncio.create_task(wait(connections, a_watch("r1"), notes))
    await until(lambda: len(service.called("get")) > 3)
    service.runs["r1"] = "going"
    await until(lambda: len(notes) == 2)
    service.runs["r1"] = "done"
    assert (await waiting).verdict is Verdict.SUCCEEDED
    assert [note.text.split(" ")[:4] for note in notes] == [
        ["Run", "r1", "is", "waiting"],
        ["Run", "r1", "is", "going"],
        ["Run", "r1", "is", "done"],
    ]


async def test_two_waits_for_one_run_ask_once(service: Service, connections: Connections) -> None:
    service.runs["r1"] = "done"
    outcomes = await asyncio.gather(*(wait(connections, a_watch("r1")) for _ in range(5)))
    assert {outcome.verdict for outcome in outcomes} == {Verdict.SUCCEEDED}
    assert service.called("get") == ["r1"]


async def test_a_second_wait_for_a_slowly_watched_run_has_it_looked_at_at_once(
    service: Service, connections: Connections
) -> None:
    service.runs["r1"] = "going"
    slow = asyncio.create_task(wait(connections, a_watch("r1", min_poll_interval=60, poll_interval=60)))
    await until(lambda: service.called("get"))
    service.runs["r1"] = "done"
    assert (await wait(connections, a_watch("r1"))).verdict is Verdict.SUCCEEDED
    assert (await slow).verdict is Verdict.SUCCEEDED


async def test_a_run_that_was_just_started_is_not_looked_at_before_its_first_interval_is_over(
    service: Service, connections: Connections
) -> None:
    now = clock.time()
    ages = {"alone": 0.0, "young": 0.0, "of unknown age": None, "old": 5.0}
    waiting = []
    for name, age in ages.items():
        service.runs[name] = "going"
        started_at = None if age is None else now - age
        watch = a_watch(name, min_poll_interval=1, poll_interval=1, started_at=started_at)
        waiting.append(asyncio.create_task(wait(connections, watch)))
    await until(lambda: len(service.called("get")) == 3)
    # The first of all shows whether the connection works.
    assert set(service.called("get")) == {"alone", "of unknown age", "old"}
    assert clock.time() - now < 0.5
    service.runs.update(dict.fromkeys(ages, "done"))
    await asyncio.gather(*waiting)
    assert clock.time() - now < 2
    assert Counter(service.called("get")) == {"alone": 2, "of unknown age": 2, "old": 2, "young": 1}


async def test_all_waits_of_a_connection_read_it_once(service: Service, connections: Connections) -> None:
    for number in range(50):
        service.runs[str(number)] = "done"
    await asyncio.gather(*(wait(connections, a_watch(str(number))) for number in range(50)))
    assert connections.reads == 1


async def test_the_last_to_leave_closes_and_the_next_starts_anew(
    service: Service, connections: Connections
) -> None:
    service.runs |= {"r1": "done", "r2": "going"}
    other = asyncio.create_task(wait(connections, a_watch("r2")))
    await wait(connections, a_watch("r1"))
    assert connections.reads == 1
    service.runs["r2"] = "done"
    await other
    await wait(connections, a_watch("r1"))
    assert connections.reads == 2
    assert poller._pollers[asyncio.get_running_loop()] == {}
    assert channel._channels[asyncio.get_running_loop()] == {}
    assert len(asyncio.all_tasks()) == 1


async def test_a_cancelled_wait_leaves_the_others_alone(service: Service, connections: Connections) -> None:
    service.runs |= {"r1": "going", "r2": "going"}
    first = asyncio.create_task(wait(connections, a_watch("r1")))
    second = asyncio.create_task(wait(connections, a_watch("r2")))
    await until(lambda: len(service.called("get")) >= 2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    service.calls.clear()
    service.runs["r2"] = "done"
    assert (await second).verdict is Verdict.SUCCEEDED
    assert "r1" not in service.called("get")


async def test_a_batch_names_no_run_twice_that_is_twice_due_at_one_moment(service: Service) -> None:
    service.runs |= {f"r{number}": "going" for number in range(10)}
    connections = Connections(FullApi)
    pace = {"poll_interval": 0.3, "min_poll_interval": 0.3}
    waits = [asyncio.create_task(wait(connections, a_watch(run_id, **pace))) for run_id in service.runs]
    await until(lambda: service.called("get_many"))
    polled = the_poller()._subscriptions._runs.values()
    await until(lambda: all(run.due is not None for run in polled))
    for run in polled:
        the_poller()._schedule(run, run.due)  # type: ignore[arg-type]
    before = len(service.called("get_many"))
    await until(lambda: len(service.called("get_many")) > before)
    service.runs |= dict.fromkeys(service.runs, "done")
    await asyncio.gather(*waits)
    assert all(len(set(asked)) == len(asked) for asked in service.called("get_many"))


async def test_keys_have_pollers_of_their_own(service: Service, connections: Connections) -> None:
    service.runs |= {"r1": "done", "r2": "done"}
    await asyncio.gather(wait(connections, a_watch("r1"), key="a"), wait(connections, a_watch("r2"), key="b"))
    assert connections.reads == 2


def test_a_new_event_loop_has_a_new_poller_and_the_old_loop_is_forgotten(
    service: Service, connections: Connections
) -> None:
    service.runs["r1"] = "done"
    gc.collect()
    before = len(poller._pollers)  # of other tests' helper threads
    for _ in range(3):
        assert asyncio.run(wait(connections, a_watch("r1"))).verdict is Verdict.SUCCEEDED
    gc.collect()
    assert len(poller._pollers) <= before + 1


async def test_notes_arrive_in_the_context_of_who_waits(service: Service, connections: Connections) -> None:
    service.runs |= {"a": "going", "b": "going"}
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
    heard: dict[str, set[str]] = {"a": set(), "b": set()}

    async def one(name: str) -> None:
        who.set(name)
        tell = lambda note: heard[name].add(who.get())  # noqa: E731
        await wait_for_run("key", connections.read, a_watch(name), "Fake", tell)

    waiting = [asyncio.create_task(one(name)) for name in "ab"]
    await until(lambda: all(heard.values()))
    service.runs |= {"a": "done", "b": "done"}
    await asyncio.gather(*waiting)
    assert heard == {"a": {"a"}, "b": {"b"}}


async def test_many_runs_are_asked_about_in_batches(service: Service) -> None:
    connections = Connections(FullApi)
    for number in range(120):
        service.runs[str(number)] = "going"
    waiting = begin(service, connections)
    await until(lambda: sum(len(ids) for ids in service.called("get_many")) >= 360)
    for run_id in service.runs:
        service.runs[run_id] = "done"
    outcomes = await asyncio.gather(*waiting)
    assert {outcome.verdict for outcome in outcomes} == {Verdict.SUCCEEDED}
    assert max(len(ids) for ids in service.called("get_many")) == FullApi.batch_size
    # Which polls come alone, chance says: few.
    assert len(service.called("get")) * 10 <= sum(len(ids) for ids in service.called("get_many"))


async def test_what_a_batch_does_not_answer_is_asked_about_singly(service: Service) -> None:
    connections = Connections(FullApi)
    for number in range(20):
        service.runs[str(number)] = "done"
    service.silent_about = {"3", "4", "5", "6", "7"}
    outcomes = await asyncio.gather(*(wait(connections, a_watch(str(n))) for n in range(20)))
    assert {outcome.verdict for outcome in outcomes} == {Verdict.SUCCEEDED}
    assert service.silent_about <= set(service.called("get"))


async def test_one_run_that_cannot_be_asked_about_spoils_no_other(service: Service) -> None:
    connections = Connections(FullApi)
    for number in range(20):
        service.runs[str(number)] = "done"
    service.errors["7"] = ApiError("odd", status=500)
    bad = asyncio.create_task(wait(connections, a_watch("7", unreachable_timeout=0.3)))
    outcomes = await asyncio.gather(*(wait(connections, a_watch(str(n))) for n in range(20) if n != 7))
    assert {outcome.verdict for outcome in outcomes} == {Verdict.SUCCEEDED}
    outcome = await bad
    assert outcome.verdict is Verdict.UNREACHABLE
    assert "odd" in (outcome.message or "")


async def test_an_outage_is_ridden_out_and_told_once_at_each_end(
    service: Service, connections: Connections
) -> None:
    for number in range(30):
        service.runs[str(number)] = "going"
    notes: list[list[Note]] = [[] for _ in range(30)]
    waiting = [
        asyncio.create_task(wait(connections, a_watch(str(number)), notes[number])) for number in range(30)
    ]
    await until(lambda: all(notes))
    service.get_errors = [DOWN] * 12
    await until(lambda: not service.get_errors)
    await until(lambda: all(any("asked again" in note.text for note in told) for told in notes))
    await all_succeed(service, waiting)
    for told in notes:
        assert sum(note.alarming for note in told) == 1
        assert sum("asked again" in note.text for note in told) == 1


async def test_an_outage_is_told_to_a_few_waits_in_each_turn_of_the_event_loop(
    service: Service, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "DELIVERED_AT_ONCE", 5)
    # Long enough for all to be told of the outage.
    for module in (poller, outage):
        monkeypatch.setattr(module, "backoff_seconds", lambda *arguments: 0.3)
    loop = asyncio.get_running_loop()
    turn, is_counted, told = 0, False, Counter[tuple[str, int]]()

    def next_turn() -> None:
        nonlocal turn, is_counted
        turn, is_counted = turn + 1, False

    def tell(note: Note) -> None:
        nonlocal is_counted
        if not is_counted:
            is_counted = True
            loop.call_soon(next_turn)
        for part in ("cannot be asked", "can be asked again"):
            told[part, turn] += part in note.text

    service.runs |= {str(number): "going" for number in range(100)}
    slow = {"poll_interval": 10.0, "min_poll_interval": 10.0}
    waiting = [
        asyncio.create_task(wait_for_run("key", connections.read, a_watch(run_id, **slow), "Fake", tell))
        for run_id in service.runs
    ]
    await until(lambda: len(service.called("get")) == 100)
    service.get_errors = [DOWN] * 3
    late = {str(number): "going" for number in range(100, 103)}
    service.runs |= late
    waiting += [
        asyncio.create_task(wait_for_run("key", connections.read, a_watch(run_id), "Fake", tell))
        for run_id in late
    ]

    def turns(part: str) -> list[int]:
        return [count for (said, _), count in told.items() if said == part and count]

    await until(lambda: sum(turns("can be asked again")) >= 100)
    for part in ("cannot be asked", "can be asked again"):
        assert sum(turns(part)) >= 100 and max(turns(part)) <= 10
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_an_outage_is_probed_by_one_request_at_a_time(
    service: Service, connections: Connections
) -> None:
    for number in range(100):
        service.runs[str(number)] = "going"
        service.errors[str(number)] = DOWN
    waiting = begin(service, connections)
    await asyncio.sleep(300)
    # Singly in the beginning, as the connection is not known to work; then ever more rarely, up to every 15
    # to 30 s.
    assert len(service.called("get")) <= 30
    service.errors.clear()
    await all_succeed(service, waiting)


async def test_requests_that_are_cut_together_do_not_make_the_first_probe_wait_longer(
    service: Service, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, answering, hanging = asyncio.Event(), True, 0

    class Driver(AsyncDriver):
        async def _send(self, send: Any) -> Any:
            nonlocal hanging
            if answering:
                return Response(200)
            hanging += 1
            await cut.wait()
            return DOWN

    got = FakeApi.get

    def get(self: FakeApi, run_id: str) -> Flow[Run]:
        yield Request("GET", "http://fake")
        return (yield from got(self, run_id))

    monkeypatch.setattr(FakeApi, "get", get)
    monkeypatch.setattr(channel, "AsyncDriver", Driver)
    service.runs |= {str(number): "going" for number in range(20)}
    waiting = [
        asyncio.create_task(wait(connections, a_watch(str(number), poll_interval=0.02)))
        for number in range(20)
    ]
    await until(lambda: len(service.called("get")) >= 40)
    answering = False
    await until(lambda: hanging == CONCURRENCY)
    service.calls.clear()
    answering = True
    began = clock.monotonic()
    cut.set()
    await until(lambda: service.called("get"))
    assert 0.5 <= clock.monotonic() - began < 1.1
    service.runs |= {str(number): "done" for number in range(20)}
    assert {outcome.verdict for outcome in await asyncio.gather(*waiting)} == {Verdict.SUCCEEDED}


async def test_a_poll_without_an_end_is_a_poll_in_vain(
    service: Service, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[float] = []

    class Driver(AsyncDriver):
        async def _send(self, send: Any) -> Any:
            sent.append(clock.monotonic())
            await asyncio.sleep(0.1)
            return Response(200)

    def get(self: FakeApi, run_id: str) -> Flow[Run]:
        while True:
            yield Request("GET", "http://fake")

    monkeypatch.setattr(channel, "AsyncDriver", Driver)
    monkeypatch.setattr(FakeApi, "get", get)
    connections.cap = 60
    began, told = clock.monotonic(), list[Note]()
    waits = [wait(connections, a_watch(f"r{n}", unreachable_timeout=20), told) for n in range(7)]
    outcomes = await asyncio.gather(*waits)
    assert {outcome.verdict for outcome in outcomes} == {Verdict.UNREACHABLE}
    assert all("whole poll" in (outcome.message or "") for outcome in outcomes)
    # The cap holds for the pages, and each poll ends after two minutes.
    lasted = clock.monotonic() - began
    assert 120 <= lasted < 500
    assert len(sent) <= 60 * lasted / 60 + 10
    assert any("cannot be asked" in note.text for note in told)


async def test_a_wait_that_begins_in_an_outage_is_told_of_it_at_once(
    service: Service, connections: Connections
) -> None:
    service.runs |= {f"r{n}": "going" for n in range(5)}
    service.errors = dict.fromkeys(service.runs, DOWN)
    waiting = begin(service, connections)
    await until(lambda: poller._pollers.get(asyncio.get_running_loop()))
    await until(lambda: the_poller()._channel.detector.outage)
    told: list[Note] = []
    late = asyncio.create_task(wait(connections, a_watch("r4"), told))
    await until(lambda: told)
    assert "cannot be asked about run r4: down" in told[0].text
    service.errors.clear()
    service.runs = dict.fromkeys(service.runs, "done")
    assert {each.verdict for each in await asyncio.gather(late, *waiting)} == {Verdict.SUCCEEDED}


async def test_a_key_that_is_refused_is_tried_seldom(service: Service, connections: Connections) -> None:
    service.runs |= {f"r{n}": "going" for n in range(50)}
    waiting = begin(service, connections)
    await until(lambda: len(service.called("get")) >= 100)
    service.get_errors = [Unauthorized("the key is not good", status=401) for _ in range(1000)]
    service.calls.clear()
    tried = []
    for seconds in (14, 14, 100, 60):
        await asyncio.sleep(seconds)
        tried.append(len(service.called("get")))
    first = tried[0]
    assert first <= CONCURRENCY
    assert tried == [first, first + 1, first + 1, first + 2]  # after 15 and 135 s
    service.get_errors.clear()
    connections.host = "http://other"
    await until(lambda: len(service.called("get")) > first + 2)
    await all_succeed(service, waiting)


def sends(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.05) -> None:
    """Have each poll of a run take a request, which takes its time."""

    class Driver(AsyncDriver):
        async def _send(self, send: Any) -> Any:
            await asyncio.sleep(seconds)
            return Response(200, body=b"{}")

    def get(self: FakeApi, run_id: str) -> Flow[Run]:
        yield Request("GET", "http://fake")
        return self.run(run_id)

    monkeypatch.setattr(channel, "AsyncDriver", Driver)
    monkeypatch.setattr(FakeApi, "get", get)


async def test_pages_have_their_turn_beside_more_runs_than_the_cap_allows(
    service: Service, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends(monkeypatch)
    connections.cap = 300
    service.runs |= {f"r{n}": "going" for n in range(60)}
    pace = {"poll_interval": 0.1, "min_poll_interval": 0.1}
    waiting = begin(service, connections, **pace)
    await asyncio.sleep(5)

    def pages(api: Any) -> Flow[None]:
        for _ in range(10):
            yield Request("GET", "http://fake")

    began = clock.monotonic()
    await the_poller()._channel.send(pages)
    # Every second slot: five of them are there in a second.
    assert clock.monotonic() - began <= 10 * 2 / 5 + 1
    await all_succeed(service, waiting)


async def test_what_was_known_of_an_outage_does_not_outlive_its_waits(
    service: Service, connections: Connections
) -> None:
    # An event trigger keeps the channel open.
    kept = channel.open_channel("key", connections.read)
    service.runs = {f"r{n}": "going" for n in range(5)}
    service.errors = dict.fromkeys(service.runs, DOWN)
    waiting = begin(service, connections)
    await until(lambda: kept.detector.outage)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    service.errors.clear()
    service.runs["new"] = "done"
    told: list[Note] = []
    began = clock.monotonic()
    assert (await wait(connections, a_watch("new"), told)).verdict is Verdict.SUCCEEDED
    assert clock.monotonic() - began < 0.1
    assert not any(note.alarming for note in told)
    await channel.leave_channel("key", kept)
    assert channel._channels[asyncio.get_running_loop()] == {}


async def test_a_wait_that_is_cancelled_twice_leaves_nothing_open(
    service: Service, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = RunPoller.stop

    async def slowly(self: RunPoller) -> None:
        await asyncio.sleep(1)
        await stop(self)

    monkeypatch.setattr(RunPoller, "stop", slowly)
    service.runs["r1"] = "going"
    waiting = asyncio.create_task(
        wait_for_run("key", connections.read, a_watch("r1"), "Fake", lambda note: None)
    )
    await until(lambda: service.called("get"))
    stopped = the_poller()
    # As Airflow 3.3 does each second.
    for _ in range(2):
        waiting.cancel()
        await asyncio.sleep(0.1)
    await asyncio.gather(waiting, return_exceptions=True)
    assert channel._channels[asyncio.get_running_loop()] == {}
    await stop(stopped)


async def test_the_session_of_a_connection_that_has_changed_is_closed(
    service: Service, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    close = AsyncDriver.close

    async def noted(driver: AsyncDriver) -> None:
        closed.append(driver.api.settings.base_url)
        await close(driver)

    monkeypatch.setattr(AsyncDriver, "close", noted)
    service.runs |= {f"r{n}": "going" for n in range(3)}
    waiting = begin(service, connections)
    for host in ("http://second", "http://third"):
        asked = len(service.called("get"))
        await until(lambda asked=asked: len(service.called("get")) > asked + 5)
        connections.host = host
        the_poller()._channel.reread()
        await until(lambda host=host: the_poller()._channel.api.settings.base_url == host)  # type: ignore[union-attr]
    await until(lambda: len(closed) == 2)
    assert closed == ["http://fake", "http://second"]
    service.runs = dict.fromkeys(service.runs, "done")
    await asyncio.gather(*waiting)
    assert closed == ["http://fake", "http://second", "http://third"]


async def test_a_batch_whose_runs_are_refused_has_the_connection_read_again(service: Service) -> None:
    connections = Connections(FullApi)
    service.runs |= {f"r{n}": "going" for n in range(10)}
    service.errors = {run_id: Unauthorized("not yours", status=403) for run_id in service.runs}
    waiting = begin(service, connections)
    await until(lambda: connections.reads > 2)
    service.errors.clear()
    await all_succeed(service, waiting)


@pytest.mark.real_time
async def test_a_poller_sleeps_from_one_poll_to_the_next(
    service: Service, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns, collect_due = [], PollQueue.collect_due

    def counted(queue: PollQueue[Any], now: float, share: float | None) -> None:
        turns.append(now)
        collect_due(queue, now, share)

    monkeypatch.setattr(PollQueue, "collect_due", counted)
    service.runs |= {f"r{n}": "going" for n in range(20)}
    pace = {"poll_interval": 0.05, "min_poll_interval": 0.05}
    waiting = begin(service, connections, **pace)
    await until(lambda: len(service.called("get")) >= 200)
    asked = len(service.called("get"))
    service.runs = dict.fromkeys(service.runs, "done")
    await asyncio.gather(*waiting)
    # A turn for each poll that becomes due, and for each that ends while others are ready.
    assert len(turns) <= 4 * asked + 100


async def test_a_wait_ends_as_unreachable_after_its_own_time(
    service: Service, connections: Connections
) -> None:
    service.runs["r1"] = "going"
    service.errors["r1"] = DOWN
    outcome = await wait(connections, a_watch("r1", unreachable_timeout=0.2))
    assert outcome.verdict is Verdict.UNREACHABLE
    assert "no verdict on the run" in (outcome.message or "")


async def test_runs_that_an_outage_keeps_waiting_are_unreachable_in_time_too(
    service: Service, connections: Connections
) -> None:
    for number in range(40):
        service.runs[str(number)] = "going"
        service.errors[str(number)] = DOWN
    began = clock.monotonic()
    outcomes = await asyncio.gather(
        *(wait(connections, a_watch(str(number), unreachable_timeout=0.5)) for number in range(40))
    )
    assert {outcome.verdict for outcome in outcomes} == {Verdict.UNREACHABLE}
    assert clock.monotonic() - began < 2


async def test_one_run_that_cannot_be_asked_about_is_unreachable_though_another_is_fine(
    service: Service, connections: Connections
) -> None:
    service.runs |= {"good": "going", "bad": "going"}
    service.errors["bad"] = ApiError("500 for this run only", status=500)
    told: list[Note] = []
    good = asyncio.create_task(wait(connections, a_watch("good"), told))
    outcome = await asyncio.wait_for(wait(connections, a_watch("bad", unreachable_timeout=0.5)), 3)
    assert outcome.verdict is Verdict.UNREACHABLE
    service.runs["good"] = "done"
    assert (await good).verdict is Verdict.SUCCEEDED
    assert not any(note.alarming for note in told)


async def test_looks_that_make_no_sense_end_no_other_wait(service: Service) -> None:
    service.runs["r1"] = "going"
    connections = Connections(FullApi)
    slow = {"poll_interval": 30.0, "min_poll_interval": 30.0}
    healthy = asyncio.create_task(wait(connections, a_watch("r1", **slow)))
    await until(lambda: service.called("get"))
    service.list_errors = [BadInput("no such filter") for _ in range(3)]
    searches = [a_watch(f"s{number}", search={"since": 0.0}) for number in range(3)]
    outcomes = await asyncio.gather(*(wait(connections, search) for search in searches))
    assert {outcome.verdict for outcome in outcomes} == {Verdict.UNREACHABLE}
    assert service.list_errors == []
    await asyncio.sleep(0.05)
    assert not healthy.done()
    healthy.cancel()
    await asyncio.gather(healthy, return_exceptions=True)


async def test_one_failed_batch_is_no_outage(service: Service) -> None:
    connections = Connections(FullApi)
    for number in range(50):
        service.runs[str(number)] = "going"
    told: list[Note] = []
    waiting = [asyncio.create_task(wait(connections, a_watch(str(n)), told)) for n in range(50)]
    await until(lambda: service.called("get_many"))
    service.get_errors = [DOWN]
    await until(lambda: not service.get_errors)
    for run_id in service.runs:
        service.runs[run_id] = "done"
    await asyncio.gather(*waiting)
    assert not any(note.alarming for note in told)


@pytest.mark.parametrize("error", [NotFound("one of them", status=404), BadInput("one of them")])
async def test_a_batch_that_one_id_spoils_is_asked_about_singly(service: Service, error: Exception) -> None:
    class Spoiled(FullApi):
        def get_many(self, run_ids: Sequence[str]) -> Flow[dict[str, Run | Exception]]:
            yield from ()
            raise error

    connections = Connections(Spoiled)
    for number in range(20):
        service.runs[str(number)] = "going"
    waiting = begin(service, connections)
    await until(lambda: set(service.called("get")) == set(service.runs))
    await all_succeed(service, waiting)


async def test_waits_that_are_over_leave_nothing_behind(service: Service, connections: Connections) -> None:
    service.runs |= {"long": "going", "short": "done"}
    far = {"wait_deadline": clock.time() + 7 * 86400}
    long = asyncio.create_task(wait(connections, a_watch("long", **far)))
    for _ in range(300):
        await wait(connections, a_watch("short", **far))
    assert len(the_poller()._subscriptions._deadlines) <= 2 + MAX_STALE + 1
    service.runs["long"] = "done"
    await long


async def test_a_poll_that_is_cancelled_from_within_is_one_that_failed(
    service: Service, connections: Connections
) -> None:
    service.runs["r1"] = "done"
    read = connections.read

    async def cancelled_once() -> FakeApi:
        if connections.reads == 0:
            connections.reads += 1
            raise asyncio.CancelledError
        return await read()

    connections.read = cancelled_once  # type: ignore[method-assign]
    assert (await wait(connections, a_watch("r1"))).verdict is Verdict.SUCCEEDED


async def test_an_answer_of_a_wrong_kind_ends_every_wait_with_an_error(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections = Connections(FullApi)
    for number in range(8):
        service.runs[str(number)] = "going"

    def get_many(self: FullApi, run_ids: Any) -> Any:
        yield from ()
        return list(run_ids)

    monkeypatch.setattr(FullApi, "get_many", get_many)
    ended = await asyncio.gather(
        *(wait(connections, a_watch(str(number))) for number in range(8)), return_exceptions=True
    )
    assert {type(error) for error in ended} == {AttributeError}


async def test_a_poller_that_is_cancelled_from_outside_leaves_nobody_waiting(
    service: Service, connections: Connections
) -> None:
    service.runs["r1"] = "going"
    waiting = asyncio.create_task(wait(connections, a_watch("r1")))
    await until(lambda: service.called("get"))
    the_poller()._task.cancel()
    with pytest.raises(RuntimeError, match="has ended"):
        await waiting
    service.runs["r1"] = "done"
    assert (await wait(connections, a_watch("r1"))).verdict is Verdict.SUCCEEDED


async def test_a_clock_that_was_wrong_when_the_poller_began_ends_no_wait_too_soon(
    service: Service, connections: Connections, virtual: VirtualClock
) -> None:
    service.runs |= {"old": "going", "new": "going"}
    virtual.set_time(clock.time() + 3600)
    old = asyncio.create_task(wait(connections, a_watch("old")))
    await until(lambda: service.called("get"))
    virtual.set_time(clock.time() - 3600)
    new = asyncio.create_task(wait(connections, a_watch("new", execution_deadline=clock.time() + 1800)))
    await until(lambda: service.called("get").count("new") > 3)
    assert not new.done()
    service.runs |= {"old": "done", "new": "done"}
    assert {(await task).verdict for task in (old, new)} == {Verdict.SUCCEEDED}


async def test_retry_after_holds_every_request_back(service: Service, connections: Connections) -> None:
    service.runs |= {"r1": "done", "r2": "done"}
    busy = ApiError("slow down", status=429)
    busy.retry_after = 0.4
    service.get_errors = [busy]
    began = clock.monotonic()
    await asyncio.gather(wait(connections, a_watch("r1")), wait(connections, a_watch("r2")))
    assert clock.monotonic() - began >= 0.4


async def test_the_cap_on_requests_holds(service: Service, connections: Connections) -> None:
    connections.cap = 600  # ten a second, after a first burst
    for number in range(30):
        service.runs[str(number)] = "going"
    waiting = begin(service, connections)
    await asyncio.sleep(1.5)
    asked = len(service.called("get"))
    for run_id in service.runs:
        service.runs[run_id] = "done"
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert 15 <= asked <= 28


async def test_every_request_of_a_look_counts_in_the_cap(
    service: Service, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[float] = []

    class Driver(AsyncDriver):
        async def _send(self, send: Any) -> Any:
            sent.append(clock.monotonic())
            return DOWN if len(sent) % 2 else Response(200)

    def get(self: FakeApi, run_id: str) -> Any:
        for _ in range(5):
            with contextlib.suppress(ConnectionFailed):
                yield Request("GET", "http://fake")
        return self.run(run_id)

    monkeypatch.setattr(channel, "AsyncDriver", Driver)
    monkeypatch.setattr(FakeApi, "get", get)
    connections.cap = 600  # ten a second, after a first burst
    service.runs |= {str(number): "going" for number in range(10)}
    began = clock.monotonic()
    waiting = begin(service, connections)
    await asyncio.sleep(3)
    assert 25 <= len(sent) <= 10 + 10 * (clock.monotonic() - began)
    service.runs = dict.fromkeys(service.runs, "done")
    assert (await asyncio.wait_for(waiting[0], 10)).verdict is Verdict.SUCCEEDED
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_the_run_is_looked_at_for_a_last_time_at_the_deadline(
    service: Service, connections: Connections
) -> None:
    service.runs["r1"] = "going"
    began = clock.time()
    slow = a_watch("r1", min_poll_interval=60, poll_interval=60, wait_deadline=began + 0.4)
    waiting = asyncio.create_task(wait(connections, slow))
    await asyncio.sleep(0.2)
    service.runs["r1"] = "done"
    assert (await waiting).verdict is Verdict.SUCCEEDED
    assert len(service.called("get")) == 2


@pytest.mark.parametrize(
    ("name", "which"),
    [("wait_deadline", Limit.TIMEOUT), ("execution_deadline", Limit.EXECUTION_TIMEOUT)],
)
async def test_a_deadline_ends_the_wait(
    service: Service, connections: Connections, name: str, which: Limit
) -> None:
    service.runs["r1"] = "going"
    outcome = await wait(connections, a_watch("r1", **{name: clock.time() + 0.2}))
    assert (outcome.verdict, outcome.which, outcome.status) == (Verdict.TIMEOUT, which, "going")


async def test_a_deadline_that_is_over_before_the_wait_begins_still_gives_one_look(
    service: Service, connections: Connections
) -> None:
    service.runs |= {"r1": "done", "r2": "going"}
    over = {"wait_deadline": clock.time() - 100}
    assert (await wait(connections, a_watch("r1", **over))).verdict is Verdict.SUCCEEDED
    assert (await wait(connections, a_watch("r2", **over))).verdict is Verdict.TIMEOUT


async def test_a_deadline_is_kept_while_a_request_hangs(service: Service, connections: Connections) -> None:
    async def hang() -> FakeApi:
        await asyncio.sleep(3600)
        raise AssertionError

    watch = a_watch("r1", wait_deadline=clock.time() + 0.2)
    outcome = await asyncio.wait_for(wait_for_run("key", hang, watch, "Fake", lambda note: None), 60)
    assert outcome.which is Limit.TIMEOUT


async def test_a_changed_connection_is_used_after_a_refusal(
    service: Service, connections: Connections
) -> None:
    service.runs["r1"] = "going"
    waiting = asyncio.create_task(wait(connections, a_watch("r1")))
    await until(lambda: service.called("get"))
    connections.host = "http://other"
    service.get_errors = [Unauthorized("no", status=401)]
    await until(lambda: connections.reads == 2)
    service.runs["r1"] = "done"
    assert (await waiting).verdict is Verdict.SUCCEEDED


async def test_the_connection_is_read_again_now_and_then(service: Service, connections: Connections) -> None:
    service.runs["r1"] = "going"
    waiting = asyncio.create_task(wait(connections, a_watch("r1", **SLOW)))
    await asyncio.sleep(2.5 * REREAD_SECONDS)
    assert connections.reads == 3
    connections.error = RuntimeError("no database")
    await asyncio.sleep(REREAD_SECONDS)
    assert connections.reads > 3
    service.runs["r1"] = "done"
    assert (await waiting).verdict is Verdict.SUCCEEDED


async def test_files_of_certificates_are_read_again_with_the_connection(
    service: Service, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed, times = [], []
    began = clock.monotonic()

    async def renew(driver: AsyncDriver) -> None:
        renewed.append(driver)
        times.append(clock.monotonic() - began)
        if len(renewed) == 1:
            raise ConnectionFailed("ca_bundle is not there", sent=False)

    monkeypatch.setattr(AsyncDriver, "renew_certificates", renew)
    service.runs["r1"] = "going"
    waiting = asyncio.create_task(wait(connections, a_watch("r1", **SLOW)))
    await asyncio.sleep(1300)
    service.runs["r1"] = "done"
    assert (await waiting).verdict is Verdict.SUCCEEDED
    assert len(set(renewed)) == 1
    # With the first look after ten minutes, half a minute after a failure, and ten minutes after that.
    assert times == [pytest.approx(600, abs=10), pytest.approx(635, abs=10), pytest.approx(1240, abs=15)]


async def test_a_connection_that_cannot_be_read_ends_the_wait_as_unreachable(
    service: Service, connections: Connections
) -> None:
    connections.error = ConnectionUnreadable("the conn_id isn't defined")
    outcome = await wait(connections, a_watch("r1"))
    assert outcome.verdict is Verdict.UNREACHABLE
    assert "isn't defined" in (outcome.message or "")


async def test_an_error_of_our_own_is_no_verdict(service: Service, connections: Connections) -> None:
    service.runs["r1"] = "going"
    service.get_errors = [KeyError("bug")] * 2
    waiting = asyncio.create_task(wait(connections, a_watch("r1")))
    await until(lambda: not service.get_errors)
    service.runs["r1"] = "done"
    assert (await waiting).verdict is Verdict.SUCCEEDED


async def test_a_fault_of_the_poller_ends_every_wait_with_it_and_the_next_wait_has_a_new_one(
    service: Service, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.runs |= {"r1": "going", "r2": "going"}
    waiting = [asyncio.create_task(wait(connections, a_watch(name))) for name in ("r1", "r2")]
    await until(lambda: len(service.called("get")) >= 2)
    with monkeypatch.context() as patch:
        patch.setattr(RunPoller, "_start_polls", lambda self: 1 / 0)
        ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in ended] == [ZeroDivisionError] * 2
    service.runs["r1"] = "done"
    assert (await wait(connections, a_watch("r1"))).verdict is Verdict.SUCCEEDED
    assert len(asyncio.all_tasks()) == 1


def test_fakes_answer_for_the_module_that_tests_patch(service: Service) -> None:
    assert fakes.SERVICE is service


# A run whose id is not known


@pytest.fixture
def listing() -> Connections:
    return Connections(FullApi)


def a_search(**changes: Any) -> Watch:
    return a_watch("job j", search={"job": "j", "since": 5.0}, **changes)


async def test_a_search_waits_for_a_run_and_then_for_its_end(service: Service, listing: Connections) -> None:
    notes: list[Note] = []
    waiting = asyncio.create_task(wait(listing, a_search(), notes))
    await until(lambda: len(service.called("list_runs")) > 2)
    service.runs["r7"] = "going"
    await until(lambda: len(notes) > 2)
    service.runs["r7"] = "done"
    outcome = await waiting
    assert (outcome.verdict, outcome.run_id, outcome.status) == (Verdict.SUCCEEDED, "r7", "done")
    assert service.called("list_runs")[0] == ({"job": "j"}, 5.0)
    said = [note.text for note in notes]
    assert said[:2] == [
        "Fake has no run with job j yet, waiting for one",
        "Found Fake run r7: http://fake/r7",
    ]


@pytest.mark.parametrize(
    ("status", "verdict"),
    [("done", Verdict.SUCCEEDED), ("broken", Verdict.FAILED), ("stopped", Verdict.CANCELLED)],
)
async def test_a_search_that_finds_an_ended_run_is_over(
    service: Service, listing: Connections, status: str, verdict: Verdict
) -> None:
    service.runs["r7"] = status
    assert (await wait(listing, a_search())).verdict is verdict
    assert service.called("get") == []


async def test_a_later_run_takes_the_place_of_one_that_ended_badly(
    service: Service, listing: Connections
) -> None:
    service.runs["r7"] = "going"
    notes: list[Note] = []
    waiting = asyncio.create_task(wait(listing, a_search(), notes))
    await until(lambda: notes)
    service.runs |= {"r7": "broken", "r8": "going"}
    await until(lambda: "r8" in " ".join(note.text for note in notes))
    service.runs["r8"] = "done"
    assert (await waiting).run_id == "r8"
    assert [note.text.split(" ")[:4] for note in notes] == [
        ["Found", "Fake", "run", "r7:"],
        ["Run", "r7", "is", "going"],
        ["Found", "Fake", "run", "r8:"],
        ["Run", "r8", "is", "going"],
        ["Run", "r8", "is", "done"],
    ]


async def test_a_success_beside_a_run_that_hangs_ends_the_search(
    service: Service, listing: Connections
) -> None:
    service.runs["r7"] = "going"
    waiting = asyncio.create_task(wait(listing, a_search()))
    await until(lambda: service.called("list_runs"))
    service.runs["r8"] = "done"
    assert (await waiting).run_id == "r8"


async def test_a_found_run_that_ended_badly_is_the_end_where_there_is_no_other(
    service: Service, listing: Connections
) -> None:
    service.runs["r7"] = "going"
    waiting = asyncio.create_task(wait(listing, a_search()))
    await until(lambda: service.called("list_runs"))
    service.runs["r7"] = "broken"
    outcome = await waiting
    assert (outcome.verdict, outcome.run_id) == (Verdict.FAILED, "r7")


async def test_a_deadline_names_the_run_that_was_found(service: Service, listing: Connections) -> None:
    service.runs["r7"] = "going"
    outcome = await wait(listing, a_search(wait_deadline=clock.time() + 0.2))
    assert (outcome.which, outcome.run_id, outcome.status) == (Limit.TIMEOUT, "r7", "going")
    assert outcome.message is not None and outcome.message.startswith("run r7 had not ended")


async def test_an_outage_while_searching_is_ridden_out(service: Service, listing: Connections) -> None:
    service.list_errors = [DOWN] * 5
    service.runs["r7"] = "done"
    notes: list[Note] = []
    assert (await wait(listing, a_search(), notes)).verdict is Verdict.SUCCEEDED
    assert [note.alarming for note in notes] == [True, False, False, False]


async def test_a_search_ends_at_its_deadline(service: Service, listing: Connections) -> None:
    outcome = await wait(listing, a_search(wait_deadline=clock.time() + 0.2))
    assert (outcome.verdict, outcome.which) == (Verdict.TIMEOUT, Limit.TIMEOUT)


async def test_searches_and_known_runs_do_not_disturb_each_other(
    service: Service, listing: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_yet(api: FakeApi, *args: Any, **kwargs: Any) -> Any:
        service.calls.append(("list_runs", None))
        yield from ()
        return []

    monkeypatch.setattr(FullApi, "list_runs", none_yet)
    listing.cap = 3000
    service.runs |= {f"r{number}": "going" for number in range(20)}
    known = [asyncio.create_task(wait(listing, a_watch(run_id))) for run_id in service.runs]
    searches = [
        asyncio.create_task(wait(listing, a_watch(f"job {number}", search={"job": number, "since": 5.0})))
        for number in range(60)
    ]
    await until(lambda: len(service.called("get_many")) > 5 and len(service.called("list_runs")) > 60)
    assert not any("job" in run_id for batch in service.called("get_many") for run_id in batch)
    service.runs |= dict.fromkeys(service.runs, "done")
    # More searches are due than the cap on requests lets through; the known runs have their turn.
    outcomes = await asyncio.wait_for(asyncio.gather(*known), 3)
    assert {outcome.verdict for outcome in outcomes} == {Verdict.SUCCEEDED}
    for search in searches:
        search.cancel()
    await asyncio.gather(*searches, return_exceptions=True)


async def test_a_service_that_cannot_list_runs_ends_the_search(service: Service) -> None:
    outcome = await wait(Connections(fakes.KeyApi), a_search())
    assert outcome.verdict is Verdict.UNREACHABLE
    assert outcome.message is not None and "Fake cannot list runs; give a run id" in outcome.message
