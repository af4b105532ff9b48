"""Many runs of Strait asked about by lists."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from airflow_provider_runs.core.errors import ApiError
from airflow_provider_runs.core.http import Request, Response
from airflow_provider_runs.core.run import Run, RunState
from airflow_provider_runs.strait.api import StraitRunApi
from tests.answers import answer
from tests.play import play
from tests.strait.conftest import make_api, row
from tests.strait.test_lists import ACTIVE

ENDED = ["completed", "failed", "timed_out", "crashed", "system_failed", "expired", "dead_letter", "canceled"]
BEGAN = 1_800_000_000_000


def seventh(millisecond: int, number: int = 0) -> str:
    """Return an id of version 7 that was made at a millisecond."""
    return str(uuid.UUID(int=(millisecond << 80) | (7 << 76) | (2 << 62) | number))


def names(count: int, first: int = 0) -> list[str]:
    return [f"r{number}" for number in range(first, first + count)]


def listed(run_ids: Sequence[str], status: str = "executing", *, more: bool = False) -> Response:
    rows = [
        row(run_id, status, created_at=f"2027-01-15T08:{59 - number // 60:02}:{59 - number % 60:02}Z")
        for number, run_id in enumerate(run_ids)
    ]
    cursor = {"next_cursor": rows[-1]["created_at"]} if more else {}
    return answer({"data": rows, "has_more": more, **cursor})


def words(request: Request) -> list[str]:
    return sorted(request.params["statuses"])


def test_all_that_are_active_take_one_request(api: StraitRunApi) -> None:
    (request,), found = play(api.get_many(names(90)), listed(names(90)))
    assert (request.method, request.url) == ("GET", "https://api.strait.dev/v1/runs")
    assert {**request.params, "statuses": words(request)} == {
        "tag_key": "airflow_provider_runs",
        "tag_value": "strait_default",
        "statuses": sorted(ACTIVE),
        "limit": "100",
    }
    assert request.safe_to_repeat and set(found) == set(names(90))
    assert all(isinstance(run, Run) and run.state is RunState.RUNNING for run in found.values())


def test_the_project_is_named_where_it_is_known() -> None:
    (request,), _ = play(make_api({"project_id": "p1"}).get_many(names(4)), listed(names(4)))
    assert request.params["project_id"] == "p1"


def test_those_that_have_ended_are_listed_too(api: StraitRunApi) -> None:
    active, ended = names(50), names(40, 50)
    requests, found = play(api.get_many(active + ended), listed(active), listed(ended, "dead_letter"))
    assert [words(request) for request in requests] == [sorted(ACTIVE), sorted(ENDED)]
    assert len(found) == 90
    assert isinstance(found["r60"], Run) and found["r60"].state is RunState.FAILED


def test_the_words_of_both_lists_are_all_there_are(api: StraitRunApi) -> None:
    assert sorted(ACTIVE + ENDED) == sorted(api.statuses.all_words())


def test_other_runs_of_the_list_are_no_matter(api: StraitRunApi) -> None:
    broken = answer(
        {"data": [{"id": ["odd"]}, {"id": None}, row("x"), *map(row, names(5))], "has_more": False}
    )
    _, found = play(api.get_many(names(5)), broken)
    assert set(found) == set(names(5))


def test_a_run_that_is_listed_without_sense_spoils_only_itself(api: StraitRunApi) -> None:
    spoiled = answer({"data": [{"id": "r0"}, *map(row, names(4, 1))], "has_more": False})
    _, found = play(api.get_many(names(5)), spoiled)
    assert isinstance(found["r0"], ApiError) and isinstance(found["r1"], Run)


def test_a_few_are_asked_about_singly(api: StraitRunApi) -> None:
    """Left out here: whoever watches asks about them by themselves."""
    with pytest.raises(AssertionError, match="1 answers were not asked for"):
        play(api.get_many(names(3)), listed([]))
    requests, found = play(api.get_many(names(50)), listed(names(47), more=True))
    assert len(requests) == 1 and len(found) == 47


def test_a_few_that_have_ended_are_not_worth_a_list(api: StraitRunApi) -> None:
    requests, found = play(api.get_many(names(20)), listed(names(17)))
    assert len(requests) == 1 and len(found) == 17


def test_runs_that_nobody_here_started_are_left_out(api: StraitRunApi) -> None:
    requests, found = play(api.get_many(names(5)), listed([]), listed([]))
    assert len(requests) == 2 and found == {}


def test_pages_that_tell_nothing_end_the_list(api: StraitRunApi) -> None:
    """It costs a tenth of the requests that it was to save at most, and one."""
    vain = [listed([f"x{page}-{number}" for number in range(100)], more=True) for page in range(20)]
    # Each page's runs are older than those before.
    for wanted, active in ((8, 1), (25, 3), (60, 7)):
        with pytest.raises(AssertionError, match="answers were not asked for") as caught:
            play(api.get_many(names(wanted)), *_older(vain[:active]), listed([]), listed([]))
        assert str(caught.value).startswith("1 answers")


def _older(pages: Sequence[Response]) -> list[Response]:
    made = []
    for number, one in enumerate(pages):
        body = json.loads(one.body)
        for entry in body["data"]:
            entry["created_at"] = entry["created_at"].replace("T08", f"T{8 - number:02}")
        body["next_cursor"] = body["data"][-1]["created_at"]
        made.append(answer(body))
    return made


def test_a_page_that_tells_of_many_leads_on(api: StraitRunApi) -> None:
    pages = _older(
        [listed(names(100), more=True), listed(names(100, 100), more=True), listed(names(50, 200))]
    )
    requests, found = play(api.get_many(names(250)), *pages)
    assert len(requests) == 3 and len(found) == 250


def test_ids_tell_where_a_list_is_to_begin_and_to_end(api: StraitRunApi) -> None:
    wanted = [seventh(BEGAN + 1000 * number, number) for number in range(10)]
    old = answer(
        {
            "data": [row(wanted[0]), row(wanted[1]), row("x", created_at="2027-01-15T07:58:00Z")],
            "has_more": True,
            "next_cursor": "2027-01-15T07:58:00Z",
        }
    )
    requests, found = play(api.get_many(wanted), old, old)
    # 2027-01-15T08:00:00 and 9 seconds, and a minute for the difference of two clocks.
    assert requests[0].params["cursor"] == "2027-01-15T08:01:09.000000Z"
    # Eight are missing: the newest of them is the newest of all.
    assert requests[1].params["cursor"] == "2027-01-15T08:01:09.000000Z"
    assert set(found) == set(wanted[:2])


@pytest.mark.parametrize(
    "odd",
    ["r1", str(uuid.UUID(int=5 << 76, version=4)), seventh(2**48 - 1)],
)
def test_an_id_that_tells_nothing_has_the_whole_list_read(api: StraitRunApi, odd: str) -> None:
    wanted = [*(seventh(BEGAN, number) for number in range(10)), odd]
    (request,), _ = play(api.get_many(wanted), listed(wanted))
    assert "cursor" not in request.params


def test_an_older_server_lists_all_runs_at_once(api: StraitRunApi) -> None:
    """It knows neither the filter by several statuses nor that by tags."""
    rows = [row("x"), *(row(name, "completed") for name in names(6)), *(row(name) for name in names(6, 6))]
    requests, found = play(api.get_many(names(20)), answer(rows))
    assert len(requests) == 1 and set(found) == set(names(12))
    assert isinstance(found["r0"], Run) and found["r0"].state is RunState.SUCCEEDED


def test_a_page_that_was_too_large_is_tried_longer_again(api: StraitRunApi) -> None:
    requests, _ = play(api.get_many(names(5)), answer("", 413), answer("", 413), listed(names(5)))
    assert [request.params["limit"] for request in requests] == ["100", "50", "25"]
    requests, _ = play(api.get_many(names(5)), listed(names(5)))
    assert requests[0].params["limit"] == "50"


@pytest.mark.parametrize("status", [401, 429, 503])
def test_an_answer_to_none_of_the_runs_is_an_error_of_the_request(api: StraitRunApi, status: int) -> None:
    with pytest.raises(ApiError, match=f"answered {status} to listing runs"):
        play(api.get_many(names(5)), answer("", status))


def test_none_at_all(api: StraitRunApi) -> None:
    flow: Any = api.get_many([])
    with pytest.raises(StopIteration) as end:
        next(flow)
    assert end.value.value == {}
    assert api.batch_size >= 1000
