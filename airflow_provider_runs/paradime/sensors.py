"""Sensor for Paradime."""

from __future__ import annotations

from typing import Any

from airflow_provider_runs.base.sensor import RunSensor
from airflow_provider_runs.paradime.hooks import COLOR, ParadimeHook
from airflow_provider_runs.paradime.lineage import ReportsLineage
from airflow_provider_runs.paradime.lookups import SCHEDULE_FIELDS
from airflow_provider_runs.paradime.triggers import ParadimeRunTrigger


class ParadimeRunSensor(ReportsLineage, RunSensor):
    """
    Wait for a Paradime run that something else started: one run, or a run of a schedule.

    See https://docs.paradime.io/app-help/documentation/bolt. Further arguments:
    :class:`~airflow_provider_runs.base.sensor.RunSensor`.

    Give ``run_id``, ``run_ids``, or ``since`` together with ``slug``.

    :param run_id: the run's id, or a template of it.
    :param slug: wait for a run of the schedule with this slug.
    :param schedule_name: the older name of the same argument.
    :param paradime_conn_id: the Airflow connection.
    :param workspace_uid: UID of the workspace; None takes the connection's.
    """

    hook_class = ParadimeHook
    trigger_class = ParadimeRunTrigger
    search_fields = SCHEDULE_FIELDS
    template_fields = (
        *RunSensor.shared_template_fields,
        *search_fields,
        "paradime_conn_id",
        "workspace_uid",
    )
    ui_color = COLOR

    def __init__(
        self,
        *,
        run_id: str | None = None,
        slug: str | None = None,
        schedule_name: str | None = None,
        paradime_conn_id: str = ParadimeHook.default_conn_name,
        workspace_uid: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(run_id=run_id, **kwargs)
        self.slug = slug
        self.schedule_name = schedule_name
        self.paradime_conn_id = paradime_conn_id
        self.workspace_uid = workspace_uid
