"""
Run a Mage pipeline whose second block raises: the task fails, and its log shows that block's error.

Needs the connection ``mage_default``. The pipeline has one API trigger, so it need not be named.
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
    default_args={"retries": 0},  # to see it fail at once; give tasks of your own at least 1
) as dag:
    MageTriggerRunOperator(
        task_id="run_broken_pipeline",
        pipeline_uuid="broken",
        deferrable=True,
    )
