"""What the tests of Strait's tasks share: a simulated Strait, and tasks run as Airflow does."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_provider_runs.core import clock
from airflow_provider_runs.simulator import Simulator
from airflow_provider_runs.strait.hooks import StraitHook
from airflow_provider_runs.strait.operators import StraitReplayRunOperator, StraitTriggerRunOperator

PACE = {"min_poll_interval": 0.1}
KEY = "strait_simulator"
deferrable = pytest.mark.parametrize("deferrable", [False, True], ids=["on the worker", "deferred"])


def connect(monkeypatch: pytest.MonkeyPatch, sim: Simulator, **extra: Any) -> None:
    """Make a simulator the connection that is used by default."""
    fields = {
        "conn_type": "strait",
        "host": sim.url_of("strait"),
        "password": KEY,
        "extra": {"max_requests_per_minute": 60_000, "project_id": "project-simulator", **extra},
    }
    monkeypatch.setenv("AIRFLOW_CONN_STRAIT_DEFAULT", json.dumps(fields))


def from_now(seconds: float) -> datetime:
    """Return the moment in so many seconds, or before so many if they are negative."""
    return datetime.fromtimestamp(clock.time() + seconds, UTC)


def task(job_id: str = "daily", **arguments: Any) -> StraitTriggerRunOperator:
    """Return a task that starts a run."""
    return StraitTriggerRunOperator(**{"task_id": "t", "job_id": job_id, **PACE, **arguments})


def replay(run_id: str, **arguments: Any) -> StraitReplayRunOperator:
    """Return a task that replays a run."""
    return StraitReplayRunOperator(**{"task_id": "t", "run_id": run_id, **PACE, **arguments})


def until(question: Callable[[], Any], seconds: float = 20) -> Any:
    """Wait until a question is answered by something true, and return that."""
    end = clock.monotonic() + seconds
    while not (answer := question()):
        assert clock.monotonic() < end, "it did not happen in time"
        clock.sleep(0.02)
    return answer


def ended(job_id: str = "daily") -> str:
    """Start a run beside any task, and return its id once its end was seen."""
    run_id = StraitHook().trigger_run(job_id).id
    until(lambda: StraitHook().get_run(run_id).state.is_terminal)
    return run_id


def statuses(sim: Simulator) -> dict[str, str]:
    """Return the status of each run, as the simulator knows it."""
    return {str(one["id"]): one["status"] for one in sim.runs("strait")}
