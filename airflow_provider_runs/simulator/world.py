"""What the simulated systems share: plans, faults, the clock and the record of what was asked."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from aiohttp import web

from airflow_provider_runs.core import clock

Json = Any
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Rule = TypeVar("Rule", "Plan", "Fault")

FIELD_FAULTS = frozenset({"errors", "not_ok"})
STREAM_FAULTS = frozenset({"silence", "flood", "split", "lose", "error_frame", "cut_frame", "end"})
FAULTS = (
    "status",
    "reset_before",
    "reset_after",
    "hang",
    "html",
    "empty",
    "not_json",
    "slow",
    "cut_body",
    "two_lengths",
    *sorted(FIELD_FAULTS),
    *sorted(STREAM_FAULTS),
)
CALL_FAULTS = frozenset(FAULTS) - FIELD_FAULTS - STREAM_FAULTS
ACTING_FAULTS = frozenset({"reset_after", "empty", "not_json", "slow", "cut_body", "two_lengths"})
INNER_FAULT: ContextVar[str | None] = ContextVar("inner_fault", default=None)
"""What the handler of a request has met on its own, in a field of a document or on a stream."""
NOTE: ContextVar[Callable[[int | None], None] | None] = ContextVar("note", default=None)
"""What notes the status of the request that is handled, for a handler whose answer goes on for long."""
LOG_SIZE = 1000


class ControlError(ValueError):
    """Say what is wrong with a plan, a fault or an option."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Describe how runs of a resource behave.

    ``outcome`` is ``succeeded``, ``failed``, ``cancelled``, ``stuck`` (never ends) or a literal word of the
    service. ``resource`` is a glob. ``duration``, ``queued`` and ``hold`` are seconds, divided by the speed.
    """

    system: str = "*"
    resource: str = "*"
    duration: float | None = None
    queued: float = 0
    outcome: str = "succeeded"
    message: str | None = None
    hold: float = 0
    ends_at_once: bool = False
    times: int | None = None


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Describe how calls of an operation go wrong.

    ``acts`` says whether the service does the work (starts the run) before its answer goes wrong; by default
    it does for ``reset_after``, ``slow``, ``empty``, ``not_json``, ``cut_body`` and ``two_lengths``. Seconds
    here are never scaled.
    """

    fault: str
    system: str = "*"
    operation: str = "*"
    status: int | None = None
    retry_after: str | None = None
    body: Json = None
    seconds: float | None = None
    times: int | None = None
    probability: float = 1
    for_seconds: float | None = None
    acts: bool | None = None

    def __post_init__(self) -> None:
        """Refuse a kind of fault that does not exist."""
        if self.fault not in FAULTS:
            raise ControlError(f"fault must be one of {', '.join(FAULTS)}, not {self.fault!r}")

    @property
    def works_first(self) -> bool:
        """Say whether the service does the work before the answer goes wrong."""
        if self.acts is None or self.fault in ("reset_before", "cut_body"):
            return self.fault in ACTING_FAULTS
        return self.acts


NUMBERS = {"duration", "queued", "hold", "times", "seconds", "probability", "for_seconds", "status"}


