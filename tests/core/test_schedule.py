from __future__ import annotations

import math

from hypothesis import assume, given
from hypothesis import strategies as st

from airflow_provider_runs.core.schedule import AGE_SHARE, JITTER, next_delay

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
