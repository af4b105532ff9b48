"""What the tests of many waits share: runs of every kind, ten minutes of faults, Airflow's trigger runner."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_runs.provider_info import SYSTEMS
from tests.crash.simulated import SimulatorProcess

VERDICTS = {
    "succeeded": "succeeded",
    "completed": "succeeded",
    "failed": "failed",
    "canceled": "cancelled",
    "cancelled": "cancelled",
    "SUCCESS": "succeeded",
    "FAILED": "failed",
    "CANCELED": "cancelled",
}
GOING = {"received", "initial", "running", "STARTING", "RUNNING"}
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
        for system in SYSTEMS:
            is_chalk = system == "chalk"
            resource = f"bench.{kind.name}" if is_chalk else kind.name
            word = CHALK_WORDS.get(kind.outcome, kind.outcome) if is_chalk else kind.outcome
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
        "paradime_default": {
            "conn_type": "paradime_bolt",
            "host": f"{simulator.url}/paradime/api/v1/company-simulator/graphql",
            "password": "paradime-secret",
            "extra": {**extra, "api_key": "key-simulator"},
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
    "HTML with 200, or GraphQL's errors": several(("html", {"status": 200}), ("errors", {}), share=0.3),
    "empty bodies, and no JSON": several(("empty", {}), ("not_json", {}), share=0.25),
    "expired tokens and single 401s": tokens_expire,
    "single 404s": several(
        ("status", {"status": 404, "operation": "get"}),
        ("status", {"status": 404, "operation": "list"}),
        ("errors", {"body": "Run 1 not found.", "operation": "get"}),
        share=0.2,
    ),
    "full outage, connections refused": closed,
    "full outage, nothing answered": frozen,
}
FAULTS = {"status", "reset_before", "reset_after", "hang", "html", "empty", "not_json", "errors"}


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


def start_runs(starts: list[Callable[[], str]]) -> list[str]:
    """Start runs, eight at a time, and return their ids."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda start: start(), starts))


def as_environment(given: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return connections as environment variables."""
    return {f"AIRFLOW_CONN_{name.upper()}": json.dumps(fields) for name, fields in given.items()}
