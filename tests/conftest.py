"""What all tests share: an Airflow that touches nothing outside a temporary folder, and a task's context."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import virtual as times

# Before anything imports Airflow, which reads them once.
_home = tempfile.mkdtemp(prefix="airflow-provider-runs-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ["AIRFLOW_HOME"] = _home
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "True"
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
# What the forms of Airflow 2 are made of warns when it is loaded.
with contextlib.suppress(ImportError), warnings.catch_warnings(action="ignore"):
    import flask_appbuilder  # noqa: F401
# A busy machine is no failure, and a test that fails must fail for whoever looks into it.
with contextlib.suppress(ImportError):  # the environments of the vendors' clients have no hypothesis
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "project", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("project")
for name in tuple(os.environ):
    if name.startswith(("AIRFLOW_CONN_", "AIRFLOW_VAR_")):
        del os.environ[name]


times.install()
ROOT = Path(__file__).parent

REAL_TIME = frozenset({"browser", "crash", "published", "real", "system", "vendor"})
"""Folders whose tests wait for real sockets and processes; so does a test that is marked ``real_time``."""


def pytest_collection_finish() -> None:
    """Keep what all tests have, such as Airflow, out of each garbage collection: a twentieth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


@pytest.fixture
def virtual() -> Iterator[times.VirtualClock]:
    """Virtual time: it jumps to the next moment that somebody waits for, once everybody waits."""
    with times.virtual_time() as clock:
        yield clock


@pytest.fixture(autouse=True)
def time_is_virtual(request: pytest.FixtureRequest) -> None:
    """Keep virtual time in every test, except where it must be real."""
    folder = request.path.relative_to(ROOT).parts[0]
    if folder not in REAL_TIME and request.node.get_closest_marker("real_time") is None:
        request.getfixturevalue("virtual")


@pytest.fixture(autouse=True)
def no_earlier_requests() -> None:
    """Have no test wait for the requests of another, which the limiter of a connection remembers."""
    from airflow_provider_runs.base import channel
    from airflow_provider_runs.core import turns

    turns._limiters.clear()
    channel._refusals.clear()
