"""What a Strait run has returned, as XCom: whole, masked, and never to the harm of a run that did succeed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_runs.base.exceptions import RunFailed
from airflow_provider_runs.simulator import Simulator
from airflow_provider_runs.strait.hooks import StraitHook
from airflow_provider_runs.strait.lists import PAGE
from airflow_provider_runs.strait.simulator import Job
from tests.base.conftest import callable_operators, told  # noqa: F401
from tests.simulators import Simulators
from tests.strait.tasks import KEY, connect, deferrable, replay, task
from tests.tasks import new_context, run

OUTPUTS = tuple((f"output-{number:03}", number) for number in range(PAGE + 5))
JOBS = (Job("echo"), Job("many", outputs=OUTPUTS), Job("mended"), Job("silent", result="", progress=0))


@pytest.fixture
def sim(simulators: Simulators, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    simulator = simulators(["strait"], speed=50, options={"strait": {"jobs": JOBS}})
    connect(monkeypatch, simulator)
    return simulator


def pushed(payload: Any, context: dict[str, Any] | None = None, **arguments: Any) -> dict[str, Any]:
    """Run a job that returns its payload, and return the XComs."""
    context = context or new_context()
    run_id = run(task("echo", payload=payload, push_result=True, **arguments), context)
    xcoms: dict[str, Any] = context["ti"].pushed
    assert xcoms["return_value"] == run_id if "return_value" in xcoms else run_id
    return xcoms


@deferrable
@pytest.mark.parametrize(
    "result", [{"a": [1, None, True, "ü"]}, [1, 2], {"text": "a text"}, 5, 1.5, True, {"deep": {"er": {}}}]
)
def test_a_result_comes_as_it_is(sim: Simulator, deferrable: bool, result: Any) -> None:
    assert pushed(result, deferrable=deferrable)["result"] == result


def test_a_run_without_a_result_pushes_none(sim: Simulator) -> None:
    assert pushed(None)["result"] is None


def test_texts_are_masked_and_nothing_else(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    # The proxy's password is a secret, too; here it looks like a part of a number.
    connect(monkeypatch, sim, proxy=None)
    hidden = {"hidden": [f"the key is {KEY}!"], KEY: 1, "number": 312}
    assert pushed(hidden)["result"] == {"hidden": ["the key is ***!"], "***": 1, "number": 312}


def test_a_secret_that_looks_like_a_number_spoils_no_number(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_runs.strait.api.StraitRunApi.secrets", lambda self: ("12", 'a"b'))
    found = pushed({"number": 3120, "text": "3120", "quoted": 'a"b'})["result"]
    assert found == {"number": 3120, "text": "3***0", "quoted": "***"}


def test_what_the_database_refuses_is_replaced(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = json.loads('{"nul": "a\\u0000b", "huge": 1e999, "list": [-1e999, 2.5]}')
    details = StraitHook.get_details
    monkeypatch.setattr(
        StraitHook, "get_details", lambda self, run_id: {**details(self, run_id), "result": shown}
    )
    assert pushed({})["result"] == {"nul": "a\ufffdb", "huge": None, "list": [None, 2.5]}


@deferrable
def test_the_limit_is_counted_in_bytes_and_a_longer_result_is_told_of(
    sim: Simulator,
    told: Callable[[], str],  # noqa: F811
    deferrable: bool,
) -> None:
    # {"a": "üü"} has 13 bytes.
    assert pushed({"a": "üü"}, max_xcom_bytes=13, deferrable=deferrable)["result"] == {"a": "üü"}
    assert "not pushed" not in told()
    assert "result" not in pushed({"a": "üü"}, max_xcom_bytes="12", deferrable=deferrable)
    log = told()
    assert "as JSON it has 13 bytes, and max_xcom_bytes is 12. StraitHook.get_details reads it" in log


def test_a_result_that_airflow_cannot_keep_fails_no_good_run(
    sim: Simulator,
    told: Callable[[], str],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Airflow's own serializer refuses a mapping with one of its names."""
    context = new_context()
    push = context["ti"].xcom_push

    def refuse(key: str, value: Any) -> None:
        if key == "result":
            raise AttributeError("reserved key __classname__ or __id__ found in dict to serialize")
        push(key, value)

    monkeypatch.setattr(context["ti"], "xcom_push", refuse)
    assert "result" not in pushed({"__id__": 1}, context)
    assert "Airflow cannot keep it (AttributeError: reserved key" in told()


def test_more_outputs_than_a_page_are_told_of(
    sim: Simulator,
    told: Callable[[], str],  # noqa: F811
) -> None:
    context = new_context()
    run(task("many", push_outputs=True), context)
    assert context["ti"].pushed["outputs"] == dict(OUTPUTS[:PAGE])
    assert f"lists {PAGE} outputs of a run at most: more are not pushed" in told()


def test_a_run_without_outputs_pushes_an_empty_mapping(sim: Simulator) -> None:
    context = new_context()
    run(task("echo", push_outputs=True), context)
    assert context["ti"].pushed["outputs"] == {}


@deferrable
def test_a_run_that_fails_pushes_nothing_of_it(sim: Simulator, deferrable: bool) -> None:
    sim.plan(system="strait", outcome="dead_letter")
    context = new_context()
    with pytest.raises(RunFailed):
        run(task("echo", push_result=True, push_outputs=True, deferrable=deferrable), context)
    assert not {"result", "outputs"} & context["ti"].pushed.keys()
    assert sim.count("strait", "outputs") == 0


@deferrable
def test_a_retry_pushes_what_the_try_before_could_not_read(sim: Simulator, deferrable: bool) -> None:
    from airflow_provider_runs.core.errors import RunsError

    context = new_context()
    sim.fault("status", status=400, system="strait", operation="outputs", times=1)
    with pytest.raises(RunsError):
        run(task("many", push_outputs=True, deferrable=deferrable), context)
    assert run(task("many", push_outputs=True, deferrable=deferrable), context)
    assert len(sim.runs("strait")) == 1 and len(context["ti"].pushed["outputs"]) == PAGE


@deferrable
def test_a_replay_pushes_the_result_of_the_run_it_waited_for(sim: Simulator, deferrable: bool) -> None:
    sim.plan(system="strait", resource="mended", outcome="dead_letter,completed")
    context = new_context()
    with pytest.raises(RunFailed):
        run(task("mended", payload={"n": 1}), context)
    (dead,) = (str(one["id"]) for one in sim.runs("strait"))
    context = new_context()
    assert run(replay(dead, push_result=True, deferrable=deferrable), context) == dead
    assert context["ti"].pushed["result"] == {"n": 1}
