"""The operator that starts a run and waits for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar, NoReturn, TypeVar

from airflow.providers.common.compat.sdk import AirflowException, AirflowTaskTimeout, conf

from airflow_provider_runs.base.decisions import IF_RUNNING, ON_UNKNOWN_START, Attempt, Rules
from airflow_provider_runs.base.exceptions import Interrupted, RequestRefused, RunFailed, RunTimedOut
from airflow_provider_runs.base.link import RUN_URL
from airflow_provider_runs.base.own_state import LEFT_GOING, Stop, own_state, stop_of
from airflow_provider_runs.base.patience import StartDelayed
from airflow_provider_runs.base.record import RECORD_KEY, StartRecord, fingerprint_of
from airflow_provider_runs.base.start import DurableStart
from airflow_provider_runs.base.task import Limits, RunTask, ServiceTask
from airflow_provider_runs.base.worker import Attended, Killed
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import CanCancel, CanListActive
from airflow_provider_runs.core.errors import BadInput, RunsError, is_permanent
from airflow_provider_runs.core.inputs import id_text, one_of, seconds, set_attributes
from airflow_provider_runs.core.outcome import Limit, Outcome, Verdict
from airflow_provider_runs.core.progress import UNREACHABLE_TIMEOUT
from airflow_provider_runs.core.retry import NO_RETRY
from airflow_provider_runs.core.run import Run, RunState

T = TypeVar("T")
WEEK = timedelta(days=7)
KILL_SECONDS = 4.0
"""How long a killed task has: Airflow ends its process 5 s after the first signal."""
GLANCE_SECONDS = 1.0
CONFIRM_SECONDS = 10.0
CANCEL_TIMEOUT = 60.0
ON_REMOTE_CANCEL = ("fail_without_retry", "retry", "skip")


class TriggerRunOperator(RunTask):
    """
    Start a run, wait until it has ended and fail if it ended badly.

    On Airflow 3.3 and later a retry goes on with the run that an earlier try started, and a cleared task
    starts anew. The task returns the run's id and pushes its page as ``run_url``; both are there as soon as
    the run is started, also if the task fails later.

    :param wait_for_completion: whether to wait; else the task is done as soon as the run is started.
    :param deferrable: whether to wait in the triggerer, which needs no worker slot. Default: Airflow's
        ``[operators] default_deferrable``.
    :param poll_interval: longest time between two looks at the run, in seconds. Young runs are looked at more
        often: after a tenth of their age.
    :param min_poll_interval: shortest time between two looks, in seconds.
    :param timeout: how long to wait, in seconds or as timedelta; None: for ever. The run then goes on, unless
        ``cancel_on_timeout``.
    :param cancel_on_timeout: whether the run is cancelled when ``timeout`` is over.
    :param cancel_on_kill: whether the run is cancelled when a person ends the task (marks or clears it, or
        its DAG run), when ``execution_timeout`` is over, and when a newer run of the cleared task takes its
        place.
    :param unreachable_timeout: how long an outage of the service may last, in seconds or as timedelta, for
        services whose starts carry a key also at the start; None: until ``timeout``. A longer one fails the
        task without a verdict on the run; a retry attaches to it.
    :param no_progress_timeout: how long the run may keep its first status, in seconds or as timedelta; None:
        for ever.
    :param on_remote_cancel: what a run means that somebody cancelled in the tool: ``fail_without_retry``,
        ``retry`` (the task fails, and a retry starts another run) or ``skip``.
    :param skip_on_states: the tool's words for ended runs that skip the task.
    :param if_running: what becomes of the task while another run of the same goes, whoever started it:
        ``start`` one nevertheless, ``attach`` to the newest of them (it is never cancelled), ``skip`` or
        ``fail``. Needs a tool that can list its active runs. It is not atomic: two tasks that look at the
        same moment may both start one.
    """

    timeout_error = RunTimedOut
    run_fields: ClassVar[tuple[str, ...]]
    """Attributes that make up the service's own arguments."""
    resource_fields: ClassVar[tuple[str, ...]]
    """Those of them that name what is run; where they change, a run of an earlier try is not gone on with."""
    shared_template_fields: ClassVar[tuple[str, ...]] = (
        "poll_interval",
        "min_poll_interval",
        "timeout",
        "unreachable_timeout",
        "no_progress_timeout",
    )

    template_fields: Sequence[str] = shared_template_fields
    retry_from_failure: bool = False
    """Whether a retry goes on with the run of the try before, where that ended badly."""
    on_unknown_start: str = "fail"
    """What becomes of a start whose answer was lost where nothing tells which run is the task's own."""
    _has_cancelled = False
    """Whether this try has sent a cancel: whoever finds the run cancelled must not blame somebody else."""

    def __init__(
        self,
        *,
        wait_for_completion: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float | None = None,
        min_poll_interval: float | None = None,
        timeout: float | timedelta | None = WEEK,
        cancel_on_timeout: bool = False,
        cancel_on_kill: bool = True,
        unreachable_timeout: float | timedelta | None = UNREACHABLE_TIMEOUT,
        no_progress_timeout: float | timedelta | None = None,
        on_remote_cancel: str = "fail_without_retry",
        skip_on_states: Collection[str] | str = (),
        if_running: str = "start",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.on_remote_cancel = on_remote_cancel
        self.skip_on_states = skip_on_states
        self.if_running = if_running
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.min_poll_interval = min_poll_interval
        self.timeout = timeout
        self.cancel_on_timeout = cancel_on_timeout
        self.cancel_on_kill = cancel_on_kill
        self.unreachable_timeout = unreachable_timeout
        self.no_progress_timeout = no_progress_timeout

    def execute(self, context: Any) -> str:
        """
        Start the run or find the one that an earlier try started; wait for it.

        :param context: Airflow's context.
        :return: the run's id.
        :raises RunFailed: if the run ended badly (RunCancelled and RunTimedOut among it).
        :raises RunsError: if it could not be started or asked about.
        """
        attended = self._attend()
        limits = self._checked(lambda: self._limits(self.poll_interval, self.timeout))
        self._checked(self._check_rules)
        start = self._checked(lambda: self._start(context, limits))
        try:
            run = attended.run(start.ensure)
            self._publish(context, run)
            if attended.killed:
                raise Killed
            if not self.wait_for_completion:
                return run.id
            if run.state.is_terminal:
                return self._conclude(context, Outcome.of(run), own=lambda: not start.attached)
            trigger = self._trigger(
                context,
                run.id,
                limits,
                cancel_on_kill=self.cancel_on_kill and not start.attached,
                started_at=self._began(run, start),
                deferrable=self.deferrable,
            )
            if self.deferrable:
                if trigger.cancel_on_kill and start.store is not None:
                    # A trigger that is told to stop asks for it; Airflow logs an error where there is none.
                    context["ti"].xcom_push(key=LEFT_GOING, value=None)
                self.defer(trigger=trigger, method_name="execute_complete")
            outcome = self._wait_here(attended, trigger)
            return self._conclude(
                context, outcome, own=lambda: not (start.attached or self._is_superseded(start))
            )
        except StartDelayed as delay:
            self._delay(context, delay.seconds)
        except Killed:
            self._killed(context, attended, start)
        except AirflowTaskTimeout:
            if self.cancel_on_kill and not start.attached:
                self._note(context, cancelled=True)
            self._cancel_begun(attended, start, "execution_timeout is over")
            if start.run is not None and (start.attached or not self.cancel_on_kill):
                self._leave(context, start.run.id)
            raise
        except BaseException:
            # Airflow 2 follows on_kill by an exception of its own.
            if attended.killed:
                self._killed(context, attended, start)
            raise

    def _delay(self, context: Any, seconds: float) -> NoReturn:
        """Wait in the triggerer until the service takes a start, so that no worker slot is held meanwhile."""
        from airflow.providers.common.compat.standard.triggers import TimeDeltaTrigger

        deadline = self._execution_deadline(context)
        if deadline is not None and clock.time() + seconds >= deadline:
            # Airflow's own alarm begins anew when the task is resumed.
            raise AirflowTaskTimeout(f"execution_timeout is over before {self.service} takes a start")
        self.log.info("%s has the start wait: sending it in %.0f s", self.service, seconds)
        self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=seconds)), method_name="execute_delayed")
        raise AssertionError("defer always raises")

    def execute_delayed(self, context: Any, event: Any) -> str:
        """
        Start the run that the service did not take at first, as :meth:`execute`.

        :param context: Airflow's context.
        :param event: the timer's event.
        :return: the run's id.
        """
        return self.execute(context)

    def execute_complete(self, context: Any, event: Any) -> str:
        """
        Go on after the trigger has fired.

        :param context: Airflow's context.
        :param event: the trigger's event.
        :return: the run's id.
        :raises RunFailed: as :meth:`execute`.
        :raises BadEvent: if the event says nothing that can be relied on.
        """
        outcome = Outcome.from_event(event)
        record = self._stored(context)
        if record is not None and record.run_id not in (None, outcome.run_id):
            self._wait_on(context, record, outcome.run_id)
        return self._conclude(context, outcome, own=lambda: self._is_own(context))

    def _wait_on(self, context: Any, record: StartRecord, run_id: str) -> NoReturn:
        """
        Go on waiting for the task's run after an event about another one.

        Where a cleared task defers again at once, Airflow on SQLite may give its trigger the id of the one
        that was just deleted and still goes: its last event then resumes the new try.
        """
        own = str(record.run_id)
        self.log.warning("The event is about run %s, not about this task's run %s: waiting on", run_id, own)
        trigger = self._trigger(
            context,
            own,
            self._limits(self.poll_interval, self.timeout),
            cancel_on_kill=self.cancel_on_kill and not record.attached,
            started_at=record.started_at,
            deferrable=True,
        )
        self.defer(trigger=trigger, method_name="execute_complete")
        raise AssertionError("defer always raises")

    def _is_own(self, context: Any) -> bool:
        """Tell whether this task started its run. Not sure counts as no: such a run is not cancelled."""
        if self._store(context) is None:
            return self.if_running != "attach"
        record = self._stored(context)
        return record is not None and not record.attached

    def _store(self, context: Any) -> Any:
        return context.get("task_state_store") if self._is_durable() else None

    def _stored(self, context: Any) -> StartRecord | None:
        """Return the start record, None where there is none that can be read."""
        store = self._store(context)
        try:
            return None if store is None else StartRecord.from_json(store.get(RECORD_KEY))
        except Exception:  # hides no verdict
            return None

    @staticmethod
    def _began(run: Run, start: DurableStart) -> float | None:
        """Return since when the run goes, UTC epoch seconds; a run that is retried keeps its first start."""
        record = start.record
        if run.started_at is not None and (record is None or record.resumes is None):
            return run.started_at.timestamp()
        return None if record is None else record.started_at

    def _check_rules(self) -> None:
        one_of("on_remote_cancel", self.on_remote_cancel, ON_REMOTE_CANCEL)
        one_of("if_running", self.if_running, IF_RUNNING)
        one_of("on_unknown_start", self.on_unknown_start, ON_UNKNOWN_START)
        if self.if_running != "start" and self._resumes() is not None:
            raise BadInput("if_running is for tasks that start a new run")
        if self.if_running != "start" and not issubclass(self.hook_class.api_class, CanListActive):
            raise BadInput(f"{self.service} cannot list active runs: if_running can be start only")

    def _start(self, context: Any, limits: Limits) -> DurableStart:
        ti = context["ti"]
        rules = Rules(
            retry_from_failure=self.retry_from_failure,
            if_running=self.if_running,
            on_unknown_start=self.on_unknown_start,
            cancel_superseded=self.cancel_on_kill,
            unreachable_timeout=limits.outage_timeout,
            is_final=self._is_final,
        )
        attempt = Attempt(
            self.hook_class.api_class,
            self._fingerprint(ti),
            ti.max_tries,
            # A clear raises max_tries to the tries made plus the retries that are allowed.
            is_retry=ti.try_number > ti.max_tries - self.retries + 1,
            clears=getattr(context.get("dag_run"), "clear_number", None),
            resumes=self._resumes(),
            rules=rules,
        )
        return DurableStart(
            self.hook,
            self._arguments(),
            attempt,
            store=self._store(context),
            may_delay=self.deferrable,
            log=self.log,
        )

    def _is_final(self, run: Run, record: StartRecord, cleared: bool) -> bool:
        """
        Tell whether the bad end of an earlier try's run is the task's verdict.

        It is not where the task itself may have cancelled the run, at a deadline or because it was cleared.
        """
        cancelled = run.state is RunState.CANCELLED
        if not self._is_skipped(run.status) and not (cancelled and self.on_remote_cancel != "retry"):
            return False
        if not cancelled or not issubclass(self.hook_class.api_class, CanCancel):
            return True
        if record.cancelled:
            return False
        killed = self.cancel_on_kill and (cleared or self.execution_timeout is not None)
        return not (killed or self.cancel_on_timeout) or record.left or record.attached

    def _resumes(self) -> str | None:
        """Return the id of the ended run that the task goes on with, None where it starts a new one."""
        return None

    def _is_durable(self) -> bool:
        """Tell whether the start is recorded."""
        return True

    def _arguments(self) -> dict[str, Any]:
        """Return the service's own arguments, as far as the user set them."""
        return set_attributes(self, self.run_fields)

    def _fingerprint(self, ti: Any) -> str:
        what: dict[str, Any] = {name: str(getattr(self, name)) for name in self.resource_fields}
        if ti.map_index is not None and ti.map_index >= 0:
            what |= {name: getattr(self, name, None) for name in self._mapped_fields()}
        return fingerprint_of([self.service, self.conn_id, self.scope], what)

    def _mapped_fields(self) -> list[str]:
        """Return the run's arguments that differ from one mapped task instance to the next."""
        original: Any = self.dag.task_dict.get(self.task_id) if self.get_dag() else None
        mapped = getattr(getattr(original, "expand_input", None), "value", None)
        if isinstance(mapped, dict):
            return [name for name in self.run_fields if name in mapped]
        return list(self.run_fields)

    def _conclude(self, context: Any, outcome: Outcome, *, own: Callable[[], bool]) -> str:
        """Turn how the wait ended into how the task ends."""
        outcome = self._log_outcome(outcome)
        if outcome.verdict is Verdict.CANCELLED and self._is_own_cancel(context, outcome.run_id):
            raise RunFailed(
                f"{self.service} run {outcome.run_id} was cancelled by an earlier try of this task; a retry "
                "starts another",
                outcome,
            )
        self._skipped(outcome)
        if outcome.verdict is Verdict.SUCCEEDED:
            return outcome.run_id
        wanted = False
        if outcome.verdict is Verdict.TIMEOUT and outcome.which is not None:
            execution = outcome.which is Limit.EXECUTION_TIMEOUT
            wanted = (self.cancel_on_kill if execution else self.cancel_on_timeout) and own()
            if wanted:
                self._note(context, cancelled=True)
            self._cancel(outcome.run_id, f"{outcome.which.value} is over", wanted, CONFIRM_SECONDS)
        if not wanted and outcome.verdict not in (Verdict.FAILED, Verdict.CANCELLED):
            self._leave(context, outcome.run_id)
        raise self._error(outcome)

    # Stopping

    def _killed(self, context: Any, attended: Attended, start: DurableStart) -> NoReturn:
        """Cancel the run if a person ended the task; leave it alone if only the process has to go."""
        start.stopped = True
        state = own_state(context["ti"])
        if stop_of(state) is Stop.BY_PERSON:
            cleared = state in (None, "restarting")
            self._cancel_begun(attended, start, f"the task was ended ({state})", cleared=cleared)
            raise Interrupted(f"the task was ended ({state})")
        if start.run is None:
            # The answer to the start may just be coming, and not every service tells of it again.
            attended.linger(KILL_SECONDS / 2)
        if not self._has_cancelled:
            _at_once(start.leave)
        retry = "goes on with it" if start.store is not None else "starts another"
        raise Interrupted(
            f"the task's process was told to stop while the task was {state}. The {self.service} run "
            f"{start.run.id if start.run else '(maybe started)'} is left alone; a retry {retry}"
        )

    def _cancel_begun(
        self, attended: Attended, start: DurableStart, why: str, *, cleared: bool = False
    ) -> None:
        """
        Cancel this try's run, also if the answer to its start has not come yet.

        :param cleared: whether no newer try can have taken the run over.
        """
        start.stopped = True
        until = clock.monotonic() + KILL_SECONDS
        if start.run is None:
            attended.linger(KILL_SECONDS / 2)
        run_id = start.run.id if start.run else None
        if not cleared and self._is_superseded(start):
            self.log.info("%s, but a newer try has taken the %s run over", why, self.service)
            return
        seen = None if run_id is None else self._glance(run_id) or start.run

        def cancel() -> None:
            run = start.find() if run_id is None else seen
            if run is None:
                self.log.warning("%s: no started %s run is known", why, self.service)
            elif run.state.is_terminal:
                # As a newer try saw, which ended the task while this process stood still.
                self.log.info("%s; %s run %s has ended: %s", why, self.service, run.id, run.status)
            else:
                wanted = self.cancel_on_kill and not start.attached
                self._cancel(run.id, why, wanted, confirm=until - clock.monotonic() - 1.0)

        try:
            if not attended.finish(cancel, until - clock.monotonic()):
                self.log.warning(
                    "%s, but %s run %s may go on: no end seen in time", why, self.service, run_id or ""
                )
        except RunsError as error:
            self.log.warning("%s, but %s run %s may go on: %s", why, self.service, run_id or "", error)

    def _glance(self, run_id: str) -> Run | None:
        """Return the run, or None if it is not to be had at once: then it is cancelled unseen."""
        return _at_once(lambda: self.hook.get_run(run_id))

    @staticmethod
    def _is_superseded(start: DurableStart) -> bool:
        """
        Tell whether a newer try has taken over from this one, whose process stood still.

        Airflow gives each try an id of its own: what the task has stored is out of the old one's reach.
        """
        store = start.store
        if store is None or start.record is None:
            return False
        return _at_once(lambda: store.get(RECORD_KEY) is None) or False

    def _leave(self, context: Any, run_id: str) -> None:
        """Note that this try leaves its run going, so that whoever cancels it then is somebody else."""

        # An old try finds no record: its XComs are also those of the newer one that has taken the run over.
        if self._store(context) is None or self._note(context, left=True):
            with suppress(Exception):  # hides no verdict
                context["ti"].xcom_push(key=LEFT_GOING, value=run_id)

    def _note(self, context: Any, **changes: Any) -> bool:
        """Change the start record; return whether there was one to change, within reach and time."""

        def note() -> bool:
            record = self._stored(context)
            if record is not None:
                self._store(context).set(RECORD_KEY, replace(record, **changes).to_json())
            return record is not None

        return _at_once(note) or False

    def _is_own_cancel(self, context: Any, run_id: str) -> bool:
        """Tell whether the task itself has cancelled a run whose end it sees only now."""
        if not issubclass(self.hook_class.api_class, CanCancel):
            return False
        record = self._stored(context)
        return record is not None and record.cancelled and record.run_id == run_id

    def _cancel(self, run_id: str, why: str, wanted: bool, confirm: float) -> None:
        """Cancel a run and read back, for some seconds, that it has ended. Never raises."""
        if not wanted or not issubclass(self.hook_class.api_class, CanCancel):
            reason = f"{self.service} cannot cancel" if wanted else "it is not to be cancelled"
            self.log.warning(
                "%s; %s run %s goes on (%s): %s", why, self.service, run_id, reason, self._page(run_id)
            )
            return
        self.log.info("%s: cancelling %s run %s", why, self.service, run_id)
        self._has_cancelled = True
        try:
            run = self.hook.cancel_and_confirm(run_id, confirm)
        except (RunsError, AirflowException) as error:
            self.log.warning("%s run %s may go on, cancelling it failed: %s", self.service, run_id, error)
            return
        if run.state.is_terminal:
            self.log.info("%s run %s has ended: %s", self.service, run_id, run.status)
        else:
            self.log.warning("%s run %s is still %s after it was cancelled", self.service, run_id, run.status)

    def _page(self, run_id: str) -> str:
        # Asked once: a word in the log is not worth the minutes that an outage could hold the task up.
        try:
            return self.hook.drive(lambda api: api.get(run_id), NO_RETRY).url or "no page"
        except RunsError as error:
            return f"no page, {error}"


