"""Sensor for Strait."""

from __future__ import annotations

from typing import Any

from airflow_provider_runs.base.sensor import RunSensor
from airflow_provider_runs.strait.hooks import COLOR, StraitHook
from airflow_provider_runs.strait.triggers import StraitRunTrigger


class StraitRunSensor(RunSensor):
    """
    Wait for a Strait run that something else started: one run, or a run of a job.

    See https://docs.strait.dev. Further arguments: :class:`~airflow_provider_runs.base.sensor.RunSensor`.

    Give ``run_id``, ``run_ids``, or ``since`` together with ``job_id``, ``tag_key`` or ``batch_id``.

    :param run_id: the run's id, or a template of it.
    :param job_id: wait for a run of this job, named by its id or its slug.
    :param tag_key: wait for a run that has this tag.
    :param tag_value: and this value of it.
    :param batch_id: wait for a run of this batch.
    :param strait_conn_id: the Airflow connection.
    :param project_id: the project; None takes the connection's. An API key has its own.
    """

    hook_class = StraitHook
    trigger_class = StraitRunTrigger
    search_fields = ("job_id", "tag_key", "tag_value", "batch_id")
    template_fields = (
        *RunSensor.shared_template_fields,
        *search_fields,
        "strait_conn_id",
        "project_id",
    )
    ui_color = COLOR

    def __init__(
        self,
        *,
        run_id: str | None = None,
        job_id: str | None = None,
        tag_key: str | None = None,
        tag_value: str | None = None,
        batch_id: str | None = None,
        strait_conn_id: str = StraitHook.default_conn_name,
        project_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(run_id=run_id, **kwargs)
        self.job_id = job_id
        self.tag_key = tag_key
        self.tag_value = tag_value
        self.batch_id = batch_id
        self.strait_conn_id = strait_conn_id
        self.project_id = project_id
