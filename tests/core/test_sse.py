"""Vectors for server-sent events; the sentences of the standard that they come from stand beside them."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_runs.core import sse
from airflow_provider_runs.core.sse import Comment, Event, Frame, Parser, Retry, TooLong
from tests.answers import fuzzed


def message(data: str, id: str | None = None, event: str = "message") -> Event:
    return Event(event, data, id)


VECTORS: dict[str, tuple[bytes, list[Frame]]] = {
    # The examples of the standard.
    "three lines of data": (
        b"data: YHOO\ndata: +2\ndata: 10\n\n",
        [message("YHOO\n+2\n10")],
    ),
    "four blocks": (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n",
        [Comment("test stream"), message("first event", "1"), message("second event")],
    ),
    "the third one if it were finished": (
        b"data:second event\nid\n\ndata:  third event\n\n",
        [message("second event"), message(" third event")],
    ),
    "empty data": (b"data\n\ndata\ndata\n\ndata:\n", [message(""), message("\n")]),
    "one space goes": (b"data:test\n\ndata: test\n\n", [message("test"), message("test")]),
    "names of events": (
        b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\n",
        [message("73857293", event="add"), message("2153", event="remove")],
    ),
    # Line ends.
    "carriage returns": (b"data: a\rdata: b\r\rdata: c\r\r", [message("a\nb"), message("c")]),
    "both": (b"data: a\r\ndata: b\r\n\r\n", [message("a\nb")]),
    "mixed": (b"data: a\rdata: b\r\ndata: c\n\r\n", [message("a\nb\nc")]),
    "a return and a newline are one end, the other way round they are two": (
        b"data: a\n\rdata: b\n\n",
        [message("a"), message("b")],
    ),
    "other separators end no line": (
        "data: a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g\n\n".encode(),
        [message("a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g")],
    ),
    # The byte order mark.
    "one is taken away": (b"\xef\xbb\xbfdata: a\n\n", [message("a")]),
    "a second one is part of the name": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
    "a later one is data": (b"data: \xef\xbb\xbfa\n\n", [message("\ufeffa")]),
    "half of one": (b"\xef\xbbdata: a\n\ndata: b\n\n", [message("b")]),
    # UTF-8.
    "characters of any length": ("data: ü € 😀\n\n".encode(), [message("ü € 😀")]),
    "no utf-8": (b"data: \xff\xc3\n\ndata: \xe2\x82\n\n", [message("\ufffd\ufffd"), message("\ufffd")]),
    # Fields.
    "without a colon": (b"data\n\n", [message("")]),
    "colons in the value": (b"data: a:b: c\n\n", [message("a:b: c")]),
    "a space before the colon is another name": (b"data : a\n\n", []),
    "a space before the name": (b" data: a\n\n", []),
    "a tab is no space": (b"data:\ta\n\n", [message("\ta")]),
    "names are case sensitive": (b"Data: a\nDATA: b\ndata: c\n\n", [message("c")]),
    "unknown names": (b"foo: 1\nbar\ndata: a\nfoo\n\n", [message("a")]),
    "a NUL in data": (b"data: a\0b\n\n", [message("a\0b")]),
    # Names.
    "the last name counts": (b"event: a\nevent: b\ndata: x\n\n", [message("x", event="b")]),
    "an empty name is message": (b"event: a\nevent:\ndata: x\n\n", [message("x")]),
    "a name lasts for one event": (
        b"event: a\ndata: x\n\ndata: y\n\n",
        [message("x", event="a"), message("y")],
    ),
    "a name without data is forgotten": (b"event: a\n\ndata: y\n\n", [message("y")]),
    # Ids.
    "an id lasts": (b"id: 7\ndata: a\n\ndata: b\n\n", [message("a", "7"), message("b", "7")]),
    "an id without data lasts": (b"id: 7\n\ndata: b\n\n", [message("b", "7")]),
    "an empty id takes it back": (b"id: 7\ndata: a\n\nid:\ndata: b\n\n", [message("a", "7"), message("b")]),
    "an id with NUL is ignored": (b"id: 7\nid: 8\x009\ndata: a\n\n", [message("a", "7")]),
    "an id may be any text": ("id: ü 1\ndata: a\n\n".encode(), [message("a", "ü 1")]),
    # Retry.
    "milliseconds": (b"retry: 1500\n\n", [Retry(1.5)]),
    "at once": (b"retry:0\ndata: a\n\n", [Retry(0.0), message("a")]),
    "no digits": (b"retry: 1.5\nretry: -1\nretry: 1s\nretry\nretry: \xd9\xa1\nretry:  1\n\n", []),
    "more digits than any time has": (b"retry: " + b"9" * 5000 + b"\n\ndata: a\n\n", [message("a")]),
    # Comments.
    "keepalive": (b": keepalive\n\n", [Comment("keepalive")]),
    "an empty comment": (b":\n:\n", [Comment(""), Comment("")]),
    "amid an event": (b"data: a\n:here\ndata: b\n\n", [Comment("here"), message("a\nb")]),
    # Ends.
    "nothing": (b"", []),
    "empty lines": (b"\n\r\n\r\n\n", []),
    "cut before the empty line": (b"data: a\n\ndata: b\n", [message("a")]),
    "cut in a line": (b"data: a\n\ndata: b", [message("a")]),
    "cut in a character": ("data: a\n\ndata: ü".encode()[:-1], [message("a")]),
    # What Strait sends.
    "Strait": (
        b'data: {"type":"status_change","to":"completed"}\n\n: keepalive\n\n'
        b'event: error\ndata: {"error":"failed to subscribe"}\n\n',
        [
            message('{"type":"status_change","to":"completed"}'),
            Comment("keepalive"),
            message('{"error":"failed to subscribe"}', event="error"),
        ],
    ),
}


def read(*pieces: bytes) -> list[Frame]:
    parser = Parser()
    return [frame for piece in pieces for frame in parser.feed(piece)]


@pytest.mark.parametrize(("stream", "frames"), VECTORS.values(), ids=VECTORS.keys())
def test_a_stream_is_read_as_the_standard_says_wherever_it_is_cut(stream: bytes, frames: list[Frame]) -> None:
    assert read(stream) == frames
    assert read(*(stream[at : at + 1] for at in range(len(stream)))) == frames
    for at in range(min(len(stream), 200)):
        assert read(stream[:at], b"", stream[at:]) == frames
    assert read(*re.split(rb"(?<=\r)", stream)) == frames


@fuzzed
@given(
    st.lists(
        st.sampled_from(
            [b"data", b":", b" ", b"\r", b"\n", b"id", b"event", b"retry", b"1", b"\0", b"\xef\xbb\xbf"]
        )
        | st.binary(max_size=3),
        max_size=40,
    ),
    st.lists(st.integers(0, 100), max_size=5),
)
def test_no_cut_changes_what_is_read(parts: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(parts)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[begin:end] for begin, end in itertools.pairwise(edges)]
    assert read(*pieces) == read(stream)


@pytest.mark.parametrize(
    "endless", [b"x", b"data: x\n", b"data\n", b"foo: x\n", b"event: x\n", b"retry: 1\n"]
)
def test_an_event_without_end_is_refused_in_time(endless: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_CHARACTERS", 100)
    parser = Parser()
    for _ in range(100 // (len(endless.strip()) + 1)):
        parser.feed(endless)
    with pytest.raises(TooLong, match="more than 100 characters"):
        read(*[endless] * 101)


def test_what_ends_in_time_may_go_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_CHARACTERS", 100)
    whole = b"data: " + b"x" * 80 + b"\n\n"
    assert read(*[whole] * 100) == [message("x" * 80)] * 100
    assert len(read(*[b": keepalive\n"] * 1000)) == 1000
    with pytest.raises(TooLong):
        read(b"data: " + b"x" * 100 + b"\n\n")
