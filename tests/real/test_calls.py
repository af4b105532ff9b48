"""What this provider relies on in Mage beyond starting and watching; `tests/mage` asks the simulator too."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import pendulum
import pytest

from airflow_provider_runs.core import clock
from airflow_provider_runs.core.drivers import Driver
from airflow_provider_runs.core.errors import ApiError, BadInput, NotFound
from airflow_provider_runs.core.run import Run, RunState
from airflow_provider_runs.mage import lookups
from airflow_provider_runs.mage.hooks import MageHook
from tests.real.target import Mage

UNKNOWN = 987654


def blocks(mage: Mage, run: Run) -> dict[str, str]:
    """Return the status of each block of a run."""
    return {block["block_uuid"]: block["status"] for block in mage.row(run)["block_runs"]}


def ids(runs: list[Run]) -> list[str]:
    return [run.id for run in runs]


@pytest.fixture(scope="module")
def driver(mage: Mage) -> Driver:
    """A driver for a connection that names no trigger."""
    return mage.driver(trigger=None)


def fail_on_the_left(mage: Mage) -> Run:
    """Return a run of the diamond whose left side failed."""
    return mage.wait(mage.start("diamond", variables={"fail": "left"}))


@pytest.fixture(scope="module")
def lopsided(mage: Mage) -> Run:
    """A run of the diamond whose left side failed."""
    return fail_on_the_left(mage)


def retried(driver: Driver, run_id: str, arguments: dict[str, str]) -> Run:
    """Check a retry and make it."""
    driver.drive(driver.api.check_retry(run_id, arguments))
    return driver.drive(driver.api.retry(run_id, arguments))


# Triggers by name


@pytest.mark.parametrize(
    "arguments",
    [
        {"pipeline_uuid": "diamond", "trigger_name": "diamond"},
        {"pipeline_uuid": "flaky"},
        {"pipeline_uuid": "broken", "trigger_name": "broken"},
    ],
    ids=["of two", "the only one", "named though the only one"],
)
def test_trigger_is_found_by_its_pipeline_and_name(
    mage: Mage, driver: Driver, arguments: dict[str, Any]
) -> None:
    run = driver.drive(driver.api.trigger(arguments, "key-of-named", clock.time()))
    row = mage.row(run)
    assert row["pipeline_uuid"] == arguments["pipeline_uuid"]
    assert row["pipeline_schedule_id"] == mage.schedules[arguments["pipeline_uuid"]].id
    found = driver.drive(driver.api.find_started(arguments, "key-of-named", clock.time()))
    assert found is not None and found.id == run.id
    driver.drive(driver.api.cancel(run.id))


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"pipeline_uuid": "diamond"}, ValueError, "name one by trigger_name"),
        ({"pipeline_uuid": "diamond", "trigger_name": "nothing"}, NotFound, "has no trigger 'nothing'"),
        ({"pipeline_uuid": "nothing"}, NotFound, "Pipeline nothing does not exist"),
        ({"pipeline_schedule_id": UNKNOWN}, NotFound, f"trigger {UNKNOWN}"),
        ({"pipeline_uuid": "example", "trigger_name": "inactive"}, ApiError, "is inactive in Mage"),
        ({"pipeline_uuid": "example", "trigger_name": "nightly"}, ApiError, "is a time trigger"),
    ],
)
def test_trigger_that_cannot_be_meant_starts_nothing(
    mage: Mage, driver: Driver, arguments: dict[str, Any], error: type[Exception], said: str
) -> None:
    before = mage.count()
    with pytest.raises(error, match=said):
        driver.drive(driver.api.trigger(arguments))
    assert mage.count() == before


# The form of the documentation


def test_token_in_the_url_and_a_bare_payload_start_a_run(mage: Mage) -> None:
    fields = {"extra": {"old_trigger_url": True}}
    driver = Driver(mage.api("empty", **fields))
    driver.api.token = mage.driver().api.token
    arguments = {
        "pipeline_schedule_id": mage.schedules["empty"].id,
        "event_variables": {"env": "dev", "test": 1},
    }
    run = driver.drive(driver.api.trigger(arguments, "key-in-the-event", clock.time()))
    assert mage.row(run)["event_variables"] == {
        "env": "dev",
        "test": 1,
        "airflow_run_key": "key-in-the-event",
    }
    found = driver.drive(driver.api.find_started(arguments, "key-in-the-event", clock.time()))
    assert found is not None and found.id == run.id


# A start that is sent twice


def test_repeated_start_is_the_same_run(mage: Mage) -> None:
    driver = mage.driver("empty")
    arguments, began = {"pipeline_schedule_id": mage.schedules["empty"].id}, clock.time()
    before = mage.count()
    first = driver.drive(driver.api.trigger(arguments, "key-of-twice", began))
    second = driver.drive(driver.api.trigger(arguments, "key-of-twice", began))
    assert (first.id, mage.count()) == (second.id, before + 1)
    assert first.created_at is not None
    assert abs(first.created_at.timestamp() - began) < 60


def test_start_that_arrives_six_times_at_once_is_one_run(mage: Mage) -> None:
    api = mage.api("empty")
    api.token = mage.driver().api.token
    driver = Driver(api)
    arguments, began = {"pipeline_schedule_id": mage.schedules["empty"].id}, clock.time()
    before = mage.count()
    found: list[str] = []

    def start() -> None:
        found.append(driver.drive(driver.api.trigger(arguments, "key-of-six", began)).id)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(found), len(set(found)), mage.count()) == (6, 1, before + 1)


def test_two_tasks_that_start_in_the_same_microsecond_get_a_run_each(mage: Mage) -> None:
    driver = mage.driver("empty")
    arguments, began = {"pipeline_schedule_id": mage.schedules["empty"].id}, clock.time()
    runs = [driver.drive(driver.api.trigger(arguments, f"key-of-{number}", began)) for number in range(3)]
    assert len(set(ids(runs))) == 3


# Lists


def test_runs_are_listed_by_trigger_pipeline_and_status(mage: Mage, driver: Driver, lopsided: Run) -> None:
    schedule = mage.schedules["diamond"].id

    def listed(**filters: Any) -> list[Run]:
        return driver.drive(driver.api.list_runs(filters))

    assert lopsided.id in ids(listed(pipeline_schedule_id=schedule))
    assert lopsided.id in ids(listed(pipeline_uuid="diamond"))
    assert lopsided.id in ids(listed(pipeline_uuid="diamond", trigger_name="diamond", status="failed"))
    assert lopsided.id in ids(listed(status=["failed", "cancelled"]))
    assert lopsided.id not in ids(listed(pipeline_schedule_id=schedule, status="completed"))
    assert lopsided.id not in ids(listed(pipeline_uuid="empty"))
    assert listed(pipeline_uuid="diamond", trigger_name="lenient", status="completed") == []


def test_listed_run_is_told_as_by_itself(driver: Driver, lopsided: Run) -> None:
    runs = driver.drive(driver.api.list_runs({"pipeline_uuid": "diamond"}))
    (listed,) = [run for run in runs if run.id == lopsided.id]
    assert listed == driver.drive(driver.api.get(lopsided.id))
    assert listed.message == "block left: ValueError: left was told to fail"


def test_lists_are_read_page_by_page_newest_first(
    mage: Mage, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "PAGE", 2)
    started = [mage.start("empty") for _ in range(5)]
    filters = {"pipeline_uuid": "empty"}
    runs = driver.drive(driver.api.list_runs(filters))
    assert ids(runs)[:5] == ids(started)[::-1]
    assert ids(driver.drive(driver.api.list_runs(filters, limit=3))) == ids(started)[:1:-1]


def test_runs_since_a_moment_are_just_those_created_since(mage: Mage, driver: Driver) -> None:
    filters = {"pipeline_uuid": "empty"}
    first = mage.start("empty")
    clock.sleep(1.1)
    between = clock.time()
    second = mage.start("empty")
    since = ids(driver.drive(driver.api.list_runs(filters, since=between)))
    assert second.id in since and first.id not in since
    assert driver.drive(driver.api.list_runs(filters, since=clock.time() + 60)) == []
    assert second.created_at is not None
    assert abs(pendulum.from_timestamp(clock.time()) - second.created_at).total_seconds() < 60


def test_what_does_not_exist_is_told_from_what_has_no_runs(mage: Mage, driver: Driver, lopsided: Run) -> None:
    for filters in ({"pipeline_schedule_id": UNKNOWN}, {"pipeline_uuid": "nothing"}):
        with pytest.raises(NotFound):
            driver.drive(driver.api.list_runs(filters))
    nightly = {"pipeline_schedule_id": mage.schedules["nightly"].id}
    assert driver.drive(driver.api.list_runs(nightly)) == []
    with pytest.raises(NotFound):
        driver.drive(driver.api.list_runs({"pipeline_schedule_id": UNKNOWN, "status": "cancelled"}))


# Retries


def test_failed_block_runs_again_and_the_run_keeps_its_id(mage: Mage, driver: Driver) -> None:
    run = mage.wait(mage.start("flaky"))
    assert (run.state, run.message) == (RunState.FAILED, "block once: RuntimeError: it works when retried")
    again = retried(driver, run.id, {})
    assert (again.id, again.status) == (run.id, "running")
    assert driver.drive(driver.api.get(run.id)).message is None
    ended = mage.wait(run)
    assert (ended.state, ended.message) == (RunState.SUCCEEDED, None)
    log = driver.drive(driver.api.logs(run.id))["once.log"]
    assert "once is here for the first time" in log and "once was here before" in log


def test_cancelled_run_is_gone_on_with(mage: Mage, driver: Driver) -> None:
    run = mage.start("example", variables={"sleep": 2})
    mage.wait(run, "running")
    driver.drive(driver.api.cancel(run.id))
    retried(driver, run.id, {})
    assert mage.wait(run).state is RunState.SUCCEEDED


TRIES = 3
"""Now and then Mage's own scheduler gives a block to two processes. A fault of ours shows in each try."""


