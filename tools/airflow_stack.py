"""A real Airflow 3.3 on this machine's loopback address, for the demo and the system tests.

It runs what a deployment runs (API server, scheduler with LocalExecutor, DAG processor, triggerers),
each in a session of its own, on a PostgreSQL of its own, in a folder that holds everything it writes::

    with AirflowStack(home, dags, connections={"chalk_default": {"conn_type": "chalk", ...}}) as stack:
        run_id = stack.trigger_dag("my_dag")
        stack.wait_for_task("my_dag", run_id, "start", "deferred")
        assert stack.wait_for_dag_run("my_dag", run_id) == "success"

Time limits are those of a quiet machine; :func:`tools.speed.scaled` stretches them on a slow one.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil  # type: ignore[import-untyped]
import requests
import sqlalchemy

from tools.ports import HOST, ReservedPort
from tools.postgres import postgres
from tools.speed import patient, scaled

log = logging.getLogger("airflow_stack")

TRIES_WHILE_LOCKED = 10
SQLITE_SECONDS = 60
"""How long processes wait for a locked SQLite database; after the usual 5 the scheduler ends."""
ANSWER_SECONDS = 60
COMMANDS = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}


class StackError(Exception):
    """The stack did not start, did not stop, or an expectation about it was not met in time."""


class Component:
    """One Airflow process and all that it starts: a session, whose id is the process's own id."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], log_file: Path) -> None:
        self.name = name
        self.log_file = log_file
        self.may_end = False  # until it is told to
        with log_file.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def members(self) -> list[int]:
        """List the ids of the living processes of the session."""
        return [pid for pid in psutil.pids() if self._is_member(pid)]

    def _is_member(self, pid: int) -> bool:
        try:
            is_ours: bool = os.getsid(pid) == self.process.pid
            return is_ours and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except (ProcessLookupError, PermissionError, psutil.Error):
            return False

    def signal(self, number: int) -> None:
        """Send a signal to every process of the session."""
        for pid in self.members():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def end(self, grace: float) -> None:
        """Ask the main process to stop; after ``grace`` seconds, kill whatever is left of the session.

        Workers of LocalExecutor that lost their scheduler ignore SIGTERM, so the kill is not a rarity.
        """
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(grace)
            except subprocess.TimeoutExpired:
                log.debug("%s did not stop within %.0f s: killed", self.name, grace)
        deadline = time.monotonic() + scaled(10)
        while self.members():
            if time.monotonic() > deadline:
                raise StackError(f"{self.name}: processes {self.members()} survived SIGKILL")
            self.signal(signal.SIGKILL)
            time.sleep(0.05)
        self.process.wait()


