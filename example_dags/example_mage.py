"""
Run a Mage pipeline through its API trigger and wait for it, deferred and on a worker; then see it listed.

Needs the connection ``mage_default``, which reads the trigger's token from the server.
"""

from __future__ import annotations

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_runs.mage.operators import MageTriggerRunOperator
from airflow_provider_runs.mage.sensors import MageRunSensor

with DAG(
    dag_id="example_mage",
    schedule=None,
    start_date=pendulum.datetime(2024, 1, 1, tz="UTC"),
    catchup=False,
    tags=["example", "mage"],
    default_args={"retries": 1},
) as dag:
    deferred = MageTriggerRunOperator(
        task_id="run_pipeline",
        pipeline_uuid="example",
        trigger_name="from_airflow",
        variables={"day": "{{ dag_run.start_date | ds }}", "sleep": 1},
        retry_from_failure=True,
        deferrable=True,
    )
    on_worker = MageTriggerRunOperator(
        task_id="run_on_worker",
        pipeline_uuid="example",
        trigger_name="from_airflow",
        event_variables={"source": "airflow"},
        deferrable=False,
    )
    # Whoever started it: a run of the pipeline since this DAG run began.
    seen = MageRunSensor(
        task_id="wait_for_any_run",
        pipeline_uuid="example",
        since="{{ dag_run.start_date }}",
        deferrable=True,
        poke_interval=5,
    )
    deferred >> on_worker >> seen
