"""The simulated Strait: every endpoint in both eras, the rules of a run, limits, faults and streams."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
import requests

from airflow_provider_runs.core import clock
from airflow_provider_runs.simulator import ControlError, Simulator
from airflow_provider_runs.simulator import __main__ as simulator_main
from airflow_provider_runs.strait.simulated import (
    JOBS,
    Job,
    job_id,
    parse_rfc3339,
    payload_hash,
    rfc3339_nano,
    uuid7,
)
from tests.simulators import Simulators

Until = Callable[..., Any]
Json = Any
KEY = {"Authorization": "Bearer strait_simulator"}
IDS = {job.slug: job_id(number) for number, job in enumerate(JOBS, 1)}
NEVER = "01900000-0000-7000-8000-999999999999"


class Service:
    """The simulated service as a caller sees it."""

    def __init__(self, sim: Simulator, headers: dict[str, str] | None = None) -> None:
        self.sim, self.url = sim, sim.url_of("strait")
        self.headers = KEY if headers is None else headers

    def send(self, method: str, path: str, **rest: Any) -> requests.Response:
        headers = {**self.headers, **rest.pop("headers", {})}
        return requests.request(method, self.url + path, headers=headers, timeout=10, **rest)

    def ask(self, method: str, path: str, status: int = 200, **rest: Any) -> Json:
        answer = self.send(method, path, **rest)
        assert answer.status_code == status, answer.text
        return answer.json()

    def refused(self, status: int, method: str, path: str, **rest: Any) -> str:
        """Return the message of today's error."""
        answer = self.send(method, path, **rest)
        assert answer.status_code == status, answer.text
        body = answer.json()
        assert set(body) == {"error", "request_id"}
        return " ".join([body["error"]["message"], *body["error"].get("details", [])])

    def trigger(self, slug: str = "daily", key: str | None = None, **body: Json) -> requests.Response:
        headers = {"Idempotency-Key": key} if key else {}
        return self.send("POST", f"/v1/jobs/{IDS[slug]}/trigger", json=body, headers=headers)

    def start(self, slug: str = "daily", key: str | None = None, **body: Json) -> str:
        answer = self.trigger(slug, key, **body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def get(self, run_id: str) -> dict[str, Json]:
        return dict(self.ask("GET", f"/v1/runs/{run_id}"))

    def listed(self, **query: Json) -> list[dict[str, Json]]:
        return list(self.ask("GET", "/v1/runs", params=query)["data"])

    def status(self, run_id: str) -> str:
        """Return the status that the list knows, which no copy hides."""
        (run,) = (run for run in self.listed(limit=100) if run["id"] == run_id)
        return str(run["status"])

    def ended(self, until: Until, slug: str = "daily", **body: Json) -> str:
        run_id = self.start(slug, **body)
        until(lambda: "finished_at" in self.get(run_id))
        return run_id

    @contextlib.contextmanager
    def stream(self, run_id: str, path: str = "stream", timeout: float = 10) -> Iterator[Iterator[str]]:
        """Yield the lines of a stream, empty ones left out."""
        url = f"{self.url}/v1/runs/{run_id}/{path}"
        with requests.get(url, headers=self.headers, stream=True, timeout=timeout) as answer:
            assert answer.status_code == 200, answer.text
            assert answer.headers["Content-Type"] == "text/event-stream"
            yield (line.decode() for line in answer.iter_lines(chunk_size=1) if line)

    def told(self, run_id: str, **rest: Any) -> list[dict[str, Json]]:
        """Return what a stream carries until the run has ended."""
        found = []
        with self.stream(run_id, **rest) as lines:
            for line in lines:
                if line.startswith("data: "):
                    found.append(json.loads(line.removeprefix("data: ")))
                    if found[-1].get("to", found[-1].get("status")) in ("completed", "failed", "dead_letter"):
                        return found
        raise AssertionError(f"the stream ended after {found}")


def served(**options: Json) -> Simulator:
    return Simulator(["strait"], speed=100, options={"strait": options})


@pytest.fixture
def sim(simulators: Simulators) -> Simulator:
    return simulators(["strait"], speed=100, options={"strait": {"cache_seconds": 0}})


@pytest.fixture
def service(sim: Simulator) -> Service:
    return Service(sim)


@pytest.fixture
def seed(simulators: Simulators) -> Service:
    options = {"strait": {"era": "seed", "cache_seconds": 0}}
    return Service(simulators(["strait"], speed=100, options=options))


def later(seconds: float) -> str:
    return datetime.fromtimestamp(clock.time() + seconds, UTC).isoformat()


PROJECT = {"project_id": "project-simulator"}


# Triggers


def test_a_fresh_trigger(sim: Simulator, service: Service, until: Until) -> None:
    sim.plan(resource="daily", queued=120, duration=50)
    payload = {"b": 1, "a": [2]}
    answer = service.trigger(payload=payload, tags={"team": "x"}, priority=3, concurrency_key="c")
    body = answer.json()
    assert answer.status_code == 201
    assert answer.headers["X-API-Version"] == "v1"
    assert set(body) == {"id", "status", "payload_hash", "idempotency_hit"}
    assert (body["status"], body["idempotency_hit"]) == ("queued", False)
    assert body["payload_hash"] == payload_hash({"a": [2], "b": 1})
    run = service.get(body["id"])
    expected = {"payload": payload, "tags": {"team": "x"}, "priority": 3, "concurrency_key": "c"}
    assert {name: run[name] for name in expected} == expected
    assert (run["job_id"], run["project_id"], run["attempt"]) == (IDS["daily"], "project-simulator", 1)
    assert (run["triggered_by"], run["execution_mode"], run["status"]) == ("manual", "http", "queued")
    assert "result" not in run and "error" not in run and "started_at" not in run
    until(lambda: service.get(body["id"])["status"] == "dequeued")
    until(lambda: service.get(body["id"])["status"] == "executing")
    until(lambda: service.get(body["id"])["status"] == "completed")
    run = service.get(body["id"])
    assert run["result"] == payload
    assert run["created_at"] < run["started_at"] < run["finished_at"] < run["expires_at"]
    (entry,) = sim.runs()
    assert (entry["resource"], entry["scope"]) == ("daily", PROJECT)


@pytest.mark.parametrize(
    ("outcome", "status", "error", "error_class"),
    [
        ("succeeded", "completed", None, None),
        ("failed", "failed", "job reported a failure", "unknown"),
        ("cancelled", "canceled", "canceled by user", None),
        ("dead_letter", "dead_letter", "endpoint returned 500", "server"),
        ("timed_out", "timed_out", "execution timed out", "timeout"),
        ("crashed", "crashed", "heartbeat lost", "transient"),
        ("system_failed", "system_failed", "dispatch failed", "transient"),
        ("expired", "expired", "run expired", None),
    ],
)
def test_ends(
    sim: Simulator, service: Service, outcome: str, status: str, error: str | None, error_class: str | None
) -> None:
    sim.plan(system="strait", outcome=outcome, ends_at_once=True)
    run = service.get(service.start())
    assert (run["status"], run.get("error"), run.get("error_class")) == (status, error, error_class)
    assert "finished_at" in run
    assert ("started_at" in run) is (status != "expired")


@pytest.mark.parametrize("word", ["waiting", "paused", "replay_staged", "hibernating"])
def test_words_that_are_no_end(sim: Simulator, service: Service, word: str) -> None:
    sim.plan(outcome=word, ends_at_once=True)
    run = service.get(service.start())
    assert run["status"] == word
    assert "finished_at" not in run


def test_stuck(sim: Simulator, service: Service) -> None:
    sim.plan(outcome="stuck", duration=0)
    run_id = service.start()
    assert [service.get(run_id)["status"] for _ in range(2)] == ["executing", "executing"]


def test_attempts(sim: Simulator, service: Service, until: Until) -> None:
    """Between two attempts a run is queued again; the last one decides."""
    sim.plan(resource="broken", outcome="dead_letter", duration=60, message="endpoint returned 502")
    run_id = service.start("broken")
    between = until(lambda: (run := service.get(run_id))["attempt"] == 2 and run)
    assert between["status"] == "queued"
    assert between["next_retry_at"] > between["started_at"]
    until(lambda: service.get(run_id)["status"] == "dead_letter")
    run = service.get(run_id)
    assert (run["attempt"], run["error"]) == (2, "endpoint returned 502")
    events = service.ask("GET", f"/v1/runs/{run_id}/events", params={"level": "error"})["data"]
    assert [event["data"]["attempt"] for event in events] == [1, 2]
    flaky = service.get(service.ended(until, "flaky"))
    assert (flaky["status"], flaky["attempt"]) == ("completed", 3)


def test_schedule(sim: Simulator, service: Service, until: Until) -> None:
    run_id = service.start(scheduled_at=later(1))
    run = service.get(run_id)
    assert run["status"] == "delayed"
    until(lambda: service.get(run_id)["status"] == "completed")
    assert service.get(run_id)["started_at"] >= run["scheduled_at"]


def test_a_run_that_nobody_takes_expires(sim: Simulator, service: Service, until: Until) -> None:
    sim.plan(queued=1000)
    run_id = service.start(ttl_secs=1)
    assert service.get(run_id)["status"] == "queued"
    until(lambda: service.get(run_id)["status"] == "expired")
    default = service.get(service.start())
    ttl = parse_rfc3339(default["expires_at"]) - parse_rfc3339(default["created_at"])
    assert ttl == pytest.approx(360e9, abs=1e9)


def test_dependencies(service: Service, until: Until) -> None:
    run_id = service.start("follower")
    assert service.get(run_id)["status"] == "waiting"
    body = service.ask("GET", f"/v1/runs/{run_id}/dependency-status")
    assert {name: body[name] for name in ("run_id", "job_id", "status", "dependencies_satisfied")} == {
        "run_id": run_id,
        "job_id": IDS["follower"],
        "status": "waiting",
        "dependencies_satisfied": False,
    }
    (row,) = body["dependencies"]
    assert set(row) == {"id", "job_id", "depends_on_job_id", "condition", "created_at"}
    assert row["depends_on_job_id"] == IDS["daily"]
    service.ended(until)
    until(lambda: service.get(run_id)["status"] == "completed")
    assert service.ask("GET", f"/v1/runs/{run_id}/dependency-status")["dependencies_satisfied"] is True


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (400, {"tags": {"": "x"}}, "tags"),
        (400, {"tags": {"k" * 65: "x"}}, "tags"),
        (400, {"tags": {"k": "x" * 257}}, "tags"),
        (400, {"tags": {str(n): "" for n in range(21)}}, "tags"),
        (400, {"tags": {"k": 1}}, "tags"),
        (400, {"scheduled_at": "tomorrow"}, "RFC 3339"),
        (400, {"scheduled_at": 5}, "RFC 3339"),
        (400, {"scheduled_at": later(-60)}, "past"),
        (400, {"scheduled_at": later(31 * 86400)}, "30 days"),
        (422, {"priority": 11}, "priority"),
        (422, {"priority": True}, "priority"),
        (422, {"ttl_secs": -1}, "ttl_secs"),
        (422, {"concurrency_key": "k" * 257}, "concurrency_key"),
    ],
)
def test_validation(
    sim: Simulator, service: Service, status: int, body: dict[str, Json], reason: str
) -> None:
    path = f"/v1/jobs/{IDS['daily']}/trigger"
    assert reason in service.refused(status, "POST", path, json=body)
    assert sim.runs() == []


