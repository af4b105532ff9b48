from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    TaskDeferred,
)

from airflow_provider_runs.base import sensor as module
from airflow_provider_runs.base.exceptions import (
    Interrupted,
    RequestRefused,
    RunCancelled,
    RunFailed,
    RunUnreachable,
)
from airflow_provider_runs.core import clock, progress
from airflow_provider_runs.core.errors import BadInput, ConnectionFailed, Unauthorized
from airflow_provider_runs.core.outcome import BadEvent, Outcome, Verdict
from tests.base.fakes import FakeRunSensor, Service, fire, run_here

try:
    from airflow.sdk.exceptions import AirflowRescheduleException
except ImportError:
    from airflow.exceptions import AirflowRescheduleException

MODES = ("poke", "reschedule", "deferrable")
Later = Callable[[float, Callable[[], Any]], None]


@pytest.fixture(autouse=True)
def first_start(monkeypatch: pytest.MonkeyPatch, context: dict[str, Any]) -> None:
    """Let Airflow know the time, and Airflow 2 without a database when a sensor in reschedule mode began."""
    base = sys.modules[BaseSensorOperator.__module__]
    monkeypatch.setattr(base.timezone, "utcnow", lambda: datetime.fromtimestamp(clock.time(), UTC))
    if hasattr(base, "_orig_start_date"):
        monkeypatch.setattr(base, "_orig_start_date", lambda **key: context["ti"].start_date)


def a_sensor(mode: str, **changes: Any) -> FakeRunSensor:
    chosen = {"deferrable": True} if mode == "deferrable" else {"mode": mode}
    return FakeRunSensor(**{"task_id": "task", "run_id": "r1", "poke_interval": 0.05, **chosen, **changes})


def run(sensor: FakeRunSensor, context: dict[str, Any], service: Service) -> Any:
    """Run a sensor as Airflow would, in its mode."""
    context["ti"].get_first_reschedule_date = lambda context: context["ti"].start_date
    for _ in range(100):
        try:
            return run_here(sensor, context)
        except AirflowRescheduleException:
            clock.sleep(0.05)
        except TaskDeferred as pause:
            # Airflow turns some errors of a resumed sensor into a skip, so resume as it does.
            return sensor.resume_execution("execute_complete", {"event": fire(pause.trigger)}, context)
    raise AssertionError("the sensor went on for ever")


@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_succeeds_gives_its_id_and_page(
    service: Service, context: dict[str, Any], later: Later, mode: str
) -> None:
    service.runs["r1"] = "going"
    later(0.2, lambda: service.runs.update(r1="done"))
    assert run(a_sensor(mode), context, service) == "r1"
    assert context["ti"].pushed["run_url"] == "http://fake/r1"


@pytest.mark.parametrize("mode", MODES)
def test_an_ended_run_ends_the_sensor_at_once(service: Service, context: dict[str, Any], mode: str) -> None:
    service.runs["r1"] = "done"
    assert run(a_sensor(mode), context, service) == "r1"
    assert service.called("get") == ["r1"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    ("status", "error"), [("broken", RunFailed), ("stopped", RunCancelled)], ids=["failed", "cancelled"]
)
@pytest.mark.parametrize("soft_fail", [False, True])
def test_a_run_that_ends_badly_fails_or_skips_the_same_in_every_mode(
    service: Service,
    context: dict[str, Any],
    later: Later,
    mode: str,
    at_once: bool,
    status: str,
    error: type[Exception],
    soft_fail: bool,
) -> None:
    service.runs["r1"] = status if at_once else "going"
    later(0.1, lambda: service.runs.update(r1=status))
    sensor = a_sensor(mode, soft_fail=soft_fail)
    if mode == "reschedule" and not at_once:
        with pytest.raises(AirflowRescheduleException):
            sensor.execute({**context, "ti": first_look(context)})
        service.runs["r1"] = status
    with pytest.raises(AirflowSkipException if soft_fail else error):
        run(sensor, context, service)
    assert service.called("cancel") == []


