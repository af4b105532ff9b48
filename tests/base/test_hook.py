"""Hooks of real systems against their simulators, as users call them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_runs.base import connections
from airflow_provider_runs.base.hook import CannotCancel
from airflow_provider_runs.base.link import RunLink
from airflow_provider_runs.chalk.hooks import ChalkHook
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.errors import BadInput, NotFound, Unauthorized
from airflow_provider_runs.core.http import Flow
from airflow_provider_runs.core.run import RunState
from airflow_provider_runs.mage.api import MageRunApi
from airflow_provider_runs.mage.hooks import MageHook
from airflow_provider_runs.simulator import Simulator

SECRET = "chalk-secret"


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator() as started:
        yield started


@pytest.fixture
def sim(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    simulator.reset()
    connections = {
        "CHALK_DEFAULT": {
            "conn_type": "chalk",
            "host": simulator.url_of("chalk"),
            "login": "token-simulator",
            "password": SECRET,
        },
        "MAGE_DEFAULT": {
            "conn_type": "mage",
            "host": simulator.url_of("mage"),
            # What the form saves of fields that were left empty.
            "port": 0,
            "login": "",
            "extra": {"trigger_token": "tok123", "dashboard_url": None, "request_timeout": ""},
        },
    }
    for name, fields in connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", json.dumps(fields))
    return simulator


async def finished(hook: Any, run_id: str) -> RunState:
    for _ in range(500):
        run = await hook.aget_run(run_id)
        if run.state.is_terminal:
            return run.state
        await asyncio.sleep(1)
    raise AssertionError("the run did not end")


async def test_a_token_obtained_in_an_event_loop_is_masked_from_a_thread(sim: Simulator, mocker: Any) -> None:
    # Only from there the triggerer's supervisor, which writes the logs, hears of it.
    threads: dict[str, int] = {}
    mocker.patch.object(
        connections,
        "mask_secret",
        side_effect=lambda secret: threads.setdefault(secret, threading.get_ident()),
    )
    async with ChalkHook() as hook:
        with pytest.raises(NotFound):
            await hook.aget_run("r1")
        token = (await hook.async_driver()).api.token
    assert token is not None
    # Nobody waits for that thread.
    for _ in range(500):
        if token.value in threads:
            break
        await asyncio.sleep(0.01)
    assert threads.keys() == {SECRET, token.value}
    assert threading.get_ident() not in threads.values()


async def test_a_chalk_run_is_started_and_followed(sim: Simulator) -> None:
    async with ChalkHook() as hook:
        run = hook.trigger_run(
            "neobank.resolvers.offline_get_transactions", lower_bound="2021-01-01", max_samples="10"
        )
        assert run.url == f"https://chalk.ai/runs/{run.id}"
        assert hook.get_run(run.id).id == run.id
        assert await finished(hook, run.id) is RunState.SUCCEEDED
    assert sim.runs("chalk")[0]["body"]["lower_bound"] == "2021-01-01T00:00:00+00:00"
    # The synchronous and the asynchronous side have each got one token.
    assert sim.count("chalk", "token") == 2


async def test_chalk_cannot_cancel_and_says_so(sim: Simulator) -> None:
    async with ChalkHook() as hook:
        with pytest.raises(CannotCancel, match="Chalk has no call"):
            hook.cancel_run("j-1")
        with pytest.raises(CannotCancel):
            await hook.acancel_run("j-1")


def test_chalk_explains_nothing_beyond_the_status(sim: Simulator) -> None:
    assert ChalkHook().explain_run("j-1") is None
    assert ChalkHook().find_started({}, "key", 0) is None


async def test_a_mage_run_is_started_cancelled_and_read_back(sim: Simulator) -> None:
    sim.plan(system="mage", resource="example", duration=1000)
    async with MageHook() as hook:
        run = hook.trigger_run("1", variables={"day": "2026-01-01"}, run_key="marker")
        assert hook.find_started({"pipeline_schedule_id": 1}, "marker", 0).id == run.id  # type: ignore[union-attr]
        await hook.acancel_run(run.id)
        assert await finished(hook, run.id) is RunState.CANCELLED
        hook.cancel_run(run.id)
    assert sim.runs("mage")[0]["cancelled"]


def test_a_failed_mage_run_is_explained(sim: Simulator) -> None:
    sim.plan(system="mage", resource="example", outcome="failed", ends_at_once=True)
    hook = MageHook()
    run = hook.trigger_run(1)
    for _ in range(500):
        if hook.get_run(run.id).state.is_terminal:
            break
        clock.sleep(1)
    text = hook.explain_run(run.id)
    assert text
    assert text.startswith("block ")


def test_bad_input_is_refused_before_anything_is_sent(sim: Simulator) -> None:
    with pytest.raises(BadInput):
        ChalkHook().trigger_run("")
    with pytest.raises(BadInput):
        MageHook().trigger_run("one")
    assert sim.count("chalk", "trigger") == sim.count("mage", "trigger") == 0


@pytest.mark.parametrize("hook", [ChalkHook, MageHook])
def test_a_good_connection_passes_its_test(sim: Simulator, hook: Any) -> None:
    worked, text = hook().test_connection()
    assert (worked, text.startswith("Connected to")) == (True, True)


def test_a_refused_connection_fails_its_test_without_its_secret(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {
        "conn_type": "chalk",
        "host": sim.url_of("chalk"),
        "login": "token-simulator",
        "password": "wrong-secret",
    }
    monkeypatch.setenv("AIRFLOW_CONN_CHALK_DEFAULT", json.dumps(fields))
    worked, text = ChalkHook().test_connection()
    assert not worked
    assert "401" in text
    assert "wrong-secret" not in text
    with pytest.raises(Unauthorized):
        ChalkHook().trigger_run("a.b")


def test_a_service_that_is_not_there_fails_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MAGE_DEFAULT", json.dumps({"conn_type": "mage", "host": "127.0.0.1:9"}))
    worked, text = MageHook().test_connection()
    assert not worked
    assert "127.0.0.1:9" in text


def test_a_connection_is_tested_with_two_requests_at_most(sim: Simulator) -> None:
    sim.fault("status", system="chalk", operation="who_am_i", status=503)
    worked, text = ChalkHook().test_connection()
    assert (worked, "503" in text) == (False, True)
    assert sim.count("chalk", "who_am_i") == 2


@pytest.mark.parametrize("fields", [{"conn_type": "mage"}, {"conn_type": "mage", "host": "ftp://x"}])
def test_a_connection_that_cannot_work_fails_its_test(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MAGE_DEFAULT", json.dumps(fields))
    worked, text = MageHook().test_connection()
    assert not worked
    assert "mage_default" in text


async def test_an_unknown_run_is_not_found_by_either_side(sim: Simulator) -> None:
    async with MageHook() as hook:
        with pytest.raises(NotFound):
            hook.get_run("4711")
        with pytest.raises(NotFound):
            await hook.aget_run("4711")


def test_settings_show_no_secret(sim: Simulator) -> None:
    hook = ChalkHook()
    hook.test_connection()
    shown = repr(hook.api.settings) + repr(hook.api.token) + str(vars(hook))
    assert SECRET not in shown
    assert hook.api.token is not None
    assert hook.api.token.value not in shown


def test_the_link_is_what_the_task_pushed(mocker: Any) -> None:
    from airflow_provider_runs.base import link

    pull = mocker.patch.object(link.XCom, "get_value", return_value="http://x/runs/1")
    assert RunLink().get_link(None, ti_key="key") == "http://x/runs/1"  # type: ignore[arg-type]
    assert pull.call_args.kwargs == {"key": "run_url", "ti_key": "key"}
    pull.return_value = None
    assert RunLink().get_link(None, ti_key="key") == ""  # type: ignore[arg-type]


@pytest.mark.parametrize("call", ["cancel_and_confirm", "acancel_and_confirm"])
async def test_a_cancel_that_mage_lost_is_sent_again(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Mage's scheduler may write "running" over it while it begins the run."""
    sim.plan(system="mage", duration=600)
    hook = MageHook()
    run = await asyncio.to_thread(hook.trigger_run, pipeline_schedule_id=1, allow_inactive_trigger=True)
    cancel, lost = MageRunApi.cancel, 0

    def lose_the_first(api: MageRunApi, run_id: str) -> Flow[None]:
        nonlocal lost
        if lost:
            yield from cancel(api, run_id)
        lost += 1

    monkeypatch.setattr(MageRunApi, "cancel", lose_the_first)
    if call == "cancel_and_confirm":
        ended = await asyncio.to_thread(hook.cancel_and_confirm, run.id, 10)
    else:
        ended = await hook.acancel_and_confirm(run.id, 10)
    await hook.aclose()
    assert ended.state is RunState.CANCELLED
    assert lost == 2
