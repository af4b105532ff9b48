"""Why a run failed, from what its command printed and what dbt wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_runs.paradime.reasons import (
    describe_digest,
    digest_run_results,
    explain_command,
)

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "results": st.lists(
            st.fixed_dictionaries({}, optional={"status": ANY_JSON, "unique_id": ANY_JSON}) | ANY_JSON,
            max_size=5,
        )
        | ANY_JSON,
        "elapsed_time": ANY_JSON,
    },
)


def hide(text: str) -> str:
    return text.replace("hush\nhush", "***").replace("hush", "***")


def command(**said: Any) -> dict[str, Any]:
    return {"command": "dbt build", "returnCode": 1, "stdout": "", "stderr": "", **said}


def test_the_first_line_says_which_command_failed_and_how() -> None:
    text = explain_command(command(command="dbt test  --vars hush", returnCode=2), [], hide)
    assert text == "command 'dbt test --vars ***' ended with return code 2"


@pytest.mark.parametrize("code", [None, ""])
def test_a_command_may_have_no_return_code(code: Any) -> None:
    assert (
        explain_command(command(returnCode=code), [], hide)
        == "command 'dbt build' ended without a return code"
    )


def test_both_outputs_are_shown_stdout_last() -> None:
    text = explain_command(command(stdout="one\ntwo\n", stderr="oh\n"), [], hide)
    assert text.splitlines()[1:] == [
        "the end of its stderr (1 of 1 lines):",
        "  oh",
        "the end of its stdout (2 of 2 lines):",
        "  one",
        "  two",
    ]


def test_a_hundred_lines_are_kept_half_of_them_of_stderr_at_most() -> None:
    lines = "\n".join(f"line {number}" for number in range(1000))
    only = explain_command(command(stdout=lines), [], hide).splitlines()
    assert only[1] == "the end of its stdout (100 of 1000 lines):"
    assert only[2] == "  line 900" and only[-1] == "  line 999"
    both = explain_command(command(stdout=lines, stderr=lines), [], hide).splitlines()
    assert both[1] == "the end of its stderr (50 of 1000 lines):"
    assert both[52] == "the end of its stdout (50 of 1000 lines):" and both[-1] == "  line 999"


def test_long_lines_are_cut_at_their_beginning() -> None:
    text = explain_command(command(stdout="a" * 10**6 + "end", stderr="b" * 10**6 + "stop"), [], hide)
    assert text.endswith("aend") and "bstop\n" in text
    assert 16_000 < len(text) < 17_000


def test_megabytes_of_output_make_a_small_text() -> None:
    text = explain_command(
        command(stdout="0123456789" * 100 + "\n" * 2, stderr="x" * 300 + "\n" * 5), [], hide
    )
    assert len(text) < 2000
    text = explain_command(command(stdout=("y" * 1000 + "\n") * 3000), [], hide)
    assert "(17 of 3000 lines)" in text and len(text) < 17_000


def test_secrets_are_masked_before_lines_are_parted_and_cut() -> None:
    text = explain_command(command(stdout="a hush\nhush b\n" + "x" * 16380 + "hush"), [], hide)
    assert "hush" not in text and "us" not in text.replace("dbt build", "")


def test_colours_and_control_characters_are_left_out() -> None:
    assert "  ERROR in" in explain_command(command(stdout="\x1b[31mERROR\x1b[0m in"), [], hide)


def test_commands_that_had_failed_before_are_named() -> None:
    text = explain_command(command(stderr="oh"), ["dbt seed", "dbt run hush"], hide)
    assert text.splitlines()[1:3] == [
        "command 'dbt seed' had failed before",
        "command 'dbt run ***' had failed before",
    ]


@given(
    st.dictionaries(st.sampled_from(["command", "returnCode", "stdout", "stderr"]), ANY_JSON),
    st.lists(ANY_JSON),
)
def test_any_answer_makes_a_text_of_bounded_length(answer: dict[str, Any], before: list[Any]) -> None:
    first, *rest = explain_command(answer, before, hide).splitlines()
    assert first.startswith("command ") and first.isprintable() and len(first) < 450
    assert len(rest) <= 107


def test_results_are_counted_and_the_failed_named() -> None:
    results = [
        {"status": "success", "unique_id": "model.shop.a"},
        {"status": "success", "unique_id": "model.shop.b"},
        {"status": "error", "unique_id": "model.shop.c"},
        {"status": "Fail", "unique_id": "test.shop.d"},
        {"status": "skipped", "unique_id": "model.shop.e"},
        {"status": "runtime error", "unique_id": "source.shop.f"},
    ]
    digest = digest_run_results({"results": results, "elapsed_time": 12.345})
    assert digest == {
        "counts": {"success": 2, "error": 1, "fail": 1, "skipped": 1, "runtime error": 1},
        "failed": ["model.shop.c", "test.shop.d", "source.shop.f"],
        "failed_count": 3,
        "elapsed": 12.345,
    }
    assert describe_digest(digest).splitlines() == [
        "dbt's results after 12.3 s: 2 success, 1 error, 1 fail, 1 skipped, 1 runtime error",
        "failed: model.shop.c, test.shop.d, source.shop.f",
    ]


def test_a_digest_is_bounded() -> None:
    results = [{"status": "error", "unique_id": f"model.{number}." + "x" * 500} for number in range(3000)]
    digest = digest_run_results({"results": results})
    assert len(digest["failed"]) == 20 and digest["failed_count"] == 3000
    assert describe_digest(digest).endswith(" and 2980 more")
    assert len(describe_digest(digest)) < 5000


def test_a_digest_is_masked_before_it_is_cut() -> None:
    digest = digest_run_results({"results": [{"status": "error", "unique_id": "x" * 98 + "hush"}]}, hide)
    assert digest["failed"] == ["x" * 98 + "**..."]


@pytest.mark.parametrize("elapsed", [None, True, "3", float("nan"), float("inf"), 10**400])
def test_an_elapsed_time_that_is_none_is_left_out(elapsed: Any) -> None:
    digest = digest_run_results({"results": [], "elapsed_time": elapsed})
    assert digest["elapsed"] is None
    assert describe_digest(digest) == "dbt's results: none"


@given(NEARLY | ANY_JSON)
def test_any_json_value_has_a_digest(value: Any) -> None:
    digest = digest_run_results(value, hide)
    assert json.loads(json.dumps(digest, allow_nan=False)) == digest
    assert len(digest["failed"]) <= 20 and len(digest["counts"]) <= 10
    assert describe_digest(digest).startswith("dbt's results")
