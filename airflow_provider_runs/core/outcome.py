"""How a wait ended: the value that travels from the trigger to the task, in a form that is kept for good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from airflow_provider_runs.core.errors import RunsError
from airflow_provider_runs.core.run import Run, RunState
from airflow_provider_runs.core.text import one_line

EVENT_VERSION = 1
MOST_TOLD = 20
"""Runs of a list that ended alike and are named at most: events and errors stay small."""
REASON_LENGTH = 200
"""Characters of the reason of one run of a list."""


class Verdict(str, Enum):
    """The words by which a wait can end."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown"

    @property
    def is_of_the_run(self) -> bool:
        """Whether it tells how the run itself has ended."""
        return self in (Verdict.SUCCEEDED, Verdict.FAILED, Verdict.CANCELLED)


class Limit(str, Enum):
    """Which limit ended a wait by timeout."""

    EXECUTION_TIMEOUT = "execution_timeout"
    TIMEOUT = "timeout"
    NO_PROGRESS_TIMEOUT = "no_progress_timeout"


class BadEvent(RunsError):
    """The event that resumed the task says nothing that can be relied on."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    How a wait ended.

    :param verdict: the word for it.
    :param run_id: the run that was waited for.
    :param status: the service's last word about the run, or None where it said none.
    :param message: what a person should read, or None.
    :param which: the limit that was reached, for TIMEOUT only.
    :param tallies: for a list of runs: how many of them ended how, the worst first. ``run_id`` then only
        names the list.
    """

    verdict: Verdict
    run_id: str
    status: str | None = None
    message: str | None = None
    which: Limit | None = None
    tallies: tuple[Tally, ...] | None = None

    @classmethod
    def of(cls, run: Run) -> Outcome:
        """
        Return the outcome that an ended run means.

        :param run: the run; its state is terminal.
        """
        verdict = {
            RunState.SUCCEEDED: Verdict.SUCCEEDED,
            RunState.FAILED: Verdict.FAILED,
            RunState.CANCELLED: Verdict.CANCELLED,
        }[run.state]
        return cls(verdict, run.id, run.status, run.message)

    @classmethod
    def of_many(cls, name: str, outcomes: Iterable[Outcome]) -> Outcome:
        """
        Return the outcome of a wait for a list of runs: that of the run which ended worst.

        A limit that is over comes first, then failed, unreachable, unknown, cancelled, succeeded.

        :param name: what the list is called.
        :param outcomes: how the wait for each run ended, in the order of the list; at least one.
        """
        alike: dict[tuple[Any, ...], list[Outcome]] = {}
        for outcome in outcomes:
            status = outcome.status if outcome.verdict.is_of_the_run else None
            alike.setdefault((outcome.verdict, outcome.which, status), []).append(outcome)
        return cls.of_tallies(
            name,
            (
                Tally(verdict, which, status, len(found), _examples(found))
                for (verdict, which, status), found in alike.items()
            ),
        )

    @classmethod
    def of_tallies(cls, name: str, tallies: Iterable[Tally]) -> Outcome:
        """
        Return the outcome of a wait for a list of runs, as :meth:`of_many`.

        :param name: what the list is called.
        :param tallies: how many ended how; at least one.
        """
        ordered = tuple(sorted(tallies, key=Tally.rank))
        worst = ordered[0]
        return cls(worst.verdict, name, worst.status, None, worst.which, ordered)

    def described(self, service: str) -> str:
        """
        Return how many runs of a list ended how, and which ended badly.

        :param service: the service's name.
        """
        tallies = self.tallies or ()
        total = sum(tally.count for tally in tallies)
        return f"Of {total} {service} runs, " + ". ".join(map(str, tallies))

    def event(self) -> dict[str, Any]:
        """Return the trigger event (version 1) that says so."""
        event: dict[str, Any] = {
            "v": EVENT_VERSION,
            "outcome": self.verdict.value,
            "run_id": self.run_id,
            "status": self.status,
            "message": self.message,
            "which": self.which.value if self.which else None,
        }
        if self.tallies is not None:
            event["runs"] = [tally.to_json() for tally in self.tallies]
        return event

    @classmethod
    def from_event(cls, event: Any) -> Outcome:
        """
        Read a trigger event.

        :param event: what the task was resumed with.
        :raises BadEvent: if it is missing, malformed, of a later version or of an unknown kind. Such an event
            must never read as success.
        """
        if not isinstance(event, Mapping):
            raise BadEvent(f"the task was resumed without a usable event: {event!r}")
        run_id = event.get("run_id")
        named = f" about run {run_id}" if isinstance(run_id, str) else ""
        if event.get("v") != EVENT_VERSION or not isinstance(run_id, str) or not run_id:
            raise BadEvent(f"the event{named} that resumed the task is malformed or of another version")
        try:
            verdict = Verdict(event.get("outcome"))
            which = Limit(event["which"]) if event.get("which") is not None else None
        except ValueError:
            raise BadEvent(f"the event{named} has the unknown outcome {event.get('outcome')!r}") from None
        if (verdict is Verdict.TIMEOUT) != (which is not None):
            raise BadEvent(f"the event{named} does not say which limit was reached")
        status, message = _text(event.get("status")), _text(event.get("message"))
        outcome = cls(verdict, run_id, status, message, which)
        if event.get("runs") is None:
            return outcome
        try:
            tallies = tuple(Tally.from_json(entry) for entry in event["runs"])
            worst = min(tallies, key=Tally.rank)
        except (LookupError, TypeError, ValueError):
            raise BadEvent(f"the event{named} counts its runs in an unknown way") from None
        if (worst.verdict, worst.which) != (verdict, which):
            raise BadEvent(f"the event{named} contradicts what it says of its runs")
        return replace(outcome, tallies=tallies)


