from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_runs.base.decisions import Attempt, Rules
from airflow_provider_runs.base.exceptions import RequestRefused, RunInProgress, StartUncertain
from airflow_provider_runs.base.finder import LOOK_INTERVAL, LOOK_SECONDS
from airflow_provider_runs.base.hook import CannotRetry
from airflow_provider_runs.base.record import StartRecord, fingerprint_of
from airflow_provider_runs.base.start import DurableStart
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import CanCancel, Unsure
from airflow_provider_runs.core.errors import (
    AlreadyRunning,
    ApiError,
    BadInput,
    ConnectionFailed,
    NotFound,
    RunsError,
    Unauthorized,
)
from airflow_provider_runs.core.run import Run, RunState
from tests.base.fakes import FakeHook, FullApi, KeyApi, KeyHook, PlainHook, Service, Store, UnmarkedHook
from tests.virtual import VirtualClock

GOLDEN = Path(__file__).parent.parent / "golden" / "start_record.json"
FINGERPRINT = "where.what"


@pytest.fixture(autouse=True)
def began(virtual: VirtualClock) -> None:
    """Every test begins at 1000 s of the epoch."""
    virtual.set_time(1000.0)


def begin(store: Store | None, hook: Any = None, **changes: Any) -> DurableStart:
    """Return the start of a try: with the attempt's and the rules' values as changed."""
    hook = hook or FakeHook()
    rules = Rules(**{name: changes.pop(name) for name in [*changes] if name in Rules.__slots__})
    given = {name: changes.pop(name) for name in [*changes] if name in Attempt.__slots__}
    attempt = Attempt(hook.api_class, rules=rules, **{"fingerprint": FINGERPRINT, "max_tries": 2, **given})
    return DurableStart(hook, {"job": "j"}, attempt, store=store, log=logging.getLogger("test"), **changes)


def fail_to_look(mocker: Any, start: DurableStart, errors: list[Exception]) -> None:
    """Have the first looks for a lost start end with these errors."""
    find = start.hook.find_started

    def look(*arguments: Any) -> Run | None:
        if errors:
            raise errors.pop()
        return find(*arguments)

    mocker.patch.object(start.hook, "find_started", look)


def test_the_stored_record_has_the_form_that_databases_keep() -> None:
    record = StartRecord(2, 1, "6f1c", "where.what", "r1", 1000.5)
    assert record.to_json() == json.loads(GOLDEN.read_text())
    assert StartRecord.from_json(json.loads(GOLDEN.read_text())) == record


def test_the_record_is_written_before_sending_and_completed_right_after(service: Service) -> None:
    store = Store()
    run = begin(store).ensure()
    assert [call for call in service.calls if call[0] in ("store", "trigger")] == [
        ("store", None),
        ("trigger", store["run"]["key"]),
        ("store", run.id),
    ]


