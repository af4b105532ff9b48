"""Downloads from a presigned address: whole or not at all, and its signature in no text."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import logging
import os
import re
import ssl
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_runs.core import clock
from airflow_provider_runs.core import download as downloads
from airflow_provider_runs.core.connection import Settings
from airflow_provider_runs.core.download import Download, download
from airflow_provider_runs.core.drivers import Driver
from airflow_provider_runs.core.errors import ApiError, ConnectionFailed, NotFound, RunsError, Unauthorized
from airflow_provider_runs.core.retry import NO_RETRY
from tests.core.conftest import FAST, Answer, TokenService, Wire, chunked, hang_up, raw, reply, reset, silence
from tests.core.frames import shown
from tests.core.hostile import DRIPS, bomb, flood
from tests.memory import forget_peak, needs_proc, peak

Start = Callable[..., Wire]
WHAT = "artifact target/manifest.json of run 12"
SIGNATURE = "X-Amz-Signature=5up3r+s3cr3t/%3D"
PLAIN = "5up3r"
NOWHERE = "http://127.0.0.1:9"
BODY = bytes(range(256)) * 1000


@pytest.fixture
def drivers() -> Iterator[Callable[..., Driver]]:
    made: list[Driver] = []

    def make(**extra: Any) -> Driver:
        settings = Settings(
            "testing", "http://127.0.0.1:9", password="hush", extra={"request_timeout": 5, **extra}
        )
        made.append(Driver(TokenService(settings)))
        return made[-1]

    yield make
    for driver in made:
        driver.close()


def presigned(server: Wire) -> str:
    return f"{server.url}/bucket/key?{SIGNATURE}&X-Amz-Expires=60"


def save(driver: Driver, server: Wire, target: Any = None, *, max_bytes: int = 10**9) -> Download:
    return download(driver, WHAT, lambda: presigned(server), target or io.BytesIO(), max_bytes=max_bytes)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "DEFAULT_RETRY", FAST)


def cut(body: bytes, told: int) -> Answer:
    return raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % told + body)


@pytest.mark.parametrize(
    "answer",
    [
        reply(200, BODY),
        reply(200, b""),
        chunked(BODY[:100], BODY[100:]),
        reply(200, gzip.compress(BODY), Content_Encoding="gzip"),
    ],
    ids=["plain", "empty", "chunked", "gzip"],
)
def test_every_byte_comes_over(drivers: Callable[..., Driver], wire: Start, answer: Answer) -> None:
    target = io.BytesIO(b"what stood there before" * 100_000)
    got = save(drivers(), wire(answer), target)
    assert got == Download(len(target.getvalue()), hashlib.sha256(target.getvalue()).hexdigest())
    assert target.getvalue() in (BODY, b"")


class Full(io.BytesIO):
    """A file that cannot be written to."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def write(self, data: Any) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("answer", "target", "kind"),
    [
        (reply(403, "no"), io.BytesIO(), Unauthorized),
        (reply(200, BODY, Content_Encoding="br"), io.BytesIO(), ConnectionFailed),
        (hang_up, io.BytesIO(), ConnectionFailed),
        (reply(200, BODY), Full(OSError("no space left")), OSError),
        (reply(200, BODY), Full(KeyboardInterrupt()), KeyboardInterrupt),
    ],
    ids=["refused", "broken off", "lost", "not written", "interrupted"],
)
def test_no_frame_of_an_error_holds_the_signature(
    drivers: Callable[..., Driver], wire: Start, answer: Answer, target: Any, kind: type[BaseException]
) -> None:
    with pytest.raises(kind) as caught:
        save(drivers(), wire(answer), target)
    assert SIGNATURE not in shown(caught.value)


def test_no_credentials_are_sent_to_the_store(drivers: Callable[..., Driver], wire: Start) -> None:
    server = wire(reply(200, BODY))
    save(drivers(), server)
    (asked,) = server.asked
    assert asked.target == f"/bucket/key?{SIGNATURE}&X-Amz-Expires=60"
    assert set(asked.headers) <= {"host", "user-agent", "accept", "accept-encoding", "connection"}
    assert "hush" not in str(asked)


