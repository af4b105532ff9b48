"""All requests of one connection in one process keep its cap together, whatever sends them in which scope."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from airflow_provider_runs.base.poller import wait_for_run
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.progress import Watch
from airflow_provider_runs.core.turns import limiter_of
from airflow_provider_runs.simulator import Simulator
from airflow_provider_runs.strait.hooks import StraitHook
from airflow_provider_runs.strait.simulated import Job
from airflow_provider_runs.strait.triggers import StraitRunEventTrigger
from tests.base.test_events import AssetStore, Triggerer, needs_streams
from tests.strait.tasks import connect
from tests.strait.test_limit import Counted

MINUTES = 5
CAP = 60
PROJECTS = ("p1", "p2")
STARTS = 10
"""In each project and minute."""


@needs_streams
async def test_waits_event_triggers_and_starts_of_two_scopes_keep_the_cap_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Simulator(["strait"], options={"strait": {"jobs": (Job("good"),)}}) as sim:
        sim.plan(system="strait", outcome="stuck")
        connect(monkeypatch, sim, max_requests_per_minute=CAP)
        asked: Any = Counted()
        sim._server.systems["strait"]._gate.requests = asked  # type: ignore[attr-defined]
        triggerer, longest = Triggerer(), 0.0
        background: list[asyncio.Task[Any]] = []

        async def start_some(project: str) -> None:
            nonlocal longest
            async with StraitHook(project_id=project) as hook:
                for number in range(MINUTES * STARTS):
                    began = clock.monotonic()
                    key = f"{project} {number}"
                    run = await hook.adrive(lambda api, key=key: api.trigger({"job_id": "good"}, key))
                    longest = max(longest, clock.monotonic() - began)
                    watch = Watch(run.id, 1.0, 1.0)
                    wait = wait_for_run(hook.watch_key, hook.aread_api, watch, "Strait", lambda note: None)
                    background.append(asyncio.create_task(wait))
                    await asyncio.sleep(began + 60 / STARTS - clock.monotonic())

        first = clock.time()
        for project in PROJECTS:
            watcher = StraitRunEventTrigger(job_id="good", project_id=project, poll_interval=1.0)
            triggerer.run(watcher, AssetStore())
        await asyncio.gather(*map(start_some, PROJECTS))
        limiter = limiter_of(StraitHook().read_api())
        lasted = clock.time() - first
        await triggerer.stop()
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        within = [moment for moment in asked.moments if moment <= first + lasted]
        assert lasted == pytest.approx(60 * MINUTES, abs=2)
        assert len(within) <= CAP * lasted / 60 + limiter.burst(clock.monotonic())
        # What is not idle uses what it may.
        assert len(within) >= 0.9 * CAP * MINUTES
        assert sim.count("strait", "trigger", 201) == len(PROJECTS) * MINUTES * STARTS
        assert sim.count("strait", "list", 200) > 20
        # Two requests, each in the next slot or behind one of the other project.
        assert longest < 6
