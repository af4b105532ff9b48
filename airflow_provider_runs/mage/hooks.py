"""Hook for Mage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_runs.base.hook import RunHook
from airflow_provider_runs.core.run import Run
from airflow_provider_runs.mage.api import MageRunApi


class MageHook(RunHook):
    """
    Start pipeline runs in Mage, ask about them and cancel them.

    See https://docs.mage.ai/api-reference/pipeline-runs/overview. Starting needs the trigger's token; all
    else needs login and password where the server has user authentication on.

    :param mage_conn_id: the Airflow connection.
    """

    api_class = MageRunApi
    conn_name_attr = "mage_conn_id"
    default_conn_name = "mage_default"

    def __init__(self, mage_conn_id: str = default_conn_name) -> None:
        super().__init__(mage_conn_id)

    def trigger_run(
        self,
        pipeline_schedule_id: int | str,
        *,
        variables: Mapping[str, Any] | str | None = None,
        event_variables: Mapping[str, Any] | str | None = None,
        run_key: str | None = None,
    ) -> Run:
        """
        Start a run through an API trigger. An inactive trigger becomes active by this.

        :param pipeline_schedule_id: the trigger's id.
        :param variables: run variables, which the blocks get as keyword arguments: JSON values.
        :param event_variables: the event, which the blocks get as ``event``: JSON values.
        :param run_key: kept in the run's variables as ``airflow_run_key``, by which it can be found again.
        :return: the run.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises ApiError: if Mage refuses (Unauthorized and NotFound among it).
        :raises ConnectionFailed: if Mage does not answer; the run may have been started if ``sent``.
        """
        given = {
            "pipeline_schedule_id": pipeline_schedule_id,
            "variables": variables,
            "event_variables": event_variables,
        }
        return self.start({name: value for name, value in given.items() if value is not None}, run_key)