class AirflowStack:
    """A running Airflow, its processes and its REST API.

    :param home: folder for the database, the logs and everything else that Airflow writes.
    :param dags_folder: folder with the DAG files; DAGs are unpaused when they are found.
    :param connections: by connection id, either a mapping (the REST API's fields, ``extra`` may be a mapping
        too; stored in the database and so visible in the web interface) or a URI or JSON text (given to
        every process as an environment variable).
    :param env: further environment variables; they win over the stack's own.
    :param python: interpreter of the environment to run.
    :param triggerers: how many triggerers to run: ``triggerer``, ``triggerer-2``, ...
    :param sqlite: keep the data in a SQLite file, for machines without PostgreSQL. A busy Airflow gets little
        done there, and some of its writes are lost.
    """

    def __init__(
        self,
        home: Path,
        dags_folder: Path,
        *,
        connections: Mapping[str, str | Mapping[str, Any]] | None = None,
        env: Mapping[str, str] | None = None,
        python: Path = Path(sys.executable),
        triggerers: int = 1,
        sqlite: bool = False,
    ) -> None:
        self.home = home.resolve()
        self.connections = dict(connections or {})
        self._port = ReservedPort()
        self.url = f"http://{HOST}:{self._port.number}"
        self.components: dict[str, Component] = {}
        self._python = python
        self._sqlite = sqlite
        self._database = ExitStack()
        self._environment = self._make_environment(dags_folder.resolve(), env or {})
        self._commands = {name: COMMANDS[name] for name in COMMANDS}
        self._commands |= {f"triggerer-{n}": COMMANDS["triggerer"] for n in range(2, triggerers + 1)}
        self._session = requests.Session()
        self._session.trust_env = False  # never through a proxy

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def database(self) -> str:
        """The address of the metadata database for SQLAlchemy, with its password."""
        return self._environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]

    def rows(self, query: str) -> list[Any]:
        """Return what a query of the metadata database gives."""
        engine = sqlalchemy.create_engine(self.database, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            return list(connection.exec_driver_sql(query))

    # Processes

    def start(self, timeout: float = 180) -> None:
        """Create the database, start every component and return when all are healthy."""
        began = time.monotonic()
        self.home.mkdir(parents=True, exist_ok=True)
        self._open_database()
        log.info("database ready after %.1f s", time.monotonic() - began)
        for name in self._commands:
            self.restart(name)
        self.wait_healthy(timeout)
        for conn_id, connection in self.connections.items():
            if not isinstance(connection, str):
                self.add_connection(conn_id, connection)
        log.info("Airflow healthy at %s after %.1f s", self.url, time.monotonic() - began)

    def stop(self, grace: float = 5) -> None:
        """End every component and whatever it started; raise StackError should anything survive."""
        for component in self.components.values():
            if component.process.poll() is None:
                component.process.terminate()
        deadline = time.monotonic() + grace
        for component in self.components.values():
            component.end(max(0.1, deadline - time.monotonic()))
        self.components.clear()
        self._database.close()
        self._session.close()
        self._port.release()

    def restart(self, name: str) -> None:
        """Start one component, after ending what is left of it: ``stack.restart("triggerer")``."""
        if name in self.components:
            self.components[name].end(grace=5)
        command = [str(self._python), "-m", "airflow", *self._commands[name]]
        environment = dict(self._environment)
        # Its API server may wait for itself, as `request` says: the sooner it gives up, the better.
        if self._sqlite and name != "api-server":
            environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] += f"?timeout={SQLITE_SECONDS}"
        self.components[name] = Component(name, command, environment, self.home / f"{name}.log")

    def kill(self, name: str, number: int = signal.SIGKILL, *, children: bool = True) -> None:
        """Send a signal to one component, by default to the processes that it started, too."""
        component = self.components[name]
        component.may_end |= number not in (signal.SIGSTOP, signal.SIGCONT)
        if children:
            component.signal(number)
        else:
            component.process.send_signal(number)

    def wait_healthy(self, timeout: float = 180) -> None:
        """Wait until the API answers and reports every component as healthy.

        A component that was just killed still counts as healthy until its last heartbeat is too old.
        """
        self.wait_for(self._is_healthy, timeout, "Airflow to be healthy")

    def wait_for(self, condition: Callable[[], Any], timeout: float = 60, what: str = "it") -> Any:
        """Return the condition's first true value; raise StackError when time is up or a process ended."""
        limit = patient(timeout)
        began = time.monotonic()
        while not (value := condition()):
            self._check_components()
            waited = time.monotonic() - began
            if waited > limit:
                raise StackError(f"waited {limit:.0f} s for {what} in vain; logs in {self.home}")
            # What asks Airflow again and again takes the processor from what it waits for.
            time.sleep(min(max(0.25, waited / 10), 1.0))
        return value

    # REST API

    def request(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """
        Call the REST API, for example ``request("GET", "dags")``, and check the answer's status.

        On SQLite, Airflow's API server may write to its audit log from its event loop while another request
        holds the database and needs that loop to let go. After 5 s it gives up and has written nothing.
        """
        if "Authorization" not in self._session.headers:
            token = self._session.get(f"{self.url}/auth/token", timeout=scaled(ANSWER_SECONDS))
            token.raise_for_status()
            self._session.headers["Authorization"] = f"Bearer {token.json()['access_token']}"
        for _ in range(TRIES_WHILE_LOCKED):
            response = self._session.request(
                method, f"{self.url}/api/v2/{path}", timeout=scaled(ANSWER_SECONDS), **arguments
            )
            if response.status_code != 500 or '"Database error"' not in response.text:
                break
            time.sleep(0.5)
        if not response.ok:
            message = f"{method} {path}: {response.status_code} {response.text[:500]}"
            raise requests.HTTPError(message, response=response)
        return response

    def get(self, path: str, **params: Any) -> Any:
        """Return the JSON answer of a GET."""
        return self.request("GET", path, params=params).json()

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the JSON answer of a POST."""
        return self.request("POST", path, json=body).json()

    def patch(self, path: str, body: Mapping[str, Any], **params: Any) -> Any:
        """Return the JSON answer of a PATCH."""
        return self.request("PATCH", path, json=body, params=params).json()

    def add_connection(self, conn_id: str, connection: Mapping[str, Any]) -> None:
        """Store a connection in the database."""
        body = {"connection_id": conn_id, **connection}
        if isinstance(body.get("extra"), Mapping):
            body["extra"] = json.dumps(body["extra"])
        self.post("connections", body)

    def dags(self) -> list[dict[str, Any]]:
        """List the DAGs that have been found."""
        return list(self.get("dags", limit=100)["dags"])

    def import_errors(self) -> list[dict[str, Any]]:
        """List the errors of DAG files."""
        return list(self.get("importErrors", limit=100)["import_errors"])

    def wait_for_dag(self, dag_id: str, timeout: float = 60) -> None:
        """Wait until the DAG has been found; raise StackError with the first import error instead."""

        def is_found() -> bool:
            if errors := self.import_errors():
                raise StackError(f"{errors[0]['filename']}: {errors[0]['stack_trace']}")
            return any(dag["dag_id"] == dag_id for dag in self.dags())

        self.wait_for(is_found, timeout, f"DAG {dag_id}")

    def trigger_dag(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run of a DAG, once the DAG is known, and return the run's id."""
        self.wait_for_dag(dag_id)
        run = self.post(
            f"dags/{dag_id}/dagRuns",
            {"logical_date": datetime.now(UTC).isoformat(), "conf": dict(conf or {})},
        )
        return str(run["dag_run_id"])

    def dag_runs(self, dag_id: str) -> list[dict[str, Any]]:
        """List the runs of a DAG."""
        return list(self.get(f"dags/{dag_id}/dagRuns")["dag_runs"])

    def dag_run_state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a DAG run."""
        return str(self.get(f"dags/{dag_id}/dagRuns/{run_id}")["state"])

    def wait_for_dag_run(self, dag_id: str, run_id: str, timeout: float = 120) -> str:
        """Wait until a DAG run has ended and return its state."""
        ended = ("success", "failed")
        self.wait_for(lambda: self.dag_run_state(dag_id, run_id) in ended, timeout, f"{dag_id} to end")
        return self.dag_run_state(dag_id, run_id)

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """List the task instances of a DAG run."""
        return list(self.get(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances", limit=100)["task_instances"])

    def task_instance(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """Return one task instance."""
        return dict(self.get(_task_path(dag_id, run_id, task_id, map_index)))

    def wait_for_task(
        self, dag_id: str, run_id: str, task_id: str, *states: str, timeout: float = 60, map_index: int = -1
    ) -> str:
        """Wait until a task is in one of the states and return that state."""

        def state() -> str | None:
            found = self.task_instance(dag_id, run_id, task_id, map_index)["state"]
            return found if found in states else None

        return str(self.wait_for(state, timeout, f"{dag_id}.{task_id} to be {' or '.join(states)}"))

    def task_log(
        self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1
    ) -> str:
        """Return the log of one try as ``LEVEL message`` lines; an exception as its class and message."""
        path = f"{_task_path(dag_id, run_id, task_id)}/logs/{try_number}"
        entries = self.get(path, full_content="true", map_index=map_index)["content"]
        return "\n".join(line for entry in entries for line in _log_lines(entry))

    def xcom(
        self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1
    ) -> Any:
        """Return the value of an XCom, None when there is none."""
        path = f"{_task_path(dag_id, run_id, task_id)}/xcomEntries/{key}"
        try:
            return self.get(path, map_index=map_index, deserialize="true")["value"]
        except requests.HTTPError as error:
            if error.response is not None and error.response.status_code == 404:
                return None
            raise

    def links(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, str | None]:
        """Return the addresses behind a task's link buttons, by the buttons' names."""
        found = self.get(f"{_task_path(dag_id, run_id, task_id)}/links", map_index=map_index)
        return dict(found["extra_links"])

    def set_task_state(self, dag_id: str, run_id: str, task_id: str, state: str, map_index: int = -1) -> None:
        """Mark a task ``failed``, ``success`` or ``skipped``, as a person does in the web interface."""
        self.patch(_task_path(dag_id, run_id, task_id, map_index), {"new_state": state})

    def clear(self, dag_id: str, run_id: str, *task_ids: str) -> None:
        """Clear the tasks of a DAG run (all of them when none is named), so that they run again."""
        body: dict[str, Any] = {
            "dry_run": False,
            "dag_run_id": run_id,
            "only_failed": False,
            "reset_dag_runs": True,
        }
        if task_ids:
            body["task_ids"] = list(task_ids)
        self.post(f"dags/{dag_id}/clearTaskInstances", body)

    # Inside

    def _make_environment(self, dags_folder: Path, extra: Mapping[str, str]) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
        # Without written bytecode every one of the many processes compiles all of Airflow again.
        inherited.pop("PYTHONDONTWRITEBYTECODE", None)
        return {
            **inherited,
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__HOST": HOST,
            "AIRFLOW__API__PORT": self.url.rpartition(":")[2],
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(32),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(64),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            # A DAG file is read again when it has changed; else it need not be every 30 s.
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": str(round(scaled(10))),
            # By default a busy API server is asked again after 5 s as if it had not answered, which makes it
            # busier. After five times the task's process ends, which the scheduler notices after 5 minutes.
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": str(patient(20)),
            # A worker may notice the end of its task process only this many seconds later. By then a task
            # that had deferred can be queued again, and Airflow 3.3 takes that for a failure
            # (https://github.com/apache/airflow/issues/67287). The default is 5.
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            "NO_PROXY": HOST,
            "no_proxy": HOST,
            **{f"AIRFLOW_CONN_{k.upper()}": v for k, v in self.connections.items() if isinstance(v, str)},
            **extra,
        }

    def _open_database(self) -> None:
        """Start the database's server, with all tables."""
        if self._sqlite:
            self._create_tables(f"sqlite:///{self.home}/airflow.db")
            return
        prefix = self._python.parent.parent
        installed = [path.stat().st_mtime for path in prefix.glob("lib/python3*/site-packages")]
        is_kept = installed and os.access(prefix, os.W_OK)
        template = prefix / f"airflow-tables-{max(installed):.0f}" if is_kept else None
        url = self._database.enter_context(postgres(template, self._create_tables))
        self._environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = url

    def _create_tables(self, url: str) -> None:
        self._environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = url
        command = [str(self._python), "-m", "airflow", "db", "migrate"]
        log_file = self.home / "migrate.log"
        with log_file.open("wb") as output:
            done = subprocess.run(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
            )
        if done.returncode:
            raise StackError(f"airflow db migrate failed:\n{_tail(log_file)}")

    def _check_components(self) -> None:
        for component in self.components.values():
            if component.process.poll() is not None and not component.may_end:
                raise StackError(f"{component.name} ended by itself:\n{_tail(component.log_file)}")

    def _is_healthy(self) -> bool:
        try:
            parts = self.get("monitor/health").values()
        except requests.RequestException:
            return False
        return all(part["status"] == "healthy" for part in parts)


def _task_path(dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> str:
    path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
    return path if map_index < 0 else f"{path}/{map_index}"


def _log_lines(entry: Mapping[str, Any]) -> Iterator[str]:
    yield f"{str(entry.get('level', 'info')).upper()} {entry['event']}"
    for error in reversed(entry.get("error_detail") or ()):  # as in a traceback: causes first
        yield f"ERROR {error['exc_type']}: {error['exc_value']}"


def _tail(log_file: Path, lines: int = 30) -> str:
    return "\n".join(log_file.read_text(errors="replace").splitlines()[-lines:])
