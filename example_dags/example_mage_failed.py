"""
Run a Mage pipeline whose second block raises: the task fails, and its log shows that block's error.

Needs the connection ``mage_broken`` with the trigger's token, and the trigger's id in the Airflow variable
``mage_schedule_broken``.
"""

from __future__ import annotations

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_runs.mage.operators import MageTriggerRunOperator

with DAG(
    dag_id="example_mage_failed",
    schedule=None,
    start_date=pendulum.datetime(2024, 1, 1, tz="UTC"),
    catchup=False,
    tags=["example", "mage", "expect:failed"],
) as dag:
    MageTriggerRunOperator(
        task_id="run_broken_pipeline",
        mage_conn_id="mage_broken",
        pipeline_schedule_id="{{ var.value.mage_schedule_broken }}",
        deferrable=True,
        min_poll_interval=1,
    )
