"""A covering set leaves no value out, and is the same each time."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from tests.answers import answer
from tests.covering import brief, covering

LENGTHS = [(1,), (1, 1), (5, 1), (4, 16), (12, 13, 7), (6, 4, 4, 3), (5, 5, 5)]


def numbered(lengths: tuple[int, ...]) -> list[list[str]]:
    return [[f"{place}.{value}" for value in range(length)] for place, length in enumerate(lengths)]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("turns", [1, 3])
def test_every_value_of_every_parameter_occurs_in_its_place(lengths: tuple[int, ...], turns: int) -> None:
    rows = covering(*numbered(lengths), turns=turns)
    assert len(rows) == turns * max(lengths)
    assert [set(column) for column in zip(*rows, strict=True)] == [set(one) for one in numbered(lengths)]


@pytest.mark.parametrize("lengths", [(16, 4), (4, 16), (13, 12), (5, 5), (9, 6)], ids=str)
def test_enough_turns_give_every_pair_of_the_longest_and_another_once(lengths: tuple[int, ...]) -> None:
    lists = numbered(lengths)
    rows = covering(*lists, turns=min(lengths))
    assert sorted(rows) == sorted(product(*lists))


def test_the_turns_of_a_value_are_far_apart() -> None:
    met = [partner for value, partner in covering(range(13), range(12), turns=4) if value == 0]
    assert met == [0, 7, 2, 9]


def test_parameters_of_one_length_do_not_run_in_step() -> None:
    rows = covering(range(12), "abcd", "wxyz")
    assert len({row[1:] for row in rows}) == 12
    for first, second in combinations(range(3), 2):
        assert len({(row[first], row[second]) for row in rows}) == 12


def test_it_is_the_same_each_time() -> None:
    assert covering(range(7), "abc") == covering(iter(range(7)), iter("abc"))


def test_a_parameter_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match="without values"):
        covering([1, 2], [])


def test_a_value_is_named_by_its_beginning() -> None:
    assert brief("x" * 9000) == "x" * 60
    assert brief((401, ValueError, True)) == "401 ValueError True"
    assert brief(answer({"a": 1}, 500)) == str(b'{"a": 1}')
