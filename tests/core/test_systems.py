"""Whatever a server answers, a start goes out once and each call ends: all systems, both drivers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from airflow_provider_runs.chalk.api import ChalkRunApi
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import RunApi
from airflow_provider_runs.core.errors import ConnectionFailed, RunsError
from airflow_provider_runs.core.http import Flow
from airflow_provider_runs.core.retry import RetryPolicy
from airflow_provider_runs.mage.api import MageRunApi
from airflow_provider_runs.paradime.api import ParadimeRunApi
from airflow_provider_runs.provider_info import SYSTEMS
from airflow_provider_runs.strait.api import StraitRunApi
from tests.core.conftest import AnyDriver, Connect, Wire, raw, reply
from tests.core.hostile import DRIPS, ODD, OK, UNREADABLE, bomb
from tests.covering import covering

Start = Callable[..., Wire]
MANY = RetryPolicy(attempts=5, base=0.01, cap=0.02)
PAGE = reply(200, b"<html>Please wait</html>", Content_Type="text/html")
LIMIT = 2


@dataclass(frozen=True)
class System:
    """How a system is connected to and what is started in it, so that a start is a single request."""

    api: type[RunApi]
    arguments: Mapping[str, Any]
    password: str | None
    path: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    run_id: str = "1"

    def connect(self, connect: Connect, server: Wire, **extra: Any) -> AnyDriver:
        given = {**self.extra, "request_timeout": LIMIT, "trigger_timeout": LIMIT, **extra}
        return connect(server.url + self.path, self.api, extra=given, password=self.password)  # type: ignore[arg-type]


OF = {
    "chalk": System(ChalkRunApi, {"resolver_fqn": "a.b"}, "hush", extra={"access_token": "hush-token"}),
    "mage": System(
        MageRunApi,
        {"pipeline_schedule_id": 1, "allow_inactive_trigger": True},
        None,
        extra={"trigger_token": "hush-token"},
    ),
    "paradime": System(ParadimeRunApi, {"schedule_name": "a"}, "prdm_wsp_hush", "/api/v1/hush-token/graphql"),
    "strait": System(StraitRunApi, {"job_id": "0190a0a0-0000-7000-8000-000000000001"}, "strait_hush"),
}


def test_all_systems_are_here() -> None:
    assert set(OF) == set(SYSTEMS)


HOSTILE = {**UNREADABLE, **ODD}


@pytest.mark.parametrize(("system", "name"), covering(SYSTEMS, HOSTILE, turns=2))
async def test_a_start_without_key_goes_out_once(
    wire: Start, connect: Connect, system: str, name: str
) -> None:
    server = wire(raw(HOSTILE[name]))
    driver = OF[system].connect(connect, server)
    with pytest.raises(RunsError) as caught:
        await driver.drive(driver.api.trigger(OF[system].arguments), MANY)
    assert len(server.asked) == 1
    assert not isinstance(caught.value, ConnectionFailed) or caught.value.sent
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("system", SYSTEMS)
async def test_two_lengths_do_not_start_five_runs(wire: Start, connect: Connect, system: str) -> None:
    server = wire(raw(UNREADABLE["two lengths"]))
    driver = OF[system].connect(connect, server)
    with pytest.raises(ConnectionFailed) as caught:
        await driver.drive(driver.api.trigger(OF[system].arguments), MANY)
    assert caught.value.sent and len(server.asked) == 1


@pytest.mark.parametrize(("system", "drip"), covering(SYSTEMS, DRIPS))
async def test_a_start_ends_in_time(wire: Start, connect: Connect, system: str, drip: str) -> None:
    server = wire(DRIPS[drip])
    driver = OF[system].connect(connect, server)
    began = clock.monotonic()
    with pytest.raises(ConnectionFailed) as caught:
        await driver.drive(driver.api.trigger(OF[system].arguments), MANY)
    assert caught.value.sent and len(server.asked) == 1
    assert clock.monotonic() - began < LIMIT + 2


CALLS: dict[str, tuple[tuple[str, ...], Callable[[AnyDriver, System], Flow[Any]]]] = {
    "get": (SYSTEMS, lambda driver, system: driver.api.get(system.run_id)),
    "start with key": (
        ("chalk", "strait"),
        lambda driver, system: driver.api.trigger(system.arguments, "key"),
    ),
    "cancel": (("mage", "paradime", "strait"), lambda driver, system: driver.api.cancel(system.run_id)),  # type: ignore[attr-defined]
    "list": (
        ("mage", "paradime", "strait"),
        lambda driver, system: driver.api.list_runs({"schedule_name": "a"} if system.path else {}),  # type: ignore[attr-defined]
    ),
    "check": (SYSTEMS, lambda driver, system: driver.api.check()),
    "get a token": (("mage", "chalk"), lambda driver, system: driver.api.authenticate()),
}


@pytest.mark.parametrize(
    ("call", "system"), [(call, system) for call, (systems, _) in CALLS.items() for system in systems]
)
async def test_a_page_of_a_gateway_is_asked_past_where_that_is_safe(
    wire: Start, connect: Connect, system: str, call: str
) -> None:
    server = wire(PAGE, reply(500))
    chosen = OF[system]
    driver = chosen.connect(connect, server)
    if call == "get a token":
        driver = connect(server.url, chosen.api, login="me", password="hush")  # type: ignore[arg-type]
    with pytest.raises(RunsError, match="500"):
        await driver.drive(CALLS[call][1](driver, chosen), RetryPolicy(attempts=2, base=0.01))
    first, second = server.asked[:2]
    assert (first.method, first.target, first.body) == (second.method, second.target, second.body)


@pytest.mark.parametrize("system", SYSTEMS)
async def test_a_page_of_a_gateway_is_no_reason_to_start_again(
    wire: Start, connect: Connect, system: str
) -> None:
    server = wire(PAGE)
    driver = OF[system].connect(connect, server)
    with pytest.raises(RunsError, match="Please wait"):
        await driver.drive(driver.api.trigger(OF[system].arguments), MANY)
    assert len(server.asked) == 1


@pytest.mark.parametrize("system", ["mage", "paradime", "strait"])
async def test_a_page_of_a_gateway_cancels_nothing(wire: Start, connect: Connect, system: str) -> None:
    server = wire(PAGE)
    driver = OF[system].connect(connect, server)
    with pytest.raises(RunsError, match="Please wait"):
        await driver.drive(driver.api.cancel(OF[system].run_id), MANY)  # type: ignore[attr-defined]


@pytest.mark.no_cover  # several times as quick; other tests run each line
@pytest.mark.parametrize("system", SYSTEMS)
async def test_a_bomb_is_no_answer_and_no_harm(wire: Start, connect: Connect, system: str) -> None:
    packed = bomb(100, b'{"id": 1}, ')
    server = wire(raw(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed))
    driver = OF[system].connect(connect, server, request_timeout=60)
    with pytest.raises(ConnectionFailed, match="longer than 16 MiB"):
        await driver.drive(driver.api.get(OF[system].run_id), RetryPolicy(attempts=1))


@pytest.mark.parametrize("system", SYSTEMS)
async def test_an_echo_of_a_secret_is_masked(wire: Start, connect: Connect, system: str) -> None:
    secret = "hush\"<ü>&'/ \\hush" if system in ("chalk", "mage") else OF[system].password
    echo = json.dumps({"message": f"no such login: {secret}"}).encode()
    server = wire(reply(400, echo))
    driver = OF[system].connect(connect, server)
    if system in ("chalk", "mage"):
        driver = connect(server.url, OF[system].api, login="me", password=secret)  # type: ignore[arg-type]
    (error,) = await asyncio.gather(driver.drive(driver.api.check(), MANY), return_exceptions=True)
    assert isinstance(error, RunsError) and "no such login: ***" in str(error)
    assert "hush" not in str(error)
