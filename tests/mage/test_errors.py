"""What Mage answers when it refuses or fails: mostly HTTP 200. The right class, what was said, no secret."""

from __future__ import annotations

import copy
from itertools import product

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from airflow_provider_runs.core.errors import ApiError, BadInput, NotFound, RunsError, Unauthorized
from airflow_provider_runs.core.run import Run, RunState
from tests.answers import (
    answer,
    broken_answers,
    complains,
    exhaust,
    fuzzed,
    never_without,
    sample,
    says,
)
from tests.covering import brief, covering
from tests.mage.conftest import NOW, SECRETS, SESSION_TOKEN, make_api, session
from tests.play import play

# Nothing has to be looked at before the start.
SCHEDULE = {"pipeline_schedule_id": 1, "allow_inactive_trigger": True}
CALLS = {
    "trigger": lambda api: api.trigger(SCHEDULE, "key-1"),
    "get": lambda api: api.get("5"),
    "cancel": lambda api: api.cancel("5"),
    "explain": lambda api: api.explain("5"),
    "find_started": lambda api: api.find_started(SCHEDULE, "key-1", NOW),
    "list_runs": lambda api: api.list_runs({"pipeline_schedule_id": 1}),
    "check_retry": lambda api: api.check_retry("5", {"from_block_uuid": "load_x"}),
    "retry": lambda api: api.retry("5", {}),
    "find_retried": lambda api: api.find_retried("5", {}, NOW),
    "logs": lambda api: api.logs("5"),
    "trigger by name": lambda api: api.trigger({"pipeline_uuid": "example"}, "key-1", NOW),
    "check": lambda api: api.check(),
    "authenticate": lambda api: api.authenticate(),
}
GENERIC = [call for call in CALLS if call != "authenticate"]
NOT_FOUND = "{'code': 404, 'message': 'Record not found.', 'type': 'record_not_found'}"


def refused(call, response):
    """Return the error that an answer ends a call with."""
    with pytest.raises(ApiError) as error:
        play(CALLS[call](make_api()), response)
    complains(lambda: (_ for _ in ()).throw(error.value), "planted")
    return error.value


def test_a_read_without_login_says_what_is_missing():
    api = make_api(login=None, password=None)
    with pytest.raises(Unauthorized) as error:
        play(api.get("5"), answer(sample("mage/error_handled")))
    assert "connection 'mage_default' needs login and password for all but starting" in str(error.value)
    with pytest.raises(Unauthorized) as error:
        play(api.trigger(SCHEDULE), uncaught("Invalid token for pipeline schedule ID 1."))
    assert "check the credentials of connection 'mage_default'" in str(error.value)


def test_a_refused_login_says_that_mage_without_authentication_has_no_users():
    response = handled(404, "Email/username and/or password invalid.", "record_not_found", 404)
    with pytest.raises(Unauthorized) as error:
        play(make_api(token=False).authenticate(), response)
    assert "leave both empty where the server has user authentication off" in str(error.value)


def handled(code, message, kind, status=200):
    return answer({"error": {"code": code, "message": message, "type": kind}, "status": status}, status)


def uncaught(exception, status=200):
    body = sample("mage/error_uncaught")
    body["error"] |= {"exception": exception, "message": f"Traceback\nException: {exception}"}
    return answer(body, status)


REFUSED = handled(401, "Invalid API key.", "invalid_api_key", 401)
GONE = handled(404, "Record not found.", "record_not_found")
TURNED_DOWN = handled(400, "Timestamp is no number.", "record_invalid")
SLOW_DOWN = handled(429, "Slow down.", "x")
HANDLED = [
    (REFUSED, Unauthorized, 401, True, "Invalid API key."),
    (
        handled(401, "Invalid OAuth token.", "invalid_oauth_token", 401),
        Unauthorized,
        401,
        True,
        "Invalid OAuth",
    ),
    (
        handled(401, "Expired OAuth token.", "expired_oauth_token", 401),
        Unauthorized,
        401,
        True,
        "Expired OAuth",
    ),
    (answer(sample("mage/error_handled")), Unauthorized, 403, True, "Private access for list only"),
    (answer(sample("mage/error_handled"), 403), Unauthorized, 403, True, "Private access for list only"),
    (GONE, NotFound, 404, True, "404, not found"),
    (handled(404, "Record not found.", "record_not_found", 404), NotFound, 404, True, "404, not found"),
    (handled(404, "Email/username and/or password invalid.", "x"), NotFound, 404, True, "404, not found"),
    (handled(500, "odd", "record_not_found"), NotFound, 404, True, "404, not found"),
    (TURNED_DOWN, ApiError, 400, True, "is no number"),
    (SLOW_DOWN, ApiError, 429, False, "Slow down."),
    (handled(None, "Odd.", None), ApiError, 500, False, "Odd."),
    (handled("404", "Odd.", None), ApiError, 500, False, "Odd."),
    (handled(True, "Odd.", None), ApiError, 500, False, "Odd."),
    (handled(200, "Odd.", None), ApiError, 500, False, "Odd."),
    (handled(10**30, "Odd.", None), ApiError, 500, False, "Odd."),
    (handled(None, "Odd.", None, 403), Unauthorized, 403, True, "Odd."),
    (answer({"error": {}}), ApiError, 500, False, "no reason given"),
]


