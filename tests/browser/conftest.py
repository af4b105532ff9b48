"""A real Airflow with the example DAGs and no connection, the simulated services, and Debian's Chromium."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect, sync_playwright

from airflow_provider_runs.simulator import Simulator
from tests.browser.pages import Browsed
from tools.airflow_stack import AirflowStack
from tools.demo import ROOT, find_dags
from tools.speed import patient

SECONDS = 8
"""How long a remote run takes: long enough to see its task deferred in a page that looks each second."""
PATIENCE = 45_000
"""Milliseconds in which a page shows what is expected, on a busy small machine."""
VIEW = {"width": 1280, "height": 900}
ARGUMENTS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    # What Chromium asks of its maker, a closed network refuses, and pages then wait.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
]
FAILED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("browser").addoption(
        "--screenshots", type=Path, metavar="DIR", help="write the README's pictures there"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:  # type: ignore[attr-defined]
        item.stash[FAILED] = True
    return report


@pytest.fixture(scope="session")
def simulator() -> Iterator[Simulator]:
    options = {"mage": {"auth": True, "loop_interval": 1}}
    with Simulator(options=options, duration=SECONDS) as simulator:
        yield simulator


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowStack]:
    home = tmp_path_factory.mktemp("airflow")
    env = {
        "AIRFLOW_VAR_ARTIFACTS": f"file://{home}/artifacts",
        "AIRFLOW__API__AUTO_REFRESH_INTERVAL": "1",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
    }
    with AirflowStack(home, ROOT / "example_dags", env=env) as stack:
        find_dags(stack, ROOT / "example_dags")
        yield stack


@pytest.fixture(scope="session")
def context(stack: AirflowStack) -> Iterator[BrowserContext]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("there is no chromium: install it (Debian: apt-get install chromium)", False)
    with sync_playwright() as playwright:
        # Chromium refuses its sandbox to root.
        browser = playwright.chromium.launch(
            executable_path=chromium, args=ARGUMENTS, chromium_sandbox=os.geteuid() != 0
        )
        expect.set_options(timeout=patient(PATIENCE))
        context = browser.new_context(base_url=stack.url, viewport=VIEW)
        context.set_default_timeout(patient(PATIENCE))
        yield context
        browser.close()


@pytest.fixture
def page(context: BrowserContext, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Page]:
    page = context.new_page()
    yield page
    if request.node.stash.get(FAILED, False):
        page.screenshot(path=tmp_path / "failed.png", full_page=True)
        print(f"What the page showed ({page.url}): {tmp_path / 'failed.png'}")
    page.close()


@pytest.fixture(scope="session")
def browsed(stack: AirflowStack, simulator: Simulator) -> Browsed:
    """What was made in the pages so far: a connection or a DAG run that a test needs is made once."""
    return Browsed(stack, simulator)


@pytest.fixture(scope="session")
def screenshots(request: pytest.FixtureRequest) -> Path | None:
    folder: Path | None = request.config.getoption("--screenshots")
    return folder
