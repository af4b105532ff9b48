from __future__ import annotations

import pytest

from airflow_provider_runs.core.errors import (
    ApiError,
    BadInput,
    ConnectionFailed,
    NotFound,
    RunsError,
    Unauthorized,
)


@pytest.mark.parametrize(
    ("status", "permanent"),
    [
        (200, False),
        (302, False),
        (400, True),
        (404, True),
        (408, False),
        (425, False),
        (429, False),
        (499, True),
        (500, False),
        (503, False),
    ],
)
def test_an_error_is_permanent_by_its_status(status: int, permanent: bool) -> None:
    assert ApiError("x", status=status).permanent is permanent


@pytest.mark.parametrize("permanent", [True, False])
def test_a_service_may_know_better_than_the_status(permanent: bool) -> None:
    assert ApiError("x", status=400, permanent=permanent).permanent is permanent
    assert ApiError("x", status=500, permanent=permanent).permanent is permanent


def test_every_error_is_caught_as_one_of_this_package() -> None:
    errors = [
        BadInput("x"),
        ConnectionFailed("x", sent=True),
        Unauthorized("x", status=401),
        NotFound("x", status=404),
    ]
    assert all(isinstance(error, RunsError) and str(error) == "x" for error in errors)
    assert isinstance(errors[0], ValueError)
    assert all(isinstance(error, ApiError) for error in errors[2:])
