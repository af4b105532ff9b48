"""
Wait for many runs of one connection with one task, one client session and one view of outages.

Every trigger of an event loop that waits on the same connection and scope subscribes to the same
:class:`RunPoller`. It is an asyncio task of its own, which polls the runs that are due, in batches where the
service can and singly where it cannot, and delivers to each subscription what belongs in its log and how its
wait ended. Subscribers write their own log lines, so that each lands in the log of its own task.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import random
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from airflow_provider_runs.base.channel import Channel, Connect, leave_channel, open_channel
from airflow_provider_runs.base.subscriptions import Message, PolledRun, Subscription, Subscriptions
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import CanGetMany, CanListRuns, RunApi
from airflow_provider_runs.core.errors import BadInput, RunsError, as_runs_error, is_permanent
from airflow_provider_runs.core.http import Flow
from airflow_provider_runs.core.outage import BACKOFF_BASE, BACKOFF_CAP, OutageDetector
from airflow_provider_runs.core.outcome import Outcome
from airflow_provider_runs.core.poll_queue import PollQueue
from airflow_provider_runs.core.progress import Note, Progress, Trouble, Watch
from airflow_provider_runs.core.retry import backoff_seconds
from airflow_provider_runs.core.run import Run, RunState, to_wait_for

CONCURRENCY = 8
"""Polls that may be under way for a connection; more where there are many runs: see below."""
RUNS_PER_REQUEST = 100
"""Runs that add one more to :data:`CONCURRENCY`, so that polling all of them does not take for ever."""
MAX_CONCURRENCY = 64
MANY_RUNS = 50
TICK = 0.1
"""
Seconds to whose multiples the single polls of :data:`MANY_RUNS` and more are put off: an event loop that
wakes up for ten of them together spends half on each of what it spends when it wakes up for each.
"""
READ_AT_ONCE = 100
"""Answers of a batch that are dealt with in one turn of the event loop."""
SUBSCRIBED_AT_ONCE = 1000
"""Runs of a list that are subscribed to in one turn of the event loop."""
BATCH_WINDOW = 0.25
"""Seconds that the first poll of a run waits for others that come one by one and share its request."""
RECHECK_DELAY = 2.0
"""Seconds within which a run is polled again whose own polls failed in an outage that is over."""
RECOVERY_GAP = 0.1
"""Seconds between the polls of two runs after an outage, where their intervals are not over sooner."""

NONE_YET = Run("", RunState.PENDING, "")
"""Stands for the run of a search that has found none."""

Tell = Callable[[Note], None]


class RunPoller:
    """
    Poll the runs of one connection and scope in one event loop.

    :param channel: the way to the service.
    """

    def __init__(self, channel: Channel) -> None:
        self.users = 0
        self.fault: Exception | None = None
        """The fault of this package that ended it."""
        self._channel = channel
        # What was known of an outage may be long over.
        channel.detector = OutageDetector()
        self._epoch = clock.time() - clock.monotonic()
        self._subscriptions = Subscriptions(self._wake_for)
        self._queue: PollQueue[PolledRun] = PollQueue(PolledRun.interval)
        self._polls: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._sleeps_until = 0.0
        """Until when the loop sleeps if nobody wakes it."""
        self._is_stopped = False
        # A fresh context: inherited from the first trigger, the task would write into that trigger's log.
        self._task = asyncio.get_running_loop().create_task(self._poll_all(), context=contextvars.Context())
        self._task.add_done_callback(self._ended)

    def follow(self, watch: Watch, service: str) -> Progress:
        """
        Return what follows a wait on this poller's clock.

        :param watch: what is waited for, and how long.
        :param service: the service's name, for messages.
        """
        now = self._now()
        ahead = now - clock.time()
        moments = {
            name: moment + ahead
            for name in ("started_at", "execution_deadline", "wait_deadline")
            if (moment := getattr(watch, name)) is not None
        }
        return Progress(replace(watch, **moments), service, now)

    @asynccontextmanager
    async def subscribed(self, subscriptions: Sequence[Subscription]) -> AsyncIterator[None]:
        """
        Poll for waits while the context is open.

        :param subscriptions: the waits; a single one shares its first request with others that come soon.
        """
        try:
            if len(subscriptions) > 1 and self._channel.api is None:
                # Through a known connection the first request is a batch. A failure shows at that request.
                with suppress(Exception):
                    await self._channel.connected()
            for number, subscription in enumerate(subscriptions, start=1):
                self._subscribe(subscription, waits_for_others=len(subscriptions) == 1)
                if number % SUBSCRIBED_AT_ONCE == 0:
                    await asyncio.sleep(0)
            yield
        finally:
            for subscription in subscriptions:
                self._subscriptions.remove(subscription)

    async def stop(self) -> None:
        """End the task and every poll that is under way."""
        self._is_stopped = True
        tasks = (self._task, *self._polls)
        for task in tasks:
            task.cancel()
        self._channel.give_up_place()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _now(self) -> float:
        """Return UTC epoch seconds that never go back: a clock set back must not stop the polls."""
        return self._epoch + clock.monotonic()

    def _subscribe(self, subscription: Subscription, *, waits_for_others: bool) -> None:
        run = self._subscriptions.add(subscription)
        if len(run.subscriptions) == 1 or run.due is not None:
            moment = self._first_poll_at(subscription.progress, waits_for_others)
            self._schedule(run, moment if run.due is None else min(moment, run.due))
        if (outage := self._channel.detector.outage) is not None:
            now = self._now()
            self._subscriptions.deliver(subscription, subscription.progress.missed(outage, now, since=now))
        else:
            self._subscriptions.keep_deadline(subscription)
        if self.fault is not None:
            subscription.subscriber.put_nowait(self.fault)

    def _first_poll_at(self, progress: Progress, waits_for_others: bool) -> float:
        """Return when a run is polled first: its start was as good as a poll, if another waits already."""
        now = self._now()
        watch = progress.watch
        if len(self._subscriptions) == 1:
            return now
        if waits_for_others and isinstance(self._channel.api, CanGetMany):
            # Airflow starts triggers one by one, thousands after a restart.
            now += BATCH_WINDOW
        if watch.started_at is None:
            return now
        return max(now, progress.started_at + min(watch.min_poll_interval, watch.poll_interval))

    # The loop

    async def _poll_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            now = self._now()
            self._subscriptions.expire(now)
            api = self._channel.api
            self._queue.collect_due(now, api.draw_share if isinstance(api, CanGetMany) else None)
            self._start_polls()
            self._sleeps_until = self._next_moment()
            timer = None
            if self._sleeps_until < math.inf:
                timer = loop.call_later(max(0.0, self._sleeps_until - self._now()), self._wake.set)
            await self._wake.wait()
            if timer is not None:
                timer.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Let nobody wait for ever should a fault of this package end a task."""
        self._polls.discard(task)
        if self._queue.has_ready:
            self._wake.set()
        error = None if task.cancelled() else task.exception()
        if self._is_stopped or (error is None and task is not self._task and not task.cancelled()):
            return
        self.fault = error if isinstance(error, Exception) else RuntimeError(f"{task.get_coro()} has ended")
        self._is_stopped = True
        for other in (self._task, *self._polls):
            other.cancel()
        self._channel.give_up_place()
        self._subscriptions.fail(self.fault)

    def _wake_for(self, moment: float) -> None:
        """Have the loop go on at a moment, which it may not know of."""
        if moment < self._sleeps_until:
            self._wake.set()

    def _next_moment(self) -> float:
        moments = [self._queue.next_due(), self._subscriptions.next_deadline()]
        if self._queue.has_ready and len(self._polls) < self._concurrency():
            moments.append(self._channel.available_at() + self._epoch)
        return min(moments)

    def _start_polls(self) -> None:
        api = self._channel.api
        size = api.batch_size if isinstance(api, CanGetMany) and not self._channel.detector.outage else None
        while self._queue.has_ready and len(self._polls) < self._concurrency():
            if (has_slot := self._channel.acquire()) is False:
                return  # whose turn it is not yet
            if not (batch := self._queue.next_batch(size)):
                return
            poll = asyncio.get_running_loop().create_task(
                self._poll(batch, bool(has_slot)), context=contextvars.Context()
            )
            self._polls.add(poll)
            poll.add_done_callback(self._ended)
        self._channel.give_up_place()

    def _concurrency(self) -> int:
        """Return how many polls may be under way: one until the connection is known to work."""
        if self._channel.detector.outage or self._channel.api is None:
            return 1
        return min(CONCURRENCY + len(self._subscriptions) // RUNS_PER_REQUEST, MAX_CONCURRENCY)

    # Polls

    async def _poll(self, batch: list[PolledRun], has_slot: bool) -> None:
        answers: Mapping[str, Run | Exception] = {}
        began = self._now()
        try:
            answers = await self._channel.send(lambda api: _poll_flow(api, batch), has_slot=has_slot)
        except (Exception, asyncio.CancelledError) as error:
            if self._is_stopped:
                raise
            known = as_runs_error(error, self._channel.redact)
            # One bad id may spoil a batch for all: poll singly.
            if len(batch) == 1 or not is_permanent(known):
                await self._failed(batch, known, began)
                answers = dict.fromkeys((run.run_id for run in batch), known)
        now = self._now()
        for number, run in enumerate(batch, start=1):
            if number % READ_AT_ONCE == 0:
                await asyncio.sleep(0)
            answer = answers.get(run.run_id)
            if answer is None:
                self._queue.retry_individually(run)
            elif isinstance(answer, Run):
                await self._answered(run, answer, began, now)
            else:
                self._missed(run, as_runs_error(answer, self._channel.redact), now)

    async def _answered(self, run: PolledRun, answer: Run, began: float, now: float) -> None:
        await self._recover(now)
        is_first = not run.was_answered and run.is_old(now)
        run.was_answered = True
        for each in tuple(run.subscriptions):
            found = each.progress.found_none(now) if answer is NONE_YET else each.progress.saw(answer, now)
            self._subscriptions.deliver(each, found)
        interval = run.interval(now)
        if is_first:
            # Those that joined together, as after a restart, must not go on being due together.
            shortest = min((each.progress.watch.min_poll_interval for each in run.subscriptions), default=0)
            interval = max(min(interval, shortest), interval * random.random())
        # From poll to poll, however long the service thinks; but it must not be polled without a pause.
        self._schedule(run, max(began + interval, now + interval / 2))

    def _missed(self, run: PolledRun, error: RunsError, now: float) -> None:
        if Trouble.of(error) is Trouble.REFUSED:
            self._channel.reread()
        for each in tuple(run.subscriptions):
            self._subscriptions.deliver(each, each.progress.missed(error, now))
        failures = max((each.progress.failures for each in run.subscriptions), default=1)
        longest = max((each.progress.watch.poll_interval for each in run.subscriptions), default=BACKOFF_CAP)
        self._schedule(run, now + backoff_seconds(failures, BACKOFF_BASE, min(BACKOFF_CAP, longest)))

    async def _failed(self, batch: list[PolledRun], error: RunsError, began: float) -> None:
        """Count a poll in vain; after a few in a row, all who wait hear of the outage."""
        if isinstance(error, BadInput) or Trouble.of(error) is Trouble.NOT_FOUND:
            return  # about this run only
        now, detector = clock.monotonic(), self._channel.detector
        run_ids, began = [run.run_id for run in batch], began - self._epoch
        if not detector.failed(run_ids, error, began=began, now=now, among=len(self._subscriptions)):
            return
        async for run in self._subscriptions.in_turns():
            if detector.outage is not error:
                return
            for each in tuple(run.subscriptions):
                if not each.progress.told:
                    missed = each.progress.missed(error, self._now(), since=detector.since + self._epoch)
                    self._subscriptions.deliver(each, missed)

    async def _recover(self, now: float) -> None:
        """Note that the connection works. After an outage no run is polled at once with all others."""
        detector = self._channel.detector
        if not detector.answered(clock.monotonic()):
            return
        self._channel.reread()
        for run in self._queue.drain():
            self._poll_within(run, now, RECOVERY_GAP * len(self._subscriptions))
        async for run in self._subscriptions.in_turns():
            if detector.outage is not None:
                return
            at_most = RECOVERY_GAP * len(self._subscriptions)
            for each in tuple(run.subscriptions):
                if each.progress.failures:
                    # Only its own answer shows that this run can be polled: soon.
                    at_most = min(at_most, RECHECK_DELAY)
                else:
                    each.progress.answered(now)
                    self._subscriptions.deliver(each, None)
            if run.due is not None:
                self._poll_within(run, now, at_most)

    def _poll_within(self, run: PolledRun, now: float, seconds: float) -> None:
        """Have a run polled at some time in its interval, or within so many seconds."""
        self._schedule(run, now + random.random() * min(seconds, run.interval(now)))

    def _schedule(self, run: PolledRun, moment: float) -> None:
        """Have a run polled at a moment, or at its deadline if that is earlier."""
        if not run.is_wanted:
            return
        now = self._now()
        if len(self._subscriptions) >= MANY_RUNS and not isinstance(self._channel.api, CanGetMany):
            moment = math.ceil(moment / TICK) * TICK
        for each in run.subscriptions:
            deadline = each.progress.deadline()
            if deadline is not None and now < deadline < moment:
                moment = deadline
        self._queue.schedule(run, moment)
        self._wake_for(moment)


def _poll_flow(api: RunApi, batch: Sequence[PolledRun]) -> Flow[Mapping[str, Run | Exception]]:
    """Return the flow that polls some runs, or makes one search."""
    run = batch[0]
    if len(batch) > 1 and isinstance(api, CanGetMany):
        found: Mapping[str, Run | Exception] = yield from api.get_many([each.run_id for each in batch])
        return found
    one = api.get(run.run_id) if run.search is None else search_for_run(api, run.search)
    return {run.run_id: (yield from one)}


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


_pollers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, RunPoller]] = WeakKeyDictionary()


