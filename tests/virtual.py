"""
Virtual time: a clock that jumps to the next moment that somebody waits for, once everybody waits.

While :func:`virtual_time` is in force, time stands still as long as any thread works, however slow the
machine is. When every thread waits (in an event loop, a sleep, an event, a queue, a read from a socket) and
nothing that one of them waits for has come, the clock jumps to the earliest deadline. A test may then wait
for hours, and for events that take place at given moments (:meth:`VirtualClock.later`), without waiting.

What takes part: the thread that enters, every thread that is started meanwhile, and every thread that runs a
:class:`VirtualLoop`, such as that of a simulator which is shared by the tests of a module. A thread that
waits for something the clock does not know (another process, a connection that is being made, a thread of a
pool without work) counts as working: time does not pass for it. It needs Linux (``epoll``).
"""

from __future__ import annotations

import asyncio
import errno
import faulthandler
import queue
import select
import selectors
import signal
import socket
import ssl
import sys
import threading
import time as real
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from weakref import WeakSet

from airflow_provider_runs.core import clock

T = TypeVar("T")
STEP = 0.001
"""Real seconds after which a waiting thread looks again whether it may go on."""
QUIET = 0.0002
"""Real seconds for which everybody must wait before the clock jumps: what is on its way arrives first."""
LONGEST = 900.0
"""Real seconds after which a test that keeps asking for what never comes is a failure."""
TICK = 1e-7
"""Seconds by which the clock jumps farther: rounding must not make a wait shorter than it was asked to be."""
STUCK = 120.0
"""Real seconds after which a wait that nothing can end, or that nobody's work ends, is a failure."""
DRAIN = 900.0
"""Virtual seconds that threads get to end when virtual time does."""

_active: VirtualClock | None = None
_ahead = 0.0
"""Seconds that virtual time is ahead of real time: for event loops, which outlive tests, none goes back."""
_loops: WeakSet[VirtualLoop] = WeakSet()
_lock = threading.Lock()


@dataclass
class _Wait:
    """What a thread waits for, and until when."""

    deadline: float | None
    is_ready: Callable[[], bool]


def _may_go_on(wait: _Wait) -> bool:
    """Tell whether what a thread waits for has come, or looking for it fails: the thread itself will see."""
    try:
        return wait.is_ready()
    except Exception:
        return True


