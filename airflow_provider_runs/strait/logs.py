"""Follow what a job logs and how far it is into the task's log, while the task waits on the worker."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from typing import Any

from airflow_provider_runs.base.hook import RunHook
from airflow_provider_runs.base.logs import LogFollower
from airflow_provider_runs.core.drivers import AsyncDriver, load_libraries
from airflow_provider_runs.core.errors import ApiError, RunsError, is_permanent
from airflow_provider_runs.core.retry import NO_RETRY, backoff_seconds
from airflow_provider_runs.core.sse import Event
from airflow_provider_runs.core.turns import Turn
from airflow_provider_runs.strait.hooks import as_strait
from airflow_provider_runs.strait.lists import PAGE
from airflow_provider_runs.strait.streams import Events

GONE = 410
"""HTTP status by which Strait says that the run has ended."""
LASTING = 60.0
"""Seconds after which a stream counts as one that works."""
LISTENS_AFTER = 2.0
"""Seconds after which the service surely passes on what happens, once it has opened the stream."""
PAUSE_BASE = 1.0
PAUSE_CAP = 30.0
LAST_LOOKS = 3
LAST_PAUSE = 1.0


class EventFollower(LogFollower):
    """
    Write the progress and the log events of a run into a log, as they happen.

    They come through the run's stream. What was written before it was open, or while it was not, is listed;
    so is everything where the service does not stream.

    :param hook: the service.
    :param run_id: the run.
    :param log: where to write.
    """

    what = "events"

    def __init__(self, hook: RunHook, run_id: str, log: Any) -> None:
        super().__init__(hook, run_id, log)
        self._events = Events(hook.api.redact)
        self._early: list[Event] | None = None
        """What has come through the stream before the list that it is compared with; None: that is done."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()
        self._page_is_full = False
        self._has_lost = False

    def _wake_up(self) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the thread has just ended
                self._loop.call_soon_threadsafe(self._woken.set)

    def _follow(self) -> None:
        try:
            load_libraries()
            asyncio.run(self._follow_to_the_end(AsyncDriver(self._hook.api)))
        except Exception as error:
            self._complain(error)

    async def _follow_to_the_end(self, driver: AsyncDriver) -> None:
        self._loop = asyncio.get_running_loop()
        if self._run_has_ended or self._stopped:
            self._woken.set()
        following = asyncio.create_task(self._follow_stream(driver))
        waking = asyncio.create_task(self._woken.wait())
        try:
            await asyncio.wait({following, waking}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
                await waking
            following.cancel()
            await asyncio.wait({following})
            await self._write_rest(driver)
        finally:
            for task in (following, waking):
                task.cancel()
            await asyncio.gather(following, waking, return_exceptions=True)
            await driver.close()

    async def _follow_stream(self, driver: AsyncDriver) -> None:
        """Read one stream after the other; list where there is none."""
        failures, streams = 0, True
        while self._left:
            began = self._now()
            try:
                if streams:
                    await self._read_stream(driver)
                error: RunsError | None = None
            except RunsError as failed:
                error = failed
            if isinstance(error, ApiError) and error.status == GONE:
                return
            self._has_lost = True
            failures = 1 if self._now() - began >= LASTING else failures + 1
            if error is not None and is_permanent(error):
                streams = False
            await self._list(driver)
            wish = (error.retry_after if error is not None else None) or 0.0
            await asyncio.sleep(max(wish, backoff_seconds(failures, PAUSE_BASE, PAUSE_CAP)))

    async def _read_stream(self, driver: AsyncDriver) -> None:
        first = asyncio.Event()
        listing: list[asyncio.Task[None]] = []

        async def catch_up() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(LISTENS_AFTER):
                    await first.wait()
            await self._list(driver)
            await asyncio.sleep(LISTENS_AFTER)
            self._events.settle()

        def opened() -> None:
            listing.append(asyncio.create_task(catch_up()))

        self._early = self._early or []
        request = as_strait(driver.api).stream_request(self._run_id)
        try:
            async with aclosing(driver.stream_events(request, opened=opened)) as frames:
                async for frame in frames:
                    first.set()
                    if isinstance(frame, Event):
                        self._take(frame)
                    if not self._left:
                        return
        finally:
            for task in listing:
                task.cancel()
            await asyncio.gather(*listing, return_exceptions=True)

    def _take(self, event: Event) -> None:
        if self._early is not None:
            if len(self._early) < self._left:
                self._early.append(event)
        elif (line := self._events.come(event)) is not None:
            self._write_line(line)

    async def _list(self, driver: AsyncDriver) -> bool:
        """Write what is listed and not known, and then what has come meanwhile. Tell whether that worked."""
        try:
            events = as_strait(driver.api).list_events(self._run_id)
            rows = await driver.drive(events, NO_RETRY, Turn.POLL)
        except Exception as error:
            self._complain(error)
            has_worked = False
        else:
            has_worked, self._page_is_full = True, len(rows) >= PAGE
            for line in self._events.listed(rows):
                self._write_line(line)
        early, self._early = self._early or [], None
        for event in early:
            self._take(event)
        return has_worked

    async def _write_rest(self, driver: AsyncDriver) -> None:
        """Write what the stream has not brought before the run ended."""
        for look in range(LAST_LOOKS):
            if self._stopped or not self._left or await self._list(driver):
                break
            if look + 1 < LAST_LOOKS:
                await asyncio.sleep(LAST_PAUSE)
        if self._page_is_full and self._has_lost:
            self._say("Strait lists the first %s events only; some may be missing here", PAGE)

    def _write_line(self, line: str) -> None:
        head, _, text = line.partition("| ")
        self._write(f"{head}|", text or " ")

    def _now(self) -> float:
        assert self._loop is not None
        return self._loop.time()
