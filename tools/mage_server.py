"""Run a real Mage server on loopback, for tests and the demo.

The project it serves is `mage_project/`, files only. Mage lives in an environment of its own
(`constraints/mage.txt`); this module needs the standard library and requests.
By hand: `python tools/mage_server.py --python .env/mage/bin/python`.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit

import requests

PROJECT = Path(__file__).parent / "mage_project"
LAUNCHER = Path(__file__).with_name("mage_start.py")
TRIGGERS = {
    name
    for file in PROJECT.glob("pipelines/*/triggers.yaml")
    for name in re.findall(r"^ +- name: (\w+)$", file.read_text(), re.MULTILINE)
}
API_KEY = (
    "zkWlN0PkIKSN0C11CfUHUj84OT5XOJ6tDZ6bDRO2"  # Mage's client id, public and the same in every installation
)
START_TIMEOUT = 240.0  # seconds; the first start of an installation also compiles its bytecode
STOP_TIMEOUT = 10.0  # seconds until the processes that TERM did not end are killed


class Schedule(NamedTuple):
    """Describe a trigger of the project as the server knows it."""

    id: int
    pipeline_uuid: str
    token: str


class MageServer:
    """Serve a scratch copy of the project with Mage; a context manager.

    Once started it has `url`, `schedules` (by name of the trigger) and, for reading with `auth`, `headers`.
    Later starts keep the address and the data.

    :param python: the interpreter of the environment that has mage-ai.
    :param auth: require users to log in, as `email` with `password`.
    :param scheduler_interval: seconds between two loops of Mage's scheduler; Mage's own default is 10.
    :param base_path: a path prefix for all addresses of the server.
    :param workdir: a folder for project, data and log, left in place; unless given, a temporary one.
    :param timezone: the server's time zone, e.g. `Asia/Tokyo`; UTC unless given.
    """

    email = "admin@admin.com"
    password = "admin"

    def __init__(
        self,
        python: Path,
        *,
        auth: bool = False,
        scheduler_interval: float = 1,
        base_path: str | None = None,
        workdir: Path | None = None,
        timezone: str | None = None,
    ) -> None:
        self.url = ""
        self.schedules: dict[str, Schedule] = {}
        self.headers: dict[str, str] = {}
        self._python = Path(python).absolute()
        self._auth = auth
        self._scratch = (
            None if workdir else tempfile.TemporaryDirectory(prefix="mage-", ignore_cleanup_errors=True)
        )
        self._workdir = Path(workdir or self._scratch.name).absolute()  # type: ignore[union-attr]
        self._environment = {
            "PATH": f"{self._python.parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self._workdir / "home"),
            "MAGE_DATA_DIR": str(self._workdir / "data"),
            "TMPDIR": str(self._workdir / "tmp"),
            "TZ": timezone or "UTC",
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "DISABLE_AUTO_BROWSER_OPEN": "1",
            "REQUIRE_USER_AUTHENTICATION": "1" if auth else "0",
            "DEFAULT_OWNER_EMAIL": self.email,
            "DEFAULT_OWNER_PASSWORD": self.password,
            "SCHEDULER_TRIGGER_INTERVAL": str(scheduler_interval),
        }
        if base_path:
            self._environment["MAGE_BASE_PATH"] = base_path.strip("/")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """Return the file with everything the server printed."""
        return self._workdir / "mage.log"

    def start(self) -> None:
        """Start Mage, also after `stop` or `kill`, and return when its API triggers can be used."""
        if self._process:
            raise RuntimeError("Mage is already running")
        self.headers = {}  # the session of an earlier start may have ended
        project = self._workdir / PROJECT.name
        if not project.exists():
            shutil.copytree(PROJECT, project, ignore=shutil.ignore_patterns("__pycache__"))
            for folder in ("HOME", "MAGE_DATA_DIR", "TMPDIR"):
                Path(self._environment[folder]).mkdir()
        port = urlsplit(self.url).port or _free_port()
        launch = [str(self._python), "-P", str(LAUNCHER)]  # -P: what else is in this folder is not for Mage
        address = ["--host", "127.0.0.1", "--port", str(port)]
        with self.log.open("ab") as log:
            printed_before = log.tell()
            self._process = subprocess.Popen(
                [*launch, "start", str(project), *address],
                cwd=self._workdir,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_ready(printed_before)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ask all processes of the server to end, and kill those that do not."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill all processes of the server at once, as a crash would."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> MageServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._scratch:
            self._scratch.cleanup()

    def _wait_until_ready(self, printed_before: int) -> None:
        """Wait until the address is printed, a login works and every trigger is listed."""
        deadline = time.monotonic() + START_TIMEOUT
        url = ""
        while time.monotonic() < deadline:
            if self._process and self._process.poll() is not None:
                raise RuntimeError(f"Mage ended with code {self._process.returncode}:\n{self._log_end()}")
            if not url:
                url = self._printed_url(printed_before)
            elif self.url and url != self.url:
                raise RuntimeError(
                    f"the port of {self.url} was taken by something else, and Mage moved to {url}"
                )
            else:
                self.url = url
                with contextlib.suppress(requests.RequestException, ValueError, KeyError):
                    self._read_schedules()
                    if self.schedules.keys() >= TRIGGERS:
                        return
            time.sleep(0.2)
        raise TimeoutError(f"Mage was not ready after {START_TIMEOUT:.0f} s:\n{self._log_end()}")

    def _printed_url(self, printed_before: int) -> str:
        """Return the address printed in this start: Mage moves on if the port is taken."""
        printed = self.log.read_bytes()[printed_before:].decode(errors="replace")
        found = re.search(r"Mage is running at (\S+) ", printed)
        return found[1] if found else ""

    def _log_end(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def _read_schedules(self) -> None:
        """Fill in `schedules`, after a login if that is needed and was not done before."""
        with requests.Session() as session:
            session.trust_env = False  # a proxy has no business on loopback
            if self._auth and not self.headers:
                body = {"api_key": API_KEY, "session": {"email": self.email, "password": self.password}}
                login = session.post(f"{self.url}/api/sessions", json=body, timeout=30).json()
                payload = login["session"]["token"].split(".")[1]
                claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
                self.headers = {"X-API-KEY": API_KEY, "OAUTH-TOKEN": claims["token"]}
            url = f"{self.url}/api/pipeline_schedules?_limit=100"
            rows = session.get(url, headers=self.headers, timeout=30).json()["pipeline_schedules"]
        self.schedules = {
            row["name"]: Schedule(row["id"], row["pipeline_uuid"], row["token"]) for row in rows
        }

    def _end(self, number: signal.Signals) -> None:
        """Send the signal to all processes of the server, and SIGKILL to those still there after a while."""
        if not self._process:
            return
        groups = {self._process.pid} | self._kernel_groups()
        for each, seconds in ((number, STOP_TIMEOUT), (signal.SIGKILL, STOP_TIMEOUT)):
            groups = {group for group in groups if _send(group, each)}
            deadline = time.monotonic() + seconds
            while groups and time.monotonic() < deadline:
                self._process.poll()  # a dead process counts as there until it has been waited for
                time.sleep(0.05)
                groups = {group for group in groups if _send(group, 0)}
        self._process.wait()
        self._process = None

    def _kernel_groups(self) -> set[int]:
        """Return the process groups of children with a group of their own: Mage's notebook kernel.

        Where `/proc` does not tell, it ends by itself, a second after its parent.
        """
        assert self._process
        groups = set()
        with contextlib.suppress(OSError):
            for child in (
                Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            ):
                groups.add(os.getpgid(int(child)))
        return groups


def _send(group: int, number: int) -> bool:
    """Send a signal to a process group; return whether there was any process to take it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def main() -> None:
    """Serve until a signal says stop; print the address and the triggers as one line of JSON when ready."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--python", type=Path, required=True, help="interpreter of the environment that has mage-ai"
    )
    parser.add_argument("--auth", action="store_true", help="require a login")
    parser.add_argument("--scheduler-interval", type=float, default=1, help="seconds between scheduler loops")
    parser.add_argument("--base-path", help="path prefix of all addresses")
    parser.add_argument("--workdir", type=Path, help="folder to keep data and log in")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    with MageServer(**vars(options)) as server:
        schedules = {name: schedule._asdict() for name, schedule in server.schedules.items()}
        print(json.dumps({"url": server.url, "schedules": schedules}), flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
