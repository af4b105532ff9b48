"""A real Airflow beside the simulator, for the whole session.

Most DAGs are started together; each test looks at its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from airflow_provider_runs.mage.simulator import Schedule
from airflow_provider_runs.paradime.simulator import Schedule as BoltSchedule
from airflow_provider_runs.simulator import Simulator
from airflow_provider_runs.strait.simulated import Job
from tools.airflow_stack import AirflowStack
from tools.speed import scaled

DAGS = Path(__file__).parent / "dags"
SECRETS = {
    "client_secret": "canary-chalk-client-secret",
    "password": "canary-mage-password",
    "trigger_token": "canarymagetriggertoken",
    "endpoint_token": "canary-paradime-endpoint",
    "api_key": "canary-paradime-key",
    "api_secret": "canary-paradime-secret",
    "strait_key": "strait_canary-api-key",
}
EVENTS = "lineage.json"
"""File in Airflow's home with the events of the only DAG that OpenLineage is to follow, ``lineage``."""
MAGE_EMAIL = "engineer@example.com"
STUCK = ("marked_failed", "marked_success", "marked_on_worker")
SURVIVORS = ("outlives_sigterm", "outlives_sigkill", "killed_on_worker")
TRIGGERS = (
    *STUCK,
    *SURVIVORS,
    "cleared",
    "broken",
    "broken_item",
    "mapped",
    "mapped_kwargs",
    "watched",
    "events",
)
SCHEDULES = {name: number for number, name in enumerate(TRIGGERS, start=1)}
BOLT = ("paradime_broken", "paradime_marked")
# Of a run that ends within one turn of the scheduler's loop, Airflow 3.3 fails the deferred task: it queues
# the resumed task before it reads that the process which deferred it has ended.
SECONDS = scaled(20)
LINEAGE = ("lineage", "lineage_broken")
JOBS = ("strait", "strait_broken", "strait_marked", "strait_on_worker")
AT_ONCE = (*STUCK, *BOLT, *JOBS, "cleared", "broken", "mapped", "watched", "lineage")


class Service(NamedTuple):
    """The simulated services."""

    simulator: Simulator

    def mage_runs(self, name: str) -> list[dict[str, Any]]:
        """Return the runs of a trigger, in the order of their start."""
        scope = {"pipeline_schedule_id": SCHEDULES[name]}
        return sorted(
            (run for run in self.simulator.runs("mage") if run["scope"] == scope), key=lambda run: run["id"]
        )

    def chalk_runs(self, resolver: str) -> list[dict[str, Any]]:
        """Return the runs of a resolver."""
        return [run for run in self.simulator.runs("chalk") if run["resource"] == resolver]

    def paradime_runs(self, slug: str) -> list[dict[str, Any]]:
        """Return the runs of a schedule."""
        return [run for run in self.simulator.runs("paradime") if run["resource"] == slug]

    def strait_runs(self, slug: str) -> list[dict[str, Any]]:
        """Return the runs of a job."""
        return [run for run in self.simulator.runs("strait") if run["resource"] == slug]

    def tokens(self) -> set[str]:
        """Return the access tokens that have been issued."""
        systems = self.simulator._server.systems
        return {*systems["chalk"]._tokens, *systems["mage"]._sessions}  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    schedules = tuple(
        Schedule(number, "broken" if name.startswith("broken") else "example", name, SECRETS["trigger_token"])
        for name, number in SCHEDULES.items()
    )
    options = {
        "chalk": {"client_secret": SECRETS["client_secret"]},
        "mage": {
            "auth": True,
            "email": MAGE_EMAIL,
            "password": SECRETS["password"],
            "loop_interval": 0.2,
            "schedules": schedules,
        },
        "paradime": {
            "endpoint_token": SECRETS["endpoint_token"],
            "api_key": SECRETS["api_key"],
            "api_secret": SECRETS["api_secret"],
            "schedules": tuple(
                BoltSchedule(slug) for slug in ("paradime", "paradime_events", *BOLT, *LINEAGE)
            ),
        },
        "strait": {
            "api_key": SECRETS["strait_key"],
            "jobs": tuple(Job(slug) for slug in ("strait_events", *JOBS)),
        },
    }
    with Simulator(options=options, duration=SECONDS) as simulator:
        # What no task starts.
        for name in ("events", "paradime_events", "strait_events"):
            simulator.plan(resource=name, duration=2)
        for name in STUCK:
            simulator.plan(system="mage", resource=name, outcome="stuck")
        simulator.plan(system="mage", resource="cleared", outcome="stuck", times=1)
        for name in SURVIVORS:
            simulator.plan(system="mage", resource=name, duration=scaled(20))
        for slug in ("paradime_broken", "lineage_broken"):
            simulator.plan(system="paradime", resource=slug, outcome="failed")
        simulator.plan(system="paradime", resource="paradime_marked", outcome="stuck")
        simulator.plan(system="paradime", resource="paradime", duration=scaled(12))
        simulator.plan(system="strait", resource="strait_broken", outcome="dead_letter")
        simulator.plan(system="strait", resource="strait_marked", outcome="stuck")
        simulator.plan(system="strait", resource="strait_on_worker", duration=scaled(10))
        simulator.plan(system="chalk", resource="shop.load", duration=scaled(12))
        simulator.plan(system="chalk", resource="shop.watched", duration=scaled(25))
        simulator.plan(system="mage", resource="watched", duration=scaled(25))
        yield Service(simulator)


