"""Paradime's tasks as Airflow runs them, on the simulated Paradime: on a worker and deferred, tried again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_runs.base import finder
from airflow_provider_runs.base.exceptions import (
    RequestRefused,
    RunCancelled,
    RunFailed,
    RunInProgress,
    StartUncertain,
)
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.run import RunState
from airflow_provider_runs.paradime.hooks import ParadimeHook
from airflow_provider_runs.paradime.operators import (
    ParadimeCancelRunOperator,
    ParadimeRetryRunOperator,
    ParadimeTriggerRunOperator,
)
from airflow_provider_runs.paradime.sensors import ParadimeRunSensor
from airflow_provider_runs.simulator import Simulator
from tests.base.conftest import callable_operators, later, told  # noqa: F401
from tests.base.fakes import FakeTaskInstance, Store
from tests.paradime.conftest import connect
from tests.tasks import now, run

PACE = {"min_poll_interval": 0.1}
deferrable = pytest.mark.parametrize("deferrable", [False, True], ids=["on the worker", "deferred"])


def task(slug: str = "daily", **arguments: Any) -> ParadimeTriggerRunOperator:
    return ParadimeTriggerRunOperator(**{"task_id": "t", "slug": slug, "reason": None, **PACE, **arguments})


def start(slug: str = "daily") -> str:
    return ParadimeHook().trigger_run(slug).id


def wait(run_id: str) -> str:
    until = clock.monotonic() + 20
    while not ParadimeHook().get_run(run_id).state.is_terminal:
        assert clock.monotonic() < until
        clock.sleep(0.05)
    return run_id


@deferrable
def test_a_run_is_waited_for(sim: Simulator, context: dict[str, Any], deferrable: bool) -> None:
    run_id = run(task(deferrable=deferrable), context)
    assert [str(one["id"]) for one in sim.runs("paradime")] == [run_id]
    assert {name: value for name, value in context["ti"].pushed.items() if value is not None} == {
        "run_url": f"https://app.paradime.io/bolt/run_id/{run_id}",
        "return_value": run_id,
    }


@deferrable
def test_a_run_seen_first_while_it_starts_does_not_fail_the_task(
    simulators: Callable[..., Simulator],
    context: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    deferrable: bool,
) -> None:
    slow = simulators(starting=20.0)
    connect(monkeypatch, slow)
    run(task(deferrable=deferrable), context)
    assert slow.count("paradime", "get") > 2


@deferrable
@pytest.mark.parametrize(
    ("outcome", "kind"),
    [("FAILED", RunFailed), ("ERROR", RunFailed), ("SKIPPED", RunFailed), ("CANCELED", RunCancelled)],
)
def test_a_run_that_ends_otherwise_fails_the_task(
    sim: Simulator, context: dict[str, Any], deferrable: bool, outcome: str, kind: type
) -> None:
    sim.plan(system="paradime", outcome=outcome)
    with pytest.raises(kind, match=outcome):
        run(task(deferrable=deferrable), context)


def test_a_skipped_run_may_skip_the_task(sim: Simulator, context: dict[str, Any]) -> None:
    sim.plan(system="paradime", outcome="SKIPPED")
    with pytest.raises(AirflowSkipException):
        run(task(skip_on_states="SKIPPED"), context)


def test_the_failing_command_and_its_output_are_in_the_log(
    sim: Simulator,
    context: dict[str, Any],
    told: Callable[[], str],  # noqa: F811
) -> None:
    with pytest.raises(RunFailed, match="dbt build"):
        run(task("broken"), context)
    assert 'relation "raw.orders" does not exist' in told()


def test_the_reason_names_dag_run_and_task(sim: Simulator, context: dict[str, Any]) -> None:
    from airflow.providers.common.compat.sdk import DAG

    with DAG("shop", schedule=None):
        made = ParadimeTriggerRunOperator(task_id="load", slug="daily", wait_for_completion=False)
    ti = FakeTaskInstance(max_tries=1, map_index=3)
    ti.task_id = "load"  # type: ignore[attr-defined]
    context |= {"dag": made.dag, "run_id": "manual__1", "ti": ti}
    made.render_template_fields(context)
    made.execute(context)
    assert sim.runs("paradime")[0]["body"]["reason"] == "Airflow DAG shop, run manual__1, task load [3]"


@deferrable
def test_a_retry_of_the_task_goes_on_with_its_own_run(
    sim: Simulator, context: dict[str, Any], deferrable: bool
) -> None:
    with pytest.raises(RunFailed):
        run(task("broken", retry_from_failure=True, deferrable=deferrable), context)
    own = context["task_state_store"]["run"]["run_id"]
    # Somebody else's run is newer, and is left alone.
    other = wait(start("broken"))
    sim.plan(system="paradime", resource="broken", outcome="succeeded")
    resumed = run(task("broken", retry_from_failure=True, deferrable=deferrable), context)
    bodies = {str(one["id"]): one["body"] for one in sim.runs("paradime")}
    assert resumed not in (own, other)
    assert bodies[resumed] == {"mutation": "retryBoltRun", "scheduleRunId": int(own), "slug": "broken"}
    assert sim.count("paradime", "retry") == 1


def test_without_the_flag_a_retry_of_the_task_starts_another_run(
    sim: Simulator, context: dict[str, Any]
) -> None:
    for _ in range(2):
        with pytest.raises(RunFailed):
            run(task("broken"), context)
    assert [one["body"]["mutation"] for one in sim.runs("paradime")] == ["triggerBoltRun"] * 2


def test_a_retry_whose_answer_was_lost_is_found_again(sim: Simulator, context: dict[str, Any]) -> None:
    with pytest.raises(RunFailed):
        run(task("broken", retry_from_failure=True), context)
    sim.plan(system="paradime", resource="broken", outcome="succeeded")
    sim.fault("reset_after", system="paradime", operation="retry", times=1)
    run(task("broken", retry_from_failure=True), context)
    assert [one["body"]["mutation"] for one in sim.runs("paradime")] == ["triggerBoltRun", "retryBoltRun"]


@deferrable
@pytest.mark.parametrize("all_commands", [False, True])
def test_an_ended_run_is_retried_and_waited_for(
    sim: Simulator, context: dict[str, Any], deferrable: bool, all_commands: bool
) -> None:
    ended = wait(start("broken"))
    sim.plan(system="paradime", resource="broken", outcome="succeeded")
    retry = ParadimeRetryRunOperator(
        task_id="t", run_id=ended, all_commands=all_commands, deferrable=deferrable, **PACE
    )
    new = run(retry, context)
    assert new != ended
    mutation = "retryAllBoltRun" if all_commands else "retryBoltRun"
    assert sim.runs("paradime")[-1]["body"]["mutation"] == mutation


def test_a_retry_that_cannot_be_found_without_the_schedule_says_what_to_give(
    sim: Simulator, context: dict[str, Any]
) -> None:
    ended = wait(start("broken"))
    sim.plan(system="paradime", resource="broken", outcome="succeeded")
    sim.fault("reset_after", system="paradime", operation="retry", times=1)
    retry = ParadimeRetryRunOperator(task_id="t", run_id=ended, **PACE)
    for _ in range(2):
        with pytest.raises(StartUncertain, match="give the task the run's slug"):
            run(retry, context)
    assert sim.count("paradime", "retry") == 1
    new = run(ParadimeRetryRunOperator(task_id="t", run_id=ended, slug="broken", **PACE), context)
    assert new != ended and sim.count("paradime", "retry") == 1


def test_what_would_do_nothing_is_not_retried(sim: Simulator, context: dict[str, Any]) -> None:
    ended = wait(start())
    with pytest.raises(RequestRefused, match="it has succeeded"):
        run(ParadimeRetryRunOperator(task_id="t", run_id=ended, slug="daily", **PACE), context)


def test_runs_are_cancelled(sim: Simulator, context: dict[str, Any]) -> None:
    ids = [start("slow") for _ in range(2)]
    assert ParadimeCancelRunOperator(task_id="t", run_id=ids).execute(context) == ids
    assert {ParadimeHook().get_run(one).state for one in ids} == {RunState.CANCELLED}


@deferrable
@pytest.mark.parametrize("name", ["slug", "schedule_name"])
def test_a_run_is_waited_for_that_somebody_starts_later(
    sim: Simulator,
    context: dict[str, Any],
    later: Callable[..., None],  # noqa: F811
    deferrable: bool,
    name: str,
) -> None:
    wait(start())
    clock.sleep(0.01)
    named: dict[str, Any] = {name: "daily"}
    sensor = ParadimeRunSensor(
        task_id="t", since=now(), deferrable=deferrable, poke_interval=0.2, **named, **PACE
    )
    started: list[str] = []
    later(0.5, lambda: started.append(start()))
    assert run(sensor, context) == started[0]
    assert context["ti"].pushed["run_url"].endswith(started[0])


@deferrable
def test_a_run_is_waited_for_by_its_id(sim: Simulator, context: dict[str, Any], deferrable: bool) -> None:
    run_id = start()
    sensor = ParadimeRunSensor(task_id="t", run_id=run_id, deferrable=deferrable, poke_interval=0.2, **PACE)
    assert run(sensor, context) == run_id


def test_beside_other_runs(sim: Simulator, context: dict[str, Any]) -> None:
    other = start("slow")
    with pytest.raises(AirflowSkipException, match=f"run {other} goes already"):
        run(task("slow", if_running="skip"), context)
    with pytest.raises(RunInProgress, match=f"run {other} goes already"):
        run(task("slow", if_running="fail"), context)
    assert run(task("slow", if_running="attach", wait_for_completion=False), context) == other
    assert len(sim.runs("paradime")) == 1


def test_an_argument_that_cannot_be_used_fails_the_task_for_good(
    sim: Simulator, context: dict[str, Any]
) -> None:
    with pytest.raises(RequestRefused, match="not both"):
        run(task(schedule_name="daily"), context)
    with pytest.raises(RequestRefused, match="not found"):
        run(task("nothing"), context)
    assert sim.runs("paradime") == []


def test_where_nothing_is_recorded_a_lost_answer_is_told(sim: Simulator, context: dict[str, Any]) -> None:
    sim.fault("reset_after", system="paradime", operation="trigger", times=1)
    context["task_state_store"] = None
    with pytest.raises(StartUncertain, match="look for it first"):
        run(task(), context)


# A start whose answer was lost


@pytest.fixture
def short(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a request settle in a second."""
    extra = {"api_key": "key-simulator", "request_timeout": 1}
    connect(monkeypatch, sim, extra=extra)