def test_block_and_what_depends_on_it_run_again_in_a_completed_run(mage: Mage, driver: Driver) -> None:
    expected = {"right": 1, "left": 2, "join": 2}
    for _ in range(TRIES):
        run = mage.wait(mage.start("diamond"))
        assert run.state is RunState.SUCCEEDED and run.finished_at is not None
        retried(driver, run.id, {"from_block_uuid": "left"})
        again = mage.wait(run)
        assert again.state is RunState.SUCCEEDED
        assert again.finished_at is not None and again.finished_at > run.finished_at
        after = driver.drive(driver.api.logs(run.id))
        worked = {name: after[f"{name}.log"].count(f"{name} is at work") for name in expected}
        if worked == expected:
            break
    assert worked == expected


def test_retry_that_mage_could_not_end_is_refused(mage: Mage, driver: Driver, lopsided: Run) -> None:
    assert blocks(mage, lopsided) == {
        "start": "completed",
        "left": "failed",
        "right": "completed",
        "join": "cancelled",
    }
    for block in ("right", "join"):
        with pytest.raises(ApiError, match="would stay as they are") as caught:
            retried(driver, lopsided.id, {"from_block_uuid": block})
        assert caught.value.permanent
    with pytest.raises(ApiError, match="no block 'nothing'; it has start, left, right, join"):
        retried(driver, lopsided.id, {"from_block_uuid": "nothing"})
    assert driver.drive(driver.api.get(lopsided.id)).state is RunState.FAILED


