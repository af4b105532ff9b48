"""
Requests and responses as values, and how a sequence of them is written down.

An API call is a :data:`Flow`: a generator that yields a :class:`Request`, is sent the :class:`Response`
(or is thrown :class:`~airflow_provider_runs.core.errors.ConnectionFailed`) and returns its result.
:mod:`~airflow_provider_runs.core.drive` runs the same generator with requests and with aiohttp.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from airflow_provider_runs.core.errors import ApiError

T = TypeVar("T")
Flow = Generator["Request", "Response", T]


@dataclass(frozen=True, slots=True)
class Request:
    """
    One HTTP request.

    :param method: HTTP method, upper case.
    :param url: absolute URL without secrets and without query.
    :param headers: headers besides authentication, which the driver adds.
    :param params: query parameters.
    :param json: body to be sent as JSON; None sends none.
    :param safe_to_repeat: whether sending it twice does the same as sending it once. A request that starts
        a run is so only with an idempotency key.
    :param authenticated: whether the driver gets a token first and adds it.
    :param timeout: seconds to wait for the answer; None takes the connection's ``request_timeout``.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    safe_to_repeat: bool = False
    authenticated: bool = True
    timeout: float | None = None

    def __str__(self) -> str:
        return f"{self.method} {urlsplit(self.url).path}"


@dataclass(frozen=True, slots=True)
class Response:
    """
    The answer to a request.

    :param status: HTTP status.
    :param headers: headers, names in lower case.
    :param body: the body as it came.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def text(self) -> str:
        """The body as text; bytes that are not UTF-8 are replaced."""
        return self.body.decode("utf-8", "replace")


def parse_json(response: Response) -> Any:
    """
    Return the body's JSON value, or None where the body is no JSON at all.

    :param response: the answer.
    """
    try:
        return json.loads(response.body)
    except (ValueError, RecursionError):
        return None


def read_object(response: Response, service: str) -> dict[str, Any]:
    """
    Return the JSON object in the body.

    :param response: the answer.
    :param service: the service's name, for the message.
    :raises ApiError: if the body is anything else (HTML of a proxy, an empty body, a list).
    """
    value = parse_json(response)
    if not isinstance(value, dict):
        raise ApiError(
            f"{service} answered {response.status} with a body that is not a JSON object: {excerpt(response)}",
            status=response.status,
            permanent=False,
        )
    return value


def excerpt(response: Response, limit: int = 200) -> str:
    """
    Return the start of the body in one line, for a message.

    :param response: the answer.
    :param limit: characters at most.
    """
    line = " ".join(response.text.split())
    if not line:
        return "(empty)"
    return line if len(line) <= limit else line[:limit] + "..."