def _at_once(work: Callable[[], T]) -> T | None:
    """Return what some work returns; None if that takes too long for a task that is to end, or fails."""
    results: list[T] = []
    with suppress(Exception):
        Attended().finish(lambda: results.append(work()), GLANCE_SECONDS)
    return results[0] if results else None


class RetryRunOperator(TriggerRunOperator):
    """
    Go on with an ended run where it went wrong, wait for it and fail if it ends badly again.

    The arguments and the promises are those of :class:`TriggerRunOperator`. A retry of the task goes on with
    the run if it still goes, is done if it has succeeded, and retries it once more if it failed again.

    :param run_id: the ended run's id, or a template of it.
    """

    shared_template_fields: ClassVar[tuple[str, ...]] = ("run_id", *TriggerRunOperator.shared_template_fields)

    def __init__(self, *, run_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_id = run_id

    def _resumes(self) -> str:
        return id_text("run_id", self.run_id)


class CancelRunOperator(ServiceTask):
    """
    Cancel runs and read back that they have ended.

    A run that has ended already is left as it is, which is no error; the log says how it ended. Where one of
    several runs cannot be cancelled, the others still are. The task returns the id or the list of ids.

    :param run_id: the run's id or a template of it; or a list of them, such as another task's ``output``.
    :param timeout: how long to read back, in seconds or as timedelta.
    """

    template_fields: Sequence[str] = ("run_id", "timeout")

    def __init__(
        self, *, run_id: str | Sequence[str], timeout: float | timedelta = CANCEL_TIMEOUT, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.run_id = run_id
        self.timeout = timeout

    def execute(self, context: Any) -> str | list[str]:
        """
        Cancel the runs.

        :param context: Airflow's context.
        :return: the run's id, or the list of ids.
        :raises RequestRefused: if the service refuses for good, or an argument is wrong.
        :raises RunTimedOut: if a run has not ended in time. A retry cancels it again, which does no harm.
        :raises RunsError: if the service cannot be asked.
        """
        run_ids, limit = self._checked(self._wanted)
        until = clock.monotonic() + limit
        self.log.info("Cancelling %s run %s", self.service, ", ".join(run_ids))
        open_ends, errors = self._cancel_runs(run_ids)
        for run_id in open_ends:
            try:
                self._confirm(context, run_id, until, alone=len(run_ids) == 1)
            except RunsError as error:
                self.log.error("%s", error)
                errors[run_id] = error
        # One that a retry may heal comes first: what it repeats does no harm.
        for healing in (error for error in errors.values() if not is_permanent(error)):
            raise healing
        if errors:
            raise RequestRefused("; ".join(str(error) for error in errors.values()))
        return run_ids[0] if isinstance(self.run_id, (str, int)) else run_ids

    def _cancel_runs(self, run_ids: Sequence[str]) -> tuple[list[str], dict[str, RunsError]]:
        """Cancel runs; return those that have to be read back, and why others were not cancelled."""
        errors: dict[str, RunsError] = {}
        for run_id in run_ids:
            try:
                self.hook.cancel_run(run_id)
            except RunsError as error:
                self.log.error("%s run %s was not cancelled: %s", self.service, run_id, error)
                errors[run_id] = error
        return [run_id for run_id in run_ids if run_id not in errors], errors

    def _wanted(self) -> tuple[list[str], float]:
        """Return the ids and the seconds to read back, checked."""
        given = [self.run_id] if isinstance(self.run_id, (str, int)) else list(self.run_id or ())
        run_ids = [id_text("run_id", one) for one in given]
        limit = seconds("timeout", self.timeout)
        if not run_ids or limit is None:
            raise BadInput("run_id is empty" if not run_ids else "timeout is not set")
        return run_ids, limit

    def _confirm(self, context: Any, run_id: str, until: float, *, alone: bool) -> None:
        """Read back until a run has ended; push its page if it is the only one."""
        run = self.hook.wait_until_ended(run_id, until)
        if alone and run.url:
            context["ti"].xcom_push(key=RUN_URL, value=run.url)
        if not run.state.is_terminal:
            raise RunTimedOut(f"{self.service} run {run_id} is still {run.status} after it was cancelled")
        self.log.info("%s run %s has ended: %s", self.service, run_id, run.status)
