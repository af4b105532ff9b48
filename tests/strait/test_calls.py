"""Strait's calls through both HTTP libraries, against the simulator: each method and its twin."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Callable
from contextlib import aclosing, closing
from typing import Any

import pytest

from airflow_provider_runs.core import clock
from airflow_provider_runs.core.errors import ApiError, BadInput, NotFound, Unauthorized
from airflow_provider_runs.core.run import Run, RunState
from airflow_provider_runs.core.sse import Event
from airflow_provider_runs.simulator import Simulator
from airflow_provider_runs.strait.hooks import StraitHook, as_strait
from tests.simulators import Simulators

Call = Callable[..., Any]
PROJECT = "project-simulator"


def connect(monkeypatch: pytest.MonkeyPatch, url: str, **changes: Any) -> None:
    """Make it the connection that is used by default."""
    fields = {"conn_type": "strait", "host": url, "password": "strait_simulator", **changes}
    fields["extra"] = {"project_id": PROJECT, "max_requests_per_minute": 60_000, **changes.get("extra", {})}
    monkeypatch.setenv("AIRFLOW_CONN_STRAIT_DEFAULT", json.dumps(fields))


@pytest.fixture(params=["today", "seed"])
def sim(simulators: Simulators, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    """Return a simulator of today's server, and one of the server that the vendor's reference describes."""
    simulator = simulators(["strait"], speed=20, options={"strait": {"era": request.param}})
    connect(monkeypatch, simulator.url_of("strait"))
    return simulator


@pytest.fixture(params=["requests", "aiohttp"])
def call(request: pytest.FixtureRequest) -> Call:
    """Return a function that calls a method of a hook by one of the libraries."""

    def synchronous(name: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(StraitHook(), name)(*args, **kwargs)

    def asynchronous(name: str, *args: Any, **kwargs: Any) -> Any:
        async def run() -> Any:
            async with StraitHook() as hook:
                return await getattr(hook, f"a{name}")(*args, **kwargs)

        return asyncio.run(run())

    return synchronous if request.param == "requests" else asynchronous


def until(run_id: str, *states: RunState, seconds: float = 20) -> Run:
    give_up = clock.monotonic() + seconds
    while (seen := StraitHook().get_run(run_id)).state not in states:
        assert clock.monotonic() < give_up, seen
        clock.sleep(0.03)
    return seen


ENDED = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


def asked(sim: Simulator) -> int:
    counts: Any = sim.requests()["counts"]
    return sum(entry["count"] for entry in counts)


def started(job: str, *, executing: bool = False, **arguments: Any) -> Run:
    run = StraitHook().trigger_run(job, **arguments)
    return until(run.id, RunState.RUNNING) if executing else run


def test_every_method_has_its_twin() -> None:
    own = {name: method for name, method in vars(StraitHook).items() if inspect.isfunction(method)}
    public = {name for name in own if not name.startswith("_")}
    twins = {name for name in public if f"a{name}" in public}
    assert public - twins - {f"a{name}" for name in twins} == {"trigger_run", "run_url"}
    for name in twins:
        mine, other = inspect.signature(own[name]), inspect.signature(own[f"a{name}"])
        assert mine.parameters == other.parameters


def test_a_run_from_start_to_end(sim: Simulator, call: Call) -> None:
    run = started("daily", payload={"a": 1}, tags={"team": "a"}, priority=3, concurrency_key="c")
    assert until(run.id, *ENDED).state is RunState.SUCCEEDED
    details = call("get_details", run.id)
    assert (details["status"], details["payload"], details["priority"]) == ("completed", {"a": 1}, 3)
    assert details["tags"]["team"] == "a" and details["tags"]["airflow_provider_runs"] == "strait_default"
    assert call("list_events", run.id) and isinstance(call("list_outputs", run.id), list)
    assert call("get_debug_bundle", run.id)["run"]["id"] == run.id
    assert [one.id for one in call("list_lineage", run.id)] == [run.id]
    assert call("get_dependency_status", run.id)["dependencies_satisfied"] is True
    assert call("list_runs", "daily", limit=1)[0].id == run.id
    assert [one.id for one in call("list_runs", status="completed", tag_key="team", tag_value="a")] == [
        run.id
    ]
    for name in ("list_children", "list_checkpoints", "list_usage", "list_tool_calls", "get_state"):
        assert isinstance(call(name, run.id), list)


def test_a_key_starts_one_run(sim: Simulator) -> None:
    hook = StraitHook()
    first = hook.trigger_run("slow", idempotency_key="key-1")
    again = hook.trigger_run("slow", idempotency_key="key-1")
    assert first.id == again.id and len(sim.runs("strait")) == 1
    assert hook.trigger_run("slow", idempotency_key="key-2").id != first.id


def test_a_run_is_paused_resumed_and_restarted(sim: Simulator, call: Call) -> None:
    run = started("slow", executing=True)
    assert call("pause_run", run.id).status == "paused"
    assert call("resume_run", run.id).status == "queued"
    until(run.id, RunState.RUNNING)
    assert call("restart_run", run.id).status == "queued"
    until(run.id, RunState.RUNNING)
    call("set_debug_mode", run.id, True)
    assert call("get_details", run.id)["debug_mode"] is True
    call("cancel_run", run.id)
    assert until(run.id, *ENDED).status == "canceled"
    call("cancel_run", run.id)
    with pytest.raises(ApiError, match=f"pausing run {run.id}"):
        call("pause_run", run.id)


def test_a_run_is_rescheduled(sim: Simulator, call: Call) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(clock.time() + 3600))
    run = started("daily", scheduled_at=at)
    assert run.status == "delayed"
    later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(clock.time() + 7200))
    assert call("reschedule_run", run.id, later, {"b": 2}).status == "delayed"
    assert call("get_details", run.id)["scheduled_at"].startswith(later[:16])
    canceled = call("bulk_cancel_all_runs", job_id="daily")
    assert (canceled["canceled"], canceled["run_ids"], canceled["failed"]) == (1, [run.id], [])


def test_a_dead_letter_goes_again(sim: Simulator, call: Call) -> None:
    run = started("mended")
    dead = until(run.id, *ENDED)
    assert (dead.status, dead.state) == ("dead_letter", RunState.FAILED)
    assert [one.id for one in call("list_dlq_runs")] == [run.id]
    assert StraitHook().explain_run(run.id)
    assert call("retry_run", run.id).id == run.id
    # GET goes on with the end that it has told, for minutes; a list does not.
    assert until(run.id, RunState.SUCCEEDED).finished_at != dead.finished_at


def test_a_replayed_dead_letter_can_be_cancelled(sim: Simulator, call: Call) -> None:
    sim.plan(system="strait", resource="slow", outcome="dead_letter,completed", duration=20)
    run = started("slow")
    assert until(run.id, *ENDED).status == "dead_letter"
    call("dlq_replay_run", run.id)
    call("cancel_run", run.id)
    assert until(run.id, *ENDED).status == "canceled"


def test_many_dead_letters_go_again(sim: Simulator, call: Call) -> None:
    runs = [started("mended") for _ in range(2)]
    for run in runs:
        until(run.id, *ENDED)
    assert [run.id for run in call("bulk_dlq_replay_runs", [runs[0].id])] == [runs[0].id]
    assert [run.id for run in call("bulk_dlq_replay_runs", project_id=PROJECT, limit=5)] == [runs[1].id]


def test_a_failed_run_is_replayed_as_another(sim: Simulator, call: Call) -> None:
    sim.plan(system="strait", outcome="failed")
    run = started("daily", payload={"a": 1}, idempotency_key="key-1")
    assert until(run.id, *ENDED).status == "failed"
    before = clock.time()
    new = call("replay_run", run.id)
    assert new.id != run.id and StraitHook().get_details(new.id)["payload"] == {"a": 1}
    found = StraitHook().find_retried(run.id, {}, before)
    assert found is not None and found.id == new.id
    (told,) = call("bulk_replay_runs", [run.id])
    assert told["status"] == "replayed" and told["new_run_id"] not in (run.id, new.id)


def test_runs_are_cancelled_together(sim: Simulator, call: Call) -> None:
    runs = [started("slow").id for _ in range(3)]
    told = call("bulk_cancel_runs", [*runs, "nope"])
    assert (told["total"], told["canceled"], told["failed"]) == (4, 3, 1)


def test_a_job_is_found_by_id_and_slug(sim: Simulator, call: Call) -> None:
    job = call("get_job", "daily")
    assert call("get_job", job["id"]) == job
    with pytest.raises(NotFound):
        call("get_job", "nope")
    with pytest.raises(NotFound, match="starting job 'nope'"):
        started("nope")


def test_a_start_is_checked_only(sim: Simulator, call: Call) -> None:
    told = call("dry_run", "daily", {"a": 1}, tags={"t": "1"}, priority=1, ttl_secs=60, concurrency_key="c")
    assert told["job"]["slug"] == "daily" and sim.runs("strait") == []


def test_a_gathered_start_has_no_id(sim: Simulator) -> None:
    with pytest.raises(ApiError, match="allow_no_run_id"):
        started("debounced")
    assert StraitHook().trigger_run("debounced", debounce_key="d", allow_no_run_id=True).status == "debounced"
    assert StraitHook().trigger_run("batched", batch_key="b", allow_no_run_id=True).status == "buffered"


def test_a_key_is_forgotten(sim: Simulator, call: Call) -> None:
    run = started("daily", idempotency_key="k")
    until(run.id, *ENDED)
    call("reset_idempotency_key", run.id)
    with pytest.raises(NotFound, match="resetting the idempotency key of run nope"):
        call("reset_idempotency_key", "nope")


def test_a_live_stream_tells_of_the_end(monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    with Simulator(["strait"], speed=4) as simulator:
        connect(monkeypatch, simulator.url_of("strait"))
        run = started("slow", executing=True)
        StraitHook().get_run(run.id)

        def ends(event: Event) -> bool:
            return json.loads(event.data).get("to") == "completed"

        async def follow() -> list[Event]:
            seen: list[Event] = []
            async with StraitHook() as hook, aclosing(hook.astream_run(run.id)) as events:
                async for event in events:
                    seen.append(event)
                    if ends(event):
                        break
            return seen

        if call.__name__ == "asynchronous":
            seen = asyncio.run(asyncio.wait_for(follow(), 30))
        else:
            seen = []
            with closing(StraitHook().stream_run(run.id)) as events:
                for event in events:
                    seen.append(event)
                    if ends(event):
                        break
        assert ends(seen[-1])
        assert StraitHook().get_run(run.id).state is RunState.SUCCEEDED
        with pytest.raises(ApiError, match="410") as caught:
            next(StraitHook().stream_chunks(run.id))
        assert caught.value.status == 410

        async def chunks() -> None:
            async with StraitHook() as hook:
                async for _ in hook.astream_chunks(run.id):
                    raise AssertionError

        with pytest.raises(ApiError, match="410"):
            asyncio.run(chunks())


def test_a_wrong_key_is_refused(sim: Simulator, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    connect(monkeypatch, sim.url_of("strait"), password="strait_wrong")
    with pytest.raises(Unauthorized, match="Check the API key of connection 'strait_default'"):
        call("list_runs")
    good, said = StraitHook().test_connection()
    assert not good and "API key" in said


def test_the_test_button(sim: Simulator) -> None:
    assert StraitHook().test_connection()[0]
    assert StraitHook(project_id="other").api.scope == {"project_id": "other"}
    assert StraitHook().run_url("r1") is None


def test_bad_input_reaches_nobody(sim: Simulator) -> None:
    for name, arguments in (
        ("list_runs", {"since": "yesterday"}),
        ("list_runs", {"limit": 0}),
        ("list_dlq_runs", {"limit": "x"}),
        ("bulk_cancel_all_runs", {}),
    ):
        with pytest.raises(BadInput):
            getattr(StraitHook(), name)(**arguments)
    assert asked(sim) == 0


def test_many_runs_are_asked_about_by_lists(sim: Simulator) -> None:
    sim.plan(system="strait", resource="slow", duration=6000)
    hook = StraitHook()
    going = [started("slow").id for _ in range(20)]
    quick = [started("daily").id for _ in range(20)]
    for run_id in quick:
        until(run_id, *ENDED)
    before = asked(sim)
    found = hook.drive(lambda api: as_strait(api).get_many([*going, *quick]))
    assert set(found) == {*going, *quick}
    states = {run_id: run.state for run_id, run in found.items() if isinstance(run, Run)}
    assert all(states[run_id] is RunState.SUCCEEDED for run_id in quick)
    assert all(not states[run_id].is_terminal for run_id in going)
    assert asked(sim) - before <= 2
