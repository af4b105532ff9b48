"""A simulated Chalk API server: token exchange, trigger, status, who-am-i.

Any resolver exists, except in the package ``missing``. Without a plan a resolver with ``broken`` in its name
fails and one with ``slow`` in its name takes six times as long.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import string
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiohttp import web

from airflow_provider_runs.core import clock
from airflow_provider_runs.simulator.world import Json, Plan, Route, System, TimeLine, run_entry

ID_LETTERS = string.ascii_lowercase + string.digits
LONGEST_HOLD = 300.0
STATUSES = {"succeeded": "succeeded", "failed": "failed", "cancelled": "failed"}
TIMESTAMPING_MODES = ("feature_time", "online_store_write_time")
ERROR_CODES = {
    400: ("INVALID_QUERY", "REQUEST"),
    401: ("UNAUTHENTICATED", "NETWORK"),
    403: ("UNAUTHORIZED", "NETWORK"),
    500: ("INTERNAL_SERVER_ERROR", "NETWORK"),
    504: ("DEADLINE_EXCEEDED", "NETWORK"),
}


@dataclass(frozen=True)
class ChalkOptions:
    """Hold the credentials and switches of the simulated Chalk.

    A service token works in ``primary_environment`` only; the user token works in both environments and must
    name one in each call.
    """

    client_id: str = "token-simulator"
    client_secret: str = "chalk-secret"
    user_token: str = "chalk-user-token"
    primary_environment: str = "env-primary"
    other_environment: str = "env-other"
    expires_in: int = 3600
    deduplicate: bool = True


@dataclass(frozen=True)
class ChalkRun:
    """Describe one resolver run."""

    id: str
    environment: str
    body: dict[str, Json]
    plan: Plan
    line: TimeLine

    @property
    def status(self) -> str:
        """Return the service's word for the run's state now."""
        return STATUSES.get(self.plan.outcome, self.plan.outcome) if self.line.has_ended() else "received"

    def answer(self) -> web.Response:
        """Return the answer of trigger and status calls."""
        return web.json_response({"id": self.id, "status": self.status})


class Refused(Exception):
    """Carry a refusal in Chalk's error shape."""

    def __init__(self, status: int, detail: str, code: str | None = None, category: str = "REQUEST") -> None:
        super().__init__(detail)
        trace = secrets.token_hex(16)
        body: dict[str, Json] = {"detail": detail, "trace": trace}
        if code:
            body["errors"] = [{"code": code, "category": category, "message": detail}]
        self.answer = web.json_response(body, status=status, headers={"trace": trace})


