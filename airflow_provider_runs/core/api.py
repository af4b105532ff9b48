"""The contract that a service's description fulfils; everything in it is free of I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from airflow_provider_runs.core import clock
from airflow_provider_runs.core.connection import ConnectionSpec, Settings
from airflow_provider_runs.core.errors import BadInput, RunsError
from airflow_provider_runs.core.http import Flow, Response
from airflow_provider_runs.core.inputs import required_text
from airflow_provider_runs.core.masking import environment_secrets, mask, proxy_secrets
from airflow_provider_runs.core.run import Run, StatusTable
from airflow_provider_runs.core.schedule import Pace

Scope = Mapping[str, str]
EXPIRY_MARGIN = 60.0
CONNECT_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """
    A bearer obtained at run time.

    :param value: the secret.
    :param obtained_at: UTC epoch seconds.
    :param lifetime: seconds.
    """

    value: str
    obtained_at: float
    lifetime: float

    def remaining(self, now: float) -> float:
        """
        Return the seconds until it should be renewed: a minute before its end, or at half of a short life.

        :param now: UTC epoch seconds.
        """
        return self.obtained_at + self.lifetime - min(EXPIRY_MARGIN, self.lifetime / 2) - now


class RunApi(ABC):
    """
    Describe one service's run API for one connection.

    :param settings: the connection.
    :param scope: what the caller chose beside the connection (environment, workspace, ...); JSON text values.
    :param now: the clock, UTC epoch seconds.
    :param keep_secret: called with every secret that is obtained at run time, so that logs mask it.
    """

    service: ClassVar[str]
    """The service's name in messages."""
    connection: ClassVar[ConnectionSpec]
    statuses: ClassVar[StatusTable]
    pace: ClassVar[Pace]
    scope_fields: ClassVar[tuple[str, ...]] = ()
    """What a scope may hold."""
    stale_token_statuses: ClassVar[frozenset[int]] = frozenset({401})
    """HTTP statuses that a fresh token may heal."""
    takes_key: ClassVar[bool] = False
    """Whether starting twice with one key starts one run."""
    broken_words: ClassVar[str | None] = None
    """
    Words in an answer of status 429 by which the service is broken, not asked too often. It may have done
    what was asked.
    """

    def __init__(
        self,
        settings: Settings,
        scope: Scope | None = None,
        *,
        now: Callable[[], float] = clock.time,
        keep_secret: Callable[[str], None] = lambda secret: None,
    ) -> None:
        self.settings = settings
        self.scope = dict(scope or {})
        if unknown := sorted(set(self.scope) - set(self.scope_fields)):
            raise BadInput(f"{self.service} runs have no {', '.join(unknown)}")
        for name, value in self.scope.items():
            header_text(name, value)
        self.now = now
        self.keep_secret = keep_secret
        self.token: Token | None = None
        self.request_timeout = settings.number("request_timeout", self.connection.request_timeout)
        self.connect_timeout = settings.number("connect_timeout", CONNECT_TIMEOUT)
        self.proxy = settings.proxy()
        """Proxy that every request takes, as a URL; None: the environment's."""
        self.certificates = settings.certificates()
        self.trigger_timeout = self.request_timeout
        """Seconds that the answer to a start may take."""
        self.max_requests_per_minute = settings.number(
            "max_requests_per_minute", self.pace.max_requests_per_minute
        )

    @property
    def connection_key(self) -> tuple[str, str, str]:
        """What all who use the connection in this process share its rate by, whatever their scope is."""
        return self.service, self.settings.conn_id, self.settings.base_url

    # What every service has

    @abstractmethod
    def trigger(
        self, arguments: Mapping[str, Any], key: str | None = None, began: float | None = None
    ) -> Flow[Run]:
        """
        Start a run.

        :param arguments: the service's own arguments, see its hook's ``trigger_run``.
        :param key: the idempotency key, or the marker by which the run can be found again; never empty.
        :param began: UTC epoch seconds of the first request with this key, the same whenever it is repeated.
        :raises BadInput: if an argument is wrong, or the key is empty; nothing was sent.
        """

    @abstractmethod
    def get(self, run_id: str) -> Flow[Run]:
        """
        Ask about a run.

        :param run_id: the service's id.
        """

    @staticmethod
    def check_run_id(run_id: str) -> None:
        """
        Refuse what cannot be a run's id.

        :param run_id: a text that is not empty.
        :raises BadInput: if it cannot.
        """
        required_text("run_id", run_id)

    @abstractmethod
    def check(self) -> Flow[str]:
        """Make one cheap authenticated read and say in a sentence what it showed."""

    def prepare(self, arguments: Mapping[str, Any]) -> None:
        """
        Check the arguments of a start before anything is sent or recorded.

        :param arguments: as for :meth:`trigger`.
        :raises BadInput: if one of them is wrong.
        """
        self.trigger_body(arguments, None)

    def ready(self, arguments: Mapping[str, Any]) -> Flow[None]:
        """
        Look up what a start needs, before it is recorded that a run may have been started.

        What would be refused, or would do something else than start a run, is refused here.

        :param arguments: as for :meth:`trigger`.
        """
        yield from ()

    @abstractmethod
    def trigger_body(self, arguments: Mapping[str, Any], key: str | None) -> dict[str, Any]:
        """
        Return the body of the request that starts a run.

        :param arguments: as for :meth:`trigger`.
        :param key: as for :meth:`trigger`.
        :raises BadInput: if an argument is wrong.
        """

    # Authentication

    def authenticates(self) -> bool:
        """Tell whether a token has to be obtained before a request."""
        return False

    def authenticate(self) -> Flow[None]:
        """Obtain a token and keep it in :attr:`token`. The driver runs it once for all who wait."""
        yield from ()

    def auth_headers(self) -> dict[str, str]:
        """Return the headers that authenticate a request."""
        return {}

    def token_is_fresh(self, seconds: float) -> bool:
        """
        Tell whether the token need not be renewed for some time.

        :param seconds: how long.
        """
        return self.token is not None and self.token.remaining(self.now()) > seconds

    def secrets(self) -> tuple[str, ...]:
        """Return every secret that this object holds, for redaction."""
        held = (self.settings.password, self.token.value if self.token else None)
        named = tuple(
            str(self.settings.extra[item.name]).strip()
            for item in self.connection.fields
            if item.secret and item.name in self.settings.extra
        )
        proxies = (*proxy_secrets(self.proxy or ""), *environment_secrets())
        return tuple(secret for secret in (*held, *named, *proxies) if secret)

    def is_broken(self, response: Response) -> bool:
        """
        Tell whether an answer of status 429 says that the service is broken, not that it is asked too often.

        :param response: the answer.
        """
        return self.broken_words is not None and self.broken_words.encode() in response.body

    def redact(self, text: str) -> str:
        """
        Return a text of the service with every secret that this object holds masked, however it is written.

        :param text: the text.
        """
        return mask(text, self.secrets())


