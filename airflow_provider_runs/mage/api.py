"""
Mage's pipeline runs: connection, status words and endpoints.

See https://docs.mage.ai/api-reference/pipeline-runs/overview. Mage answers nearly every error with HTTP 200
and an ``error`` object, so an answer counts as good only if it holds the expected key and no ``error``.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_provider_runs.core.api import (
    CanCancel,
    CanExplain,
    CanFindStarted,
    CanGetMany,
    RunApi,
    Scope,
    Token,
    header_text,
)
from airflow_provider_runs.core.connection import (
    MAX_REQUESTS_PER_MINUTE,
    REQUEST_TIMEOUT,
    ConnectionSpec,
    Field,
    Settings,
)
from airflow_provider_runs.core.errors import ApiError, BadInput, NotFound, Unauthorized
from airflow_provider_runs.core.http import (
    Flow,
    Request,
    Response,
    excerpt,
    one_line,
    parse_json,
)
from airflow_provider_runs.core.inputs import integer, json_object, unknown_names
from airflow_provider_runs.core.run import Run, RunState, StatusTable
from airflow_provider_runs.core.schedule import Pace

if TYPE_CHECKING:
    from pendulum import DateTime

# The public client id of Mage's own web interface, the same in every installation.
API_KEY = "zkWlN0PkIKSN0C11CfUHUj84OT5XOJ6tDZ6bDRO2"
SESSION_LIFETIME = 3600.0
LONGEST_LIFETIME = 1e9
MARKER = "airflow_run_key"
PAGE = 100
ACTIVE_PAGE = 500
# created_at has whole seconds, and on Postgres it is the start of the transaction.
CLOCK_SLACK = 300.0
TRACEBACK_LINES = 50
ARGUMENTS = ("pipeline_schedule_id", "variables", "event_variables")
# The server overwrites these in what the blocks get, so a value given here would be lost.
RESERVED_VARIABLES = (
    "env",
    "ds",
    "hr",
    "event",
    "execution_date",
    "execution_partition",
    "pipeline_run_id",
    "trigger_name",
    MARKER,
)
# Texts of error.exception that say that a trigger call did nothing and never will (contract section 2).
REFUSED = (
    "only supported for API trigger",
    "invalid literal for int()",
    "Expecting property name",
    "Expecting value",
    "object has no attribute 'get'",
    "is not iterable",
    "does not exist in repo_path",
    "invalid keyword argument for PipelineRun",
)

DOCUMENTATION = "https://docs.mage.ai/api-reference/pipeline-runs/overview"

CONNECTION = ConnectionSpec(
    conn_type="mage",
    hook_name="Mage",
    default_host=None,
    default_scheme="http",
    relabeling={"host": "Server", "login": "Email or username"},
    placeholders={"host": "http://mage.example.com:6789", "port": "6789"},
    hidden=("schema",),
    fields=(
        Field(
            "trigger_token",
            "Trigger token",
            description="Token of the API trigger, from its page in Mage. Sent in a header, never in a URL.",
            secret=True,
        ),
        Field(
            "dashboard_url",
            "Dashboard URL",
            description="Base of run links, where people reach Mage at another address. Empty: the server.",
        ),
        REQUEST_TIMEOUT,
        MAX_REQUESTS_PER_MINUTE,
    ),
)


class MageRunApi(RunApi, CanCancel, CanExplain, CanFindStarted, CanGetMany):
    """Describe Mage's run API for one connection."""

    service = "Mage"
    connection = CONNECTION
    statuses = StatusTable(
        {
            RunState.PENDING: ("initial",),
            RunState.RUNNING: ("running",),
            RunState.SUCCEEDED: ("completed",),
            RunState.FAILED: ("failed",),
            RunState.CANCELLED: ("cancelled",),
        }
    )
    # One list of the active runs serves all who wait; the server's work grows with the rows of a page.
    batch_size = 500
    # The status changes with the loops of Mage's scheduler only, every 10 s by default.
    pace = Pace(min_poll_interval=5, poll_interval=60, max_requests_per_minute=600)

    def __init__(self, settings: Settings, scope: Scope | None = None, **kwargs: Any) -> None:
        super().__init__(settings, scope, **kwargs)
        token = settings.text("trigger_token")
        self.trigger_token = header_text("trigger_token", token) if token else None
        if settings.password and not settings.login:
            raise BadInput(f"connection {settings.conn_id!r}: a password needs a login (email or username)")
        self.dashboard_url = (settings.text("dashboard_url") or settings.base_url).rstrip("/")

    def trigger(self, arguments: Mapping[str, Any], key: str | None = None) -> Flow[Run]:
        body = self.trigger_body(arguments, key)
        schedule = integer("pipeline_schedule_id", arguments["pipeline_schedule_id"], at_least=0)
        if self.trigger_token is None:
            raise BadInput(
                f"connection {self.settings.conn_id!r}: starting a run needs the field trigger_token"
            )
        response = yield Request(
            "POST",
            f"{self.settings.base_url}/api/pipeline_schedules/{schedule}/api_trigger",
            headers={"Authorization": f"Bearer {self.trigger_token}"},
            json=body,
            authenticated=False,
        )
        return self._run(self._read(response, "pipeline_run", f"starting trigger {schedule}"))

    def get(self, run_id: str) -> Flow[Run]:
        return self._run((yield from self._detail(run_id)))

    def check(self) -> Flow[str]:
        response = yield self._request("GET", "/api/status", authenticated=False)
        statuses = self._read(response, "statuses", "the server's status")
        first = statuses[0] if isinstance(statuses, list) and statuses else None
        scheduler = first.get("scheduler_status") if isinstance(first, dict) else None
        response = yield self._request("GET", "/api/pipeline_runs", {"_limit": "0"})
        self._read(response, "pipeline_runs", "listing runs")
        return f"Connected to Mage at {self.settings.base_url}, scheduler {scheduler or 'unknown'}"

    def cancel(self, run_id: str) -> Flow[None]:
        response = yield self._request(
            "PUT", f"/api/pipeline_runs/{_id(run_id)}", json={"pipeline_run": {"status": "cancelled"}}
        )
        self._read(response, "pipeline_run", f"cancelling run {run_id}")

    def explain(self, run_id: str) -> Flow[str | None]:
        row = yield from self._detail(run_id)
        parts = []
        for block, error in _failures(row):
            lines = self.redact(str(error.get("message") or "")).rstrip().splitlines()
            parts.append("\n".join([f"block {block}: {self._reason(error)}", *lines[-TRACEBACK_LINES:]]))
        return "\n".join(parts) or None

    def find_started(self, arguments: Mapping[str, Any], key: str, since: float) -> Flow[Run | None]:
        schedule = integer("pipeline_schedule_id", arguments.get("pipeline_schedule_id"), at_least=0)
        what = f"listing the runs of trigger {schedule}"
        found: list[dict[str, Any]] = []
        last: list[dict[str, Any]] = []
        offset = 0
        while True:
            response = yield self._request(
                "GET",
                f"/api/pipeline_schedules/{schedule}/pipeline_runs",
                {
                    "order_by[]": "id desc",
                    "disable_retries_grouping": "1",
                    "_limit": str(PAGE),
                    "_offset": str(offset),
                },
            )
            rows = self._read(response, "pipeline_runs", what)
            more = _has_next(response)
            # "No such run" lets the caller start one, so a list that cannot be read must not end as that.
            readable = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
            if not readable or more is None or (rows and rows == last):
                raise self._unusable(response, what)
            last = rows
            for row in rows:
                variables = row.get("variables")
                marked = isinstance(variables, dict) and variables.get(MARKER) == key
                if marked and row.get("pipeline_schedule_id") == schedule:
                    found.append(row)
            offset += PAGE
            oldest = _moment(rows[-1].get("created_at")) if rows else None
            if not rows or not more or (oldest and oldest.timestamp() < since - CLOCK_SLACK):
                break
        # A run retried in Mage's interface copies the marker into a newer run; ours is the oldest.
        runs = [self._run(row) for row in found]
        return min(runs, key=lambda run: int(run.id), default=None)

    def get_many(self, run_ids: Sequence[str]) -> Flow[dict[str, Run | Exception]]:
        """
        Ask about many runs by one list of the active ones.

        A run that is not in it has ended, was deleted, or slipped between two pages: it is left out, so that
        it is asked about by itself. So is one that ended while Mage made the list, which tells no reasons.

        :param run_ids: the runs' ids.
        """
        wanted = {int(run_id) for run_id in run_ids if run_id.isdecimal() and run_id.isascii()}
        what = "listing the active runs"
        found: dict[str, Run | Exception] = {}
        last: Any = None
        offset = 0
        while True:
            response = yield self._request(
                "GET",
                "/api/pipeline_runs",
                {
                    "status[]": "initial,running",
                    "_format": "with_basic_details",
                    "disable_retries_grouping": "1",
                    "order_by[]": "id desc",
                    "_limit": str(ACTIVE_PAGE),
                    "_offset": str(offset),
                },
            )
            rows = self._read(response, "pipeline_runs", what)
            if not isinstance(rows, list) or (rows and rows == last):
                raise self._unusable(response, what)
            last = rows
            runs = [self._run(row) for row in rows]
            found |= {run.id: run for run in runs if int(run.id) in wanted and not run.state.is_terminal}
            offset += ACTIVE_PAGE
            # Newest first: below the lowest id nobody is waited for.
            if not runs or not _has_next(response) or int(runs[-1].id) < min(wanted, default=0):
                return found

    def trigger_body(self, arguments: Mapping[str, Any], key: str | None) -> dict[str, Any]:
        unknown_names("Mage run", arguments, ARGUMENTS)
        integer("pipeline_schedule_id", arguments.get("pipeline_schedule_id"), at_least=0)
        variables = json_object("variables", arguments.get("variables"))
        if taken := sorted(set(variables) & set(RESERVED_VARIABLES)):
            raise BadInput(f"variables must not hold {', '.join(taken)}: Mage sets these itself")
        if key is not None:
            variables[MARKER] = key
        event_variables = json_object("event_variables", arguments.get("event_variables"))
        if "pipeline_run" in event_variables:
            raise BadInput("event_variables must not hold pipeline_run: Mage reads it as the run itself")
        return {"pipeline_run": {"variables": variables}, **event_variables}

    def authenticates(self) -> bool:
        return self.settings.login is not None

    def authenticate(self) -> Flow[None]:
        login = self.settings.login or ""
        name = "email" if "@" in login else "username"
        response = yield self._request(
            "POST",
            "/api/sessions",
            json={"api_key": API_KEY, "session": {name: login, "password": self.settings.password}},
            authenticated=False,
        )
        try:
            session = self._read(response, "session", "logging in")
        except NotFound:
            # Mage answers a wrong password as "not found".
            raise Unauthorized(
                f"Mage refuses the login of connection {self.settings.conn_id!r}: check login and password, "
                "and leave both empty where the server has user authentication off",
                status=401,
            ) from None
        value, expires = _inner_token(session)
        self.keep_secret(value)
        lifetime = expires - self.now() if expires is not None else 0.0
        usable = 0 < lifetime < LONGEST_LIFETIME
        self.token = Token(value, self.now(), float(lifetime) if usable else SESSION_LIFETIME)

    def auth_headers(self) -> dict[str, str]:
        headers = {"X-API-KEY": API_KEY}
        if self.token is not None:
            headers["OAUTH-TOKEN"] = self.token.value
        return headers

    def _request(
        self, method: str, path: str, params: Mapping[str, str] | None = None, **kwargs: Any
    ) -> Request:
        """Return a call of the generic API, which is asked to tell errors by HTTP status too."""
        return Request(
            method,
            self.settings.base_url + path,
            params={**(params or {}), "_http_error_codes": "1"},
            safe_to_repeat=True,
            **kwargs,
        )

    def _detail(self, run_id: str) -> Flow[dict[str, Any]]:
        number = _id(run_id)
        response = yield self._request("GET", f"/api/pipeline_runs/{number}")
        row = self._read(response, "pipeline_run", f"run {run_id}")
        if not isinstance(row, dict) or row.get("id") != number:
            raise self._unusable(response, f"run {run_id}")
        return row

    def _read(self, response: Response, key: str, what: str) -> Any:
        """Return what a good answer holds under a key; raise what Mage said in any other."""
        answer = parse_json(response)
        error = answer.get("error") if isinstance(answer, dict) else None
        if isinstance(error, dict):
            raise self._error(error, response, what)
        if response.status != 200:
            raise self._not_from_mage(response, what)
        if not isinstance(answer, dict) or error is not None or answer.get(key) is None:
            raise self._unusable(response, what)
        return answer[key]

    def _not_from_mage(self, response: Response, what: str) -> ApiError:
        """Judge by the HTTP status alone an answer that a proxy, or Mage's web server, gave."""
        message = f"Mage answered {response.status} to {what}: {excerpt(response, self.redact)}"
        if response.status < 500:
            message += (
                f". Check host, path prefix, login and trigger token of connection {self.settings.conn_id!r}"
            )
        kind = Unauthorized if response.status in (401, 403) else ApiError
        return kind(message, status=response.status)

    def _error(self, error: Mapping[str, Any], response: Response, what: str) -> ApiError:
        code = error.get("code")
        if not isinstance(code, int) or isinstance(code, bool) or not 400 <= code < 600:
            code = response.status if response.status >= 400 else 500
        said = str(error.get("exception") or error.get("message") or "no reason given")
        # A database error goes on with the statement and everything that was to be stored.
        said = one_line(re.split(r"\[SQL:|\[parameters:|DETAIL:", said)[0], self.redact)
        message = f"Mage answered {what} with error {code}: {said}"
        kind = str(error.get("type") or "")
        # The text of a "not found" may be left over from somebody's failed login: only code and type count.
        if kind == "record_not_found" or code == 404 or "'type': 'record_not_found'" in said:
            hint = f"check the id and connection {self.settings.conn_id!r}"
            return NotFound(f"Mage answered {what} with error 404, not found: {hint}", status=404)
        if code in (401, 403) or "Invalid token for pipeline schedule" in said:
            status = code if code in (401, 403) else 401
            hint = f"check the credentials of connection {self.settings.conn_id!r}"
            if not self.authenticates() and "Invalid token for pipeline schedule" not in said:
                hint = f"connection {self.settings.conn_id!r} needs login and password for all but starting"
            return Unauthorized(f"{message}; {hint}", status=status)
        refused = any(text in said for text in REFUSED)
        return ApiError(message, status=code, permanent=True if refused else None)

    def _unusable(self, response: Response, what: str) -> ApiError:
        return ApiError(
            f"Mage answered {what} with {response.status} and a body that cannot be used: "
            + excerpt(response, self.redact),
            status=response.status,
            permanent=False,
        )

    def _run(self, row: Any) -> Run:
        number = row.get("id") if isinstance(row, dict) else None
        status = row.get("status") if isinstance(row, dict) else None
        named = isinstance(number, int) and not isinstance(number, bool)
        if not named or not isinstance(status, str) or not status:
            raise ApiError("Mage answered with a run without id and status", status=200, permanent=False)
        pipeline = row.get("pipeline_uuid")
        page = f"pipelines/{quote(pipeline, safe='')}/runs/{number}" if isinstance(pipeline, str) else None
        message = "; ".join(f"block {block}: {self._reason(error)}" for block, error in _failures(row))
        return Run(
            str(number),
            self.statuses.state(status),
            status,
            f"{self.dashboard_url}/{page}" if page else None,
            message[:1000] or None,
            _moment(row.get("started_at")),
            _moment(row.get("completed_at")),
        )

    def _reason(self, error: Mapping[str, Any]) -> str:
        """Return the last line of the traceback, which names the error's type; else the bare error."""
        lines = [line for line in str(error.get("message") or "").splitlines() if line.strip()]
        said = lines[-1] if lines else str(error.get("error") or "failed without an error text")
        return one_line(said, self.redact)


