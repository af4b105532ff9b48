from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, ClassVar

import pytest
import requests

from airflow_provider_runs.core import clock
from airflow_provider_runs.mage.simulator import Pipeline, Schedule
from airflow_provider_runs.simulator import Simulator
from tests.simulators import Simulators

KEY = "zkWlN0PkIKSN0C11CfUHUj84OT5XOJ6tDZ6bDRO2"
TRIGGER_KEYS = {
    "id",
    "created_at",
    "updated_at",
    "pipeline_schedule_id",
    "pipeline_uuid",
    "execution_date",
    "status",
    "started_at",
    "completed_at",
    "variables",
    "passed_sla",
    "event_variables",
    "metrics",
    "backfill_id",
    "executor_type",
}
BLOCK_KEYS = {
    "id",
    "block_uuid",
    "status",
    "started_at",
    "completed_at",
    "metrics",
    "pipeline_run_id",
    "created_at",
    "updated_at",
}
LIST_KEYS = TRIGGER_KEYS | {
    "block_runs",
    "block_runs_count",
    "completed_block_runs_count",
    "pipeline_schedule_name",
    "pipeline_schedule_token",
    "pipeline_schedule_type",
    "pipeline_tags",
    "pipeline_type",
    "repo_path",
}
Until = Callable[..., Any]


class Client:
    """Short words for calls."""

    def __init__(self, sim: Simulator) -> None:
        self.sim = sim
        self.url = sim.url_of("mage")
        self.session = requests.Session()

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        return self.session.request(method, self.url + path, timeout=10, **options)

    def trigger(self, schedule: Any = 1, token: str | None = None, **options: Any) -> requests.Response:
        tokens = {1: "tok123", 2: "tokbroken", 3: "tokslow", 5: "tokpaused", 6: "tokimpatient"}
        tokens |= {4: "toknightly", 7: "toksingle", 8: "tokempty", 9: "tokgone"}
        given = token or tokens.get(schedule, "none")
        headers = {"Authorization": f"Bearer {given}", **options.pop("headers", {})}
        path = f"/api/pipeline_schedules/{schedule}/api_trigger"
        return self.call("POST", path, headers=headers, **options)

    def start(self, schedule: int = 1, **options: Any) -> int:
        return int(self.trigger(schedule, **options).json()["pipeline_run"]["id"])

    def get(self, run: int, query: str = "") -> dict[str, Any]:
        body: dict[str, Any] = self.call("GET", f"/api/pipeline_runs/{run}{query}").json()
        return body["pipeline_run"]

    def status(self, run: int) -> str:
        return str(self.get(run)["status"])

    def put(self, run: int, **asked: Any) -> dict[str, Any]:
        body: dict[str, Any] = self.call(
            "PUT", f"/api/pipeline_runs/{run}", json={"pipeline_run": asked}
        ).json()
        return body["pipeline_run"]

    def ids(self, query: str = "", schedule: Any = None) -> list[int]:
        parent = "" if schedule is None else f"/pipeline_schedules/{schedule}"
        body = self.call("GET", f"/api{parent}/pipeline_runs?{query}").json()
        return [row["id"] for row in body["pipeline_runs"]]


@pytest.fixture
def mage(sim: Simulator) -> Client:
    """A client of the simulated Mage, without user authentication."""
    return Client(sim)


class Graph(Client):
    """A client of a simulated Mage with blocks in the form of a diamond."""

    triggers: ClassVar = {"graph": 1, "lenient": 2, "gives_up": 3}

    def start_graph(self, trigger: str = "graph", **variables: Any) -> int:
        asked = {"pipeline_run": {"variables": variables}}
        return self.start(self.triggers[trigger], token=trigger, json=asked)

    def statuses(self, run: int) -> list[str]:
        return [block["status"] for block in self.get(run)["block_runs"]]


def at_work(block: str, variables: dict[str, Any], attempt: int) -> Iterator[str]:
    yield f"{block} is at work"
    if variables.get("fail") == block:
        raise ValueError(f"{block} was told to fail")


@pytest.fixture
def graph(simulators: Simulators) -> Graph:
    """A client of a simulated Mage with blocks in the form of a diamond."""
    blocks = (
        ("start", "data_loader"),
        ("left", "transformer"),
        ("right", "transformer", ("start",)),
        ("join", "transformer", ("left", "right")),
    )
    settings = {"graph": {}, "lenient": {"allow_blocks_to_fail": True}}
    settings["gives_up"] = {"timeout": 3, "timeout_status": "cancelled"}
    world = {
        "pipelines": (Pipeline("graph", blocks, work=at_work),),
        "schedules": tuple(
            Schedule(number, "graph", name, name, settings=settings[name])
            for name, number in Graph.triggers.items()
        ),
    }
    return Graph(simulators(speed=100, options={"mage": world}))


