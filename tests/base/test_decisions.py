"""The table of decisions, row by row as its documentation has it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_runs.base import decisions
from airflow_provider_runs.base.decisions import (
    TABLE,
    Absent,
    Attempt,
    Recorded,
    Rules,
    Seen,
    Stage,
    Step,
    decide,
)
from airflow_provider_runs.base.record import StartRecord
from airflow_provider_runs.core.api import Unsure
from airflow_provider_runs.core.errors import (
    AlreadyRunning,
    ApiError,
    BadInput,
    ConnectionFailed,
    NotFound,
    RunsError,
    Unauthorized,
)
from airflow_provider_runs.core.run import Run, RunState
from tests.base.fakes import FakeApi, FullApi, KeyApi

HERE = "where.what"
RECORD = StartRecord(2, 1, "key", HERE, None, 1000.0)
KNOWN = replace(RECORD, run_id="r1")
OLD = replace(KNOWN, max_tries=1)
RETRY = replace(RECORD, resumes="r0")
RUN = Run("r1", RunState.RUNNING, "going")


def limited() -> ApiError:
    error = ApiError("slow down", status=429)
    error.is_limit = True
    return error


def attempt(api_class: Any = FullApi, **changes: Any) -> Attempt:
    return Attempt(api_class, HERE, 2, **changes)


def rows() -> list[tuple[Recorded, Seen, Step]]:
    """Return the cells of the documented table."""
    _, _, body, _ = str(decisions.__doc__).split("=" * 16 + " " + "=" * 15 + " " + "=" * 75)[0:4]
    cells = []
    for line in body.strip().splitlines():
        recorded, step, seen = line.split(maxsplit=2)
        named = (name.strip().upper() for name in seen.split(","))
        cells += [(Recorded[recorded.upper()], Seen[name], Step[step.upper()]) for name in named]
    return cells


RECORDED: dict[Recorded, tuple[StartRecord | None, Attempt, Stage]] = {
    Recorded.NOTHING: (None, attempt(), Stage.BEFORE),
    Recorded.ELSEWHERE: (replace(KNOWN, fingerprint="elsewhere.what"), attempt(), Stage.BEFORE),
    Recorded.OTHERS: (replace(OLD, attached=True), attempt(), Stage.BEFORE),
    Recorded.DOOMED: (OLD, attempt(resumes="r1"), Stage.BEFORE),
    Recorded.SPARED: (OLD, attempt(resumes="r1", rules=Rules(cancel_superseded=False)), Stage.BEFORE),
    Recorded.KNOWN: (KNOWN, attempt(), Stage.BEFORE),
    Recorded.KEYED: (RECORD, attempt(KeyApi), Stage.BEFORE),
    Recorded.FINDABLE: (RECORD, attempt(), Stage.BEFORE),
    Recorded.RETRIED: (RETRY, attempt(), Stage.BEFORE),
    Recorded.LOST: (RECORD, attempt(FakeApi), Stage.BEFORE),
    Recorded.SENT: (RECORD, attempt(), Stage.SENT),
    Recorded.SENT_KEYED: (RECORD, attempt(KeyApi), Stage.SENT),
    Recorded.SENT_AGAIN: (RECORD, attempt(KeyApi), Stage.SENT_AGAIN),
    Recorded.REPEATED: (RECORD, attempt(KeyApi), Stage.REPEATED),
    Recorded.SENT_RETRY: (RETRY, attempt(KeyApi), Stage.SENT),
    Recorded.UNANSWERED: (RECORD, attempt(), Stage.UNANSWERED),
    Recorded.UNANSWERED_KEYED: (RECORD, attempt(KeyApi), Stage.UNANSWERED),
    Recorded.UNANSWERED_AGAIN: (RECORD, attempt(KeyApi), Stage.UNANSWERED_AGAIN),
    Recorded.REFUSED_RETRY: (RETRY, attempt(), Stage.REFUSED),
    Recorded.REFUSED_RESUME: (RETRY, attempt(resumes="r0"), Stage.REFUSED),
}
SEEN: dict[Seen, Run | RunsError | Absent] = {
    Seen.NOT_ASKED: Absent.NOT_ASKED,
    Seen.NO_RUN: Absent.NO_RUN,
    Seen.ACTIVE: replace(RUN, id="r7"),
    Seen.WANTED: RUN,
    Seen.SUCCEEDED: replace(RUN, state=RunState.SUCCEEDED),
    Seen.FAILED: replace(RUN, state=RunState.FAILED),
    Seen.FINAL: replace(RUN, state=RunState.CANCELLED),
    Seen.UNSURE: Unsure("which?", [RUN, RUN]),
    Seen.ADOPTABLE: Unsure("which?", [RUN]),
    Seen.IGNORABLE: Unsure("which?", [RUN, RUN]),
    Seen.GONE: NotFound("no run", status=404),
    Seen.BAD_INPUT: BadInput("no"),
    Seen.LOCKED_OUT: Unauthorized("no", status=401),
    Seen.REFUSED: ApiError("no", status=422),
    Seen.BUSY: AlreadyRunning("one goes"),
    Seen.LIMITED: limited(),
    Seen.NOT_SENT: ConnectionFailed("refused", sent=False),
    Seen.UNREACHABLE: ConnectionFailed("lost", sent=True),
}
RULES = {
    Seen.FINAL: {"is_final": lambda run, record, cleared: run.state is RunState.CANCELLED},
    Seen.ADOPTABLE: {"on_unknown_start": "adopt"},
    Seen.IGNORABLE: {"on_unknown_start": "start"},
}


@pytest.mark.parametrize(
    ("recorded", "seen", "step"), rows(), ids=lambda value: value.name.lower() if value else None
)
def test_what_is_done_about_a_record_is_what_is_documented(
    recorded: Recorded, seen: Seen, step: Step
) -> None:
    record, present, stage = RECORDED[recorded]
    rules = replace(present.rules, **RULES.get(seen, {}))  # type: ignore[arg-type]
    decision = decide(record, replace(present, rules=rules), SEEN[seen], stage)
    assert (decision.recorded, decision.seen, decision.step) == (recorded, seen, step)


def test_every_decision_is_documented_once() -> None:
    documented = [(recorded, seen) for recorded, seen, _ in rows()]
    assert sorted(documented, key=str) == sorted(((r, s) for r, row in TABLE.items() for s in row), key=str)


@pytest.mark.parametrize(
    ("record", "changes"),
    [
        (replace(KNOWN, refused=True), {}),
        (replace(RECORD, refused=True, max_tries=1), {}),
    ],
)
def test_a_request_that_was_refused_began_nothing(record: StartRecord, changes: Any) -> None:
    assert decide(record, attempt(**changes)).recorded is Recorded.NOTHING


@pytest.mark.parametrize(
    ("record", "changes", "recorded"),
    [
        (replace(KNOWN, clears=1), {"clears": 2}, Recorded.DOOMED),
        (replace(KNOWN, clears=1), {"clears": 2, "is_retry": True}, Recorded.KNOWN),
        (replace(KNOWN, clears=1), {"clears": None}, Recorded.KNOWN),
        (KNOWN, {"clears": 2}, Recorded.KNOWN),
        (replace(KNOWN, fingerprint="where.else"), {}, Recorded.DOOMED),
        (replace(KNOWN, attached=True, fingerprint="where.else"), {}, Recorded.OTHERS),
        (replace(KNOWN, attached=True), {}, Recorded.KNOWN),
        (RETRY, {"api_class": KeyApi, "resumes": "r0"}, Recorded.FINDABLE),
        (replace(OLD, attempt=3), {"api_class": FakeApi}, Recorded.SPARED),
    ],
)
def test_a_generation_is_told_by_the_numbers_and_by_what_is_asked_for(
    record: StartRecord, changes: dict[str, Any], recorded: Recorded
) -> None:
    assert decide(record, replace(attempt(), **changes)).recorded is recorded


@pytest.mark.parametrize("rule", ["fail", "start"])
def test_one_of_several_runs_is_never_adopted(rule: str) -> None:
    present = attempt(rules=Rules(on_unknown_start="adopt"))
    assert decide(RECORD, present, Unsure("which?", [RUN, RUN])).step is Step.FAIL_FOR_GOOD
    other = attempt(rules=Rules(on_unknown_start=rule))
    assert decide(RECORD, other, Unsure("which?", [RUN])).step is not Step.ADOPT