def first_look(context: dict[str, Any]) -> Any:
    context["ti"].get_first_reschedule_date = lambda context: context["ti"].start_date
    return context["ti"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("soft_fail", [False, True])
def test_a_sensor_that_waits_too_long_times_out_or_skips_the_same_in_every_mode(
    service: Service, context: dict[str, Any], mode: str, soft_fail: bool
) -> None:
    service.runs["r1"] = "going"
    if mode == "reschedule":
        context["ti"].start_date -= timedelta(seconds=10)
    with pytest.raises(AirflowSkipException if soft_fail else AirflowSensorTimeout):
        run(a_sensor(mode, timeout=0.2, soft_fail=soft_fail), context, service)


@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_an_execution_timeout_ends_the_sensor_and_leaves_the_run(
    service: Service, context: dict[str, Any], mode: str
) -> None:
    service.runs["r1"] = "going"
    with pytest.raises(AirflowTaskTimeout):
        run(a_sensor(mode, execution_timeout=timedelta(seconds=0.4)), context, service)
    assert service.called("cancel") == []


@pytest.mark.parametrize("mode", MODES)
def test_an_outage_is_ridden_out_in_every_mode(service: Service, context: dict[str, Any], mode: str) -> None:
    service.runs["r1"] = "done"
    service.get_errors = [ConnectionFailed("down", sent=False)]
    assert run(a_sensor(mode), context, service) == "r1"


@pytest.mark.parametrize("mode", ["poke", "deferrable"])
@pytest.mark.parametrize("soft_fail", [False, True])
def test_a_service_that_cannot_be_asked_is_never_a_skip(
    service: Service, context: dict[str, Any], mode: str, soft_fail: bool
) -> None:
    service.errors["r1"] = ConnectionFailed("down", sent=False)
    with pytest.raises(RunUnreachable):
        run(a_sensor(mode, unreachable_timeout=0.2, soft_fail=soft_fail), context, service)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("soft_fail", [False, True])
def test_wrong_credentials_fail_the_same_in_every_mode(
    service: Service,
    context: dict[str, Any],
    mode: str,
    soft_fail: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(progress.OWN_TIMEOUTS, progress.Trouble.REFUSED, 0.2)
    service.errors["r1"] = Unauthorized("wrong password", status=401)
    with pytest.raises(RunUnreachable, match="wrong password"):
        run(a_sensor(mode, soft_fail=soft_fail), context, service)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("run_id", ["", "None", None])
def test_an_empty_run_id_fails_without_a_request(
    service: Service, context: dict[str, Any], mode: str, run_id: Any
) -> None:
    with pytest.raises(RequestRefused, match="run_id is empty"):
        run(a_sensor(mode, run_id=run_id), context, service)
    assert service.calls == []


@pytest.mark.parametrize("mode", MODES)
def test_soft_fail_hides_no_empty_run_id(service: Service, context: dict[str, Any], mode: str) -> None:
    with pytest.raises((RequestRefused, BadInput), match="run_id is empty"):
        run(a_sensor(mode, run_id="", soft_fail=True), context, service)


@pytest.mark.parametrize("mode", MODES)
def test_never_fail_skips_in_every_mode(service: Service, context: dict[str, Any], mode: str) -> None:
    with pytest.raises(AirflowSkipException):
        run(a_sensor(mode, run_id="", never_fail=True), context, service)


def test_a_run_id_may_be_a_number(service: Service, context: dict[str, Any]) -> None:
    service.runs["7"] = "done"
    assert run(a_sensor("poke", run_id=7), context, service) == "7"


def test_a_sensor_never_cancels(
    service: Service, context: dict[str, Any], later: Later, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.runs["r1"] = "going"
    monkeypatch.setattr(module, "own_state", lambda ti: "failed")
    sensor = a_sensor("poke")
    later(0.2, sensor.on_kill)
    with pytest.raises(Interrupted):
        sensor.execute(context)
    with pytest.raises(TaskDeferred) as pause:
        a_sensor("deferrable").execute(context)
    assert pause.value.trigger.serialize()[1]["cancel_on_kill"] is False
    assert service.called("cancel") == []


@pytest.mark.parametrize("soft_fail", [False, True])
def test_an_event_that_cannot_be_relied_on_is_a_failure(service: Service, soft_fail: bool) -> None:
    sensor = a_sensor("deferrable", soft_fail=soft_fail)
    with pytest.raises(BadEvent):
        sensor.resume_execution("execute_complete", {"event": None}, {})


def test_poke_interval_is_the_longest_time_between_two_looks(
    service: Service, context: dict[str, Any]
) -> None:
    service.runs["r1"] = "going"
    with pytest.raises(TaskDeferred) as pause:
        a_sensor("deferrable", poke_interval=30, min_poll_interval=5).execute(context)
    arguments = pause.value.trigger.serialize()[1]
    assert (arguments["poll_interval"], arguments["min_poll_interval"]) == (30.0, 5.0)


# A run whose id is not known


def a_search(mode: str, **changes: Any) -> FakeRunSensor:
    return a_sensor(mode, **{"run_id": None, "job": "j", "since": "2026-01-01T00:00:00Z", **changes})


@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_is_searched_for_gives_its_id_and_page(
    service: Service, context: dict[str, Any], later: Later, mode: str
) -> None:
    later(0.2, lambda: service.runs.update(r7="going"))
    later(0.5, lambda: service.runs.update(r7="done"))
    assert run(a_search(mode), context, service) == "r7"
    assert context["ti"].pushed["run_url"] == "http://fake/r7"
    assert service.called("list_runs")[0] == ({"job": "j"}, 1767225600.0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("soft_fail", [False, True])
def test_a_run_that_is_searched_for_and_failed_fails_or_skips_the_same_in_every_mode(
    service: Service, context: dict[str, Any], later: Later, mode: str, soft_fail: bool
) -> None:
    later(0.1, lambda: service.runs.update(r7="broken"))
    with pytest.raises(AirflowSkipException if soft_fail else RunFailed):
        run(a_search(mode, soft_fail=soft_fail), context, service)


@pytest.mark.parametrize("mode", MODES)
def test_a_success_counts_beside_failures_in_every_mode(
    service: Service, context: dict[str, Any], mode: str
) -> None:
    service.runs |= {"r1": "broken", "r2": "done", "r3": "going"}
    assert run(a_search(mode), context, service) == "r2"


@pytest.mark.parametrize("mode", MODES)
def test_a_search_in_vain_times_out_in_every_mode(
    service: Service, context: dict[str, Any], mode: str
) -> None:
    with pytest.raises(AirflowSensorTimeout):
        run(a_search(mode, timeout=0.3), context, service)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"run_id": "r1"}, "either run_id or job, not both"),
        ({"run_id": "r1", "job": None}, "either run_id or since, not both"),
        ({"since": None}, "run_id is empty; give it, or since together with job"),
        ({"job": None}, "run_id is empty; give it, or since together with job"),
        ({"since": "2026-01-01T00:00:00"}, "since needs a time zone"),
        ({"since": "yesterday"}, "since must be a date and time"),
    ],
)
def test_a_senseless_search_fails_without_a_request(
    service: Service, context: dict[str, Any], mode: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(RequestRefused, match=said):
        run(a_search(mode, **changes), context, service)
    assert service.calls == []


def test_a_page_that_cannot_be_read_hides_no_verdict(service: Service, context: dict[str, Any]) -> None:
    service.errors["r7"] = ConnectionFailed("down", sent=True)
    event = Outcome(Verdict.SUCCEEDED, "r7", "done").event()
    assert a_search("deferrable").execute_complete(context, event) == "r7"
    assert "run_url" not in context["ti"].pushed


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("soft_fail", [False, True])
@pytest.mark.parametrize(
    ("status", "states"), [("broken", ["broken"]), ("done", "done"), ("stopped", ["STOPPED"])]
)
def test_a_status_may_skip_the_sensor_in_every_mode(
    service: Service,
    context: dict[str, Any],
    later: Later,
    mode: str,
    soft_fail: bool,
    status: str,
    states: Any,
) -> None:
    service.runs["r1"] = "going"
    later(0.2, lambda: service.runs.update(r1=status))
    # Under soft_fail Airflow replaces a resumed sensor's message by its own.
    said = None if soft_fail else "which is in skip_on_states"
    with pytest.raises(AirflowSkipException, match=said):
        run(a_sensor(mode, skip_on_states=states, soft_fail=soft_fail), context, service)


@pytest.mark.parametrize("mode", MODES)
def test_a_word_that_ends_no_run_is_refused_in_every_mode(
    service: Service, context: dict[str, Any], mode: str
) -> None:
    with pytest.raises(
        RequestRefused, match="skip_on_states: going ends no Fake run; these do: broken, done, st"
    ):
        run(a_sensor(mode, skip_on_states=["going"]), context, service)
    assert service.calls == []
