"""
Run a Mage pipeline through its API trigger and wait for it, deferred and on a worker.

Needs the connection ``mage_default`` with the trigger's token, and the trigger's id in the Airflow variable
``mage_schedule_example``.
"""

from __future__ import annotations

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_runs.mage.operators import MageTriggerRunOperator

with DAG(
    dag_id="example_mage",
    schedule=None,
    start_date=pendulum.datetime(2024, 1, 1, tz="UTC"),
    catchup=False,
    tags=["example", "mage"],
) as dag:
    MageTriggerRunOperator(
        task_id="run_pipeline",
        pipeline_schedule_id="{{ var.value.mage_schedule_example }}",
        variables={"day": "{{ dag_run.run_after | ds }}", "sleep": 1},
        deferrable=True,
        min_poll_interval=1,
    ) >> MageTriggerRunOperator(
        task_id="run_on_worker",
        pipeline_schedule_id="{{ var.value.mage_schedule_example }}",
        event_variables={"source": "airflow"},
        deferrable=False,
        min_poll_interval=1,
    )