@pytest.mark.parametrize(("call", "case"), covering(GENERIC, HANDLED), ids=brief)
def test_a_handled_error_is_judged_by_code_and_type(call, case):
    response, kind, status, permanent, said = case
    error = refused(call, response)
    assert type(error) is kind
    assert (error.status, error.permanent) == (status, permanent)
    assert said in str(error)
    if kind is not ApiError:
        assert "check the" in str(error) and "'mage_default'" in str(error)


@pytest.mark.parametrize("call", GENERIC)
def test_no_call_keeps_a_handled_error_to_itself(call):
    for response, kind, status, permanent in (
        (REFUSED, Unauthorized, 401, True),
        (GONE, NotFound, 404, True),
        (TURNED_DOWN, ApiError, 400, True),
        (SLOW_DOWN, ApiError, 429, False),
    ):
        error = refused(call, response)
        assert (type(error), error.status, error.permanent) == (kind, status, permanent)


def test_the_text_of_a_not_found_is_not_shown_because_it_lies():
    error = refused("get", handled(404, "Email/username and/or password invalid.", "record_not_found"))
    assert "password" not in str(error)
    assert "run 5" in str(error)


UNCAUGHT = [
    ("Invalid token for pipeline schedule ID 1.", Unauthorized, True),
    (NOT_FOUND, NotFound, True),
    ("This endpoint is only supported for API trigger.", ApiError, True),
    ("invalid literal for int() with base 10: 'abc'", ApiError, True),
    ("Expecting property name enclosed in double quotes: line 1 column 2 (char 1)", ApiError, True),
    ("Expecting value: line 1 column 1 (char 0)", ApiError, True),
    ("'list' object has no attribute 'get'", ApiError, True),
    ("argument of type 'NoneType' is not iterable", ApiError, True),
    ("Pipeline three does not exist in repo_path /project/demo.", ApiError, True),
    ("'foo' is an invalid keyword argument for PipelineRun", ApiError, True),
    ("'NoneType' object has no attribute 'to_dict'", ApiError, False),
    ("(sqlite3.OperationalError) no such column: pipeline_schedule.token", ApiError, False),
    ("(psycopg2.OperationalError) server closed the connection unexpectedly", ApiError, False),
    ("list index out of range", ApiError, False),
    ("something new", ApiError, False),
]


@pytest.mark.parametrize(("case", "status"), covering(UNCAUGHT, [200, 500]), ids=brief)
def test_an_uncaught_error_is_judged_by_its_text(case, status):
    exception, kind, permanent = case
    error = refused("trigger", uncaught(exception, status))
    assert type(error) is kind
    assert error.permanent is permanent
    assert "starting trigger 1" in str(error)
    if kind is not NotFound:
        assert exception in str(error)


def test_a_wrong_trigger_token_says_where_to_look():
    error = refused("trigger", uncaught("Invalid token for pipeline schedule ID 1."))
    assert error.status == 401
    assert "check the credentials of connection 'mage_default'" in str(error)


def test_an_unknown_schedule_is_not_found():
    error = refused("trigger", uncaught(NOT_FOUND))
    assert "trigger 1" in str(error) and "'mage_default'" in str(error)


def test_a_database_error_does_not_show_what_was_to_be_stored():
    error = refused("trigger", answer(sample("mage/error_database")))
    assert not error.permanent
    assert 'null value in column "status"' in str(error)
    assert "INSERT" not in str(error) and "Failing row" not in str(error)