def lines_of(log: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the lines of a log that are JSON."""
    found = re.findall(r"^[-\d]{10}T[:\d]{8} (\{.*\})$", log["content"], re.MULTILINE)
    return [json.loads(line) for line in found]


def logged(client: Client, run: int, block: str) -> list[dict[str, Any]]:
    """Return what the log of a block says."""
    path = f"/api/pipelines/graph/logs?pipeline_run_id[]={run}&_limit=20"
    logs = client.call("GET", path).json()["logs"][0]["block_run_logs"]
    (log,) = (log for log in logs if log["name"] == f"{block}.log")
    return lines_of(log)


@pytest.fixture
def closed(simulators: Simulators) -> Client:
    """A client of a simulated Mage with user authentication."""
    return Client(simulators(speed=100, options={"mage": {"auth": True}}))


def assert_uncaught(answer: requests.Response, exception: str) -> dict[str, Any]:
    """Check the shape of an error that Mage does not handle, and return its body."""
    body: dict[str, Any] = answer.json()
    assert answer.status_code == 200
    assert set(body) == {"error", "url_parameters"}
    assert set(body["error"]) == {"code", "errors", "exception", "message"}
    assert body["error"]["code"] == 500
    assert exception in body["error"]["exception"]
    assert body["error"]["message"].startswith("Traceback")
    return body


def assert_handled(answer: requests.Response, http: int, code: int, kind: str) -> dict[str, Any]:
    """Check the shape of an error that Mage handles, and return its inner part."""
    body: dict[str, Any] = answer.json()
    assert answer.status_code == http
    assert set(body) == {"error", "status"}
    assert body["error"]["code"] == code
    assert body["error"]["type"] == kind
    return body["error"]


# Trigger


def test_documented_trigger(mage: Client) -> None:
    """The literal request of the vendor's page: token in the path, bare payload, curl's content type."""
    answer = mage.call(
        "POST",
        "/api/pipeline_schedules/71/pipeline_runs/4506463a01944ef492f70005996dac1a",
        data='{\n"env": "dev",\n"test": 1\n}',
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    run = answer.json()["pipeline_run"]
    assert answer.status_code == 200
    assert set(run) == TRIGGER_KEYS
    assert run["event_variables"] == {"env": "dev", "test": 1}
    assert run["pipeline_schedule_id"] == 71
    assert run["pipeline_uuid"] == "example_pipeline"
    assert (run["status"], run["passed_sla"], run["backfill_id"], run["metrics"]) == (
        "initial",
        False,
        None,
        None,
    )


def test_documented_list(mage: Client) -> None:
    """The literal list request of the vendor's page; without user authentication both secrets are ignored."""
    mage.start()
    answer = mage.call(
        "GET",
        f"/api/pipeline_schedules/1/pipeline_runs?api_key={KEY}",
        headers={"Authorization": "Bearer ZKXScwLKLZUujbw7vwMeWnhtTTSLqifw8_RnBHYipww"},
    )
    body = answer.json()
    assert body["metadata"] == {"count": 1, "next": False}
    assert set(body["pipeline_runs"][0]) == LIST_KEYS
    assert set(body["pipeline_runs"][0]["block_runs"][0]) == BLOCK_KEYS
    assert body["pipeline_runs"][0]["pipeline_schedule_token"] == "tok123"


@pytest.mark.parametrize(
    ("body", "variables", "events"),
    [
        ({"pipeline_run": {"variables": {"sleep": 0.1}}}, {"sleep": 0.1}, {}),
        ({"env": "dev", "x": 1}, {}, {"env": "dev", "x": 1}),
        ({"pipeline_run": {"variables": {"a": 1}}, "b": 2}, {"a": 1}, {"b": 2}),
        ({"variables": {"a": 1}}, {}, {"variables": {"a": 1}}),
        ({"pipeline_run": {"variables": None}}, {}, {}),
        ({"pipeline_run": {}}, {}, {}),
        (None, {}, None),
    ],
)
def test_payloads(mage: Client, body: Any, variables: Any, events: Any) -> None:
    run = mage.trigger(json=body).json()["pipeline_run"]
    partition = run["variables"].pop("execution_partition")
    assert re.fullmatch(r"1/\d{8}T\d{6}_\d{6}", partition)
    assert (run["variables"], run["event_variables"]) == (variables, events)
    assert mage.sim.runs()[0]["body"] == (body or {})


def test_not_a_number_is_stored_as_null(mage: Client) -> None:
    run = mage.trigger(data='{"x": NaN}').json()["pipeline_run"]
    assert run["event_variables"] == {"x": None}


@pytest.mark.parametrize(
    ("schedule", "options", "exception"),
    [
        (1, {"token": "nope"}, "Invalid token for pipeline schedule ID 1."),
        (1, {"headers": {"Authorization": ""}}, "Invalid token for pipeline schedule ID 1."),
        (99, {}, "{'code': 404, 'message': 'Record not found.', 'type': 'record_not_found'}"),
        (4, {}, "This endpoint is only supported for API trigger."),
        ("abc", {}, "invalid literal for int() with base 10: 'abc'"),
        (1, {"data": "{env: 1}"}, "Expecting property name enclosed in double quotes"),
        (1, {"data": {"env": "dev"}}, "Expecting value: line 1 column 1 (char 0)"),
        (1, {"json": [1]}, "'list' object has no attribute 'get'"),
        (1, {"json": {"pipeline_run": "x"}}, "'str' object does not support item assignment"),
        (1, {"json": {"pipeline_run": None}}, "argument of type 'NoneType' is not iterable"),
        (9, {}, "Pipeline three does not exist in repo_path "),
        (
            1,
            {"json": {"pipeline_run": {"foo": 1}}},
            "'foo' is an invalid keyword argument for PipelineRun",
        ),
        (
            1,
            {"json": {"pipeline_run": {"execution_date": "2026-11-22T12:34:56Z"}}},
            "Invalid isoformat string: '2026-11-22T12:34:56Z'",
        ),
    ],
)
def test_trigger_errors(mage: Client, schedule: Any, options: dict[str, Any], exception: str) -> None:
    body = assert_uncaught(mage.trigger(schedule, **options), exception)
    assert body["url_parameters"] == {"pipeline_schedule_id": str(schedule)}
    assert mage.sim.runs() == []


def test_the_path_form_leaks_the_token(mage: Client) -> None:
    answer = mage.call("POST", "/api/pipeline_schedules/1/pipeline_runs/nope")
    body = assert_uncaught(answer, "Invalid token for pipeline schedule ID 1.")
    assert body["url_parameters"] == {"pipeline_schedule_id": "1", "token": "nope"}
    assert 4000 < len(answer.content) < 10000


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "1/pipeline_runs/to-ken"),
        ("POST", "1/pipeline_runs/"),
        ("POST", "1/pipeline_runs/tok123/"),
        ("POST", "1/api_trigger/"),
        ("GET", "1/pipeline_runs/tok123"),
        ("GET", "1/api_trigger"),
    ],
)
def test_not_allowed(mage: Client, method: str, path: str) -> None:
    answer = mage.call(method, "/api/pipeline_schedules/" + path)
    assert (answer.status_code, answer.text) == (405, "")


def test_unknown_page(mage: Client) -> None:
    answer = mage.call("GET", "/other")
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "text/html; charset=UTF-8")


@pytest.mark.parametrize(
    ("path", "missing"),
    [
        ("things", "policies.ThingPolicy"),
        ("odd_things/1", "resources.OddThingResource"),
        ("pipelines/example/things", "resources.ThingResource"),
        ("things/1/others/2", "resources.ThingResource"),
    ],
)
def test_unknown_calls(mage: Client, path: str, missing: str) -> None:
    body = assert_uncaught(mage.call("GET", f"/api/{path}"), f"No module named 'mage_ai.api.{missing}'")
    assert list(body["url_parameters"].values()) == path.split("/")


