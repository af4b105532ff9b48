"""The loop that looks at a service's lists for all watchers of a connection and scope."""

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
"""Watchers join one after another when a triggerer starts; one look shall serve them all."""
LEAST_POLL_INTERVAL = 1.0
BACKOFF_BASE = 1.0
BACKOFF_CAP = 60.0

# Users find the lines of watchers by the name of what they declare.
log = logging.getLogger("airflow_provider_runs.base.events")


class Members:
    """The watchers of one loop."""

    def __init__(self) -> None:
        self.triggers: list[RunEventTrigger] = []
        self.joined = asyncio.Event()
        self.asked_anew: set[str] = set()
        """The questions of those who have joined since the last look."""

    def join(self, trigger: RunEventTrigger) -> None:
        """
        Have the next look serve a watcher, too, and come soon.

        :param trigger: the watcher.
        """
        self.triggers.append(trigger)
        self.asked_anew.add(trigger.question)
        self.joined.set()

    def leave(self, trigger: RunEventTrigger) -> None:
        """
        Look for a watcher no more.

        :param trigger: the watcher.
        """
        self.triggers.remove(trigger)


_members: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, Members]] = WeakKeyDictionary()


def members_of(key: Hashable) -> Members:
    """
    Return the watchers of a loop.

    :param key: what they share it by.
    """
    return _members.setdefault(asyncio.get_running_loop(), {}).setdefault(key, Members())


