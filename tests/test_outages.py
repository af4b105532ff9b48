"""
Every outage that the architecture names, from the simulated service to the end of the task.

The tasks run as on a worker and as deferred, for each system. What else proves the same:

================================  ==================================================================
outage or deadline                proven besides
================================  ==================================================================
mixed faults and a full outage,   ``test_many_waits.py``
1000 waits and 30 real tasks
one client's answer to each       ``tests/core/test_drivers.py``, ``tests/core/test_retry.py``
fault, ``Retry-After`` as a date
batches and single looks, one     ``tests/base/test_poller.py``
view of the outage for all waits,
the pace of probing
what is said, and all limits      ``tests/core/test_progress.py``
exactly
outages at the start              ``tests/base/test_start.py``
the server is killed and started  ``tests/real/test_waits.py`` (a real Mage, also in a real
again                             Airflow), ``tests/mage/test_waits.py``
an alarm while cancelling         ``tests/base/test_operator.py``
================================  ==================================================================

Time is virtual: the limits and the backoff are those that users have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout, TaskDeferred

from airflow_provider_runs.base.exceptions import RunTimedOut, RunUnreachable
from airflow_provider_runs.base.operator import TriggerRunOperator
from airflow_provider_runs.chalk.operators import ChalkTriggerRunOperator
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.progress import OWN_TIMEOUTS, Trouble
from airflow_provider_runs.core.run import RunState
from airflow_provider_runs.mage.operators import MageTriggerRunOperator
from airflow_provider_runs.paradime.operators import ParadimeTriggerRunOperator
from airflow_provider_runs.provider_info import SYSTEMS
from airflow_provider_runs.simulator import Simulator
from airflow_provider_runs.strait.operators import StraitTriggerRunOperator
from tests.base.conftest import callable_operators, later, told  # noqa: F401
from tests.base.fakes import FakeTaskInstance, Store, fire, run_here
from tests.crash.systems import TARGETS
from tests.tasks import now

Later = Callable[[float, Callable[[], Any]], None]
Told = Callable[[], str]
REQUEST_TIMEOUT = 30.0
RUN_SECONDS = 60.0
STARTS: dict[str, Callable[..., TriggerRunOperator]] = {
    "chalk": partial(ChalkTriggerRunOperator, resolver_fqn="shop.load"),
    "mage": partial(MageTriggerRunOperator, pipeline_schedule_id=1),
    "paradime": partial(ParadimeTriggerRunOperator, slug="daily"),
    "strait": partial(StraitTriggerRunOperator, job_id="daily"),
}
SLACK = 120.0
"""What the pauses between looks, and the looks themselves, may add to a limit."""
ROUNDING = 1e-6
TOO_LONG = 100_000.0
"""A run of this length has not ended when a test has."""


@pytest.fixture(scope="module")
def serving() -> Iterator[Simulator]:
    options = {
        "mage": {"auth": True},
    }
    with Simulator(options=options, duration=RUN_SECONDS) as simulator:
        yield simulator


@pytest.fixture
def simulator(serving: Simulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    extra = {"request_timeout": REQUEST_TIMEOUT}
    chalk = {"conn_type": "chalk", "login": "token-simulator", "password": "chalk-secret", "extra": extra}
    mage = {"conn_type": "mage", "login": "admin", "password": "admin", "extra": extra}
    paradime = {
        "conn_type": "paradime_bolt",
        "password": "paradime-secret",
        "extra": {**extra, "api_key": "key-simulator"},
    }
    strait = {"conn_type": "strait", "password": "strait_simulator", "extra": extra}
    for system, fields in (("chalk", chalk), ("mage", mage), ("paradime", paradime), ("strait", strait)):
        given = json.dumps({**fields, "host": serving.url_of(system) + TARGETS[system].path})
        monkeypatch.setenv(f"AIRFLOW_CONN_{system.upper()}_DEFAULT", given)
    serving.reset()
    yield serving
    serving.reset()


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["on the worker", "deferred"])
def deferrable(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


class Task:
    """A task of one system, tried once or again."""

    def __init__(self, simulator: Simulator, system: str, deferrable: bool) -> None:
        self.simulator = simulator
        self.system = system
        self.deferrable = deferrable
        self.context = {"ti": FakeTaskInstance(max_tries=1), "task_state_store": Store()}

    def run(self, **changes: Any) -> str:
        """Run one try and return the run's id."""
        shared = {
            "task_id": "task",
            "deferrable": self.deferrable,
            **changes,
        }
        task = STARTS[self.system](**shared)
        try:
            run_id = run_here(task, self.context)
        except TaskDeferred as pause:
            trigger = type(pause.trigger)(**json.loads(json.dumps(pause.trigger.serialize()[1])))
            run_id = task.execute_complete(self.context, fire(trigger))
        assert run_id == str(self.seen()["id"])
        return run_id

    def seen(self) -> dict[str, Any]:
        """Return what the service knows of the only run that there is."""
        (run,) = self.simulator.runs(self.system)
        return run

    def fault(self, fault: str, **rest: Any) -> None:
        """Have looks at the run go wrong, not its start."""
        self.simulator.fault(fault, system=self.system, operation="get", **rest)

    def not_found(self, **rest: Any) -> None:
        """Have the service say that it knows no such run: Paradime in the body of a good answer."""
        if self.system == "paradime":
            self.fault("errors", body="Run 1 not found.", **rest)
        else:
            self.fault("status", status=404, **rest)

    def looks(self, status: int | None = None) -> int:
        return self.simulator.count(self.system, "get", status)

    def cancelled(self) -> bool:
        """Tell whether the run was cancelled, by one request."""
        seen, statuses = self.seen(), TARGETS[self.system].operator.hook_class.api_class.statuses
        return statuses.state(seen["status"]) is RunState.CANCELLED and seen["cancels"] == 1

    def left_alone(self) -> bool:
        """Tell whether the run goes on and nobody has tried to cancel it."""
        return self.seen()["finished_at"] is None and self.seen()["cancels"] == 0


