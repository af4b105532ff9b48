"""The vendor's own, unmodified SDK against the simulated Strait.

It proves that the simulator satisfies what the SDK sends and expects, and shows what the SDK gets wrong. To
be run in an environment that has strait-python, pytest, aiohttp and requests (``constraints/strait.txt``) and
no Airflow.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from airflow_provider_runs.simulator import Simulator
from airflow_provider_runs.strait.simulated import JOBS, job_id

Make = Callable[..., Any]
IDS = {job.slug: job_id(number) for number, job in enumerate(JOBS, 1)}
NEVER = "01900000-0000-7000-8000-999999999999"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients know nothing but their arguments."""
    for name in list(os.environ):
        if name.startswith("STRAIT_"):
            monkeypatch.delenv(name)


def served(**options: Any) -> Simulator:
    return Simulator(["strait"], speed=50, options={"strait": {"cache_seconds": 0, **options}})


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with served() as simulator:
        yield simulator


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Make:
    from strait import Client

    def client(sim: Simulator, **options: Any) -> Any:
        found = Client(**{"base_url": sim.url_of("strait"), "api_key": "strait_simulator", **options})
        request.addfinalizer(found.close)
        return found

    return client


@pytest.fixture
def client(sim: Simulator, make: Make) -> Any:
    return make(sim)


def start(client: Any, slug: str = "daily", **body: Any) -> str:
    return str(client.jobs.trigger(IDS[slug], body)["id"])


def wait_for(client: Any, run_id: str, *, delay: int = 20) -> Any:
    """Wait with the SDK's own helper, which looks more often than by default."""
    from strait.composition import WaitForRunOptions, wait_for_run

    options = WaitForRunOptions(timeout_ms=20_000, initial_delay_ms=delay, max_delay_ms=100)
    return wait_for_run(client.runs.get, lambda run: run["status"], run_id, options)


def ended(client: Any, slug: str = "daily", **body: Any) -> str:
    run_id = start(client, slug, **body)
    wait_for(client, run_id)
    return run_id


def test_no_airflow_here() -> None:
    """The simulator works where Airflow is not installed."""
    with pytest.raises(ModuleNotFoundError):
        import airflow  # noqa: F401


@pytest.mark.parametrize("way", ["api_key", "bearer_token", "run_token"])
def test_trigger_and_wait(sim: Simulator, make: Make, way: str) -> None:
    """All ways to log in send the same header."""
    from strait.composition import WaitForRunOptions, trigger_and_wait

    client = make(sim, **{"api_key": None, way: "strait_simulator"})
    run = trigger_and_wait(
        lambda body: client.jobs.trigger(IDS["daily"], body),
        client.runs.get,
        lambda run: run["id"],
        lambda run: run["status"],
        {"payload": {"a": 1}, "tags": {"team": "x"}},
        WaitForRunOptions(initial_delay_ms=20),
    )
    assert (run["status"], run["result"], run["tags"]) == ("completed", {"a": 1}, {"team": "x"})
    assert sim.runs()[0]["body"] == {"payload": {"a": 1}, "tags": {"team": "x"}}


def test_from_the_environment(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    from strait import Client

    monkeypatch.setenv("STRAIT_BASE_URL", sim.url_of("strait") + "/")
    monkeypatch.setenv("STRAIT_API_KEY", "strait_simulator")
    with Client.from_env() as client:
        assert client.runs.list() == {"data": [], "has_more": False}


def test_the_asynchronous_client(sim: Simulator) -> None:
    from strait import AsyncClient
    from strait.composition import WaitForRunOptions, wait_for_run_async

    async def run() -> Any:
        async with AsyncClient(base_url=sim.url_of("strait"), api_key="strait_simulator") as client:
            run_id = (await client.jobs.trigger(IDS["daily"], {"payload": 1}))["id"]
            options = WaitForRunOptions(initial_delay_ms=20)
            return await wait_for_run_async(client.runs.get, lambda found: found["status"], run_id, options)

    assert asyncio.run(run())["result"] == 1


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        ("succeeded", "completed"),
        ("failed", "failed"),
        ("cancelled", "canceled"),
        ("timed_out", "timed_out"),
        ("crashed", "crashed"),
        ("system_failed", "system_failed"),
        ("expired", "expired"),
        ("dead_letter", "dead_letter"),
    ],
)
def test_ends(sim: Simulator, client: Any, outcome: str, status: str) -> None:
    """The SDK's helper takes each for an end, its state machine all but a dead letter."""
    from strait.fsm import is_terminal_run_status

    sim.plan(outcome=outcome, ends_at_once=True)
    run = wait_for(client, start(client))
    assert run["status"] == status
    assert is_terminal_run_status(status) is (status != "dead_letter")


