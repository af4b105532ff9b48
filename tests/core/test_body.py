"""Bodies of answers: no more of them is read, decoded or kept than is allowed."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable
from time import thread_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_runs.core import body as bodies
from airflow_provider_runs.core import http
from airflow_provider_runs.core.body import Body, Decoder, Unreadable
from airflow_provider_runs.core.errors import AnswerTooLong, ConnectionFailed
from airflow_provider_runs.core.http import LARGE_JSON, Flow, Request, Response
from airflow_provider_runs.core.retry import NO_RETRY, RetryPolicy
from tests.core.conftest import Connect, Tasks, Wire, raw, reply
from tests.core.hostile import bomb, flood
from tests.memory import forget_peak, needs_proc, peak
from tools.speed import patient

Start = Callable[..., Wire]
TEXT = b"something that repeats itself " * 100


def deflated(data: bytes, window: int) -> bytes:
    packer = zlib.compressobj(wbits=window)
    return packer.compress(data) + packer.flush()


BROKEN = gzip.compress(TEXT)[:20] + b"\xff" * 50
PACKED = {
    "": TEXT,
    "identity": TEXT,
    "gzip": gzip.compress(TEXT),
    "X-GZIP": gzip.compress(TEXT),
    " deflate ": deflated(TEXT, zlib.MAX_WBITS),
}


def decoded(encoding: str, *pieces: bytes, step: int = 64) -> list[bytes]:
    decoder = Decoder(encoding, step)
    parts = [part for piece in pieces for part in decoder.feed(piece)]
    decoder.finish()
    return parts


@pytest.mark.parametrize(("encoding", "data"), PACKED.items(), ids=PACKED)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_what_was_asked_for_is_decoded_wherever_it_is_cut(encoding: str, data: bytes, size: int) -> None:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert b"".join(decoded(encoding, *pieces)) == TEXT


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_deflate_without_its_envelope_is_decoded_too(size: int) -> None:
    data = deflated(TEXT, -zlib.MAX_WBITS)
    assert b"".join(decoded("deflate", *[data[at : at + size] for at in range(0, len(data), size)])) == TEXT


@given(st.binary(max_size=2000), st.integers(1, 300), st.integers(1, 50))
def test_no_step_is_longer_than_it_may_be(data: bytes, size: int, step: int) -> None:
    packed = gzip.compress(data)
    parts = decoded("gzip", *[packed[at : at + size] for at in range(0, len(packed), size)], step=step)
    assert b"".join(parts) == data and all(len(part) <= step for part in parts)


def test_several_members_follow_one_another_and_what_else_follows_means_nothing() -> None:
    assert (
        b"".join(decoded("gzip", gzip.compress(b"a") + gzip.compress(b"b") + b"\0\0 what", b"ever")) == b"ab"
    )


def test_members_without_a_byte_leave_others_their_turn() -> None:
    many = gzip.compress(b"") * 3000
    began = thread_time()
    parts = list(Decoder("gzip").feed(many))
    assert parts == [b""] * 3000
    assert thread_time() - began < 5, "each member took its time for all that follow it"


@pytest.mark.parametrize(
    ("encoding", "head", "unit"),
    [("gzip", b"\x1f\x8b\x08\x08" + bytes(6), b"x"), ("deflate", b"\x78\x9c", b"\0\0\0\xff\xff")],
    ids=["a name", "empty blocks"],
)
def test_what_stands_for_nothing_has_an_end(encoding: str, head: bytes, unit: bytes) -> None:
    decoder, piece = Decoder(encoding), unit * (bodies.STEP // len(unit))
    assert list(decoder.feed(head)) == []
    for _ in range(bodies.MAX_BODY // len(piece) - 1):
        assert list(decoder.feed(piece)) == []
    with pytest.raises(Unreadable, match="16 MiB of its"):
        list(decoder.feed(piece + piece))


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "nonsense"])
def test_what_was_not_asked_for_is_refused(encoding: str) -> None:
    with pytest.raises(Unreadable, match="not asked for"):
        Decoder(encoding)


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("gzip", b"no gzip"),
        ("deflate", b"\xff\xff\xff"),
        ("gzip", BROKEN),
    ],
    ids=["no gzip", "no deflate", "broken gzip"],
)
def test_what_cannot_be_decoded_is_refused(encoding: str, data: bytes) -> None:
    with pytest.raises(Unreadable, match="it is no "):
        decoded(encoding, data)


@pytest.mark.parametrize("cut", [-1, -9, 5])
def test_what_breaks_off_is_refused(cut: int) -> None:
    with pytest.raises(Unreadable, match="gzip breaks off"):
        decoded("gzip", gzip.compress(b"short")[:cut])


def test_nothing_at_all_is_whole_in_any_encoding() -> None:
    assert decoded("gzip") == []


# One answer


def fed(body: Body, data: bytes, size: int = 1000) -> Response:
    for at in range(0, len(data), size):
        if body.is_enough:
            break
        for _ in body.feed(data[at : at + size]):
            pass
    return body.response()


def test_a_good_answer_is_whole_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_BODY", 10_000)
    assert fed(Body(200, {}), b"x" * 10_000).body == b"x" * 10_000
    with pytest.raises(Unreadable, match="longer than"):
        fed(Body(200, {}), b"x" * 10_001)
    with pytest.raises(Unreadable, match="longer than"):
        fed(Body(206, {"content-encoding": "gzip"}), gzip.compress(b"x" * 10_001))


@pytest.mark.parametrize("status", [101, 400, 404, 500, 999])
def test_no_more_of_an_error_is_read_than_is_shown(status: int) -> None:
    body = Body(status, {"content-encoding": "gzip"})
    response = fed(body, gzip.compress(b"x" * 10**7))
    assert body.is_enough and not response.is_whole and response.body == b"x" * bodies.MAX_ERROR_BODY
    assert fed(Body(status, {}), b"short") == Response(status, {}, b"short")


@pytest.mark.parametrize("encoding", ["br", "gzip", "deflate"])
def test_an_error_counts_whatever_its_body_is(encoding: str) -> None:
    response = fed(Body(401, {"content-encoding": encoding}), b"what is this")
    assert response.status == 401 and not response.is_whole


def test_an_error_that_breaks_off_is_not_whole() -> None:
    packed = gzip.compress(b"what is this")
    assert fed(Body(429, {"content-encoding": "gzip"}), packed).is_whole
    assert not fed(Body(429, {"content-encoding": "gzip"}), packed[:-9]).is_whole


@pytest.mark.parametrize("status", [300, 301, 308, 399])
def test_nothing_of_a_redirect_is_wanted(status: int) -> None:
    assert Body(status, {"content-encoding": "br"}).is_enough


# Both drivers


def ask(url: str, **kwargs: Any) -> Flow[Response]:
    return (yield Request("GET", url, authenticated=False, safe_to_repeat=True, **kwargs))


PATIENT = {"request_timeout": 600}
"""For tests in real time, which must hold on a busy machine."""
BOMBS = {
    "html": b"<p>no</p>",
    "one long text": b"x",
    "json": b'[{"id": 1}],',
    "brackets": b"[" * 100,
}


async def longest_turn(work: Any) -> tuple[Any, float]:
    """
    Await something; return its outcome, and how long the loop computed at most without turning to others.

    It is the processor's time: on a busy machine a loop stands still for other reasons too.
    """
    longest, before = 0.0, thread_time()

    async def beat() -> None:
        nonlocal longest, before
        while True:
            await asyncio.sleep(0)
            now = thread_time()
            longest, before = max(longest, now - before), now

    beating = asyncio.create_task(beat())
    (outcome,) = await asyncio.gather(work, return_exceptions=True)
    beating.cancel()
    return outcome, longest


@pytest.mark.no_cover  # several times as quick; other tests run each line
@needs_proc
@pytest.mark.real_time
@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("unit", BOMBS.values(), ids=BOMBS)
async def test_a_bomb_does_no_harm(wire: Start, connect: Connect, unit: bytes, status: int) -> None:
    packed = bomb(100, unit)
    head = b"HTTP/1.1 %d Said\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % (status, len(packed))
    server = wire(raw(head + packed))
    driver = connect(server.url, extra=PATIENT)
    before = forget_peak()
    outcome, longest = await longest_turn(driver.drive(ask(server.url), NO_RETRY))
    if status == 200:
        assert isinstance(outcome, ConnectionFailed) and outcome.sent
        assert "longer than 16 MiB" in str(outcome)
    else:
        assert isinstance(outcome, Response) and len(outcome.body) == bodies.MAX_ERROR_BODY
    assert peak() - before < 40_000
    assert longest < patient(0.1) or not isinstance(driver, Tasks)


@pytest.mark.parametrize("status", [200, 500])
async def test_an_answer_without_end_is_cut_off(wire: Start, connect: Connect, status: int) -> None:
    sent: list[int] = []
    head = b"HTTP/1.1 %d Said\r\nContent-Length: %d\r\n\r\n" % (status, 200 * 2**20)
    server = wire(flood(head, b"x" * 2**20, 200, sent))
    driver = connect(server.url)
    if status == 200:
        # Neither would another attempt bring less.
        with pytest.raises(AnswerTooLong, match="longer than 16 MiB"):
            await driver.drive(ask(server.url), RetryPolicy(attempts=5, base=0.01))
        assert len(server.asked) == 1
    else:
        assert len((await driver.drive(ask(server.url), NO_RETRY)).body) == bodies.MAX_ERROR_BODY
    assert len(sent) < 60


async def test_a_connection_whose_answer_was_cut_off_is_not_used_again(wire: Start, connect: Connect) -> None:
    server = wire(reply(500, b"x" * 10**6), reply(200, {"a": 1}))
    driver = connect(server.url)
    assert (await driver.drive(ask(server.url), NO_RETRY)).status == 500
    assert (await driver.drive(ask(server.url), NO_RETRY)).json == {"a": 1}


@pytest.mark.real_time
async def test_an_event_loop_goes_on_while_long_json_is_read(
    wire: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": number, "name": f"run {number:>50}", "tags": ["a", "b"]} for number in range(40_000)]
    text = json.dumps(rows).encode()
    assert len(text) > 3 * LARGE_JSON
    turns, meanwhile = 0, 0
    read = http._PatientDecoder.decode

    def counted(decoder: Any, text: str) -> Any:
        nonlocal meanwhile
        meanwhile = -turns
        value = read(decoder, text)
        meanwhile += turns
        return value

    async def beat() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(http._PatientDecoder, "decode", counted)
    driver = connect(wire(reply(200, text)).url, extra=PATIENT)
    beating = asyncio.create_task(beat())
    response = await driver.drive(ask(driver.api.settings.base_url), NO_RETRY)
    beating.cancel()
    assert response.json == rows
    assert meanwhile > 10


MANY_VALUES = {
    "lists": b"[],",
    "objects": b"{},",
    "texts": b'"",',
    "numbers": b"0,",
    "fractions": b"0.5,",
    "members": b'{"":{"":0}},',
}


@pytest.mark.parametrize("unit", MANY_VALUES.values(), ids=MANY_VALUES)
async def test_json_of_too_many_values_is_not_read_and_not_asked_for_again(
    wire: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch, unit: bytes
) -> None:
    monkeypatch.setattr(http, "MAX_VALUES", 1000)
    text = b"[" + unit * 1001 + b'"' + b"x" * LARGE_JSON + b'"]'
    server = wire(reply(200, text))
    driver = connect(server.url, extra=PATIENT)
    with pytest.raises(AnswerTooLong, match=r"gave too long an answer to GET .* values"):
        await driver.drive(ask(server.url), RetryPolicy(attempts=5, base=0.01))
    assert len(server.asked) == 1


def test_json_of_many_values_is_read() -> None:
    text = b"[" + b"[]," * 240_000 + b'"' + b"x" * LARGE_JSON + b'"]'
    assert len(Response(200, body=text).json) == 240_001


def test_the_patient_reader_reads_what_the_other_one_does() -> None:
    value = {"a": ["\U0001f600", 1, 1.5, None, True, {"b": "x" * 2 * LARGE_JSON}]}
    assert Response(200, body=json.dumps(value).encode()).json == value
    assert Response(200, body=b"[" * 2 * LARGE_JSON).json is None
    assert Response(200, body=b"{" + b" " * 2 * LARGE_JSON).json is None
