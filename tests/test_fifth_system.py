"""A fifth system takes what README.rst lists, and no more: Kiln, a service that does not exist."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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


@pytest.fixture
def tested(copy: Path) -> Callable[..., str]:
    """Return a function that runs some of the copy's tests, and returns what pytest shows."""

    def tested(*arguments: str) -> str:
        shown = subprocess.run(
            [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--color=no", *arguments],
            cwd=copy,
            env={name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert shown.returncode == 0, shown.stdout + shown.stderr
        return shown.stdout

    return tested


def test_a_fifth_system_takes_less_than_120_lines() -> None:
    lines = [line for path in SYSTEM for line in path.read_text().splitlines() if line.strip()]
    assert len(lines) < 120


def test_a_fifth_system_passes_the_contract_suite(tested: Callable[..., str]) -> None:
    shown = tested("tests/test_contract.py", "tests/test_layers.py")
    assert shown.count("[kiln") >= 20


def test_runs_of_a_fifth_system_start_and_end_as_those_of_any_other(tested: Callable[..., str]) -> None:
    assert "6 passed" in tested("tests/kiln")
