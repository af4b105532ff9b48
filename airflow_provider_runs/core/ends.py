"""Which runs have ended since the last look: what is remembered between two looks at a service's lists."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from airflow_provider_runs.core.api import CanListActive, CanListRuns
from airflow_provider_runs.core.errors import RunsError
from airflow_provider_runs.core.http import Flow
from airflow_provider_runs.core.run import Run

VERSION = 1
FEW = 20
"""Runs that are looked at for the moment of the newest one."""
LATE = 300.0
"""Seconds by which a run may turn up after a newer one: services stamp a run before they store it."""
MOST_OPEN = 1000
"""Runs that go and are remembered at most."""
MOST_KNOWN = 1600
"""Runs of a record at most, so that it keeps below the 64 KiB that Airflow wants: a UUID takes 40 bytes."""


@dataclass(frozen=True, slots=True)
class Look:
    """
    What the lists of a service held at one moment.

    :param began: the runs that were active when the look began, by id.
    :param runs: those and the recent ones as they were seen last, by id.
    :param recent: ids of the recent ones.
    :param mark: UTC epoch seconds at which the newest run was created that was seen; 0 where there is none.
    """

    began: Collection[str]
    runs: Mapping[str, Run]
    recent: Collection[str]
    mark: float


class CanListRecent(CanListRuns):
    """A service whose list goes past runs that are not asked for: they tell how far it has been read."""

    @abstractmethod
    def list_recent(self, filters: Mapping[str, Any], since: float) -> Flow[tuple[list[Run], float]]:
        """
        List runs, the newest first, and tell when the newest run of any was created that the list holds.

        :param filters: the service's own filters, as for :meth:`list_runs`.
        :param since: UTC epoch seconds; runs that were created before are left out. Infinity: all are, and
            nothing is read but the newest of any.
        :return: the runs, and UTC epoch seconds; 0 where there is no run.
        """


def look_at_lists(api: CanListActive, filters: Mapping[str, Any], mark: float | None) -> Flow[Look]:
    """
    Look at the runs that go and at those that are new.

    :param api: the service's description.
    :param filters: the service's own filters.
    :param mark: UTC epoch seconds at which the newest run was created that is known; None: none is yet.
    """
    if mark is None:
        _, mark = yield from _recent(api, filters, math.inf)
    active = yield from api.list_runs({**filters, **api.active_filters(filters)})
    # Asked last: what it says of a run that both name is newer.
    recent, seen = yield from _recent(api, filters, mark - LATE)
    runs = {run.id: run for run in (*active, *recent)}
    began = {run.id for run in active if not run.state.is_terminal}
    return Look(began, runs, {run.id for run in recent}, max(mark, seen))


def _recent(api: CanListActive, filters: Mapping[str, Any], since: float) -> Flow[tuple[list[Run], float]]:
    if isinstance(api, CanListRecent):
        return (yield from api.list_recent(filters, since))
    if since == math.inf:
        return [], newest((yield from api.list_runs(filters, limit=FEW)))
    runs = yield from api.list_runs(filters, since=since)
    return runs, newest(runs)


def newest(runs: Collection[Run]) -> float:
    """
    Return the UTC epoch seconds at which the newest of several runs was created; 0 if none is known.

    :param runs: the runs; those whose moment the service does not say do not count.
    """
    return max((run.created_at.timestamp() for run in runs if run.created_at is not None), default=0.0)


class Ends:
    """
    Tell which runs have ended since the last look, each once.

    A run's end is seen because the run went at an earlier look, or because it is new; its age and the order
    of the ends do not matter.

    :param record: what :meth:`record` returned before; None, or anything else: only runs that end from now on
        are told.
    """

    def __init__(self, record: Any = None) -> None:
        known = record if _is_record(record) else None
        self.mark: float | None = None if known is None else float(known["mark"])
        self.going: list[str] = [] if known is None else list(known["going"])
        """Runs that went at the last look, the oldest first."""
        self._ended: set[str] = set() if known is None else set(known["ended"])

    def record(self) -> dict[str, Any]:
        """Return what must be known after a restart, as JSON values without secrets."""
        # An end that is forgotten is told twice: rather the oldest that go are left out.
        room = max(MOST_KNOWN - len(self._ended), 0)
        going = self.going[max(len(self.going) - room, 0) :]
        return {"v": VERSION, "mark": self.mark, "going": going, "ended": sorted(self._ended)}

    def _is_old(self, run: Run) -> bool:
        """Tell whether a run is listed only because another watcher, which shares the look, knows less."""
        if self.mark is None or run.created_at is None:
            return False
        return run.created_at.timestamp() < self.mark - LATE

    def unseen(self, look: Look) -> list[str]:
        """
        Return the runs that went at the last look and must be asked about singly: no list has them.

        :param look: a look.
        """
        return [run_id for run_id in self.going if run_id not in look.runs]

    def take(self, look: Look, asked: Mapping[str, Run | RunsError]) -> list[Run]:
        """
        Remember a look, and return the runs whose end it shows, in the order of their ends.

        :param look: the look.
        :param asked: answers about :meth:`unseen`: the run, or why it could not be asked about. A run that
            the service no longer knows is forgotten.
        """
        first = self.mark is None
        known = set(self.going)
        went = known | set(look.began)
        runs = {**look.runs, **{run_id: run for run_id, run in asked.items() if isinstance(run, Run)}}
        ended = []
        going = []
        for run_id in [*self.going, *(each for each in reversed(list(look.runs)) if each not in known)]:
            run = runs.get(run_id)
            if run is None:
                if not is_gone(asked.get(run_id)):
                    going.append(run_id)
            elif not run.state.is_terminal:
                going.append(run_id)
            elif run_id in went or not (first or run_id in self._ended or self._is_old(run)):
                ended.append(run)
        self.going = going[-MOST_OPEN:]
        self.mark = look.mark if self.mark is None else max(self.mark, look.mark)
        recent = (runs[run_id] for run_id in look.recent)
        self._ended = {run.id for run in recent if run.state.is_terminal and not self._is_old(run)}
        return sorted(ended, key=lambda run: run.finished_at.timestamp() if run.finished_at else 0.0)


def _is_record(found: Any) -> TypeGuard[Mapping[str, Any]]:
    if not isinstance(found, Mapping) or found.get("v") != VERSION:
        return False
    mark, lists = found.get("mark"), [found.get("going"), found.get("ended")]
    return (
        isinstance(mark, (int, float))
        and math.isfinite(mark)
        and all(isinstance(each, list) and all(isinstance(run_id, str) for run_id in each) for each in lists)
    )


def is_gone(answer: Run | RunsError | None) -> bool:
    """
    Tell whether the service does not know a run any more.

    :param answer: what it said about the run.
    """
    return getattr(answer, "status", None) == 404