def test_the_schema_of_a_payload(service: Service) -> None:
    path = f"/v1/jobs/{IDS['strict']}/trigger"
    assert "day is required" in service.refused(400, "POST", path, json={"payload": {"other": 1}})
    service.ask("POST", path, 201, json={"payload": {"day": "monday"}})


def test_unknown_fields_are_ignored(service: Service) -> None:
    run_id = service.start(metadata={"a": "b"}, timeout_secs_override=3, max_attempts_override=9)
    assert "metadata" not in service.get(run_id)


def test_jobs_that_refuse(sim: Simulator, service: Service) -> None:
    for slug, status, reason in (("paused", 409, "job is paused"), ("disabled", 400, "job is disabled")):
        assert service.refused(status, "POST", f"/v1/jobs/{IDS[slug]}/trigger", json={}) == reason
    for name in ("daily", NEVER, IDS["foreign"]):
        assert service.refused(404, "POST", f"/v1/jobs/{name}/trigger", json={}) == "job not found"
    assert sim.runs() == []


def test_dry_run(sim: Simulator, service: Service) -> None:
    body = service.ask(
        "POST", f"/v1/jobs/{IDS['daily']}/trigger", json={"dry_run": True, "payload": {"a": 1}}
    )
    assert body["job"] == {
        "id": IDS["daily"],
        "name": "Daily report",
        "slug": "daily",
        "execution_mode": "http",
        "timeout_secs": 300,
        "max_attempts": 3,
        "version": 1,
    }
    assert (body["payload"], body["payload_hash"]) == ({"a": 1}, payload_hash({"a": 1}))
    assert "expires_at" in body
    assert sim.runs() == []


# The idempotency key


def test_a_repeated_answer(sim: Simulator, service: Service, until: Until) -> None:
    """The same caller gets the first answer byte for byte, with its old status."""
    first = service.trigger(key="k")
    until(lambda: service.get(first.json()["id"])["status"] == "completed")
    again = service.trigger(key="k", payload="another")
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    other = service.send("POST", f"/v1/jobs/{IDS['daily']}/trigger", headers={"X-Idempotency-Key": "k"})
    assert other.content == first.content
    assert service.trigger("slow", key="k").json()["id"] != first.json()["id"]
    assert [run["key"] for run in sim.runs()] == ["k", "k"]


def test_a_run_is_found_by_its_key(sim: Simulator, service: Service, until: Until) -> None:
    """Another caller gets the run there is, with its status of now, and 200."""
    sim.plan(outcome="failed")
    run_id = service.start(key="k")
    internal = Service(sim, {"X-Internal-Secret": "strait-internal", "X-Project-Id": "project-simulator"})
    until(lambda: service.get(run_id)["status"] == "failed")
    answer = internal.trigger(key="k")
    assert answer.status_code == 200
    assert answer.json() == {"id": run_id, "status": "failed", "idempotency_hit": True}


def test_a_key_that_is_still_taken() -> None:
    with served(keeps_answers=False, cache_seconds=0) as sim:
        service = Service(sim)
        sim.plan(outcome="expired", ends_at_once=True)
        run_id = service.start(key="k")
        answer = service.trigger(key="k")
        assert (answer.status_code, answer.json()["error"]["message"]) == (500, "internal server error")
        path = f"/v1/runs/{run_id}/idempotency-key"
        assert service.ask("DELETE", path) == {"status": "reset", "run_id": run_id}
        assert "idempotency_key" not in service.get(run_id)
        assert service.start(key="k") != run_id
        sim.plan(outcome="stuck")
        going = service.start(key="going")
        assert service.refused(404, "DELETE", f"/v1/runs/{going}/idempotency-key")


