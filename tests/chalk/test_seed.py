"""The requests and answers that Chalk's documentation page on triggered runs shows, in both its versions."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime

import pytest

from airflow_provider_runs.chalk.api import ChalkRunApi
from airflow_provider_runs.core.connection import read_settings
from airflow_provider_runs.core.run import RunState
from tests.answers import answer
from tests.play import play

TRIGGER = """
curl -XPOST -H "Authorization: Bearer $(chalk token)" \\
     -H "X-Chalk-Env-Id: <your-environment-id>" \\
     -H "Content-Type: application/json" \\
     https://api.chalk.ai/v1/runs/trigger \\
     -d '{ "resolver_fqn": "neobank.resolvers.offline_get_transactions" }'
"""
STATUS = """
curl -H "Authorization: Bearer $(chalk token)" \\
     -H "X-Chalk-Env-Id: <your-environment-id>" \\
     https://api.chalk.ai/v1/runs/{run_id}
"""
ANSWER = """
{
  "id": "<run-id>",
  "status": "succeeded"
}
"""
OUTPUT = """
ID:     j-2qtwuxpskm2pbg
Status: Received
URL:    https://chalk.ai/runs/j-2qtwuxpskm2pbg
"""
USER_TOKEN = "$(chalk token)"
RESOLVER = "neobank.resolvers.offline_get_transactions"


def read_curl(command):
    """Return method, URL, headers and body of a curl command."""
    words = iter(shlex.split(command.replace("\\\n", " "))[1:])
    method, url, headers, body = "GET", "", {}, None
    for word in words:
        if word == "-XPOST":
            method = "POST"
        elif word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name.lower()] = value
        elif word == "-d":
            body = json.loads(next(words))
        else:
            url = word
    return method, url, headers, body


@pytest.fixture
def api():
    extra = {"access_token": USER_TOKEN, "environment": "<your-environment-id>"}
    return ChalkRunApi(read_settings(ChalkRunApi.connection, conn_id="chalk_default", extra=extra))


def as_sent(api, request):
    """Return a request as the driver sends it: with the headers that authenticate."""
    headers = {**request.headers, **api.auth_headers()}
    return request.method, request.url, {name.lower(): value for name, value in headers.items()}, request.json


def test_the_documented_trigger_request_is_what_is_sent(api):
    method, url, headers, body = read_curl(TRIGGER)
    (request,), _ = play(api.trigger({"resolver_fqn": RESOLVER}), answer(ANSWER))
    sent = as_sent(api, request)
    assert sent[:2] == (method, url) == ("POST", "https://api.chalk.ai/v1/runs/trigger")
    assert sent[2] == headers
    # As Chalk's own client does, what is stored is said too; it is what Chalk does anyway.
    assert sent[3] == body | {
        "persistence_settings": {"persist_online_storage": True, "persist_offline_storage": True}
    }


def test_the_documented_trigger_answer_is_a_run_that_succeeded(api):
    _, run = play(api.trigger({"resolver_fqn": RESOLVER}), answer(ANSWER))
    assert (run.id, run.state, run.status) == ("<run-id>", RunState.SUCCEEDED, "succeeded")


def test_the_documented_status_request_is_what_is_sent(api):
    method, url, headers, body = read_curl(STATUS.replace("{run_id}", "j-2qtwuxpskm2pbg"))
    (request,), _ = play(
        api.get("j-2qtwuxpskm2pbg"), answer({"id": "j-2qtwuxpskm2pbg", "status": "received"})
    )
    sent = as_sent(api, request)
    assert sent[:2] == (method, url)
    assert sent[2] == headers | {"content-type": "application/json"}
    assert sent[3] is body is None


def test_the_documented_command_line_output_names_the_same_run(api):
    shown = dict(line.split(maxsplit=1) for line in OUTPUT.strip().splitlines())
    body = {"id": shown["ID:"], "status": shown["Status:"]}
    _, run = play(api.get(shown["ID:"]), answer(body))
    assert run.url == shown["URL:"]
    assert run.state is RunState.RUNNING


@pytest.mark.parametrize(
    ("status", "state", "ended"),
    [
        ("received", RunState.RUNNING, False),
        ("succeeded", RunState.SUCCEEDED, True),
        ("failed", RunState.FAILED, True),
    ],
)
def test_every_documented_status_is_known_from_both_calls(api, status, state, ended):
    body = {"id": "j-1", "status": status}
    _, started = play(api.trigger({"resolver_fqn": RESOLVER}), answer(body))
    _, asked = play(api.get("j-1"), answer(body))
    assert started == asked
    assert (asked.state, asked.state.is_terminal) == (state, ended)


def test_the_documented_request_fields_are_sent_as_documented(api):
    body = api.trigger_body(
        {
            "resolver_fqn": "neobank.resolvers.offline_get_transactions",
            "lower_bound": "2021-01-01T00:00:00Z",
            "upper_bound": "2023-01-02T00:00:00Z",
            "max_samples": 1000,
        },
        None,
    )
    assert body["resolver_fqn"] == "neobank.resolvers.offline_get_transactions"
    assert datetime.fromisoformat(body["lower_bound"]) == datetime(2021, 1, 1, tzinfo=UTC)
    assert datetime.fromisoformat(body["upper_bound"]) == datetime(2023, 1, 2, tzinfo=UTC)
    assert body["max_samples"] == 1000


def test_the_documented_client_call_can_be_made(api):
    body = api.trigger_body({"resolver_fqn": "load_user_data", "store_online": True}, None)
    assert body["resolver_fqn"] == "load_user_data"
    assert body["persistence_settings"]["persist_online_storage"] is True


def test_the_trigger_call_outlasts_the_documented_300_seconds(api):
    (request,), _ = play(api.trigger({"resolver_fqn": RESOLVER}), answer(ANSWER))
    assert request.timeout > 300
