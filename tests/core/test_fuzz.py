"""
Answers that are damaged at random, byte by byte: calls end in our errors only, a start goes out once, or as
often as it must with one key.

``make fuzz`` has 2,000 cases for each driver, by its ``SEED``; ``make test`` 100 for each, always the same.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import pytest

from airflow_provider_runs.core import clock
from airflow_provider_runs.core.errors import ApiError, RunsError
from airflow_provider_runs.core.retry import RetryPolicy
from airflow_provider_runs.core.run import Run
from airflow_provider_runs.core.turns import TOO_MANY_REQUESTS
from airflow_provider_runs.provider_info import SYSTEMS
from tests.core.conftest import Connect, Wire
from tests.core.hostile import mutated
from tests.core.test_systems import LIMIT, OF

CASES = int(os.environ.get("FUZZ_CASES") or 100)
SEED = int(os.environ.get("SEED") or 20)
AT_ONCE = 25
KEY = "the-key"
KEYED = ("chalk", "strait")
"""Every other start of theirs has a key."""


@pytest.mark.parametrize("first", range(0, CASES, AT_ONCE))
async def test_whatever_comes_back_a_start_goes_out_once(
    wire: Callable[..., Wire], connect: Connect, first: int
) -> None:
    async def case(number: int) -> None:
        system = OF[SYSTEMS[number % len(SYSTEMS)]]
        server = wire(mutated(number))
        driver = system.connect(connect, server)
        has_key = SYSTEMS[number % len(SYSTEMS)] in KEYED and number // len(SYSTEMS) % 2 == 1
        start = driver.api.trigger(system.arguments, KEY if has_key else None)
        began = clock.monotonic()
        (outcome,) = await asyncio.gather(
            driver.drive(start, RetryPolicy(attempts=5, base=0.01)),
            return_exceptions=True,
        )
        told = f"SEED={SEED}, case {number - SEED * 1_000_000}: {outcome!r}"
        assert isinstance(outcome, (RunsError, Run)), told
        assert clock.monotonic() - began < LIMIT + 3, told
        if has_key:
            assert all(
                KEY in (asked.headers.get("idempotency-key"), asked.json.get("idempotency_key"))
                for asked in server.asked
            ), told
        elif not (isinstance(outcome, ApiError) and outcome.status == TOO_MANY_REQUESTS):
            assert len(server.asked) == 1, told

    for number in range(first, min(first + AT_ONCE, CASES)):
        await case(SEED * 1_000_000 + number)
