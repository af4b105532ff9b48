"""A real Mage that lives under a path prefix."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_runs.core.errors import ApiError
from airflow_provider_runs.core.run import RunState
from tests.real.target import real_mage


def test_host_with_path_prefix_reaches_mage(mage_python: Path, tmp_path: Path) -> None:
    with real_mage(mage_python, tmp_path, auth=False, base_path="pre") as mage:
        assert mage.url.endswith("/pre")
        run = mage.start("empty")
        assert run.url == f"{mage.url}/pipelines/empty/runs/{run.id}"
        assert mage.wait(run).state is RunState.SUCCEEDED
        driver = mage.driver()
        assert driver.drive(driver.api.check()) == f"Connected to Mage at {mage.url}, scheduler running"
        mage.url = mage.url.removesuffix("/pre")
        driver = mage.driver()
        with pytest.raises(ApiError, match="path prefix"):
            driver.drive(driver.api.check())
