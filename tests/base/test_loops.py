"""One hook used in several event loops: in turn, at once, closed and not closed."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest

from airflow_provider_runs.base.hook import RunHook
from airflow_provider_runs.core.errors import NotFound
from airflow_provider_runs.provider_info import SYSTEMS
from airflow_provider_runs.simulator import Simulator

CONNECTIONS: dict[str, dict[str, Any]] = {
    "chalk": {"login": "token-simulator", "password": "chalk-secret"},
    "mage": {"extra": {"trigger_token": "tok123"}},
    "paradime": {"password": "paradime-secret", "extra": {"api_key": "key-simulator"}},
    "strait": {"password": "strait_simulator", "extra": {"project_id": "project-simulator"}},
}
UNKNOWN = {"strait": "01900000-0000-7000-8000-000000000000"}
"""Runs that nobody has started; 77 where the system is not named."""


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    # What is there already is not looked through again and again.
    gc.collect()
    gc.freeze()
    with Simulator() as started:
        yield started
    gc.unfreeze()


@pytest.fixture
def make(
    request: pytest.FixtureRequest, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], RunHook]:
    """Return what makes hooks of a system."""
    simulator.reset()
    system: str = request.param
    host = simulator.url_of(system)
    if system == "paradime":
        host += "/api/v1/company-simulator/graphql"
    kind = getattr(import_module(f"airflow_provider_runs.{system}.hooks"), f"{system.capitalize()}Hook")
    fields = {"conn_type": kind.conn_type, "host": host, **CONNECTIONS[system]}
    monkeypatch.setenv(f"AIRFLOW_CONN_{system.upper()}_DEFAULT", json.dumps(fields))
    return kind  # type: ignore[no-any-return]


each_system = pytest.mark.parametrize("make", SYSTEMS, indirect=True)
# What is common to all is tried with one that gets a token and one that gets none.
some_systems = pytest.mark.parametrize("make", ["chalk", "strait"], indirect=True)


async def ask(hook: RunHook) -> None:
    """Use the hook in the running event loop."""
    with pytest.raises(NotFound):
        await hook.aget_run(UNKNOWN.get(type(hook).conn_type, "77"))


@pytest.fixture(autouse=True)
def nothing_is_left_open(simulator: Simulator) -> Iterator[None]:
    """Fail where a session or a connection is thrown away without being closed."""
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        yield
        gc.collect()
    assert [str(each.message) for each in caught if issubclass(each.category, ResourceWarning)] == []


@each_system
def test_in_one_event_loop_after_another(make: Callable[[], RunHook]) -> None:
    hook = make()

    async def last() -> None:
        await ask(hook)
        await hook.aclose()

    asyncio.run(ask(hook))
    asyncio.run(ask(hook))
    asyncio.run(last())


@some_systems
def test_the_end_of_the_loop_closes_what_nobody_closes(make: Callable[[], RunHook]) -> None:
    asyncio.run(ask(make()))


@some_systems
def test_in_several_event_loops_at_once(make: Callable[[], RunHook]) -> None:
    """Each loop keeps its own driver, however often the others use theirs, and closes its own only."""
    hook = make()
    turns = [asyncio.new_event_loop() for _ in range(3)]
    threads = [threading.Thread(target=loop.run_forever, daemon=True) for loop in turns]
    for thread in threads:
        thread.start()

    def do(loop: asyncio.AbstractEventLoop, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    async def used() -> int:
        await ask(hook)
        return id(await hook.async_driver())

    before = [do(loop, used()) for loop in turns]
    assert len(set(before)) == 3
    do(turns[0], hook.aclose())
    assert [do(loop, used()) for loop in turns[1:]] == before[1:]
    for loop, thread in zip(turns, threads, strict=True):
        do(loop, hook.aclose())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@some_systems
async def test_by_several_tasks_at_first(make: Callable[[], RunHook]) -> None:
    async with make() as hook:
        drivers = await asyncio.gather(*(hook.async_driver() for _ in range(5)))
        assert len({id(driver) for driver in drivers}) == 1
        await asyncio.gather(*(ask(hook) for _ in range(5)))


@some_systems
async def test_a_hook_that_is_thrown_away_is_closed(make: Callable[[], RunHook]) -> None:
    hook = make()
    await ask(hook)
    del hook
    gc.collect()
    for _ in range(10):
        await asyncio.sleep(0.01)


@some_systems
def test_loops_that_have_ended_are_forgotten(make: Callable[[], RunHook]) -> None:
    hook = make()

    async def driver() -> Any:
        await ask(hook)
        return weakref.ref(await hook.async_driver())

    ended = [asyncio.run(driver()) for _ in range(3)]
    gc.collect()
    assert [each() is None for each in ended] == [True, True, False]
