"""How the end of a run, or a person, ends a task, as real Airflow processes see it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.system.conftest import Service, returned, wait_for_log
from tools.airflow_stack import AirflowStack
from tools.speed import scaled

Runs = dict[str, str]
DEFERRED = "Pausing task as DEFERRED"


def wait_until_cancelled(
    stack: AirflowStack, service: Service, name: str, timeout: float = 30
) -> dict[str, Any]:
    stack.wait_for(
        lambda: service.mage_runs(name)[0]["cancelled"], timeout, f"the run of {name} to be cancelled"
    )
    return service.mage_runs(name)[0]


def test_a_chalk_run_succeeds_while_its_task_is_deferred(stack: AirflowStack, service: Service) -> None:
    run_id = stack.trigger_dag("chalk")
    stack.wait_for_task("chalk", run_id, "run", "deferred")
    (run,) = service.chalk_runs("shop.load")
    url = f"https://chalk.example.com/runs/{run['id']}"
    assert stack.links("chalk", run_id, "run") == {"Remote run": url}
    assert stack.xcom("chalk", run_id, "run", "run_url") == url
    assert stack.task_instance("chalk", run_id, "run")["state"] == "deferred"

    assert stack.wait_for_dag_run("chalk", run_id) == "success"

    assert returned(stack, "chalk", run_id) == run["id"]
    assert stack.xcom("chalk", run_id, "run", "run_url") == url
    assert stack.links("chalk", run_id, "run") == {"Remote run": url}
    log = stack.task_log("chalk", run_id, "run")
    assert f"INFO Chalk run {run['id']}: {url}" in log
    assert f"INFO Run {run['id']} is received" in log
    assert f"INFO Run {run['id']} is succeeded" in log
    assert DEFERRED in log
    assert len(service.chalk_runs("shop.load")) == 1


def test_a_paradime_run_succeeds_while_its_task_is_deferred(stack: AirflowStack, service: Service) -> None:
    run_id = stack.trigger_dag("paradime")
    stack.wait_for_task("paradime", run_id, "run", "deferred")
    (run,) = service.paradime_runs("paradime")
    url = f"https://app.paradime.io/bolt/run_id/{run['id']}"
    assert stack.links("paradime", run_id, "run") == {"Remote run": url}

    assert stack.wait_for_dag_run("paradime", run_id) == "success"

    assert returned(stack, "paradime", run_id) == str(run["id"])
    assert stack.xcom("paradime", run_id, "run", "run_url") == url
    log = stack.task_log("paradime", run_id, "run")
    assert f"INFO Run {run['id']} is SUCCESS" in log and DEFERRED in log
    (run,) = service.paradime_runs("paradime")
    assert (run["status"], run["cancels"]) == ("SUCCESS", 0)
    assert f"Airflow DAG paradime, run {run_id}, task run" == run["body"]["reason"]


def test_a_failed_paradime_run_brings_its_failing_commands_text_into_the_task_log(
    stack: AirflowStack, service: Service, runs: Runs
) -> None:
    run_id = runs["paradime_broken"]
    assert stack.wait_for_dag_run("paradime_broken", run_id) == "failed"
    log = stack.task_log("paradime_broken", run_id, "run")
    assert "command 'dbt test' ended with return code 1" in log and "Completed with 1 error(s):" in log
    (error,) = (line for line in log.splitlines() if line.startswith("ERROR RunFailed: "))
    assert "has failed (FAILED): command 'dbt test'" in error
    assert [run["status"] for run in service.paradime_runs("paradime_broken")] == ["FAILED"]


def test_marking_a_deferred_task_cancels_its_paradime_run_once(
    stack: AirflowStack, service: Service, runs: Runs
) -> None:
    name = "paradime_marked"
    wait_for_log(stack, name, runs[name], "Waiting for Paradime run")
    stack.wait_for_task(name, runs[name], "run", "deferred")
    assert service.paradime_runs(name)[0]["cancels"] == 0

    stack.set_task_state(name, runs[name], "run", "failed")

    stack.wait_for(lambda: service.paradime_runs(name)[0]["status"] == "CANCELED", 30, "the run's end")
    assert stack.wait_for_dag_run(name, runs[name]) == "failed"
    time.sleep(3)  # for what may come late
    (run,) = service.paradime_runs(name)
    assert (run["status"], run["cancels"]) == ("CANCELED", 1)
    assert f"INFO Paradime run {run['id']} has ended: CANCELED" in stack.task_log(name, runs[name], "run")
    assert "XCom not found" not in (stack.home / "triggerer.log").read_text()


def test_a_strait_run_succeeds_while_its_task_is_deferred_and_leaves_its_result(
    stack: AirflowStack, service: Service, runs: Runs
) -> None:
    assert stack.wait_for_dag_run("strait", runs["strait"]) == "success"
    (run,) = service.strait_runs("strait")
    url = f"https://app.strait.dev/app/runs/{run['id']}"
    assert returned(stack, "strait", runs["strait"]) == run["id"]
    assert stack.links("strait", runs["strait"], "run") == {"Remote run": url}
    result = stack.xcom("strait", runs["strait"], "run", "result")
    assert (json.loads(result) if isinstance(result, str) else result) == {"rows": 3}
    log = stack.task_log("strait", runs["strait"], "run")
    assert f"INFO Run {run['id']} is completed" in log and DEFERRED in log
    assert (run["status"], run["cancels"]) == ("completed", 0)


def test_a_dead_letter_of_strait_says_why_and_what_to_do_in_the_task_log(
    stack: AirflowStack, service: Service, runs: Runs
) -> None:
    assert stack.wait_for_dag_run("strait_broken", runs["strait_broken"]) == "failed"
    log = stack.task_log("strait_broken", runs["strait_broken"], "run")
    assert "StraitReplayRunOperator goes on with it" in log
    (error,) = (line for line in log.splitlines() if line.startswith("ERROR RunFailed: "))
    assert "has failed (dead_letter): endpoint returned 500" in error
    assert [run["status"] for run in service.strait_runs("strait_broken")] == ["dead_letter"]


def test_the_progress_of_a_strait_run_stands_in_the_log_of_a_task_on_a_worker_while_it_goes(
    stack: AirflowStack, runs: Runs
) -> None:
    name = "strait_on_worker"
    assert stack.wait_for_dag_run(name, runs[name]) == "success"
    log = stack.task_log(name, runs[name], "run")
    moments = [log.index(text) for text in ("INFO Waiting for", "INFO progress | 33% done", " is completed ")]
    assert moments == sorted(moments)
    assert log.count("33% done") == log.count("67% done") == 1


def test_marking_a_deferred_task_cancels_its_strait_run_once(
    stack: AirflowStack, service: Service, runs: Runs
) -> None:
    name = "strait_marked"
    wait_for_log(stack, name, runs[name], "Waiting for Strait run")
    stack.wait_for_task(name, runs[name], "run", "deferred")
    assert service.strait_runs(name)[0]["cancels"] == 0

    stack.set_task_state(name, runs[name], "run", "failed")

    stack.wait_for(lambda: service.strait_runs(name)[0]["status"] == "canceled", 30, "the run's end")
    assert stack.wait_for_dag_run(name, runs[name]) == "failed"
    time.sleep(3)  # for what may come late
    (run,) = service.strait_runs(name)
    assert (run["status"], run["cancels"]) == ("canceled", 1)
    assert f"INFO Strait run {run['id']} has ended: canceled" in stack.task_log(name, runs[name], "run")


@pytest.mark.parametrize("task_id", ["deferred", "on_worker"])
def test_a_failed_mage_run_brings_its_blocks_error_into_the_task_log(
    stack: AirflowStack, service: Service, runs: Runs, task_id: str
) -> None:
    run_id = runs["broken"]
    assert stack.wait_for_task("broken", run_id, task_id, "failed", "success", timeout=120) == "failed"
    log = stack.task_log("broken", run_id, task_id)
    assert "ERROR Mage about run" in log
    assert "block bang_y: RuntimeError: bang in y" in log
    (error,) = (line for line in log.splitlines() if line.startswith("ERROR RunFailed: "))
    assert "has failed (failed): block bang_y:" in error
    assert (DEFERRED in log) == (task_id == "deferred")
    assert [run["status"] for run in service.mage_runs("broken")] == ["failed", "failed"]


@pytest.mark.parametrize(
    ("name", "state"),
    [("marked_failed", "failed"), ("marked_success", "success"), ("marked_on_worker", "failed")],
)
def test_marking_a_waiting_task_cancels_its_run(
    stack: AirflowStack, service: Service, runs: Runs, name: str, state: str
) -> None:
    wait_for_log(stack, name, runs[name], "Waiting for Mage run")
    assert stack.task_instance(name, runs[name], "run")["state"] == (
        "running" if name == "marked_on_worker" else "deferred"
    )
    (waited,) = service.mage_runs(name)
    assert waited["cancels"] == 0
    page = f"{service.simulator.url_of('mage')}/pipelines/example/runs/{waited['id']}"
    assert stack.links(name, runs[name], "run") == {"Remote run": page}

    if name != "marked_on_worker":
        # Longer than the second for which Airflow 3.3 lets a trigger's on_kill work undisturbed.
        service.simulator.fault("slow", system="mage", operation="login", seconds=3)

    began = time.monotonic()
    stack.set_task_state(name, runs[name], "run", state)
    wait_until_cancelled(stack, service, name)
    assert time.monotonic() - began < scaled(10)
    service.simulator.clear_faults()

    assert stack.wait_for_dag_run(name, runs[name]) == state
    (run,) = service.mage_runs(name)
    assert (run["status"], run["cancels"]) == ("cancelled", 1)
    assert stack.task_instance(name, runs[name], "run")["state"] == state


def test_clearing_a_deferred_task_cancels_its_run_and_starts_another(
    stack: AirflowStack, service: Service, runs: Runs
) -> None:
    wait_for_log(stack, "cleared", runs["cleared"], "Waiting for Mage run")

    stack.clear("cleared", runs["cleared"], "run")

    stack.wait_for(lambda: len(service.mage_runs("cleared")) == 2, 60, "a second run")
    assert stack.wait_for_dag_run("cleared", runs["cleared"]) == "success"
    first, second = service.mage_runs("cleared")
    assert first["status"] == "cancelled"
    assert (second["status"], second["cancels"]) == ("completed", 0)
    assert returned(stack, "cleared", runs["cleared"]) == str(second["id"])


def test_mapped_tasks_each_have_a_run_of_their_own(stack: AirflowStack, service: Service, runs: Runs) -> None:
    run_id = runs["mapped"]
    assert stack.wait_for_dag_run("mapped", run_id) == "failed"
    tasks = {
        (one["task_id"], one["map_index"]): one["state"] for one in stack.task_instances("mapped", run_id)
    }
    assert tasks == {
        ("expand", 0): "success",
        ("expand", 1): "failed",
        ("expand_kwargs", 0): "success",
        ("expand_kwargs", 1): "success",
    }
    (good,) = service.mage_runs("mapped")
    (bad,) = service.mage_runs("broken_item")
    assert returned(stack, "mapped", run_id, "expand", map_index=0) == str(good["id"])
    assert "bang in y" in stack.task_log("mapped", run_id, "expand", map_index=1)
    for index, (run, pipeline) in enumerate([(good, "example"), (bad, "broken")]):
        page = f"{service.simulator.url_of('mage')}/pipelines/{pipeline}/runs/{run['id']}"
        assert stack.links("mapped", run_id, "expand", map_index=index) == {"Remote run": page}
    items = {
        str(run["id"]): run["body"]["pipeline_run"]["variables"]["item"]
        for run in service.mage_runs("mapped_kwargs")
    }
    started = [returned(stack, "mapped", run_id, "expand_kwargs", map_index=index) for index in (0, 1)]
    assert [items[run] for run in started] == ["a", "b"] and len(items) == 2


@pytest.mark.parametrize("system", ["chalk", "mage"])
def test_a_deferred_sensor_waits_for_the_run_of_another_task(
    stack: AirflowStack, service: Service, runs: Runs, system: str
) -> None:
    run_id = runs["watched"]
    assert stack.wait_for_task("watched", run_id, system, "success", "failed", timeout=120) == "success"
    found = service.chalk_runs("shop.watched") if system == "chalk" else service.mage_runs("watched")
    (run,) = found
    assert returned(stack, "watched", run_id, f"start_{system}") == str(run["id"])
    assert returned(stack, "watched", run_id, system) == str(run["id"])
    log = stack.task_log("watched", run_id, system)
    assert DEFERRED in log
    assert f"Run {run['id']} is {run['status']}" in log
    assert (run["status"], run["cancels"]) == ("succeeded" if system == "chalk" else "completed", 0)
