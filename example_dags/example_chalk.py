"""
Run Chalk resolvers: wait for one while deferred, and for another with a sensor.

Needs the connection ``chalk_default``.
"""

from __future__ import annotations

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_runs.chalk.operators import ChalkTriggerRunOperator
from airflow_provider_runs.chalk.sensors import ChalkRunSensor

with DAG(
    dag_id="example_chalk",
    schedule=None,
    start_date=pendulum.datetime(2024, 1, 1, tz="UTC"),
    catchup=False,
    tags=["example", "chalk"],
    default_args={"retries": 1},
) as dag:
    load = ChalkTriggerRunOperator(
        task_id="load_transactions",
        resolver_fqn="neobank.resolvers.offline_get_transactions",
        lower_bound="2021-01-01T00:00:00Z",
        upper_bound="2023-01-02T00:00:00Z",
        max_samples=1000,
        deferrable=True,
        poll_interval=10,
    )
    start = ChalkTriggerRunOperator(
        task_id="start_users",
        resolver_fqn="neobank.resolvers.get_users",
        wait_for_completion=False,
    )
    wait = ChalkRunSensor(
        task_id="wait_for_users",
        run_id="{{ ti.xcom_pull(task_ids='start_users') }}",
        deferrable=True,
        poke_interval=5,
    )
    start >> wait
