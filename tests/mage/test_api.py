"""What is asked of Mage, and how its answers are read."""

from __future__ import annotations

import json

import pendulum
import pytest

from airflow_provider_runs.core.errors import ApiError, BadInput, ConnectionFailed, NotFound, Unauthorized
from airflow_provider_runs.core.pages import IncompleteList
from airflow_provider_runs.core.run import RunState
from airflow_provider_runs.mage.api import RESERVED_VARIABLES
from tests.answers import answer, sample
from tests.covering import brief, covering
from tests.mage.conftest import (
    API_KEY,
    HOST,
    NOW,
    PASSWORD,
    SESSION_TOKEN,
    TRIGGER_TOKEN,
    jwt,
    make_api,
    session,
)
from tests.play import play

# Nothing has to be looked at before the start.
SCHEDULE = {"pipeline_schedule_id": 1, "allow_inactive_trigger": True}


# What a server answers about a trigger that is set to hide tokens.
HIDDEN = answer(
    {
        "pipeline_schedule": {
            "id": 1,
            "name": "from_airflow",
            "schedule_type": "api",
            "status": "active",
            "token": "[API_TOKEN_PLACEHOLDER]",
        }
    }
)


def run_answer(**changes):
    """Return the answer about the failed run of the samples, with fields changed."""
    body = sample("mage/run_failed")
    body["pipeline_run"] |= changes
    return answer(body)


def logs(scheduler=(), **blocks):
    """Return the answer about a run's logs: the scheduler's entries and each block's, as (level, message)."""

    def file(name, entries):
        lines = [
            f"2026-11-22T04:29:19 {json.dumps({'level': level, 'message': message})}\n"
            for level, message in entries
        ]
        return {"name": name, "path": f"/logs/{name}", "size": 1, "content": "".join(lines)}

    files = {
        "block_run_logs": [file(f"{block}.log", entries) for block, entries in blocks.items()],
        "pipeline_run_logs": [file("pipeline.log", ()), file("scheduler.log", scheduler)],
        "total_block_run_log_count": len(blocks),
        "total_pipeline_run_log_count": 1,
    }
    return answer({"logs": [files], "metadata": {}})


def body_of(api, key=None, **arguments):
    """Return the body of the request that starts a run."""
    (request,), _ = play(api.trigger(SCHEDULE | arguments, key), answer(sample("mage/trigger")))
    return request.json


class TestConnection:
    def test_a_password_needs_a_login(self):
        with pytest.raises(BadInput, match=r"'mage_default'.*login") as error:
            make_api(login=None)
        assert PASSWORD not in str(error.value)

    @pytest.mark.parametrize("host", [None, "", " "])
    def test_the_host_is_required(self, host):
        with pytest.raises(BadInput, match="host"):
            make_api(host=host)

    @pytest.mark.parametrize("token", ["a\nb", "ä", "planted\x00"])
    def test_a_trigger_token_that_cannot_be_a_header_is_refused_without_showing_it(self, token):
        with pytest.raises(BadInput, match="trigger_token") as error:
            make_api({"trigger_token": token})
        assert token not in str(error.value)

    def test_there_is_no_scope(self):
        from airflow_provider_runs.mage.api import MageRunApi

        with pytest.raises(BadInput, match="environment"):
            MageRunApi(make_api().settings, {"environment": "e"})

    def test_a_base_path_stays_in_front_of_every_path(self):
        api = make_api(host="https://mage.example.com/pre/")
        run, lists = answer(sample("mage/run_failed")), answer(sample("mage/list"))
        urls = [
            request.url
            for flow, *answers in (
                (api.trigger(SCHEDULE), answer(sample("mage/trigger"))),
                (api.get("5"), run),
                (api.cancel("5"), run),
                (api.explain("5"), run, logs()),
                (api.find_started(SCHEDULE, "k", 0), lists),
                (api.check(), answer(sample("mage/status")), lists),
                (api.authenticate(), answer(session({"token": "t"}))),
            )
            for request in play(flow, *answers)[0]
        ]
        assert urls == [
            f"https://mage.example.com/pre/api/{path}"
            for path in (
                "pipeline_schedules/1/api_trigger",
                "pipeline_runs/5",
                "pipeline_runs/5",
                "pipeline_runs/5",
                "pipelines/example/logs",
                "pipeline_schedules/1/pipeline_runs",
                "status",
                "pipeline_runs",
                "sessions",
            )
        ]

    def test_a_run_page_is_at_the_server_unless_people_reach_it_elsewhere(self):
        _, run = play(make_api(host="https://mage.example.com/pre/").get("5"), run_answer())
        assert run.url == "https://mage.example.com/pre/pipelines/example/runs/5"
        _, run = play(make_api({"dashboard_url": "https://m.example.com/x/"}).get("5"), run_answer())
        assert run.url == "https://m.example.com/x/pipelines/example/runs/5"


