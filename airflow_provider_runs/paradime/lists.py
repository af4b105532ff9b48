"""Lists of Paradime's runs and schedules, and the search for a start among the runs of a schedule."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any

from airflow_provider_runs.core.api import CanFindUnmarked, CanListActive, Unsure
from airflow_provider_runs.core.http import Flow
from airflow_provider_runs.core.inputs import integer, one_of, unknown_names
from airflow_provider_runs.core.pages import Page, PageSize, read_pages
from airflow_provider_runs.core.run import Run, RunState
from airflow_provider_runs.paradime.answers import Row, rows_of
from airflow_provider_runs.paradime.lookups import SCHEDULE_FIELDS, ParadimeLookups, schedule_of
from airflow_provider_runs.paradime.operations import RUNS, SCHEDULES

FILTERS = (*SCHEDULE_FIELDS, "state", "newest")
RUNS_PAGE = 50
LARGEST_PAGE = 1000
NEWEST_ACTIVE = 100
# startDttm is the server's clock, and a run that waits for a machine may get it late.
CLOCK_SLACK = 300.0
# It comes without a zone, and nobody says which one is meant.
ZONE_SLACK = 86_400.0
MOST_CANDIDATES = 20
_COMMIT = re.compile(r"[0-9a-f]{7,40}")


class ParadimeLists(ParadimeLookups, CanListActive, CanFindUnmarked):
    """List runs and schedules, for :class:`~airflow_provider_runs.paradime.api.ParadimeRunApi`."""

    @cached_property
    def _page_size(self) -> PageSize:
        return PageSize(LARGEST_PAGE)

    def list_runs(
        self, filters: Mapping[str, Any], *, since: float | None = None, limit: int | None = None
    ) -> Flow[list[Run]]:
        unknown_names("list of Paradime runs", filters, FILTERS)
        _, slug = schedule_of(filters)
        states = self._states(filters.get("state"))
        newest = None
        if filters.get("newest") is not None:
            newest = integer("newest", filters["newest"], at_least=1)
        elif not states:
            newest = limit

        found: list[Run] = []

        def more(rows: list[Row]) -> bool:
            runs = [self._run(row["id"], row.get("state"), row) for row in rows]
            wanted = (run for run in runs if not states or run.status in states)
            found.extend(run for run in wanted if not is_before(run, since, slack=0.0))
            return not is_before(runs[-1], since) and (limit is None or len(found) < limit)

        rows = yield from self._run_rows(slug, newest, more)
        if not rows:
            # An unknown schedule may be answered by an empty list.
            yield from self.get_schedule({"slug": slug})
        return found[:limit]

    def _run_rows(
        self, slug: str | None, newest: int | None, more: Callable[[list[Row]], bool]
    ) -> Flow[list[Row]]:
        """
        Return the rows of runs, the newest first.

        :param slug: those of this schedule; None: of all.
        :param newest: so many at most; None: all.
        :param more: is given the rows of a page that did not come before; tells whether more are wanted.
        :raises IncompleteList: if the list had to be left before its end.
        """
        what = "listing runs" if slug is None else f"listing the runs of schedule {slug!r}"
        named = {} if slug is None else {"slug": slug}
        found: dict[int, Row] = {}

        def ask(offset: int) -> Flow[Page[int]]:
            def ask_for(size: int) -> Flow[Page[int]]:
                answer = yield from self._call(RUNS, {**named, "offset": offset, "limit": size}, what)
                rows = rows_of(answer.get("runs"))
                if rows is None:
                    raise self._bad_answer(what, "without a list of runs")
                return Page(rows, offset + len(rows) if len(rows) >= size else None)

            return (yield from self._page_size.ask(_page_size(newest, len(found)), ask_for))

        def take(rows: list[Row]) -> bool:
            found.update({row["id"]: row for row in rows})
            return more(rows) and (newest is None or len(found) < newest)

        # Runs that were started meanwhile shift the pages.
        self._page_size.widen()
        yield from read_pages(f"{self.service}: {what}", ask, 0, itemgetter("id"), take)
        return list(found.values())

    def _states(self, given: Any) -> frozenset[str]:
        """Return the status words of a filter; none where none are given."""
        words = list(given) if isinstance(given, (list, tuple, set)) else [] if given is None else [given]
        known = [word.upper() for word in self.statuses.all_words()]
        return frozenset(one_of("state", str(word).upper(), known) for word in words)

    def active_filters(self, arguments: Mapping[str, Any]) -> Row:
        named = {name: arguments[name] for name in SCHEDULE_FIELDS if arguments.get(name) is not None}
        return {**named, "state": list(self.statuses.active_words()), "newest": NEWEST_ACTIVE}

    def list_schedules(self, *, show_inactive: bool = False, limit: int | None = None) -> Flow[list[Row]]:
        """
        Return the workspace's schedules as Paradime shows them.

        :param show_inactive: whether to list inactive ones too.
        :param limit: so many at most; None: all.
        :raises IncompleteList: if the list had to be left before its end.
        """
        what = "listing schedules"
        found: list[Row] = []

        def ask(offset: int) -> Flow[Page[int]]:
            def ask_for(size: int) -> Flow[Page[int]]:
                asked = {"offset": offset, "limit": size, "showInactive": show_inactive}
                answer = yield from self._call_or_older(SCHEDULES, asked, what)
                rows = answer.get("schedules")
                if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                    raise self._bad_answer(what, "without a list of schedules")
                return Page(rows, offset + len(rows) if len(rows) >= size else None)

            return (yield from self._page_size.ask(_page_size(limit, len(found)), ask_for))

        def take(rows: list[Row]) -> bool:
            found.extend(rows)
            return limit is None or len(found) < limit

        yield from read_pages(f"{self.service}: {what}", ask, 0, _id_of_schedule, take)
        return found[:limit]

    # The search for a start

    def find_unmarked(self, snapshot: Mapping[str, Any], since: float) -> Flow[Run | None]:
        """
        Look for a run among those of the schedule that were started after a snapshot.

        Paradime keeps nothing by which a run could be told for sure, but its commands: a run that has begun
        commands of ours which the schedule does not have there is ours. Others may be anybody's.

        :param snapshot: what :meth:`snapshot` returned.
        :param since: UTC epoch seconds.
        """
        slug, latest = snapshot.get("slug"), snapshot.get("latest")
        if not isinstance(slug, str) or not isinstance(latest, int):
            raise Unsure("it is not known which Paradime runs there were before the start", ())
        possible = yield from self._candidates(slug, latest, since, snapshot)
        proven: list[Run] = []
        wanted, shared = snapshot.get("commands") or [], snapshot.get("shared", 0)
        are_few = len(possible) <= MOST_CANDIDATES
        if wanted and are_few:
            proven, possible = yield from self._told_by_commands(possible, wanted, shared)
        if len(proven) == 1:
            return proven[0]
        if found := proven or possible:
            named = ", ".join(f"{run.id} ({run.status})" for run in found)
            raise Unsure(
                f"a Paradime run of schedule {slug!r} may have been started, and nothing tells whether it is "
                f"one of those that were started since: {named}",
                found,
                # A run clones and installs before its first command.
                may_tell=len(wanted) > shared
                and not proven
                and are_few
                and any(not run.state.is_terminal for run in possible),
            )
        return None

    def _candidates(
        self, slug: str, latest: int, since: float, snapshot: Mapping[str, Any]
    ) -> Flow[list[Run]]:
        """Return the schedule's runs since a snapshot that may be the one that was asked for."""
        found: list[Run] = []

        def take(rows: list[Row]) -> bool:
            for row in rows:
                run = self._run(row["id"], row.get("state"), row)
                # The id tells. Were a run of our own taken for an older one, another would be started.
                is_older = row["id"] <= latest or is_before(run, since, ZONE_SLACK)
                if not is_older and _is_as_asked(row, snapshot):
                    found.append(run)
            return not is_older

        yield from self._run_rows(slug, None, take)
        return found

    def _told_by_commands(
        self, runs: Sequence[Run], wanted: Sequence[str], shared: int
    ) -> Flow[tuple[list[Run], list[Run]]]:
        """Return which runs are ours by the commands that they have begun, and which may be."""
        proven, possible = [], []
        for run in runs:
            commands = yield from self.list_commands(run.id)
            listed = [digest(str(row.get("command"))) for row in commands]
            is_proven = _begun_of(wanted, listed) > shared
            if is_proven:
                proven.append(run)
            if is_proven or run.state is not RunState.SUCCEEDED or set(wanted[shared:]) <= set(listed):
                possible.append(run)
        return proven, possible


