"""What OpenLineage is told about the dbt commands of a run on the simulated Paradime."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.providers.openlineage import api as openlineage
from airflow.providers.openlineage.extractors.manager import ExtractorManager
from airflow.providers.openlineage.plugins.adapter import OpenLineageAdapter

from airflow_provider_runs.base.exceptions import RunFailed, RunUnreachable
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.outcome import Outcome, Verdict
from airflow_provider_runs.paradime import hooks, lineage
from airflow_provider_runs.paradime.operators import ParadimeRetryRunOperator, ParadimeTriggerRunOperator
from airflow_provider_runs.paradime.sensors import ParadimeRunSensor
from airflow_provider_runs.paradime.simulated import Command
from airflow_provider_runs.simulator import Simulator
from tests.base.conftest import callable_operators, told  # noqa: F401
from tests.paradime.conftest import connect

MOMENT = datetime(2026, 1, 2, tzinfo=UTC)
PARENT = OpenLineageAdapter.build_task_instance_run_id(
    dag_id="shop", task_id="run", try_number=1, logical_date=MOMENT, map_index=-1
)
ROOT = OpenLineageAdapter.build_dag_run_id(dag_id="shop", logical_date=MOMENT, clear_number=0)
RAW_ORDERS, RAW_CUSTOMERS = "analytics.raw.orders", "analytics.raw.customers"
STAGED, ORDERS, REVENUE = (f"analytics.shop.{name}" for name in ("stg_orders", "orders", "revenue"))
BUILT = {
    "analytics.shop.shop.stg_orders": ({RAW_ORDERS}, {STAGED}),
    "analytics.shop.shop.orders": ({STAGED, RAW_CUSTOMERS}, {ORDERS}),
    "analytics.shop.shop.revenue": ({ORDERS}, {REVENUE}),
}
TESTED = "analytics.shop.shop.orders.test"
Told = Callable[[], str]


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The events that are emitted."""
    events: list[Any] = []
    monkeypatch.setattr(openlineage, "emit", events.append)
    return events


def instance() -> Any:
    """Return the task instance that OpenLineage's provider hands over."""
    dag_run = SimpleNamespace(logical_date=MOMENT, run_after=MOMENT, clear_number=0, conf={})
    return SimpleNamespace(
        dag_id="shop",
        task_id="run",
        try_number=1,
        map_index=-1,
        logical_date=MOMENT,
        dag_run=dag_run,
        get_template_context=lambda: {"dag_run": dag_run},
    )


def report(task: Any, state: str = "success") -> Any:
    """Ask the task as OpenLineage's provider does when it has ended."""
    return ExtractorManager().extract_metadata(
        SimpleNamespace(run_id="r"), task, task_instance_state=state, task_instance=instance()
    )


def operator(slug: str = "daily", **arguments: Any) -> ParadimeTriggerRunOperator:
    given = {"min_poll_interval": 0.05, "poll_interval": 0.1, "deferrable": False, "reason": None}
    return ParadimeTriggerRunOperator(task_id="run", slug=slug, **given | arguments)


def names(events: list[Any], state: str) -> dict[str, tuple[set[str], set[str]]]:
    """Return inputs and outputs of the events of one state, by job."""
    return {
        event.job.name: ({one.name for one in event.inputs}, {one.name for one in event.outputs})
        for event in events
        if event.eventType.value == state
    }


def test_each_model_and_test_of_each_command_is_told_with_its_datasets(
    sim: Simulator,
    context: dict[str, Any],
    emitted: list[Any],
    told: Told,  # noqa: F811
) -> None:
    task = operator()
    task.execute(context)
    about_the_task = report(task)
    assert (about_the_task.inputs, about_the_task.outputs) == ([], [])
    assert names(emitted, "START") == names(emitted, "COMPLETE") == {**BUILT, TESTED: ({ORDERS}, set())}
    assert len(emitted) == 8
    for event in emitted:
        parent = event.run.facets["parent"]
        assert (parent.run.runId, parent.job.name) == (PARENT, "shop.run")
        assert (parent.root.run.runId, parent.root.job.name) == (ROOT, "shop")
        assert {one.namespace for one in (*event.inputs, *event.outputs)} == {"postgres"}
        assert event.run.facets["dbt_run"].project_name == "shop"
    (orders,) = (one for event in emitted[:3] for one in event.outputs if one.name == ORDERS)
    assert [field.name for field in orders.facets["schema"].fields] == ["id", "customer", "amount"]
    begun, ended = (event for event in emitted if event.job.name.endswith(".shop.revenue"))
    assert begun.run.runId == ended.run.runId and begun.eventTime < ended.eventTime
    assert "Emitted 8 OpenLineage events" in told()


