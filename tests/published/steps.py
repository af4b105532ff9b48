"""
The steps of a deferred task, each in a process of its own, under whatever release of the package is imported.

Run with the step, the folder of files that the steps exchange, and the connections in the environment. It
imports nothing of the tests, which only fit the present release.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import TaskDeferred

import airflow_provider_runs

ARGUMENTS: dict[str, dict[str, Any]] = {
    "chalk": {"resolver_fqn": "shop.load"},
    "mage": {"pipeline_schedule_id": 1},
    "paradime": {"slug": "daily"},
    "strait": {"job_id": "daily"},
}


class TaskInstance:
    """As much of a task instance as an operator touches."""

    dag_id, task_id, run_id, map_index, try_number, max_tries = "dag", "task", "manual", -1, 1, 1

    def __init__(self) -> None:
        self.start_date = datetime.now(UTC)

    def xcom_push(self, key: str, value: Any) -> None:
        """Take down nothing."""


class TaskState(dict[str, Any]):
    """A task state store."""

    def set(self, key: str, value: Any) -> None:
        """Keep a JSON value."""
        self[key] = json.loads(json.dumps(value))


def operator(system: str) -> Any:
    module = import_module(f"airflow_provider_runs.{system}.operators")
    kind = getattr(module, f"{system.title()}TriggerRunOperator")
    return kind(task_id="task", deferrable=True, **ARGUMENTS[system])


def defer(system: str, known: dict[str, Any]) -> dict[str, Any]:
    """Begin a try, a first one or a retry; return what Airflow would store of it, or its result."""
    state = TaskState(known.get("state", {}))
    try:
        return {"result": operator(system).execute({"ti": TaskInstance(), "task_state_store": state})}
    except TaskDeferred as pause:
        path, arguments = pause.trigger.serialize()
        return {"state": state, "path": path, "arguments": arguments, "method": pause.method_name}


def wait(system: str, known: dict[str, Any]) -> dict[str, Any]:
    """Run the stored trigger to its event."""
    module, _, name = known["path"].rpartition(".")
    trigger = getattr(import_module(module), name)(**known["arguments"])

    async def events() -> list[Any]:
        return [event.payload async for event in trigger.run()]

    (event,) = asyncio.run(events())
    return {**known, "event": event}


def complete(system: str, known: dict[str, Any]) -> dict[str, Any]:
    """Resume the task with the event."""
    context = {"ti": TaskInstance(), "task_state_store": TaskState(known["state"])}
    result = getattr(operator(system), known["method"])(context, known["event"])
    return {**known, "result": result}


STEPS = {"defer": defer, "wait": wait, "complete": complete}

if __name__ == "__main__":
    step, folder = STEPS[sys.argv[1]], Path(sys.argv[2])
    print(airflow_provider_runs.__file__)
    for one in ARGUMENTS:
        file = folder / f"{one}.json"
        file.write_text(json.dumps(step(one, json.loads(file.read_text()) if file.exists() else {})))
