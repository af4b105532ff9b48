"""What an operator and a sensor share: a hook, a wait, deadlines, and word from outside to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar, NamedTuple, TypeVar

from airflow.providers.common.compat.sdk import AirflowSkipException, AirflowTaskTimeout, BaseOperator

from airflow_provider_runs.base.exceptions import (
    RequestRefused,
    RunCancelled,
    RunFailed,
    RunStatusUnknown,
    RunUnreachable,
)
from airflow_provider_runs.base.hook import RunHook
from airflow_provider_runs.base.link import RUN_URL, RunLink
from airflow_provider_runs.base.trigger import RunTrigger
from airflow_provider_runs.base.worker import Attended
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.errors import BadInput, RunsError, is_permanent
from airflow_provider_runs.core.inputs import seconds, set_attributes
from airflow_provider_runs.core.outcome import Limit, Outcome, Verdict
from airflow_provider_runs.core.run import Run
from airflow_provider_runs.core.text import one_line

T = TypeVar("T")
EXPLANATION_LIMIT = 20_000
"""Characters of a service's explanation that go into the log: the last ones."""


class Limits(NamedTuple):
    """A task's durations in seconds, checked."""

    poll_interval: float
    min_poll_interval: float
    timeout: float | None
    unreachable_timeout: float | None
    no_progress_timeout: float | None

    @property
    def outage_timeout(self) -> float | None:
        """How long an outage may last where there is no other limit."""
        return self.timeout if self.unreachable_timeout is None else self.unreachable_timeout


class ServiceTask(BaseOperator):
    """Base of every task that reaches a service through a connection. The constructor does no I/O."""

    hook_class: ClassVar[type[RunHook]]
    operator_extra_links = (RunLink(),)

    @property
    def hook(self) -> RunHook:
        """The service through the task's connection and scope."""
        hook: RunHook | None = getattr(self, "_hook", None)
        if hook is None:
            hook = self._hook = self.hook_class.for_scope(self.conn_id, self.scope)
        return hook

    @property
    def conn_id(self) -> str:
        """
        The Airflow connection.

        :raises BadInput: if its id is empty.
        """
        conn_id = getattr(self, self.hook_class.conn_name_attr)
        if not isinstance(conn_id, str) or not conn_id.strip():
            raise BadInput(f"{self.hook_class.conn_name_attr} is empty")
        return conn_id

    @property
    def scope(self) -> dict[str, str]:
        """What was chosen beside the connection."""
        return set_attributes(self, self.hook_class.api_class.scope_fields)

    @property
    def service(self) -> str:
        """The service's name, for messages."""
        return self.hook_class.api_class.service

    def _publish(self, context: Any, run: Run) -> None:
        """Make the run findable before anything waits for it."""
        self.log.info("%s run %s%s", self.service, run.id, f": {run.url}" if run.url else "")
        if run.url:
            context["ti"].xcom_push(key=RUN_URL, value=run.url)
        if self.do_xcom_push:
            context["ti"].xcom_push(key="return_value", value=run.id)

    @staticmethod
    def _checked(work: Callable[[], T]) -> T:
        """Turn bad input into an error that Airflow does not retry."""
        try:
            return work()
        except BadInput as error:
            raise RequestRefused(str(error)) from None

    @staticmethod
    def _answered(work: Callable[[], T]) -> T:
        """Turn an answer that would come again into an error that Airflow does not retry."""
        try:
            return work()
        except RunsError as error:
            raise (RequestRefused(str(error)) if is_permanent(error) else error) from None


