"""
Paradime's Bolt runs: connection, starts, retries and cancels.

See https://docs.paradime.io/app-help/documentation/bolt. The documents stand in
:mod:`~airflow_provider_runs.paradime.operations`, what the answers mean in
:mod:`~airflow_provider_runs.paradime.answers`, and what only asks in
:mod:`~airflow_provider_runs.paradime.lookups` and :mod:`~airflow_provider_runs.paradime.lists`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import unquote, urlsplit

from airflow_provider_runs.core.api import (
    CanRetry,
    Scope,
    Unsure,
    header_text,
)
from airflow_provider_runs.core.connection import ConnectionSpec, Field, Settings
from airflow_provider_runs.core.errors import ApiError, BadInput, Unauthorized, WrongScope
from airflow_provider_runs.core.http import Flow, Response
from airflow_provider_runs.core.inputs import boolean, required_text, unknown_names
from airflow_provider_runs.core.run import Run, RunState
from airflow_provider_runs.core.schedule import Pace
from airflow_provider_runs.paradime.answers import (
    DocumentRefused,
    FieldFailed,
    Row,
    is_number,
)
from airflow_provider_runs.paradime.controls import ParadimeControls
from airflow_provider_runs.paradime.lists import ZONE_SLACK, digest, is_before
from airflow_provider_runs.paradime.lookups import SCHEDULE_FIELDS, Learned, run_number, schedule_of
from airflow_provider_runs.paradime.operations import (
    COUNT,
    RETRY,
    RETRY_ALL,
    RETRY_FROM_FAILURE,
    SCHEDULE,
    TRIGGER,
    int32,
)

DOCUMENTATION = "https://docs.paradime.io/app-help/documentation/bolt"
APP_URL = "https://app.paradime.io"
WORKSPACE_TOKEN, COMPANY_TOKEN = "prdm_wsp_", "prdm_cmp_"
WORKSPACE_HEADER = "X-Paradime-Workspace"
ENDPOINT_TOKEN = "endpoint_token"
ARGUMENTS = (
    *SCHEDULE_FIELDS,
    "commands",
    "branch",
    "pr_number",
    "reason",
    "command_configs",
    "continue_on_error",
)
# Parts of an endpoint's path that are no secret.
_PLAIN = re.compile(r"api|v\d+|graphql|paradime|", re.IGNORECASE)
_UNKNOWN_REASON = re.compile(r"unknown argument\W+reason\b", re.IGNORECASE)

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


_learned: dict[str, Learned] = {}


class ParadimeRunApi(ParadimeControls, CanRetry):
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
        if key is not None:
            # Paradime takes none, but an empty one is a mistake with any service.
            required_text("the key of a start", key)
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
            raise self._bad_answer(what, "without a run id")
        return replace(self._run(number, None), state=RunState.PENDING, status="")

    def snapshot(self, arguments: Mapping[str, Any]) -> Flow[Row]:
        values = self._start_values(arguments)
        schedule = yield from self._schedule_of(arguments)
        configs = values.get("commandConfigs") or ()
        commands = values.get("commands") or [config["command"] for config in configs]
        usual = schedule.get("commands")
        shared = 0
        for ours, theirs in zip(commands, usual if isinstance(usual, list) else (), strict=False):
            if ours != theirs:
                break
            shared += 1
        return {
            "slug": schedule_of(arguments)[1],
            "latest": schedule.get("latestRunId") or 0,
            "commands": [digest(command) for command in commands],
            "shared": shared,
            "branch": values.get("branch"),
            "pr_number": values.get("prNumber"),
        }

    def _schedule_of(self, arguments: Mapping[str, Any]) -> Flow[Row]:
        """Return the schedule of a start or a retry, with its latest run."""
        name, text = schedule_of(arguments)
        schedule = yield from self._call_or_older(SCHEDULE, {name: text}, f"schedule {text!r}")
        latest = schedule.get("latestRunId")
        if latest is not None and not is_number(latest):
            raise self._bad_answer(f"schedule {text!r}", "without its latest run")
        return schedule

    # Checking

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
            raise self._bad_answer(what, "without their number")
        return f"Connected to Paradime at {urlsplit(self.settings.base_url).netloc}: {total} active schedules"

    def _refuses(self, response: Response, what: str) -> bool:
        """Tell whether an answer refuses the credentials themselves."""
        try:
            self._field(response, COUNT, what)
        except ApiError as error:
            return isinstance(error, Unauthorized)
        return False

    # Retrying

    def retry_arguments(self, arguments: Mapping[str, Any]) -> Row:
        return {name: arguments[name] for name in SCHEDULE_FIELDS if arguments.get(name) is not None}

    def prepare_retry(self, run_id: str, arguments: Mapping[str, Any]) -> None:
        run_number(run_id)
        unknown_names("retry of a Paradime run", arguments, ("all_commands", *SCHEDULE_FIELDS))
        boolean("all_commands", arguments.get("all_commands"), default=False)
        if any(arguments.get(name) is not None for name in SCHEDULE_FIELDS):
            schedule_of(arguments)

    def check_retry(self, run_id: str, arguments: Mapping[str, Any]) -> Flow[Row | None]:
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
        if not any(arguments.get(name) is not None for name in SCHEDULE_FIELDS):
            return None
        schedule = yield from self._schedule_of(arguments)
        return {"latest": schedule.get("latestRunId") or 0}

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

    def find_retried(
        self,
        run_id: str,
        arguments: Mapping[str, Any],
        since: float,
        known: Mapping[str, Any] | None = None,
    ) -> Flow[Run | None]:
        number = run_number(run_id)
        is_named = any(arguments.get(name) is not None for name in SCHEDULE_FIELDS)
        slug = schedule_of(arguments)[1] if is_named else None
        latest = (known or {}).get("latest")
        # A run that is gone has no children.
        yield from self.get(run_id)

        def may_go_on(rows: list[Row]) -> bool:
            return not is_before(self._run(rows[-1]["id"], None, rows[-1]), since, ZONE_SLACK)

        try:
            rows = yield from self._run_rows(slug, None, may_go_on)
        except ApiError as error:
            if slug is not None or not isinstance(error, (FieldFailed, DocumentRefused)):
                raise
            raise BadInput(
                f"a retry of run {number} shows in a list of runs, which this Paradime makes of one schedule "
                f"only: give the task the run's slug (or schedule_name). {error}"
            ) from None
        runs = [
            self._run(row["id"], row.get("state"), row)
            for row in rows
            if row.get("parentScheduleRunId") == number and (latest is None or row["id"] > latest)
        ]
        children = [run for run in runs if not is_before(run, since, ZONE_SLACK)]
        if latest is None and children and is_before(children[0], since):
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
