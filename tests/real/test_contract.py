"""What this provider relies on in Mage, asked of a real server; `tests/mage` asks the simulator the same."""

from __future__ import annotations

import asyncio
import warnings
from datetime import timedelta
from typing import Any

import pendulum
import pytest
import requests

from airflow_provider_runs.core import clock
from airflow_provider_runs.core.connection import read_settings
from airflow_provider_runs.core.drivers import AsyncDriver, Driver
from airflow_provider_runs.core.errors import ApiError, ConnectionFailed, NotFound, Unauthorized
from airflow_provider_runs.core.retry import NO_RETRY
from airflow_provider_runs.core.run import Run, RunState
from airflow_provider_runs.mage import api as mage_api
from airflow_provider_runs.mage import lookups
from airflow_provider_runs.mage.api import MageRunApi
from airflow_provider_runs.mage.hooks import MageHook
from tests.real.target import Mage
from tools.speed import patient, scaled

UNKNOWN = 987654
ROW = {
    "backfill_id",
    "completed_at",
    "created_at",
    "event_variables",
    "execution_date",
    "executor_type",
    "id",
    "metrics",
    "passed_sla",
    "pipeline_schedule_id",
    "pipeline_uuid",
    "started_at",
    "status",
    "updated_at",
    "variables",
}
LIST_ROW = ROW | {
    "block_runs",
    "block_runs_count",
    "completed_block_runs_count",
    "pipeline_schedule_name",
    "pipeline_schedule_token",
    "pipeline_schedule_type",
    "pipeline_tags",
    "pipeline_type",
    "repo_path",
}
BLOCK_ROW = {
    "block_uuid",
    "completed_at",
    "created_at",
    "id",
    "metrics",
    "pipeline_run_id",
    "pipeline_schedule_id",
    "pipeline_schedule_name",
    "started_at",
    "status",
    "updated_at",
}
with_login = pytest.mark.parametrize("mage", [True], indirect=True, ids=["auth_on"])
without_login = pytest.mark.parametrize("mage", [False], indirect=True, ids=["auth_off"])


def as_dict(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names}


def as_given(mage: Mage, **fields: Any) -> tuple[Driver, list[str]]:
    """Return a driver for a connection that is not logged in, and the list of the tokens that it will get."""
    tokens: list[str] = []
    connection = mage.connection(**fields)
    connection.pop("conn_type")
    settings = read_settings(MageRunApi.connection, conn_id="mage_default", **connection)
    return Driver(MageRunApi(settings, keep_secret=tokens.append)), tokens


def complete(mage: Mage) -> tuple[list[str], Run]:
    """Return a run that went well, and the status words on its way."""
    run = mage.start("example", key="key-of-completed", variables={"sleep": 0.1})
    words = [run.status]
    for seen in mage.watch(run):
        if seen.status != words[-1]:
            words.append(seen.status)
    return words, seen


@pytest.fixture(scope="module")
def completed(mage: Mage) -> tuple[list[str], Run]:
    """A run that went well, and the status words on its way."""
    return complete(mage)


@pytest.fixture(scope="module")
def failed(mage: Mage) -> Run:
    """A run whose second block raised."""
    return mage.wait(mage.start("broken"))


@pytest.fixture
def hook(mage: Mage, monkeypatch: pytest.MonkeyPatch) -> MageHook:
    """A hook that finds its connection in the environment."""
    # As in every real task: Airflow 2.11 reads a connection only once its tables of DAGs are known.
    with warnings.catch_warnings(action="ignore"):
        import airflow_provider_runs.mage.operators  # noqa: F401

    monkeypatch.setenv("AIRFLOW_CONN_MAGE_DEFAULT", mage.connection_json())
    return MageHook()


# Starting


