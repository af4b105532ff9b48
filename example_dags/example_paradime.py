"""
Run a Paradime Bolt schedule, deferred and on a worker, and see it in the schedule's list.

Needs the connection ``paradime_default``.
"""

from __future__ import annotations

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_runs.paradime.operators import ParadimeTriggerRunOperator
from airflow_provider_runs.paradime.sensors import ParadimeRunSensor

with DAG(
    dag_id="example_paradime",
    schedule=None,
    start_date=pendulum.datetime(2024, 1, 1, tz="UTC"),
    catchup=False,
    tags=["example", "paradime"],
    default_args={"retries": 1},
) as dag:
    deferred = ParadimeTriggerRunOperator(
        task_id="run_schedule",
        slug="daily",
        retry_from_failure=True,
        deferrable=True,
    )
    on_worker = ParadimeTriggerRunOperator(
        task_id="run_on_worker",
        slug="daily",
        commands=["dbt build --vars 'run: {{ run_id }}'"],
        branch="main",
        stream_logs=True,
        deferrable=False,
    )
    # Whoever started it: a run of the schedule since this DAG run began.
    seen = ParadimeRunSensor(
        task_id="wait_for_any_run",
        slug="daily",
        since="{{ dag_run.start_date }}",
        deferrable=True,
        poke_interval=5,
    )
    deferred >> on_worker >> seen
