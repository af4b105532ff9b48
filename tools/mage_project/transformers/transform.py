"""Pass on what was loaded."""

# mypy: ignore-errors


@transformer  # noqa: F821 - Mage puts the decorator there when it runs the block
def transform(variables: dict[str, object], **kwargs: object) -> dict[str, object]:
    """Return the variables unchanged."""
    return variables
