"""Files that the commands of a run have left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from airflow_provider_runs.core.errors import NotFound
from airflow_provider_runs.core.text import one_line

MAX_BYTES = 2**30
PATHS_SHOWN = 30


def choose_artifact(
    run: str,
    path: str,
    resources: Sequence[Mapping[str, Any]],
    redact: Callable[[str], str],
    *,
    command_id: int | None = None,
    command: str | None = None,
) -> Mapping[str, Any]:
    """
    Return the artifact at a path that the last command has left, failing commands included.

    :param run: the run, for the message.
    :param path: the artifact's path.
    :param resources: the run's artifacts: ``id``, ``path``, ``command_id`` and ``command`` of each.
    :param redact: masks the secrets in a text.
    :param command_id: only of this command.
    :param command: only of commands with this text.
    :raises NotFound: if there is none; the message names the artifacts that there are.
    """
    meant = [
        one
        for one in resources
        if one["path"] == path
        and command_id in (None, one["command_id"])
        and command in (None, one["command"].strip())
    ]
    if meant:
        return max(meant, key=lambda one: (one["command_id"], one["id"]))
    wanted = f"artifact {path!r}"
    if command_id is not None or command is not None:
        wanted += f" of command {command_id if command is None else redact(command)!r}"
    by_command: dict[str, list[str]] = {}
    for one in resources[-PATHS_SHOWN:]:
        name = f"command {one['command_id']} {one_line(one['command'], redact, 100)!r}"
        by_command.setdefault(name, []).append(one_line(one["path"], redact))
    there = "; ".join(f"{name}: {', '.join(paths)}" for name, paths in by_command.items())
    raise NotFound(f"Paradime {run} has no {wanted}. It has {there or 'no artifacts'}", status=404)
