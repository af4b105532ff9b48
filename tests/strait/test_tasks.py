"""Strait's tasks as Airflow runs them, on the simulated Strait: on a worker and deferred, tried again."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_runs.base import finder
from airflow_provider_runs.base.exceptions import RequestRefused, RunCancelled, RunFailed, StartUncertain
from airflow_provider_runs.simulator import Simulator
from airflow_provider_runs.strait.hooks import StraitHook
from airflow_provider_runs.strait.lists import RUN_KEY_TAG, TAG
from airflow_provider_runs.strait.operators import StraitCancelRunOperator
from airflow_provider_runs.strait.sensors import StraitRunSensor
from tests.base.conftest import callable_operators, later, told  # noqa: F401
from tests.simulators import Simulators
from tests.strait.tasks import PACE, connect, deferrable, from_now, replay, task, until
from tests.tasks import new_context, run


@pytest.fixture
def sim(simulators: Simulators, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    simulator = simulators(["strait"], speed=20)
    connect(monkeypatch, simulator, app_url="https://app.example.com")
    return simulator


@pytest.fixture
def context() -> dict[str, Any]:
    return new_context()


def ended(sim: Simulator, job_id: str = "daily", outcome: str | None = None) -> str:
    """Start a run beside any task, and return its id once it has ended."""
    if outcome is not None:
        sim.plan(system="strait", resource=job_id, outcome=outcome, times=1)
    hook = StraitHook()
    run_id = hook.trigger_run(job_id, idempotency_key=f"key-{uuid.uuid4()}").id
    until(lambda: hook.get_run(run_id).state.is_terminal)
    return run_id


def ids(sim: Simulator) -> list[str]:
    return [str(one["id"]) for one in sim.runs("strait")]


@deferrable
def test_a_run_is_waited_for(sim: Simulator, context: dict[str, Any], deferrable: bool) -> None:
    run_id = run(task(deferrable=deferrable), context)
    assert ids(sim) == [run_id]
    assert {name: value for name, value in context["ti"].pushed.items() if value is not None} == {
        "run_url": f"https://app.example.com/app/runs/{run_id}",
        "return_value": run_id,
    }


@deferrable
@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        ("dead_letter", RunFailed),
        ("failed", RunFailed),
        ("timed_out", RunFailed),
        ("crashed", RunFailed),
        ("expired", RunFailed),
        ("canceled", RunCancelled),
    ],
)
def test_a_run_that_ends_otherwise_fails_the_task(
    sim: Simulator, context: dict[str, Any], deferrable: bool, outcome: str, kind: type
) -> None:
    sim.plan(system="strait", outcome=outcome)
    with pytest.raises(kind, match=outcome):
        run(task(deferrable=deferrable), context)


def test_a_dead_letter_is_explained_and_names_its_replay(
    sim: Simulator,
    context: dict[str, Any],
    told: Callable[[], str],  # noqa: F811
) -> None:
    with pytest.raises(RunFailed, match="endpoint returned 500"):
        run(task("broken"), context)
    assert "StraitReplayRunOperator" in told()


def test_a_dead_letter_may_skip_the_task(sim: Simulator, context: dict[str, Any]) -> None:
    with pytest.raises(AirflowSkipException):
        run(task("broken", skip_on_states="dead_letter"), context)


def test_what_was_asked_for_is_sent_with_the_tags_that_find_the_run_again(
    sim: Simulator, context: dict[str, Any]
) -> None:
    payload = {"day": "2026-01-01", "countries": ["de", 7, None]}
    run(task(payload=payload, tags={"team": "shop"}, priority=3, ttl_secs="60"), context)
    (body,) = (one["body"] for one in sim.runs("strait"))
    assert (body["payload"], body["priority"], body["ttl_secs"]) == (payload, 3, 60)
    assert body["tags"].keys() == {"team", TAG, RUN_KEY_TAG}
    assert body["tags"][TAG] == "strait_default"


@deferrable
def test_result_and_outputs_are_pushed_on_request(
    sim: Simulator, context: dict[str, Any], deferrable: bool
) -> None:
    payload = {"rows": [1, 2, "ü"]}
    run(task(payload=payload, push_result=True, push_outputs=True, deferrable=deferrable), context)
    pushed = context["ti"].pushed
    assert pushed["result"] == payload
    assert pushed["outputs"] == {"report": {"rows": 3}, "ok": True}


def test_nothing_is_pushed_or_asked_for_unless_wanted(sim: Simulator, context: dict[str, Any]) -> None:
    run(task(), context)
    assert context["ti"].pushed.keys() == {"run_url", "return_value"}
    assert sim.count("strait", "outputs") == 0


def test_a_result_that_is_too_long_is_left_out_and_the_log_says_how_to_read_it(
    sim: Simulator,
    context: dict[str, Any],
    told: Callable[[], str],  # noqa: F811
) -> None:
    run_id = run(task(payload={"text": "x" * 200}, push_result=True, max_xcom_bytes=100), context)
    assert "result" not in context["ti"].pushed
    log = told()
    assert f"The result of run {run_id} is not pushed" in log
    assert "212 bytes, and max_xcom_bytes is 100" in log
    assert "StraitHook.get_details" in log


def test_the_key_in_a_result_is_masked(sim: Simulator, context: dict[str, Any]) -> None:
    run(task(payload={"said": "key strait_simulator!"}, push_result=True), context)
    assert context["ti"].pushed["result"] == {"said": "key ***!"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"push_result": True, "wait_for_completion": False},
        {"push_outputs": True, "wait_for_completion": False},
        {"max_xcom_bytes": 0},
        {"max_xcom_bytes": "many"},
        {"priority": 11},
        {"tags": {"team": 5}},
        {"tags": {TAG: "mine"}},
        {"payload": "{"},
        {"job_id": ""},
        {"stream_logs": True, "deferrable": True},
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    sim: Simulator, context: dict[str, Any], wrong: dict[str, Any]
) -> None:
    with pytest.raises(RequestRefused):
        run(task(**wrong), context)
    assert ids(sim) == []


@pytest.mark.parametrize("job_id", ["debounced", "batched"])
def test_a_start_that_is_gathered_fails_who_would_wait_for_it(
    sim: Simulator, context: dict[str, Any], job_id: str
) -> None:
    with pytest.raises(RequestRefused, match="no id yet"):
        run(task(job_id), context)


@pytest.mark.parametrize("job_id", ["debounced", "batched"])
def test_a_start_that_is_gathered_suffices_for_who_does_not_wait(
    sim: Simulator,
    context: dict[str, Any],
    told: Callable[[], str],  # noqa: F811
    job_id: str,
) -> None:
    assert run(task(job_id, wait_for_completion=False), context) == ""
    assert context["ti"].pushed == {}
    assert "no run has an id yet" in told()
    # Nothing is left that a cleared task would stumble over.
    assert context["task_state_store"] == {}


def test_a_retry_sends_a_start_whose_answer_was_lost_with_the_same_key(
    sim: Simulator, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finder, "LOOK_SECONDS", 0.0)
    sim.fault("reset_after", system="strait", operation="trigger", times=9)
    sim.fault("status", system="strait", operation="list", status=503, times=9)
    with pytest.raises(StartUncertain):
        run(task(wait_for_completion=False, unreachable_timeout=1), context)
    sim.clear_faults()
    run_id = run(task(), context)
    assert ids(sim) == [run_id]


def test_a_run_whose_start_was_not_answered_is_found_in_the_same_try(
    sim: Simulator, context: dict[str, Any]
) -> None:
    sim.fault("reset_after", system="strait", operation="trigger", times=9)
    run_id = run(task(), context)
    assert ids(sim) == [run_id]


@pytest.mark.parametrize("outcome", ["dead_letter", "canceled"])
def test_a_retry_that_finds_its_run_ended_badly_starts_another(
    sim: Simulator, context: dict[str, Any], outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finder, "LOOK_SECONDS", 0.0)
    sim.plan(system="strait", outcome=outcome, ends_at_once=True, times=1)
    sim.fault("reset_after", system="strait", operation="trigger", times=9)
    sim.fault("status", system="strait", operation="list", status=503, times=9)
    with pytest.raises(StartUncertain):
        run(task(on_remote_cancel="retry", unreachable_timeout=1), context)
    sim.clear_faults()
    until(lambda: sim.runs("strait")[0]["status"] == outcome)
    run_id = run(task(on_remote_cancel="retry"), context)
    statuses = {str(one["id"]): one["status"] for one in sim.runs("strait")}
    assert sorted(statuses.values()) == sorted([outcome, "completed"])
    assert statuses[run_id] == "completed"


@deferrable
def test_a_dead_letter_is_replayed_under_its_id(
    sim: Simulator, context: dict[str, Any], deferrable: bool
) -> None:
    # GET and DELETE still answer from a copy that says dead_letter.
    dead = ended(sim, "mended")
    assert run(replay(dead, deferrable=deferrable), context) == dead
    assert [one["status"] for one in sim.runs("strait")] == ["completed"]


@deferrable
@pytest.mark.parametrize("outcome", ["failed", "timed_out", "crashed"])
def test_another_bad_end_is_followed_by_a_new_run(
    sim: Simulator, context: dict[str, Any], deferrable: bool, outcome: str
) -> None:
    old = ended(sim, outcome=outcome)
    new = run(replay(old, deferrable=deferrable, push_result=True), context)
    assert new != old
    assert sorted(ids(sim)) == sorted([old, new])
    assert context["ti"].pushed["return_value"] == new


@pytest.mark.parametrize("outcome", ["completed", "canceled", "expired"])
def test_what_cannot_be_replayed_is_refused(sim: Simulator, context: dict[str, Any], outcome: str) -> None:
    old = ended(sim, outcome=outcome)
    with pytest.raises(RequestRefused, match="is not replayed"):
        run(replay(old), context)
    assert ids(sim) == [old]


def test_a_replay_that_fails_again_fails_the_task(sim: Simulator, context: dict[str, Any]) -> None:
    dead = ended(sim, "broken")
    with pytest.raises(RunFailed, match="dead_letter"):
        run(replay(dead), context)


@pytest.mark.parametrize("outcome", ["dead_letter", "failed"])
def test_a_replay_whose_answer_was_lost_is_not_repeated(
    sim: Simulator, context: dict[str, Any], outcome: str
) -> None:
    sim.plan(system="strait", resource="daily", outcome=f"{outcome},completed", times=1)
    old = ended(sim)
    sim.fault("reset_after", system="strait", operation="replay", times=1)
    sim.fault("reset_after", system="strait", operation="dlq_replay", times=1)
    found = run(replay(old), context)
    assert len(ids(sim)) == (1 if outcome == "dead_letter" else 2)
    assert (found == old) == (outcome == "dead_letter")


def test_runs_are_cancelled_together(sim: Simulator, context: dict[str, Any]) -> None:
    hook = StraitHook()
    going = [hook.trigger_run("slow").id for _ in range(3)]
    done = ended(sim)
    task = StraitCancelRunOperator(task_id="t", run_id=[*going, done])
    assert task.execute(context) == [*going, done]
    statuses = {str(one["id"]): one["status"] for one in sim.runs("strait")}
    assert statuses == {**dict.fromkeys(going, "canceled"), done: "completed"}


def test_one_run_is_cancelled(sim: Simulator, context: dict[str, Any]) -> None:
    run_id = StraitHook().trigger_run("slow").id
    assert StraitCancelRunOperator(task_id="t", run_id=run_id).execute(context) == run_id
    assert [one["status"] for one in sim.runs("strait")] == ["canceled"]


def test_queued_runs_are_cancelled_by_filters(sim: Simulator, context: dict[str, Any]) -> None:
    hook = StraitHook()
    queued = [hook.trigger_run("slow", scheduled_at=from_now(600)).id for _ in range(2)]
    other = hook.trigger_run("daily", scheduled_at=from_now(600)).id
    cancelled = StraitCancelRunOperator(task_id="t", filters={"job_id": "slow"}).execute(context)
    assert sorted(cancelled) == sorted(queued)
    statuses = {str(one["id"]): one["status"] for one in sim.runs("strait")}
    assert statuses == {**dict.fromkeys(queued, "canceled"), other: "delayed"}


@pytest.mark.parametrize(
    "arguments",
    [{}, {"run_id": "r1", "filters": {"job_id": "slow"}}, {"filters": {}}, {"filters": {"x": "y"}}],
)
def test_a_cancel_needs_one_of_id_and_filters(
    sim: Simulator, context: dict[str, Any], arguments: dict[str, Any]
) -> None:
    with pytest.raises(RequestRefused):
        StraitCancelRunOperator(task_id="t", **arguments).execute(context)


@deferrable
def test_a_sensor_finds_the_run_of_a_job(sim: Simulator, context: dict[str, Any], deferrable: bool) -> None:
    since = from_now(-60)
    ended(sim, "slow", outcome="failed")
    run_id = ended(sim)
    sensor = StraitRunSensor(task_id="t", job_id="daily", since=since, deferrable=deferrable, poke_interval=1)
    assert run(sensor, context) == run_id


@deferrable
def test_a_sensor_waits_for_a_run_that_carries_none_of_our_tags(
    sim: Simulator, context: dict[str, Any], deferrable: bool
) -> None:
    import requests

    job = StraitHook().get_job("daily")["id"]
    answer = requests.post(
        f"{sim.url_of('strait')}/v1/jobs/{job}/trigger",
        json={},
        headers={"Authorization": "Bearer strait_simulator"},
        timeout=10,
    )
    sensor = StraitRunSensor(
        task_id="t", run_id=answer.json()["id"], deferrable=deferrable, poke_interval=1, **PACE
    )
    assert run(sensor, context) == answer.json()["id"]
