"""
No secret is found in anything that a real Airflow writes, shows or starts.

Planted are the secrets of connections: passwords, a bearer, trigger tokens, keys, wrong ones among them;
and the tokens that the services give in answer: access tokens, sessions, a trigger token read from the
server, the signatures of the addresses from which Paradime's artifacts are downloaded. Some connections
have Mage's trigger token in the URL, all of Paradime's a token in the path of the endpoint. Everything logs
at DEBUG, and the services fail in every way, so that errors are told too.

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
from airflow_provider_runs.provider_info import SYSTEMS
from airflow_provider_runs.simulator import Simulator
from tests.system.test_secrets import database_texts, findings
from tools.airflow_stack import AirflowStack
from tools.speed import scaled

pytestmark = pytest.mark.xdist_group("secrets")  # all look at one DAG run
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
    "the token of Paradime's endpoint": "canary-paradime-endpoint",
    "the token of a wrong endpoint": "canary-paradime-wrong-endpoint",
    "the token of an endpoint that is down": "canary-paradime-down-endpoint",
    "Paradime's API key": "canary-paradime-api-key",
    "Paradime's API secret": "canary-paradime-api-secret",
    "a wrong API secret": "canary-paradime-wrong-secret",
    "a token of a workspace": "prdm_wsp_canaryworkspacetoken",
    "a token of a company": "prdm_cmp_canarycompanytoken",
    "Strait's API key": "strait_canary-api-key",
    "a wrong API key": "strait_canary-wrong-key",
    "the API key of a Strait that is down": "strait_canary-down-key",
    "the password of a proxy": "canary-proxy-password",
}
TESTED = (
    "chalk_default",
    "chalk_wrong",
    "mage_old",
    "mage_wrong_login",
    "mage_old_down",
    "paradime_default",
    "paradime_wrong",
    "paradime_wrong_endpoint",
    "paradime_down",
    "strait_default",
    "strait_wrong",
    "strait_down",
    "strait_proxy",
)
EMAIL = "engineer@example.com"
IN_HOST = {name for name in PLANTED if "endpoint" in name}
HOST_SHOWN = {"connection.host", "log.extra", "connections", "eventLogs"}
"""
Airflow keeps a connection's host in clear, and shows it to whoever may see connections, or the audit log of
who has tested them.
"""
ENCRYPTED = {"connection.password", "connection.extra"}


SIGNATURES: set[str] = set()


def keep_signatures(simulator: Simulator) -> None:
    """Keep the signature of every address that the simulated Paradime gives for an artifact."""
    paradime: Any = simulator._server.systems["paradime"]
    sign = paradime._signature

    def kept(*words: Any) -> str:
        signature: str = sign(*words)
        SIGNATURES.add(signature)
        return signature

    paradime._signature = kept


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
        "paradime": {
            "endpoint_token": PLANTED["the token of Paradime's endpoint"],
            "api_key": PLANTED["Paradime's API key"],
            "api_secret": PLANTED["Paradime's API secret"],
            "workspace_token": PLANTED["a token of a workspace"],
            "company_token": PLANTED["a token of a company"],
        },
        "strait": {"api_key": PLANTED["Strait's API key"]},
    }
    with Simulator(options=options, duration=scaled(20)) as simulator:
        for fault, rest in {
            "status": {"status": 503},
            "html": {},
            "not_json": {},
            "reset_before": {},
            "hang": {"seconds": 1},
        }.items():
            for operation in ("get", "list"):
                for system in ("chalk", "mage", "paradime"):
                    simulator.fault(fault, system=system, operation=operation, probability=0.1, **rest)
                # Each try of a replay needs four such calls to work in a row, so these run out before it.
                simulator.fault(fault, system="strait", operation=operation, probability=0.4, times=2, **rest)
        # Not for lists, by which a start is looked for: there it ends the task without a retry.
        # Once: after a second refusal in a row a connection is not used for two minutes.
        for system in SYSTEMS:
            simulator.fault("status", system=system, operation="get", status=401, times=1)
        said = "refused: Bearer " + PLANTED["Strait's API key"]
        for operation in ("get", "events", "debug_bundle"):
            simulator.fault(
                "status", system="strait", operation=operation, times=2, status=503, body={"error": said}
            )
        # The 401 is the last one: after it a log is followed without streams.
        refusal = {"system": "strait", "operation": "stream", "times": 1, "body": {"error": said}}
        simulator.fault("status", status=503, **refusal)
        simulator.fault("error_frame", system="strait", operation="stream", times=1, body=said)
        simulator.fault("status", status=401, **refusal)
        simulator.fault("split", system="strait", operation="stream", probability=0.3)
        for resource, outcome in {"broken": "dead_letter", "mended": "dead_letter,completed"}.items():
            simulator.plan(system="strait", resource=resource, outcome=outcome, error=said)
        for fault in ("errors", "not_ok"):
            simulator.fault(fault, operation="get", probability=0.1)
        for rest in ({"fault": "status", "status": 503}, {"fault": "cut_body"}, {"fault": "reset_before"}):
            simulator.fault(operation="download", times=2, **rest)
        for system in SYSTEMS:
            simulator.fault("reset_after", system=system, operation="trigger", times=1)
            simulator.fault("html", system=system, operation="trigger", times=1)
            simulator.fault("status", system=system, operation="trigger", status=500, times=1)
        keep_signatures(simulator)
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

    def mage(token: str | None, password: str | None = "Mage's password", **rest: Any) -> dict[str, Any]:
        extra = {**rest.pop("extra", {}), **({"trigger_token": PLANTED[token]} if token else {})}
        login = {"login": EMAIL, "password": PLANTED[password]} if password else {}
        return {"conn_type": "mage", "host": simulator.url_of("mage"), **login, "extra": extra, **rest}

    def paradime(secret: str, key: str | None = None, **extra: Any) -> dict[str, Any]:
        own = {"api_key": PLANTED[key]} if key else {}
        host = extra.pop("host", endpoint("the token of Paradime's endpoint"))
        return {
            "conn_type": "paradime_bolt",
            "host": host,
            "password": PLANTED[secret],
            "extra": {**own, **extra},
        }

    def endpoint(token: str, address: str = simulator.url_of("paradime")) -> str:
        return f"{address}/api/v1/{PLANTED[token]}/graphql"

    def strait(key: str, host: str = simulator.url_of("strait"), **extra: Any) -> dict[str, Any]:
        return {"conn_type": "strait", "host": host, "password": PLANTED[key], "extra": extra}

    proxy = f"http://me:{PLANTED['the password of a proxy']}@127.0.0.1:9"
    old = {"old_trigger_url": True}
    key, secret = "Paradime's API key", "Paradime's API secret"
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
        "mage_old_no_login": mage(
            "the trigger token of a Mage that is down", password=None, extra=old, host=closed
        ),
        "mage_wrong_login": mage("a trigger token", "a wrong password"),
        "paradime_default": paradime(secret, key),
        "paradime_workspace": paradime("a token of a workspace"),
        "paradime_company": paradime("a token of a company", workspace_uid="ws-main"),
        "paradime_wrong": paradime("a wrong API secret", key),
        "paradime_wrong_endpoint": paradime(secret, key, host=endpoint("the token of a wrong endpoint")),
        "paradime_down": paradime(
            secret, key, host=endpoint("the token of an endpoint that is down", closed)
        ),
        "strait_default": strait("Strait's API key"),
        "strait_wrong": strait("a wrong API key"),
        "strait_down": strait("the API key of a Strait that is down", closed),
        "strait_proxy": strait("Strait's API key", proxy=proxy),
        # As the vendor's provider has it.
        "paradime_peer": {
            "conn_type": "paradime",
            "extra": {
                "api_endpoint": endpoint("the token of Paradime's endpoint"),
                "api_secret": PLANTED[secret],
                "api_key": PLANTED[key],
            },
        },
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
            texts = database_texts(self.stack.database, only=("task_instance", "trigger"))
            for where, text in texts.items():
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
        for conn_id in TESTED:
            body = {"connection_id": "tested", "extra": {}, **stack.connections[conn_id]}
            stack.post("connections/test", {**body, "extra": json.dumps(body["extra"])})
        assert stack.wait_for_dag_run("everything", dag_run, timeout=360) == "failed"
    finally:
        spy.done.set()
        spy.join()
    chalk, mage = (simulator._server.systems[name] for name in ("chalk", "mage"))
    tokens: set[str] = set(chalk._tokens)  # type: ignore[attr-defined]
    for token, expires in mage._sessions.items():  # type: ignore[attr-defined]
        tokens |= {token, jwt_of(token, expires)}
    assert len(tokens) > 10 and len(SIGNATURES) >= 4
    canaries = {**PLANTED, **{f"token {number}": token for number, token in enumerate(sorted(tokens))}}
    canaries |= {f"signature {number}": value for number, value in enumerate(sorted(SIGNATURES))}
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
        "paradime_company",
        "paradime_peer",
        "paradime_deferred",
        "paradime_sensor",
        "paradime_download",
        "paradime_digest",
        "strait_deferred",
        "strait_sensor",
        "strait_replay",
    }
    bad = (
        *("chalk_wrong", "chalk_down", "mage_old_wrong", "mage_old_down", "mage_old_no_login"),
        "mage_wrong_login",
        *("paradime_wrong", "paradime_wrong_endpoint", "paradime_down", "paradime_worker"),
        *("strait_wrong", "strait_down", "strait_proxy", "strait_worker", "strait_dead_letter"),
    )
    assert {states[name][0] for name in bad} == {"failed"}
    down = ("chalk_down", "mage_old_down", "paradime_down", "strait_down")
    assert {states[name][1] for name in down} == {3}
    logs = "".join(task_logs(stack, found.dag_run).values())
    for said in (
        "RunFailed: ",
        "RequestRefused: ",
        "ConnectionFailed: ",
        "cannot be asked about run",
        "pipeline_runs/***",
        "api/v1/***/graphql",
        "(dead_letter): refused: Bearer ***",
        "error | refused: Bearer ***",
        "DEBUG ",
    ):
        assert said in logs, said
    assert simulator.count("mage", "schedules", 200) >= 1
    assert all(simulator.count("strait", "stream", status) for status in (200, 401, 503))


def leaks(texts: dict[str, bytes], found: Found) -> list[tuple[str, str]]:
    """Return where secrets stand; a connection's host may stand where Airflow shows it."""
    return [
        (where, name)
        for where, name in findings(texts, found.canaries)
        if not (where in HOST_SHOWN and name in IN_HOST)
    ]


