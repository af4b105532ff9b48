"""What is asked of Chalk, and how its answers are read."""

from __future__ import annotations

import pytest

from airflow_provider_runs.chalk.api import ARGUMENTS, ChalkRunApi
from airflow_provider_runs.core.connection import read_settings
from airflow_provider_runs.core.errors import ApiError, BadInput, ConnectionFailed, Unauthorized, WrongScope
from airflow_provider_runs.core.run import RunState
from tests.answers import answer, sample
from tests.chalk.conftest import BEARER, NOW, SECRET, make_api
from tests.covering import brief, covering
from tests.play import play

RESOLVER = {"resolver_fqn": "my.module.fn"}


def started(api, **arguments):
    """Return the body of the request that starts a run."""
    (request,), _ = play(api.trigger(RESOLVER | arguments), answer(sample("chalk/run")))
    return request.json


class TestConnection:
    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"login": "token-id1"},
            {"password": SECRET},
            {"login": "", "password": SECRET},
            {"login": "token-id1", "password": None},
            {"extra": {"access_token": ""}},
            {"extra": '{"access_token": null}'},
        ],
    )
    def test_without_credentials_it_says_which_are_missing(self, fields):
        settings = read_settings(ChalkRunApi.connection, conn_id="c1", **fields)
        with pytest.raises(BadInput, match=r"'c1'.*client ID.*client secret.*access_token") as error:
            ChalkRunApi(settings)
        assert SECRET not in str(error.value)

    @pytest.mark.parametrize(
        "host", [None, "", "api.chalk.ai", "https://api.chalk.ai", "https://api.chalk.ai/"]
    )
    def test_the_host_is_chalks_own_unless_another_is_named(self, host):
        (request,), _ = play(make_api(host=host).get("j-1"), answer({"id": "j-1", "status": "received"}))
        assert request.url == "https://api.chalk.ai/v1/runs/j-1"

    def test_a_path_prefix_stays_in_front_of_every_path(self):
        api = make_api(host="http://proxy.example.com/chalk/", port=0)
        run = answer(sample("chalk/run"))
        urls = [
            play(flow, *answers)[0][0].url
            for flow, *answers in (
                (api.trigger(RESOLVER), run),
                (api.get("j-2qtwuxpskm2pbg"), run),
                (api.check(), answer(sample("chalk/who_am_i"))),
                (api.authenticate(), answer(sample("chalk/token"))),
            )
        ]
        assert urls == [
            f"http://proxy.example.com/chalk/v1/{path}"
            for path in ("runs/trigger", "runs/j-2qtwuxpskm2pbg", "who-am-i", "oauth/token")
        ]

    @pytest.mark.parametrize(
        ("name", "value"),
        covering(["environment", "preview_deployment_id", "deployment_tag"], ["a\nb", "ä", "", " "]),
    )
    def test_a_scope_that_cannot_be_a_header_is_refused_by_name(self, name, value):
        with pytest.raises(BadInput, match=name):
            make_api(scope={name: value})

    def test_a_field_of_the_connection_that_cannot_be_a_header_is_refused_by_name(self):
        with pytest.raises(BadInput, match="deployment_tag"):
            make_api({"deployment_tag": "a\nb"})

    def test_a_bearer_that_cannot_be_a_header_is_refused_without_showing_it(self):
        with pytest.raises(BadInput, match="access_token") as error:
            make_api({"access_token": "planted\nbearer"})
        assert "planted" not in str(error.value)

    def test_there_is_no_branch(self):
        with pytest.raises(BadInput, match="branch"):
            make_api(scope={"branch": "b"})

    @pytest.mark.parametrize("value", [0, -1, "soon", True, [], "nan", "inf"])
    def test_a_trigger_timeout_must_be_a_duration(self, value):
        with pytest.raises(BadInput, match="trigger_timeout"):
            make_api({"trigger_timeout": value})


