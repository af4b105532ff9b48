"""The simulated Mage answers as the real one does: the same requests to both, the answers compared."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from tests.real.target import Mage, real_mage, simulated_mage
from tools.speed import scaled

KEY = "zkWlN0PkIKSN0C11CfUHUj84OT5XOJ6tDZ6bDRO2"
DATE = "2001-02-03T04:05:06.789012"  # dates of that time are compared, later ones are not


class Ask(NamedTuple):
    """
    One request.

    :param line: method and path; names in braces stand for the ids of triggers and runs.
    :param body: what to send, as JSON unless it is bytes.
    :param headers: by default those of the shared session; names in braces stand for tokens of triggers.
    """

    line: str
    body: Any = None
    headers: dict[str, str] | None = None

    @property
    def name(self) -> str:
        """Return the text that tells a request from the others."""
        said = [] if self.body is None else [repr(self.body)]
        return " ".join([self.line, *said, *([] if self.headers is None else [str(self.headers)])])


def bearer(trigger: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {{{trigger}_token}}"}


def start(trigger: str, body: Any = None, headers: dict[str, str] | None = None) -> Ask:
    line = f"POST /api/pipeline_schedules/{{{trigger}}}/api_trigger"
    return Ask(line, body, bearer(trigger) if headers is None else headers)


def login(*, key: Any = KEY, headers: dict[str, str] | None = None, query: str = "", **session: Any) -> Ask:
    body = {"session": session} if key is None else {"api_key": key, "session": session}
    return Ask(f"POST /api/sessions{query}", body, headers or {})


PREVENT = {"execution_date": f"{DATE}+00:00", "prevent_duplicates": True, "variables": {"a": 1}}
WITH_Z = start("empty", {"pipeline_run": {"execution_date": f"{DATE}Z"}})
# What the simulator does otherwise, and why, by request and place in the answer.
STRICT = "Mage takes a date with Z on Python 3.11 only; the simulator refuses it, as Mage does on Python 3.10"
ALLOWED = {
    (WITH_Z.name, "body.error"): STRICT,
    (WITH_Z.name, "body.pipeline_run"): STRICT,
    (WITH_Z.name, "body.url_parameters"): STRICT,
}
STARTS = [
    start("empty", {"pipeline_run": {"variables": {"a": 1}}, "x": 2}),
    start("empty", {"pipeline_run": {"variables": {"deep": {"list": [1, None, "ä"]}}}}),
    start("empty", {"variables": {"a": 1}}),
    start("empty"),
    *(start("empty", {"pipeline_run": given}) for given in ({}, None, "x", [1], 1)),
    *(start("empty", {"pipeline_run": {"variables": given}}) for given in (None, [1], "x", 1)),
    *(start("empty", {"pipeline_run": {"execution_date": given}}) for given in (7, "x", "", None)),
    start("empty", {"pipeline_run": {"foo": 1}}),
    start("empty", {}),
    start("empty", [1]),
    start("empty", b"{a"),
    start("empty", b"a=b"),
    start("empty", b'"x"'),
    start("empty", b"null"),
    start("empty", b"1"),
    start("empty", b"\xff\xfe"),
    start("empty", b'{"pipeline_run":{"variables":{"a":NaN}}}'),
    start("empty", b'{"pipeline_run":{"variables":{"a":"\\ud800"}}}'),
    start("empty", {}, {"Authorization": "Bearer nope"}),
    start("empty", {}, {}),
    start("empty", {}, {"Authorization": "Basic {empty_token}"}),
    start("empty", {}, {"Authorization": "bearer {empty_token}"}),
    start("empty", {}, {"Authorization": "Bearer {empty_token} x"}),
    start("empty", {}, bearer("slow")),
    start("nightly", {}),
    start("nightly", {}, bearer("slow")),
    *(
        Ask(f"POST /api/pipeline_schedules/{unknown}/api_trigger", {}, bearer("empty"))
        for unknown in ("987654", "abc", "-1")
    ),
    *(
        Ask(f"{method} /api/pipeline_schedules/{{empty}}/api_trigger{end}", {}, bearer("empty"))
        for method, end in (("GET", ""), ("PUT", ""), ("POST", "/"))
    ),
    *(
        Ask(f"POST /api/pipeline_schedules/{{empty}}/pipeline_runs/{token}", {}, {})
        for token in ("{empty_token}", "nope", "no-pe", "", "{empty_token}/")
    ),
    start("example", {"pipeline_run": PREVENT}),
    start("example", {"pipeline_run": {**PREVENT, "variables": {}}}),
    start("one_at_a_time", {"pipeline_run": PREVENT}),
    start("example", {"pipeline_run": {**PREVENT, "execution_date": "2001-02-03T04:05:07+00:00"}}),
    start("example", {"pipeline_run": {**PREVENT, "execution_date": "2001-02-03T04:05:07.000000"}}),
    start("empty", {"pipeline_run": {"execution_date": f"{DATE}+02:00"}}),
    start("empty", {"pipeline_run": {"execution_date": "2001-02-03"}}),
    start("empty", {"pipeline_run": {"execution_date": "20010203T040506"}}),
    WITH_Z,
    start("empty", {"pipeline_run": {"status": "completed", "metrics": {"a": 1}}}),
    start("example", {"pipeline_run": {"status": "completed", "create_block_runs": False}}),
]
FAILED = {"pipeline_run": {"variables": {"fail": "join"}}}
RUNS = {
    "good": start("diamond", {"pipeline_run": {"variables": {"a": 1}}, "file": "a.csv"}),
    "broken_run": start("broken"),
    "join_failed": start("diamond", FAILED),
    "left_failed": start("lenient", {"pipeline_run": {"variables": {"fail": "left"}}}),
    "start_failed": start("lenient", {"pipeline_run": {"variables": {"fail": "start"}}}),
    "timed_out": start("impatient"),
    "gave_up": start("gives_up"),
    "flaky_run": start("flaky"),
    "empty_run": start("empty"),
    "cancelled": start("slow"),
    "retried": start("diamond"),
}
LATEST = "order_by[]=id desc&disable_retries_grouping=1"
READS = [
    *(Ask(f"GET /api/pipeline_runs/{{{run}}}") for run in RUNS),
    *(Ask(f"GET /api/pipeline_runs/{{{run}}}?_format=with_basic_details") for run in RUNS),
    *(
        Ask(f"GET /api/pipelines/{pipeline}/logs?pipeline_run_id[]={{{run}}}&_limit=20")
        for run, pipeline in {
            "good": "diamond",
            "broken_run": "broken",
            "join_failed": "diamond",
            "left_failed": "diamond",
            "start_failed": "diamond",
            "timed_out": "slow",
            "gave_up": "slow",
            "flaky_run": "flaky",
            "empty_run": "empty",
            "cancelled": "slow",
        }.items()
    ),
    Ask("GET /api/pipelines/slow/logs?pipeline_run_id[]={good}"),
    Ask("GET /api/pipelines/diamond/logs?pipeline_run_id[]={good}&_limit=1"),
    Ask("GET /api/pipelines/diamond/logs?pipeline_run_id[]={good}&_limit=0"),
    Ask("GET /api/pipelines/diamond/logs?pipeline_run_id[]={good}&pipeline_run_id[]={join_failed}"),
    *(Ask(f"GET /api/pipelines/diamond/logs?pipeline_run_id[]={run}") for run in ("987654", "abc")),
    *(
        Ask(f"GET /api/pipelines/{path}")
        for path in (
            "diamond",
            "empty",
            "diamond?includes_content=false&includes_outputs=false",
            "diamond?includes_content=0&includes_outputs=",
            "diamond?includes_content=False",
            "nothing",
            "nothing?_http_error_codes=1",
            "nothing/logs",
            "nothing/logs?pipeline_run_id[]=1&_http_error_codes=1",
            "nothing/pipeline_schedules?_limit=100",
            "nothing/pipeline_schedules?_http_error_codes=1",
            "na-me/pipeline_schedules",
            "a%20b",
            "diamond/nothings",
            "diamond/pipeline_schedules?_limit=100",
            "slow/pipeline_schedules?_limit=2",
            "slow/pipeline_schedules?_limit=2&_offset=2",
            "slow/pipeline_schedules?_limit=0",
            "slow/pipeline_schedules?_offset=100",
            "slow/pipeline_schedules?_limit=x",
            "example/pipeline_schedules",
        )
    ),
    *(Ask(f"GET /api/pipeline_schedules/{{{trigger}}}") for trigger in ("empty", "nightly", "gives_up")),
    *(Ask(f"GET /api/pipeline_schedules/{unknown}") for unknown in ("987654", "abc")),
    Ask("GET /api/pipeline_schedules/987654?_http_error_codes=1"),
    Ask("GET /api/pipeline_schedules?_limit=0"),
    *(
        Ask(f"GET /api/pipeline_schedules/{{diamond}}/pipeline_runs?{LATEST}&{query}")
        for query in (
            "_limit=3",
            "_limit=2&_offset=1",
            "_limit=1&status[]=failed,cancelled",
            "_limit=1&status=FAILED&_format=with_basic_details",
            "_limit=3&_format=with_basic_details",
            "_offset=1000",
            "_limit=-1",
            "_limit=0&_http_error_codes=1",
        )
    ),
    Ask("GET /api/pipeline_schedules/{nightly}/pipeline_runs?disable_retries_grouping=1"),
    Ask("GET /api/pipeline_schedules/{diamond}/pipeline_runs?_offset=1000"),
    Ask("GET /api/pipeline_schedules/{diamond}/pipeline_runs?_offset=1000&_http_error_codes=1"),
    *(
        Ask(f"GET /api/pipeline_schedules/{unknown}/pipeline_runs?{LATEST}&_limit=2")
        for unknown in ("987654", "abc")
    ),
    *(
        Ask(f"GET /api/pipeline_runs?{LATEST}&{query}")
        for query in (
            "_limit=4",
            "_limit=4&pipeline_uuid=diamond",
            "_limit=2&pipeline_uuid[]=diamond,slow&_format=with_basic_details",
            "pipeline_uuid=nothing",
            "status=nothing",
            "_limit=2&pipeline_uuid=diamond&status[]=failed",
            "_limit=x",
            "start_timestamp=x",
            "start_timestamp=x&_http_error_codes=1",
            "end_timestamp=x",
            "_limit=1&id=1&foo=bar",
        )
    ),
    *(
        Ask(f"GET /api/pipeline_runs?{query}")
        for query in (
            "_limit=1&order_by[]=foo desc",
            "_limit=1&order_by[]=id foo",
            "_limit=0&order_by[]=foo desc",
            "_limit=0&order_by[]=id",
        )
    ),
    *(
        Ask(f"{method} /api/pipeline_runs/{unknown}{flag}", body)
        for method, body in (("GET", None), ("PUT", {"pipeline_run": {"status": "cancelled"}}))
        for unknown in ("987654", "abc")
        for flag in ("", "?_http_error_codes=1")
    ),
    *(Ask(f"GET /api/status{flag}", None, {}) for flag in ("", "?_http_error_codes=1")),
    Ask("GET /api/nothings"),
    Ask("GET /api/nothing/here/at/all"),
    Ask("GET /elsewhere/api/status"),
    Ask("POST /elsewhere/api/sessions", {}),
    Ask("GET /pipelines/empty/runs/{empty_run}"),
]
STRANGERS: tuple[dict[str, str], ...] = (
    {},
    {"X-API-KEY": "no"},
    {"X-API-KEY": KEY},
    {"X-API-KEY": KEY, "OAUTH-TOKEN": "nope"},
    {"OAUTH-TOKEN": "nope"},
    {"X-API-KEY": KEY, "Authorization": "Basic YTpi"},
    {"X-API-KEY": KEY, "Authorization": "Bearer nope"},
)
REFUSALS = [
    Ask(f"{line}?_limit=0{flag}", body, headers)
    for headers in STRANGERS
    for flag in ("", "&_http_error_codes=1")
    for line, body in (
        ("GET /api/pipeline_runs/{good}", None),
        ("GET /api/pipeline_runs/987654", None),
        ("PUT /api/pipeline_runs/{good}", {"pipeline_run": {"status": "cancelled"}}),
        ("PUT /api/pipeline_runs/987654", {"pipeline_run": {"status": "cancelled"}}),
        ("GET /api/pipelines/diamond/pipeline_schedules", None),
        ("GET /api/pipeline_schedules/{empty}", None),
        ("GET /api/pipelines/nothing", None),
        ("GET /api/pipelines/nothing/logs", None),
        ("GET /api/pipeline_schedules/987654", None),
        ("GET /api/pipeline_schedules/abc", None),
        ("GET /api/pipeline_schedules/{empty}/pipeline_runs", None),
        ("GET /api/pipeline_runs", None),
    )
]
CHANGES = [
    *(
        Ask("PUT /api/pipeline_runs/{good}", body)
        for body in (
            {"pipeline_run": {"status": "cancelled"}},
            {"pipeline_run": {"status": "completed"}},
            {"pipeline_run": {"status": "bogus", "foo": 1}},
            {"pipeline_run": {}},
            {"pipeline_run": None},
            {"pipeline_run": "x"},
            {"status": "cancelled"},
            {},
            [],
            None,
            b"{a",
        )
    ),
    *(
        Ask(f"PUT /api/pipeline_runs/{{{run}}}", {"pipeline_run": {"status": "cancelled"}})
        for run in ("broken_run", "timed_out", "cancelled")
    ),
]
CANCEL = {"pipeline_run": {"status": "cancelled"}}
AGAIN = {"pipeline_run_action": "retry_blocks"}
RETRIES = [
    (run, {"pipeline_run": {**AGAIN, **given}})
    for run, given in (
        ("flaky_run", {}),
        ("broken_run", {}),
        ("join_failed", {"from_block_uuid": "right"}),
        ("left_failed", {"from_block_uuid": "right"}),
        ("timed_out", {}),
        ("empty_run", {}),
        ("retried", {"from_block_uuid": "left"}),
        ("good", {"from_block_uuid": "nothing"}),
        ("start_failed", {"from_block_uuid": None}),
    )
]
DONE_SOON = {
    Ask(f"PUT /api/pipeline_runs/{{{run}}}", body).name
    for run, body in RETRIES
    if run in ("timed_out", "empty_run", "good")
}
LOGINS = [
    *(
        login(**session)
        for session in (
            {"email": "admin@admin.com", "password": "admin"},
            {"username": "admin", "password": "admin"},
            {"username": "admin@admin.com", "password": "admin"},
            {"email": "admin", "password": "admin"},
            {"email": "admin@admin.com", "password": "x"},
            {"email": "foo@admin.com", "password": "x"},
            {"email": "admin@admin.com"},
            {"email": "admin@admin.com", "password": None},
            {},
            {"email": "ADMIN@admin.com", "password": "admin"},
            {"key": None, "email": "admin@admin.com", "password": "admin"},
            {"key": "x", "email": "admin@admin.com", "password": "admin"},
        )
    ),
    login(query="?_http_error_codes=1", email="admin@admin.com", password="x"),
    login(key=None, headers={"X-API-KEY": KEY}, email="admin@admin.com", password="admin"),
    Ask("POST /api/sessions", b"a=b", {"X-API-KEY": KEY}),
]


class Probe:
    """Send the requests to one Mage and keep its answers, without what differs from server to server."""

    def __init__(self, mage: Mage) -> None:
        self.mage = mage
        self.login = mage.driver().api.auth_headers()
        self.names = {name: str(schedule.id) for name, schedule in mage.schedules.items()}
        self.names |= {f"{name}_token": schedule.token for name, schedule in mage.schedules.items()}
        self.triggers = {schedule.id: name for name, schedule in mage.schedules.items()}
        self.runs: dict[int, str] = {}
        self.answers: dict[str, Any] = {}

    def ask(self, ask: Ask, note: str = "", name: str | None = None) -> Any:
        """Send a request and keep the answer."""
        method, _, path = ask.line.partition(" ")
        path = path.format_map(self.names)
        given = self.login if ask.headers is None else ask.headers
        headers = {name: value.format_map(self.names) for name, value in given.items()}
        body: dict[str, Any] = {} if ask.body is None else {"json": ask.body}
        if isinstance(ask.body, bytes):
            body = {"data": ask.body}
            headers.setdefault("Content-Type", "application/json")
        answer = requests.request(method, self.mage.url + path, headers=headers, timeout=scaled(60), **body)
        name = name or ask.name + note
        assert name not in self.answers, f"asked twice: {name}"
        kind = answer.headers.get("Content-Type")
        try:
            said = answer.json()
        except ValueError:
            self.answers[name] = {"http": answer.status_code, "type": kind, "empty": not answer.text}
            return {}
        kept = self.plain(said)
        if "pipeline_run" in kept and (method == "POST" or name in DONE_SOON):
            # A loop of the scheduler may come between what is asked for and the answer.
            kept["pipeline_run"] |= dict.fromkeys(("status", "started_at", "completed_at"), "any")
        self.answers[name] = {"http": answer.status_code, "type": kind, "body": kept}
        return said

    def all(self) -> dict[str, Any]:
        """Send all requests, in the order that they need, and return the answers by request."""
        for ask in (*LOGINS, *STARTS):
            self.ask(ask)
        for name, ask in RUNS.items():
            self.run(name, ask)
        self.wait("cancelled", lambda row: row["block_runs"][0]["status"] == "running")
        time.sleep(self.mage.loop)  # until it has told its log
        self.ask(Ask("PUT /api/pipeline_runs/{cancelled}", CANCEL), " at work")
        for name in RUNS:
            self.wait(name)
        for ask in (*READS, *REFUSALS, *CHANGES):
            self.ask(ask)
        for name, body in RETRIES:
            self.ask(Ask(f"PUT /api/pipeline_runs/{{{name}}}", body))
        for name, _ in RETRIES:
            self.wait(name)
            self.ask(Ask(f"GET /api/pipeline_runs/{{{name}}}"), " retried")
        for name, pipeline in (("flaky_run", "flaky"), ("retried", "diamond"), ("timed_out", "slow")):
            # The logs tell what was at work a second time.
            self.ask(Ask(f"GET /api/pipelines/{pipeline}/logs?pipeline_run_id[]={{{name}}}"), " retried")
        self.at_once()
        self.one_at_a_time()
        self.while_it_works()
        self.as_new()
        return self.answers

    def at_once(self) -> None:
        """Start one run by ten requests at once."""
        date = datetime.now(UTC).isoformat()
        ask = start("example", {"pipeline_run": {**PREVENT, "execution_date": date}})
        with ThreadPoolExecutor(10) as pool:
            list(pool.map(lambda number: self.ask(ask, f"{number}"), range(10)))
        names = [f"{ask.name}{number}" for number in range(10)]
        self.answers["ten at once"] = sorted((self.answers.pop(name) for name in names), key=str)

    def one_at_a_time(self) -> None:
        """Cancel a run that another one keeps from beginning, and retry it in vain and for good."""
        for name in ("first", "second"):
            self.run(name, start("one_at_a_time", {"pipeline_run": {"variables": {"sleep": 3}}}))
        self.wait("first", lambda row: row["status"] == "running")
        second = "/api/pipeline_runs/{second}"
        self.ask(Ask(f"PUT {second}", CANCEL), " initial")
        self.ask(Ask(f"GET {second}"), " cancelled")
        self.ask(Ask(f"PUT {second}", {"pipeline_run": {**AGAIN, "from_block_uuid": "transform"}}))
        time.sleep(3 * self.mage.loop)
        self.ask(Ask(f"GET {second}"), " hanging")
        self.ask(Ask(f"PUT {second}", CANCEL), " hanging")
        self.run("third", start("one_at_a_time"))
        self.wait("first")
        self.ask(Ask(f"PUT {second}", {"pipeline_run": AGAIN}))
        self.wait("second")
        self.ask(Ask(f"GET {second}"), " retried")
        self.wait("third")
        times = [
            self.mage.call("GET", f"/api/pipeline_runs/{self.names[name]}").json()["pipeline_run"][column]
            for name, column in (("first", "completed_at"), ("third", "started_at"))
        ]
        self.answers["third waited for first"] = times == sorted(times)

    def while_it_works(self) -> None:
        """Retry a run whose block is at work."""
        self.run("slow_run", start("slow"))
        self.wait("slow_run", lambda row: row["block_runs"][0]["status"] == "running")
        self.ask(Ask("GET /api/pipeline_runs/{slow_run}"), " at work")
        self.ask(Ask("PUT /api/pipeline_runs/{slow_run}", {"pipeline_run": AGAIN}))
        self.wait("slow_run", lambda row: row["block_runs"][0]["status"] == "queued")
        self.ask(Ask("GET /api/pipeline_runs/{slow_run}"), " retried")
        self.ask(Ask("PUT /api/pipeline_runs/{slow_run}", CANCEL))
        self.ask(Ask("GET /api/pipeline_runs/{slow_run}"), " cancelled")

    def as_new(self) -> None:
        """Retry a run as the web interface does, and delete it."""
        run = Ask("GET /api/pipeline_runs/{empty_run}")
        row = self.ask(run, " before")["pipeline_run"]
        retry = {"pipeline": {"status": "retry", "pipeline_runs": [row]}}
        self.ask(Ask("PUT /api/pipelines/empty", retry), name="retry as new")
        (newest,) = self.mage.call(
            "GET", "/api/pipeline_runs", **{"_limit": "1", "order_by[]": "id desc"}
        ).json()["pipeline_runs"]
        self.names["new"], self.runs[newest["id"]] = str(newest["id"]), "new"
        self.wait("new")
        self.ask(Ask("GET /api/pipeline_runs/{new}"))
        self.ask(Ask("GET /api/pipeline_runs/{empty_run}"), " after")
        for ask in (*2 * [Ask("DELETE /api/pipeline_runs/{new}")], Ask("PUT /api/pipelines/nothing", {})):
            self.ask(ask, f" {len(self.answers)}")
        for body in (None, {}, {"pipeline": {}}, {"pipeline": {"status": "retry"}}):
            self.ask(Ask("PUT /api/pipelines/empty", body))

    def run(self, name: str, ask: Ask) -> None:
        """Start a run and give it a name."""
        run = self.ask(ask, f" for {name}")["pipeline_run"]["id"]
        self.names[name] = str(run)
        self.runs[run] = name

    def wait(self, name: str, until: Any = None) -> None:
        """Return once a run is as asked for, or has ended."""
        end = time.monotonic() + scaled(60)
        while time.monotonic() < end:
            row = self.mage.call("GET", f"/api/pipeline_runs/{self.names[name]}").json()["pipeline_run"]
            # A run has ended a moment before its blocks are cancelled.
            active = {"initial", "queued", "running"} & {block["status"] for block in row["block_runs"]}
            if (until and until(row)) or (row["status"] not in ("initial", "running") and not active):
                return
            time.sleep(self.mage.loop / 5)
        raise AssertionError(f"{name} is {row['status']}")

    def plain(self, value: Any, *where: str) -> Any:
        """Return a part of an answer without what differs from server to server."""
        name = where[-1] if where else ""
        if isinstance(value, dict):
            kept = {key: self.plain(each, *where, key) for key, each in value.items()}
            if value.get("name") == "inactive":  # other tests start it, and Mage switches it off again
                kept |= dict.fromkeys(kept.keys() & (VARYING | {"status", "last_enabled_at"}), "any")
            return kept
        if isinstance(value, list):
            if name in ("errors", "error_stack"):
                return sorted({type(each).__name__ for each in value})
            rows = [self.plain(each, *where) for each in value]
            # Two blocks that are queued together begin in any order.
            if name == "block_runs" or (name == "block_run_logs" and "left.log" in str(rows)):
                rows.sort(key=lambda row: str(row.get("block_uuid") or row["name"]))
            return rows
        if name == "pipeline_schedule_id":
            return self.triggers.get(int(value), "other trigger") if str(value).isdigit() else value
        if name == "pk" and value in self.names.values():
            return "known"
        if name == "id" and where[-2] in ("pipeline_run", "pipeline_runs"):
            return self.runs.get(value, "other run")
        if name == "id" and where[-2] in ("pipeline_schedule", "pipeline_schedules"):
            return self.triggers[value]
        return self.scalar(name, value)

    def scalar(self, name: str, value: Any) -> Any:
        """Return a plain value without what differs from server to server."""
        if name == "content" and isinstance(value, str):
            return self.log(value) if re.match(r"\d{4}-\d\d-\d\dT", value) else bool(value)
        if name in VARYING and value is not None:
            return type(value).__name__
        if not isinstance(value, str):
            return value
        if value.startswith(("Traceback", "  File")):
            value = value.rstrip().splitlines()[-1]
        if name == "path":
            return value.rpartition("/")[2]
        if name == "token" and value.count(".") == 2:
            return "JWT"
        value = re.sub(r"(?<=schedule ID )\d+", lambda found: self.triggers[int(found[0])], value)
        value = re.sub(r"20[2-9]\d-\d\d-\d\d", "DATE", value)
        value = re.sub(
            r"(?<=DATE[ T])\d\d:\d\d:\d\d(\.\d+)?", lambda found: "time" + (".f" if found[1] else ""), value
        )
        value = re.sub(r"^\d+/(?=\d{8}T)", lambda found: self.triggers[int(found[0][:-1])] + "/", value)
        value = re.sub(r"20[2-9]\d{5}T\d{6}_\d{6}", "DATE", value)
        return re.sub(r"(/[\w.-]+){2,}", "PATH", value)

    def log(self, content: str) -> list[Any]:
        """Return the lines of a log, by block, without those that tell how often something happened."""
        lines: list[Any] = []
        for line in content.splitlines():
            found = re.fullmatch(r"[-\d]{10}T[:\d]{8} (\{.*\})", line)
            if not found:
                lines[-1]["below"] = line
                continue
            entry = json.loads(found[1])
            message = re.sub(r"<function .*>", "FUNCTION", entry["message"])
            message = re.sub(
                r"(?<=PipelineRun )\d+|(?<=BlockRun )\d+|(?<=run )\d+|(?<=schedule )\d+", "N", message
            )
            message = re.sub(r"after \d+ seconds", "after N seconds", message)
            message = re.sub(r"^loaded \{.*\}$", "loaded VARIABLES", message)
            if re.fullmatch(r"\d+ of 600 seconds", message):
                continue
            error = (entry.get("error") or "").rstrip().rpartition("\n")[2]
            kept = {"level": entry["level"], "message": message, "error": error, "keys": sorted(entry)}
            kept |= {"block": entry.get("block_uuid"), "run": self.runs.get(entry["pipeline_run_id"])}
            if not (message.endswith("is alive.") and kept in lines):
                lines.append(kept)
        return sorted(lines, key=lambda line: str(line["block"]))


VARYING = {
    "block_run_id",
    "count",
    "id",
    "last_pipeline_run_status",
    "modified_timestamp",
    "pipeline_in_progress_runs_count",
    "pipeline_run_id",
    "pipeline_runs_count",
    "project_uuid",
    "repo_path_relative",
    "repo_path_relative_root",
    "scheduler_process_id",
    "server_process_id",
    "size",
}


def differences(ours: Any, theirs: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield where two answers differ, and both values there."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in sorted(ours.keys() | theirs.keys()):
            yield from differences(ours.get(name, "absent"), theirs.get(name, "absent"), f"{where}.{name}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(*pair, f"{where}[{number}]")
    elif isinstance(ours, list) and isinstance(theirs, list):
        yield where.removeprefix("."), beyond(ours, theirs), beyond(theirs, ours)
    elif ours != theirs:
        yield where.removeprefix("."), ours, theirs


def beyond(some: list[Any], others: list[Any]) -> list[Any]:
    """Return what a list holds more often than another one."""
    left, found = list(others), []
    for each in some:
        if each in left:
            left.remove(each)
        else:
            found.append(each)
    return found


SERVERS = 3
"""
Real servers that are asked, one after the other, until one answers as the simulator does.