def test_a_key_is_forgotten() -> None:
    with served(key_seconds=0.2) as sim:
        service = Service(sim)
        sim.plan(ends_at_once=True)
        service.start(key="k")
        clock.sleep(0.3)
        assert service.trigger(key="k").status_code == 500


def test_a_key_under_way(sim: Simulator, service: Service) -> None:
    with ThreadPoolExecutor() as pool:
        sim.plan(hold=50, times=1)
        waiting = pool.submit(service.trigger, key="k")
        while not sim.runs():
            clock.sleep(0.01)
        path = f"/v1/jobs/{IDS['daily']}/trigger"
        reason = service.refused(409, "POST", path, headers={"Idempotency-Key": "k"})
        assert "currently being processed" in reason
        assert waiting.result().json()["id"] == sim.runs()[0]["id"]
    assert service.trigger(key="k").headers["Idempotency-Replayed"] == "true"


def test_an_error_frees_the_key(sim: Simulator, service: Service) -> None:
    assert service.trigger(key="k", priority=99).status_code == 422
    assert service.trigger(key="k").status_code == 201
    assert service.trigger(key="k" * 257).status_code == 400


def test_a_lost_answer_is_repeated(sim: Simulator, service: Service) -> None:
    sim.fault("reset_after", operation="trigger", times=1)
    with pytest.raises(requests.ConnectionError):
        service.trigger(key="k")
    assert service.start(key="k") == sim.runs()[0]["id"]
    assert len(sim.runs()) == 1


# Windows


def test_debounce(sim: Simulator, until: Until) -> None:
    with served(jobs=(Job("daily", window="debounce", window_secs=0.3),)) as sim:
        service = Service(sim)
        for payload in (1, 2):
            body = service.trigger(payload=payload, debounce_key="d").json()
            assert set(body) == {"debounced", "fire_at"}
        until(lambda: len(sim.runs()) == 1)
        (run,) = service.listed(triggered_by="debounce")
        assert run["payload"] == 2


def test_batch(sim: Simulator, service: Service) -> None:
    answers = [service.trigger("batched", payload=number) for number in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 201]
    assert [answer.json() for answer in answers[:2]] == [{"buffered": True}, {"buffered": True}]
    last = answers[2].json()
    assert last == {"id": sim.runs()[0]["id"], "status": "queued", "batch": True}
    assert service.get(last["id"])["payload"] == [0, 1, 2]


def test_dedup(service: Service) -> None:
    """The answer does not tell that the run is another one's."""
    first, same, other = (service.trigger("deduplicated", payload=n).json() for n in (1, 1, 2))
    assert same["id"] == first["id"] != other["id"]
    assert same["idempotency_hit"] is False


# Triggers in bulk


def test_bulk_trigger(service: Service, until: Until) -> None:
    """All runs of a batch share one moment, so the second page of a list loses some."""
    path = f"/v1/jobs/{IDS['daily']}/trigger/bulk"
    items = [{"payload": number} for number in range(4)]
    body = service.ask("POST", path, 201, json={"items": items})
    assert (body["total"], body["created"]) == (4, 4)
    assert [set(row) for row in body["results"]] == [{"id", "status", "idempotency_hit"}] * 4
    page = service.ask("GET", "/v1/runs", params={"batch_id": body["batch_id"], "limit": 3})
    assert (len(page["data"]), page["has_more"]) == (3, True)
    assert len({run["created_at"] for run in page["data"]}) == 1
    query = {"batch_id": body["batch_id"], "cursor": page["next_cursor"]}
    assert service.ask("GET", "/v1/runs", params=query) == {"data": [], "has_more": False}


def test_bulk_trigger_is_checked(sim: Simulator, service: Service) -> None:
    path = f"/v1/jobs/{IDS['daily']}/trigger/bulk"
    assert "item 1: tags" in service.refused(400, "POST", path, json={"items": [{}, {"tags": {"": ""}}]})
    assert "item 0" in service.refused(400, "POST", path, json={"items": [1]})
    for items in ([], [{}] * 501, None):
        assert "500" in service.refused(422, "POST", path, json={"items": items})
    assert sim.runs() == []
    keyed = {"items": [{"idempotency_key": "a"}, {"idempotency_key": "a"}]}
    body = service.ask("POST", path, 201, json=keyed)
    assert [row["idempotency_hit"] for row in body["results"]] == [False, True]
    assert len({row["id"] for row in body["results"]}) == 1


# Lists


def test_list_pages(service: Service) -> None:
    ids = [service.start(payload=number) for number in range(5)][::-1]
    page = service.ask("GET", "/v1/runs", params={"limit": 2})
    assert [run["id"] for run in page["data"]] == ids[:2]
    assert (page["has_more"], page["next_cursor"]) == (True, page["data"][-1]["created_at"])
    page = service.ask("GET", "/v1/runs", params={"limit": 3, "cursor": page["next_cursor"]})
    assert [run["id"] for run in page["data"]] == ids[2:]
    assert set(page) == {"data", "has_more"} and page["has_more"] is False


def test_list_limits(sim: Simulator, service: Service) -> None:
    for _ in range(120):
        service.start()
    assert len(service.listed()) == 50
    assert len(service.listed(limit=1000)) == 100
    for limit in ("0", "-1", "ten"):
        assert "positive" in service.refused(400, "GET", "/v1/runs", params={"limit": limit})
    assert service.refused(400, "GET", "/v1/runs", params={"cursor": "yesterday"}) == "invalid cursor"


def test_list_filters(sim: Simulator, service: Service, until: Until) -> None:
    sim.plan(resource="broken", outcome="dead_letter", ends_at_once=True)
    sim.plan(resource="slow", outcome="stuck")
    good = service.ended(until, payload={"day": "monday", "parts": [1, 2]}, tags={"team": "x"})
    bad = service.ended(until, "broken", tags={"team": "y"})
    going = service.start("slow", tags={"team": "x"})
    worker = service.ended(until, "worker")

    def found(**query: Json) -> list[str]:
        return [run["id"] for run in service.listed(**query)]

    assert found() == [worker, going, bad, good]
    assert found(status="dead_letter") == [bad]
    assert found(statuses=["dead_letter", "executing"]) == [going, bad]
    assert found(**{"statuses[]": ["executing"]}) == [going]
    assert found(tag_key="team") == [going, bad, good]
    assert found(tag_key="team", tag_value="x") == [going, good]
    assert found(execution_mode="worker") == [worker]
    assert found(error_class="server") == [bad]
    assert found(triggered_by="cron") == []
    assert found(payload_contains='{"day": "monday"}') == [good]
    assert found(payload_contains='{"parts": [2]}') == [good]
    assert found(payload_contains='{"parts": [3]}') == []
    assert found(metadata_key="a") == []
    assert found(project_id="any", limit=1) == [worker]
    for query, reason in (
        ({"status": "done"}, "invalid status: done"),
        ({"tag_value": "x"}, "tag_value requires tag_key"),
        ({"tag_key": "a", "metadata_key": "b"}, "cannot be combined"),
        ({"payload_contains": "{"}, "payload_contains"),
    ):
        assert reason in service.refused(400, "GET", "/v1/runs", params=query)
    (dead,) = service.ask("GET", "/v1/runs/dlq")["data"]
    assert dead["id"] == bad


