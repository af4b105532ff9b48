"""What the tests against a real Mage share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from tests.real.target import Mage, real_mage

LONGEST = ("test_waits.py", "test_airflow.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest files begin first: each is run by one process, as a whole."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def mage_python() -> Path:
    """The interpreter of the environment that has mage-ai; without one these tests fail."""
    named = os.environ.get("MAGE_PYTHON")
    if not named:
        pytest.fail("MAGE_PYTHON must name the Python of an environment with mage-ai: run make mage", False)
    python = Path(named)
    if not python.is_file():
        pytest.fail(f"MAGE_PYTHON names {named}, which does not exist: run make mage", False)
    return python


@pytest.fixture(scope="session")
def mages(mage_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[bool], Mage]]:
    """
    Give the real Mage with or without user authentication.

    Each is started when it is first wanted and stays: a start takes as much as many tests.
    """
    with ExitStack() as running:

        @cache
        def get(auth: bool) -> Mage:
            folder = tmp_path_factory.mktemp("mage")
            return running.enter_context(real_mage(mage_python, folder, auth=auth))

        yield get


@pytest.fixture(scope="session", params=[False, True], ids=["auth_off", "auth_on"])
def mage(request: pytest.FixtureRequest, mages: Callable[[bool], Mage]) -> Mage:
    """A real Mage, without and with user authentication.

    `@pytest.mark.parametrize("mage", [True], indirect=True)` takes the one with.
    """
    return mages(request.param)
