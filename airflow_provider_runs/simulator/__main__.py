"""The simulator as a process: ``python -m airflow_provider_runs.simulator``."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from airflow_provider_runs.provider_info import SYSTEMS
from airflow_provider_runs.simulator.server import Server, system_class
from airflow_provider_runs.simulator.world import ControlError


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    lines = ["options of the systems, with their defaults (credentials included):"]
    for name in SYSTEMS:
        kind = system_class(name).options_type
        lines += [
            f"  {name}.{field.name}={json.dumps(field.default)}"
            for field in fields(kind)
            if field.metadata.get("cli", True)
        ]
    lines.append("The controls (plans, faults, ...) are described in the module's docstring.")
    found = argparse.ArgumentParser(
        prog="python -m airflow_provider_runs.simulator",
        description="Serve the simulated services on 127.0.0.1.",
        epilog="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--port", type=int, default=0, help="port to listen on (default: a free one)")
    found.add_argument("--system", choices=SYSTEMS, help="serve this one only, at the root")
    found.add_argument("--speed", type=float, default=1.0, help="shorten run times by this factor")
    found.add_argument("--duration", type=float, default=5.0, help="seconds that a run takes (default 5)")
    found.add_argument(
        "--set",
        dest="options",
        action="append",
        default=[],
        metavar="SYSTEM.OPTION=VALUE",
        help="set an option of a system; the value is JSON or a plain word; may be repeated",
    )
    return found


def read_settings(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Turn ``SYSTEM.OPTION=VALUE`` words into options per system."""
    options: dict[str, dict[str, Any]] = {}
    for word in given:
        place, equals, text = word.partition("=")
        system, dot, name = place.partition(".")
        if not (equals and dot):
            raise ControlError(f"--set takes SYSTEM.OPTION=VALUE, not {word!r}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        options.setdefault(system, {})[name] = value
    return options


async def serve(server: Server) -> None:
    """Serve until a SIGTERM or SIGINT."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await server.start()
    try:
        print(f"simulator: {server.url}", flush=True)
        await ended.wait()
    finally:
        await server.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    try:
        given = parser().parse_args(arguments)
        server = Server(
            system=given.system,
            port=given.port,
            speed=given.speed,
            duration=given.duration,
            options=read_settings(given.options),
        )
    except ControlError as error:
        print(f"simulator: {error}", file=sys.stderr)
        return 2
    try:
        asyncio.run(serve(server))
    except OSError as error:
        print(f"simulator: cannot listen: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
