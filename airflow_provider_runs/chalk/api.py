"""Chalk's triggered runs: connection, status words and endpoints (https://docs.chalk.ai/docs/runs)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from typing import Any, ClassVar
from urllib.parse import quote

from airflow_provider_runs.core.api import RunApi, Scope, Token, header_text
from airflow_provider_runs.core.connection import (
    ConnectionSpec,
    Field,
    Settings,
)
from airflow_provider_runs.core.errors import ApiError, BadInput, NotFound, Unauthorized, WrongScope
from airflow_provider_runs.core.http import Flow, Request, Response, read_object
from airflow_provider_runs.core.inputs import boolean, integer, iso_utc, one_of, required_text, unknown_names
from airflow_provider_runs.core.run import Run, RunState, StatusTable
from airflow_provider_runs.core.schedule import Pace
from airflow_provider_runs.core.text import excerpt, one_line

# The trigger call answers within 300 s, also if the run goes on.
TRIGGER_TIMEOUT = 330.0
DEFAULT_LIFETIME = 3600.0
LONGEST_LIFETIME = 1e9
TIMESTAMPING_MODES = ("feature_time", "online_store_write_time")
ARGUMENTS = (
    "resolver_fqn",
    "lower_bound",
    "upper_bound",
    "max_samples",
    "timestamping_mode",
    "store_online",
    "store_offline",
    "override_target_image_tag",
    "idempotency_key",
)

DOCUMENTATION = "https://docs.chalk.ai/docs/runs"

CONNECTION = ConnectionSpec(
    conn_type="chalk",
    hook_name="Chalk",
    default_host="https://api.chalk.ai",
    default_scheme="https",
    relabeling={"host": "API server", "login": "Client ID", "password": "Client secret"},
    placeholders={"host": "https://api.chalk.ai", "login": "token-...", "port": "443"},
    hidden=("schema",),
    own_fields=(
        Field(
            "environment",
            "Environment",
            description="Environment ID. Empty: the token's primary environment. Needed with a user's token.",
        ),
        Field(
            "access_token",
            "Access token",
            description="A bearer instead of client ID and secret. It cannot be renewed: "
            "once it has expired, every request is refused.",
            secret=True,
        ),
        Field("preview_deployment_id", "Preview deployment", description="Preview deployment ID."),
        Field("deployment_tag", "Deployment tag", description="Tag of the deployment."),
        Field("dashboard_url", "Dashboard URL", description="Base of run links. Empty: https://chalk.ai"),
        Field(
            "trigger_timeout",
            "Trigger timeout",
            "number",
            "Seconds to wait for the answer to a start, which Chalk gives within 300 s. Empty: 330.",
        ),
    ),
)


class ChalkRunApi(RunApi):
    """Describe Chalk's run API for one connection and environment."""

    service = "Chalk"
    connection = CONNECTION
    statuses = StatusTable(
        {
            RunState.RUNNING: ("received",),
            RunState.SUCCEEDED: ("succeeded",),
            # REST documents three words. Its RPC twin knows skipped and canceled: should they appear, fail.
            RunState.FAILED: ("failed", "error", "skipped"),
            RunState.CANCELLED: ("canceled", "cancelled"),
        }
    )
    pace = Pace(min_poll_interval=2, poll_interval=60, max_requests_per_minute=600)
    scope_fields = ("environment", "preview_deployment_id", "deployment_tag")
    scope_headers: ClassVar[Mapping[str, str]] = {
        "environment": "X-Chalk-Env-Id",
        "preview_deployment_id": "X-Chalk-Preview-Deployment",
        "deployment_tag": "X-Chalk-Deployment-Tag",
    }
    stale_token_statuses = frozenset({401, 403})
    takes_key = True

    def __init__(self, settings: Settings, scope: Scope | None = None, **kwargs: Any) -> None:
        super().__init__(settings, scope, **kwargs)
        self.bearer = settings.text("access_token")
        if self.bearer:
            header_text("access_token", self.bearer)
        elif not (settings.login and settings.password):
            raise BadInput(
                f"connection {settings.conn_id!r}: set client ID (login) and client secret (password), "
                "or the field access_token"
            )
        self.trigger_timeout = settings.number("trigger_timeout", TRIGGER_TIMEOUT)
        self.dashboard_url = (settings.text("dashboard_url") or "https://chalk.ai").rstrip("/")
        chosen = {name: self.scope.get(name) or settings.text(name) for name in self.scope_fields}
        self.chosen = {name: header_text(name, value) for name, value in chosen.items() if value}

    def trigger(
        self, arguments: Mapping[str, Any], key: str | None = None, began: float | None = None
    ) -> Flow[Run]:
        body = self.trigger_body(arguments, key)
        response = yield self._request(
            "POST",
            "/v1/runs/trigger",
            json=body,
            safe_to_repeat=body.get("idempotency_key") is not None,
            timeout=self.trigger_timeout,
        )
        return self._run(response, f"starting resolver {body['resolver_fqn']}")

    def get(self, run_id: str) -> Flow[Run]:
        run_id = required_text("run_id", run_id)
        response = yield self._request("GET", f"/v1/runs/{_quoted(run_id)}", safe_to_repeat=True)
        return self._run(response, f"run {run_id}", run_id)

    def check(self) -> Flow[str]:
        request = self._request("GET", "/v1/who-am-i", safe_to_repeat=True)
        response = yield request
        try:
            who = self._read(response, "who-am-i")
        except Unauthorized as error:
            if self.chosen:
                # The same without what was chosen tells what is refused.
                bearer = {"Authorization": self.auth_headers()["Authorization"]}
                bare = yield replace(request, headers={**request.headers, **bearer}, authenticated=False)
                if bare.status not in (401, 403):
                    named = ", ".join(f"{name} {value!r}" for name, value in self.chosen.items())
                    raise WrongScope(f"no access to {named}. {error}", status=error.status) from error
            raise
        if not who.get("user"):
            raise self._unusable(response, "who-am-i", "without user")
        environment = self.chosen.get("environment") or who.get("environment_id") or "none named"
        return self.redact(f"Connected to Chalk as {who['user']}, environment {environment}")

    def trigger_body(self, arguments: Mapping[str, Any], key: str | None) -> dict[str, Any]:
        unknown_names("Chalk run", arguments, ARGUMENTS)
        body: dict[str, Any] = {"resolver_fqn": required_text("resolver_fqn", arguments.get("resolver_fqn"))}
        bounds = {name: iso_utc(name, arguments.get(name)) for name in ("lower_bound", "upper_bound")}
        lower, upper = bounds["lower_bound"], bounds["upper_bound"]
        if lower and upper and datetime.fromisoformat(lower) > datetime.fromisoformat(upper):
            raise BadInput(f"lower_bound {lower} is after upper_bound {upper}")
        body |= {name: value for name, value in bounds.items() if value}
        if (samples := arguments.get("max_samples")) is not None:
            body["max_samples"] = integer("max_samples", samples, at_least=1)
        if (mode := arguments.get("timestamping_mode")) is not None:
            body["timestamping_mode"] = one_of("timestamping_mode", mode, TIMESTAMPING_MODES)
        body["persistence_settings"] = {
            "persist_online_storage": boolean("store_online", arguments.get("store_online"), default=True),
            "persist_offline_storage": boolean("store_offline", arguments.get("store_offline"), default=True),
        }
        if (tag := arguments.get("override_target_image_tag")) is not None:
            body["override_target_image_tag"] = required_text("override_target_image_tag", tag)
        if (own := arguments.get("idempotency_key")) is not None:
            key = own
        if key is not None:
            body["idempotency_key"] = required_text("idempotency_key", key)
        return body

    def authenticates(self) -> bool:
        return self.bearer is None

    def authenticate(self) -> Flow[None]:
        response = yield Request(
            "POST",
            f"{self.settings.base_url}/v1/oauth/token",
            json={
                "client_id": self.settings.login,
                "client_secret": self.settings.password,
                "grant_type": "client_credentials",
                "scope": None,
            },
            safe_to_repeat=True,
            authenticated=False,
        )
        answer = self._read(response, "getting a token")
        value, lifetime = answer.get("access_token"), answer.get("expires_in")
        if not isinstance(value, str) or not (value.isascii() and value.isprintable() and value.strip()):
            raise ApiError(
                "Chalk answered the token request without an access_token",
                status=response.status,
                permanent=False,
            )
        self.keep_secret(value)
        if isinstance(lifetime, bool) or not isinstance(lifetime, (int, float)):
            lifetime = 0.0
        usable = 0 < lifetime < LONGEST_LIFETIME
        self.token = Token(value, self.now(), float(lifetime) if usable else DEFAULT_LIFETIME)
        primary = answer.get("primary_environment")
        if isinstance(primary, str) and primary.isascii() and primary.isprintable() and primary.strip():
            self.chosen.setdefault("environment", primary.strip())

    def auth_headers(self) -> dict[str, str]:
        bearer = self.bearer or (self.token.value if self.token else "")
        headers = {self.scope_headers[name]: value for name, value in self.chosen.items()}
        return {"Authorization": f"Bearer {bearer}", **headers}

    def _request(self, method: str, path: str, **kwargs: Any) -> Request:
        return Request(
            method, self.settings.base_url + path, headers={"Content-Type": "application/json"}, **kwargs
        )

    def _run(self, response: Response, what: str, run_id: str | None = None) -> Run:
        answer = self._read(response, what)
        found, status = answer.get("id"), answer.get("status")
        if isinstance(found, int) and not isinstance(found, bool):
            found = str(found)
        found = found.strip() if isinstance(found, str) and found.isprintable() else None
        if not found or not isinstance(status, str) or not status.strip():
            raise self._unusable(response, what, "without id and status")
        if run_id is not None and found != run_id:
            raise self._unusable(response, what, "with another run")
        return Run(found, self.statuses.state(status), status, f"{self.dashboard_url}/runs/{_quoted(found)}")

    def _read(self, response: Response, what: str) -> dict[str, Any]:
        """Return the object in a good answer; raise what Chalk said in any other (contract section 4)."""
        if 200 <= response.status < 300:
            return read_object(response, self.service, self.redact)
        body = response.json
        said, trace = self._complaint(body, response), response.headers.get("trace")
        if isinstance(body, dict) and isinstance(body.get("trace"), str):
            trace = body["trace"]
        environment = self.chosen.get("environment")
        message = (
            f"Chalk answered {response.status} to {what}"
            + (f" (environment {environment})" if environment else "")
            + f": {said}"
            + (f" (trace {one_line(trace, self.redact)})" if trace else "")
        )
        if response.status in (401, 403):
            raise Unauthorized(
                f"{message}. Check the credentials and the environment of connection "
                f"{self.settings.conn_id!r}",
                status=response.status,
            )
        if response.status == 404:
            raise NotFound(
                f"{message}. Check the id and the environment of connection {self.settings.conn_id!r}",
                status=404,
            )
        raise ApiError(message, status=response.status)

    def _complaint(self, body: Any, response: Response) -> str:
        body = body if isinstance(body, dict) else {}
        detail, errors = body.get("detail") or body.get("message"), body.get("errors")
        parts = [detail] if isinstance(detail, str) else []
        for error in errors if isinstance(errors, list) else ():
            if isinstance(error, dict) and error.keys() & {"code", "message"}:
                parts.append(f"{error.get('code')}: {error.get('message')}")
        if not parts or (detail and not isinstance(detail, str)):
            parts.insert(0, excerpt(response.body, self.redact))
        return "; ".join(one_line(part, self.redact) for part in parts[:6])

    def _unusable(self, response: Response, what: str, why: str) -> ApiError:
        return ApiError(
            f"Chalk answered {what} {why}: {excerpt(response.body, self.redact)}",
            status=response.status,
            permanent=False,
        )


@lru_cache(4096)
def _quoted(run_id: str) -> str:
    return quote(run_id, safe="", errors="replace")
