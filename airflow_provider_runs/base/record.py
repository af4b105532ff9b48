"""
What Airflow's task state store (3.3 and later) keeps of a start: the record, and what it is compared by.

Users' metadata databases hold records: they may only grow, with defaults. ``tests/golden/`` has one.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from airflow_provider_runs.base.exceptions import StartUncertain
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.run import Run

RECORD_KEY = "run"
RECORD_VERSION = 1
WRITE_PAUSES = (1.0, 4.0, 15.0)
"""Seconds after which the id of a run that was started is written once more, where that fails."""


class Store(Protocol):
    """Airflow's task state store."""

    def get(self, key: str) -> Any:
        """
        Return the value under a key, or None.

        :param key: the key.
        """

    def set(self, key: str, value: Any) -> None:
        """
        Keep a JSON value under a key.

        :param key: the key.
        :param value: the value.
        """


@dataclass(frozen=True, slots=True)
class StartRecord:
    """
    What was begun for a task (version 1; it may only grow, with defaults).

    :param max_tries: Airflow's ``max_tries`` when it was begun.
    :param attempt: runs begun in this generation, from 1.
    :param key: the idempotency key or marker.
    :param fingerprint: where it was begun and what was asked for, see :func:`fingerprint_of`.
    :param run_id: the service's id, once known.
    :param started_at: when the request was about to leave, UTC epoch seconds.
    :param resumes: id of the ended run that the request goes on with; None: it starts a new one.
    :param repeated_at: when the same request was about to leave once more, UTC epoch seconds, or None.
    :param refused: whether the service refused the request, so that nothing was begun.
    :param attached: whether the run is one that somebody else started.
    :param left: whether the last try has ended and left the run going: a cancel after that was not its own.
    :param cancelled: whether the task has cancelled the run, or may have: nobody else is to blame then.
    :param clears: how often anything in the DAG run had been cleared when it was begun, or None.
    :param snapshot: what a run without a key, or a retry, can be told by later (JSON values), or None.
    :param delayed_since: since when the service has put the request off, UTC epoch seconds, or None: it was
        surely refused, and is to be sent again.
    """

    max_tries: int
    attempt: int
    key: str
    fingerprint: str
    run_id: str | None
    started_at: float
    resumes: str | None = None
    repeated_at: float | None = None
    refused: bool = False
    attached: bool = False
    left: bool = False
    cancelled: bool = False
    clears: int | None = None
    snapshot: Mapping[str, Any] | None = None
    delayed_since: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record as it is stored."""
        return {"v": RECORD_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, value: Any) -> StartRecord | None:
        """
        Read a stored record.

        :param value: what the store returned.
        :return: the record, or None where there is none.
        :raises StartUncertain: if there is one that cannot be read; a run beside it would be a guess.
        """
        if value is None:
            return None
        wanted: dict[str, Any] = {
            "max_tries": int,
            "attempt": int,
            "key": str,
            "fingerprint": str,
            "run_id": (str, type(None)),
            "started_at": (int, float),
            "resumes": (str, type(None)),
            "repeated_at": (int, float, type(None)),
            "snapshot": (Mapping, type(None)),
            "delayed_since": (int, float, type(None)),
        }
        later = dict.fromkeys(("resumes", "repeated_at", "snapshot", "delayed_since"))
        given = {**later, **value} if isinstance(value, Mapping) else {}
        if (
            given.get("v") == RECORD_VERSION
            and all(name in given and isinstance(given[name], kind) for name, kind in wanted.items())
            and not any(isinstance(given[name], bool) or given[name] == "" for name in wanted)
        ):
            return cls(
                **{name: given[name] for name in wanted},
                refused=given.get("refused") is True,
                attached=given.get("attached") is True,
                left=given.get("left") is True,
                cancelled=given.get("cancelled") is True,
                clears=clears if type(clears := given.get("clears")) is int else None,
            )
        raise StartUncertain(
            f"the task state {RECORD_KEY!r} holds no record that this version of the package can read. "
            "If no run of this task is under way, delete it (task instance, task state) and clear the task"
        )


class RecordKeeper:
    """
    Keep the record of what a try has begun. Its methods may be called from several threads.

    :param store: the task state store; None where Airflow has none: then nothing is stored.
    :param is_stopped: whether the task was told to stop, and has no time to write again.
    :param log: the task's logger.
    """

    def __init__(self, store: Store | None, is_stopped: Callable[[], bool], log: Any) -> None:
        self.run: Run | None = None
        """The run that the record is of, once it is known."""
        self.record: StartRecord | None = None
        """What this try has begun or gone on with."""
        self._store = store
        self._is_stopped = is_stopped
        self._log = log
        self._is_left = False
        self._storing = threading.Lock()

    def take_up(self, record: StartRecord) -> None:
        """
        Go on with what an earlier try has stored.

        :param record: the record.
        """
        with self._storing:
            self.record = record

    def keep(self, record: StartRecord) -> None:
        """
        Store a record.

        :param record: the record.
        """
        with self._storing:
            self.record = record
            if record.run_id is None:
                self.run = None
            self._write(record)

    def complete(self, record: StartRecord, run: Run) -> None:
        """
        Store the id of a run, again where that fails: nothing else may ever find the run.

        :param record: what was begun.
        :param run: the run. A service may take a start and tell no id yet.
        """
        completed, pauses = replace(record, run_id=run.id or None), iter(WRITE_PAUSES)
        while True:
            self.run = run
            try:
                self.keep(completed)
                self.run = run
                return
            except Exception as error:
                told = f"Airflow did not take down run {run.id}: {type(error).__name__}: {error}"
            pause = next(pauses, None)
            if pause is None or self._is_stopped():
                # The run goes, whether it stands in the record or not: rather this try waits for it.
                self._log.error("%s. A retry of the task may not find the run", told)
                return
            self._log.warning("%s. Trying again in %.0f s", told, pause)
            clock.sleep(pause)

    def put_off(self, record: StartRecord, since: float | None) -> None:
        """
        Store that nothing was begun, as the service has put it off.

        :param record: what was to be begun.
        :param since: since when it does so, UTC epoch seconds; None: since now.
        """
        self.keep(replace(record, refused=True, delayed_since=since or clock.time()))

    def leave(self) -> None:
        """Store that this try leaves its run going."""
        with self._storing:
            self._is_left = True
            if self.record is not None:
                self._write(self.record)

    def _write(self, record: StartRecord) -> None:
        if self._store is not None:
            # What an earlier try has left, this one has taken up again.
            self._store.set(RECORD_KEY, replace(record, left=self._is_left).to_json())


def fingerprint_of(where: Any, what: Any) -> str:
    """
    Return a short text that changes when a task asks for something else.

    :param where: connection and scope. A run id means nothing elsewhere.
    :param what: the resource and the mapped item.
    """

    def digest(value: Any) -> str:
        try:
            text = json.dumps(value, sort_keys=True, default=str)
        except (TypeError, ValueError):
            text = repr(value)  # keys of several types; such arguments are refused before anything is sent
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    return f"{digest(where)}.{digest(what)}"
