"""Trigger for Paradime."""

from __future__ import annotations

from airflow_provider_runs.base.trigger import RunTrigger
from airflow_provider_runs.paradime.hooks import ParadimeHook


class ParadimeRunTrigger(RunTrigger):
    """Wait for a Paradime run, see :class:`~airflow_provider_runs.base.trigger.RunTrigger`."""

    hook_class = ParadimeHook
