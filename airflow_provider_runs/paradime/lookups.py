"""How Paradime is called, and all that only asks: runs, commands and their files, schedules."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from airflow_provider_runs.core.api import CanExplain, CanGetMany, CanListActive
from airflow_provider_runs.core.errors import ApiError, BadInput, RunsError
from airflow_provider_runs.core.http import Flow, Request
from airflow_provider_runs.core.inputs import integer, one_of, required_text, unknown_names
from airflow_provider_runs.core.pages import Page, read_pages
from airflow_provider_runs.core.run import Run, RunState
from airflow_provider_runs.paradime.answers import (
    BadAnswer,
    CommandLogs,
    DocumentRefused,
    ParadimeAnswers,
    Row,
    rows_of,
)
from airflow_provider_runs.paradime.operations import (
    COMMAND,
    COMMANDS,
    LOGS,
    RESOURCE_URL,
    RESOURCES,
    RUNS,
    SCHEDULE,
    SCHEDULES,
    STATUS,
    Operation,
    alias,
    int32,
)
from airflow_provider_runs.paradime.reasons import explain_command

SCHEDULE_FIELDS = ("slug", "schedule_name")
FILTERS = (*SCHEDULE_FIELDS, "state", "newest")
RUNS_PAGE = 50
LARGEST_PAGE = 1000
NEWEST_ACTIVE = 100
# startDttm is the server's clock, and a run that waits for a machine may get it late.
CLOCK_SLACK = 300.0
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


class ParadimeLookups(ParadimeAnswers, CanExplain, CanGetMany, CanListActive):
    """Look up runs and schedules, for :class:`~airflow_provider_runs.paradime.api.ParadimeRunApi`."""

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
            response = yield self._request(body, safe_to_repeat=True)
            try:
                data, problems = self._data(response, what)
            except ApiError as error:
                too_much = isinstance(error, DocumentRefused) or error.status == 413
                if too_much and size > 1:
                    self._learned.batch_size = size // 2
                    continue
                if too_much and not answers:
                    # It was no matter of the size.
                    self._learned.batch_size = known_size
                raise
            blamed = {problem.path[0]: problem for problem in reversed(problems) if problem.path}
            left = left[size:]
            unanswered = []
            for name, number in zip(names, chunk, strict=True):
                named = f"{what.removesuffix('s')} {number}"
                if name in blamed:
                    answers[number] = self._error(blamed[name], problems, response, named)
                elif data.get(name) is not None:
                    try:
                        answers[number] = self._answered(data[name], response, named)
                    except ApiError as error:
                        answers[number] = error
                else:
                    unanswered.append(number)
            if unanswered and problems and not data:
                # The field may not be null, so one error has emptied the whole answer.
                if len(unanswered) == size:
                    raise self._error(problems[0], problems, response, what)
                repeats += 1
                left = unanswered + left if repeats <= MOST_REPEATS else left
        return answers

    def list_runs(
        self, filters: Mapping[str, Any], *, since: float | None = None, limit: int | None = None
    ) -> Flow[list[Run]]:
        unknown_names("list of Paradime runs", filters, FILTERS)
        _, slug = schedule_of(filters)
        states = self._states(filters.get("state"))
        newest = None
        if filters.get("newest") is not None:
            newest = integer("newest", filters["newest"], at_least=1)
        elif not states:
            newest = limit

        found: list[Run] = []

        def more(rows: list[Row]) -> bool:
            runs = [self._run(row["id"], row.get("state"), row) for row in rows]
            wanted = (run for run in runs if not states or run.status in states)
            found.extend(run for run in wanted if not is_before(run, since, slack=0.0))
            return not is_before(runs[-1], since) and (limit is None or len(found) < limit)

        rows = yield from self._run_rows(slug, newest, more)
        if not rows:
            # An unknown schedule may be answered by an empty list.
            yield from self.get_schedule({"slug": slug})
        return found[:limit]

    def _run_rows(
        self, slug: str | None, newest: int | None, more: Callable[[list[Row]], bool]
    ) -> Flow[list[Row]]:
        """
        Return the rows of runs, the newest first.

        :param slug: those of this schedule; None: of all.
        :param newest: so many at most; None: all.
        :param more: is given the rows of a page that did not come before; tells whether more are wanted.
        :raises IncompleteList: if the list had to be left before its end.
        """
        what = "listing runs" if slug is None else f"listing the runs of schedule {slug!r}"
        named = {} if slug is None else {"slug": slug}
        found: dict[int, Row] = {}

        def ask(offset: int) -> Flow[Page[int]]:
            size = _page_size(newest, len(found))
            answer = yield from self._call(RUNS, {**named, "offset": offset, "limit": size}, what)
            rows = rows_of(answer.get("runs"))
            if rows is None:
                raise self._bad_answer(what, "without a list of runs")
            return Page(rows, offset + len(rows) if len(rows) >= size else None)

        def take(rows: list[Row]) -> bool:
            found.update({row["id"]: row for row in rows})
            return more(rows) and (newest is None or len(found) < newest)

        # Runs that were started meanwhile shift the pages.
        yield from read_pages(f"{self.service}: {what}", ask, 0, itemgetter("id"), take)
        return list(found.values())

    def _states(self, given: Any) -> frozenset[str]:
        """Return the status words of a filter; none where none are given."""
        words = list(given) if isinstance(given, (list, tuple, set)) else [] if given is None else [given]
        known = [word.upper() for word in self.statuses.all_words()]
        return frozenset(one_of("state", str(word).upper(), known) for word in words)

    def active_filters(self, arguments: Mapping[str, Any]) -> Row:
        named = {name: arguments[name] for name in SCHEDULE_FIELDS if arguments.get(name) is not None}
        return {**named, "state": list(self.statuses.active_words()), "newest": NEWEST_ACTIVE}

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

    def list_schedules(self, *, show_inactive: bool = False, limit: int | None = None) -> Flow[list[Row]]:
        """
        Return the workspace's schedules as Paradime shows them.

        :param show_inactive: whether to list inactive ones too.
        :param limit: so many at most; None: all.
        :raises IncompleteList: if the list had to be left before its end.
        """
        what = "listing schedules"
        found: list[Row] = []

        def ask(offset: int) -> Flow[Page[int]]:
            size = _page_size(limit, len(found))
            asked = {"offset": offset, "limit": size, "showInactive": show_inactive}
            answer = yield from self._call_or_older(SCHEDULES, asked, what)
            rows = answer.get("schedules")
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise self._bad_answer(what, "without a list of schedules")
            return Page(rows, offset + len(rows) if len(rows) >= size else None)

        def take(rows: list[Row]) -> bool:
            found.extend(rows)
            return limit is None or len(found) < limit

        yield from read_pages(f"{self.service}: {what}", ask, 0, _id_of_schedule, take)
        return found[:limit]


def _page_size(most: int | None, found: int) -> int:
    """Return the rows of the next page, where so many are wanted at most and so many were found."""
    return RUNS_PAGE if most is None else min(most - found, LARGEST_PAGE)


def _id_of_schedule(row: Row) -> str | int | None:
    """Return what tells a schedule from others, of what the server says about it."""
    named = (row.get(name) for name in ("uuid", "id", "name"))
    return next((found for found in named if isinstance(found, (str, int))), None)


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


def is_before(run: Run, moment: float | None, slack: float = CLOCK_SLACK) -> bool:
    """
    Tell whether a run was surely started before a moment.

    :param run: the run.
    :param moment: UTC epoch seconds; None: before no moment.
    :param slack: seconds by which the run's own time may be wrong.
    """
    if moment is None or run.started_at is None:
        return False
    return run.started_at.timestamp() < moment - slack