class TestTokenExchange:
    def test_the_request_is_json_without_a_bearer(self):
        (request,), _ = play(make_api(token=False).authenticate(), answer(sample("chalk/token")))
        assert (request.method, request.url) == ("POST", "https://api.chalk.ai/v1/oauth/token")
        assert request.json == {
            "client_id": "token-id1",
            "client_secret": SECRET,
            "grant_type": "client_credentials",
            "scope": None,
        }
        assert not request.authenticated
        assert request.safe_to_repeat
        assert not request.headers
        assert not request.params

    def test_the_token_is_sent_and_masked_from_then_on(self):
        masked = []
        api = make_api(token=False, keep_secret=masked.append)
        assert api.authenticates()
        play(api.authenticate(), answer(sample("chalk/token")))
        assert api.auth_headers()["Authorization"] == f"Bearer {BEARER}"
        assert masked == [BEARER]
        assert api.redact(f"{BEARER} {SECRET}") == "*** ***"

    @pytest.mark.parametrize(
        ("given", "lifetime"),
        [
            (120, 120.0),
            (1.5, 1.5),
            *((odd, 3600.0) for odd in (0, -5, True, "120", None, [], 10**400, 1e999, float("nan"), 1e300)),
        ],
    )
    def test_a_lifetime_that_is_none_counts_as_an_hour(self, given, lifetime):
        api = make_api(token=False)
        play(api.authenticate(), answer({"access_token": "t", "expires_in": given}))
        assert api.token.lifetime == lifetime

    def test_a_token_without_lifetime_counts_as_an_hour(self):
        api = make_api(token=False)
        play(api.authenticate(), answer({"access_token": "t"}))
        assert api.token_is_fresh(3600 - 61)
        assert not api.token_is_fresh(3600 - 59)

    @pytest.mark.parametrize("value", [None, "", " ", 7, True, ["t"], {"t": 1}, "tö", "a\nb"])
    def test_no_usable_token_is_an_error_that_may_heal(self, value):
        api = make_api(token=False)
        with pytest.raises(ApiError, match="without an access_token") as error:
            play(api.authenticate(), answer({"access_token": value, "expires_in": 60}))
        assert not error.value.permanent
        assert api.token is None

    def test_the_primary_environment_is_used_where_none_is_named(self):
        api = make_api(token=False)
        assert "X-Chalk-Env-Id" not in api.auth_headers()
        play(api.authenticate(), answer(sample("chalk/token")))
        assert api.auth_headers()["X-Chalk-Env-Id"] == "env-primary"

    @pytest.mark.parametrize(
        "kwargs", [{"extra": {"environment": "env-x"}}, {"scope": {"environment": "env-x"}}]
    )
    def test_a_named_environment_beats_the_primary_one(self, kwargs):
        api = make_api(token=False, **kwargs)
        play(api.authenticate(), answer(sample("chalk/token")))
        assert api.auth_headers()["X-Chalk-Env-Id"] == "env-x"

    def test_space_around_a_primary_environment_is_not_sent(self):
        api = make_api(token=False)
        play(api.authenticate(), answer(sample("chalk/token") | {"primary_environment": " env "}))
        assert api.auth_headers()["X-Chalk-Env-Id"] == "env"

    @pytest.mark.parametrize("primary", [None, "", " ", 3, ["e"], "a\nb", "ä"])
    def test_a_primary_environment_that_cannot_be_a_header_is_left_out(self, primary):
        api = make_api(token=False)
        play(api.authenticate(), answer(sample("chalk/token") | {"primary_environment": primary}))
        assert "X-Chalk-Env-Id" not in api.auth_headers()

    def test_a_token_of_ones_own_is_used_as_it_is_and_never_renewed(self):
        api = make_api({"access_token": " own "}, login=None, password=None, token=False)
        assert not api.authenticates()
        assert api.auth_headers() == {"Authorization": "Bearer own"}

    def test_a_token_of_ones_own_beats_client_credentials(self):
        api = make_api({"access_token": "own"}, token=False)
        assert not api.authenticates()
        assert api.auth_headers() == {"Authorization": "Bearer own"}

    def test_a_fresh_token_may_heal_both_refusals(self, api):
        assert api.stale_token_statuses == {401, 403}


class TestHeaders:
    @pytest.mark.parametrize(
        ("name", "header"),
        [
            ("environment", "X-Chalk-Env-Id"),
            ("preview_deployment_id", "X-Chalk-Preview-Deployment"),
            ("deployment_tag", "X-Chalk-Deployment-Tag"),
        ],
    )
    def test_the_callers_choice_beats_the_connections(self, name, header):
        assert header not in make_api().auth_headers()
        assert make_api({name: "connection"}).auth_headers()[header] == "connection"
        both = make_api({name: "connection"}, {name: "caller"})
        assert both.auth_headers()[header] == "caller"

    @pytest.mark.parametrize("call", ["trigger", "get", "check"])
    def test_every_call_is_json_and_authenticated(self, api, call):
        flow, body = {
            "trigger": (api.trigger(RESOLVER), sample("chalk/run")),
            "get": (api.get("j-2qtwuxpskm2pbg"), sample("chalk/run")),
            "check": (api.check(), sample("chalk/who_am_i")),
        }[call]
        (request,), _ = play(flow, answer(body))
        assert request.headers == {"Content-Type": "application/json"}
        assert request.authenticated


