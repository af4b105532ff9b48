"""
Wait for many runs of one connection with one task, one client session and one view of outages.

Every trigger of an event loop that waits on the same connection and scope joins the same :class:`Watcher`.
It is an asyncio task of its own, which keeps a heap of the moments at which runs are due, asks about them in
batches where the service can and singly where it cannot, and hands to each waiter what it has to say and how
its wait ended. Waiters write their own log lines, so that each lands in the log of its own task.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from airflow_provider_runs.core.api import CanGetMany, CanListRuns, RunApi
from airflow_provider_runs.core.drive import AsyncDriver, load_libraries
from airflow_provider_runs.core.errors import BadInput, ConnectionFailed, RunsError, is_permanent
from airflow_provider_runs.core.http import Flow
from airflow_provider_runs.core.outcome import Outcome
from airflow_provider_runs.core.progress import Note, Progress, Trouble, Watch
from airflow_provider_runs.core.retry import NO_RETRY, backoff_seconds
from airflow_provider_runs.core.run import Run, RunState, to_wait_for
from airflow_provider_runs.core.schedule import RateCap, next_delay

CONCURRENCY = 8
REREAD_SECONDS = 600.0
REREAD_AGAIN_SECONDS = 30.0
MOST_STALE = 64
"""Limits of waiters that have left which are kept at most, beside as many as there are waiters."""
OUTAGE_AFTER = 3
"""
Requests in a row that must fail before the connection counts as broken; also so many different runs, if there
are as many. One run that the service cannot answer for says nothing about the others.
"""
BACKOFF_BASE = 1.0
BACKOFF_CAP = 30.0
SINGLY = 3
"""Up to so many runs that are due together are asked about singly, where a batch would be no cheaper."""
SOON = 2.0
DRAW_SHARE = 0.2
"""A batch takes along the runs that are due within this share of their interval."""

NONE_YET = Run("", RunState.PENDING, "")
"""Stands for the run of a search that has found none."""

Connect = Callable[[], Awaitable[RunApi]]
Tell = Callable[[Note], None]


class WatcherDied(RunsError):
    """The common task ended by an error; whoever waits may join a new one."""


class Waiter:
    """
    One wait for one run.

    :param progress: what it has seen.
    """

    __slots__ = ("limit", "progress", "queue")

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.limit: float | None = None
        """The limit that is in the heap."""
        self.queue: asyncio.Queue[Note | Outcome | WatcherDied] = asyncio.Queue()


class Watched:
    """
    A run that somebody waits for, or a search for one. It is asked about once for all of them.

    :param run_id: the run, or the name of the search.
    :param search: what a run is searched by that is not known yet.
    """

    __slots__ = ("due", "run_id", "search", "waiters")

    def __init__(self, run_id: str, search: Mapping[str, Any] | None) -> None:
        self.run_id = run_id
        self.search = search
        self.waiters: list[Waiter] = []
        self.due: float | None = None
        """When it is looked at next; None while it is being looked at."""


class Watcher:
    """
    Watch the runs of one connection and scope in one event loop.

    :param connect: reads the connection and returns the service's description for it.
    :param on_close: called when the last waiter has left.
    """

    def __init__(self, connect: Connect, on_close: Callable[[Watcher], None] = lambda watcher: None) -> None:
        self._connect = connect
        self._on_close = on_close
        self._epoch = time.time() - time.monotonic()
        self._runs: dict[str, Watched] = {}
        self._dues: list[tuple[float, int, Watched]] = []
        self._limits: list[tuple[float, int, Waiter]] = []
        self._order = itertools.count()
        self._waiting = 0
        self._ready: deque[Watched] = deque()
        self._alone: deque[Watched] = deque()
        self._searches: deque[Watched] = deque()
        self._searched = False
        """Whether the last request was a search: they and the known runs take turns."""
        self._asking: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._driver: AsyncDriver | None = None
        self._retired: list[AsyncDriver] = []
        self._connecting = asyncio.Lock()
        self._read_at = 0.0
        self._reread = False
        self._cap: RateCap | None = None
        self._failures = 0
        self._failing: set[str] = set()
        """Runs that were asked about in vain since anything was answered."""
        self._failing_since = 0.0
        self._outage: RunsError | None = None
        """Why the connection counts as broken."""
        self._probing_since = 0.0
        self._hold_until = 0.0
        # A fresh context: inherited from the first trigger, the task would write into that trigger's log.
        self._task = asyncio.get_running_loop().create_task(self._watch(), context=contextvars.Context())
        self._task.add_done_callback(self._ended)

    async def wait(self, watch: Watch, service: str, tell: Tell) -> Outcome:
        """
        Wait until a run has ended or the wait has.

        :param watch: what is waited for, and how long.
        :param service: the service's name, for messages.
        :param tell: called, in the caller's own context, with what belongs in its log.
        :raises WatcherDied: if the common task ended by an error.
        """
        waiter = Waiter(Progress(self._on_own_clock(watch), service, self._clock()))
        self._join(waiter)
        try:
            while True:
                said = await waiter.queue.get()
                if isinstance(said, Outcome):
                    return said
                if isinstance(said, WatcherDied):
                    raise said
                tell(said)
        finally:
            await self._leave(waiter)

    def _clock(self) -> float:
        """Return UTC epoch seconds that never go back: a clock set back must not stop the looks."""
        return self._epoch + time.monotonic()

    def _on_own_clock(self, watch: Watch) -> Watch:
        """Return the watch with its moments, which the wall clock of today gave, on this watcher's clock."""
        ahead = self._clock() - time.time()
        moments = {
            name: moment + ahead
            for name in ("started_at", "execution_deadline", "wait_deadline")
            if (moment := getattr(watch, name)) is not None
        }
        return replace(watch, **moments)

    # Who waits

    def _join(self, waiter: Waiter) -> None:
        run_id = waiter.progress.watch.run_id
        watched = self._runs.get(run_id)
        if watched is None:
            watched = self._runs[run_id] = Watched(run_id, waiter.progress.watch.search)
        watched.waiters.append(waiter)
        self._waiting += 1
        if len(watched.waiters) == 1 or watched.due is not None:
            self._look_at(watched, self._clock())
        if self._outage is not None:
            now = self._clock()
            self._settle(waiter, waiter.progress.missed(self._outage, now, since=now))
        self._keep_limit(waiter)
        self._wake.set()
        if self._task.done():
            waiter.queue.put_nowait(WatcherDied("the watcher has ended"))

    async def _leave(self, waiter: Waiter) -> None:
        self._forget(waiter)
        if not self._runs:
            self._on_close(self)
            self._task.cancel()
            for task in self._asking:
                task.cancel()
            await asyncio.gather(self._task, *self._asking, return_exceptions=True)
            await self._close_drivers()

    def _forget(self, waiter: Waiter) -> None:
        run_id = waiter.progress.watch.run_id
        watched = self._runs.get(run_id)
        if watched is not None and waiter in watched.waiters:
            watched.waiters.remove(waiter)
            self._waiting -= 1
            if not watched.waiters:
                del self._runs[run_id]
            if len(self._limits) > 2 * self._waiting + MOST_STALE:
                self._limits = [entry for entry in self._limits if self._waits(entry[2])]
                heapq.heapify(self._limits)

    def _waits(self, waiter: Waiter) -> bool:
        watched = self._runs.get(waiter.progress.watch.run_id)
        return watched is not None and waiter in watched.waiters

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._die("it was cancelled" if task.cancelled() else _named(task.exception()))

    def _die(self, reason: str) -> None:
        """Tell whoever still waits that nobody watches any more."""
        self._on_close(self)
        self._task.cancel()
        for watched in self._runs.values():
            for waiter in watched.waiters:
                waiter.queue.put_nowait(WatcherDied(f"the watcher ended: {reason}"))

    # The loop

    async def _watch(self) -> None:
        while True:
            self._wake.clear()
            now = self._clock()
            self._expire(now)
            self._draw(now)
            self._launch(now)
            moment = self._next_moment()
            try:
                async with asyncio.timeout(None if moment is None else max(0.0, moment - self._clock())):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _next_moment(self) -> float | None:
        moments = [heap[0][0] for heap in (self._dues, self._limits) if heap]
        if (self._ready or self._alone or self._searches) and len(self._asking) < self._concurrency():
            moments.append(self._free_at(self._clock()))
        return min(moments, default=None)

    def _expire(self, now: float) -> None:
        while self._limits and self._limits[0][0] <= now:
            waiter = heapq.heappop(self._limits)[2]
            waiter.limit = None
            if not self._waits(waiter):
                continue
            outcome = waiter.progress.expired(now)
            if outcome is not None:
                self._finish(waiter, outcome)
            else:
                self._keep_limit(waiter, not_before=now + 1.0)

    def _draw(self, now: float) -> None:
        """Move to the queue what is due and, where that makes a batch, what is nearly due."""
        while self._dues and self._dues[0][0] <= now:
            self._take_due()
        if not self._ready or self._driver is None or not isinstance(self._driver.api, CanGetMany):
            return
        nearly: list[tuple[float, int, Watched]] = []
        searches: list[tuple[float, int, Watched]] = []
        while self._dues:
            due, _, watched = self._dues[0]
            is_next = watched.due == due and self._runs.get(watched.run_id) is watched
            if is_next and due - now > DRAW_SHARE * self._delay(watched, now):
                break
            entry = heapq.heappop(self._dues)
            if is_next and watched.search is None:
                nearly.append(entry)
            elif is_next:
                searches.append(entry)
        # Looks that are spread over the interval meet only if what is not yet due counts too.
        if len(self._ready) + len(nearly) > SINGLY:
            for _, _, watched in nearly:
                watched.due = None
                self._ready.append(watched)
        else:
            searches += nearly
        for entry in searches:
            heapq.heappush(self._dues, entry)

    def _take_due(self) -> None:
        due, _, watched = heapq.heappop(self._dues)
        if watched.due == due and self._runs.get(watched.run_id) is watched:
            watched.due = None
            (self._ready if watched.search is None else self._searches).append(watched)

    def _launch(self, now: float) -> None:
        while len(self._asking) < self._concurrency() and self._free_at(now) <= now:
            batch = self._next_batch()
            if not batch:
                return
            if self._cap is not None:
                self._cap.take(now)
            task = asyncio.get_running_loop().create_task(self._ask(batch), context=contextvars.Context())
            self._asking.add(task)
            task.add_done_callback(self._asked)

    def _next_batch(self) -> list[Watched]:
        api = self._driver.api if self._driver else None
        size = 1
        if isinstance(api, CanGetMany) and len(self._ready) > SINGLY and not (self._outage or self._alone):
            size = api.batch_size
        queue = self._alone or self._ready
        if self._searches and not (queue and self._searched):
            queue, size = self._searches, 1
        self._searched = queue is self._searches
        batch: list[Watched] = []
        while queue and len(batch) < size:
            watched = queue.popleft()
            if self._runs.get(watched.run_id) is watched:
                batch.append(watched)
        return batch

    def _concurrency(self) -> int:
        """Return how many requests may be under way: one until the connection is known to work."""
        return 1 if self._outage or self._driver is None else CONCURRENCY

    def _free_at(self, now: float) -> float:
        free = self._cap.free_at(now) if self._cap is not None else now
        return max(free, self._hold_until)

    # Asking

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        self._wake.set()
        if task.cancelled():
            self._die("a look was cancelled")
        elif (error := task.exception()) is not None:
            self._die(_named(error))

    async def _ask(self, batch: list[Watched]) -> None:
        answers: dict[str, Run | Exception] = {}
        driver: AsyncDriver | None = None
        run_ids = [watched.run_id for watched in batch]
        began = self._clock()
        try:
            driver = await self._connected()
            if len(batch) > 1 and isinstance(driver.api, CanGetMany):
                answers = await driver.drive(driver.api.get_many(run_ids), NO_RETRY)
            else:
                answers[run_ids[0]] = await driver.drive(_look(driver.api, batch[0]), NO_RETRY)
        except Exception as error:
            known = _as_known(error, driver)
            # One bad id may spoil a batch for all: ask again singly.
            if len(batch) == 1 or not is_permanent(known):
                self._fail(run_ids, known, began)
                answers = dict.fromkeys(run_ids, known)
        now = self._clock()
        for watched in batch:
            answer = answers.get(watched.run_id)
            if answer is None:
                self._alone.append(watched)
            elif isinstance(answer, Run):
                self._saw(watched, answer, now)
            else:
                self._missed(watched, _as_known(answer, driver), now)

    def _saw(self, watched: Watched, run: Run, now: float) -> None:
        self._recover(now)
        for waiter in tuple(watched.waiters):
            progress = waiter.progress
            self._settle(waiter, progress.found_none(now) if run is NONE_YET else progress.saw(run, now))
        self._look_at(watched, now + self._delay(watched, now))

    def _missed(self, watched: Watched, error: RunsError, now: float) -> None:
        if Trouble.of(error) is Trouble.REFUSED:
            self._reread = True
        for waiter in tuple(watched.waiters):
            self._settle(waiter, waiter.progress.missed(error, now))
        failures = max((waiter.progress.failures for waiter in watched.waiters), default=1)
        longest = max(
            (waiter.progress.watch.poll_interval for waiter in watched.waiters), default=BACKOFF_CAP
        )
        wait = backoff_seconds(failures, BACKOFF_BASE, min(BACKOFF_CAP, longest))
        self._look_at(watched, now + wait)

    def _fail(self, run_ids: list[str], error: RunsError, began: float) -> None:
        """Count a request in vain; after a few in a row, probe the connection with one run at a time."""
        if Trouble.of(error) is Trouble.NOT_FOUND:
            return
        now = self._clock()
        if self._failures == 0:
            self._failing_since = now
        # Requests that one cut has hit together are one failure: only a probe makes the next one wait longer.
        if self._outage is None or began >= self._probing_since:
            self._failures += 1
        self._failing.update(run_ids)
        pause = error.retry_after or 0.0
        widespread = len(self._failing) >= min(OUTAGE_AFTER, len(self._runs))
        if self._failures >= OUTAGE_AFTER and widespread:
            pause = max(pause, backoff_seconds(self._failures - OUTAGE_AFTER + 1, BACKOFF_BASE, BACKOFF_CAP))
            if self._outage is None:
                self._outage, self._probing_since = error, now
                for watched in tuple(self._runs.values()):
                    for waiter in tuple(watched.waiters):
                        if not waiter.progress.told:
                            outcome = waiter.progress.missed(error, now, since=self._failing_since)
                            self._settle(waiter, outcome)
        self._hold_until = max(self._hold_until, now + pause)

    def _recover(self, now: float) -> None:
        """Note that the connection works. After an outage nobody is asked about at once with all others."""
        self._failures = 0
        self._failing.clear()
        if self._outage is None:
            return
        self._outage = None
        self._hold_until = now
        self._reread = True
        for watched in tuple(self._runs.values()):
            spread = self._delay(watched, now)
            for waiter in tuple(watched.waiters):
                if waiter.progress.failures:
                    # Only its own answer shows that this run can be asked about: look soon.
                    spread = min(spread, SOON)
                else:
                    waiter.progress.answered(now)
                    self._settle(waiter, None)
            if watched.due is not None:
                self._look_at(watched, now + random.random() * spread)

    def _settle(self, waiter: Waiter, outcome: Outcome | None) -> None:
        for note in waiter.progress.take_notes():
            waiter.queue.put_nowait(note)
        if outcome is not None:
            self._finish(waiter, outcome)
        else:
            self._keep_limit(waiter)

    def _finish(self, waiter: Waiter, outcome: Outcome) -> None:
        waiter.queue.put_nowait(outcome)
        self._forget(waiter)

    # When

    def _delay(self, watched: Watched, now: float) -> float:
        chance = random.random()
        return min(
            (
                next_delay(
                    now - waiter.progress.started_at,
                    waiter.progress.watch.min_poll_interval,
                    waiter.progress.watch.poll_interval,
                    chance,
                )
                for waiter in watched.waiters
            ),
            default=0.0,
        )

    def _look_at(self, watched: Watched, moment: float) -> None:
        """Have a run looked at at a moment, or at its deadline if that is earlier."""
        if self._runs.get(watched.run_id) is not watched:
            return
        now = self._clock()
        for waiter in watched.waiters:
            deadline = waiter.progress.deadline()
            if deadline is not None and now < deadline < moment:
                moment = deadline
        watched.due = moment
        heapq.heappush(self._dues, (moment, next(self._order), watched))
        self._wake.set()

    def _keep_limit(self, waiter: Waiter, not_before: float = 0.0) -> None:
        moment = waiter.progress.limit_at()
        if moment is not None and (waiter.limit is None or moment < waiter.limit):
            waiter.limit = max(moment, not_before)
            heapq.heappush(self._limits, (waiter.limit, next(self._order), waiter))

    # The connection

    async def _connected(self) -> AsyncDriver:
        """Return the driver, after reading the connection again where it may have changed."""
        async with self._connecting:
            now = self._clock()
            if self._driver is not None and not self._reread and now - self._read_at < REREAD_SECONDS:
                return self._driver
            try:
                if self._driver is None:
                    await asyncio.to_thread(load_libraries)
                api = await self._connect()
            except Exception:
                if self._driver is None:
                    raise
                self._read_at, self._reread = now - REREAD_SECONDS + REREAD_AGAIN_SECONDS, False
                return self._driver
            self._read_at, self._reread = now, False
            if self._driver is None or self._driver.api.settings != api.settings:
                if self._driver is not None:
                    self._retired.append(self._driver)
                self._driver = AsyncDriver(api)
                self._cap = RateCap(api.max_requests_per_minute)
            return self._driver

    async def _close_drivers(self) -> None:
        for driver in (*self._retired, *([self._driver] if self._driver else [])):
            await driver.close()
        self._driver, self._retired = None, []


