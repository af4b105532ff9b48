"""Poll or cancel many runs: in batches where the service can, and singly what a batch does not answer."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from airflow_provider_runs.core.api import CanCancel, CanCancelMany, CanGetMany, RunApi
from airflow_provider_runs.core.errors import BadInput, NotFound, RunsError, as_runs_error, is_permanent
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
    polls = _Polls(api, len(run_ids))
    if isinstance(api, CanGetMany) and len(run_ids) >= MIN_BATCH_SIZE:
        for first in range(0, len(run_ids), api.batch_size):
            yield from polls.batch(api, run_ids[first : first + api.batch_size])
    for run_id in run_ids:
        if run_id not in polls.found:
            yield from polls.single(run_id)
    return {run_id: polls.found[run_id] for run_id in run_ids}


def cancel_runs(api: RunApi, run_ids: Sequence[str]) -> Flow[dict[str, RunsError]]:
    """
    Ask the service once to cancel each of many runs.

    :param api: the description of a service that can cancel.
    :param run_ids: the runs, each once.
    :return: for each run for which that failed, why. It may have ended, which the next poll tells.
    """
    assert isinstance(api, CanCancel)
    failed: dict[str, RunsError] = {}
    together = isinstance(api, CanCancelMany) and len(run_ids) > 1
    size = api.cancel_batch_size if isinstance(api, CanCancelMany) and together else 1
    for first in range(0, len(run_ids), size):
        batch = run_ids[first : first + size]
        try:
            if isinstance(api, CanCancelMany) and together:
                failed |= yield from api.cancel_many(batch)
            else:
                yield from api.cancel(batch[0])
        except RunsError as error:
            failed |= dict.fromkeys(batch, error.with_traceback(None))
    return failed


class _Polls:
    """What the polls have found so far, and whether the service is out."""

    def __init__(self, api: RunApi, number: int) -> None:
        self.found: dict[str, Run | RunsError] = {}
        self._api = api
        self._number = number
        self._detector = OutageDetector()

    def batch(self, api: CanGetMany, run_ids: Sequence[str]) -> Flow[None]:
        """Poll some runs together; what is not found then is to be polled singly."""
        if self._detector.outage is not None:
            return
        try:
            answers = yield from api.get_many(run_ids)
        except Exception as error:
            # One bad id may spoil a batch for all.
            if not (isinstance(error, RunsError) and is_permanent(error)):
                self._failed(run_ids, error)
            return
        self._detector.answered(0.0)
        for run_id, answer in answers.items():
            if isinstance(answer, Run):
                self.found[run_id] = answer
            else:
                self.found[run_id] = as_runs_error(answer, self._api.redact)

    def single(self, run_id: str) -> Flow[None]:
        """Poll one run, unless the service is out."""
        if self._detector.outage is not None:
            self.found[run_id] = self._detector.outage
            return
        try:
            self.found[run_id] = yield from self._api.get(run_id)
        except Exception as error:
            self._failed([run_id], error)
        else:
            self._detector.answered(0.0)

    def _failed(self, run_ids: Collection[str], failure: Exception) -> None:
        # Whoever gets it must not keep an event loop by its traceback.
        error = as_runs_error(failure, self._api.redact).with_traceback(None)
        self.found |= dict.fromkeys(run_ids, error)
        if not isinstance(error, (BadInput, NotFound)):  # else about these runs only
            self._detector.failed(run_ids, error, began=0.0, now=0.0, among=self._number)
