"""A real Mage that lives under a path prefix and in another time zone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from airflow_provider_runs.core.errors import ApiError
from airflow_provider_runs.core.run import RunState
from tests.real.target import real_mage


def test_prefix_and_time_zone_of_a_server_make_no_difference(
    mage_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with real_mage(
        mage_python, tmp_path_factory.mktemp("mage"), auth=False, base_path="pre", timezone="Asia/Tokyo"
    ) as mage:
        assert mage.url.endswith("/pre")
        began = time.time()
        run = mage.start("empty", key="key-in-tokyo")
        assert run.url == f"{mage.url}/pipelines/empty/runs/{run.id}"
        assert mage.wait(run).state is RunState.SUCCEEDED
        driver = mage.driver()
        found = driver.drive(driver.api.list_runs({"pipeline_uuid": "empty"}, since=began))
        assert [one.id for one in found] == [run.id]
        # Mage tells whole seconds.
        later = time.time() + 1
        assert driver.drive(driver.api.list_runs({"pipeline_uuid": "empty"}, since=later)) == []
        assert found[0].created_at is not None
        assert abs(found[0].created_at.timestamp() - began) < 60
        arguments = {"pipeline_schedule_id": mage.schedules["empty"].id}
        again = driver.drive(driver.api.find_started(arguments, "key-in-tokyo", began))
        assert again is not None and again.id == run.id
        assert driver.drive(driver.api.check()) == f"Connected to Mage at {mage.url}, scheduler running"
        mage.url = mage.url.removesuffix("/pre")
        driver = mage.driver()
        with pytest.raises(ApiError, match="path prefix"):
            driver.drive(driver.api.check())
