"""
Run a Paradime Bolt schedule; when Airflow tries the task again, only what failed runs again.

Needs the connection ``paradime_default``, and Airflow 3.3 to go on with the run: before that, a retry starts
another. The simulator's schedule ``mended`` fails, and its retry succeeds.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_runs.paradime.operators import ParadimeTriggerRunOperator

with DAG(
    dag_id="example_retry_from_failure",
    schedule=None,
    start_date=pendulum.datetime(2024, 1, 1, tz="UTC"),
    catchup=False,
    tags=["example", "paradime"],
) as dag:
    ParadimeTriggerRunOperator(
        task_id="run_schedule",
        slug="mended",
        retry_from_failure=True,
        retries=1,
        retry_delay=timedelta(seconds=1),
        deferrable=True,
    )
