"""Check what users pass for a run before anything is sent."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_provider_runs.core.errors import BadInput
from airflow_provider_runs.core.text import one_line

_INTEGER = re.compile(r"[+-]?[0-9]{1,40}")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def _shown(value: object) -> str:
    try:
        return one_line(repr(value), limit=200)
    except ValueError:  # A number of thousands of digits is not written out.
        return f"a huge {type(value).__name__}"


def unknown_names(what: str, given: Iterable[str], known: Collection[str]) -> None:
    """
    Refuse names that a service does not know.

    :param what: what they are given for, for the message.
    :param given: the names.
    :param known: the names that there are.
    :raises BadInput: if one is unknown.
    """
    if unknown := sorted(str(name) for name in given if name not in known):
        raise BadInput(f"a {what} has no {', '.join(unknown)}; it has {', '.join(known)}")


def without_none(given: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return what was given, without what is None.

    :param given: names and values.
    """
    return {name: value for name, value in given.items() if value is not None}


def set_attributes(owner: object, names: Iterable[str]) -> dict[str, Any]:
    """
    Return those of some attributes that are set, as a mapping.

    :param owner: what has them.
    :param names: the attributes. One that is None is not set.
    """
    return without_none({name: getattr(owner, name) for name in names})


def required_text(name: str, value: Any, *, longest: int | None = None) -> str:
    """
    Return a text that must not be empty, without surrounding space.

    :param name: the argument, for the message.
    :param value: what was given. ``"None"``, which templates make of a missing value, is empty.
    :param longest: characters at most; None: any number.
    :raises BadInput: if it is no text, empty or too long.
    """
    if not isinstance(value, str):
        raise BadInput(f"{name} must be a text, not {type(value).__name__}")
    text = value.strip()
    if text in ("", "None"):
        raise BadInput(f"{name} is empty ({_shown(value)}); if it is a template, it rendered to nothing")
    if longest is not None and len(text) > longest:
        raise BadInput(f"{name} must have {longest} characters at most, not {len(text)}")
    return text


def id_text(name: str, value: Any) -> str:
    """
    Return an id as text, also where it was given as a number.

    :param name: the argument, for the message.
    :param value: what was given.
    :raises BadInput: if it is empty.
    """
    return required_text(name, value if isinstance(value, str) else str(value))


def text_list(name: str, value: Any) -> list[str]:
    """
    Return texts that must not be empty, each once, in the order in which they were given first.

    :param name: the argument, for the message.
    :param value: a sequence of texts or whole numbers, or the text of such a list, in JSON or as Python
        writes it, which is what templates render to.
    :raises BadInput: if it is anything else, or empty.
    """
    given = value
    if isinstance(value, str):
        for read in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                given = read(value.strip())
                break
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise BadInput(f"{name} must be a list or the text of one, not {_shown(value)}")
    texts: dict[str, None] = {}
    for index, one in enumerate(given):
        is_number = isinstance(one, int) and not isinstance(one, bool)
        texts[required_text(f"{name}[{index}]", str(one) if is_number else one)] = None
    if not texts:
        raise BadInput(f"{name} is empty: there is nothing to wait for")
    return list(texts)


def integer(name: str, value: Any, *, at_least: int, at_most: int | None = None) -> int:
    """
    Return a whole number, given as such or as text.

    :param name: the argument, for the message.
    :param value: what was given.
    :param at_least: the lowest number allowed.
    :param at_most: the highest number allowed; None: any.
    :raises BadInput: if it is anything else.
    """
    number = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        number = int(value)
    if number is None:
        raise BadInput(f"{name} must be a whole number, not {_shown(value)}")
    if number < at_least:
        raise BadInput(f"{name} must be at least {at_least}, not {_shown(number)}")
    if at_most is not None and number > at_most:
        raise BadInput(f"{name} must be at most {at_most}, not {_shown(number)}")
    return number


def seconds(name: str, value: Any) -> float | None:
    """
    Return a duration in seconds, None where none is given.

    :param name: the argument, for the message.
    :param value: a number of seconds, also as text, or a timedelta.
    :raises BadInput: if it is anything else or not above zero.
    """
    if value is None:
        return None
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = value.total_seconds() if isinstance(value, timedelta) else float("nan")
    if not 0 < number < float("inf"):
        raise BadInput(f"{name} must be a number of seconds above 0 or a timedelta, not {_shown(value)}")
    return number


