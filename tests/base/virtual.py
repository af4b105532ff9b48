"""A service whose runs begin and end at planned moments of virtual time, and all that is asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from airflow_provider_runs.base import channel
from airflow_provider_runs.base.poller import wait_for_run
from airflow_provider_runs.core import clock, turns
from airflow_provider_runs.core.api import CanGetMany, CanListRuns
from airflow_provider_runs.core.connection import Settings
from airflow_provider_runs.core.drivers import AsyncDriver
from airflow_provider_runs.core.errors import ConnectionFailed, RunsError
from airflow_provider_runs.core.http import Flow, Request, Response
from airflow_provider_runs.core.outcome import Outcome
from airflow_provider_runs.core.progress import Watch
from airflow_provider_runs.core.run import Run
from tests.base.fakes import FakeApi

BATCH = 50


@dataclass(frozen=True)
class Plan:
    """
    One wait. Moments are virtual seconds since the world began.

    :param name: the run, or the search for it.
    :param began: when the run was started; before that, a search does not find it.
    :param ended: when it ends.
    :param joined: when the wait begins.
    :param search: whether the run is searched for.
    """

    name: str
    began: float
    ended: float
    joined: float = 0.0
    search: bool = False


@dataclass
class World:
    """
    A service, and what is asked of it.

    :param latency: seconds until an answer comes.
    :param cap: requests a minute that the connection allows.
    :param outages: from when until when nothing is answered.
    """

    latency: float = 0.05
    cap: float = 1e9
    outages: Sequence[tuple[float, float]] = ()
    asked: list[tuple[float, tuple[str, ...]]] = field(default_factory=list)
    """When a request left, and about what."""
    seen: dict[str, float] = field(default_factory=dict)
    """When each wait ended."""
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    connections: int = 0
    under_way: int = 0
    most_under_way: int = 0
    plans: dict[str, Plan] = field(default_factory=dict)
    began: float = 0.0

    def now(self) -> float:
        """Return the seconds since the world began."""
        return clock.monotonic() - self.began

    def moments(self, since: float = 0.0, until: float = float("inf")) -> list[float]:
        """Return when requests left in a span of time."""
        return [moment for moment, _ in self.asked if since <= moment < until]

    def looks(self) -> dict[str, list[float]]:
        """Return when each run was asked about."""
        looks: dict[str, list[float]] = {name: [] for name in self.plans}
        for moment, names in self.asked:
            for name in names:
                looks[name].append(moment)
        return looks

    def wait(
        self,
        plans: Sequence[Plan],
        api_class: type[VirtualApi],
        *,
        poll_interval: float,
        min_poll_interval: float,
        until: float = float("inf"),
    ) -> None:
        """
        Wait for all runs.

        :param plans: the waits.
        :param api_class: what the service can do.
        :param poll_interval: seconds between two looks at an old run.
        :param min_poll_interval: seconds between two looks at a young one.
        :param until: when to leave off.
        """
        turns._limiters.clear()
        self.plans = {plan.name: plan for plan in plans}
        self.began = clock.monotonic()
        epoch = clock.time()

        async def connect() -> VirtualApi:
            self.connections += 1
            api = api_class(Settings("c", "http://virtual", extra={"max_requests_per_minute": self.cap}))
            api.world = self
            return api

        async def wait(plan: Plan) -> None:
            await asyncio.sleep(plan.joined)
            search = {"job": plan.name, "since": 0.0} if plan.search else None
            watch = Watch(plan.name, poll_interval, min_poll_interval, epoch + plan.began, search=search)
            outcome = await wait_for_run("c", connect, watch, "Virtual", lambda note: None)
            self.outcomes[plan.name], self.seen[plan.name] = outcome, self.now()

        async def all_waits() -> None:
            waits: list[Coroutine[Any, Any, None]] = [wait(plan) for plan in plans]
            tasks = [asyncio.create_task(each) for each in waits]
            _, pending = await asyncio.wait(tasks, timeout=None if until == float("inf") else until)
            for task in pending:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for task in tasks:
                if not task.cancelled():
                    task.result()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(channel, "AsyncDriver", _Driver)
            patch.setattr(channel, "load_libraries", lambda: None)
            asyncio.run(all_waits())


class _Driver(AsyncDriver):
    """Has no network."""

    api: VirtualApi

    async def _send(self, send: Any) -> Response | ConnectionFailed:  # type: ignore[override]
        world = self.api.world
        is_down = any(begin <= world.now() < end for begin, end in world.outages)
        world.under_way += 1
        world.most_under_way = max(world.most_under_way, world.under_way)
        try:
            await asyncio.sleep(world.latency)
        finally:
            world.under_way -= 1
        return ConnectionFailed("down", sent=False) if is_down else Response(200, {}, b"{}")


class VirtualApi(FakeApi, CanListRuns):
    """A service that is asked about one run at a time, or searched."""

    world: World

    def get(self, run_id: str) -> Flow[Run]:
        yield self._request(run_id)
        return self._found(run_id)

    def list_runs(
        self, filters: Mapping[str, Any], *, since: float | None = None, limit: int | None = None
    ) -> Flow[list[Run]]:
        name = filters["job"]
        yield self._request(name)
        return [self._found(name)] if self.world.plans[name].began <= self.world.now() else []

    def _request(self, *names: str) -> Request:
        self.world.asked.append((self.world.now(), names))
        return Request("GET", "http://virtual/runs")

    def _found(self, name: str) -> Run:
        status = "done" if self.world.now() >= self.world.plans[name].ended else "going"
        return Run(name, self.statuses.state(status), status)


class BatchApi(VirtualApi, CanGetMany):
    """One that is asked about many runs at once."""

    batch_size = BATCH

    def get_many(self, run_ids: Sequence[str]) -> Flow[dict[str, Run | RunsError]]:
        yield self._request(*run_ids)
        return {run_id: self._found(run_id) for run_id in run_ids}
