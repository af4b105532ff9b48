"""Triggers for Paradime."""

from __future__ import annotations

from typing import Any

from airflow_provider_runs.base.events import RunEventTrigger
from airflow_provider_runs.base.trigger import RunTrigger
from airflow_provider_runs.paradime.hooks import ParadimeHook
from airflow_provider_runs.paradime.lookups import SCHEDULE_FIELDS


class ParadimeRunTrigger(RunTrigger):
    """
    Wait for a Paradime run (https://docs.paradime.io/app-help/documentation/bolt).

    See :class:`~airflow_provider_runs.base.trigger.RunTrigger`.
    """

    hook_class = ParadimeHook


class ParadimeRunEventTrigger(RunEventTrigger):
    """
    Fire an event when runs of a Paradime schedule have ended, for an ``AssetWatcher``.

    See https://docs.paradime.io/app-help/documentation/bolt. Further arguments:
    :class:`~airflow_provider_runs.base.events.RunEventTrigger`.

    :param slug: runs of the schedule with this slug.
    :param schedule_name: the older name of the same argument.
    :param paradime_conn_id: the Airflow connection.
    :param workspace_uid: UID of the workspace; None takes the connection's.
    """

    hook_class = ParadimeHook
    filter_fields = SCHEDULE_FIELDS

    def __init__(
        self,
        *,
        slug: str | None = None,
        schedule_name: str | None = None,
        paradime_conn_id: str = ParadimeHook.default_conn_name,
        workspace_uid: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.slug = slug
        self.schedule_name = schedule_name
        self.paradime_conn_id = paradime_conn_id
        self.workspace_uid = workspace_uid
        self.check()
