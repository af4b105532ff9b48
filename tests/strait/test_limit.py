"""
Three hundred waits on a Strait that takes 100 requests a minute from one address, as servers do by default.

The cap of the connection and all intervals are the default ones, and runs take 30 to 90 s.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from airflow_provider_runs.core import clock
from airflow_provider_runs.core.connection import read_settings
from airflow_provider_runs.core.drivers import AsyncDriver
from airflow_provider_runs.core.run import Run
from airflow_provider_runs.simulator import Simulator
from airflow_provider_runs.strait.api import StraitRunApi
from airflow_provider_runs.strait.lists import FEW, PAGE
from airflow_provider_runs.strait.simulated import Job
from airflow_provider_runs.strait.simulator import Window
from tests.strait.tasks import statuses
from tests.strait.test_polls import ENDS, start_all, wait_for_all

MINUTE = 60
LIMIT = 100
SHARES = {"good": 200, "bad": 40, "reported": 20, "stopped": 20, "late": 10, "overdue": 10}


class Counted(Window):
    """The limit of the server, which keeps when it was asked and how often it refused."""

    def __init__(self) -> None:
        super().__init__(LIMIT, MINUTE)
        self.moments: list[float] = []
        self.refused = 0

    def take(self, key: str) -> int | None:
        self.moments.append(clock.time())
        left = super().take(key)
        self.refused += left is None
        return left

    def most(self) -> int:
        """Return the most requests within any minute."""
        ends = [(moment, moment + MINUTE) for moment in self.moments]
        return max(sum(1 for other in self.moments if begin <= other < end) for begin, end in ends)


def an_api(sim: Simulator, **extra: Any) -> StraitRunApi:
    settings = read_settings(
        StraitRunApi.connection,
        conn_id="strait_default",
        host=sim.url_of("strait"),
        password="strait_simulator",
        extra=extra,
    )
    return StraitRunApi(settings)


async def test_three_hundred_waits_keep_the_limit_of_the_server_and_none_fails() -> None:
    jobs = tuple(Job(slug) for slug in ENDS)
    options: dict[str, Any] = {"jobs": jobs}
    with Simulator(["strait"], options={"strait": options}) as sim:
        for number, (slug, (word, _)) in enumerate(ENDS.items()):
            sim.plan(system="strait", resource=slug, outcome=word, queued=10, duration=20 + 12 * number)
        # The starts have a limit of their own, by which 300 would take half an hour.
        started = await start_all(an_api(sim, max_requests_per_minute=600_000), SHARES)
        api = an_api(sim)
        limit: Any = Counted()
        sim._server.systems["strait"]._gate.requests = limit  # type: ignore[attr-defined]
        seen, told = await wait_for_all(api, started, min_poll_interval=2, poll_interval=60)
        assert len(seen) == 300
        for run_id, (outcome, _) in seen.items():
            assert (outcome.status, outcome.verdict) == ENDS[started[run_id]]
        assert {run_id: outcome.status for run_id, (outcome, _) in seen.items()} == statuses(sim)
        assert not any(note.alarming for note in told)
        print(
            f"{len(limit.moments)} requests for 300 waits, {limit.most()} within a minute at most, "
            f"{limit.refused} refused"
        )
        assert limit.most() <= LIMIT
        assert limit.refused == 0
        # As on the other services: two requests a run.
        assert len(limit.moments) <= 2 * len(seen)


@pytest.mark.parametrize("outcome", ["completed", "stuck", "dead_letter"])
async def test_three_hundred_runs_are_asked_about_by_the_pages_of_two_lists(outcome: str) -> None:
    with Simulator(["strait"], options={"strait": {"jobs": (Job("good"),)}}) as sim:
        sim.plan(system="strait", outcome=outcome, queued=0.1, duration=0.1)
        api = an_api(sim, max_requests_per_minute=900)
        started = await start_all(api, {"good": 300})
        await asyncio.sleep(0.5)
        sim.clear_requests()
        driver = AsyncDriver(api)
        found = await driver.drive(api.get_many(tuple(started)))
        await driver.close()
        status = "executing" if outcome == "stuck" else outcome
        assert all(isinstance(run, Run) and run.status == status for run in found.values())
        asked = sum(entry["count"] for entry in sim.requests()["counts"])
        print(f"{asked} requests for {len(found)} of 300 runs that are {status}")
        assert asked == sim.count("strait", "list", 200)
        # A few are left for single questions; a list that holds none of them has one page, too.
        assert len(found) >= 300 - FEW
        assert asked <= math.ceil(300 / PAGE) + 1
