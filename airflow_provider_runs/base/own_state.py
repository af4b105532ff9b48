"""What a task's own state says about who stopped it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

# Airflow sets these where a person acted on the task or its DAG run, or where the DAG run ran out of time.
# None is a cleared task. Anything else (running, queued, scheduled, deferred, up_for_retry) also comes from a
# pod eviction, lost heartbeats, a newer try or a moved trigger: then the run must go on.
ENDED_BY_PERSON = frozenset(
    {None, "failed", "upstream_failed", "success", "skipped", "restarting", "removed"}
)


UNREADABLE = "unreadable"


class Stop(Enum):
    """What it means for a task's run that the task's process, or its trigger, is told to stop."""

    BY_PERSON = "a person ended the task, or its DAG run ran out of time: the run is to be cancelled"
    OF_PROCESS = "only the process has to go, or a trigger was moved: the run keeps running"
    UNKNOWN = "Airflow does not say: the run keeps running, and the log says that it may be unwanted"


def stop_of(state: str | None) -> Stop:
    """
    Return what the task's state says about a stop, for a worker and for a trigger.

    :param state: the state; :data:`UNREADABLE` where it could not be read.
    """
    if state == UNREADABLE:
        return Stop.UNKNOWN
    return Stop.BY_PERSON if state in ENDED_BY_PERSON else Stop.OF_PROCESS


READ_SECONDS = 60.0
"""
Longest time in seconds to read from Airflow. The first read of a triggerer builds Airflow's own client: more
than 20 s on a starved machine.
"""
WARM_UP_AFTER = 60.0
"""Seconds from a triggerer's first trigger to the read that nobody waits for."""
ATTEMPTS = 3
RETRY_INTERVAL = 2.0
"""Seconds after which what could not be read is read again."""
LEFT_GOING = "run_left_going"
"""Key of the XCom with the id of the run that a task left going when it ended by itself."""


def own_state(task_instance: Any) -> str | None:
    """
    Return the task's present state, :data:`UNREADABLE` where it cannot be read.

    :param task_instance: the task instance of the context or of the trigger.
    """
    try:
        if hasattr(task_instance, "current_state"):
            state = task_instance.current_state()  # Airflow 2: workers reach the metadata database
        else:
            from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

            states = RuntimeTaskInstance.get_task_states(
                dag_id=task_instance.dag_id,
                map_index=task_instance.map_index,
                task_ids=[task_instance.task_id],
                run_ids=[task_instance.run_id],
            )
            (state,) = states[task_instance.run_id].values()
        return _text(state)
    except Exception:
        return UNREADABLE


def _text(state: Any) -> str | None:
    return None if state is None else str(getattr(state, "value", state))


def _key(task_instance: Any) -> str:
    """Return what Airflow calls a task instance among the states of a DAG run."""
    name, index = str(task_instance.task_id), task_instance.map_index
    return f"{name}_{index}" if index >= 0 else name


def own_states(task_instances: Sequence[Any]) -> list[str | None]:
    """
    Return the present states of tasks of one DAG run, each as :func:`own_state` does.

    :param task_instances: the task instances.
    """
    named = {one.task_id for one in task_instances}
    keys = [_key(one) for one in task_instances]
    times = Counter(keys)
    # Airflow names a mapped task instance by its index, which another task may be called, too.
    clear = [
        not hasattr(one, "current_state") and times[key] == 1 and (one.map_index < 0 or key not in named)
        for one, key in zip(task_instances, keys, strict=True)
    ]
    together = [one for one, is_clear in zip(task_instances, clear, strict=True) if is_clear]
    found: Mapping[str, Any] = {}
    if len(together) > 1:
        try:
            from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

            run_id = together[0].run_id
            found = RuntimeTaskInstance.get_task_states(
                dag_id=together[0].dag_id, task_ids=sorted(named), run_ids=[run_id]
            )[run_id]
        except Exception:
            return [UNREADABLE for _ in task_instances]
    return [
        _text(found[key]) if is_clear and key in found else own_state(one)
        for one, key, is_clear in zip(task_instances, keys, clear, strict=True)
    ]


