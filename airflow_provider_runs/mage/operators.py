"""Operators for Mage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_runs.base.operator import CancelRunOperator, RetryRunOperator, TriggerRunOperator
from airflow_provider_runs.mage.api import ARGUMENTS
from airflow_provider_runs.mage.hooks import COLOR, MageHook
from airflow_provider_runs.mage.triggers import MageRunTrigger


class MageTriggerRunOperator(TriggerRunOperator):
    """
    Start a Mage pipeline run through an API trigger and wait for it.

    See https://docs.mage.ai/api-reference/pipeline-runs/overview. Further arguments:
    :class:`~airflow_provider_runs.base.operator.TriggerRunOperator`. The API trigger is named by its id, or
    by its pipeline and its name, which outlive a rebuilt database. Its token is a secret: it is read from the
    server, or stands in the connection. The blocks find the start's marker in their variables as
    ``airflow_run_key``.

    :param pipeline_schedule_id: the trigger's id.
    :param pipeline_uuid: the pipeline, instead of an id. Needs a connection that may read.
    :param trigger_name: the trigger's name; None: the pipeline's only API trigger.
    :param mage_conn_id: the Airflow connection.
    :param variables: run variables, which the blocks get as keyword arguments: JSON values, or JSON text.
    :param event_variables: the event, which the blocks get as ``event``: JSON values, or JSON text.
    :param allow_inactive_trigger: whether an inactive trigger may be called, which makes it active. False
        refuses to, as far as the connection may read.
    :param retry_from_failure: whether a retry of the task runs the blocks again that did not complete in this
        task's own run, where that ended badly, instead of starting another run. A cleared task starts anew.
        Needs Airflow 3.3 or later; before that, a retry starts another run and says so.
    """

    hook_class = MageHook
    trigger_class = MageRunTrigger
    run_fields = ARGUMENTS
    resource_fields = ("pipeline_schedule_id", "pipeline_uuid", "trigger_name")
    template_fields = ("mage_conn_id", *run_fields, *TriggerRunOperator.shared_template_fields)
    template_fields_renderers = {"variables": "json", "event_variables": "json"}  # noqa: RUF012
    ui_color = COLOR

    def __init__(
        self,
        *,
        pipeline_schedule_id: int | str | None = None,
        pipeline_uuid: str | None = None,
        trigger_name: str | None = None,
        mage_conn_id: str = MageHook.default_conn_name,
        variables: Mapping[str, Any] | str | None = None,
        event_variables: Mapping[str, Any] | str | None = None,
        allow_inactive_trigger: bool | str = False,
        retry_from_failure: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pipeline_schedule_id = pipeline_schedule_id
        self.pipeline_uuid = pipeline_uuid
        self.trigger_name = trigger_name
        self.mage_conn_id = mage_conn_id
        self.variables = variables
        self.event_variables = event_variables
        self.allow_inactive_trigger = allow_inactive_trigger
        self.retry_from_failure = retry_from_failure


class MageRetryRunOperator(RetryRunOperator):
    """
    Run the blocks of an ended Mage run again that did not complete, and wait for the run.

    See https://docs.mage.ai/api-reference/pipeline-runs/overview. Further arguments:
    :class:`~airflow_provider_runs.base.operator.RetryRunOperator`. The run keeps its id. A run that goes or
    has completed is refused, also if this task was cleared after it had succeeded, and so is one that has
    outlived its trigger's ``timeout``, which Mage counts from the run's first start.

    :param run_id: the run's id, or a template of it.
    :param from_block_uuid: instead, run this block and all that depend on it again, also in a completed run.
        Refused if a block that did not complete is not among them, because Mage could not end the run then.
    :param mage_conn_id: the Airflow connection.
    """

    hook_class = MageHook
    trigger_class = MageRunTrigger
    run_fields = ("from_block_uuid",)
    resource_fields = ("run_id", "from_block_uuid")
    template_fields = ("mage_conn_id", *run_fields, *RetryRunOperator.shared_template_fields)
    ui_color = COLOR

    def __init__(
        self,
        *,
        run_id: str,
        from_block_uuid: str | None = None,
        mage_conn_id: str = MageHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(run_id=run_id, **kwargs)
        self.from_block_uuid = from_block_uuid
        self.mage_conn_id = mage_conn_id


class MageCancelRunOperator(CancelRunOperator):
    """
    Cancel Mage pipeline runs (https://docs.mage.ai/api-reference/pipeline-runs/overview).

    See :class:`~airflow_provider_runs.base.operator.CancelRunOperator`.

    :param run_id: the run's id or a template of it; or a list of them, such as another task's ``output``.
    :param mage_conn_id: the Airflow connection.
    """

    hook_class = MageHook
    template_fields = ("mage_conn_id", *CancelRunOperator.template_fields)
    ui_color = COLOR

    def __init__(
        self,
        *,
        run_id: str | Sequence[str],
        mage_conn_id: str = MageHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(run_id=run_id, **kwargs)
        self.mage_conn_id = mage_conn_id
