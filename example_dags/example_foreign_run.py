"""
Wait for a Strait run that something else starts: a scheduler, a person, or the program that is played here.

Needs the connection ``strait_default``.
"""

from __future__ import annotations

import pendulum
from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_runs.strait.hooks import StraitHook
from airflow_provider_runs.strait.sensors import StraitRunSensor

with DAG(
    dag_id="example_foreign_run",
    schedule=None,
    start_date=pendulum.datetime(2024, 1, 1, tz="UTC"),
    catchup=False,
    tags=["example", "strait"],
    default_args={"retries": 1},
) as dag:

    @task
    def somebody_else(day: str) -> None:
        """Start a run; Airflow is told neither its id nor its end."""
        StraitHook().trigger_run("daily", tags={"day": day})

    # Both tasks begin at once: the sensor takes the first run with this tag since the DAG run began.
    StraitRunSensor(
        task_id="wait_for_it",
        job_id="daily",
        tag_key="day",
        tag_value="{{ dag_run.start_date | ds }}",
        since="{{ dag_run.start_date }}",
        deferrable=True,
        poke_interval=5,
    )
    somebody_else("{{ dag_run.start_date | ds }}")
