"""A simulated Mage server: API triggers, runs and their blocks, lists, logs, login.

Triggers of the default project (id, pipeline, name, token):

===  ================  ==============  ================================  ====================================
1    example           from_airflow    tok123                            two blocks, succeeds
2    broken            from_airflow    tokbroken                         its second block raises
3    slow              from_airflow    tokslow                           takes six times as long
4    example           nightly         toknightly                        a time trigger: cannot be called
5    example           paused          tokpaused                         inactive until it is called
6    slow              impatient       tokimpatient                      has a ``timeout`` of 3 seconds
7    example           one_at_a_time   toksingle                         has a ``pipeline_run_limit`` of 1
8    empty             from_airflow    tokempty                          a pipeline without blocks
9    three             from_airflow    tokgone                           its pipeline was deleted
71   example_pipeline  late forest     4506463a01944ef492f70005996dac1a  the one of Mage's documentation
===  ================  ==============  ================================  ====================================
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import math
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web

from airflow_provider_runs.core import clock
from airflow_provider_runs.mage.simulated import (
    PIPELINES,
    REPO_PATH,
    SCHEDULES,
    Pipeline,
    Schedule,
    stack,
    traceback_of,
)
from airflow_provider_runs.mage.simulated_rows import (
    RUN_COLUMNS,
    Rows,
    log_file,
    ordered,
    read_date,
    with_retries_grouped,
)
from airflow_provider_runs.mage.simulated_scheduler import ACTIVE, MageRun, Scheduler
from airflow_provider_runs.simulator.world import Json, Plan, Route, System, run_entry

__all__ = ["MageOptions", "MageSimulator", "Pipeline", "Schedule"]

CREATE_KEYS = frozenset(RUN_COLUMNS) | {"create_block_runs", "prevent_duplicates"}
DEFAULT_LIMIT = 40
MAX_LOG_FILES = 20
URL_PARTS = ("resource", "pk", "child", "child_pk")
TRIGGER_CALL = re.compile(r"(/api/pipeline_schedules/\w+/)(pipeline_runs/.*|api_trigger/?)")
NOT_FOUND = "Record not found."
UNAUTHENTICATED = "mage_ai.server.api.errors.UnauthenticatedRequestException"


@dataclass(frozen=True)
class MageOptions:
    """Hold the credentials and switches of the simulated Mage.

    ``loop_interval`` (seconds between scheduler loops) is shortened by the speed. ``database`` is ``sqlite``
    (naive timestamps) or ``postgres``. ``utc_offset`` is the server's zone in seconds: it shifts
    ``start_timestamp`` and ``end_timestamp`` as the real server does.
    """

    auth: bool = False
    api_key: str = "zkWlN0PkIKSN0C11CfUHUj84OT5XOJ6tDZ6bDRO2"
    email: str = "admin@admin.com"
    username: str = "admin"
    password: str = "admin"
    session_seconds: int = 2592000
    loop_interval: float = 10.0
    database: str = "sqlite"
    utc_offset: int = 0
    pipelines: tuple[Pipeline, ...] = field(default=PIPELINES, metadata={"cli": False})
    schedules: tuple[Schedule, ...] = field(default=SCHEDULES, metadata={"cli": False})


class ApiError(Exception):
    """Carry an error that Mage handles: ``{"error": {"code", "message", "type"}}``."""

    def __init__(self, code: int, message: str, kind: str, http: int = 200) -> None:
        super().__init__(message)
        self.code, self.message, self.kind, self.http = code, message, kind, http


class Uncaught(Exception):
    """Carry an exception that Mage does not handle, by the name that its traceback gives it."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class MageSimulator(System):
    """Simulate a Mage server."""

    name = "mage"
    options_type = MageOptions
    options: MageOptions

    def reset(self) -> None:
        """Return to the state of a fresh start."""
        self._schedules = {schedule.id: replace(schedule) for schedule in self.options.schedules}
        self._pipelines = {pipeline.uuid: pipeline for pipeline in self.options.pipelines}
        self._runs: dict[int, MageRun] = {}
        self._deleted: list[dict[str, Json]] = []
        self._sessions: dict[str, float] = {}
        self._not_found = NOT_FOUND
        self._started = clock.time()
        self._rows = Rows(self.options.database, self._started)
        loop_seconds = self.world.scaled(self.options.loop_interval)
        self._scheduler = Scheduler(self.world, self._runs, loop_seconds, self._started)
        self._defaults = (
            Plan(resource="broken", outcome="failed", message="bang in y"),
            Plan(resource="slow", duration=6 * self.world.duration),
        )

    def routes(self) -> Iterable[Route]:
        """Return the calls that the server knows."""
        schedule_runs = "/api/pipeline_schedules/{schedule}/pipeline_runs"
        one_run = "/api/pipeline_runs/{id}"
        return (
            Route("POST", schedule_runs + r"/{token:\w+}", "trigger", self._trigger),
            Route("POST", r"/api/pipeline_schedules/{schedule:\w+}/api_trigger", "trigger", self._trigger),
            Route("GET", schedule_runs, "list", self._api("list", self._list)),
            Route("GET", "/api/pipeline_runs", "list", self._api("list", self._list)),
            Route("GET", one_run, "get", self._api("detail", self._get)),
            Route("PUT", one_run, self._update_operation, self._api("update", self._update)),
            Route("DELETE", one_run, "delete", self._api("delete", self._delete)),
            Route("GET", "/api/pipeline_schedules", "schedules", self._api("list", self._list_schedules)),
            Route(
                "GET", "/api/pipeline_schedules/{id}", "schedules", self._api("detail", self._get_schedule)
            ),
            Route(
                "GET",
                "/api/pipelines/{uuid}/pipeline_schedules",
                "schedules",
                self._api("list", self._list_schedules),
            ),
            Route("GET", "/api/pipelines/{uuid}/logs", "logs", self._api("list", self._logs)),
            Route("GET", "/api/pipelines/{uuid}", "pipeline", self._api("detail", self._get_pipeline)),
            Route("PUT", "/api/pipelines/{uuid}", "retry", self._api("update", self._retry_as_new)),
            Route("POST", "/api/sessions", "login", self._api("login", self._login)),
            Route("GET", "/api/status", "status", self._api("status", self._status)),
            Route("GET", "/pipelines/{uuid}/runs/{id}", "page", self._page),
        )

    def runs(self) -> list[dict[str, Json]]:
        """Return all runs in the form of the control ``/_runs``."""
        self._scheduler.catch_up()
        return self._deleted + [self._entry(run) for run in self._runs.values()]

    def expire_tokens(self) -> None:
        """Let all sessions expire."""
        self._sessions = dict.fromkeys(self._sessions, 0.0)

    def error_answer(self, status: int) -> web.Response:
        """Return Mage's own error for 401, 403 and 404, else a page as a proxy sends it."""
        if status == 401:
            return self._handled(ApiError(401, "Invalid OAuth token.", "invalid_oauth_token", 401), True)
        if status == 403:
            return self._handled(ApiError(403, "Unauthorized access.", "unauthorized_access", 403), True)
        if status == 404:
            return self._handled(self._missing(), True)
        page = f"<html><head><title>{status} Error</title></head><body><h1>{status} Error</h1></body></html>"
        return web.Response(status=status, text=page, content_type="text/html")

    async def fallback(self, request: web.Request, path: str) -> web.StreamResponse:
        """Answer 405 for what looks like a trigger call, Mage's error for other calls, else a 404 page."""
        if TRIGGER_CALL.fullmatch(path):
            return web.Response(status=405, content_type="application/json")
        if path.startswith("/api/"):
            return await self._api("detail", self._unknown_call)(request)
        page = "<html><title>404: Not Found</title><body>404: Not Found</body></html>"
        return html(page, 404)

    def redacted(self, path: str) -> str:
        """Hide the trigger token of the path form."""
        return re.sub(r"(/api/pipeline_schedules/[^/]+/pipeline_runs/).+", r"\1***", path)

    # Calls

    async def _trigger(self, request: web.Request) -> web.StreamResponse:
        self._scheduler.catch_up()
        try:
            run = self._start(request, await request.read())
        except Exception as error:
            names = {"schedule": "pipeline_schedule_id", "token": "token"}
            return uncaught(error, {names[name]: value for name, value in request.match_info.items()})
        await asyncio.sleep(self.world.scaled(run.plan.hold))
        return answer({"pipeline_run": self._rows.row(self._worked(run))})

    def _start(self, request: web.Request, body: bytes) -> MageRun:
        schedule_id = request.match_info["schedule"]
        schedule = self._schedules.get(int(schedule_id))
        if schedule is None:
            details = {"code": 404, "message": self._not_found, "type": "record_not_found"}
            raise Uncaught("mage_ai.api.errors.ApiError", str(details))
        token = request.match_info.get("token") or bearer(request)
        if schedule.type != "api":
            raise Uncaught(UNAUTHENTICATED, "This endpoint is only supported for API trigger.")
        if token != schedule.token:
            raise Uncaught(UNAUTHENTICATED, f"Invalid token for pipeline schedule ID {schedule_id}.")
        asked = parse(body)
        given = parse(body).get("pipeline_run", {})
        if "variables" not in given:
            given["variables"] = {}
        bare = {key: value for key, value in asked.items() if key != "pipeline_run"} if body else None
        run = self._create(schedule, {**given, "event_variables": bare}, asked)
        schedule.status = "active"
        return run

    def _create(self, schedule: Schedule, given: dict[str, Json], asked: Json) -> MageRun:
        pipeline = self._pipelines.get(schedule.pipeline_uuid)
        if pipeline is None:
            text = f"Pipeline {schedule.pipeline_uuid} does not exist in repo_path {REPO_PATH}."
            raise LookupError(text)
        if unknown := next((key for key in given if key not in CREATE_KEYS), None):
            raise TypeError(f"{unknown!r} is an invalid keyword argument for PipelineRun")
        now = clock.time()
        execution_date = read_date(given.get("execution_date"), now, self.options.database)
        if given.get("prevent_duplicates") and any(
            run.schedule is schedule and run.execution_date == execution_date for run in self._runs.values()
        ):
            raise AttributeError("'NoneType' object has no attribute 'to_dict'")
        variables = copy(given.get("variables") or {})
        variables["execution_partition"] = f"{schedule.id}/{execution_date:%Y%m%dT%H%M%S_%f}"
        run_id = given.get("id") or max(self._runs, default=0) + 1
        if run_id in self._runs:
            raise ValueError("(sqlite3.IntegrityError) UNIQUE constraint failed: pipeline_run.id")
        plan = self._plan_for(schedule)
        queued, duration = self.world.seconds_of(plan)
        run = MageRun(
            id=run_id,
            schedule=schedule,
            pipeline=pipeline,
            plan=plan,
            queued=queued,
            duration=duration,
            execution_date=execution_date,
            status=given.get("status", "initial"),
            created=now,
            updated=now,
            body=asked,
            variables=variables,
            event_variables=given.get("event_variables"),
            metrics=given.get("metrics"),
        )
        if given.get("create_block_runs", True):
            self._scheduler.make_blocks(run, now)
        self._runs[run.id] = run
        return run

    async def _list(self, request: web.Request) -> Json:
        """Answer a list as the real server does, quirks included."""
        query = request.query
        schedule = None
        if "schedule" in request.match_info and request.match_info["schedule"].isdigit():
            # The runs of a schedule that does not exist are those of all.
            schedule = self._schedules.get(int(request.match_info["schedule"]))
        runs = [run for run in self._runs.values() if schedule is None or run.schedule is schedule]
        pipelines = query.get("pipeline_uuid") or query.get("pipeline_uuid[]")
        if pipelines:
            runs = [run for run in runs if run.pipeline.uuid in pipelines.split(",")]
        statuses = query.get("status") or query.get("status[]")
        if statuses:
            wanted = [word.strip().lower() for word in statuses.split(",")]
            runs = [run for run in runs if run.status in wanted]
        for name, sign in (("start_timestamp", 1), ("end_timestamp", -1)):
            if query.get(name):
                edge = self._edge(name, query[name])
                runs = [run for run in runs if sign * (self._created(run) - edge) >= 0]
        runs.sort(key=lambda run: (run.execution_date, run.id), reverse=True)
        limit, offset = int(query.get("_limit", DEFAULT_LIMIT)), int(query.get("_offset", 0))
        if query.get("order_by[]") and limit != 0:
            runs = ordered(runs, query["order_by[]"])
        rows = runs[offset : None if limit < -1 else offset + limit + 1]
        groups = not query.get("disable_retries_grouping") and (schedule or query.get("pipeline_uuid"))
        if limit != 0 and runs and groups:
            rows = with_retries_grouped(runs, rows)
        more = len(rows) > limit
        shown = rows[:-1] if more else rows
        if query.get("_format") == "with_basic_details":
            listed = [self._rows.basic(run) for run in shown]
        else:
            listed = [self._rows.list_row(self._worked(run)) for run in shown]
        return {
            "pipeline_runs": listed,
            "metadata": {"count": len(runs), "next": more},
        }

    async def _get(self, request: web.Request) -> Json:
        run = self._run_of(request)
        if request.query.get("_format") == "with_basic_details":
            return {"pipeline_run": self._rows.basic(run), "metadata": None}
        schedule = {
            "pipeline_schedule_id": run.schedule.id,
            "pipeline_schedule_name": run.schedule.name,
        }
        blocks = [{**self._rows.block_row(run, block), **schedule} for block in run.blocks]
        return {"pipeline_run": {**self._rows.row(self._worked(run)), "block_runs": blocks}, "metadata": None}

    async def _update_operation(self, request: web.Request) -> str:
        body = await json_of(request, lenient=True)
        asked = body.get("pipeline_run") if isinstance(body, dict) else None
        retries = isinstance(asked, dict) and asked.get("pipeline_run_action") == "retry_blocks"
        return "retry" if retries else "cancel"

    async def _update(self, request: web.Request) -> Json:
        run = self._run_of(request)
        asked = await asked_of(request)
        if asked.get("pipeline_run_action") == "retry_blocks":
            self._retry_blocks(run, asked.get("from_block_uuid"))
        elif asked.get("status") == "cancelled":
            run.cancels += 1
            if run.status in ACTIVE:
                run.cancelled = True
                self._scheduler.stop(run, clock.time())
        return {"pipeline_run": self._rows.row(self._worked(run)), "metadata": None}

    def _retry_blocks(self, run: MageRun, from_block: str | None) -> None:
        """Let blocks run again: one and those that depend on it, or all that did not complete."""
        if from_block is not None:
            named = run.pipeline.descendants(from_block)
            again = [block for block in run.blocks if block.uuid in named]
        elif run.status == "completed":
            again = []
        else:
            again = [block for block in run.blocks if block.status != "completed"]
        now = clock.time()
        self._scheduler.work(run, now)
        for block in again:
            block.set("initial", now)
        run.plan = self._plan_for(run.schedule)
        run.queued, run.duration = self.world.seconds_of(run.plan)
        run.status, run.updated, run.since, run.ended = "running", now, now, None

    async def _retry_as_new(self, request: web.Request) -> Json:
        uuid = self._pipeline_of(request).uuid
        asked = (await json_of(request)).get("pipeline") or {}
        if asked.get("status") == "retry":
            for row in asked.get("pipeline_runs", []):
                old = self._runs[int(row["id"])]
                given = {
                    "execution_date": old.execution_date.isoformat(),
                    "variables": dict(old.variables),
                    "event_variables": old.event_variables,
                }
                self._create(old.schedule, given, old.body)
        row = self._rows.pipeline_row(self._pipelines[uuid], {"metadata", "tags", "content", "outputs"})
        return {"pipeline": row, "metadata": None}

    async def _get_pipeline(self, request: web.Request) -> Json:
        pipeline = self._pipeline_of(request)
        left_out = {
            name for name in ("content", "outputs") if request.query.get(f"includes_{name}") in ("false", "")
        }
        return {"pipeline": self._rows.pipeline_row(pipeline, left_out), "metadata": None}

    async def _delete(self, request: web.Request) -> Json:
        run = self._run_of(request)
        self._deleted.append(self._entry(run))
        del self._runs[run.id]
        return {"pipeline_run": self._rows.row(self._worked(run)), "metadata": None}

    async def _list_schedules(self, request: web.Request) -> Json:
        limit, offset = int(request.query.get("_limit", DEFAULT_LIMIT)), int(request.query.get("_offset", 0))
        found = sorted(self._schedules.values(), key=lambda schedule: schedule.id)
        if "uuid" in request.match_info:
            uuid = self._pipeline_of(request).uuid
            found = [schedule for schedule in reversed(found) if schedule.pipeline_uuid == uuid]
        page, runs = found[offset : offset + limit], self._runs.values()
        return {
            "pipeline_schedules": [self._rows.schedule_list_row(one, runs) for one in page],
            "metadata": {"count": len(found), "next": len(found) > offset + limit},
        }

    async def _get_schedule(self, request: web.Request) -> Json:
        return {"pipeline_schedule": self._rows.schedule_row(self._schedule_of(request)), "metadata": None}

    async def _logs(self, request: web.Request) -> Json:
        uuid = self._pipeline_of(request).uuid
        limit = int(request.query.get("_limit", MAX_LOG_FILES))
        runs = [run for run in reversed(self._runs.values()) if run.pipeline.uuid == uuid]
        if wanted := request.query.get("pipeline_run_id[]"):
            runs = [run for run in runs if str(run.id) in wanted.split(",")]
        for run in runs:
            self._scheduler.work(run, clock.time())
        blocks = [(run, block) for run in runs for block in run.blocks]
        blocks.sort(key=lambda pair: (pair[1].started is None, -(pair[1].started or 0.0)))
        whole = [log_file(run, f"{name}.log") for run in runs[:limit] for name in ("pipeline", "scheduler")]
        logs = {
            "block_run_logs": [log_file(*pair) for pair in blocks[:limit]][:MAX_LOG_FILES],
            "pipeline_run_logs": whole[:MAX_LOG_FILES],
            "total_block_run_log_count": len(blocks),
            "total_pipeline_run_log_count": len(runs),
        }
        return {"logs": [logs], "metadata": {}}

    async def _login(self, request: web.Request) -> Json:
        is_json = request.content_type == "application/json"
        asked = (await json_of(request)).get("session") if is_json else None
        asked = asked or {}
        options = self.options
        # Each login, also one that succeeds, spoils the shared "not found" text until the server restarts.
        self._not_found = "Email/username and/or password invalid."
        email, username, password = asked.get("email"), asked.get("username"), asked.get("password")
        if not (email or username) or not password:
            self._not_found = "Email/username and password are required."
            raise self._missing()
        # The first user is made where authentication is on; without, there is nobody who could log in.
        known = options.auth and (email == options.email if email else username == options.username)
        if not known or password != options.password:
            raise self._missing()
        inner = secrets.token_urlsafe(32)
        expires = clock.time() + options.session_seconds
        self._sessions[inner] = expires
        made = self._rows.time(self._started, whole=True)
        role = {"id": 1, "name": "Owner", "created_at": made, "updated_at": made, "user_id": None}
        user = {
            "id": 1,
            "avatar": None,
            "first_name": None,
            "last_name": None,
            "owner": True,
            "project_access": 1,
            "roles": None,
            "roles_display": "Owner",
            "roles_new": [role],
            "username": options.username,
        }
        session = {"expires": self._rows.time(expires), "token": jwt_of(inner, expires), "user": user}
        return {"session": session, "metadata": None}

    async def _status(self, request: web.Request) -> Json:
        status = {
            "disable_pipeline_edit_access": False,
            "instance_type": None,
            "is_instance_manager": False,
            "max_print_output_lines": 1000,
            "project_type": "standalone",
            "project_uuid": "demo",
            "repo_path": REPO_PATH,
            "repo_path_relative": "demo",
            "repo_path_relative_root": "demo",
            "repo_path_root": REPO_PATH,
            "require_user_authentication": self.options.auth,
            "require_user_permissions": False,
            "scheduler_process_id": 2,
            "scheduler_status": "running",
            "server_process_id": 1,
        }
        return {"statuses": [status], "metadata": {}}

    async def _page(self, request: web.Request) -> web.StreamResponse:
        page = "<!doctype html><title>Mage</title><div id='__next'></div>"
        return html(page)

    async def _unknown_call(self, request: web.Request) -> Json:
        parts = request.path.partition("/api/")[2].split("/")
        child = len(parts) > 2 and parts[0] in ("pipelines", "pipeline_runs", "pipeline_schedules")
        words = (parts[2] if child else parts[0]).removesuffix("s").split("_")
        name = "".join(word.capitalize() for word in words)
        module = f"policies.{name}Policy" if len(parts) == 1 else f"resources.{name}Resource"
        raise ModuleNotFoundError(f"No module named 'mage_ai.api.{module}'")

    # The generic API: authentication and errors

    def _api(
        self, action: str, handler: Callable[[web.Request], Awaitable[Json]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def guarded(request: web.Request) -> web.StreamResponse:
            self._scheduler.catch_up()
            try:
                if self.options.auth and action != "status":
                    await self._authenticate(request, action)
                return answer(await handler(request))
            except ApiError as error:
                return self._handled(error, bool(request.query.get("_http_error_codes")))
            except Exception as error:
                parts = request.path.partition("/api/")[2].split("/")
                return uncaught(error, dict(zip(URL_PARTS, parts, strict=False)))

        return guarded

    async def _authenticate(self, request: web.Request, action: str) -> None:
        key = request.headers.get("X-API-KEY")
        if key is None:
            body = await json_of(request, lenient=True)
            in_body = request.method == "POST" and body is not None
            key = body.get("api_key") if in_body and isinstance(body, dict) else request.query.get("api_key")
        if key != self.options.api_key:
            raise ApiError(401, "Invalid API key.", "invalid_api_key", 401)
        token = request.headers.get("OAUTH-TOKEN") or bearer(request)
        if action == "login" and not token:
            return
        if "HTTP_AUTHORIZATION" in request.query:
            raise TypeError("a bytes-like object is required, not 'list'")
        if not token and "oauth_token" in request.cookies:
            token = inner_token(request.cookies["oauth_token"])
        if not token:
            self._look_up(request)
            text = f"Private access for {action} only, invalid scope."
            raise ApiError(403, text, "unauthorized_access")
        expires = self._sessions.get(token)
        if expires is None:
            raise ApiError(401, "Invalid OAuth token.", "invalid_oauth_token", 401)
        if clock.time() >= expires:
            raise ApiError(401, "Expired OAuth token.", "expired_oauth_token", 401)
        if action == "login":
            text = "Public access for create only, invalid scope."
            raise ApiError(403, text, "unauthorized_access")

    def _look_up(self, request: web.Request) -> None:
        """Tell of what does not exist, as Mage does before it asks for the right to see it."""
        if "/pipeline_runs/" in request.path:
            self._run_of(request)
        elif "uuid" in request.match_info:
            self._pipeline_of(request)
        elif "id" in request.match_info:
            self._schedule_of(request)

    def _missing(self) -> ApiError:
        return ApiError(404, self._not_found, "record_not_found")

    def _handled(self, error: ApiError, real_codes: bool) -> web.Response:
        inner = {"code": error.code, "message": error.message, "type": error.kind}
        body = {"error": inner, "status": error.code if real_codes else 200}
        return answer(body, error.code if real_codes else error.http)

    def _run_of(self, request: web.Request) -> MageRun:
        wanted = request.match_info["id"]
        run = self._runs.get(int(wanted)) if wanted.isdigit() else None
        if run is None:
            raise self._missing()
        return run

    def _schedule_of(self, request: web.Request) -> Schedule:
        wanted = request.match_info["id"]
        schedule = self._schedules.get(int(wanted)) if wanted.isdigit() else None
        if schedule is None:
            raise self._missing()
        return schedule

    def _pipeline_of(self, request: web.Request) -> Pipeline:
        wanted = request.match_info["uuid"]
        if wanted not in self._pipelines:
            raise Uncaught("Exception", f"Pipeline {wanted} does not exist.")
        return self._pipelines[wanted]

    def _edge(self, name: str, value: str) -> float:
        try:
            return int(value) + self.options.utc_offset
        except ValueError:
            raise ApiError(400, f"Value is invalid for {name}.", "record_invalid") from None

    # Runs

    def _worked(self, run: MageRun) -> MageRun:
        """Return a run after its blocks have worked until now."""
        self._scheduler.work(run, clock.time())
        return run

    def _plan_for(self, schedule: Schedule) -> Plan:
        names = (schedule.pipeline_uuid, str(schedule.id), schedule.name)
        return self.world.plan_for(self.name, names, self._defaults)

    def _created(self, run: MageRun) -> float:
        return run.created if self.options.database == "postgres" else math.floor(run.created)

    def _entry(self, run: MageRun) -> dict[str, Json]:
        return run_entry(
            system=self.name,
            id=run.id,
            resource=run.pipeline.uuid,
            status=run.status,
            created=run.created,
            started=run.started,
            finished=run.ended,
            scope={"pipeline_schedule_id": run.schedule.id},
            key=None,
            body=run.body,
            cancels=run.cancels,
            cancelled=run.cancelled,
        )


def bearer(request: web.Request) -> str | None:
    """Return the bearer token of a request."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" and token else None


def parse(body: bytes) -> Any:
    """Return a JSON body, ``{}`` for none; what is not a number becomes null."""
    return json.loads(body, parse_constant=lambda _: None) if body else {}


async def json_of(request: web.Request, lenient: bool = False) -> Any:
    """Return the JSON body of a request, ``{}`` for none; when lenient, None for what is not JSON."""
    body = await request.read()
    try:
        return parse(body)
    except ValueError:
        if lenient:
            return None
        raise


async def asked_of(request: web.Request) -> Any:
    """Return what an update asks for; a body without the wrapper asks for nothing."""
    body = await json_of(request) if request.content_type == "application/json" else {}
    return body.get("pipeline_run", {}) if isinstance(body, dict) else {}


def html(page: str, status: int = 200) -> web.Response:
    """Return a page; the content type is written as Mage's is."""
    headers = {"Content-Type": "text/html; charset=UTF-8"}
    return web.Response(body=page.encode(), status=status, headers=headers)


def answer(body: Json, status: int = 200) -> web.Response:
    """Return a JSON answer; the content type names no character set, as Mage's does."""
    return web.Response(body=json.dumps(body).encode(), status=status, content_type="application/json")


def uncaught(error: Exception, parameters: dict[str, str]) -> web.Response:
    """Return Mage's answer to an exception that it does not handle: HTTP 200, with the URL's parts."""
    text = str(error)
    module, name = type(error).__module__, type(error).__name__
    kind = name if module == "builtins" else f"{module}.{name}"
    if isinstance(error, Uncaught):
        kind = error.kind
    details = {"code": 500, "errors": stack(), "exception": text, "message": traceback_of(kind, text)}
    return answer({"error": details, "url_parameters": parameters})


def jwt_of(token: str, expires: float) -> str:
    """Return the HS256 wrapper that a login answers."""

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).decode().rstrip("=")

    head = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    signed = head + "." + part(json.dumps({"expires": expires, "token": token}).encode())
    return signed + "." + part(hmac.new(b"simulator", signed.encode(), hashlib.sha256).digest())


def inner_token(wrapper: str) -> str:
    """Return the token inside the wrapper; what is not a wrapper raises, as in Mage."""
    parts = wrapper.split(".")
    if len(parts) != 3:
        raise ValueError("Not enough segments")
    payload = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    return str(payload["token"])