def test_prevent_duplicates(mage: Client) -> None:
    """A client-chosen date with the switch makes one run; without the switch, several."""
    date = "2026-11-22T12:34:56.789012+00:00"
    asked = {"execution_date": date, "prevent_duplicates": True, "variables": {"a": 1}}
    run = mage.trigger(json={"pipeline_run": asked}).json()["pipeline_run"]
    assert run["execution_date"] == "2026-11-22 12:34:56.789012"
    assert run["variables"]["execution_partition"] == "1/20261122T123456_789012"
    again = mage.trigger(json={"pipeline_run": asked})
    assert_uncaught(again, "'NoneType' object has no attribute 'to_dict'")
    assert len(mage.sim.runs()) == 1
    mage.trigger(json={"pipeline_run": {"execution_date": date}})
    assert len(mage.sim.runs()) == 2
    other = mage.trigger(7, json={"pipeline_run": asked}).json()["pipeline_run"]
    assert other["variables"]["execution_partition"] == "7/20261122T123456_789012"
    later = {**asked, "execution_date": "2026-11-22T12:34:57+00:00"}
    assert mage.trigger(json={"pipeline_run": later}).json()["pipeline_run"]["execution_date"] == (
        "2026-11-22 12:34:57"
    )


def test_prevent_duplicates_at_once(mage: Client) -> None:
    asked = {"execution_date": "2026-11-22T12:34:56.789012+00:00", "prevent_duplicates": True}
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: mage.trigger(json={"pipeline_run": asked}).json(), range(10)))
    assert len([body for body in answers if "pipeline_run" in body]) == len(mage.sim.runs()) == 1


@pytest.mark.parametrize(
    ("database", "kept"), [("sqlite", "2026-11-22 14:34:58"), ("postgres", "2026-11-22 12:34:58+00:00")]
)
def test_offset_of_an_execution_date(database: str, kept: str) -> None:
    with Simulator(options={"mage": {"database": database}}) as sim:
        asked = {"pipeline_run": {"execution_date": "2026-11-22T14:34:58+02:00"}}
        assert Client(sim).trigger(json=asked).json()["pipeline_run"]["execution_date"] == kept


def test_other_columns(mage: Client) -> None:
    """The row constructor takes what it is given: a status, an id, no blocks."""
    asked = {"status": "completed", "id": 40, "create_block_runs": False, "metrics": {"a": 1}}
    run = mage.trigger(json={"pipeline_run": asked}).json()["pipeline_run"]
    assert (run["id"], run["status"], run["metrics"], run["started_at"]) == (40, "completed", {"a": 1}, None)
    assert mage.get(40)["block_runs"] == []
    assert_uncaught(mage.trigger(json={"pipeline_run": {"id": 40}}), "UNIQUE constraint failed")


def test_blocks_are_made_at_the_start_of_a_run_without(mage: Client, until: Until) -> None:
    run = mage.start(json={"pipeline_run": {"create_block_runs": False}})
    until(lambda: mage.status(run) == "completed")
    assert [block["status"] for block in mage.get(run)["block_runs"]] == ["completed"] * 2


def test_inactive_trigger_is_switched_on(mage: Client, until: Until) -> None:
    path = "/api/pipeline_schedules/5"
    assert mage.call("GET", path).json()["pipeline_schedule"]["status"] == "inactive"
    run = mage.start(5)
    assert mage.call("GET", path).json()["pipeline_schedule"]["status"] == "active"
    until(lambda: mage.status(run) == "completed")


def test_hold(mage: Client) -> None:
    mage.sim.plan(hold=30)
    begun = clock.monotonic()
    mage.start()
    assert clock.monotonic() - begun >= 0.3


# One run and its life


def test_a_run_that_succeeds(mage: Client, until: Until) -> None:
    """A run leaves its first state at a loop and ends at a later one; its blocks end before it."""
    run = mage.start()
    seen: list[tuple[str, tuple[str, ...]]] = []

    def ended() -> bool:
        now = mage.get(run)
        state = (now["status"], tuple(block["status"] for block in now["block_runs"]))
        if state not in seen:
            seen.append(state)
        return bool(now["status"] == "completed")

    until(ended)
    assert seen[0] == ("initial", ("initial", "initial"))
    assert ("running", ("completed", "completed")) in seen
    last = mage.get(run)
    assert set(last) == TRIGGER_KEYS | {"block_runs"}
    assert set(last["block_runs"][0]) == BLOCK_KEYS | {"pipeline_schedule_id", "pipeline_schedule_name"}
    assert last["block_runs"][0]["metrics"] == {}
    assert last["created_at"] <= last["started_at"] < last["completed_at"]
    entry = mage.sim.runs()[0]
    assert (entry["status"], entry["resource"]) == ("completed", "example")
    assert entry["created_at"] < entry["started_at"] < entry["finished_at"]


def test_loops_do_not_wait_for_questions(mage: Client) -> None:
    """A run ends in time although nobody asked in between."""
    run = mage.start()
    clock.sleep(0.5)
    last = mage.get(run)
    assert last["status"] == "completed"
    took = datetime.fromisoformat(last["completed_at"]) - datetime.fromisoformat(last["execution_date"])
    assert took < timedelta(seconds=0.4)


def test_a_block_that_raises(mage: Client, until: Until) -> None:
    """The block fails while the run is running; then the run fails and later blocks are cancelled."""
    run = mage.start(2)
    until(lambda: mage.get(run)["block_runs"][1]["status"] == "failed")
    until(lambda: mage.status(run) == "failed")
    last = mage.get(run)
    assert last["completed_at"] is None
    assert [block["status"] for block in last["block_runs"]] == ["completed", "failed", "cancelled"]
    error = last["block_runs"][1]["metrics"]["error"]
    assert set(error) == {"error", "message", "errors"}
    assert error["error"] == "bang in y"
    assert error["message"].strip().splitlines()[-1] == "RuntimeError: bang in y"
    assert last["block_runs"][2]["metrics"] is None


def test_plans(mage: Client, until: Until) -> None:
    """A plan may fail a block with a text, cancel the run, give it an odd word, or let it never end."""
    mage.sim.plan(resource="example", outcome="failed", error="no rows", times=1)
    mage.sim.plan(resource="broken", outcome="cancelled", duration=1)
    mage.sim.plan(resource="slow", outcome="paused", ends_at_once=True)
    mage.sim.plan(resource="empty", outcome="stuck")
    failed, cancelled, odd, stuck = mage.start(1), mage.start(2), mage.start(3), mage.start(8)
    until(lambda: mage.status(failed) == "failed")
    assert mage.get(failed)["block_runs"][-1]["metrics"]["error"]["error"] == "no rows"
    until(lambda: mage.status(cancelled) == "cancelled")
    until(lambda: mage.status(odd) == "paused")
    assert mage.status(stuck) == "running"
    assert mage.sim.runs()[1]["cancelled"] is False


