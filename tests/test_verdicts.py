"""What a run of each system means for its task, on a worker and deferred, against the simulator."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from airflow_provider_runs.base.exceptions import Interrupted, RunCancelled, RunStatusUnknown
from airflow_provider_runs.base.operator import TriggerRunOperator
from airflow_provider_runs.core import progress
from airflow_provider_runs.core.api import CanCancel, CanListActive
from airflow_provider_runs.core.run import RunState
from airflow_provider_runs.simulator import Simulator
from tests.base.conftest import later  # noqa: F401
from tests.tasks import run
from tests.test_contract import part
from tests.test_run_ids import STARTS, a_hook, context, each_system, sim, start  # noqa: F401

both_ways = pytest.mark.parametrize("deferrable", [False, True])


def a_task(system: str, **arguments: Any) -> TriggerRunOperator:
    kind = part(system, "operators", "{}TriggerRunOperator")
    made: TriggerRunOperator = kind(
        **{"task_id": "task", "min_poll_interval": 0.1, **STARTS[system], **arguments}
    )
    return made


def can(system: str, capability: type) -> bool:
    return issubclass(a_hook(system).api_class, capability)


@each_system
@both_ways
def test_a_run_that_was_cancelled_in_the_tool_is_not_retried(
    sim: Simulator,  # noqa: F811
    context: dict[str, Any],  # noqa: F811
    system: str,
    deferrable: bool,
) -> None:
    sim.plan(system=system, outcome="cancelled" if can(system, CanCancel) else "canceled")
    with pytest.raises(RunCancelled) as caught:
        run(a_task(system, deferrable=deferrable), context)
    assert isinstance(caught.value, AirflowFailException)


@each_system
@both_ways
def test_a_status_may_skip_the_task(
    sim: Simulator,  # noqa: F811
    context: dict[str, Any],  # noqa: F811
    system: str,
    deferrable: bool,
) -> None:
    sim.plan(system=system, outcome="failed")
    words = a_hook(system).api_class.statuses.words(RunState.FAILED)
    with pytest.raises(AirflowSkipException):
        run(a_task(system, deferrable=deferrable, skip_on_states=words), context)


@each_system
@both_ways
def test_an_unknown_status_is_warned_of_once_and_then_ends_the_wait_as_no_verdict(
    sim: Simulator,  # noqa: F811
    context: dict[str, Any],  # noqa: F811
    system: str,
    deferrable: bool,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "UNKNOWN_TIMEOUT", 1.0)
    sim.plan(system=system, outcome="puzzled")
    with pytest.raises(RunStatusUnknown, match=r"(?i)puzzled"):
        run(a_task(system, deferrable=deferrable, poll_interval=0.2), context)
    # Airflow 2.11 and 3.0 write to both.
    logged = caplog.text if "has the status" in caplog.text else capsys.readouterr().out
    assert len(re.findall("(?i)has the status 'puzzled'", logged)) == 1


@each_system
def test_a_person_who_ends_a_task_on_a_worker_has_its_run_cancelled_where_that_can_be(
    sim: Simulator,  # noqa: F811
    context: dict[str, Any],  # noqa: F811
    system: str,
    monkeypatch: pytest.MonkeyPatch,
    later: Callable[..., None],  # noqa: F811
) -> None:
    sim.plan(system=system, duration=6000)
    monkeypatch.setattr("airflow_provider_runs.base.operator.own_state", lambda ti: "failed")
    waiting = a_task(system, deferrable=False)
    later(1.0, waiting.on_kill)
    with pytest.raises(Interrupted):
        run(waiting, context)
    (one,) = sim.runs(system)
    state = a_hook(system).get_run(str(one["id"])).state
    assert state.is_terminal is can(system, CanCancel)


@each_system
@both_ways
def test_a_task_takes_up_a_run_that_goes_already_where_runs_can_be_listed(
    sim: Simulator,  # noqa: F811
    context: dict[str, Any],  # noqa: F811
    system: str,
    deferrable: bool,
) -> None:
    if not can(system, CanListActive):
        with pytest.raises(AirflowFailException, match="cannot list active runs"):
            run(a_task(system, deferrable=deferrable, if_running="attach"), context)
        return
    sim.plan(system=system, duration=60)
    (going,) = start(system, 1)
    assert run(a_task(system, deferrable=deferrable, if_running="attach"), context) == going
    assert len(sim.runs(system)) == 1


@each_system
@both_ways
@pytest.mark.parametrize("fault", ["reset_after", "cut_body", "two_lengths"])
def test_a_start_whose_answer_is_lost_makes_one_run(
    sim: Simulator,  # noqa: F811
    context: dict[str, Any],  # noqa: F811
    system: str,
    deferrable: bool,
    fault: str,
) -> None:
    # Nothing else tells a run of Paradime for the task's own.
    own = {"commands": ["dbt build --vars 'airflow: monday'"]} if system == "paradime" else {}
    sim.fault(fault, system=system, operation="trigger", times=1)
    run_id = run(a_task(system, deferrable=deferrable, **own), context)
    assert [str(one["id"]) for one in sim.runs(system)] == [run_id]