def _page_size(most: int | None, found: int) -> int:
    """Return the rows of the next page, where so many are wanted at most and so many were found."""
    return RUNS_PAGE if most is None else min(most - found, LARGEST_PAGE)


def _id_of_schedule(row: Row) -> str | int | None:
    """Return what tells a schedule from others, of what the server says about it."""
    named = (row.get(name) for name in ("uuid", "id", "name"))
    return next((found for found in named if isinstance(found, (str, int))), None)


def is_before(run: Run, moment: float | None, slack: float = CLOCK_SLACK) -> bool:
    """
    Tell whether a run was surely started before a moment.

    :param run: the run.
    :param moment: UTC epoch seconds; None: before no moment.
    :param slack: seconds by which the run's own time may be wrong.
    """
    if moment is None or run.started_at is None:
        return False
    return run.started_at.timestamp() < moment - slack


def digest(command: str) -> str:
    """
    Return a short text that stands for a command, which may hold what belongs in no record.

    :param command: the command.
    """
    return hashlib.sha256(" ".join(command.split()).encode()).hexdigest()[:16]


def _begun_of(wanted: Sequence[str], listed: Sequence[str]) -> int:
    """Return how many of the wanted commands, from the first on, stand at the end of a run's list."""
    for count in range(min(len(wanted), len(listed)), 0, -1):
        if list(listed[-count:]) == list(wanted[:count]):
            return count
    return 0


def _same_ref(asked: str, branch: str) -> bool:
    return branch == asked or branch.endswith(f"/{asked}") or bool(branch and asked.endswith(f"/{branch}"))


def _same_commit(asked: str, commit: str) -> bool:
    # Either of them may be shortened.
    return bool(commit) and (commit.startswith(asked) or asked.startswith(commit))


def _is_as_asked(row: Row, snapshot: Mapping[str, Any]) -> bool:
    """Tell whether a run may be one that was started with the branch and pull request of a snapshot."""
    git = row.get("gitInfo")
    known = {name: str(value) for name, value in git.items() if value} if isinstance(git, dict) else {}
    asked, branch, commit = snapshot.get("branch"), known.get("branch", ""), known.get("commitHash", "")
    # The commit of a run may not be known yet, its branch is from the start.
    told = commit if asked and _COMMIT.fullmatch(asked) else branch
    if asked and told and not (_same_ref(asked, branch) or _same_commit(asked, commit)):
        return False
    number, pull_request = snapshot.get("pr_number"), known.get("pullRequestId")
    if number and pull_request and str(number) != pull_request:
        return False
    # A retry of another run.
    return row.get("parentScheduleRunId") is None
