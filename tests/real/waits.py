"""What the tests of many waits share: a Mage that can be killed, and waits as a triggerer runs them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from airflow_provider_runs.core.progress import Note
from airflow_provider_runs.core.run import Run
from airflow_provider_runs.mage.triggers import MageRunTrigger
from tests.real.target import Mage
from tools.mage_server import MageServer
from tools.speed import patient

VERDICTS = {"completed": "succeeded", "failed": "failed", "cancelled": "cancelled"}


@dataclass(kw_only=True)
class MortalMage(Mage):
    """
    A Mage with user authentication that can be killed.

    :param kill: ends it at once, as a crash would.
    :param revive: starts it again with its address and its data.
    :param logins: tells how many sessions it has ever given.
    :param extra: further fields of the connection.
    """

    kill: Callable[[], None]
    revive: Callable[[], None]
    logins: Callable[[], int]
    extra: Mapping[str, Any] = field(default_factory=dict)

    def start_many(self, *wanted: tuple[str, int, Mapping[str, Any]]) -> dict[str, list[Run]]:
        """Start runs, four at a time, and return them by trigger: so many of each, with these variables."""
        starts = [(name, variables) for name, count, variables in wanted for _ in range(count)]
        self.driver().close()
        with ThreadPoolExecutor(4) as pool:
            runs = pool.map(lambda start: (start[0], self.start(start[0], variables=start[1])), starts)
        started: dict[str, list[Run]] = {}
        for name, run in runs:
            started.setdefault(name, []).append(run)
        return started

    def statuses(self, runs: Iterable[Run]) -> dict[str, str]:
        """Return what Mage's own list says about runs, by their ids."""
        params = {"_limit": "1000", "order_by[]": "id desc", "disable_retries_grouping": "1"}
        rows = self.call("GET", "/api/pipeline_runs", **params).json()["pipeline_runs"]
        said = {str(row["id"]): row["status"] for row in rows}
        return {run.id: said[run.id] for run in runs}

    def cancel(self, runs: Iterable[Run]) -> None:
        """Cancel runs as Mage's own web interface does."""
        for run in runs:
            body = {"pipeline_run": {"status": "cancelled"}}
            answer = self.call("PUT", f"/api/pipeline_runs/{run.id}", body).json()
            assert answer["pipeline_run"]["status"] == "cancelled"


@contextmanager
def mortal_mage(python: Path, folder: Path) -> Iterator[MortalMage]:
    """Serve `tools/mage_project` with a real Mage of one's own."""
    with MageServer(python, auth=True, workdir=folder) as server:
        (database,) = folder.glob("data/**/mage-ai.db")

        def query(statement: str) -> list[Any]:
            with sqlite3.connect(database, timeout=30) as connection:
                rows = connection.execute(statement).fetchall()
            connection.close()
            return rows

        def end_sessions() -> None:
            query("UPDATE oauth2_access_token SET expires = '2020-01-01 00:00:00.000000'")

        def logins() -> int:
            return int(query("SELECT count(*) FROM oauth2_access_token")[0][0])

        yield MortalMage(
            server.url,
            True,
            server.schedules,
            1.0,
            end_sessions,
            kill=server.kill,
            revive=server.start,
            logins=logins,
        )


class Wait(MageRunTrigger):
    """The trigger of a deferred task, which also keeps what it tells the task's log."""

    def __init__(self, run: Run, interval: float) -> None:
        super().__init__("mage_default", run.id, poll_interval=interval, min_poll_interval=interval)
        self.notes: list[str] = []

    def _tell(self, note: Note) -> None:
        self.notes.append(note.text)
        super()._tell(note)

    async def event(self) -> Mapping[str, Any]:
        """Return what a triggerer would resume the task with."""
        (fired,) = [event.payload async for event in self.run()]
        return fired  # type: ignore[no-any-return]


class Waits:
    """
    Waits for many runs in one event loop, an asynchronous context manager.

    :param runs: the runs.
    :param interval: seconds between two looks at a run.
    :param begin_over: seconds over which the waits begin, one after another; all at once unless given.
    """

    def __init__(self, runs: Iterable[Run], interval: float, begin_over: float = 0.0) -> None:
        self.triggers = [Wait(run, interval) for run in runs]
        self._step = begin_over / len(self.triggers)
        self._tasks: list[asyncio.Task[Mapping[str, Any]]] = []

    async def __aenter__(self) -> Waits:
        for trigger in self.triggers:
            self._tasks.append(asyncio.create_task(trigger.event()))
            if self._step:
                await asyncio.sleep(self._step)
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def ended(self) -> int:
        """Return how many waits are over."""
        return sum(task.done() for task in self._tasks)

    async def events(self, seconds: float) -> dict[str, Mapping[str, Any]]:
        """Return what each wait ended with, by its run's id, once all are over."""
        async with asyncio.timeout(patient(seconds)):
            events = await asyncio.gather(*self._tasks)
        return {event["run_id"]: event for event in events}


def outcomes(events: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the words by which waits ended."""
    return {run_id: event["outcome"] for run_id, event in events.items()}


def reasons(events: Mapping[str, Mapping[str, Any]], runs: Iterable[Run]) -> set[str | None]:
    """Return the different reasons that events give for the end of runs."""
    return {events[run.id]["message"] for run in runs}


async def until(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
    """Wait until a condition holds, asking it off the event loop."""
    limit = patient(seconds)
    try:
        async with asyncio.timeout(limit):
            while not await asyncio.to_thread(condition):
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"waited {limit:.0f} s for {what} in vain") from None


class Requests(Counter[str]):
    """Count the requests of the asynchronous client by kind: login, list, detail, or what else there is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        request = aiohttp.ClientSession._request

        async def counted(session: aiohttp.ClientSession, method: str, url: Any, **kwargs: Any) -> Any:
            path = str(url).partition("/api/")[2]
            kinds = {"POST sessions": "login", "GET pipeline_runs": "list"}
            detail = method == "GET" and path.startswith("pipeline_runs/")
            self["detail" if detail else kinds.get(f"{method} {path}", f"{method} {path}")] += 1
            return await request(session, method, url, **kwargs)

        monkeypatch.setattr(aiohttp.ClientSession, "_request", counted)
