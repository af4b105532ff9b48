"""From what Airflow hands out as a connection to the description of its service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

from airflow.providers.common.compat.sdk import mask_secret

from airflow_provider_runs.core.api import RunApi
from airflow_provider_runs.core.connection import read_settings

log = logging.getLogger(__name__)


def describe(api_class: type[RunApi], conn_id: str, scope: Mapping[str, str], connection: Any) -> RunApi:
    """
    Return the description of a connection's service, and have Airflow mask its secrets.

    :param api_class: the service.
    :param conn_id: the Airflow connection.
    :param scope: what was chosen beside it.
    :param connection: what Airflow hands out.
    :raises BadInput: if a field of it is wrong.
    """
    spec = api_class.connection
    settings = read_settings(
        spec,
        conn_id=conn_id,
        host=connection.host,
        schema=connection.schema,
        port=connection.port,
        login=connection.login,
        password=connection.password,
        extra=connection.extra,
    )
    for name in settings.extra.keys() & set(spec.former_fields):
        _report_ignored(conn_id, name)
    api = api_class(settings, scope, keep_secret=_mask)
    for secret in api.secrets():
        _mask(secret)
    return api


@cache
def _report_ignored(conn_id: str, name: str) -> None:
    """Say once in a process that a field of a connection does nothing any more."""
    log.info("Connection %r: field %r is ignored; it can be removed", conn_id, name)


def _mask(secret: str) -> None:
    """Tell Airflow's maskers a secret. From inside an event loop only a thread reaches the supervisor's."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        mask_secret(secret)
    else:
        loop.run_in_executor(None, mask_secret, secret)
