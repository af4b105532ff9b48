"""Event triggers on the shared streams of the real Airflow, over a service without a network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_runs.base import event_poller, events
from airflow_provider_runs.base.events import HAS_SHARED_STREAMS, RunEventTrigger
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.drivers import AsyncDriver
from airflow_provider_runs.core.errors import ApiError, BadInput, ConnectionFailed, NotFound, Unauthorized
from airflow_provider_runs.core.http import Flow, Request, Response
from airflow_provider_runs.core.run import Run
from airflow_provider_runs.core.turns import TOO_MANY_REQUESTS
from airflow_provider_runs.provider_info import SYSTEMS
from tests.base.fakes import FakeHook, FullApi, Service

GOLDEN = Path(__file__).parent.parent / "golden"
needs_streams = pytest.mark.skipif(not HAS_SHARED_STREAMS, reason="Airflow 3.3 has shared streams")


class FakeRunEventTrigger(RunEventTrigger):
    hook_class = FakeHook
    filter_fields = ("job",)

    def __init__(
        self, *, job: str = "load", fake_conn_id: str = "fake_default", zone: str | None = "eu", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.job, self.fake_conn_id, self.zone = job, fake_conn_id, zone
        self.check()


class AssetStore:
    """The state store of one asset."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self._by_name = {"asset": self}

    async def aget(self, key: str) -> Any:
        return self.kept.get(key)

    async def aset(self, key: str, value: Any) -> None:
        self.kept[key] = json.loads(json.dumps(value))


class Triggerer:
    """What the triggerer does with event triggers: it runs them and confirms that their events are stored."""

    def __init__(self, confirms: bool = True) -> None:
        from airflow.triggers.shared_stream import SharedStreamManager

        self.manager = SharedStreamManager()
        self.fired: list[dict[str, Any]] = []
        self.confirms = confirms
        self.tasks: list[asyncio.Task[None]] = []

    def run(self, trigger: RunEventTrigger, store: AssetStore) -> None:
        trigger.asset_state_store = store  # type: ignore[assignment]
        self.tasks.append(asyncio.create_task(self._run(len(self.tasks) + 1, trigger)))

    async def _run(self, number: int, trigger: RunEventTrigger) -> None:
        key = trigger.shared_stream_key()
        stream = self.manager.subscribe(trigger_id=number, trigger=trigger, key=key)
        try:
            async for event in trigger.filter_shared_stream(stream):
                self.fired.append(event.payload)
                seq = self.manager.bind_pending_event(trigger_id=number, key=key)
                if self.confirms and seq is not None:
                    asyncio.get_running_loop().call_soon(self.manager.confirm_persisted, [seq])
        finally:
            await self.manager.unsubscribe(number, key)

    @property
    def told(self) -> list[dict[str, Any]]:
        return [run for payload in self.fired for run in payload["runs"]]

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.manager.stop_all()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_poller, "GATHER_SECONDS", 0.02)
    monkeypatch.setattr(events, "LEAST_POLL_INTERVAL", 0.01)


def trigger(**arguments: Any) -> FakeRunEventTrigger:
    return FakeRunEventTrigger(poll_interval=0.02, **arguments)


@needs_streams
async def test_an_end_fires_once_and_after_a_restart_what_ended_meanwhile(service: Service) -> None:
    service.runs = {"old": "done", "r1": "going", "r2": "going"}
    store = AssetStore()
    first = Triggerer()
    first.run(trigger(), store)
    await until(lambda: store.kept)
    service.runs["r1"] = "done"
    await until(lambda: [each["run_id"] for each in first.told] == ["r1"])
    (key,) = store.kept
    await until(lambda: store.kept[key]["going"] == ["r2"])
    await first.stop()
    assert first.fired == [json.loads((GOLDEN / "run_event.json").read_text())]

    service.runs |= {"r2": "done", "r3": "done", "r4": "broken"}
    second = Triggerer()
    second.run(trigger(), store)
    await until(lambda: second.fired)
    await asyncio.sleep(0.2)
    await second.stop()
    # Airflow may leave the second of two events that come at once without a DAG run.
    (event,) = second.fired
    assert sorted(each["run_id"] for each in event["runs"]) == ["r2", "r3"]


