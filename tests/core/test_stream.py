"""Streams of server-sent events: opened with both drivers, read as they come, and closed by whoever stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_runs.core import clock, event_stream
from airflow_provider_runs.core.api import Token
from airflow_provider_runs.core.connection import Settings
from airflow_provider_runs.core.errors import ApiError, ConnectionFailed, NotFound, RunsError, Unauthorized
from airflow_provider_runs.core.http import Request
from airflow_provider_runs.core.sse import Comment, Event, Frame, Retry
from tests.core.conftest import (
    Answer,
    AnyDriver,
    Asked,
    Connect,
    Service,
    Tasks,
    TokenService,
    Wire,
    hang_up,
    raw,
    reply,
    reset,
    silence,
)
from tests.core.frames import shown
from tests.core.hostile import DRIPS, bomb, dripping, flood
from tests.memory import forget_peak, needs_proc, peak

Start = Callable[..., Wire]
# The server closes after a stream, and says so: or a client might send its next request into the closed one.
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
BODY = b": hello\n\ndata: a\ndata: b\n\nevent: end\nid: 7\ndata: c\n\nretry: 500\n\ndata: cut"
FRAMES = [Comment("hello"), Event("message", "a\nb"), Event("end", "c", "7"), Retry(0.5)]


def streamed(*pieces: bytes | Callable[[], Any], chunked: bool = True, ends: bool = True) -> Answer:
    """Answer by a stream; a function among the pieces is called when its turn comes."""

    def answer(connection: socket.socket, asked: Asked) -> bool:
        end = b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n"
        connection.sendall(HEAD + end)
        for piece in pieces:
            if not isinstance(piece, bytes):
                piece()
            elif chunked:
                connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            else:
                connection.sendall(piece)
        if ends and chunked:
            connection.sendall(b"0\r\n\r\n")
        return False

    return answer


async def read(
    driver: AnyDriver, url: str, seen: Callable[[Frame], Any] = lambda frame: None, **kwargs: Any
) -> list[Frame]:
    """Read a stream to its end, or until ``seen`` returns True."""
    request = Request("GET", url, safe_to_repeat=True)
    frames: list[Frame] = []

    def takes(frame: Frame) -> bool:
        frames.append(frame)
        return bool(seen(frame))

    if isinstance(driver, Tasks):
        async with contextlib.aclosing(driver.driver.stream_events(request, **kwargs)) as stream:
            async for frame in stream:
                if takes(frame):
                    break
        return frames

    def follow() -> None:
        with contextlib.closing(driver.driver.stream_events(request, **kwargs)) as stream:
            for frame in stream:
                if takes(frame):
                    break

    await asyncio.to_thread(follow)
    return frames


async def fails(driver: AnyDriver, url: str, kind: type[RunsError], **kwargs: Any) -> Any:
    with pytest.raises(kind) as caught:
        await read(driver, url, **kwargs)
    assert type(caught.value) is kind
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    return caught.value


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "until close"])
async def test_what_comes_is_yielded_in_order(wire: Start, connect: Connect, chunked: bool) -> None:
    server = wire(streamed(BODY[:20], BODY[20:33], BODY[33:], chunked=chunked))
    assert await read(connect(server.url), f"{server.url}/runs/1/stream") == FRAMES
    (asked,) = server.asked
    assert (asked.method, asked.target) == ("GET", "/runs/1/stream")
    assert asked.headers["accept"] == "text/event-stream"
    assert asked.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "until close"])
async def test_an_event_is_there_as_soon_as_it_was_sent(wire: Start, connect: Connect, chunked: bool) -> None:
    heard, order = threading.Event(), []

    def wait() -> None:
        order.append(heard.wait(5))

    def seen(frame: Frame) -> None:
        order.append(frame)
        heard.set()

    server = wire(streamed(b"data: a\n\n", wait, b"data: b\n\n", chunked=chunked))
    await read(connect(server.url), server.url, seen)
    assert order == [Event("message", "a"), True, Event("message", "b")]


async def test_a_stream_may_last_longer_than_any_request(wire: Start, connect: Connect) -> None:
    server = wire(streamed(*[lambda: clock.sleep(30), b": keepalive\n\n"] * 5))
    driver = connect(server.url, extra={"request_timeout": 0.2})
    assert await read(driver, server.url) == [Comment("keepalive")] * 5


async def test_silence_breaks_a_stream_off(wire: Start, connect: Connect) -> None:
    server = wire(streamed(b"data: a\n\n", lambda: clock.sleep(100)))
    driver, seen = connect(server.url, password="hush"), []
    began = clock.monotonic()
    error = await fails(driver, f"{server.url}/s", ConnectionFailed, seen=seen.append)
    assert 45 <= clock.monotonic() - began < 50
    assert seen == [Event("message", "a")]
    assert str(error).startswith(f"Testing broke off its answer to GET /s at {server.url}: ")
    assert error.sent


async def test_what_is_no_chunk_breaks_a_stream_off(wire: Start, connect: Connect) -> None:
    def garbled(connection: socket.socket, asked: Asked) -> bool:
        streamed(b"data: a\n\n", lambda: clock.sleep(0.1), ends=False)(connection, asked)
        connection.sendall(b"no chunk\r\n")
        clock.sleep(100)
        return False

    server, seen = wire(garbled), []
    async with asyncio.timeout(60):
        error = await fails(connect(server.url), server.url, ConnectionFailed, seen=seen.append)
    assert seen == [Event("message", "a")] and error.sent


@pytest.mark.parametrize("lost", [reset, hang_up, silence], ids=lambda lost: lost.__name__)
async def test_no_answer_is_an_error_as_for_other_requests(
    wire: Start, connect: Connect, lost: Answer
) -> None:
    server = wire(lost)
    error = await fails(connect(server.url), f"{server.url}/s", ConnectionFailed)
    assert str(error).startswith("Testing did not answer GET /s at http://127") and error.sent


async def test_a_server_that_is_not_there_was_sent_nothing(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    error = await fails(connect(url, password="hush"), f"{url}/s?q=hush", ConnectionFailed)
    assert not error.sent and "hush" not in str(error)


async def test_a_connection_that_does_not_open_in_time_is_given_up(wire: Start, connect: Connect) -> None:
    url = wire().url.replace("http:", "https:")
    error = await fails(connect(url, extra={"connect_timeout": 0.1}), url, ConnectionFailed)
    assert not error.sent


@pytest.mark.parametrize("ends", [True, False], ids=["cut in a chunk", "without last chunk"])
async def test_a_stream_that_breaks_off_is_an_error(wire: Start, connect: Connect, ends: bool) -> None:
    def broken(connection: socket.socket, asked: Asked) -> bool:
        streamed(b"data: a\n\n", ends=False)(connection, asked)
        connection.sendall(b"20\r\ndata" if ends else b"")
        return False

    server, seen = wire(broken), []
    await fails(connect(server.url), server.url, ConnectionFailed, seen=seen.append)
    assert seen == [Event("message", "a")]


@pytest.mark.parametrize(
    ("status", "kind", "permanent"),
    [
        (400, ApiError, True),
        (401, Unauthorized, True),
        (403, Unauthorized, True),
        (404, NotFound, True),
        (406, ApiError, True),
        (410, ApiError, True),
        (429, ApiError, False),
        (500, ApiError, False),
        (503, ApiError, False),
        (302, ApiError, False),
        (204, ApiError, False),
    ],
)
async def test_a_refusal_tells_its_status_and_what_was_said(
    wire: Start, connect: Connect, status: int, kind: type[ApiError], permanent: bool
) -> None:
    # A redirect's body is not read.
    body = b"" if status in (204, 302) else b'{"error": "no stream for hush"}'
    server = wire(reply(status, body, Retry_After="7", Location="http://127.0.0.1:9/"))
    error = await fails(connect(server.url, password="hush"), f"{server.url}/s", kind)
    assert (error.status, error.permanent, error.retry_after) == (status, permanent, 7)
    assert f"Testing answered {status} to GET /s: " in str(error)
    assert ("no stream for ***" in str(error)) == bool(body)
    assert len(server.asked) == 1


async def test_an_answer_that_is_no_stream_is_an_error(wire: Start, connect: Connect) -> None:
    server = wire(reply(200, {"data": "x" * 10**6}))
    error = await fails(connect(server.url), f"{server.url}/s", ApiError)
    assert (error.status, error.permanent) == (200, False)
    assert "no stream of events but {" in str(error) and len(str(error)) < 500


async def test_an_event_that_is_too_long_ends_the_stream_before_it_fills_the_memory(
    wire: Start, connect: Connect
) -> None:
    sent = 0

    def flood(connection: socket.socket, asked: Asked) -> bool:
        nonlocal sent
        connection.sendall(HEAD + b"\r\n")
        while True:
            connection.sendall(b"data: " + b"x" * 10**6 + b"\n")
            sent += 1

    server = wire(flood)
    error = await fails(connect(server.url), f"{server.url}/s", ApiError)
    assert "sent an event that is too long in answer to GET /s: more than 2097152 characters" in str(error)
    assert error.permanent and sent < 50


# Authentication


def _guard(good: str) -> Callable[[Asked], Answer]:
    def answer(asked: Asked) -> Answer:
        if asked.target == "/token":
            return reply(200, {"token": good})
        return streamed(BODY) if asked.headers["authorization"] == "Bearer good" else reply(401)

    return answer


async def test_a_refused_token_is_renewed_once(wire: Start, connect: Connect) -> None:
    server = wire(by=_guard("good"))
    driver = connect(server.url, TokenService)
    driver.api.token = Token("old", clock.time(), 3600)
    assert await read(driver, f"{server.url}/s") == FRAMES
    assert server.targets == ["/s", "/token", "/s"]
    assert await read(driver, f"{server.url}/s") == FRAMES
    assert server.targets[3:] == ["/s"]


async def test_a_fresh_token_that_is_refused_is_the_end(wire: Start, connect: Connect) -> None:
    server = wire(by=_guard("bad"))
    await fails(connect(server.url, TokenService), f"{server.url}/s", Unauthorized)
    assert server.targets == ["/token", "/s"]


async def test_no_log_holds_the_secret_of_a_stream(
    wire: Start, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    server = wire(streamed(BODY), hang_up)
    driver = connect(server.url, password="hush hush")
    hushed = {"secret": "hush hush", "params": {"q": "hush hush"}}
    request = Request("GET", f"{server.url}/s/***", safe_to_repeat=True, **hushed)  # type: ignore[arg-type]
    with caplog.at_level(logging.DEBUG):
        for _ in range(2):
            stream = driver.driver.stream_events(request)
            try:
                if isinstance(driver, Tasks):
                    assert [frame async for frame in driver.driver.stream_events(request)] == FRAMES
                else:
                    assert await asyncio.to_thread(list, stream) == FRAMES  # type: ignore[arg-type]
            except ConnectionFailed as error:
                caplog.handler.emit(logging.makeLogRecord({"msg": str(error)}))
    # aiohttp asks once more where a server hangs up.
    assert len(server.asked) in (2, 3) and server.asked[0].target.startswith("/s/hush%20hush?q=hush")
    assert "did not answer GET /s/***" in caplog.text
    assert "hush" not in caplog.text.replace("q=hush+hush", "")


async def test_the_proxy_of_the_environment_is_used(
    wire: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = wire(streamed(BODY))
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    assert await read(connect("http://testing.invalid"), "http://testing.invalid/s") == FRAMES
    assert proxy.targets == ["http://testing.invalid/s"]


# Whoever stops


def watching(gone: threading.Event) -> Answer:
    """Answer by a stream without end, and note when the client has gone."""

    def answer(connection: socket.socket, asked: Asked) -> bool:
        streamed(b"data: a\n\n", ends=False)(connection, asked)
        with contextlib.suppress(OSError):
            assert connection.recv(1) == b""
        gone.set()
        return False

    return answer


async def test_a_reader_that_stops_closes_the_connection(wire: Start, connect: Connect) -> None:
    gone = threading.Event()
    server = wire(watching(gone))
    driver = connect(server.url)
    assert await read(driver, server.url, lambda frame: True) == [Event("message", "a")]
    assert await asyncio.to_thread(gone.wait, 2)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError])
async def test_no_frame_of_what_ends_a_stream_holds_credentials(
    wire: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    class Interrupted(kind):  # type: ignore[misc, valid-type]
        pass

    def interrupt(*arguments: Any, **keywords: Any) -> None:
        raise Interrupted

    server = wire(streamed(BODY, ends=False))
    driver = connect(server.url)
    driver.api.token = Token("hush-token", clock.time(), 3600)

    def opened() -> None:
        monkeypatch.setattr("urllib3.HTTPResponse.read1", interrupt)
        monkeypatch.setattr("aiohttp.StreamReader.read", interrupt)

    with pytest.raises((Interrupted, ConnectionFailed)) as caught:
        await read(driver, server.url, opened=opened)
    assert isinstance(caught.value, ConnectionFailed) == (kind is OSError)
    assert "hush" not in shown(caught.value)


@pytest.fixture
async def aiohttp_only() -> AsyncIterator[Callable[..., Tasks]]:
    """Make drivers of the kind whose readers share one thread."""
    made: list[Tasks] = []

    def make(base_url: str, **extra: Any) -> Tasks:
        made.append(Tasks(Service(Settings("testing_default", base_url, extra=extra))))
        return made[-1]

    yield make
    for driver in made:
        await driver.close()


async def test_a_cancelled_reader_closes_the_connection(wire: Start, aiohttp_only: Connect) -> None:
    gone, began = threading.Event(), asyncio.Event()
    server = wire(watching(gone))
    driver = aiohttp_only(server.url)
    reading = asyncio.create_task(read(driver, server.url, lambda frame: began.set()))
    await began.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await asyncio.to_thread(gone.wait, 2)


async def test_a_reader_over_tls_does_not_wait_for_the_services_goodbye(
    wire: Start, aiohttp_only: Connect, tls_context: tuple[ssl.SSLContext, Path]
) -> None:
    gone = threading.Event()

    def dumb(connection: socket.socket, asked: Asked) -> bool:
        streamed(b"data: a\n\n", ends=False)(connection, asked)
        with socket.socket(fileno=os.dup(connection.fileno())) as below, contextlib.suppress(OSError):
            below.settimeout(2)
            with contextlib.suppress(ConnectionResetError):
                while below.recv(1024):
                    pass
            gone.set()
        return False

    server = wire(dumb, tls=tls_context[0])
    driver = aiohttp_only(server.url, ca_bundle=str(tls_context[1]))
    assert await read(driver, server.url, lambda frame: True) == [Event("message", "a")]
    assert await asyncio.to_thread(gone.wait, 3)


async def test_others_have_their_turn_while_much_comes(wire: Start, aiohttp_only: Connect) -> None:
    server = wire(streamed(b":\n" * 100_000))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    going = asyncio.create_task(other())
    frames = await read(aiohttp_only(server.url), server.url)
    going.cancel()
    assert len(frames) == 100_000
    assert turns >= 200_000 // event_stream.PIECE


async def test_open_streams_take_no_connection_away_from_other_requests(
    wire: Start, aiohttp_only: Connect
) -> None:
    gone = threading.Event()
    server = wire(
        by=lambda asked: (
            watching(gone) if asked.target == "/s" else reply(200, {"id": "r1", "status": "going"})
        )
    )
    driver, began = aiohttp_only(server.url), 0

    def seen(frame: Frame) -> None:
        nonlocal began
        began += 1

    reading = [asyncio.create_task(read(driver, f"{server.url}/s", seen)) for _ in range(40)]
    while began < 40:
        await asyncio.sleep(0.01)
    assert (await asyncio.wait_for(driver.drive(driver.api.get("r1")), 2)).id == "r1"
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)


# Servers that mean no good


@pytest.mark.parametrize("drip", DRIPS.values(), ids=DRIPS)
async def test_a_stream_that_does_not_open_is_given_up(wire: Start, connect: Connect, drip: Answer) -> None:
    server, began = wire(drip), clock.monotonic()
    with pytest.raises(RunsError):
        await read(connect(server.url), server.url)
    assert clock.monotonic() - began < event_stream.SILENCE + 2


async def test_a_stream_in_which_nothing_whole_comes_is_dead(wire: Start, connect: Connect) -> None:
    server, began = wire(dripping(HEAD + b"\r\ndata: ", b"x")), clock.monotonic()
    await fails(connect(server.url), server.url, ConnectionFailed)
    assert clock.monotonic() - began < event_stream.SILENCE + 2


@pytest.mark.no_cover  # several times as quick; other tests run each line
@needs_proc
@pytest.mark.real_time
@pytest.mark.parametrize("unit", [b"x", b":\n", b"data: x\n\n"], ids=["line", "comments", "events"])
async def test_a_bomb_is_read_in_short_steps(wire: Start, connect: Connect, unit: bytes) -> None:
    packed = bomb(4, unit)
    head = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    server, seen = wire(raw(head + packed)), 0

    def note(frame: Frame) -> bool:
        nonlocal seen
        seen += 1
        return seen > 10_000

    before = forget_peak()
    if unit == b"x":
        await fails(connect(server.url), server.url, ApiError)
    else:
        assert len(await read(connect(server.url), server.url, note)) > 10_000
    assert peak() - before < 40_000


@pytest.mark.parametrize("head", [b"Content-Encoding: br\r\n", b"Content-Encoding: gzip\r\n"])
async def test_what_cannot_be_decoded_breaks_a_stream_off(wire: Start, connect: Connect, head: bytes) -> None:
    server = wire(raw(HEAD + head + b"\r\nabcd"))
    error = await fails(connect(server.url), server.url, ConnectionFailed)
    assert "broke off its answer" in str(error) and error.sent


async def test_a_refusals_body_is_read_as_far_as_it_is_shown(wire: Start, connect: Connect) -> None:
    sent: list[int] = []
    for status in (302, 500):
        head = b"HTTP/1.1 %d No\r\nLocation: /\r\nContent-Length: %d\r\n\r\n" % (status, 200 * 2**20)
        server = wire(flood(head, b"x" * 2**20, 200, sent))
        await fails(connect(server.url), server.url, ApiError)
    assert len(sent) < 100
