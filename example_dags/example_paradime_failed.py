"""
Run a Paradime Bolt schedule of which a dbt command fails.

Needs the connection ``paradime_default``. The task fails, and its log shows the command, the end of its
output and which of dbt's nodes failed.
"""

from __future__ import annotations

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_runs.paradime.operators import ParadimeTriggerRunOperator

with DAG(
    dag_id="example_paradime_failed",
    schedule=None,
    start_date=pendulum.datetime(2024, 1, 1, tz="UTC"),
    catchup=False,
    tags=["example", "paradime", "expect:failed"],
    default_args={"retries": 0},  # to see it fail at once; give tasks of your own at least 1
) as dag:
    ParadimeTriggerRunOperator(
        task_id="run_broken_schedule",
        slug="broken",
        deferrable=True,
    )