@pytest.mark.parametrize(
    ("arguments", "event"),
    [
        ({"variables": {"number": 7, "deep": {"list": [1, None, "ä"]}}}, {}),
        ({"event_variables": {"file": "a.csv", "rows": 3}}, {"file": "a.csv", "rows": 3}),
        ({"variables": {"number": 7}, "event_variables": {"file": "a.csv"}}, {"file": "a.csv"}),
        ({}, {}),
    ],
    ids=["variables", "event_variables", "both", "nothing"],
)
def test_trigger_keeps_what_was_given_and_the_marker(
    mage: Mage, arguments: dict[str, Any], event: dict[str, Any]
) -> None:
    run = mage.start("empty", key="key-of-this-try", **arguments)
    # A loop of the scheduler may come between the start and its answer.
    assert run.id.isdigit() and run.status in ("initial", "running")
    assert run.url == f"{mage.url}/pipelines/empty/runs/{run.id}"
    row = mage.row(run)
    partition = row["variables"].pop("execution_partition")
    assert row["variables"] == {**arguments.get("variables", {}), "airflow_run_key": "key-of-this-try"}
    assert partition.startswith(f"{mage.schedules['empty'].id}/")
    assert row["event_variables"] == event
    assert as_dict(row, "id", "pipeline_schedule_id", "pipeline_uuid") == {
        "id": int(run.id),
        "pipeline_schedule_id": mage.schedules["empty"].id,
        "pipeline_uuid": "empty",
    }


def test_trigger_without_key_leaves_no_marker(mage: Mage) -> None:
    row = mage.row(mage.start("empty"))
    assert set(row["variables"]) == {"execution_partition"}


def test_inactive_trigger_is_refused_unless_allowed_and_becomes_active_then(mage: Mage) -> None:
    driver = mage.driver()
    path = f"/api/pipeline_schedules/{mage.schedules['inactive'].id}"
    before = mage.count()
    with pytest.raises(ApiError, match=r"\('inactive'\) is inactive in Mage"):
        mage.start("inactive")
    assert mage.count() == before
    assert mage.call("GET", path).json()["pipeline_schedule"]["status"] == "inactive"
    for _ in range(5):
        run = mage.start("inactive", allow_inactive_trigger=True)
        clock.sleep(2 * mage.loop)
        if mage.call("GET", path).json()["pipeline_schedule"]["status"] == "active":
            break
        # Mage was just reading the trigger's file and switched it off again: such a run never begins.
        assert mage.get(run).status == "initial"
        driver.drive(driver.api.cancel(run.id))
    assert mage.wait(run).status == "completed"


@pytest.mark.parametrize("token", ["wrong", "with-dash", "wrong token"])
def test_wrong_trigger_token_is_refused_for_good_and_starts_nothing(mage: Mage, token: str) -> None:
    before = mage.count()
    driver, _ = as_given(mage, extra={"trigger_token": token})
    with pytest.raises(Unauthorized, match="connection 'mage_default'") as caught:
        driver.drive(driver.api.trigger({"pipeline_schedule_id": mage.schedules["example"].id}))
    assert caught.value.permanent and caught.value.status == 401
    assert token not in str(caught.value) or token == "wrong"
    assert mage.count() == before


def test_scheme_of_the_trigger_token_is_read_in_any_case(mage: Mage) -> None:
    schedule = mage.schedules["empty"]
    headers = {"Authorization": f"bearer {schedule.token}"}
    path = f"/api/pipeline_schedules/{schedule.id}/api_trigger"
    assert requests.post(mage.url + path, headers=headers, timeout=scaled(30)).json()["pipeline_run"]


def test_unknown_trigger_is_not_found_and_starts_nothing(mage: Mage) -> None:
    before = mage.count()
    driver = mage.driver()
    with pytest.raises(NotFound, match=f"trigger {UNKNOWN}") as caught:
        driver.drive(driver.api.trigger({"pipeline_schedule_id": UNKNOWN}))
    assert caught.value.permanent
    assert mage.count() == before


def test_time_trigger_is_refused_for_good_and_starts_nothing(mage: Mage) -> None:
    before = mage.count()
    with pytest.raises(ApiError, match="is a time trigger in Mage") as caught:
        mage.start("nightly")
    with pytest.raises(ApiError, match="only supported for API trigger"):
        mage.start("nightly", allow_inactive_trigger=True)
    assert caught.value.permanent and not isinstance(caught.value, (NotFound, Unauthorized))
    assert mage.count() == before


def test_without_a_trigger_token_in_the_connection_it_is_read_from_mage(mage: Mage) -> None:
    told: list[str] = []
    api = MageRunApi(mage.settings(trigger=None), keep_secret=told.append)
    api.token = mage.driver().api.token
    driver = Driver(api)
    run = driver.drive(driver.api.trigger({"pipeline_schedule_id": mage.schedules["empty"].id}))
    assert mage.wait(run).state is RunState.SUCCEEDED
    assert told == [mage.schedules["empty"].token]


# Watching


def test_run_goes_from_initial_over_running_to_completed(completed: tuple[list[str], Run]) -> None:
    words, run = completed
    assert words == ["initial", "running", "completed"]
    assert run.state is RunState.SUCCEEDED and run.message is None


