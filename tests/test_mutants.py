"""The tool that shows which small faults the tests see."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

mutants = pytest.importorskip(
    "tools.mutants", reason="mutmut is only where make mutants runs", exc_type=ImportError
)
ROOT = Path(__file__).parents[1]
JUDGE = """
def least(number: int | None) -> bool:
    return number == 3


def unseen(number):
    return number + 1
"""
TEST = """
from airflow_provider_runs.judge import least


def test_three_is_enough():
    assert least(3)
    assert not least(2)
"""
TRY = """
import sys
from pathlib import Path
from tools import mutants

mutants.TESTS, mutants.WARM = {"judge.py": ("tests/test_judge.py",)}, ()
root, scratch = map(Path, sys.argv[1:])
scratch.mkdir()
bench = mutants.Bench(root, scratch, 2)
bench.check()
for run, word in bench.tried(mutants.sample(root, 7, 100)):
    print(run.mutant.was, "->", run.mutant.now, word)
bench.limits["judge.py"] = 0.0
for run, word in bench.tried([mutants.Mutant("judge.py", 1, "", "", "", "import time\\ntime.sleep(3600)")]):
    print("hangs", word)
"""


def tree(folder: Path, judge: str = JUDGE, test: str = TEST) -> Path:
    """Write a tree with one module and its test."""
    for name, text in (("airflow_provider_runs/judge.py", judge), ("tests/test_judge.py", test)):
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return folder


def tried(root: Path, scratch: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", TRY, root, scratch], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def test_the_tests_that_it_takes_exist_and_start_no_simulator() -> None:
    for module, tests in mutants.TESTS.items():
        assert (ROOT / mutants.PACKAGE / module).is_file()
        for name in tests:
            path = ROOT / name
            for each in path.glob("test_*.py") if path.is_dir() else (path,):
                assert "Simulator" not in each.read_text()


def test_the_sample_is_the_same_after_a_change_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutants, "TESTS", {"judge.py": ()})

    def sample(name: str, judge: str, seed: int, count: int = 100) -> set[tuple[str, str, str]]:
        drawn = mutants.sample(tree(tmp_path / name, judge), seed, count)
        return {(mutant.operator, mutant.was, mutant.now) for mutant in drawn}

    first = sample("first", JUDGE, 7)
    assert first == sample("again", JUDGE, 7)
    longer = sample("longer", "OTHER = 'words'\n" + JUDGE, 7)
    assert first < longer
    few = [sample(f"seed{seed}", JUDGE, seed, 2) for seed in range(20)]
    assert all(len(each) == 2 and each < first for each in few)
    assert any(each != few[0] for each in few)


def test_a_fault_that_tests_see_is_killed_and_one_that_they_do_not_see_survives(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree")
    done = tried(root, tmp_path / "scratch")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(set(done.stdout.splitlines()[1:])) == [
        "hangs timeout",
        "return number + 1 -> return number + 2 survived",
        "return number + 1 -> return number - 1 survived",
        "return number == 3 -> return number != 3 killed",
        "return number == 3 -> return number == 4 killed",
    ]
    assert (root / "airflow_provider_runs/judge.py").read_text() == JUDGE


@pytest.mark.parametrize(
    ("test", "complaint"),
    [
        (TEST.replace("least(2)", "least(3)"), "the tests of judge.py fail"),
        ("def test_nothing():\n    pass\n", "judge.py was not tested"),
    ],
    ids=["fails", "tests something else"],
)
def test_it_refuses_tests_that_prove_nothing(tmp_path: Path, test: str, complaint: str) -> None:
    done = tried(tree(tmp_path / "tree", test=test), tmp_path / "scratch")
    assert done.returncode == 1
    assert complaint in done.stderr
