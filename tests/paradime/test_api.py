"""What is asked of Paradime, and how its answers are read."""

from __future__ import annotations

import json
from typing import Any

import pendulum
import pytest

from airflow_provider_runs.core.api import Unsure
from airflow_provider_runs.core.connection import read_settings
from airflow_provider_runs.core.errors import ApiError, BadInput, NotFound, Unauthorized, WrongScope
from airflow_provider_runs.core.pages import IncompleteList
from airflow_provider_runs.core.run import RunState
from airflow_provider_runs.paradime.answers import BadAnswer, DocumentRefused
from airflow_provider_runs.paradime.api import CONNECTION, ParadimeRunApi
from tests.answers import answer
from tests.paradime.conftest import ENDPOINT, KEY, NOW, SECRET, TOKEN, data, errors, make_api
from tests.play import play

DAILY = {"slug": "daily"}
STARTED = data(triggerBoltRun={"runId": 7})


def variables(**arguments: Any) -> Any:
    """Return the variables of the request that starts a run."""
    (request,), _ = play(make_api().trigger(arguments), STARTED)
    return request.json["variables"]


def status(state: Any, **more: Any) -> Any:
    return data(boltRunStatus={"ok": True, "state": state, **more})


def row(number: int, state: str = "SUCCESS", began: str = "2027-01-15 08:00:00.5", **more: Any) -> Any:
    git = {"branch": None, "commitHash": None, "pullRequestId": None}
    return {
        "id": number,
        "state": state,
        "actor": "a",
        "actorEmail": None,
        "startDttm": began,
        "endDttm": None,
        "parentScheduleRunId": None,
        "gitInfo": git,
        **more,
    }


def runs(*rows: Any) -> Any:
    return data(listBoltRuns={"ok": True, "runs": list(rows)})


