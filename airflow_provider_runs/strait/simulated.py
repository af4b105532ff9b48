"""What a simulated Strait is made of: options, jobs, runs and what becomes of them, and what they leave."""

from __future__ import annotations

import bisect
import hashlib
import json
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from airflow_provider_runs.core import clock
from airflow_provider_runs.simulator.world import ControlError, Json

TERMINAL = frozenset(
    {"completed", "failed", "timed_out", "crashed", "system_failed", "canceled", "expired", "dead_letter"}
)
ACTIVE = frozenset({"delayed", "queued", "dequeued", "executing", "waiting", "paused", "replay_staged"})
REPLAYABLE = frozenset({"failed", "timed_out", "crashed", "system_failed"})
ERRORS = {
    "failed": ("job reported a failure", "unknown"),
    "dead_letter": ("endpoint returned 500", "server"),
    "timed_out": ("execution timed out", "timeout"),
    "crashed": ("heartbeat lost", "transient"),
    "system_failed": ("dispatch failed", "transient"),
    "canceled": ("canceled by user", None),
    "expired": ("run expired", None),
}
"""What a run that ended badly says if its plan says nothing: the error and its class."""
TOLD = frozenset({"completed", "failed", "dead_letter", "timed_out", "system_failed"})
"""The ends that reach a stream; the service ends runs in all other ways without a word."""
PREPARING = 0.25  # of the time until a run begins, at its end: it is dequeued
BACKOFF = 0.2  # of an attempt that is followed by another, at its end: the run is queued again
NANO = 10**9
ENDED_KEPT = 86400