@pytest.mark.parametrize("outcome", ["paused", "replay_staged"])
def test_what_the_helper_waits_on(sim: Simulator, client: Any, outcome: str) -> None:
    from strait import StraitTimeoutError
    from strait.composition import WaitForRunOptions, wait_for_run

    sim.plan(outcome=outcome, ends_at_once=True)
    options = WaitForRunOptions(timeout_ms=200, initial_delay_ms=50)
    with pytest.raises(StraitTimeoutError):
        wait_for_run(client.runs.get, lambda run: run["status"], start(client), options)


# Every method of runs


def test_list_and_pages(client: Any) -> None:
    from strait.composition import PaginatedResponse, collect_all, paginate

    ids = [start(client) for _ in range(5)][::-1]

    def page(query: Any) -> Any:
        asked = {"limit": "2", **({"cursor": query.cursor} if query.cursor else {})}
        answer = client.runs.list(query=asked)
        return PaginatedResponse(
            data=answer["data"], next_cursor=answer.get("next_cursor", ""), has_more=answer["has_more"]
        )

    assert [run["id"] for run in collect_all(paginate(page))] == ids
    done = {"statuses": ["completed", "failed"], "tag_key": "none"}
    assert client.runs.list(query=done)["data"] == []


def test_cancel(sim: Simulator, client: Any) -> None:
    from strait import ApiError

    sim.plan(outcome="stuck")
    run_id = start(client)
    assert client.runs.delete(run_id)["status"] == "canceled"
    with pytest.raises(ApiError) as caught:
        client.runs.delete(run_id)
    assert caught.value.status == 400
    assert caught.value.body["error"]["message"] == "run already in terminal state"
    others = [start(client), NEVER]
    body = client.runs.bulk_cancel({"run_ids": others})
    assert (body["total"], body["canceled"], body["failed"]) == (2, 1, 1)
    sim.plan(queued=1000)
    waiting = start(client, "slow")
    assert client.runs.bulk_cancel_all({"job_id": IDS["slow"]}) == {"canceled": 1, "run_ids": [waiting]}


def test_replays(sim: Simulator, client: Any) -> None:
    from strait import ConflictError

    sim.plan(resource="daily", outcome="failed,completed")
    failed = ended(client)
    assert wait_for(client, client.runs.replay(failed)["id"])["status"] == "completed"
    body = client.runs.bulk_replay({"run_ids": [failed, NEVER]})
    assert [row["status"] for row in body["results"]] == ["replayed", "failed"]
    dead = ended(client, "mended")
    assert [run["id"] for run in client.runs.get_dlq(query={"limit": "1"})["data"]] == [dead]
    assert client.runs.dlq_replay(dead)["id"] == dead
    assert wait_for(client, dead)["status"] == "completed"
    with pytest.raises(ConflictError):
        client.runs.dlq_replay(dead)
    dead = ended(client, "mended")
    assert client.runs.bulk_dlq_replay({"run_ids": [dead]})["count"] == 1


def test_what_a_run_leaves(client: Any) -> None:
    parent, agent = ended(client, "fan-out"), ended(client, "agent")
    assert len(client.runs.get_children(parent)["data"]) == 3
    assert [row["sequence"] for row in client.runs.list_checkpoints(agent)["data"]] == [3, 2, 1]
    assert {event["type"] for event in client.runs.list_events(agent)["data"]} == {
        "state_change",
        "log",
        "progress",
    }
    outputs = client.runs.list_outputs(ended(client))["data"]
    assert [row["output_key"] for row in outputs] == ["ok", "report"]
    assert [run["id"] for run in client.runs.get_lineage(agent)["data"]] == [agent]
    assert client.runs.get_debug_bundle(agent)["run"]["id"] == agent