def test_empty_pipeline(mage: Client, until: Until) -> None:
    run = mage.start(8)
    until(lambda: mage.status(run) == "completed")
    mage.sim.plan(resource="empty", outcome="failed")
    run = mage.start(8)
    until(lambda: mage.status(run) == "failed")


def test_queued(mage: Client, until: Until) -> None:
    """A run may stay in its first state over many loops, as with a trigger that was switched off."""
    mage.sim.plan(queued=50)
    run = mage.start()
    clock.sleep(0.3)
    assert mage.status(run) == "initial"
    until(lambda: mage.status(run) == "completed")


def test_timeout_setting(mage: Client, until: Until) -> None:
    """A run that times out has no failed block; only the scheduler's log says why."""
    run = mage.start(6)
    until(lambda: mage.status(run) == "failed")
    assert {block["status"] for block in mage.get(run)["block_runs"]} == {"cancelled"}
    logs = mage.call("GET", f"/api/pipelines/slow/logs?pipeline_run_id[]={run}&_limit=20").json()["logs"][0]
    assert re.search(r"Pipeline run timed out after \d+ seconds", logs["pipeline_run_logs"][1]["content"])


def test_timeout_status_setting(graph: Graph, until: Until) -> None:
    """A run that times out may look like one that was cancelled."""
    graph.sim.plan(duration=500)
    run = graph.start_graph("gives_up")
    until(lambda: graph.status(run) == "cancelled")
    assert graph.get(run)["completed_at"] is None
    assert graph.sim.runs()[0]["cancelled"] is False


@pytest.mark.parametrize(
    ("fail", "statuses"),
    [
        ("left", ["completed", "failed", "completed", "upstream_failed"]),
        ("start", ["failed", "upstream_failed", "upstream_failed", "upstream_failed"]),
    ],
)
def test_allow_blocks_to_fail_setting(graph: Graph, until: Until, fail: str, statuses: list[str]) -> None:
    """The other blocks go on; then the run fails all the same, with a time of completion."""
    run = graph.start_graph("lenient", fail=fail)
    until(lambda: graph.status(run) == "failed")
    assert graph.statuses(run) == statuses
    assert graph.get(run)["completed_at"] is not None


def test_run_limit_setting(mage: Client, until: Until) -> None:
    first, second = mage.start(7), mage.start(7)
    until(lambda: mage.status(first) == "running")
    assert mage.status(second) == "initial"
    until(lambda: mage.status(second) == "completed")


def test_basic_details(mage: Client) -> None:
    run = mage.start()
    assert set(mage.get(run, "?_format=with_basic_details")) == {"id", "status", "execution_date"}


@pytest.mark.parametrize("run", ["99", "abc"])
def test_missing_run(mage: Client, run: str) -> None:
    path = f"/api/pipeline_runs/{run}"
    for method in ("GET", "PUT", "DELETE"):
        assert_handled(mage.call(method, path), 200, 404, "record_not_found")
    answer = mage.call("GET", path + "?_http_error_codes=1")
    assert_handled(answer, 404, 404, "record_not_found")
    assert answer.json()["status"] == 404


# Lists


def test_pages_and_order(mage: Client) -> None:
    for _ in range(3):
        mage.start()
        clock.sleep(0.001)
    assert mage.ids() == [3, 2, 1]
    assert mage.ids("_limit=2") == [3, 2]
    assert mage.ids("_limit=2&_offset=2") == [1]
    assert mage.ids("order_by[]=id asc") == [1, 2, 3]
    assert mage.ids("order_by[]=status desc,id desc") == [3, 2, 1]
    assert mage.ids("order_by[]=completed_at,pipeline_schedule_id,pipeline_uuid,variables") == [1, 2, 3]
    assert mage.ids("_limit=-1") == []
    assert mage.ids("_limit=-2") == [3, 2]
    path = "/api/pipeline_runs?_limit=2"
    assert mage.call("GET", path).json()["metadata"] == {"count": 3, "next": True}
    assert mage.call("GET", path + "&_offset=1").json()["metadata"] == {"count": 3, "next": False}
    assert mage.call("GET", "/api/pipeline_runs?_limit=0").json()["pipeline_runs"] == []
    assert_uncaught(mage.call("GET", "/api/pipeline_runs?_limit=many"), "invalid literal for int()")
    assert_uncaught(mage.call("GET", "/api/pipeline_runs?order_by[]=nothing desc"), "no attribute 'nothing'")
    assert_uncaught(mage.call("GET", "/api/pipeline_runs?order_by[]=id up"), "has an attribute 'up'")
    assert mage.ids("_limit=0&order_by[]=nothing up") == [], "without rows there is nothing to order"


def test_filters(mage: Client, until: Until) -> None:
    mage.sim.plan(resource="slow", outcome="stuck")
    one, two, three = mage.start(1), mage.start(2), mage.start(3)
    until(lambda: mage.status(one) == "completed" and mage.status(two) == "failed")
    assert mage.ids("status=FAILED") == [two]
    assert mage.ids("status=nothing") == []
    assert mage.ids("status[]=initial,running") == [three]
    assert mage.ids("status[]=running&status[]=failed") == [three]
    assert mage.ids("pipeline_uuid=broken") == [two]
    assert mage.ids("pipeline_uuid[]=broken,slow") == [three, two]
    assert mage.ids("", schedule=1) == [one]
    assert mage.ids("id=1&id[]=1&execution_date=2000-01-01") == [three, two, one], (
        "unknown filters are ignored"
    )
    rows = mage.call("GET", "/api/pipeline_runs?_format=with_basic_details").json()["pipeline_runs"]
    assert set(rows[0]) == {"id", "status", "execution_date"}


def test_unknown_schedule_lists_everything(mage: Client) -> None:
    runs = [mage.start(1), mage.start(2)]
    assert sorted(mage.ids(schedule=99)) == runs
    assert sorted(mage.ids(schedule="abc")) == runs


