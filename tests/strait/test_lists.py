"""Lists of Strait's runs, page by page."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_runs.core.errors import ApiError, BadInput
from airflow_provider_runs.core.pages import IncompleteList
from airflow_provider_runs.core.run import moment
from airflow_provider_runs.strait.api import StraitRunApi
from tests.answers import answer
from tests.play import play
from tests.strait.conftest import JOB, make_api, page, row
from tests.strait.test_api import OTHER, TestJobs

ACTIVE = ["delayed", "queued", "dequeued", "waiting", "replay_staged", "executing", "paused"]


def at(second: float, run_id: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return a run that was created at a second of 2027-01-15T08:00."""
    return row(run_id or f"r{second}", created_at=f"2027-01-15T08:00:{second:09.6f}Z", **fields)


def ids(runs: Any) -> list[str]:
    return [run.id for run in runs]


def test_the_next_page_begins_just_after_the_last_run() -> None:
    """So that runs of the same moment are not passed over, as they would be by Strait's own cursor."""
    first = page(at(9), at(8), at(7, "a"), cursor="2027-01-15T08:00:07Z")
    second = page(at(7, "a"), at(7, "b"), at(6), cursor="")
    requests, runs = play(make_api().list_runs({}), answer(first), answer(second))
    assert [request.params.get("cursor") for request in requests] == [None, "2027-01-15T08:00:07.000001Z"]
    assert ids(runs) == ["r9", "r8", "a", "b", "r6"]


TIED = page(at(7, "a"), at(7, "b"), cursor="2027-01-15T08:00:07Z")
"""A page of one moment, such as that of a bulk start, before which Strait's cursor goes on."""


@pytest.mark.parametrize("first", [TIED, page(at(9), at(7, "a"), cursor="2027-01-15T08:00:07Z")])
def test_a_moment_with_more_runs_than_a_page_is_not_passed_by_silently(
    api: StraitRunApi, first: dict[str, Any]
) -> None:
    with pytest.raises(IncompleteList, match=r"may be more than 2 of 2027-01-15T08:00:07.000000Z"):
        play(api.list_runs({}), answer(first), answer(TIED))
    # What is wanted may have come before.
    assert len(play(api.list_runs({}, limit=2), answer(TIED))[1]) == 2


def test_who_looks_for_news_goes_on_past_a_moment_with_more_runs_than_a_page(
    api: StraitRunApi, caplog: pytest.LogCaptureFixture
) -> None:
    """Or a bulk start would end all watching."""
    looked = api.list_recent({}, 0.0)
    requests, (runs, _) = play(looked, answer(TIED), answer(TIED), answer(page(at(6))))
    assert [request.params.get("cursor") for request in requests[1:]] == [
        "2027-01-15T08:00:07.000001Z",
        "2027-01-15T08:00:07Z",
    ]
    assert ids(runs) == ["a", "b", "r6"]
    assert "there may be more than 2 of 2027-01-15T08:00:07.000000Z" in caplog.text


def test_a_list_that_does_not_go_on_though_it_should_is_no_answer(api: StraitRunApi) -> None:
    same = page(at(7, "a"), cursor="x")
    with pytest.raises(IncompleteList, match=r"listing runs stopped early.* page 3 brings nothing new"):
        play(api.list_runs({}), answer(same), answer(same), answer(same))


def test_runs_without_a_date_are_left_by_straits_cursor(api: StraitRunApi) -> None:
    first = page(row("a", created_at=None), cursor="next")
    requests, runs = play(api.list_runs({}), answer(first), answer(page(row("b"))))
    assert requests[1].params["cursor"] == "next" and ids(runs) == ["a", "b"]


@pytest.mark.parametrize("last", [page(), {"data": None, "has_more": False}, {"data": []}])
def test_a_list_may_be_empty(api: StraitRunApi, last: Any) -> None:
    assert play(api.list_runs({}), answer(last))[1] == []


@pytest.mark.parametrize("has_more", [{}, {"has_more": True}])
def test_a_page_without_a_cursor_is_the_last(api: StraitRunApi, has_more: Any) -> None:
    assert ids(play(api.list_runs({}), answer({"data": [row()], **has_more}))[1]) == ["r1"]
    assert ids(play(api.list_runs({}), answer({"data": [row()], "has_more": False, "next_cursor": "x"}))[1])


def test_an_older_servers_list_ends_with_a_page_that_is_not_full(api: StraitRunApi) -> None:
    """Its pages may have its usual length of 50, however long they were asked for."""
    first, second = [at(59 - number / 2, f"r{number}") for number in range(50)], [at(1, "last")]
    requests, runs = play(api.list_runs({}), answer(first), answer(second))
    assert requests[1].params["cursor"] == "2027-01-15T08:00:34.500001Z"
    assert len(runs) == 51 and runs[-1].id == "last"


def test_so_many_and_no_more(api: StraitRunApi) -> None:
    (request,), runs = play(api.list_runs({}, limit=2), answer(page(at(3), at(2), cursor="x")))
    assert request.params["limit"] == "2" and ids(runs) == ["r3", "r2"]
    (request,), runs = play(api.list_runs({}, limit=150), answer(page(at(3))))
    assert request.params["limit"] == "100"
    (request,), runs = play(api.list_dlq_runs(limit=1), answer(page(at(3), at(2), cursor="x")))
    assert request.params["limit"] == "1" and ids(runs) == ["r3"]


