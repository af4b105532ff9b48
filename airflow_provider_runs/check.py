"""
Test connections from the command line, where Airflow's own test is switched off.

``python -m airflow_provider_runs.check chalk_default mage_default`` makes one cheap authenticated read
through each and says what it showed. The exit code is 0 if all worked, else 1.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from airflow_provider_runs.provider_info import get_provider_info

if TYPE_CHECKING:
    from airflow_provider_runs.base.hook import RunHook


def hooks() -> dict[str, type[RunHook]]:
    """Return the hook class of each connection type, those for other providers' connections among them."""
    found: dict[str, type[RunHook]] = {}
    for entry in get_provider_info()["connection-types"]:
        module, _, name = entry["hook-class-name"].rpartition(".")
        hook: type[RunHook] = getattr(import_module(module), name)
        found |= dict.fromkeys((hook.conn_type, *hook.api_class.connection.other_types), hook)
    return found


def check_connection(conn_id: str) -> tuple[bool, str]:
    """
    Make one cheap authenticated read through a connection.

    :param conn_id: its id.
    :return: whether it worked, and what it showed, without secrets.
    """
    from airflow.providers.common.compat.sdk import BaseHook

    try:
        conn_type = BaseHook.get_connection(conn_id).conn_type
    except Exception as error:
        return False, f"cannot be read: {type(error).__name__}: {error}"
    known = hooks()
    if conn_type not in known:
        return False, f"its type is {conn_type!r}, not one of {', '.join(known)}"
    return known[conn_type].for_scope(conn_id, {}).test_connection()


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Test the connections that the command line names, and print what each test showed.

    :param arguments: the command line; None: this process's.
    :return: the exit code.
    """
    parser = argparse.ArgumentParser("python -m airflow_provider_runs.check", description="Test connections.")
    parser.add_argument("conn_id", nargs="+", help="id of an Airflow connection")
    # As Airflow's own commands do: otherwise its database is not looked into.
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    failed = False
    for conn_id in parser.parse_args(arguments).conn_id:
        worked, said = check_connection(conn_id)
        failed = failed or not worked
        print(f"{conn_id}: {said}", file=sys.stdout if worked else sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
