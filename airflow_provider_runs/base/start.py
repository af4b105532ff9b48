"""
Start exactly one remote run per task and generation, whatever dies.

The record is written before the start request leaves and completed right after the answer. What a later try
does about it, :mod:`~airflow_provider_runs.base.decisions` says; here it is done.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_runs.base.capabilities import retrying
from airflow_provider_runs.base.decisions import (
    Absent,
    Attempt,
    Decision,
    Recorded,
    Seen,
    Stage,
    Step,
    decide,
)
from airflow_provider_runs.base.exceptions import RequestRefused, RunInProgress, StartUncertain
from airflow_provider_runs.base.finder import RunFinder
from airflow_provider_runs.base.hook import RunHook
from airflow_provider_runs.base.patience import Patience, StartDelayed
from airflow_provider_runs.base.record import RECORD_KEY, RecordKeeper, StartRecord, Store
from airflow_provider_runs.base.start_words import changed, failure, left_alone, uncertain
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import Unsure
from airflow_provider_runs.core.errors import (
    ApiError,
    BadInput,
    ConnectionFailed,
    NotFound,
    RunsError,
    is_permanent,
)
from airflow_provider_runs.core.run import Run, RunState

_OF_THIS_GENERATION = (Recorded.KNOWN, Recorded.KEYED, Recorded.FINDABLE, Recorded.RETRIED, Recorded.LOST)


class DurableStart:
    """
    Begin a task's run or find the one that it began before.

    :param hook: the service.
    :param arguments: the service's own arguments.
    :param attempt: the present try.
    :param store: the task state store; None where Airflow has none: every try then starts a run.
    :param may_delay: whether :meth:`ensure` may end with StartDelayed where the service has it wait.
    :param log: the task's logger.
    """

    def __init__(
        self,
        hook: RunHook,
        arguments: Mapping[str, Any],
        attempt: Attempt,
        *,
        store: Store | None,
        may_delay: bool = False,
        log: Any,
    ) -> None:
        self.hook = hook
        self.arguments = arguments
        self.attempt = attempt
        self.store = store
        self.log = log
        self.stopped = False
        """Set from outside: nothing may be started any more."""
        self._keeper = RecordKeeper(store, lambda: self.stopped, log)
        self._finder = RunFinder(hook, arguments, attempt, lambda: self.stopped, log)
        service, limit = attempt.api_class.service, attempt.rules.unreachable_timeout
        self._patience = Patience(service, limit, may_delay and store is not None, lambda: self.stopped, log)

    @property
    def record(self) -> StartRecord | None:
        """What this try has begun or gone on with."""
        return self._keeper.record

    @property
    def run(self) -> Run | None:
        """The run, once it is known."""
        return self._keeper.run

    @property
    def attached(self) -> bool:
        """Whether the run is one that somebody else started."""
        return self.record is not None and self.record.attached

    def ensure(self) -> Run:
        """
        Return the task's run: a new one, or the one that an earlier try began.

        :raises RequestRefused: if what is asked for can never be started.
        :raises StartUncertain: if it is not known whether a run was started.
        :raises StartDelayed: if the service has the task wait, which may be done elsewhere.
        :raises RunsError: if the service cannot be asked; surely nothing was started by this try.
        """
        try:
            if self.attempt.resumes is None:
                self.hook.api.prepare(self.arguments)
            else:
                retrying(self.hook.api).prepare_retry(self.attempt.resumes, self.arguments)
            if self.store is None:
                run = self._without_record()
            else:
                run = self._settle(StartRecord.from_json(self.store.get(RECORD_KEY)))
        except BadInput as error:
            raise RequestRefused(str(error)) from None
        except ApiError as error:
            if error.permanent:
                raise RequestRefused(str(error)) from None
            raise
        self._keeper.run = run
        return run

    def find(self) -> Run | None:
        """Return the run of this try for somebody who must cancel it, also if its answer never came."""
        if self.run is not None or self.record is None:
            return self.run
        return self._finder.of(self.record)

    def leave(self) -> None:
        """Record that this try leaves its run going, also while :meth:`ensure` works in another thread."""
        self._keeper.leave()

    def _without_record(self) -> Run:
        """Begin where Airflow keeps no record: only a run whose id the task was given can be gone on with."""
        attempt = self.attempt
        if attempt.is_retry and attempt.rules.retry_from_failure:
            self.log.warning("This Airflow keeps no task state (3.3 and later do): starting another run")
        if attempt.is_retry and attempt.resumes is not None:
            # Only a run that goes, or that nothing but a retry can have ended well, was surely retried.
            found = self.hook.find_retried(attempt.resumes, self.arguments, clock.time())
            if found is not None:
                self.log.info("Attaching to run %s, which an earlier try has retried", found.id)
                return found
        return self._begin(1, attempt.resumes)

    # What an earlier try has begun

    def _settle(self, record: StartRecord | None, seen: Run | RunsError | Absent = Absent.NOT_ASKED) -> Run:
        """Do what the table says about the record of an earlier try."""
        decision = decide(record, self.attempt, seen)
        if record is None:
            return self._begin(1, self.attempt.resumes)
        if decision.recorded in _OF_THIS_GENERATION:
            self._keeper.take_up(record)
        match decision.step, seen:
            case Step.ASK, _:
                return self._settle(record, self._finder.of_earlier(record))
            case Step.SEND_AGAIN, _:
                self.log.info(
                    "An earlier try may have started a run; sending the same request with the same key"
                )
                return self._send(record, Stage.SENT_AGAIN, first=False)
            case Step.REPEAT, _:
                return self._repeat(record, seen)
            case Step.START, _:
                return self._start_another(decision, record, seen)
            case Step.CANCEL, Run():
                self.log.info(
                    "Cancelling run %s, which was started before the task was %s",
                    seen.id,
                    changed(record, self.attempt),
                )
                with suppress(NotFound):
                    self.hook.cancel_run(seen.id)
                return self._begin(1, self.attempt.resumes)
            case Step.TAKE_DOWN, Run():
                self.log.info("Found run %s of an earlier try", seen.id)
                return self._take_down(record, seen)
            case Step.ADOPT, Unsure():
                (run,) = seen.runs
                self.log.warning("%s. Waiting for run %s, as on_unknown_start says", seen, run.id)
                # It may be somebody else's: it is never cancelled.
                self._keeper.complete(replace(record, attached=True), run)
                return run
            case Step.WAIT, Run() if decision.recorded is Recorded.SPARED:
                self.log.info("Attaching to run %s, which still goes", seen.id)
                self._keeper.complete(_new_record(self.attempt, 1, self.attempt.resumes), seen)
                return seen
            case Step.WAIT, _:
                return self._attach(record, seen)
        raise failure(decision, record, self.attempt, seen)

    def _take_down(self, record: StartRecord, run: Run) -> Run:
        """Record the id of a run that an earlier try began, and decide about it."""
        self._keeper.complete(record, run)
        if not run.id:
            return run
        return self._settle(replace(record, run_id=run.id), run)

    def _start_another(self, decision: Decision, record: StartRecord, seen: Run | RunsError | Absent) -> Run:
        """Begin another run after the recorded one, and say why."""
        attempt = self.attempt
        match decision.recorded, seen:
            case Recorded.NOTHING, _ if record.delayed_since is not None and not attempt.is_other(record):
                self._patience.delayed_since = record.delayed_since
                return self._begin(record.attempt, attempt.resumes or record.resumes)
            case Recorded.ELSEWHERE, _:
                self.log.warning(
                    "Run %s was started through another connection or scope and is left alone",
                    record.run_id or "(unknown)",
                )
            case Recorded.OTHERS, _:
                self.log.info("Run %s, which somebody else started, is left alone", record.run_id)
            case Recorded.KNOWN, Run():
                owned = attempt.rules.retry_from_failure and not record.attached
                resumes = attempt.resumes or (seen.id if owned else None)
                does = "starting another" if resumes is None else "going on where it failed"
                self.log.info("The run %s of an earlier try ended as %s, %s", seen.id, seen.status, does)
                return self._begin(record.attempt + 1, resumes)
            case Recorded.RETRIED, _:
                self.log.warning("Run %s is gone, starting another: %s", record.resumes, seen)
                return self._begin(record.attempt, None)
            case ((Recorded.DOOMED | Recorded.SPARED), _):
                if said := left_alone(record, attempt, seen):
                    self.log.warning("%s", said)
        return self._begin(1, attempt.resumes)

    def _attach(self, record: StartRecord, seen: Run | RunsError | Absent) -> Run:
        """Go on with the recorded run of this generation."""
        attempt, run_id = self.attempt, str(record.run_id)
        # A clear of a running task leaves max_tries as it is. Its process has cancelled the run.
        is_told = None not in (attempt.clears, record.clears)
        doomed = is_told and attempt.clears != record.clears and attempt.cancels and not record.attached
        attaching = replace(record, clears=attempt.clears, cancelled=record.cancelled or doomed)
        if isinstance(seen, Run) and seen.state.is_terminal:
            self.log.info("The run %s of an earlier try has ended: %s", seen.id, seen.status)
            return seen
        if isinstance(seen, Run):
            self.log.info("Attaching to run %s of an earlier try, which is %s", seen.id, seen.status)
        else:
            self.log.warning(
                "An earlier try started run %s. It cannot be polled now, waiting for it: %s",
                run_id,
                seen,
            )
        if record.left or attaching != record:
            self._keeper.keep(attaching)
        return seen if isinstance(seen, Run) else Run(run_id, RunState.UNKNOWN, "")

    def _repeat(self, record: StartRecord, seen: Run | RunsError | Absent) -> Run:
        """Send a request once more that has had no effect."""
        if isinstance(seen, Unsure):
            self.log.warning("%s. Starting another run, as on_unknown_start says", seen)
        else:
            self.log.info("The earlier try did not start a run")
        snapshot = record.snapshot
        if record.resumes is None:
            if (other := self._attached_to(record.attempt)) is not None:
                return other
            snapshot = self._ready()
        repeated = replace(record, repeated_at=clock.time(), snapshot=snapshot)
        self._keeper.keep(repeated)
        return self._send(repeated, first=False)

    # A new run

    def _begin(self, number: int, resumes: str | None) -> Run:
        # What will be refused is refused before anything is recorded as begun.
        try:
            if resumes is None:
                if (other := self._attached_to(number)) is not None:
                    return other
                snapshot = self._ready()
            else:
                snapshot = self.hook.check_retry(
                    resumes, self._finder.retry_arguments, self._patience.reading
                )
        except StartDelayed:
            self._keeper.put_off(_new_record(self.attempt, number, resumes), self._patience.delayed_since)
            raise
        except (ApiError, BadInput) as error:
            if resumes is None or self.attempt.resumes is not None or not is_permanent(error):
                raise
            return self._after_refusal(_new_record(self.attempt, number, resumes), error)
        record = replace(_new_record(self.attempt, number, resumes), snapshot=snapshot)
        self._keeper.keep(record)
        return self._send(record)

    def _ready(self) -> Mapping[str, Any] | None:
        """Look up what a start needs; a service whose starts carry a key is waited for as with the start."""
        pauses = self._patience.pauses(clock.time())
        while True:
            try:
                self.hook.ready(self.arguments, self._patience.reading)
                return self.hook.snapshot(self.arguments, self._patience.reading)
            except RunsError as error:
                may_wait = self.attempt.api_class.takes_key and not is_permanent(error) and not self.stopped
                pause = next(pauses, None) if may_wait else None
                if pause is None:
                    raise
                self._patience.wait(pause, error)

    def _attached_to(self, number: int) -> Run | None:
        """Attach to a run that somebody else started, where that is to be waited for instead of a new one."""
        rule = self.attempt.rules.if_running
        if rule == "start":
            return None
        run = self.hook.newest_active(self.arguments, self._patience.reading)
        if run is None:
            return None
        if rule == "attach":
            self.log.info(
                "Attaching to run %s, which somebody else started and which is %s", run.id, run.status
            )
            self._keeper.complete(replace(_new_record(self.attempt, number, None), attached=True), run)
            return run
        text = f"{self.hook.api.service} run {run.id} goes already ({run.status})"
        if rule == "skip":
            raise AirflowSkipException(f"{text}, and if_running is skip")
        raise RunInProgress(f"{text}, and if_running is fail{f': {run.url}' if run.url else ''}")

    def _send(self, record: StartRecord, stage: Stage = Stage.SENT, *, first: bool = True) -> Run:
        """
        Send the recorded request and do what the table says about its answer.

        :param first: whether it was never sent before, so that a refusal means that nothing was begun.
        """
        pauses = self._patience.pauses(record.started_at)
        unanswered = Stage.UNANSWERED_AGAIN if stage is Stage.SENT_AGAIN else Stage.UNANSWERED
        while True:
            if self.stopped:
                raise StartUncertain("the task was told to stop before it started a run")
            self._patience.is_first = first
            answer = self._answer(record)
            found: Run | RunsError | Absent = answer
            decision = decide(record, self.attempt, answer, stage)
            if decision.step is Step.ASK:
                if isinstance(answer, RunsError) and is_permanent(answer):
                    return self._after_refusal(record, answer)
                found = self._finder.lost(record)
                decision = decide(record, self.attempt, found, unanswered)
                if stage is Stage.SENT:
                    stage = Stage.REPEATED  # of no effect where the request is not sent again
            if decision.step is Step.SEND_AGAIN and isinstance(answer, RunsError):
                pause = next(pauses, None)
                if pause is not None:
                    self._patience.wait(pause, answer)
                    first = False
                    continue
            return self._after_sending(record, decision, answer, found, first=first)

    def _after_sending(
        self,
        record: StartRecord,
        decision: Decision,
        answer: Run | RunsError,
        found: Run | RunsError | Absent,
        *,
        first: bool,
    ) -> Run:
        """Return the run that a request has started, or raise why there is none."""
        if isinstance(found, Run):
            if found is not answer:
                self.log.warning("%s. The run may have been started; found it: run %s", answer, found.id)
            if decision.step is Step.TAKE_DOWN:
                return self._take_down(record, found)
            self._keeper.complete(record, found)
            return found
        assert isinstance(answer, RunsError)
        if decision.seen is Seen.NOT_SENT and found is answer and decision.recorded is not Recorded.REPEATED:
            raise answer
        if decision.recorded is Recorded.SENT_AGAIN and decision.step is Step.FAIL_UNCERTAIN:
            raise failure(decision, record, self.attempt, found)
        if decision.step in (Step.FAIL, Step.FAIL_FOR_GOOD):
            # A refused repetition says nothing about the request before it, whose answer was lost.
            self._keeper.keep(replace(record, refused=first))
            if decision.seen is Seen.BUSY:
                raise RunInProgress(f"{answer}; if_running says what becomes of the task then") from None
            raise answer
        raise uncertain(answer, found, is_recorded=self.store is not None) from None

    def _answer(self, record: StartRecord) -> Run | RunsError:
        """Send the recorded request, and return the run or why there is none."""
        service = self.hook.api.service
        try:
            if record.resumes is None:
                longest = self.hook.api.trigger_timeout
                self.log.info("Starting a %s run; the answer may take up to %.0f s", service, longest)
                return self.hook.start(self.arguments, record.key, record.started_at, self._patience.starting)
            self.log.info("Retrying %s run %s", service, record.resumes)
            return self.hook.retry(record.resumes, self._finder.retry_arguments, self._patience.starting)
        except (ConnectionFailed, ApiError, BadInput) as error:
            return error
        except StartDelayed:
            self._keeper.put_off(record, self._patience.delayed_since)
            raise

    def _after_refusal(self, record: StartRecord, error: RunsError) -> Run:
        """Return the run to wait for where an ended run is refused to be gone on with."""
        found = self._finder.retried(record)
        decision = decide(record, self.attempt, found, Stage.REFUSED)
        if isinstance(found, Run):
            # A request of ours that was late, or a person, has retried it already.
            self.log.info("Attaching to run %s, which is %s: %s", found.id, found.status, error)
            self._keeper.complete(record, found)
            return found
        if decision.step is Step.START:
            self.log.warning("Run %s cannot be gone on with, starting another: %s", record.resumes, error)
            return self._begin(record.attempt, None)
        if decision.step is Step.FAIL_FOR_GOOD:
            self._keeper.keep(replace(record, refused=True))
            raise error
        assert isinstance(found, RunsError)
        raise found


def _new_record(attempt: Attempt, number: int, resumes: str | None) -> StartRecord:
    """Return the record of a request that is about to leave."""
    return StartRecord(
        max_tries=attempt.max_tries,
        attempt=number,
        key=str(uuid.uuid4()),
        fingerprint=attempt.fingerprint,
        run_id=None,
        started_at=clock.time(),
        resumes=resumes,
        clears=attempt.clears,
    )
