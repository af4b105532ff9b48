"""Virtual time itself: it stands still while anybody works, and nobody who waits misses a moment."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from queue import Empty, Queue, SimpleQueue
from typing import Any

import pytest

from airflow_provider_runs.core import clock
from tests import virtual as times
from tests.virtual import VirtualClock


def test_hours_pass_in_a_moment(virtual: VirtualClock) -> None:
    before = clock.time()
    clock.sleep(3600)
    assert virtual.passed == pytest.approx(3600)
    assert clock.time() - before == pytest.approx(3600)


async def test_an_event_loop_keeps_the_same_time(virtual: VirtualClock) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60):
            await asyncio.sleep(3600)
    assert virtual.passed == pytest.approx(60)
    assert asyncio.get_running_loop().time() == pytest.approx(clock.monotonic())


async def test_an_event_loop_waits_for_the_work_of_its_threads(virtual: VirtualClock) -> None:
    await asyncio.to_thread(clock.sleep, 10)
    assert virtual.passed == pytest.approx(10)


def test_threads_wake_in_the_order_of_their_moments(virtual: VirtualClock) -> None:
    woke: list[tuple[int, float]] = []

    def wait(seconds: int) -> None:
        clock.sleep(seconds)
        woke.append((seconds, virtual.passed))

    threads = [threading.Thread(target=wait, args=(seconds,)) for seconds in (30, 10, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [seconds for seconds, _ in woke] == [10, 20, 30]
    assert [moment for _, moment in woke] == pytest.approx([10, 20, 30])


def test_time_stands_still_while_anybody_works(virtual: VirtualClock) -> None:
    seen: list[float] = []

    def work() -> None:
        time.sleep(0.1)  # real: whoever does not wait by the clock works, however slowly
        seen.append(virtual.passed)

    threading.Thread(target=work).start()
    clock.sleep(1)
    assert seen == [0]


def test_something_takes_place_at_its_moment(virtual: VirtualClock) -> None:
    seen: list[float] = []
    virtual.later(5, lambda: seen.append(virtual.passed))
    clock.sleep(4)
    assert seen == []
    clock.sleep(2)
    assert seen == pytest.approx([5])


@pytest.mark.parametrize("comes", [False, True])
def test_a_queue_is_waited_for_until_something_comes(virtual: VirtualClock, comes: bool) -> None:
    queue: SimpleQueue[str] = SimpleQueue()
    if not comes:
        with pytest.raises(Empty):
            clock.get(queue, 7)
        assert virtual.passed == pytest.approx(7)
        return
    virtual.later(3, lambda: queue.put("it"))
    assert clock.get(queue) == "it"
    assert virtual.passed == pytest.approx(3)


@pytest.mark.parametrize("comes", [False, True])
def test_events_and_joins_keep_their_time(virtual: VirtualClock, comes: bool) -> None:
    event = threading.Event()
    if comes:
        virtual.later(3, event.set)
    assert event.wait(7) is comes
    assert virtual.passed == pytest.approx(3 if comes else 7)
    sleeper = threading.Thread(target=clock.sleep, args=(10,))
    sleeper.start()
    sleeper.join(4)
    assert sleeper.is_alive()
    sleeper.join()
    assert virtual.passed == pytest.approx(13 if comes else 17)


def test_what_the_standard_library_waits_for_keeps_its_time(virtual: VirtualClock) -> None:
    condition, queue = threading.Condition(), Queue[int]()
    with condition:
        assert not condition.wait_for(lambda: False, timeout=5)
    assert virtual.passed == pytest.approx(5)
    with pytest.raises(Empty):
        queue.get(timeout=5)
    assert virtual.passed == pytest.approx(10)


def test_a_thread_that_is_just_starting_works(monkeypatch: pytest.MonkeyPatch, virtual: VirtualClock) -> None:
    set_ident = threading.Thread._set_ident  # type: ignore[attr-defined]

    def slowly(thread: threading.Thread) -> None:
        set_ident(thread)
        time.sleep(0.01)

    monkeypatch.setattr(threading.Thread, "_set_ident", slowly)
    seen: list[float] = []
    worker = threading.Thread(target=lambda: (time.sleep(0.01), seen.append(virtual.passed)))
    worker.start()
    clock.sleep(1)
    assert seen == [0]


@pytest.mark.real_time  # it begins virtual time itself
def test_time_never_goes_back_for_an_event_loop_that_outlives_a_test() -> None:
    loop = times.VirtualLoop()
    try:
        moments = [loop.time()]
        for _ in range(2):
            with times.virtual_time():
                moments.append(loop.time())
                clock.sleep(100)
                moments.append(loop.time())
            moments.append(loop.time())
        assert moments == sorted(moments)
        assert moments[-1] - moments[0] >= 200
    finally:
        loop.close()


@pytest.mark.parametrize("comes", [False, True])
def test_a_read_from_a_socket_keeps_its_timeout(virtual: VirtualClock, comes: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(7)
        if not comes:
            with pytest.raises(TimeoutError):
                ours.recv(1)
            assert virtual.passed == pytest.approx(7)
            return
        virtual.later(3, lambda: theirs.send(b"x"))
        assert ours.recv(1) == b"x"
        assert virtual.passed == pytest.approx(3)


def test_an_alarm_rings_in_the_main_thread(virtual: VirtualClock) -> None:
    with pytest.raises(RuntimeError, match="late"), virtual.alarm(5, RuntimeError("late")):
        clock.sleep(60)
    assert virtual.passed == pytest.approx(5)
    with virtual.alarm(5, RuntimeError("late")):
        clock.sleep(1)


def test_a_lock_of_the_package_may_be_held_while_time_passes(virtual: VirtualClock) -> None:
    lock: Any = times._Lock()

    def hold() -> None:
        with lock:
            clock.sleep(5)

    threading.Thread(target=hold).start()
    clock.sleep(1)
    with lock:
        assert virtual.passed == pytest.approx(5)


def test_a_wait_that_nothing_can_end_fails(monkeypatch: pytest.MonkeyPatch, virtual: VirtualClock) -> None:
    monkeypatch.setattr(times, "STUCK", 0.05)
    monkeypatch.setattr(times.faulthandler, "dump_traceback", lambda file: None)
    with pytest.raises(AssertionError, match="nothing will ever happen"):
        clock.get(SimpleQueue())


@pytest.mark.real_time
def test_time_is_real_where_a_test_asks_for_that() -> None:
    assert type(clock.current) is clock.Clock
    assert abs(clock.time() - time.time()) < 60
