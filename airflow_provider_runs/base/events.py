"""
The event trigger that schedules DAGs when runs of a service have ended.

Airflow 3.3 and later. All watchers of one connection and scope share one loop (a shared stream of Airflow's),
which looks at the service's lists for all of them; each then tells for itself what is new to it. What a
watcher knows is kept in the state store of its asset, once Airflow has stored the events that came of it: a
triggerer that dies in between sends them again (at least once), and none is lost.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import AsyncIterator, Collection, Hashable, Mapping, Sequence
from typing import Any, ClassVar

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_runs.base.event_poller import LEAST_POLL_INTERVAL, RunEventPoller, group_of
from airflow_provider_runs.base.hook import RunHook
from airflow_provider_runs.core.ends import Ends
from airflow_provider_runs.core.errors import (
    BadInput,
)
from airflow_provider_runs.core.inputs import set_attributes
from airflow_provider_runs.core.run import Run, RunState

try:
    from airflow.triggers.base import BaseEventTrigger
except ImportError:  # before Airflow 3.3
    HAS_SHARED_STREAMS = False
    BaseEventTrigger = BaseTrigger  # type: ignore[assignment, misc]
else:
    HAS_SHARED_STREAMS = True

EVENT_VERSION = 1
OUTCOMES = tuple(state.value for state in RunState if state.is_terminal)

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
    def filter_key(self) -> str:
        """What watchers share one poll of a list by."""
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
        return RunEventPoller(cls(**kwargs))

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        """
        Yield an event for each look that shows ends which are new to this watcher.

        :param shared_stream: the looks.
        """
        record = await self._stored()
        self.ends = Ends(record)
        if record is not None and self.ends.mark is None:
            log.warning("%s: what is stored is not understood, so this watcher begins anew", self.filter_key)
        group = group_of(self.shared_stream_key())
        group.join(self)
        try:
            async for shared in shared_stream:
                result = shared.results.get(self.filter_key)
                if result is None or self not in result.watchers:
                    continue
                before = self.ends.record()
                ended = self.ends.take(result.look, result.polled)
                counting = [run for run in ended if run.state.value in self.outcomes]
                if counting:
                    # One event for all: of two that come before its scheduler looks, Airflow takes the later
                    # one for a DAG run only when a third comes.
                    yield TriggerEvent(self._payload(counting))  # type: ignore[no-untyped-call]
                # Only now: a watcher that is stopped before its event is taken must send it later.
                if self.must_save or self.ends.record() != before:
                    shared.records.append((self, self.ends.record()))
        finally:
            group.leave(self)

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
            log.warning("%s: %s", self.filter_key, message)

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
