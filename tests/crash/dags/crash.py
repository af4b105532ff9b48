"""One DAG per system, mode and variant; the DAG run's conf names the case."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import DAG

from tests.crash import points
from tests.crash.systems import TARGETS

points.install(tuple(target.start_path for target in TARGETS.values()))

SLOWNESS = float(os.environ.get("CRASH_SLOWNESS", "1"))
"""The bench's speed factor: runs and limits keep their proportion."""
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "kept": ({}, {"cancel_on_kill": False}),
    "limited": ({"dagrun_timeout": timedelta(seconds=40 * SLOWNESS)}, {}),
    "pausing": ({}, {"retry_delay": timedelta(minutes=10)}),
    "impatient": ({}, {"timeout": 15 * SLOWNESS, "retries": 0}),
    "brief": ({}, {"timeout": 15 * SLOWNESS, "retries": 1}),
    "alarmed": ({}, {"execution_timeout": timedelta(seconds=20 * SLOWNESS)}),
    # An outage of the API server costs a try for every process that cannot be started.
    "patient": ({}, {"retries": 30}),
}

for system, target in TARGETS.items():
    for mode in ("worker", "deferred"):
        unmarked = {word: ({}, dict(one.arguments)) for word, one in target.unmarked.items()}
        for variant, (of_dag, of_task) in {**VARIANTS, **unmarked}.items():
            with DAG(
                dag_id=f"{system}_{mode}_{variant}",
                schedule=None,
                start_date=pendulum.datetime(2024, 1, 1, tz="UTC"),
                catchup=False,
                max_active_runs=500,
                max_active_tasks=500,
                **of_dag,
            ):
                target.operator(
                    task_id="run",
                    deferrable=mode == "deferred",
                    poll_interval=1,
                    min_poll_interval=0.5,
                    **{
                        **target.arguments,
                        "retries": 2,
                        "retry_delay": timedelta(seconds=1),
                        **of_task,
                    },
                )