def test_retries_grouping(mage: Client) -> None:
    """Runs of one execution date are pulled together, with too many rows and a crash past the end."""
    dates = [f"2026-01-0{day}T00:00:00" for day in (1, 2, 3, 3)]
    for date in dates:
        mage.start(json={"pipeline_run": {"execution_date": date}})
    assert mage.ids("_limit=1", schedule=1) == [4]
    assert mage.ids("_limit=1&_offset=1", schedule=1) == [2]
    assert mage.ids("_limit=2&_offset=2&pipeline_uuid=example") == [2, 1]
    for switch in ("1", "false"):
        plain = f"disable_retries_grouping={switch}"
        assert mage.ids(plain + "&_limit=2&_offset=1", schedule=1) == [3, 2]
        assert mage.ids(plain + "&_offset=9", schedule=1) == []
    path = "/api/pipeline_schedules/1/pipeline_runs?_offset=9"
    assert_uncaught(mage.call("GET", path), "list index out of range")


def test_timestamp_filters(mage: Client) -> None:
    run = mage.start()
    now = int(clock.time())
    assert mage.ids(f"start_timestamp={now - 60}") == [run]
    assert mage.ids(f"start_timestamp={now + 60}") == []
    assert mage.ids(f"end_timestamp={now - 60}") == []
    answer = mage.call("GET", "/api/pipeline_runs?start_timestamp=soon")
    assert_handled(answer, 200, 400, "record_invalid")


def test_timestamp_filters_east_of_utc() -> None:
    with Simulator(options={"mage": {"utc_offset": 9 * 3600}}) as sim:
        mage = Client(sim)
        run = mage.start()
        now = int(clock.time())
        assert mage.ids(f"start_timestamp={now - 60}") == []
        assert mage.ids(f"start_timestamp={now - 33000}") == [run]


def test_databases() -> None:
    """Timestamps are naive with whole seconds in places (SQLite), or have an offset (Postgres)."""
    with Simulator() as sim:
        run = Client(sim).trigger().json()["pipeline_run"]
        assert re.fullmatch(r"[-\d]{10} [:\d]{8}", run["created_at"])
        assert re.fullmatch(r"[-\d]{10} [:\d]{8}\.\d{6}", run["execution_date"])
        age = clock.time() - datetime.fromisoformat(run["created_at"] + "+00:00").timestamp()
        assert 0 <= age < 1
    with Simulator(options={"mage": {"database": "postgres"}}) as sim:
        run = Client(sim).trigger().json()["pipeline_run"]
        for name in ("created_at", "updated_at", "execution_date"):
            assert re.fullmatch(r"[-\d]{10} [:\d]{8}(\.\d{6})?\+00:00", run[name])


def test_pipeline(graph: Graph) -> None:
    """Its blocks know their neighbours; their code and outputs are left out on request."""
    pipeline = graph.call("GET", "/api/pipelines/graph").json()["pipeline"]
    edges = {
        block["uuid"]: (block["upstream_blocks"], block["downstream_blocks"]) for block in pipeline["blocks"]
    }
    assert edges == {
        "start": ([], ["left", "right"]),
        "left": (["start"], ["join"]),
        "right": (["start"], ["join"]),
        "join": (["left", "right"], []),
    }
    assert "def left" in pipeline["blocks"][1]["content"]
    path = "/api/pipelines/graph?includes_content=false&includes_outputs="
    small = graph.call("GET", path + "false").json()["pipeline"]["blocks"][0]
    assert {"content", "outputs"} & set(small) == set()
    assert "outputs" in graph.call("GET", path + "0").json()["pipeline"]["blocks"][0], "only a word says no"
    body = assert_uncaught(graph.call("GET", "/api/pipelines/none"), "Pipeline none does not exist.")
    assert body["url_parameters"] == {"resource": "pipelines", "pk": "none"}


def test_schedules_of_a_pipeline(mage: Client) -> None:
    """The latest comes first."""
    path = "/api/pipelines/example/pipeline_schedules"
    body = mage.call("GET", path).json()
    assert [row["id"] for row in body["pipeline_schedules"]] == [7, 5, 4, 1]
    assert {row["pipeline_uuid"] for row in body["pipeline_schedules"]} == {"example"}
    assert body["metadata"] == {"count": 4, "next": False}
    body = mage.call("GET", path + "?_limit=2&_offset=1").json()
    assert [row["id"] for row in body["pipeline_schedules"]] == [5, 4]
    assert body["metadata"] == {"count": 4, "next": True}
    body = assert_uncaught(
        mage.call("GET", "/api/pipelines/none/pipeline_schedules?_http_error_codes=1"),
        "Pipeline none does not exist.",
    )
    assert body["url_parameters"] == {"resource": "pipelines", "pk": "none", "child": "pipeline_schedules"}


def test_schedules(mage: Client) -> None:
    body = mage.call("GET", "/api/pipeline_schedules?_limit=2").json()
    assert body["metadata"] == {"count": 10, "next": True}
    first = body["pipeline_schedules"][0]
    assert (first["id"], first["pipeline_uuid"], first["name"], first["schedule_type"]) == (
        1,
        "example",
        "from_airflow",
        "api",
    )
    assert (first["token"], first["status"], first["schedule_interval"]) == ("tok123", "active", None)
    assert_handled(mage.call("GET", "/api/pipeline_schedules/99"), 200, 404, "record_not_found")


def test_world_of_ones_own() -> None:
    world = {
        "pipelines": (Pipeline("mine", (("only", "custom"),)),),
        "schedules": (Schedule(5, "mine", "here", "tokhere"),),
    }
    with Simulator(options={"mage": world}) as sim:
        assert Client(sim).trigger(5, "tokhere").json()["pipeline_run"]["pipeline_uuid"] == "mine"


# Cancel, retry, delete


def test_cancel(mage: Client, until: Until) -> None:
    mage.sim.plan(resource="slow", outcome="stuck")
    run = mage.start(3)
    until(lambda: mage.status(run) == "running")
    assert mage.put(run, status="cancelled")["status"] == "cancelled"
    assert mage.put(run, status="cancelled")["status"] == "cancelled"
    last = mage.get(run)
    assert {block["status"] for block in last["block_runs"]} <= {"completed", "cancelled"}
    assert last["completed_at"] is None
    entry = mage.sim.runs()[0]
    assert (entry["cancels"], entry["cancelled"]) == (2, True)
    assert mage.sim.count("mage", "cancel") == 2


def test_cancel_in_the_first_state_and_at_the_end(mage: Client, until: Until) -> None:
    assert mage.put(mage.start(), status="cancelled")["status"] == "cancelled"
    run = mage.start()
    until(lambda: mage.status(run) == "completed")
    assert mage.put(run, status="cancelled")["status"] == "completed"
    entry = mage.sim.runs()[1]
    assert (entry["cancels"], entry["cancelled"]) == (1, False)


