from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest

from airflow_provider_runs.core.api import RunApi, Token
from airflow_provider_runs.core.connection import ConnectionSpec, Field, Settings
from airflow_provider_runs.core.drivers import AsyncDriver, Driver
from airflow_provider_runs.core.errors import ApiError, Unauthorized
from airflow_provider_runs.core.http import Flow, Request, Response, read_object
from airflow_provider_runs.core.retry import RetryPolicy
from airflow_provider_runs.core.run import Run, RunState, StatusTable
from airflow_provider_runs.core.schedule import Pace

T = TypeVar("T")
FAST = RetryPolicy(attempts=3, base=0.01, cap=0.02)
SPEC = ConnectionSpec(
    conn_type="testing",
    hook_name="Testing",
    default_host=None,
    default_scheme="http",
    relabeling={"host": "Server"},
    placeholders={"host": "http://testing.example.com"},
    hidden=("schema",),
    own_fields=(
        Field("region", "Region", description="Where the runs are."),
        Field("own_token", "Own token", secret=True),
    ),
)


class Service(RunApi):
    """A service without authentication."""

    service = "Testing"
    connection = SPEC
    statuses = StatusTable({RunState.RUNNING: ("going",), RunState.SUCCEEDED: ("done",)})
    pace = Pace(min_poll_interval=1, poll_interval=60, max_requests_per_minute=100_000)
    scope_fields = ("region",)

    def trigger(self, arguments: Mapping[str, Any], key: str | None = None) -> Flow[Run]:
        body = self.trigger_body(arguments, key)
        response = yield self.request("POST", "/runs", json=body, safe_to_repeat=key is not None)
        return self._run(response)

    def get(self, run_id: str) -> Flow[Run]:
        response = yield self.request("GET", f"/runs/{run_id}", safe_to_repeat=True)
        return self._run(response)

    def check(self) -> Flow[str]:
        response = yield self.request("GET", "/", safe_to_repeat=True)
        return str(response.status)

    def trigger_body(self, arguments: Mapping[str, Any], key: str | None) -> dict[str, Any]:
        return {"key": key, **arguments}

    def request(self, method: str, path: str, **kwargs: Any) -> Request:
        return Request(method, self.settings.base_url + path, **kwargs)

    def _run(self, response: Response) -> Run:
        if response.status in {401, 403}:
            raise Unauthorized("Testing refuses", status=response.status)
        if response.status != 200:
            raise ApiError(f"Testing answered {response.status}", status=response.status)
        answer = read_object(response, self.service)
        return Run(answer["id"], self.statuses.state(answer["status"]), answer["status"])


class TokenService(Service):
    """A service that gives a bearer for login and password."""

    lifetime: ClassVar[float] = 3600.0

    def authenticates(self) -> bool:
        return True

    def authenticate(self) -> Flow[None]:
        response = yield self.request("POST", "/token", json={}, safe_to_repeat=True, authenticated=False)
        if response.status != 200:
            raise ApiError(f"Testing gave no token: {response.status}", status=response.status)
        self.token = Token(read_object(response, self.service)["token"], self.now(), self.lifetime)

    def auth_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token.value if self.token else ''}"}


@dataclass(frozen=True)
class Asked:
    """A request as it came over the wire."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = Callable[[socket.socket, Asked], bool]
"""Answer a request; tell whether the connection stays open."""


def reply(status: int = 200, body: Any = None, **headers: str) -> Answer:
    """Answer as a good server does; a body that is not bytes is sent as JSON."""
    payload = body if isinstance(body, bytes) else json.dumps(body if body is not None else {}).encode()
    shown = {name.replace("_", "-"): value for name, value in headers.items()}
    shown = {"Content-Type": "application/json", "Content-Length": str(len(payload)), **shown}
    lines = "".join(f"{name}: {value}\r\n" for name, value in shown.items())
    whole = f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode() + payload

    def answer(connection: socket.socket, asked: Asked) -> bool:
        connection.sendall(whole)
        return True

    return answer


def raw(text: bytes) -> Answer:
    """Send bytes as they are and close."""

    def answer(connection: socket.socket, asked: Asked) -> bool:
        connection.sendall(text)
        return False

    return answer


def chunked(*parts: bytes, end: bytes = b"0\r\n\r\n") -> Answer:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + end
    return raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + body)


def gzipped(value: Any) -> Answer:
    return reply(200, gzip.compress(json.dumps(value).encode()), Content_Encoding="gzip")


def reset(connection: socket.socket, asked: Asked) -> bool:
    """Reset the connection instead of an answer."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def hang_up(connection: socket.socket, asked: Asked) -> bool:
    """Close the connection instead of an answer."""
    return False


