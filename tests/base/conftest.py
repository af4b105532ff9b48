from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.base import fakes
from tests.virtual import VirtualClock


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> fakes.Service:
    """A fresh fake service and the connection to it."""
    made = fakes.Service()
    monkeypatch.setattr(fakes, "SERVICE", made)
    monkeypatch.setenv("AIRFLOW_CONN_FAKE_DEFAULT", json.dumps({"conn_type": "fake", "host": "fake"}))
    return made


@pytest.fixture(autouse=True)
def callable_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tests call execute, which Airflow otherwise allows to its task runner only."""
    try:
        from airflow.sdk.bases.operator import ExecutorSafeguard
    except ImportError:
        from airflow.models.baseoperator import ExecutorSafeguard
    monkeypatch.setattr(ExecutorSafeguard, "test_mode", True)


@pytest.fixture
def context() -> dict[str, Any]:
    """The context of a first try, with a task state store as Airflow 3.3 has it."""
    return {"ti": fakes.FakeTaskInstance(), "task_state_store": fakes.Store()}


@pytest.fixture
def later(virtual: VirtualClock) -> Callable[[float, Callable[[], Any]], None]:
    """Do something in another thread after some virtual seconds."""
    return virtual.later


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return what tasks wrote into their logs: Airflow 3 prints it, Airflow 2 hands it to logging."""
    return lambda: caplog.text + capsys.readouterr().out