@pytest.mark.parametrize(
    "options",
    [
        {"json": {"status": "cancelled"}},
        {"json": {"pipeline_run": {"status": "completed"}}},
        {"json": {"pipeline_run": {"status": "bogus", "foo": 1}}},
        {"json": []},
        {"data": '{"pipeline_run": {"status": "cancelled"}}'},
        {},
    ],
)
def test_ignored_updates(mage: Client, options: dict[str, Any]) -> None:
    run = mage.start()
    answer = mage.call("PUT", f"/api/pipeline_runs/{run}", **options)
    assert answer.status_code == 200
    assert answer.json()["pipeline_run"]["status"] in ("initial", "running")
    assert mage.sim.runs()[0]["cancels"] == 0


def test_retry_failed_blocks(mage: Client, until: Until) -> None:
    """A retry keeps the id, and the old error even when it goes well; it takes a plan of its own."""
    mage.sim.plan(resource="broken")
    mage.sim.plan(resource="broken", outcome="failed", times=1)
    run = mage.start(2)
    until(lambda: mage.status(run) == "failed")
    answer = mage.put(run, pipeline_run_action="retry_blocks")
    assert (answer["id"], answer["status"]) == (run, "running")
    assert mage.sim.count("mage", "retry") == 1
    until(lambda: mage.status(run) == "completed")
    blocks = mage.get(run)["block_runs"]
    assert [block["status"] for block in blocks] == ["completed"] * 3
    assert [bool(block["metrics"]) for block in blocks] == [False, True, False]


def test_retry_fails_again(mage: Client, until: Until) -> None:
    run = mage.start(2)
    until(lambda: mage.status(run) == "failed")
    assert mage.put(run, pipeline_run_action="retry_blocks")["status"] == "running"
    assert mage.get(run)["block_runs"][1]["metrics"]["error"]["error"] == "bang in y"
    until(lambda: mage.status(run) == "failed")
    assert mage.put(run, pipeline_run_action="retry_blocks", from_block_uuid="nothing")["status"] == "running"
    until(lambda: mage.status(run) == "failed")


def test_retry_a_completed_run(mage: Client, until: Until) -> None:
    """Nothing reruns without a block's name; the end is written anew and stays set in between."""
    run = mage.start()
    until(lambda: mage.status(run) == "completed")
    before = mage.get(run)
    answer = mage.put(run, pipeline_run_action="retry_blocks")
    assert (answer["status"], answer["completed_at"]) == ("running", before["completed_at"])
    until(lambda: mage.status(run) == "completed")
    after = mage.get(run)
    assert after["completed_at"] > before["completed_at"]
    assert after["block_runs"][0]["started_at"] == before["block_runs"][0]["started_at"]
    mage.put(run, pipeline_run_action="retry_blocks", from_block_uuid="transform_y")
    until(lambda: mage.status(run) == "completed")
    last = mage.get(run)["block_runs"]
    assert last[0] == before["block_runs"][0]
    assert last[1]["started_at"] == before["block_runs"][1]["started_at"], "the first start is kept"
    assert last[1]["completed_at"] > before["block_runs"][1]["completed_at"]


def test_blocks_run_side_by_side(graph: Graph, until: Until) -> None:
    """All blocks whose upstream is completed are queued by the same loop."""
    run = graph.start_graph()
    until(lambda: graph.status(run) == "completed")
    start, left, right, join = graph.get(run)["block_runs"]
    assert start["completed_at"] < left["started_at"] == right["started_at"]
    assert max(left["completed_at"], right["completed_at"]) < join["started_at"]


def test_retry_from_a_block_runs_what_depends_on_it(graph: Graph, until: Until) -> None:
    run = graph.start_graph()
    until(lambda: graph.status(run) == "completed")
    before = graph.get(run)["block_runs"]
    graph.put(run, pipeline_run_action="retry_blocks", from_block_uuid="left")
    until(lambda: graph.status(run) == "completed")
    after = graph.get(run)["block_runs"]
    again = {block["block_uuid"] for block, old in zip(after, before, strict=True) if block != old}
    assert again == {"left", "join"}


def test_retry_beside_a_failed_block_fails_at_once(graph: Graph, until: Until) -> None:
    """The failed block counts as long as it is not among those that run again."""
    run = graph.start_graph(fail="left")
    until(lambda: graph.status(run) == "failed")
    assert graph.statuses(run) == ["completed", "failed", "completed", "cancelled"]
    graph.put(run, pipeline_run_action="retry_blocks", from_block_uuid="right")
    until(lambda: graph.status(run) == "failed")
    assert graph.statuses(run) == ["completed", "failed", "cancelled", "cancelled"]


def test_retry_does_not_stop_a_block_at_work(graph: Graph, until: Until) -> None:
    """A retry of a run that is running changes what the block shows; its process goes on and ends it."""
    graph.sim.plan(duration=200)
    run = graph.start_graph()
    until(lambda: graph.statuses(run)[0] == "running")
    graph.put(run, pipeline_run_action="retry_blocks")
    assert graph.statuses(run) == ["initial"] * 4
    until(lambda: graph.statuses(run)[0] == "queued")
    until(lambda: graph.statuses(run)[0] == "completed")
    assert len([line for line in logged(graph, run, "start") if "Start" in line["message"]]) == 1


def test_retry_of_a_run_that_has_not_begun(mage: Client, until: Until) -> None:
    """It runs at once, and its start is never noted."""
    mage.sim.plan(queued=1000)
    run = mage.start()
    answer = mage.put(run, pipeline_run_action="retry_blocks")
    assert (answer["status"], answer["started_at"]) == ("running", None)
    until(lambda: mage.status(run) == "completed")
    assert mage.get(run)["started_at"] is None


def test_retry_of_a_cancelled_run_completes(graph: Graph, until: Until) -> None:
    run = graph.start_graph()
    graph.put(run, status="cancelled")
    assert graph.statuses(run) == ["cancelled"] * 4
    graph.put(run, pipeline_run_action="retry_blocks")
    until(lambda: graph.status(run) == "completed")


def test_retry_of_a_run_that_timed_out_times_out_again(mage: Client, until: Until) -> None:
    """The age counts from the first start."""
    run = mage.start(6)
    until(lambda: mage.status(run) == "failed")
    started = mage.get(run)["started_at"]
    mage.put(run, pipeline_run_action="retry_blocks")
    until(lambda: mage.status(run) == "failed")
    assert mage.get(run)["started_at"] == started
    logs = mage.call("GET", f"/api/pipelines/slow/logs?pipeline_run_id[]={run}").json()["logs"][0]
    assert logs["pipeline_run_logs"][1]["content"].count("Pipeline run timed out after") == 2


