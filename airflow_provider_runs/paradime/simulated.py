"""What a simulated Paradime is made of: schedules, runs, their commands, and what dbt writes."""

from __future__ import annotations

import json
import random
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from airflow_provider_runs.paradime import simulated_dbt as dbt

Json = Any

PIECE = 1 << 16
GRAPH = "target/graph.gpickle"
COMMIT = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
HASH = re.compile(r"[0-9a-f]{40}")
MODELS, TESTS = tuple(dbt.MODELS), tuple(dbt.TESTS)
VERBS = {"run": MODELS, "test": TESTS, "build": MODELS + TESTS, "retry": MODELS + TESTS}
BARE_VERBS = ("deps", "clean", "debug")
MESSAGE = 'relation "raw.orders" does not exist'


@dataclass
class Schedule:
    """Describe a Bolt schedule.

    ``failing`` is the command that fails in a run that is planned to fail, by default the last one.
    ``overlap`` says what a trigger does while a run of the schedule goes on: ``allow``, ``refuse`` or
    ``skip`` (a new run that ends in SKIPPED). ``artifacts`` are the binary files that each dbt command
    leaves, as (path, bytes); ``log_lines`` is how many lines each dbt command prints besides its own.
    """

    slug: str
    commands: tuple[str, ...] = ("dbt run", "dbt test")
    name: str = ""
    workspace: str = "ws-main"
    schedule: str = "OFF"
    source: str = "yaml"
    owner: str | None = "ada@example.com"
    git_branch: str = "main"
    failing: str | None = None
    overlap: str = "allow"
    active: bool = True
    suspended: bool = False
    artifacts: tuple[tuple[str, int], ...] = ((GRAPH, 4096),)
    log_lines: int = 0
    id: int = 0
    accepted_from: float = 0.0

    def __post_init__(self) -> None:
        """Name a schedule by its slug if it has no name."""
        self.name = self.name or self.slug


SCHEDULES = (
    Schedule("daily", schedule="0 6 * * *"),
    Schedule("broken", ("dbt seed", "dbt build", "dbt docs generate"), failing="dbt build"),
    Schedule("mended"),
    Schedule("slow"),
    Schedule("one-at-a-time", overlap="refuse"),
    Schedule("skips", overlap="skip"),
    Schedule("large", ("dbt compile",), artifacts=((GRAPH, 50_000_000),)),
    Schedule("nightly-build", ("dbt build",), name="Nightly build", source="ui", suspended=True),
    Schedule("retired", active=False),
    Schedule("daily", schedule="0 7 * * *", workspace="ws-other"),
)


@dataclass(frozen=True)
class Line:
    """Hold one line that a command prints, and when."""

    at: float
    stream: str
    text: str


