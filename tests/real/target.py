"""A Mage to test against, real or simulated: the same project, the same words."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import Token
from airflow_provider_runs.core.connection import Settings, read_settings
from airflow_provider_runs.core.drivers import Driver
from airflow_provider_runs.core.run import Run
from airflow_provider_runs.mage.api import MageRunApi
from airflow_provider_runs.mage.simulator import Pipeline
from airflow_provider_runs.mage.simulator import Schedule as SimulatedSchedule
from airflow_provider_runs.simulator import Simulator
from tools.mage_server import MageServer, Schedule
from tools.speed import patient, scaled

USERNAME = "admin"


@dataclass
class Mage:
    """
    A running Mage.

    :param url: its address.
    :param auth: whether it wants a login for everything but starting runs.
    :param schedules: its triggers by name.
    :param loop: seconds between two loops of its scheduler.
    :param end_sessions: lets all sessions expire.
    """

    url: str
    auth: bool
    schedules: Mapping[str, Schedule]
    loop: float
    end_sessions: Callable[[], None]
    email: str = MageServer.email
    username: str = USERNAME
    password: str = MageServer.password
    _session: Token | None = field(default=None, repr=False)

    def connection(self, trigger: str | None = "example", **fields: Any) -> dict[str, Any]:
        """Return an Airflow connection's fields: a trigger's token, and a login where Mage wants one."""
        # The tests ask more often than tasks do.
        extra: dict[str, Any] = {"max_requests_per_minute": 60_000}
        if trigger:
            extra["trigger_token"] = self.schedules[trigger].token
        given = {"conn_type": "mage", "host": self.url, "extra": {**extra, **fields.pop("extra", {})}}
        if self.auth:
            given |= {"login": self.email, "password": self.password}
        return {**given, **fields}

    def connection_json(self, trigger: str | None = "example", **fields: Any) -> str:
        """Return the same as the text of an environment variable ``AIRFLOW_CONN_...``."""
        return json.dumps(self.connection(trigger, **fields))

    def settings(self, trigger: str | None = "example", **fields: Any) -> Settings:
        """Return the same as read from such a connection."""
        given = self.connection(trigger, **fields)
        given.pop("conn_type")
        return read_settings(MageRunApi.connection, conn_id="mage_default", **given)

    def api(self, trigger: str | None = "example", **fields: Any) -> MageRunApi:
        """Return the description of Mage's API for one trigger, not logged in."""
        return MageRunApi(self.settings(trigger, **fields))

    def driver(self, trigger: str | None = "example") -> Driver:
        """Return a driver with the session that all tests share: a login takes Mage seconds."""
        driver = Driver(self.api(trigger))
        if self.auth and self._session is None:
            driver.drive(driver.api.authenticate())
            self._session = driver.api.token
        driver.api.token = self._session
        return driver

    def expire_sessions(self) -> None:
        """Let all sessions expire, the shared one too."""
        self.end_sessions()
        self._session = None

    def start(self, trigger: str = "example", key: str | None = None, **arguments: Any) -> Run:
        """Start a run through a trigger."""
        driver = self.driver(trigger)
        arguments = {"pipeline_schedule_id": self.schedules[trigger].id, **arguments}
        run = driver.drive(driver.api.trigger(arguments, key))
        driver.close()
        return run

    def get(self, run: Run) -> Run:
        """Ask about a run."""
        driver = self.driver()
        found = driver.drive(driver.api.get(run.id))
        driver.close()
        return found

    def watch(self, run: Run, seconds: float = 45.0) -> Iterator[Run]:
        """Yield what Mage says about a run, again and again until it has ended."""
        driver = self.driver()
        limit = patient(seconds)
        end = clock.monotonic() + limit
        while clock.monotonic() < end:
            seen = driver.drive(driver.api.get(run.id))
            yield seen
            if seen.state.is_terminal:
                driver.close()
                return
            clock.sleep(self.loop / 10)
        raise AssertionError(f"run {run.id} is still {seen.status} after {limit:.0f} s")

    def wait(self, run: Run, *statuses: str) -> Run:
        """Return a run as it is once it has one of these statuses, or has ended."""
        for seen in self.watch(run):
            if seen.status in statuses:
                break
        return seen

    def call(self, method: str, path: str, body: Any = None, **params: str) -> requests.Response:
        """Return Mage's answer to a plain request with the shared session."""
        headers = self.driver().api.auth_headers()
        return requests.request(
            method, self.url + path, params=params, json=body, headers=headers, timeout=scaled(30)
        )

    def row(self, run: Run) -> dict[str, Any]:
        """Return a run as Mage shows it."""
        answer = self.call("GET", f"/api/pipeline_runs/{run.id}")
        row: dict[str, Any] = answer.json()["pipeline_run"]
        return row

    def count(self) -> int:
        """Return how many runs Mage has."""
        return int(self.call("GET", "/api/pipeline_runs", _limit="0").json()["metadata"]["count"])


