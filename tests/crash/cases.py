"""The cases of the crash bench: system x mode x point x kind."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_runs.provider_info import SYSTEMS
from tests.crash.systems import TARGETS, Target, Unmarked

MODES = ("worker", "deferred")
START_POINTS = ("before_record", "before_request", "sent", "answered", "unrecorded", "recorded")
POINTS = {
    "worker": (*START_POINTS, "waiting"),
    "deferred": (*START_POINTS, "before_defer", "resumed"),
}
ALONE = {"SIGKILL": 12.0, "eviction": 12.0, "worker SIGKILL": 35.0, "zombie": 40.0}
"""What strikes one task only, with the seconds that its run takes: longer than until a retry looks at it."""
LATE_ZOMBIE = "zombie, late"
"""It wakes when the new try has ended."""
PEOPLE = ("mark failed", "mark success", "clear", "fail DAG run", "dagrun_timeout")
STATES = {
    "mark failed": {"failed"},
    "mark success": {"success"},
    "clear": {"success"},
    "fail DAG run": {"failed"},
    "dagrun_timeout": {"skipped"},
}
BETWEEN_TRIES = ", up for retry"
"""Where a person acts when one try was killed and the next has not begun."""
TRIGGERER = ("triggerer SIGKILL", "triggerer SIGTERM", "triggerer freeze")
LOST = {
    "reset before": {"fault": "reset_before"},
    "reset after": {"fault": "reset_after"},
    "hang": {"fault": "hang", "seconds": 20},
    "503": {"fault": "status", "status": 503},
    "504, run started": {"fault": "status", "status": 504, "acts": True},
}
LATE = {"lands 5 s late": 5.0, "lands 20 s late": 20.0}
"""A request that the service handles only seconds after its sender was killed."""
OUTAGES = {
    "API server outage": (
        ("worker", "before_request"),
        ("worker", "unrecorded"),
        ("worker", "waiting"),
        ("deferred", "before_request"),
        ("deferred", "unrecorded"),
        ("deferred", "before_defer"),
        ("deferred", "deferred"),
        ("deferred", "resumed"),
    ),
    "service outage": (
        ("worker", "before_request"),
        ("worker", "sent"),
        ("worker", "waiting"),
        ("deferred", "before_request"),
        ("deferred", "sent"),
        ("deferred", "before_defer"),
        ("deferred", "deferred"),
        ("deferred", "resumed"),
    ),
}
NO_TRIGGERER = "no triggerer"
STAGES = ("alone", "lost", *TRIGGERER, NO_TRIGGERER, *OUTAGES)
"""Cases of one stage are under way at the same time: what happens strikes all of them, or only one task."""


FIXED = (
    # Each point, on the worker and deferred, and each way to die.
    "chalk-worker-before_record-SIGKILL",
    "mage-worker-before_request-SIGKILL",
    "paradime-worker-sent-SIGKILL-adopting",
    "strait-worker-answered-SIGKILL",
    "mage-worker-unrecorded-eviction",
    "chalk-worker-recorded-worker_SIGKILL",
    "strait-worker-waiting-zombie",
    "mage-worker-before_request-zombie_late",
    "strait-deferred-before_record-eviction",
    "chalk-deferred-before_request-SIGKILL",
    "mage-deferred-sent-worker_SIGKILL",
    "paradime-deferred-answered-SIGKILL",
    "strait-deferred-unrecorded-SIGKILL",
    "mage-deferred-recorded-SIGKILL",
    "paradime-deferred-before_defer-zombie",
    "chalk-deferred-resumed-eviction",
    # Each thing that a person does.
    "mage-worker-waiting-mark_failed",
    "strait-deferred-deferred-mark_success",
    "paradime-deferred-deferred-clear",
    "strait-worker-sent-clear",
    "chalk-worker-waiting-fail_DAG_run",
    "mage-deferred-deferred-dagrun_timeout",
    "paradime-worker-waiting-clear_up_for_retry",
    # A start whose answer is lost, or that lands late.
    "chalk-worker-before_request-reset_before",
    "strait-deferred-before_request-reset_after",
    "paradime-worker-before_request-504_run_started-unmarked",
    "mage-worker-sent-lands_5_s_late",
    # What strikes all tasks at once.
    "chalk-deferred-deferred-triggerer_SIGKILL",
    "strait-deferred-before_defer-triggerer_SIGKILL",
    "mage-deferred-run_ends_meanwhile-triggerer_SIGKILL",
)
"""The names of the cases that stand for all of them, for a run that must be short."""


@dataclass(frozen=True)
class Expected:
    """How a case must end.

    :param runs: how many remote runs may have been started.
    :param states: the task's final states.
    :param cancelled: whether the run that stood when a person acted is cancelled; None: it may be. Nothing
        else ever is.
    :param goes_on: whether that run may go on, as documented, though no task waits for it.
    """

    runs: frozenset[int] = frozenset({1})
    states: frozenset[str] = frozenset({"success"})
    cancelled: bool | None = False
    goes_on: bool = False


@dataclass(frozen=True)
class Case:
    """One task, what happens to it and how it must end.

    :param number: from 1, the same in every selection.
    :param inside: what the task process itself does at the point, see :data:`tests.crash.points.SUFFER`.
    :param plan: how the simulator plays the case's first run.
    """

    number: int
    stage: str
    system: str
    mode: str
    point: str
    kind: str
    inside: str = "none"
    variant: str = "plain"
    plan: dict[str, Any] = field(default_factory=dict)
    expected: Expected = Expected()

    @property
    def id(self) -> str:
        """The case's name, which is also what its runs are known by."""
        words = [self.system, self.mode, self.point, self.kind]
        if self.variant in ("kept", "brief", "alarmed", *TARGETS[self.system].unmarked):
            words.append(self.variant)
        return "-".join(words).replace(" ", "_").replace(",", "")

    @property
    def dag_id(self) -> str:
        """The DAG that the case is a run of."""
        return f"{self.system}_{self.mode}_{self.variant}"

    @property
    def is_person(self) -> bool:
        """Tell whether a person ends the task, so that its run may have to be cancelled."""
        return self.act in PEOPLE

    @property
    def act(self) -> str:
        """What a person does, or what else happens."""
        return self.kind.removesuffix(BETWEEN_TRIES)


