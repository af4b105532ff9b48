"""Operator for Mage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_runs.base.operator import TriggerRunOperator
from airflow_provider_runs.mage.api import ARGUMENTS
from airflow_provider_runs.mage.hooks import MageHook
from airflow_provider_runs.mage.triggers import MageRunTrigger


class MageTriggerRunOperator(TriggerRunOperator):
    """
    Start a Mage pipeline run through an API trigger and wait for it.

    Further arguments: :class:`~airflow_provider_runs.base.operator.TriggerRunOperator`. The trigger's token
    is a secret and stands in the connection. The blocks find the start's marker in their variables as
    ``airflow_run_key``.

    :param pipeline_schedule_id: the trigger's id.
    :param mage_conn_id: the Airflow connection.
    :param variables: run variables, which the blocks get as keyword arguments: JSON values, or JSON text.
    :param event_variables: the event, which the blocks get as ``event``: JSON values, or JSON text.
    """

    hook_class = MageHook
    trigger_class = MageRunTrigger
    run_fields = ARGUMENTS
    resource_fields = ("pipeline_schedule_id",)
    template_fields = ("mage_conn_id", *run_fields, *TriggerRunOperator.shared_template_fields)
    template_fields_renderers = {"variables": "json", "event_variables": "json"}  # noqa: RUF012
    ui_color = "#f1e8fd"

    def __init__(
        self,
        *,
        pipeline_schedule_id: int | str,
        mage_conn_id: str = MageHook.default_conn_name,
        variables: Mapping[str, Any] | str | None = None,
        event_variables: Mapping[str, Any] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pipeline_schedule_id = pipeline_schedule_id
        self.mage_conn_id = mage_conn_id
        self.variables = variables
        self.event_variables = event_variables