@dataclass(eq=False)
class Command:
    """Describe one command of a run; ``ends`` is None for one that never does."""

    id: int
    run_id: int
    text: str
    schedule: Schedule
    begins: float
    takes: float
    ends: float | None
    return_code: int | None = 0
    message: str = MESSAGE
    resource_ids: dict[int, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Say whether the command is one that fails."""
        return bool(self.return_code)

    @property
    def verb(self) -> str | None:
        """Return what dbt is asked to do; None for another program."""
        words = self.text.split()
        return words[1] if words[:1] == ["dbt"] and len(words) > 1 else None

    @property
    def paths(self) -> list[str]:
        """Return the paths of the files that the command leaves."""
        if self.verb is None or self.verb in BARE_VERBS:
            return []
        written = ["target/run_results.json"] if self.results else []
        if self.verb == "docs":
            written.append("target/catalog.json")
        return ["target/manifest.json", *written, *(path for path, _ in self.schedule.artifacts)]

    def has_begun(self, now: float) -> bool:
        """Say whether the command has begun."""
        return now >= self.begins

    def has_ended(self, now: float) -> bool:
        """Say whether the command has ended."""
        return self.ends is not None and now >= self.ends

    def stop(self, at: float) -> None:
        """Stop the command if it runs at that time; what has not begun never does."""
        if not self.has_begun(at):
            self.begins, self.return_code = float("inf"), None
        elif not self.has_ended(at):
            self.ends, self.return_code = at, None

    @cached_property
    def results(self) -> list[dict[str, Json]]:
        """Return the results of dbt's nodes, as in ``run_results.json``."""
        names = VERBS.get(self.verb or "", ())
        bad = None
        if self.failed and names:
            bad = "orders" if "orders" in names else names[0]
        found: list[dict[str, Json]] = []
        status = "success"
        for number, name in enumerate(names, 1):
            is_test = name in TESTS
            if name == bad:
                status = "fail" if is_test else "error"
            elif status in ("error", "skipped"):
                status = "skipped"
            else:
                status = "pass" if is_test else "success"
            texts = {"error": f"Database Error in model {name} (models/{name}.sql)\n  {self.message}"}
            texts |= {"fail": f"Got 3 results, configured to fail if != 0\n  {self.message}", "skipped": ""}
            ran = status != "skipped"
            marks = [
                iso(self.begins + self.takes * half / 2 / len(names))
                for half in range(2 * number - 2, 2 * number + 1)
            ]
            found.append(
                {
                    "status": status,
                    "timing": [
                        {"name": phase, "started_at": begun, "completed_at": ended}
                        for phase, begun, ended in zip(
                            ("compile", "execute"), marks[:-1], marks[1:], strict=True
                        )
                        if ran
                    ],
                    "thread_id": "Thread-1",
                    "execution_time": 0.25 * number if ran else 0.0,
                    "adapter_response": {"_message": "SELECT 3", "code": "SELECT", "rows_affected": 3}
                    if status == "success"
                    else {},
                    "message": texts.get(status, "OK"),
                    "failures": (3 if status == "fail" else 0) if is_test and ran else None,
                    "unique_id": dbt.unique_id(name),
                    "compiled": ran,
                    "compiled_code": dbt.compiled(name) if ran else None,
                    "relation_name": None if is_test else dbt.relation(dbt.PROJECT, name),
                }
            )
        return found

    @cached_property
    def lines(self) -> list[Line]:
        """Return all that the command prints in its time."""
        texts = list(self._output())
        step = self.takes / (len(texts) + 1)
        return [
            Line(self.begins + number * step, stream, text + "\n")
            for number, (stream, text) in enumerate(texts, 1)
        ]

    def printed(self, now: float, stream: str | None = None) -> list[Line]:
        """Return what the command has printed, on one stream or both."""
        until = now if self.ends is None else min(now, self.ends)
        return [line for line in self.lines if line.at <= until and stream in (None, line.stream)]

    def output(self, now: float, stream: str) -> str:
        """Return the text that the command has printed on a stream."""
        return "".join(line.text for line in self.printed(now, stream))

    def size(self, path: str) -> int:
        """Return the bytes of a file that the command leaves."""
        size = dict(self.schedule.artifacts).get(path)
        return len(self._document(path)) if size is None else size

    def pieces(self, path: str) -> Iterator[bytes]:
        """Yield the content of a file that the command leaves."""
        size = dict(self.schedule.artifacts).get(path)
        if size is None:
            yield self._document(path)
        else:
            yield from binary(path, size)

    def _document(self, path: str) -> bytes:
        invocation = uuid.uuid5(uuid.NAMESPACE_URL, f"command {self.id}")
        metadata = dbt.written(str(invocation), iso(self.ends or self.begins))
        if path == "target/run_results.json":
            # A retry is an invocation of the command that it repeats.
            which = "build" if self.verb == "retry" else str(self.verb)
            body = dbt.run_results(metadata, which, self.results)
        else:
            body = dbt.catalog(metadata) if path == "target/catalog.json" else dbt.manifest(metadata)
        return json.dumps(body).encode()

    def _output(self) -> Iterator[tuple[str, str]]:
        """Yield (stream, line) of all that the command prints."""
        if self.text.startswith("git "):
            yield "STDERR", "Cloning into 'shop'..."
        elif self.verb is None:
            yield "STDOUT", f"$ {self.text}"
        else:
            yield "STDOUT", f"Running with dbt={dbt.DBT_VERSION}"
            yield "STDOUT", f"Found {len(MODELS)} models, {len(TESTS)} data tests"
        if self.verb is not None:
            for number in range(self.schedule.log_lines):
                yield "STDOUT", f"debug line {number:07d} of what dbt does behind the scenes"
        for number, result in enumerate(self.results, 1):
            yield (
                "STDOUT",
                f"{number} of {len(self.results)} {result['status'].upper()} {result['unique_id']}",
            )
        if not self.failed:
            yield "STDOUT", "Completed successfully"
            return
        told = [result["message"] for result in self.results if result["status"] in ("error", "fail")]
        if not told:
            yield "STDERR", self.message
            return
        yield "STDOUT", f"Completed with {len(told)} error(s):"
        for text in told:
            for line in text.splitlines():
                yield "STDOUT", f"  {line}"
        yield "STDOUT", f"Done. ERROR={len(told)} TOTAL={len(self.results)}"
        yield "STDERR", "dbt ended with errors"


@dataclass(eq=False)
class BoltRun:
    """Describe one run.

    ``word`` is how it ends; commas part the words of successive looks. ``planned`` are the user's commands;
    ``setup`` is how many commands come before those.
    """

    id: int
    schedule: Schedule
    word: str
    created: float
    begins: float
    ends: float | None
    hold: float = 0.0
    body: Json = None
    actor: str = "scheduler"
    branch: str | None = None
    pull_request: int | None = None
    parent: int | None = None
    is_history: bool = False
    planned: tuple[str, ...] = ()
    setup: int = 0
    commands: list[Command] = field(default_factory=list)
    looks: int = 0
    cancels: int = 0
    cancelled_at: float | None = None

    def has_ended(self, now: float) -> bool:
        """Say whether the run has ended."""
        return self.ends is not None and now >= self.ends

    def state(self, now: float, look: bool = False) -> str | None:
        """Return the service's word for the run's state; a look goes on to the next word, if there is one."""
        if not self.has_ended(now):
            return "RUNNING" if now >= self.begins else "STARTING"
        if self.cancelled_at is not None:
            return "CANCELED"
        words = self.word.split(",")
        word = words[min(self.looks, len(words) - 1)]
        self.looks += look
        return None if word == "null" else word

    def cancel(self, at: float) -> None:
        """Let the run end at a time, if it has not by then."""
        if not self.has_ended(at):
            self.ends = self.cancelled_at = at
            for command in self.commands:
                command.stop(at)

    @property
    def unfinished(self) -> list[str]:
        """Return what a retry does: the user's commands that did not end well, those that never ran included.

        dbt takes up a command of its own that failed where it ended.
        """
        ran = self.commands[self.setup :]
        found = []
        for number, text in enumerate(self.planned):
            command = ran[number] if number < len(ran) else None
            if command is None or command.return_code is None:
                found.append(text)
            elif command.failed:
                found.append("dbt retry" if command.verb in VERBS else text)
        return found

    @property
    def git_info(self) -> dict[str, Json]:
        """Return where the code of the run comes from."""
        branch = self.branch or self.schedule.git_branch
        is_hash = HASH.fullmatch(branch) is not None
        number = self.pull_request
        return {
            "branch": None if is_hash else branch,
            "commitHash": branch if is_hash else COMMIT,
            "pullRequestId": None if number is None else str(number),
        }


def binary(path: str, size: int) -> Iterator[bytes]:
    """Yield the content of a binary file of that path and size, the same each time."""
    for at in range(0, size, PIECE):
        yield random.Random(f"{path} {at}").randbytes(min(PIECE, size - at))


def iso(seconds: float) -> str:
    """Return epoch seconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def naive(seconds: float) -> str:
    """Return epoch seconds as the vendor's webhooks write them, without a zone."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def slug_of(name: str) -> str:
    """Return the slug of a display name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
