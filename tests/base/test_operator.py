from __future__ import annotations

import copy
import json
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)

from airflow_provider_runs.base import own_state as own_states
from airflow_provider_runs.base.exceptions import (
    Interrupted,
    RequestRefused,
    RunCancelled,
    RunFailed,
    RunStatusUnknown,
    RunTimedOut,
    RunUnreachable,
)
from airflow_provider_runs.base.worker import Attended
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.errors import ApiError, ConnectionFailed, NotFound
from airflow_provider_runs.core.outcome import BadEvent, Limit, Outcome, Verdict
from airflow_provider_runs.core.retry import RetryPolicy
from tests.base.fakes import (
    FakeCancelRunOperator,
    FakeHook,
    FakeRetryRunOperator,
    FakeTriggerRunOperator,
    FullApi,
    PlainHook,
    Service,
    Store,
    fire,
    run_here,
)

GOLDEN = Path(__file__).parent.parent / "golden"
Later = Callable[[float, Callable[[], Any]], None]


def task(**changes: Any) -> FakeTriggerRunOperator:
    return FakeTriggerRunOperator(**{"task_id": "task", "job": "j", "timeout": 20, **changes})


def event(verdict: str, **changes: Any) -> dict[str, Any]:
    return {
        "v": 1,
        "outcome": verdict,
        "run_id": "r1",
        "status": "going",
        "message": None,
        "which": None,
        **changes,
    }


def mock_error(error: Exception) -> Callable[..., Any]:
    def fail(*arguments: Any) -> Any:
        raise error

    return fail


def ends(service: Service, status: str) -> Callable[[], None]:
    """Return what ends the run, as soon as there is one."""

    def end() -> None:
        until = clock.monotonic() + 10
        while not service.runs and clock.monotonic() < until:
            clock.sleep(0.01)
        for run_id in service.runs:
            service.runs[run_id] = status

    return end


# The same run, waited for in either way


def on_the_worker(operator: Any, context: dict[str, Any]) -> str:
    operator.deferrable = False
    return run_here(operator, context)


def deferred(operator: Any, context: dict[str, Any]) -> str:
    operator.deferrable = True
    resumed = copy.deepcopy(operator)  # the task is built anew after the pause
    try:
        return operator.execute(context)
    except TaskDeferred as pause:
        pausing = pause
    kind, arguments = pausing.trigger.serialize()
    assert kind == "tests.base.fakes.FakeRunTrigger"
    assert (pausing.method_name, pausing.timeout) == ("execute_complete", None)
    assert not pausing.kwargs
    trigger = type(pausing.trigger)(**json.loads(json.dumps(arguments)))
    return resumed.execute_complete(context, fire(trigger))


both_ways = pytest.mark.parametrize("run", [on_the_worker, deferred])
Way = Callable[[Any, dict[str, Any]], str]


@both_ways
def test_a_run_that_succeeds_gives_its_id_and_page(
    service: Service, context: dict[str, Any], later: Later, run: Way
) -> None:
    later(0.2, ends(service, "done"))
    assert run(task(), context) == "r1"
    pushed = {name: value for name, value in context["ti"].pushed.items() if value is not None}
    assert pushed == {"run_url": "http://fake/r1", "return_value": "r1"}
    assert len(service.called("trigger")) == 1


@both_ways
def test_a_run_that_fails_fails_the_task_with_the_reason_in_the_log(
    service: Service, context: dict[str, Any], later: Later, run: Way, told: Callable[[], str]
) -> None:
    later(0.2, ends(service, "broken"))
    with pytest.raises(RunFailed, match=r"Fake run r1 has failed \(broken\)") as failure:
        run(task(), context)
    assert not isinstance(failure.value, AirflowFailException)
    assert service.called("explain") == ["r1"]


@both_ways
def test_a_run_that_somebody_cancelled_is_not_retried(
    service: Service, context: dict[str, Any], later: Later, run: Way
) -> None:
    later(0.2, ends(service, "stopped"))
    with pytest.raises(RunCancelled) as failure:
        run(task(), context)
    assert isinstance(failure.value, AirflowFailException)


@both_ways
@pytest.mark.parametrize("cancel", [False, True])
def test_a_wait_that_takes_too_long_leaves_the_run_unless_told_otherwise(
    service: Service, context: dict[str, Any], run: Way, cancel: bool
) -> None:
    with pytest.raises(RunTimedOut, match="its last status was going"):
        run(task(timeout=0.2, cancel_on_timeout=cancel), context)
    assert service.called("cancel") == (["r1"] if cancel else [])


@both_ways
@pytest.mark.parametrize("cancel", [False, True])
def test_an_execution_timeout_cancels_the_run_unless_told_otherwise(
    service: Service, context: dict[str, Any], run: Way, cancel: bool, told: Callable[[], str]
) -> None:
    operator = task(execution_timeout=timedelta(seconds=0.5), cancel_on_kill=cancel)
    with pytest.raises(AirflowTaskTimeout):
        run(operator, context)
    assert service.called("cancel") == (["r1"] if cancel else [])
    assert "execution_timeout is over" in told()


@both_ways
def test_a_service_that_cannot_be_asked_is_no_verdict_and_may_be_retried(
    service: Service, context: dict[str, Any], run: Way
) -> None:
    service.errors["r1"] = ConnectionFailed("down", sent=False)
    with pytest.raises(RunUnreachable, match="no verdict") as failure:
        run(task(unreachable_timeout=0.2), context)
    assert not isinstance(failure.value, AirflowFailException)
    assert service.called("cancel") == []


@both_ways
def test_a_run_that_has_ended_when_it_is_started_is_not_waited_for(
    service: Service, context: dict[str, Any], run: Way
) -> None:
    service.status_of_new = "done"
    assert run(task(), context) == "r1"
    assert service.called("get") == []
    service.status_of_new = "broken"
    context["ti"].max_tries = 1
    with pytest.raises(RunFailed):
        run(task(), context)


@both_ways
def test_a_retry_attaches_in_either_way(
    service: Service, context: dict[str, Any], later: Later, run: Way
) -> None:
    with pytest.raises(RunTimedOut):
        run(task(timeout=0.1), context)
    later(0.2, ends(service, "done"))
    assert run(task(), context) == "r1"
    assert len(service.called("trigger")) == 1


