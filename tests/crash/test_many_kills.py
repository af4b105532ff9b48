"""
Every run of hundreds of deferred tasks is cancelled, and none twice, however all of them are ended at once.

One Airflow with PostgreSQL and two triggerers; the simulated Strait refuses as many requests as a real one
does by default. The tasks are deferred by the scheduler, with runs that were started before. A DAG run that
is ended first, just after the triggerers' start, shows that their first action may be a kill.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_runs.mage.hooks import MageHook
from airflow_provider_runs.paradime.hooks import ParadimeHook
from airflow_provider_runs.strait.hooks import StraitHook
from tests.crash.outages import TOKEN, as_environment, start_runs
from tests.crash.simulated import SimulatorProcess
from tools.airflow_stack import AirflowStack
from tools.speed import scaled

DAGS = Path(__file__).parent / "kill_dags"
SYSTEMS = ("mage", "paradime", "strait")
WAYS = ("first_action", "marked_failed", "dagrun_timeout")
SECONDS = 90.0
DAGRUN_TIMEOUT = 60.0
STRAIT_LIMIT = 100
"""Requests that Strait takes from one address in a minute."""
ANY_NUMBER = 1_000_000
ENDED = {"cancelled", "canceled", "CANCELED"}


def cleared(number: int) -> int:
    """Return how many tasks of each system are cleared: each takes two processes of Airflow."""
    return max(2, number // 10)


def connections(simulator: SimulatorProcess) -> dict[str, dict[str, Any]]:
    return {
        "mage_default": {
            "conn_type": "mage",
            "host": f"{simulator.url}/mage",
            "login": "admin",
            "password": "admin",
            "extra": {"trigger_token": TOKEN},
        },
        "paradime_default": {
            "conn_type": "paradime_bolt",
            "host": f"{simulator.url}/paradime/api/v1/company-simulator/graphql",
            "password": "paradime-secret",
            "extra": {"api_key": "key-simulator"},
        },
        "strait_default": {
            "conn_type": "strait",
            "host": f"{simulator.url}/strait",
            "password": "strait_simulator",
        },
    }


@pytest.fixture(scope="module")
def number(request: pytest.FixtureRequest) -> int:
    """How many tasks of each system are ended at once."""
    return int(request.config.getoption("--kills"))


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(["stuck"], TOKEN, options={"mage": {"auth": True}}) as server:
        server.plan(outcome="stuck")
        yield server


@pytest.fixture(scope="module")
def runs(simulator: SimulatorProcess, number: int) -> dict[str, dict[str, list[str]]]:
    """The ids of the runs, by the way of ending their tasks and by system."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in as_environment(connections(simulator)).items():
            fields = json.loads(value)
            # Nothing is to wait for the cap that tasks have.
            fields["extra"] = {**fields.get("extra", {}), "max_requests_per_minute": 600_000}
            environment.setenv(name, json.dumps(fields))
        mage, paradime, strait = MageHook(), ParadimeHook(), StraitHook()
        starts = {
            "mage": lambda: mage.trigger_run(1).id,
            "paradime": lambda: paradime.trigger_run("stuck").id,
            "strait": lambda: strait.trigger_run("daily").id,
        }
        return {way: {system: start_runs([starts[system]] * number) for system in SYSTEMS} for way in WAYS}


