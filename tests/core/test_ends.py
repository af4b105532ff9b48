"""Each end of a run is told once, whatever happened between two looks."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import pendulum
import pytest

from airflow_provider_runs.core.ends import FEW, LATE, MOST_KNOWN, MOST_OPEN, Ends, Look, look_at_lists
from airflow_provider_runs.core.errors import ConnectionFailed, NotFound, RunsError
from airflow_provider_runs.core.run import Run, RunState

DAY = 1_700_000_000.0


def run(run_id: str, state: str = "succeeded", created: float | None = 0.0, finished: float = 0.0) -> Run:
    moments = [None if at is None else pendulum.from_timestamp(DAY + at) for at in (created, finished)]
    return Run(run_id, RunState(state), state, created_at=moments[0], finished_at=moments[1])


def going(run_id: str, created: float = 0.0) -> Run:
    return run(run_id, "running", created)


def look(active: Iterable[Run] = (), recent: Iterable[Run] = (), mark: float = 0.0) -> Look:
    active, recent = list(active), list(recent)
    return Look(
        {each.id for each in active},
        {each.id: each for each in (*active, *recent)},
        {each.id for each in recent},
        DAY + mark,
    )


def told(ends: Ends, seen: Look, asked: Mapping[str, Run | RunsError] | None = None) -> list[str]:
    return [each.id for each in ends.take(seen, asked or {})]


def restarted(ends: Ends) -> Ends:
    return Ends(json.loads(json.dumps(ends.record())))


def test_the_first_look_tells_nothing_of_what_had_ended_before() -> None:
    ends = Ends()
    assert told(ends, look([going("b")], [going("b"), run("a")])) == []
    assert told(ends, look([], [run("b"), run("a")])) == ["b"]


def test_a_run_that_ends_during_the_first_look_is_told() -> None:
    assert told(Ends(), look([going("a")], [run("a")])) == ["a"]


def test_a_run_that_began_and_ended_between_two_looks_is_told_once_over_a_restart() -> None:
    ends = Ends()
    told(ends, look([], [run("a")]))
    seen = look([], [run("b", created=5), run("a")], mark=5)
    ends = restarted(ends)
    assert told(ends, seen) == ["b"]
    assert told(ends, seen) == []
    assert told(restarted(ends), seen) == []


def test_a_run_that_went_before_a_restart_and_is_in_no_list_after_it_is_asked_about_and_told() -> None:
    ends = Ends()
    told(ends, look([going("old")], [run("new", created=9000)], mark=9000))
    ends, seen = restarted(ends), look([], [run("new", created=9000)], mark=9000)
    assert ends.unseen(seen) == ["old"]
    assert told(ends, seen, {"old": run("old")}) == ["old"]
    assert ends.unseen(seen) == []


def test_a_run_that_cannot_be_asked_about_is_asked_about_again_and_a_deleted_one_is_forgotten() -> None:
    ends = Ends()
    told(ends, look([going("a"), going("b")]))
    asked = {"a": ConnectionFailed("no answer", sent=True), "b": NotFound("none", status=404)}
    assert told(ends, look(), asked) == []
    assert ends.going == ["a"]


def test_two_runs_that_end_in_one_second_and_in_another_order_than_they_began_are_told_once() -> None:
    ends = Ends()
    told(ends, look([going("c"), going("b"), going("a")]))
    assert told(ends, look([going("a")], [run("c", finished=7), run("b", finished=7)])) == ["b", "c"]
    seen = look([], [run("c", finished=7), run("b", finished=7), run("a", finished=9)])
    assert told(ends, seen) == ["a"]
    assert told(ends, seen) == []


def test_a_run_that_goes_again_after_its_end_is_told_again() -> None:
    ends = Ends()
    told(ends, look([going("a")]))
    assert told(ends, look([], [run("a", "failed")])) == ["a"]
    assert told(ends, look([going("a")], [going("a")])) == []
    assert told(ends, look([], [run("a")])) == ["a"]


def test_old_runs_in_a_look_that_is_shared_with_a_watcher_that_knows_less_are_not_told() -> None:
    ends = Ends()
    told(ends, look([], [run("new", created=9000)], mark=9000))
    late = run("late", created=9000 - LATE)
    old = run("old", created=8999 - LATE)
    assert told(ends, look([], [run("new", created=9000), late, old], mark=9000)) == ["late"]


class Lists:
    """A service that has some runs."""

    def __init__(self, *runs: Run) -> None:
        self.runs = runs

    def list_runs(self, filters: Mapping[str, Any], *, since: float = 0.0, limit: int | None = None) -> Any:
        asked = yield filters, since, limit
        assert asked is None
        return list(self.runs)

    def active_filters(self, filters: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"goes": True}


def test_the_first_look_begins_at_the_newest_run_and_the_next_one_where_it_ended() -> None:
    api: Any = Lists(going("a", created=9), run("b", created=7), run("undated", created=None))
    flow = look_at_lists(api, {"job": "x"}, None)
    first = list(flow)
    since = DAY + 9 - LATE
    assert first == [
        ({"job": "x"}, 0.0, FEW),
        ({"job": "x", "goes": True}, 0.0, None),
        ({"job": "x"}, since, None),
    ]
    flow = look_at_lists(api, {}, DAY + 5)
    seen = taken(flow)
    assert (seen.mark, set(seen.began), list(seen.runs)) == (DAY + 9, {"a"}, ["a", "b", "undated"])
    assert taken(look_at_lists(Lists(), {}, None)).mark == 0.0  # type: ignore[arg-type]


def taken(flow: Any) -> Look:
    try:
        while True:
            next(flow)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def test_of_what_has_ended_only_what_the_next_look_may_list_is_remembered() -> None:
    ends = Ends()
    told(ends, look([], [run("new", created=9000), run("old"), run("undated", created=None)], mark=9000))
    assert ends.record()["ended"] == ["new", "undated"]


def test_what_is_remembered_is_bounded() -> None:
    ends = Ends()
    told(ends, look([going(str(number)) for number in reversed(range(MOST_OPEN + 5))]))
    assert len(ends.going) == MOST_OPEN and ends.going[0] == "5"
    told(ends, look([], [run("a")]))
    told(ends, look([], [], mark=9000))
    assert ends.record()["ended"] == []


@pytest.mark.parametrize("count", [0, 200, MOST_KNOWN - 1, MOST_KNOWN])
def test_a_full_record_is_no_larger_than_airflow_wants(count: int) -> None:
    ends = Ends()
    ids = [str(uuid.UUID(int=number)) for number in range(MOST_OPEN + count)]
    told(ends, look([going(run_id) for run_id in ids[count:]], [run(run_id) for run_id in ids[:count]]))
    record = ends.record()
    assert len(json.dumps(record)) < 65_000
    assert record["ended"] == ids[:count]
    left = min(MOST_OPEN, MOST_KNOWN - count)
    assert record["going"] == ends.going[MOST_OPEN - left :]


def test_a_look_at_many_runs_does_not_hold_up_the_event_loop() -> None:
    compared = 0

    class Id(str):
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    ends, seen = Ends(), look([going(Id(number)) for number in range(MOST_OPEN)])
    told(ends, seen)
    compared = 0
    told(ends, seen)
    assert compared <= 20 * MOST_OPEN


GOOD = {"v": 1, "mark": DAY, "going": ["a"], "ended": []}


def test_a_good_record_is_taken_over() -> None:
    assert Ends(GOOD).record() == GOOD


@pytest.mark.parametrize(
    "record",
    [
        GOOD | {"v": 99},
        {"v": 1},
        GOOD | {"mark": None},
        GOOD | {"mark": math.nan},
        GOOD | {"going": "a"},
        GOOD | {"ended": [1]},
        [],
    ],
)
def test_a_record_that_is_not_understood_counts_as_none(record: Any) -> None:
    assert Ends(record).record() == Ends().record()