class ChalkSimulator(System):
    """Simulate Chalk's API server."""

    name = "chalk"
    options_type = ChalkOptions
    options: ChalkOptions

    def reset(self) -> None:
        """Return to the state of a fresh start."""
        self._tokens: dict[str, float] = {}
        self._runs: dict[str, ChalkRun] = {}
        self._by_key: dict[tuple[str, str], ChalkRun] = {}
        self._defaults = (
            Plan(resource="*broken*", outcome="failed", message="the resolver raised an exception"),
            Plan(resource="*slow*", duration=6 * self.world.duration),
        )

    def routes(self) -> Iterable[Route]:
        """Return the calls that the service knows."""
        return (
            Route("POST", "/v1/oauth/token", "token", self._answering(self._exchange)),
            Route("POST", "/v1/runs/trigger", "trigger", self._answering(self._trigger)),
            Route("GET", "/v1/runs/{id}", "get", self._answering(self._get)),
            Route("GET", "/v1/who-am-i", "who_am_i", self._answering(self._who_am_i)),
            Route("GET", "/runs/{id}", "page", self._page),
        )

    def runs(self) -> list[dict[str, Json]]:
        """Return all runs in the form of the control ``/_runs``."""
        now = clock.time()
        return [
            run_entry(
                system=self.name,
                id=run.id,
                resource=run.body["resolver_fqn"],
                status=run.status,
                created=run.line.created,
                started=run.line.begins if now >= run.line.begins else None,
                finished=run.line.ends if run.line.has_ended() else None,
                scope={"environment": run.environment},
                key=run.body.get("idempotency_key"),
                body=run.body,
            )
            for run in self._runs.values()
        ]

    def expire_tokens(self) -> None:
        """Make all tokens from the exchange invalid; the user token stays."""
        self._tokens.clear()

    def error_answer(self, status: int) -> web.Response:
        """Return an error in Chalk's shape."""
        code, category = ERROR_CODES.get(status) or (ERROR_CODES[500] if status >= 500 else (None, "REQUEST"))
        return Refused(status, f"Simulated answer {status}.", code, category).answer

    async def fallback(self, request: web.Request, path: str) -> web.StreamResponse:
        """Answer that there is no such page."""
        return Refused(404, "Not Found").answer

    def _answering(self, handler: Any) -> Any:
        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                answer: web.StreamResponse = await handler(request)
            except Refused as refusal:
                return refusal.answer
            return answer

        return guarded

    async def _exchange(self, request: web.Request) -> web.StreamResponse:
        body = await read_object(request)
        if body.get("grant_type") != "client_credentials":
            raise Refused(400, "grant_type must be client_credentials", "INVALID_QUERY")
        given = (body.get("client_id"), body.get("client_secret"))
        if given != (self.options.client_id, self.options.client_secret):
            raise Refused(401, "Invalid client credentials", "UNAUTHENTICATED", "NETWORK")
        token = secrets.token_urlsafe(32)
        self._tokens[token] = clock.time() + self.options.expires_in
        return web.json_response(
            {
                "access_token": token,
                "token_type": "Bearer",
                "expires_in": self.options.expires_in,
                "api_server": str(request.url.with_path(request.path.removesuffix("/v1/oauth/token"))),
                "primary_environment": self.options.primary_environment,
                "engines": {},
                "environment_id_to_name": {self.options.primary_environment: "primary"},
            }
        )

    async def _trigger(self, request: web.Request) -> web.StreamResponse:
        environment = self._environment(request)
        body = await read_object(request)
        check_trigger(body)
        resolver, key = body["resolver_fqn"], body.get("idempotency_key")
        known = self._by_key.get((environment, key)) if key and self.options.deduplicate else None
        if known:
            return known.answer()
        if resolver.startswith("missing."):
            raise Refused(400, f"No resolver {resolver!r} found", "RESOLVER_NOT_FOUND")
        plan = self.world.plan_for(self.name, [resolver], self._defaults)
        run_id = "j-" + "".join(secrets.choice(ID_LETTERS) for _ in range(14))
        run = ChalkRun(run_id, environment, body, plan, TimeLine.of(self.world, plan))
        self._runs[run_id] = run
        if key:
            self._by_key[environment, key] = run
        await asyncio.sleep(self.world.scaled(min(plan.hold, LONGEST_HOLD)))
        return run.answer()

    async def _get(self, request: web.Request) -> web.StreamResponse:
        environment = self._environment(request)
        run = self._runs.get(request.match_info["id"])
        if run is None or run.environment != environment:
            raise Refused(404, f"Run {request.match_info['id']!r} not found")
        return run.answer()

    async def _who_am_i(self, request: web.Request) -> web.StreamResponse:
        environment = self._environment(request)
        user = "user-simulator" if self._is_user(request) else self.options.client_id
        return web.json_response({"user": user, "environment_id": environment, "team_id": "team-simulator"})

    async def _page(self, request: web.Request) -> web.StreamResponse:
        run_id = request.match_info["id"]
        run = self._runs.get(run_id)
        if run is None:
            return web.Response(status=404, text="Not Found")
        text = f"<!doctype html><title>Run {run.id}</title><h1>{run.id}</h1><p>{run.status}</p>"
        return web.Response(text=text, content_type="text/html")

    def _bearer(self, request: web.Request) -> str:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        return token if scheme.lower() == "bearer" else ""

    def _is_user(self, request: web.Request) -> bool:
        return self._bearer(request) == self.options.user_token

    def _environment(self, request: web.Request) -> str:
        """Check the token and return the environment that the call is about."""
        options = self.options
        given = request.headers.get("X-Chalk-Env-Id")
        if self._is_user(request):
            if not given:
                raise Refused(400, "X-Chalk-Env-Id is required with a user token", "INVALID_QUERY")
            allowed = {options.primary_environment, options.other_environment}
        elif clock.time() < self._tokens.get(self._bearer(request), 0):
            allowed = {options.primary_environment}
        else:
            raise Refused(401, "Invalid or expired token", "UNAUTHENTICATED", "NETWORK")
        environment = given or options.primary_environment
        if environment not in allowed:
            raise Refused(403, f"No access to environment {environment!r}", "UNAUTHORIZED", "NETWORK")
        return environment


async def read_object(request: web.Request) -> dict[str, Json]:
    """Return the JSON object of a request's body."""
    try:
        body = json.loads(await request.read())
    except ValueError as error:
        raise Refused(400, f"The body is not JSON: {error}", "PARSE_FAILED") from error
    if not isinstance(body, dict):
        raise Refused(400, "The body must be a JSON object", "PARSE_FAILED")
    return body


def check_trigger(body: dict[str, Json]) -> None:
    """Refuse a trigger body with a field of the wrong kind."""

    def invalid(name: str, what: str) -> Refused:
        return Refused(400, f"{name} must be {what}", "VALIDATION_FAILED", "FIELD")

    if not isinstance(body.get("resolver_fqn"), str) or not body["resolver_fqn"]:
        raise invalid("resolver_fqn", "a name")
    for name in ("lower_bound", "upper_bound"):
        if body.get(name) is not None and not is_timestamp(body[name]):
            raise invalid(name, "an ISO 8601 timestamp")
    samples = body.get("max_samples")
    if samples is not None and (isinstance(samples, bool) or not isinstance(samples, int) or samples < 0):
        raise invalid("max_samples", "a whole number")
    if body.get("timestamping_mode", "feature_time") not in TIMESTAMPING_MODES:
        raise invalid("timestamping_mode", " or ".join(TIMESTAMPING_MODES))
    settings = body.get("persistence_settings")
    if settings is not None and not isinstance(settings, dict):
        raise invalid("persistence_settings", "an object")
    for name in ("persist_online_storage", "persist_offline_storage"):
        if settings and not isinstance(settings.get(name), bool | None):
            raise invalid(f"persistence_settings.{name}", "true, false or null")
    for name in ("override_target_image_tag", "idempotency_key"):
        if not isinstance(body.get(name), str | None):
            raise invalid(name, "a string or null")


def is_timestamp(value: Json) -> bool:
    """Say whether the value is an ISO 8601 timestamp."""
    try:
        datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return False
    return True
