from __future__ import annotations

import asyncio
import functools
import json
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_runs import __version__
from airflow_provider_runs.core import clock, drivers, sessions
from airflow_provider_runs.core.api import Token
from airflow_provider_runs.core.connection import Settings
from airflow_provider_runs.core.drivers import AsyncDriver, Driver
from airflow_provider_runs.core.errors import ApiError, ConnectionFailed, Unauthorized
from airflow_provider_runs.core.http import Flow, Request, Response
from airflow_provider_runs.core.retry import NO_RETRY, RetryPolicy
from airflow_provider_runs.core.transfer import TimedConnection
from tests.core.conftest import (
    FAST,
    Answer,
    Asked,
    Connect,
    Service,
    TokenService,
    Wire,
    chunked,
    gzipped,
    hang_up,
    raw,
    reply,
    reset,
    silence,
)

Start = Callable[..., Wire]
SOON = {"connect_timeout": 0.1}
RUN = {"id": "r1", "status": "going"}


def once(
    method: str = "GET", *, to: str, safe: bool = True, authenticated: bool = False, **kwargs: Any
) -> Flow[Response]:
    """Send one request and return its answer."""
    return (
        yield Request(method, to, safe_to_repeat=safe, authenticated=authenticated, **kwargs)  # type: ignore[misc]
    )


class Counting(RetryPolicy):
    """Repeats at once, and counts how often it was asked how long to wait."""

    def __init__(self, attempts: int = 3) -> None:
        super().__init__(attempts=attempts, base=0.01, cap=0.02)
        object.__setattr__(self, "waited", 0)

    def wait(self, attempt: int, outcome: Response | ConnectionFailed) -> float:
        object.__setattr__(self, "waited", self.waited + 1)  # type: ignore[attr-defined]
        return 0.0


# What is sent


async def test_a_request_arrives_with_its_own_and_the_common_headers(wire: Start, connect: Connect) -> None:
    server = wire()
    await connect(server.url).drive(
        once("POST", to=f"{server.url}/runs", headers={"X-Own": "1"}, json={"a": [1, "ü"]})
    )
    (asked,) = server.asked
    assert (asked.method, asked.target) == ("POST", "/runs")
    assert asked.json == {"a": [1, "ü"]}
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["accept"] == "application/json"
    assert asked.headers["user-agent"] == f"airflow-provider-runs/{__version__}"
    assert asked.headers["x-own"] == "1"
    assert "authorization" not in asked.headers and "cookie" not in asked.headers


@pytest.mark.parametrize(
    ("path", "params", "target"),
    [
        ("/runs/a%2Fb", {}, "/runs/a%2Fb"),
        ("/runs/a%20b", {}, "/runs/a%20b"),
        ("/runs/a%25b", {}, "/runs/a%25b"),
        ("/runs/a%3Fb%23c", {}, "/runs/a%3Fb%23c"),
        ("/runs/%C3%BC", {}, "/runs/%C3%BC"),
        ("/", {"order_by[]": "id desc"}, "/?order_by%5B%5D=id+desc"),
        ("/", {"a": "1&b=2+3%"}, "/?a=1%26b%3D2%2B3%25"),
        ("/", {"a": ""}, "/?a="),
    ],
)
async def test_both_drivers_write_addresses_alike(
    wire: Start, connect: Connect, path: str, params: dict[str, str], target: str
) -> None:
    from urllib.parse import parse_qsl, urlsplit

    server = wire()
    await connect(server.url).drive(once(to=server.url + path, params=params))
    (asked,) = server.targets
    assert urlsplit(asked).path == urlsplit(target).path
    assert parse_qsl(urlsplit(asked).query, keep_blank_values=True) == list(params.items())


async def test_a_parameter_with_several_values_is_repeated(wire: Start, connect: Connect) -> None:
    server = wire()
    await connect(server.url).drive(once(to=server.url, params={"word": ["a", "b c"], "other": "d"}))
    assert server.targets == ["/?word=a&word=b+c&other=d"]


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_a_request_without_a_body_has_no_kind_of_body(
    wire: Start, connect: Connect, method: str
) -> None:
    """A server may refuse what is no JSON, even where there is nothing."""
    server = wire()
    await connect(server.url).drive(once(method, to=server.url))
    (asked,) = server.asked
    assert "content-type" not in asked.headers and asked.body == b""


