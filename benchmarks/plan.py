"""The runs that are waited for: which there are, how long each takes, and how it ends."""

from __future__ import annotations

import random
from dataclasses import dataclass

FAILING = 10
"""Every tenth run fails, so that a wait that takes a failure for a success is seen."""


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """
    A run of a fake service.

    :param number: its id, from 1.
    :param seconds: how long after the beginning of the measurement it ends.
    :param fails: whether it fails.
    """

    number: int
    seconds: float
    fails: bool


def planned_runs(count: int, shortest: float, longest: float, seed: int = 1) -> list[PlannedRun]:
    """
    Return the runs of a measurement, the same for the same arguments.

    :param count: how many.
    :param shortest: seconds that a run takes at least.
    :param longest: seconds that a run takes at most.
    :param seed: chooses the durations.
    """
    chance = random.Random(seed)
    return [
        PlannedRun(number, chance.uniform(shortest, longest), number % FAILING == 0)
        for number in range(1, count + 1)
    ]
