"""
Run Strait jobs: one deferred with its result, one on a worker with its progress in the log.

Needs the connection ``strait_default``.
"""

from __future__ import annotations

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_runs.strait.operators import StraitTriggerRunOperator
from airflow_provider_runs.strait.sensors import StraitRunSensor

with DAG(
    dag_id="example_strait",
    schedule=None,
    start_date=pendulum.datetime(2024, 1, 1, tz="UTC"),
    catchup=False,
    tags=["example", "strait"],
    default_args={"retries": 1},
) as dag:
    deferred = StraitTriggerRunOperator(
        task_id="run_job",
        job_id="daily",
        payload={"day": "{{ dag_run.start_date | ds }}"},
        push_result=True,
        deferrable=True,
    )
    on_worker = StraitTriggerRunOperator(
        task_id="run_with_progress",
        job_id="agent",
        payload="{{ ti.xcom_pull(task_ids='run_job', key='result') | tojson }}",
        push_outputs=True,
        stream_logs=True,
        deferrable=False,
    )
    # Whoever started it: a run of the job since this DAG run began.
    seen = StraitRunSensor(
        task_id="wait_for_any_run",
        job_id="daily",
        since="{{ dag_run.start_date }}",
        deferrable=True,
        poke_interval=5,
    )
    deferred >> [on_worker, seen]