async def test_a_request_waits_as_it_says(wire: Start, connect: Connect) -> None:
    server = wire()
    began = clock.monotonic()
    await connect(server.url).drive(once(to=server.url, delay=0.3))
    assert clock.monotonic() - began >= 0.3 and len(server.asked) == 1


async def test_no_cookie_is_kept(wire: Start, connect: Connect) -> None:
    server = wire(reply(200, {}, Set_Cookie="session=abc; Path=/"))
    driver = connect(server.url)
    for _ in range(2):
        await driver.drive(once(to=server.url))
    assert len(server.asked) == 2
    assert not any("cookie" in asked.headers for asked in server.asked)


async def test_one_connection_serves_many_requests(wire: Start, connect: Connect) -> None:
    server = wire()
    driver = connect(server.url)
    for _ in range(3):
        await driver.drive(once(to=server.url))
    assert (len(server.asked), server.connections) == (3, 1)


async def test_a_closed_driver_can_be_closed_again_and_used_again(wire: Start, connect: Connect) -> None:
    server = wire()
    driver = connect(server.url)
    await driver.drive(once(to=server.url))
    await _close(driver.driver)
    await _close(driver.driver)
    assert (await driver.drive(once(to=server.url))).status == 200
    assert server.connections == 2


async def _close(driver: Driver | AsyncDriver) -> None:
    if isinstance(driver, Driver):
        driver.close()
    else:
        await driver.close()


# What comes back


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        pytest.param(reply(200, {"a": 1}), 200, b'{"a": 1}', id="json"),
        pytest.param(reply(201, b""), 201, b"", id="empty"),
        pytest.param(raw(b"HTTP/1.1 204 No Content\r\n\r\n"), 204, b"", id="no content"),
        pytest.param(reply(200, b"<html>", Content_Type="text/html"), 200, b"<html>", id="html"),
        pytest.param(reply(200, b"{oops"), 200, b"{oops", id="not json"),
        pytest.param(reply(400, b"\xff\xfe"), 400, b"\xff\xfe", id="not utf-8"),
        pytest.param(chunked(b'{"a"', b": 1}"), 200, b'{"a": 1}', id="chunked"),
        pytest.param(gzipped({"a": 1}), 200, b'{"a": 1}', id="gzip"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\n\r\nuntil the end"), 200, b"until the end", id="until close"),
    ],
)
async def test_an_answer_comes_back_as_it_is(
    wire: Start, connect: Connect, answer: Answer, status: int, body: bytes
) -> None:
    server = wire(answer)
    response = await connect(server.url).drive(once(to=server.url), NO_RETRY)
    assert (response.status, response.body, len(server.asked)) == (status, body, 1)


async def test_header_names_come_back_in_lower_case(wire: Start, connect: Connect) -> None:
    server = wire(reply(200, {}, X_Trace="T1"))
    response = await connect(server.url).drive(once(to=server.url))
    assert response.headers["x-trace"] == "T1"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_an_answer_and_no_other_host_sees_the_credentials(
    wire: Start, connect: Connect, status: int
) -> None:
    other = wire()
    server = wire(by=lambda asked: _token(asked) or reply(status, {}, Location=f"{other.url}/runs/r1"))
    driver = connect(server.url, TokenService)
    response = await driver.drive(once(to=f"{server.url}/runs/r1", authenticated=True))
    assert response.status == status
    assert other.connections == 0 and server.targets == ["/token", "/runs/r1"]


# What is repeated


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_a_temporary_refusal_of_a_safe_request_is_repeated(
    wire: Start, connect: Connect, status: int
) -> None:
    server = wire(reply(status), reply(200, RUN))
    run = await connect(server.url).drive(_get(server))
    assert (run, len(server.asked)) == ("r1", 2)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 501])
async def test_a_lasting_refusal_is_not_repeated(wire: Start, connect: Connect, status: int) -> None:
    server = wire(reply(status))
    response = await connect(server.url).drive(once(to=server.url))
    assert (response.status, len(server.asked)) == (status, 1)


