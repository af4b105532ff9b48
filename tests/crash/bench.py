"""Run the cases of the crash bench in one Airflow and look at what is left."""

from __future__ import annotations

import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests

from airflow_provider_runs.core.run import RunState
from airflow_provider_runs.simulator import Simulator
from tests.crash.cases import (
    BETWEEN_TRIES,
    LATE,
    LATE_ZOMBIE,
    LOST,
    NO_TRIGGERER,
    OUTAGES,
    STAGES,
    TRIGGERER,
    Case,
)
from tests.crash.points import go_path, mark_path, thaw
from tests.crash.systems import TARGETS
from tools.airflow_stack import AirflowStack, StackError
from tools.speed import patient, scaled

log = logging.getLogger("crash_bench")
Script = Generator[None, None, None]

WIDTH = 24
"""Cases that are under way at the same time: what two cores can bear."""
TICK = 0.5
ENDED = ("success", "failed", "skipped", "removed", "upstream_failed")
POSITION_SECONDS = 120.0
END_SECONDS = 240.0
CANCEL_SECONDS = 40.0
"""
From a person's act to the cancel. A worker hears of it with its next heartbeat and a triggerer with its next
round, both within seconds; the rest is what many tasks at once cost on a small machine.
"""
SETTLE_SECONDS = 3.0
"""How long after a case's end a late request may still come."""
TAKEOVER_SECONDS = 90.0
API_OUTAGE_SECONDS = 30.0
SERVICE_OUTAGE_SECONDS = 12.0


class CaseError(Exception):
    """Say what a case waited for in vain."""


@dataclass
class Result:
    """What came out of a case."""

    case: Case
    runs: list[dict[str, Any]] = field(default_factory=list)
    state: str | None = None
    tries: int = 0
    orphans: int = 0
    documented: int = 0
    wrong_cancels: int = 0
    cancel_seconds: float | None = None
    wrong: list[str] = field(default_factory=list)
    """What is not as it must be."""

    def row(self) -> list[str]:
        """Return the line of the table."""
        case = self.case
        how = case.kind + (", cancel_on_kill=False" if case.variant == "kept" else "")
        orphans = str(self.orphans) + (f" ({self.documented} documented)" if self.documented else "")
        if self.cancel_seconds is not None:
            how += f" (cancelled after {self.cancel_seconds:.0f} s)"
        return [
            case.system,
            case.mode,
            case.point,
            how,
            str(len(self.runs)),
            str(self.state),
            str(self.tries),
            orphans,
            str(self.wrong_cancels),
            "; ".join(self.wrong) or "ok",
        ]


HEADER = (
    "system",
    "mode",
    "point",
    "kind",
    "runs started",
    "task",
    "tries",
    "orphans",
    "wrong cancels",
    "verdict",
)


