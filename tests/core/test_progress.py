from __future__ import annotations

import re

import pytest

from airflow_provider_runs.core.errors import (
    ApiError,
    BadInput,
    ConnectionFailed,
    NotFound,
    RunsError,
    Unauthorized,
)
from airflow_provider_runs.core.outcome import Limit, Outcome, Verdict
from airflow_provider_runs.core.progress import LAST_LOOK, Note, Progress, Topic, Trouble, Watch
from airflow_provider_runs.core.run import Run, RunState

T0 = 1_000_000.0
NO_ANSWER = ConnectionFailed("no answer", sent=True)
REFUSED = Unauthorized("refused", status=401)
FORBIDDEN = Unauthorized("forbidden", status=403)
NOT_FOUND = NotFound("not found", status=404)
BROKEN = ApiError("broken", status=503)
TOO_MANY = ApiError("too many", status=429)
NOT_JSON = ApiError("not JSON", status=200, permanent=False)


def waiting(**limits: float | None) -> Progress:
    return Progress(Watch("r1", 60, 2, **limits), "Testing", T0)


def run(status: str = "running", state: RunState = RunState.RUNNING) -> Run:
    return Run("r1", state, status)


def weird(status: str = "weird") -> Run:
    return run(status, RunState.UNKNOWN)


def texts(progress: Progress) -> list[str]:
    return [note.text for note in progress.take_notes()]


def missing(progress: Progress, error: RunsError, *, until: float, begin: float = 0.0) -> Outcome | None:
    """Let every look fail, ten seconds apart, up to and with a moment; return how the wait ended."""
    moment = begin
    while True:
        outcome = progress.missed(error, T0 + moment)
        if outcome is not None or moment >= until:
            return outcome
        moment = min(moment + 10, until)


# What the run says


@pytest.mark.parametrize(
    ("state", "verdict"),
    [
        (RunState.SUCCEEDED, Verdict.SUCCEEDED),
        (RunState.FAILED, Verdict.FAILED),
        (RunState.CANCELLED, Verdict.CANCELLED),
    ],
)
def test_an_ended_run_ends_the_wait(state: RunState, verdict: Verdict) -> None:
    assert waiting().saw(run("over", state), T0) == Outcome(verdict, "r1", "over")


@pytest.mark.parametrize("state", [RunState.PENDING, RunState.RUNNING, RunState.UNKNOWN])
def test_a_run_that_goes_does_not(state: RunState) -> None:
    assert waiting().saw(run("going", state), T0) is None


def test_an_end_counts_also_after_all_limits() -> None:
    progress = waiting(execution_deadline=T0 + 1, wait_deadline=T0 + 1, no_progress_timeout=1)
    outcome = progress.saw(run("done", RunState.SUCCEEDED), T0 + 100)
    assert outcome is not None and outcome.verdict is Verdict.SUCCEEDED


def test_each_status_is_said_once_with_the_runs_age() -> None:
    progress = waiting(started_at=T0 - 30)
    for status, moment in (("queued", 0), ("queued", 5), ("running", 10), ("running", 20)):
        progress.saw(run(status), T0 + moment)
    assert progress.take_notes() == [
        Note("Run r1 is queued 30 s after its start"),
        Note("Run r1 is running 40 s after its start"),
    ]
    assert progress.take_notes() == []


def test_a_status_that_stays_is_said_again_less_and_less_often() -> None:
    progress = waiting(started_at=T0)
    said = []
    for moment in range(0, 6 * 3600, 60):
        progress.saw(run("running"), T0 + moment)
        said += texts(progress)
    assert said[:6] == [
        "Run r1 is running 0 s after its start",
        "Run r1 is still running 300 s after its start",
        "Run r1 is still running 0:10:00 after its start",
        "Run r1 is still running 0:20:00 after its start",
        "Run r1 is still running 0:40:00 after its start",
        "Run r1 is still running 1:20:00 after its start",
    ]
    assert said[6:] == [f"Run r1 is still running {hour}:20:00 after its start" for hour in range(2, 6)]


