"""How Paradime is called, and what is asked about single runs, commands, their files, and a schedule."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_runs.core.api import CanExplain, CanGetMany
from airflow_provider_runs.core.errors import ApiError, BadInput, RunsError, is_too_long
from airflow_provider_runs.core.http import Flow, Request, Response
from airflow_provider_runs.core.inputs import required_text, unknown_names
from airflow_provider_runs.core.run import Run, RunState
from airflow_provider_runs.paradime.answers import (
    BadAnswer,
    CommandLogs,
    DocumentRefused,
    ParadimeAnswers,
    Problem,
    Row,
    rows_of,
)
from airflow_provider_runs.paradime.operations import (
    COMMAND,
    COMMANDS,
    LOGS,
    RESOURCE_URL,
    RESOURCES,
    SCHEDULE,
    STATUS,
    Operation,
    alias,
    int32,
)
from airflow_provider_runs.paradime.reasons import explain_command

SCHEDULE_FIELDS = ("slug", "schedule_name")
MOST_REPEATS = 3
_UNKNOWN_FIELD = re.compile(r"cannot query field", re.IGNORECASE)


@dataclass
class Learned:
    """
    What a server has shown not to take, kept for the life of the process.

    :param batch_size: runs in one document at most.
    :param reason: whether it knows the argument ``reason``.
    :param older: fields of which it knows the older selection only.
    """

    batch_size: int = 50
    reason: bool = True
    older: set[str] = field(default_factory=set)


class ParadimeLookups(ParadimeAnswers, CanExplain, CanGetMany):
    """Look up what has an id, for :class:`~airflow_provider_runs.paradime.api.ParadimeRunApi`."""

    _learned: Learned
    _endpoint_token: str | None
    _urls: set[str]
    """Addresses of files that the server told, which are secrets."""

    # Sending

    def _call(
        self,
        operation: Operation,
        values: Mapping[str, Any],
        what: str,
        *,
        safe_to_repeat: bool | None = None,
        older: bool = False,
    ) -> Flow[Row]:
        """Send one operation and return its answer. Queries are safe to repeat, mutations rarely."""
        safe = operation.kind == "query" if safe_to_repeat is None else safe_to_repeat
        response = yield self._request(operation.body(values, older=older), safe_to_repeat=safe)
        return self._field(response, operation, what)

    def _call_or_older(self, operation: Operation, values: Mapping[str, Any], what: str) -> Flow[Row]:
        """Ask for what an older server may not know all of, and remember what it is."""
        older = operation.field in self._learned.older
        try:
            return (yield from self._call(operation, values, what, older=older))
        except DocumentRefused as error:
            if older or not any(_UNKNOWN_FIELD.search(text) for text in error.said):
                raise
        answer = yield from self._call(operation, values, what, older=True)
        self._learned.older.add(operation.field)
        return answer

    def _request(self, body: Row, *, safe_to_repeat: bool) -> Request:
        return Request(
            "POST",
            self.settings.base_url,
            json=body,
            safe_to_repeat=safe_to_repeat,
            secret=self._endpoint_token,
        )

    @staticmethod
    def _bad_answer(what: str, without: str) -> BadAnswer:
        return BadAnswer(f"Paradime answered {what} {without}", status=200, permanent=False)

    # Runs

    def get(self, run_id: str) -> Flow[Run]:
        number = run_number(run_id)
        answer = yield from self._call(STATUS, {"runId": number}, f"the status of run {number}")
        return self._run(number, answer.get("state"))

    @property
    def batch_size(self) -> int:
        return self._learned.batch_size

    def get_many(self, run_ids: Sequence[str]) -> Flow[dict[str, Run | Exception]]:
        """
        Ask about many runs in one document, under aliases.

        A run that Paradime does not know spoils the others nowhere, also where the whole answer is empty
        because of it.

        :param run_ids: the runs' ids.
        """
        found: dict[str, Run | Exception] = {}
        numbers: dict[str, int] = {}
        for run_id in run_ids:
            try:
                numbers[run_id] = run_number(run_id)
            except BadInput as error:
                found[run_id] = error
        answers = yield from self._many(STATUS, [*numbers.values()], "the status of runs")
        for run_id, number in numbers.items():
            answer = answers.get(number)
            if isinstance(answer, RunsError):
                found[run_id] = answer
            elif answer is not None:
                found[run_id] = self._run(number, answer.get("state"))
        return found

    def _many(
        self, operation: Operation, numbers: Sequence[int], what: str
    ) -> Flow[dict[int, Row | RunsError]]:
        """
        Ask for a field once for each number, in as few documents as the server takes.

        Numbers that an answer says nothing about are left out.
        """
        answers: dict[int, Row | RunsError] = {}
        left = list(numbers)
        repeats, known_size = 0, self._learned.batch_size
        while left:
            size = min(self._learned.batch_size, len(left))
            chunk = left[:size]
            names = [operation.field] if size == 1 else [alias(index) for index in range(size)]
            if size == 1:
                body = operation.body(dict.fromkeys(operation.arguments, chunk[0]))
            else:
                body = operation.body_of_many(chunk)
            try:
                response = yield self._request(body, safe_to_repeat=True)
                data, problems = self._data(response, what)
            except RunsError as error:
                too_much = isinstance(error, DocumentRefused) or is_too_long(error)
                if too_much and size > 1:
                    self._learned.batch_size = size // 2
                    continue
                if too_much and not answers:
                    # It was no matter of the size.
                    self._learned.batch_size = known_size
                raise
            left = left[size:]
            named = dict(zip(names, chunk, strict=True))
            found = self._answers_to(named, data, problems, response, what)
            answers.update(found)
            unanswered = [number for number in chunk if number not in found]
            if unanswered and problems and not data:
                # The field may not be null, so one error has emptied the whole answer.
                if len(unanswered) == size:
                    raise self._error(problems[0], problems, response, what)
                repeats += 1
                left = unanswered + left if repeats <= MOST_REPEATS else left
        return answers

    def _answers_to(
        self,
        named: Mapping[str, int],
        data: Row,
        problems: Sequence[Problem],
        response: Response,
        what: str,
    ) -> dict[int, Row | RunsError]:
        """Return what an answer says about each number, by the name under which it was asked for."""
        blamed = {problem.path[0]: problem for problem in reversed(problems) if problem.path}
        found: dict[int, Row | RunsError] = {}
        for name, number in named.items():
            about = f"{what.removesuffix('s')} {number}"
            if name in blamed:
                found[number] = self._error(blamed[name], problems, response, about)
            elif data.get(name) is not None:
                try:
                    found[number] = self._answered(data[name], response, about)
                except ApiError as error:
                    found[number] = error
        return found

    # Commands and what they leave

    def list_commands(self, run_id: str) -> Flow[list[Row]]:
        """
        Return a run's commands in their order, without their output.

        The first ones are Paradime's own steps, such as cloning the repository.

        :param run_id: the run.
        """
        number = run_number(run_id)
        what = f"the commands of run {number}"
        answer = yield from self._call(COMMANDS, {"runId": number}, what)
        rows = rows_of(answer.get("commands"))
        if rows is None:
            raise self._bad_answer(what, "without a list of commands")
        return sorted(rows, key=lambda row: int(row["id"]))

    def get_command(self, command_id: int | str) -> Flow[Row]:
        """
        Return what Paradime knows about a command, its whole output among it.

        :param command_id: the command.
        """
        number = int32("command_id", command_id)
        return (yield from self._call(COMMAND, {"commandId": number}, f"command {number}"))

    def list_resources(self, run_id: str) -> Flow[list[Row]]:
        """
        Return the files that a run's commands have left, in the order of the commands.

        :param run_id: the run.
        :return: ``id``, ``path``, ``command_id`` and ``command`` (its text) of each.
        """
        commands = yield from self.list_commands(run_id)
        texts = {row["id"]: str(row.get("command")) for row in commands}
        answers = yield from self._many(RESOURCES, list(texts), "the files of commands")
        found = []
        for number, text in texts.items():
            answer = answers.get(number)
            if isinstance(answer, RunsError):
                raise answer
            resources = rows_of(answer.get("resources")) if answer else None
            if resources is None:
                raise self._bad_answer(f"the files of command {number}", "without a list of them")
            found += [
                {"id": row["id"], "path": str(row.get("path")), "command_id": number, "command": text}
                for row in resources
            ]
        return found

    def get_resource_url(self, resource_id: int | str) -> Flow[str]:
        """
        Return the address of a file, which is a credential as long as it is valid.

        :param resource_id: the file, see :meth:`list_resources`.
        """
        number = int32("resource_id", resource_id)
        what = f"the address of file {number}"
        answer = yield from self._call(RESOURCE_URL, {"resourceId": number}, what)
        url = answer.get("url")
        if not isinstance(url, str) or not url.startswith(("https://", "http://")):
            raise self._bad_answer(what, "without an address")
        self._urls |= {url, url.partition("#")[0].partition("?")[2]} - {""}
        for secret in self._urls:
            self.keep_secret(secret)
        return url

    def get_command_logs(self, command_id: int | str, cursor: str = "0:0") -> Flow[CommandLogs]:
        """
        Return the piece of a command's output that begins at a cursor.

        :param command_id: the command.
        :param cursor: where it begins, as the piece before said.
        """
        number = int32("command_id", command_id)
        what = f"the output of command {number}"
        answer = yield from self._call(LOGS, {"commandId": number, "cursor": cursor}, what)
        lines, following, finished = (answer.get(name) for name in ("lines", "cursor", "finished"))
        good = isinstance(lines, list) and all(isinstance(line, dict) for line in lines)
        if not good or not isinstance(following, str) or not isinstance(finished, bool):
            raise self._bad_answer(what, "without lines, cursor and end")
        read = [(str(line.get("stream")), str(line.get("line") or "")) for line in lines or ()]
        return CommandLogs(read, following, finished)

    def explain(self, run_id: str) -> Flow[str | None]:
        text, _ = yield from self.explain_with_files(run_id)
        return text

    def explain_with_files(self, run_id: str) -> Flow[tuple[str | None, list[Row]]]:
        """
        Return why a run ended badly, and the files (``id`` and ``path``) that its failing command has left.

        :param run_id: the run.
        """
        run = yield from self.get(run_id)
        if run.state not in (RunState.FAILED, RunState.CANCELLED):
            return None, []
        commands = yield from self.list_commands(run_id)
        failed = [row for row in commands if row.get("returnCode") not in (0, None)]
        # Where the platform ends a run, no command says how it ended.
        failed = failed or [row for row in commands if row.get("startDttm") and row.get("returnCode") is None]
        if not failed:
            return f"no command of the run has failed; Paradime calls it {run.status}", []
        # Commands go on after a failure only where the schedule says so: the last one has ended the run.
        command = yield from self.get_command(failed[-1]["id"])
        before = [row.get("command") for row in failed[:-1]]
        return explain_command(command, before, self.redact), rows_of(command.get("resources")) or []

    # Schedules

    def get_schedule(self, arguments: Mapping[str, Any]) -> Flow[Row]:
        """
        Return what Paradime knows about a schedule.

        :param arguments: ``slug`` or ``schedule_name``.
        """
        unknown_names("schedule", arguments, SCHEDULE_FIELDS)
        name, text = schedule_of(arguments)
        return (yield from self._call_or_older(SCHEDULE, {name: text}, f"schedule {text!r}"))


def run_number(run_id: str) -> int:
    """
    Return a run's id as the number that Paradime wants.

    :param run_id: the id.
    :raises BadInput: if it is none.
    """
    return int32("run_id", run_id)


def schedule_of(arguments: Mapping[str, Any]) -> tuple[str, str]:
    """
    Return the argument by which a schedule is named, as Paradime spells it, and its text.

    :param arguments: ``slug``, or ``schedule_name``, the older name of the same.
    :raises BadInput: if not exactly one of them is given.
    """
    given = [name for name in SCHEDULE_FIELDS if arguments.get(name) is not None]
    if len(given) != 1:
        raise BadInput("give either slug or schedule_name" + (", not both" if given else ""))
    wire = "slug" if given == ["slug"] else "scheduleName"
    return wire, required_text(given[0], arguments[given[0]])
