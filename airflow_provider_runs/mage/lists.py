"""Lists of Mage's runs: what users ask for, the active ones that all polls share, the search for a start."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import CanFindStarted, CanGetMany, CanListActive
from airflow_provider_runs.core.errors import BadInput, NotFound
from airflow_provider_runs.core.http import Flow
from airflow_provider_runs.core.inputs import required_text, unknown_names
from airflow_provider_runs.core.run import Run
from airflow_provider_runs.mage.answers import Row, created_at
from airflow_provider_runs.mage.lookups import ACTIVE_PAGE, PAGE, TRIGGER_FIELDS
from airflow_provider_runs.mage.reasons import MageReasons

MARKER = "airflow_run_key"
# Rows since a moment, which is mostly a recent one. A full row takes Mage some milliseconds. Up to so many
# runs that have ended are polled singly.
FEW = 20
# created_at has whole seconds, and on Postgres it is the start of the transaction.
CLOCK_SLACK = 300.0


class MageLists(MageReasons, CanFindStarted, CanGetMany, CanListActive):
    """List runs, for :class:`~airflow_provider_runs.mage.api.MageRunApi`."""

    def find_started(self, arguments: Mapping[str, Any], key: str, since: float) -> Flow[Run | None]:
        key = required_text("run_key", key)
        schedule = yield from self._number_of(arguments)
        found: list[Run] = []

        def take(rows: list[Row]) -> bool:
            ours = (row for row in rows if row.get("pipeline_schedule_id") == schedule and _has(row, key))
            found.extend(self._run(row) for row in ours)
            return not _is_before(rows[-1], since - (CLOCK_SLACK if found else clock.WORKER_SLACK))

        path, params, what = _list_of(schedule, None)
        yield from self._walk(path, params, "pipeline_runs", what, take)
        # A run retried in Mage's interface copies the marker into a newer run; ours is the oldest.
        return min(found, key=lambda run: int(run.id), default=None)

    def _number_of(self, trigger: Mapping[str, Any]) -> Flow[int]:
        """Return a trigger's id, looked up where it is named by its pipeline."""
        self._check_schedule(trigger)
        if trigger.get("pipeline_uuid") is None:
            return self._schedule_id(trigger)
        return int((yield from self._schedule(trigger))["id"])

    def get_many(self, run_ids: Sequence[str]) -> Flow[dict[str, Run | Exception]]:
        """
        Poll many runs by a list of the active ones, and where many have ended, by one of the completed ones.

        A run that is in neither has ended otherwise, was deleted, or slipped between two pages: it is left
        out, so that it is asked about by itself. So is one that failed while Mage made the list, which tells
        no reasons.

        :param run_ids: the runs' ids.
        :raises IncompleteList: if the list had to be left before its end: to read it again each time would
            cost more than it tells.
        """
        wanted = {int(run_id) for run_id in run_ids if run_id.isdecimal() and run_id.isascii()}
        found: dict[str, Run | Exception] = {}
        yield from self._take_listed("initial,running", wanted, found, ACTIVE_PAGE)
        left = wanted - {int(run_id) for run_id in found}
        if len(left) > FEW:
            yield from self._take_listed("completed", left, found, PAGE, pages=len(left) // PAGE + 2)
        return found

    def _take_listed(
        self,
        status: str,
        wanted: Collection[int],
        found: dict[str, Run | Exception],
        size: int,
        *,
        pages: float = math.inf,
    ) -> Flow[None]:
        """Take what is wanted from a list of the runs of a status, the newest first."""
        lowest, read = min(wanted, default=0), 0

        def take(rows: list[Row]) -> bool:
            nonlocal read
            read += 1
            ours = (row for row in rows if isinstance(row.get("id"), int) and row["id"] in wanted)
            runs = (self._run(row) for row in ours)
            found.update({run.id: run for run in runs if run.status in status.split(",")})
            # Below the lowest id nobody is waited for.
            return int(self._run(rows[-1]).id) >= lowest and read < pages

        params = {
            "status[]": status,
            "_format": "with_basic_details",
            "disable_retries_grouping": "1",
            "order_by[]": "id desc",
        }
        what = f"listing the runs that are {status}"
        yield from self._walk("/api/pipeline_runs", params, "pipeline_runs", what, take, size=size)

    def list_runs(
        self, filters: Mapping[str, Any], *, since: float | None = None, limit: int | None = None
    ) -> Flow[list[Run]]:
        unknown_names("list of Mage runs", filters, (*TRIGGER_FIELDS, "status"))
        status = _statuses(filters.get("status"), self.statuses.all_words())
        named = {name: filters[name] for name in TRIGGER_FIELDS if filters.get(name) is not None}
        by_trigger = "trigger_name" in named or "pipeline_schedule_id" in named
        schedule = (yield from self._number_of(named)) if by_trigger else None
        path, params, what = _list_of(schedule, None if by_trigger else named.get("pipeline_uuid"))
        if status:
            params["status[]"] = status

        rows: list[Row] = []

        def take(fresh: list[Row]) -> bool:
            rows.extend(fresh)
            passed = since is not None and _is_before(fresh[-1], since - CLOCK_SLACK)
            return not passed and (limit is None or len(rows) < limit)

        usual = PAGE if since is None else FEW
        size = usual if limit is None else min(usual, limit)
        yield from self._walk(path, params, "pipeline_runs", what, take, size=size)
        if not rows and named:
            yield from self._exists(schedule, params.get("pipeline_uuid"))
        if schedule is not None and any(row.get("pipeline_schedule_id") != schedule for row in rows):
            # The runs of a trigger that does not exist are those of all triggers.
            raise NotFound(f"Mage has no trigger {schedule}", status=404)
        runs = [self._run(row) for row in rows if since is None or not _is_before(row, since)]
        return runs[:limit]

    def active_filters(self, arguments: Mapping[str, Any]) -> Row:
        named = {name: arguments[name] for name in TRIGGER_FIELDS if arguments.get(name) is not None}
        return {**named, "status": list(self.statuses.active_words())}


def _list_of(schedule: int | None, pipeline: Any) -> tuple[str, dict[str, str], str]:
    """Return path, query parameters and name of a list of runs: of a trigger, a pipeline, or all."""
    params = {"order_by[]": "id desc", "disable_retries_grouping": "1"}
    if schedule is not None:
        path = f"/api/pipeline_schedules/{schedule}/pipeline_runs"
        return path, params, f"listing the runs of trigger {schedule}"
    if pipeline is None:
        return "/api/pipeline_runs", params, "listing runs"
    params["pipeline_uuid"] = required_text("pipeline_uuid", pipeline)
    return "/api/pipeline_runs", params, f"listing runs of pipeline {pipeline!r}"


def _has(row: Row, key: str) -> bool:
    """Tell whether a run has the marker of a start."""
    marks = (row.get("variables"), row.get("event_variables"))
    return any(isinstance(one, dict) and one.get(MARKER) == key for one in marks)


def _is_before(row: Row, moment: float) -> bool:
    created = created_at(row)
    if created is None:
        return False
    # Where Mage keeps whole seconds, a run of the same second may be a later one.
    return created.timestamp() < (moment if created.microsecond else math.floor(moment))


def _statuses(given: Any, known: Sequence[str]) -> str:
    """Return status words as Mage's filter wants them; none where none are given."""
    words = list(given) if isinstance(given, (list, tuple, set)) else [] if given is None else [given]
    if unknown := [word for word in words if word not in known]:
        raise BadInput(f"Mage has no status {unknown[0]!r}; it has {', '.join(known)}")
    return ",".join(words)