@needs_streams
async def test_an_event_that_airflow_has_not_stored_fires_again_after_a_restart(service: Service) -> None:
    service.runs = {"r1": "going"}
    store = AssetStore()
    first = Triggerer(confirms=False)
    first.run(trigger(), store)
    await until(lambda: store.kept)
    service.runs["r1"] = "done"
    await until(lambda: first.fired)
    await asyncio.sleep(0.1)
    for task in first.tasks:  # as kill -9: nothing is confirmed any more
        task.cancel()
    second = Triggerer()
    second.run(trigger(), store)
    await until(lambda: second.fired)
    await first.stop()
    await second.stop()
    assert [each["run_id"] for each in second.told] == ["r1"]


@needs_streams
async def test_watchers_of_one_connection_share_the_looks(service: Service) -> None:
    service.runs = {"r1": "going"}
    triggerer, stores = Triggerer(), [AssetStore(), AssetStore(), AssetStore()]
    for store in stores:
        triggerer.run(trigger(outcomes=["succeeded", "failed"]), store)
    await until(lambda: all(store.kept for store in stores))
    assert len(service.called("list_runs")) <= 3 + 2 * 4
    service.runs["r1"] = "broken"
    await until(lambda: len(triggerer.fired) == 3)
    await triggerer.stop()
    assert {each["outcome"] for each in triggerer.told} == {"failed"}


