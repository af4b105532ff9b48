"""
A hundred runs at once on a simulated Strait: polls alone find every way in which they end, and soon.

No stream is opened for a wait, whatever the connection says.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest

from airflow_provider_runs.base import connections
from airflow_provider_runs.base.poller import wait_for_run
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.connection import read_settings
from airflow_provider_runs.core.drivers import AsyncDriver
from airflow_provider_runs.core.outcome import Outcome, Verdict
from airflow_provider_runs.core.progress import Note, Watch
from airflow_provider_runs.simulator import Simulator
from airflow_provider_runs.strait.api import StraitRunApi
from airflow_provider_runs.strait.hooks import StraitHook
from airflow_provider_runs.strait.simulated import Job
from airflow_provider_runs.strait.triggers import StraitRunTrigger
from tests.simulators import Simulators
from tests.strait.tasks import connect

CONN_ID = "strait_default"
SECONDS = {"good": 1.5, "bad": 2.0, "reported": 2.5, "stopped": 2.2, "late": 1.8, "overdue": 2.0}
ENDS = {
    "good": ("completed", Verdict.SUCCEEDED),
    "bad": ("dead_letter", Verdict.FAILED),
    "reported": ("failed", Verdict.FAILED),
    "stopped": ("canceled", Verdict.CANCELLED),
    "late": ("crashed", Verdict.FAILED),
    "overdue": ("expired", Verdict.FAILED),
}
LATEST = 5.0 + 0.2
"""Seconds after its end by which a run that is polled every 5 s is seen to have ended."""
SHARES = {"good": 60, "bad": 14, "reported": 14, "stopped": 4, "late": 4, "overdue": 4}


@pytest.fixture
def sim(simulators: Simulators) -> Simulator:
    options = {"strait": {"jobs": tuple(map(Job, ENDS))}}
    simulator = simulators(["strait"], options=options)
    for slug, (word, _) in ENDS.items():
        simulator.plan(system="strait", resource=slug, outcome=word, queued=1.0, duration=SECONDS[slug] + 1.5)
    return simulator


def an_api(sim: Simulator) -> StraitRunApi:
    settings = read_settings(
        StraitRunApi.connection,
        conn_id=CONN_ID,
        host=sim.url_of("strait"),
        password="strait_simulator",
        extra={"max_requests_per_minute": 600_000, "max_streams": 100},
    )
    return StraitRunApi(settings)


async def start_all(api: StraitRunApi, shares: dict[str, int]) -> dict[str, str]:
    """Start so many runs of each job, and return their ids with the jobs."""
    driver = AsyncDriver(api)
    slugs = [slug for slug, number in shares.items() for _ in range(number)]
    runs = await asyncio.gather(
        *(driver.drive(api.trigger({"job_id": slug}, f"key {number}")) for number, slug in enumerate(slugs))
    )
    await driver.close()
    return {run.id: slug for run, slug in zip(runs, slugs, strict=True)}


async def wait_for_all(
    api: StraitRunApi, jobs: dict[str, str], **pace: float
) -> tuple[dict[str, tuple[Outcome, float]], list[Note]]:
    """Return how each wait ended and when, and what all were told."""

    async def read() -> StraitRunApi:
        return api

    told: list[Note] = []

    async def one(run_id: str) -> tuple[Outcome, float]:
        outcome = await wait_for_run("key", read, Watch(run_id, **pace), "Strait", told.append)
        return outcome, clock.time()

    outcomes = await asyncio.wait_for(asyncio.gather(*(one(run_id) for run_id in jobs)), 600)
    return dict(zip(jobs, outcomes, strict=True)), told


async def test_a_hundred_runs_that_end_in_every_way_are_seen_by_the_next_poll(sim: Simulator) -> None:
    api = an_api(sim)
    jobs = await start_all(api, SHARES)
    seen, told = await wait_for_all(api, jobs, min_poll_interval=1.0, poll_interval=5.0)
    assert len(jobs) == 100
    for run_id, (outcome, _) in seen.items():
        assert (outcome.status, outcome.verdict) == ENDS[jobs[run_id]]
    assert not any(note.alarming for note in told)
    assert max(lags(sim, {run_id: moment for run_id, (_, moment) in seen.items()})) < LATEST
    assert sim.count("strait", "stream") == 0
    assert len(asyncio.all_tasks()) == 1


async def test_a_hundred_triggers_fire_soon_after_the_ends(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, sim, max_requests_per_minute=600_000, max_streams=100)
    jobs = await start_all(an_api(sim), SHARES)

    async def one(run_id: str) -> tuple[dict[str, Any], float]:
        trigger = StraitRunTrigger(CONN_ID, run_id, min_poll_interval=1.0, poll_interval=5.0)
        (event,) = [(fired.payload, clock.time()) async for fired in trigger.run()]
        return event

    fired = await asyncio.wait_for(asyncio.gather(*map(one, jobs)), 60)
    for slug, (event, _) in zip(jobs.values(), fired, strict=True):
        assert (event["status"], event["outcome"]) == (ENDS[slug][0], ENDS[slug][1].value)
    seen = {run_id: moment for run_id, (_, moment) in zip(jobs, fired, strict=True)}
    assert max(lags(sim, seen)) < LATEST
    assert sim.count("strait", "stream") == 0
    assert len(asyncio.all_tasks()) == 1


def lags(sim: Simulator, seen: dict[str, float]) -> list[float]:
    """Return how many seconds after its end in the simulator each run was seen to have ended."""
    ended = {run["id"]: datetime.fromisoformat(run["finished_at"]).timestamp() for run in sim.runs("strait")}
    return [moment - ended[run_id] for run_id, moment in seen.items()]


def test_a_connection_that_still_limits_streams_is_read_and_the_log_says_once_that_this_does_nothing(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connections._report_ignored.cache_clear()
    caplog.set_level("INFO")
    for nonsense in (0, "many"):
        connect(monkeypatch, sim, max_streams=nonsense)
        assert StraitHook().test_connection()[0]
    said = "Connection 'strait_default': field 'max_streams' is ignored; it can be removed"
    assert [message for message in caplog.messages if "max_streams" in message] == [said]
