"""
What a wait for one run has seen so far, and when it is over.

Two things are kept apart: what the service says about the run, and that the service cannot be asked. The
second never says anything about the run; it ends the wait only when it lasts:

========== ============================================== ==================================
trouble    what happened                                   ends the wait as unreachable after
========== ============================================== ==================================
outage     no answer, 5xx, 429, not the expected body      ``unreachable_timeout``
refused    401 or 403 with a fresh token                   5 minutes
not found  404                                             2 minutes
========== ============================================== ==================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from math import inf
from typing import Any

from airflow_provider_runs.core.errors import (
    BadInput,
    ConnectionUnreadable,
    NotFound,
    RunsError,
    Unauthorized,
)
from airflow_provider_runs.core.outcome import Limit, Outcome, Verdict
from airflow_provider_runs.core.run import Run, RunState

REFUSED_TIMEOUT = 300.0
NOT_FOUND_TIMEOUT = 120.0
UNKNOWN_TIMEOUT = 600.0
UNREACHABLE_TIMEOUT = 3600.0
RETRY = "a retry of the task goes on waiting for it if its start was recorded (Airflow 3.3 and later)"
SAY_AGAIN = (300.0, 3600.0)
"""Seconds after which a status that stays is said again: at first, then the run's age, at most."""
LAST_LOOK = 5.0
"""Seconds that the look at a deadline may take."""


@dataclass(frozen=True, slots=True)
class Watch:
    """
    What is waited for, and how long. Times are UTC epoch seconds, durations seconds.

    :param run_id: the run.
    :param poll_interval: between two looks at an old run.
    :param min_poll_interval: between two looks at a young run.
    :param started_at: when the run was started; None: when the wait begins.
    :param execution_deadline: when Airflow's ``execution_timeout`` is over.
    :param wait_deadline: when the wait's own ``timeout`` is over.
    :param unreachable_timeout: longest outage; None: until the deadline.
    :param no_progress_timeout: how long the run may keep the first status that the wait sees; None: for ever.
    :param search: what a run is searched by that is not known yet (filters of the service, and ``since``);
        ``run_id`` then only names the search.
    """

    run_id: str
    poll_interval: float
    min_poll_interval: float
    started_at: float | None = None
    execution_deadline: float | None = None
    wait_deadline: float | None = None
    unreachable_timeout: float | None = UNREACHABLE_TIMEOUT
    no_progress_timeout: float | None = None
    search: Mapping[str, Any] | None = None

    @property
    def named(self) -> str:
        """What is waited for, in words."""
        return f"run {self.run_id}" if self.search is None else f"a run with {self.run_id}"


class Topic(str, Enum):
    """What a note is about."""

    RUN = "run"
    TROUBLE = "trouble"
    RECOVERY = "recovery"


@dataclass(frozen=True, slots=True)
class Note:
    """
    Something for the task's log.

    :param text: what to say.
    :param alarming: whether it is a warning.
    :param topic: the run, or that the service cannot be asked about it, or can again.
    """

    text: str
    alarming: bool = False
    topic: Topic = Topic.RUN


class Trouble(str, Enum):
    """Why a service could not be asked about a run."""

    OUTAGE = "outage"
    REFUSED = "refused"
    NOT_FOUND = "not found"

    @classmethod
    def of(cls, error: RunsError) -> Trouble:
        """
        Return the kind of trouble that an error means.

        :param error: what asking ended with.
        """
        if isinstance(error, (Unauthorized, ConnectionUnreadable)):
            return cls.REFUSED
        if isinstance(error, NotFound):
            return cls.NOT_FOUND
        return cls.OUTAGE


OWN_TIMEOUTS = {Trouble.REFUSED: REFUSED_TIMEOUT, Trouble.NOT_FOUND: NOT_FOUND_TIMEOUT}