class RunTask(ServiceTask):
    """Base of every task that waits for a run."""

    trigger_class: ClassVar[type[RunTrigger]]
    timeout_error: ClassVar[type[Exception]]
    """What is raised when ``timeout`` is over."""

    unreachable_timeout: float | timedelta | None
    no_progress_timeout: float | timedelta | None
    min_poll_interval: float | None
    skip_on_states: Collection[str] | str
    on_remote_cancel: str = "fail_without_retry"
    _ended_run: str | None = None
    """The run, once this process has seen that it has ended."""

    def on_kill(self) -> None:
        """Note that the process was told to stop; :meth:`execute` decides what that means."""
        attended: Attended | None = getattr(self, "_attended", None)
        if attended is not None:
            attended.kill()

    def _attend(self) -> Attended:
        self._attended = Attended()
        return self._attended

    def _limits(self, poll_interval: Any, timeout: Any) -> Limits:
        """
        Check every duration before anything is started.

        :param poll_interval: what the user gave; None takes the service's.
        :param timeout: what the user gave; None is no limit.
        :raises BadInput: if one of them is no duration.
        """
        self._skip_states()
        pace = self.hook_class.api_class.pace
        longest = seconds("poll_interval", poll_interval) or pace.poll_interval
        shortest = seconds("min_poll_interval", self.min_poll_interval) or pace.min_poll_interval
        return Limits(
            poll_interval=longest,
            min_poll_interval=min(shortest, longest),
            timeout=seconds("timeout", timeout),
            unreachable_timeout=seconds("unreachable_timeout", self.unreachable_timeout),
            no_progress_timeout=seconds("no_progress_timeout", self.no_progress_timeout),
        )

    def _trigger(
        self,
        context: Any,
        run_id: str,
        limits: Limits,
        *,
        cancel_on_kill: bool,
        started_at: float | None,
        deferrable: bool,
        search: Mapping[str, Any] | None = None,
        run_ids: Sequence[str] | None = None,
    ) -> RunTrigger:
        """
        Return the trigger that waits, with this try's deadlines (UTC epoch seconds).

        On a worker Airflow's own alarm keeps ``execution_timeout``; two of them would disturb each other.
        """
        now = clock.time()
        return self.trigger_class(
            conn_id=self.conn_id,
            run_id=run_id,
            scope=self.scope,
            poll_interval=limits.poll_interval,
            min_poll_interval=limits.min_poll_interval,
            execution_deadline=self._execution_deadline(context) if deferrable else None,
            wait_deadline=None if limits.timeout is None else now + limits.timeout,
            cancel_on_kill=cancel_on_kill,
            started_at=started_at,
            unreachable_timeout=limits.unreachable_timeout,
            no_progress_timeout=limits.no_progress_timeout,
            search=search,
            run_ids=run_ids,
        )

    def _execution_deadline(self, context: Any) -> float | None:
        """Return when this try's ``execution_timeout`` is over, UTC epoch seconds."""
        if self.execution_timeout is None:
            return None
        begun = context["ti"].start_date
        since = begun.timestamp() if begun is not None else clock.time()
        return float(since + self.execution_timeout.total_seconds())

    def _wait_here(self, attended: Attended, trigger: RunTrigger) -> Outcome:
        """
        Wait on the worker as the triggerer would.

        The connection is read by Airflow's synchronous call in a thread of its own. To cancel the
        asynchronous one would leave half an answer in the pipe to the task's supervisor.
        """
        waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

        async def wait() -> Outcome:
            task = asyncio.current_task()
            assert task is not None
            waiting.append((asyncio.get_running_loop(), task))
            return await trigger.wait(lambda: asyncio.to_thread(self.hook.read_api))

        try:
            return attended.run(lambda: asyncio.run(wait()))
        except BaseException:
            for loop, task in waiting:
                with suppress(RuntimeError):  # the loop has just ended by itself
                    loop.call_soon_threadsafe(task.cancel)
            raise

    def _explain(self, outcome: Outcome) -> Outcome:
        """
        Put into the log what the service says about a bad end. That it cannot say it hides no verdict.

        :param outcome: how the wait ended.
        :return: the same, with the explanation's first line as message where it has none.
        """
        run_id = outcome.run_id
        try:
            text = self.hook.explain_run(run_id)
        except RunsError as error:
            self.log.warning("%s cannot explain run %s: %s", self.service, run_id, error)
            return outcome
        if not text:
            return outcome
        shown = text
        if len(text) > EXPLANATION_LIMIT:
            shown = f"[{len(text) - EXPLANATION_LIMIT} characters before this]\n{text[-EXPLANATION_LIMIT:]}"
        self.log.error("%s about run %s:\n%s", self.service, run_id, shown)
        return replace(outcome, message=outcome.message or one_line(text.splitlines()[0]))

    def _skip_states(self) -> frozenset[str]:
        """
        Return the words of ``skip_on_states`` in lower case.

        :raises BadInput: if one of them does not end a run in this service.
        """
        given = self.skip_on_states
        words = {str(word).casefold() for word in ((given,) if isinstance(given, str) else given or ())}
        ends = self.hook_class.api_class.statuses.ended_words()
        if unknown := sorted(words.difference(ends)):
            raise BadInput(
                f"skip_on_states: {', '.join(unknown)} ends no {self.service} run; these do: "
                + ", ".join(sorted(ends))
            )
        return frozenset(words)

    def _is_skipped(self, status: str | None) -> bool:
        """Tell whether the user wants the task to be skipped for a run that ended so."""
        return (status or "").casefold() in self._skip_states()

    def _skipped(self, outcome: Outcome) -> None:
        """Skip the task where the user wants that for how the run ended."""
        ended = outcome.verdict in (Verdict.SUCCEEDED, Verdict.FAILED, Verdict.CANCELLED)
        if ended and self._is_skipped(outcome.status):
            raise AirflowSkipException(
                f"{self.service} run {outcome.run_id} ended as {outcome.status}, which is in skip_on_states"
            )

    def _error(self, outcome: Outcome) -> BaseException:
        """Return what the task raises for a wait that ended otherwise than well."""
        text = self._said(outcome)
        if outcome.verdict is Verdict.FAILED:
            return RunFailed(text, outcome)
        if outcome.verdict is Verdict.CANCELLED:
            if self.on_remote_cancel == "skip":
                return AirflowSkipException(text)
            return (RunFailed if self.on_remote_cancel == "retry" else RunCancelled)(text, outcome)
        if outcome.verdict is Verdict.TIMEOUT:
            kind = AirflowTaskTimeout if outcome.which is Limit.EXECUTION_TIMEOUT else self.timeout_error
            return kind(text)
        return (RunUnreachable if outcome.verdict is Verdict.UNREACHABLE else RunStatusUnknown)(text)

    def _said(self, outcome: Outcome) -> str:
        """Return what happened, in words."""
        if outcome.tallies is not None:
            return outcome.described(self.service)
        said = f": {outcome.message}" if outcome.message else ""
        named = f"{self.service} run {outcome.run_id}"
        if outcome.verdict is Verdict.FAILED:
            return f"{named} has failed ({outcome.status}){said}"
        if outcome.verdict is Verdict.CANCELLED:
            return f"{named} was cancelled ({outcome.status}){said}"
        if outcome.verdict is Verdict.TIMEOUT:
            return outcome.message or f"{named} took too long"
        if outcome.verdict is Verdict.UNREACHABLE:
            return outcome.message or f"{named} cannot be asked about"
        return outcome.message or f"{named} has the unknown status {outcome.status}"

    def _log_outcome(self, outcome: Outcome) -> Outcome:
        """Put into the log how the wait ended, and return it with the reason of a bad end."""
        if outcome.verdict.is_of_the_run:
            self._ended_run = outcome.run_id
        if outcome.verdict is Verdict.SUCCEEDED:
            self.log.info("%s run %s has succeeded (%s)", self.service, outcome.run_id, outcome.status)
        elif (
            outcome.verdict in (Verdict.FAILED, Verdict.CANCELLED)
            or outcome.which is Limit.NO_PROGRESS_TIMEOUT
        ):
            return self._explain(outcome)
        return outcome
