"""Triggers for Strait."""

from __future__ import annotations

from typing import Any

from airflow_provider_runs.base.events import RunEventTrigger
from airflow_provider_runs.base.trigger import RunTrigger
from airflow_provider_runs.strait.hooks import StraitHook


class StraitRunTrigger(RunTrigger):
    """
    Wait for a Strait run (https://docs.strait.dev).

    Arguments: :class:`~airflow_provider_runs.base.trigger.RunTrigger`.
    """

    hook_class = StraitHook


class StraitRunEventTrigger(RunEventTrigger):
    """
    Fire an event when runs of a Strait job, tag or batch have ended, for an ``AssetWatcher``.

    See https://docs.strait.dev. Further arguments:
    :class:`~airflow_provider_runs.base.events.RunEventTrigger`.

    :param job_id: runs of this job, named by its id or its slug.
    :param tag_key: runs that have this tag.
    :param tag_value: and this value of it.
    :param batch_id: runs of this batch.
    :param strait_conn_id: the Airflow connection.
    :param project_id: the project; None takes the connection's. An API key has its own.
    """

    hook_class = StraitHook
    filter_fields = ("job_id", "tag_key", "tag_value", "batch_id")

    def __init__(
        self,
        *,
        job_id: str | None = None,
        tag_key: str | None = None,
        tag_value: str | None = None,
        batch_id: str | None = None,
        strait_conn_id: str = StraitHook.default_conn_name,
        project_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id
        self.tag_key = tag_key
        self.tag_value = tag_value
        self.batch_id = batch_id
        self.strait_conn_id = strait_conn_id
        self.project_id = project_id
        self.check()
