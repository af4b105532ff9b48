from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_runs.core import clock
from airflow_provider_runs.core.errors import ConnectionFailed
from airflow_provider_runs.core.http import Request, Response
from airflow_provider_runs.core.retry import (
    NO_RETRY,
    RETRY_AFTER_CAP,
    RetryPolicy,
    backoff_seconds,
    may_repeat,
    retry_after,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SAFE = Request("GET", "http://host", safe_to_repeat=True)
UNSAFE = Request("POST", "http://host")
seconds = st.floats(0, 1e6)


def told(value: str) -> float | None:
    clock.current.set_time(NOW.timestamp())  # type: ignore[attr-defined]
    return retry_after(Response(429, {"retry-after": value}))


@given(st.integers(1, 10_000), seconds, seconds)
def test_backoff_is_never_negative_and_never_above_its_cap(attempt: int, base: float, cap: float) -> None:
    assert 0 <= backoff_seconds(attempt, base, cap) <= cap


@given(st.integers(1, 20), st.floats(0.01, 10))
def test_backoff_doubles_with_a_jitter_of_a_half(attempt: int, base: float) -> None:
    full = base * 2 ** (attempt - 1)
    assert full / 2 <= backoff_seconds(attempt, base, 1e9) <= full


PARTS = [
    "Fri,",
    "31",
    "Dec",
    "2026",
    "23:59:59",
    "+0100",
    "-9999",
    "+99:99",
    "GMT",
    "12.5",
    ":",
    ",",
    "-",
    "99999",
]
date_like = st.lists(st.sampled_from(PARTS), max_size=8).map(" ".join)
numbers = st.floats().map(str) | st.integers().map(str)


@given(st.text() | numbers | st.datetimes().map(str) | date_like)
@example("inf")
@example("-inf")
@example("nan")
@example("9" * 5000)
@example("Mon, 01 Jan 0001 00:00:00 +2359")
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("Fri, 31 Dec 99999 23:59:59 GMT")
@example("Fri, 31 Dec 2026 23:59:59 +" + "9" * 20)
@example("Fri, 31 Dec 2026 23:59:59 +" + "9" * 5000)
@example("Wed, 3 Apr 2002 12.34.56.78+0800")
def test_whatever_a_service_sends_is_no_wait_or_a_bounded_one(value: str) -> None:
    wait = told(value)
    assert wait is None or 0 <= wait <= RETRY_AFTER_CAP


@pytest.mark.parametrize("value", ["", "  ", "soon", "nan", "Feb 31", "12 monkeys"])
def test_an_unreadable_wait_is_none(value: str) -> None:
    assert told(value) is None


def test_a_missing_wait_is_none() -> None:
    assert retry_after(Response(429)) is None


@pytest.mark.parametrize(
    ("value", "wait"), [("7", 7), (" 7 ", 7), ("0.5", 0.5), ("0", 0), ("-5", 0), ("86400", RETRY_AFTER_CAP)]
)
def test_a_wait_in_seconds_is_capped(value: str, wait: float) -> None:
    assert told(value) == wait


@given(st.integers(-1000, 1000), st.integers(-12, 12))
def test_a_wait_given_as_a_date_is_the_time_until_then(ahead: int, offset: int) -> None:
    moment = (NOW + timedelta(seconds=ahead)).astimezone(timezone(timedelta(hours=offset)))
    assert told(format_datetime(moment)) == min(max(ahead, 0), RETRY_AFTER_CAP)


@pytest.mark.parametrize("zone", ["GMT", "-0000", ""])
def test_a_date_in_whatever_zone_words_is_utc(zone: str) -> None:
    assert told(f"Sun, 01 Mar 2026 12:00:30 {zone}".strip()) == 30


def test_a_date_is_measured_by_the_clock() -> None:
    ahead = format_datetime(datetime.fromtimestamp(clock.time(), UTC) + timedelta(seconds=60))
    wait = retry_after(Response(503, {"retry-after": ahead}))
    assert wait is not None and 50 < wait <= 60


@pytest.mark.parametrize("sent", [True, False])
def test_without_answer_only_what_is_safe_or_never_left_is_repeated(sent: bool) -> None:
    lost = ConnectionFailed("lost", sent=sent)
    assert may_repeat(SAFE, lost)
    assert may_repeat(UNSAFE, lost) is not sent


@given(st.integers(100, 599))
def test_an_unsafe_request_is_repeated_only_after_429(status: int) -> None:
    assert may_repeat(UNSAFE, Response(status)) is (status == 429)


@given(st.integers(100, 599))
def test_a_safe_request_is_repeated_only_after_a_temporary_status(status: int) -> None:
    assert may_repeat(SAFE, Response(status, body=b"{}")) is (status in {408, 425, 429, 500, 502, 503, 504})


@pytest.mark.parametrize("status", [200, 201, 202, 206])
@pytest.mark.parametrize("body", [b"<html>", b"", b"{"])
def test_a_good_answer_that_is_no_json_is_repeated_where_a_502_would_be(status: int, body: bytes) -> None:
    assert may_repeat(SAFE, Response(status, body=body))
    assert not may_repeat(UNSAFE, Response(status, body=body))
    assert may_repeat(replace(SAFE, may_be_empty=True), Response(status, body=body)) is bool(body)


@pytest.mark.parametrize("status", [204, 205, 302, 404])
def test_what_has_no_body_or_is_no_good_answer_need_not_be_json(status: int) -> None:
    assert not may_repeat(SAFE, Response(status))
    assert not may_repeat(SAFE, Response(200, body=b"null"))


@given(st.integers(1, 100))
def test_the_policy_waits_at_least_as_long_as_the_service_asks(attempt: int) -> None:
    policy = RetryPolicy(base=1, cap=30)
    assert 60 <= policy.wait(attempt, Response(429, {"retry-after": "60"})) <= 60
    assert 0.5 <= policy.wait(attempt, Response(503, {"retry-after": "0"})) <= 30
    assert 0.5 <= policy.wait(attempt, ConnectionFailed("lost", sent=True)) <= 30


def test_no_retry_means_one_request() -> None:
    assert NO_RETRY.attempts == 1


@pytest.mark.parametrize(
    ("safe", "body", "again"),
    [
        (False, b"Too Many Requests", True),
        (False, b"database admission control throttled", False),
        (True, b"database admission control throttled", True),
    ],
)
def test_a_refusal_of_which_nobody_knows_the_outcome_is_repeated_only_where_that_is_safe(
    safe: bool, body: bytes, again: bool
) -> None:
    request = Request("POST", "https://example.com", safe_to_repeat=safe)
    assert may_repeat(request, Response(429, {}, body), "admission control") is again


@pytest.mark.parametrize("safe", [False, True])
def test_a_refusal_of_which_not_all_can_be_read_is_repeated_only_where_that_is_safe(safe: bool) -> None:
    request = Request("POST", "https://example.com", safe_to_repeat=safe)
    refusal = Response(429, {}, b"Too Many", is_whole=False)
    assert may_repeat(request, refusal, "admission control") is safe
