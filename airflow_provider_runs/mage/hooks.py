"""Hook for Mage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from airflow_provider_runs.base.hook import FlowOf, RunHook
from airflow_provider_runs.core.api import RunApi
from airflow_provider_runs.core.http import Flow
from airflow_provider_runs.core.inputs import list_bounds
from airflow_provider_runs.core.run import Run
from airflow_provider_runs.mage.api import MageRunApi

COLOR = "#f1e8fd"
"""What Airflow paints tasks in that use this hook."""


class MageHook(RunHook):
    """
    Start pipeline runs in Mage, ask about them, list, retry and cancel them, and read their logs.

    See https://docs.mage.ai/api-reference/pipeline-runs/overview. Starting needs the trigger's token, which
    the server tells whoever may read; all else needs login and password where the server has user
    authentication on.

    :param mage_conn_id: the Airflow connection.
    """

    api_class = MageRunApi
    conn_name_attr = "mage_conn_id"
    default_conn_name = "mage_default"

    def __init__(self, mage_conn_id: str = default_conn_name) -> None:
        super().__init__(mage_conn_id)

    def trigger_run(
        self,
        pipeline_schedule_id: int | str | None = None,
        *,
        pipeline_uuid: str | None = None,
        trigger_name: str | None = None,
        variables: Mapping[str, Any] | str | None = None,
        event_variables: Mapping[str, Any] | str | None = None,
        allow_inactive_trigger: bool = False,
        run_key: str | None = None,
    ) -> Run:
        """
        Start a run through an API trigger, named by its id or by its pipeline and its name.

        :param pipeline_schedule_id: the trigger's id.
        :param pipeline_uuid: the pipeline, instead of an id.
        :param trigger_name: the trigger's name; None: the pipeline's only API trigger.
        :param variables: run variables, which the blocks get as keyword arguments: JSON values.
        :param event_variables: the event, which the blocks get as ``event``: JSON values.
        :param allow_inactive_trigger: whether an inactive trigger may be called, which makes it active.
        :param run_key: kept in the run's variables as ``airflow_run_key``, by which it can be found again.
        :return: the run.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises ApiError: if Mage refuses (Unauthorized and NotFound among it).
        :raises ConnectionFailed: if Mage does not answer; the run may have been started if ``sent``.
        """
        given = {
            "pipeline_schedule_id": pipeline_schedule_id,
            "pipeline_uuid": pipeline_uuid,
            "trigger_name": trigger_name,
            "variables": variables,
            "event_variables": event_variables,
            "allow_inactive_trigger": allow_inactive_trigger,
        }
        return self.start(given, run_key)

    def list_runs(
        self,
        *,
        pipeline_schedule_id: int | str | None = None,
        pipeline_uuid: str | None = None,
        trigger_name: str | None = None,
        status: str | Sequence[str] | None = None,
        since: datetime | str | None = None,
        limit: int | None = 100,
    ) -> list[Run]:
        """
        List runs, the newest first.

        :param pipeline_schedule_id: those of this trigger.
        :param pipeline_uuid: those of this pipeline.
        :param trigger_name: those of this trigger of the pipeline.
        :param status: those with this status, or one of these: Mage's words.
        :param since: those created since then: datetime or ISO 8601 with offset.
        :param limit: so many runs at most; None: all.
        :return: the runs.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises NotFound: if there is no such trigger or pipeline.
        :raises IncompleteList: if the list has no end: more than 1,000 pages or 10 minutes, or nothing new.
        :raises RunsError: if Mage cannot be asked.
        """
        return self.drive(_listing(pipeline_schedule_id, pipeline_uuid, trigger_name, status, since, limit))

    async def alist_runs(
        self,
        *,
        pipeline_schedule_id: int | str | None = None,
        pipeline_uuid: str | None = None,
        trigger_name: str | None = None,
        status: str | Sequence[str] | None = None,
        since: datetime | str | None = None,
        limit: int | None = 100,
    ) -> list[Run]:
        """
        List runs, as :meth:`list_runs`.

        :param pipeline_schedule_id: those of this trigger.
        :param pipeline_uuid: those of this pipeline.
        :param trigger_name: those of this trigger of the pipeline.
        :param status: those with this status, or one of these: Mage's words.
        :param since: those created since then: datetime or ISO 8601 with offset.
        :param limit: so many runs at most; None: all.
        """
        return await self.adrive(
            _listing(pipeline_schedule_id, pipeline_uuid, trigger_name, status, since, limit)
        )

    def retry_run(self, run_id: str, *, from_block_uuid: str | None = None) -> Run:
        """
        Run the blocks of an ended run again that did not complete. The run keeps its id.

        :param run_id: the run.
        :param from_block_uuid: instead, this block and all that depend on it.
        :return: the run, which goes again.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises ApiError: if the run goes or has completed, or Mage could not end it after such a retry.
        :raises ConnectionFailed: if Mage does not answer; the run may go again if ``sent``.
        """
        return self.drive(_retrying(run_id, from_block_uuid))

    async def aretry_run(self, run_id: str, *, from_block_uuid: str | None = None) -> Run:
        """
        Run the blocks of an ended run again that did not complete, as :meth:`retry_run`.

        :param run_id: the run.
        :param from_block_uuid: instead, this block and all that depend on it.
        """
        return await self.adrive(_retrying(run_id, from_block_uuid))

    def get_logs(self, run_id: str) -> dict[str, str]:
        """
        Return a run's log files: ``scheduler.log``, and one by the name of each block that has begun.

        The scheduler's log grows with every loop of Mage's scheduler, about 400 bytes each.

        :param run_id: the run.
        :return: the text of each file by its name; 20 blocks at most.
        :raises NotFound: if Mage does not know the run.
        :raises RunsError: if Mage cannot be asked.
        """
        return self.drive(lambda api: as_mage(api).logs(run_id))

    async def aget_logs(self, run_id: str) -> dict[str, str]:
        """
        Return a run's log files, as :meth:`get_logs`.

        :param run_id: the run.
        """
        return await self.adrive(lambda api: as_mage(api).logs(run_id))


def as_mage(api: RunApi) -> MageRunApi:
    """
    Narrow a hook's API to Mage's, for type checkers.

    :param api: the hook's API.
    :return: the same.
    """
    assert isinstance(api, MageRunApi)
    return api


def _listing(
    pipeline_schedule_id: int | str | None,
    pipeline_uuid: str | None,
    trigger_name: str | None,
    status: str | Sequence[str] | None,
    since: datetime | str | None,
    limit: int | None,
) -> FlowOf[list[Run]]:
    filters = {
        "pipeline_schedule_id": pipeline_schedule_id,
        "pipeline_uuid": pipeline_uuid,
        "trigger_name": trigger_name,
        "status": status,
    }
    moment, most = list_bounds(since, limit)
    return lambda api: as_mage(api).list_runs(filters, since=moment, limit=most)


def _retrying(run_id: str, from_block_uuid: str | None) -> FlowOf[Run]:
    arguments = {} if from_block_uuid is None else {"from_block_uuid": from_block_uuid}

    def flow(api: RunApi) -> Flow[Run]:
        yield from as_mage(api).check_retry(run_id, arguments)
        return (yield from as_mage(api).retry(run_id, arguments))

    return flow
