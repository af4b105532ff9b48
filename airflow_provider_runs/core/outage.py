"""Tell a service that cannot be polled from single runs that cannot. Pure: it is told the time."""

from __future__ import annotations

from collections.abc import Collection

from airflow_provider_runs.core.errors import RunsError
from airflow_provider_runs.core.retry import backoff_seconds

OUTAGE_AFTER = 3
"""
Polls in a row that must fail before the service counts as out; also so many different runs, if there are as
many. One run that the service cannot answer for says nothing about the others.
"""
BACKOFF_BASE = 1.0
BACKOFF_CAP = 30.0


class OutageDetector:
    """Follow how the polls of one connection end. All moments are those of one clock, in seconds."""

    def __init__(self) -> None:
        self.outage: RunsError | None = None
        """Why the service counts as out."""
        self.since = 0.0
        """When the first of the failures in a row came."""
        self.backoff_until = 0.0
        """Until when nothing is to be polled."""
        self._failures = 0
        self._failing: set[str] = set()
        self._probing_since = 0.0

    def failed(
        self, run_ids: Collection[str], error: RunsError, *, began: float, now: float, among: int
    ) -> bool:
        """
        Count a poll that failed, and tell whether an outage begins with it.

        :param run_ids: what was polled.
        :param error: why it failed.
        :param began: when the poll began.
        :param now: the current moment.
        :param among: how many runs are waited for.
        """
        if self._failures == 0:
            self.since = now
        # Requests that one cut has hit together are one failure: only a probe makes the next one wait longer.
        if self.outage is None or began >= self._probing_since:
            self._failures += 1
        self._failing.update(run_ids)
        pause = error.retry_after or 0.0
        is_out = self._failures >= OUTAGE_AFTER and len(self._failing) >= min(OUTAGE_AFTER, among)
        if is_out:
            pause = max(pause, backoff_seconds(self._failures - OUTAGE_AFTER + 1, BACKOFF_BASE, BACKOFF_CAP))
        self.backoff_until = max(self.backoff_until, now + pause)
        if not is_out or self.outage is not None:
            return False
        self.outage, self._probing_since = error, now
        return True

    def answered(self, now: float) -> bool:
        """
        Take note that the service answers, and tell whether that ends an outage.

        :param now: the current moment.
        """
        self._failures = 0
        self._failing.clear()
        if self.outage is None:
            return False
        self.outage, self.backoff_until = None, now
        return True
