"""
One request on its way: whether its first byte has gone out is a fact that the connection states.

It is never concluded from the class of an exception: which of them a library raises when, nobody promises.
"""

from __future__ import annotations

import io
import logging
import re
import socket
from collections.abc import Callable
from contextvars import ContextVar
from http.client import HTTPResponse
from typing import Any

from airflow_provider_runs.core import clock

PIECE = 16 * 1024
"""Bytes of a request that go out under one look at the clock: a TLS record."""


class Transfer:
    """
    The way of one request and of its answer.

    :param seconds: seconds from the first byte that is sent to the last one that is read.
    :param connecting: seconds that connecting may take in addition.
    """

    def __init__(self, seconds: float, connecting: float) -> None:
        self.is_sent = False
        """Whether the service may have got the request."""
        self.seconds = seconds
        self.deadline = clock.monotonic() + connecting + seconds
        """Moment on the monotonic clock by which it must be over."""
        self.on_extended: Callable[[], object] = lambda: None

    def mark_sent(self) -> None:
        """Take note that the first byte goes out now."""
        if not self.is_sent:
            self.is_sent = True
            self.extend()

    def extend(self) -> None:
        """Begin the time anew."""
        self.deadline = clock.monotonic() + self.seconds
        self.on_extended()

    def remaining(self) -> float:
        """
        Return the seconds that are left.

        :raises TimeoutError: if none are.
        """
        left = self.deadline - clock.monotonic()
        if left <= 0:
            raise TimeoutError(f"no whole answer within {self.seconds:g} s")
        return left


on_its_way: ContextVar[Transfer] = ContextVar("on_its_way")
"""What the synchronous driver sends in this thread."""


class TimedConnection:
    """
    Mixed into a connection of urllib3: it states what is sent, and reads no longer than it may.

    A timeout of a socket is none of an answer: one byte in time after another has no end.
    """

    sock: Any
    port: int
    timeout: float
    _dns_host: str
    _is_connecting = False

    def connect(self) -> None:
        """Connect. What a tunnel and TLS take is no request."""
        self._is_connecting = True
        try:
            super().connect()  # type: ignore[misc]
        finally:
            self._is_connecting = False

    def _new_conn(self) -> socket.socket:
        """Connect to the first address that answers, in the time that connecting may take to all of them."""
        if hasattr(self, "_socks_options"):
            return super()._new_conn()  # type: ignore[misc, no-any-return]
        host, seconds = self._dns_host, self.timeout
        until = clock.monotonic() + seconds
        try:
            for address in _addresses(host, self.port):
                self._dns_host, self.timeout = address, until - clock.monotonic()
                if self.timeout <= 0:
                    break
                try:
                    return super()._new_conn()  # type: ignore[misc, no-any-return]
                except Exception as error:
                    failure = error
            raise failure
        finally:
            self._dns_host, self.timeout = host, seconds

    def send(self, data: bytes) -> None:
        """
        Send bytes of a request.

        :param data: the bytes.
        """
        if self.sock is None:
            self.connect()
        transfer = on_its_way.get()
        if not self._is_connecting:
            transfer.mark_sent()
        for start in range(0, len(data), PIECE):
            self.sock.settimeout(transfer.remaining())
            super().send(data[start : start + PIECE])  # type: ignore[misc]

    def response_class(self, sock: Any, *arguments: Any, **keywords: Any) -> HTTPResponse:
        """
        Return the answer that will be read from a socket.

        :param sock: the socket.
        :param arguments: as for the standard library's.
        :param keywords: as for the standard library's.
        """
        return HTTPResponse(_Timed(sock, on_its_way.get()), *arguments, **keywords)  # type: ignore[arg-type]


def _addresses(host: str, port: int) -> list[str]:
    """Return the addresses of a host; its name where they cannot be told: connecting will say why."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return [host]
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class _Timed:
    """A socket as far as an answer needs one."""

    def __init__(self, sock: Any, transfer: Transfer) -> None:
        self._sock, self._transfer = sock, transfer

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._sock, self._transfer))


class _Reader(io.RawIOBase):
    """Waits for each piece of an answer as long as is left for all of it."""

    def __init__(self, sock: Any, transfer: Transfer) -> None:
        self._sock, self._transfer = sock, transfer
        self._file: io.RawIOBase = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._transfer.remaining())
        return self._file.readinto(buffer)

    def close(self) -> None:
        super().close()
        self._file.close()


class UrlsInLogs(logging.Filter):
    """Cut path and query from every URL in urllib3's messages about our requests: they may be secrets."""

    _urls = re.compile(r"""(\w+://[^/?#\s"]*|(?<=[\s"'=(]))[/?#][^\s"]+""")

    def filter(self, record: logging.LogRecord) -> bool:
        """
        Let a message through, without what it may not say.

        :param record: the message.
        """
        if on_its_way.get(None) is not None:
            record.msg, record.args = self._urls.sub(r"\1/***", record.getMessage()), ()
        return True


def cut_urls_in_logs() -> None:
    """Have urllib3's messages about our requests hold no paths. Airflow masks not all its logs."""
    for name in ("urllib3.connectionpool", "urllib3.connection"):
        logger = logging.getLogger(name)
        if not any(isinstance(known, UrlsInLogs) for known in logger.filters):
            logger.addFilter(UrlsInLogs())