def test_a_deferred_task_tells_when_it_is_resumed(
    sim: Simulator, context: dict[str, Any], emitted: list[Any]
) -> None:
    task = operator(deferrable=True)
    with pytest.raises(TaskDeferred):
        task.execute(context)
    assert report(task) is not None and emitted == []
    run_id = str(sim.runs("paradime")[0]["id"])
    while sim.runs("paradime")[0]["status"] != "SUCCESS":
        clock.sleep(0.1)
    resumed = operator(deferrable=True)
    resumed.execute_complete(context, Outcome(Verdict.SUCCEEDED, run_id, "SUCCESS").event())
    report(resumed)
    assert len(emitted) == 8


def test_a_failed_run_tells_what_it_has_done_and_what_failed(
    sim: Simulator, context: dict[str, Any], emitted: list[Any]
) -> None:
    task = operator("broken")
    with pytest.raises(RunFailed):
        task.execute(context)
    report(task, "failed")
    done = {name: BUILT[name.removesuffix(".build.run")] for name in names(emitted, "COMPLETE")}
    assert names(emitted, "COMPLETE") == done
    assert list(done) == ["analytics.shop.shop.stg_orders.build.run"]
    assert names(emitted, "FAIL") == {
        "analytics.shop.shop.orders.build.run": ({STAGED, RAW_CUSTOMERS}, set())
    }
    assert len(emitted) == 4  # nothing of what dbt has skipped


def test_a_retried_run_tells_as_the_command_that_it_repeats(
    sim: Simulator, context: dict[str, Any], emitted: list[Any]
) -> None:
    with pytest.raises(RunFailed):
        (failed := operator("broken")).execute(context)
    sim.plan(system="paradime", resource="broken", outcome="succeeded")
    again = ParadimeRetryRunOperator(
        task_id="run", run_id=str(failed._ended_run), min_poll_interval=0.05, deferrable=False
    )
    again.execute({"ti": context["ti"], "task_state_store": type(context["task_state_store"])()})
    report(again)
    assert set(names(emitted, "COMPLETE")) >= {f"{name}.build.run" for name in BUILT}


def test_a_sensor_tells_about_the_run_that_it_waited_for(
    sim: Simulator, context: dict[str, Any], emitted: list[Any]
) -> None:
    sensor = ParadimeRunSensor(task_id="run", run_id="76035", deferrable=False)
    sensor.execute(context)
    report(sensor)
    assert set(names(emitted, "COMPLETE")) == {*BUILT, TESTED}


def test_a_task_that_has_not_seen_the_end_of_its_run_tells_nothing(
    sim: Simulator, context: dict[str, Any], emitted: list[Any]
) -> None:
    started = operator(wait_for_completion=False)
    run_id = started.execute(context)
    report(started)
    lost = operator()
    with pytest.raises(RunUnreachable):
        lost.execute_complete(context, Outcome(Verdict.UNREACHABLE, run_id, None, "gone").event())
    before = len(sim.requests()["last"])
    report(lost, "failed")
    assert (emitted, len(sim.requests()["last"])) == ([], before)


def test_the_connection_names_the_warehouse(
    sim: Simulator, context: dict[str, Any], emitted: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"api_key": "key-simulator", "dataset_namespace": "postgres://db.example.com:5432"}
    connect(monkeypatch, sim, extra=extra)
    (task := operator()).execute(context)
    report(task)
    found = {one.namespace for event in emitted for one in (*event.inputs, *event.outputs)}
    assert found == {"postgres://db.example.com:5432"}