def lose(sim: Simulator, context: dict[str, Any], **arguments: Any) -> None:
    sim.fault("reset_after", system="paradime", operation="trigger", times=1)
    with pytest.raises(StartUncertain, match="may have been started"):
        run(task("slow", **arguments), context)
    assert context["task_state_store"]["run"]["run_id"] is None


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("tries", [1, 2])
def test_a_run_of_a_lost_start_is_told_by_its_commands(
    sim: Simulator, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tries: int
) -> None:
    """Its own commands come after those of Paradime, so that the first looks do not tell."""
    ours = {"commands": ["dbt build --vars 'run: manual__1'"], "wait_for_completion": False}
    monkeypatch.setattr(finder, "LOOK_INTERVAL", 0.1)
    sim.plan(system="paradime", resource="slow", duration=20)
    if tries == 2:
        monkeypatch.setattr(finder, "LOOK_SECONDS", 0.0)
        lose(sim, context, **ours)
        monkeypatch.setattr(finder, "LOOK_SECONDS", 30.0)
        start("slow")
    else:
        sim.fault("reset_after", system="paradime", operation="trigger", times=1)
    found = run(task("slow", **ours), context)
    assert found == str(min(int(each["id"]) for each in sim.runs("paradime")))
    assert any("manual__1" in one["command"] for one in ParadimeHook().list_commands(found))
    assert sim.count("paradime", "trigger") == tries and context["task_state_store"]["run"]["run_id"] == found


