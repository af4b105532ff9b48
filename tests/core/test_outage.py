"""When the failures of polls mean that the service is out, without a loop and a clock."""

from __future__ import annotations

import pytest

from airflow_provider_runs.core.errors import ApiError, ConnectionFailed
from airflow_provider_runs.core.outage import BACKOFF_CAP, OUTAGE_AFTER, OutageDetector

DOWN = ConnectionFailed("down", sent=False)


def fail(
    detector: OutageDetector, run_id: str, now: float, *, began: float | None = None, among: int = 9
) -> bool:
    return detector.failed([run_id], DOWN, began=now if began is None else began, now=now, among=among)


def test_failures_of_several_runs_in_a_row_are_an_outage_that_begins_once() -> None:
    detector = OutageDetector()
    assert [fail(detector, f"r{n}", 10.0 + n) for n in range(OUTAGE_AFTER + 1)] == [False, False, True, False]
    assert detector.outage is DOWN
    assert detector.since == 10.0


def test_one_run_that_cannot_be_polled_is_no_outage() -> None:
    detector = OutageDetector()
    assert not any(fail(detector, "r1", float(n)) for n in range(20))
    assert detector.outage is None


@pytest.mark.parametrize("among", [1, 2])
def test_where_fewer_runs_are_waited_for_fewer_tell(among: int) -> None:
    detector = OutageDetector()
    assert [fail(detector, f"r{n % among}", float(n), among=among) for n in range(3)] == [False, False, True]


def test_an_answer_in_between_counts_from_the_beginning() -> None:
    detector = OutageDetector()
    for number in range(2):
        fail(detector, f"r{number}", 1.0)
    assert not detector.answered(2.0)
    assert [fail(detector, f"r{n}", 3.0 + n) for n in range(3)] == [False, False, True]
    assert detector.since == 3.0


def test_an_answer_ends_an_outage_once_and_holds_nothing_back() -> None:
    detector = OutageDetector()
    for number in range(10):
        fail(detector, f"r{number}", 1.0)
    assert detector.backoff_until > 1.0
    assert [detector.answered(2.0), detector.answered(2.0)] == [True, False]
    assert detector.outage is None
    assert detector.backoff_until == 2.0


def test_each_probe_in_vain_makes_the_next_one_wait_longer_up_to_a_bound() -> None:
    detector, now, pauses = OutageDetector(), 0.0, []
    for number in range(3):
        fail(detector, f"r{number}", now)
    for _ in range(12):
        pauses.append(detector.backoff_until - now)
        now = detector.backoff_until
        fail(detector, "r1", now)
    assert pauses[0] <= 1.0 < pauses[4] < pauses[6] <= BACKOFF_CAP
    assert BACKOFF_CAP / 2 <= pauses[-1] <= BACKOFF_CAP


def test_polls_that_one_cut_has_hit_together_count_once() -> None:
    detector = OutageDetector()
    for number in range(20):
        fail(detector, f"r{number}", 5.0, began=1.0)
    assert detector.backoff_until <= 6.0


def test_what_the_service_asks_to_wait_is_waited_even_after_one_failure() -> None:
    detector = OutageDetector()
    error = ApiError("slow down", status=503)
    error.retry_after = 20.0
    detector.failed(["r1"], error, began=1.0, now=1.0, among=9)
    assert detector.outage is None
    assert detector.backoff_until == 21.0
