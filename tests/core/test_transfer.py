"""What is sent is a fact: whatever a server answers, a request goes out once, and its end comes in time."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from urllib3.exceptions import ConnectTimeoutError

from airflow_provider_runs.core import clock, transfer
from airflow_provider_runs.core.connection import Settings
from airflow_provider_runs.core.cycle import Pause, RequestCycle, Send
from airflow_provider_runs.core.drivers import Driver
from airflow_provider_runs.core.errors import ConnectionFailed
from airflow_provider_runs.core.http import Flow, Request, Response
from airflow_provider_runs.core.retry import NO_RETRY, RetryPolicy
from airflow_provider_runs.core.transfer import Transfer, cut_urls_in_logs, on_its_way
from airflow_provider_runs.core.turns import Turn
from tests.core.conftest import Asked, Connect, Service, TokenService, Wire, hang_up, raw, reply, silence
from tests.core.frames import shown
from tests.core.hostile import DRIPS, ODD, OK, UNREADABLE, dripping, flood

Start = Callable[..., Wire]
MANY = RetryPolicy(attempts=5, base=0.01, cap=0.02)
LIMIT = 2


def start(url: str, method: str = "POST", **kwargs: Any) -> Flow[Response]:
    return (yield Request(method, f"{url}/runs", json={"a": 1}, authenticated=False, **kwargs))


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
async def test_a_start_whose_answer_cannot_be_read_was_sent_once(
    wire: Start, connect: Connect, text: bytes
) -> None:
    server = wire(raw(text))
    driver = connect(server.url, extra={"request_timeout": LIMIT})
    (outcome,) = await asyncio.gather(driver.drive(start(server.url), MANY), return_exceptions=True)
    is_lost = isinstance(outcome, ConnectionFailed) and outcome.sent and outcome.__context__ is None
    assert is_lost or (isinstance(outcome, Response) and outcome.status == 200)
    assert len(server.asked) == 1


@pytest.mark.parametrize("name", ["two lengths", "a negative chunk", "a chunk that is none", "broken gzip"])
async def test_what_no_library_can_read_is_no_answer(wire: Start, connect: Connect, name: str) -> None:
    server = wire(raw(UNREADABLE[name]))
    driver = connect(server.url, extra={"request_timeout": LIMIT})
    with pytest.raises(ConnectionFailed, match="Testing did not answer POST /runs") as caught:
        await driver.drive(start(server.url), MANY)
    assert caught.value.sent and len(server.asked) == 1


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
async def test_an_odd_answer_is_an_answer(wire: Start, connect: Connect, text: bytes) -> None:
    server = wire(raw(text))
    response = await connect(server.url).drive(start(server.url), MANY)
    assert response.status == int(text[9:12]) and len(server.asked) == 1


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
async def test_a_connection_that_was_kept_and_is_lost_sends_nothing_twice(
    wire: Start, connect: Connect, method: str
) -> None:
    server = wire(reply(), hang_up)
    driver = connect(server.url)
    await driver.drive(start(server.url, method))
    with pytest.raises(ConnectionFailed) as caught:
        await driver.drive(start(server.url, method), MANY)
    assert caught.value.sent and len(server.asked) == 2


async def test_a_body_that_cannot_be_written_is_an_error_of_its_own(wire: Start, connect: Connect) -> None:
    server = wire()
    driver = connect(server.url)

    def flow() -> Flow[Response]:
        return (yield Request("POST", server.url, json={"a": object()}, authenticated=False))

    with pytest.raises(TypeError, match="not JSON serializable"):
        await driver.drive(flow(), MANY)
    assert server.connections == 0


async def test_an_error_of_the_flow_stays_itself(wire: Start, connect: Connect) -> None:
    server = wire()

    def flow() -> Flow[str]:
        response = yield Request("POST", server.url, authenticated=False)
        return str(response.json["missing"])

    with pytest.raises(KeyError, match="missing"):
        await connect(server.url).drive(flow(), MANY)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "proxy",
    [
        "http://user:hushł@127.0.0.1:9",
        "http://user:hush@127.0.0.1:typo",
        "http://user:hu/sh@127.0.0.1:9",
        "http://user:12/hush@127.0.0.1:9",
        "http://user:hush#1@127.0.0.1:9",
        "http://user:hush@127.0.0.1:99999",
        "http://user:hush@[",
        "http://user:hush@",
        "user:hush@127.0.0.1:typo",
    ],
)
async def test_a_proxy_that_is_malformed_is_not_quoted_and_sends_nothing(
    wire: Start,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    proxy: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("ALL_PROXY", proxy)
    server = wire()
    with pytest.raises(ConnectionFailed, match="the environment's proxy cannot be used") as caught:
        await connect(server.url).drive(start(server.url), MANY)
    assert not caught.value.sent and server.connections == 0
    text = str(caught.value) + caplog.text
    assert "hu" not in text and "12" not in text and "typo" not in text


# Time


@pytest.mark.parametrize("drip", DRIPS.values(), ids=DRIPS)
async def test_one_byte_after_another_does_not_hold_a_call(wire: Start, connect: Connect, drip: Any) -> None:
    server = wire(drip)
    driver = connect(server.url, extra={"request_timeout": LIMIT, "connect_timeout": 1})
    began = clock.monotonic()
    with pytest.raises(ConnectionFailed) as caught:
        await driver.drive(start(server.url), MANY)
    assert caught.value.sent and len(server.asked) == 1
    assert LIMIT <= clock.monotonic() - began < LIMIT + 2


@pytest.mark.parametrize("seconds", [0.2, 5.0], ids=["refused", "silent"])
def test_all_addresses_of_a_host_share_the_time_of_connecting(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    tried: list[str] = []

    def connecting(connection: Any) -> None:
        tried.append(connection.host)
        clock.sleep(min(seconds, connection.timeout))
        raise ConnectTimeoutError(connection, "no answer")

    monkeypatch.setattr("urllib3.connection.HTTPConnection._new_conn", connecting)
    monkeypatch.setattr(transfer, "_addresses", lambda host, port: [f"10.0.0.{n}" for n in range(1, 21)])
    settings = Settings("testing_default", "http://testing.invalid", extra={"connect_timeout": 1})
    driver = Driver(Service(settings))
    began = clock.monotonic()
    with pytest.raises(ConnectionFailed, match="no answer") as caught:
        driver.drive(start("http://testing.invalid"), NO_RETRY)
    driver.close()
    assert not caught.value.sent
    assert clock.monotonic() - began < 1.5
    assert len(tried) == (1 if seconds > 1 else 5)


def test_the_next_address_of_a_host_is_tried(wire: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = wire()
    monkeypatch.setattr(transfer, "_addresses", lambda host, port: ["127.0.0.9", "127.0.0.1"])
    driver = Driver(Service(Settings("testing_default", server.url)))
    assert driver.drive(start(f"http://localhost:{server.port}"), NO_RETRY).status == 200
    driver.close()
    assert server.asked[0].headers["host"] == f"localhost:{server.port}"


def test_a_socks_proxy_is_left_to_find_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    class Socks:
        _socks_options: ClassVar[dict[str, Any]] = {}

        def _new_conn(self) -> str:
            return "through the proxy"

    class Timed(transfer.TimedConnection, Socks):
        pass

    monkeypatch.setattr(transfer, "_addresses", lambda host, port: pytest.fail("the proxy looks it up"))
    assert Timed()._new_conn() == "through the proxy"


async def test_a_proxy_that_answers_byte_by_byte_does_not_hold_a_call(
    wire: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = wire(dripping(b"HTTP/1.1 200 Connected\r\nX-A: ", b"a"))
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    driver = connect("https://testing.invalid", extra={"request_timeout": LIMIT, "connect_timeout": 1})
    began = clock.monotonic()
    with pytest.raises(ConnectionFailed) as caught:
        await driver.drive(start("https://testing.invalid"), RetryPolicy(attempts=1))
    assert not caught.value.sent
    assert clock.monotonic() - began < LIMIT + 1 + 2


async def test_an_answer_that_is_slow_but_comes_in_time_is_whole(wire: Start, connect: Connect) -> None:
    def slow(connection: socket.socket, asked: Asked) -> bool:
        for byte in OK + b"Content-Length: 2\r\n\r\n{}":
            clock.sleep(0.02)
            connection.sendall(bytes([byte]))
        return True

    server = wire(slow)
    driver = connect(server.url, extra={"request_timeout": 5})
    assert (await driver.drive(start(server.url))).body == b"{}"


async def test_the_time_of_an_exchange_begins_with_its_first_byte(wire: Start, connect: Connect) -> None:
    """Each attempt has its own."""

    def late(connection: socket.socket, asked: Asked) -> bool:
        clock.sleep(1.5)
        return reply(503 if len(server.asked) < 3 else 200)(connection, asked)

    server = wire(late)
    driver = connect(server.url, extra={"request_timeout": LIMIT})
    assert (await driver.drive(start(server.url, safe_to_repeat=True), MANY)).status == 200


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_the_body_of_a_redirect_is_not_read(wire: Start, connect: Connect, status: int) -> None:
    sent: list[int] = []
    head = b"HTTP/1.1 %d Moved\r\nLocation: /x\r\nContent-Length: %d\r\n\r\n" % (status, 200 * 2**20)
    server = wire(flood(head, b"x" * 2**20, 200, sent))
    response = await connect(server.url).drive(start(server.url), MANY)
    assert (response.status, response.body) == (status, b"")
    assert len(sent) < 50


# Credentials


@pytest.mark.parametrize(
    "answer", [raw(UNREADABLE["two lengths"]), silence, hang_up], ids=["broken", "silent", "lost"]
)
async def test_no_frame_of_an_error_holds_credentials(wire: Start, connect: Connect, answer: Any) -> None:
    server = wire(
        by=lambda asked: reply(200, {"token": "hush-token"}) if asked.target == "/token" else answer
    )
    driver = connect(server.url, TokenService, password="hush-password", extra={"request_timeout": 1})

    def flow() -> Flow[Response]:
        return (yield Request("POST", f"{server.url}/***", secret="hush-secret", json={"key": "hush-json"}))

    with pytest.raises(ConnectionFailed) as caught:
        await driver.drive(flow(), MANY)
    assert server.asked[-1].headers["authorization"] == "Bearer hush-token"
    assert "hush" not in shown(caught.value)


async def test_no_frame_of_an_error_before_the_connection_holds_credentials(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://user:hush-proxy@127.0.0.1:typo")
    driver = connect("http://service.invalid", password="hush-password", extra={"request_timeout": 1})

    def flow() -> Flow[Response]:
        return (
            yield Request("POST", "http://service.invalid/***", secret="hush-secret", authenticated=False)
        )

    with pytest.raises(ConnectionFailed, match="proxy") as caught:
        await driver.drive(flow(), NO_RETRY)
    assert not caught.value.sent
    assert "hush" not in shown(caught.value)


def test_a_start_that_may_have_arrived_counts_as_sent_though_its_last_attempt_did_not_leave() -> None:
    cycle = RequestCycle(Service(Settings("testing_default", "http://service")))
    start = Request("POST", "http://service/start", safe_to_repeat=True, authenticated=False)
    steps = cycle.exchange(start, RetryPolicy(attempts=2), cycle.turns(Turn.CALL))
    assert isinstance(next(steps), Send)
    pause = steps.send(ConnectionFailed("the answer was lost", sent=True))
    assert isinstance(pause, Pause)
    clock.sleep(pause.seconds)
    assert isinstance(steps.send(None), Send)
    with pytest.raises(ConnectionFailed, match="refused") as caught:
        steps.send(ConnectionFailed("refused", sent=False))
    assert caught.value.sent


async def test_no_frame_of_an_interruption_holds_credentials(
    wire: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(*arguments: Any, **keywords: Any) -> None:
        try:
            raise ValueError("in the library")
        except ValueError:
            raise Interrupted  # noqa: B904 - as an alarm does that goes off in the midst of something

    server = wire()
    driver = connect(server.url)
    monkeypatch.setattr("requests.Session.request", interrupt)
    monkeypatch.setattr("aiohttp.ClientSession.request", interrupt)

    def flow() -> Flow[Response]:
        header = {"Authorization": "Bearer hush-token"}
        return (yield Request("POST", server.url, headers=header, authenticated=False))

    with pytest.raises(Interrupted) as caught:
        await driver.drive(flow(), MANY)
    assert "hush" not in shown(caught.value)


# The parts


def test_a_transfer_that_has_no_time_left_is_over() -> None:
    transfer = Transfer(2, 1)
    assert transfer.remaining() == pytest.approx(3, abs=0.1) and not transfer.is_sent
    transfer.mark_sent()
    assert transfer.is_sent and transfer.remaining() == pytest.approx(2, abs=0.1)
    clock.sleep(1.5)
    transfer.mark_sent()
    assert transfer.remaining() < 1
    transfer.extend()
    assert transfer.remaining() > 1
    clock.sleep(2)
    with pytest.raises(TimeoutError, match="within 2 s"):
        transfer.remaining()


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (
            'http://host:80 "GET /bucket/key?sig=hush HTTP/1.1" 200 3',
            'http://host:80 "GET /*** HTTP/1.1" 200 3',
        ),
        (
            'http://proxy:1 "GET http://host/a?hush HTTP/1.1" 200 3',
            'http://proxy:1 "GET http://host/*** HTTP/1.1" 200 3',
        ),
        (
            "Failed to parse headers (url=http://host:1/a'b)?hush): odd",
            "Failed to parse headers (url=http://host:1/*** odd",
        ),
        ("Starting new HTTP connection (1): host:80", "Starting new HTTP connection (1): host:80"),
        ('http://host:80 "GET / HTTP/1.1" 200 3', 'http://host:80 "GET / HTTP/1.1" 200 3'),
    ],
)
def test_logs_about_our_requests_hold_no_path(caplog: pytest.LogCaptureFixture, said: str, kept: str) -> None:
    cut_urls_in_logs()
    cut_urls_in_logs()
    logger = logging.getLogger("urllib3.connectionpool")
    assert len(logger.filters) == 1
    with caplog.at_level(logging.DEBUG):
        before = on_its_way.set(Transfer(1, 1))
        logger.debug("%s", said)
        on_its_way.reset(before)
        logger.debug("%s", said)
    ours, others = [record.getMessage() for record in caplog.records]
    assert (ours, others) == (kept, said)
