"""Work for ten minutes, unless cancelled."""

# mypy: ignore-errors

import time


@data_loader  # noqa: F821 - Mage puts the decorator there when it runs the block
def wait(**kwargs: object) -> list[dict[str, int]]:
    """Sleep 600 times one second, so that a cancelled run stops soon."""
    for second in range(600):
        time.sleep(1)
        print(f"{second + 1} of 600 seconds")
    return [{"seconds": 600}]
