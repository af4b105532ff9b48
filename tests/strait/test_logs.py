"""What a job logs in the task's log: as it happens, each event once, bounded, masked, never in the way."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_runs.base import logs as following
from airflow_provider_runs.base.exceptions import Interrupted, RequestRefused, RunFailed, RunTimedOut
from airflow_provider_runs.base.logs import StreamsLogs
from airflow_provider_runs.base.trigger import RunTrigger
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import RunApi
from airflow_provider_runs.core.connection import Settings
from airflow_provider_runs.core.errors import (
    ApiError,
    ConnectionFailed,
    NotFound,
    RunsError,
    Unauthorized,
)
from airflow_provider_runs.core.http import Flow, Request, Response
from airflow_provider_runs.core.sse import Comment, Event, Frame
from airflow_provider_runs.core.turns import Turn
from airflow_provider_runs.simulator import Simulator
from airflow_provider_runs.strait import logs
from airflow_provider_runs.strait.hooks import StraitHook
from airflow_provider_runs.strait.logs import EventFollower
from airflow_provider_runs.strait.simulated import Job
from tests.base.conftest import callable_operators, later  # noqa: F401
from tests.base.fakes import FakeApi, FakeTaskInstance, Store, run_here
from tests.paradime.test_logs import Log, eventually
from tests.simulators import Simulators

SECRET = "hush-hush"


class Run(FakeApi):
    """A run of which a test says what happens to it; events stand in a list and go through open streams."""

    def __init__(self) -> None:
        super().__init__(Settings("strait_default", "http://fake", password=SECRET))
        self.rows: list[dict[str, Any]] = []
        self.listens = True
        self.refusal: Callable[[], Exception] | None = None
        self.list_errors: list[Exception] = []
        self.connects = 0
        self.lists = 0
        self.on_list: Callable[[], None] = lambda: None
        self._streams: list[tuple[asyncio.AbstractEventLoop, asyncio.Queue[Any]]] = []
        self._lock = threading.Lock()

    @property
    def open(self) -> int:
        return len(self._streams)

    def say(self, message: str, kind: str = "log", *, stored: bool = True, **more: Any) -> None:
        said = {"level": "info", "message": message, "data": None, **more}
        with self._lock:
            if stored:
                self.rows.append({"id": f"e{len(self.rows)}", "type": kind, **said})
            if self.listens:
                self._pass_on(Event("message", json.dumps({"type": "event", "event_type": kind, **said})))

    def send(self, frame: Frame | Exception | None) -> None:
        with self._lock:
            self._pass_on(frame)

    def _pass_on(self, frame: Frame | Exception | None) -> None:
        for loop, queue in self._streams:
            loop.call_soon_threadsafe(queue.put_nowait, frame)

    def stream_request(self, run_id: str) -> str:
        assert run_id == "r1"
        return run_id

    def list_events(self, run_id: str) -> Flow[list[dict[str, Any]]]:
        assert run_id == "r1"
        yield Request("GET", "http://fake")
        with self._lock:
            self.lists += 1
            if self.list_errors:
                raise self.list_errors.pop(0) if len(self.list_errors) > 1 else self.list_errors[0]
            rows = [dict(row) for row in self.rows[:100]]
        self.on_list()
        return rows

    async def stream(self, opened: Callable[[], None]) -> AsyncGenerator[Frame, None]:
        self.connects += 1
        if self.refusal is not None:
            raise self.refusal()
        mine = (asyncio.get_running_loop(), asyncio.Queue[Any]())
        with self._lock:
            self._streams.append(mine)
        opened()
        try:
            while (frame := await mine[1].get()) is not None:
                if isinstance(frame, Exception):
                    raise frame
                yield frame
        finally:
            with self._lock:
                self._streams.remove(mine)


class Driver:
    """Stands in for the one with aiohttp."""

    def __init__(self, api: Run) -> None:
        self.api = api

    async def drive(self, flow: Flow[Any], retry: Any, turn: Turn) -> Any:
        assert retry.attempts == 1, "the follower has a pace of its own"
        assert turn is Turn.POLL, "a log does not go before a start"
        await asyncio.sleep(0.01)
        next(flow)
        try:
            flow.send(Response(200))
        except StopIteration as end:
            return end.value
        raise AssertionError("a list has one request here")

    def stream_events(self, request: str, *, opened: Callable[[], None]) -> AsyncGenerator[Frame, None]:
        return self.api.stream(opened)

    async def close(self) -> None:
        assert self.api.open == 0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "AsyncDriver", Driver)
    monkeypatch.setattr(logs, "as_strait", lambda api: api)
    monkeypatch.setattr(logs, "LISTENS_AFTER", 0.1)
    monkeypatch.setattr(logs, "PAUSE_BASE", 0.02)
    monkeypatch.setattr(logs, "PAUSE_CAP", 0.1)
    monkeypatch.setattr(logs, "LAST_PAUSE", 0.02)


@pytest.fixture
def run() -> Run:
    return Run()


@pytest.fixture
def follow() -> Iterator[Callable[[RunApi], tuple[EventFollower, Log]]]:
    made: list[EventFollower] = []

    def start(api: RunApi) -> tuple[EventFollower, Log]:
        log = Log()
        made.append(EventFollower(SimpleNamespace(api=api), "r1", log))  # type: ignore[arg-type]
        made[-1].start()
        return made[-1], log

    yield start
    for follower in made:
        follower.stop()
        follower._thread.join(5)
        assert not follower._thread.is_alive()


Follow = Callable[[Run], tuple[EventFollower, Log]]


def caught_up(run: Run, lists: int = 1) -> None:
    """Wait until a stream is open and has been compared with the list."""
    eventually(lambda: run.open and run.lists >= lists)
    clock.sleep(0.05)


def test_what_was_said_before_and_what_is_said_then_is_written_in_order_and_once(
    run: Run, follow: Follow
) -> None:
    run.say("a")
    run.say("half way", "progress", data={"percent": 50})
    run.say("queued", "state_change")
    follower, log = follow(run)
    caught_up(run)
    assert log.lines == ["log | a", 'progress | half way {"percent": 50}']
    for number in range(5):
        run.say(f"line {number}", level="warn")
    eventually(lambda: len(log.lines) == 7)
    follower.finish()
    assert log.lines[2:] == [f"log warn | line {number}" for number in range(5)]
    assert log.warnings == [] and run.connects == 1 and run.lists == 2


def test_what_is_said_before_the_service_listens_is_listed(run: Run, follow: Follow) -> None:
    run.listens = False
    _, log = follow(run)
    eventually(lambda: run.open)
    run.say("unheard")
    run.listens = True
    run.say("heard")
    caught_up(run)
    eventually(lambda: log.lines == ["log | unheard", "log | heard"])


def test_what_comes_while_the_list_is_made_is_written_once(run: Run, follow: Follow) -> None:
    run.say("a")
    pending = iter(["b", "c"])

    def say() -> None:
        for text in pending:
            run.say(text)

    run.on_list = say
    follower, log = follow(run)
    caught_up(run)
    follower.finish()
    assert log.lines == ["log | a", "log | b", "log | c"]


def test_the_first_sign_of_life_has_the_list_made_at_once(
    run: Run, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LISTENS_AFTER", 60.0)
    run.say("a")
    _, log = follow(run)
    eventually(lambda: run.open)
    clock.sleep(0.1)
    assert log.lines == []
    run.send(Comment("keepalive"))
    eventually(lambda: log.lines == ["log | a"])


@pytest.mark.parametrize("end", [None, ConnectionFailed("broken off", sent=True)], ids=["ended", "broken"])
def test_a_lost_stream_is_opened_again_and_what_was_missed_is_listed(
    run: Run, follow: Follow, end: Exception | None
) -> None:
    follower, log = follow(run)
    caught_up(run)
    run.say("a")
    eventually(lambda: log.lines == ["log | a"])
    run.listens = False
    run.send(end)
    run.say("missed")
    eventually(lambda: run.connects == 2)
    run.listens = True
    eventually(lambda: log.lines == ["log | a", "log | missed"])
    run.say("b")
    eventually(lambda: log.lines == ["log | a", "log | missed", "log | b"])
    follower.finish()
    assert len(log.lines) == 3 and log.warnings == []


def test_a_stream_that_breaks_before_the_list_is_made_loses_nothing(run: Run, follow: Follow) -> None:
    run.on_list = lambda: run.send(ConnectionFailed("broken off", sent=True)) if run.connects < 3 else None
    run.say("a")
    follower, log = follow(run)
    eventually(lambda: run.connects >= 3)
    run.say("b", stored=False)
    eventually(lambda: "log | b" in log.lines)
    follower.finish()
    assert log.lines == ["log | a", "log | b"]


@pytest.mark.parametrize(
    ("refusal", "lasting"),
    [
        (lambda: ApiError("too many SSE connections", status=503), False),
        (lambda: ApiError("Too Many Requests", status=429), False),
        (lambda: ConnectionFailed("no answer", sent=True), False),
        (lambda: NotFound("no such route", status=404), True),
        (lambda: Unauthorized("no right", status=403), True),
        (lambda: ApiError("an event is too long", status=200, permanent=True), True),
    ],
    ids=["503", "429", "no answer", "404", "403", "too long"],
)
def test_without_a_stream_the_events_are_listed_now_and_then(
    run: Run, follow: Follow, refusal: Callable[[], RunsError], lasting: bool
) -> None:
    run.refusal = refusal
    run.say("a")
    follower, log = follow(run)
    eventually(lambda: log.lines == ["log | a"])
    run.say("b")
    eventually(lambda: log.lines == ["log | a", "log | b"])
    eventually(lambda: run.lists > 4)
    assert (run.connects == 1) == lasting
    run.say("c")
    follower.finish()
    assert log.lines[2:] == ["log | c"] and log.warnings == []


def test_streams_that_end_at_once_do_not_keep_the_events_back(
    run: Run, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ends(opened: Callable[[], None]) -> AsyncGenerator[Frame, None]:
        opened()
        for frame in ():
            yield frame

    monkeypatch.setattr(run, "stream", ends)
    run.say("a")
    _, log = follow(run)
    eventually(lambda: log.lines == ["log | a"])
    run.say("b")
    eventually(lambda: log.lines == ["log | a", "log | b"])


def test_a_service_that_asks_for_a_pause_has_it(run: Run, follow: Follow) -> None:
    def busy() -> Exception:
        error = ApiError("slow down", status=429)
        error.retry_after = 30
        return error

    run.refusal = busy
    follower, _ = follow(run)
    eventually(lambda: run.lists == 1)
    clock.sleep(0.3)
    assert run.connects == run.lists == 1
    began = clock.monotonic()
    follower.finish()
    assert clock.monotonic() - began < 2 and run.lists == 2


def test_a_run_that_has_ended_has_no_stream_and_its_events_are_listed(run: Run, follow: Follow) -> None:
    run.refusal = lambda: ApiError("run already in terminal state", status=410)
    run.say("a")
    follower, log = follow(run)
    eventually(lambda: run.connects == 1)
    clock.sleep(0.2)
    assert run.connects == 1
    follower.finish()
    assert log.lines == ["log | a"] and log.warnings == []


def test_what_is_left_when_the_run_ends_is_written(run: Run, follow: Follow) -> None:
    follower, log = follow(run)
    caught_up(run)
    run.listens = False
    run.say("a")
    run.say("b", "error", level="error")
    began = clock.monotonic()
    follower.finish()
    assert log.lines == ["log | a", "error | b"]
    assert clock.monotonic() - began < 2 and not follower._thread.is_alive()


def test_a_run_that_has_ended_before_the_thread_began_is_written(
    run: Run, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()
    monkeypatch.setattr(logs, "load_libraries", lambda: held.wait(5))
    run.say("a")
    follower, log = follow(run)
    threading.Timer(0.1, held.set).start()
    follower.finish()
    assert log.lines == ["log | a"]


def test_the_last_look_is_repeated_a_few_times_only(run: Run, follow: Follow) -> None:
    run.refusal = lambda: ApiError("ended", status=410)
    run.list_errors = [ConnectionFailed("no answer", sent=True)]
    follower, log = follow(run)
    follower.finish()
    assert run.lists == logs.LAST_LOOKS and not follower._thread.is_alive()
    assert log.warnings == ["The events of run r1 cannot be followed: no answer"]


def test_a_list_that_fails_hides_nothing_that_comes_through_the_stream(run: Run, follow: Follow) -> None:
    run.say("a")
    run.list_errors = [ApiError("busy", status=503)]
    follower, log = follow(run)
    caught_up(run)
    run.say("b")
    eventually(lambda: log.lines == ["log | b"])
    run.list_errors = []
    follower.finish()
    assert log.lines == ["log | b", "log | a"]
    assert log.warnings == ["The events of run r1 cannot be followed: busy"]


def test_a_mistake_of_ours_is_said_once(run: Run, follow: Follow) -> None:
    run.refusal = lambda: ZeroDivisionError("a mistake of ours")
    follower, log = follow(run)
    eventually(lambda: not follower._thread.is_alive())
    follower.finish()
    assert log.warnings == ["The events of run r1 cannot be followed: ZeroDivisionError: a mistake of ours"]


def test_a_stopped_follower_writes_nothing_more_and_goes_at_once(run: Run, follow: Follow) -> None:
    follower, log = follow(run)
    caught_up(run)
    began = clock.monotonic()
    follower.stop()
    follower._thread.join(5)
    assert clock.monotonic() - began < 1 and run.open == 0 and run.lists == 1
    run.say("late")
    assert log.lines == []


def test_the_lines_are_bounded(run: Run, follow: Follow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "MAX_LINES", 5)
    follower, log = follow(run)
    caught_up(run)
    for letter in "abcdefgh":
        run.say(letter)
    eventually(lambda: len(log.lines) == 6 and run.open == 0)
    follower.finish()
    assert log.lines == [
        *(f"log | {letter}" for letter in "abcde"),
        "5 lines are shown; the rest stands on the run's page",
    ]


def test_a_line_is_bounded_masked_and_without_colours(run: Run, follow: Follow) -> None:
    run.say("x" * 10**5)
    run.say(f"\x1b[31mthe {SECRET}\x1b[0m\ntwo\x00", data={"token": SECRET})
    run.say("")
    follower, log = follow(run)
    follower.finish()
    assert log.lines == [
        "log | " + "x" * 1000,
        "log | the ***",
        'log | two  {"token": "***"}',
        "log | ",
    ]


def test_what_is_cut_is_masked_before_and_a_level_is_as_little_trusted(run: Run, follow: Follow) -> None:
    run.say("cut", data={"a": "x" * 485 + SECRET})
    run.say("told", level=f"{SECRET}\nERROR \x1b[31m" + "y" * 100)
    follower, log = follow(run)
    follower.finish()
    assert log.lines == [
        'log | cut {"a": "' + "x" * 485 + "***" + '"}',
        "log *** ERROR  [31m" + "y" * 25 + "... | told",
    ]


def test_where_more_events_than_one_page_may_be_missing_it_is_said(run: Run, follow: Follow) -> None:
    for number in range(120):
        run.say(str(number))
    run.refusal = lambda: ApiError("too many SSE connections", status=503)
    follower, log = follow(run)
    follower.finish()
    assert len(log.lines) == 101
    assert log.lines[100] == "Strait lists the first 100 events only; some may be missing here"


# In a task


class Trigger(RunTrigger):
    hook_class = StraitHook


class Operator(StreamsLogs):
    """As much of an operator as follows the events."""

    hook_class = StraitHook
    trigger_class = Trigger
    follower_class = EventFollower
    run_fields = ("job_id",)
    resource_fields = ("job_id",)
    strait_conn_id = "strait_default"

    def __init__(self, *, job_id: str, stream_logs: bool = True, **kwargs: Any) -> None:
        super().__init__(task_id="run", min_poll_interval=0.1, poll_interval=0.5, **kwargs)
        self.job_id = job_id
        self.stream_logs = stream_logs
        for name in self.hook_class.api_class.scope_fields:
            setattr(self, name, None)


@pytest.fixture
def simulated(simulators: Simulators, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    from airflow_provider_runs.core.drivers import AsyncDriver
    from airflow_provider_runs.strait.hooks import as_strait

    monkeypatch.setattr(logs, "AsyncDriver", AsyncDriver)
    monkeypatch.setattr(logs, "as_strait", as_strait)
    jobs = (Job("loud", progress=20), Job("broken"))
    sim = simulators(["strait"], options={"strait": {"jobs": jobs, "keepalive": 0.5}})
    sim.plan(system="strait", resource="loud", queued=0.2, duration=1.2)
    sim.plan(system="strait", resource="broken", outcome="dead_letter", duration=1.0, message="boom")
    connection = {"conn_type": "strait", "host": sim.url_of("strait"), "password": "strait_simulator"}
    extra = {"max_requests_per_minute": 60_000}
    monkeypatch.setenv("AIRFLOW_CONN_STRAIT_DEFAULT", json.dumps({**connection, "extra": extra}))
    return sim


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return what was written since."""
    return lambda: capsys.readouterr().out


