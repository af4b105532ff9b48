"""What a person does in Airflow's pages, and what it has led to so far."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any
from urllib.parse import quote, urlsplit

from playwright.sync_api import Locator, Page, expect

from airflow_provider_runs.core.connection import ConnectionSpec
from airflow_provider_runs.mage.simulator import MageOptions
from airflow_provider_runs.provider_info import SYSTEMS
from airflow_provider_runs.simulator import Simulator
from tools.airflow_stack import AirflowStack
from tools.demo import make_connections

SAMPLE_NUMBER = 300
"""What is typed into each field for a number; as seconds or requests a minute it changes nothing here."""


def spec_of(system: str) -> ConnectionSpec:
    """Return the connection type of a system."""
    found: ConnectionSpec = import_module(f"airflow_provider_runs.{system}.api").CONNECTION
    return found


class Form:
    """The form of a connection.

    :param page: the page that shows it.
    """

    def __init__(self, page: Page) -> None:
        self.dialog = page.get_by_role("dialog")

    def choose(self, conn_id: str, type_name: str) -> None:
        """Name the connection, and choose its type by the name that people see."""
        self.dialog.locator("[name=connection_id]").fill(conn_id)
        self.dialog.get_by_role("combobox").first.click()
        self.dialog.get_by_role("option", name=type_name, exact=True).click()

    def open(self, section: str) -> None:
        """Open a section: Standard Fields or Extra Fields. One is open at a time."""
        heading = self.dialog.get_by_role("button", name=section, exact=True)
        if heading.get_attribute("aria-expanded") != "true":
            heading.click()
        expect(heading).to_have_attribute("aria-expanded", "true")

    def row(self, name: str) -> Locator:
        """Return the row of a field: label, input and help text."""
        return self.dialog.get_by_role("group").filter(has=self.dialog.page.locator(_selector(name)))

    def input(self, name: str) -> Locator:
        """Return the input of a field by its name: a standard field's, or an extra's after ``extra.``."""
        return self.dialog.locator(_selector(name))

    def fill(self, fields: Mapping[str, Any]) -> None:
        """Type values into fields."""
        for section, wanted in (("Standard Fields", False), ("Extra Fields", True)):
            self.open(section)
            for name, value in fields.items():
                if name.startswith("extra.") == wanted:
                    self.input(name).fill(str(value))

    def save(self) -> None:
        """Save, and wait until the form is gone."""
        self.dialog.get_by_role("button", name="Save").click()
        expect(self.dialog).to_have_count(0)


def _selector(name: str) -> str:
    return f'[name="{name.replace("extra.", "element_")}"]'


def new_connection(page: Page, conn_id: str, type_name: str) -> Form:
    """Open the form of a new connection from the list of connections."""
    page.goto("/connections")
    page.get_by_role("button", name="Add Connection").click()
    form = Form(page)
    form.choose(conn_id, type_name)
    return form


def listed(page: Page, conn_id: str) -> Locator:
    """Return the row of a connection in the list of connections."""
    return page.get_by_role("row").filter(has=page.get_by_role("cell", name=conn_id, exact=True))


def press_test(page: Page, conn_id: str, title: str) -> Locator:
    """Press a connection's Test button in the list, and return what then appears under a title."""
    listed(page, conn_id).get_by_role("button", name="Test Connection").click()
    return page.locator("[data-scope=toast][data-part=root]").filter(has_text=title)


def state_of(page: Page) -> Locator:
    """Return the state that the page of a task or a DAG run shows."""
    return page.get_by_test_id("header-card").get_by_test_id("state-badge").first


def log_of(page: Page) -> Locator:
    """Return the log that the page of a task shows."""
    return page.get_by_test_id("virtualized-list")


def _by_field(connection: Mapping[str, Any], port: int | None) -> dict[str, Any]:
    standard = {name: value for name, value in connection.items() if name not in ("conn_type", "extra")}
    extra = {f"extra.{name}": value for name, value in connection.get("extra", {}).items()}
    # Airflow 3.3.2 does not test a stored connection without one.
    return standard | extra | {"port": port}


def _numbers(spec: ConnectionSpec) -> dict[str, Any]:
    found = (field.name for field in spec.fields if field.type in ("integer", "number"))
    return {f"extra.{name}": SAMPLE_NUMBER for name in found}


class Browsed:
    """Connections and DAG runs that were made in the pages, each when it is first asked for.

    :param stack: the Airflow.
    :param simulator: the services.
    """

    def __init__(self, stack: AirflowStack, simulator: Simulator) -> None:
        self.stack = stack
        self._made: set[str] = set()
        self._runs: dict[str, str] = {}
        connections = make_connections(*(simulator.url_of(system) for system in SYSTEMS))
        mage = MageOptions()
        connections["mage_default"] |= {"login": mage.email, "password": mage.password}
        port = urlsplit(simulator.url).port
        self.needed = {system: _by_field(connections[f"{system}_default"], port) for system in SYSTEMS}
        """What each system's connection needs, by the fields' names."""
        self.fields = {system: needed | _numbers(spec_of(system)) for system, needed in self.needed.items()}
        """What is typed into the form of each system's connection."""

    def connection(self, page: Page, system: str) -> str:
        """Return the id of the system's connection, once it has been made in the form."""
        conn_id = f"{system}_default"
        if conn_id not in self._made:
            form = new_connection(page, conn_id, spec_of(system).hook_name)
            form.fill(self.fields[system])
            form.save()
            expect(listed(page, conn_id)).to_be_visible()
            self._made.add(conn_id)
        return conn_id

    def run(self, page: Page, system: str) -> str:
        """Return the address of the page of the example DAG's run, which is triggered in the page first."""
        dag_id = f"example_{system}"
        if dag_id not in self._runs:
            self.connection(page, system)
            page.goto(f"/dags/{dag_id}")
            page.get_by_test_id("trigger-dag-button").click()
            expect(page.get_by_role("checkbox", name=f"Unpause {dag_id} on trigger")).to_be_checked()
            page.get_by_test_id("trigger-dag-submit").click()
            page.wait_for_url(re.compile(r"/runs/[^/?]+"))
            self._runs[dag_id] = urlsplit(page.url).path.rstrip("/")
        return self._runs[dag_id]

    def failing_run(self, page: Page, system: str) -> str:
        """Return the address of the page of the failing example DAG's run."""
        dag_id = f"example_{system}_failed"
        if dag_id not in self._runs:
            self.connection(page, system)
            self.stack.patch(f"dags/{dag_id}", {"is_paused": False})
            self._runs[dag_id] = f"/dags/{dag_id}/runs/{quote(self.stack.trigger_dag(dag_id))}"
        return self._runs[dag_id]