class TestTrigger:
    def test_the_request_needs_the_trigger_token_alone(self, api):
        (request,), run = play(api.trigger(SCHEDULE), answer(sample("mage/trigger")))
        assert (request.method, request.url) == ("POST", f"{HOST}/api/pipeline_schedules/1/api_trigger")
        assert request.headers == {"Authorization": f"Bearer {TRIGGER_TOKEN}"}
        assert not request.authenticated
        assert not request.params
        assert request.json == {"pipeline_run": {"variables": {}}}
        assert (run.id, run.state, run.status) == ("2", RunState.PENDING, "initial")
        assert run.url == f"{HOST}/pipelines/example/runs/2"

    @pytest.mark.parametrize("key", [None, "key-1"])
    def test_a_start_is_never_repeated_blindly(self, api, key):
        (request,), _ = play(api.trigger(SCHEDULE, key), answer(sample("mage/trigger")))
        assert not request.safe_to_repeat
        assert not api.takes_key

    @pytest.mark.parametrize("token", [None, "", " "])
    def test_without_a_trigger_token_it_says_so(self, token):
        with pytest.raises(BadInput, match=r"'mage_default'.*trigger_token"):
            play(make_api({"trigger_token": token}).trigger(SCHEDULE), HIDDEN)

    def test_without_a_trigger_token_runs_can_still_be_watched(self):
        _, run = play(make_api({"trigger_token": None}).get("5"), run_answer())
        assert run.id == "5"

    @pytest.mark.parametrize(("given", "used"), [(71, 71), ("71", 71), (" 71 ", 71), (0, 0)])
    def test_the_schedule_is_a_number_also_as_text(self, api, given, used):
        (request,), _ = play(
            api.trigger(SCHEDULE | {"pipeline_schedule_id": given}), answer(sample("mage/trigger"))
        )
        assert request.url.endswith(f"/pipeline_schedules/{used}/api_trigger")

    @pytest.mark.parametrize(
        ("call", "wrong"),
        covering(
            ["prepare", "trigger", "find_started"],
            [None, "", "None", "abc", "1/2", "1_0", -1, 1.5, True, [1], "9" * 5000],
        ),
        ids=brief,
    )
    def test_anything_else_is_refused_by_name(self, api, call, wrong):
        arguments = {"pipeline_schedule_id": wrong}
        calls = {
            "prepare": lambda: api.prepare(arguments),
            "trigger": lambda: next(api.trigger(arguments)),
            "find_started": lambda: next(api.find_started(arguments, "k", 0)),
        }
        with pytest.raises(BadInput, match="pipeline_schedule_id"):
            calls[call]()

    @pytest.mark.parametrize("call", ["prepare", "find_started"])
    def test_a_missing_schedule_is_refused(self, api, call):
        with pytest.raises(BadInput, match="pipeline_schedule_id"):
            api.prepare({}) if call == "prepare" else next(api.find_started({}, "k", 0))

    def test_an_unknown_argument_is_refused_with_what_there_is(self, api):
        with pytest.raises(BadInput, match="no execution_date; it has pipeline_schedule_id, pipeline_uuid"):
            api.prepare(SCHEDULE | {"execution_date": "2024-01-01"})

    def test_both_kinds_of_variables_arrive_where_mage_wants_them(self, api):
        body = body_of(
            api, variables={"day": "2024-01-01", "n": {"a": [1, None]}}, event_variables={"env": "dev"}
        )
        assert body == {
            "pipeline_run": {"variables": {"day": "2024-01-01", "n": {"a": [1, None]}}},
            "env": "dev",
        }

    @pytest.mark.parametrize("name", ["variables", "event_variables"])
    def test_variables_may_be_json_text(self, api, name):
        assert body_of(api, **{name: ' {"a": 1} '}) == body_of(api, **{name: {"a": 1}})

    @pytest.mark.parametrize("name", ["variables", "event_variables"])
    def test_none_means_no_variables(self, api, name):
        assert body_of(api, **{name: None}) == body_of(api) == {"pipeline_run": {"variables": {}}}

    @pytest.mark.parametrize(
        ("name", "wrong"),
        covering(
            ["variables", "event_variables"],
            [
                "",
                "None",
                "{",
                "[1]",
                "1",
                '"text"',
                "{'a': 1}",
                [1],
                7,
                True,
                {1: "a"},
                {"a": float("nan")},
                {"a": [float("inf")]},
                '{"a": NaN}',
                '{"a": -Infinity}',
                {"a": Ellipsis},
                {"a": {1, 2}},
                {"a": pendulum.datetime(2024, 1, 1)},
                '{"a": ' * 9000,
            ],
        ),
        ids=brief,
    )
    def test_what_mage_could_not_keep_is_refused_by_name(self, api, name, wrong):
        with pytest.raises(BadInput, match=f"^{name} "):
            api.prepare(SCHEDULE | {name: wrong})

    @pytest.mark.parametrize("name", RESERVED_VARIABLES)
    def test_names_that_the_server_overwrites_are_refused(self, api, name):
        with pytest.raises(BadInput, match=f"variables must not hold {name}"):
            api.prepare(SCHEDULE | {"variables": {name: "mine"}})

    def test_the_reserved_names_are_those_of_the_contract_and_our_marker(self):
        assert set(RESERVED_VARIABLES) == {
            *("env", "ds", "hr", "execution_date", "execution_partition", "pipeline_run_id", "trigger_name"),
            "event",
            "airflow_run_key",
        }

    def test_event_variables_cannot_take_the_place_of_the_run(self, api):
        with pytest.raises(BadInput, match="pipeline_run"):
            api.prepare(SCHEDULE | {"event_variables": {"pipeline_run": {"status": "completed"}}})

    def test_the_key_travels_as_a_variable(self, api):
        assert body_of(api, "key-1", variables={"a": 1}) == {
            "pipeline_run": {"variables": {"a": 1, "airflow_run_key": "key-1"}}
        }

    def test_what_the_user_passed_is_not_changed(self, api):
        variables = {"a": {"b": 1}}
        body = body_of(api, "key-1", variables=variables)
        body["pipeline_run"]["variables"]["a"]["b"] = 2
        assert variables == {"a": {"b": 1}}

    def test_no_answer_goes_up_as_it_is(self, api):
        with pytest.raises(ConnectionFailed, match="silence"):
            play(api.trigger(SCHEDULE), ConnectionFailed("silence", sent=True))

    @pytest.mark.parametrize(
        "row",
        [
            {},
            {"id": 5},
            {"status": "initial"},
            {"id": "5", "status": "initial"},
            {"id": True, "status": "initial"},
            {"id": 5, "status": ""},
            {"id": 5, "status": None},
            {"id": 5.0, "status": "initial"},
            [],
            "run",
            5,
        ],
        ids=str,
    )
    def test_an_answer_without_id_and_status_is_no_run(self, api, row):
        with pytest.raises(ApiError) as error:
            play(api.trigger(SCHEDULE), answer({"pipeline_run": row}))
        assert not error.value.permanent


