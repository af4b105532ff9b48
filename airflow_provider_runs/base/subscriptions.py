"""Who waits for which runs, what each has been told, and when each wait runs into a limit. It does no I/O."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

from airflow_provider_runs.core.outcome import Outcome
from airflow_provider_runs.core.poll_queue import Polled
from airflow_provider_runs.core.progress import Note, Progress
from airflow_provider_runs.core.schedule import AGE_SHARE, next_delay

DELIVERED_AT_ONCE = 20
"""Runs whose subscribers get a message in one turn of the event loop: each writes into its task's log."""
MAX_STALE = 64
"""Deadlines of waits that are over which are kept at most, beside as many as there are others."""

Message = Note | Outcome | Exception


class Subscriber(Protocol):
    """Whoever takes messages: a queue, or something else that has its method."""

    def put_nowait(self, message: Message, /) -> None:
        """
        Take a message. Must not raise.

        :param message: a line for the log, how the wait ended, or the fault of this package that ended it.
        """


class Subscription:
    """
    One wait for one run.

    :param progress: what it has seen.
    :param subscriber: takes its messages.
    """

    __slots__ = ("deadline", "progress", "subscriber")

    def __init__(self, progress: Progress, subscriber: Subscriber) -> None:
        self.progress = progress
        self.subscriber = subscriber
        self.deadline: float | None = None
        """The one that is kept at present."""


class PolledRun(Polled):
    """
    A run that somebody waits for, or a search for one. It is polled once for all of them.

    :param run_id: the run, or the name of the search.
    :param search: what a run is searched by that is not known yet.
    """

    __slots__ = ("search", "subscriptions", "was_answered")

    def __init__(self, run_id: str, search: Mapping[str, Any] | None) -> None:
        super().__init__(run_id, is_search=search is not None)
        self.search = search
        self.subscriptions: list[Subscription] = []
        self.was_answered = False
        """Whether the service has said anything about it."""

    def interval(self, now: float) -> float:
        """
        Return the seconds from one poll to the next: the shortest of all who wait.

        :param now: the current moment.
        """
        chance = random.random()
        intervals = []
        for each in self.subscriptions:
            watch, age = each.progress.watch, now - each.progress.started_at
            intervals.append(next_delay(age, watch.min_poll_interval, watch.poll_interval, chance))
        return min(intervals, default=0.0)

    def is_old(self, now: float) -> bool:
        """
        Tell whether it is so old that nobody has it polled as often as it may be.

        :param now: the current moment.
        """
        return all(
            AGE_SHARE * (now - each.progress.started_at) > each.progress.watch.min_poll_interval
            for each in self.subscriptions
        )


class Subscriptions:
    """
    All waits of a poller.

    :param on_deadline: called with each new deadline.
    """

    def __init__(self, on_deadline: Callable[[float], None]) -> None:
        self._on_deadline = on_deadline
        self._runs: dict[str, PolledRun] = {}
        self._waiting = 0
        self._deadlines: list[tuple[float, int, Subscription]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        """Return for how many runs somebody waits."""
        return len(self._runs)

    def add(self, subscription: Subscription) -> PolledRun:
        """
        Add a wait and return its run.

        :param subscription: the wait.
        """
        watch = subscription.progress.watch
        run = self._runs.get(watch.run_id)
        if run is None:
            run = self._runs[watch.run_id] = PolledRun(watch.run_id, watch.search)
        run.subscriptions.append(subscription)
        self._waiting += 1
        return run

    def remove(self, subscription: Subscription) -> None:
        """
        Forget a wait, if it is not over already.

        :param subscription: the wait.
        """
        run = self._run_of(subscription)
        if run is None:
            return
        run.subscriptions.remove(subscription)
        self._waiting -= 1
        if not run.subscriptions:
            run.is_wanted = False
            del self._runs[run.run_id]
        if len(self._deadlines) > 2 * self._waiting + MAX_STALE:
            self._deadlines = [entry for entry in self._deadlines if self._is_kept(entry[2], entry[0])]
            heapq.heapify(self._deadlines)

    def deliver(self, subscription: Subscription, outcome: Outcome | None) -> None:
        """
        Hand out what there is to say to a wait, and how it ended, if it did: then it is forgotten.

        :param subscription: the wait.
        :param outcome: how it ended.
        """
        for note in subscription.progress.take_notes():
            subscription.subscriber.put_nowait(note)
        if outcome is None:
            self.keep_deadline(subscription)
        else:
            subscription.subscriber.put_nowait(outcome)
            self.remove(subscription)

    def fail(self, error: Exception) -> None:
        """
        Let nobody wait any longer.

        :param error: why.
        """
        for run in self._runs.values():
            for subscription in run.subscriptions:
                subscription.subscriber.put_nowait(error)

    def keep_deadline(self, subscription: Subscription, not_before: float = 0.0) -> None:
        """
        Keep when a wait runs into its next limit.

        :param subscription: the wait.
        :param not_before: the earliest moment to look at the limit.
        """
        moment = subscription.progress.limit_at()
        if moment is not None and (subscription.deadline is None or moment < subscription.deadline):
            subscription.deadline = max(moment, not_before)
            heapq.heappush(self._deadlines, (subscription.deadline, next(self._order), subscription))
            self._on_deadline(subscription.deadline)

    def next_deadline(self) -> float:
        """Return when the next wait runs into a limit; infinity: none does."""
        return self._deadlines[0][0] if self._deadlines else math.inf

    def expire(self, now: float) -> None:
        """
        End the waits whose limit is over.

        :param now: the current moment.
        """
        while self._deadlines and self._deadlines[0][0] <= now:
            moment, _, subscription = heapq.heappop(self._deadlines)
            if not self._is_kept(subscription, moment):
                continue
            subscription.deadline = None
            outcome = subscription.progress.expired(now)
            if outcome is None:
                self.keep_deadline(subscription, not_before=now + 1.0)
            else:
                self.deliver(subscription, outcome)

    async def in_turns(self) -> AsyncIterator[PolledRun]:
        """Yield every run; after some, let those go on that have a message."""
        for number, run in enumerate(tuple(self._runs.values()), start=1):
            yield run
            if number % DELIVERED_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _is_kept(self, subscription: Subscription, moment: float) -> bool:
        return subscription.deadline == moment and self._run_of(subscription) is not None

    def _run_of(self, subscription: Subscription) -> PolledRun | None:
        run = self._runs.get(subscription.progress.watch.run_id)
        return run if run is not None and subscription in run.subscriptions else None
