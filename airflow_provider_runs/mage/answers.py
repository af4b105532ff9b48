"""
What Mage's answers mean: runs, lists, logs and errors.

Mage answers nearly every error with HTTP 200 and an ``error`` object, so an answer counts as good only if it
holds the expected key and no ``error``.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_provider_runs.core.api import RunApi
from airflow_provider_runs.core.errors import ApiError, NotFound, Unauthorized
from airflow_provider_runs.core.http import Response
from airflow_provider_runs.core.run import Run, RunState, StatusTable, moment
from airflow_provider_runs.core.text import excerpt, one_line

if TYPE_CHECKING:
    from pendulum import DateTime

Row = dict[str, Any]

# Texts of error.exception that say that a call did nothing and never will (contract section 2).
REFUSED = (
    "only supported for API trigger",
    "invalid literal for int()",
    "Expecting property name",
    "Expecting value",
    "object has no attribute 'get'",
    "is not iterable",
    "does not exist in repo_path",
    "invalid keyword argument for PipelineRun",
)
NO_PIPELINE = re.compile(r"Pipeline .+ does not exist\.")
LOG_LINE = re.compile(r"\S+ (\{.*\})")


class MageAnswers(RunApi):
    """Read what Mage answers, for :class:`~airflow_provider_runs.mage.api.MageRunApi`."""

    service = "Mage"
    statuses = StatusTable(
        {
            RunState.PENDING: ("initial",),
            RunState.RUNNING: ("running",),
            RunState.SUCCEEDED: ("completed",),
            RunState.FAILED: ("failed",),
            RunState.CANCELLED: ("cancelled",),
        }
    )
    dashboard_url: str

    def _read(self, response: Response, key: str, what: str) -> Any:
        """Return what a good answer holds under a key; raise what Mage said in any other."""
        return self._answer(response, key, what)[key]

    def _answer(self, response: Response, key: str, what: str) -> Row:
        answer = response.json
        error = answer.get("error") if isinstance(answer, dict) else None
        if isinstance(error, dict):
            raise self._error(error, response, what)
        if response.status != 200:
            raise self._not_from_mage(response, what)
        if not isinstance(answer, dict) or error is not None or answer.get(key) is None:
            raise self._unusable(response, what)
        return answer

    def _read_page(self, response: Response, key: str, what: str) -> tuple[list[Row], bool]:
        """Return the rows of a page of a list, and whether there is another page."""
        answer = self._answer(response, key, what)
        rows, metadata = answer[key], answer.get("metadata")
        more = metadata.get("next") if isinstance(metadata, dict) else None
        if (
            not isinstance(rows, list)
            or not all(isinstance(row, dict) for row in rows)
            or not isinstance(more, bool)
        ):
            raise self._unusable(response, what)
        return rows, more

    def _not_from_mage(self, response: Response, what: str) -> ApiError:
        """Judge by the HTTP status alone an answer that a proxy, or Mage's web server, gave."""
        message = f"Mage answered {response.status} to {what}: {excerpt(response.body, self.redact)}"
        if response.status < 500:
            message += (
                f". Check host, path prefix, login and trigger token of connection {self.settings.conn_id!r}"
            )
        kind = Unauthorized if response.status in (401, 403) else ApiError
        return kind(message, status=response.status)

    def _error(self, error: Mapping[str, Any], response: Response, what: str) -> ApiError:
        code = error.get("code")
        if not isinstance(code, int) or isinstance(code, bool) or not 400 <= code < 600:
            code = response.status if response.status >= 400 else 500
        said = str(error.get("exception") or error.get("message") or "no reason given")
        # A database error goes on with the statement and everything that was to be stored.
        said = one_line(re.split(r"\[SQL:|\[parameters:|DETAIL:", said)[0], self.redact)
        message = f"Mage answered {what} with error {code}: {said}"
        kind = str(error.get("type") or "")
        # The text of a "not found" may be left over from somebody's failed login: only code and type count.
        if kind == "record_not_found" or code == 404 or "'type': 'record_not_found'" in said:
            hint = f"check the id and connection {self.settings.conn_id!r}"
            return NotFound(f"Mage answered {what} with error 404, not found: {hint}", status=404)
        if NO_PIPELINE.fullmatch(said):
            return NotFound(f"Mage answered {what}: {said}", status=404)
        if code in (401, 403) or "Invalid token for pipeline schedule" in said:
            status = code if code in (401, 403) else 401
            hint = f"check the credentials of connection {self.settings.conn_id!r}"
            if not self.authenticates() and "Invalid token for pipeline schedule" not in said:
                hint = f"connection {self.settings.conn_id!r} needs login and password for all but starting"
            return Unauthorized(f"{message}; {hint}", status=status)
        refused = any(text in said for text in REFUSED)
        return ApiError(message, status=code, permanent=True if refused else None)

    def _unusable(self, response: Response, what: str) -> ApiError:
        return ApiError(
            f"Mage answered {what} with {response.status} and a body that cannot be used: "
            + excerpt(response.body, self.redact),
            status=response.status,
            permanent=False,
        )

    def _run(self, row: Any) -> Run:
        number = row.get("id") if isinstance(row, dict) else None
        status = row.get("status") if isinstance(row, dict) else None
        named = isinstance(number, int) and not isinstance(number, bool)
        if not named or not isinstance(status, str) or not status:
            raise ApiError("Mage answered with a run without id and status", status=200, permanent=False)
        pipeline = row.get("pipeline_uuid")
        page = f"pipelines/{quote(pipeline, safe='')}/runs/{number}" if isinstance(pipeline, str) else None
        message = "; ".join(f"block {block}: {self._reason(error)}" for block, error in failures(row))
        return Run(
            str(number),
            self.statuses.state(status),
            status,
            f"{self.dashboard_url}/{page}" if page else None,
            message[:1000] or None,
            moment(row.get("started_at")),
            moment(row.get("completed_at")),
            created_at(row),
        )

    def _reason(self, error: Mapping[str, Any]) -> str:
        """Return the last line of the traceback, which names the error's type; else the bare error."""
        lines = [line for line in str(error.get("message") or "").splitlines() if line.strip()]
        said = lines[-1] if lines else str(error.get("error") or "failed without an error text")
        return one_line(said, self.redact)


