"""
Just after a dead letter was replayed, Strait shows its old end for minutes: no task may be misled by it.

The simulated Strait answers GET, DELETE and streams of a run from a copy of an end that one has seen, as the
vendor's server does.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import requests
from airflow.providers.common.compat.sdk import AirflowTaskTimeout, TaskDeferred

from airflow_provider_runs.base.exceptions import Interrupted, RequestRefused, RunFailed
from airflow_provider_runs.core import clock
from airflow_provider_runs.simulator import Simulator
from airflow_provider_runs.strait.hooks import StraitHook
from airflow_provider_runs.strait.sensors import StraitRunSensor
from airflow_provider_runs.strait.triggers import StraitRunTrigger
from tests.base.conftest import callable_operators, later, told  # noqa: F401
from tests.base.fakes import run_here
from tests.simulators import Simulators
from tests.strait.tasks import KEY, PACE, connect, deferrable, ended, replay, statuses, task, until
from tests.tasks import new_context, run


@pytest.fixture
def sim(simulators: Simulators, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    simulator = simulators(["strait"], speed=20)
    connect(monkeypatch, simulator)
    return simulator


def dead(sim: Simulator, after: str = "completed", duration: float | None = None) -> str:
    """Return a dead letter whose end was seen, and that ends otherwise once it is replayed."""
    run_id = ended("broken")
    sim.plan(system="strait", resource="broken", outcome=after, duration=duration)
    assert copy_of(sim, run_id) == "dead_letter"
    return run_id


def copy_of(sim: Simulator, run_id: str) -> str:
    """Return the status that GET shows."""
    answer = requests.get(
        f"{sim.url_of('strait')}/v1/runs/{run_id}", headers={"Authorization": f"Bearer {KEY}"}, timeout=10
    )
    status: str = answer.json()["status"]
    return status


@deferrable
@pytest.mark.parametrize("after", ["completed", "dead_letter", "canceled"])
def test_only_the_new_end_counts(sim: Simulator, deferrable: bool, after: str) -> None:
    run_id = dead(sim, after)
    if after == "completed":
        assert run(replay(run_id, deferrable=deferrable), new_context()) == run_id
    else:
        began = clock.monotonic()
        with pytest.raises(RunFailed, match=after):
            run(replay(run_id, deferrable=deferrable), new_context())
        assert clock.monotonic() - began > 0.1
    assert statuses(sim) == {run_id: after}
    # That is what makes it hard.
    assert copy_of(sim, run_id) == "dead_letter"


@deferrable
def test_a_retry_of_the_task_attaches_while_the_old_end_is_shown(
    sim: Simulator,
    told: Callable[[], str],  # noqa: F811
    deferrable: bool,
) -> None:
    run_id, context = dead(sim, duration=20), new_context()
    replay(run_id, wait_for_completion=False).execute(context)
    assert statuses(sim)[run_id] != copy_of(sim, run_id)
    assert run(replay(run_id, deferrable=deferrable), context) == run_id
    assert sim.count("strait", "dlq_replay") == 1
    assert f"Attaching to run {run_id} of an earlier try" in told()


@deferrable
def test_a_sensor_does_not_take_the_old_end_for_the_new_one(sim: Simulator, deferrable: bool) -> None:
    run_id = dead(sim, duration=20)
    StraitHook().dlq_replay_run(run_id)
    sensor = StraitRunSensor(task_id="t", run_id=run_id, deferrable=deferrable, poke_interval=0.2, **PACE)
    assert run(sensor, new_context()) == run_id


def test_many_waits_in_one_event_loop(sim: Simulator) -> None:
    ids = [ended("broken") for _ in range(6)]
    sim.plan(system="strait", resource="broken", outcome="completed", duration=40)
    triggers = []
    for run_id in ids:
        with pytest.raises(TaskDeferred) as paused:
            replay(run_id, deferrable=True).execute(new_context())
        triggers.append(paused.value.trigger)

    async def fire_all() -> list[Any]:
        async def first(trigger: Any) -> Any:
            copied = StraitRunTrigger(**json.loads(json.dumps(trigger.serialize()[1])))
            (payload,) = [event.payload async for event in copied.run()]
            return payload

        return await asyncio.gather(*(first(trigger) for trigger in triggers))

    events = asyncio.run(fire_all())
    assert [(event["run_id"], event["outcome"]) for event in events] == [(one, "succeeded") for one in ids]
    assert {copy_of(sim, one) for one in ids} == {"dead_letter"}


def test_the_old_end_is_not_asked_for_without_a_pause(sim: Simulator) -> None:
    run_id = dead(sim, duration=60)
    looks = sim.count("strait", "get")
    run(replay(run_id, min_poll_interval=0.5, poll_interval=0.5), new_context())
    assert sim.count("strait", "get") - looks <= 20


def test_execution_timeout_cancels_the_replayed_run(sim: Simulator) -> None:
    """Strait refuses a DELETE by the same copy."""
    run_id = dead(sim, duration=600)
    with pytest.raises(AirflowTaskTimeout):
        run_here(replay(run_id, execution_timeout=timedelta(seconds=1.5)), new_context())
    assert statuses(sim) == {run_id: "canceled"}


def test_execution_timeout_cancels_the_replayed_run_of_a_deferred_task(sim: Simulator) -> None:
    run_id = dead(sim, duration=600)
    limited = replay(run_id, deferrable=True, execution_timeout=timedelta(seconds=1.5))
    with pytest.raises(AirflowTaskTimeout):
        run(limited, new_context())
    assert statuses(sim) == {run_id: "canceled"}


def test_a_person_who_ends_the_task_cancels_the_replayed_run(
    sim: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    later: Callable[..., None],  # noqa: F811
) -> None:
    run_id = dead(sim, duration=600)
    waiting = replay(run_id)
    monkeypatch.setattr("airflow_provider_runs.base.operator.own_state", lambda ti: "failed")
    later(1.0, waiting.on_kill)
    with pytest.raises(Interrupted):
        waiting.execute(new_context())
    assert statuses(sim) == {run_id: "canceled"}


def test_a_cleared_task_cancels_the_replay_that_goes_and_says_that_it_is_no_dead_letter_any_more(
    sim: Simulator,
) -> None:
    run_id, context = dead(sim, duration=600), new_context()
    replay(run_id, wait_for_completion=False).execute(context)
    context["ti"].max_tries += 2
    with pytest.raises(RequestRefused, match=f"run {run_id} is not replayed: it is canceled.*Start the job"):
        run(replay(run_id), context)
    assert statuses(sim) == {run_id: "canceled"}


def test_a_cleared_task_goes_on_with_a_replay_that_is_not_to_be_cancelled(sim: Simulator) -> None:
    run_id, context = dead(sim, duration=20), new_context()
    replay(run_id, wait_for_completion=False, cancel_on_kill=False).execute(context)
    context["ti"].max_tries += 2
    assert run(replay(run_id, cancel_on_kill=False), context) == run_id
    assert sim.count("strait", "dlq_replay") == 1


def test_a_gathered_start_that_was_not_forgotten_is_answered_the_same_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where the process dies between Strait's answer and the end of the task."""
    with Simulator(["strait"], speed=20) as sim:
        connect(monkeypatch, sim)
        context = new_context()
        monkeypatch.setattr(type(context["task_state_store"]), "delete", lambda self, key: None)
        for _ in range(2):
            assert task("debounced", wait_for_completion=False).execute(context) == ""
        assert context["task_state_store"]["run"]["run_id"] is None
        # A clear finds nothing to cancel, and starts anew.
        context["ti"].max_tries += 2
        assert task("debounced", wait_for_completion=False).execute(context) == ""
        until(lambda: len(sim.runs("strait")) == 1)