def one_of(name: str, value: Any, choices: Collection[str]) -> str:
    """
    Return a value that must be one of a few.

    :param name: the argument, for the message.
    :param value: what was given.
    :param choices: what it may be.
    :raises BadInput: if it is something else.
    """
    if not isinstance(value, str) or value not in choices:
        raise BadInput(f"{name} must be one of {', '.join(choices)}, not {_shown(value)}")
    return value


def boolean(name: str, value: Any, *, default: bool) -> bool:
    """
    Return a yes or no, given as such or as text, which a template renders to.

    :param name: the argument, for the message.
    :param value: what was given.
    :param default: what it is where it is None.
    :raises BadInput: if it is anything else.
    """
    chosen = default if value is None else truth(value)
    if chosen is None:
        raise BadInput(f"{name} must be true or false, not {_shown(value)}")
    return chosen


def truth(value: Any) -> bool | None:
    """
    Return the yes or no that is meant, None where it is neither.

    :param value: what was given, as such or as text.
    """
    return {"true": True, "false": False}.get(str(value).strip().lower())


def instant(name: str, value: Any) -> float:
    """
    Return an instant as UTC epoch seconds.

    :param name: the argument, for the message.
    :param value: a datetime, or ISO 8601 text with date, time and offset.
    :raises BadInput: if it is anything else, or has no zone: which one is meant would be a guess.
    """
    moment = value if isinstance(value, datetime) else _parse(name, required_text(name, value), zone=False)
    if moment.utcoffset() is None:
        raise BadInput(f"{name} needs a time zone: {_shown(value)}; data_interval_end and such have one")
    try:
        return moment.astimezone(UTC).timestamp()
    except OverflowError:
        raise BadInput(f"{name} is out of range: {_shown(value)}") from None


def json_object(name: str, value: Any) -> dict[str, Any]:
    """
    Return a JSON object, given as a mapping or as JSON text; an empty one where none is given.

    :param name: the argument, for the message.
    :param value: what was given.
    :raises BadInput: if it is anything else, or holds a value that JSON cannot express.
    """
    if value is None:
        return {}
    given = value
    try:
        if isinstance(value, str):
            given = json.loads(value)
        if not isinstance(given, Mapping):
            raise BadInput(f"{name} must be a mapping or the text of a JSON object")
        if not all(isinstance(key, str) for key in given):
            raise BadInput(f"{name} must have texts as keys")
        copied: dict[str, Any] = json.loads(json.dumps(dict(given), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{name} cannot be written as JSON: {error}") from None
    return copied


def json_value(name: str, value: Any) -> Any:
    """
    Return a JSON value of any kind, given as such; a text is read as the text of a JSON value.

    :param name: the argument, for the message.
    :param value: what was given.
    :raises BadInput: if a text is no JSON, or the value cannot be written as JSON.
    """
    try:
        given = json.loads(value) if isinstance(value, str) else value
        return json.loads(json.dumps(given, allow_nan=False, default=_as_mapping))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"{name} is no JSON: {error}") from None


def _as_mapping(value: Any) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def iso_utc(name: str, value: Any) -> str | None:
    """
    Return an instant as ISO 8601 in UTC with offset, None where none is given.

    An instant without a zone is in UTC, never in the zone of the worker.

    :param name: the argument, for the message.
    :param value: a datetime, or ISO 8601 text with date and maybe time and offset.
    :raises BadInput: if it is anything else, an empty text among it.
    """
    if value is None:
        return None
    moment = value if isinstance(value, datetime) else _parse(name, required_text(name, value))
    if moment.utcoffset() is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC).isoformat()
    except OverflowError:
        raise BadInput(f"{name} is out of range: {_shown(value)}") from None


def _parse(name: str, text: str, zone: bool = True) -> datetime:
    """Read ISO 8601; where `zone` is false, what has no offset stays without a zone."""
    import pendulum

    try:
        parsed = pendulum.parse(text, tz="UTC" if zone else None) if _DATE.match(text) else None
    except (ValueError, OverflowError, TypeError):
        parsed = None
    if not isinstance(parsed, datetime):
        raise BadInput(f"{name} must be a date and time in ISO 8601, not {_shown(text)}")
    return parsed


def list_bounds(since: datetime | str | None, limit: int | None) -> tuple[float | None, int | None]:
    """
    Check from when on and how many runs are to be listed; return UTC epoch seconds and the number.

    :param since: datetime or ISO 8601 with offset; None: from the first.
    :param limit: so many runs at most; None: all.
    :raises BadInput: if one of them is anything else.
    """
    return (
        None if since is None else instant("since", since),
        None if limit is None else integer("limit", limit, at_least=1),
    )
