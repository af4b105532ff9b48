"""The same waits as in `tests/real`, on the simulated Mage."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from airflow_provider_runs.simulator import Simulator
from tests.mage.conftest import make_api
from tests.mage.test_many import page
from tests.play import play
from tests.real.target import PIPELINES, SCHEDULES
from tests.real.test_waits import (  # noqa: F401
    masked,
    requests,
    test_a_hundred_waits_cost_at_most_two_requests_each_and_end_as_the_server_says,
    test_a_session_that_ends_is_renewed_once_for_all_waits,
    test_no_wait_fails_when_the_server_is_killed_and_started_again,
    test_reads_whose_session_is_refused_together_share_one_login,
)
from tests.real.waits import MortalMage, Requests, Waits
from tools.mage_server import Schedule

SPEED = 50


@pytest.fixture
def mortal() -> Iterator[MortalMage]:
    """A simulated Mage whose port is closed where a real one is killed."""
    options = {"auth": True, "pipelines": PIPELINES, "schedules": SCHEDULES}
    with Simulator(system="mage", speed=SPEED, duration=75, options={"mage": options}) as simulator:
        simulator.plan(resource="broken", outcome="failed", message="ValueError: bang in transform")
        simulator.plan(resource="slow", outcome="stuck")
        schedules = {each.name: Schedule(each.id, each.pipeline_uuid, each.token) for each in SCHEDULES}
        yield MortalMage(
            simulator.url,
            True,
            schedules,
            10 / SPEED,
            simulator.expire_tokens,
            kill=simulator.stop,
            revive=simulator.start,
            logins=lambda: simulator.count("mage", "login", 200),
            extra={"max_requests_per_minute": 60_000},  # all here is so much faster
        )


async def test_waits_that_began_one_after_another_share_their_looks(
    mortal: MortalMage,
    requests: Requests,  # noqa: F811
) -> None:
    runs = mortal.start_many(("slow", 40, {}))["slow"]
    async with Waits(runs, interval=1.0, begin_over=1.0):
        await asyncio.sleep(1)
        requests.clear()
        await asyncio.sleep(5)
        assert 5 <= requests.total() <= 5 * 40 / 4
        assert requests["list"] >= 5


def test_a_run_that_ends_while_the_list_is_made_is_asked_about_by_itself() -> None:
    # Mage chooses the rows first and reads their status later; the short form has no reason for a failure.
    _, found = play(make_api().get_many(["5"]), page(5, status="failed"))
    assert found == {}
