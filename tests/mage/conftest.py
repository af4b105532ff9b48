from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_runs.core.api import Token
from airflow_provider_runs.core.connection import read_settings
from airflow_provider_runs.mage.api import MageRunApi

NOW = 1_800_000_000.0
PASSWORD = "planted-password"
TRIGGER_TOKEN = "planted-trigger-token"
SESSION_TOKEN = "planted-session-token"
SECRETS = (PASSWORD, TRIGGER_TOKEN, SESSION_TOKEN)
HOST = "http://mage.example.com:6789"
API_KEY = "zkWlN0PkIKSN0C11CfUHUj84OT5XOJ6tDZ6bDRO2"
# The status words that the service documents, each with what it means.
DOCUMENTED_WORDS = {
    "initial": "pending",
    "running": "running",
    "completed": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}


def make_api(
    extra: dict[str, Any] | None = None,
    *,
    keep_secret: Callable[[str], None] = lambda secret: None,
    token: bool = True,
    **fields: Any,
) -> MageRunApi:
    """Return Mage's API for login and trigger token, mostly with a session already."""
    fields = {"host": HOST, "login": "me@example.com", "password": PASSWORD, **fields}
    extra = {"trigger_token": TRIGGER_TOKEN, **(extra or {})}
    settings = read_settings(MageRunApi.connection, conn_id="mage_default", extra=extra, **fields)
    made = MageRunApi(settings, now=lambda: NOW, keep_secret=keep_secret)
    if token:
        made.token = Token(SESSION_TOKEN, NOW, 3600.0)
    return made


def jwt(payload: Any) -> str:
    """Wrap a payload as Mage does."""
    written = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return f"eyJhbGciOiJIUzI1NiJ9.{base64.urlsafe_b64encode(written).decode().rstrip('=')}.c2lnbmF0dXJl"


def session(payload: Any) -> dict[str, Any]:
    """Return the answer to a login."""
    return {
        "session": {"expires": "2026-12-22 04:28:05.552973", "token": jwt(payload), "user": {"id": 1}},
        "metadata": None,
    }


@pytest.fixture
def api() -> MageRunApi:
    return make_api()