def read_rule(kind: type[Rule], body: Json) -> Rule:
    """Make a plan or a fault from a JSON object, naming what does not fit."""
    if not isinstance(body, Mapping):
        raise ControlError("a JSON object is expected")
    given = dict(body)
    if kind is Plan and "error" in given:
        given["message"] = given.pop("error")
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(given) - known):
        raise ControlError(f"unknown: {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    for name in NUMBERS & given.keys():
        value = given[name]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
            raise ControlError(f"{name} must be a number that is not negative")
    try:
        return kind(**given)
    except TypeError as error:
        raise ControlError(str(error)) from error


class Rules(Generic[Rule]):
    """Keep plans or faults; the newest one that matches is used."""

    def __init__(self) -> None:
        self._entries: list[tuple[Rule, float | None]] = []
        self._left: dict[int, int] = {}

    def add(self, rule: Rule, until: float | None = None) -> None:
        """Add a rule, to be forgotten at the time ``until``."""
        self._entries.append((rule, until))
        if rule.times is not None:
            self._left[id(rule)] = rule.times

    def clear(self) -> int:
        """Forget all rules and say how many there were."""
        count = len(self._entries)
        self._entries.clear()
        self._left.clear()
        return count

    def take(self, matches: Callable[[Rule], bool]) -> Rule | None:
        """Return the newest rule that matches and count the use."""
        now = clock.time()
        for rule, until in reversed(self._entries):
            left = self._left.get(id(rule))
            if left == 0 or (until is not None and now >= until) or not matches(rule):
                continue
            if left is not None:
                self._left[id(rule)] = left - 1
            return rule
        return None


class World:
    """Hold what all simulated systems of one server share."""

    def __init__(self, *, speed: float = 1.0, duration: float = 5.0) -> None:
        if speed <= 0:
            raise ControlError("speed must be more than 0")
        self.speed = speed
        self.duration = duration
        self.plans: Rules[Plan] = Rules()
        self.faults: Rules[Fault] = Rules()
        self.counts: Counter[tuple[str, str, int | None]] = Counter()
        self.log: deque[dict[str, Json]] = deque(maxlen=LOG_SIZE)

    def scaled(self, seconds: float) -> float:
        """Turn simulated seconds into real ones."""
        return seconds / self.speed

    def plan_for(self, system: str, names: Iterable[str], defaults: Iterable[Plan] = ()) -> Plan:
        """Return the plan for a new run of the resource that goes by these names."""
        names = tuple(names)

        def matches(plan: Plan) -> bool:
            return fnmatchcase(system, plan.system) and any(fnmatchcase(n, plan.resource) for n in names)

        return self.plans.take(matches) or next(filter(matches, defaults), Plan())

    def seconds_of(self, plan: Plan) -> tuple[float, float]:
        """Return the real seconds that a run of the plan waits and works."""
        if plan.ends_at_once:
            return 0.0, 0.0
        return self.scaled(plan.queued), self.scaled(
            self.duration if plan.duration is None else plan.duration
        )

    def fault_for(self, system: str, operation: str, kinds: frozenset[str] = CALL_FAULTS) -> Fault | None:
        """Return the fault that this call meets, if any.

        :param kinds: the faults that it can meet: a field of a GraphQL request and a stream meet their own
        """

        def matches(fault: Fault) -> bool:
            return (
                fault.fault in kinds
                and fnmatchcase(system, fault.system)
                and fault.operation in ("*", operation)
                and random.random() < fault.probability
            )

        found = self.faults.take(matches)
        if found is not None:
            INNER_FAULT.set(found.fault)
        return found

    def add_fault(self, fault: Fault) -> None:
        """Add a fault; its ``for_seconds`` count from now."""
        self.faults.add(fault, None if fault.for_seconds is None else clock.time() + fault.for_seconds)

    def record(
        self, system: str, operation: str, method: str, path: str, status: int | None, fault: str | None
    ) -> None:
        """Note a request that was answered, or cut (no status)."""
        self.counts[system, operation, status] += 1
        self.log.append(
            {
                "time": iso(clock.time()),
                "system": system,
                "operation": operation,
                "method": method,
                "path": path,
                "status": status,
                "fault": fault,
            }
        )

    def requests(self) -> dict[str, Json]:
        """Return the counts and the last requests."""
        counts = [
            {"system": system, "operation": operation, "status": status, "count": count}
            for (system, operation, status), count in self.counts.items()
        ]
        return {"counts": counts, "last": list(self.log)}

    def clear_requests(self) -> None:
        """Forget the counts and the last requests."""
        self.counts.clear()
        self.log.clear()


@dataclass(frozen=True)
class TimeLine:
    """Describe when a run waits, works and ends; ``ends`` is None for a run that never does."""

    created: float
    begins: float
    ends: float | None

    @classmethod
    def of(cls, world: World, plan: Plan) -> TimeLine:
        """Make the time line of a run that is created now."""
        queued, duration = world.seconds_of(plan)
        begins = clock.time() + queued
        return cls(begins - queued, begins, None if plan.outcome == "stuck" else begins + duration)

    def has_ended(self) -> bool:
        """Say whether the run has ended."""
        return self.ends is not None and clock.time() >= self.ends


class Route(NamedTuple):
    """Name one call of a service; ``operation`` may depend on the request.

    The answer of one that ``streams`` goes on for long: faults that spoil an answer come in its place.
    """

    method: str
    path: str
    operation: str | Callable[[web.Request], Awaitable[str]]
    handler: Handler
    streams: bool = False


@dataclass(frozen=True)
class NoOptions:
    """Say that a simulated service has neither switches nor credentials."""


class System(ABC):
    """Simulate one service: its routes, its runs and its error shapes.

    A subclass names its options (a frozen dataclass with defaults), which are the service's switches and
    credentials, and makes its whole state in ``reset``.
    """

    name: ClassVar[str]
    options_type: ClassVar[type[Any]] = NoOptions

    def __init__(self, world: World, options: Any) -> None:
        self.world = world
        self.options = options
        self.reset()

    @abstractmethod
    def reset(self) -> None:
        """Return to the state of a fresh start."""

    @abstractmethod
    def routes(self) -> Iterable[Route]:
        """Return the calls that the service knows."""

    @abstractmethod
    def runs(self) -> list[dict[str, Json]]:
        """Return all runs in the form of the control ``/_runs``."""

    def expire_tokens(self) -> None:  # noqa: B027
        """Make all issued tokens invalid, where the service issues any."""

    @abstractmethod
    def error_answer(self, status: int) -> web.Response:
        """Return the service's usual answer with this HTTP status."""

    async def fallback(self, request: web.Request, path: str) -> web.StreamResponse:
        """Answer a request that fits no route; ``path`` lacks the system's prefix."""
        return self.error_answer(404)

    def redacted(self, path: str) -> str:
        """Return the path without secrets."""
        return path


def run_entry(
    *,
    system: str,
    id: str | int,
    resource: str,
    status: str,
    created: float,
    started: float | None,
    finished: float | None,
    scope: dict[str, Json],
    key: str | None,
    body: Json,
    cancels: int = 0,
    cancelled: bool = False,
) -> dict[str, Json]:
    """Return one run in the form of the control ``/_runs``."""
    return {
        "system": system,
        "id": id,
        "resource": resource,
        "status": status,
        "created_at": iso(created),
        "started_at": None if started is None else iso(started),
        "finished_at": None if finished is None else iso(finished),
        "scope": scope,
        "key": key,
        "body": body,
        "cancels": cancels,
        "cancelled": cancelled,
    }


def read_options(kind: type[Any], given: Mapping[str, Json]) -> Any:
    """Make a system's options, naming what does not exist."""
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(given) - known):
        raise ControlError(f"unknown option: {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    return kind(**given)


def iso(seconds: float) -> str:
    """Return epoch seconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def as_json(rule: Plan | Fault) -> dict[str, Json]:
    """Return a plan or a fault as JSON."""
    return asdict(rule)
