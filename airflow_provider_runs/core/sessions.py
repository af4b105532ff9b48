"""
Sessions of requests and aiohttp that behave alike: sockets, proxies and certificates of a connection.

Both trust the authorities in the environment's ``REQUESTS_CA_BUNDLE`` or ``CURL_CA_BUNDLE``, else those of
requests and of the system (``SSL_CERT_FILE``), and beside these those in the connection's ``ca_bundle``.
"""

from __future__ import annotations

import os
import socket
import ssl
from functools import lru_cache
from http.cookiejar import DefaultCookiePolicy
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from airflow_provider_runs.core.api import RunApi
from airflow_provider_runs.core.connection import Certificates
from airflow_provider_runs.core.errors import ConnectionFailed
from airflow_provider_runs.core.transfer import TimedConnection, cut_urls_in_logs

if TYPE_CHECKING:
    import aiohttp
    import requests

TRUSTED = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Variables of the environment that name authorities. Of the first two the first that is set counts alone."""
CONNECTIONS = 100
"""Connections of one session at once at most: more than are asked for at a time."""


def tls_context(api: RunApi, *, shows_client_cert: bool = True) -> ssl.SSLContext:
    """
    Return what both libraries verify services by. It reads files, which takes some hundredths of a second.

    :param api: the service's description for one connection.
    :param shows_client_cert: whether the connection's client certificate is shown to who asks for one.
    :raises ConnectionFailed: if a file cannot be used.
    """
    environment = tuple(os.environ.get(name) for name in TRUSTED)
    if api.certificates == Certificates():
        return _shared(environment)
    context = _trusting(environment)
    load_certificates(context, api, shows_client_cert=shows_client_cert)
    return context


def _trusting(environment: tuple[str | None, ...]) -> ssl.SSLContext:
    """Return a new context that trusts what these values of :data:`TRUSTED` say."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if chosen := environment[0] or environment[1]:
        _trust(context, chosen, "the environment's CA bundle")
        return context
    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    context.load_default_certs()
    context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
    return context


# Reading all authorities takes some hundredths of a second, and most connections have none of their own.
_shared = lru_cache(8)(_trusting)


def load_certificates(context: ssl.SSLContext, api: RunApi, *, shows_client_cert: bool = True) -> None:
    """
    Read the connection's own certificates, for the connections that are made from now on.

    :param context: what they are added to.
    :param api: the service's description for one connection.
    :param shows_client_cert: as for :func:`tls_context`.
    :raises ConnectionFailed: if a file cannot be used.
    """
    files, named = api.certificates, f"connection {api.settings.conn_id!r}:"
    if files.ca_bundle:
        _trust(context, files.ca_bundle, f"{named} ca_bundle")
    if files.client_cert and shows_client_cert:
        try:
            context.load_cert_chain(files.client_cert, files.client_key, password=_no_passphrase)
        except (OSError, ValueError) as error:
            key = f" with client_key {files.client_key}" if files.client_key else ""
            raise _unusable(f"{named} client_cert", f"{files.client_cert}{key}", error) from error


def _trust(context: ssl.SSLContext, path: str, named: str) -> None:
    try:
        context.load_verify_locations(**{"capath" if os.path.isdir(path) else "cafile": path})
    except (OSError, ValueError) as error:
        raise _unusable(named, path, error) from error


def _unusable(named: str, path: str, error: Exception) -> ConnectionFailed:
    # The files may be missing for a moment only, while something renews them.
    return ConnectionFailed(f"{named} cannot be used: {path}: {error}", sent=False)


def _no_passphrase() -> str:
    # OpenSSL would ask for it at the terminal.
    raise ValueError("the key has a passphrase; give it without one")


def no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """
    Stand in for requests' own authentication, which would replace ours by a ``.netrc`` entry.

    :param request: what is sent.
    """
    return request


def proxies(proxy: str | None) -> dict[str, str] | None:
    """
    Return a proxy as requests wants it; None leaves the choice to the environment.

    :param proxy: its URL.
    """
    return None if proxy is None else {"http": proxy, "https": proxy}


