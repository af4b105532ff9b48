"""The environments in which everything is tested."""

from __future__ import annotations

import tomllib
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_oldest_dependencies_that_are_allowed_are_those_that_are_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = chain(project["dependencies"], *project["optional-dependencies"].values())
    pinned = (ROOT / "constraints/lowest.txt").read_text().splitlines()
    assert {each.partition(",")[0].replace(">=", "==") for each in allowed} <= set(pinned)
