"""End a diamond of blocks; fail if the variable `fail` names this block."""

# mypy: ignore-errors


@transformer  # noqa: F821 - Mage puts the decorator there when it runs the block
def join(left: list[str], right: list[str], **kwargs: object) -> list[str]:
    """Print a line, then raise or return the names of all blocks."""
    print("join is at work")
    if kwargs.get("fail") == "join":
        raise ValueError("join was told to fail")
    return [*left, *right, "join"]
