"""Covering sets: every value of several parameters, without every combination of them."""

from __future__ import annotations

from collections.abc import Iterable
from math import gcd
from typing import Any


def covering(*parameters: Iterable[Any], turns: int = 1) -> list[tuple[Any, ...]]:
    """
    Combine parameters that do not interact, so that each value of each of them occurs.

    Where one step of the code looks at one value, and another step at the other, a failure shows with any
    partner: as many rows as the longest parameter has values prove what all the combinations prove. What does
    interact is given as one parameter, of the combinations that mean something: ``itertools.product``, or a
    list written out.

    The rows are the same each time. Parameters of one length do not run in step, so neighbours vary.

    :param parameters: the values of each parameter.
    :param turns: how often each value of the longest parameter occurs, each time with other values of each
        shorter one; with as many turns as the shorter one has values, they meet in every combination.
    :return: rows for ``pytest.mark.parametrize``, one value of each parameter in each.
    """
    lists = [list(values) for values in parameters]
    if not all(lists):
        raise ValueError("a parameter without values covers nothing")
    longest = max(range(len(lists)), key=lambda place: len(lists[place]))
    length = len(lists[longest])
    rows = []
    for turn in range(turns):
        for number in range(length):
            row = []
            for place, values in enumerate(lists):
                at = number
                if place != longest:
                    at += place * (number // len(values)) + turn * _stride(len(values))
                row.append(values[at % len(values)])
            rows.append(tuple(row))
    return rows


def brief(value: Any) -> str:
    """
    Name a value in the id of a test: by its beginning, a row by its values, an answer by its body.

    :param value: what ``pytest.mark.parametrize`` asks a name for.
    """
    if isinstance(value, tuple):
        return " ".join(brief(one) for one in value)[:60]
    if isinstance(value, type):
        return value.__name__
    return str(getattr(value, "body", value))[:60]


def _stride(length: int) -> int:
    """Return the step, coprime with a length, that is nearest to its golden section: every leap is far."""
    coprime = [step for step in range(1, length + 1) if gcd(step, length) == 1]
    return min(coprime, key=lambda step: abs(step - 0.618 * length))
