"""The crash bench: one Airflow, two triggerers, the simulated services, and the cases that are chosen."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_runs.provider_info import SYSTEMS
from airflow_provider_runs.simulator import Simulator
from tests.crash.bench import WIDTH, Bench, Result, table
from tests.crash.cases import FIXED, Case, all_cases, sample
from tests.crash.points import FOLDER
from tests.crash.systems import TARGETS
from tools.airflow_stack import AirflowStack
from tools.speed import scaled, speed_factor

ROOT = Path(__file__).parents[2]
DAGS = Path(__file__).parent / "dags"
HEARTBEAT_SECONDS = 15.0
"""After which Airflow takes a task that is silent for dead."""
NARROWEST = 4
CHOSEN = pytest.StashKey[list[Case]]()
TOLD = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("crash bench")
    group.addoption("--fixed", action="store_true", help="run the cases that stand for all, and the sample")
    group.addoption("--sample", type=int, help="run this many random cases only")
    group.addoption("--width", type=int, help="have at most this many cases under way at the same time")
    group.addoption("--seed", type=int, help="choose the same random cases again")
    group.addoption("--waits", type=int, default=1000, help="have about so many tasks wait at the same time")
    group.addoption("--kills", type=int, default=300, help="end so many tasks of each system at once")
    group.addoption("--case", action="append", default=[], help="run the cases whose name holds this text")


def pytest_configure(config: pytest.Config) -> None:
    cases = all_cases()
    told = config.stash[TOLD] = []
    if words := config.getoption("--case"):
        cases = [case for case in cases if any(word in case.id for word in words)]
    fixed = [case for case in cases if case.id in FIXED] if config.getoption("--fixed") else []
    if (size := config.getoption("--sample")) is not None:
        seed = config.getoption("--seed")
        seed = random.randrange(10**6) if seed is None else seed
        drawn = sample([case for case in cases if case not in fixed], size, seed)
        cases = [case for case in cases if case in fixed or case in drawn]
        told.append(f"{len(cases)} of {len(all_cases())} cases, {len(drawn)} of them random with seed {seed}")
    elif fixed:
        cases = fixed
    config.stash[CHOSEN] = cases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        cases = metafunc.config.stash[CHOSEN]
        metafunc.parametrize("case", cases, ids=[case.id for case in cases])


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [f"crash bench: {line}" for line in config.stash[TOLD]]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash[TOLD]:
        terminalreporter.write_line(line)


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    # Every case has a number of its own in every selection.
    names = [case.id for case in all_cases()]
    options = {system: TARGETS[system].options(names) for system in SYSTEMS}
    with Simulator(options=options) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the task processes and the bench share."""
    return tmp_path_factory.mktemp("marks")


@pytest.fixture(scope="module")
def stack(
    simulator: Simulator, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AirflowStack]:
    connections: dict[str, dict[str, Any]] = {
        TARGETS[system].operator.hook_class.default_conn_name: {
            "conn_type": TARGETS[system].operator.hook_class.conn_type,
            "host": simulator.url_of(system) + TARGETS[system].path,
            **TARGETS[system].connection,
        }
        for system in SYSTEMS
    }
    env = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        FOLDER: str(folder),
        "CRASH_SLOWNESS": str(speed_factor()),
        # A worker that was killed or stands still keeps its place.
        "AIRFLOW__CORE__PARALLELISM": str(WIDTH + 16),
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(round(scaled(HEARTBEAT_SECONDS))),
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
        # On a busy small machine the usual 5 s become, now and then, more than the 10 s after which the stack
        # takes a triggerer for dead.
        "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
        # With the usual pauses between attempts an outage would have to last minutes to be noticed.
        "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "2",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "1",
    }
    home = tmp_path_factory.mktemp("airflow")
    with AirflowStack(home, DAGS, connections=connections, env=env, triggerers=2) as stack:
        for system in SYSTEMS:
            stack.wait_for_dag(f"{system}_worker_plain")
        yield stack


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest,
    stack: AirflowStack,
    simulator: Simulator,
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Result]:
    """What came out of every case. All are run before the first is judged."""
    logging.getLogger("crash_bench").setLevel(logging.INFO)
    width = request.config.getoption("--width") or WIDTH
    bench = Bench(stack, simulator, folder, max(NARROWEST, round(width / speed_factor())))
    found = bench.run(request.config.stash[CHOSEN])
    text = table(found)
    file = tmp_path_factory.mktemp("table") / "crash.md"
    file.write_text(text + "\n")
    request.config.stash[TOLD] += [text, f"{len(found)} cases; the table is also in {file}"]
    request.config.stash[TOLD] += [f"{seconds:5.0f} s  {stage}" for stage, seconds in bench.seconds.items()]
    return {result.case.id: result for result in found}
