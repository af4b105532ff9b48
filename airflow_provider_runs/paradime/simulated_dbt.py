"""The dbt project that simulated runs build, and what dbt writes about it: manifest, results, catalog."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Json = Any

PROJECT = "shop"
DBT_VERSION = "1.10.13"
DATABASE = "analytics"
RAW = "raw"


class Table(NamedTuple):
    """Describe a source or a model: its columns with their types, and for a model parents and SQL."""

    columns: Mapping[str, str]
    parents: tuple[str, ...] = ()
    sql: str = ""


SOURCES = {
    "orders": Table({"id": "integer", "customer_id": "integer", "amount": "numeric"}),
    "customers": Table({"id": "integer", "name": "text"}),
}
MODELS = {
    "stg_orders": Table(
        {"id": "integer", "customer_id": "integer", "amount": "numeric"},
        ("source.shop.raw.orders",),
        'select id, customer_id, amount from "analytics"."raw"."orders"',
    ),
    "orders": Table(
        {"id": "integer", "customer": "text", "amount": "numeric"},
        ("model.shop.stg_orders", "source.shop.raw.customers"),
        'select o.id, c.name as customer, o.amount from "analytics"."shop"."stg_orders" as o '
        'join "analytics"."raw"."customers" as c on c.id = o.customer_id',
    ),
    "revenue": Table(
        {"customer": "text", "amount": "numeric"},
        ("model.shop.orders",),
        'select customer, sum(amount) as amount from "analytics"."shop"."orders" group by customer',
    ),
}
TESTS = {"not_null_orders_id": "not_null", "unique_orders_id": "unique"}
"""Names of the tests of the column ``id`` of the model ``orders``, and what they test."""


def unique_id(name: str) -> str:
    """Return dbt's id of a model or a test."""
    return f"{'test' if name in TESTS else 'model'}.{PROJECT}.{name}"


def compiled(name: str) -> str:
    """Return the SQL of a model or a test."""
    if name in MODELS:
        return MODELS[name].sql
    rows = 'select id from "analytics"."shop"."orders"'
    return (
        f"{rows} where id is null" if TESTS[name] == "not_null" else f"{rows} group by id having count(*) > 1"
    )


def relation(schema: str, name: str) -> str:
    """Return a table's name as the warehouse takes it."""
    return f'"{DATABASE}"."{schema}"."{name}"'


def manifest(metadata: Mapping[str, Json]) -> dict[str, Json]:
    """
    Return ``manifest.json``, version 12.

    :param metadata: when and by which invocation it was written, see :func:`written`.
    """
    nodes = {unique_id(name): _model(name, table) for name, table in MODELS.items()}
    nodes |= {unique_id(name): _test(name, kind) for name, kind in TESTS.items()}
    sources = {f"source.{PROJECT}.{RAW}.{name}": _source(name, table) for name, table in SOURCES.items()}
    parents: dict[str, list[str]] = {name: node["depends_on"]["nodes"] for name, node in nodes.items()}
    parents |= {name: [] for name in sources}
    empty = ("macros", "docs", "exposures", "metrics", "groups", "selectors", "disabled", "group_map")
    return {
        "metadata": {
            "dbt_schema_version": "https://schemas.getdbt.com/dbt/manifest/v12.json",
            **metadata,
            "project_name": PROJECT,
            "project_id": hashlib.md5(PROJECT.encode(), usedforsecurity=False).hexdigest(),
            "adapter_type": "postgres",
            "quoting": {"database": True, "schema": True, "identifier": True, "column": None},
        },
        "nodes": nodes,
        "sources": sources,
        **{name: {} for name in (*empty, "saved_queries", "semantic_models", "unit_tests", "functions")},
        "parent_map": parents,
        "child_map": {name: [child for child, found in parents.items() if name in found] for name in parents},
    }


def run_results(
    metadata: Mapping[str, Json], which: str, results: Sequence[Mapping[str, Json]]
) -> dict[str, Json]:
    """
    Return ``run_results.json``, version 6.

    :param metadata: as for :func:`manifest`.
    :param which: dbt's command.
    :param results: what became of each node.
    """
    return {
        "metadata": {"dbt_schema_version": "https://schemas.getdbt.com/dbt/run-results/v6.json", **metadata},
        "results": list(results),
        "elapsed_time": sum(result["execution_time"] for result in results),
        "args": {"which": which, "invocation_command": f"dbt {which}", "profile": PROJECT, "target": "prod"},
    }


