"""What the Test button and ``python -m airflow_provider_runs.check`` tell about a connection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_runs import check
from airflow_provider_runs.provider_info import SYSTEMS
from airflow_provider_runs.simulator import Simulator
from tests.simulators import Simulators, simulators  # noqa: F401

WRONG = "wrong-secret"
# What stores a connection in a fresh database, faster than two of Airflow's commands.
STORES = """
import sys
from airflow.models import Connection
from airflow.utils import db
from airflow.utils.session import create_session

db.initdb()
with create_session() as session:
    session.add(Connection.from_json(sys.argv[1], conn_id="in_database"))
"""


@dataclass(frozen=True)
class Case:
    """
    A good connection, and what makes it a bad one.

    :param refused: with these fields the service refuses the credentials.
    :param wrong_scope: with these it refuses what was chosen beside them.
    :param named: what the message then names.
    """

    fields: dict[str, Any]
    refused: dict[str, Any]
    wrong_scope: dict[str, Any] | None = None
    named: str = ""
    path: str = ""


CASES = {
    "chalk": Case(
        {"conn_type": "chalk", "login": "token-simulator", "password": "chalk-secret"},
        refused={"password": WRONG},
        wrong_scope={"extra": {"environment": "env-of-others"}},
        named="no access to environment 'env-of-others'",
    ),
    "mage": Case(
        {"conn_type": "mage", "login": "admin@admin.com", "password": "admin"}, refused={"password": WRONG}
    ),
    "paradime": Case(
        {"conn_type": "paradime_bolt", "password": "paradime-secret", "extra": {"api_key": "key-simulator"}},
        refused={"password": WRONG},
        wrong_scope={"password": "prdm_cmp_simulator", "extra": {"workspace_uid": "ws-of-others"}},
        named="no access to workspace 'ws-of-others'",
        path="/api/v1/company-simulator/graphql",
    ),
    "strait": Case(
        {"conn_type": "strait", "password": "strait_simulator"},
        refused={"password": f"strait_{WRONG}"},
        wrong_scope={"extra": {"project_id": "project-of-others"}},
        named="belongs to project project-simulator, not to project-of-others",
    ),
}
assert set(CASES) == set(SYSTEMS)


@pytest.fixture
def sim(simulators: Simulators) -> Simulator:  # noqa: F811
    return simulators(speed=50, options={"mage": {"auth": True}})


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def connect(monkeypatch: pytest.MonkeyPatch, sim: Simulator | None, system: str, **changes: Any) -> str:
    """Store a connection with some fields changed; return its id."""
    case = CASES[system]
    host = sim.url_of(system) if sim is not None else "http://127.0.0.1:9"
    fields = {**case.fields, "host": host + case.path, **changes}
    monkeypatch.setenv(f"AIRFLOW_CONN_{system.upper()}_TESTED", json.dumps(fields))
    return f"{system}_tested"


def start_a_strait_run(monkeypatch: pytest.MonkeyPatch, sim: Simulator) -> None:
    """Start the run by whose project the key's is known."""
    from airflow_provider_runs.strait.hooks import StraitHook

    StraitHook(connect(monkeypatch, sim, "strait")).trigger_run("01900000-0000-7000-8000-000000000001")


def test_a_good_connection_works(sim: Simulator, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    worked, said = check.check_connection(connect(monkeypatch, sim, system))
    assert worked and said.startswith("Connected to"), said


def test_a_service_that_is_not_there_is_not_reachable(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    worked, said = check.check_connection(connect(monkeypatch, None, system))
    assert not worked and said.startswith("Not reachable: ") and "127.0.0.1:9" in said


def test_wrong_credentials_are_refused_and_not_shown(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    worked, said = check.check_connection(connect(monkeypatch, sim, system, **CASES[system].refused))
    assert not worked and said.startswith("Refused: "), said
    assert WRONG not in said and f"{system}_tested" in said


@pytest.mark.parametrize("system", [system for system, case in CASES.items() if case.wrong_scope])
def test_a_wrong_environment_workspace_or_project_is_told_from_wrong_credentials(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    if system == "strait":
        start_a_strait_run(monkeypatch, sim)
    case = CASES[system]
    assert case.wrong_scope is not None
    conn_id = connect(monkeypatch, sim, system, **case.wrong_scope)
    worked, said = check.check_connection(conn_id)
    assert not worked and said.startswith("Wrong environment, workspace or project: "), said
    assert case.named in said


@pytest.mark.parametrize(
    ("system", "changes"),
    [
        ("chalk", {"password": WRONG, "extra": {"environment": "env-of-others"}}),
        ("chalk", {"password": None, "extra": {"access_token": WRONG, "environment": "env-of-others"}}),
        ("paradime", {"password": f"prdm_cmp_{WRONG}", "extra": {"workspace_uid": "ws-of-others"}}),
    ],
)
def test_wrong_credentials_are_not_taken_for_a_wrong_scope(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch, system: str, changes: dict[str, Any]
) -> None:
    worked, said = check.check_connection(connect(monkeypatch, sim, system, **changes))
    assert not worked and said.startswith("Refused: ") and WRONG not in said, said


def test_a_service_in_trouble_is_neither_refused_nor_unreachable(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    sim.fault("status", system=system, operation="*", status=503)
    worked, said = check.check_connection(connect(monkeypatch, sim, system))
    assert not worked and "503" in said and not said.startswith(("Refused", "Not reachable", "Wrong")), said


def test_a_connection_of_the_vendors_provider_can_be_tested(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn_id = connect(monkeypatch, sim, "paradime", conn_type="paradime")
    assert check.check_connection(conn_id)[0]


def test_what_cannot_be_tested_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps({"conn_type": "http", "password": WRONG}))
    worked, said = check.check_connection("other")
    assert (worked, said) == (
        False,
        "its type is 'http', not one of chalk, mage, paradime_bolt, paradime, strait",
    )
    worked, said = check.check_connection("missing")
    assert not worked and said.startswith("cannot be read: ") and "missing" in said


def test_the_command_prints_what_it_found_and_exits_with_it(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "")  # which the command changes
    good = connect(monkeypatch, sim, "mage")
    assert check.main([good]) == 0
    bad = connect(monkeypatch, sim, "chalk", password=WRONG)
    assert check.main([good, bad]) == 1
    told = capsys.readouterr()
    assert told.out.count("mage_tested: Connected to Mage") == 2
    assert told.err.startswith("chalk_tested: Refused: ") and WRONG not in told.err
    with pytest.raises(SystemExit):
        check.main([])


@pytest.mark.real_time  # other processes ask
def test_a_connection_in_airflows_database_is_found(sim: Simulator, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db",
    }
    fields = json.dumps({**CASES["strait"].fields, "host": sim.url_of("strait")})

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "ignore", *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=200, check=False
        )

    stored = run("-c", STORES, fields)
    assert stored.returncode == 0, stored
    checked = run("-m", "airflow_provider_runs.check", "in_database")
    assert (checked.returncode, "in_database: Connected to Strait" in checked.stdout) == (0, True), checked
