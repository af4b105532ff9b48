"""A service without a network, and a task instance without an Airflow."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from airflow.providers.common.compat.sdk import AirflowTaskTimeout, timeout

from airflow_provider_runs.base.hook import RunHook
from airflow_provider_runs.base.operator import CancelRunOperator, RetryRunOperator, TriggerRunOperator
from airflow_provider_runs.base.sensor import RunSensor
from airflow_provider_runs.base.trigger import RunTrigger
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import (
    CanCancel,
    CanExplain,
    CanFindStarted,
    CanFindUnmarked,
    CanGetMany,
    CanListActive,
    CanRetry,
    RunApi,
    Unsure,
)
from airflow_provider_runs.core.connection import ConnectionSpec
from airflow_provider_runs.core.errors import ApiError, BadInput, ConnectionFailed, NotFound
from airflow_provider_runs.core.http import Flow
from airflow_provider_runs.core.run import Run, RunState, StatusTable
from airflow_provider_runs.core.schedule import Pace
from tests.virtual import VirtualClock

WORDS = {
    RunState.PENDING: ("waiting",),
    RunState.RUNNING: ("going",),
    RunState.SUCCEEDED: ("done",),
    RunState.FAILED: ("broken",),
    RunState.CANCELLED: ("stopped",),
}


class Service:
    """What a fake service remembers: runs by id, keys, and every call."""

    def __init__(self) -> None:
        self.runs: dict[str, str] = {}
        self.keys: dict[str, str] = {}
        self.calls: list[tuple[str, Any]] = []
        self.trigger_errors: list[Exception] = []
        self.loses_answers = 0
        self.get_errors: list[Exception] = []
        self.list_errors: list[Exception] = []
        self.retry_errors: list[Exception] = []
        self.check_errors: list[Exception] = []
        self.ready_errors: list[Exception] = []
        self.errors: dict[str, Exception] = {}
        self.status_of_new = "going"
        self.retried_status = "going"
        self.cancel_errors: dict[str, Exception] = {}
        self.proven: set[str] = set()
        self.may_tell = False
        self.before_answer: Callable[[], None] = lambda: None
        self.silent_about: set[str] = set()
        self.lock = threading.Lock()

    def called(self, name: str) -> list[Any]:
        return [argument for call, argument in self.calls if call == name]

    def start(self, key: str | None, *, same: bool) -> str:
        with self.lock:
            if same and key in self.keys:
                return self.keys[key]
            run_id = f"r{len(self.runs) + 1}"
            self.runs[run_id] = self.status_of_new
            if key:
                self.keys[key] = run_id
            return run_id


SERVICE = Service()


class FakeApi(RunApi):
    """A service that can do nothing but start and be asked, and knows no key."""

    service = "Fake"
    connection = ConnectionSpec("fake", "Fake", None, "http", {}, {}, (), ())
    statuses = StatusTable(WORDS)
    pace = Pace(min_poll_interval=0.01, poll_interval=0.05, max_requests_per_minute=100_000)
    scope_fields = ("zone",)

    def trigger(
        self, arguments: Mapping[str, Any], key: str | None = None, began: float | None = None
    ) -> Flow[Run]:
        self.trigger_body(arguments, key)
        SERVICE.calls.append(("trigger", key))
        if SERVICE.trigger_errors:
            raise SERVICE.trigger_errors.pop(0)
        run_id = SERVICE.start(key, same=self.takes_key)
        SERVICE.before_answer()
        if SERVICE.loses_answers:
            SERVICE.loses_answers -= 1
            raise ConnectionFailed("the answer was lost", sent=True)
        yield from ()
        return self.run(run_id)

    def ready(self, arguments: Mapping[str, Any]) -> Flow[None]:
        yield from ()
        if SERVICE.ready_errors:
            raise SERVICE.ready_errors.pop(0)

    def get(self, run_id: str) -> Flow[Run]:
        SERVICE.calls.append(("get", run_id))
        if SERVICE.get_errors:
            raise SERVICE.get_errors.pop(0)
        if run_id in SERVICE.errors:
            raise SERVICE.errors[run_id]
        yield from ()
        return self.run(run_id)

    def run(self, run_id: str) -> Run:
        if run_id not in SERVICE.runs:
            raise NotFound(f"no run {run_id}", status=404)
        status = SERVICE.runs[run_id]
        return Run(run_id, self.statuses.state(status), status, f"http://fake/{run_id}")

    def check(self) -> Flow[str]:
        yield from ()
        return "fine"

    def trigger_body(self, arguments: Mapping[str, Any], key: str | None) -> dict[str, Any]:
        if arguments.get("job") == "bad":
            raise BadInput("job is bad")
        return dict(arguments)


class KeyApi(FakeApi):
    """One that starts one run per key."""

    takes_key = True


class FullApi(FakeApi, CanCancel, CanExplain, CanFindStarted, CanGetMany, CanListActive, CanRetry):
    """One that can do everything but take a key."""

    batch_size = 50

    def cancel(self, run_id: str) -> Flow[None]:
        SERVICE.calls.append(("cancel", run_id))
        if run_id in SERVICE.cancel_errors:
            raise SERVICE.cancel_errors[run_id]
        if SERVICE.runs.get(run_id) in ("waiting", "going"):
            SERVICE.runs[run_id] = "stopped"
        yield from ()

    def explain(self, run_id: str) -> Flow[str | None]:
        SERVICE.calls.append(("explain", run_id))
        yield from ()
        return f"step 2 of {run_id} raised ValueError"

    def find_started(self, arguments: Mapping[str, Any], key: str, since: float) -> Flow[Run | None]:
        SERVICE.calls.append(("find_started", key))
        yield from ()
        return self.run(SERVICE.keys[key]) if key in SERVICE.keys else None

    def get_many(self, run_ids: Sequence[str]) -> Flow[dict[str, Run | Exception]]:
        SERVICE.calls.append(("get_many", tuple(run_ids)))
        if SERVICE.get_errors:
            raise SERVICE.get_errors.pop(0)
        yield from ()
        found: dict[str, Run | Exception] = {}
        for run_id in run_ids:
            if run_id in SERVICE.errors:
                found[run_id] = SERVICE.errors[run_id]
            elif run_id not in SERVICE.silent_about:
                found[run_id] = self.run(run_id)
        return found

    def list_runs(
        self, filters: Mapping[str, Any], *, since: float | None = None, limit: int | None = None
    ) -> Flow[list[Run]]:
        SERVICE.calls.append(("list_runs", (dict(filters), since)))
        if SERVICE.list_errors:
            raise SERVICE.list_errors.pop(0)
        yield from ()
        runs = [self.run(run_id) for run_id in reversed(SERVICE.runs)]
        return [run for run in runs if run.status in filters.get("status", (run.status,))][:limit]

    def active_filters(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"job": arguments["job"], "status": ["waiting", "going"]}

    def prepare_retry(self, run_id: str, arguments: Mapping[str, Any]) -> None:
        if arguments.get("step") == "bad":
            raise BadInput("step is bad")

    def check_retry(self, run_id: str, arguments: Mapping[str, Any]) -> Flow[None]:
        SERVICE.calls.append(("check_retry", run_id))
        if SERVICE.check_errors:
            raise SERVICE.check_errors.pop(0)
        yield from ()
        if not self.run(run_id).state.is_terminal:
            raise ApiError(f"run {run_id} is still going", status=409)

    def retry(self, run_id: str, arguments: Mapping[str, Any]) -> Flow[Run]:
        SERVICE.calls.append(("retry", (run_id, dict(arguments))))
        if SERVICE.retry_errors:
            raise SERVICE.retry_errors.pop(0)
        self.run(run_id)
        SERVICE.runs[run_id] = SERVICE.retried_status
        if SERVICE.loses_answers:
            SERVICE.loses_answers -= 1
            raise ConnectionFailed("the answer was lost", sent=True)
        yield from ()
        return self.run(run_id)

    def find_retried(
        self,
        run_id: str,
        arguments: Mapping[str, Any],
        since: float,
        known: Mapping[str, Any] | None = None,
    ) -> Flow[Run | None]:
        SERVICE.calls.append(("find_retried", run_id))
        yield from ()
        run = self.run(run_id)
        return None if run.state in (RunState.FAILED, RunState.CANCELLED) else run


class UnmarkedApi(FakeApi, CanCancel, CanFindUnmarked, CanRetry):
    """One whose runs carry no key."""

    cancel = FullApi.cancel
    prepare_retry, check_retry = FullApi.prepare_retry, FullApi.check_retry
    retry, find_retried = FullApi.retry, FullApi.find_retried

    def retry_arguments(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"job": arguments["job"]}

    def snapshot(self, arguments: Mapping[str, Any]) -> Flow[dict[str, Any]]:
        yield from ()
        return {"runs": list(SERVICE.runs)}

    def find_unmarked(self, snapshot: Mapping[str, Any], since: float) -> Flow[Run | None]:
        SERVICE.calls.append(("find_unmarked", dict(snapshot)))
        yield from ()
        possible = [run_id for run_id in SERVICE.runs if run_id not in snapshot["runs"]]
        proven = [run_id for run_id in possible if run_id in SERVICE.proven]
        if len(proven) == 1:
            return self.run(proven[0])
        if possible:
            runs = [self.run(run_id) for run_id in possible]
            raise Unsure(f"it may be {', '.join(possible)}", runs, may_tell=SERVICE.may_tell)
        return None


class FakeHook(RunHook):
    api_class = FullApi
    conn_name_attr = "fake_conn_id"
    default_conn_name = "fake_default"

    def __init__(self, fake_conn_id: str = default_conn_name, zone: str | None = None) -> None:
        super().__init__(fake_conn_id, {"zone": zone})


class KeyHook(FakeHook):
    api_class = KeyApi


class UnmarkedHook(FakeHook):
    api_class = UnmarkedApi


class PlainHook(FakeHook):
    api_class = FakeApi


class FakeRunTrigger(RunTrigger):
    hook_class = FakeHook


class FakeTriggerRunOperator(TriggerRunOperator):
    hook_class = FakeHook
    trigger_class = FakeRunTrigger
    run_fields = ("job", "payload")
    resource_fields = ("job",)
    template_fields = ("fake_conn_id", "zone", *run_fields, *TriggerRunOperator.shared_template_fields)

    def __init__(
        self,
        *,
        job: Any,
        payload: Any = None,
        fake_conn_id: str = "fake_default",
        zone: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.payload = payload
        self.fake_conn_id = fake_conn_id
        self.zone = zone


class FakeRunSensor(RunSensor):
    hook_class = FakeHook
    trigger_class = FakeRunTrigger
    search_fields = ("job",)
    template_fields = (*RunSensor.shared_template_fields, *search_fields, "fake_conn_id", "zone")

    def __init__(
        self,
        *,
        job: str | None = None,
        fake_conn_id: str = "fake_default",
        zone: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.fake_conn_id = fake_conn_id
        self.zone = zone


class FakeRetryRunOperator(RetryRunOperator):
    hook_class = FakeHook
    trigger_class = FakeRunTrigger
    run_fields = ("step",)
    resource_fields = ("run_id", "step")
    template_fields = ("fake_conn_id", *run_fields, *RetryRunOperator.shared_template_fields)

    def __init__(self, *, step: Any = None, fake_conn_id: str = "fake_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.step = step
        self.fake_conn_id = fake_conn_id
        self.zone = None


class FakeCancelRunOperator(CancelRunOperator):
    hook_class = FakeHook
    template_fields = (*CancelRunOperator.template_fields, "fake_conn_id")

    def __init__(self, *, fake_conn_id: str = "fake_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fake_conn_id = fake_conn_id
        self.zone = None


class Store(dict[str, Any]):
    """A task state store; it keeps every version."""

    def __init__(self) -> None:
        super().__init__()
        self.versions: list[Any] = []

    def set(self, key: str, value: Any) -> None:
        self[key] = value
        self.versions.append(value)
        SERVICE.calls.append(("store", value["run_id"]))

    def delete(self, key: str) -> None:
        self.pop(key, None)


class FakeTaskInstance:
    """As much of a task instance as our code touches."""

    dag_id, task_id, run_id, try_number = "dag", "task", "manual", 1

    def __init__(self, max_tries: int = 0, map_index: int = -1) -> None:
        self.max_tries = max_tries
        self.map_index = map_index
        self.start_date = datetime.fromtimestamp(clock.time(), UTC)
        self.state = "running"
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        SERVICE.calls.append(("xcom", key))
        self.pushed[key] = value

    def current_state(self) -> str:
        return self.state


def run_here(task: Any, context: dict[str, Any]) -> Any:
    """Execute a task as Airflow's worker does: under its alarm for ``execution_timeout``."""
    if task.execution_timeout is None:
        return task.execute(context)
    seconds, current = task.execution_timeout.total_seconds(), clock.current
    virtual = isinstance(current, VirtualClock)
    try:
        with current.alarm(seconds, AirflowTaskTimeout("alarm")) if virtual else timeout(seconds):
            return task.execute(context)
    except AirflowTaskTimeout:
        task.on_kill()
        raise


def fire(trigger: RunTrigger) -> Any:
    """Run a trigger as dag.test() does and return its event's payload as the database gives it back."""

    async def collect() -> list[Any]:
        return [fired.payload async for fired in trigger.run()]

    (payload,) = asyncio.run(collect())
    return json.loads(json.dumps(payload))
