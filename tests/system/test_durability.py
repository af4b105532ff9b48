"""What dies while a task waits does not take the remote run along, and no second one is started."""

from __future__ import annotations

import os
import signal

import pytest

from tests.system.conftest import Service, returned, wait_for_log
from tools.airflow_stack import AirflowStack

pytestmark = pytest.mark.usefixtures("runs")


def test_a_killed_task_process_is_followed_by_a_retry_that_goes_on_with_the_run(
    stack: AirflowStack, service: Service
) -> None:
    run_id = stack.trigger_dag("killed_on_worker")
    wait_for_log(stack, "killed_on_worker", run_id, "Waiting for Mage run")
    pid = stack.task_instance("killed_on_worker", run_id, "run")["pid"]
    assert pid in stack.components["scheduler"].members()

    os.kill(pid, signal.SIGKILL)

    assert stack.wait_for_dag_run("killed_on_worker", run_id) == "success"
    (run,) = service.mage_runs("killed_on_worker")
    assert (run["status"], run["cancels"]) == ("completed", 0)
    assert stack.task_instance("killed_on_worker", run_id, "run")["try_number"] == 2
    assert returned(stack, "killed_on_worker", run_id) == str(run["id"])
    second = stack.task_log("killed_on_worker", run_id, "run", try_number=2)
    assert f"Attaching to run {run['id']} of an earlier try" in second


@pytest.mark.parametrize(
    ("dag_id", "number"),
    [("outlives_sigterm", signal.SIGTERM), ("outlives_sigkill", signal.SIGKILL)],
    ids=["SIGTERM", "SIGKILL"],
)
def test_a_deferred_task_outlives_its_triggerer(
    stack: AirflowStack, service: Service, dag_id: str, number: signal.Signals
) -> None:
    run_id = stack.trigger_dag(dag_id)
    wait_for_log(stack, dag_id, run_id, "Waiting for Mage run")
    assert stack.task_instance(dag_id, run_id, "run")["state"] == "deferred"

    triggerer = stack.components["triggerer"]
    stack.kill("triggerer", number, children=number == signal.SIGKILL)
    triggerer.process.wait(30)
    (run,) = service.mage_runs(dag_id)
    assert (run["status"], run["cancels"]) == ("running", 0)
    assert stack.task_instance(dag_id, run_id, "run")["state"] == "deferred"
    stack.restart("triggerer")

    assert stack.wait_for_dag_run(dag_id, run_id) == "success"
    (run,) = service.mage_runs(dag_id)
    assert (run["status"], run["cancels"]) == ("completed", 0)
    assert returned(stack, dag_id, run_id) == str(run["id"])
