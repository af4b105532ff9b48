"""The way to a service for all who poll through one connection and scope in one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar
from weakref import WeakKeyDictionary

from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import RunApi
from airflow_provider_runs.core.drivers import AsyncDriver, load_libraries
from airflow_provider_runs.core.errors import Unauthorized
from airflow_provider_runs.core.http import Flow
from airflow_provider_runs.core.limiter import RateLimiter
from airflow_provider_runs.core.outage import OutageDetector
from airflow_provider_runs.core.turns import limiter_of

REREAD_SECONDS = 600.0
REREAD_AGAIN_SECONDS = 30.0
UNAUTHORIZED = 401
SECOND_ATTEMPT_AFTER = 15.0
"""Seconds after a refusal of the credentials until they are tried once more."""
MORE_ATTEMPTS_AFTER = 120.0
"""
Seconds after each further refusal: some services lock the address after a few, and each refusal renews the
lock, which stops good connections, too.
"""

T = TypeVar("T")
Connect = Callable[[], Awaitable[RunApi]]


class Channel:
    """
    Send polls: by one client session, within the connection's rate, through what the connection says today.

    The connection is read again after a refusal, after an outage and every ten minutes. A service that
    refuses the credentials is asked again once the connection has changed, or after minutes.

    :param connect: reads the connection and returns the service's description for it.
    """

    def __init__(self, connect: Connect) -> None:
        self.detector = OutageDetector()
        self.users = 0
        self._connect = connect
        self._driver: AsyncDriver | None = None
        self._retired: list[AsyncDriver] = []
        self._connecting = asyncio.Lock()
        self._limiter: RateLimiter | None = None
        self._read_at = 0.0
        self._is_stale = False
        self._refusal: Unauthorized | None = None
        self._refusals = 0
        self._refused_until = 0.0

    @property
    def api(self) -> RunApi | None:
        """The service's description that was used last; None: the connection has not been read yet."""
        return None if self._driver is None else self._driver.api

    async def send(self, flow_of: Callable[[RunApi], Flow[T]], *, has_slot: bool = False) -> T:
        """
        Poll and return what the service says. Nothing is repeated.

        :param flow_of: the poll, given the service's description.
        :param has_slot: whether :meth:`acquire` has given the first request its slot.
        :raises RunsError: whatever the poll raises; ConnectionFailed where it takes too long as a whole.
        """
        driver = await self.connected()
        if self._refusal is not None and clock.monotonic() < self._refused_until:
            self._is_stale = True
            # A new one: the frames of an error that was raised before would grow with each time.
            raise Unauthorized(str(self._refusal), status=UNAUTHORIZED)
        try:
            result = await driver.poll(flow_of(driver.api), has_slot=has_slot)
        except Unauthorized as error:
            self._is_stale = True
            if error.status == UNAUTHORIZED and driver is self._driver:
                self._refused(error)
            raise
        self._refusal, self._refusals = None, 0
        return result

    def reread(self) -> None:
        """Have the connection read again before the next poll."""
        self._is_stale = True

    def available_at(self) -> float:
        """Return the monotonic moment from which a poll may leave, as far as is known now."""
        now = clock.monotonic()
        free_at = now if self._limiter is None else self._limiter.available_at(now)
        return max(free_at, self.detector.backoff_until)

    def acquire(self) -> bool | None:
        """Take a slot for a poll, and tell whether one was free; None: the connection is not known yet."""
        return None if self._limiter is None else self._limiter.acquire(clock.monotonic())

    async def connected(self) -> AsyncDriver:
        """
        Return the driver, after reading the connection again where it may have changed.

        :raises RunsError: if it cannot be read, and never could.
        """
        if (driver := self._current()) is not None:
            return driver
        async with self._connecting:
            if (driver := self._current()) is not None:
                return driver  # somebody else was quicker
            now = clock.monotonic()
            try:
                if self._driver is None:
                    await asyncio.to_thread(load_libraries)
                api = await self._connect()
                if self._driver is not None:
                    await self._driver.renew_certificates()
            except Exception:
                if self._driver is None:
                    raise
                self._read_at, self._is_stale = now - REREAD_SECONDS + REREAD_AGAIN_SECONDS, False
                return self._driver
            self._read_at, self._is_stale = now, False
            if self._driver is None or self._driver.api.settings != api.settings:
                if self._driver is not None:
                    self._retired.append(self._driver)
                self._driver = AsyncDriver(api)
                self._limiter = limiter_of(api)
                self._refusal, self._refusals = None, 0
            return self._driver

    def _current(self) -> AsyncDriver | None:
        """Return the driver, if the connection need not be read again."""
        is_old = self._is_stale or clock.monotonic() - self._read_at >= REREAD_SECONDS
        return None if is_old else self._driver

    def _refused(self, error: Unauthorized) -> None:
        self._refusal, self._refusals = error, self._refusals + 1
        pause = SECOND_ATTEMPT_AFTER if self._refusals == 1 else MORE_ATTEMPTS_AFTER
        self._refused_until = clock.monotonic() + pause

    async def close(self) -> None:
        """Close the client sessions."""
        drivers = (*self._retired, *([self._driver] if self._driver else []))
        self._driver, self._retired = None, []
        for driver in drivers:
            await driver.close()


_channels: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, Channel]] = WeakKeyDictionary()


def open_channel(key: Hashable, connect: Connect) -> Channel:
    """
    Return the channel that all in the running event loop with the same key share, until they leave it.

    :param key: the connection and scope.
    :param connect: reads the connection and returns the service's description for it.
    """
    channels = _channels.setdefault(asyncio.get_running_loop(), {})
    channel = channels.setdefault(key, Channel(connect))
    channel.users += 1
    return channel


async def leave_channel(key: Hashable, channel: Channel) -> None:
    """
    Use a channel no more; the last one who leaves closes it.

    :param key: what it was opened by.
    :param channel: the channel.
    """
    channel.users -= 1
    if channel.users == 0:
        channels = _channels.get(asyncio.get_running_loop(), {})
        if channels.get(key) is channel:
            del channels[key]
        await channel.close()
