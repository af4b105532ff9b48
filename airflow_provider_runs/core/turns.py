"""The turns of a connection's requests: every one passes the one rate limiter that its process has for it."""

from __future__ import annotations

import random
from collections.abc import Generator
from enum import Enum
from math import inf

from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import RunApi
from airflow_provider_runs.core.errors import ApiError
from airflow_provider_runs.core.http import Response
from airflow_provider_runs.core.limiter import ROUNDING, RateLimiter
from airflow_provider_runs.core.retry import retry_after

TOO_MANY_REQUESTS = 429
MIN_REQUESTS = 30
"""Requests that a call may send at the present rate, however little time it has."""

_limiters: dict[tuple[str, str, str], RateLimiter] = {}


class Turn(Enum):
    """When a request may leave. Every one counts."""

    POLL = "poll"
    """Once a slot is free that nobody has reserved."""
    CALL = "call"
    """In the next slot: a start, or anything else that somebody waits for, does not queue behind polls."""
    URGENT = "urgent"
    """At once: a cancel and the polls that confirm it have little time."""


def limiter_of(api: RunApi) -> RateLimiter:
    """
    Return the limiter of a connection: one in this process, for all scopes and event loops.

    :param api: the service's description for the connection, whose cap counts from now on.
    """
    limiter = _limiters.get(api.connection_key)
    if limiter is None:
        limiter = _limiters.setdefault(api.connection_key, RateLimiter(api.max_requests_per_minute))
    limiter.set_cap(api.max_requests_per_minute)
    return limiter


class Turns:
    """
    The turns of one call's requests, repeats and requests for a token among them.

    :param limiter: the connection's.
    :param turn: when each request may leave.
    :param has_slot: whether the first one has its slot already.
    :param seconds: after the first request no further one leaves when so many are over.
    """

    __slots__ = ("_began", "_has_slot", "_held", "_limiter", "_turn", "seconds", "unaffected")

    def __init__(
        self, limiter: RateLimiter, turn: Turn, *, has_slot: bool = False, seconds: float = inf
    ) -> None:
        self.seconds = seconds
        self.unaffected = True
        """Whether no request of the call can have changed anything."""
        self._limiter = limiter
        self._turn = turn
        self._has_slot = has_slot
        self._began: float | None = None
        self._held = 0.0

    def pauses(self) -> Generator[float, None, None]:
        """Yield the seconds to wait until the next request may leave, one wait after the other."""
        if self._has_slot:
            self._has_slot = False
            return
        limiter, now = self._limiter, clock.monotonic()
        if self._turn is Turn.URGENT:
            limiter.count(now)
        elif self._turn is Turn.POLL:
            yield from self._pauses_of_poll(now)
        else:
            moment = limiter.reserve(now)
            while moment - now > ROUNDING:
                yield moment - now
                now = clock.monotonic()
                if moment - now <= ROUNDING and limiter.is_held(now):
                    moment = limiter.reserve(now)

    def _pauses_of_poll(self, now: float) -> Generator[float, None, None]:
        limiter, held_since = self._limiter, now if self._limiter.is_held(now) else None
        place = limiter.join()
        try:
            while not limiter.acquire(now, place):
                yield max(limiter.available_at(now, place) - now, ROUNDING)
                now = clock.monotonic()
        finally:
            limiter.leave(place)
        if held_since is not None:
            self._held += now - held_since

    def are_over(self) -> bool:
        """
        Tell whether no further request may leave.

        The time begins with the first one. While the service has all wait, it stands still.
        """
        now = clock.monotonic()
        if self._began is None:
            self._began, self._held = now, 0.0
        seconds = max(self.seconds, MIN_REQUESTS * 60 / self._limiter.rate(now))
        return now - self._began - self._held > seconds

    def answered(self, api: RunApi, response: Response) -> None:
        """
        Take note of an answer: the service may have refused a request because there were too many.

        :param api: the service's description.
        :param response: the answer.
        """
        if response.status == TOO_MANY_REQUESTS and not api.is_broken(response):
            self._refused(retry_after(response))

    def failed(self, api: RunApi, error: ApiError, response: Response | None) -> bool:
        """
        Take note of an error, and tell whether it means that there were too many requests.

        The service may have refused so in its answer's body, with a status of success.

        :param api: the service's description.
        :param error: what the call ended with.
        :param response: the answer that it ended with, if there was one.
        """
        if error.status != TOO_MANY_REQUESTS or (response and api.is_broken(response)):
            return False
        self._refused(error.retry_after)
        return True

    def _refused(self, seconds: float | None) -> None:
        self._limiter.refused(clock.monotonic(), seconds, random.random())
