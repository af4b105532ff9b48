"""The vendor's own, unmodified Airflow provider against the simulated Paradime.

It proves that the simulator satisfies what the provider's hook sends and expects, and shows the points at
which ours goes further. To be run in an environment that has airflow-provider-paradime-dbt, Airflow, pytest,
aiohttp and graphql-core (``constraints/paradime.txt``).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from airflow_provider_runs.paradime.simulated import GRAPH, binary
from airflow_provider_runs.simulator import Simulator

pytestmark = pytest.mark.filterwarnings("ignore:The .airflow")
Make = Callable[..., Any]
KEY = {"api_key": "key-simulator", "api_secret": "paradime-secret"}
COMPANY_TOKEN = {"api_secret": "prdm_cmp_simulator", "workspace_uid": "ws-main"}


@pytest.fixture(scope="session", autouse=True)
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let Airflow, which is imported later, write nowhere else."""
    os.environ["AIRFLOW_HOME"] = str(tmp_path_factory.mktemp("airflow"))


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with Simulator(["paradime"], speed=50) as simulator:
        yield simulator


@pytest.fixture
def connect(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Define the connection ``bolt`` as the provider wants it: all in *extra*."""

    def define(**extra: Any) -> str:
        endpoint = sim.url_of("paradime") + "/api/v1/company-simulator/graphql"
        given = extra or KEY
        connection = {"conn_type": "paradime", "extra": {"api_endpoint": endpoint, **given}}
        monkeypatch.setenv("AIRFLOW_CONN_BOLT", json.dumps(connection))
        return "bolt"

    return define


@pytest.fixture
def hook(connect: Callable[..., str]) -> Any:
    from paradime_dbt_provider.hooks.paradime import ParadimeHook

    return ParadimeHook(connect())


def wait_for(hook: Any, run_id: int, state: str) -> None:
    end = time.monotonic() + 20
    while hook.get_bolt_run_status(run_id) != state:
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("credentials", "workspace_uid", "workspace"),
    [
        (KEY, None, "ws-main"),
        ({"api_secret": "prdm_wsp_simulator"}, None, "ws-main"),
        (COMPANY_TOKEN, None, "ws-main"),
        (COMPANY_TOKEN, "ws-other", "ws-other"),
    ],
)
def test_credentials(
    sim: Simulator,
    connect: Callable[..., str],
    credentials: dict[str, str],
    workspace_uid: str | None,
    workspace: str,
) -> None:
    from paradime_dbt_provider.hooks.paradime import ParadimeHook

    hook = ParadimeHook(connect(**credentials), workspace_uid=workspace_uid)
    run_id = hook.trigger_bolt_run(slug="daily")
    wait_for(hook, run_id, "SUCCESS")
    assert sim.runs()[0]["scope"] == {"workspace": workspace}


def test_refused_credentials(sim: Simulator, connect: Callable[..., str]) -> None:
    from paradime_dbt_provider.hooks.paradime import ParadimeException, ParadimeHook

    hook = ParadimeHook(connect(**{**KEY, "api_secret": "wrong"}))
    with pytest.raises(ParadimeException, match="Error: 401"):
        hook.trigger_bolt_run(slug="daily")
    assert sim.runs() == []


def test_trigger_status_and_commands(sim: Simulator, hook: Any) -> None:
    run_id = hook.trigger_bolt_run(slug="daily", commands=["dbt run"], branch="fix")
    assert sim.runs()[0]["body"] == {
        "mutation": "triggerBoltRun",
        "slug": "daily",
        "branch": "fix",
        "commands": ["dbt run"],
    }
    wait_for(hook, run_id, "SUCCESS")
    commands = hook.get_bolt_run_commands(run_id)
    assert [command.command for command in commands][1:] == ["dbt deps", "dbt run"]
    assert [command.return_code for command in commands] == [0, 0, 0]
    with pytest.warns(DeprecationWarning, match="schedule_name"):
        hook.trigger_bolt_run("daily")


def test_cancel_and_retry(sim: Simulator, hook: Any) -> None:
    hook.cancel_bolt_run(76033)
    wait_for(hook, 76033, "CANCELED")
    failed = hook.trigger_bolt_run(slug="broken")
    wait_for(hook, failed, "FAILED")
    sim.plan(outcome="succeeded")
    child = hook.retry_bolt_schedule_from_failure(slug="broken")
    wait_for(hook, child, "SUCCESS")
    assert sim.runs()[1]["body"]["scheduleRunId"] == failed


def test_schedules_workspaces_and_users(hook: Any) -> None:
    from paradime_dbt_provider.hooks.paradime import BoltRunState

    found = hook.list_bolt_schedules(offset=0, limit=1)
    assert (found.total_count, found.schedules[0].name) == (8, "daily")
    assert found.schedules[0].last_run_state is BoltRunState.SUCCESS
    assert hook.get_bolt_schedule(slug="daily").latest_run_id == 76035
    assert [workspace.uid for workspace in hook.get_workspaces()] == ["ws-main", "ws-other"]
    assert (len(hook.get_active_users()), len(hook.get_invited_users())) == (2, 1)


def test_artifacts(hook: Any, tmp_path: Path) -> None:
    """A text comes whole; the provider damages a binary file, which the store sent whole."""
    command = hook.get_bolt_run_commands(76035)[-1]
    manifest = hook.get_artifact_from_command_by_path(command.id, "target/manifest.json")
    path = hook.download_artifact(manifest.id, str(tmp_path / "manifest.json"))
    assert "model.shop.orders" in json.loads(Path(path).read_text())["nodes"]
    graph = hook.get_artifact_from_command_by_path(command.id, GRAPH)
    content = b"".join(binary(GRAPH, 4096))
    assert requests.get(hook.get_artifact_download_url(graph.id), timeout=20).content == content
    path = hook.download_artifact(graph.id, str(tmp_path / "graph"))
    assert Path(path).read_bytes() != content


def test_a_refused_download_tells_the_signature(sim: Simulator, hook: Any, tmp_path: Path) -> None:
    sim.fault("status", operation="download", status=403)
    with pytest.raises(requests.HTTPError, match="X-Amz-Signature="):
        hook.download_artifact(2023484, str(tmp_path / "results.json"))


def test_errors(sim: Simulator, hook: Any) -> None:
    from paradime_dbt_provider.hooks.paradime import ParadimeException

    with pytest.raises(ParadimeException, match=r"Run 5 not found\."):
        hook.get_bolt_run_status(5)
    sim.fault("errors", operation="get", body=[], times=1)
    with pytest.raises(ParadimeException, match=r"^\[\]$"):
        hook.get_bolt_run_status(76035)
    sim.fault("status", operation="get", times=1)
    with pytest.raises(ParadimeException, match="Error: 503"):
        hook.get_bolt_run_status(76035)
    sim.fault("html", operation="get", status=200, times=1)
    with pytest.raises(requests.exceptions.JSONDecodeError):
        hook.get_bolt_run_status(76035)
    sim.fault("reset_after", operation="trigger", times=1)
    with pytest.raises(requests.ConnectionError):
        hook.trigger_bolt_run(slug="daily")
    assert len(sim.runs()) == 1


def test_operators(connect: Callable[..., str], hook: Any, tmp_path: Path) -> None:
    from paradime_dbt_provider.operators.paradime import (
        ParadimeBoltDbtScheduleRunArtifactOperator,
        ParadimeBoltDbtScheduleRunOperator,
    )

    run_id = ParadimeBoltDbtScheduleRunOperator(task_id="run", conn_id="bolt", slug="daily").execute({})
    wait_for(hook, run_id, "SUCCESS")
    fetched = ParadimeBoltDbtScheduleRunArtifactOperator(
        task_id="fetch",
        conn_id="bolt",
        run_id=run_id,
        artifact_path="target/run_results.json",
        output_file_name=str(tmp_path / "results.json"),
    ).execute({})
    assert [result["status"] for result in json.loads(Path(fetched).read_text())["results"]] == [
        "pass",
        "pass",
    ]


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        ("stuck", False),
        ("succeeded", True),
        ("failed", "has failed"),
        ("ERROR", "has error"),
        ("cancelled", "was canceled"),
        ("SKIPPED", "was skipped"),
        ("STARTING", "unknown status: 'STARTING'"),
        ("PENDING", "unknown status: 'PENDING'"),
    ],
)
def test_sensor(sim: Simulator, hook: Any, outcome: str, says: str | bool) -> None:
    """The sensor fails a run that is merely starting."""
    from paradime_dbt_provider.hooks.paradime import ParadimeException
    from paradime_dbt_provider.sensors.paradime import ParadimeBoltDbtScheduleRunSensor

    sim.plan(outcome=outcome, ends_at_once=True)
    run_id = hook.trigger_bolt_run(slug="daily")
    sensor = ParadimeBoltDbtScheduleRunSensor(task_id="wait", conn_id="bolt", run_id=run_id)
    if isinstance(says, bool):
        assert sensor.poke({}) is says
    else:
        with pytest.raises(ParadimeException, match=says):
            sensor.poke({})
