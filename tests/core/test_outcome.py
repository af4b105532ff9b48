from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_runs.core.outcome import BadEvent, Limit, Outcome, Verdict
from airflow_provider_runs.core.run import Run, RunState

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "event.json").read_text())
KEPT = {
    "succeeded": Outcome(Verdict.SUCCEEDED, "r1", "done"),
    "failed": Outcome(Verdict.FAILED, "r1", "error", "block load: ValueError"),
    "cancelled": Outcome(Verdict.CANCELLED, "r1", "cancelled"),
    "timeout": Outcome(Verdict.TIMEOUT, "r1", "running", "run r1 had not ended", Limit.TIMEOUT),
    "execution_timeout": Outcome(
        Verdict.TIMEOUT, "r1", None, "run r1 had not ended", Limit.EXECUTION_TIMEOUT
    ),
    "no_progress_timeout": Outcome(
        Verdict.TIMEOUT, "r1", "initial", "run r1 stays 'initial'", Limit.NO_PROGRESS_TIMEOUT
    ),
    "unreachable": Outcome(Verdict.UNREACHABLE, "r1", None, "Mage cannot be asked"),
    "unknown": Outcome(Verdict.UNKNOWN, "r1", "weird", "Mage says 'weird'"),
}

texts = st.none() | st.text()
outcomes = st.one_of(
    st.builds(
        Outcome,
        st.sampled_from([verdict for verdict in Verdict if verdict is not Verdict.TIMEOUT]),
        st.text(min_size=1),
        texts,
        texts,
    ),
    st.builds(
        Outcome, st.just(Verdict.TIMEOUT), st.text(min_size=1), texts, texts, st.sampled_from(list(Limit))
    ),
)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
words = st.sampled_from([*(verdict.value for verdict in Verdict), "SUCCEEDED", "success", "Succeeded", ""])
limits = st.sampled_from([*(limit.value for limit in Limit), "other", ""])
near_events = st.fixed_dictionaries(
    {},
    optional={
        "v": st.just(1) | values,
        "outcome": words | values,
        "run_id": st.just("r1") | values,
        "status": values,
        "message": values,
        "which": st.none() | limits | values,
        "more": values,
    },
)


def test_the_golden_events_cover_every_outcome_and_limit() -> None:
    assert {event["outcome"] for event in GOLDEN.values()} == {verdict.value for verdict in Verdict}
    assert {event["which"] for event in GOLDEN.values()} - {None} == {limit.value for limit in Limit}
    assert GOLDEN.keys() == KEPT.keys()


@pytest.mark.parametrize("name", GOLDEN)
def test_an_event_of_version_1_stays_as_it_is(name: str) -> None:
    assert json.dumps(KEPT[name].event()) == json.dumps(GOLDEN[name])
    assert Outcome.from_event(GOLDEN[name]) == KEPT[name]


@given(outcomes)
def test_an_outcome_survives_its_event(outcome: Outcome) -> None:
    assert Outcome.from_event(json.loads(json.dumps(outcome.event()))) == outcome


@given(values | near_events)
def test_any_other_event_is_refused_and_never_reads_as_success(event: Any) -> None:
    try:
        outcome = Outcome.from_event(event)
    except BadEvent:
        return
    assert event["v"] == 1 and outcome.run_id == event["run_id"] != ""
    assert outcome.verdict.value == event["outcome"]
    assert (outcome.which.value if outcome.which else None) == event.get("which")


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": None},
        {"v": "1"},
        {"outcome": "success"},
        {"outcome": "SUCCEEDED"},
        {"outcome": None},
        {"outcome": ["succeeded"]},
        {"run_id": None},
        {"run_id": ""},
        {"run_id": 7},
        {"which": "timeout"},
        {"which": "other"},
    ],
)
def test_a_good_event_with_one_fault_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadEvent):
        Outcome.from_event({**GOLDEN["succeeded"], **change})


@pytest.mark.parametrize("key", ["v", "outcome", "run_id"])
def test_an_event_without_what_matters_is_refused(key: str) -> None:
    with pytest.raises(BadEvent):
        Outcome.from_event({name: value for name, value in GOLDEN["succeeded"].items() if name != key})


def test_a_timeout_must_say_which_limit_it_was() -> None:
    with pytest.raises(BadEvent, match="about run r1 does not say which limit"):
        Outcome.from_event({**GOLDEN["timeout"], "which": None})


@pytest.mark.parametrize("event", [None, "succeeded", ["succeeded"], 1])
def test_a_missing_event_is_refused(event: object) -> None:
    with pytest.raises(BadEvent, match="without a usable event"):
        Outcome.from_event(event)


def test_what_a_later_release_adds_to_an_event_is_ignored() -> None:
    assert Outcome.from_event({**GOLDEN["failed"], "more": [1]}) == KEPT["failed"]


@pytest.mark.parametrize(
    ("state", "verdict"),
    [
        (RunState.SUCCEEDED, Verdict.SUCCEEDED),
        (RunState.FAILED, Verdict.FAILED),
        (RunState.CANCELLED, Verdict.CANCELLED),
    ],
)
def test_an_ended_run_is_its_outcome(state: RunState, verdict: Verdict) -> None:
    run = Run("r1", state, "word", message="said")
    assert Outcome.of(run) == Outcome(verdict, "r1", "word", "said")
