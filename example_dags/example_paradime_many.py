"""
Start a run of Paradime for each item, and wait for all with one sensor, which asks about them together.

Needs the connection ``paradime_default``.
"""

from __future__ import annotations

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_runs.paradime.operators import ParadimeTriggerRunOperator
from airflow_provider_runs.paradime.sensors import ParadimeRunSensor

with DAG(
    dag_id="example_paradime_many",
    schedule=None,
    start_date=pendulum.datetime(2024, 1, 1, tz="UTC"),
    catchup=False,
    tags=["example", "paradime"],
    default_args={"retries": 1},
) as dag:
    start = ParadimeTriggerRunOperator.partial(
        task_id="start", slug="daily", wait_for_completion=False
    ).expand(commands=[["dbt build -s orders"], ["dbt build -s customers"], ["dbt build -s products"]])
    for mode, chosen in (("deferred", {"deferrable": True}), ("rescheduled", {"mode": "reschedule"})):
        ParadimeRunSensor(task_id=f"wait_{mode}", run_ids=start.output, poke_interval=5, **chosen)
