"""A simulated Paradime: the GraphQL API of Bolt, and the object store of its artifacts.

The API answers ``POST /api/v1/<endpoint token>/graphql``. Artifacts lie under ``/storage``, behind presigned
URLs that expire; as an object store, it refuses requests that carry the API's own headers. Schedules of the
default workspace (``ws-main``; another, ``ws-other``, has a ``daily`` of its own):

=============  ======================================  =====================================================
slug           commands                                what is special
=============  ======================================  =====================================================
daily          dbt run, dbt test                       has the runs 76033 (goes on) and 76035 (succeeded) of
                                                       Paradime's documentation; ``/_runs`` leaves them out
broken         dbt seed, dbt build, dbt docs generate  ``dbt build`` fails
mended         dbt run, dbt test                       ``dbt test`` fails, and succeeds when it is retried
slow           dbt run, dbt test                       takes six times as long
one-at-a-time  dbt run, dbt test                       refuses a second run while one goes on
skips          dbt run, dbt test                       skips a second run while one goes on
large          dbt compile                             leaves a binary file of 50 MB
nightly-build  dbt build                               made in the web interface and suspended
retired        dbt run, dbt test                       in the list of inactive schedules only
=============  ======================================  =====================================================

A run has two commands of its own, ``git clone`` and ``dbt deps``, before the user's. How it ends is the
outcome of its plan: ``succeeded`` (SUCCESS), ``failed`` (FAILED: a command returned 1), ``cancelled``
(CANCELED), or a literal word. In ERROR no command fails; SKIPPED runs none. Words parted by commas, such as
``PENDING,null,SUCCESS``, are what successive looks at the run's status find once its time is over.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import quote

from aiohttp import web
from graphql import (
    DocumentNode,
    FieldNode,
    GraphQLError,
    GraphQLObjectType,
    GraphQLResolveInfo,
    GraphQLSchema,
    OperationDefinitionNode,
    build_ast_schema,
    execute_sync,
    get_named_type,
    is_list_type,
    is_non_null_type,
    is_object_type,
    parse,
    validate,
    validate_schema,
)
from graphql.language import FieldDefinitionNode, InputValueDefinitionNode, NameNode, visit
from graphql.language.visitor import REMOVE, Visitor

from airflow_provider_runs.core import clock
from airflow_provider_runs.paradime.simulated import (
    MESSAGE,
    SCHEDULES,
    BoltRun,
    Command,
    Schedule,
    iso,
    naive,
    slug_of,
)
from airflow_provider_runs.simulator.world import (
    FIELD_FAULTS,
    ControlError,
    Json,
    Plan,
    Route,
    System,
    run_entry,
)

__all__ = ["ParadimeOptions", "ParadimeSimulator", "Schedule"]

OUTCOMES = {"succeeded": "SUCCESS", "failed": "FAILED", "cancelled": "CANCELED", "stuck": "SUCCESS"}
SETUP = ("git clone --depth 1 git@example.com:shop.git", "dbt deps")
OPERATIONS = {
    "triggerBoltRun": "trigger",
    "boltRunStatus": "get",
    "boltCommand": "command",
    "boltCommandLogs": "logs",
    "boltResourceUrl": "resource_url",
    "cancelBoltRun": "cancel",
    "retryBoltRun": "retry",
    "retryAllBoltRun": "retry",
    "retryBoltRunFromFailure": "retry",
    "listBoltRuns": "list",
    "boltScheduleName": "schedule",
    "listBoltSchedules": "schedules",
    "suspendBoltSchedule": "suspend",
    "createBoltSchedule": "create",
    "deleteBoltSchedule": "delete",
}
"""Words for faults and counts, by field; other fields go by their own name."""
API_HEADERS = ("Authorization", "X-API-KEY", "X-API-SECRET", "X-Paradime-Workspace")
MENDED = Plan(resource="mended")
"""How a retry of that schedule's run goes."""
HISTORY = ((76033, "stuck", 243270, 2023470), (76035, "succeeded", 243278, 2023480))
FIRST_SCHEDULE = 973767
BEFORE = 86400.0
LONGEST_BATCH = 1000
USERS = (
    {"uid": "u-1", "email": "ada@example.com", "name": "Ada", "accountType": "ADMIN"},
    {"uid": "u-2", "email": "bob@example.com", "name": "Bob", "accountType": "DEVELOPER"},
)


