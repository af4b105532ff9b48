"""
Lists of Strait's runs, and the question about many runs that is answered by them.

Strait lists runs the newest first, and takes as cursor the moment before which the next page's runs were
created. Runs that share the moment of a page's last one would be left out, so the next page is asked for from
just after it, and what comes twice is dropped.
"""

from __future__ import annotations

import json
import logging
import math
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from typing import Any
from urllib.parse import quote

from airflow_provider_runs.core import pages
from airflow_provider_runs.core.ends import CanListRecent
from airflow_provider_runs.core.errors import ApiError, BadInput, NotFound
from airflow_provider_runs.core.http import Flow, Request
from airflow_provider_runs.core.inputs import json_object, one_of, required_text, unknown_names, without_none
from airflow_provider_runs.core.run import Run, moment
from airflow_provider_runs.strait.answers import DEAD_LETTER, Page, Row, StraitAnswers

TAG = "airflow_provider_runs"
"""Tag of every run that was started through a connection; its value is the connection's id."""
TAG_LENGTH = 256
RUN_KEY_TAG = "airflow_run_key"
"""Tag whose value is the key of a start. Strait copies tags into replays, but no keys."""
PAGE = 100
TIES = 20
"""Runs beside a batch that are created in one moment, at most, where one of them is looked for."""
FEW = 3
"""Up to so many runs are asked about singly, where a list would hardly be cheaper."""
VAIN_SHARE = 10
"""Of so many runs that are looked for, one page may tell nothing."""
# The moment in an id and the moment of creation are read from two clocks.
ID_SLACK = 60.0
# The end of the year 2999: what is later is no moment.
LATEST = 32_503_680_000.0
TEXT_FILTERS = ("tag_key", "tag_value", "metadata_key", "metadata_value", "triggered_by", "batch_id")
# What today's servers filter by, but older ones do not.
LATER_FILTERS = ("execution_mode", "error_class")
FILTERS = ("job_id", "status", *TEXT_FILTERS, *LATER_FILTERS, "payload_contains")
# Strait refuses so where its database does not answer, and then does not know whether it did what was asked.
BROKEN = "admission control"

log = logging.getLogger(__name__)