class BrokenStore(Store):
    """A store that fails to keep a run's id some times."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    def set(self, key: str, value: Any) -> None:
        if value["run_id"] and self.failures:
            self.failures -= 1
            raise RuntimeError("500 Internal Server Error")
        super().set(key, value)


def test_the_id_of_a_run_is_written_again_where_that_fails(service: Service) -> None:
    store = BrokenStore(failures=2)
    run = begin(store).ensure()
    assert store["run"]["run_id"] == run.id
    assert begin(store).ensure().id == run.id and len(service.called("trigger")) == 1


def test_a_run_whose_id_airflow_does_not_take_down_is_waited_for_and_named(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    store = BrokenStore(failures=100)
    run = begin(store).ensure()
    assert store["run"]["run_id"] is None and len(service.called("trigger")) == 1
    (error,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert f"run {run.id}" in error.getMessage() and "500 Internal" in error.getMessage()


def test_every_start_has_a_key_of_its_own(service: Service) -> None:
    keys = {begin(Store()).ensure() and service.calls[-2][1] for _ in range(5)}
    assert len(keys) == 5


@pytest.mark.parametrize("status", ["waiting", "going", "done", "a word that nobody knows"])
def test_a_retry_goes_on_with_the_run_unless_it_ended_badly(service: Service, status: str) -> None:
    store = Store()
    first = begin(store).ensure()
    service.runs[first.id] = status
    again = begin(store).ensure()
    assert (again.id, again.status) == (first.id, status)
    assert len(service.called("trigger")) == 1


@pytest.mark.parametrize("status", ["broken", "stopped"])
def test_a_retry_starts_another_run_with_another_key_after_one_that_ended_badly(
    service: Service, status: str
) -> None:
    store = Store()
    first = begin(store).ensure()
    old_key = store["run"]["key"]
    service.runs[first.id] = status
    second = begin(store).ensure()
    assert second.id != first.id
    assert store["run"]["attempt"] == 2
    assert store["run"]["key"] != old_key


def test_a_retry_waits_for_the_run_also_while_it_cannot_be_asked_about(service: Service) -> None:
    store = Store()
    first = begin(store).ensure()
    service.errors[first.id] = ConnectionFailed("down", sent=False)
    again = begin(store).ensure()
    assert again.id == first.id
    assert not again.state.is_terminal
    assert len(service.called("trigger")) == 1


def test_a_cleared_task_cancels_the_run_that_still_goes_and_starts_anew(service: Service) -> None:
    store = Store()
    first = begin(store).ensure()
    second = begin(store, max_tries=4).ensure()
    assert service.called("cancel") == [first.id]
    assert second.id != first.id
    assert (store["run"]["max_tries"], store["run"]["attempt"]) == (4, 1)


def test_a_clear_is_seen_though_changed_retries_give_the_same_number_of_tries(service: Service) -> None:
    store = Store()
    first = begin(store, clears=0).ensure()
    service.runs[first.id] = "done"
    assert begin(store, clears=1).ensure().id != first.id


@pytest.mark.parametrize(
    ("before", "now", "again"), [(0, 1, True), (0, 0, False), (None, 1, False), (0, None, False)]
)
def test_a_retry_is_not_taken_for_a_clear(
    service: Service, before: int | None, now: int | None, again: bool
) -> None:
    store = Store()
    first = begin(store, clears=before).ensure()
    assert begin(store, clears=now, is_retry=again).ensure().id == first.id


@pytest.mark.parametrize("status", ["done", "broken", "stopped"])
def test_a_cleared_task_starts_anew_and_leaves_an_ended_run_alone(service: Service, status: str) -> None:
    store = Store()
    first = begin(store).ensure()
    service.runs[first.id] = status
    second = begin(store, max_tries=4).ensure()
    assert second.id != first.id
    assert service.called("cancel") == []


def test_a_cleared_task_names_the_old_run_where_it_must_not_cancel_it(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()
    first = begin(store).ensure()
    begin(store, max_tries=4, cancel_superseded=False).ensure()
    assert service.called("cancel") == []
    assert f"Run {first.id}" in caplog.text
    assert f"http://fake/{first.id}" in caplog.text


def test_a_cleared_task_names_the_old_run_where_the_service_cannot_cancel(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()
    first = begin(store, KeyHook()).ensure()
    begin(store, KeyHook(), max_tries=4).ensure()
    assert f"Run {first.id}" in caplog.text
    assert "Fake cannot cancel" in caplog.text


def test_a_cleared_task_cancels_a_run_whose_answer_was_lost(service: Service) -> None:
    store = Store()
    service.loses_answers = 1
    first = begin(store)
    first.hook.find_started = lambda *a: None  # type: ignore[method-assign]
    with pytest.raises(StartUncertain):
        first.ensure()
    begin(store, max_tries=4).ensure()
    assert service.called("cancel") == ["r1"]


def test_another_resource_counts_as_another_generation(service: Service) -> None:
    store = Store()
    first = begin(store).ensure()
    second = begin(store, fingerprint="where.other").ensure()
    assert second.id != first.id
    assert service.called("cancel") == [first.id]


def test_a_run_of_another_connection_is_neither_asked_about_nor_cancelled(service: Service) -> None:
    store = Store()
    first = begin(store).ensure()
    service.calls.clear()
    second = begin(store, fingerprint="elsewhere.what").ensure()
    assert second.id != first.id
    assert service.called("get") == service.called("cancel") == []


def test_a_cleared_task_waits_with_the_new_run_while_the_old_one_cannot_be_asked_about(
    service: Service,
) -> None:
    store = Store()
    first = begin(store).ensure()
    service.errors[first.id] = ConnectionFailed("down", sent=False)
    with pytest.raises(StartUncertain, match=first.id):
        begin(store, max_tries=4).ensure()
    assert len(service.called("trigger")) == 1
    assert store["run"]["max_tries"] == 2


def test_a_cleared_task_starts_anew_where_the_old_run_is_gone(service: Service) -> None:
    store = Store()
    first = begin(store).ensure()
    del service.runs[first.id]
    service.runs["x"] = "done"
    assert begin(store, max_tries=4).ensure().id != first.id


def test_a_death_before_the_answer_sends_again_with_the_same_key_where_the_service_takes_one(
    service: Service,
) -> None:
    store = Store()
    service.loses_answers = 1
    with pytest.raises(StartUncertain):
        begin(store, KeyHook(), unreachable_timeout=0.0).ensure()
    run = begin(store, KeyHook()).ensure()
    assert len(set(service.called("trigger"))) == 1
    assert list(service.runs) == [run.id]
    assert store["run"]["run_id"] == run.id


def test_a_death_before_the_answer_is_found_by_its_marker(service: Service) -> None:
    store = Store()
    record = StartRecord(2, 1, "marker", FINGERPRINT, None, 1000.0)
    store["run"] = record.to_json()
    service.start("marker", same=False)
    run = begin(store).ensure()
    assert run.id == "r1"
    assert service.called("trigger") == []
    assert store["run"]["run_id"] == "r1"


def test_a_run_found_by_its_marker_that_ended_badly_is_followed_by_another(service: Service) -> None:
    store = Store()
    store["run"] = StartRecord(2, 1, "marker", FINGERPRINT, None, 1000.0).to_json()
    service.start("marker", same=False)
    service.runs["r1"] = "broken"
    assert begin(store).ensure().id == "r2"
    assert store["run"]["attempt"] == 2


def test_a_start_that_never_arrived_is_made_after_looking_twice(
    service: Service, virtual: VirtualClock
) -> None:
    store = Store()
    store["run"] = StartRecord(2, 1, "marker", FINGERPRINT, None, 990.0).to_json()
    run = begin(store).ensure()
    assert virtual.passed == pytest.approx(20.0)
    assert service.called("find_started") == ["marker", "marker"]
    assert service.called("trigger") != []
    assert run.id == "r1"


def test_a_start_is_repeated_with_the_same_marker_and_moment(service: Service, mocker: Any) -> None:
    store = Store()
    store["run"] = StartRecord(2, 1, "marker", FINGERPRINT, None, 900.0).to_json()
    start = begin(store)
    sent = mocker.spy(start.hook, "start")
    start.ensure()
    assert sent.call_args.args[:3] == ({"job": "j"}, "marker", 900.0)
    assert (store["run"]["started_at"], store["run"]["repeated_at"]) == (900.0, pytest.approx(1000.0))


def test_a_repeated_start_is_given_time_to_arrive_once_more(service: Service, virtual: VirtualClock) -> None:
    store = Store()
    store["run"] = StartRecord(2, 1, "marker", FINGERPRINT, None, 900.0, repeated_at=995.0).to_json()
    begin(store).ensure()
    assert virtual.passed == pytest.approx(25.0)


def test_another_workers_fast_clock_makes_no_long_wait(service: Service, virtual: VirtualClock) -> None:
    store = Store()
    store["run"] = StartRecord(2, 1, "marker", FINGERPRINT, None, 9000.0).to_json()
    begin(store).ensure()
    assert virtual.passed == pytest.approx(30.0)


def test_a_lost_start_before_a_clear_is_settled_by_its_key_where_the_service_can_cancel(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KeyAndCancel(KeyApi, CanCancel):
        cancel = FullApi.cancel

    monkeypatch.setattr(KeyHook, "api_class", KeyAndCancel)
    store = Store()
    service.loses_answers = 1
    with pytest.raises(StartUncertain):
        begin(store, KeyHook(), unreachable_timeout=0.0).ensure()
    assert begin(store, KeyHook(), max_tries=4).ensure().id == "r2"
    assert service.runs == {"r1": "stopped", "r2": "going"}


def test_a_lost_start_before_a_clear_is_named_where_it_cannot_be_found(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()
    service.loses_answers = 1
    with pytest.raises(StartUncertain):
        begin(store, KeyHook(), unreachable_timeout=0.0).ensure()
    begin(store, KeyHook(), max_tries=4).ensure()
    assert "its id is not known" in caplog.text


def test_without_a_store_the_error_does_not_promise_that_a_retry_finds_out(service: Service) -> None:
    service.loses_answers = 1
    with pytest.raises(StartUncertain, match="nothing keeps a retry from starting another"):
        begin(None, PlainHook()).ensure()


def test_the_log_says_how_long_a_start_may_take(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    begin(Store()).ensure()
    assert "Starting a Fake run; the answer may take up to 30 s" in caplog.text


def test_a_lost_answer_of_a_service_without_key_and_marker_is_never_sent_again(service: Service) -> None:
    store = Store()
    service.loses_answers = 1
    with pytest.raises(StartUncertain, match="may have been started"):
        begin(store, PlainHook()).ensure()
    with pytest.raises(RequestRefused, match="clear the task"):
        begin(store, PlainHook()).ensure()
    assert len(service.called("trigger")) == 1


@pytest.mark.parametrize(
    "error",
    [ConnectionFailed("cut", sent=True), ApiError("odd body", status=200, permanent=False)],
    ids=["no answer", "odd answer"],
)
def test_a_run_whose_answer_was_lost_is_found_in_the_same_try(service: Service, error: Exception) -> None:
    store = Store()

    def fail() -> None:
        raise error

    service.before_answer = fail
    run = begin(store).ensure()
    assert run.id == store["run"]["run_id"] == "r1"
    assert len(service.called("trigger")) == 1


def test_a_failed_look_for_a_lost_run_leaves_it_to_the_retry(service: Service, mocker: Any) -> None:
    store = Store()
    service.loses_answers = 1
    start = begin(store)
    mocker.patch.object(start.hook, "find_started", side_effect=ConnectionFailed("down", sent=False))
    with pytest.raises(StartUncertain, match="looking for it failed too"):
        start.ensure()
    assert begin(store).ensure().id == "r1"
    assert len(service.called("trigger")) == 1


@pytest.mark.parametrize(
    "error",
    [
        ConnectionFailed("cut", sent=True),
        ApiError("busy", status=503),
        ApiError("odd body", status=200, permanent=False),
    ],
    ids=["no answer", "busy", "odd answer"],
)
@pytest.mark.parametrize("same_try", [True, False], ids=["same try", "next try"])
def test_an_outage_while_a_lost_run_is_looked_for_is_waited_out(
    service: Service, mocker: Any, virtual: VirtualClock, error: Exception, same_try: bool
) -> None:
    store = Store()
    if same_try:
        service.loses_answers = 1
    else:
        service.start("marker", same=False)
        store["run"] = StartRecord(2, 1, "marker", FINGERPRINT, None, 900.0).to_json()
    start = begin(store)
    fail_to_look(mocker, start, [error, error])
    assert start.ensure().id == "r1"
    assert virtual.passed == pytest.approx(2 * LOOK_INTERVAL)
    assert len(service.runs) == 1


def test_looking_for_a_lost_run_ends_in_time_also_where_each_look_takes_long(
    service: Service, mocker: Any, virtual: VirtualClock
) -> None:
    store = Store()
    store["run"] = StartRecord(2, 1, "marker", FINGERPRINT, None, 900.0).to_json()
    start = begin(store)

    def look(*arguments: Any) -> None:
        clock.sleep(40)
        raise ConnectionFailed("no answer", sent=True)

    mocker.patch.object(start.hook, "find_started", look)
    with pytest.raises(ConnectionFailed):
        start.ensure()
    assert LOOK_SECONDS <= virtual.passed <= LOOK_SECONDS + 40


def test_a_service_that_asks_to_wait_is_not_looked_at_sooner(
    service: Service, mocker: Any, virtual: VirtualClock
) -> None:
    store = Store()
    store["run"] = StartRecord(2, 1, "marker", FINGERPRINT, None, 900.0).to_json()
    service.start("marker", same=False)
    start = begin(store)
    busy = ApiError("busy", status=429)
    busy.retry_after = 18.0
    fail_to_look(mocker, start, [busy])
    assert start.ensure().id == "r1"
    assert virtual.passed == pytest.approx(4 * LOOK_INTERVAL)


def test_a_task_told_to_stop_looks_for_its_lost_run_once_more_at_once(
    service: Service, mocker: Any, virtual: VirtualClock
) -> None:
    store = Store()
    service.loses_answers = 1
    start = begin(store)
    error = ApiError("busy", status=429)
    error.retry_after = 60.0
    looked = mocker.patch.object(start.hook, "find_started", side_effect=error)
    virtual.later(1.0, lambda: setattr(start, "stopped", True))
    with pytest.raises(StartUncertain):
        start.ensure()
    assert (virtual.passed, looked.call_count) == (pytest.approx(LOOK_INTERVAL), 2)


def test_what_no_later_look_would_change_is_not_looked_for_again(
    service: Service, mocker: Any, virtual: VirtualClock
) -> None:
    store = Store()
    store["run"] = StartRecord(2, 1, "marker", FINGERPRINT, None, 900.0).to_json()
    start = begin(store)
    mocker.patch.object(start.hook, "find_started", side_effect=ApiError("no such list", status=400))
    with pytest.raises(RequestRefused, match="no such list"):
        start.ensure()
    assert virtual.passed == 0


def test_a_request_that_never_left_is_an_ordinary_failure(service: Service) -> None:
    service.trigger_errors = [ConnectionFailed("refused", sent=False)]
    with pytest.raises(ConnectionFailed):
        begin(Store()).ensure()


def test_what_the_service_refuses_is_not_retried(service: Service) -> None:
    service.trigger_errors = [ApiError("no such job", status=400)]
    with pytest.raises(RequestRefused, match="no such job"):
        begin(Store()).ensure()


def test_bad_input_is_refused_before_anything_is_recorded(service: Service) -> None:
    store = Store()
    start = begin(store)
    start.arguments = {"job": "bad"}
    with pytest.raises(RequestRefused, match="job is bad"):
        start.ensure()
    assert store == {}
    assert service.called("trigger") == []


@pytest.mark.parametrize(
    "stored",
    ["text", {"v": 2}, {"v": 1}, {"v": 1, "max_tries": "2", "attempt": 1, "key": "k", "fingerprint": "f"}],
)
def test_a_record_that_cannot_be_read_starts_nothing(service: Service, stored: Any) -> None:
    store = Store()
    store["run"] = stored
    with pytest.raises(StartUncertain, match="no record that this version"):
        begin(store).ensure()
    assert service.called("trigger") == []


@pytest.mark.parametrize("change", [{"run_id": ""}, {"max_tries": True}, {"key": ""}])
def test_a_record_with_a_senseless_value_cannot_be_read(change: dict[str, Any]) -> None:
    with pytest.raises(StartUncertain):
        StartRecord.from_json({**json.loads(GOLDEN.read_text()), **change})


def test_a_record_of_the_first_release_can_be_read() -> None:
    stored = json.loads(GOLDEN.read_text())
    first = {
        name: value
        for name, value in stored.items()
        if name not in ("resumes", "repeated_at", "refused", "attached")
    }
    assert StartRecord.from_json(first) == StartRecord.from_json(stored)


def test_a_record_of_a_later_release_with_more_fields_can_be_read() -> None:
    stored = {**json.loads(GOLDEN.read_text()), "colour": "blue"}
    assert StartRecord.from_json(stored) is not None


def test_nothing_is_sent_once_the_task_was_told_to_stop(service: Service) -> None:
    start = begin(Store())
    start.stopped = True
    with pytest.raises(StartUncertain):
        start.ensure()
    assert service.called("trigger") == []


def test_without_a_store_every_try_starts_a_run(service: Service) -> None:
    assert begin(None).ensure().id != begin(None).ensure().id


def test_a_fingerprint_depends_on_place_and_resource_apart() -> None:
    here, there = fingerprint_of(["c"], {"job": 1}), fingerprint_of(["d"], {"job": 1})
    other = fingerprint_of(["c"], {"job": 2})
    assert here.split(".")[1] == there.split(".")[1]
    assert here.split(".")[0] == other.split(".")[0]
    assert len({here, there, other}) == 3
    assert fingerprint_of([], {"job": {1: "a", "b": 2}}) != fingerprint_of([], {"job": {1: "a", "b": 3}})


def test_a_killed_task_can_find_its_run_in_every_stage(service: Service) -> None:
    start = begin(Store())
    assert start.find() is None
    run = start.ensure()
    assert start.find() == run

    def found_after(record: StartRecord, hook: Any = None) -> Run | None:
        """Return what a killed task finds that was looking at the record of an earlier try."""
        store = Store()
        store["run"] = record.to_json()
        again = begin(store, hook)
        again.stopped = True
        with suppress(RunsError):
            again.ensure()
        again._keeper.run = None
        return again.find()

    key = service.called("trigger")[0]
    assert found_after(StartRecord(2, 1, key, FINGERPRINT, None, 1000.0)) == run
    assert found_after(StartRecord(2, 1, "other", FINGERPRINT, run.id, 1000.0)) == run
    assert found_after(StartRecord(2, 1, "other", FINGERPRINT, None, 1000.0), PlainHook()) is None


# Going on with an ended run


@pytest.mark.parametrize("status", ["broken", "stopped"])
def test_a_retry_goes_on_with_the_failed_run_where_that_is_wanted(service: Service, status: str) -> None:
    store = Store()
    first = begin(store, retry_from_failure=True).ensure()
    service.runs[first.id] = status
    second = begin(store, retry_from_failure=True).ensure()
    assert second.id == first.id
    assert service.called("retry") == [(first.id, {})]
    assert len(service.called("trigger")) == 1
    assert (store["run"]["attempt"], store["run"]["resumes"]) == (2, first.id)


def test_a_run_that_failed_twice_is_gone_on_with_twice(service: Service) -> None:
    store = Store()
    first = begin(store, retry_from_failure=True).ensure()
    for _ in range(2):
        service.runs[first.id] = "broken"
        begin(store, retry_from_failure=True).ensure()
    assert len(service.called("retry")) == 2
    assert store["run"]["attempt"] == 3


def test_a_cleared_task_starts_anew_also_where_a_retry_would_go_on(service: Service) -> None:
    store = Store()
    first = begin(store, retry_from_failure=True).ensure()
    service.runs[first.id] = "broken"
    second = begin(store, retry_from_failure=True, max_tries=4).ensure()
    assert second.id != first.id
    assert service.called("retry") == []
    assert store["run"]["resumes"] is None


@pytest.mark.parametrize(
    "error", [ApiError("no such run", status=404), BadInput("cannot be retried")], ids=["service", "package"]
)
def test_where_the_failed_run_cannot_be_gone_on_with_another_is_started(
    service: Service, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()
    first = begin(store, retry_from_failure=True).ensure()
    service.runs[first.id] = "broken"
    service.check_errors = [error]
    second = begin(store, retry_from_failure=True).ensure()
    assert second.id != first.id
    assert f"Run {first.id} cannot be gone on with, starting another: {error}" in caplog.text
    assert (store["run"]["attempt"], store["run"]["resumes"]) == (2, None)


def test_a_retry_of_a_run_is_recorded_before_it_is_sent(service: Service) -> None:
    service.runs["r1"] = "broken"
    store = Store()
    run = begin(store, resumes="r1").ensure()
    assert run.id == "r1"
    assert [call for call in service.calls if call[0] in ("store", "retry")] == [
        ("store", None),
        ("retry", ("r1", {"job": "j"})),
        ("store", "r1"),
    ]
    assert service.called("trigger") == []


@pytest.mark.parametrize("status", ["going", "done"])
def test_a_death_after_a_retry_was_sent_does_not_send_it_again(service: Service, status: str) -> None:
    service.runs["r1"] = status
    store = Store()
    store["run"] = StartRecord(2, 1, "k", FINGERPRINT, None, 1000.0, resumes="r1").to_json()
    assert begin(store, resumes="r1").ensure().status == status
    assert service.called("retry") == []
    assert store["run"]["run_id"] == "r1"


def test_a_death_before_a_retry_was_sent_sends_it(service: Service) -> None:
    service.runs["r1"] = "broken"
    store = Store()
    store["run"] = StartRecord(2, 1, "k", FINGERPRINT, None, 900.0, resumes="r1").to_json()
    assert begin(store, resumes="r1").ensure().state is RunState.RUNNING
    assert len(service.called("retry")) == 1


def test_a_lost_answer_to_a_retry_is_settled_by_looking_at_the_run(service: Service) -> None:
    service.runs["r1"] = "broken"
    service.loses_answers = 1
    store = Store()
    assert begin(store, resumes="r1").ensure().id == "r1"
    assert len(service.called("retry")) == 1
    assert store["run"]["run_id"] == "r1"


def test_a_retried_run_that_failed_again_is_retried_with_its_arguments(service: Service) -> None:
    service.runs["r1"] = "broken"
    store = Store()
    begin(store, resumes="r1").ensure()
    service.runs["r1"] = "broken"
    begin(store, resumes="r1").ensure()
    assert service.called("retry") == [("r1", {"job": "j"})] * 2


def test_what_the_service_refuses_to_retry_is_refused_and_not_recorded_as_begun(service: Service) -> None:
    service.runs["r1"] = "going"
    store = Store()
    with pytest.raises(RequestRefused, match="r1 is still going"):
        begin(store, resumes="r1").ensure()
    assert store == {}
    start = begin(store, resumes="r1")
    with pytest.raises(RequestRefused):
        start.ensure()
    assert start.find() is None


def test_a_cleared_retry_that_was_refused_leaves_the_run_of_others_alone(service: Service) -> None:
    service.runs["r1"] = "going"
    store = Store()
    for max_tries in (2, 4):
        with pytest.raises(RequestRefused):
            begin(store, resumes="r1", max_tries=max_tries).ensure()
    assert service.called("cancel") == service.called("retry") == []


def test_a_task_that_is_killed_before_it_retried_anything_leaves_the_run_alone(service: Service) -> None:
    service.runs["r1"] = "going"
    service.check_errors = [ConnectionFailed("hangs", sent=True)]
    start = begin(Store(), resumes="r1")
    with pytest.raises(ConnectionFailed):
        start.ensure()
    assert start.find() is None


def test_a_retry_that_is_refused_when_it_is_sent_is_no_retry(service: Service) -> None:
    service.runs["r1"] = "broken"
    service.retry_errors = [ApiError("no", status=409)]
    store = Store()
    start = begin(store, resumes="r1")
    with pytest.raises(RequestRefused, match="no"):
        start.ensure()
    assert store["run"]["refused"] is True
    service.runs["r1"] = "going"
    assert start.find() is None
    with pytest.raises(RequestRefused, match="still going"):
        begin(store, resumes="r1", max_tries=4).ensure()
    assert service.called("cancel") == []


def test_a_late_retry_is_attached_to_instead_of_another_start(service: Service) -> None:
    store = Store()
    first = begin(store, retry_from_failure=True).ensure()
    service.runs[first.id] = "broken"
    start = begin(store, retry_from_failure=True)
    check = start.hook.check_retry

    def lands_meanwhile(*arguments: Any) -> None:
        service.runs[first.id] = "going"
        check(*arguments)

    start.hook.check_retry = lands_meanwhile  # type: ignore[method-assign]
    assert start.ensure().id == first.id
    assert len(service.called("trigger")) == 1
    assert (store["run"]["run_id"], store["run"]["attempt"]) == (first.id, 2)


def test_a_refused_repetition_of_a_retry_attaches_to_what_it_began(service: Service) -> None:
    service.runs["r1"] = "broken"
    store = Store()
    store["run"] = StartRecord(2, 1, "k", FINGERPRINT, None, 900.0, resumes="r1").to_json()
    start = begin(store, resumes="r1")

    def refuse(*arguments: Any) -> Any:
        service.runs["r1"] = "going"
        raise ApiError("it is running", status=409)

    start.hook.retry = refuse  # type: ignore[method-assign]
    assert start.ensure().state is RunState.RUNNING
    assert store["run"]["run_id"] == "r1"


def test_where_the_run_to_go_on_with_is_gone_another_is_started(service: Service) -> None:
    store = Store()
    store["run"] = StartRecord(2, 2, "k", FINGERPRINT, None, 900.0, resumes="gone").to_json()
    assert begin(store, retry_from_failure=True).ensure().id == "r1"
    store["run"] = StartRecord(2, 2, "k", FINGERPRINT, None, 900.0, resumes="gone").to_json()
    with pytest.raises(RequestRefused, match="no run gone"):
        begin(store, resumes="gone").ensure()


def test_a_cleared_retry_attaches_to_the_run_that_it_must_not_cancel(service: Service) -> None:
    service.runs["r1"] = "broken"
    store = Store()
    begin(store, resumes="r1").ensure()
    run = begin(store, resumes="r1", max_tries=4, cancel_superseded=False).ensure()
    assert (run.id, run.state) == ("r1", RunState.RUNNING)
    assert len(service.called("retry")) == 1
    assert (store["run"]["max_tries"], store["run"]["run_id"]) == (4, "r1")


# What is refused before a start, and where Airflow keeps no record


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (ConnectionFailed("no answer", sent=True), ConnectionFailed),
        (ApiError("upstream down", status=503), ApiError),
        (ApiError("inactive", status=400), RequestRefused),
        (BadInput("no token"), RequestRefused),
    ],
)
def test_what_goes_wrong_before_the_start_is_no_start(
    service: Service, error: Exception, raised: type[Exception]
) -> None:
    store = Store()
    service.ready_errors = [error]
    with pytest.raises(raised):
        begin(store).ensure()
    assert store == {} and service.called("trigger") == []


def test_a_lost_start_that_nobody_may_look_for_says_what_to_do(service: Service, mocker: Any) -> None:
    store = Store()
    store["run"] = StartRecord(2, 1, "marker", FINGERPRINT, None, 900.0).to_json()
    start = begin(store)
    mocker.patch.object(start.hook, "find_started", side_effect=ApiError("needs login", status=403))
    with pytest.raises(RequestRefused, match=r"may have started a Fake run.*needs login.*clear the task"):
        start.ensure()
    assert service.called("trigger") == []


def test_a_look_for_a_lost_start_that_may_heal_is_made_again(service: Service, mocker: Any) -> None:
    store = Store()
    store["run"] = StartRecord(2, 1, "marker", FINGERPRINT, None, 900.0).to_json()
    start = begin(store)
    mocker.patch.object(start.hook, "find_started", side_effect=ApiError("down", status=503))
    with pytest.raises(ApiError, match="down"):
        start.ensure()


def test_a_refused_start_is_not_looked_for_when_the_task_is_cleared(service: Service) -> None:
    store = Store()
    service.trigger_errors = [ApiError("no such job", status=404)]
    with pytest.raises(RequestRefused):
        begin(store).ensure()
    assert begin(store, max_tries=4).ensure().id == "r1"
    assert service.called("find_started") == []


@pytest.mark.parametrize("status", ["going", "done"])
def test_without_a_store_a_retried_run_is_still_attached_to(service: Service, status: str) -> None:
    service.runs["r1"] = "broken"
    begin(None, resumes="r1").ensure()
    service.runs["r1"] = status
    assert begin(None, resumes="r1", is_retry=True).ensure().status == status
    assert len(service.called("retry")) == 1


def test_without_a_store_a_run_that_failed_again_is_retried_again(service: Service) -> None:
    service.runs["r1"] = "broken"
    begin(None, resumes="r1", is_retry=True).ensure()
    assert len(service.called("retry")) == 1


def test_without_a_store_the_log_says_that_a_retry_starts_another_run(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    begin(None, retry_from_failure=True).ensure()
    assert "keeps no task state" not in caplog.text
    begin(None, retry_from_failure=True, is_retry=True).ensure()
    assert "keeps no task state" in caplog.text


def test_a_retry_with_bad_arguments_is_refused_before_anything_is_recorded(service: Service) -> None:
    store = Store()
    start = begin(store, resumes="r1")
    start.arguments = {"step": "bad"}
    with pytest.raises(RequestRefused, match="step is bad"):
        start.ensure()
    assert store == {} and service.calls == []


def test_a_cleared_retry_cancels_the_run_that_still_goes_and_retries_it(service: Service) -> None:
    service.runs["r1"] = "broken"
    store = Store()
    begin(store, resumes="r1").ensure()
    begin(store, resumes="r1", max_tries=4).ensure()
    assert service.called("cancel") == ["r1"]
    assert len(service.called("retry")) == 2


def test_a_service_that_cannot_retry_says_so(service: Service) -> None:
    with pytest.raises(CannotRetry, match="Fake has no call"):
        begin(Store(), PlainHook(), resumes="r1").ensure()


# While another run goes


def test_an_active_run_of_others_is_waited_for_where_that_is_wanted(service: Service) -> None:
    service.runs |= {"r1": "going", "r2": "waiting", "r3": "done"}
    store = Store()
    start = begin(store, if_running="attach")
    assert (start.ensure().id, start.attached) == ("r2", True)
    assert (store["run"]["run_id"], store["run"]["attached"]) == ("r2", True)
    assert service.called("trigger") == []
    again = begin(store, if_running="attach")
    assert (again.ensure().id, again.attached) == ("r2", True)


@pytest.mark.parametrize("mode", ["attach", "skip", "fail"])
def test_a_run_is_started_where_none_goes(service: Service, mode: str) -> None:
    service.runs["r1"] = "done"
    start = begin(Store(), if_running=mode)
    assert (start.ensure().id, start.attached) == ("r2", False)


def test_a_retry_looks_at_its_own_run_and_not_for_others(service: Service) -> None:
    store = Store()
    begin(store, if_running="fail").ensure()
    assert begin(store, if_running="fail").ensure().id == "r1"


def test_another_active_run_skips_or_fails_the_task_before_anything_is_recorded(service: Service) -> None:
    service.runs["r1"] = "going"
    store = Store()
    with pytest.raises(AirflowSkipException, match="Fake run r1 goes already"):
        begin(store, if_running="skip").ensure()
    with pytest.raises(RunInProgress, match=r"r1 goes already \(going\), and if_running is fail: http"):
        begin(store, if_running="fail").ensure()
    assert store == {} and service.called("trigger") == []


def test_a_run_of_others_is_neither_cancelled_nor_gone_on_with(service: Service) -> None:
    service.runs["r1"] = "going"
    store = Store()
    begin(store, if_running="attach", retry_from_failure=True).ensure()
    service.runs["r1"] = "broken"
    assert begin(store, if_running="attach", retry_from_failure=True).ensure().id == "r2"
    assert service.called("retry") == []
    service.runs |= {"r2": "done", "r3": "going"}
    begin(store, if_running="attach", max_tries=4).ensure()
    begin(store, max_tries=6).ensure()
    assert service.called("cancel") == []


def test_a_service_that_cannot_list_active_runs_says_so(service: Service) -> None:
    with pytest.raises(RequestRefused, match="Fake cannot list active runs"):
        begin(Store(), PlainHook(), if_running="attach").ensure()


# What a second look at these rules found


def test_without_a_store_an_old_success_is_no_retry(service: Service, mocker: Any) -> None:
    service.runs["r1"] = "broken"
    start = begin(None, resumes="r1", is_retry=True)
    looked = mocker.spy(start.hook, "find_retried")
    start.ensure()
    assert looked.call_args.args[2] == pytest.approx(1000.0)


def test_a_kill_finds_the_run_that_is_being_started_and_not_the_one_before(service: Service) -> None:
    store = Store()
    store["run"] = StartRecord(2, 1, "marker", FINGERPRINT, None, 900.0).to_json()
    service.start("marker", same=False)
    service.runs["r1"] = "broken"
    start = begin(store)
    seen: list[Any] = []
    service.before_answer = lambda: seen.append((start.run, start.find()))
    start.ensure()
    ((run, found),) = seen
    assert run is None and found.id == "r2"


def test_an_own_run_after_one_of_others_is_ones_own(service: Service) -> None:
    service.runs["r1"] = "going"
    store = Store()
    begin(store, if_running="attach").ensure()
    service.runs["r1"] = "broken"
    start = begin(store, if_running="attach")
    seen: list[bool] = []
    service.before_answer = lambda: seen.append(start.attached)
    assert start.ensure().id == "r2"
    assert seen == [False] and not start.attached


def test_a_refused_repetition_says_nothing_about_the_first_request(service: Service) -> None:
    store = Store()
    service.loses_answers = 1
    with pytest.raises(StartUncertain):
        begin(store, KeyHook(), unreachable_timeout=0.0).ensure()
    service.trigger_errors = [ApiError("no such job", status=400)]
    with pytest.raises(RequestRefused):
        begin(store, KeyHook()).ensure()
    assert store["run"]["refused"] is False
    assert begin(store, KeyHook()).ensure().id == "r1"


@pytest.mark.parametrize("hook", [FakeHook, KeyHook])
def test_refused_credentials_settle_no_lost_start(
    service: Service, mocker: Any, hook: type[FakeHook]
) -> None:
    store = Store()
    service.loses_answers = 1
    lost = mocker.patch.object(FullApi, "find_started", side_effect=ApiError("busy", status=503))
    with pytest.raises(StartUncertain):
        begin(store, hook(), unreachable_timeout=0.0).ensure()
    service.trigger_errors = [Unauthorized("who are you", status=401)]
    lost.side_effect = Unauthorized("who are you", status=401)
    with pytest.raises(StartUncertain, match="may not be asked for: who are you"):
        begin(store, hook()).ensure()
    mocker.stop(lost)
    assert begin(store, hook()).ensure().id == "r1"
    assert service.runs == {"r1": "going"}


def test_the_bad_end_of_an_earlier_run_may_be_the_verdict(service: Service) -> None:
    store = Store()
    begin(store).ensure()
    service.runs["r1"] = "broken"
    run = begin(store, is_final=lambda run, *_: run.status == "broken").ensure()
    assert (run.id, run.state) == ("r1", RunState.FAILED)
    assert begin(store, is_final=lambda run, *_: run.status == "stopped").ensure().id == "r2"


def test_a_run_that_was_left_going_is_not_left_any_more_once_a_try_attaches(service: Service) -> None:
    store = Store()
    begin(store).ensure()
    store["run"] = {**store["run"], "left": True}
    assert begin(store).ensure().id == "r1"
    assert (store["run"]["left"], store["run"]["run_id"]) == (False, "r1")


def test_a_run_is_not_left_any_more_that_a_try_waits_for_without_seeing_it(service: Service) -> None:
    store = Store()
    begin(store).ensure()
    store["run"] = {**store["run"], "left": True}
    service.errors["r1"] = ConnectionFailed("down", sent=False)
    assert begin(store).ensure().id == "r1"
    assert (store["run"]["left"], store["run"]["run_id"]) == (False, "r1")


def test_a_run_is_not_left_any_more_once_a_try_has_found_it(service: Service) -> None:
    store = Store()
    store["run"] = StartRecord(2, 1, "marker", FINGERPRINT, None, 900.0, left=True).to_json()
    service.start("marker", same=False)
    assert begin(store).ensure().id == "r1"
    assert (store["run"]["left"], store["run"]["run_id"]) == (False, "r1")


@pytest.mark.parametrize("early", [True, False])
def test_a_try_that_leaves_its_run_says_so_beside_its_id(service: Service, early: bool) -> None:
    store = Store()
    start = begin(store)
    service.before_answer = start.leave if early else lambda: None
    start.ensure()
    if not early:
        start.leave()
    assert (store["run"]["left"], store["run"]["run_id"]) == (True, "r1")


def test_a_clear_while_a_start_is_under_way_waits_until_it_has_landed(
    service: Service, virtual: VirtualClock
) -> None:
    store = Store()
    store["run"] = StartRecord(2, 1, "marker", FINGERPRINT, None, 999.0).to_json()
    virtual.later(20.0, lambda: service.start("marker", same=False))
    assert begin(store, max_tries=4).ensure().id == "r2"
    assert virtual.passed == pytest.approx(29.0)
    assert service.called("cancel") == ["r1"]


@pytest.mark.parametrize("rule", ["skip", "fail", "attach"])
def test_a_start_that_is_repeated_looks_for_other_runs_too(service: Service, rule: str) -> None:
    service.runs["r1"] = "going"
    store = Store()
    store["run"] = StartRecord(2, 1, "marker", FINGERPRINT, None, 900.0).to_json()
    start = begin(store, if_running=rule)
    if rule == "attach":
        assert (start.ensure().id, start.attached) == ("r1", True)
    else:
        with pytest.raises((AirflowSkipException, RunInProgress)):
            start.ensure()
    assert service.called("trigger") == []


def test_a_lost_start_of_another_resource_is_named(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()
    store["run"] = StartRecord(2, 1, "marker", "where.old", None, 900.0).to_json()
    begin(store).ensure()
    assert "its id is not known" in caplog.text


def test_a_run_that_is_gone_when_it_is_to_be_cancelled_is_no_obstacle(service: Service) -> None:
    store = Store()
    first = begin(store).ensure()
    service.cancel_errors[first.id] = NotFound("gone", status=404)
    assert begin(store, max_tries=4).ensure().id != first.id


def test_a_run_that_ended_while_it_was_listed_is_not_attached_to(service: Service, mocker: Any) -> None:
    ended = Run("r9", RunState.FAILED, "broken")
    mocker.patch.object(FullApi, "list_runs", return_value=_answer([ended]))
    assert FakeHook().newest_active({"job": "j"}) is None


def _answer(runs: list[Run]) -> Any:
    yield from ()
    return runs


# Runs that carry no key


def lose(service: Service, store: Store, **changes: Any) -> None:
    """Have the answer to a start lost."""
    service.loses_answers = 1
    with pytest.raises(StartUncertain):
        begin(store, UnmarkedHook(), **changes).ensure()


def test_what_there_was_before_a_start_is_recorded_before_sending(service: Service) -> None:
    store = Store()
    service.runs["r0"] = "done"
    begin(store, UnmarkedHook()).ensure()
    assert store.versions[0]["run_id"] is None and store.versions[0]["snapshot"] == {"runs": ["r0"]}
    assert StartRecord.from_json(store["run"]).snapshot == {"runs": ["r0"]}  # type: ignore[union-attr]


def test_a_run_that_is_surely_the_tasks_own_is_found_again(service: Service) -> None:
    store = Store()
    lose(service, store)
    service.runs["other"] = "going"
    service.proven = {"r1"}
    start = begin(store, UnmarkedHook())
    assert start.ensure().id == "r1"
    assert not start.attached and len(service.called("trigger")) == 1


def test_what_tells_a_run_later_is_waited_for(
    service: Service, caplog: pytest.LogCaptureFixture, virtual: VirtualClock
) -> None:
    store = Store()
    lose(service, store)
    service.may_tell = True
    virtual.later(12.0, lambda: service.proven.add("r1"))
    with caplog.at_level(logging.INFO):
        start = begin(store, UnmarkedHook(), on_unknown_start="start")
        assert start.ensure().id == "r1"
    assert virtual.passed == pytest.approx(15.0) and not start.attached
    assert len(service.called("find_unmarked")) == 5
    assert caplog.text.count("it may be r1. Looking again for up to 300 s") == 1


def test_a_lost_answer_is_settled_in_the_same_try_where_waiting_tells(
    service: Service, virtual: VirtualClock
) -> None:
    service.may_tell, service.loses_answers = True, 1
    virtual.later(1.0, lambda: service.proven.add("r1"))
    assert begin(Store(), UnmarkedHook()).ensure().id == "r1"
    assert len(service.called("trigger")) == 1
    assert virtual.passed == pytest.approx(LOOK_INTERVAL)


def test_what_never_tells_is_waited_for_some_minutes_only(service: Service, virtual: VirtualClock) -> None:
    store = Store()
    lose(service, store)
    service.may_tell = True
    with pytest.raises(RequestRefused, match="it may be r1"):
        begin(store, UnmarkedHook()).ensure()
    assert virtual.passed == pytest.approx(LOOK_SECONDS)


def test_a_task_that_was_told_to_stop_waits_for_nothing_that_tells(
    service: Service, virtual: VirtualClock
) -> None:
    store = Store()
    lose(service, store)
    service.may_tell = True
    start = begin(store, UnmarkedHook())
    virtual.later(1.0, lambda: setattr(start, "stopped", True))
    with pytest.raises(RequestRefused, match="it may be r1"):
        start.ensure()
    assert virtual.passed == pytest.approx(LOOK_INTERVAL)
    assert len(service.called("find_unmarked")) == 3


def test_where_nothing_tells_the_task_fails_and_names_the_runs(service: Service) -> None:
    store = Store()
    lose(service, store)
    for _ in range(2):
        with pytest.raises(RequestRefused, match=r"it may be r1. Look which .* clear the task"):
            begin(store, UnmarkedHook()).ensure()
    assert len(service.called("trigger")) == 1


def test_the_only_run_is_adopted_where_the_user_says_so_and_never_cancelled(service: Service) -> None:
    store = Store()
    lose(service, store)
    start = begin(store, UnmarkedHook(), on_unknown_start="adopt")
    assert start.ensure().id == "r1"
    assert start.attached and store["run"]["attached"] is True
    assert begin(store, UnmarkedHook(), max_tries=5).ensure().id == "r2"
    assert service.called("cancel") == []


def test_one_of_several_runs_is_not_adopted(service: Service) -> None:
    store = Store()
    lose(service, store)
    service.runs["other"] = "going"
    with pytest.raises(RequestRefused, match="it may be r1, other"):
        begin(store, UnmarkedHook(), on_unknown_start="adopt").ensure()


def test_another_run_is_started_where_the_user_says_so(service: Service) -> None:
    store = Store()
    lose(service, store)
    run = begin(store, UnmarkedHook(), on_unknown_start="start").ensure()
    assert run.id == store["run"]["run_id"] == "r2"
    # What is there by now cannot be the run of the second request.
    assert store["run"]["snapshot"] == {"runs": ["r1"]}


def test_where_no_run_can_be_it_another_is_started(service: Service, virtual: VirtualClock) -> None:
    store = Store()
    lose(service, store)
    service.runs.clear()
    assert begin(store, UnmarkedHook()).ensure().id == "r1"
    assert virtual.passed == pytest.approx(30.0) and len(service.called("trigger")) == 2


def test_a_cleared_task_leaves_alone_what_may_be_another_ones(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()
    lose(service, store)
    with caplog.at_level(logging.WARNING):
        assert begin(store, UnmarkedHook(), max_tries=5).ensure().id == "r2"
    assert "it may be r1. It is left alone" in caplog.text
    assert service.called("cancel") == []


def test_what_may_be_another_ones_is_not_handed_out_to_be_cancelled(service: Service) -> None:
    store = Store()
    service.loses_answers = 1
    start = begin(store, UnmarkedHook())
    with pytest.raises(StartUncertain, match="it may be r1; a retry of the task finds out"):
        start.ensure()
    with pytest.raises(Unsure):
        start.find()
    service.proven = {"r1"}
    assert start.find().id == "r1"  # type: ignore[union-attr]


def test_a_retry_takes_along_what_its_service_needs_of_the_start(service: Service) -> None:
    store = Store()
    service.status_of_new = "broken"
    begin(store, UnmarkedHook()).ensure()
    begin(store, UnmarkedHook(), retry_from_failure=True).ensure()
    assert service.called("retry") == [("r1", {"job": "j"})]


def test_a_service_that_runs_one_at_a_time_is_asked_again_by_a_retry(service: Service) -> None:
    store = Store()
    service.trigger_errors = [AlreadyRunning("r0 goes")]
    with pytest.raises(RunInProgress, match="r0 goes; if_running"):
        begin(store).ensure()
    assert store["run"]["refused"] is True
    assert begin(store).ensure().id == "r1"


def test_a_snapshot_that_cannot_be_read_is_no_record(service: Service) -> None:
    value = {**json.loads(GOLDEN.read_text()), "snapshot": "all"}
    with pytest.raises(StartUncertain):
        StartRecord.from_json(value)


# An outage, and a service that has too many requests


def not_sent() -> ConnectionFailed:
    return ConnectionFailed("connection refused", sent=False)


def limited(retry_after: float | None = None) -> ApiError:
    error = ApiError("too many requests", status=429)
    error.is_limit = True
    error.retry_after = retry_after
    return error


def test_a_start_with_a_key_outlasts_an_outage(service: Service, virtual: VirtualClock) -> None:
    store = Store()
    service.trigger_errors = [not_sent() for _ in range(4)]
    run = begin(store, KeyHook()).ensure()
    assert list(service.runs) == [run.id] == [store["run"]["run_id"]]
    assert len(service.called("trigger")) == 5 and len(set(service.called("trigger"))) == 1
    assert 10.0 < virtual.passed < 75.0


def test_a_start_with_a_key_whose_answers_are_lost_is_sent_again_in_the_same_try(service: Service) -> None:
    store = Store()
    service.loses_answers = 3
    run = begin(store, KeyHook()).ensure()
    assert list(service.runs) == [run.id]
    assert len(service.called("trigger")) == 4 and len(set(service.called("trigger"))) == 1


def test_an_outage_longer_than_unreachable_timeout_fails_the_try(
    service: Service, virtual: VirtualClock
) -> None:
    store = Store()
    service.trigger_errors = [not_sent() for _ in range(1000)]
    with pytest.raises(ConnectionFailed):
        begin(store, KeyHook(), unreachable_timeout=600.0).ensure()
    assert virtual.passed == pytest.approx(600.0)
    assert store["run"]["run_id"] is None
    service.trigger_errors.clear()
    assert begin(store, KeyHook()).ensure().id == "r1"


@pytest.mark.parametrize("hook", [FakeHook, PlainHook, UnmarkedHook])
def test_a_start_without_a_key_that_has_not_left_is_left_to_a_retry(
    service: Service, hook: type[FakeHook]
) -> None:
    service.trigger_errors = [not_sent()]
    with pytest.raises(ConnectionFailed):
        begin(Store(), hook()).ensure()
    assert service.runs == {}


def test_a_task_told_to_stop_in_an_outage_sends_nothing_more(service: Service, virtual: VirtualClock) -> None:
    service.trigger_errors = [not_sent() for _ in range(1000)]
    start = begin(Store(), KeyHook())
    virtual.later(100.0, lambda: setattr(start, "stopped", True))
    with pytest.raises(StartUncertain, match="told to stop"):
        start.ensure()
    assert 100.0 <= virtual.passed <= 101.0


def test_a_start_that_the_service_puts_off_is_not_looked_for(service: Service, virtual: VirtualClock) -> None:
    class KeyAndMarker(FullApi):
        takes_key = True

    class Hook(FakeHook):
        api_class = KeyAndMarker

    service.trigger_errors = [limited(40.0), limited()]
    begin(Store(), Hook()).ensure()
    assert service.called("find_started") == []
    assert virtual.passed > 42.0


def test_a_replay_is_told_by_what_was_known_before_it_was_sent(service: Service, mocker: Any) -> None:
    """The clock of the worker that sent it may be wrong."""
    service.runs["r0"] = "broken"
    mocker.patch.object(FullApi, "check_retry", side_effect=lambda *_: (yield from ()) or {"seen": ["r0"]})
    asked = mocker.spy(FullApi, "find_retried")
    service.loses_answers = 1
    store = Store()
    begin(store, resumes="r0").ensure()
    assert asked.call_args.args[4] == {"seen": ["r0"]} == store["run"]["snapshot"]


class KeyAndMarkerApi(FullApi):
    takes_key = True


class KeyAndMarkerHook(FakeHook):
    api_class = KeyAndMarkerApi


def test_a_refusal_after_a_lost_answer_does_not_say_that_nothing_was_begun(service: Service) -> None:
    store = Store()
    service.loses_answers = 1
    start = begin(store, KeyHook())
    service.before_answer = lambda: service.trigger_errors.append(Unauthorized("renewed", status=401))
    with pytest.raises(StartUncertain, match="may have been started"):
        start.ensure()
    assert store["run"]["refused"] is False
    service.before_answer = lambda: None
    assert begin(store, KeyHook()).ensure().id == "r1"


@pytest.mark.parametrize("status", ["broken", "stopped"])
def test_the_ended_run_of_an_earlier_try_that_a_look_finds_is_not_this_trys_failure(
    service: Service, status: str
) -> None:
    store = Store()
    service.start("key", same=True)
    service.runs["r1"] = status
    store["run"] = StartRecord(2, 1, "key", FINGERPRINT, None, 1000.0).to_json()
    service.trigger_errors = [ConnectionFailed("lost", sent=True)]
    run = begin(store, KeyAndMarkerHook()).ensure()
    assert run.id == "r2" and store["run"]["attempt"] == 2


def test_a_start_that_was_put_off_is_sent_another_time_as_it_was(service: Service) -> None:
    store = Store()
    record = StartRecord(2, 3, "old", FINGERPRINT, None, 1000.0, "r0", refused=True, delayed_since=900.0)
    store["run"] = record.to_json()
    service.runs["r0"] = "broken"
    begin(store, retry_from_failure=True).ensure()
    assert service.called("retry") == [("r0", {})]
    assert store["run"]["attempt"] == 3


def test_a_cleared_task_forgets_that_its_start_was_put_off(service: Service) -> None:
    store = Store()
    record = StartRecord(1, 3, "old", FINGERPRINT, None, 1000.0, "r0", refused=True, delayed_since=900.0)
    store["run"] = record.to_json()
    assert begin(store, retry_from_failure=True).ensure().id == "r1"
    assert (store["run"]["attempt"], service.called("retry")) == (1, [])
