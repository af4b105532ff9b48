"""
Streams in which a service tells that something has happened to a watched run.

What comes is a hint to ask now, never an answer: services leave changes out of their streams and lose some.
So a stream that is refused, breaks off or falls silent costs nothing but time, and nobody is told of it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from contextlib import aclosing

from airflow_provider_runs.core.api import CanStream
from airflow_provider_runs.core.drivers import AsyncDriver
from airflow_provider_runs.core.errors import ApiError, RunsError
from airflow_provider_runs.core.retry import backoff_seconds
from airflow_provider_runs.core.sse import Event, Retry

log = logging.getLogger(__name__)

OPENING = 8
"""Streams that are being opened at once at most."""
GONE = 410
"""HTTP status by which a service says that the run has ended."""
REFUSED_BASE = 15.0
"""
Seconds without a further attempt after a stream was refused, or ended before anything came through it, as
where a proxy holds everything back; doubled each further time.
"""
REFUSED_CAP = 900.0
BROKEN_BASE = 1.0
"""Seconds until a stream that was open is opened again; doubled each time if it does not last."""
BROKEN_CAP = 60.0
LASTING = 60.0
"""Seconds after which a stream counts as one that works."""


class _Stream:
    """A run whose stream is or shall be open."""

    __slots__ = ("failures", "has_opened", "is_alive", "ready_at", "run_id", "started_at", "task", "wish")

    def __init__(self, run_id: str, started_at: float, now: float) -> None:
        self.run_id = run_id
        self.started_at = started_at
        self.task: asyncio.Task[None] | None = None
        self.has_opened = False
        self.is_alive = False
        """Whether something has come: only that shows that nothing on the way holds it back."""
        self.failures = 0
        self.ready_at = now
        self.wish = 0.0
        """Seconds that the service wants to have between two streams."""


class Streams:
    """
    Keep streams of runs open, as many as the connection allows, those of the youngest runs first.

    A young run is more likely to end soon than an old one, and is asked about more often without a stream.
    No stream is closed for that of a younger run.

    :param driver: the service; its description can stream and allows streams.
    :param clock: returns the time in seconds.
    :param hint: called with a run's id when it should be asked about now.
    :param changed: called with a run's id when its stream is no longer there.
    """

    def __init__(
        self,
        driver: AsyncDriver,
        clock: Callable[[], float],
        hint: Callable[[str], None],
        changed: Callable[[str], None],
    ) -> None:
        assert isinstance(driver.api, CanStream)
        self._api: CanStream = driver.api
        self._service = driver.api.service
        self._driver = driver
        self._clock = clock
        self._hint = hint
        self._changed = changed
        self._known: dict[str, _Stream] = {}
        self._idle: set[_Stream] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening = 0
        self._unproven = 0
        """Streams through which nothing has come yet."""
        self._refusals = 0
        self._refused_at = float("-inf")
        self._not_before = float("-inf")

    def add(self, run_id: str, started_at: float) -> None:
        """
        Take a run that goes into account.

        :param run_id: the run.
        :param started_at: when it was started, on the clock.
        """
        if run_id not in self._known:
            stream = self._known[run_id] = _Stream(run_id, started_at, self._clock())
            self._idle.add(stream)

    def drop(self, run_id: str) -> None:
        """
        Close the stream of a run for which nobody waits any longer.

        :param run_id: the run.
        """
        stream = self._known.pop(run_id, None)
        if stream is not None:
            self._idle.discard(stream)
            if stream.task is not None:
                stream.task.cancel()

    def covers(self, run_id: str) -> bool:
        """
        Tell whether a run has a stream that works.

        :param run_id: the run.
        """
        stream = self._known.get(run_id)
        return stream is not None and stream.is_alive

    def next_at(self) -> float | None:
        """Return when a stream may be opened; None while there is none to open, or no room for it."""
        is_full = self._unproven > 0 if self._refusals else self._opening >= OPENING
        if not self._idle or is_full or len(self._tasks) >= self._api.max_streams:
            return None
        return max(self._not_before, min(stream.ready_at for stream in self._idle))

    def open_next(self, now: float) -> None:
        """
        Open the stream whose turn it is, which :meth:`next_at` has shown to be there.

        :param now: the clock's time.
        """
        ready = [stream for stream in self._idle if stream.ready_at <= now]
        stream = max(ready, key=lambda each: each.started_at)
        self._idle.discard(stream)
        self._opening += 1
        self._unproven += 1
        stream.has_opened = False
        # A fresh context: inherited from a trigger, the task would write into that trigger's log.
        stream.task = asyncio.get_running_loop().create_task(
            self._follow(stream), context=contextvars.Context()
        )
        self._tasks.add(stream.task)
        stream.task.add_done_callback(lambda task: self._ended(stream, task))

    async def close(self) -> None:
        """Close all streams."""
        for run_id in tuple(self._known):
            self.drop(run_id)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, stream: _Stream) -> None:
        """Read a stream to its end and judge when the run may have another."""
        began = self._clock()
        try:
            await self._read(stream)
            error: Exception | None = None
        except Exception as failed:
            error = failed
            told = failed if isinstance(failed, RunsError) else type(failed).__name__
            log.debug("No stream of %s run %s: %s", self._service, stream.run_id, told)
        now = self._clock()
        if isinstance(error, ApiError) and error.status == GONE:
            stream.ready_at = float("inf")
            self._hint(stream.run_id)
        elif stream.is_alive:
            stream.failures = 1 if now - began >= LASTING else stream.failures + 1
            stream.ready_at = now + max(
                stream.wish, backoff_seconds(stream.failures, BROKEN_BASE, BROKEN_CAP)
            )
        else:
            stream.failures += 1
            self._refuse(began, now, getattr(error, "retry_after", None) or 0.0)
            # After the common pause it is the others' turn.
            stream.ready_at = self._not_before + backoff_seconds(stream.failures, REFUSED_BASE, REFUSED_CAP)

    async def _read(self, stream: _Stream) -> None:
        def opened() -> None:
            stream.has_opened = True
            self._opening -= 1
            # What happened before is in no stream.
            self._hint(stream.run_id)

        request = self._api.stream_request(stream.run_id)
        async with aclosing(self._driver.stream_events(request, opened=opened)) as frames:
            async for frame in frames:
                if not stream.is_alive:
                    stream.is_alive = True
                    self._unproven -= 1
                    self._refusals = 0
                if isinstance(frame, Retry):
                    stream.wish = min(frame.seconds, REFUSED_CAP)
                elif isinstance(frame, Event) and self._api.is_news(frame):
                    self._hint(stream.run_id)

    def _refuse(self, began: float, now: float, wish: float) -> None:
        """Open no stream at all for a while. What was refused together counts once."""
        if began >= self._refused_at:
            self._refusals += 1
            self._refused_at = now
        pause = max(wish, backoff_seconds(self._refusals, REFUSED_BASE, REFUSED_CAP))
        self._not_before = max(self._not_before, now + pause)

    def _ended(self, stream: _Stream, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not stream.has_opened:
            self._opening -= 1
        if not stream.is_alive:
            self._unproven -= 1
        stream.task, stream.is_alive = None, False
        if self._known.get(stream.run_id) is stream and stream.ready_at < float("inf"):
            self._idle.add(stream)
        self._changed(stream.run_id)