def blocks_of(row: Mapping[str, Any]) -> list[Row]:
    """
    Return the runs of a run's blocks.

    :param row: the run as Mage shows it.
    """
    blocks = row.get("block_runs")
    return [block for block in blocks if isinstance(block, dict)] if isinstance(blocks, list) else []


def failures(row: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """
    Return the blocks that failed, each with what Mage keeps about its error.

    Only the status counts: Mage keeps the error of a block that has succeeded when it was retried.

    :param row: the run as Mage shows it.
    """
    found = []
    for block in blocks_of(row):
        if block.get("status") == "failed":
            metrics = block.get("metrics")
            error = metrics.get("error") if isinstance(metrics, dict) else None
            found.append((str(block.get("block_uuid")), error if isinstance(error, dict) else {}))
    return found


def created_at(row: Mapping[str, Any]) -> DateTime | None:
    """
    Return when a run was created.

    ``created_at`` has whole seconds on SQLite and is the start of the transaction on Postgres. The execution
    date of a run that was just triggered is the same moment with its fraction; that of a scheduled run or of
    a backfill is another one.

    :param row: the run as Mage shows it.
    """
    created, execution = moment(row.get("created_at")), moment(row.get("execution_date"))
    if created and execution and timedelta(0) <= execution - created < timedelta(seconds=1):
        return execution
    return created


def log_lines(content: Any) -> Iterator[dict[str, Any]]:
    """
    Yield the entries of a log file; tracebacks, which stand between them as they are, are left out.

    :param content: the file's text.
    """
    for line in str(content or "").splitlines():
        if written := LOG_LINE.fullmatch(line):
            try:
                entry = json.loads(written[1])
            except (ValueError, RecursionError):
                continue
            yield entry


def inner_token(session: Any) -> tuple[str, float | None]:
    """
    Return the token that headers want, which Mage wraps in a JWT, and when it ends (UTC epoch seconds).

    :param session: what a login answers.
    :raises ApiError: if there is none.
    """
    outer = session.get("token") if isinstance(session, dict) else None
    try:
        part = str(outer).split(".")[1]
        payload = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        value, expires = payload["token"], payload.get("expires")
    except (IndexError, KeyError, TypeError, AttributeError, ValueError, binascii.Error, RecursionError):
        value, expires = None, None
    if not isinstance(value, str) or not (value.isascii() and value.isprintable() and value.strip()):
        raise ApiError("Mage answered the login without a usable token", status=200, permanent=False)
    known = isinstance(expires, (int, float)) and not isinstance(expires, bool) and -1e12 < expires < 1e12
    return value, float(expires) if known else None
