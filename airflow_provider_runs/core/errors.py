"""What can go wrong, by cause: bad input, no answer, an answer that cannot be used."""

from __future__ import annotations

from collections.abc import Callable


class RunsError(Exception):
    """Base of every error that this package raises on its own account."""

    retry_after: float | None = None
    """Seconds that the service asked to wait, set by the driver."""


class BadInput(RunsError, ValueError):
    """An argument or a connection field is wrong; nothing was sent."""


class ConnectionUnreadable(RunsError):
    """Airflow could not hand out the connection: it is missing, or its store does not answer."""


class ConnectionFailed(RunsError):
    """
    The service gave no answer.

    :param message: what happened, without secrets.
    :param sent: whether the request may have reached the service. False only where it surely did not
        (name not resolved, connection refused, TLS handshake failed).
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class AnswerTooLong(ConnectionFailed):
    """
    The service's answer is longer than what is read of one. Sending the request again would bring the same.

    :param message: what happened, without secrets.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=True)


class NoToken(ConnectionFailed):
    """The service answered, but with no token, so that the request which needs one was not sent."""


class ApiError(RunsError):
    """
    The service answered, but not with what was asked for.

    :param message: what happened and what the service said, without secrets.
    :param status: HTTP status, or the service's own code where it hides errors behind HTTP 200.
    :param permanent: whether the same request would fail again for ever. None: judged by the status
        (4xx but 408, 425 and 429).
    """

    def __init__(self, message: str, *, status: int, permanent: bool | None = None) -> None:
        super().__init__(message)
        self.status = status
        if permanent is None:
            permanent = 400 <= status < 500 and status not in {408, 425, 429}
        self.permanent = permanent
        self.is_limit = False
        """Whether the service refused only because there were too many requests."""


class Unauthorized(ApiError):
    """The service refuses the credentials (401) or their rights (403), also with a fresh token."""


class WrongScope(Unauthorized):
    """The credentials are good, but not for the environment, workspace or project that was chosen."""


class NotFound(ApiError):
    """The service does not know the run or the resource."""


def kind_of_status(status: int) -> type[ApiError]:
    """
    Return the class of error that an HTTP status means where nothing else says more.

    :param status: the status.
    """
    return {401: Unauthorized, 403: Unauthorized, 404: NotFound}.get(status, ApiError)


class AlreadyRunning(ApiError):
    """
    The service starts no run while another one of the same goes; nothing was started. A later try may work.

    :param message: what happened and what the service said, without secrets.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, status=409, permanent=False)


def is_too_long(error: RunsError) -> bool:
    """
    Tell whether less should be asked for: the answer is too long for us, or (413) for the service.

    :param error: what a request ended with.
    """
    return isinstance(error, AnswerTooLong) or (isinstance(error, ApiError) and error.status == 413)


def is_permanent(error: RunsError) -> bool:
    """
    Tell whether the same request would fail again for ever.

    :param error: what it ended with.
    """
    return isinstance(error, BadInput) or (isinstance(error, ApiError) and error.permanent)


def as_runs_error(error: BaseException, redact: Callable[[str], str]) -> RunsError:
    """
    Return an error as one of ours: whatever it is, the service said nothing about the run.

    :param error: what a poll ended with.
    :param redact: masks secrets in a text.
    """
    if isinstance(error, RunsError):
        return error
    return ConnectionFailed(f"unexpected error: {redact(f'{type(error).__name__}: {error}')}", sent=True)