class TestConnection:
    def test_a_key_and_its_secret_go_in_headers(self) -> None:
        assert make_api().auth_headers() == {"X-API-KEY": KEY, "X-API-SECRET": SECRET}

    def test_a_key_belongs_to_one_workspace_so_none_is_named(self) -> None:
        api = make_api({"workspace_uid": "w1"}, scope={"workspace_uid": "w2"})
        assert set(api.auth_headers()) == {"X-API-KEY", "X-API-SECRET"}

    def test_a_workspace_token_is_a_bearer(self) -> None:
        api = make_api({"api_key": ""}, password="prdm_wsp_1")
        assert api.auth_headers() == {"Authorization": "Bearer prdm_wsp_1"}

    @pytest.mark.parametrize(
        ("extra", "scope", "sent"),
        [
            ({"workspace_uid": "w1"}, {}, "w1"),
            ({"workspace_uid": "w1"}, {"workspace_uid": "w2"}, "w2"),
            ({}, {"workspace_uid": "w2"}, "w2"),
        ],
    )
    def test_a_company_token_names_the_workspace(
        self, extra: dict[str, str], scope: dict[str, str], sent: str
    ) -> None:
        api = make_api(extra, scope=scope, password="prdm_cmp_1")
        headers = {"Authorization": "Bearer prdm_cmp_1", "X-Paradime-Workspace": sent}
        assert api.auth_headers() == headers

    @pytest.mark.parametrize(
        ("extra", "fields", "said"),
        [
            ({}, {"password": "prdm_cmp_1"}, "needs a workspace_uid"),
            ({"api_key": None}, {}, "needs its API key"),
            ({}, {"password": None}, "the API secret or token is not set"),
            ({}, {"password": "planted\nsecret"}, "the API secret must be a text"),
            ({"api_key": "ä"}, {}, "api_key must be a text"),
            ({"workspace_uid": "a\nb"}, {"password": "prdm_wsp_1"}, "workspace_uid must be a text"),
            ({}, {"host": None}, "the host is not set"),
            ({"proxy": "socks5://p:1"}, {}, "'proxy' must be the URL of an HTTP proxy"),
            ({"proxy": "http://p:port"}, {}, "'proxy' must be the URL of an HTTP proxy"),
            ({"proxy": "http://:1"}, {}, "'proxy' must be the URL of an HTTP proxy"),
            ({"request_timeout": "soon"}, {}, "'request_timeout' must be a number"),
        ],
    )
    def test_what_cannot_be_used_is_refused_at_once(
        self, extra: dict[str, Any], fields: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(BadInput, match=said) as caught:
            make_api(extra, **fields)
        assert TOKEN not in str(caught.value) and SECRET not in str(caught.value)

    def test_a_connection_made_for_the_vendors_provider_is_read(self) -> None:
        extra = {
            "api_endpoint": ENDPOINT,
            "api_secret": SECRET,
            "api_key": KEY,
            "workspace_uid": "w1",
            "proxy": "none",
        }
        api = ParadimeRunApi(read_settings(CONNECTION, conn_id="c", extra=json.dumps(extra)))
        (request,), _ = play(api.get("5"), status("RUNNING"))
        assert request.target == ENDPOINT
        assert api.auth_headers() == {"X-API-KEY": KEY, "X-API-SECRET": SECRET}
        assert api.proxy is None
        assert not set(api.settings.extra) & {"api_endpoint", "api_secret", "proxy"}

    def test_our_own_fields_count_before_those_of_the_vendors_provider(self) -> None:
        api = make_api({"api_endpoint": "https://other.example.com", "api_secret": "other"})
        assert api.auth_headers()["X-API-SECRET"] == SECRET
        assert "other" not in repr(api.settings)

    @pytest.mark.parametrize(
        ("host", "shown", "token"),
        [
            (ENDPOINT, "https://api.example.com/api/v1/***/graphql", TOKEN),
            (
                "api.example.com/gw/api/v1/t0ken/graphql/",
                "https://api.example.com/gw/api/v1/***/graphql",
                "t0ken",
            ),
            (
                "https://api.example.com/api/v1/a%2Fb/graphql",
                "https://api.example.com/api/v1/***/graphql",
                "a/b",
            ),
            ("https://api.example.com/graphql", "https://api.example.com/graphql", None),
            ("https://api.example.com", "https://api.example.com", None),
            (
                "https://api.example.com/api/v1/***/graphql",
                "https://api.example.com/api/v1/***/graphql",
                None,
            ),
        ],
    )
    def test_the_endpoints_token_is_in_no_text(self, host: str, shown: str, token: str | None) -> None:
        api = make_api(host=host)
        (request,), _ = play(api.get("5"), status("RUNNING"))
        assert api.settings.base_url == request.url == shown
        assert request.secret == token
        assert token is None or token not in f"{request!r} {request} {api.settings!r}"
        assert token is None or token in api.secrets()
        if "://" in host:
            assert request.target == host

    def test_another_endpoint_is_another_connection(self) -> None:
        assert make_api().settings != make_api(host=ENDPOINT.replace(TOKEN, "other")).settings
        assert make_api().settings == make_api().settings

    def test_a_proxy_with_a_password_is_kept_out_of_texts(self) -> None:
        api = make_api({"proxy": "me:p%40ss@proxy.example.com:3128"})
        assert api.proxy == "http://me:p%40ss@proxy.example.com:3128"
        assert api.redact("p%40ss p@ss me:p%40ss@proxy.example.com:3128") == "*** *** ***"

    def test_no_proxy_is_no_secret(self) -> None:
        assert make_api({"proxy": "None"}).redact("none") == "none"

    def test_the_link_may_lead_elsewhere(self) -> None:
        _, run = play(make_api({"app_url": "https://app.demo.example.com/"}).get("5"), status("RUNNING"))
        assert run.url == "https://app.demo.example.com/bolt/run_id/5"

    def test_requests_may_take_a_minute(self) -> None:
        assert make_api().request_timeout == make_api().trigger_timeout == 60
        assert make_api({"request_timeout": 5}).trigger_timeout == 5

    def test_the_test_lists_one_schedule(self) -> None:
        (request,), said = play(make_api().check(), data(listBoltSchedules={"totalCount": 3}))
        assert request.json["variables"] == {"offset": 0, "limit": 1, "showInactive": False}
        assert said == "Connected to Paradime at api.example.com: 3 active schedules"
        with pytest.raises(BadAnswer, match="without their number"):
            play(make_api().check(), data(listBoltSchedules={"totalCount": None}))

    def test_what_works_without_the_workspace_has_a_wrong_one(self) -> None:
        api = make_api({"workspace_uid": "ws-1"}, password="prdm_wsp_1")
        good, refused = data(listBoltSchedules={"totalCount": 3}), answer({"detail": "no"}, 403)
        with pytest.raises(WrongScope, match="no access to workspace 'ws-1'"):
            play(api.check(), refused, good)
        with pytest.raises(Unauthorized) as caught:
            play(api.check(), refused, refused)
        assert not isinstance(caught.value, WrongScope)


class TestStart:
    def test_only_what_is_in_use_is_declared(self) -> None:
        (request,), run = play(make_api().trigger({**DAILY, "branch": "main"}), STARTED)
        assert (request.method, request.url) == ("POST", "https://api.example.com/api/v1/***/graphql")
        assert request.json == {
            "query": "mutation triggerBoltRun($slug: String!, $branch: String!) "
            "{ triggerBoltRun(slug: $slug, branch: $branch) { runId } }",
            "variables": {"slug": "daily", "branch": "main"},
        }
        assert request.authenticated and not request.safe_to_repeat
        assert (run.id, run.state, run.status) == ("7", RunState.PENDING, "")

    def test_every_argument(self) -> None:
        assert variables(
            slug=" daily ",
            commands=("dbt run", "dbt test"),
            branch="main",
            pr_number="12",
            reason="why",
            continue_on_error="true",
        ) == {
            "slug": "daily",
            "commands": ["dbt run", "dbt test"],
            "branch": "main",
            "prNumber": 12,
            "reason": "why",
            "continueOnError": True,
        }
        assert variables(
            schedule_name="daily",
            command_configs=[
                {"command": "dbt run", "continue_on_error": False},
                {"command": "dbt test", "continue_on_error": None},
            ],
        ) == {
            "scheduleName": "daily",
            "commandConfigs": [{"command": "dbt run", "continueOnError": False}, {"command": "dbt test"}],
        }

    def test_lists_may_be_json_text(self) -> None:
        assert variables(slug="d", commands='["dbt run"]')["commands"] == ["dbt run"]
        configs = '[{"command": "dbt run"}]'
        assert variables(slug="d", command_configs=configs)["commandConfigs"] == [{"command": "dbt run"}]

    def test_an_empty_reason_is_not_sent(self) -> None:
        assert variables(slug="d", reason=" ") == {"slug": "d"}

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({}, "give either slug or schedule_name$"),
            ({"slug": "a", "schedule_name": "a"}, "slug or schedule_name, not both"),
            ({"slug": "None"}, "slug is empty"),
            ({"schedule_name": ""}, "schedule_name is empty"),
            ({"slug": 5}, "slug must be a text"),
            ({**DAILY, "commands": []}, "commands must be a list that is not empty"),
            ({**DAILY, "commands": "dbt run"}, "commands must be a list"),
            ({**DAILY, "commands": {"a": 1}}, "commands must be a list"),
            ({**DAILY, "commands": ["dbt run", " "]}, r"commands\[1\] is empty"),
            ({**DAILY, "branch": ""}, "branch is empty"),
            ({**DAILY, "pr_number": 0}, "pr_number must be at least 1"),
            ({**DAILY, "pr_number": 2**31}, "pr_number must be at most 2147483647"),
            ({**DAILY, "reason": 5}, "reason must be a text"),
            ({**DAILY, "commands": ["a"], "command_configs": [{"command": "a"}]}, "not both"),
            ({**DAILY, "command_configs": ["a"]}, r"command_configs\[0\] must be a mapping"),
            ({**DAILY, "command_configs": [{"continue_on_error": True}]}, r"\[0\]: command must be a text"),
            ({**DAILY, "command_configs": [{"command": "a", "b": 1}]}, "has no b"),
            ({**DAILY, "continue_on_error": "perhaps"}, "continue_on_error must be true or false"),
            ({**DAILY, "variables": {}}, "a Paradime run has no variables"),
        ],
    )
    def test_bad_input_is_refused_before_anything_is_sent(self, arguments: Any, said: str) -> None:
        with pytest.raises(BadInput, match=said):
            next(make_api().trigger(arguments))
        with pytest.raises(BadInput, match=said):
            make_api().prepare(arguments)

    def test_a_server_that_takes_no_reason_is_asked_without_it_from_then_on(self) -> None:
        refusal = errors("Unknown argument 'reason' on field 'Mutation.triggerBoltRun'.")
        first, run = play(make_api().trigger({**DAILY, "reason": "r"}), refusal, STARTED)
        assert [request.json["variables"] for request in first] == [{**DAILY, "reason": "r"}, DAILY]
        assert run.id == "7"
        (later,), _ = play(make_api().trigger({**DAILY, "reason": "r"}), STARTED)
        assert later.json["variables"] == DAILY
        elsewhere = make_api(host=ENDPOINT.replace(TOKEN, "other"))
        (other,), _ = play(elsewhere.trigger({**DAILY, "reason": "r"}), STARTED)
        assert other.json["variables"] == {**DAILY, "reason": "r"}

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (DAILY, "Unknown argument 'reason' on field 'Mutation.triggerBoltRun'."),
            ({**DAILY, "reason": "r"}, "Unknown argument 'slug' on field 'Mutation.triggerBoltRun'."),
            ({**DAILY, "reason": "r"}, "Syntax Error: there is no reason for this."),
        ],
    )
    def test_any_other_refusal_is_told(self, arguments: Any, text: str) -> None:
        with pytest.raises(DocumentRefused, match="starting schedule 'daily'"):
            play(make_api().trigger(arguments), errors(text))

    @pytest.mark.parametrize("number", [None, "7", True, 7.0])
    def test_an_answer_without_a_run_id_is_no_run(self, number: Any) -> None:
        with pytest.raises(BadAnswer, match="without a run id") as caught:
            play(make_api().trigger(DAILY), data(triggerBoltRun={"runId": number}))
        assert not caught.value.permanent

    def test_a_run_that_was_started_counts_whatever_else_went_wrong(self) -> None:
        answer = errors(("cannot notify", ["triggerBoltRun", "ok"]), triggerBoltRun={"runId": 7})
        assert play(make_api().trigger(DAILY), answer)[1].id == "7"


