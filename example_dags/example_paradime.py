"""
Run a Paradime Bolt schedule, deferred and on a worker, see it in the schedule's list, and fetch an artifact.

Needs the connection ``paradime_default``. The Airflow variable ``artifacts`` says where artifacts go to, such
as ``s3://aws_default@bucket/artifacts``.
"""

from __future__ import annotations

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_runs.paradime.operators import (
    ParadimeDownloadArtifactOperator,
    ParadimeTriggerRunOperator,
)
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
        min_poll_interval=1,
    )
    on_worker = ParadimeTriggerRunOperator(
        task_id="run_on_worker",
        slug="daily",
        commands=["dbt build --vars 'run: {{ run_id }}'"],
        branch="main",
        stream_logs=True,
        deferrable=False,
        min_poll_interval=1,
    )
    # Whoever started it: a run of the schedule since this DAG run began.
    seen = ParadimeRunSensor(
        task_id="wait_for_any_run",
        slug="daily",
        since="{{ dag_run.run_after }}",
        deferrable=True,
        poke_interval=5,
        min_poll_interval=1,
    )
    manifest = ParadimeDownloadArtifactOperator(
        task_id="download_manifest",
        run_id="{{ ti.xcom_pull(task_ids='run_on_worker') }}",
        path="target/manifest.json",
        target="{{ var.value.get('artifacts', 'file:///tmp/artifacts') }}/{{ run_id }}/manifest.json",
    )
    deferred >> on_worker >> [seen, manifest]
