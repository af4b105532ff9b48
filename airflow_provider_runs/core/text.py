"""Texts of services as messages and logs show them: one line, without secrets and control characters."""

from __future__ import annotations

import re
from collections.abc import Callable

READ_CHARACTERS = 16 * 1024
"""Characters of a text that are read for a message, which shows some hundred."""
UNSURE_CHARACTERS = 4 * 1024
"""Characters before a cut that are not shown: half a secret is not recognised."""

# A member of an object, in JSON or as Python prints it, whose name says that its value is a secret.
_SECRET_MEMBER = re.compile(
    r"""(["'][^"']*(?:token|secret|password|authorization|api_key)[^"'\w]*["']\s*:\s*)"""
    r"""("(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?)""",
    re.IGNORECASE,
)

# A zero byte within a name hides that it names a secret; all white space stays.
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")

# Colours and the like, which programs write for a terminal.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")


def excerpt(body: bytes, redact: Callable[[str], str] = str, limit: int = 200) -> str:
    """
    Return the start of a body in one line, for a message; values that are secret by their name are masked.

    :param body: the body; bytes that are not UTF-8 are replaced.
    :param redact: masks the secrets in a text.
    :param limit: characters at most.
    """
    text = _CONTROLS.sub("", body[:READ_CHARACTERS].decode("utf-8", "replace"))
    masked = redact(_SECRET_MEMBER.sub(r'\1"***"', text))
    # One that is as long as is read may have been cut before.
    return _start(masked, limit, is_cut=len(body) >= READ_CHARACTERS) or "(empty)"


def one_line(text: str, redact: Callable[[str], str] = str, limit: int = 500) -> str:
    """
    Return the start of a text in one line. Secrets are masked first: half a secret is not recognised.

    :param text: the text.
    :param redact: masks the secrets in a text.
    :param limit: characters at most.
    """
    return _start(redact(text[:READ_CHARACTERS]), limit, is_cut=len(text) > READ_CHARACTERS)


def _start(masked: str, limit: int, *, is_cut: bool) -> str:
    line = " ".join((masked[:-UNSURE_CHARACTERS] if is_cut else masked).split())
    shown = "".join(character if character.isprintable() else " " for character in line[:limit])
    return shown + "..." if is_cut or len(line) > limit else shown


def printable(text: str) -> str:
    """
    Return a line of a program's output without colours and control characters.

    :param text: the line.
    """
    plain = _ESCAPES.sub("", text).expandtabs(4)
    return "".join(character if character.isprintable() else " " for character in plain).rstrip()