@both_ways
def test_a_cleared_task_starts_anew_though_it_has_fewer_retries_now(
    service: Service, context: dict[str, Any], run: Way
) -> None:
    context["ti"].max_tries = 1
    context["dag_run"] = SimpleNamespace(clear_number=0)
    service.status_of_new = "done"
    assert run(task(retries=1), context) == "r1"
    context["ti"].try_number = 2
    context["dag_run"].clear_number = 1
    assert run(task(retries=0), context) == "r2"


@both_ways
def test_a_retry_attaches_though_another_task_was_cleared(
    service: Service, context: dict[str, Any], run: Way
) -> None:
    context["ti"].max_tries = 1
    context["dag_run"] = SimpleNamespace(clear_number=0)
    service.status_of_new = "done"
    assert run(task(retries=1), context) == "r1"
    context["ti"].try_number = 2
    context["dag_run"].clear_number = 1
    assert run(task(retries=1), context) == "r1"


@both_ways
def test_no_progress_ends_the_wait(service: Service, context: dict[str, Any], run: Way) -> None:
    service.status_of_new = "waiting"
    with pytest.raises(RunTimedOut, match="stays 'waiting'"):
        run(task(no_progress_timeout=timedelta(seconds=0.2)), context)


def test_a_task_that_does_not_wait_is_done_when_the_run_is_started(
    service: Service, context: dict[str, Any]
) -> None:
    assert task(wait_for_completion=False, deferrable=True).execute(context) == "r1"
    assert service.called("get") == []
    assert context["ti"].pushed["run_url"] == "http://fake/r1"


def test_id_and_page_are_known_before_anything_waits(service: Service, context: dict[str, Any]) -> None:
    with pytest.raises(TaskDeferred):
        task(deferrable=True).execute(context)
    pushed = [argument for call, argument in service.calls if call == "xcom"]
    assert [call for call, _ in service.calls] == ["store", "trigger", "store", "xcom", "xcom", "xcom"]
    assert pushed == ["run_url", "return_value", "run_left_going"]


def test_no_return_value_is_pushed_where_the_user_wants_none(
    service: Service, context: dict[str, Any]
) -> None:
    task(wait_for_completion=False, do_xcom_push=False).execute(context)
    assert context["ti"].pushed == {"run_url": "http://fake/r1"}


def test_the_trigger_has_the_arguments_that_databases_keep(
    service: Service, context: dict[str, Any], mocker: Any
) -> None:
    mocker.patch("airflow_provider_runs.core.clock.time", return_value=1000.0)
    context["ti"].start_date = datetime.fromtimestamp(1000, UTC)
    operator = task(
        deferrable=True,
        zone="eu",
        poll_interval="30",
        timeout="600",
        execution_timeout=timedelta(seconds=100),
    )
    with pytest.raises(TaskDeferred) as pause:
        operator.execute(context)
    golden = json.loads((GOLDEN / "trigger.json").read_text())
    arguments = {name: getattr(pause.value.trigger, name) for name in golden}
    assert pause.value.trigger.serialize()[1].items() <= arguments.items()
    # The clock is bound where the class is defined, so the start's time is real.
    arguments["started_at"] = 1000.0
    assert arguments == golden


# What resumes a task


@pytest.mark.parametrize(
    "odd",
    [
        None,
        {},
        "succeeded",
        {"outcome": "succeeded", "run_id": "r1"},
        event("succeeded", v=2),
        event("succeeded", run_id=None),
        event("succeeded", run_id=""),
        event("success"),
        event("timeout"),
        event("succeeded", which="timeout"),
        event("timeout", which="lunch"),
    ],
)
def test_an_event_that_cannot_be_relied_on_is_a_failure(service: Service, odd: Any) -> None:
    with pytest.raises(BadEvent):
        task().execute_complete({}, odd)


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (event("failed"), RunFailed),
        (event("cancelled"), RunCancelled),
        (event("timeout", which="timeout"), RunTimedOut),
        (event("timeout", which="no_progress_timeout"), RunTimedOut),
        (event("timeout", which="execution_timeout"), AirflowTaskTimeout),
        (event("unreachable"), RunUnreachable),
        (event("unknown"), RunStatusUnknown),
    ],
)
def test_every_outcome_but_success_fails_the_task(
    service: Service, payload: dict[str, Any], error: type[BaseException]
) -> None:
    service.runs["r1"] = "going"
    with pytest.raises(error) as failure:
        task().execute_complete({}, payload)
    assert type(failure.value) is error


def test_a_long_explanation_is_cut_to_its_end(service: Service, mocker: Any, told: Callable[[], str]) -> None:
    operator = task()
    mocker.patch.object(operator.hook, "explain_run", return_value="x" * 50_000 + "the end")
    with pytest.raises(RunFailed):
        operator.execute_complete({}, Outcome(Verdict.FAILED, "r1", "broken").event())
    said = told()
    assert "the end" in said
    assert "[30007 characters before this]" in said
    # Airflow 2 says it twice to a test: to logging and to the screen.
    assert said.count("x" * 1000) <= 2 * 20


def test_a_failed_explanation_hides_no_verdict(service: Service, mocker: Any) -> None:
    operator = task()
    mocker.patch.object(operator.hook, "explain_run", side_effect=ConnectionFailed("down", sent=False))
    with pytest.raises(RunFailed):
        operator.execute_complete({}, Outcome(Verdict.FAILED, "r1", "broken").event())


def test_a_failed_cancellation_hides_no_verdict(service: Service, mocker: Any) -> None:
    operator = task()
    mocker.patch.object(operator.hook, "cancel_run", side_effect=ConnectionFailed("down", sent=False))
    late = Outcome(Verdict.TIMEOUT, "r1", "going", "late", Limit.EXECUTION_TIMEOUT)
    with pytest.raises(AirflowTaskTimeout):
        operator.execute_complete({}, late.event())


def test_where_nothing_can_cancel_the_log_says_that_the_run_goes_on_and_where(
    service: Service, monkeypatch: pytest.MonkeyPatch, told: Callable[[], str]
) -> None:
    service.runs["r1"] = "going"
    monkeypatch.setattr(FakeTriggerRunOperator, "hook_class", PlainHook)
    late = Outcome(Verdict.TIMEOUT, "r1", "going", "late", Limit.EXECUTION_TIMEOUT)
    with pytest.raises(AirflowTaskTimeout):
        task().execute_complete({}, late.event())
    assert "run r1 goes on (Fake cannot cancel): http://fake/r1" in told()