@dataclass(frozen=True, slots=True)
class Tally:
    """
    Runs of a list whose waits ended alike.

    :param verdict: how.
    :param which: the limit that was reached, for TIMEOUT only.
    :param status: the service's word for such an end; None where the runs have not ended.
    :param count: how many.
    :param told: the first of them, each with its last status and the start of its reason; none of those that
        succeeded.
    """

    verdict: Verdict
    which: Limit | None
    status: str | None
    count: int
    told: tuple[Outcome, ...] = ()

    def rank(self) -> tuple[int, int]:
        """Return the place in the order of what counts: the smallest is the outcome of the list."""
        return _ORDER.index(self.verdict), [None, *Limit].index(self.which)

    def __str__(self) -> str:
        """Return a phrase that counts and names the runs."""
        ended = self.verdict.is_of_the_run
        what = _PHRASES[self.which or self.verdict] + (f" ({self.status})" if self.status else "")
        named = []
        for one in self.told:
            status = f" ({one.status})" if one.status and not ended else ""
            named.append(one.run_id + status + (f": {one.message}" if one.message else ""))
        if self.told and (more := self.count - len(self.told)):
            named.append(f"and {more} more")
        return f"{self.count} {what}" + (f": {'; '.join(named)}" if named else "")

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "outcome": self.verdict.value,
            "which": self.which.value if self.which else None,
            "status": self.status,
            "count": self.count,
            "told": [[one.run_id, one.status, one.message] for one in self.told],
        }

    @classmethod
    def from_json(cls, entry: Any) -> Tally:
        """
        Read it from JSON values.

        :param entry: what :meth:`to_json` returned.
        :raises LookupError: if a part of it is missing.
        :raises TypeError: if a part of it is of another kind.
        :raises ValueError: if a part of it makes no sense.
        """
        verdict = Verdict(entry["outcome"])
        which = None if entry["which"] is None else Limit(entry["which"])
        count = entry["count"]
        if type(count) is not int or count < 1 or (verdict is Verdict.TIMEOUT) != (which is not None):
            raise ValueError(entry)
        told = tuple(
            Outcome(verdict, str(run_id), _text(status), _text(message), which)
            for run_id, status, message in entry["told"]
        )
        if not told and verdict is not Verdict.SUCCEEDED:
            raise ValueError(entry)
        return cls(verdict, which, _text(entry["status"]), count, told)


_ORDER = (
    Verdict.TIMEOUT,
    Verdict.FAILED,
    Verdict.UNREACHABLE,
    Verdict.UNKNOWN,
    Verdict.CANCELLED,
    Verdict.SUCCEEDED,
)
_PHRASES: dict[Verdict | Limit, str] = {
    Limit.EXECUTION_TIMEOUT: "had not ended when execution_timeout was over",
    Limit.TIMEOUT: "had not ended when timeout was over",
    Limit.NO_PROGRESS_TIMEOUT: "kept the first status for no_progress_timeout",
    Verdict.FAILED: "failed",
    Verdict.UNREACHABLE: "could not be asked about",
    Verdict.UNKNOWN: "kept a status that this package does not know",
    Verdict.CANCELLED: "cancelled",
    Verdict.SUCCEEDED: "succeeded",
}


def _examples(alike: list[Outcome]) -> tuple[Outcome, ...]:
    """Return the first runs that are named, with their reasons; where it is no end, the first's is all's."""
    first = alike[0]
    if first.verdict is Verdict.SUCCEEDED:
        return ()
    said = []
    for one in alike[:MOST_TOLD]:
        has_own = one.verdict.is_of_the_run or (one is first and one.verdict is not Verdict.TIMEOUT)
        said.append(one.message if has_own else None)
    return tuple(
        replace(one, message=message and one_line(message, limit=REASON_LENGTH))
        for one, message in zip(alike, said, strict=False)
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