def test_an_answer_that_is_too_large() -> None:
    with served(max_response=1500) as sim:
        service = Service(sim)
        for _ in range(4):
            service.start()
        assert service.refused(413, "GET", "/v1/runs") == "response too large"
        assert len(service.listed(limit=2)) == 2


def test_a_large_result(service: Service, until: Until) -> None:
    run = service.get(service.ended(until, "large", payload=[1]))
    assert run["result"]["result"] == [1]
    assert len(run["result"]["padding"]) == 1_000_000


# What a run leaves


def test_events(service: Service, until: Until) -> None:
    run_id = service.ended(until)
    path = f"/v1/runs/{run_id}/events"
    page = service.ask("GET", path)
    assert [event["type"] for event in page["data"]] == [
        "state_change",
        "log",
        "progress",
        "log",
        "progress",
        "state_change",
    ]
    log = page["data"][1]
    assert set(log) == {"id", "run_id", "type", "level", "message", "created_at"}
    assert page["data"][2]["data"] == {"percent": 33}
    times = [event["created_at"] for event in page["data"]]
    assert times == sorted(times)
    assert len(service.ask("GET", path, params={"type": "progress"})["data"]) == 2
    assert len(service.ask("GET", path, params={"level": "info"})["data"]) == 2
    first = service.ask("GET", path, params={"limit": 2})
    again = service.ask("GET", path, params={"limit": 2, "cursor": first["next_cursor"]})
    assert first["has_more"] is True
    assert [event["id"] for event in again["data"]] == [first["data"][0]["id"]]  # the flaw: it goes back


def test_outputs_and_the_rest(service: Service, until: Until) -> None:
    run_id = service.ended(until)
    outputs = service.ask("GET", f"/v1/runs/{run_id}/outputs")["data"]
    assert [(row["output_key"], row["value"]) for row in outputs] == [("ok", True), ("report", {"rows": 3})]
    agent = service.ended(until, "agent")
    checkpoints = service.ask("GET", f"/v1/runs/{agent}/checkpoints")["data"]
    assert [(row["sequence"], row["state"]) for row in checkpoints] == [
        (3, {"step": 3}),
        (2, {"step": 2}),
        (1, {"step": 1}),
    ]
    assert set(checkpoints[0]) == {"id", "run_id", "sequence", "source", "state", "created_at"}
    (state,) = service.ask("GET", f"/v1/runs/{agent}/state")
    assert {name: state[name] for name in ("run_id", "state_key", "value")} == {
        "run_id": agent,
        "state_key": "step",
        "value": 3,
    }
    samples = service.ask("GET", f"/v1/runs/{agent}/resources")
    assert [sample["memory_mb"] for sample in samples] == [64.0, 64.0]
    assert samples[0]["created_at"] > samples[1]["created_at"]
    newest = {"from": samples[0]["created_at"]}
    assert service.ask("GET", f"/v1/runs/{agent}/resources", params=newest) == samples[:1]
    assert service.ask("GET", f"/v1/runs/{agent}/resources", params={"limit": 1}) == samples[:1]
    bundle = service.ask("GET", f"/v1/runs/{agent}/debug-bundle")
    assert set(bundle) == {"run", "events", "checkpoints", "outputs", "resource_snapshots"}
    assert (bundle["run"], bundle["checkpoints"]) == (service.get(agent), checkpoints)
    for gone in ("usage", "tool-calls"):
        assert service.send("GET", f"/v1/runs/{agent}/{gone}").status_code == 404


def test_children_and_lineage(service: Service, until: Until) -> None:
    parent = service.ended(until, "fan-out", tags={"a": "b"})
    children = service.ask("GET", f"/v1/runs/{parent}/children")["data"]
    assert [child["payload"] for child in children] == [{"child": 1}, {"child": 2}, {"child": 3}]
    assert {(child["triggered_by"], child["parent_run_id"]) for child in children} == {("spawn", parent)}
    until(lambda: {self["status"] for self in service.listed()} == {"completed"})
    first = service.ended(until, "relay")
    until(lambda: len(service.listed(triggered_by="job_chain", status="completed")) == 2)
    chain = service.ask("GET", f"/v1/runs/{first}/lineage", params={"cursor": later(-99)})["data"]
    assert [run["lineage_depth"] for run in chain] == [0, 1, 2]
    assert [run.get("continuation_of") for run in chain] == [None, chain[0]["id"], chain[1]["id"]]
    assert service.ask("GET", f"/v1/runs/{chain[2]['id']}/lineage")["data"] == chain


# Cancels


def test_cancel(sim: Simulator, service: Service, until: Until) -> None:
    sim.plan(outcome="stuck")
    run_id = service.start("fan-out")
    until(lambda: service.get(run_id)["status"] == "executing")
    run = service.ask("DELETE", f"/v1/runs/{run_id}")
    assert (run["id"], run["status"], run["error"]) == (run_id, "canceled", "canceled by user")
    assert service.refused(400, "DELETE", f"/v1/runs/{run_id}") == "run already in terminal state"
    children = service.ask("GET", f"/v1/runs/{run_id}/children")["data"]
    assert {child["status"] for child in children} <= {"canceled", "completed"}
    entry = sim.runs()[0]
    assert (entry["cancels"], entry["cancelled"]) == (2, True)


def test_bulk_cancel(sim: Simulator, service: Service, until: Until) -> None:
    done = service.ended(until)
    sim.plan(outcome="stuck")
    going = service.start()
    body = service.ask("POST", "/v1/runs/bulk-cancel", json={"run_ids": [going, done, NEVER]})
    assert body == {
        "results": [
            {"id": going, "status": "canceled"},
            {"id": done, "status": "failed", "error": "run already in terminal state"},
            {"id": NEVER, "status": "failed", "error": "run not found"},
        ],
        "total": 3,
        "canceled": 1,
        "failed": 2,
    }
    for ids in ([], ["x"] * 101, [1], None):
        assert "100" in service.refused(422, "POST", "/v1/runs/bulk-cancel", json={"run_ids": ids})


def test_bulk_cancel_all(sim: Simulator, service: Service, until: Until) -> None:
    """Only what never started is cancelled."""
    going = service.start("slow")
    until(lambda: service.get(going)["status"] == "executing")
    sim.plan(queued=10000)
    waiting = service.start("slow")
    delayed = service.start("slow", scheduled_at=later(60))
    other = service.start("broken")
    path = "/v1/runs/bulk-cancel-all"
    body = service.ask("POST", path, json={"job_id": IDS["slow"]})
    assert body["canceled"] == 2
    assert sorted(body["run_ids"]) == sorted([waiting, delayed])
    assert service.ask("POST", path, json={"job_id": IDS["slow"]}) == {"canceled": 0, "run_ids": None}
    assert service.get(other)["status"] == "queued"
    assert "filter" in service.refused(400, "POST", path, json={})


# Replays


