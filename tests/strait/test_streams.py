"""What the frames of a run's stream mean, as the contract has them, and each event once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_runs.core.sse import Event
from airflow_provider_runs.strait.streams import Events, line_of, line_of_listed
from tests.answers import fuzzed, values

RUN = {"run_id": "r1", "timestamp": "2026-07-01T10:00:00.123456789Z"}


def frame(value: Any, event: str = "message") -> Event:
    return Event(event, value if isinstance(value, str) else json.dumps(value))


def event(message: str, kind: str = "log", **more: Any) -> Event:
    return frame({"type": "event", "event_type": kind, "level": "info", "message": message, **RUN, **more})


def row(number: int, message: str, kind: str = "log", **more: Any) -> dict[str, Any]:
    shown = {"type": kind, "level": "info", "message": message, "created_at": RUN["timestamp"]}
    return {"id": f"e{number}", "run_id": "r1", **shown, **more}


@pytest.mark.parametrize(
    "data",
    ["", "completed", "[]", "null", '"status"', "{", "[" * 100_000, '{"error":"failed to subscribe"}', "NaN"],
)
def test_what_is_no_object_of_a_kind_that_is_known_means_nothing(data: str) -> None:
    for name in ("message", "error", "activity"):
        assert line_of(frame(data, name)) is None


@pytest.mark.parametrize(
    ("kind", "more", "line"),
    [
        ("log", {}, "log | text"),
        ("log", {"level": "warn"}, "log warn | text"),
        ("log", {"level": ""}, "log | text"),
        ("log", {"level": None}, "log | text"),
        ("log", {"level": " \n"}, "log | text"),
        ("log", {"level": "x\n\x1b[2J[now] INFO"}, "log x  [2J[now] INFO | text"),
        ("log", {"level": "x" * 41}, f"log {'x' * 40}... | text"),
        ("error", {"level": "error"}, "error | text"),
        ("progress", {"data": {"percent": 50}}, 'progress | text {"percent": 50}'),
        ("progress", {"data": {"percent": 50}, "message": ""}, 'progress | {"percent": 50}'),
        ("progress", {"message": None, "data": {}}, "progress | "),
        ("log", {"message": " two\nlines \n"}, "log | two\nlines"),
        ("log", {"data": ["ü", 1]}, 'log | text ["ü", 1]'),
        ("state_change", {}, None),
        ("usage", {}, None),
        (None, {}, None),
        ({"a": 1}, {}, None),
    ],
)
def test_what_a_job_says_is_the_same_line_from_the_stream_and_from_the_list(
    kind: Any, more: dict[str, Any], line: str | None
) -> None:
    assert line_of(event(**{"message": "text", "kind": kind, **more})) == line
    assert line_of_listed(row(1, **{"message": "text", "kind": kind, **more})) == line


def test_data_are_bounded() -> None:
    line = line_of(event("text", data={"a": "x" * 10**6}))
    assert line is not None and len(line) < 600 and line.endswith("xxx...")


def test_a_change_of_the_status_is_no_line() -> None:
    assert line_of(frame({"type": "status_change", "from": "queued", "to": "executing", **RUN})) is None


@fuzzed
@given(values, st.text())
def test_nothing_that_comes_is_an_error(value: Any, text: str) -> None:
    events = Events()
    for shown in (
        frame(value),
        frame(text),
        event(value),
        event("a", value),
        event("a", level=value, data=value),
    ):
        line_of(shown)
        events.come(shown)
    listed = [{"id": value, "type": "log", "message": value}, {"id": "1", "type": value}]
    events.listed([*listed, *([value] if isinstance(value, dict) else [])])


# Each event once


def test_what_was_before_the_stream_is_listed_and_what_comes_through_it_is_not_listed_again() -> None:
    events = Events()
    assert events.listed([row(1, "a"), row(2, "b"), row(3, "x", "state_change")]) == ["log | a", "log | b"]
    assert events.come(event("c")) == "log | c"
    assert events.come(event("d")) == "log | d"
    assert events.listed([row(1, "a"), row(2, "b"), row(4, "c"), row(5, "d"), row(6, "e")]) == ["log | e"]
    assert events.listed([row(4, "c"), row(5, "d"), row(6, "e")]) == []


def test_what_the_list_had_does_not_come_through_the_stream_again() -> None:
    events = Events()
    assert events.listed([row(1, "a"), row(2, "b")]) == ["log | a", "log | b"]
    assert events.come(event("b")) is None
    assert events.come(event("b")) == "log | b"


def test_the_same_words_said_again_are_written_again() -> None:
    events = Events()
    assert events.listed([row(1, "tick"), row(2, "tick")]) == ["log | tick"] * 2
    events.settle()
    assert events.come(event("tick")) == "log | tick"
    assert events.come(event("tick")) == "log | tick"
    ticks = [row(number, "tick") for number in range(1, 6)]
    assert events.listed(ticks) == ["log | tick"]


def test_a_line_that_was_taken_for_known_wrongly_comes_with_the_next_list() -> None:
    events = Events()
    assert events.listed([row(1, "tick")]) == ["log | tick"]
    assert events.come(event("tick")) is None
    assert events.listed([row(1, "tick"), row(2, "tick")]) == ["log | tick"]


def test_listed_events_without_an_id_are_left_out() -> None:
    assert Events().listed([{"type": "log", "message": "a"}, {"id": 7, "type": "log"}]) == []