class TestRun:
    @pytest.mark.parametrize(
        ("state", "meant", "told"),
        [
            ("STARTING", RunState.PENDING, "STARTING"),
            ("skipped", RunState.FAILED, "SKIPPED"),
            (" Success ", RunState.SUCCEEDED, "SUCCESS"),
            ("DEPLOYING", RunState.UNKNOWN, "DEPLOYING"),
            (None, RunState.UNKNOWN, "null"),
            ("", RunState.UNKNOWN, "null"),
            (5, RunState.UNKNOWN, "null"),
        ],
    )
    def test_states(self, state: Any, meant: RunState, told: str) -> None:
        (request,), run = play(make_api().get(" 5 "), status(state))
        assert (run.id, run.state, run.status) == ("5", meant, told)
        assert request.json == {
            "query": "query boltRunStatus($runId: Int!) { boltRunStatus(runId: $runId) { ok state } }",
            "variables": {"runId": 5},
        }
        assert request.safe_to_repeat

    @pytest.mark.parametrize("run_id", ["", "abc", "5.0", "0", "-1", str(2**31), "9" * 50])
    def test_an_id_that_is_no_number_is_refused(self, run_id: str) -> None:
        api = make_api()
        for flow in (api.get(run_id), api.cancel(run_id), api.list_commands(run_id), api.explain(run_id)):
            with pytest.raises(BadInput, match="run_id must be"):
                next(flow)

    def test_a_cancel_may_be_repeated(self) -> None:
        (request,), _ = play(make_api().cancel("5"), data(cancelBoltRun={"ok": True}))
        assert request.json["variables"] == {"scheduleRunId": 5}
        assert request.safe_to_repeat

    @pytest.mark.parametrize(
        "refusal",
        [
            errors(("Run 5 has already ended.", ["cancelBoltRun"]), cancelBoltRun=None),
            data(cancelBoltRun={"ok": False}),
        ],
    )
    def test_that_an_ended_run_cannot_be_cancelled_is_no_failure(self, refusal: Any) -> None:
        play(make_api().cancel("5"), refusal, status("SUCCESS"))
        with pytest.raises(ApiError, match="cancelling run 5"):
            play(make_api().cancel("5"), refusal, status("RUNNING"))

    def test_who_may_not_cancel_is_told_so(self) -> None:
        with pytest.raises(Unauthorized):
            play(make_api().cancel("5"), errors("no", status=403))


