"""One driver for each event loop that uses a hook: a session of aiohttp works in its own loop only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from airflow_provider_runs.core.api import RunApi
from airflow_provider_runs.core.drivers import AsyncDriver


class LoopDrivers:
    """
    The asynchronous drivers of one hook, one for each event loop.

    A driver is closed by :meth:`close`, else at the end of its loop (as ``asyncio.run`` ends one), or when
    nothing holds this object any more.
    """

    def __init__(self) -> None:
        self._kept: dict[asyncio.AbstractEventLoop, tuple[AsyncDriver, AsyncGenerator[None, None]]] = {}

    async def get(self, read_api: Callable[[], Awaitable[RunApi]]) -> AsyncDriver:
        """
        Return the driver of the running event loop.

        :param read_api: reads the connection, where there is no driver yet.
        """
        loop = asyncio.get_running_loop()
        if loop not in self._kept:
            made = AsyncDriver(await read_api())
            # Another task may have been quicker.
            if loop not in self._kept:
                for ended in [each for each in tuple(self._kept) if each.is_closed()]:
                    self._kept.pop(ended, None)
                self._kept[loop] = made, (guard := _guard(made))
                await anext(guard)
        return self._kept[loop][0]

    async def close(self) -> None:
        """Close the driver of the running event loop."""
        if kept := self._kept.pop(asyncio.get_running_loop(), None):
            await kept[1].aclose()


async def _guard(driver: AsyncDriver) -> AsyncGenerator[None, None]:
    """Close a driver when this generator is closed, as an event loop does with each that has begun in it."""
    try:
        yield
    finally:
        await driver.close()
