"""What the crash bench must know of each system beside what its classes say. One entry per system."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from airflow_provider_runs.base.operator import TriggerRunOperator
from airflow_provider_runs.chalk.operators import ChalkTriggerRunOperator
from airflow_provider_runs.core.api import CanCancel
from airflow_provider_runs.mage.operators import MageTriggerRunOperator
from airflow_provider_runs.paradime.operators import ParadimeTriggerRunOperator
from airflow_provider_runs.strait.operators import StraitTriggerRunOperator

Run = Mapping[str, Any]
NUMBER = "{{ dag_run.conf['number'] }}"
CASE = "{{ dag_run.conf['case'] }}"
REQUEST_TIMEOUT = 8


class Unmarked(NamedTuple):
    """
    What becomes of a run whose start was not answered and that nothing tells for the task's own.

    :param arguments: the operator's arguments that make it so.
    :param runs: how many runs are started in all.
    :param state: the task's final state.
    :param goes_on: whether the first run goes on though no task waits for it, as documented.
    """

    arguments: Mapping[str, Any]
    runs: int
    state: str
    goes_on: bool


@dataclass(frozen=True)
class Target:
    """One system.

    :param operator: the operator's class.
    :param arguments: its arguments that name what is run: templates of the case's name or number.
    :param start_path: part of the path of the requests that start a run, among those that the hook sends to
        start one.
    :param connection: fields of the connection to the simulator, without its address.
    :param is_of: whether a simulated run was started by the case of this name and number.
    :param options: options of the simulator, given the names of the cases; the case's number is its place.
    :param path: of the service below its address.
    :param unmarked: for a service whose runs carry no mark, by a word for each case's name.
    """

    operator: type[TriggerRunOperator]
    arguments: Mapping[str, Any]
    start_path: str
    connection: Mapping[str, Any]
    is_of: Callable[[Run, str, int], bool]
    options: Callable[[Sequence[str]], Mapping[str, Any]] = lambda names: {}
    path: str = ""
    unmarked: Mapping[str, Unmarked] = field(default_factory=dict)

    @property
    def can_cancel(self) -> bool:
        """Tell whether the service can cancel a run."""
        return issubclass(self.operator.hook_class.api_class, CanCancel)


def mage_options(names: Sequence[str]) -> Mapping[str, Any]:
    from airflow_provider_runs.mage.simulator import Schedule

    schedules = tuple(Schedule(number, "example", name, "tokcrash") for number, name in enumerate(names, 1))
    return {"auth": True, "loop_interval": 0.2, "schedules": schedules}


def paradime_options(names: Sequence[str]) -> Mapping[str, Any]:
    from airflow_provider_runs.paradime.simulator import Schedule

    # A run's own commands come soon, but not before a retry looks at it.
    return {"setup": 2.0, "schedules": tuple(Schedule(name, ("dbt run",)) for name in names)}


def strait_options(names: Sequence[str]) -> Mapping[str, Any]:
    from airflow_provider_runs.strait.simulator import Job

    return {"jobs": tuple(Job(name, id=job_id(number)) for number, name in enumerate(names, 1))}


def job_id(number: int) -> str:
    """Return the id of a case's job."""
    return f"01900000-0000-7000-8000-{number:012d}"


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
    "paradime": Target(
        operator=ParadimeTriggerRunOperator,
        # All runs of a case are of its own schedule, whose commands nothing but these differ from.
        arguments={"slug": CASE, "commands": [f"dbt run --vars 'case: {CASE}'"]},
        start_path="/graphql",
        connection={
            "password": "paradime-secret",
            "extra": {"api_key": "key-simulator", "request_timeout": REQUEST_TIMEOUT},
        },
        is_of=lambda run, name, number: bool(run["resource"] == name),
        options=paradime_options,
        path="/api/v1/company-simulator/graphql",
        unmarked={
            "unmarked": Unmarked({"commands": None}, runs=1, state="failed", goes_on=True),
            "adopting": Unmarked(
                {"commands": None, "on_unknown_start": "adopt"}, runs=1, state="success", goes_on=False
            ),
            "starting": Unmarked(
                {"commands": None, "on_unknown_start": "start"}, runs=2, state="success", goes_on=True
            ),
        },
    ),
    "strait": Target(
        operator=StraitTriggerRunOperator,
        arguments={"job_id": "01900000-0000-7000-8000-{{ '%012d' % (dag_run.conf['number'] | int) }}"},
        start_path="/trigger",
        connection={
            "password": "strait_simulator",
            "extra": {"request_timeout": REQUEST_TIMEOUT, "max_requests_per_minute": 600},
        },
        is_of=lambda run, name, number: run["resource"] in (name, job_id(number)),
        options=strait_options,
    ),
}
