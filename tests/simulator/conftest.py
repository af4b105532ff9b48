from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_runs.core import clock
from airflow_provider_runs.simulator import Simulator
from tests.simulators import Simulators, simulators  # noqa: F401


@pytest.fixture
def sim(simulators: Simulators) -> Simulator:  # noqa: F811
    """A simulator of all systems, a hundred times as fast."""
    return simulators(speed=100)


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Any]:
    """Wait until a question is answered by something true, and return that."""

    def wait(question: Callable[[], Any], seconds: float = 10) -> Any:
        end = clock.monotonic() + seconds
        while clock.monotonic() < end:
            if answer := question():
                return answer
            clock.sleep(0.01)
        raise AssertionError("it did not happen in time")

    return wait