def test_times_are_aware_and_in_utc(completed: tuple[list[str], Run]) -> None:
    _, run = completed
    assert run.started_at and run.finished_at
    assert run.started_at.utcoffset() == run.finished_at.utcoffset() == timedelta(0)
    assert run.started_at < run.finished_at
    assert abs(pendulum.from_timestamp(clock.time()) - run.finished_at) < timedelta(minutes=10)


def test_pipeline_without_blocks_completes(mage: Mage) -> None:
    run = mage.start("empty")
    assert mage.wait(run).state is RunState.SUCCEEDED
    assert mage.row(run)["block_runs"] == []


def test_failed_run_names_the_block_and_the_last_line_of_its_error(mage: Mage, failed: Run) -> None:
    assert (failed.state, failed.status) == (RunState.FAILED, "failed")
    assert failed.message == "block bang: ValueError: bang in transform"
    assert failed.started_at is not None and failed.finished_at is None


def test_explain_gives_the_traceback_of_the_failed_block(mage: Mage, failed: Run) -> None:
    driver = mage.driver()
    said = driver.drive(driver.api.explain(failed.id))
    assert said is not None
    lines = said.splitlines()
    assert lines[0] == "block bang: ValueError: bang in transform"
    assert lines[1].startswith(("Traceback", "  "))
    end = next(index for index, line in enumerate(lines) if line.startswith("the end of its log"))
    assert lines[end - 1] == "ValueError: bang in transform"
    assert lines[end + 1] == "  INFO Start executing block with BlockExecutor."
    assert lines[-1].startswith("  EXCEPTION Failed to execute block bang")
    assert "block load" not in said


def test_explain_has_nothing_to_say_about_a_good_run(mage: Mage, completed: tuple[list[str], Run]) -> None:
    driver = mage.driver()
    assert driver.drive(driver.api.explain(completed[1].id)) is None


def test_unknown_run_is_not_found(mage: Mage) -> None:
    driver = mage.driver()
    for flow in (driver.api.get, driver.api.cancel, driver.api.explain):
        with pytest.raises(NotFound, match=f"run {UNKNOWN}") as caught:
            driver.drive(flow(str(UNKNOWN)))
        assert caught.value.permanent and caught.value.status == 404


def test_errors_have_their_http_status_only_where_that_is_asked_for(mage: Mage) -> None:
    plain = mage.call("GET", f"/api/pipeline_runs/{UNKNOWN}")
    asked = mage.call("GET", f"/api/pipeline_runs/{UNKNOWN}", _http_error_codes="1")
    assert (plain.status_code, asked.status_code) == (200, 404)
    assert (plain.json()["status"], asked.json()["status"]) == (200, 404)
    for answer in (plain, asked):
        error = answer.json()["error"]
        assert error.pop("message")
        assert error == {"code": 404, "type": "record_not_found"}


# Cancelling


def test_run_is_cancelled_before_it_begins(mage: Mage) -> None:
    driver = mage.driver()
    for _ in range(5):
        run = mage.start("example")
        driver.drive(driver.api.cancel(run.id))
        cancelled = mage.get(run)
        clock.sleep(3 * mage.loop)
        settled = mage.get(run)
        if settled == cancelled and cancelled.state is RunState.CANCELLED and cancelled.started_at is None:
            break
        # Its scheduler was beginning the run just then and wrote over the cancel: a second one ends it.
        if not settled.state.is_terminal:
            driver.drive(driver.api.cancel(run.id))
            assert mage.get(run).state.is_terminal
    assert settled == cancelled and cancelled.state is RunState.CANCELLED
    assert {block["status"] for block in mage.row(run)["block_runs"]} == {"cancelled"}
    assert cancelled.started_at is None and cancelled.finished_at is None and cancelled.message is None


def test_run_is_cancelled_while_it_works(mage: Mage) -> None:
    driver = mage.driver()
    run = mage.start("slow")
    assert mage.wait(run, "running").state is RunState.RUNNING
    # The run goes before its block does; a block that is just about to go would still do so.
    end = clock.monotonic() + scaled(30)
    while mage.row(run)["block_runs"][0]["status"] != "running" and clock.monotonic() < end:
        clock.sleep(mage.loop / 10)
    driver.drive(driver.api.cancel(run.id))
    driver.drive(driver.api.cancel(run.id))
    cancelled = mage.get(run)
    assert (cancelled.state, cancelled.status) == (RunState.CANCELLED, "cancelled")
    clock.sleep(2 * mage.loop)
    assert mage.get(run) == cancelled
    assert [block["status"] for block in mage.row(run)["block_runs"]] == ["cancelled"]