def left_going(task_instance: Any) -> str | None:
    """
    Return the id of the run that the task left going when it ended by itself, None if it did not.

    :param task_instance: the task instance of the trigger (Airflow 3).
    :return: the id, None, or :data:`UNREADABLE` where Airflow does not say.
    """
    try:
        from airflow.sdk.execution_time.xcom import XCom

        place = {name: getattr(task_instance, name) for name in ("dag_id", "run_id", "task_id", "map_index")}
        found = XCom.get_one(key=LEFT_GOING, **place)
    except ImportError:
        return None  # Airflow 2 kills no trigger
    except Exception:
        return UNREADABLE
    return None if found is None else str(found)


class TaskStateReader:
    """
    Read from Airflow what became of tasks, for all triggers of an event loop.

    A triggerer has one connection to Airflow: one read follows the other, the time of each begins with its
    turn, and the states of all tasks of a DAG run are one read.
    """

    def __init__(self) -> None:
        self._reading = asyncio.Lock()
        self._waiting: dict[tuple[str, str], list[tuple[Any, asyncio.Future[str | None]]]] = {}
        self._first: asyncio.Task[None] | None = None

    def warm_up(self, task_instance: Any) -> None:
        """
        Read once, in the background, before it is needed: the first read builds Airflow's own client.

        On a starved machine that takes tens of seconds, in which the triggerer reads nothing else: so not
        when it has just begun.

        :param task_instance: the task instance of any trigger.
        """
        if self._first is None:
            self._first = asyncio.create_task(self._read_first(task_instance))

    async def _read_first(self, task_instance: Any) -> None:
        await asyncio.sleep(WARM_UP_AFTER)
        with suppress(TimeoutError):
            await self._state(task_instance)

    async def state(self, task_instance: Any) -> str | None:
        """
        Return a task's present state, :data:`UNREADABLE` where it cannot be read, also after some attempts.

        :param task_instance: the task instance of the trigger.
        :raises TimeoutError: if Airflow does not answer in time.
        """
        return await _readable(lambda: self._state(task_instance))

    async def left_going(self, task_instance: Any) -> str | None:
        """
        Return what :func:`left_going` returns, after some attempts.

        :param task_instance: the task instance of the trigger.
        :raises TimeoutError: if Airflow does not answer in time.
        """
        return await _readable(lambda: self._read_left_going(task_instance))

    async def _state(self, task_instance: Any) -> str | None:
        future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        dag_run = (task_instance.dag_id, task_instance.run_id)
        self._waiting.setdefault(dag_run, []).append((task_instance, future))
        await asyncio.sleep(0)  # those that are wanted at the same time come along
        async with self._reading:
            if not future.done():
                await self._read_states(self._waiting.pop(dag_run))
        return await future

    async def _read_states(self, wanted: Sequence[tuple[Any, asyncio.Future[str | None]]]) -> None:
        """Read the states of tasks of one DAG run and deliver them."""
        try:
            states = await self._in_time(lambda: own_states([each for each, _ in wanted]))
        except TimeoutError as error:
            for _, future in wanted:
                future.set_exception(error)
        else:
            for (_, future), state in zip(wanted, states, strict=True):
                future.set_result(state)

    async def _read_left_going(self, task_instance: Any) -> str | None:
        async with self._reading:
            return await self._in_time(lambda: left_going(task_instance))

    @staticmethod
    async def _in_time(read: Callable[[], T]) -> T:
        async with asyncio.timeout(READ_SECONDS):
            return await asyncio.to_thread(read)


async def _readable(read: Callable[[], Awaitable[str | None]]) -> str | None:
    """Read again, a few times, what cannot be read."""
    for _ in range(ATTEMPTS - 1):
        if (answer := await read()) != UNREADABLE:
            return answer
        await asyncio.sleep(RETRY_INTERVAL)
    return await read()


_readers: WeakKeyDictionary[asyncio.AbstractEventLoop, TaskStateReader] = WeakKeyDictionary()


def task_state_reader() -> TaskStateReader:
    """Return the reader that all in the running event loop share."""
    return _readers.setdefault(asyncio.get_running_loop(), TaskStateReader())
