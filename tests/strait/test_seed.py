"""
Each call of the vendor's reference of the run endpoints: its literal request, its literal answer, today's.

The requests are those of the reference's curl lines; a call may say more than they do, never less.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from airflow_provider_runs.core.errors import ApiError, NotFound, Unauthorized, is_permanent
from airflow_provider_runs.core.http import Flow, Request, Response
from airflow_provider_runs.core.run import Run, RunState, moment
from airflow_provider_runs.strait.api import StraitRunApi
from tests.answers import answer, broken_answers, complains, exhaust, fuzzed, never_without
from tests.covering import covering
from tests.play import play
from tests.strait.conftest import KEY, make_api, page, row

MOMENT = "2019-08-24T14:15:22Z"
# The run of the reference, literally.
RUN = json.loads("""
{
  "id": "string",
  "job_id": "string",
  "project_id": "string",
  "status": "delayed",
  "attempt": 0,
  "payload": {},
  "result": {},
  "metadata": {"property1": "string", "property2": "string"},
  "error": "string",
  "triggered_by": "string",
  "scheduled_at": "2019-08-24T14:15:22Z",
  "started_at": "2019-08-24T14:15:22Z",
  "finished_at": "2019-08-24T14:15:22Z",
  "heartbeat_at": "2019-08-24T14:15:22Z",
  "next_retry_at": "2019-08-24T14:15:22Z",
  "expires_at": "2019-08-24T14:15:22Z",
  "parent_run_id": "string",
  "priority": 0,
  "idempotency_key": "string",
  "job_version": 0,
  "workflow_step_run_id": "string",
  "max_attempts_override": 0,
  "timeout_secs_override": 0,
  "retry_backoff": "string",
  "retry_initial_delay_secs": 0,
  "retry_max_delay_secs": 0,
  "execution_trace": {
    "queue_wait_ms": 0,
    "dequeue_ms": 0,
    "connect_ms": 0,
    "ttfb_ms": 0,
    "transfer_ms": 0,
    "total_ms": 0,
    "dispatch_ms": 0
  },
  "debug_mode": true,
  "continuation_of": "string",
  "lineage_depth": 0,
  "tags": {"property1": "string", "property2": "string"},
  "job_version_id": "string",
  "created_by": "string",
  "batch_id": "string",
  "concurrency_key": "string",
  "created_at": "2019-08-24T14:15:22Z"
}
""")
EVENT = {
    "id": "string",
    "run_id": "string",
    "type": "string",
    "level": "string",
    "message": "string",
    "data": {},
    "created_at": MOMENT,
}
CHECKPOINT = {
    "id": "string",
    "run_id": "string",
    "sequence": 0,
    "source": "string",
    "state": {},
    "created_at": MOMENT,
}
USAGE = {
    "id": "string",
    "run_id": "string",
    "provider": "string",
    "model": "string",
    "prompt_tokens": 0,
    "completion_tokens": 0,
    "total_tokens": 0,
    "cost_microusd": 0,
    "created_at": MOMENT,
}
TOOL_CALL = {
    "id": "string",
    "run_id": "string",
    "tool_name": "string",
    "input": {},
    "output": {},
    "duration_ms": 0,
    "status": "string",
    "created_at": MOMENT,
}
OUTPUT = {
    "id": "string",
    "run_id": "string",
    "output_key": "string",
    "schema": {},
    "value": {},
    "created_at": MOMENT,
}
CANCELED = {
    "results": [{"id": "string", "status": "string", "error": "string"}],
    "total": 0,
    "canceled": 0,
    "failed": 0,
}
BUNDLE = {
    "run": RUN,
    "events": [EVENT],
    "checkpoints": [CHECKPOINT],
    "usage": [USAGE],
    "tool_calls": [TOOL_CALL],
    "outputs": [OUTPUT],
}
DEPENDENCIES = {
    "run_id": "string",
    "job_id": "string",
    "status": "delayed",
    "dependencies": [
        {
            "id": "string",
            "job_id": "string",
            "depends_on_job_id": "string",
            "condition": "string",
            "created_at": MOMENT,
        }
    ],
    "dependencies_satisfied": True,
}
EMPTY = b""
AT = moment(MOMENT)
SEEN = Run(
    "string", RunState.PENDING, "delayed", "https://app.strait.dev/app/runs/string", "string", AT, AT, AT
)
STATE = {"run_id": "string", "state_key": "step", "value": 3, "updated_at": "2027-01-15T08:00:00.1Z"}
TODAY = row("string", "delayed", error_class="timeout", execution_mode="http")
TODAY_SEEN = Run(
    "string",
    RunState.PENDING,
    "delayed",
    "https://app.strait.dev/app/runs/string",
    created_at=moment("2027-01-15T08:00:00.123456Z"),
)
R = "/v1/runs/string"

# name, method, path and query, body of the curl line (None: it has none), the call,
# the reference's answer, what it means, today's answer, what that means.
Call = Callable[[StraitRunApi], Flow[Any]]
CASES: list[tuple[str, str, str, Any, Call, Any, Any, Any, Any]] = [
    (
        "List runs",
        "GET",
        "/v1/runs?project_id=string",
        None,
        lambda api: api.list_runs({}),
        [RUN],
        [SEEN],
        page(TODAY),
        [TODAY_SEEN],
    ),
    (
        "List dead-lettered runs",
        "GET",
        "/v1/runs/dlq?project_id=string",
        None,
        lambda api: api.list_dlq_runs(),
        [RUN],
        [SEEN],
        page(TODAY),
        [TODAY_SEEN],
    ),
    (
        "Cancel multiple runs",
        "POST",
        "/v1/runs/bulk-cancel",
        {},
        lambda api: api.bulk_cancel(["string"]),
        CANCELED,
        CANCELED,
        CANCELED | {"results": [{"id": "string", "status": "canceled"}], "total": 1, "canceled": 1},
        CANCELED | {"results": [{"id": "string", "status": "canceled"}], "total": 1, "canceled": 1},
    ),
    ("Get a run", "GET", R, None, lambda api: api.get("string"), RUN, SEEN, TODAY, TODAY_SEEN),
    ("Cancel a run", "DELETE", R, None, lambda api: api.cancel("string"), EMPTY, None, TODAY, None),
    (
        "Replay a failed run",
        "POST",
        f"{R}/replay",
        None,
        lambda api: api.replay("string"),
        RUN,
        SEEN,
        (201, TODAY),
        TODAY_SEEN,
    ),
    (
        "Replay a dead-lettered run",
        "POST",
        f"{R}/dlq-replay",
        None,
        lambda api: api.dlq_replay("string"),
        RUN,
        SEEN,
        TODAY,
        TODAY_SEEN,
    ),
    (
        "Bulk replay dead-lettered runs",
        "POST",
        "/v1/runs/bulk-dlq-replay",
        {},
        lambda api: api.bulk_dlq_replay(["string"]),
        {"replayed": [RUN], "count": 0},
        [SEEN],
        {"replayed": [TODAY], "count": 1},
        [TODAY_SEEN],
    ),
    (
        "Cancel all runs matching filters",
        "POST",
        "/v1/runs/bulk-cancel-all?project_id=string",
        {},
        lambda api: api.bulk_cancel_all({"batch_id": "b1"}),
        CANCELED,
        {"canceled": 0, "run_ids": [], "failed": CANCELED["results"]},
        {"canceled": 2, "run_ids": ["r1", "r2"]},
        {"canceled": 2, "run_ids": ["r1", "r2"], "failed": []},
    ),
    (
        "Replay multiple runs by ID",
        "POST",
        "/v1/runs/bulk-replay",
        {"run_ids": ["string"]},
        lambda api: api.bulk_replay(["string"]),
        [RUN],
        [{"new_run_id": "string", "status": "replayed"}],
        {"results": [{"original_run_id": "string", "new_run_id": "n", "status": "replayed"}], "total": 1},
        [{"original_run_id": "string", "new_run_id": "n", "status": "replayed"}],
    ),
    (
        "List child runs",
        "GET",
        f"{R}/children",
        None,
        lambda api: api.list_children("string"),
        [RUN],
        [SEEN],
        page(TODAY, cursor="2027-01-15T08:00:00.123456Z"),
        [TODAY_SEEN],
    ),
    (
        "List run events",
        "GET",
        f"{R}/events",
        None,
        lambda api: api.list_events("string"),
        [EVENT],
        [EVENT],
        page(EVENT, cursor=MOMENT),
        [EVENT],
    ),
    (
        "List run checkpoints",
        "GET",
        f"{R}/checkpoints",
        None,
        lambda api: api.list_checkpoints("string"),
        [CHECKPOINT],
        [CHECKPOINT],
        page(CHECKPOINT),
        [CHECKPOINT],
    ),
    (
        "List run AI model usage",
        "GET",
        f"{R}/usage",
        None,
        lambda api: api.list_usage("string"),
        [USAGE],
        [USAGE],
        [(404, "404 page not found\n"), (200, TODAY)],
        [],
    ),
    (
        "List run tool calls",
        "GET",
        f"{R}/tool-calls",
        None,
        lambda api: api.list_tool_calls("string"),
        [TOOL_CALL],
        [TOOL_CALL],
        [(404, "404 page not found\n"), (200, TODAY)],
        [],
    ),
    (
        "List run structured outputs",
        "GET",
        f"{R}/outputs",
        None,
        lambda api: api.list_outputs("string"),
        [OUTPUT],
        [OUTPUT],
        page(OUTPUT),
        [OUTPUT],
    ),
    (
        "Get debug bundle",
        "GET",
        f"{R}/debug-bundle",
        None,
        lambda api: api.get_debug_bundle("string"),
        BUNDLE,
        BUNDLE,
        {"run": TODAY, "events": [], "checkpoints": [], "outputs": [], "resource_snapshots": []},
        {"run": TODAY, "events": [], "checkpoints": [], "outputs": [], "resource_snapshots": []},
    ),
    (
        "Enable/disable debug mode",
        "POST",
        f"{R}/debug",
        {},
        lambda api: api.set_debug_mode("string"),
        EMPTY,
        None,
        {"status": "ok"},
        None,
    ),
    (
        "List run continuation lineage",
        "GET",
        f"{R}/lineage",
        None,
        lambda api: api.list_lineage("string"),
        [RUN],
        [SEEN],
        page(TODAY),
        [TODAY_SEEN],
    ),
    (
        "Get dependency status for a run",
        "GET",
        f"{R}/dependency-status",
        None,
        lambda api: api.get_dependency_status("string"),
        DEPENDENCIES,
        DEPENDENCIES,
        {**DEPENDENCIES, "status": "waiting", "dependencies_satisfied": False},
        {**DEPENDENCIES, "status": "waiting", "dependencies_satisfied": False},
    ),
    (
        "Reset idempotency key for a run",
        "DELETE",
        f"{R}/idempotency-key",
        None,
        lambda api: api.reset_idempotency_key("string"),
        {"status": "string", "run_id": "string"},
        None,
        {"status": "reset", "run_id": "string"},
        None,
    ),
    (
        "Reschedule a run",
        "POST",
        f"{R}/reschedule",
        {"scheduled_at": "2019-08-24T14:15:22Z"},
        lambda api: api.reschedule("string", "2019-08-24T14:15:22Z"),
        RUN,
        SEEN,
        TODAY,
        TODAY_SEEN,
    ),
    (
        "Pause a managed run",
        "POST",
        f"{R}/pause",
        None,
        lambda api: api.pause("string"),
        RUN,
        SEEN,
        TODAY,
        TODAY_SEEN,
    ),
    (
        "Resume a paused run",
        "POST",
        f"{R}/resume",
        None,
        lambda api: api.resume("string"),
        RUN,
        SEEN,
        TODAY,
        TODAY_SEEN,
    ),
    (
        "Restart a managed run",
        "POST",
        f"{R}/restart",
        {},
        lambda api: api.restart("string"),
        RUN,
        SEEN,
        TODAY,
        TODAY_SEEN,
    ),
    (
        "List run state (management API)",
        "GET",
        f"{R}/state",
        None,
        lambda api: api.get_state("string"),
        EMPTY,
        [],
        [STATE],
        [STATE],
    ),
]
# These two are no flows: a stream is read frame by frame.
STREAMS = {"stream": "SSE event stream", "stream/chunks": "SSE stream of LLM chunks"}

each_call = pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])


def answers_of(given: Any) -> list[Response]:
    many = isinstance(given, list) and bool(given) and isinstance(given[0], tuple)
    pairs = given if many else [given if isinstance(given, tuple) else (200, given)]
    return [answer(body, status) for status, body in pairs]


def check_request(request: Request, method: str, target: str, body: Any) -> None:
    """Hold a request against a curl line."""
    asked = urlsplit(target)
    assert (request.method, request.url) == (method, f"https://api.strait.dev{asked.path}")
    assert not request.secret and request.authenticated
    for name, values in parse_qs(asked.query).items():
        assert request.params[name] == values[0]
    if body is None:
        assert request.json is None
    else:
        assert isinstance(request.json, dict)
        for name, value in body.items():
            sent = request.json[name]
            assert moment(sent) == moment(value) if name == "scheduled_at" else sent == value


@each_call
def test_the_literal_request_and_answer(case: Any) -> None:
    _, method, target, body, call, literal, meaning, _, _ = case
    (request,), result = play(call(make_api({"project_id": "string"})), answer(literal))
    check_request(request, method, target, body)
    assert result == meaning


@each_call
def test_todays_answer(case: Any) -> None:
    _, method, target, body, call, _, _, literal, meaning = case
    requests, result = play(call(make_api({"project_id": "string"})), *answers_of(literal))
    check_request(requests[0], method, target, body)
    assert result == meaning


def test_there_are_all_28() -> None:
    assert len({(case[1], case[2]) for case in CASES}) + len(STREAMS) == 28


@pytest.mark.parametrize("path", STREAMS)
def test_the_literal_request_of_a_stream(path: str) -> None:
    api = make_api({"project_id": "string"})
    request = api.stream_request("string") if path == "stream" else api.chunks_request("string")
    check_request(request, "GET", f"{R}/{path}", None)
    assert api.auth_headers() == {"Authorization": f"Bearer {KEY}"}


# Errors

ERRORS: list[tuple[str, Response, type[ApiError], bool, str]] = [
    (
        "the reference's",
        answer({"error": "run broke", "request_id": "req-1"}, 400),
        ApiError,
        True,
        "Strait answered 400 to .*: run broke \\(request req-1\\)$",
    ),
    (
        "today's",
        answer({"error": {"code": "bad_request", "message": "run broke"}, "request_id": "req-1"}, 400),
        ApiError,
        True,
        "answered 400 to .*: run broke \\(request req-1\\)$",
    ),
    (
        "today's with details",
        answer({"error": {"code": "validation_failed", "message": "no", "details": ["a", "b"]}}, 422),
        ApiError,
        True,
        "answered 422 to .*: no; a; b$",
    ),
    (
        "quota",
        answer(
            {
                "code": "quota_exceeded",
                "kind": "monthly_runs",
                "message": "out of runs",
                "limit": 100,
                "current": 100,
                "plan": "free",
                "upgrade_url": "https://app.strait.dev/app/upgrade",
            },
            402,
        ),
        ApiError,
        True,
        "402 to .*: out of runs; kind monthly_runs; current 100; limit 100; plan free; upgrade_url https://",
    ),
    (
        "degraded",
        answer({"code": "service_degraded", "kind": "quota", "message": "try later"}, 503),
        ApiError,
        False,
        "answered 503 to .*: try later; kind quota",
    ),
    ("limiter", answer("Too Many Requests\n", 429), ApiError, False, "429 to .*: Too Many Requests$"),
    (
        "limit",
        answer({"error": {"code": "rate_limited", "message": "rate limit exceeded"}}, 429),
        ApiError,
        False,
        "429 to .*: rate limit exceeded$",
    ),
    (
        "key",
        answer({"error": {"code": "authentication_required", "message": "bad key"}}, 401),
        Unauthorized,
        True,
        "bad key. Check the API key of connection 'strait_default'",
    ),
    (
        "scope",
        answer({"error": {"code": "forbidden", "message": "requires runs:read"}}, 403),
        Unauthorized,
        True,
        "requires runs:read. Check the scopes",
    ),
    (
        "unknown",
        answer({"error": {"code": "not_found", "message": "run not found"}}, 404),
        NotFound,
        True,
        "run not found. Check the id, and the project of connection 'strait_default'",
    ),
    ("route", answer("404 page not found\n", 404), NotFound, True, "404 page not found. Check"),
    ("method", answer("", 405), ApiError, True, "answered 405 to .*: \\(empty\\)$"),
    ("proxy", answer("<html>502</html>", 502), ApiError, False, "answered 502 to .*<html>"),
    ("internal", answer({"error": {"message": "internal server error"}}, 500), ApiError, False, "internal"),
    ("no message", answer({"error": {"code": "conflict"}}, 409), ApiError, True, "conflict"),
    ("redirect", answer("", 302), ApiError, False, "answered 302"),
]


# These look at the status of an error before they hand it on.
LOOK_CLOSER = ("Cancel a run", "List run AI model usage", "List run tool calls")


@pytest.mark.parametrize(
    ("case", "error"),
    [
        *covering([case for case in CASES if case[0] not in LOOK_CLOSER], ERRORS, turns=3),
        *product([case for case in CASES if case[0] in LOOK_CLOSER], ERRORS),
    ],
    ids=lambda row: row[0],
)
def test_every_error_and_every_call(case: Any, error: Any) -> None:
    _, response, kind, permanent, said = error
    more: list[Response] = []
    if case[0] == "Cancel a run" and response.status in (400, 409):
        # It may be that the run has ended: that is asked for, and told by the same error here.
        more = [response]
    if case[0] in ("List run AI model usage", "List run tool calls") and response.status == 404:
        more = [response]
    with pytest.raises(ApiError, match=said) as caught:
        play(case[4](make_api()), response, *more)
    assert type(caught.value) is kind and is_permanent(caught.value) is permanent
    assert caught.value.status == response.status
    assert "strait_planted" not in str(caught.value)


BROKEN = {
    "an empty body": answer(""),
    "HTML": answer("<html></html>"),
    "null": answer("null"),
    "a number": answer("7"),
    "text rows": answer(["text"]),
    "a page of text": answer({"data": "text"}),
}


# What they read has no form that would have to be kept, or may be empty. A gateway's page is no answer.
FREE = ("Cancel a run", "Enable/disable debug mode", "Reset idempotency key for a run")
MAYBE_EMPTY = "List run state (management API)"
# Any object goes through as it is.
THROUGH = ("Get debug bundle", "Get dependency status for a run")
LENIENT = (*FREE, MAYBE_EMPTY, *THROUGH)
STRICT = [case for case in CASES if case[0] not in LENIENT]


@pytest.mark.parametrize(
    ("case", "name"),
    [
        *covering(STRICT, ["an empty body", "HTML", "null", "a number"]),
        # Each call reads rows and pages, or refuses them, in its own way.
        *product(STRICT, ["text rows", "a page of text"]),
        *product([case for case in CASES if case[0] in LENIENT], BROKEN),
    ],
    ids=lambda one: one if isinstance(one, str) else one[0],
)
def test_an_answer_without_sense_is_an_error(case: Any, name: str) -> None:
    response = BROKEN[name]
    allowed = case[0] in FREE and name != "HTML"
    allowed |= case[0] == MAYBE_EMPTY and name == "an empty body"
    allowed |= case[0] in THROUGH and name == "a page of text"
    if allowed:
        play(case[4](make_api()), response)
        return
    with pytest.raises(ApiError, match="Strait answered") as caught:
        play(case[4](make_api()), response)
    assert not is_permanent(caught.value)


# Whatever comes back

FLOWS: dict[str, Call] = {
    # One of each shape.
    **{
        case[0]: case[4]
        for case in CASES
        if case[0].startswith(
            ("List runs", "Cancel", "Get", "Bulk", "Replay multiple", "List run AI", "List run st")
        )
    },
    "start": lambda api: api.trigger({"job_id": "daily"}, "key"),
    "dry run": lambda api: api.dry_run({"job_id": "daily"}),
    "job": lambda api: api.get_job("daily"),
    "many": lambda api: api.get_many(["string", "b", "c", "d", "e"]),
    "retry": lambda api: api.retry("string", {}),
    "find replay": lambda api: api.find_retried("string", {}, 0.0),
    "explain": lambda api: api.explain("string"),
    "check": lambda api: api.check(),
}
GOOD = [
    TODAY,
    {"run": TODAY, "events": [EVENT]},
    [TODAY],
    page(TODAY, cursor=MOMENT),
    CANCELED,
    {"canceled": 1, "run_ids": ["a"]},
    {"replayed": [TODAY], "results": [{"status": "replayed"}]},
    {"id": "string", "status": "queued", "idempotency_hit": True},
    {"debounced": True},
    {"error": {"code": "x", "message": "no", "details": ["a"]}, "request_id": "r"},
    {"code": "quota_exceeded", "message": "no", "limit": 5},
]
WORDS = ["dead_letter", "failed", "data", "error", "results", "next_cursor", "created_at", "tags", "queued"]


@pytest.mark.no_cover  # three times as quick; other tests run each line
@fuzzed
@given(supply=st.lists(broken_answers(GOOD, WORDS), min_size=1, max_size=4))
@never_without("supply", [[answer(body)] for body in GOOD])
def test_whatever_comes_back_ends_in_a_result_or_in_one_of_our_errors(supply: list[Response]) -> None:
    for name, call in FLOWS.items():
        note(name)
        complains(partial(exhaust, call(make_api()), supply), KEY)
