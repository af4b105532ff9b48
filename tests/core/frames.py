"""What the frames of an error show."""

from __future__ import annotations

import traceback
from typing import Any


def shown(error: BaseException) -> str:
    """Return what a tool that collects errors shows: the locals of all frames but those of the tests."""
    texts: list[str] = []
    queue, seen = [error], set[int]()
    while queue:
        current = queue.pop()
        seen.add(id(current))
        queue += [
            other for other in (current.__cause__, current.__context__) if other and id(other) not in seen
        ]
        for frame, _ in traceback.walk_tb(current.__traceback__):
            if "/tests/" not in frame.f_code.co_filename:
                texts += [f"{name}={value!r} {_inside(value)}" for name, value in frame.f_locals.items()]
    return "\n".join(texts)


def _inside(value: Any) -> str:
    is_librarys = type(value).__module__.startswith(("requests", "aiohttp", "urllib3"))
    return str(getattr(value, "__dict__", "")) if is_librarys else ""
