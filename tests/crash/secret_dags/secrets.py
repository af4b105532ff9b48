"""Tasks that use every kind of secret, well and badly. See ``test_secrets_everywhere``."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_runs.chalk.operators import ChalkTriggerRunOperator
from airflow_provider_runs.chalk.sensors import ChalkRunSensor
from airflow_provider_runs.mage.operators import MageTriggerRunOperator
from airflow_provider_runs.mage.sensors import MageRunSensor

PACE = {"poll_interval": 1, "min_poll_interval": 0.5}
AGAIN = {"retries": 2, "retry_delay": timedelta(seconds=1)}


def chalk(task_id: str, resolver: str = "shop.load", **arguments: Any) -> ChalkTriggerRunOperator:
    return ChalkTriggerRunOperator(task_id=task_id, resolver_fqn=resolver, **{**PACE, **AGAIN, **arguments})


def mage(task_id: str, trigger: int = 1, **arguments: Any) -> MageTriggerRunOperator:
    return MageTriggerRunOperator(
        task_id=task_id, pipeline_schedule_id=trigger, **{**PACE, **AGAIN, **arguments}
    )


with DAG(
    dag_id="everything",
    schedule=None,
    start_date=pendulum.datetime(2024, 1, 1, tz="UTC"),
    catchup=False,
    max_active_tasks=40,
):
    chalk_deferred = chalk("chalk_deferred", deferrable=True)
    chalk("chalk_worker", "shop.broken")
    chalk("chalk_bearer", deferrable=True, chalk_conn_id="chalk_bearer")
    chalk("chalk_wrong", chalk_conn_id="chalk_wrong")
    chalk("chalk_down", chalk_conn_id="chalk_down")
    mage_deferred = mage("mage_deferred", deferrable=True)
    mage("mage_worker", 2)
    mage("mage_reads_token", 3, mage_conn_id="mage_reads", deferrable=True)
    mage("mage_old", mage_conn_id="mage_old")
    mage("mage_old_deferred", 2, mage_conn_id="mage_old", deferrable=True)
    mage("mage_old_wrong", mage_conn_id="mage_old_wrong")
    mage("mage_old_down", mage_conn_id="mage_old_down")
    mage("mage_wrong_login", mage_conn_id="mage_wrong_login", deferrable=True)
    chalk_deferred >> ChalkRunSensor(
        task_id="chalk_sensor", run_id=chalk_deferred.output, mode="reschedule", poke_interval=2, **AGAIN
    )
    mage_deferred >> MageRunSensor(
        task_id="mage_sensor", run_id=mage_deferred.output, poke_interval=2, **AGAIN
    )
