"""The sensor that waits for a run, or a list of runs, that something else started."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
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
from airflow_provider_runs.base.link import RUN_URL
from airflow_provider_runs.base.own_state import own_state
from airflow_provider_runs.base.poller import NONE_YET, search_for_run
from airflow_provider_runs.base.task import RunTask
from airflow_provider_runs.base.worker import Killed
from airflow_provider_runs.core.errors import BadInput, ConnectionUnreadable, RunsError
from airflow_provider_runs.core.inputs import id_text, instant, set_attributes, text_list
from airflow_provider_runs.core.outcome import MOST_TOLD, BadEvent, Limit, Outcome, Tally, Verdict
from airflow_provider_runs.core.progress import UNREACHABLE_TIMEOUT, Trouble
from airflow_provider_runs.core.retry import NO_RETRY
from airflow_provider_runs.core.run import Run, RunState

MOST_EXPLAINED = 3
"""Runs of a list about whose bad ends the service is asked: each may take several requests."""


class RunSensor(RunTask, BaseSensorOperator):
    """
    Wait until a run has ended and fail if it ended badly. A sensor never cancels a run.

    Of a list of runs (``run_ids``) all are waited for, also after one has failed; then the task succeeds if
    all have, and else ends with one error that names those that have not. What counts is, in this order: a
    limit that is over, a run that failed, could not be asked about, kept an unknown status, was cancelled, is
    in ``skip_on_states``. They are asked about in the service's batches.

    Where the service can list runs, a run can also be waited for whose id is not known, by what it belongs to
    and the moment since when it was created. Of several, one that has succeeded counts, else the first that
    still goes, else the last.

    The three modes give the same verdict. ``soft_fail`` skips the task where the run failed, was cancelled or
    took too long; it does not hide a service that cannot be asked, which ``reschedule`` mode waits for until
    ``timeout``. The task returns the run's id and pushes its page as ``run_url``; for a list it returns the
    list, and pushes the page of the first run that its error names.

    :param run_id: the run's id, or a template of it.
    :param run_ids: instead of one, the ids of the runs: a list, such as the ``output`` of a mapped task, or a
        template of a list. It must not be empty; a run that it holds twice is waited for once.
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
        "run_ids",
        "since",
        "min_poll_interval",
        "unreachable_timeout",
        "no_progress_timeout",
    )
    template_fields: Sequence[str] = shared_template_fields
    _left = ""
    """For ``reschedule`` mode: what the last look at a list has left open."""

    def __init__(
        self,
        *,
        run_id: str | None = None,
        run_ids: Sequence[str] | str | None = None,
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
        self.run_ids = run_ids
        self.since = since
        self.deferrable = deferrable
        self.min_poll_interval = min_poll_interval
        self.unreachable_timeout = unreachable_timeout
        self.no_progress_timeout = no_progress_timeout
        self.skip_on_states = skip_on_states

    def execute(self, context: Any) -> Any:
        """
        Wait for the run or the runs in the mode that was chosen.

        :param context: Airflow's context.
        :return: the run's id; for a list, the ids in order.
        :raises RunFailed: if a run ended badly.
        :raises AirflowSensorTimeout: if ``timeout`` is over.
        :raises RunsError: if the service cannot be asked.
        """
        if self.reschedule and not self.deferrable:
            try:
                return super().execute(context)
            except (AirflowSensorTimeout, AirflowSkipException) as error:
                if not self._left:
                    raise
                raise type(error)(f"{error} {self._left}") from None
        attended = self._attend()
        try:
            limits = self._checked(lambda: self._limits(self.poke_interval, self.timeout))
            run_ids = self._checked(self._wanted_runs)
            if run_ids is None:
                run = attended.run(lambda: self._checked(self._look))
                self._publish_page(context, run)
                if run.state.is_terminal:
                    return self._conclude(context, Outcome.of(run))
                search = self._search()
                named = self._named(search)
                began = run.started_at.timestamp() if run.started_at else None
            else:
                search, named, began = None, f"{len(run_ids)} runs", None
            trigger = self._trigger(
                context,
                named,
                limits,
                cancel_on_kill=False,
                started_at=began if search is None else search["since"],
                deferrable=self.deferrable,
                search=search,
                run_ids=run_ids,
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
        return self._conclude(context, outcome)

    def execute_complete(self, context: Any, event: Any) -> str | list[str]:
        """
        Go on after the trigger has fired.

        :param context: Airflow's context.
        :param event: the trigger's event.
        :return: the run's id; for a list, the ids in order.
        :raises RunFailed: as :meth:`execute`.
        :raises BadEvent: if the event says nothing that can be relied on.
        """
        try:
            outcome = Outcome.from_event(event)
            self._check_count(outcome)
        except BadEvent as error:
            self._raise(error)
        self._publish_found(context, outcome)
        return self._conclude(context, outcome)

    def poke(self, context: Any) -> bool | PokeReturnValue:
        """
        Look at the run or the runs once, for ``reschedule`` mode.

        :param context: Airflow's context.
        :return: whether all have succeeded, with the run's id or the list of ids.
        """
        try:
            self._checked(self._skip_states)
            run_ids = self._checked(self._wanted_runs)
            if run_ids is None:
                run = self._checked(self._look)
                self._publish_page(context, run)
                outcome = Outcome.of(run) if run.state.is_terminal else None
            else:
                outcome = self._look_at_all(run_ids)
        except RequestRefused as error:
            # Airflow's own loop would turn an error that is not to be retried into a skip under soft_fail.
            self._raise(BadInput(str(error)) if self.soft_fail else error)
        except RunsError as error:
            self._raise(error)
        if outcome is None:
            return False
        return PokeReturnValue(True, xcom_value=self._conclude(context, outcome))

    def _wanted_runs(self) -> list[str] | None:
        """
        Return the ids of the runs where a list is waited for, each once.

        :raises BadInput: if there is something else to wait for beside, or one of them cannot be an id.
        """
        if self.run_ids is None:
            return None
        others = ("run_id", *self.search_fields, "since")
        if given := [name for name in others if getattr(self, name) is not None]:
            raise BadInput(f"give either run_ids or {', '.join(given)}, not both")
        run_ids = text_list("run_ids", _fetched(self.run_ids))
        for run_id in run_ids:
            self.hook_class.api_class.check_run_id(run_id)
        return run_ids

    def _check_count(self, outcome: Outcome) -> None:
        """
        Compare an event with what the task waits for.

        :raises BadEvent: if it speaks of other runs. A list is rendered anew when the task is resumed.
        """
        run_ids = self._checked(self._wanted_runs)
        wanted = 1 if run_ids is None else len(run_ids)
        told = 1 if outcome.tallies is None else sum(tally.count for tally in outcome.tallies)
        if told != wanted or (run_ids is None) != (outcome.tallies is None):
            raise BadEvent(f"the event that resumed the task tells of {told} runs, but it waits for {wanted}")

    def _look_at_all(self, run_ids: Sequence[str]) -> Outcome | None:
        """Return how the runs of a list have ended, None while one goes or cannot be asked about."""
        self._left = ""
        try:
            answers = self.hook.get_runs(run_ids, attempts=1)
        except ConnectionUnreadable as unreadable:
            raise RunUnreachable(
                f"{self.service} refuses to be asked about {_first(run_ids)}: {unreadable}"
            ) from unreadable
        unasked = {run_id: answer for run_id, answer in answers.items() if isinstance(answer, RunsError)}
        runs = [answer for answer in answers.values() if isinstance(answer, Run)]
        for run_id, error in unasked.items():
            if Trouble.of(error) is Trouble.REFUSED:
                raise RunUnreachable(f"{self.service} refuses to be asked about {run_id}: {error}")
        going = [f"{run.id} ({run.status})" for run in runs if not run.state.is_terminal]
        ended = [Outcome.of(run) for run in runs if run.state.is_terminal]
        self.log.info("%s of %s %s runs have ended", len(ended), len(run_ids), self.service)
        if unasked:
            named = _first(list(unasked))
            self.log.warning(
                "%s cannot be asked about %s runs just now: %s: %s",
                self.service,
                len(unasked),
                named,
                next(iter(unasked.values())),
            )
        if len(ended) == len(run_ids):
            return Outcome.of_many(f"{len(run_ids)} runs", ended)
        still = [*going, *(f"{run_id} (could not be asked about)" for run_id in unasked)]
        self._left = f"{len(still)} of {len(run_ids)} {self.service} runs had not ended: {_first(still)}"
        return None

    def _search(self) -> dict[str, Any] | None:
        """
        Return what the run is searched by, None where its id is given.

        :raises BadInput: if both are given, or neither.
        """
        filters = set_attributes(self, self.search_fields)
        if self.run_id is not None:
            if filters or self.since is not None:
                raise BadInput(f"give either run_id or {', '.join(filters) or 'since'}, not both")
            return None
        if not filters or self.since is None:
            other = (
                f" or since together with {' or '.join(self.search_fields)}," if self.search_fields else ""
            )
            raise BadInput(f"run_id is empty; give it,{other} or run_ids")
        return {**filters, "since": instant("since", self.since)}

    def _named(self, search: Mapping[str, Any] | None) -> str:
        """Return the run's id, or a name for the search."""
        if search is None:
            return id_text("run_id", self.run_id)
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
        if self.run_id is not None or outcome.tallies is not None or outcome.status is None:
            return
        try:
            self._publish_page(context, self.hook.get_run(outcome.run_id))
        except RunsError as error:
            self.log.warning("The page of run %s is not known: %s", outcome.run_id, error)

    def _publish_first(self, context: Any, outcome: Outcome) -> None:
        """Push the page of the first run that did not end well; that it cannot be read hides no verdict."""
        try:
            run = self.hook.drive(lambda api: api.get(outcome.run_id), NO_RETRY)
        except RunsError as error:
            self.log.warning("The page of run %s is not known: %s", outcome.run_id, error)
            return
        if run.url:
            context["ti"].xcom_push(key=RUN_URL, value=run.url)

    def _publish_page(self, context: Any, run: Run) -> None:
        if run.url:
            self._publish(context, run)

    def _conclude(self, context: Any, outcome: Outcome) -> str | list[str]:
        """Turn how the wait ended into how the task ends."""
        run_ids = None
        if outcome.tallies is None:
            outcome = self._log_outcome(outcome)
            self._skipped(outcome)
        else:
            run_ids = self._wanted_runs()
            outcome = self._judged(context, outcome, outcome.tallies)
        if outcome.verdict is Verdict.SUCCEEDED:
            return outcome.run_id if run_ids is None else run_ids
        error = self._error(outcome)
        if isinstance(error, (RunUnreachable, RunStatusUnknown)):
            self._raise(error)
        self._end(error)

    def _judged(self, context: Any, outcome: Outcome, tallies: Sequence[Tally]) -> Outcome:
        """Return how a list ended, with the first reasons; skip the task where the user wants that."""
        skipped = [one for one in tallies if one.verdict.is_of_the_run and self._is_skipped(one.status)]
        others = [one for one in tallies if one not in skipped]
        judged = Outcome.of_tallies(outcome.run_id, others) if others else None
        if judged is None or judged.verdict is Verdict.SUCCEEDED:
            if skipped:
                raise AirflowSkipException(f"{outcome.described(self.service)} (skip_on_states)")
            self.log.info("%s", outcome.described(self.service))
            return outcome
        explained = self._explain_first(judged.tallies or ())
        if judged.verdict is not Verdict.UNREACHABLE:
            self._publish_first(context, explained[0].told[0])
        return replace(judged, tallies=(*explained, *skipped))

    def _explain_first(self, tallies: Sequence[Tally]) -> list[Tally]:
        """Put into the log what the service says about the first runs that ended badly."""
        left = MOST_EXPLAINED
        explained = []
        for tally in tallies:
            told = tally.told
            if tally.verdict.is_of_the_run or tally.which is Limit.NO_PROGRESS_TIMEOUT:
                told = (*(self._explain(one) for one in told[:left]), *told[left:])
                left = max(0, left - len(told))
            explained.append(replace(tally, told=told))
        return explained

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


def _fetched(given: Any) -> Any:
    """Return the results of a mapped task by one request; as a plain sequence, each would take one."""
    try:
        from airflow.sdk.execution_time.lazy_sequence import LazyXComSequence
    except ImportError:  # Airflow 2 reads them all by one query
        return given
    return given[:] if isinstance(given, LazyXComSequence) else given


def _first(named: Sequence[str]) -> str:
    """Return the first of many names."""
    more = len(named) - MOST_TOLD
    return ", ".join(named[:MOST_TOLD]) + (f" and {more} more" if more > 0 else "")
