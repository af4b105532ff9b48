"""Strait's runs are cancelled, paused, resumed, restarted and put off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_runs.core.api import CanCancelMany
from airflow_provider_runs.core.errors import ApiError, BadInput, RunsError
from airflow_provider_runs.core.http import Flow
from airflow_provider_runs.core.inputs import boolean, iso_utc, json_value, required_text, unknown_names
from airflow_provider_runs.core.run import Run
from airflow_provider_runs.core.text import one_line
from airflow_provider_runs.strait.answers import Row
from airflow_provider_runs.strait.lists import StraitLists, run_path
from airflow_provider_runs.strait.replays import ids_of

MOST_CANCELS = 100


class StraitControls(StraitLists, CanCancelMany):
    """Change runs, for :class:`~airflow_provider_runs.strait.api.StraitRunApi`."""

    cancel_batch_size = MOST_CANCELS

    # Cancelling

    def cancel(self, run_id: str) -> Flow[None]:
        what = f"cancelling run {run_id}"
        response = yield self._request("DELETE", run_path(run_id), safe_to_repeat=True, may_be_empty=True)
        if self._is_done(response):
            return
        error = self._error(response, what)
        if error.status not in (400, 409):
            raise error
        if (yield from self.get(run_id)).state.is_terminal:
            return
        # Strait judges by a copy that may be out of date, but not where it cancels many.
        answer = yield from self.bulk_cancel([run_id])
        if not answer["canceled"] and not (yield from self.get(run_id)).state.is_terminal:
            raise ApiError(str(error), status=error.status, permanent=False)

    def cancel_many(self, run_ids: Sequence[str]) -> Flow[dict[str, RunsError]]:
        answer = yield from self.bulk_cancel(run_ids)
        rows = (row for row in answer["results"] if isinstance(row, dict) and row.get("error"))
        return {
            str(row.get("id")): ApiError(
                f"Strait does not cancel run {row.get('id')}: {one_line(str(row['error']))}", status=409
            )
            for row in rows
        }

    def bulk_cancel(self, run_ids: Sequence[str]) -> Flow[Row]:
        """
        Cancel runs, 100 with each request, and return what became of each.

        :param run_ids: the runs.
        """
        ids = ids_of(run_ids)
        total: Row = {"results": [], "total": 0, "canceled": 0, "failed": 0}
        for first in range(0, len(ids), MOST_CANCELS):
            chunk = ids[first : first + MOST_CANCELS]
            what = f"cancelling {len(chunk)} runs"
            response = yield self._request(
                "POST", "/v1/runs/bulk-cancel", json={"run_ids": chunk}, safe_to_repeat=True
            )
            answer = self._object(response, what)
            for name, value in total.items():
                if type(answer.get(name)) is not type(value):
                    raise self._unusable(response, what, f"without {name}")
                total[name] = value + answer[name]
        return total

    def bulk_cancel_all(self, filters: Mapping[str, Any]) -> Flow[Row]:
        """
        Cancel the runs that have never started and match filters.

        :param filters: at least one of ``job_id``, ``batch_id``, ``triggered_by`` and ``status``.
        """
        known = ("job_id", "batch_id", "triggered_by", "status")
        unknown_names("filter of runs to be cancelled", filters, known)
        body = {name: required_text(name, filters[name]) for name in known if filters.get(name) is not None}
        if not body:
            raise BadInput(f"say which runs are to be cancelled: {', '.join(known)}")
        if "job_id" in body:
            body["job_id"] = yield from self._job_id(body["job_id"])
        what = "cancelling the runs that match"
        response = yield self._request(
            "POST", "/v1/runs/bulk-cancel-all", self._project(), json=body, safe_to_repeat=True
        )
        answer = self._object(response, what)
        canceled, ids, results = (answer.get(name) for name in ("canceled", "run_ids", "results"))
        if not isinstance(canceled, int):
            raise self._unusable(response, what, "without their number")
        rows = [row for row in results if isinstance(row, dict)] if isinstance(results, list) else []
        failed = [row for row in rows if row.get("error")]
        ids = ids if isinstance(ids, list) else [row.get("id") for row in rows if not row.get("error")]
        return {"canceled": canceled, "run_ids": ids, "failed": failed}

    # Changing

    def set_debug_mode(self, run_id: str, on: bool = True) -> Flow[None]:
        """
        Switch a run's debug mode.

        :param run_id: the run.
        :param on: whether it is on from now on.
        """
        body = {"debug_mode": boolean("on", on, default=True)}
        response = yield self._request(
            "POST", run_path(run_id, "debug"), json=body, safe_to_repeat=True, may_be_empty=True
        )
        self._check_done(response, f"setting the debug mode of run {run_id}")

    def reset_idempotency_key(self, run_id: str) -> Flow[None]:
        """
        Have Strait forget the key that a run was started with, so that it can be used again.

        :param run_id: the run.
        """
        response = yield self._request(
            "DELETE", run_path(run_id, "idempotency-key"), safe_to_repeat=True, may_be_empty=True
        )
        self._check_done(response, f"resetting the idempotency key of run {run_id}")

    def reschedule(self, run_id: str, scheduled_at: Any, payload: Any = None) -> Flow[Run]:
        """
        Have a run that has never started begin at another time.

        :param run_id: the run.
        :param scheduled_at: when: datetime or ISO 8601; without zone it is UTC.
        :param payload: what it gets instead of its payload; None leaves that as it is.
        """
        if scheduled_at is None:
            raise BadInput("scheduled_at must be a date and time")
        body: Row = {"scheduled_at": iso_utc("scheduled_at", scheduled_at)}
        if payload is not None:
            body["payload"] = json_value("payload", payload)
        response = yield self._request("POST", run_path(run_id, "reschedule"), json=body, safe_to_repeat=True)
        return self._run_of(response, f"rescheduling run {run_id}", run_id)

    def pause(self, run_id: str) -> Flow[Run]:
        """
        Pause a run that is executing. Nothing but :meth:`resume` or a cancel ends the pause.

        :param run_id: the run.
        """
        response = yield self._request("POST", run_path(run_id, "pause"), safe_to_repeat=True)
        return self._run_of(response, f"pausing run {run_id}", run_id)

    def resume(self, run_id: str) -> Flow[Run]:
        """
        Queue a paused run again.

        :param run_id: the run.
        """
        response = yield self._request("POST", run_path(run_id, "resume"))
        return self._run_of(response, f"resuming run {run_id}", run_id)

    def restart(self, run_id: str, machine_preset: str | None = None) -> Flow[Run]:
        """
        Queue a run again that is executing or paused. It keeps its id.

        :param run_id: the run.
        :param machine_preset: the machine that it gets; today's servers ignore it.
        """
        given = (
            {}
            if machine_preset is None
            else {"machine_preset": required_text("machine_preset", machine_preset)}
        )
        response = yield self._request("POST", run_path(run_id, "restart"), json=given)
        return self._run_of(response, f"restarting run {run_id}", run_id)
