"""Fail, always with the same error."""

# mypy: ignore-errors


@transformer  # noqa: F821 - Mage puts the decorator there when it runs the block
def bang(variables: dict[str, object], **kwargs: object) -> None:
    """Raise the error that tests look for."""
    raise ValueError("bang in transform")
