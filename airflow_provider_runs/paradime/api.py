"""
Paradime's Bolt runs: connection and operations.

See https://docs.paradime.io/app-help/documentation/bolt. The documents stand in
:mod:`~airflow_provider_runs.paradime.operations`, what the answers mean in
:mod:`~airflow_provider_runs.paradime.answers`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote, urlsplit

from airflow_provider_runs.core.api import (
    CanCancel,
    CanExplain,
    CanFindUnmarked,
    CanGetMany,
    CanListActive,
    CanRetry,
    Scope,
    Unsure,
    header_text,
)
from airflow_provider_runs.core.connection import ConnectionSpec, Field, Settings
from airflow_provider_runs.core.errors import ApiError, BadInput, RunsError, Unauthorized, WrongScope
from airflow_provider_runs.core.http import Flow, Request, Response
from airflow_provider_runs.core.inputs import boolean, integer, one_of, required_text, unknown_names
from airflow_provider_runs.core.run import Run, RunState
from airflow_provider_runs.core.schedule import Pace
from airflow_provider_runs.paradime.answers import (
    BadAnswer,
    CommandLogs,
    DocumentRefused,
    ParadimeAnswers,
    Row,
    is_number,
    rows_of,
)
from airflow_provider_runs.paradime.operations import (
    CANCEL,
    COMMAND,
    COMMANDS,
    COUNT,
    LOGS,
    RESOURCE_URL,
    RESOURCES,
    RETRY,
    RETRY_ALL,
    RETRY_FROM_FAILURE,
    RUNS,
    SCHEDULE,
    SCHEDULES,
    STATUS,
    SUSPEND,
    TRIGGER,
    Operation,
    alias,
    int32,
)
from airflow_provider_runs.paradime.reasons import explain_command

DOCUMENTATION = "https://docs.paradime.io/app-help/documentation/bolt"
APP_URL = "https://app.paradime.io"
WORKSPACE_TOKEN, COMPANY_TOKEN = "prdm_wsp_", "prdm_cmp_"
WORKSPACE_HEADER = "X-Paradime-Workspace"
ENDPOINT_TOKEN = "endpoint_token"
SCHEDULE_FIELDS = ("slug", "schedule_name")
ARGUMENTS = (
    *SCHEDULE_FIELDS,
    "commands",
    "branch",
    "pr_number",
    "reason",
    "command_configs",
    "continue_on_error",
)
FILTERS = (*SCHEDULE_FIELDS, "state", "newest")
RUNS_PAGE = 50
LARGEST_PAGE = 1000
NEWEST_ACTIVE = 100
# startDttm is the server's clock, and a run that waits for a machine may get it late.
CLOCK_SLACK = 300.0
# It comes without a zone, and nobody says which one is meant.
ZONE_SLACK = 86_400.0
MOST_REPEATS = 3
MOST_CANDIDATES = 20
# Parts of an endpoint's path that are no secret.
_PLAIN = re.compile(r"api|v\d+|graphql|paradime|", re.IGNORECASE)
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_UNKNOWN_REASON = re.compile(r"unknown argument\W+reason\b", re.IGNORECASE)
_UNKNOWN_FIELD = re.compile(r"cannot query field", re.IGNORECASE)

CONNECTION = ConnectionSpec(
    conn_type="paradime_bolt",
    hook_name="Paradime",
    default_host=None,
    default_scheme="https",
    relabeling={"host": "API endpoint", "password": "API secret or token"},
    placeholders={"host": "https://api.paradime.io/api/v1/.../graphql", "port": "443"},
    hidden=("schema", "login"),
    own_fields=(
        Field(
            "api_key",
            "API key",
            description="Needed with an API secret; a token that begins with prdm_ needs none.",
            secret=True,
        ),
        Field(
            "workspace_uid",
            "Workspace",
            description="UID of the workspace. Needed with a company token (prdm_cmp_).",
        ),
        Field("app_url", "App URL", description=f"Base of the links to runs. Empty: {APP_URL}."),
        Field(
            "dataset_namespace",
            "Dataset namespace",
            description="OpenLineage's namespace of the warehouse, such as snowflake://organization-account. "
            "Empty: the name of dbt's adapter.",
        ),
    ),
    other_names={"host": "api_endpoint", "password": "api_secret"},
    other_types=("paradime",),
    request_timeout=60.0,
)


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


_learned: dict[str, Learned] = {}


class ParadimeRunApi(
    ParadimeAnswers, CanCancel, CanExplain, CanFindUnmarked, CanGetMany, CanListActive, CanRetry
):
    """Describe Paradime's run API for one connection and workspace."""

    connection = CONNECTION
    pace = Pace(min_poll_interval=2, poll_interval=60, max_requests_per_minute=120)
    scope_fields = ("workspace_uid",)

    def __init__(self, settings: Settings, scope: Scope | None = None, **kwargs: Any) -> None:
        # The endpoint holds a token in its path, which no text may show.
        url, token = _hidden(settings.base_url)
        self._learned = _learned.setdefault(settings.base_url, Learned())
        extra = dict(settings.extra)
        if token is not None:
            # The settings of two endpoints are not equal.
            extra[ENDPOINT_TOKEN] = token
        super().__init__(replace(settings, base_url=url, extra=extra), scope, **kwargs)
        self._endpoint_token = token
        self._urls: set[str] = set()
        self.app_url = (self.settings.text("app_url") or APP_URL).rstrip("/")
        self.dataset_namespace = self.settings.text("dataset_namespace")
        self._headers = self._credentials()

    def _credentials(self) -> dict[str, str]:
        """Return the headers for the kind of secret that the connection holds."""
        named = f"connection {self.settings.conn_id!r}"
        if self.settings.password is None:
            raise BadInput(f"{named}: the API secret or token is not set")
        secret = header_text(f"{named}: the API secret", self.settings.password)
        workspace = self.scope.get("workspace_uid") or self.settings.text("workspace_uid")
        if secret.startswith((WORKSPACE_TOKEN, COMPANY_TOKEN)):
            headers = {"Authorization": f"Bearer {secret}"}
            if workspace:
                headers[WORKSPACE_HEADER] = header_text("workspace_uid", workspace)
            elif secret.startswith(COMPANY_TOKEN):
                raise BadInput(f"{named}: a company token ({COMPANY_TOKEN}...) needs a workspace_uid")
            return headers
        key = self.settings.text("api_key")
        if not key:
            raise BadInput(
                f"{named}: the API secret needs its API key (field api_key); only tokens that begin with "
                f"{WORKSPACE_TOKEN} or {COMPANY_TOKEN} need none"
            )
        return {"X-API-KEY": header_text(f"{named}: api_key", key), "X-API-SECRET": secret}

    def auth_headers(self) -> dict[str, str]:
        return dict(self._headers)

    def secrets(self) -> tuple[str, ...]:
        held = [*super().secrets(), *self._urls]
        if self._endpoint_token is not None:
            held.append(self._endpoint_token)
        return tuple(held)

    # Starting

    def trigger(
        self, arguments: Mapping[str, Any], key: str | None = None, began: float | None = None
    ) -> Flow[Run]:
        values = self._start_values(arguments)
        what = f"starting schedule {values.get('slug') or values.get('scheduleName')!r}"
        if not self._learned.reason:
            values.pop("reason", None)
        try:
            answer = yield from self._call(TRIGGER, values, what)
        except DocumentRefused as error:
            # Nothing was executed. A reason only tells people where a run comes from.
            if "reason" not in values or not any(_UNKNOWN_REASON.search(text) for text in error.said):
                raise
            self._learned.reason = False
            del values["reason"]
            answer = yield from self._call(TRIGGER, values, what)
        return self._started(answer, what)

    def trigger_body(self, arguments: Mapping[str, Any], key: str | None) -> Row:
        return TRIGGER.body(self._start_values(arguments))

    def _start_values(self, arguments: Mapping[str, Any]) -> Row:
        """Return the variables of a start."""
        unknown_names("Paradime run", arguments, ARGUMENTS)
        name, text = schedule_of(arguments)
        values: Row = {name: text}
        if arguments.get("commands") is not None:
            values["commands"] = _texts("commands", arguments["commands"])
        if arguments.get("branch") is not None:
            values["branch"] = required_text("branch", arguments["branch"])
        if arguments.get("pr_number") is not None:
            values["prNumber"] = int32("pr_number", arguments["pr_number"])
        if (reason := arguments.get("reason")) is not None and str(reason).strip():
            values["reason"] = required_text("reason", reason)
        if arguments.get("command_configs") is not None:
            if "commands" in values:
                raise BadInput("give either commands or command_configs, not both")
            values["commandConfigs"] = _configs(arguments["command_configs"])
        if arguments.get("continue_on_error") is not None:
            values["continueOnError"] = boolean(
                "continue_on_error", arguments["continue_on_error"], default=False
            )
        return values

    def _started(self, answer: Row, what: str) -> Run:
        """Return the run that a mutation has begun. The answer tells its id only."""
        number = answer.get("runId")
        if not isinstance(number, int) or isinstance(number, bool):
            raise self._senseless(what, "without a run id")
        return replace(self._run(number, None), state=RunState.PENDING, status="")

    def snapshot(self, arguments: Mapping[str, Any]) -> Flow[Row]:
        values = self._start_values(arguments)
        name, text = schedule_of(arguments)
        schedule = yield from self._asked(SCHEDULE, {name: text}, f"schedule {text!r}")
        latest = schedule.get("latestRunId")
        if latest is not None and not is_number(latest):
            raise self._senseless(f"schedule {text!r}", "without its latest run")
        configs = values.get("commandConfigs") or ()
        commands = values.get("commands") or [config["command"] for config in configs]
        usual = schedule.get("commands")
        shared = 0
        for ours, theirs in zip(commands, usual if isinstance(usual, list) else (), strict=False):
            if ours != theirs:
                break
            shared += 1
        return {
            "slug": text,
            "latest": latest or 0,
            "commands": [_digest(command) for command in commands],
            "shared": shared,
            "branch": values.get("branch"),
            "pr_number": values.get("prNumber"),
        }

    def find_unmarked(self, snapshot: Mapping[str, Any], since: float) -> Flow[Run | None]:
        """
        Look for a run among those of the schedule that were started after a snapshot.

        Paradime keeps nothing by which a run could be told for sure, but its commands: a run that has begun
        commands of ours which the schedule does not have there is ours. Others may be anybody's.

        :param snapshot: what :meth:`snapshot` returned.
        :param since: UTC epoch seconds.
        """
        slug, latest = snapshot.get("slug"), snapshot.get("latest")
        if not isinstance(slug, str) or not isinstance(latest, int):
            raise Unsure("it is not known which Paradime runs there were before the start", ())
        rows = yield from self._run_rows(
            slug,
            None,
            lambda rows: (
                rows[-1]["id"] <= latest
                or _is_before(self._run(rows[-1]["id"], None, rows[-1]), since, ZONE_SLACK)
            ),
        )
        possible = []
        for row in rows:
            run = self._run(row["id"], row.get("state"), row)
            # The id tells. Were a run of our own taken for an older one, another would be started.
            older = row["id"] <= latest or _is_before(run, since, ZONE_SLACK)
            if not older and _is_as_asked(row, snapshot):
                possible.append(run)
        proven: list[Run] = []
        wanted, shared = snapshot.get("commands") or [], snapshot.get("shared", 0)
        if wanted and len(possible) <= MOST_CANDIDATES:
            for run in tuple(possible):
                commands = yield from self.list_commands(run.id)
                listed = [_digest(str(row.get("command"))) for row in commands]
                if _begun_of(wanted, listed) > shared:
                    proven.append(run)
                elif run.state is RunState.SUCCEEDED and not set(wanted[shared:]) <= set(listed):
                    possible.remove(run)
        if len(proven) == 1:
            return proven[0]
        if found := proven or possible:
            named = ", ".join(f"{run.id} ({run.status})" for run in found)
            raise Unsure(
                f"a Paradime run of schedule {slug!r} may have been started, and nothing tells whether it is "
                f"one of those that were started since: {named}",
                found,
                # A run clones and installs before its first command.
                may_tell=len(wanted) > shared
                and not proven
                and len(possible) <= MOST_CANDIDATES
                and any(not run.state.is_terminal for run in possible),
            )
        return None

    # Asking

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

        def kept(rows: list[Row]) -> list[Run]:
            runs = (self._run(row["id"], row.get("state"), row) for row in rows)
            return [
                run
                for run in runs
                if (not states or run.status in states) and not _is_before(run, since, slack=0.0)
            ]

        rows = yield from self._run_rows(
            slug,
            newest,
            lambda rows: (
                _is_before(self._run(rows[-1]["id"], None, rows[-1]), since)
                or (limit is not None and len(kept(rows)) >= limit)
            ),
        )
        if not rows:
            # An unknown schedule may be answered by an empty list.
            yield from self.get_schedule({"slug": slug})
        return kept(rows)[:limit]

    def _run_rows(
        self, slug: str | None, newest: int | None, enough: Callable[[list[Row]], bool]
    ) -> Flow[list[Row]]:
        """Return the rows of a schedule's runs, the newest first, until there are enough of them."""
        what = "listing runs" if slug is None else f"listing the runs of schedule {slug!r}"
        named = {} if slug is None else {"slug": slug}
        found: dict[int, Row] = {}
        offset = 0
        while newest is None or len(found) < newest:
            size = RUNS_PAGE if newest is None else min(newest - len(found), LARGEST_PAGE)
            answer = yield from self._call(RUNS, {**named, "offset": offset, "limit": size}, what)
            rows = rows_of(answer.get("runs"))
            if rows is None:
                raise self._senseless(what, "without a list of runs")
            # Runs that were started meanwhile shift the pages.
            fresh = {row["id"]: row for row in rows if row["id"] not in found}
            found |= fresh
            offset += len(rows)
            if len(rows) < size or not fresh or enough(list(found.values())):
                break
        return list(found.values())

    def _states(self, given: Any) -> frozenset[str]:
        """Return the status words of a filter; none where none are given."""
        words = list(given) if isinstance(given, (list, tuple, set)) else [] if given is None else [given]
        known = [word.upper() for word in self.statuses.all_words()]
        return frozenset(one_of("state", str(word).upper(), known) for word in words)

    def active_filters(self, arguments: Mapping[str, Any]) -> Row:
        named = {name: arguments[name] for name in SCHEDULE_FIELDS if arguments.get(name) is not None}
        pending, running = (self.statuses.words(state) for state in (RunState.PENDING, RunState.RUNNING))
        return {**named, "state": [*pending, *running], "newest": NEWEST_ACTIVE}

    @staticmethod
    def check_run_id(run_id: str) -> None:
        run_number(run_id)

    def check(self) -> Flow[str]:
        what = "listing schedules"
        request = self._request(
            COUNT.body({"offset": 0, "limit": 1, "showInactive": False}, older=False), safe_to_repeat=True
        )
        try:
            answer = self._field((yield request), COUNT, what)
        except Unauthorized as error:
            headers = dict(self._headers)
            if workspace := headers.pop(WORKSPACE_HEADER, None):
                # The same without workspace tells what is refused.
                bare = yield replace(request, headers=headers, authenticated=False)
                if not self._refuses(bare, what):
                    raise WrongScope(f"no access to workspace {workspace!r}. {error}", status=403) from error
            raise
        total = answer.get("totalCount")
        if not is_number(total):
            raise self._senseless(what, "without their number")
        return f"Connected to Paradime at {urlsplit(self.settings.base_url).netloc}: {total} active schedules"

    def _refuses(self, response: Response, what: str) -> bool:
        """Tell whether an answer refuses the credentials themselves."""
        try:
            self._field(response, COUNT, what)
        except ApiError as error:
            return isinstance(error, Unauthorized)
        return False

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
            raise self._senseless(what, "without a list of commands")
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
                raise self._senseless(f"the files of command {number}", "without a list of them")
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
            raise self._senseless(what, "without an address")
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
            raise self._senseless(what, "without lines, cursor and end")
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
        return (yield from self._asked(SCHEDULE, {name: text}, f"schedule {text!r}"))

    def list_schedules(self, *, show_inactive: bool = False, limit: int | None = None) -> Flow[list[Row]]:
        """
        Return the workspace's schedules as Paradime shows them.

        :param show_inactive: whether to list inactive ones too.
        :param limit: so many at most; None: all.
        """
        what = "listing schedules"
        found: list[Row] = []
        while limit is None or len(found) < limit:
            size = RUNS_PAGE if limit is None else min(limit - len(found), LARGEST_PAGE)
            page = {"offset": len(found), "limit": size, "showInactive": show_inactive}
            answer = yield from self._asked(SCHEDULES, page, what)
            rows = answer.get("schedules")
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise self._senseless(what, "without a list of schedules")
            found += rows
            if len(rows) < size:
                break
        return found

    def suspend_schedule(self, arguments: Mapping[str, Any], *, suspend: bool = True) -> Flow[None]:
        """
        Suspend a schedule that was made in the app or by API, or have it run again.

        :param arguments: ``slug`` or ``schedule_name``.
        :param suspend: whether it is suspended from now on.
        """
        unknown_names("schedule", arguments, SCHEDULE_FIELDS)
        _, slug = schedule_of(arguments)
        verb = "suspending" if suspend else "resuming"
        values = {"slug": slug, "suspend": suspend}
        yield from self._call(SUSPEND, values, f"{verb} schedule {slug!r}", safe_to_repeat=True)

    # Changing

    def cancel(self, run_id: str) -> Flow[None]:
        number = run_number(run_id)
        try:
            yield from self._call(
                CANCEL, {"scheduleRunId": number}, f"cancelling run {number}", safe_to_repeat=True
            )
        except ApiError as error:
            if isinstance(error, Unauthorized):
                raise
            # That an ended run cannot be cancelled is no failure.
            if not (yield from self.get(run_id)).state.is_terminal:
                raise

    def retry_arguments(self, arguments: Mapping[str, Any]) -> Row:
        return {name: arguments[name] for name in SCHEDULE_FIELDS if arguments.get(name) is not None}

    def prepare_retry(self, run_id: str, arguments: Mapping[str, Any]) -> None:
        run_number(run_id)
        unknown_names("retry of a Paradime run", arguments, ("all_commands", *SCHEDULE_FIELDS))
        boolean("all_commands", arguments.get("all_commands"), default=False)
        if any(arguments.get(name) is not None for name in SCHEDULE_FIELDS):
            schedule_of(arguments)

    def check_retry(self, run_id: str, arguments: Mapping[str, Any]) -> Flow[None]:
        """
        Refuse to retry a run that goes, or one of which nothing has failed.

        :param run_id: the run.
        :param arguments: ``all_commands``, and the run's schedule (``slug`` or ``schedule_name``).
        """
        self.prepare_retry(run_id, arguments)
        run = yield from self.get(run_id)
        everything = boolean("all_commands", arguments.get("all_commands"), default=False)
        if run.state is RunState.SUCCEEDED and not everything:
            raise _no_retry(run, "it has succeeded. all_commands=True runs all its commands again")
        if not run.state.is_terminal:
            raise _no_retry(run, f"it is {run.status}; only an ended run can be retried")

    def retry(self, run_id: str, arguments: Mapping[str, Any]) -> Flow[Run]:
        """
        Begin a new run that repeats the failed commands of an ended one, or all of them.

        :param run_id: the ended run.
        :param arguments: as for :meth:`check_retry`.
        """
        self.prepare_retry(run_id, arguments)
        everything = boolean("all_commands", arguments.get("all_commands"), default=False)
        number = run_number(run_id)
        what = f"retrying run {number}"
        answer = yield from self._call(RETRY_ALL if everything else RETRY, {"scheduleRunId": number}, what)
        return self._started(answer, what)

    def find_retried(self, run_id: str, arguments: Mapping[str, Any], since: float) -> Flow[Run | None]:
        number = run_number(run_id)
        known = any(arguments.get(name) is not None for name in SCHEDULE_FIELDS)
        slug = schedule_of(arguments)[1] if known else None
        # A run that is gone has no children.
        yield from self.get(run_id)

        rows = yield from self._run_rows(
            slug, None, lambda rows: _is_before(self._run(rows[-1]["id"], None, rows[-1]), since, ZONE_SLACK)
        )
        runs = [
            self._run(row["id"], row.get("state"), row)
            for row in rows
            if row.get("parentScheduleRunId") == number
        ]
        children = [run for run in runs if not _is_before(run, since, ZONE_SLACK)]
        if children and _is_before(children[0], since):
            raise Unsure(
                f"Paradime run {number} has been retried, as run {children[0].id} ({children[0].status}), "
                "and nothing tells whether that was before",
                children[:1],
            )
        return next(iter(children), None)

    def retry_from_failure(self, arguments: Mapping[str, Any]) -> Flow[Run]:
        """
        Begin a new run that repeats the failed commands of a schedule's newest run, whoever started that.

        :param arguments: ``slug`` or ``schedule_name``.
        """
        unknown_names("schedule", arguments, SCHEDULE_FIELDS)
        _, slug = schedule_of(arguments)
        what = f"retrying the newest run of schedule {slug!r}"
        return self._started((yield from self._call(RETRY_FROM_FAILURE, {"slug": slug}, what)), what)

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

    def _asked(self, operation: Operation, values: Mapping[str, Any], what: str) -> Flow[Row]:
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
    def _senseless(what: str, without: str) -> BadAnswer:
        return BadAnswer(f"Paradime answered {what} {without}", status=200, permanent=False)


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


