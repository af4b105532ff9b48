"""The button "Remote run" as the webserver of Airflow 2.11 finds it; tests/system shows it on Airflow 3.3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from airflow import __version__

# What a task pushes, and then what the webserver does, which knows the serialized DAG only.
SCRIPT = """
import json
from datetime import datetime, timezone

from airflow.models.dag import DAG
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XCom
from airflow.utils import db
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunType

from airflow_provider_runs.base.link import RUN_URL
from airflow_provider_runs.mage.operators import MageTriggerRunOperator

db.initdb()
moment = datetime(2026, 1, 1, tzinfo=timezone.utc)
with DAG("linked", start_date=moment, schedule=None) as dag:
    MageTriggerRunOperator(task_id="plain", pipeline_schedule_id=1)
    MageTriggerRunOperator.partial(task_id="mapped").expand(pipeline_schedule_id=[1, 2])
dag.sync_to_db()
SerializedDagModel.write_dag(dag)
run = dag.create_dagrun(
    run_id="r",
    run_type=DagRunType.MANUAL,
    state=DagRunState.RUNNING,
    execution_date=moment,
    data_interval=(moment, moment),
)
shown = SerializedDagModel.get_dag("linked")
found = {}
for task_id, index in (("plain", -1), ("mapped", 0), ("mapped", 1)):
    for state in ("deferred", "running", "success", "failed"):
        with create_session() as session:
            task = shown.get_task(task_id)
            instance = TaskInstance(task, run_id="r", map_index=index, state=TaskInstanceState(state))
            instance = session.merge(instance)
            session.flush()
            if state == "deferred":
                found[f"{task_id} {index} before"] = task.get_extra_links(instance, "Remote run")
                XCom.set(
                    key=RUN_URL, value=f"http://mage/{task_id}/{index}", task_id=task_id, dag_id="linked",
                    run_id="r", map_index=index, session=session,
                )
                session.commit()
            found[f"{task_id} {index} {state}"] = task.get_extra_links(instance, "Remote run")
print(json.dumps(found))
"""


@pytest.mark.skipif(not __version__.startswith("2."), reason="tests/system shows it on Airflow 3.3")
def test_the_webserver_of_airflow_2_finds_the_link_in_every_state(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db",
    }
    script = tmp_path / "linked.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-W", "ignore", str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for task_id, index in (("plain", -1), ("mapped", 0), ("mapped", 1)):
        assert not found.pop(f"{task_id} {index} before")
        for state in ("deferred", "running", "success", "failed"):
            assert found.pop(f"{task_id} {index} {state}") == f"http://mage/{task_id}/{index}"
    assert not found
