"""
Each point at which the vendor's own Airflow provider is weak (contract section 8), row by row.

The rows about artifacts and about the output of commands have tests of their own.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

import airflow_provider_runs
from airflow_provider_runs.base.exceptions import Interrupted, RequestRefused, RunFailed
from airflow_provider_runs.base.link import RunLink
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.errors import BadInput, Unauthorized
from airflow_provider_runs.core.run import RunState
from airflow_provider_runs.paradime.api import ARGUMENTS
from airflow_provider_runs.paradime.hooks import ParadimeHook
from airflow_provider_runs.paradime.operators import (
    ParadimeCancelRunOperator,
    ParadimeDownloadArtifactOperator,
    ParadimeRetryRunOperator,
    ParadimeTriggerRunOperator,
)
from airflow_provider_runs.paradime.sensors import ParadimeRunSensor
from airflow_provider_runs.provider_info import get_provider_info
from airflow_provider_runs.simulator import Simulator
from tests.base.conftest import callable_operators, later, told  # noqa: F401
from tests.base.fakes import FakeTaskInstance, Store
from tests.paradime.conftest import connect
from tests.paradime.test_tasks import PACE, run, start, task, wait

Context = dict[str, Any]


def sensor(run_id: str, **arguments: Any) -> ParadimeRunSensor:
    return ParadimeRunSensor(**{"task_id": "s", "run_id": run_id, "poke_interval": 0.2, **PACE, **arguments})


# hook: a new session for each call, three look-ups of the connection for each request


def test_hook_reads_the_connection_once_and_keeps_its_session(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    read = ParadimeHook.get_connection.__func__  # type: ignore[attr-defined]

    def counted(cls: Any, conn_id: str) -> Any:
        looks.append(conn_id)
        return read(cls, conn_id)

    monkeypatch.setattr(ParadimeHook, "get_connection", classmethod(counted))
    hook = ParadimeHook()
    for _ in range(3):
        hook.get_run("76035")
    assert looks == ["paradime_default"]
    driver = hook._driver
    assert driver._session is not None and driver._open() is driver._session


async def test_hook_has_an_asynchronous_client(sim: Simulator) -> None:
    async with ParadimeHook() as hook:
        assert (await hook.aget_run("76035")).state is RunState.SUCCEEDED


# operations: no prNumber, reason, commandConfigs, continueOnError; no list of runs, suspend, two retries


def test_operations_are_all_there() -> None:
    assert {"pr_number", "reason", "command_configs", "continue_on_error", "commands", "branch"} <= set(
        ARGUMENTS
    )
    for name in ("list_runs", "get_command_logs", "suspend_schedule", "retry_run", "retry_from_failure"):
        assert callable(getattr(ParadimeHook, name)) and callable(getattr(ParadimeHook, f"a{name}"))


# trigger operator: does not wait, no deferral, no state, no link


@pytest.mark.parametrize("deferrable", [False, True])
def test_trigger_operator_waits_and_gives_a_link(sim: Simulator, context: Context, deferrable: bool) -> None:
    run_id = run(task(deferrable=deferrable), context)
    assert ParadimeHook().get_run(run_id).state is RunState.SUCCEEDED
    assert context["ti"].pushed["run_url"].endswith(f"/bolt/run_id/{run_id}")
    assert context["task_state_store"]["run"]["run_id"] == run_id


# sensor: not deferrable


def test_sensor_can_defer(sim: Simulator, context: Context) -> None:
    with pytest.raises(TaskDeferred) as pause:
        sensor(start(), deferrable=True).execute(context)
    assert type(pause.value.trigger).__name__ == "ParadimeRunTrigger"


# states: STARTING fails the task


@pytest.mark.parametrize("deferrable", [False, True])
def test_states_starting_is_no_failure(
    simulators: Callable[..., Simulator],
    monkeypatch: pytest.MonkeyPatch,
    context: Context,
    deferrable: bool,
) -> None:
    connect(monkeypatch, simulators(starting=20.0))
    run_id = start()
    assert ParadimeHook().get_run(run_id).status == "STARTING"
    assert run(sensor(run_id, deferrable=deferrable), context) == run_id


def test_states_unknown_words_neither_fail_nor_pass(
    sim: Simulator,
    context: Context,
    told: Callable[[], str],  # noqa: F811
) -> None:
    sim.plan(system="paradime", outcome="PENDING,null,DEPLOYING,SUCCESS")
    run_id = start()
    assert run(sensor(run_id), context) == run_id
    assert "PENDING" in told()


# errors while polling: one 503, HTML page or reset ends the sensor


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "status", "status": 503},
        {"fault": "html", "status": 200},
        {"fault": "reset_before"},
        {"fault": "errors", "body": "boom"},
        {"fault": "not_ok"},
    ],
    ids=lambda fault: str(fault["fault"]),
)
def test_errors_while_polling_are_ridden_out(
    sim: Simulator,
    context: Context,
    fault: dict[str, Any],
    deferrable: bool,
) -> None:
    run_id = start()
    sim.fault(**fault, system="paradime", operation="get", times=2)
    assert run(sensor(run_id, deferrable=deferrable), context) == run_id
    assert sim.count("paradime", "get") > 2


# cancel: no on_kill


def test_cancel_when_a_person_ends_the_task(
    sim: Simulator,
    context: Context,
    later: Callable[..., None],  # noqa: F811
) -> None:
    made = task("slow")

    def end() -> None:
        context["ti"].state = "failed"
        made.on_kill()

    later(0.8, end)
    with pytest.raises(Interrupted):
        made.execute(context)
    (entry,) = sim.runs("paradime")
    assert entry["cancelled"] is True


# Airflow retry: triggers again


def test_airflow_retry_goes_on_with_the_run(sim: Simulator, context: Context) -> None:
    with pytest.raises(TaskDeferred):
        task(deferrable=True).execute(context)
    own = context["task_state_store"]["run"]["run_id"]
    assert run(task(), context) == own
    assert len(sim.runs("paradime")) == 1


# retry_from_failure: takes whatever run is newest, ignores commands and branch


def test_retry_from_failure_is_of_the_tasks_own_run(sim: Simulator, context: Context) -> None:
    ours = {"commands": ["dbt seed", "dbt build -s ours"], "branch": "feature", "retry_from_failure": True}
    sim.plan(system="paradime", resource="daily", outcome="failed", times=1)
    with pytest.raises(RunFailed):
        run(task(**ours), context)
    own = context["task_state_store"]["run"]["run_id"]
    wait(start())
    resumed = run(task(**ours), context)
    entry = next(one for one in sim.runs("paradime") if str(one["id"]) == resumed)
    assert entry["body"]["scheduleRunId"] == int(own)
    assert [one["command"] for one in ParadimeHook().list_commands(resumed)] == ["dbt retry"]


# template fields: branch is not templated


def test_template_fields_hold_every_argument() -> None:
    assert {*ARGUMENTS, "workspace_uid", "paradime_conn_id"} <= set(
        ParadimeTriggerRunOperator.template_fields
    )
    assert {"run_id", "slug", "since", "workspace_uid"} <= set(ParadimeRunSensor.template_fields)


# timeouts: fixed


def test_timeouts_can_be_set(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, sim, extra={"api_key": "key-simulator", "request_timeout": 0.3})
    sim.fault("hang", system="paradime", operation="trigger", seconds=5)
    began = clock.monotonic()
    with pytest.raises(Exception, match="did not answer"):
        start()
    assert clock.monotonic() - began < 4


# extra links: none


def test_extra_links_are_there() -> None:
    for kind in (
        ParadimeTriggerRunOperator,
        ParadimeRetryRunOperator,
        ParadimeRunSensor,
        ParadimeCancelRunOperator,
        ParadimeDownloadArtifactOperator,
    ):
        assert any(isinstance(link, RunLink) for link in kind.operator_extra_links)


# secrets: in extra; the exception holds the whole answer


def test_secrets_are_in_the_password_field_and_in_no_error(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_runs.core.retry.RetryPolicy.wait", lambda *args: 0.0)
    page = "paradime-secret key-simulator company-simulator " * 1000
    sim.fault("status", system="paradime", operation="get", status=500, body=page)
    with pytest.raises(Exception, match="500") as caught:
        ParadimeHook().get_run("76035")
    text = str(caught.value)
    assert len(text) < 500
    assert not [word for word in ("paradime-secret", "key-simulator", "company-simulator") if word in text]


# connection form: no fields, no hidden fields, a lower-case name


def test_connection_form_is_declared() -> None:
    (entry,) = [
        one for one in get_provider_info()["connection-types"] if one["connection-type"] == "paradime_bolt"
    ]
    assert entry["hook-name"] == "Paradime"
    assert {"api_key", "workspace_uid", "proxy", "app_url"} <= set(entry["conn-fields"])
    assert set(entry["ui-field-behaviour"]["hidden-fields"]) == {"schema", "login"}
    assert set(entry["ui-field-behaviour"]["relabeling"]) == {"host", "password"}


# test connection: none


def test_test_connection_works(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ParadimeHook().test_connection()[0] is True
    connect(monkeypatch, sim, password="wrong-secret")
    worked, said = ParadimeHook().test_connection()
    assert not worked and "credentials" in said


# auth: three kinds, clear messages; a missing endpoint is a bare KeyError


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"host": ""}, "the host is not set"),
        ({"password": ""}, "the API secret or token is not set"),
        ({"extra": {}}, "needs its API key"),
        ({"password": "prdm_cmp_simulator"}, "needs a workspace_uid"),
    ],
)
def test_auth_what_is_missing_is_said(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    connect(monkeypatch, sim, **changes)
    with pytest.raises(BadInput, match=said):
        ParadimeHook().get_run("76035")
    with pytest.raises(RequestRefused, match=said):
        task().execute({"ti": FakeTaskInstance(), "task_state_store": Store()})


# several workspaces: on task or connection, templated


def test_several_workspaces_by_task_or_connection(
    sim: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    context: Context,
) -> None:
    extra = {"workspace_uid": "ws-main"}
    connect(monkeypatch, sim, password="prdm_cmp_simulator", extra=extra)
    run(task(workspace_uid="ws-other"), context)
    run(task(), {**context, "task_state_store": Store()})
    assert [one["scope"]["workspace"] for one in sim.runs("paradime")] == ["ws-other", "ws-main"]
    with pytest.raises(Unauthorized):
        ParadimeHook(workspace_uid="ws-nothing").get_run("76035")


# Airflow 3: no typed package (that deprecated imports warn: tests/test_layers.py)


def test_airflow_3_the_package_is_typed() -> None:
    from importlib.resources import files

    assert files(airflow_provider_runs).joinpath("py.typed").is_file()


# metadata: light; no SDK of the vendor


def test_metadata_needs_no_sdk_of_the_vendor() -> None:
    script = (
        "import sys, airflow_provider_runs.paradime.operators\n"
        "print([name for name in sys.modules if name in ('paradime', 'polars', 'pyarrow')])"
    )
    shown = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    assert shown.stdout.splitlines()[-1] == "[]"
