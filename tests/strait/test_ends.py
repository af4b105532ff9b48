"""What looks at the ends of a job's runs cost where other jobs have run, and that none is lost by it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_provider_runs.core.ends import LATE, Ends, Look, look_at_lists
from airflow_provider_runs.core.errors import ApiError
from airflow_provider_runs.core.http import Flow, Request, Response
from tests.answers import answer
from tests.play import play
from tests.strait.conftest import JOB, NOW, make_api, page, row
from tests.strait.test_api import OTHER


def ran(run_id: str, ago: float, status: str = "completed", job: str = OTHER) -> dict[str, Any]:
    """Return a run that was created some seconds ago."""
    created = datetime.fromtimestamp(NOW - ago, UTC).isoformat(timespec="microseconds")
    return row(run_id, status, job_id=job, created_at=created.replace("+00:00", "Z"))


class Strait:
    """A server that has one job, and lists the runs of all."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.rows = list(rows)

    def look(self, mark: float | None) -> tuple[int, Look]:
        """Return how many requests a look takes, and the look."""
        flow: Flow[Look] = look_at_lists(make_api(), {"job_id": JOB}, mark)
        requests = 0
        try:
            request = next(flow)
            while True:
                requests += 1
                request = flow.send(self.answer(request))
        except StopIteration as end:
            return requests, end.value

    def told(self, ends: Ends) -> list[str]:
        """Return the runs whose ends the next look tells."""
        _, look = self.look(ends.mark)
        by_id = {each["id"]: make_api()._run(each, "a test") for each in self.rows}
        return [run.id for run in ends.take(look, {run_id: by_id[run_id] for run_id in ends.unseen(look)})]

    def answer(self, request: Request) -> Response:
        if "/v1/jobs/" in request.url:
            return answer({"id": JOB})
        newest_first = sorted(self.rows, key=lambda each: str(each["created_at"]), reverse=True)
        cursor = request.params.get("cursor", "9")
        statuses = request.params.get("statuses", [each["status"] for each in self.rows])
        rows = [row for row in newest_first if row["created_at"] < cursor and row["status"] in statuses]
        size = int(str(request.params["limit"]))
        following = rows[size - 1]["created_at"] if len(rows) > size else None
        return answer(json.loads(json.dumps(page(*rows[:size], cursor=following))))


def test_looks_at_a_job_that_has_not_run_of_late_do_not_read_the_runs_of_all_others() -> None:
    history = [ran(f"r{number}", 600.0 * number) for number in range(5000)]
    for old in ([], [ran("mine", 3_000_000.0, job=JOB)]):
        strait, ends, taken = Strait(*history, *old), Ends(), []
        for _ in range(3):
            requests, look = strait.look(ends.mark)
            ends.take(look, {})
            taken.append(requests)
        assert taken == [4, 2, 2]


def test_no_end_is_lost_behind_the_newer_runs_of_other_jobs() -> None:
    going = ran("going", 90_000.0, "executing", job=JOB)
    strait, ends = Strait(going, ran("a", 80_000.0), ran("before", 70_000.0, job=JOB)), Ends()
    assert strait.told(ends) == []
    # Created long before what is known of others; it went at the first look.
    going["status"] = "completed"
    strait.rows += [ran("b", 50.0)]
    ends = Ends(json.loads(json.dumps(ends.record())))
    assert strait.told(ends) == ["going"]
    # It turns up late, behind newer ones of others.
    strait.rows += [ran("late", 50.0 + LATE, job=JOB)]
    assert strait.told(ends) == ["late"]
    assert strait.told(ends) == []


def test_a_look_that_is_shared_with_one_who_knows_less_tells_each_what_is_new_to_it() -> None:
    strait, knows = Strait(ran("mine", 9000.0, job=JOB), ran("a", 10.0)), Ends()
    strait.told(knows)
    knows_less = Ends({**knows.record(), "mark": NOW - 10_000.0})
    _, look = strait.look(knows_less.mark)
    assert [run.id for run in knows_less.take(look, {})] == ["mine"]
    assert knows.take(look, {}) == []
    assert knows.record()["ended"] == knows_less.record()["ended"] == []
    assert strait.told(knows_less) == strait.told(knows) == []


@pytest.mark.parametrize(("job", "jobs"), [("misspelt", [page()]), (JOB, [])])
def test_a_job_that_strait_does_not_know_is_told(job: str, jobs: list[Any], caplog: Any) -> None:
    unknown = answer({"error": {"code": "not_found", "message": "no such job"}}, 404)
    answers = [*map(answer, jobs), unknown, answer(page(ran("a", 5.0), ran("b", 9.0)))]
    _, (runs, mark) = play(make_api().list_recent({"job_id": job}, float("inf")), *answers)
    assert (runs, mark) == ([], NOW - 5.0)
    assert f"no runs of job '{job}'" in caplog.text and "no such job" in caplog.text


def test_a_key_that_may_not_read_jobs_looks_all_the_same(caplog: Any) -> None:
    refused = answer({"error": {"code": "forbidden", "message": "no"}}, 403)
    _, (_, mark) = play(make_api().list_recent({"job_id": JOB}, float("inf")), refused, answer(page()))
    assert mark == 0.0 and not caplog.text


@pytest.mark.parametrize("status", [401, 503])
def test_a_service_that_cannot_be_asked_about_the_job_is_asked_again_later(status: int) -> None:
    with pytest.raises(ApiError):
        play(make_api().list_recent({"job_id": JOB}, float("inf")), answer({"error": "no"}, status))


def test_runs_of_a_tag_begin_at_the_newest_one() -> None:
    filters = {"tag_key": "team", "tag_value": "a"}
    listed = page(ran("a", 5.0) | {"tags": {"team": "a"}})
    (request,), (runs, mark) = play(make_api().list_recent(filters, float("inf")), answer(listed))
    assert (runs, mark) == ([], NOW - 5.0) and request.params["tag_value"] == "a"
