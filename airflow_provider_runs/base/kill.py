"""
Cancel the runs of deferred tasks that were ended: those of one connection and scope together.

A person who ends a DAG run ends hundreds of tasks at once. Their runs are cancelled by as few requests as the
service allows, in the turns that the connection's rate gives, and the time of each begins with its turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from weakref import WeakKeyDictionary

from airflow_provider_runs.base.hook import RunHook
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import CanCancel, CanCancelMany
from airflow_provider_runs.core.drivers import DEFAULT_RETRY
from airflow_provider_runs.core.errors import RunsError
from airflow_provider_runs.core.many import cancel_runs, get_runs
from airflow_provider_runs.core.retry import NO_RETRY, RetryPolicy
from airflow_provider_runs.core.run import Run
from airflow_provider_runs.core.turns import Turn

BATCH_WINDOW = 0.3
"""Seconds for which a cancel waits for others to come with it."""
SINGLES = 10
"""Runs that are cancelled one after the other, where one request cancels one."""
WORKERS = 6
"""Batches of one connection whose cancels are sent at the same time."""
CONFIRM_SECONDS = 60.0
"""How long runs are polled until they have ended, once the service has taken their cancel."""
CONFIRM_INTERVALS = (0.5, 1.0, 2.0)
"""Seconds from one of those polls to the next; the last one for ever."""
CANCEL_SECONDS = 300.0
"""Longest time in seconds for the cancels of a batch, from its turn, and for a poll."""
LAST_SECONDS = 15.0
"""
Longest time in seconds in which a process that is told to stop sends the cancels that are wanted of it.
"""


class Kill:
    """A run that is to be cancelled."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[Run] = asyncio.get_running_loop().create_future()
        """The run as it was seen last."""
        self.sent_at: float | None = None
        """On the monotonic clock: when the service had taken the cancel, or refused it."""
        self.error: Exception | None = None
        """Why the cancel failed; the run may have ended nevertheless, which the next poll tells."""