def test_a_changed_status_is_not_said_again_at_once() -> None:
    progress = waiting(started_at=T0)
    for status, moment in (("queued", 0), ("queued", 299), ("running", 300), ("running", 599), ("done", 600)):
        progress.saw(run(status), T0 + moment)
    assert texts(progress) == [
        "Run r1 is queued 0 s after its start",
        "Run r1 is running 300 s after its start",
        "Run r1 is done 0:10:00 after its start",
    ]


def test_a_start_ahead_of_the_clock_counts_as_now() -> None:
    progress = waiting(started_at=T0 + 30)
    progress.saw(run(), T0)
    assert texts(progress) == ["Run r1 is running 0 s after its start"]


# Trouble


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (NO_ANSWER, Trouble.OUTAGE),
        (BROKEN, Trouble.OUTAGE),
        (TOO_MANY, Trouble.OUTAGE),
        (NOT_JSON, Trouble.OUTAGE),
        (RunsError("other"), Trouble.OUTAGE),
        (REFUSED, Trouble.REFUSED),
        (FORBIDDEN, Trouble.REFUSED),
        (NOT_FOUND, Trouble.NOT_FOUND),
    ],
)
def test_each_error_is_a_kind_of_trouble(error: RunsError, trouble: Trouble) -> None:
    assert Trouble.of(error) is trouble


@pytest.mark.parametrize(
    ("error", "limit", "said"),
    [
        pytest.param(NO_ANSWER, 3600, "Testing cannot be asked about run r1: no answer", id="no answer"),
        pytest.param(BROKEN, 3600, "Testing cannot be asked about run r1: broken", id="5xx"),
        pytest.param(TOO_MANY, 3600, "Testing cannot be asked about run r1: too many", id="429"),
        pytest.param(NOT_JSON, 3600, "Testing cannot be asked about run r1: not JSON", id="not JSON"),
        pytest.param(REFUSED, 300, "Testing refuses to be asked about run r1: refused", id="401"),
        pytest.param(FORBIDDEN, 300, "Testing refuses to be asked about run r1: forbidden", id="403"),
        pytest.param(NOT_FOUND, 120, "Testing says not found when asked about run r1", id="404"),
    ],
)
def test_trouble_is_ridden_out_up_to_its_limit(error: RunsError, limit: float, said: str) -> None:
    progress = waiting()
    progress.saw(run(), T0)
    assert missing(progress, error, begin=100, until=100 + limit - 0.1) is None
    assert progress.expired(T0 + 100 + limit - 0.1) is None
    assert progress.limit_at() == T0 + 100 + limit
    outcome = progress.expired(T0 + 100 + limit)
    assert outcome is not None and outcome.message is not None
    assert (outcome.verdict, outcome.status, outcome.which) == (Verdict.UNREACHABLE, "running", None)
    assert outcome.message.startswith(said)
    assert "no verdict on the run" in outcome.message and "retry" in outcome.message


@pytest.mark.parametrize("error", [NO_ANSWER, REFUSED, NOT_FOUND])
def test_one_good_answer_gives_trouble_its_whole_time_again(error: RunsError) -> None:
    progress = waiting(unreachable_timeout=400)
    assert missing(progress, error, until=110) is None
    assert progress.saw(run(), T0 + 115) is None
    assert progress.limit_at() is None
    assert missing(progress, error, begin=116, until=230) is None


def test_the_limit_of_an_outage_may_be_set() -> None:
    progress = waiting(unreachable_timeout=60)
    assert missing(progress, NO_ANSWER, until=59) is None
    outcome = progress.missed(NO_ANSWER, T0 + 60)
    assert outcome is not None and outcome.verdict is Verdict.UNREACHABLE


def test_an_outage_without_limit_is_ridden_out_until_the_deadline() -> None:
    progress = waiting(unreachable_timeout=None, wait_deadline=T0 + 90_000)
    assert missing(progress, NO_ANSWER, until=89_999) is None
    outcome = progress.missed(NO_ANSWER, T0 + 90_000)
    assert outcome is not None
    assert (outcome.verdict, outcome.which) == (Verdict.TIMEOUT, Limit.TIMEOUT)
    assert "it was never seen; Testing could not be asked: no answer" in str(outcome.message)


