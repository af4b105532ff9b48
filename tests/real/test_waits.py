"""Many deferred waits at once, while Mage ends their sessions or dies; `tests/mage` has the same."""

from __future__ import annotations

import asyncio
import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_runs.base import connections
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.drivers import AsyncDriver
from airflow_provider_runs.core.run import Run
from airflow_provider_runs.mage.api import MageRunApi
from tests.real.waits import VERDICTS, MortalMage, Requests, Waits, mortal_mage, outcomes, reasons, until
from tools.airflow_stack import AirflowStack
from tools.speed import scaled

REASON = "block bang: ValueError: bang in transform"
DAG_FILE = """
import pendulum
from airflow.providers.common.compat.sdk import DAG, Variable
from airflow_provider_runs.mage.operators import MageTriggerRunOperator

with DAG(dag_id="pair", schedule=None, start_date=pendulum.datetime(2024, 1, 1, tz="UTC"), catchup=False):
    for name in ("one", "two"):
        MageTriggerRunOperator(
            task_id=name, pipeline_schedule_id=Variable.get("schedule"),
            variables={"sleep": float(Variable.get("sleep"))}, deferrable=True, min_poll_interval=0.5,
        )
"""


@pytest.fixture(scope="module")
def mortal(mage_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MortalMage]:
    """A Mage that nobody else uses."""
    with mortal_mage(mage_python, tmp_path_factory.mktemp("mortal")) as server:
        yield server


