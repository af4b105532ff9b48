"""
Cancel the runs of deferred tasks that were ended: those of one connection and scope together.

A person who ends a DAG run ends hundreds of tasks at once. Their runs are cancelled by as few requests as the
service allows, in the turns that the connection's rate gives, and the time of each begins with its turn.
"""

from __future__ import annotations

import asyncio
import itertools
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
"""Runs that one worker cancels one after the other, where one request cancels one, and polls together."""
WORKERS = 6
"""Batches of one connection that are under way at the same time."""
CONFIRM_SECONDS = 60.0
"""How long runs are polled until they have ended, once the service has taken their cancel."""
CONFIRM_INTERVALS = (0.5, 1.0, 2.0)
"""Seconds from one of those polls to the next; the last one for ever."""
CANCEL_SECONDS = 300.0
"""
Longest time in seconds for a batch, from its turn: logins, requests, the waits that the service asks for, and
polls.
"""
LAST_SECONDS = 15.0
"""
Longest time in seconds in which a process that is told to stop sends the cancels that are wanted of it.
"""


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
        self._size = api_class.cancel_batch_size if issubclass(api_class, CanCancelMany) else SINGLES
        self._waiting: dict[str, asyncio.Future[Run]] = {}
        self._under_way: dict[str, asyncio.Future[Run]] = {}
        self._unsent: set[str] = set()
        """Those whose cancel no request has brought to the service."""
        self._workers: set[asyncio.Task[None] | None] = set()

    async def cancel(self, run_id: str) -> Run:
        """
        Cancel a run and poll it until it has ended, with others that come at the same time.

        :param run_id: the service's id.
        :return: the run as it was seen last; it may not have ended, surely where the service cannot cancel.
        :raises RunsError: if the service refuses or is unreachable.
        :raises TimeoutError: if that takes too long.
        """
        future = self._waiting.get(run_id) or self._under_way.get(run_id)
        if future is None:
            future = self._waiting[run_id] = asyncio.get_running_loop().create_future()
            self._unsent.add(run_id)
            if len(self._workers) < WORKERS:
                self._workers.add(asyncio.create_task(self._work()))
        return await asyncio.shield(future)

    async def _work(self) -> None:
        try:
            await self._work_off()
        except asyncio.CancelledError:
            await self._send_at_once()
            raise

    async def _work_off(self) -> None:
        await asyncio.sleep(BATCH_WINDOW)
        while self._waiting:
            batch = {run_id: self._waiting.pop(run_id) for run_id in [*self._waiting][: self._size]}
            self._under_way |= batch
            try:
                async with asyncio.timeout(CANCEL_SECONDS):
                    await self._carry_out(dict(batch))
            except Exception as error:
                for future in batch.values():
                    if not future.done():
                        future.set_exception(error)
            finally:
                for run_id, future in batch.items():
                    del self._under_way[run_id]
                    future.cancel()  # no effect on what is done
            self._unsent.difference_update(batch)
        self._workers.discard(asyncio.current_task())
        if not self._workers:  # one that still waits for others to come may need what would be closed
            self._on_idle()
            await self._hook.aclose()

    async def _send_at_once(self) -> None:
        """Send what is wanted in the little time that a process has which is told to stop."""
        run_ids, self._unsent = [*self._unsent], set()
        if run_ids and issubclass(self._hook.api_class, CanCancel):
            with suppress(RunsError, TimeoutError):
                async with asyncio.timeout(LAST_SECONDS):
                    await self._hook.adrive(lambda api: cancel_runs(api, run_ids), NO_RETRY, Turn.URGENT)

    async def _carry_out(self, left: dict[str, asyncio.Future[Run]]) -> None:
        """Cancel runs and poll them until they have ended."""
        # A trigger that was moved, and whose task and run have ended since, comes here too.
        self._deliver(left, await self._poll([*left], NO_RETRY), only_ended=True)
        failed: dict[str, RunsError] = {}
        until = clock.monotonic()
        if issubclass(self._hook.api_class, CanCancel) and left:
            failed = await self._cancel([*left])
            until = clock.monotonic() + CONFIRM_SECONDS
        for interval in itertools.chain(CONFIRM_INTERVALS, itertools.repeat(CONFIRM_INTERVALS[-1])):
            if not left:
                return
            answers = await self._poll([*left], DEFAULT_RETRY)
            has_time = clock.monotonic() < until
            self._deliver(left, answers, only_ended=True)
            self._deliver(left, failed)
            self._deliver(left, {} if has_time else answers)
            if left and self._hook.may_lose_cancels:
                failed = await self._cancel([*left])
            if left:
                await asyncio.sleep(interval)

    @staticmethod
    def _deliver(
        left: dict[str, asyncio.Future[Run]],
        answers: Mapping[str, Run | RunsError],
        *,
        only_ended: bool = False,
    ) -> None:
        for run_id, answer in answers.items():
            if run_id not in left:
                continue
            if isinstance(answer, Run) and (answer.state.is_terminal or not only_ended):
                left.pop(run_id).set_result(answer)
            elif isinstance(answer, RunsError) and not only_ended:
                left.pop(run_id).set_exception(answer)

    async def _poll(self, run_ids: list[str], retry: RetryPolicy) -> dict[str, Run | RunsError]:
        return await self._hook.adrive(lambda api: get_runs(api, run_ids), retry)

    async def _cancel(self, run_ids: list[str]) -> dict[str, RunsError]:
        failed = await self._hook.adrive(lambda api: cancel_runs(api, run_ids))
        self._unsent.difference_update(run_ids)
        return failed


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
