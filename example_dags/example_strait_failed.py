"""
Run a Strait job whose attempts are used up.

Needs the connection ``strait_default``. The run ends as a dead letter, the task fails, and its log says why.
"""

from __future__ import annotations

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_runs.strait.operators import StraitTriggerRunOperator

with DAG(
    dag_id="example_strait_failed",
    schedule=None,
    start_date=pendulum.datetime(2024, 1, 1, tz="UTC"),
    catchup=False,
    tags=["example", "strait", "expect:failed"],
    default_args={"retries": 0},  # to see it fail at once; give tasks of your own at least 1
) as dag:
    StraitTriggerRunOperator(task_id="run_broken_job", job_id="broken", deferrable=True)
