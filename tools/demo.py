"""The demo: runs every example DAG on a real Airflow against the simulator, and says how each ended.

A DAG that is meant to fail says so with the tag ``expect:failed``. One that assets schedule is not triggered:
what another DAG starts must schedule it. Everything that was started is stopped
at the end; the exit code is 0 only if every DAG ended as it should. ``make demo`` runs it.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import requests

from airflow_provider_runs.chalk.simulator import ChalkOptions
from airflow_provider_runs.mage.api import API_KEY
from airflow_provider_runs.paradime.simulator import ParadimeOptions
from airflow_provider_runs.strait.simulator import StraitOptions
from tools.airflow_stack import AirflowStack, Component, StackError
from tools.mage_server import MageServer
from tools.postgres import can_be_used
from tools.speed import scaled

ROOT = Path(__file__).resolve().parent.parent
DAG_LIMIT = 90  # seconds for all DAG runs, on a quiet machine
ENDED = ("success", "failed")
EXPECT_FAILED = "expect:failed"
DEFERRED_IN_LOG = "Pausing task as DEFERRED"
EXPLANATION = re.compile(r"^ERROR \w+ about run [^\n]*\n(.*?)(?=^[A-Z]+ |\Z)", re.MULTILINE | re.DOTALL)
EXPLAINED = 8  # lines of an explanation
COLUMNS = ("task", "remote run", "remote status", "mode", "seconds", "state")

log = logging.getLogger("demo")


class Row(NamedTuple):
    """One line of the final table, and why the task failed: its error and the end of what explains it."""

    cells: tuple[str, ...]
    reason: list[str]


@contextmanager
def simulator(home: Path) -> Iterator[str]:
    """Run the simulator and yield its address."""
    # Mage's scheduler looks every 10 s by default; nobody wants to watch that.
    quick = ["--set", "mage.loop_interval=2"]
    command = [sys.executable, "-m", "airflow_provider_runs.simulator", "--port", "0", *quick]
    process = Component("simulator", command, os.environ, home / "simulator.log")
    try:
        yield _address(process)
    finally:
        process.end(grace=5)


def _address(process: Component, timeout: float = 30) -> str:
    deadline = time.monotonic() + scaled(timeout)
    while time.monotonic() < deadline and process.process.poll() is None:
        for line in process.log_file.read_text().splitlines():
            if line.startswith("simulator: "):
                return line.removeprefix("simulator: ").strip()
        time.sleep(0.1)
    raise StackError(f"the simulator did not start:\n{process.log_file.read_text()}")


def get_json(address: str) -> Any:
    """Return the JSON answer of a GET; API_KEY is Mage's public client id."""
    with requests.Session() as session:
        session.trust_env = False  # never through a proxy
        answer = session.get(address, headers={"X-API-KEY": API_KEY}, timeout=30)
    answer.raise_for_status()
    return answer.json()


def make_connections(chalk: str, mage: str, paradime: str, strait: str) -> dict[str, dict[str, Any]]:
    """Return the connections that the example DAGs use."""
    options, bolt = ChalkOptions(), ParadimeOptions()
    return {
        "chalk_default": {
            "conn_type": "chalk",
            "host": chalk,
            "login": options.client_id,
            "password": options.client_secret,
            "extra": {"dashboard_url": chalk},
        },
        "mage_default": {"conn_type": "mage", "host": mage},
        "paradime_default": {
            "conn_type": "paradime_bolt",
            "host": f"{paradime}/api/v1/{bolt.endpoint_token}/graphql",
            "password": bolt.api_secret,
            "extra": {"api_key": bolt.api_key, "app_url": paradime},
        },
        "strait_default": {
            "conn_type": "strait",
            "host": strait,
            "password": StraitOptions().api_key,
            "extra": {"app_url": strait},
        },
    }


def remote_statuses(simulator_address: str, mage: str) -> dict[str, str]:
    """Return the tools' own status words by run id."""
    runs = get_json(f"{simulator_address}/_runs") + get_json(f"{mage}/api/pipeline_runs")["pipeline_runs"]
    return {str(run["id"]): str(run["status"]) for run in runs}


def run_dags(stack: AirflowStack, dags: list[dict[str, Any]]) -> dict[str, str]:
    """Run the DAGs at once, print each change of a task's state, and return the DAG runs' ids."""
    began, limit = time.monotonic(), scaled(DAG_LIMIT)
    awaited = {dag["dag_id"] for dag in dags if dag["timetable_summary"] == "Asset"}
    runs = {name: stack.trigger_dag(name) for dag in dags if (name := dag["dag_id"]) not in awaited}
    states: dict[str, str | None] = {}
    going = set(runs)
    while (going or awaited) and time.monotonic() < began + limit:
        for dag_id in sorted(awaited):
            for run in stack.dag_runs(dag_id)[:1]:
                runs[dag_id] = run["dag_run_id"]
                awaited.remove(dag_id)
                going.add(dag_id)
        # The state first: what is seen of the tasks afterwards is then final.
        ended = {dag_id for dag_id in going if stack.dag_run_state(dag_id, runs[dag_id]) in ENDED}
        for dag_id in sorted(going):
            for task in stack.task_instances(dag_id, runs[dag_id]):
                name = _task_name(task)
                if task["state"] and states.get(name) != task["state"]:
                    states[name] = task["state"]
                    log.info("%6.1f s  %-50s %s", time.monotonic() - began, name, task["state"])
        going -= ended
        time.sleep(0.5)
    return runs


