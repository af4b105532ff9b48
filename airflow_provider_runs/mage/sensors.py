"""Sensor for Mage."""

from __future__ import annotations

from typing import Any

from airflow_provider_runs.base.sensor import RunSensor
from airflow_provider_runs.mage.hooks import COLOR, MageHook
from airflow_provider_runs.mage.lookups import TRIGGER_FIELDS
from airflow_provider_runs.mage.triggers import MageRunTrigger


class MageRunSensor(RunSensor):
    """
    Wait for a Mage pipeline run that something else started: one run, or a trigger's or pipeline's run.

    See https://docs.mage.ai/api-reference/pipeline-runs/overview. Further arguments:
    :class:`~airflow_provider_runs.base.sensor.RunSensor`.

    Give ``run_id``, ``run_ids``, or ``since`` together with ``pipeline_schedule_id``, with ``pipeline_uuid``,
    or with that and ``trigger_name``.

    :param run_id: the run's id, or a template of it.
    :param pipeline_schedule_id: wait for a run of this trigger.
    :param pipeline_uuid: wait for a run of this pipeline.
    :param trigger_name: wait for a run of this trigger of the pipeline.
    :param mage_conn_id: the Airflow connection.
    """

    hook_class = MageHook
    trigger_class = MageRunTrigger
    search_fields = TRIGGER_FIELDS
    template_fields = (*RunSensor.shared_template_fields, *search_fields, "mage_conn_id")
    ui_color = COLOR

    def __init__(
        self,
        *,
        run_id: str | None = None,
        pipeline_schedule_id: int | str | None = None,
        pipeline_uuid: str | None = None,
        trigger_name: str | None = None,
        mage_conn_id: str = MageHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(run_id=run_id, **kwargs)
        self.pipeline_schedule_id = pipeline_schedule_id
        self.pipeline_uuid = pipeline_uuid
        self.trigger_name = trigger_name
        self.mage_conn_id = mage_conn_id
