"""How much memory a process takes at most."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")


def peak() -> int:
    """
    Return the highest resident memory since :func:`forget_peak`, in KiB.

    ru_maxrss is of no use: it begins with that of the process that started this one.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def forget_peak() -> int:
    """Begin to measure anew, and return the resident memory of now, in KiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()
