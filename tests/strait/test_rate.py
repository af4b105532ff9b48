"""
All requests of one connection in one process keep its cap together, whatever sends them in which scope; and
processes that do not know of each other share what the server takes.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from typing import Any

import pytest

from airflow_provider_runs.base.poller import wait_for_run
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.progress import Watch
from airflow_provider_runs.core.turns import limiter_of
from airflow_provider_runs.simulator import Simulator
from airflow_provider_runs.strait.hooks import StraitHook
from airflow_provider_runs.strait.logs import EventFollower
from airflow_provider_runs.strait.simulated import Job
from airflow_provider_runs.strait.triggers import StraitRunEventTrigger
from tests.base.test_events import AssetStore, Triggerer, needs_streams
from tests.strait.tasks import KEY, connect
from tests.strait.test_limit import LIMIT, Counted

LOG = logging.getLogger(__name__)
MINUTES = 5
CAP = 60
PROJECTS = ("p1", "p2")
STARTS = 6
"""In each project and minute."""
FOLLOWED = 3
"""In each project: runs whose log is followed, each through one stream after the other."""
STREAM_SECONDS = 20.0


@needs_streams
async def test_waits_event_triggers_log_followers_and_starts_of_two_scopes_keep_the_cap_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"jobs": (Job("good"),), "stream_seconds": STREAM_SECONDS}
    with Simulator(["strait"], options={"strait": options}) as sim:
        sim.plan(system="strait", outcome="stuck")
        connect(monkeypatch, sim, max_requests_per_minute=CAP)
        asked: Any = Counted()
        sim._server.systems["strait"]._gate.requests = asked  # type: ignore[attr-defined]
        triggerer, longest = Triggerer(), 0.0
        background: list[asyncio.Task[Any]] = []
        followers: list[EventFollower] = []

        async def start_some(project: str) -> None:
            nonlocal longest
            async with StraitHook(project_id=project) as hook:
                for number in range(MINUTES * STARTS):
                    began = clock.monotonic()
                    key = f"{project} {number}"
                    run = await hook.adrive(lambda api, key=key: api.trigger({"job_id": "good"}, key))
                    longest = max(longest, clock.monotonic() - began)
                    if number < FOLLOWED:
                        # On a worker it has a thread and an event loop of its own.
                        followers.append(EventFollower(StraitHook(project_id=project), run.id, LOG))
                        followers[-1].start()
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
        for follower in followers:
            follower.stop()
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
        # One stream a minute and follower at least, and what was said before it was open.
        assert sim.count("strait", "stream", 200) > len(followers) * MINUTES
        assert sim.count("strait", "events", 200) > len(followers) * MINUTES
        # Two requests, each in the next slot or behind one of the other project.
        assert longest < 6


BEFORE, DURING = 180.0, 600.0
"""Seconds in which two processes find their shares, and in which they are measured then."""
RETRY_AFTER = 60.0


async def test_two_processes_share_what_the_server_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    with Simulator(["strait"], options={"strait": {"jobs": (Job("good"),)}}) as sim:
        sim.plan(system="strait", outcome="stuck")
        limit: Any = Counted()
        processes = ("strait_one", "strait_two")
        outcomes: list[Any] = []
        waited: list[float] = []
        # Each process has a limiter of its own, so that two connections are as good as two processes.
        for name in processes:
            fields = {"conn_type": "strait", "host": sim.url_of("strait"), "password": KEY}
            monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(fields))

        async def wait(hook: StraitHook, run_id: str) -> None:
            watch = Watch(run_id, 1.0, 1.0)
            outcomes.append(
                await wait_for_run(hook.watch_key, hook.aread_api, watch, "Strait", lambda note: None)
            )

        async def start_now_and_then(hook: StraitHook, name: str) -> None:
            for number in itertools.count():
                began = clock.monotonic()
                key = f"{name} {number}"
                await hook.adrive(lambda api, key=key: api.trigger({"job_id": "good"}, key))
                waited.append(clock.monotonic() - began)
                await asyncio.sleep(20)

        background: list[asyncio.Task[None]] = []
        hooks = [StraitHook(name) for name in processes]
        for hook in hooks:
            for number in range(20):
                key = f"{hook.conn_id} {number} before"
                run = await hook.adrive(lambda api, key=key: api.trigger({"job_id": "good"}, key))
                background.append(asyncio.create_task(wait(hook, run.id)))
        sim._server.systems["strait"]._gate.requests = limit  # type: ignore[attr-defined]
        background += [asyncio.create_task(start_now_and_then(hook, hook.conn_id)) for hook in hooks]
        await asyncio.sleep(BEFORE)
        asked, refused, first = len(limit.moments), limit.refused, len(waited)
        await asyncio.sleep(DURING)
        asked, refused = len(limit.moments) - asked, limit.refused - refused
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        for hook in hooks:
            await hook.aclose()
        print(f"{asked} requests, {refused} refused; starts waited {max(waited):.0f} s at most")
        assert refused < 0.05 * asked
        # Well used, too: without the other, a process may send 90 a minute.
        assert asked >= 0.6 * LIMIT * DURING / 60
        assert len(waited) > first + 20
        assert max(waited) <= 2 * RETRY_AFTER
        assert outcomes == []