Now and then two of Mage's own processes come in each other's way. Seen in about every fifth whole run of
these tests: a run with two block runs of its only block; logs of a run with other lines than on any other
server. What the simulator does otherwise shows on every server.
"""


@pytest.mark.parametrize("auth", [False, True], ids=["auth_off", "auth_on"])
def test_simulator_answers_as_mage_does(
    mage_python: Path, tmp_path_factory: pytest.TempPathFactory, auth: bool
) -> None:
    with simulated_mage(auth=auth) as simulated:
        ours = Probe(simulated).all()
    always: dict[tuple[str, str], str] = {}
    for number in range(SERVERS):
        # A server of its own: lists also tell of the runs that other tests started.
        with real_mage(mage_python, tmp_path_factory.mktemp("mage"), auth=auth) as mage:
            theirs = Probe(mage).all()
        assert ours.keys() == theirs.keys()
        assert len(theirs) >= 150
        found = {
            (name, where): f"{name}: {where}: simulated {one!r:.600}, real {other!r:.600}"
            for name in theirs
            for where, one, other in differences(ours[name], theirs[name])
        }
        assert ALLOWED.keys() <= found.keys()
        unexpected = {place: found[place] for place in found.keys() - ALLOWED.keys()}
        print(f"server {number}:", *sorted(unexpected.values()), sep="\n")
        always = {place: said for place, said in unexpected.items() if place in always or number == 0}
        if not always:
            break
    assert always == {}, "\n".join(sorted(always.values()))
