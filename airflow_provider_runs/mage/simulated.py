"""What a simulated Mage is made of: its project, the runs of its blocks and the texts that it writes."""

from __future__ import annotations

import json
import re
import traceback
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NamedTuple

Json = Any
Work = Callable[[str, dict[str, Json], int], Iterable[str]]

BLOCK_ACTIVE = ("initial", "queued", "running")
REPO_PATH = "/home/src/demo"
RAISED = re.compile(r"(?P<kind>[A-Za-z_]\w*(?:Error|Exception)): (?P<text>.+)", re.DOTALL)
MACHINE = {
    "cpu": 0.5,
    "cpu_total": 2,
    "cpu_usage": 0.25,
    "memory": 1200.0,
    "memory_total": 24000.0,
    "memory_usage": 0.05,
}


@dataclass(frozen=True)
class Pipeline:
    """Describe a pipeline: its blocks as (uuid, type) or (uuid, type, uuids of the blocks upstream).

    A block that does not name them has the one before it upstream. ``failing`` is the block that raises in a
    run that is planned to fail, by default the last one. ``work`` stands for the code of all blocks: given a
    block, the variables of the run and how often the block was at work in it, it returns what the block
    prints, or raises.
    """

    uuid: str
    blocks: tuple[tuple[str, str] | tuple[str, str, tuple[str, ...]], ...] = ()
    failing: str | None = None
    work: Work | None = None

    @cached_property
    def types(self) -> dict[str, str]:
        """Return the type of every block."""
        return {block[0]: block[1] for block in self.blocks}

    @cached_property
    def upstream(self) -> dict[str, tuple[str, ...]]:
        """Return the blocks upstream of every block."""
        found: dict[str, tuple[str, ...]] = {}
        before: tuple[str, ...] = ()
        for block in self.blocks:
            found[block[0]] = block[2] if len(block) == 3 else before
            before = (block[0],)
        return found

    def descendants(self, block: str) -> set[str]:
        """Return a block and all that depend on it; none for a block that does not exist."""
        found = {block} & self.upstream.keys()
        for other, upstream in self.upstream.items():
            if found & set(upstream):
                found.add(other)
        return found


@dataclass
class Schedule:
    """Describe a trigger of a pipeline."""

    id: int
    pipeline_uuid: str
    name: str
    token: str
    type: str = "api"
    status: str = "active"
    settings: dict[str, Json] = field(default_factory=dict)


TWO_BLOCKS = (("load_x", "data_loader"), ("transform_y", "transformer"))
PIPELINES = (
    Pipeline("example", TWO_BLOCKS),
    Pipeline(
        "broken",
        (("load_x", "data_loader"), ("bang_y", "transformer"), ("export_z", "data_exporter")),
        failing="bang_y",
    ),
    Pipeline("slow", TWO_BLOCKS),
    Pipeline("empty"),
    Pipeline("example_pipeline", (("load_titanic", "data_loader"),)),
)
SCHEDULES = (
    Schedule(1, "example", "from_airflow", "tok123"),
    Schedule(2, "broken", "from_airflow", "tokbroken"),
    Schedule(3, "slow", "from_airflow", "tokslow"),
    Schedule(4, "example", "nightly", "toknightly", type="time"),
    Schedule(5, "example", "paused", "tokpaused", status="inactive"),
    Schedule(6, "slow", "impatient", "tokimpatient", settings={"timeout": 3}),
    Schedule(7, "example", "one_at_a_time", "toksingle", settings={"pipeline_run_limit": 1}),
    Schedule(8, "empty", "from_airflow", "tokempty"),
    Schedule(9, "three", "from_airflow", "tokgone"),
    Schedule(71, "example_pipeline", "late forest", "4506463a01944ef492f70005996dac1a"),
)


class LogLine(NamedTuple):
    """Hold one line of a log: when, how grave, what, and the error that it tells of."""

    at: float
    level: str
    message: str
    tags: dict[str, Json]
    error: dict[str, Json] | None = None