def test_a_catalog_adds_the_types_of_columns(
    sim: Simulator, context: dict[str, Any], emitted: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_runs.paradime.simulated_dbt._columns", lambda table: {})
    (task := operator(commands=["dbt run", "dbt docs generate"])).execute(context)
    report(task)
    (revenue,) = (one for event in emitted[:3] for one in event.outputs if one.name == REVENUE)
    found = {field.name: field.type for field in revenue.facets["schema"].fields}
    assert found == {"customer": "text", "amount": "numeric"}
    assert len(emitted) == 6  # dbt docs builds nothing


def test_a_run_that_has_left_no_artifacts_is_silent(
    sim: Simulator,
    context: dict[str, Any],
    emitted: list[Any],
    told: Told,  # noqa: F811
) -> None:
    (task := operator(commands=["python load.py", "dbt seed"])).execute(context)
    told()
    report(task)
    assert emitted == [] and "lineage" not in told().lower()


def test_results_that_a_later_command_leaves_once_more_are_told_once(
    sim: Simulator, context: dict[str, Any], emitted: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = hooks.ParadimeHook.read_json
    kept: dict[str, Any] = {}

    def same(hook: Any, run_id: str, artifact: Any, max_bytes: int) -> Any:
        return kept.setdefault(artifact["path"], read(hook, run_id, artifact, max_bytes))

    monkeypatch.setattr(hooks.ParadimeHook, "read_json", same)
    (task := operator()).execute(context)
    report(task)
    assert names(emitted, "COMPLETE") == BUILT and len(emitted) == 6


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"null", b'{"metadata": {}}', b"[" * 100_000, b'{"a": "' + b"x" * 10**6]
)
@pytest.mark.parametrize("path", [lineage.MANIFEST, lineage.RUN_RESULTS])
def test_a_command_whose_artifacts_make_no_sense_takes_nothing_from_the_others(
    sim: Simulator,
    context: dict[str, Any],
    emitted: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    told: Told,  # noqa: F811
    path: str,
    content: bytes,
) -> None:
    document = Command._document
    monkeypatch.setattr(
        Command,
        "_document",
        lambda self, at: content if (self.verb, at) == ("test", path) else document(self, at),
    )
    (task := operator()).execute(context)
    assert report(task) is not None
    assert names(emitted, "COMPLETE") == BUILT
    assert "No lineage of command 'dbt test' of Paradime run" in told()


def test_what_is_too_long_is_not_read(
    sim: Simulator,
    context: dict[str, Any],
    emitted: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    told: Told,  # noqa: F811
) -> None:
    monkeypatch.setattr(lineage, "MOST_BYTES", 1000)
    (task := operator()).execute(context)
    report(task)
    text = told()
    assert emitted == [] and "max_bytes allows (1000)" in text and "X-Amz" not in text


def test_an_outage_is_a_warning_without_a_secret(
    sim: Simulator,
    context: dict[str, Any],
    emitted: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    told: Told,  # noqa: F811
) -> None:
    (task := operator()).execute(context)
    sim.fault("status", system="paradime", operation="commands", status=403)
    report(task)
    sim.clear_faults()
    sim.fault("status", system="paradime", operation="download", status=403)
    report(task)
    text = told()
    assert emitted == []
    of = ("Paradime run", "command 'dbt run'", "command 'dbt test'")
    assert all(f"No lineage of {one}" in text for one in of)
    assert not [word for word in ("X-Amz", "paradime-secret", "company-simulator") if word in text]


def test_the_events_hold_neither_secret_nor_address(
    sim: Simulator, context: dict[str, Any], emitted: list[Any]
) -> None:
    (task := operator()).execute(context)
    report(task)
    text = json.dumps([str(event) for event in emitted])
    assert ORDERS in text
    words = ("X-Amz", "paradime-secret", "key-simulator", "company-simulator", "/storage/")
    assert not [word for word in words if word in text]


def test_an_older_provider_of_openlineage_is_a_warning(
    sim: Simulator,
    context: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    told: Told,  # noqa: F811
) -> None:
    (task := operator()).execute(context)
    imported = builtins.__import__

    def lacking(name: str, *arguments: Any) -> Any:
        if name == "airflow.providers.openlineage.api":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imported(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", lacking)
    assert report(task) is not None
    assert "No module named 'airflow.providers.openlineage.api'" in told()