class StraitLists(StraitAnswers, CanListRecent):
    """List runs, for :class:`~airflow_provider_runs.strait.api.StraitRunApi`."""

    project_id: str | None

    @cached_property
    def _page_size(self) -> pages.PageSize:
        return pages.PageSize(PAGE)

    def _request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str | Sequence[str]] | None = None,
        *,
        safe_to_repeat: bool | None = None,
        **kwargs: Any,
    ) -> Request:
        """Return a call. Those that only read are safe to repeat."""
        return Request(
            method,
            self.settings.base_url + path,
            params=params or {},
            safe_to_repeat=method == "GET" if safe_to_repeat is None else safe_to_repeat,
            **kwargs,
        )

    def _project(self) -> dict[str, str]:
        """Return the query parameter that older servers want, and today's take."""
        return {"project_id": self.project_id} if self.project_id else {}

    # Pages

    def _walk(
        self,
        path: str,
        params: Mapping[str, str | Sequence[str]],
        what: str,
        take: Callable[[list[Row]], bool],
        *,
        start: str | None = None,
        size: int = PAGE,
        skips_ties: bool = False,
    ) -> Flow[bool]:
        """
        Read a list page by page, and tell whether an older server gave it.

        :param path: the list.
        :param params: query parameters beside those of paging.
        :param what: what is done, for messages.
        :param take: is given the rows of a page that did not come before; tells whether more are wanted.
        :param start: cursor of the first page.
        :param size: rows of the first page.
        :param skips_ties: whether to go on past rows of one moment that a page cannot hold, such as those of
            a bulk start: Strait's cursor leads past all of them.
        :raises IncompleteList: if the list had to be left before its end.
        """
        old = False

        def ask(cursor: str | None) -> Flow[pages.Page[str | None]]:
            nonlocal old
            page = yield from self._one_page(path, params, what, cursor, size if cursor == start else PAGE)
            old = page.old
            after, incomplete = _just_after(page.rows[-1]) if page.rows else None, None
            if page.cursor is None or after is None:
                after = page.cursor
            elif after == cursor:
                # From there on is only what has come. Strait's cursor leads on, past all of that moment.
                after = page.cursor
                if len(page.rows) > 1:
                    incomplete = f"there may be more than {len(page.rows)} of {page.rows[-1]['created_at']}"
                if incomplete is not None and skips_ties:
                    log.warning("%s: %s: what a page cannot hold of one moment is not seen", what, incomplete)
                    incomplete = None
            return pages.Page(page.rows, after, page.cursor, incomplete)

        yield from pages.read_pages(f"{self.service}: {what}", ask, start, _id_of, take)
        return old

    def _one_page(
        self,
        path: str,
        params: Mapping[str, str | Sequence[str]],
        what: str,
        cursor: str | None = None,
        size: int = PAGE,
    ) -> Flow[Page]:
        """Return a page, of fewer rows where they are too large for one answer."""
        place = {} if cursor is None else {"cursor": cursor}

        def ask(rows: int) -> Flow[Page]:
            asked = {**self._project(), **params, "limit": str(rows), **place}
            response = yield self._request("GET", path, asked)
            return self._page(response, what, rows)

        return (yield from self._page_size.ask(size, ask))

    # Lists

    def list_runs(
        self, filters: Mapping[str, Any], *, since: float | None = None, limit: int | None = None
    ) -> Flow[list[Run]]:
        return (yield from self._list(filters, since, limit))[0]

    def list_recent(self, filters: Mapping[str, Any], since: float) -> Flow[tuple[list[Run], float]]:
        job = filters.get("job_id")
        if since < math.inf or job is None:
            return (yield from self._list(filters, since, None, skips_ties=True))
        try:
            yield from self.get_job(required_text("job_id", job))
        except NotFound as error:
            # Whoever waits for its runs may have come before it.
            log.warning("there are no runs of job %r: %s", job, error)
        except ApiError as error:
            if not error.permanent or error.status == 401:
                raise
        return (yield from self._list({**filters, "job_id": None}, since, None, skips_ties=True))

    def _list(
        self, filters: Mapping[str, Any], since: float | None, limit: int | None, *, skips_ties: bool = False
    ) -> Flow[tuple[list[Run], float]]:
        """Return runs as :meth:`list_runs`, and when the newest run was created that the list went past."""
        params, words = self._list_filters(filters)
        what = "listing runs"
        wanted = {name: params[name] for name in LATER_FILTERS if name in params}
        if filters.get("job_id") is not None:
            wanted["job_id"] = yield from self._job_id(required_text("job_id", filters["job_id"]))
            what += f" of job {filters['job_id']!r}"
        found: list[Run] = []
        seen = 0.0

        def take(rows: list[Row]) -> bool:
            nonlocal seen
            for row in rows:
                run = self._run(row, what)
                seen = max(seen, run.created_at.timestamp() if run.created_at else 0.0)
                if since is not None and run.created_at and run.created_at.timestamp() < since:
                    return False
                if _is_as_asked(row, params, wanted) and (not words or run.status in words):
                    found.append(run)
            return limit is None or len(found) < limit

        size = PAGE if limit is None or "job_id" in wanted else min(limit, PAGE)
        yield from self._walk("/v1/runs", params, what, take, size=size, skips_ties=skips_ties)
        return found[:limit], seen

    def _list_filters(self, filters: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
        """Return the query parameters of a list, and the status words that are wanted; none: any."""
        unknown_names("list of Strait runs", filters, FILTERS)
        given = without_none(filters)
        if "job_id" in given:
            required_text("job_id", given["job_id"])
        params: dict[str, Any] = {
            name: required_text(name, given[name])
            for name in (*TEXT_FILTERS, *LATER_FILTERS)
            if name in given
        }
        for kind in ("tag", "metadata"):
            if f"{kind}_value" in params and f"{kind}_key" not in params:
                raise BadInput(f"{kind}_value needs {kind}_key")
        if "tag_key" in params and "metadata_key" in params:
            raise BadInput("filter by tag_key or by metadata_key, not by both")
        if "payload_contains" in given:
            params["payload_contains"] = json.dumps(
                json_object("payload_contains", given["payload_contains"])
            )
        words = given.get("status", ())
        words = [words] if isinstance(words, str) else list(words)
        words = [one_of("status", word, self.statuses.all_words()) for word in words]
        # Older servers take one word only, under this name.
        if len(words) == 1:
            params["status"] = words[0]
        elif words:
            params["statuses"] = words
        return params, frozenset(words)

    def list_dlq_runs(self, *, limit: int | None = None) -> Flow[list[Run]]:
        """
        List the runs that are dead letters, the newest first.

        :param limit: so many at most; None: all.
        """
        what = "listing dead letters"
        found: list[Run] = []

        def take(rows: list[Row]) -> bool:
            found.extend(self._run(row, what) for row in rows)
            return limit is None or len(found) < limit

        yield from self._walk("/v1/runs/dlq", {}, what, take, size=min(limit or PAGE, PAGE))
        return found[:limit]

    # Jobs

    def get_job(self, job: str) -> Flow[Row]:
        """
        Return what Strait knows about a job.

        :param job: its id or its slug.
        """
        job = required_text("job", job)
        found = None if _uuid(job) else (yield from self._job_by_slug(job))
        if found is not None:
            return found
        response = yield self._request("GET", f"/v1/jobs/{segment('job', job)}")
        return self._object(response, f"job {job!r}")

    def _job_id(self, job: str) -> Flow[str]:
        """Return the id of a job that is named by its id or its slug."""
        if _uuid(job):
            return job
        try:
            found = yield from self._job_by_slug(job)
        except ApiError as error:
            # A key that may not read jobs, or a server that does not list them, may still know the id.
            if not error.permanent or error.status == 401:
                raise
            found = None
        return job if found is None else str(found["id"])

    def _job_by_slug(self, slug: str) -> Flow[Row | None]:
        found: list[Row] = []

        def take(rows: list[Row]) -> bool:
            found.extend(row for row in rows if row.get("slug") == slug and row.get("id"))
            return not found

        yield from self._walk("/v1/jobs", {"slug": slug}, f"looking for job {slug!r}", take)
        return found[0] if found else None

    # One run, and many

    def _detail(self, run_id: str) -> Flow[Row]:
        what = f"run {run_id}"
        response = yield self._request("GET", run_path(run_id))
        row = self._object(response, what)
        self._run(row, what, run_id)
        return row

    def get(self, run_id: str) -> Flow[Run]:
        """
        Ask about a run.

        A run may leave the dead letters, and Strait may answer from a copy that does not know it yet. Its
        lists do not.

        :param run_id: the run.
        """
        return self._run((yield from self._current(run_id)), f"run {run_id}")

    def _current(self, run_id: str) -> Flow[Row]:
        """Return a run as Strait shows it, from its lists where a copy may be out of date."""
        row = yield from self._detail(run_id)
        after = _just_after(row)
        if row["status"] != DEAD_LETTER or after is None:
            return row
        # Runs of one batch may all be created in one moment.
        batch = row.get("batch_id")
        params, size = ({"batch_id": batch}, PAGE) if batch and isinstance(batch, str) else ({}, TIES)
        try:
            page = yield from self._one_page("/v1/runs", params, f"run {run_id}", after, size)
        except ApiError as error:
            if not error.permanent:
                raise
            return row
        return next((listed for listed in page.rows if listed.get("id") == run_id), row)

    def tag_value(self) -> str:
        """Return the value of :data:`TAG` for the runs that are started through this connection."""
        return self.settings.conn_id[:TAG_LENGTH]

    def get_many(self, run_ids: Sequence[str]) -> Flow[dict[str, Run | Exception]]:
        """
        Ask about many runs by a list of the active ones and a list of those that have ended.

        Only runs that were started through this connection are in them. The others, and those that a list
        would not tell of cheaper, are left out, so that they are asked about singly.

        :param run_ids: the runs' ids.
        """
        self._page_size.widen()
        found: dict[str, Run | Exception] = {}
        missing = set(run_ids)
        # What a list without an end does not show is asked about singly, too.
        with suppress(pages.IncompleteList):
            if not (yield from self._look_for(missing, found, self.statuses.active_words())):
                yield from self._look_for(missing, found, self.statuses.ended_words())
        return found

    def _look_for(
        self, missing: set[str], found: dict[str, Run | Exception], words: Sequence[str]
    ) -> Flow[bool]:
        """Move runs from those that are missing to those that were found; tell whether one list holds all."""
        if len(missing) <= FEW:
            return True
        what = "listing runs"
        params = {
            "tag_key": TAG,
            "tag_value": self.tag_value(),
            "statuses": list(words),
        }
        start, oldest = _created_within(missing)
        vain = 0

        def take(rows: list[Row]) -> bool:
            nonlocal vain
            ours = [row for row in rows if isinstance(row.get("id"), str) and row["id"] in missing]
            for row in ours:
                missing.discard(row["id"])
                try:
                    found[row["id"]] = self._run(row, what)
                except ApiError as error:
                    found[row["id"]] = error
            vain += len(ours) <= 1
            created = moment(rows[-1].get("created_at")) if rows else None
            passed = created is not None and created.timestamp() < oldest
            return not passed and len(missing) > FEW and vain <= len(missing) // VAIN_SHARE

        return (yield from self._walk("/v1/runs", params, what, take, start=start))


def segment(name: str, value: Any) -> str:
    """
    Return a text as a segment of a path.

    :param name: what it is, for the message.
    :param value: the text.
    :raises BadInput: if it is no text, empty, or would lead elsewhere.
    """
    text = required_text(name, value)
    if text in (".", ".."):
        raise BadInput(f"{name} must be an id, not {text!r}")
    return quote(text, safe="", errors="replace")


def run_path(run_id: str, call: str | None = None) -> str:
    """
    Return the path of a run, or of a call about it.

    :param run_id: the run.
    :param call: what follows the run's id.
    :raises BadInput: if that is no run's id.
    """
    return f"/v1/runs/{segment('run_id', run_id)}" + (f"/{call}" if call else "")


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def _created_within(run_ids: Iterable[str]) -> tuple[str | None, float]:
    """Return a cursor just after the newest of runs, and a moment before the oldest, as their ids tell."""
    moments = []
    for run_id in run_ids:
        found = _uuid(run_id)
        made = (found.int >> 80) / 1000 if found is not None and found.version == 7 else math.inf
        if made > LATEST:
            return None, -math.inf
        moments.append(made)
    after = datetime.fromtimestamp(max(moments) + ID_SLACK, UTC)
    return _zulu(after), min(moments) - ID_SLACK


def _id_of(row: Row) -> str | None:
    found = row.get("id")
    return found if isinstance(found, str) else None


def _just_after(row: Mapping[str, Any]) -> str | None:
    """Return the cursor before which a run and all that were created with it lie."""
    created = moment(row.get("created_at"))
    return None if created is None else _zulu(created.add(microseconds=1))


def _zulu(instant: datetime) -> str:
    return instant.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _is_as_asked(row: Row, params: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Tell whether a row is one that was asked for: older servers ignore some filters."""
    tagged = "tag_key" not in params or _has_tag(row, params["tag_key"], params.get("tag_value"))
    return tagged and all(row.get(name) == value for name, value in wanted.items())


def _has_tag(row: Mapping[str, Any], key: str, value: str | None) -> bool:
    tags = row.get("tags")
    return isinstance(tags, dict) and key in tags and (value is None or tags[key] == value)
