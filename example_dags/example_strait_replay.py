"""
Replay a dead letter of Strait once its cause has been mended.

Needs the connection ``strait_default``. The job ends as a dead letter at first; its replay, under the same
id, succeeds.
"""

from __future__ import annotations

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_runs.strait.operators import StraitReplayRunOperator, StraitTriggerRunOperator
from airflow_provider_runs.strait.sensors import StraitRunSensor

with DAG(
    dag_id="example_strait_replay",
    schedule=None,
    start_date=pendulum.datetime(2024, 1, 1, tz="UTC"),
    catchup=False,
    tags=["example", "strait"],
    default_args={"retries": 1},
) as dag:
    start = StraitTriggerRunOperator(task_id="start_job", job_id="mended", wait_for_completion=False)
    # A dead letter skips this task, and only then is the run replayed.
    dead = StraitRunSensor(
        task_id="wait_for_dead_letter",
        run_id="{{ ti.xcom_pull(task_ids='start_job') }}",
        skip_on_states="dead_letter",
        deferrable=True,
        poke_interval=5,
    )
    replay = StraitReplayRunOperator(
        task_id="replay",
        run_id="{{ ti.xcom_pull(task_ids='start_job') }}",
        trigger_rule="all_skipped",
        deferrable=True,
    )
    start >> dead >> replay
