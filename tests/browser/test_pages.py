"""The way of a person through Airflow's pages: from an empty list of connections to a run's log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from airflow_provider_runs.provider_info import SYSTEMS, get_provider_info
from airflow_provider_runs.simulator import Simulator
from tests.browser.pages import Browsed, Form, listed, log_of, new_connection, press_test, spec_of, state_of
from tools.speed import scaled

STANDARD = {
    "description": "Description",
    "host": "Host",
    "login": "Login",
    "password": "Password",
    "port": "Port",
    "schema": "Schema",
}
WIDGETS = {
    "boolean": "[data-scope=switch] input[type=checkbox]",
    "integer": "[role=spinbutton]",
    "number": "[role=spinbutton]",
    "password": "input[type=password]",
    "string": "input:not([type]), input[type=text]",
}
WRONG = "strait_wrong-secret-0123456789"
DEFERRED = {
    "chalk": "load_transactions",
    "mage": "run_pipeline",
    "paradime": "run_schedule",
    "strait": "run_job",
}
BROKEN = {
    "mage": ("run_broken_pipeline", "bang in y"),
    "paradime": ("run_broken_schedule", "command 'dbt build' ended with return code 1"),
    "strait": ("run_broken_job", "StraitReplayRunOperator goes on with it"),
}
every_system = pytest.mark.parametrize("system", SYSTEMS)


def types() -> dict[str, dict[str, Any]]:
    """Return what the package tells Airflow about its connection types."""
    return {entry["connection-type"]: entry for entry in get_provider_info()["connection-types"]}


@every_system
def test_the_form_shows_every_declared_field_as_what_it_is(
    page: Page, system: str, screenshots: Path | None
) -> None:
    spec = spec_of(system)
    declared = types()[spec.conn_type]
    behaviour = declared["ui-field-behaviour"]
    form = new_connection(page, f"{system}_default", declared["hook-name"])

    form.open("Standard Fields")
    for name, label in STANDARD.items():
        if name in behaviour["hidden-fields"]:
            expect(form.input(name)).to_have_count(0)
            continue
        row = form.row(name)
        expect(row.locator("label")).to_have_text(behaviour["relabeling"].get(name, label))
        expect(form.input(name)).to_be_visible()
        expect(form.input(name)).to_have_attribute("placeholder", behaviour["placeholders"].get(name, ""))
        if name == "password":
            expect(form.input(name)).to_have_attribute("type", "password")
    if screenshots and system == "chalk":
        picture(form, screenshots / "connection.png")

    form.open("Extra Fields")
    shown = form.dialog.locator('[name^="element_"]').evaluate_all("all => all.map(one => one.name)")
    assert shown == [f"element_{name}" for name in declared["conn-fields"]]
    for name, field in declared["conn-fields"].items():
        row = form.row(f"extra.{name}")
        row.scroll_into_view_if_needed()
        label = row.locator("[data-scope=field][data-part=label]")
        expect(label).to_have_text(field["label"])  # an asterisk after it would make it required
        expect(row.get_by_text(field["description"], exact=True)).to_be_visible()
        kind, _ = field["schema"]["type"]
        widget = WIDGETS[field["schema"].get("format", kind)]
        expect(row.locator(widget).and_(form.input(f"extra.{name}"))).to_have_count(1)
        assert row.is_visible()
    if screenshots and system == "paradime":
        picture(form, screenshots / "connection-extra.png")


def picture(form: Form, file: Path) -> None:
    """Write a picture of the form."""
    page = form.dialog.page
    page.set_viewport_size({"width": 1000, "height": 1700})
    form.dialog.screenshot(path=file, animations="disabled")


@every_system
def test_a_connection_is_stored_as_it_was_typed(page: Page, system: str, browsed: Browsed) -> None:
    conn_id = browsed.connection(page, system)
    stored = browsed.stack.get(f"connections/{conn_id}")
    extra = json.loads(stored["extra"])
    assert stored["conn_type"] == spec_of(system).conn_type
    secrets = {"password", *(f"extra.{field.name}" for field in spec_of(system).fields if field.secret)}
    found = {name: value for name, value in stored.items() if name in STANDARD and value is not None}
    found |= {f"extra.{name}": value for name, value in extra.items() if value is not None}
    typed = {name: "***" if name in secrets else value for name, value in browsed.fields[system].items()}
    assert found == typed
    assert set(extra) == {field.name for field in spec_of(system).fields}


@every_system
def test_saving_the_form_untouched_changes_nothing_and_the_test_button_says_what_was_reached(
    page: Page, system: str, browsed: Browsed
) -> None:
    conn_id = browsed.connection(page, system)
    before = browsed.stack.get(f"connections/{conn_id}")
    page.goto("/connections")
    listed(page, conn_id).get_by_role("button", name="Edit Connection").click()
    form = Form(page)
    expect(form.input("connection_id")).to_have_value(conn_id)
    with page.expect_response(lambda answer: answer.request.method == "PATCH") as saved:
        form.save()
    assert saved.value.ok
    assert browsed.stack.get(f"connections/{conn_id}") == before
    # The answers above mask secrets: that they are still there, the service says.
    told = press_test(page, conn_id, "Test Connection Successful")
    expect(told).to_contain_text(f"Connected to {spec_of(system).hook_name} ")


@every_system
def test_a_wrong_secret_is_refused_and_never_shown(page: Page, system: str, browsed: Browsed) -> None:
    spec = spec_of(system)
    conn_id = f"{system}_wrong"
    form = new_connection(page, conn_id, spec.hook_name)
    secrets = {f"extra.{field.name}": WRONG for field in spec.own_fields if field.secret}
    form.fill(browsed.needed[system] | {"password": WRONG} | secrets)
    form.save()

    told = press_test(page, conn_id, "Test Connection Failed")

    expect(told).to_contain_text("Refused: ")
    assert WRONG not in page.content()
    listed(page, conn_id).get_by_role("button", name="Edit Connection").click()
    form.open("Extra Fields")
    expect(form.dialog.get_by_text("Redacted fields").first).to_be_visible()
    for name in ("password", *secrets):
        expect(form.input(name)).to_have_value("***")
    assert WRONG not in page.content()


@every_system
def test_a_task_is_seen_to_defer_and_to_succeed_with_its_link_and_log(
    page: Page, context: BrowserContext, system: str, browsed: Browsed, simulator: Simulator
) -> None:
    service = spec_of(system).hook_name
    page.goto(f"{browsed.run(page, system)}/tasks/{DEFERRED[system]}")
    expect(state_of(page)).to_have_text("Deferred")
    if system in BROKEN:
        browsed.failing_run(page, system)  # fails while this one goes on

    page.get_by_role("link", name="Details", exact=True).click()
    link = page.get_by_role("link", name="Remote run")
    href = link.get_attribute("href") or ""
    with context.expect_page() as opened:
        link.click()
    expect(opened.value).to_have_url(href)
    if system == "chalk":  # of the simulated services it alone has a page that shows the run
        expect(opened.value.get_by_role("heading")).to_have_text(href.rpartition("/")[2])
    opened.value.close()
    run_id = href.rpartition("/")[2]
    assert href.startswith(simulator.url_of(system))
    assert run_id in {str(run["id"]) for run in simulator.runs(system)}

    expect(state_of(page)).to_have_text("Success")
    page.get_by_role("link", name="Logs", exact=True).click()
    (status,) = (run["status"] for run in simulator.runs(system) if str(run["id"]) == run_id)
    for line in (
        f"{service} run {run_id}: {href}",
        f"Waiting for {service} run {run_id}",
        f"Run {run_id} is {status}",
        f"{service} run {run_id} has succeeded ({status})",
    ):
        expect(log_of(page)).to_contain_text(line)


@every_system
def test_the_example_dag_succeeds(
    page: Page, system: str, browsed: Browsed, screenshots: Path | None
) -> None:
    page.goto(browsed.run(page, system))
    expect(state_of(page)).to_have_text("Success", timeout=scaled(90_000))
    if screenshots and system == "strait":
        page.set_viewport_size({"width": 1440, "height": 620})
        expect(page.get_by_role("cell", name="wait_for_any_run")).to_be_visible()
        page.screenshot(path=screenshots / "dag.png", animations="disabled")


@pytest.mark.parametrize("system", BROKEN)
def test_the_log_of_a_failed_task_says_why(
    page: Page, system: str, browsed: Browsed, simulator: Simulator, screenshots: Path | None
) -> None:
    task_id, reason = BROKEN[system]
    page.goto(f"{browsed.failing_run(page, system)}/tasks/{task_id}")
    expect(state_of(page)).to_have_text("Failed")
    (run,) = (run for run in simulator.runs(system) if run["resource"] == "broken")
    expect(log_of(page)).to_contain_text(reason)
    expect(log_of(page)).to_contain_text(f"run {run['id']} has failed ({run['status']})")
    if screenshots and system == "paradime":
        # The traceback shows where this machine keeps its files.
        page.get_by_test_id("summary-RunFailed").dispatch_event("click")  # a real one scrolls
        expect(log_of(page).get_by_text("/operator.py").filter(visible=True)).to_have_count(0)
        page.locator("#details-panel").screenshot(path=screenshots / "failed.png", animations="disabled")
