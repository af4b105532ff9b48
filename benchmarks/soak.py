"""
Show that the memory of many waits does not grow: ``make soak``.

Waits on Chalk, the one service that is polled run by run, in Airflow's own trigger runner: 3,000 on 50
connections, and 1,000 on one. The process is allowed 3 % and 5 MB more at the fifth minute than at the first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from benchmarks.plan import planned_runs
from benchmarks.waits import ServiceProcess, trusted_certificate

ROOT = Path(__file__).parents[1]
CASES = ((3000, 50), (1000, 1))
"""How many waits on how many connections."""
MINUTES = 5
INTERVAL = 5.0
NEVER = 3600.0
SHARE, MIB = 1.03, 1024 * 1024
ALLOWANCE = 5 * MIB


def soak(count: int, connections: int, minutes: int = MINUTES) -> list[float]:
    """
    Return the resident memory of the triggers' process at the end of each minute, in MiB.

    :param count: how many waits.
    :param connections: on how many connections.
    :param minutes: for how long.
    """
    runs = planned_runs(count, NEVER, 2 * NEVER)
    with trusted_certificate() as certificate:
        from benchmarks.kinds import KINDS

        given = {"kind": "chalk", "count": count, "shortest": NEVER, "longest": 2 * NEVER}
        service = ServiceProcess({**given, "certificate": certificate})
        _, fields = KINDS["chalk"].connection(service.port)
        for number in range(connections):
            os.environ[f"AIRFLOW_CONN_CHALK_{number}"] = json.dumps(fields)
        try:
            return _measure(
                [(f"chalk_{run.number % connections}", str(run.number)) for run in runs], service, minutes
            )
        finally:
            service.end()


def _measure(waits: list[tuple[str, str]], service: ServiceProcess, minutes: int) -> list[float]:
    from airflow_provider_runs.chalk.triggers import ChalkRunTrigger
    from tools.trigger_runner import Triggerer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        triggerer = Triggerer.start(capacity=2 * len(waits) + 10)
    try:
        process = psutil.Process(triggerer._process.pid)
        service.ask("begin")
        for conn_id, run_id in waits:
            triggerer.add(
                ChalkRunTrigger(
                    conn_id,
                    run_id,
                    poll_interval=INTERVAL,
                    min_poll_interval=INTERVAL,
                    started_at=time.time(),
                )
            )
        resident = []
        for _ in range(minutes):
            triggerer.work_until(lambda: False, 60)
            resident.append(process.memory_info().rss / MIB)
        if triggerer.fired or triggerer.broken:
            raise RuntimeError(f"{len(triggerer.fired)} waits ended and {len(triggerer.broken)} broke")
        return resident
    finally:
        triggerer.end()


def main() -> int:
    """Measure each case in a process of its own; the exit code is 0 only if no case grows too much."""
    if len(sys.argv) > 1:
        print(json.dumps(soak(*map(int, sys.argv[1:]))))
        return 0
    code = 0
    for count, connections in CASES:
        with tempfile.TemporaryDirectory() as home:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.soak", str(count), str(connections)],
                cwd=ROOT,
                env={**os.environ, "AIRFLOW_HOME": home, "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
        resident: list[float] = json.loads(done.stdout.splitlines()[-1])
        fits = resident[-1] <= SHARE * resident[0] + ALLOWANCE / MIB
        code |= not fits
        shown = ", ".join(f"{each:.1f}" for each in resident)
        print(
            f"{count} waits on {connections} connections: {shown} MiB: {'fits' if fits else 'GROWS'}",
            flush=True,
        )
    return code


if __name__ == "__main__":
    sys.exit(main())
