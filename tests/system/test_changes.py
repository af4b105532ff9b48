"""What changes while runs are out, a DAG file or a password, starts no second run and ends none."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from airflow_provider_runs.mage.simulator import Schedule
from airflow_provider_runs.simulator import Simulator
from tests.system.conftest import MAGE_EMAIL, returned, wait_for_log
from tools.airflow_stack import AirflowStack
from tools.speed import scaled

DAG_FILE = """
from datetime import timedelta

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_runs.chalk.operators import ChalkTriggerRunOperator
from airflow_provider_runs.mage.operators import MageTriggerRunOperator

OPERATORS = {{"chalk": ChalkTriggerRunOperator, "mage": MageTriggerRunOperator}}
START = pendulum.datetime(2024, 1, 1, tz="UTC")

for dag_id, (system, arguments) in {tasks!r}.items():
    with DAG(dag_id=dag_id, schedule=None, start_date=START, catchup=False):
        OPERATORS[system](
            task_id="run",
            retry_delay=timedelta(seconds=1),
            poll_interval=1,
            min_poll_interval=0.5,
            **arguments,
        )
"""
SECRETS = {"chalk": ("first-client-secret", "second-client-secret"), "mage": ("first-pass", "second-pass")}


class Case(NamedTuple):
    """A task, and what is changed in its DAG file while its run is out."""

    system: str
    before: Mapping[str, Any]
    after: Mapping[str, Any] = {}


MAGE_B, CHALK_B = 100, "changes.b"
KILLED = {
    "more_retries": Case("mage", {"retries": 1}, {"retries": 3}),
    "fewer_retries": Case("chalk", {"retries": 2}, {"retries": 1}),
    "chalk_arguments": Case("chalk", {"retries": 1, "max_samples": 1}, {"max_samples": 2}),
    "mage_arguments": Case("mage", {"retries": 1, "variables": {"day": 1}}, {"variables": {"day": 2}}),
    "chalk_resource": Case("chalk", {"retries": 1}, {"resolver_fqn": CHALK_B}),
    "mage_resource": Case("mage", {"retries": 1}, {"pipeline_schedule_id": MAGE_B}),
}
DEFERRED = {
    "more_retries_deferred": Case("chalk", {"retries": 0, "deferrable": True}, {"retries": 2}),
    "fewer_retries_deferred": Case("mage", {"retries": 2, "deferrable": True}, {"retries": 0}),
}
# Airflow counts on from the tries that were made: a task that is cleared with one retry less may get the same
# max_tries again.
ENDED = {"cleared_with_fewer_retries": Case("mage", {"retries": 1}, {"retries": 0})}
NO_RETRY = {"killed_with_no_retry_left": Case("mage", {"retries": 1}, {"retries": 0})}
ROTATED = {
    "chalk_secret_deferred": Case("chalk", {"chalk_conn_id": "chalk_rotated", "deferrable": True}),
    "chalk_secret_on_worker": Case("chalk", {"chalk_conn_id": "chalk_rotated"}),
    "mage_password_deferred": Case("mage", {"mage_conn_id": "mage_rotated", "deferrable": True}),
    "mage_password_on_worker": Case("mage", {"mage_conn_id": "mage_rotated"}),
}
REFUSED = {
    "chalk_old_secret": Case("chalk", {"chalk_conn_id": "chalk_rotated", "retries": 1}),
    "mage_old_password": Case("mage", {"mage_conn_id": "mage_rotated", "retries": 1}),
}
CASES = KILLED | NO_RETRY | DEFERRED | ENDED | ROTATED | REFUSED
SCHEDULES = {dag_id: number for number, dag_id in enumerate(CASES, start=1)} | {"b": MAGE_B}


def arguments_of(dag_id: str, *, changed: bool) -> dict[str, Any]:
    """Return the arguments of a case's task."""
    case = CASES[dag_id]
    resource: dict[str, Any] = {"resolver_fqn": f"changes.{dag_id}", "chalk_conn_id": "chalk_changes"}
    if case.system == "mage":
        resource = {"pipeline_schedule_id": SCHEDULES[dag_id], "mage_conn_id": "mage_changes"}
    return {**resource, "deferrable": False, **case.before, **(case.after if changed else {})}


def deploy(dags: Path, *, changed: bool) -> None:
    """Write the DAG file, in one step for whoever reads it meanwhile."""
    tasks = {dag_id: (case.system, arguments_of(dag_id, changed=changed)) for dag_id, case in CASES.items()}
    new = dags / "changes.new"
    new.write_text(DAG_FILE.format(tasks=tasks))
    new.replace(dags / "changes.py")


def rotate(simulator: Simulator) -> None:
    """Have both services take the second secret only; what was issued for the first is void."""
    systems = simulator._server.systems
    for name, option in (("chalk", "client_secret"), ("mage", "password")):
        system = systems[name]
        system.options = replace(system.options, **{option: SECRETS[name][1]})
        simulator.expire_tokens(name)