def test_retry_that_hangs(mage: Client, until: Until) -> None:
    """A cancelled run, retried from a block whose upstream is cancelled, runs until it is cancelled."""
    run = mage.start()
    mage.put(run, status="cancelled")
    mage.put(run, pipeline_run_action="retry_blocks", from_block_uuid="transform_y")
    clock.sleep(0.5)
    assert mage.status(run) == "running"
    assert mage.put(run, status="cancelled")["status"] == "cancelled"


def test_retry_as_a_new_run(mage: Client, until: Until) -> None:
    """The web interface's retry makes a new run with the same date and variables."""
    old = mage.start(2, json={"pipeline_run": {"variables": {"key": "k"}}})
    until(lambda: mage.status(old) == "failed")
    asked = {"pipeline": {"status": "retry", "pipeline_runs": [{"id": old}]}}
    assert mage.call("PUT", "/api/pipelines/broken", json=asked).json()["pipeline"]["uuid"] == "broken"
    new = mage.ids("order_by[]=id desc")[0]
    assert new != old
    for name in ("execution_date", "variables", "event_variables"):
        assert mage.get(new)[name] == mage.get(old)[name]
    assert mage.status(old) == "failed"
    unknown = mage.call("PUT", "/api/pipelines/none", json=asked)
    assert_uncaught(unknown, "Pipeline none does not exist.")


def test_delete(mage: Client) -> None:
    """A deleted run is gone, and its id is used again."""
    run = mage.start()
    assert mage.call("DELETE", f"/api/pipeline_runs/{run}").json()["pipeline_run"]["id"] == run
    assert_handled(mage.call("GET", f"/api/pipeline_runs/{run}"), 200, 404, "record_not_found")
    assert mage.start() == run
    assert len(mage.sim.runs()) == 2


@pytest.mark.parametrize(
    ("data", "exception"),
    [("{x", "Expecting property name"), ('{"pipeline_run": "x"}', "'str' object has no attribute 'get'")],
)
def test_unreadable_updates(mage: Client, data: str, exception: str) -> None:
    run = mage.start()
    headers = {"Content-Type": "application/json"}
    body = assert_uncaught(
        mage.call("PUT", f"/api/pipeline_runs/{run}", data=data, headers=headers), exception
    )
    assert body["url_parameters"] == {"resource": "pipeline_runs", "pk": str(run)}


# Logs, status, page


def test_logs(mage: Client, until: Until) -> None:
    run = mage.start(2)
    until(lambda: mage.status(run) == "failed")
    logs = mage.call("GET", f"/api/pipelines/broken/logs?pipeline_run_id[]={run}&_limit=20").json()["logs"][0]
    assert (logs["total_block_run_log_count"], logs["total_pipeline_run_log_count"]) == (3, 1)
    assert [log["name"] for log in logs["block_run_logs"]] == ["bang_y.log", "load_x.log", "export_z.log"]
    assert [log["name"] for log in logs["pipeline_run_logs"]] == ["pipeline.log", "scheduler.log"]
    assert logs["pipeline_run_logs"][0]["content"] == logs["block_run_logs"][2]["content"] == ""
    log = logs["block_run_logs"][0]
    assert set(log) == {"name", "path", "size", "modified_timestamp", "content"}
    assert log["content"].splitlines()[-1] == "RuntimeError: bang in y"
    started, attempt, failed = lines_of(log)
    assert (started["level"], attempt["level"]) == ("INFO", "WARNING")
    assert (failed["level"], failed["message"]) == ("EXCEPTION", "Failed to execute block bang_y")
    assert (failed["block_uuid"], failed["block_type"]) == ("bang_y", "transformer")
    assert failed["error"].splitlines()[-1] == "RuntimeError: bang in y"
    assert failed["error_stacktrace"] == "bang in y"
    scheduler = lines_of(logs["pipeline_run_logs"][1])
    assert scheduler[0]["message"] == "Pipeline broken for run 1 in schedule 2 is alive."
    assert [line["message"] for line in scheduler if line["level"] == "EXCEPTION"] == [
        "BlockRun 2 (block_uuid: bang_y) failed."
    ]


def test_printed_lines_are_in_the_log_of_their_block(graph: Graph, until: Until) -> None:
    """Each is a line of its own; a retry goes on in the same file."""
    run = graph.start_graph(fail="left")
    until(lambda: graph.status(run) == "failed")
    assert [line["level"] for line in logged(graph, run, "left")] == ["INFO", "INFO", "WARNING", "EXCEPTION"]
    assert logged(graph, run, "left")[1]["message"] == "left is at work"
    assert [line["message"] for line in logged(graph, run, "right")] == [
        "Start executing block with BlockExecutor.",
        "right is at work",
        "Finish executing block with BlockExecutor.",
    ]
    assert logged(graph, run, "join") == []
    graph.put(run, pipeline_run_action="retry_blocks")
    until(lambda: graph.status(run) == "failed")
    messages = [line["message"] for line in logged(graph, run, "left")]
    assert messages.count("left is at work") == 2


def test_what_an_event_holds_is_a_variable_unless_there_is_one(graph: Graph, until: Until) -> None:
    body = {"pipeline_run": {"variables": {"fail": "start"}}, "fail": "left"}
    run = graph.start(1, token="graph", json=body)
    until(lambda: graph.status(run) == "failed")
    assert graph.statuses(run)[0] == "failed"
    run = graph.start(1, token="graph", json={"fail": "left"})
    until(lambda: graph.status(run) == "failed")
    assert graph.statuses(run)[:2] == ["completed", "failed"]


def test_logs_of_what_does_not_exist(mage: Client) -> None:
    run = mage.start(2)
    for query in ("99", "abc"):
        answer = mage.call("GET", f"/api/pipelines/broken/logs?pipeline_run_id[]={query}").json()
        assert answer["logs"][0]["pipeline_run_logs"] == answer["logs"][0]["block_run_logs"] == []
    other = mage.call("GET", f"/api/pipelines/example/logs?pipeline_run_id[]={run}").json()["logs"][0]
    assert other["total_block_run_log_count"] == other["total_pipeline_run_log_count"] == 0
    body = assert_uncaught(mage.call("GET", "/api/pipelines/none/logs"), "Pipeline none does not exist.")
    assert body["url_parameters"] == {"resource": "pipelines", "pk": "none", "child": "logs"}