def test_an_error_without_exception_shows_its_message_without_what_was_to_be_stored():
    body = sample("mage/error_database")
    body["error"]["message"] = body["error"].pop("exception")
    assert "INSERT" not in str(refused("trigger", answer(body)))


STATUSES = [
    (301, ApiError, False),
    (400, ApiError, True),
    (401, Unauthorized, True),
    (403, Unauthorized, True),
    (404, ApiError, True),
    (405, ApiError, True),
    (408, ApiError, False),
    (429, ApiError, False),
    (500, ApiError, False),
    (502, ApiError, False),
    (503, ApiError, False),
    (504, ApiError, False),
]
OTHERS = [
    (b"", "(empty)"),
    ("<html>\n<title>404: Not Found</title></html>", "<html> <title>404: Not Found"),
    ("plain text", "plain text"),
    ({"detail": "of a proxy"}, "of a proxy"),
    ({"error": "of a proxy"}, "of a proxy"),
    ({"pipeline_run": {"id": 5, "status": "completed"}}, "completed"),
    ([], "[]"),
]


# Each call meets statuses of every kind, and bodies of almost every one.
@pytest.mark.parametrize(("call", "case", "other"), covering(CALLS, STATUSES, OTHERS, turns=5), ids=brief)
def test_what_is_not_mages_own_error_is_judged_by_its_status(call, case, other):
    status, kind, permanent = case
    body, said = other
    error = refused(call, answer(body, status))
    # A 404 of a web server says nothing about a run: the host or its path prefix is wrong.
    assert type(error) is kind
    assert (error.status, error.permanent) == (status, permanent)
    assert f"Mage answered {status} to " in str(error)
    assert said in str(error)
    assert ("path prefix" in str(error)) is (status < 500)


# No object, or one whose error is no error of Mage: no call gets to see it.
SENSELESS = [
    b"",
    b"null",
    b"[]",
    b"{",
    b'"completed"',
    b"\xff\xfe{\x00}\x00",
    b"[" * 9000,
    "<html>completed</html>",
    {"error": "odd", "pipeline_run": {"id": 5, "status": "completed"}},
    {"error": ["odd"], "pipeline_run": {"id": 5, "status": "completed"}},
    {"error": False, "pipeline_run": {"id": 5, "status": "completed"}},
]
# Each call looks for its own part in them.
USELESS = [
    b"{}",
    {"status": "completed"},
    {"id": 5, "status": "completed"},
    {"pipeline_run": None, "pipeline_runs": None, "session": None, "statuses": None},
]


@pytest.mark.parametrize(("call", "body"), [*covering(CALLS, SENSELESS), *product(CALLS, USELESS)], ids=brief)
def test_a_good_status_proves_nothing(call, body):
    error = refused(call, answer(body))
    assert type(error) is ApiError
    assert (error.status, error.permanent) == (200, False)
    assert "cannot be used" in str(error)


def test_an_error_beside_a_run_is_an_error():
    body = {"pipeline_run": {"id": 5, "status": "completed"}, "error": {"code": 500, "message": "but"}}
    assert "but" in str(refused("get", answer(body)))


def test_an_error_that_is_null_is_none():
    body = {"pipeline_run": {"id": 5, "status": "completed"}, "error": None}
    assert play(make_api().get("5"), answer(body))[1].state is RunState.SUCCEEDED


# Secrets: those of the connection, and those of others that only Mage's answers hold

PLANTED = [
    {"error": {"code": 500, "exception": " ".join(SECRETS)}},
    {"error": {"code": 403, "message": " ".join(SECRETS)}},
    {"error": {"code": 500, "exception": "x" * 495 + SECRETS[0]}},
    {"error": "odd", "url_parameters": {"pipeline_schedule_id": "1", "token": "planted-url-token"}},
    {"x": {"pipeline_schedule_token": "planted-other"}},
    {"pipeline_runs": {"pipeline_schedule_token": "planted-other"}},
    {"pipeline_schedules": [{"id": 1, "token": "planted-\\other"}]},
    {"sessions": {"token": "planted-jwt", "user": {"password": "planted-hash"}}},
    "{'token': 'planted-other', 'x': \"y\"}",
    b'{"pipeline_schedule_token": "planted-oth',
    {"x" * 185: SECRETS[1]},
    " ".join(SECRETS),
    "x" * 190 + SECRETS[2],
]


