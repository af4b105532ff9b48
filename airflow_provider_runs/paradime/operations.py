"""
The GraphQL operations of Paradime's API, each described once.

A document declares only the arguments in use: an older server refuses the whole document for an argument that
it does not know. Values travel as variables, never in the document. All of them are declared as not null,
which fits nullable arguments too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from airflow_provider_runs.core.errors import BadInput
from airflow_provider_runs.core.inputs import integer

LARGEST_INT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Operation:
    """
    One field of the schema's query or mutation type.

    :param kind: ``query`` or ``mutation``.
    :param field: the field's name.
    :param arguments: its arguments, each with the type of its variable.
    :param selection: what is asked of the result.
    :param older: what is asked of servers that do not know all of that; empty: the same.
    """

    kind: Literal["query", "mutation"]
    field: str
    arguments: Mapping[str, str]
    selection: str
    older: str = ""

    def body(self, values: Mapping[str, Any], *, older: bool = False) -> dict[str, Any]:
        """
        Return the body of a request.

        :param values: the arguments in use.
        :param older: whether the server is one that does not know the whole selection.
        """
        selection = (older and self.older) or self.selection
        declared = ", ".join(f"${name}: {self.arguments[name]}" for name in values)
        given = ", ".join(f"{name}: ${name}" for name in values)
        head, call = (f"({declared})", f"({given})") if values else ("", "")
        return {
            "query": f"{self.kind} {self.field}{head} {{ {self.field}{call} {{ {selection} }} }}",
            "variables": dict(values),
        }

    def body_of_many(self, numbers: Sequence[int]) -> dict[str, Any]:
        """
        Return the body of a request that asks for the field once for each number, under :func:`alias`.

        :param numbers: values of its only argument.
        """
        ((argument, kind),) = self.arguments.items()
        names = [alias(index) for index in range(len(numbers))]
        declared = ", ".join(f"${name}: {kind}" for name in names)
        fields = " ".join(
            f"{name}: {self.field}({argument}: ${name}) {{ {self.selection} }}" for name in names
        )
        return {
            "query": f"{self.kind} {self.field}({declared}) {{ {fields} }}",
            "variables": dict(zip(names, numbers, strict=True)),
        }


def alias(index: int) -> str:
    """
    Return the name under which one of many answers comes.

    :param index: its place among the numbers asked for, from 0.
    """
    return f"r{index}"


def int32(name: str, value: Any) -> int:
    """
    Return a number as GraphQL's ``Int`` takes it: a text of digits is refused there.

    :param name: the argument, for the message.
    :param value: a number, also as text.
    :raises BadInput: if it is anything else, or out of range.
    """
    number = integer(name, value, at_least=1)
    if number > LARGEST_INT:
        raise BadInput(f"{name} must be at most {LARGEST_INT}, not {number}")
    return number


TRIGGER = Operation(
    "mutation",
    "triggerBoltRun",
    {
        "slug": "String!",
        "scheduleName": "String!",
        "commands": "[String!]!",
        "branch": "String!",
        "prNumber": "Int!",
        "reason": "String!",
        "commandConfigs": "[BoltCommandInput!]!",
        "continueOnError": "Boolean!",
    },
    "runId",
)
CANCEL = Operation("mutation", "cancelBoltRun", {"scheduleRunId": "Int!"}, "ok")
RETRY = Operation("mutation", "retryBoltRun", {"scheduleRunId": "Int!"}, "runId")
RETRY_ALL = Operation("mutation", "retryAllBoltRun", {"scheduleRunId": "Int!"}, "runId")
RETRY_FROM_FAILURE = Operation("mutation", "retryBoltRunFromFailure", {"slug": "String!"}, "runId")
SUSPEND = Operation("mutation", "suspendBoltSchedule", {"slug": "String!", "suspend": "Boolean!"}, "ok")

STATUS = Operation("query", "boltRunStatus", {"runId": "Int!"}, "ok state")
COMMANDS = Operation(
    "query",
    "boltRunStatus",
    {"runId": "Int!"},
    "ok state commands { id command startDttm endDttm returnCode }",
)
COMMAND = Operation(
    "query",
    "boltCommand",
    {"commandId": "Int!"},
    "ok command startDttm endDttm stdout stderr returnCode scheduleRunId resources { id path }",
)
RESOURCES = Operation("query", "boltCommand", {"commandId": "Int!"}, "ok resources { id path }")
RESOURCE_URL = Operation("query", "boltResourceUrl", {"resourceId": "Int!"}, "ok url")
LOGS = Operation(
    "query",
    "boltCommandLogs",
    {"commandId": "Int!", "cursor": "String!"},
    "lines { stream line } cursor finished",
)
RUNS = Operation(
    "query",
    "listBoltRuns",
    {"slug": "String!", "offset": "Int!", "limit": "Int!"},
    "ok runs { id state actor actorEmail startDttm endDttm parentScheduleRunId "
    "gitInfo { branch commitHash pullRequestId } }",
)
SCHEDULE = Operation(
    "query",
    "boltScheduleName",
    {"slug": "String!", "scheduleName": "String!"},
    "ok latestRunId commands owner schedule uuid source suspended",
    older="ok latestRunId commands owner schedule uuid source",
)
_SCHEDULE_FIELDS = (
    "id uuid name schedule owner lastRunAt lastRunState nextRunAt source "
    "turboCi { enabled deferredScheduleName successfulRunOnly } "
    "deferredSchedule { enabled deferredScheduleName successfulRunOnly } commands gitBranch"
)
SCHEDULES = Operation(
    "query",
    "listBoltSchedules",
    {
        "offset": "Int!",
        "limit": "Int!",
        "showInactive": "Boolean!",
        "filter": "BoltScheduleFilter!",
    },
    f"totalCount schedules {{ {_SCHEDULE_FIELDS} slug suspended }}",
    older=f"totalCount schedules {{ {_SCHEDULE_FIELDS} }}",
)
COUNT = Operation("query", SCHEDULES.field, SCHEDULES.arguments, "totalCount")

ALL = (
    *(TRIGGER, CANCEL, RETRY, RETRY_ALL, RETRY_FROM_FAILURE, SUSPEND),
    *(STATUS, COMMANDS, COMMAND, RESOURCES, RESOURCE_URL, LOGS, RUNS, SCHEDULE, SCHEDULES, COUNT),
)
