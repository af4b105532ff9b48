"""
Requests and responses as values, and how a sequence of them is written down.

An API call is a :data:`Flow`: a generator that yields a :class:`Request`, is sent the :class:`Response`
(or is thrown :class:`~airflow_provider_runs.core.errors.ConnectionFailed`) and returns its result.
:mod:`~airflow_provider_runs.core.drivers` runs the same generator with requests and with aiohttp.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

from airflow_provider_runs.core.errors import ApiError
from airflow_provider_runs.core.text import excerpt

T = TypeVar("T")
Flow = Generator["Request", "Response", T]

LARGE_JSON = 1024 * 1024
"""Bytes of a body beyond which reading its JSON takes so long that an event loop must not wait for it."""
MAX_VALUES = 250_000
"""Values in the JSON of such a body at most: each takes up to 100 bytes, however short it is spelled."""
_LONE_SURROGATES = re.compile(r"[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class Request:
    """
    One HTTP request.

    :param method: HTTP method, upper case.
    :param url: absolute URL without query. ``***`` in it stands for the secret.
    :param headers: headers besides authentication, which the driver adds.
    :param params: query parameters; one with several values is repeated.
    :param json: body to be sent as JSON; None sends none.
    :param safe_to_repeat: whether sending it twice does the same as sending it once. A request that starts
        a run is so only with an idempotency key.
    :param authenticated: whether the driver gets a token first and adds it.
    :param timeout: seconds to wait for the answer; None takes the connection's ``request_timeout``.
    :param secret: a secret that the URL must hold when it is sent, and nowhere else.
    :param delay: seconds to wait before it is sent.
    :param may_be_empty: whether an answer of status 2xx may have no body. One that is no JSON is somebody
        else's, such as a gateway's, and says nothing about the request.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    params: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    json: Any = field(default=None, repr=False)
    safe_to_repeat: bool = False
    authenticated: bool = True
    timeout: float | None = None
    secret: str | None = field(default=None, repr=False)
    delay: float = 0.0
    may_be_empty: bool = False

    @property
    def target(self) -> str:
        """The URL as it is sent."""
        return self.url if self.secret is None else self.url.replace("***", quote(self.secret, safe=""))

    def __str__(self) -> str:
        return f"{self.method} {urlsplit(self.url).path}"


@dataclass(frozen=True)
class Response:
    """
    The answer to a request.

    :param status: HTTP status.
    :param headers: headers, names in lower case.
    :param body: the body, decoded; of a redirect and of a long error not all of it.
    :param is_whole: whether the body is all that the service said, and decoded.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    is_whole: bool = True

    @property
    def text(self) -> str:
        """The body as text; bytes that are not UTF-8 are replaced."""
        return self.body.decode("utf-8", "replace")

    @property
    def json(self) -> Any:
        """
        The body's JSON value, or None where the body is no JSON in UTF-8 at all.

        Half a surrogate pair, which JSON can spell but nobody can store or print, becomes a question mark.
        """
        return self._read.value

    @property
    def is_json(self) -> bool:
        """Whether the body is JSON in UTF-8."""
        return self._read.is_json

    @property
    def has_too_many_values(self) -> bool:
        """Whether the body is JSON of more values than are read."""
        return self._read.is_too_much

    @cached_property
    def _read(self) -> _Reading:
        try:
            text = self.body.decode("utf-8-sig")
            if len(self.body) <= LARGE_JSON:
                value = _JSON.decode(text)
            else:
                with _ONE_AT_A_TIME:
                    value = _PatientDecoder().decode(text)
            return _Reading(_without_halves(value) if _SURROGATE_ESCAPE.search(text) else value)
        except _TooManyValues:
            return _Reading(is_json=False, is_too_much=True)
        except (ValueError, RecursionError):
            return _Reading(is_json=False)


class _Reading(NamedTuple):
    value: Any = None
    is_json: bool = True
    is_too_much: bool = False


class _TooManyValues(Exception):
    """JSON has more values than are read."""


class _PatientDecoder(json.JSONDecoder):
    """
    Decode one text whose values are counted.

    It lets other threads run meanwhile, which the decoder in C does not, and takes ten times as long.
    """

    def __init__(self) -> None:
        super().__init__()
        self._left = MAX_VALUES
        for name in ("parse_object", "parse_array", "parse_string", "parse_int", "parse_float"):
            setattr(self, name, self._counted(getattr(self, name)))
        self.scan_once = json.scanner.py_make_scanner(self)  # type: ignore[attr-defined]

    def _counted(self, parse: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                raise _TooManyValues
            return parse(*arguments)

        return counted


_JSON = json.JSONDecoder()
_ONE_AT_A_TIME = threading.Lock()
"""Held while a long text is decoded: several at once would take several times the memory."""


def _without_halves(value: Any) -> Any:
    if isinstance(value, str):
        return _LONE_SURROGATES.sub("?", value)
    if isinstance(value, list):
        return [_without_halves(item) for item in value]
    if isinstance(value, dict):
        return {_without_halves(name): _without_halves(item) for name, item in value.items()}
    return value


def read_object(response: Response, service: str, redact: Callable[[str], str] = str) -> dict[str, Any]:
    """
    Return the JSON object in the body.

    :param response: the answer.
    :param service: the service's name, for the message.
    :param redact: masks the secrets in a text.
    :raises ApiError: if the body is anything else (HTML of a proxy, an empty body, a list).
    """
    value = response.json
    if not isinstance(value, dict):
        raise ApiError(
            f"{service} answered {response.status} with a body that is not a JSON object: "
            + excerpt(response.body, redact),
            status=response.status,
            permanent=False,
        )
    return value
