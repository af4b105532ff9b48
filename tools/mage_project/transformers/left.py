"""Be one side of a diamond of blocks; fail if the variable `fail` names this block."""

# mypy: ignore-errors

import time


@transformer  # noqa: F821 - Mage puts the decorator there when it runs the block
def left(done: list[str], **kwargs: object) -> list[str]:
    """Print a line, then raise or return the names of the blocks up to this one."""
    print("left is at work")
    if kwargs.get("fail") == "left":
        time.sleep(2)  # the other side has ended by then: what still works when a block fails is cancelled
        raise ValueError("left was told to fail")
    return [*done, "left"]
