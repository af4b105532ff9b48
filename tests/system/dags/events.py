"""DAGs that are scheduled by the ends of runs."""

from __future__ import annotations

from typing import Any

import pendulum
from airflow.sdk import DAG, Asset, AssetWatcher, Variable, task

from airflow_provider_runs.mage.triggers import MageRunEventTrigger
from airflow_provider_runs.paradime.triggers import ParadimeRunEventTrigger
from airflow_provider_runs.strait.triggers import StraitRunEventTrigger

SCHEDULES: dict[str, int] = Variable.get("schedules", deserialize_json=True)
WATCHERS = {
    "mage_ended": MageRunEventTrigger(pipeline_schedule_id=SCHEDULES["events"], poll_interval=5),
    "paradime_ended": ParadimeRunEventTrigger(slug="paradime_events", poll_interval=5),
    "strait_ended": StraitRunEventTrigger(job_id="strait_events", poll_interval=5),
}

for name, trigger in WATCHERS.items():
    asset = Asset(name, watchers=[AssetWatcher(name=name, trigger=trigger)])
    with DAG(
        dag_id=name, schedule=[asset], start_date=pendulum.datetime(2024, 1, 1, tz="UTC"), catchup=False
    ):

        @task
        def told(triggering_asset_events: Any = None) -> list[str]:
            """Return the ids of the runs that this DAG run was scheduled by."""
            return [
                run["run_id"]
                for events in triggering_asset_events.values()
                for event in events
                for run in event.extra["payload"]["runs"]
            ]

        told()