def _id(run_id: str) -> int:
    return integer("run_id", run_id, at_least=0)


def _failures(row: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the blocks that failed, each with what Mage keeps about its error."""
    blocks = row.get("block_runs")
    failures = []
    for block in blocks if isinstance(blocks, list) else ():
        if isinstance(block, dict) and block.get("status") == "failed":
            metrics = block.get("metrics")
            error = metrics.get("error") if isinstance(metrics, dict) else None
            failures.append((str(block.get("block_uuid")), error if isinstance(error, dict) else {}))
    return failures


def _has_next(response: Response) -> bool | None:
    """Tell whether a list goes on after this page, None where the answer does not say."""
    answer = parse_json(response)
    metadata = answer.get("metadata") if isinstance(answer, dict) else None
    more = metadata.get("next") if isinstance(metadata, dict) else None
    return more if isinstance(more, bool) else None


def _moment(value: Any) -> DateTime | None:
    """Read a time as Mage writes it: UTC, with or without offset and fraction."""
    import pendulum

    if not isinstance(value, str):
        return None
    try:
        return pendulum.instance(datetime.fromisoformat(value), tz="UTC").in_timezone("UTC")
    except (ValueError, OverflowError):
        return None


def _inner_token(session: Any) -> tuple[str, float | None]:
    """Return the token that headers want, which Mage wraps in a JWT, and when it ends (UTC epoch seconds)."""
    outer = session.get("token") if isinstance(session, dict) else None
    try:
        part = str(outer).split(".")[1]
        payload = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        value, expires = payload["token"], payload.get("expires")
    except (IndexError, KeyError, TypeError, AttributeError, ValueError, binascii.Error, RecursionError):
        value, expires = None, None
    if not isinstance(value, str) or not (value.isascii() and value.isprintable() and value.strip()):
        raise ApiError("Mage answered the login without a usable token", status=200, permanent=False)
    known = isinstance(expires, (int, float)) and not isinstance(expires, bool) and -1e12 < expires < 1e12
    return value, float(expires) if known else None
