"""DAGs whose tasks wait for simulated runs. Mage's triggers are named in ``conftest.py``."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import DAG, Variable
from airflow.providers.openlineage.utils.selective_enable import enable_lineage

from airflow_provider_runs.chalk.operators import ChalkTriggerRunOperator
from airflow_provider_runs.chalk.sensors import ChalkRunSensor
from airflow_provider_runs.mage.operators import MageTriggerRunOperator
from airflow_provider_runs.mage.sensors import MageRunSensor
from airflow_provider_runs.paradime.operators import ParadimeTriggerRunOperator
from airflow_provider_runs.strait.operators import StraitTriggerRunOperator

SCHEDULES: dict[str, int] = Variable.get("schedules", deserialize_json=True)
PACE = {"poll_interval": 1, "min_poll_interval": 0.5}


def make_dag(dag_id: str) -> DAG:
    return DAG(
        dag_id=dag_id, schedule=None, start_date=pendulum.datetime(2024, 1, 1, tz="UTC"), catchup=False
    )


def mage(task_id: str = "run", *, of: str, **arguments: Any) -> MageTriggerRunOperator:
    return MageTriggerRunOperator(
        task_id=task_id, pipeline_schedule_id=SCHEDULES[of], **{"deferrable": True, **PACE, **arguments}
    )


with make_dag("chalk"):
    ChalkTriggerRunOperator(task_id="run", resolver_fqn="shop.load", deferrable=True, **PACE)

for name in ("paradime", "paradime_broken", "paradime_marked"):
    with make_dag(name):
        ParadimeTriggerRunOperator(task_id="run", slug=name, deferrable=True, **PACE)

with make_dag("lineage") as followed:
    ParadimeTriggerRunOperator(task_id="deferred", slug="lineage", deferrable=True, **PACE)
    ParadimeTriggerRunOperator(task_id="on_worker", slug="lineage", deferrable=False, **PACE)
    ParadimeTriggerRunOperator(task_id="broken", slug="lineage_broken", deferrable=True, **PACE)
enable_lineage(followed)

for name in ("strait", "strait_broken", "strait_marked"):
    with make_dag(name):
        StraitTriggerRunOperator(
            task_id="run", job_id=name, payload={"rows": 3}, push_result=True, deferrable=True, **PACE
        )

with make_dag("strait_on_worker"):
    StraitTriggerRunOperator(
        task_id="run", job_id="strait_on_worker", stream_logs=True, deferrable=False, **PACE
    )

with make_dag("broken"):
    mage("deferred", of="broken")
    mage("on_worker", of="broken", deferrable=False)

for name in ("marked_failed", "marked_success", "cleared", "outlives_sigterm", "outlives_sigkill"):
    with make_dag(name):
        mage(of=name)

with make_dag("marked_on_worker"):
    mage(of="marked_on_worker", deferrable=False)

with make_dag("killed_on_worker"):
    mage(of="killed_on_worker", deferrable=False, retries=1, retry_delay=timedelta(seconds=1))

with make_dag("mapped"):
    MageTriggerRunOperator.partial(task_id="expand", deferrable=True, **PACE).expand(
        pipeline_schedule_id=[SCHEDULES["mapped"], SCHEDULES["broken_item"]]
    )
    MageTriggerRunOperator.partial(task_id="expand_kwargs", deferrable=True, **PACE).expand_kwargs(
        [{"pipeline_schedule_id": SCHEDULES["mapped_kwargs"], "variables": {"item": item}} for item in "ab"]
    )

with make_dag("watched"):
    start_chalk = ChalkTriggerRunOperator(
        task_id="start_chalk", resolver_fqn="shop.watched", wait_for_completion=False
    )
    start_mage = mage("start_mage", of="watched", wait_for_completion=False)
    start_chalk >> ChalkRunSensor(
        task_id="chalk", run_id=start_chalk.output, deferrable=True, poke_interval=1, min_poll_interval=0.5
    )
    start_mage >> MageRunSensor(
        task_id="mage", run_id=start_mage.output, deferrable=True, poke_interval=1, min_poll_interval=0.5
    )
