"""How a wait ended: the value that travels from the trigger to the task, in a form that is kept for good."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from airflow_provider_runs.core.errors import RunsError
from airflow_provider_runs.core.run import Run, RunState

EVENT_VERSION = 1


class Verdict(str, Enum):
    """The words by which a wait can end."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown"


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
    """

    verdict: Verdict
    run_id: str
    status: str | None = None
    message: str | None = None
    which: Limit | None = None

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

    def event(self) -> dict[str, Any]:
        """Return the trigger event (version 1) that says so."""
        return {
            "v": EVENT_VERSION,
            "outcome": self.verdict.value,
            "run_id": self.run_id,
            "status": self.status,
            "message": self.message,
            "which": self.which.value if self.which else None,
        }

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
        status, message = event.get("status"), event.get("message")
        return cls(
            verdict,
            run_id,
            status if isinstance(status, str) else None,
            message if isinstance(message, str) else None,
            which,
        )
