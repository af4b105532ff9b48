"""
A hundred runs at once on a simulated Strait, with its streams, without them, and with them refused.

The verdicts are the same each time. What streams tell of is seen at once, all else by the next look.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime
from typing import Any

import pytest

from airflow_provider_runs.base.watch import wait_for_run
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.connection import read_settings
from airflow_provider_runs.core.drivers import AsyncDriver
from airflow_provider_runs.core.outcome import Outcome, Verdict
from airflow_provider_runs.core.progress import Note, Watch
from airflow_provider_runs.core.sse import Event, Frame
from airflow_provider_runs.simulator import Simulator
from airflow_provider_runs.strait.api import StraitRunApi
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
    # Of these the streams say nothing.
    "stopped": ("canceled", Verdict.CANCELLED),
    "late": ("crashed", Verdict.FAILED),
    "overdue": ("expired", Verdict.FAILED),
}
TOLD = ("good", "bad", "reported")
UNTOLD = tuple(slug for slug in ENDS if slug not in TOLD)
SOON = 0.2
"""Seconds, far less than from one look to the next."""
SHARES = {"good": 60, "bad": 14, "reported": 14, "stopped": 4, "late": 4, "overdue": 4}


@pytest.fixture
def sim(simulators: Simulators) -> Simulator:
    options = {"strait": {"jobs": tuple(map(Job, (*ENDS, "endless"))), "keepalive": 1.0}}
    simulator = simulators(["strait"], options=options)
    for slug, (word, _) in ENDS.items():
        simulator.plan(system="strait", resource=slug, outcome=word, queued=1.0, duration=SECONDS[slug] + 1.5)
    simulator.plan(system="strait", resource="endless", outcome="stuck")
    return simulator


def an_api(sim: Simulator, max_streams: int) -> StraitRunApi:
    settings = read_settings(
        StraitRunApi.connection,
        conn_id=CONN_ID,
        host=sim.url_of("strait"),
        password="strait_simulator",
        extra={"max_requests_per_minute": 600_000, "max_streams": max_streams},
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


@pytest.mark.parametrize("streams", ["on", "off", "refused", "full"])
async def test_a_hundred_runs_end_with_the_same_verdicts_whatever_becomes_of_the_streams(
    sim: Simulator, streams: str
) -> None:
    if streams == "refused":
        sim.fault(system="strait", operation="stream", fault="status", status=503)
    api = an_api(sim, {"off": 0, "full": 10}.get(streams, 100))
    jobs = await start_all(api, SHARES)
    seen, told = await wait_for_all(api, jobs, min_poll_interval=1.0, poll_interval=5.0)
    assert len(jobs) == 100
    for run_id, (outcome, _) in seen.items():
        assert (outcome.status, outcome.verdict) == ENDS[jobs[run_id]]
    assert not any(note.alarming for note in told)
    opened = sim.count("strait", "stream", 200)
    assert (opened > 0) == (streams in ("on", "full"))
    told_after, untold_after = lags(sim, jobs, {run_id: moment for run_id, (_, moment) in seen.items()})
    if streams == "on":
        assert max(told_after) < SOON
    assert max(*told_after, *untold_after) < 5.0 + SOON
    assert len(asyncio.all_tasks()) == 1


async def test_a_hundred_triggers_fire_soon_after_the_ends_that_streams_tell_of(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, sim, max_requests_per_minute=600_000)
    jobs = await start_all(an_api(sim, 100), {"good": 70, "bad": 15, "reported": 15})

    async def one(run_id: str) -> tuple[dict[str, Any], float]:
        (event,) = [(fired.payload, clock.time()) async for fired in StraitRunTrigger(CONN_ID, run_id).run()]
        return event

    fired = await asyncio.wait_for(asyncio.gather(*map(one, jobs)), 60)
    for slug, (event, _) in zip(jobs.values(), fired, strict=True):
        assert (event["status"], event["outcome"]) == (ENDS[slug][0], ENDS[slug][1].value)
    seen = {run_id: moment for run_id, (_, moment) in zip(jobs, fired, strict=True)}
    assert max(lags(sim, jobs, seen)[0]) < SOON
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("slug", [*UNTOLD, "endless"])
async def test_an_end_that_a_working_stream_does_not_tell_of_ends_the_wait(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch, slug: str
) -> None:
    heard: list[Frame] = []
    read = AsyncDriver.stream_events

    async def listen(*args: Any, **kwargs: Any) -> AsyncIterator[Frame]:
        async with aclosing(read(*args, **kwargs)) as frames:
            async for frame in frames:
                heard.append(frame)
                yield frame

    monkeypatch.setattr(AsyncDriver, "stream_events", listen)
    api = an_api(sim, 100)
    jobs = await start_all(api, {slug: 1})
    wait = asyncio.create_task(wait_for_all(api, jobs, min_poll_interval=0.2, poll_interval=1.0))
    while not heard:
        await asyncio.wait([wait], timeout=0.05)
        assert not wait.done()
    if slug == "endless":
        # As somebody else cancels it.
        driver = AsyncDriver(api)
        await driver.drive(api.cancel(*jobs))
        await driver.close()
    ((outcome, _),) = (await wait)[0].values()
    status, verdict = ENDS.get(slug, ENDS["stopped"])
    assert (outcome.status, outcome.verdict) == (status, verdict)
    assert sim.count("strait", "stream") == sim.count("strait", "stream", 200) == 1
    assert not any(status in frame.data for frame in heard if isinstance(frame, Event))


@pytest.mark.parametrize(
    "fault", ["silence", "flood", "split", "lose", "cut_frame", "end", "error_frame", "reset_before", "html"]
)
async def test_nothing_that_a_stream_does_changes_a_verdict(sim: Simulator, fault: str) -> None:
    sim.fault(fault, system="strait", operation="stream")
    for slug, (word, _) in ENDS.items():
        sim.plan(system="strait", resource=slug, outcome=word, queued=0.3, duration=0.7)
    api = an_api(sim, 100)
    jobs = await start_all(api, dict.fromkeys(ENDS, 1))
    seen, told = await wait_for_all(api, jobs, min_poll_interval=0.3, poll_interval=1.0)
    assert {jobs[run_id]: (outcome.status, outcome.verdict) for run_id, (outcome, _) in seen.items()} == ENDS
    assert sim.count("strait", "stream") >= 1
    assert not any(note.alarming for note in told)
    assert len(asyncio.all_tasks()) == 1


def lags(sim: Simulator, jobs: dict[str, str], seen: dict[str, float]) -> tuple[list[float], list[float]]:
    """
    Return how many seconds after its end in the simulator each run was seen to have ended.

    :return: of runs whose ends the streams tell, and of the others.
    """
    ended = {run["id"]: datetime.fromisoformat(run["finished_at"]).timestamp() for run in sim.runs("strait")}
    after = {run_id: moment - ended[run_id] for run_id, moment in seen.items()}
    return (
        [after[run_id] for run_id in seen if jobs[run_id] in TOLD],
        [after[run_id] for run_id in seen if jobs[run_id] not in TOLD],
    )
