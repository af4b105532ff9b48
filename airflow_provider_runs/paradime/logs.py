"""Follow what a run's commands print into the task's log, while the task waits on the worker."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from airflow_provider_runs.base.hook import RunHook
from airflow_provider_runs.base.logs import LogFollower
from airflow_provider_runs.core.errors import NotFound, RunsError, is_permanent
from airflow_provider_runs.core.retry import NO_RETRY
from airflow_provider_runs.core.text import one_line
from airflow_provider_runs.core.turns import Turn
from airflow_provider_runs.paradime.answers import CommandLogs
from airflow_provider_runs.paradime.hooks import as_paradime

FIRST_CURSOR = "0:0"
SHORTEST_PAUSE = 1.0
LONGEST_PAUSE = 10.0
FINISH_FAILURES = 3
SILENT_LOOKS = 4
"""After so many looks without a line an ended command's output is taken for whole."""


@dataclass
class _Followed:
    """A command that has begun."""

    id: int
    text: str
    cursor: str = FIRST_CURSOR
    has_ended: bool = False
    silent_looks: int = 0
    """How often nothing has come in a row since it ended."""
    is_finished: bool = False
    """Whether all its output has been written."""


class OutputFollower(LogFollower):
    """
    Write what the commands of a run print into a log.

    A command's output is asked for every 1 to 10 seconds until it is finished.

    :param hook: the service.
    :param run_id: the run.
    :param log: where to write.
    """

    what = "output"

    def __init__(self, hook: RunHook, run_id: str, log: Any) -> None:
        super().__init__(hook, run_id, log)
        self._commands: dict[int, _Followed] = {}
        self._wake = threading.Event()

    def _wake_up(self) -> None:
        self._wake.set()

    def _follow(self) -> None:
        pause, failures, wants_list = SHORTEST_PAUSE, 0, True
        while not self._stopped and self._left:
            last = self._run_has_ended
            try:
                if wants_list or last:
                    self._list_commands(last)
                written = self._write_pieces()
            except Exception as error:
                self._complain(error)
                written, failures = 0, failures + 1
                heals = isinstance(error, RunsError) and not is_permanent(error)
                if not heals or (last and failures >= FINISH_FAILURES):
                    return
            else:
                failures = 0
                if last:
                    return
            # What is silent may have ended, and another command may have begun.
            wants_list = not written
            pause = SHORTEST_PAUSE if written else min(pause * 1.5, LONGEST_PAUSE)
            if failures or not self._run_has_ended:
                self._wake.wait(SHORTEST_PAUSE if last else pause)
                self._wake.clear()

    def _list_commands(self, last: bool) -> None:
        """See which commands have begun and which have ended: all of them if the run has."""
        rows = self._hook.drive(lambda api: as_paradime(api).list_commands(self._run_id), NO_RETRY, Turn.POLL)
        for row in rows:
            has_ended = row.get("returnCode") is not None or bool(row.get("endDttm"))
            if has_ended or row.get("startDttm"):
                text = one_line(str(row.get("command")), self._hook.api.redact)
                command = self._commands.setdefault(row["id"], _Followed(row["id"], text))
                command.has_ended = has_ended or last

    def _write_pieces(self) -> int:
        """Write what has come of every command that is not finished, and return how many lines that were."""
        written = 0
        for command in self._commands.values():
            while not (command.is_finished or self._stopped):
                try:
                    piece = self._ask(command)
                except NotFound as error:
                    # Such as that of a command which has just begun, or has left none.
                    self._complain(error)
                    command.is_finished = command.has_ended
                    break
                written += self._write_piece(command, piece)
                if not command.has_ended or not self._left or command.silent_looks:
                    break
        return written

    def _write_piece(self, command: _Followed, piece: CommandLogs) -> int:
        if command.cursor == FIRST_CURSOR and piece.lines:
            self._say("Output of command %s: %s", command.id, command.text)
        written = 0
        for stream, text in piece.lines:
            mark = " stderr" if stream == "STDERR" else ""
            written += self._write(f"{command.id}{mark} |", text)
        # It may be that a server never says that a command has finished, or does not move on.
        is_silent = not piece.lines or piece.cursor == command.cursor
        command.silent_looks = command.silent_looks + 1 if is_silent and command.has_ended else 0
        gives_up = command.silent_looks >= (1 if self._run_has_ended else SILENT_LOOKS)
        command.is_finished = piece.finished or gives_up
        command.cursor = piece.cursor
        return written

    def _ask(self, command: _Followed) -> CommandLogs:
        return self._hook.drive(
            lambda api: as_paradime(api).get_command_logs(command.id, command.cursor), NO_RETRY, Turn.POLL
        )
