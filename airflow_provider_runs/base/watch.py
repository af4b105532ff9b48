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
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

from airflow_provider_runs.base.turns import Turn, arun_flow, limiter_of
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import CanGetMany, CanListRuns, RunApi
from airflow_provider_runs.core.drivers import AsyncDriver, load_libraries
from airflow_provider_runs.core.errors import BadInput, ConnectionFailed, RunsError, is_permanent
from airflow_provider_runs.core.http import Flow
from airflow_provider_runs.core.limiter import RateLimiter
from airflow_provider_runs.core.outcome import Outcome
from airflow_provider_runs.core.progress import Note, Progress, Trouble, Watch
from airflow_provider_runs.core.retry import NO_RETRY, backoff_seconds
from airflow_provider_runs.core.run import Run, RunState, to_wait_for
from airflow_provider_runs.core.schedule import AGE_SHARE, next_delay

CONCURRENCY = 8
"""Requests that may be under way for a connection; more where there are many runs: see below."""
RUNS_PER_REQUEST = 100
"""Runs that add one more to :data:`CONCURRENCY`, so that a look at all of them does not take for ever."""
MOST_CONCURRENCY = 64
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
TOLD_AT_ONCE = 20
"""Waits that are told of an outage in one turn of the event loop: each writes into its task's log."""
READ_AT_ONCE = 100
"""Answers of a batch that are dealt with in one turn of the event loop."""
JOINED_AT_ONCE = 1000
"""Waiters of a list that join in one turn of the event loop."""
SINGLY = 3
"""Up to so many runs that are due together are asked about singly, where a batch would be no cheaper."""
GATHER_SECONDS = 0.25
"""Seconds that the first look at a run waits for others that come one by one and share its request."""
SOON = 2.0
"""Seconds within which a run is looked at again whose own answers failed in an outage that is over."""
RECOVERY_GAP = 0.1
"""Seconds between the looks at two runs after an outage, where their intervals are not over sooner."""

NONE_YET = Run("", RunState.PENDING, "")
"""Stands for the run of a search that has found none."""

T = TypeVar("T")
P = TypeVar("P", bound=Progress)
Connect = Callable[[], Awaitable[RunApi]]
Tell = Callable[[Note], None]


class WatcherDied(RunsError):
    """The common task ended by an error; whoever waits may join a new one."""


Said = Note | Outcome | WatcherDied


class Listener(Protocol):
    """What a waiter hears with: a queue, or something else that has its method."""

    def put_nowait(self, said: Said, /) -> None:
        """
        Take what there is to say. Must not raise.

        :param said: a line for the log, how the wait ended, or that nobody watches any more.
        """


class Waiter:
    """
    One wait for one run.

    :param progress: what it has seen.
    :param queue: takes what there is to say.
    """

    __slots__ = ("limit", "progress", "queue")

    def __init__(self, progress: Progress, queue: Listener) -> None:
        self.progress = progress
        self.limit: float | None = None
        """The limit that is in the heap."""
        self.queue = queue


class Watched:
    """
    A run that somebody waits for, or a search for one. It is asked about once for all of them.

    :param run_id: the run, or the name of the search.
    :param search: what a run is searched by that is not known yet.
    """

    __slots__ = ("due", "run_id", "search", "waiters", "was_answered")

    def __init__(self, run_id: str, search: Mapping[str, Any] | None) -> None:
        self.run_id = run_id
        self.search = search
        self.waiters: list[Waiter] = []
        self.due: float | None = None
        """When it is looked at next; None while it is being looked at."""
        self.was_answered = False
        """Whether the service has said anything about it."""