@pytest.fixture
def task(simulator: Simulator, system: str, deferrable: bool) -> Task:
    return Task(simulator, system, deferrable)


def said_once(told: Told, *, because: str) -> bool:  # noqa: F811
    """Tell whether the log has the beginning of the outage, with its reason, and its end, once each."""
    text = told()
    (beginning,) = (line for line in text.splitlines() if "cannot be asked about run" in line)
    return because in beginning and text.count("can be asked again") == 1


def took(began: float, limit: float) -> bool:
    """Tell whether a wait that began then has ended after its limit, and soon after it."""
    return limit - ROUNDING <= clock.monotonic() - began < limit + SLACK


# What is ridden out


def test_refused_connections(task: Task, told: Told, later: Later) -> None:  # noqa: F811
    """The port closes once the run has been seen, and opens after it has ended."""
    seen: list[int] = []

    def go_away() -> None:
        seen.append(task.looks(200))
        task.simulator.stop()

    later(RUN_SECONDS / 2, go_away)
    later(1.5 * RUN_SECONDS, task.simulator.start)
    task.run()
    assert seen[0] > 0
    assert said_once(told, because="did not answer")


def test_server_errors(task: Task, told: Told) -> None:  # noqa: F811
    statuses = (500, 502, 503, 504)
    for status in statuses:
        task.fault("status", status=status, times=2)
    task.run()
    assert [task.looks(status) for status in statuses] == [2, 2, 2, 2] and said_once(told, because="504")


def test_429_whose_retry_after_is_obeyed(task: Task) -> None:
    task.fault("status", status=429, retry_after="40", times=2)
    task.run()
    looks = [each for each in task.simulator.requests()["last"] if each["operation"] == "get"]
    assert [each["status"] for each in looks[:3]] == [429, 429, 200]
    at = [datetime.fromisoformat(each["time"]) for each in looks[:3]]
    # Up to twice as long by chance: the service names the same second to all who wait.
    assert timedelta(seconds=40) <= at[1] - at[0] <= timedelta(seconds=82)
    assert timedelta(seconds=40) <= at[2] - at[1] <= timedelta(seconds=82)


