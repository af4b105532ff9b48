"""Answers for flows: from values, from the sample files, and broken in every way that comes to mind."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, example, settings
from hypothesis import strategies as st

from airflow_provider_runs.core.http import Flow, Response

T = TypeVar("T", bound=Callable[..., Any])
SAMPLES = Path(__file__).parent / "samples"


def answer(body: Any = b"", status: int = 200, **headers: str) -> Response:
    """Return an answer; a body that is neither bytes nor text is written as JSON."""
    if isinstance(body, str):
        body = body.encode()
    elif not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return Response(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def sample(name: str) -> Any:
    """Return a fresh copy of the value in a sample file, named without its ending."""
    return json.loads((SAMPLES / f"{name}.json").read_text("utf-8"))


def exhaust(flow: Flow[Any], answers: Iterable[Response], limit: int = 20) -> Any:
    """Run a flow against answers that start over at their end; return its result."""
    supply = itertools.cycle(answers)
    try:
        next(flow)
        for _ in range(limit):
            flow.send(next(supply))
    except StopIteration as end:
        return end.value
    raise AssertionError(f"the flow goes on after {limit} answers")


# Broken answers

# The same ones each time: a test that fails must fail for whoever looks into it.
fuzzed = settings(
    max_examples=300,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
any_text = st.text(st.characters(exclude_categories=()), max_size=20)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(
        [0, -1, 10**30, 10**400, 1e999, -1e999, float("nan"), "", " ", "None", "\x1b[31m", "\ud800"]
    )
    | st.floats()
    | any_text
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=8,
)
statuses = st.sampled_from(
    [200, 200, 200, 201, 202, 204, 302, 400, 401, 403, 404, 405, 409, 422, 429, 500, 502, 503, 504]
) | st.integers(100, 599)
headers = st.dictionaries(
    st.sampled_from(["trace", "retry-after", "content-type", "location"]),
    st.sampled_from(["", "soon", "-1", "nan", "text/html", "application/json; charset=utf-16", "t" * 3000]),
    max_size=2,
)
encodings = st.sampled_from(
    ["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "utf-7"]
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value in a value."""
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    return [path, *(place for key, item in inner for place in _places(item, (*path, key)))]


def _parent(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        value = value[key]
    return value


@st.composite
def damaged(draw: st.DrawFn, bodies: list[Any], words: list[str]) -> bytes:
    """Take a good body and change what it says, how it is written, or both."""
    body = copy.deepcopy(draw(st.sampled_from(bodies)))
    for _ in range(draw(st.integers(0, 3))):
        places = _places(body)[1:]
        if not places:
            break
        place = draw(st.sampled_from(places))
        if draw(st.booleans()):
            _parent(body, place)[place[-1]] = draw(values | st.sampled_from(words))
        elif isinstance(place[-1], str):
            del _parent(body, place)[place[-1]]
    text = json.dumps(body, ensure_ascii=draw(st.booleans()))
    if draw(st.integers(0, 5)) == 0:
        twice = {draw(st.sampled_from(["id", "status", "error", "pipeline_run"])): draw(values)}
        text = json.dumps(twice)[:-1] + ", " + text[1:]
    if draw(st.integers(0, 9)) == 0:
        text = draw(
            st.sampled_from(
                ["[" * 20000 + "]" * 20000, '{"a":' * 20000, "1" * 5000, '{"id": ' + "9" * 5000 + "}"]
            )
        )
    encoding = draw(encodings)
    errors = "replace" if encoding in ("latin-1", "utf-7") else "surrogatepass"
    data = text.encode(encoding, errors)
    match draw(st.integers(0, 5)):
        case 0:
            data = data[: draw(st.integers(0, len(data)))]
        case 1:
            at = draw(st.integers(0, len(data)))
            data = data[:at] + draw(st.binary(max_size=4)) + data[at:]
    return data


def broken_answers(bodies: list[Any], words: list[str]) -> st.SearchStrategy[Response]:
    """
    Return answers of any status with bodies that were good once, and with bodies that never were.

    :param bodies: good bodies.
    :param words: words that mean something in one of their places.
    """
    never = (
        st.binary(max_size=60)
        | values.map(lambda value: json.dumps(value).encode())
        | st.sampled_from(
            [
                b"",
                b"null",
                b"[]",
                b"{}",
                b"\xef\xbb\xbf{}",
                b"<html><body>502 Bad Gateway</body></html>",
                b"NaN",
            ]
        )
    )
    return st.builds(Response, statuses, headers, damaged(bodies, words) | never)


def never_without(name: str, values: Iterable[Any]) -> Callable[[T], T]:
    """
    Return a decorator that adds values which chance must not leave out to a test of broken answers.

    :param name: the test's argument.
    :param values: its values.
    """

    def add(test: T) -> T:
        for value in values:
            test = example(**{name: value})(test)
        return test

    return add


def says(response: Response, *path: str) -> Any:
    """Return what a body says at a place, read without the code under test; None where it says nothing."""
    try:
        value = json.loads(response.body.decode("utf-8-sig"))
        for key in path:
            value = value[key]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return value


def complains(call: Callable[[], Any], *secrets: str) -> Any:
    """
    Call something that may fail; return its result, or the error after a look at its message.

    :param call: what to call. Errors that are not ours pass.
    :param secrets: what must not be in the message.
    """
    from airflow_provider_runs.core.errors import RunsError

    try:
        return call()
    except RunsError as error:
        message = str(error)
        message.encode()
        assert message.isprintable()
        assert len(message) < 4000
        assert not [secret for secret in secrets if secret in message]
        return error
