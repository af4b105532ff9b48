"""A start that the service puts off, or that meets an outage, in each system, against the simulator."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout, TaskDeferred

from airflow_provider_runs.base.exceptions import Interrupted
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.errors import RunsError
from airflow_provider_runs.simulator import Simulator
from airflow_provider_runs.strait.operators import StraitReplayRunOperator
from tests.base.conftest import told  # noqa: F401
from tests.tasks import run
from tests.test_run_ids import a_hook, context, each_system, sim  # noqa: F401
from tests.test_verdicts import a_task
from tests.virtual import VirtualClock

KEYED = pytest.mark.parametrize("system", ["chalk", "strait"])


def deferred(task: Any, context: dict[str, Any]) -> TaskDeferred:  # noqa: F811
    """Run a try until it defers, and return what it defers for."""
    with pytest.raises(TaskDeferred) as caught:
        task.execute(context)
    return caught.value


def put_off(task: Any, context: dict[str, Any]) -> None:  # noqa: F811
    """Run a try whose start is put off again and again, until it ends."""
    while True:
        deferred(task, context)
        clock.sleep(80.0)


@each_system
@pytest.mark.parametrize("operation", ["trigger", "*"])
def test_a_deferrable_start_waits_in_the_triggerer_where_the_service_asks_to_wait(
    sim: Simulator,  # noqa: F811
    context: dict[str, Any],  # noqa: F811
    system: str,
    operation: str,
) -> None:
    """Also where what is asked before the start is put off."""
    sim.fault("status", system=system, operation=operation, status=429, retry_after="40", times=1)
    began = clock.monotonic()
    pause = deferred(a_task(system, deferrable=True), context)
    assert (pause.method_name, clock.monotonic() - began) == ("execute_delayed", pytest.approx(0.0, abs=5.0))
    wait = pause.trigger.moment.timestamp() - clock.time()
    assert timedelta(seconds=35) < timedelta(seconds=wait) <= timedelta(seconds=80)
    assert sim.runs(system) == []
    clock.sleep(80.0)  # this process has not forgotten how long it was to wait
    waiting = deferred(a_task(system, deferrable=True), context)
    (one,) = sim.runs(system)
    assert (waiting.method_name, waiting.trigger.run_id) == ("execute_complete", str(one["id"]))


@each_system
def test_a_start_is_put_off_no_longer_than_an_outage_may_last(
    sim: Simulator,  # noqa: F811
    context: dict[str, Any],  # noqa: F811
    system: str,
) -> None:
    sim.fault("status", system=system, operation="trigger", status=429, retry_after="40")
    began = clock.monotonic()
    with pytest.raises(RunsError):
        put_off(a_task(system, deferrable=True, unreachable_timeout=300), context)
    assert 240 <= clock.monotonic() - began < 2400 and sim.runs(system) == []


@each_system
def test_a_start_is_not_put_off_past_execution_timeout(
    sim: Simulator,  # noqa: F811
    context: dict[str, Any],  # noqa: F811
    system: str,
) -> None:
    """Airflow's own alarm begins anew each time that a deferred task is resumed."""
    sim.fault("status", system=system, operation="trigger", status=429, retry_after="40")
    began = clock.monotonic()
    with pytest.raises(AirflowTaskTimeout):
        put_off(a_task(system, deferrable=True, execution_timeout=timedelta(seconds=200)), context)
    assert clock.monotonic() - began < 300 and sim.runs(system) == []


@KEYED
def test_a_start_that_may_have_begun_a_run_is_not_put_off(
    sim: Simulator,  # noqa: F811
    context: dict[str, Any],  # noqa: F811
    system: str,
) -> None:
    """Nobody would cancel the run of a task that is ended while it waits for a timer."""
    sim.plan(system=system, duration=60_000)
    sim.fault("status", system=system, operation="trigger", status=429, retry_after="40", times=1)
    sim.fault("reset_after", system=system, operation="trigger", times=1)
    sim.fault("status", system=system, operation="get", status=429, retry_after="40", times=1)
    pause = deferred(a_task(system, deferrable=True), context)
    (one,) = sim.runs(system)
    assert (pause.method_name, pause.trigger.run_id) == ("execute_complete", str(one["id"]))


@each_system
def test_a_start_on_a_worker_says_for_how_long_the_service_has_it_wait(
    sim: Simulator,  # noqa: F811
    context: dict[str, Any],  # noqa: F811
    system: str,
    told: Any,  # noqa: F811
) -> None:
    sim.fault("status", system=system, operation="trigger", status=429, retry_after="40", times=1)
    run_id = run(a_task(system, deferrable=False), context)
    assert [str(one["id"]) for one in sim.runs(system)] == [run_id]
    assert f"{a_hook(system).api_class.service} has the start wait for 40 s" in told()


@KEYED
@pytest.mark.parametrize("deferrable", [False, True])
def test_a_short_outage_costs_a_start_no_try(
    sim: Simulator,  # noqa: F811
    context: dict[str, Any],  # noqa: F811
    system: str,
    deferrable: bool,
) -> None:
    """Five requests in a row fail within some 15 s; then the start is sent again with its key."""
    sim.fault("reset_after", system=system, operation="trigger", for_seconds=25.0)
    run_id = run(a_task(system, deferrable=deferrable), context)
    assert [str(one["id"]) for one in sim.runs(system)] == [run_id]


@KEYED
def test_a_task_ended_in_an_outage_of_its_start_leaves_no_run(
    sim: Simulator,  # noqa: F811
    context: dict[str, Any],  # noqa: F811
    system: str,
    virtual: VirtualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sim.fault("status", system=system, operation="*", status=503, acts=False)
    monkeypatch.setattr("airflow_provider_runs.base.operator.own_state", lambda ti: "failed")
    task = a_task(system, deferrable=True)
    virtual.later(200.0, task.on_kill)
    with pytest.raises(Interrupted):
        task.execute(context)
    sim.clear_faults()
    clock.sleep(1000.0)
    assert sim.runs(system) == []


@pytest.mark.parametrize("system", ["strait"])
@pytest.mark.parametrize("ahead", [-4000.0, 0.0, 400.0, 4000.0])
@pytest.mark.parametrize("outcome", ["dead_letter", "failed"])
def test_a_replay_is_found_whatever_the_clock_of_the_worker_said_that_sent_it(
    sim: Simulator,  # noqa: F811
    context: dict[str, Any],  # noqa: F811
    system: str,
    outcome: str,
    ahead: float,
) -> None:
    sim.plan(system="strait", outcome=outcome, times=1)
    hook = a_hook("strait")
    old = hook.start({"job_id": "daily"}, "key").id
    hook.wait_until_ended(old, clock.monotonic() + 1000.0)
    clock.sleep(10_000.0)
    first = StraitReplayRunOperator(task_id="task", run_id=old, wait_for_completion=False)
    again = first.execute(context)
    store = context["task_state_store"]
    # As where the process died before the answer came.
    store["run"] |= {"run_id": None, "started_at": store["run"]["started_at"] + ahead}
    assert run(StraitReplayRunOperator(task_id="task", run_id=old), context) == again
    assert len(sim.runs("strait")) == (1 if again == old else 2)
