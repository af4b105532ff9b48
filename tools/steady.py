"""Run the unit tests several times in random order, and list every test that failed once.

A test that fails now and then is wrong. ``make steady`` runs the suite five times, ``LOAD=4`` with that many
processes beside it that only compute, ``HALF_CORE=1`` on half a core. What follows ``--`` goes to pytest.
``--runs 1 --seed SEED`` repeats the order of a run.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
RUNS = 5
PERIOD = 0.04
"""Seconds in which the tests run once and are paused once."""
GRACE = 60.0
"""Seconds in which pytest stops what it started, after SIGINT."""
# The load ends by itself should this process be killed.
BUSY = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""
OUTCOMES = ("failure", "error")


class Run(NamedTuple):
    """What came of one run of the suite.

    :param seed: of the order of the tests.
    :param seconds: from pytest's start to its end, so with the collection of the tests.
    :param tests: how many were reported.
    :param failed: the tests that failed or could not be run, each once.
    :param code: pytest's exit code.
    """

    seed: int
    seconds: float
    tests: int
    failed: tuple[str, ...]
    code: int

    @property
    def passed(self) -> bool:
        """Tell whether every test passed; a run that reported none did not."""
        return self.code == 0 and not self.failed and self.tests > 0


@contextmanager
def load(processes: int) -> Iterator[None]:
    """Keep that many processes computing."""
    command = [sys.executable, "-I", "-c", BUSY]
    with ExitStack() as started:
        for _ in range(processes):
            busy = subprocess.Popen(command, stdin=subprocess.DEVNULL)
            started.callback(busy.wait)
            started.callback(busy.kill)
        yield


@contextmanager
def half_core(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Let a process group, which is pinned to one CPU, run half of the time.

    What leaves the group, as a server in a session of its own does, keeps to that CPU but is not paused.
    """
    done = threading.Event()

    def pause() -> None:
        while not done.wait(PERIOD / 2):
            _signal(process, signal.SIGSTOP)
            done.wait(PERIOD / 2)
            _signal(process, signal.SIGCONT)

    pausing = threading.Thread(target=pause, daemon=True)
    pausing.start()
    try:
        yield
    finally:
        done.set()
        pausing.join()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # A process that nobody has waited for keeps its id, and so does its group.
    if process.returncode is None:
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End pytest, which stops what it started."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run_suite(seed: int, arguments: Sequence[str], half: bool, report: Path) -> Run:
    """Run the suite once in the order of a seed."""
    # In any other run the order is fixed: pyproject.toml switches the plugin off.
    shuffled = ("-p", "randomly", f"--randomly-seed={seed}")
    command = [sys.executable, "-m", "pytest", *shuffled, "-q", f"--junitxml={report}", *arguments]
    if half:
        pinned = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}}); "
        command = [sys.executable, "-c", f"{pinned}os.execv({sys.executable!r}, {command!r})"]
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        if half:
            with half_core(process):
                # Not wait(): that would make a process id free that the pausing thread may still use.
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        code = process.wait()
    finally:
        _stop(process)
    seconds = time.monotonic() - began
    tests, failed = read_report(report) if report.exists() else (0, ())
    return Run(seed, seconds, tests, failed, code)


def read_report(report: Path) -> tuple[int, tuple[str, ...]]:
    """Return how many tests a report in JUnit's XML has, and the names of those that failed."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = {_name(case) for case in cases if any(case.find(outcome) is not None for outcome in OUTCOMES)}
    # A test that passed and whose fixtures failed afterwards is there twice.
    return len({_name(case) for case in cases}), tuple(sorted(failed))


def _name(case: ElementTree.Element) -> str:
    """Return a test's name as pytest takes it: the report has its file and classes as one dotted word."""
    parts = [part for part in case.get("classname", "").split(".") if part]
    for count in range(len(parts), 0, -1):
        file = Path(*parts[:count]).with_suffix(".py")
        if (ROOT / file).is_file():
            return "::".join([str(file), *parts[count:], case.get("name", "")])
    return "::".join(filter(None, [".".join(parts), case.get("name")]))


def table(runs: Sequence[Run]) -> str:
    """Return a line for each run, and below one for each test that failed, with the seeds of its runs."""
    lines = ["run        seed  seconds  tests  failed  exit code"]
    lines += [
        f"{number:3}  {run.seed:10}  {run.seconds:7.0f}  {run.tests:5}  {len(run.failed):6}  {run.code:9}"
        for number, run in enumerate(runs, 1)
    ]
    for name in sorted({name for run in runs for name in run.failed}):
        seeds = ", ".join(str(run.seed) for run in runs if name in run.failed)
        lines.append(f"FAILED {name} (seed {seeds})")
    return "\n".join(lines)


def main() -> int:
    """Run the suite as often as told; the exit code is 0 only if every test passed every time."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=RUNS, help="how often (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of the first run; the next ones count on from it")
    parser.add_argument(
        "--load", type=int, default=0, metavar="N", help="processes that compute beside the tests"
    )
    parser.add_argument("--half-core", action="store_true", help="give the tests half a core")
    parser.add_argument("arguments", nargs="*", help="for pytest, after --")
    given = parser.parse_args()
    # These stop everything, as SIGINT does.
    for stopping in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(stopping) is not signal.SIG_IGN:
            signal.signal(stopping, lambda received, _: sys.exit(128 + received))
    first = random.SystemRandom().randrange(10**9) if given.seed is None else given.seed
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="steady-") as folder, load(given.load):
        for number in range(given.runs):
            seed = first + number
            beside = f"{given.load} processes of load" if given.load else "no load"
            share = "half a core" if given.half_core else "all cores"
            print(f"== run {number + 1} of {given.runs}: seed {seed}, {share}, {beside}", flush=True)
            runs.append(run_suite(seed, given.arguments, given.half_core, Path(folder) / f"{number}.xml"))
    print(table(runs))
    return 0 if runs and all(run.passed for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
