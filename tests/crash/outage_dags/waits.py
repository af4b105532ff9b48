"""15 deferred tasks and 15 on workers, each with a run of its own; kinds of runs as in ``outages.py``."""

from __future__ import annotations

import pendulum
from airflow.providers.common.compat.sdk import DAG, Variable

from airflow_provider_runs.chalk.operators import ChalkTriggerRunOperator
from airflow_provider_runs.mage.operators import MageTriggerRunOperator
from airflow_provider_runs.paradime.operators import ParadimeTriggerRunOperator

KINDS: list[str] = Variable.get("outage_kinds", deserialize_json=True)
SCALE: float = Variable.get("outage_scale", deserialize_json=True)

with DAG(
    dag_id="waits",
    schedule=None,
    start_date=pendulum.datetime(2024, 1, 1, tz="UTC"),
    catchup=False,
    max_active_tasks=40,
):
    for deferrable in (True, False):
        where = "deferred" if deferrable else "worker"
        shared = {"deferrable": deferrable, "poll_interval": 60 / SCALE, "retries": 0}
        ChalkTriggerRunOperator.partial(
            task_id=f"chalk_{where}", min_poll_interval=2 / SCALE, **shared
        ).expand(resolver_fqn=[f"bench.{name}" for name in KINDS])
        MageTriggerRunOperator.partial(task_id=f"mage_{where}", min_poll_interval=5 / SCALE, **shared).expand(
            pipeline_schedule_id=list(range(1, len(KINDS) + 1))
        )
        ParadimeTriggerRunOperator.partial(
            task_id=f"paradime_{where}", min_poll_interval=2 / SCALE, **shared
        ).expand(slug=KINDS)
