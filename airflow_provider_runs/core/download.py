"""Downloads from addresses that are secrets: no text holds them, and no credentials are sent there."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from airflow_provider_runs.core import clock
from airflow_provider_runs.core.body import STEP, Decoder, Unreadable
from airflow_provider_runs.core.cycle import USER_AGENT, bare
from airflow_provider_runs.core.drivers import DEFAULT_RETRY, Driver
from airflow_provider_runs.core.errors import (
    ApiError,
    ConnectionFailed,
    RunsError,
    is_permanent,
    kind_of_status,
)
from airflow_provider_runs.core.http import Response
from airflow_provider_runs.core.retry import backoff_seconds, retry_after
from airflow_provider_runs.core.transfer import Transfer

if TYPE_CHECKING:
    import requests

REDIRECTS = 3
LEAST = 64 * 1024
"""Bytes of a download that must come within each ``request_timeout``."""


@dataclass(frozen=True, slots=True)
class Download:
    """
    What was downloaded.

    :param size: its length in bytes.
    :param sha256: its SHA-256 in hexadecimal.
    """

    size: int
    sha256: str


def download(
    driver: Driver,
    what: str,
    url_of: Callable[[], str],
    target: IO[bytes],
    *,
    max_bytes: int,
) -> Download:
    """
    Copy what a presigned URL leads to into a file. Credentials are not sent there.

    Each attempt asks for a URL and begins anew, since such URLs expire. What stands in the file is whole
    only if this returns. A store that sends less than 64 KiB within a ``request_timeout`` is given up.

    :param driver: what sends the requests.
    :param what: what it is, for messages, which never hold the URL.
    :param url_of: returns a URL that is fresh.
    :param target: a file that is open for writing; it is emptied first.
    :param max_bytes: length at most.
    :return: the length and the SHA-256 of what was written.
    :raises ConnectionFailed: if there was no answer, or its end did not come.
    :raises ApiError: if the store refuses (Unauthorized and NotFound among it), or it is too long.
    """
    attempts = itertools.count(1)
    while True:
        try:
            return _Attempt(driver, what, max_bytes).fetch(url_of(), target)
        except BaseException as error:
            # The frames of the attempt hold the URL.
            failure = bare(error)
        attempt = next(attempts)
        if not isinstance(failure, RunsError) or is_permanent(failure) or attempt >= DEFAULT_RETRY.attempts:
            raise failure
        backoff = backoff_seconds(attempt, DEFAULT_RETRY.base, DEFAULT_RETRY.cap)
        clock.sleep(max(backoff, failure.retry_after or 0.0))


class _Attempt:
    """One attempt at a download."""

    def __init__(self, driver: Driver, what: str, max_bytes: int) -> None:
        self._driver = driver
        self._service = driver.api.service
        self._what = what
        self._max_bytes = max_bytes
        self._transfer = Transfer(driver.api.request_timeout, driver.api.connect_timeout)

    def fetch(self, url: str, target: IO[bytes]) -> Download:
        """Empty the file and download to it."""
        target.seek(0)
        target.truncate()
        answer = self._ask(url)
        try:
            headers = {name.lower(): value for name, value in answer.headers.items()}
            self._check(answer.status_code, headers)
            return self._copy(answer, headers, target)
        finally:
            answer.close()

    def _ask(self, url: str) -> requests.Response:
        """Send the request, and follow redirects as long as they stay as safe."""
        headers = {"Accept-Encoding": "identity", "User-Agent": USER_AGENT}
        try:
            for _ in range(REDIRECTS):
                answer = self._driver.ask(self._transfer, "GET", url, headers=headers)
                location = urljoin(url, answer.headers.get("Location", ""))
                if not answer.is_redirect or urlsplit(location).scheme not in {urlsplit(url).scheme, "https"}:
                    return answer
                answer.close()
                url = location
            return self._driver.ask(self._transfer, "GET", url, headers=headers)
        except ConnectionFailed:
            raise
        except Exception as error:
            raise self._broken_off(_kinds(error)) from None

    def _check(self, status: int, headers: Mapping[str, str]) -> None:
        if status == 200:
            return
        error = kind_of_status(status)(
            f"{self._service}: the store answered {status} to the download of {self._what}",
            status=status,
            permanent=None if status >= 400 else True,
        )
        error.retry_after = retry_after(Response(status, headers))
        raise error

    def _copy(self, answer: requests.Response, headers: Mapping[str, str], target: IO[bytes]) -> Download:
        length = headers.get("content-length", "")
        told = int(length) if length.isdecimal() and len(length) < 20 else None
        if told is None and headers.get("transfer-encoding", "").lower() != "chunked":
            raise self._refused(
                f"{self._service}: the store does not say how long {self._what} is, "
                "so that it cannot be told whether it is whole"
            )
        if told is not None and told > self._max_bytes:
            raise self._too_long(f"{told} bytes")
        size, digest = 0, hashlib.sha256()
        for part in self._parts(answer, headers.get("content-encoding", ""), told):
            size += len(part)
            if size > self._max_bytes:
                raise self._too_long("more bytes than that")
            target.write(part)
            digest.update(part)
        target.flush()
        return Download(size, digest.hexdigest())

    def _parts(self, answer: requests.Response, encoding: str, told: int | None) -> Iterator[bytes]:
        """Yield what comes. Errors of who writes it are not caught here."""
        came, due = 0, LEAST
        try:
            decoder = Decoder(encoding)
            while piece := answer.raw.read1(STEP, decode_content=False):
                came += len(piece)
                if came >= due:
                    self._transfer.extend()
                    due = came + LEAST
                yield from decoder.feed(piece)
            decoder.finish()
        except Unreadable as error:
            raise self._broken_off(f": {error}") from None
        except Exception as error:
            raise self._broken_off(_kinds(error)) from None
        if told is not None and came != told:
            raise self._broken_off(f" after {came} of {told} bytes")

    def _broken_off(self, how: str) -> ConnectionFailed:
        return ConnectionFailed(f"{self._service}: the download of {self._what} broke off{how}", sent=True)

    def _too_long(self, told: str) -> ApiError:
        return self._refused(
            f"{self._what} in {self._service} is longer than max_bytes allows ({self._max_bytes}): {told}"
        )

    def _refused(self, message: str) -> ApiError:
        return ApiError(message, status=200, permanent=True)


def _kinds(error: Exception) -> str:
    """Name an error of requests and its cause by their classes: their texts hold the URL."""
    cause = error.args[0] if error.args else None
    cause = getattr(cause, "reason", cause)
    kinds = [error, *([cause] if isinstance(cause, BaseException) else [])]
    return ": " + ": ".join(type(kind).__name__ for kind in kinds)
