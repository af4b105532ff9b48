"""
One pipeline through all four: Mage loads, Paradime transforms, Chalk computes features, Strait delivers.

Needs the connections ``mage_default``, ``paradime_default``, ``chalk_default`` and ``strait_default``.
"""

from __future__ import annotations

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_runs.chalk.operators import ChalkTriggerRunOperator
from airflow_provider_runs.mage.operators import MageTriggerRunOperator
from airflow_provider_runs.paradime.operators import ParadimeTriggerRunOperator
from airflow_provider_runs.strait.operators import StraitTriggerRunOperator

with DAG(
    dag_id="example_pipeline",
    schedule=None,
    start_date=pendulum.datetime(2024, 1, 1, tz="UTC"),
    catchup=False,
    tags=["example", "chalk", "mage", "paradime", "strait"],
    default_args={"retries": 1, "deferrable": True},
) as dag:
    load = MageTriggerRunOperator(
        task_id="load",
        pipeline_uuid="example",
        trigger_name="from_airflow",
        variables={"day": "{{ dag_run.start_date | ds }}", "sleep": 1},
    )
    transform = ParadimeTriggerRunOperator(task_id="transform", slug="daily")
    compute = ChalkTriggerRunOperator(
        task_id="compute_features",
        resolver_fqn="neobank.resolvers.get_users",
        upper_bound="{{ dag_run.start_date }}",
    )
    deliver = StraitTriggerRunOperator(
        task_id="deliver",
        job_id="daily",
        payload={"paradime_run": "{{ ti.xcom_pull(task_ids='transform') }}"},
    )
    load >> transform >> compute >> deliver
