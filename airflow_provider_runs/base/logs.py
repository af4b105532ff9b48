"""Follow what a run says into the task's log, while the task waits on the worker."""

from __future__ import annotations

import contextvars
import threading
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from airflow_provider_runs.base.hook import RunHook
from airflow_provider_runs.base.operator import TriggerRunOperator
from airflow_provider_runs.base.trigger import RunTrigger
from airflow_provider_runs.base.worker import Attended
from airflow_provider_runs.core.errors import BadInput, RunsError
from airflow_provider_runs.core.outcome import Outcome, Verdict
from airflow_provider_runs.core.text import printable

FINISH_SECONDS = 30.0
MAX_LINES = 10_000
LINE_CHARACTERS = 1000


class LogFollower(ABC):
    """
    Write what a run says into a log, in a thread of its own.

    What goes wrong with that is said once and hides nothing else. 10000 lines are written, each cut after
    1000 characters.

    :param hook: the service.
    :param run_id: the run.
    :param log: where to write.
    """

    what: ClassVar[str]
    """What the run says, for messages."""

    def __init__(self, hook: RunHook, run_id: str, log: Any) -> None:
        self._hook = hook
        self._run_id = run_id
        self._log = log
        self._left = MAX_LINES
        self._run_has_ended = False
        self._stopped = False
        self._has_complained = False
        work = contextvars.copy_context()
        self._thread = threading.Thread(
            target=work.run, args=(self._follow,), daemon=True, name="log-follower"
        )

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def finish(self) -> None:
        """Write what is left once the run has ended, for half a minute at most."""
        self._run_has_ended = True
        self._wake_up()
        self._thread.join(FINISH_SECONDS)
        if self._thread.is_alive():
            self._say(f"The rest of the {self.what} of run %s does not come in time", self._run_id)

    def stop(self) -> None:
        """Write nothing more. A request that is under way is not waited for."""
        self._stopped = True
        self._wake_up()

    @abstractmethod
    def _follow(self) -> None:
        """Write until the run has ended and nothing is left, or no more lines may be written, or stopped."""

    @abstractmethod
    def _wake_up(self) -> None:
        """Have the thread notice at once that the run has ended or that it was stopped."""

    def _complain(self, error: Exception) -> None:
        if not self._has_complained and not self._stopped:
            said = error if isinstance(error, RunsError) else f"{type(error).__name__}: {error}"
            self._log.warning(f"The {self.what} of run %s cannot be followed: %s", self._run_id, said)
        self._has_complained = True

    def _write(self, head: str, text: str) -> int:
        """Write some lines, as far as they may be written, and return how many there are."""
        lines = self._hook.api.redact(text).splitlines()
        for line in lines[: self._left]:
            self._say("%s %s", head, printable(line[: 2 * LINE_CHARACTERS])[:LINE_CHARACTERS])
            self._left -= 1
            if not self._left:
                self._say("%s lines are shown; the rest stands on the run's page", MAX_LINES)
        return len(lines)

    def _say(self, *words: Any) -> None:
        if not self._stopped:
            self._log.info(*words)


class StreamsLogs(TriggerRunOperator):
    """Base of operators that can follow what a run says while they wait for it on the worker."""

    follower_class: ClassVar[type[LogFollower]]
    stream_logs: bool = False

    def _check_rules(self) -> None:
        super()._check_rules()
        if self.stream_logs and (self.deferrable or not self.wait_for_completion):
            raise BadInput(
                "stream_logs needs a task that waits on the worker: deferrable=False and "
                "wait_for_completion=True"
            )

    def _wait_here(self, attended: Attended, trigger: RunTrigger) -> Outcome:
        if not self.stream_logs:
            return super()._wait_here(attended, trigger)
        follower = self.follower_class(self.hook, trigger.run_id, self.log)
        follower.start()
        try:
            outcome = super()._wait_here(attended, trigger)
            if outcome.verdict in (Verdict.SUCCEEDED, Verdict.FAILED, Verdict.CANCELLED):
                attended.run(follower.finish)
            return outcome
        finally:
            follower.stop()