@pytest.fixture
def masked(mortal: MortalMage, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give tasks the connection, and return the list of what their logs are told to mask."""
    # As in every real task: Airflow 2.11 reads a connection only once its tables of DAGs are known.
    with warnings.catch_warnings(action="ignore"):
        import airflow_provider_runs.mage.operators  # noqa: F401

    secrets: list[str] = []
    mask = connections.mask_secret

    def keep(secret: str) -> None:
        secrets.append(secret)
        mask(secret)

    monkeypatch.setattr(connections, "mask_secret", keep)
    monkeypatch.setenv("AIRFLOW_CONN_MAGE_DEFAULT", mortal.connection_json(None, extra=dict(mortal.extra)))
    return secrets


@pytest.fixture
def requests(masked: list[str], monkeypatch: pytest.MonkeyPatch) -> Requests:
    """The counted requests of all waits."""
    return Requests(monkeypatch)


def flat(runs: dict[str, list[Run]]) -> list[Run]:
    return [run for of_one in runs.values() for run in of_one]


async def test_a_session_that_ends_is_renewed_once_for_all_waits(
    mortal: MortalMage, masked: list[str], requests: Requests
) -> None:
    runs = mortal.start_many(
        ("slow", 10, {}), ("example", 10, {"sleep": 6}), ("broken", 5, {"sleep": 9}), ("empty", 5, {})
    )
    before = mortal.logins()
    async with Waits(flat(runs), mortal.loop) as waits:
        for sessions in (1, 2, 3):
            await until(lambda known=sessions: mortal.logins() == before + known, "a login")
            asked = requests.total()
            await until(lambda seen=asked: requests.total() >= seen + 5, "the waits to go on")
            if sessions < 3:
                await asyncio.to_thread(mortal.expire_sessions)
        assert mortal.logins() == before + 3 and waits.ended() <= 20

        await asyncio.to_thread(mortal.cancel, runs["slow"])
        events = await waits.events(60)

    expected = {"slow": "cancelled", "example": "succeeded", "broken": "failed", "empty": "succeeded"}
    assert outcomes(events) == {run.id: expected[name] for name in runs for run in runs[name]}
    assert reasons(events, runs["broken"]) == {REASON}
    assert requests["login"] == 3
    assert mortal.logins() == before + 3 + 1, "one was for the cancelling"
    tokens = [secret for secret in masked if secret != mortal.password]
    assert len(tokens) == len(set(tokens)) == 3


async def test_reads_whose_session_is_refused_together_share_one_login(mortal: MortalMage) -> None:
    tokens: list[str] = []
    run = mortal.start("empty")
    driver = AsyncDriver(MageRunApi(mortal.settings(), keep_secret=tokens.append))
    try:
        await driver.drive(driver.api.get(run.id))
        for sessions in (2, 3):
            before = mortal.logins()
            mortal.expire_sessions()
            found = await asyncio.gather(*(driver.drive(driver.api.get(run.id)) for _ in range(16)))
            assert {each.id for each in found} == {run.id}
            assert mortal.logins() == before + 1 and len(set(tokens)) == len(tokens) == sessions
    finally:
        await driver.close()


@pytest.mark.parametrize("begin_over", [0.0, 1.0], ids=["at_once", "one_after_another"])
async def test_a_hundred_waits_cost_at_most_two_requests_each_and_end_as_the_server_says(
    mortal: MortalMage, requests: Requests, begin_over: float
) -> None:
    """
    Wait for 100 runs that were started within seconds.

    50 have no blocks and end by themselves within some loops of Mage's scheduler. 30 have two blocks and
    take up to 20 s and their turn (Mage works on 20 blocks at once), 15 fail in their second block, and 5
    would take two minutes but are cancelled while they run, after half of all waits are over. The waits
    begin together, or spread over one interval as tasks of many DAGs do.
    """
    interval = 5 * mortal.loop
    runs = mortal.start_many(
        ("slow", 5, {}),
        *(("example", 5, {"sleep": sleep}) for sleep in (0, 2, 5, 10, 15, 20)),
        ("broken", 15, {}),
        ("empty", 50, {}),
    )
    began = clock.monotonic()
    async with Waits(flat(runs), interval, begin_over * interval) as waits:
        await until(lambda: waits.ended() >= 50, "half of the runs to end")
        going = await asyncio.to_thread(mortal.statuses, runs["slow"])
        assert set(going.values()) == {"running"}
        await asyncio.to_thread(mortal.cancel, runs["slow"])
        events = await waits.events(150)
    seconds = clock.monotonic() - began

    said = mortal.statuses(flat(runs))
    assert outcomes(events) == {run_id: VERDICTS[status] for run_id, status in said.items()}
    assert Counter(said.values()) == {"completed": 80, "failed": 15, "cancelled": 5}
    assert reasons(events, runs["broken"]) == {REASON}
    print(f"{sum(requests.values())} requests in {seconds:.0f} s: {dict(requests)}")
    assert set(requests) == {"login", "list", "detail"} and requests["login"] == 1
    assert sum(requests.values()) <= 2 * 100


async def test_no_wait_fails_when_the_server_is_killed_and_started_again(
    mortal: MortalMage, requests: Requests
) -> None:
    # Longer than the waits take to see that their runs go, on however slow a machine.
    long, short = {"sleep": scaled(15)}, {"sleep": scaled(10)}
    early = mortal.start_many(("slow", 3, {}), ("example", 9, long), ("broken", 4, short))
    async with Waits(flat(early), mortal.loop) as waits:
        await until(lambda: all("is running" in " ".join(w.notes) for w in waits.triggers), "all to run")
        late = await asyncio.to_thread(mortal.start_many, ("empty", 4, {}))
        async with Waits(late["empty"], mortal.loop) as late_waits:
            triggers = waits.triggers + late_waits.triggers
            await asyncio.to_thread(mortal.kill)
            await until(
                lambda: all("cannot be asked" in " ".join(w.notes) for w in triggers), "it to be noticed"
            )
            await asyncio.to_thread(mortal.revive)
            await asyncio.to_thread(mortal.cancel, early["slow"])
            events = await waits.events(120) | await late_waits.events(60)

    runs = flat(early) + late["empty"]
    said = mortal.statuses(runs)
    assert outcomes(events) == {run_id: VERDICTS[status] for run_id, status in said.items()}
    assert Counter(said.values()) == {"completed": 13, "failed": 4, "cancelled": 3}
    assert reasons(events, early["broken"]) == {REASON}
    for trigger in triggers:
        down = [note for note in trigger.notes if "cannot be asked about run" in note]
        up = [note for note in trigger.notes if "can be asked again" in note]
        assert len(down) == len(up) == 1, trigger.notes
        assert trigger.notes.index(down[0]) < trigger.notes.index(up[0])


@pytest.fixture
def stack(mortal: MortalMage, tmp_path: Path) -> Iterator[AirflowStack]:
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "pair.py").write_text(DAG_FILE)
    connections = {"mage_default": mortal.connection("example")}
    # Longer than the tasks take to defer and to see that their runs go, on however slow a machine.
    env = {
        "AIRFLOW_VAR_SCHEDULE": json.dumps(mortal.schedules["example"].id),
        "AIRFLOW_VAR_SLEEP": json.dumps(scaled(15)),
    }
    with AirflowStack(
        tmp_path / "airflow", dags, connections=connections, env=env, python=Path(sys.executable)
    ) as stack:
        yield stack


def test_deferred_tasks_succeed_when_the_server_is_killed_and_started_again(
    mortal: MortalMage, stack: AirflowStack
) -> None:
    tasks = ("one", "two")
    before = mortal.count()
    dag_run = stack.trigger_dag("pair")
    for task in tasks:
        stack.wait_for_task("pair", dag_run, task, "deferred", timeout=120)

    def each_log_has(text: str) -> bool:
        return all(text in stack.task_log("pair", dag_run, task) for task in tasks)

    stack.wait_for(lambda: each_log_has(" is running "), 60, "both runs to go")
    mortal.kill()
    stack.wait_for(lambda: each_log_has("cannot be asked about run"), 60, "it to be noticed")
    assert {task["state"] for task in stack.task_instances("pair", dag_run)} == {"deferred"}
    mortal.revive()

    assert stack.wait_for_dag_run("pair", dag_run, timeout=240) == "success"
    run_ids = {str(stack.xcom("pair", dag_run, task, "run_url")).rpartition("/")[2] for task in tasks}
    rows = mortal.call("GET", "/api/pipeline_runs", **{"_limit": "2", "order_by[]": "id desc"}).json()
    found = {str(row["id"]): row["status"] for row in rows["pipeline_runs"]}
    assert found == dict.fromkeys(run_ids, "completed") and len(run_ids) == 2
    assert mortal.count() == before + 2
    for task in tasks:
        log = stack.task_log("pair", dag_run, task)
        assert log.count("cannot be asked about run") == log.count("can be asked again") == 1
        assert stack.task_instance("pair", dag_run, task)["try_number"] == 1
