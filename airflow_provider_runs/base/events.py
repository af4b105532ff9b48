"""
The event trigger that schedules DAGs when runs of a service have ended.

Airflow 3.3 and later. All watchers of one connection and scope share one loop (a shared stream of Airflow's),
which looks at the service's lists for all of them; each then tells for itself what is new to it. What a
watcher knows is kept in the state store of its asset, once Airflow has stored the events that came of it: a
triggerer that dies in between sends them again (at least once), and none is lost.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import traceback
from collections.abc import AsyncIterator, Collection, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_runs.base.hook import RunHook
from airflow_provider_runs.base.turns import TOO_MANY_REQUESTS, Turn, arun_flow
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import CanListActive, RunApi
from airflow_provider_runs.core.ends import Ends, Look, is_gone, look_at_lists
from airflow_provider_runs.core.errors import (
    BadInput,
    ConnectionFailed,
    ConnectionUnreadable,
    RunsError,
)
from airflow_provider_runs.core.inputs import set_attributes
from airflow_provider_runs.core.retry import NO_RETRY, backoff_seconds
from airflow_provider_runs.core.run import Run, RunState

try:
    from airflow.triggers.base import BaseEventTrigger
    from airflow.triggers.shared_stream import SharedStreamProducer
except ImportError:  # before Airflow 3.3
    HAS_SHARED_STREAMS = False
    BaseEventTrigger = BaseTrigger  # type: ignore[assignment, misc]
    SharedStreamProducer = object  # type: ignore[assignment, misc]
else:
    HAS_SHARED_STREAMS = True

EVENT_VERSION = 1
OUTCOMES = tuple(state.value for state in RunState if state.is_terminal)
GATHER_SECONDS = 1.0
"""Watchers join one after another when a triggerer starts; one look shall serve them all."""
LEAST_POLL_INTERVAL = 1.0
BACKOFF_BASE = 1.0
BACKOFF_CAP = 60.0
REREAD_SECONDS = 600.0

log = logging.getLogger(__name__)


class RunEventTrigger(BaseEventTrigger):
    """
    Fire an event when runs have ended, for an ``AssetWatcher``. Airflow 3.3 and later.

    Runs whose ends one look shows are told by one event, each run once.

    The class path and the arguments are kept in Airflow's metadata database: they may only grow, with
    defaults. They hold JSON values and no secret.

    :param outcomes: which ends count: one or several of ``succeeded``, ``failed`` and ``cancelled``.
    :param poll_interval: seconds between two looks; the shortest of all watchers of the connection counts.
    :raises BadInput: if an argument is wrong.
    :raises NotImplementedError: on an Airflow before 3.3.
    """

    hook_class: ClassVar[type[RunHook]]
    filter_fields: ClassVar[tuple[str, ...]]
    """Attributes by which the service's lists are filtered."""

    def __init__(
        self, *, outcomes: Collection[str] | str = ("succeeded",), poll_interval: float = 60.0
    ) -> None:
        if not HAS_SHARED_STREAMS:
            raise NotImplementedError(f"{type(self).__name__} needs Airflow 3.3 or later")
        super().__init__()  # type: ignore[no-untyped-call]
        named = [outcomes] if isinstance(outcomes, str) else list(outcomes)
        if not named or not set(named) <= set(OUTCOMES):
            raise BadInput(f"outcomes must be one or several of {', '.join(OUTCOMES)}")
        self.outcomes = sorted(set(named))
        if isinstance(poll_interval, bool) or not isinstance(poll_interval, (int, float)):
            raise BadInput("poll_interval must be a number of seconds")
        if not LEAST_POLL_INTERVAL <= poll_interval < math.inf:
            raise BadInput(f"poll_interval must be at least {LEAST_POLL_INTERVAL:g} second")
        self.poll_interval = float(poll_interval)
        self.ends = Ends()
        self.must_save = False
        """Whether what this watcher knows is not stored although it should be."""
        self._told: set[str] = set()
        """Troubles with the store that the log knows already."""

    @property
    def filters(self) -> dict[str, Any]:
        """What the service's lists are filtered by."""
        return set_attributes(self, self.filter_fields)

    @property
    def scope(self) -> dict[str, str]:
        """What was chosen beside the connection."""
        return set_attributes(self, self.hook_class.api_class.scope_fields)

    @property
    def conn_id(self) -> str:
        """The Airflow connection."""
        return str(getattr(self, self.hook_class.conn_name_attr))

    @property
    def question(self) -> str:
        """What watchers share one look at a list by."""
        return json.dumps(self.filters, sort_keys=True)

    @property
    def state_key(self) -> str:
        """The key in the asset's state store: an asset may have several watchers."""
        told = [self._path(), self.conn_id, self.scope, self.filters, self.outcomes]
        return f"runs-{hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]}"

    def check(self) -> None:
        """
        Refuse a watcher of nothing in particular; called by the constructors.

        :raises BadInput: if no filter is given.
        """
        if not self.filters:
            raise BadInput(f"give {' or '.join(self.filter_fields)}")

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments."""
        names = (
            self.hook_class.conn_name_attr,
            *self.hook_class.api_class.scope_fields,
            *self.filter_fields,
            "outcomes",
            "poll_interval",
        )
        return self._path(), {name: getattr(self, name) for name in names}

    def shared_stream_key(self) -> Hashable:
        """Return what watchers share one loop by: the service, the connection and the scope."""
        return self._path(), self.conn_id, json.dumps(self.scope, sort_keys=True)

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> Any:
        """
        Return the loop of all watchers that share a key.

        :param kwargs: the arguments of any one of them.
        """
        return RunLists(cls(**kwargs))

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        """
        Yield an event for each look that shows ends which are new to this watcher.

        :param shared_stream: the looks.
        """
        record = await self._stored()
        self.ends = Ends(record)
        if record is not None and self.ends.mark is None:
            log.warning("%s: what is stored is not understood, so this watcher begins anew", self.question)
        members = _members_of(self.shared_stream_key())
        members.join(self)
        try:
            async for shared in shared_stream:
                answer = shared.answers.get(self.question)
                if answer is None or self not in answer.asked_for:
                    continue
                before = self.ends.record()
                ended = self.ends.take(answer.look, answer.asked)
                counting = [run for run in ended if run.state.value in self.outcomes]
                if counting:
                    # One event for all: of two that come before its scheduler looks, Airflow takes the later
                    # one for a DAG run only when a third comes.
                    yield TriggerEvent(self._payload(counting))  # type: ignore[no-untyped-call]
                # Only now: a watcher that is stopped before its event is taken must send it later.
                if self.must_save or self.ends.record() != before:
                    shared.records.append((self, self.ends.record()))
        finally:
            members.leave(self)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Refuse to run alone: Airflow serves this trigger by its shared stream."""
        raise NotImplementedError(f"{type(self).__name__} needs the shared streams of Airflow 3.3 or later")
        yield  # makes it a generator

    async def keep(self, record: Mapping[str, Any]) -> None:
        """
        Store what this watcher knows; after a failure, which is logged, the next look tries again.

        :param record: what :meth:`Ends.record` returned.
        """
        try:
            for store in self._stores():
                await store.aset(self.state_key, dict(record))
        except Exception as error:
            self.must_save = True
            self._warn_once(f"what is known cannot be stored just now: {error}", "storing")
        else:
            self.must_save = False
            self._told.discard("storing")

    async def _stored(self) -> Any:
        records = [
            record for store in self._stores() if (record := await store.aget(self.state_key)) is not None
        ]
        understood = (record for record in records if Ends(record).mark is not None)
        return next(understood, records[0] if records else None)

    def _stores(self) -> Sequence[Any]:
        """Return the state stores of the assets that this trigger watches: equal watchers are one trigger."""
        accessors = getattr(self, "asset_state_store", None)
        if accessors is None:
            return []
        # Airflow has no public way to all of them.
        by_name = getattr(accessors, "_by_name", None)
        if not isinstance(by_name, Mapping):
            self._warn_once(
                "this Airflow shows no state store, so what is known ends with the triggerer", "none"
            )
            return []
        return list(by_name.values())

    def _warn_once(self, message: str, topic: str) -> None:
        if topic not in self._told:
            self._told.add(topic)
            log.warning("%s: %s", self.question, message)

    def _payload(self, runs: Sequence[Run]) -> dict[str, Any]:
        return {
            "v": EVENT_VERSION,
            "service": self.hook_class.api_class.service,
            "conn_id": self.conn_id,
            "scope": self.scope,
            "resource": self.filters,
            "runs": [_as_json(run) for run in runs],
        }

    @classmethod
    def _path(cls) -> str:
        return f"{cls.__module__}.{cls.__qualname__}"


