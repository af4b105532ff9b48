"""Trigger for Strait."""

from __future__ import annotations

from airflow_provider_runs.base.trigger import RunTrigger
from airflow_provider_runs.strait.hooks import StraitHook


class StraitRunTrigger(RunTrigger):
    """Wait for a Strait run, see :class:`~airflow_provider_runs.base.trigger.RunTrigger`."""

    hook_class = StraitHook
