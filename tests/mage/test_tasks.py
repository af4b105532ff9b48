"""Mage's tasks as Airflow runs them, on the simulated Mage: on a worker and deferred, tried again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_runs.base.exceptions import RequestRefused, RunFailed, RunTimedOut, RunUnreachable
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.run import Run, RunState
from airflow_provider_runs.mage.operators import (
    MageCancelRunOperator,
    MageRetryRunOperator,
    MageTriggerRunOperator,
)
from airflow_provider_runs.mage.sensors import MageRunSensor
from tests.base.conftest import callable_operators, later  # noqa: F401
from tests.base.fakes import FakeTaskInstance, Store
from tests.real.target import Mage, simulated_mage
from tests.tasks import now, run
from tests.virtual import VirtualClock

PACE = {"min_poll_interval": 0.1}
deferrable = pytest.mark.parametrize("deferrable", [False, True], ids=["on the worker", "deferred"])


@pytest.fixture
def mage(virtual: VirtualClock) -> Iterator[Mage]:
    with simulated_mage(auth=True) as server:
        yield server


@pytest.fixture(autouse=True)
def connection(mage: Mage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MAGE_DEFAULT", mage.connection_json(trigger=None))


@pytest.fixture
def context() -> dict[str, Any]:
    return {"ti": FakeTaskInstance(max_tries=1), "task_state_store": Store()}


def starts(mage: Mage, pipeline: str) -> int:
    """Return how many runs a pipeline has."""
    answer = mage.call("GET", "/api/pipeline_runs", pipeline_uuid=pipeline, _limit="0")
    return int(answer.json()["metadata"]["count"])


@deferrable
def test_a_retry_of_the_task_runs_the_failed_blocks_of_its_own_run_again(
    mage: Mage, context: dict[str, Any], deferrable: bool
) -> None:
    def task() -> MageTriggerRunOperator:
        return MageTriggerRunOperator(
            task_id="t", pipeline_uuid="flaky", retry_from_failure=True, deferrable=deferrable, **PACE
        )

    before = starts(mage, "flaky")
    with pytest.raises(RunFailed, match="block once: RuntimeError: it works when retried"):
        run(task(), context)
    first = context["task_state_store"]["run"]["run_id"]
    assert run(task(), context) == first
    assert starts(mage, "flaky") == before + 1


def test_without_the_flag_a_retry_of_the_task_starts_another_run(mage: Mage, context: dict[str, Any]) -> None:
    before = starts(mage, "flaky")
    for _ in range(2):
        with pytest.raises(RunFailed):
            run(MageTriggerRunOperator(task_id="t", pipeline_uuid="flaky", **PACE), context)
    assert starts(mage, "flaky") == before + 2


def test_a_run_that_cannot_be_gone_on_with_is_followed_by_another(
    mage: Mage, context: dict[str, Any]
) -> None:
    schedule = mage.schedules["impatient"].id
    for _ in range(2):
        task = MageTriggerRunOperator(
            task_id="t", pipeline_schedule_id=schedule, retry_from_failure=True, **PACE
        )
        with pytest.raises(RunFailed, match="Pipeline run timed out after"):
            run(task, context)
        clock.sleep(3.1)  # the trigger's timeout in seconds that the simulator does not shorten for others
    record = context["task_state_store"]["run"]
    assert (record["attempt"], record["resumes"]) == (2, None)


@deferrable
def test_an_ended_run_is_retried_and_waited_for(
    mage: Mage, context: dict[str, Any], deferrable: bool
) -> None:
    ended = mage.wait(mage.start("flaky"))
    task = MageRetryRunOperator(task_id="t", run_id=ended.id, deferrable=deferrable, **PACE)
    assert run(task, context) == ended.id
    assert mage.get(ended).state is RunState.SUCCEEDED
    assert context["ti"].pushed["run_url"] == ended.url


def test_a_retry_that_mage_could_not_end_is_refused_without_a_retry_of_the_task(
    mage: Mage, context: dict[str, Any]
) -> None:
    ended = mage.wait(mage.start("diamond", variables={"fail": "left"}))
    task = MageRetryRunOperator(task_id="t", run_id=ended.id, from_block_uuid="right", **PACE)
    with pytest.raises(RequestRefused, match="the blocks left would stay as they are"):
        run(task, context)
    assert mage.get(ended).state is RunState.FAILED


def test_runs_are_cancelled(mage: Mage, context: dict[str, Any]) -> None:
    runs = [mage.start("slow") for _ in range(3)]
    ids = [run.id for run in runs]
    assert MageCancelRunOperator(task_id="t", run_id=ids).execute(context) == ids
    assert {mage.get(run).state for run in runs} == {RunState.CANCELLED}


@deferrable
@pytest.mark.parametrize("by", ["trigger's id", "trigger's name", "pipeline"])
def test_a_run_is_waited_for_that_somebody_starts_later(
    mage: Mage,
    context: dict[str, Any],
    later: Callable[..., None],  # noqa: F811
    deferrable: bool,
    by: str,
) -> None:
    search: dict[str, Any] = {
        "trigger's id": {"pipeline_schedule_id": mage.schedules["empty"].id},
        "trigger's name": {"pipeline_uuid": "empty", "trigger_name": "empty"},
        "pipeline": {"pipeline_uuid": "empty"},
    }[by]
    mage.wait(mage.start("empty"))
    clock.sleep(0.01)
    sensor = MageRunSensor(
        task_id="t",
        since=now(),
        deferrable=deferrable,
        poke_interval=0.2,
        **search,
        **PACE,
    )
    started = []
    later(0.5, lambda: started.append(mage.start("empty")))
    assert run(sensor, context) == started[0].id
    assert context["ti"].pushed["run_url"] == started[0].url


def test_a_search_for_runs_of_what_does_not_exist_ends_the_sensor(
    mage: Mage, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_runs.core import progress

    monkeypatch.setitem(progress.OWN_TIMEOUTS, progress.Trouble.NOT_FOUND, 0.3)
    sensor = MageRunSensor(
        task_id="t",
        pipeline_uuid="nothing",
        since="2026-01-01T00:00:00Z",
        soft_fail=True,
        poke_interval=0.1,
        **PACE,
    )
    # soft_fail hides no wrong pipeline.
    with pytest.raises(RunUnreachable, match="Pipeline nothing does not exist"):
        run(sensor, context)


# Beside other runs


def test_a_run_of_others_is_waited_for_and_left_alone(mage: Mage, context: dict[str, Any]) -> None:
    other = mage.start("slow")
    arguments: dict[str, Any] = {"task_id": "t", "pipeline_uuid": "slow", "trigger_name": "slow", **PACE}
    before = starts(mage, "slow")
    with pytest.raises(RunTimedOut, match=f"run {other.id} had not ended"):
        run(
            MageTriggerRunOperator(**arguments, if_running="attach", timeout=0.5, cancel_on_timeout=True),
            context,
        )
    with pytest.raises(AirflowSkipException, match=f"Mage run {other.id} goes already"):
        run(MageTriggerRunOperator(**arguments, if_running="skip"), {**context, "task_state_store": Store()})
    assert starts(mage, "slow") == before
    assert mage.get(other).state is RunState.RUNNING
    MageCancelRunOperator(task_id="t", run_id=other.id).execute(context)
    fresh = {**context, "task_state_store": Store()}
    with pytest.raises(RunTimedOut):
        run(
            MageTriggerRunOperator(**arguments, if_running="attach", timeout=0.5, cancel_on_timeout=True),
            fresh,
        )
    assert starts(mage, "slow") == before + 1
    own = fresh["task_state_store"]["run"]
    assert (
        own["attached"] is False
        and mage.row(Run(own["run_id"], RunState.UNKNOWN, ""))["status"] == "cancelled"
    )
