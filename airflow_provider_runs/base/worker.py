"""
Work in a helper thread, so that the task's main thread hears a signal at once.

Airflow calls ``on_kill`` in the main thread, wherever that stands, and goes on afterwards. A blocking request
would swallow the call for as long as the request takes; an exception out of Airflow's alarm signal could end
up inside an event loop. So the main thread only waits for word from the helper or from ``on_kill``.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from airflow_provider_runs.core import clock

T = TypeVar("T")
_KILL = object()


class Killed(Exception):
    """``on_kill`` was called while work was under way; the helper goes on meanwhile."""


class _Result:
    def __init__(self, value: Any, error: BaseException | None) -> None:
        self.value = value
        self.error = error

    def unwrap(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class Attended:
    """Run work in helper threads, one at a time, and wait for it attentively."""

    def __init__(self) -> None:
        # SimpleQueue.put may be called from a signal handler, unlike the methods of locks and events.
        self._words: SimpleQueue[Any] = SimpleQueue()
        self.killed = False

    def kill(self) -> None:
        """Note that the task was told to stop. Safe in a signal handler."""
        self.killed = True
        self._words.put(_KILL)

    def run(self, work: Callable[[], T]) -> T:
        """
        Run work and return its result.

        :param work: what to do.
        :raises Killed: as soon as :meth:`kill` is called; the work goes on, see :meth:`linger`.
        """
        self._start(work)
        word = clock.get(self._words)
        if word is _KILL:
            raise Killed
        result: T = word.unwrap()
        return result

    def linger(self, seconds: float) -> bool:
        """
        Wait for the work that was under way when the task was killed.

        :param seconds: how long.
        :return: whether it has ended.
        """
        return self._wait(seconds) is not None

    def finish(self, work: Callable[[], None], seconds: float) -> bool:
        """
        Run work that is owed even to a killed task.

        :param work: what to do.
        :param seconds: how long to wait for it.
        :return: whether it has ended; if not, it goes on while the process lives.
        """
        self._words = SimpleQueue()
        self._start(work)
        word = self._wait(seconds)
        if word is not None:
            word.unwrap()
        return word is not None

    def _start(self, work: Callable[[], Any]) -> None:
        words = self._words

        def run() -> None:
            try:
                words.put(_Result(work(), None))
            except BaseException as error:
                words.put(_Result(None, error))

        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(run,), daemon=True, name="run-task-helper").start()

    def _wait(self, seconds: float) -> _Result | None:
        until = clock.monotonic() + seconds
        while True:
            try:
                word = clock.get(self._words, max(0.0, until - clock.monotonic()))
            except Empty:
                return None
            if isinstance(word, _Result):
                return word
