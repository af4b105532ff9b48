"""A simulator in a process of its own, which can refuse connections, or stand still.

``python -m tests.crash.simulated '<settings as JSON>'`` serves it and obeys ``close``, ``open`` and ``limit``
on its standard input: while the port is closed, runs and faults are kept.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests

from airflow_provider_runs.mage.simulator import Schedule
from airflow_provider_runs.paradime.simulator import Schedule as BoltSchedule
from airflow_provider_runs.simulator import Server
from airflow_provider_runs.strait.simulator import Window

ROOT = Path(__file__).parents[2]
MINUTE = 60.0


class SimulatorProcess:
    """
    Start the simulated services in another process.

    :param schedules: names of Mage's triggers, which get the ids 1, 2, ... and are all of one pipeline, and
        slugs of Paradime's schedules.
    :param token: the token of each trigger.
    :param settings: ``speed``, ``duration`` and ``options`` of the simulator.
    """

    def __init__(self, schedules: list[str], token: str, **settings: Any) -> None:
        given = json.dumps({"schedules": schedules, "token": token, **settings})
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, given],
            cwd=ROOT,
            env={**environment, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.url = self._heard()
        self.faults: Counter[str] = Counter()
        self.asked: Counter[tuple[str, str, int | None]] = Counter()
        self._session = requests.Session()
        self._session.trust_env = False  # never through a proxy

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()
        self.thaw()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def freeze(self) -> None:
        """Let connections be accepted, by the system, and nothing answered."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after a freeze."""
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Cut every connection and refuse new ones."""
        self._tell("close")

    def open(self) -> None:
        """Listen again, at the same port."""
        self._tell("open")

    def limit_strait(self, requests: int) -> None:
        """Have Strait refuse more requests than these a minute from now on."""
        self._tell(f"limit {requests}")

    def plan(self, **plan: Any) -> None:
        """Add a plan, see ``POST /_plans``."""
        self._call("POST", "_plans", plan)

    def fault(self, fault: str, **rest: Any) -> None:
        """Add a fault, see ``POST /_faults``."""
        self._call("POST", "_faults", {"fault": fault, **rest})

    def clear_faults(self) -> None:
        """Forget all faults."""
        self._call("DELETE", "_faults")

    def expire_tokens(self) -> None:
        """Make all issued tokens invalid."""
        self._call("POST", "_expire_tokens", {})

    def runs(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return all runs by system and id."""
        return {(run["system"], str(run["id"])): run for run in self._call("GET", "_runs")}

    def tally(self) -> None:
        """Add up what was asked since the last time; of the faults, those of the last 1000 requests."""
        seen = self._call("GET", "_requests")
        self._call("DELETE", "_requests")
        for each in seen["counts"]:
            self.asked[each["system"], each["operation"], each["status"]] += each["count"]
        self.faults.update(each["fault"] for each in seen["last"] if each["fault"])

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._session.request(method, f"{self.url}/{path}", json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def _tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        assert self._heard() == word

    def _heard(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


async def serve(settings: dict[str, Any]) -> None:
    names, token = settings.pop("schedules"), settings.pop("token")
    schedules = tuple(Schedule(number, "example", name, token) for number, name in enumerate(names, start=1))
    options = settings.pop("options", {})
    options["mage"] = {**options.get("mage", {}), "schedules": schedules}
    bolt = tuple(BoltSchedule(name) for name in names)
    options["paradime"] = {**options.get("paradime", {}), "schedules": bolt}
    server = Server(options=options, **settings)
    await server.start()
    try:
        print(server.url, flush=True)
        while word := (await asyncio.to_thread(sys.stdin.readline)).strip():
            match word.split():
                case ["limit", number]:
                    strait: Any = server.systems["strait"]
                    strait._gate.requests = Window(int(number), MINUTE)
                case ["close"]:
                    await server.stop()
                case _:
                    await server.start()
            print(word, flush=True)
    finally:
        await server.stop()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
