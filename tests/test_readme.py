"""What the README says about the code."""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_runs.base import exceptions
from airflow_provider_runs.base.events import HAS_SHARED_STREAMS
from airflow_provider_runs.base.operator import TriggerRunOperator
from airflow_provider_runs.base.sensor import RunSensor
from airflow_provider_runs.core import errors
from airflow_provider_runs.core.api import RunApi
from airflow_provider_runs.core.connection import ConnectionSpec, read_settings
from airflow_provider_runs.core.errors import RunsError
from airflow_provider_runs.provider_info import SYSTEMS
from tests.comparison import PROOFS
from tools.status_tables import status_table

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.rst").read_text()
STANDARD_LABELS = {"host": "Host", "port": "Port", "login": "Login", "password": "Password"}


def table(title: str, text: str = README) -> list[list[str]]:
    """Return the rows of a list-table below its header, without markup."""
    (body,) = re.findall(
        rf"^\.\. list-table:: {re.escape(title)}\n(?: +:.*\n)*\n((?:(?: +.*)?\n)+)", text, re.MULTILINE
    )
    rows: list[list[str]] = []
    for line in textwrap.dedent(body).rstrip().splitlines():
        if line.startswith("* - "):
            rows.append([line[4:]])
        elif line.startswith("  -"):
            rows[-1].append(line[4:])
        else:
            rows[-1][-1] += " " + line.strip()
    assert len({len(row) for row in rows}) == 1
    return [[cell.replace("``", "").strip() for cell in row] for row in rows[1:]]