@pytest.mark.parametrize(("error", "limit"), [(REFUSED, 300), (NOT_FOUND, 120)])
def test_a_refusal_and_an_unknown_run_end_also_a_wait_without_limit_for_outages(
    error: RunsError, limit: float
) -> None:
    progress = waiting(unreachable_timeout=None)
    assert missing(progress, error, until=limit - 1) is None
    outcome = progress.missed(error, T0 + limit)
    assert outcome is not None and outcome.verdict is Verdict.UNREACHABLE


def test_an_outage_between_does_not_count_as_refusal() -> None:
    progress = waiting()
    assert missing(progress, REFUSED, until=290) is None
    assert missing(progress, NO_ANSWER, begin=295, until=310) is None
    assert missing(progress, REFUSED, begin=315, until=600) is None


def test_changing_trouble_counts_from_its_beginning() -> None:
    progress = waiting(unreachable_timeout=200)
    assert missing(progress, NO_ANSWER, until=100) is None
    assert missing(progress, REFUSED, begin=110, until=199) is None
    outcome = progress.missed(BROKEN, T0 + 200)
    assert outcome is not None and outcome.verdict is Verdict.UNREACHABLE


def test_a_wrong_connection_ends_the_wait_at_once() -> None:
    outcome = waiting().missed(BadInput("the host is not set"), T0)
    assert outcome == Outcome(Verdict.UNREACHABLE, "r1", None, "Testing cannot be asked: the host is not set")


def test_an_outage_is_said_once_when_it_starts_and_once_when_it_is_over() -> None:
    progress = waiting()
    progress.saw(run(), T0)
    texts(progress)
    assert missing(progress, NO_ANSWER, begin=10, until=200) is None
    start = progress.take_notes()
    assert len(start) == 1 and start[0].alarming and start[0].topic is Topic.TROUBLE
    assert start[0].text.startswith("Testing cannot be asked about run r1: no answer. The wait goes on")
    progress.saw(run(), T0 + 210)
    progress.saw(run(), T0 + 220)
    assert progress.take_notes() == [Note("Testing can be asked again, after 200 s", topic=Topic.RECOVERY)]
    missing(progress, NO_ANSWER, begin=300, until=400)
    assert len(progress.take_notes()) == 1


def test_a_single_failed_look_is_not_worth_a_word() -> None:
    progress = waiting()
    progress.missed(NO_ANSWER, T0)
    progress.saw(run(), T0 + 5)
    assert texts(progress) == ["Run r1 is running 5 s after its start"]


def test_an_outage_of_the_whole_connection_is_said_at_once_and_counts_from_its_start() -> None:
    progress = waiting(unreachable_timeout=100)
    assert progress.missed(NO_ANSWER, T0 + 50, since=T0 + 20) is None
    assert len(progress.take_notes()) == 1
    assert progress.limit_at() == T0 + 120
    progress.answered(T0 + 60)
    assert texts(progress) == ["Testing can be asked again, after 40 s"]
    assert progress.limit_at() is None


def test_failed_looks_in_a_row_are_counted() -> None:
    progress = waiting()
    for _ in range(3):
        progress.missed(NO_ANSWER, T0)
    assert progress.failures == 3
    progress.answered(T0)
    assert progress.failures == 0


# Unknown words


def test_a_run_that_stays_in_an_unknown_status_ends_the_wait_as_unknown() -> None:
    progress = waiting()
    assert progress.saw(weird(), T0 + 10) is None
    (note,) = progress.take_notes()
    assert note.alarming and "'weird'" in note.text
    assert progress.saw(weird(), T0 + 609) is None
    assert progress.take_notes() == []
    assert progress.limit_at() == T0 + 610
    outcome = progress.saw(weird(), T0 + 610)
    assert outcome is not None
    assert (outcome.verdict, outcome.status) == (Verdict.UNKNOWN, "weird")
    assert "does not know" in str(outcome.message)


def test_another_unknown_status_does_not_buy_time() -> None:
    progress = waiting()
    progress.saw(weird("odd"), T0)
    assert progress.saw(weird("odder"), T0 + 599) is None
    outcome = progress.saw(weird("odder"), T0 + 600)
    assert outcome is not None and outcome.verdict is Verdict.UNKNOWN