# What a message shows depends on body and status together.
@pytest.mark.parametrize(
    ("call", "shown"), covering(CALLS, product(PLANTED, [200, 401, 404, 405, 500])), ids=brief
)
def test_no_message_shows_a_secret(call, shown):
    body, status = shown
    refused(call, answer(body, status))


def test_the_password_is_not_shown_when_the_login_fails():
    for response in (uncaught(f"bad {SECRETS[0]}"), handled(404, SECRETS[0], "record_not_found")):
        refused("authenticate", response)


# Anything at all

FAILED = sample("mage/run_failed")
COMPLETED = copy.deepcopy(FAILED)
COMPLETED["pipeline_run"]["status"] = "completed"
TRIGGER = {
    "id": 1,
    "name": "from_airflow",
    "schedule_type": "api",
    "status": "active",
    "token": "planted-url-token",
    "settings": {"timeout": 5},
}
LOG = {"name": "scheduler.log", "content": '2026-11-22T04:29:19 {"level": "ERROR", "message": "late"}'}
FUZZ_BODIES = [
    COMPLETED,
    FAILED,
    session({"token": SESSION_TOKEN, "expires": NOW + 60}),
    {"error": {"code": 500, "exception": " ".join(SECRETS), "message": SECRETS[0]}},
    {"pipeline_schedule": TRIGGER, "metadata": None},
    {"pipeline_schedules": [TRIGGER], "metadata": {"count": 1, "next": False}},
    {"pipeline": {"uuid": "example", "blocks": [{"uuid": "load_x", "upstream_blocks": ["a"]}]}},
    {"logs": [{"pipeline_run_logs": [LOG], "block_run_logs": [LOG]}]},
    *(
        sample(f"mage/{name}")
        for name in ("trigger", "list", "status", "error_uncaught", "error_handled", "error_database")
    ),
]
MARKED = sample("mage/list")
MARKED["pipeline_runs"] = [
    {**MARKED["pipeline_runs"][0], "id": number, "variables": {"airflow_run_key": "key-1"}}
    for number in (9, 8)
]
MARKED["metadata"]["next"] = True
WORDS = ["completed", "COMPLETED", "running", "failed", "record_not_found", "key-1", NOT_FOUND]


@pytest.mark.no_cover  # three times as quick; other tests run each line
@fuzzed
@given(responses=st.lists(broken_answers([*FUZZ_BODIES, MARKED], WORDS), min_size=1, max_size=3))
@never_without("responses", [[answer(body)] for body in (*FUZZ_BODIES, MARKED)])
def test_only_our_errors_come_out_and_success_only_where_it_is_said(responses):
    for call in CALLS:
        note(call)
        takes(call, responses)


def takes(call, responses):
    """Hold what a call makes of answers against what they say."""
    api = make_api()
    # The trigger's token is secret by its name: damage may leave it a value like any other.
    named = [r.body.replace(b'"token": "planted-url-token"', b"") for r in responses]
    secrets = (
        SECRETS if any(b"planted-url-token" in body for body in named) else (*SECRETS, "planted-url-token")
    )
    got = complains(lambda: exhaust(CALLS[call](api), responses), *secrets)
    if isinstance(got, RunsError):
        # A trigger that cannot be told from others, or whose token is hidden, has to be named otherwise.
        assert isinstance(got, (ApiError, BadInput))
        return
    first = responses[0]
    assert first.status == 200
    assert not isinstance(says(first, "error"), dict)
    if call == "find_started":
        assert got is None or got.id.isdigit() or got.id.startswith("-")
        if got and got.state is RunState.SUCCEEDED:
            rows = [row for response in responses for row in says(response, "pipeline_runs") or ()]
            assert any(str(row["id"]) == got.id and row["status"].lower() == "completed" for row in rows)
    elif isinstance(got, Run):
        said = says(first, "pipeline_run")
        assert got.id == str(said["id"])
        got.status.encode(), (got.url or "").encode(), (got.message or "").encode()
        if got.state is RunState.SUCCEEDED:
            assert said["status"].lower() == "completed"
        if call == "get":
            assert got.id == "5"
    elif call == "cancel":
        assert got is None and says(first, "pipeline_run") is not None
    elif call == "explain":
        assert says(first, "pipeline_run", "id") == 5
        assert got is None or got.encode()
    elif call == "check":
        assert got.startswith("Connected to Mage")
    else:
        assert api.token.value and 0 < api.token.lifetime < 1e9
