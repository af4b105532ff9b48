"""Sensors that wait for a list of runs, without a network."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)

from airflow_provider_runs.base.exceptions import (
    RequestRefused,
    RunCancelled,
    RunFailed,
    RunStatusUnknown,
    RunUnreachable,
)
from airflow_provider_runs.core import clock, progress
from airflow_provider_runs.core.drivers import Driver
from airflow_provider_runs.core.errors import (
    ApiError,
    BadInput,
    ConnectionFailed,
    ConnectionUnreadable,
    NotFound,
    Unauthorized,
)
from airflow_provider_runs.core.http import Flow, Request, Response
from airflow_provider_runs.core.outcome import BadEvent, Outcome, Verdict
from airflow_provider_runs.core.run import Run
from tests.base import fakes
from tests.base.fakes import FakeHook, FakeRunSensor, FakeRunTrigger, FullApi, PlainHook, Service, fire
from tests.base.test_sensor import MODES, Later, first_look, first_start, run  # noqa: F401

modes = pytest.mark.parametrize("mode", MODES)
soft = pytest.mark.parametrize("soft_fail", [False, True])


def down() -> ConnectionFailed:
    return ConnectionFailed("down", sent=False)


def a_sensor(mode: str, run_ids: Any, **changes: Any) -> FakeRunSensor:
    chosen = {"deferrable": True} if mode == "deferrable" else {"mode": mode}
    return FakeRunSensor(
        **{"task_id": "task", "run_ids": run_ids, "poke_interval": 0.05, **chosen, **changes}
    )


def ids(count: int) -> list[str]:
    return [f"r{number}" for number in range(1, count + 1)]


@modes
def test_a_list_gives_its_ids_in_order_each_once(
    service: Service, context: dict[str, Any], later: Later, mode: str
) -> None:
    service.runs |= {"r1": "going", "r2": "done", "r3": "done"}
    later(0.2, lambda: service.runs.update(r1="done"))
    assert run(a_sensor(mode, ["r3", "r1", "r3", "r2"]), context, service) == ["r3", "r1", "r2"]
    assert "run_url" not in context["ti"].pushed


@modes
@pytest.mark.parametrize("given", [("r1", "r2"), '["r1", "r2"]', "['r1', 'r2']", "  ('r1', 'r2') "])
def test_a_list_may_be_what_a_template_renders_to(
    service: Service, context: dict[str, Any], mode: str, given: Any
) -> None:
    service.runs |= {"r1": "done", "r2": "done"}
    assert run(a_sensor(mode, given), context, service) == ["r1", "r2"]


# Airflow 3.0 and 3.1 themselves make connections in a way that they call old.
@pytest.mark.filterwarnings("ignore:Using Connection.* from `airflow.models`:DeprecationWarning")
def test_the_results_of_a_mapped_task_are_not_read_one_by_one(
    service: Service, context: dict[str, Any], mocker: Any
) -> None:
    lazy = pytest.importorskip(
        "airflow.sdk.execution_time.lazy_sequence", reason="Airflow 2 reads them by one query anyway"
    )
    comms = pytest.importorskip("airflow.sdk.execution_time.comms")
    runner = pytest.importorskip("airflow.sdk.execution_time.task_runner")
    supervisor = mocker.patch.object(runner, "SUPERVISOR_COMMS", create=True)
    supervisor.send.return_value = comms.XComSequenceSliceResult(root=["r1", "r2"])
    source = mocker.Mock(operator=mocker.Mock(task_id="start", dag_id="dag"), key="return_value")
    service.runs |= {"r1": "done", "r2": "done"}
    made = a_sensor("reschedule", lazy.LazyXComSequence(xcom_arg=source, ti=mocker.Mock(run_id="manual")))
    found = made.poke(context)
    assert found and found.xcom_value == ["r1", "r2"]  # type: ignore[union-attr]
    asked = {type(call.args[0]) for call in supervisor.send.call_args_list}
    assert asked == {comms.GetXComSequenceSlice}


def test_ids_may_be_numbers(service: Service, context: dict[str, Any]) -> None:
    service.runs["7"] = "done"
    assert run(a_sensor("poke", [7, "7"]), context, service) == ["7"]


@modes
@soft
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"run_ids": []}, "run_ids is empty: there is nothing to wait for"),
        ({"run_ids": "[]"}, "run_ids is empty"),
        ({"run_ids": ""}, "run_ids must be a list or the text of one, not ''"),
        ({"run_ids": "None"}, "run_ids must be a list or the text of one"),
        ({"run_ids": "r1"}, "run_ids must be a list or the text of one, not 'r1'"),
        ({"run_ids": '"r1"'}, "run_ids must be a list"),
        ({"run_ids": {"r1": 1}}, "run_ids must be a list"),
        ({"run_ids": 7}, "run_ids must be a list"),
        ({"run_ids": ["r1", ""]}, r"run_ids\[1\] is empty"),
        ({"run_ids": ["r1", None]}, r"run_ids\[1\] must be a text"),
        ({"run_ids": [True]}, r"run_ids\[0\] must be a text"),
        ({"run_ids": [["r1"]]}, r"run_ids\[0\] must be a text"),
        ({"run_ids": ["r1"], "run_id": "r1"}, "give either run_ids or run_id, not both"),
        ({"run_ids": ["r1"], "job": "j"}, "give either run_ids or job, not both"),
        ({"run_ids": ["r1"], "since": "x"}, "give either run_ids or since, not both"),
        ({"run_ids": None}, "run_id is empty; give it, or since together with job, or run_ids"),
        ({"run_ids": ["r1"], "skip_on_states": "going"}, "going ends no Fake run"),
    ],
)
def test_a_senseless_list_fails_without_a_request(
    service: Service,
    context: dict[str, Any],
    mode: str,
    soft_fail: bool,
    changes: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises((RequestRefused, BadInput), match=said):
        run(a_sensor(mode, **{"soft_fail": soft_fail, **changes}), context, service)
    assert service.calls == []


@modes
@soft
def test_one_error_names_every_run_that_ended_badly_after_all_have_ended(
    service: Service,
    context: dict[str, Any],
    later: Later,
    told: Callable[[], str],
    mode: str,
    soft_fail: bool,
) -> None:
    service.runs |= dict.fromkeys(ids(10), "done") | {"r2": "broken", "r4": "stopped", "r5": "broken"}
    service.runs["r9"] = "going"
    began = clock.monotonic()
    later(0.4, lambda: service.runs.update(r9="done"))
    with pytest.raises(AirflowSkipException if soft_fail else RunFailed) as caught:
        run(a_sensor(mode, ids(10), soft_fail=soft_fail), context, service)
    assert 0.4 <= clock.monotonic() - began < 0.6
    assert service.called("cancel") == []
    assert context["ti"].pushed["run_url"] == "http://fake/r2"
    assert service.called("explain") == ["r2", "r5", "r4"]
    assert "step 2 of r5 raised ValueError" in told()
    # Airflow has a text of its own for some skips.
    text = str(caught.value if not soft_fail else caught.value.__cause__)
    assert text == (
        "Of 10 Fake runs, 2 failed (broken): r2: step 2 of r2 raised ValueError; "
        "r5: step 2 of r5 raised ValueError. "
        "1 cancelled (stopped): r4: step 2 of r4 raised ValueError. 7 succeeded (done)"
    )


@modes
def test_who_explains_is_asked_about_three_runs_only(
    service: Service, context: dict[str, Any], mode: str
) -> None:
    service.runs |= dict.fromkeys(ids(30), "broken")
    with pytest.raises(RunFailed) as caught:
        run(a_sensor(mode, ids(30)), context, service)
    assert service.called("explain") == ["r1", "r2", "r3"]
    text = str(caught.value)
    assert text.startswith("Of 30 Fake runs, 30 failed (broken): r1: step 2")
    assert text.endswith("; r19; r20; and 10 more") and "r21" not in text


@modes
@pytest.mark.parametrize(
    ("ends", "states", "error"),
    [
        (("done", "stopped"), (), RunCancelled),
        (("done", "broken", "stopped"), (), RunFailed),
        (("broken", "done"), ["broken"], AirflowSkipException),
        (("broken", "stopped"), ["broken", "STOPPED"], AirflowSkipException),
        (("done", "done"), "done", AirflowSkipException),
        (("broken", "stopped"), ["broken"], RunCancelled),
        (("broken", "stopped"), ["stopped"], RunFailed),
        (("done", "broken"), ["done"], RunFailed),
    ],
    ids=str,
)
def test_the_worst_end_decides_in_every_mode(
    service: Service,
    context: dict[str, Any],
    mode: str,
    ends: tuple[str, ...],
    states: Any,
    error: type[Exception],
) -> None:
    service.runs |= dict(zip(ids(len(ends)), ends, strict=True))
    with pytest.raises(error) as caught:
        run(a_sensor(mode, ids(len(ends)), skip_on_states=states), context, service)
    assert type(caught.value) is error
    assert f"Of {len(ends)} Fake runs" in str(caught.value)


@modes
@soft
def test_a_timeout_says_which_runs_still_go_also_beside_a_failure(
    service: Service, context: dict[str, Any], mode: str, soft_fail: bool
) -> None:
    service.runs |= {"r1": "done", "r2": "going", "r3": "broken", "r4": "waiting"}
    if mode == "reschedule":
        context["ti"].start_date -= timedelta(seconds=10)
    with pytest.raises(AirflowSkipException if soft_fail else AirflowSensorTimeout) as caught:
        run(a_sensor(mode, ids(4), timeout=0.3, soft_fail=soft_fail), context, service)
    texts = f"{caught.value} {caught.value.__cause__}"
    assert "r2 (going)" in texts and "r4 (waiting)" in texts and "r1" not in texts
    assert service.called("cancel") == []


@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_an_execution_timeout_ends_the_wait_for_a_list(
    service: Service, context: dict[str, Any], mode: str
) -> None:
    service.runs |= {"r1": "done", "r2": "going"}
    with pytest.raises(AirflowTaskTimeout):
        run(a_sensor(mode, ids(2), execution_timeout=timedelta(seconds=0.4)), context, service)


@pytest.mark.parametrize("mode", ["poke", "deferrable"])
@soft
@pytest.mark.parametrize(("other", "error"), [("done", RunUnreachable), ("stopped", RunUnreachable)])
def test_one_run_that_nobody_knows_spoils_no_other_and_is_no_skip(
    service: Service,
    context: dict[str, Any],
    later: Later,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    soft_fail: bool,
    other: str,
    error: type[Exception],
) -> None:
    monkeypatch.setitem(progress.OWN_TIMEOUTS, progress.Trouble.NOT_FOUND, 0.2)
    service.runs |= dict.fromkeys(ids(9), "going")
    service.errors["r5"] = NotFound("no run r5", status=404)
    later(0.5, lambda: service.runs.update(dict.fromkeys(ids(9), other)))
    with pytest.raises(error, match=r"1 could not be asked about: r5.*: Fake says not found.*8 (succ|canc)"):
        run(a_sensor(mode, ids(9), soft_fail=soft_fail), context, service)


def test_a_failure_counts_for_more_than_a_run_that_nobody_knows(
    service: Service, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(progress.OWN_TIMEOUTS, progress.Trouble.NOT_FOUND, 0.1)
    service.runs["r1"] = "broken"
    with pytest.raises(RunFailed, match=r"1 failed.*1 could not be asked about: r2"):
        run(a_sensor("deferrable", ids(2)), context, service)


def test_an_unknown_status_that_stays_ends_as_unknown(
    service: Service, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "UNKNOWN_TIMEOUT", 0.2)
    service.runs |= {"r1": "odd", "r2": "stopped"}
    with pytest.raises(RunStatusUnknown, match=r"1 kept a status .*: r1 \(odd\): Fake says 'odd'"):
        run(a_sensor("deferrable", ids(2)), context, service)


@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_a_run_of_a_list_that_makes_no_progress_times_out(
    service: Service, context: dict[str, Any], mode: str
) -> None:
    service.runs |= {"r1": "waiting", "r2": "done"}
    with pytest.raises(AirflowSensorTimeout, match=r"1 kept the first status .*: r1 \(waiting\): step"):
        run(a_sensor(mode, ids(2), no_progress_timeout=0.2), context, service)


@modes
def test_an_outage_of_a_list_is_ridden_out(service: Service, context: dict[str, Any], mode: str) -> None:
    service.runs |= dict.fromkeys(ids(20), "done")
    service.get_errors = [down() for _ in range(3)]
    assert run(a_sensor(mode, ids(20)), context, service) == ids(20)


def test_a_look_at_a_list_in_an_outage_gives_up_after_a_few_requests(
    service: Service, context: dict[str, Any], told: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeHook, "api_class", fakes.FakeApi)
    service.errors = dict.fromkeys(ids(100), down())
    assert a_sensor("reschedule", ids(100)).poke(context) is False
    assert len(service.called("get")) <= 16
    assert "Fake cannot be asked about 100 runs just now: r1, r2," in told()


@modes
@soft
def test_wrong_credentials_fail_a_list_in_every_mode(
    service: Service,
    context: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    soft_fail: bool,
) -> None:
    monkeypatch.setitem(progress.OWN_TIMEOUTS, progress.Trouble.REFUSED, 0.2)
    service.errors = dict.fromkeys(ids(5), Unauthorized("wrong password", status=401))
    with pytest.raises(RunUnreachable, match="wrong password"):
        run(a_sensor(mode, ids(5), soft_fail=soft_fail), context, service)


@modes
def test_never_fail_skips_a_list(service: Service, context: dict[str, Any], mode: str) -> None:
    service.runs |= {"r1": "broken", "r2": "done"}
    with pytest.raises(AirflowSkipException):
        run(a_sensor(mode, ids(2), never_fail=True), context, service)


# What it costs


@modes
def test_a_list_is_asked_about_in_batches(
    service: Service, context: dict[str, Any], later: Later, mode: str
) -> None:
    service.runs |= dict.fromkeys(ids(120), "going")
    later(1.6, lambda: service.runs.update(dict.fromkeys(ids(120), "done")))
    # So long that those which are asked about meanwhile are due together again.
    made = a_sensor(mode, ids(120), poke_interval=0.4, min_poll_interval=0.4)
    assert run(made, context, service) == ids(120)
    assert service.called("get") == []
    sizes = [len(asked) for asked in service.called("get_many")]
    assert sizes[:3] == [50, 50, 20]
    # Each round of three requests asks about all.
    assert sum(sizes) / len(sizes) >= 0.9 * 120 / 3


def test_a_look_leaves_out_no_run_that_a_batch_says_nothing_about(
    service: Service, context: dict[str, Any]
) -> None:
    service.runs |= dict.fromkeys(ids(60), "done")
    service.silent_about = {"r7", "r55"}
    service.errors["r8"] = NotFound("no run r8", status=404)
    assert a_sensor("reschedule", ids(60)).poke(context) is False
    assert [len(asked) for asked in service.called("get_many")] == [50, 10]
    assert sorted(service.called("get")) == ["r55", "r7"]


def test_where_nothing_asks_in_batches_each_run_is_asked_about_once_a_look(
    service: Service, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeHook, "api_class", fakes.FakeApi)
    service.runs |= dict.fromkeys(ids(30), "done")
    assert run(a_sensor("reschedule", ids(30)), context, service) == ids(30)
    assert Counter(service.called("get")) == Counter(ids(30))


# Word of it


@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_the_log_counts_the_ends_and_names_each_bad_one_once(
    service: Service,
    context: dict[str, Any],
    later: Later,
    told: Callable[[], str],
    mocker: Any,
    mode: str,
) -> None:
    tell = mocker.spy(FakeRunTrigger, "_tell")
    service.runs |= dict.fromkeys(ids(40), "waiting")
    service.runs["r3"] = "broken"
    later(0.3, lambda: service.runs.update(dict.fromkeys(ids(40)[9:], "going")))
    later(0.6, lambda: service.runs.update(dict.fromkeys(ids(40)[3:], "done") | {"r1": "done", "r2": "done"}))
    with pytest.raises(RunFailed):
        run(a_sensor(mode, ids(40)), context, service)
    assert [call.args[1].text for call in tell.call_args_list] == [
        "Run r3 has ended as failed (broken)",
        "1 of 40 runs have ended",
        "40 of 40 runs have ended",
    ]
    text = told()
    assert "Waiting for Fake 40 runs" in text and "The wait for Fake 40 runs is over: failed" in text


def test_a_look_counts_the_ends(service: Service, context: dict[str, Any], told: Callable[[], str]) -> None:
    service.runs |= {"r1": "done", "r2": "broken", "r3": "going"}
    assert a_sensor("reschedule", ids(3)).poke(context) is False
    assert "2 of 3 Fake runs have ended" in told()


# What is kept


def test_the_trigger_of_a_list_holds_it_once(service: Service, context: dict[str, Any]) -> None:
    with pytest.raises(TaskDeferred) as pause:
        a_sensor("deferrable", ["r2", "r1", "r2"]).execute(context)
    assert service.calls == []
    made = pause.value.trigger
    _, arguments = made.serialize()
    assert (arguments["run_ids"], arguments["run_id"], arguments["cancel_on_kill"]) == (
        ["r2", "r1"],
        "2 runs",
        False,
    )
    assert FakeRunTrigger(**json.loads(json.dumps(arguments))).serialize() == made.serialize()


def test_the_event_of_a_thousand_runs_is_small(service: Service, context: dict[str, Any]) -> None:
    service.runs |= dict.fromkeys(ids(1000), "broken") | {"r9": "done", "r10": "stopped"}
    with pytest.raises(TaskDeferred) as pause:
        a_sensor("deferrable", ids(1000)).execute(context)
    event = fire(pause.value.trigger)
    assert len(json.dumps(event)) < 6000
    assert [(tally["outcome"], tally["count"]) for tally in event["runs"]] == [
        ("failed", 998),
        ("cancelled", 1),
        ("succeeded", 1),
    ]


@soft
@pytest.mark.parametrize(
    "event",
    [
        None,
        Outcome(Verdict.SUCCEEDED, "r1", "done").event(),
        Outcome.of_many("1 runs", [Outcome(Verdict.SUCCEEDED, "r1", "done")]).event(),
        Outcome.of_many("3 runs", [Outcome(Verdict.SUCCEEDED, "r1", "done")] * 3).event(),
    ],
    ids=["none", "single", "fewer", "more"],
)
def test_an_event_about_other_runs_is_a_failure(
    service: Service, context: dict[str, Any], event: Any, soft_fail: bool
) -> None:
    sensor = a_sensor("deferrable", ids(2), soft_fail=soft_fail)
    with pytest.raises(BadEvent):
        sensor.resume_execution("execute_complete", {"event": event}, context)


def test_an_event_about_a_list_ends_no_wait_for_one_run(service: Service, context: dict[str, Any]) -> None:
    event = Outcome.of_many("1 runs", [Outcome(Verdict.SUCCEEDED, "r1", "done")]).event()
    sensor = FakeRunSensor(task_id="task", run_id="r1", deferrable=True)
    with pytest.raises(BadEvent):
        sensor.resume_execution("execute_complete", {"event": event}, context)


def test_a_page_that_cannot_be_read_hides_no_verdict_on_a_list(
    service: Service, context: dict[str, Any]
) -> None:
    event = Outcome.of_many("1 runs", [Outcome(Verdict.FAILED, "r1", "broken")]).event()
    service.errors["r1"] = down()
    with pytest.raises(RunFailed):
        a_sensor("deferrable", ["r1"]).execute_complete(context, event)
    assert "run_url" not in context["ti"].pushed


# Hooks


def test_a_hook_looks_at_many_runs_at_once(service: Service) -> None:
    service.runs |= dict.fromkeys(ids(60), "going") | {"r2": "done"}
    service.errors["r3"] = NotFound("no run r3", status=404)
    found = FakeHook().get_runs([*ids(60), "r1"])
    assert list(found) == ids(60)
    assert {type(found.pop(run_id)) for run_id in ("r1", "r2")} == {Run}
    assert isinstance(found["r3"], NotFound)
    assert [len(asked) for asked in service.called("get_many")] == [50, 10]


async def test_a_hook_looks_at_many_runs_in_an_event_loop(service: Service) -> None:
    service.runs |= {"r1": "done", "r2": "going"}
    async with PlainHook() as hook:
        found = await hook.aget_runs(["r2", "r1"])
        assert [run.status for run in found.values() if isinstance(run, Run)] == ["going", "done"]
        # The synchronous one has a loop of its own.
        assert hook.get_runs(["r1"]) == {"r1": found["r1"]}
        assert await hook.aget_runs([]) == hook.get_runs([]) == {}


@pytest.mark.parametrize(("attempts", "kind"), [(1, ConnectionFailed), (2, Run)])
def test_a_hook_asks_again_where_that_may_help(
    service: Service, monkeypatch: pytest.MonkeyPatch, attempts: int, kind: type
) -> None:
    def get(api: FullApi, run_id: str) -> Flow[Run]:
        yield Request("GET", "http://fake", safe_to_repeat=True)
        return api.run(run_id)

    answers = [down(), Response(200, body=b"{}")]
    monkeypatch.setattr(Driver, "_send", lambda driver, send: answers.pop(0))
    monkeypatch.setattr(FullApi, "get", get)
    service.runs["r1"] = "done"
    assert isinstance(FakeHook().get_runs(["r1"], attempts=attempts)["r1"], kind)


def test_what_would_fail_again_is_asked_once(service: Service) -> None:
    service.errors["r1"] = ApiError("broken", status=400)
    assert isinstance(FakeHook().get_runs(["r1"])["r1"], ApiError)
    assert service.called("get") == ["r1"]


def test_a_connection_that_cannot_be_read_is_the_end_of_a_look(
    service: Service, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_FAKE_DEFAULT")
    with pytest.raises(ConnectionUnreadable, match="nowhere"):
        FakeHook("nowhere").get_runs(["r1", "r2"], attempts=1)
    with pytest.raises(RunUnreachable, match=r"Fake refuses to be asked about r1, r2: .*fake_default"):
        a_sensor("reschedule", ids(2)).poke(context)
