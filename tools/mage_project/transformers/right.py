"""Be one side of a diamond of blocks; fail if the variable `fail` names this block."""

# mypy: ignore-errors


@transformer  # noqa: F821 - Mage puts the decorator there when it runs the block
def right(done: list[str], **kwargs: object) -> list[str]:
    """Print a line, then raise or return the names of the blocks up to this one."""
    print("right is at work")
    if kwargs.get("fail") == "right":
        raise ValueError("right was told to fail")
    return [*done, "right"]
