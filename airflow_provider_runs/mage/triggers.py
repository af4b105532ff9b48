"""Triggers for Mage."""

from __future__ import annotations

from typing import Any

from airflow_provider_runs.base.events import RunEventTrigger
from airflow_provider_runs.base.trigger import RunTrigger
from airflow_provider_runs.mage.hooks import MageHook
from airflow_provider_runs.mage.lookups import TRIGGER_FIELDS


class MageRunTrigger(RunTrigger):
    """
    Wait for a Mage run (https://docs.mage.ai/api-reference/pipeline-runs/overview).

    See :class:`~airflow_provider_runs.base.trigger.RunTrigger`.
    """

    hook_class = MageHook


class MageRunEventTrigger(RunEventTrigger):
    """
    Fire an event when runs of a Mage pipeline or trigger have ended, for an ``AssetWatcher``.

    See https://docs.mage.ai/api-reference/pipeline-runs/overview. Further arguments:
    :class:`~airflow_provider_runs.base.events.RunEventTrigger`.

    :param pipeline_schedule_id: runs of this trigger.
    :param pipeline_uuid: runs of this pipeline.
    :param trigger_name: runs of this trigger of the pipeline.
    :param mage_conn_id: the Airflow connection.
    """

    hook_class = MageHook
    filter_fields = TRIGGER_FIELDS

    def __init__(
        self,
        *,
        pipeline_schedule_id: int | str | None = None,
        pipeline_uuid: str | None = None,
        trigger_name: str | None = None,
        mage_conn_id: str = MageHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pipeline_schedule_id = pipeline_schedule_id
        self.pipeline_uuid = pipeline_uuid
        self.trigger_name = trigger_name
        self.mage_conn_id = mage_conn_id
        self.check()
