"""A person who ends hundreds of deferred tasks at once has each of their runs cancelled, once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any

import pytest

from airflow_provider_runs.base import kill, own_state
from airflow_provider_runs.base.hook import RunHook
from airflow_provider_runs.base.trigger import RunTrigger
from airflow_provider_runs.core import clock
from airflow_provider_runs.simulator import Simulator
from tests.base.fakes import FakeTaskInstance
from tests.strait.test_limit import LIMIT, Counted
from tools.demo import make_connections

STARTS: dict[str, dict[str, Any]] = {
    "mage": {"pipeline_schedule_id": 1},
    "paradime": {"slug": "daily"},
    "strait": {"job_id": "daily"},
}
ANY_SPEED = 600_000
"""Requests a minute: a limit that nothing meets, while runs are started."""


@pytest.fixture(scope="module")
def serving() -> Iterator[Simulator]:
    with Simulator() as simulator:
        yield simulator


class Tasks:
    """Deferred tasks of one system, each with a run that goes."""

    def __init__(self, simulator: Simulator, system: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.simulator, self.system = simulator, system
        self._environment = monkeypatch
        self.triggers: list[RunTrigger] = []

    def connect(self, **extra: Any) -> None:
        urls = (self.simulator.url_of(name) for name in ("chalk", "mage", "paradime", "strait"))
        fields = make_connections(*urls)[f"{self.system}_default"]
        fields["extra"] = {**fields.get("extra", {}), **extra}
        self._environment.setenv(f"AIRFLOW_CONN_{self.system.upper()}_DEFAULT", json.dumps(fields))

    async def defer(self, number: int) -> None:
        self.connect(max_requests_per_minute=ANY_SPEED)
        hooks = import_module(f"airflow_provider_runs.{self.system}.hooks")
        triggers = import_module(f"airflow_provider_runs.{self.system}.triggers")
        hook: RunHook = getattr(hooks, f"{self.system.title()}Hook")()
        kind = getattr(triggers, f"{self.system.title()}RunTrigger")
        async with hook:
            starts = (
                hook.adrive(lambda api, key=f"{key}": api.trigger(STARTS[self.system], key))
                for key in range(number)
            )
            runs = await asyncio.gather(*starts)
        for index, run in enumerate(runs):
            trigger = kind(hook.conn_id, run.id)
            trigger.task_instance = FakeTaskInstance(map_index=index)
            self.triggers.append(trigger)

    async def end(self, state: str = "failed") -> None:
        """Do to all tasks at once what a person does, and wait until their triggers are through with it."""
        for trigger in self.triggers:
            trigger.task_instance.state = state  # type: ignore[union-attr]
        await asyncio.gather(*(trigger.on_kill() for trigger in self.triggers))

    def cancels(self) -> list[int]:
        """Return how often each run was cancelled; the runs must have ended by it."""
        wanted = {trigger.run_id for trigger in self.triggers}
        runs = [run for run in self.simulator.runs(self.system) if str(run["id"]) in wanted]
        assert len(runs) == len(wanted)
        assert {str(run["status"]).lower() for run in runs} <= {"cancelled", "canceled"}
        return [run["cancels"] for run in runs]


@pytest.fixture
def tasks(serving: Simulator, system: str, monkeypatch: pytest.MonkeyPatch) -> Tasks:
    serving.reset()
    serving.plan(outcome="stuck")
    return Tasks(serving, system, monkeypatch)


each_system = pytest.mark.parametrize("system", STARTS)


@each_system
async def test_every_run_of_a_hundred_tasks_is_cancelled(tasks: Tasks, system: str) -> None:
    await tasks.defer(100)
    tasks.connect()
    began, asked = clock.monotonic(), tasks.simulator.count(system, "cancel")
    await tasks.end()
    cancels = tasks.cancels()
    # Mage may lose a cancel: it is sent until the run has ended.
    assert cancels == [1] * 100 or system == "mage"
    assert clock.monotonic() - began < 90
    requests = tasks.simulator.count(system, "cancel") - asked
    assert requests <= {"mage": sum(cancels), "paradime": 5, "strait": 0}[system]


@pytest.mark.parametrize("system", ["strait"])
async def test_three_hundred_runs_are_cancelled_within_the_limit_of_a_strait(tasks: Tasks) -> None:
    await tasks.defer(300)
    tasks.connect()
    limit: Any = Counted()
    tasks.simulator._server.systems["strait"]._gate.requests = limit  # type: ignore[attr-defined]
    began = clock.monotonic()
    await tasks.end()
    assert tasks.cancels() == [1] * 300
    assert clock.monotonic() - began < 30
    assert tasks.simulator.count("strait", "bulk_cancel", 200) == 3
    assert limit.refused == 0 and len(limit.moments) <= 30


@pytest.mark.parametrize("system", ["strait"])
async def test_kills_that_come_one_after_the_other_are_gathered_while_others_are_under_way(
    tasks: Tasks,
) -> None:
    """As Airflow tells a triggerer of one task after the other, at the rate that others leave it."""
    await tasks.defer(300)
    tasks.connect(max_requests_per_minute=45)

    def asked() -> int:
        return sum(tasks.simulator.count("strait", name) for name in ("get", "list", "bulk_cancel", "cancel"))

    async def end(trigger: RunTrigger, seconds: float) -> None:
        await asyncio.sleep(seconds)
        trigger.task_instance.state = "failed"  # type: ignore[union-attr]
        await trigger.on_kill()

    began, before = clock.monotonic(), asked()
    await asyncio.gather(*(end(trigger, 0.05 * index) for index, trigger in enumerate(tasks.triggers)))
    assert asked() - before <= 30
    assert tasks.cancels() == [1] * 300
    assert clock.monotonic() - began < 45


@pytest.mark.parametrize("system", ["strait"])
async def test_runs_are_cancelled_once_a_strait_that_refuses_all_takes_requests_again(tasks: Tasks) -> None:
    await tasks.defer(60)
    tasks.connect()
    limit: Any = Counted()
    for _ in range(LIMIT):
        limit.take("127.0.0.1")
    tasks.simulator._server.systems["strait"]._gate.requests = limit  # type: ignore[attr-defined]
    await tasks.end()
    assert tasks.cancels() == [1] * 60
    assert limit.refused > 0


@each_system
async def test_one_task_is_cancelled_alone(tasks: Tasks) -> None:
    await tasks.defer(3)
    tasks.connect()
    ended, others = tasks.triggers[:1], tasks.triggers[1:]
    tasks.triggers = ended
    await tasks.end("success")
    assert len(tasks.cancels()) == 1
    left = {other.run_id for other in others}
    runs = [run for run in tasks.simulator.runs(tasks.system) if str(run["id"]) in left]
    assert len(runs) == 2 and not any(run["cancels"] for run in runs)


@pytest.mark.parametrize("system", ["paradime"])
async def test_tasks_that_are_ended_one_after_the_other_share_a_session_which_is_closed_once(
    tasks: Tasks, mocker: Any
) -> None:
    await tasks.defer(4)
    tasks.connect()
    closed = mocker.spy(RunHook, "aclose")

    async def end(trigger: RunTrigger, seconds: float) -> None:
        await asyncio.sleep(seconds)
        trigger.task_instance.state = "failed"  # type: ignore[union-attr]
        await trigger.on_kill()

    # The first is through while the second still waits for others to come with it.
    pauses = (0.0, 1.2, 1.3, 1.4)
    await asyncio.gather(*map(end, tasks.triggers, pauses))
    await asyncio.sleep(2 * kill.BATCH_WINDOW)
    assert tasks.cancels() == [1] * 4
    assert closed.call_count == 1


@each_system
async def test_an_outage_that_the_cancel_meets_is_told_in_the_log_of_each_task(
    tasks: Tasks, system: str, mocker: Any
) -> None:
    await tasks.defer(30)
    tasks.connect()
    tasks.simulator.fault("status", system=system, status=503)
    log = mocker.patch.object(RunTrigger, "log")
    await tasks.end()
    told = [call.args[0] % call.args[1:] for call in log.warning.call_args_list]
    assert len(told) == 30 and all("503" in line for line in told)
    assert {line.split()[1] for line in told} == {trigger.run_id for trigger in tasks.triggers}
    tasks.simulator.clear_faults()
    await tasks.end()
    assert len(tasks.cancels()) == 30


@each_system
async def test_a_trigger_ends_after_its_kill_so_that_the_tasks_log_has_all_of_it(
    tasks: Tasks, system: str, mocker: Any
) -> None:
    """Airflow cancels the trigger again every second, and closes the task's log once it has cleaned up."""
    await tasks.defer(1)
    tasks.connect()
    (trigger,) = tasks.triggers
    tasks.simulator.fault("slow", system=system, operation="*", seconds=4.0)
    log = mocker.patch.object(RunTrigger, "log")

    async def as_airflow_does() -> None:
        try:
            await asyncio.wait_for(trigger.on_kill(), timeout=30)
        except asyncio.CancelledError:
            pass
        finally:
            await trigger.cleanup()

    trigger.task_instance.state = "failed"  # type: ignore[union-attr]
    running = asyncio.create_task(as_airflow_does())
    while not running.done():
        await asyncio.sleep(1.0)
        running.cancel()
    told = [call.args[0] % call.args[1:] for call in log.info.call_args_list]
    assert any("has ended" in line for line in told)


