"""
Measure this package and other providers in one go and print tables: ``make bench``.

Each measurement is a process of its own, and so is the service that it waits on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

from benchmarks import imports
from benchmarks.kinds import KINDS
from benchmarks.waits import GRACE, Measurement

ROOT = Path(__file__).parents[1]
OURS = ("chalk", "paradime", "mage", "strait")
RIVALS = ("databricks", "dbt_cloud", "http")
PACKAGES = (
    "apache-airflow",
    "apache-airflow-providers-databricks",
    "apache-airflow-providers-dbt-cloud",
    "apache-airflow-providers-http",
)
IMPORTS = "imports"
STARTING = 300.0
"""Seconds that a process may take beside its waits."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """
    What is measured for each provider.

    :param title: what it is called.
    :param measurement: for all, but for the provider and the number of runs.
    :param intervals: the intervals of those that have another one.
    :param counts: numbers of runs.
    """

    title: str
    measurement: Measurement
    intervals: Mapping[str, float] = field(default_factory=dict)
    counts: Sequence[int] = (100, 1000, 5000, 10_000)


EQUAL = Measurement("idle", 0, 8, 24, interval=5)
SCENARIOS = {
    "equal": Scenario("runs of 8 to 24 s, all looked at every 5 s", EQUAL),
    "defaults": Scenario(
        "runs of 20 to 60 s, each provider's own intervals",
        replace(EQUAL, shortest=20, longest=60, interval=None),
    ),
    "faults": Scenario("runs of 8 to 24 s, 2 % of the requests go wrong", replace(EQUAL, faults=0.02)),
    "outage": Scenario(
        "runs of 8 to 24 s, 2 % of the requests go wrong, and from second 8 on an outage of 15 s",
        replace(EQUAL, faults=0.02, outage=(8, 15)),
    ),
    "spread": Scenario(
        "waits that begin over 5 s, on runs of 8 to 24 s that are all polled every 5 s",
        replace(EQUAL, begin_over=5),
    ),
    "held": Scenario(
        "the same, with the callbacks of this package timed",
        replace(EQUAL, begin_over=5, times_callbacks=True),
        counts=(1000,),
    ),
    "long": Scenario(
        "runs of 40 to 120 s, looked at every 5 s, those of Chalk every 30 s",
        replace(EQUAL, shortest=40, longest=120),
        {"chalk": 30},
        (1000, 10_000),
    ),
}
COLUMNS: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "requests / run": lambda found: found.get("request", 0) / found["count"],
    "TCP connections / run": lambda found: found["connections"] / found["count"],
    "net CPU ms / run": lambda found: 1000 * found["net_cpu"] / found["count"],
    "net memory KiB / run": lambda found: found["net_rss"] / found["count"],
    "seen after, p50 s": lambda found: found["seen"]["p50"],
    "seen after, p95 s": lambda found: found["seen"]["p95"],
}


def measured(measurement: Measurement) -> dict[str, Any]:
    """
    Measure in a process of its own.

    :param measurement: what.
    """
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.waits", json.dumps(asdict(measurement))],
            cwd=ROOT,
            env={**os.environ, "AIRFLOW_HOME": home, "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=measurement.longest + GRACE + STARTING,
        )
    if done.returncode:
        raise RuntimeError(f"{measurement}:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(scenario: Scenario, count: int, kinds: Sequence[str]) -> str:
    """
    Measure a scenario and return its table in Markdown, with ratios. A rival that breaks has no row.

    :param scenario: what is measured.
    :param count: how many runs are waited for.
    :param kinds: the providers.
    """
    idle = measured(replace(scenario.measurement, kind="idle", count=count))
    rows: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        interval = scenario.intervals.get(kind, scenario.measurement.interval)
        try:
            found = measured(replace(scenario.measurement, kind=kind, count=count, interval=interval))
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            if kind in OURS:
                raise
            print(f"{kind} does not survive this: {error}", file=sys.stderr, flush=True)
            continue
        rows[kind] = {**found, "net_cpu": found["cpu"] - idle["cpu"], "net_rss": found["rss"] - idle["rss"]}
        print(f"{kind}: {json.dumps(rows[kind])}", file=sys.stderr, flush=True)
    lags = {kind: found["lag"] for kind, found in {"idle": idle, **rows}.items() if found["lag"]}
    return table(scenario.title, count, rows, lags)


def table(title: str, count: int, rows: dict[str, dict[str, Any]], lags: dict[str, dict[str, Any]]) -> str:
    """
    Return what was measured as a table in Markdown; each of ours also as a ratio to the best rival.

    :param title: what was measured.
    :param count: how many runs were waited for.
    :param rows: for each provider what was measured.
    :param lags: for each provider, and without any, how late the event loop was, in seconds.
    """
    head = ["", *COLUMNS, "wrong", "loop lag p99 ms"]
    lines = [f"### {count} waits: {title}", "", _line(head), _line(["---"] * len(head))]
    rivals = [found for kind, found in rows.items() if kind in RIVALS]
    best = {
        name: min((number for found in rivals if (number := value(found)) is not None), default=None)
        for name, value in COLUMNS.items()
    }
    for kind, found in rows.items():
        cells = []
        for name, value in COLUMNS.items():
            number, least = value(found), best[name]
            ratio = f" ({number / least:.2f} x)" if number and least and kind not in RIVALS else ""
            cells.append("never" if number is None else f"{number:.2f}{ratio}")
        wrong = ", ".join(f"{number} {name}" for name, number in found["wrong"].items() if number) or "0"
        lag = _lag(lags[kind]) if kind in lags else "?"
        lines.append(_line([kind, *cells, wrong, lag]))
    if "idle" in lags:
        lines.append(_line(["idle", *[""] * len(COLUMNS), "", _lag(lags["idle"])]))
    return "\n".join(lines)


def _lag(found: dict[str, Any]) -> str:
    """Say in milliseconds how late the loop was, and how long callbacks of this package held it."""
    held = {name: f"{1000 * seconds:.1f}" for name, seconds in found.get("held", {}).items()}
    callbacks = f" (callbacks: {held['p99']}, max {held['max']})" if held else ""
    return f"{1000 * found['p99']:.1f}{callbacks}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--runs", type=int, nargs="+", help="how many runs are waited for")
    parser.add_argument("--scenario", nargs="+", choices=(*SCENARIOS, IMPORTS), default=[*SCENARIOS, IMPORTS])
    parser.add_argument("--kind", nargs="+", default=[*OURS, *RIVALS], choices=KINDS, help="which providers")
    chosen = parser.parse_args()
    print(f"{date.today()}, Python {python_version()}, {os.cpu_count()} cores;", end=" ")
    print(", ".join(f"{name} {version(name)}" for name in PACKAGES))
    for name in chosen.scenario:
        if name == IMPORTS:
            print(f"\n{imports.table()}", flush=True)
            continue
        for count in chosen.runs or SCENARIOS[name].counts:
            print(f"\n{run(SCENARIOS[name], count, chosen.kind)}", flush=True)


if __name__ == "__main__":
    main()
