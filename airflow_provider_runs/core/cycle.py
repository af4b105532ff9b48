"""
The cycle of a request: authenticate, send, judge the answer, pause, and again. It does no I/O.

What is to be done is written once, as generators of steps. A driver of
:mod:`~airflow_provider_runs.core.drivers` carries each step out and sends back what came of it.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from math import inf
from typing import Any, TypeVar

from airflow_provider_runs import __version__
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import RunApi, Token
from airflow_provider_runs.core.body import ACCEPTED, TooMuch
from airflow_provider_runs.core.errors import AnswerTooLong, ApiError, ConnectionFailed, NoToken, RunsError
from airflow_provider_runs.core.http import LARGE_JSON, MAX_VALUES, Flow, Request, Response
from airflow_provider_runs.core.limiter import ROUNDING
from airflow_provider_runs.core.masking import mask
from airflow_provider_runs.core.retry import RetryPolicy, had_no_effect, may_repeat, retry_after
from airflow_provider_runs.core.text import one_line
from airflow_provider_runs.core.turns import Turn, Turns, limiter_of

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)
USER_AGENT = f"airflow-provider-runs/{__version__}"
STOP_CHECK_SECONDS = 1.0
"""Seconds after which a pause ends of a call that was stopped."""


@dataclass(frozen=True, slots=True)
class Pause:
    """
    Wait.

    :param seconds: how long.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class ReadJson:
    """
    Read the JSON of a long answer, where nothing else waits for that.

    :param response: the answer.
    """

    response: Response


@dataclass(frozen=True, slots=True)
class Alone:
    """
    Carry out steps while nobody else authenticates, and send back what they return.

    :param steps: the steps.
    """

    steps: Steps[Any]


class Send:
    """
    Send a request once; send back its answer, or the ConnectionFailed that says why there is none.

    It holds no credentials: the driver asks for them at the last moment, and keeps them nowhere.

    :param api: the service's description.
    :param request: the request.
    :param is_stream: whether a stream of events is sent back as soon as it is open.
    """

    def __init__(self, api: RunApi, request: Request, *, is_stream: bool = False) -> None:
        self.api = api
        self.request = request
        self.is_stream = is_stream
        self.used_token: Token | None = None
        """The token with which it was sent last."""

    def headers(self) -> dict[str, str]:
        """Return the headers, with the credentials of this moment."""
        headers = {"Accept": "application/json", "Accept-Encoding": ACCEPTED, "User-Agent": USER_AGENT}
        if self.request.json is not None:
            headers["Content-Type"] = "application/json"
        headers |= self.request.headers
        if self.request.authenticated:
            self.used_token = self.api.token
            headers |= self.api.auth_headers()
        return headers

    def body(self) -> bytes | None:
        """Return the body, if there is one."""
        return None if self.request.json is None else json.dumps(self.request.json).encode()


Step = Pause | ReadJson | Alone | Send
Steps = Generator[Step, Any, T]


class _TokenUse:
    """Which token one request is sent with, and whether another one may help."""

    def __init__(self, api: RunApi, request: Request) -> None:
        self._api = api
        self._request = request
        self._authenticates = request.authenticated and api.authenticates()
        self.is_renewed = False
        """Whether the token was got for this very request, so that a further one would be no better."""
        self._refused: Token | None = None

    def needs_token(self) -> bool:
        if not self._authenticates or self.is_renewed:
            return False
        is_fresh = self._api.token_is_fresh(self._request.timeout or 0.0)
        return self._api.token is self._refused or not is_fresh

    def may_heal(self, answer: Any, used: Token | None) -> bool:
        """Tell whether another token may heal an answer. It may do so once."""
        if (
            not isinstance(answer, Response)
            or answer.status not in self._api.stale_token_statuses
            or not self._authenticates
            or self.is_renewed
            or self._refused is not None
        ):
            return False
        self._refused = used
        return True


