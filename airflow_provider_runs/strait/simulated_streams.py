"""The live streams of a simulated Strait: what they carry, and the faults that they meet."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator

from aiohttp import web

from airflow_provider_runs.core import clock
from airflow_provider_runs.simulator.world import NOTE, Fault, Json
from airflow_provider_runs.strait.simulated import StraitOptions, StraitRun, rfc3339
from airflow_provider_runs.strait.simulated_requests import Refused

EVENT_FLOOD = 1000
LOOK = 0.2  # seconds until a stream sees that its client is gone, or that somebody changed the run


class Streams:
    """Hold the open streams of all runs.

    ``advance`` lets happen to a run what has come due until a moment, ``fault_of`` takes the fault that a
    stream meets, ``goes_on`` says whether the simulator has not been reset.
    """

    def __init__(
        self,
        options: StraitOptions,
        advance: Callable[[StraitRun, float], None],
        fault_of: Callable[[str], Fault | None],
        goes_on: Callable[[], bool],
    ) -> None:
        self._options, self._advance, self._fault_of, self._goes_on = options, advance, fault_of, goes_on
        self._opened: Counter[str] = Counter()

    async def answer(self, request: web.Request, run: StraitRun, channel: str) -> web.StreamResponse:
        """Send what happens to a run from now on.

        :param channel: ``run`` or ``chunks``
        """
        opened, most = self._opened, self._options.max_streams
        if most and opened[run.project] >= most:
            raise Refused(503, "too many SSE connections")
        fault = self._fault_of("stream" if channel == "run" else channel)
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-API-Version": "v1"}
        answer = web.StreamResponse(headers=headers)
        opened[run.project] += 1
        try:
            await answer.prepare(request)
            if (note := NOTE.get()) is not None:
                note(200)
            with contextlib.suppress(ConnectionError):
                async for piece in self._carried(run, channel, fault):
                    if request.transport is None or request.transport.is_closing():
                        break
                    if piece is None:
                        request.transport.close()
                        break
                    for part in parts(piece, fault):
                        await answer.write(part)
        finally:
            opened[run.project] -= 1
        return answer

    async def _carried(
        self, run: StraitRun, channel: str, fault: Fault | None
    ) -> AsyncIterator[bytes | None]:
        """Yield what a stream of a run carries; nothing when it only looks around, None for a cut."""
        kind = fault.fault if fault else None
        seconds = math.inf if fault is None or fault.seconds is None else fault.seconds
        options, opened = self._options, clock.monotonic()
        if kind == "error_frame":
            text = json.dumps({"error": (fault and fault.body) or "failed to subscribe"})
            yield f"event: error\ndata: {text}\n\n".encode()
            return
        await asyncio.sleep(options.subscribe_delay)
        self._advance(run, clock.time())  # what happens until now reaches no subscriber
        if kind == "flood":
            data = {"type": "event", "event_type": "log", "run_id": run.id, "level": "info", "data": None}
            for number in range(EVENT_FLOOD):
                yield frame({**data, "message": f"line {number}", "timestamp": rfc3339(clock.time())})
        ends = opened + min(options.stream_seconds, seconds if kind in ("end", "silence") else math.inf)
        if kind == "end" and seconds == math.inf:
            ends = opened
        seen, alive = len(run.frames), clock.monotonic() + options.keepalive
        while self._goes_on() and clock.monotonic() < ends:
            self._advance(run, clock.time())
            fresh, seen = run.frames[seen:], len(run.frames)
            for name, data in fresh:
                if name != channel or kind in ("lose", "silence"):
                    continue
                if kind == "cut_frame":
                    yield frame(data)[: len(frame(data)) // 2]
                    yield None
                yield frame(data)
            now = clock.monotonic()
            if now >= alive:
                alive = now + options.keepalive
                yield b"" if kind == "silence" else b": keepalive\n\n"
            yield b""
            waits = (LOOK, run.next_at - clock.time(), alive - now, ends - now)
            await asyncio.sleep(max(0.0, min(waits)))


def frame(data: dict[str, Json]) -> bytes:
    """Return one frame of a stream."""
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def parts(piece: bytes, fault: Fault | None) -> Iterator[bytes]:
    """Yield what is written at a time: a piece, or with the fault ``split`` three bytes, with other ends."""
    if fault is None or fault.fault != "split":
        if piece:
            yield piece
        return
    piece = piece.replace(b"\n", b"\r\n")
    for at in range(0, len(piece), 3):
        yield piece[at : at + 3]