def test_logs_of_many_runs(mage: Client) -> None:
    """Without a run's id they are those of all runs of the pipeline, latest first, twenty files of a kind."""
    runs = [mage.start() for _ in range(11)]
    logs = mage.call("GET", "/api/pipelines/example/logs?_limit=20").json()["logs"][0]
    assert (len(logs["block_run_logs"]), len(logs["pipeline_run_logs"])) == (20, 20)
    assert (logs["total_block_run_log_count"], logs["total_pipeline_run_log_count"]) == (22, 11)
    few = mage.call("GET", "/api/pipelines/example/logs?_limit=1").json()["logs"][0]
    assert (len(few["block_run_logs"]), len(few["pipeline_run_logs"])) == (1, 2)
    assert few["pipeline_run_logs"][0]["path"] == logs["pipeline_run_logs"][0]["path"]
    date = mage.get(runs[-1])["variables"]["execution_partition"]
    assert date in few["pipeline_run_logs"][0]["path"]


def test_status_and_page(mage: Client) -> None:
    status = mage.call("GET", "/api/status").json()["statuses"][0]
    assert status["scheduler_status"] == "running"
    assert status["require_user_authentication"] is False
    assert "<!doctype html>" in mage.call("GET", "/pipelines/none/runs/99").text


# With user authentication


def login(client: Client, **options: Any) -> requests.Response:
    session = {"email": "admin@admin.com", "password": "admin", **options}
    return client.call("POST", "/api/sessions", json={"api_key": KEY, "session": session})


def inner_of(token: str) -> dict[str, Any]:
    middle = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    return found


def test_trigger_needs_no_login(closed: Client) -> None:
    assert closed.start() == 1
    assert closed.call("GET", "/api/status").json()["statuses"][0]["require_user_authentication"] is True


def test_login(closed: Client) -> None:
    """The answer's token wraps the one that the other calls want; the cookie takes the wrapper."""
    session = login(closed).json()["session"]
    inner = inner_of(session["token"])
    assert len(inner["token"]) == 43
    assert inner["expires"] > clock.time()
    path = "/api/pipeline_runs"
    for headers in (
        {"OAUTH-TOKEN": inner["token"]},
        {"Authorization": "Bearer " + inner["token"]},
        {"Cookie": "oauth_token=" + session["token"]},
    ):
        answer = closed.call("GET", path, headers={"X-API-KEY": KEY, **headers})
        assert answer.json()["pipeline_runs"] == []
    for headers in ({"OAUTH-TOKEN": session["token"]}, {"Authorization": "Bearer " + session["token"]}):
        answer = closed.call("GET", path, headers={"X-API-KEY": KEY, **headers})
        assert_handled(answer, 401, 401, "invalid_oauth_token")
    assert login(closed, email=None, username="admin").json()["session"]


def test_refusals(closed: Client) -> None:
    path = "/api/pipeline_runs"
    answer = closed.call("GET", path)
    assert_handled(answer, 401, 401, "invalid_api_key")
    assert answer.json()["status"] == 200
    answer = closed.call("GET", path + "?api_key=wrong&_http_error_codes=1")
    assert_handled(answer, 401, 401, "invalid_api_key")
    assert answer.json()["status"] == 401
    for key in ({"params": {"api_key": KEY}}, {"headers": {"X-API-KEY": KEY}}):
        error = assert_handled(closed.call("GET", path, **key), 200, 403, "unauthorized_access")
        assert error["message"] == "Private access for list only, invalid scope."
    headers = {"X-API-KEY": KEY}
    assert_handled(closed.call("GET", path + "/1", headers=headers), 200, 404, "record_not_found")
    closed.start()
    for method, word in (("GET", "detail"), ("PUT", "update"), ("DELETE", "delete")):
        error = closed.call(method, path + "/1", headers=headers).json()["error"]
        assert error["message"] == f"Private access for {word} only, invalid scope."
    answer = closed.call("GET", path + "?_http_error_codes=1", headers=headers)
    assert_handled(answer, 403, 403, "unauthorized_access")
    missing = closed.call("GET", "/api/pipeline_schedules/99", headers=headers)
    assert_handled(missing, 200, 404, "record_not_found")
    for child in ("", "/logs", "/pipeline_schedules"):
        assert_uncaught(closed.call("GET", "/api/pipelines/none" + child, headers=headers), "does not exist")
        answer = closed.call("GET", "/api/pipelines/empty" + child, headers=headers)
        assert_handled(answer, 200, 403, "unauthorized_access")
    answer = closed.call("GET", path, headers={**headers, "OAUTH-TOKEN": "nonsense"})
    assert_handled(answer, 401, 401, "invalid_oauth_token")
    assert_uncaught(closed.call("GET", path, headers={**headers, "Cookie": "oauth_token=x"}), "Not enough")
    assert_uncaught(closed.call("GET", path + "?HTTP_AUTHORIZATION=x", headers=headers), "")


def test_expired_session(closed: Client) -> None:
    token = inner_of(login(closed).json()["session"]["token"])["token"]
    headers = {"X-API-KEY": KEY, "OAUTH-TOKEN": token}
    assert closed.call("GET", "/api/pipeline_runs", headers=headers).json()["pipeline_runs"] == []
    closed.sim.expire_tokens("mage")
    answer = closed.call("GET", "/api/pipeline_runs", headers=headers)
    assert_handled(answer, 401, 401, "expired_oauth_token")


def test_login_refusals(closed: Client) -> None:
    """A login, also one that succeeds, spoils the message of every later 404, not its type."""
    session = {"email": "admin@admin.com", "password": "admin"}
    answer = closed.call("POST", "/api/sessions", json={"session": session})
    assert_handled(answer, 401, 401, "invalid_api_key")
    form = closed.call("POST", f"/api/sessions?api_key={KEY}", data={"email": "a", "password": "b"})
    assert "are required" in assert_handled(form, 200, 404, "record_not_found")["message"]
    error = assert_handled(login(closed, password="x"), 200, 404, "record_not_found")
    assert error["message"] == "Email/username and/or password invalid."
    closed.sim.reset()
    token = inner_of(login(closed).json()["session"]["token"])["token"]
    answer = closed.call("GET", "/api/pipeline_runs/1", headers={"X-API-KEY": KEY, "OAUTH-TOKEN": token})
    assert "password" in assert_handled(answer, 200, 404, "record_not_found")["message"]
    closed.sim.reset()
    assert "Record not found." in closed.trigger(99).json()["error"]["exception"]
