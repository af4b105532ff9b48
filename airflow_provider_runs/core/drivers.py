"""
The only I/O: what carries out the steps of a request cycle, with requests or with aiohttp.

Both connect with a timeout of its own and give each exchange one time limit, from the first byte sent to the
last one read. They follow no redirects, so that credentials never reach another host, keep no cookies, and
read no ``.netrc``. Where the connection names no proxy, the environment's counts. A stream of server-sent
events is opened once, and read for as long as its reader wants.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import aclosing, asynccontextmanager, closing
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import RunApi
from airflow_provider_runs.core.body import STEP, Body
from airflow_provider_runs.core.connection import Certificates
from airflow_provider_runs.core.cycle import (
    Alone,
    Pause,
    ReadJson,
    RequestCycle,
    Send,
    Step,
    Steps,
    bare,
    no_answer,
)
from airflow_provider_runs.core.errors import ConnectionFailed
from airflow_provider_runs.core.event_stream import PIECE, EventStream, is_event_stream
from airflow_provider_runs.core.http import Flow, Request, Response
from airflow_provider_runs.core.retry import NO_RETRY, RetryPolicy
from airflow_provider_runs.core.sessions import (
    aiohttp_session,
    load_certificates,
    no_netrc,
    proxies,
    requests_session,
    tls_context,
    usable_proxy,
)
from airflow_provider_runs.core.sse import Frame
from airflow_provider_runs.core.transfer import Transfer, on_its_way
from airflow_provider_runs.core.turns import Turn

if TYPE_CHECKING:
    import ssl

    import aiohttp
    import requests

T = TypeVar("T")
DEFAULT_RETRY = RetryPolicy()
POLL_SECONDS = 120.0
"""Seconds after which a poll sends no further request."""


class Driver:
    """
    Run flows with requests. Safe to be used from several threads.

    :param api: the service's description for one connection.
    """

    def __init__(self, api: RunApi) -> None:
        self.api = api
        self._cycle = RequestCycle(api)
        self._session: requests.Session | None = None
        self._opening = threading.Lock()
        self._authentication = threading.Lock()

    def drive(self, flow: Flow[T], retry: RetryPolicy = DEFAULT_RETRY, turn: Turn = Turn.CALL) -> T:
        """
        Run a flow to its end and return its result.

        :param flow: what to do.
        :param retry: how long each request is repeated where that is safe.
        :param turn: when each request may leave, within ``max_requests_per_minute``.
        :raises RunsError: whatever the flow raises; ConnectionFailed where there is no answer.
        """
        return self._perform(self._cycle.run(flow, retry, self._cycle.turns(turn)))

    def stream_events(
        self, request: Request, *, opened: Callable[[], None] = lambda: None
    ) -> Generator[Frame, None, None]:
        """
        Open a stream of server-sent events and yield what comes, until the service ends it.

        To be closed by whoever does not read it to its end (``contextlib.closing``). Nothing is repeated.

        :param request: what opens it.
        :param opened: called when the service has begun to answer.
        :return: events, comments and wishes of the service how long to wait before it is opened again.
        :raises ApiError: if the service refuses (Unauthorized and NotFound among it), or answers with
            something else than such a stream.
        :raises ConnectionFailed: if there was no answer, or the stream broke off or fell silent.
        """
        frames = self._frames(request, opened)
        try:
            yield from frames
        except BaseException as error:
            # Its frames hold the request as it was sent.
            raise bare(error)  # noqa: B904 - it is the same

    def _frames(self, request: Request, opened: Callable[[], None]) -> Generator[Frame, None, None]:
        stream = EventStream(self.api, request)
        answer, transfer = self._perform(stream.open(self._cycle))
        with closing(answer):
            opened()
            encoding = answer.headers.get("Content-Encoding", "")
            while stream.failure is None:
                try:
                    piece = answer.raw.read1(STEP, decode_content=False)
                except Exception as error:
                    stream.failure = stream.broken_off(error)
                    break
                if not piece:
                    return
                for frames in stream.read(piece, encoding):
                    if frames:
                        transfer.extend()
                    yield from frames
        raise stream.failure

    def ask(self, transfer: Transfer, method: str, url: str, **keywords: Any) -> requests.Response:
        """
        Send a request and return its answer, of whose body nothing has been read.

        :param transfer: its way.
        :param method: HTTP method, upper case.
        :param url: the URL.
        :param keywords: as for ``requests.request``.
        :raises ConnectionFailed: if a file of certificates or the proxy cannot be used.
        """
        proxy, session = usable_proxy(self.api.proxy, url), self._open()
        before = on_its_way.set(transfer)
        try:
            return session.request(
                method,
                url,
                timeout=(self.api.connect_timeout, transfer.seconds),
                proxies=proxies(proxy),
                allow_redirects=False,
                auth=no_netrc,
                stream=True,
                **keywords,
            )
        finally:
            on_its_way.reset(before)

    def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _perform(self, steps: Steps[T]) -> T:
        outcome: Any = None
        with closing(steps):
            while True:
                try:
                    step = steps.send(outcome)
                except StopIteration as end:
                    result: T = end.value
                    return result
                try:
                    outcome = self._carry_out(step)
                except BaseException as error:
                    if not isinstance(error, Exception):
                        # A task that is ended meanwhile: the library's frames hold the credentials.
                        bare(error)
                    raise

    def _carry_out(self, step: Step) -> Any:
        match step:
            case Pause():
                clock.sleep(step.seconds)
            case ReadJson():
                return step.response.json
            case Alone():
                with self._authentication:
                    return self._perform(step.steps)
            case _:
                return self._send(step)

    def _send(self, send: Send) -> Response | ConnectionFailed | tuple[requests.Response, Transfer]:
        request, data, headers = send.request, send.body(), send.headers()
        transfer = Transfer(request.timeout or self.api.request_timeout, self.api.connect_timeout)
        answer = None
        try:
            answer = self.ask(
                transfer,
                request.method,
                request.target,
                headers=headers,
                params=dict(request.params),
                data=data,
            )
            names = {name.lower(): value for name, value in answer.headers.items()}
            if send.is_stream and is_event_stream(answer.status_code, names):
                opened, answer = answer, None
                return opened, transfer
            body = Body(answer.status_code, names)
            while not body.is_enough and (piece := answer.raw.read1(STEP, decode_content=False)):
                for _ in body.feed(piece):
                    pass
            return body.response()
        except ConnectionFailed as error:
            return bare(error)
        except Exception as error:
            return no_answer(self.api, request, error, sent=transfer.is_sent)
        finally:
            if answer is not None:
                answer.close()

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
        self._cycle = RequestCycle(api)
        self._session: aiohttp.ClientSession | None = None
        self._streams: aiohttp.ClientSession | None = None
        """A session of their own, so that they take no connection away from other requests."""
        self._context: ssl.SSLContext | None = None
        self._opening = asyncio.Lock()
        self._authentication = asyncio.Lock()
        self._proxies: dict[str, str | None] = {}
        """The proxies by origin, each looked up once."""

    async def drive(self, flow: Flow[T], retry: RetryPolicy = DEFAULT_RETRY, turn: Turn = Turn.CALL) -> T:
        """
        Run a flow to its end and return its result.

        :param flow: what to do.
        :param retry: how long each request is repeated where that is safe.
        :param turn: when each request may leave, within ``max_requests_per_minute``.
        :raises RunsError: whatever the flow raises; ConnectionFailed where there is no answer.
        """
        return await self._perform(self._cycle.run(flow, retry, self._cycle.turns(turn)))

    async def poll(self, flow: Flow[T], *, has_slot: bool = False) -> T:
        """
        Run a flow that polls and return its result. Nothing is repeated, and the whole has a time limit.

        :param flow: what to do.
        :param has_slot: whether the connection's limiter has given the first request its slot already.
        :raises RunsError: whatever the flow raises; ConnectionFailed where there is no answer, or not all of
            it in time.
        """
        turns = self._cycle.turns(Turn.POLL, has_slot=has_slot, seconds=POLL_SECONDS)
        return await self._perform(self._cycle.run(flow, NO_RETRY, turns))

    async def stream_events(
        self, request: Request, *, opened: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[Frame, None]:
        """
        Open a stream of server-sent events and yield what comes, as :meth:`Driver.stream_events`.

        To be closed by whoever does not read it to its end (``contextlib.aclosing``).

        :param request: what opens it.
        :param opened: called when the service has begun to answer.
        :raises ApiError: as there.
        :raises ConnectionFailed: as there.
        """
        try:
            async with aclosing(self._frames(request, opened)) as frames:
                async for frame in frames:
                    yield frame
        except BaseException as error:
            # Its frames hold the request as it was sent.
            raise bare(error)  # noqa: B904 - it is the same

    async def _frames(self, request: Request, opened: Callable[[], None]) -> AsyncGenerator[Frame, None]:
        stream = EventStream(self.api, request)
        answer, transfer = await self._perform(stream.open(self._cycle))
        try:
            opened()
            encoding = answer.headers.get("Content-Encoding", "")
            while stream.failure is None:
                try:
                    # aiohttp's own limit ends with the connection, which a chunk that is none closes.
                    async with asyncio.timeout(transfer.remaining()):
                        piece = await answer.content.read(PIECE)
                except Exception as error:
                    stream.failure = stream.broken_off(error)
                    break
                if not piece:
                    return
                for frames in stream.read(piece, encoding):
                    if frames:
                        transfer.extend()
                    for frame in frames:
                        yield frame
                    # What has come already is there without waiting, however much it is.
                    await asyncio.sleep(0)
        finally:
            _cut_off(answer)
        raise stream.failure

    async def close(self) -> None:
        """Close the connections. Streams must have been closed before by whoever reads them."""
        sessions, self._session, self._streams = (self._session, self._streams), None, None
        for session in sessions:
            if session is not None:
                await session.close()

    async def renew_certificates(self) -> None:
        """
        Read the connection's files of certificates again, which something else may have renewed.

        :raises ConnectionFailed: if a file cannot be used.
        """
        if self._context is not None and self.api.certificates != Certificates():
            await asyncio.to_thread(load_certificates, self._context, self.api)

    async def _perform(self, steps: Steps[T]) -> T:
        outcome: Any = None
        with closing(steps):
            while True:
                try:
                    step = steps.send(outcome)
                except StopIteration as end:
                    result: T = end.value
                    return result
                try:
                    outcome = await self._carry_out(step)
                except BaseException as error:
                    if not isinstance(error, Exception):
                        # A task that is ended meanwhile: the library's frames hold the credentials.
                        bare(error)
                    raise

    async def _carry_out(self, step: Step) -> Any:
        match step:
            case Pause():
                await asyncio.sleep(step.seconds)
            case ReadJson():
                await asyncio.to_thread(lambda: step.response.json)
            case Alone():
                async with self._authentication:
                    return await self._perform(step.steps)
            case _:
                return await self._send(step)

    async def _send(
        self, send: Send
    ) -> Response | ConnectionFailed | tuple[aiohttp.ClientResponse, Transfer]:
        request, data, headers = send.request, send.body(), send.headers()
        transfer = Transfer(request.timeout or self.api.request_timeout, self.api.connect_timeout)
        answer = None
        try:
            session, proxy = await self._open(send.is_stream), self._proxy(request.target)
            async with _limited(transfer):
                answer = await session.request(
                    request.method,
                    request.target,
                    headers=headers,
                    params=dict(request.params) or None,
                    data=data,
                    # It would name a kind of body even where there is none.
                    skip_auto_headers=("Content-Type",),
                    timeout=_connecting(self.api.connect_timeout),
                    allow_redirects=False,
                    proxy=proxy,
                    trace_request_ctx=partial(_send_first_byte, transfer, request.safe_to_repeat),
                )
                names = {name.lower(): value for name, value in answer.headers.items()}
                if send.is_stream and is_event_stream(answer.status, names):
                    opened, answer = answer, None
                    return opened, transfer
                body = Body(answer.status, names)
                while not body.is_enough and (piece := await answer.content.readany()):
                    for _ in body.feed(piece):
                        await asyncio.sleep(0)
                return body.response()
        except ConnectionFailed as error:
            return bare(error)
        except Exception as error:
            return no_answer(self.api, request, error, sent=transfer.is_sent)
        finally:
            if answer is not None:
                _cut_off(answer)

    def _proxy(self, url: str) -> str | None:
        origin = "/".join(url.split("/", 3)[:3])
        if origin not in self._proxies:
            self._proxies[origin] = usable_proxy(self.api.proxy, url)
        return self._proxies[origin]

    async def _open(self, is_stream: bool) -> aiohttp.ClientSession:
        async with self._opening:
            if self._context is None:
                self._context = await asyncio.to_thread(tls_context, self.api)
            context = self._context
        if is_stream:
            self._streams = self._streams or aiohttp_session(context, limit=0)
            return self._streams
        self._session = self._session or aiohttp_session(context)
        return self._session


def load_libraries() -> None:
    """Import what :class:`AsyncDriver` needs, for a caller whose event loop must not wait for that."""
    import aiohttp
    import requests.utils

    del aiohttp, requests


@asynccontextmanager
async def _limited(transfer: Transfer) -> AsyncIterator[None]:
    """End what takes longer than a transfer may."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(transfer.remaining()) as limit:
        transfer.on_extended = lambda: limit.reschedule(loop.time() + transfer.seconds)
        try:
            yield
        finally:
            transfer.on_extended = lambda: None


def _send_first_byte(transfer: Transfer, may_be_repeated: bool) -> None:
    if transfer.is_sent and not may_be_repeated:
        # aiohttp would, on a new connection, where the method allows it.
        raise ConnectionResetError("the connection was lost, and the request is not sent twice")
    transfer.mark_sent()


def _cut_off(answer: aiohttp.ClientResponse) -> None:
    """Close the connection of an answer that goes on. TLS would wait for the service to agree."""
    if answer.connection is not None and answer.connection.transport is not None:
        answer.connection.transport.abort()
    answer.close()


@lru_cache(64)
def _connecting(seconds: float) -> aiohttp.ClientTimeout:
    import aiohttp

    return aiohttp.ClientTimeout(total=None, sock_connect=seconds)