class TestLists:
    def test_runs_are_listed_by_slug(self) -> None:
        (request,), (run,) = play(
            make_api().list_runs({"schedule_name": "daily"}, limit=3),
            runs(row(9, "RUNNING")),
        )
        assert request.json["variables"] == {"slug": "daily", "offset": 0, "limit": 3}
        assert (run.id, run.state) == ("9", RunState.RUNNING)
        assert run.started_at == run.created_at == pendulum.datetime(2027, 1, 15, 8, 0, 0, 500_000)
        assert run.finished_at is None

    def test_times_are_utc_with_and_without_a_zone(self) -> None:
        rows = runs(
            row(9, began="2027-01-15T08:00:00+02:00", endDttm="2027-01-15T08:00:00Z"),
            row(8, began="", endDttm="soon"),
        )
        _, (first, second) = play(make_api().list_runs(DAILY), rows)
        assert first.started_at == pendulum.datetime(2027, 1, 15, 6)
        assert first.finished_at == pendulum.datetime(2027, 1, 15, 8)
        assert (second.started_at, second.finished_at) == (None, None)

    def test_pages_are_turned_to_the_end(self) -> None:
        pages = runs(*(row(n) for n in range(100, 50, -1))), runs(*(row(n) for n in range(51, 40, -1)))
        requests, found = play(make_api().list_runs(DAILY), *pages)
        assert [request.json["variables"]["offset"] for request in requests] == [0, 50]
        # One run was started in between, so another comes twice.
        assert [run.id for run in found] == [str(n) for n in range(100, 40, -1)]

    def test_a_server_that_repeats_a_page_is_not_asked_for_ever(self) -> None:
        page = runs(*(row(n) for n in range(100, 50, -1)))
        with pytest.raises(IncompleteList, match=r"page 2 brings nothing new\. 50 entries were read"):
            play(make_api().list_runs(DAILY), page, page)

    def test_a_schedule_that_comes_twice_is_listed_once(self) -> None:
        def schedules(first: int, last: int) -> Any:
            listed = [{"id": n, "uuid": f"u{n}", "name": f"s{n}"} for n in range(first, last)]
            return data(listBoltSchedules={"totalCount": 51, "schedules": listed})

        # One was deleted in between, so that others moved up, and one was made.
        _, found = play(make_api().list_schedules(), schedules(0, 50), schedules(48, 52))
        assert [row["id"] for row in found] == list(range(52))

    def test_no_further_page_than_the_limit_needs(self) -> None:
        page = runs(*(row(n) for n in range(1200, 200, -1))), runs(*(row(n) for n in range(200, 100, -1)))
        requests, found = play(make_api().list_runs(DAILY, limit=1100), *page)
        assert [request.json["variables"]["limit"] for request in requests] == [1000, 100]
        assert len(found) == 1100

    def test_older_runs_are_left_out(self) -> None:
        since = pendulum.datetime(2027, 1, 15, 8).timestamp()
        old = [row(n, began="2027-01-15 07:00:00") for n in range(98, 50, -1)]
        page = runs(row(100), row(99, began=""), *old)
        _, found = play(make_api().list_runs(DAILY, since=since), page)
        assert [run.id for run in found] == ["100", "99"]

    def test_states_are_chosen_here(self) -> None:
        pages = runs(*(row(n) for n in range(100, 50, -1))), runs(row(50, "FAILED"), row(49, "FAILED"))
        _, found = play(make_api().list_runs({**DAILY, "state": "failed"}, limit=1), *pages)
        assert [run.id for run in found] == ["50"]
        full = runs(*(row(n, "FAILED") for n in range(100, 50, -1)))
        _, found = play(make_api().list_runs({**DAILY, "state": ["FAILED"]}, limit=1), full)
        assert [run.id for run in found] == ["100"]
        with pytest.raises(BadInput, match="state must be one of STARTING, RUNNING"):
            next(make_api().list_runs({**DAILY, "state": "BUSY"}))

    def test_active_runs_are_looked_for_among_the_newest(self) -> None:
        filters = make_api().active_filters({"slug": "daily", "branch": "main"})
        rows = [row(100), row(99, "RUNNING"), *(row(n) for n in range(98, 0, -1))]
        (request,), (run,) = play(make_api().list_runs(filters, limit=20), runs(*rows))
        assert request.json["variables"] == {"slug": "daily", "offset": 0, "limit": 100}
        assert run.id == "99"

    def test_an_empty_list_may_mean_that_there_is_no_such_schedule(self) -> None:
        known = data(boltScheduleName={"ok": True, "latestRunId": None})
        requests, found = play(make_api().list_runs(DAILY), runs(), known)
        assert found == [] and requests[1].json["variables"] == DAILY
        gone = errors(("Schedule daily not found", ["boltScheduleName"]), boltScheduleName=None)
        with pytest.raises(NotFound, match="schedule 'daily'"):
            play(make_api().list_runs(DAILY), runs(), gone)

    @pytest.mark.parametrize("rows", [None, {}, [1], [{"id": "9"}], [{"id": True}]])
    def test_a_list_that_cannot_be_read(self, rows: Any) -> None:
        with pytest.raises(BadAnswer, match="without a list of runs"):
            play(make_api().list_runs(DAILY), data(listBoltRuns={"ok": True, "runs": rows}))

    @pytest.mark.parametrize("filters", [{}, {**DAILY, "branch": "main"}, {**DAILY, "newest": 0}])
    def test_bad_filters(self, filters: Any) -> None:
        with pytest.raises(BadInput):
            next(make_api().list_runs(filters))

    def test_schedules_are_listed(self) -> None:
        def schedules(*names: str) -> Any:
            listed = [{"name": name} for name in names]
            return data(listBoltSchedules={"totalCount": 51, "schedules": listed})

        requests, found = play(make_api().list_schedules(), schedules(*"a" * 50), schedules("b"))
        assert [request.json["variables"]["offset"] for request in requests] == [0, 50]
        assert len(found) == 51
        (request,), _ = play(make_api().list_schedules(show_inactive=True, limit=1), schedules("a"))
        assert request.json["variables"] == {"offset": 0, "limit": 1, "showInactive": True}
        for rows in (None, [1]):
            with pytest.raises(BadAnswer, match="without a list of schedules"):
                play(make_api().list_schedules(), data(listBoltSchedules={"schedules": rows}))

    def test_an_older_server_is_asked_for_less(self) -> None:
        refusal = errors("Cannot query field 'suspended' on type 'BoltScheduleDetails'.")
        known = data(boltScheduleName={"ok": True})
        requests, _ = play(make_api().get_schedule(DAILY), refusal, known)
        assert ["suspended" in request.json["query"] for request in requests] == [True, False]
        (again,), _ = play(make_api().get_schedule(DAILY), known)
        assert "suspended" not in again.json["query"]
        with pytest.raises(DocumentRefused):
            play(make_api().get_schedule(DAILY), refusal)

    def test_another_refusal_is_not_asked_again(self) -> None:
        with pytest.raises(DocumentRefused):
            play(make_api().get_schedule(DAILY), errors("Unknown argument 'slug'"))

    @pytest.mark.parametrize("suspend", [True, False])
    def test_a_schedule_is_suspended(self, suspend: bool) -> None:
        done = data(suspendBoltSchedule={"ok": True})
        (request,), _ = play(make_api().suspend_schedule({"schedule_name": "daily"}, suspend=suspend), done)
        assert request.json["variables"] == {"slug": "daily", "suspend": suspend}
        assert request.safe_to_repeat