def test_cancelling_an_ended_run_changes_nothing(
    mage: Mage, completed: tuple[list[str], Run], failed: Run
) -> None:
    driver = mage.driver()
    for run in (completed[1], failed):
        before = mage.row(run)
        driver.drive(driver.api.cancel(run.id))
        assert mage.get(run) == run
        assert mage.row(run) == before


# Finding a run whose start got no answer


def test_run_is_found_again_among_others_by_its_marker(mage: Mage) -> None:
    since = clock.time()
    runs = {key: mage.start("empty", key=key) for key in ("find-1", "find-2", "find-3")}
    other = mage.start("example", key="find-2")
    driver = mage.driver("empty")
    arguments = {"pipeline_schedule_id": mage.schedules["empty"].id}
    for key, run in runs.items():
        found = driver.drive(driver.api.find_started(arguments, key, since))
        assert found is not None and found.id == run.id != other.id
    assert driver.drive(driver.api.find_started(arguments, "find", since)) is None


def test_run_is_found_on_a_later_page(mage: Mage, monkeypatch: pytest.MonkeyPatch) -> None:
    since = clock.time()
    monkeypatch.setattr(lookups, "PAGE", 2)
    runs = [mage.start("empty", key=f"page-{number}") for number in range(5)]
    driver = mage.driver("empty")
    arguments = {"pipeline_schedule_id": str(mage.schedules["empty"].id)}
    for number, run in enumerate(runs):
        found = driver.drive(driver.api.find_started(arguments, f"page-{number}", since))
        assert found is not None and found.id == run.id
    assert driver.drive(driver.api.find_started(arguments, "page-5", since)) is None


def test_no_run_is_found_for_a_trigger_that_does_not_exist(
    mage: Mage, completed: tuple[list[str], Run]
) -> None:
    listed = mage.call(
        "GET", f"/api/pipeline_schedules/{UNKNOWN}/pipeline_runs", disable_retries_grouping="1"
    )
    assert listed.json()["pipeline_runs"], "Mage is known to list the runs of all triggers"
    driver = mage.driver()
    arguments = {"pipeline_schedule_id": UNKNOWN}
    assert driver.drive(driver.api.find_started(arguments, "key-of-completed", 0.0)) is None


def test_the_first_of_two_runs_with_one_marker_is_found(mage: Mage) -> None:
    run = mage.start("empty", key="key-of-retried")
    row = mage.row(run)
    retry = {"pipeline": {"status": "retry", "pipeline_runs": [row]}}
    before = mage.count()
    assert "error" not in mage.call("PUT", "/api/pipelines/empty", retry).json()
    assert mage.count() == before + 1
    driver = mage.driver("empty")
    arguments = {"pipeline_schedule_id": mage.schedules["empty"].id}
    found = driver.drive(driver.api.find_started(arguments, "key-of-retried", clock.time()))
    assert found is not None and found.id == run.id


# Connecting


def test_check_names_the_server_and_its_scheduler(mage: Mage) -> None:
    driver = mage.driver()
    assert driver.drive(driver.api.check()) == f"Connected to Mage at {mage.url}, scheduler running"


def test_check_tells_a_wrong_path_prefix(mage: Mage) -> None:
    driver, _ = as_given(mage, host=f"{mage.url}/elsewhere")
    with pytest.raises(ApiError, match="path prefix") as caught:
        driver.drive(driver.api.check())
    assert caught.value.permanent and caught.value.status == 404


def test_check_tells_that_nobody_answers(mage: Mage) -> None:
    driver, _ = as_given(mage, host="http://127.0.0.1:1")
    with pytest.raises(ConnectionFailed, match=r"http://127\.0\.0\.1:1\b") as caught:
        driver.drive(driver.api.check(), NO_RETRY)
    assert not caught.value.sent


@with_login
@pytest.mark.parametrize("by", ["email", "username"])
def test_login_by_email_and_by_username(mage: Mage, by: str) -> None:
    driver, tokens = as_given(mage, login=getattr(mage, by))
    assert driver.drive(driver.api.check()).startswith("Connected")
    assert len(tokens) == 1
    assert driver.api.token is not None and driver.api.token.lifetime > 86400


