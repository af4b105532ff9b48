"""What Chalk answers when it refuses or fails: the right class, what was said, no secret."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, note

from airflow_provider_runs.core.errors import ApiError, NotFound, RunsError, Unauthorized
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
from tests.chalk.conftest import BEARER, SECRET, make_api
from tests.covering import brief, covering
from tests.play import play

RESOLVER = {"resolver_fqn": "my.module.fn"}
CALLS = {
    "trigger": lambda api: api.trigger(RESOLVER, "key-1"),
    "get": lambda api: api.get("j-2qtwuxpskm2pbg"),
    "check": lambda api: api.check(),
    "authenticate": lambda api: api.authenticate(),
}


def refused(call, response, **kwargs):
    """Return the error that an answer ends a call with."""
    with pytest.raises(ApiError) as error:
        play(CALLS[call](make_api(**kwargs)), response)
    complains(lambda: (_ for _ in ()).throw(error.value), SECRET, BEARER, "planted")
    return error.value


STATUSES = [
    (300, ApiError, False),
    (302, ApiError, False),
    (400, ApiError, True),
    (401, Unauthorized, True),
    (403, Unauthorized, True),
    (404, NotFound, True),
    (405, ApiError, True),
    (408, ApiError, False),
    (409, ApiError, True),
    (422, ApiError, True),
    (425, ApiError, False),
    (429, ApiError, False),
    (500, ApiError, False),
    (502, ApiError, False),
    (503, ApiError, False),
    (504, ApiError, False),
]


@pytest.mark.parametrize(("call", "case"), covering(CALLS, STATUSES, turns=2), ids=brief)
def test_the_status_says_the_class_and_whether_it_may_heal(call, case):
    status, kind, permanent = case
    error = refused(call, answer({"detail": "because of this"}, status))
    assert type(error) is kind
    assert (error.status, error.permanent) == (status, permanent)
    assert f"Chalk answered {status} to " in str(error)
    assert "because of this" in str(error)


SAID = [
    ({"detail": "No such thing"}, "No such thing"),
    ({"detail": "two\n  lines"}, "two lines"),
    ({"message": "Forbidden for you"}, "Forbidden for you"),
    ({"detail": None, "message": "m"}, ": m"),
    (
        sample("chalk/error"),
        "No such resolver; RESOLVER_NOT_FOUND: resolver 'a.b' was not found (trace trace-1)",
    ),
    ({"errors": [{"code": "NEW_CODE", "message": "what"}]}, ": NEW_CODE: what"),
    ({"errors": [{"message": "what"}]}, ": None: what"),
    ({"errors": ["odd", {}, {"code": "C", "message": "m"}]}, ": C: m"),
    ({"errors": "odd"}, '{"errors": "odd"}'),
    (sample("chalk/error_list"), "field required"),
    ({"detail": {"reason": "deep"}}, '"reason": "deep"'),
    ({"detail": {"reason": "deep"}, "errors": [{"code": "C", "message": "m"}]}, "; C: m"),
    ({}, "{}"),
    ([1, 2], "[1, 2]"),
    ("plain text", "plain text"),
    ("<html>\n<h1>Bad Gateway</h1></html>", "<html> <h1>Bad Gateway</h1></html>"),
    (b"", "(empty)"),
    (b"\xff\x00\x1b[31m", "\ufffd[31m"),
]


@pytest.mark.parametrize(("case", "status"), covering(SAID, [400, 404, 500]), ids=brief)
def test_whatever_chalk_says_is_in_the_message(case, status):
    body, said = case
    assert said in str(refused("trigger", answer(body, status)))


@pytest.mark.parametrize(
    ("body", "headers", "trace"),
    [
        ({"detail": "d", "trace": "t-body"}, {}, "t-body"),
        ({"detail": "d", "trace": "t-body"}, {"trace": "t-header"}, "t-body"),
        ({"detail": "d", "trace": None}, {"trace": "t-header"}, "t-header"),
        ({"detail": "d", "trace": 5}, {"trace": "t-header"}, "t-header"),
        ("<html></html>", {"trace": "t-header"}, "t-header"),
    ],
)
def test_the_trace_id_is_in_the_message(body, headers, trace):
    assert f"(trace {trace})" in str(refused("get", answer(body, 500, **headers)))


def test_without_a_trace_id_none_is_shown():
    assert "trace" not in str(refused("get", answer({"detail": "d"}, 500)))


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("call", ["trigger", "get"])
def test_a_refusal_names_the_environment_and_the_connection_to_check(call, status):
    message = str(refused(call, answer({"detail": "d"}, status), scope={"environment": "env-x"}))
    assert "(environment env-x)" in message
    assert "'chalk_default'" in message
    assert "Check the" in message


def test_an_error_names_the_run_or_the_resolver():
    assert "to run j-2qtwuxpskm2pbg:" in str(refused("get", answer({"detail": "d"}, 404)))
    assert "to starting resolver my.module.fn:" in str(refused("trigger", answer({"detail": "d"}, 400)))
    assert "to getting a token:" in str(refused("authenticate", answer({"detail": "d"}, 401)))


def test_a_long_complaint_is_cut():
    body = {"detail": "d" * 9000, "errors": [{"code": "C", "message": "m" * 9000}] * 50, "trace": "t" * 9000}
    assert len(str(refused("trigger", answer(body, 500)))) < 4000


PLANTED = [
    {"detail": f"secret {SECRET}, token {BEARER}"},
    {"detail": {"client_secret": SECRET}, "trace": BEARER},
    {"detail": "x" * 490 + SECRET},
    {"errors": [{"code": SECRET, "message": BEARER}]},
    {"token_type": SECRET, "refresh_token": "planted-unknown"},
    {"nested": {"access_token": "planted-unknown", "refresh_token": "planted-too"}},
    {"x" * 185: SECRET},
    [{"access_token": "planted-\\unknown"}],
    f"got {SECRET} and {BEARER}",
    "x" * 190 + SECRET,
    b'{"access_token": "planted-unk',
    {"id": SECRET, "status": ""},
]


# What a message shows depends on body and status together.
@pytest.mark.parametrize(
    ("call", "shown"), covering(CALLS, product(PLANTED, [200, 400, 401, 404, 500])), ids=brief
)
def test_no_message_shows_a_secret(call, shown):
    body, status = shown
    refused(call, answer(body, status))


@pytest.mark.parametrize("status", [400, 500])
def test_a_token_in_an_error_is_not_shown(status):
    message = str(refused("authenticate", answer(sample("chalk/token"), status)))
    assert '"access_token": "***"' in message


def test_half_a_secret_at_the_cut_is_not_shown_either():
    for start in range(170, 200):
        message = str(refused("get", answer("x" * start + SECRET, 500)))
        assert "planted" not in message


# Anything at all

FUZZ_BODIES = [
    {"id": "j-2qtwuxpskm2pbg", "status": "succeeded"},
    *(sample(f"chalk/{name}") for name in ("run", "token", "who_am_i", "error", "error_list")),
    {"detail": f"secret {SECRET}", "access_token": BEARER},
]
WORDS = ["succeeded", "SUCCEEDED", "received", "failed", "canceled", "j-2qtwuxpskm2pbg"]


@pytest.mark.no_cover  # three times as quick; other tests run each line
@fuzzed
@given(response=broken_answers(FUZZ_BODIES, WORDS))
@never_without("response", map(answer, FUZZ_BODIES))
def test_only_our_errors_come_out_and_success_only_where_it_is_said(response):
    for call in CALLS:
        note(call)
        takes(call, response)


def takes(call, response):
    """Hold what a call makes of an answer against what it says."""
    api = make_api()
    got = complains(lambda: exhaust(CALLS[call](api), [response]), SECRET, BEARER)
    if isinstance(got, RunsError):
        assert isinstance(got, ApiError)
        return
    assert 200 <= response.status < 300
    if isinstance(got, Run):
        got.id.encode(), got.status.encode(), got.url.encode()
        assert got.id and got.status == says(response, "status").encode("utf-8", "replace").decode()
        if got.state is RunState.SUCCEEDED:
            assert says(response, "status").lower() == "succeeded"
        if call == "get":
            assert got.id == "j-2qtwuxpskm2pbg"
    elif call == "check":
        assert says(response, "user")
    else:
        assert api.token.value == says(response, "access_token")
        assert 0 < api.token.lifetime < 1e9
