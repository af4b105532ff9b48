"""What comes through the stream of a run, and the events that the service lists for it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from airflow_provider_runs.core.sse import Event
from airflow_provider_runs.core.text import one_line

SHOWN = ("log", "progress", "error")
"""Types of events that tell what the job does; changes of its status are told from elsewhere."""
DATA_CHARACTERS = 500
LEVEL_CHARACTERS = 40


def line_of(event: Event, redact: Callable[[str], str] = str) -> str | None:
    """
    Return what the job says by an event, as text for a log; None where it says nothing.

    :param event: an event of the run's stream.
    :param redact: masks the secrets in a text, before anything is cut.
    :return: type and level, a bar, the message and the data. It may have several lines.
    """
    said = _object(event)
    return _line(said.get("event_type"), said, redact) if said.get("type") == "event" else None


def line_of_listed(row: Mapping[str, Any], redact: Callable[[str], str] = str) -> str | None:
    """
    Return what the job says by a listed event, in the same words as :func:`line_of`.

    :param row: the event as ``list_events`` returns it.
    :param redact: masks the secrets in a text, before anything is cut.
    """
    return _line(row.get("type"), row, redact)


class Events:
    """
    Bring the events of a stream and those of lists together, each one once.

    Those of a stream have no id: they are told from listed ones by what they say.

    :param redact: masks the secrets in a text, before anything is cut.
    """

    def __init__(self, redact: Callable[[str], str] = str) -> None:
        self._redact = redact
        self._ids: set[str] = set()
        self._streamed: Counter[int] = Counter()
        """Hashes of lines that came through the stream, and have not been listed yet."""
        self._listed: Counter[int] = Counter()
        """Hashes of lines that the last list brought, and that may come through the stream, too."""

    def come(self, event: Event) -> str | None:
        """
        Return the line of an event that came through the stream, None where there is none or it is known.

        :param event: the event.
        """
        line = line_of(event, self._redact)
        if line is None:
            return None
        if self._listed[hash(line)] > 0:
            self._listed[hash(line)] -= 1
            return None
        self._streamed[hash(line)] += 1
        return line

    def listed(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """
        Return the lines of listed events that are not known yet.

        :param rows: the events as ``list_events`` returns them, the oldest first.
        """
        self._listed.clear()
        lines = []
        for row in rows:
            line, row_id = line_of_listed(row, self._redact), row.get("id")
            if line is None or not isinstance(row_id, str) or row_id in self._ids:
                continue
            self._ids.add(row_id)
            if self._streamed[hash(line)] > 0:
                self._streamed[hash(line)] -= 1
            else:
                self._listed[hash(line)] += 1
                lines.append(line)
        return lines

    def settle(self) -> None:
        """Take note that the stream brings nothing any more that the last list had."""
        self._listed.clear()


def _object(event: Event) -> Mapping[str, Any]:
    """Return the JSON object that an event holds, an empty one where it is none or tells of an error."""
    if event.event != "message":
        return {}
    try:
        value = json.loads(event.data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _line(kind: Any, said: Mapping[str, Any], redact: Callable[[str], str]) -> str | None:
    if kind not in SHOWN:
        return None
    level, message, data = said.get("level"), said.get("message"), said.get("data")
    shown = one_line(level, redact, LEVEL_CHARACTERS) if isinstance(level, str) else ""
    head = f"{kind} {shown}" if shown not in ("", "info", kind) else kind
    text = redact(message).strip() if isinstance(message, str) else ""
    if data:
        compact = json.dumps(data, ensure_ascii=False, separators=(", ", ": "))
        text = f"{text} {one_line(compact, redact, DATA_CHARACTERS)}".strip()
    return f"{head} | {text}"
