"""How each service is waited on: its connection, its trigger, and what the trigger's event means."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from airflow.triggers.base import BaseTrigger

from benchmarks.plan import PlannedRun
from benchmarks.services import HOST, strait_id

NO_CAP = 1_000_000
WEEK = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Kind:
    """
    A provider whose waits are measured.

    :param service: the fake service that it waits on.
    :param connection: the connection's id, and its fields for a port.
    :param trigger: makes the trigger for a run that began just now, with a poll interval in seconds or None
        for the provider's own.
    :param succeeded: tells of an event whether it calls the run a success; None: it does not say.
    """

    service: str
    connection: Callable[[int], tuple[str, dict[str, Any]]]
    trigger: Callable[[PlannedRun, float | None], BaseTrigger]
    succeeded: Callable[[Any], bool | None]


def _ours(system: str, **fields: Any) -> Callable[[int], tuple[str, dict[str, Any]]]:
    def connection(port: int) -> tuple[str, dict[str, Any]]:
        extra = {"max_requests_per_minute": NO_CAP, **fields.get("extra", {})}
        host = f"https://{HOST}:{port}{fields.get('path', '')}"
        rest = {name: value for name, value in fields.items() if name not in ("extra", "path")}
        return f"{system}_default", {"host": host, **rest, "extra": extra}

    return connection


def _our_trigger(
    system: str, name: Callable[[PlannedRun], str] = lambda run: str(run.number)
) -> Callable[[PlannedRun, float | None], BaseTrigger]:
    def trigger(run: PlannedRun, interval: float | None) -> BaseTrigger:
        from importlib import import_module

        module = import_module(f"airflow_provider_runs.{system}.triggers")
        kind = next(found for word, found in vars(module).items() if word.lower() == f"{system}runtrigger")
        pace = kind.hook_class.api_class.pace
        made: BaseTrigger = kind(
            f"{system}_default",
            name(run),
            poll_interval=interval or pace.poll_interval,
            min_poll_interval=interval or pace.min_poll_interval,
            started_at=time.time(),
        )
        return made

    return trigger


def _our_verdict(event: Any) -> bool:
    return bool(event["outcome"] == "succeeded")


def _of_databricks(run: PlannedRun, interval: float | None) -> BaseTrigger:
    from airflow.providers.databricks.triggers.databricks import DatabricksExecutionTrigger

    pace = {} if interval is None else {"polling_period_seconds": interval}
    made: BaseTrigger = DatabricksExecutionTrigger(run.number, "databricks_default", **pace)
    return made


def _of_dbt_cloud(run: PlannedRun, interval: float | None) -> BaseTrigger:
    from airflow.providers.dbt.cloud.triggers.dbt import DbtCloudRunJobTrigger

    # The default of the operator, which gives it to the trigger.
    made: BaseTrigger = DbtCloudRunJobTrigger(
        "dbt_cloud_default", run.number, time.time() + WEEK, 60 if interval is None else interval, 1
    )
    return made


def _of_http(run: PlannedRun, interval: float | None) -> BaseTrigger:
    from airflow.providers.http.triggers.http import HttpEventTrigger

    pace = {} if interval is None else {"poll_interval": interval}
    made: BaseTrigger = HttpEventTrigger(
        auth_type=None,
        http_conn_id="http_default",
        endpoint=f"runs/{run.number}",
        response_check_path=f"{__name__}.has_ended",
        **pace,
    )
    return made


async def has_ended(response: Any) -> bool:
    """
    Tell whether an answer of the plain service shows an ended run.

    :param response: the answer.
    """
    return response.json()["status"] != "running"  # type: ignore[no-any-return]


KINDS = {
    "chalk": Kind(
        "chalk",
        _ours("chalk", conn_type="chalk", login="id", password="secret"),
        _our_trigger("chalk"),
        _our_verdict,
    ),
    "paradime": Kind(
        "paradime",
        _ours(
            "paradime",
            conn_type="paradime_bolt",
            password="secret",
            path="/api/v1/company/graphql",
            extra={"api_key": "key"},
        ),
        _our_trigger("paradime"),
        _our_verdict,
    ),
    "mage": Kind(
        "mage",
        _ours("mage", conn_type="mage"),
        _our_trigger("mage"),
        _our_verdict,
    ),
    "strait": Kind(
        "strait",
        _ours("strait", conn_type="strait", password="strait_key"),
        _our_trigger("strait", strait_id),
        _our_verdict,
    ),
    "databricks": Kind(
        "databricks",
        lambda port: (
            "databricks_default",
            {
                "conn_type": "databricks",
                "host": f"https://{HOST}",
                "port": port,
                "login": "token",
                "password": "t",
            },
        ),
        _of_databricks,
        lambda event: json.loads(event["run_state"])["result_state"] == "SUCCESS",
    ),
    "dbt_cloud": Kind(
        "dbt_cloud",
        lambda port: (
            "dbt_cloud_default",
            {"conn_type": "dbt_cloud", "host": f"{HOST}:{port}", "login": "1", "password": "t"},
        ),
        _of_dbt_cloud,
        lambda event: bool(event["status"] == "success"),
    ),
    "http": Kind(
        "http",
        lambda port: (
            "http_default",
            {"conn_type": "https", "host": f"https://{HOST}", "port": port, "schema": "https"},
        ),
        _of_http,
        lambda event: None,
    ),
}