def test_reschedule_and_key(sim: Simulator, client: Any) -> None:
    sim.plan(queued=1000)
    run_id = start(client)
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert client.runs.reschedule(run_id, {"scheduled_at": later})["status"] == "delayed"
    assert client.runs.delete_idempotency_key(run_id) == {"status": "reset", "run_id": run_id}


def test_the_methods_that_miss_their_route(client: Any) -> None:
    """The service has neither: debug is a POST, dependencies are at dependency-status."""
    from strait import ApiError, NotFoundError

    run_id = start(client)
    with pytest.raises(ApiError, match=rf"^HTTP 405: GET /v1/runs/{run_id}/debug$"):
        client.runs.debug(run_id)
    assert client.do_request("POST", f"/v1/runs/{run_id}/debug", body={"debug_mode": True}) == {
        "status": "ok"
    }
    with pytest.raises(NotFoundError, match=rf"^HTTP 404: GET /v1/runs/{run_id}/dependencies$"):
        client.runs.list_dependency_status(run_id)
    path = f"/v1/runs/{run_id}/dependency-status"
    assert client.do_request("GET", path)["dependencies_satisfied"] is True


@pytest.mark.parametrize("method", ["get_usage", "list_tool_calls"])
def test_the_methods_that_only_the_seeds_server_has(client: Any, make: Make, method: str) -> None:
    from strait import NotFoundError

    run_id = ended(client, "agent")
    with pytest.raises(NotFoundError):
        getattr(client.runs, method)(run_id)
    with served(era="seed") as older:
        client = make(older)
        assert len(getattr(client.runs, method)(ended(client, "agent"))) == 1


def test_the_seeds_server(make: Make) -> None:
    """Bare arrays are handed through, an empty answer becomes an empty dictionary."""
    from strait import ApiError

    with served(era="seed") as sim:
        client = make(sim)
        run_id = ended(client)
        runs = client.runs.list(query={"project_id": "project-simulator"})
        assert [run["id"] for run in runs] == [run_id]
        with pytest.raises(ApiError) as caught:
            client.runs.list()
        assert caught.value.body["error"] == "project_id is required"
        sim.plan(outcome="stuck")
        assert client.runs.delete(start(client)) == {}


# Jobs, triggers, health


def test_jobs_and_triggers(sim: Simulator, client: Any) -> None:
    from strait import ConflictError, NotFoundError
    from strait.composition import with_idempotency

    assert client.jobs.get(IDS["daily"])["slug"] == "daily"
    assert [job["id"] for job in client.jobs.list(query={"slug": "daily"})["data"]] == [IDS["daily"]]
    with pytest.raises(NotFoundError):
        client.jobs.get("daily")
    with pytest.raises(ConflictError):
        client.jobs.trigger(IDS["paused"], {})
    assert client.jobs.trigger(IDS["daily"], {"dry_run": True})["job"]["slug"] == "daily"
    assert set(client.jobs.trigger(IDS["debounced"], {})) == {"debounced", "fire_at"}
    assert client.jobs.trigger(IDS["batched"], {}) == {"buffered": True}
    body = client.jobs.bulk_trigger(IDS["daily"], {"items": [{"payload": 1}, {"payload": 2}]})
    runs = client.runs.list(query={"batch_id": body["batch_id"]})["data"]
    assert sorted(run["payload"] for run in runs) == [1, 2]
    path = f"/v1/jobs/{IDS['daily']}/trigger"
    first, again = (
        client.do_request("POST", path, headers=with_idempotency({}, "key"), body={}) for _ in range(2)
    )
    assert first == again
    assert client.health.list()["status"] == "ok"


# Streams


