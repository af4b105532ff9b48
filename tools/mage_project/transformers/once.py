"""Fail the first time in a run, and work when that run is retried."""

# mypy: ignore-errors

import tempfile
from pathlib import Path


@transformer  # noqa: F821 - Mage puts the decorator there when it runs the block
def once(variables: dict[str, object], **kwargs: object) -> dict[str, object]:
    """Raise unless a file tells that this block was here before in the same run."""
    been_here = Path(tempfile.gettempdir(), f"once-{kwargs['pipeline_run_id']}")
    print("once was here before" if been_here.exists() else "once is here for the first time")
    if not been_here.exists():
        been_here.touch()
        raise RuntimeError("it works when retried")
    return variables
