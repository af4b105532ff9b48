"""Lists of services that never end: none holds a call, and what was not read to its end says nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from airflow_provider_runs.core import clock, pages
from airflow_provider_runs.core.api import RunApi
from airflow_provider_runs.core.connection import Settings
from airflow_provider_runs.core.errors import AnswerTooLong, RunsError
from airflow_provider_runs.core.http import Flow, Request, Response
from airflow_provider_runs.core.pages import IncompleteList
from airflow_provider_runs.mage.api import MageRunApi
from airflow_provider_runs.mage.operators import MageTriggerRunOperator
from airflow_provider_runs.paradime.api import ParadimeRunApi
from airflow_provider_runs.simulator import Simulator
from airflow_provider_runs.strait.api import StraitRunApi
from tests.answers import answer
from tests.base.fakes import FakeTaskInstance, Store
from tests.core.conftest import (  # noqa: F401
    Asked,
    Connect,
    clean_environment,
    connect,
    reply,
    wire,
)
from tests.paradime.conftest import nothing_learned  # noqa: F401
from tests.tasks import run

SINCE = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
NEWEST = 1_000_000_000
"""The number of the newest run; each older one has the number before."""
LATEST = datetime(2030, 1, 1, tzinfo=UTC)
PATIENCE = 60
"""Requests after which the server gives up: a call that asks so often would ask for ever."""
JOB = "01900000-0000-7000-8000-000000000001"
PARADIME = {"password": "secret", "extra": {"api_key": "key"}}
MAGE = {"extra": {"trigger_token": "token"}}
STRAIT = {"password": "strait_key"}
DAILY = {"slug": "daily"}
BEFORE = {"slug": "daily", "latest": 1, "commands": [], "shared": 0, "branch": None, "pr_number": None}


def when(age: int) -> str:
    """Return the moment at which a run was created that is so many runs older than the newest."""
    return (LATEST - timedelta(seconds=age)).isoformat().replace("+00:00", "Z")


def mage_page(path: str, params: Mapping[str, Any], skip: Callable[[int], int | None]) -> Any:
    """Answer a list of Mage by one row, and say that there are more."""
    first = skip(int(params["_offset"]))
    kind = path.rpartition("/")[2]
    row = {
        "id": NEWEST - (first or 0),
        "status": "running",
        "pipeline_schedule_id": 1,
        "created_at": when(first or 0),
        "name": "other",
    }
    return {kind: [] if first is None else [row], "metadata": {"count": 5, "next": True}}


def strait_page(path: str, params: Mapping[str, Any], skip: Callable[[int], int | None]) -> Any:
    """Answer a list of Strait by one row, and a cursor that leads to another page."""
    row = {"id": "r0", "status": "failed", "job_id": JOB, "slug": "other", "created_at": when(0)}
    if path == "/v1/runs/r0":
        return {**row, "tags": {"airflow_run_key": "key"}}
    cursor = params.get("cursor")
    asked = 0
    if cursor is not None:
        asked = round((LATEST - datetime.fromisoformat(cursor)).total_seconds() + 0.5)
    first = skip(asked)
    rows = [] if first is None else [{**row, "id": f"r{first}", "created_at": when(first)}]
    return {"data": rows, "has_more": True, "next_cursor": when(asked + 1)}


def paradime_page(path: str, params: Mapping[str, Any], skip: Callable[[int], int | None]) -> Any:
    """Answer a list of Paradime by a full page, the status of a run, or a schedule."""
    first = skip(params.get("offset", 0)) or 0
    if "runId" in params:
        return {"data": {"boltRunStatus": {"ok": True, "state": "FAILED"}}}
    rows = [
        {
            "id": NEWEST - first - index,
            "state": "RUNNING",
            "startDttm": when(first + index),
            "name": f"{first + index}",
        }
        for index in range(params["limit"])
    ]
    return {
        "data": {"listBoltRuns": {"ok": True, "runs": rows}, "listBoltSchedules": {"schedules": rows}},
    }


@dataclass(frozen=True)
class List:
    """A call that reads a list, of the API that it belongs to."""

    api: type[RunApi]
    settings: Mapping[str, Any]
    page: Callable[[str, Mapping[str, Any], Callable[[int], int | None]], Any]
    call: Callable[[Any], Flow[Any]]


LISTS = {
    "mage: list": List(MageRunApi, MAGE, mage_page, lambda api: api.list_runs({})),
    "mage: list since": List(MageRunApi, MAGE, mage_page, lambda api: api.list_runs({}, since=SINCE)),
    "mage: find": List(
        MageRunApi, MAGE, mage_page, lambda api: api.find_started({"pipeline_schedule_id": 1}, "key", SINCE)
    ),
    "mage: many": List(MageRunApi, MAGE, mage_page, lambda api: api.get_many(["1", "2"])),
    "mage: trigger": List(
        MageRunApi,
        MAGE,
        mage_page,
        lambda api: api.list_runs({"pipeline_uuid": "example", "trigger_name": "daily"}),
    ),
    "strait: list": List(StraitRunApi, STRAIT, strait_page, lambda api: api.list_runs({})),
    "strait: recent": List(StraitRunApi, STRAIT, strait_page, lambda api: api.list_recent({}, SINCE)),
    "strait: find": List(StraitRunApi, STRAIT, strait_page, lambda api: api.find_started({}, "key", SINCE)),
    "strait: slug": List(StraitRunApi, STRAIT, strait_page, lambda api: api.get_job("daily")),
    "strait: start": List(StraitRunApi, STRAIT, strait_page, lambda api: api.trigger({"job_id": "daily"})),
    "strait: dead letters": List(StraitRunApi, STRAIT, strait_page, lambda api: api.list_dlq_runs()),
    "strait: replay": List(StraitRunApi, STRAIT, strait_page, lambda api: api.find_retried("r0", {}, SINCE)),
    "paradime: list": List(ParadimeRunApi, PARADIME, paradime_page, lambda api: api.list_runs(DAILY)),
    "paradime: schedules": List(ParadimeRunApi, PARADIME, paradime_page, lambda api: api.list_schedules()),
    "paradime: find": List(
        ParadimeRunApi, PARADIME, paradime_page, lambda api: api.find_unmarked(BEFORE, SINCE)
    ),
    "paradime: retry": List(
        ParadimeRunApi, PARADIME, paradime_page, lambda api: api.find_retried("7", DAILY, SINCE)
    ),
}
ENDLESS: dict[str, Callable[[int], int | None]] = {
    "the same page": lambda asked: 0,
    "empty pages": lambda asked: None,
    "new rows": lambda asked: asked,
}
"""Which rows a page shows, given the place that was asked for: the age of the newest; None: no row."""
each_list = pytest.mark.parametrize("of", LISTS.values(), ids=LISTS)


def asked_for(asked: Asked) -> tuple[str, dict[str, Any]]:
    """Return path and parameters of a request."""
    parts = urlsplit(asked.target)
    return parts.path, asked.json["variables"] if asked.body else dict(parse_qsl(parts.query))


# A page of Paradime that is not full ends the list.
CASES = {
    f"{name}, {kind}": (of, skip)
    for name, of in LISTS.items()
    for kind, skip in ENDLESS.items()
    if of.page is not paradime_page or kind != "empty pages"
}


@pytest.mark.parametrize(("of", "skip"), CASES.values(), ids=CASES)
async def test_a_list_without_an_end_holds_no_call(
    of: List,
    skip: Callable[[int], int | None],
    wire: Callable[..., Any],  # noqa: F811
    connect: Connect,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pages, "MAX_PAGES", 20)

    def by(asked: Asked) -> Any:
        if len(server.asked) > PATIENCE:
            return reply(404)
        return reply(200, of.page(*asked_for(asked), skip))

    server = wire(by=by)
    driver = connect(server.url, of.api, **of.settings)
    with pytest.raises(IncompleteList, match="stopped early: the list should go on, but") as caught:
        await driver.drive(of.call(driver.api))
    # A status, at most, is asked for before.
    assert len(server.asked) <= (21 if skip(5) == 5 else 4)
    assert not caught.value.permanent and str(caught.value).isprintable()


@pytest.mark.parametrize("skip", ENDLESS.values(), ids=ENDLESS)
async def test_many_runs_of_strait_are_asked_about_singly_where_a_list_has_no_end(
    skip: Callable[[int], int | None],
    wire: Callable[..., Any],  # noqa: F811
    connect: Connect,  # noqa: F811
) -> None:
    def by(asked: Asked) -> Any:
        if len(server.asked) > PATIENCE:
            return reply(404)
        return reply(200, strait_page(*asked_for(asked), skip))

    server = wire(by=by)
    driver = connect(server.url, StraitRunApi, **STRAIT)
    wanted = ["r0", *(f"missing-{number}" for number in range(20))]
    found = await driver.drive(driver.api.get_many(wanted))  # type: ignore[attr-defined]
    assert set(found) == (set() if skip(0) is None else {"r0"})
    assert len(server.asked) <= 10


# Without a network


def walk(of: List, skip: Callable[[int], int | None], pause: float = 0.0) -> tuple[int, Any]:
    """Run a call against its service; return the number of its requests, and its result or error."""
    settings = {"conn_id": "c", "base_url": "http://service.example.com", **of.settings}
    flow = of.call(of.api(Settings(**settings)))
    count = 0
    response: Response | None = None
    while True:
        try:
            request: Request = flow.send(response) if response is not None else next(flow)
        except StopIteration as end:
            return count, end.value
        except RunsError as error:
            return count, error
        count += 1
        clock.sleep(pause)
        asked = request.json["variables"] if request.json is not None else request.params
        response = answer(of.page(urlsplit(request.url).path, asked, skip))


@pytest.mark.no_cover  # several times as quick; other tests run each line
@pytest.mark.parametrize("name", ["mage: list", "strait: list", "paradime: schedules"])
def test_the_number_of_pages_has_a_limit(name: str) -> None:
    count, error = walk(LISTS[name], lambda asked: asked)
    assert count == pages.MAX_PAGES == 1000
    assert isinstance(error, IncompleteList) and "it has not ended after 1000 pages" in str(error)
    # Strait's pages overlap by one run, and these have no other.
    read = {"mage: list": 1000, "strait: list": 500, "paradime: schedules": 50_000}[name]
    assert f"{read} entries were read" in str(error)


@each_list
def test_the_time_has_a_limit(of: List) -> None:
    began = clock.monotonic()
    count, error = walk(of, lambda asked: asked, pause=45.0)
    assert isinstance(error, IncompleteList) and "it has not ended after 600 s and 14 pages" in str(error)
    assert count <= 15 and clock.monotonic() - began <= 15 * 45.0 + 1


@each_list
def test_a_list_has_a_limit_in_bytes(of: List, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MAX_BYTES", 2**20)
    counted = pages._Meter.measured

    def heavier(meter: Any, flow: Any) -> Any:
        meter.count += 2**18
        return counted(meter, flow)

    monkeypatch.setattr(pages._Meter, "measured", heavier)
    count, error = walk(of, lambda asked: asked)
    assert isinstance(error, IncompleteList) and "it is longer than 1 MiB" in str(error)
    assert count <= 6


def size_of(request: Request) -> int:
    """Return how many rows a request asks for."""
    asked = request.json["variables"] if request.json is not None else request.params
    return int(next(asked[name] for name in ("limit", "_limit") if name in asked))


@pytest.mark.parametrize(
    "name", ["mage: list", "mage: many", "strait: list", "strait: dead letters", "paradime: list"]
)
@pytest.mark.parametrize("too_long", [AnswerTooLong("longer than 16 MiB"), Response(413, {}, b"too large")])
def test_a_page_that_is_too_long_is_halved(name: str, too_long: Response | AnswerTooLong) -> None:
    of = LISTS[name]
    settings = {"conn_id": "c", "base_url": "http://service.example.com", **of.settings}
    flow = of.call(of.api(Settings(**settings)))
    sizes = [size_of(next(flow))]

    def halve() -> None:
        while True:
            request = flow.throw(too_long) if isinstance(too_long, Exception) else flow.send(too_long)
            sizes.append(size_of(request))

    with pytest.raises(RunsError):
        halve()
    assert sizes == [sizes[0] // 2**number for number in range(sizes[0].bit_length())]


@pytest.mark.no_cover  # several times as quick; other tests run each line
@pytest.mark.parametrize("name", ["mage: list", "strait: list", "strait: dead letters", "paradime: list"])
def test_a_list_that_goes_on_honestly_is_read_to_its_end(name: str) -> None:
    of = LISTS[name]
    length = 15_000

    def page(path: str, params: Mapping[str, Any], skip: Callable[[int], int | None]) -> Any:
        whole = of.page(path, params, skip)
        if of.page is mage_page:
            first, size = int(params["_offset"]), int(params["_limit"])
            (row,) = whole["pipeline_runs"]
            rows = [{**row, "id": NEWEST - age} for age in range(first, min(first + size, length))]
            return {"pipeline_runs": rows, "metadata": {"count": length, "next": first + size < length}}
        if of.page is paradime_page:
            rows = [row for row in whole["data"]["listBoltRuns"]["runs"] if NEWEST - row["id"] < length]
            return {"data": {"listBoltRuns": {"ok": True, "runs": rows}}}
        (row,) = whole["data"]
        first = int(row["id"][1:])
        ages = range(max(first - 1, 0), min(first + 99, length))
        rows = [{**row, "id": f"r{age}", "created_at": when(age)} for age in ages]
        more = {"has_more": True, "next_cursor": rows[-1]["created_at"]} if ages.stop < length else {}
        return {"data": rows, **more}

    count, runs = walk(List(of.api, of.settings, page, of.call), lambda asked: asked, pause=0.6)
    assert isinstance(runs, list) and len({run.id for run in runs}) == length == len(runs)
    assert count >= 150


# What follows from it


@pytest.fixture
def sim(monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    with Simulator(["mage"]) as started:
        monkeypatch.setenv(
            "AIRFLOW_CONN_MAGE_DEFAULT",
            json.dumps(
                {
                    "conn_type": "mage",
                    "host": started.url_of("mage"),
                    "extra": {"trigger_token": "tok123", "request_timeout": 5},
                }
            ),
        )
        yield started


@pytest.mark.parametrize("rows", [[], [{"id": 5, "status": "running"}]], ids=["empty", "same"])
def test_a_lost_start_that_an_endless_list_hides_is_not_started_again(
    sim: Simulator, rows: list[Any]
) -> None:
    """The list is no proof that the run was not started. Once it can be read, it is found."""
    context: dict[str, Any] = {"ti": FakeTaskInstance(max_tries=2), "task_state_store": Store()}

    def task() -> MageTriggerRunOperator:
        return MageTriggerRunOperator(task_id="t", pipeline_schedule_id=1, min_poll_interval=0.5)

    sim.fault("reset_after", system="mage", operation="trigger", times=1)
    endless = {"pipeline_runs": rows, "metadata": {"count": 1, "next": True}}
    sim.fault("status", system="mage", operation="list", status=200, body=endless)
    for _ in range(2):
        with pytest.raises(RunsError, match="stopped early"):
            run(task(), context)
    assert sim.count("mage", "trigger") == 1
    sim.clear_faults()
    (started,) = sim.runs("mage")
    assert run(task(), context) == str(started["id"])
    assert len(sim.runs("mage")) == 1
