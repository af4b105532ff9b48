"""Waiting for Strait runs that something else has started."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSensorTimeout, AirflowSkipException

from airflow_provider_runs.base.exceptions import RequestRefused, RunCancelled, RunFailed
from airflow_provider_runs.core import clock
from airflow_provider_runs.simulator import Simulator
from airflow_provider_runs.strait.hooks import StraitHook
from airflow_provider_runs.strait.sensors import StraitRunSensor
from tests.base.conftest import callable_operators, later, told  # noqa: F401
from tests.simulators import Simulators
from tests.strait.tasks import PACE, connect, deferrable, ended, from_now, statuses, until
from tests.tasks import new_context, run

MODES = [{"deferrable": True}, {"mode": "poke"}, {"mode": "reschedule"}]
modes = pytest.mark.parametrize("mode", MODES, ids=["deferred", "poke", "reschedule"])


@pytest.fixture
def sim(simulators: Simulators, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    simulator = simulators(["strait"], speed=20)
    connect(monkeypatch, simulator, app_url="https://app.example.com")
    return simulator


def sensor(**arguments: Any) -> StraitRunSensor:
    return StraitRunSensor(**{"task_id": "t", "poke_interval": 0.2, "deferrable": False, **PACE, **arguments})


def wait(made: StraitRunSensor, context: dict[str, Any]) -> Any:
    """Run a sensor to its end; one that is rescheduled is poked again and again."""
    if not made.reschedule:
        return run(made, context)
    end = clock.monotonic() + 20
    while not (found := made.poke(context)):
        assert clock.monotonic() < end
        clock.sleep(0.1)
    return found.xcom_value  # type: ignore[union-attr]


@modes
def test_a_run_is_waited_for_by_its_id(sim: Simulator, mode: dict[str, Any]) -> None:
    run_id, context = StraitHook().trigger_run("slow").id, new_context()
    assert wait(sensor(run_id=run_id, **mode), context) == run_id
    assert context["ti"].pushed["run_url"] == f"https://app.example.com/app/runs/{run_id}"


@modes
@pytest.mark.parametrize("job", ["daily", "01900000-0000-7000-8000-000000000001"])
def test_a_run_of_a_job_is_waited_for_that_somebody_starts_later(
    sim: Simulator,
    later: Callable[..., None],  # noqa: F811
    mode: dict[str, Any],
    job: str,
) -> None:
    ended()
    clock.sleep(0.01)
    since = from_now(0)
    later(0.5, lambda: StraitHook().trigger_run("slow"))
    later(0.6, lambda: StraitHook().trigger_run("daily"))
    found = wait(sensor(job_id=job, since=since, **mode), new_context())
    assert [one["resource"] for one in sim.runs("strait") if one["id"] == found] == ["daily"]
    assert list(statuses(sim)).index(found) > 0


@deferrable
def test_a_run_is_searched_for_by_its_tag(sim: Simulator, deferrable: bool) -> None:
    since = from_now(0)
    for team in ("shop", "orders"):
        wanted = StraitHook().trigger_run("daily", tags={"team": team}).id
    made = sensor(tag_key="team", tag_value="orders", since=since, deferrable=deferrable)
    assert wait(made, new_context()) == wanted


def test_a_run_of_a_batch_is_waited_for(sim: Simulator) -> None:
    import requests

    job = StraitHook().get_job("daily")["id"]
    answer = requests.post(
        f"{sim.url_of('strait')}/v1/jobs/{job}/trigger/bulk",
        json={"items": [{}, {}]},
        headers={"Authorization": "Bearer strait_simulator"},
        timeout=10,
    ).json()
    since = from_now(-60)
    found = wait(sensor(batch_id=answer["batch_id"], since=since), new_context())
    assert found in {row["id"] for row in answer["results"]}


@modes
@pytest.mark.parametrize(
    ("word", "kind"),
    [("dead_letter", RunFailed), ("expired", RunFailed), ("canceled", RunCancelled)],
)
def test_a_bad_end_fails_in_every_mode(sim: Simulator, mode: dict[str, Any], word: str, kind: type) -> None:
    sim.plan(system="strait", resource="daily", outcome=word)
    run_id = StraitHook().trigger_run("daily").id
    with pytest.raises(kind, match=f"{run_id} .*{word}"):
        wait(sensor(run_id=run_id, **mode), new_context())
    with pytest.raises(AirflowSkipException):
        wait(sensor(run_id=run_id, soft_fail=True, **mode), new_context())
    with pytest.raises(AirflowSkipException, match="skip_on_states"):
        wait(sensor(run_id=run_id, skip_on_states=word, **mode), new_context())


def test_a_dead_letter_is_explained(
    sim: Simulator,
    told: Callable[[], str],  # noqa: F811
) -> None:
    with pytest.raises(RunFailed, match="endpoint returned 500"):
        wait(sensor(run_id=ended("broken")), new_context())
    assert "StraitReplayRunOperator" in told()


@deferrable
def test_the_sensor_gives_up_and_leaves_the_run_alone(sim: Simulator, deferrable: bool) -> None:
    sim.plan(system="strait", resource="slow", duration=600)
    run_id = StraitHook().trigger_run("slow").id
    with pytest.raises(AirflowSensorTimeout):
        wait(sensor(run_id=run_id, timeout=1, deferrable=deferrable), new_context())
    until(lambda: statuses(sim) == {run_id: "executing"}, 5)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"run_id": ""},
        {"run_id": "r1", "job_id": "daily"},
        {"job_id": "daily"},
        {"since": "2026-01-01T00:00:00Z"},
        {"job_id": "daily", "since": "2026-01-01T00:00:00"},
        {"job_id": "", "since": "2026-01-01T00:00:00Z"},
        {"tag_value": "orders", "since": "2026-01-01T00:00:00Z"},
        {"run_id": "r1", "skip_on_states": "done"},
    ],
    ids=json.dumps,
)
def test_what_names_no_run_is_refused(sim: Simulator, wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused):
        run(sensor(**wrong), new_context())


def test_the_run_of_an_older_server_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows no filter by tag and gives bare arrays."""
    with Simulator(["strait"], speed=20, options={"strait": {"era": "seed"}}) as old:
        connect(monkeypatch, old)
        since = from_now(0)
        StraitHook().trigger_run("daily", tags={"team": "shop"})
        wanted = StraitHook().trigger_run("daily", tags={"team": "orders"}).id
        made = sensor(job_id="daily", tag_key="team", tag_value="orders", since=since)
        assert wait(made, new_context()) == wanted
