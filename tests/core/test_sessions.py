"""Certificates, proxies and timeouts of a connection: both libraries do the same with them."""

from __future__ import annotations

import asyncio
import io
import socket
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from airflow_provider_runs.core import sessions
from airflow_provider_runs.core.connection import Settings
from airflow_provider_runs.core.download import download
from airflow_provider_runs.core.drivers import AsyncDriver, Driver
from airflow_provider_runs.core.errors import ConnectionFailed
from airflow_provider_runs.core.http import Flow, Request, Response
from airflow_provider_runs.core.retry import NO_RETRY
from tests.core.conftest import Connect, Service, Wire, reply

Start = Callable[..., Wire]
PASSPHRASE = b"hush"


def ask(url: str) -> Flow[Response]:
    return (yield Request("GET", f"{url}/runs", safe_to_repeat=True, authenticated=False))


class Authority:
    """Signs certificates for 127.0.0.1, and writes them to files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / "authority.pem"
        self.certificate = self._sign(folder.name, self.key, is_authority=True)
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, passphrase: bytes | None = None) -> tuple[str, str]:
        """Return the files of a certificate and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        shown, secret = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        shown.write_bytes(self._sign(name, key).public_bytes(serialization.Encoding.PEM))
        hidden = (
            serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        )
        secret.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
        )
        return str(shown), str(secret)

    def server(self, *, clients: Authority | None = None) -> ssl.SSLContext:
        """Return a server's context; one that asks clients for a certificate of an authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue("server"))
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients.file)
        return context

    def _sign(
        self, name: str, key: ec.EllipticCurvePrivateKey, *, is_authority: bool = False
    ) -> x509.Certificate:
        def named(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

        now = datetime.now(UTC)
        address = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
        return (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named(self.folder.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(address, False)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), True)
            .sign(self.key, hashes.SHA256())
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def other(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "other")


async def refused(connect: Connect, url: str, **extra: Any) -> str:
    """Ask in vain; return why, having seen that nothing was sent."""
    with pytest.raises(ConnectionFailed) as caught:
        await connect(url, extra=extra).drive(ask(url), NO_RETRY)
    assert not caught.value.sent
    return str(caught.value)


# Whom the service is


async def test_a_private_authority_is_trusted_where_the_connection_names_it(
    wire: Start, connect: Connect, authority: Authority
) -> None:
    server = wire(tls=authority.server())
    assert "certificate verify failed" in (await refused(connect, server.url)).lower()
    driver = connect(server.url, extra={"ca_bundle": str(authority.file)})
    assert (await driver.drive(ask(server.url))).status == 200


async def test_a_folder_of_authorities_is_trusted(
    wire: Start, connect: Connect, authority: Authority, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    # The name by which OpenSSL looks for it.
    digest = _subject_hash(authority)
    (folder / f"{digest}.0").write_bytes(authority.file.read_bytes())
    server = wire(tls=authority.server())
    driver = connect(server.url, extra={"ca_bundle": str(folder)})
    assert (await driver.drive(ask(server.url))).status == 200


def _subject_hash(authority: Authority) -> str:
    import subprocess

    command = ["openssl", "x509", "-hash", "-noout", "-in", str(authority.file)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
async def test_what_the_environment_trusts_is_trusted(
    wire: Start, connect: Connect, authority: Authority, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, str(authority.file))
    server = wire(tls=authority.server())
    assert (await connect(server.url).drive(ask(server.url))).status == 200


async def test_the_connections_authority_counts_beside_those_of_the_environment(
    wire: Start,
    connect: Connect,
    authority: Authority,
    other: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other.file))
    for server in (wire(tls=authority.server()), wire(tls=other.server())):
        driver = connect(server.url, extra={"ca_bundle": str(authority.file)})
        assert (await driver.drive(ask(server.url))).status == 200


async def test_the_name_in_a_certificate_must_be_the_services(
    wire: Start, connect: Connect, authority: Authority
) -> None:
    server = wire(tls=authority.server())
    url = server.url.replace("127.0.0.1", "localhost")
    assert "localhost" in await refused(connect, url, ca_bundle=str(authority.file))


# Who we are


async def test_a_client_certificate_is_shown_to_the_service(
    wire: Start, connect: Connect, authority: Authority, other: Authority
) -> None:
    server = wire(tls=authority.server(clients=other))
    certificate, key = other.issue("client")
    trusted = {"ca_bundle": str(authority.file)}
    both = Path(certificate).with_name("both.pem")
    both.write_bytes(Path(certificate).read_bytes() + Path(key).read_bytes())
    for extra in ({"client_cert": certificate, "client_key": key}, {"client_cert": str(both)}):
        driver = connect(server.url, extra=trusted | extra)
        assert (await driver.drive(ask(server.url))).status == 200
    with pytest.raises(ConnectionFailed):
        await connect(server.url, extra=trusted).drive(ask(server.url), NO_RETRY)


async def test_a_file_that_cannot_be_used_is_told(
    connect: Connect, authority: Authority, tmp_path: Path
) -> None:
    certificate, key = authority.issue("client", PASSPHRASE)
    _, another = authority.issue("another")
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    missing = str(tmp_path / "missing.pem")
    url = "https://127.0.0.1:9"
    for extra, named, said in (
        ({"ca_bundle": missing}, "ca_bundle cannot be used: " + missing, "No such file"),
        ({"ca_bundle": str(text)}, "ca_bundle cannot be used: " + str(text), "certificate"),
        ({"client_cert": missing}, "client_cert cannot be used: " + missing, "No such file"),
        ({"client_cert": certificate, "client_key": another}, "with client_key " + another, "mismatch"),
        ({"client_cert": certificate, "client_key": key}, "with client_key " + key, "passphrase"),
    ):
        told = await refused(connect, url, **extra)
        assert told.startswith("connection 'testing_default': ")
        assert named in told and said.lower() in told.lower(), told


def test_the_environments_bundle_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/missing.pem")
    with pytest.raises(ConnectionFailed, match=r"the environment.s CA bundle cannot be used: /missing\.pem"):
        sessions.tls_context(Service(Settings("c", "https://host")))


async def test_a_renewed_certificate_is_used_without_a_new_session(
    wire: Start, authority: Authority, other: Authority
) -> None:
    server = wire(tls=authority.server(clients=other))
    stranger, key = authority.issue("client")
    extra = {"ca_bundle": str(authority.file), "client_cert": stranger, "client_key": key}
    driver = AsyncDriver(Service(Settings("testing_default", server.url, extra=extra)))
    try:
        with pytest.raises(ConnectionFailed):
            await driver.drive(ask(server.url), NO_RETRY)
        for old, new in zip((stranger, key), other.issue("client"), strict=True):
            Path(old).write_bytes(Path(new).read_bytes())
        await driver.renew_certificates()
        assert (await driver.drive(ask(server.url), NO_RETRY)).status == 200
    finally:
        await driver.close()


async def test_reading_certificates_does_not_stop_an_event_loop(
    wire: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def noted(*arguments: Any) -> ssl.SSLContext:
        threads.append(threading.current_thread())
        return make(*arguments)

    make = sessions.tls_context
    monkeypatch.setattr("airflow_provider_runs.core.drivers.tls_context", noted)
    server = wire()
    driver = AsyncDriver(Service(Settings("c", server.url)))
    await asyncio.gather(*(driver.drive(ask(server.url)) for _ in range(3)))
    await driver.close()
    assert len(threads) == 1 and threads[0] is not threading.main_thread()


def test_a_store_is_trusted_alike_and_shown_no_client_certificate(
    wire: Start, authority: Authority, other: Authority
) -> None:
    certificate, key = other.issue("client")
    context = authority.server()
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(other.file)
    shown: list[Any] = []

    def answer(connection: socket.socket, asked: Any) -> bool:
        assert isinstance(connection, ssl.SSLSocket)
        shown.append(connection.getpeercert())
        return reply(200, b'"content"')(connection, asked)

    service, store = wire(answer, tls=context), wire(answer, tls=context)
    extra = {"ca_bundle": str(authority.file), "client_cert": certificate, "client_key": key}
    driver = Driver(Service(Settings("c", service.url, extra=extra)))
    driver.drive(ask(service.url))
    target = io.BytesIO()
    download(driver, "a file", lambda: f"{store.url}/file", target, max_bytes=100)
    driver.close()
    assert target.getvalue() == b'"content"'
    assert shown[0] and not shown[1]


# Through a proxy


class Proxy:
    """A proxy that opens tunnels and counts them."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.tunnels: list[str] = []
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True)
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        method, target, _ = head.decode().split(" ", 2)
        assert method == "CONNECT"
        self.tunnels.append(target)
        host, _, port = target.partition(":")
        onward = socket.create_connection((host, int(port)))
        self._open += [connection, onward]
        connection.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
        threading.Thread(target=_pump, args=(onward, connection), daemon=True).start()
        _pump(connection, onward)


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while piece := source.recv(65536):
            target.sendall(piece)
    except OSError:
        pass


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
async def test_a_proxy_leads_to_a_service_with_a_private_authority(
    wire: Start, connect: Connect, authority: Authority, secure: bool
) -> None:
    server = wire(tls=authority.server())
    proxy = Proxy(authority.server() if secure else None)
    url = f"{'https' if secure else 'http'}://127.0.0.1:{proxy.port}"
    driver = connect(server.url, extra={"ca_bundle": str(authority.file), "proxy": url})
    try:
        assert (await driver.drive(ask(server.url), NO_RETRY)).status == 200
    finally:
        proxy.close()
    assert proxy.tunnels == [f"127.0.0.1:{server.port}"]
