"""How a start waits: for a service that puts it off, and for one that is unreachable."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

from airflow_provider_runs.core import clock
from airflow_provider_runs.core.errors import RunsError
from airflow_provider_runs.core.retry import RetryPolicy, backoff_seconds

LONG_PAUSE = 10.0
"""
Seconds from which on a pause before a request is told, or spent in the triggerer. A trigger that fires within
some seconds may fail its task: see ``SETTLE_SECONDS`` of :mod:`~airflow_provider_runs.base.trigger`.
"""
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0
"""Seconds after which a start with a key is sent again while the service is unreachable."""


class StartDelayed(Exception):
    """
    The service takes no start yet: it has surely begun none, and the task is to come again later.

    :param seconds: when to come again.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the service takes no start for {seconds:.0f} s")
        self.seconds = seconds


class Patience:
    """
    What a start does while it has to wait.

    :param service: the service's name, for the log.
    :param limit: seconds that an outage may last, or that a start may be put off; None: for ever.
    :param may_delay: whether a long pause may end with StartDelayed, to be spent elsewhere.
    :param is_stopped: whether the task was told to stop.
    :param log: the task's logger.
    """

    def __init__(
        self, service: str, limit: float | None, may_delay: bool, is_stopped: Callable[[], bool], log: Any
    ) -> None:
        self._service = service
        self._limit = limit
        self._may_delay = may_delay
        self._is_stopped = is_stopped
        self._log = log
        self.is_first = True
        """Whether no request for the run that is being started has left before."""
        self.delayed_since: float | None = None
        """Since when the service has put the start off, UTC epoch seconds."""
        self.reading = RetryPolicy(
            stopped=is_stopped, before_pause=lambda seconds, _: self._before_pause(seconds, True)
        )
        """For calls that change nothing."""
        self.starting = RetryPolicy(
            stopped=is_stopped,
            before_pause=lambda seconds, unaffected: self._before_pause(
                seconds, unaffected and self.is_first
            ),
        )
        """For the call that starts the run."""

    def _before_pause(self, seconds: float, unaffected: bool) -> None:
        """
        Tell of a pause before a request, or have it spent in the triggerer: it holds a worker slot.

        :param unaffected: whether surely no run has been begun.
        """
        if seconds < LONG_PAUSE:
            return
        # The service names the same second to all who wait.
        delay = seconds * random.uniform(1.0, 2.0)
        delayed = clock.time() - (self.delayed_since or clock.time())
        if self._may_delay and unaffected and (self._limit is None or delayed + delay <= self._limit):
            raise StartDelayed(delay)
        self._log.info("%s has the start wait for %.0f s", self._service, seconds)

    def pauses(self, began: float) -> Iterator[float]:
        """
        Yield the seconds after which something is tried again, for as long as an outage may last.

        :param began: since when, UTC epoch seconds.
        """
        passed = max(0.0, clock.time() - began)
        until = inf if self._limit is None else clock.monotonic() + self._limit - passed
        for attempt in itertools.count(1):
            if clock.monotonic() >= until:
                return
            yield min(backoff_seconds(attempt, FIRST_PAUSE, LONGEST_PAUSE), until - clock.monotonic())

    def wait(self, seconds: float, error: RunsError) -> None:
        """
        Wait until the time is over or the task is told to stop.

        :param seconds: how long, unless the service asks for more.
        :param error: why.
        """
        seconds = max(seconds, error.retry_after or 0.0)
        self._log.warning("%s. Trying again in %.0f s", error, seconds)
        until = clock.monotonic() + seconds
        while not self._is_stopped() and (left := until - clock.monotonic()) > 0:
            clock.sleep(min(left, 1.0))
