"""
Measure the waits on many runs in one process that is driven by Airflow's own trigger runner.

``python -m benchmarks.waits '<measurement as JSON>'`` prints what it has measured as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from benchmarks.plan import PlannedRun, planned_runs

GRACE = 60.0
"""Seconds after the last run's end in which its end must be seen."""
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Measurement:
    """
    What is measured.

    :param kind: the provider, see :data:`benchmarks.kinds.KINDS`, or ``idle``.
    :param count: how many runs are waited for.
    :param shortest: seconds of the shortest run.
    :param longest: seconds of the longest.
    :param interval: seconds between two looks; None: the provider's own.
    :param faults: share of the requests that go wrong.
    :param outage: when an outage begins, and how many seconds it lasts.
    :param begin_over: seconds over which the waits begin, one after the other.
    :param times_callbacks: whether the callbacks of this package are timed, which costs time itself.
    """

    kind: str
    count: int
    shortest: float
    longest: float
    interval: float | None = None
    faults: float = 0.0
    outage: tuple[float, float] | None = None
    begin_over: float = 0.0
    times_callbacks: bool = False


class ServiceProcess:
    """
    A fake service in a process of its own.

    :param settings: of :class:`benchmarks.services.Settings`.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.services", json.dumps(settings)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self._heard())

    def ask(self, word: str) -> dict[str, Any]:
        """
        Say a word and return the answer.

        :param word: ``begin`` or ``tell``.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._heard())
        return answer

    def _heard(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the service has ended")
        return line

    def end(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def trusted_certificate() -> Iterator[str]:
    """Make a certificate that this process and its children trust, and give its file."""
    with tempfile.TemporaryDirectory() as folder:
        key, made = f"{folder}/key.pem", f"{folder}/certificate.pem"
        command = [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=bench"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", made),
        ]
        subprocess.run(command, check=True, capture_output=True)
        Path(made).write_text(Path(made).read_text() + Path(key).read_text())
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
            os.environ[name] = made
        os.environ["NO_PROXY"] = "127.0.0.1"
        os.environ["PYTHONPATH"] = str(ROOT)
        yield made


def measure(measurement: Measurement) -> dict[str, Any]:
    """
    Measure and return the numbers.

    :param measurement: what.
    """
    with trusted_certificate() as certificate:
        from benchmarks.kinds import KINDS

        kind = KINDS.get(measurement.kind)
        service = None
        if kind is not None:
            given = asdict(measurement)
            settings = {name: given[name] for name in ("count", "shortest", "longest", "faults", "outage")}
            service = ServiceProcess({"kind": kind.service, "certificate": certificate, **settings})
            name, fields = kind.connection(service.port)
            os.environ[f"AIRFLOW_CONN_{name.upper()}"] = json.dumps(fields)
        try:
            return _measure(measurement, service)
        finally:
            if service is not None:
                service.end()


def _measure(measurement: Measurement, service: ServiceProcess | None) -> dict[str, Any]:
    from benchmarks.kinds import KINDS
    from benchmarks.meters import Idle, LoopLag, stamp_events, time_callbacks
    from tools.trigger_runner import Triggerer

    runs = planned_runs(measurement.count, measurement.shortest, measurement.longest)
    last = max(run.seconds for run in runs)
    kind = KINDS.get(measurement.kind)
    stamp_events()
    if measurement.times_callbacks:
        time_callbacks()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        triggerer = Triggerer.start(capacity=2 * measurement.count + 10)
    try:
        warm = triggerer.add(Idle(0, 0.0))
        triggerer.work_until(lambda: warm in triggerer.fired, 60)
        process = psutil.Process(triggerer._process.pid)
        rss = most = process.memory_info().rss
        began_cpu = process.cpu_times()
        began = time.time()
        if service is not None:
            began = service.ask("begin")["began"]
        lag = triggerer.add(LoopLag(last + 5))
        waits: dict[int, PlannedRun] = {}
        started = time.monotonic()

        def done() -> bool:
            nonlocal most
            most = max(most, process.memory_info().rss)
            elapsed = time.monotonic() - started
            while len(waits) < len(runs) and len(waits) * measurement.begin_over <= elapsed * len(runs):
                run = runs[len(waits)]
                left = max(0.0, run.seconds - elapsed)
                wait = Idle(run.number, left) if kind is None else kind.trigger(run, measurement.interval)
                waits[triggerer.add(wait)] = run
            return len(triggerer.fired) >= len(runs) + 2

        triggerer.work_until(done, last + GRACE)
        cpu = process.cpu_times()
    finally:
        triggerer.end()
    fired = {number: events[0] for number, events in triggerer.fired.items()}
    late = sorted(
        fired[number]["fired_at"] - began - run.seconds for number, run in waits.items() if number in fired
    )
    wrong = dict.fromkeys(("broken", "missing", "false failure", "false success"), 0)
    for number, run in waits.items():
        if number in triggerer.broken:
            wrong["broken"] += 1
        elif number not in fired:
            wrong["missing"] += 1
        elif kind is not None:
            said = kind.succeeded(fired[number]["payload"])
            wrong["false failure"] += said is False and not run.fails
            wrong["false success"] += said is True and run.fails
    return {
        **asdict(measurement),
        **(service.ask("tell") if service is not None else {}),
        "cpu": cpu.user + cpu.system - began_cpu.user - began_cpu.system,
        "rss": (most - rss) / 1024,
        "seen": {name: _share(late, share) for name, share in (("p50", 0.5), ("p95", 0.95), ("max", 1.0))},
        "wrong": wrong,
        "lag": fired[lag]["payload"] if lag in fired else None,
    }


def _share(ordered: list[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


if __name__ == "__main__":
    print(json.dumps(measure(Measurement(**json.loads(sys.argv[1])))))
