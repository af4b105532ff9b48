"""Many runs of Mage asked about by one list."""

from __future__ import annotations

import asyncio
import json
import warnings
from typing import Any

import pytest

from airflow_provider_runs.base.poller import wait_for_run
from airflow_provider_runs.core.errors import ApiError
from airflow_provider_runs.core.outcome import Verdict
from airflow_provider_runs.core.pages import IncompleteList
from airflow_provider_runs.core.progress import Watch
from airflow_provider_runs.core.run import RunState
from airflow_provider_runs.mage.hooks import MageHook
from airflow_provider_runs.mage.lists import ACTIVE_PAGE
from airflow_provider_runs.simulator import Simulator
from tests.answers import answer
from tests.mage.conftest import make_api
from tests.play import play


def page(*ids: int, more: bool = False, status: str = "running") -> Any:
    rows = [{"id": number, "status": status, "execution_date": None} for number in ids]
    return answer({"pipeline_runs": rows, "metadata": {"count": len(ids), "next": more}})


def test_the_active_runs_are_listed_in_the_cheap_form() -> None:
    (request,), found = play(make_api().get_many(["3", "5"]), page(5, 4, 3, status="initial"))
    assert (request.method, request.url.rpartition("/api/")[2]) == ("GET", "pipeline_runs")
    assert request.params == {
        "status[]": "initial,running",
        "_format": "with_basic_details",
        "disable_retries_grouping": "1",
        "order_by[]": "id desc",
        "_limit": str(ACTIVE_PAGE),
        "_offset": "0",
        "_http_error_codes": "1",
    }
    assert {run_id: run.state for run_id, run in found.items()} == {
        "3": RunState.PENDING,
        "5": RunState.PENDING,
    }


def test_runs_that_are_not_active_are_left_out() -> None:
    _, found = play(make_api().get_many(["3", "5", "9"]), page(5))
    assert set(found) == {"5"}


def test_pages_are_turned_until_the_lowest_id_is_passed() -> None:
    requests, found = play(
        make_api().get_many(["90", "50"]), page(99, 90, more=True), page(70, 40, more=True)
    )
    assert [request.params["_offset"] for request in requests] == ["0", str(ACTIVE_PAGE)]
    assert set(found) == {"90"}


def test_an_id_that_is_no_number_spoils_nothing() -> None:
    _, found = play(make_api().get_many(["abc", "5", "²"]), page(5, 4))
    assert set(found) == {"5"}
    _, found = play(make_api().get_many(["abc"]), page(5, 4))
    assert found == {}


@pytest.mark.parametrize("rows", [{}, "text", [1], [{"id": 1}], [None]])
def test_a_list_that_cannot_be_read_says_nothing_about_any_run(rows: Any) -> None:
    body = answer({"pipeline_runs": rows, "metadata": {"count": 1, "next": False}})
    with pytest.raises(ApiError) as caught:
        play(make_api().get_many(["1"]), body)
    assert not caught.value.permanent


def test_a_server_that_repeats_a_page_is_not_asked_for_ever() -> None:
    with pytest.raises(IncompleteList):
        play(make_api().get_many(["1"]), page(9, 8, more=True), page(9, 8, more=True))


async def test_a_hundred_waits_cost_a_list_each_round_and_a_look_each_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As in every real task: Airflow 2.11 reads a connection only once its tables of DAGs are known.
    with warnings.catch_warnings(action="ignore"):
        import airflow_provider_runs.mage.operators  # noqa: F401

    with Simulator(speed=10, options={"mage": {"loop_interval": 1}}) as sim:
        fields = {
            "conn_type": "mage",
            "host": sim.url_of("mage"),
            "extra": {"trigger_token": "tok123", "max_requests_per_minute": 60_000},
        }
        monkeypatch.setenv("AIRFLOW_CONN_MAGE_DEFAULT", json.dumps(fields))
        hook = MageHook()
        runs = [hook.trigger_run(1) for _ in range(100)]
        sim.clear_requests()
        outcomes = await asyncio.gather(
            *(
                wait_for_run("mage", hook.aread_api, Watch(run.id, 0.2, 0.2), "Mage", lambda note: None)
                for run in runs
            )
        )
        await hook.aclose()
        assert {outcome.verdict for outcome in outcomes} == {Verdict.SUCCEEDED}
        assert sim.count("mage", "list") > 0
        assert sim.count("mage", "get") + sim.count("mage", "list") < 200


def test_many_runs_that_have_ended_are_looked_for_in_a_list_of_the_completed_ones() -> None:
    ids = [str(number) for number in range(1, 31)]
    requests, found = play(
        make_api().get_many(ids), page(30, 29, status="running"), page(*range(28, 0, -1), status="completed")
    )
    assert [request.params["status[]"] for request in requests] == ["initial,running", "completed"]
    assert requests[1].params["_format"] == "with_basic_details"
    assert {run.status for run in found.values()} == {"running", "completed"} and len(found) == 30


def test_what_has_failed_is_left_to_be_polled_singly_for_its_reason() -> None:
    ids = [str(number) for number in range(1, 31)]
    _, found = play(make_api().get_many(ids), page(), page(*range(30, 10, -1), status="completed"))
    assert sorted(found, key=int) == [str(number) for number in range(11, 31)]


def test_few_that_have_ended_are_polled_singly() -> None:
    requests, found = play(make_api().get_many([str(number) for number in range(1, 21)]), page())
    assert (len(requests), found) == (1, {})


def test_runs_of_others_do_not_make_the_search_for_what_has_ended_long() -> None:
    ids = [str(number) for number in range(1, 31)]
    pages = [page(*range(top, top - 100, -1), status="completed", more=True) for top in (900, 800)]
    requests, found = play(make_api().get_many(ids), page(), *pages)
    assert (len(requests), found) == (3, {})
