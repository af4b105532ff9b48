"""The requests and answers that Mage's documentation pages on pipeline runs and triggers show."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl, urlsplit

import pendulum
import pytest

from airflow_provider_runs.core.api import Token
from airflow_provider_runs.core.connection import read_settings
from airflow_provider_runs.core.run import RunState
from airflow_provider_runs.mage.api import MageRunApi
from tests.answers import answer
from tests.play import play

RUN = """
{
"backfill_id": null,
"block_runs": [
{
"block_uuid": "load_titanic",
"completed_at": "2023-02-16 06:40:49.769087+00:00",
"created_at": "2023-02-16 06:40:43.575738+00:00",
"id": 33,
"metrics": null,
"pipeline_run_id": 23,
"started_at": "2023-02-16 06:40:48.816197+00:00",
"status": "completed",
"updated_at": "2023-02-16 06:40:48.873526+00:00"
}
],
"block_runs_count": 4,
"completed_at": "2023-02-16 06:41:19.249956+00:00",
"created_at": "2023-02-16 06:40:38.681910+00:00",
"event_variables": null,
"execution_date": "2023-02-16 04:41:03.300124+00:00",
"id": 23,
"metrics": null,
"passed_sla": false,
"pipeline_schedule_id": 1,
"pipeline_schedule_name": "late forest",
"pipeline_schedule_token": "260385a38d62466fb1c88fa8c5ca503f",
"pipeline_schedule_type": "time",
"pipeline_uuid": "example_pipeline",
"status": "completed",
"updated_at": "2023-02-16 06:41:09.154102+00:00",
"variables": null
}
"""
# curl --request GET
LIST_URL = (
    "http://localhost:6789/api/pipeline_schedules/1/pipeline_runs"
    "?api_key=zkWlN0PkIKSN0C11CfUHUj84OT5XOJ6tDZ6bDRO2"
)
LIST_BEARER = "ZKXScwLKLZUujbw7vwMeWnhtTTSLqifw8_RnBHYipww"
LIST = """
{
"pipeline_runs": [
...
],
"metadata": {
"count": 22,
"next": false
}
}
"""
# curl --request POST
TRIGGER_URL = "http://localhost:6789/api/pipeline_schedules/71/pipeline_runs/4506463a01944ef492f70005996dac1a"
TRIGGER_DATA = """
{
"env": "dev",
"test": 1
}
"""
TRIGGER_ANSWER = """
{
"pipeline_run": {
"id": 1249,
"created_at": "2023-04-01 00:36:23.507282+00:00",
"updated_at": "2023-04-01 00:36:39.962084+00:00",
"pipeline_schedule_id": 71,
"pipeline_uuid": "example_pipeline",
"execution_date": "2023-04-01 00:36:39.904371+00:00",
"status": "running",
"completed_at": null,
"variables": {},
"passed_sla": false,
"event_variables": {
"env": "dev",
"test": 1
},
"metrics": null,
"backfill_id": null
}
}
"""


def make_api(**extra):
    settings = read_settings(
        MageRunApi.connection, conn_id="mage_default", host="localhost", port=6789, extra=extra
    )
    return MageRunApi(settings)


def trigger_with_the_documented_token(**extra):
    path, _, token = TRIGGER_URL.rpartition("/")
    arguments = {
        "pipeline_schedule_id": 71,
        "event_variables": json.loads(TRIGGER_DATA),
        "allow_inactive_trigger": True,
    }
    api = make_api(trigger_token=token, **extra)
    requests, run = play(api.trigger(arguments), answer(TRIGGER_ANSWER))
    return path, token, requests, run


def test_the_documented_trigger_request_is_sent_with_the_token_in_a_header():
    # Mage's other path for the same call keeps the token out of URLs and access logs.
    path, token, (request,), _ = trigger_with_the_documented_token()
    assert request.method == "POST"
    assert request.url == path.replace("/pipeline_runs", "/api_trigger")
    assert request.headers == {"Authorization": f"Bearer {token}"}
    assert token not in request.url


def test_the_documented_trigger_request_is_sent_as_it_stands_where_the_connection_says_so():
    _, token, (request,), run = trigger_with_the_documented_token(old_trigger_url=True)
    assert (request.method, request.target) == ("POST", TRIGGER_URL)
    assert request.json == json.loads(TRIGGER_DATA)
    assert request.headers == {} and not request.authenticated
    assert token not in f"{request!r} {request} {request.url} {run!r}"
    assert run.id == "1249"


def test_the_documented_trigger_payload_arrives_as_event_variables():
    # Mage takes bare keys as event variables, beside the run's own part.
    _, _, (request,), _ = trigger_with_the_documented_token()
    assert request.json == json.loads(TRIGGER_DATA) | {"pipeline_run": {"variables": {}}}


def test_the_documented_trigger_answer_is_a_run_that_goes():
    _, _, _, run = trigger_with_the_documented_token()
    assert (run.id, run.state, run.status) == ("1249", RunState.RUNNING, "running")
    assert run.url == "http://localhost:6789/pipelines/example_pipeline/runs/1249"
    assert (run.started_at, run.finished_at, run.message) == (None, None, None)


def test_the_documented_run_object_is_a_run_that_succeeded():
    _, run = play(make_api().get("23"), answer({"pipeline_run": json.loads(RUN), "metadata": None}))
    assert (run.id, run.state, run.status) == ("23", RunState.SUCCEEDED, "completed")
    assert run.url == "http://localhost:6789/pipelines/example_pipeline/runs/23"
    assert run.finished_at == pendulum.datetime(2023, 2, 16, 6, 41, 19, 249956)
    assert run.finished_at.timezone_name == "UTC"
    assert run.message is None


def test_the_documented_run_object_has_nothing_to_explain():
    _, said = play(make_api().explain("23"), answer({"pipeline_run": json.loads(RUN), "metadata": None}))
    assert said is None


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("initial", RunState.PENDING),
        ("running", RunState.RUNNING),
        ("completed", RunState.SUCCEEDED),
        ("failed", RunState.FAILED),
        ("cancelled", RunState.CANCELLED),
    ],
)
def test_every_documented_status_is_known(status, state):
    row = json.loads(RUN) | {"status": status}
    _, run = play(make_api().get("23"), answer({"pipeline_run": row}))
    assert (run.state, run.status) == (state, status)


def list_answer(*rows):
    return answer(LIST.replace("...", ",".join(rows)))


def test_the_documented_list_request_is_what_is_sent():
    api = make_api()
    api.token = Token(LIST_BEARER, 0, 0)
    (request,), _ = play(api.find_started({"pipeline_schedule_id": 1}, "key-1", 0), list_answer(RUN))
    documented = urlsplit(LIST_URL)
    sent = urlsplit(request.url)
    assert (request.method, sent.netloc, sent.path) == ("GET", documented.netloc, documented.path)
    # Key and token go in headers, where no log shows them.
    assert request.authenticated
    headers = api.auth_headers()
    assert headers["X-API-KEY"] == dict(parse_qsl(documented.query))["api_key"]
    assert headers["OAUTH-TOKEN"] == LIST_BEARER


def test_the_documented_list_answer_is_read():
    row = json.loads(RUN) | {"variables": {"airflow_run_key": "key-1"}}
    flow = make_api().find_started({"pipeline_schedule_id": 1}, "key-1", 0)
    (request,), run = play(flow, list_answer(RUN, json.dumps(row)))
    assert (run.id, run.state) == ("23", RunState.SUCCEEDED)
    # The documented paging parameters are the ones that page.
    assert request.params.keys() >= {"_limit", "_offset"}


def test_a_documented_run_without_our_marker_is_not_ours():
    flow = make_api().find_started({"pipeline_schedule_id": 1}, "key-1", 0)
    assert play(flow, list_answer(RUN))[1] is None
