"""What may import what, and what importing costs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

from airflow_provider_runs.provider_info import SYSTEMS
from tests.conftest import REAL_TIME

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "airflow_provider_runs"
NAME = PACKAGE.name
IO = {"requests", "aiohttp"}


def paths(folder: str) -> list[Path]:
    return sorted((PACKAGE / folder).glob("*.py"))


def shown(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def module_level(tree: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements that run on import, those for type checkers apart."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.stmt):
            yield node
        yield from module_level(node)


def imported(statements: Iterable[ast.AST]) -> frozenset[str]:
    names: set[str] = set()
    for node in statements:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def on_import(path: Path) -> frozenset[str]:
    return imported(module_level(tree(path)))


@cache
def ever(path: Path) -> frozenset[str]:
    return imported(ast.walk(tree(path)))


def top(names: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def parts(names: Iterable[str]) -> set[str]:
    """Return the parts of this package that are imported."""
    return {name.split(".")[1] for name in names if name.startswith(f"{NAME}.")}


# What reaches Airflow or the network; all else in a system's folder describes the service.
IMPURE = {
    "hooks.py",
    "operators.py",
    "sensors.py",
    "triggers.py",
    "lineage.py",
    "logs.py",
    "results.py",
}


def simulates(path: Path) -> bool:
    return path.name.startswith("simulat")


DESCRIPTIONS = [
    path for system in SYSTEMS for path in paths(system) if path.name not in IMPURE and not simulates(path)
]
PURE = [*paths("core"), *DESCRIPTIONS]


def test_the_list_of_systems_names_every_folder_with_an_api() -> None:
    assert set(SYSTEMS) == {path.parent.name for path in PACKAGE.glob("*/api.py")} - {"core"}


IO_FREE = [
    path for path in PURE if path.name not in ("download.py", "drivers.py", "sessions.py", "transfer.py")
]
OF_SYSTEMS = [path for system in SYSTEMS for path in paths(system)]


def offences(files: list[Path], wrong: Callable[[Path], Iterable[str]]) -> dict[str, list[str]]:
    """Return what is wrong in each of some files, those with nothing wrong left out."""
    assert files
    return {shown(path): found for path in files if (found := sorted(wrong(path)))}


def test_what_is_pure_knows_nothing_of_airflow() -> None:
    assert offences(PURE, lambda path: top(ever(path)) & {"airflow"}) == {}


def test_what_is_pure_loads_no_http_library() -> None:
    assert offences(PURE, lambda path: top(on_import(path)) & IO) == {}


def test_only_the_drivers_do_io() -> None:
    banned = {*IO, "urllib3", "socket", "http", "httpx"}
    assert offences(IO_FREE, lambda path: top(ever(path)) & banned) == {}
    # urllib.parse does none.
    requesting = {"urllib.request"}
    assert offences(IO_FREE, lambda path: {one.rpartition(".")[0] for one in ever(path)} & requesting) == {}


def other_clocks(path: Path) -> set[str]:
    """Return the calls by which a module asks another clock than the one that tests replace."""
    calls = {ast.unparse(node.func) for node in ast.walk(tree(path)) if isinstance(node, ast.Call)}
    return {call for call in calls if call.endswith(("datetime.now", "pendulum.now", "utcnow"))}


def test_there_is_one_clock() -> None:
    files = sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "core/clock.py"})
    assert offences(files, lambda path: top(ever(path)) & {"time"} | other_clocks(path)) == {}


def test_tests_in_virtual_time_ask_that_clock() -> None:
    tests = ROOT / "tests"
    # They make certificates, and a value that is refused.
    allowed = {tests / "core" / name for name in ("conftest.py", "test_sessions.py", "test_inputs.py")}
    # Most tests of the real Mage are shared with the simulated one.
    allowed |= {tests / "real/test_differences.py"}
    real = REAL_TIME - {"real"}
    files = [path for path in tests.rglob("*.py") if path.relative_to(tests).parts[0] not in real]
    found = {path.name: calls for path in sorted({*files} - allowed) if (calls := other_clocks(path))}
    assert found == {}


def test_core_knows_nothing_above_it() -> None:
    assert offences(paths("core"), lambda path: parts(ever(path)) - {"core", "__version__"}) == {}


def test_base_knows_no_system() -> None:
    assert offences(paths("base"), lambda path: parts(ever(path)) - {"core", "base", "__version__"}) == {}


def test_a_system_knows_no_other() -> None:
    def others(path: Path) -> set[str]:
        shared = {"core", "base", *(["simulator", "__version__"] if simulates(path) else [])}
        return parts(ever(path)) - {*shared, path.parent.name}

    assert offences(OF_SYSTEMS, others) == {}


def own(path: Path) -> set[str]:
    """Return the modules of its own system that a module imports."""
    return {name.split(".")[2] for name in ever(path) if name.startswith(f"{NAME}.{path.parent.name}.")}


def test_a_systems_description_needs_core_and_itself_only() -> None:
    assert offences(DESCRIPTIONS, lambda path: parts(ever(path)) - {"core", path.parent.name}) == {}
    assert offences(DESCRIPTIONS, lambda path: {f"{name}.py" for name in own(path)} & IMPURE) == {}
    assert offences(DESCRIPTIONS, lambda path: {one for one in own(path) if one.startswith("simulat")}) == {}


def loads(before: str, code: str) -> list[str]:
    """Return the modules that code loads in a new interpreter, beyond those that came before it."""
    script = (
        f"import json, sys\nsys.path.insert(0, {str(ROOT)!r})\n{before}\nloaded = set(sys.modules)\n{code}\n"
        "print(json.dumps(sorted(set(sys.modules) - loaded)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=600, check=False
    )
    assert ended.returncode == 0, ended.stderr
    loaded: list[str] = json.loads(ended.stdout.splitlines()[-1])
    return loaded


AIRFLOW = "try:\n    import airflow.sdk\nexcept ImportError:\n    import airflow.models"


def test_importing_what_dags_import_loads_no_http_library() -> None:
    modules = [
        f"{NAME}.{system}.{kind}" for system in SYSTEMS for kind in ("operators", "sensors", "triggers")
    ]
    loaded = loads(AIRFLOW, "import " + ", ".join(modules))
    assert set(modules) <= set(loaded)
    assert not top(set(loaded)) & {"requests", "aiohttp", "urllib3"}
    assert not [name for name in loaded if "openlineage" in name]


def test_the_providers_metadata_loads_neither_a_hook_nor_an_http_library() -> None:
    loaded = set(loads("", f"from {NAME}.provider_info import get_provider_info\nget_provider_info()"))
    assert {f"{NAME}.{system}.api" for system in SYSTEMS} <= loaded
    assert not loaded & {f"{NAME}.{system}.{kind}" for system in SYSTEMS for kind in ("hooks", "operators")}
    assert not top(loaded) & {"airflow", "requests", "aiohttp", "urllib3", "pendulum"}


def test_importing_what_dags_import_warns_of_nothing() -> None:
    modules = [
        f"{NAME}.{system}.{kind}"
        for system in SYSTEMS
        for kind in ("operators", "sensors", "triggers", "hooks")
    ]
    script = (
        "import warnings, airflow.models\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        f"    import {', '.join(modules)}\n"
        f"print([str(one.message) for one in caught if {NAME!r} in one.filename])"
    )
    shown = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    assert shown.stdout.splitlines()[-1] == "[]"
