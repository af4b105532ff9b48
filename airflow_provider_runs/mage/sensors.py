"""Sensor for Mage."""

from __future__ import annotations

from typing import Any

from airflow_provider_runs.base.sensor import RunSensor
from airflow_provider_runs.mage.hooks import MageHook
from airflow_provider_runs.mage.triggers import MageRunTrigger


class MageRunSensor(RunSensor):
    """
    Wait for a Mage pipeline run that something else started.

    Further arguments: :class:`~airflow_provider_runs.base.sensor.RunSensor`.

    :param run_id: the run's id.
    :param mage_conn_id: the Airflow connection.
    """

    hook_class = MageHook
    trigger_class = MageRunTrigger
    template_fields = (*RunSensor.shared_template_fields, "mage_conn_id")
    ui_color = "#f1e8fd"

    def __init__(self, *, run_id: str, mage_conn_id: str = MageHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(run_id=run_id, **kwargs)
        self.mage_conn_id = mage_conn_id