@with_login
def test_wrong_password_is_refused_and_leaves_other_errors_what_they_are(mage: Mage) -> None:
    driver, tokens = as_given(mage, password="planted-wrong-password")
    with pytest.raises(Unauthorized, match="check login and password") as caught:
        driver.drive(driver.api.check())
    assert caught.value.permanent and "planted" not in str(caught.value)
    assert tokens == []
    logged_in = mage.driver()
    with pytest.raises(NotFound):
        logged_in.drive(logged_in.api.get(str(UNKNOWN)))
    with pytest.raises(NotFound):
        logged_in.drive(logged_in.api.trigger({"pipeline_schedule_id": UNKNOWN}))


@with_login
@pytest.mark.parametrize("name", ["email", "username"])
def test_email_and_username_do_not_stand_for_each_other(mage: Mage, name: str) -> None:
    other = {"email": mage.username, "username": mage.email}[name]
    body = {"api_key": mage_api.API_KEY, "session": {name: other, "password": mage.password}}
    answer = requests.post(f"{mage.url}/api/sessions", json=body, timeout=scaled(30))
    assert answer.json()["error"]["code"] == 404


@with_login
def test_login_is_refused_to_whoever_is_logged_in(mage: Mage) -> None:
    body = {"api_key": mage_api.API_KEY, "session": {"email": mage.email, "password": mage.password}}
    error = mage.call("POST", "/api/sessions", body).json()["error"]
    assert (error["code"], error["type"]) == (403, "unauthorized_access")


@without_login
def test_login_is_refused_where_nobody_can_log_in(mage: Mage) -> None:
    driver, tokens = as_given(mage, login=mage.email, password=mage.password)
    with pytest.raises(Unauthorized, match="leave both empty where the server has user authentication off"):
        driver.drive(driver.api.check())
    assert tokens == []


@with_login
def test_without_login_runs_can_be_started_but_not_read(mage: Mage) -> None:
    driver, _ = as_given(mage, trigger="empty", login=None, password=None)
    arguments = {"pipeline_schedule_id": mage.schedules["empty"].id}
    run = driver.drive(driver.api.trigger(arguments))
    for flow in (
        driver.api.get(run.id),
        driver.api.cancel(run.id),
        driver.api.check(),
        driver.api.find_started(arguments, "key", 0.0),
    ):
        with pytest.raises(Unauthorized, match="'mage_default' needs login and password") as caught:
            driver.drive(flow)
        assert caught.value.permanent
    assert mage.wait(run).status == "completed"


@with_login
def test_expired_session_is_renewed_once(mage: Mage, completed: tuple[list[str], Run]) -> None:
    driver, tokens = as_given(mage)
    driver.drive(driver.api.get(completed[1].id))
    assert len(tokens) == 1
    mage.expire_sessions()
    assert driver.drive(driver.api.get(completed[1].id)) == completed[1]
    assert driver.drive(driver.api.get(completed[1].id)) == completed[1]
    assert len(tokens) == 2 and tokens[0] != tokens[1]


@with_login
def test_session_that_mage_never_gave_is_renewed(mage: Mage, completed: tuple[list[str], Run]) -> None:
    driver, tokens = as_given(mage)
    driver.api.token = mage_api.Token("x" * 43, clock.time(), 3600.0)
    assert driver.drive(driver.api.get(completed[1].id)) == completed[1]
    assert len(tokens) == 1


async def test_ten_reads_at_once_log_in_once(mage: Mage, completed: tuple[list[str], Run]) -> None:
    tokens: list[str] = []
    driver = AsyncDriver(MageRunApi(mage.settings(), keep_secret=tokens.append))
    try:
        runs = await asyncio.gather(*(driver.drive(driver.api.get(completed[1].id)) for _ in range(10)))
    finally:
        await driver.close()
    assert runs == [completed[1]] * 10
    assert len(tokens) == (1 if mage.auth else 0)


async def test_asynchronous_driver_tells_the_same_errors(mage: Mage) -> None:
    driver = AsyncDriver(mage.driver().api)
    before = mage.count()
    try:
        with pytest.raises(NotFound):
            await driver.drive(driver.api.get(str(UNKNOWN)))
        with pytest.raises(NotFound):
            await driver.drive(driver.api.trigger({"pipeline_schedule_id": UNKNOWN}))
        with pytest.raises(Unauthorized):
            await driver.drive(driver.api.trigger({"pipeline_schedule_id": mage.schedules["slow"].id}))
    finally:
        await driver.close()
    assert mage.count() == before


