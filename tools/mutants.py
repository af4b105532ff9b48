"""
Show which small faults the tests see: mutants of the modules that judge. ``make mutants`` runs it.

mutmut's operators say what can be changed; a sample drawn by a seed is tried, each mutant with the tests of
its module. The same seed and the same source give the same sample, whatever the tests are, so that the share
of killed mutants can be compared before and after a change of the tests. The tree itself is never changed:
tests run in copies, each time in a process of their own that starts with pytest loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from importlib.util import cache_from_source
from itertools import zip_longest
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from operator import itemgetter
from pathlib import Path
from typing import NoReturn

import libcst
import pytest
from mutmut.mutation.mutators import mutation_operators

PACKAGE = "airflow_provider_runs"
TESTS: Mapping[str, tuple[str, ...]] = {
    "chalk/api.py": (
        "tests/chalk/test_api.py",
        "tests/chalk/test_times.py",
        "tests/chalk/test_seed.py",
        "tests/chalk/test_errors.py",
    ),
    "mage/answers.py": ("tests/mage/test_api.py", "tests/mage/test_seed.py", "tests/mage/test_errors.py"),
    "paradime/answers.py": (
        "tests/paradime/test_api.py",
        "tests/paradime/test_reasons.py",
        "tests/paradime/test_documents.py",
        "tests/paradime/test_seed.py",
        "tests/paradime/test_errors.py",
    ),
    "strait/answers.py": (
        "tests/strait/test_api.py",
        "tests/strait/test_reasons.py",
        "tests/strait/test_lists.py",
        "tests/strait/test_seed.py",
    ),
    "core/progress.py": ("tests/core/test_progress.py",),
    "core/outcome.py": ("tests/core/test_outcome.py", "tests/core/test_progress.py"),
    "core/retry.py": ("tests/core/test_retry.py",),
}
"""The tests of each module, the quickest first; none that start a simulator."""
WARM = (
    "hypothesis",
    "pendulum",
    "requests",
    "aiohttp",
    "sqlalchemy.orm",
    "pydantic",
    "httpx",
    "jinja2",
    "structlog",
)
"""What tests import, loaded once for all. Not Airflow: it loads the package, of which a mutant is to come."""
OPTIONS = ("-x", "-q", "-pno:cacheprovider", "-pno:randomly", "-Wignore::pytest.PytestAssertRewriteWarning")
NEVER = ("isinstance", "len")
"""Calls that are left alone, as mutmut does: any change of their arguments is an error at once."""
SPARE = 30.0
"""Seconds that a mutant may take beyond three times what its tests take without a fault."""
FOREIGN = 100
"""How a process ends that has tested another module than the mutated one."""


@dataclass(frozen=True, order=True)
class Mutant:
    """A module with one small fault."""

    module: str
    line: int
    operator: str
    was: str
    now: str
    source: str

    @classmethod
    def of(cls, module: str, operator: str, before: str, after: str) -> Mutant:
        """Return the mutant of a module that a changed source is, told by the first line that differs."""
        lines = zip_longest(before.splitlines(), after.splitlines(), fillvalue="")
        line, (was, now) = next((n, pair) for n, pair in enumerate(lines, 1) if pair[0] != pair[1])
        return cls(module, line, operator, was.strip(), now.strip(), after)

    def __str__(self) -> str:
        return f"{self.module}:{self.line} {self.operator}\n    - {self.was}\n    + {self.now}"


class _Places(libcst.CSTVisitor):
    """Collect what mutmut's operators make of each place in a module; annotations do nothing and are left."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[libcst.CSTNode, list[tuple[str, libcst.CSTNode]]]] = []

    def on_visit(self, node: libcst.CSTNode) -> bool:
        if isinstance(node, libcst.Annotation):
            return False
        if isinstance(node, libcst.Call) and isinstance(node.func, libcst.Name) and node.func.value in NEVER:
            return False
        changes = [
            (operator.__name__.removeprefix("operator_"), changed)
            for kind, operator in mutation_operators
            if isinstance(node, kind)
            for changed in operator(node)
        ]
        if changes:
            self.found.append((node, changes))
        return True


