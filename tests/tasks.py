"""How tests run a task as Airflow does: a context, and one try, over a deferral if there is one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_runs.core import clock
from tests.base.fakes import FakeTaskInstance, Store, fire


def new_context() -> dict[str, Any]:
    """Return the context of a first try."""
    return {"ti": FakeTaskInstance(max_tries=1), "task_state_store": Store()}


def run(task: Any, context: dict[str, Any]) -> Any:
    """Run one try of a task, in its mode."""
    try:
        return task.execute(context)
    except TaskDeferred as pause:
        path, arguments = pause.trigger.serialize()
        kind = type(pause.trigger)
        assert path == f"{kind.__module__}.{kind.__qualname__}"
        return task.execute_complete(context, fire(kind(**json.loads(json.dumps(arguments)))))


def now() -> datetime:
    """Return the present moment of the clock that tests replace."""
    return datetime.fromtimestamp(clock.time(), UTC)
