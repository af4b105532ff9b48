from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from airflow_provider_runs.core import clock
from airflow_provider_runs.simulator import Simulator

SERVICE = {"client_id": "token-simulator", "client_secret": "chalk-secret"}
EXCHANGE = {**SERVICE, "grant_type": "client_credentials", "scope": None}


def headers_of(sim: Simulator) -> dict[str, str]:
    answer = requests.post(sim.url_of("chalk") + "/v1/oauth/token", json=EXCHANGE, timeout=10)
    return {"Authorization": "Bearer " + answer.json()["access_token"]}


def trigger(sim: Simulator, headers: dict[str, str] | None = None, **body: Any) -> requests.Response:
    body = {"resolver_fqn": "neobank.resolvers.offline_get_transactions", **body}
    url = sim.url_of("chalk") + "/v1/runs/trigger"
    return requests.post(url, json=body, headers=headers or headers_of(sim), timeout=10)


def get(sim: Simulator, run_id: str, headers: dict[str, str]) -> requests.Response:
    return requests.get(f"{sim.url_of('chalk')}/v1/runs/{run_id}", headers=headers, timeout=10)


def assert_refused(answer: requests.Response, status: int, code: str | None = None) -> None:
    """Check the error shape that the vendor's client knows."""
    body = answer.json()
    assert answer.status_code == status
    assert isinstance(body["detail"], str)
    assert body["trace"] == answer.headers["trace"]
    assert [error["code"] for error in body.get("errors", [])] == ([code] if code else [])


def test_documented_requests(sim: Simulator, until: Callable[..., Any]) -> None:
    """The literal requests of the vendor's page, with a user token, get the literal answers' shape."""
    headers = {
        "Authorization": "Bearer chalk-user-token",
        "X-Chalk-Env-Id": "env-primary",
        "Content-Type": "application/json",
    }
    data = '{ "resolver_fqn": "neobank.resolvers.offline_get_transactions" }'
    sim.plan(system="chalk", ends_at_once=True)
    url = sim.url_of("chalk")
    answer = requests.post(url + "/v1/runs/trigger", headers=headers, data=data, timeout=10)
    assert answer.status_code == 200
    assert set(answer.json()) == {"id", "status"}
    assert answer.json()["status"] == "succeeded"
    run_id = answer.json()["id"]
    assert re.fullmatch(r"j-[a-z0-9]{14}", run_id)
    del headers["Content-Type"]
    again = requests.get(f"{url}/v1/runs/{run_id}", headers=headers, timeout=10)
    assert again.json() == {"id": run_id, "status": "succeeded"}


@pytest.mark.parametrize(
    ("outcome", "last"),
    [("succeeded", "succeeded"), ("failed", "failed"), ("cancelled", "failed"), ("canceled", "canceled")],
)
def test_outcomes(sim: Simulator, until: Callable[..., Any], outcome: str, last: str) -> None:
    headers = headers_of(sim)
    sim.plan(system="chalk", resource="neobank.*", queued=5, duration=5, outcome=outcome)
    answer = trigger(sim, headers).json()
    assert answer["status"] == "received"
    until(lambda: get(sim, answer["id"], headers).json()["status"] == last)


def test_stuck(sim: Simulator) -> None:
    headers = headers_of(sim)
    sim.plan(resource="neobank.*", outcome="stuck", duration=0)
    answer = trigger(sim, headers).json()
    assert get(sim, answer["id"], headers).json()["status"] == "received"
    assert sim.runs("chalk")[0]["finished_at"] is None


def test_default_plans(sim: Simulator, until: Callable[..., Any]) -> None:
    headers = headers_of(sim)
    run_id = trigger(sim, headers, resolver_fqn="shop.broken_prices").json()["id"]
    until(lambda: get(sim, run_id, headers).json()["status"] == "failed")


def test_all_fields(sim: Simulator) -> None:
    """Nulls and absent keys are accepted alike, and what was asked is kept."""
    body = {
        "resolver_fqn": "my.module.fn",
        "upper_bound": "2023-01-02T00:00:00+00:00",
        "lower_bound": "2021-01-01T00:00:00Z",
        "max_samples": 1000,
        "timestamping_mode": "online_store_write_time",
        "persistence_settings": {"persist_online_storage": False, "persist_offline_storage": None},
        "override_target_image_tag": "tag",
        "idempotency_key": "key-1",
    }
    nulls = dict.fromkeys(
        ("upper_bound", "lower_bound", "max_samples", "override_target_image_tag", "idempotency_key")
    )
    headers = headers_of(sim)
    assert trigger(sim, headers, **body).status_code == 200
    assert trigger(sim, headers, **nulls).status_code == 200
    full, empty = sim.runs("chalk")
    assert full["body"] == body
    assert full["key"] == "key-1"
    assert full["scope"] == {"environment": "env-primary"}
    assert empty["key"] is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"resolver_fqn": None},
        {"resolver_fqn": ""},
        {"lower_bound": "yesterday"},
        {"upper_bound": 5},
        {"max_samples": "many"},
        {"max_samples": True},
        {"timestamping_mode": "now"},
        {"persistence_settings": []},
        {"persistence_settings": {"persist_online_storage": "yes"}},
        {"idempotency_key": 1},
    ],
)
def test_validation(sim: Simulator, wrong: dict[str, Any]) -> None:
    assert_refused(trigger(sim, **wrong), 400, "VALIDATION_FAILED")
    assert sim.runs() == []


