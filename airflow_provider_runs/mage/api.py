"""
Mage's pipeline runs: connection and endpoints.

See https://docs.mage.ai/api-reference/pipeline-runs/overview. What the answers mean stands in
:mod:`~airflow_provider_runs.mage.answers`, how runs are listed in :mod:`~airflow_provider_runs.mage.lists`,
and how they are retried in :mod:`~airflow_provider_runs.mage.retries`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_provider_runs.core.api import (
    CanCancel,
    Scope,
    Token,
    header_text,
)
from airflow_provider_runs.core.connection import (
    ConnectionSpec,
    Field,
    Settings,
)
from airflow_provider_runs.core.errors import ApiError, BadInput, NotFound, Unauthorized
from airflow_provider_runs.core.http import Flow, Request
from airflow_provider_runs.core.inputs import boolean, json_object, required_text, unknown_names
from airflow_provider_runs.core.run import Run
from airflow_provider_runs.core.schedule import Pace
from airflow_provider_runs.core.text import one_line
from airflow_provider_runs.mage.answers import Row, inner_token
from airflow_provider_runs.mage.lists import MARKER
from airflow_provider_runs.mage.lookups import TRIGGER_FIELDS, run_number
from airflow_provider_runs.mage.retries import MageRetries

# The public client id of Mage's own web interface, the same in every installation.
API_KEY = "zkWlN0PkIKSN0C11CfUHUj84OT5XOJ6tDZ6bDRO2"
SESSION_LIFETIME = 3600.0
LONGEST_LIFETIME = 1e9
"""Seconds; a session that says it lives longer is taken to live :data:`SESSION_LIFETIME`."""
ARGUMENTS = (
    "pipeline_schedule_id",
    "pipeline_uuid",
    "trigger_name",
    "variables",
    "event_variables",
    "allow_inactive_trigger",
)
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
# What error.exception says where prevent_duplicates found a run with the same date (contract section 7).
DUPLICATE = "'NoneType' object has no attribute 'to_dict'"
NOT_GUARDED = "'prevent_duplicates' is an invalid keyword argument"
GUARDED_TRIES = 5

DOCUMENTATION = "https://docs.mage.ai/api-reference/pipeline-runs/overview"

CONNECTION = ConnectionSpec(
    conn_type="mage",
    hook_name="Mage",
    default_host=None,
    default_scheme="http",
    relabeling={"host": "Server", "login": "Email or username"},
    placeholders={"host": "http://mage.example.com:6789", "port": "6789"},
    hidden=("schema",),
    own_fields=(
        Field(
            "trigger_token",
            "Trigger token",
            description="Token of the API trigger, from its page in Mage. Empty: read from the server.",
            secret=True,
        ),
        Field(
            "old_trigger_url",
            "Old trigger URL",
            "boolean",
            description="For old servers only: send the token in the URL and the event as a bare payload.",
        ),
        Field(
            "dashboard_url",
            "Dashboard URL",
            description="Base of run links, where people reach Mage at another address. Empty: the server.",
        ),
    ),
)


class MageRunApi(MageRetries, CanCancel):
    """Describe Mage's run API for one connection."""

    connection = CONNECTION
    # One list of the active runs serves all who wait; the server's work grows with the rows of a page.
    batch_size = 10_000
    # Mage's scheduler, which begins a run, writes "running" over a "cancelled" that came meanwhile.
    may_lose_cancels = True
    draw_share = 0.6
    # The status changes with the loops of Mage's scheduler only, every 10 s by default.
    pace = Pace(min_poll_interval=5, poll_interval=60, max_requests_per_minute=600)

    def __init__(self, settings: Settings, scope: Scope | None = None, **kwargs: Any) -> None:
        super().__init__(settings, scope, **kwargs)
        token = settings.text("trigger_token")
        self.trigger_token = header_text("trigger_token", token) if token else None
        self.old_trigger_url = settings.flag("old_trigger_url")
        self.tokens_read: set[str] = set()
        """Trigger tokens that the server told."""
        self.startable: dict[tuple[str, ...], tuple[int, str]] = {}
        """Triggers that were looked up for a start, as :meth:`_startable` returns them."""
        if settings.password and not settings.login:
            raise BadInput(f"connection {settings.conn_id!r}: a password needs a login (email or username)")
        self.dashboard_url = (settings.text("dashboard_url") or settings.base_url).rstrip("/")

    # Starting

    def trigger(
        self, arguments: Mapping[str, Any], key: str | None = None, began: float | None = None
    ) -> Flow[Run]:
        body = self.trigger_body(arguments, key)
        found = self.startable.pop(_named(arguments), None)
        schedule, token = found or (yield from self._startable(arguments))
        what = f"starting trigger {schedule}"
        guarded = key is not None and began is not None and not self.old_trigger_url
        date = datetime.fromtimestamp(began or 0.0, UTC)
        for _ in range(GUARDED_TRIES):
            sent = body
            if guarded:
                # Mage refuses a second run with the same date, so a request that was lost and lands late
                # does no harm. The date is the real one of the first request, because the blocks see it.
                guard = {
                    "execution_date": date.isoformat(timespec="microseconds"),
                    "prevent_duplicates": True,
                }
                sent = {**body, "pipeline_run": {**body["pipeline_run"], **guard}}
            response = yield self._start_request(schedule, token, sent)
            try:
                return self._run(self._read(response, "pipeline_run", what))
            except ApiError as error:
                if guarded and NOT_GUARDED in str(error):
                    guarded = False
                    continue
                if not guarded or DUPLICATE not in str(error):
                    raise
            ours = yield from self.find_started({"pipeline_schedule_id": schedule}, str(key), began or 0.0)
            if ours is not None:
                return ours
            # Another task's run of the same microsecond.
            date += timedelta(microseconds=1)
        raise ApiError(
            f"Mage answered {what} {GUARDED_TRIES} times with an error that means that there is such a run "
            "already, but lists none",
            status=500,
            permanent=False,
        )

    def ready(self, arguments: Mapping[str, Any]) -> Flow[None]:
        self.startable[_named(arguments)] = yield from self._startable(arguments)

    def _start_request(self, schedule: int, token: str, body: Row) -> Request:
        path = f"{self.settings.base_url}/api/pipeline_schedules/{schedule}"
        if not self.old_trigger_url:
            bearer = {"Authorization": f"Bearer {token}"}
            return Request("POST", f"{path}/api_trigger", headers=bearer, json=body, authenticated=False)
        return Request("POST", f"{path}/pipeline_runs/***", secret=token, json=body, authenticated=False)

    def _startable(self, arguments: Mapping[str, Any]) -> Flow[tuple[int, str]]:
        """Return id and token of the trigger that is meant, if calling it starts a run and nothing else."""
        allowed = boolean("allow_inactive_trigger", arguments.get("allow_inactive_trigger"), default=False)
        known = arguments.get("pipeline_uuid") is None
        if known and allowed and self.trigger_token:
            return self._schedule_id(arguments), self._usable(self.trigger_token)
        try:
            row = yield from self._schedule(arguments)
        except Unauthorized:
            # Without a login the trigger cannot be looked at where Mage has user authentication on.
            if self.authenticates() or not known or not self.trigger_token:
                raise
            return self._schedule_id(arguments), self._usable(self.trigger_token)
        schedule = int(row["id"])
        named = f"trigger {schedule} ({one_line(str(row.get('name')), self.redact)!r})"
        if row.get("schedule_type") != "api":
            raise ApiError(
                f"{named} is a {row.get('schedule_type')} trigger in Mage; only API triggers can be called",
                status=400,
            )
        if row.get("status") != "active" and not allowed:
            raise ApiError(
                f"{named} is {row.get('status')} in Mage, and calling it would make it active. Activate it "
                "in Mage, or allow that by allow_inactive_trigger=True",
                status=400,
            )
        return schedule, self._usable(self.trigger_token or self._read_token(row, named))

    def _read_token(self, row: Row, named: str) -> str:
        """Return the token that Mage shows of a trigger."""
        token = row.get("token")
        # A server may be set to hide tokens behind a placeholder in brackets.
        if not isinstance(token, str) or not token.strip() or token.startswith("["):
            raise BadInput(
                f"connection {self.settings.conn_id!r}: Mage does not tell the token of {named}; set the "
                "field trigger_token"
            )
        self.tokens_read.add(token)
        self.keep_secret(token)
        return token

    def _usable(self, token: str) -> str:
        """Return a trigger's token if it can be sent as the connection wants."""
        if self.old_trigger_url and not re.fullmatch(r"\w+", token, re.ASCII):
            raise BadInput(
                f"connection {self.settings.conn_id!r}: a trigger token in the URL may consist of letters, "
                "digits and _ only; switch old_trigger_url off, or give the trigger another token"
            )
        return header_text("the trigger's token", token)

    def trigger_body(self, arguments: Mapping[str, Any], key: str | None) -> Row:
        unknown_names("Mage run", arguments, ARGUMENTS)
        self._check_schedule(arguments)
        boolean("allow_inactive_trigger", arguments.get("allow_inactive_trigger"), default=False)
        variables = json_object("variables", arguments.get("variables"))
        if taken := sorted(set(variables) & set(RESERVED_VARIABLES)):
            raise BadInput(f"variables must not hold {', '.join(taken)}: Mage sets these itself")
        event_variables = json_object("event_variables", arguments.get("event_variables"))
        if "pipeline_run" in event_variables:
            raise BadInput("event_variables must not hold pipeline_run: Mage reads it as the run itself")
        if MARKER in event_variables:
            raise BadInput(f"event_variables must not hold {MARKER}: runs are found again by it")
        marker = {} if key is None else {MARKER: required_text("run_key", key)}
        if not self.old_trigger_url:
            return {"pipeline_run": {"variables": variables | marker}, **event_variables}
        if variables:
            raise BadInput(
                f"connection {self.settings.conn_id!r} has old_trigger_url on, for servers that take a bare "
                "payload only: give event_variables, which the blocks get as arguments too"
            )
        return event_variables | marker

    # Asking

    def get(self, run_id: str) -> Flow[Run]:
        return self._run((yield from self._detail(run_id)))

    @staticmethod
    def check_run_id(run_id: str) -> None:
        run_number(run_id)

    def check(self) -> Flow[str]:
        response = yield self._request("GET", "/api/status", authenticated=False)
        scheduler = self._scheduler(self._read(response, "statuses", "the server's status"))
        response = yield self._request("GET", "/api/pipeline_runs", {"_limit": "0"})
        self._read(response, "pipeline_runs", "listing runs")
        return f"Connected to Mage at {self.settings.base_url}, scheduler {scheduler}"

    # Changing

    def cancel(self, run_id: str) -> Flow[None]:
        response = yield self._request(
            "PUT", f"/api/pipeline_runs/{run_number(run_id)}", json={"pipeline_run": {"status": "cancelled"}}
        )
        self._read(response, "pipeline_run", f"cancelling run {run_id}")

    # Authentication

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
        value, expires = inner_token(session)
        self.keep_secret(value)
        lifetime = expires - self.now() if expires is not None else 0.0
        usable = 0 < lifetime < LONGEST_LIFETIME
        self.token = Token(value, self.now(), float(lifetime) if usable else SESSION_LIFETIME)

    def auth_headers(self) -> dict[str, str]:
        headers = {"X-API-KEY": API_KEY}
        if self.token is not None:
            headers["OAUTH-TOKEN"] = self.token.value
        return headers

    def secrets(self) -> tuple[str, ...]:
        return (*super().secrets(), *self.tokens_read)


def _named(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(arguments.get(name)) for name in (*TRIGGER_FIELDS, "allow_inactive_trigger"))