@pytest.mark.parametrize("status", [408, 425, 500, 502, 503, 504])
async def test_a_start_without_key_is_not_sent_twice(wire: Start, connect: Connect, status: int) -> None:
    server = wire(reply(status), reply(200, RUN))
    response = await connect(server.url).drive(once("POST", to=server.url, safe=False))
    assert (response.status, len(server.asked)) == (status, 1)


async def test_a_start_that_was_turned_away_for_pace_is_sent_again(wire: Start, connect: Connect) -> None:
    server = wire(reply(429), reply(200, RUN))
    response = await connect(server.url).drive(once("POST", to=server.url, safe=False))
    assert (response.status, len(server.asked)) == (200, 2)


async def test_retry_after_is_obeyed(wire: Start, connect: Connect) -> None:
    server = wire(reply(429, {}, Retry_After="0.3"), reply(200, RUN))
    began = clock.monotonic()
    await connect(server.url).drive(_get(server))
    assert 0.3 <= clock.monotonic() - began < 2


async def test_the_last_answer_is_handed_over_when_attempts_are_used_up(
    wire: Start, connect: Connect
) -> None:
    server = wire(reply(503, {"n": 1}), reply(502, {"n": 2}), reply(500, {"n": 3}))
    response = await connect(server.url).drive(once(to=server.url))
    assert (response.status, json.loads(response.body), len(server.asked)) == (500, {"n": 3}, 3)


async def test_without_retry_there_is_one_request(wire: Start, connect: Connect) -> None:
    server = wire(reply(503))
    assert (await connect(server.url).drive(once(to=server.url), NO_RETRY)).status == 503
    assert len(server.asked) == 1


@pytest.mark.parametrize("lost", [reset, hang_up])
async def test_a_safe_request_is_repeated_after_its_answer_was_lost(
    wire: Start, connect: Connect, lost: Answer
) -> None:
    server = wire(lost, reply(200, RUN))
    assert await connect(server.url).drive(_get(server)) == "r1"
    assert len(server.asked) == 2


def _get(server: Wire) -> Flow[str]:
    response = yield Request("GET", f"{server.url}/runs/r1", safe_to_repeat=True, authenticated=False)
    return str(json.loads(response.body)["id"])


# No answer


LOST = [
    pytest.param(reset, id="reset"),
    pytest.param(hang_up, id="closed"),
    pytest.param(silence, id="silence"),
    pytest.param(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}"), id="truncated"),
    pytest.param(chunked(b"{}", end=b""), id="truncated chunks"),
    pytest.param(chunked(b"{}", end=b"oops\r\n"), id="broken chunks"),
    pytest.param(reply(200, b"oops", Content_Encoding="gzip"), id="broken gzip"),
    pytest.param(raw(b"SSH-2.0-OpenSSH_9.6\r\n"), id="not http"),
]


@pytest.mark.parametrize("lost", LOST)
async def test_a_lost_answer_may_have_been_to_a_request_that_arrived(
    wire: Start, connect: Connect, lost: Answer
) -> None:
    server = wire(lost)
    flow = once("POST", to=f"{server.url}/runs", safe=False, timeout=0.2)
    with pytest.raises(ConnectionFailed, match="Testing did not answer POST /runs at http://127") as caught:
        await connect(server.url).drive(flow)
    assert caught.value.sent
    assert len(server.asked) == 1


async def test_a_connection_reset_while_the_request_is_read_counts_as_sent(
    wire: Start, connect: Connect
) -> None:
    server = wire(reset_at_first_byte=True)
    with pytest.raises(ConnectionFailed) as caught:
        await connect(server.url).drive(once("POST", to=server.url, safe=False))
    assert caught.value.sent
    assert server.connections == 1


async def test_the_connections_timeout_bounds_the_wait_for_an_answer(wire: Start, connect: Connect) -> None:
    server = wire(silence)
    driver = connect(server.url, extra={"request_timeout": "0.2"})
    began = clock.monotonic()
    with pytest.raises(ConnectionFailed, match="Timeout"):
        await driver.drive(once("POST", to=server.url, safe=False))
    assert clock.monotonic() - began < 2


