"""A fifth system takes what README.rst lists, and no more: Kiln, a service that does not exist."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_runs.provider_info import SYSTEMS

ROOT = Path(__file__).parents[1]
FIFTH = ROOT / "tests/fifth"
SYSTEM = [*sorted((FIFTH / "kiln").glob("*.py")), FIFTH / "conftest_of_kiln.py"]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project with Kiln in it, added as README.rst says."""
    root = tmp_path_factory.mktemp("fifth")
    for folder in ("airflow_provider_runs", "tests", "example_dags", "tools"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    shutil.copytree(FIFTH / "kiln", root / "airflow_provider_runs/kiln")
    (root / "airflow_provider_runs/kiln/__init__.py").touch()
    (root / "tests/kiln").mkdir()
    shutil.copy(FIFTH / "conftest_of_kiln.py", root / "tests/kiln/conftest.py")
    shutil.copy(FIFTH / "runs_of_kiln.py", root / "tests/kiln/test_runs.py")
    info = root / "airflow_provider_runs/provider_info.py"
    info.write_text(info.read_text().replace("SYSTEMS = (", 'SYSTEMS = ("kiln", '))
    golden = root / "tests/golden/triggers.json"
    paths = json.loads(golden.read_text())
    golden.write_text(json.dumps({**paths, "kiln": "airflow_provider_runs.kiln.triggers.KilnRunTrigger"}))
    return root


@pytest.fixture(scope="module")
def shown(copy: Path) -> str:
    """Run the copy's tests of Kiln and of the whole list of systems, and return what pytest shows."""
    shown = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--color=no"),
            *("tests/test_contract.py", "tests/test_layers.py", "tests/kiln"),
            *("-k", f"kiln or not ({' or '.join(SYSTEMS)})"),
        ],
        cwd=copy,
        env={name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    return shown.stdout


def test_a_fifth_system_takes_less_than_120_lines() -> None:
    lines = [line for path in SYSTEM for line in path.read_text().splitlines() if line.strip()]
    assert len(lines) < 120


def passed(shown: str, what: str) -> int:
    """Return how many of the tests passed whose name matches a pattern."""
    return len(re.findall(rf"^tests/{what} PASSED", shown, re.MULTILINE))


def test_a_fifth_system_passes_the_contract_suite(shown: str) -> None:
    assert passed(shown, r"test_contract\.py::\w+\[.*\bkiln\b.*\]") >= 20


def test_what_holds_for_all_systems_holds_with_a_fifth(shown: str) -> None:
    assert passed(shown, r"test_contract\.py::test_the_systems_are_the_folders") == 1
    assert passed(shown, r"test_(contract|layers)\.py::\w+") >= 10


def test_runs_of_a_fifth_system_start_and_end_as_those_of_any_other(shown: str) -> None:
    assert passed(shown, r"kiln/.*") == 6
