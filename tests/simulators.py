"""Simulators that the tests of a module share, each started once and given as after a start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from airflow_provider_runs.provider_info import SYSTEMS
from airflow_provider_runs.simulator import Simulator


class Simulators:
    """
    Give a simulator with some settings, which it forgets all else but.

    :param stack: stops them.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._started: dict[str, Simulator] = {}

    def __call__(self, systems: Iterable[str] = SYSTEMS, **settings: Any) -> Simulator:
        """Return the simulator with these settings, as after a start."""
        key = repr((tuple(systems), settings))
        if key not in self._started:
            self._started[key] = self._stack.enter_context(Simulator(systems, **settings))
        found = self._started[key]
        found.reset()
        return found


@pytest.fixture(scope="module")
def simulators() -> Iterator[Simulators]:
    """Return the simulators of the module."""
    with ExitStack() as stack:
        yield Simulators(stack)