def test_the_page_of_a_run_that_goes_on_is_asked_for_once(service: Service, mocker: Any) -> None:
    operator = task(cancel_on_timeout=False)
    drive = mocker.patch.object(operator.hook, "drive", side_effect=ConnectionFailed("down", sent=False))
    late = Outcome(Verdict.TIMEOUT, "r1", "going", "late", Limit.TIMEOUT)
    with pytest.raises(RunTimedOut):
        operator.execute_complete({}, late.event())
    (call,) = drive.call_args_list
    assert call.args[1].attempts == 1


# Being told to stop


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Say which state the task has when it asks."""

    def say(state: str | None) -> None:
        from airflow_provider_runs.base import operator

        monkeypatch.setattr(operator, "own_state", lambda ti: state)

    return say


BY_PERSON = ["failed", "success", "skipped", "restarting", "removed"]


@pytest.fixture(autouse=True)
def no_helper_starts_another(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have no helper thread of a task start another, which may outlive the task and what Airflow gave it."""
    nested, start = [], Attended._start

    def started(self: Attended, work: Any) -> None:
        if threading.current_thread().name == "run-task-helper":
            nested.append(work)
        start(self, work)

    monkeypatch.setattr(Attended, "_start", started)
    yield
    assert nested == []


NOT_BY_PERSON = ["running", "queued", "scheduled", "up_for_retry", "deferred", own_states.UNREADABLE]


@pytest.mark.parametrize("state", BY_PERSON)
def test_a_task_that_a_person_ended_cancels_its_run(
    service: Service, context: dict[str, Any], later: Later, states: Any, state: str
) -> None:
    operator = task()
    states(state)
    later(0.2, operator.on_kill)
    began = clock.monotonic()
    with pytest.raises(Interrupted, match=state):
        operator.execute(context)
    assert service.called("cancel") == ["r1"]
    assert clock.monotonic() - began < 2


@pytest.mark.parametrize("state", NOT_BY_PERSON)
def test_a_process_that_has_to_go_leaves_the_run_and_the_retry_attaches(
    service: Service, context: dict[str, Any], later: Later, states: Any, state: str
) -> None:
    operator = task()
    states(state)
    later(0.2, operator.on_kill)
    with pytest.raises(Interrupted, match="left alone"):
        operator.execute(context)
    assert service.called("cancel") == []
    later(0.2, ends(service, "done"))
    assert task().execute(context) == "r1"
    assert len(service.called("trigger")) == 1


def test_a_process_that_has_to_go_waits_for_the_answer_that_is_just_coming(
    service: Service, context: dict[str, Any], later: Later, states: Any
) -> None:
    service.before_answer = lambda: clock.sleep(0.5)
    operator = task(deferrable=False)
    states("running")
    later(0.2, operator.on_kill)
    with pytest.raises(Interrupted, match="r1 is left alone"):
        operator.execute(context)
    record = context["task_state_store"]["run"]
    assert (record["run_id"], record["left"]) == ("r1", True)


def test_a_process_that_has_to_go_does_not_write_over_an_answer_that_comes_late(
    service: Service, context: dict[str, Any], later: Later, states: Any
) -> None:
    store = context["task_state_store"]
    get, keep = store.get, store.set

    def slow_get(key: str) -> Any:
        found = get(key)
        clock.sleep(0.4 if service.called("trigger") else 0)
        return found

    def slow_set(key: str, value: Any) -> None:
        clock.sleep(0.4 if service.called("trigger") else 0)
        keep(key, value)

    store.get, store.set = slow_get, slow_set
    service.before_answer = lambda: clock.sleep(2.4)
    operator = task(deferrable=False)
    states("running")
    later(0.2, operator.on_kill)
    with pytest.raises(Interrupted):
        operator.execute(context)
    clock.sleep(1)
    assert (store["run"]["run_id"], store["run"]["left"]) == ("r1", True)


def test_a_run_that_the_task_has_cancelled_is_not_left_when_its_process_has_to_go(
    service: Service, context: dict[str, Any], states: Any, mocker: Any
) -> None:
    operator = task(timeout=0.2, cancel_on_timeout=True, deferrable=False)
    states("running")
    cancel = operator.hook._cancel

    def killed(run_id: str, turn: Any) -> None:
        cancel(run_id, turn)
        operator.on_kill()

    mocker.patch.object(operator.hook, "_cancel", killed)
    with pytest.raises(Interrupted):
        operator.execute(context)
    service.status_of_new = "done"
    assert on_the_worker(task(cancel_on_timeout=True), context) == "r2"


def test_a_killed_task_sends_no_cancel_where_it_must_not(
    service: Service, context: dict[str, Any], later: Later, states: Any
) -> None:
    operator = task(cancel_on_kill=False)
    states("failed")
    later(0.2, operator.on_kill)
    with pytest.raises(Interrupted):
        operator.execute(context)
    assert service.called("cancel") == []


def test_a_kill_during_the_start_request_cancels_the_run_that_it_started(
    service: Service, context: dict[str, Any], later: Later, states: Any
) -> None:
    service.before_answer = lambda: clock.sleep(0.6)
    operator = task()
    states("failed")
    later(0.2, operator.on_kill)
    with pytest.raises(Interrupted):
        operator.execute(context)
    assert service.called("cancel") == ["r1"]


def test_a_kill_during_a_start_that_does_not_answer_finds_the_run_by_its_marker(
    service: Service, context: dict[str, Any], later: Later, states: Any
) -> None:
    service.before_answer = lambda: clock.sleep(10)
    operator = task()
    states("failed")
    later(0.2, operator.on_kill)
    began = clock.monotonic()
    with pytest.raises(Interrupted):
        operator.execute(context)
    assert clock.monotonic() - began < 5
    assert service.called("find_started") != []
    assert service.called("cancel") == ["r1"]


def test_an_old_try_that_wakes_while_it_waits_for_an_ended_run_cancels_nothing(
    service: Service, context: dict[str, Any], later: Later, states: Any
) -> None:
    operator = task(poll_interval=60, min_poll_interval=60)
    states("success")
    later(0.2, ends(service, "done"))
    later(0.3, operator.on_kill)
    with pytest.raises(Interrupted):
        operator.execute(context)
    assert service.called("cancel") == []


@pytest.mark.parametrize("state", ["failed", "success"])
def test_an_old_try_that_a_newer_one_has_replaced_leaves_the_run_alone(
    service: Service, context: dict[str, Any], later: Later, states: Any, state: str
) -> None:
    operator = task(poll_interval=60, min_poll_interval=60)
    states(state)
    # What the old try has stored is out of its reach, and the newer one has left the run going.
    later(0.2, context["task_state_store"].clear)
    later(0.3, operator.on_kill)
    with pytest.raises(Interrupted):
        operator.execute(context)
    assert service.called("cancel") == []