@pytest.fixture(scope="module")
def stack(
    simulator: SimulatorProcess,
    runs: dict[str, dict[str, list[str]]],
    number: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[AirflowStack]:
    env = {
        "AIRFLOW_VAR_KILL_RUNS": json.dumps(runs),
        "AIRFLOW_VAR_KILL_DAGRUN_TIMEOUT": str(round(scaled(DAGRUN_TIMEOUT))),
        "AIRFLOW_VAR_KILL_CLEARED": str(cleared(number)),
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "2000",
        "AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY": "1000",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
    }
    home = tmp_path_factory.mktemp("airflow")
    with AirflowStack(
        home, DAGS, connections=connections(simulator), env=env, triggerers=2, python=Path(sys.executable)
    ) as stack:
        for way in (*WAYS, "cleared"):
            stack.wait_for_dag(way)
        yield stack


class Kills:
    """The deferred tasks of one DAG run, and their runs."""

    def __init__(
        self,
        stack: AirflowStack,
        simulator: SimulatorProcess,
        way: str,
        number: int,
        dag_run: str | None = None,
    ) -> None:
        self.stack, self.simulator, self.way = stack, simulator, way
        self.number = number * len(SYSTEMS)
        self.dag_run = dag_run or stack.trigger_dag(way)
        stack.wait_for(self._all_wait, scaled(120 + 3 * number), f"{self.number} triggers to wait")
        self.began = time.monotonic()
        self.wanted: set[tuple[str, str]] = set()

    def _all_wait(self) -> bool:
        """Tell whether every trigger runs: of a task that is ended before, Airflow tells no trigger."""
        logs = (self.stack.home / "logs" / f"dag_id={self.way}").glob("run_id=*/task_id=*/*.log*")
        # One that another triggerer has taken over has two.
        return len({log.parent for log in logs if "Waiting for" in log.read_text()}) == self.number

    def end(self) -> None:
        """Do what a person, or the time, does to all tasks at once."""
        path = f"dags/{self.way}/dagRuns/{self.dag_run}"
        self.began = time.monotonic()
        if self.way == "cleared":
            self.stack.clear(self.way, self.dag_run)
        elif self.way == "dagrun_timeout":
            limit = scaled(DAGRUN_TIMEOUT) + 60
            self.stack.wait_for(
                lambda: self.stack.get(path)["state"] == "failed", limit, "its time to be over"
            )
            self.began = time.monotonic()
        else:
            self.stack.patch(path, {"state": "failed"})

    def judge(self, limit: float) -> None:
        """Wait until every run has ended; say when, and how often each was cancelled."""
        try:
            self.stack.wait_for(lambda: not self._left(), limit, "all runs to be cancelled")
        finally:
            seen = [(system, run) for (system, _), run in self._seen().items()]
            most = {name: max(run["cancels"] for system, run in seen if system == name) for name in SYSTEMS}
            print(
                f"{self.way}: {len(seen)} runs, {len(self._left())} left after "
                f"{time.monotonic() - self.began:.1f} s (limit {limit:.0f} s); most cancels of one: {most}"
            )
        # Mage may lose a cancel, so it is sent until the run has ended.
        twice = [key for key, run in self._seen().items() if run["cancels"] != 1 and key[0] != "mage"]
        assert (len(seen), twice) == (self.number, [])

    def _left(self) -> list[tuple[str, str]]:
        return [key for key, run in self._seen().items() if run["status"] not in ENDED]

    def _seen(self) -> dict[tuple[str, str], dict[str, Any]]:
        return {key: run for key, run in self.simulator.runs().items() if key in self.wanted}


@pytest.fixture(scope="module")
def timed(stack: AirflowStack) -> str:
    """The DAG run whose time is over while other tests run."""
    return stack.trigger_dag("dagrun_timeout")


@pytest.mark.xdist_group("many kills")
@pytest.mark.parametrize("way", ["first_action", "marked_failed", "dagrun_timeout"])
def test_every_run_is_cancelled_once_however_all_tasks_are_ended(
    stack: AirflowStack,
    simulator: SimulatorProcess,
    runs: dict[str, dict[str, list[str]]],
    number: int,
    timed: str,
    way: str,
) -> None:
    simulator.limit_strait(STRAIT_LIMIT)
    kills = Kills(stack, simulator, way, number, timed if way == "dagrun_timeout" else None)
    kills.wanted = {(system, run_id) for system, ids in runs[way].items() for run_id in ids}
    kills.end()
    # A hundred ids a request, and as many polls; the waits themselves poll, too.
    kills.judge(max(SECONDS, 60.0 * math.ceil((4 * number / 100 + 30) / STRAIT_LIMIT)))


@pytest.mark.xdist_group("many kills")
def test_the_next_try_of_every_cleared_task_cancels_its_run(
    stack: AirflowStack, simulator: SimulatorProcess, number: int
) -> None:
    """As fast as Airflow starts these: to its trigger a task that was cleared looks as one that was moved."""
    simulator.limit_strait(ANY_NUMBER)  # so many starts would take hours
    before = set(simulator.runs())
    kills = Kills(stack, simulator, "cleared", cleared(number))
    kills.wanted = set(simulator.runs()) - before
    kills.end()
    kills.judge(scaled(SECONDS + 3 * kills.number))
