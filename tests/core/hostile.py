"""Answers, byte for byte, that no server should give."""

from __future__ import annotations

import gzip
import random
import zlib

from airflow_provider_runs.core import clock
from tests.core.conftest import Answer, Asked, raw

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
GZIPPED = OK + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n"
CHUNKS = OK + b"Transfer-Encoding: chunked\r\n\r\n"

UNREADABLE = {
    "two lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
    "a negative chunk": CHUNKS + b"-5\r\nhello\r\n0\r\n\r\n",
    "a chunk that is none": CHUNKS + b"zz\r\nhello\r\n0\r\n\r\n",
    "a length of 5000 digits": OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
    "a negative length": OK + b"Content-Length: -3\r\n\r\n{}",
    "a status that is none": b"HTTP/1.1 abc OK\r\n\r\n",
    "a status of 5000 digits": b"HTTP/1.1 " + b"9" * 5000 + b" OK\r\n\r\n",
    "a header without end": OK + b"X-A: " + b"a" * 200_000,
    "a thousand headers": OK + b"X-A: a\r\n" * 1000 + b"Content-Length: 2\r\n\r\n{}",
    "broken gzip": OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    "half of gzip": OK
    + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n"
    + gzip.compress(b"{}", mtime=0)[:-9],
    "an encoding that was not asked for": OK + b"Content-Encoding: br\r\nContent-Length: 2\r\n\r\n{}",
    "zeros": b"\0" * 100,
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
}
"""Answers that are no answer; some library takes one or another of them for an empty one."""

ODD = {
    "a redirect to nowhere": b"HTTP/1.1 302 Found\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n",
    "a redirect in bytes": b"HTTP/1.1 302 Found\r\nLocation: \xff\r\nContent-Length: 0\r\n\r\n",
    "a header in bytes": OK + b"X-A: \xff\r\nContent-Length: 2\r\n\r\n{}",
    "a cookie that is none": OK + b"Set-Cookie: \xff=;=;;\r\nContent-Length: 2\r\n\r\n{}",
    "a status of a thousand": b"HTTP/1.1 999 What\r\nContent-Length: 2\r\n\r\n{}",
    "an error in an encoding that was not asked for": (
        b"HTTP/1.1 500 No\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\n{}"
    ),
}
"""Answers that can be read, with something in them that a library may stumble over."""


def dripping(head: bytes, piece: bytes, seconds: float = 0.5) -> Answer:
    """Answer by a little every now and then, without end."""

    def answer(connection: object, asked: Asked) -> bool:
        connection.sendall(head)  # type: ignore[attr-defined]
        while True:
            clock.sleep(seconds)
            connection.sendall(piece)  # type: ignore[attr-defined]

    return answer


DRIPS = {
    "body": dripping(OK + b"Content-Length: 100000\r\n\r\n", b" "),
    "header": dripping(OK + b"X-A: ", b"a"),
    "headers": dripping(OK, b"X-A: a\r\n"),
    "100 Continue": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "chunks": dripping(CHUNKS, b"1\r\n \r\n"),
    "size of a chunk": dripping(CHUNKS, b"0"),
}
"""Answers of which something comes every half second, for ever."""


def flood(head: bytes, piece: bytes, count: int, sent: list[int]) -> Answer:
    """Send a body of many pieces, and note how many of them went out."""

    def answer(connection: object, asked: Asked) -> bool:
        connection.sendall(head)  # type: ignore[attr-defined]
        for number in range(count):
            sent.append(number)
            connection.sendall(piece)  # type: ignore[attr-defined]
        return False

    return answer


def bomb(megabytes: int, unit: bytes) -> bytes:
    """Return gzip that stands for so many megabytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = (unit * (2**20 // len(unit) + 1))[: 2**20]
    return b"".join(packer.compress(block) for _ in range(megabytes)) + packer.flush()


_GOOD = (
    OK + b"Content-Length: 31\r\n\r\n" + b'{"id": "r1", "status": "going"}',
    CHUNKS + b'1f\r\n{"id": "r1", "status": "going"}\r\n0\r\n\r\n',
    GZIPPED + gzip.compress(b'{"id": "r1"}', mtime=0),
    b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 204 None\r\n\r\n",
)
_TOKENS = (
    b"\r\n", b"\r", b"\n", b"\0", b":", b"-1", b"0", b"1\r\n", b"\xff", b" ", b"%", b"{", b"[" * 3000,
    b"Content-Length: 5\r\n", b"Location: http://[\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Content-Encoding: deflate\r\n", b"Connection: close\r\n", b"Retry-After: \xff\r\n",
    b"Set-Cookie: a\r\n", b"Upgrade: websocket\r\n", b"HTTP/1.1 101 X\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n", b"9" * 5000, b"a" * 70_000,
)  # fmt: skip


def mutated(seed: int) -> Answer:
    """Return an answer that was good before something happened to it, the same one for each seed."""
    chance = random.Random(seed)
    answer = chance.choice((*_GOOD, *UNREADABLE.values(), *ODD.values()))
    for _ in range(chance.randint(0, 4)):
        at = chance.randint(0, min(len(answer), 400))
        match chance.randint(0, 3):
            case 0:
                answer = answer[:at] + chance.choice(_TOKENS) + answer[at:]
            case 1:
                answer = answer[:at] + answer[at + chance.randint(1, 8) :]
            case 2:
                answer = answer[:at] + chance.randbytes(chance.randint(1, 4)) + answer[at:]
            case _:
                answer = answer[:at]
    return raw(answer)
