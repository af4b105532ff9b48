from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_runs.core.connection import read_settings
from airflow_provider_runs.strait.api import StraitRunApi
from tests.simulators import simulators  # noqa: F401

NOW = 1_800_000_000.0
KEY = "strait_planted-api-key"
HOST = "https://api.strait.dev"
JOB = "01900000-0000-7000-8000-000000000001"
# The status words that the service documents, each with what it means.
DOCUMENTED_WORDS = {
    "delayed": "pending",
    "queued": "pending",
    "dequeued": "pending",
    "executing": "running",
    "waiting": "pending",
    "replay_staged": "pending",
    "paused": "running",
    "completed": "succeeded",
    "failed": "failed",
    "timed_out": "failed",
    "crashed": "failed",
    "system_failed": "failed",
    "expired": "failed",
    "dead_letter": "failed",
    "canceled": "cancelled",
}


def make_api(
    extra: dict[str, Any] | None = None,
    *,
    scope: dict[str, str] | None = None,
    keep_secret: Callable[[str], None] = lambda secret: None,
    **fields: Any,
) -> StraitRunApi:
    """Return Strait's API for a key of Strait's cloud."""
    fields = {"password": KEY, "extra": extra or {}, **fields}
    settings = read_settings(StraitRunApi.connection, conn_id="strait_default", **fields)
    return StraitRunApi(settings, scope, now=lambda: NOW, keep_secret=keep_secret)


def row(run_id: str = "r1", status: str = "executing", **fields: Any) -> dict[str, Any]:
    """Return a run as today's server shows it: what is empty is left out."""
    return {
        "id": run_id,
        "job_id": JOB,
        "project_id": "project-1",
        "status": status,
        "attempt": 1,
        "triggered_by": "manual",
        "priority": 0,
        "job_version": 1,
        "debug_mode": False,
        "lineage_depth": 0,
        "created_at": "2027-01-15T08:00:00.123456Z",
        **fields,
    }


def page(*rows: dict[str, Any], cursor: str | None = None) -> dict[str, Any]:
    """Return a page of a list as today's server gives it."""
    more = {"next_cursor": cursor} if cursor else {}
    return {"data": list(rows), "has_more": bool(cursor), **more}


@pytest.fixture
def api() -> StraitRunApi:
    return make_api()
