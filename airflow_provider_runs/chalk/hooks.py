"""Hook for Chalk."""

from __future__ import annotations

from datetime import datetime

from airflow_provider_runs.base.hook import RunHook
from airflow_provider_runs.chalk.api import ChalkRunApi
from airflow_provider_runs.core.run import Run

COLOR = "#e6f4ea"
"""What Airflow paints tasks in that use this hook."""


class ChalkHook(RunHook):
    """
    Start resolver runs in Chalk and ask about them (https://docs.chalk.ai/docs/runs).

    Chalk's REST API has no call that cancels a run.

    :param chalk_conn_id: the Airflow connection.
    :param environment: environment ID; None takes the connection's, else the token's primary environment.
    :param preview_deployment_id: preview deployment ID; None takes the connection's.
    :param deployment_tag: deployment tag; None takes the connection's.
    """

    api_class = ChalkRunApi
    conn_name_attr = "chalk_conn_id"
    default_conn_name = "chalk_default"

    def __init__(
        self,
        chalk_conn_id: str = default_conn_name,
        environment: str | None = None,
        preview_deployment_id: str | None = None,
        deployment_tag: str | None = None,
    ) -> None:
        super().__init__(
            chalk_conn_id,
            {
                "environment": environment,
                "preview_deployment_id": preview_deployment_id,
                "deployment_tag": deployment_tag,
            },
        )

    def trigger_run(
        self,
        resolver_fqn: str,
        *,
        lower_bound: datetime | str | None = None,
        upper_bound: datetime | str | None = None,
        max_samples: int | str | None = None,
        timestamping_mode: str | None = None,
        store_online: bool | None = None,
        store_offline: bool | None = None,
        override_target_image_tag: str | None = None,
        idempotency_key: str | None = None,
    ) -> Run:
        """
        Start a run of a resolver. The call may take up to 300 s; the run may have ended when it answers.

        :param resolver_fqn: the resolver's fully qualified name.
        :param lower_bound: only data observed after this instant: ISO 8601 or datetime; without zone it is
            UTC.
        :param upper_bound: only data observed before this instant, in the same form.
        :param max_samples: samples taken from the offline store at most.
        :param timestamping_mode: ``feature_time`` or ``online_store_write_time``.
        :param store_online: whether to write to the online store; None is True.
        :param store_offline: whether to write to the offline store; None is True.
        :param override_target_image_tag: image tag to run with.
        :param idempotency_key: runs with one key are one run. Without it, a start whose answer is lost is not
            sent again.
        :return: the run.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises ApiError: if Chalk refuses (Unauthorized and NotFound among it).
        :raises ConnectionFailed: if Chalk does not answer; the run may have been started if ``sent``.
        """
        given = {
            "resolver_fqn": resolver_fqn,
            "lower_bound": lower_bound,
            "upper_bound": upper_bound,
            "max_samples": max_samples,
            "timestamping_mode": timestamping_mode,
            "store_online": store_online,
            "store_offline": store_offline,
            "override_target_image_tag": override_target_image_tag,
        }
        return self.start(given, idempotency_key)