def all_cases() -> list[Case]:
    """Return every case, for every system."""
    found: list[dict[str, Any]] = []
    for system in SYSTEMS:
        found += [
            {"system": system, **one}
            for one in (*_alone_cases(TARGETS[system]), *_lost_cases(), *_group_cases())
        ]
        found += [{"system": system, **one} for one in _person_cases(TARGETS[system])]
        found += [{"system": system, **one} for one in _unmarked_cases(TARGETS[system].unmarked)]
    return [Case(number=number, **one) for number, one in enumerate(found, 1)]


def _alone_cases(target: Target) -> Iterable[dict[str, Any]]:
    def sent_late(point: str, kind: str) -> dict[str, Any]:
        """Return what is expected of a request that wakes after a retry has seen that there is no run."""
        is_late = point == "before_request" and kind in ("zombie", LATE_ZOMBIE)
        return {"expected": Expected(runs=frozenset({2}))} if is_late and target.unmarked else {}

    for kind, duration in ALONE.items():
        for mode, points in POINTS.items():
            for point in points:
                # Where execute_complete is struck, the run has ended and nothing has to be outlived.
                plan = {"duration": 3.0 if point == "resumed" else duration}
                if point == "sent":
                    plan["hold"] = 3.0
                yield {
                    "stage": "alone",
                    "mode": mode,
                    "point": point,
                    "kind": kind,
                    "inside": kind,
                    "plan": plan,
                    **sent_late(point, kind),
                }

    for point in ("before_request", "sent", "waiting"):
        yield {
            "stage": "alone",
            "mode": "worker",
            "point": point,
            "kind": LATE_ZOMBIE,
            "inside": "zombie",
            "plan": {"duration": 12.0, **({"hold": 3.0} if point == "sent" else {})},
            **sent_late(point, LATE_ZOMBIE),
        }
    # The newer try has left the run going, or still waits for it when the old one's alarm rings.
    yield {
        "stage": "alone",
        "mode": "worker",
        "point": "waiting",
        "kind": LATE_ZOMBIE,
        "inside": "zombie",
        "variant": "brief",
        "plan": {"duration": 120.0},
        "expected": Expected(states=frozenset({"failed"}), goes_on=True),
    }
    yield {
        "stage": "alone",
        "mode": "worker",
        "point": "waiting",
        "kind": "zombie",
        "inside": "zombie",
        "variant": "alarmed",
        "plan": {"duration": 33.0},
    }


def _lost_cases() -> Iterable[dict[str, Any]]:
    for kind in LOST:
        # The start is the same in both modes.
        for mode in MODES if kind == "reset after" else MODES[:1]:
            yield {"stage": "lost", "mode": mode, "point": "before_request", "kind": kind, "inside": "hold"}
    for kind in LATE:
        yield {"stage": "lost", "mode": "worker", "point": "sent", "kind": kind, "inside": "SIGKILL"}


def _group_cases() -> Iterable[dict[str, Any]]:
    for kind in TRIGGERER:
        for point, inside, duration in (
            ("deferred", "none", 45.0),
            ("run ends meanwhile", "none", 12.0),
            ("before_defer", "hold", 45.0),
        ):
            yield {
                "stage": kind,
                "mode": "deferred",
                "point": point,
                "kind": kind,
                "inside": inside,
                "plan": {"duration": duration},
            }
    yield {
        "stage": "triggerer freeze",
        "mode": "deferred",
        "point": "timeout is over meanwhile",
        "kind": "triggerer freeze",
        "variant": "impatient",
        "plan": {"duration": 120.0},
        "expected": Expected(states=frozenset({"failed"}), goes_on=True),
    }
    for kind, places in OUTAGES.items():
        for mode, point in places:
            is_outside = point in ("waiting", "deferred", "sent")
            yield {
                "stage": kind,
                "mode": mode,
                "point": point,
                "kind": kind,
                "inside": "none" if is_outside else "hold",
                "variant": "patient" if kind == "API server outage" else "plain",
                "plan": {
                    "duration": 3.0 if point == "resumed" else 45.0,
                    **({"hold": 6.0} if point == "sent" else {}),
                },
            }


