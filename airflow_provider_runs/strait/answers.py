"""
What Strait's answers mean, those of today's servers and those of older ones.

======================================== ================================================================
answer                                   meaning
======================================== ================================================================
``{"data": [...], "has_more": ...}``     a page of a list
a bare array                             a page of a list of an older server, or a list without pages
``{"error": {"code", "message", ...}}``  an error
``{"error": "text", "request_id": ...}`` an error of an older server
``{"code", "message", "limit", ...}``    a limit of the plan (402), or of the service (503)
any other text                           an error of a limiter (429), a proxy, or a route that is unknown
======================================== ================================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard
from urllib.parse import quote

from airflow_provider_runs.core.api import RunApi
from airflow_provider_runs.core.errors import ApiError, NotFound, Unauthorized
from airflow_provider_runs.core.http import Response, read_object
from airflow_provider_runs.core.run import Run, RunState, StatusTable, moment
from airflow_provider_runs.core.text import excerpt, one_line

Row = dict[str, Any]

DEAD_LETTER = "dead_letter"
REPLAYABLE = ("failed", "timed_out", "crashed", "system_failed")
# An older server may give pages of its default length, however long they are asked for.
OLD_PAGE = 50
# What a start is answered while an earlier one with the same key is under way.
BUSY = re.compile(r"being processed", re.IGNORECASE)
# Strait locks an address after a few failed logins, and refuses good keys from there, too.
LOCKED = re.compile(r"failed authentication", re.IGNORECASE)
_LIMITS = ("kind", "current", "limit", "plan", "upgrade_url")


@dataclass(frozen=True, slots=True)
class Page:
    """
    A page of a list.

    :param rows: what it lists.
    :param cursor: where Strait says that the next page begins; None: it is the last one.
    :param old: whether an older server gave it, which may ignore filters.
    """

    rows: list[Row]
    cursor: str | None
    old: bool


class StraitAnswers(RunApi):
    """Read what Strait answers, for :class:`~airflow_provider_runs.strait.api.StraitRunApi`."""

    service = "Strait"
    statuses = StatusTable(
        {
            RunState.PENDING: ("delayed", "queued", "dequeued", "waiting", "replay_staged"),
            # Nothing in Strait ends a pause.
            RunState.RUNNING: ("executing", "paused"),
            RunState.SUCCEEDED: ("completed",),
            RunState.FAILED: ("failed", "timed_out", "crashed", "system_failed", "expired", DEAD_LETTER),
            RunState.CANCELLED: ("canceled",),
        }
    )
    app_url: str | None

    def run_url(self, run_id: str) -> str | None:
        """
        Return the address of a run's page, None where it is not known where the dashboard is.

        :param run_id: the run.
        """
        return f"{self.app_url}/app/runs/{quote(run_id, safe='')}" if self.app_url else None

    def _object(self, response: Response, what: str) -> Row:
        """Return the object in a good answer; raise what Strait said in any other."""
        self._check(response, what)
        return read_object(response, self.service, self.redact)

    def _rows(self, response: Response, what: str) -> list[Row]:
        """Return the rows in a good answer, whichever server gave it."""
        return self._page(response, what).rows

    def _page(self, response: Response, what: str, asked: int | None = None) -> Page:
        """
        Read a page of a list.

        :param response: the answer.
        :param what: what was asked for, for messages.
        :param asked: rows that were asked for.
        """
        self._check(response, what)
        value = response.json
        old = isinstance(value, list)
        rows = value if old else value.get("data", ()) if isinstance(value, dict) else ()
        rows = [] if rows is None else rows
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self._unusable(response, what, "with no list")
        if old:
            full = asked is not None and len(rows) >= min(asked, OLD_PAGE)
            cursor = rows[-1].get("created_at") if full and rows else None
        else:
            cursor = value.get("next_cursor") if value.get("has_more", True) else None
        return Page(rows, cursor if isinstance(cursor, str) and cursor else None, old)

    def _check(self, response: Response, what: str) -> None:
        if not 200 <= response.status < 300:
            raise self._error(response, what)

    def _is_done(self, response: Response) -> bool:
        """Tell whether Strait did what was asked for. It need say nothing, but a gateway's page is no yes."""
        return 200 <= response.status < 300 and (not response.body or response.is_json)

    def _check_done(self, response: Response, what: str) -> None:
        if not self._is_done(response):
            raise self._error(response, what)

    def _error(self, response: Response, what: str) -> ApiError:
        body = response.json
        body = body if isinstance(body, dict) else {}
        said = self._complaint(body) or excerpt(response.body, self.redact, 500)
        message = f"Strait answered {response.status} to {what}: {said}"
        if isinstance(body.get("request_id"), str):
            message += f" (request {one_line(body['request_id'], self.redact, 100)})"
        named = f"connection {self.settings.conn_id!r}"
        if response.status == 401:
            return Unauthorized(f"{message}. Check the API key of {named}", status=401)
        if response.status == 403:
            return Unauthorized(f"{message}. Check the scopes of the API key of {named}", status=403)
        if response.status == 404:
            return NotFound(f"{message}. Check the id, and the project of {named}", status=404)
        if response.status == 429 and LOCKED.search(said):
            message += (
                ". Strait locks an address for the failed logins of any key: check all Strait connections"
            )
        # The same start is answered in full once the earlier one is through.
        busy = response.status == 409 and BUSY.search(said) is not None
        return ApiError(message, status=response.status, permanent=False if busy else None)

    def _complaint(self, body: Mapping[str, Any]) -> str:
        """Return what an error's body says, empty where it says nothing."""
        error = body.get("error")
        if isinstance(error, str):
            return one_line(error, self.redact)
        told = error if isinstance(error, dict) else body
        if not isinstance(told.get("message"), str):
            return ""
        details = told.get("details")
        parts = [told["message"], *(details if isinstance(details, list) else ())]
        if told is body:
            parts += [f"{name} {body[name]}" for name in _LIMITS if body.get(name) is not None]
        return "; ".join(one_line(str(part), self.redact) for part in parts[:8])

    def _unusable(self, response: Response, what: str, how: str) -> ApiError:
        return ApiError(
            f"Strait answered {what} {how}: {excerpt(response.body, self.redact)}",
            status=response.status,
            permanent=False,
        )

    def _run_of(self, response: Response, what: str, run_id: str | None = None) -> Run:
        """Return the run that a good answer shows; where its id is known, it must be that one."""
        return self._run(self._object(response, what), what, run_id)

    def _run(self, row: Mapping[str, Any], what: str, run_id: str | None = None) -> Run:
        found, status = row.get("id"), row.get("status")
        if not _is_word(found) or not _is_word(status):
            raise ApiError(
                f"Strait answered {what} with a run without id and status", status=200, permanent=False
            )
        if run_id is not None and found != run_id:
            raise ApiError(f"Strait answered {what} with another run", status=200, permanent=False)
        error, kind = row.get("error"), row.get("error_class")
        message = one_line(error, self.redact, 1000) if isinstance(error, str) else ""
        if message and _is_word(kind):
            message += f" ({kind})"
        return Run(
            found,
            self.statuses.state(status),
            status,
            self.run_url(found),
            message or None,
            moment(row.get("started_at")),
            moment(row.get("finished_at")),
            moment(row.get("created_at")),
        )


def _is_word(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()