def environment_proxy(url: str) -> str | None:
    """
    Return the environment's proxy for an address as requests chooses it. aiohttp would read ``.netrc``.

    :param url: the address.
    """
    from requests.utils import get_environ_proxies, select_proxy

    proxy = select_proxy(url, get_environ_proxies(url))
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def usable_proxy(proxy: str | None, url: str) -> str | None:
    """
    Return the proxy for an address, None if there is none.

    :param proxy: the connection's; None: the environment's.
    :param url: the address.
    :raises ConnectionFailed: if it is malformed. A library would quote a part of its password as its port.
    """
    chosen = proxy or environment_proxy(url)
    try:
        parts = urlsplit(chosen or "http://none")
        unquote(parts.netloc).encode("latin-1")
        is_usable = (
            bool(parts.hostname) and parts.port != 0 and "@" not in parts.path + parts.query + parts.fragment
        )
    except ValueError:
        is_usable = False
    if not is_usable:
        whose = "the environment's proxy" if proxy is None else "the connection's proxy"
        raise ConnectionFailed(
            f"{whose} cannot be used: it is no URL of the form http://user:password@host:port "
            "(characters such as / and @ in a login are written %2F and %40, and none is outside Latin-1)",
            sent=False,
        )
    return chosen


def requests_session(api: RunApi) -> requests.Session:
    """
    Return a session for the synchronous driver.

    :param api: the service's description for one connection.
    :raises ConnectionFailed: if a file of certificates cannot be used.
    """
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3 import PoolManager

    class Session(requests.Session):
        def get_redirect_target(self, response: requests.Response) -> None:
            # It would read the body of a redirect to prepare a request that nobody sends.
            return None

    class Adapter(HTTPAdapter):
        def __init__(self, context: ssl.SSLContext) -> None:
            self._options: dict[str, Any] = {"socket_options": _keepalive_options(), "ssl_context": context}
            super().__init__(pool_maxsize=16, max_retries=0)

        def init_poolmanager(
            self, connections: int, maxsize: int, block: bool = False, **kwargs: Any
        ) -> None:
            super().init_poolmanager(connections, maxsize, block, **self._options, **kwargs)
            self._prepare(self.poolmanager)

        def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
            if proxy.startswith("https:"):
                kwargs["proxy_ssl_context"] = others
            manager = super().proxy_manager_for(proxy, **self._options, **kwargs)
            self._prepare(manager)
            return manager

        def _prepare(self, manager: PoolManager) -> None:
            # Made of what is there: a SOCKS proxy has connections of its own.
            manager.pool_classes_by_scheme = {
                scheme: _timed(pool) for scheme, pool in manager.pool_classes_by_scheme.items()
            }

    others = tls_context(api, shows_client_cert=False)
    cut_urls_in_logs()
    session = Session()
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    for scheme in ("http://", "https://"):
        session.mount(scheme, Adapter(others))
    if api.certificates.client_cert:
        # Stores to which a download leads are not shown it.
        parts = urlsplit(api.settings.base_url)
        session.mount(f"{parts.scheme}://{parts.netloc}/", Adapter(tls_context(api)))
    return session


@lru_cache(16)
def _timed(pool: Any) -> type:
    """Return a class of pools like another one whose connections state what they send."""
    connection = type("Timed" + pool.ConnectionCls.__name__, (TimedConnection, pool.ConnectionCls), {})
    return type("Timed" + pool.__name__, (pool,), {"ConnectionCls": connection})


def aiohttp_session(context: ssl.SSLContext, limit: int = CONNECTIONS) -> aiohttp.ClientSession:
    """
    Return a session for the asynchronous driver. It decodes no body.

    The ``trace_request_ctx`` of a request is called when its first byte goes out.

    :param context: what services are verified by.
    :param limit: connections at once at most; 0 is no limit.
    """
    import aiohttp

    def connect(address: Any) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = socket.socket(family=family, type=kind, proto=protocol)
        for option in _keepalive_options():
            made.setsockopt(*option)
        return made

    async def begin(session: aiohttp.ClientSession, context: SimpleNamespace, params: Any) -> None:
        context.trace_request_ctx()

    # Not on_request_start: that is before the connection. No other moment is nearer to the first byte.
    tracing = aiohttp.TraceConfig()
    tracing.on_request_headers_sent.append(begin)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=limit, socket_factory=connect, ssl=context),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trace_configs=[tracing],
    )


def _keepalive_options() -> list[tuple[int, int, int]]:
    """Return socket options that keep a silent connection alive while the service works on its answer."""
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 60), ("TCP_KEEPCNT", 5)):
        if number := getattr(socket, name, None):
            options.append((socket.IPPROTO_TCP, number, value))
    return options