def code(language: str) -> list[str]:
    """Return the README's code blocks of a language."""
    found = re.findall(rf"^\.\. code-block:: {language}\n\n((?:(?:   .*)?\n)+)", README, re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


PYTHON = code("python")
EXPORTED = [
    (name.lower(), value)
    for block in code("shell")
    for name, value in re.findall(r"AIRFLOW_CONN_(\w+)='([^']*)'", block)
]
CONNECTIONS = [(name, json.loads(value)) for name, value in EXPORTED if value.startswith("{")]
URIS = [(name, value) for name, value in EXPORTED if not value.startswith("{")]


def module(system: str) -> ModuleType:
    return import_module(f"airflow_provider_runs.{system}.api")


def api_class(system: str) -> type[RunApi]:
    (found,) = [
        kind
        for kind in vars(module(system)).values()
        if inspect.isclass(kind) and issubclass(kind, RunApi) and kind.__module__ == module(system).__name__
    ]
    return found


def spec(system: str) -> ConnectionSpec:
    return api_class(system).connection


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_the_status_words_are_generated_from_the_code(system: str) -> None:
    assert f"\n{status_table(system)}\n" in README, "make tables"


def fields_told(system: str) -> list[tuple[str, ...]]:
    """Return what the tables say about the fields of a system's connection."""
    return [*table(f"{spec(system).hook_name} connection"), *table("Fields of every connection")]


def test_the_connections_fields_are_those_of_the_form(system: str) -> None:
    rows = fields_told(system)
    own = [(label, name.removeprefix("extra.")) for label, name, _ in rows if name.startswith("extra.")]
    assert own == [(field.label, field.name) for field in spec(system).fields]
    standard = {name: label for label, name, _ in rows if not name.startswith("extra.")}
    shown = {name: label for name, label in STANDARD_LABELS.items() if name not in spec(system).hidden}
    assert standard == shown | dict(spec(system).relabeling)


def test_the_table_says_which_fields_are_secret(system: str) -> None:
    told = {name for _, name, text in fields_told(system) if text.startswith("Secret")}
    assert told == {f"extra.{field.name}" for field in spec(system).fields if field.secret}


def test_every_system_has_an_example_connection() -> None:
    assert {connection["conn_type"] for _, connection in CONNECTIONS} == {
        spec(system).conn_type for system in SYSTEMS
    }


@pytest.mark.parametrize(("name", "connection"), CONNECTIONS)
def test_the_example_connections_are_accepted(name: str, connection: dict[str, Any]) -> None:
    fields = {field: value for field, value in connection.items() if field != "conn_type"}
    (system,) = [one for one in SYSTEMS if spec(one).conn_type == connection["conn_type"]]
    assert name == f"{system}_default"
    assert set(fields.get("extra", {})) <= {field.name for field in spec(system).fields}
    settings = read_settings(spec(system), conn_id=name, **fields)
    assert api_class(system)(settings).settings.base_url


def test_each_uri_is_the_same_connection_as_the_json_before_it() -> None:
    from airflow.models.connection import Connection

    documents = dict(reversed(CONNECTIONS))
    assert [name for name, _ in URIS] == [f"{system}_default" for system in SYSTEMS]
    for name, uri in URIS:
        document, given = Connection.from_json(json.dumps(documents[name])), Connection(uri=uri)
        settings = [
            read_settings(
                spec(name.removesuffix("_default")),
                conn_id=name,
                **{
                    field: getattr(made, field)
                    for field in ("host", "port", "login", "password", "schema")
                    if getattr(made, field)
                },
                extra=made.extra_dejson,
            )
            for made in (document, given)
        ]
        assert settings[0] == settings[1]
        assert document.conn_type == given.conn_type


@pytest.mark.parametrize(("title", "kind"), [("Operator", TriggerRunOperator), ("Sensor", RunSensor)])
def test_the_shared_arguments_are_those_of_the_code(title: str, kind: type) -> None:
    known = {name: one for name, one in inspect.signature(kind.__init__).parameters.items() if name != "self"}
    rows = table(f"{title} arguments")
    told = [name for name, _, _ in rows]
    assert told == [name for name, one in known.items() if one.kind is one.KEYWORD_ONLY]
    for name, default, _ in rows:
        if default in ("True", "False", "None"):
            assert str(known[name].default) == default
        if name == "min_poll_interval":
            paces = [f"{spec(one).hook_name} {api_class(one).pace.min_poll_interval:g} s" for one in SYSTEMS]
            assert default == ", ".join(paces)


def test_the_operators_arguments_are_named(system: str) -> None:
    for kind in ("operators", "sensors"):
        for name, found in vars(import_module(f"airflow_provider_runs.{system}.{kind}")).items():
            if inspect.isclass(found) and found.__module__.endswith(f"{system}.{kind}"):
                assert name in README
                for argument in getattr(found, "run_fields", ()):
                    assert argument in README


def test_every_error_has_a_row_that_says_whether_it_is_retried() -> None:
    rows = {name: retried for name, retried, _, _ in table("Errors")}
    raised: dict[str, type] = {}
    for source in (exceptions, errors):
        raised |= {
            name: kind
            for name, kind in vars(source).items()
            if inspect.isclass(kind) and issubclass(kind, RunsError) and kind.__module__ == source.__name__
        }
    assert set(rows) == set(raised) - {"RunsError"}
    for name, kind in raised.items():
        if kind.__module__ == exceptions.__name__:
            assert rows[name] == ("no" if issubclass(kind, AirflowFailException) else "yes")


def test_make_has_every_target_that_is_named() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony, _ = re.findall(r"^\.PHONY: (.*)", makefile, re.MULTILINE)
    assert set(re.findall(r"make ([a-z]+)\b", " ".join(re.findall(r"``[^`]*``", README)))) <= set(
        phony.split()
    )
    told = {target.removeprefix("make ") for target, _ in table("Make targets")}
    assert told == set(phony.split()) - {"help"}


@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
def test_the_python_code_can_be_run(block: str) -> None:
    if "AssetWatcher" in block and not HAS_SHARED_STREAMS:
        pytest.skip("the README says that this needs Airflow 3.3")
    found: dict[str, Any] = {"__name__": "readme"}
    exec(compile(block, "README.rst", "exec"), found)


def examples() -> Iterator[tuple[str, Any]]:
    for block in PYTHON:
        # tests/system runs the one that needs a database.
        if "\ndef test_" in block and "dag.test()" not in block:
            found: dict[str, Any] = {"__name__": "readme"}
            exec(compile(block, "README.rst", "exec"), found)
            yield from ((name, one) for name, one in found.items() if name.startswith("test_"))


@pytest.mark.parametrize(("name", "example"), list(examples()))
def test_the_example_test_passes(name: str, example: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    example(monkeypatch)


def test_the_simulators_examples_are_accepted() -> None:
    import requests

    from airflow_provider_runs.simulator import Simulator

    posted = [
        found
        for block in code("shell")
        for found in re.findall(r"curl http://127.0.0.1:8765(\S+) -H '([^']+)' -d \\\n *'([^']*)'", block)
    ]
    assert len(posted) == 3
    with Simulator() as simulator:
        for path, header, body in posted:
            name, _, value = header.partition(": ")
            answer = requests.post(simulator.url + path, data=body, headers={name: value}, timeout=10)
            assert answer.status_code == 200, answer.text


def test_its_pictures_are_there_and_small() -> None:
    pictures = re.findall(r"^\.\. image:: (\S+)", README, re.MULTILINE)
    assert set(pictures) == {str(file.relative_to(ROOT)) for file in (ROOT / "docs/images").iterdir()}
    for picture in pictures:
        content = (ROOT / picture).read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) < 150 * 1024


@pytest.mark.parametrize("name", ["README.rst", "CHANGELOG.rst"])
def test_it_is_valid_restructuredtext(name: str) -> None:
    core = pytest.importorskip("docutils.core")
    core.publish_doctree(
        (ROOT / name).read_text(),
        settings_overrides={"report_level": 2, "halt_level": 2, "syntax_highlight": "none"},
    )


def test_each_row_of_the_comparison_is_proved_by_tests() -> None:
    assert [row[0] for row in table("Comparison")] == list(PROOFS)
    for tests in PROOFS.values():
        assert tests
        for path, _, name in (test.partition("::") for test in tests):
            tree = ast.parse((ROOT / "tests" / path).read_text())
            assert name in {one.name for one in ast.walk(tree) if isinstance(one, DEFINITIONS)}, (path, name)


# The table's title in benchmarks/README.rst, and the columns that are shown here.
@pytest.mark.parametrize(
    ("title", "measured", "columns"),
    [
        ("Cost of 1000 waits", r"1000 waits: runs of 8 to 24 s, all looked at every 5 s", (1, 3, 4, 5)),
        (
            "Cost of an import",
            r"Importing operators, CPU time beside what every DAG file imports",
            (1, 2, 3, 4),
        ),
    ],
)
def test_the_figures_are_those_that_were_measured(
    title: str, measured: str, columns: tuple[int, ...]
) -> None:
    def plain(cell: str) -> str:
        return cell.partition(" (")[0]

    rows = table(measured, (ROOT / "benchmarks/README.rst").read_text())
    found = {row[0]: [plain(row[column]) for column in columns] for row in rows if row[0] != "idle"}
    assert {row[0]: row[1:] for row in table(title)} == found