def header_text(name: str, value: object) -> str:
    """
    Return a value that goes into an HTTP header.

    :param name: what it is, for the message.
    :param value: the value.
    :raises BadInput: if it is no text, empty, or holds anything but printable ASCII.
    """
    if not isinstance(value, str) or not value.strip() or not (value.isascii() and value.isprintable()):
        raise BadInput(f"{name} must be a text of printable ASCII characters and not empty")
    return value.strip()


class CanCancel(ABC):
    """A service whose runs can be cancelled."""

    may_lose_cancels: ClassVar[bool] = False
    """Whether a cancel that was answered well may be without effect: it is sent until the run has ended."""

    @abstractmethod
    def cancel(self, run_id: str) -> Flow[None]:
        """
        Ask the service to cancel a run. Cancelling an ended run does nothing and is no error.

        :param run_id: the service's id.
        """


class CanCancelMany(CanCancel):
    """A service whose runs can be cancelled together."""

    cancel_batch_size: ClassVar[int]
    """Runs that one request cancels at most."""

    @abstractmethod
    def cancel_many(self, run_ids: Sequence[str]) -> Flow[dict[str, RunsError]]:
        """
        Ask the service to cancel runs.

        :param run_ids: the service's ids, :attr:`cancel_batch_size` at most.
        :return: what the service says against it, by run. The run may have ended, which the next poll tells.
        """


class CanExplain(ABC):
    """A service that can say more about a failure than the run itself holds."""

    @abstractmethod
    def explain(self, run_id: str) -> Flow[str | None]:
        """
        Return what belongs in the task log about a run that failed, or None.

        :param run_id: the service's id.
        """


class CanFindStarted(ABC):
    """A service whose runs can be found again by the key that they were started with."""

    @abstractmethod
    def find_started(self, arguments: Mapping[str, Any], key: str, since: float) -> Flow[Run | None]:
        """
        Find the run that was started with a key, None if it surely was not started.

        :param arguments: the arguments that it was started with.
        :param key: the key.
        :param since: UTC epoch seconds before which it was surely not started.
        :raises IncompleteList: if the list that would show it had to be left before its end.
        """