def report(stack: AirflowStack, runs: Mapping[str, str], statuses: Mapping[str, str]) -> list[Row]:
    """Return a row for every task of the DAG runs."""
    return [
        _row(stack, task, statuses)
        for dag_id, run_id in runs.items()
        for task in stack.task_instances(dag_id, run_id)
    ]


def _row(stack: AirflowStack, task: dict[str, Any], statuses: Mapping[str, str]) -> Row:
    where = task["dag_id"], task["dag_run_id"], task["task_id"]
    # A task that has not begun has no log.
    text = stack.task_log(*where, task["try_number"], task["map_index"]) if task["try_number"] else ""
    lines = text.splitlines()
    # A failed task has no return value, but it has the link, which ends in the run's id.
    run_id = (
        stack.xcom(*where, map_index=task["map_index"])
        or (str(stack.xcom(*where, "run_url", task["map_index"]) or "").rpartition("/")[2])
    )
    if isinstance(run_id, dict):
        run_id = f"{run_id['bytes']} bytes"
    elif isinstance(run_id, list):
        run_id = f"{len(run_id)} runs"
    errors = [line.removeprefix("ERROR ") for line in lines if line.startswith("ERROR ")]
    cells = (
        _task_name(task),
        str(run_id or "-"),
        statuses.get(str(run_id), "-"),
        "deferred" if any(DEFERRED_IN_LOG in line for line in lines) else "worker",
        f"{task['duration'] or 0:.1f}",
        task["state"] or "-",
    )
    if task["state"] != "failed":
        return Row(cells, [])
    explained = "".join(EXPLANATION.findall(text)).splitlines()
    return Row(cells, [*errors[-1:], *(f"  {line}" for line in explained[-EXPLAINED:])])


def _task_name(task: Mapping[str, Any]) -> str:
    index = f"[{task['map_index']}]" if task["map_index"] >= 0 else ""
    return f"{task['dag_id']}.{task['task_id']}{index}"


def print_table(rows: list[Row]) -> None:
    """Print the rows in columns, and below a failed task the reason."""
    lines = [COLUMNS, *(row.cells for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    for cells, reason in [(COLUMNS, []), *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
        for line in reason:
            print(f"    {line}")


def find_dags(stack: AirflowStack, folder: Path) -> list[dict[str, Any]]:
    """Wait until every file of the folder has been read, and return the DAGs."""
    files = {path.name for path in folder.glob("*.py")}

    def all_read() -> list[dict[str, Any]] | None:
        if errors := stack.import_errors():
            raise StackError(f"{errors[0]['filename']}: {errors[0]['stack_trace']}")
        dags = stack.dags()
        return dags if files <= {Path(dag["fileloc"]).name for dag in dags} else None

    return list(stack.wait_for(all_read, 60, "the DAG files to be read"))


def demonstrate(stack: AirflowStack, dags: list[dict[str, Any]], simulator_address: str, mage: str) -> bool:
    """Run the DAGs, print what became of them, and say whether all ended as they should."""
    runs = run_dags(stack, dags)
    rows = report(stack, runs, remote_statuses(simulator_address, mage))
    print()
    print_table(rows)
    print()
    as_expected = True
    for dag in dags:
        expected = "failed" if EXPECT_FAILED in {tag["name"] for tag in dag["tags"]} else "success"
        run_id = runs.get(dag["dag_id"])
        state = stack.dag_run_state(dag["dag_id"], run_id) if run_id else "never scheduled"
        if state != expected:
            as_expected = False
            print(f"{dag['dag_id']}: {state}, not {expected}")
    if as_expected:
        print(f"All {len(dags)} DAGs ended as they should.")
    return as_expected


def main() -> int:
    """Run the demo and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ui", action="store_true", help="leave the web interface up until Ctrl-C")
    parser.add_argument("--mage-python", type=Path, help="interpreter with mage-ai: use a real Mage")
    parser.add_argument("--dags", type=Path, default=ROOT / "example_dags", help="folder with the DAGs")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    for number in (signal.SIGTERM, signal.SIGHUP):
        # SIGHUP: the terminal was closed; nohup has it ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda received, _: sys.exit(128 + received))

    scratch = ROOT / ".demo"
    scratch.mkdir(exist_ok=True)
    home = Path(tempfile.mkdtemp(dir=scratch))
    with ExitStack() as parts:
        address = parts.enter_context(simulator(home))
        log.info("simulator at %s", address)
        mage = f"{address}/mage"
        if arguments.mage_python:
            mage = parts.enter_context(MageServer(arguments.mage_python)).url
            log.info("Mage at %s", mage)
        connections = make_connections(f"{address}/chalk", mage, f"{address}/paradime", f"{address}/strait")
        variables = {"AIRFLOW_VAR_ARTIFACTS": f"file://{home}/artifacts"}
        stack = AirflowStack(
            home,
            arguments.dags,
            connections=connections,
            env=variables,
            sqlite=not can_be_used(),
        )
        parts.enter_context(stack)
        # The first to run at the end: a second Ctrl-C must not cut the stopping short.
        parts.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)
        as_expected = demonstrate(stack, find_dags(stack, arguments.dags), address, mage)
        if arguments.ui:
            log.info("Airflow's web interface: %s (Ctrl-C ends it)", stack.url)
            with suppress(KeyboardInterrupt):
                signal.pause()
    if not as_expected:
        log.info("Logs: %s", home)
        return 1
    shutil.rmtree(home)
    return 0


if __name__ == "__main__":
    sys.exit(main())