class KillQueue:
    """
    The runs of one connection and scope that are to be cancelled.

    :param hook: the service, which is closed when nothing is left to be cancelled.
    :param on_idle: called just before that.
    """

    def __init__(self, hook: RunHook, on_idle: Callable[[], object]) -> None:
        self._hook = hook
        self._on_idle = on_idle
        api_class = hook.api_class
        self._can_cancel = issubclass(api_class, CanCancel)
        self._size = api_class.cancel_batch_size if issubclass(api_class, CanCancelMany) else SINGLES
        self._kills: dict[str, Kill] = {}
        self._news = asyncio.Event()
        self._turns = asyncio.Semaphore(WORKERS)
        self._worker: asyncio.Task[None] | None = None
        self._is_connected = False

    async def cancel(self, run_id: str) -> Run:
        """
        Cancel a run and poll it until it has ended, with others that come meanwhile.

        :param run_id: the service's id.
        :return: the run as it was seen last; it may not have ended, surely where the service cannot cancel.
        :raises RunsError: if the service refuses or is unreachable.
        :raises TimeoutError: if that takes too long.
        """
        kill = self._kills.get(run_id)
        if kill is None:
            kill = self._kills[run_id] = Kill()
            self._news.set()
            if self._worker is None:
                self._worker = asyncio.create_task(self._work())
        return await asyncio.shield(kill.ended)

    async def _work(self) -> None:
        intervals = iter(CONFIRM_INTERVALS)
        try:
            while self._kills:
                if self._news.is_set():
                    await asyncio.gather(asyncio.sleep(BATCH_WINDOW), self._connect())
                    self._news.clear()
                    intervals = iter(CONFIRM_INTERVALS)
                    await self._send(self._unsent())
                await self._confirm()
                if self._kills:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(next(intervals, CONFIRM_INTERVALS[-1])):
                            await self._news.wait()
        except asyncio.CancelledError:
            await self._send_at_once()
            raise
        finally:
            self._worker = None
            for kill in self._kills.values():
                kill.ended.cancel()
            self._on_idle()
            await self._hook.aclose()

    async def _connect(self) -> None:
        """Read the connection while that can be done: a process that is told to stop reads nothing more."""
        with suppress(RunsError, TimeoutError):
            async with asyncio.timeout(CANCEL_SECONDS):
                await self._hook.async_driver()
                self._is_connected = True

    def _unsent(self) -> list[str]:
        return [run_id for run_id, kill in self._kills.items() if kill.sent_at is None]

    async def _send(self, run_ids: list[str]) -> None:
        """Have the service cancel runs whose cancel was not sent yet."""
        # Where a trigger was moved, its new process cancels, too; or its task and run have ended since.
        answers = await self._polled(run_ids, NO_RETRY)
        self._deliver({run_id: run for run_id, run in answers.items() if _has_ended(run)})
        await self._send_batches([run_id for run_id in run_ids if run_id in self._kills])

    async def _send_batches(self, run_ids: list[str]) -> None:
        batches = [run_ids[first : first + self._size] for first in range(0, len(run_ids), self._size)]
        await asyncio.gather(*map(self._send_batch, batches))

    async def _send_batch(self, run_ids: list[str]) -> None:
        async with self._turns:
            errors: Mapping[str, Exception] = {}
            try:
                if self._can_cancel:
                    async with asyncio.timeout(CANCEL_SECONDS):
                        errors = await self._hook.adrive(lambda api: cancel_runs(api, run_ids))
            except Exception as error:
                errors = dict.fromkeys(run_ids, error)
        for run_id in run_ids:
            kill = self._kills[run_id]
            kill.sent_at = kill.sent_at or clock.monotonic()
            kill.error = errors.get(run_id)

    async def _send_at_once(self) -> None:
        """Send what is wanted in the little time that a process has which is told to stop."""
        run_ids = self._unsent()
        if run_ids and self._can_cancel and self._is_connected:
            with suppress(RunsError, TimeoutError):
                async with asyncio.timeout(LAST_SECONDS):
                    await self._hook.adrive(lambda api: cancel_runs(api, run_ids), NO_RETRY, Turn.URGENT)

    async def _confirm(self) -> None:
        """Poll the runs whose cancel was sent, and deliver what is known of them in the end."""
        sent = [run_id for run_id, kill in self._kills.items() if kill.sent_at is not None]
        if not sent:
            return
        answers = await self._polled(sent, DEFAULT_RETRY)
        self._deliver({run_id: found for run_id, found in answers.items() if self._is_last(run_id, found)})
        if self._hook.may_lose_cancels:
            await self._send_batches([run_id for run_id in sent if run_id in self._kills])

    def _is_last(self, run_id: str, found: Run | Exception) -> bool:
        """Tell whether nothing more is waited for."""
        kill = self._kills[run_id]
        over = (kill.sent_at or 0.0) + (CONFIRM_SECONDS if self._can_cancel else 0.0)
        return _has_ended(found) or kill.error is not None or clock.monotonic() >= over

    def _deliver(self, answers: Mapping[str, Run | Exception]) -> None:
        for run_id, found in answers.items():
            kill = self._kills.pop(run_id)
            error = found if isinstance(found, Exception) else kill.error
            if kill.ended.done():
                continue
            if isinstance(found, Run) and (error is None or _has_ended(found)):
                kill.ended.set_result(found)
            elif error is not None:
                kill.ended.set_exception(kill.error or error)

    async def _polled(self, run_ids: list[str], retry: RetryPolicy) -> Mapping[str, Run | Exception]:
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                return await self._hook.adrive(lambda api: get_runs(api, run_ids), retry)
        except Exception as error:
            return dict.fromkeys(run_ids, error)


def _has_ended(found: Run | Exception) -> bool:
    return isinstance(found, Run) and found.state.is_terminal


_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, KillQueue]] = WeakKeyDictionary()


async def cancel_with_others(hook: RunHook, run_id: str) -> Run:
    """
    Cancel a run together with what else is cancelled in the running event loop, and poll until it has ended.

    :param hook: the service.
    :param run_id: the service's id.
    :return: the run as it was seen last; it may not have ended, surely where the service cannot cancel.
    :raises RunsError: if the service refuses or is unreachable.
    :raises TimeoutError: if that takes too long.
    """
    queues = _queues.setdefault(asyncio.get_running_loop(), {})
    queue = queues.get(hook.watch_key)
    if queue is None:
        queue = queues[hook.watch_key] = KillQueue(hook, lambda: queues.pop(hook.watch_key, None))
    return await queue.cancel(run_id)
