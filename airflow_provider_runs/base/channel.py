"""The way to a service for all who poll through one connection and scope in one event loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar
from weakref import WeakKeyDictionary

from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import RunApi
from airflow_provider_runs.core.connection import Settings
from airflow_provider_runs.core.drivers import AsyncDriver, load_libraries
from airflow_provider_runs.core.errors import Unauthorized
from airflow_provider_runs.core.http import Flow
from airflow_provider_runs.core.limiter import ROUNDING, Place, RateLimiter
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
        self._polls: Counter[AsyncDriver] = Counter()
        """How many polls are under way by each driver."""
        self._connecting = asyncio.Lock()
        self._limiter: RateLimiter | None = None
        self._read_at = 0.0
        self._is_stale = False
        self._place: Place | None = None
        """In the queue of the limiter, while a poll waits for its slot."""

    @property
    def api(self) -> RunApi | None:
        """The service's description that was used last; None: the connection has not been read yet."""
        return None if self._driver is None else self._driver.api

    def redact(self, text: str) -> str:
        """
        Return a text with every secret of the connection masked, as far as it has been read.

        :param text: the text.
        """
        return text if self.api is None else self.api.redact(text)

    async def send(self, flow_of: Callable[[RunApi], Flow[T]], *, has_slot: bool = False) -> T:
        """
        Poll and return what the service says. Nothing is repeated.

        :param flow_of: the poll, given the service's description.
        :param has_slot: whether :meth:`acquire` has given the first request its slot.
        :raises RunsError: whatever the poll raises; ConnectionFailed where it takes too long as a whole.
        """
        driver = await self.connected()
        refusals = _refusals_of(driver.api)
        if refusals.hold():
            self._is_stale = True
            raise Unauthorized(refusals.message, status=UNAUTHORIZED)
        self._polls[driver] += 1
        try:
            result = await driver.poll(flow_of(driver.api), has_slot=has_slot)
        except Unauthorized as error:
            self._is_stale = True
            if error.status == UNAUTHORIZED:
                refusals.count(str(error))
            raise
        finally:
            self._polls[driver] -= 1
            if driver is not self._driver and not self._polls[driver]:
                del self._polls[driver]
                await driver.close()
        refusals.times = 0
        return result

    def reread(self) -> None:
        """Have the connection read again before the next poll."""
        self._is_stale = True

    def available_at(self) -> float:
        """Return the monotonic moment at which a poll is to come for its slot, as far as is known now."""
        now = clock.monotonic()
        if self._limiter is None or self._backs_off(now):
            return max(now, self.detector.backoff_until)
        self._place = self._place or self._limiter.join()
        return self._limiter.available_at(now, self._place)

    def acquire(self) -> bool | None:
        """Take a slot for a poll, and tell whether one was free; None: the connection is not known yet."""
        now = clock.monotonic()
        if self._backs_off(now):
            self.give_up_place()
            return False
        if self._limiter is None:
            return None
        self._place = self._place or self._limiter.join()
        is_free = self._limiter.acquire(now, self._place)
        if is_free:
            self._place = None
        return is_free

    def _backs_off(self, now: float) -> bool:
        return now < self.detector.backoff_until - ROUNDING

    def give_up_place(self) -> None:
        """Have no poll wait for a slot any more."""
        if self._limiter is not None and self._place is not None:
            self._limiter.leave(self._place)
        self._place = None

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
            replaced = self._driver
            if replaced is None or replaced.api.settings != api.settings:
                self.give_up_place()
                self._driver = AsyncDriver(api)
                self._limiter = limiter_of(api)
                if replaced is not None and not self._polls[replaced]:
                    del self._polls[replaced]
                    await replaced.close()
            assert self._driver is not None
            return self._driver

    def _current(self) -> AsyncDriver | None:
        """Return the driver, if the connection need not be read again."""
        is_old = self._is_stale or clock.monotonic() - self._read_at >= REREAD_SECONDS
        return None if is_old else self._driver

    async def close(self) -> None:
        """Close the client sessions."""
        self.give_up_place()
        drivers = {*self._polls, *([self._driver] if self._driver else [])}
        self._driver = None
        self._polls.clear()
        for driver in drivers:
            await driver.close()


class _Refusals:
    """How often a service has refused the credentials of a connection in a row, in this process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.times = 0
        self.message = ""
        self._until = 0.0

    def hold(self) -> bool:
        """Tell whether the service is not to be asked just now."""
        return self.times > 0 and clock.monotonic() < self._until

    def count(self, message: str) -> None:
        """Count a refusal; those of requests that were under way together count once."""
        if not self.hold():
            self.times, self.message = self.times + 1, message
            pause = SECOND_ATTEMPT_AFTER if self.times == 1 else MORE_ATTEMPTS_AFTER
            self._until = clock.monotonic() + pause


_refusals: dict[tuple[str, str, str], _Refusals] = {}


def _refusals_of(api: RunApi) -> _Refusals:
    """Return those of a connection, whatever the scope and event loop; a changed one has none."""
    found = _refusals.get(api.connection_key)
    if found is None or found.settings != api.settings:
        found = _refusals[api.connection_key] = _Refusals(api.settings)
    return found


_channels: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, Channel]] = WeakKeyDictionary()


def open_channel(key: Hashable, connect: Connect) -> Channel:
    """
    Return the channel that all in the running event loop with the same key share, until they leave it.

    :param key: the connection and scope.
    :param connect: reads the connection and returns the service's description for it.
    """
    channels = _channels.setdefault(asyncio.get_running_loop(), {})
    if key not in channels:
        channels[key] = Channel(connect)
    channel = channels[key]
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
