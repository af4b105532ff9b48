"""The sensor that waits for a run that something else started."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
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
from airflow_provider_runs.base.worker import Killed
from airflow_provider_runs.core.errors import BadInput, RunsError
from airflow_provider_runs.core.inputs import required_text
from airflow_provider_runs.core.outcome import BadEvent, Outcome
from airflow_provider_runs.core.progress import UNREACHABLE_TIMEOUT, Trouble
from airflow_provider_runs.core.retry import NO_RETRY
from airflow_provider_runs.core.run import Run, RunState


class RunSensor(RunTask, BaseSensorOperator):
    """
    Wait until a run has ended and fail if it ended badly. A sensor never cancels a run.

    The three modes give the same verdict. ``soft_fail`` skips the task where the run failed, was cancelled or
    took too long; it does not hide a service that cannot be asked. The task returns the run's id and pushes
    its page as ``run_url``.

    :param run_id: the run's id, or a template of it.
    :param deferrable: whether to wait in the triggerer. Default: Airflow's
        ``[operators] default_deferrable``.
    :param min_poll_interval: shortest time between two looks, in seconds; ``poke_interval`` is the longest.
    :param unreachable_timeout: how long an outage of the service may last, in seconds or as timedelta; None:
        until ``timeout``. In ``reschedule`` mode every outage is waited out until ``timeout``.
    :param no_progress_timeout: how long the run may keep its first status, in seconds or as timedelta; None:
        for ever. Has no effect in ``reschedule`` mode.
    """

    timeout_error = AirflowSensorTimeout
    shared_template_fields: ClassVar[tuple[str, ...]] = (
        "run_id",
        "min_poll_interval",
        "unreachable_timeout",
        "no_progress_timeout",
    )
    template_fields: Sequence[str] = shared_template_fields

    def __init__(
        self,
        *,
        run_id: str,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        min_poll_interval: float | None = None,
        unreachable_timeout: float | timedelta | None = UNREACHABLE_TIMEOUT,
        no_progress_timeout: float | timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.run_id = run_id
        self.deferrable = deferrable
        self.min_poll_interval = min_poll_interval
        self.unreachable_timeout = unreachable_timeout
        self.no_progress_timeout = no_progress_timeout

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
            trigger = self._trigger(
                context, run, limits, cancel_on_kill=False, started_at=None, deferrable=self.deferrable
            )
            if self.deferrable:
                self.defer(trigger=trigger, method_name="execute_complete")
            outcome = self._wait_here(attended, trigger)
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
        return self._conclude(outcome)

    def poke(self, context: Any) -> bool | PokeReturnValue:
        """
        Look at the run once, for ``reschedule`` mode.

        :param context: Airflow's context.
        :return: whether the run has succeeded, with its id.
        """
        try:
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

    def _look(self) -> Run:
        """Return the run, UNKNOWN where the service cannot be asked just now."""
        run_id = required_text("run_id", self.run_id if isinstance(self.run_id, str) else str(self.run_id))
        try:
            run = self.hook.drive(lambda api: api.get(run_id), NO_RETRY)
        except BadInput:
            raise
        except RunsError as error:
            if Trouble.of(error) is Trouble.REFUSED and self.reschedule and not self.deferrable:
                raise RunUnreachable(
                    f"{self.service} refuses to be asked about run {run_id}: {error}"
                ) from None
            self.log.warning("%s cannot be asked about run %s just now: %s", self.service, run_id, error)
            return Run(run_id, RunState.UNKNOWN, "")
        self.log.info("%s run %s is %s", self.service, run.id, run.status)
        return run

    def _publish_page(self, context: Any, run: Run) -> None:
        if run.url:
            self._publish(context, run)

    def _conclude(self, outcome: Outcome) -> str:
        """Turn how the wait ended into how the task ends."""
        if self._succeeded(outcome):
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