def test_run_that_goes_or_has_completed_is_not_retried(mage: Mage, driver: Driver) -> None:
    run = mage.start("example", variables={"sleep": 2})
    with pytest.raises(ApiError, match="only an ended run can be retried"):
        retried(driver, run.id, {})
    assert mage.wait(run).state is RunState.SUCCEEDED
    with pytest.raises(ApiError, match="it has completed"):
        retried(driver, run.id, {})
    with pytest.raises(NotFound):
        retried(driver, str(UNKNOWN), {})


def test_retry_whose_answer_was_lost_is_recognised(mage: Mage, driver: Driver, lopsided: Run) -> None:
    since = clock.time()
    assert driver.drive(driver.api.find_retried(lopsided.id, {}, since)) is None
    retried(driver, lopsided.id, {})
    found = driver.drive(driver.api.find_retried(lopsided.id, {}, since))
    assert found is not None and found.id == lopsided.id
    assert mage.wait(lopsided).state is RunState.FAILED


# Reasons


def test_timeout_of_a_trigger_is_explained_and_not_retried(mage: Mage, driver: Driver) -> None:
    run = mage.wait(mage.start("impatient"))
    assert (run.state, run.message) == (RunState.FAILED, None)
    said = driver.drive(driver.api.explain(run.id))
    assert said is not None and said.startswith("Pipeline run timed out after ")
    assert run.started_at is not None
    clock.sleep(max(0.0, run.started_at.timestamp() + 3.1 - clock.time()))
    with pytest.raises(ApiError, match="its trigger has a timeout of 3 s") as caught:
        retried(driver, run.id, {})
    assert caught.value.permanent