class TestTriggerBody:
    def test_only_what_is_set_is_sent_beside_what_is_stored(self, api):
        assert started(api) == {
            "resolver_fqn": "my.module.fn",
            "persistence_settings": {"persist_online_storage": True, "persist_offline_storage": True},
        }

    def test_all_arguments_arrive_under_chalks_names(self, api):
        assert started(
            api,
            lower_bound="2021-01-01T00:00:00Z",
            upper_bound="2023-01-02T00:00:00Z",
            max_samples="10",
            timestamping_mode="online_store_write_time",
            store_online=False,
            store_offline=False,
            override_target_image_tag="v2",
            idempotency_key="k",
        ) == {
            "resolver_fqn": "my.module.fn",
            "lower_bound": "2021-01-01T00:00:00+00:00",
            "upper_bound": "2023-01-02T00:00:00+00:00",
            "max_samples": 10,
            "timestamping_mode": "online_store_write_time",
            "persistence_settings": {"persist_online_storage": False, "persist_offline_storage": False},
            "override_target_image_tag": "v2",
            "idempotency_key": "k",
        }

    def test_none_means_not_set(self, api):
        nothing = dict.fromkeys(set(ARGUMENTS) - {"resolver_fqn"})
        assert started(api, **nothing) == started(api)

    @pytest.mark.parametrize(
        ("given", "sent"),
        [(True, True), (False, False), ("True", True), ("false", False), (" FALSE ", False), (None, True)],
    )
    def test_storing_is_switched_also_by_the_text_of_a_template(self, api, given, sent):
        body = started(api, store_online=given, store_offline=given)
        assert body["persistence_settings"] == {
            "persist_online_storage": sent,
            "persist_offline_storage": sent,
        }

    @pytest.mark.parametrize(
        "wrong",
        [
            {"resolver_fqn": None},
            {"resolver_fqn": ""},
            {"resolver_fqn": " "},
            {"resolver_fqn": "None"},
            {"resolver_fqn": 7},
            {"lower_bound": ""},
            {"lower_bound": "None"},
            {"upper_bound": "tomorrow"},
            {"upper_bound": 1700000000},
            {"max_samples": 0},
            {"max_samples": -1},
            {"max_samples": True},
            {"max_samples": 1.5},
            {"max_samples": "many"},
            {"max_samples": "1_000"},
            {"max_samples": ""},
            {"timestamping_mode": "FEATURE_TIME"},
            {"timestamping_mode": ["feature_time"]},
            {"store_online": "yes"},
            {"store_online": 1},
            {"store_offline": ""},
            {"override_target_image_tag": ""},
            {"override_target_image_tag": 5},
            {"idempotency_key": ""},
            {"idempotency_key": "None"},
            {"idempotency_key": 5},
        ],
        ids=str,
    )
    def test_a_wrong_argument_is_refused_by_name_before_anything_is_sent(self, api, wrong):
        (name,) = wrong
        with pytest.raises(BadInput, match=name):
            api.prepare(RESOLVER | wrong)
        with pytest.raises(BadInput, match=name):
            next(api.trigger(RESOLVER | wrong))

    def test_an_unknown_argument_is_refused_with_what_there_is(self, api):
        with pytest.raises(BadInput, match=r"no branch; it has resolver_fqn"):
            api.prepare(RESOLVER | {"branch": "b"})

    def test_a_missing_resolver_is_refused(self, api):
        with pytest.raises(BadInput, match="resolver_fqn"):
            api.prepare({})

    def test_bounds_must_not_be_crossed_whatever_their_zones(self, api):
        with pytest.raises(BadInput, match=r"lower_bound .* is after upper_bound"):
            api.prepare(
                RESOLVER
                | {"lower_bound": "2024-01-01T01:00:00+00:00", "upper_bound": "2024-01-01T01:30:00+01:00"}
            )

    @pytest.mark.parametrize(
        "bounds",
        [
            {"lower_bound": "2024-01-01", "upper_bound": "2024-01-01"},
            {"lower_bound": "2024-01-01T01:30:00+01:00", "upper_bound": "2024-01-01T01:00:00+00:00"},
            {"lower_bound": "2024-01-01"},
            {"upper_bound": "2024-01-01"},
        ],
    )
    def test_equal_and_single_bounds_are_allowed(self, api, bounds):
        assert bounds.keys() <= started(api, **bounds).keys()