@pytest.mark.parametrize(
    "broken",
    [
        cut(BODY[:1000], len(BODY)),
        cut(BODY[:1000], 1001),
        chunked(BODY[:1000], end=b""),
        hang_up,
        reset,
        reply(503),
        reply(500),
        reply(429),
    ],
    ids=["cut", "one byte short", "chunks cut", "closed", "reset", "503", "500", "429"],
)
def test_a_download_that_breaks_off_is_begun_anew_with_a_fresh_address(
    drivers: Callable[..., Driver], wire: Start, broken: Answer
) -> None:
    server, target, numbers = wire(broken, reply(200, BODY)), io.BytesIO(), itertools.count(1)
    got = download(drivers(), WHAT, lambda: f"{presigned(server)}&n={next(numbers)}", target, max_bytes=10**6)
    assert target.getvalue() == BODY
    assert got.size == len(BODY)
    assert [re.sub(".*n=", "", url) for url in server.targets] == ["1", "2"]


def test_a_download_that_keeps_breaking_off_says_how_far_it_came(
    drivers: Callable[..., Driver], wire: Start
) -> None:
    server = wire(cut(BODY[:1000], len(BODY)))
    with pytest.raises(ConnectionFailed, match=f"download of {WHAT} broke off"):
        save(drivers(), server)
    assert len(server.asked) == FAST.attempts


def test_a_silent_store_is_left_after_the_request_timeout(
    drivers: Callable[..., Driver], wire: Start
) -> None:
    def starts_and_stops(connection: Any, asked: Any) -> bool:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        return silence(connection, asked)

    server = wire(silence, starts_and_stops)
    with pytest.raises(ConnectionFailed, match="broke off"):
        save(drivers(request_timeout=0.2), server)
    assert len(server.asked) == FAST.attempts


@pytest.mark.parametrize(
    ("status", "kind"), [(401, Unauthorized), (403, Unauthorized), (404, NotFound), (410, ApiError)]
)
def test_a_refusal_is_final_and_says_status_and_artifact(
    drivers: Callable[..., Driver], wire: Start, status: int, kind: type[ApiError]
) -> None:
    said = f"<SignatureProvided>{PLAIN}</SignatureProvided>".encode()
    server = wire(reply(status, said))
    with pytest.raises(kind, match=f"the store answered {status} to the download of {WHAT}") as error:
        save(drivers(), server)
    assert error.value.status == status and error.value.permanent
    assert len(server.asked) == 1


def test_an_answer_of_unknown_length_is_not_taken_for_whole(
    drivers: Callable[..., Driver], wire: Start
) -> None:
    server = wire(raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + BODY))
    with pytest.raises(ApiError, match="does not say how long"):
        save(drivers(), server)


def test_retry_after_is_obeyed(drivers: Callable[..., Driver], wire: Start) -> None:
    server = wire(reply(503, Retry_After="0.3"), reply(200, BODY))
    began = clock.monotonic()
    save(drivers(), server)
    assert clock.monotonic() - began >= 0.3


def test_an_address_that_cannot_be_had_is_asked_for_again(
    drivers: Callable[..., Driver], wire: Start
) -> None:
    server, answers = wire(reply(200, BODY)), iter([ConnectionFailed("lost", sent=True), None])

    def url() -> str:
        if error := next(answers):
            raise error
        return presigned(server)

    assert download(drivers(), WHAT, url, io.BytesIO(), max_bytes=10**6).size == len(BODY)


@pytest.mark.parametrize(
    "answer",
    [reply(200, BODY), chunked(BODY), reply(200, gzip.compress(BODY), Content_Encoding="gzip")],
    ids=["told", "chunked", "gzip"],
)
def test_the_size_limit_holds(drivers: Callable[..., Driver], wire: Start, answer: Answer) -> None:
    server, target = wire(answer), io.BytesIO()
    with pytest.raises(ApiError, match=rf"longer than max_bytes allows \({len(BODY) - 1}\)") as error:
        save(drivers(), server, target, max_bytes=len(BODY) - 1)
    assert error.value.permanent and len(server.asked) == 1
    assert len(target.getvalue()) < len(BODY)
    assert save(drivers(), server, target, max_bytes=len(BODY)).size == len(BODY)


def test_a_redirect_is_followed(drivers: Callable[..., Driver], wire: Start) -> None:
    there = wire(reply(200, BODY))
    server = wire(reply(307, Location=f"{there.url}/elsewhere?{SIGNATURE}"))
    assert save(drivers(), server).size == len(BODY)
    assert there.targets == [f"/elsewhere?{SIGNATURE}"]


def test_redirects_end(drivers: Callable[..., Driver], wire: Start) -> None:
    server = wire(reply(302, Location="/again?" + SIGNATURE))
    with pytest.raises(ApiError, match="answered 302"):
        save(drivers(), server)
    assert len(server.asked) == 4


