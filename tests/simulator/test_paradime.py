"""The simulated Paradime: the documents of Paradime's help page, every operation, and the knobs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from hashlib import sha256
from importlib.resources import files
from typing import Any

import pytest
import requests
from graphql import build_schema

from airflow_provider_runs.core import clock
from airflow_provider_runs.paradime.simulated import GRAPH, Schedule, binary
from airflow_provider_runs.paradime.simulator import ParadimeSimulator
from airflow_provider_runs.simulator import ControlError, Simulator
from airflow_provider_runs.simulator import __main__ as simulator_main
from tests.simulators import Simulators

Until = Callable[..., Any]
Json = Any
KEY = {"X-API-KEY": "key-simulator", "X-API-SECRET": "paradime-secret"}
WORKSPACE_TOKEN = {"Authorization": "Bearer prdm_wsp_simulator"}
COMPANY_TOKEN = {"Authorization": "Bearer prdm_cmp_simulator"}
OTHER = {**COMPANY_TOKEN, "X-Paradime-Workspace": "ws-other"}

# The documents of the help page "Bolt schedules and metadata API", and the fields of their answers.
TRIGGER = 'mutation TriggerBoltRun { triggerBoltRun(scheduleName: "daily") { runId } }'
TRIGGER_COMMANDS = """
mutation TriggerBoltRun {
    triggerBoltRun(scheduleName: "daily", commands: ["dbt compile", "dbt test"]) { runId }
}"""
TRIGGER_COMMIT = """
mutation TriggerBoltRun {
    triggerBoltRun(scheduleName: "daily", branch: "e987a71966bf68c79c7fdcb4c4c19babdaf9b258") { runId }
}"""
CANCEL = "mutation CancelBoltRun { cancelBoltRun(scheduleRunId: 76033) { ok } }"
STATUS = """
query BoltRunStatus {
    boltRunStatus(runId: 76035) {
        ok state commands { id command startDttm endDttm stdout stderr returnCode }
    }
}"""
COMMAND = """
query BoltCommand {
    boltCommand(commandId: 243281) {
        command startDttm endDttm stdout stderr returnCode scheduleRunId resources { id path } ok
    }
}"""
RESOURCE = "query BoltResourceUrl { boltResourceUrl(resourceId: 2023484) { ok url } }"
SCHEDULES = """
query ListBoltSchedules {
    listBoltSchedules(offset: 0, limit: 10, showInactive: false) {
        schedules {
            name schedule owner lastRunAt lastRunState nextRunAt id uuid source
            turboCi { enabled deferredScheduleName successfulRunOnly }
            deferredSchedule { deferredScheduleName enabled successfulRunOnly }
            commands gitBranch slackOn slackNotify emailOn emailNotify
        }
        totalCount
    }
}"""
SCHEDULE = """
query BoltScheduleName {
    boltScheduleName(scheduleName: "daily") { ok latestRunId commands owner schedule uuid source }
}"""

STATES = "query($runId: Int!) { boltRunStatus(runId: $runId) { ok state } }"
COMMANDS = """
query($runId: Int!) {
    boltRunStatus(runId: $runId) {
        commands { id command startDttm endDttm stdout stderr returnCode }
    }
}"""
RUNS = """
query($slug: String, $offset: Int!, $limit: Int!) {
    listBoltRuns(slug: $slug, offset: $offset, limit: $limit) {
        ok
        runs {
            id state actor actorEmail startDttm endDttm parentScheduleRunId
            gitInfo { branch commitHash pullRequestId }
        }
    }
}"""
LOGS = """
query($commandId: Int!, $cursor: String) {
    boltCommandLogs(commandId: $commandId, cursor: $cursor) { lines { stream line } cursor finished }
}"""
TWO_STATES = "{ one: boltRunStatus(runId: 76035) { ok state } two: boltRunStatus(runId: 5) { ok state } }"


class Service:
    """The simulated service as a caller sees it."""

    def __init__(self, sim: Simulator, headers: dict[str, str] | None = None) -> None:
        self.sim, self.headers = sim, headers or KEY
        self.url = sim.url_of("paradime") + "/api/v1/company-simulator/graphql"

    def send(self, query: str, **variables: Json) -> requests.Response:
        body = {"query": query, "variables": variables}
        return requests.post(self.url, json=body, headers=self.headers, timeout=10)

    def ask(self, query: str, **variables: Json) -> Json:
        """Return the only field of an answer without errors."""
        answer = self.send(query, **variables)
        assert answer.status_code == 200
        assert set(answer.json()) == {"data"}, answer.json()
        (value,) = answer.json()["data"].values()
        return value

    def refusal(self, query: str, **variables: Json) -> str:
        """Return the message of the only error of an answer."""
        answer = self.send(query, **variables)
        assert answer.status_code == 200
        (error,) = answer.json()["errors"]
        return str(error["message"])

    def start(self, slug: str = "daily", **arguments: Json) -> int:
        kinds = {
            "commands": "[String!]",
            "branch": "String",
            "prNumber": "Int",
            "reason": "String",
            "commandConfigs": "[BoltCommandInput!]",
            "continueOnError": "Boolean",
        }
        declared = "".join(f", ${name}: {kinds[name]}" for name in arguments)
        passed = "".join(f", {name}: ${name}" for name in arguments)
        query = f"mutation($slug: String{declared}) {{ triggerBoltRun(slug: $slug{passed}) {{ ok runId }} }}"
        answer = self.ask(query, slug=slug, **arguments)
        assert answer["ok"] is True
        return int(answer["runId"])

    def retry(self, run_id: int, field: str = "retryBoltRun") -> int:
        answer = self.ask(
            f"mutation($id: Int!) {{ {field}(scheduleRunId: $id) {{ ok runId }} }}",
            id=run_id,
        )
        return int(answer["runId"])

    def state(self, run_id: int) -> str:
        return str(self.ask(STATES, runId=run_id)["state"])

    def commands(self, run_id: int) -> list[dict[str, Json]]:
        return sorted(self.ask(COMMANDS, runId=run_id)["commands"], key=lambda command: command["id"])

    def texts(self, run_id: int) -> list[str]:
        return [command["command"] for command in self.commands(run_id)]

    def runs(self, slug: str, offset: int = 0, limit: int = 50) -> list[dict[str, Json]]:
        return list(self.ask(RUNS, slug=slug, offset=offset, limit=limit)["runs"])

    def resources(self, command_id: int) -> dict[str, int]:
        query = "query($id: Int!) { boltCommand(commandId: $id) { resources { id path } } }"
        return {each["path"]: each["id"] for each in self.ask(query, id=command_id)["resources"]}

    def address(self, resource_id: int) -> str:
        query = "query($id: Int!) { boltResourceUrl(resourceId: $id) { ok url } }"
        return str(self.ask(query, id=resource_id)["url"])

    def finished(self, until: Until, slug: str = "daily", **arguments: Json) -> int:
        """Start a run and return its id once it has ended."""
        run_id = self.start(slug, **arguments)
        until(lambda: self.state(run_id) not in ("STARTING", "RUNNING"))
        return run_id


def served(**options: Json) -> Simulator:
    return Simulator(["paradime"], speed=100, options={"paradime": options})


@pytest.fixture
def sim(simulators: Simulators) -> Simulator:
    return simulators(["paradime"], speed=100)


@pytest.fixture
def service(sim: Simulator) -> Service:
    return Service(sim)


# The documents of the help page


@pytest.mark.parametrize("document", [TRIGGER, TRIGGER_COMMANDS, TRIGGER_COMMIT])
def test_documented_triggers(sim: Simulator, service: Service, document: str) -> None:
    assert service.ask(document) == {"runId": 76036}
    assert [run["resource"] for run in sim.runs()] == ["daily"]


def test_documented_overrides(sim: Simulator, service: Service) -> None:
    """Commands and commit hold for the one run, not for the schedule."""
    service.ask(TRIGGER_COMMANDS)
    service.ask(TRIGGER_COMMIT)
    assert [run["body"] for run in sim.runs()] == [
        {"mutation": "triggerBoltRun", "scheduleName": "daily", "commands": ["dbt compile", "dbt test"]},
        {
            "mutation": "triggerBoltRun",
            "scheduleName": "daily",
            "branch": "e987a71966bf68c79c7fdcb4c4c19babdaf9b258",
        },
    ]
    newest, before = service.runs("daily", limit=2)
    assert newest["gitInfo"]["commitHash"] == "e987a71966bf68c79c7fdcb4c4c19babdaf9b258"
    assert before["gitInfo"]["branch"] == "main"
    assert service.ask(SCHEDULE)["commands"] == ["dbt run", "dbt test"]


def test_documented_cancel(service: Service, until: Until) -> None:
    assert service.state(76033) == "RUNNING"
    assert service.ask(CANCEL) == {"ok": True}
    until(lambda: service.state(76033) == "CANCELED")


def test_documented_status(service: Service) -> None:
    answer = service.ask(STATUS)
    assert (answer["ok"], answer["state"]) == (True, "SUCCESS")
    commands = {command["id"]: command for command in answer["commands"]}
    assert list(commands) == sorted(commands, reverse=True)
    assert [commands[number]["command"].split(" --")[0] for number in sorted(commands)] == [
        "git clone",
        "dbt deps",
        "dbt run",
        "dbt test",
    ]
    command = commands[243281]
    assert set(command) == {"id", "command", "startDttm", "endDttm", "stdout", "stderr", "returnCode"}
    assert command["returnCode"] == 0
    assert "2 of 2 PASS" in command["stdout"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}", command["startDttm"])
    assert command["startDttm"] < command["endDttm"]


def test_documented_command_and_resource(service: Service) -> None:
    command = service.ask(COMMAND)
    assert (command["ok"], command["command"], command["scheduleRunId"]) == (True, "dbt test", 76035)
    assert {"id": 2023484, "path": "target/run_results.json"} in command["resources"]
    answer = service.ask(RESOURCE)
    assert answer["ok"] is True
    results = requests.get(answer["url"], timeout=10).json()["results"]
    assert [result["status"] for result in results] == ["pass", "pass"]


def test_documented_schedules(service: Service) -> None:
    answer = service.ask(SCHEDULES)
    assert answer["totalCount"] == len(answer["schedules"]) == 8
    first = answer["schedules"][0]
    assert (first["id"], first["name"], first["lastRunState"]) == (973767, "daily", "SUCCESS")
    assert first["turboCi"] == {"enabled": False, "deferredScheduleName": None, "successfulRunOnly": True}
    assert first["slackOn"] == [""]
    details = service.ask(SCHEDULE)
    assert (details["ok"], details["latestRunId"], details["source"]) == (True, 76035, "yaml")
    assert details["uuid"] == first["uuid"]


# Runs


def test_a_run_goes_through_its_states(sim: Simulator, service: Service, until: Until) -> None:
    sim.plan(resource="daily", queued=60, duration=100)
    run_id = service.start()
    assert service.state(run_id) == "STARTING"
    assert service.commands(run_id) == []
    until(lambda: service.state(run_id) == "RUNNING")
    command = service.commands(run_id)[-1]
    assert (command["endDttm"], command["returnCode"]) == ("", None)
    until(lambda: service.state(run_id) == "SUCCESS")
    assert [command["returnCode"] for command in service.commands(run_id)] == [0, 0, 0, 0]
    (run,) = sim.runs()
    assert run["started_at"] > run["created_at"]
    assert run["finished_at"] > run["started_at"]


@pytest.mark.parametrize(
    ("outcome", "states", "codes"),
    [
        ("succeeded", ["SUCCESS"], [0, 0, 0, 0]),
        ("failed", ["FAILED"], [0, 0, 0, 1]),
        ("cancelled", ["CANCELED"], [0, 0, 0, None]),
        ("ERROR", ["ERROR"], [0, 0, None]),
        ("SKIPPED", ["SKIPPED"], []),
        ("DEPLOYING", ["DEPLOYING"], [0, 0, 0, 0]),
        ("PENDING,null,SUCCESS", ["PENDING", None, "SUCCESS", "SUCCESS"], [0, 0, 0, 0]),
    ],
)
def test_outcomes(
    sim: Simulator, service: Service, outcome: str, states: list[str | None], codes: list[int | None]
) -> None:
    sim.plan(system="paradime", outcome=outcome, ends_at_once=True)
    run_id = service.start()
    assert [service.ask(STATES, runId=run_id)["state"] for _ in states] == states
    assert [command["returnCode"] for command in service.commands(run_id)] == codes


def test_a_stuck_run_ends_with_a_cancel(sim: Simulator, service: Service, until: Until) -> None:
    sim.plan(outcome="stuck", duration=1)
    run_id = service.start()
    until(lambda: len(service.commands(run_id)) == 4)
    clock.sleep(0.1)
    assert service.state(run_id) == "RUNNING"
    assert service.ask(f"mutation {{ cancelBoltRun(scheduleRunId: {run_id}) {{ ok }} }}") == {"ok": True}
    until(lambda: service.state(run_id) == "CANCELED")
    assert service.commands(run_id)[-1]["returnCode"] is None
    assert [(run["cancels"], run["cancelled"]) for run in sim.runs()] == [(1, True)]


def test_a_cancel_takes_its_time(until: Until) -> None:
    with served(cancelling=100) as sim:
        service = Service(sim)
        sim.plan(duration=400)
        run_id = service.start()
        query = f"mutation {{ cancelBoltRun(scheduleRunId: {run_id}) {{ ok }} }}"
        assert service.ask(query) == {"ok": True}
        assert service.state(run_id) in ("STARTING", "RUNNING")
        until(lambda: service.state(run_id) == "CANCELED")
        assert len(service.commands(run_id)) < 4


@pytest.mark.parametrize(("cancel_ended", "message"), [(True, None), (False, "Run 76035 has already ended.")])
def test_cancel_of_an_ended_run(cancel_ended: bool, message: str | None) -> None:
    with served(cancel_ended=cancel_ended) as sim:
        answer = Service(sim).send("mutation { cancelBoltRun(scheduleRunId: 76035) { ok } }").json()
        assert [error["message"] for error in answer.get("errors", [])] == ([message] if message else [])
        assert Service(sim).state(76035) == "SUCCESS"


def test_trigger_arguments(sim: Simulator, service: Service, until: Until) -> None:
    run_id = service.finished(
        until, commandConfigs=[{"command": "dbt ls"}], prNumber=7, reason="by Airflow", branch="fix"
    )
    assert service.texts(run_id)[2:] == ["dbt ls"]
    newest = service.runs("daily", limit=1)[0]
    assert (newest["id"], newest["actor"], newest["parentScheduleRunId"]) == (run_id, "api-key", None)
    assert newest["gitInfo"]["branch"] == "fix"
    assert newest["gitInfo"]["pullRequestId"] == "7"
    assert sim.runs()[0]["body"]["reason"] == "by Airflow"
    assert sim.runs()[0]["scope"] == {"workspace": "ws-main"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ('slug: "nothing"', "Schedule nothing not found."),
        ("", "exactly one of slug and scheduleName"),
        ('slug: "daily", scheduleName: "daily"', "exactly one of slug and scheduleName"),
        ('slug: "daily", commands: ["a"], commandConfigs: [{command: "b"}]', "at most one of commands"),
    ],
)
def test_refused_triggers(sim: Simulator, service: Service, arguments: str, message: str) -> None:
    arguments = f"({arguments})" if arguments else ""
    assert message in service.refusal(f"mutation {{ triggerBoltRun{arguments} {{ runId }} }}")
    assert sim.runs() == []


def test_failing_command(service: Service, until: Until) -> None:
    """A failing command ends the run, unless the run may go on."""
    run_id = service.finished(until, "broken")
    assert [(each["command"], each["returnCode"]) for each in service.commands(run_id)[2:]] == [
        ("dbt seed", 0),
        ("dbt build", 1),
    ]
    failing = service.commands(run_id)[-1]
    assert 'relation "raw.orders" does not exist' in failing["stdout"]
    results = service.resources(failing["id"])["target/run_results.json"]
    found = requests.get(service.address(results), timeout=10).json()["results"]
    assert [each["status"] for each in found] == ["success", "error", "skipped", "skipped", "skipped"]
    assert found[1]["unique_id"] == "model.shop.orders"
    going_on = service.finished(until, "broken", continueOnError=True)
    assert [each["returnCode"] for each in service.commands(going_on)[2:]] == [0, 1, 0]
    assert service.state(going_on) == "FAILED"
    configs = [{"command": "dbt test", "continueOnError": True}, {"command": "dbt run"}]
    own = service.finished(until, "broken", commandConfigs=configs)
    assert [each["returnCode"] for each in service.commands(own)[2:]] == [0, 1]


def test_another_program_fails(sim: Simulator, service: Service, until: Until) -> None:
    sim.plan(outcome="failed", message="make: no rule")
    run_id = service.finished(until, commands=["dbt run", "make report"])
    command = service.commands(run_id)[-1]
    assert (command["stderr"], command["returnCode"]) == ("make: no rule\n", 1)
    assert service.resources(command["id"]) == {}


def test_continue_on_error_is_a_feature(until: Until) -> None:
    with served(continue_on_error=False) as sim:
        query = 'mutation { triggerBoltRun(slug: "daily", continueOnError: true) { runId } }'
        assert "not enabled" in Service(sim).refusal(query)


def test_retries(sim: Simulator, service: Service, until: Until) -> None:
    failed = service.finished(until, "broken")
    sim.plan(resource="broken", outcome="succeeded")
    child = service.retry(failed)
    until(lambda: service.state(child) == "SUCCESS")
    assert service.texts(child) == ["dbt retry", "dbt docs generate"]
    whole = service.retry(failed, "retryAllBoltRun")
    until(lambda: service.state(whole) == "SUCCESS")
    assert service.texts(whole)[1:] == ["dbt deps", "dbt seed", "dbt build", "dbt docs generate"]
    assert [(run["id"], run["parentScheduleRunId"]) for run in service.runs("broken")] == [
        (whole, failed),
        (child, failed),
        (failed, None),
    ]
    nothing = "mutation($id: Int!) { retryBoltRun(scheduleRunId: $id) { runId } }"
    assert "no failed command" in service.refusal(nothing, id=whole)
    newest = 'mutation { retryBoltRunFromFailure(slug: "broken") { runId } }'
    assert "no failed command" in service.refusal(newest)
    sim.clear_plans()
    again = service.finished(until, "broken")
    sim.plan(outcome="stuck")
    assert service.ask(newest)["runId"] == again + 1
    assert "still running" in service.refusal(nothing, id=again + 1)
    assert "Run of schedule slow not found." in service.refusal(
        'mutation { retryBoltRunFromFailure(slug: "slow") { runId } }'
    )
    assert sim.runs()[-1]["body"] == {
        "mutation": "retryBoltRunFromFailure",
        "scheduleRunId": again,
        "slug": "broken",
    }


def test_retry_of_a_cancelled_run(sim: Simulator, service: Service, until: Until) -> None:
    """What never ran is done as well."""
    sim.plan(duration=400, times=1)
    run_id = service.start()
    until(lambda: service.texts(run_id))
    service.ask(f"mutation {{ cancelBoltRun(scheduleRunId: {run_id}) {{ ok }} }}")
    until(lambda: service.state(run_id) == "CANCELED")
    assert len(service.texts(run_id)) < 3
    child = service.retry(run_id)
    until(lambda: service.state(child) == "SUCCESS")
    assert service.texts(child) == ["dbt run", "dbt test"]


def test_a_retry_may_name_no_parent(until: Until) -> None:
    with served(names_parent=False) as sim:
        service = Service(sim)
        child = service.retry(service.finished(until, "broken"))
        assert service.runs("broken")[0]["id"] == child
        assert service.runs("broken")[0]["parentScheduleRunId"] is None


def test_list_of_runs(sim: Simulator, service: Service) -> None:
    sim.plan(outcome="stuck")
    started = [service.start() for _ in range(3)]
    assert [run["id"] for run in service.runs("daily")] == [*reversed(started), 76035, 76033]
    assert [run["id"] for run in service.runs("daily", offset=1, limit=2)] == [started[1], started[0]]
    newest, oldest = service.runs("daily")[0], service.runs("daily")[-1]
    assert (newest["endDttm"], newest["actorEmail"]) == ("", None)
    assert (oldest["actor"], oldest["state"]) == ("scheduler", "RUNNING")
    assert service.runs("slow") == []
    assert "limit between 1 and 1000" in service.refusal(RUNS, slug="daily", offset=0, limit=1001)
    assert "Schedule nothing not found." in service.refusal(RUNS, slug="nothing", offset=0, limit=1)


def test_busy_schedules(sim: Simulator, service: Service, until: Until) -> None:
    sim.plan(outcome="stuck")
    query = 'mutation { triggerBoltRun(slug: "one-at-a-time") { runId } }'
    first = service.start("one-at-a-time")
    assert "AlreadyRunningException" in service.refusal(query)
    service.ask(f"mutation {{ cancelBoltRun(scheduleRunId: {first}) {{ ok }} }}")
    until(lambda: service.state(first) == "CANCELED")
    service.ask(query)
    service.start("skips")
    second = service.start("skips")
    assert (service.state(second), service.commands(second)) == ("SKIPPED", [])


def test_hold(sim: Simulator, service: Service) -> None:
    """The run exists before the answer to its trigger comes."""
    sim.plan(hold=30, times=1)
    begun = clock.monotonic()
    service.start()
    assert clock.monotonic() - begun >= 0.3


# Output


def test_logs(sim: Simulator, service: Service, until: Until) -> None:
    sim.plan(duration=120)
    run_id = service.start()
    until(lambda: len(service.commands(run_id)) == 3)
    command = service.commands(run_id)[-1]
    seen: list[str] = []
    cursors = ["0:0"]
    while True:
        answer = service.ask(LOGS, commandId=command["id"], cursor=cursors[-1])
        seen += [line["line"] for line in answer["lines"]]
        cursors.append(answer["cursor"])
        if answer["finished"]:
            break
        clock.sleep(0.02)
    ended = service.commands(run_id)[2]
    assert "".join(seen) == ended["stdout"]
    assert len(set(cursors)) > 2
    assert service.ask(LOGS, commandId=command["id"], cursor=cursors[-1])["lines"] == []
    clone = service.ask(LOGS, commandId=service.commands(run_id)[0]["id"])
    assert {line["stream"] for line in clone["lines"]} == {"STDOUT", "STDERR"}
    assert clone["cursor"] == "1:1"
    assert "Command 1 not found." in service.refusal(LOGS, commandId=1)
    assert "Invalid cursor" in service.refusal(LOGS, commandId=command["id"], cursor="x")


def test_long_logs_come_in_batches() -> None:
    schedule = Schedule("talks", ("dbt run",), log_lines=250)
    with served(schedules=(schedule,), log_batch=100, logs_finish=False) as sim:
        service = Service(sim)
        sim.plan(ends_at_once=True)
        command = service.commands(service.start("talks"))[-1]
        cursor, counts = "0:0", []
        for _ in range(4):
            answer = service.ask(LOGS, commandId=command["id"], cursor=cursor)
            assert answer["finished"] is False
            counts.append(len(answer["lines"]))
            cursor = answer["cursor"]
        assert counts == [100, 100, len(command["stdout"].splitlines()) - 200, 0]


@pytest.mark.parametrize(("null_end", "unset"), [(True, None), (False, "")])
def test_what_a_running_command_lacks(null_end: bool, unset: str | None, until: Until) -> None:
    with served(null_end=null_end, zone=True) as sim:
        service = Service(sim)
        sim.plan(outcome="stuck", duration=50_000)
        run_id = service.start()
        (command,) = until(lambda: service.commands(run_id))
        assert command["endDttm"] == command["stdout"] == unset
        assert service.runs("daily")[0]["endDttm"] == unset
        assert command["startDttm"].endswith("Z")


def test_the_retry_of_a_mended_schedule_succeeds(service: Service, until: Until) -> None:
    run_id = service.start("mended")
    until(lambda: service.state(run_id) == "FAILED")
    retry = "mutation($id: Int!) { retryBoltRun(scheduleRunId: $id) { runId } }"
    retried = service.ask(retry, id=run_id)["runId"]
    until(lambda: service.state(retried) == "SUCCESS")


# Schedules and the rest


def test_lists_of_schedules(service: Service) -> None:
    query = """
    query($inactive: Boolean!, $filter: BoltScheduleFilter, $offset: Int!) {
        listBoltSchedules(offset: $offset, limit: 3, showInactive: $inactive, filter: $filter) {
            totalCount schedules { slug name suspended }
        }
    }"""
    first = service.ask(query, inactive=False, offset=0)
    assert (first["totalCount"], len(first["schedules"])) == (8, 3)
    assert len(service.ask(query, inactive=False, offset=6)["schedules"]) == 2
    assert service.ask(query, inactive=True, offset=0)["schedules"][0]["slug"] == "retired"
    suspended = service.ask(query, inactive=False, offset=0, filter={"suspended": True})
    assert suspended["schedules"] == [{"slug": "nightly-build", "name": "Nightly build", "suspended": True}]
    assert service.ask(query, inactive=False, offset=0, filter={"suspended": False})["totalCount"] == 7


def test_a_schedule_goes_by_slug_or_older_name(service: Service) -> None:
    query = (
        "query($slug: String, $name: String) { boltScheduleName(slug: $slug, scheduleName: $name) { uuid } }"
    )
    by_slug = service.ask(query, slug="nightly-build")
    assert by_slug == service.ask(query, name="nightly-build") == service.ask(query, name="Nightly build")
    assert "not found" in service.refusal(query, slug="Nightly build")


def test_suspend(service: Service) -> None:
    query = """
    mutation($slug: String, $suspend: Boolean!) { suspendBoltSchedule(slug: $slug, suspend: $suspend) { ok } }
    """
    details = 'query { boltScheduleName(slug: "nightly-build") { suspended } }'
    assert service.ask(details) == {"suspended": True}
    assert service.ask(query, slug="nightly-build", suspend=False) == {"ok": True}
    assert service.ask(details) == {"suspended": False}
    assert "YAML" in service.refusal(query, slug="daily", suspend=True)


def test_create_and_delete(until: Until) -> None:
    with served(slug_delay=100) as sim:
        service = Service(sim)
        create = (
            "mutation($schedule: BoltScheduleInput!) { createBoltSchedule(schedule: $schedule) { slug } }"
        )
        schedule = {
            "name": "New one!",
            "schedule": "OFF",
            "environment": "production",
            "commands": ["dbt run"],
        }
        assert service.ask(create, schedule=schedule) == {"slug": "new-one"}
        assert service.ask(create, schedule=schedule) == {"slug": "new-one-2"}
        trigger = 'mutation { triggerBoltRun(slug: "new-one") { runId } }'
        assert "Schedule new-one not found." in service.refusal(trigger)
        assert service.ask('query { boltScheduleName(slug: "new-one") { source } }') == {"source": "api"}
        until(lambda: "errors" not in service.send(trigger).json())
        assert [run["resource"] for run in sim.runs()] == ["new-one"]
        slugs = service.ask('mutation { createScheduleSlugs(displayNames: ["Daily", "A b"]) { ok slugs } }')
        assert slugs == {"ok": True, "slugs": ["daily-2", "a-b"]}
        assert service.ask('mutation { deleteBoltSchedule(slug: "new-one") { ok } }') == {"ok": True}
        assert "not found" in service.refusal(trigger)


def test_the_rest(service: Service) -> None:
    assert service.ask("{ listWorkspaces { workspaces { uid name } } }")["workspaces"] == [
        {"uid": "ws-main", "name": "Main"},
        {"uid": "ws-other", "name": "Other"},
    ]
    names = service.ask("{ listAllScheduleNames { ok schedules { name workspaceName } } }")["schedules"]
    assert {"name": "daily", "workspaceName": "Other"} in names
    environments = service.ask(
        "{ environments(environmentType: SCHEDULER) { ok environments { slug displayName isDefault } } }"
    )
    assert environments["environments"][0]["isDefault"] is True
    users = service.ask("{ listUsers { activeUsers { uid email name accountType } invitedUsers { email } } }")
    assert (len(users["activeUsers"]), len(users["invitedUsers"])) == (2, 1)


def test_every_field_of_the_schema_is_answered() -> None:
    """The packaged schema has a resolver for each operation."""
    text = files("airflow_provider_runs.paradime").joinpath("schema.graphql").read_text()
    schema = build_schema(text)
    assert schema.query_type
    assert schema.mutation_type
    names = {*schema.query_type.fields, *schema.mutation_type.fields}
    assert len(names) == 20
    assert all(hasattr(ParadimeSimulator, f"_{name}") for name in names)


# Who may come in


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (KEY, 200),
        (WORKSPACE_TOKEN, 200),
        ({**COMPANY_TOKEN, "X-Paradime-Workspace": "ws-main"}, 200),
        (OTHER, 200),
        ({"X-API-KEY": "key-simulator"}, 401),
        ({"X-API-KEY": "key-simulator", "X-API-SECRET": "wrong"}, 401),
        ({"Authorization": "Bearer prdm_wsp_wrong"}, 401),
        ({**KEY, "Authorization": "Bearer prdm_wsp_wrong"}, 401),
        ({"Accept": "application/json"}, 401),
        (COMPANY_TOKEN, 400),
        ({**COMPANY_TOKEN, "X-Paradime-Workspace": "ws-unknown"}, 403),
    ],
)
def test_credentials(sim: Simulator, headers: dict[str, str], status: int) -> None:
    service = Service(sim, headers)
    assert service.send("{ listWorkspaces { workspaces { uid } } }").status_code == status
    assert sim.count("paradime", "listWorkspaces", status) == 1


def test_endpoint(sim: Simulator, service: Service) -> None:
    service.url = service.url.replace("company-simulator", "company-wrong")
    assert service.send("{ listUsers { activeUsers { uid } } }").status_code == 404
    assert requests.get(service.url, headers=KEY, timeout=10).status_code == 404
    assert "company-" not in str(sim.requests())


def test_workspaces_are_apart(sim: Simulator, service: Service, until: Until) -> None:
    other = Service(sim, OTHER)
    run_id = other.finished(until)
    assert sim.runs()[0]["scope"] == {"workspace": "ws-other"}
    assert [run["id"] for run in other.runs("daily")] == [run_id]
    command = other.commands(run_id)[-1]
    resource = other.resources(command["id"])[GRAPH]
    assert f"Run {run_id} not found." in service.refusal(STATES, runId=run_id)
    assert "not found" in service.refusal(LOGS, commandId=command["id"])
    assert "not found" in service.refusal(RESOURCE.replace("2023484", str(resource)))
    assert "not found" in other.refusal('mutation { triggerBoltRun(slug: "slow") { runId } }')
    assert [run["actor"] for run in other.runs("daily")] == ["company-token"]
    assert service.runs("daily")[0]["id"] == 76035


# The store of the artifacts


def test_artifacts(sim: Simulator, service: Service, until: Until) -> None:
    run_id = service.finished(until)
    found = service.resources(service.commands(run_id)[-1]["id"])
    assert list(found) == ["target/manifest.json", "target/run_results.json", GRAPH]
    url = service.address(found[GRAPH])
    answer = requests.get(url, timeout=10)
    assert (answer.status_code, answer.headers["Content-Length"]) == (200, "4096")
    assert answer.content == b"".join(binary(GRAPH, 4096))
    assert (
        "model.shop.orders" in requests.get(service.address(found["target/manifest.json"]), timeout=10).text
    )
    for name, value in {**KEY, **WORKSPACE_TOKEN}.items():
        refused = requests.get(url, headers={name: value}, timeout=10)
        assert (refused.status_code, "Only one auth mechanism allowed" in refused.text) == (400, True)
    assert requests.get(url[:-1], timeout=10).status_code == 403
    assert requests.get(url.replace("Expires=300", "Expires=9999"), timeout=10).status_code == 403
    assert requests.get(url.replace(str(found[GRAPH]), "1"), timeout=10).status_code == 403
    assert "signature=***" in sim.requests()["last"][-1]["path"].lower()
    sim.expire_tokens("paradime")
    assert "SignatureDoesNotMatch" in requests.get(url, timeout=10).text
    assert service.state(run_id) == "SUCCESS"


def test_dbts_documents_fit_each_other(service: Service, until: Until) -> None:
    run_id = service.finished(until, "daily", commands=["dbt build", "dbt docs generate"])
    build, docs = (service.resources(row["id"]) for row in service.commands(run_id)[2:])

    def document(found: dict[str, int], name: str) -> Any:
        return requests.get(service.address(found[f"target/{name}.json"]), timeout=10).json()

    manifest, results = document(build, "manifest"), document(build, "run_results")
    catalog = document(docs, "catalog")
    assert [one["metadata"]["dbt_schema_version"].rpartition("/")[2] for one in (manifest, results)] == [
        "v12.json",
        "v6.json",
    ]
    invocation = results["metadata"]["invocation_id"]
    assert manifest["metadata"]["invocation_id"] == invocation != catalog["metadata"]["invocation_id"]
    assert (results["args"]["which"], manifest["metadata"]["adapter_type"]) == ("build", "postgres")
    assert {one["unique_id"] for one in results["results"]} == set(manifest["nodes"])
    known = {*manifest["nodes"], *manifest["sources"]}
    assert set(manifest["parent_map"]) == set(manifest["child_map"]) == known
    for name, parents in manifest["parent_map"].items():
        assert set(parents) <= known
        assert all(name in manifest["child_map"][parent] for parent in parents)
    tables = {**catalog["nodes"], **catalog["sources"]}
    assert {name for name in known if not name.startswith("test.")} == set(tables)
    assert all(
        list(tables[name]["columns"]) == list(({**manifest["nodes"], **manifest["sources"]})[name]["columns"])
        for name in tables
    )
    moments = [
        timing[word]
        for one in results["results"]
        for timing in one["timing"]
        for word in ("started_at", "completed_at")
    ]
    assert moments == sorted(moments) and len(moments) == 4 * len(results["results"])


def test_addresses_expire() -> None:
    with served(url_seconds=0) as sim:
        answer = requests.get(Service(sim).address(2023484), timeout=10)
        assert (answer.status_code, "Request has expired" in answer.text) == (403, True)


def test_artifacts_come_with_the_end_of_their_command(sim: Simulator, service: Service, until: Until) -> None:
    sim.plan(outcome="stuck", duration=1)
    run_id = service.start()
    until(lambda: len(service.commands(run_id)) == 4)
    assert service.resources(service.commands(run_id)[-1]["id"]) == {}
    assert len(service.resources(service.commands(run_id)[-2]["id"])) == 3
    assert "Resource 1 not found." in service.refusal("{ boltResourceUrl(resourceId: 1) { url } }")


def test_a_large_artifact_is_streamed(service: Service, until: Until) -> None:
    command = service.commands(service.finished(until, "large"))[-1]
    url = service.address(service.resources(command["id"])[GRAPH])
    found, size = sha256(), 0
    with requests.get(url, stream=True, timeout=10) as answer:
        assert answer.headers["Content-Length"] == "50000000"
        for piece in answer.iter_content(1 << 20):
            found.update(piece)
            size += len(piece)
    wanted = sha256()
    for piece in binary(GRAPH, 50_000_000):
        wanted.update(piece)
    assert (size, found.hexdigest()) == (50_000_000, wanted.hexdigest())


def test_sizes_can_be_set() -> None:
    schedule = Schedule("sized", ("dbt run",), artifacts=(("target/a.bin", 0), ("deep/b c.bin", 70_000)))
    with served(schedules=(schedule,)) as sim:
        service = Service(sim)
        sim.plan(ends_at_once=True)
        found = service.resources(service.commands(service.start("sized"))[-1]["id"])
        assert requests.get(service.address(found["target/a.bin"]), timeout=10).content == b""
        content = requests.get(service.address(found["deep/b c.bin"]), timeout=10).content
        assert content == b"".join(binary("deep/b c.bin", 70_000))


def test_a_download_is_cut(sim: Simulator, service: Service) -> None:
    sim.fault("cut_body", operation="download", times=1)
    url = service.address(2023485)
    with requests.get(url, stream=True, timeout=10) as answer:
        assert answer.headers["Content-Length"] == "4096"
        assert answer.raw.read(2048) == b"".join(binary(GRAPH, 4096))[:2048]
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            answer.content  # noqa: B018
    assert len(requests.get(url, timeout=10).content) == 4096


# What goes wrong


def test_documents_that_are_refused(sim: Simulator, service: Service) -> None:
    for document, message in {
        "{ nothing }": "Cannot query field 'nothing'",
        "{": "Syntax Error",
        "{ boltRunStatus(runId: 1) { state } boltRunStatus(runId: 2) { state } }": "conflict",
        'mutation { triggerBoltRun(slug: "daily", why: "x") { runId } }': "Unknown argument 'why'",
    }.items():
        answer = service.send(document).json()
        assert answer["data"] is None
        assert message in answer["errors"][0]["message"]
        assert "path" not in answer["errors"][0]
    wrong = service.send(STATES, runId="1001").json()
    assert "Int cannot represent non-integer value" in wrong["errors"][0]["message"]
    for body in ("no JSON", "[]", '{"variables": {}}'):
        answer = requests.post(service.url, data=body, headers=service.headers, timeout=10)
        assert answer.status_code == 400
    assert sim.count("paradime", "invalid") == 4
    assert sim.runs() == []


def test_one_unknown_run(service: Service) -> None:
    answer = service.send(TWO_STATES).json()
    assert answer["data"] == {"one": {"ok": True, "state": "SUCCESS"}, "two": None}
    assert [(error["message"], error["path"]) for error in answer["errors"]] == [
        ("Run 5 not found.", ["two"])
    ]


def test_one_unknown_run_may_null_the_whole_answer() -> None:
    with served(nullable=False, error_codes=True) as sim:
        answer = Service(sim).send(TWO_STATES).json()
        assert answer["data"] is None
        (error,) = answer["errors"]
        assert (error["path"], error["extensions"]) == (["two"], {"code": "NOT_FOUND"})


def test_limit_on_aliases() -> None:
    with served(max_fields=1, refusal_status=400) as sim:
        service = Service(sim)
        assert service.state(76035) == "SUCCESS"
        answer = service.send(TWO_STATES)
        assert (answer.status_code, answer.json()["data"]) == (400, None)
        assert "too complex" in answer.json()["errors"][0]["message"]


def test_many_aliases_are_one_request(sim: Simulator, service: Service) -> None:
    fields = " ".join(f"r{number}: boltRunStatus(runId: 76035) {{ ok state }}" for number in range(50))
    answer = service.send(f"{{ {fields} }}").json()
    assert {each["state"] for each in answer["data"].values()} == {"SUCCESS"}
    assert sim.count("paradime", "get") == 1
    service.send(COMMANDS, runId=76035)
    service.send("{ a: boltRunStatus(runId: 76035) { ok } b: boltResourceUrl(resourceId: 1) { ok } }")
    assert [entry["operation"] for entry in sim.requests()["last"]] == ["get", "commands", "get,resource_url"]


def test_older_servers() -> None:
    trigger = 'mutation { triggerBoltRun(slug: "daily", reason: "x") { runId } }'
    with served(lacks="reason, listBoltRuns") as sim:
        service = Service(sim)
        answer = service.send(trigger).json()
        assert (answer["data"], len(answer["errors"])) == (None, 1)
        assert "Unknown argument 'reason'" in answer["errors"][0]["message"]
        assert sim.runs() == []
        answer = service.send(RUNS, slug="daily", offset=0, limit=1).json()
        assert "Cannot query field 'listBoltRuns'" in answer["errors"][0]["message"]
        assert service.start() == 76036
    with served(lacks="slug") as sim:
        service = Service(sim)
        assert "Unknown argument 'slug'" in service.send(trigger).json()["errors"][0]["message"]
        assert service.ask(TRIGGER) == {"runId": 76036}
    with served(lacks="triggerBoltRun.slug,BoltSchedule.slug") as sim:
        service = Service(sim)
        assert service.runs("daily", limit=1)[0]["id"] == 76035
        assert "Unknown argument 'slug'" in service.send(trigger).json()["errors"][0]["message"]
    with pytest.raises(ControlError, match="cannot lack"):
        served(lacks="BoltGitInfo.branch,BoltGitInfo.commitHash,runs,ok,BoltRuns.ok")


def test_errors_behind_200(sim: Simulator, service: Service) -> None:
    """A field's error, a whole request's, and an empty list of errors."""
    two = TWO_STATES.replace("(runId: 5)", "(runId: 76033)")
    sim.fault("errors", operation="get", body="boom", times=1)
    answer = service.send(two).json()
    assert answer["data"] == {"one": None, "two": {"ok": True, "state": "RUNNING"}}
    assert [(error["message"], error["path"]) for error in answer["errors"]] == [("boom", ["one"])]
    sim.fault("errors", operation="get", body=[], times=1)
    answer = service.send(two).json()
    assert answer["errors"] == []
    assert answer["data"]["one"] == {"ok": True, "state": "SUCCESS"}
    body = {"data": None, "errors": [{"message": "no luck"}]}
    sim.fault("status", operation="get", status=200, body=body, times=1)
    assert service.send(two).json() == body
    assert "errors" not in service.send(two).json()
    assert [entry["fault"] for entry in sim.requests()["last"]] == ["errors", "errors", "status", None]


def test_a_look_at_commands_is_none_at_the_state_for_errors_of_fields_too(
    sim: Simulator, service: Service
) -> None:
    sim.fault("errors", operation="get")
    assert "errors" not in service.send(COMMANDS, runId=76035).json()
    sim.fault("errors", operation="commands", body="boom")
    assert service.send(COMMANDS, runId=76035).json()["errors"][0]["message"] == "boom"


def test_setting_up_may_take_less_time_than_the_rest() -> None:
    with Simulator(["paradime"], speed=10, duration=9, options={"paradime": {"setup": 1.0}}) as sim:
        service = Service(sim)
        run_id = service.start()
        paradime: Any = sim._server.systems["paradime"]
        seconds = [round(10 * command.takes, 3) for command in paradime._runs[run_id].commands]
        run = paradime._runs[run_id]
        assert seconds == [1.0, 1.0, 3.5, 3.5] and abs(run.commands[-1].ends - run.ends) < 1e-6


@pytest.mark.parametrize(("acts", "runs"), [(None, 0), (False, 0), (True, 1)])
def test_errors_of_mutations(sim: Simulator, service: Service, acts: bool | None, runs: int) -> None:
    """The run may have been started all the same."""
    sim.fault("errors", operation="trigger", acts=acts, times=1)
    assert service.refusal(TRIGGER) == "Internal server error"
    assert len(sim.runs()) == runs


@pytest.mark.parametrize(("acts", "run_id"), [(None, 0), (True, 76036)])
def test_not_ok(sim: Simulator, service: Service, acts: bool | None, run_id: int) -> None:
    sim.fault("not_ok", acts=acts)
    query = 'mutation { triggerBoltRun(slug: "daily") { ok runId } }'
    assert service.ask(query) == {"ok": False, "runId": run_id}
    assert len(sim.runs()) == (1 if acts else 0)
    status = service.ask(STATUS)
    assert (status["ok"], status["state"], len(status["commands"])) == (False, "SUCCESS", 4)
    assert service.ask(CANCEL) == {"ok": False}
    assert service.ask(RESOURCE)["ok"] is False


def test_the_usual_faults(sim: Simulator, service: Service) -> None:
    sim.fault("reset_after", operation="trigger", times=1)
    with pytest.raises(requests.ConnectionError):
        service.send(TRIGGER)
    assert len(sim.runs()) == 1
    sim.fault("cut_body", operation="trigger", times=1)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        service.send(TRIGGER)
    assert len(sim.runs()) == 2
    assert sim.count("paradime", "trigger") == 2
    sim.fault("status", operation="get", status=429, retry_after="2", times=1)
    answer = service.send(STATES, runId=76035)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "2")
    assert answer.json() == {"detail": "Simulated answer 429."}
    sim.fault("status", times=1)
    assert "<h1>503" in service.send(STATES, runId=76035).text
    sim.fault("html", operation="get", status=200, times=1)
    assert service.send(STATES, runId=76035).headers["Content-Type"].startswith("text/html")
    assert service.state(76035) == "SUCCESS"


def test_page_and_reset(sim: Simulator, service: Service) -> None:
    service.start()
    assert requests.get(sim.url_of("paradime") + "/bolt/run_id/76036", timeout=10).status_code == 200
    assert requests.get(sim.url_of("paradime") + "/nothing", timeout=10).json() == {"detail": "Not Found"}
    sim.reset()
    assert sim.runs() == []
    assert service.start() == 76036


def test_a_server_without_daily_has_no_history() -> None:
    with served(schedules=(Schedule("only"),)) as sim:
        assert "Run 76035 not found." in Service(sim).refusal(STATES, runId=76035)
        assert Service(sim).start("only") == 76036


def test_without_graphql_core(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is missing is named, and how to get it."""
    monkeypatch.setitem(sys.modules, "graphql", None)
    monkeypatch.delitem(sys.modules, "airflow_provider_runs.paradime.simulator")
    with pytest.raises(ControlError, match=r"'paradime' needs graphql: pip install .*\[simulator\]"):
        served()
    monkeypatch.setattr(simulator_main, "SYSTEMS", ("paradime",))
    assert simulator_main.main(["--system", "paradime"]) == 2
    assert "needs graphql" in capsys.readouterr().err