@dataclass(frozen=True)
class ParadimeOptions:
    """Hold the credentials and switches of the simulated Paradime.

    The key with its secret and the workspace token belong to the first workspace; the company token needs the
    header ``X-Paradime-Workspace``. Seconds are shortened by the speed, except ``url_seconds``.

    ``starting`` is how long a new run is STARTING; ``setup`` how long each of its own commands takes at most,
    which else take as long as the user's; ``cancelling`` how long a run goes on after a cancel;
    ``slug_delay`` how long triggers refuse the slug of a new schedule. ``nullable`` tells whether an unknown
    run nulls its own field only or, as a non-null field does, the whole answer. ``lacks`` makes an older
    server: the names of fields and arguments that its schema does not have, parted by commas (``reason``, or
    ``triggerBoltRun.reason`` for the one place). ``max_fields`` refuses documents with more root fields;
    ``refusal_status`` is the HTTP status of documents that are refused before they are carried out.
    ``error_codes`` adds ``extensions.code`` to errors. ``null_end`` answers null instead of an empty text for
    the end, and the output, of a command that goes on. ``zone`` writes times as ISO 8601 with ``Z``.
    ``logs_finish`` set to false never calls the log of a command finished. ``log_batch`` is the most lines of
    one stream in an answer. ``cancel_ended`` says whether a cancel of an ended run is ``ok`` or an error.
    ``names_parent`` says whether a retry names the run that it retries. ``continue_on_error`` is the feature
    of that name.
    """

    endpoint_token: str = "company-simulator"
    api_key: str = "key-simulator"
    api_secret: str = "paradime-secret"
    workspace_token: str = "prdm_wsp_simulator"
    company_token: str = "prdm_cmp_simulator"
    starting: float = 1.0
    setup: float = float("inf")
    cancelling: float = 1.0
    slug_delay: float = 10.0
    url_seconds: int = 300
    nullable: bool = True
    lacks: str = ""
    max_fields: int = 0
    refusal_status: int = 200
    error_codes: bool = False
    null_end: bool = False
    zone: bool = False
    logs_finish: bool = True
    log_batch: int = LONGEST_BATCH
    cancel_ended: bool = True
    names_parent: bool = True
    continue_on_error: bool = True
    workspaces: tuple[tuple[str, str], ...] = field(
        default=(("ws-main", "Main"), ("ws-other", "Other")), metadata={"cli": False}
    )
    schedules: tuple[Schedule, ...] = field(default=SCHEDULES, metadata={"cli": False})


class Checked(NamedTuple):
    """Hold a document that was read: its operation and the reasons to refuse it."""

    document: DocumentNode | None
    fields: tuple[FieldNode, ...]
    errors: list[GraphQLError]

    @property
    def operation(self) -> str:
        """Return the word for what the document asks; the words, parted by commas, if it asks several."""
        return ",".join(sorted({word_of(node) for node in self.fields})) or "invalid"


@dataclass
class Call:
    """Hold who calls, from where, and what the answer waits for."""

    workspace: str
    actor: str
    address: str
    hold: float = 0.0
    adds_empty_errors: bool = False


