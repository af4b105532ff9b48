"""
Server-sent events, read as the WHATWG standard has it.

https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

MAX_CHARACTERS = 2 * 1024 * 1024
"""Characters that one event may hold at most."""
_LINE_END = re.compile(r"\r\n|\n|\r")
_DIGITS = re.compile(r"[0-9]{1,15}")


@dataclass(frozen=True, slots=True)
class Event:
    """
    An event.

    :param event: its name; ``message`` where the service gave none.
    :param data: its data, lines joined by a newline.
    :param id: the id that the service gave last, with this event or before; None where there is none.
    """

    event: str
    data: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Comment:
    """
    A comment, by which a service shows that the stream lives.

    :param text: what it says.
    """

    text: str


@dataclass(frozen=True, slots=True)
class Retry:
    """
    How long the service asks to wait before the stream is opened again.

    :param seconds: how long.
    """

    seconds: float


Frame = Event | Comment | Retry


class TooLong(Exception):
    """An event or a line is longer than the limit."""


class Parser:
    """
    Read a stream of server-sent events that comes in pieces cut anywhere.

    What the last piece leaves without the empty line that ends an event is no event.
    """

    def __init__(self) -> None:
        # It takes a byte order mark away, and reads what is no UTF-8 as U+FFFD.
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._after_return = False
        """Whether a newline that comes first belongs to a line end whose first half has been read."""
        self._begun: list[str] = []
        """The pieces of a line whose end has not come."""
        self._size = 0
        """Characters that are kept of the event that has not ended."""
        self._event = ""
        self._data: list[str] = []
        self._id = ""

    def feed(self, piece: bytes) -> list[Frame]:
        """
        Take the next bytes and return what is whole now, in order.

        :param piece: the bytes.
        :raises TooLong: if an event is too long.
        """
        text = self._decoder.decode(piece)
        if not text:
            return []
        if self._after_return and text[0] == "\n":
            text = text[1:]
        self._after_return = text.endswith("\r")
        frames: list[Frame] = []
        *lines, rest = _LINE_END.split(text)
        for line in lines:
            self._keep(line)
            whole = "".join(self._begun)
            self._begun.clear()
            if (frame := self._line(whole)) is not None:
                frames.append(frame)
        self._keep(rest)
        return frames

    def _keep(self, part: str) -> None:
        self._size += len(part)
        if self._size > MAX_CHARACTERS:
            raise TooLong(f"more than {MAX_CHARACTERS} characters")
        if part:
            self._begun.append(part)

    def _line(self, line: str) -> Frame | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "":
                self._size -= len(line)
                return Comment(value)
            case "data":
                self._data.append(value)
            case "event":
                self._event = value
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if _DIGITS.fullmatch(value):
                return Retry(int(value) / 1000)
        return None

    def _dispatch(self) -> Event | None:
        data, event = self._data, self._event
        self._data, self._event, self._size = [], "", 0
        if not data:
            return None
        return Event(event or "message", "\n".join(data), self._id or None)
