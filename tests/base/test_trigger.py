from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from airflow_provider_runs.base import kill
from airflow_provider_runs.base import own_state as own
from airflow_provider_runs.base import trigger as module
from airflow_provider_runs.base.own_state import LEFT_GOING, UNREADABLE, left_going, own_state
from airflow_provider_runs.base.trigger import RunTrigger
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.errors import ApiError
from tests.base.fakes import FakeRunTrigger, FakeTaskInstance, FullApi, PlainHook, Service
from tests.base.test_operator import BY_PERSON


def a_trigger(**changes: Any) -> RunTrigger:
    made = FakeRunTrigger(**{"conn_id": "fake_default", "run_id": "r1", **changes})
    made.task_instance = FakeTaskInstance()  # type: ignore[assignment]
    return made


def test_a_trigger_of_an_older_release_can_still_be_built() -> None:
    first_release = {
        "conn_id": "fake_default",
        "run_id": "r1",
        "scope": {},
        "poll_interval": 60.0,
        "min_poll_interval": 2.0,
        "execution_deadline": None,
        "wait_deadline": None,
        "cancel_on_kill": True,
    }
    built = FakeRunTrigger(**first_release)
    assert {name: getattr(built, name) for name in first_release} == first_release


def test_what_holds_its_default_is_not_stored_so_that_an_older_release_can_build_the_trigger() -> None:
    assert a_trigger().serialize()[1] == {"conn_id": "fake_default", "run_id": "r1"}
    assert a_trigger(cancel_on_kill=False, scope={}).serialize()[1] == {
        "conn_id": "fake_default",
        "run_id": "r1",
        "cancel_on_kill": False,
    }


async def test_arguments_of_a_newer_release_are_told_once_and_not_heeded(
    service: Service, mocker: Any
) -> None:
    service.runs["r1"] = "done"
    made = a_trigger(of_tomorrow=1, another=None)
    log = mocker.patch.object(module.RunTrigger, "log")
    assert [event.payload["outcome"] async for event in made.run()] == ["succeeded"]
    (told,) = (call.args for call in log.warning.call_args_list)
    assert told[1:] == ("another, of_tomorrow",)


def test_a_trigger_survives_its_serialisation() -> None:
    made = a_trigger(scope={"zone": "eu"}, wait_deadline=12.5, cancel_on_kill=False)
    _, arguments = made.serialize()
    assert FakeRunTrigger(**arguments).serialize() == made.serialize()


def test_building_a_trigger_reads_no_connection(mocker: Any) -> None:
    read = mocker.patch("airflow_provider_runs.base.hook.RunHook.get_connection")
    a_trigger(conn_id="missing")
    assert not read.called


async def test_a_trigger_fires_one_event(service: Service) -> None:
    service.runs["r1"] = "done"
    made = a_trigger()
    made.task_instance = None
    fired = [event.payload async for event in made.run()]
    assert [event["outcome"] for event in fired] == ["succeeded"]


async def test_a_trigger_leaves_airflow_time_to_notice_that_the_task_has_deferred(service: Service) -> None:
    service.runs["r1"] = "done"
    began = clock.monotonic()
    assert [event.payload["outcome"] async for event in a_trigger().run()] == ["succeeded"]
    assert clock.monotonic() - began >= module.SETTLE_SECONDS


@pytest.mark.parametrize("state", [None, *BY_PERSON])
async def test_a_person_who_ends_the_deferred_task_cancels_the_run(
    service: Service, monkeypatch: pytest.MonkeyPatch, state: str | None
) -> None:
    service.runs["r1"] = "going"
    made = a_trigger()
    made.task_instance.state = state  # type: ignore[union-attr]
    await made.on_kill()
    assert service.called("cancel") == ["r1"]


@pytest.mark.parametrize("state", ["deferred", "scheduled", "queued", "running", "up_for_retry"])
async def test_a_trigger_that_was_moved_cancels_nothing(service: Service, state: str) -> None:
    service.runs["r1"] = "going"
    made = a_trigger()
    made.task_instance.state = state  # type: ignore[union-attr]
    await made.on_kill()
    assert service.calls == []