class Changes(NamedTuple):
    """What the tests look at: Airflow, the services, the DAG runs by DAG."""

    stack: AirflowStack
    services: dict[str, Simulator]
    dag_runs: dict[str, str]

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """Return the remote runs of a DAG's task, in the order of their start."""
        system = CASES[dag_id].system
        field = "resolver_fqn" if system == "chalk" else "pipeline_schedule_id"
        wanted = {arguments_of(dag_id, changed=changed)[field] for changed in (False, True)}
        service = self.services["rotated" if dag_id in ROTATED | REFUSED else "changes"]
        found = [
            run
            for run in service.runs(system)
            if run["scope"].get("pipeline_schedule_id", run["resource"]) in wanted
        ]
        return sorted(found, key=lambda run: str(run["created_at"]))

    def log(self, dag_id: str, try_number: int = 1) -> str:
        """Return the log of a try."""
        return self.stack.task_log(dag_id, self.dag_runs[dag_id], "run", try_number)

    def end(self, dag_id: str) -> str:
        """Return the DAG run's state, once it has ended."""
        return self.stack.wait_for_dag_run(dag_id, self.dag_runs[dag_id])

    def task(self, dag_id: str) -> dict[str, Any]:
        """Return the task instance."""
        return self.stack.task_instance(dag_id, self.dag_runs[dag_id], "run")

    def returned(self, dag_id: str) -> Any:
        """Return what the task returned."""
        return returned(self.stack, dag_id, self.dag_runs[dag_id])

    def wait_until_waiting(self, *dag_ids: str) -> None:
        """Wait until each task waits for its run."""
        for dag_id in dag_ids:
            system = CASES[dag_id].system.capitalize()
            wait_for_log(self.stack, dag_id, self.dag_runs[dag_id], f"Waiting for {system} run")


@pytest.fixture(scope="module")
def services() -> Iterator[dict[str, Simulator]]:
    schedules = tuple(Schedule(number, "example", name, "triggertoken") for name, number in SCHEDULES.items())
    options = {"loop_interval": 0.2, "schedules": schedules}
    first = {"chalk": {"client_secret": SECRETS["chalk"][0]}}
    mage = {"auth": True, "email": MAGE_EMAIL, "password": SECRETS["mage"][0]}
    with (
        Simulator(options={**first, "mage": options}, duration=scaled(40)) as changes,
        Simulator(options={**first, "mage": {**options, **mage}}, duration=scaled(40)) as rotated,
    ):
        for resource in (*ENDED, *NO_RETRY, "b", CHALK_B):
            changes.plan(resource=resource, duration=1)
        for resource in NO_RETRY:
            changes.plan(resource=resource, outcome="stuck", times=1)
        yield {"changes": changes, "rotated": rotated}


def connection(system: str, url: str, *, second: bool = False) -> dict[str, Any]:
    """Return a connection with a system's first or second secret."""
    login = "token-simulator" if system == "chalk" else MAGE_EMAIL
    return {"conn_type": system, "host": url, "login": login, "password": SECRETS[system][second]}


@pytest.fixture(scope="module")
def changes(stack: AirflowStack, services: dict[str, Simulator], dags: Path) -> Changes:
    """Everything up to the changes, side by side; each test waits for the end of its own."""
    for name, simulator in services.items():
        for system in ("chalk", "mage"):
            given = connection(system, simulator.url_of(system))
            if (system, name) == ("mage", "changes"):
                del given["login"], given["password"]
            stack.add_connection(f"{system}_{name}", given)
    deploy(dags, changed=False)
    changes = Changes(stack, services, {})
    for dag_id in (name for name in CASES if name not in REFUSED):
        changes.dag_runs[dag_id] = stack.trigger_dag(dag_id)
    for dag_id in ENDED:
        assert changes.end(dag_id) == "success"
    changes.wait_until_waiting(*ROTATED)

    rotate(services["rotated"])
    for dag_id in REFUSED:
        changes.dag_runs[dag_id] = stack.trigger_dag(dag_id)
    changes.wait_until_waiting(*KILLED, *NO_RETRY, *DEFERRED)
    deploy(dags, changed=True)
    for dag_id, case in CASES.items():
        if case.after:
            stack.wait_for(
                lambda dag_id=dag_id: stack.get(f"dags/{dag_id}/dagVersions")["total_entries"] == 2,
                60,
                f"the second version of {dag_id}",
            )
    pids = [changes.task(dag_id)["pid"] for dag_id in KILLED | NO_RETRY]
    assert set(pids) <= set(stack.components["scheduler"].members())
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for dag_id in ENDED:
        stack.clear(dag_id, changes.dag_runs[dag_id])

    for dag_id in REFUSED:
        assert changes.end(dag_id) == "failed"
    for dag_id in ROTATED:
        wait_for_log(stack, dag_id, changes.dag_runs[dag_id], "The wait goes on")
    for system in ("chalk", "mage"):
        new = connection(system, services["rotated"].url_of(system), second=True)
        conn_id = f"{system}_rotated"
        stack.patch(f"connections/{conn_id}", {"connection_id": conn_id, **new}, update_mask="password")
    return changes


