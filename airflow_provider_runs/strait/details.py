"""What Strait keeps about one run: what it has done, left and used, and why it failed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from airflow_provider_runs.core.api import CanExplain
from airflow_provider_runs.core.errors import NotFound, RunsError
from airflow_provider_runs.core.http import Flow
from airflow_provider_runs.core.inputs import required_text, without_none
from airflow_provider_runs.core.run import Run, RunState
from airflow_provider_runs.strait.answers import Row
from airflow_provider_runs.strait.lists import PAGE, StraitLists, run_path
from airflow_provider_runs.strait.reasons import reason


class StraitDetails(StraitLists, CanExplain):
    """Look into a run, for :class:`~airflow_provider_runs.strait.api.StraitRunApi`."""

    def get_details(self, run_id: str) -> Flow[Row]:
        """
        Return a run as Strait shows it, ``result`` and ``error`` among it.

        :param run_id: the run.
        """
        return (yield from self._current(run_id))

    def list_children(self, run_id: str) -> Flow[list[Run]]:
        """
        Return the runs that a run has started, the first 100 of them, the oldest first.

        :param run_id: the run.
        """
        return (yield from self._runs_of(run_id, "children", "the children"))

    def list_lineage(self, run_id: str) -> Flow[list[Run]]:
        """
        Return the chain of runs, each of which went on with the one before, that a run belongs to.

        :param run_id: any run of it.
        """
        return (yield from self._runs_of(run_id, "lineage", "the lineage"))

    def list_events(
        self, run_id: str, *, level: str | None = None, type: str | None = None
    ) -> Flow[list[Row]]:
        """
        Return a run's events, the first 100 of them, the oldest first.

        :param run_id: the run.
        :param level: those of this level (``error``, ...).
        :param type: those of this type: ``log``, ``state_change``, ``error`` or ``progress``.
        """
        given = without_none({"level": level, "type": type})
        params = {name: required_text(name, value) for name, value in given.items()}
        return (yield from self._rows_of(run_id, "events", "the events", params))

    def list_checkpoints(self, run_id: str) -> Flow[list[Row]]:
        """
        Return a run's checkpoints, the last 100 of them, the newest first.

        :param run_id: the run.
        """
        return (yield from self._rows_of(run_id, "checkpoints", "the checkpoints"))

    def list_outputs(self, run_id: str) -> Flow[list[Row]]:
        """
        Return a run's structured outputs, 100 of them at most, by ``output_key``.

        :param run_id: the run.
        """
        return (yield from self._rows_of(run_id, "outputs", "the outputs"))

    def list_usage(self, run_id: str) -> Flow[list[Row]]:
        """
        Return a run's use of language models, empty where the server knows no such call.

        :param run_id: the run.
        """
        return (yield from self._rows_of_old(run_id, "usage", "the usage"))

    def list_tool_calls(self, run_id: str) -> Flow[list[Row]]:
        """
        Return a run's tool calls, empty where the server knows no such call.

        :param run_id: the run.
        """
        return (yield from self._rows_of_old(run_id, "tool-calls", "the tool calls"))

    def get_state(self, run_id: str) -> Flow[list[Row]]:
        """
        Return a run's state: ``state_key``, ``value`` and ``updated_at`` of each entry.

        :param run_id: the run.
        """
        what = f"the state of run {run_id}"
        response = yield self._request("GET", run_path(run_id, "state"), may_be_empty=True)
        # An older server answers an empty body where there is none.
        if 200 <= response.status < 300 and not response.body.strip():
            return []
        return self._rows(response, what)

    def get_debug_bundle(self, run_id: str) -> Flow[Row]:
        """
        Return a run with its events, checkpoints and outputs, and what else the server puts in.

        :param run_id: the run.
        """
        response = yield self._request("GET", run_path(run_id, "debug-bundle"))
        return self._object(response, f"the debug bundle of run {run_id}")

    def get_dependency_status(self, run_id: str) -> Flow[Row]:
        """
        Return what a run waits for: ``dependencies`` and whether they are all satisfied.

        :param run_id: the run.
        """
        response = yield self._request("GET", run_path(run_id, "dependency-status"))
        return self._object(response, f"the dependencies of run {run_id}")

    def explain(self, run_id: str) -> Flow[str | None]:
        row = yield from self._current(run_id)
        if self._run(row, f"run {run_id}").state not in (RunState.FAILED, RunState.CANCELLED):
            return None
        events: list[Row] = []
        bundle: Row | None = None
        # What more there is to say must not hide what is known.
        with suppress(RunsError):
            events = yield from self.list_events(run_id, level="error")
        if not events or len(events) >= PAGE:
            # The list begins with the oldest.
            with suppress(RunsError):
                bundle = yield from self.get_debug_bundle(run_id)
        return reason(row, events, bundle, self.redact)

    def _rows_of(
        self, run_id: str, call: str, named: str, params: Mapping[str, str] | None = None
    ) -> Flow[list[Row]]:
        """Return one page of what belongs to a run: the cursor of these lists leads nowhere."""
        asked = {**(params or {}), "limit": str(PAGE)}
        response = yield self._request("GET", run_path(run_id, call), asked)
        return self._rows(response, f"{named} of run {run_id}")

    def _runs_of(self, run_id: str, call: str, named: str) -> Flow[list[Run]]:
        rows = yield from self._rows_of(run_id, call, named)
        return [self._run(row, f"{named} of run {run_id}") for row in rows]

    def _rows_of_old(self, run_id: str, call: str, named: str) -> Flow[list[Row]]:
        """Return what only older servers keep about a run."""
        try:
            return (yield from self._rows_of(run_id, call, named))
        except NotFound:
            # Is it the run, or the call?
            yield from self._detail(run_id)
            return []
