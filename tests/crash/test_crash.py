"""One remote run per task, nothing orphaned and nothing cancelled that should go on, whatever dies."""

from __future__ import annotations

from airflow_provider_runs.provider_info import SYSTEMS
from tests.crash.bench import Result
from tests.crash.cases import ALONE, FIXED, LATE_ZOMBIE, PEOPLE, POINTS, Case, all_cases
from tests.crash.systems import TARGETS


def test_every_system_is_covered() -> None:
    assert set(TARGETS) == set(SYSTEMS)
    names = [case.id for case in all_cases()]
    assert len(names) == len(set(names)) >= 100


def test_the_fixed_cases_have_each_point_each_way_to_die_and_each_act() -> None:
    fixed = [case for case in all_cases() if case.id in FIXED]
    assert [name for name in FIXED if name not in {case.id for case in fixed}] == []
    places = {(case.mode, case.point) for case in fixed if case.stage == "alone"}
    assert places >= {(mode, point) for mode, points in POINTS.items() for point in points}
    assert {case.act for case in fixed} >= {*ALONE, LATE_ZOMBIE, *PEOPLE}
    assert {case.system for case in fixed} == set(SYSTEMS)


def test_case(results: dict[str, Result], case: Case) -> None:
    assert results[case.id].wrong == []