# A triggerer that is told to stop


@each_system
async def test_a_process_that_is_told_to_stop_sends_the_cancels_that_are_wanted_of_it(
    tasks: Tasks, system: str, mocker: Any
) -> None:
    """As where a triggerer gets SIGINT while a service is slow: the reader of states is gone by then."""
    await tasks.defer(30)
    tasks.connect()
    tasks.simulator.fault("hang", system=system, operation="*", seconds=300.0)
    before = asyncio.all_tasks()
    mocker.patch.object(own_state, "own_state", return_value="failed")
    ending = asyncio.create_task(tasks.end())
    await asyncio.sleep(2.0)
    assert all(run["cancels"] == 0 for run in tasks.simulator.runs(system))
    tasks.simulator.clear_faults()
    began = clock.monotonic()
    left = [task for task in asyncio.all_tasks() - before if task is not ending]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    assert clock.monotonic() - began < kill.LAST_SECONDS
    await asyncio.sleep(60.0)  # Paradime takes its time
    assert tasks.cancels() == [1] * 30
    with suppress(asyncio.CancelledError):
        await ending


@pytest.mark.parametrize("system", ["strait"])
async def test_a_process_that_is_told_to_stop_does_not_read_a_connection_first(
    tasks: Tasks, mocker: Any
) -> None:
    """Its reader is closed then: it would hang."""
    await tasks.defer(3)
    mocker.patch.object(RunHook, "aread_api", side_effect=asyncio.Event().wait)
    before = asyncio.all_tasks()
    ending = asyncio.create_task(tasks.end())
    await asyncio.sleep(5.0)
    left = [task for task in asyncio.all_tasks() - before if task is not ending]
    began = clock.monotonic()
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    assert clock.monotonic() - began < 1.0
    with suppress(asyncio.CancelledError):
        await ending


