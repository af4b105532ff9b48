"""The simulated Mage keeps the contract that `tests/real` asks of a real one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_runs.core.drivers import Driver
from airflow_provider_runs.core.run import Run
from tests.real.target import Mage, simulated_mage
from tests.real.test_calls import *  # noqa: F403
from tests.real.test_calls import fail_on_the_left
from tests.real.test_contract import *  # noqa: F403
from tests.real.test_contract import complete
from tests.virtual import VirtualClock

# Each test has a simulated Mage of its own, which costs little: what a shared one has seen would lie in the
# future of the next test's virtual time.


@pytest.fixture(params=[False, True], ids=["auth_off", "auth_on"])
def mage(request: pytest.FixtureRequest, virtual: VirtualClock) -> Iterator[Mage]:
    """A simulated Mage, without and with user authentication."""
    with simulated_mage(auth=request.param) as server:
        yield server


@pytest.fixture
def completed(mage: Mage) -> tuple[list[str], Run]:
    """A run that went well, and the status words on its way."""
    return complete(mage)


@pytest.fixture
def failed(mage: Mage) -> Run:
    """A run whose second block raised."""
    return mage.wait(mage.start("broken"))


@pytest.fixture
def driver(mage: Mage) -> Driver:
    """A driver for a connection that names no trigger."""
    return mage.driver(trigger=None)


@pytest.fixture
def lopsided(mage: Mage) -> Run:
    """A run of the diamond whose left side failed."""
    return fail_on_the_left(mage)


def test_host_with_path_prefix_reaches_mage() -> None:
    with simulated_mage(auth=False, alone=False) as server:
        assert server.url.endswith("/mage")
        run = server.start("empty")
        assert run.url == f"{server.url}/pipelines/empty/runs/{run.id}"
        assert server.wait(run).status == "completed"
