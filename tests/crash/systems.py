"""What the crash bench must know of each system beside what its classes say. One entry per system."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_runs.base.operator import TriggerRunOperator
from airflow_provider_runs.chalk.operators import ChalkTriggerRunOperator
from airflow_provider_runs.core.api import CanCancel
from airflow_provider_runs.mage.operators import MageTriggerRunOperator

Run = Mapping[str, Any]
NUMBER = "{{ dag_run.conf['number'] }}"
CASE = "{{ dag_run.conf['case'] }}"
REQUEST_TIMEOUT = 8


@dataclass(frozen=True)
class Target:
    """One system.

    :param operator: the operator's class.
    :param arguments: its arguments that name what is run: templates of the case's name or number.
    :param start_path: part of the path of the request that starts a run.
    :param connection: fields of the connection to the simulator, without its address.
    :param is_of: whether a simulated run was started by the case of this name and number.
    :param options: options of the simulator, given the names of the cases; the case's number is its place.
    """

    operator: type[TriggerRunOperator]
    arguments: Mapping[str, Any]
    start_path: str
    connection: Mapping[str, Any]
    is_of: Callable[[Run, str, int], bool]
    options: Callable[[Sequence[str]], Mapping[str, Any]] = lambda names: {}

    @property
    def can_cancel(self) -> bool:
        """Tell whether the service can cancel a run."""
        return issubclass(self.operator.hook_class.api_class, CanCancel)


def mage_options(names: Sequence[str]) -> Mapping[str, Any]:
    from airflow_provider_runs.mage.simulator import Schedule

    schedules = tuple(Schedule(number, "example", name, "tokcrash") for number, name in enumerate(names, 1))
    return {"auth": True, "loop_interval": 0.2, "schedules": schedules}


TARGETS: dict[str, Target] = {
    "chalk": Target(
        operator=ChalkTriggerRunOperator,
        arguments={"resolver_fqn": CASE},
        start_path="/v1/runs/trigger",
        connection={
            "login": "token-simulator",
            "password": "chalk-secret",
            "extra": {"request_timeout": REQUEST_TIMEOUT, "trigger_timeout": REQUEST_TIMEOUT},
        },
        is_of=lambda run, name, number: bool(run["resource"] == name),
    ),
    "mage": Target(
        operator=MageTriggerRunOperator,
        arguments={"pipeline_schedule_id": NUMBER},
        start_path="/api_trigger",
        connection={
            "login": "admin@admin.com",
            "password": "admin",
            "extra": {"trigger_token": "tokcrash", "request_timeout": REQUEST_TIMEOUT},
        },
        is_of=lambda run, name, number: run["scope"] == {"pipeline_schedule_id": number},
        options=mage_options,
    ),
}