# What Airflow is asked


class Instance:
    """A task instance of Airflow 3."""

    def __init__(self, task_id: str, map_index: int = -1, run_id: str = "manual") -> None:
        self.dag_id, self.task_id, self.run_id, self.map_index = "dag", task_id, run_id, map_index


class Supervisor:
    """Answer what triggers ask about task states, and keep the questions."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.asked: list[dict[str, Any]] = []
        self.states: dict[tuple[str, int], str | None] = {}

    def get_task_states(self, **question: Any) -> dict[str, dict[str, str | None]]:
        clock.sleep(self.seconds)
        self.asked.append(question)
        found = {
            (name, index): state
            for (name, index), state in self.states.items()
            if name in question["task_ids"] and question.get("map_index") in (None, index)
        }
        named = {name if index < 0 else f"{name}_{index}": state for (name, index), state in found.items()}
        return {run_id: named for run_id in question["run_ids"]}


@pytest.fixture
def supervisor(mocker: Any) -> Supervisor:
    runner = pytest.importorskip(
        "airflow.sdk.execution_time.task_runner", reason="Airflow 2 kills no trigger"
    )
    supervisor = Supervisor(seconds=1.0)
    mocker.patch.object(runner.RuntimeTaskInstance, "get_task_states", supervisor.get_task_states)
    return supervisor


async def states_of(*instances: Any) -> list[str | None]:
    return await asyncio.gather(*(own_state.task_state_reader().state(each) for each in instances))


async def test_the_states_of_all_tasks_of_a_dag_run_are_one_question(supervisor: Supervisor) -> None:
    instances = [Instance("mapped", index) for index in range(200)] + [Instance(f"t{n}") for n in range(100)]
    supervisor.states = {(each.task_id, each.map_index): "failed" for each in instances}
    assert await states_of(*instances) == ["failed"] * 300
    assert len(supervisor.asked) == 1


async def test_tasks_that_airflow_calls_the_same_are_asked_about_singly(supervisor: Supervisor) -> None:
    supervisor.states = {("load", 3): "failed", ("load_3", -1): "running", ("load", 4): None}
    instances = [Instance("load", 3), Instance("load_3"), Instance("load", 4), Instance("other")]
    supervisor.states["other", -1] = "success"
    assert await states_of(*instances) == ["failed", "running", None, "success"]
    assert len(supervisor.asked) == 3


async def test_the_time_of_each_question_begins_with_its_turn(supervisor: Supervisor) -> None:
    supervisor.seconds = own_state.READ_SECONDS - 1
    instances = [Instance("t", run_id=f"run {number}") for number in range(5)]
    supervisor.states = {("t", -1): "failed"}
    began = clock.monotonic()
    assert await states_of(*instances) == ["failed"] * 5
    assert clock.monotonic() - began > 2 * own_state.READ_SECONDS


async def test_a_question_that_is_not_answered_in_time_holds_up_nobody_else(supervisor: Supervisor) -> None:
    supervisor.seconds = own_state.READ_SECONDS + 1
    supervisor.states = {("t", -1): "failed"}
    late = asyncio.gather(
        *(own_state.task_state_reader().state(Instance("t", run_id=f"run {n}")) for n in range(2)),
        return_exceptions=True,
    )
    assert [type(answer) for answer in await late] == [TimeoutError] * 2
    supervisor.seconds = 1.0
    assert await states_of(Instance("t")) == ["failed"]


async def test_a_first_state_is_read_before_it_is_needed_but_not_while_triggers_begin(mocker: Any) -> None:
    read = mocker.patch.object(own_state, "own_state", return_value="deferred")
    reader = own_state.TaskStateReader()
    for index in range(3):
        reader.warm_up(Instance("task", index))
    await asyncio.sleep(own_state.WARM_UP_AFTER - 1)
    assert read.call_count == 0
    await asyncio.sleep(10.0)
    assert read.call_count == 1
