"""Strait's starts by a task, one for each attempt, whatever is lost on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_runs.base.exceptions import (
    Interrupted,
    RequestRefused,
    RunCancelled,
    RunFailed,
    RunInProgress,
)
from airflow_provider_runs.core.errors import RunsError
from airflow_provider_runs.simulator import Simulator
from airflow_provider_runs.strait.hooks import StraitHook
from airflow_provider_runs.strait.lists import RUN_KEY_TAG
from tests.base.conftest import callable_operators, later, told  # noqa: F401
from tests.simulators import Simulators
from tests.strait.tasks import connect, deferrable, from_now, replay, statuses, task, until
from tests.tasks import new_context, run

DAILY = "01900000-0000-7000-8000-000000000001"


@pytest.fixture
def sim(simulators: Simulators, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    simulator = simulators(["strait"], speed=20)
    connect(monkeypatch, simulator)
    return simulator


def keys(sim: Simulator) -> list[str]:
    """Return the keys with which the runs were started, in order."""
    return [str(one["key"]) for one in sim.runs("strait")]


def of(sim: Simulator, run_id: str) -> dict[str, Any]:
    (entry,) = [one for one in sim.runs("strait") if str(one["id"]) == run_id]
    return entry


def ended_badly(sim: Simulator, word: str) -> str:
    sim.plan(system="strait", resource="daily", outcome=word, times=1)
    run_id = StraitHook().trigger_run("daily").id
    until(lambda: statuses(sim)[run_id] == word)
    return run_id


@deferrable
@pytest.mark.parametrize("job_id", ["daily", DAILY])
def test_a_job_is_named_by_its_slug_or_its_id(sim: Simulator, deferrable: bool, job_id: str) -> None:
    run_id = run(task(job_id, deferrable=deferrable), new_context())
    assert of(sim, run_id)["resource"] == "daily"


@pytest.mark.parametrize(
    ("job_id", "reason"), [("nothing", "not found"), ("disabled", "disabled"), ("paused", "paused")]
)
def test_a_job_that_cannot_run_fails_the_task_for_good(sim: Simulator, job_id: str, reason: str) -> None:
    with pytest.raises(RequestRefused, match=reason):
        run(task(job_id), new_context())


def test_a_plan_that_is_used_up_says_so_with_the_link_to_more(monkeypatch: pytest.MonkeyPatch) -> None:
    with Simulator(["strait"], speed=20, options={"strait": {"monthly_runs": 1}}) as sim:
        connect(monkeypatch, sim)
        run(task(), new_context())
        with pytest.raises(RunsError, match=r"402 .*monthly run limit of 1 reached.*plan free"):
            run(task(), new_context())


# One key for each attempt


@deferrable
def test_a_retry_after_a_bad_end_starts_another_run_with_another_key(
    sim: Simulator, deferrable: bool
) -> None:
    context = new_context()
    sim.plan(system="strait", resource="daily", outcome="dead_letter", times=1)
    with pytest.raises(RunFailed):
        run(task(deferrable=deferrable), context)
    run_id = run(task(deferrable=deferrable), context)
    assert list(statuses(sim).values()) == ["dead_letter", "completed"]
    first, second = keys(sim)
    assert first != second
    assert [one["body"]["tags"][RUN_KEY_TAG] for one in sim.runs("strait")] == [first, second]
    assert context["task_state_store"]["run"]["run_id"] == run_id


def test_a_cleared_task_cancels_its_run_and_starts_another(sim: Simulator) -> None:
    context = new_context()
    sim.plan(system="strait", resource="slow", duration=600, times=1)
    old = task("slow", wait_for_completion=False).execute(context)
    context["ti"].max_tries += 2
    new = run(task("slow"), context)
    assert statuses(sim) == {old: "canceled", new: "completed"}
    assert len(set(keys(sim))) == 2


@pytest.mark.parametrize("fault", ["reset_after", "cut_body", "not_json"])
@pytest.mark.parametrize("times", [1, 9])
def test_a_lost_answer_starts_no_second_run(sim: Simulator, fault: str, times: int) -> None:
    """The request is repeated with its key, at once or by the next try."""
    context = new_context()
    sim.fault(fault, system="strait", operation="trigger", times=times)
    for _ in range(3):
        try:
            run_id = run(task(), context)
            break
        except RunsError:
            sim.clear_faults()
    assert statuses(sim) == {run_id: "completed"}
    assert len(keys(sim)) == 1


def test_a_repeated_start_that_strait_answers_with_the_run_there_is_goes_on_with_it(
    sim: Simulator,
    told: Callable[[], str],  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The replayed answer still says queued, though the run has ended."""
    import logging

    caplog.set_level(logging.INFO)
    context = new_context()
    run_id = run(task(), context)
    # As where the process dies before the answer is recorded.
    context["task_state_store"]["run"]["run_id"] = None
    assert run(task(), context) == run_id
    assert statuses(sim) == {run_id: "completed"}
    assert "knew the key of this start already" in told()


