"""Many waits that are one, in the poller that all waits of a connection share."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from airflow_provider_runs.base import poller
from airflow_provider_runs.base.group import wait_for_runs
from airflow_provider_runs.base.poller import wait_for_run
from airflow_provider_runs.core import progress
from airflow_provider_runs.core.errors import NotFound
from airflow_provider_runs.core.outcome import MOST_TOLD, Outcome, Verdict
from airflow_provider_runs.core.progress import Note
from tests.base.fakes import FullApi, Service
from tests.base.test_many import down, ids
from tests.base.test_poller import Connections, a_watch, the_poller, until


@pytest.fixture
def connections() -> Connections:
    return Connections(FullApi)


async def wait(
    connections: Connections, run_ids: list[str], told: list[Note] | None = None, **changes: Any
) -> Outcome:
    notes = told if told is not None else []
    return await asyncio.wait_for(
        wait_for_runs("key", connections.read, run_ids, a_watch("the list", **changes), "Fake", notes.append),
        600,
    )


async def test_a_list_and_a_single_wait_share_one_poller_and_its_polls(
    service: Service, connections: Connections
) -> None:
    service.runs |= dict.fromkeys(ids(20), "going")
    pace = {"poll_interval": 0.1, "min_poll_interval": 0.1}
    alone = asyncio.create_task(
        wait_for_run("key", connections.read, a_watch("r7", **pace), "Fake", lambda note: None)
    )
    lists = [asyncio.create_task(wait(connections, ids(20), **pace)) for _ in range(3)]
    await until(lambda: len(service.called("get_many")) > 3)
    service.runs |= dict.fromkeys(ids(20), "done")
    outcomes = [await alone, *(await asyncio.gather(*lists))]
    assert {outcome.verdict for outcome in outcomes} == {Verdict.SUCCEEDED}
    assert connections.reads == 1
    asked = [run_id for batch in service.called("get_many") for run_id in batch]
    rounds = len(service.called("get_many"))
    assert max(asked.count(run_id) for run_id in ids(20)) <= rounds
    assert "key" not in poller._pollers[asyncio.get_running_loop()]


async def test_a_list_takes_no_task_for_each_run(service: Service, connections: Connections) -> None:
    service.runs |= dict.fromkeys(ids(2000), "going")
    waiting = asyncio.create_task(wait(connections, ids(2000), poll_interval=5, min_poll_interval=5))
    await until(lambda: len(service.called("get_many")) >= 40)
    assert len(asyncio.all_tasks()) < 20
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert "key" not in poller._pollers[asyncio.get_running_loop()]
    assert len(asyncio.all_tasks()) == 1


async def test_the_end_of_a_list_is_seen_at_once_however_seldom_its_log_is_written(
    service: Service, connections: Connections
) -> None:
    service.runs |= {"r1": "done", "r2": "going"}
    notes: list[Note] = []
    waiting = asyncio.create_task(wait(connections, ids(2), notes))
    await until(lambda: notes)
    assert [note.text for note in notes] == ["1 of 2 runs have ended"]
    service.runs["r2"] = "broken"
    assert (await asyncio.wait_for(waiting, 1)).verdict is Verdict.FAILED
    assert [note.text for note in notes[1:]] == [
        "Run r2 has ended as failed (broken)",
        "2 of 2 runs have ended",
    ]


async def test_an_outage_is_told_once_for_a_list(service: Service, connections: Connections) -> None:
    service.runs |= dict.fromkeys(ids(100), "going")
    notes: list[Note] = []
    waiting = asyncio.create_task(wait(connections, ids(100), notes))
    await until(lambda: len(service.called("get_many")) > 4)
    service.get_errors = [down() for _ in range(6)]
    await until(lambda: not service.get_errors)
    await until(lambda: any("again" in note.text for note in notes))
    service.runs |= dict.fromkeys(ids(100), "done")
    assert (await waiting).verdict is Verdict.SUCCEEDED
    assert len([note for note in notes if "Fake cannot be asked about run" in note.text]) == 1
    assert len([note for note in notes if "can be asked again" in note.text]) == 1


async def test_runs_whose_status_is_unknown_are_told_of_up_to_a_number(
    service: Service, connections: Connections
) -> None:
    service.runs |= dict.fromkeys(ids(60), "odd")
    notes: list[Note] = []
    waiting = asyncio.create_task(wait(connections, ids(60), notes))
    await until(lambda: len(service.called("get_many")) > 3)
    service.runs |= dict.fromkeys(ids(60), "done")
    assert (await waiting).verdict is Verdict.SUCCEEDED
    assert len([note for note in notes if "does not know" in note.text]) == MOST_TOLD


async def test_runs_that_nobody_knows_are_told_of_up_to_a_number(
    service: Service, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(progress.OWN_TIMEOUTS, progress.Trouble.NOT_FOUND, 0.1)
    service.errors = {run_id: NotFound("no such run", status=404) for run_id in ids(60)}
    notes: list[Note] = []
    outcome = await wait(connections, ids(60), notes)
    assert (outcome.verdict, len(outcome.tallies or ())) == (Verdict.UNREACHABLE, 1)
    assert len([note for note in notes if "This is no verdict" in note.text]) == MOST_TOLD
    assert not [note for note in notes if "have ended" in note.text]


async def test_a_fault_of_the_poller_ends_the_wait_for_a_list_with_it(
    service: Service, connections: Connections
) -> None:
    service.runs |= dict.fromkeys(ids(50), "going") | {"r1": "broken"}
    waiting = asyncio.create_task(wait(connections, ids(50), poll_interval=5, min_poll_interval=5))
    await until(lambda: service.called("get_many"))
    the_poller()._task.cancel()
    with pytest.raises(RuntimeError, match="has ended"):
        await waiting


async def test_a_list_that_is_left_while_it_reads_its_connection_leaves_nothing_behind(
    service: Service, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = asyncio.Event()

    async def read() -> Any:
        reading.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(connections, "read", read)
    waiting = asyncio.create_task(wait(connections, ids(3)))
    await reading.wait()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert "key" not in poller._pollers[asyncio.get_running_loop()]
    assert len(asyncio.all_tasks()) == 1