class VirtualClock(clock.Clock):
    """The clock of one test."""

    def __init__(self) -> None:
        self._real = real.monotonic()
        self.now = self.began = self._real + _ahead
        self._epoch = real.time() - self.now
        self._threads: dict[threading.Thread, _Wait | None] = {}
        """Who takes part; None: works."""
        self._changes = 0
        self._quiet: tuple[int, float] = (-1, 0.0)
        """Since which change, and which real moment, everybody waits."""
        self.closed = False

    # What the package reads and waits by

    def time(self) -> float:
        """Return UTC epoch seconds."""
        # In whole microseconds, as services tell moments: what happens now is not told as of before now.
        return round(self._epoch + self.now, 6)

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Wait until everybody has waited for so long."""
        self.block(lambda: False, self.now + seconds)

    def get(self, queue: SimpleQueue[T], timeout: float | None = None) -> T:
        """Take what is first in a queue."""
        deadline = None if timeout is None else self.now + timeout
        while self.block(lambda: not queue.empty(), deadline):
            with suppress(Empty):  # another thread was quicker
                return queue.get_nowait()
        if self.closed:
            return queue.get(timeout=timeout)
        raise Empty

    # What tests use

    @property
    def passed(self) -> float:
        """The virtual seconds since the test began."""
        return self.now - self.began

    def set_time(self, seconds: float) -> None:
        """Have the wall clock show so many UTC epoch seconds now, as somebody who sets it does."""
        self._epoch = seconds - self.now

    def later(self, seconds: float, work: Callable[[], Any]) -> None:
        """Do something in another thread when so many seconds have passed."""
        moment = self.now + seconds

        def run() -> None:
            if not self.block(lambda: self.closed, moment):
                work()

        threading.Thread(target=run, daemon=True, name="later").start()

    @contextmanager
    def alarm(self, seconds: float, error: BaseException) -> Iterator[None]:
        """Raise an error in the main thread when so many seconds have passed, as Airflow's alarm does."""
        rung = threading.Event()
        over = threading.Event()

        def ring(number: int, frame: Any) -> None:
            rung.set()
            if not over.is_set():
                raise error

        def run() -> None:
            if self.block(over.is_set, moment):
                return
            signal.pthread_kill(main.ident or 0, signal.SIGALRM)
            while not rung.is_set():  # time stands still until the main thread has heard it
                real.sleep(STEP)

        main, moment = threading.current_thread(), self.now + seconds
        before = signal.signal(signal.SIGALRM, ring)
        ringing = threading.Thread(target=run, daemon=True, name="alarm")
        ringing.start()
        try:
            yield
        finally:
            over.set()
            ringing.join()
            signal.signal(signal.SIGALRM, before)

    # How time passes

    def add(self, thread: threading.Thread) -> None:
        """Have a thread take part. It works until it waits."""
        with _lock:
            self._threads[thread] = None
            self._changes += 1

    def forget(self, thread: threading.Thread) -> None:
        """Have a thread take part no more."""
        with _lock:
            self._threads.pop(thread, None)
            self._changes += 1

    def takes_part(self) -> bool:
        """Tell whether the calling thread takes part."""
        return not self.closed and threading.current_thread() in self._threads

    def block(
        self,
        is_ready: Callable[[], bool],
        deadline: float | None,
        park: Callable[[float], Any] = real.sleep,
        *,
        is_quiet: bool = False,
    ) -> bool:
        """
        Wait until something has come or the clock has reached a moment.

        :param is_ready: tells whether it has come, without taking it.
        :param deadline: the moment on the monotonic clock, None for none.
        :param park: waits for at most so many real seconds, less if it comes.
        :param is_quiet: whether nothing can be on its way to the thread from elsewhere than other threads.
        :return: whether it has come.
        """
        me = threading.current_thread()
        began, changes = real.monotonic(), self._changes
        try:
            while not is_ready():
                if self.closed or (deadline is not None and self.now >= deadline):
                    return False
                with _lock:
                    if me in self._threads and self._threads[me] is None:
                        self._threads[me] = _Wait(deadline, is_ready)
                        self._changes += 1
                pause = self._jump(is_quiet)
                if pause > 0:
                    park(pause)
                if changes != self._changes:
                    began, changes = real.monotonic(), self._changes
                    if me is threading.main_thread() and began - self._real > LONGEST:
                        raise AssertionError(f"{self.passed:.0f} s of virtual time bring no end")
                elif me is threading.main_thread() and real.monotonic() - began > STUCK:
                    faulthandler.dump_traceback(file=sys.__stderr__)
                    raise AssertionError("everybody waits, or works on without end: nothing will ever happen")
            return True
        finally:
            with _lock:
                if me in self._threads:
                    self._threads[me] = None
                    self._changes += 1

    def _jump(self, is_quiet: bool) -> float:
        """Jump to the next deadline if everybody waits; return how long to wait else."""
        with _lock:
            if self.closed:
                return 0.0
            for thread, wait in tuple(self._threads.items()):
                # One that is just starting is not alive yet.
                if wait is None and thread._started.is_set() and not thread.is_alive():  # type: ignore[attr-defined]
                    del self._threads[thread]
                    self._changes += 1
                elif wait is None or (wait.deadline is not None and wait.deadline <= self.now):
                    return STEP
            waits = [wait for wait in self._threads.values() if wait is not None]
            if any(map(_may_go_on, waits)):
                return STEP
            is_quiet = is_quiet and len(self._threads) == 1
            if not is_quiet and self._quiet[0] != self._changes:
                self._quiet = (self._changes, real.monotonic())
                return QUIET
            if not is_quiet and real.monotonic() - self._quiet[1] < QUIET:
                return QUIET
            deadlines = [wait.deadline for wait in waits if wait.deadline is not None]
            if not deadlines:
                return STEP
            self.now = min(deadlines) + TICK
            self._changes += 1
            return 0.0

    def drain(self) -> None:
        """Let the threads end that the test has started."""
        with _lock:
            kept = {threading.current_thread(), *(loop.thread for loop in _loops if loop.is_running())}
            left = [thread for thread in self._threads if thread not in kept]
        self.block(lambda: not any(thread.is_alive() for thread in left), self.now + DRAIN)

    def close(self) -> None:
        """Give back real time to whoever still waits."""
        self.closed = True