def sample(root: Path, seed: int, count: int) -> list[Mutant]:
    """
    Return the mutants that a seed draws from a tree: each from another place in the code.

    A place is drawn by what stands there: a change elsewhere leaves it in the sample, or out of it.

    :param root: the tree.
    :param seed: draws the places, and at each one of the changes that are possible there.
    :param count: how many; fewer if there are not so many places.
    """
    places = []
    for module in TESTS:
        source = (root / PACKAGE / module).read_text()
        tree = libcst.parse_module(source)
        tree.visit(visitor := _Places())
        alike = Counter[str]()
        for node, changes in visitor.found:
            code = tree.code_for_node(node)
            alike[code] += 1
            lot = sha256(f"{seed} {module} {alike[code]} {code}".encode()).digest()
            places.append((lot, module, source, tree, node, changes[lot[-1] % len(changes)]))
    drawn: list[Mutant] = []
    for _, module, source, tree, node, (operator, changed) in sorted(places, key=itemgetter(0)):
        if len(drawn) == count:
            break
        mutated = tree.deep_replace(node, changed)
        assert isinstance(mutated, libcst.Module)
        with contextlib.suppress(SyntaxError):  # no mutant: it would never be loaded
            compile(mutated.code, module, "exec", dont_inherit=True)
            drawn.append(Mutant.of(module, operator, source, mutated.code))
    return drawn


