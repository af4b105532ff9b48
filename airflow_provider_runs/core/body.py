"""
Bodies of answers: decoded piece by piece, and never more of them than is allowed.

Neither library decodes: a few bytes can stand for gigabytes. Only what was asked for (gzip, deflate) is
decoded. A redirect's body is not read at all, and of an error's no more than a message needs.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping

from airflow_provider_runs.core.http import Response

ACCEPTED = "gzip, deflate"
MAX_BODY = 16 * 1024 * 1024
"""Decoded bytes of a good answer at most."""
MAX_ERROR_BODY = 64 * 1024
"""Decoded bytes of any other answer that are read: what a message shows, and some more to mask it by."""
STEP = 64 * 1024
"""Decoded bytes at once at most."""
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class Unreadable(Exception):
    """A body is too long, incomplete, or encoded in a way that cannot be read."""


class TooMuch(Unreadable):
    """A body is longer than what is read of one."""


class Decoder:
    """
    Decode a body that comes in pieces cut anywhere.

    :param encoding: what ``Content-Encoding`` says, empty for nothing.
    :param step: decoded bytes at once at most.
    :raises Unreadable: if the encoding was not asked for.
    """

    def __init__(self, encoding: str, step: int = STEP) -> None:
        self._encoding = encoding.strip().lower()
        self._step = step
        self._envelope = b""
        """The first piece, and the next where that is one byte: the envelope's two are in it."""
        self._raw_left = MAX_BODY
        """Bytes without any output that may still come: names and empty blocks have no end of their own."""
        self._has_input = False
        self._is_over = False
        self._inflate: zlib._Decompress | None = None
        if self._encoding in _WINDOWS:
            self._inflate = zlib.decompressobj(_WINDOWS[self._encoding])
        elif self._encoding not in ("", "identity"):
            raise Unreadable(f"it is encoded as {self._encoding[:40]!r}, which was not asked for")

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """
        Take the next bytes and yield what they stand for.

        :param piece: the bytes.
        :raises Unreadable: if they cannot be decoded.
        """
        if self._inflate is None:
            yield piece
            return
        try:
            yield from self._inflated(piece)
        except zlib.error as error:
            failure = str(error)
        else:
            return
        raise Unreadable(f"it is no {self._encoding}: {failure}")

    def finish(self) -> None:
        """
        Take note that nothing more comes.

        :raises Unreadable: if more should.
        """
        if self._inflate is not None and self._has_input and not self._inflate.eof:
            raise Unreadable(f"its {self._encoding} breaks off")

    def _inflated(self, piece: bytes) -> Iterator[bytes]:
        assert self._inflate is not None
        self._has_input = self._has_input or bool(piece)
        self._raw_left -= len(piece)
        if self._raw_left < 0:
            raise Unreadable(f"{MAX_BODY >> 20} MiB of its {self._encoding} stand for nothing")
        may_lack_envelope = self._encoding == "deflate" and len(self._envelope) < 2
        if may_lack_envelope:
            self._envelope += piece
        while not self._is_over:
            try:
                part = self._inflate.decompress(piece, self._step)
            except zlib.error:
                if not may_lack_envelope:
                    raise
                # Some send it without the envelope that the standard asks for.
                self._inflate, self._encoding = zlib.decompressobj(-zlib.MAX_WBITS), "raw deflate"
                piece, may_lack_envelope = self._envelope, False
                continue
            piece = self._inflate.unconsumed_tail
            if part:
                self._raw_left = MAX_BODY
                yield part
            if self._inflate.eof:
                # However many there are, something else may be done between two of them.
                yield b""
                piece = self._inflate.unused_data
                # Several may follow one another; what else follows the end means nothing.
                self._is_over = not piece.startswith(b"\x1f\x8b")
                self._inflate = self._inflate if self._is_over else zlib.decompressobj(_WINDOWS["gzip"])
            elif not piece and len(part) < self._step:
                return


class Body:
    """
    The body of one answer, as far as it is wanted.

    :param status: the answer's HTTP status.
    :param headers: its headers, names in lower case.
    """

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self._status = status
        self._headers = headers
        self._is_good = 200 <= status < 300
        self._parts: list[bytes] = []
        self._size = 0
        self.is_enough = 300 <= status < 400
        """Whether nothing more of it is wanted."""
        encoding = headers.get("content-encoding", "").strip().lower()
        self._is_legible = encoding in ("", "identity", *_WINDOWS)
        # An error counts by its status, whatever its body is.
        self._decoder = Decoder(encoding if self._is_good or self._is_legible else "")

    def feed(self, piece: bytes) -> Iterator[None]:
        """
        Take the next bytes, in short steps: between two of them something else may be done.

        :param piece: the bytes.
        :raises Unreadable: if a good answer is too long or cannot be decoded.
        """
        try:
            for number, part in enumerate(self._decoder.feed(piece)):
                if number:
                    yield
                self._take(part)
                if self.is_enough:
                    return
        except Unreadable:
            if self._is_good:
                raise
            self._is_legible, self.is_enough = False, True

    def _take(self, part: bytes) -> None:
        self._size += len(part)
        if self._is_good and self._size > MAX_BODY:
            raise TooMuch(f"it is longer than {MAX_BODY >> 20} MiB")
        self._parts.append(part)
        self.is_enough = not self._is_good and self._size >= MAX_ERROR_BODY

    def response(self) -> Response:
        """
        Return the answer, of which nothing more comes or is wanted.

        :raises Unreadable: if a good answer is incomplete.
        """
        try:
            self._decoder.finish()
        except Unreadable:
            if self._is_good:
                raise
            self._is_legible = False
        body = b"".join(self._parts)
        body = body if self._is_good else body[:MAX_ERROR_BODY]
        return Response(self._status, self._headers, body, is_whole=self._is_legible and not self.is_enough)
