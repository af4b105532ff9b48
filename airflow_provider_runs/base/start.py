"""
Start exactly one remote run per task and generation, whatever dies.

A record in Airflow's task state store (3.3 and later) says what was begun. It is written before the start
request leaves and completed right after the answer. A later try reads it:

======================== =================================================================================
record                   what happens
======================== =================================================================================
none                     a run is started
of another generation    the task was cleared, or asks for something else now: the old run is cancelled if it
                         still goes, and a run is started
with a run id            the run goes on: attach. It succeeded: done. It ended badly: start another, or, with
                         ``retry_from_failure``, go on with it where it failed; unless the task's rules make
                         of such an end its verdict
without a run id         the process died in between: start again with the same key where the service takes
                         one, else look for the run by its marker, or among those begun since; a run that was
                         to be retried is looked at
======================== =================================================================================

A generation is one value of ``max_tries``, which Airflow raises when a task is cleared and keeps over
retries, and one fingerprint of what is asked for. A DAG file with fewer ``retries`` may bring a cleared task
back to the same ``max_tries``; then the DAG run's count of clears tells.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_runs.base.capabilities import retrying
from airflow_provider_runs.base.exceptions import RequestRefused, RunInProgress, StartUncertain
from airflow_provider_runs.base.hook import RunHook
from airflow_provider_runs.base.record import RECORD_KEY, StartRecord, Store
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import CanCancel, CanFindStarted, CanFindUnmarked, Unsure
from airflow_provider_runs.core.errors import (
    AlreadyRunning,
    ApiError,
    BadInput,
    ConnectionFailed,
    NotFound,
    RunsError,
    Unauthorized,
    is_permanent,
)
from airflow_provider_runs.core.retry import NO_RETRY
from airflow_provider_runs.core.run import Run, RunState

IF_RUNNING = ("start", "attach", "skip", "fail")
"""
What becomes of a new start while another run of the same goes: it starts nevertheless, the newest of them is
waited for instead, the task is skipped, or it fails.
"""
ON_UNKNOWN_START = ("fail", "adopt", "start")
"""
What becomes of a start whose answer was lost, where runs carry no key and others may have been started, too:
the task fails, waits for the only run that could be its own, or starts another.
"""
WRITE_PAUSES = (1.0, 4.0, 15.0)
"""Seconds after which the id of a run that was started is written once more, where that fails."""
LOOK_SECONDS = 300.0
"""
How long a start whose answer was lost is looked for while the service cannot be asked, or where what tells a
run from others comes later.
"""
LOOK_INTERVAL = 5.0


class DurableStart:
    """
    Begin a task's run or find the one that it began before.

    :param hook: the service.
    :param arguments: the service's own arguments.
    :param resumes: id of the ended run that the task goes on with; None: it starts a new one.
    :param retry_from_failure: whether a retry goes on with the run of the try before, where that ended badly.
    :param if_running: what becomes of a new start while another run goes: see :data:`IF_RUNNING`.
    :param on_unknown_start: see :data:`ON_UNKNOWN_START`.
    :param store: the task state store; None where Airflow has none: every try then starts a run.
    :param max_tries: Airflow's ``max_tries``.
    :param is_retry: whether Airflow's numbers say that this try is a retry.
    :param clears: how often anything in the DAG run has been cleared; None where Airflow does not tell.
    :param fingerprint: of where the run goes and what is asked for, see :func:`fingerprint_of`.
    :param cancel_superseded: whether a run of an older generation is cancelled.
    :param is_final: whether the bad end of the recorded run of an earlier try is the task's verdict, so that
        no other run is started; told the run, the record, and whether the task may have been cleared since.
    :param log: the task's logger.
    """

    def __init__(
        self,
        hook: RunHook,
        arguments: Mapping[str, Any],
        *,
        resumes: str | None = None,
        retry_from_failure: bool = False,
        if_running: str = "start",
        on_unknown_start: str = "fail",
        store: Store | None,
        max_tries: int,
        is_retry: bool = False,
        clears: int | None = None,
        fingerprint: str,
        cancel_superseded: bool,
        is_final: Callable[[Run, StartRecord, bool], bool] = lambda run, record, cleared: False,
        log: Any,
    ) -> None:
        self.hook = hook
        self.arguments = arguments
        self.resumes = resumes
        self.retry_from_failure = retry_from_failure
        self.if_running = if_running
        self.on_unknown_start = on_unknown_start
        self.store = store
        self.max_tries = max_tries
        self.is_retry = is_retry
        self.clears = clears
        self.fingerprint = fingerprint
        self.cancel_superseded = cancel_superseded
        self.is_final = is_final
        self.log = log
        self.stopped = False
        """Set from outside: nothing may be started any more."""
        self.run: Run | None = None
        self.record: StartRecord | None = None
        self.attached = False
        """Whether the run is one that somebody else started."""
        self._left = False
        self._looks_until: float | None = None
        """On the monotonic clock: until when this try looks for a lost start."""
        self._storing = threading.Lock()

    def ensure(self) -> Run:
        """
        Return the task's run: a new one, or the one that an earlier try began.

        :raises RequestRefused: if what is asked for can never be started.
        :raises StartUncertain: if it is not known whether a run was started.
        :raises RunsError: if the service cannot be asked; surely nothing was started by this try.
        """
        try:
            if self.resumes is None:
                self.hook.api.prepare(self.arguments)
            else:
                retrying(self.hook.api).prepare_retry(self.resumes, self.arguments)
            self.run = self._ensure()
        except BadInput as error:
            raise RequestRefused(str(error)) from None
        except ApiError as error:
            if error.permanent:
                raise RequestRefused(str(error)) from None
            raise
        return self.run

    def find(self) -> Run | None:
        """Return the run of this try for somebody who must cancel it, also if its answer never came."""
        if self.run is not None or self.record is None:
            return self.run
        return self._run_of(self.record)

    def leave(self) -> None:
        """Record that this try leaves its run going, also while :meth:`ensure` works in another thread."""
        with self._storing:
            self._left = True
            if self.record is not None:
                self._store(self.record)

    def _ensure(self) -> Run:
        if self.store is None:
            return self._without_record()
        old = StartRecord.from_json(self.store.get(RECORD_KEY))
        if old is None or old.refused:
            return self._begin(1, self.resumes)
        if self._is_cleared(old) or old.fingerprint != self.fingerprint:
            left = self._supersede(old)
            if left is None or left.id != self.resumes:
                return self._begin(1, self.resumes)
            self.log.info("Attaching to run %s, which still goes", left.id)
            self._complete(self._record(1, self.resumes), left)
            return left
        self.record = old
        self.attached = old.attached
        if old.run_id is None:
            return self._resume(old)
        return self._judge_earlier(old, old.run_id)

    def _is_cleared(self, old: StartRecord) -> bool:
        """Tell whether the task was cleared since, also where changed retries hide it in the numbers."""
        if old.max_tries != self.max_tries:
            return True
        return not self.is_retry and None not in (old.clears, self.clears) and old.clears != self.clears

    def _without_record(self) -> Run:
        """Begin where Airflow keeps no record: only a run whose id the task was given can be gone on with."""
        if self.is_retry and self.retry_from_failure:
            self.log.warning("This Airflow keeps no task state (3.3 and later do): starting another run")
        if self.is_retry and self.resumes is not None:
            # Only a run that goes, or that nothing but a retry can have ended well, was surely retried.
            found = self.hook.find_retried(self.resumes, self.arguments, clock.time())
            if found is not None:
                self.log.info("Attaching to run %s, which an earlier try has retried", found.id)
                return found
        return self._begin(1, self.resumes)

    def _judge_earlier(self, record: StartRecord, run_id: str) -> Run:
        """Decide about a retry from what the run says."""
        # A clear of a running task leaves max_tries as it is. Its process has cancelled the run.
        clears_changed = self.clears is None or record.clears != self.clears
        cancels = self.cancel_superseded and isinstance(self.hook.api, CanCancel) and not record.attached
        doomed = clears_changed and cancels and None not in (self.clears, record.clears)
        attaching = replace(record, clears=self.clears, cancelled=record.cancelled or doomed)
        try:
            run = self.hook.get_run(run_id)
        except RunsError as error:
            self.log.warning(
                "An earlier try started run %s. It cannot be asked about now, waiting for it: %s",
                run_id,
                error,
            )
            if record.left or attaching != record:
                self._keep(attaching)
            return Run(run_id, RunState.UNKNOWN, "")
        ended_badly = run.state in (RunState.FAILED, RunState.CANCELLED)
        if ended_badly and not self.is_final(run, record, clears_changed):
            own = self.retry_from_failure and not record.attached
            resumes = self.resumes or (run_id if own else None)
            does = "starting another" if resumes is None else "going on where it failed"
            self.log.info("The run %s of an earlier try ended as %s, %s", run_id, run.status, does)
            return self._begin(record.attempt + 1, resumes)
        if run.state.is_terminal:
            self.log.info("The run %s of an earlier try has ended: %s", run_id, run.status)
        else:
            self.log.info("Attaching to run %s of an earlier try, which is %s", run_id, run.status)
            if record.left or attaching != record:
                self._keep(attaching)
        return run

    def _begin(self, attempt: int, resumes: str | None) -> Run:
        # What will be refused is refused before anything is recorded as begun.
        snapshot = None
        if resumes is None:
            other = self._run_of_others()
            if other is not None:
                self._attach(attempt, other)
                return other
            snapshot = self._ready()
        else:
            try:
                self.hook.check_retry(resumes, self._retry_arguments())
            except (ApiError, BadInput) as error:
                if self.resumes is not None or not is_permanent(error):
                    raise
                return self._after_refused_retry(self._record(attempt, resumes), error)
        record = replace(self._record(attempt, resumes), snapshot=snapshot)
        self._keep(record)
        return self._send(record)

    def _ready(self) -> Mapping[str, Any] | None:
        self.hook.ready(self.arguments)
        return self.hook.snapshot(self.arguments)

    def _run_of_others(self) -> Run | None:
        """Return a run that somebody else started and that is to be waited for instead of a new one."""
        if self.if_running == "start":
            return None
        run = self.hook.newest_active(self.arguments)
        if run is None or self.if_running == "attach":
            return run
        text = f"{self.hook.api.service} run {run.id} goes already ({run.status})"
        if self.if_running == "skip":
            raise AirflowSkipException(f"{text}, and if_running is skip")
        raise RunInProgress(f"{text}, and if_running is fail{f': {run.url}' if run.url else ''}")

    def _attach(self, attempt: int, run: Run) -> None:
        self.log.info("Attaching to run %s, which somebody else started and which is %s", run.id, run.status)
        self._complete(replace(self._record(attempt, None), attached=True), run)

    def _record(self, attempt: int, resumes: str | None) -> StartRecord:
        return StartRecord(
            max_tries=self.max_tries,
            attempt=attempt,
            key=str(uuid.uuid4()),
            fingerprint=self.fingerprint,
            run_id=None,
            started_at=clock.time(),
            resumes=resumes,
            clears=self.clears,
        )

    def _after_refused_retry(self, record: StartRecord, error: ApiError | BadInput) -> Run:
        """Return the run to wait for where an ended run is refused to be gone on with."""
        try:
            found = self._find(record)
        except (NotFound, Unsure):
            found = None
        if found is not None:
            # A request of ours that was late, or a person, has retried it already.
            self.log.info("Attaching to run %s, which is %s: %s", found.id, found.status, error)
            self._complete(record, found)
            return found
        if self.resumes is not None:
            self._keep(replace(record, refused=True))
            raise error
        self.log.warning("Run %s cannot be gone on with, starting another: %s", record.resumes, error)
        return self._begin(record.attempt, None)

    def _resume(self, record: StartRecord) -> Run:
        """Settle a start whose answer never came."""
        try:
            return self._resumed(record)
        except Unauthorized as error:
            # New credentials may tell: a later try is worth it, as nothing else can find this run.
            raise StartUncertain(
                f"an earlier try may have started a {self.hook.api.service} run, and it may not be asked "
                f"for: {error}. A retry of the task asks again"
            ) from None

    def _resumed(self, record: StartRecord) -> Run:
        api = self.hook.api
        if api.takes_key and record.resumes is None:
            self.log.info("An earlier try may have started a run; sending the same request with the same key")
            run = self._send(record, first=False)
            if run.state in (RunState.FAILED, RunState.CANCELLED):
                return self._judge_earlier(replace(record, run_id=run.id), run.id)
            return run
        if not self._can_find(record):
            raise RequestRefused(
                f"an earlier try may have started a {api.service} run that cannot be found again. Look for "
                f"it in {api.service}; clear the task to start another run"
            )
        try:
            found = self._find_when_settled(record)
        except Unsure as error:
            return self._decide(record, error)
        except BadInput as error:
            raise StartUncertain(
                f"an earlier try may have started a {api.service} run, which cannot be looked for: {error}"
            ) from None
        except NotFound as error:
            if record.resumes is None or self.resumes is not None:
                raise
            self.log.warning("Run %s is gone, starting another: %s", record.resumes, error)
            return self._begin(record.attempt, None)
        except ApiError as error:
            if not error.permanent or isinstance(error, Unauthorized):
                raise
            raise RequestRefused(
                f"an earlier try may have started a {api.service} run, which cannot be looked for: {error}. "
                f"Look for it in {api.service}; clear the task to start another run"
            ) from None
        if found is None:
            self.log.info("The earlier try did not start a run")
            return self._repeat(record)
        self.log.info("Found run %s of an earlier try", found.id)
        self._complete(record, found)
        if found.state in (RunState.FAILED, RunState.CANCELLED):
            return self._judge_earlier(replace(record, run_id=found.id), found.id)
        return found

    def _repeat(self, record: StartRecord) -> Run:
        """Send a request once more that has had no effect."""
        snapshot = None
        if record.resumes is None:
            other = self._run_of_others()
            if other is not None:
                self._attach(record.attempt, other)
                return other
            snapshot = self._ready()
        repeated = replace(record, repeated_at=clock.time(), snapshot=snapshot)
        self._keep(repeated)
        return self._send(repeated, first=False)

    def _decide(self, record: StartRecord, error: Unsure) -> Run:
        """Do what the user wants where nothing tells which run is the task's own."""
        if self.on_unknown_start == "start":
            self.log.warning("%s. Starting another run, as on_unknown_start says", error)
            return self._repeat(record)
        if self.on_unknown_start == "adopt" and len(error.runs) == 1:
            (run,) = error.runs
            self.log.warning("%s. Waiting for run %s, as on_unknown_start says", error, run.id)
            # It may be somebody else's: it is never cancelled.
            self._complete(replace(record, attached=True), run)
            return run
        raise RequestRefused(
            f"{error}. Look which of them is this task's; clear the task to start another run "
            f"(on_unknown_start is {self.on_unknown_start})"
        )

    def _find_when_settled(self, record: StartRecord) -> Run | None:
        """Look for a run whose answer never came, and once more when its request cannot be under way."""
        found = self._find_patiently(record)
        timeout = self.hook.api.request_timeout
        settled_at = (record.repeated_at or record.started_at) + timeout
        # Another worker's clock wrote the record: its lead must not become a wait.
        wait = min(settled_at - clock.time(), timeout)
        if found is None and wait > 0:
            self.log.info("An earlier try may have started a run; looking for it again in %.0f s", wait)
            clock.sleep(wait)
            found = self._find_patiently(record)
        return found

    def _find_patiently(self, record: StartRecord) -> Run | None:
        """Look for a run, for some minutes where a later look may tell more."""
        if self._looks_until is None:
            self._looks_until = clock.monotonic() + LOOK_SECONDS
        waited = 0.0
        while True:
            try:
                return self._find(record)
            except RunsError as error:
                may_tell = error.may_tell if isinstance(error, Unsure) else not is_permanent(error)
                left = min(self._looks_until - clock.monotonic(), LOOK_SECONDS - waited)
                if not may_tell or self.stopped or left <= 0:
                    raise
                if not waited:
                    self.log.info("%s. Looking again for up to %.0f s", error, left)
                again = waited + (error.retry_after or LOOK_INTERVAL)
            # In short pauses: a task that is told to stop has little time for its last look.
            while waited < again and not self.stopped:
                clock.sleep(LOOK_INTERVAL)
                waited += LOOK_INTERVAL

    def _send(self, record: StartRecord, *, first: bool = True) -> Run:
        if self.stopped:
            raise StartUncertain("the task was told to stop before it started a run")
        try:
            run = self._request(record)
        except ConnectionFailed as error:
            if not error.sent:
                raise
            run = self._find_lost(record, error)
        except AlreadyRunning as error:
            self._keep(replace(record, refused=first))
            raise RunInProgress(f"{error}; if_running says what becomes of the task then") from None
        except (ApiError, BadInput) as error:
            if is_permanent(error) and record.resumes is not None:
                return self._after_refused_retry(record, error)
            if is_permanent(error):
                # A refused repetition says nothing about the request before it, whose answer was lost.
                self._keep(replace(record, refused=first))
                raise
            run = self._find_lost(record, error)
        self._complete(record, run)
        return run

    def _request(self, record: StartRecord) -> Run:
        api = self.hook.api
        if record.resumes is None:
            longest = api.trigger_timeout
            self.log.info("Starting a %s run; the answer may take up to %.0f s", api.service, longest)
            return self.hook.start(self.arguments, record.key, record.started_at, lambda: self.stopped)
        self.log.info("Retrying %s run %s", api.service, record.resumes)
        return self.hook.retry(record.resumes, self._retry_arguments(), lambda: self.stopped)

    def _retry_arguments(self) -> Mapping[str, Any]:
        """Return the task's arguments if it retries a run, else what of its start's a retry takes along."""
        if self.resumes is not None:
            return self.arguments
        return retrying(self.hook.api).retry_arguments(self.arguments)

    def _find_lost(self, record: StartRecord, error: RunsError) -> Run:
        """Look for a run whose start was not answered as it should."""
        reason = f"{error}. The run may have been started"
        if self._can_find(record):
            try:
                found = self._find_patiently(record)
            except Unsure as unsure:
                reason, found = f"{reason}; {unsure}", None
            except RunsError as second:
                raise StartUncertain(f"{reason}; looking for it failed too: {second}") from None
            if found is not None:
                self.log.warning("%s; found it: run %s", reason, found.id)
                return found
        if self.store is None:
            advice = "nothing keeps a retry from starting another: look for it first"
        else:
            advice = "a retry of the task finds out before it starts another"
        raise StartUncertain(f"{reason}; {advice}") from None

    def _can_find(self, record: StartRecord) -> bool:
        return record.resumes is not None or isinstance(self.hook.api, (CanFindStarted, CanFindUnmarked))

    def _find(self, record: StartRecord) -> Run | None:
        since = record.started_at
        if record.resumes is not None:
            return self.hook.find_retried(record.resumes, self._retry_arguments(), since, NO_RETRY)
        if isinstance(self.hook.api, CanFindUnmarked):
            return self.hook.find_unmarked(record.snapshot or {}, since, NO_RETRY)
        return self.hook.find_started(self.arguments, record.key, since, NO_RETRY)

    def _supersede(self, old: StartRecord) -> Run | None:
        """Cancel the run of an older generation if it still goes; return it where it is left going."""
        if old.fingerprint.split(".")[0] != self.fingerprint.split(".")[0]:
            self.log.warning(
                "Run %s was started through another connection or scope and is left alone",
                old.run_id or "(unknown)",
            )
            return None
        api = self.hook.api
        changed = "cleared" if self._is_cleared(old) else "changed"
        if old.attached:
            self.log.info("Run %s, which somebody else started, is left alone", old.run_id)
            return None
        lost = old.run_id is None and not old.refused
        try:
            run = self._find_when_settled(old) if lost and self._can_find(old) else self._run_of(old)
        except NotFound:
            return None
        except Unsure as error:
            self.log.warning("%s. It is left alone", error)
            return None
        except RunsError as error:
            raise StartUncertain(
                f"run {old.run_id or '(id unknown)'} of this task before it was {changed} may still go on, "
                f"and cannot be asked about: {error}"
            ) from None
        # The arguments of now do not find what other arguments started.
        elsewhere = old.resumes is None and old.fingerprint != self.fingerprint
        if run is None and lost and (elsewhere or not self._can_find(old)):
            self.log.warning(
                "A %s run may have been started before the task was %s. Its answer never came, so its "
                "id is not known and it is left alone",
                api.service,
                changed,
            )
        if run is None or run.state.is_terminal:
            return None
        if not self.cancel_superseded or not isinstance(api, CanCancel):
            reason = "cancel_on_kill is off" if isinstance(api, CanCancel) else f"{api.service} cannot cancel"
            self.log.warning(
                "Run %s, started before the task was %s, goes on beside the new one (%s): %s",
                run.id,
                changed,
                reason,
                run.url,
            )
            return run
        self.log.info("Cancelling run %s, which was started before the task was %s", run.id, changed)
        with suppress(NotFound):
            self.hook.cancel_run(run.id)
        return None

    def _run_of(self, record: StartRecord) -> Run | None:
        """Return the run of a record, also if the answer to its start was lost; None if it has none."""
        api = self.hook.api
        if record.refused:
            return None
        if record.run_id is not None:
            return self.hook.get_run(record.run_id)
        if self._can_find(record) and (found := self._find(record)) is not None:
            return found
        same = record.resumes is None and record.fingerprint == self.fingerprint
        if api.takes_key and isinstance(api, CanCancel) and same:
            run = self.hook.start(self.arguments, record.key, record.started_at)
            return run if run.id else None
        return None

    def _complete(self, record: StartRecord, run: Run) -> None:
        self.attached = record.attached
        self.run = run
        # A service may take a start and tell no id yet: the same request is answered the same again.
        completed = replace(record, run_id=run.id or None)
        for pause in (*WRITE_PAUSES, None):
            try:
                return self._keep(completed)
            except Exception as error:
                told = f"Airflow did not take down run {run.id}: {type(error).__name__}: {error}"
            if pause is None or self.stopped:
                # The run goes, whether it stands in the record or not: rather this try waits for it.
                self.log.error("%s. A retry of the task may not find the run", told)
                return None
            self.log.warning("%s. Trying again in %.0f s", told, pause)
            clock.sleep(pause)
        return None

    def _keep(self, record: StartRecord) -> None:
        with self._storing:
            self.record = record
            self.attached = record.attached
            if record.run_id is None:
                self.run = None
            self._store(record)

    def _store(self, record: StartRecord) -> None:
        if self.store is not None:
            # What an earlier try has left, this one has taken up again.
            self.store.set(RECORD_KEY, replace(record, left=self._left).to_json())