class TestIdempotencyKey:
    def test_with_a_key_the_start_may_be_repeated(self, api):
        (request,), _ = play(api.trigger(RESOLVER, "key-1"), answer(sample("chalk/run")))
        assert request.json["idempotency_key"] == "key-1"
        assert request.safe_to_repeat
        assert api.takes_key

    def test_without_one_it_may_not(self, api):
        (request,), _ = play(api.trigger(RESOLVER), answer(sample("chalk/run")))
        assert "idempotency_key" not in request.json
        assert not request.safe_to_repeat

    def test_the_users_own_key_beats_the_computed_one(self, api):
        (request,), _ = play(
            api.trigger(RESOLVER | {"idempotency_key": "own"}, "key-1"), answer(sample("chalk/run"))
        )
        assert request.json["idempotency_key"] == "own"
        assert request.safe_to_repeat


class TestTimeouts:
    def test_only_the_start_waits_longer_than_chalks_300_seconds(self, api):
        run = answer(sample("chalk/run"))
        assert play(api.trigger(RESOLVER), run)[0][0].timeout == 330
        assert play(api.get("j-2qtwuxpskm2pbg"), run)[0][0].timeout is None
        assert play(api.authenticate(), answer(sample("chalk/token")))[0][0].timeout is None
        assert api.request_timeout == 30

    def test_both_can_be_set(self):
        api = make_api({"trigger_timeout": "400", "request_timeout": 5})
        assert play(api.trigger(RESOLVER), answer(sample("chalk/run")))[0][0].timeout == 400
        assert api.request_timeout == 5

    def test_no_answer_goes_up_as_it_is(self, api):
        with pytest.raises(ConnectionFailed, match="silence"):
            play(api.trigger(RESOLVER), ConnectionFailed("silence", sent=True))


class TestGet:
    @pytest.mark.parametrize(
        ("run_id", "path"),
        [
            ("j-2qtwuxpskm2pbg", "j-2qtwuxpskm2pbg"),
            ("a/b?c", "a%2Fb%3Fc"),
            ("../oauth/token", "..%2Foauth%2Ftoken"),
            ("a b#c%", "a%20b%23c%25"),
            ("ü", "%C3%BC"),
            (" j-1\n", "j-1"),
        ],
    )
    def test_the_id_is_quoted(self, api, run_id, path):
        (request,), run = play(api.get(run_id), answer({"id": run_id.strip(), "status": "received"}))
        assert request.url == f"https://api.chalk.ai/v1/runs/{path}"
        assert (request.method, request.json, request.safe_to_repeat) == ("GET", None, True)
        assert run.url == f"https://chalk.ai/runs/{path}"

    @pytest.mark.parametrize("run_id", ["", " ", "None", None, 5])
    def test_an_id_that_is_none_is_refused_before_anything_is_sent(self, api, run_id):
        with pytest.raises(BadInput, match="run_id"):
            next(api.get(run_id))

    def test_an_id_that_no_url_can_hold_is_asked_for_and_not_found(self, api):
        assert next(api.get("\ud800")).url.endswith("/v1/runs/%3F")

    @pytest.mark.parametrize("status", [200, 201, 202, 206])
    def test_any_good_status_counts(self, api, status):
        _, run = play(api.get("j-1"), answer({"id": "j-1", "status": "succeeded"}, status))
        assert run.state is RunState.SUCCEEDED

    def test_a_numeric_id_is_a_text_for_us(self, api):
        _, run = play(api.get("123"), answer({"id": 123, "status": "received"}))
        assert run.id == "123"

    def test_the_answer_must_be_about_the_run_that_was_asked_for(self, api):
        with pytest.raises(ApiError, match=r"run j-1 with another run.*j-2") as error:
            play(api.get("j-1"), answer({"id": "j-2", "status": "succeeded"}))
        assert not error.value.permanent

    def test_extra_fields_are_ignored(self, api):
        body = sample("chalk/run") | {"progress": 3, "errors": [], "state": "failed"}
        _, run = play(api.get(body["id"]), answer(body))
        assert run.state is RunState.RUNNING
        assert (run.message, run.started_at, run.finished_at) == (None, None, None)

    @pytest.mark.parametrize(
        ("call", "body"),
        covering(
            ["trigger", "get"],
            [
                {},
                {"id": "j-1"},
                {"status": "succeeded"},
                {"id": "", "status": "succeeded"},
                {"id": " ", "status": "succeeded"},
                {"id": None, "status": "succeeded"},
                {"id": True, "status": "succeeded"},
                {"id": 1.0, "status": "succeeded"},
                {"id": ["j-1"], "status": "succeeded"},
                {"id": "j\n1", "status": "succeeded"},
                {"id": "j-1", "status": ""},
                {"id": "j-1", "status": " "},
                {"id": "j-1", "status": None},
                {"id": "j-1", "status": True},
                {"id": "j-1", "status": ["succeeded"]},
                {"detail": "Internal Server Error"},
            ],
        ),
        ids=brief,
    )
    def test_an_answer_without_id_and_status_is_no_run(self, api, call, body):
        flow = api.trigger(RESOLVER) if call == "trigger" else api.get("j-1")
        with pytest.raises(ApiError, match=r"without id and status: \{") as error:
            play(flow, answer(body))
        assert not error.value.permanent

    @pytest.mark.parametrize(
        "body", [b"", b"null", b"[]", b'"succeeded"', b"<html>succeeded</html>", b"\xff\xfe", b"[" * 9000]
    )
    def test_a_body_that_is_no_object_is_no_run(self, api, body):
        with pytest.raises(ApiError, match="not a JSON object") as error:
            play(api.get("j-1"), answer(body))
        assert (error.value.status, error.value.permanent) == (200, False)


