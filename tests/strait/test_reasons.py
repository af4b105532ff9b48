"""What the task log says about a Strait run that ended badly."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_runs.strait.reasons import EVENTS_SHOWN, LINE_CHARACTERS, MESSAGE_LINES, reason

RUN: dict[str, Any] = {
    "id": "r1",
    "status": "dead_letter",
    "attempt": 3,
    "error": "endpoint returned 500",
    "error_class": "server",
}


def event(message: Any = "no such table", **rest: Any) -> dict[str, Any]:
    return {"id": "e1", "type": "error", "level": "error", "message": message, **rest}


def masked(text: str) -> str:
    return text.replace("secret", "***")


def lines(run: Any = RUN, events: Any = (), bundle: Any = None) -> list[str]:
    text = reason(run, events, bundle, masked)
    assert text is not None
    return text.splitlines()


def test_a_dead_letter_says_why_and_how_it_is_replayed() -> None:
    first, last = lines()
    assert first == "endpoint returned 500 (server), in attempt 3"
    assert "StraitReplayRunOperator" in last
    assert "dead letter" in last


def test_a_first_attempt_and_no_class_are_not_worth_a_word() -> None:
    assert lines({"status": "failed", "attempt": 1, "error": "no"}) == ["no"]


@pytest.mark.parametrize("error", [None, "", 5, {}])
def test_a_run_without_an_error_has_no_reason(error: Any) -> None:
    assert reason({"status": "failed", "error": error}, [], None) is None


def test_an_expired_run_names_what_lets_it_wait_longer() -> None:
    assert "ttl_secs" in lines({"status": "expired", "error": "run expired"})[-1]


def test_a_failed_run_can_go_on_from_its_last_checkpoint() -> None:
    bundle = {"checkpoints": [{"sequence": 2}, {"sequence": 7}, {"sequence": "9"}, 5]}
    assert "from_checkpoint=7" in lines({**RUN, "status": "crashed"}, bundle=bundle)[-1]
    assert "from_checkpoint" not in lines({**RUN, "status": "canceled"}, bundle=bundle)[-1]
    assert "from_checkpoint" not in lines({**RUN, "status": "failed"}, bundle={"checkpoints": None})[-1]


def test_error_events_follow_with_their_moment_and_data() -> None:
    told = lines(events=[event(created_at="2026-01-01T00:00:00Z", data={"table": "orders"})])
    assert told[1:4] == [
        "the last error events (1 of 1):",
        "  2026-01-01T00:00:00Z no such table",
        '  {"table": "orders"}',
    ]


def test_the_last_events_are_shown() -> None:
    told = lines(events=[event(f"number {number}") for number in range(EVENTS_SHOWN + 5)])
    assert told[1] == f"the last error events ({EVENTS_SHOWN} of {EVENTS_SHOWN + 5}):"
    assert told[2] == "  number 5"
    assert told[-2] == f"  number {EVENTS_SHOWN + 4}"


def test_the_debug_bundle_tells_more_than_a_page_of_events() -> None:
    bundle = {
        "events": [
            event("first"),
            {"type": "log", "level": "info", "message": "fine"},
            {"type": "log", "level": "error", "message": "second"},
            7,
        ]
    }
    told = lines(events=[event("page")], bundle=bundle)
    assert told[1:4] == ["the last error events (2 of 2):", "  first", "  second"]


@pytest.mark.parametrize("bundle", [{}, {"events": None}, {"events": []}])
def test_a_bundle_without_events_hides_no_event(bundle: Any) -> None:
    assert "  page" in lines(events=[event("page")], bundle=bundle)


@pytest.mark.parametrize("message", [None, 5, "", "  "])
def test_an_event_without_message_is_told_as_such(message: Any) -> None:
    assert "  (no message)" in lines(events=[event(message)])


def test_a_long_message_is_cut_after_its_secrets_are_masked() -> None:
    text = "\n".join(["x" * (LINE_CHARACTERS - 3) + "secret", *["line"] * MESSAGE_LINES])
    told = lines(events=[event(text)])
    assert told[2] == "  " + "x" * (LINE_CHARACTERS - 3) + "***"
    assert "  [1 lines more]" in told
    assert "secr" not in "\n".join(told)


def test_secrets_are_masked_everywhere_and_colours_left_out() -> None:
    run = {**RUN, "error": "secret failed", "error_class": "secret"}
    told = lines(run, [event("\x1b[31mthe secret\x1b[0m", created_at="secret", data={"a": "secret"})])
    assert "secret" not in "\n".join(told)
    assert "  *** the ***" in told
