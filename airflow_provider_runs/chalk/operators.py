"""Operator for Chalk."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow_provider_runs.base.operator import TriggerRunOperator
from airflow_provider_runs.chalk.api import ARGUMENTS
from airflow_provider_runs.chalk.hooks import COLOR, ChalkHook
from airflow_provider_runs.chalk.triggers import ChalkRunTrigger


class ChalkTriggerRunOperator(TriggerRunOperator):
    """
    Start a run of a Chalk resolver and wait for it (https://docs.chalk.ai/docs/runs).

    Further arguments: :class:`~airflow_provider_runs.base.operator.TriggerRunOperator`. Chalk cannot cancel a
    run: where ``cancel_on_kill`` would, the log says that the run goes on and where.

    :param resolver_fqn: the resolver's fully qualified name.
    :param chalk_conn_id: the Airflow connection.
    :param lower_bound: only data observed after this instant: ISO 8601 or datetime; without zone it is UTC.
    :param upper_bound: only data observed before this instant, in the same form.
    :param max_samples: samples taken from the offline store at most.
    :param timestamping_mode: ``feature_time`` or ``online_store_write_time``.
    :param store_online: whether to write to the online store.
    :param store_offline: whether to write to the offline store.
    :param override_target_image_tag: image tag to run with.
    :param idempotency_key: a key of your own. It is sent as it is, on every try: a retry or a clear may get
        the old run back. None: the operator takes care of one run per task.
    :param environment: environment ID; None takes the connection's, else the token's primary environment.
    :param preview_deployment_id: preview deployment ID; None takes the connection's.
    :param deployment_tag: deployment tag; None takes the connection's.
    """

    hook_class = ChalkHook
    trigger_class = ChalkRunTrigger
    run_fields = ARGUMENTS
    resource_fields = ("resolver_fqn",)
    template_fields = (
        "chalk_conn_id",
        "environment",
        "preview_deployment_id",
        "deployment_tag",
        *run_fields,
        *TriggerRunOperator.shared_template_fields,
    )
    ui_color = COLOR

    def __init__(
        self,
        *,
        resolver_fqn: str,
        chalk_conn_id: str = ChalkHook.default_conn_name,
        lower_bound: datetime | str | None = None,
        upper_bound: datetime | str | None = None,
        max_samples: int | str | None = None,
        timestamping_mode: str | None = None,
        store_online: bool = True,
        store_offline: bool = True,
        override_target_image_tag: str | None = None,
        idempotency_key: str | None = None,
        environment: str | None = None,
        preview_deployment_id: str | None = None,
        deployment_tag: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.resolver_fqn = resolver_fqn
        self.chalk_conn_id = chalk_conn_id
        self.lower_bound = lower_bound
        self.upper_bound = upper_bound
        self.max_samples = max_samples
        self.timestamping_mode = timestamping_mode
        self.store_online = store_online
        self.store_offline = store_offline
        self.override_target_image_tag = override_target_image_tag
        self.idempotency_key = idempotency_key
        self.environment = environment
        self.preview_deployment_id = preview_deployment_id
        self.deployment_tag = deployment_tag

    def _is_durable(self) -> bool:
        return self.idempotency_key is None