@pytest.mark.usefixtures("short")
def test_where_nothing_tells_the_user_decides(sim: Simulator, context: dict[str, Any]) -> None:
    lose(sim, context)
    own = str(sim.runs("paradime")[0]["id"])
    with pytest.raises(RequestRefused, match=rf"started since: {own} .*clear the task"):
        run(task("slow"), context)
    fresh = {**context, "task_state_store": Store()}
    fresh["task_state_store"].update(context["task_state_store"])
    adopted = run(task("slow", on_unknown_start="adopt", wait_for_completion=False), fresh)
    assert adopted == own and fresh["task_state_store"]["run"]["attached"] is True
    other = run(task("slow", on_unknown_start="start", wait_for_completion=False), context)
    assert other != own and sim.count("paradime", "trigger") == 2


@pytest.mark.usefixtures("short")
def test_a_start_that_never_arrived_is_repeated_once_that_is_sure(
    sim: Simulator, context: dict[str, Any]
) -> None:
    sim.fault("reset_before", system="paradime", operation="trigger", times=1)
    with pytest.raises(StartUncertain):
        run(task(), context)
    assert run(task(), context) == str(sim.runs("paradime")[0]["id"])
    assert len(sim.runs("paradime")) == 1


def test_a_rule_that_is_none_is_refused(sim: Simulator, context: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match="on_unknown_start must be one of fail, adopt, start"):
        run(task(on_unknown_start="guess"), context)


def test_a_schedule_that_runs_once_at_a_time_is_tried_again(sim: Simulator, context: dict[str, Any]) -> None:
    other = start("one-at-a-time")
    with pytest.raises(RunInProgress, match=r"AlreadyRunning|already running"):
        run(task("one-at-a-time"), context)
    wait(other)
    assert run(task("one-at-a-time"), context) not in ("", other)
