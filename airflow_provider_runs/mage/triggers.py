"""Trigger for Mage."""

from __future__ import annotations

from airflow_provider_runs.base.trigger import RunTrigger
from airflow_provider_runs.mage.hooks import MageHook


class MageRunTrigger(RunTrigger):
    """Wait for a Mage run, see :class:`~airflow_provider_runs.base.trigger.RunTrigger`."""

    hook_class = MageHook
