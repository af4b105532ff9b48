"""
What Paradime's answers mean.

Paradime answers an error by an HTTP status or, with HTTP 200, by an ``errors`` array. Where an error has no
``path`` and there is no ``data``, the document was refused as a whole and nothing was executed.

=========================================== ==========================================================
answer                                      error
=========================================== ==========================================================
401, 403, an error that says so             Unauthorized
404 of a run, schedule, command             NotFound
an error without path, no data              DocumentRefused: nothing was executed
an error that names a running run           AlreadyRunning: nothing was started
any other error of a field                  FieldFailed: a mutation may have been executed
``ok: false``                               Rejected
no JSON, no data, an answer without sense   BadAnswer
any other HTTP status                       ApiError with that status
=========================================== ==========================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_runs.core.api import RunApi
from airflow_provider_runs.core.errors import AlreadyRunning, ApiError, NotFound, Unauthorized
from airflow_provider_runs.core.http import Response
from airflow_provider_runs.core.run import Run, RunState, StatusTable, moment
from airflow_provider_runs.core.text import excerpt, one_line
from airflow_provider_runs.paradime.operations import Operation

Row = dict[str, Any]

# Codes (extensions.code) and texts of errors. Paradime documents neither: the codes are those that servers
# of this kind use, the texts what a person would write.
_AUTH = re.compile(
    r"unauthenticated|unauthori[sz]ed|forbidden|permission|not (authenticated|authori[sz]ed|allowed)"
    r"|(invalid|expired|unknown|wrong|missing) (api|credential|token)"
    r"|api[ _-]?(key|secret|token)\b.* (invalid|expired)",
    re.IGNORECASE,
)
_BUSY = re.compile(r"already ?running", re.IGNORECASE)
_LIMITED = re.compile(r"rate[ _-]?limit|too[ _-]many[ _-]requests|throttl", re.IGNORECASE)
_GONE = re.compile(
    r"not[ _-]found|no such|(does not|doesn't) exist|could not find|cannot find"
    r"|(unknown|invalid) (schedule|slug|run|command|resource)",
    re.IGNORECASE,
)
_SERVER = re.compile(r"internal|time[ds]?[ _-]?out|unavailable|bad gateway", re.IGNORECASE)


class DocumentRefused(ApiError):
    """
    Paradime refused the whole document; nothing was executed.

    :param message: what happened and what Paradime said.
    :param said: the texts of all its errors.
    """

    def __init__(self, message: str, said: Sequence[str]) -> None:
        super().__init__(message, status=400, permanent=True)
        self.said = tuple(said)


class FieldFailed(ApiError):
    """Paradime executed the operation and it failed; what it had done by then is not known."""


class Rejected(ApiError):
    """Paradime answered ``ok: false``."""


class BadAnswer(ApiError):
    """The answer is no GraphQL, holds no data, or not what was asked for."""


@dataclass(frozen=True, slots=True)
class Problem:
    """
    One entry of the ``errors`` array.

    :param message: its text.
    :param path: where in the data, as text; empty where it concerns the whole document.
    :param code: ``extensions.code``, or empty.
    """

    message: str
    path: tuple[str, ...]
    code: str

    @classmethod
    def of(cls, entry: Any) -> Problem:
        """
        Read an entry.

        :param entry: the entry, which may be anything.
        """
        if not isinstance(entry, Mapping):
            return cls(str(entry), (), "")
        path, extensions = entry.get("path"), entry.get("extensions")
        return cls(
            str(entry.get("message") or "no reason given"),
            tuple(str(step) for step in path) if isinstance(path, list) else (),
            str((extensions.get("code") if isinstance(extensions, Mapping) else None) or ""),
        )


@dataclass(frozen=True, slots=True)
class CommandLogs:
    """
    A piece of a command's output.

    :param lines: stream (``STDOUT`` or ``STDERR``) and text of each line. Within a piece the order between
        the two streams is not kept.
    :param cursor: where the next piece begins.
    :param finished: whether the command has ended, so that there is no further piece.
    """

    lines: list[tuple[str, str]]
    cursor: str
    finished: bool


class ParadimeAnswers(RunApi):
    """Read what Paradime answers, for :class:`~airflow_provider_runs.paradime.api.ParadimeRunApi`."""

    service = "Paradime"
    statuses = StatusTable(
        {
            RunState.PENDING: ("starting",),
            RunState.RUNNING: ("running",),
            RunState.SUCCEEDED: ("success",),
            # Nobody says when Paradime skips a run; it has surely not done what was asked for.
            RunState.FAILED: ("error", "failed", "skipped"),
            RunState.CANCELLED: ("canceled",),
        }
    )
    app_url: str

    def run_url(self, number: int) -> str:
        """
        Return the address of a run's page.

        :param number: the run.
        """
        return f"{self.app_url}/bolt/run_id/{number}"

    def _data(self, response: Response, what: str) -> tuple[Row, list[Problem]]:
        """Return the data of an answer and the errors in it that concern fields; raise all others."""
        body = response.json
        given = body.get("errors") if isinstance(body, dict) else None
        problems = [Problem.of(entry) for entry in (given if isinstance(given, list) else [given])]
        if not given:
            problems = []
        if not isinstance(body, dict) or not (problems or response.status == 200):
            raise self._no_graphql(response, what)
        data = body.get("data")
        if isinstance(data, dict) and response.status == 200:
            return data, problems
        if not problems:
            raise BadAnswer(
                f"Paradime answered {what} without data and without an error",
                status=response.status,
                permanent=False,
            )
        whole = [problem for problem in problems if not problem.path]
        if whole or response.status != 200:
            raise self._error((whole or problems)[0], problems, response, what)
        return {}, problems

    def _field(self, response: Response, operation: Operation, what: str) -> Row:
        """Return the answer to an operation; raise what Paradime said instead of it."""
        data, problems = self._data(response, what)
        answer = data.get(operation.field)
        # A query can be asked again; what a mutation has done counts whatever else went wrong.
        if problems and not (operation.kind == "mutation" and isinstance(answer, dict)):
            raise self._error(problems[0], problems, response, what, executed=True)
        return self._answered(answer, response, what)

    def _answered(self, answer: Any, response: Response, what: str) -> Row:
        if not isinstance(answer, dict):
            raise self._unusable(response, what)
        if answer.get("ok") is False:
            raise Rejected(
                f"Paradime answered {what} with ok: false{_request_id(response)}", status=200, permanent=False
            )
        return answer

    def _no_graphql(self, response: Response, what: str) -> ApiError:
        """Return the error for an answer that a proxy, or what stands in front of the API, has given."""
        status, conn_id = response.status, self.settings.conn_id
        shown = excerpt(response.body, self.redact)
        said = f"Paradime answered {status} to {what}{_request_id(response)}: {shown}"
        if status in (401, 403):
            return Unauthorized(f"{said}. Check the credentials of connection {conn_id!r}", status=status)
        if status >= 400:
            hint = f". Check the endpoint of connection {conn_id!r}" if status < 500 and status != 429 else ""
            return ApiError(said + hint, status=status)
        return BadAnswer(f"{said}, which is no GraphQL", status=status, permanent=False)

    def _unusable(self, response: Response, what: str) -> ApiError:
        return BadAnswer(
            f"Paradime answered {what} with data that cannot be used: {excerpt(response.body, self.redact)}",
            status=200,
            permanent=False,
        )

    def _error(
        self,
        problem: Problem,
        problems: Sequence[Problem],
        response: Response,
        what: str,
        *,
        executed: bool = False,
    ) -> ApiError:
        """
        Return the error that an entry of the ``errors`` array means.

        :param executed: whether the operation was executed, also where the entry names no field.
        """
        message = self._message(problem, len(problems), what) + _request_id(response)
        status, said = response.status, f"{problem.code} {problem.message}"
        if status in (401, 403) or _AUTH.search(said):
            hint = f"check the credentials of connection {self.settings.conn_id!r} and what they may do"
            return Unauthorized(f"{message}; {hint}", status=_refusal(status, problem))
        if _BUSY.search(said):
            return AlreadyRunning(message)
        if status == 429 or _LIMITED.search(said):
            return ApiError(message, status=429)
        if status >= 500:
            return ApiError(message, status=status)
        if not (problem.path or executed):
            if _SERVER.search(said):
                return ApiError(message, status=500)
            return DocumentRefused(message, [one.message for one in problems])
        if _GONE.search(said):
            return NotFound(message, status=404)
        return FieldFailed(message, status=500, permanent=False)

    def _message(self, problem: Problem, count: int, what: str) -> str:
        path, code = ".".join(problem.path), one_line(problem.code, self.redact, 60)
        parts = [
            f"Paradime answered {what} with an error: {one_line(problem.message, self.redact)}",
            f" (code {code})" if code else "",
            f" at {one_line(path, self.redact, 100)}" if path else "",
            f", and {count - 1} more" if count > 1 else "",
        ]
        return "".join(parts)

    def _run(self, number: int, state: Any, row: Mapping[str, Any] | None = None) -> Run:
        """Return a run; one whose state is missing is one of unknown state."""
        status = one_line(state.strip().upper(), self.redact, 60) if isinstance(state, str) else ""
        started = moment(row.get("startDttm")) if row else None
        return Run(
            str(number),
            self.statuses.state(status),
            status or "null",
            self.run_url(number),
            started_at=started,
            finished_at=moment(row.get("endDttm")) if row else None,
            created_at=started,
        )


def is_number(value: Any) -> bool:
    """
    Tell whether a value is a whole number. JSON's true and false are none.

    :param value: the value.
    """
    return isinstance(value, int) and not isinstance(value, bool)


def rows_of(value: Any) -> list[Row] | None:
    """
    Return a list of objects that each have a number as ``id``, None where a value is anything else.

    :param value: the value.
    """
    if isinstance(value, list) and all(isinstance(row, dict) and is_number(row.get("id")) for row in value):
        return value
    return None


def _refusal(status: int, problem: Problem) -> int:
    """Return the status that a refusal means, which Paradime may hide behind 200."""
    if status in (401, 403):
        return status
    # One that names a field is about what was asked for, as a run of another workspace.
    return 403 if problem.path and "unauth" not in f"{problem.code}".lower() else 401


def _request_id(response: Response) -> str:
    given = response.headers.get("x-request-id", "")
    return f" (request {one_line(given, limit=80)})" if given else ""
