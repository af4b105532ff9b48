"""Many runs of Paradime asked about in one document."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_runs.core.errors import ApiError, BadInput, NotFound, Unauthorized
from airflow_provider_runs.core.run import Run, RunState
from airflow_provider_runs.paradime.answers import DocumentRefused, FieldFailed, Rejected
from tests.answers import answer
from tests.paradime.conftest import data, errors, make_api
from tests.play import play


def states(*words: str | None) -> dict[str, Any]:
    return {f"r{index}": word and {"ok": True, "state": word} for index, word in enumerate(words)}


def ids(count: int, first: int = 1) -> list[str]:
    return [str(number) for number in range(first, first + count)]


def asked(request: Any) -> list[int]:
    return list(request.json["variables"].values())


def test_a_poll_asks_for_ok_and_state_under_aliases() -> None:
    (request,), found = play(make_api().get_many(["3", "5"]), data(**states("RUNNING", "SUCCESS")))
    assert request.json == {
        "query": "query boltRunStatus($r0: Int!, $r1: Int!) { r0: boltRunStatus(runId: $r0) { ok state } "
        "r1: boltRunStatus(runId: $r1) { ok state } }",
        "variables": {"r0": 3, "r1": 5},
    }
    assert request.safe_to_repeat
    assert {run_id: run.state for run_id, run in found.items() if isinstance(run, Run)} == {
        "3": RunState.RUNNING,
        "5": RunState.SUCCEEDED,
    }


def test_a_single_run_needs_no_alias() -> None:
    (request,), found = play(make_api().get_many(["3"]), data(boltRunStatus={"ok": True, "state": "ERROR"}))
    assert "r0" not in request.json["query"]
    assert isinstance(found["3"], Run) and found["3"].status == "ERROR"


def test_the_runs_are_asked_for_in_chunks_of_fifty() -> None:
    chunks = [data(**states(*["RUNNING"] * size)) for size in (50, 50, 20)]
    requests, found = play(make_api().get_many(ids(120)), *chunks)
    assert [len(asked(request)) for request in requests] == [50, 50, 20]
    assert len(found) == 120


def test_a_nullable_field_spoils_only_its_own_run() -> None:
    response = errors(
        ("Run 2 not found", ["r1"]), ("boom", ["r2"]), **states("RUNNING", None, None, "SUCCESS")
    )
    _, found = play(make_api().get_many(ids(4)), response)
    assert {name: type(one) for name, one in found.items()} == {
        "1": Run,
        "2": NotFound,
        "3": FieldFailed,
        "4": Run,
    }
    assert "the status of run 2" in str(found["2"])


def test_what_is_refused_for_one_run_is_said_of_that_run() -> None:
    spoiled = {**states("RUNNING", "RUNNING"), "r1": {"ok": False, "state": "RUNNING"}}
    _, found = play(make_api().get_many(ids(2)), data(**spoiled))
    assert isinstance(found["1"], Run) and isinstance(found["2"], Rejected)


def test_runs_that_the_answer_says_nothing_about_are_left_out() -> None:
    _, found = play(make_api().get_many(ids(2)), data(**states("RUNNING", None)))
    assert set(found) == {"1"}
    _, found = play(make_api().get_many(ids(2)), answer({"data": {}}))
    assert found == {}


def test_where_one_unknown_run_empties_the_whole_answer_the_others_are_asked_again() -> None:
    emptied = errors(("Run 2 not found", ["r1"]))
    requests, found = play(make_api().get_many(ids(3)), emptied, data(**states("RUNNING", "SUCCESS")))
    assert [asked(request) for request in requests] == [[1, 2, 3], [1, 3]]
    assert isinstance(found["2"], NotFound)
    assert isinstance(found["3"], Run) and found["3"].state is RunState.SUCCEEDED


def test_after_a_few_such_answers_the_rest_is_left_to_single_questions() -> None:
    emptied = [errors((f"Run {number} not found", ["r0"])) for number in (1, 2, 3, 4)]
    requests, found = play(make_api().get_many(ids(9)), *emptied)
    assert [len(asked(request)) for request in requests] == [9, 8, 7, 6]
    assert set(found) == {"1", "2", "3", "4"}


def test_the_last_one_that_is_left_is_asked_about_singly() -> None:
    single = data(boltRunStatus={"ok": True, "state": "RUNNING"})
    _, found = play(make_api().get_many(ids(2)), errors(("Run 2 not found", ["r1"])), single)
    assert isinstance(found["1"], Run) and isinstance(found["2"], NotFound)


def test_an_empty_answer_that_blames_none_of_the_runs_says_nothing_about_any() -> None:
    with pytest.raises(FieldFailed):
        play(make_api().get_many(ids(2)), errors(("boom", ["elsewhere"])))


@pytest.mark.parametrize(
    "refusal",
    [
        errors("Query is too complex: complexity 50 exceeds 30"),
        errors("too many aliases", status=400),
        answer("too large", 413),
    ],
)
def test_a_document_that_is_too_much_is_halved_and_the_size_remembered(refusal: Any) -> None:
    parts = [data(**states(*["RUNNING"] * size)) for size in (25, 25, 10)]
    requests, found = play(make_api().get_many(ids(60)), refusal, *parts)
    assert [len(asked(request)) for request in requests] == [50, 25, 25, 10]
    assert len(found) == 60
    requests, _ = play(make_api().get_many(ids(30)), data(**states(*["RUNNING"] * 25)), parts[0])
    assert [len(asked(request)) for request in requests] == [25, 5]


def test_halving_ends_at_one_run() -> None:
    refusals = [errors("too complex")] * 2
    single = [data(boltRunStatus={"ok": True, "state": "RUNNING"})] * 4
    requests, found = play(make_api().get_many(ids(4)), *refusals, *single)
    assert [len(asked(request)) for request in requests] == [4, 2, 1, 1, 1, 1]
    assert len(found) == 4


def test_what_a_single_run_is_refused_for_is_no_matter_of_size() -> None:
    with pytest.raises(DocumentRefused):
        play(
            make_api().get_many(ids(2)), errors("Cannot query field 'ok'"), errors("Cannot query field 'ok'")
        )
    requests, _ = play(make_api().get_many(ids(2)), data(**states("RUNNING", "RUNNING")))
    assert len(requests) == 1


@pytest.mark.parametrize(
    ("response", "kind"),
    [(answer("", 503), ApiError), (answer("", 401), Unauthorized), (answer("<p>"), ApiError)],
)
def test_an_answer_to_none_of_the_runs_is_an_error_of_the_request(response: Any, kind: type) -> None:
    with pytest.raises(kind):
        play(make_api().get_many(ids(2)), response)


def test_an_id_that_is_no_number_spoils_nothing() -> None:
    (request,), found = play(make_api().get_many(["abc", "3", "4"]), data(**states("RUNNING", "RUNNING")))
    assert asked(request) == [3, 4]
    assert isinstance(found["abc"], BadInput) and isinstance(found["3"], Run)
