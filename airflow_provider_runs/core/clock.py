"""
The one clock that everything reads and waits by.

Whatever compares moments or waits for one asks this module, and event loops keep the same time, so that a
test can put a clock of its own in :data:`current` and let hours of waiting pass in a moment. Nothing else in
the package, its simulators included, calls :mod:`time`.
"""

from __future__ import annotations

import time as system
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
WORKER_SLACK = 86_400.0
"""
Seconds by which the clock of the worker that took down when a start left may differ from the service's: of a
start that a search passed by, a second run would be made. What is further off gets no TLS connection.
"""


class Clock:
    """The system's clock."""

    def time(self) -> float:
        """Return UTC epoch seconds, which may jump when somebody sets the clock."""
        return system.time()

    def monotonic(self) -> float:
        """Return seconds that never go back, for measuring how long something takes."""
        return system.monotonic()

    def sleep(self, seconds: float) -> None:
        """
        Wait.

        :param seconds: how long.
        """
        system.sleep(seconds)

    def get(self, queue: SimpleQueue[T], timeout: float | None = None) -> T:
        """
        Take what is first in a queue.

        :param queue: the queue.
        :param timeout: seconds to wait for something to come; None waits without end.
        :raises queue.Empty: if nothing has come by then.
        """
        return queue.get(timeout=timeout)


current = Clock()


def time() -> float:
    """Return UTC epoch seconds, as :meth:`Clock.time`."""
    return current.time()


def monotonic() -> float:
    """Return seconds that never go back, as :meth:`Clock.monotonic`."""
    return current.monotonic()


def sleep(seconds: float) -> None:
    """
    Wait, as :meth:`Clock.sleep`.

    :param seconds: how long.
    """
    current.sleep(seconds)


def get(queue: SimpleQueue[T], timeout: float | None = None) -> T:
    """
    Take what is first in a queue, as :meth:`Clock.get`.

    :param queue: the queue.
    :param timeout: seconds to wait for something to come; None waits without end.
    :raises queue.Empty: if nothing has come by then.
    """
    return current.get(queue, timeout)
