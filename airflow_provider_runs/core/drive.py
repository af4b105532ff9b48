"""
The only I/O: run a :data:`~airflow_provider_runs.core.http.Flow` with requests or with aiohttp, and download.

Both drivers do the same: get a token once for all who wait for one (and once more when the service refuses
it), send with connect and read timeout, turn every transport error into
:class:`~airflow_provider_runs.core.errors.ConnectionFailed`, and repeat what is safe to repeat. They follow
no redirects, so that credentials never reach another host, keep no cookies, and read no ``.netrc``. Where
the connection names no proxy, the environment's counts. A download goes to an address that is a secret by
itself: it carries no credentials, and no text holds the address. A stream of server-sent events is opened
once, and read for as long as its reader wants.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from airflow_provider_runs import __version__
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import RunApi, Token
from airflow_provider_runs.core.connection import Certificates
from airflow_provider_runs.core.errors import (
    ApiError,
    ConnectionFailed,
    NotFound,
    NoToken,
    RunsError,
    Unauthorized,
    is_permanent,
)
from airflow_provider_runs.core.http import Flow, Request, Response, excerpt
from airflow_provider_runs.core.retry import (
    NO_RETRY,
    RetryPolicy,
    backoff_seconds,
    may_repeat,
    retry_after,
)
from airflow_provider_runs.core.sessions import (
    aiohttp_session,
    environment_proxy,
    load_certificates,
    no_netrc,
    proxies,
    requests_session,
    tls_context,
)
from airflow_provider_runs.core.sse import Frame, Parser, TooLong

if TYPE_CHECKING:
    import ssl

    import aiohttp
    import requests
    from tenacity import RetryCallState

T = TypeVar("T")
USER_AGENT = f"airflow-provider-runs/{__version__}"
DEFAULT_RETRY = RetryPolicy()
CHUNK = 256 * 1024
"""Bytes of a download that are held in memory at once."""
REDIRECTS = 3
KINDS = {401: Unauthorized, 403: Unauthorized, 404: NotFound}
"""Errors that a download's or a stream's status means; any other is an ApiError."""
SILENCE = 45.0
"""Seconds after which a stream in which nothing comes is taken for dead."""
PIECE = 64 * 1024
"""Bytes of a stream that are read at once at most."""
TURN = 4 * 1024
"""Bytes of a stream after which an event loop turns to its other tasks."""


@dataclass(frozen=True, slots=True)
class Download:
    """
    What was downloaded.

    :param size: its length in bytes.
    :param sha256: its SHA-256 in hexadecimal.
    """

    size: int
    sha256: str


class _UrlsInLogs(logging.Filter):
    """Keep secrets out of urllib3's messages, which quote every URL. Airflow masks not all its logs."""

    def __init__(self) -> None:
        super().__init__()
        self._secrets: set[str] = set()

    def hide(self, secret: str) -> None:
        self._secrets.add(secret)
        for name in ("urllib3.connectionpool", "urllib3.connection"):
            logging.getLogger(name).addFilter(self)

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