def test_replay(sim: Simulator, service: Service, until: Until) -> None:
    sim.plan(resource="agent", outcome="failed,completed")
    run_id = service.ended(until, "agent", payload={"a": 1}, tags={"t": "v"}, priority=2)
    run = service.ask("POST", f"/v1/runs/{run_id}/replay", 201)
    assert run["id"] != run_id
    assert (run["status"], run["attempt"], run["triggered_by"]) == ("queued", 1, "manual")
    assert (run["payload"], run["tags"], run["priority"]) == ({"a": 1}, {"t": "v"}, 2)
    until(lambda: service.get(run["id"])["status"] == "completed")
    assert service.get(run_id)["status"] == "failed"
    assert service.refused(400, "POST", f"/v1/runs/{run['id']}/replay") == "run is not replayable"
    path = f"/v1/runs/{run_id}/replay"
    resumed = service.ask("POST", path, 201, params={"from_checkpoint": 2})
    assert (resumed["payload"], resumed["debug_mode"]) == ({"step": 2}, True)
    assert service.refused(404, "POST", path, params={"from_checkpoint": 9}) == "checkpoint not found"
    assert service.refused(400, "POST", path, params={"from_checkpoint": 0})


@pytest.mark.parametrize("outcome", ["succeeded", "cancelled", "expired", "dead_letter"])
def test_what_cannot_be_replayed(sim: Simulator, service: Service, outcome: str) -> None:
    sim.plan(outcome=outcome, ends_at_once=True)
    run_id = service.start()
    assert service.refused(400, "POST", f"/v1/runs/{run_id}/replay") == "run is not replayable"


def test_bulk_replay(sim: Simulator, service: Service, until: Until) -> None:
    sim.plan(outcome="failed", times=1)
    failed, done = service.ended(until), service.ended(until)
    body = service.ask("POST", "/v1/runs/bulk-replay", json={"run_ids": [failed, done, NEVER]})
    assert (body["total"], body["replayed"]) == (3, 1)
    one, two, three = body["results"]
    assert (one["original_run_id"], one["status"]) == (failed, "replayed")
    assert service.get(one["new_run_id"])["id"] == one["new_run_id"]
    assert two == {"original_run_id": done, "status": "skipped", "error": "run is not replayable"}
    assert three == {"original_run_id": NEVER, "status": "failed", "error": "run not found"}


def test_dlq_replay(service: Service, until: Until) -> None:
    """The run keeps its id and gets a new end."""
    run_id = service.ended(until, "mended")
    dead = service.get(run_id)
    assert dead["status"] == "dead_letter"
    run = service.ask("POST", f"/v1/runs/{run_id}/dlq-replay")
    assert (run["id"], run["status"], run["attempt"]) == (run_id, "queued", 1)
    assert "error" not in run and "finished_at" not in run and "started_at" not in run
    until(lambda: service.get(run_id)["status"] == "completed")
    assert service.get(run_id)["finished_at"] > dead["finished_at"]
    assert service.refused(409, "POST", f"/v1/runs/{run_id}/dlq-replay")
    assert service.ask("GET", "/v1/runs/dlq")["data"] == []


def test_a_newer_plan_decides_a_replay(sim: Simulator, service: Service, until: Until) -> None:
    run_id = service.ended(until, "broken")
    sim.plan(resource="broken", outcome="timed_out")
    service.ask("POST", f"/v1/runs/{run_id}/dlq-replay")
    until(lambda: service.get(run_id)["status"] == "timed_out")


def test_the_copy_of_an_end(until: Until) -> None:
    """GET, DELETE and streams go on with an end that a GET has seen; the list does not."""
    with served(cache_seconds=3) as sim:
        service = Service(sim)
        sim.plan(resource="mended", outcome="dead_letter,stuck")
        run_id = service.ended(until, "mended")
        before = service.get(run_id)
        service.ask("POST", f"/v1/runs/{run_id}/dlq-replay")
        until(lambda: service.status(run_id) == "executing")
        assert service.get(run_id) == before
        assert "terminal" in service.refused(400, "DELETE", f"/v1/runs/{run_id}")
        assert "terminal" in service.refused(410, "GET", f"/v1/runs/{run_id}/stream")
        bulk = service.ask("POST", "/v1/runs/bulk-cancel", json={"run_ids": [run_id]})
        assert bulk["canceled"] == 1
        assert service.status(run_id) == "canceled"
        assert service.get(run_id)["status"] == "dead_letter"
        until(lambda: service.get(run_id)["status"] == "canceled")


def test_bulk_dlq_replay(sim: Simulator, service: Service, until: Until) -> None:
    path = "/v1/runs/bulk-dlq-replay"
    ids = [service.ended(until, "mended") for _ in range(3)]
    done = service.ended(until)
    body = service.ask("POST", path, json={"run_ids": [ids[0], done]})
    assert (body["count"], [run["id"] for run in body["replayed"]]) == (1, [ids[0]])
    body = service.ask("POST", path, json={**PROJECT, "limit": 1})
    assert [run["id"] for run in body["replayed"]] == [ids[2]]
    service.ask("POST", path, json=PROJECT)
    until(lambda: len(service.listed(status="completed")) == 4)
    assert service.refused(409, "POST", path, json=PROJECT)
    assert service.refused(404, "POST", path, json={"run_ids": [NEVER]})
    assert service.refused(404, "POST", path, json={"project_id": "project-other"})
    for wrong in ({}, {**PROJECT, "run_ids": ids}, {"run_ids": ["x"] * 501}, {**PROJECT, "limit": 501}):
        assert service.refused(422, "POST", path, json=wrong)


# Other changes


def test_reschedule(sim: Simulator, service: Service, until: Until) -> None:
    sim.plan(queued=1000)
    run_id = service.start(payload=1)
    path = f"/v1/runs/{run_id}/reschedule"
    when = later(300)
    run = service.ask("POST", path, json={"scheduled_at": when, "payload": 2})
    assert (run["status"], run["payload"]) == ("delayed", 2)
    assert parse_rfc3339(run["scheduled_at"]) == parse_rfc3339(when)
    assert "scheduled_at is required" in service.refused(422, "POST", path, json={})
    sim.clear_plans()
    ended = service.ended(until)
    assert service.refused(404, "POST", f"/v1/runs/{ended}/reschedule", json={"scheduled_at": when})


def test_pause_resume_restart(sim: Simulator, service: Service, until: Until) -> None:
    sim.plan(resource="slow", duration=100)
    run_id = service.start("slow")
    path = f"/v1/runs/{run_id}/"
    until(lambda: service.get(run_id)["status"] == "executing")
    assert service.refused(400, "POST", path + "resume")
    for _ in range(2):
        assert service.ask("POST", path + "pause")["status"] == "paused"
    clock.sleep(0.2)
    assert service.get(run_id)["status"] == "paused"
    run = service.ask("POST", path + "resume")
    assert run["status"] == "queued" and "started_at" not in run
    until(lambda: service.get(run_id)["status"] == "executing")
    run = service.ask("POST", path + "restart", json={"machine_preset": "large"})
    assert (run["id"], run["status"]) == (run_id, "queued")
    until(lambda: service.get(run_id)["status"] == "completed")
    for change in ("pause", "resume", "restart"):
        assert service.refused(400, "POST", path + change)


def test_a_planned_pause_ends_when_it_is_resumed(sim: Simulator, service: Service, until: Until) -> None:
    sim.plan(outcome="paused")
    run_id = service.start()
    until(lambda: service.get(run_id)["status"] == "paused")
    service.ask("POST", f"/v1/runs/{run_id}/resume")
    until(lambda: service.get(run_id)["status"] == "completed")


def test_debug(service: Service) -> None:
    run_id = service.start()
    assert service.ask("POST", f"/v1/runs/{run_id}/debug", json={"debug_mode": True}) == {"status": "ok"}
    assert service.get(run_id)["debug_mode"] is True


