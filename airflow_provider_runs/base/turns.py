"""Run API calls so that each of their requests passes the connection's one rate limiter in this process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from enum import Enum
from typing import TypeVar

from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import RunApi
from airflow_provider_runs.core.drivers import AsyncDriver, Driver
from airflow_provider_runs.core.errors import ApiError, RunsError
from airflow_provider_runs.core.http import Flow, Request, Response
from airflow_provider_runs.core.limiter import RateLimiter
from airflow_provider_runs.core.retry import RetryPolicy, retry_after

T = TypeVar("T")
TOO_MANY_REQUESTS = 429
STOP_CHECK_SECONDS = 1.0
"""Seconds after which a call that waits for its turn notices that it was stopped."""

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
    key = (api.service, api.settings.conn_id, api.settings.base_url)
    limiter = _limiters.get(key)
    if limiter is None:
        limiter = _limiters.setdefault(key, RateLimiter(api.max_requests_per_minute))
    limiter.set_cap(api.max_requests_per_minute)
    return limiter


def pauses(limiter: RateLimiter, turn: Turn) -> Iterator[float]:
    """
    Yield the seconds to wait until a request may leave, one wait after the other. It has its slot then.

    :param limiter: the connection's.
    :param turn: when it may leave.
    """
    now = clock.monotonic()
    if turn is Turn.URGENT:
        limiter.count(now)
    elif turn is Turn.POLL:
        while not limiter.acquire(now):
            yield limiter.available_at(now) - now
            now = clock.monotonic()
    else:
        moment = limiter.reserve(now)
        while now < moment:
            yield moment - now
            now = clock.monotonic()
            if now >= moment and limiter.is_held(now):
                moment = limiter.reserve(now)


def run_flow(driver: Driver, flow: Flow[T], retry: RetryPolicy, turn: Turn) -> T:
    """
    Run an API call and return its result.

    :param driver: the service.
    :param flow: the call.
    :param retry: how long each request is repeated where that is safe. Repeats are not counted.
    :param turn: when each request may leave.
    :raises RunsError: whatever the call raises.
    """
    limiter = limiter_of(driver.api)

    def in_turn() -> Flow[T]:
        try:
            request = next(flow)
            while True:
                for pause in pauses(limiter, turn):
                    _sleep(pause, retry.stopped)
                    if retry.stopped():
                        break  # the driver refuses to send it
                try:
                    response = yield request
                except RunsError as error:
                    request = flow.throw(error)
                else:
                    request = flow.send(response)
        except StopIteration as end:
            result: T = end.value
            return result

    try:
        return driver.drive(in_turn(), retry)
    except ApiError as error:
        _note(limiter, error)
        raise


async def arun_flow(
    driver: AsyncDriver, flow: Flow[T], retry: RetryPolicy, turn: Turn, *, has_slot: bool = False
) -> T:
    """
    Run an API call in the running event loop and return its result, as :func:`run_flow`.

    :param driver: the service.
    :param flow: the call.
    :param retry: how long each request is repeated where that is safe. Repeats are not counted.
    :param turn: when each request may leave.
    :param has_slot: whether the first request has its slot already.
    """
    limiter = limiter_of(driver.api)
    response: Response | None = None
    try:
        request = next(flow)
        while True:
            if not has_slot:
                await wait_for_turn(limiter, turn)
            has_slot, response = False, None
            try:
                response = await driver.drive(_only(request), retry)
            except RunsError as error:
                request = flow.throw(error)
            else:
                request = flow.send(response)
    except StopIteration as end:
        result: T = end.value
        return result
    except ApiError as error:
        if response is not None:
            error.retry_after = retry_after(response)
        _note(limiter, error)
        raise


async def wait_for_turn(limiter: RateLimiter, turn: Turn) -> None:
    """
    Wait until a request may leave. It has its slot then.

    :param limiter: the connection's.
    :param turn: when it may leave.
    """
    for pause in pauses(limiter, turn):
        await asyncio.sleep(pause)


def _only(request: Request) -> Flow[Response]:
    return (yield request)


def _sleep(seconds: float, stopped: Callable[[], bool]) -> None:
    until = clock.monotonic() + seconds
    while (left := until - clock.monotonic()) > 0 and not stopped():
        clock.sleep(min(left, STOP_CHECK_SECONDS))


def _note(limiter: RateLimiter, error: ApiError) -> None:
    """Have the limiter know of a refusal for too many requests."""
    if error.status == TOO_MANY_REQUESTS:
        limiter.refused(clock.monotonic(), error.retry_after, random.random())