class Denied(Exception):
    """Carry an answer to a caller who is not let in."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.answer = web.json_response({"detail": detail}, status=status)


class ParadimeSimulator(System):
    """Simulate Paradime's public API and the store of its artifacts."""

    name = "paradime"
    options_type = ParadimeOptions
    options: ParadimeOptions

    def reset(self) -> None:
        """Return to the state of a fresh start."""
        self._schema = make_schema(self.options.nullable, self.options.lacks)
        self._checked = lru_cache(maxsize=64)(self._check)
        self._schedules = [
            replace(schedule, id=number)
            for number, schedule in enumerate(self.options.schedules, FIRST_SCHEDULE)
        ]
        self._next_schedule = FIRST_SCHEDULE + len(self._schedules)
        self._runs: dict[int, BoltRun] = {}
        self._commands: dict[int, Command] = {}
        self._resources: dict[int, tuple[Command, str]] = {}
        self._next_run, self._next_command, self._next_resource = 76036, 243290, 2023500
        self._key = secrets.token_bytes(16)
        self._defaults = (
            Plan(resource="broken", outcome="failed"),
            Plan(resource="mended", outcome="failed"),
            Plan(resource="slow", duration=6 * self.world.duration),
        )
        self._resolvers = {
            name: self._resolving(name, getattr(self, f"_{name}"))
            for kind in (self._schema.query_type, self._schema.mutation_type)
            if kind is not None
            for name in kind.fields
        }
        self._make_history()

    def routes(self) -> Iterable[Route]:
        """Return the calls that the service knows."""
        return (
            Route("POST", "/api/v1/{token}/graphql", self._operation, self._graphql),
            Route("GET", "/storage/{id}/{path:.+}", "download", self._download),
            Route("GET", "/bolt/run_id/{id}", "page", self._page),
        )

    def runs(self) -> list[dict[str, Json]]:
        """Return the runs that callers started in the form of the control ``/_runs``."""
        now = clock.time()
        return [
            run_entry(
                system=self.name,
                id=run.id,
                resource=run.schedule.slug,
                status=run.state(now) or "null",
                created=run.created,
                started=run.begins if now >= run.begins else None,
                finished=run.ends if run.has_ended(now) else None,
                scope={"workspace": run.schedule.workspace},
                key=None,
                body=run.body,
                cancels=run.cancels,
                cancelled=run.cancelled_at is not None,
            )
            for run in self._runs.values()
            if not run.is_history
        ]

    def expire_tokens(self) -> None:
        """Make all presigned URLs invalid; the API's tokens stay."""
        self._key = secrets.token_bytes(16)

    def error_answer(self, status: int) -> web.Response:
        """Return an error as the API's framework writes it, or a page as a proxy sends it."""
        if status < 500:
            return web.json_response({"detail": f"Simulated answer {status}."}, status=status)
        page = f"<html><head><title>{status} Error</title></head><body><h1>{status} Error</h1></body></html>"
        return web.Response(status=status, text=page, content_type="text/html")

    async def fallback(self, request: web.Request, path: str) -> web.StreamResponse:
        """Answer that there is no such page."""
        return web.json_response({"detail": "Not Found"}, status=404)

    def redacted(self, path: str) -> str:
        """Hide the token of the endpoint."""
        head, token, tail = path.partition("/api/v1/")
        return f"{head}{token}***/{tail.partition('/')[2]}" if token else path

    # The API

    async def _operation(self, request: web.Request) -> str:
        asked = await body_of(request)
        return "invalid" if asked is None else self._checked(asked["query"]).operation

    async def _graphql(self, request: web.Request) -> web.StreamResponse:
        try:
            call = self._admit(request)
        except Denied as denied:
            return denied.answer
        asked = await body_of(request)
        if asked is None:
            return web.json_response({"detail": "The body must be JSON with a query."}, status=400)
        checked = self._checked(asked["query"])
        if checked.document is None or checked.errors:
            errors = [error.formatted for error in checked.errors]
            return web.json_response({"data": None, "errors": errors}, status=self.options.refusal_status)
        result = execute_sync(
            self._schema,
            checked.document,
            root_value=self._resolvers,
            context_value=call,
            variable_values=asked.get("variables"),
            operation_name=asked.get("operationName"),
        )
        if call.hold:
            await asyncio.sleep(call.hold)
        answer = dict(result.formatted)
        if call.adds_empty_errors:
            answer.setdefault("errors", [])
        return web.json_response(answer)

    def _admit(self, request: web.Request) -> Call:
        """Check the credentials and return who calls, in which workspace."""
        options, headers = self.options, request.headers
        if request.match_info["token"] != options.endpoint_token:
            raise Denied(404, "Not Found")
        bearer = headers.get("Authorization", "").removeprefix("Bearer ")
        key, secret = headers.get("X-API-KEY"), headers.get("X-API-SECRET")
        wanted = headers.get("X-Paradime-Workspace")
        workspace = options.workspaces[0][0]
        if bearer and bearer == options.company_token:
            actor = "company-token"
            if not wanted:
                raise Denied(400, "X-Paradime-Workspace is required with a company token.")
            if wanted not in dict(options.workspaces):
                raise Denied(403, "The token has no access to this workspace.")
            workspace = wanted
        elif bearer and bearer == options.workspace_token:
            actor = "workspace-token"
        elif not bearer and (key, secret) == (options.api_key, options.api_secret):
            actor = "api-key"
        else:
            raise Denied(401, "Invalid API credentials.")
        root = request.path.partition("/api/v1/")[0]
        return Call(workspace, actor, str(request.url.origin()) + root)

    def _check(self, text: str) -> Checked:
        try:
            document = parse(text)
        except GraphQLError as error:
            return Checked(None, (), [error])
        fields = tuple(
            node
            for definition in document.definitions
            if isinstance(definition, OperationDefinitionNode)
            for node in definition.selection_set.selections
            if isinstance(node, FieldNode)
        )
        limit = self.options.max_fields
        if limit and len(fields) > limit:
            text = f"Query is too complex: complexity {len(fields)} exceeds the maximum of {limit}."
            return Checked(document, fields, [self._error(text, "QUERY_TOO_COMPLEX")])
        return Checked(document, fields, validate(self._schema, document))

    def _error(self, text: str, code: str) -> GraphQLError:
        return GraphQLError(text, extensions={"code": code} if self.options.error_codes else None)

    def _resolving(self, name: str, method: Callable[..., Json]) -> Callable[..., Json]:
        """Return the resolver of a root field, with the faults that one field can meet."""

        def resolver(info: GraphQLResolveInfo[Call], **arguments: Json) -> Json:
            call = info.context
            fault = self.world.fault_for(self.name, word_of(info.field_nodes[0]), FIELD_FAULTS)
            if fault is None:
                return method(call, **arguments)
            query = self._schema.query_type
            reads = query is not None and name in query.fields
            if fault.fault == "not_ok":
                done = method(call, **arguments) if reads or fault.works_first else blank(info.return_type)
                return {**done, "ok": False}
            done = method(call, **arguments) if fault.works_first or fault.body == [] else None
            if fault.body == []:
                call.adds_empty_errors = True
                return done
            raise self._error(str(fault.body or "Internal server error"), "INTERNAL_SERVER_ERROR")

        return resolver

    # Runs

    def _triggerBoltRun(
        self, call: Call, *, branch: str | None = None, prNumber: int | None = None, **asked: Json
    ) -> Json:
        schedule = self._schedule(call, asked.get("slug"), asked.get("scheduleName"))
        commands, configs = asked.get("commands"), asked.get("commandConfigs")
        goes_on = asked.get("continueOnError")
        if commands is not None and configs is not None:
            raise self._error("Pass at most one of commands and commandConfigs.", "BAD_REQUEST")
        if (configs is not None or goes_on is not None) and not self.options.continue_on_error:
            raise self._error("Continue on error is not enabled for this workspace.", "FORBIDDEN")
        if clock.time() < schedule.accepted_from:
            raise self._missing("Schedule", schedule.slug)
        given = {"branch": branch, "prNumber": prNumber, **asked}
        body = {"mutation": "triggerBoltRun", **{k: v for k, v in given.items() if v is not None}}
        planned = commands or [config["command"] for config in configs or ()] or schedule.commands
        lenient = [config.get("continueOnError") for config in configs or ()] or [None] * len(planned)
        run = self._start(
            call,
            schedule,
            planned,
            body,
            lenient=[bool(goes_on if each is None else each) for each in lenient],
        )
        run.branch, run.pull_request = branch, prNumber
        return {"ok": True, "runId": run.id}

    def _retryBoltRun(self, call: Call, *, scheduleRunId: int) -> Json:
        return self._retry(call, "retryBoltRun", self._run(call, scheduleRunId))

    def _retryAllBoltRun(self, call: Call, *, scheduleRunId: int) -> Json:
        return self._retry(call, "retryAllBoltRun", self._run(call, scheduleRunId))

    def _retryBoltRunFromFailure(self, call: Call, **names: str | None) -> Json:
        schedule = self._schedule(call, **names)
        newest = next(iter(self._runs_of(schedule)), None)
        if newest is None:
            raise self._missing("Run of schedule", schedule.slug)
        return self._retry(call, "retryBoltRunFromFailure", newest)

    def _retry(self, call: Call, mutation: str, old: BoltRun) -> Json:
        now = clock.time()
        whole = mutation == "retryAllBoltRun"
        planned = list(old.planned) if whole else old.unfinished
        if not old.has_ended(now):
            raise self._error(f"Run {old.id} is still running.", "BAD_REQUEST")
        if not planned:
            raise self._error(f"Run {old.id} has no failed command to retry.", "BAD_REQUEST")
        body = {"mutation": mutation, "scheduleRunId": old.id, "slug": old.schedule.slug}
        run = self._start(call, old.schedule, planned, body, setup=SETUP if whole else (), first=(MENDED,))
        run.branch, run.pull_request = old.branch, old.pull_request
        run.parent = old.id if self.options.names_parent else None
        return {"ok": True, "runId": run.id}

    def _cancelBoltRun(self, call: Call, *, scheduleRunId: int) -> Json:
        run = self._run(call, scheduleRunId)
        now = clock.time()
        run.cancels += 1
        if run.has_ended(now) and not self.options.cancel_ended:
            raise self._error(f"Run {run.id} has already ended.", "BAD_REQUEST")
        run.cancel(now + self.world.scaled(self.options.cancelling))
        return {"ok": True}

    def _boltRunStatus(self, call: Call, *, runId: int) -> Json:
        run, now = self._run(call, runId), clock.time()
        # Nothing says that the real service sorts the commands.
        commands = [command for command in reversed(run.commands) if command.has_begun(now)]
        return {
            "ok": True,
            "state": lambda _: run.state(now, look=True),
            "commands": [{"id": command.id, **self._command_row(command, now)} for command in commands],
        }

    def _boltCommand(self, call: Call, *, commandId: int) -> Json:
        command, now = self._command(call, commandId), clock.time()
        found = command.resource_ids if command.has_ended(now) else {}
        return {
            "ok": True,
            "scheduleRunId": command.run_id,
            "resources": [{"id": number, "path": path} for number, path in found.items()],
            **self._command_row(command, now),
        }

    def _boltCommandLogs(self, call: Call, *, commandId: int, cursor: str | None = None) -> Json:
        command, now = self._command(call, commandId), clock.time()
        try:
            starts = [int(part) for part in (cursor or "0:0").split(":")]
            streams = dict(zip(("STDOUT", "STDERR"), starts, strict=True))
        except ValueError:
            raise self._error(f"Invalid cursor {cursor!r}.", "BAD_REQUEST") from None
        lines, ends, is_all = [], [], True
        for stream, start in streams.items():
            printed = command.printed(now, stream)
            shown = printed[start : start + self.options.log_batch]
            lines += [{"stream": stream, "line": line.text} for line in shown]
            ends.append(start + len(shown))
            is_all = is_all and start + len(shown) >= len(printed)
        finished = self.options.logs_finish and is_all and command.has_ended(now)
        return {"lines": lines, "cursor": f"{ends[0]}:{ends[1]}", "finished": finished}

    def _boltResourceUrl(self, call: Call, *, resourceId: int) -> Json:
        command, path = self._resources.get(resourceId, (None, ""))
        if command is None or not command.has_ended(clock.time()):
            raise self._missing("Resource", resourceId)
        self._run(call, command.run_id)
        date = str(int(clock.time()))
        place = f"/storage/{resourceId}/{quote(path)}"
        lifetime = str(self.options.url_seconds)
        query = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Date": date,
            "X-Amz-Expires": lifetime,
            "X-Amz-Signature": self._signature(resourceId, path, date, lifetime),
        }
        words = "&".join(f"{name}={value}" for name, value in query.items())
        return {"ok": True, "url": f"{call.address}{place}?{words}"}

    def _listBoltRuns(self, call: Call, *, offset: int, limit: int, **names: str | None) -> Json:
        if offset < 0 or not 1 <= limit <= LONGEST_BATCH:
            raise self._error("offset must be >= 0 and limit between 1 and 1000.", "BAD_REQUEST")
        found = self._runs_of(self._schedule(call, **names))
        now = clock.time()
        rows = [
            {
                "id": run.id,
                "state": run.state(now),
                "actor": run.actor,
                "actorEmail": None,
                "startDttm": self._time(run.created),
                "endDttm": self._time(run.ends) if run.ends and run.has_ended(now) else self._unset,
                "parentScheduleRunId": run.parent,
                "gitInfo": run.git_info,
            }
            for run in found[offset : offset + limit]
        ]
        return {"ok": True, "runs": rows}

    # Schedules and the rest

    def _boltScheduleName(self, call: Call, **names: str | None) -> Json:
        schedule = self._schedule(call, **names)
        newest = next(iter(self._runs_of(schedule)), None)
        return {
            "ok": True,
            "latestRunId": None if newest is None else newest.id,
            "commands": schedule.commands,
            "owner": schedule.owner,
            "schedule": schedule.schedule,
            "uuid": self._uuid(schedule),
            "source": schedule.source,
            "suspended": schedule.suspended,
        }

    def _listBoltSchedules(
        self, call: Call, *, offset: int, limit: int, showInactive: bool, filter: Json = None
    ) -> Json:
        wanted = (filter or {}).get("suspended")
        found = [
            schedule
            for schedule in self._schedules_of(call.workspace)
            if schedule.active is not showInactive and wanted in (None, schedule.suspended)
        ]
        rows = [self._schedule_row(schedule) for schedule in found[offset : offset + limit]]
        return {"schedules": rows, "totalCount": len(found)}

    def _suspendBoltSchedule(self, call: Call, *, suspend: bool, **names: str | None) -> Json:
        schedule = self._schedule(call, **names)
        if schedule.source == "yaml":
            raise self._error("A schedule of a YAML file cannot be suspended by the API.", "BAD_REQUEST")
        schedule.suspended = suspend
        return {"ok": True}

    def _createBoltSchedule(self, call: Call, *, schedule: Mapping[str, Json]) -> Json:
        (slug,) = self._createScheduleSlugs(call, displayNames=[schedule["name"]])["slugs"]
        made = Schedule(
            slug,
            tuple(schedule["commands"]),
            name=schedule["name"],
            workspace=call.workspace,
            schedule=schedule["schedule"],
            source="api",
            owner=schedule.get("ownerEmail"),
            git_branch=schedule.get("gitBranch") or "main",
            suspended=bool(schedule.get("suspended")),
            id=self._next_schedule,
            accepted_from=clock.time() + self.world.scaled(self.options.slug_delay),
        )
        self._next_schedule += 1
        self._schedules.append(made)
        return {"slug": slug}

    def _deleteBoltSchedule(self, call: Call, *, slug: str) -> Json:
        self._schedules.remove(self._schedule(call, slug))
        return {"ok": True}

    def _createScheduleSlugs(self, call: Call, *, displayNames: list[str]) -> Json:
        taken = {schedule.slug for schedule in self._schedules_of(call.workspace)}
        slugs = []
        for name in displayNames:
            plain = slug_of(name)
            choices = (plain if number == 1 else f"{plain}-{number}" for number in range(1, len(taken) + 2))
            slugs.append(next(slug for slug in choices if slug not in taken))
            taken.add(slugs[-1])
        return {"ok": True, "slugs": slugs}

    def _listAllScheduleNames(self, call: Call) -> Json:
        names = dict(self.options.workspaces)
        rows = [
            {"name": schedule.slug, "workspaceName": names[schedule.workspace]}
            for schedule in self._schedules
        ]
        return {"ok": True, "schedules": rows}

    def _environments(self, call: Call, *, environmentType: str) -> Json:
        row = {"slug": "production", "displayName": "Production", "isDefault": True}
        return {"ok": True, "environments": [row]}

    def _listWorkspaces(self, call: Call) -> Json:
        return {"workspaces": [{"uid": uid, "name": name} for uid, name in self.options.workspaces]}

    def _listUsers(self, call: Call) -> Json:
        invited = {"email": "eve@example.com", "accountType": "BUSINESS", "inviteStatus": "SENT"}
        return {"activeUsers": USERS, "invitedUsers": [invited]}

    # The state behind it

    def _make_history(self) -> None:
        """Make the runs that the vendor's documentation shows, those of the first schedule named daily."""
        daily = next((schedule for schedule in self._schedules if schedule.slug == "daily"), None)
        if daily is None:
            return
        ids = self._next_run, self._next_command, self._next_resource
        for run_id, outcome, command_id, resource_id in HISTORY:
            self._next_run, self._next_command, self._next_resource = run_id, command_id, resource_id
            self._make_run(daily, Plan(outcome=outcome), daily.commands, SETUP, clock.time() - BEFORE, {})
            self._runs[run_id].is_history = True
        self._next_run, self._next_command, self._next_resource = ids

    def _start(
        self,
        call: Call,
        schedule: Schedule,
        planned: Iterable[str],
        body: Json,
        *,
        setup: tuple[str, ...] = SETUP,
        lenient: list[bool] | None = None,
        first: tuple[Plan, ...] = (),
    ) -> BoltRun:
        """Start a run for a caller, if the schedule lets it; ``first`` goes before the usual plans."""
        now = clock.time()
        plan = self.world.plan_for(self.name, (schedule.slug, schedule.name), (*first, *self._defaults))
        busy = next((run for run in self._runs_of(schedule) if not run.has_ended(now)), None)
        if busy is not None and schedule.overlap == "refuse":
            text = f"AlreadyRunningException: schedule {schedule.slug!r} is already running (run {busy.id})"
            raise self._error(text, "ALREADY_RUNNING")
        if busy is not None and schedule.overlap == "skip":
            plan = replace(plan, outcome="SKIPPED", ends_at_once=True)
        run = self._make_run(schedule, plan, tuple(planned), setup, now, body, lenient)
        run.actor = call.actor
        call.hold = max(call.hold, run.hold)
        return run

    def _make_run(
        self,
        schedule: Schedule,
        plan: Plan,
        planned: tuple[str, ...],
        setup: tuple[str, ...],
        created: float,
        body: Json,
        lenient: list[bool] | None = None,
    ) -> BoltRun:
        queued, duration = self.world.seconds_of(plan)
        begins = created + queued + (0 if plan.ends_at_once else self.world.scaled(self.options.starting))
        is_stuck = plan.outcome == "stuck"
        run = BoltRun(
            id=self._next_run,
            schedule=schedule,
            word=OUTCOMES.get(plan.outcome, plan.outcome),
            created=created,
            begins=begins,
            ends=None if is_stuck else begins + duration,
            hold=self.world.scaled(plan.hold),
            body=body,
            planned=planned,
            setup=len(setup),
        )
        last = run.word.split(",")[-1]
        texts = () if last == "SKIPPED" else (*setup, *planned)
        codes: list[int | None] = [0] * len(texts)
        if texts and last == "ERROR":
            # The platform broke while the first of the user's commands ran.
            codes = [0] * len(setup) + [None]
        elif texts and last == "CANCELED":
            codes[-1] = None
        elif texts and last == "FAILED":
            wanted = next((text for text in (schedule.failing, "dbt retry") if text in texts), texts[-1])
            bad = texts.index(wanted)
            codes[bad] = 1
            if not (lenient and bad >= len(setup) and lenient[bad - len(setup)]):
                codes = codes[: bad + 1]
        share = duration / max(len(codes), 1)
        own = min(share, self.world.scaled(self.options.setup))
        rest = (duration - own * len(setup)) / max(len(codes) - len(setup), 1)
        starts = begins
        for number, (text, code) in enumerate(zip(texts, codes, strict=False)):
            takes = own if number < len(setup) else rest
            command = Command(
                id=self._next_command,
                run_id=run.id,
                text=text,
                schedule=schedule,
                begins=starts,
                takes=takes,
                # The last one at the very moment of its run, which a sum of its parts may miss.
                ends=run.ends if number + 1 == len(codes) else starts + takes,
                return_code=code,
                message=plan.message or MESSAGE,
            )
            for path in command.paths:
                command.resource_ids[self._next_resource] = path
                self._resources[self._next_resource] = (command, path)
                self._next_resource += 1
            starts += takes
            self._commands[command.id] = command
            run.commands.append(command)
            self._next_command += 1
        self._runs[run.id] = run
        self._next_run += 1
        return run

    def _missing(self, what: str, name: str | int) -> GraphQLError:
        return self._error(f"{what} {name} not found.", "NOT_FOUND")

    def _run(self, call: Call, run_id: int) -> BoltRun:
        run = self._runs.get(run_id)
        if run is None or run.schedule.workspace != call.workspace:
            raise self._missing("Run", run_id)
        return run

    def _command(self, call: Call, command_id: int) -> Command:
        command = self._commands.get(command_id)
        if command is None or not command.has_begun(clock.time()):
            raise self._missing("Command", command_id)
        self._run(call, command.run_id)
        return command

    def _schedules_of(self, workspace: str) -> list[Schedule]:
        return [schedule for schedule in self._schedules if schedule.workspace == workspace]

    def _schedule(self, call: Call, slug: str | None = None, scheduleName: str | None = None) -> Schedule:
        """Find a schedule by its slug or, in the older argument, by its slug or name."""
        if bool(slug) == bool(scheduleName):
            raise self._error("Pass exactly one of slug and scheduleName.", "BAD_REQUEST")
        for schedule in self._schedules_of(call.workspace):
            if slug == schedule.slug or (scheduleName in (schedule.slug, schedule.name)):
                return schedule
        raise self._missing("Schedule", slug or scheduleName or "")

    def _runs_of(self, schedule: Schedule) -> list[BoltRun]:
        """Return the runs of a schedule, the newest first."""
        return [run for run in reversed(self._runs.values()) if run.schedule is schedule]

    @property
    def _unset(self) -> str | None:
        return None if self.options.null_end else ""

    def _time(self, seconds: float) -> str:
        return iso(seconds) if self.options.zone else naive(seconds)

    def _uuid(self, schedule: Schedule) -> str:
        return hashlib.md5(f"{schedule.workspace}/{schedule.slug}".encode()).hexdigest()

    def _command_row(self, command: Command, now: float) -> dict[str, Json]:
        """Return what both queries tell of a command; its output is made only if it is asked for."""
        ended = command.has_ended(now)

        def output(stream: str) -> str | None:
            return command.output(now, stream) or self._unset if not ended else command.output(now, stream)

        return {
            "command": command.text,
            "startDttm": self._time(command.begins),
            "endDttm": self._time(command.ends) if command.ends and ended else self._unset,
            "stdout": lambda _: output("STDOUT"),
            "stderr": lambda _: output("STDERR"),
            "returnCode": command.return_code if ended else None,
        }

    def _schedule_row(self, schedule: Schedule) -> dict[str, Json]:
        newest = next(iter(self._runs_of(schedule)), None)
        deferral = {"enabled": False, "successfulRunOnly": True}
        return {
            "id": schedule.id,
            "uuid": self._uuid(schedule),
            "name": schedule.name,
            "slug": schedule.slug,
            "schedule": schedule.schedule,
            "owner": schedule.owner,
            "lastRunAt": None if newest is None else self._time(newest.created),
            "lastRunState": None if newest is None else newest.state(clock.time()),
            "nextRunAt": None if schedule.schedule == "OFF" else self._time(clock.time() + BEFORE),
            "source": schedule.source,
            "suspended": schedule.suspended,
            "turboCi": deferral,
            "deferredSchedule": deferral,
            "commands": schedule.commands,
            "gitBranch": schedule.git_branch,
            "slackOn": [""],
            "slackNotify": [""],
            "emailOn": [""],
            "emailNotify": [""],
            "notifications": {"emailNotifications": [], "slackNotifications": [], "msTeamsNotifications": []},
        }

    # The object store and the web interface

    def _signature(self, resource_id: int, *words: str) -> str:
        text = "\n".join((str(resource_id), *words))
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    async def _download(self, request: web.Request) -> web.StreamResponse:
        query, place = request.query, request.match_info
        number = int(place["id"]) if place["id"].isdigit() else 0
        if any(name in request.headers for name in API_HEADERS):
            return refused_by_store(400, "InvalidArgument", "Only one auth mechanism allowed")
        date, lifetime = query.get("X-Amz-Date", ""), query.get("X-Amz-Expires", "")
        wanted = self._signature(number, place["path"], date, lifetime)
        if not hmac.compare_digest(wanted, query.get("X-Amz-Signature", "")):
            return refused_by_store(403, "SignatureDoesNotMatch", "The signature does not match")
        if clock.time() >= int(date) + int(lifetime):
            return refused_by_store(403, "AccessDenied", "Request has expired")
        command, path = self._resources[number]

        async def pieces() -> AsyncIterator[bytes]:
            for piece in command.pieces(path):
                yield piece
                await asyncio.sleep(0)

        headers = {"Content-Length": str(command.size(path)), "Content-Type": "binary/octet-stream"}
        return web.Response(body=pieces(), headers=headers)

    async def _page(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="<!doctype html><title>Paradime</title>", content_type="text/html")