def task_logs(stack: AirflowStack, dag_run: str) -> dict[str, str]:
    """
    Return the log of every try of every task, as the web interface shows it.

    On a machine that is too busy Airflow now and then does not know a try that it counts; each task has one.
    """
    logs: dict[str, str] = {}
    for each in stack.task_instances("everything", dag_run):
        name, shown = each["task_id"], len(logs)
        for number in range(1, each["try_number"] + 1):
            try:
                logs[f"{name}, try {number}"] = stack.task_log("everything", dag_run, name, number)
            except requests.HTTPError as error:
                if error.response is None or error.response.status_code != 404:
                    raise
        assert len(logs) > shown, f"no try of {name} has a log"
    return logs


def test_no_task_log_holds_a_secret(stack: AirflowStack, found: Found) -> None:
    logs = {name: text.encode() for name, text in task_logs(stack, found.dag_run).items()}
    assert len(logs) > 26
    assert findings(logs, found.canaries) == []


def test_no_file_holds_a_secret(stack: AirflowStack, found: Found) -> None:
    files = {
        str(path.relative_to(stack.home)): path.read_bytes()
        for path in stack.home.rglob("*")
        if path.is_file()
    }
    for name in ("api-server", "scheduler", "dag-processor", "triggerer"):
        assert b"debug" in files[f"{name}.log"].lower()
    assert leaks(files, found) == []


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
    assert leaks(written, found) == []


def test_no_column_of_the_database_holds_a_secret(stack: AirflowStack, found: Found) -> None:
    texts = database_texts(stack.database)
    assert texts.keys() >= ENCRYPTED
    readable = {where: text for where, text in texts.items() if where not in ENCRYPTED}
    assert leaks(readable, found) == []


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
