"""The requests that Paradime's help page "Bolt schedules and metadata API" shows, and answers like theirs."""

from __future__ import annotations

import re
from typing import Any

import pytest
from graphql import parse, print_ast
from graphql.language import (
    BooleanValueNode,
    FieldNode,
    IntValueNode,
    ListValueNode,
    StringValueNode,
    ValueNode,
    VariableNode,
)

from airflow_provider_runs.core.run import RunState
from tests.answers import answer
from tests.paradime.conftest import make_api
from tests.play import play

DOCUMENTED = {
    "trigger": """
mutation TriggerBoltRun {
    triggerBoltRun(scheduleName: "daily") {
        runId
    }
}
""",
    "trigger with commands": """
mutation TriggerBoltRun {
    triggerBoltRun(scheduleName: "daily", commands: ["dbt compile", "dbt test"]) {
        runId
    }
}
""",
    "trigger with a commit": """
mutation TriggerBoltRun {
    triggerBoltRun(scheduleName: "daily", branch: "e987a71966bf68c79c7fdcb4c4c19babdaf9b258") {
        runId
    }
}
""",
    "cancel": """
mutation CancelBoltRun {
    cancelBoltRun(scheduleRunId: 76033) {
        ok
    }
}
""",
    "status": """
query BoltRunStatus {
    boltRunStatus(runId: 76035) {
        ok
        state
        commands {
            id
            command
            startDttm
            endDttm
            stdout
            stderr
            returnCode
        }
    }
}
""",
    "command": """
query BoltCommand {
    boltCommand(commandId: 243281) {
        command
        startDttm
        endDttm
        stdout
        stderr
        returnCode
        scheduleRunId
        resources {
            id
            path
        }
        ok
    }
}
""",
    "resource": """
query BoltResourceUrl {
    boltResourceUrl(resourceId: 2023484) {
        ok
        url
    }
}
""",
    "schedules": """
query ListBoltSchedules {
    listBoltSchedules(offset: 0, limit: 10, showInactive: false) {
        schedules {
            name
            schedule
            owner
            lastRunAt
            lastRunState
            nextRunAt
            id
            uuid
            source
            turboCi {
                enabled
                deferredScheduleName
                successfulRunOnly
            }
            deferredSchedule {
                deferredScheduleName
                enabled
                successfulRunOnly
            }
            commands
            gitBranch
            slackOn
            slackNotify
            emailOn
            emailNotify
        }
        totalCount
    }
}
""",
    "schedule": """
query BoltScheduleName {
    boltScheduleName(scheduleName: "daily") {
        ok
        latestRunId
        commands
        owner
        schedule
        uuid
        source
    }
}
""",
}


def value_of(node: ValueNode, variables: dict[str, Any]) -> Any:
    match node:
        case VariableNode():
            return variables[node.name.value]
        case IntValueNode():
            return int(node.value)
        case StringValueNode() | BooleanValueNode():
            return node.value
        case ListValueNode():
            return [value_of(one, variables) for one in node.values]
    raise AssertionError(node)


def leaves(selected: Any, path: str = "") -> set[str]:
    found = set()
    for node in selected.selections if selected else ():
        here = f"{path}.{node.name.value}"
        found |= leaves(node.selection_set, here) or {here}
    return found


def meaning(text: str, variables: dict[str, Any]) -> tuple[str, str, dict[str, Any], set[str]]:
    """Return what a document asks, however it is written: kind, field, arguments and what is selected."""
    (definition,) = parse(text).definitions
    (field,) = definition.selection_set.selections  # type: ignore[attr-defined]
    assert isinstance(field, FieldNode)
    given = {one.name.value: value_of(one.value, variables) for one in field.arguments}
    return definition.operation.value, field.name.value, given, leaves(field.selection_set)  # type: ignore[attr-defined]