@asynccontextmanager
async def shared_poller(key: Hashable, connect: Connect) -> AsyncIterator[RunPoller]:
    """
    Use the poller that all in this event loop with the same key share. Who leaves it last stops it.

    :param key: the connection and scope.
    :param connect: reads the connection and returns the service's description for it.
    """
    pollers = _pollers.setdefault(asyncio.get_running_loop(), {})
    channel = open_channel(key, connect)
    poller = pollers.get(key)
    if poller is None or poller.fault is not None:
        poller = pollers[key] = RunPoller(channel)
    poller.users += 1
    try:
        yield poller
    finally:
        poller.users -= 1
        try:
            if poller.users == 0:
                if pollers.get(key) is poller:
                    del pollers[key]
                await poller.stop()
        finally:
            await leave_channel(key, channel)


async def wait_for_run(key: Hashable, connect: Connect, watch: Watch, service: str, tell: Tell) -> Outcome:
    """
    Wait for a run together with all others in this event loop that have the same key.

    :param key: the connection and scope.
    :param connect: reads the connection and returns the service's description for it.
    :param watch: what is waited for, and how long.
    :param service: the service's name, for messages.
    :param tell: called, in the caller's own context, with what belongs in its log.
    """
    messages: asyncio.Queue[Message] = asyncio.Queue()
    async with (
        shared_poller(key, connect) as poller,
        poller.subscribed([Subscription(poller.follow(watch, service), messages)]),
    ):
        while not isinstance(message := await messages.get(), Outcome):
            if isinstance(message, Exception):
                raise message
            tell(message)
        return message
