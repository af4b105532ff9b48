"""Many runs are polled once each, with as few requests as the service allows."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_runs.core.connection import Settings
from airflow_provider_runs.core.errors import ApiError, BadInput, ConnectionFailed, NotFound, RunsError
from airflow_provider_runs.core.many import get_runs
from airflow_provider_runs.core.outage import OUTAGE_AFTER
from airflow_provider_runs.core.run import Run
from tests.base.fakes import FakeApi, FullApi, Service
from tests.play import play

SETTINGS = Settings("c", "http://fake")
DOWN = ConnectionFailed("down", sent=False)


def ids(number: int) -> list[str]:
    return [f"r{index}" for index in range(number)]


def ask(api_class: type[FakeApi], run_ids: list[str]) -> dict[str, Run | RunsError]:
    _, found = play(get_runs(api_class(SETTINGS), run_ids))
    return found


def test_batches_are_as_long_as_they_may_be_and_the_order_is_kept(service: Service) -> None:
    service.runs |= dict.fromkeys(ids(120), "going")
    wanted = list(reversed(ids(120)))
    assert list(ask(FullApi, wanted)) == wanted
    assert [len(batch) for batch in service.called("get_many")] == [50, 50, 20]
    assert service.called("get") == []


def test_a_few_are_polled_singly(service: Service) -> None:
    service.runs |= dict.fromkeys(ids(3), "going")
    ask(FullApi, ids(3))
    assert (service.called("get"), service.called("get_many")) == (ids(3), [])


def test_what_a_batch_does_not_answer_is_polled_singly(service: Service) -> None:
    service.runs |= dict.fromkeys(ids(10), "going")
    service.silent_about = {"r4", "r7"}
    assert {type(each) for each in ask(FullApi, ids(10)).values()} == {Run}
    assert service.called("get") == ["r4", "r7"]


@pytest.mark.parametrize("error", [BadInput("bad id"), ApiError("bad id", status=400)])
def test_a_batch_that_one_id_spoils_is_polled_singly(service: Service, error: Exception) -> None:
    service.runs |= dict.fromkeys(ids(10), "going")
    service.get_errors = [error]
    assert {type(each) for each in ask(FullApi, ids(10)).values()} == {Run}
    assert service.called("get") == ids(10)


def test_a_batch_in_vain_says_nothing_about_the_next_one(service: Service) -> None:
    service.runs |= dict.fromkeys(ids(100), "going")
    service.get_errors = [DOWN]
    found = ask(FullApi, ids(100))
    assert [type(found[run_id]) for run_id in ("r0", "r49", "r50", "r99")] == [ConnectionFailed] * 2 + [
        Run
    ] * 2
    assert len(service.called("get_many")) == 2


@pytest.mark.parametrize("api_class", [FakeApi, FullApi])
def test_a_service_that_is_out_is_asked_a_few_times(service: Service, api_class: Any) -> None:
    service.runs |= dict.fromkeys(ids(500), "going")
    service.get_errors = [DOWN for _ in range(500)]
    found = ask(api_class, ids(500))
    assert list(found) == ids(500)
    assert {type(each) for each in found.values()} == {ConnectionFailed}
    assert len(service.calls) <= OUTAGE_AFTER


def test_runs_that_the_service_does_not_know_are_no_outage(service: Service) -> None:
    found = ask(FakeApi, ids(20))
    assert {type(each) for each in found.values()} == {NotFound}
    assert service.called("get") == ids(20)


def test_an_error_of_one_run_keeps_no_frames(service: Service) -> None:
    service.errors["r0"] = ApiError("broken", status=500)
    assert ask(FakeApi, ["r0"])["r0"].__traceback__ is None  # type: ignore[union-attr]


def test_what_a_batch_says_of_one_run_may_be_no_error_of_ours(service: Service) -> None:
    service.runs |= dict.fromkeys(ids(10), "going")
    service.errors["r1"] = KeyError("state")
    error = ask(FullApi, ids(10))["r1"]
    assert isinstance(error, ConnectionFailed)
    assert "KeyError" in str(error)


def test_a_run_whose_answer_cannot_be_understood_costs_no_other(service: Service) -> None:
    service.runs |= dict.fromkeys(ids(3), "going")
    service.errors["r1"] = KeyError("state")
    found = ask(FakeApi, ids(3))
    assert [type(found[run_id]) for run_id in ids(3)] == [Run, ConnectionFailed, Run]
