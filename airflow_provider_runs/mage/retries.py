"""Mage's runs that go on: their failed blocks run again, or a block and all that depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from airflow_provider_runs.core.api import CanRetry
from airflow_provider_runs.core.errors import ApiError, NotFound
from airflow_provider_runs.core.http import Flow
from airflow_provider_runs.core.inputs import required_text, unknown_names
from airflow_provider_runs.core.run import Run, RunState
from airflow_provider_runs.mage.answers import Row, blocks_of
from airflow_provider_runs.mage.lists import MageLists
from airflow_provider_runs.mage.lookups import run_number


class MageRetries(MageLists, CanRetry):
    """Retry runs, for :class:`~airflow_provider_runs.mage.api.MageRunApi`."""

    def prepare_retry(self, run_id: str, arguments: Mapping[str, Any]) -> None:
        run_number(run_id)
        unknown_names("retry of a Mage run", arguments, ("from_block_uuid",))
        if arguments.get("from_block_uuid") is not None:
            required_text("from_block_uuid", arguments["from_block_uuid"])

    def check_retry(self, run_id: str, arguments: Mapping[str, Any]) -> Flow[Mapping[str, Any]]:
        """
        Refuse what Mage would accept, as it does every retry, though it would do nothing or harm.

        :param run_id: the run.
        :param arguments: ``from_block_uuid``, the first block to run again, or nothing.
        """
        self.prepare_retry(run_id, arguments)
        row = yield from self._detail(run_id)
        run = self._run(row)
        if not run.state.is_terminal:
            raise _no_retry(run, f"it is {run.status}; only an ended run can be retried")
        if arguments.get("from_block_uuid") is not None:
            yield from self._check_block(run, row, arguments["from_block_uuid"].strip())
        elif run.state is RunState.SUCCEEDED:
            raise _no_retry(run, "it has completed. Name a block by from_block_uuid to run it again")
        yield from self._check_timeout(run, row)
        return {"finished_at": run.finished_at and run.finished_at.timestamp()}

    def retry(self, run_id: str, arguments: Mapping[str, Any]) -> Flow[Run]:
        """
        Run the blocks of an ended run again that did not complete, or a block and all that depend on it.

        :param run_id: the run, which keeps its id.
        :param arguments: as for :meth:`check_retry`.
        """
        self.prepare_retry(run_id, arguments)
        action = {"pipeline_run_action": "retry_blocks"}
        if arguments.get("from_block_uuid") is not None:
            action["from_block_uuid"] = arguments["from_block_uuid"].strip()
        response = yield self._request(
            "PUT",
            f"/api/pipeline_runs/{run_number(run_id)}",
            safe_to_repeat=False,
            json={"pipeline_run": action},
        )
        return self._run(self._read(response, "pipeline_run", f"retrying run {run_id}"))

    def find_retried(
        self,
        run_id: str,
        arguments: Mapping[str, Any],
        since: float,
        known: Mapping[str, Any] | None = None,
    ) -> Flow[Run | None]:
        run = yield from self.get(run_id)
        if run.state in (RunState.FAILED, RunState.CANCELLED):
            return None
        ended = run.finished_at.timestamp() if run.finished_at else since
        # Mage's own clock tells, where it was read before.
        is_old = ended == known.get("finished_at") if known else ended < since
        if run.state is RunState.SUCCEEDED and arguments.get("from_block_uuid") and is_old:
            return None
        return run

    # What a retry must not do

    def _check_block(self, run: Run, row: Row, block: str) -> Flow[None]:
        pipeline, what = str(row.get("pipeline_uuid")), f"the blocks of run {run.id}"
        response = yield self._request(
            "GET",
            f"/api/pipelines/{quote(pipeline, safe='')}",
            {"includes_content": "false", "includes_outputs": "false"},
        )
        described = self._read(response, "pipeline", what)
        blocks = described.get("blocks") if isinstance(described, dict) else None
        if not isinstance(blocks, list) or not all(isinstance(one, dict) for one in blocks):
            raise self._unusable(response, what)
        upstream = {str(one.get("uuid")): one.get("upstream_blocks") or () for one in blocks}
        if block not in upstream:
            raise _no_retry(run, f"it has no block {block!r}; it has {', '.join(upstream)}")
        again = {block}
        while more := {one for one, needs in upstream.items() if again & set(needs)} - again:
            again |= more
        left = {
            str(one.get("block_uuid"))
            for one in blocks_of(row)
            if one.get("status") not in ("completed", "condition_failed")
        }
        # The blocks that a dynamic block makes carry its name before a colon.
        if others := sorted(one for one in left if one.partition(":")[0] not in again):
            raise _no_retry(
                run,
                f"from block {block!r} the blocks {', '.join(others)} would stay as they are, not completed, "
                "and Mage would end the run or never end it. Retry without from_block_uuid",
            )

    def _check_timeout(self, run: Run, row: Row) -> Flow[None]:
        """Refuse to retry a run that has outlived its trigger's timeout: Mage would end it at once."""
        schedule = row.get("pipeline_schedule_id")
        if not isinstance(schedule, int) or run.started_at is None:
            return
        try:
            settings = (yield from self._schedule_by_id(schedule)).get("settings")
        except NotFound:
            return
        timeout = settings.get("timeout") if isinstance(settings, dict) else None
        if not isinstance(timeout, (int, float)) or isinstance(timeout, bool):
            return
        if self.now() - run.started_at.timestamp() > timeout > 0:
            raise _no_retry(
                run,
                f"its trigger has a timeout of {timeout} s, which Mage counts from the run's first start, so "
                "it would end at once. Start a new run, or change the timeout in Mage",
            )


def _no_retry(run: Run, why: str) -> ApiError:
    return ApiError(f"Mage run {run.id} is not retried: {why}", status=409, permanent=True)
