"""When to ask about a run again."""

from __future__ import annotations

from dataclasses import dataclass

AGE_SHARE = 0.1
JITTER = 0.1
BURST = 10
BURST_SHARE = 0.05
"""
Share of a minute's requests that may leave at once, where that is less than :data:`BURST`: together with the
cap it must stay below the limit of the service, also when some requests arrive late.
"""


@dataclass(frozen=True, slots=True)
class Pace:
    """
    How often a service is asked, by default.

    :param min_poll_interval: seconds between two looks at a young run.
    :param poll_interval: seconds between two looks at an old run.
    :param max_requests_per_minute: cap for one connection in one process.
    """

    min_poll_interval: float
    poll_interval: float
    max_requests_per_minute: int


def next_delay(age: float, min_poll_interval: float, poll_interval: float, chance: float) -> float:
    """
    Return the seconds until a run is looked at again: a tenth of its age, within the two bounds.

    The end of a run is so noticed after about a tenth of its duration at the latest, and the number of
    looks grows with the logarithm of the duration until ``poll_interval`` is reached.

    :param age: seconds since the run was started.
    :param min_poll_interval: lower bound in seconds.
    :param poll_interval: upper bound in seconds; it wins where it is below the lower one.
    :param chance: a random number in [0, 1) that spreads the looks by up to a tenth, so that many runs
        started together are not asked about together.
    """
    delay = min(max(AGE_SHARE * age, min_poll_interval), poll_interval)
    return delay * (1 - JITTER * chance)


class RateCap:
    """
    Keep requests below a number a minute.

    :param per_minute: requests a minute.
    :param burst: requests that may leave at once after a quiet time; by default a twentieth of a minute's, at
        most 10.
    """

    def __init__(self, per_minute: float, burst: int | None = None) -> None:
        self.burst = max(1, min(BURST, int(BURST_SHARE * per_minute))) if burst is None else burst
        self._gap = 60.0 / per_minute
        self._credit = self._gap * (self.burst - 1)
        self._next = float("-inf")

    def free_at(self, now: float) -> float:
        """
        Return the moment at which the next request may leave.

        :param now: the clock's time in seconds.
        """
        return max(now, self._next)

    def take(self, now: float) -> None:
        """
        Count a request that leaves.

        :param now: the clock's time in seconds.
        """
        self._next = max(self._next, now - self._credit) + self._gap