async def test_a_moved_trigger_whose_run_and_task_have_ended_meanwhile_cancels_nothing(
    service: Service,
) -> None:
    service.runs["r1"] = "done"
    made = a_trigger()
    made.task_instance.state = "success"  # type: ignore[union-attr]
    await made.on_kill()
    assert service.called("cancel") == []


async def test_a_moved_trigger_whose_task_has_left_the_run_going_meanwhile_cancels_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.runs["r1"] = "going"
    made = a_trigger(wait_deadline=clock.time() - 1)
    made.task_instance.state = "failed"  # type: ignore[union-attr]
    monkeypatch.setattr(own, "left_going", lambda ti: "r1")
    await made.on_kill()
    assert service.calls == []


@pytest.mark.parametrize("left", [None, "r0"])
async def test_a_person_who_ends_the_task_after_its_time_cancels_the_run(
    service: Service, monkeypatch: pytest.MonkeyPatch, left: str | None
) -> None:
    service.runs["r1"] = "going"
    made = a_trigger(wait_deadline=clock.time() - 1)
    made.task_instance.state = "failed"  # type: ignore[union-attr]
    monkeypatch.setattr(own, "left_going", lambda ti: left)
    await made.on_kill()
    assert service.called("cancel") == ["r1"]


def test_what_a_task_has_left_going_is_read_from_its_own_xcom(mocker: Any) -> None:
    xcom = pytest.importorskip("airflow.sdk.execution_time.xcom", reason="Airflow 2 kills no trigger")
    get_one = mocker.patch.object(xcom.XCom, "get_one", return_value="r1")
    assert left_going(FakeTaskInstance(map_index=3)) == "r1"
    get_one.assert_called_once_with(
        key=LEFT_GOING, dag_id="dag", task_id="task", run_id="manual", map_index=3
    )
    get_one.return_value = None
    assert left_going(FakeTaskInstance()) is None
    get_one.side_effect = RuntimeError("no answer")
    assert left_going(FakeTaskInstance()) == UNREADABLE


async def test_where_airflow_does_not_say_whether_the_run_was_left_going_it_is_not_cancelled(
    service: Service, mocker: Any
) -> None:
    service.runs["r1"] = "going"
    made = a_trigger()
    made.task_instance.state = "failed"  # type: ignore[union-attr]
    read = mocker.patch.object(own, "left_going", return_value=UNREADABLE)
    log = mocker.patch.object(module.RunTrigger, "log")
    await made.on_kill()
    assert service.calls == [] and read.call_count == own.ATTEMPTS
    assert log.warning.call_args.args[0].startswith("Run %s may go on")
    read.side_effect = [UNREADABLE, None]
    await made.on_kill()
    assert service.called("cancel") == ["r1"]


async def test_a_run_that_cannot_be_looked_at_is_cancelled_unseen(service: Service) -> None:
    service.runs["r1"] = "going"
    made = a_trigger()
    made.task_instance.state = "failed"  # type: ignore[union-attr]
    service.get_errors = [ApiError("broken", status=400)]
    await made.on_kill()
    assert service.called("cancel") == ["r1"]


async def test_a_state_that_cannot_be_read_cancels_nothing(service: Service, mocker: Any) -> None:
    service.runs["r1"] = "going"
    made = a_trigger()
    mocker.patch.object(FakeTaskInstance, "current_state", side_effect=RuntimeError)
    assert own_state(made.task_instance) == UNREADABLE
    await made.on_kill()
    assert service.calls == []


async def test_cancel_on_kill_off_sends_nothing(service: Service) -> None:
    service.runs["r1"] = "going"
    made = a_trigger(cancel_on_kill=False)
    made.task_instance.state = "failed"  # type: ignore[union-attr]
    await made.on_kill()
    assert service.calls == []