class _Stream:
    """One stream's way from its request to its frames, apart from the I/O that each driver adds."""

    def __init__(self, api: RunApi, request: Request) -> None:
        accept = {"Accept": "text/event-stream", "Accept-Encoding": "identity", "Cache-Control": "no-store"}
        self.exchange = _Exchange(api, replace(request, headers={**request.headers, **accept}), NO_RETRY)
        self._api = api
        self._request = request
        self._parser = Parser()
        self._is_open = False

    def opens(self, status: int, headers: Mapping[str, str]) -> bool:
        """Tell whether the answer is a stream of events."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        self._is_open = status == 200 and kind == "text/event-stream"
        return self._is_open

    def error(self, response: Response) -> ApiError:
        """Return the error that any other answer means."""
        status = response.status
        kind = KINDS.get(status, ApiError)
        said = f"{self._api.service} answered {status} to {self._request}: "
        if 200 <= status < 300:
            said += "no stream of events but "
        error = kind(
            said + excerpt(response, self._api.redact),
            status=status,
            permanent=None if status >= 400 else False,
        )
        error.retry_after = retry_after(response)
        return error

    def read(self, piece: bytes) -> list[Frame]:
        try:
            return self._parser.feed(piece)
        except TooLong as error:
            limit = str(error)
        raise ApiError(
            f"{self._api.service} sent an event that is too long in answer to {self._request}: {limit}",
            status=200,
            permanent=True,
        )

    def failed(self, error: BaseException, *, sent: bool) -> ConnectionFailed:
        """Return why there is no answer, or no more of it."""
        what = f"broke off its answer to {self._request}" if self._is_open else None
        return _failed(self._api, self._request, error, sent=sent, what=what)


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

    def download(
        self,
        what: str,
        url_of: Callable[[], str],
        target: IO[bytes],
        *,
        max_bytes: int,
        retry: RetryPolicy = DEFAULT_RETRY,
    ) -> Download:
        """
        Copy what a presigned URL leads to into a file. Credentials are not sent there.

        Each attempt asks for a URL and begins anew, since such URLs expire. What stands in the file is whole
        only if this returns.

        :param what: what it is, for messages, which never hold the URL.
        :param url_of: returns a URL that is fresh.
        :param target: a file that is open for writing; it is emptied first.
        :param max_bytes: length at most.
        :param retry: how long it is repeated.
        :return: the length and the SHA-256 of what was written.
        :raises ConnectionFailed: if there was no answer, or its end did not come.
        :raises ApiError: if the store refuses (Unauthorized and NotFound among it), or it is too long.
        """
        from tenacity import Retrying, stop_after_attempt

        def error_of(state: RetryCallState) -> RunsError | None:
            error = state.outcome.exception() if state.outcome is not None else None
            return error if isinstance(error, RunsError) else None

        def again(state: RetryCallState) -> bool:
            error = error_of(state)
            return error is not None and not is_permanent(error) and not retry.stopped()

        def wait(state: RetryCallState) -> float:
            error = error_of(state)
            backoff = backoff_seconds(state.attempt_number, retry.base, retry.cap)
            return max(backoff, (error.retry_after if error is not None else None) or 0.0)

        attempts = Retrying(
            sleep=clock.sleep, stop=stop_after_attempt(retry.attempts), retry=again, wait=wait, reraise=True
        )
        return attempts(lambda: self._fetch(what, url_of(), target, max_bytes))

    def stream_events(
        self, request: Request, *, silence: float = SILENCE, opened: Callable[[], None] = lambda: None
    ) -> Generator[Frame, None, None]:
        """
        Open a stream of server-sent events and yield what comes, until the service ends it.

        To be closed by whoever does not read it to its end (``contextlib.closing``). Nothing is repeated.

        :param request: what opens it.
        :param silence: seconds without a byte after which the stream is taken for dead.
        :param opened: called when the service has begun to answer.
        :return: events, comments and wishes of the service how long to wait before it is opened again.
        :raises ApiError: if the service refuses (Unauthorized and NotFound among it), or answers with
            something else than such a stream.
        :raises ConnectionFailed: if there was no answer, or the stream broke off or fell silent.
        """
        import requests
        from urllib3.exceptions import HTTPError

        stream = _Stream(self.api, request)
        exchange = stream.exchange
        while True:
            self._authenticate(exchange, NO_RETRY)
            try:
                with self._ask(exchange, timeout=silence, stream=True) as answer:
                    headers = {name.lower(): value for name, value in answer.headers.items()}
                    if stream.opens(answer.status_code, headers):
                        opened()
                        # Other ways to read it wait until a piece is full.
                        while piece := answer.raw.read1(PIECE, decode_content=True):
                            yield from stream.read(piece)
                        return
                    body = answer.raw.read(PIECE, decode_content=True)
                    response = Response(answer.status_code, headers, body)
            except (requests.exceptions.RequestException, HTTPError, OSError) as error:
                failure = stream.failed(error, sent=not _requests_not_sent(error))
                break
            if not exchange.refused(response):
                raise stream.error(response)
        raise failure

    def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _fetch(self, what: str, url: str, target: IO[bytes], max_bytes: int) -> Download:
        """Make one attempt at a download."""
        import requests

        target.seek(0)
        target.truncate()
        try:
            with self._ask_store(url) as answer:
                self._check_store(what, answer)
                return self._copy(what, answer, target, max_bytes)
        except requests.exceptions.RequestException as error:
            # Their texts hold the URL.
            kinds = _kinds(error)
        raise ConnectionFailed(f"{self.api.service}: the download of {what} broke off: {kinds}", sent=True)

    def _ask_store(self, url: str) -> requests.Response:
        """Send the request for a download, and follow its redirects as long as they stay as safe."""
        import requests

        for _ in range(REDIRECTS + 1):
            hidden = requests.Request("GET", url).prepare().path_url
            if len(hidden) > 1:
                _urls_in_logs.hide(hidden)
            answer = self._open().get(
                url,
                headers={"Accept-Encoding": "identity", "User-Agent": USER_AGENT},
                timeout=(self.api.connect_timeout, self.api.request_timeout),
                proxies=proxies(self.api.proxy),
                allow_redirects=False,
                auth=no_netrc,
                stream=True,
            )
            location = urljoin(url, answer.headers.get("Location", ""))
            safe = urlsplit(location).scheme in {urlsplit(url).scheme, "https"}
            if not answer.is_redirect or not safe:
                break
            answer.close()
            url = location
        return answer

    def _check_store(self, what: str, answer: requests.Response) -> None:
        status = answer.status_code
        if status == 200:
            return
        kind = KINDS.get(status, ApiError)
        error = kind(
            f"{self.api.service}: the store answered {status} to the download of {what}",
            status=status,
            permanent=None if status >= 400 else True,
        )
        headers = {name.lower(): value for name, value in answer.headers.items()}
        error.retry_after = retry_after(Response(status, headers))
        raise error

    def _copy(self, what: str, answer: requests.Response, target: IO[bytes], max_bytes: int) -> Download:
        length = answer.headers.get("Content-Length", "")
        told = int(length) if length.isdecimal() else None
        size, digest = 0, hashlib.sha256()
        if told is None and answer.headers.get("Transfer-Encoding", "").lower() != "chunked":
            raise ApiError(
                f"{self.api.service}: the store does not say how long {what} is, so that it cannot be told "
                "whether it is whole",
                status=answer.status_code,
                permanent=True,
            )
        for chunk in answer.iter_content(CHUNK) if (told or 0) <= max_bytes else ():
            size += len(chunk)
            if size > max_bytes:
                break
            target.write(chunk)
            digest.update(chunk)
        if max(size, told or 0) > max_bytes:
            raise ApiError(
                f"{what} in {self.api.service} is longer than max_bytes allows ({max_bytes}): "
                + (f"{told} bytes" if told is not None else "more bytes than that"),
                status=answer.status_code,
                permanent=True,
            )
        came = answer.raw.tell()
        if told is not None and came != told:
            raise ConnectionFailed(
                f"{self.api.service}: the download of {what} broke off after {came} of {told} bytes",
                sent=True,
            )
        target.flush()
        return Download(size, digest.hexdigest())

    def _exchange(self, request: Request, retry: RetryPolicy) -> Response:
        from tenacity import Retrying

        exchange = _Exchange(self.api, request, retry)
        clock.sleep(request.delay)
        while True:
            self._authenticate(exchange, retry)
            response = Retrying(sleep=clock.sleep, **_judge(request, retry))(self._send, exchange)
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
        try:
            with self._ask(exchange, timeout=exchange.timeout) as answer:
                return Response(
                    answer.status_code,
                    {name.lower(): value for name, value in answer.headers.items()},
                    answer.content,
                )
        except requests.exceptions.RequestException as error:
            failure = _failed(self.api, request, error, sent=not _requests_not_sent(error))
        # Out here the library's error, which may show the URL as it was sent, is not the context of ours.
        raise failure

    def _ask(self, exchange: _Exchange, *, timeout: float, stream: bool = False) -> requests.Response:
        request = exchange.request
        if request.secret is not None:
            _urls_in_logs.hide(quote(request.secret, safe=""))
        return self._open().request(
            request.method,
            request.target,
            headers=exchange.headers(),
            params=dict(request.params),
            json=request.json,
            timeout=(self.api.connect_timeout, timeout),
            proxies=proxies(self.api.proxy),
            allow_redirects=False,
            auth=no_netrc,
            stream=stream,
        )

    def _open(self) -> requests.Session:
        with self._opening:
            if self._session is None:
                self._session = requests_session(self.api)
            return self._session


class AsyncDriver:
    """
    Run flows with aiohttp, in the event loop in which it is first used.

    :param api: the service's description for one connection.
    """

    def __init__(self, api: RunApi) -> None:
        self.api = api
        self._session: aiohttp.ClientSession | None = None
        self._streams: aiohttp.ClientSession | None = None
        """A session of their own, so that they take no connection away from other requests."""
        self._context: ssl.SSLContext | None = None
        self._opening = asyncio.Lock()
        self._authentication = asyncio.Lock()
        self._failure: RunsError | None = None
        self._proxies: dict[str, str | None] = {}
        """The environment's proxies by origin, each looked up once."""

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

    async def stream_events(
        self, request: Request, *, silence: float = SILENCE, opened: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[Frame, None]:
        """
        Open a stream of server-sent events and yield what comes, as :meth:`Driver.stream_events`.

        To be closed by whoever does not read it to its end (``contextlib.aclosing``).

        :param request: what opens it.
        :param silence: seconds without a byte after which the stream is taken for dead.
        :param opened: called when the service has begun to answer.
        :raises ApiError: as there.
        :raises ConnectionFailed: as there.
        """
        import aiohttp

        stream = _Stream(self.api, request)
        exchange = stream.exchange
        timeout = aiohttp.ClientTimeout(total=None, connect=self.api.connect_timeout, sock_read=silence)
        context = await self._trusted()
        if self._streams is None:
            self._streams = aiohttp_session(context, limit=0)
        while True:
            await self._authenticate(exchange, NO_RETRY)
            try:
                async with self._ask(self._streams, exchange, timeout) as answer, _cut_off(answer):
                    headers = {name.lower(): value for name, value in answer.headers.items()}
                    if stream.opens(answer.status, headers):
                        opened()
                        while piece := await self._next_piece(answer, TURN, silence):
                            for frame in stream.read(piece):
                                yield frame
                            # What has come already is there without waiting, however much it is.
                            await asyncio.sleep(0)
                        return
                    response = Response(
                        answer.status, headers, await self._next_piece(answer, PIECE, silence)
                    )
            except (aiohttp.ClientError, OSError, UnicodeError) as error:
                failure = stream.failed(error, sent=not _aiohttp_not_sent(error))
                break
            if not exchange.refused(response):
                raise stream.error(response)
        raise failure

    async def _next_piece(self, answer: aiohttp.ClientResponse, size: int, silence: float) -> bytes:
        # aiohttp's own limit ends with the connection, which a chunk that is none closes: nobody is told.
        async with asyncio.timeout(silence):
            return await answer.content.read(size)

    async def close(self) -> None:
        """Close the connections. Streams must have been closed before by whoever reads them."""
        sessions, self._session, self._streams = (self._session, self._streams), None, None
        for session in sessions:
            if session is not None:
                await session.close()

    async def _exchange(self, request: Request, retry: RetryPolicy) -> Response:
        from tenacity import AsyncRetrying

        exchange = _Exchange(self.api, request, retry)
        if request.delay:
            await asyncio.sleep(request.delay)
        while True:
            await self._authenticate(exchange, retry)
            if retry.attempts == 1:
                # What a watcher asks by the thousand: tenacity would make it cost a third more.
                response = await self._send(exchange)
            else:
                response = await AsyncRetrying(**_judge(request, retry))(self._send, exchange)
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
        session = self._session or await self._open()
        try:
            timeout = _aiohttp_timeout(self.api.connect_timeout, exchange.timeout)
            async with self._ask(session, exchange, timeout) as answer:
                return Response(
                    answer.status,
                    {name.lower(): value for name, value in answer.headers.items()},
                    await answer.read(),
                )
        except (aiohttp.ClientError, OSError, UnicodeError) as error:
            failure = _failed(self.api, request, error, sent=not _aiohttp_not_sent(error))
        raise failure

    def _ask(
        self, session: aiohttp.ClientSession, exchange: _Exchange, timeout: aiohttp.ClientTimeout
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        request = exchange.request
        return session.request(
            request.method,
            request.target,
            headers=exchange.headers(),
            params=dict(request.params) or None,
            json=request.json,
            # It would name a kind of body even where there is none.
            skip_auto_headers=() if request.json is not None else ("Content-Type",),
            timeout=timeout,
            allow_redirects=False,
            proxy=self.api.proxy or self._proxy(request.target),
        )

    def _proxy(self, url: str) -> str | None:
        origin = "/".join(url.split("/", 3)[:3])
        if origin not in self._proxies:
            self._proxies[origin] = environment_proxy(url)
        return self._proxies[origin]

    async def _open(self) -> aiohttp.ClientSession:
        context = await self._trusted()
        if self._session is None:
            self._session = aiohttp_session(context)
        return self._session

    async def _trusted(self) -> ssl.SSLContext:
        async with self._opening:
            if self._context is None:
                self._context = await asyncio.to_thread(tls_context, self.api)
            return self._context

    async def renew_certificates(self) -> None:
        """
        Read the connection's files of certificates again, which something else may have renewed.

        :raises ConnectionFailed: if a file cannot be used.
        """
        if self._context is not None and self.api.certificates != Certificates():
            await asyncio.to_thread(load_certificates, self._context, self.api)


def load_libraries() -> None:
    """Import what :class:`AsyncDriver` needs, for a caller whose event loop must not wait for that."""
    import aiohttp
    import requests.utils
    import tenacity

    del aiohttp, requests, tenacity


def _kinds(error: BaseException) -> str:
    """Name an error of requests and its cause by their classes."""
    cause = error.args[0] if error.args else None
    cause = getattr(cause, "reason", cause)
    kinds = [error, *([cause] if isinstance(cause, BaseException) else [])]
    return ": ".join(type(kind).__name__ for kind in kinds)


@asynccontextmanager
async def _cut_off(answer: aiohttp.ClientResponse) -> AsyncIterator[None]:
    """Close the connection of an answer that goes on. TLS would wait for the service to agree."""
    try:
        yield
    finally:
        if answer.connection is not None and answer.connection.transport is not None:
            answer.connection.transport.abort()


@lru_cache(64)
def _aiohttp_timeout(connect: float, seconds: float) -> aiohttp.ClientTimeout:
    import aiohttp

    return aiohttp.ClientTimeout(total=connect + seconds, sock_connect=connect, sock_read=seconds)


def _failed(
    api: RunApi, request: Request, error: BaseException, *, sent: bool, what: str | None = None
) -> ConnectionFailed:
    reason = api.redact(" ".join(str(error).split())) or "no answer in time"
    what = what or f"did not answer {request}"
    return ConnectionFailed(
        f"{api.service} {what} at {api.settings.base_url}: {type(error).__name__}: {reason}", sent=sent
    )


def _unsent(error: RunsError) -> RunsError:
    """Return why no token was got, as it counts for the request that needs one: that never left."""
    if not isinstance(error, ConnectionFailed) and not (isinstance(error, ApiError) and not error.permanent):
        return error
    kind = ConnectionFailed if isinstance(error, ConnectionFailed) else NoToken
    failed = kind(str(error), sent=False)
    failed.retry_after = error.retry_after
    return failed


def _requests_not_sent(error: BaseException) -> bool:
    from http.client import InvalidURL

    from urllib3 import exceptions as urllib3

    cause: Any = error.args[0] if error.args else None
    if isinstance(cause, urllib3.MaxRetryError):
        cause = cause.reason
    if isinstance(cause, urllib3.ProxyError):
        cause = cause.original_error
    if isinstance(cause, urllib3.ProtocolError):  # urllib3 < 2.3 wraps what http.client refuses to write
        cause = cause.args[-1]
    # An address that requests cannot use is a ValueError.
    connecting = (urllib3.NewConnectionError, urllib3.ConnectTimeoutError, InvalidURL)
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
