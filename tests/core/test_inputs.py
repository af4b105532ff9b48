from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

import pendulum
import pytest
from hypothesis import example, given, note, settings
from hypothesis import strategies as st

from airflow_provider_runs.core.errors import BadInput
from airflow_provider_runs.core.inputs import (
    boolean,
    instant,
    integer,
    iso_utc,
    json_object,
    json_value,
    one_of,
    required_text,
    seconds,
    text_list,
    unknown_names,
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.datetimes(timezones=st.none() | st.just(UTC) | st.just(timezone(timedelta(hours=14))))
    | st.dates()
    | st.timedeltas()
    | st.text("0123456789-+:.TZ /PW", max_size=30)
    | st.datetimes().map(datetime.isoformat)
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
    ),
    max_leaves=5,
)
CHECKS: dict[str, Callable[[Any], Any]] = {
    "text": lambda value: required_text("x", value),
    "integer": lambda value: integer("x", value, at_least=0),
    "seconds": lambda value: seconds("x", value),
    "one of": lambda value: one_of("x", value, ("a", "b")),
    "json": lambda value: json_object("x", value),
    "any json": lambda value: json_value("x", value),
    "iso": lambda value: iso_utc("x", value),
}


@settings(max_examples=200)
@given(value=values)
@example(value=10**5000)
@example(value=-(10**5000))
@example(value=[10**5000])
@example(value={"a": 10**5000})
@example(value="9" * 5000)
@example(value=10**400)
@example(value="[" * 50_000)
@example(value="0001-01-01T00:00:00+14:00")
@example(value="9999-12-31T23:59:59-14:00")
@example(value="2026-01-01/2026-01-02")
@example(value="2026-01-01/P1Y")
@example(value="2026-13-45")
def test_nothing_but_bad_input_comes_out(value: Any) -> None:
    for name, check in CHECKS.items():
        note(name)
        with contextlib.suppress(BadInput):
            check(value)


# Names


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(BadInput, match=r"^a run has no five, four; it has one, two$"):
        unknown_names("run", ["one", "four", "five"], ("one", "two"))
    unknown_names("run", ["two"], ("one", "two"))


# Texts


def test_a_text_loses_the_space_around_it() -> None:
    assert required_text("x", " a b ") == "a b"


@pytest.mark.parametrize("value", ["", "  ", "None", " None "])
def test_a_text_that_a_template_made_of_nothing_is_refused(value: str) -> None:
    with pytest.raises(BadInput, match=r"x is empty .*if it is a template, it rendered to nothing"):
        required_text("x", value)


@pytest.mark.parametrize("value", [None, 7, b"a", ["a"]])
def test_a_text_is_a_text(value: object) -> None:
    with pytest.raises(BadInput, match="x must be a text, not "):
        required_text("x", value)


# Numbers


@pytest.mark.parametrize(("value", "number"), [(7, 7), ("7", 7), (" 7 ", 7), ("+7", 7), (0, 0), ("007", 7)])
def test_a_whole_number_may_be_a_text(value: object, number: int) -> None:
    assert integer("x", value, at_least=0) == number


@pytest.mark.parametrize(
    "value", [None, True, False, 7.0, "7.0", "", "seven", "1_000", "\u0667", [7], "9" * 41]
)
def test_anything_else_is_no_whole_number(value: object) -> None:
    with pytest.raises(BadInput, match="x must be a whole number, not "):
        integer("x", value, at_least=0)


@pytest.mark.parametrize("value", [0, "0", -1, "-1"])
def test_a_whole_number_has_a_lower_bound(value: object) -> None:
    with pytest.raises(BadInput, match="x must be at least 1, not "):
        integer("x", value, at_least=1)


@pytest.mark.parametrize(
    ("value", "number"),
    [(None, None), (7, 7.0), (0.5, 0.5), ("7", 7.0), (timedelta(minutes=1), 60.0)],
)
def test_a_duration_is_a_number_of_seconds_or_a_timedelta(value: object, number: float | None) -> None:
    assert seconds("x", value) == number


@pytest.mark.parametrize(
    "value", [0, -1, True, "", "soon", float("nan"), float("inf"), timedelta(0), timedelta(-1), [1], 10**400]
)
def test_a_duration_is_above_0(value: object) -> None:
    with pytest.raises(BadInput, match="x must be a number of seconds above 0 or a timedelta, not "):
        seconds("x", value)


