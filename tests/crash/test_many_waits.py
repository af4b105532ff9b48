"""
No verdict is wrong after ten minutes of mixed faults with a full outage, however many wait.

Time is scaled by ten: a simulated minute takes 6 seconds. So are the poll intervals, the request timeout and
the cap on requests, which tasks and connections may set. What they may not set is as in life, and so ten
times as long measured by the faults: the backoff of up to 30 s, the limits of 2 minutes for a run that is not
found and of 5 minutes for refused credentials. With ``OUTAGE_SCALE=1`` all is as in life.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_runs.chalk.hooks import ChalkHook
from airflow_provider_runs.chalk.triggers import ChalkRunTrigger
from airflow_provider_runs.mage.hooks import MageHook
from airflow_provider_runs.mage.triggers import MageRunTrigger
from airflow_provider_runs.paradime.hooks import ParadimeHook
from airflow_provider_runs.paradime.triggers import ParadimeRunTrigger
from airflow_provider_runs.provider_info import SYSTEMS
from tests.crash.outages import (
    FAULTS,
    GOING,
    SCALE,
    TOKEN,
    VERDICTS,
    Kind,
    LoopLag,
    as_environment,
    connections,
    plan_runs,
    start_runs,
    ten_minutes,
)
from tests.crash.simulated import SimulatorProcess
from tools.airflow_stack import AirflowStack
from tools.speed import scaled
from tools.trigger_runner import Triggerer

STUCK = Kind("stuck")
SHARES = {
    **{Kind("succeeded", seconds): 34 for seconds in range(150, 800, 100)},
    **{Kind("failed", seconds): 20 for seconds in (250, 500, 750)},
    **{Kind("cancelled", seconds): 12 for seconds in (300, 600)},
    STUCK: 12,
}
"""How many runs of each kind 334 waits of one system have."""
STARTED = round(scaled(40) * SCALE)
"""Simulated seconds within which Airflow has started thirty tasks, or most of them."""
FEW = {
    **{Kind("succeeded", STARTED + seconds): 1 for seconds in (300, 600, 900)},
    Kind("failed", STARTED + 400): 1,
    Kind("cancelled", STARTED + 700): 1,
}
DAGS = Path(__file__).parent / "outage_dags"


def simulated(kinds: dict[Kind, int], **paradime: Any) -> SimulatorProcess:
    names = [kind.name for kind in kinds]
    return SimulatorProcess(names, TOKEN, speed=SCALE, options={"mage": {"auth": True}, "paradime": paradime})


@pytest.fixture
def counts(request: pytest.FixtureRequest) -> dict[Kind, int]:
    """How many runs of each kind each of three systems has."""
    waits = request.config.getoption("--waits")
    return {kind: max(1, round(share * waits / 3 / sum(SHARES.values()))) for kind, share in SHARES.items()}


@pytest.fixture
def simulator(counts: dict[Kind, int]) -> Iterator[SimulatorProcess]:
    # One unknown run, or one error, empties Paradime's whole answer about fifty runs.
    with simulated(counts, nullable=False) as server:
        plan_runs(server, counts)
        yield server


@pytest.fixture
def triggerer(simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[Triggerer]:
    for name, value in as_environment(connections(simulator)).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the triggers' process inherits the filters
        server = Triggerer.start(capacity=2000)
    yield server
    server.end()


def chalk_trigger(run_id: str) -> ChalkRunTrigger:
    began = time.time()
    return ChalkRunTrigger(
        "chalk_default", run_id, poll_interval=60 / SCALE, min_poll_interval=2 / SCALE, started_at=began
    )


def mage_trigger(run_id: str) -> MageRunTrigger:
    began = time.time()
    return MageRunTrigger(
        "mage_default", run_id, poll_interval=60 / SCALE, min_poll_interval=5 / SCALE, started_at=began
    )


def paradime_trigger(run_id: str) -> ParadimeRunTrigger:
    began = time.time()
    return ParadimeRunTrigger(
        "paradime_default", run_id, poll_interval=60 / SCALE, min_poll_interval=2 / SCALE, started_at=began
    )


@pytest.mark.xdist_group("many waits")
def test_many_waits_in_airflows_own_trigger_runner(
    simulator: SimulatorProcess, triggerer: Triggerer, counts: dict[Kind, int]
) -> None:
    began = time.monotonic()
    chalk, mage, paradime = ChalkHook(), MageHook(), ParadimeHook()
    kinds = [kind.name for kind, count in counts.items() for _ in range(count)]
    ids = [kind.name for kind in counts]
    chalk_runs = start_runs([lambda name=n: chalk.trigger_run(f"bench.{name}").id for n in kinds])
    mage_runs = start_runs([lambda name=n: mage.trigger_run(ids.index(name) + 1).id for n in kinds])
    bolt_runs = start_runs([lambda name=n: paradime.trigger_run(name).id for n in kinds])
    print(f"{3 * len(kinds)} runs started in {time.monotonic() - began:.1f} s")

    waits = {triggerer.add(chalk_trigger(run_id)): ("chalk", run_id) for run_id in chalk_runs}
    waits |= {triggerer.add(mage_trigger(run_id)): ("mage", run_id) for run_id in mage_runs}
    waits |= {triggerer.add(paradime_trigger(run_id)): ("paradime", run_id) for run_id in bolt_runs}
    lag = triggerer.add(LoopLag())
    triggerer.work_until(lambda: bool(triggerer.fired[lag]), scaled(60))
    triggerer.work_until(lambda: False, 5)

    began, began_at = time.monotonic(), time.time()
    weather = threading.Thread(target=ten_minutes, args=(simulator,))
    weather.start()
    triggerer.work_until(lambda: not weather.is_alive(), scaled(60 + 900 / SCALE))
    assert not weather.is_alive()
    ended_in_bad_weather = len(triggerer.fired) - 1
    triggerer.work_until(
        lambda: len(triggerer.fired) - 1 >= len(waits) - 3 * counts[STUCK], scaled(90 + 900 / SCALE)
    )
    triggerer.work_until(lambda: False, 10)
    seconds = time.monotonic() - began
    simulator.tally()
    runs = simulator.runs()

    events = {waits[trigger_id]: found for trigger_id, found in triggerer.fired.items() if trigger_id != lag}
    asked = {
        system: sum(count for (of, operation, _), count in simulator.asked.items() if of == system)
        for system in SYSTEMS
    }
    print(
        f"{seconds:.0f} s at scale {SCALE:g}; {ended_in_bad_weather} ended under faults; requests per run: "
        + ", ".join(f"{system} {count / len(kinds):.1f}" for system, count in asked.items())
        + f"; faults met: {dict(simulator.faults)}"
    )
    print("verdicts:", Counter(found[0]["outcome"] for found in events.values()))
    lags = [(round(each["at"] - began_at), round(each["lag"] * 1000)) for each in triggerer.fired[lag]]
    print(f"the event loop's biggest lag so far, (seconds since the faults began, milliseconds): {lags}")
    assert set(simulator.faults) == FAULTS
    assert triggerer.broken == {}
    assert {len(found) for found in events.values()} == {1}
    wrong = {
        key: (found[0], runs[key]["status"])
        for key, found in events.items()
        if found[0]["outcome"] != VERDICTS.get(runs[key]["status"]) or found[0]["run_id"] != key[1]
    }
    assert wrong == {}
    still = {key: runs[key]["status"] for key in set(waits.values()) - set(events)}
    assert set(still.values()) <= GOING and len(still) == 3 * counts[STUCK]
    assert len(runs) == len(waits) and not any(run["cancels"] for run in runs.values())
    expected = Counter[str]()
    for kind, count in counts.items():
        if kind is not STUCK:
            expected[kind.outcome] += 3 * count
    assert Counter(found[0]["outcome"] for found in events.values()) == expected
    # The full outage, which all of these waited through, is told at both ends.
    for trigger_id in {trigger_id for trigger_id, key in waits.items() if key in still}:
        told = "\n".join(triggerer.logs[trigger_id].lines)
        assert told.count("cannot be asked about run") == told.count("can be asked again") >= 1


# In a real Airflow


@pytest.fixture
def few_runs() -> Iterator[SimulatorProcess]:
    with simulated(FEW) as server:
        plan_runs(server, FEW)
        yield server


@pytest.fixture
def stack(few_runs: SimulatorProcess, tmp_path: Path) -> Iterator[AirflowStack]:
    names = [kind.name for kind in FEW]
    env = {
        "AIRFLOW_VAR_OUTAGE_KINDS": json.dumps(names),
        "AIRFLOW_VAR_OUTAGE_SCALE": str(SCALE),
        "AIRFLOW__CORE__PARALLELISM": "20",
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "40",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
    }
    given = connections(few_runs)
    with AirflowStack(
        tmp_path / "airflow", DAGS, connections=given, env=env, python=Path(sys.executable)
    ) as stack:
        yield stack


@pytest.mark.xdist_group("thirty waits")
def test_thirty_waits_in_a_real_airflow(few_runs: SimulatorProcess, stack: AirflowStack) -> None:
    began = time.monotonic()
    dag_run = stack.trigger_dag("waits")

    def states() -> Counter[str]:
        return Counter(str(each["state"]) for each in stack.task_instances("waits", dag_run))

    stack.wait_for(lambda: len(few_runs.runs()) == 30, 150, "30 runs to be started")
    waiting = states()
    print(f"30 runs started in {time.monotonic() - began:.0f} s: {dict(waiting)}")
    assert waiting["deferred"] + waiting["running"] >= 20
    ten_minutes(few_runs)
    print(f"after the faults, {time.monotonic() - began:.0f} s from the start: {dict(states())}")
    stack.wait_for_dag_run("waits", dag_run, timeout=90 + 1800 / SCALE)
    seconds = time.monotonic() - began

    few_runs.tally()
    runs = few_runs.runs()
    asked = sum(few_runs.asked.values())
    print(f"{seconds:.0f} s at scale {SCALE:g}; {asked / 30:.1f} requests per run; {dict(few_runs.faults)}")
    seen: dict[tuple[str, str], Any] = {}
    for task in stack.task_instances("waits", dag_run):
        task_id, index = task["task_id"], task["map_index"]
        system = task_id.partition("_")[0]
        path = f"dags/waits/dagRuns/{dag_run}/taskInstances/{task_id}/xcomEntries/return_value"
        run_id = stack.get(path, map_index=index)["value"]
        log = stack.task_log("waits", dag_run, task_id, 1, index)
        raised = [name for name in ("RunFailed", "RunCancelled") if f"ERROR {name}: " in log]
        seen[system, run_id] = (task["state"], raised, task["try_number"])
    expected = {
        "succeeded": ("success", [], 1),
        "failed": ("failed", ["RunFailed"], 1),
        "cancelled": ("failed", ["RunCancelled"], 1),
    }
    assert seen == {key: expected[VERDICTS[run["status"]]] for key, run in runs.items()}
    assert len(runs) == 30 and not any(run["cancels"] for run in runs.values())
    print("states:", Counter((state, *raised) for state, raised, _ in seen.values()))
    assert {state for state, _, _ in seen.values()} == {"success", "failed"}
    assert len([each for each in seen.values() if each[1] == ["RunCancelled"]]) >= 6