@pytest.mark.parametrize("fault", ["reset_before", "reset_after"])
def test_resets(task: Task, told: Told, fault: str) -> None:  # noqa: F811
    task.fault(fault, times=6)
    task.run()
    # aiohttp repeats a GET by itself where a kept-alive connection is cut.
    assert task.looks(None) >= 6 and said_once(told, because="did not answer")


def test_requests_that_hang_until_their_timeout(task: Task, told: Told) -> None:  # noqa: F811
    began = clock.monotonic()
    task.fault("hang", times=3)
    task.run()
    assert clock.monotonic() - began >= 3 * REQUEST_TIMEOUT
    assert said_once(told, because="did not answer")


@pytest.mark.parametrize("status", [200, 502])
def test_html(task: Task, told: Told, status: int) -> None:  # noqa: F811
    task.fault("html", status=status, times=6)
    task.run()
    assert said_once(told, because="502" if task.system == "mage" and status == 502 else f"{status} Error")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"fault": "errors"}, "Internal server error"),
        ({"fault": "errors", "body": "upstream timed out"}, "upstream timed out"),
        ({"fault": "not_ok"}, "ok: false"),
    ],
)
@pytest.mark.parametrize("system", ["paradime"])
def test_graphql_errors_behind_200(task: Task, told: Told, fault: dict[str, Any], said: str) -> None:  # noqa: F811
    task.fault(**fault, times=6)
    task.run()
    assert said_once(told, because=said) and task.looks(200) > 6


@pytest.mark.parametrize("fault", ["empty", "not_json"])
def test_answers_without_json(task: Task, told: Told, fault: str) -> None:  # noqa: F811
    task.fault(fault, times=6)
    task.run()
    assert said_once(told, because=task.system.capitalize())


@pytest.mark.parametrize("system", ["chalk", "mage"])
def test_a_token_that_expires_in_the_middle_is_renewed_without_a_word(
    task: Task,
    told: Told,  # noqa: F811
    later: Later,  # noqa: F811
) -> None:
    for moment in (RUN_SECONDS * 0.4, RUN_SECONDS * 0.7):
        later(moment, task.simulator.expire_tokens)
    task.run()
    operation = {"chalk": "token", "mage": "login"}[task.system]
    # The worker starts with one client and waits with another.
    assert task.simulator.count(task.system, operation, 200) == 4
    assert task.looks(401) + task.looks(200) >= 1 and "cannot be asked" not in told()


def test_refused_credentials_that_are_accepted_again(task: Task, told: Told) -> None:  # noqa: F811
    task.fault("status", status=401, for_seconds=1.5 * RUN_SECONDS)
    task.run()
    assert said_once(told, because="401")


def test_a_run_that_is_not_found_at_first(task: Task, told: Told) -> None:  # noqa: F811
    task.not_found(times=5)
    task.run()
    assert said_once(told, because="404" if task.system == "chalk" else "not found")


@pytest.mark.parametrize("system", ["paradime"])
def test_a_page_that_is_not_found_for_a_while(task: Task, told: Told) -> None:  # noqa: F811
    """A 404 says nothing about the run where all requests go to one page."""
    task.fault("status", status=404, times=5)
    task.run()
    assert said_once(told, because="404")


# What ends the wait, without a verdict on the run


