"""
The only I/O: run a :data:`~airflow_provider_runs.core.http.Flow` with requests or with aiohttp.

Both drivers do the same: get a token once for all who wait for one (and once more when the service refuses
it), send with connect and read timeout, turn every transport error into
:class:`~airflow_provider_runs.core.errors.ConnectionFailed`, and repeat what is safe to repeat. They follow
no redirects, so that credentials never reach another host, keep no cookies, and read proxies but no
``.netrc`` from the environment.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from airflow_provider_runs import __version__
from airflow_provider_runs.core.api import RunApi, Token
from airflow_provider_runs.core.errors import ApiError, ConnectionFailed, RunsError
from airflow_provider_runs.core.http import Flow, Request, Response
from airflow_provider_runs.core.retry import RetryPolicy, may_repeat, retry_after

if TYPE_CHECKING:
    import aiohttp
    import requests
    from tenacity import RetryCallState

T = TypeVar("T")
CONNECT_TIMEOUT = 10.0
USER_AGENT = f"airflow-provider-runs/{__version__}"
DEFAULT_RETRY = RetryPolicy()


def _keepalive_options() -> list[tuple[int, int, int]]:
    """Return socket options that keep a silent connection alive while the service works on its answer."""
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 60), ("TCP_KEEPCNT", 5)):
        if number := getattr(socket, name, None):
            options.append((socket.IPPROTO_TCP, number, value))
    return options


class _UrlsInLogs(logging.Filter):
    """Keep secrets out of urllib3's debug messages, which quote every URL. Airflow masks not all its logs."""

    def __init__(self) -> None:
        super().__init__()
        self._secrets: set[str] = set()

    def hide(self, secret: str) -> None:
        self._secrets.add(secret)
        logging.getLogger("urllib3.connectionpool").addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        for secret in tuple(self._secrets):
            text = text.replace(secret, "***")
        record.msg, record.args = text, ()
        return True


_urls_in_logs = _UrlsInLogs()


class _Exchange:
    """One request's way to its answer, apart from the I/O that each driver adds."""

    def __init__(self, api: RunApi, request: Request, retry: RetryPolicy) -> None:
        self.api = api
        self.request = request
        self.retry = retry
        self._maybe_sent = False
        self.timeout = request.timeout or api.request_timeout
        self.renewed = False
        """Whether the token was got for this very request, so that a further one would be no better."""
        self._used: Token | None = None
        self._refused: Token | None = None
        self._authenticates = request.authenticated and api.authenticates()

    def needs_token(self) -> bool:
        if not self._authenticates or self.renewed:
            return False
        token = self.api.token
        return token is self._refused or not self.api.token_is_fresh(self.request.timeout or 0.0)

    def headers(self) -> dict[str, str]:
        """Return the headers for the next attempt, or refuse it where the caller has stopped meanwhile."""
        if self.retry.stopped():
            raise ConnectionFailed(f"{self.request} was stopped", sent=self._maybe_sent)
        self._maybe_sent = True
        headers = {"Accept": "application/json", "User-Agent": USER_AGENT, **self.request.headers}
        if self.request.authenticated:
            self._used = self.api.token
            headers |= self.api.auth_headers()
        return headers

    def refused(self, response: Response) -> bool:
        """Tell whether another token may heal this answer. It may do so once."""
        if (
            response.status not in self.api.stale_token_statuses
            or not self._authenticates
            or self.renewed
            or self._refused is not None
        ):
            return False
        self._refused = self._used
        return True


def _judge(request: Request, policy: RetryPolicy) -> dict[str, Any]:
    """Return tenacity's arguments that repeat a request while that is safe and may help."""
    from tenacity import stop_after_attempt

    def outcome(state: RetryCallState) -> Response | BaseException:
        assert state.outcome is not None
        return state.outcome.exception() or state.outcome.result()

    def again(state: RetryCallState) -> bool:
        ended = outcome(state)
        if policy.stopped() or not isinstance(ended, (Response, ConnectionFailed)):
            return False
        return may_repeat(request, ended)

    def wait(state: RetryCallState) -> float:
        ended = outcome(state)
        assert isinstance(ended, (Response, ConnectionFailed))
        return policy.wait(state.attempt_number, ended)

    def give_up(state: RetryCallState) -> Response:
        assert state.outcome is not None
        answer: Response = state.outcome.result()
        return answer

    return {
        "stop": stop_after_attempt(policy.attempts),
        "retry": again,
        "wait": wait,
        "retry_error_callback": give_up,
    }


