"""The scheduler of a simulated Mage, which lets its runs start, go on and end.

As in the real one, a scheduler works in loops: a run leaves ``initial`` at a loop, each loop queues the
blocks whose turn it is, and the run ends at a later one. The loops are worked off when somebody asks, so an
idle simulator does nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime

from airflow_provider_runs.core import clock
from airflow_provider_runs.mage.simulated import (
    BLOCK_ACTIVE,
    MACHINE,
    BlockRun,
    LogLine,
    Pipeline,
    Schedule,
    error_text,
)
from airflow_provider_runs.simulator.world import Json, Plan, World

ACTIVE = ("initial", "running")
OUTCOMES = {"succeeded": "completed", "failed": "failed", "cancelled": "cancelled"}
QUEUED = 0.05  # of the time between two scheduler loops, until a worker takes a block


@dataclass
class MageRun:
    """Describe one pipeline run; ``since`` is when it was started or retried."""

    id: int
    schedule: Schedule
    pipeline: Pipeline
    plan: Plan
    queued: float
    duration: float
    execution_date: datetime
    status: str
    created: float
    updated: float
    body: Json
    variables: dict[str, Json]
    event_variables: dict[str, Json] | None
    metrics: Json = None
    blocks: list[BlockRun] = field(default_factory=list)
    log: list[LogLine] = field(default_factory=list)
    started: float | None = None
    completed: float | None = None
    ended: float | None = None
    since: float = 0.0
    cancels: int = 0
    cancelled: bool = False


class Scheduler:
    """Work on the runs of a server; ``loop_seconds`` are real ones, ``since`` is when the server started."""

    def __init__(self, world: World, runs: dict[int, MageRun], loop_seconds: float, since: float) -> None:
        self._world = world
        self._runs = runs
        self._loop_seconds = loop_seconds
        self._next_loop = since + loop_seconds
        self._blocks_made = 0

    def catch_up(self) -> None:
        """Work off the scheduler loops since the last request."""
        now = clock.time()
        while self._next_loop <= now:
            active = [run for run in self._runs.values() if run.status in ACTIVE]
            if not active:
                missed = math.floor((now - self._next_loop) / self._loop_seconds) + 1
                self._next_loop += missed * self._loop_seconds
                return
            self._loop(active, self._next_loop)
            self._next_loop += self._loop_seconds

    def stop(self, run: MageRun, at: float) -> None:
        """Cancel a run."""
        self.work(run, at)
        self._finish(run, "cancelled", at)

    def make_blocks(self, run: MageRun, now: float) -> None:
        """Give a run the blocks of its pipeline."""
        for uuid in run.pipeline.upstream:
            self._blocks_made += 1
            run.blocks.append(BlockRun(self._blocks_made, uuid, now, now))

    def work(self, run: MageRun, until: float) -> None:
        """Let the processes of the blocks begin and end, where their time has come."""
        for block in run.blocks:
            if block.begins is not None and block.begins <= until and not block.at_work:
                self._begin(run, block, block.begins)
            if block.at_work and block.ends is not None and block.ends <= until:
                at = block.ends
                block.end(at)
                failed = block.status == "failed"
                text = (
                    f"BlockRun {block.id} (block_uuid: {block.uuid}) {'failed' if failed else 'completes'}."
                )
                error = block.metrics["error"] if failed and block.metrics else None
                run.log.append(LogLine(at, "EXCEPTION" if failed else "INFO", text, block.tags, error))

    def _loop(self, active: list[MageRun], at: float) -> None:
        """Do what one scheduler loop does: first start runs, then go on with those that run."""
        for run in sorted(active, key=lambda run: run.execution_date):
            ready = run.status == "initial" and at >= run.created + run.queued
            if ready and run.schedule.status == "active" and not self._is_full(run.schedule):
                run.status, run.started, run.updated, run.since = "running", at, at, at
                if not run.blocks:
                    self.make_blocks(run, at)
                self._beat(run, at)
        for run in active:
            if run.status == "running":
                self._go_on(run, at)

    def _is_full(self, schedule: Schedule) -> bool:
        """Say whether the trigger's setting lets no further run start."""
        limit = schedule.settings.get("pipeline_run_limit")
        if limit is None:
            return False
        running = [r for r in self._runs.values() if r.schedule is schedule and r.status == "running"]
        return len(running) >= int(limit)

    def _go_on(self, run: MageRun, at: float) -> None:
        """End a run, or queue the blocks whose turn it is."""
        self._beat(run, at)
        self.work(run, at)
        while not self._ends(run, at) and self._queue(run, at) and run.plan.ends_at_once:
            self.work(run, at)

    def _ends(self, run: MageRun, at: float) -> bool:
        """End a run if there is a reason to."""
        settings, outcome = run.schedule.settings, run.plan.outcome
        lenient = bool(settings.get("allow_blocks_to_fail"))
        statuses = [block.status for block in run.blocks]
        done = ("completed", "failed", "upstream_failed") if lenient else ("completed",)
        timeout = settings.get("timeout")
        age = 0.0 if run.started is None else at - run.started
        if outcome == "cancelled" and at >= run.since + run.duration:
            self.stop(run, at)
        elif outcome != "stuck" and all(status in done for status in statuses):
            if "failed" in statuses:
                run.completed = at
                self._finish(run, "failed", at)
            else:
                # A retry may leave nothing to do for a plan that fails.
                word = "succeeded" if outcome == "failed" and run.blocks else outcome
                self._finish(run, OUTCOMES.get(word, word), at)
        elif timeout and age > self._world.scaled(timeout):
            text = f"Pipeline run timed out after {int(age * self._world.speed)} seconds"
            run.log.append(LogLine(at, "ERROR", text, {}))
            self._finish(run, settings.get("timeout_status") or "failed", at)
        elif "failed" in statuses and not lenient:
            self._finish(run, "failed", at)
        else:
            return False
        return True

    def _queue(self, run: MageRun, at: float) -> bool:
        """Queue the blocks that all upstream blocks are completed for; say whether there were any."""
        status = {block.uuid: block.status for block in run.blocks}
        queued = False
        for block in run.blocks:
            upstream = [status[uuid] for uuid in run.pipeline.upstream[block.uuid]]
            if block.status != "initial":
                continue
            if "failed" in upstream or "upstream_failed" in upstream:
                status[block.uuid] = "upstream_failed"
                block.set("upstream_failed", at)
            elif all(each == "completed" for each in upstream):
                block.set("queued", at)
                queued = True
                if block.begins is None:
                    block.begins = at + (0 if run.plan.ends_at_once else self._loop_seconds * QUEUED)
        return queued

    def _begin(self, run: MageRun, block: BlockRun, at: float) -> None:
        """Let the process of a block begin; what it will print and raise is settled now."""
        block.begin(at)
        text = f"Execute PipelineRun {run.id}, BlockRun {block.id}: pipeline {run.pipeline.uuid}"
        run.log.append(LogLine(at, "INFO", f"{text} block {block.uuid}", block.tags))
        last = run.blocks[-1].uuid
        fails = run.plan.outcome == "failed" and block.uuid == (run.pipeline.failing or last)
        block.raised = (run.plan.message or "simulated failure") if fails else None
        variables = (run.event_variables or {}) | run.variables
        try:
            if run.pipeline.work is not None:
                for line in run.pipeline.work(block.uuid, variables, block.attempts):
                    block.log.append(LogLine(at, "INFO", line, block.tags))
        except Exception as error:
            block.raised = error_text(error)
        endless = block.uuid == last and run.plan.outcome in ("stuck", "cancelled")
        block.ends = None if endless else at + run.duration / len(run.blocks)

    def _beat(self, run: MageRun, at: float) -> None:
        text = f"Pipeline {run.pipeline.uuid} for run {run.id} in schedule {run.schedule.id} is alive."
        run.log.append(LogLine(at, "INFO", text, MACHINE))

    def _finish(self, run: MageRun, status: str, at: float) -> None:
        run.status, run.updated, run.ended = status, at, at
        if status == "completed":
            run.completed = at
        for block in run.blocks:
            block.stop()
            if block.status in BLOCK_ACTIVE:
                block.set("cancelled", at)
