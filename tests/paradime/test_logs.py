"""The output of a run's commands in the task's log: followed, bounded, masked, and never in the way."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_runs.base import logs as following
from airflow_provider_runs.base.exceptions import Interrupted, RequestRefused, RunFailed, RunTimedOut
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.connection import read_settings
from airflow_provider_runs.core.errors import ApiError, ConnectionFailed, NotFound
from airflow_provider_runs.core.turns import Turn
from airflow_provider_runs.paradime import logs
from airflow_provider_runs.paradime.answers import CommandLogs
from airflow_provider_runs.paradime.api import ParadimeRunApi
from airflow_provider_runs.paradime.logs import OutputFollower
from airflow_provider_runs.paradime.operators import ParadimeRetryRunOperator, ParadimeTriggerRunOperator
from airflow_provider_runs.paradime.simulated import Schedule
from airflow_provider_runs.simulator import Simulator
from tests.base.conftest import callable_operators, later  # noqa: F401
from tests.base.fakes import FakeTaskInstance, Store, run_here
from tests.paradime.conftest import connect

SECRET = "hush-hush"


class Log:
    """What was written, and how serious it is."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def info(self, text: str, *arguments: Any) -> None:
        self.lines.append(text % arguments)

    def warning(self, text: str, *arguments: Any) -> None:
        self.warnings.append(text % arguments)


class Bolt:
    """A service of which a test says what each command shows, call by call; the last answer stays."""

    def __init__(self, commands: list[dict[str, Any]], pieces: dict[int, list[Any]]) -> None:
        settings = read_settings(
            ParadimeRunApi.connection,
            conn_id="paradime_default",
            host="http://127.0.0.1:9/graphql",
            password=SECRET,
            extra={"api_key": "key"},
        )
        self.api = ParadimeRunApi(settings)
        self.commands = commands
        self.pieces = pieces
        self.asked: list[Any] = []
        self.seconds = 0.0  # that an answer takes
        self.lock = threading.Lock()
        self.api.list_commands = self._list  # type: ignore[method-assign]
        self.api.get_command_logs = self._logs  # type: ignore[method-assign]

    def drive(self, flow_of: Callable[[Any], Any], retry: Any, turn: Turn) -> Any:
        assert retry.attempts == 1, "the follower has a pace of its own"
        assert turn is Turn.POLL, "a log does not go before a start"
        flow = flow_of(self.api)
        try:
            next(flow)
        except StopIteration as end:
            return end.value
        raise AssertionError("nothing is sent here")

    def _list(self, run_id: str) -> Any:
        self.asked.append("list")
        yield from ()
        return [dict(command) for command in self.commands]

    def _logs(self, command_id: Any, cursor: str = "0:0") -> Any:
        yield from ()
        clock.sleep(self.seconds)
        with self.lock:
            self.asked.append((command_id, cursor))
            given = self.pieces[command_id]
            piece = given.pop(0) if len(given) > 1 else given[0]
        if isinstance(piece, Exception):
            raise piece
        return piece


def command(number: int, *, ended: bool = False, begun: bool = True) -> dict[str, Any]:
    times = {"startDttm": "2026-01-01T00:00:00Z" if begun else "", "endDttm": ""}
    return {"id": number, "command": f"dbt {number}", **times, "returnCode": 0 if ended else None}


def piece(*lines: str, cursor: str = "0:0", finished: bool = False, stream: str = "STDOUT") -> CommandLogs:
    return CommandLogs([(stream, line) for line in lines], cursor, finished)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "SHORTEST_PAUSE", 0.02)
    monkeypatch.setattr(logs, "LONGEST_PAUSE", 0.05)


@pytest.fixture
def follow() -> Iterator[Callable[[Bolt], tuple[OutputFollower, Log]]]:
    made: list[OutputFollower] = []

    def start(bolt: Bolt) -> tuple[OutputFollower, Log]:
        log = Log()
        made.append(OutputFollower(bolt, "7", log))  # type: ignore[arg-type]
        made[-1].start()
        return made[-1], log

    yield start
    for follower in made:
        follower.stop()
        follower._thread.join(5)
        assert not follower._thread.is_alive()


def eventually(question: Callable[[], Any]) -> None:
    end = clock.monotonic() + 5
    while not question():
        assert clock.monotonic() < end
        clock.sleep(0.005)


Follow = Callable[[Bolt], tuple[OutputFollower, Log]]