# Choices


def test_a_choice_is_one_of_a_few() -> None:
    assert one_of("x", "a", ("a", "b")) == "a"
    for value in ("c", "A", None, ["a"]):
        with pytest.raises(BadInput, match="x must be one of a, b, not "):
            one_of("x", value, ("a", "b"))


# JSON objects


@given(st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.booleans())))
def test_an_object_comes_back_as_it_was_given(value: dict[str, Any]) -> None:
    assert json_object("x", value) == value == json_object("x", json.dumps(value))


def test_no_object_is_an_empty_one() -> None:
    assert json_object("x", None) == {}


def test_an_object_is_copied_through_and_through() -> None:
    inner = [1]
    given_ = {"a": inner}
    copy = json_object("x", given_)
    copy["a"].append(2)
    copy["b"] = 1
    assert given_ == {"a": [1]}


@pytest.mark.parametrize("value", ["[]", '"a"', "7", "null", [], 7, True])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(BadInput, match="x must be a mapping or the text of a JSON object"):
        json_object("x", value)


def test_an_object_has_texts_as_keys() -> None:
    with pytest.raises(BadInput, match="x must have texts as keys"):
        json_object("x", {1: 2})


@pytest.mark.parametrize("value", ["", "{", {"a": float("nan")}, {"a": object()}, {"a": {(1,): 2}}])
def test_an_object_that_json_cannot_express_is_refused(value: object) -> None:
    with pytest.raises(BadInput, match="x cannot be written as JSON"):
        json_object("x", value)


# Instants


@pytest.mark.parametrize(
    ("value", "instant"),
    [
        (None, None),
        ("2026-03-01", "2026-03-01T00:00:00+00:00"),
        ("2026-03-01T12:00:00", "2026-03-01T12:00:00+00:00"),
        ("2026-03-01 12:00", "2026-03-01T12:00:00+00:00"),
        ("2026-03-01T12:00:00Z", "2026-03-01T12:00:00+00:00"),
        (" 2026-03-01T12:00:00+02:00 ", "2026-03-01T10:00:00+00:00"),
        ("2026-03-01T12:00:00.25+00:00", "2026-03-01T12:00:00.250000+00:00"),
        (datetime(2026, 3, 1, 12), "2026-03-01T12:00:00+00:00"),
        (datetime(2026, 3, 1, 12, tzinfo=UTC), "2026-03-01T12:00:00+00:00"),
        (datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=-5))), "2026-03-01T17:00:00+00:00"),
    ],
)
def test_an_instant_is_written_in_utc(value: object, instant: str | None) -> None:
    assert iso_utc("x", value) == instant


def test_an_instant_without_zone_is_not_in_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        for value in ("2026-03-01T12:00:00", datetime(2026, 3, 1, 12)):
            assert iso_utc("x", value) == "2026-03-01T12:00:00+00:00"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "value",
    [
        "today",
        "12:00",
        "2026-02-30",
        "2026",
        "20260301",
        "2026-01-01/2026-01-02",
        "2026-01-01/P1Y",
        "2026-03-01Tx",
    ],
)
def test_a_text_that_is_no_instant_is_refused(value: str) -> None:
    with pytest.raises(BadInput, match="x must be a date and time in ISO 8601, not "):
        iso_utc("x", value)


@pytest.mark.parametrize("value", [7, date(2026, 3, 1), ""])
def test_what_is_no_text_and_no_datetime_is_refused(value: object) -> None:
    with pytest.raises(BadInput, match=r"^x "):
        iso_utc("x", value)


@pytest.mark.parametrize(
    "value",
    [
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))),
        "9999-12-31T23:59:59-10:00",
    ],
)
def test_an_instant_beyond_the_calendar_is_refused(value: object) -> None:
    with pytest.raises(BadInput, match="x is out of range"):
        iso_utc("x", value)


@given(st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)), st.integers(-14, 14))
def test_an_instant_stays_the_same_instant(moment: datetime, offset: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(hours=offset)))
    written = iso_utc("x", aware)
    assert written is not None and datetime.fromisoformat(written) == aware
    assert iso_utc("x", aware.isoformat()) == written


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, True), (True, True), (False, False), ("true", True), (" False ", False), ("TRUE", True)],
)
def test_a_yes_or_no_may_be_text(value: Any, expected: bool) -> None:
    assert boolean("flag", value, default=True) is expected