def context() -> dict[str, Any]:
    return {"ti": FakeTaskInstance(max_tries=1), "task_state_store": Store()}


def steps(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"log \| step (\d+) of 20", text)]


FAULTS = [
    None,
    "split",
    "silence",
    "flood",
    "lose",
    "cut_frame",
    "end",
    "error_frame",
    "status",
    "reset_before",
]


@pytest.mark.parametrize("fault", FAULTS)
def test_every_event_stands_in_the_tasks_log_once_whatever_the_stream_does(
    simulated: Simulator, told: Callable[[], str], fault: str | None
) -> None:
    if fault is not None:
        simulated.fault(fault, system="strait", operation="stream", status=503 if fault == "status" else None)
    Operator(job_id="loud", deferrable=False).execute(context())
    text = told()
    assert sorted(steps(text)) == list(range(1, 21))
    if fault != "cut_frame":
        assert steps(text) == list(range(1, 21))
    assert "progress | 52% done" in text and "cannot be followed" not in text
    assert "strait_simulator" not in text


def test_events_come_while_the_run_goes(simulated: Simulator, told: Callable[[], str]) -> None:
    heard: list[tuple[float, int]] = []
    began, has_ended = clock.monotonic(), threading.Event()

    def listen() -> None:
        while not has_ended.wait(0.02):
            heard.extend((clock.monotonic() - began, number) for number in steps(told()))

    # Airflow 2 lets a task run in the main thread only.
    listener = threading.Thread(target=listen)
    listener.start()
    try:
        Operator(job_id="loud", deferrable=False).execute(context())
    finally:
        has_ended.set()
        listener.join()
    # The last two may come with the end.
    assert [number for _, number in heard][:18] == list(range(1, 19))
    assert len({round(moment, 1) for moment, _ in heard}) > 5


