"""Find the run of a start whose answer never came."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from airflow_provider_runs.base.capabilities import retrying
from airflow_provider_runs.base.decisions import Absent, Attempt
from airflow_provider_runs.base.hook import RunHook
from airflow_provider_runs.base.record import StartRecord
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import CanCancel, CanFindUnmarked, Unsure
from airflow_provider_runs.core.errors import RunsError, is_permanent
from airflow_provider_runs.core.retry import NO_RETRY
from airflow_provider_runs.core.run import Run

LOOK_SECONDS = 300.0
"""
How long a start whose answer was lost is looked for while the service is unreachable, or where what tells a
run from others comes later.
"""
LOOK_INTERVAL = 5.0


class RunFinder:
    """
    Ask a service for the run of a record.

    :param hook: the service.
    :param arguments: the service's own arguments.
    :param attempt: the present try.
    :param is_stopped: whether the task was told to stop, and has no time to look again.
    :param log: the task's logger.
    """

    def __init__(
        self,
        hook: RunHook,
        arguments: Mapping[str, Any],
        attempt: Attempt,
        is_stopped: Callable[[], bool],
        log: Any,
    ) -> None:
        self._hook = hook
        self._arguments = arguments
        self._attempt = attempt
        self._is_stopped = is_stopped
        self._log = log
        self._until: float | None = None
        """On the monotonic clock: until when this try looks for a lost start."""

    @property
    def retry_arguments(self) -> Mapping[str, Any]:
        """The task's arguments if it retries a run, else what of its start's a retry takes along."""
        if self._attempt.resumes is not None:
            return self._arguments
        return retrying(self._hook.api).retry_arguments(self._arguments)

    def once(self, record: StartRecord) -> Run | None:
        """
        Look for a run once.

        :param record: what was begun.
        :return: the run; None if none was started.
        :raises Unsure: if nothing tells which run it is.
        :raises RunsError: if the service refuses or is unreachable.
        """
        since = record.started_at
        if record.resumes is not None:
            known = record.snapshot
            return self._hook.find_retried(record.resumes, self.retry_arguments, since, known, NO_RETRY)
        if issubclass(self._attempt.api_class, CanFindUnmarked):
            return self._hook.find_unmarked(record.snapshot or {}, since, NO_RETRY)
        return self._hook.find_started(self._arguments, record.key, since, NO_RETRY)

    def patiently(self, record: StartRecord) -> Run | None:
        """
        Look for a run, for some minutes where a later look may tell more.

        :param record: what was begun.
        :return: as :meth:`once`, which raises the same.
        """
        if self._until is None:
            self._until = clock.monotonic() + LOOK_SECONDS
        waited = 0.0
        while True:
            try:
                return self.once(record)
            except RunsError as error:
                may_tell = error.may_tell if isinstance(error, Unsure) else not is_permanent(error)
                left = min(self._until - clock.monotonic(), LOOK_SECONDS - waited)
                if not may_tell or self._is_stopped() or left <= 0:
                    raise
                if not waited:
                    self._log.info("%s. Looking again for up to %.0f s", error, left)
                again = waited + (error.retry_after or LOOK_INTERVAL)
            # In short pauses: a task that is told to stop has little time for its last look.
            while waited < again and not self._is_stopped():
                clock.sleep(LOOK_INTERVAL)
                waited += LOOK_INTERVAL

    def settled(self, record: StartRecord) -> Run | None:
        """
        Look for a run whose answer never came, and once more when its request cannot be under way.

        :param record: what was begun.
        :return: as :meth:`once`, which raises the same.
        """
        found = self.patiently(record)
        timeout = self._hook.api.request_timeout
        settled_at = (record.repeated_at or record.started_at) + timeout
        # Another worker's clock wrote the record: its lead must not become a wait.
        wait = min(settled_at - clock.time(), timeout)
        if found is None and wait > 0:
            self._log.info("An earlier try may have started a run; looking for it again in %.0f s", wait)
            clock.sleep(wait)
            found = self.patiently(record)
        return found

    def of_earlier(self, record: StartRecord) -> Run | RunsError | Absent:
        """
        Return what the service says about the run that an earlier try began.

        :param record: what was begun.
        """
        is_lost = record.run_id is None and not record.refused and self._attempt.can_find(record)
        return _said(lambda: self.settled(record) if is_lost else self.of(record))

    def lost(self, record: StartRecord) -> Run | RunsError | Absent:
        """
        Return what the service says about a request that it has not answered as it should.

        :param record: what was begun.
        """
        return _said(lambda: self.patiently(record) if self._attempt.can_find(record) else None)

    def retried(self, record: StartRecord) -> Run | RunsError | Absent:
        """
        Return what the service says about an ended run that it refuses to go on with.

        :param record: what was to be begun.
        """
        return _said(lambda: self.once(record))

    def of(self, record: StartRecord) -> Run | None:
        """
        Return the run of a record, also if the answer to its start was lost; None if it has none.

        :param record: what was begun.
        :raises RunsError: as :meth:`once`.
        """
        if record.refused:
            return None
        if record.run_id is not None:
            return self._hook.get_run(record.run_id)
        if self._attempt.can_find(record) and (found := self.once(record)) is not None:
            return found
        # A run that nobody can cancel is not begun to learn its id.
        can_cancel = issubclass(self._attempt.api_class, CanCancel)
        is_same = record.fingerprint == self._attempt.fingerprint
        if can_cancel and is_same and self._attempt.has_key(record):
            run = self._hook.start(self._arguments, record.key, record.started_at)
            return run if run.id else None
        return None


def _said(look: Callable[[], Run | None]) -> Run | RunsError | Absent:
    """Return what a look for a run has brought, as the table takes it."""
    try:
        return look() or Absent.NO_RUN
    except RunsError as error:
        return error