def _look(api: RunApi, watched: Watched) -> Flow[Run]:
    """Return the flow that asks about one run, or that searches for one."""
    if watched.search is None:
        return api.get(watched.run_id)
    return search_for_run(api, watched.search)


def search_for_run(api: RunApi, search: Mapping[str, Any]) -> Flow[Run]:
    """
    Look for the run that somebody depends on.

    :param api: the service's description.
    :param search: the service's own filters, and ``since`` (UTC epoch seconds).
    :return: the run, :data:`NONE_YET` where there is none.
    :raises BadInput: if the service cannot list runs, or a filter is wrong.
    """
    if not isinstance(api, CanListRuns):
        raise BadInput(f"{api.service} cannot list runs; give a run id")
    filters = {name: value for name, value in search.items() if name != "since"}
    runs = yield from api.list_runs(filters, since=search["since"])
    return to_wait_for(runs) or NONE_YET


def _as_known(error: Exception, driver: AsyncDriver | None) -> RunsError:
    """Return the error as one of ours: whatever it is, the run could not be asked about."""
    if isinstance(error, RunsError):
        return error
    text = _named(error) if driver is None else driver.api.redact(_named(error))
    return ConnectionFailed(f"unexpected error: {text}", sent=True)


def _named(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}"


_watchers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, Watcher]] = WeakKeyDictionary()


async def wait_for_run(key: Hashable, connect: Connect, watch: Watch, service: str, tell: Tell) -> Outcome:
    """
    Wait for a run together with all others in this event loop that have the same key.

    :param key: the connection and scope.
    :param connect: reads the connection and returns the service's description for it.
    :param watch: what is waited for, and how long.
    :param service: the service's name, for messages.
    :param tell: called, in the caller's own context, with what belongs in its log.
    """
    died: WatcherDied | None = None
    for _ in range(2):
        try:
            return await _join(key, connect).wait(watch, service, tell)
        except WatcherDied as error:
            died = error
    assert died is not None
    raise died


def _join(key: Hashable, connect: Connect) -> Watcher:
    watchers = _watchers.setdefault(asyncio.get_running_loop(), {})
    watcher = watchers.get(key)
    if watcher is None:

        def forget(closed: Watcher) -> None:
            if watchers.get(key) is closed:
                del watchers[key]

        watcher = watchers[key] = Watcher(connect, forget)
    return watcher
