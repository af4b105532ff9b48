"""Keep the requests of one connection below a number a minute, and below what its service takes."""

from __future__ import annotations

from threading import Lock

BURST = 10
BURST_SHARE = 0.05
"""
Share of a minute's requests that may leave at once, where that is less than :data:`BURST`: together with the
cap it must stay below the limit of the service, also when some requests arrive late.
"""
MIN_HOLD = 1.0
"""Seconds for which nothing leaves after a refusal, if the service does not ask for more."""
MIN_SHARE = 1 / 16
"""Share of the cap below which refusals do not bring the rate."""
GROWTH = 0.1
"""Share of the cap by which the rate grows in a minute without a refusal."""

MAX_DEBT = 5.0
"""Seconds for which others wait at most for what left without waiting."""
ABSENCE = 5.0
"""Seconds after its turn by which a poll that does not come loses its place to those behind it."""

ROUNDING = 1e-6
"""Seconds by which moments may differ that are the same."""


class Place:
    """A place in the queue of the polls that wait for a slot."""

    __slots__ = ("due",)

    def __init__(self) -> None:
        self.due = float("inf")
        """When it is to come again."""


class RateLimiter:
    """
    Say when the next request may leave. All moments are those of one clock, in seconds.

    There is one for each connection and process, whatever the scopes and event loops: services limit an
    address or a key. A poll takes a slot once one is free; a start reserves the next one, so it waits for no
    poll. When the service refuses a request because there were too many, the rate halves and nothing leaves
    for a while; then the rate grows back to the cap. So processes that do not know of each other share what
    a service takes. Safe to be used from several threads.

    :param per_minute: the cap, in requests a minute.
    """

    def __init__(self, per_minute: float) -> None:
        self._lock = Lock()
        self._cap = per_minute
        self._rate = per_minute
        self._grows_since = float("-inf")
        self._held_until = float("-inf")
        self._next = float("-inf")
        self._queue: list[Place] = []

    def set_cap(self, per_minute: float) -> None:
        """
        Take over the cap of a connection that was read again.

        :param per_minute: requests a minute.
        """
        self._cap = per_minute

    def rate(self, now: float) -> float:
        """
        Return how many requests a minute may leave.

        :param now: the current moment.
        """
        grown = GROWTH * self._cap * max(0.0, now - self._grows_since) / 60
        return min(self._cap, self._rate + grown)

    def burst(self, now: float) -> int:
        """
        Return how many requests may leave at once after a quiet time.

        :param now: the current moment.
        """
        return max(1, min(BURST, int(BURST_SHARE * self.rate(now))))

    def join(self) -> Place:
        """Return a new last place in the queue of the polls, to be given up by :meth:`leave`."""
        place = Place()
        with self._lock:
            self._queue.append(place)
        return place

    def leave(self, place: Place) -> None:
        """
        Give up a place, if it was not used.

        :param place: the place.
        """
        with self._lock:
            if place in self._queue:
                self._queue.remove(place)

    def available_at(self, now: float, place: Place | None = None) -> float:
        """
        Return the moment at which a poll is to come for its slot.

        :param now: the current moment.
        :param place: its place in the queue; None: it does not queue.
        """
        with self._lock:
            if place is None:
                return max(now, self._next)
            ahead = self._place_of(place)
            place.due = max(now, self._next) + ahead * 60 / self.rate(now)
            return place.due

    def acquire(self, now: float, place: Place | None = None) -> bool:
        """
        Take a slot for a poll, and tell whether one was free and it was its turn. Its place is used up then.

        :param now: the current moment.
        :param place: its place in the queue; None: it does not queue, and goes behind all who do.
        """
        with self._lock:
            if place is not None:
                self._place_of(place)
            if now < self._next - ROUNDING:
                return False
            # Whoever does not come for its slot, as its event loop stands still, must not hold the others.
            while self._queue and self._queue[0] is not place and now > self._queue[0].due + ABSENCE:
                self._queue.pop(0)
            if self._queue and self._queue[0] is not place:
                return False
            del self._queue[:1]
            self._take(now)
            return True

    def _place_of(self, place: Place) -> int:
        """Return how many are ahead; whoever has lost its place gets the last one."""
        if place not in self._queue:
            self._queue.append(place)
        return self._queue.index(place)

    def reserve(self, now: float) -> float:
        """
        Take the next slot, for a request that waits for no poll, and return when it may leave.

        :param now: the current moment.
        """
        with self._lock:
            moment = max(now, self._next)
            self._take(moment)
            return moment

    def count(self, now: float) -> None:
        """
        Count a request that leaves without waiting; others wait the longer, up to a bound.

        :param now: the current moment.
        """
        with self._lock:
            self._take(now)
            self._next = min(self._next, max(now, self._held_until) + MAX_DEBT)

    def is_held(self, now: float) -> bool:
        """
        Tell whether nothing may leave because the service has refused a request.

        :param now: the current moment.
        """
        return now < self._held_until

    def refused(self, now: float, retry_after: float | None, chance: float) -> None:
        """
        Take note that the service has refused a request because there were too many.

        :param now: the current moment.
        :param retry_after: the seconds that the service asks to wait; None: it says nothing.
        :param chance: a random number in [0, 1) by which the wait gets longer, up to twice as long: a service
            names the same second to all who wait.
        """
        with self._lock:
            if not self.is_held(now):
                # Requests that were under way together are refused together, which counts once.
                self._rate = max(self.rate(now) / 2, MIN_SHARE * self._cap)
            until = now + max(retry_after or 0.0, MIN_HOLD) * (1 + chance)
            self._held_until = self._grows_since = max(self._held_until, until)
            self._next = max(self._next, self._held_until)

    def _take(self, moment: float) -> None:
        gap = 60 / self.rate(moment)
        self._next = max(self._next, moment - gap * (self.burst(moment) - 1)) + gap