class TestCommands:
    COMMANDS = (
        {"id": 3, "command": "dbt test", "returnCode": None},
        {"id": 1, "command": "git clone", "returnCode": 0},
        {"id": 2, "command": "dbt run", "returnCode": 1},
    )

    def test_commands_come_in_their_order_and_without_their_output(self) -> None:
        (request,), found = play(make_api().list_commands("5"), status("RUNNING", commands=[*self.COMMANDS]))
        assert [one["id"] for one in found] == [1, 2, 3]
        assert "stdout" not in request.json["query"] and "stderr" not in request.json["query"]
        with pytest.raises(BadAnswer, match="without a list of commands"):
            play(make_api().list_commands("5"), status("RUNNING", commands=None))

    def test_files_of_all_commands_are_asked_for_at_once(self) -> None:
        answer = data(
            r0={"ok": True, "resources": []},
            r1={"ok": True, "resources": [{"id": 21, "path": "target/a.json"}]},
            r2={"ok": True, "resources": [{"id": 31, "path": "target/a.json"}]},
        )
        requests, found = play(
            make_api().list_resources("5"), status("RUNNING", commands=[*self.COMMANDS]), answer
        )
        assert requests[1].json["variables"] == {"r0": 1, "r1": 2, "r2": 3}
        assert found == [
            {"id": 21, "path": "target/a.json", "command_id": 2, "command": "dbt run"},
            {"id": 31, "path": "target/a.json", "command_id": 3, "command": "dbt test"},
        ]

    def test_a_run_without_commands_has_no_files(self) -> None:
        assert play(make_api().list_resources("5"), status("STARTING", commands=[]))[1] == []

    @pytest.mark.parametrize(
        ("answer", "kind"),
        [
            (data(boltCommand={"ok": True, "resources": None}), BadAnswer),
            (data(boltCommand=None), BadAnswer),
            (errors(("Command 1 not found", ["boltCommand"]), boltCommand=None), NotFound),
        ],
    )
    def test_files_that_cannot_be_listed(self, answer: Any, kind: type) -> None:
        one = status("RUNNING", commands=[self.COMMANDS[1]])
        with pytest.raises(kind, match="files of command"):
            play(make_api().list_resources("5"), one, answer)

    def test_a_files_address_is_a_secret_from_the_moment_on_that_it_is_known(self) -> None:
        kept: list[str] = []
        api = make_api(keep_secret=kept.append)
        url = "https://store.example.com/a.json?X-Amz-Signature=planted"
        _, found = play(api.get_resource_url("21"), data(boltResourceUrl={"ok": True, "url": url}))
        assert found == url
        assert set(kept) == {url, "X-Amz-Signature=planted"}
        assert api.redact(f"GET {url} or /a.json?X-Amz-Signature=planted") == "GET *** or /a.json?***"

    def test_an_address_that_cannot_be_read_is_a_secret_too(self) -> None:
        kept: list[str] = []
        url = "https://[::1/a.json?X-Amz-Signature=planted"
        api = make_api(keep_secret=kept.append)
        assert play(api.get_resource_url(21), data(boltResourceUrl={"ok": True, "url": url}))[1] == url
        assert set(kept) == {url, "X-Amz-Signature=planted"}

    @pytest.mark.parametrize("url", [None, "", "target/a.json", 5])
    def test_an_answer_without_an_address(self, url: Any) -> None:
        with pytest.raises(BadAnswer, match="without an address"):
            play(make_api().get_resource_url(21), data(boltResourceUrl={"ok": True, "url": url}))

    def test_logs_are_read_from_a_cursor(self) -> None:
        lines = [{"stream": "STDOUT", "line": "a\n"}, {"stream": "STDERR", "line": None}]
        piece = data(boltCommandLogs={"lines": lines, "cursor": "1:1", "finished": False})
        (request,), logs = play(make_api().get_command_logs(3), piece)
        assert request.json["variables"] == {"commandId": 3, "cursor": "0:0"}
        assert (logs.lines, logs.cursor, logs.finished) == ([("STDOUT", "a\n"), ("STDERR", "")], "1:1", False)
        (request,), _ = play(make_api().get_command_logs("3", "1:1"), piece)
        assert request.json["variables"]["cursor"] == "1:1"

    @pytest.mark.parametrize("change", [{"lines": None}, {"lines": [1]}, {"cursor": 1}, {"finished": None}])
    def test_logs_that_cannot_be_read(self, change: Any) -> None:
        piece = {"lines": [], "cursor": "0:0", "finished": True, **change}
        with pytest.raises(BadAnswer, match="without lines, cursor and end"):
            play(make_api().get_command_logs(3), data(boltCommandLogs=piece))


