"""What Airflow shows of the package: its parts, its connection forms, their Test button."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import requests

from airflow_provider_runs.chalk.api import CONNECTION as CHALK
from airflow_provider_runs.core.connection import ConnectionSpec
from airflow_provider_runs.mage.api import CONNECTION as MAGE
from airflow_provider_runs.paradime.api import CONNECTION as PARADIME
from airflow_provider_runs.strait.api import CONNECTION as STRAIT
from tests.system.conftest import SECRETS
from tools.airflow_stack import AirflowStack
from tools.speed import scaled


def test_the_command_line_lists_every_part(stack: AirflowStack) -> None:
    command = [sys.executable, "-m", "airflow", "providers", "get", "airflow-provider-runs", "--full"]
    done = subprocess.run(
        [*command, "--output", "json"],
        env=stack._environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=True,
    )
    (provider,) = json.loads(done.stdout[done.stdout.index("[") :])
    assert {one["connection-type"]: one["hook-class-name"] for one in provider["connection-types"]} == {
        "chalk": "airflow_provider_runs.chalk.hooks.ChalkHook",
        "mage": "airflow_provider_runs.mage.hooks.MageHook",
        "paradime_bolt": "airflow_provider_runs.paradime.hooks.ParadimeHook",
        "strait": "airflow_provider_runs.strait.hooks.StraitHook",
    }
    for kind in ("hooks", "operators", "sensors", "triggers"):
        assert {one["integration-name"]: one["python-modules"] for one in provider[kind]} == {
            "Chalk": [f"airflow_provider_runs.chalk.{kind}"],
            "Mage": [f"airflow_provider_runs.mage.{kind}"],
            "Paradime": [f"airflow_provider_runs.paradime.{kind}"],
            "Strait": [f"airflow_provider_runs.strait.{kind}"],
        }
    assert provider["extra-links"] == ["airflow_provider_runs.base.link.RunLink"]


@pytest.mark.parametrize("spec", [CHALK, MAGE, PARADIME, STRAIT], ids=lambda spec: spec.conn_type)
def test_the_connection_form_has_every_field(stack: AirflowStack, spec: ConnectionSpec) -> None:
    with requests.Session() as session:
        session.trust_env = False
        token = session.get(f"{stack.url}/auth/token", timeout=scaled(30)).json()["access_token"]
        answer = session.get(
            f"{stack.url}/ui/connections/hook_meta",
            headers={"Authorization": f"Bearer {token}"},
            timeout=scaled(60),
        )
    answer.raise_for_status()
    (form,) = (one for one in answer.json() if one["connection_type"] == spec.conn_type)

    assert form["hook_name"] == spec.hook_name
    assert form["hook_class_name"].endswith(f".hooks.{spec.hook_name}Hook")
    shown = {name: field["schema"]["title"] for name, field in form["extra_fields"].items()}
    assert shown == {field.name: field.label for field in spec.fields}
    for field in spec.fields:
        parameter = form["extra_fields"][field.name]
        assert parameter["schema"]["type"] == [field.type, "null"]
        assert parameter["schema"].get("format") == ("password" if field.secret else None)
        assert parameter["description"] == field.description
    standard = {
        name.replace("url_schema", "schema"): one or {} for name, one in form["standard_fields"].items()
    }
    assert {name for name, one in standard.items() if one.get("hidden")} == set(spec.hidden)
    assert {name: one["title"] for name, one in standard.items() if one.get("title")} == dict(spec.relabeling)
    shown_placeholders = {
        name: one["placeholder"] for name, one in standard.items() if one.get("placeholder")
    }
    assert shown_placeholders == dict(spec.placeholders)


def button(stack: AirflowStack, connection: dict[str, Any], **changes: str) -> dict[str, Any]:
    """Press the form's Test button."""
    body = {"connection_id": "tested", **connection, **changes}
    return dict(stack.post("connections/test", {**body, "extra": json.dumps(body["extra"])}))


@pytest.mark.parametrize(
    ("conn_id", "message"),
    [
        ("chalk_default", "Connected to Chalk as token-simulator, environment env-primary"),
        ("mage_default", "Connected to Mage at http://127.0.0.1:"),
        ("strait_default", "Connected to Strait at http://127.0.0.1:"),
    ],
)
def test_the_test_button_says_that_good_credentials_work(
    stack: AirflowStack, connections: dict[str, dict[str, Any]], conn_id: str, message: str
) -> None:
    answer = button(stack, connections[conn_id])
    assert answer["status"] is True
    assert message in answer["message"]


@pytest.mark.parametrize(
    ("conn_id", "message"),
    [
        ("chalk_default", "Chalk answered 401 to getting a token: Invalid client credentials"),
        ("mage_default", "Mage refuses the login of connection"),
        ("strait_default", "Check the API key of connection"),
    ],
)
def test_the_test_button_says_why_bad_credentials_do_not_work(
    stack: AirflowStack, connections: dict[str, dict[str, Any]], conn_id: str, message: str
) -> None:
    wrong = "canary-wrong-password"
    answer = button(stack, connections[conn_id], password=wrong)
    assert answer["status"] is False
    assert message in answer["message"]
    assert not [secret for secret in (wrong, *SECRETS.values()) if secret in answer["message"]]
