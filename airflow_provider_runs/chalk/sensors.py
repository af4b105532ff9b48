"""Sensor for Chalk."""

from __future__ import annotations

from typing import Any

from airflow_provider_runs.base.sensor import RunSensor
from airflow_provider_runs.chalk.hooks import COLOR, ChalkHook
from airflow_provider_runs.chalk.triggers import ChalkRunTrigger


class ChalkRunSensor(RunSensor):
    """
    Wait for a Chalk run, or a list of runs, that something else started.

    See https://docs.chalk.ai/docs/runs. Further arguments:
    :class:`~airflow_provider_runs.base.sensor.RunSensor`. Give ``run_id`` or ``run_ids``.

    :param run_id: the run's id, or a template of it.
    :param chalk_conn_id: the Airflow connection.
    :param environment: environment ID of the run; None takes the connection's, else the token's primary one.
    :param preview_deployment_id: preview deployment ID; None takes the connection's.
    :param deployment_tag: deployment tag; None takes the connection's.
    """

    hook_class = ChalkHook
    trigger_class = ChalkRunTrigger
    template_fields = (
        *RunSensor.shared_template_fields,
        "chalk_conn_id",
        "environment",
        "preview_deployment_id",
        "deployment_tag",
    )
    ui_color = COLOR

    def __init__(
        self,
        *,
        run_id: str | None = None,
        chalk_conn_id: str = ChalkHook.default_conn_name,
        environment: str | None = None,
        preview_deployment_id: str | None = None,
        deployment_tag: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(run_id=run_id, **kwargs)
        self.chalk_conn_id = chalk_conn_id
        self.environment = environment
        self.preview_deployment_id = preview_deployment_id
        self.deployment_tag = deployment_tag