def test_lines_are_written_as_they_come_and_each_once(follow: Follow) -> None:
    bolt = Bolt(
        [command(1)],
        {1: [piece("one\n", "two\n", cursor="2:0"), piece(cursor="2:0"), piece("three", cursor="3:0")]},
    )
    bolt.pieces[1].append(piece(cursor="3:0", finished=True))
    follower, log = follow(bolt)
    eventually(lambda: len(log.lines) == 4)
    follower.finish()
    assert log.lines == ["Output of command 1: dbt 1", "1 | one", "1 | two", "1 | three"]
    assert [asked[1] for asked in bolt.asked if asked != "list"] == ["0:0", "2:0", "2:0", "3:0"]
    assert log.warnings == []


def test_a_command_that_begins_later_is_followed_too(follow: Follow) -> None:
    bolt = Bolt(
        [command(1), command(2, begun=False)], {1: [piece("a", cursor="1:0")], 2: [piece("b", finished=True)]}
    )
    follower, log = follow(bolt)
    eventually(lambda: "1 | a" in log.lines)
    assert {asked for asked in bolt.asked if asked != "list"} <= {(1, "0:0"), (1, "1:0")}
    bolt.pieces[1] = [piece(cursor="1:0", finished=True)]
    bolt.commands = [command(1, ended=True), command(2)]
    eventually(lambda: "2 | b" in log.lines)
    follower.finish()


def test_what_is_left_when_the_run_ends_is_written(follow: Follow) -> None:
    bolt = Bolt([command(1)], {1: [piece(cursor="0:0")]})
    follower, log = follow(bolt)
    eventually(lambda: len(bolt.asked) > 1)
    with bolt.lock:
        bolt.pieces[1] = [piece("a", cursor="1:0"), piece("b", cursor="2:0"), piece("c", finished=True)]
    bolt.commands = [command(1, ended=True), command(2, ended=True), command(3, begun=False)]
    bolt.pieces[2] = [piece("d", finished=True)]
    follower.finish()
    assert [line for line in log.lines if "|" in line] == ["1 | a", "1 | b", "1 | c", "2 | d"]


def test_a_command_that_is_never_called_finished_ends_with_the_run(follow: Follow) -> None:
    bolt = Bolt([command(1)], {1: [piece("a", cursor="1:0"), piece(cursor="1:0")]})
    follower, log = follow(bolt)
    eventually(lambda: "1 | a" in log.lines)
    began = clock.monotonic()
    follower.finish()
    assert clock.monotonic() - began < 2
    assert not follower._thread.is_alive()


def test_a_server_that_does_not_move_on_is_not_asked_for_ever(follow: Follow) -> None:
    bolt = Bolt([command(1, ended=True)], {1: [piece("", "a", cursor="1:0")]})
    follower, _ = follow(bolt)
    eventually(lambda: bolt.asked.count((1, "1:0")) == logs.SILENT_LOOKS)
    clock.sleep(0.2)
    follower.finish()
    assert not follower._thread.is_alive()
    assert bolt.asked.count((1, "1:0")) == logs.SILENT_LOOKS


def test_output_that_comes_some_time_after_its_command_has_ended_is_written(follow: Follow) -> None:
    pieces = [piece(), piece(), piece("a", cursor="1:0", finished=True)]
    _, log = follow(Bolt([command(1, ended=True)], {1: pieces}))
    eventually(lambda: "1 | a" in log.lines)


def test_output_that_does_not_end_is_not_waited_for(follow: Follow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "FINISH_SECONDS", 0.2)
    monkeypatch.setattr(following, "MAX_LINES", 10**9)
    bolt = Bolt([command(1)], {1: [piece("a", cursor=f"{number}:0") for number in range(1, 1000)]})
    bolt.seconds = 0.01
    follower, log = follow(bolt)
    began = clock.monotonic()
    follower.finish()
    assert clock.monotonic() - began <= 0.2 + bolt.seconds
    assert "The rest of the output of run 7 does not come in time" in log.lines


def test_the_lines_are_bounded(follow: Follow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "MAX_LINES", 5)
    bolt = Bolt([command(1)], {1: [piece(*"abcdefgh", "x" * 10**6, cursor="9:0")]})
    follower, log = follow(bolt)
    eventually(lambda: not follower._thread.is_alive())
    assert log.lines[1:] == [
        *(f"1 | {letter}" for letter in "abcde"),
        "5 lines are shown; the rest stands on the run's page",
    ]
    follower.finish()


def test_a_line_is_bounded_masked_and_without_colours(follow: Follow) -> None:
    lines = ["x" * 10**5, f"\x1b[31mthe {SECRET}\x1b[0m\n", "two\nlines", ""]
    bolt = Bolt(
        [{**command(1), "command": f"dbt --vars {SECRET}"}],
        {1: [piece(*lines, stream="STDERR", finished=True)]},
    )
    follower, log = follow(bolt)
    follower.finish()
    assert log.lines == [
        "Output of command 1: dbt --vars ***",
        "1 stderr | " + "x" * 1000,
        "1 stderr | the ***",
        "1 stderr | two",
        "1 stderr | lines",
    ]


