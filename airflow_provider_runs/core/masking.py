"""
Secrets in texts: known as they are, and in every way in which services and libraries write them down again.

What holds nothing but letters, digits, ``-``, ``.`` and ``_`` looks the same however it is written. Any other
character is also known percent-encoded, as JSON and Python escape it, and as HTML does, in any mixture and
more than once over.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from html.entities import html5
from urllib.parse import unquote

LEVELS = 8
"""Backslashes at most that stand before a character: a text may have been escaped three times over."""
_PLAIN = re.compile(r"[A-Za-z0-9._-]+")
_PARTS = re.compile(r"[A-Za-z0-9._-]+|\\+|.", re.DOTALL)
_SHORT_ESCAPES = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}
_PROXY = re.compile(r"(?:[^:/?#]*://)?(?P<login>.*)@", re.DOTALL)


def mask(text: str, secrets: tuple[str, ...]) -> str:
    """
    Return a text with every secret in it replaced by ``***``.

    :param text: the text.
    :param secrets: what nobody may see; none of them is empty.
    """
    # Quick where a text holds nothing of a secret: the pattern is slow on what is made to be.
    there = tuple(secret for secret in secrets if _surest(secret) in text)
    return _pattern(there).sub("***", text) if there else text


@lru_cache(maxsize=256)
def _surest(secret: str) -> str:
    """Return the longest part of a secret that looks the same however it is written."""
    return max(_PLAIN.findall(secret), key=len, default="")


def proxy_secrets(proxy: str) -> Iterator[str]:
    """
    Yield the password in a proxy's URL, as it stands there and decoded, also where the URL is malformed.

    :param proxy: the URL, with or without a scheme.
    """
    if found := _PROXY.match(proxy):
        password = found["login"].partition(":")[2]
        yield from filter(None, dict.fromkeys((password, unquote(password))))


def environment_secrets() -> Iterator[str]:
    """Yield the passwords of the proxies that the environment names."""
    # As bytes: every answer is searched for secrets, and to decode each name takes twenty times as long.
    for name in os.environb:
        if name.lower().endswith(b"_proxy"):
            yield from proxy_secrets(os.fsdecode(os.environb[name]))


@lru_cache(maxsize=64)
def _pattern(secrets: tuple[str, ...]) -> re.Pattern[str]:
    # The longer ones first: one may hold another.
    longest_first = sorted(set(secrets), key=len, reverse=True)
    return re.compile("|".join("".join(map(_ways, _PARTS.findall(secret))) for secret in longest_first))


@lru_cache(maxsize=256)
def _ways(part: str) -> str:
    """Return a pattern of all the ways to write a character, or a run of backslashes."""
    if _PLAIN.fullmatch(part):
        return part.replace(".", r"\.")
    character, count = part[0], len(part)
    code, encoded = ord(character), character.encode("utf-8", "surrogatepass")
    units = character.encode("utf-16-be", "surrogatepass")
    # Limits, as a text may hold nothing but backslashes.
    some, any_ = rf"\\{{1,{LEVELS}}}", rf"\\{{0,{LEVELS}}}"
    ways = [
        "".join(rf"%(?:25)*{byte:02x}" for byte in encoded),
        "".join(rf"{some}x{byte:02x}" for byte in encoded),
        "".join(f"{some}u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)),
        rf"{some}x{code:02x}",
        rf"{some}U{code:08x}",
        rf"{any_}&(?:amp;)*\#0*{code};",
        rf"{any_}&(?:amp;)*\#x0*{code:x};",
        *(rf"{any_}&(?:amp;)*{name}" for name in _names().get(character, ())),
    ]
    if character == " ":
        ways.append(r"\+")
    if character in _SHORT_ESCAPES:
        ways.append(some + _SHORT_ESCAPES[character])
    escaped = f"(?i:{'|'.join(dict.fromkeys(ways))})"
    if character == "\\":
        return rf"(?:{escaped}{{{count}}}|\\{{{count},{LEVELS * count}}})"
    return rf"(?:{any_}{re.escape(character)}|{escaped})"


@lru_cache(maxsize=1)
def _names() -> dict[str, list[str]]:
    """Return the names by which HTML knows characters."""
    names: dict[str, list[str]] = {}
    for name, character in html5.items():
        if name.endswith(";"):
            names.setdefault(character, []).append(name)
    return names
