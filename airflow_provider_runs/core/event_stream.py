"""A stream of server-sent events, from the request that opens it to its frames. It does no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from airflow_provider_runs.core.api import RunApi
from airflow_provider_runs.core.body import Decoder, Unreadable
from airflow_provider_runs.core.cycle import RequestCycle, Steps, no_answer
from airflow_provider_runs.core.errors import ApiError, ConnectionFailed, kind_of_status
from airflow_provider_runs.core.http import Request, Response
from airflow_provider_runs.core.retry import NO_RETRY, retry_after
from airflow_provider_runs.core.sse import Frame, Parser, TooLong
from airflow_provider_runs.core.text import excerpt
from airflow_provider_runs.core.turns import Turn

SILENCE = 45.0
"""Seconds without anything whole after which a stream is taken for dead."""
PIECE = 4 * 1024
"""Bytes of a stream after which an event loop turns to its other tasks."""
ACCEPT = {"Accept": "text/event-stream", "Accept-Encoding": "identity", "Cache-Control": "no-store"}


def is_event_stream(status: int, headers: Mapping[str, str]) -> bool:
    """
    Tell whether an answer is a stream of events.

    :param status: its HTTP status.
    :param headers: its headers, names in lower case.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return status == 200 and kind == "text/event-stream"


class EventStream:
    """
    One stream.

    :param api: the service's description.
    :param request: what opens it.
    """

    def __init__(self, api: RunApi, request: Request) -> None:
        self._api = api
        self._request = replace(request, headers={**request.headers, **ACCEPT}, timeout=SILENCE)
        self._parser = Parser()
        self._decoder: Decoder | None = None
        self.failure: ApiError | ConnectionFailed | None = None
        """Why it cannot be read any further."""

    def open(self, cycle: RequestCycle) -> Steps[Any]:
        """
        Open it, and return what the driver reads it from.

        :param cycle: what sends the request.
        :raises ApiError: if the service refuses (Unauthorized and NotFound among it), or answers with
            something else than a stream.
        :raises ConnectionFailed: if there is no answer.
        """
        answer = yield from cycle.exchange(self._request, NO_RETRY, cycle.turns(Turn.POLL), is_stream=True)
        if isinstance(answer, Response):
            raise self._refusal(answer)
        return answer

    def read(self, piece: bytes, encoding: str) -> Iterator[list[Frame]]:
        """
        Take the next bytes and yield what is whole now, in short steps; set :attr:`failure` if it cannot.

        :param piece: the bytes.
        :param encoding: what ``Content-Encoding`` says.
        """
        try:
            if self._decoder is None:
                self._decoder = Decoder(encoding, PIECE)
            for part in self._decoder.feed(piece):
                yield self._parser.feed(part)
        except Unreadable as error:
            self.failure = self.broken_off(error)
        except TooLong as error:
            self.failure = ApiError(
                f"{self._api.service} sent an event that is too long in answer to {self._request}: {error}",
                status=200,
                permanent=True,
            )

    def broken_off(self, error: Exception) -> ConnectionFailed:
        """
        Return the error that means that an open stream has broken off.

        :param error: why.
        """
        what = f"broke off its answer to {self._request}"
        return no_answer(self._api, self._request, error, sent=True, what=what)

    def _refusal(self, response: Response) -> ApiError:
        status = response.status
        said = f"{self._api.service} answered {status} to {self._request}: "
        if 200 <= status < 300:
            said += "no stream of events but "
        error = kind_of_status(status)(
            said + excerpt(response.body, self._api.redact),
            status=status,
            permanent=None if status >= 400 else False,
        )
        error.retry_after = retry_after(response)
        return error