@contextmanager
def real_mage(
    python: Path, folder: Path, *, auth: bool, base_path: str | None = None, timezone: str | None = None
) -> Iterator[Mage]:
    """Serve `tools/mage_project` with the real Mage."""
    loop = 1.0
    with MageServer(
        python,
        auth=auth,
        scheduler_interval=loop,
        workdir=folder,
        base_path=base_path,
        timezone=timezone,
    ) as server:
        (database,) = folder.glob("data/**/mage-ai.db")

        def end_sessions() -> None:
            with sqlite3.connect(database, timeout=30) as connection:
                connection.execute("UPDATE oauth2_access_token SET expires = '2020-01-01 00:00:00.000000'")
            connection.close()

        yield Mage(server.url, auth, server.schedules, loop, end_sessions)


def diamond(block: str, variables: dict[str, Any], attempt: int) -> Iterator[str]:
    """Do what the blocks of the pipeline `diamond` do."""
    yield f"{block} is at work"
    if variables.get("fail") == block:
        raise ValueError(f"{block} was told to fail")


def plain(block: str, variables: dict[str, Any], attempt: int) -> Iterator[str]:
    """Do what the blocks of the other pipelines do."""
    if block == "load":
        yield f"loaded {variables}"
    elif block == "bang":
        raise ValueError("bang in transform")
    elif block == "once":
        yield "once is here for the first time" if attempt == 1 else "once was here before"
        if attempt == 1:
            raise RuntimeError("it works when retried")


LOAD = ("load", "data_loader")
TRANSFORM = ("transform", "transformer")
PIPELINES = (
    Pipeline("broken", (LOAD, ("bang", "transformer")), work=plain),
    Pipeline(
        "diamond",
        (
            ("start", "data_loader"),
            ("left", "transformer", ("start",)),
            ("right", "transformer", ("start",)),
            ("join", "transformer", ("left", "right")),
        ),
        work=diamond,
    ),
    Pipeline("empty"),
    Pipeline("example", (LOAD, TRANSFORM), work=plain),
    Pipeline("flaky", (LOAD, ("once", "transformer"), TRANSFORM), work=plain),
    Pipeline("slow", (("wait", "data_loader"),)),
)
SCHEDULES = (
    SimulatedSchedule(1, "broken", "broken", "broken_token"),
    SimulatedSchedule(2, "diamond", "diamond", "diamond_token"),
    SimulatedSchedule(3, "diamond", "lenient", "lenient_token", settings={"allow_blocks_to_fail": True}),
    SimulatedSchedule(4, "empty", "empty", "empty_token"),
    SimulatedSchedule(5, "example", "example", "example_token"),
    SimulatedSchedule(6, "example", "inactive", "inactive_token", status="inactive"),
    SimulatedSchedule(7, "example", "nightly", "nightly_token", type="time"),
    SimulatedSchedule(
        8, "example", "one_at_a_time", "one_at_a_time_token", settings={"pipeline_run_limit": 1}
    ),
    SimulatedSchedule(13, "example", "from_airflow", "from_airflow_token"),
    SimulatedSchedule(9, "flaky", "flaky", "flaky_token"),
    SimulatedSchedule(10, "slow", "slow", "slow_token"),
    SimulatedSchedule(11, "slow", "impatient", "impatient_token", settings={"timeout": 3}),
    SimulatedSchedule(
        12, "slow", "gives_up", "gives_up_token", settings={"timeout": 3, "timeout_status": "cancelled"}
    ),
)


@contextmanager
def simulated_mage(*, auth: bool, alone: bool = True) -> Iterator[Mage]:
    """Serve the same project with the simulator, alone at the root or beside others under a prefix."""
    speed = 50
    options = {"auth": auth, "pipelines": PIPELINES, "schedules": SCHEDULES}
    settings = {"speed": speed, "duration": 5, "options": {"mage": options}}
    with Simulator(system="mage" if alone else None, **settings) as simulator:
        simulator.plan(resource="slow", duration=600)
        schedules = {each.name: Schedule(each.id, each.pipeline_uuid, each.token) for each in SCHEDULES}
        yield Mage(simulator.url_of("mage"), auth, schedules, 10 / speed, simulator.expire_tokens)
