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
    Fire once, with how late the event loop was all the while, in seconds.

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
        lags.sort()
        shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
        found = {name: lags[min(len(lags) - 1, int(share * len(lags)))] for name, share in shares.items()}
        yield TriggerEvent(found)  # type: ignore[no-untyped-call]


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