class TestLogin:
    @pytest.mark.parametrize(("login", "name"), [("me@example.com", "email"), ("admin", "username")])
    def test_the_request(self, login, name):
        (request,), _ = play(make_api(login=login).authenticate(), answer(session({"token": "t"})))
        assert (request.method, request.url) == ("POST", f"{HOST}/api/sessions")
        assert request.json == {"api_key": API_KEY, "session": {name: login, "password": PASSWORD}}
        assert not request.authenticated
        assert request.safe_to_repeat

    def test_only_a_connection_with_login_logs_in(self, api):
        assert api.authenticates()
        assert not make_api(login=None, password=None).authenticates()

    def test_the_token_inside_the_jwt_is_sent_and_masked_from_then_on(self):
        masked = []
        api = make_api(token=False, keep_secret=masked.append)
        assert api.auth_headers() == {"X-API-KEY": API_KEY}
        play(api.authenticate(), answer(session({"token": SESSION_TOKEN, "expires": NOW + 500})))
        assert api.auth_headers() == {"X-API-KEY": API_KEY, "OAUTH-TOKEN": SESSION_TOKEN}
        assert masked == [SESSION_TOKEN]
        assert api.redact(f"{SESSION_TOKEN} {PASSWORD} {TRIGGER_TOKEN}") == "*** *** ***"

    @pytest.mark.parametrize(
        ("expires", "lifetime"),
        [
            (NOW + 500, 500.0),
            (int(NOW) + 2592000, 2592000.0),
            *((odd, 3600.0) for odd in (None, True, "soon", [], NOW, NOW - 5, 0, -1, 1e300, 10**400)),
            *((odd, 3600.0) for odd in (1e999, -1e999, float("nan"))),
        ],
    )
    def test_an_end_that_is_none_counts_as_an_hour_from_now(self, expires, lifetime):
        api = make_api(token=False)
        play(api.authenticate(), answer(session({"token": "t", "expires": expires})))
        assert api.token.lifetime == lifetime
        assert api.token.obtained_at == NOW

    def test_a_session_without_end_counts_as_an_hour(self):
        api = make_api(token=False)
        play(api.authenticate(), answer(session({"token": "t"})))
        assert api.token.lifetime == 3600.0

    @pytest.mark.parametrize("status", [200, 404])
    def test_a_wrong_password_is_a_refusal(self, status):
        error = {
            "code": 404,
            "message": "Email/username and/or password invalid.",
            "type": "record_not_found",
        }
        with pytest.raises(Unauthorized, match="'mage_default': check login and password") as caught:
            play(make_api(token=False).authenticate(), answer({"error": error, "status": 200}, status))
        assert caught.value.status == 401
        assert PASSWORD not in str(caught.value)

    @pytest.mark.parametrize(
        "token",
        [
            None,
            "",
            "abc",
            "a.b",
            "a.b.c",
            "..",
            "a.ä.c",
            "a.\x00.c",
            jwt(b"\xff\xfe"),
            jwt(b"{"),
            jwt(b"[" * 9000),
            jwt([]),
            jwt("token"),
            jwt(None),
            jwt({}),
            jwt({"token": None}),
            jwt({"token": ""}),
            jwt({"token": " "}),
            jwt({"token": 5}),
            jwt({"token": "a\nb"}),
            jwt({"token": "ä"}),
            5,
            ["a.b.c"],
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_a_token_that_cannot_be_read_is_an_error_that_may_heal(self, token):
        api = make_api(token=False)
        with pytest.raises(ApiError, match="without a usable token") as error:
            play(api.authenticate(), answer({"session": {"token": token}}))
        assert not error.value.permanent
        assert api.token is None

    @pytest.mark.parametrize("value", [{}, [], "token", 5])
    def test_a_session_without_a_token_is_the_same_error(self, value):
        with pytest.raises(ApiError, match="without a usable token"):
            play(make_api(token=False).authenticate(), answer({"session": value}))

    def test_only_401_is_worth_a_new_login(self, api):
        assert api.stale_token_statuses == {401}


class TestGet:
    def test_the_request_asks_for_true_status_codes(self, api):
        (request,), _ = play(api.get("5"), run_answer())
        assert (request.method, request.url) == ("GET", f"{HOST}/api/pipeline_runs/5")
        assert request.params == {"_http_error_codes": "1"}
        assert request.authenticated and request.safe_to_repeat
        assert (request.json, request.timeout) == (None, None)

    @pytest.mark.parametrize(
        ("call", "run_id"),
        covering(["get", "cancel", "explain"], ["", "None", "abc", "../5", "5?x", "-1", "1_0", None, 1.5]),
    )
    def test_an_id_that_is_no_number_is_refused_before_anything_is_sent(self, api, call, run_id):
        with pytest.raises(BadInput, match="run_id"):
            next(getattr(api, call)(run_id))

    def test_times_are_utc_without_and_with_offset_and_fraction(self, api):
        _, run = play(
            api.get("5"),
            run_answer(started_at="2026-11-22 04:29:19", completed_at="2023-02-16 08:41:19.249956+02:00"),
        )
        assert run.started_at == pendulum.datetime(2026, 11, 22, 4, 29, 19)
        assert run.finished_at == pendulum.datetime(2023, 2, 16, 6, 41, 19, 249956)
        assert run.started_at.timezone_name == run.finished_at.timezone_name == "UTC"

    def test_the_separator_of_block_runs_is_read_too(self, api):
        _, run = play(api.get("5"), run_answer(started_at="2026-11-22T04:29:19.5"))
        assert run.started_at == pendulum.datetime(2026, 11, 22, 4, 29, 19, 500000)

    @pytest.mark.parametrize(
        "odd", [None, "", "soon", 0, 1700000000, [], "2026-13-01", "0001-01-01 00:00:00+14:00", "9" * 50]
    )
    def test_a_time_that_cannot_be_read_is_left_out(self, api, odd):
        _, run = play(api.get("5"), run_answer(started_at=odd, completed_at=odd))
        assert (run.started_at, run.finished_at) == (None, None)

    def test_the_answer_must_be_about_the_run_that_was_asked_for(self, api):
        for call in (api.get("6"), api.explain("6")):
            with pytest.raises(ApiError, match="run 6") as error:
                play(call, run_answer(status="completed"))
            assert not error.value.permanent

    @pytest.mark.parametrize(
        "word", ["success", "canceled", "completed!", " completed", "queued", "upstream_failed"]
    )
    def test_an_unknown_word_is_kept_and_ends_nothing(self, api, word):
        _, run = play(api.get("5"), run_answer(status=word))
        assert (run.state, run.status) == (RunState.UNKNOWN, word)
        assert not run.state.is_terminal

    def test_only_the_status_decides(self, api):
        _, run = play(api.get("5"), run_answer(status="running", completed_at="2026-11-22 04:29:19"))
        assert run.state is RunState.RUNNING

    @pytest.mark.parametrize("pipeline", [None, 5, ["p"]])
    def test_without_a_pipeline_there_is_no_page(self, api, pipeline):
        _, run = play(api.get("5"), run_answer(pipeline_uuid=pipeline))
        assert run.url is None

    def test_a_pipeline_cannot_lead_elsewhere(self, api):
        _, run = play(api.get("5"), run_answer(pipeline_uuid="a/../../b?c"))
        assert run.url == f"{HOST}/pipelines/a%2F..%2F..%2Fb%3Fc/runs/5"

    def test_the_basic_format_is_enough(self, api):
        body = {"pipeline_run": {"execution_date": "2026-11-22 04:29:18", "id": 5, "status": "completed"}}
        _, run = play(api.get("5"), answer(body))
        assert (run.state, run.url) == (RunState.SUCCEEDED, None)


class TestCancel:
    def test_the_request(self, api):
        (request,), result = play(api.cancel("5"), run_answer(status="cancelled"))
        assert (request.method, request.url) == ("PUT", f"{HOST}/api/pipeline_runs/5")
        assert request.json == {"pipeline_run": {"status": "cancelled"}}
        assert request.authenticated and request.safe_to_repeat
        assert result is None

    @pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
    def test_an_ended_run_stays_as_it_is_without_an_error(self, api, status):
        assert play(api.cancel("5"), run_answer(status=status))[1] is None

    def test_an_unknown_run_is_not_found(self, api):
        error = {"code": 404, "message": "Record not found.", "type": "record_not_found"}
        with pytest.raises(NotFound, match="cancelling run 5"):
            play(api.cancel("5"), answer({"error": error, "status": 404}, 404))


class TestExplain:
    def test_a_failed_block_is_named_with_its_error_and_traceback(self, api):
        requests, said = play(api.explain("5"), run_answer(), logs())
        assert [request.url for request in requests] == [
            f"{HOST}/api/pipeline_runs/5",
            f"{HOST}/api/pipelines/example/logs",
        ]
        assert requests[1].params == {"pipeline_run_id[]": "5", "_limit": "20", "_http_error_codes": "1"}
        assert said == (
            "block load_y: RuntimeError: bang in y\n"
            "Traceback (most recent call last):\n"
            '  File "/project/demo/data_loaders/load_y.py", line 4, in load\n'
            '    raise RuntimeError("bang in y")\n'
            "RuntimeError: bang in y"
        )

    def test_the_run_itself_says_it_in_a_line(self, api):
        _, run = play(api.get("5"), run_answer())
        assert run.message == "block load_y: RuntimeError: bang in y"

    @pytest.mark.parametrize(
        ("metrics", "said"),
        [
            (None, "block b: failed without an error text"),
            ({}, "block b: failed without an error text"),
            ([], "block b: failed without an error text"),
            ({"error": None}, "block b: failed without an error text"),
            ({"error": "bang"}, "block b: failed without an error text"),
            ({"error": {}}, "block b: failed without an error text"),
            ({"error": {"error": "bang"}}, "block b: bang"),
            ({"error": {"error": "bang", "message": ""}}, "block b: bang"),
            ({"error": {"error": "bang", "message": " \n "}}, "block b: bang"),
            ({"error": {"error": ["bang"]}}, "block b: ['bang']"),
            ({"error": {"message": "TypeError: x\n\n"}}, "block b: TypeError: x\nTypeError: x"),
            ({"error": {"message": 5}}, "block b: 5\n5"),
        ],
    )
    def test_whatever_mage_keeps_of_the_error_is_said(self, api, metrics, said):
        blocks = [{"block_uuid": "b", "status": "failed", "metrics": metrics}]
        assert play(api.explain("5"), run_answer(block_runs=blocks), logs())[1] == said

    @pytest.mark.parametrize(
        "status", ["completed", "running", "cancelled", "upstream_failed", "condition_failed"]
    )
    def test_an_old_error_of_a_block_that_is_not_failed_is_not_said(self, api, status):
        row = sample("mage/run_failed")["pipeline_run"]["block_runs"][1] | {"status": status}
        assert play(api.explain("5"), run_answer(block_runs=[row]), logs())[1] is None
        assert play(api.get("5"), run_answer(block_runs=[row]))[1].message is None

    @pytest.mark.parametrize("blocks", [None, [], {}, "blocks", [None, "b", 5, []]])
    def test_without_blocks_there_is_nothing_to_say(self, api, blocks):
        assert play(api.explain("5"), run_answer(block_runs=blocks), logs())[1] is None

    def test_every_failed_block_is_said(self, api):
        blocks = [
            {"block_uuid": name, "status": "failed", "metrics": {"error": {"error": f"bang in {name}"}}}
            for name in "ab"
        ]
        assert (
            play(api.explain("5"), run_answer(block_runs=blocks), logs())[1]
            == "block a: bang in a\nblock b: bang in b"
        )
        assert play(api.get("5"), run_answer(block_runs=blocks))[1].message == (
            "block a: bang in a; block b: bang in b"
        )

    def test_of_a_long_traceback_the_end_is_said(self, api):
        lines = [f"line {number}" for number in range(500)]
        blocks = [
            {"block_uuid": "b", "status": "failed", "metrics": {"error": {"message": "\n".join(lines)}}},
            {"block_uuid": "c", "status": "failed", "metrics": {"error": {"error": "x" * 9000}}},
        ]
        said = play(api.explain("5"), run_answer(block_runs=blocks), logs())[1].splitlines()
        assert said[0] == "block b: line 499"
        assert said[1:51] == lines[-50:]
        assert len(said[51]) < 600
        assert len(play(api.get("5"), run_answer(block_runs=blocks))[1].message) <= 1000

    def test_no_secret_is_said(self, api):
        text = f"Error: {PASSWORD} {TRIGGER_TOKEN} {SESSION_TOKEN}"
        blocks = [
            {"block_uuid": "b", "status": "failed", "metrics": {"error": {"message": f"{text}\n{text}"}}}
        ]
        assert "planted" not in play(api.explain("5"), run_answer(block_runs=blocks), logs())[1]
        assert play(api.get("5"), run_answer(block_runs=blocks))[1].message == "block b: Error: *** *** ***"

    def test_half_a_secret_at_the_cut_is_not_said_either(self, api):
        for start in range(480, 500):
            error = {"message": "x" * start + PASSWORD}
            blocks = [{"block_uuid": "b", "status": "failed", "metrics": {"error": error}}]
            assert "planted" not in play(api.get("5"), run_answer(block_runs=blocks))[1].message


class TestFindStarted:
    SINCE = pendulum.datetime(2023, 2, 16, 6, 40).timestamp()

    @staticmethod
    def row(number, key="key-1", schedule=1, created="2023-02-16 06:40:38", **changes):
        row = sample("mage/list")["pipeline_runs"][0]
        return row | {
            "id": number,
            "pipeline_schedule_id": schedule,
            "created_at": created,
            "variables": {"airflow_run_key": key},
            **changes,
        }

    @staticmethod
    def page(*rows, more=False):
        return answer({"pipeline_runs": list(rows), "metadata": {"count": 500, "next": more}})

    def find(self, api, *pages, key="key-1"):
        return play(api.find_started(SCHEDULE, key, self.SINCE), *pages)

    def test_the_request_lists_all_runs_newest_first_without_grouping(self, api):
        (request,), _ = self.find(api, self.page())
        assert (request.method, request.url) == ("GET", f"{HOST}/api/pipeline_schedules/1/pipeline_runs")
        assert request.params == {
            "order_by[]": "id desc",
            "disable_retries_grouping": "1",
            "_limit": "100",
            "_offset": "0",
            "_http_error_codes": "1",
        }
        assert request.authenticated and request.safe_to_repeat

    def test_the_marker_finds_the_run(self, api):
        _, run = self.find(api, self.page(self.row(8, "other"), self.row(7), self.row(6, "other")))
        assert (run.id, run.state) == ("7", RunState.SUCCEEDED)

    @pytest.mark.parametrize(
        "variables", [None, {}, "airflow_run_key", ["key-1"], {"airflow_run_key": None}, {"key-1": "key-1"}]
    )
    def test_a_run_without_the_marker_is_not_ours(self, api, variables):
        assert self.find(api, self.page(self.row(7, variables=variables)))[1] is None

    def test_of_a_run_and_its_retries_in_the_web_interface_the_first_is_ours(self, api):
        _, run = self.find(api, self.page(self.row(11), self.row(10), more=True), self.page(self.row(9)))
        assert run.id == "9"

    def test_ids_are_compared_as_numbers(self, api):
        _, run = self.find(api, self.page(self.row(100), self.row(99)))
        assert run.id == "99"

    def test_runs_of_other_schedules_do_not_count(self, api):
        # Mage lists the runs of all schedules where it does not know the one that was asked for.
        assert self.find(api, self.page(self.row(7, schedule=2), self.row(6, schedule=None)))[1] is None

    def test_it_pages_on_while_there_is_more(self, api):
        requests, run = self.find(
            api,
            self.page(self.row(9, "a"), more=True),
            self.page(self.row(8, "b"), more=True),
            self.page(self.row(7)),
        )
        assert [request.params["_offset"] for request in requests] == ["0", "100", "200"]
        assert run.id == "7"

    def test_an_empty_page_that_should_not_be_the_last_is_no_proof_that_there_is_no_run(self, api):
        with pytest.raises(IncompleteList, match="listing the runs of trigger 1 stopped early"):
            self.find(api, self.page(self.row(9, "a"), more=True), self.page(more=True))

    @pytest.mark.parametrize(("created", "asks"), [("2023-02-15 06:39:59", 1), ("2023-02-15 06:40:01", 2)])
    @pytest.mark.parametrize("style", ["", ".000000+00:00"])
    def test_it_stops_where_runs_are_surely_older_than_the_start(self, api, created, asks, style):
        pages = [self.page(self.row(9, "a", created=created + style), more=True), self.page()]
        requests, _ = self.find(api, *pages[:asks])
        assert len(requests) == asks

    @pytest.mark.parametrize("created", [None, "soon", 5])
    def test_a_run_of_unknown_age_does_not_end_the_search(self, api, created):
        requests, _ = self.find(api, self.page(self.row(9, "a", created=created), more=True), self.page())
        assert len(requests) == 2

    @pytest.mark.parametrize(
        "body",
        [
            {"pipeline_runs": {}, "metadata": {"next": False}},
            {"pipeline_runs": "none", "metadata": {"next": False}},
            {"pipeline_runs": [None], "metadata": {"next": False}},
            {"pipeline_runs": ["run"], "metadata": {"next": False}},
            {"pipeline_runs": []},
            {"pipeline_runs": [], "metadata": None},
            {"pipeline_runs": [], "metadata": {}},
            {"pipeline_runs": [], "metadata": {"next": None}},
            {"pipeline_runs": [], "metadata": {"next": "no"}},
            {"pipeline_runs": None, "metadata": {"next": False}},
            {"metadata": {"next": False}},
            {},
            [],
        ],
        ids=str,
    )
    def test_a_list_that_cannot_be_read_never_means_that_there_is_no_run(self, api, body):
        with pytest.raises(ApiError, match="listing the runs of trigger 1") as error:
            self.find(api, answer(body))
        assert not error.value.permanent

    def test_a_server_that_repeats_a_page_is_not_asked_for_ever(self, api):
        page = self.page(self.row(9, "a"), more=True)
        with pytest.raises(IncompleteList, match="listing the runs of trigger 1"):
            self.find(api, page, page)

    def test_a_marked_run_without_id_or_status_is_an_error_rather_than_none(self, api):
        with pytest.raises(ApiError, match="without id and status"):
            self.find(api, self.page(self.row(None)))


class TestCheck:
    def test_it_reads_the_status_and_lists_no_runs(self, api):
        requests, said = play(api.check(), answer(sample("mage/status")), answer(sample("mage/list")))
        first, second = requests
        assert (first.method, first.url, first.authenticated) == ("GET", f"{HOST}/api/status", False)
        assert (second.method, second.url, second.authenticated) == ("GET", f"{HOST}/api/pipeline_runs", True)
        assert second.params["_limit"] == "0"
        assert said == f"Connected to Mage at {HOST}, scheduler running"

    @pytest.mark.parametrize("statuses", [[], {}, "running", [None], [{}], [{"scheduler_status": None}]])
    def test_a_scheduler_that_is_not_named_is_unknown(self, api, statuses):
        _, said = play(api.check(), answer({"statuses": statuses}), answer(sample("mage/list")))
        assert said.endswith("scheduler unknown")

    def test_it_fails_where_runs_may_not_be_read(self, api):
        with pytest.raises(Unauthorized, match=r"listing runs.*Private access"):
            play(api.check(), answer(sample("mage/status")), answer(sample("mage/error_handled")))
