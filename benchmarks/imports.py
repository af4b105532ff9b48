"""
Measure what a DAG file pays for importing a provider's operators, beside what every DAG file imports anyway.

``python -m benchmarks.imports <module>`` prints the cost of one module as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OURS = tuple(f"airflow_provider_runs.{name}.operators" for name in ("chalk", "paradime", "mage", "strait"))
RIVALS = (
    "airflow.providers.databricks.operators.databricks",
    "airflow.providers.dbt.cloud.operators.dbt",
    "airflow.providers.http.operators.http",
)
REPEATS = 5
CLIENTS = ("requests", "aiohttp", "httpx", "databricks")
"""Libraries that talk to services, which parsing a DAG needs none of."""


def cost(module: str) -> dict[str, Any]:
    """
    Import a module and return the CPU milliseconds, the modules and the KiB that it took.

    :param module: its name.
    """
    import psutil  # type: ignore[import-untyped]
    from airflow.sdk import DAG, BaseOperator, BaseSensorOperator

    del DAG, BaseOperator, BaseSensorOperator
    process = psutil.Process()
    known, memory, began = set(sys.modules), process.memory_info().rss, time.process_time()
    importlib.import_module(module)
    return {
        "ms": 1000 * (time.process_time() - began),
        "modules": len(set(sys.modules) - known),
        "KiB": (process.memory_info().rss - memory) / 1024,
        "clients": [name for name in CLIENTS if name in sys.modules and name not in known],
    }


def measured(module: str) -> dict[str, Any]:
    """
    Return the smallest cost of some processes.

    :param module: what each imports.
    """
    found = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as home:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.imports", module],
                cwd=ROOT,
                env={**os.environ, "AIRFLOW_HOME": home, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=True,
            )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    least: dict[str, Any] = min(found, key=lambda each: each["ms"])
    return least


def table() -> str:
    """Measure all modules and return the table in Markdown; ours also as ratios to the best rival."""
    costs = {module: measured(module) for module in (*OURS, *RIVALS)}
    numbers = ("ms", "modules", "KiB")
    best = {name: min(costs[module][name] for module in RIVALS) for name in numbers}
    lines = [
        "### Importing operators, beside what every DAG file imports",
        "",
        f"| | {' | '.join(numbers)} | libraries that talk to services |",
        "| --- | --- | --- | --- | --- |",
    ]
    for module, found in costs.items():
        cells = [
            f"{found[name]:.0f}" + (f" ({found[name] / best[name]:.2f} x)" if module in OURS else "")
            for name in numbers
        ]
        lines.append(f"| {module} | {' | '.join(cells)} | {', '.join(found['clients']) or 'none'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(json.dumps(cost(sys.argv[1])))
