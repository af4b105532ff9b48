from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from importlib import import_module
from typing import Any

import pytest

from airflow_provider_runs.core.connection import read_settings
from airflow_provider_runs.paradime import api as paradime
from airflow_provider_runs.paradime.api import ParadimeRunApi
from airflow_provider_runs.simulator import Simulator
from tests.answers import answer
from tests.base.fakes import FakeTaskInstance, Store

NOW = 1_800_000_000.0
TOKEN = "planted-endpoint-token"
ENDPOINT = f"https://api.example.com/api/v1/{TOKEN}/graphql"
KEY = "planted-api-key"
SECRET = "planted-api-secret"
SECRETS = (TOKEN, KEY, SECRET)
# Where Airflow has kept what it masks, from the newest version to the oldest.
MASKERS = (
    "airflow.sdk._shared.secrets_masker.secrets_masker",
    "airflow.sdk.execution_time.secrets_masker",
    "airflow.utils.log.secrets_masker",
)
# The status words that the service documents, each with what it means.
DOCUMENTED_WORDS = {
    "STARTING": "pending",
    "RUNNING": "running",
    "SUCCESS": "succeeded",
    "ERROR": "failed",
    "FAILED": "failed",
    "CANCELED": "cancelled",
    "SKIPPED": "failed",
}


def make_api(
    extra: dict[str, Any] | None = None,
    *,
    scope: dict[str, str] | None = None,
    keep_secret: Callable[[str], None] = lambda secret: None,
    **fields: Any,
) -> ParadimeRunApi:
    """Return Paradime's API for a key with its secret."""
    fields = {"host": ENDPOINT, "password": SECRET, **fields}
    extra = {"api_key": KEY, **(extra or {})}
    settings = read_settings(ParadimeRunApi.connection, conn_id="paradime_default", extra=extra, **fields)
    return ParadimeRunApi(settings, scope, now=lambda: NOW, keep_secret=keep_secret)


def data(**fields: Any) -> Any:
    """Return a good answer."""
    return answer({"data": fields})


def errors(*entries: Any, status: int = 200, **fields: Any) -> Any:
    """Return an answer with errors: texts, (text, path) or (text, path, code). No fields: no data."""
    listed = []
    for entry in entries:
        text, path, code = (*((entry,) if isinstance(entry, str) else entry), None, None)[:3]
        listed.append(
            {
                "message": text,
                **({"path": path} if path else {}),
                **({"extensions": {"code": code}} if code else {}),
            }
        )
    return answer({"data": fields or None, "errors": listed}, status=status)


@pytest.fixture(autouse=True)
def nothing_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what other tests have learned about their servers."""
    monkeypatch.setattr(paradime, "_learned", {})


@pytest.fixture(autouse=True)
def nothing_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what other tests have masked: each address of an artifact makes Airflow slower for the next."""
    for name in MASKERS:
        with suppress(ImportError):
            masker = import_module(name)._secrets_masker()
            monkeypatch.setattr(masker, "patterns", set())
            monkeypatch.setattr(masker, "replacer", None)
            return


@pytest.fixture
def api() -> ParadimeRunApi:
    return make_api()


@pytest.fixture
def context() -> dict[str, Any]:
    return {"ti": FakeTaskInstance(max_tries=1), "task_state_store": Store()}


# The simulator's own credentials.
def connection(sim: Simulator, **changes: Any) -> dict[str, Any]:
    """Return an Airflow connection to a simulator."""
    return {
        "conn_type": "paradime_bolt",
        "host": f"{sim.url_of('paradime')}/api/v1/company-simulator/graphql",
        "password": "paradime-secret",
        "extra": {"api_key": "key-simulator", "max_requests_per_minute": 60_000},
        **changes,
    }


def connect(monkeypatch: pytest.MonkeyPatch, sim: Simulator, **changes: Any) -> None:
    """Make it the connection that is used by default."""
    monkeypatch.setenv("AIRFLOW_CONN_PARADIME_DEFAULT", json.dumps(connection(sim, **changes)))


@pytest.fixture(scope="module")
def simulators() -> Iterator[Callable[..., Simulator]]:
    """Return a function that gives the simulator with these options, as after a start."""
    with ExitStack() as started:
        made: dict[str, Simulator] = {}

        def simulator(speed: float = 20, **options: Any) -> Simulator:
            if (key := repr((speed, options))) not in made:
                simulator = Simulator(["paradime"], speed=speed, options={"paradime": options})
                made[key] = started.enter_context(simulator)
            made[key].reset()
            return made[key]

        yield simulator


@pytest.fixture
def sim(simulators: Callable[..., Simulator], monkeypatch: pytest.MonkeyPatch) -> Simulator:
    simulator = simulators()
    connect(monkeypatch, simulator)
    return simulator