def test_timeout_that_looks_like_a_cancel_is_explained(mage: Mage, driver: Driver) -> None:
    run = mage.wait(mage.start("gives_up"))
    assert run.state is RunState.CANCELLED
    said = driver.drive(driver.api.explain(run.id))
    assert said is not None and said.startswith("Pipeline run timed out after ")


def test_cancel_by_a_person_has_no_reason(mage: Mage, driver: Driver) -> None:
    run = mage.start("slow")
    mage.wait(run, "running")
    driver.drive(driver.api.cancel(run.id))
    assert driver.drive(driver.api.explain(run.id)) is None


def test_failed_block_is_explained_with_the_end_of_its_log(driver: Driver, lopsided: Run) -> None:
    said = driver.drive(driver.api.explain(lopsided.id))
    assert said is not None
    lines = said.splitlines()
    assert lines[0] == "block left: ValueError: left was told to fail"
    assert "  INFO left is at work" in lines
    assert "right is at work" not in said


def test_run_that_waits_for_another_is_told_why(mage: Mage, driver: Driver) -> None:
    first = mage.start("one_at_a_time", variables={"sleep": 8})
    mage.wait(first, "running")
    second = mage.start("one_at_a_time")
    clock.sleep(2 * mage.loop)
    assert mage.get(second).status == "initial"
    assert driver.drive(driver.api.explain(second.id)) == (
        "the run has not started; Mage's scheduler is running, the trigger is active and lets 1 run(s) go at "
        "once"
    )
    assert mage.wait(first).state is mage.wait(second).state is RunState.SUCCEEDED


def test_logs_are_one_file_for_the_scheduler_and_one_for_each_block(
    mage: Mage, driver: Driver, lopsided: Run
) -> None:
    files = driver.drive(driver.api.logs(lopsided.id))
    assert set(files) == {"scheduler.log", "start.log", "left.log", "right.log"}
    assert '"message": "right is at work"' in files["right.log"]
    assert "ValueError: left was told to fail" in files["left.log"]
    with pytest.raises(NotFound):
        driver.drive(driver.api.logs(str(UNKNOWN)))


# The same through the hook


@pytest.fixture
def tokenless_hook(mage: Mage, monkeypatch: pytest.MonkeyPatch) -> MageHook:
    """A hook whose connection names no trigger."""
    # As in every real task: Airflow 2.11 reads a connection only once its tables of DAGs are known.
    with warnings.catch_warnings(action="ignore"):
        import airflow_provider_runs.mage.operators  # noqa: F401

    monkeypatch.setenv("AIRFLOW_CONN_MAGE_DEFAULT", mage.connection_json(trigger=None))
    return MageHook()


async def test_hook_lists_runs_retries_them_and_reads_their_logs(
    mage: Mage, tokenless_hook: MageHook
) -> None:
    since = pendulum.from_timestamp(clock.time() - 1)
    run = tokenless_hook.trigger_run(
        pipeline_uuid="diamond", trigger_name="diamond", variables={"fail": "join"}
    )
    assert mage.wait(run).state is RunState.FAILED
    chosen: dict[str, Any] = {"pipeline_uuid": "diamond", "status": "failed", "since": since, "limit": 1}
    assert ids(tokenless_hook.list_runs(**chosen)) == [run.id]
    assert "join is at work" in tokenless_hook.get_logs(run.id)["join.log"]
    assert tokenless_hook.retry_run(run.id, from_block_uuid="join").status == "running"
    assert mage.wait(run).state is RunState.FAILED
    async with tokenless_hook as hook:
        assert isinstance(hook, MageHook)
        assert ids(await hook.alist_runs(**chosen)) == [run.id]
        assert "join is at work" in (await hook.aget_logs(run.id))["join.log"]
        assert (await hook.aretry_run(run.id)).status == "running"
        ended = await hook.acancel_and_confirm(run.id, 30)
    assert ended.state.is_terminal


@pytest.mark.parametrize("wrong", [{"since": "2026-01-01"}, {"limit": 0}, {"status": "done"}])
def test_hook_refuses_a_list_that_makes_no_sense(tokenless_hook: MageHook, wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        tokenless_hook.list_runs(**wrong)
