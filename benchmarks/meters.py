"""What measures: a trigger that waits for nothing, one that tells how late the event loop is, and a clock."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from airflow.jobs.triggerer_job_runner import TriggerRunner
from airflow.triggers.base import BaseTrigger, TriggerEvent

PAUSE = 0.01
PACKAGE = "/airflow_provider_runs/"

_held: list[float] = []
"""Seconds of CPU time that each callback of this package has taken."""


class Idle(BaseTrigger):
    """
    Send nothing, and fire when the run would have ended.

    :param number: the run.
    :param seconds: how long it takes.
    """

    def __init__(self, number: int, seconds: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.number = number
        self.seconds = seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments."""
        return f"{__name__}.Idle", {"number": self.number, "seconds": self.seconds}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Sleep, then fire."""
        await asyncio.sleep(self.seconds)
        yield TriggerEvent({"outcome": "succeeded"})  # type: ignore[no-untyped-call]


class LoopLag(BaseTrigger):
    """
    Fire once, with how late the event loop was, and what :func:`time_callbacks` found, in seconds.

    :param seconds: how long it looks.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seconds = seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments."""
        return f"{__name__}.LoopLag", {"seconds": self.seconds}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Measure, then fire."""
        lags = []
        until = time.monotonic() + self.seconds
        while (began := time.monotonic()) < until:
            await asyncio.sleep(PAUSE)
            lags.append(time.monotonic() - began - PAUSE)
        yield TriggerEvent({**_shares(lags), "held": _shares(_held)})  # type: ignore[no-untyped-call]


def _shares(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {
        name: ordered[min(len(ordered) - 1, int(share * len(ordered)))]
        for name, share in shares.items()
        if ordered
    }


def time_callbacks() -> None:
    """Have event loops note the CPU time of each callback in which this package may run."""
    run: Any = asyncio.Handle._run

    def timed(handle: Any) -> None:
        began = time.thread_time()
        run(handle)
        seconds = time.thread_time() - began
        if _is_ours(handle._callback):
            _held.append(seconds)

    asyncio.Handle._run = timed  # type: ignore[method-assign, assignment]


def _is_ours(callback: Any) -> bool:
    task = getattr(callback, "__self__", None)
    if not isinstance(task, asyncio.Task):
        return PACKAGE in getattr(getattr(callback, "__code__", None), "co_filename", "")
    code = getattr(task.get_coro(), "cr_code", None)
    # The trigger's own code runs in Airflow's coroutine.
    return code is not None and (PACKAGE in code.co_filename or code.co_name == "run_trigger")


class _Stamped(deque[Any]):
    def append(self, entry: Any) -> None:
        entry.event.payload = {"fired_at": time.time(), "payload": entry.event.payload}
        super().append(entry)


def stamp_events() -> None:
    """
    Have Airflow's trigger runners note with each event when its trigger fired, in UTC epoch seconds.

    They pass events on once a second only, which would hide what the triggers differ in.
    """
    begin: Any = TriggerRunner.__init__

    def begin_stamped(self: Any) -> None:
        begin(self)
        self.events = _Stamped()

    TriggerRunner.__init__ = begin_stamped  # type: ignore[method-assign]
