"""Why a run ended badly or does not start, as far as Mage tells."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from airflow_provider_runs.core.api import CanExplain
from airflow_provider_runs.core.errors import RunsError
from airflow_provider_runs.core.http import Flow
from airflow_provider_runs.core.run import RunState
from airflow_provider_runs.core.text import one_line
from airflow_provider_runs.mage.answers import Row, failures, log_lines
from airflow_provider_runs.mage.lookups import MageLookups

LOG_FILES = 20
TRACEBACK_LINES = 50
LOG_TAIL = 20


class MageReasons(MageLookups, CanExplain):
    """Explain runs and read their logs, for :class:`~airflow_provider_runs.mage.api.MageRunApi`."""

    def explain(self, run_id: str) -> Flow[str | None]:
        row = yield from self._detail(run_id)
        state = self._run(row).state
        if state is RunState.PENDING:
            return (yield from self._why_it_waits(row))
        if state not in (RunState.FAILED, RunState.CANCELLED):
            return None
        failed = failures(row)
        logs: list[Row] = []
        note = None
        try:
            logs = yield from self._log_files(row)
        except RunsError as error:
            note = f"(its log cannot be read: {error})"
        parts: list[str] = []
        for block, reason in failed:
            lines = self.redact(str(reason.get("message") or "")).rstrip().splitlines()
            parts += [f"block {block}: {self._reason(reason)}", *lines[-TRACEBACK_LINES:]]
            parts += self._tail(logs, block)
        # A timeout stands nowhere else.
        parts += self._complaints(logs)
        return "\n".join([*parts, *([note] if note else [])]) or None

    def logs(self, run_id: str) -> Flow[dict[str, str]]:
        """
        Return a run's log files by name: the scheduler's, and one for each block.

        :param run_id: the run.
        """
        files = yield from self._log_files((yield from self._detail(run_id)))
        return {str(file.get("name")): self.redact(str(file.get("content") or "")) for file in files}

    def _why_it_waits(self, row: Row) -> Flow[str | None]:
        """Return what keeps a run from starting, as far as Mage tells."""
        response = yield self._request("GET", "/api/status", authenticated=False)
        scheduler = self._scheduler(self._read(response, "statuses", "the server's status"))
        said = f"the run has not started; Mage's scheduler is {scheduler}"
        schedule = row.get("pipeline_schedule_id")
        if isinstance(schedule, int):
            trigger = yield from self._schedule_by_id(schedule)
            said += f", the trigger is {trigger.get('status')}"
            settings = trigger.get("settings")
            if isinstance(settings, dict) and settings.get("pipeline_run_limit"):
                said += f" and lets {settings['pipeline_run_limit']} run(s) go at once"
        return one_line(said, self.redact)

    @staticmethod
    def _scheduler(statuses: Any) -> str:
        first = statuses[0] if isinstance(statuses, list) and statuses else None
        return str((first.get("scheduler_status") if isinstance(first, dict) else None) or "unknown")

    def _log_files(self, row: Row) -> Flow[list[Row]]:
        """Return the log files of a run: the scheduler's first, then those of the blocks."""
        pipeline, what = str(row.get("pipeline_uuid")), f"the log of run {row['id']}"
        response = yield self._request(
            "GET",
            f"/api/pipelines/{quote(pipeline, safe='')}/logs",
            {"pipeline_run_id[]": str(row["id"]), "_limit": str(LOG_FILES)},
        )
        logs = self._read(response, "logs", what)
        first = logs[0] if isinstance(logs, list) and logs else None
        files = []
        for kind in ("pipeline_run_logs", "block_run_logs"):
            listed = first.get(kind) if isinstance(first, dict) else None
            if not isinstance(listed, list):
                raise self._unusable(response, what)
            files += [file for file in listed if isinstance(file, dict) and file.get("content")]
        return files

    def _tail(self, files: list[Row], block: str) -> list[str]:
        """Return the end of a block's log, without the tracebacks."""
        for file in files:
            if file.get("name") == f"{block}.log":
                entries = list(log_lines(file.get("content")))
                lines = [self._log_line(entry) for entry in entries[-LOG_TAIL:]]
                return [f"the end of its log ({len(lines)} of {len(entries)} lines):", *lines]
        return []

    def _complaints(self, files: list[Row]) -> list[str]:
        """Return the errors in the scheduler's log that are not those of a block."""
        entries = [
            entry
            for file in files
            if file.get("name") == "scheduler.log"
            for entry in log_lines(file.get("content"))
            if entry.get("level") in ("ERROR", "EXCEPTION", "CRITICAL") and "block_uuid" not in entry
        ]
        return [one_line(str(entry.get("message")), self.redact) for entry in entries[-LOG_TAIL:]]

    def _log_line(self, entry: Row) -> str:
        return f"  {entry.get('level')} {one_line(str(entry.get('message')), self.redact)}"