def test_a_redirect_out_of_tls_is_not_followed(
    drivers: Callable[..., Driver],
    wire: Start,
    tls_context: tuple[ssl.SSLContext, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tls_context[1]))
    open_to_all = wire(reply(200, BODY))
    server = wire(reply(307, Location=f"{open_to_all.url}/x"), tls=tls_context[0])
    with pytest.raises(ApiError, match="answered 307"):
        save(drivers(), server)
    assert open_to_all.asked == []


def test_an_error_of_the_file_is_not_an_error_of_the_store(
    drivers: Callable[..., Driver], wire: Start
) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    server = wire(reply(200, BODY))
    with pytest.raises(OSError, match="No space"):
        save(drivers(), server, Full())
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        reply(200, BODY),
        cut(BODY[:10], len(BODY)),
        reply(403, PLAIN.encode()),
        reply(404),
        reply(503),
        reply(307, Location=f"/moved?{SIGNATURE}"),
        reply(307, Location=f"http://:bad:{PLAIN}"),
        reset,
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nnonsense\r\n x\r\n\r\nabc"),
        raw(b"nonsense\r\n\r\n"),
        None,
    ],
    ids=[
        "fine", "cut", "403", "404", "503", "redirects", "redirect to nowhere", "reset", "odd header",
        "no HTTP", "refused",
    ],
)  # fmt: skip
def test_the_signature_stands_in_no_log_and_no_exception(
    drivers: Callable[..., Driver], wire: Start, caplog: pytest.LogCaptureFixture, answer: Answer | None
) -> None:
    caplog.set_level(logging.DEBUG)
    base = wire(answer).url if answer is not None else NOWHERE
    url = f"{base}/bucket/key?{SIGNATURE}"
    failure, text = None, ""
    try:
        download(drivers(), WHAT, lambda: url, io.BytesIO(), max_bytes=10**6)
    except RunsError as error:
        failure, text = error, "".join(traceback.format_exception(error)) + repr(error)
    assert failure is None or (failure.__context__ is None and WHAT in text)
    assert answer is None or "urllib3.connectionpool" in {record.name for record in caplog.records}
    assert PLAIN not in caplog.text + text
    assert "bucket/key" not in caplog.text + text


@pytest.mark.parametrize("url", ["", "bucket/key?5up3r", "http://", "ftp://x/5up3r", "http://[5up3r/"])
def test_an_address_of_no_use_is_not_quoted(drivers: Callable[..., Driver], url: str) -> None:
    with pytest.raises(ConnectionFailed, match="broke off") as error:
        download(drivers(), WHAT, lambda: url, io.BytesIO(), max_bytes=1)
    assert PLAIN not in "".join(traceback.format_exception(error.value))


def test_the_connections_proxy_is_used(drivers: Callable[..., Driver], wire: Start) -> None:
    proxy, server = wire(reply(200, BODY)), wire(reply(500))
    driver = drivers()
    driver.api.proxy = proxy.url
    assert save(driver, server).size == len(BODY)
    assert proxy.targets == [presigned(server)] and server.asked == []


def test_the_environments_proxy_is_used(
    drivers: Callable[..., Driver], wire: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, server = wire(reply(200, BODY)), wire(reply(500))
    monkeypatch.setenv("http_proxy", proxy.url)
    assert save(drivers(), server).size == len(BODY)
    assert proxy.targets == [presigned(server)] and server.asked == []


@pytest.mark.no_cover  # several times as quick; other tests run each line
@needs_proc
def test_fifty_megabytes_take_little_memory(wire: Start) -> None:
    """The highest resident memory of a process of its own, beyond what it has before the download."""
    part, parts = os.urandom(2**20), 50

    def send(connection: Any, asked: Any) -> bool:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (parts * len(part)))
        for _ in range(parts):
            connection.sendall(part)
        return True

    digest = hashlib.sha256()
    for _ in range(parts):
        digest.update(part)
    script = """
        import sys, tempfile
        from airflow_provider_runs.core.download import download
        from airflow_provider_runs.core.drivers import Driver
        from airflow_provider_runs.core.connection import Settings
        from tests.core.conftest import Service
        from tests.memory import forget_peak, peak

        driver = Driver(Service(Settings("testing", "http://127.0.0.1:9")))

        def save(url):
            with tempfile.TemporaryFile() as file:
                return download(driver, "it", lambda: url, file, max_bytes=10**9)

        save(sys.argv[2])
        before = forget_peak()
        got = save(sys.argv[1])
        print(got.size, got.sha256, peak() - before)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), wire(send).url, wire(reply()).url],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    size, sha256, grown = ran.stdout.split()
    assert (int(size), sha256) == (parts * len(part), digest.hexdigest())
    assert int(grown) < 20_000


def test_the_count_of_bytes_does_not_rely_on_the_library(
    drivers: Callable[..., Driver], wire: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with urllib3 before 2.0, which takes the end of a connection for the end of the body."""
    monkeypatch.setattr("urllib3.response.HTTPResponse._init_length", lambda *arguments: None)
    server = wire(cut(BODY[:1000], len(BODY)))
    with pytest.raises(ConnectionFailed, match=f"broke off after 1000 of {len(BODY)} bytes"):
        save(drivers(), server)


