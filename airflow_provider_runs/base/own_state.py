"""What a task's own state says about who stopped it."""

from __future__ import annotations

import asyncio
from typing import Any

# Airflow sets these where a person acted on the task or its DAG run, or where the DAG run ran out of time.
# None is a cleared task. Anything else (running, queued, scheduled, deferred, up_for_retry) also comes from a
# pod eviction, lost heartbeats, a newer try or a moved trigger: then the run must go on.
ENDED_BY_PERSON = frozenset(
    {None, "failed", "upstream_failed", "success", "skipped", "restarting", "removed"}
)


def ended_by_person(state: str | None) -> bool:
    """
    Tell whether a task in this state was stopped on purpose, so that its run is to be cancelled.

    :param state: the state; :data:`UNREADABLE` where it could not be read.
    """
    return state in ENDED_BY_PERSON


UNREADABLE = "unreadable"
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
        return None if state is None else str(getattr(state, "value", state))
    except Exception:
        return UNREADABLE


def left_going(task_instance: Any) -> str | None:
    """
    Return the id of the run that the task left going when it ended by itself, None if it did not.

    :param task_instance: the task instance of the trigger (Airflow 3).
    """
    try:
        from airflow.sdk.execution_time.xcom import XCom

        place = {name: getattr(task_instance, name) for name in ("dag_id", "run_id", "task_id", "map_index")}
        found = XCom.get_one(key=LEFT_GOING, **place)
    except Exception:
        return None
    return None if found is None else str(found)


async def aown_state(task_instance: Any) -> str | None:
    """
    Return the task's present state without blocking the event loop.

    :param task_instance: as for :func:`own_state`.
    """
    return await asyncio.to_thread(own_state, task_instance)
