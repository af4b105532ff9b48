"""Deferred tasks outlive an upgrade and a rollback: what one release has stored, the other goes on with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_runs.simulator import Simulator
from tools.demo import make_connections
from tools.speed import scaled

ROOT = Path(__file__).parents[2]
BEFORE = "c5c3ca5263085e2b57551638b309502c389c44fa"
"""The commit whose release is rolled back to."""
NEW, OLD = "this release", "the release before"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the package of the release before, from a wheel that is built of its commit."""
    folder = tmp_path_factory.mktemp("before")
    source = folder / "source"
    source.mkdir()
    archive = subprocess.run(["git", "archive", BEFORE], cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if archive.returncode:
        pytest.skip(f"this checkout has no commit {BEFORE}: its history is cut off")
    subprocess.run(["tar", "-x", "-C", source], input=archive.stdout, check=True)
    build = [ROOT / ".env/publish/bin/python", "-m", "build", "--no-isolation", "--wheel", "--outdir", folder]
    subprocess.run([*build, source], check=True, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as unpacked:
        unpacked.extractall(folder / "package")
    return folder / "package"


@pytest.fixture
def serving() -> Iterator[Simulator]:
    with Simulator(duration=3.0) as simulator:
        yield simulator


class Steps:
    """Take the steps of one deferred task of each system, each in a process of its own."""

    def __init__(self, simulator: Simulator, folder: Path, packages: dict[str, Path]) -> None:
        self.folder = folder
        self._packages = packages
        urls = (simulator.url_of(name) for name in ("chalk", "mage", "paradime", "strait"))
        self._connections = {
            f"AIRFLOW_CONN_{name.upper()}": json.dumps(fields)
            for name, fields in make_connections(*urls).items()
        }

    def take(self, step: str, release: str) -> dict[str, dict[str, Any]]:
        """Take a step of each system's task under a release; return what is stored then."""
        with tempfile.TemporaryDirectory() as home:
            environment = {
                **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
                **self._connections,
                "AIRFLOW_HOME": home,
                "PYTHONPATH": str(self._packages[release]),
            }
            command = [sys.executable, "-W", "ignore", ROOT / "tests/published/steps.py", step, self.folder]
            done = subprocess.run(
                command, env=environment, cwd=home, text=True, capture_output=True, timeout=scaled(120)
            )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith(str(self._packages[release])), done.stdout
        return {path.stem: json.loads(path.read_text()) for path in self.folder.glob("*.json")}


@pytest.fixture
def steps(serving: Simulator, tmp_path: Path, old: Path) -> Steps:
    return Steps(serving, tmp_path, {NEW: ROOT, OLD: old})


@pytest.mark.parametrize(("first", "second"), [(OLD, NEW), (NEW, OLD)], ids=["upgrade", "rollback"])
def test_a_deferred_task_goes_on_under_the_other_release(
    steps: Steps, serving: Simulator, first: str, second: str
) -> None:
    begun = steps.take("defer", first)
    run_ids = {system: one["arguments"]["run_id"] for system, one in begun.items()}
    steps.take("wait", second)
    ended = steps.take("complete", first)
    assert {system: one["result"] for system, one in ended.items()} == run_ids
    # A try that was lost meanwhile is retried under the other release, which finds its run by the record.
    again = steps.take("defer", second)
    assert {system: one["result"] for system, one in again.items()} == run_ids
    assert {system: len(serving.runs(system)) for system in begun} == dict.fromkeys(begun, 1)
