"""DAGs are scheduled by the ends of runs, each run once, also where no triggerer lived when it ended."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_runs.mage.hooks import MageHook
from airflow_provider_runs.paradime.hooks import ParadimeHook
from airflow_provider_runs.strait.hooks import StraitHook
from tests.asset_events import is_noted, scheduled_by, stored, told
from tests.system.conftest import SCHEDULES
from tools.airflow_stack import AirflowStack

NAMES = ("mage_ended", "paradime_ended", "strait_ended")
Starts = dict[str, Callable[[], Any]]


@pytest.fixture
def starts(connections: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Starts:
    """Start a run that something else than Airflow starts, by DAG."""
    for name, connection in connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))
    mage, paradime, strait = MageHook(), ParadimeHook(), StraitHook()

    def ended(hook: Any, run: Any) -> bool:
        return bool(hook.get_run(run.id).state.is_terminal)

    def start(hook: Any, **arguments: Any) -> Any:
        run = hook.trigger_run(**arguments)
        return run.id, lambda: ended(hook, run)

    return {
        "mage_ended": lambda: start(mage, pipeline_schedule_id=SCHEDULES["events"]),
        "paradime_ended": lambda: start(paradime, slug="paradime_events"),
        "strait_ended": lambda: start(strait, job_id="strait_events"),
    }


def test_each_run_that_ends_schedules_its_dag_once_over_restarts_of_the_triggerer(
    stack: AirflowStack, starts: Starts
) -> None:
    for name in NAMES:
        stack.wait_for_dag(name, timeout=120)
    stack.wait_for(lambda: len(stored(stack)) == len(NAMES), 120, "the watchers' first look")
    begun: dict[str, list[str]] = {name: [] for name in NAMES}

    def all_told() -> bool:
        found = told(stack)
        return all(set(found[name]) >= set(begun[name]) for name in NAMES)

    def all_noted() -> bool:
        return all(is_noted(stack, run_id) for ids in begun.values() for run_id in ids)

    def start() -> list[Callable[[], bool]]:
        ends = []
        for name in NAMES:
            run_id, has_ended = starts[name]()
            begun[name].append(run_id)
            ends.append(has_ended)
        return ends

    start()
    stack.wait_for(all_told, 90, "the events of the first runs")
    for number in (signal.SIGKILL, signal.SIGTERM):
        # Who dies between an event and this note has the next triggerer tell the run again, as documented.
        stack.wait_for(all_noted, 30, "the notes of what is told")
        # One goes when the triggerer dies, one begins and ends while none lives.
        ends = start()
        triggerer = stack.components["triggerer"]
        stack.kill("triggerer", number, children=number == signal.SIGKILL)
        triggerer.process.wait(30)
        ends += start()
        stack.wait_for(lambda ends=ends: all(ended() for ended in ends), 60, "the runs to end")  # type: ignore[misc]
        stack.restart("triggerer")
        stack.wait_for(all_told, 120, "the events after the restart")

    time.sleep(5)
    expected = {name: Counter(begun[name]) for name in NAMES}
    assert told(stack) == expected
    stack.wait_for(lambda: scheduled_by(stack) == expected, 60, "DAG runs that each run scheduled once")
