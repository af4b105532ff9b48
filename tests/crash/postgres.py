"""A PostgreSQL server for one test run, on the loopback address and in a folder of its own."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.airflow_stack import HOST, ReservedPort
from tools.speed import scaled

DEBIAN = Path("/usr/lib/postgresql")
"""Debian keeps the server's programs out of the path."""


def programs() -> Path:
    """Return the folder of ``initdb`` and ``postgres``; install them where apt can."""
    for _ in range(2):
        folders = [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
        folders += sorted((found.parent for found in DEBIAN.glob("*/bin/initdb")), reverse=True)
        for folder in folders:
            if (folder / "postgres").exists():
                return folder
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            break
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", "postgresql"]):
            subprocess.run(command, env=environment, check=True, timeout=300, stdout=subprocess.DEVNULL)
    raise RuntimeError("there is no PostgreSQL server: install it (Debian: apt-get install postgresql)")


@contextmanager
def postgres() -> Iterator[str]:
    """Run a server and yield the address of its database for SQLAlchemy."""
    folder = programs()
    home = Path(tempfile.mkdtemp(prefix="crash-postgres-"))
    # PostgreSQL refuses to run as root.
    user = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    rights = {"user": user.pw_uid, "group": user.pw_gid} if os.geteuid() == 0 else {}
    password = secrets.token_hex(16)
    (home / "password").write_text(password)
    for path in (home, home / "password"):
        os.chown(path, user.pw_uid, user.pw_gid)
    data = home / "data"
    try:
        subprocess.run(
            [
                *(folder / "initdb", "-D", data, "-E", "UTF8", "--no-sync"),
                *("-U", "airflow", "-A", "scram-sha-256", f"--pwfile={home / 'password'}"),
            ],
            check=True,
            timeout=scaled(120),
            cwd=home,
            stdout=subprocess.DEVNULL,
            **rights,
        )
        reserved = ReservedPort()
        port = reserved.number
        settings = {"fsync": "off", "max_connections": "300", "unix_socket_directories": str(home)}
        with (home / "postgres.log").open("wb") as output:
            server = subprocess.Popen(
                [folder / "postgres", "-D", data, "-h", HOST, "-p", str(port)]
                + [word for name, value in settings.items() for word in ("-c", f"{name}={value}")],
                cwd=home,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **rights,
            )
        try:
            _wait_until_ready(folder, port, server)
            yield f"postgresql+psycopg2://airflow:{password}@{HOST}:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # ends the clients' sessions, too
            try:
                server.wait(scaled(20))
            except subprocess.TimeoutExpired:
                server.send_signal(signal.SIGQUIT)
                server.wait(scaled(20))
            reserved.release()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _wait_until_ready(folder: Path, port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + scaled(60)
    command = [folder / "pg_isready", "-h", HOST, "-p", str(port), "-q"]
    while subprocess.run(command, check=False, timeout=scaled(30)).returncode != 0:
        if server.poll() is not None or time.monotonic() > until:
            raise RuntimeError("PostgreSQL did not start")
        time.sleep(0.2)