@needs_streams
async def test_an_outage_is_said_once_and_ridden_out(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(event_poller, "BACKOFF_BASE", 0.01)
    service.runs = {"r1": "going"}
    triggerer, store = Triggerer(), AssetStore()
    triggerer.run(trigger(), store)
    await until(lambda: store.kept)
    service.list_errors = [ConnectionFailed("no answer", sent=True) for _ in range(3)]
    await until(lambda: not service.list_errors)
    service.runs["r1"] = "done"
    await until(lambda: triggerer.fired)
    await triggerer.stop()
    said = [record.getMessage() for record in caplog.records if record.name == events.__name__]
    assert len([line for line in said if "polling runs of" in line and "failed" in line]) == 1
    assert len([line for line in said if "again" in line]) == 1


@needs_streams
async def test_a_watcher_that_is_not_answered_holds_up_no_other(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = event_poller.RunEventPoller._poll

    async def refuses_one(lists: Any, askers: Any) -> Any:
        if askers[0].job == "misspelt":
            raise NotFound("no such job")
        return await asked(lists, askers)

    monkeypatch.setattr(event_poller.RunEventPoller, "_poll", refuses_one)
    monkeypatch.setattr(event_poller, "BACKOFF_BASE", 3600.0)
    monkeypatch.setattr(event_poller, "BACKOFF_CAP", 3600.0)
    monkeypatch.setattr(event_poller, "backoff_seconds", lambda times, base, cap: base)
    service.runs = {"r1": "going"}
    triggerer, store = Triggerer(), AssetStore()
    triggerer.run(trigger(job="misspelt"), AssetStore())
    triggerer.run(trigger(), store)
    await until(lambda: store.kept)
    service.runs["r1"] = "done"
    await until(lambda: triggerer.fired)
    await triggerer.stop()
    assert [each["run_id"] for each in triggerer.told] == ["r1"]


@needs_streams
async def test_what_was_not_stored_because_another_watcher_failed_is_stored_by_the_next_look(
    service: Service,
) -> None:
    service.runs = {"r1": "going"}
    watcher, triggerer, store = trigger(), Triggerer(), AssetStore()
    triggerer.run(watcher, store)
    await until(lambda: store.kept)
    (key,) = store.kept
    record = store.kept.pop(key)
    outcome = SimpleNamespace(failed=1)
    look = event_poller.Broadcast({}, [(watcher, {"lost": True})])
    item = SimpleNamespace(outcome=outcome, broker_payload=look)
    await event_poller.RunEventPoller(watcher).advance([item])
    await until(lambda: store.kept)
    await triggerer.stop()
    assert store.kept[key].keys() == record.keys()


def asks(monkeypatch: pytest.MonkeyPatch, **errors: Callable[[], Any]) -> list[tuple[str, float]]:
    """Note which job is asked about when; what is given for a job happens instead."""
    asked = event_poller.RunEventPoller._poll
    noted: list[tuple[str, float]] = []

    async def ask(lists: Any, askers: Any) -> Any:
        job = askers[0].job
        noted.append((job, clock.monotonic()))
        if job in errors:
            await errors[job]()
        return await asked(lists, askers)

    monkeypatch.setattr(event_poller.RunEventPoller, "_poll", ask)
    return noted


def fails(*errors: Exception) -> Callable[[], Any]:
    """Raise one error after the other, the last one again and again; none: never."""
    left = list(errors)

    async def fail() -> None:
        if left:
            raise left[0] if len(left) == 1 else left.pop(0)

    return fail


def too_many_requests(retry_after: float) -> ApiError:
    error = ApiError("slow down", status=429)
    error.retry_after = retry_after
    return error


async def hang() -> None:
    await asyncio.sleep(3600)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == events.__name__]


@needs_streams
async def test_an_answer_is_shared_while_another_question_hangs(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks(monkeypatch, hangs=hang)
    service.runs = {"r1": "going"}
    triggerer, store = Triggerer(), AssetStore()
    triggerer.run(trigger(), store)
    triggerer.run(trigger(job="hangs"), AssetStore())
    await until(lambda: store.kept)
    await triggerer.stop()


@needs_streams
def test_what_was_asked_longest_ago_is_asked_first_and_what_is_not_answered_last() -> None:
    lists = event_poller.RunEventPoller(trigger())
    now = clock.monotonic()
    lists._polled_at = {"a": now - 1, "b": now - 2, "c": now - 5, "d": now - 4, "f": now - 3}
    lists._retries = {
        "b": event_poller.RetryState(1, False),
        "d": event_poller.RetryState(0, True),
        "c": event_poller.RetryState(2, False),
    }
    lists._next = {"a": now, "b": now, "c": now + 9, "d": now, "f": now + 9}
    assert lists._due(["a", "b", "c", "d", "e", "f"]) == ["e", "d", "a", "b"]


@needs_streams
async def test_between_two_that_take_until_their_timeouts_the_others_have_their_turn(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_poller, "BACKOFF_BASE", 0.01)
    monkeypatch.setattr(events, "LEAST_POLL_INTERVAL", 0.05)

    async def hangs() -> None:
        await asyncio.sleep(0.3)
        raise ConnectionFailed("no answer", sent=True)

    noted = asks(monkeypatch, one=hangs, other=hangs)
    triggerer = Triggerer()
    for job in ("one", "load", "other"):
        triggerer.run(FakeRunEventTrigger(job=job, poll_interval=0.05), AssetStore())
    await until(lambda: len(noted) > 12)
    await triggerer.stop()
    again = list(pairwise(job for job, _ in noted[3:]))
    assert {("one", "load"), ("load", "other")} <= set(again)
    assert not {("one", "other"), ("other", "one")} & set(again)


@needs_streams
async def test_under_a_limit_of_requests_every_question_gets_its_turn(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_poller, "BACKOFF_BASE", 0.01)
    monkeypatch.setattr(events, "LEAST_POLL_INTERVAL", 0.05)
    window = {"began": 0.0, "left": 0}
    answered: list[str] = []
    asked = event_poller.RunEventPoller._poll

    async def ask(lists: Any, askers: Any) -> Any:
        await asyncio.sleep(0.001)  # as every request takes some time: who was first is to be known
        if clock.monotonic() - window["began"] > 0.2:
            window.update(began=clock.monotonic(), left=3)
        if not window["left"]:
            raise too_many_requests(0.2)
        window["left"] -= 1
        answered.append(askers[0].job)
        return await asked(lists, askers)

    monkeypatch.setattr(event_poller.RunEventPoller, "_poll", ask)
    triggerer = Triggerer()
    jobs = [f"j{number}" for number in range(6)]
    for job in jobs:
        triggerer.run(FakeRunEventTrigger(job=job, poll_interval=0.05), AssetStore())
    await until(lambda: len(answered) > 24)
    await triggerer.stop()
    assert min(answered.count(job) for job in jobs) >= 3


def lists_cost_requests(monkeypatch: pytest.MonkeyPatch, limited: str = "") -> list[float]:
    """Have each list take a request, which a job may be refused; return when they left."""
    listed = FullApi.list_runs
    sent: list[float] = []

    def list_runs(api: FullApi, filters: Any, **bounds: Any) -> Flow[list[Run]]:
        yield Request("GET", "http://fake")
        if filters["job"] == limited:
            raise too_many_requests(0.5)
        return (yield from listed(api, filters, **bounds))

    async def send(driver: Any, send: Any) -> Response:
        sent.append(clock.monotonic())
        return Response(TOO_MANY_REQUESTS if send.request.url.endswith("limited") else 200)

    monkeypatch.setattr(FullApi, "list_runs", list_runs)
    monkeypatch.setattr(AsyncDriver, "_send", send)
    return sent


@needs_streams
async def test_a_limit_that_a_poll_of_single_runs_meets_holds_for_all(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lists_cost_requests(monkeypatch)
    service.errors["old"] = too_many_requests(0.5)
    polled, get = [], FullApi.get

    def poll(api: FullApi, run_id: str) -> Flow[Run]:
        response = yield Request("GET", "http://fake/limited")
        polled.append(clock.monotonic())
        assert response.status == TOO_MANY_REQUESTS
        return (yield from get(api, run_id))

    monkeypatch.setattr(FullApi, "get", poll)
    triggerer, store = Triggerer(), AssetStore()
    watcher = trigger()
    store.kept[watcher.state_key] = {"v": 1, "mark": 1.0, "going": ["old"], "ended": []}
    triggerer.run(watcher, store)
    await until(lambda: len(polled) > 3)
    await triggerer.stop()
    assert min(later - sooner for sooner, later in pairwise(polled)) >= 1.0
    (said,) = [line for line in lines(caplog) if "1 runs of" in line]
    assert "slow down" in said


@needs_streams
async def test_a_question_is_asked_again_when_its_pause_is_over_and_the_others_at_their_pace(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_poller, "BACKOFF_BASE", 0.2)
    noted = asks(monkeypatch, fails=fails(ConnectionFailed("no answer", sent=True)))
    triggerer = Triggerer()
    for job in ("fails", "load"):
        triggerer.run(FakeRunEventTrigger(job=job, poll_interval=1.0), AssetStore())
    await until(lambda: [job for job, _ in noted].count("fails") == 2)
    await triggerer.stop()
    first, second = (at for job, at in noted if job == "fails")
    assert 1.0 <= second - first < 1.8
    assert [job for job, _ in noted].count("load") == 2


@needs_streams
async def test_retry_after_of_a_limit_holds_for_all_questions(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = lists_cost_requests(monkeypatch, limited="limited")
    triggerer, store = Triggerer(), AssetStore()
    triggerer.run(trigger(job="limited"), AssetStore())
    triggerer.run(trigger(), store)
    await until(lambda: store.kept)
    await triggerer.stop()
    assert sent[1] - sent[0] >= 1.0


@needs_streams
async def test_any_other_retry_after_holds_for_its_question(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_poller, "BACKOFF_BASE", 0.01)
    error = ApiError("down for maintenance", status=503)
    error.retry_after = 3600.0
    noted = asks(monkeypatch, down=fails(error))
    triggerer = Triggerer()
    triggerer.run(trigger(job="down"), AssetStore())
    triggerer.run(trigger(), AssetStore())
    await until(lambda: len(noted) > 6)
    await triggerer.stop()
    assert [job for job, _ in noted].count("down") == 1


@needs_streams
@pytest.mark.parametrize("turns", range(5))
async def test_the_loop_ends_also_if_another_watcher_joins_in_that_moment(
    service: Service, turns: int
) -> None:
    triggerer, store = Triggerer(), AssetStore()
    triggerer.run(FakeRunEventTrigger(poll_interval=1.0), store)
    await until(lambda: store.kept)
    triggerer.tasks[0].cancel()
    for _ in range(turns):
        await asyncio.sleep(0)
    triggerer.run(trigger(job="new"), AssetStore())
    done, _ = await asyncio.wait(triggerer.tasks[:1], timeout=3)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    assert done


@needs_streams
@pytest.mark.parametrize(
    ("error", "watchers", "again"),
    [
        (NotFound("no such page", status=404), 1, True),
        (NotFound("no such job", status=404), 2, False),
        (Unauthorized("no right to this job", status=403), 2, False),
        (Unauthorized("the key is no longer good", status=401), 2, True),
    ],
)
async def test_the_connection_is_read_again_where_it_may_be_the_cause(
    service: Service, monkeypatch: pytest.MonkeyPatch, error: Exception, watchers: int, again: bool
) -> None:
    monkeypatch.setattr(event_poller, "BACKOFF_BASE", 0.01)
    reads = []
    read = FakeHook.aread_api

    async def counted(hook: FakeHook) -> Any:
        reads.append(hook)
        return await read(hook)

    monkeypatch.setattr(FakeHook, "aread_api", counted)
    service.runs = {"r1": "going"}
    # A hook is made before the question is refused.
    asked = event_poller.RunEventPoller._poll
    refused = []

    async def refuse(lists: Any, askers: Any) -> Any:
        answer = await asked(lists, askers)
        if askers[0].job == "refused":
            refused.append(askers)
            raise error
        return answer

    monkeypatch.setattr(event_poller.RunEventPoller, "_poll", refuse)
    triggerer = Triggerer()
    for job in ("refused", "load")[:watchers]:
        triggerer.run(trigger(job=job), AssetStore())
    await until(lambda: len(refused) == 3)
    await triggerer.stop()
    assert len(reads) == (3 if again else 1)


@needs_streams
async def test_a_key_that_is_refused_is_tried_seldom_whoever_asks(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_poller, "BACKOFF_BASE", 0.01)
    monkeypatch.setattr(event_poller, "BACKOFF_CAP", 1.0)
    service.list_errors = [Unauthorized("the key is not good", status=401) for _ in range(100)]
    triggerer, stores = Triggerer(), [AssetStore() for _ in range(6)]
    for number, store in enumerate(stores):
        triggerer.run(trigger(job=f"j{number}"), store)
    tried = []
    for seconds in (14, 14, 100, 30):
        await asyncio.sleep(seconds)
        tried.append(len(service.called("list_runs")))
    # After 0, 15 and 135 s.
    assert tried == [1, 2, 2, 3]
    monkeypatch.setenv("AIRFLOW_CONN_FAKE_DEFAULT", json.dumps({"conn_type": "fake", "host": "other"}))
    service.list_errors.clear()
    await until(lambda: all(store.kept for store in stores))
    await triggerer.stop()


@needs_streams
async def test_a_store_that_does_not_answer_is_said_once_until_it_works_again(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    class Flaky(AssetStore):
        tries, down = 0, True

        async def aset(self, key: str, value: Any) -> None:
            self.tries += 1
            if self.down:
                raise OSError("store down")
            await super().aset(key, value)

    triggerer, store = Triggerer(), Flaky()
    triggerer.run(trigger(), store)
    await until(lambda: store.tries >= 3)
    assert len([line for line in lines(caplog) if "cannot be stored" in line]) == 1
    store.down = False
    await until(lambda: store.kept)
    store.down, service.runs, tries = True, {"r1": "going"}, store.tries
    await until(lambda: store.tries >= tries + 3)
    await triggerer.stop()
    assert len([line for line in lines(caplog) if "cannot be stored" in line]) == 2


@needs_streams
@pytest.mark.parametrize("record", [{"v": 1}, ["v", 1]])
async def test_a_record_that_is_not_understood_is_told_and_counts_as_none(
    service: Service, caplog: pytest.LogCaptureFixture, record: Any
) -> None:
    watcher, triggerer, store = trigger(), Triggerer(), AssetStore()
    store.kept[watcher.state_key] = record
    service.runs = {"r1": "going"}
    triggerer.run(watcher, store)
    await until(lambda: store.kept[watcher.state_key] != record)
    await triggerer.stop()
    assert store.kept[watcher.state_key]["going"] == ["r1"]
    assert len([line for line in lines(caplog) if "not understood" in line]) == 1


@needs_streams
async def test_without_a_store_that_airflow_shows_watchers_go_on(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.runs = {"r1": "going"}
    watcher, triggerer, store = trigger(), Triggerer(), AssetStore()
    del store._by_name
    triggerer.run(watcher, store)
    await until(lambda: watcher.ends.going)
    service.runs["r1"] = "done"
    await until(lambda: triggerer.fired)
    await triggerer.stop()
    assert len([line for line in lines(caplog) if "shows no state store" in line]) == 1


@needs_streams
async def test_an_unexpected_error_is_said_with_where_it_came_from_and_without_secrets(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connection = {"conn_type": "fake", "host": "fake", "password": "planted-secret"}
    monkeypatch.setenv("AIRFLOW_CONN_FAKE_DEFAULT", json.dumps(connection))
    service.list_errors = [KeyError("rows of planted-secret")]
    triggerer = Triggerer()
    triggerer.run(trigger(), AssetStore())
    await until(lambda: lines(caplog))
    await triggerer.stop()
    (line,) = lines(caplog)
    assert "KeyError: 'rows of ***'" in line and "in list_runs" in line and "planted-secret" not in line


@needs_streams
async def test_what_comes_of_one_question_is_stored_while_airflow_stores_the_event_of_another(
    service: Service,
) -> None:
    service.runs = {"r1": "going"}
    triggerer, stores = Triggerer(confirms=False), [AssetStore(), AssetStore()]
    triggerer.run(trigger(), stores[0])
    triggerer.run(trigger(job="other", outcomes="failed"), stores[1])
    await until(lambda: all(store.kept for store in stores))
    service.runs["r1"] = "done"
    await until(lambda: triggerer.fired)
    (key,) = stores[1].kept
    await until(lambda: stores[1].kept[key]["going"] == [])
    await triggerer.stop()
    assert next(iter(stores[0].kept.values()))["going"] == ["r1"]


@needs_streams
@pytest.mark.parametrize(
    "wrong",
    [{"outcomes": []}, {"outcomes": "done"}, {"poll_interval": 0}, {"poll_interval": "1"}, {"job": None}],
)
def test_wrong_arguments_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        FakeRunEventTrigger(**wrong)


@needs_streams
def test_what_is_known_does_not_depend_on_the_pace_but_on_what_is_watched() -> None:
    key = trigger().state_key
    assert FakeRunEventTrigger(poll_interval=5).state_key == key
    others = [{"job": "other"}, {"outcomes": "failed"}, {"zone": "us"}, {"fake_conn_id": "other"}]
    assert key not in {trigger(**other).state_key for other in others}


@needs_streams
def test_class_paths_and_arguments_are_those_that_databases_keep() -> None:
    golden = json.loads((GOLDEN / "event_triggers.json").read_text())
    for system in SYSTEMS:
        module = import_module(f"airflow_provider_runs.{system}.triggers")
        kind = getattr(module, f"{system.capitalize()}RunEventTrigger", None)
        assert (kind is None) == (system not in golden)
        if kind is not None:
            made = kind(**{kind.filter_fields[0]: "1"})
            path, arguments = made.serialize()
            assert [path, list(arguments)] == golden[system]
            assert kind(**json.loads(json.dumps(arguments))).serialize() == (path, arguments)


@needs_streams
async def test_a_watcher_does_not_run_alone() -> None:
    with pytest.raises(NotImplementedError, match="shared streams"):
        await anext(trigger().run())


@pytest.mark.skipif(HAS_SHARED_STREAMS, reason="for an Airflow without shared streams")
def test_an_older_airflow_is_named() -> None:
    with pytest.raises(NotImplementedError, match=r"needs Airflow 3\.3"):
        FakeRunEventTrigger()
