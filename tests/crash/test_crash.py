"""One remote run per task, nothing orphaned and nothing cancelled that should go on, whatever dies."""

from __future__ import annotations

from airflow_provider_runs.provider_info import SYSTEMS
from tests.crash.bench import Result
from tests.crash.cases import Case, all_cases
from tests.crash.systems import TARGETS


def test_every_system_is_covered() -> None:
    assert set(TARGETS) == set(SYSTEMS)
    names = [case.id for case in all_cases()]
    assert len(names) == len(set(names)) >= 100


def test_case(results: dict[str, Result], case: Case) -> None:
    assert results[case.id].wrong == []