class Driver:
    """
    Run flows with requests. Safe to be used from several threads.

    :param api: the service's description for one connection.
    """

    def __init__(self, api: RunApi) -> None:
        self.api = api
        self._session: requests.Session | None = None
        self._opening = threading.Lock()
        self._authentication = threading.Lock()
        self._failure: RunsError | None = None
        """Why no token was got; whoever waited for it meanwhile does not ask again."""

    def drive(self, flow: Flow[T], retry: RetryPolicy = DEFAULT_RETRY) -> T:
        """
        Run a flow to its end and return its result.

        :param flow: what to do.
        :param retry: how long each request is repeated where that is safe.
        :raises RunsError: whatever the flow raises; ConnectionFailed where there is no answer.
        """
        response: Response | None = None
        try:
            request = next(flow)
            while True:
                response = None
                try:
                    response = self._exchange(request, retry)
                except RunsError as error:
                    request = flow.throw(error)
                else:
                    request = flow.send(response)
        except StopIteration as end:
            result: T = end.value
            return result
        except ApiError as error:
            if response is not None:
                error.retry_after = retry_after(response)
            raise

    def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _exchange(self, request: Request, retry: RetryPolicy) -> Response:
        from tenacity import Retrying

        exchange = _Exchange(self.api, request, retry)
        while True:
            self._authenticate(exchange, retry)
            response = Retrying(**_judge(request, retry))(self._send, exchange)
            if not exchange.refused(response):
                return response

    def _authenticate(self, exchange: _Exchange, retry: RetryPolicy) -> None:
        if not exchange.needs_token():
            return
        earlier = self._failure
        with self._authentication:
            if not exchange.needs_token():
                return
            if self._failure is not None and self._failure is not earlier:
                raise self._failure.with_traceback(None)
            try:
                self.drive(self.api.authenticate(), retry)
            except RunsError as error:
                self._failure = _unsent(error)
                raise self._failure from None
            exchange.renewed = True

    def _send(self, exchange: _Exchange) -> Response:
        import requests

        request = exchange.request
        if request.secret is not None:
            _urls_in_logs.hide(quote(request.secret, safe=""))
        try:
            with self._open().request(
                request.method,
                request.target,
                headers=exchange.headers(),
                params=dict(request.params),
                json=request.json,
                timeout=(CONNECT_TIMEOUT, exchange.timeout),
                allow_redirects=False,
                auth=_no_netrc,
            ) as answer:
                return Response(
                    answer.status_code,
                    {name.lower(): value for name, value in answer.headers.items()},
                    answer.content,
                )
        except requests.exceptions.RequestException as error:
            failure = _failed(self.api, request, error, sent=not _requests_not_sent(error))
        # Out here the library's error, which may show the URL as it was sent, is not the context of ours.
        raise failure

    def _open(self) -> requests.Session:
        with self._opening:
            if self._session is None:
                self._session = _requests_session()
            return self._session


class AsyncDriver:
    """
    Run flows with aiohttp, in the event loop in which it is first used.

    :param api: the service's description for one connection.
    """

    def __init__(self, api: RunApi) -> None:
        self.api = api
        self._session: aiohttp.ClientSession | None = None
        self._authentication = asyncio.Lock()
        self._failure: RunsError | None = None

    async def drive(self, flow: Flow[T], retry: RetryPolicy = DEFAULT_RETRY) -> T:
        """
        Run a flow to its end and return its result.

        :param flow: what to do.
        :param retry: how long each request is repeated where that is safe.
        :raises RunsError: whatever the flow raises; ConnectionFailed where there is no answer.
        """
        response: Response | None = None
        try:
            request = next(flow)
            while True:
                response = None
                try:
                    response = await self._exchange(request, retry)
                except RunsError as error:
                    request = flow.throw(error)
                else:
                    request = flow.send(response)
        except StopIteration as end:
            result: T = end.value
            return result
        except ApiError as error:
            if response is not None:
                error.retry_after = retry_after(response)
            raise

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def _exchange(self, request: Request, retry: RetryPolicy) -> Response:
        from tenacity import AsyncRetrying

        exchange = _Exchange(self.api, request, retry)
        while True:
            await self._authenticate(exchange, retry)
            response: Response = await AsyncRetrying(**_judge(request, retry))(self._send, exchange)
            if not exchange.refused(response):
                return response

    async def _authenticate(self, exchange: _Exchange, retry: RetryPolicy) -> None:
        if not exchange.needs_token():
            return
        earlier = self._failure
        async with self._authentication:
            if not exchange.needs_token():
                return
            if self._failure is not None and self._failure is not earlier:
                raise self._failure.with_traceback(None)
            try:
                await self.drive(self.api.authenticate(), retry)
            except RunsError as error:
                self._failure = _unsent(error)
                raise self._failure from None
            exchange.renewed = True

    async def _send(self, exchange: _Exchange) -> Response:
        import aiohttp

        request = exchange.request
        try:
            async with self._open().request(
                request.method,
                request.target,
                headers=exchange.headers(),
                params=dict(request.params),
                json=request.json,
                timeout=aiohttp.ClientTimeout(
                    total=CONNECT_TIMEOUT + exchange.timeout,
                    sock_connect=CONNECT_TIMEOUT,
                    sock_read=exchange.timeout,
                ),
                allow_redirects=False,
                proxy=_proxy(request.target),
            ) as answer:
                return Response(
                    answer.status,
                    {name.lower(): value for name, value in answer.headers.items()},
                    await answer.read(),
                )
        except (aiohttp.ClientError, OSError, UnicodeError) as error:
            failure = _failed(self.api, request, error, sent=not _aiohttp_not_sent(error))
        raise failure

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = _aiohttp_session()
        return self._session


