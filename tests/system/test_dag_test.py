"""The README's test of a whole DAG, with Airflow's database and outside this project's own test set-up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.test_readme import PYTHON, ROOT
from tools.speed import scaled


def test_the_readmes_test_of_a_dag_passes(tmp_path: Path) -> None:
    (block,) = (block for block in PYTHON if "dag.test()" in block)
    (tmp_path / "test_mine.py").write_text(block)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTEST"))}
    env |= {"AIRFLOW_HOME": str(tmp_path), "PYTHONPATH": f"{ROOT}:{ROOT / 'example_dags'}"}
    env |= {"AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "example_dags"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    for command in (
        ["-m", "airflow", "db", "migrate"],
        ["-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "test_mine.py"],
    ):
        shown = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=scaled(180),
        )
        assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "1 passed" in shown.stdout
