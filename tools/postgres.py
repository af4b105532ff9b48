"""A PostgreSQL server for one Airflow, on the loopback address and in a folder of its own."""

from __future__ import annotations

import fcntl
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from tools.ports import HOST, ReservedPort
from tools.speed import patient

DEBIAN = Path("/usr/lib/postgresql")
"""Debian keeps the server's programs out of the path."""
PASSWORD = "password"


Fill = Callable[[str], None]


def find_programs() -> Path | None:
    """Return the folder of ``initdb`` and ``postgres``, None where they are not installed."""
    folders = [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
    folders += sorted((found.parent for found in DEBIAN.glob("*/bin/initdb")), reverse=True)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


def can_be_used() -> bool:
    """Tell whether the server is installed, and what Airflow reaches it with."""
    return find_programs() is not None and all(find_spec(driver) for driver in ("asyncpg", "psycopg2"))


def programs() -> Path:
    """Return the folder of ``initdb`` and ``postgres``; install them where apt can."""
    found = find_programs()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get") is not None:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", "postgresql"]):
            subprocess.run(command, env=environment, check=True, timeout=600, stdout=subprocess.DEVNULL)
        found = find_programs()
    if found is None:
        raise RuntimeError("there is no PostgreSQL server: install it (Debian: apt-get install postgresql)")
    return found


@contextmanager
def postgres(template: Path | None, fill: Fill) -> Iterator[str]:
    """
    Run a server and yield the address of its database for SQLAlchemy.

    :param template: a folder for the data of a filled server: copied if there is one of this version, else
        made of this server's. None: nothing is kept.
    :param fill: puts into the database, whose address it is given, what it is to hold at the start.
    """
    folder = programs()
    home = Path(tempfile.mkdtemp(prefix="airflow-postgres-"))
    try:
        if template is None:
            _create(folder, home)
            with _serve(folder, home) as url:
                fill(url)
                yield url
            return
        version = subprocess.check_output([folder / "postgres", "--version"], text=True).split()[2]
        template = template.with_name(f"{template.name}-{version}")
        with _locked(template):
            if not (template / "data").exists():
                _create(folder, home)
                with _serve(folder, home) as url:
                    fill(url)
                _copy(home, template)
        if not (home / "data").exists():
            _copy(template, home)
            _own(home)
        with _serve(folder, home) as url:
            yield url
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _user() -> pwd.struct_passwd:
    """PostgreSQL refuses to run as root."""
    return pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def _rights() -> tuple[int, int] | tuple[None, None]:
    user = _user()
    return (user.pw_uid, user.pw_gid) if os.geteuid() == 0 else (None, None)


def _own(home: Path) -> None:
    """Give what root has made to the server's user."""
    user = _user()
    for path in (home, *home.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid)


@contextmanager
def _locked(template: Path) -> Iterator[None]:
    """Have one server at a time make the template."""
    with template.with_name(f"{template.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _copy(source: Path, target: Path) -> None:
    """Copy data and password in one step for whoever looks whether the target's data exist."""
    target.mkdir(mode=0o700, exist_ok=True)
    shutil.copyfile(source / PASSWORD, target / PASSWORD)
    (target / PASSWORD).chmod(0o600)
    half = target / "half"
    shutil.copytree(source / "data", half)
    half.replace(target / "data")


def _create(folder: Path, home: Path) -> None:
    (home / PASSWORD).write_text(secrets.token_hex(16))
    (home / PASSWORD).chmod(0o600)
    _own(home)
    user, group = _rights()
    subprocess.run(
        [
            *(str(folder / "initdb"), "-D", str(home / "data"), "-E", "UTF8", "--no-sync"),
            *("-U", "airflow", "-A", "scram-sha-256", f"--pwfile={home / PASSWORD}"),
        ],
        check=True,
        timeout=patient(60),
        cwd=home,
        stdout=subprocess.DEVNULL,
        user=user,
        group=group,
    )


@contextmanager
def _serve(folder: Path, home: Path) -> Iterator[str]:
    reserved = ReservedPort()
    port = reserved.number
    settings = {"fsync": "off", "max_connections": "300", "unix_socket_directories": str(home)}
    user, group = _rights()
    with (home / "postgres.log").open("wb") as output:
        server = subprocess.Popen(
            [str(folder / "postgres"), "-D", str(home / "data"), "-h", HOST, "-p", str(port)]
            + [word for name, value in settings.items() for word in ("-c", f"{name}={value}")],
            cwd=home,
            stdout=output,
            stderr=output,
            start_new_session=True,
            user=user,
            group=group,
        )
    try:
        _wait_until_ready(folder, port, server)
        password = (home / PASSWORD).read_text()
        yield f"postgresql+psycopg2://airflow:{password}@{HOST}:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # ends the clients' sessions, too
        try:
            server.wait(patient(20))
        except subprocess.TimeoutExpired:
            server.send_signal(signal.SIGQUIT)
            server.wait(patient(20))
        reserved.release()


def _wait_until_ready(folder: Path, port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + patient(60)
    command = [str(folder / "pg_isready"), "-h", HOST, "-p", str(port), "-q"]
    while subprocess.run(command, check=False, timeout=patient(30)).returncode != 0:
        if server.poll() is not None or time.monotonic() > until:
            raise RuntimeError("PostgreSQL did not start")
        time.sleep(0.2)