def test_errors_are_said_once_and_outlived(follow: Follow) -> None:
    lost = [ConnectionFailed("no answer", sent=True), ApiError("busy", status=503)] * 3
    bolt = Bolt([command(1)], {1: [*lost, piece("a", finished=True)]})
    follower, log = follow(bolt)
    eventually(lambda: "1 | a" in log.lines)
    follower.finish()
    assert log.warnings == ["The output of run 7 cannot be followed: no answer"]


def test_the_last_look_is_repeated_a_few_times_only(follow: Follow) -> None:
    bolt = Bolt([command(1)], {1: [ConnectionFailed("no answer", sent=True)]})
    follower, log = follow(bolt)
    eventually(lambda: log.warnings)
    began = clock.monotonic()
    follower.finish()
    assert clock.monotonic() - began < 2 and not follower._thread.is_alive()
    assert len(log.warnings) == 1


@pytest.mark.parametrize(
    "error",
    [ApiError("no such field", status=400), ZeroDivisionError("a mistake of ours")],
    ids=["refused", "bug"],
)
def test_what_cannot_heal_ends_the_following(follow: Follow, error: Exception) -> None:
    bolt = Bolt([command(1)], {1: [error]})
    follower, log = follow(bolt)
    eventually(lambda: not follower._thread.is_alive())
    follower.finish()
    assert len(log.warnings) == 1 and str(error) in log.warnings[0]
    assert bolt.asked.count((1, "0:0")) == 1


def test_a_command_without_a_log_does_not_hide_the_others(follow: Follow) -> None:
    bolt = Bolt(
        [command(1, ended=True), command(2)],
        {1: [NotFound("no log", status=404)], 2: [piece("a", finished=True)]},
    )
    follower, log = follow(bolt)
    eventually(lambda: "2 | a" in log.lines)
    follower.finish()
    assert bolt.asked.count((1, "0:0")) == 1 and len(log.warnings) == 1


def test_a_stopped_follower_writes_nothing_more(follow: Follow) -> None:
    bolt = Bolt([command(1)], {1: [piece("a", cursor="1:0"), piece("b", cursor="2:0")]})
    follower, log = follow(bolt)
    eventually(lambda: log.lines)
    follower.stop()
    follower._thread.join(5)
    written = len(log.lines)
    clock.sleep(0.1)
    assert len(log.lines) == written


def test_a_silent_command_is_asked_ever_more_rarely(follow: Follow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "SHORTEST_PAUSE", 0.05)
    monkeypatch.setattr(logs, "LONGEST_PAUSE", 0.4)
    bolt = Bolt([command(1)], {1: [piece(cursor="0:0")]})
    follow(bolt)
    clock.sleep(1.2)
    assert 3 <= bolt.asked.count((1, "0:0")) <= 9


# In a task


LOUD = Schedule("loud", ("dbt run",), log_lines=40)


BROKEN = Schedule("broken", ("dbt build",), failing="dbt build")


