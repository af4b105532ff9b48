"""What the tests of many waits share: runs of every kind, ten minutes of faults, Airflow's trigger runner."""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import attrs
from airflow.executors import workloads
from airflow.executors.workloads.task import TaskInstanceDTO
from airflow.jobs.triggerer_job_runner import TriggerRunnerSupervisor
from airflow.models.trigger import Trigger
from airflow.triggers.base import BaseTrigger, TriggerEvent

from tests.crash.simulated import SimulatorProcess

VERDICTS = {
    "succeeded": "succeeded",
    "completed": "succeeded",
    "failed": "failed",
    "canceled": "cancelled",
    "cancelled": "cancelled",
}
GOING = {"received", "initial", "running"}
CHALK_WORDS = {"cancelled": "canceled"}
"""Words that the simulated Chalk would not say by itself."""
SCALE = float(os.environ.get("OUTAGE_SCALE", "10"))
"""How much faster than in life everything is that these tests may choose."""
TOKEN = "outagetriggertoken"


class Kind(NamedTuple):
    """
    A kind of run.

    :param outcome: how it ends.
    :param duration: after how many simulated seconds.
    """

    outcome: str
    duration: int = 0

    @property
    def name(self) -> str:
        return f"{self.outcome}_{self.duration}"


def plan_runs(simulator: SimulatorProcess, kinds: Mapping[Kind, int]) -> None:
    """Have the simulator end runs by the name of their kind."""
    for kind in kinds:
        for system, word in (("chalk", CHALK_WORDS.get(kind.outcome, kind.outcome)), ("mage", kind.outcome)):
            resource = kind.name if system == "mage" else f"bench.{kind.name}"
            simulator.plan(system=system, resource=resource, outcome=word, duration=kind.duration)


def connections(simulator: SimulatorProcess) -> dict[str, dict[str, Any]]:
    """Return the Airflow connections; what a connection sets in seconds or minutes is scaled."""
    extra = {"request_timeout": 30 / SCALE, "max_requests_per_minute": round(600 * SCALE)}
    return {
        "chalk_default": {
            "conn_type": "chalk",
            "host": f"{simulator.url}/chalk",
            "login": "token-simulator",
            "password": "chalk-secret",
            "extra": extra,
        },
        "mage_default": {
            "conn_type": "mage",
            "host": f"{simulator.url}/mage",
            "login": "admin",
            "password": "admin",
            "extra": {**extra, "trigger_token": TOKEN},
        },
    }


# Faults

Make = Callable[[SimulatorProcess, float], None]


def several(*faults: tuple[str, Mapping[str, Any]], share: float) -> Make:
    """Let a share of all requests go wrong, in each of these ways."""

    def make(simulator: SimulatorProcess, minute: float) -> None:
        for fault, rest in faults:
            simulator.fault(fault, probability=share, **rest)
        time.sleep(minute)

    return make


def too_many(simulator: SimulatorProcess, minute: float) -> None:
    simulator.fault("status", status=429, retry_after=str(minute / 3), for_seconds=minute / 3)
    time.sleep(minute)


def tokens_expire(simulator: SimulatorProcess, minute: float) -> None:
    for operation in ("get", "list"):
        simulator.fault("status", status=401, operation=operation, probability=0.1)
    for _ in range(6):
        simulator.expire_tokens()
        time.sleep(minute / 6)


def closed(simulator: SimulatorProcess, minute: float) -> None:
    simulator.close()
    time.sleep(minute)
    simulator.open()


def frozen(simulator: SimulatorProcess, minute: float) -> None:
    simulator.freeze()
    time.sleep(minute)
    simulator.thaw()


MINUTES: Mapping[str, Make] = {
    "server errors": several(*(("status", {"status": each}) for each in (500, 502, 503, 504)), share=0.15),
    "429 with Retry-After": too_many,
    "resets before and after the work": several(("reset_before", {}), ("reset_after", {}), share=0.25),
    "requests that hang": several(("hang", {}), share=0.2),
    "HTML with 200": several(("html", {"status": 200}), share=0.4),
    "empty bodies, and no JSON": several(("empty", {}), ("not_json", {}), share=0.25),
    "expired tokens and single 401s": tokens_expire,
    "single 404s": several(
        ("status", {"status": 404, "operation": "get"}),
        ("status", {"status": 404, "operation": "list"}),
        share=0.2,
    ),
    "full outage, connections refused": closed,
    "full outage, nothing answered": frozen,
}
FAULTS = {"status", "reset_before", "reset_after", "hang", "html", "empty", "not_json"}


