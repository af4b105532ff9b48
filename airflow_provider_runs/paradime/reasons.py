"""Why a run failed: what its command printed, and what dbt wrote into ``run_results.json``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from airflow_provider_runs.core.text import one_line, printable

RUN_RESULTS = "target/run_results.json"
TAIL_LINES = 100
TAIL_CHARACTERS = 16 * 1024
FAILED_STATUSES = ("error", "fail", "runtime error", "partial success")
"""dbt's words for nodes that did not come to a good end."""
FAILED_SHOWN = 20
STATUSES_SHOWN = 10
NAME_CHARACTERS = 100
COMMAND_CHARACTERS = 300
OTHERS_SHOWN = 5


def explain_command(command: Mapping[str, Any], before: Sequence[Any], redact: Callable[[str], str]) -> str:
    """
    Return a line with a failing command's text and return code, and then the end of what it printed.

    Of both outputs together, 100 lines and 16384 characters are kept, of stderr not more than half of that.
    Secrets are masked before anything is cut.

    :param command: what Paradime knows about the command: ``command``, ``returnCode``, ``stdout``,
        ``stderr``.
    :param before: texts of the commands that had failed before it.
    :param redact: masks the secrets in a text.
    """
    code = one_line(str(command.get("returnCode") or ""), redact, NAME_CHARACTERS)
    ended = f"with return code {code}" if code else "without a return code"
    parts = [f"command {_command(command.get('command'), redact)} ended {ended}"]
    for other in before[-OTHERS_SHOWN:]:
        parts.append(f"command {_command(other, redact)} had failed before")
    errors, lines = _tail(command.get("stderr"), redact, TAIL_LINES // 2, TAIL_CHARACTERS // 2)
    parts += _shown("stderr", errors, lines)
    left = TAIL_CHARACTERS - sum(len(line) + 1 for line in errors)
    output, lines = _tail(command.get("stdout"), redact, TAIL_LINES - len(errors), left)
    return "\n".join(parts + _shown("stdout", output, lines))


def _command(text: Any, redact: Callable[[str], str]) -> str:
    return repr(one_line(str(text), redact, COMMAND_CHARACTERS))


def _tail(
    text: Any, redact: Callable[[str], str], most_lines: int, most_characters: int
) -> tuple[list[str], int]:
    """Return the last lines of a text, and how many it has."""
    if not isinstance(text, str):
        return [], 0
    lines = redact(text).rstrip().splitlines()
    kept: list[str] = []
    left = most_characters
    for line in reversed(lines[-most_lines:]):
        shown = printable(line[-2 * most_characters :])
        if left <= 0:
            break
        kept.append(shown[-left:])
        left -= len(kept[-1]) + 1
    return kept[::-1], len(lines)


def _shown(name: str, tail: list[str], lines: int) -> list[str]:
    if not tail:
        return []
    return [f"the end of its {name} ({len(tail)} of {lines} lines):", *(f"  {line}" for line in tail)]


def digest_run_results(data: Any, redact: Callable[[str], str] = str) -> dict[str, Any]:
    """
    Return what matters of dbt's ``run_results.json``, whatever stands in it.

    :param data: the file's JSON value.
    :param redact: masks the secrets in a text.
    :return: ``counts``: number of nodes by status, the most frequent first; ``failed``: unique ids of the
        nodes that failed, 20 at most; ``failed_count``: how many there are; ``elapsed``: seconds, or None.
    """
    results = data.get("results") if isinstance(data, Mapping) else None
    counts: Counter[str] = Counter()
    failed: list[str] = []
    for result in results if isinstance(results, list) else ():
        if not isinstance(result, Mapping):
            continue
        status = _name(result.get("status"), redact).lower()
        counts[status] += 1
        if status in FAILED_STATUSES:
            failed.append(_name(result.get("unique_id"), redact))
    return {
        "counts": dict(counts.most_common(STATUSES_SHOWN)),
        "failed": failed[:FAILED_SHOWN],
        "failed_count": len(failed),
        "elapsed": _seconds(data.get("elapsed_time")) if isinstance(data, Mapping) else None,
    }


def describe_digest(digest: Mapping[str, Any]) -> str:
    """
    Return a digest of ``run_results.json`` as text for a log.

    :param digest: as :func:`digest_run_results` returns it.
    """
    counted = ", ".join(f"{number} {status}" for status, number in digest["counts"].items())
    after = "" if digest["elapsed"] is None else f" after {digest['elapsed']:.1f} s"
    lines = [f"dbt's results{after}: {counted or 'none'}"]
    if digest["failed"]:
        more = digest["failed_count"] - len(digest["failed"])
        lines.append("failed: " + ", ".join(digest["failed"]) + (f" and {more} more" if more else ""))
    return "\n".join(lines)


def _name(value: Any, redact: Callable[[str], str]) -> str:
    return (one_line(value, redact, NAME_CHARACTERS) if isinstance(value, str) else "").strip() or "unknown"


def _seconds(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    return seconds if math.isfinite(seconds) else None
