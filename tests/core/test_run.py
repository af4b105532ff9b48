from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_runs.core.run import Run, RunState, StatusTable, to_wait_for

TABLE = StatusTable(
    {
        RunState.PENDING: ("Queued",),
        RunState.RUNNING: ("running", "IN_PROGRESS"),
        RunState.SUCCEEDED: ("done",),
        RunState.FAILED: ("failed", "error"),
    }
)
WORDS = {
    "queued": RunState.PENDING,
    "running": RunState.RUNNING,
    "in_progress": RunState.RUNNING,
    "done": RunState.SUCCEEDED,
    "failed": RunState.FAILED,
    "error": RunState.FAILED,
}


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("write", [str.lower, str.upper, str.title, str.swapcase])
def test_a_word_means_its_state_in_any_letter_case(word: str, write: type[str]) -> None:
    assert TABLE.state(write(word)) is WORDS[word]


@given(st.text().filter(lambda word: word.casefold() not in WORDS))
def test_any_other_word_is_unknown(word: str) -> None:
    assert TABLE.state(word) is RunState.UNKNOWN


@given(st.text())
def test_no_word_means_success_unless_the_table_says_so(word: str) -> None:
    assert (TABLE.state(word) is RunState.SUCCEEDED) == (word.casefold() == "done")


def test_only_an_ended_run_is_terminal() -> None:
    ended = {state for state in RunState if state.is_terminal}
    assert ended == {RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED}


def test_one_word_cannot_stand_for_two_states() -> None:
    with pytest.raises(ValueError, match="'DONE' stands for two states"):
        StatusTable({RunState.SUCCEEDED: ("done",), RunState.FAILED: ("DONE",)})


def test_a_word_may_be_listed_twice_for_one_state() -> None:
    assert StatusTable({RunState.SUCCEEDED: ("done", "Done")}).words(RunState.SUCCEEDED) == ("done",)


def test_a_state_lists_its_words() -> None:
    assert TABLE.words(RunState.RUNNING) == ("running", "in_progress")
    assert TABLE.words(RunState.UNKNOWN) == ()


def a_run(run_id: str, state: RunState) -> Run:
    return Run(run_id, state, state.value)


@pytest.mark.parametrize(
    ("newest_first", "chosen"),
    [
        ([], None),
        (["failed"], 0),
        (["failed", "cancelled"], 0),
        (["running", "failed"], 0),
        (["pending", "running"], 1),
        (["failed", "running", "failed"], 1),
        (["running", "succeeded", "failed"], 1),
        (["succeeded", "succeeded", "running"], 1),
        (["unknown", "failed"], 0),
    ],
)
def test_of_several_runs_a_success_counts_else_the_first_that_goes_else_the_last(
    newest_first: list[str], chosen: int | None
) -> None:
    runs = [a_run(str(index), RunState(word)) for index, word in enumerate(newest_first)]
    assert to_wait_for(runs) is (None if chosen is None else runs[chosen])