def test_an_old_try_whose_alarm_rings_late_leaves_the_run_alone(
    service: Service, context: dict[str, Any], later: Later
) -> None:
    later(0.2, context["task_state_store"].clear)
    with pytest.raises(AirflowTaskTimeout):
        on_the_worker(task(execution_timeout=timedelta(seconds=0.5)), context)
    assert service.called("cancel") == []


def test_an_old_try_whose_wait_is_over_late_leaves_the_run_alone(
    service: Service, context: dict[str, Any], later: Later
) -> None:
    later(0.2, context["task_state_store"].clear)
    with pytest.raises(RunTimedOut):
        on_the_worker(task(timeout=0.5, cancel_on_timeout=True), context)
    assert service.called("cancel") == []


def test_a_store_that_does_not_answer_keeps_no_timeout_from_cancelling(
    service: Service, context: dict[str, Any], mocker: Any
) -> None:
    store = context["task_state_store"]

    def silent(key: str) -> Any:
        if service.called("trigger"):
            raise ConnectionError("no answer")
        return None

    mocker.patch.object(store, "get", side_effect=silent)
    with pytest.raises(AirflowTaskTimeout):
        on_the_worker(task(execution_timeout=timedelta(seconds=0.5)), context)
    assert service.called("cancel") == ["r1"]


@both_ways
def test_a_run_that_is_left_going_is_noted(service: Service, context: dict[str, Any], run: Way) -> None:
    with pytest.raises(RunTimedOut):
        run(task(timeout=0.2), context)
    assert context["ti"].pushed["run_left_going"] == "r1"


@both_ways
def test_a_run_that_survives_the_execution_timeout_is_noted(
    service: Service, context: dict[str, Any], run: Way
) -> None:
    with pytest.raises(AirflowTaskTimeout):
        run(task(execution_timeout=timedelta(seconds=0.5), cancel_on_kill=False), context)
    assert context["ti"].pushed["run_left_going"] == "r1"
    assert context["task_state_store"]["run"]["left"] is True


@pytest.mark.parametrize(
    ("verdict", "left"),
    [("unreachable", True), ("unknown", True), ("failed", False), ("cancelled", False), ("succeeded", False)],
)
def test_only_a_run_that_may_go_on_is_noted_as_left(
    service: Service, context: dict[str, Any], verdict: str, left: bool
) -> None:
    with pytest.raises(TaskDeferred):
        task(deferrable=True).execute(context)
    with suppress(RunFailed, RunUnreachable, RunStatusUnknown):
        task().execute_complete(context, event(verdict, status="done"))
    assert context["ti"].pushed["run_left_going"] == ("r1" if left else None)


def test_an_old_try_notes_nothing_where_a_newer_one_waits_for_the_run(
    service: Service, context: dict[str, Any]
) -> None:
    with pytest.raises(TaskDeferred):
        task(deferrable=True).execute(context)
    context["task_state_store"].clear()
    with pytest.raises(RunUnreachable):
        task().execute_complete(context, event("unreachable"))
    assert context["ti"].pushed["run_left_going"] is None


def test_a_run_that_was_cancelled_is_not_noted_as_left(service: Service, context: dict[str, Any]) -> None:
    with pytest.raises(RunTimedOut):
        on_the_worker(task(timeout=0.2, cancel_on_timeout=True), context)
    assert "run_left_going" not in context["ti"].pushed