@dataclass(frozen=True)
class Job:
    """Describe a job.

    ``failing_attempts`` fail before one does what the plan of the run says. ``progress`` is how many progress
    events an attempt sends; ``chunks`` are the texts of a language model that it sends, which also give a row
    of usage and one of tool calls. ``result`` is what a completed run answers, by default its payload;
    ``result_bytes`` adds as much. ``children`` runs are spawned when the run begins and end with it at the
    latest; ``continuations`` runs follow one after the other. ``needs`` are the slugs of jobs that must have
    completed once before a run leaves ``waiting``. ``requires`` are the names that a payload must have.
    ``window`` is what a trigger within ``window_secs`` of the one before meets: ``debounce``, ``batch``
    (at most ``batch_size`` triggers) or ``dedup`` (of the same payload). ``rate_limit`` is the most triggers
    a minute.
    """

    slug: str
    id: str = ""
    name: str = ""
    project: str = ""
    mode: str = "http"
    max_attempts: int = 1
    timeout_secs: int = 300
    failing_attempts: int = 0
    progress: int = 2
    chunks: tuple[str, ...] = ()
    checkpoints: int = 0
    result: Json = None
    result_bytes: int = 0
    outputs: tuple[tuple[str, Json], ...] = ()
    state: tuple[tuple[str, Json], ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    children: int = 0
    continuations: int = 0
    needs: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    window: str | None = None
    window_secs: float = 5.0
    batch_size: int = 3
    rate_limit: int = 0
    paused: bool = False
    enabled: bool = True

    @property
    def names(self) -> tuple[str, str, str]:
        """Return what plans may call the job."""
        return self.id, self.slug, self.name or self.slug


JOBS = (
    Job("daily", name="Daily report", max_attempts=3, outputs=(("report", {"rows": 3}), ("ok", True))),
    Job("broken", max_attempts=2),
    Job("mended"),
    Job("flaky", max_attempts=3, failing_attempts=2),
    Job("slow", progress=10),
    Job("agent", chunks=("Hel", "lo", "!"), checkpoints=3, state=(("step", 3),)),
    Job("fan-out", children=3),
    Job("relay", continuations=2),
    Job("follower", needs=("daily",)),
    Job("strict", requires=("day",)),
    Job("worker", mode="worker"),
    Job("large", result_bytes=1_000_000),
    Job("debounced", window="debounce"),
    Job("batched", window="batch"),
    Job("deduplicated", window="dedup"),
    Job("limited", rate_limit=1),
    Job("paused", paused=True),
    Job("disabled", enabled=False),
    Job("foreign", project="project-other"),
)


@dataclass(frozen=True)
class StraitOptions:
    """Hold the credentials and switches of the simulated Strait.

    Seconds here are never shortened. ``era`` is ``today`` or ``seed``: the shapes of the answers. ``scopes``
    are those of the API key, parted by commas; all if there are none.

    All limits but that of streams are off (0) unless set. The service has: ``rate_limit`` 100 requests per
    ``window`` and address, ``trigger_limit`` 10 and ``bulk_trigger_limit`` 5 per ``window``, ``key_limit``
    1000 per ``window`` (the plan's), ``login_limit`` 10 failures until it locks an address out (for 1, 5 and
    15 windows). ``monthly_runs`` is the plan's quota, beyond which a trigger answers 402. ``max_streams`` are
    the streams of a project at a time; ``keepalive``, ``stream_seconds`` (until the service ends a stream)
    and ``subscribe_delay`` (between the head of a stream's answer and what it carries) are theirs.

    ``cache_seconds`` is how long GET, DELETE and the streams of a run go on with an end that one has seen.
    ``key_seconds`` is how long an idempotency key is known; ``keeps_answers`` whether its first answer is
    repeated. ``max_response`` are the bytes of the longest answer.
    """

    api_key: str = "strait_simulator"
    internal_secret: str = "strait-internal"
    project_id: str = "project-simulator"
    era: str = "today"
    scopes: str = ""
    rate_limit: int = 0
    trigger_limit: int = 0
    bulk_trigger_limit: int = 0
    key_limit: int = 0
    login_limit: int = 0
    window: float = 60.0
    monthly_runs: int = 0
    max_streams: int = 100
    keepalive: float = 15.0
    stream_seconds: float = 1800.0
    subscribe_delay: float = 0.0
    cache_seconds: float = 300.0
    key_seconds: float = ENDED_KEPT
    keeps_answers: bool = True
    max_response: int = 16 << 20
    jobs: tuple[Job, ...] = field(default=JOBS, metadata={"cli": False})

    def __post_init__(self) -> None:
        """Refuse an era that does not exist."""
        if self.era not in ("today", "seed"):
            raise ControlError(f"era must be today or seed, not {self.era!r}")


@dataclass(frozen=True)
class Life:
    """Say what becomes of a run: the words that its lives end in, one after the other, and what it says."""

    words: tuple[str, ...]
    queued: float
    duration: float
    message: str | None = None


@dataclass(frozen=True)
class Asked:
    """Hold what a trigger asked for."""

    payload: Json = None
    tags: dict[str, str] = field(default_factory=dict)
    scheduled: float | None = None
    priority: int = 0
    ttl: float = 0
    concurrency_key: str | None = None
    key: str | None = None
    body: Json = None


@dataclass(eq=False)
class StraitRun:
    """Describe one run, and the script of what is to happen to it, by time.

    ``frames`` are what its streams carry. ``on_begin`` and ``on_complete`` are told when it comes to that.
    """

    job: Job
    project: str
    asked: Asked
    life: Life
    created: int
    expires: float
    id: str = field(default_factory=lambda: uuid7())
    triggered_by: str = "manual"
    status: str = "queued"
    attempt: int = 1
    started: float | None = None
    finished: float | None = None
    next_retry: float | None = None
    scheduled: float | None = None
    error: str | None = None
    error_class: str | None = None
    result: Json = None
    payload: Json = None
    debug_mode: bool = False
    parent: str | None = None
    continuation_of: str | None = None
    lineage_depth: int = 0
    batch: str | None = None
    key: str | None = None
    lives: int = 0
    begun: bool = False
    cancels: int = 0
    cancelled: bool = False
    events: list[dict[str, Json]] = field(default_factory=list)
    checkpoints: list[dict[str, Json]] = field(default_factory=list)
    outputs: list[dict[str, Json]] = field(default_factory=list)
    samples: list[float] = field(default_factory=list)
    frames: list[tuple[str, dict[str, Json]]] = field(default_factory=list)
    children: list[StraitRun] = field(default_factory=list)
    on_begin: Callable[[StraitRun, float], None] = lambda run, at: None
    on_complete: Callable[[StraitRun, float], None] = lambda run, at: None
    _script: list[tuple[float, int, Callable[[float], None]]] = field(default_factory=list)
    _steps: int = 0

    # The script

    @property
    def next_at(self) -> float:
        """Return when something happens to the run of its own accord."""
        return self._script[0][0] if self._script else float("inf")

    @property
    def is_terminal(self) -> bool:
        """Say whether the run has ended."""
        return self.status in TERMINAL

    def advance(self, now: float) -> None:
        """Let everything happen that has come due."""
        while self._script and self._script[0][0] <= now:
            at, _, step = self._script.pop(0)
            step(at)

    def plan(self, now: float, life: Life | None = None) -> None:
        """Write the script of the run's first life, or of its next one.

        :param life: another life than so far; the next word of the life so far without
        """
        if life is not None and life != self.life:
            self.life, self.lives = life, 0
        word = self.life.words[min(self.lives, len(self.life.words) - 1)]
        if self.lives and len(self.life.words) == 1 and word in ("paused", "waiting"):
            word = "completed"
        self.lives += 1
        self._script.clear()
        ready = now
        if self.scheduled is not None and self.scheduled > now:
            ready = self.scheduled
            self._at(ready, lambda at: self._become("queued"))
        self.status = "queued" if ready == now else "delayed"
        begins = ready + self.life.queued
        if not self.begun:
            self._at(self.expires, self._expire)
        if word == "expired":
            self._at(begins + self.life.duration, lambda at: self.end("expired", at))
            return
        self._at(begins - PREPARING * self.life.queued, lambda at: self._become("dequeued"))
        attempts = self.job.max_attempts
        if word != "dead_letter":
            attempts = min(self.job.failing_attempts + 1, attempts)
        part = self.life.duration / attempts
        for number in range(attempts):
            is_last = number + 1 == attempts
            takes = part * (1 if is_last else 1 - BACKOFF)
            self._plan_attempt(begins, takes)
            if not is_last:
                self._at(begins + takes, partial(self._retry, begins + part))
            elif word != "stuck":
                self._at(begins + takes, lambda at: self.end(word, at, self.life.message))
            begins += part

    def _plan_attempt(self, begins: float, takes: float) -> None:
        """Write the script of one attempt, without its end."""
        self._at(begins, self._begin)
        job = self.job

        def spread(count: int, step: Callable[[int, float], None]) -> None:
            for number in range(1, count + 1):
                at = begins + takes * number / (count + 1)
                self._at(at, partial(step, number))

        spread(job.progress, self._progress)
        spread(job.checkpoints, self._checkpoint)
        spread(len(job.chunks), self._chunk)

    def _at(self, at: float, step: Callable[[float], None]) -> None:
        self._steps += 1
        bisect.insort(self._script, (at, self._steps, step), key=lambda entry: entry[:2])

    # What happens

    def _become(self, status: str) -> None:
        self.status = status

    def _expire(self, at: float) -> None:
        if self.status in ("delayed", "queued") and not self.begun:
            self.end("expired", at)

    def _begin(self, at: float) -> None:
        self._move("executing", at)
        self.started, self.next_retry = at, None
        self.samples.append(at)
        if not self.begun:
            self.begun = True
            self.on_begin(self, at)

    def _progress(self, number: int, at: float) -> None:
        percent = round(100 * number / (self.job.progress + 1))
        self.add_event(at, "log", "info", f"step {number} of {self.job.progress}", None)
        self.add_event(at, "progress", None, f"{percent}% done", {"percent": percent})

    def _checkpoint(self, number: int, at: float) -> None:
        self.checkpoints.append(
            {
                "id": uuid7(),
                "run_id": self.id,
                "sequence": len(self.checkpoints) + 1,
                "source": "sdk",
                "state": {"step": number},
                "created_at": rfc3339(at),
            }
        )

    def _chunk(self, number: int, at: float) -> None:
        chunks = self.job.chunks
        data: dict[str, Json] = {"type": "stream_chunk", "chunk": chunks[number - 1], "stream_id": "default"}
        data |= {"done": number == len(chunks), "timestamp": rfc3339(at)}
        self.frames.append(("chunks", data))

    def _retry(self, again: float, at: float) -> None:
        self.add_event(at, "error", "error", ERRORS["dead_letter"][0], {"attempt": self.attempt})
        self._move("queued", at)
        self.attempt += 1
        self.next_retry = again

    def end(self, word: str, at: float, message: str | None = None) -> None:
        """Bring the run to a status where it stays until somebody changes that."""
        self._script.clear()
        self.samples.append(at)
        if word not in TERMINAL:
            self.status = word
            return
        if word == "completed":
            self.result = self._result()
            for key, value in sorted(self.job.outputs):
                row = {"id": uuid7(), "run_id": self.id, "output_key": key, "value": value}
                self.outputs.append({**row, "created_at": rfc3339(at)})
        else:
            error, self.error_class = ERRORS[word]
            self.error = message or error
            if word in TOLD:
                self.add_event(at, "error", "error", self.error, {"attempt": self.attempt})
        self.finished = at
        self._move(word, at)
        if word == "completed":
            self.on_complete(self, at)

    def _result(self) -> Json:
        job = self.job
        found = self.payload if job.result is None else job.result
        if job.result_bytes:
            found = {"result": found, "padding": "x" * job.result_bytes}
        return found

    def cancel(self, at: float) -> None:
        """Cancel the run and its children; what has ended stays as it is."""
        self.cancelled = True
        self.end("canceled", at)
        for child in self.children:
            child.advance(at)
            if not child.is_terminal:
                child.cancel(at)

    def again(self, at: float, life: Life | None = None, attempt: int = 1) -> None:
        """Queue the run again, under the same id."""
        self.attempt = attempt
        self.started = self.finished = self.next_retry = self.scheduled = None
        self.error = self.error_class = self.result = None
        self.outputs.clear()
        self.plan(at, life)

    def _move(self, status: str, at: float) -> None:
        """Change the status, and tell of it where the service does."""
        before, self.status = self.status, status
        self.add_event(at, "state_change", None, f"{before} -> {status}", {"from": before, "to": status})
        if status in TERMINAL and status not in TOLD:
            return
        frame: dict[str, Json] = {"type": "status_change", "run_id": self.id}
        if status == "failed":  # told by the job's own code
            frame |= {"from": before, "to": status, "error": self.error, "timestamp": rfc3339(at)}
        elif status in TERMINAL and self.job.mode == "worker":
            frame = {"run_id": self.id, "status": status}
        else:
            frame |= {"job_id": self.job.id, "project_id": self.project, "from": before, "to": status}
            frame["timestamp"] = rfc3339(at)
        self.frames.append(("run", frame))

    def add_event(self, at: float, kind: str, level: str | None, message: str, data: Json) -> None:
        """Note an event; streams carry those of the job's own code."""
        event = {"id": uuid7(), "run_id": self.id, "type": kind, "level": level, "message": message}
        event |= {"data": data, "created_at": rfc3339(at)}
        self.events.append(without_empty(event))
        if kind in ("log", "progress"):
            frame = {"type": "event", "event_type": kind, "run_id": self.id, "level": level or "info"}
            self.frames.append(("run", {**frame, "message": message, "data": data, "timestamp": rfc3339(at)}))

    # How it is shown

    def row(self) -> dict[str, Json]:
        """Return the run as the service shows it; what is empty is left out."""
        asked, begun = self.asked, self.started
        row = {
            "id": self.id,
            "job_id": self.job.id,
            "project_id": self.project,
            "status": self.status,
            "attempt": self.attempt,
            "payload": self.payload,
            "result": self.result,
            "error": self.error,
            "error_class": self.error_class,
            "triggered_by": self.triggered_by,
            "scheduled_at": time_or_none(self.scheduled),
            "started_at": time_or_none(begun),
            "finished_at": time_or_none(self.finished),
            "heartbeat_at": time_or_none(begun) if self.status == "executing" else None,
            "next_retry_at": time_or_none(self.next_retry),
            "expires_at": rfc3339(self.expires),
            "parent_run_id": self.parent,
            "idempotency_key": self.key,
            "job_version_id": f"{self.job.id}-v1",
            "continuation_of": self.continuation_of,
            "tags": asked.tags,
            "batch_id": self.batch,
            "concurrency_key": asked.concurrency_key,
            "execution_mode": self.job.mode,
            "execution_trace": self._trace(),
        }
        always = {
            "priority": asked.priority,
            "job_version": 1,
            "debug_mode": self.debug_mode,
            "lineage_depth": self.lineage_depth,
            "created_at": rfc3339_nano(self.created),
        }
        return without_empty(row) | always

    def _trace(self) -> dict[str, int] | None:
        if self.started is None or self.finished is None:
            return None
        waited = max(0, round(self.started * 1000) - self.created // 1_000_000)
        return {"queue_wait_ms": waited, "total_ms": round((self.finished - self.started) * 1000)}

    def usage(self) -> list[dict[str, Json]]:
        """Return the rows of a language model's use."""
        if not (self.job.chunks and self.started):
            return []
        row = {"id": f"usage-{self.id}", "run_id": self.id, "provider": "example", "model": "small"}
        tokens = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15, "cost_microusd": 90}
        return [{**row, **tokens, "created_at": rfc3339(self.started)}]

    def tool_calls(self) -> list[dict[str, Json]]:
        """Return the rows of a language model's tool calls."""
        if not (self.job.chunks and self.started):
            return []
        row = {"id": f"tool-{self.id}", "run_id": self.id, "tool_name": "search", "input": {"q": "hello"}}
        rest = {"output": {"hits": 1}, "duration_ms": 40, "status": "completed"}
        return [{**row, **rest, "created_at": rfc3339(self.started)}]

    def states(self) -> list[dict[str, Json]]:
        """Return the rows of what the job's code keeps between attempts."""
        if self.started is None:
            return []
        updated = rfc3339(self.started)
        return [
            {"run_id": self.id, "state_key": key, "value": value, "updated_at": updated}
            for key, value in self.job.state
        ]

    def resources(self) -> list[dict[str, Json]]:
        """Return the measured samples, the newest first."""
        numbers = {"cpu_percent": 12.5, "memory_mb": 64.0, "memory_limit_mb": 512.0}
        numbers |= {"network_rx_bytes": 2048, "network_tx_bytes": 1024}
        return [
            {"id": f"sample-{number}-{self.id}", "run_id": self.id, **numbers, "created_at": rfc3339(at)}
            for number, at in reversed(list(enumerate(self.samples)))
        ]


def job_id(number: int) -> str:
    """Return the id of the job of this number."""
    return f"01900000-0000-7000-8000-{number:012}"


def uuid7() -> str:
    """Return a UUID of version 7: its first bits are the time."""
    milliseconds = int(clock.time() * NANO) // 1_000_000
    number = (milliseconds << 80) | secrets.randbits(80)
    number = number & ~(0xF << 76) | (7 << 76)
    return str(uuid.UUID(int=number & ~(3 << 62) | (2 << 62)))


def payload_hash(payload: Json) -> str:
    """Return the hash that the service shows of a payload: of its JSON with sorted keys."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def without_empty(row: dict[str, Json]) -> dict[str, Json]:
    """Leave out what is empty, as the service does."""
    return {name: value for name, value in row.items() if value is not None and value not in ("", {})}


def rfc3339(seconds: float) -> str:
    """Return epoch seconds as RFC 3339 in UTC."""
    return rfc3339_nano(round(seconds * 1_000_000) * 1000)


def rfc3339_nano(nanoseconds: int) -> str:
    """Return epoch nanoseconds as RFC 3339 in UTC, without zeros at the end, as Go does."""
    seconds, rest = divmod(nanoseconds, NANO)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"


def time_or_none(seconds: float | None) -> str | None:
    """Return epoch seconds as RFC 3339; None for none."""
    return None if seconds is None else rfc3339(seconds)


def parse_rfc3339(text: str) -> int:
    """Return the epoch nanoseconds of an RFC 3339 time.

    :raises ValueError: it is none
    """
    head, dot, tail = text.partition(".")
    digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
    parsed = datetime.fromisoformat(head + tail[len(digits) :] if dot else head)
    if parsed.tzinfo is None or text[10:11] not in ("T", "t") or len(digits) > 9 or (dot and not digits):
        raise ValueError(f"{text!r} is no RFC 3339 time")
    return int(parsed.timestamp()) * NANO + int(digits.ljust(9, "0") or 0)
