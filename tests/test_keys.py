"""Keys of starts: an empty one, which a template may render to, is refused before anything is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from airflow_provider_runs.chalk.api import ChalkRunApi
from airflow_provider_runs.chalk.hooks import ChalkHook
from airflow_provider_runs.core.api import RunApi
from airflow_provider_runs.core.connection import Settings
from airflow_provider_runs.core.errors import BadInput, RunsError
from airflow_provider_runs.mage.api import MageRunApi
from airflow_provider_runs.mage.hooks import MageHook
from airflow_provider_runs.paradime.api import ParadimeRunApi
from airflow_provider_runs.provider_info import SYSTEMS
from airflow_provider_runs.strait.api import StraitRunApi
from airflow_provider_runs.strait.hooks import StraitHook
from tests.core.conftest import Connect, clean_environment, connect, reply, wire  # noqa: F401

EMPTY = ["", " ", "\t\n", "None"]
STARTS: dict[str, tuple[type[RunApi], Mapping[str, Any], Mapping[str, Any]]] = {
    "chalk": (ChalkRunApi, {"login": "id", "password": "secret"}, {"resolver_fqn": "a.b"}),
    "mage": (MageRunApi, {"extra": {"trigger_token": "token"}}, {"pipeline_schedule_id": 1}),
    "paradime": (ParadimeRunApi, {"password": "secret", "extra": {"api_key": "key"}}, {"slug": "daily"}),
    "strait": (
        StraitRunApi,
        {"password": "strait_key"},
        {"job_id": "01900000-0000-7000-8000-000000000001"},
    ),
}
"""For each system its API, a connection, and the arguments of a start."""


def settings_of(fields: Mapping[str, Any]) -> Settings:
    """Return the connection of a service that is asked nothing."""
    return Settings("testing_default", "http://service.example.com", **fields)


def test_every_system_is_tried() -> None:
    assert set(STARTS) == set(SYSTEMS)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("key", EMPTY, ids=repr)
async def test_an_empty_key_is_refused_before_anything_is_sent(
    system: str,
    key: str,
    wire: Callable[..., Any],  # noqa: F811
    connect: Connect,  # noqa: F811
) -> None:
    api, settings, arguments = STARTS[system]
    server = wire(reply(503))
    driver = connect(server.url, api, **settings)
    with pytest.raises(BadInput, match=r"key.* is empty"):
        await driver.drive(driver.api.trigger(arguments, key))
    assert server.asked == []
    # The same with a key is sent.
    with pytest.raises(RunsError):
        await driver.drive(driver.api.trigger(arguments, "key"))
    assert server.asked != []


@pytest.mark.parametrize("system", ["chalk", "strait"])
@pytest.mark.parametrize("key", EMPTY, ids=repr)
def test_an_empty_key_of_the_users_own_is_refused_when_arguments_are_checked(system: str, key: str) -> None:
    api, settings, arguments = STARTS[system]
    made = api(settings_of(settings))
    with pytest.raises(BadInput, match="idempotency_key is empty"):
        made.prepare({**arguments, "idempotency_key": key})
    with pytest.raises(BadInput, match="idempotency_key is empty"):
        next(made.trigger({**arguments, "idempotency_key": key}, "another"))


@pytest.mark.parametrize("key", EMPTY, ids=repr)
def test_hooks_refuse_an_empty_key(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connections = {
        "CHALK": '{"conn_type": "chalk", "host": "http://127.0.0.1:1", "login": "a", "password": "b"}',
        "MAGE": '{"conn_type": "mage", "host": "http://127.0.0.1:1", "extra": {"trigger_token": "c"}}',
        "STRAIT": '{"conn_type": "strait", "host": "http://127.0.0.1:1", "password": "strait_d"}',
    }
    for name, fields in connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}_DEFAULT", fields)
    # Nothing listens at port 1: what is sent ends in ConnectionFailed.
    with pytest.raises(BadInput, match="idempotency_key is empty"):
        ChalkHook().trigger_run("r", idempotency_key=key)
    with pytest.raises(BadInput, match="run_key is empty"):
        MageHook().trigger_run(1, run_key=key)
    with pytest.raises(BadInput, match="idempotency_key is empty"):
        StraitHook().trigger_run("job", idempotency_key=key)


@pytest.mark.parametrize("key", EMPTY, ids=repr)
def test_no_run_is_looked_for_by_an_empty_key(key: str) -> None:
    for system in ("mage", "strait"):
        api, settings, arguments = STARTS[system]
        made: Any = api(settings_of(settings))
        with pytest.raises(BadInput, match="key is empty"):
            next(made.find_started(arguments, key, 0.0))