def load_libraries() -> None:
    """Import what :class:`AsyncDriver` needs, for a caller whose event loop must not wait for that."""
    import aiohttp
    import requests.utils
    import tenacity

    del aiohttp, requests, tenacity


def _no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Stand in for requests' own authentication, which would replace ours by a ``.netrc`` entry."""
    return request


def _proxy(url: str) -> str | None:
    """Return the environment's proxy for an address as requests chooses it. aiohttp would read ``.netrc``."""
    from requests.utils import get_environ_proxies, select_proxy

    proxy = select_proxy(url, get_environ_proxies(url))
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def _requests_session() -> requests.Session:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

    class Connecting(HTTPConnection):
        """Marks what goes wrong before the request leaves, in a TLS handshake or a tunnel too."""

        def connect(self) -> None:
            try:
                super().connect()
            except (NewConnectionError, ConnectTimeoutError):
                raise
            except (OSError, HTTPError) as error:
                raise NewConnectionError(self, f"{type(error).__name__}: {error}") from error

    class ConnectingSecurely(Connecting, HTTPSConnection):
        pass

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connecting

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = ConnectingSecurely

    marking: dict[type, type] = {HTTPConnectionPool: Pool, HTTPSConnectionPool: SecurePool}

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, socket_options=_keepalive_options(), **kwargs)
            self._prepare(self.poolmanager)

        def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
            manager = super().proxy_manager_for(*args, socket_options=_keepalive_options(), **kwargs)
            self._prepare(manager)
            return manager

        def _prepare(self, manager: PoolManager) -> None:
            # Those of a SOCKS proxy stay: ours would pass it by.
            manager.pool_classes_by_scheme = {
                scheme: marking.get(kind, kind) for scheme, kind in manager.pool_classes_by_scheme.items()
            }

    session = requests.Session()
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    for scheme in ("http://", "https://"):
        session.mount(scheme, Adapter(pool_maxsize=16, max_retries=0))
    return session


def _aiohttp_session() -> aiohttp.ClientSession:
    import aiohttp

    def connect(address: Any) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = socket.socket(family=family, type=kind, proto=protocol)
        for option in _keepalive_options():
            made.setsockopt(*option)
        return made

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=16, socket_factory=connect),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _failed(api: RunApi, request: Request, error: BaseException, *, sent: bool) -> ConnectionFailed:
    reason = api.redact(" ".join(str(error).split())) or "no answer in time"
    return ConnectionFailed(
        f"{api.service} did not answer {request} at {api.settings.base_url}: "
        f"{type(error).__name__}: {reason}",
        sent=sent,
    )


def _unsent(error: RunsError) -> RunsError:
    """Return why no token was got, as it counts for the request that needs one: that never left."""
    if not isinstance(error, ConnectionFailed) and not (isinstance(error, ApiError) and not error.permanent):
        return error
    failed = ConnectionFailed(str(error), sent=False)
    failed.retry_after = error.retry_after
    return failed


def _requests_not_sent(error: BaseException) -> bool:
    from urllib3 import exceptions as urllib3

    cause: Any = error.args[0] if error.args else None
    if isinstance(cause, urllib3.MaxRetryError):
        cause = cause.reason
    if isinstance(cause, urllib3.ProxyError):
        cause = cause.original_error
    # An address that requests cannot use is a ValueError.
    connecting = (urllib3.NewConnectionError, urllib3.ConnectTimeoutError)
    return isinstance(cause, connecting) or isinstance(error, ValueError)


def _aiohttp_not_sent(error: BaseException) -> bool:
    import aiohttp

    connecting = (
        aiohttp.ClientConnectorError,
        aiohttp.ConnectionTimeoutError,
        aiohttp.ClientHttpProxyError,
    )
    # An address that aiohttp cannot use is a ValueError, as is a name that cannot be looked up.
    return isinstance(error, (*connecting, ValueError))
