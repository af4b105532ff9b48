"""Which runs are polled next, and in which batch. Pure: it waits for nothing and is told the time."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

MIN_BATCH_SIZE = 4
"""Fewer runs that are due together are polled singly, where a batch would be no cheaper."""


class Polled:
    """
    What is polled: a run, or a search for one.

    :param run_id: the run, or the name of the search.
    :param is_search: whether no run is known yet; a search is never a part of a batch.
    """

    __slots__ = ("due", "is_search", "is_wanted", "run_id")

    def __init__(self, run_id: str, *, is_search: bool = False) -> None:
        self.run_id = run_id
        self.is_search = is_search
        self.is_wanted = True
        """Whether anybody still waits for it; the queue forgets what is not wanted."""
        self.due: float | None = None
        """When it is polled next; None while it is ready or being polled."""


R = TypeVar("R", bound=Polled)


class PollQueue(Generic[R]):
    """
    Keep runs by when they are due, and hand out batches of those that are.

    :param interval: returns the seconds from one poll of a run to the next, given the run and the moment.
    """

    def __init__(self, interval: Callable[[R, float], float]) -> None:
        self._interval = interval
        self._heap: list[tuple[float, int, R]] = []
        self._order = itertools.count()
        self._ready: deque[R] = deque()
        self._alone: deque[R] = deque()
        self._searches: deque[R] = deque()
        self._searched = False
        """Whether the last batch was a search: they and the known runs take turns."""

    def schedule(self, run: R, moment: float) -> None:
        """
        Have a run polled at a moment, and not at an earlier or later one that was set before.

        :param run: the run.
        :param moment: when.
        """
        run.due = moment
        heapq.heappush(self._heap, (moment, next(self._order), run))

    def retry_individually(self, run: R) -> None:
        """
        Have a run that a batch did not answer polled by itself, before all others.

        :param run: the run.
        """
        self._alone.append(run)

    @property
    def has_ready(self) -> bool:
        """Whether anything waits only for its request."""
        return bool(self._ready or self._alone or self._searches)

    def next_due(self) -> float:
        """Return when the next run becomes due; infinity: none does."""
        return self._heap[0][0] if self._heap else math.inf

    def collect_due(self, now: float, batch_share: float | None) -> None:
        """
        Make ready what is due and, where that makes a batch, what is nearly due.

        :param now: the current moment.
        :param batch_share: the share of its interval by which a run may be polled early to share a request;
            None: there are no batches.
        """
        collected: list[R] = []
        while self._heap and self._heap[0][0] <= now:
            due, _, run = heapq.heappop(self._heap)
            if self._is_next(run, due):
                run.due = None
                (self._searches if run.is_search else collected).append(run)
        if batch_share is not None:
            if self._ready or collected:
                self._collect_nearly_due(collected, now, batch_share)
            # Services list runs in the order of their ids: a batch of neighbours needs less of the list.
            collected.sort(key=lambda run: run.run_id)
        self._ready += collected

    def next_batch(self, size: int | None) -> list[R]:
        """
        Take the runs of the next request; an empty list: nothing is ready.

        :param size: runs that one request may ask about; None: no batch.
        """
        queue = self._alone or self._ready
        if queue is self._alone or len(self._ready) < MIN_BATCH_SIZE:
            size = None
        if self._searches and not (queue and self._searched):
            queue, size = self._searches, None
        self._searched = queue is self._searches
        batch: list[R] = []
        while queue and len(batch) < (size or 1):
            run = queue.popleft()
            if run.is_wanted:
                batch.append(run)
        return batch

    def drain(self) -> Iterator[R]:
        """Yield what is ready, which is ready no more."""
        for queue in (self._ready, self._alone, self._searches):
            while queue:
                yield queue.popleft()

    def _is_next(self, run: R, due: float) -> bool:
        return run.due == due and run.is_wanted

    def _collect_nearly_due(self, collected: list[R], now: float, share: float) -> None:
        nearly: list[tuple[float, int, R]] = []
        back: list[tuple[float, int, R]] = []
        while self._heap:
            due, _, run = self._heap[0]
            is_next = self._is_next(run, due)
            if is_next and due - now > share * self._interval(run, now):
                break
            entry = heapq.heappop(self._heap)
            if is_next:
                (back if run.is_search else nearly).append(entry)
                run.due = None  # so that the same entry again is not the next one
        # Polls that are spread over the interval meet only if what is not yet due counts too.
        if len(self._ready) + len(collected) + len(nearly) >= MIN_BATCH_SIZE:
            collected += (run for _, _, run in nearly)
        else:
            back += nearly
        for entry in back:
            entry[2].due = entry[0]
            heapq.heappush(self._heap, entry)
