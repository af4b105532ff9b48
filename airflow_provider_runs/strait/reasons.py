"""Why a run in Strait ended badly, in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from airflow_provider_runs.core.text import one_line, printable
from airflow_provider_runs.strait.answers import DEAD_LETTER, REPLAYABLE

EVENTS_SHOWN = 20
MESSAGE_LINES = 50
LINE_CHARACTERS = 1000
DATA_CHARACTERS = 500

Row = Mapping[str, Any]


def reason(
    run: Row, events: Sequence[Row], bundle: Row | None, redact: Callable[[str], str] = str
) -> str | None:
    """
    Return why a run ended badly, None where nothing tells.

    The first line is the run's error; the last 20 error events and what can be done follow.

    :param run: the run as Strait shows it.
    :param events: its events of level error, the oldest first.
    :param bundle: its debug bundle, which may hold more events; or None.
    :param redact: masks the secrets in a text, before anything is cut.
    """
    told = _errors(bundle) or list(events)
    parts = [*_head(run, redact)]
    if told:
        parts.append(f"the last error events ({min(len(told), EVENTS_SHOWN)} of {len(told)}):")
        for event in told[-EVENTS_SHOWN:]:
            parts += [f"  {line}" for line in _event(event, redact)]
    parts += _advice(run, bundle)
    return "\n".join(parts) if parts else None


def _head(run: Row, redact: Callable[[str], str]) -> list[str]:
    error, kind, attempt = run.get("error"), run.get("error_class"), run.get("attempt")
    text = one_line(error, redact, LINE_CHARACTERS) if isinstance(error, str) else ""
    if not text:
        return []
    if isinstance(kind, str) and kind:
        text += f" ({one_line(kind, redact)})"
    if isinstance(attempt, int) and attempt > 1:
        text += f", in attempt {attempt}"
    return [text]


def _errors(bundle: Row | None) -> list[Row]:
    """Return the error events of a debug bundle, which holds more than a page of them."""
    rows = bundle.get("events") if bundle is not None else None
    if not isinstance(rows, list):
        return []
    return [row for row in rows if isinstance(row, dict) and "error" in (row.get("level"), row.get("type"))]


def _event(event: Row, redact: Callable[[str], str]) -> list[str]:
    message, data, when = event.get("message"), event.get("data"), event.get("created_at")
    lines = redact(message).strip().splitlines() if isinstance(message, str) else []
    shown = [printable(line)[:LINE_CHARACTERS] for line in lines[:MESSAGE_LINES]] or ["(no message)"]
    if isinstance(when, str):
        shown[0] = f"{one_line(when, redact, 40)} {shown[0]}"
    if len(lines) > MESSAGE_LINES:
        shown.append(f"[{len(lines) - MESSAGE_LINES} lines more]")
    if data:
        shown.append(one_line(json.dumps(data, ensure_ascii=False), redact, DATA_CHARACTERS))
    return shown


def _advice(run: Row, bundle: Row | None) -> list[str]:
    """Return what can be done about such an end."""
    status = run.get("status")
    if status == DEAD_LETTER:
        return [
            "It is a dead letter: its attempts are used up. Once the cause is mended, "
            "StraitReplayRunOperator goes on with it under its id"
        ]
    if status == "expired":
        return ["It did not begin in time: see ttl_secs of the start, and of the job"]
    sequence = _last_checkpoint(bundle)
    if status in REPLAYABLE and sequence is not None:
        return [f"StraitReplayRunOperator with from_checkpoint={sequence} goes on from its last checkpoint"]
    return []


def _last_checkpoint(bundle: Row | None) -> int | None:
    rows = bundle.get("checkpoints") if bundle is not None else None
    sequences = [
        row["sequence"]
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict) and isinstance(row.get("sequence"), int)
    ]
    return max(sequences, default=None)
