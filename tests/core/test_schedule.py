from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from airflow_provider_runs.core.schedule import AGE_SHARE, JITTER, RateCap, next_delay

chances = st.floats(0, 1, exclude_max=True)
intervals = st.floats(0.1, 1000)


@given(st.floats(0, 1e7), intervals, intervals, chances)
def test_a_run_is_looked_at_within_its_bounds(age: float, low: float, high: float, chance: float) -> None:
    delay = next_delay(age, low, high, chance)
    assert min(low, high) * (1 - JITTER) <= delay <= high
    assert delay <= max(low, AGE_SHARE * age)


@given(intervals, intervals, chances)
def test_a_young_run_is_looked_at_after_the_lower_bound(low: float, high: float, chance: float) -> None:
    assume(low <= high)
    assert low * (1 - JITTER) <= next_delay(0, low, high, chance) <= low


@given(st.floats(0.5, 10), st.floats(1, 10_000), st.lists(chances, min_size=1, max_size=50))
def test_looks_grow_with_the_logarithm_of_the_age(low: float, factor: float, draws: list[float]) -> None:
    """Looks until the interval is reached: ten at the lower bound, then the age grows by 9 % with each."""
    high = low * factor
    age, looks = 0.0, 0
    while AGE_SHARE * age < high:
        age += next_delay(age, low, high, draws[looks % len(draws)])
        looks += 1
    young = 1 / (AGE_SHARE * (1 - JITTER)) + 1
    growing = math.log(factor) / math.log(1 + AGE_SHARE * (1 - JITTER)) + 1
    assert looks <= young + growing + 1


@given(st.floats(1, 1e6), intervals, chances)
def test_an_end_is_noticed_after_a_tenth_of_the_duration_or_the_lower_bound(
    age: float, low: float, chance: float
) -> None:
    assert next_delay(age, low, math.inf, chance) <= max(low, AGE_SHARE * age)


@given(
    st.floats(0.5, 1000),
    st.integers(1, 20),
    st.lists(st.floats(0, 20), min_size=1, max_size=300),
)
def test_no_minute_has_more_requests_than_the_cap_and_a_burst(
    per_minute: float, burst: int, pauses: list[float]
) -> None:
    cap = RateCap(per_minute, burst)
    now, left = 0.0, []
    for pause in pauses:
        now = cap.free_at(now + pause)
        cap.take(now)
        left.append(now)
    for first, begin in enumerate(left):
        within = sum(1 for moment in left[first:] if moment < begin + 60)
        assert within <= per_minute + burst + 1e-6


@pytest.mark.parametrize(
    ("per_minute", "burst"), [(0.5, 1), (6, 1), (39, 1), (90, 4), (120, 6), (200, 10), (600, 10)]
)
def test_the_burst_is_a_small_part_of_the_cap(per_minute: float, burst: int) -> None:
    assert RateCap(per_minute).burst == burst


@given(st.integers(1, 600), st.integers(1, 20))
def test_a_busy_connection_settles_at_the_cap(per_minute: int, burst: int) -> None:
    cap = RateCap(per_minute, burst)
    now = 0.0
    for _ in range(burst + per_minute):
        now = cap.free_at(now)
        cap.take(now)
    assert 60 * (1 - 1 / per_minute) - 1e-6 <= now <= 60 + 1e-6


@given(st.floats(1, 600), st.integers(1, 20), st.floats(0, 1e9))
def test_a_burst_leaves_at_once_and_the_next_request_waits_for_its_turn(
    per_minute: float, burst: int, now: float
) -> None:
    cap = RateCap(per_minute, burst)
    for _ in range(burst):
        assert math.isclose(cap.free_at(now), now, abs_tol=1e-9)
        cap.take(now)
    assert math.isclose(cap.free_at(now), now + 60 / per_minute, rel_tol=1e-6, abs_tol=1e-6)
