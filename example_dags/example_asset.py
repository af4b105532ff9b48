"""
Schedule a DAG whenever a run of a Strait job has succeeded, whoever started it.

Needs Airflow 3.3 and the connection ``strait_default``. The second DAG only plays who starts a run.
"""

from __future__ import annotations

from typing import Any

import pendulum
from airflow.sdk import DAG, Asset, AssetWatcher, task

from airflow_provider_runs.strait.operators import StraitTriggerRunOperator
from airflow_provider_runs.strait.triggers import StraitRunEventTrigger

ended = Asset(
    "strait_slow",
    watchers=[AssetWatcher(name="slow_ended", trigger=StraitRunEventTrigger(job_id="slow", poll_interval=5))],
)

with DAG(
    dag_id="example_asset",
    schedule=[ended],
    start_date=pendulum.datetime(2024, 1, 1, tz="UTC"),
    catchup=False,
    tags=["example", "strait"],
    default_args={"retries": 1},
) as dag:

    @task
    def tell(triggering_asset_events: Any = None) -> list[str]:
        """Return the ids of the runs that this DAG run was scheduled by."""
        return [
            run["run_id"]
            for event in triggering_asset_events[ended]
            for run in event.extra["payload"]["runs"]
        ]

    tell()

with DAG(
    dag_id="example_asset_start",
    schedule=None,
    start_date=pendulum.datetime(2024, 1, 1, tz="UTC"),
    catchup=False,
    tags=["example", "strait"],
    default_args={"retries": 1},
) as starts:
    StraitTriggerRunOperator(task_id="start_job", job_id="slow", wait_for_completion=False)