@pytest.mark.parametrize("data", ["{", "[]", ""])
def test_not_an_object(sim: Simulator, data: str) -> None:
    url = sim.url_of("chalk") + "/v1/runs/trigger"
    assert_refused(requests.post(url, data=data, headers=headers_of(sim), timeout=10), 400, "PARSE_FAILED")


def test_unknown_resolver(sim: Simulator) -> None:
    assert_refused(trigger(sim, resolver_fqn="missing.resolver"), 400, "RESOLVER_NOT_FOUND")


def test_unknown_run(sim: Simulator) -> None:
    """A run is unknown in any other environment than its own."""
    user = {"Authorization": "Bearer chalk-user-token"}
    run_id = trigger(sim).json()["id"]
    assert_refused(get(sim, "j-00000000000000", headers_of(sim)), 404)
    assert_refused(get(sim, run_id, {**user, "X-Chalk-Env-Id": "env-other"}), 404)
    assert get(sim, run_id, {**user, "X-Chalk-Env-Id": "env-primary"}).status_code == 200


def test_token_exchange(sim: Simulator) -> None:
    url = sim.url_of("chalk") + "/v1/oauth/token"
    body = requests.post(url, json=EXCHANGE, timeout=10).json()
    assert body["token_type"] == "Bearer"
    assert body["expires_in"] == 3600
    assert body["api_server"] == sim.url_of("chalk")
    assert body["primary_environment"] == "env-primary"
    assert_refused(requests.post(url, data=EXCHANGE, timeout=10), 400, "PARSE_FAILED")
    wrong_type = {**EXCHANGE, "grant_type": "password"}
    assert_refused(requests.post(url, json=wrong_type, timeout=10), 400, "INVALID_QUERY")
    wrong_secret = {**EXCHANGE, "client_secret": "x"}
    assert_refused(requests.post(url, json=wrong_secret, timeout=10), 401, "UNAUTHENTICATED")


def test_bad_and_expired_tokens(sim: Simulator) -> None:
    headers = headers_of(sim)
    assert_refused(trigger(sim, {"Authorization": "Bearer nonsense"}), 401, "UNAUTHENTICATED")
    assert_refused(trigger(sim, {"X-Other": "1"}), 401, "UNAUTHENTICATED")
    assert trigger(sim, headers).status_code == 200
    sim.expire_tokens("chalk")
    assert_refused(trigger(sim, headers), 401, "UNAUTHENTICATED")


def test_expires_in() -> None:
    with Simulator(system="chalk", options={"chalk": {"expires_in": 0}}) as sim:
        assert_refused(trigger(sim), 401, "UNAUTHENTICATED")


def test_environments(sim: Simulator) -> None:
    """A user token must name its environment, a service token has only one."""
    user = {"Authorization": "Bearer chalk-user-token"}
    assert_refused(trigger(sim, user), 400, "INVALID_QUERY")
    assert trigger(sim, {**user, "X-Chalk-Env-Id": "env-other"}).status_code == 200
    assert_refused(trigger(sim, {**user, "X-Chalk-Env-Id": "env-nowhere"}), 403, "UNAUTHORIZED")
    assert_refused(trigger(sim, {**headers_of(sim), "X-Chalk-Env-Id": "env-other"}), 403, "UNAUTHORIZED")


def test_deduplication(sim: Simulator, until: Callable[..., Any]) -> None:
    """A repeat with a known key answers the first run and its current status, per environment."""
    user = {"Authorization": "Bearer chalk-user-token"}
    here, there = {**user, "X-Chalk-Env-Id": "env-primary"}, {**user, "X-Chalk-Env-Id": "env-other"}
    first = trigger(sim, here, idempotency_key="k").json()
    until(lambda: get(sim, first["id"], here).json()["status"] == "succeeded")
    assert trigger(sim, here, idempotency_key="k").json() == {"id": first["id"], "status": "succeeded"}
    assert trigger(sim, there, idempotency_key="k").json()["id"] != first["id"]
    assert len({trigger(sim, here).json()["id"] for _ in range(2)}) == 2


def test_deduplication_switched_off() -> None:
    with Simulator(options={"chalk": {"deduplicate": False}}) as sim:
        headers = headers_of(sim)
        ids = {trigger(sim, headers, idempotency_key="k").json()["id"] for _ in range(2)}
        assert len(ids) == 2


def test_hold() -> None:
    """The answer comes late, the run exists at once, and a repeat finds it."""
    with Simulator(speed=10) as sim, ThreadPoolExecutor() as pool:
        headers = headers_of(sim)
        sim.plan(hold=5, duration=2, times=1)
        begun = clock.monotonic()
        waiting = pool.submit(trigger, sim, headers, idempotency_key="k")
        while not sim.runs():
            clock.sleep(0.01)
        repeat = trigger(sim, headers, idempotency_key="k").json()
        assert not waiting.done()
        answer = waiting.result().json()
        assert clock.monotonic() - begun >= 0.5
        assert answer == {"id": repeat["id"], "status": "succeeded"}


def test_who_am_i_and_run_page(sim: Simulator) -> None:
    headers = headers_of(sim)
    body = requests.get(sim.url_of("chalk") + "/v1/who-am-i", headers=headers, timeout=10).json()
    assert body == {
        "user": "token-simulator",
        "environment_id": "env-primary",
        "team_id": "team-simulator",
    }
    run_id = trigger(sim, headers).json()["id"]
    page = requests.get(f"{sim.url_of('chalk')}/runs/{run_id}", timeout=10)
    assert run_id in page.text
    assert requests.get(f"{sim.url_of('chalk')}/runs/nothing", timeout=10).status_code == 404
    assert_refused(requests.get(f"{sim.url_of('chalk')}/v2/other", timeout=10), 404)