def test_a_run_that_stays_not_found_is_unreachable(task: Task) -> None:
    task.simulator.plan(duration=TOO_LONG)
    task.not_found()
    began = clock.monotonic()
    with pytest.raises(RunUnreachable, match="says not found when asked about run"):
        task.run()
    limit = OWN_TIMEOUTS[Trouble.NOT_FOUND]
    assert took(began, limit) and task.left_alone()


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_unreachable_after_their_limit(task: Task, status: int) -> None:
    task.simulator.plan(duration=TOO_LONG)
    task.fault("status", status=status)
    began = clock.monotonic()
    with pytest.raises(RunUnreachable, match="refuses to be asked about run"):
        task.run()
    limit = OWN_TIMEOUTS[Trouble.REFUSED]
    assert took(began, limit) and task.left_alone()


def test_an_outage_longer_than_unreachable_timeout_and_a_retry_that_goes_on_with_the_run(
    task: Task,
) -> None:
    task.fault("status", status=503)
    began = clock.monotonic()
    with pytest.raises(RunUnreachable, match="503"):
        task.run(unreachable_timeout=200)
    assert took(began, 200)
    assert task.seen()["cancels"] == 0

    task.simulator.clear_faults()
    task.context["ti"] = FakeTaskInstance(max_tries=1)
    assert task.run() == task.context["task_state_store"]["run"]["run_id"]


def test_a_retry_during_the_outage_goes_on_with_the_run_too(task: Task, later: Later) -> None:  # noqa: F811
    task.fault("status", status=503)
    with pytest.raises(RunUnreachable):
        task.run(unreachable_timeout=100)
    later(300, task.simulator.clear_faults)
    task.context["ti"] = FakeTaskInstance(max_tries=1)
    task.run()


# Deadlines during an outage


def test_execution_timeout_during_an_outage_cancels_the_run_afterwards(
    simulator: Simulator,
    system: str,
    told: Told,  # noqa: F811
) -> None:
    """Deferred; the worker's alarm has no part in it. Chalk cannot cancel, which the log says."""
    task = Task(simulator, system, True)
    simulator.plan(duration=TOO_LONG)
    task.fault("status", status=503, for_seconds=400)
    began = clock.monotonic()
    with pytest.raises(AirflowTaskTimeout, match=r"execution_timeout was over.*could not be asked.*503"):
        task.run(execution_timeout=timedelta(seconds=300))
    assert took(began, 300)
    if TARGETS[system].can_cancel:
        assert task.cancelled()
    else:
        assert task.left_alone() and f"run {task.seen()['id']} goes on" in told()


@pytest.mark.parametrize("system", [name for name in SYSTEMS if TARGETS[name].can_cancel])
def test_execution_timeout_on_the_worker_during_an_outage_cancels_the_run(
    simulator: Simulator, system: str
) -> None:
    task = Task(simulator, system, False)
    simulator.plan(duration=TOO_LONG)
    task.fault("status", status=503)
    with pytest.raises(AirflowTaskTimeout):
        task.run(execution_timeout=timedelta(seconds=300))
    assert task.cancelled()


def test_timeout_during_an_outage_leaves_the_run(task: Task) -> None:
    task.simulator.plan(duration=TOO_LONG)
    task.fault("status", status=503)
    began = clock.monotonic()
    with pytest.raises(RunTimedOut, match=r"timeout was over.*could not be asked.*503"):
        task.run(timeout=300)
    assert took(began, 300) and task.left_alone()


def test_without_unreachable_timeout_an_outage_lasts_until_the_deadline(task: Task) -> None:
    task.simulator.plan(duration=TOO_LONG)
    task.fault("reset_before")
    with pytest.raises(RunTimedOut, match="could not be asked"):
        task.run(timeout=1000, unreachable_timeout=None)
    assert task.left_alone()


def test_a_run_that_ends_well_during_the_outage_is_a_success_at_the_deadlines_last_look(
    task: Task,
) -> None:
    """The outage is over just before the deadline; what counts is the answer, not the clock."""
    task.fault("status", status=503, for_seconds=1.6 * RUN_SECONDS)
    task.run(timeout=2.5 * RUN_SECONDS)
    assert task.seen()["status"] in ("succeeded", "completed", "SUCCESS")
    assert datetime.fromisoformat(task.seen()["finished_at"]) < now()
