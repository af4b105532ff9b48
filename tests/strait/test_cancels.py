"""Cancelling Strait runs by a task: one, many, and those that match filters."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_runs.base.exceptions import RequestRefused, RunTimedOut
from airflow_provider_runs.core.errors import RunsError
from airflow_provider_runs.simulator import Simulator
from airflow_provider_runs.strait.hooks import StraitHook
from airflow_provider_runs.strait.operators import StraitCancelRunOperator
from tests.base.conftest import callable_operators, told  # noqa: F401
from tests.simulators import Simulators
from tests.strait.tasks import connect, ended, from_now, statuses
from tests.tasks import new_context

UNKNOWN = "0195ffff-0000-7000-8000-000000000000"


@pytest.fixture
def sim(simulators: Simulators, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    simulator = simulators(["strait"], speed=20)
    connect(monkeypatch, simulator)
    return simulator


def cancel(**arguments: Any) -> Any:
    return StraitCancelRunOperator(task_id="t", **arguments).execute(new_context())


def start(job_id: str = "slow", **arguments: Any) -> str:
    return StraitHook().trigger_run(job_id, **arguments).id


def waiting(job_id: str = "daily") -> str:
    return start(job_id, scheduled_at=from_now(86_400))


def test_only_runs_that_were_not_reported_as_cancelled_are_read_back(
    sim: Simulator,
    told: Callable[[], str],  # noqa: F811
) -> None:
    over = ended()
    going = [waiting() for _ in range(4)]
    seen = sim.count("strait", "get")
    assert cancel(run_id=[*going, over]) == [*going, over]
    assert statuses(sim) == {**dict.fromkeys(going, "canceled"), over: "completed"}
    assert sim.count("strait", "get") - seen == 1
    log = told()
    assert "Strait has cancelled 4 of 5 runs" in log
    assert f"Strait run {over} was not cancelled: run already in terminal state" in log
    assert f"Strait run {over} has ended: completed" in log


def test_a_hundred_runs_are_cancelled_with_each_request(sim: Simulator) -> None:
    ids = [waiting() for _ in range(102)]
    cancel(run_id=ids)
    assert set(statuses(sim).values()) == {"canceled"}
    assert sim.count("strait", "bulk_cancel") == 2 and sim.count("strait", "get") == 0


def test_an_id_that_strait_does_not_know_keeps_no_other_run_going(sim: Simulator) -> None:
    going = waiting()
    with pytest.raises(RequestRefused, match="not found"):
        cancel(run_id=[UNKNOWN, going])
    assert statuses(sim) == {going: "canceled"}


def test_the_same_id_twice_is_one_run(sim: Simulator) -> None:
    going = waiting()
    assert cancel(run_id=[going, going]) == [going, going]


def test_a_bulk_cancel_that_is_not_answered_can_be_tried_again(sim: Simulator) -> None:
    ids = [waiting(), waiting()]
    sim.fault("status", status=503, system="strait", operation="bulk_cancel")
    with pytest.raises(RunsError) as failed:
        cancel(run_id=ids)
    assert not isinstance(failed.value, RequestRefused)
    sim.clear_faults()
    cancel(run_id=ids)
    assert set(statuses(sim).values()) == {"canceled"}


def test_a_run_that_was_not_cancelled_and_goes_on_fails_the_task(sim: Simulator) -> None:
    ids = [waiting(), waiting()]
    rows = [{"id": one, "status": "failed", "error": "status has changed"} for one in ids]
    answer = {"results": rows, "total": 2, "canceled": 0, "failed": 2}
    sim.fault("status", status=200, body=json.dumps(answer), system="strait", operation="bulk_cancel")
    with pytest.raises(RunTimedOut, match="still delayed"):
        cancel(run_id=ids, timeout=0.2)


@pytest.mark.parametrize("as_text", [False, True])
def test_filters_choose_runs_that_have_not_begun(
    sim: Simulator,
    told: Callable[[], str],  # noqa: F811
    as_text: bool,
) -> None:
    chosen, other, over = [waiting(), waiting()], waiting("slow"), ended()
    filters = {"job_id": "daily", "status": "delayed"}
    got = cancel(filters=json.dumps(filters) if as_text else filters)
    assert sorted(got) == sorted(chosen)
    assert statuses(sim) == {**dict.fromkeys(chosen, "canceled"), other: "delayed", over: "completed"}
    assert "cancelled 2 runs" in told()


def test_filters_that_match_nothing_cancel_nothing(sim: Simulator) -> None:
    assert cancel(filters={"job_id": "daily"}) == []


def test_an_older_server_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    with Simulator(["strait"], speed=20, options={"strait": {"era": "seed"}}) as old:
        connect(monkeypatch, old)
        one, two, three = start(), start(), start()
        assert cancel(run_id=one) == one
        assert cancel(run_id=[two, three]) == [two, three]
        assert set(statuses(old).values()) == {"canceled"}
        later = waiting()
        assert cancel(filters={"status": "delayed"}) == [later]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"run_id": UNKNOWN, "filters": {"job_id": "daily"}},
        {"run_id": []},
        {"run_id": ""},
        {"run_id": "None"},
        {"run_id": ["", UNKNOWN]},
        {"filters": {}},
        {"filters": {"job": "daily"}},
        {"filters": {"job_id": ""}},
        {"filters": {"job_id": None}},
        {"filters": "daily"},
        {"filters": "[1]"},
        {"filters": 5},
        {"run_id": UNKNOWN, "timeout": 0},
    ],
)
def test_what_chooses_no_run_for_sure_is_refused_before_anything_is_sent(
    sim: Simulator, wrong: dict[str, Any]
) -> None:
    going = waiting()
    with pytest.raises(RequestRefused):
        cancel(**wrong)
    assert statuses(sim) == {going: "delayed"}
    assert not any(sim.count("strait", call) for call in ("cancel", "bulk_cancel", "bulk_cancel_all"))
