"""The vendor's own, unmodified client against the simulated Chalk.

It proves that the simulator satisfies what the client sends and expects. To be run in an environment that has
chalkpy, pytest and aiohttp (``constraints/chalkpy.txt``) and no Airflow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_runs.simulator import Simulator

RESOLVER = "neobank.resolvers.offline_get_transactions"
Make = Callable[..., Any]


@pytest.fixture
def sim() -> Iterator[Simulator]:
    """The simulated Chalk at the root: the client drops the path of its ``api_server``."""
    with Simulator(system="chalk", speed=50) as simulator:
        yield simulator


@pytest.fixture
def make(sim: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Make:
    """Make clients that know nothing but their arguments."""
    for name in list(os.environ):
        if name.startswith(("CHALK_", "_CHALK_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    from chalk.client import ChalkClient

    def client(**options: Any) -> Any:
        settings = {
            "client_id": "token-simulator",
            "client_secret": "chalk-secret",
            "environment": "env-primary",
            "api_server": sim.url,
            "default_request_timeout": 20,
        }
        return ChalkClient(**{**settings, **options})

    return client


def wait_for(client: Any, run_id: str, status: str) -> None:
    """Ask until the run has a status."""
    for _ in range(1000):
        answer = client.get_run_status(run_id)
        assert answer.id == run_id
        if answer.status.value == status:
            return
        assert answer.status.value == "received"
    raise AssertionError(f"the run did not get {status}")


def operations(sim: Simulator) -> list[tuple[str, int | None]]:
    return [(entry["operation"], entry["status"]) for entry in sim.requests()["last"]]


def test_no_airflow_here() -> None:
    """The simulator works where Airflow is not installed."""
    with pytest.raises(ModuleNotFoundError):
        import airflow  # noqa: F401


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
def test_trigger_and_poll(sim: Simulator, make: Make, outcome: str) -> None:
    sim.plan(outcome=outcome, duration=5)
    client = make()
    answer = client.trigger_resolver_run(resolver_fqn=RESOLVER)
    assert answer.status.value == "received"
    wait_for(client, answer.id, outcome)
    assert sim.runs()[0]["body"] == {
        "resolver_fqn": RESOLVER,
        "upper_bound": None,
        "lower_bound": None,
        "timestamping_mode": "feature_time",
        "persistence_settings": {"persist_online_storage": True, "persist_offline_storage": True},
        "override_target_image_tag": None,
        "idempotency_key": None,
    }


def test_all_arguments(sim: Simulator, make: Make) -> None:
    make().trigger_resolver_run(
        resolver_fqn=RESOLVER,
        environment="env-primary",
        lower_bound="2021-01-01T00:00:00Z",
        upper_bound=datetime(2023, 1, 2, tzinfo=UTC),
        store_online=False,
        store_offline=False,
        timestamping_mode="online_store_write_time",
        preview_deployment_id="preview",
        idempotency_key="key-1",
        override_target_image_tag="tag",
    )
    run = sim.runs()[0]
    assert run["key"] == "key-1"
    assert run["body"] == {
        "resolver_fqn": RESOLVER,
        "upper_bound": "2023-01-02T00:00:00+00:00",
        "lower_bound": "2021-01-01T00:00:00+00:00",
        "timestamping_mode": "online_store_write_time",
        "persistence_settings": {"persist_online_storage": False, "persist_offline_storage": False},
        "override_target_image_tag": "tag",
        "idempotency_key": "key-1",
    }


def test_final_status_at_once(sim: Simulator, make: Make) -> None:
    sim.plan(ends_at_once=True, hold=5)
    assert make().trigger_resolver_run(resolver_fqn=RESOLVER).status.value == "succeeded"


def test_primary_environment_is_the_default(sim: Simulator, make: Make) -> None:
    client = make(environment=None)
    client.trigger_resolver_run(resolver_fqn=RESOLVER)
    assert sim.runs()[0]["scope"] == {"environment": "env-primary"}


def test_deduplication(sim: Simulator, make: Make) -> None:
    client = make()
    first, second = (
        client.trigger_resolver_run(resolver_fqn=RESOLVER, idempotency_key="k") for _ in range(2)
    )
    assert first.id == second.id
    assert len(sim.runs()) == 1


def test_expired_token_is_renewed(sim: Simulator, make: Make) -> None:
    """The client renews its token on a 401 and sends the same request again."""
    client = make()
    run_id = client.trigger_resolver_run(resolver_fqn=RESOLVER).id
    sim.expire_tokens("chalk")
    sim.clear_requests()
    assert client.get_run_status(run_id).id == run_id
    assert operations(sim) == [("get", 401), ("token", 200), ("get", 200)]
    sim.expire_tokens("chalk")
    sim.clear_requests()
    client.trigger_resolver_run(resolver_fqn=RESOLVER)
    assert operations(sim) == [("trigger", 401), ("token", 200), ("trigger", 200)]
    assert len(sim.runs()) == 2


def test_wrong_environment(sim: Simulator, make: Make) -> None:
    """The client takes a 403 for an expired token once, then gives up."""
    from chalk.client import ChalkBaseException

    client = make(environment="env-other")
    with pytest.raises(ChalkBaseException):
        client.trigger_resolver_run(resolver_fqn=RESOLVER)
    assert sim.count("chalk", "trigger", 403) >= 1
    assert sim.runs() == []


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500, 503])
def test_errors_carry_the_trace(sim: Simulator, make: Make, status: int) -> None:
    from chalk.client import ChalkBaseException

    client = make()
    sim.fault("status", operation="trigger", status=status)
    with pytest.raises(ChalkBaseException) as caught:
        client.trigger_resolver_run(resolver_fqn=RESOLVER)
    assert len(caught.value.trace_id) == 32
    assert str(status) in caught.value.detail


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"resolver_fqn": "missing.resolver"}, "RESOLVER_NOT_FOUND"),
        ({"resolver_fqn": ""}, "VALIDATION_FAILED"),
    ],
)
def test_refusals_are_understood(make: Make, arguments: dict[str, Any], code: str) -> None:
    from chalk.client import ChalkBaseException

    with pytest.raises(ChalkBaseException) as caught:
        make().trigger_resolver_run(**arguments)
    assert [error.code.value for error in caught.value.errors] == [code]
    assert caught.value.trace_id


def test_unknown_run(make: Make) -> None:
    from chalk.client import ChalkBaseException

    with pytest.raises(ChalkBaseException, match="not found") as caught:
        make().get_run_status("j-00000000000000")
    assert caught.value.trace_id


def test_wrong_secret(make: Make) -> None:
    import requests

    with pytest.raises(requests.HTTPError, match="401"):
        make(client_secret="wrong").get_run_status("j-00000000000000")


def test_cut_connection(sim: Simulator, make: Make) -> None:
    """A trigger whose answer was lost is not sent again; its run goes on."""
    import requests

    client = make()
    sim.fault("reset_after", operation="trigger", times=1)
    with pytest.raises(requests.ConnectionError):
        client.trigger_resolver_run(resolver_fqn=RESOLVER)
    assert sim.count("chalk", "trigger") == 1
    assert len(sim.runs()) == 1


def test_unreadable_answer(sim: Simulator, make: Make) -> None:
    client = make()
    sim.fault("not_json", operation="trigger")
    with pytest.raises(ValueError, match="this is not JSON"):
        client.trigger_resolver_run(resolver_fqn=RESOLVER)


def test_user_token(sim: Simulator, make: Make) -> None:
    """A bearer of the caller's own is used as it is, without an exchange."""
    client = make(environment="env-other", additional_headers={"Authorization": "Bearer chalk-user-token"})
    client.trigger_resolver_run(resolver_fqn=RESOLVER)
    assert sim.runs()[0]["scope"] == {"environment": "env-other"}
    assert sim.count("chalk", "token") == 0


def test_who_am_i(make: Make) -> None:
    assert make().whoami().user == "token-simulator"