class TestExplain:
    def test_the_command_that_ended_the_run_is_shown(self) -> None:
        commands = [
            {"id": 1, "command": "git clone", "returnCode": 0},
            {"id": 2, "command": "dbt source freshness", "returnCode": 1},
            {"id": 3, "command": "dbt test", "returnCode": 2},
            {"id": 4, "command": "dbt docs generate", "returnCode": None},
        ]
        details = {"ok": True, "command": "dbt test", "returnCode": 2, "stdout": "FAIL 1", "stderr": ""}
        requests, said = play(
            make_api().explain("5"),
            status("FAILED"),
            status("FAILED", commands=commands),
            data(boltCommand=details),
        )
        assert requests[2].json["variables"] == {"commandId": 3}
        first, *others = str(said).splitlines()
        assert "dbt test" in first and "2" in first
        assert any("FAIL 1" in line for line in others)
        assert others[0] == "command 'dbt source freshness' had failed before"

    @pytest.mark.parametrize("state", ["STARTING", "RUNNING", "SUCCESS", "PENDING"])
    def test_there_is_nothing_to_explain(self, state: str) -> None:
        assert play(make_api().explain("5"), status(state))[1] is None

    @pytest.mark.parametrize("state", ["ERROR", "CANCELED", "SKIPPED"])
    def test_no_command_has_failed(self, state: str) -> None:
        commands = [{"id": 1, "command": "git clone", "returnCode": 0}, {"id": 2, "returnCode": None}]
        _, said = play(make_api().explain("5"), status(state), status(state, commands=commands))
        assert said == f"no command of the run has failed; Paradime calls it {state}"