@pytest.mark.parametrize("value", ["", "yes", 1, 0, "None", [], {}])
def test_anything_else_is_no_yes_or_no(value: Any) -> None:
    with pytest.raises(BadInput, match="flag must be true or false"):
        boolean("flag", value, default=True)


@pytest.mark.parametrize(
    "value",
    [
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        datetime(2026, 1, 2, 12, 4, 5, tzinfo=timezone(timedelta(hours=9))),
        "2026-01-02T03:04:05Z",
        "2026-01-02 03:04:05+00:00",
        "2026-01-02T12:04:05+09:00",
        pendulum.datetime(2026, 1, 2, 3, 4, 5),
    ],
)
def test_an_instant_is_the_same_in_every_form(value: Any) -> None:
    assert instant("since", value) == 1767323045.0


@pytest.mark.parametrize("value", [datetime(2026, 1, 2), "2026-01-02T03:04:05", "2026-01-02"])
def test_an_instant_without_a_zone_is_refused(value: Any) -> None:
    with pytest.raises(BadInput, match="since needs a time zone"):
        instant("since", value)


@pytest.mark.parametrize("value", ["", "None", "yesterday", "12:30", 5, None, "2026-13-01T00:00:00Z"])
def test_what_is_no_instant_is_refused(value: Any) -> None:
    with pytest.raises(BadInput, match="since"):
        instant("since", value)


def test_an_instant_before_time_began_is_refused() -> None:
    with pytest.raises(BadInput, match="since is out of range"):
        instant("since", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5))))


# Limits, and JSON of any kind


def test_a_number_may_have_a_highest_value() -> None:
    assert integer("x", 10, at_least=0, at_most=10) == 10
    with pytest.raises(BadInput, match="x must be at most 10, not 11"):
        integer("x", "11", at_least=0, at_most=10)


def test_a_text_may_have_a_greatest_length() -> None:
    assert required_text("x", " abc ", longest=3) == "abc"
    with pytest.raises(BadInput, match="x must have 3 characters at most, not 4"):
        required_text("x", "abcd", longest=3)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (None, None),
        (True, True),
        (1.5, 1.5),
        ([1, {"a": (2,)}], [1, {"a": [2]}]),
        (' {"a": 1} ', {"a": 1}),
        ("null", None),
        ('"text"', "text"),
        (MappingProxyType({"a": MappingProxyType({"b": 1})}), {"a": {"b": 1}}),
    ],
)
def test_json_of_any_kind_is_read(value: Any, read: Any) -> None:
    assert json_value("x", value) == read


@pytest.mark.parametrize(
    "value", ["text", "", "{", {1, 2}, [b"x"], float("inf"), datetime.now(UTC), "[" * 100_000]
)
def test_what_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises(BadInput, match=r"^x is no JSON"):
        json_value("x", value)


# Lists of texts


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (["b", "a", "b"], ["b", "a"]),
        ((" a ", 7, "7"), ["a", "7"]),
        ('["b", 7]', ["b", "7"]),
        (" [ \n'b', \"c'\"] ", ["b", "c'"]),
        ("('b',)", ["b"]),
        (deque(["b"]), ["b"]),
    ],
)
def test_a_list_of_texts_is_read_in_order_and_each_once(value: Any, read: list[str]) -> None:
    assert text_list("x", value) == read


@pytest.mark.parametrize(
    "value",
    [
        "",
        "None",
        "a",
        "a,b",
        '"a"',
        "7",
        "[",
        "[" * 100_000,
        "{}",
        "__import__('os')",
        None,
        7,
        {"a": 1},
        {"a"},
    ],
)
def test_what_is_no_list_is_refused(value: Any) -> None:
    with pytest.raises(BadInput, match=r"^x must be a list or the text of one, not "):
        text_list("x", value)


@pytest.mark.parametrize("value", [[], (), "[]", "()"])
def test_an_empty_list_is_refused(value: Any) -> None:
    with pytest.raises(BadInput, match=r"^x is empty: there is nothing to wait for"):
        text_list("x", value)


@pytest.mark.parametrize(
    "value", [["a", ""], ["a", "None"], ["a", None], ["a", True], ["a", 1.5], ["a", ["b"]]]
)
def test_a_list_that_holds_something_else_is_refused(value: Any) -> None:
    with pytest.raises(BadInput, match=r"^x\[1\] "):
        text_list("x", value)