async def test_hook_starts_watches_and_cancels(mage: Mage, hook: MageHook) -> None:
    run = hook.trigger_run(str(mage.schedules["example"].id), variables='{"sleep": 30}', run_key="hook")
    assert hook.find_started({"pipeline_schedule_id": mage.schedules["example"].id}, "hook", 0.0) is not None
    assert hook.get_run(run.id).state in (RunState.PENDING, RunState.RUNNING)
    async with hook:
        # Mage's scheduler may just be beginning the run, and write over a cancel.
        assert (await hook.acancel_and_confirm(run.id, patient(20))).state is RunState.CANCELLED
    assert hook.explain_run(run.id) is None
    worked, said = hook.test_connection()
    assert worked and said.endswith("scheduler running")


# The shapes of the answers


def test_answers_have_just_the_fields_that_are_known(mage: Mage, failed: Run) -> None:
    schedule = mage.schedules["empty"]
    started = mage.call(
        "POST",
        f"/api/pipeline_schedules/{schedule.id}/pipeline_runs/{schedule.token}",
        {"pipeline_run": {"variables": {}}},
    ).json()
    assert set(started) == {"pipeline_run"} and set(started["pipeline_run"]) == ROW
    assert started["pipeline_run"]["event_variables"] == {}
    detail = mage.call("GET", f"/api/pipeline_runs/{failed.id}").json()
    assert set(detail) == {"pipeline_run", "metadata"} and set(detail["pipeline_run"]) == ROW | {"block_runs"}
    load, bang = detail["pipeline_run"]["block_runs"]
    assert set(load) == set(bang) == BLOCK_ROW
    assert (load["status"], load["metrics"], bang["status"]) == ("completed", {}, "failed")
    assert set(bang["metrics"]) == {"error"}
    assert set(bang["metrics"]["error"]) == {"error", "errors", "message"}
    assert bang["metrics"]["error"]["error"] == "bang in transform"
    listed = mage.call("GET", "/api/pipeline_runs", _limit="1").json()
    assert set(listed) == {"pipeline_runs", "metadata"} and set(listed["metadata"]) == {"count", "next"}
    assert set(listed["pipeline_runs"][0]) == LIST_ROW
    changed = mage.call("PUT", f"/api/pipeline_runs/{failed.id}", {"pipeline_run": {"status": "cancelled"}})
    assert set(changed.json()) == {"pipeline_run", "metadata"} and set(changed.json()["pipeline_run"]) == ROW


def test_refused_start_has_the_shape_of_an_error_that_mage_does_not_handle(mage: Mage) -> None:
    schedule = mage.schedules["example"]
    answer = mage.call("POST", f"/api/pipeline_schedules/{schedule.id}/api_trigger", {})
    assert answer.status_code == 200
    assert set(answer.json()) == {"error", "url_parameters"}
    error = answer.json()["error"]
    assert set(error) == {"code", "errors", "exception", "message"}
    assert (error["code"], error["exception"]) == (
        500,
        f"Invalid token for pipeline schedule ID {schedule.id}.",
    )
    assert answer.json()["url_parameters"] == {"pipeline_schedule_id": str(schedule.id)}


def test_block_waits_for_a_worker_then_runs(mage: Mage) -> None:
    order = ["initial", "queued", "running"]
    run = mage.start("slow")
    words, waiting = [], []
    for _ in mage.watch(run):
        # A real Mage was once seen with more rows than blocks: the one that is worked on counts.
        block = max(mage.row(run)["block_runs"], key=lambda row: order.index(row["status"]))
        if block["status"] not in words[-1:]:
            words.append(block["status"])
        if block["status"] == "running":
            break
        waiting.append(block["started_at"])
    # On a starved machine a real Mage was seen to write when a block starts before its word.
    assert waiting[:1] in ([], [None])
    assert block["started_at"] is not None
    # A slow look may miss an early word, but none comes again.
    assert words == [word for word in order if word in words]
    assert words[-1] == "running"
    driver = mage.driver()
    driver.drive(driver.api.cancel(run.id))


def test_status_says_whether_a_login_is_needed(mage: Mage) -> None:
    (status,) = mage.call("GET", "/api/status").json()["statuses"]
    assert status["require_user_authentication"] is mage.auth
    assert status["scheduler_status"] == "running"