class TestRetry:
    def test_the_failed_commands_are_repeated_by_a_new_run(self) -> None:
        requests, _ = play(make_api().check_retry("5", {}), status("FAILED"))
        assert len(requests) == 1
        (request,), run = play(make_api().retry("5", {}), data(retryBoltRun={"runId": 8}))
        assert request.json["variables"] == {"scheduleRunId": 5}
        assert not request.safe_to_repeat
        assert (run.id, run.state) == ("8", RunState.PENDING)

    def test_all_commands_are_repeated(self) -> None:
        play(make_api().check_retry("5", {"all_commands": "true"}), status("SUCCESS"))
        (request,), _ = play(
            make_api().retry("5", {"all_commands": True}), data(retryAllBoltRun={"runId": 8})
        )
        assert "retryAllBoltRun" in request.json["query"]

    @pytest.mark.parametrize(
        ("state", "said"), [("SUCCESS", "it has succeeded"), ("RUNNING", "only an ended run")]
    )
    def test_what_would_do_nothing_is_refused(self, state: str, said: str) -> None:
        with pytest.raises(ApiError, match=f"run 5 is not retried: .*{said}") as caught:
            play(make_api().check_retry("5", {}), status(state))
        assert caught.value.permanent

    @pytest.mark.parametrize(
        "arguments", [{"all_commands": "perhaps"}, {"branch": "a"}, {"slug": "a", "schedule_name": "b"}]
    )
    def test_bad_input(self, arguments: Any) -> None:
        with pytest.raises(BadInput):
            make_api().prepare_retry("5", arguments)

    def test_a_retry_whose_answer_was_lost_is_found_by_its_parent(self) -> None:
        began = pendulum.from_timestamp(NOW).to_iso8601_string()
        before = pendulum.from_timestamp(NOW - 4000).to_iso8601_string()
        listed = runs(
            row(9, began=began, parentScheduleRunId=4),
            row(8, "RUNNING", began=began, parentScheduleRunId=5),
            row(7, began=before, parentScheduleRunId=5),
        )
        requests, run = play(make_api().find_retried("5", {"slug": "daily"}, NOW), status("FAILED"), listed)
        assert run is not None and (run.id, run.state) == ("8", RunState.RUNNING)
        assert requests[1].json["variables"]["slug"] == "daily"
        _, none = play(make_api().find_retried("5", {}, NOW), status("FAILED"), runs(row(9, began=began)))
        assert none is None

    def test_an_earlier_retry_is_not_taken_for_this_one_nor_left_out(self) -> None:
        # Times come without a zone: what looks older may be the run that was just begun.
        before = pendulum.from_timestamp(NOW - 4000).to_iso8601_string()
        listed = runs(row(7, "FAILED", began=before, parentScheduleRunId=5))
        with pytest.raises(Unsure, match="run 5 has been retried, as run 7") as caught:
            play(make_api().find_retried("5", DAILY, NOW), status("FAILED"), listed)
        assert [run.id for run in caught.value.runs] == ["7"]
        long_before = pendulum.from_timestamp(NOW - 90_000).to_iso8601_string()
        listed = runs(row(7, "FAILED", began=long_before, parentScheduleRunId=5))
        assert play(make_api().find_retried("5", DAILY, NOW), status("FAILED"), listed)[1] is None

    def test_old_pages_are_not_turned(self) -> None:
        before = pendulum.from_timestamp(NOW - 90_000).to_iso8601_string()
        page = runs(*(row(n, began=before) for n in range(100, 50, -1)))
        assert play(make_api().find_retried("5", DAILY, NOW), status("FAILED"), page)[1] is None

    def test_the_newest_run_of_a_schedule_is_retried(self) -> None:
        done = data(retryBoltRunFromFailure={"runId": 8})
        (request,), run = play(make_api().retry_from_failure({"schedule_name": "daily"}), done)
        assert request.json["variables"] == DAILY and run.id == "8"
        with pytest.raises(BadInput):
            next(make_api().retry_from_failure({"branch": "a"}))