def _by_question(triggers: Sequence[RunEventTrigger]) -> dict[str, list[RunEventTrigger]]:
    questions: dict[str, list[RunEventTrigger]] = {}
    for trigger in triggers:
        questions.setdefault(trigger.question, []).append(trigger)
    return questions


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What the service said to one question.

    :param look: its lists.
    :param asked: what it said about single runs that went before and no list has.
    :param asked_for: the watchers whose memory the look covers.
    """

    look: Look
    asked: Mapping[str, Run | RunsError]
    asked_for: Sequence[RunEventTrigger]


@dataclass(slots=True)
class Shared:
    """
    What the watchers of a loop are shown at once.

    :param answers: the answers by question.
    :param records: filled by the watchers: what is to be stored once their events are.
    """

    answers: Mapping[str, Answer]
    records: list[tuple[RunEventTrigger, dict[str, Any]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Trouble:
    """
    A question that is not answered just now.

    :param times: failures in a row.
    :param is_limited: whether only the service's limit of requests is the cause.
    """

    times: int
    is_limited: bool


class RunLists(SharedStreamProducer):
    """
    Look at a service's lists again and again, for all watchers of a connection and scope.

    :param trigger: any one of the watchers.
    """

    def __init__(self, trigger: RunEventTrigger) -> None:
        self._hook_class, self._conn_id, self._scope = trigger.hook_class, trigger.conn_id, trigger.scope
        self._key = trigger.shared_stream_key()
        self._named = f"{self._hook_class.api_class.service} ({self._conn_id})"
        self._hook = self._hook_class.for_scope(self._conn_id, self._scope)
        self._channel: Channel | None = None
        self._next: dict[str, float] = {}
        """When each question is asked next, by the monotonic clock; at once where it is not in here."""
        self._asked_at: dict[str, float] = {}
        """When each question was asked last, by the monotonic clock."""
        self._troubled: dict[str, Trouble] = {}
        """Questions that are not answered just now: they come after the others."""
        self._partly: set[str] = set()
        """Questions of which some runs cannot be asked about, which was said."""
        self._failures: list[Exception] = []
        """Since the last pause."""

    async def open_stream(self) -> AsyncIterator[tuple[Shared, Shared]]:
        """Yield each answer as soon as it is there, for ever; what goes wrong is said once and ridden out."""
        members = members_of(self._key)
        while True:
            if not members.triggers:
                await members.joined.wait()
            await asyncio.sleep(GATHER_SECONDS)
            members.joined.clear()
            questions = _by_question(members.triggers)
            interval = min((each.poll_interval for each in members.triggers), default=LEAST_POLL_INTERVAL)
            self._forget_all_but(questions)
            for question in members.asked_anew - self._troubled.keys():
                self._next.pop(question, None)
            members.asked_anew.clear()
            for question in self._to_ask(questions):
                was_troubled = question in self._troubled
                answer = await self._answer(question, questions[question], interval)
                if answer is not None:
                    shared = Shared({question: answer})
                    yield shared, shared
                elif was_troubled:
                    break  # Each may take until its timeout, and the others are not to wait for all of them.
            self._settle(questions)
            wake = min((self._next.get(each, 0.0) for each in questions), default=0.0)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(wake - clock.monotonic(), 0.0)):
                    await members.joined.wait()

    def get_advance_lane(self, broker_payload: Shared) -> Hashable:
        """
        Return what is stored in order: what comes of one question does not wait for the events of others.

        :param broker_payload: an answer.
        """
        return tuple(broker_payload.answers)

    async def advance(self, batch: Sequence[Any]) -> None:
        """
        Store what the watchers know: Airflow has stored their events.

        :param batch: looks that all watchers have dealt with.
        """
        for item in batch:
            for trigger, record in item.broker_payload.records:
                if item.outcome.failed == 0:
                    await trigger.keep(record)
                else:
                    # Whose event was lost, nobody tells: that watcher has ended, and begins anew from what is
                    # stored. The next look stores what the others know.
                    trigger.must_save = True

    async def aclose(self) -> None:
        """Use the way to the service no more."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await leave_channel(self._hook.watch_key, channel)

    def _forget_all_but(self, questions: Collection[str]) -> None:
        for kept in (self._next, self._asked_at, self._troubled):
            for gone in kept.keys() - set(questions):
                del kept[gone]
        self._partly &= set(questions)

    def _to_ask(self, questions: Collection[str]) -> list[str]:
        """Return the questions whose time has come, by when they were asked last; the troubled come last."""

        def order(question: str) -> tuple[bool, float]:
            trouble = self._troubled.get(question)
            return trouble is not None and not trouble.is_limited, self._asked_at.get(question, 0.0)

        now = clock.monotonic()
        return sorted((each for each in questions if self._next.get(each, 0.0) <= now), key=order)

    async def _answer(
        self, question: str, askers: Sequence[RunEventTrigger], interval: float
    ) -> Answer | None:
        began = self._asked_at[question] = clock.monotonic()
        try:
            answer = await self._ask(askers)
        except Exception as error:
            trouble = self._troubled.get(question)
            if trouble is None:
                log.warning(
                    "%s cannot be asked about runs of %s: %s", self._named, question, self._said(error)
                )
            self._failures.append(error)
            times = 0 if trouble is None else trouble.times
            pause = 0.0
            if not (is_limited := _is_limit(error)):  # else the limiter of the connection holds back
                times += 1
                backoff = backoff_seconds(times, BACKOFF_BASE, BACKOFF_CAP)
                pause = max(interval + backoff, getattr(error, "retry_after", None) or 0.0)
            self._troubled[question] = Trouble(times, is_limited)
            self._next[question] = clock.monotonic() + pause
            return None
        self._next[question] = began + interval
        if self._troubled.pop(question, None):
            log.info("%s can be asked about runs of %s again", self._named, question)
        return answer

    def _said(self, error: Exception) -> str:
        if isinstance(error, RunsError):
            return str(error)
        text = "".join(traceback.format_exception(error))
        api = None if self._channel is None else self._channel.api
        return type(error).__name__ if api is None else api.redact(text)

    def _settle(self, questions: Collection[str]) -> None:
        """Read the connection anew where it may be the cause of a failure."""
        failures, self._failures = self._failures, []
        all_fail = self._troubled.keys() >= set(questions)
        may_heal = failures and (all_fail or any(_is_of_connection(each) for each in failures))
        if may_heal and self._channel is not None:
            self._channel.reread()

    async def _ask(self, askers: Sequence[RunEventTrigger]) -> Answer:
        channel = self._channel = self._channel or open_channel(self._hook.watch_key, self._hook.aread_api)
        marks = [asker.ends.mark for asker in askers if asker.ends.mark is not None]
        mark = min(marks, default=None)
        look = await channel.send(lambda api: _look(api, askers[0].filters, mark))
        unseen = list(dict.fromkeys(run_id for asker in askers for run_id in asker.ends.unseen(look)))
        asked = await channel.send(lambda api: get_runs(api, unseen)) if unseen else {}
        self._tell_of_unasked(askers[0].question, asked)
        return Answer(look, asked, tuple(askers))

    def _tell_of_unasked(self, question: str, asked: Mapping[str, Run | RunsError]) -> None:
        """Say once that some runs cannot be asked about; the next look asks about them again."""
        errors = [each for each in asked.values() if isinstance(each, RunsError) and not is_gone(each)]
        if errors and question not in self._partly:
            log.warning(
                "%s: %s runs of %s cannot be asked about: %s", self._named, len(errors), question, errors[0]
            )
            self._partly.add(question)
        elif not errors:
            self._partly.discard(question)


def _look(api: RunApi, filters: Mapping[str, Any], mark: float | None) -> Flow[Look]:
    if not isinstance(api, CanListActive):
        raise BadInput(f"{api.service} cannot list runs")
    return (yield from look_at_lists(api, filters, mark))


def _is_limit(error: object) -> bool:
    return isinstance(error, ApiError) and error.is_limit


def _is_of_connection(error: Exception) -> bool:
    """Tell whether another connection may heal an error, whatever was asked."""
    return (
        isinstance(error, (ConnectionFailed, ConnectionUnreadable)) or getattr(error, "status", None) == 401
    )
