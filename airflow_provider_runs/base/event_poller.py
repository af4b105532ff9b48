"""Poll a service's lists for all asset watchers of one connection and scope."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Collection, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from airflow_provider_runs.base.channel import Channel, leave_channel, open_channel
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import CanListActive, RunApi
from airflow_provider_runs.core.ends import Look, is_gone, look_at_lists
from airflow_provider_runs.core.errors import (
    ApiError,
    BadInput,
    ConnectionFailed,
    ConnectionUnreadable,
    RunsError,
)
from airflow_provider_runs.core.http import Flow
from airflow_provider_runs.core.many import get_runs
from airflow_provider_runs.core.retry import backoff_seconds
from airflow_provider_runs.core.run import Run

if TYPE_CHECKING:
    from airflow_provider_runs.base.events import RunEventTrigger

try:
    from airflow.triggers.shared_stream import SharedStreamProducer
except ImportError:  # before Airflow 3.3
    SharedStreamProducer = object  # type: ignore[assignment, misc]

GATHER_SECONDS = 1.0
"""Watchers join one after another when a triggerer starts; one poll is to serve them all."""
LEAST_POLL_INTERVAL = 1.0
BACKOFF_BASE = 1.0
BACKOFF_CAP = 60.0

# Users find the lines of watchers by the name of what they declare.
log = logging.getLogger("airflow_provider_runs.base.events")


class WatcherGroup:
    """The watchers that share a poller."""

    def __init__(self) -> None:
        self.triggers: list[RunEventTrigger] = []
        self.joined = asyncio.Event()
        self.joined_keys: set[str] = set()
        """The filter keys of those who have joined since the last poll."""

    def join(self, trigger: RunEventTrigger) -> None:
        """
        Have the next poll serve a watcher, too, and come soon.

        :param trigger: the watcher.
        """
        self.triggers.append(trigger)
        self.joined_keys.add(trigger.filter_key)
        self.joined.set()

    def leave(self, trigger: RunEventTrigger) -> None:
        """
        Poll for a watcher no more.

        :param trigger: the watcher.
        """
        self.triggers.remove(trigger)


_groups: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, WatcherGroup]] = WeakKeyDictionary()


def group_of(key: Hashable) -> WatcherGroup:
    """
    Return the watchers that share a poller in the running event loop.

    :param key: what they share it by.
    """
    return _groups.setdefault(asyncio.get_running_loop(), {}).setdefault(key, WatcherGroup())


def _by_filter_key(triggers: Sequence[RunEventTrigger]) -> dict[str, list[RunEventTrigger]]:
    filter_keys: dict[str, list[RunEventTrigger]] = {}
    for trigger in triggers:
        filter_keys.setdefault(trigger.filter_key, []).append(trigger)
    return filter_keys


@dataclass(frozen=True, slots=True)
class PollResult:
    """
    What the service said about the runs of one filter key.

    :param look: its lists.
    :param polled: what it said about single runs that were running before and that no list has.
    :param watchers: the watchers whose memory the lists cover.
    """

    look: Look
    polled: Mapping[str, Run | RunsError]
    watchers: Sequence[RunEventTrigger]


@dataclass(slots=True)
class Broadcast:
    """
    What all watchers of a group receive at once.

    :param results: the results by filter key.
    :param records: filled by the watchers: what is to be stored once their events are.
    """

    results: Mapping[str, PollResult]
    records: list[tuple[RunEventTrigger, dict[str, Any]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RetryState:
    """
    The polls of a filter key that fail at present.

    :param times: failures in a row.
    :param is_limited: whether only the service's limit of requests is the cause.
    """

    times: int
    is_limited: bool


class RunEventPoller(SharedStreamProducer):
    """
    Poll a service's lists again and again, for all watchers of a connection and scope.

    :param trigger: any one of the watchers.
    """

    def __init__(self, trigger: RunEventTrigger) -> None:
        self._hook_class, self._conn_id, self._scope = trigger.hook_class, trigger.conn_id, trigger.scope
        self._key = trigger.shared_stream_key()
        self._named = f"{self._hook_class.api_class.service} ({self._conn_id})"
        self._hook = self._hook_class.for_scope(self._conn_id, self._scope)
        self._channel: Channel | None = None
        self._next: dict[str, float] = {}
        """When each filter key is polled next, by the monotonic clock; at once where it is not in here."""
        self._polled_at: dict[str, float] = {}
        """When each filter key was polled last, by the monotonic clock."""
        self._retries: dict[str, RetryState] = {}
        """The filter keys whose polls fail at present: they come after the others."""
        self._partly: set[str] = set()
        """The filter keys of which polling some runs fails, as the log says."""
        self._failures: list[Exception] = []
        """Since the last pause."""

    async def open_stream(self) -> AsyncIterator[tuple[Broadcast, Broadcast]]:
        """Yield each result as soon as it is there, for ever; a failure is logged once and ridden out."""
        group = group_of(self._key)
        while True:
            if not group.triggers:
                await group.joined.wait()
            await asyncio.sleep(GATHER_SECONDS)
            group.joined.clear()
            filter_keys = _by_filter_key(group.triggers)
            interval = min((each.poll_interval for each in group.triggers), default=LEAST_POLL_INTERVAL)
            self._forget_all_but(filter_keys)
            for filter_key in group.joined_keys - self._retries.keys():
                self._next.pop(filter_key, None)
            group.joined_keys.clear()
            for filter_key in self._due(filter_keys):
                was_retries = filter_key in self._retries
                result = await self._poll_key(filter_key, filter_keys[filter_key], interval)
                if result is not None:
                    broadcast = Broadcast({filter_key: result})
                    yield broadcast, broadcast
                elif was_retries:
                    break  # Each may take until its timeout, and the others are not to wait for all of them.
            self._reread_connection(filter_keys)
            wake = min((self._next.get(each, 0.0) for each in filter_keys), default=0.0)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(wake - clock.monotonic(), 0.0)):
                    await group.joined.wait()

    def get_advance_lane(self, broker_payload: Broadcast) -> Hashable:
        """
        Return what is stored in order: one filter key does not wait for the events of others.

        :param broker_payload: what was broadcast.
        """
        return tuple(broker_payload.results)

    async def advance(self, batch: Sequence[Any]) -> None:
        """
        Store what the watchers know: Airflow has stored their events.

        :param batch: broadcasts that all watchers have dealt with.
        """
        for item in batch:
            for trigger, record in item.broker_payload.records:
                if item.outcome.failed == 0:
                    await trigger.keep(record)
                else:
                    # Airflow does not say whose event was lost: that watcher has ended, and begins anew from
                    # what is stored. The next poll stores what the others know.
                    trigger.must_save = True

    async def aclose(self) -> None:
        """Use the way to the service no more."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await leave_channel(self._hook.watch_key, channel)

    def _forget_all_but(self, filter_keys: Collection[str]) -> None:
        for kept in (self._next, self._polled_at, self._retries):
            for gone in kept.keys() - set(filter_keys):
                del kept[gone]
        self._partly &= set(filter_keys)

    def _due(self, filter_keys: Collection[str]) -> list[str]:
        """Return the filter keys that are due, by when they were polled last; those that fail come last."""

        def order(filter_key: str) -> tuple[bool, float]:
            state = self._retries.get(filter_key)
            return state is not None and not state.is_limited, self._polled_at.get(filter_key, 0.0)

        now = clock.monotonic()
        return sorted((each for each in filter_keys if self._next.get(each, 0.0) <= now), key=order)

    async def _poll_key(
        self, filter_key: str, watchers: Sequence[RunEventTrigger], interval: float
    ) -> PollResult | None:
        began = self._polled_at[filter_key] = clock.monotonic()
        try:
            result = await self._poll(watchers)
        except Exception as error:
            state = self._retries.get(filter_key)
            if state is None:
                log.warning(
                    "%s: polling runs of %s failed: %s", self._named, filter_key, self._text_of(error)
                )
            self._failures.append(error)
            times = 0 if state is None else state.times
            pause = 0.0
            if not (is_limited := _is_limit(error)):  # else the limiter of the connection holds back
                times += 1
                backoff = backoff_seconds(times, BACKOFF_BASE, BACKOFF_CAP)
                pause = max(interval + backoff, getattr(error, "retry_after", None) or 0.0)
            self._retries[filter_key] = RetryState(times, is_limited)
            self._next[filter_key] = clock.monotonic() + pause
            return None
        self._next[filter_key] = began + interval
        if self._retries.pop(filter_key, None):
            log.info("%s: polling runs of %s works again", self._named, filter_key)
        return result

    def _text_of(self, error: Exception) -> str:
        if isinstance(error, RunsError):
            return str(error)
        text = "".join(traceback.format_exception(error))
        api = None if self._channel is None else self._channel.api
        return type(error).__name__ if api is None else api.redact(text)

    def _reread_connection(self, filter_keys: Collection[str]) -> None:
        """Have the connection read again where it may be the cause of a failure."""
        failures, self._failures = self._failures, []
        all_fail = self._retries.keys() >= set(filter_keys)
        may_heal = failures and (all_fail or any(_is_of_connection(each) for each in failures))
        if may_heal and self._channel is not None:
            self._channel.reread()

    async def _poll(self, watchers: Sequence[RunEventTrigger]) -> PollResult:
        channel = self._channel = self._channel or open_channel(self._hook.watch_key, self._hook.aread_api)
        marks = [watcher.ends.mark for watcher in watchers if watcher.ends.mark is not None]
        mark = min(marks, default=None)
        look = await channel.send(lambda api: _look(api, watchers[0].filters, mark))
        unseen = list(dict.fromkeys(run_id for watcher in watchers for run_id in watcher.ends.unseen(look)))
        polled = await channel.send(lambda api: get_runs(api, unseen)) if unseen else {}
        self._report_unpolled(watchers[0].filter_key, polled)
        return PollResult(look, polled, tuple(watchers))

    def _report_unpolled(self, filter_key: str, polled: Mapping[str, Run | RunsError]) -> None:
        """Log once that polling some runs failed; the next poll includes them again."""
        errors = [each for each in polled.values() if isinstance(each, RunsError) and not is_gone(each)]
        if errors and filter_key not in self._partly:
            log.warning(
                "%s: polling %s runs of %s failed: %s", self._named, len(errors), filter_key, errors[0]
            )
            self._partly.add(filter_key)
        elif not errors:
            self._partly.discard(filter_key)


def _look(api: RunApi, filters: Mapping[str, Any], mark: float | None) -> Flow[Look]:
    if not isinstance(api, CanListActive):
        raise BadInput(f"{api.service} cannot list runs")
    return (yield from look_at_lists(api, filters, mark))


def _is_limit(error: object) -> bool:
    return isinstance(error, ApiError) and error.is_limit


def _is_of_connection(error: Exception) -> bool:
    """Tell whether another connection may heal an error, whatever was polled."""
    return (
        isinstance(error, (ConnectionFailed, ConnectionUnreadable)) or getattr(error, "status", None) == 401
    )