class _Selector(selectors.DefaultSelector):
    """Waits for sockets, and for the moment at which the loop has something to do, on the virtual clock."""

    def select(self, timeout: float | None = None) -> Any:
        current = _active
        if current is None or not current.takes_part() or (timeout is not None and timeout <= 0):
            return super().select(timeout)
        found = super().select(0)
        if not found:
            deadline = None if timeout is None else current.now + timeout
            poll: Any = self._selector  # type: ignore[attr-defined]
            has_sockets = len(self.get_map()) > 1  # beside the one by which other threads wake the loop
            current.block(lambda: bool(poll.poll(0)), deadline, poll.poll, is_quiet=not has_sockets)
            found = super().select(0)
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that keeps virtual time while that is in force, and real time otherwise."""

    def __init__(self) -> None:
        super().__init__(_Selector())
        self.thread: threading.Thread | None = None
        with _lock:
            _loops.add(self)

    def time(self) -> float:
        return real.monotonic() + _ahead if _active is None else _active.now

    def run_forever(self) -> None:
        self.thread = threading.current_thread()
        super().run_forever()

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        current = _active
        if current is None or not current.takes_part():
            return super().run_in_executor(executor, func, *args)
        # A thread of its own each time, whatever the pool: one that has nothing to do would count as working.
        answer = self.create_future()

        def settle(method: str, value: Any) -> None:
            if not answer.done():
                getattr(answer, method)(value)

        def run() -> None:
            try:
                result, value = "set_result", func(*args)
            except BaseException as error:
                result, value = "set_exception", error
            if not self.is_closed():
                self.call_soon_threadsafe(settle, result, value)

        threading.Thread(target=run, daemon=True, name="executor").start()
        return answer


class Policy(asyncio.DefaultEventLoopPolicy):
    """Makes every event loop a :class:`VirtualLoop`."""

    _loop_factory = VirtualLoop  # type: ignore[assignment]


# What threads wait in beside the clock: it is told, and keeps the time.

_start, _join, _new_lock = threading.Thread.start, threading.Thread.join, threading.Lock
_wait, _accept_connection = threading.Condition.wait, socket.socket.accept


def _start_thread(thread: threading.Thread) -> None:
    current = _active
    if current is not None and current.takes_part():
        current.add(thread)
        try:
            _start(thread)
        except BaseException:
            current.forget(thread)
            raise
    else:
        _start(thread)


def _join_thread(thread: threading.Thread, timeout: float | None = None) -> None:
    if _active is not None and _active.takes_part() and thread is not threading.current_thread():
        deadline = None if timeout is None else _active.now + timeout
        if not _active.block(lambda: not thread.is_alive(), deadline):
            return
    _join(thread, timeout)


def _wait_for_condition(condition: Any, timeout: float | None = None) -> bool:
    current = _active
    if current is None or not current.takes_part() or not isinstance(condition, threading.Condition):
        return _wait(condition, timeout)
    waiter = _new_lock()
    waiter.acquire()
    condition._waiters.append(waiter)  # type: ignore[attr-defined]
    saved = condition._release_save()  # type: ignore[attr-defined]
    notified = False
    try:
        notified = current.block(
            lambda: not waiter.locked(), None if timeout is None else current.now + timeout
        )
        return notified
    finally:
        condition._acquire_restore(saved)  # type: ignore[attr-defined]
        if not notified and waiter in condition._waiters:  # type: ignore[attr-defined]
            condition._waiters.remove(waiter)  # type: ignore[attr-defined]


def _wait_to_read(connection: socket.socket) -> None:
    """Wait until a socket that blocks can be read from, for as long as its timeout allows."""
    current = _active
    timeout = connection.gettimeout()
    if current is None or timeout == 0 or not current.takes_part():
        return

    def comes_within(seconds: float) -> bool:
        poll = select.poll()
        try:
            poll.register(connection, select.POLLIN)
        except ValueError:
            return True  # it was closed
        return bool(poll.poll(seconds * 1000))

    def is_ready() -> bool:
        # What TLS has read already does not show below.
        return (isinstance(connection, ssl.SSLSocket) and connection.pending() > 0) or comes_within(0)

    deadline = None if timeout is None else current.now + timeout
    if not current.block(is_ready, deadline, comes_within):
        raise TimeoutError("timed out")


def _waiting(read: Callable[..., Any]) -> Callable[..., Any]:
    def read_when_ready(connection: Any, *arguments: Any, **keywords: Any) -> Any:
        try:
            _wait_to_read(connection)
            return read(connection, *arguments, **keywords)
        except ValueError:
            if connection.fileno() >= 0:
                raise
            raise OSError(errno.EBADF, "the socket was closed while something was waited for") from None

    return read_when_ready


def _accept(listener: socket.socket) -> tuple[socket.socket, Any]:
    _wait_to_read(listener)
    connection, address = _accept_connection(listener)
    # Else a small piece waits in the kernel, in real time, for word that the one before has come.
    if connection.family == socket.AF_INET:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection, address


class _Lock:
    """A lock of the package's own, which may be held while time passes."""

    def __init__(self) -> None:
        self._lock = _new_lock()

    def __enter__(self) -> None:
        while not self._lock.acquire(blocking=False):
            if _active is None or not _active.takes_part():
                self._lock.acquire()
                return
            _active.block(lambda: not self._lock.locked(), None)

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def _make_lock() -> Any:
    package = clock.__name__.partition(".")[0]
    is_own = sys._getframe(1).f_globals.get("__name__", "").startswith(package)
    return _Lock() if is_own else _new_lock()