def _person_cases(target: Target) -> Iterable[dict[str, Any]]:
    can_cancel = target.can_cancel

    def one(mode: str, point: str, kind: str, variant: str = "plain", stage: str = "alone") -> dict[str, Any]:
        cancelled: bool | None = can_cancel and variant != "kept"
        if cancelled and target.unmarked and point == "sent":
            # Where the answer comes too late for the last seconds of a killed process, nothing tells the run
            # yet. It is left to the next try, if there is one.
            cancelled = None
        runs = {1}
        if kind == "clear":
            # Where the old run cannot be cancelled, the cleared task may go on with it instead.
            runs = {2} if cancelled or (mode == "deferred" and point != "sent") else {1, 2}
        return {
            "stage": stage,
            "mode": mode,
            "point": point,
            "kind": kind,
            "variant": variant,
            "plan": {"duration": 90.0, **({"hold": 6.0} if point == "sent" else {})},
            "expected": Expected(
                runs=frozenset(runs),
                states=frozenset(STATES[kind]),
                cancelled=cancelled,
                goes_on=cancelled is False or (cancelled is None and kind != "clear"),
            ),
        }

    for mode, waiting in (("worker", "waiting"), ("deferred", "deferred")):
        for kind in PEOPLE:
            yield one(mode, waiting, kind, "limited" if kind == "dagrun_timeout" else "plain")
        for kind in ("mark failed", "mark success", "clear", "fail DAG run"):
            yield one(mode, "sent", kind)
        for kind in ("mark failed", "clear"):
            yield one(mode, waiting, kind, "kept")
    for kind in ("mark failed", "clear"):
        yield one("deferred", "no triggerer has it", kind, stage=NO_TRIGGERER)
    # Nothing of the task runs that could cancel, but a try that follows a clear does.
    for mode, point in (("worker", "waiting"), ("deferred", "before_defer")):
        struck = {"kind": f"clear{BETWEEN_TRIES}", "inside": "SIGKILL"}
        yield {**one(mode, point, "clear", "pausing"), **struck} | (
            {} if can_cancel else {"expected": Expected(runs=frozenset({2}), goes_on=True)}
        )
        yield {
            **one(mode, point, "mark failed", "pausing"),
            **struck,
            "kind": f"mark failed{BETWEEN_TRIES}",
            "expected": Expected(states=frozenset({"failed"}), goes_on=True),
        }


def _unmarked_cases(unmarked: Mapping[str, Unmarked]) -> Iterable[dict[str, Any]]:
    for word, one in unmarked.items():
        # What goes on is still seen to go when the case is judged.
        plan = {"duration": 90.0 if one.goes_on else 12.0}
        lost = {
            "variant": word,
            "plan": plan,
            "expected": Expected(frozenset({one.runs}), frozenset({one.state}), goes_on=one.goes_on),
        }
        for point in ("sent", "answered", "unrecorded"):
            held = {"plan": {**plan, "hold": 3.0}} if point == "sent" else {}
            for kind in ("SIGKILL", "worker SIGKILL") if point == "sent" else ("SIGKILL",):
                yield {
                    "stage": "alone",
                    "mode": "deferred" if point == "unrecorded" else "worker",
                    "point": point,
                    "kind": kind,
                    "inside": kind,
                    **lost,
                    **held,
                }
        for kind in ("reset after", "504, run started"):
            yield {
                "stage": "lost",
                "mode": "worker",
                "point": "before_request",
                "kind": kind,
                "inside": "hold",
                **lost,
            }
        # Where no run came of it, or its answer was recorded, there is nothing to be unsure about.
        for point in ("before_request", "recorded"):
            yield {
                "stage": "alone",
                "mode": "worker",
                "point": point,
                "kind": "SIGKILL",
                "inside": "SIGKILL",
                "variant": word,
                "plan": {"duration": 12.0},
            }


def sample(cases: list[Case], size: int, seed: int) -> list[Case]:
    """
    Return a random selection: mostly cases that strike one task only, and one stage that strikes all.

    A stage that strikes all takes its time also for a single case.
    """
    chance = random.Random(seed)
    stage = chance.choice([name for name in STAGES if name not in ("alone", "lost")])
    alone = [case for case in cases if case.stage == "alone"]
    shared = [case for case in cases if case.stage == stage]
    few = chance.sample(shared, min(len(shared), max(1, size // 5)))
    chosen = {case.id for case in chance.sample(alone, min(len(alone), max(0, size - len(few)))) + few}
    return [case for case in cases if case.id in chosen]