@pytest.fixture
def simulated(
    simulators: Callable[..., Simulator], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Simulator]:
    """Give a simulator with options, and have the connection lead to it."""

    def start(**options: Any) -> Simulator:
        sim = simulators(speed=5, schedules=(LOUD, BROKEN), **options)
        connect(monkeypatch, sim)
        return sim

    return start


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return what was written since; unlike tests.base, each line once also on Airflow 2."""
    return lambda: capsys.readouterr().out


@pytest.fixture
def sim(simulated: Callable[..., Simulator]) -> Simulator:
    return simulated()


def context() -> dict[str, Any]:
    return {"ti": FakeTaskInstance(max_tries=1), "task_state_store": Store()}


def operator(**arguments: Any) -> ParadimeTriggerRunOperator:
    given = {
        "slug": "loud",
        "reason": None,
        "stream_logs": True,
        "min_poll_interval": 0.1,
        "poll_interval": 0.1,
    }
    return ParadimeTriggerRunOperator(task_id="run", **{**given, **arguments})


def test_the_output_stands_in_the_tasks_log_in_order(sim: Simulator, told: Callable[[], str]) -> None:
    operator().execute(context())
    text = told()
    places = [text.index(f"debug line {number:07d}") for number in range(40)]
    assert places == sorted(places)
    # Simulated, dbt deps prints as much as dbt run.
    first, second = re.findall(r"(\d+) \| debug line 0000007", text)
    assert int(first) < int(second)
    assert "stderr | Cloning into 'shop'..." in text
    assert text.index("Completed successfully") < text.index("has succeeded")


def test_lines_come_while_the_run_goes(sim: Simulator, told: Callable[[], str]) -> None:
    sim.plan(system="paradime", resource="loud", duration=10)
    task, heard = operator(), []

    def listen() -> None:
        while not any("debug line 0000003" in part for part in heard):
            heard.append(told())
            clock.sleep(0.05)
        heard.append("still running" if "has succeeded" not in "".join(heard) else "too late")

    listener = threading.Thread(target=listen)
    listener.start()
    task.execute(context())
    listener.join(10)
    assert heard[-1] == "still running"


def test_a_failed_run_is_explained_below_its_output(sim: Simulator, told: Callable[[], str]) -> None:
    with pytest.raises(RunFailed, match="command 'dbt build' ended with return code 1"):
        operator(slug="broken").execute(context())
    text = told()
    assert text.index("| Completed with 1 error") < text.index("about run")
    assert "failed: model.shop.orders" in text


def test_a_retried_run_is_followed_too(sim: Simulator, told: Callable[[], str]) -> None:
    with pytest.raises(RunFailed) as caught:
        operator(slug="broken", stream_logs=False).execute(context())
    assert "| Completed with 1 error" not in told()
    run_id = caught.value.outcome.run_id
    retry = {"stream_logs": True, "min_poll_interval": 0.1, "poll_interval": 0.1}
    with pytest.raises(RunFailed):
        ParadimeRetryRunOperator(task_id="again", run_id=run_id, **retry).execute(context())
    assert "| Completed with 1 error" in told()
    wrong = ParadimeRetryRunOperator(task_id="again", run_id=run_id, **retry, deferrable=True)
    with pytest.raises(RequestRefused, match="stream_logs needs a task that waits on the worker"):
        wrong.execute(context())


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "status", "status": 503},
        {"fault": "status", "status": 404},
        {"fault": "errors", "body": "no logs today"},
        {"fault": "reset_before"},
        {"fault": "html"},
        {"fault": "not_json"},
        {"fault": "empty"},
    ],
    ids=lambda fault: f"{fault['fault']} {fault.get('status', '')}",
)
def test_no_error_of_the_output_fails_the_wait(
    sim: Simulator,
    told: Callable[[], str],
    fault: dict[str, Any],
) -> None:
    sim.fault(system="paradime", operation="logs", **fault)
    operator().execute(context())
    text = told()
    assert "has succeeded" in text
    assert text.count("cannot be followed") == 1
    assert "company-simulator" not in text and "paradime-secret" not in text


def test_an_output_that_is_never_finished_holds_nothing_up(
    simulated: Callable[..., Simulator],
    told: Callable[[], str],
) -> None:
    simulated(logs_finish=False)
    began = clock.monotonic()
    operator().execute(context())
    assert clock.monotonic() - began < 10
    assert "debug line 0000039" in told()


def test_a_server_without_logs_is_no_hindrance(
    simulated: Callable[..., Simulator],
    told: Callable[[], str],
) -> None:
    sim = simulated(lacks="boltCommandLogs")
    operator().execute(context())
    assert sim.count("paradime", "logs") == 1
    assert told().count("cannot be followed") == 1


def test_the_tasks_limits_end_the_following(sim: Simulator) -> None:
    sim.plan(system="paradime", resource="loud", outcome="stuck")
    with pytest.raises(RunTimedOut):
        operator(timeout=0.5).execute(context())
    assert_nobody_follows()
    with pytest.raises(AirflowTaskTimeout):
        run_here(operator(execution_timeout=timedelta(seconds=1)), context())
    assert_nobody_follows()


def test_a_killed_task_does_not_wait_for_the_output(
    sim: Simulator,
    later: Callable[..., None],  # noqa: F811
) -> None:
    sim.plan(system="paradime", resource="loud", outcome="stuck")
    task = operator()
    later(0.7, task.on_kill)
    began = clock.monotonic()
    with pytest.raises(Interrupted):
        task.execute(context())
    assert clock.monotonic() - began < 4
    assert_nobody_follows()


def assert_nobody_follows() -> None:
    eventually(lambda: "log-follower" not in {thread.name for thread in threading.enumerate()})


@pytest.mark.parametrize("wrong", [{"deferrable": True}, {"wait_for_completion": False}], ids=str)
def test_only_a_task_that_waits_on_a_worker_can_follow(sim: Simulator, wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match="stream_logs needs a task that waits on the worker"):
        operator(**wrong).execute(context())
    assert sim.runs() == []


def test_nothing_is_asked_for_by_default(sim: Simulator) -> None:
    operator(stream_logs=False).execute(context())
    assert sim.count("paradime", "logs") == 0