@pytest.fixture(scope="session")
def connections(service: Service) -> dict[str, dict[str, Any]]:
    return {
        "chalk_default": {
            "conn_type": "chalk",
            "host": service.simulator.url_of("chalk"),
            "login": "token-simulator",
            "password": SECRETS["client_secret"],
            "extra": {"dashboard_url": "https://chalk.example.com"},
        },
        "mage_default": {
            "conn_type": "mage",
            "host": service.simulator.url_of("mage"),
            "login": MAGE_EMAIL,
            "password": SECRETS["password"],
            "extra": {"trigger_token": SECRETS["trigger_token"]},
        },
        "paradime_default": {
            "conn_type": "paradime_bolt",
            "host": f"{service.simulator.url_of('paradime')}/api/v1/{SECRETS['endpoint_token']}/graphql",
            "password": SECRETS["api_secret"],
            "extra": {"api_key": SECRETS["api_key"]},
        },
        "strait_default": {
            "conn_type": "strait",
            "host": service.simulator.url_of("strait"),
            "password": SECRETS["strait_key"],
            "extra": {"app_url": "https://app.strait.dev"},
        },
    }


@pytest.fixture(scope="session")
def dags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the DAG files, to which tests may add."""
    folder = tmp_path_factory.mktemp("dags")
    return Path(shutil.copytree(DAGS, folder, dirs_exist_ok=True))


@pytest.fixture(scope="session")
def stack(
    connections: dict[str, dict[str, Any]], dags: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AirflowStack]:
    home = tmp_path_factory.mktemp("airflow")
    lineage = {"type": "file", "log_file_path": str(home / EVENTS), "append": True}
    env = {
        "AIRFLOW_VAR_SCHEDULES": json.dumps(SCHEDULES),
        # A changed DAG file is to be seen at once; by default Airflow looks away for 30 s.
        "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "1",
        "AIRFLOW__CORE__PARALLELISM": "12",
        "AIRFLOW__OPENLINEAGE__SELECTIVE_ENABLE": "True",
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(lineage),
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
    }
    with AirflowStack(home, dags, connections=connections, env=env) as stack:
        yield stack


def returned(stack: AirflowStack, dag_id: str, run_id: str, task_id: str = "run", map_index: int = -1) -> Any:
    """Return what a task returned. ``AirflowStack.xcom`` does not tell a text of digits from a number."""
    path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
    return stack.get(path, map_index=map_index)["value"]


def wait_for_log(stack: AirflowStack, dag_id: str, run_id: str, text: str) -> None:
    """Wait until the log of the task ``run`` holds a text."""
    stack.wait_for_task(dag_id, run_id, "run", "running", "deferred")
    stack.wait_for(lambda: text in stack.task_log(dag_id, run_id, "run"), 60, f"{text!r} in {dag_id}'s log")


@pytest.fixture(scope="session")
def runs(stack: AirflowStack) -> dict[str, str]:
    """The DAG runs that are started together, by DAG."""
    return {dag_id: stack.trigger_dag(dag_id) for dag_id in AT_ONCE}