# Jobs, health, and who may come in


def test_jobs(service: Service) -> None:
    job = service.ask("GET", f"/v1/jobs/{IDS['daily']}")
    expected = {"id": IDS["daily"], "slug": "daily", "name": "Daily report", "enabled": True, "paused": False}
    assert {name: job[name] for name in expected} == expected
    assert service.refused(404, "GET", "/v1/jobs/daily") == "job not found"
    assert service.ask("GET", "/v1/jobs", params={"slug": "daily"}) == {"data": [job], "has_more": False}
    assert service.ask("GET", "/v1/jobs", params={"slug": "foreign"})["data"] == []
    assert len(service.ask("GET", "/v1/jobs")["data"]) == len(JOBS) - 1


def test_health(sim: Simulator) -> None:
    body = Service(sim, {}).ask("GET", "/health")
    assert set(body) == {"status", "version", "timestamp"}


def test_credentials(sim: Simulator) -> None:
    for headers in ({}, {"Authorization": "Bearer strait_wrong"}, {"Authorization": "strait_simulator"}):
        assert Service(sim, headers).refused(401, "GET", "/v1/runs") == "authentication required"
    assert Service(sim, {"X-Internal-Secret": "wrong"}).refused(401, "GET", "/v1/runs")
    run_id = Service(sim).start()
    project = {"X-Project-Id": "project-simulator"}
    for headers in ({"X-Internal-Secret": "strait-internal"}, {"Authorization": "Bearer strait-internal"}):
        assert Service(sim, headers | project).get(run_id)["id"] == run_id
        other = Service(sim, headers | {"X-Project-Id": "project-other"})
        assert other.refused(404, "GET", f"/v1/runs/{run_id}") == "run not found"
        by_query = Service(sim, headers)
        assert len(by_query.listed(**PROJECT)) == 1
        assert by_query.listed(project_id="project-other") == []
    sim.expire_tokens("strait")
    assert Service(sim).get(run_id)["id"] == run_id


def test_scopes() -> None:
    with served(scopes="runs:read, jobs:trigger") as sim:
        service = Service(sim)
        run_id = service.start()
        assert service.get(run_id)["id"] == run_id
        assert service.refused(403, "DELETE", f"/v1/runs/{run_id}") == "requires runs:write"
        assert service.refused(403, "GET", "/v1/jobs") == "requires jobs:read"


@pytest.mark.parametrize(
    ("status", "method", "path", "rest"),
    [
        (406, "GET", "/v1/runs", {"headers": {"Accept": "text/event-stream"}}),
        (415, "POST", "/v1/runs/bulk-cancel", {"data": "run_ids=1"}),
        (400, "POST", "/v1/runs/bulk-cancel", {"data": "{", "headers": {"Content-Type": "application/json"}}),
        (400, "POST", "/v1/runs/bulk-cancel", {"json": []}),
        (400, "POST", "/v1/runs/bulk-cancel", {"json": {"run_ids": ["x"], "pad": "x" * (1 << 20)}}),
        (404, "GET", f"/v1/runs/{NEVER}", {}),
        (404, "GET", f"/v1/runs/{NEVER}/stream", {}),
    ],
)
def test_refusals(service: Service, status: int, method: str, path: str, rest: dict[str, Any]) -> None:
    assert service.refused(status, method, path, **rest)


def test_unknown_routes(service: Service) -> None:
    run_id = service.start()
    for method, path in (("GET", f"/v1/runs/{run_id}/debug"), ("PUT", "/v1/runs"), ("POST", "/v1/runs/dlq")):
        answer = service.send(method, path)
        assert (answer.status_code, answer.text) == (405, "")
    answer = service.send("GET", f"/v1/runs/{run_id}/dependencies")
    assert (answer.status_code, answer.text) == (404, "404 page not found\n")


# Limits


def test_the_limit_per_address() -> None:
    with served(rate_limit=3, window=60) as sim:
        service = Service(sim)
        left = [service.send("GET", "/v1/runs").headers["X-RateLimit-Remaining"] for _ in range(3)]
        assert left == ["2", "1", "0"]
        answer = service.send("GET", "/v1/runs")
        assert (answer.status_code, answer.text) == (429, "Too Many Requests\n")
        assert (answer.headers["Retry-After"], answer.headers["X-RateLimit-Limit"]) == ("60", "3")
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert service.send("GET", "/health").status_code == 200


def test_a_window_passes() -> None:
    with served(rate_limit=2, window=0.4) as sim:
        service = Service(sim)
        statuses = [service.send("GET", "/v1/runs").status_code for _ in range(6)]
        assert set(statuses) == {200, 429}
        assert service.send("GET", "/v1/runs").headers.get("Retry-After", "1") == "1"
        clock.sleep(0.9)
        assert service.send("GET", "/v1/runs").status_code == 200


def test_the_limit_of_triggers() -> None:
    """It holds for all jobs together, and a repeated answer costs none of it."""
    with served(trigger_limit=2, bulk_trigger_limit=1) as sim:
        service = Service(sim)
        service.start(key="k")
        for _ in range(3):
            service.start(key="k")
        service.start("slow")
        assert service.trigger().status_code == 429
        service.start(key="k")
        path = f"/v1/jobs/{IDS['daily']}/trigger/bulk"
        service.ask("POST", path, 201, json={"items": [{}]})
        assert service.send("POST", path, json={"items": [{}]}).text == "Too Many Requests\n"
        assert len(sim.runs()) == 3


def test_the_limits_of_key_job_and_plan() -> None:
    with served(key_limit=2, window=30) as sim:
        service = Service(sim)
        for _ in range(2):
            service.listed()
        answer = service.send("GET", "/v1/runs")
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "30")
        assert answer.json()["error"] == {"code": "rate_limited", "message": "rate limit exceeded"}
    with served(monthly_runs=1) as sim:
        service = Service(sim)
        first = service.trigger()
        assert first.headers["X-Strait-Usage-Remaining"] == "0"
        answer = service.trigger()
        assert answer.status_code == 402
        assert answer.json() == {
            "code": "quota_exceeded",
            "kind": "monthly_runs",
            "message": "monthly run limit of 1 reached",
            "limit": 1,
            "current": 1,
            "plan": "free",
        }
        assert len(sim.runs()) == 1


def test_the_limit_of_a_job(service: Service) -> None:
    service.start("limited")
    answer = service.trigger("limited")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "5")
    assert answer.json()["error"]["details"] == ["retry_after_seconds=5"]
    service.start()


def test_failed_logins_lock_an_address_out() -> None:
    with served(login_limit=2, window=0.5) as sim:
        wrong, right = Service(sim, {"Authorization": "Bearer strait_wrong"}), Service(sim)
        for _ in range(2):
            wrong.refused(401, "GET", "/v1/runs")
        for service in (wrong, right):
            answer = service.send("GET", "/v1/runs")
            assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
        clock.sleep(0.6)
        assert right.listed() == []


# The shapes of the seed


