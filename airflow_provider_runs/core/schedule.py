"""When to ask about a run again."""

from __future__ import annotations

from dataclasses import dataclass

AGE_SHARE = 0.1
JITTER = 0.1


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