class Copy:
    """
    A copy of the tree, in which one process at a time runs tests.

    :param root: the tree.
    :param folder: where the copy is made.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        self.log = folder.with_suffix(".log")
        shutil.copytree(root, folder, ignore=shutil.ignore_patterns(".*", "__pycache__", "dist"))

    def write(self, module: str, source: str) -> None:
        """Give a module another source; bytecode of the former one could pass for its own, and goes."""
        path = self.folder / PACKAGE / module
        path.write_text(source)
        Path(cache_from_source(path)).unlink(missing_ok=True)

    def start(self, module: str) -> ForkProcess:
        """Run the tests of a module in a process of its own."""
        process = multiprocessing.get_context("fork").Process(target=self._test, args=(module,))
        process.start()
        return process

    def _test(self, module: str) -> NoReturn:
        os.setsid()
        os.chdir(self.folder)
        output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.path[:] = [str(self.folder), *(path for path in sys.path if not Path(path, PACKAGE).is_dir())]
        del sys.modules["tools"]
        code = pytest.main([*OPTIONS, *TESTS[module]])
        loaded = sys.modules.get(f"{PACKAGE}.{module.removesuffix('.py').replace('/', '.')}")
        if code == 0 and getattr(loaded, "__file__", None) != str(self.folder / PACKAGE / module):
            code = FOREIGN
        sys.stdout.flush()
        os._exit(int(code))


@dataclass
class Run:
    """Tests that run for a mutant."""

    mutant: Mutant
    copy: Copy
    process: ForkProcess
    began: float

    def end(self) -> None:
        """Kill the tests and whatever they have started, if they have not ended."""
        if self.process.is_alive():
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.join()


class Bench:
    """
    Tries mutants in as many copies of a tree as there are processes.

    :param root: the tree.
    :param scratch: a folder for all that is written.
    :param processes: how many.
    """

    def __init__(self, root: Path, scratch: Path, processes: int) -> None:
        self.sources = {module: (root / PACKAGE / module).read_text() for module in TESTS}
        self.limits = dict.fromkeys(TESTS, 600.0)
        self._copies = [Copy(root, scratch / f"copy{number}") for number in range(processes)]

    def check(self) -> None:
        """Refuse to go on where tests fail without a fault, or do not see a module that cannot be loaded."""
        sound = [Mutant(module, 0, "none", "", "", source) for module, source in self.sources.items()]
        for run, word in self.tried(sound):
            if word != "survived":
                raise SystemExit(f"the tests of {run.mutant.module} fail:\n{run.copy.log.read_text()}")
            took = time.monotonic() - run.began
            self.limits[run.mutant.module] = 3 * took + SPARE
            print(f"{run.mutant.module}: its tests take {took:.1f} s", flush=True)
        for run, word in self.tried(
            Mutant(module, 0, "none", "", "", f"{source}\nraise RuntimeError\n")
            for module, source in self.sources.items()
        ):
            if word != "killed":
                raise SystemExit(f"the tests of {run.mutant.module} do not load it: {word}")

    def tried(self, mutants: Iterable[Mutant]) -> Iterator[tuple[Run, str]]:
        """Try mutants; yield each run that has ended with survived, killed or timeout (killed as well)."""
        idle, running, waiting = list(self._copies), list[Run](), iter(mutants)
        try:
            while True:
                while idle and (mutant := next(waiting, None)):
                    copy = idle.pop()
                    copy.write(mutant.module, mutant.source)
                    running.append(Run(mutant, copy, copy.start(mutant.module), time.monotonic()))
                if not running:
                    return
                wait([run.process.sentinel for run in running], timeout=1)
                for run in tuple(running):
                    late = time.monotonic() - run.began > self.limits[run.mutant.module]
                    if run.process.is_alive() and not late:
                        continue
                    late = run.process.is_alive()
                    run.end()
                    running.remove(run)
                    if run.process.exitcode in (FOREIGN, pytest.ExitCode.NO_TESTS_COLLECTED):
                        raise SystemExit(f"{run.mutant.module} was not tested:\n{run.copy.log.read_text()}")
                    yield run, "timeout" if late else "killed" if run.process.exitcode else "survived"
                    run.copy.write(run.mutant.module, self.sources[run.mutant.module])
                    idle.append(run.copy)
        finally:
            for run in running:
                run.end()


def warm_up(scratch: Path) -> None:
    """Load what tests need and send what they write to a folder that goes."""
    tempfile.tempdir = os.environ["TMPDIR"] = str(scratch)
    for name in WARM:
        import_module(name)
    if early := {name for name in sys.modules if name.partition(".")[0] in (PACKAGE, "tests")}:
        raise SystemExit(f"loaded before there is a mutant: {', '.join(sorted(early))}")


def table(words: Mapping[str, Counter[str]]) -> str:
    """Return how many mutants of each module were killed, and of all."""
    lines = [f"{'module':<22}{'mutants':>8}{'killed':>8}{'timeout':>9}{'share':>9}"]
    for module, counts in [*words.items(), ("total", sum(words.values(), Counter()))]:
        killed = counts.total() - counts["survived"]
        share = f"{killed / counts.total():.1%}" if counts.total() else "-"
        lines.append(f"{module:<22}{counts.total():>8}{killed:>8}{counts['timeout']:>9}{share:>9}")
    return "\n".join(lines)


def main() -> None:
    """Try a sample; print its survivors and what share of it was killed."""
    parser = argparse.ArgumentParser(prog="tools.mutants", description=main.__doc__)
    parser.add_argument("--seed", type=int, default=7, help="another seed is another sample (default: 7)")
    parser.add_argument("--count", type=int, default=300, help="mutants to try (default: 300)")
    parser.add_argument("--processes", type=int, default=2, help="at a time (default: 2)")
    parser.add_argument("--root", type=Path, default=Path(), help="the tree to take (default: this one)")
    chosen = parser.parse_args()
    root, began = chosen.root.resolve(), time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    mutants = sample(root, chosen.seed, chosen.count)
    mark = sha256("".join(mutant.source for mutant in mutants).encode()).hexdigest()[:12]
    print(f"sample {mark}: {len(mutants)} mutants by seed {chosen.seed}", flush=True)
    words: dict[str, Counter[str]] = {module: Counter() for module in TESTS}
    odd: list[tuple[Mutant, str]] = []
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as folder:
        warm_up(Path(folder))
        bench = Bench(root, Path(folder), chosen.processes)
        bench.check()
        for number, (run, word) in enumerate(bench.tried(mutants), 1):
            words[run.mutant.module][word] += 1
            if word != "killed":
                odd.append((run.mutant, word))
            if number % 25 == 0:
                print(f"{number} of {len(mutants)}, {time.monotonic() - began:.0f} s", flush=True)
    for mutant, word in sorted(odd):
        print(f"{word}: {mutant}")
    print(table(words))
    print(f"sample {mark}, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