class Unsure(RunsError):
    """
    There are runs that may be the one that was started, and nothing tells.

    :param message: what is known.
    :param runs: the runs, the newest first.
    :param may_tell: whether a later look may tell, because what tells has not happened yet.
    """

    def __init__(self, message: str, runs: Sequence[Run], *, may_tell: bool = False) -> None:
        super().__init__(message)
        self.runs = tuple(runs)
        self.may_tell = may_tell


class CanFindUnmarked(ABC):
    """A service whose runs carry no key: what there was before a start tells which of them may be its own."""

    @abstractmethod
    def snapshot(self, arguments: Mapping[str, Any]) -> Flow[dict[str, Any]]:
        """
        Return what a run that is about to be started can be told by later, as JSON values without secrets.

        :param arguments: as for :meth:`RunApi.trigger`.
        """

    @abstractmethod
    def find_unmarked(self, snapshot: Mapping[str, Any], since: float) -> Flow[Run | None]:
        """
        Return the run that was started after a snapshot, None if there is none that could be it.

        :param snapshot: what :meth:`snapshot` returned just before; empty where that is not known.
        :param since: UTC epoch seconds before which it was surely not started.
        :raises Unsure: if there are runs that could be it, and nothing tells.
        :raises IncompleteList: if the list that would show it had to be left before its end.
        """


class CanListRuns(ABC):
    """A service whose runs can be listed."""

    @abstractmethod
    def list_runs(
        self, filters: Mapping[str, Any], *, since: float | None = None, limit: int | None = None
    ) -> Flow[list[Run]]:
        """
        List runs, the newest first.

        :param filters: the service's own filters, see its hook's ``list_runs``.
        :param since: UTC epoch seconds; runs that were created before are left out.
        :param limit: runs at most; None: all.
        :raises IncompleteList: if the list had to be left before its end.
        """


class CanListActive(CanListRuns):
    """A service whose active runs of what would be started can be listed."""

    @abstractmethod
    def active_filters(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """
        Return the filters that list the active runs of what would be started.

        :param arguments: as for :meth:`RunApi.trigger`.
        """


class CanRetry(ABC):
    """A service that can go on with an ended run where it went wrong."""

    def retry_arguments(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """
        Return the arguments with which a run is retried by the task that started it.

        :param arguments: the arguments that it was started with.
        """
        return {}

    @abstractmethod
    def prepare_retry(self, run_id: str, arguments: Mapping[str, Any]) -> None:
        """
        Check what is asked for before anything is sent or recorded.

        :param run_id: the service's id.
        :param arguments: as for :meth:`retry`.
        :raises BadInput: if it is wrong.
        """

    @abstractmethod
    def check_retry(self, run_id: str, arguments: Mapping[str, Any]) -> Flow[Mapping[str, Any] | None]:
        """
        Refuse a retry that would do nothing or harm, before it is recorded that it may have been begun.

        :param run_id: the service's id.
        :param arguments: as for :meth:`retry`.
        :return: what the run that the retry begins can be told by later (JSON values), or None.
        """

    @abstractmethod
    def retry(self, run_id: str, arguments: Mapping[str, Any]) -> Flow[Run]:
        """
        Repeat what did not succeed in an ended run that was checked, and return the run to wait for.

        :param run_id: the service's id.
        :param arguments: the service's own arguments, see its hook's ``retry_run``.
        """

    @abstractmethod
    def find_retried(
        self,
        run_id: str,
        arguments: Mapping[str, Any],
        since: float,
        known: Mapping[str, Any] | None = None,
    ) -> Flow[Run | None]:
        """
        Return the run that a retry has begun whose answer was lost, or None if it began none.

        :param run_id: the service's id of the run that was to be retried.
        :param arguments: as for :meth:`retry`.
        :param since: UTC epoch seconds before which it was surely not begun, by a worker's clock, which may
            be wrong.
        :param known: what :meth:`check_retry` returned before it was sent; None: an older release kept
            nothing.
        """


class CanGetMany(ABC):
    """A service that can be asked about many runs at once."""

    draw_share: ClassVar[float] = 0.2
    """A batch takes along the runs that are due within this share of their interval."""

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """Runs that one request asks about at most."""

    @abstractmethod
    def get_many(self, run_ids: Sequence[str]) -> Flow[dict[str, Run | Exception]]:
        """
        Ask about many runs. Runs that the answer lacks are asked about singly.

        :param run_ids: the service's ids.
        """