async def _fails_unsent(connect: Connect, url: str, **extra: Any) -> ConnectionFailed:
    """Send a request that must not be repeated blindly; return the error, having seen that it was."""
    policy = Counting()
    with pytest.raises(ConnectionFailed) as caught:
        await connect(url, extra=extra).drive(once("POST", to=f"{url}/runs", safe=False), policy)
    assert not caught.value.sent
    assert policy.waited >= 2  # type: ignore[attr-defined]
    return caught.value


async def test_a_refused_connection_sent_nothing(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    await _fails_unsent(connect, f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("host", ["nonexistent.invalid", "a" * 64 + ".invalid", "a..invalid"])
async def test_a_name_without_address_sent_nothing(connect: Connect, host: str) -> None:
    assert "invalid" in str(await _fails_unsent(connect, f"http://{host}"))


async def test_a_connection_that_does_not_open_in_time_sent_nothing(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        taken = [socket.socket() for _ in range(3)]
        for client in taken:
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        await _fails_unsent(connect, f"http://127.0.0.1:{full.getsockname()[1]}", **SOON)
        for client in taken:
            client.close()


async def test_tls_against_a_plain_port_sent_nothing(wire: Start, connect: Connect) -> None:
    server = wire(greeting=b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await _fails_unsent(connect, server.url.replace("http:", "https:"))


async def test_a_tls_handshake_without_answer_sent_nothing(wire: Start, connect: Connect) -> None:
    await _fails_unsent(connect, wire().url.replace("http:", "https:"), **SOON)


async def test_a_port_that_closes_during_the_tls_handshake_was_sent_nothing(
    wire: Start, connect: Connect
) -> None:
    server = wire(reset_at_first_byte=True)
    await _fails_unsent(connect, server.url.replace("http:", "https:"))


async def test_a_certificate_that_nobody_signed_stops_the_request(
    wire: Start, connect: Connect, tls_context: tuple[ssl.SSLContext, Path]
) -> None:
    server = wire(tls=tls_context[0])
    assert "certificate" in str(await _fails_unsent(connect, server.url)).lower()
    assert server.asked == []


@pytest.fixture
def trusted(tls_context: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's context whose certificate the environment trusts."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tls_context[1]))
    return tls_context[0]


async def test_a_trusted_certificate_is_accepted(
    wire: Start, connect: Connect, trusted: ssl.SSLContext
) -> None:
    server = wire(tls=trusted)
    assert (await connect(server.url).drive(once(to=server.url))).status == 200


async def test_tls_that_breaks_after_the_request_counts_as_sent(
    wire: Start, connect: Connect, trusted: ssl.SSLContext
) -> None:
    def break_tls(connection: socket.socket, asked: Asked) -> bool:
        with socket.socket(fileno=connection.detach()) as plain:
            plain.sendall(b"HTTP/1.1 200 OK\r\n\r\nnot TLS at all")
            plain.shutdown(socket.SHUT_WR)
            plain.recv(1024)
        return False

    server = wire(break_tls, tls=trusted)
    with pytest.raises(ConnectionFailed) as caught:
        await connect(server.url).drive(once("POST", to=server.url, safe=False))
    assert caught.value.sent
    assert len(server.asked) == 1


async def test_an_error_message_holds_no_secret(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    driver = connect(f"http://127.0.0.1:{port}", password="hush hush")
    with pytest.raises(ConnectionFailed) as caught:
        await driver.drive(once(to=f"http://127.0.0.1:{port}/x", params={"token": "hush hush"}))
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__context__ is None


async def test_no_log_holds_the_secret_of_a_url(
    wire: Start, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    server = wire(reply(200, RUN))
    with caplog.at_level(logging.DEBUG):
        await connect(server.url).drive(once("POST", to=f"{server.url}/runs/***", secret="hush hush"))
    assert server.asked[0].target == "/runs/hush%20hush"
    assert "hush" not in caplog.text
    said = [record.getMessage() for record in caplog.records if record.name == "urllib3.connectionpool"]
    assert all("POST /*** HTTP/1.1" in text for text in said if "POST" in text)


# What the flow hears


async def test_a_flow_may_go_on_after_a_lost_answer(wire: Start, connect: Connect) -> None:
    server = wire(reset, reply(200, RUN))

    def patient() -> Flow[str]:
        try:
            yield Request("POST", server.url, authenticated=False)
        except ConnectionFailed as error:
            return (yield from _get(server)) + f", sent: {error.sent}"
        return "never"

    assert await connect(server.url).drive(patient()) == "r1, sent: True"


async def test_a_flow_without_requests_ends_at_once(connect: Connect) -> None:
    def nothing() -> Flow[int]:
        yield from ()
        return 7

    assert await connect("http://127.0.0.1:9").drive(nothing()) == 7


async def test_an_error_of_the_flow_tells_how_long_the_service_asked_to_wait(
    wire: Start, connect: Connect
) -> None:
    server = wire(reply(429, {}, Retry_After="90"))
    driver = connect(server.url)
    with pytest.raises(ApiError) as caught:
        await driver.drive(driver.api.get("r1"), NO_RETRY)
    assert caught.value.retry_after == 90


async def test_an_error_before_any_answer_tells_of_no_wait(connect: Connect) -> None:
    def broken() -> Flow[None]:
        raise ApiError("at once", status=500)
        yield

    with pytest.raises(ApiError, match="at once") as caught:
        await connect("http://127.0.0.1:9").drive(broken())
    assert caught.value.retry_after is None


async def test_a_wait_that_an_earlier_request_was_told_of_is_not_a_later_ones(
    wire: Start, connect: Connect
) -> None:
    server = wire(reply(200, {}, Retry_After="90"), reset)

    def two() -> Flow[None]:
        yield Request("GET", server.url)
        try:
            yield Request("POST", server.url)
        except ConnectionFailed:
            raise ApiError("gave up", status=500) from None

    with pytest.raises(ApiError, match="gave up") as caught:
        await connect(server.url).drive(two())
    assert caught.value.retry_after is None


# Authentication


def _token(asked: Asked, value: str = "T") -> Answer | None:
    return reply(200, {"token": value}) if asked.target == "/token" else None


class Guard:
    """Answers as a service that gives numbered tokens and takes only some of them."""

    def __init__(self, *, good: Callable[[int], bool], refusal: int = 401, pause: float = 0.0) -> None:
        self.good = good
        self.refusal = refusal
        self.pause = pause
        self.tokens = 0
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Answer:
        if asked.target == "/token":
            # The server asks for answers one at a time, so counting is safe.
            self.tokens += 1
            given = reply(200, {"token": str(self.tokens)})
            return _later(given, self.pause)
        number = asked.headers["authorization"].removeprefix("Bearer ")
        return reply(200, RUN) if number and self.good(int(number)) else reply(self.refusal)


def _later(answer: Answer, seconds: float) -> Answer:
    def wait(connection: socket.socket, asked: Asked) -> bool:
        clock.sleep(seconds)
        return answer(connection, asked)

    return wait


async def test_a_token_is_got_once_and_used_again(wire: Start, connect: Connect) -> None:
    guard = Guard(good=lambda number: True)
    server = wire(by=guard)
    driver = connect(server.url, TokenService)
    for _ in range(3):
        assert (await driver.drive(driver.api.get("r1"))).id == "r1"
    assert server.targets == ["/token", "/runs/r1", "/runs/r1", "/runs/r1"]


async def test_twenty_calls_at_once_get_one_token(wire: Start, connect: Connect) -> None:
    guard = Guard(good=lambda number: True, pause=0.1)
    server = wire(by=guard)
    driver = connect(server.url, TokenService)
    runs = await asyncio.gather(*(driver.drive(driver.api.get("r1")) for _ in range(20)))
    assert [run.id for run in runs] == ["r1"] * 20
    assert (guard.tokens, len(server.asked)) == (1, 21)


async def test_twenty_calls_whose_token_expired_get_one_new_token(wire: Start, connect: Connect) -> None:
    guard = Guard(good=lambda number: number == 1, pause=1.0)
    server = wire(by=guard)
    driver = connect(server.url, TokenService)
    driver.api.token = Token("0", clock.time(), 3600)
    runs = await asyncio.gather(*(driver.drive(driver.api.get("r1")) for _ in range(20)))
    assert [run.id for run in runs] == ["r1"] * 20
    assert (guard.tokens, server.targets.count("/runs/r1")) == (1, 40)


async def test_a_refused_token_is_renewed_once(wire: Start, connect: Connect) -> None:
    guard = Guard(good=lambda number: number == 1)
    server = wire(by=guard)
    driver = connect(server.url, TokenService)
    driver.api.token = Token("0", clock.time(), 3600)
    assert (await driver.drive(driver.api.get("r1"))).id == "r1"
    assert server.targets == ["/runs/r1", "/token", "/runs/r1"]


async def test_a_start_without_key_is_sent_again_with_a_fresh_token(wire: Start, connect: Connect) -> None:
    guard = Guard(good=lambda number: number == 1)
    server = wire(by=guard)
    driver = connect(server.url, TokenService)
    driver.api.token = Token("0", clock.time(), 3600)
    assert (await driver.drive(driver.api.trigger({}))).id == "r1"
    assert server.targets == ["/runs", "/token", "/runs"]


async def test_a_fresh_token_that_is_refused_is_the_end(wire: Start, connect: Connect) -> None:
    guard = Guard(good=lambda number: False)
    server = wire(by=guard)
    driver = connect(server.url, TokenService)
    with pytest.raises(Unauthorized):
        await driver.drive(driver.api.get("r1"))
    assert server.targets == ["/token", "/runs/r1"]


async def test_twenty_calls_that_are_always_refused_ask_at_most_twice_each(
    wire: Start, connect: Connect
) -> None:
    guard = Guard(good=lambda number: False, pause=0.05)
    server = wire(by=guard)
    driver = connect(server.url, TokenService)
    errors = await asyncio.gather(
        *(driver.drive(driver.api.get("r1")) for _ in range(20)), return_exceptions=True
    )
    assert {type(error) for error in errors} == {Unauthorized}
    assert guard.tokens <= 20
    assert server.targets.count("/runs/r1") <= 40


async def test_403_heals_by_a_fresh_token_only_where_the_service_is_so(wire: Start, connect: Connect) -> None:
    class Chalky(TokenService):
        stale_token_statuses = frozenset({401, 403})

    for kind, asks in ((TokenService, 1), (Chalky, 2)):
        guard = Guard(good=lambda number: False, refusal=403)
        server = wire(by=guard)
        driver = connect(server.url, kind)
        driver.api.token = Token("0", clock.time(), 3600)
        with pytest.raises(Unauthorized):
            await driver.drive(driver.api.get("r1"))
        assert server.targets.count("/runs/r1") == asks
        assert guard.tokens == asks - 1


async def test_401_without_authentication_is_the_end(wire: Start, connect: Connect) -> None:
    server = wire(reply(401))
    driver = connect(server.url)
    with pytest.raises(Unauthorized):
        await driver.drive(driver.api.get("r1"))
    assert server.targets == ["/runs/r1"]


async def test_a_request_that_needs_no_token_gets_none(wire: Start, connect: Connect) -> None:
    server = wire(reply(401))
    driver = connect(server.url, TokenService)
    assert (await driver.drive(once(to=server.url))).status == 401
    assert server.targets == ["/"] and "authorization" not in server.asked[0].headers


async def test_an_ageing_token_is_renewed_before_it_is_used(wire: Start, connect: Connect) -> None:
    guard = Guard(good=lambda number: number == 1)
    server = wire(by=guard)
    driver = connect(server.url, TokenService)
    driver.api.token = Token("0", clock.time() - 3550, 3600)
    assert (await driver.drive(driver.api.get("r1"))).id == "r1"
    assert server.targets == ["/token", "/runs/r1"]


async def test_a_token_must_outlive_a_long_request(wire: Start, connect: Connect) -> None:
    guard = Guard(good=lambda number: number == 1)
    server = wire(by=guard)
    driver = connect(server.url, TokenService)
    driver.api.token = Token("0", clock.time() - 3300, 3600)
    long = once(to=f"{server.url}/runs/r1", authenticated=True, timeout=330.0)
    assert (await driver.drive(long)).status == 200
    assert server.targets == ["/token", "/runs/r1"]


async def test_a_token_that_never_lives_long_enough_is_used_all_the_same(
    wire: Start, connect: Connect
) -> None:
    class Brief(TokenService):
        lifetime = 10.0

    guard = Guard(good=lambda number: True)
    server = wire(by=guard)
    driver = connect(server.url, Brief)
    long = once(to=f"{server.url}/runs/r1", authenticated=True, timeout=330.0)
    assert (await driver.drive(long)).status == 200
    assert server.targets == ["/token", "/runs/r1"]


async def test_getting_a_token_is_repeated_as_the_request_is(wire: Start, connect: Connect) -> None:
    server = wire(reply(503), reset, reply(200, {"token": "T"}), reply(200, RUN))
    driver = connect(server.url, TokenService)
    assert (await driver.drive(driver.api.trigger({}))).id == "r1"
    assert server.targets == ["/token", "/token", "/token", "/runs"]


async def test_a_start_whose_token_request_got_no_answer_was_not_sent(wire: Start, connect: Connect) -> None:
    server = wire(reset)
    driver = connect(server.url, TokenService)
    with pytest.raises(ConnectionFailed) as caught:
        await driver.drive(driver.api.trigger({}, "key"))
    assert not caught.value.sent
    assert server.targets == ["/token"] * FAST.attempts


async def test_a_caller_that_has_stopped_sends_nothing_any_more(wire: Start, connect: Connect) -> None:
    server = wire(reply(503))
    driver = connect(server.url)
    with pytest.raises(ConnectionFailed, match="stopped") as caught:
        await driver.drive(driver.api.get("r1"), RetryPolicy(base=0.01, stopped=lambda: True))
    assert not caught.value.sent
    assert server.targets == []
    # Stopped in the pause after the first attempt: what that one did cannot be known.
    answers = iter([False, False, True, True])
    with pytest.raises(ConnectionFailed, match="stopped") as caught:
        await driver.drive(driver.api.get("r1"), RetryPolicy(base=0.01, stopped=lambda: next(answers)))
    assert caught.value.sent
    assert len(server.targets) == 1


async def test_the_wait_that_the_token_request_was_told_of_is_kept(wire: Start, connect: Connect) -> None:
    server = wire(reply(429, {}, Retry_After="90"))
    driver = connect(server.url, TokenService)
    with pytest.raises(ConnectionFailed, match="no token") as caught:
        await driver.drive(driver.api.get("r1"), NO_RETRY)
    assert caught.value.retry_after == 90
    assert not caught.value.sent
    assert server.targets == ["/token"]


async def test_waiting_calls_share_the_failure_to_get_a_token(wire: Start, connect: Connect) -> None:
    server = wire(_later(reply(400), 1.0))
    driver = connect(server.url, TokenService)
    errors = await asyncio.gather(
        *(driver.drive(driver.api.get("r1")) for _ in range(20)), return_exceptions=True
    )
    assert {str(error) for error in errors} == {"Testing gave no token: 400"}
    assert server.targets == ["/token"]
    with pytest.raises(ApiError):
        await driver.drive(driver.api.get("r1"))
    assert server.targets == ["/token"] * 2


# The environment


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = "machine 127.0.0.1 login somebody password else\n"
    (tmp_path / ".netrc").write_text(entry)
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))


@pytest.mark.usefixtures("netrc")
async def test_a_netrc_entry_neither_replaces_nor_adds_a_login(wire: Start, connect: Connect) -> None:
    server = wire(by=lambda asked: _token(asked) or reply(200, RUN))
    driver = connect(server.url, TokenService)
    await driver.drive(driver.api.get("r1"))
    await driver.drive(once(to=server.url, headers={"Authorization": "Bearer own"}))
    assert [asked.headers.get("authorization") for asked in server.asked] == [None, "Bearer T", "Bearer own"]


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("scheme", ["http://", ""])
async def test_the_proxy_of_the_environment_is_used(
    wire: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str
) -> None:
    proxy = wire(reply(200, RUN))
    monkeypatch.setenv(variable, proxy.url.replace("http://", scheme))
    driver = connect("http://testing.invalid")
    assert (await driver.drive(driver.api.get("r1"))).id == "r1"
    assert proxy.targets == ["http://testing.invalid/runs/r1"]


@pytest.mark.parametrize("excepted", ["127.0.0.1", "other.example.com,127.0.0.1", "*", "127.0.0.0/8"])
async def test_a_host_that_needs_no_proxy_is_asked_itself(
    wire: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch, excepted: str
) -> None:
    proxy, server = wire(), wire(reply(200, RUN))
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", excepted)
    driver = connect(server.url)
    assert (await driver.drive(driver.api.get("r1"))).id == "r1"
    assert proxy.connections == 0


async def test_the_proxys_login_goes_to_the_proxy(
    wire: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = wire(reply(200, RUN))
    monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("//", "//user:p%40ss@"))
    driver = connect("http://testing.invalid")
    await driver.drive(driver.api.get("r1"))
    assert proxy.asked[0].headers["proxy-authorization"] == "Basic dXNlcjpwQHNz"


async def test_a_proxy_that_cannot_be_reached_was_sent_nothing(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("HTTP_PROXY", f"http://user:hushhush@127.0.0.1:{port}")
    assert "hushhush" not in str(await _fails_unsent(connect, "http://testing.invalid"))


@pytest.mark.parametrize(
    "proxy", ["socks5://127.0.0.1:9", "nonsense://127.0.0.1:9", "http://[", "http://a b"]
)
async def test_a_proxy_that_cannot_be_used_is_not_passed_by(
    wire: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    server = wire()
    monkeypatch.setenv("ALL_PROXY", proxy)
    await _fails_unsent(connect, server.url)
    assert server.connections == 0


async def test_a_proxy_that_refuses_the_tunnel_sent_nothing_on(
    wire: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = wire(reply(403, b"", Connection="close"))
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    await _fails_unsent(connect, "https://testing.invalid")
    assert set(proxy.targets) == {"testing.invalid:443"}


async def test_a_proxy_that_resets_after_the_request_may_have_sent_it_on(
    wire: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = wire(reset)
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    with pytest.raises(ConnectionFailed) as caught:
        await connect("http://testing.invalid").drive(once("POST", to="http://testing.invalid", safe=False))
    assert caught.value.sent
    assert len(proxy.asked) == 1


async def test_a_socks_proxys_own_connections_are_kept_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    import requests.adapters
    import urllib3

    class SocksPool(urllib3.HTTPConnectionPool):
        pass

    class SocksManager(urllib3.PoolManager):
        def __init__(self, proxy: str, **kwargs: Any) -> None:
            kwargs.pop("username"), kwargs.pop("password")
            super().__init__(**kwargs)
            self.pool_classes_by_scheme = {"http": SocksPool, "https": SocksPool}

    monkeypatch.setattr(requests.adapters, "SOCKSProxyManager", SocksManager)
    with sessions.requests_session(Service(Settings("c", "http://host"))) as session:
        manager = session.get_adapter("http://host").proxy_manager_for("socks5://127.0.0.1:9")
    # They state what they send, as all do.
    pools = manager.pool_classes_by_scheme
    assert all(issubclass(pools[scheme], SocksPool) for scheme in ("http", "https"))
    assert all(issubclass(pools[scheme].ConnectionCls, TimedConnection) for scheme in ("http", "https"))


# The connection itself


async def test_connections_are_kept_alive_while_a_service_works(wire: Start, connect: Connect) -> None:
    options = dict(((level, name), value) for level, name, value in sessions._keepalive_options())
    assert options[socket.SOL_SOCKET, socket.SO_KEEPALIVE] == 1
    assert options[socket.IPPROTO_TCP, socket.TCP_NODELAY] == 1
    assert options[socket.IPPROTO_TCP, socket.TCP_KEEPIDLE] == 15


async def test_keepalive_is_asked_for_as_far_as_the_system_knows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"):
        monkeypatch.delattr(socket, name)
    assert len(sessions._keepalive_options()) == 2


async def test_calls_at_once_share_one_session(
    wire: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for name in ("requests_session", "aiohttp_session"):

        def slowly(make: Callable[..., Any], *arguments: Any) -> Any:
            clock.sleep(0.05)
            made.append(make(*arguments))
            return made[-1]

        monkeypatch.setattr(drivers, name, functools.partial(slowly, getattr(drivers, name)))
    server = wire()
    driver = connect(server.url)
    await asyncio.gather(*(driver.drive(once(to=server.url)) for _ in range(5)))
    assert (len(made), len(server.asked)) == (1, 5)
