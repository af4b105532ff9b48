"""From an Airflow connection to a service's run API, for synchronous and asynchronous callers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_runs.base.capabilities import CannotCancel as CannotCancel
from airflow_provider_runs.base.capabilities import CannotRetry as CannotRetry
from airflow_provider_runs.base.capabilities import cancelling, listing, retrying
from airflow_provider_runs.base.connections import describe
from airflow_provider_runs.base.forms import add_form_methods
from airflow_provider_runs.base.loops import LoopDrivers
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import (
    CanCancel,
    CanExplain,
    CanFindStarted,
    CanFindUnmarked,
    RunApi,
)
from airflow_provider_runs.core.drivers import DEFAULT_RETRY, AsyncDriver, Driver
from airflow_provider_runs.core.errors import (
    ConnectionFailed,
    ConnectionUnreadable,
    NoToken,
    RunsError,
    Unauthorized,
    WrongScope,
)
from airflow_provider_runs.core.http import Flow
from airflow_provider_runs.core.inputs import without_none
from airflow_provider_runs.core.many import get_runs
from airflow_provider_runs.core.retry import RetryPolicy
from airflow_provider_runs.core.run import Run
from airflow_provider_runs.core.turns import Turn

T = TypeVar("T")
FlowOf = Callable[[RunApi], Flow[T]]


FEW = 20
"""Active runs that are listed to find the newest: some may have ended while the list was made."""
CONFIRM_INTERVAL = 0.5
"""Seconds between two looks at a run that was cancelled."""
TEST_RETRY = RetryPolicy(attempts=2)
"""Somebody sits before the form whose Test button was pressed."""
TEST_WORDS = (
    (NoToken, ""),
    (ConnectionFailed, "Not reachable: "),
    (WrongScope, "Wrong environment, workspace or project: "),
    (Unauthorized, "Refused: "),
)
"""What a test that failed begins with; errors of other kinds say it by themselves."""


class RunHook(BaseHook):
    """
    Reach one service's run API through an Airflow connection.

    A subclass names its :attr:`api_class`; its constructor takes the connection id under
    ``conn_name_attr`` and each of the API's scope fields. Methods whose names begin with ``a`` are for event
    loops: they return and raise the same as the method that they are named after. ``async with`` or
    :meth:`aclose` closes what they opened in the running loop, as the end of that loop does.

    :param conn_id: the Airflow connection.
    :param scope: what was chosen beside the connection; unset values are left out.
    """

    api_class: ClassVar[type[RunApi]]
    conn_name_attr: ClassVar[str]
    default_conn_name: ClassVar[str]
    conn_type: ClassVar[str]
    hook_name: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        spec = cls.api_class.connection
        cls.conn_type, cls.hook_name = spec.conn_type, spec.hook_name
        add_form_methods(cls, spec)

    def __init__(self, conn_id: str, scope: Mapping[str, str | None] | None = None) -> None:
        super().__init__()
        self.conn_id = conn_id
        self.scope = without_none(scope or {})
        self._async_drivers = LoopDrivers()

    @classmethod
    def for_scope(cls, conn_id: str, scope: Mapping[str, str]) -> RunHook:
        """
        Return the hook for a connection and scope.

        :param conn_id: the Airflow connection.
        :param scope: the API's scope fields.
        """
        arguments: dict[str, Any] = {cls.conn_name_attr: conn_id, **scope}
        return cls(**arguments)

    def get_run(self, run_id: str) -> Run:
        """
        Ask about a run.

        :param run_id: the service's id.
        :return: the run.
        :raises NotFound: if the service does not know it.
        :raises RunsError: if the service cannot be asked.
        """
        return self.drive(lambda api: api.get(run_id))

    async def aget_run(self, run_id: str) -> Run:
        """
        Ask about a run, as :meth:`get_run`.

        :param run_id: the service's id.
        """
        return await self.adrive(lambda api: api.get(run_id))

    def get_runs(self, run_ids: Iterable[str], attempts: int = 3) -> dict[str, Run | RunsError]:
        """
        Ask about many runs: in batches where the service can, and singly what a batch does not answer.

        ``max_requests_per_minute`` of the connection holds for the call.

        :param run_ids: the service's ids; each is asked about once.
        :param attempts: how often a request is sent at most, where it fails.
        :return: for each id, in order, the run, or why the service could not be asked about it (NotFound
            where it does not know the run).
        :raises ConnectionUnreadable: if Airflow does not hand the connection out.
        """
        wanted = list(dict.fromkeys(run_ids))
        return self.drive(lambda api: get_runs(api, wanted), RetryPolicy(attempts)) if wanted else {}

    async def aget_runs(self, run_ids: Iterable[str], attempts: int = 3) -> dict[str, Run | RunsError]:
        """
        Ask about many runs, as :meth:`get_runs`.

        :param run_ids: the service's ids.
        :param attempts: how often a request is sent at most, where it fails.
        """
        wanted = list(dict.fromkeys(run_ids))
        return await self.adrive(lambda api: get_runs(api, wanted), RetryPolicy(attempts)) if wanted else {}

    @property
    def watch_key(self) -> Hashable:
        """What all who wait through one connection and scope share a channel and a poller by."""
        return type(self), self.conn_id, json.dumps(self.scope, sort_keys=True)

    def cancel_run(self, run_id: str) -> None:
        """
        Cancel a run. Cancelling an ended run does nothing.

        :param run_id: the service's id.
        :raises CannotCancel: if the service has no such call.
        :raises RunsError: if the service refuses or cannot be asked.
        """
        self._cancel(run_id, Turn.CALL)

    async def acancel_run(self, run_id: str) -> None:
        """
        Cancel a run, as :meth:`cancel_run`.

        :param run_id: the service's id.
        """
        await self._acancel(run_id, Turn.CALL)

    def _cancel(self, run_id: str, turn: Turn) -> None:
        self.drive(lambda api: cancelling(api).cancel(run_id), turn=turn)

    async def _acancel(self, run_id: str, turn: Turn) -> None:
        await self.adrive(lambda api: cancelling(api).cancel(run_id), turn=turn)

    def cancel_and_confirm(self, run_id: str, seconds: float) -> Run:
        """
        Cancel a run and read back until it has ended, in a hurry: it waits for no other request.

        :param run_id: the service's id.
        :param seconds: how long to read back.
        :return: the run as it was seen last; it may not have ended.
        :raises CannotCancel: if the service has no such call.
        :raises RunsError: if the service refuses or cannot be asked.
        """
        until = clock.monotonic() + seconds
        self._cancel(run_id, Turn.URGENT)
        return self._read_back(run_id, until, Turn.URGENT)

    def wait_until_ended(self, run_id: str, until: float) -> Run:
        """
        Look at a run that was cancelled, every half second, until it has ended.

        Where the service may lose a cancel, it is sent again as long as the run is active.

        :param run_id: the service's id.
        :param until: how long, as a moment of the monotonic clock in seconds. There is one look at least.
        :return: the run as it was seen last; it may not have ended.
        :raises RunsError: if the service cannot be asked.
        """
        return self._read_back(run_id, until, Turn.CALL)

    def _read_back(self, run_id: str, until: float, turn: Turn) -> Run:
        def poll() -> Run:
            return self.drive(lambda api: api.get(run_id), turn=turn)

        while not (run := poll()).state.is_terminal and clock.monotonic() < until:
            if self.may_lose_cancels:
                self._cancel(run_id, turn)
            clock.sleep(CONFIRM_INTERVAL)
        return run

    @property
    def may_lose_cancels(self) -> bool:
        """Whether a cancel that was answered well may be without effect."""
        return issubclass(self.api_class, CanCancel) and self.api_class.may_lose_cancels

    async def acancel_and_confirm(self, run_id: str, seconds: float) -> Run:
        """
        Cancel a run and read back until it has ended, as :meth:`cancel_and_confirm`.

        :param run_id: the service's id.
        :param seconds: how long to read back.
        """
        until = clock.monotonic() + seconds

        async def poll() -> Run:
            return await self.adrive(lambda api: api.get(run_id), turn=Turn.URGENT)

        await self._acancel(run_id, Turn.URGENT)
        while not (run := await poll()).state.is_terminal and clock.monotonic() < until:
            if self.may_lose_cancels:
                await self._acancel(run_id, Turn.URGENT)
            await asyncio.sleep(CONFIRM_INTERVAL)
        return run

    def explain_run(self, run_id: str) -> str | None:
        """
        Return what the service can say about a run's failure beside its status, or None.

        :param run_id: the service's id.
        :raises RunsError: if the service cannot be asked.
        """
        return self.drive(lambda api: api.explain(run_id) if isinstance(api, CanExplain) else _nothing())

    def start(
        self,
        arguments: Mapping[str, Any],
        key: str | None,
        began: float | None = None,
        retry: RetryPolicy = DEFAULT_RETRY,
    ) -> Run:
        """
        Start a run.

        :param arguments: the service's own arguments. One that is None is left out.
        :param key: idempotency key or marker.
        :param began: UTC epoch seconds of the first request with this key.
        :param retry: how long each request is repeated where that is safe.
        :return: the run; its id is empty where the service takes a start and makes the run later.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises RunsError: if the service refuses or does not answer.
        """
        given = without_none(arguments)
        return self.drive(lambda api: api.trigger(given, key, began), retry)

    def newest_active(self, arguments: Mapping[str, Any], retry: RetryPolicy = DEFAULT_RETRY) -> Run | None:
        """
        Return the newest active run of what would be started, whoever started it, or None.

        :param arguments: the service's own arguments of a start.
        :param retry: how long each request is repeated.
        :raises BadInput: if the service cannot list its active runs.
        :raises RunsError: if it cannot be asked.
        """

        def flow(api: RunApi) -> Flow[list[Run]]:
            lists = listing(api)
            return lists.list_runs(lists.active_filters(arguments), limit=FEW)

        return next((run for run in self.drive(flow, retry) if not run.state.is_terminal), None)

    def ready(self, arguments: Mapping[str, Any], retry: RetryPolicy = DEFAULT_RETRY) -> None:
        """
        Look up what a start needs, and refuse what would be refused.

        :param arguments: the service's own arguments.
        :param retry: how long each request is repeated.
        :raises BadInput: if an argument is wrong.
        :raises RunsError: if the service refuses or does not answer; surely nothing was started.
        """
        self.drive(lambda api: api.ready(arguments), retry)

    def check_retry(
        self, run_id: str, arguments: Mapping[str, Any], retry: RetryPolicy = DEFAULT_RETRY
    ) -> Mapping[str, Any] | None:
        """
        Refuse a retry that would do nothing or harm.

        :param run_id: the service's id.
        :param arguments: the service's own arguments.
        :param retry: how long each request is repeated.
        :return: what the run that the retry begins can be told by later (JSON values), or None.
        :raises BadInput: if an argument is wrong.
        :raises CannotRetry: if the service has no such call.
        :raises RunsError: if the run cannot be retried, or the service does not answer.
        """
        return self.drive(lambda api: retrying(api).check_retry(run_id, arguments), retry)

    def retry(self, run_id: str, arguments: Mapping[str, Any], retry: RetryPolicy = DEFAULT_RETRY) -> Run:
        """
        Repeat what did not succeed in an ended run that was checked by :meth:`check_retry`.

        :param run_id: the service's id.
        :param arguments: the service's own arguments.
        :param retry: how long each request is repeated where that is safe.
        :return: the run to wait for.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises CannotRetry: if the service has no such call.
        :raises RunsError: if the service refuses or does not answer.
        """
        return self.drive(lambda api: retrying(api).retry(run_id, arguments), retry)

    def find_retried(
        self,
        run_id: str,
        arguments: Mapping[str, Any],
        since: float,
        known: Mapping[str, Any] | None = None,
        retry: RetryPolicy = DEFAULT_RETRY,
    ) -> Run | None:
        """
        Return the run that a retry has begun whose answer was lost, or None if it began none.

        :param run_id: the service's id of the run that was to be retried.
        :param arguments: the service's own arguments of the retry.
        :param since: UTC epoch seconds before which it was surely not begun, by the clock of a worker.
        :param known: what :meth:`check_retry` returned before it was sent.
        :param retry: how long each request is repeated.
        :raises NotFound: if the service no longer knows the run.
        :raises CannotRetry: if the service has no call that retries.
        :raises RunsError: if the service cannot be asked.
        """
        return self.drive(lambda api: retrying(api).find_retried(run_id, arguments, since, known), retry)

    def find_started(
        self,
        arguments: Mapping[str, Any],
        key: str,
        since: float,
        retry: RetryPolicy = DEFAULT_RETRY,
    ) -> Run | None:
        """
        Return the run that was started with a key, or None.

        :param arguments: the arguments that it was started with.
        :param key: the key.
        :param since: UTC epoch seconds before which it was surely not started.
        :param retry: how long each request is repeated.
        :raises RunsError: if the service cannot be asked.
        """
        return self.drive(
            lambda api: (
                api.find_started(arguments, key, since) if isinstance(api, CanFindStarted) else _nothing()
            ),
            retry,
        )

    def snapshot(
        self, arguments: Mapping[str, Any], retry: RetryPolicy = DEFAULT_RETRY
    ) -> dict[str, Any] | None:
        """
        Return what a run that is about to be started can be told by later; None where that is not needed.

        :param arguments: the service's own arguments.
        :param retry: how long each request is repeated.
        :raises RunsError: if the service cannot be asked; surely nothing was started.
        """
        return self.drive(
            lambda api: api.snapshot(arguments) if isinstance(api, CanFindUnmarked) else _nothing(), retry
        )

    def find_unmarked(
        self, snapshot: Mapping[str, Any], since: float, retry: RetryPolicy = DEFAULT_RETRY
    ) -> Run | None:
        """
        Return the run that was started after a snapshot, or None.

        :param snapshot: what :meth:`snapshot` returned.
        :param since: UTC epoch seconds before which it was surely not started.
        :param retry: how long each request is repeated.
        :raises Unsure: if there are runs that could be it, and nothing tells.
        :raises RunsError: if the service cannot be asked.
        """
        return self.drive(
            lambda api: (
                api.find_unmarked(snapshot, since) if isinstance(api, CanFindUnmarked) else _nothing()
            ),
            retry,
        )

    def test_connection(self) -> tuple[bool, str]:
        """
        Make one cheap authenticated read, for the form's Test button.

        :return: whether it worked, and what it showed: that the service cannot be reached, refuses the
            credentials, or refuses the environment, workspace or project. Never raises.
        """
        try:
            return True, self.drive(lambda api: api.check(), TEST_RETRY)
        except Exception as error:
            return False, next((word for kind, word in TEST_WORDS if isinstance(error, kind)), "") + str(
                error
            )

    @property
    def api(self) -> RunApi:
        """The service's description for this connection, read once."""
        return self._driver.api

    def drive(self, flow_of: FlowOf[T], retry: RetryPolicy = DEFAULT_RETRY, turn: Turn = Turn.CALL) -> T:
        """
        Run an API call and return its result.

        :param flow_of: the call, given the API.
        :param retry: how long each request is repeated where that is safe.
        :param turn: when each request may leave, within ``max_requests_per_minute``.
        :return: what the call returns.
        :raises ConnectionUnreadable: if Airflow does not hand the connection out.
        :raises RunsError: whatever the call raises.
        """
        return self._driver.drive(flow_of(self._driver.api), retry, turn)

    async def adrive(
        self, flow_of: FlowOf[T], retry: RetryPolicy = DEFAULT_RETRY, turn: Turn = Turn.CALL
    ) -> T:
        """
        Run an API call in the running event loop and return its result, as :meth:`drive`.

        :param flow_of: the call, given the API.
        :param retry: how long each request is repeated where that is safe.
        :param turn: when each request may leave, within ``max_requests_per_minute``.
        """
        driver = await self.async_driver()
        return await driver.drive(flow_of(driver.api), retry, turn)

    async def async_driver(self) -> AsyncDriver:
        """
        Return what runs API calls in the running event loop.

        :raises ConnectionUnreadable: if Airflow does not hand the connection out.
        :raises BadInput: if a field of it is wrong.
        """
        return await self._async_drivers.get(self.aread_api)

    async def aclose(self) -> None:
        """Close what the asynchronous methods opened in the running event loop."""
        await self._async_drivers.close()

    async def __aenter__(self) -> RunHook:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aread_api(self) -> RunApi:
        """
        Read the connection off the event loop.

        :return: the service's description for it.
        :raises ConnectionUnreadable: if Airflow does not hand it out.
        :raises BadInput: if a field of it is wrong.
        """
        from airflow.providers.common.compat.connection import get_async_connection

        try:
            connection = await get_async_connection(self.conn_id, hook=type(self))
        except Exception as error:
            raise self._unreadable(error) from error
        return describe(self.api_class, self.conn_id, self.scope, connection)

    def read_api(self) -> RunApi:
        """
        Read the connection.

        :return: the service's description for it.
        :raises ConnectionUnreadable: if Airflow does not hand it out.
        :raises BadInput: if a field of it is wrong.
        """
        try:
            connection = self.get_connection(self.conn_id)
        except Exception as error:
            raise self._unreadable(error) from error
        return describe(self.api_class, self.conn_id, self.scope, connection)

    def _unreadable(self, error: Exception) -> ConnectionUnreadable:
        text = f"connection {self.conn_id!r} cannot be read: {type(error).__name__}: {error}"
        return ConnectionUnreadable(text)

    @cached_property
    def _driver(self) -> Driver:
        return Driver(self.read_api())


def _nothing() -> Flow[None]:
    yield from ()