class RequestCycle:
    """
    What both drivers do, for one connection.

    :param api: the service's description for the connection.
    """

    def __init__(self, api: RunApi) -> None:
        self.api = api
        self._limiter = limiter_of(api)
        self._failure: RunsError | None = None
        """Why no token was got; whoever waited for it meanwhile does not ask again."""

    def run(self, flow: Flow[T], retry: RetryPolicy, turns: Turns) -> Steps[T]:
        """
        Run a flow to its end and return its result.

        :param flow: what to do.
        :param retry: how long each request is repeated where that is safe.
        :param turns: when its requests may leave.
        :raises RunsError: whatever the flow raises; ConnectionFailed where there is no answer.
        """
        response: Response | None = None
        try:
            request = next(flow)
            while True:
                response = None
                try:
                    response = yield from self.exchange(request, retry, turns)
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
            error.is_limit = turns.failed(self.api, error, response)
            raise
        finally:
            flow.close()

    def turns(self, turn: Turn, *, has_slot: bool = False, seconds: float = inf) -> Turns:
        """
        Return the turns of a call's requests.

        :param turn: when each may leave.
        :param has_slot: whether the connection's limiter has given the first one its slot already.
        :param seconds: after the first request no further one leaves when so many are over.
        """
        return Turns(self._limiter, turn, has_slot=has_slot, seconds=seconds)

    def exchange(
        self, request: Request, retry: RetryPolicy, turns: Turns, *, is_stream: bool = False
    ) -> Steps[Any]:
        """
        Send a request, with a token if it needs one, and return its answer.

        :param request: the request.
        :param retry: how long it is repeated where that is safe.
        :param turns: when it may leave, and each repeat of it.
        :param is_stream: as for :class:`Send`.
        :raises ConnectionFailed: if there is no answer, or no token.
        :raises ApiError: if the service refuses to give a token.
        """
        send, token = Send(self.api, request, is_stream=is_stream), _TokenUse(self.api, request)
        if request.delay:
            yield from _pause(request.delay, retry, unaffected=False)
        while True:
            if token.needs_token():
                failure = yield Alone(self._authenticate(token, retry, turns, self._failure))
                if failure is not None:
                    raise failure
            answer = yield from self._repeated(send, retry, turns)
            if not token.may_heal(answer, send.used_token):
                return answer

    def _repeated(self, send: Send, retry: RetryPolicy, turns: Turns) -> Steps[Any]:
        """Send a request as often as that is safe and may help."""
        may_have_arrived, attempt = False, 0
        while True:
            attempt += 1
            yield from _wait_for_turn(turns, retry)
            if retry.stopped():
                raise ConnectionFailed(f"{send.request} was stopped", sent=may_have_arrived)
            if turns.are_over():
                raise ConnectionFailed(
                    f"{self.api.service} did not answer a whole poll at {self.api.settings.base_url} in time",
                    sent=True,
                )
            outcome = yield from self._sent(send, turns)
            is_lost = isinstance(outcome, ConnectionFailed)
            if send.request.method != "GET" and not had_no_effect(outcome, self.api.broken_words):
                turns.unaffected = False
            may_have_arrived = may_have_arrived or not is_lost or outcome.sent
            if attempt >= retry.attempts or retry.stopped():
                break
            if not may_repeat(send.request, outcome, self.api.broken_words):
                break
            yield from _pause(retry.wait(attempt, outcome), retry, unaffected=turns.unaffected)
        if is_lost:
            # An earlier attempt may have arrived where the last one did not even leave.
            outcome.sent = may_have_arrived
            raise outcome
        return outcome

    def _sent(self, send: Send, turns: Turns) -> Steps[Any]:
        """Send a request once and return its answer, or why there is none."""
        outcome = yield send
        if isinstance(outcome, Response):
            turns.answered(self.api, outcome)
            if len(outcome.body) > LARGE_JSON:
                yield ReadJson(outcome)
                if outcome.has_too_many_values:
                    reason = TooMuch(f"its JSON has more than {MAX_VALUES:,} values")
                    return no_answer(self.api, send.request, reason, sent=True)
        return outcome

    def _authenticate(
        self, token: _TokenUse, retry: RetryPolicy, turns: Turns, earlier: RunsError | None
    ) -> Steps[RunsError | None]:
        """Get a token unless somebody else just has, or has just tried; return why there is none."""
        if not token.needs_token():
            return None
        if self._failure is not None and self._failure is not earlier:
            return self._failure.with_traceback(None)
        unaffected = turns.unaffected
        try:
            yield from self.run(self.api.authenticate(), retry, turns)
        except RunsError as error:
            self._failure = _unsent(error)
            return self._failure
        finally:
            turns.unaffected = unaffected  # a token changes nothing
        token.is_renewed = True
        return None


def _wait_for_turn(turns: Turns, retry: RetryPolicy) -> Steps[None]:
    """Wait until the next request may leave or the call is stopped."""
    with closing(turns.pauses()) as pauses:
        for pause in pauses:
            yield from _pause(pause, retry, unaffected=turns.unaffected)
            if retry.stopped():
                return


def _pause(seconds: float, retry: RetryPolicy, *, unaffected: bool) -> Steps[None]:
    """Wait until the time is over or the call is stopped."""
    retry.before_pause(seconds, unaffected)
    until = clock.monotonic() + seconds
    # Less than what the limiter overlooks: or it would have the call wait again for what is no wait here.
    while (left := until - clock.monotonic()) > ROUNDING / 2 and not retry.stopped():
        yield Pause(min(left, STOP_CHECK_SECONDS))


def bare(error: E) -> E:
    """
    Return an error without the frames in which it was raised: they hold what was to be sent.

    :param error: the error, or what interrupts a task.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def no_answer(
    api: RunApi, request: Request, error: Exception, *, sent: bool, what: str | None = None
) -> ConnectionFailed:
    """
    Return the error that means that a request has no answer.

    :param api: the service's description.
    :param request: the request.
    :param error: what the library raised, which may hold the request as it was sent.
    :param sent: whether its first byte had gone out.
    :param what: what the service did; None: it did not answer.
    """

    def redact(text: str) -> str:
        return mask(api.redact(text), (request.secret,) if request.secret else ())

    reason = one_line(str(error), redact) or "no answer in time"
    if isinstance(error, TooMuch):
        return AnswerTooLong(
            f"{api.service} gave too long an answer to {request} at {api.settings.base_url}: {reason}"
        )
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
