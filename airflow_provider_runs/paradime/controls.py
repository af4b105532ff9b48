"""Paradime's runs are cancelled, and its schedules suspended and resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_runs.core.api import CanCancelMany
from airflow_provider_runs.core.errors import ApiError, RunsError, Unauthorized
from airflow_provider_runs.core.http import Flow
from airflow_provider_runs.core.inputs import unknown_names
from airflow_provider_runs.paradime.lists import ParadimeLists
from airflow_provider_runs.paradime.lookups import SCHEDULE_FIELDS, run_number, schedule_of
from airflow_provider_runs.paradime.operations import CANCEL, SUSPEND


class ParadimeControls(ParadimeLists, CanCancelMany):
    """Change runs and schedules, for :class:`~airflow_provider_runs.paradime.api.ParadimeRunApi`."""

    cancel_batch_size = 20

    def suspend_schedule(self, arguments: Mapping[str, Any], *, suspend: bool = True) -> Flow[None]:
        """
        Suspend a schedule that was made in the app or by API, or have it run again.

        :param arguments: ``slug`` or ``schedule_name``.
        :param suspend: whether it is suspended from now on.
        """
        unknown_names("schedule", arguments, SCHEDULE_FIELDS)
        _, slug = schedule_of(arguments)
        verb = "suspending" if suspend else "resuming"
        values = {"slug": slug, "suspend": suspend}
        yield from self._call(SUSPEND, values, f"{verb} schedule {slug!r}", safe_to_repeat=True)

    def cancel(self, run_id: str) -> Flow[None]:
        number = run_number(run_id)
        try:
            yield from self._call(
                CANCEL, {"scheduleRunId": number}, f"cancelling run {number}", safe_to_repeat=True
            )
        except ApiError as error:
            if isinstance(error, Unauthorized):
                raise
            # That an ended run cannot be cancelled is no failure.
            if not (yield from self.get(run_id)).state.is_terminal:
                raise

    def cancel_many(self, run_ids: Sequence[str]) -> Flow[dict[str, RunsError]]:
        numbers = {run_number(run_id): run_id for run_id in run_ids}
        answers = yield from self._many(CANCEL, [*numbers], "cancelling runs")
        return {
            numbers[number]: answer for number, answer in answers.items() if isinstance(answer, RunsError)
        }