class TestStatusWords:
    @pytest.mark.parametrize(
        ("word", "state"),
        [
            ("received", RunState.RUNNING),
            ("succeeded", RunState.SUCCEEDED),
            ("failed", RunState.FAILED),
            ("Received", RunState.RUNNING),
            ("SUCCEEDED", RunState.SUCCEEDED),
            ("error", RunState.FAILED),
            ("skipped", RunState.FAILED),
            ("canceled", RunState.CANCELLED),
            ("cancelled", RunState.CANCELLED),
        ],
    )
    def test_a_known_word_means_a_state(self, api, word, state):
        _, run = play(api.get("j-1"), answer({"id": "j-1", "status": word}))
        assert (run.state, run.status) == (state, word)

    @pytest.mark.parametrize(
        "word", ["pending", "working", "complete", "success", "succeeded!", " succeeded", "0"]
    )
    def test_an_unknown_word_is_kept_and_ends_nothing(self, api, word):
        _, run = play(api.get("j-1"), answer({"id": "j-1", "status": word}))
        assert (run.state, run.status) == (RunState.UNKNOWN, word)
        assert not run.state.is_terminal


class TestRunPage:
    @pytest.mark.parametrize("base", ["https://chalk.example.com/x", "https://chalk.example.com/x/"])
    def test_its_base_can_be_set(self, base):
        api = make_api({"dashboard_url": base})
        _, run = play(api.get("j-1"), answer({"id": "j-1", "status": "received"}))
        assert run.url == "https://chalk.example.com/x/runs/j-1"


class TestCheck:
    def test_it_reads_who_one_is(self, api):
        (request,), said = play(api.check(), answer(sample("chalk/who_am_i")))
        assert (request.method, request.url) == ("GET", "https://api.chalk.ai/v1/who-am-i")
        assert request.authenticated and request.safe_to_repeat
        assert said == "Connected to Chalk as u-1, environment env-own"

    def test_it_names_the_environment_that_is_used(self):
        _, said = play(make_api({"environment": "env-x"}).check(), answer(sample("chalk/who_am_i")))
        assert said.endswith("environment env-x")

    def test_it_says_where_no_environment_is_named(self, api):
        _, said = play(api.check(), answer({"user": "u-1"}))
        assert said.endswith("environment none named")

    @pytest.mark.parametrize("body", [{}, {"user": ""}, {"user": None}, {"status": "ok"}])
    def test_any_other_service_does_not_pass_for_chalk(self, api, body):
        with pytest.raises(ApiError, match="who-am-i without user"):
            play(api.check(), answer(body))

    @pytest.mark.parametrize(
        ("status", "kind"), [(200, WrongScope), (401, Unauthorized), (403, Unauthorized)]
    )
    def test_a_refused_scope_is_told_from_refused_credentials(self, status, kind):
        flow = make_api({"environment": "env-x"}).check()
        refused = next(flow)
        bare = flow.send(answer({"detail": "no"}, 403))
        assert bare.url == refused.url and not bare.authenticated
        assert bare.headers["Authorization"] == f"Bearer {BEARER}"
        assert set(bare.headers) == {*refused.headers, "Authorization"}
        with pytest.raises(Unauthorized) as error:
            flow.send(answer(sample("chalk/who_am_i"), status))
        assert type(error.value) is kind
        assert str(error.value).startswith("no access to environment 'env-x'. ") is (kind is WrongScope)

    def test_it_shows_no_secret(self, api):
        _, said = play(api.check(), answer({"user": f"u {SECRET} {BEARER}"}))
        assert said == "Connected to Chalk as u *** ***, environment none named"


def test_the_clock_of_a_token_is_ours(api):
    play(api.authenticate(), answer(sample("chalk/token")))
    assert api.token.obtained_at == NOW
