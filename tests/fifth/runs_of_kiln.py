"""Runs of the fifth system from start to end, in the copy that tests/test_fifth_system.py makes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_runs.base.exceptions import RunFailed
from airflow_provider_runs.kiln.hooks import KilnHook
from airflow_provider_runs.kiln.operators import KilnTriggerRunOperator
from airflow_provider_runs.kiln.sensors import KilnRunSensor
from airflow_provider_runs.simulator import Simulator
from tests.base.conftest import callable_operators  # noqa: F401
from tests.base.test_sensor import first_start  # noqa: F401
from tests.base.test_sensor import run as run_sensor
from tests.tasks import new_context
from tests.tasks import run as run_task


@pytest.fixture
def context() -> dict[str, Any]:
    return new_context()


@pytest.fixture
def sim(monkeypatch):
    with Simulator(["kiln"], speed=20) as simulator:
        fields = {"conn_type": "kiln", "host": simulator.url_of("kiln"), "password": "hush"}
        monkeypatch.setenv("AIRFLOW_CONN_KILN_DEFAULT", json.dumps(fields))
        yield simulator


def task(glaze: str, **arguments: Any) -> KilnTriggerRunOperator:
    return KilnTriggerRunOperator(task_id="fire", glaze=glaze, min_poll_interval=0.1, **arguments)


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_task_starts_one_run_and_ends_as_it_does(sim, context, deferrable):
    sim.plan(system="kiln", resource="lead", outcome="failed")
    run_id = run_task(task("tin", deferrable=deferrable), context)
    with pytest.raises(RunFailed, match="cracked"):
        run_task(task("lead", deferrable=deferrable), new_context())
    assert [(one["resource"], one["status"]) for one in sim.runs("kiln")] == [
        ("tin", "fired"),
        ("lead", "cracked"),
    ]
    assert run_id == sim.runs("kiln")[0]["id"]
    assert context["ti"].pushed["run_url"] == "https://kiln.invalid/docs"


def test_a_start_whose_answer_is_lost_starts_one_run(sim):
    sim.fault("reset_after", system="kiln", operation="trigger", times=2)
    run_task(task("tin", deferrable=False), new_context())
    assert len(sim.runs("kiln")) == 1


@pytest.mark.parametrize("mode", ["poke", "reschedule", "deferrable"])
def test_a_sensor_waits_for_a_run_that_something_else_started(sim, context, mode):
    run_id = KilnHook().start({"glaze": "tin"}, None).id
    chosen = {"deferrable": True} if mode == "deferrable" else {"mode": mode, "deferrable": False}
    sensor = KilnRunSensor(task_id="wait", run_id=run_id, poke_interval=0.2, min_poll_interval=0.1, **chosen)
    assert run_sensor(sensor, context, None) == run_id
