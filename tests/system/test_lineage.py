"""What OpenLineage's provider writes about Paradime tasks, as real Airflow processes make it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.system.conftest import EVENTS, SECRETS, returned
from tools.airflow_stack import AirflowStack

RAW_ORDERS, RAW_CUSTOMERS = "analytics.raw.orders", "analytics.raw.customers"
STAGED, ORDERS, REVENUE = (f"analytics.shop.{name}" for name in ("stg_orders", "orders", "revenue"))
BUILT = {
    "analytics.shop.shop.stg_orders": ([RAW_ORDERS], [STAGED]),
    "analytics.shop.shop.orders": ([STAGED, RAW_CUSTOMERS], [ORDERS]),
    "analytics.shop.shop.revenue": ([ORDERS], [REVENUE]),
}
TESTED = {"analytics.shop.shop.orders.test": ([ORDERS], [])}
Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def run_id(stack: AirflowStack, runs: dict[str, str]) -> str:
    """The DAG run, which has ended, as its own last event says."""
    assert stack.wait_for_dag_run("lineage", runs["lineage"]) == "failed"
    stack.wait_for(
        lambda: any(event["eventType"] == "FAIL" for event in of_job(read(stack), "lineage")),
        30,
        "the event of the end of the DAG run",
    )
    return runs["lineage"]


def read(stack: AirflowStack) -> Events:
    file = stack.home / EVENTS
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def of_job(events: Events, name: str) -> Events:
    return [event for event in events if event["job"]["name"] == name]


def datasets(events: Events, state: str) -> dict[str, tuple[list[str], list[str]]]:
    """Return the names of inputs and outputs of the events of one state, by job."""
    found = [event for event in events if event["eventType"] == state]
    told = {
        event["job"]["name"]: tuple([one["name"] for one in event[kind]] for kind in ("inputs", "outputs"))
        for event in found
    }
    assert len(told) == len(found)
    return told  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("task_id", "end", "done", "failed"),
    [
        ("deferred", "COMPLETE", {**BUILT, **TESTED}, {}),
        ("on_worker", "COMPLETE", {**BUILT, **TESTED}, {}),
        ("broken", "FAIL", BUILT, TESTED),
    ],
)
def test_the_events_of_a_task_and_of_all_that_dbt_did_in_its_run_can_be_read_back(
    stack: AirflowStack, run_id: str, task_id: str, end: str, done: dict[str, Any], failed: dict[str, Any]
) -> None:
    events = read(stack)
    of_task = of_job(events, f"lineage.{task_id}")
    assert {"START", end} == {event["eventType"] for event in of_task}
    (run,) = {event["run"]["runId"] for event in of_task}
    (dag_run,) = {event["run"]["runId"] for event in of_job(events, "lineage")}
    of_dbt = [
        event for event in events if event["run"]["facets"].get("parent", {}).get("run") == {"runId": run}
    ]
    assert datasets(of_dbt, "START") == {**done, **failed}
    assert datasets(of_dbt, "COMPLETE") == done
    assert datasets(of_dbt, "FAIL") == failed
    assert len(of_dbt) == 2 * len({**done, **failed})
    for event in of_dbt:
        parent = event["run"]["facets"]["parent"]
        assert parent["job"] == {"namespace": "default", "name": f"lineage.{task_id}"}
        assert parent["root"]["run"] == {"runId": dag_run}
        assert {one["namespace"] for one in event["inputs"] + event["outputs"]} == {"postgres"}
        assert event["job"]["facets"]["jobType"]["integration"] == "DBT"
    log = stack.task_log("lineage", run_id, task_id)
    paradime = returned(stack, "lineage", run_id, task_id)
    assert f"Emitted {len(of_dbt)} OpenLineage events about Paradime run {paradime}" in log


def test_the_events_hold_neither_a_secret_nor_a_presigned_address(stack: AirflowStack, run_id: str) -> None:
    text = (stack.home / EVENTS).read_text()
    assert REVENUE in text
    assert not [name for name, value in {**SECRETS, "address": "X-Amz"}.items() if value in text]


def test_tasks_of_other_dags_are_not_followed(stack: AirflowStack, run_id: str) -> None:
    jobs = {event["job"]["name"].partition(".")[0] for event in read(stack)}
    assert jobs == {"lineage", "analytics"}