async def body_of(request: web.Request) -> dict[str, Json] | None:
    """Return the body of a GraphQL request; None for one that is none."""
    try:
        body = await request.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) and isinstance(body.get("query"), str) else None


@lru_cache
def make_schema(nullable: bool, lacks: str) -> GraphQLSchema:
    """Return the schema that the options of these names ask for."""
    text = files("airflow_provider_runs.paradime").joinpath("schema.graphql").read_text()
    if not nullable:
        text = text.replace("): BoltRunStatus\n", "): BoltRunStatus!\n")
    schema = build_ast_schema(visit(parse(text), Lacking(lacks)))
    if errors := validate_schema(schema):
        raise ControlError(f"a schema cannot lack {lacks}: {errors[0].message}")
    return schema


class Lacking(Visitor):
    """Leave out of the schema what an older server lacks."""

    def __init__(self, names: str) -> None:
        super().__init__()
        self._names = {name.strip() for name in names.split(",")}

    def enter_field_definition(
        self, node: FieldDefinitionNode, _key: Any, fields: Any, _path: Any, ancestors: Any
    ) -> Any:
        """Leave a field out, unless it is the only one of its type."""
        return REMOVE if len(fields) > 1 and self._is_lacking(node.name, ancestors) else None

    def enter_input_value_definition(
        self, node: InputValueDefinitionNode, _key: Any, _parent: Any, _path: Any, ancestors: Any
    ) -> Any:
        """Leave an argument out, or a field of an input."""
        return REMOVE if self._is_lacking(node.name, ancestors) else None

    def _is_lacking(self, name: NameNode, ancestors: list[Any]) -> bool:
        owner = next(node.name.value for node in reversed(ancestors) if hasattr(node, "name"))
        return bool({name.value, f"{owner}.{name.value}"} & self._names)


def selected(node: FieldNode) -> set[str]:
    """Return the names of the fields that are selected in a field."""
    chosen = node.selection_set.selections if node.selection_set else ()
    return {each.name.value for each in chosen if isinstance(each, FieldNode)}


def word_of(node: FieldNode) -> str:
    """Return the word for what a root field asks, for faults and counts."""
    name = node.name.value
    if name == "boltRunStatus" and "commands" in selected(node):
        return "commands"
    return OPERATIONS.get(name, name)


def blank(kind: Any) -> dict[str, Json]:
    """Return a value of an object type that says nothing."""
    empty = {"Int": 0, "String": "", "Boolean": False}
    found = get_named_type(kind)
    assert is_object_type(found) and isinstance(found, GraphQLObjectType)
    return {
        name: []
        if is_list_type(getattr(each.type, "of_type", each.type))
        else empty.get(get_named_type(each.type).name)
        for name, each in found.fields.items()
        if is_non_null_type(each.type)
    }


def refused_by_store(status: int, code: str, message: str) -> web.Response:
    """Return an error as an object store writes it."""
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return web.Response(status=status, text=head + body, content_type="application/xml")