@dataclass
class BlockRun:
    """Describe the run of one block.

    ``begins`` and ``ends`` belong to the process that works on it, which a retry does not stop: it ends the
    block whatever the status says by then.
    """

    id: int
    uuid: str
    created: float
    updated: float
    status: str = "initial"
    started: float | None = None
    completed: float | None = None
    metrics: dict[str, Json] | None = None
    begins: float | None = None
    ends: float | None = None
    at_work: bool = False
    attempts: int = 0
    raised: str | None = None
    log: list[LogLine] = field(default_factory=list)

    @property
    def tags(self) -> dict[str, Json]:
        """Return what names the block in a log."""
        return {"block_run_id": self.id, "block_uuid": self.uuid}

    def set(self, status: str, at: float) -> None:
        """Change the status."""
        self.status, self.updated = status, at

    def stop(self) -> None:
        """Let no process work on the block."""
        self.begins = self.ends = None
        self.at_work = False

    def begin(self, at: float) -> None:
        """Let the process begin; only a first start, and one after an error, is noted."""
        self.at_work = True
        self.attempts += 1
        if self.started is None or self.metrics:
            self.started = at
        self.set("running", at)
        self.log.append(LogLine(at, "INFO", "Start executing block with BlockExecutor.", self.tags))

    def end(self, at: float) -> None:
        """Let the process end; an error stays in the metrics even when a later try goes well."""
        self.stop()
        self.metrics = self.metrics or {}
        if self.raised is None:
            self.completed = at
            self.set("completed", at)
            self.log.append(LogLine(at, "INFO", "Finish executing block with BlockExecutor.", self.tags))
            return
        self.set("failed", at)
        error = block_error(self.uuid, self.raised)
        self.metrics = {**self.metrics, "error": error}
        attempt = "Exception thrown when attempting to run <function BlockExecutor.execute>, attempt 1 of 1"
        self.log.append(LogLine(at, "WARNING", attempt, self.tags, error))
        self.log.append(LogLine(at, "EXCEPTION", f"Failed to execute block {self.uuid}", self.tags, error))


def log_text(lines: Iterable[LogLine], shared: dict[str, Json], last: dict[str, Json]) -> str:
    """Return a log; under the line of an exception stands its traceback, which is no JSON."""
    written = []
    for line in sorted(lines, key=lambda line: line.at):
        entry = line.tags | shared | last
        entry |= {
            "level": line.level,
            "message": line.message,
            "timestamp": line.at,
            "uuid": uuid.uuid4().hex,
        }
        below = ""
        if line.error is not None:
            trace = line.error["message"]
            entry |= {"error": trace, "error_stack": stack(), "error_stacktrace": line.error["error"]}
            below = trace if line.level == "EXCEPTION" else ""
        written.append(
            f"{datetime.fromtimestamp(line.at, UTC):%Y-%m-%dT%H:%M:%S} {json.dumps(entry)}\n{below}"
        )
    return "".join(written)


def stack(depth: int = 22) -> list[str]:
    """Return stack frames such as Mage puts into its errors."""
    return [
        f'  File "/usr/lib/python3.10/site-packages/server/layer_{n}.py", line {40 + 7 * n}, in call_{n}\n'
        f"    return await self.handler(request, **self.options[{n}])\n"
        for n in range(depth)
    ]


def traceback_of(kind: str, text: str) -> str:
    """Return a traceback that ends in the exception's type and text."""
    return "Traceback (most recent call last):\n" + "".join(stack(12)) + f"{kind}: {text}\n"


def block_error(block: str, message: str) -> dict[str, Json]:
    """Return the error of a block that raised; a message may begin with the type of the error."""
    text, kind = message, "RuntimeError"
    if named := RAISED.fullmatch(text):
        kind, text = named["kind"], named["text"]
    own = f'  File "{REPO_PATH}/blocks/{block}.py", line 7, in {block}\n    raise {kind}({text!r})\n'
    trace = "Traceback (most recent call last):\n" + "".join(stack(6)) + own + f"{kind}: {text}\n"
    return {"error": text, "errors": stack(), "message": trace}


def error_text(error: Exception) -> str:
    """Return the type and text of an exception."""
    return "".join(traceback.format_exception_only(error)).strip()
