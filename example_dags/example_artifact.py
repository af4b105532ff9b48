"""
Run a Paradime Bolt schedule, copy an artifact into object storage, and read it there.

Needs the connection ``paradime_default``. The Airflow variable ``artifacts`` says where artifacts go to, such
as ``s3://aws_default@bucket/artifacts``.
"""

from __future__ import annotations

import json

import pendulum
from airflow.providers.common.compat.sdk import DAG, ObjectStoragePath, task

from airflow_provider_runs.paradime.operators import (
    ParadimeDownloadArtifactOperator,
    ParadimeTriggerRunOperator,
)

with DAG(
    dag_id="example_artifact",
    schedule=None,
    start_date=pendulum.datetime(2024, 1, 1, tz="UTC"),
    catchup=False,
    tags=["example", "paradime"],
    default_args={"retries": 1},
) as dag:
    build = ParadimeTriggerRunOperator(task_id="build", slug="daily", deferrable=True)
    manifest = ParadimeDownloadArtifactOperator(
        task_id="download_manifest",
        run_id="{{ ti.xcom_pull(task_ids='build') }}",
        path="target/manifest.json",
        target="{{ var.value.artifacts }}/{{ run_id }}/manifest.json",
    )

    @task
    def count_nodes(artifact: dict[str, str]) -> int:
        """Return how many nodes dbt's manifest has."""
        return len(json.loads(ObjectStoragePath(artifact["path"]).read_text())["nodes"])

    build >> manifest
    count_nodes(manifest.output)
