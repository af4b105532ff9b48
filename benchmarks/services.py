"""
The services that are waited on: each answers in the true shape of its API, and does nothing else.

``python -m benchmarks.services '<settings as JSON>'`` serves one of them with TLS on the loopback address and
prints its port. It obeys lines on its standard input: ``begin`` starts the clock of all runs; ``tell`` prints
what it has counted.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import ssl
import sys
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from benchmarks.plan import PlannedRun, planned_runs

HOST = "127.0.0.1"
STRAIT_TAG = "airflow_provider_runs"


@dataclass(frozen=True, slots=True)
class Settings:
    """
    What is served.

    :param kind: which service, see :data:`KINDS`.
    :param count: how many runs there are.
    :param shortest: seconds of the shortest run.
    :param longest: seconds of the longest.
    :param certificate: file with the certificate and its key.
    :param think: seconds before each answer.
    :param faults: share of the requests that go wrong.
    :param outage: when, and for how many seconds, every request is answered with 503.
    """

    kind: str
    count: int
    shortest: float
    longest: float
    certificate: str
    think: float = 0.02
    faults: float = 0.0
    outage: tuple[float, float] | None = None


class Service:
    """
    One service with its runs.

    :param settings: what is served.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runs = planned_runs(settings.count, settings.shortest, settings.longest)
        self.began: float | None = None
        self.began_at = datetime.now(UTC)
        self.requests: Counter[str] = Counter()
        self.connections = 0
        self._chance = random.Random(2)
        self._ids = {strait_id(run): run for run in self.runs}

    # What the answers are made of

    def elapsed(self) -> float:
        """Return the seconds since the runs began."""
        return 0.0 if self.began is None else time.monotonic() - self.began

    def word(self, run: PlannedRun, going: Any, succeeded: Any, failed: Any) -> Any:
        """Return the service's word for the state in which a run is."""
        if self.elapsed() < run.seconds:
            return going
        return failed if run.fails else succeeded

    # The services

    async def chalk(self, request: web.Request) -> web.Response:
        """Chalk: a token, and one run at a time."""
        if request.path == "/v1/oauth/token":
            return web.json_response(
                {
                    "access_token": "token",
                    "token_type": "Bearer",
                    "expires_in": 86400,
                    "primary_environment": "e",
                }
            )
        run = self.runs[int(request.path.rpartition("/")[2]) - 1]
        status = self.word(run, "received", "succeeded", "failed")
        return web.json_response({"id": str(run.number), "status": status})

    async def paradime(self, request: web.Request) -> web.Response:
        """Paradime: the status of many runs in one document."""
        body = await request.json()
        answers = {
            "boltRunStatus" if name == "runId" else name: {
                "ok": True,
                "state": self.word(self.runs[number - 1], "RUNNING", "SUCCESS", "FAILED"),
            }
            for name, number in body["variables"].items()
        }
        return web.json_response({"data": answers})

    async def mage(self, request: web.Request) -> web.Response:
        """Mage: lists of the runs of a status, in the cheap form, and one run with its blocks."""
        if request.path == "/api/pipeline_runs":
            start, size = int(request.query["_offset"]), int(request.query["_limit"])
            wanted = request.query["status[]"].split(",")
            found = [run for run in reversed(self.runs) if self._mage_status(run) in wanted]
            rows = [
                {"id": run.number, "status": self._mage_status(run), "execution_date": self._at(0)}
                for run in found[start : start + size]
            ]
            metadata = {
                "count": len(found),
                "next": start + size < len(found),
                "prev": start > 0,
                "results": len(rows),
            }
            return web.json_response({"pipeline_runs": rows, "metadata": metadata})
        run = self.runs[int(request.path.rpartition("/")[2]) - 1]
        return web.json_response({"pipeline_run": self._mage_row(run)})

    def _mage_status(self, run: PlannedRun) -> str:
        return str(self.word(run, "running", "completed", "failed"))

    def _mage_row(self, run: PlannedRun) -> dict[str, Any]:
        status = self._mage_status(run)
        block = {
            "id": run.number,
            "pipeline_run_id": run.number,
            "block_uuid": "load",
            "status": status,
            "created_at": self._at(0),
            "started_at": self._at(0),
            "completed_at": None,
            "metrics": {},
        }
        return {
            "id": run.number, "status": status, "pipeline_uuid": "example", "pipeline_schedule_id": 1,
            "pipeline_schedule_name": "trigger", "pipeline_schedule_token": "0123456789abcdef",
            "pipeline_schedule_type": "api", "backfill_id": None, "event_variables": {},
            "execution_date": self._at(0), "execution_partition": f"1/{run.number}",
            "executor_type": "local_python", "metrics": {}, "passed_sla": False,
            "variables": {"airflow_run_key": "0" * 32}, "created_at": self._at(0), "started_at": self._at(0),
            "updated_at": self._at(0), "completed_at": None, "block_runs": [block], "block_runs_count": 1,
            "completed_block_runs_count": 0, "pipeline_tags": [],
        }  # fmt: skip

    def _at(self, seconds: float) -> str:
        return datetime.fromtimestamp(self.began_at.timestamp() + seconds, UTC).strftime(
            "%Y-%m-%d %H:%M:%S.%f"
        )

    async def strait(self, request: web.Request) -> web.StreamResponse:
        """Strait: lists of active and of ended runs, and one run."""
        if request.path == "/v1/runs":
            wanted = request.query.getall("statuses")
            size, before = int(request.query.get("limit", 50)), request.query.get("cursor")
            older = reversed(self.runs if before is None else self.runs[: _strait_older(before)])
            found = (run for run in older if self.word(run, "executing", "completed", "failed") in wanted)
            page = list(itertools.islice(found, size + 1))
            more, page = len(page) > size, page[:size]
            rows = [self._strait_row(run) for run in page]
            cursor = rows[-1]["created_at"] if more else None
            return web.json_response({"data": rows, "has_more": more, "next_cursor": cursor})
        number = request.path.split("/")[3]
        return web.json_response(self._strait_row(self._ids[number]))

    def _strait_row(self, run: PlannedRun) -> dict[str, Any]:
        created = datetime.fromtimestamp(strait_created(run), UTC).isoformat(timespec="microseconds")
        status = self.word(run, "executing", "completed", "failed")
        return {
            "id": strait_id(run), "job_id": "018f0000-0000-7000-8000-000000000000", "project_id": "project",
            "status": status, "attempt": 1, "payload": {"table": "orders"}, "result": None, "error": None,
            "triggered_by": "api", "tags": {STRAIT_TAG: "strait_default"}, "priority": 0, "max_attempts": 3,
            "created_at": created.replace("+00:00", "Z"), "started_at": created.replace("+00:00", "Z"),
            "finished_at": None,
        }  # fmt: skip

    async def databricks(self, request: web.Request) -> web.Response:
        """Databricks: one job run at a time."""
        run = self.runs[int((await request.json())["run_id"]) - 1]
        life = self.word(run, "RUNNING", "TERMINATED", "TERMINATED")
        result = self.word(run, None, "SUCCESS", "FAILED")
        state = {
            "life_cycle_state": life,
            "state_message": "",
            **({"result_state": result} if result else {}),
        }
        return web.json_response({"run_id": run.number, "state": state, "tasks": []})

    async def dbt_cloud(self, request: web.Request) -> web.Response:
        """Answer as dbt Cloud: one job run at a time."""
        run = self.runs[int(request.path.rstrip("/").rpartition("/")[2]) - 1]
        return web.json_response({"data": {"id": run.number, "status": self.word(run, 3, 10, 20)}})

    async def http(self, request: web.Request) -> web.Response:
        """Answer a plain status."""
        run = self.runs[int(request.path.rpartition("/")[2]) - 1]
        return web.json_response(
            {"id": run.number, "status": self.word(run, "running", "succeeded", "failed")}
        )

    # Serving

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Count a request, think, and answer it well or badly."""
        self.requests["request"] += 1
        await asyncio.sleep(self.settings.think)
        outage = self.settings.outage
        if outage is not None and outage[0] <= self.elapsed() < sum(outage):
            return web.json_response({"error": "down"}, status=503)
        if self._chance.random() < self.settings.faults:
            return await self._fault(request)
        serve: Callable[[web.Request], Awaitable[web.StreamResponse]] = getattr(self, self.settings.kind)
        return await serve(request)

    async def _fault(self, request: web.Request) -> web.Response:
        self.requests["fault"] += 1
        kind = self._chance.randrange(4)
        if kind == 0:
            return web.json_response({"error": "unavailable"}, status=503)
        if kind == 1:
            return web.Response(text="<html><body>a proxy's page</body></html>", content_type="text/html")
        if kind == 2 and request.transport is not None:
            request.transport.abort()
        else:
            await asyncio.sleep(1.0)
        return web.json_response({"error": "late"}, status=504)


STRAIT_BEGINNING = 1_700_000_000


def strait_created(run: PlannedRun) -> float:
    """Return when a run of Strait was created, in UTC epoch seconds: ten in a second."""
    return STRAIT_BEGINNING + run.number / 10


def _strait_older(cursor: str) -> int:
    """Return how many runs were created before a moment."""
    age = datetime.fromisoformat(cursor) - datetime.fromtimestamp(STRAIT_BEGINNING, UTC)
    return -(-age // timedelta(milliseconds=100)) - 1


def strait_id(run: PlannedRun) -> str:
    """Return the id of a run of Strait: a UUID of version 7."""
    milliseconds = round(strait_created(run) * 1000)
    return str(uuid.UUID(int=(milliseconds << 80) | (7 << 76) | (2 << 62) | run.number))


KINDS = ("chalk", "paradime", "mage", "strait", "databricks", "dbt_cloud", "http")


async def serve(settings: Settings) -> None:
    """
    Serve until the standard input ends.

    :param settings: what is served.
    """
    service = Service(settings)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", service.answer)
    runner = web.AppRunner(application, access_log=None, keepalive_timeout=120)
    await runner.setup()
    server = runner.server
    assert server is not None
    made = server.__call__

    def count() -> Any:
        service.connections += 1
        return made()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.certificate)
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(count, HOST, 0, ssl=context, backlog=4096)
    print(listening.sockets[0].getsockname()[1], flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).strip():
        if line == b"begin":
            service.began = time.monotonic()
            service.began_at = datetime.now(UTC)
            print(json.dumps({"began": time.time()}), flush=True)
        else:
            counted: Mapping[str, Any] = {**service.requests, "connections": service.connections}
            print(json.dumps(counted), flush=True)
    listening.close()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(Settings(**json.loads(sys.argv[1]))))