class TestLostStart:
    """A start whose answer was lost (contract section 6)."""

    SCHEDULE = data(boltScheduleName={"ok": True, "latestRunId": 90, "commands": ["dbt run", "dbt test"]})
    BEGAN = pendulum.from_timestamp(NOW + 1).to_iso8601_string()

    def snapshot(self, **arguments: Any) -> Any:
        return play(make_api().snapshot({**DAILY, **arguments}), self.SCHEDULE)[1]

    def candidate(self, number: int, state: str = "RUNNING", **more: Any) -> Any:
        return row(number, state, began=self.BEGAN, **more)

    def listed(self, *commands: str) -> Any:
        rows = [{"id": index, "command": text} for index, text in enumerate(commands, 1)]
        return status("RUNNING", commands=rows)

    def find(self, snapshot: Any, *answers: Any) -> Any:
        return play(make_api().find_unmarked(snapshot, NOW), *answers)[1]

    def unsure(self, snapshot: Any, *answers: Any, may_tell: bool = False) -> list[str]:
        with pytest.raises(Unsure, match="schedule 'daily' may have been started") as caught:
            self.find(snapshot, *answers)
        assert caught.value.may_tell is may_tell
        return [run.id for run in caught.value.runs]

    def test_the_snapshot_holds_no_text_of_a_command(self) -> None:
        taken = self.snapshot(commands=["dbt run", "dbt test --vars 'key: hush'"], branch="main", pr_number=3)
        assert {**taken, "commands": len(taken["commands"])} == {
            "slug": "daily",
            "latest": 90,
            "commands": 2,
            "shared": 1,
            "branch": "main",
            "pr_number": 3,
        }
        assert "hush" not in json.dumps(taken)
        assert (
            taken["commands"]
            == self.snapshot(
                command_configs=[{"command": "dbt run"}, {"command": "dbt test --vars 'key: hush'"}]
            )["commands"]
        )

    def test_a_schedule_that_never_ran(self) -> None:
        never = data(boltScheduleName={"ok": True, "latestRunId": None, "commands": None})
        _, taken = play(make_api().snapshot({"schedule_name": "daily", "commands": ["a"]}), never)
        assert (taken["slug"], taken["latest"], taken["shared"]) == ("daily", 0, 0)
        for latest in ("90", True):
            with pytest.raises(BadAnswer, match="without its latest run"):
                play(make_api().snapshot(DAILY), data(boltScheduleName={"ok": True, "latestRunId": latest}))

    def test_there_is_no_run_that_could_be_it(self) -> None:
        old = row(95, began=pendulum.from_timestamp(NOW - 90_000).to_iso8601_string())
        assert self.find(self.snapshot(), runs(old, row(90))) is None
        assert self.find(self.snapshot(), runs()) is None

    def test_the_zone_of_the_servers_clock_does_not_matter(self) -> None:
        local = pendulum.from_timestamp(NOW - 8 * 3600).strftime("%Y-%m-%d %H:%M:%S")
        assert self.unsure(self.snapshot(), runs(row(91, began=local), row(90, began=local))) == ["91"]

    def test_no_older_page_is_turned(self) -> None:
        page = runs(*(row(number) for number in range(90, 40, -1)))
        assert self.find(self.snapshot(), page) is None

    def test_a_run_of_the_schedules_own_commands_may_be_anybodys(self) -> None:
        assert self.unsure(self.snapshot(), runs(self.candidate(91), row(90))) == ["91"]
        assert self.unsure(self.snapshot(), runs(self.candidate(92), self.candidate(91))) == ["92", "91"]

    def test_a_run_with_commands_that_only_we_asked_for_is_ours(self) -> None:
        taken = self.snapshot(commands=["dbt run", "dbt test -s a"])
        candidates = runs(self.candidate(92), self.candidate(91))
        found = self.find(
            taken,
            candidates,
            self.listed("git clone", "dbt deps", "dbt run", "dbt test"),
            self.listed("git clone", "dbt deps", "dbt run", "dbt test -s a"),
        )
        assert (found.id, found.state) == ("91", RunState.RUNNING)

    def test_before_its_own_commands_a_run_may_be_anybodys(self) -> None:
        taken = self.snapshot(commands=["dbt run", "dbt test -s a"])
        one = runs(self.candidate(91))
        assert self.unsure(taken, one, self.listed("git clone"), may_tell=True) == ["91"]
        assert self.unsure(taken, one, self.listed("git clone", "dbt run"), may_tell=True) == ["91"]
        assert self.unsure(taken, one, self.listed(), may_tell=True) == ["91"]
        # The schedule begins with all of them, too.
        assert self.unsure(self.snapshot(commands=["dbt run"]), one, self.listed("git clone")) == ["91"]

    def test_a_run_that_has_succeeded_with_other_commands_is_not_ours(self) -> None:
        taken = self.snapshot(commands=["dbt run -s a"])
        ended = runs(self.candidate(91, "SUCCESS"))
        assert self.find(taken, ended, self.listed("git clone", "dbt run", "dbt test")) is None
        failed = runs(self.candidate(91, "FAILED"))
        assert self.unsure(taken, failed, self.listed("git clone")) == ["91"]

    def test_two_runs_with_our_commands_are_one_too_many(self) -> None:
        taken = self.snapshot(commands=["dbt run -s a"])
        three = runs(self.candidate(93), self.candidate(92), self.candidate(91))
        ours = self.listed("git clone", "dbt run -s a")
        assert self.unsure(taken, three, ours, self.listed("git clone"), ours) == ["93", "91"]

    def test_too_many_runs_are_not_looked_into(self) -> None:
        taken = self.snapshot(commands=["dbt run -s a"])
        many = runs(*(self.candidate(number) for number in range(130, 100, -1)))
        assert len(self.unsure(taken, many)) == 30

    @pytest.mark.parametrize(
        ("arguments", "git", "possible"),
        [
            ({"branch": "main"}, {"branch": "main"}, True),
            ({"branch": "main"}, {"branch": "origin/main"}, True),
            ({"branch": "origin/main"}, {"branch": "main"}, True),
            ({"branch": "main"}, {}, True),
            ({"branch": "main"}, None, True),
            ({"branch": "main"}, {"branch": "other"}, False),
            ({"branch": "abcdef1"}, {"branch": "main"}, True),
            ({"branch": "abcdef1"}, {"branch": "main", "commitHash": "abcdef1234"}, True),
            ({"branch": "abcdef1234"}, {"branch": "main", "commitHash": "abcdef1"}, True),
            ({"branch": "abcdef1"}, {"branch": "main", "commitHash": "1234567"}, False),
            ({"pr_number": 3}, {"pullRequestId": "3"}, True),
            ({"pr_number": 3}, {"pullRequestId": 3}, True),
            ({"pr_number": 3}, {"pullRequestId": None}, True),
            ({"pr_number": 3}, {"pullRequestId": "4"}, False),
        ],
    )
    def test_branch_and_pull_request_count(self, arguments: Any, git: Any, possible: bool) -> None:
        taken, candidates = self.snapshot(**arguments), runs(self.candidate(91, gitInfo=git))
        if possible:
            assert self.unsure(taken, candidates) == ["91"]
        else:
            assert self.find(taken, candidates) is None

    def test_a_retry_of_another_run_is_not_ours(self) -> None:
        assert self.find(self.snapshot(), runs(self.candidate(91, parentScheduleRunId=5))) is None

    @pytest.mark.parametrize("taken", [{}, {"slug": "daily"}, {"slug": 5, "latest": 1}])
    def test_without_a_snapshot_nothing_is_known(self, taken: Any) -> None:
        with pytest.raises(Unsure, match="not known which") as caught:
            next(make_api().find_unmarked(taken, NOW))
        assert caught.value.runs == ()

    def test_a_retry_takes_along_the_schedule(self) -> None:
        assert make_api().retry_arguments({**DAILY, "branch": "main"}) == DAILY
