"""Write files to where Airflow's object storage reaches."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from airflow_provider_runs.core.errors import BadInput
from airflow_provider_runs.core.text import one_line

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

# Stores that show a file under its name only when all of it has come.
WHOLE_UPLOADS = frozenset({"s3", "s3a", "s3n", "gs", "gcs", "abfs", "abfss", "az", "wasb", "wasbs"})


def target_path(target: Any) -> ObjectStoragePath:
    """
    Return where a file is to be written to.

    :param target: an ``ObjectStoragePath``, its URL, or an absolute local path.
    :raises BadInput: if it is none of these.
    """
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    if isinstance(target, ObjectStoragePath):
        return target
    text = os.fspath(target) if isinstance(target, (str, os.PathLike)) else ""
    if not isinstance(text, str) or not text.strip() or text.strip() == "None":
        raise BadInput("target must be an ObjectStoragePath, its URL or an absolute path, and not empty")
    text = text.strip()
    if text.endswith("/"):
        raise BadInput(f"target must name a file, not a folder: {one_line(text)!r}")
    if "://" not in text and not os.path.isabs(text):
        raise BadInput(f"target must be an absolute path or a URL: {one_line(text)!r}")
    try:
        path = ObjectStoragePath(text)
        _ = path.fs  # Airflow 2 looks for the filesystem only when it is used
    except ValueError as error:
        raise BadInput(f"target {one_line(text)!r} cannot be used: {one_line(str(error))}") from None
    return path


def put_whole(source: str, target: ObjectStoragePath) -> None:
    """
    Copy a local file to its place, where it appears as a whole or not at all; what was there is replaced.

    Object stores do so by themselves. Elsewhere the file gets a temporary name beside its place first.

    :param source: the local file.
    :param target: its place.
    :raises BadInput: if there is a folder.
    """
    store, final = target.fs, target.path
    if target.protocol in WHOLE_UPLOADS:
        store.put_file(source, final)
        return
    if store.isdir(final):
        raise BadInput(f"target must name a file, and {str(target)!r} is a folder")
    folder = target.parent.path.rstrip("/")
    store.makedirs(folder or "/", exist_ok=True)
    part = f"{folder}/.{uuid4().hex}.part"
    try:
        store.put_file(source, part)
        store.mv(part, final)
    except BaseException:
        with suppress(Exception):
            store.rm_file(part)
        raise
