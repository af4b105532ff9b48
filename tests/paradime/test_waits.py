"""Many waits for runs of Paradime at once, against the simulator."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_runs.base.poller import wait_for_run
from airflow_provider_runs.core import progress
from airflow_provider_runs.core.outcome import Outcome, Verdict
from airflow_provider_runs.core.progress import Watch
from airflow_provider_runs.paradime.api import ParadimeRunApi
from airflow_provider_runs.paradime.hooks import ParadimeHook
from airflow_provider_runs.simulator import Simulator
from tests.paradime.conftest import connect

UNKNOWN = "999"


@pytest.fixture(params=[{}, {"nullable": False}, {"max_fields": 30}], ids=["null", "whole", "complex"])
def crowd(
    request: pytest.FixtureRequest, simulators: Callable[..., Simulator], monkeypatch: pytest.MonkeyPatch
) -> Simulator:
    with warnings.catch_warnings(action="ignore"):
        import airflow_provider_runs.paradime.operators  # noqa: F401

    sim = simulators(speed=1, **request.param)
    connect(monkeypatch, sim)
    return sim


async def wait(run_ids: list[str], interval: float = 1.0) -> list[Outcome]:
    hook = ParadimeHook()
    try:
        return await asyncio.gather(
            *(
                wait_for_run(
                    "paradime",
                    hook.aread_api,
                    Watch(run_id, interval, interval),
                    "Paradime",
                    lambda note: None,
                )
                for run_id in run_ids
            )
        )
    finally:
        await hook.aclose()


def start(sim: Simulator, count: int, **plan: Any) -> list[str]:
    sim.plan(system="paradime", **plan)
    hook = ParadimeHook()
    return [hook.trigger_run("daily").id for _ in range(count)]


async def test_three_hundred_runs_cost_six_requests_a_round(
    crowd: Simulator, request: pytest.FixtureRequest
) -> None:
    runs = start(crowd, 300, duration=3600)
    async with ParadimeHook() as hook:
        # A server with a limit shows it once.
        await hook.adrive(lambda api: api.get_many(runs[:50]))  # type: ignore[attr-defined]
        crowd.clear_requests()
        found = await hook.adrive(lambda api: api.get_many(runs))  # type: ignore[attr-defined]
    assert {run.status for run in found.values()} <= {"STARTING", "RUNNING"} and set(found) == set(runs)
    # One whose server takes 30 fields at most sends 25 in a document.
    assert crowd.count("paradime", "get") == (12 if "complex" in request.node.name else 6)


async def test_the_watcher_asks_about_all_who_wait_in_full_documents(
    crowd: Simulator, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    ask = ParadimeRunApi.get_many

    def counted(self: ParadimeRunApi, run_ids: list[str]) -> Any:
        asked.append(len(run_ids))
        return ask(self, run_ids)

    monkeypatch.setattr(ParadimeRunApi, "get_many", counted)
    runs = start(crowd, 300, duration=3600)
    crowd.clear_requests()
    waiting = asyncio.create_task(wait(runs, 3.0))
    await asyncio.sleep(8)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert sum(asked) >= 2 * 300
    # Looks that are spread over the interval do not always fill the last document.
    full = 25 if "complex" in request.node.name else 50
    assert crowd.count("paradime", "get") <= 1.5 * sum(asked) / full
    # What the server takes is learnt once: then each request counts for the cap by itself.
    assert all(count <= full for count in asked[20:])


async def test_every_run_ends_as_it_ended_beside_one_that_nobody_knows(
    crowd: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(progress.OWN_TIMEOUTS, progress.Trouble.NOT_FOUND, 2.0)
    good = start(crowd, 40, duration=2.5)
    bad = start(crowd, 20, duration=2.5, outcome="failed")
    crowd.clear_requests()
    outcomes = await wait([*good, UNKNOWN, *bad])
    verdicts = {outcome.run_id: outcome.verdict for outcome in outcomes}
    assert {verdicts.pop(run_id) for run_id in good} == {Verdict.SUCCEEDED}
    assert {verdicts.pop(run_id) for run_id in bad} == {Verdict.FAILED}
    assert verdicts == {UNKNOWN: Verdict.UNREACHABLE}
    (unknown,) = [outcome for outcome in outcomes if outcome.run_id == UNKNOWN]
    assert "999" in str(unknown.message)
    # One unknown run does not make the others be asked about one by one.
    assert crowd.count("paradime", "get") < 61