def test_a_run_that_cannot_be_looked_at_is_cancelled_unseen(
    service: Service, context: dict[str, Any], later: Later, states: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = task(poll_interval=60, min_poll_interval=60)
    states("failed")
    look = operator.hook.get_run
    monkeypatch.setattr(operator.hook, "get_run", lambda run_id: clock.sleep(2.5) or look(run_id))
    later(0.2, operator.on_kill)
    with pytest.raises(Interrupted):
        operator.execute(context)
    assert service.called("cancel") == ["r1"]


def test_an_old_try_that_wakes_after_the_newer_one_has_ended_cancels_nothing(
    service: Service, context: dict[str, Any], later: Later, states: Any
) -> None:
    service.before_answer = lambda: clock.sleep(10)
    operator = task()
    states("success")
    later(0.1, ends(service, "done"))
    later(0.2, operator.on_kill)
    with pytest.raises(Interrupted):
        operator.execute(context)
    assert service.called("find_started") != []
    assert service.called("cancel") == []


def test_a_kill_before_the_start_request_starts_nothing(
    service: Service, context: dict[str, Any], later: Later, states: Any, mocker: Any
) -> None:
    operator = task()
    states("failed")
    original = operator.hook.api.prepare
    mocker.patch.object(operator.hook.api, "prepare", lambda a: (clock.sleep(0.5), original(a)))
    later(0.2, operator.on_kill)
    with pytest.raises(Interrupted):
        operator.execute(context)
    clock.sleep(0.5)
    assert service.called("trigger") == []
    assert service.runs == {}


def test_airflows_own_alarm_on_the_worker_cancels_the_run(service: Service, context: dict[str, Any]) -> None:
    import signal

    def alarm(number: int, frame: Any) -> None:
        raise AirflowTaskTimeout("alarm")

    before = signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(AirflowTaskTimeout, match="alarm"):
            task().execute(context)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert service.called("cancel") == ["r1"]


def test_an_alarm_while_the_task_is_cancelling_does_not_keep_it_from_that(
    service: Service, context: dict[str, Any], mocker: Any
) -> None:
    operator = task(
        timeout=0.2, cancel_on_timeout=True, execution_timeout=timedelta(seconds=0.6), deferrable=False
    )
    cancel = operator.hook._cancel

    def slow(run_id: str, turn: Any) -> None:
        clock.sleep(1)
        cancel(run_id, turn)

    mocker.patch.object(operator.hook, "_cancel", slow)
    with pytest.raises(AirflowTaskTimeout):
        run_here(operator, context)
    assert service.runs["r1"] == "stopped"


def test_a_kill_while_the_start_is_being_repeated_starts_nothing_afterwards(
    service: Service, context: dict[str, Any], later: Later, states: Any
) -> None:
    asked: list[bool] = []
    operator = task()
    states("failed")

    def start(arguments: Any, key: Any, began: float, retry: RetryPolicy) -> Any:
        clock.sleep(0.5)
        asked.append(retry.stopped())
        raise ConnectionFailed("stopped", sent=False)

    operator.hook.start = start  # type: ignore[method-assign]
    later(0.2, operator.on_kill)
    with pytest.raises(Interrupted):
        operator.execute(context)
    assert asked == [True]


def test_a_connection_that_cannot_be_read_hides_no_verdict(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_FAKE_DEFAULT")
    monkeypatch.setattr(FakeHook, "get_connection", classmethod(lambda *a: 1 / 0))
    with pytest.raises(RunFailed):
        task().execute_complete({}, Outcome(Verdict.FAILED, "r1", "broken").event())
    for which, error in ((Limit.TIMEOUT, RunTimedOut), (Limit.EXECUTION_TIMEOUT, AirflowTaskTimeout)):
        with pytest.raises(error):
            task().execute_complete({}, Outcome(Verdict.TIMEOUT, "r1", "going", "late", which).event())


def test_a_task_that_does_not_wait_but_is_killed_cancels_its_run(
    service: Service, context: dict[str, Any], states: Any
) -> None:
    operator = task(wait_for_completion=False)
    states("failed")
    context["ti"].xcom_push = lambda key, value: operator.on_kill()
    with pytest.raises(Interrupted):
        operator.execute(context)
    assert service.called("cancel") == ["r1"]


def test_airflow_2_raises_after_on_kill_and_the_same_holds(
    service: Service, context: dict[str, Any], states: Any
) -> None:
    import signal

    class Terminated(BaseException):
        pass

    operator = task()
    states("failed")

    def terminate(number: int, frame: Any) -> None:
        operator.on_kill()
        raise Terminated

    before = signal.signal(signal.SIGALRM, terminate)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(Interrupted):
            operator.execute(context)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert service.called("cancel") == ["r1"]


def test_on_kill_outside_of_execute_does_nothing(service: Service) -> None:
    task().on_kill()
    assert service.calls == []


def test_a_cancellation_is_read_back(service: Service, mocker: Any, told: Callable[[], str]) -> None:
    service.runs["r1"] = "going"
    operator = task()
    mocker.patch.object(operator.hook, "_cancel")
    late = Outcome(Verdict.TIMEOUT, "r1", "going", "late", Limit.EXECUTION_TIMEOUT).event()
    with pytest.raises(AirflowTaskTimeout):
        operator.execute_complete({}, late)
    assert "run r1 is still going after it was cancelled" in told()


# Arguments


@pytest.mark.parametrize(
    "changes",
    [
        {"job": "bad"},
        {"fake_conn_id": ""},
        {"timeout": "soon"},
        {"poll_interval": -1},
        {"min_poll_interval": True},
        {"unreachable_timeout": 0},
        {"no_progress_timeout": []},
        {"zone": ""},
    ],
)
@pytest.mark.parametrize("deferrable", [False, True])
def test_bad_arguments_fail_the_task_before_anything_is_started(
    service: Service, context: dict[str, Any], changes: dict[str, Any], deferrable: bool
) -> None:
    with pytest.raises(RequestRefused):
        task(deferrable=deferrable, **changes).execute(context)
    assert service.runs == {}


def test_a_mapped_task_goes_on_only_with_the_run_of_the_same_item(
    service: Service, context: dict[str, Any]
) -> None:
    context["ti"].map_index = 0
    assert task(payload={"day": 1}, wait_for_completion=False).execute(context) == "r1"
    assert task(payload={"day": 1}, wait_for_completion=False).execute(context) == "r1"
    assert task(payload={"day": 2}, wait_for_completion=False).execute(context) == "r2"
    assert service.called("cancel") == ["r1"]


def test_a_task_that_is_not_mapped_goes_on_with_its_run_though_rendered_times_differ(
    service: Service, context: dict[str, Any]
) -> None:
    assert task(payload={"now": 1}, wait_for_completion=False).execute(context) == "r1"
    assert task(payload={"now": 2}, wait_for_completion=False).execute(context) == "r1"


def test_an_operator_can_be_copied_and_pickled() -> None:
    operator = task()
    operator.on_kill()
    assert copy.deepcopy(operator).job == "j"
    assert pickle.loads(pickle.dumps(operator)).job == "j"


def test_every_argument_of_a_run_is_a_template_field() -> None:
    wanted = {"job", "payload", "fake_conn_id", "zone", "timeout", "poll_interval"}
    assert wanted <= set(FakeTriggerRunOperator.template_fields)
    assert all(hasattr(task(), name) for name in FakeTriggerRunOperator.template_fields)


# The reason of a bad end


@pytest.mark.parametrize("verdict", ["failed", "cancelled"])
def test_the_error_says_what_the_service_explains_where_the_run_says_nothing(
    service: Service, verdict: str, told: Callable[[], str]
) -> None:
    with pytest.raises(RunFailed, match=r"step 2 of r1 raised ValueError"):
        task().execute_complete({}, event(verdict, status="broken"))
    assert "Fake about run r1:" in told()


def test_the_runs_own_message_comes_first(service: Service) -> None:
    with pytest.raises(RunFailed, match="own words"):
        task().execute_complete({}, event("failed", status="broken", message="own words"))


def test_a_run_that_makes_no_progress_is_explained(service: Service, told: Callable[[], str]) -> None:
    late = event("timeout", which="no_progress_timeout", message="stays going")
    with pytest.raises(RunTimedOut, match="stays going"):
        task().execute_complete({}, late)
    assert "step 2 of r1" in told()


def test_a_success_and_an_outage_need_no_explanation(service: Service) -> None:
    assert task().execute_complete({}, event("succeeded", status="done")) == "r1"
    with pytest.raises(RunUnreachable):
        task().execute_complete({}, event("unreachable"))
    assert service.called("explain") == []


# Going on with an ended run


def retry_task(**changes: Any) -> FakeRetryRunOperator:
    return FakeRetryRunOperator(**{"task_id": "task", "run_id": "r1", "timeout": 20, **changes})


@both_ways
def test_an_ended_run_is_retried_and_waited_for(service: Service, context: dict[str, Any], run: Way) -> None:
    service.runs["r1"] = "broken"
    service.retried_status = "done"
    assert run(retry_task(step="load"), context) == "r1"
    assert service.called("retry") == [("r1", {"step": "load"})]
    assert service.called("trigger") == []
    assert context["ti"].pushed["run_url"] == "http://fake/r1"


@both_ways
def test_a_retried_run_that_fails_again_fails_the_task(
    service: Service, context: dict[str, Any], run: Way, later: Later
) -> None:
    service.runs["r1"] = "broken"
    later(0.3, lambda: service.runs.update(r1="broken"))
    with pytest.raises(RunFailed):
        run(retry_task(), context)
    assert len(service.called("retry")) == 1


def test_the_next_try_attaches_to_the_run_that_was_retried(service: Service, context: dict[str, Any]) -> None:
    service.runs["r1"] = "broken"
    with pytest.raises(RunTimedOut):
        on_the_worker(retry_task(timeout=0.2), context)
    service.runs["r1"] = "done"
    assert on_the_worker(retry_task(), context) == "r1"
    assert len(service.called("retry")) == 1


def test_another_run_id_counts_as_another_generation(service: Service, context: dict[str, Any]) -> None:
    service.runs |= {"r1": "broken", "r2": "broken"}
    service.retried_status = "done"
    on_the_worker(retry_task(), context)
    on_the_worker(retry_task(run_id="r2"), context)
    assert [run_id for run_id, _ in service.called("retry")] == ["r1", "r2"]


@pytest.mark.parametrize("run_id", ["", "None", " "])
def test_a_retry_of_no_run_is_refused(service: Service, context: dict[str, Any], run_id: str) -> None:
    with pytest.raises(RequestRefused, match="run_id is empty"):
        on_the_worker(retry_task(run_id=run_id), context)
    assert service.calls == []


def test_a_trigger_operator_may_go_on_with_its_own_failed_run(
    service: Service, context: dict[str, Any]
) -> None:
    operator = task()
    operator.retry_from_failure = True
    service.status_of_new = "broken"
    with pytest.raises(RunFailed):
        on_the_worker(operator, context)
    service.retried_status = "done"
    assert on_the_worker(operator, context) == "r1"
    assert service.called("retry") == [("r1", {})]
    assert len(service.called("trigger")) == 1


# Cancelling


def cancel_task(**changes: Any) -> FakeCancelRunOperator:
    return FakeCancelRunOperator(**{"task_id": "task", "run_id": "r1", **changes})


def test_a_run_is_cancelled_and_read_back(service: Service, context: dict[str, Any]) -> None:
    service.runs["r1"] = "going"
    assert cancel_task().execute(context) == "r1"
    assert service.runs["r1"] == "stopped"
    assert context["ti"].pushed["run_url"] == "http://fake/r1"


@pytest.mark.parametrize("status", ["done", "broken", "stopped"])
def test_cancelling_an_ended_run_is_no_error(
    service: Service, context: dict[str, Any], status: str, told: Callable[[], str]
) -> None:
    service.runs["r1"] = status
    cancel_task().execute(context)
    assert service.runs["r1"] == status
    assert f"Fake run r1 has ended: {status}" in told()


def test_many_runs_are_cancelled_and_no_bad_one_keeps_the_others_from_it(
    service: Service, context: dict[str, Any]
) -> None:
    service.runs |= {"r1": "going", "r2": "going", "r3": "going"}
    service.cancel_errors = {"r2": NotFound("no run r2", status=404)}
    with pytest.raises(RequestRefused, match="no run r2"):
        cancel_task(run_id=["r1", "r2", "r3"]).execute(context)
    assert service.runs == {"r1": "stopped", "r2": "going", "r3": "stopped"}
    del service.cancel_errors["r2"]
    assert cancel_task(run_id=["r1", "r2", "r3"]).execute(context) == ["r1", "r2", "r3"]
    assert "run_url" not in context["ti"].pushed


def test_an_error_that_may_heal_is_raised_as_it_is_so_that_a_retry_may_help(
    service: Service, context: dict[str, Any]
) -> None:
    service.runs |= {"r1": "going", "r2": "going"}
    down = ConnectionFailed("down", sent=True)
    service.cancel_errors = {"r1": ApiError("never", status=400), "r2": down}
    with pytest.raises(ConnectionFailed, match="down"):
        cancel_task(run_id=["r1", "r2"]).execute(context)


def test_a_run_that_goes_on_after_it_was_cancelled_fails_the_task(
    service: Service, context: dict[str, Any], mocker: Any
) -> None:
    service.runs["r1"] = "going"
    operator = cancel_task(timeout=0.1)
    mocker.patch.object(operator.hook, "cancel_run")
    with pytest.raises(RunTimedOut, match="r1 is still going after it was cancelled"):
        operator.execute(context)


@pytest.mark.parametrize(
    "changes", [{"run_id": ""}, {"run_id": []}, {"run_id": ["r1", ""]}, {"timeout": 0}, {"timeout": None}]
)
def test_a_senseless_cancel_is_refused_before_anything_is_sent(
    service: Service, context: dict[str, Any], changes: dict[str, Any]
) -> None:
    service.runs["r1"] = "going"
    with pytest.raises(RequestRefused):
        cancel_task(**changes).execute(context)
    assert service.calls == []


# Rules for the verdict


@both_ways
@pytest.mark.parametrize(
    ("rule", "raised"),
    [("fail_without_retry", RunCancelled), ("retry", RunFailed), ("skip", AirflowSkipException)],
)
def test_a_run_that_somebody_cancelled_means_what_the_user_says(
    service: Service, context: dict[str, Any], later: Later, run: Way, rule: str, raised: type[Exception]
) -> None:
    later(0.2, ends(service, "stopped"))
    with pytest.raises(raised) as caught:
        run(task(on_remote_cancel=rule), context)
    assert isinstance(caught.value, AirflowFailException) == (rule == "fail_without_retry")


def test_a_retry_after_a_cancel_starts_another_run_where_that_is_wanted(
    service: Service, context: dict[str, Any]
) -> None:
    service.status_of_new = "stopped"
    with pytest.raises(RunFailed):
        on_the_worker(task(on_remote_cancel="retry"), context)
    service.status_of_new = "done"
    assert on_the_worker(task(on_remote_cancel="retry"), context) == "r2"


@both_ways
@pytest.mark.parametrize(
    ("changes", "raised"),
    [
        ({"on_remote_cancel": "fail_without_retry"}, RunCancelled),
        ({"on_remote_cancel": "skip"}, AirflowSkipException),
        ({"on_remote_cancel": "retry", "skip_on_states": ["stopped"]}, AirflowSkipException),
    ],
)
def test_a_retry_starts_no_run_that_the_rules_forbid(
    service: Service, context: dict[str, Any], run: Way, changes: dict[str, Any], raised: type[Exception]
) -> None:
    with pytest.raises(RunTimedOut):
        run(task(timeout=0.2, **changes), context)
    # A person stops it before the retry looks.
    service.runs["r1"] = "stopped"
    with pytest.raises(raised):
        run(task(**changes), context)
    assert list(service.runs) == ["r1"]


@both_ways
@pytest.mark.parametrize(
    ("changes", "raised"),
    [
        ({"timeout": 0.2, "cancel_on_timeout": True}, RunTimedOut),
        ({"execution_timeout": timedelta(seconds=0.5)}, AirflowTaskTimeout),
    ],
)
def test_a_retry_starts_another_run_where_the_task_itself_has_cancelled_the_last(
    service: Service, context: dict[str, Any], run: Way, changes: dict[str, Any], raised: type[BaseException]
) -> None:
    with pytest.raises(raised):
        run(task(skip_on_states=["stopped"], **changes), context)
    assert service.runs == {"r1": "stopped"}
    service.status_of_new = "done"
    assert run(task(skip_on_states=["stopped"], **changes), context) == "r2"


@pytest.mark.parametrize("state", ["running", "up_for_retry"])
def test_a_run_that_an_evicted_try_left_may_end_by_the_rules(
    service: Service, context: dict[str, Any], later: Later, states: Any, state: str
) -> None:
    operator = task()
    states(state)
    later(0.2, operator.on_kill)
    with pytest.raises(Interrupted):
        operator.execute(context)
    service.runs["r1"] = "stopped"
    with pytest.raises(RunCancelled):
        task().execute(context)


@pytest.mark.parametrize(
    ("changes", "status", "raised"),
    [
        ({"skip_on_states": "broken"}, "broken", AirflowSkipException),
        ({"cancel_on_kill": False, "execution_timeout": timedelta(minutes=1)}, "stopped", RunCancelled),
        ({}, "stopped", RunCancelled),
    ],
)
def test_what_no_cancel_of_the_task_can_have_done_is_the_verdict_also_after_a_sudden_death(
    service: Service, context: dict[str, Any], changes: dict[str, Any], status: str, raised: type[Exception]
) -> None:
    context["dag_run"] = SimpleNamespace(clear_number=2)
    with pytest.raises(TaskDeferred):
        task(deferrable=True, **changes).execute(context)
    service.runs["r1"] = status
    with pytest.raises(raised):
        on_the_worker(task(**changes), context)


@pytest.mark.parametrize(
    ("changes", "clears"),
    [
        ({}, 3),
        ({}, None),
        ({"execution_timeout": timedelta(minutes=1)}, 2),
        ({"cancel_on_timeout": True}, 2),
    ],
)
def test_what_a_cancel_of_the_task_may_have_done_is_no_verdict_after_a_sudden_death(
    service: Service, context: dict[str, Any], changes: dict[str, Any], clears: int | None
) -> None:
    context["dag_run"] = SimpleNamespace(clear_number=2)
    with pytest.raises(TaskDeferred):
        task(deferrable=True, **changes).execute(context)
    service.runs["r1"] = "stopped"
    service.status_of_new = "done"
    context["dag_run"].clear_number = clears
    context["ti"].try_number, context["ti"].max_tries = 2, 0
    assert on_the_worker(task(retries=1, **changes), context) == "r2"


def test_where_the_task_cannot_cancel_somebody_else_has(
    service: Service, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeTriggerRunOperator, "hook_class", PlainHook)
    operator = task(deferrable=True)
    with pytest.raises(TaskDeferred):
        operator.execute(context)
    late = event("timeout", which="execution_timeout", message="late")
    with pytest.raises(AirflowTaskTimeout):
        operator.execute_complete(context, late)
    with pytest.raises(RunCancelled):
        operator.execute_complete(context, event("cancelled", status="stopped"))


@pytest.fixture
def slow_to_stop(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the service take a cancel, and the run go on for some time."""

    def cancel(self: Any, run_id: str) -> Any:
        service.calls.append(("cancel", run_id))
        yield from ()

    monkeypatch.setattr(FullApi, "cancel", cancel)


@both_ways
@pytest.mark.parametrize("rules", [{}, {"skip_on_states": "stopped"}])
def test_a_run_that_stops_only_while_the_next_try_waits_was_cancelled_by_nobody_else(
    service: Service,
    context: dict[str, Any],
    run: Way,
    later: Later,
    slow_to_stop: None,
    rules: dict[str, Any],
) -> None:
    with pytest.raises(RunTimedOut):
        run(task(timeout=0.3, cancel_on_timeout=True, **rules), context)
    assert service.called("cancel") == ["r1"] and service.runs["r1"] == "going"
    later(0.3, ends(service, "stopped"))
    with pytest.raises(RunFailed, match="by an earlier try") as caught:
        run(task(**rules), context)
    assert not isinstance(caught.value, AirflowFailException)
    service.status_of_new = "done"
    assert run(task(**rules), context) == "r2"


def test_a_cleared_task_that_meets_its_old_run_while_that_stops_starts_another(
    service: Service, context: dict[str, Any], later: Later, states: Any, slow_to_stop: None
) -> None:
    context["dag_run"] = SimpleNamespace(clear_number=0)
    operator = task()
    states("restarting")
    later(0.2, operator.on_kill)
    with pytest.raises(Interrupted):
        operator.execute(context)
    later(0.3, ends(service, "stopped"))
    context["dag_run"].clear_number, context["ti"].try_number = 1, 2
    with pytest.raises(RunFailed, match="by an earlier try"):
        task(retries=1).execute(context)
    service.status_of_new = "done"
    assert task(retries=1).execute(context) == "r2"


def test_a_run_that_cannot_be_looked_at_after_the_tasks_own_cancel_is_not_somebody_elses(
    service: Service, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AirflowTaskTimeout):
        on_the_worker(task(execution_timeout=timedelta(seconds=0.5)), context)
    again = task(execution_timeout=timedelta(seconds=5))
    monkeypatch.setattr(again.hook, "get_run", mock_error(ConnectionFailed("down", sent=False)))
    with pytest.raises(RunFailed, match="by an earlier try"):
        on_the_worker(again, context)
    service.status_of_new = "done"
    assert on_the_worker(task(), context) == "r2"


def test_a_cleared_task_whose_process_cancelled_the_run_starts_another(
    service: Service, context: dict[str, Any], later: Later, states: Any
) -> None:
    operator = task()
    states("restarting")
    # Airflow has given the next try's id to the task, so that this try writes and reads nothing any more.
    store = Store()
    later(0.2, lambda: store.update(context["task_state_store"]))
    later(0.3, context["task_state_store"].clear)
    later(0.4, operator.on_kill)
    with pytest.raises(Interrupted):
        operator.execute(context)
    assert service.called("cancel") == ["r1"]
    service.status_of_new = "done"
    assert task().execute({**context, "task_state_store": store}) == "r2"


@both_ways
@pytest.mark.parametrize("status", ["broken", "stopped", "done"])
@pytest.mark.parametrize("given", [["broken", "STOPPED", "done"], "{status}"])
def test_a_status_may_skip_the_task(
    service: Service, context: dict[str, Any], later: Later, run: Way, status: str, given: Any
) -> None:
    states = given if isinstance(given, list) else given.format(status=status)
    later(0.2, ends(service, status))
    with pytest.raises(AirflowSkipException, match=f"ended as {status}, which is in skip_on_states"):
        run(task(skip_on_states=states), context)


@both_ways
def test_another_status_does_not_skip_the_task(
    service: Service, context: dict[str, Any], later: Later, run: Way
) -> None:
    later(0.2, ends(service, "broken"))
    with pytest.raises(RunFailed):
        run(task(skip_on_states=["stopped"]), context)


def test_a_wait_without_a_verdict_skips_nothing(service: Service) -> None:
    with pytest.raises(RunUnreachable):
        task(skip_on_states=["broken"]).execute_complete({}, event("unreachable", status="broken"))


@pytest.mark.parametrize(
    "changes",
    [
        {"on_remote_cancel": "perhaps"},
        {"if_running": "perhaps"},
        {"skip_on_states": ["going"]},
        {"skip_on_states": "nonsense"},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_before_anything_is_started(
    service: Service, context: dict[str, Any], changes: dict[str, Any]
) -> None:
    with pytest.raises(RequestRefused):
        on_the_worker(task(**changes), context)
    assert service.calls == []


# A run that somebody else started


@both_ways
def test_a_run_of_others_is_waited_for_and_survives_every_deadline(
    service: Service, context: dict[str, Any], run: Way
) -> None:
    service.runs["r1"] = "going"
    with pytest.raises(RunTimedOut):
        run(task(if_running="attach", timeout=0.3, cancel_on_timeout=True), context)
    with pytest.raises(AirflowTaskTimeout):
        run(task(if_running="attach", execution_timeout=timedelta(seconds=0.5)), context)
    assert service.runs == {"r1": "going"}
    assert service.called("cancel") == service.called("trigger") == []


def test_a_run_of_others_survives_the_persons_kill(
    service: Service, context: dict[str, Any], later: Later, states: Any
) -> None:
    service.runs["r1"] = "going"
    operator = task(if_running="attach")
    states("failed")
    later(0.3, operator.on_kill)
    with pytest.raises(Interrupted):
        on_the_worker(operator, context)
    assert service.called("cancel") == []


def test_the_trigger_of_a_run_of_others_is_told_not_to_cancel(
    service: Service, context: dict[str, Any]
) -> None:
    service.runs["r1"] = "going"
    with pytest.raises(TaskDeferred) as pause:
        task(if_running="attach", deferrable=True).execute(context)
    assert pause.value.trigger.serialize()[1]["cancel_on_kill"] is False


def test_an_own_run_is_cancelled_also_where_others_would_be_attached_to(
    service: Service, context: dict[str, Any]
) -> None:
    with pytest.raises(RunTimedOut):
        deferred(task(if_running="attach", timeout=0.3, cancel_on_timeout=True), context)
    assert service.called("cancel") == ["r1"]


def test_without_a_record_nobody_knows_whose_run_it_is(service: Service, context: dict[str, Any]) -> None:
    service.runs["r1"] = "going"
    del context["task_state_store"]
    with pytest.raises(RunTimedOut):
        deferred(task(if_running="attach", timeout=0.3, cancel_on_timeout=True), context)
    assert service.called("cancel") == []


def test_a_run_of_others_stays_one_though_the_rule_was_changed_meanwhile(
    service: Service, context: dict[str, Any]
) -> None:
    service.runs["r1"] = "going"
    with pytest.raises(TaskDeferred):
        task(if_running="attach", deferrable=True).execute(context)
    late = event("timeout", which="timeout", message="late")
    with pytest.raises(RunTimedOut):
        task(cancel_on_timeout=True).execute_complete(context, late)
    assert service.called("cancel") == []


def test_a_record_that_cannot_be_read_hides_no_verdict(service: Service, context: dict[str, Any]) -> None:
    context["task_state_store"]["run"] = "nonsense"
    assert task().execute_complete(context, event("succeeded", status="done")) == "r1"
    late = event("timeout", which="timeout", message="late")
    with pytest.raises(RunTimedOut):
        task(cancel_on_timeout=True).execute_complete(context, late)
    assert service.called("cancel") == []


def test_a_retry_of_a_run_knows_no_rule_for_other_runs(service: Service, context: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match="if_running is for tasks that start a new run"):
        on_the_worker(retry_task(if_running="skip"), context)


def test_an_event_about_another_run_does_not_end_the_wait_for_ones_own(
    service: Service, context: dict[str, Any]
) -> None:
    operator = task(deferrable=True)
    with pytest.raises(TaskDeferred):
        operator.execute(context)
    for verdict in ("succeeded", "failed", "cancelled"):
        with pytest.raises(TaskDeferred) as pause:
            operator.execute_complete(context, event(verdict, run_id="r0", status="stopped"))
        arguments = pause.value.trigger.serialize()[1]
        assert (arguments["run_id"], pause.value.method_name) == ("r1", "execute_complete")
    assert operator.execute_complete(context, event("succeeded", status="done")) == "r1"


def test_a_cancel_that_does_not_end_in_time_stands_in_the_log(
    service: Service,
    context: dict[str, Any],
    later: Later,
    states: Any,
    monkeypatch: pytest.MonkeyPatch,
    told: Callable[[], str],
) -> None:
    monkeypatch.setattr(FakeHook, "cancel_and_confirm", lambda self, run_id, limit: clock.sleep(9))
    operator = task()
    states("failed")
    later(0.2, operator.on_kill)
    with pytest.raises(Interrupted):
        operator.execute(context)
    assert "Fake run r1 may go on: no end seen in time" in told()
