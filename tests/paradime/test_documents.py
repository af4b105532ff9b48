"""Every document that can be sent is valid GraphQL of Paradime's schema."""

from __future__ import annotations

import itertools
from functools import cache
from importlib.resources import files
from typing import Any

import pytest
from graphql import GraphQLSchema, build_schema, parse, validate

from airflow_provider_runs.paradime.operations import ALL, TRIGGER, Operation
from tests.paradime.conftest import data, make_api
from tests.play import play

SDL = files("airflow_provider_runs.paradime").joinpath("schema.graphql").read_text()
VALUES: dict[str, Any] = {"String!": "a", "Int!": 1, "Boolean!": True, "[String!]!": ["a"]}
# Exactly one of them in a document.
EITHER = {"slug", "scheduleName"}


@cache
def schema_of(sdl: str) -> GraphQLSchema:
    """Build a schema once, and not when tests are collected."""
    return build_schema(sdl)


@cache
def refusals_of(query: str, sdl: str) -> list[str]:
    return [error.message for error in validate(schema_of(sdl), parse(query))]


def refusals(body: dict[str, Any], sdl: str = SDL) -> list[str]:
    # Many sets of arguments make the same document.
    return refusals_of(body["query"], sdl)


def combinations(operation: Operation) -> list[set[str]]:
    """Return every set of arguments that a document of this operation can declare."""
    must = {name for name in operation.arguments if name not in OPTIONAL.get(operation.field, set())}
    optional = sorted(set(operation.arguments) - must)
    return [
        must | set(chosen)
        for size in range(len(optional) + 1)
        for chosen in itertools.combinations(optional, size)
        if not EITHER.issubset(must | set(chosen))
    ]


OPTIONAL = {
    "triggerBoltRun": set(TRIGGER.arguments),
    "boltScheduleName": {"slug", "scheduleName"},
    "listBoltRuns": {"slug"},
    "listBoltSchedules": {"filter"},
}


@pytest.mark.parametrize("operation", ALL, ids=lambda one: f"{one.field} {one.selection[:12]}")
def test_every_document_is_valid(operation: Operation) -> None:
    checked = 0
    for names in combinations(operation):
        values = {
            name: VALUES.get(operation.arguments[name]) for name in operation.arguments if name in names
        }
        for older in (False, True):
            body = operation.body(values, older=older)
            assert refusals(body) == []
            assert body["variables"] == values
            checked += 1
    assert checked >= 2


@pytest.mark.parametrize("operation", [one for one in ALL if len(one.arguments) == 1 and one.kind == "query"])
def test_every_document_with_aliases_is_valid(operation: Operation) -> None:
    for count in (1, 2, 50):
        numbers = list(range(1, count + 1))
        body = operation.body_of_many(numbers)
        assert refusals(body) == []
        assert list(body["variables"].values()) == numbers


def test_the_schema_refuses_what_it_should() -> None:
    assert refusals({"query": "mutation m($a: Int!) { triggerBoltRun(slug: $a) { runId } }"})
    assert refusals({"query": "mutation m($a: String!) { triggerBoltRun(slag: $a) { runId } }"})


OLD = SDL.replace("slug: String, scheduleName: String, commands", "scheduleName: String!, commands").replace(
    "branch: String, prNumber: Int,\n"
    "    reason: String, commandConfigs: [BoltCommandInput!], continueOnError: Boolean",
    "branch: String",
)


def test_an_old_server_takes_a_start_by_the_older_name() -> None:
    arguments = {"schedule_name": "daily", "commands": ["dbt run"], "branch": "main"}
    (request,), _ = play(make_api().trigger(arguments), data(triggerBoltRun={"runId": 1}))
    assert refusals(request.json, OLD) == []
    (request,), _ = play(make_api().trigger({**arguments, "reason": "r"}), data(triggerBoltRun={"runId": 1}))
    (refusal,) = refusals(request.json, OLD)
    assert refusal.startswith("Unknown argument 'reason'")