RUN, OK = {"runId": 76036}, {"ok": True}
COMMAND = {
    "id": 243281,
    "command": "dbt run",
    "startDttm": "2023-10-15 16:44:16.986049",
    "endDttm": "2023-10-15 16:45:16.986049",
    "stdout": "done",
    "stderr": "",
    "returnCode": 0,
}
STATUS = {"ok": True, "state": "RUNNING", "commands": [COMMAND]}
DETAILS = {
    **COMMAND,
    "ok": True,
    "scheduleRunId": 76035,
    "resources": [{"id": 2023484, "path": "target/a.json"}],
}
URL = {"ok": True, "url": "https://store.example.com/target/a.json?signature=1"}
SCHEDULE = {"ok": True, "latestRunId": 76035, "commands": ["dbt run"], "schedule": "OFF", "uuid": "u"}
CASES = [
    ("trigger", lambda api: api.trigger({"schedule_name": "daily"}), RUN, set()),
    (
        "trigger with commands",
        lambda api: api.trigger({"schedule_name": "daily", "commands": ["dbt compile", "dbt test"]}),
        RUN,
        set(),
    ),
    (
        "trigger with a commit",
        lambda api: api.trigger(
            {"schedule_name": "daily", "branch": "e987a71966bf68c79c7fdcb4c4c19babdaf9b258"}
        ),
        RUN,
        set(),
    ),
    ("cancel", lambda api: api.cancel("76033"), OK, set()),
    # Output is read of one command at a time, never while polling.
    ("status", lambda api: api.list_commands("76035"), STATUS, {".commands.stdout", ".commands.stderr"}),
    ("command", lambda api: api.get_command(243281), DETAILS, set()),
    ("resource", lambda api: api.get_resource_url(2023484), URL, set()),
    # Where notifications go is nothing that a DAG needs.
    (
        "schedules",
        lambda api: api.list_schedules(limit=10),
        {"schedules": [{"name": "daily"}], "totalCount": 1},
        {".schedules.slackOn", ".schedules.slackNotify", ".schedules.emailOn", ".schedules.emailNotify"},
    ),
    ("schedule", lambda api: api.get_schedule({"schedule_name": "daily"}), SCHEDULE, set()),
]


@pytest.mark.parametrize(("name", "flow", "result", "left_out"), CASES, ids=[case[0] for case in CASES])
def test_what_is_asked_means_what_is_documented(
    name: str, flow: Any, result: Any, left_out: set[str]
) -> None:
    kind, field, given, selected = meaning(DOCUMENTED[name], {})
    (request,), _ = play(flow(make_api()), answer({"data": {field: result}}))
    sent = meaning(request.json["query"], request.json["variables"])
    assert sent[:3] == (kind, field, given)
    # Beside that only what today's service has.
    assert (
        selected - left_out <= sent[3] <= selected | {".suspended", ".schedules.slug", ".schedules.suspended"}
    )
    # No value is written into the document.
    assert not re.search(r'"|\d{2}', request.json["query"].replace("r0", ""))


def test_every_documented_request_is_one_of_the_cases() -> None:
    assert {case[0] for case in CASES} == set(DOCUMENTED)
    assert all(print_ast(parse(text)) for text in DOCUMENTED.values())


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("RUNNING", RunState.RUNNING),
        ("SUCCESS", RunState.SUCCEEDED),
        ("ERROR", RunState.FAILED),
        ("FAILED", RunState.FAILED),
        ("CANCELED", RunState.CANCELLED),
    ],
)
def test_every_documented_state_is_known(word: str, state: RunState) -> None:
    _, run = play(make_api().get("76035"), answer({"data": {"boltRunStatus": {**STATUS, "state": word}}}))
    assert (run.id, run.state, run.status) == ("76035", state, word)


def test_the_documented_answers_are_read() -> None:
    _, run = play(make_api().trigger({"schedule_name": "daily"}), answer({"data": {"triggerBoltRun": RUN}}))
    assert (run.id, run.url) == ("76036", "https://app.paradime.io/bolt/run_id/76036")
    _, commands = play(make_api().list_commands("76035"), answer({"data": {"boltRunStatus": STATUS}}))
    assert commands == [COMMAND]
    _, command = play(make_api().get_command(243281), answer({"data": {"boltCommand": DETAILS}}))
    assert command["stdout"] == "done"
    _, url = play(make_api().get_resource_url(2023484), answer({"data": {"boltResourceUrl": URL}}))
    assert url == URL["url"]