def test_a_known_status_between_does() -> None:
    progress = waiting()
    progress.saw(weird(), T0)
    progress.saw(run(), T0 + 599)
    assert progress.saw(weird(), T0 + 600) is None
    assert progress.saw(weird(), T0 + 1199) is None
    assert progress.limit_at() == T0 + 1200


def test_an_unknown_status_that_nobody_can_confirm_does_not_end_the_wait() -> None:
    progress = waiting()
    progress.saw(weird(), T0)
    assert missing(progress, NO_ANSWER, begin=10, until=700) is None
    assert progress.expired(T0 + 700) is None
    assert progress.saw(run(), T0 + 710) is None


# Deadlines


@pytest.mark.parametrize(
    ("name", "which"),
    [("execution_deadline", Limit.EXECUTION_TIMEOUT), ("wait_deadline", Limit.TIMEOUT)],
)
def test_a_deadline_ends_the_wait_with_the_look_that_follows_it(name: str, which: Limit) -> None:
    progress = waiting(**{name: T0 + 100}, started_at=T0 - 20)
    assert progress.deadline() == T0 + 100
    assert progress.saw(run(), T0 + 99.9) is None
    outcome = progress.saw(run(), T0 + 100)
    assert outcome is not None
    assert (outcome.verdict, outcome.which, outcome.status) == (Verdict.TIMEOUT, which, "running")
    assert re.match(
        rf"run r1 had not ended 120 s after its start, when {which.value} was over; "
        "its last status was running$",
        str(outcome.message),
    )


@pytest.mark.parametrize("name", ["execution_deadline", "wait_deadline"])
def test_a_last_look_may_take_a_moment_and_its_answer_counts(name: str) -> None:
    progress = waiting(**{name: T0 + 100})
    assert progress.limit_at() == T0 + 100 + LAST_LOOK
    assert progress.expired(T0 + 100 + LAST_LOOK - 0.1) is None
    outcome = progress.saw(run("done", RunState.SUCCEEDED), T0 + 100 + LAST_LOOK - 0.1)
    assert outcome is not None and outcome.verdict is Verdict.SUCCEEDED


@pytest.mark.parametrize("name", ["execution_deadline", "wait_deadline"])
def test_a_last_look_without_answer_ends_the_wait(name: str) -> None:
    progress = waiting(**{name: T0 + 100})
    outcome = progress.expired(T0 + 100 + LAST_LOOK)
    assert outcome is not None and outcome.verdict is Verdict.TIMEOUT


def test_a_wait_that_begins_after_its_deadline_still_takes_a_look() -> None:
    progress = waiting(wait_deadline=T0 - 1000)
    assert progress.expired(T0) is None
    assert progress.limit_at() == T0 + LAST_LOOK
    outcome = progress.saw(run("done", RunState.SUCCEEDED), T0 + 1)
    assert outcome is not None and outcome.verdict is Verdict.SUCCEEDED


def test_the_earlier_deadline_is_the_one_that_counts() -> None:
    progress = waiting(execution_deadline=T0 + 200, wait_deadline=T0 + 100)
    assert progress.deadline() == T0 + 100
    outcome = progress.saw(run(), T0 + 150)
    assert outcome is not None and outcome.which is Limit.TIMEOUT


def test_execution_timeout_wins_where_both_are_over() -> None:
    progress = waiting(execution_deadline=T0 + 100, wait_deadline=T0 + 100)
    outcome = progress.saw(run(), T0 + 100)
    assert outcome is not None and outcome.which is Limit.EXECUTION_TIMEOUT


def test_a_wait_without_limits_has_none() -> None:
    progress = waiting()
    assert (progress.deadline(), progress.limit_at(), progress.expired(T0 + 1e9)) == (None, None, None)


# No progress


def test_a_run_that_never_leaves_its_first_status_ends_the_wait_if_asked() -> None:
    progress = waiting(no_progress_timeout=300)
    assert progress.limit_at() is None
    assert progress.saw(run("queued", RunState.PENDING), T0) is None
    assert progress.limit_at() == T0 + 300
    assert progress.saw(run("queued", RunState.PENDING), T0 + 299) is None
    outcome = progress.saw(run("queued", RunState.PENDING), T0 + 300)
    assert outcome is not None
    assert (outcome.verdict, outcome.which) == (Verdict.TIMEOUT, Limit.NO_PROGRESS_TIMEOUT)
    assert "stays 'queued' in Testing for 300 s" in str(outcome.message)