def test_an_address_without_a_path_blanks_no_log(
    drivers: Callable[..., Driver], wire: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = wire(reply(200, BODY))
    download(drivers(), WHAT, lambda: server.url, io.BytesIO(), max_bytes=10**6)
    assert '"GET / HTTP/1.1" 200' in caplog.text


def test_a_file_of_certificates_that_is_missing_is_told(drivers: Callable[..., Driver], wire: Start) -> None:
    with pytest.raises(ConnectionFailed, match="ca_bundle cannot be used") as caught:
        save(drivers(ca_bundle="/missing.pem"), wire(reply(200, BODY)))
    assert not caught.value.sent


@pytest.mark.parametrize("drip", DRIPS.values(), ids=DRIPS)
def test_a_store_that_sends_byte_after_byte_does_not_hold_a_download(
    drivers: Callable[..., Driver], wire: Start, drip: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "DEFAULT_RETRY", NO_RETRY)
    server, began = wire(drip), clock.monotonic()
    with pytest.raises(ConnectionFailed, match="broke off"):
        save(drivers(request_timeout=2), server)
    assert clock.monotonic() - began < 4


def test_a_slow_store_is_waited_for_as_long_as_enough_comes(
    drivers: Callable[..., Driver], wire: Start
) -> None:
    def slow(connection: Any, asked: Any) -> bool:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (10 * downloads.LEAST))
        for _ in range(10):
            clock.sleep(1.5)
            connection.sendall(b"x" * downloads.LEAST)
        return True

    began = clock.monotonic()
    assert save(drivers(request_timeout=2), wire(slow)).size == 10 * downloads.LEAST
    assert clock.monotonic() - began >= 15


@pytest.mark.parametrize(
    "head", [b"Content-Encoding: br\r\n", b"Content-Encoding: gzip\r\n"], ids=["not asked for", "broken"]
)
def test_what_cannot_be_decoded_is_no_download(
    drivers: Callable[..., Driver], wire: Start, head: bytes
) -> None:
    server = wire(raw(b"HTTP/1.1 200 OK\r\n" + head + b"Content-Length: 4\r\n\r\nabcd"))
    with pytest.raises(ConnectionFailed, match=f"{WHAT} broke off: it is "):
        save(drivers(), server)


@pytest.mark.no_cover  # several times as quick; other tests run each line
@needs_proc
def test_a_bomb_takes_as_little_as_max_bytes_allows(drivers: Callable[..., Driver], wire: Start) -> None:
    packed = bomb(100, b"x")
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    server, target, before = wire(raw(head + packed)), io.BytesIO(), forget_peak()
    with pytest.raises(ApiError, match="longer than max_bytes allows"):
        save(drivers(), server, target, max_bytes=10**6)
    assert len(target.getvalue()) <= 10**6 and peak() - before < 40_000


def test_the_body_of_a_redirect_is_not_read(drivers: Callable[..., Driver], wire: Start) -> None:
    sent: list[int] = []
    head = b"HTTP/1.1 302 Found\r\nLocation: ftp://x/\r\nContent-Length: %d\r\n\r\n" % (200 * 2**20)
    with pytest.raises(ApiError, match="answered 302"):
        save(drivers(), wire(flood(head, b"x" * 2**20, 200, sent)), max_bytes=1000)
    assert len(sent) < 50


def test_the_length_of_a_file_is_not_read_from_5000_digits(
    drivers: Callable[..., Driver], wire: Start
) -> None:
    server = wire(raw(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nabcd"))
    with pytest.raises(RunsError):
        save(drivers(), server)