def _now() -> float:
    """Return what the waits of the standard library that ask for the time count by."""
    return _active.now if _active is not None and _active.takes_part() else real.monotonic()


def install() -> None:
    """Have every event loop and thread be able to keep virtual time. Real time goes on until it is begun."""
    threading._time = queue.time = _now  # type: ignore[attr-defined]
    asyncio.set_event_loop_policy(Policy())
    threading.Thread.start = _start_thread  # type: ignore[method-assign]
    threading.Thread.join = _join_thread  # type: ignore[method-assign]
    threading.Condition.wait = _wait_for_condition  # type: ignore[method-assign]
    socket.socket.accept = _accept  # type: ignore[method-assign]
    threading.Lock = _make_lock  # type: ignore[assignment]
    for kind, names in ((socket.socket, ("recv", "recv_into")), (ssl.SSLSocket, ("read",))):
        for name in names:
            setattr(kind, name, _waiting(getattr(kind, name)))


@contextmanager
def virtual_time() -> Iterator[VirtualClock]:
    """Keep virtual time while the context is open."""
    global _active, _ahead
    made = VirtualClock()
    made.add(threading.current_thread())
    before = clock.current
    with _lock:
        shared = [loop for loop in _loops if loop.is_running() and loop.thread is not None]
    for loop in shared:
        made.add(loop.thread)  # type: ignore[arg-type]
    _active = clock.current = made
    for loop in shared:
        loop.call_soon_threadsafe(lambda: None)  # it may be waiting in real time
    try:
        yield made
        made.drain()
    finally:
        made.close()
        _ahead = made.now - real.monotonic()
        _active, clock.current = None, before


__all__ = ["Empty", "Policy", "VirtualClock", "VirtualLoop", "install", "virtual_time"]