def test_a_key_of_the_users_own_is_sent_as_it_is_on_every_try(sim: Simulator) -> None:
    """It is the user who says then what is one run: a failed one is given back."""
    sim.plan(system="strait", resource="daily", outcome="dead_letter", times=1)
    context = new_context()
    for _ in range(2):
        with pytest.raises(RunFailed):
            run(task(idempotency_key="orders-2026-01-01"), context)
    assert keys(sim) == ["orders-2026-01-01"]
    assert "run" not in context["task_state_store"]


@pytest.mark.parametrize("wrong", ["", " ", "x" * 257, "tab\tkey", "schlüssel"])
def test_a_key_that_is_none_is_refused(sim: Simulator, wrong: str) -> None:
    with pytest.raises(RequestRefused, match="idempotency_key"):
        run(task(idempotency_key=wrong), new_context())
    assert statuses(sim) == {}


# Beside other runs


def test_beside_another_run_of_the_job(sim: Simulator) -> None:
    sim.plan(system="strait", resource="slow", duration=600)
    other = StraitHook().trigger_run("slow").id
    StraitHook().trigger_run("daily")
    with pytest.raises(AirflowSkipException, match=f"run {other} goes already"):
        run(task("slow", if_running="skip"), new_context())
    with pytest.raises(RunInProgress, match=f"run {other} goes already"):
        run(task("slow", if_running="fail"), new_context())
    assert run(task("slow", if_running="attach", wait_for_completion=False), new_context()) == other
    assert len(statuses(sim)) == 2


def test_a_run_of_another_job_is_no_reason_not_to_start(sim: Simulator) -> None:
    sim.plan(system="strait", resource="slow", duration=600)
    StraitHook().trigger_run("slow")
    assert run(task("daily", if_running="fail"), new_context()) in statuses(sim)


# Words of Strait's own


def test_a_run_that_waits_for_another_job_is_waited_for(
    sim: Simulator,
    told: Callable[[], str],  # noqa: F811
    later: Callable[..., None],  # noqa: F811
) -> None:
    later(0.6, lambda: StraitHook().trigger_run("daily"))
    run_id = run(task("follower"), new_context())
    assert of(sim, run_id)["status"] == "completed"
    assert "is waiting" in told()


@deferrable
def test_attempts_that_fail_are_not_the_end(sim: Simulator, deferrable: bool) -> None:
    run_id = run(task("flaky", deferrable=deferrable), new_context())
    assert statuses(sim) == {run_id: "completed"}


def test_a_paused_run_is_waited_for_until_somebody_resumes_it(
    sim: Simulator,
    later: Callable[..., None],  # noqa: F811
) -> None:
    sim.plan(system="strait", resource="daily", outcome="paused,completed")
    later(1.0, lambda: StraitHook().resume_run(next(iter(statuses(sim)))))
    assert run(task(), new_context()) in statuses(sim)


def test_a_scheduled_run_is_delayed_and_can_end_the_wait(sim: Simulator) -> None:
    with pytest.raises(RunsError, match=r"delayed.*no_progress_timeout"):
        run(task(scheduled_at=from_now(3600), no_progress_timeout=0.5), new_context())
    assert set(statuses(sim).values()) == {"delayed"}


@deferrable
def test_somebody_elses_cancel_is_no_failure_to_be_retried(
    sim: Simulator,
    later: Callable[..., None],  # noqa: F811
    deferrable: bool,
) -> None:
    sim.plan(system="strait", resource="slow", duration=600)
    later(1.0, lambda: StraitHook().cancel_run(next(iter(statuses(sim)))))
    with pytest.raises(RunCancelled, match="canceled by user"):
        run(task("slow", deferrable=deferrable), new_context())


