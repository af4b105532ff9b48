"""
Requests and responses as values, and how a sequence of them is written down.

An API call is a :data:`Flow`: a generator that yields a :class:`Request`, is sent the :class:`Response`
(or is thrown :class:`~airflow_provider_runs.core.errors.ConnectionFailed`) and returns its result.
:mod:`~airflow_provider_runs.core.drive` runs the same generator with requests and with aiohttp.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from airflow_provider_runs.core.errors import ApiError

T = TypeVar("T")
Flow = Generator["Request", "Response", T]

_LONE_SURROGATES = re.compile(r"[\ud800-\udfff]")
# A member of an object, in JSON or as Python prints it, whose name says that its value is a secret.
_SECRET_MEMBER = re.compile(
    r"""(["'][^"']*(?:token|secret|password|authorization|api_key)[^"'\w]*["']\s*:\s*)"""
    r"""("(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?)""",
    re.IGNORECASE,
)

# A zero byte within a name hides that it names a secret; all white space stays.
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")

# Colours and the like, which programs write for a terminal.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")


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
    :param unsure: words in an answer of status 429 by which nobody knows whether it was carried out.
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
    unsure: str | None = None

    @property
    def target(self) -> str:
        """The URL as it is sent."""
        return self.url if self.secret is None else self.url.replace("***", quote(self.secret, safe=""))

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
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)

    @property
    def text(self) -> str:
        """The body as text; bytes that are not UTF-8 are replaced."""
        return self.body.decode("utf-8", "replace")


def parse_json(response: Response) -> Any:
    """
    Return the body's JSON value, or None where the body is no JSON in UTF-8 at all.

    Half a surrogate pair, which JSON can spell but nobody can store or print, becomes a question mark.

    :param response: the answer.
    """
    try:
        text = response.body.decode("utf-8-sig")
        value = json.loads(text)
        if "\\u" in text:
            value = json.loads(_LONE_SURROGATES.sub("?", json.dumps(value, ensure_ascii=False)))
    except (ValueError, RecursionError):
        return None
    return value


def read_object(response: Response, service: str, redact: Callable[[str], str] = str) -> dict[str, Any]:
    """
    Return the JSON object in the body.

    :param response: the answer.
    :param service: the service's name, for the message.
    :param redact: masks the secrets in a text.
    :raises ApiError: if the body is anything else (HTML of a proxy, an empty body, a list).
    """
    value = parse_json(response)
    if not isinstance(value, dict):
        raise ApiError(
            f"{service} answered {response.status} with a body that is not a JSON object: "
            + excerpt(response, redact),
            status=response.status,
            permanent=False,
        )
    return value


def excerpt(response: Response, redact: Callable[[str], str] = str, limit: int = 200) -> str:
    """
    Return the start of the body in one line, for a message; values that are secret by their name are masked.

    :param response: the answer.
    :param redact: masks the secrets in a text.
    :param limit: characters at most.
    """
    text = _SECRET_MEMBER.sub(r'\1"***"', _CONTROLS.sub("", response.text))
    return one_line(text, redact, limit) or "(empty)"


def one_line(text: str, redact: Callable[[str], str] = str, limit: int = 500) -> str:
    """
    Return the start of a text in one line. Secrets are masked first: half a secret is not recognised.

    :param text: the text.
    :param redact: masks the secrets in a text.
    :param limit: characters at most.
    """
    line = " ".join(redact(text).split())
    shown = "".join(character if character.isprintable() else " " for character in line[:limit])
    return shown if len(line) <= limit else shown + "..."


def printable(text: str) -> str:
    """
    Return a line of a program's output without colours and control characters.

    :param text: the line.
    """
    plain = _ESCAPES.sub("", text).expandtabs(4)
    return "".join(character if character.isprintable() else " " for character in plain).rstrip()
