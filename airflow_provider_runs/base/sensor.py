"""The sensor that waits for a run that something else started."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_provider_runs.base.exceptions import (
    Interrupted,
    RequestRefused,
    RunStatusUnknown,
    RunUnreachable,
)
from airflow_provider_runs.base.own_state import own_state
from airflow_provider_runs.base.task import RunTask
from airflow_provider_runs.base.watch import NONE_YET, search_for_run
from airflow_provider_runs.base.worker import Killed
from airflow_provider_runs.core.errors import BadInput, RunsError
from airflow_provider_runs.core.inputs import instant, required_text
from airflow_provider_runs.core.outcome import BadEvent, Outcome, Verdict
from airflow_provider_runs.core.progress import UNREACHABLE_TIMEOUT, Trouble
from airflow_provider_runs.core.retry import NO_RETRY
from airflow_provider_runs.core.run import Run, RunState


class RunSensor(RunTask, BaseSensorOperator):
    """
    Wait until a run has ended and fail if it ended badly. A sensor never cancels a run.

    Where the service can list runs, a run can also be waited for whose id is not known, by what it belongs to
    and the moment since when it was created. Of several, one that has succeeded counts, else the first that
    still goes, else the last.

    The three modes give the same verdict. ``soft_fail`` skips the task where the run failed, was cancelled or
    took too long; it does not hide a service that cannot be asked, which ``reschedule`` mode waits for until
    ``timeout``. The task returns the run's id and pushes its page as ``run_url``.

    :param run_id: the run's id, or a template of it.
    :param since: without a ``run_id``: the moment after which the run was created, as datetime or ISO 8601
        with offset, or a template of it.
    :param deferrable: whether to wait in the triggerer. Default: Airflow's
        ``[operators] default_deferrable``.
    :param min_poll_interval: shortest time between two looks, in seconds; ``poke_interval`` is the longest.
    :param unreachable_timeout: how long an outage of the service may last, in seconds or as timedelta; None:
        until ``timeout``. In ``reschedule`` mode every outage is waited out until ``timeout``.
    :param no_progress_timeout: how long the run may keep its first status, in seconds or as timedelta; None:
        for ever. Has no effect in ``reschedule`` mode.
    :param skip_on_states: the tool's words for ended runs that skip the task.
    """

    timeout_error = AirflowSensorTimeout
    search_fields: ClassVar[tuple[str, ...]] = ()
    """Attributes by which a run can be searched for whose id is not known."""
    shared_template_fields: ClassVar[tuple[str, ...]] = (
        "run_id",
        "since",
        "min_poll_interval",
        "unreachable_timeout",
        "no_progress_timeout",
    )
    template_fields: Sequence[str] = shared_template_fields

    def __init__(
        self,
        *,
        run_id: str | None = None,
        since: datetime | str | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        min_poll_interval: float | None = None,
        unreachable_timeout: float | timedelta | None = UNREACHABLE_TIMEOUT,
        no_progress_timeout: float | timedelta | None = None,
        skip_on_states: Collection[str] | str = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.run_id = run_id
        self.since = since
        self.deferrable = deferrable
        self.min_poll_interval = min_poll_interval
        self.unreachable_timeout = unreachable_timeout
        self.no_progress_timeout = no_progress_timeout
        self.skip_on_states = skip_on_states

    def execute(self, context: Any) -> Any:
        """
        Wait for the run in the mode that was chosen.

        :param context: Airflow's context.
        :return: the run's id.
        :raises RunFailed: if the run ended badly.
        :raises AirflowSensorTimeout: if ``timeout`` is over.
        :raises RunsError: if the service cannot be asked.
        """
        if self.reschedule and not self.deferrable:
            return super().execute(context)
        attended = self._attend()
        try:
            limits = self._checked(lambda: self._limits(self.poke_interval, self.timeout))
            run = attended.run(lambda: self._checked(self._look))
            self._publish_page(context, run)
            if run.state.is_terminal:
                return self._conclude(Outcome.of(run))
            search = self._search()
            began = run.started_at.timestamp() if run.started_at else None
            trigger = self._trigger(
                context,
                self._named(search),
                limits,
                cancel_on_kill=False,
                started_at=began if search is None else search["since"],
                deferrable=self.deferrable,
                search=search,
            )
            if self.deferrable:
                self.defer(trigger=trigger, method_name="execute_complete")
            outcome = self._wait_here(attended, trigger)
            self._publish_found(context, outcome)
        except Killed:
            raise Interrupted(
                f"the sensor's process was told to stop while the task was {own_state(context['ti'])}"
            ) from None
        except AirflowTaskTimeout as error:
            self._end(error)
        except (RunUnreachable, RequestRefused) as error:
            self._raise(error)
        return self._conclude(outcome)

    def execute_complete(self, context: Any, event: Any) -> str:
        """
        Go on after the trigger has fired.

        :param context: Airflow's context.
        :param event: the trigger's event.
        :return: the run's id.
        :raises RunFailed: as :meth:`execute`.
        :raises BadEvent: if the event says nothing that can be relied on.
        """
        try:
            outcome = Outcome.from_event(event)
        except BadEvent as error:
            self._raise(error)
        self._publish_found(context, outcome)
        return self._conclude(outcome)

    def poke(self, context: Any) -> bool | PokeReturnValue:
        """
        Look at the run once, for ``reschedule`` mode.

        :param context: Airflow's context.
        :return: whether the run has succeeded, with its id.
        """
        try:
            self._checked(self._skip_states)
            run = self._checked(self._look)
        except RequestRefused as error:
            # Airflow's own loop would turn an error that is not to be retried into a skip under soft_fail.
            self._raise(BadInput(str(error)) if self.soft_fail else error)
        except RunsError as error:
            self._raise(error)
        self._publish_page(context, run)
        if not run.state.is_terminal:
            return False
        return PokeReturnValue(True, xcom_value=self._conclude(Outcome.of(run)))

    def _search(self) -> dict[str, Any] | None:
        """
        Return what the run is searched by, None where its id is given.

        :raises BadInput: if both are given, or neither.
        """
        given = {name: getattr(self, name) for name in self.search_fields}
        filters = {name: value for name, value in given.items() if value is not None}
        if self.run_id is not None:
            if filters or self.since is not None:
                raise BadInput(f"give either run_id or {', '.join(filters) or 'since'}, not both")
            return None
        if not filters or self.since is None:
            other = f"; give it, or since together with {' or '.join(self.search_fields)}"
            raise BadInput(f"run_id is empty{other if self.search_fields else ''}")
        return {**filters, "since": instant("since", self.since)}

    def _named(self, search: Mapping[str, Any] | None) -> str:
        """Return the run's id, or a name for the search."""
        if search is None:
            return required_text("run_id", self.run_id if isinstance(self.run_id, str) else str(self.run_id))
        words = [f"{name} {value}" for name, value in search.items() if name != "since"]
        return f"{', '.join(words)} since {datetime.fromtimestamp(search['since'], UTC).isoformat()}"

    def _look(self) -> Run:
        """
        Return the run, UNKNOWN where the service cannot be asked just now.

        Where there is none yet that fits the search, its id is the name of the search.
        """
        search = self._search()
        named = self._named(search)
        try:
            if search is None:
                run = self.hook.drive(lambda api: api.get(named), NO_RETRY)
            else:
                run = self.hook.drive(lambda api: search_for_run(api, search), NO_RETRY)
        except BadInput:
            raise
        except RunsError as error:
            if Trouble.of(error) is Trouble.REFUSED and self.reschedule and not self.deferrable:
                raise RunUnreachable(f"{self.service} refuses to be asked about {named}: {error}") from None
            self.log.warning("%s cannot be asked about %s just now: %s", self.service, named, error)
            return Run(named, RunState.UNKNOWN, "")
        if run is NONE_YET:
            self.log.info("%s has no run with %s yet", self.service, named)
            return Run(named, RunState.PENDING, "")
        self.log.info("%s run %s is %s", self.service, run.id, run.status)
        return run

    def _publish_found(self, context: Any, outcome: Outcome) -> None:
        """Push the page of a run that was searched for; that it cannot be read hides no verdict."""
        if self.run_id is not None or outcome.status is None:
            return
        try:
            self._publish_page(context, self.hook.get_run(outcome.run_id))
        except RunsError as error:
            self.log.warning("The page of run %s is not known: %s", outcome.run_id, error)

    def _publish_page(self, context: Any, run: Run) -> None:
        if run.url:
            self._publish(context, run)

    def _conclude(self, outcome: Outcome) -> str:
        """Turn how the wait ended into how the task ends."""
        outcome = self._told(outcome)
        self._skipped(outcome)
        if outcome.verdict is Verdict.SUCCEEDED:
            return outcome.run_id
        error = self._error(outcome)
        if isinstance(error, (RunUnreachable, RunStatusUnknown)):
            self._raise(error)
        self._end(error)

    def _end(self, error: BaseException) -> NoReturn:
        """End with a verdict, which ``soft_fail`` turns into a skip."""
        if self.soft_fail or self.never_fail:
            raise AirflowSkipException(str(error)) from error
        raise error

    def _raise(self, error: RunsError) -> NoReturn:
        """End without a verdict, which only ``never_fail`` turns into a skip."""
        if self.never_fail:
            raise AirflowSkipException(str(error)) from error
        raise error
