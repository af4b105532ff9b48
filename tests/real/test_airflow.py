"""A real Mage behind a real Airflow: its runs succeed, fail and are cancelled as tasks of a DAG.

Needs processes of both, and so takes the server with authentication only.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.asset_events import is_noted, scheduled_by, stored, told
from tests.real.target import Mage
from tools.airflow_stack import AirflowStack
from tools.speed import scaled

PIPELINES = ("example", "broken", "slow")
DAG_FILE = """
import pendulum
from airflow.providers.common.compat.sdk import DAG, Variable
from airflow.sdk import Asset, AssetWatcher, task
from airflow_provider_runs.mage.operators import (
    MageCancelRunOperator, MageRetryRunOperator, MageTriggerRunOperator,
)
from airflow_provider_runs.mage.sensors import MageRunSensor
from airflow_provider_runs.mage.triggers import MageRunEventTrigger

ALL = {"schedule": None, "start_date": pendulum.datetime(2024, 1, 1, tz="UTC"), "catchup": False}
PACE = {"deferrable": True, "min_poll_interval": 0.5}

for name, schedule in Variable.get("schedules", deserialize_json=True).items():
    with DAG(dag_id=name, **ALL):
        MageTriggerRunOperator(
            task_id="run", mage_conn_id=f"mage_{name}", pipeline_schedule_id=schedule, **PACE
        )

with DAG(dag_id="flaky", **ALL):
    MageTriggerRunOperator(
        task_id="run", pipeline_uuid="flaky", retry_from_failure=True, retries=1, retry_delay=0, **PACE
    )

with DAG(dag_id="searching", **ALL):
    MageRunSensor(
        task_id="wait", pipeline_uuid="empty", since="{{ dag_run.run_after }}", poke_interval=1, **PACE
    )

with DAG(dag_id="changing", **ALL):
    start = MageTriggerRunOperator(
        task_id="start", pipeline_uuid="example", trigger_name="example",
        variables={"sleep": Variable.get("sleep", deserialize_json=True)},
        wait_for_completion=False,
    )
    cancel = MageCancelRunOperator(task_id="cancel", run_id="{{ ti.xcom_pull(task_ids='start') }}")
    again = MageRetryRunOperator(task_id="again", run_id="{{ ti.xcom_pull(task_ids='start') }}", **PACE)
    start >> cancel >> again

ended = MageRunEventTrigger(
    pipeline_uuid="example", trigger_name="example", outcomes=["succeeded", "cancelled"], poll_interval=5
)
ENDED = Asset("ended", watchers=[AssetWatcher(name="ended", trigger=ended)])

with DAG(dag_id="scheduled", **{**ALL, "schedule": [ENDED]}):
    @task
    def tell(triggering_asset_events=None):
        return [run for event in triggering_asset_events[ENDED] for run in event.extra["payload"]["runs"]]

    tell()
"""

pytestmark = pytest.mark.parametrize("mage", [True], indirect=True, ids=["auth_on"])


@pytest.fixture(scope="module")
def stack(mage: Mage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowStack]:
    dags: Path = tmp_path_factory.mktemp("dags")
    (dags / "mage_dags.py").write_text(DAG_FILE)
    connections: dict[str, dict[str, Any]] = {f"mage_{name}": mage.connection(name) for name in PIPELINES}
    # One connection without a trigger's token serves all triggers.
    connections["mage_default"] = mage.connection(trigger=None)
    schedules = {name: mage.schedules[name].id for name in PIPELINES}
    env = {
        "AIRFLOW_VAR_SCHEDULES": json.dumps(schedules),
        # Longer than it takes to cancel the run, on however slow a machine.
        "AIRFLOW_VAR_SLEEP": json.dumps(round(scaled(15))),
    }
    with AirflowStack(
        tmp_path_factory.mktemp("airflow"),
        dags,
        connections=connections,
        env=env,
        python=Path(sys.executable),
    ) as stack:
        yield stack


@pytest.fixture(scope="module")
def runs(stack: AirflowStack) -> dict[str, str]:
    """
    The DAG runs that are started together.

    Each process of Airflow logs in to Mage, which answers one login after the other, each after seconds. What
    is to be cancelled in time comes when the others have logged in.
    """
    return {name: stack.trigger_dag(name) for name in (*PIPELINES, "flaky", "searching")}


def status(mage: Mage, run: str) -> str:
    """Return Mage's word for the state of a run."""
    driver = mage.driver()
    try:
        return driver.drive(driver.api.get(run)).status
    finally:
        driver.close()


def remote_run(stack: AirflowStack, name: str, run_id: str) -> str:
    """Return the id of the Mage run, which is the last part of its page's address."""
    return str(stack.xcom(name, run_id, "run", "run_url")).rpartition("/")[2]


def test_a_pipeline_succeeds_while_its_task_is_deferred(
    mage: Mage, stack: AirflowStack, runs: dict[str, str]
) -> None:
    assert stack.wait_for_dag_run("example", runs["example"], timeout=180) == "success"
    run = remote_run(stack, "example", runs["example"])
    assert status(mage, run) == "completed"
    log = stack.task_log("example", runs["example"], "run")
    page = f"{mage.url}/pipelines/example/runs/{run}"
    assert f"INFO Mage run {run}: {page}" in log
    assert "Pausing task as DEFERRED" in log
    assert f"Run {run} is completed" in log
    assert stack.links("example", runs["example"], "run") == {"Remote run": page}


