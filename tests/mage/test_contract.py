"""The simulated Mage keeps the contract that `tests/real` asks of a real one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.real.target import Mage, simulated_mage
from tests.real.test_calls import *  # noqa: F403
from tests.real.test_contract import *  # noqa: F403


@pytest.fixture(scope="session", params=[False, True], ids=["auth_off", "auth_on"])
def mage(request: pytest.FixtureRequest) -> Iterator[Mage]:
    """A simulated Mage, without and with user authentication."""
    with simulated_mage(auth=request.param) as server:
        yield server


def test_host_with_path_prefix_reaches_mage() -> None:
    with simulated_mage(auth=False, alone=False) as server:
        assert server.url.endswith("/mage")
        run = server.start("empty")
        assert run.url == f"{server.url}/pipelines/empty/runs/{run.id}"
        assert server.wait(run).status == "completed"
