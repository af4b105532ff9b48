"""The trigger that waits for a run, or a list of runs, while its task is deferred."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_runs.base.channel import Connect
from airflow_provider_runs.base.group import wait_for_runs
from airflow_provider_runs.base.hook import RunHook
from airflow_provider_runs.base.kill import cancel_with_others
from airflow_provider_runs.base.own_state import UNREADABLE, Stop, stop_of, task_state_reader
from airflow_provider_runs.base.poller import wait_for_run
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import CanCancel
from airflow_provider_runs.core.errors import RunsError
from airflow_provider_runs.core.outcome import Outcome, Verdict
from airflow_provider_runs.core.progress import UNREACHABLE_TIMEOUT, Note, Watch

SETTLE_SECONDS = 6.0
"""
Shortest time in seconds from the start of the trigger to its event. Airflow's worker may notice only after
``[workers] min_heartbeat_interval`` (5 s) that the process which deferred has ended. If the task is queued
again by then, the scheduler takes that late notice for the end of a task that never ran and fails it
(https://github.com/apache/airflow/issues/67287).
"""


LEAVES_RUNS = "failed"
"""The state of a task that may have left its run going; where it ended otherwise, so has the run."""


class RunTrigger(BaseTrigger):
    """
    Wait for a run, or a list of runs, and fire one event that says how it ended.

    The class path and the arguments are kept in Airflow's metadata database while tasks are deferred: they
    may only grow, with defaults that never change. They hold JSON values and no secret.

    :param conn_id: the Airflow connection.
    :param run_id: the run.
    :param scope: what was chosen beside the connection.
    :param poll_interval: seconds between two looks at an old run.
    :param min_poll_interval: seconds between two looks at a young run.
    :param execution_deadline: UTC epoch seconds at which the task's ``execution_timeout`` is over, or None.
    :param wait_deadline: UTC epoch seconds at which the wait is over, or None.
    :param cancel_on_kill: whether the run is cancelled when a person ends the deferred task.
    :param started_at: UTC epoch seconds of the run's start, or None.
    :param unreachable_timeout: seconds that an outage may last, or None.
    :param no_progress_timeout: seconds that the run may keep its first status, or None.
    :param search: what the run is searched by (the service's filters, and ``since`` in UTC epoch seconds)
        where its id is not known yet; ``run_id`` then only names the search.
    :param run_ids: the runs, each once, where there are many; ``run_id`` then only names the list, and
        ``cancel_on_kill`` must be off.
    :param unknown: what a newer release has added, which this one does not heed; the log says so.
    """

    hook_class: ClassVar[type[RunHook]]

    def __init__(
        self,
        conn_id: str,
        run_id: str,
        scope: Mapping[str, str] | None = None,
        poll_interval: float = 60.0,
        min_poll_interval: float = 2.0,
        execution_deadline: float | None = None,
        wait_deadline: float | None = None,
        cancel_on_kill: bool = True,
        started_at: float | None = None,
        unreachable_timeout: float | None = UNREACHABLE_TIMEOUT,
        no_progress_timeout: float | None = None,
        search: Mapping[str, Any] | None = None,
        run_ids: Sequence[str] | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._unknown = sorted(unknown)
        self._owed: asyncio.Task[None] | None = None
        self.conn_id = conn_id
        self.run_id = run_id
        self.scope = dict(scope or {})
        self.poll_interval = poll_interval
        self.min_poll_interval = min_poll_interval
        self.execution_deadline = execution_deadline
        self.wait_deadline = wait_deadline
        self.cancel_on_kill = cancel_on_kill
        self.started_at = started_at
        self.unreachable_timeout = unreachable_timeout
        self.no_progress_timeout = no_progress_timeout
        self.search = None if search is None else dict(search)
        self.run_ids = None if run_ids is None else list(run_ids)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments."""
        kind = type(self)
        plain = kind(self.conn_id, self.run_id)
        given = {name: getattr(self, name) for name in _ARGUMENTS}
        # What holds its default is left out: it may be new, and an older release takes the rest.
        return f"{kind.__module__}.{kind.__qualname__}", {
            name: value
            for name, value in given.items()
            if name in ("conn_id", "run_id") or value != getattr(plain, name)
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, telling the task's log what happens, and yield the event."""
        began = clock.monotonic()
        if self.cancel_on_kill and self.task_instance is not None:
            task_state_reader().warm_up(self.task_instance)
        outcome = await self.wait(self._hook().aread_api)
        if self.task_instance is not None:
            await asyncio.sleep(max(0.0, began + SETTLE_SECONDS - clock.monotonic()))
        yield TriggerEvent(outcome.event())  # type: ignore[no-untyped-call]

    async def wait(self, connect: Connect) -> Outcome:
        """
        Wait for the run or the runs and return how the wait ended.

        :param connect: reads the connection and returns the service's description for it.
        """
        service = self.hook_class.api_class.service
        watch = self._watch()
        if self._unknown:
            named = ", ".join(self._unknown)
            self.log.warning("A newer release of this package deferred the task; not heeded: %s", named)
        named = watch.named if self.run_ids is None else self.run_id
        self.log.info("Waiting for %s %s", service, named)
        key = self._hook().watch_key
        if self.run_ids is None:
            outcome = await wait_for_run(key, connect, watch, service, self._tell)
        else:
            outcome = await wait_for_runs(key, connect, self.run_ids, watch, service, self._tell)
        if outcome.verdict is not Verdict.SUCCEEDED:
            self.log.warning("The wait for %s %s is over: %s", service, named, outcome.verdict.value)
        return outcome

    async def on_kill(self) -> None:
        """
        Cancel the run where a person ended the task.

        Airflow (3.3 and later) also calls this for a trigger that was moved to another process while its own
        stood still. The task's state tells the two apart, unless the task has ended by itself meanwhile: then
        the run has ended, too, or the task has noted that it leaves the run going.
        """
        # Airflow 3.3 sends its cancellation again every second until the trigger has ended, which cuts this
        # call short. What is owed to the run goes on in a task of its own, each step within its own limit.
        self._owed = asyncio.create_task(self._cancel_if_owed())
        await self._settle()
        self._owed.result()

    async def cleanup(self) -> None:
        """Wait for what is owed to the run: the task's log is closed after this."""
        await self._settle()

    async def _settle(self) -> None:
        """Wait for what is owed to the run, whoever cancels the wait."""
        while self._owed is not None and not self._owed.done():
            with suppress(asyncio.CancelledError):
                await asyncio.shield(self._owed)

    async def _cancel_if_owed(self) -> None:
        """Cancel the run if a person ended the task."""
        if not self.cancel_on_kill:
            self.log.info("cancel_on_kill is off: run %s goes on", self.run_id)
            return
        try:
            state = await task_state_reader().state(self.task_instance)
            stop = stop_of(state)
            if stop is Stop.UNKNOWN:
                self.log.warning("Run %s may go on: Airflow does not say who ended the task", self.run_id)
            elif stop is Stop.OF_PROCESS:
                self.log.info(
                    "The task is %s: run %s keeps running. If the task was cleared, its next try cancels it",
                    state,
                    self.run_id,
                )
            elif state == LEAVES_RUNS and await self._was_left_going():
                self.log.info("Run %s is left alone: the task has ended by itself", self.run_id)
            else:
                self.log.info("The task was ended (%s)", state or "cleared")
                await self._cancel()
        except (RunsError, TimeoutError) as error:
            self.log.warning("Run %s may go on: %s", self.run_id, str(error) or "no end seen in time")

    async def _was_left_going(self) -> bool:
        """
        Tell whether the task has left the run going when it ended by itself.

        :raises RunsError: if Airflow does not say.
        """
        left = await task_state_reader().left_going(self.task_instance)
        if left == UNREADABLE:
            raise RunsError("Airflow does not say whether the task has left it going when it ended by itself")
        return left == self.run_id

    async def _cancel(self) -> None:
        """Cancel the run, with others that are cancelled at the same time, and poll it until it has ended."""
        service = self.hook_class.api_class.service
        can_cancel = issubclass(self.hook_class.api_class, CanCancel)
        if can_cancel:
            self.log.info("Cancelling %s run %s", service, self.run_id)
        run = await cancel_with_others(self._hook(), self.run_id)
        if run.state.is_terminal:
            self.log.info("%s run %s has ended: %s", service, self.run_id, run.status)
        elif can_cancel:
            self.log.warning("%s run %s is still %s after it was cancelled", service, self.run_id, run.status)
        else:
            self.log.warning("%s cannot cancel: run %s goes on: %s", service, self.run_id, run.url)

    def _hook(self) -> RunHook:
        return self.hook_class.for_scope(self.conn_id, self.scope)

    def _watch(self) -> Watch:
        return Watch(
            self.run_id,
            self.poll_interval,
            self.min_poll_interval,
            self.started_at,
            self.execution_deadline,
            self.wait_deadline,
            self.unreachable_timeout,
            self.no_progress_timeout,
            self.search,
        )

    def _tell(self, note: Note) -> None:
        (self.log.warning if note.alarming else self.log.info)(note.text)


_ARGUMENTS = tuple(
    name
    for name, argument in inspect.signature(RunTrigger).parameters.items()
    if argument.kind is not argument.VAR_KEYWORD
)