def test_the_seeds_lists(seed: Service, until: Until) -> None:
    ids = [seed.start("agent") for _ in range(3)][::-1]
    until(lambda: all(run["status"] == "completed" for run in seed.ask("GET", "/v1/runs", params=PROJECT)))
    for path in ("/v1/runs", "/v1/runs/dlq"):
        answer = seed.send("GET", path)
        assert answer.status_code == 400
        assert answer.json()["error"] == "project_id is required"
        assert isinstance(answer.json()["request_id"], str)
    rows = seed.ask("GET", "/v1/runs", params={**PROJECT, "limit": 2})
    assert [run["id"] for run in rows] == ids[:2]
    rows = seed.ask("GET", "/v1/runs", params={**PROJECT, "cursor": rows[-1]["created_at"]})
    assert [run["id"] for run in rows] == ids[2:]
    ignored = {**PROJECT, "statuses": "executing", "tag_key": "none"}
    assert len(seed.ask("GET", "/v1/runs", params=ignored)) == 3
    assert seed.ask("GET", "/v1/runs", params={**PROJECT, "status": "failed"}) == []
    assert seed.ask("GET", "/v1/runs/dlq", params=PROJECT) == []
    one = f"/v1/runs/{ids[0]}"
    for part in ("children", "events", "checkpoints", "usage", "tool-calls", "outputs", "lineage", "state"):
        assert isinstance(seed.ask("GET", f"{one}/{part}"), list)
    assert set(seed.ask("GET", f"{one}/usage")[0]) == {
        "id",
        "run_id",
        "provider",
        "model",
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "cost_microusd",
        "created_at",
    }
    assert set(seed.ask("GET", f"{one}/tool-calls")[0]) == {
        "id",
        "run_id",
        "tool_name",
        "input",
        "output",
        "duration_ms",
        "status",
        "created_at",
    }
    bundle = seed.ask("GET", f"{one}/debug-bundle")
    assert set(bundle) == {"run", "events", "checkpoints", "usage", "tool_calls", "outputs"}


def test_the_seeds_changes(seed: Service, until: Until) -> None:
    seed.sim.plan(outcome="failed", times=1)
    failed = seed.ended(until)
    assert seed.ask("POST", f"/v1/runs/{failed}/replay")["id"] != failed
    (new,) = seed.ask("POST", "/v1/runs/bulk-replay", json={"run_ids": [failed]})
    assert new["id"] != failed
    seed.sim.plan(queued=1000)
    waiting = seed.start()
    answer = seed.send("DELETE", f"/v1/runs/{waiting}")
    assert (answer.status_code, answer.text) == (200, "")
    answer = seed.send("DELETE", f"/v1/runs/{waiting}")
    assert (answer.status_code, answer.json()["error"]) == (400, "run already in terminal state")
    other = seed.start()
    body = seed.ask("POST", "/v1/runs/bulk-cancel-all", params=PROJECT, json={"triggered_by": "manual"})
    assert body == {"results": [{"id": other, "status": "canceled"}], "total": 1, "canceled": 1, "failed": 0}
    assert seed.send("POST", "/v1/runs/bulk-cancel-all", json={"triggered_by": "manual"}).status_code == 400
    answer = seed.send("POST", f"/v1/runs/{failed}/debug", json={"debug_mode": False})
    assert (answer.status_code, answer.text) == (200, "")


# Streams


def test_a_stream(sim: Simulator, service: Service) -> None:
    sim.plan(queued=20, duration=40)
    run_id = service.start()
    told = service.told(run_id)
    assert [(data.get("event_type"), data.get("to")) for data in told] == [
        (None, "executing"),
        ("log", None),
        ("progress", None),
        ("log", None),
        ("progress", None),
        (None, "completed"),
    ]
    change = told[-1]
    assert set(change) == {"type", "run_id", "job_id", "project_id", "from", "to", "timestamp"}
    assert (change["type"], change["from"], change["run_id"]) == ("status_change", "executing", run_id)
    event = told[2]
    assert set(event) == {"type", "event_type", "run_id", "level", "message", "data", "timestamp"}
    assert (event["type"], event["message"], event["data"]) == ("event", "33% done", {"percent": 33})
    assert service.refused(410, "GET", f"/v1/runs/{run_id}/stream") == "run already in terminal state"
    assert sim.count("strait", "stream", 200) == 1


def test_streams_of_other_ends(sim: Simulator, service: Service) -> None:
    sim.plan(resource="broken", outcome="dead_letter", duration=60)
    told = [(data["from"], data["to"]) for data in service.told(service.start("broken")) if "to" in data]
    changes = [("executing", "queued"), ("queued", "executing"), ("executing", "dead_letter")]
    assert told[-3:] == changes
    sim.plan(resource="daily", outcome="failed", duration=20, message="no rows")
    last = service.told(service.start())[-1]
    assert set(last) == {"type", "run_id", "from", "to", "error", "timestamp"}
    assert (last["to"], last["error"]) == ("failed", "no rows")
    sim.plan(resource="worker", duration=20)
    run_id = service.start("worker")
    assert service.told(run_id)[-1] == {"run_id": run_id, "status": "completed"}


@pytest.mark.parametrize("outcome", ["crashed", "expired", "cancelled", "paused"])
def test_ends_that_a_stream_does_not_tell(outcome: str) -> None:
    """The stream stays open, with keepalives only."""
    with served(jobs=(Job("daily", progress=0),), keepalive=0.1, stream_seconds=1) as sim:
        service = Service(sim)
        sim.plan(outcome=outcome, duration=20, queued=5)
        run_id = service.start()
        with service.stream(run_id) as lines:
            told = [line for line in lines if "executing" not in line.split('"to":')[-1]]
        assert set(told) == {": keepalive"}
        assert 3 <= len(told) <= 10
        assert service.get(run_id)["status"] == {"cancelled": "canceled"}.get(outcome, outcome)


def test_a_cancel_sends_nothing_and_a_stream_does_not_end_with_its_run(sim: Simulator) -> None:
    with served(keepalive=0.1, stream_seconds=0.8) as sim:
        service = Service(sim)
        sim.plan(outcome="stuck", queued=1000)
        run_id = service.start()
        with service.stream(run_id) as lines:
            service.ask("DELETE", f"/v1/runs/{run_id}")
            begun = clock.monotonic()
            assert set(lines) == {": keepalive"}
        assert clock.monotonic() - begun > 0.5


def test_a_stream_outlasts_a_completed_run() -> None:
    with served(keepalive=0.1, stream_seconds=1) as sim:
        service = Service(sim)
        sim.plan(duration=20, queued=10)
        with service.stream(service.start()) as lines:
            found = list(lines)
        last = max(number for number, line in enumerate(found) if line.startswith("data"))
        assert '"to":"completed"' in found[last]
        assert len(found) - last > 3


def test_chunks(sim: Simulator, service: Service) -> None:
    sim.plan(queued=20, duration=40)
    run_id = service.start("agent")
    with service.stream(run_id, "stream/chunks") as lines:
        found = [json.loads(next(lines).removeprefix("data: ")) for _ in range(3)]
    assert [(data["type"], data["chunk"], data["done"]) for data in found] == [
        ("stream_chunk", "Hel", False),
        ("stream_chunk", "lo", False),
        ("stream_chunk", "!", True),
    ]
    assert set(found[0]) == {"type", "chunk", "stream_id", "done", "timestamp"}
    assert sim.count("strait", "chunks", 200) == 1


def test_the_head_comes_before_the_subscription() -> None:
    """What happens between the two is lost."""
    with served(subscribe_delay=0.5, stream_seconds=1.5, keepalive=0.2) as sim:
        service = Service(sim)
        sim.plan(duration=20, queued=20)
        with service.stream(service.start()) as lines:
            assert set(lines) == {": keepalive"}