def catalog(metadata: Mapping[str, Json]) -> dict[str, Json]:
    """
    Return ``catalog.json``, version 1: the tables as the warehouse knows them.

    :param metadata: as for :func:`manifest`.
    """
    return {
        "metadata": {"dbt_schema_version": "https://schemas.getdbt.com/dbt/catalog/v1.json", **metadata},
        "nodes": {unique_id(name): _known(PROJECT, name, table) for name, table in MODELS.items()},
        "sources": {
            f"source.{PROJECT}.{RAW}.{name}": _known(RAW, name, table) for name, table in SOURCES.items()
        },
        "errors": None,
    }


def written(invocation_id: str, at: str) -> dict[str, Json]:
    """
    Return what all of dbt's documents say about where they come from.

    :param invocation_id: the invocation of dbt.
    :param at: when it ended, ISO 8601.
    """
    return {"dbt_version": DBT_VERSION, "generated_at": at, "invocation_id": invocation_id, "env": {}}


def _model(name: str, table: Table) -> dict[str, Json]:
    path = f"{name}.sql"
    kind = "view" if name.startswith("stg_") else "table"
    return {
        **_node(name, "model", path, f"models/{path}"),
        "schema": PROJECT,
        "config": {"enabled": True, "materialized": kind, "tags": [], "meta": {}},
        "columns": _columns(table),
        "depends_on": {"macros": [], "nodes": list(table.parents)},
        "relation_name": relation(PROJECT, name),
    }


def _test(name: str, kind: str) -> dict[str, Json]:
    return {
        **_node(name, "test", f"{name}.sql", "models/schema.yml"),
        "schema": f"{PROJECT}_dbt_test__audit",
        "config": {"enabled": True, "materialized": "test", "severity": "ERROR", "error_if": "!= 0"},
        "columns": {},
        "column_name": "id",
        "test_metadata": {
            "name": kind,
            "kwargs": {"column_name": "id", "model": "{{ get_where_subquery(ref('orders')) }}"},
            "namespace": None,
        },
        "attached_node": unique_id("orders"),
        "depends_on": {"macros": [f"macro.dbt.test_{kind}"], "nodes": [unique_id("orders")]},
        "relation_name": None,
    }


def _node(name: str, kind: str, path: str, original: str) -> dict[str, Json]:
    code = compiled(name)
    return {
        "database": DATABASE,
        "name": name,
        "resource_type": kind,
        "package_name": PROJECT,
        "path": path,
        "original_file_path": original,
        "unique_id": unique_id(name),
        "fqn": [PROJECT, name],
        "alias": name,
        "checksum": {"name": "sha256", "checksum": hashlib.sha256(code.encode()).hexdigest()},
        "tags": [],
        "description": "",
        "meta": {},
        "language": "sql",
        "raw_code": code,
        "compiled": True,
        "compiled_code": code,
    }


def _source(name: str, table: Table) -> dict[str, Json]:
    return {
        "database": DATABASE,
        "schema": RAW,
        "name": name,
        "resource_type": "source",
        "package_name": PROJECT,
        "path": "models/sources.yml",
        "original_file_path": "models/sources.yml",
        "unique_id": f"source.{PROJECT}.{RAW}.{name}",
        "fqn": [PROJECT, RAW, name],
        "source_name": RAW,
        "identifier": name,
        "description": "",
        "meta": {},
        "tags": [],
        "columns": _columns(table),
        "relation_name": relation(RAW, name),
    }


def _columns(table: Table) -> dict[str, Json]:
    return {
        name: {"name": name, "description": "", "meta": {}, "data_type": kind, "tags": []}
        for name, kind in table.columns.items()
    }


def _known(schema: str, name: str, table: Table) -> dict[str, Json]:
    return {
        "metadata": {"type": "BASE TABLE", "database": DATABASE, "schema": schema, "name": name},
        "columns": {
            column: {"type": kind, "index": number, "name": column, "comment": None}
            for number, (column, kind) in enumerate(table.columns.items(), 1)
        },
        "stats": {"has_stats": {"id": "has_stats", "label": "Has Stats?", "value": False, "include": False}},
    }