async def test_where_nothing_can_cancel_the_log_says_that_the_run_goes_on_and_where(
    service: Service, monkeypatch: pytest.MonkeyPatch, mocker: Any
) -> None:
    service.runs["r1"] = "going"
    monkeypatch.setattr(FakeRunTrigger, "hook_class", PlainHook)
    made = a_trigger()
    made.task_instance.state = "failed"  # type: ignore[union-attr]
    log = mocker.patch.object(module.RunTrigger, "log")
    await made.on_kill()
    assert log.warning.call_args.args[1:] == ("Fake", "r1", "http://fake/r1")


async def test_a_slow_cancellation_survives_that_airflow_cancels_the_trigger_again_and_again(
    service: Service, mocker: Any
) -> None:
    service.runs["r1"] = "going"
    made = a_trigger()
    made.task_instance.state = "failed"  # type: ignore[union-attr]
    assert kill.BATCH_WINDOW > 0.15
    killing = asyncio.create_task(made.on_kill())
    for _ in range(5):
        await asyncio.sleep(0.03)
        killing.cancel("user-action")
    await killing
    assert service.called("cancel") == ["r1"]
    assert service.runs["r1"] == "stopped"


async def test_a_cancellation_that_is_not_seen_to_work_is_said(service: Service, mocker: Any) -> None:
    service.runs["r1"] = "going"
    made = a_trigger()
    made.task_instance.state = "failed"  # type: ignore[union-attr]
    cancel = mocker.patch.object(FullApi, "cancel", side_effect=lambda run_id: iter(()))
    log = mocker.patch.object(module.RunTrigger, "log")
    await made.on_kill()
    assert log.warning.call_args.args == (
        "%s run %s is still %s after it was cancelled",
        "Fake",
        "r1",
        "going",
    )
    cancel.side_effect = ApiError("refused", status=403)
    await made.on_kill()
    assert log.warning.call_args.args[1:] == ("r1", "refused")


async def test_the_time_for_the_cancel_begins_when_airflow_has_said_who_ended_the_task(
    service: Service, mocker: Any
) -> None:
    service.runs["r1"] = "going"
    made = a_trigger()

    def answered(state: str | None) -> Callable[..., str | None]:
        def slowly(*_: Any) -> str | None:
            clock.sleep(own.READ_SECONDS - 1)
            return state

        return slowly

    mocker.patch.object(FakeTaskInstance, "current_state", side_effect=answered("failed"))
    mocker.patch.object(own, "left_going", side_effect=answered(None))
    await made.on_kill()
    assert service.runs["r1"] == "stopped"


async def test_where_airflow_does_not_say_who_ended_the_task_the_log_says_that_the_run_may_go_on(
    service: Service, mocker: Any
) -> None:
    service.runs["r1"] = "going"
    made = a_trigger()
    silent = partial(clock.sleep, own.READ_SECONDS + 1)
    mocker.patch.object(FakeTaskInstance, "current_state", side_effect=silent)
    log = mocker.patch.object(module.RunTrigger, "log")
    await made.on_kill()
    assert log.warning.call_args.args[0].startswith("Run %s may go on")
    assert service.calls == []


async def test_killing_twice_is_harmless(service: Service) -> None:
    service.runs["r1"] = "going"
    made = a_trigger()
    made.task_instance.state = "failed"  # type: ignore[union-attr]
    await made.on_kill()
    await made.on_kill()
    assert service.runs["r1"] == "stopped"


def test_the_state_of_an_airflow_3_task_is_asked_of_its_supervisor(mocker: Any) -> None:
    runner = pytest.importorskip(
        "airflow.sdk.execution_time.task_runner", reason="Airflow 2 has no supervisor"
    )

    class Instance:
        dag_id, task_id, run_id, map_index = "dag", "task", "manual", 3

    ask = mocker.patch.object(
        runner.RuntimeTaskInstance, "get_task_states", return_value={"manual": {"task_3": "failed"}}
    )
    assert own_state(Instance()) == "failed"
    assert ask.call_args.kwargs == {
        "dag_id": "dag",
        "map_index": 3,
        "task_ids": ["task"],
        "run_ids": ["manual"],
    }
    ask.return_value = {"manual": {"task_3": None}}
    assert own_state(Instance()) is None
    ask.return_value = {}
    assert own_state(Instance()) == UNREADABLE