class Watcher:
    """
    Watch the runs of one connection and scope in one event loop.

    :param connect: reads the connection and returns the service's description for it.
    :param on_close: called when the last waiter has left.
    """

    def __init__(self, connect: Connect, on_close: Callable[[Watcher], None] = lambda watcher: None) -> None:
        self._connect = connect
        self._on_close = on_close
        self._epoch = clock.time() - clock.monotonic()
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
        self._sleeps_until = 0.0
        """Until when the loop sleeps if nobody wakes it."""
        self._driver: AsyncDriver | None = None
        self._retired: list[AsyncDriver] = []
        self._connecting = asyncio.Lock()
        self._read_at = 0.0
        self._reread = False
        self._limiter: RateLimiter | None = None
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
        queue: asyncio.Queue[Said] = asyncio.Queue()
        waiter = Waiter(self.follow(watch, service), queue)
        self._join(waiter, gathers=True)
        try:
            while True:
                said = await queue.get()
                if isinstance(said, Outcome):
                    return said
                if isinstance(said, WatcherDied):
                    raise said
                tell(said)
        finally:
            await self._leave([waiter])

    def follow(self, watch: Watch, service: str, kind: type[P] = Progress) -> P:  # type: ignore[assignment]
        """
        Return what follows a wait on this watcher's clock.

        :param watch: what is waited for, and how long.
        :param service: the service's name, for messages.
        :param kind: what follows it.
        """
        return kind(self._on_own_clock(watch), service, self._clock())

    @asynccontextmanager
    async def joined(self, waiters: Sequence[Waiter]) -> AsyncIterator[None]:
        """
        Watch for many waiters while the context is open.

        :param waiters: who waits; each hears by its own listener.
        """
        try:
            if self._driver is None:
                # Through a known connection the first request is a batch. A failure shows at that request.
                with suppress(Exception):
                    await self._connected()
            for number, waiter in enumerate(waiters, start=1):
                self._join(waiter)
                if number % JOINED_AT_ONCE == 0:
                    await asyncio.sleep(0)
            yield
        finally:
            await self._leave(waiters)

    def _clock(self) -> float:
        """Return UTC epoch seconds that never go back: a clock set back must not stop the looks."""
        return self._epoch + clock.monotonic()

    def _on_own_clock(self, watch: Watch) -> Watch:
        """Return the watch with its moments, which the wall clock of today gave, on this watcher's clock."""
        ahead = self._clock() - clock.time()
        moments = {
            name: moment + ahead
            for name in ("started_at", "execution_deadline", "wait_deadline")
            if (moment := getattr(watch, name)) is not None
        }
        return replace(watch, **moments)

    # Who waits

    def _join(self, waiter: Waiter, *, gathers: bool = False) -> None:
        run_id = waiter.progress.watch.run_id
        watched = self._runs.get(run_id)
        if watched is None:
            watched = self._runs[run_id] = Watched(run_id, waiter.progress.watch.search)
        watched.waiters.append(waiter)
        self._waiting += 1
        if len(watched.waiters) == 1 or watched.due is not None:
            moment = self._first_look_at(waiter.progress, gathers)
            self._look_at(watched, moment if watched.due is None else min(moment, watched.due))
        if self._outage is not None:
            now = self._clock()
            self._settle(waiter, waiter.progress.missed(self._outage, now, since=now))
        self._keep_limit(waiter)
        if self._task.done():
            waiter.queue.put_nowait(WatcherDied("the watcher has ended"))

    def _first_look_at(self, progress: Progress, gathers: bool) -> float:
        """Return when a run is looked at first: its start was as good as a look, if another waits already."""
        now = self._clock()
        watch = progress.watch
        if len(self._runs) == 1:
            return now
        if gathers and self._driver is not None and isinstance(self._driver.api, CanGetMany):
            # Airflow starts triggers one by one, thousands after a restart.
            now += GATHER_SECONDS
        if watch.started_at is None:
            return now
        return max(now, progress.started_at + min(watch.min_poll_interval, watch.poll_interval))

    async def _leave(self, waiters: Iterable[Waiter]) -> None:
        for waiter in waiters:
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
                self._limits = [
                    entry for entry in self._limits if entry[2].limit == entry[0] and self._waits(entry[2])
                ]
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
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            now = self._clock()
            self._expire(now)
            self._draw(now)
            self._launch(now)
            self._sleeps_until = self._next_moment()
            timer = None
            if self._sleeps_until < math.inf:
                timer = loop.call_later(max(0.0, self._sleeps_until - self._clock()), self._wake.set)
            await self._wake.wait()
            if timer is not None:
                timer.cancel()

    def _wake_for(self, moment: float) -> None:
        """Have the loop go on at a moment, which it may not know of."""
        if moment < self._sleeps_until:
            self._wake.set()

    def _next_moment(self) -> float:
        moments = [heap[0][0] for heap in (self._dues, self._limits) if heap]
        if (self._ready or self._alone or self._searches) and len(self._asking) < self._concurrency():
            moments.append(self._free_at(self._clock()))
        return min(moments, default=math.inf)

    def _expire(self, now: float) -> None:
        while self._limits and self._limits[0][0] <= now:
            moment, _, waiter = heapq.heappop(self._limits)
            if waiter.limit != moment or not self._waits(waiter):
                continue
            waiter.limit = None
            outcome = waiter.progress.expired(now)
            if outcome is not None:
                self._finish(waiter, outcome)
            else:
                self._keep_limit(waiter, not_before=now + 1.0)

    def _draw(self, now: float) -> None:
        """Move to the queue what is due and, where that makes a batch, what is nearly due."""
        drawn: list[Watched] = []
        while self._dues and self._dues[0][0] <= now:
            self._take_due(drawn)
        api = self._driver.api if self._driver else None
        if isinstance(api, CanGetMany):
            if self._ready or drawn:
                self._draw_early(drawn, now, api.draw_share)
            # Services list runs in the order of their ids: a batch of neighbours needs less of the list.
            drawn.sort(key=lambda watched: watched.run_id)
        self._ready += drawn

    def _draw_early(self, drawn: list[Watched], now: float, share: float) -> None:
        nearly: list[tuple[float, int, Watched]] = []
        searches: list[tuple[float, int, Watched]] = []
        while self._dues:
            due, _, watched = self._dues[0]
            is_next = watched.due == due and self._runs.get(watched.run_id) is watched
            if is_next and due - now > share * self._delay(watched, now):
                break
            entry = heapq.heappop(self._dues)
            if is_next:
                (nearly if watched.search is None else searches).append(entry)
                watched.due = None  # so that the same entry again is not the next one
        # Looks that are spread over the interval meet only if what is not yet due counts too.
        if len(self._ready) + len(drawn) + len(nearly) > SINGLY:
            drawn += (watched for _, _, watched in nearly)
        else:
            searches += nearly
        for entry in searches:
            entry[2].due = entry[0]
            heapq.heappush(self._dues, entry)

    def _take_due(self, drawn: list[Watched]) -> None:
        due, _, watched = heapq.heappop(self._dues)
        if watched.due == due and self._runs.get(watched.run_id) is watched:
            watched.due = None
            (drawn if watched.search is None else self._searches).append(watched)

    def _launch(self, now: float) -> None:
        while len(self._asking) < self._concurrency() and self._free_at(now) <= now:
            if not (self._ready or self._alone or self._searches):
                return
            has_slot = self._limiter is not None and self._limiter.acquire(clock.monotonic())
            if self._limiter is not None and not has_slot:
                return  # another scope or loop of the connection was quicker
            batch = self._next_batch()
            if not batch:
                return
            asking = self._ask(batch, has_slot)
            task = asyncio.get_running_loop().create_task(asking, context=contextvars.Context())
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
        if self._outage or self._driver is None:
            return 1
        return min(CONCURRENCY + len(self._runs) // RUNS_PER_REQUEST, MOST_CONCURRENCY)

    def _free_at(self, now: float) -> float:
        """Return when a poll may leave, as far as is known now."""
        if self._limiter is None:
            return max(now, self._hold_until)
        return max(self._limiter.available_at(clock.monotonic()) + self._epoch, self._hold_until)

    # Asking

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        if self._ready or self._alone or self._searches:
            self._wake.set()
        if task.cancelled():
            self._die("a look was cancelled")
        elif (error := task.exception()) is not None:
            self._die(_named(error))

    async def _ask(self, batch: list[Watched], has_slot: bool) -> None:
        answers: dict[str, Run | Exception] = {}
        driver: AsyncDriver | None = None
        run_ids = [watched.run_id for watched in batch]
        began = self._clock()
        try:
            driver = await self._connected()
            if len(batch) > 1 and isinstance(driver.api, CanGetMany):
                many = driver.api.get_many(run_ids)
                answers = await arun_flow(driver, many, NO_RETRY, Turn.POLL, has_slot=has_slot)
            else:
                one = _look(driver.api, batch[0])
                answers[run_ids[0]] = await arun_flow(driver, one, NO_RETRY, Turn.POLL, has_slot=has_slot)
        except Exception as error:
            known = _as_known(error, driver)
            # One bad id may spoil a batch for all: ask again singly.
            if len(batch) == 1 or not is_permanent(known):
                await self._fail(run_ids, known, began)
                answers = dict.fromkeys(run_ids, known)
        now = self._clock()
        for number, watched in enumerate(batch, start=1):
            if number % READ_AT_ONCE == 0:
                await asyncio.sleep(0)
            answer = answers.get(watched.run_id)
            if answer is None:
                self._alone.append(watched)
            elif isinstance(answer, Run):
                await self._saw(watched, answer, began, now)
            else:
                self._missed(watched, _as_known(answer, driver), now)

    async def _saw(self, watched: Watched, run: Run, began: float, now: float) -> None:
        await self._recover(now)
        is_first = not watched.was_answered and all(_is_old(waiter, now) for waiter in watched.waiters)
        watched.was_answered = True
        for waiter in tuple(watched.waiters):
            progress = waiter.progress
            self._settle(waiter, progress.found_none(now) if run is NONE_YET else progress.saw(run, now))
        delay = self._delay(watched, now)
        if is_first:
            # Those that joined together, as after a restart, must not go on being due together.
            shortest = min((waiter.progress.watch.min_poll_interval for waiter in watched.waiters), default=0)
            delay = max(min(delay, shortest), delay * random.random())
        # From look to look, however long the service thinks; but it must not be asked without a pause.
        self._look_at(watched, max(began + delay, now + delay / 2))

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

    async def _fail(self, run_ids: list[str], error: RunsError, began: float) -> None:
        """Count a request in vain; after a few in a row, probe the connection with one run at a time."""
        if isinstance(error, BadInput) or Trouble.of(error) is Trouble.NOT_FOUND:
            return  # about this run only
        now = self._clock()
        if self._failures == 0:
            self._failing_since = now
        # Requests that one cut has hit together are one failure: only a probe makes the next one wait longer.
        if self._outage is None or began >= self._probing_since:
            self._failures += 1
        self._failing.update(run_ids)
        pause = error.retry_after or 0.0
        widespread = len(self._failing) >= min(OUTAGE_AFTER, len(self._runs))
        broken = self._failures >= OUTAGE_AFTER and widespread
        if broken:
            pause = max(pause, backoff_seconds(self._failures - OUTAGE_AFTER + 1, BACKOFF_BASE, BACKOFF_CAP))
        self._hold_until = max(self._hold_until, now + pause)
        if not broken or self._outage is not None:
            return
        self._outage, self._probing_since = error, now
        async for watched in self._in_turns():
            if self._outage is not error:
                return
            for waiter in tuple(watched.waiters):
                if not waiter.progress.told:
                    outcome = waiter.progress.missed(error, now, since=self._failing_since)
                    self._settle(waiter, outcome)

    async def _recover(self, now: float) -> None:
        """Note that the connection works. After an outage nobody is asked about at once with all others."""
        self._failures = 0
        self._failing.clear()
        if self._outage is None:
            return
        self._outage = None
        self._hold_until = now
        self._reread = True
        for queue in (self._ready, self._alone, self._searches):
            while queue:
                self._look_within(queue.popleft(), now, RECOVERY_GAP * len(self._runs))
        async for watched in self._in_turns():
            if self._outage is not None:
                return
            at_most = RECOVERY_GAP * len(self._runs)
            for waiter in tuple(watched.waiters):
                if waiter.progress.failures:
                    # Only its own answer shows that this run can be asked about: look soon.
                    at_most = min(at_most, SOON)
                else:
                    waiter.progress.answered(now)
                    self._settle(waiter, None)
            if watched.due is not None:
                self._look_within(watched, now, at_most)

    def _look_within(self, watched: Watched, now: float, seconds: float) -> None:
        """Have a run looked at at some time in its interval, or within so many seconds."""
        self._look_at(watched, now + random.random() * min(seconds, self._delay(watched, now)))

    async def _in_turns(self) -> AsyncIterator[Watched]:
        """Yield every run; after some, let those go on that have been told something."""
        for number, watched in enumerate(tuple(self._runs.values()), start=1):
            yield watched
            if number % TOLD_AT_ONCE == 0:
                await asyncio.sleep(0)

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
        delays = []
        for waiter in watched.waiters:
            watch = waiter.progress.watch
            age = now - waiter.progress.started_at
            delays.append(next_delay(age, watch.min_poll_interval, watch.poll_interval, chance))
        return min(delays, default=0.0)

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
        self._wake_for(moment)

    def _keep_limit(self, waiter: Waiter, not_before: float = 0.0) -> None:
        moment = waiter.progress.limit_at()
        if moment is not None and (waiter.limit is None or moment < waiter.limit):
            waiter.limit = max(moment, not_before)
            heapq.heappush(self._limits, (waiter.limit, next(self._order), waiter))
            self._wake_for(waiter.limit)

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
                if self._driver is not None:
                    await self._driver.renew_certificates()
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
                self._limiter = limiter_of(api)
            return self._driver

    async def _close_drivers(self) -> None:
        for driver in (*self._retired, *([self._driver] if self._driver else [])):
            await driver.close()
        self._driver, self._retired = None, []


def _is_old(waiter: Waiter, now: float) -> bool:
    """Tell whether a run is so old that it is not asked about as often as it may be."""
    age = now - waiter.progress.started_at
    return AGE_SHARE * age > waiter.progress.watch.min_poll_interval


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
    return await with_watcher(key, connect, lambda watcher: watcher.wait(watch, service, tell))


async def with_watcher(key: Hashable, connect: Connect, wait: Callable[[Watcher], Awaitable[T]]) -> T:
    """
    Wait by the watcher that all in this event loop with the same key share; once more by another if it dies.

    :param key: the connection and scope.
    :param connect: reads the connection and returns the service's description for it.
    :param wait: waits, given the watcher.
    :raises WatcherDied: if that has died, too.
    """
    died: WatcherDied | None = None
    for _ in range(2):
        try:
            return await wait(_join(key, connect))
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
