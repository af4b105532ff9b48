"""
The only I/O: run a :data:`~airflow_provider_runs.core.http.Flow` with requests or with aiohttp.

Both drivers do the same: get a token once for all who wait for one (and once more when the service refuses
it), send with connect and read timeout, turn every transport error into
:class:`~airflow_provider_runs.core.errors.ConnectionFailed`, and repeat what is safe to repeat. They follow no
redirects, so that credentials never reach another host, and they read proxies but no ``.netrc`` from the
environment.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any, TypeVar

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


class _Exchange:
    """One request's way to its answer, apart from the I/O that each driver adds."""

    def __init__(self, api: RunApi, request: Request) -> None:
        self.api = api
        self.request = request
        self.timeout = request.timeout or api.request_timeout
        self.used: Token | None = None
        self.renewed = False

    def needs_token(self) -> bool:
        return (
            self.request.authenticated
            and self.api.authenticates()
            and not self.renewed
            and not self.api.token_is_fresh(self.request.timeout or 0.0)
        )

    def headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": USER_AGENT, **self.request.headers}
        if self.request.authenticated:
            self.used = self.api.token
            headers |= self.api.auth_headers()
        return headers

    def refused(self, response: Response) -> bool:
        """Tell whether a fresh token may heal this answer; if so, make way for one."""
        if (
            response.status not in self.api.stale_token_statuses
            or not self.request.authenticated
            or not self.api.authenticates()
            or self.renewed
        ):
            return False
        if self.api.token is self.used:
            self.api.token = None
        return True


def _judge(request: Request, policy: RetryPolicy) -> dict[str, Any]:
    """Return tenacity's arguments that repeat a request while that is safe and may help."""
    from tenacity import stop_after_attempt

    def outcome(state: RetryCallState) -> Response | BaseException:
        assert state.outcome is not None
        return state.outcome.exception() or state.outcome.result()

    def again(state: RetryCallState) -> bool:
        ended = outcome(state)
        return isinstance(ended, (Response, ConnectionFailed)) and may_repeat(request, ended)

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
        self._authentication = threading.Lock()

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

        return Retrying(**_judge(request, retry))(self._attempt, request, retry)

    def _attempt(self, request: Request, retry: RetryPolicy) -> Response:
        exchange = _Exchange(self.api, request)
        while True:
            if exchange.needs_token():
                with self._authentication:
                    if exchange.needs_token():
                        self.drive(self.api.authenticate(), retry)
                        exchange.renewed = True
            response = self._send(exchange)
            if not exchange.refused(response):
                return response

    def _send(self, exchange: _Exchange) -> Response:
        import requests

        request = exchange.request
        try:
            with self._open().request(
                request.method,
                request.url,
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
            raise _failed(self.api, request, error, sent=not _requests_not_sent(error)) from None

    def _open(self) -> requests.Session:
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

        return await AsyncRetrying(**_judge(request, retry))(self._attempt, request, retry)

    async def _attempt(self, request: Request, retry: RetryPolicy) -> Response:
        exchange = _Exchange(self.api, request)
        while True:
            if exchange.needs_token():
                async with self._authentication:
                    if exchange.needs_token():
                        await self.drive(self.api.authenticate(), retry)
                        exchange.renewed = True
            response = await self._send(exchange)
            if not exchange.refused(response):
                return response

    async def _send(self, exchange: _Exchange) -> Response:
        import aiohttp

        request = exchange.request
        try:
            async with self._open().request(
                request.method,
                request.url,
                headers=exchange.headers(),
                params=dict(request.params),
                json=request.json,
                timeout=aiohttp.ClientTimeout(
                    total=CONNECT_TIMEOUT + exchange.timeout,
                    sock_connect=CONNECT_TIMEOUT,
                    sock_read=exchange.timeout,
                ),
                allow_redirects=False,
            ) as answer:
                return Response(
                    answer.status,
                    {name.lower(): value for name, value in answer.headers.items()},
                    await answer.read(),
                )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _failed(self.api, request, error, sent=not _aiohttp_not_sent(error)) from None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = _aiohttp_session()
        return self._session


def _no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Stand in for requests' own authentication, which would replace ours by a ``.netrc`` entry."""
    return request


def _requests_session() -> requests.Session:
    import requests
    from requests.adapters import HTTPAdapter

    class KeepAliveAdapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, socket_options=_keepalive_options(), **kwargs)

    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, KeepAliveAdapter(pool_maxsize=16, max_retries=0))
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
        trust_env=True,
    )


def _failed(api: RunApi, request: Request, error: BaseException, *, sent: bool) -> ConnectionFailed:
    reason = api.redact(" ".join(str(error).split())) or "no answer in time"
    return ConnectionFailed(
        f"{api.service} did not answer {request} at {api.settings.base_url}: {type(error).__name__}: {reason}",
        sent=sent,
    )


def _requests_not_sent(error: BaseException) -> bool:
    import requests
    from urllib3 import exceptions as urllib3

    if isinstance(
        error,
        (requests.exceptions.ConnectTimeout, requests.exceptions.ProxyError, requests.exceptions.SSLError),
    ):
        return True
    cause: Any = error.args[0] if error.args else None
    if isinstance(cause, urllib3.MaxRetryError):
        cause = cause.reason
    return isinstance(cause, urllib3.NewConnectionError)


def _aiohttp_not_sent(error: BaseException) -> bool:
    import aiohttp

    return isinstance(
        error,
        (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientProxyConnectionError),
    ) or isinstance(error, (ssl.SSLCertVerificationError, aiohttp.InvalidURL))