def test_where_the_new_file_allows_no_retry_the_run_goes_on_until_the_task_is_cleared(
    changes: Changes,
) -> None:
    dag_id = "killed_with_no_retry_left"
    assert changes.end(dag_id) == "failed"
    assert changes.task(dag_id)["try_number"] == 1
    (run,) = changes.runs(dag_id)
    assert (run["status"], run["cancels"]) == ("running", 0)

    changes.stack.clear(dag_id, changes.dag_runs[dag_id])

    assert changes.end(dag_id) == "success"
    old, new = changes.runs(dag_id)
    assert (old["id"], old["status"], old["cancels"]) == (run["id"], "cancelled", 1)
    assert (new["status"], new["cancels"]) == ("completed", 0)
    assert changes.returned(dag_id) == str(new["id"])


@pytest.mark.parametrize("dag_id", [name for name in KILLED if not name.endswith("_resource")])
def test_a_retry_attaches_though_the_dag_file_was_changed(changes: Changes, dag_id: str) -> None:
    assert changes.end(dag_id) == "success"

    (run,) = changes.runs(dag_id)
    assert run["cancels"] == 0
    assert changes.task(dag_id)["try_number"] == 2
    assert changes.returned(dag_id) == str(run["id"])
    assert f"Attaching to run {run['id']} of an earlier try" in changes.log(dag_id, 2)


@pytest.mark.parametrize("dag_id", DEFERRED)
def test_a_deferred_task_ends_with_its_run_though_its_retries_were_changed(
    changes: Changes, dag_id: str
) -> None:
    assert changes.end(dag_id) == "success"

    (run,) = changes.runs(dag_id)
    assert run["cancels"] == 0
    assert changes.task(dag_id)["try_number"] == 1
    assert changes.returned(dag_id) == str(run["id"])


def test_a_cleared_task_runs_again_though_its_number_of_tries_stays_the_same(changes: Changes) -> None:
    assert changes.end("cleared_with_fewer_retries") == "success"

    first, second = changes.runs("cleared_with_fewer_retries")
    assert (first["status"], second["status"]) == ("completed", "completed")
    assert changes.returned("cleared_with_fewer_retries") == str(second["id"])


def test_a_retry_that_asks_for_another_trigger_cancels_the_mage_run_of_the_old_one(changes: Changes) -> None:
    assert changes.end("mage_resource") == "success"

    old, new = changes.runs("mage_resource")
    assert [run["scope"]["pipeline_schedule_id"] for run in (old, new)] == [
        SCHEDULES["mage_resource"],
        MAGE_B,
    ]
    assert (old["status"], new["status"]) == ("cancelled", "completed")
    assert (old["cancels"], new["cancels"]) == (1, 0)
    assert changes.returned("mage_resource") == str(new["id"])
    assert f"Cancelling run {old['id']}, which was started before the task was changed" in changes.log(
        "mage_resource", 2
    )


def test_a_retry_that_asks_for_another_resolver_names_the_chalk_run_that_goes_on(changes: Changes) -> None:
    assert changes.end("chalk_resource") == "success"

    old, new = changes.runs("chalk_resource")
    assert (old["resource"], new["resource"]) == ("changes.chalk_resource", CHALK_B)
    assert changes.returned("chalk_resource") == new["id"]
    (line,) = (line for line in changes.log("chalk_resource", 2).splitlines() if f"Run {old['id']}" in line)
    assert line.startswith("WARNING")
    assert "goes on beside the new one (Chalk cannot cancel)" in line


@pytest.mark.parametrize("dag_id", ROTATED)
def test_a_wait_outlives_a_rotated_secret(changes: Changes, dag_id: str) -> None:
    assert changes.end(dag_id) == "success"

    (run,) = changes.runs(dag_id)
    assert run["cancels"] == 0
    assert changes.task(dag_id)["try_number"] == 1
    assert changes.returned(dag_id) == str(run["id"])
    log = changes.log(dag_id)
    assert "this says nothing about the run itself" in log
    assert "can be asked again, after" in log
    assert not any(secret in log for secrets in SECRETS.values() for secret in secrets)


@pytest.mark.parametrize("dag_id", REFUSED)
def test_the_old_secret_starts_nothing(changes: Changes, dag_id: str) -> None:
    assert changes.end(dag_id) == "failed"

    assert changes.runs(dag_id) == []
    assert changes.task(dag_id)["try_number"] == 1
    log = changes.log(dag_id)
    assert "ERROR RequestRefused: " in log
    assert not any(secret in log for secrets in SECRETS.values() for secret in secrets)
