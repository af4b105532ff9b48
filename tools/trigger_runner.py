"""Airflow's own trigger runner without its database, for tests and measurements of many waits."""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import attrs
from airflow.executors.workloads.task import TaskInstanceDTO
from airflow.executors.workloads.trigger import RunTrigger
from airflow.jobs.triggerer_job_runner import TriggerRunnerSupervisor
from airflow.models.trigger import Trigger
from airflow.triggers.base import BaseTrigger, TriggerEvent


class Log:
    """What a trigger writes into its task's log, kept in memory."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, processors: Any) -> Log:
        return self

    def log(self, level: int, event: str, **details: Any) -> None:
        self.lines.append(event)

    def upload_to_remote(self) -> None:
        """Do nothing: there is no remote log."""

    def close(self) -> None:
        """Do nothing: there is no file."""


@attrs.define(kw_only=True)
class Triggerer(TriggerRunnerSupervisor):
    """
    Airflow's triggerer without its database.

    The process of the triggers, its event loop and all that is said between the two processes are Airflow's
    own. What Airflow would read from its database is handed over; what it would write there is kept.
    """

    fired: dict[int, list[Any]] = attrs.field(factory=lambda: defaultdict(list), init=False)
    broken: dict[int, Any] = attrs.field(factory=dict, init=False)
    logs: dict[int, Log] = attrs.field(factory=dict, init=False)

    def add(self, trigger: BaseTrigger) -> int:
        """Have a trigger run as that of a deferred task, and return its id."""
        trigger_id = len(self.logs) + 1
        path, arguments = trigger.serialize()
        task_instance = TaskInstanceDTO(
            id=uuid.uuid4(),
            task_id=f"wait_{trigger_id}",
            dag_id="waits",
            run_id="manual",
            try_number=1,
            dag_version_id=uuid.uuid4(),
            pool_slots=1,
            priority_weight=1,
        )
        workload = RunTrigger(
            id=trigger_id,
            classpath=path,
            encrypted_kwargs=Trigger.encrypt_kwargs(arguments),
            ti=task_instance,
        )
        self.logs[trigger_id] = self.logger_cache[trigger_id] = Log()  # type: ignore[assignment]
        self.creating_triggers.append(workload)
        return trigger_id

    def load_triggers(self) -> None:
        """Do nothing: triggers come by :meth:`add`."""

    def heartbeat(self) -> None:
        """Do nothing: no scheduler looks."""

    def clean_unused(self) -> None:
        """Do nothing: nothing is stored."""

    def emit_metrics(self) -> None:
        """Do nothing."""

    def make_client(self) -> Any:
        """Refuse: nothing here may need Airflow's database."""
        raise AssertionError("a trigger asked for something in Airflow's database")

    def on_trigger_event(self, trigger_id: int, event: TriggerEvent) -> None:
        self.fired[trigger_id].append(event.payload)

    def on_trigger_failure(self, trigger_id: int, exc: list[str] | None) -> None:
        self.broken[trigger_id] = exc

    def end(self) -> None:
        """End the process of the triggers."""
        self.kill(escalation_delay=5, force=True)
        self._cleanup_open_sockets()  # type: ignore[no-untyped-call]

    def work_until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Do what a triggerer does until a condition holds or time is up."""
        until = time.monotonic() + seconds
        while not condition() and time.monotonic() < until:
            assert self.is_alive(), "the process of the triggers has ended"
            self.run_once()