def test_a_failed_run_is_explained_below_its_events(simulated: Simulator, told: Callable[[], str]) -> None:
    with pytest.raises(RunFailed, match="boom"):
        Operator(job_id="broken", deferrable=False).execute(context())
    text = told()
    assert "log | step 1 of 2" in text
    assert text.index("error | boom") < text.index("about run")


@pytest.mark.parametrize(
    "fault",
    [{"fault": "status", "status": 500}, {"fault": "status", "status": 403}, {"fault": "html"}],
    ids=str,
)
def test_no_error_of_the_events_fails_the_wait(
    simulated: Simulator, told: Callable[[], str], fault: dict[str, Any]
) -> None:
    simulated.fault(system="strait", operation="events", **fault)
    simulated.fault(system="strait", operation="stream", **fault)
    Operator(job_id="loud", deferrable=False).execute(context())
    text = told()
    assert "has succeeded" in text and text.count("cannot be followed") == 1


def test_the_tasks_limits_end_the_following(simulated: Simulator) -> None:
    simulated.plan(system="strait", resource="loud", outcome="stuck")
    with pytest.raises(RunTimedOut):
        Operator(job_id="loud", deferrable=False, timeout=1).execute(context())
    assert_nobody_follows()
    with pytest.raises(AirflowTaskTimeout):
        run_here(Operator(job_id="loud", deferrable=False, execution_timeout=timedelta(seconds=1)), context())
    assert_nobody_follows()


def test_a_killed_task_does_not_wait_for_the_events(
    simulated: Simulator,
    later: Callable[..., None],  # noqa: F811
) -> None:
    simulated.plan(system="strait", resource="loud", outcome="stuck")
    task = Operator(job_id="loud", deferrable=False)
    later(1.0, task.on_kill)
    began = clock.monotonic()
    with pytest.raises(Interrupted):
        task.execute(context())
    assert clock.monotonic() - began < 4
    assert_nobody_follows()


def assert_nobody_follows() -> None:
    eventually(lambda: "log-follower" not in {thread.name for thread in threading.enumerate()})


@pytest.mark.parametrize("wrong", [{"deferrable": True}, {"wait_for_completion": False}], ids=str)
def test_only_a_task_that_waits_on_a_worker_can_follow(simulated: Simulator, wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match="stream_logs needs a task that waits on the worker"):
        Operator(job_id="loud", **{"deferrable": False, **wrong}).execute(context())
    assert simulated.runs() == []


def test_nothing_is_asked_for_by_default(simulated: Simulator, told: Callable[[], str]) -> None:
    Operator(job_id="loud", deferrable=False, stream_logs=False).execute(context())
    assert simulated.count("strait", "events") == 0 and steps(told()) == []
