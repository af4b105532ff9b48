"""Paradime's calls through both HTTP libraries, against the simulator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_runs.core import clock
from airflow_provider_runs.core.errors import ApiError, ConnectionFailed, NotFound, Unauthorized
from airflow_provider_runs.core.run import Run, RunState
from airflow_provider_runs.paradime.answers import BadAnswer, FieldFailed, Rejected
from airflow_provider_runs.paradime.hooks import ParadimeHook
from airflow_provider_runs.simulator import Simulator
from tests.core.conftest import Wire, reply, wire  # noqa: F401
from tests.paradime.conftest import connect, connection

Call = Callable[..., Any]


@pytest.fixture(params=["requests", "aiohttp"])
def call(request: pytest.FixtureRequest) -> Call:
    """Return a function that calls a method of a hook by one of the libraries."""

    def synchronous(name: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(ParadimeHook(), name)(*args, **kwargs)

    def asynchronous(name: str, *args: Any, **kwargs: Any) -> Any:
        async def run() -> Any:
            async with ParadimeHook() as hook:
                return await getattr(hook, f"a{name}")(*args, **kwargs)

        return asyncio.run(run())

    return synchronous if request.param == "requests" else asynchronous


def start(slug: str = "daily", **arguments: Any) -> Run:
    return ParadimeHook().trigger_run(slug, **arguments)


def ended(run: Run) -> Run:
    until = clock.monotonic() + 20
    while not (seen := ParadimeHook().get_run(run.id)).state.is_terminal:
        assert clock.monotonic() < until
        clock.sleep(0.05)
    return seen


def test_a_run_from_start_to_end(sim: Simulator, call: Call) -> None:
    run = start(reason="why", branch="main")
    assert call("get_run", run.id).status in ("STARTING", "RUNNING")
    assert ended(run).state is RunState.SUCCEEDED
    (entry,) = sim.runs("paradime")
    assert entry["body"] == {
        "mutation": "triggerBoltRun",
        "slug": "daily",
        "reason": "why",
        "branch": "main",
    }
    assert [one["command"] for one in call("list_commands", run.id)][-2:] == ["dbt run", "dbt test"]
    files = call("list_resources", run.id)
    assert {"target/manifest.json", "target/run_results.json"} <= {one["path"] for one in files}
    details = call("get_command", files[0]["command_id"])
    assert str(details["scheduleRunId"]) == run.id and details["returnCode"] == 0
    logs = call("get_command_logs", files[0]["command_id"])
    assert logs.finished and logs.lines and logs.cursor != "0:0"
    assert "X-Amz-Signature" in call("get_resource_url", files[0]["id"])
    assert call("list_runs", "daily", limit=1)[0].id == run.id


def test_the_arguments_of_a_start(sim: Simulator) -> None:
    ParadimeHook().trigger_run(
        schedule_name="daily",
        command_configs=[{"command": "dbt run", "continue_on_error": True}],
        pr_number=3,
        continue_on_error=True,
    )
    assert sim.runs("paradime")[0]["body"] == {
        "mutation": "triggerBoltRun",
        "scheduleName": "daily",
        "commandConfigs": [{"command": "dbt run", "continueOnError": True}],
        "prNumber": 3,
        "continueOnError": True,
    }


def test_a_run_is_cancelled(sim: Simulator, call: Call) -> None:
    run = start("slow")
    assert call("cancel_and_confirm", run.id, 10).state is RunState.CANCELLED
    call("cancel_run", run.id)


def test_a_failed_run_is_retried_and_explained(sim: Simulator, call: Call) -> None:
    run = ended(start("broken"))
    assert run.state is RunState.FAILED
    said = ParadimeHook().explain_run(run.id)
    assert said is not None and "dbt build" in said and 'relation "raw.orders" does not exist' in said
    assert call("retry_run", run.id).id not in ("", run.id)
    assert call("retry_run", run.id, all_commands=True).id != run.id
    with pytest.raises(ApiError, match="only an ended run can be retried"):
        call("retry_run", start("slow").id)


def test_the_newest_run_is_retried_whoever_started_it(sim: Simulator, call: Call) -> None:
    ended(start("broken"))
    assert call("retry_from_failure", "broken").id


def test_schedules(sim: Simulator, call: Call) -> None:
    slugs = {one["slug"] for one in call("list_schedules")}
    assert {"daily", "broken"} <= slugs and "retired" not in slugs
    assert "retired" in {one["slug"] for one in call("list_schedules", show_inactive=True)}
    assert call("get_schedule", "daily")["commands"] == ["dbt run", "dbt test"]
    call("suspend_schedule", "nightly-build", suspend=False)
    assert call("get_schedule", "nightly-build")["suspended"] is False
    with pytest.raises(NotFound):
        call("get_schedule", "nothing")


@pytest.mark.parametrize(
    ("password", "extra", "workspace"),
    [
        ("paradime-secret", {"api_key": "key-simulator"}, None),
        ("prdm_wsp_simulator", {}, None),
        ("prdm_cmp_simulator", {"workspace_uid": "ws-other"}, None),
        ("prdm_cmp_simulator", {"workspace_uid": "ws-main"}, "ws-other"),
    ],
)
def test_all_kinds_of_secret(
    sim: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    password: str,
    extra: dict[str, str],
    workspace: str | None,
) -> None:
    connect(monkeypatch, sim, password=password, extra=extra)
    hook = ParadimeHook(workspace_uid=workspace)
    worked, said = hook.test_connection()
    assert worked and "active schedules" in said
    hook.trigger_run("daily")
    expected = "ws-other" if "cmp" in password else "ws-main"
    assert sim.runs("paradime")[0]["scope"] == {"workspace": expected}


def test_a_connection_made_for_the_vendors_provider_works(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = connection(sim)
    extra = {
        "api_endpoint": ours["host"],
        "api_secret": "prdm_cmp_simulator",
        "workspace_uid": "ws-other",
        "proxy": "none",
    }
    vendors = {"conn_type": "paradime", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_PARADIME_CONN_DEFAULT", json.dumps(vendors))
    assert ParadimeHook("paradime_conn_default").trigger_run("daily").id


def test_wrong_credentials(sim: Simulator, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    connect(monkeypatch, sim, password="wrong-secret")
    with pytest.raises(Unauthorized, match="Check the credentials") as caught:
        call("get_run", "76035")
    assert "wrong-secret" not in str(caught.value)
    worked, said = ParadimeHook().test_connection()
    assert not worked and "wrong-secret" not in said


def test_a_wrong_endpoint_is_said_without_its_token(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    host = connection(sim)["host"].replace("company-simulator", "planted-token")
    connect(monkeypatch, sim, host=host)
    with pytest.raises(ApiError, match="Check the endpoint") as caught:
        call("get_run", "76035")
    assert "planted-token" not in str(caught.value)


def test_a_host_that_does_not_answer_is_named_without_the_token(
    monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    fields = {
        "conn_type": "paradime_bolt",
        "host": "http://127.0.0.1:9/api/v1/planted-token/graphql",
        "password": "prdm_wsp_1",
    }
    monkeypatch.setenv("AIRFLOW_CONN_PARADIME_DEFAULT", json.dumps(fields))
    monkeypatch.setattr("airflow_provider_runs.core.retry.RetryPolicy.wait", lambda *args: 0.0)
    with pytest.raises(ConnectionFailed, match=r"POST /api/v1/\*\*\*/graphql") as caught:
        call("get_run", "5")
    assert not caught.value.sent
    assert "planted-token" not in str(caught.value)


FAULTS: list[tuple[dict[str, Any], type, str]] = [
    ({"fault": "html", "status": 200}, BadAnswer, "no GraphQL"),
    ({"fault": "not_json"}, BadAnswer, "no GraphQL"),
    ({"fault": "empty"}, BadAnswer, "no GraphQL"),
    ({"fault": "status", "status": 503}, ApiError, "503"),
    ({"fault": "errors", "body": "boom"}, FieldFailed, "boom"),
    ({"fault": "not_ok"}, Rejected, "ok: false"),
]


@pytest.mark.parametrize(("fault", "kind", "said"), FAULTS, ids=[one[0]["fault"] for one in FAULTS])
def test_faults_of_a_query(
    sim: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    call: Call,
    fault: dict[str, Any],
    kind: type,
    said: str,
) -> None:
    monkeypatch.setattr("airflow_provider_runs.core.retry.RetryPolicy.wait", lambda *args: 0.0)
    sim.fault(**fault, system="paradime", operation="get")
    with pytest.raises(kind, match=said):
        call("get_run", "76035")


def test_an_empty_list_of_errors_is_no_error(sim: Simulator, call: Call) -> None:
    sim.fault("errors", system="paradime", operation="get", body=[])
    assert call("get_run", "76035").status == "SUCCESS"


@pytest.mark.parametrize("fault", ["reset_before", "status", "html"])
def test_a_query_is_asked_again(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch, call: Call, fault: str
) -> None:
    monkeypatch.setattr("airflow_provider_runs.core.retry.RetryPolicy.wait", lambda *args: 0.0)
    sim.fault(fault, system="paradime", operation="get", status=503, times=2)
    assert call("get_run", "76035").status == "SUCCESS"
    assert sim.count("paradime", "get") == 3


@pytest.mark.parametrize(
    ("fault", "runs"),
    [
        ({"fault": "reset_after"}, 1),
        ({"fault": "status", "status": 504, "acts": True}, 1),
        ({"fault": "status", "status": 503}, 0),
        ({"fault": "html", "status": 200, "acts": True}, 1),
    ],
    ids=lambda one: one.get("fault") if isinstance(one, dict) else "",
)
def test_a_start_is_not_sent_again_when_its_answer_is_lost(
    sim: Simulator, fault: dict[str, Any], runs: int
) -> None:
    sim.fault(**fault, system="paradime", operation="trigger")
    with pytest.raises((ApiError, ConnectionFailed)) as caught:
        start()
    assert not getattr(caught.value, "permanent", False)
    assert sim.count("paradime", "trigger") == 1
    assert len(sim.runs("paradime")) == runs


def test_a_start_is_sent_again_where_it_was_surely_not_carried_out(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_runs.core.retry.RetryPolicy.wait", lambda *args: 0.0)
    sim.fault("status", system="paradime", operation="trigger", status=429, times=2)
    assert start().id
    assert len(sim.runs("paradime")) == 1


def test_an_older_server_starts_by_the_older_name_and_without_a_reason(
    simulators: Callable[..., Simulator], monkeypatch: pytest.MonkeyPatch
) -> None:
    lacks = "triggerBoltRun.slug,reason,prNumber,commandConfigs,continueOnError,BoltScheduleDetails.suspended"
    old = simulators(lacks=lacks)
    connect(monkeypatch, old)
    hook = ParadimeHook()
    for _ in range(2):
        assert hook.trigger_run(schedule_name="daily", reason="why").id
    assert old.count("paradime", "trigger") == 3
    assert [entry["body"].get("reason") for entry in old.runs("paradime")] == [None, None]
    assert hook.get_schedule(schedule_name="daily")["commands"]
    with pytest.raises(ApiError, match="Unknown argument 'slug'"):
        hook.trigger_run("daily")


@pytest.mark.parametrize("proxy", ["none", None])
def test_no_proxy_of_its_own_means_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
    wire: Callable[..., Wire],  # noqa: F811
    call: Call,
    proxy: str | None,
) -> None:
    seen = _through(monkeypatch, wire, call, {"proxy": proxy}, environment=True)
    assert seen == ["http://api.testing.invalid/api/v1/planted-token/graphql"]


def test_the_connections_proxy_is_used(
    monkeypatch: pytest.MonkeyPatch,
    wire: Callable[..., Wire],  # noqa: F811
    call: Call,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "*")
    seen = _through(monkeypatch, wire, call, {}, environment=False)
    assert seen == ["http://api.testing.invalid/api/v1/planted-token/graphql"]


def _through(
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[..., Wire],
    call: Call,
    extra: Any,
    *,
    environment: bool,
) -> list[str]:
    proxy = serve(reply(200, {"data": {"boltRunStatus": {"ok": True, "state": "RUNNING"}}}))
    if environment:
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
    else:
        extra = {**extra, "proxy": proxy.url}
    fields = {
        "conn_type": "paradime_bolt",
        "host": "http://api.testing.invalid/api/v1/planted-token/graphql",
        "password": "prdm_wsp_1",
        "extra": extra,
    }
    monkeypatch.setenv("AIRFLOW_CONN_PARADIME_DEFAULT", json.dumps(fields))
    assert call("get_run", "5").status == "RUNNING"
    return proxy.targets