def test_a_run_that_has_moved_on_may_take_its_time() -> None:
    progress = waiting(no_progress_timeout=300)
    progress.saw(run("queued", RunState.PENDING), T0)
    progress.saw(run("running"), T0 + 10)
    assert progress.limit_at() is None
    assert progress.saw(run("running"), T0 + 1e6) is None


def test_a_run_that_is_back_in_its_first_status_has_moved_all_the_same() -> None:
    progress = waiting(no_progress_timeout=300)
    for status, moment in (("queued", 0), ("running", 10), ("queued", 20)):
        progress.saw(run(status), T0 + moment)
    assert progress.saw(run("queued"), T0 + 1e6) is None


def test_a_run_that_nobody_can_see_is_not_accused_of_no_progress() -> None:
    progress = waiting(no_progress_timeout=300)
    progress.saw(run("queued"), T0)
    assert missing(progress, NO_ANSWER, begin=200, until=400) is None
    assert progress.expired(T0 + 400) is None
    assert progress.saw(run("running"), T0 + 410) is None


def test_a_wait_that_is_taken_up_again_gives_the_run_its_time_again() -> None:
    progress = waiting(no_progress_timeout=300, started_at=T0 - 7200)
    assert progress.saw(run("running"), T0) is None
    assert progress.saw(run("running"), T0 + 299) is None


# Searching for a run


def searching(**limits: float | None) -> Progress:
    return Progress(Watch("job j", 60, 2, search={"job": "j", "since": 1.0}, **limits), "Testing", T0)


def test_a_search_that_finds_nothing_says_so_once_and_goes_on() -> None:
    progress = searching()
    assert progress.found_none(T0) is None
    assert progress.found_none(T0 + 60) is None
    assert texts(progress) == ["Testing has no run with job j yet, waiting for one"]


def test_the_run_that_a_search_finds_is_named_once_and_waited_for() -> None:
    progress = searching()
    assert progress.saw(Run("r1", RunState.RUNNING, "running", "http://testing/r1"), T0) is None
    assert progress.saw(Run("r1", RunState.RUNNING, "running", "http://testing/r1"), T0 + 1) is None
    assert texts(progress)[0] == "Found Testing run r1: http://testing/r1"
    assert progress.saw(Run("r2", RunState.RUNNING, "running"), T0 + 2) is None
    assert texts(progress)[0] == "Found Testing run r2"
    outcome = progress.saw(Run("r2", RunState.SUCCEEDED, "done"), T0 + 3)
    assert outcome is not None and (outcome.verdict, outcome.run_id) == (Verdict.SUCCEEDED, "r2")


def test_a_search_ends_with_the_wait() -> None:
    progress = searching(wait_deadline=T0 + 100)
    assert progress.found_none(T0 + 99) is None
    outcome = progress.found_none(T0 + 100)
    assert outcome is not None and outcome.which is Limit.TIMEOUT
    assert outcome.message == "Testing had no run with job j when timeout was over"
    assert (outcome.run_id, outcome.status) == ("job j", None)


def test_a_search_rides_out_an_outage_and_makes_no_promise_about_a_run() -> None:
    progress = searching()
    outcome = missing(progress, NO_ANSWER, until=3600)
    assert outcome is not None and outcome.verdict is Verdict.UNREACHABLE
    assert outcome.message is not None
    assert outcome.message.startswith("Testing cannot be asked about a run with job j: no answer")
    assert "retry" not in outcome.message
    assert "a run with job j" in texts(progress)[0]


def test_a_search_takes_the_end_of_trouble_for_an_answer() -> None:
    progress = searching(unreachable_timeout=100)
    missing(progress, NO_ANSWER, until=90)
    progress.found_none(T0 + 95)
    assert missing(progress, NO_ANSWER, begin=96, until=190) is None


def test_a_search_makes_progress_by_itself() -> None:
    progress = searching(no_progress_timeout=10)
    assert progress.found_none(T0) is None
    assert progress.found_none(T0 + 1000) is None
