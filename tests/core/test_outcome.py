from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_runs.core.outcome import (
    MOST_TOLD,
    REASON_LENGTH,
    BadEvent,
    Limit,
    Outcome,
    Tally,
    Verdict,
)
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
    "many": Outcome.of_many(
        "5 runs",
        [
            Outcome(Verdict.SUCCEEDED, "r1", "done"),
            Outcome(Verdict.FAILED, "r2", "error", "block load: ValueError"),
            Outcome(Verdict.SUCCEEDED, "r3", "done"),
            Outcome(Verdict.FAILED, "r4", "error"),
            Outcome(Verdict.UNREACHABLE, "r5", "running", "Mage cannot be asked"),
        ],
    ),
    "many_timeout": Outcome.of_many(
        "2 runs",
        [
            Outcome(Verdict.TIMEOUT, "r1", "running", "run r1 had not ended", Limit.TIMEOUT),
            Outcome(Verdict.CANCELLED, "r2", "cancelled"),
        ],
    ),
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
near_tallies = st.fixed_dictionaries(
    {},
    optional={
        "outcome": words | values,
        "which": st.none() | limits | values,
        "status": values,
        "count": st.just(1) | values,
        "told": st.just([]) | st.just([["r1", None, None]]) | values,
    },
)
near_events = st.fixed_dictionaries(
    {},
    optional={
        "v": st.just(1) | values,
        "outcome": words | values,
        "run_id": st.just("r1") | values,
        "status": values,
        "message": values,
        "which": st.none() | limits | values,
        "runs": values | st.lists(near_tallies, max_size=3),
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
    if (outcome.tallies is not None) or event.get("runs") is not None:
        assert outcome.tallies and len(outcome.tallies) == len(event["runs"])
        # It is as good as the worst of the runs.
        verdicts = {tally.verdict for tally in outcome.tallies}
        assert outcome.verdict is not Verdict.SUCCEEDED or verdicts == {Verdict.SUCCEEDED}


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


# Lists of runs

ends = st.one_of(
    st.builds(
        Outcome,
        st.sampled_from([verdict for verdict in Verdict if verdict is not Verdict.TIMEOUT]),
        st.text(min_size=1),
        st.none() | st.sampled_from(["done", "error"]),
        texts,
    ),
    st.builds(
        Outcome, st.just(Verdict.TIMEOUT), st.text(min_size=1), texts, texts, st.sampled_from(list(Limit))
    ),
)
lists_of_ends = st.lists(ends, min_size=1, max_size=50)


def ended(*words: str) -> list[Outcome]:
    """Return how runs ended: each word is a verdict, or a limit."""
    return [
        Outcome(Verdict.TIMEOUT, f"r{index}", "word", which=Limit(word))
        if word in {limit.value for limit in Limit}
        else Outcome(Verdict(word), f"r{index}", "word")
        for index, word in enumerate(words)
    ]


@given(lists_of_ends)
def test_the_outcome_of_a_list_survives_its_event(outcomes: list[Outcome]) -> None:
    outcome = Outcome.of_many("the list", outcomes)
    assert Outcome.from_event(json.loads(json.dumps(outcome.event()))) == outcome


@given(lists_of_ends)
def test_every_run_of_a_list_is_counted_and_every_one_that_did_not_succeed_is_named(
    outcomes: list[Outcome],
) -> None:
    tallies = Outcome.of_many("the list", outcomes).tallies
    assert tallies is not None and sum(tally.count for tally in tallies) == len(outcomes)
    for tally in tallies:
        alike = [
            one
            for one in outcomes
            if (one.verdict, one.which) == (tally.verdict, tally.which)
            and (not one.verdict.is_of_the_run or one.status == tally.status)
        ]
        assert tally.count == len(alike)
        named = [] if tally.verdict is Verdict.SUCCEEDED else alike[:MOST_TOLD]
        assert [one.run_id for one in tally.told] == [one.run_id for one in named]


WORST_FIRST = [
    "execution_timeout",
    "timeout",
    "no_progress_timeout",
    "failed",
    "unreachable",
    "unknown",
    "cancelled",
    "succeeded",
]


@given(st.lists(st.sampled_from(WORST_FIRST), min_size=1))
def test_the_worst_end_counts_whatever_the_order(words: list[str]) -> None:
    outcome = Outcome.of_many("the list", ended(*words))
    worst = min(words, key=WORST_FIRST.index)
    assert (outcome.which or outcome.verdict).value == worst
    assert (outcome.verdict is Verdict.SUCCEEDED) == (set(words) == {"succeeded"})


def test_a_thousand_runs_that_failed_make_a_small_event() -> None:
    long = "reason " * 1000
    outcome = Outcome.of_many(
        "the list", [Outcome(Verdict.FAILED, f"{index:036}", "error", long) for index in range(1000)]
    )
    assert len(json.dumps(outcome.event())) < 7000
    assert outcome.tallies is not None
    assert outcome.tallies[0].told[0].message == long[:REASON_LENGTH] + "..."
    assert f"{999:036}" not in outcome.described("Mage")


def test_a_list_is_described_the_worst_first() -> None:
    text = KEPT["many"].described("Mage")
    assert text == (
        "Of 5 Mage runs, 2 failed (error): r2: block load: ValueError; r4. "
        "1 could not be asked about: r5 (running): Mage cannot be asked. 2 succeeded (done)"
    )
    assert KEPT["many_timeout"].described("Mage") == (
        "Of 2 Mage runs, 1 had not ended when timeout was over: r1 (running). 1 cancelled (cancelled): r2"
    )
    crowd = Outcome.of_many("the list", ended(*["unknown"] * 25))
    assert crowd.described("Mage").endswith("; r19 (word); and 5 more")


@pytest.mark.parametrize(
    "change",
    [
        {"outcome": "success"},
        {"which": "timeout"},
        {"which": "other"},
        {"count": 0},
        {"count": -1},
        {"count": True},
        {"count": "2"},
        {"count": None},
        {"told": []},
        {"told": None},
        {"told": [["r2"]]},
        {"told": "r2"},
    ],
    ids=str,
)
def test_an_event_that_counts_its_runs_in_another_way_is_refused(change: dict[str, Any]) -> None:
    first, *others = GOLDEN["many"]["runs"]
    with pytest.raises(BadEvent, match="about run 5 runs counts its runs in an unknown way"):
        Outcome.from_event({**GOLDEN["many"], "runs": [{**first, **change}, *others]})


@pytest.mark.parametrize("key", ["outcome", "which", "status", "count", "told"])
def test_an_event_whose_count_lacks_something_is_refused(key: str) -> None:
    first = {name: value for name, value in GOLDEN["many"]["runs"][0].items() if name != key}
    with pytest.raises(BadEvent):
        Outcome.from_event({**GOLDEN["many"], "runs": [first]})


@pytest.mark.parametrize("runs", [[], {}, "r1", 7, [None]])
def test_an_event_with_no_list_of_counts_is_refused(runs: Any) -> None:
    with pytest.raises(BadEvent):
        Outcome.from_event({**GOLDEN["succeeded"], "runs": runs})


def test_an_event_that_contradicts_its_counts_is_refused() -> None:
    with pytest.raises(BadEvent, match="contradicts"):
        Outcome.from_event({**GOLDEN["succeeded"], "runs": GOLDEN["many"]["runs"]})
    done = Tally(Verdict.SUCCEEDED, None, "done", 1).to_json()
    assert Outcome.from_event({**GOLDEN["succeeded"], "runs": [done]}).verdict is Verdict.SUCCEEDED