def _is_before(run: Run, moment: float | None, slack: float = CLOCK_SLACK) -> bool:
    """Tell whether a run was surely started before a moment (UTC epoch seconds)."""
    if moment is None or run.started_at is None:
        return False
    return run.started_at.timestamp() < moment - slack


def _digest(command: str) -> str:
    """Return a short text that stands for a command, which may hold what belongs in no record."""
    return hashlib.sha256(" ".join(command.split()).encode()).hexdigest()[:16]


def _begun_of(wanted: Sequence[str], listed: Sequence[str]) -> int:
    """Return how many of the wanted commands, from the first on, stand at the end of a run's list."""
    for count in range(min(len(wanted), len(listed)), 0, -1):
        if list(listed[-count:]) == list(wanted[:count]):
            return count
    return 0


def _same_ref(asked: str, branch: str) -> bool:
    return branch == asked or branch.endswith(f"/{asked}") or bool(branch and asked.endswith(f"/{branch}"))


def _same_commit(asked: str, commit: str) -> bool:
    # Either of them may be shortened.
    return bool(commit) and (commit.startswith(asked) or asked.startswith(commit))


def _is_as_asked(row: Row, snapshot: Mapping[str, Any]) -> bool:
    """Tell whether a run may be one that was started with the branch and pull request of a snapshot."""
    git = row.get("gitInfo")
    known = {name: str(value) for name, value in git.items() if value} if isinstance(git, dict) else {}
    asked, branch, commit = snapshot.get("branch"), known.get("branch", ""), known.get("commitHash", "")
    # The commit of a run may not be known yet, its branch is from the start.
    told = commit if asked and _COMMIT.fullmatch(asked) else branch
    if asked and told and not (_same_ref(asked, branch) or _same_commit(asked, commit)):
        return False
    number, pull_request = snapshot.get("pr_number"), known.get("pullRequestId")
    if number and pull_request and str(number) != pull_request:
        return False
    # A retry of another run.
    return row.get("parentScheduleRunId") is None