class Progress:
    """
    Follow one wait for one run.

    :param watch: what is waited for.
    :param service: the service's name, for messages.
    :param now: when the wait begins.
    """

    def __init__(self, watch: Watch, service: str, now: float) -> None:
        self.watch = watch
        self.service = service
        self.began = now
        self.started_at = now if watch.started_at is None else min(watch.started_at, now)
        self.status: str | None = None
        self.failures = 0
        self._first_status: str | None = None
        self._unknown_since: float | None = None
        self._trouble: Trouble | None = None
        self._trouble_since = 0.0
        self._asked_in_vain_since = 0.0
        self._error: RunsError | None = None
        self._say_again_at = inf
        self._searching = False
        self._found: str | None = None
        """The id of the run that the search means just now."""
        self.told = False
        """Whether the log knows of the present trouble."""
        self._notes: list[Note] = []

    def take_notes(self) -> list[Note]:
        """Return what was to be said since the last call."""
        notes, self._notes = self._notes, []
        return notes

    def saw(self, run: Run, now: float) -> Outcome | None:
        """
        Take note of the run and return how the wait ended, if it did.

        :param run: what the service said.
        :param now: the current time.
        """
        self.answered(now)
        if self.watch.search is not None and run.id != self._found:
            self._found, self.status = run.id, None
            self._say(f"Found {self.service} run {run.id}" + (f": {run.url}" if run.url else ""))
        if run.status != self.status:
            self._note_status(run, now)
        elif now >= self._say_again_at and not run.state.is_terminal:
            self._say_status(run, now, "still ")
        if run.state.is_terminal:
            return Outcome.of(run)
        if run.state is not RunState.UNKNOWN:
            self._unknown_since = None
        elif self._unknown_since is None:
            self._unknown_since = now
        return self.expired(now, last_look_done=True)

    def found_none(self, now: float) -> Outcome | None:
        """
        Take note that there is no run yet that fits the search, and return how the wait ended, if it did.

        :param now: the current time.
        """
        self.answered(now)
        if not self._searching:
            self._searching = True
            self._say(f"{self.service} has no run with {self.watch.run_id} yet, waiting for one")
        return self.expired(now, last_look_done=True)

    def missed(self, error: RunsError, now: float, *, since: float | None = None) -> Outcome | None:
        """
        Take note that the service could not be asked and return how the wait ended, if it did.

        :param error: why.
        :param now: the current time.
        :param since: when the trouble began, where it is the whole connection's and not seen on this run.
        """
        if isinstance(error, BadInput):
            return self._outcome(Verdict.UNREACHABLE, f"{self.service} cannot be asked: {error}")
        began = now if since is None else since
        trouble = Trouble.of(error)
        if since is None:
            self.failures += 1
        if self._trouble is None:
            self._asked_in_vain_since = began
        if trouble is not self._trouble:
            self._trouble, self._trouble_since = trouble, began
        self._error = error
        if (self.failures > 1 or since is not None) and not self.told:
            self.told = True
            self._say(
                f"{self.service} cannot be asked about {self.watch.named}: {error}. "
                "The wait goes on; this says nothing about the run itself.",
                alarming=True,
                topic=Topic.TROUBLE,
            )
        return self.expired(now, last_look_done=True)

    def answered(self, now: float) -> None:
        """
        Take note that the service answers again.

        :param now: the current time.
        """
        if self.told:
            seconds = now - self._asked_in_vain_since
            self._say(f"{self.service} can be asked again, after {seconds:.0f} s", topic=Topic.RECOVERY)
        self._trouble, self._error, self.told, self.failures = None, None, False, 0

    def deadline(self) -> float | None:
        """Return the earlier one of the two deadlines, at which the run is looked at for a last time."""
        return min(
            (
                moment
                for moment in (self.watch.execution_deadline, self.watch.wait_deadline)
                if moment is not None
            ),
            default=None,
        )

    def limit_at(self) -> float | None:
        """Return when :meth:`expired` may have something to say without any further answer."""
        moments = [moment for moment, _ in self._limits()]
        if (deadline := self.deadline()) is not None:
            moments.append(max(deadline, self.began) + LAST_LOOK)
        return min(moments, default=None)

    def expired(self, now: float, *, last_look_done: bool = False) -> Outcome | None:
        """
        Return how the wait ended by a limit, if it did.

        :param now: the current time.
        :param last_look_done: whether the run was just looked at, so that a deadline need not wait for that.
        """
        for which, deadline in (
            (Limit.EXECUTION_TIMEOUT, self.watch.execution_deadline),
            (Limit.TIMEOUT, self.watch.wait_deadline),
        ):
            if deadline is not None:
                moment = deadline if last_look_done else max(deadline, self.began) + LAST_LOOK
                if now >= moment:
                    return self._timed_out(which, now)
        for moment, end in self._limits():
            if now >= moment:
                return end()
        return None

    def _limits(self) -> Iterator[tuple[float, Callable[[], Outcome]]]:
        """Yield the limits that the run's present condition runs into, each with what it means."""
        if self._trouble is not None:
            if self.watch.unreachable_timeout is not None:
                yield self._asked_in_vain_since + self.watch.unreachable_timeout, self._unreachable
            if (limit := OWN_TIMEOUTS.get(self._trouble)) is not None:
                yield self._trouble_since + limit, self._unreachable
            # The other limits are about what the run says, which nobody knows at present.
            return
        if self._unknown_since is not None:
            yield self._unknown_since + UNKNOWN_TIMEOUT, self._stays_unknown
        idle = self.watch.no_progress_timeout
        if idle is not None and self.status is not None and self.status == self._first_status:
            # Not from the start: a wait that is taken up again may not have seen the run's first status.
            yield self.began + idle, self._no_progress

    def _note_status(self, run: Run, now: float) -> None:
        if self.status is None:
            self._first_status = run.status
        else:
            self._first_status = None
        self.status = run.status
        if run.state is not RunState.UNKNOWN:
            self._say_status(run, now)
            return
        self._say_again_at = inf
        self._say(
            f"Run {run.id} has the status {run.status!r} {self._age(now)}, which this package does not know. "
            f"Waiting up to {UNKNOWN_TIMEOUT:.0f} s for one that it knows",
            alarming=True,
        )

    def _say_status(self, run: Run, now: float, still: str = "") -> None:
        first, longest = SAY_AGAIN
        self._say_again_at = now + min(max(first, now - self.started_at), longest)
        self._say(f"Run {run.id} is {still}{run.status} {self._age(now)}")

    def _age(self, now: float) -> str:
        seconds = max(0.0, now - self.started_at)
        shown = f"{seconds:.0f} s" if seconds < 2 * SAY_AGAIN[0] else str(timedelta(seconds=round(seconds)))
        return f"{shown} after its start"

    def _timed_out(self, which: Limit, now: float) -> Outcome:
        last = f"its last status was {self.status}" if self.status else "it was never seen"
        trouble = f"; {self.service} could not be asked: {self._error}" if self._error else ""
        if self.watch.search is not None and self._found is None:
            text = f"{self.service} had no run with {self.watch.run_id} when {which.value} was over{trouble}"
        else:
            text = (
                f"run {self._found or self.watch.run_id} had not ended {self._age(now)}, when "
                f"{which.value} was over; {last}{trouble}"
            )
        return self._outcome(Verdict.TIMEOUT, text, which)

    def _stays_unknown(self) -> Outcome:
        text = (
            f"{self.service} says {self.status!r} about run {self.watch.run_id} for {UNKNOWN_TIMEOUT:.0f} s, "
            f"a status that this package does not know. Look at the run; {RETRY}"
        )
        return self._outcome(Verdict.UNKNOWN, text)

    def _no_progress(self) -> Outcome:
        text = (
            f"run {self.watch.run_id} stays {self.status!r} in {self.service} for "
            f"{self.watch.no_progress_timeout:.0f} s (no_progress_timeout)"
        )
        return self._outcome(Verdict.TIMEOUT, text, Limit.NO_PROGRESS_TIMEOUT)

    def _unreachable(self) -> Outcome:
        meaning = {
            Trouble.OUTAGE: "cannot be asked",
            Trouble.REFUSED: "refuses to be asked",
            Trouble.NOT_FOUND: "says not found when asked",
        }[self._trouble or Trouble.OUTAGE]
        text = f"{self.service} {meaning} about {self.watch.named}: {self._error}. This is no verdict on "
        text += "the run" if self.watch.search is not None else f"the run, which may still go on; {RETRY}"
        return self._outcome(Verdict.UNREACHABLE, text)

    def _outcome(self, verdict: Verdict, message: str, which: Limit | None = None) -> Outcome:
        return Outcome(verdict, self._found or self.watch.run_id, self.status, message, which)

    def _say(self, text: str, *, alarming: bool = False, topic: Topic = Topic.RUN) -> None:
        self._notes.append(Note(text, alarming, topic))
