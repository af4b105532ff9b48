from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_runs.simulator import Simulator


@pytest.fixture
def sim() -> Iterator[Simulator]:
    """A simulator of both systems, a hundred times as fast."""
    with Simulator(speed=100) as simulator:
        yield simulator


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Any]:
    """Wait until a question is answered by something true, and return that."""

    def wait(question: Callable[[], Any], seconds: float = 10) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if answer := question():
                return answer
            time.sleep(0.01)
        raise AssertionError("it did not happen in time")

    return wait