def _as_json(run: Run) -> dict[str, Any]:
    times = {"created_at": run.created_at, "started_at": run.started_at, "finished_at": run.finished_at}
    return {
        "run_id": run.id,
        "outcome": run.state.value,
        "status": run.status,
        "url": run.url,
        **{name: None if moment is None else moment.isoformat() for name, moment in times.items()},
    }


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


def _members_of(key: Hashable) -> Members:
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
        self._hook: RunHook | None = None
        self._read_at = 0.0
        self._api: RunApi | None = None
        """The service's description that was used last."""
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
        members = _members_of(self._key)
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
            await self._settle(questions)
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
        """Close the client session."""
        hook, self._hook = self._hook, None
        if hook is not None:
            await hook.aclose()

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
        return type(error).__name__ if self._api is None else self._api.redact(text)

    async def _settle(self, questions: Collection[str]) -> None:
        """Read the connection anew where it may be the cause of a failure."""
        failures, self._failures = self._failures, []
        all_fail = self._troubled.keys() >= set(questions)
        if failures and (all_fail or any(_is_of_connection(each) for each in failures)):
            await self._close()

    async def _close(self) -> None:
        try:
            await self.aclose()
        except Exception as error:
            log.warning("%s: closing the client session failed: %s", self._named, self._said(error))

    async def _ask(self, askers: Sequence[RunEventTrigger]) -> Answer:
        if self._hook is None or clock.monotonic() - self._read_at > REREAD_SECONDS:
            await self._close()
            self._hook = self._hook_class.for_scope(self._conn_id, self._scope)
            self._read_at = clock.monotonic()
        hook = self._hook
        marks = [asker.ends.mark for asker in askers if asker.ends.mark is not None]
        driver = await hook.async_driver()
        api = self._api = driver.api
        if not isinstance(api, CanListActive):
            raise BadInput(f"{api.service} cannot list runs")
        flow = look_at_lists(api, askers[0].filters, min(marks, default=None))
        look = await arun_flow(driver, flow, NO_RETRY, Turn.POLL)
        unseen = list(dict.fromkeys(run_id for asker in askers for run_id in asker.ends.unseen(look)))
        asked = await hook.aget_runs(unseen, attempts=1) if unseen else {}
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


def _is_limit(error: object) -> bool:
    return getattr(error, "status", None) == TOO_MANY_REQUESTS


def _is_of_connection(error: Exception) -> bool:
    """Tell whether another connection may heal an error, whatever was asked."""
    return (
        isinstance(error, (ConnectionFailed, ConnectionUnreadable)) or getattr(error, "status", None) == 401
    )
