"""Sensors that wait for a list of runs, of every system and in every mode, against the simulator."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSensorTimeout, AirflowSkipException

from airflow_provider_runs.base.exceptions import RequestRefused, RunFailed
from airflow_provider_runs.base.hook import RunHook
from airflow_provider_runs.base.sensor import RunSensor
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.errors import NotFound
from airflow_provider_runs.core.run import Run
from airflow_provider_runs.provider_info import SYSTEMS
from airflow_provider_runs.simulator import Simulator
from tests.base.conftest import callable_operators  # noqa: F401
from tests.base.test_sensor import MODES, first_start, run  # noqa: F401
from tests.tasks import new_context
from tests.test_contract import part
from tools.demo import make_connections

STARTS: dict[str, dict[str, Any]] = {
    "chalk": {"resolver_fqn": "neobank.resolvers.get_users"},
    "mage": {"pipeline_schedule_id": 1},
    "paradime": {"slug": "daily"},
    "strait": {"job_id": "daily"},
}
UNKNOWN = {"chalk": "j-unknown", "mage": "9999", "paradime": "9999", "strait": "run-unknown"}
NO_ID = {"chalk": "", "mage": "j-1", "paradime": "j-1", "strait": ".."}
# Requests that a look at a hundred runs takes which all go, by operation.
A_LOOK = {
    "chalk": {"get": 100},
    "mage": {"list": 1},
    "paradime": {"get": 2},
    "strait": {"list": 1},
}
each_system = pytest.mark.parametrize("system", SYSTEMS)
modes = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
def context() -> dict[str, Any]:
    return new_context()


@pytest.fixture
def sim(system: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    with Simulator([system], speed=20) as simulator:
        addresses = {name: simulator.url_of(system) if name == system else "" for name in SYSTEMS}
        fields = make_connections(**addresses)[f"{system}_default"]
        tokens = {"trigger_token": "tok123"} if system == "mage" else {}
        fields["extra"] = {**fields.get("extra", {}), **tokens, "max_requests_per_minute": 60_000}
        monkeypatch.setenv(f"AIRFLOW_CONN_{system.upper()}_DEFAULT", json.dumps(fields))
        with warnings.catch_warnings(action="ignore"):
            part(system, "operators", "{}TriggerRunOperator")
        yield simulator


def a_hook(system: str) -> RunHook:
    made: RunHook = part(system, "hooks", "{}Hook")()
    return made


def start(system: str, count: int) -> list[str]:
    hook = a_hook(system)
    return [hook.start(STARTS[system], f"key-{index}-{clock.time()}").id for index in range(count)]


def a_sensor(system: str, mode: str, run_ids: Any, **changes: Any) -> RunSensor:
    chosen = {"deferrable": True} if mode == "deferrable" else {"mode": mode, "deferrable": False}
    pace = {"poke_interval": 0.2, "min_poll_interval": 0.2}
    made: RunSensor = part(system, "sensors", "{}RunSensor")(
        **{"task_id": "task", "run_ids": run_ids, **pace, **chosen, **changes}
    )
    return made


@each_system
@modes
def test_a_list_that_succeeds_gives_its_ids(
    sim: Simulator, context: dict[str, Any], system: str, mode: str
) -> None:
    sim.plan(system=system, duration=10)
    run_ids = start(system, 12)
    assert run(a_sensor(system, mode, [*run_ids, run_ids[0]]), context, None) == run_ids


@each_system
@modes
@pytest.mark.parametrize("soft_fail", [False, True])
def test_one_that_failed_is_named_after_all_have_ended(
    sim: Simulator,
    context: dict[str, Any],
    system: str,
    mode: str,
    soft_fail: bool,
) -> None:
    sim.plan(system=system, duration=20)
    sim.plan(system=system, duration=1, outcome="failed", times=1)
    run_ids = start(system, 8)
    made = a_sensor(system, mode, run_ids, soft_fail=soft_fail)
    with pytest.raises(AirflowSkipException if soft_fail else RunFailed) as caught:
        run(made, context, None)
    text = f"{caught.value} {caught.value.__cause__}"
    (failed,) = [
        one["id"] for one in sim.runs(system) if made.hook.get_run(str(one["id"])).state.value == "failed"
    ]
    assert re.search(rf"Of 8 \w+ runs, 1 failed \(\w+\): {failed}\b.*\. 7 succeeded \(\w+\)", text)
    assert context["ti"].pushed["run_url"] == made.hook.get_run(str(failed)).url


@each_system
@modes
def test_a_text_that_can_be_no_id_is_refused_without_a_request(
    sim: Simulator, context: dict[str, Any], system: str, mode: str
) -> None:
    with pytest.raises(RequestRefused):
        run(a_sensor(system, mode, ["1", NO_ID[system]]), context, None)
    assert sim.requests()["counts"] == []


@each_system
def test_a_hook_looks_at_many_runs_beside_one_that_nobody_knows(sim: Simulator, system: str) -> None:
    sim.plan(system=system, duration=3600)
    run_ids = start(system, 20)
    found = a_hook(system).get_runs([*run_ids, UNKNOWN[system]], attempts=1)
    assert list(found) == [*run_ids, UNKNOWN[system]]
    assert isinstance(found.pop(UNKNOWN[system]), NotFound)
    assert all(isinstance(one, Run) and not one.state.is_terminal for one in found.values())


# What it costs


@each_system
def test_a_look_at_a_hundred_runs_is_made_of_batches(
    sim: Simulator, context: dict[str, Any], system: str
) -> None:
    sim.plan(system=system, duration=3600)
    run_ids = start(system, 100)
    made = a_sensor(system, "reschedule", run_ids)
    sim.clear_requests()
    assert made.poke(context) is False
    assert asked(sim) == A_LOOK[system]


@each_system
@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_every_round_of_a_wait_for_a_hundred_runs_is_made_of_batches(
    sim: Simulator, context: dict[str, Any], system: str, mode: str
) -> None:
    sim.plan(system=system, duration=3600)
    run_ids = start(system, 100)
    made = a_sensor(system, mode, run_ids, poke_interval=1.0, min_poll_interval=1.0, timeout=3.5)
    sim.clear_requests()
    with pytest.raises(AirflowSensorTimeout, match="100 had not ended when timeout was over"):
        run(made, context, None)
    # Five rounds, the last one at the deadline.
    ((operation, size),) = A_LOOK[system].items()
    counts = asked(sim)
    more = counts.pop(operation) - 5 * size
    # The page of the first run that still goes.
    assert more >= 0 and more + sum(counts.values()) <= 1


@pytest.mark.parametrize("system", ["chalk"])
@modes
def test_runs_that_are_asked_about_singly_while_a_task_waits_are_asked_about_side_by_side(
    sim: Simulator, context: dict[str, Any], system: str, mode: str
) -> None:
    sim.plan(system=system, ends_at_once=True)
    run_ids = start(system, 80)
    sim.fault("slow", system=system, operation="get", seconds=0.2)
    clock.sleep(1.0)  # the starts have used up what may leave at once
    began = clock.monotonic()
    assert run(a_sensor(system, mode, run_ids), context, None) == run_ids
    # A poller asks about eight at once, ten times 0.2 s; a single look about one after the other.
    assert clock.monotonic() - began == pytest.approx(16.0 if mode == "reschedule" else 2.0)
    assert sim.count(system, "get") == 80


def asked(sim: Simulator) -> dict[str, int]:
    """Return the requests by operation, without those for a token."""
    counts: dict[str, int] = {}
    for entry in sim.requests()["counts"]:  # type: ignore[union-attr]
        if entry["operation"] not in ("token", "login", "status"):  # type: ignore[index,call-overload]
            counts[entry["operation"]] = counts.get(entry["operation"], 0) + entry["count"]  # type: ignore
    return counts
