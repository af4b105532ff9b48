"""Strait's connection, starts, cancels, replays and explanations, call by call."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from airflow_provider_runs.core.api import Unsure
from airflow_provider_runs.core.errors import ApiError, BadInput, ConnectionFailed, NotFound, is_permanent
from airflow_provider_runs.core.run import Run, RunState, moment
from airflow_provider_runs.strait import api as module
from airflow_provider_runs.strait import details
from airflow_provider_runs.strait.api import CONNECTION, StraitRunApi
from tests.answers import answer
from tests.covering import covering
from tests.play import play
from tests.strait.conftest import HOST, JOB, KEY, make_api, page, row

OTHER = "01900000-0000-7000-8000-000000000002"
STARTED = {"id": "r1", "status": "queued", "payload_hash": "ab", "idempotency_hit": False}
BUSY = answer({"error": {"code": "conflict", "message": "request is currently being processed"}}, 409)
CREATED = moment("2027-01-15T08:00:00.123456Z")
assert CREATED is not None
SINCE = CREATED.timestamp()


class TestConnection:
    def test_strait_cloud_is_the_default(self, api: StraitRunApi) -> None:
        assert api.settings.base_url == HOST
        assert api.auth_headers() == {"Authorization": f"Bearer {KEY}"}
        assert api.run_url("a/b") == "https://app.strait.dev/app/runs/a%2Fb"
        assert (api.max_requests_per_minute, api.proxy) == (90, None)
        assert api.takes_key and not api.authenticates()

    def test_a_server_of_ones_own_has_no_known_dashboard(self) -> None:
        assert make_api(host="http://localhost:8080").run_url("r1") is None
        api = make_api({"app_url": "http://localhost:5173/"}, host="http://localhost:8080")
        assert api.run_url("r1") == "http://localhost:5173/app/runs/r1"

    def test_every_field_is_read(self) -> None:
        api = make_api(
            {
                "project_id": "p1",
                "max_requests_per_minute": 30,
                "request_timeout": 5,
                "proxy": "me:p%40ss@proxy.example.com:3128",
            }
        )
        assert (api.project_id, api.max_requests_per_minute) == ("p1", 30)
        assert (api.request_timeout, api.proxy) == (5, "http://me:p%40ss@proxy.example.com:3128")
        assert api.redact(f"{KEY} p@ss p%40ss") == "*** *** ***"

    def test_the_project_of_a_task_goes_before_that_of_the_connection(self) -> None:
        assert make_api({"project_id": "p1"}, scope={"project_id": "p2"}).project_id == "p2"

    def test_a_bearer_that_has_no_project_is_sent_with_one(self) -> None:
        api = make_api({"project_id": "p1"}, password="an-internal-secret")
        assert api.auth_headers() == {"Authorization": "Bearer an-internal-secret", "X-Project-Id": "p1"}
        assert "X-Project-Id" not in make_api(password="an-internal-secret").auth_headers()

    @pytest.mark.parametrize(
        ("extra", "fields", "said"),
        [
            ({}, {"password": None}, "the API key is not set"),
            ({}, {"password": "strait_\u00e9"}, "the API key must be a text of printable ASCII"),
            ({"proxy": "ftp://p"}, {}, "field 'proxy' must be the URL of an HTTP proxy"),
            ({"proxy": "http://p:port"}, {}, "field 'proxy' must be the URL of an HTTP proxy"),
        ],
    )
    def test_what_cannot_work_is_refused(self, extra: Any, fields: Any, said: str) -> None:
        with pytest.raises(BadInput, match=f"'strait_default'.*{said}") as caught:
            make_api(extra, **fields)
        assert "strait_\u00e9" not in str(caught.value)

    def test_the_form_hides_what_is_secret(self) -> None:
        info = CONNECTION.provider_info("hook")
        assert info["connection-type"] == "strait" and info["hook-name"] == "Strait"
        assert info["conn-fields"]["proxy"]["schema"]["format"] == "password"
        assert "password" not in info["ui-field-behaviour"]["hidden-fields"]

    @pytest.mark.parametrize(
        ("extra", "listed", "said"),
        [
            ({}, page(row()), ", project project-1"),
            ({"project_id": "p1"}, page(), ", project p1"),
            ({}, [], ""),
        ],
    )
    def test_the_test_button_lists_one_run(self, extra: Any, listed: Any, said: str) -> None:
        (request,), text = play(make_api(extra).check(), answer(listed))
        assert (request.method, request.url) == ("GET", f"{HOST}/v1/runs")
        assert request.params == {"limit": "1", **extra}
        assert text == f"Connected to Strait at {HOST}{said}"


class TestStart:
    def test_the_least(self, api: StraitRunApi) -> None:
        (request,), run = play(api.trigger({"job_id": JOB}), answer(STARTED, 201))
        assert (request.method, request.url) == ("POST", f"{HOST}/v1/jobs/{JOB}/trigger")
        assert request.json == {"tags": {"airflow_provider_runs": "strait_default"}}
        assert not request.headers and not request.safe_to_repeat
        assert run == Run("r1", RunState.PENDING, "queued", f"{HOST.replace('api', 'app')}/app/runs/r1")

    def test_every_argument(self, api: StraitRunApi) -> None:
        arguments = {
            "job_id": JOB,
            "payload": {"day": "2027-01-15", "list": [1, None]},
            "tags": {"team": "a", "empty": ""},
            "scheduled_at": "2027-01-16T09:00:00+01:00",
            "priority": "10",
            "ttl_secs": 0,
            "concurrency_key": "c",
            "debounce_key": "d",
            "batch_key": "b",
        }
        (request,), _ = play(api.trigger(arguments, "key-1"), answer(STARTED, 201))
        assert request.json == {
            "payload": {"day": "2027-01-15", "list": [1, None]},
            "tags": {
                "team": "a",
                "empty": "",
                "airflow_provider_runs": "strait_default",
                "airflow_run_key": "key-1",
            },
            "scheduled_at": "2027-01-16T08:00:00+00:00",
            "priority": 10,
            "ttl_secs": 0,
            "concurrency_key": "c",
            "debounce_key": "d",
            "batch_key": "b",
        }
        assert request.headers == {"Idempotency-Key": "key-1"} and request.safe_to_repeat

    def test_the_users_own_key_goes_before_the_tasks(self, api: StraitRunApi) -> None:
        arguments = {"job_id": JOB, "idempotency_key": "mine"}
        (request,), _ = play(api.trigger(arguments, "key-1"), answer(STARTED))
        assert request.headers == {"Idempotency-Key": "mine"}
        assert request.json["tags"]["airflow_run_key"] == "mine"

    @pytest.mark.parametrize(
        ("payload", "sent"), [('{"a": 1}', {"a": 1}), ('"text"', "text"), ([1], [1]), (False, False)]
    )
    def test_a_payload_is_any_json(self, api: StraitRunApi, payload: Any, sent: Any) -> None:
        assert api.trigger_body({"job_id": JOB, "payload": payload}, None)["payload"] == sent

    def test_a_long_connection_id_is_cut(self) -> None:
        api = make_api()
        object.__setattr__(api.settings, "conn_id", "c" * 300)
        assert api.trigger_body({"job_id": JOB}, None)["tags"] == {"airflow_provider_runs": "c" * 256}

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"job_id": None}, "job_id must be a text"),
            ({"job_id": " "}, "job_id is empty"),
            ({"job": JOB}, "a Strait run has no job; it has job_id"),
            ({"payload": "{"}, "payload is no JSON"),
            ({"payload": {1, 2}}, "payload is no JSON: set cannot be written"),
            ({"payload": float("nan")}, "payload is no JSON"),
            ({"tags": ["a"]}, "tags must be a mapping"),
            ({"tags": {"airflow_run_key": "x"}}, "tags must not hold airflow_run_key"),
            ({"tags": {"airflow_provider_runs": "x"}}, "tags must not hold airflow_provider_runs"),
            ({"tags": {"a": 1}}, "tag 'a' must be a text of 256"),
            ({"tags": {"a": "x" * 257}}, "tag 'a' must be a text of 256"),
            ({"tags": {"": "x"}}, "the tag '' is empty"),
            ({"tags": {"k" * 65: "x"}}, "must have 64 characters at most, not 65"),
            (
                {"tags": {f"t{n}": "" for n in range(19)}},
                "tags must be 18 at most, beside two of our own, not 19",
            ),
            ({"scheduled_at": "soon"}, "scheduled_at must be a date and time"),
            ({"priority": 11}, "priority must be at most 10, not 11"),
            ({"priority": -1}, "priority must be at least 0"),
            ({"ttl_secs": 2592001}, "ttl_secs must be at most 2592000"),
            ({"concurrency_key": "x" * 257}, "concurrency_key must have 256 characters at most"),
            ({"debounce_key": ""}, "debounce_key is empty"),
            ({"batch_key": 5}, "batch_key must be a text"),
            ({"idempotency_key": "x" * 257}, "idempotency_key must have 256 characters at most, not 257"),
            ({"idempotency_key": ""}, "idempotency_key is empty"),
            ({"idempotency_key": "\u00e9"}, "idempotency_key must be a text of printable"),
            ({"allow_no_run_id": "maybe"}, "allow_no_run_id must be true or false"),
        ],
    )
    def test_bad_input_is_refused_before_anything_is_sent(
        self, api: StraitRunApi, arguments: Any, said: str
    ) -> None:
        for start in (api.trigger, api.dry_run):
            with pytest.raises(BadInput, match=said):
                play(start({"job_id": JOB, **arguments}))
        with pytest.raises(BadInput, match=said):
            api.prepare({"job_id": JOB, **arguments})

    @pytest.mark.parametrize(("status", "word"), covering([200, 201], ["queued", "delayed", "waiting"]))
    def test_a_fresh_start(self, api: StraitRunApi, status: int, word: str) -> None:
        _, run = play(api.trigger({"job_id": JOB}, "k"), answer({**STARTED, "status": word}, status))
        assert (run.state, run.status) == (RunState.PENDING, word)

    @pytest.mark.parametrize(
        "response",
        [
            answer(STARTED, 201, Idempotency_Replayed="true"),
            answer({"id": "r1", "status": "completed", "idempotency_hit": True}, 200),
        ],
    )
    def test_a_key_that_is_known_is_answered_by_the_run_of_now(
        self, api: StraitRunApi, response: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        response = type(response)(
            response.status, {name.lower(): value for name, value in response.headers.items()}, response.body
        )
        with caplog.at_level("INFO"):
            (_, look), run = play(api.trigger({"job_id": JOB}, "k"), response, answer(row("r1", "executing")))
        assert (look.method, look.url) == ("GET", f"{HOST}/v1/runs/r1")
        assert run.status == "executing"
        assert "Strait knew the key of this start already: run r1" in caplog.text

    def test_a_run_that_cannot_be_asked_about_is_not_lost(self, api: StraitRunApi) -> None:
        hit = answer({"id": "r1", "status": "queued", "idempotency_hit": True})
        _, run = play(api.trigger({"job_id": JOB}, "k"), hit, answer("", 503))
        assert (run.id, run.status) == ("r1", "queued")

    def test_while_a_start_is_under_way_it_is_repeated(self, api: StraitRunApi) -> None:
        requests, run = play(api.trigger({"job_id": JOB}, "k"), BUSY, BUSY, answer(STARTED, 201))
        assert [request.delay for request in requests] == [0, 1, 2] and run.id == "r1"
        assert len({(request.url, request.headers["Idempotency-Key"]) for request in requests}) == 1

    def test_a_start_that_stays_under_way_is_left_to_a_later_try(self, api: StraitRunApi) -> None:
        with pytest.raises(ApiError, match="being processed") as caught:
            play(api.trigger({"job_id": JOB}, "k"), *[BUSY] * 6)
        assert not is_permanent(caught.value)
        # For longer than Strait may take for a request.
        assert sum(module.BUSY_DELAYS) > 30

    def test_a_job_that_is_paused_is_a_refusal(self, api: StraitRunApi) -> None:
        paused = answer({"error": {"code": "conflict", "message": "job is paused"}}, 409)
        with pytest.raises(ApiError, match=r"starting job .*job is paused") as caught:
            play(api.trigger({"job_id": JOB}, "k"), paused)
        assert is_permanent(caught.value)

    def test_without_a_key_nothing_is_repeated(self, api: StraitRunApi) -> None:
        with pytest.raises(ApiError, match="being processed"):
            play(api.trigger({"job_id": JOB}), BUSY)

    @pytest.mark.parametrize(
        ("body", "word", "said"),
        [
            (
                {"debounced": True, "fire_at": "2027-01-15T08:00:05Z"},
                "debounced",
                "debounced until 2027-01-15T08:00:05Z",
            ),
            ({"buffered": True}, "buffered", "buffered"),
        ],
    )
    def test_a_start_that_is_gathered_has_no_id(
        self, api: StraitRunApi, body: Any, word: str, said: str
    ) -> None:
        with pytest.raises(ApiError, match=f"but it is {said}: .*allow_no_run_id=True") as caught:
            play(api.trigger({"job_id": JOB}, "k"), answer(body, 201))
        assert is_permanent(caught.value)
        _, run = play(api.trigger({"job_id": JOB, "allow_no_run_id": True}, "k"), answer(body, 201))
        assert run == Run("", RunState.PENDING, word, message=said)

    def test_a_batch_that_is_full_has_an_id(self, api: StraitRunApi) -> None:
        _, run = play(
            api.trigger({"job_id": JOB}), answer({"id": "r2", "status": "queued", "batch": True}, 201)
        )
        assert run.id == "r2"

    @pytest.mark.parametrize(
        "body", [{}, {"id": "", "status": "queued"}, {"id": "r1"}, {"id": 5, "status": "x"}]
    )
    def test_an_answer_without_a_run_is_not_taken_for_one(self, api: StraitRunApi, body: Any) -> None:
        with pytest.raises(ApiError, match="without") as caught:
            play(api.trigger({"job_id": JOB, "allow_no_run_id": True}), answer(body, 201))
        assert not is_permanent(caught.value)

    def test_a_request_that_may_be_too_long_is_told_so(self, api: StraitRunApi) -> None:
        refused = answer({"error": {"code": "bad_request", "message": "invalid request body"}}, 400)
        long = {"job_id": JOB, "payload": ["x" * 2**20]}
        with pytest.raises(ApiError, match=r"invalid request body\. The request had 10\d{5} bytes; Strait"):
            play(api.trigger(long), refused)
        with pytest.raises(ApiError, match=r"invalid request body$"):
            play(api.trigger({"job_id": JOB}), refused)

    def test_a_dry_run_starts_nothing(self, api: StraitRunApi) -> None:
        told = {
            "job": {"id": JOB, "slug": "daily"},
            "payload_hash": "ab",
            "expires_at": "2027-01-15T09:00:00Z",
        }
        (request,), result = play(api.dry_run({"job_id": JOB, "payload": [1]}), answer(told))
        assert request.url == f"{HOST}/v1/jobs/{JOB}/trigger"
        assert request.json == {
            "payload": [1],
            "dry_run": True,
            "tags": {"airflow_provider_runs": "strait_default"},
        }
        assert not request.headers and request.safe_to_repeat and result == told


class TestJobs:
    FOUND: ClassVar[dict[str, Any]] = {"id": JOB, "slug": "daily", "created_at": "2027-01-01T00:00:00Z"}

    def test_a_slug_is_looked_up(self) -> None:
        api = make_api({"project_id": "p1"})
        (look, start), _ = play(
            api.trigger({"job_id": "daily"}), answer(page(self.FOUND)), answer(STARTED, 201)
        )
        assert (look.method, look.url) == ("GET", f"{HOST}/v1/jobs")
        assert look.params == {"slug": "daily", "limit": "100", "project_id": "p1"}
        assert start.url == f"{HOST}/v1/jobs/{JOB}/trigger"

    def test_before_a_start_it_is_looked_up_once(self, api: StraitRunApi) -> None:
        requests, _ = play(api.ready({"job_id": "daily"}), answer(page(self.FOUND)))
        assert len(requests) == 1
        (start,), _ = play(api.trigger({"job_id": "daily"}), answer(STARTED, 201))
        assert start.url.endswith(f"/{JOB}/trigger")
        # Another job may have the slug by now.
        requests, _ = play(api.trigger({"job_id": "daily"}), answer(page(self.FOUND)), answer(STARTED, 201))
        assert len(requests) == 2

    def test_an_id_is_taken_as_it_is(self, api: StraitRunApi) -> None:
        with pytest.raises(AssertionError, match="1 answers were not asked for"):
            play(api.ready({"job_id": JOB}), answer(page()))

    @pytest.mark.parametrize(
        "response",
        [
            answer(page()),
            answer([]),
            answer({"error": {"code": "forbidden", "message": "requires jobs:read"}}, 403),
            answer("404 page not found", 404),
        ],
    )
    def test_what_is_no_slug_may_be_an_id(self, api: StraitRunApi, response: Any) -> None:
        (_, start), _ = play(api.trigger({"job_id": "a b"}), response, answer(STARTED, 201))
        assert start.url == f"{HOST}/v1/jobs/a%20b/trigger"

    @pytest.mark.parametrize("status", [401, 429, 503])
    def test_a_job_that_cannot_be_looked_up_now_is_not_guessed(self, api: StraitRunApi, status: int) -> None:
        with pytest.raises(ApiError, match=f"answered {status} to looking for job 'daily'"):
            play(api.ready({"job_id": "daily"}), answer("", status))

    def test_an_older_server_lists_all_jobs(self, api: StraitRunApi) -> None:
        other = {"id": OTHER, "slug": "other", "created_at": "2027-01-02T00:00:00Z"}
        _, job = play(api.get_job("daily"), answer([other, self.FOUND]))
        assert job == self.FOUND

    def test_a_job_by_its_id(self, api: StraitRunApi) -> None:
        (request,), job = play(api.get_job(JOB), answer(self.FOUND))
        assert request.url == f"{HOST}/v1/jobs/{JOB}" and job == self.FOUND

    def test_a_job_that_is_not_there(self, api: StraitRunApi) -> None:
        with pytest.raises(NotFound, match="job 'nope'"):
            play(api.get_job("nope"), answer(page()), answer({"error": {"message": "job not found"}}, 404))

    @pytest.mark.parametrize("job", ["", ".", "..", None])
    def test_what_can_be_no_job_is_refused(self, api: StraitRunApi, job: Any) -> None:
        with pytest.raises(BadInput):
            play(api.get_job(job), *([answer(page())] if job and job.startswith(".") else []))


class TestGet:
    @pytest.mark.parametrize(
        ("word", "state"),
        [
            ("delayed", RunState.PENDING),
            ("queued", RunState.PENDING),
            ("dequeued", RunState.PENDING),
            ("executing", RunState.RUNNING),
            ("waiting", RunState.PENDING),
            ("completed", RunState.SUCCEEDED),
            ("failed", RunState.FAILED),
            ("timed_out", RunState.FAILED),
            ("crashed", RunState.FAILED),
            ("system_failed", RunState.FAILED),
            ("canceled", RunState.CANCELLED),
            ("expired", RunState.FAILED),
            ("replay_staged", RunState.PENDING),
            ("paused", RunState.RUNNING),
            ("resting", RunState.UNKNOWN),
        ],
    )
    def test_every_status(self, api: StraitRunApi, word: str, state: RunState) -> None:
        (request,), run = play(api.get("r1"), answer(row("r1", word)))
        assert (run.id, run.status, run.state) == ("r1", word, state)
        assert request.safe_to_repeat and not request.params

    def test_times_may_have_nanoseconds(self, api: StraitRunApi) -> None:
        times = {
            "created_at": "2027-01-15T08:00:00.123456789Z",
            "started_at": "2027-01-15T08:00:01Z",
            "finished_at": "2027-01-15T10:00:02.5+02:00",
        }
        _, run = play(api.get("r1"), answer(row("r1", "completed", **times)))
        assert run.created_at == moment("2027-01-15T08:00:00.123456Z")
        assert run.started_at == moment("2027-01-15T08:00:01Z")
        assert run.finished_at == moment("2027-01-15T08:00:02.500000Z")

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({}, None),
            ({"error": "endpoint\nreturned 500", "error_class": "server"}, "endpoint returned 500 (server)"),
            ({"error": "no", "error_class": 5}, "no"),
            ({"error": {"odd": 1}}, None),
        ],
    )
    def test_the_error_is_the_message(self, api: StraitRunApi, fields: Any, message: str | None) -> None:
        _, run = play(api.get("r1"), answer(row("r1", "failed", **fields)))
        assert run.message == message

    def test_another_run_is_not_taken_for_the_one_that_was_asked_for(self, api: StraitRunApi) -> None:
        with pytest.raises(ApiError, match="run r1 with another run"):
            play(api.get("r1"), answer(row("r2")))

    @pytest.mark.parametrize("run_id", ["", " ", "..", ".", None, "None"])
    def test_what_can_be_no_id_is_refused(self, api: StraitRunApi, run_id: Any) -> None:
        for call in (api.get, api.cancel, api.pause, api.replay, api.list_events, api.get_debug_bundle):
            with pytest.raises(BadInput):
                play(call(run_id))

    def test_an_id_stays_one_segment(self, api: StraitRunApi) -> None:
        (request,), _ = play(api.pause("a/../b?c"), answer(row("a/../b?c")))
        assert request.url == f"{HOST}/v1/runs/a%2F..%2Fb%3Fc/pause"

    def test_a_dead_letter_is_confirmed_by_the_list(self, api: StraitRunApi) -> None:
        dead = row("r1", "dead_letter", finished_at="2027-01-15T08:01:00Z")
        again = row("r1", "executing")
        (_, look), run = play(api.get("r1"), answer(dead), answer(page(row("r0"), again)))
        assert look.url == f"{HOST}/v1/runs"
        assert look.params == {"limit": "20", "cursor": "2027-01-15T08:00:00.123457Z"}
        assert run.status == "executing"
        _, details = play(api.get_details("r1"), answer(dead), answer(page(again)))
        assert details == again

    @pytest.mark.parametrize("response", [answer(page()), answer([]), answer("", 400)])
    def test_a_dead_letter_that_is_not_listed_is_one(self, api: StraitRunApi, response: Any) -> None:
        _, run = play(api.get("r1"), answer(row("r1", "dead_letter")), response)
        assert (run.status, run.state) == ("dead_letter", RunState.FAILED)

    def test_a_dead_letter_that_cannot_be_confirmed_now_is_no_verdict(self, api: StraitRunApi) -> None:
        with pytest.raises(ApiError, match="answered 429"):
            play(api.get("r1"), answer(row("r1", "dead_letter")), answer("", 429))

    def test_a_dead_letter_of_a_batch_is_looked_for_among_all_of_its_moment(self, api: StraitRunApi) -> None:
        dead = row("r1", "dead_letter", batch_id="b1")
        batch = [row(f"x{number}", batch_id="b1") for number in range(99)]
        listed = answer(page(*batch, row("r1", "queued", batch_id="b1")))
        (_, look), run = play(api.get("r1"), answer(dead), listed)
        assert look.params == {"batch_id": "b1", "limit": "100", "cursor": "2027-01-15T08:00:00.123457Z"}
        assert run.status == "queued"

    def test_a_dead_letter_without_a_date_is_taken_for_one(self, api: StraitRunApi) -> None:
        dead = row("r1", "dead_letter")
        del dead["created_at"]
        _, run = play(api.get("r1"), answer(dead))
        assert run.state is RunState.FAILED


class TestCancel:
    def test_a_run_that_goes(self, api: StraitRunApi) -> None:
        for good in (answer(""), answer("", 204), answer(row("r1", "canceled"))):
            (request,), result = play(api.cancel("r1"), good)
            assert (request.method, request.safe_to_repeat, result) == ("DELETE", True, None)

    @pytest.mark.parametrize("status", [400, 409])
    def test_a_run_that_has_ended(self, api: StraitRunApi, status: int) -> None:
        play(
            api.cancel("r1"),
            answer({"error": "run already in terminal state"}, status),
            answer(row("r1", "failed")),
        )

    def test_a_run_that_a_copy_takes_for_ended(self, api: StraitRunApi) -> None:
        """Such a run was a dead letter a moment ago. Where many are cancelled, no copy is asked."""
        refused = answer({"error": "run already in terminal state"}, 400)
        canceled = {"results": [{"id": "r1", "status": "canceled"}], "total": 1, "canceled": 1, "failed": 0}
        requests, _ = play(
            api.cancel("r1"),
            refused,
            answer(row("r1", "dead_letter")),
            answer(page(row("r1", "queued"))),
            answer(canceled),
        )
        assert requests[-1].url == f"{HOST}/v1/runs/bulk-cancel"
        assert requests[-1].json == {"run_ids": ["r1"]}

    def test_a_run_that_goes_and_cannot_be_cancelled(self, api: StraitRunApi) -> None:
        refused = answer({"error": "status has moved"}, 409)
        failed = answer(
            {"results": [{"id": "r1", "status": "failed"}], "total": 1, "canceled": 0, "failed": 1}
        )
        with pytest.raises(ApiError, match="cancelling run r1: status has moved") as caught:
            play(api.cancel("r1"), refused, answer(row()), failed, answer(row()))
        assert not is_permanent(caught.value)
        # It may have ended meanwhile.
        play(api.cancel("r1"), refused, answer(row()), failed, answer(row("r1", "completed")))

    def test_a_run_that_is_not_there(self, api: StraitRunApi) -> None:
        with pytest.raises(NotFound):
            play(api.cancel("r1"), answer({"error": "run not found"}, 404))

    def test_many_are_cancelled_by_the_hundred(self, api: StraitRunApi) -> None:
        ids = [f"r{number}" for number in range(150)]
        answers = [
            answer({"results": [{"id": ids[0]}], "total": 100, "canceled": 99, "failed": 1}),
            answer({"results": [{"id": ids[100]}], "total": 50, "canceled": 50, "failed": 0}),
        ]
        requests, result = play(api.bulk_cancel(ids), *answers)
        assert [len(request.json["run_ids"]) for request in requests] == [100, 50]
        assert [run_id for request in requests for run_id in request.json["run_ids"]] == ids
        assert result == {
            "results": [{"id": "r0"}, {"id": "r100"}],
            "total": 150,
            "canceled": 149,
            "failed": 1,
        }

    @pytest.mark.parametrize("ids", [[], None, "r1", [""], [5], {"a": 1}])
    def test_bad_lists_of_ids_are_refused(self, api: StraitRunApi, ids: Any) -> None:
        for call in (api.bulk_cancel, api.bulk_replay):
            with pytest.raises(BadInput, match="run_ids"):
                play(call(ids))

    def test_ids_may_be_json_text(self, api: StraitRunApi) -> None:
        (request,), _ = play(api.bulk_replay('["r1"]'), answer({"results": []}))
        assert request.json == {"run_ids": ["r1"]}

    def test_by_filters(self) -> None:
        api = make_api({"project_id": "p1"})
        filters = {"job_id": JOB, "batch_id": "b", "triggered_by": "manual", "status": "queued"}
        (request,), result = play(api.bulk_cancel_all(filters), answer({"canceled": 0, "run_ids": None}))
        assert request.json == filters and request.params == {"project_id": "p1"}
        assert result == {"canceled": 0, "run_ids": [], "failed": []}
        seed = {
            "results": [{"id": "a"}, {"id": "b", "error": "no"}, 5],
            "total": 2,
            "canceled": 1,
            "failed": 1,
        }
        _, result = play(api.bulk_cancel_all({"status": "queued"}), answer(seed))
        assert result == {"canceled": 1, "run_ids": ["a"], "failed": [{"id": "b", "error": "no"}]}

    def test_by_the_slug_of_a_job(self, api: StraitRunApi) -> None:
        (_, request), _ = play(
            api.bulk_cancel_all({"job_id": "daily"}),
            answer(page(TestJobs.FOUND)),
            answer({"canceled": 1, "run_ids": ["r1"]}),
        )
        assert request.json == {"job_id": JOB}

    @pytest.mark.parametrize("filters", [{}, {"status": None}, {"tag": "x"}, {"job_id": ""}])
    def test_without_a_filter_nothing_is_cancelled(self, api: StraitRunApi, filters: Any) -> None:
        with pytest.raises(BadInput):
            play(api.bulk_cancel_all(filters))


class TestReplay:
    @pytest.mark.parametrize("word", ["failed", "timed_out", "crashed", "system_failed"])
    def test_a_failed_run_is_replayed_as_a_new_one(self, api: StraitRunApi, word: str) -> None:
        (_, request), run = play(
            api.retry("r1", {"from_checkpoint": "3"}),
            answer(row("r1", word)),
            answer(row("r2", "queued"), 201),
        )
        assert (request.method, request.url) == ("POST", f"{HOST}/v1/runs/r1/replay")
        assert request.params == {"from_checkpoint": "3"} and request.json is None
        assert not request.safe_to_repeat and run.id == "r2"

    def test_a_dead_letter_goes_on_under_its_id(self, api: StraitRunApi) -> None:
        dead = row("r1", "dead_letter")
        (_, _, request), run = play(
            api.retry("r1", {}), answer(dead), answer(page(dead)), answer(row("r1", "queued"))
        )
        assert request.url == f"{HOST}/v1/runs/r1/dlq-replay" and not request.safe_to_repeat
        assert (run.id, run.status) == ("r1", "queued")

    @pytest.mark.parametrize(
        ("word", "said"),
        [
            ("executing", "it is executing; only an ended run"),
            ("paused", "it is paused; only an ended run"),
            ("resting", "it is resting; only an ended run"),
            ("completed", "it is completed, and Strait replays only .* Start the job anew"),
            ("canceled", "it is canceled, and Strait replays only"),
            ("expired", "it is expired, and Strait replays only"),
        ],
    )
    def test_what_strait_would_not_replay_is_refused(self, api: StraitRunApi, word: str, said: str) -> None:
        for call in (api.check_retry, api.retry):
            with pytest.raises(ApiError, match=f"run r1 is not replayed: {said}") as caught:
                play(call("r1", {}), answer(row("r1", word)))
            assert is_permanent(caught.value)

    def test_a_dead_letter_has_no_checkpoint_to_go_on_from(self, api: StraitRunApi) -> None:
        dead = answer(row("r1", "dead_letter"))
        with pytest.raises(ApiError, match="Replay it without from_checkpoint"):
            play(api.check_retry("r1", {"from_checkpoint": 1}), dead, answer(page()))
        play(api.check_retry("r1", {}), dead, answer(page()))

    @pytest.mark.parametrize(
        ("run_id", "arguments"),
        [("", {}), ("r1", {"from_checkpoint": 0}), ("r1", {"from_checkpoint": "x"}), ("r1", {"all": True})],
    )
    def test_bad_input_is_refused(self, api: StraitRunApi, run_id: str, arguments: Any) -> None:
        with pytest.raises(BadInput):
            api.prepare_retry(run_id, arguments)
        with pytest.raises(BadInput):
            play(api.retry(run_id, arguments))
        assert api.retry_arguments({"job_id": JOB}) == {}

    def test_many_dead_letters(self, api: StraitRunApi) -> None:
        (request,), runs = play(
            api.bulk_dlq_replay(project_id="p1", limit=5),
            answer({"replayed": [row("r1", "queued")], "count": 1}),
        )
        assert request.json == {"project_id": "p1", "limit": 5} and [run.id for run in runs] == ["r1"]

    @pytest.mark.parametrize(
        "given",
        [
            {},
            {"run_ids": ["a"], "project_id": "p"},
            {"run_ids": ["a"], "limit": 1},
            {"run_ids": ["a"] * 501},
            {"run_ids": []},
            {"project_id": ""},
            {"project_id": "p", "limit": 501},
            {"project_id": "p", "limit": 0},
        ],
    )
    def test_bad_calls_for_many_dead_letters_are_refused(self, api: StraitRunApi, given: Any) -> None:
        with pytest.raises(BadInput):
            play(api.bulk_dlq_replay(**given))

    def test_no_more_than_a_hundred_are_replayed_at_once(self, api: StraitRunApi) -> None:
        with pytest.raises(BadInput, match="100 at most, not 101"):
            play(api.bulk_replay(["a"] * 101))


class TestFindReplay:
    """The answer to a replay was lost."""

    OLD: ClassVar[dict[str, Any]] = row(
        "r1", "failed", finished_at="2027-01-15T07:00:00Z", payload={"a": 1}, tags={"airflow_run_key": "k"}
    )
    FOREIGN: ClassVar[dict[str, Any]] = {**OLD, "tags": {"team": "a"}}

    def created(self, seconds: float) -> str:
        assert CREATED is not None
        return CREATED.add(seconds=seconds).isoformat()

    def replayed(self, run_id: str, seconds: float, **fields: Any) -> dict[str, Any]:
        return {**self.OLD, "id": run_id, "status": "queued", "created_at": self.created(seconds), **fields}

    def test_by_the_key_that_strait_copies(self, api: StraitRunApi) -> None:
        listed = page(
            self.replayed("r3", 9),
            self.replayed("r2", 5, payload={"state": 1}),
            {**self.OLD, "idempotency_key": "k", "created_at": self.created(-7200)},
        )
        (_, look), run = play(api.find_retried("r1", {}, SINCE), answer(self.OLD), answer(listed))
        assert look.params == {"tag_key": "airflow_run_key", "tag_value": "k", "limit": "100"}
        assert run is not None and run.id == "r3"

    @pytest.mark.parametrize(
        "fields",
        [
            {"idempotency_key": "other"},
            {"tags": {"airflow_run_key": "x"}},
            {"tags": None},
            {"job_id": OTHER},
            {"id": "r1"},
        ],
    )
    def test_other_runs_are_none(self, api: StraitRunApi, fields: Any) -> None:
        listed = page({**self.replayed("r2", 5), **fields}, self.replayed("r0", -100_000))
        _, run = play(api.find_retried("r1", {}, SINCE), answer(self.OLD), answer(listed))
        assert run is None

    def test_one_that_may_be_older_is_not_sure(self, api: StraitRunApi) -> None:
        listed = answer(page(self.replayed("r2", -10)))
        with pytest.raises(Unsure, match=r"run r1 may have been replayed.*: r2 \(queued\)") as caught:
            play(api.find_retried("r1", {}, SINCE), answer(self.OLD), listed)
        assert [run.id for run in caught.value.runs] == ["r2"]

    KNOWN: ClassVar[dict[str, Any]] = {"finished_at": 1800000000.0, "replays": ["r2"]}

    @pytest.mark.parametrize("ahead", [0.0, 400.0, 4000.0])
    def test_by_what_there_was_before_whatever_the_workers_clock_said(
        self, api: StraitRunApi, ahead: float
    ) -> None:
        listed = page(self.replayed("r3", 9), self.replayed("r2", 5))
        asked = api.find_retried("r1", {}, SINCE + ahead, self.KNOWN)
        _, run = play(asked, answer(self.OLD), answer(listed))
        assert run is not None and run.id == "r3"

    def test_a_run_from_before_its_end_is_no_replay_of_it(self, api: StraitRunApi) -> None:
        """One that was itself replayed has an older sibling with the same tags."""
        sibling = {**self.replayed("r0", 0), "created_at": "2027-01-15T06:59:00Z", "status": "completed"}
        known = {"finished_at": 1800000000.0, "replays": []}
        ended = {**self.OLD, "finished_at": "2027-01-15T08:00:00Z"}
        asked = api.find_retried("r1", {}, SINCE, known)
        _, run = play(asked, answer(ended), answer(page(sibling)))
        assert run is None

    def test_what_a_replay_can_be_told_by_is_read_before_it_is_sent(self, api: StraitRunApi) -> None:
        listed = page(self.replayed("r2", 5))
        (_, look), known = play(api.check_retry("r1", {}), answer(self.OLD), answer(listed))
        assert look.params["tag_value"] == "k" and known["replays"] == ["r2"]

    def test_a_run_that_somebody_else_started(self, api: StraitRunApi) -> None:
        found = self.replayed("r2", 5, tags={"team": "a"})
        strangers = [
            self.replayed("r5", 6, tags={"team": "a"}, idempotency_key="x"),
            self.replayed("r6", 6, tags={"team": "b"}),
            self.replayed("r7", 6, tags={"team": "a"}, payload={"a": 2}),
            self.replayed("r8", 6, tags={"team": "a", "airflow_run_key": "k"}),
        ]
        with pytest.raises(Unsure) as caught:
            play(api.find_retried("r1", {}, SINCE), answer(self.FOREIGN), answer(page(*strangers, found)))
        assert [run.id for run in caught.value.runs] == ["r2"]
        _, run = play(api.find_retried("r1", {}, SINCE), answer(self.FOREIGN), answer(page(*strangers)))
        assert run is None

    def test_from_a_checkpoint_it_has_another_payload(self, api: StraitRunApi) -> None:
        found = self.replayed("r2", 5, tags={"team": "a"}, payload={"state": 1})
        with pytest.raises(Unsure):
            play(
                api.find_retried("r1", {"from_checkpoint": 1}, SINCE),
                answer(self.FOREIGN),
                answer(page(found)),
            )

    def test_of_two_that_may_be_it_none_is_chosen(self, api: StraitRunApi) -> None:
        both = page(*(self.replayed(name, 5, tags={"team": "a"}) for name in ("r2", "r3")))
        with pytest.raises(Unsure) as caught:
            play(api.find_retried("r1", {}, SINCE), answer(self.FOREIGN), answer(both))
        assert [run.id for run in caught.value.runs] == ["r2", "r3"]

    def test_a_dead_letter_that_goes_again(self, api: StraitRunApi) -> None:
        dead = row("r1", "dead_letter", finished_at="2027-01-15T07:00:00Z")
        _, run = play(api.find_retried("r1", {}, SINCE), answer(dead), answer(page(row("r1", "executing"))))
        assert run is not None and run.status == "executing"

    @pytest.mark.parametrize("word", ["completed", "canceled", "expired"])
    def test_a_dead_letter_that_has_gone_again(self, api: StraitRunApi, word: str) -> None:
        _, run = play(api.find_retried("r1", {}, SINCE), answer(row("r1", word)))
        assert run is not None and run.status == word

    @pytest.mark.parametrize("word", ["dead_letter", "failed"])
    def test_one_that_has_failed_again(self, api: StraitRunApi, word: str) -> None:
        ended = row("r1", word, finished_at="2027-01-15T09:00:00Z")
        # The list confirms a dead letter; of one that has failed it tells that nothing followed.
        _, run = play(api.find_retried("r1", {}, SINCE), answer(ended), answer(page(ended)))
        assert run is not None and run.status == word

    def test_a_clock_of_strait_that_is_ahead_does_not_hide_the_replay(self, api: StraitRunApi) -> None:
        ended = {**self.OLD, "finished_at": self.created(30)}
        listed = page(self.replayed("r2", 40))
        _, run = play(api.find_retried("r1", {}, SINCE), answer(ended), answer(listed))
        assert run is not None and run.id == "r2"

    @pytest.mark.parametrize("finished", [{}, {"finished_at": "2027-01-15T07:00:00Z"}])
    def test_a_dead_letter_that_was_not_replayed(self, api: StraitRunApi, finished: Any) -> None:
        dead = row("r1", "dead_letter", **finished)
        _, run = play(api.find_retried("r1", {}, SINCE), answer(dead), answer(page(dead)))
        assert run is None

    def test_runs_without_a_date_are_taken_for_new(self, api: StraitRunApi) -> None:
        listed = page({**self.replayed("r2", 5), "created_at": None})
        _, run = play(api.find_retried("r1", {}, SINCE), answer(self.OLD), answer(listed))
        assert run is not None and run.id == "r2"


class TestChange:
    def test_a_run_is_rescheduled_with_another_payload(self, api: StraitRunApi) -> None:
        (request,), _ = play(
            api.reschedule("r1", "2027-01-16T09:00:00Z", '{"a": 1}'), answer(row("r1", "delayed"))
        )
        assert request.json == {"scheduled_at": "2027-01-16T09:00:00+00:00", "payload": {"a": 1}}
        assert request.safe_to_repeat

    def test_without_a_time_nothing_is_rescheduled(self, api: StraitRunApi) -> None:
        for when in (None, "", "soon"):
            with pytest.raises(BadInput, match="scheduled_at"):
                play(api.reschedule("r1", when))

    def test_the_debug_mode_is_switched(self, api: StraitRunApi) -> None:
        for on in (True, False):
            (request,), _ = play(api.set_debug_mode("r1", on), answer(""))
            assert request.json == {"debug_mode": on}
        with pytest.raises(BadInput):
            play(api.set_debug_mode("r1", "maybe"))  # type: ignore[arg-type]

    def test_a_restart_may_name_a_machine(self, api: StraitRunApi) -> None:
        (request,), _ = play(api.restart("r1", "large"), answer(row("r1", "queued")))
        assert request.json == {"machine_preset": "large"} and not request.safe_to_repeat
        with pytest.raises(BadInput):
            play(api.restart("r1", ""))

    def test_a_resume_is_not_repeated(self, api: StraitRunApi) -> None:
        (request,), _ = play(api.resume("r1"), answer(row("r1", "queued")))
        assert not request.safe_to_repeat

    def test_events_are_filtered(self, api: StraitRunApi) -> None:
        (request,), _ = play(api.list_events("r1", level="error", type="log"), answer(page()))
        assert request.params == {"level": "error", "type": "log", "limit": "100"}
        with pytest.raises(BadInput):
            play(api.list_events("r1", level=""))

    @pytest.mark.parametrize("call", ["list_usage", "list_tool_calls"])
    def test_of_a_run_that_is_not_there_nothing_is_told(self, api: StraitRunApi, call: str) -> None:
        gone = answer({"error": {"message": "run not found"}}, 404)
        with pytest.raises(NotFound, match="run r1: run not found"):
            play(getattr(api, call)("r1"), gone, gone)


class TestExplain:
    FAILED: ClassVar[dict[str, Any]] = row("r1", "timed_out", error="too slow")

    @pytest.fixture(autouse=True)
    def told(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """Return what the words were made of."""
        seen: list[Any] = []

        def reason(run: Any, events: Any, bundle: Any, redact: Any) -> str | None:
            seen.append((run, events, bundle))
            return None if len(seen) > 1 else redact(f"because of {KEY}")

        monkeypatch.setattr(details, "reason", reason)
        return seen

    def test_by_the_events_of_the_error(self, api: StraitRunApi, told: list[Any]) -> None:
        (_, look), text = play(
            api.explain("r1"), answer(self.FAILED), answer(page({"id": "e1", "level": "error"}))
        )
        assert look.url == f"{HOST}/v1/runs/r1/events" and look.params["level"] == "error"
        assert told == [(self.FAILED, [{"id": "e1", "level": "error"}], None)]
        assert text == "because of ***"

    @pytest.mark.parametrize("events", [[], [{"id": f"e{number}"} for number in range(100)]])
    def test_by_the_debug_bundle_where_they_do_not_tell(
        self, api: StraitRunApi, told: list[Any], events: list[Any]
    ) -> None:
        bundle = {"run": self.FAILED, "events": []}
        (_, _, look), _ = play(api.explain("r1"), answer(self.FAILED), answer(page(*events)), answer(bundle))
        assert look.url == f"{HOST}/v1/runs/r1/debug-bundle"
        assert told == [(self.FAILED, events, bundle)]

    @pytest.mark.parametrize("problem", [answer("", 500), answer("", 403), ConnectionFailed("x", sent=True)])
    def test_nothing_hides_what_is_known(self, api: StraitRunApi, told: list[Any], problem: Any) -> None:
        play(api.explain("r1"), answer(self.FAILED), problem, problem)
        assert told == [(self.FAILED, [], None)]

    def test_where_there_is_nothing_to_say(self, api: StraitRunApi, told: list[Any]) -> None:
        told.append(None)
        assert play(api.explain("r1"), answer(self.FAILED), answer(page({"id": "e1"})))[1] is None

    @pytest.mark.parametrize("word", ["executing", "completed", "resting"])
    def test_what_has_not_failed_is_not_explained(
        self, api: StraitRunApi, word: str, told: list[Any]
    ) -> None:
        assert play(api.explain("r1"), answer(row("r1", word)))[1] is None and told == []


def test_a_started_run_is_found_by_its_key_and_not_taken_for_its_replay(api: StraitRunApi) -> None:
    ours, other = {"airflow_run_key": "k"}, {"airflow_run_key": "other"}
    rows = [row("replay", tags=ours), row("r1", tags=ours), row("r2", tags=other)]
    (request,), found = play(api.find_started({"job_id": JOB}, "k", SINCE - 60), answer(page(*rows)))
    assert (request.method, request.url) == ("GET", f"{HOST}/v1/runs")
    assert (request.params["tag_key"], request.params["tag_value"]) == ("airflow_run_key", "k")
    assert found is not None and found.id == "r1"
    assert play(api.find_started({"job_id": JOB}, "k", SINCE - 60), answer(page(rows[2])))[1] is None


def test_a_locked_address_may_be_the_fault_of_another_connection() -> None:
    said = {
        "error": {
            "code": "rate_limited",
            "message": "too many failed authentication attempts; retry after 59s",
        }
    }
    with pytest.raises(ApiError, match="check all Strait connections") as caught:
        play(make_api().get("run-1"), answer(said, 429))
    assert not caught.value.permanent
