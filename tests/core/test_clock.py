"""The system's clock, which everything keeps outside of tests."""

from __future__ import annotations

import time
from queue import Empty, SimpleQueue

import pytest

from airflow_provider_runs.core import clock

pytestmark = pytest.mark.real_time


def test_it_is_the_systems() -> None:
    assert time.time() - 60 < clock.time() <= time.time()
    assert time.monotonic() - 60 < clock.monotonic() <= time.monotonic()


def test_a_sleep_lasts() -> None:
    began = time.monotonic()
    clock.sleep(0.02)
    assert time.monotonic() - began >= 0.02


def test_a_queue_is_waited_for() -> None:
    queue: SimpleQueue[int] = SimpleQueue()
    with pytest.raises(Empty):
        clock.get(queue, 0.01)
    queue.put(1)
    assert clock.get(queue) == 1
