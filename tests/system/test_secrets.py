"""No secret of a connection, and no token that a service gave for it, is left lying about in Airflow's home.

Runs last: what the other tests have left is what is searched.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy

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


# Airflow keeps a connection's host, which Paradime's endpoint is, in clear, also in its audit log.
HOST_SHOWN = {"connection.host", "log.extra"}


def findings(texts: dict[str, bytes], canaries: dict[str, bytes]) -> list[tuple[str, str]]:
    return [
        (where, name)
        for where, text in texts.items()
        for name, value in canaries.items()
        if value in text and not (name == "endpoint_token" and where in HOST_SHOWN)
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
    texts = database_texts(stack.database)
    run_id = str(service.chalk_runs("shop.watched")[0]["id"])
    assert run_id.encode() in texts["xcom.value"]
    assert texts["connection.password"]
    assert findings(texts, canaries) == []


def database_texts(url: str, only: Sequence[str] = ()) -> dict[str, bytes]:
    """Return all that each column holds, of each table or of these only."""
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    texts = {}
    with engine.connect() as connection:
        for table in only or sqlalchemy.inspect(connection).get_table_names():
            rows = connection.exec_driver_sql(f'SELECT * FROM "{table}"')
            names = list(rows.keys())
            for name, values in zip(names, zip(*rows, strict=True), strict=False):
                texts[f"{table}.{name}"] = b"\n".join(map(_text, values))
    return texts


def _text(value: Any) -> bytes:
    if isinstance(value, (bytes, memoryview)):
        return bytes(value)
    return (json.dumps(value) if isinstance(value, (dict, list)) else str(value)).encode()
