"""
Let a task process die, stop or wait at a named point of its work.

The DAG file of the crash bench imports this, so it acts in task processes of the bench's Airflow only. It
wraps functions of the package and of ``http.client``. Every point that a task passes is noted in a file,
which tells the bench where the task stands. In a task's first try the point that the DAG run's ``conf`` names
is the one at which something happens.

=================== ================================================================================
point               where the task process stands
=================== ================================================================================
``before_record``   nothing is written and nothing is sent
``before_request``  the record is written, no byte of the start request has left
``sent``            the service has the start request, the answer is not there
``answered``        the answer's head has been read
``unrecorded``      the answer is understood, the record is about to be completed
``recorded``        the record is complete
``waiting``         waits for the run on the worker, for a second already
``before_defer``    is about to defer
``resumed``         in ``execute_complete``
=================== ================================================================================
"""

from __future__ import annotations

import functools
import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from airflow_provider_runs.base.hook import RunHook
from airflow_provider_runs.base.operator import TriggerRunOperator
from airflow_provider_runs.base.record import RecordKeeper, StartRecord
from airflow_provider_runs.base.task import RunTask

FOLDER = "CRASH_FOLDER"
"""Name of the environment variable with the folder that the processes and the bench share."""
HOLD_SECONDS = 240.0
DELIVERY_SECONDS = 0.5
"""Until the service has surely got what was sent over the loopback address."""


class Armed:
    """What the DAG run of this process is to suffer."""

    conf: dict[str, Any] | None = None
    try_number = 0


_thread = threading.local()


def mark_path(folder: Path, case: str, try_number: int, point: str) -> Path:
    """Return the file that tells that a try of a case has reached a point."""
    return folder / f"{case}.{try_number}.{point}"


def go_path(folder: Path, case: str) -> Path:
    """Return the file that lets a held process go on."""
    return folder / f"{case}.go"


def reach(point: str) -> None:
    """Note that the point is reached and, where the case says so, suffer what it says."""
    conf = Armed.conf
    if conf is None:
        return
    folder = Path(os.environ[FOLDER])
    mark = mark_path(folder, conf["case"], Armed.try_number, point)
    whole = mark.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
    whole.write_text(json.dumps({"pid": os.getpid(), "worker": os.getppid()}))
    try:
        os.link(whole, mark)
    except FileExistsError:
        return
    finally:
        whole.unlink()
    if point == conf["point"] and Armed.try_number == 1:
        SUFFER[conf["kind"]](folder, conf["case"])


def die(folder: Path, case: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def be_evicted(folder: Path, case: str) -> None:
    # A pod's eviction signals its first process, the supervisor, which passes the signal on.
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(0.2)


def lose_worker(folder: Path, case: str) -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(0.2)


def freeze(folder: Path, case: str) -> None:
    os.kill(os.getppid(), signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)


def hold(folder: Path, case: str) -> None:
    until = time.monotonic() + HOLD_SECONDS
    while not go_path(folder, case).exists():
        if time.monotonic() > until:
            raise TimeoutError("the bench did not let this task go on")
        time.sleep(0.1)


def suffer_nothing(folder: Path, case: str) -> None:
    """The bench acts from outside."""


SUFFER: dict[str, Callable[[Path, str], None]] = {
    "SIGKILL": die,
    "eviction": be_evicted,
    "worker SIGKILL": lose_worker,
    "zombie": freeze,
    "hold": hold,
    "none": suffer_nothing,
}


def wrapped(owner: type, name: str) -> Callable[[Any], None]:
    """Replace a method by a function that gets the original as its first argument."""
    original = getattr(owner, name)

    def replace(function: Any) -> None:
        @functools.wraps(original)
        def method(*args: Any, **kwargs: Any) -> Any:
            return function(original, *args, **kwargs)

        setattr(owner, name, method)

    return replace


@contextmanager
def starting() -> Iterator[None]:
    _thread.starting = True
    try:
        yield
    finally:
        _thread.starting = False


def arm(context: Any) -> None:
    ti = context["ti"]
    Armed.conf, Armed.try_number = dict(context["dag_run"].conf or {}), ti.try_number
    if "case" not in Armed.conf:
        Armed.conf = None


def install(start_paths: tuple[str, ...]) -> None:
    """
    Wrap what the points stand in.

    :param start_paths: parts of paths by which the requests that start runs are known.
    """

    @wrapped(TriggerRunOperator, "execute")
    def execute(original: Any, self: Any, context: Any, **kwargs: Any) -> Any:
        arm(context)
        return original(self, context, **kwargs)

    @wrapped(TriggerRunOperator, "execute_complete")
    def execute_complete(original: Any, self: Any, context: Any, **kwargs: Any) -> Any:
        arm(context)
        reach("resumed")
        return original(self, context, **kwargs)

    @wrapped(TriggerRunOperator, "defer")
    def defer(original: Any, self: Any, **kwargs: Any) -> Any:
        reach("before_defer")
        return original(self, **kwargs)

    @wrapped(RunTask, "_wait_here")
    def wait_here(original: Any, self: Any, *args: Any) -> Any:
        timer = threading.Timer(1.0, reach, ("waiting",))
        timer.daemon = True
        timer.start()
        return original(self, *args)

    @wrapped(RecordKeeper, "keep")
    def keep(original: Any, self: Any, record: StartRecord) -> None:
        reach("before_record" if record.run_id is None else "unrecorded")
        original(self, record)
        if record.run_id is not None:
            reach("recorded")

    @wrapped(RunHook, "start")
    def start(original: Any, *args: Any, **kwargs: Any) -> Any:
        with starting():
            return original(*args, **kwargs)

    def is_start(method: str, url: str) -> bool:
        is_inside = getattr(_thread, "starting", False)
        return is_inside and method == "POST" and any(part in url for part in start_paths)

    @wrapped(http.client.HTTPConnection, "putrequest")
    def putrequest(original: Any, self: Any, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        _thread.awaited = is_start(method, url)
        if _thread.awaited:
            reach("before_request")
        return original(self, method, url, *args, **kwargs)

    @wrapped(http.client.HTTPConnection, "getresponse")
    def getresponse(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        awaited, _thread.awaited = getattr(_thread, "awaited", False), False
        if not awaited:
            return original(self, *args, **kwargs)
        time.sleep(DELIVERY_SECONDS)
        reach("sent")
        response = original(self, *args, **kwargs)
        reach("answered")
        return response


def thaw(mark: Path) -> None:
    """Wake the processes that stopped at a point."""
    told = json.loads(mark.read_text())
    for name in ("worker", "pid"):
        with suppress(ProcessLookupError):
            os.kill(told[name], signal.SIGCONT)
