"""Poll many runs once: in batches where the service can, and singly what a batch does not answer."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from airflow_provider_runs.core.api import CanGetMany, RunApi
from airflow_provider_runs.core.errors import BadInput, ConnectionFailed, NotFound, RunsError, is_permanent
from airflow_provider_runs.core.http import Flow
from airflow_provider_runs.core.outage import OutageDetector
from airflow_provider_runs.core.poll_queue import MIN_BATCH_SIZE
from airflow_provider_runs.core.run import Run


def get_runs(api: RunApi, run_ids: Sequence[str]) -> Flow[dict[str, Run | RunsError]]:
    """
    Poll each of many runs once.

    As soon as a few polls in a row show that the service is out, the other runs get the same error without a
    request.

    :param api: the service's description.
    :param run_ids: the runs, each once.
    :return: for each run, in order, what the service said, or why it could not be polled.
    """
    detector = OutageDetector()
    found: dict[str, Run | RunsError] = {}

    def failed(failing: Collection[str], failure: Exception) -> None:
        error = _as_error(api, failure)
        # Whoever gets it must not keep an event loop by its traceback.
        found.update(dict.fromkeys(failing, error.with_traceback(None)))
        if not isinstance(error, (BadInput, NotFound)):  # else about this run only
            detector.failed(failing, error, began=0.0, now=0.0, among=len(run_ids))

    if isinstance(api, CanGetMany) and len(run_ids) >= MIN_BATCH_SIZE:
        for first in range(0, len(run_ids), api.batch_size):
            batch = run_ids[first : first + api.batch_size]
            if detector.outage is not None:
                break
            try:
                answers = yield from api.get_many(batch)
            except Exception as error:
                # One bad id may spoil a batch for all: poll singly.
                if not (isinstance(error, RunsError) and is_permanent(error)):
                    failed(batch, error)
            else:
                detector.answered(0.0)
                for run_id, answer in answers.items():
                    found[run_id] = answer if isinstance(answer, Run) else _as_error(api, answer)
    for run_id in run_ids:
        if run_id in found:
            continue
        if detector.outage is not None:
            found[run_id] = detector.outage
            continue
        try:
            found[run_id] = yield from api.get(run_id)
        except Exception as error:
            failed([run_id], error)
        else:
            detector.answered(0.0)
    return {run_id: found[run_id] for run_id in run_ids}


def _as_error(api: RunApi, failure: Exception) -> RunsError:
    if isinstance(failure, RunsError):
        return failure
    text = api.redact(f"{type(failure).__name__}: {failure}")
    return ConnectionFailed(f"unexpected error: {text}", sent=True)
