"""Every kind of error, and answers broken in every way (contract section 4)."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from airflow_provider_runs.core.errors import (
    AlreadyRunning,
    ApiError,
    NotFound,
    Unauthorized,
    is_permanent,
)
from airflow_provider_runs.core.http import Response
from airflow_provider_runs.paradime.answers import BadAnswer, DocumentRefused, FieldFailed, Rejected
from tests.answers import answer, broken_answers, complains, exhaust, fuzzed, never_without
from tests.paradime.conftest import KEY, SECRET, SECRETS, TOKEN, data, errors, make_api
from tests.play import play

PATH = ["triggerBoltRun"]
TRIGGER = {"slug": "daily"}
HTML = answer("<html><h1>502 Bad Gateway</h1></html>")


def refusal_of(response: Response, flow: Any = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        play(flow or make_api().trigger(TRIGGER), response)
    error = caught.value
    assert not [secret for secret in SECRETS if secret in str(error)]
    return error


KINDS: list[tuple[str, Response, type, int, bool, str]] = [
    ("401", answer({"detail": "no"}, 401), Unauthorized, 401, True, "Check the credentials"),
    ("403", answer("", 403), Unauthorized, 403, True, "answered 403"),
    ("401 with errors", errors("bad key", status=401), Unauthorized, 401, True, "bad key"),
    ("auth behind 200", errors("Not authenticated"), Unauthorized, 401, True, "check the credentials"),
    ("auth by code", errors(("no", PATH, "UNAUTHENTICATED"), a=None), Unauthorized, 401, True, "code UNAUTH"),
    # It says nothing about the credentials: the run may be another workspace's.
    ("no right to it", errors(("no", PATH, "FORBIDDEN"), a=None), Unauthorized, 403, True, "code FORBIDDEN"),
    ("expired key", errors("API key abc has expired"), Unauthorized, 401, True, "expired"),
    ("404", answer("", 404), ApiError, 404, True, "Check the endpoint"),
    ("400", answer("no", 400), ApiError, 400, True, "answered 400"),
    ("429", answer("slow down", 429), ApiError, 429, False, "answered 429"),
    ("limit behind 200", errors("Rate limit exceeded"), ApiError, 429, False, "Rate limit"),
    ("500", answer("", 500), ApiError, 500, False, "answered 500"),
    ("503 with errors", errors("down", status=503), ApiError, 503, False, "down"),
    ("internal", errors(("oops", None, "INTERNAL_SERVER_ERROR")), ApiError, 500, False, "INTERNAL"),
    ("validation", errors("Unknown argument 'slug'"), DocumentRefused, 400, True, "Unknown argument"),
    ("validation, 400", errors("Syntax Error", status=400), DocumentRefused, 400, True, "Syntax"),
    ("unknown slug", errors(("Schedule 'x' not found", PATH)), NotFound, 404, True, "at triggerBoltRun"),
    ("busy", errors(("AlreadyRunningException: daily", PATH)), AlreadyRunning, 409, False, "AlreadyRunning"),
    ("busy, no path", errors("already running"), AlreadyRunning, 409, False, "already running"),
    ("field", errors(("cannot schedule", PATH)), FieldFailed, 500, False, "cannot schedule"),
    ("field, data", errors(("oops", PATH), triggerBoltRun=None), FieldFailed, 500, False, "oops"),
    ("data, no path", errors("oops", triggerBoltRun=None), FieldFailed, 500, False, "oops"),
    ("gone, no path", errors("no such schedule", triggerBoltRun=None), NotFound, 404, True, "no such"),
    ("ok: false", data(triggerBoltRun={"ok": False, "runId": 7}), Rejected, 200, False, "ok: false"),
    ("HTML", HTML, BadAnswer, 200, False, "which is no GraphQL"),
    ("empty", answer(""), BadAnswer, 200, False, "(empty)"),
    ("list", answer([]), BadAnswer, 200, False, "no GraphQL"),
    ("null", answer("null"), BadAnswer, 200, False, "no GraphQL"),
    ("no data", answer({"data": None}), BadAnswer, 200, False, "without data and without an error"),
    ("errors: []", answer({"data": None, "errors": []}), BadAnswer, 200, False, "without an error"),
    ("null field", data(triggerBoltRun=None), BadAnswer, 200, False, "cannot be used"),
    ("text field", data(triggerBoltRun="7"), BadAnswer, 200, False, "cannot be used"),
    ("204", answer("", 204), BadAnswer, 204, False, "answered 204"),
]


@pytest.mark.parametrize(
    ("response", "kind", "status", "permanent", "said"),
    [case[1:] for case in KINDS],
    ids=[case[0] for case in KINDS],
)
def test_every_kind_has_its_own_error(
    response: Response, kind: type, status: int, permanent: bool, said: str
) -> None:
    error = refusal_of(response)
    assert type(error) is kind
    assert (error.status, is_permanent(error)) == (status, permanent)
    assert said in str(error) and "starting schedule 'daily'" in str(error)


def test_an_empty_list_of_errors_beside_good_data_is_no_error() -> None:
    body = {"data": {"boltRunStatus": {"ok": True, "state": "SUCCESS"}}, "errors": []}
    assert play(make_api().get("5"), answer(body))[1].status == "SUCCESS"


@pytest.mark.parametrize("given", ["down", {"message": "down"}, [None], [{"message": None}], [{"path": "a"}]])
def test_errors_of_another_form_are_errors(given: Any) -> None:
    body = {"data": {"boltRunStatus": {"ok": True, "state": "SUCCESS"}}, "errors": given}
    refusal_of(answer(body), make_api().get("5"))


def test_a_query_that_was_answered_in_part_is_not_read() -> None:
    part = errors(("no state", ["boltRunStatus", "state"]), boltRunStatus={"ok": True, "state": None})
    error = refusal_of(part, make_api().get("5"))
    assert type(error) is FieldFailed and "at boltRunStatus.state" in str(error)


@pytest.mark.parametrize(
    ("status", "hints"), [(404, True), (499, True), (429, False), (500, False), (503, False)]
)
def test_an_answer_of_something_else_hints_at_the_endpoint_where_that_may_be_wrong(
    status: int, hints: bool
) -> None:
    said = str(refusal_of(answer("<h1>elsewhere</h1>", status)))
    assert said.endswith(". Check the endpoint of connection 'paradime_default'") is hints
    assert said.endswith("<h1>elsewhere</h1>") is not hints


def test_what_an_error_does_not_tell_is_not_mentioned() -> None:
    said = str(refusal_of(errors("No such thing", triggerBoltRun=None)))
    assert said.endswith("with an error: No such thing")


@pytest.mark.parametrize(("status", "shown"), [(401, 401), (403, 403), (200, 401)])
def test_refused_credentials_keep_their_status(status: int, shown: int) -> None:
    response = errors(("Unauthorized", None, "UNAUTHENTICATED"), status=status, triggerBoltRun=None)
    error = refusal_of(response)
    assert type(error) is Unauthorized and error.status == shown


def test_an_unknown_run_is_not_found() -> None:
    gone = errors(("Run 5 does not exist", ["boltRunStatus"]), boltRunStatus=None)
    assert type(refusal_of(gone, make_api().get("5"))) is NotFound


def test_the_message_tells_all_that_is_known() -> None:
    entries = ("No such\nthing", PATH, "NOT_FOUND"), "another"
    response = errors(*entries, triggerBoltRun=None)
    response = Response(200, {"x-request-id": "req-1"}, response.body)
    # The one without path says nothing about this field.
    assert str(refusal_of(response)) == (
        "Paradime answered starting schedule 'daily' with an error: No such thing (code NOT_FOUND) "
        "at triggerBoltRun, and 1 more (request req-1)"
    )


@pytest.mark.parametrize(
    "response",
    [
        answer(f"<p>{SECRET} {KEY} /api/v1/{TOKEN}/graphql</p>", 502),
        errors(f"Variable $slug: {SECRET} {TOKEN}"),
        errors((f"{SECRET}", [TOKEN], KEY), triggerBoltRun=None),
        data(triggerBoltRun=[SECRET, TOKEN]),
    ],
)
def test_no_secret_gets_into_a_message(response: Response) -> None:
    assert "***" in str(refusal_of(response))


FLOWS: dict[str, Any] = {
    "trigger": lambda api: api.trigger({"slug": "daily", "reason": "r"}),
    "get": lambda api: api.get("5"),
    "get_many": lambda api: api.get_many(["5", "6", "7"]),
    "cancel": lambda api: api.cancel("5"),
    "list_runs": lambda api: api.list_runs({"slug": "daily"}, since=1.0, limit=3),
    "check": lambda api: api.check(),
    "commands": lambda api: api.list_commands("5"),
    "command": lambda api: api.get_command("5"),
    "resources": lambda api: api.list_resources("5"),
    "url": lambda api: api.get_resource_url("5"),
    "logs": lambda api: api.get_command_logs("5"),
    "explain": lambda api: api.explain("5"),
    "schedule": lambda api: api.get_schedule({"slug": "daily"}),
    "schedules": lambda api: api.list_schedules(limit=2),
    "suspend": lambda api: api.suspend_schedule({"slug": "daily"}),
    "check_retry": lambda api: api.check_retry("5", {}),
    "retry": lambda api: api.retry("5", {}),
    "find_retried": lambda api: api.find_retried("5", {"slug": "daily"}, 1.0),
    "snapshot": lambda api: api.snapshot({"slug": "daily"}),
    "find_unmarked": lambda api: api.find_unmarked({"slug": "daily", "latest": 3, "commands": ["a"]}, 1.0),
    "retry_from_failure": lambda api: api.retry_from_failure({"slug": "daily"}),
}
ROW = {
    "id": 9,
    "state": "RUNNING",
    "startDttm": "2027-01-15 08:00:00",
    "parentScheduleRunId": 5,
    "gitInfo": {},
}
COMMAND = {"id": 3, "command": "dbt run", "returnCode": 1, "stdout": "a", "stderr": None, "endDttm": None}
GOOD = [
    {"data": {"triggerBoltRun": {"runId": 7}, "retryBoltRun": {"runId": 8}}},
    {"data": {"retryBoltRunFromFailure": {"runId": 8}, "retryAllBoltRun": {"runId": 8}}},
    {"data": {"boltRunStatus": {"ok": True, "state": "FAILED", "commands": [COMMAND]}}},
    {
        "data": {"r0": {"ok": True, "state": "FAILED"}, "r1": None},
        "errors": [{"message": "a", "path": ["r1"]}],
    },
    {"data": None, "errors": [{"message": "Run 6 not found", "path": ["r1"]}]},
    {"data": None, "errors": [{"message": "Unknown argument 'reason' on field", "locations": []}]},
    {"data": {"boltCommand": {"ok": True, **COMMAND, "resources": [{"id": 1, "path": "target/a.json"}]}}},
    {"data": {"boltResourceUrl": {"ok": True, "url": "https://store.example.com/a?b=c"}}},
    {
        "data": {
            "boltCommandLogs": {
                "lines": [{"stream": "STDOUT", "line": "a"}],
                "cursor": "1:0",
                "finished": True,
            }
        }
    },
    {"data": {"listBoltRuns": {"ok": True, "runs": [ROW]}, "cancelBoltRun": {"ok": True}}},
    {"data": {"listBoltSchedules": {"totalCount": 1, "schedules": [{"name": "a"}]}}},
    {"data": {"boltScheduleName": {"ok": True, "latestRunId": 9}, "suspendBoltSchedule": {"ok": False}}},
]
WORDS = ["SUCCESS", "FAILED", "null", "path", "errors", "data", "r0", "not found", "already running"]


@pytest.mark.no_cover  # three times as quick; other tests run each line
@fuzzed
@given(supply=st.lists(broken_answers(GOOD, WORDS), min_size=1, max_size=4))
@never_without("supply", [[answer(body)] for body in GOOD])
def test_whatever_comes_back_ends_in_a_result_or_in_one_of_our_errors(supply: list[Response]) -> None:
    for name, call in FLOWS.items():
        note(name)
        complains(partial(exhaust, call(make_api()), supply), *SECRETS)
