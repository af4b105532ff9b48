"""Trigger for Chalk."""

from __future__ import annotations

from airflow_provider_runs.base.trigger import RunTrigger
from airflow_provider_runs.chalk.hooks import ChalkHook


class ChalkRunTrigger(RunTrigger):
    """
    Wait for a Chalk run (https://docs.chalk.ai/docs/runs).

    See :class:`~airflow_provider_runs.base.trigger.RunTrigger`.
    """

    hook_class = ChalkHook
