"""The vendor's own, unmodified SDK against the simulated Paradime.

It proves that the simulator satisfies what the SDK sends and expects, and shows how the SDK takes what goes
wrong. To be run in an environment that has paradime-io, pytest, aiohttp and graphql-core
(``constraints/paradime.txt``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from airflow_provider_runs.paradime.simulated import GRAPH, binary
from airflow_provider_runs.simulator import Simulator

Make = Callable[..., Any]
WORKSPACE_TOKEN = {"api_key": None, "api_secret": "prdm_wsp_simulator"}
COMPANY_TOKEN = {"api_key": None, "api_secret": "prdm_cmp_simulator"}


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with Simulator(["paradime"], speed=50) as simulator:
        yield simulator


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Make:
    """Make clients that know nothing but their arguments, and ask no package index for a newer version."""
    for name in list(os.environ):
        if name.startswith("PARADIME_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PARADIME_DISABLE_VERSION_CHECK", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    from paradime import Paradime

    def client(sim: Simulator, **options: Any) -> Any:
        settings = {
            "api_endpoint": sim.url_of("paradime") + "/api/v1/company-simulator/graphql",
            "api_key": "key-simulator",
            "api_secret": "paradime-secret",
        }
        return Paradime(**{**settings, **options})

    return client


@pytest.fixture
def bolt(sim: Simulator, make: Make) -> Any:
    return make(sim).bolt


def served(**options: Any) -> Simulator:
    return Simulator(["paradime"], speed=50, options={"paradime": options})


def wait_for(bolt: Any, run_id: int, state: str) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if bolt.get_run_status(run_id).value == state:
            return
        time.sleep(0.02)
    raise AssertionError(f"the run did not come to {state} in time")


@pytest.mark.parametrize(
    ("credentials", "workspace"),
    [
        ({}, "ws-main"),
        (WORKSPACE_TOKEN, "ws-main"),
        ({**COMPANY_TOKEN, "workspace_uid": "ws-main"}, "ws-main"),
        ({**COMPANY_TOKEN, "workspace_uid": "ws-other"}, "ws-other"),
    ],
)
def test_credentials(sim: Simulator, make: Make, credentials: dict[str, Any], workspace: str) -> None:
    client = make(sim, **credentials)
    run_id = client.bolt.trigger_run(slug="daily")
    wait_for(client.bolt, run_id, "SUCCESS")
    assert sim.runs()[0]["scope"] == {"workspace": workspace}


@pytest.mark.parametrize(
    ("credentials", "status"),
    [
        ({"api_secret": "wrong"}, 401),
        ({**WORKSPACE_TOKEN, "api_secret": "prdm_wsp_wrong"}, 401),
        ({**COMPANY_TOKEN, "workspace_uid": "ws-unknown"}, 403),
    ],
)
def test_refused_credentials(sim: Simulator, make: Make, credentials: dict[str, Any], status: int) -> None:
    from paradime.client.api_exception import ParadimeAPIException

    with pytest.raises(ParadimeAPIException, match=f"Error: {status} - "):
        make(sim, **credentials).bolt.trigger_run(slug="daily")
    assert sim.runs() == []


def test_trigger_with_all_it_takes(sim: Simulator, bolt: Any) -> None:
    run_id = bolt.trigger_run(
        slug="daily",
        branch="fix",
        pr_number=7,
        reason="by hand",
        command_configs=[{"command": "dbt run", "continueOnError": True}],
        continue_on_error=False,
    )
    (run,) = sim.runs()
    assert run["id"] == run_id
    assert run["body"] == {
        "mutation": "triggerBoltRun",
        "slug": "daily",
        "branch": "fix",
        "prNumber": 7,
        "reason": "by hand",
        "commandConfigs": [{"command": "dbt run", "continueOnError": True}],
        "continueOnError": False,
    }
    wait_for(bolt, run_id, "SUCCESS")
    assert [command.command for command in bolt.list_run_commands(run_id)][2:] == ["dbt run"]


def test_the_older_name(sim: Simulator, bolt: Any) -> None:
    with pytest.warns(DeprecationWarning, match="schedule_name"):
        run_id = bolt.trigger_run("daily", ["dbt compile"])
    assert sim.runs()[0]["body"]["commands"] == ["dbt compile"]
    assert bolt.list_runs(slug="daily", limit=1).runs[0].id == run_id


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        ("succeeded", "SUCCESS"),
        ("failed", "FAILED"),
        ("cancelled", "CANCELED"),
        ("ERROR", "ERROR"),
        ("SKIPPED", "SKIPPED"),
    ],
)
def test_states(sim: Simulator, bolt: Any, outcome: str, state: str) -> None:
    sim.plan(queued=20, duration=20, outcome=outcome)
    run_id = bolt.trigger_run(slug="daily")
    assert bolt.get_run_status(run_id).value == "STARTING"
    wait_for(bolt, run_id, "RUNNING")
    wait_for(bolt, run_id, state)


def test_commands_and_logs(sim: Simulator, bolt: Any) -> None:
    sim.plan(duration=50, outcome="failed", message="no such column")
    run_id = bolt.trigger_run(slug="broken")
    wait_for(bolt, run_id, "RUNNING")
    first = bolt.list_run_commands(run_id)[0]
    assert (first.end_dttm, first.return_code) == ("", None)
    streamed = [line.line for line in bolt.stream_command_logs(first.id, poll_interval=0.05)]
    wait_for(bolt, run_id, "FAILED")
    commands = bolt.list_run_commands(run_id)
    assert [command.return_code for command in commands] == [0, 0, 0, 1]
    assert sorted(streamed) == sorted((commands[0].stdout + commands[0].stderr).splitlines(keepends=True))
    assert "no such column" in commands[-1].stdout
    batch = bolt.get_command_logs(commands[-1].id)
    assert (batch.finished, batch.cursor == "0:0") == (True, False)
    assert {line.stream.value for line in batch.lines} == {"STDOUT", "STDERR"}


def test_artifacts(bolt: Any) -> None:
    command = bolt.list_run_commands(76035)[-1]
    found = {artifact.path: artifact.id for artifact in bolt.list_command_artifacts(command.id)}
    assert list(found) == ["target/manifest.json", "target/run_results.json", GRAPH]
    url = bolt.get_artifact_url(found[GRAPH])
    assert requests.get(url, timeout=20).content == b"".join(binary(GRAPH, 4096))
    assert "model.shop.orders" in bolt.get_latest_manifest_json(slug="daily")["nodes"]
    assert bolt.get_latest_artifact_url(slug="daily", artifact_path=GRAPH).startswith(url.partition("?")[0])


def test_runs(bolt: Any) -> None:
    bolt.trigger_run(slug="daily", branch="e987a71966bf68c79c7fdcb4c4c19babdaf9b258", pr_number=3)
    newest, *_, oldest = bolt.list_runs(slug="daily").runs
    assert (newest.id, oldest.id, oldest.state) == (76036, 76033, "RUNNING")
    assert newest.git_info.commit_hash == "e987a71966bf68c79c7fdcb4c4c19babdaf9b258"
    assert newest.git_info.pull_request_id == "3"
    assert newest.parent_schedule_run_id is None


def test_cancel(bolt: Any) -> None:
    for _ in range(2):
        assert bolt.cancel_run(76033) is None
        wait_for(bolt, 76033, "CANCELED")


def test_retries(sim: Simulator, bolt: Any) -> None:
    failed = bolt.trigger_run(slug="broken")
    wait_for(bolt, failed, "FAILED")
    from_failure = bolt.retry_schedule_from_failure(slug="broken")
    wait_for(bolt, from_failure, "FAILED")
    sim.plan(outcome="succeeded")
    failed_only, whole = bolt.retry_run(failed), bolt.retry_run_all(failed)
    wait_for(bolt, failed_only, "SUCCESS")
    wait_for(bolt, whole, "SUCCESS")
    assert len(bolt.list_run_commands(failed_only)) == 2
    assert len(bolt.list_run_commands(whole)) == 5
    parents = {run.id: run.parent_schedule_run_id for run in bolt.list_runs(slug="broken").runs}
    assert parents == {failed: None, from_failure: failed, failed_only: failed, whole: failed}


def test_schedules(bolt: Any) -> None:
    found = bolt.list_schedules(limit=3)
    assert (found.total_count, len(found.schedules)) == (8, 3)
    assert found.schedules[0].turbo_ci.enabled is False
    assert [schedule.slug for schedule in bolt.list_schedules(suspended=True).schedules] == ["nightly-build"]
    assert [schedule.slug for schedule in bolt.list_schedules(show_inactive=True).schedules] == ["retired"]
    daily = bolt.get_schedule(slug="daily")
    assert (daily.latest_run_id, daily.commands) == (76035, ["dbt run", "dbt test"])
    bolt.suspend_schedule(slug="nightly-build", suspend=False)
    assert bolt.get_schedule(slug="nightly-build").suspended is False


def test_create_and_delete(make: Make) -> None:
    from paradime.client.api_exception import ParadimeAPIException

    with served(slug_delay=50) as sim:
        bolt = make(sim).bolt
        assert bolt.create_schedule_slugs(["Daily", "New one"]) == ["daily-2", "new-one"]
        slug = bolt.create_schedule(
            name="New one", schedule="OFF", environment=bolt.list_environments()[0].slug, commands=["dbt run"]
        )
        with pytest.raises(ParadimeAPIException, match=r"^Schedule new-one not found\.$"):
            bolt.trigger_run(slug=slug)
        assert ("Main", slug) in bolt.list_all_schedule_names()
        time.sleep(1.1)
        assert bolt.trigger_run(slug=slug) == 76036
        bolt.delete_schedule(slug)
        with pytest.raises(ParadimeAPIException, match="not found"):
            bolt.get_schedule(slug=slug)


def test_workspaces_and_users(sim: Simulator, make: Make) -> None:
    client = make(sim)
    assert [workspace.uid for workspace in client.workspaces.list_all()] == ["ws-main", "ws-other"]
    assert client.users.get_by_email("ada@example.com").uid == "u-1"
    assert len(client.users.list_invited()) == 1


# What goes wrong


def test_errors(sim: Simulator, bolt: Any) -> None:
    from paradime.client.api_exception import ParadimeAPIException

    with pytest.raises(ParadimeAPIException, match=r"^Run 5 not found\.$"):
        bolt.get_run_status(5)
    sim.fault("errors", operation="get", body=[], times=1)
    with pytest.raises(ParadimeAPIException, match=r"^\[\]$"):
        bolt.get_run_status(76035)
    sim.fault("errors", operation="get", body="boom", times=1)
    with pytest.raises(ParadimeAPIException, match=r"^boom$"):
        bolt.get_run_status(76035)
    sim.fault("html", operation="get", status=200, times=1)
    with pytest.raises(requests.exceptions.JSONDecodeError):
        bolt.get_run_status(76035)
    sim.fault("not_ok", operation="cancel", times=1)
    bolt.cancel_run(76033)
    assert bolt.get_run_status(76033).value == "RUNNING"


def test_a_lost_answer_leaves_a_run(sim: Simulator, bolt: Any) -> None:
    sim.fault("reset_after", operation="trigger", times=1)
    with pytest.raises(requests.ConnectionError):
        bolt.trigger_run(slug="daily")
    assert len(sim.runs()) == 1


def test_an_unknown_state_reads_as_none(sim: Simulator, bolt: Any) -> None:
    sim.plan(outcome="DEPLOYING", ends_at_once=True)
    assert bolt.get_run_status(bolt.trigger_run(slug="daily")) is None


def test_a_busy_schedule(sim: Simulator, bolt: Any) -> None:
    from paradime.client.api_exception import ParadimeAPIException

    sim.plan(outcome="stuck")
    bolt.trigger_run(slug="one-at-a-time")
    with pytest.raises(ParadimeAPIException, match="AlreadyRunningException"):
        bolt.trigger_run(slug="one-at-a-time")


def test_a_missing_end_breaks_the_sdk(make: Make) -> None:
    """The SDK takes an empty end for a command that goes on, but not null."""
    with served(null_end=True) as sim:
        bolt = make(sim).bolt
        with pytest.raises(ValueError, match=r"end.?dttm"):
            bolt.list_run_commands(76033)


def test_an_older_server_breaks_the_sdk(make: Make) -> None:
    """The SDK always sends all arguments; a server that lacks one refuses the document."""
    from paradime.client.api_exception import ParadimeAPIException

    with served(lacks="reason") as sim:
        with pytest.raises(ParadimeAPIException, match="Unknown argument 'reason'"):
            make(sim).bolt.trigger_run(slug="daily")
        assert sim.runs() == []