def test_a_failed_pipeline_brings_its_blocks_error_into_the_task_log(
    mage: Mage, stack: AirflowStack, runs: dict[str, str]
) -> None:
    assert stack.wait_for_dag_run("broken", runs["broken"], timeout=180) == "failed"
    run = remote_run(stack, "broken", runs["broken"])
    assert status(mage, run) == "failed"
    log = stack.task_log("broken", runs["broken"], "run")
    assert "block bang: ValueError: bang in transform" in log
    (error,) = (line for line in log.splitlines() if line.startswith("ERROR RunFailed: "))
    assert f"Mage run {run} has failed (failed): block bang: ValueError: bang in transform" in error


def test_a_retry_of_a_task_runs_the_failed_blocks_of_its_own_run_again(
    mage: Mage, stack: AirflowStack, runs: dict[str, str]
) -> None:
    assert stack.wait_for_dag_run("flaky", runs["flaky"], timeout=240) == "success"
    run = remote_run(stack, "flaky", runs["flaky"])
    assert status(mage, run) == "completed"
    first, second = (stack.task_log("flaky", runs["flaky"], "run", try_number) for try_number in (1, 2))
    assert "block once: RuntimeError: it works when retried" in first
    assert f"The run {run} of an earlier try ended as failed, going on where it failed" in second
    listed = mage.call("GET", "/api/pipeline_runs", pipeline_uuid="flaky").json()["pipeline_runs"]
    assert [row["id"] for row in listed if row["id"] >= int(run)] == [int(run)]


def test_a_sensor_waits_for_a_run_that_mage_starts_later(
    mage: Mage, stack: AirflowStack, runs: dict[str, str]
) -> None:
    stack.wait_for_task("searching", runs["searching"], "wait", "deferred", timeout=120)
    run = mage.start("empty")
    assert stack.wait_for_dag_run("searching", runs["searching"], timeout=120) == "success"
    assert stack.links("searching", runs["searching"], "wait") == {"Remote run": run.url}
    assert str(stack.xcom("searching", runs["searching"], "wait", "return_value")) == run.id


def test_a_deferred_task_cancels_its_run_on_the_server_when_a_person_marks_it_failed(
    mage: Mage, stack: AirflowStack, runs: dict[str, str]
) -> None:
    stack.wait_for_task("slow", runs["slow"], "run", "deferred", timeout=120)
    run = remote_run(stack, "slow", runs["slow"])
    stack.wait_for(lambda: status(mage, run) == "running", 60, "the run to go")
    stack.wait_for(
        lambda: f"Run {run} is running" in stack.task_log("slow", runs["slow"], "run"), 60, "it to be seen"
    )

    stack.set_task_state("slow", runs["slow"], "run", "failed")

    stack.wait_for(lambda: status(mage, run) == "cancelled", 30, "the run to be cancelled")
    assert stack.wait_for_dag_run("slow", runs["slow"]) == "failed"


def test_a_run_is_cancelled_by_one_task_and_gone_on_with_by_another(mage: Mage, stack: AirflowStack) -> None:
    dag_run = stack.trigger_dag("changing")
    assert stack.wait_for_dag_run("changing", dag_run, timeout=240) == "success"
    run = str(stack.xcom("changing", dag_run, "start", "return_value"))
    assert status(mage, run) == "completed"
    assert f"Mage run {run} has ended: cancelled" in stack.task_log("changing", dag_run, "cancel")
    assert f"Retrying Mage run {run}" in stack.task_log("changing", dag_run, "again")


def test_a_dag_is_scheduled_once_by_each_run_that_ends_also_while_no_triggerer_lives(
    mage: Mage, stack: AirflowStack, runs: dict[str, str]
) -> None:
    stack.wait_for_dag("scheduled", timeout=120)
    stack.wait_for(lambda: bool(stored(stack)), 120, "the watcher's first look")
    began: list[str] = []

    def each_once(found: Mapping[str, Counter[str]], name: str) -> bool:
        return all(found[name][run] == 1 for run in began)

    def start() -> str:
        began.append(mage.start("example").id)
        return began[-1]

    start()
    stack.wait_for(lambda: each_once(told(stack), "ended"), 90, "the first event")
    for number in (signal.SIGKILL, signal.SIGTERM):
        # Who dies between an event and this note has the next triggerer tell the run again, as documented.
        stack.wait_for(lambda: is_noted(stack, began[-1]), 30, "the note of what is told")
        triggerer = stack.components["triggerer"]
        stack.kill("triggerer", number, children=number == signal.SIGKILL)
        triggerer.process.wait(30)
        run = start()
        stack.wait_for(lambda run=run: status(mage, run) == "completed", 60, "the run to end")
        stack.restart("triggerer")
        stack.wait_for(lambda: each_once(told(stack), "ended"), 120, "the events after the restart")
    stack.wait_for(lambda: each_once(scheduled_by(stack), "scheduled"), 60, "a DAG run for each")
