"""
Deferred tasks: one DAG for each way of ending them all at once.

Their runs the bench has started, and Airflow's scheduler defers them by itself (``start_from_trigger``), so
that hundreds need no worker. Those that are cleared are the package's own: their next try cancels the run.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import DAG, BaseOperator, Variable
from airflow.triggers.base import StartTriggerArgs

from airflow_provider_runs.mage.operators import MageTriggerRunOperator
from airflow_provider_runs.paradime.operators import ParadimeTriggerRunOperator
from airflow_provider_runs.strait.operators import StraitTriggerRunOperator

RUNS: dict[str, dict[str, list[str]]] = Variable.get("kill_runs", deserialize_json=True)
"""The ids of the runs, by the way of ending the tasks and by system."""
DAGRUN_TIMEOUT = timedelta(seconds=Variable.get("kill_dagrun_timeout", deserialize_json=True))
CLEARED: int = Variable.get("kill_cleared", deserialize_json=True)
"""How many tasks of each system are to be cleared."""
SHARED: dict[str, Any] = {
    "start_date": pendulum.datetime(2024, 1, 1, tz="UTC"),
    "catchup": False,
    "max_active_tasks": 2000,
}


class DeferredTask(BaseOperator):
    """Wait for a run as this package's operators do, without a process that starts it."""

    start_from_trigger = True

    def __init__(self, *, system: str, run_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.start_trigger_args = StartTriggerArgs(
            trigger_cls=f"airflow_provider_runs.{system}.triggers.{system.title()}RunTrigger",
            trigger_kwargs={"conn_id": f"{system}_default", "run_id": run_id},
            next_method="execute_complete",
        )

    def execute_complete(self, context: Any, event: Any) -> None:
        """Be done."""


for way, systems in RUNS.items():
    with DAG(
        dag_id=way,
        schedule=None,
        dagrun_timeout=DAGRUN_TIMEOUT if way == "dagrun_timeout" else None,
        **SHARED,
    ):
        for system, run_ids in systems.items():
            for number, run_id in enumerate(run_ids):
                DeferredTask(task_id=f"{system}_{number}", system=system, run_id=run_id)

with DAG(dag_id="cleared", schedule=None, **SHARED):
    for number in range(CLEARED):
        MageTriggerRunOperator(task_id=f"mage_{number}", pipeline_schedule_id=1, deferrable=True)
        ParadimeTriggerRunOperator(task_id=f"paradime_{number}", slug="stuck", deferrable=True)
        StraitTriggerRunOperator(task_id=f"strait_{number}", job_id="daily", deferrable=True)