def table(results: Iterable[Result]) -> str:
    """Return the results in markdown."""
    rows = [list(HEADER), ["---"] * len(HEADER), *(result.row() for result in results)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


class Bench:
    """
    Drive cases through an Airflow.

    :param stack: the Airflow, with the triggerers ``triggerer`` and ``triggerer-2``.
    :param simulator: the services.
    :param folder: what the task processes and the bench share.
    :param width: how many cases are under way at the same time.
    """

    def __init__(self, stack: AirflowStack, simulator: Simulator, folder: Path, width: int) -> None:
        self.stack = stack
        self.simulator = simulator
        self.folder = folder
        self.width = width
        self.results: dict[str, Result] = {}
        self.seconds: dict[str, float] = {}
        self._begun: set[str] = set()
        self._tasks: dict[str, dict[str, Any]] = {}
        self._marks: set[str] = set()
        self._runs: list[dict[str, Any]] = []
        self._turns: dict[str, Case] = {}
        self._acted: dict[str, float] = {}
        self._ended: set[str] = set()
        self._held: dict[str, int | None] = {}

    def run(self, cases: Sequence[Case]) -> list[Result]:
        """Run all cases, one stage after the other."""
        for case in cases:
            self.results[case.id] = Result(case)
            self._plan(case)
        for stage in STAGES:
            chosen = [case for case in cases if case.stage == stage]
            if not chosen:
                continue
            began = time.monotonic()
            log.info("%s: %d cases", stage, len(chosen))
            self._stage(stage)(chosen)
            self.seconds[stage] = time.monotonic() - began
            log.info("%s: %.0f s", stage, self.seconds[stage])
        return [self.results[case.id] for case in cases]

    def _plan(self, case: Case) -> None:
        self.simulator.plan(system=case.system, resource=case.id, duration=scaled(10))
        # A run outlives what strikes its task, for as long as Airflow takes to notice.
        plan = {**case.plan}
        if "duration" in plan:
            plan["duration"] = scaled(plan["duration"])
        self.simulator.plan(system=case.system, resource=case.id, times=1, **plan)

    def _stage(self, stage: str) -> Callable[[list[Case]], None]:
        if stage == "alone":
            return lambda cases: self._go(cases, self._alone)
        if stage == "lost":
            return lambda cases: self._go(cases, self._lost)
        if stage == NO_TRIGGERER:
            return self._without_triggerer
        acts: dict[str, Callable[[list[Case]], None]] = {
            "triggerer SIGKILL": lambda cases: self._kill_triggerer(cases, signal.SIGKILL),
            "triggerer SIGTERM": lambda cases: self._kill_triggerer(cases, signal.SIGTERM),
            "triggerer freeze": self._freeze_triggerer,
            "API server outage": self._outage_of_api_server,
            "service outage": self._outage_of_service,
        }
        assert set(acts) == {*TRIGGERER, *OUTAGES}
        return lambda cases: self._together(cases, acts[stage])

    # The scripts of one case

    def _alone(self, case: Case) -> Script:
        yield from self._begin(case)
        if case.is_person:
            yield from self._in_place(case)
            yield from self._person(case)
        elif case.inside == "zombie":
            yield from self._zombie(case)
        yield from self._finish(case)

    def _begin(self, case: Case) -> Script:
        self.stack.post(
            f"dags/{case.dag_id}/dagRuns",
            {
                "dag_run_id": case.id,
                "logical_date": datetime.now(UTC).isoformat(),
                "conf": {
                    "case": case.id,
                    "number": case.number,
                    "point": case.point,
                    "kind": case.inside,
                },
            },
        )
        self._begun.add(case.id)
        yield

    def _in_place(self, case: Case) -> Script:
        if case.point == "no triggerer has it":
            yield from self._until(f"{case.id} to be deferred", lambda: self._state(case) == "deferred")
        elif case.kind.endswith(BETWEEN_TRIES):
            yield from self._until(
                f"{case.id} to be up for retry", lambda: self._state(case) == "up_for_retry"
            )
        elif case.inside == "none" and case.point not in ("waiting", "sent"):
            yield from self._until(
                f"{case.id} to be in a triggerer", lambda: self._triggerer_of(case) is not None
            )
            # The trigger is assigned; now it has to be at work.
            yield from self._pause(3)
        else:
            yield from self._until(
                f"{case.id} to be at {case.point}", lambda: self._is_marked(case, case.point)
            )

    def _person(self, case: Case) -> Script:
        yield from self._act(case)
        yield from self._see_cancelled(case)

    def _act(self, case: Case) -> Script:
        place = (case.dag_id, case.id)
        own = self._runs_of(case)
        if len(own) != 1:
            raise CaseError(f"{len(own)} runs when the person acts")
        self._acted[case.id] = time.monotonic()
        if case.act == "mark failed":
            self.stack.set_task_state(*place, "run", "failed")
        elif case.act == "mark success":
            self.stack.set_task_state(*place, "run", "success")
        elif case.act == "clear":
            self.stack.clear(*place, "run")
        elif case.act == "fail DAG run":
            self.stack.patch(f"dags/{case.dag_id}/dagRuns/{case.id}", {"state": "failed"})
        elif case.act == "dagrun_timeout":
            yield from self._until("dagrun_timeout to be over", lambda: self._state(case) in ENDED)
            self._acted[case.id] = time.monotonic()

    def _see_cancelled(self, case: Case) -> Script:
        if not case.expected.cancelled:
            return
        yield from self._until(
            "the run to be cancelled", lambda: self._runs_of(case)[0]["cancels"] > 0, CANCEL_SECONDS
        )
        self.results[case.id].cancel_seconds = time.monotonic() - self._acted[case.id]

    def _zombie(self, case: Case) -> Script:
        """Wake the old try when the next one stands where it waits for the run, or has ended."""

        def is_followed() -> bool:
            waits = "waiting" if case.mode == "worker" else "before_defer"
            number = self._try(case)
            attached = self._is_marked(case, waits, number) and case.kind != LATE_ZOMBIE
            return number > 1 and (attached or self._state(case) in ENDED)

        yield from self._until(f"{case.id} to be at {case.point}", lambda: self._is_marked(case, case.point))
        yield from self._until("a new try to attach", is_followed)
        thaw(mark_path(self.folder, case.id, 1, case.point))
        # Longer than until the old try's supervisor asks whether it may go on, and its 5 s to stop it.
        yield from self._pause(8)

    def _finish(self, case: Case) -> Script:
        """Wait for the end and look at what is left."""
        yield from self._until(f"{case.id} to end", lambda: self._state(case) in ENDED, END_SECONDS)
        yield from self._pause(SETTLE_SECONDS)
        self._judge(case)

    def _judge(self, case: Case) -> None:
        result, expected = self.results[case.id], case.expected
        result.runs = self._runs_of(case)
        result.state = self._state(case)
        result.tries = self._try(case)
        statuses = TARGETS[case.system].operator.hook_class.api_class.statuses
        for place, run in enumerate(result.runs):
            goes = statuses.state(run["status"]) in (RunState.PENDING, RunState.RUNNING)
            if goes and expected.goes_on and place == 0:
                result.documented += 1
            elif goes:
                result.orphans += 1
            if expected.cancelled is False or place > 0:
                result.wrong_cancels += run["cancels"]
        if len(result.runs) not in expected.runs:
            result.wrong.append(f"{len(result.runs)} runs instead of {sorted(expected.runs)}")
        if result.state not in expected.states:
            result.wrong.append(f"{result.state} instead of {sorted(expected.states)}")
        if result.orphans:
            result.wrong.append("a run goes on that no task waits for")
        if result.wrong_cancels:
            result.wrong.append("a run was cancelled that should go on")
        if case.inside != "none" and not self._is_marked(case, case.point):
            result.wrong.append("the point was never reached")

    # What strikes many at once

    def _together(self, cases: list[Case], act: Callable[[list[Case]], None]) -> None:
        """Bring the cases to their places, act, and let them end."""
        in_one = cases[0].stage in TRIGGERER
        if in_one:
            # A triggerer that stands still takes no triggers, so that all of them go to the other one.
            self.stack.kill("triggerer-2", signal.SIGSTOP)
        began: list[Case] = []

        def place(case: Case) -> Script:
            yield from self._placed(case)
            began.append(case)

        # An answer that is under way does not wait for the others to be in place.
        self._go([case for case in cases if case.point != "sent"], place)
        if in_one:
            self._look([case.id for case in began])
            self._held = {case.id: self._triggerer_of(case) for case in began}
            self.stack.kill("triggerer-2", signal.SIGCONT)
        self._go([case for case in cases if case.point == "sent"], place)
        act(began)
        self._go(began, self._finish)

    def _let_go(self, cases: Iterable[Case]) -> None:
        for case in cases:
            go_path(self.folder, case.id).touch()

    def _kill_triggerer(self, cases: list[Case], number: signal.Signals) -> None:
        """End the triggerer that has all triggers; another one takes them over. Start it again."""
        self.stack.kill("triggerer", number, children=number == signal.SIGKILL)
        self.stack.components["triggerer"].process.wait(scaled(60))
        self._let_go(cases)
        time.sleep(15)
        self.stack.restart("triggerer")

    def _without_triggerer(self, cases: list[Case]) -> None:
        """Let people end tasks whose triggers never began, and start the triggerers again."""
        self._ended = {"triggerer", "triggerer-2"}
        for name in self._ended:
            self.stack.kill(name)
            self.stack.components[name].process.wait(scaled(30))
        self._go(cases, self._placed)
        self._go(cases, self._act)
        for name in self._ended:
            self.stack.restart(name)
        self._ended = set()
        time.sleep(15)  # until they are at work
        for case in cases:
            self._acted[case.id] = time.monotonic()
        self._go(cases, self._see_cancelled)
        self._go(cases, self._finish)

    def _placed(self, case: Case) -> Script:
        yield from self._begin(case)
        yield from self._in_place(case)

    def _freeze_triggerer(self, cases: list[Case]) -> None:
        """Let the triggerer stand still until the other one has taken its triggers over; thaw it."""
        deferred = [case for case in cases if case.inside == "none"]
        self.stack.kill("triggerer", signal.SIGSTOP)
        try:
            self._let_go(cases)

            def overtaken(case: Case) -> Script:
                if case.point == "deferred":
                    yield from self._until(
                        f"another triggerer to take {case.id}",
                        lambda: self._triggerer_of(case) not in (None, self._held[case.id]),
                        TAKEOVER_SECONDS,
                    )
                else:
                    yield from self._until(
                        f"{case.id} to end", lambda: self._state(case) in ENDED, TAKEOVER_SECONDS
                    )

            self._go(deferred, overtaken)
        finally:
            self.stack.kill("triggerer", signal.SIGCONT)
        time.sleep(5)  # on_kill comes at once, if it comes

    def _outage_of_api_server(self, cases: list[Case]) -> None:
        self.stack.kill("api-server")
        self.stack.components["api-server"].process.wait(scaled(30))
        self._let_go(cases)
        time.sleep(API_OUTAGE_SECONDS)
        self.stack.restart("api-server")
        self.stack.wait_healthy()

    def _outage_of_service(self, cases: list[Case]) -> None:
        self.simulator.stop()
        try:
            self._let_go(cases)
            time.sleep(SERVICE_OUTAGE_SECONDS)
        finally:
            self.simulator.start()

    def _lost(self, case: Case) -> Script:
        """Spoil the start of one task: a fault of the simulator meets whoever calls, so each has its turn."""
        if case.kind in LOST:
            yield from self._begin(case)
            yield from self._in_place(case)
        yield from self._until("its turn", lambda: case.system not in self._turns, END_SECONDS)
        self._turns[case.system] = case
        try:
            if case.kind in LOST:
                self.simulator.fault(system=case.system, operation="trigger", times=1, **LOST[case.kind])
                self._let_go([case])
            else:
                late = LATE[case.kind]
                self.simulator.fault("slow", system=case.system, operation="trigger", seconds=late, times=1)
                yield from self._begin(case)
            yield from self._until(
                f"{case.id} to know its run or to end",
                lambda: self._knows_run(case) or self._state(case) in ENDED,
            )
        finally:
            del self._turns[case.system]
        yield from self._finish(case)

    # The clockwork

    def _go(self, cases: Iterable[Case], script_of: Callable[[Case], Script]) -> None:
        """Run the cases' scripts side by side; an error in one ends that one only."""
        waiting = deque(cases)
        active: dict[str, Script] = {}
        while waiting or active:
            while waiting and len(active) < self.width:
                case = waiting.popleft()
                if not self.results[case.id].wrong:
                    active[case.id] = script_of(case)
            self._look(active)
            for case_id, script in list(active.items()):
                try:
                    next(script)
                except StopIteration:
                    del active[case_id]
                except (CaseError, StackError, requests.RequestException) as error:
                    self.results[case_id].wrong.append(str(error))
                    self._judge(self.results[case_id].case)
                    del active[case_id]
            time.sleep(TICK)

    def _look(self, case_ids: Iterable[str]) -> None:
        """Look at the tasks, at the points that they have reached, and at the remote runs."""
        for name, component in self.stack.components.items():
            if component.process.poll() is not None and name not in self._ended:
                raise RuntimeError(f"{name} ended by itself; logs in {self.stack.home}")
        self._marks = {path.name for path in self.folder.iterdir()}
        self._runs = self.simulator.runs()
        ids = [case_id for case_id in case_ids if case_id in self._begun]
        if not ids:
            return
        body = {"dag_run_ids": ids, "page_limit": len(ids)}
        try:
            found = self.stack.post("dags/~/dagRuns/~/taskInstances/list", body)["task_instances"]
        except requests.RequestException as error:
            log.debug("the API server does not answer: %s", error)
            return
        self._tasks |= {task["dag_run_id"]: task for task in found}

    def _until(self, what: str, condition: Callable[[], bool], seconds: float = POSITION_SECONDS) -> Script:
        limit = patient(seconds)
        until = time.monotonic() + limit
        while not condition():
            if time.monotonic() > until:
                raise CaseError(f"waited {limit:.0f} s for {what}")
            yield

    def _pause(self, seconds: float) -> Script:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            yield

    def _state(self, case: Case) -> str | None:
        state: str | None = self._tasks.get(case.id, {}).get("state")
        return state

    def _try(self, case: Case) -> int:
        return int(self._tasks.get(case.id, {}).get("try_number", 0))

    def _triggerer_of(self, case: Case) -> int | None:
        job = self._tasks.get(case.id, {}).get("triggerer_job")
        return None if job is None else int(job["id"])

    def _is_marked(self, case: Case, point: str, try_number: int = 1) -> bool:
        return mark_path(self.folder, case.id, try_number, point).name in self._marks

    def _knows_run(self, case: Case) -> bool:
        return any(name.startswith(f"{case.id}.") and name.endswith(".recorded") for name in self._marks)

    def _runs_of(self, case: Case) -> list[dict[str, Any]]:
        """Return the case's remote runs in the order of their start."""
        is_of = TARGETS[case.system].is_of
        found = [
            run for run in self._runs if run["system"] == case.system and is_of(run, case.id, case.number)
        ]
        return sorted(found, key=lambda run: str(run["created_at"]))
