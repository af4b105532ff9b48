"""Begin a diamond of blocks; as each of them, fail if the variable `fail` names this block."""

# mypy: ignore-errors

import time


@data_loader  # noqa: F821 - Mage puts the decorator there when it runs the block
def start(**kwargs: object) -> list[str]:
    """Sleep if asked to, print a line, then raise or return the name of this block."""
    time.sleep(float(kwargs.get("sleep", 0)))
    print("start is at work")
    if kwargs.get("fail") == "start":
        raise ValueError("start was told to fail")
    return ["start"]
