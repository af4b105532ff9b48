"""No secret of a connection, and no token that a service gave for it, is left lying about in Airflow's home.

Runs last: what the other tests have left is what is searched.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.system.conftest import SECRETS, Service
from tools.airflow_stack import AirflowStack


@pytest.fixture
def canaries(stack: AirflowStack, service: Service, runs: dict[str, str]) -> dict[str, bytes]:
    """What must not be found, by name. Needs DAG runs that have used all of it."""
    for dag_id in ("broken", "mapped", "watched"):
        stack.wait_for_dag_run(dag_id, runs[dag_id])
    tokens = service.tokens()
    assert len(tokens) > 2
    found = {**SECRETS, **{f"token {number}": token for number, token in enumerate(sorted(tokens))}}
    return {name: value.encode() for name, value in found.items()}


def findings(texts: dict[str, bytes], canaries: dict[str, bytes]) -> list[tuple[str, str]]:
    return [
        (where, name) for where, text in texts.items() for name, value in canaries.items() if value in text
    ]


def test_no_file_holds_a_secret(stack: AirflowStack, service: Service, canaries: dict[str, bytes]) -> None:
    files = [path for path in stack.home.rglob("*") if path.is_file()]
    logs = {str(path.relative_to(stack.home)): path.read_bytes() for path in files}
    run_id = str(service.chalk_runs("shop.watched")[0]["id"])
    assert [name for name, text in logs.items() if name.endswith(".log") and run_id.encode() in text]
    assert findings(logs, canaries) == []


def test_no_column_of_the_database_holds_a_secret(
    stack: AirflowStack, service: Service, canaries: dict[str, bytes]
) -> None:
    texts = database_texts(stack.home / "airflow.db")
    run_id = str(service.chalk_runs("shop.watched")[0]["id"])
    assert run_id.encode() in texts["xcom.value"]
    assert texts["connection.password"]
    assert findings(texts, canaries) == []


def database_texts(path: Path) -> dict[str, bytes]:
    """Return all that each column of each table holds."""
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
    try:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        texts = {}
        for table in tables:
            rows = database.execute(f'SELECT * FROM "{table}"')
            columns = [column[0] for column in rows.description]
            for values, column in zip(zip(*rows, strict=True) or (), columns, strict=False):
                texts[f"{table}.{column}"] = b"\n".join(
                    value if isinstance(value, bytes) else str(value).encode() for value in values
                )
        return texts
    finally:
        database.close()
