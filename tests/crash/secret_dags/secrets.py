"""Tasks that use every kind of secret, well and badly. See ``test_secrets_everywhere``."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_runs.chalk.operators import ChalkTriggerRunOperator
from airflow_provider_runs.chalk.sensors import ChalkRunSensor
from airflow_provider_runs.mage.operators import MageTriggerRunOperator
from airflow_provider_runs.mage.sensors import MageRunSensor
from airflow_provider_runs.paradime.operators import (
    ParadimeDownloadArtifactOperator,
    ParadimeTriggerRunOperator,
)
from airflow_provider_runs.paradime.sensors import ParadimeRunSensor
from airflow_provider_runs.strait.operators import StraitReplayRunOperator, StraitTriggerRunOperator
from airflow_provider_runs.strait.sensors import StraitRunSensor

PACE = {"poll_interval": 1, "min_poll_interval": 0.5}
AGAIN = {"retries": 2, "retry_delay": timedelta(seconds=1)}
# For tasks that must succeed in the end, whatever chance and a busy machine do to their first tries.
SURE = {**AGAIN, "retries": 6}
# A start with a key otherwise waits for a service that is down.
GIVES_UP = {"unreachable_timeout": 5}


def chalk(task_id: str, resolver: str = "shop.load", **arguments: Any) -> ChalkTriggerRunOperator:
    return ChalkTriggerRunOperator(task_id=task_id, resolver_fqn=resolver, **{**PACE, **AGAIN, **arguments})


def mage(task_id: str, trigger: int = 1, **arguments: Any) -> MageTriggerRunOperator:
    return MageTriggerRunOperator(
        task_id=task_id, pipeline_schedule_id=trigger, **{**PACE, **AGAIN, **arguments}
    )


def paradime(task_id: str, slug: str = "daily", **arguments: Any) -> ParadimeTriggerRunOperator:
    # By its commands a run is found again whose start was not answered.
    commands = ["dbt run --vars 'task: {{ ti.task_id }}'", "dbt test"]
    return ParadimeTriggerRunOperator(
        task_id=task_id, slug=slug, commands=commands, **{**PACE, **AGAIN, **arguments}
    )


def download(task_id: str, run_id: Any, path: str) -> ParadimeDownloadArtifactOperator:
    target = f"{os.environ['AIRFLOW_HOME']}/{task_id}"
    return ParadimeDownloadArtifactOperator(task_id=task_id, run_id=run_id, path=path, target=target, **SURE)


def strait(task_id: str, job_id: str = "daily", **arguments: Any) -> StraitTriggerRunOperator:
    return StraitTriggerRunOperator(task_id=task_id, job_id=job_id, **{**PACE, **AGAIN, **arguments})


with DAG(
    dag_id="everything",
    schedule=None,
    start_date=pendulum.datetime(2024, 1, 1, tz="UTC"),
    catchup=False,
    max_active_tasks=40,
):
    chalk_deferred = chalk("chalk_deferred", deferrable=True, **SURE)
    chalk("chalk_worker", "shop.broken")
    chalk("chalk_bearer", deferrable=True, chalk_conn_id="chalk_bearer", **SURE)
    chalk("chalk_wrong", chalk_conn_id="chalk_wrong")
    chalk("chalk_down", chalk_conn_id="chalk_down", **GIVES_UP)
    mage_deferred = mage("mage_deferred", deferrable=True, **SURE)
    mage("mage_worker", 2)
    mage("mage_reads_token", 3, mage_conn_id="mage_reads", deferrable=True, **SURE)
    mage("mage_old", mage_conn_id="mage_old", **SURE)
    mage("mage_old_deferred", 2, mage_conn_id="mage_old", deferrable=True)
    mage("mage_old_wrong", mage_conn_id="mage_old_wrong")
    mage("mage_old_down", mage_conn_id="mage_old_down")
    # What it asks for first is the start, whose URL holds the token.
    mage("mage_old_no_login", mage_conn_id="mage_old_no_login", allow_inactive_trigger=True, retries=0)
    mage("mage_wrong_login", mage_conn_id="mage_wrong_login", deferrable=True)
    chalk_deferred >> ChalkRunSensor(
        task_id="chalk_sensor", run_id=chalk_deferred.output, mode="reschedule", poke_interval=2, **SURE
    )
    mage_deferred >> MageRunSensor(
        task_id="mage_sensor", run_id=mage_deferred.output, poke_interval=2, **SURE
    )
    paradime_deferred = paradime("paradime_deferred", deferrable=True, **SURE)
    paradime("paradime_worker", "broken", stream_logs=True, deferrable=False)
    paradime("paradime_workspace", paradime_conn_id="paradime_workspace", deferrable=True)
    paradime("paradime_company", paradime_conn_id="paradime_company", deferrable=True, **SURE)
    paradime("paradime_peer", paradime_conn_id="paradime_peer", **SURE)
    paradime("paradime_wrong", paradime_conn_id="paradime_wrong")
    paradime("paradime_wrong_endpoint", paradime_conn_id="paradime_wrong_endpoint")
    paradime("paradime_down", paradime_conn_id="paradime_down")
    paradime_deferred >> ParadimeRunSensor(
        task_id="paradime_sensor", run_id=paradime_deferred.output, poke_interval=2, deferrable=True, **SURE
    )
    paradime_deferred >> [
        download("paradime_download", paradime_deferred.output, "target/graph.gpickle"),
        download("paradime_digest", paradime_deferred.output, "target/run_results.json"),
        download("paradime_no_such_file", paradime_deferred.output, "target/none.json"),
    ]
    strait_deferred = strait("strait_deferred", push_result=True, push_outputs=True, deferrable=True, **SURE)
    strait("strait_dead_letter", "broken", deferrable=True, retries=0)
    strait_worker = strait("strait_worker", "mended", stream_logs=True, deferrable=False, retries=1)
    strait("strait_wrong", strait_conn_id="strait_wrong")
    strait("strait_down", strait_conn_id="strait_down", **GIVES_UP)
    strait("strait_proxy", strait_conn_id="strait_proxy", **GIVES_UP)
    strait_deferred >> StraitRunSensor(
        task_id="strait_sensor", run_id=strait_deferred.output, poke_interval=2, deferrable=True, **SURE
    )
    strait_worker >> StraitReplayRunOperator(
        task_id="strait_replay",
        run_id=strait_worker.output,
        trigger_rule="all_done",
        deferrable=True,
        **PACE,
        **SURE,
    )
