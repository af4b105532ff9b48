"""Triggers by name, lists, retries, logs and reasons: what is asked of Mage, and what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from airflow_provider_runs.core.errors import ApiError, BadInput, ConnectionFailed, NotFound, Unauthorized
from airflow_provider_runs.core.pages import IncompleteList
from airflow_provider_runs.core.run import RunState
from tests.answers import answer, sample
from tests.mage.conftest import HOST, NOW, PASSWORD, make_api
from tests.mage.test_api import logs, run_answer
from tests.play import play

TOLD = "token_that_the_server_told"


def trigger_row(number=1, **changes):
    return {
        "id": number,
        "name": "from_airflow",
        "pipeline_uuid": "example",
        "schedule_type": "api",
        "status": "active",
        "token": TOLD,
        "settings": {},
        **changes,
    }


def one(**changes):
    return answer({"pipeline_schedule": trigger_row(**changes), "metadata": None})


def listed(*rows, more=False):
    return answer({"pipeline_schedules": list(rows), "metadata": {"count": len(rows), "next": more}})


def page(*rows, more=False):
    return answer({"pipeline_runs": list(rows), "metadata": {"count": len(rows), "next": more}})


def run_row(number=7, **changes):
    return {
        "id": number,
        "status": "completed",
        "pipeline_schedule_id": 1,
        "pipeline_uuid": "example",
        "created_at": "2026-11-22 04:29:18",
        "execution_date": "2026-11-22 04:29:18.103077",
        **changes,
    }


def uncaught(text):
    body = sample("mage/error_uncaught")
    body["error"] |= {"exception": text, "message": f"Traceback\nException: {text}"}
    return answer(body)


STARTED = answer(sample("mage/trigger"))
REFUSED = answer({"error": {"code": 403, "message": "no", "type": "unauthorized_access"}, "status": 403}, 403)
MISSING = answer({"error": {"code": 404, "message": "no", "type": "record_not_found"}, "status": 404}, 404)


def tokenless(**extra):
    return make_api({"trigger_token": None, **extra})


class TestWhichTrigger:
    def test_by_id_it_is_looked_at_first(self):
        (look, start), _ = play(tokenless().trigger({"pipeline_schedule_id": 1}), one(), STARTED)
        assert (look.method, look.url) == ("GET", f"{HOST}/api/pipeline_schedules/1")
        assert (start.method, start.url) == ("POST", f"{HOST}/api/pipeline_schedules/1/api_trigger")
        assert start.headers == {"Authorization": f"Bearer {TOLD}"}

    def test_by_name_it_is_found_among_those_of_its_pipeline(self):
        arguments = {"pipeline_uuid": "ex/ample", "trigger_name": "from_airflow"}
        rows = listed(trigger_row(5, name="other"), trigger_row(8))
        (look, start), _ = play(tokenless().trigger(arguments), rows, STARTED)
        assert look.url == f"{HOST}/api/pipelines/ex%2Fample/pipeline_schedules"
        assert start.url == f"{HOST}/api/pipeline_schedules/8/api_trigger"

    def test_the_only_api_trigger_of_a_pipeline_needs_no_name(self):
        rows = listed(trigger_row(5, schedule_type="time", name="nightly"), trigger_row(8))
        (_, start), _ = play(tokenless().trigger({"pipeline_uuid": "example"}), rows, STARTED)
        assert start.url.endswith("/8/api_trigger")

    def test_of_several_api_triggers_one_must_be_named(self):
        rows = listed(trigger_row(5, name="a"), trigger_row(8, name="b"))
        with pytest.raises(
            BadInput, match=r"has 2 of API trigger: 'a' \(5\), 'b' \(8\); name one by trigger_n"
        ):
            play(tokenless().trigger({"pipeline_uuid": "example"}), rows)

    def test_of_several_triggers_with_one_name_one_must_be_chosen_by_id(self):
        rows = listed(trigger_row(5), trigger_row(8))
        arguments = {"pipeline_uuid": "example", "trigger_name": "from_airflow"}
        with pytest.raises(BadInput, match="name one by pipeline_schedule_id"):
            play(tokenless().trigger(arguments), rows)

    @pytest.mark.parametrize(("rows", "said"), [([], "none"), ([trigger_row(5)], r"'from_airflow' \(5\)")])
    def test_a_name_that_does_not_exist_is_not_found(self, rows, said):
        arguments = {"pipeline_uuid": "example", "trigger_name": "nothing"}
        with pytest.raises(NotFound, match=f"'example' in Mage has no trigger 'nothing'; it has {said}"):
            play(tokenless().trigger(arguments), listed(*rows))

    def test_a_pipeline_that_does_not_exist_is_not_found(self):
        with pytest.raises(NotFound, match=r"Pipeline nothing does not exist\."):
            play(
                tokenless().trigger({"pipeline_uuid": "nothing"}),
                uncaught("Pipeline nothing does not exist."),
            )

    def test_the_list_of_triggers_is_read_to_its_end(self):
        pages = [listed(trigger_row(9, name="a"), more=True), listed(trigger_row(8))]
        arguments = {"pipeline_uuid": "example", "trigger_name": "from_airflow"}
        requests, _ = play(tokenless().trigger(arguments), *pages, STARTED)
        assert [request.params["_offset"] for request in requests[:2]] == ["0", "100"]

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({}, "not neither"),
            ({"trigger_name": "a"}, "not neither"),
            ({"pipeline_schedule_id": 1, "pipeline_uuid": "a"}, "not both"),
            ({"pipeline_schedule_id": 1, "trigger_name": "a"}, "not both"),
            ({"pipeline_uuid": " "}, "pipeline_uuid is empty"),
            ({"pipeline_uuid": "a", "trigger_name": ""}, "trigger_name is empty"),
            ({"pipeline_uuid": 5}, "pipeline_uuid must be a text"),
            ({"pipeline_schedule_id": "x"}, "must be a whole number"),
            ({"pipeline_schedule_id": 1, "allow_inactive_trigger": "perhaps"}, "must be true or false"),
        ],
    )
    def test_what_names_no_trigger_is_refused_before_anything_is_sent(self, arguments, said):
        api = make_api()
        with pytest.raises(BadInput, match=said):
            api.prepare(arguments)
        with pytest.raises(BadInput, match=said):
            next(api.trigger(arguments))
        if "allow_inactive_trigger" not in arguments:
            with pytest.raises(BadInput, match=said):
                next(api.find_started(arguments, "key", NOW))


class TestMayItBeCalled:
    @pytest.mark.parametrize("token", [None, "mine"])
    def test_an_inactive_trigger_is_refused(self, token):
        api = make_api({"trigger_token": token})
        with pytest.raises(ApiError, match=r"trigger 1 \('from_airflow'\) is inactive in Mage") as caught:
            play(api.trigger({"pipeline_schedule_id": 1}), one(status="inactive"))
        assert caught.value.permanent

    @pytest.mark.parametrize("allowed", [True, "true", "True"])
    def test_an_inactive_trigger_is_called_where_that_is_allowed(self, allowed):
        arguments = {"pipeline_schedule_id": 1, "allow_inactive_trigger": allowed}
        _, run = play(tokenless().trigger(arguments), one(status="inactive"), STARTED)
        assert run.id == "2"

    def test_what_was_looked_up_before_the_start_is_not_looked_up_again(self):
        api, arguments = tokenless(), {"pipeline_schedule_id": 1}
        play(api.ready(arguments), one())
        (start,), _ = play(api.trigger(arguments, "key-1", NOW), STARTED)
        assert (start.method, start.headers) == ("POST", {"Authorization": f"Bearer {TOLD}"})
        (look, _), _ = play(api.trigger(arguments), one(), STARTED)
        assert look.method == "GET"

    def test_what_may_not_be_called_is_refused_before_the_start(self):
        with pytest.raises(ApiError, match="is inactive"):
            play(tokenless().ready({"pipeline_schedule_id": 1}), one(status="inactive"))

    def test_a_time_trigger_is_refused(self):
        with pytest.raises(ApiError, match="is a time trigger in Mage; only API triggers") as caught:
            play(tokenless().trigger({"pipeline_schedule_id": 1}), one(schedule_type="time"))
        assert caught.value.permanent

    def test_a_trigger_that_does_not_exist_is_not_found(self):
        with pytest.raises(NotFound, match="trigger 1"):
            play(tokenless().trigger({"pipeline_schedule_id": 1}), MISSING)

    def test_another_trigger_than_the_one_asked_for_cannot_be_used(self):
        with pytest.raises(ApiError, match="cannot be used"):
            play(tokenless().trigger({"pipeline_schedule_id": 1}), one(number=2))

    def test_without_a_login_it_is_called_unseen(self):
        api = make_api(login=None, password=None, token=False)
        (_, start), _ = play(api.trigger({"pipeline_schedule_id": 1}), REFUSED, STARTED)
        assert start.url == f"{HOST}/api/pipeline_schedules/1/api_trigger"

    @pytest.mark.parametrize(
        ("api", "arguments"),
        [
            (make_api(), {"pipeline_schedule_id": 1}),
            (tokenless(login=None), {"pipeline_schedule_id": 1}),
            (make_api(login=None, password=None, token=False), {"pipeline_uuid": "example"}),
        ],
        ids=["with a login", "without a token", "by name"],
    )
    def test_a_refused_look_ends_the_start_otherwise(self, api, arguments):
        with pytest.raises(Unauthorized):
            play(api.trigger(arguments), REFUSED)


class TestToken:
    def test_the_connections_token_comes_first(self):
        (_, start), _ = play(
            make_api({"trigger_token": "mine"}).trigger({"pipeline_schedule_id": 1}), one(), STARTED
        )
        assert start.headers == {"Authorization": "Bearer mine"}

    @pytest.mark.parametrize("token", [None, "", " ", 5, "[API_TOKEN_PLACEHOLDER]"])
    def test_a_token_that_the_server_hides_must_stand_in_the_connection(self, token):
        with pytest.raises(
            BadInput, match=r"does not tell the token of trigger 1 .*set the field trigger_tok"
        ):
            play(tokenless().trigger({"pipeline_schedule_id": 1}), one(token=token))

    def test_a_token_that_was_read_is_kept_secret(self):
        kept = []
        api = make_api({"trigger_token": None}, keep_secret=kept.append)
        play(api.trigger({"pipeline_schedule_id": 1}), one(), STARTED)
        assert kept == [TOLD] and TOLD in api.secrets()
        assert api.redact(f"see {TOLD}") == "see ***"

    def test_it_is_in_no_error_about_the_start(self):
        said = uncaught(f"unexpected {TOLD}")
        with pytest.raises(ApiError) as caught:
            play(tokenless().trigger({"pipeline_schedule_id": 1}), one(), said)
        assert TOLD not in str(caught.value)


class TestOldTriggerUrl:
    ARGUMENTS = {"pipeline_schedule_id": 71, "event_variables": {"env": "dev"}}  # noqa: RUF012

    def start(self, key=None, token="tok123", **changes):
        api = make_api({"trigger_token": token, "old_trigger_url": True})
        arguments = {**self.ARGUMENTS, "allow_inactive_trigger": True, **changes}
        (request,), _ = play(api.trigger(arguments, key, NOW), STARTED)
        return request

    def test_the_token_is_in_the_url_that_is_sent_and_nowhere_else(self):
        request = self.start()
        assert request.target == f"{HOST}/api/pipeline_schedules/71/pipeline_runs/tok123"
        assert request.url == f"{HOST}/api/pipeline_schedules/71/pipeline_runs/***"
        assert "tok123" not in f"{request} {request!r} {request.headers}"

    def test_the_payload_is_bare_and_holds_the_marker(self):
        assert self.start().json == {"env": "dev"}
        assert self.start("key-1").json == {"env": "dev", "airflow_run_key": "key-1"}

    def test_the_marker_is_found_among_the_event_variables(self):
        row = run_row(variables={}, event_variables={"airflow_run_key": "key-1"})
        api = make_api({"old_trigger_url": True})
        _, run = play(api.find_started({"pipeline_schedule_id": 1}, "key-1", NOW), page(row))
        assert run is not None and run.id == "7"

    def test_the_marker_may_not_be_given(self):
        with pytest.raises(BadInput, match="must not hold airflow_run_key"):
            self.start(event_variables={"airflow_run_key": "mine"})

    def test_run_variables_are_refused(self):
        with pytest.raises(BadInput, match=r"old_trigger_url on.*give event_variables"):
            self.start(variables={"a": 1})

    @pytest.mark.parametrize("token", ["with-dash", "a/b", "ä", "a b"])
    def test_a_token_that_mage_would_not_take_in_a_url_is_refused(self, token):
        with pytest.raises(BadInput):
            self.start(token=token)

    @pytest.mark.parametrize("value", ["maybe", 3, []])
    def test_the_switch_is_yes_or_no(self, value):
        with pytest.raises(BadInput, match="'old_trigger_url' must be true or false"):
            make_api({"old_trigger_url": value})


class TestGuard:
    """`prevent_duplicates` and a date that is fixed before the first request."""

    ARGUMENTS = {"pipeline_schedule_id": 1, "allow_inactive_trigger": True}  # noqa: RUF012
    BEGAN = 1_800_000_000.25
    DUPLICATE = uncaught("'NoneType' object has no attribute 'to_dict'")
    OLD_SERVER = uncaught("'prevent_duplicates' is an invalid keyword argument for PipelineRun")

    def start(self, *answers, began=BEGAN, key="key-1"):
        return play(make_api().trigger(self.ARGUMENTS, key, began), *answers)

    def test_a_start_with_a_key_fixes_its_date(self):
        (request,), _ = self.start(STARTED)
        run = request.json["pipeline_run"]
        assert run.pop("variables") == {"airflow_run_key": "key-1"}
        assert run == {"execution_date": "2027-01-15T08:00:00.250000+00:00", "prevent_duplicates": True}

    @pytest.mark.parametrize(("key", "began"), [(None, BEGAN), ("key-1", None), (None, None)])
    def test_a_start_that_is_not_repeated_leaves_the_date_to_mage(self, key, began):
        (request,), _ = self.start(STARTED, key=key, began=began)
        assert set(request.json["pipeline_run"]) == {"variables"}

    def test_where_the_run_is_there_already_it_is_found(self):
        ours = page(run_row(9, variables={"airflow_run_key": "key-1"}))
        (start, look), run = self.start(self.DUPLICATE, ours)
        assert (start.method, look.method, run.id) == ("POST", "GET", "9")

    def test_another_runs_date_is_left_to_it(self):
        requests, run = self.start(self.DUPLICATE, page(run_row(9, variables={})), STARTED)
        dates = [one.json["pipeline_run"]["execution_date"] for one in requests if one.method == "POST"]
        assert dates == ["2027-01-15T08:00:00.250000+00:00", "2027-01-15T08:00:00.250001+00:00"]
        assert run.id == "2"

    def test_a_server_that_always_says_so_is_not_asked_for_ever(self):
        with pytest.raises(ApiError, match="lists none") as caught:
            self.start(*[self.DUPLICATE, page()] * 5)
        assert not caught.value.permanent

    def test_a_list_that_cannot_be_read_leaves_it_open(self):
        with pytest.raises(ConnectionFailed):
            self.start(self.DUPLICATE, ConnectionFailed("down", sent=True))

    def test_a_server_that_does_not_know_the_guard_is_asked_without(self):
        (_, second), run = self.start(self.OLD_SERVER, STARTED)
        assert second.json["pipeline_run"] == {"variables": {"airflow_run_key": "key-1"}}
        assert run.id == "2"

    def test_an_error_that_means_something_else_is_one(self):
        with pytest.raises(ApiError, match="database is locked"):
            self.start(uncaught("(sqlite3.OperationalError) database is locked"))
        with pytest.raises(ApiError, match="to_dict"):
            self.start(self.DUPLICATE, key=None)


class TestList:
    def list(self, filters, *answers, **limits):
        return play(make_api().list_runs(filters, **limits), *answers)

    @pytest.mark.parametrize(
        ("filters", "path", "params"),
        [
            ({}, "pipeline_runs", {}),
            ({"pipeline_schedule_id": "4"}, "pipeline_schedules/4/pipeline_runs", {}),
            ({"pipeline_uuid": "example"}, "pipeline_runs", {"pipeline_uuid": "example"}),
            ({"status": "failed"}, "pipeline_runs", {"status[]": "failed"}),
            ({"status": ["failed", "cancelled"]}, "pipeline_runs", {"status[]": "failed,cancelled"}),
            ({"status": None, "pipeline_uuid": None}, "pipeline_runs", {}),
        ],
    )
    def test_filters_go_into_the_request(self, filters, path, params):
        (request,), runs = self.list(filters, page(run_row(pipeline_schedule_id=4)))
        assert (request.method, request.url) == ("GET", f"{HOST}/api/{path}")
        assert request.params == {
            **params,
            "order_by[]": "id desc",
            "disable_retries_grouping": "1",
            "_limit": "100",
            "_offset": "0",
            "_http_error_codes": "1",
        }
        assert [run.id for run in runs] == ["7"]

    def test_a_trigger_may_be_named(self):
        filters = {"pipeline_uuid": "example", "trigger_name": "from_airflow"}
        requests, runs = self.list(filters, listed(trigger_row(4)), page(run_row(pipeline_schedule_id=4)))
        assert requests[1].url == f"{HOST}/api/pipeline_schedules/4/pipeline_runs"
        assert "pipeline_uuid" not in requests[1].params
        assert len(runs) == 1

    @pytest.mark.parametrize(
        ("filters", "said"),
        [
            (
                {"colour": "blue"},
                "no colour; it has pipeline_schedule_id, pipeline_uuid, trigger_name, status",
            ),
            ({"status": "done"}, "no status 'done'; it has initial, running, completed, failed, cancelled"),
            ({"status": ["failed", 5]}, "no status 5"),
            ({"status": 5}, "no status 5"),
            ({"trigger_name": "a"}, "not neither"),
            ({"pipeline_uuid": "a", "pipeline_schedule_id": 1}, "not both"),
            ({"pipeline_uuid": ""}, "pipeline_uuid is empty"),
        ],
    )
    def test_filters_that_make_no_sense_are_refused_before_anything_is_sent(self, filters, said):
        with pytest.raises(BadInput, match=said):
            next(make_api().list_runs(filters))

    def test_pages_are_turned_until_there_are_enough(self):
        pages = [page(run_row(9), run_row(8), more=True), page(run_row(7), run_row(6), more=True)]
        requests, runs = self.list({}, *pages, limit=3)
        assert [run.id for run in runs] == ["9", "8", "7"]
        assert [request.params["_limit"] for request in requests] == ["3", "3"]

    def test_pages_are_turned_until_the_moment_is_passed(self):
        old = {"created_at": "2026-11-21 00:00:00", "execution_date": None}
        pages = [page(run_row(9), more=True), page(run_row(8), run_row(7, **old), more=True)]
        since = datetime(2026, 11, 22, tzinfo=UTC).timestamp()
        _, runs = self.list({}, *pages, since=since)
        assert [run.id for run in runs] == ["9", "8"]

    def test_a_run_counts_from_its_very_moment_though_mage_keeps_whole_seconds(self):
        at = datetime(2026, 11, 22, 4, 29, 18, 103077, tzinfo=UTC).timestamp()
        assert len(self.list({}, page(run_row()), since=at)[1]) == 1
        assert self.list({}, page(run_row()), since=at + 0.000001)[1] == []

    @pytest.mark.parametrize("date", ["2026-11-22 00:00:00", "2030-01-01 00:00:00", None, "soon"])
    def test_a_scheduled_run_counts_from_its_creation_not_from_its_execution_date(self, date):
        _, (run,) = self.list({}, page(run_row(execution_date=date)))
        assert run.created_at == datetime(2026, 11, 22, 4, 29, 18, tzinfo=UTC)

    def test_times_with_an_offset_are_the_same_moments(self):
        row = run_row(created_at="2026-11-22 13:29:17.9+09:00", execution_date="2026-11-22 04:29:18.1+00:00")
        _, (run,) = self.list({}, page(row))
        assert run.created_at == datetime(2026, 11, 22, 4, 29, 18, 100000, tzinfo=UTC)

    def test_a_scheduled_run_of_the_same_second_is_not_left_out(self):
        row = run_row(execution_date="2026-11-22 00:00:00")
        at = datetime(2026, 11, 22, 4, 29, 18, tzinfo=UTC).timestamp()
        assert len(self.list({}, page(row), since=at + 0.9)[1]) == 1
        assert self.list({}, page(row), since=at + 1)[1] == []

    def test_pages_are_small_where_only_the_newest_count(self):
        (request,), _ = self.list({}, page(run_row()), since=1.0)
        assert request.params["_limit"] == "20"

    def test_a_run_that_moved_to_the_next_page_counts_once(self):
        pages = [page(run_row(9), run_row(8), more=True), page(run_row(8), run_row(7))]
        assert [run.id for run in self.list({}, *pages)[1]] == ["9", "8", "7"]

    def test_a_trigger_that_does_not_exist_is_told_from_one_with_runs(self):
        # Mage lists the runs of all triggers then.
        with pytest.raises(NotFound, match="no trigger 4"):
            self.list({"pipeline_schedule_id": 4}, page(run_row(pipeline_schedule_id=1)))

    def test_a_trigger_that_does_not_exist_is_told_from_one_without_runs(self):
        assert self.list({"pipeline_schedule_id": 1}, page(), one())[1] == []
        with pytest.raises(NotFound, match="trigger 1"):
            self.list({"pipeline_schedule_id": 1}, page(), MISSING)

    def test_a_pipeline_that_does_not_exist_is_told_from_one_without_runs(self):
        filters = {"pipeline_uuid": "example"}
        (_, look), runs = self.list(filters, page(), listed())
        assert runs == []
        assert (look.url, look.params["_limit"]) == (f"{HOST}/api/pipelines/example/pipeline_schedules", "0")
        with pytest.raises(NotFound, match="does not exist"):
            self.list(filters, page(), uncaught("Pipeline example does not exist."))

    def test_a_server_that_repeats_a_page_is_not_asked_for_ever(self):
        with pytest.raises(IncompleteList, match=r"page 2 brings nothing new\. 1 entries were read"):
            self.list({}, page(run_row(), more=True), page(run_row(), more=True))


GRAPH = [
    {"uuid": "start", "upstream_blocks": []},
    {"uuid": "left", "upstream_blocks": ["start"]},
    {"uuid": "right", "upstream_blocks": ["start"]},
    {"uuid": "join", "upstream_blocks": ["left", "right"]},
]


class TestRetry:
    GOES = answer({"pipeline_run": run_row(5, status="running"), "metadata": None})
    FRESH = answer({"pipeline": {"uuid": "example", "blocks": GRAPH}, "metadata": None})

    @staticmethod
    def ended(status="failed", started_at=None, **blocks):
        rows = [{"block_uuid": name, "status": word, "metrics": None} for name, word in blocks.items()]
        return run_answer(status=status, started_at=started_at, block_runs=rows)

    def retry(self, *answers, run_id="5", **arguments):
        """Check a retry and make it, as the hook does."""
        api = make_api()

        def flow():
            yield from api.check_retry(run_id, arguments)
            return (yield from api.retry(run_id, arguments))

        return play(flow(), *answers)

    @pytest.mark.parametrize("status", ["failed", "cancelled"])
    def test_the_blocks_that_did_not_complete_run_again(self, status):
        (look, put), run = self.retry(self.ended(status), self.GOES)
        assert (look.method, put.method, put.url) == ("GET", "PUT", f"{HOST}/api/pipeline_runs/5")
        assert put.json == {"pipeline_run": {"pipeline_run_action": "retry_blocks"}}
        assert not put.safe_to_repeat
        assert (run.id, run.state) == ("5", RunState.RUNNING)

    @pytest.mark.parametrize("status", ["failed", "cancelled", "completed"])
    def test_a_block_and_all_that_depend_on_it_run_again(self, status):
        ended = self.ended(status, start="completed", left="failed", right="completed", join="cancelled")
        (_, look, put), _ = self.retry(ended, self.FRESH, self.GOES, from_block_uuid="left")
        assert look.url == f"{HOST}/api/pipelines/example"
        assert look.params == {
            "includes_content": "false",
            "includes_outputs": "false",
            "_http_error_codes": "1",
        }
        assert put.json["pipeline_run"]["from_block_uuid"] == "left"

    @pytest.mark.parametrize("status", ["initial", "running", "paused"])
    def test_a_run_that_has_not_ended_is_refused(self, status):
        with pytest.raises(ApiError, match=f"run 5 is not retried: it is {status}; only an ended") as caught:
            self.retry(self.ended(status))
        assert caught.value.permanent

    def test_a_run_that_has_completed_is_refused_unless_a_block_is_named(self):
        with pytest.raises(ApiError, match=r"it has completed\. Name a block") as caught:
            self.retry(self.ended("completed"))
        assert caught.value.permanent

    @pytest.mark.parametrize("block", ["right", "join"])
    def test_a_block_that_leaves_a_failed_one_out_is_refused(self, block):
        ended = self.ended(start="completed", left="failed", right="completed", join="cancelled")
        with pytest.raises(ApiError, match=f"from block '{block}' the blocks left would stay") as caught:
            self.retry(ended, self.FRESH, from_block_uuid=block)
        assert caught.value.permanent

    def test_a_block_whose_upstream_did_not_complete_is_refused(self):
        ended = self.ended(
            "cancelled", start="cancelled", left="cancelled", right="cancelled", join="initial"
        )
        with pytest.raises(ApiError, match="the blocks right, start would stay"):
            self.retry(ended, self.FRESH, from_block_uuid="left")

    def test_a_block_that_a_condition_left_out_is_no_obstacle(self):
        ended = self.ended(start="completed", left="failed", right="condition_failed")
        assert self.retry(ended, self.FRESH, self.GOES, from_block_uuid="left")[1].id == "5"

    def test_the_blocks_that_a_dynamic_block_made_belong_to_it(self):
        ended = self.ended(**{"start": "completed", "left:0": "failed", "left:1": "completed"})
        assert self.retry(ended, self.FRESH, self.GOES, from_block_uuid="left")[1].id == "5"

    def test_an_unknown_block_is_refused_with_what_there_is(self):
        with pytest.raises(ApiError, match="no block 'nothing'; it has start, left, right, join"):
            self.retry(self.ended(), self.FRESH, from_block_uuid="nothing")

    @pytest.mark.parametrize("pipeline", [None, {}, {"blocks": None}, {"blocks": ["start"]}])
    def test_a_pipeline_that_cannot_be_read_lets_no_block_be_retried(self, pipeline):
        with pytest.raises(ApiError, match="cannot be used"):
            self.retry(self.ended(), answer({"pipeline": pipeline}), from_block_uuid="left")

    STARTED_AT = "2027-01-15 07:50:00"  # ten minutes before NOW

    @pytest.mark.parametrize("timeout", [599, 3, 0.5])
    def test_a_run_that_has_outlived_its_triggers_timeout_is_refused(self, timeout):
        ended = self.ended(started_at=self.STARTED_AT)
        with pytest.raises(ApiError, match=f"timeout of {timeout} s, which Mage counts from") as caught:
            self.retry(ended, one(settings={"timeout": timeout}))
        assert caught.value.permanent

    @pytest.mark.parametrize(
        "settings", [{"timeout": 700}, {"timeout": None}, {"timeout": True}, {"timeout": 0}, {}, None, []]
    )
    def test_a_run_that_may_still_go_is_retried(self, settings):
        ended = self.ended(started_at=self.STARTED_AT)
        assert self.retry(ended, one(settings=settings), self.GOES)[1].id == "5"

    def test_a_trigger_that_is_gone_has_no_timeout(self):
        assert self.retry(self.ended(started_at=self.STARTED_AT), MISSING, self.GOES)[1].id == "5"

    def test_a_run_without_a_trigger_has_no_timeout(self):
        ended = run_answer(pipeline_schedule_id=None)
        assert self.retry(ended, self.GOES)[1].id == "5"

    @pytest.mark.parametrize(
        ("run_id", "arguments", "said"),
        [
            ("", {}, "run_id must be a whole number"),
            ("5", {"from_block_uuid": " "}, "from_block_uuid is empty"),
            ("5", {"from_block_uuid": 5}, "from_block_uuid must be a text"),
            ("5", {"block": "a"}, "no block; it has from_block_uuid"),
        ],
    )
    def test_bad_input_is_refused_before_anything_is_sent(self, run_id, arguments, said):
        with pytest.raises(BadInput, match=said):
            make_api().prepare_retry(run_id, arguments)
        for flow in (make_api().check_retry, make_api().retry):
            with pytest.raises(BadInput, match=said):
                next(flow(run_id, arguments))

    @pytest.mark.parametrize(
        ("status", "began"), [("running", True), ("initial", True), ("failed", False), ("cancelled", False)]
    )
    def test_a_lost_retry_is_told_by_the_runs_status(self, status, began):
        _, run = play(make_api().find_retried("5", {}, NOW), self.ended(status))
        assert (run is not None) == began

    @pytest.mark.parametrize(
        ("completed_at", "arguments", "began"),
        [
            ("2027-01-15 07:59:59", {}, True),
            ("2027-01-15 07:59:59", {"from_block_uuid": "a"}, False),
            ("2027-01-15 08:00:01", {"from_block_uuid": "a"}, True),
            (None, {"from_block_uuid": "a"}, True),
        ],
    )
    def test_a_completed_run_was_retried_unless_it_had_completed_before(self, completed_at, arguments, began):
        ended = run_answer(status="completed", completed_at=completed_at)
        _, run = play(make_api().find_retried("5", arguments, NOW), ended)
        assert (run is not None) == began


class TestReasons:
    def explain(self, *answers):
        return play(make_api().explain("5"), *answers)[1]

    def test_the_end_of_the_failed_blocks_log_follows_its_error(self):
        entries = [("INFO", f"line {number}") for number in range(30)] + [("EXCEPTION", "Failed to execute")]
        said = self.explain(run_answer(), logs(load_y=entries, load_x=[("INFO", "other")])).splitlines()
        assert said[0] == "block load_y: RuntimeError: bang in y"
        at = said.index("the end of its log (20 of 31 lines):")
        assert said[at + 1] == "  INFO line 11" and said[-1] == "  EXCEPTION Failed to execute"
        assert "  INFO other" not in said

    def test_a_timeout_is_explained_from_the_schedulers_log(self):
        scheduler = [
            ("INFO", "Pipeline example for run 5 in schedule 1 is alive."),
            ("ERROR", "Pipeline run timed out after 4 seconds"),
        ]
        for status in ("failed", "cancelled"):
            said = self.explain(run_answer(status=status, block_runs=[]), logs(scheduler))
            assert said == "Pipeline run timed out after 4 seconds"

    def test_a_timeout_is_told_beside_a_failed_block(self):
        said = self.explain(run_answer(), logs([("ERROR", "Pipeline run timed out after 4 seconds")]))
        assert said.splitlines()[-1] == "Pipeline run timed out after 4 seconds"

    def test_an_error_of_a_block_that_has_run_again_since_is_not_said(self):
        old = {"level": "EXCEPTION", "message": "BlockRun 2 (block_uuid: b) failed.", "block_uuid": "b"}
        content = f"2026-11-22T04:29:19 {json.dumps(old)}\n"
        files = {"pipeline_run_logs": [{"name": "scheduler.log", "content": content}], "block_run_logs": []}
        answers = (run_answer(status="cancelled", block_runs=[]), answer({"logs": [files]}))
        assert self.explain(*answers) is None

    def test_a_run_that_somebody_cancelled_has_nothing_to_explain(self):
        assert self.explain(run_answer(status="cancelled", block_runs=[]), logs([("INFO", "alive")])) is None

    def test_a_log_that_cannot_be_read_hides_no_error(self):
        said = self.explain(run_answer(), ConnectionFailed("down", sent=True)).splitlines()
        assert said[0] == "block load_y: RuntimeError: bang in y"
        assert said[-1] == "(its log cannot be read: down)"

    @pytest.mark.parametrize("body", [[], {}, None, [None], [{}], [{"pipeline_run_logs": []}]])
    def test_a_log_of_another_shape_hides_no_error(self, body):
        said = self.explain(run_answer(), answer({"logs": body}))
        assert said.startswith("block load_y: RuntimeError")

    def test_lines_that_are_no_entries_are_left_out(self):
        content = (
            'Traceback (most recent call last):\n  File "x"\n2026-11-22T04:29:19 {broken}\n'
            '2026-11-22T04:29:19 {"level": "ERROR", "message": "timed out"}\n'
        )
        file = {"name": "scheduler.log", "content": content}
        body = {"logs": [{"pipeline_run_logs": [file, None, {"name": "x"}], "block_run_logs": []}]}
        assert self.explain(run_answer(block_runs=[]), answer(body)) == "timed out"

    def test_no_secret_of_a_log_is_said(self):
        said = self.explain(run_answer(), logs(load_y=[("INFO", f"uses {PASSWORD}")]))
        assert "  INFO uses ***" in said

    @pytest.mark.parametrize("status", ["running", "completed", "odd"])
    def test_a_run_that_goes_or_went_well_needs_no_reason(self, status):
        assert self.explain(run_answer(status=status)) is None

    STATUS = answer({"statuses": [{"scheduler_status": "stopped"}]})

    @pytest.mark.parametrize(
        ("trigger", "said"),
        [
            ({"status": "inactive"}, "the trigger is inactive"),
            (
                {"settings": {"pipeline_run_limit": 1}},
                "the trigger is active and lets 1 run(s) go at once",
            ),
            ({"settings": None}, "the trigger is active"),
        ],
    )
    def test_a_run_that_does_not_start_is_told_why(self, trigger, said):
        start = "the run has not started; Mage's scheduler is stopped, "
        assert self.explain(run_answer(status="initial"), self.STATUS, one(**trigger)) == start + said

    def test_a_run_without_a_trigger_that_does_not_start(self):
        said = self.explain(run_answer(status="initial", pipeline_schedule_id=None), self.STATUS)
        assert said == "the run has not started; Mage's scheduler is stopped"


class TestLogs:
    def test_every_file_that_holds_anything_is_given_by_its_name(self):
        answers = (run_answer(), logs([("INFO", "alive")], load_x=[("INFO", f"{PASSWORD} ok")], load_y=()))
        (_, request), files = play(make_api().logs("5"), *answers)
        assert request.url == f"{HOST}/api/pipelines/example/logs"
        assert set(files) == {"scheduler.log", "load_x.log"}
        assert '"message": "*** ok"' in files["load_x.log"]


def test_the_active_runs_of_a_trigger_are_listed_by_what_names_it():
    api = make_api()
    arguments = {"pipeline_schedule_id": 4, "variables": {"a": 1}, "allow_inactive_trigger": True}
    filters = api.active_filters(arguments)
    assert filters == {"pipeline_schedule_id": 4, "status": ["initial", "running"]}
    (request,), runs = play(api.list_runs(filters, limit=1), page(run_row(pipeline_schedule_id=4)))
    assert request.params["status[]"] == "initial,running" and request.params["_limit"] == "1"
    assert len(runs) == 1