def silence(connection: socket.socket, asked: Asked) -> bool:
    """Say nothing until the client goes."""
    connection.recv(1)
    return False


@dataclass
class Wire:
    """
    A server that answers each request with the next answer of its script, the last one for ever.

    A function as script is called with the request and returns the answer.
    """

    script: deque[Answer] | Callable[[Asked], Answer]
    tls: ssl.SSLContext | None = None
    reset_at_first_byte: bool = False
    greeting: bytes = b""
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def targets(self) -> list[str]:
        return [asked.target for asked in self.asked]

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)
            self.connections += 1
        talk = connection
        try:
            if self.reset_at_first_byte and connection.recv(1):
                reset(connection, Asked("", "", {}, b""))
                return
            connection.sendall(self.greeting)
            if self.tls:
                talk = self.tls.wrap_socket(connection, server_side=True)
            while (asked := self._read(talk)) is not None:
                if not self._next(asked)(talk, asked):
                    break
        except OSError:
            pass
        finally:
            with self._lock:
                self._open = {other for other in self._open if other.fileno() not in (-1, talk.fileno())}
            talk.close()

    def _next(self, asked: Asked) -> Answer:
        with self._lock:
            self.asked.append(asked)
            if not isinstance(self.script, deque):
                return self.script(asked)
            return self.script.popleft() if len(self.script) > 1 else self.script[0]

    @staticmethod
    def _read(connection: socket.socket) -> Asked | None:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (more := connection.recv(65536)):
                return None
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        pairs = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        while len(body) < int(headers.get("content-length", "0")):
            if not (more := connection.recv(65536)):
                return None
            body += more
        return Asked(method, target, headers, body)


@pytest.fixture
def wire() -> Iterator[Callable[..., Wire]]:
    """Start servers, each with the answers that it gives."""
    started: list[Wire] = []

    def start(*answers: Answer, by: Callable[[Asked], Answer] | None = None, **kwargs: Any) -> Wire:
        started.append(Wire(by or deque(answers or (reply(),)), **kwargs))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="session")
def tls_context(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A server's context with a certificate for 127.0.0.1 that nobody has signed, and that certificate."""
    from ipaddress import IPv4Address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    shown, secret = folder / "certificate.pem", folder / "key.pem"
    shown.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown, secret)
    return context, shown


class Threads:
    """The driver with requests, called from threads as the one with aiohttp is from tasks."""

    def __init__(self, api: RunApi) -> None:
        self.api = api
        self.driver = Driver(api)
        self._pool = ThreadPoolExecutor(20)

    async def drive(self, flow: Flow[T], retry: RetryPolicy = FAST) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self.driver.drive, flow, retry)

    async def close(self) -> None:
        self.driver.close()
        self._pool.shutdown()


class Tasks:
    """The driver with aiohttp."""

    def __init__(self, api: RunApi) -> None:
        self.api = api
        self.driver = AsyncDriver(api)

    async def drive(self, flow: Flow[T], retry: RetryPolicy = FAST) -> T:
        return await self.driver.drive(flow, retry)

    async def close(self) -> None:
        await self.driver.close()


AnyDriver = Threads | Tasks
Connect = Callable[..., AnyDriver]


@pytest.fixture(params=[Threads, Tasks], ids=["requests", "aiohttp"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Make drivers, of each kind in turn, for a base URL."""
    made: list[AnyDriver] = []

    def make(base_url: str, kind: type[Service] = Service, **settings: Any) -> AnyDriver:
        extra = {"request_timeout": 5, **settings.pop("extra", {})}
        made.append(request.param(kind(Settings("testing_default", base_url, extra=extra, **settings))))
        return made[-1]

    yield make
    for driver in made:
        await driver.close()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep proxies and logins of the machine out of the tests."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("NETRC", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
