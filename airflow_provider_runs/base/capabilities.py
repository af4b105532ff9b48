"""What a service may be able to do, and the errors that say that it cannot."""

from __future__ import annotations

from airflow_provider_runs.core.api import CanCancel, CanListActive, CanRetry, RunApi
from airflow_provider_runs.core.errors import BadInput, RunsError


class CannotCancel(RunsError):
    """The service has no call that cancels a run."""


class CannotRetry(RunsError):
    """The service has no call that goes on with an ended run."""


def cancelling(api: RunApi) -> CanCancel:
    """
    Return a service's description as one that can cancel runs.

    :param api: the description.
    :raises CannotCancel: if the service has no such call.
    """
    if not isinstance(api, CanCancel):
        raise CannotCancel(f"{api.service} has no call that cancels a run")
    return api


def listing(api: RunApi) -> CanListActive:
    """
    Return a service's description as one that can list its active runs.

    :param api: the description.
    :raises BadInput: if the service has no such call.
    """
    if not isinstance(api, CanListActive):
        raise BadInput(f"{api.service} cannot list active runs: if_running can be start only")
    return api


def retrying(api: RunApi) -> CanRetry:
    """
    Return a service's description as one that can retry runs.

    :param api: the description.
    :raises CannotRetry: if the service has no such call.
    """
    if not isinstance(api, CanRetry):
        raise CannotRetry(f"{api.service} has no call that goes on with an ended run")
    return api
