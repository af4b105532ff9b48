"""
What Airflow has stored about asset events, read from its database.

While a DAG run is queued, the API of Airflow 3.3.2 may answer a list of events with status 500.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any

from tools.airflow_stack import AirflowStack

Told = dict[str, Counter[str]]


def told(stack: AirflowStack) -> Told:
    """Return how often the end of each run stands in an asset event, by asset."""
    query = (
        "SELECT asset.name, CAST(asset_event.extra AS TEXT)"
        " FROM asset_event JOIN asset ON asset.id = asset_id"
    )
    return _by_name(stack.rows(query))


def scheduled_by(stack: AirflowStack) -> Told:
    """Return how often a DAG run that succeeded was scheduled by the end of each run, by DAG."""
    return _by_name(
        stack.rows(
            "SELECT dag_run.dag_id, CAST(asset_event.extra AS TEXT) FROM asset_event"
            " JOIN dagrun_asset_event ON dagrun_asset_event.event_id = asset_event.id"
            " JOIN dag_run ON dag_run.id = dagrun_asset_event.dag_run_id WHERE dag_run.state = 'success'",
        )
    )


def stored(stack: AirflowStack) -> list[str]:
    """Return what watchers have stored, as JSON."""
    return [value for (value,) in stack.rows("SELECT CAST(value AS TEXT) FROM asset_state_store")]


def is_noted(stack: AirflowStack, run_id: str) -> bool:
    """Tell whether a watcher has stored that the end of a run is told."""
    return any(run_id in json.loads(value)["ended"] for value in stored(stack))


def _by_name(found: list[Any]) -> Told:
    runs: Told = defaultdict(Counter)
    for name, extra in found:
        runs[name].update(run["run_id"] for run in json.loads(extra)["payload"]["runs"])
    return runs