def _listed(name: str, value: Any) -> list[Any]:
    """Return a list that is not empty, given as such or as JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, (list, tuple)) or not value:
        raise BadInput(f"{name} must be a list that is not empty, or the text of a JSON list")
    return list(value)


def _texts(name: str, value: Any) -> list[str]:
    return [required_text(f"{name}[{index}]", text) for index, text in enumerate(_listed(name, value))]


def _configs(value: Any) -> list[Row]:
    """Return commands with their own rule, as Paradime spells them."""
    configs = []
    for index, given in enumerate(_listed("command_configs", value)):
        name = f"command_configs[{index}]"
        if not isinstance(given, Mapping):
            raise BadInput(f"{name} must be a mapping with command and continue_on_error")
        unknown_names(name, given, ("command", "continue_on_error"))
        config: Row = {"command": required_text(f"{name}: command", given.get("command"))}
        if given.get("continue_on_error") is not None:
            config["continueOnError"] = boolean(
                f"{name}: continue_on_error", given["continue_on_error"], default=False
            )
        configs.append(config)
    return configs


def _hidden(url: str) -> tuple[str, str | None]:
    """Return an endpoint with ``***`` for the token in its path, and the token; None where there is none."""
    parts = urlsplit(url)
    segments = parts.path.split("/")
    secret = [index for index, segment in enumerate(segments) if not _PLAIN.fullmatch(segment)]
    if not secret or "***" in segments:
        return url, None
    token = segments[secret[-1]]
    segments[secret[-1]] = "***"
    return f"{parts.scheme}://{parts.netloc}{'/'.join(segments)}", unquote(token)


def _no_retry(run: Run, why: str) -> ApiError:
    return ApiError(f"Paradime run {run.id} is not retried: {why}", status=409, permanent=True)