def test_stream(sim: Simulator, client: Any) -> None:
    from strait import ApiError

    sim.plan(queued=10, duration=20)
    run_id = start(client)
    told = []
    for data in client.do_stream("GET", f"/v1/runs/{run_id}/stream"):
        told.append(data)
        if data.get("to") == "completed":
            break
    assert [data["type"] for data in told] == ["status_change", *["event"] * 4, "status_change"]
    with pytest.raises(ApiError) as caught:
        list(client.do_stream("GET", f"/v1/runs/{run_id}/stream"))
    assert caught.value.status == 410


def test_the_end_of_a_run_does_not_end_its_stream(make: Make) -> None:
    with served(stream_seconds=1.5, keepalive=0.1) as sim:
        client = make(sim)
        sim.plan(queued=10, duration=10)
        begun = time.monotonic()
        told = list(client.do_stream("GET", f"/v1/runs/{start(client)}/stream"))
        assert told[-1]["to"] == "completed"
        assert time.monotonic() - begun > 1


def test_streams_that_go_wrong(sim: Simulator, make: Make) -> None:
    client = make(sim, timeout_ms=500)
    sim.plan(outcome="stuck", queued=20)
    path = f"/v1/runs/{start(client)}/stream"
    sim.fault("error_frame", operation="stream", times=1)
    assert list(client.do_stream("GET", path)) == [{"error": "failed to subscribe"}]
    sim.fault("silence", operation="stream", times=1)
    with pytest.raises(httpx.ReadTimeout):
        list(client.do_stream("GET", path))
    sim.fault("cut_frame", operation="stream", times=1)
    sim.plan(queued=20)
    with pytest.raises(httpx.RemoteProtocolError):
        list(client.do_stream("GET", f"/v1/runs/{start(client)}/stream"))
    sim.plan(queued=10, duration=10)
    sim.fault("split", operation="stream", times=1)
    for data in client.do_stream("GET", f"/v1/runs/{start(client)}/stream"):
        if data.get("to") == "completed":
            return
    raise AssertionError("the stream ended too early")


# What goes wrong


@pytest.mark.parametrize(("key", "status"), [("strait_wrong", 401), ("other", 401), ("strait-internal", 404)])
def test_refused_credentials(sim: Simulator, make: Make, key: str, status: int) -> None:
    """The internal secret comes in, but without a project it sees nothing."""
    from strait import StraitError

    with pytest.raises(StraitError) as caught:
        make(sim, api_key=key).jobs.trigger(IDS["daily"], {})
    assert caught.value.status == status
    assert sim.runs() == []


def test_the_sdk_does_not_wait_for_a_limit(make: Make) -> None:
    """It asks three times within a second, though the service says 60 seconds."""
    from strait import RateLimitedError

    with served(rate_limit=1) as sim:
        client = make(sim)
        client.runs.list()
        begun = time.monotonic()
        with pytest.raises(RateLimitedError) as caught:
            client.runs.list()
        assert time.monotonic() - begun < 5
        assert caught.value.body is None
        assert sim.count("strait", "list", 429) == 3


def test_the_quota(make: Make) -> None:
    from strait import ApiError

    with served(monthly_runs=1) as sim:
        client = make(sim)
        start(client)
        with pytest.raises(ApiError, match=r"^monthly run limit of 1 reached$") as caught:
            start(client)
        assert (caught.value.status, caught.value.body["code"]) == (402, "quota_exceeded")


def test_a_lost_answer_starts_a_second_run(sim: Simulator, client: Any) -> None:
    """The SDK repeats a trigger without an idempotency key."""
    sim.fault("reset_after", operation="trigger", times=1)
    start(client)
    assert len(sim.runs()) == 2


def test_answers_that_cannot_be_read(sim: Simulator, client: Any) -> None:
    from strait import ApiError, DecodeError, TransportError

    sim.fault("not_json", operation="list", times=1)
    with pytest.raises(DecodeError):
        client.runs.list()
    sim.fault("html", operation="list")
    with pytest.raises(ApiError) as caught:
        client.runs.list()
    assert caught.value.status == 502
    assert sim.count("strait", "list", 502) == 3
    sim.fault("reset_before", operation="get")
    with pytest.raises(TransportError):
        client.runs.get(NEVER)