def test_since_a_moment(api: StraitRunApi) -> None:
    since = moment("2027-01-15T08:00:05Z")
    assert since is not None
    listed = page(at(6), row("undated", created_at=None), at(5), at(4), at(3), cursor="x")
    _, runs = play(api.list_runs({}, since=since.timestamp()), answer(listed))
    assert ids(runs) == ["r6", "undated", "r5"]


def test_every_filter(api: StraitRunApi) -> None:
    filters = {
        "status": ["queued", "executing"],
        "tag_key": "team",
        "tag_value": "a",
        "triggered_by": "manual",
        "batch_id": "b",
        "payload_contains": '{"a": 1}',
        "execution_mode": "http",
        "error_class": "timeout",
        "metadata_key": None,
    }
    good = row("good", "queued", tags={"team": "a"}, execution_mode="http", error_class="timeout")
    bad = [
        {**good, "id": "status", "status": "completed"},
        {**good, "id": "tag", "tags": {"team": "b"}},
        {**good, "id": "tags", "tags": None},
        {**good, "id": "mode", "execution_mode": "worker"},
        {**good, "id": "class", "error_class": "oom"},
    ]
    (request,), runs = play(api.list_runs(filters), answer([*bad, good]))
    assert request.params == {
        "statuses": ["queued", "executing"],
        "tag_key": "team",
        "tag_value": "a",
        "triggered_by": "manual",
        "batch_id": "b",
        "payload_contains": '{"a": 1}',
        "execution_mode": "http",
        "error_class": "timeout",
        "limit": "100",
    }
    assert ids(runs) == ["good"]


def test_one_status_is_asked_for_as_older_servers_want_it(api: StraitRunApi) -> None:
    (request,), _ = play(api.list_runs({"status": "queued"}), answer([]))
    assert request.params["status"] == "queued" and "statuses" not in request.params


def test_a_tag_of_any_value_and_metadata(api: StraitRunApi) -> None:
    listed = answer(page(row("a", tags={"team": "x"}), row("b")))
    assert ids(play(api.list_runs({"tag_key": "team"}), listed)[1]) == ["a"]
    (request,), runs = play(api.list_runs({"metadata_key": "m", "metadata_value": "v"}), listed)
    assert request.params["metadata_value"] == "v" and len(runs) == 2


def test_runs_of_a_job_are_chosen_from_all(api: StraitRunApi) -> None:
    listed = answer(page(at(3, job_id=OTHER), at(2), at(1), cursor="x"))
    (request,), runs = play(api.list_runs({"job_id": JOB}, limit=1), listed)
    assert request.params == {"limit": "100"} and ids(runs) == ["r2"]
    (_, request), runs = play(
        api.list_runs({"job_id": "daily"}, limit=1), answer(page(TestJobs.FOUND)), listed
    )
    assert ids(runs) == ["r2"]


def test_what_would_be_started_and_goes(api: StraitRunApi) -> None:
    filters = api.active_filters({"job_id": JOB, "payload": {}})
    (request,), _ = play(api.list_runs(filters), answer(page()))
    assert sorted(request.params["statuses"]) == sorted(ACTIVE)


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ({"status": "running"}, "status must be one of"),
        ({"status": ["queued", 5]}, "status must be one of"),
        ({"job_id": ""}, "job_id is empty"),
        ({"tag_value": "a"}, "tag_value needs tag_key"),
        ({"metadata_value": "a"}, "metadata_value needs metadata_key"),
        ({"tag_key": "a", "metadata_key": "b"}, "not by both"),
        ({"payload_contains": "[1]"}, "payload_contains must be a mapping"),
        ({"batch_id": ""}, "batch_id is empty"),
        ({"slug": "x"}, "a list of Strait runs has no slug"),
    ],
)
def test_bad_filters_are_refused(api: StraitRunApi, filters: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        play(api.list_runs(filters))


def test_a_page_that_is_too_large_is_halved(api: StraitRunApi) -> None:
    too_large = answer({"error": {"message": "response too large"}}, 413)
    requests, runs = play(
        api.list_runs({}), too_large, too_large, answer(page(at(2), cursor="x")), answer(page())
    )
    assert [request.params["limit"] for request in requests] == ["100", "50", "25", "25"]
    assert ids(runs) == ["r2"]


def test_a_run_that_is_too_large_for_any_page_is_an_error(api: StraitRunApi) -> None:
    with pytest.raises(ApiError, match="answered 413 to listing runs"):
        play(api.list_runs({}, limit=2), answer("", 413), answer("", 413))


def test_a_run_without_sense_is_an_error(api: StraitRunApi) -> None:
    for bad in (
        {},
        {"id": "a"},
        {"id": "a", "status": ""},
        {"id": 5, "status": "x"},
        {"id": "\n", "status": "x"},
    ):
        with pytest.raises(ApiError, match="a run without id and status"):
            play(api.list_runs({}), answer([bad]))
