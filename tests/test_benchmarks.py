"""The benchmarks measure waits that see what is there: their services answer as the real ones do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from airflow_provider_runs.chalk.api import ChalkRunApi
from airflow_provider_runs.core.api import CanGetMany, RunApi
from airflow_provider_runs.core.connection import Settings as Connection
from airflow_provider_runs.core.drivers import AsyncDriver
from airflow_provider_runs.core.retry import NO_RETRY
from airflow_provider_runs.core.run import Run, RunState
from airflow_provider_runs.mage.api import MageRunApi
from airflow_provider_runs.paradime.api import ParadimeRunApi
from airflow_provider_runs.strait.api import StraitRunApi
from benchmarks.__main__ import COLUMNS, table
from benchmarks.plan import FAILING, planned_runs
from benchmarks.services import Service, Settings, strait_id

COUNT = 230
ENDS = 100.0


class Clocked(Service):
    """A service whose clock stands until it is told to go on."""

    seconds = 0.0

    def elapsed(self) -> float:
        return self.seconds


APIS: dict[str, tuple[type[RunApi], dict[str, Any]]] = {
    "chalk": (ChalkRunApi, {"login": "id", "password": "secret"}),
    "paradime": (ParadimeRunApi, {"password": "secret", "extra": {"api_key": "key"}}),
    "mage": (MageRunApi, {}),
    "strait": (StraitRunApi, {"password": "strait_key"}),
}


@pytest.fixture(params=APIS)
async def system(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Clocked, AsyncDriver]]:
    service = Clocked(Settings(request.param, COUNT, ENDS, 2 * ENDS, certificate="", think=0.0))
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", service.answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    path = "/api/v1/company/graphql" if request.param == "paradime" else ""
    api_class, fields = APIS[request.param]
    host = f"http://127.0.0.1:{runner.addresses[0][1]}{path}"
    driver = AsyncDriver(api_class(Connection(f"{request.param}_default", host, **{"extra": {}, **fields})))
    yield service, driver
    await driver.close()
    await runner.cleanup()


async def looked_at(driver: AsyncDriver, names: list[str]) -> dict[str, Run]:
    found: dict[str, Any] = {}
    if isinstance(driver.api, CanGetMany):
        found = dict(await driver.drive(driver.api.get_many(names), NO_RETRY))
    for name in names:
        if name not in found:
            found[name] = await driver.drive(driver.api.get(name), NO_RETRY)
    assert all(isinstance(run, Run) for run in found.values())
    return found


async def test_a_service_of_the_benchmarks_is_understood(system: tuple[Clocked, AsyncDriver]) -> None:
    service, driver = system
    named = strait_id if isinstance(driver.api, StraitRunApi) else (lambda run: str(run.number))
    names = {named(run): run for run in service.runs}
    for service.seconds in (0.0, 1.5 * ENDS, 2 * ENDS):
        for name, run in (await looked_at(driver, list(names))).items():
            planned = names[name]
            if service.seconds < planned.seconds:
                assert run.state in (RunState.PENDING, RunState.RUNNING)
            else:
                assert run.state is (RunState.FAILED if planned.fails else RunState.SUCCEEDED)
    asked = service.requests["request"]
    # Chalk has no lists. Mage lists what is active only.
    assert asked >= 3 * COUNT if isinstance(driver.api, ChalkRunApi) else asked < 2 * COUNT


def test_the_planned_runs_are_the_same_each_time() -> None:
    runs = planned_runs(100, 8, 24)
    assert runs == planned_runs(100, 8, 24)
    assert all(8 <= run.seconds <= 24 for run in runs)
    assert sum(run.fails for run in runs) == 100 // FAILING


def test_a_table_compares_with_the_best_rival() -> None:
    def found(cpu: float, p50: float | None) -> dict[str, Any]:
        return {
            "count": 10, "request": 40, "connections": 10, "net_cpu": cpu, "net_rss": 100.0,
            "seen": {"p50": p50, "p95": 5.0}, "wrong": {"missing": 2 if p50 is None else 0, "broken": 0},
        }  # fmt: skip

    rows = {"chalk": found(0.02, 2.0), "databricks": found(0.08, 4.0), "dbt_cloud": found(0.05, None)}
    lines = table("some runs", 10, rows, {"idle": {"p99": 0.001}, "chalk": {"p99": 0.002}}).splitlines()
    assert lines[0] == "### 10 waits: some runs"
    assert lines[2].count("|") == len(COLUMNS) + 4
    chalk, databricks, dbt_cloud, idle = lines[4:]
    assert "2.00 (0.40 x)" in chalk and "2.00 (0.50 x)" in chalk and chalk.endswith("| 0 | 2.0 |")
    assert "8.00 |" in databricks and databricks.endswith("| 0 | ? |")
    assert "never" in dbt_cloud and "2 missing" in dbt_cloud
    assert idle.endswith("| 1.0 |")
