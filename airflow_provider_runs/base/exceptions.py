"""What a task raises. Whether Airflow retries it follows from the base class: a *Fail* exception is final."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_provider_runs.core.errors import RunsError
from airflow_provider_runs.core.outcome import Outcome


class RunFailed(RunsError, AirflowException):
    """
    The remote run ended badly.

    :param message: what happened, to which run, what the service said.
    :param outcome: how the wait ended.
    """

    def __init__(self, message: str, outcome: Outcome | None = None) -> None:
        super().__init__(message)
        self.outcome = outcome


class RunCancelled(RunFailed, AirflowFailException):
    """Somebody cancelled the remote run. The task is not retried: that would start again what was stopped."""


class RunTimedOut(RunFailed):
    """The wait is over; the remote run may still go on. A retry of the task attaches to it."""


class RunUnreachable(RunsError):
    """The service could not be asked about the run. No verdict; a retry of the task attaches to the run."""


class RunStatusUnknown(RunsError):
    """The run keeps a status that this package does not know. A retry of the task attaches to the run."""


class RequestRefused(RunsError, AirflowFailException):
    """The service or this package refuses what was asked for; trying again would end the same."""


class StartUncertain(RunsError):
    """It is not known whether the run was started. A retry of the task finds out before it starts another."""


class Interrupted(RunsError):
    """The task's process was told to stop."""


class RunInProgress(RunsError):
    """Another run of what was to be started goes, and ``if_running`` is ``fail``. A retry looks again."""