def test_streams_are_limited(until: Until) -> None:
    with served(max_streams=2) as sim:
        service = Service(sim)
        sim.plan(outcome="stuck")
        run_id = service.start()
        path = f"/v1/runs/{run_id}/stream"
        with service.stream(run_id), service.stream(run_id, "stream/chunks"):
            answer = service.send("GET", path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
            assert answer.json()["error"]["message"] == "too many SSE connections"
            assert "Retry-After" not in answer.headers
        deadline = clock.monotonic() + 5
        while clock.monotonic() < deadline:
            with requests.get(service.url + path, headers=KEY, stream=True, timeout=5) as answer:
                if answer.status_code == 200:
                    return
            clock.sleep(0.05)
        raise AssertionError("the streams were not given back")


def test_a_reset_ends_streams(sim: Simulator, service: Service) -> None:
    sim.plan(outcome="stuck", queued=1000)
    with service.stream(service.start()) as lines:
        sim.reset()
        assert list(lines) == []


# Faults


def test_faults_of_calls(sim: Simulator, service: Service) -> None:
    sim.fault("status", operation="list", status=429, times=1)
    answer = service.send("GET", "/v1/runs")
    assert (answer.text, answer.headers["Retry-After"]) == ("Too Many Requests\n", "60")
    sim.fault("status", operation="list", status=500, times=1)
    body = service.send("GET", "/v1/runs").json()
    assert body["error"] == {"code": "internal_error", "message": "internal server error"}
    sim.fault("status", operation="cancel", status=409, times=1, acts=True)
    sim.plan(outcome="stuck")
    run_id = service.start()
    assert service.send("DELETE", f"/v1/runs/{run_id}").status_code == 409
    assert service.get(run_id)["status"] == "canceled"
    for operation, method, path in (
        ("get", "GET", f"/v1/runs/{run_id}"),
        ("events", "GET", f"/v1/runs/{run_id}/events"),
        ("replay", "POST", f"/v1/runs/{run_id}/replay"),
        ("job", "GET", f"/v1/jobs/{NEVER}"),
    ):
        sim.fault("html", operation=operation, times=1)
        assert service.send(method, path).status_code == 502


@pytest.mark.parametrize("fault", ["reset_before", "reset_after", "cut_body", "hang"])
def test_streams_that_break_before_they_begin(sim: Simulator, service: Service, fault: str) -> None:
    sim.fault(fault, operation="stream", seconds=0.1)
    sim.plan(outcome="stuck")
    run_id = service.start()
    with pytest.raises(requests.ConnectionError), service.stream(run_id):
        pass


def test_streams_that_are_refused(sim: Simulator, service: Service) -> None:
    sim.plan(outcome="stuck")
    path = f"/v1/runs/{service.start()}/stream"
    sim.fault("status", operation="stream", times=1)
    assert service.send("GET", path).status_code == 503
    for fault, status in (("html", 502), ("empty", 200), ("not_json", 200)):
        sim.fault(fault, operation="stream", times=1)
        assert service.send("GET", path).status_code == status


def test_a_stream_that_is_cut_in_a_frame(sim: Simulator, service: Service) -> None:
    sim.plan(queued=20, duration=500)
    sim.fault("cut_frame", operation="stream")
    url = f"{service.url}/v1/runs/{service.start()}/stream"
    with requests.get(url, headers=KEY, stream=True, timeout=10) as answer:
        pieces = answer.iter_content(None)
        first = next(pieces)
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            next(pieces)
    assert re.fullmatch(rb'data: \{"type":"status_change","run_id":[^\n]*', first)
    assert sim.requests()["last"][-1]["fault"] == "cut_frame"


def test_a_silent_stream() -> None:
    with served(keepalive=0.05) as sim:
        service = Service(sim)
        sim.fault("silence", operation="stream", seconds=0.4)
        run_id = service.start()
        begun = clock.monotonic()
        with service.stream(run_id) as lines:
            assert list(lines) == []
        assert clock.monotonic() - begun > 0.3


def test_a_stream_that_loses_what_it_carries() -> None:
    with served(keepalive=0.05, stream_seconds=0.5) as sim:
        service = Service(sim)
        sim.fault("lose", operation="stream")
        sim.plan(queued=10, duration=10)
        with service.stream(service.start()) as lines:
            assert set(lines) == {": keepalive"}


def test_a_flooded_stream(sim: Simulator, service: Service) -> None:
    sim.fault("flood", operation="stream")
    sim.plan(queued=100, duration=20)
    told = service.told(service.start())
    assert [data["message"] for data in told[:1000]] == [f"line {number}" for number in range(1000)]
    assert told[-1]["to"] == "completed"


def test_a_stream_in_small_pieces(sim: Simulator, service: Service) -> None:
    sim.fault("split", operation="stream")
    sim.plan(queued=10, duration=10)
    url = f"{service.url}/v1/runs/{service.start()}/stream"
    raw = b""
    with requests.get(url, headers=KEY, stream=True, timeout=10) as answer:
        for piece in answer.iter_content(None):
            raw += piece
            if raw.count(b"\r\n\r\n") == 2:
                break
    assert raw.startswith(b'data: {"type":"status_change"')
    assert raw.replace(b"\r\n", b"").count(b"\n") == 0


@pytest.mark.parametrize("seconds", [None, 0.3])
def test_a_stream_that_ends(sim: Simulator, service: Service, seconds: float | None) -> None:
    sim.fault("end", operation="stream", seconds=seconds)
    sim.plan(outcome="stuck", queued=1000)
    begun = clock.monotonic()
    with service.stream(service.start()) as lines:
        assert list(lines) == []
    assert (clock.monotonic() - begun > 0.25) is (seconds is not None)


def test_the_error_frame(sim: Simulator, service: Service) -> None:
    sim.fault("error_frame", operation="stream", body="streaming not available")
    sim.plan(outcome="stuck")
    with service.stream(service.start()) as lines:
        assert list(lines) == ["event: error", 'data: {"error": "streaming not available"}']


# What it is made of


def test_ids_and_times() -> None:
    before = int(clock.time() * 1000)
    made = uuid7()
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", made)
    assert before <= int(made.replace("-", "")[:12], 16) <= int(clock.time() * 1000)
    for number in (1_700_000_000_123_456_789, 1_700_000_000_100_000_000, 1_700_000_000 * 10**9):
        assert parse_rfc3339(rfc3339_nano(number)) == number
    assert rfc3339_nano(1_700_000_000_100_000_000) == "2023-11-14T22:13:20.1Z"
    assert parse_rfc3339("2019-08-24T14:15:22+02:00") == parse_rfc3339("2019-08-24T12:15:22Z")
    for wrong in ("2019-08-24", "2019-08-24T14:15:22", "2019-08-24 14:15:22Z", "2019-08-24T14:15:22.Z", "x"):
        with pytest.raises(ValueError, match=r".+"):
            parse_rfc3339(wrong)
    assert payload_hash({"b": 1, "a": 2}) == payload_hash({"a": 2, "b": 1})


def test_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(simulator_main, "SYSTEMS", ("strait",))
    text = simulator_main.parser().format_help()
    assert 'strait.api_key="strait_simulator"' in text
    assert "strait.rate_limit=0" in text
    assert "strait.jobs" not in text
    assert simulator_main.main(["--system", "strait", "--set", "strait.era=never"]) == 2
    assert "era must be today or seed" in capsys.readouterr().err


def test_an_era_that_does_not_exist() -> None:
    with pytest.raises(ControlError, match="era must be today or seed"):
        served(era="tomorrow")
