"""Load the run's variables, after as many seconds as the variable `sleep` asks for."""

# mypy: ignore-errors

import time


@data_loader  # noqa: F821 - Mage puts the decorator there when it runs the block
def load(**kwargs: object) -> dict[str, object]:
    """Sleep if asked to, then return what Mage gave this block, as far as it is plain data."""
    time.sleep(float(kwargs.get("sleep", 0)))
    variables = {
        name: value for name, value in kwargs.items() if isinstance(value, str | int | float | list | dict)
    }
    print(f"loaded {variables}")
    return variables
