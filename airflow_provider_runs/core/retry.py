"""Judge whether a request may be sent again, and when."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz

from airflow_provider_runs.core import clock
from airflow_provider_runs.core.errors import AnswerTooLong, ConnectionFailed
from airflow_provider_runs.core.http import Request, Response

TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
BODILESS = frozenset({204, 205})
RETRY_AFTER_CAP = 120.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """
    How long a single call goes on trying.

    :param attempts: requests at most.
    :param base: seconds before the second attempt; doubled for each further one.
    :param cap: seconds between two attempts at most, unless the service asks for more.
    :param stopped: asked before each attempt; once it says so, nothing is sent any more.
    :param before_pause: told before each pause how many seconds it lasts, and whether the request that waits
        has surely had no effect so far, nor one before it in the same call; it may raise.
    """

    attempts: int = 5
    base: float = 1.0
    cap: float = 30.0
    stopped: Callable[[], bool] = lambda: False
    before_pause: Callable[[float, bool], None] = lambda seconds, unaffected: None

    def wait(self, attempt: int, outcome: Response | ConnectionFailed) -> float:
        """
        Return the seconds to wait after a failed attempt, with jitter.

        ``Retry-After`` of the service is obeyed up to two minutes.

        :param attempt: number of attempts made, from 1.
        :param outcome: how the last one ended.
        """
        backoff = backoff_seconds(attempt, self.base, self.cap)
        if isinstance(outcome, Response):
            return max(backoff, retry_after(outcome) or 0.0)
        return backoff


NO_RETRY = RetryPolicy(attempts=1)


def backoff_seconds(attempt: int, base: float, cap: float) -> float:
    """
    Return the seconds to wait after a number of failures: doubling, capped, with jitter of a half.

    :param attempt: number of failures in a row, from 1.
    :param base: seconds after the first one.
    :param cap: seconds at most.
    """
    full = min(cap, base * 2.0 ** min(attempt - 1, 30))
    return full * random.uniform(0.5, 1.0)


def may_repeat(
    request: Request, outcome: Response | ConnectionFailed, broken_words: str | None = None
) -> bool:
    """
    Tell whether a request that ended so may be sent again without doing anything twice, and should be.

    :param request: the request.
    :param outcome: its answer, or the reason why there is none.
    :param broken_words: what the service says with status 429 where it may have done what was asked.
    """
    if isinstance(outcome, AnswerTooLong):
        return False
    if had_no_effect(outcome, broken_words):
        return True
    if isinstance(outcome, ConnectionFailed):
        return request.safe_to_repeat
    return request.safe_to_repeat and (outcome.status in TEMPORARY or _is_foreign(request, outcome))


def had_no_effect(outcome: Response | ConnectionFailed, broken_words: str | None = None) -> bool:
    """
    Tell whether a request that ended so has surely done nothing, and may do it another time.

    :param outcome: its answer, or the reason why there is none.
    :param broken_words: what the service says with status 429 where it may have done what was asked.
    """
    if isinstance(outcome, ConnectionFailed):
        return not outcome.sent
    if outcome.status != 429:
        return False
    return broken_words is None or (outcome.is_whole and broken_words.encode() not in outcome.body)


def _is_foreign(request: Request, response: Response) -> bool:
    """Tell whether an answer that looks good is none of the service: a page of a gateway, as a rule."""
    if not 200 <= response.status < 300 or response.status in BODILESS:
        return False
    return not response.is_json if response.body else not request.may_be_empty


def retry_after(response: Response) -> float | None:
    """
    Return the seconds that the service asks to wait (``Retry-After`` as seconds or as a date), capped.

    :param response: the answer.
    """
    value = response.headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_tz(value)
            if moment is None:
                return None
            seconds = mktime_tz(moment) - clock.time()
        except (ValueError, OverflowError):
            return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), RETRY_AFTER_CAP)