# Ended from outside


@pytest.mark.parametrize(
    ("state", "status"), [("failed", "canceled"), ("restarting", "canceled"), ("running", "executing")]
)
def test_only_a_person_who_ends_the_task_cancels_its_run(
    sim: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    later: Callable[..., None],  # noqa: F811
    state: str,
    status: str,
) -> None:
    sim.plan(system="strait", resource="slow", duration=600)
    monkeypatch.setattr("airflow_provider_runs.base.operator.own_state", lambda ti: state)
    waiting = task("slow")
    later(1.0, waiting.on_kill)
    with pytest.raises(Interrupted):
        waiting.execute(new_context())
    assert list(statuses(sim).values()) == [status]


def test_a_kill_while_the_start_is_not_answered_cancels_the_run_by_its_key(
    sim: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    later: Callable[..., None],  # noqa: F811
) -> None:
    sim.plan(system="strait", resource="slow", duration=600, hold=12)
    monkeypatch.setattr("airflow_provider_runs.base.operator.own_state", lambda ti: "failed")
    waiting = task("slow")
    later(0.3, waiting.on_kill)
    with pytest.raises(Interrupted):
        waiting.execute(new_context())
    until(lambda: list(statuses(sim).values()) == ["canceled"], 10)
    assert len(keys(sim)) == 1


# Replays


def test_a_replay_goes_on_from_a_checkpoint(sim: Simulator) -> None:
    sim.plan(system="strait", resource="agent", outcome="crashed", times=1)
    with pytest.raises(RunFailed, match="crashed"):
        run(task("agent", payload={"step": 0}), new_context())
    (old,) = statuses(sim)
    newest = StraitHook().list_checkpoints(old)[0]
    new = run(replay(old, from_checkpoint=str(newest["sequence"])), new_context())
    assert StraitHook().get_details(new)["payload"] == newest["state"]


def test_a_dead_letter_has_no_checkpoint_to_go_on_from(sim: Simulator) -> None:
    dead = ended_badly(sim, "dead_letter")
    with pytest.raises(RequestRefused, match="Replay it without from_checkpoint"):
        run(replay(dead, from_checkpoint=1), new_context())


@pytest.mark.parametrize(
    "wrong", [{"from_checkpoint": 0}, {"from_checkpoint": "last"}, {"if_running": "skip"}]
)
def test_what_a_replay_cannot_be_given_is_refused(sim: Simulator, wrong: dict[str, Any]) -> None:
    dead = ended_badly(sim, "failed")
    with pytest.raises(RequestRefused):
        run(replay(dead, **wrong), new_context())
    assert list(statuses(sim)) == [dead]


@deferrable
@pytest.mark.parametrize("word", ["failed", "dead_letter"])
def test_a_retry_of_the_task_replays_once_more_where_the_replay_ended_badly(
    sim: Simulator, deferrable: bool, word: str
) -> None:
    old = ended_badly(sim, word)
    context = new_context()
    sim.plan(system="strait", resource="daily", outcome=word, times=1)
    with pytest.raises(RunFailed, match=word):
        run(replay(old, deferrable=deferrable), context)
    done = run(replay(old, deferrable=deferrable), context)
    assert statuses(sim)[done] == "completed"
    # A dead letter is one run all the time; another failed one is replayed from the first again.
    assert len(statuses(sim)) == (1 if word == "dead_letter" else 3)


def test_a_replay_that_somebody_else_was_quicker_with_is_waited_for(sim: Simulator) -> None:
    """The second request for a dead letter is refused, as the run is none any more."""
    dead = ended_badly(sim, "dead_letter")
    sim.plan(system="strait", resource="daily", outcome="completed", duration=30)
    context = new_context()
    waiting = replay(dead)
    hook = waiting.hook
    check = hook.check_retry

    def other_is_quicker(*given: Any) -> Any:
        known = check(*given)
        StraitHook().dlq_replay_run(dead)
        return known

    hook.check_retry = other_is_quicker  # type: ignore[method-assign]
    assert run(waiting, context) == dead
    assert statuses(sim) == {dead: "completed"}
