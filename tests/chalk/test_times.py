"""Bounds of a run: always sent in UTC with offset, whatever they are given as."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import pendulum
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_runs.core.errors import BadInput
from airflow_provider_runs.core.inputs import iso_utc
from tests.answers import fuzzed
from tests.chalk.conftest import make_api
from tests.covering import brief, covering


class NoOffset(tzinfo):
    """A zone that does not say how far it is from UTC, which makes its times naive."""

    def utcoffset(self, when):
        return None


@pytest.fixture(autouse=True)
def _worker_in_new_york(monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


INSTANTS = [
    ("2021-01-01T00:00:00Z", "2021-01-01T00:00:00+00:00"),
    ("2021-01-01T00:00:00+00:00", "2021-01-01T00:00:00+00:00"),
    ("2023-01-02T00:00:00", "2023-01-02T00:00:00+00:00"),
    ("2023-01-02 03:04", "2023-01-02T03:04:00+00:00"),
    ("2023-01-02", "2023-01-02T00:00:00+00:00"),
    (" 2023-01-02 ", "2023-01-02T00:00:00+00:00"),
    ("2021-01-01T01:02:03.456789+05:30", "2020-12-31T19:32:03.456789+00:00"),
    ("2021-07-01T02:00:00-04:00", "2021-07-01T06:00:00+00:00"),
    (datetime(2021, 1, 1), "2021-01-01T00:00:00+00:00"),
    (datetime(2021, 1, 1, 1, 2, 3, 456789), "2021-01-01T01:02:03.456789+00:00"),
    (datetime(2021, 1, 1, tzinfo=UTC), "2021-01-01T00:00:00+00:00"),
    (datetime(2021, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=30))), "2020-12-31T18:30:00+00:00"),
    (datetime(2021, 7, 1, tzinfo=ZoneInfo("Europe/Rome")), "2021-06-30T22:00:00+00:00"),
    (datetime(2021, 1, 1, tzinfo=NoOffset()), "2021-01-01T00:00:00+00:00"),
    (pendulum.datetime(2021, 1, 1, tz="Europe/Rome"), "2020-12-31T23:00:00+00:00"),
    (pendulum.naive(2021, 1, 1), "2021-01-01T00:00:00+00:00"),
]


@pytest.mark.parametrize(("name", "case"), covering(["lower_bound", "upper_bound"], INSTANTS), ids=brief)
def test_an_instant_is_sent_in_utc_and_one_without_zone_is_in_utc(name, case):
    given_as, sent = case
    assert make_api().trigger_body({"resolver_fqn": "a", name: given_as}, None)[name] == sent


@pytest.mark.parametrize(
    ("name", "wrong"),
    covering(
        ["lower_bound", "upper_bound"],
        [
            "",
            "  ",
            "None",
            "now",
            "7d",
            "P7D",
            "12:00",
            "20210101",
            "2021-13-01",
            "2021-01-01/2021-01-02",
            "2021-01-01T25:00:00",
            "2021-01-01T00:00:00 Mars",
            "0001-01-01T00:00:00+14:00",
            1700000000,
            timedelta(days=7),
            date(2021, 1, 1),
            True,
            ["2021-01-01"],
            datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
            datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-14))),
        ],
    ),
    ids=brief,
)
def test_anything_else_is_refused_by_name(name, wrong):
    with pytest.raises(BadInput, match=name):
        make_api().prepare({"resolver_fqn": "a", name: wrong})


@fuzzed
@given(st.datetimes(timezones=st.none() | st.timezones() | st.just(UTC)))
def test_any_datetime_arrives_as_the_same_instant(moment):
    try:
        sent = iso_utc("bound", moment)
    except BadInput:
        assert moment.year in (1, 9999)
        return
    expected = moment if moment.utcoffset() is not None else moment.replace(tzinfo=UTC)
    assert datetime.fromisoformat(sent) == expected.astimezone(UTC)
    assert sent.endswith("+00:00")


@fuzzed
@given(st.text() | st.from_regex(r"\A\d{4}-\d{2}-\d{2}[T ]?[\d:.+\-WZz/P ]{0,20}\Z"))
def test_any_text_is_an_instant_or_refused(text):
    try:
        sent = iso_utc("bound", text)
    except BadInput:
        return
    assert datetime.fromisoformat(sent).utcoffset() == timedelta(0)
