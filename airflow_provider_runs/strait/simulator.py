"""A simulated Strait: jobs and their runs over HTTP, and live streams of runs.

Jobs of the default project, with the ids ``01900000-0000-7000-8000-000000000001`` and so on:

============  ==============================================================================================
slug          what is special
============  ==============================================================================================
daily         has two outputs
broken        its two attempts fail, and its runs end in ``dead_letter``
mended        ends in ``dead_letter`` at first and completes when it is replayed
flaky         its first two attempts fail, the third completes
slow          takes six times as long and sends ten progress events
agent         sends the chunks of a language model, and has checkpoints, state, usage and tool calls
fan-out       spawns three child runs
relay         is continued by two more runs, one after the other
follower      waits until a run of ``daily`` has completed
strict        refuses a payload without ``day``
worker        its execution mode is ``worker``
large         its result has a megabyte
debounced     a debounce window: triggers answer without an id
batched       a batch window: of three triggers, the last answers an id
deduplicated  a dedup window: the same payload again answers the run there is
limited       takes one trigger a minute
paused        refuses triggers with 409
disabled      refuses triggers with 400
============  ==============================================================================================

How a run ends is the outcome of its plan: ``succeeded`` (completed), ``failed``, ``cancelled`` (canceled),
``stuck`` or a literal word, such as ``dead_letter``, ``paused`` or one that the service does not know. A job
whose attempts are used up ends in ``dead_letter``; ``failed`` is what a job's own code reports. Words parted
by commas, such as ``dead_letter,completed``, are what a run ends in first, and when it is replayed, restarted
or resumed, unless there is a newer plan by then.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from aiohttp import web

from airflow_provider_runs.core import clock
from airflow_provider_runs.simulator.world import (
    STREAM_FAULTS,
    Json,
    Plan,
    Route,
    System,
    run_entry,
)
from airflow_provider_runs.strait.simulated import (
    NANO,
    REPLAYABLE,
    TERMINAL,
    Asked,
    Job,
    Life,
    StraitOptions,
    StraitRun,
    job_id,
    parse_rfc3339,
    payload_hash,
    rfc3339,
    rfc3339_nano,
    uuid7,
    without_empty,
)
from airflow_provider_runs.strait.simulated_gate import Call, Gate, Window, too_many
from airflow_provider_runs.strait.simulated_requests import (
    Refused,
    ids_of,
    moment,
    read_trigger,
    refuse_idle,
    run_filter,
    whole,
)
from airflow_provider_runs.strait.simulated_streams import Streams

__all__ = ["Job", "StraitOptions", "StraitSimulator", "Window"]

OUTCOMES = {"succeeded": "completed", "cancelled": "canceled"}
JSON_TYPES = ("*/*", "application/*", "application/json", "text/csv", "application/x-ndjson")
MAX_REQUEST = 1 << 20
DEFAULT_PAGE = 50
MOST_BULK, MOST_DLQ, MOST_TRIGGERED = 100, 500, 500
WAITING = ("delayed", "queued")

Action = Callable[[web.Request, Call], Awaitable[web.StreamResponse]]


class StraitSimulator(System):
    """Simulate a Strait server."""

    name = "strait"
    options_type = StraitOptions
    options: StraitOptions

    def reset(self) -> None:
        """Return to the state of a fresh start, and end all streams."""
        options = self.options
        jobs = [
            replace(job, id=job.id or job_id(number), project=job.project or options.project_id)
            for number, job in enumerate(options.jobs, 1)
        ]
        self._jobs = {job.id: job for job in jobs}
        runs: dict[str, StraitRun] = {}
        self._runs = runs
        self._going: dict[str, StraitRun] = {}
        self._keys: dict[tuple[str, str], StraitRun] = {}
        self._answers: dict[tuple[str, ...], tuple[float, web.Response | None]] = {}
        self._copies: dict[str, tuple[float, dict[str, Json]]] = {}
        self._pending: dict[tuple[str, str], tuple[float, list[Asked]]] = {}
        self._streams = Streams(
            options,
            self._advance,
            partial(self.world.fault_for, self.name, kinds=STREAM_FAULTS),
            lambda: self._runs is runs,
        )
        self._newest = 0
        self._since = clock.time()
        self._gate = Gate(options, jobs)
        self._defaults = (
            Plan(resource="broken", outcome="dead_letter"),
            Plan(resource="mended", outcome="dead_letter,completed"),
            Plan(resource="slow", duration=6 * self.world.duration),
        )

    def routes(self) -> Iterable[Route]:
        """Return the calls that the server knows."""
        read, write, trigger, jobs = "runs:read", "runs:write", "jobs:trigger", "jobs:read"
        run, job = "/v1/runs/{run}", "/v1/jobs/{job}"
        found = [
            self._route("POST", f"{job}/trigger", "trigger", trigger, self._trigger),
            self._route("POST", f"{job}/trigger/bulk", "bulk_trigger", trigger, self._bulk_trigger),
            self._route("GET", "/v1/jobs", "jobs", jobs, self._list_jobs),
            self._route("GET", job, "job", jobs, self._get_job),
            self._route("GET", "/v1/runs", "list", read, self._list),
            self._route("GET", "/v1/runs/dlq", "dlq", read, self._dlq),
            self._route("POST", "/v1/runs/bulk-cancel", "bulk_cancel", write, self._bulk_cancel),
            self._route("POST", "/v1/runs/bulk-dlq-replay", "bulk_dlq_replay", write, self._bulk_dlq_replay),
            self._route("POST", "/v1/runs/bulk-cancel-all", "bulk_cancel_all", write, self._bulk_cancel_all),
            self._route("POST", "/v1/runs/bulk-replay", "bulk_replay", write, self._bulk_replay),
            self._route("GET", run, "get", read, self._get),
            self._route("DELETE", run, "cancel", write, self._cancel),
            self._route("POST", f"{run}/replay", "replay", write, self._replay),
            self._route("POST", f"{run}/dlq-replay", "dlq_replay", write, self._dlq_replay),
            self._route("GET", f"{run}/children", "children", read, self._children),
            self._route("GET", f"{run}/events", "events", read, self._events),
            self._route("GET", f"{run}/checkpoints", "checkpoints", read, self._checkpoints),
            self._route("GET", f"{run}/outputs", "outputs", read, self._outputs),
            self._route("GET", f"{run}/debug-bundle", "debug_bundle", read, self._debug_bundle),
            self._route("POST", f"{run}/debug", "debug", write, self._debug),
            self._route("GET", f"{run}/lineage", "lineage", read, self._lineage),
            self._route("GET", f"{run}/dependency-status", "dependencies", read, self._dependencies),
            self._route("DELETE", f"{run}/idempotency-key", "reset_key", write, self._reset_key),
            self._route("POST", f"{run}/reschedule", "reschedule", write, self._reschedule),
            self._route("POST", f"{run}/pause", "pause", write, self._pause),
            self._route("POST", f"{run}/resume", "resume", write, self._resume),
            self._route("POST", f"{run}/restart", "restart", write, self._restart),
            self._route("GET", f"{run}/state", "state", read, self._state),
            self._route("GET", f"{run}/resources", "resources", read, self._resources),
            self._route("GET", f"{run}/stream", "stream", read, self._stream_run, streams=True),
            self._route("GET", f"{run}/stream/chunks", "chunks", read, self._stream_chunks, streams=True),
        ]
        if self.options.era == "seed":
            found += [
                self._route("GET", f"{run}/usage", "usage", read, self._usage),
                self._route("GET", f"{run}/tool-calls", "tool_calls", read, self._tool_calls),
            ]
        return [*found, Route("GET", "/health", "health", self._health)]

    def runs(self) -> list[dict[str, Json]]:
        """Return all runs in the form of the control ``/_runs``."""
        self._tick()
        return [
            run_entry(
                system=self.name,
                id=run.id,
                resource=run.job.slug,
                status=run.status,
                created=run.created / NANO,
                started=run.started,
                finished=run.finished,
                scope={"project_id": run.project},
                key=run.key,
                body=run.asked.body,
                cancels=run.cancels,
                cancelled=run.cancelled,
            )
            for run in self._runs.values()
        ]

    def error_answer(self, status: int) -> web.Response:
        """Return an error as the service writes it; a 429 is that of its limiter."""
        if status == 429:
            return self._refusal(too_many(math.ceil(self.options.window)))
        return self._refusal(Refused(status))

    async def fallback(self, request: web.Request, path: str) -> web.StreamResponse:
        """Answer as the router does: 405 where the path is known, else 404."""
        for route in self.routes():
            if re.fullmatch(re.sub(r"{\w+}", "[^/]+", route.path), path):
                return web.Response(status=405)
        return web.Response(status=404, text="404 page not found\n")

    # Every call

    def _route(
        self, method: str, path: str, operation: str, scope: str, action: Action, *, streams: bool = False
    ) -> Route:
        async def handler(request: web.Request) -> web.StreamResponse:
            headers = {"X-API-Version": "v1"}
            try:
                call = self._gate.enter(request, headers)
                call.needs(scope)
                accepted = [
                    word.partition(";")[0].strip() for word in request.headers.get("Accept", "*/*").split(",")
                ]
                if not streams and not set(accepted) & set(JSON_TYPES):
                    raise Refused(406, "not acceptable")
                answer = await action(request, call)
            except Refused as refused:
                answer = self._refusal(refused)
            if not answer.prepared:
                answer.headers.update(headers | self._gate.plan_headers())
            return answer

        return Route(method, path, operation, handler, streams)

    async def _body(self, request: web.Request) -> dict[str, Json]:
        raw = await request.read()
        kind = request.headers.get("Content-Type", "").partition(";")[0].strip()
        if (raw or kind) and kind != "application/json":
            raise Refused(415, "Content-Type must be application/json")
        if not raw:
            return {}
        try:
            body = json.loads(raw[:MAX_REQUEST])
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise Refused(400, "invalid request body")
        return body

    def _refusal(self, refused: Refused) -> web.Response:
        body = refused.body
        if isinstance(body, str):
            return web.Response(status=refused.status, text=body, headers=refused.headers)
        if body is None:
            request_id = uuid7()
            if self.options.era == "seed":
                body = {"error": refused.message, "request_id": request_id}
            else:
                error: dict[str, Json] = {"code": refused.code, "message": refused.message}
                if refused.details:
                    error["details"] = refused.details
                body = {"error": error, "request_id": request_id}
        return web.json_response(body, status=refused.status, headers=refused.headers)

    def _json(self, body: Json, status: int = 200) -> web.Response:
        text = json.dumps(body, separators=(",", ":")).encode()
        if len(text) > self.options.max_response:
            raise Refused(413, "response too large")
        return web.Response(body=text, status=status, content_type="application/json")

    @property
    def _is_seed(self) -> bool:
        return self.options.era == "seed"

    def _need_project(self, request: web.Request) -> None:
        """Refuse a request that does not name its project, as the seed's server does."""
        if self._is_seed and not request.query.get("project_id"):
            raise Refused(400, "project_id is required")

    def _page(
        self,
        request: web.Request,
        rows: Iterable[tuple[int, Callable[[], Json]]],
        *,
        pages: bool = True,
        in_seed: bool = False,
    ) -> web.Response:
        """Answer a page of rows, which are given in their order, each with when it was created.

        :param pages: whether the cursor is looked at
        :param in_seed: whether the seed's server has pages here, too
        """
        query = request.query
        if self._is_seed and not in_seed:
            return self._json([make() for _, make in rows])
        limit = whole(query.get("limit"), DEFAULT_PAGE)
        before = math.inf
        if pages and query.get("cursor"):
            try:
                before = parse_rfc3339(query["cursor"])
            except ValueError:
                raise Refused(400, "invalid cursor") from None
        left = [(created, make) for created, make in rows if created < before]
        shown = left[:limit]
        data = [make() for _, make in shown]
        if self._is_seed:
            return self._json(data)
        body: dict[str, Json] = {"data": data, "has_more": len(left) > limit}
        if body["has_more"]:
            body["next_cursor"] = rfc3339_nano(shown[-1][0])
        return self._json(body)

    def _rows(self, rows: list[dict[str, Json]]) -> Iterator[tuple[int, Callable[[], Json]]]:
        for row in rows:
            yield parse_rfc3339(row["created_at"]), partial(dict, row)

    # Runs as they are

    def _advance(self, run: StraitRun, now: float) -> None:
        """Let everything happen to a run that has come due."""
        if run.status == "waiting" and not run.lives and self._satisfied(run.job):
            run.plan(now)
        run.advance(now)
        if run.is_terminal:
            self._going.pop(run.id, None)

    def _tick(self) -> None:
        """Let everything happen that has come due, to all runs and to windows that collect triggers."""
        now = clock.time()
        for slot, (fires, asked) in list(self._pending.items()):
            if fires <= now:
                self._flush(slot, asked)
        seen: set[str] = set()
        while fresh := [run for run_id, run in self._going.items() if run_id not in seen]:
            for run in fresh:
                seen.add(run.id)
                self._advance(run, now)

    def _find(self, request: web.Request, call: Call) -> StraitRun:
        return self._known(request.match_info["run"], call)

    def _known(self, run_id: Json, call: Call) -> StraitRun:
        run = self._runs.get(run_id) if isinstance(run_id, str) else None
        if run is None or run.project != call.project:
            raise Refused(404, "run not found")
        if run.parent is not None or run.job.needs:
            self._tick()
        self._advance(run, clock.time())
        return run

    def _visible(self, call: Call) -> list[StraitRun]:
        """Return the caller's runs, the newest first."""
        self._tick()
        found = [run for run in self._runs.values() if run.project == call.project]
        return sorted(found, key=lambda run: run.created, reverse=True)

    def _copy(self, run: StraitRun) -> dict[str, Json]:
        """Return a run as GET, DELETE and streams know it: an end is not checked again for a while."""
        now = clock.time()
        until, row = self._copies.get(run.id, (0.0, {}))
        if now < until:
            return row
        row = run.row()
        if run.is_terminal:
            self._copies[run.id] = now + self.options.cache_seconds, row
        return row

    def _satisfied(self, job: Job) -> bool:
        done = {run.job.slug for run in self._runs.values() if run.status == "completed"}
        return set(job.needs) <= done

    def _job(self, request: web.Request, call: Call) -> Job:
        job = self._jobs.get(request.match_info["job"])
        if job is None or job.project != call.project:
            raise Refused(404, "job not found")
        return job

    def _life(self, job: Job) -> tuple[Life, Plan]:
        plan = self.world.plan_for(self.name, job.names, self._defaults)
        words = tuple(OUTCOMES.get(word, word) for word in plan.outcome.split(","))
        return Life(words, *self.world.seconds_of(plan), plan.message), plan

    def _stamp(self, at: float | None = None) -> int:
        """Return when a row is created, later than every row before."""
        moment = clock.time() if at is None else at
        self._newest = max(self._newest + 1000, round(moment * 1_000_000) * 1000)
        return self._newest

    def _make_run(
        self, job: Job, asked: Asked, life: Life, *, at: float | None = None, created: int = 0, **rest: Any
    ) -> StraitRun:
        created = created or self._stamp(at)
        now = clock.time() if at is None else at
        ready = max(now, asked.scheduled or 0)
        lives = rest.pop("lives", 0)
        run = StraitRun(
            job=job,
            project=job.project,
            asked=asked,
            life=life,
            created=created,
            expires=ready + (asked.ttl or job.timeout_secs + 60),
            payload=asked.payload,
            scheduled=asked.scheduled,
            key=asked.key,
            on_begin=self._spawn,
            on_complete=self._continue,
            **rest,
        )
        self._runs[run.id] = self._going[run.id] = run
        if asked.key:
            self._keys[job.id, asked.key] = run
        if job.needs and not self._satisfied(job):
            run.status = "waiting"
        else:
            run.lives = lives
            run.plan(now)
        return run

    def _spawn(self, run: StraitRun, at: float) -> None:
        """Make the children of a run that begins."""
        job = replace(run.job, children=0, continuations=0, progress=0)
        life = Life(("completed",), 0, run.life.duration / 2)
        for number in range(1, run.job.children + 1):
            asked = Asked(payload={"child": number}, tags=run.asked.tags)
            child = self._make_run(job, asked, life, at=at, triggered_by="spawn", parent=run.id)
            run.children.append(child)

    def _continue(self, run: StraitRun, at: float) -> None:
        """Make the run that follows one that has completed, if there is to be one."""
        depth = run.lineage_depth + 1
        if depth <= run.job.continuations:
            rest: dict[str, Any] = {
                "triggered_by": "job_chain",
                "continuation_of": run.id,
                "lineage_depth": depth,
            }
            self._make_run(run.job, replace(run.asked, key=None, body=None), run.life, at=at, **rest)

    # Triggers

    async def _trigger(self, request: web.Request, call: Call) -> web.StreamResponse:
        key = request.headers.get("Idempotency-Key") or request.headers.get("X-Idempotency-Key")
        if not key:
            return await self._start(request, call, None)
        if len(key) > 256:
            raise Refused(400, "idempotency key must be at most 256 characters")
        if not self.options.keeps_answers:
            return await self._start(request, call, key)
        slot = (call.project, call.caller, request.path, key)
        until, known = self._answers.get(slot, (0.0, None))
        if clock.time() < until:
            if known is None:
                raise Refused(409, "a request with this idempotency key is currently being processed")
            headers = {"Idempotency-Replayed": "true"}
            return web.Response(
                body=known.body, status=known.status, content_type="application/json", headers=headers
            )
        until = clock.time() + self.options.key_seconds
        self._answers[slot] = until, None
        try:
            answer = await self._start(request, call, key)
        except BaseException:
            del self._answers[slot]
            raise
        self._answers[slot] = until, answer
        return answer

    async def _start(self, request: web.Request, call: Call, key: str | None) -> web.Response:
        """Start a run, unless there is a reason not to."""
        self._gate.limit(self._gate.triggers, request)
        job = self._job(request, call)
        body = await self._body(request)
        asked = read_trigger(job, body, key)
        refuse_idle(job)
        hashed = payload_hash(asked.payload)
        if body.get("dry_run"):
            return self._json(self._dry_run(job, asked, hashed))
        known = self._keys.get((job.id, key)) if key else None
        if known is not None:
            self._advance(known, clock.time())
            age = clock.time() - (known.finished or math.inf)
            is_over = known.status == "expired" or (known.is_terminal and age > self.options.key_seconds)
            if is_over or known.status == "paused":
                raise Refused(500)  # the insert refuses a second row whose key is taken
            return self._json({"id": known.id, "status": known.status, "idempotency_hit": True})
        self._gate.admit_run(job)
        if job.window == "dedup":
            for run in reversed(self._runs.values()):
                age = clock.time() - run.created / NANO
                if run.job.id == job.id and age < job.window_secs and payload_hash(run.payload) == hashed:
                    return self._json(started(run, hashed), 201)
        elif job.window is not None:
            return self._collect(job, asked, body)
        self._gate.triggered += 1
        life, plan = self._life(job)
        run = self._make_run(job, asked, life)
        answer = self._json(started(run, hashed), 201)
        if plan.hold:
            await asyncio.sleep(self.world.scaled(plan.hold))
        return answer

    def _dry_run(self, job: Job, asked: Asked, hashed: str) -> dict[str, Json]:
        ready = asked.scheduled or clock.time()
        shown = {name: self._job_row(job)[name] for name in ("id", "name", "slug", "execution_mode")}
        shown |= {"timeout_secs": job.timeout_secs, "max_attempts": job.max_attempts, "version": 1}
        answer = {
            "job": shown,
            "payload_hash": hashed,
            "payload": asked.payload,
            "scheduled_at": None if asked.scheduled is None else rfc3339(asked.scheduled),
            "expires_at": rfc3339(ready + (asked.ttl or job.timeout_secs + 60)),
        }
        return without_empty(answer)

    def _collect(self, job: Job, asked: Asked, body: dict[str, Json]) -> web.Response:
        """Take a trigger into the job's debounce or batch window."""
        slot = job.id, str(body.get(f"{job.window}_key") or "")
        self._tick()
        fires, before = self._pending.get(slot, (clock.time() + job.window_secs, []))
        if job.window == "debounce":
            fires = clock.time() + job.window_secs
            self._pending[slot] = fires, [asked]
            return self._json({"debounced": True, "fire_at": rfc3339(fires)}, 201)
        self._pending[slot] = fires, [*before, asked]
        if len(before) + 1 < job.batch_size:
            return self._json({"buffered": True}, 201)
        run = self._flush(slot, [*before, asked])
        return self._json({"id": run.id, "status": run.status, "batch": True}, 201)

    def _flush(self, slot: tuple[str, str], asked: list[Asked]) -> StraitRun:
        """Start the run of a window that is over."""
        del self._pending[slot]
        job, last = self._jobs[slot[0]], asked[-1]
        triggered_by = "manual"
        if job.window == "debounce":
            triggered_by = "debounce"
        else:
            last = replace(last, payload=[each.payload for each in asked])
        self._gate.triggered += 1
        return self._make_run(job, last, self._life(job)[0], triggered_by=triggered_by)

    async def _bulk_trigger(self, request: web.Request, call: Call) -> web.StreamResponse:
        self._gate.limit(self._gate.bulk_triggers, request)
        job = self._job(request, call)
        items = (await self._body(request)).get("items")
        if not isinstance(items, list) or not 1 <= len(items) <= MOST_TRIGGERED:
            raise Refused(
                422, "validation failed", details=[f"items must have 1 to {MOST_TRIGGERED} entries"]
            )
        refuse_idle(job)
        checked = []
        for number, item in enumerate(items):
            if not isinstance(item, dict):
                raise Refused(400, f"item {number}: invalid")
            checked.append(read_trigger(job, item, item.get("idempotency_key"), f"item {number}: "))
        created, batch = self._stamp(), uuid7()
        results = []
        for asked in checked:
            known = self._keys.get((job.id, asked.key)) if asked.key else None
            if known is None:
                self._gate.admit_run(job)
                self._gate.triggered += 1
                known = self._make_run(job, asked, self._life(job)[0], created=created, batch=batch)
                results.append({"id": known.id, "status": known.status, "idempotency_hit": False})
            else:
                self._advance(known, clock.time())
                results.append({"id": known.id, "status": known.status, "idempotency_hit": True})
        new = sum(not result["idempotency_hit"] for result in results)
        body = {"batch_id": batch, "results": results, "total": len(results), "created": new}
        return self._json(body, 201)

    # Jobs and health

    def _job_row(self, job: Job) -> dict[str, Json]:
        since = rfc3339(self._since)
        row = {
            "id": job.id,
            "project_id": job.project,
            "name": job.name or job.slug,
            "slug": job.slug,
            "enabled": job.enabled,
            "paused": job.paused,
            "execution_mode": job.mode,
            "endpoint_url": f"https://jobs.example.com/{job.slug}" if job.mode == "http" else None,
            "max_attempts": job.max_attempts,
            "timeout_secs": job.timeout_secs,
            "tags": dict(job.tags),
            "version": 1,
            "version_id": f"{job.id}-v1",
            "created_at": since,
            "updated_at": since,
        }
        return without_empty(row)

    async def _get_job(self, request: web.Request, call: Call) -> web.StreamResponse:
        return self._json(self._job_row(self._job(request, call)))

    async def _list_jobs(self, request: web.Request, call: Call) -> web.StreamResponse:
        slug = request.query.get("slug")
        rows = [
            self._job_row(job)
            for job in self._jobs.values()
            if job.project == call.project and slug in (None, "", job.slug)
        ]
        return self._page(request, self._rows(rows), pages=False)

    async def _health(self, request: web.Request) -> web.StreamResponse:
        body = {"status": "ok", "version": "simulator", "timestamp": rfc3339(clock.time())}
        return web.json_response(body, headers={"X-API-Version": "v1"})

    # Asking about runs

    async def _get(self, request: web.Request, call: Call) -> web.StreamResponse:
        return self._json(self._copy(self._find(request, call)))

    async def _list(self, request: web.Request, call: Call) -> web.StreamResponse:
        self._need_project(request)
        matches = run_filter(request.query, self._is_seed)
        rows = ((run.created, run.row) for run in self._visible(call) if matches(run))
        return self._page(request, rows, in_seed=True)

    async def _dlq(self, request: web.Request, call: Call) -> web.StreamResponse:
        self._need_project(request)
        rows = ((run.created, run.row) for run in self._visible(call) if run.status == "dead_letter")
        return self._page(request, rows, in_seed=True)

    async def _children(self, request: web.Request, call: Call) -> web.StreamResponse:
        run = self._find(request, call)
        self._tick()
        return self._page(request, ((child.created, child.row) for child in run.children))

    async def _events(self, request: web.Request, call: Call) -> web.StreamResponse:
        run, query = self._find(request, call), request.query
        rows = [
            event
            for event in run.events
            if query.get("level") in (None, "", event.get("level"))
            and query.get("type") in (None, "", event["type"])
        ]
        return self._page(request, self._rows(rows))

    async def _checkpoints(self, request: web.Request, call: Call) -> web.StreamResponse:
        return self._page(request, self._rows(self._find(request, call).checkpoints[::-1]))

    async def _outputs(self, request: web.Request, call: Call) -> web.StreamResponse:
        return self._page(request, self._rows(self._find(request, call).outputs))

    async def _usage(self, request: web.Request, call: Call) -> web.StreamResponse:
        return self._json(self._find(request, call).usage())

    async def _tool_calls(self, request: web.Request, call: Call) -> web.StreamResponse:
        return self._json(self._find(request, call).tool_calls())

    async def _debug_bundle(self, request: web.Request, call: Call) -> web.StreamResponse:
        run = self._find(request, call)
        body = {
            "run": run.row(),
            "events": run.events,
            "checkpoints": run.checkpoints[::-1],
            "outputs": run.outputs,
        }
        if self._is_seed:
            body |= {"usage": run.usage(), "tool_calls": run.tool_calls()}
        else:
            body["resource_snapshots"] = run.resources()
        return self._json(body)

    async def _lineage(self, request: web.Request, call: Call) -> web.StreamResponse:
        self._tick()
        run = self._find(request, call)
        chain = [run]
        while chain[0].continuation_of:
            chain.insert(0, self._runs[chain[0].continuation_of])
        while after := [each for each in self._runs.values() if each.continuation_of == chain[-1].id]:
            chain.append(after[0])
        return self._page(request, ((each.created, each.row) for each in chain), pages=False)

    async def _dependencies(self, request: web.Request, call: Call) -> web.StreamResponse:
        run = self._find(request, call)
        since = rfc3339(self._since)
        rows = [
            {"id": f"dependency-{job.id}", "job_id": run.job.id, "depends_on_job_id": job.id}
            | {"condition": "completed", "created_at": since}
            for job in self._jobs.values()
            if job.slug in run.job.needs
        ]
        body = {"run_id": run.id, "job_id": run.job.id, "status": run.status, "dependencies": rows}
        return self._json({**body, "dependencies_satisfied": self._satisfied(run.job)})

    async def _state(self, request: web.Request, call: Call) -> web.StreamResponse:
        return self._json(self._find(request, call).states())

    async def _resources(self, request: web.Request, call: Call) -> web.StreamResponse:
        run, query = self._find(request, call), request.query
        limit = whole(query.get("limit"), 100, 1000)
        first = moment(query["from"]) if query.get("from") else -math.inf
        last = moment(query["to"]) if query.get("to") else math.inf
        rows = [row for row in run.resources() if first <= moment(row["created_at"]) <= last]
        return self._json(rows[:limit])

    # Changing runs

    def _changed(self, run: StraitRun) -> web.Response:
        """Answer with a run that goes on after a change."""
        self._going[run.id] = run
        return self._json(run.row())

    async def _cancel(self, request: web.Request, call: Call) -> web.StreamResponse:
        run = self._find(request, call)
        run.cancels += 1
        if self._copy(run)["status"] in TERMINAL:
            raise Refused(400, "run already in terminal state")
        run.cancel(clock.time())
        if self._is_seed:
            return web.Response()
        return self._json(run.row())

    async def _bulk_cancel(self, request: web.Request, call: Call) -> web.StreamResponse:
        results = []
        for run_id in ids_of(await self._body(request), MOST_BULK):
            try:
                run = self._known(run_id, call)
                run.cancels += 1
                if run.is_terminal:
                    raise Refused(400, "run already in terminal state")
                run.cancel(clock.time())
                results.append({"id": run_id, "status": "canceled"})
            except Refused as refused:
                results.append({"id": run_id, "status": "failed", "error": refused.message})
        done = sum(result["status"] == "canceled" for result in results)
        failed = len(results) - done
        return self._json({"results": results, "total": len(results), "canceled": done, "failed": failed})

    async def _bulk_cancel_all(self, request: web.Request, call: Call) -> web.StreamResponse:
        self._need_project(request)
        body = await self._body(request)
        wanted = {
            name: body[name] for name in ("job_id", "batch_id", "triggered_by", "status") if body.get(name)
        }
        if not wanted:
            raise Refused(400, "at least one filter is required")
        found = []
        for run in self._visible(call):
            own = {"job_id": run.job.id, "batch_id": run.batch, "triggered_by": run.triggered_by}
            own["status"] = run.status
            if run.status in WAITING and not run.begun and all(own[name] == wanted[name] for name in wanted):
                run.cancels += 1
                run.cancel(clock.time())
                found.append(run.id)
        if self._is_seed:
            results = [{"id": run_id, "status": "canceled"} for run_id in found]
            total = len(found)
            return self._json({"results": results, "total": total, "canceled": total, "failed": 0})
        return self._json({"canceled": len(found), "run_ids": found or None})

    def _replayed(self, run: StraitRun, checkpoint: dict[str, Json] | None = None) -> StraitRun:
        """Make the new run that replays an old one."""
        if run.status not in REPLAYABLE:
            raise Refused(400, "run is not replayable")
        if not run.job.enabled:
            raise Refused(400, "job is disabled")
        payload = run.payload if checkpoint is None else checkpoint["state"]
        asked = replace(run.asked, payload=payload, key=None, scheduled=None)
        life, _ = self._life(run.job)
        lives = run.lives if life == run.life else 0
        return self._make_run(run.job, asked, life, lives=lives, debug_mode=checkpoint is not None)

    async def _replay(self, request: web.Request, call: Call) -> web.StreamResponse:
        run = self._find(request, call)
        await self._body(request)
        number = request.query.get("from_checkpoint")
        checkpoint = None
        if number is not None and not self._is_seed:
            wanted = whole(number, 0, math.inf)
            checkpoint = next((each for each in run.checkpoints if each["sequence"] == wanted), None)
            if checkpoint is None:
                raise Refused(404, "checkpoint not found")
        return self._json(self._replayed(run, checkpoint).row(), 200 if self._is_seed else 201)

    async def _bulk_replay(self, request: web.Request, call: Call) -> web.StreamResponse:
        results, new = [], []
        for run_id in ids_of(await self._body(request), MOST_BULK):
            result = {"original_run_id": run_id, "status": "failed"}
            try:
                run = self._known(run_id, call)
                result["status"] = "skipped"
                new.append(self._replayed(run))
                result |= {"new_run_id": new[-1].id, "status": "replayed"}
            except Refused as refused:
                result["error"] = refused.message
            results.append(result)
        if self._is_seed:
            return self._json([run.row() for run in new])
        return self._json({"results": results, "total": len(results), "replayed": len(new)})

    async def _dlq_replay(self, request: web.Request, call: Call) -> web.StreamResponse:
        run = self._find(request, call)
        if run.status != "dead_letter":
            raise Refused(409, "run is not in the dead letter queue")
        run.again(clock.time(), self._life(run.job)[0])
        return self._changed(run)

    async def _bulk_dlq_replay(self, request: web.Request, call: Call) -> web.StreamResponse:
        body = await self._body(request)
        if bool(body.get("run_ids")) == bool(body.get("project_id")):
            raise Refused(
                422, "validation failed", details=["exactly one of run_ids and project_id is required"]
            )
        if body.get("run_ids"):
            runs = [self._known(run_id, call) for run_id in ids_of(body, MOST_DLQ)]
        elif body["project_id"] != call.project:
            raise Refused(404, "project not found")
        else:
            limit = body.get("limit", 100)
            if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST_DLQ:
                raise Refused(422, "validation failed", details=[f"limit must be between 1 and {MOST_DLQ}"])
            runs = [run for run in self._visible(call) if run.status == "dead_letter"][:limit]
        dead = [run for run in runs if run.status == "dead_letter"]
        if not dead:
            raise Refused(409, "no runs to replay")
        for run in dead:
            run.again(clock.time(), self._life(run.job)[0])
            self._changed(run)
        return self._json({"replayed": [run.row() for run in dead], "count": len(dead)})

    async def _debug(self, request: web.Request, call: Call) -> web.StreamResponse:
        run = self._find(request, call)
        run.debug_mode = (await self._body(request)).get("debug_mode") is True
        return web.Response() if self._is_seed else self._json({"status": "ok"})

    async def _reset_key(self, request: web.Request, call: Call) -> web.StreamResponse:
        run = self._find(request, call)
        if run.status in ("dequeued", "executing", "waiting"):
            raise Refused(404, "run not found")
        if run.key is not None:
            self._keys.pop((run.job.id, run.key), None)
            run.key = None
        return self._json({"status": "reset", "run_id": run.id})

    async def _reschedule(self, request: web.Request, call: Call) -> web.StreamResponse:
        run, body = self._find(request, call), await self._body(request)
        if not body.get("scheduled_at"):
            raise Refused(422, "validation failed", details=["scheduled_at is required"])
        scheduled = moment(body["scheduled_at"])
        if run.status not in WAITING or run.begun:
            raise Refused(404, "run not found")
        run.scheduled, run.lives = scheduled, max(0, run.lives - 1)
        run.expires += max(0.0, scheduled - clock.time())
        if "payload" in body and not self._is_seed:
            run.payload = body["payload"]
        run.plan(clock.time())
        return self._changed(run)

    async def _pause(self, request: web.Request, call: Call) -> web.StreamResponse:
        run = self._find(request, call)
        if run.status == "executing":
            run.end("paused", clock.time())
        elif run.status != "paused":
            raise Refused(400, "only an executing run can be paused")
        return self._json(run.row())

    async def _resume(self, request: web.Request, call: Call) -> web.StreamResponse:
        run = self._find(request, call)
        if run.status != "paused":
            raise Refused(400, "run is not paused")
        run.again(clock.time(), attempt=run.attempt)
        return self._changed(run)

    async def _restart(self, request: web.Request, call: Call) -> web.StreamResponse:
        run = self._find(request, call)
        await self._body(request)
        if run.status not in ("executing", "paused"):
            raise Refused(400, "only an executing or paused run can be restarted")
        run.again(clock.time(), attempt=run.attempt)
        return self._changed(run)

    # Streams

    async def _stream_run(self, request: web.Request, call: Call) -> web.StreamResponse:
        return await self._stream(request, call, "run")

    async def _stream_chunks(self, request: web.Request, call: Call) -> web.StreamResponse:
        return await self._stream(request, call, "chunks")

    async def _stream(self, request: web.Request, call: Call, channel: str) -> web.StreamResponse:
        run = self._find(request, call)
        if self._copy(run)["status"] in TERMINAL:
            raise Refused(410, "run already in terminal state")
        return await self._streams.answer(request, run, channel)


def started(run: StraitRun, hashed: str) -> dict[str, Json]:
    """Return the answer to a trigger."""
    return {"id": run.id, "status": run.status, "payload_hash": hashed, "idempotency_hit": False}
