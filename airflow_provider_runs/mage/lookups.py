"""What several of Mage's calls have in common: requests, lists, one run, one trigger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any
from urllib.parse import quote

from airflow_provider_runs.core.errors import BadInput, NotFound
from airflow_provider_runs.core.http import Flow, Request
from airflow_provider_runs.core.inputs import integer, required_text
from airflow_provider_runs.core.pages import Page, PageSize, read_pages
from airflow_provider_runs.core.text import one_line
from airflow_provider_runs.mage.answers import MageAnswers, Row

PAGE = 100
ACTIVE_PAGE = 500
"""Rows of a page of the list of active runs."""
TRIGGER_FIELDS = ("pipeline_schedule_id", "pipeline_uuid", "trigger_name")
"""What a trigger is named by: its id, or its pipeline and its name."""


class MageLookups(MageAnswers):
    """Look up runs and triggers, for :class:`~airflow_provider_runs.mage.api.MageRunApi`."""

    @cached_property
    def _page_size(self) -> PageSize:
        return PageSize(ACTIVE_PAGE)

    def _request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        *,
        safe_to_repeat: bool = True,
        **kwargs: Any,
    ) -> Request:
        """Return a call of the generic API, which is asked to tell errors by HTTP status too."""
        return Request(
            method,
            self.settings.base_url + path,
            params={**(params or {}), "_http_error_codes": "1"},
            safe_to_repeat=safe_to_repeat,
            **kwargs,
        )

    def _detail(self, run_id: str) -> Flow[Row]:
        number = run_number(run_id)
        response = yield self._request("GET", f"/api/pipeline_runs/{number}")
        row = self._read(response, "pipeline_run", f"run {run_id}")
        if not isinstance(row, dict) or row.get("id") != number:
            raise self._unusable(response, f"run {run_id}")
        return row

    def _walk(
        self,
        path: str,
        params: Mapping[str, str],
        key: str,
        what: str,
        take: Callable[[list[Row]], bool],
        *,
        size: int = PAGE,
    ) -> Flow[None]:
        """
        Read a list page by page.

        :param path: the list.
        :param params: query parameters beside those of paging.
        :param key: the answer's member that holds the rows.
        :param what: what is done, for messages.
        :param take: is given the rows of a page that did not come before; tells whether more are wanted.
        :param size: rows of a page.
        :raises IncompleteList: if the list had to be left before its end.
        """

        def ask(offset: int) -> Flow[Page[int]]:
            def ask_for(count: int) -> Flow[Page[int]]:
                asked = {**params, "_limit": str(count), "_offset": str(offset)}
                response = yield self._request("GET", path, asked)
                rows, more = self._read_page(response, key, what)
                return Page(rows, offset + count if more else None)

            return (yield from self._page_size.ask(size, ask_for))

        # A run that is created meanwhile moves the others to a later place.
        self._page_size.widen()
        yield from read_pages(f"{self.service}: {what}", ask, 0, _id_of, take)

    # Triggers

    def _check_schedule(self, arguments: Mapping[str, Any]) -> None:
        """Refuse what names no trigger, or two."""
        given = {name for name in TRIGGER_FIELDS if arguments.get(name) is not None}
        if given == {"pipeline_schedule_id"}:
            self._schedule_id(arguments)
        elif "pipeline_schedule_id" in given or "pipeline_uuid" not in given:
            raise BadInput(
                "name the trigger either by pipeline_schedule_id or by pipeline_uuid and trigger_name, not "
                + ("both" if "pipeline_schedule_id" in given else "neither")
            )
        else:
            for name in given:
                required_text(name, arguments[name])

    @staticmethod
    def _schedule_id(arguments: Mapping[str, Any]) -> int:
        return integer("pipeline_schedule_id", arguments["pipeline_schedule_id"], at_least=0)

    def _schedule(self, arguments: Mapping[str, Any]) -> Flow[Row]:
        """Return a trigger by its id, or by its pipeline and its name."""
        if arguments.get("pipeline_uuid") is None:
            return (yield from self._schedule_by_id(self._schedule_id(arguments)))
        pipeline = required_text("pipeline_uuid", arguments["pipeline_uuid"])
        rows: list[Row] = []

        def take(fresh: list[Row]) -> bool:
            rows.extend(fresh)
            return True

        yield from self._walk(
            f"/api/pipelines/{quote(pipeline, safe='')}/pipeline_schedules",
            {},
            "pipeline_schedules",
            f"listing the triggers of pipeline {pipeline!r}",
            take,
        )
        name = arguments.get("trigger_name")
        if name is None:
            wanted, called = [row for row in rows if row.get("schedule_type") == "api"], "API trigger"
        else:
            name = required_text("trigger_name", name)
            wanted, called = [row for row in rows if row.get("name") == name], f"trigger {name!r}"
        if len(wanted) == 1 and isinstance(wanted[0].get("id"), int):
            return wanted[0]
        there = ", ".join(
            f"{one_line(str(row.get('name')), self.redact)!r} ({row.get('id')})" for row in rows
        )
        if wanted:
            raise BadInput(
                f"pipeline {pipeline!r} has {len(wanted)} of {called}: {there}; name one by "
                + ("trigger_name" if name is None else "pipeline_schedule_id")
            )
        raise NotFound(f"pipeline {pipeline!r} in Mage has no {called}; it has {there or 'none'}", status=404)

    def _schedule_by_id(self, schedule: int) -> Flow[Row]:
        what = f"trigger {schedule}"
        response = yield self._request("GET", f"/api/pipeline_schedules/{schedule}")
        row = self._read(response, "pipeline_schedule", what)
        if not isinstance(row, dict) or row.get("id") != schedule:
            raise self._unusable(response, what)
        return row

    def _exists(self, schedule: int | None, pipeline: str | None) -> Flow[None]:
        """Raise NotFound for a trigger or a pipeline that does not exist: Mage lists no runs for both."""
        if schedule is not None:
            yield from self._schedule_by_id(schedule)
            return
        path = f"/api/pipelines/{quote(str(pipeline), safe='')}/pipeline_schedules"
        response = yield self._request("GET", path, {"_limit": "0"})
        self._read(response, "pipeline_schedules", f"pipeline {pipeline!r}")


def _id_of(row: Row) -> int | None:
    found = row.get("id")
    return found if isinstance(found, int) else None


def run_number(run_id: str) -> int:
    """
    Return a run's id as the number that it is.

    :param run_id: the id.
    :raises BadInput: if it is none.
    """
    return integer("run_id", run_id, at_least=0)
