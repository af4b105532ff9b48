"""`make steady` sees each failure and stops what it starts; time limits grow with the machine's slowness."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tools import speed, steady

REPORT = """<testsuites><testsuite>
<testcase classname="tests.core.test_run" name="test_a[x y - z]"/>
<testcase classname="tests.core.test_run.TestB" name="test_b"><failure message="m">text</failure></testcase>
<testcase classname="tests.core.test_run" name="test_c"/>
<testcase classname="tests.core.test_run" name="test_c"><error message="teardown"/></testcase>
<testcase classname="" name="tests.core.test_gone"><error message="collection failure"/></testcase>
<testcase classname="tests.core.test_run" name="test_d"><skipped/></testcase>
</testsuite></testsuites>"""


def test_a_report_names_what_failed_as_pytest_does(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    failed = (
        "tests.core.test_gone",
        "tests/core/test_run.py::TestB::test_b",
        "tests/core/test_run.py::test_c",
    )
    assert steady.read_report(report) == (5, failed)


@pytest.mark.parametrize(
    ("run", "passed"),
    [
        (steady.Run(1, 2.0, 3, (), 0), True),
        (steady.Run(1, 2.0, 3, ("test_a",), 1), False),
        (steady.Run(1, 2.0, 3, (), 3), False),
        (steady.Run(1, 2.0, 0, (), 0), False),
    ],
)
def test_a_run_passed_if_tests_ran_and_all_is_well(run: steady.Run, passed: bool) -> None:
    assert run.passed is passed


def test_the_table_lists_each_test_that_failed_once_with_the_seeds() -> None:
    runs = [
        steady.Run(7, 61.4, 9, ("a", "b"), 1),
        steady.Run(8, 60.0, 9, (), 0),
        steady.Run(9, 59.0, 9, ("a",), 1),
    ]
    assert steady.table(runs).splitlines()[-2:] == ["FAILED a (seed 7, 9)", "FAILED b (seed 7)"]
    assert [line.split()[1:3] for line in steady.table(runs).splitlines()[1:4]] == [
        ["7", "61"],
        ["8", "60"],
        ["9", "59"],
    ]


@pytest.mark.real_time
def test_load_ends_with_what_it_is_beside() -> None:
    me = psutil.Process()
    before = set(me.children())
    busy: set[psutil.Process] = set()

    def interrupted() -> None:
        with steady.load(2):
            busy.update(set(me.children()) - before)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(busy) == 2
    assert not any(each.is_running() for each in busy)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-I", "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(command, start_new_session=True) as started:
        yield started
        started.kill()


@pytest.mark.real_time
def test_half_a_core_pauses_a_process_and_lets_it_run_in_the_end(process: subprocess.Popen[bytes]) -> None:
    def wait_until(stopped: bool) -> None:
        until = time.monotonic() + 60
        while (psutil.Process(process.pid).status() == psutil.STATUS_STOPPED) != stopped:
            assert time.monotonic() < until

    with steady.half_core(process):
        for stopped in (True, False, True):
            wait_until(stopped)
    wait_until(False)


@pytest.mark.parametrize(("taken", "factor"), [(0.5, 1.0), (1.0, 1.0), (2.5, 2.5)])
def test_limits_grow_with_slowness_and_never_shrink(
    monkeypatch: pytest.MonkeyPatch, taken: float, factor: float
) -> None:
    monkeypatch.setattr(speed, "_compute", lambda: taken * speed.REFERENCE)
    monkeypatch.setattr(speed, "APART", 0.0)
    speed.speed_factor.cache_clear()
    try:
        assert speed.scaled(60) == pytest.approx(60 * factor)
    finally:
        speed.speed_factor.cache_clear()


def test_slowness_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []
    monkeypatch.setattr(speed, "_compute", lambda: calls.append(None) or speed.REFERENCE)
    monkeypatch.setattr(speed, "APART", 0.0)
    speed.speed_factor.cache_clear()
    try:
        speed.speed_factor()
        speed.speed_factor()
        assert len(calls) == speed.SAMPLES
    finally:
        speed.speed_factor.cache_clear()
