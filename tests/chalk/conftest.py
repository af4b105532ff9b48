from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_runs.chalk.api import ChalkRunApi
from airflow_provider_runs.core.api import Token
from airflow_provider_runs.core.connection import read_settings

NOW = 1_800_000_000.0
SECRET = "planted-client-secret"
BEARER = "planted-access-token"
# The status words that the service documents, each with what it means.
DOCUMENTED_WORDS = {
    "received": "running",
    "succeeded": "succeeded",
    "failed": "failed",
}


def make_api(
    extra: dict[str, Any] | None = None,
    scope: dict[str, str] | None = None,
    *,
    keep_secret: Callable[[str], None] = lambda secret: None,
    token: bool = True,
    **fields: Any,
) -> ChalkRunApi:
    """Return Chalk's API for client credentials, mostly with a token already."""
    fields = {"login": "token-id1", "password": SECRET, **fields}
    settings = read_settings(ChalkRunApi.connection, conn_id="chalk_default", extra=extra, **fields)
    made = ChalkRunApi(settings, scope, now=lambda: NOW, keep_secret=keep_secret)
    if token:
        made.token = Token(BEARER, NOW, 3600.0)
    return made


@pytest.fixture
def api() -> ChalkRunApi:
    return make_api()