def ten_minutes(simulator: SimulatorProcess) -> None:
    """Make one simulated minute after the other go wrong in its own way."""
    simulator.tally()
    for name, make in MINUTES.items():
        began = time.monotonic()
        make(simulator, 60 / SCALE)
        simulator.clear_faults()
        before = sum(simulator.asked.values())
        simulator.tally()
        print(
            f"{name}: {sum(simulator.asked.values()) - before} requests in {time.monotonic() - began:.1f} s"
        )


# Airflow's own trigger runner


class LoopLag(BaseTrigger):
    """Fire an event whenever the event loop was later than ever before."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.LoopLag", {}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        worst = 0.0
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.02)
            lag = time.monotonic() - began - 0.02
            if lag > worst:
                worst = lag
                yield TriggerEvent({"at": time.time(), "lag": lag})


class Log:
    """What a trigger writes into its task's log, kept in memory."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, processors: Any) -> Log:
        return self

    def log(self, level: int, event: str, **details: Any) -> None:
        self.lines.append(event)

    def upload_to_remote(self) -> None:
        """Do nothing: there is no remote log."""

    def close(self) -> None:
        """Do nothing: there is no file."""


@attrs.define(kw_only=True)
class Triggerer(TriggerRunnerSupervisor):
    """
    Airflow's triggerer without its database.

    The process of the triggers, its event loop and all that is said between the two processes are Airflow's
    own. What Airflow would read from its database is handed over; what it would write there is kept.
    """

    fired: dict[int, list[Any]] = attrs.field(factory=lambda: defaultdict(list), init=False)
    broken: dict[int, Any] = attrs.field(factory=dict, init=False)
    logs: dict[int, Log] = attrs.field(factory=dict, init=False)

    def add(self, trigger: BaseTrigger) -> int:
        """Have a trigger run as that of a deferred task, and return its id."""
        trigger_id = len(self.logs) + 1
        path, arguments = trigger.serialize()
        task_instance = TaskInstanceDTO(
            id=uuid.uuid4(),
            task_id=f"wait_{trigger_id}",
            dag_id="waits",
            run_id="manual",
            try_number=1,
            dag_version_id=uuid.uuid4(),
            pool_slots=1,
            priority_weight=1,
        )
        workload = workloads.RunTrigger(
            id=trigger_id,
            classpath=path,
            encrypted_kwargs=Trigger.encrypt_kwargs(arguments),
            ti=task_instance,
        )
        self.logs[trigger_id] = self.logger_cache[trigger_id] = Log()  # type: ignore[assignment]
        self.creating_triggers.append(workload)
        return trigger_id

    def load_triggers(self) -> None:
        """Do nothing: triggers come by :meth:`add`."""

    def heartbeat(self) -> None:
        """Do nothing: no scheduler looks."""

    def clean_unused(self) -> None:
        """Do nothing: nothing is stored."""

    def emit_metrics(self) -> None:
        """Do nothing."""

    def make_client(self) -> Any:
        """Refuse: nothing here may need Airflow's database."""
        raise AssertionError("a trigger asked for something in Airflow's database")

    def on_trigger_event(self, trigger_id: int, event: TriggerEvent) -> None:
        self.fired[trigger_id].append(event.payload)

    def on_trigger_failure(self, trigger_id: int, exc: list[str] | None) -> None:
        self.broken[trigger_id] = exc

    def end(self) -> None:
        """End the process of the triggers."""
        self.kill(escalation_delay=5, force=True)
        self._cleanup_open_sockets()

    def work_until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Do what a triggerer does until a condition holds or time is up."""
        until = time.monotonic() + seconds
        while not condition() and time.monotonic() < until:
            assert self.is_alive(), "the process of the triggers has ended"
            self.run_once()


def start_runs(starts: list[Callable[[], str]]) -> list[str]:
    """Start runs, eight at a time, and return their ids."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda start: start(), starts))


def as_environment(given: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return connections as environment variables."""
    return {f"AIRFLOW_CONN_{name.upper()}": json.dumps(fields) for name, fields in given.items()}
