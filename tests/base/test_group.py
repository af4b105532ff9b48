"""Many waits that are one, in the watcher that all waits of a connection share."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from airflow_provider_runs.base import watch as watching
from airflow_provider_runs.base.group import look_at_runs, wait_for_runs
from airflow_provider_runs.base.watch import Watcher, WatcherDied, wait_for_run
from airflow_provider_runs.core import progress
from airflow_provider_runs.core.errors import ConnectionFailed, NotFound
from airflow_provider_runs.core.outcome import MOST_TOLD, Outcome, Verdict
from airflow_provider_runs.core.progress import Note
from airflow_provider_runs.core.run import Run
from tests.base.fakes import FullApi, Service
from tests.base.test_many import down, ids
from tests.base.test_watch import Connections, a_watch, until


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


def the_watcher() -> Watcher:
    return watching._watchers[asyncio.get_running_loop()]["key"]


async def test_a_list_and_a_single_wait_share_one_watcher_and_its_looks(
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
    assert "key" not in watching._watchers[asyncio.get_running_loop()]


async def test_a_list_takes_no_task_for_each_run(service: Service, connections: Connections) -> None:
    service.runs |= dict.fromkeys(ids(2000), "going")
    waiting = asyncio.create_task(wait(connections, ids(2000), poll_interval=5, min_poll_interval=5))
    await until(lambda: len(service.called("get_many")) >= 40)
    assert len(asyncio.all_tasks()) < 20
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert "key" not in watching._watchers[asyncio.get_running_loop()]
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


# The end of the watcher


async def test_a_list_goes_on_where_it_was_if_its_watcher_dies(
    service: Service, connections: Connections
) -> None:
    service.runs |= dict.fromkeys(ids(50), "going") | {"r1": "broken"}
    waiting = asyncio.create_task(wait(connections, ids(50), poll_interval=5, min_poll_interval=5))
    await until(lambda: service.called("get_many"))
    await asyncio.sleep(0.05)
    service.calls.clear()
    service.runs = dict.fromkeys(ids(50), "done")
    the_watcher()._task.cancel()
    outcome = await waiting
    # What was seen of the first one counts.
    assert outcome.verdict is Verdict.FAILED
    assert [(tally.verdict, tally.count) for tally in outcome.tallies or ()] == [
        (Verdict.FAILED, 1),
        (Verdict.SUCCEEDED, 49),
    ]
    assert "r1" not in {run_id for batch in service.called("get_many") for run_id in batch}


async def test_a_list_whose_watchers_die_again_and_again_gives_up(
    service: Service, connections: Connections
) -> None:
    service.runs |= dict.fromkeys(ids(50), "going")
    waiting = asyncio.create_task(wait(connections, ids(50), poll_interval=5, min_poll_interval=5))
    for _ in range(2):
        service.calls.clear()
        await until(lambda: service.called("get_many"))
        the_watcher()._task.cancel()
        await asyncio.sleep(0.05)
    with pytest.raises(WatcherDied):
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
    assert "key" not in watching._watchers[asyncio.get_running_loop()]
    assert len(asyncio.all_tasks()) == 1


# Looks


async def test_a_look_beside_a_wait_takes_its_watcher(service: Service, connections: Connections) -> None:
    service.runs |= dict.fromkeys(ids(60), "going")
    waiting = asyncio.create_task(wait(connections, ids(60), poll_interval=5, min_poll_interval=5))
    await until(lambda: len(service.called("get_many")) == 2)
    await asyncio.sleep(0.05)
    found = await look_at_runs("key", connections.read, ids(60), "Fake")
    assert all(isinstance(run, Run) for run in found.values()) and list(found) == ids(60)
    assert len(service.called("get_many")) == 4 and service.called("get") == []
    assert connections.reads == 1 and not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_a_look_during_an_outage_that_is_known_asks_nobody(
    service: Service, connections: Connections
) -> None:
    service.runs |= dict.fromkeys(ids(60), "going")
    service.get_errors = [down() for _ in range(1000)]
    waiting = asyncio.create_task(wait(connections, ids(60)))
    await until(lambda: service.calls and the_watcher()._outage is not None)
    asked = len(service.calls)
    found = await look_at_runs("key", connections.read, ids(100)[60:], "Fake", attempts=3)
    assert {type(error) for error in found.values()} == {ConnectionFailed} and len(found) == 40
    assert len(service.calls) <= asked + 2
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_a_look_whose_watcher_dies_is_made_up_for(
    service: Service, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "BACKOFF_BASE", 60.0)
    monkeypatch.setattr(watching, "BACKOFF_CAP", 60.0)
    service.runs |= dict.fromkeys(ids(60), "going")
    service.get_errors = [down()]
    looking = asyncio.create_task(look_at_runs("key", connections.read, ids(60), "Fake", attempts=2))
    # The first batch waits for its second attempt.
    await until(lambda: len(service.called("get_many")) == 2)
    the_watcher()._task.cancel()
    found = await looking
    assert list(found) == ids(60) and {type(run) for run in found.values()} == {Run}
