"""
No secret is found in anything that a real Airflow writes, shows or starts.

Planted are the secrets of connections: passwords, a bearer, trigger tokens, wrong ones among them; and the
tokens that the services give in answer: access tokens, sessions, a trigger token read from the server. Some
connections have Mage's trigger token in the URL. Everything logs at DEBUG, and the services fail in every
way, so that errors are told too.

Searched are the task logs of all tries, every file in Airflow's home (logs of all components, raw), what the
REST API shows (XComs, rendered fields, state store, connections, audit log), every column of the metadata
database but the encrypted ones of connections, triggers and events while the tasks wait, and the arguments
and the environment of every process.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from airflow_provider_runs.mage.simulator import Schedule, jwt_of
from airflow_provider_runs.simulator import Simulator
from tests.system.test_secrets import database_texts, findings
from tools.airflow_stack import AirflowStack

DAGS = Path(__file__).parent / "secret_dags"
PLANTED = {
    "Chalk's client secret": "canary-chalk-client-secret",
    "a wrong client secret": "canary-chalk-wrong-secret",
    "the client secret of a Chalk that is down": "canary-chalk-down-secret",
    "a bearer for Chalk": "canary-chalk-bearer",
    "Mage's password": "canary-mage-password",
    "a wrong password": "canary-mage-wrong-password",
    "a trigger token": "canarytriggertoken",
    "a trigger token that only the server knows": "canaryservertoken",
    "a wrong trigger token": "canarywrongtriggertoken",
    "the trigger token of a Mage that is down": "canarydowntriggertoken",
}
EMAIL = "engineer@example.com"
ENCRYPTED = {"connection.password", "connection.extra"}


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    schedules = (
        Schedule(1, "example", "good", PLANTED["a trigger token"]),
        Schedule(2, "broken", "bad", PLANTED["a trigger token"]),
        Schedule(3, "example", "told", PLANTED["a trigger token that only the server knows"]),
    )
    options = {
        "chalk": {
            "client_secret": PLANTED["Chalk's client secret"],
            "user_token": PLANTED["a bearer for Chalk"],
        },
        "mage": {
            "auth": True,
            "email": EMAIL,
            "password": PLANTED["Mage's password"],
            "loop_interval": 0.5,
            "schedules": schedules,
        },
    }
    with Simulator(options=options, duration=12) as simulator:
        for fault, rest in {
            "status": {"status": 503},
            "html": {},
            "not_json": {},
            "reset_before": {},
            "hang": {"seconds": 1},
        }.items():
            for operation in ("get", "list"):
                simulator.fault(fault, operation=operation, probability=0.1, **rest)
        # Not for lists, by which a start is looked for: there it ends the task without a retry.
        simulator.fault("status", operation="get", status=401, probability=0.15)
        for system in ("chalk", "mage"):
            simulator.fault("reset_after", system=system, operation="trigger", times=1)
            simulator.fault("html", system=system, operation="trigger", times=1)
            simulator.fault("status", system=system, operation="trigger", status=500, times=1)
        for operation in ("token", "login"):
            simulator.fault("status", operation=operation, status=502, times=2)
            simulator.fault("not_json", operation=operation, times=1)
        yield simulator


@pytest.fixture(scope="module")
def stack(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowStack]:
    closed = "http://127.0.0.1:9"  # discard: nobody listens

    def chalk(secret: str | None, **rest: Any) -> dict[str, Any]:
        login = {"login": "token-simulator", "password": PLANTED[secret]} if secret else {}
        return {"conn_type": "chalk", "host": simulator.url_of("chalk"), **login, **rest}

    def mage(token: str | None, password: str = "Mage's password", **rest: Any) -> dict[str, Any]:
        extra = {**rest.pop("extra", {}), **({"trigger_token": PLANTED[token]} if token else {})}
        login = {"login": EMAIL, "password": PLANTED[password]}
        return {"conn_type": "mage", "host": simulator.url_of("mage"), **login, "extra": extra, **rest}

    old = {"old_trigger_url": True}
    connections = {
        "chalk_default": chalk("Chalk's client secret"),
        "chalk_wrong": chalk("a wrong client secret"),
        "chalk_down": chalk("the client secret of a Chalk that is down", host=closed),
        "chalk_bearer": chalk(
            None, extra={"access_token": PLANTED["a bearer for Chalk"], "environment": "env-primary"}
        ),
        "mage_default": mage("a trigger token"),
        "mage_reads": mage(None),
        "mage_old": mage("a trigger token", extra=old),
        "mage_old_wrong": mage("a wrong trigger token", extra=old),
        "mage_old_down": mage("the trigger token of a Mage that is down", extra=old, host=closed),
        "mage_wrong_login": mage("a trigger token", "a wrong password"),
    }
    env = {
        "AIRFLOW__CORE__PARALLELISM": "16",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
    }
    home = tmp_path_factory.mktemp("airflow")
    with AirflowStack(home, DAGS, connections=connections, env=env, python=Path(sys.executable)) as stack:
        yield stack


class Spy(threading.Thread):
    """Keep what is only there for a while: process arguments and environments, triggers, events."""

    def __init__(self, stack: AirflowStack) -> None:
        super().__init__(daemon=True)
        self.stack = stack
        self.seen: dict[str, set[bytes]] = {"cmdline": set(), "environ": set()}
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.3):
            for component in tuple(self.stack.components.values()):
                for pid in component.members():
                    self._look_at(pid)
            for where, text in database_texts(self.stack.home / "airflow.db").items():
                if where.startswith("trigger.") or where == "task_instance.next_kwargs":
                    self.seen.setdefault(where, set()).add(text)

    def _look_at(self, pid: int) -> None:
        for name in ("cmdline", "environ"):
            try:
                self.seen[name].add(Path(f"/proc/{pid}/{name}").read_bytes())
            except OSError:
                continue

    def texts(self) -> dict[str, bytes]:
        return {where: b"\n".join(found) for where, found in self.seen.items()}


class Found:
    """
    A DAG run in which every secret was used, and what was seen of it.

    :param dag_run: its id.
    :param passing: what was there for a while.
    :param canaries: what must not be found, by name.
    """

    def __init__(self, dag_run: str, passing: dict[str, bytes], canaries: dict[str, bytes]) -> None:
        self.dag_run = dag_run
        self.passing = passing
        self.canaries = canaries


@pytest.fixture(scope="module")
def found(stack: AirflowStack, simulator: Simulator) -> Found:
    stack.wait_for_dag("everything")
    spy = Spy(stack)
    spy.start()
    try:
        dag_run = stack.trigger_dag("everything")
        for conn_id in ("chalk_default", "chalk_wrong", "mage_old", "mage_wrong_login", "mage_old_down"):
            body = {"connection_id": "tested", "extra": {}, **stack.connections[conn_id]}
            stack.post("connections/test", {**body, "extra": json.dumps(body["extra"])})
        assert stack.wait_for_dag_run("everything", dag_run, timeout=240) == "failed"
    finally:
        spy.done.set()
        spy.join()
    chalk, mage = (simulator._server.systems[name] for name in ("chalk", "mage"))
    tokens: set[str] = set(chalk._tokens)  # type: ignore[attr-defined]
    for token, expires in mage._sessions.items():  # type: ignore[attr-defined]
        tokens |= {token, jwt_of(token, expires)}
    assert len(tokens) > 10
    canaries = {**PLANTED, **{f"token {number}": token for number, token in enumerate(sorted(tokens))}}
    return Found(dag_run, spy.texts(), {name: value.encode() for name, value in canaries.items()})


def test_every_secret_was_used_and_every_error_was_told(
    stack: AirflowStack, simulator: Simulator, found: Found
) -> None:
    states = {
        each["task_id"]: (each["state"], each["try_number"])
        for each in stack.task_instances("everything", found.dag_run)
    }
    print(states)
    assert {name for name, (state, _) in states.items() if state == "success"} >= {
        "chalk_bearer",
        "mage_reads_token",
        "mage_old",
    }
    bad = ("chalk_wrong", "chalk_down", "mage_old_wrong", "mage_old_down", "mage_wrong_login")
    assert {states[name][0] for name in bad} == {"failed"}
    assert max(number for _, number in states.values()) == 3
    logs = "".join(task_logs(stack, found.dag_run).values())
    for said in (
        "RunFailed: ",
        "RequestRefused: ",
        "ConnectionFailed: ",
        "cannot be asked about run",
        "pipeline_runs/***",
        "DEBUG ",
    ):
        assert said in logs, said
    assert simulator.count("mage", "schedules", 200) >= 1


def task_logs(stack: AirflowStack, dag_run: str) -> dict[str, str]:
    """Return the log of every try of every task, as the web interface shows it."""
    return {
        f"{each['task_id']}, try {number}": stack.task_log("everything", dag_run, each["task_id"], number)
        for each in stack.task_instances("everything", dag_run)
        for number in range(1, each["try_number"] + 1)
    }


def test_no_task_log_holds_a_secret(stack: AirflowStack, found: Found) -> None:
    logs = {name: text.encode() for name, text in task_logs(stack, found.dag_run).items()}
    assert len(logs) > 16
    assert findings(logs, found.canaries) == []


def test_no_file_holds_a_secret(stack: AirflowStack, found: Found) -> None:
    files = {
        str(path.relative_to(stack.home)): path.read_bytes()
        for path in stack.home.rglob("*")
        if path.is_file()
    }
    for name in ("api-server", "scheduler", "dag-processor", "triggerer"):
        assert b"debug" in files[f"{name}.log"].lower()
    assert findings(files, found.canaries) == []


def test_nothing_that_the_rest_api_shows_holds_a_secret(stack: AirflowStack, found: Found) -> None:
    run = f"dags/everything/dagRuns/{found.dag_run}"
    texts = {path: stack.get(path, limit=1000) for path in ("connections", "eventLogs", "dags", run)}
    for each in stack.task_instances("everything", found.dag_run):
        path = f"{run}/taskInstances/{each['task_id']}"
        texts[f"{path} (rendered fields)"] = each
        texts |= {name: stack.get(name) for name in (f"{path}/xcomEntries", f"{path}/links")}
        for entry in texts[f"{path}/xcomEntries"]["xcom_entries"]:
            name = f"{path}/xcomEntries/{entry['key']}"
            texts[name] = stack.get(name)
        for name in (f"{path}/state-store", f"{path}/tries"):
            try:
                texts[name] = stack.get(name)
            except requests.HTTPError:  # a sensor keeps no state
                continue
    written = {name: json.dumps(shown).encode() for name, shown in texts.items()}
    for part in ("rendered fields", "xcomEntries/run_url", "state-store", "tries"):
        assert any(part in name for name in written), part
    assert findings(written, found.canaries) == []


def test_no_column_of_the_database_holds_a_secret(stack: AirflowStack, found: Found) -> None:
    texts = database_texts(stack.home / "airflow.db")
    assert texts.keys() >= ENCRYPTED
    readable = {where: text for where, text in texts.items() if where not in ENCRYPTED}
    assert findings(readable, found.canaries) == []


def test_no_trigger_and_no_event_holds_a_secret(stack: AirflowStack, found: Found) -> None:
    # Airflow 3.3 stores the arguments in clear.
    arguments = found.passing["trigger.kwargs"]
    assert b"mage_old" in arguments and b'"run_id"' in arguments
    assert b'"outcome"' in found.passing["task_instance.next_kwargs"]
    assert findings(found.passing, found.canaries) == []


def test_no_process_has_a_secret_in_its_arguments_or_environment(found: Found) -> None:
    passing = {name: found.passing[name] for name in ("cmdline", "environ")}
    assert b"triggerer" in passing["cmdline"] and b"AIRFLOW_HOME" in passing["environ"]
    assert findings(passing, found.canaries) == []
