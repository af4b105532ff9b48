"""What this package tells Airflow about itself."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from airflow_provider_runs import __version__

SYSTEMS = ("chalk", "mage", "paradime", "strait")
"""The services. Each is a folder of this name; a further one is a folder and a word here."""


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata. Imports no hook and no HTTP library."""
    package = "airflow_provider_runs"
    integrations, connections = [], []
    modules: dict[str, list[dict[str, Any]]] = {"operators": [], "sensors": [], "hooks": [], "triggers": []}
    for system in SYSTEMS:
        api: Any = import_module(f"{package}.{system}.api")
        name = api.CONNECTION.hook_name
        integrations.append(
            {"integration-name": name, "external-doc-url": api.DOCUMENTATION, "tags": ["service"]}
        )
        for kind, listed in modules.items():
            listed.append({"integration-name": name, "python-modules": [f"{package}.{system}.{kind}"]})
        connections.append(api.CONNECTION.provider_info(f"{package}.{system}.hooks.{name}Hook"))
    return {
        "package-name": "airflow-provider-runs",
        "name": "Runs",
        "description": "Runs of other tools as first-class Airflow tasks.",
        "versions": [__version__],
        "integrations": integrations,
        "connection-types": connections,
        **modules,
        "extra-links": [f"{package}.base.link.RunLink"],
    }
