"""How slow this machine is at the moment, for the time limits of tests that need real servers.

A server that starts in 20 s on a quiet machine may take minutes beside other work, or in a container with a
share of a core. A limit ends a test that hangs: it grows with the measured factor and never shrinks::

    deadline = time.monotonic() + scaled(60)
"""

from __future__ import annotations

import functools
import time

WORK = 1_000_000
"""Turns of the loop that is measured."""
REFERENCE = 0.04
"""Seconds that it takes on a quiet core of the machine on which the limits were chosen."""
SAMPLES = 5
"""Measured apart from each other, as the load of a machine comes and goes."""
APART = 0.05
PATIENCE = 3


def _compute() -> float:
    began = time.perf_counter()
    total = 0
    for number in range(WORK):
        total += number & 7
    return time.perf_counter() - began


@functools.cache
def speed_factor() -> float:
    """Return how many times longer computing takes than it should, at least 1; measured once per process.

    What counts is the time on the wall, so that other processes, and a limit of the container, count as well.
    """
    taken = []
    for _ in range(SAMPLES):
        taken.append(_compute())
        time.sleep(APART)
    return max(1.0, sum(taken) / SAMPLES / REFERENCE)


def scaled(seconds: float) -> float:
    """Return a time limit that was chosen for a quiet machine, as long as this one needs it."""
    return seconds * speed_factor()


def patient(seconds: float) -> float:
    """Return a limit that only a hang meets: thrice as long, as load may come after the measurement."""
    return PATIENCE * scaled(seconds)
