"""Operators for Strait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from airflow_provider_runs.base.operator import CancelRunOperator, RetryRunOperator, TriggerRunOperator
from airflow_provider_runs.base.record import RECORD_KEY
from airflow_provider_runs.core.errors import BadInput, RunsError
from airflow_provider_runs.core.inputs import json_object
from airflow_provider_runs.core.run import Run, RunState
from airflow_provider_runs.core.text import one_line
from airflow_provider_runs.strait.api import ARGUMENTS, StraitRunApi
from airflow_provider_runs.strait.hooks import COLOR, StraitHook, as_strait
from airflow_provider_runs.strait.logs import EventFollower
from airflow_provider_runs.strait.results import MAX_XCOM_BYTES, PushesResults
from airflow_provider_runs.strait.triggers import StraitRunTrigger

NO_ID = "allow_no_run_id"


class StraitTriggerRunOperator(PushesResults):
    """
    Start a run of a Strait job and wait for it (https://docs.strait.dev).

    Further arguments: :class:`~airflow_provider_runs.base.operator.TriggerRunOperator`. Where the job gathers
    starts in a debounce or batch window, there is no run to wait for yet: the task fails, unless
    ``wait_for_completion=False``, and then returns an empty id.

    :param job_id: the job's id, or its slug, which takes a look-up and which not every server knows.
    :param payload: what the job gets: any JSON value, or the text of one.
    :param tags: texts by name, or the text of such a JSON object; 18 at most.
    :param scheduled_at: when it is to begin, at most 30 days ahead: datetime or ISO 8601; UTC without zone.
    :param priority: 0 to 10.
    :param ttl_secs: seconds that it may wait in the queue before it expires, 2592000 at most; 0 or None: as
        the job has it.
    :param concurrency_key: runs with one key share the job's limit of runs at once.
    :param debounce_key: starts with one key are one run, where the job has a debounce window.
    :param batch_key: starts with one key are gathered, where the job has a batch window.
    :param idempotency_key: a key of your own. It is sent as it is, on every try: a retry or a clear may get
        the old run back. None: the operator takes care of one run per task.
    :param strait_conn_id: the Airflow connection.
    :param project_id: the project; None takes the connection's. An API key has its own.
    :param stream_logs: whether to write the run's progress, log lines and errors into the task's log while
        the task waits: 10000 lines at most. Only on a worker (``deferrable=False``).
    :param push_result: whether to push what the run has returned as XCom ``result``.
    :param push_outputs: whether to push its structured outputs, a mapping, as XCom ``outputs``.
    :param max_xcom_bytes: the longest JSON text in bytes that is pushed so; what is longer is left out, and
        the log says so.
    """

    hook_class = StraitHook
    trigger_class = StraitRunTrigger
    follower_class = EventFollower
    run_fields = tuple(name for name in ARGUMENTS if name != NO_ID)
    resource_fields = ("job_id",)
    template_fields = (
        "strait_conn_id",
        "project_id",
        *run_fields,
        "max_xcom_bytes",
        *TriggerRunOperator.shared_template_fields,
    )
    template_fields_renderers = {"payload": "json", "tags": "json"}  # noqa: RUF012
    ui_color = COLOR

    def __init__(
        self,
        *,
        job_id: str,
        payload: Any = None,
        tags: Mapping[str, str] | str | None = None,
        scheduled_at: datetime | str | None = None,
        priority: int | str | None = None,
        ttl_secs: int | str | None = None,
        concurrency_key: str | None = None,
        debounce_key: str | None = None,
        batch_key: str | None = None,
        idempotency_key: str | None = None,
        strait_conn_id: str = StraitHook.default_conn_name,
        project_id: str | None = None,
        stream_logs: bool = False,
        push_result: bool = False,
        push_outputs: bool = False,
        max_xcom_bytes: int | str = MAX_XCOM_BYTES,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id
        self.payload = payload
        self.tags = tags
        self.scheduled_at = scheduled_at
        self.priority = priority
        self.ttl_secs = ttl_secs
        self.concurrency_key = concurrency_key
        self.debounce_key = debounce_key
        self.batch_key = batch_key
        self.idempotency_key = idempotency_key
        self.strait_conn_id = strait_conn_id
        self.project_id = project_id
        self.stream_logs = stream_logs
        self.push_result = push_result
        self.push_outputs = push_outputs
        self.max_xcom_bytes = max_xcom_bytes

    def execute(self, context: Any) -> str:
        run_id = super().execute(context)
        if not run_id and (store := self._store(context)) is not None:
            # There is no run that another try could go on with.
            store.delete(RECORD_KEY)
        return run_id

    def _is_durable(self) -> bool:
        return self.idempotency_key is None

    def _arguments(self) -> dict[str, Any]:
        return super()._arguments() | ({} if self.wait_for_completion else {NO_ID: True})

    def _publish(self, context: Any, run: Run) -> None:
        if run.id:
            super()._publish(context, run)
        else:
            self.log.warning("Strait has taken the start, which is %s: no run has an id yet", run.message)


class StraitReplayRunOperator(PushesResults, RetryRunOperator):
    """
    Replay an ended Strait run and wait for it (https://docs.strait.dev).

    Further arguments: :class:`~airflow_provider_runs.base.operator.RetryRunOperator`. A dead letter goes on
    under its own id; a run that has failed, timed out or crashed is followed by a new one. The task returns
    the id of the run that it waits for. Other runs cannot be replayed.

    :param run_id: the ended run's id, or a template of it.
    :param from_checkpoint: sequence of the checkpoint from which the new run goes on; not for dead letters.
    :param strait_conn_id: the Airflow connection.
    :param project_id: the project; None takes the connection's. An API key has its own.
    :param stream_logs: as for :class:`StraitTriggerRunOperator`.
    :param push_result: as for :class:`StraitTriggerRunOperator`.
    :param push_outputs: as for :class:`StraitTriggerRunOperator`.
    :param max_xcom_bytes: as for :class:`StraitTriggerRunOperator`.
    """

    hook_class = StraitHook
    trigger_class = StraitRunTrigger
    follower_class = EventFollower
    run_fields = ("from_checkpoint",)
    resource_fields = ("run_id", "from_checkpoint")
    template_fields = (
        "strait_conn_id",
        "project_id",
        *run_fields,
        "max_xcom_bytes",
        *RetryRunOperator.shared_template_fields,
    )
    ui_color = COLOR

    def __init__(
        self,
        *,
        run_id: str,
        from_checkpoint: int | str | None = None,
        strait_conn_id: str = StraitHook.default_conn_name,
        project_id: str | None = None,
        stream_logs: bool = False,
        push_result: bool = False,
        push_outputs: bool = False,
        max_xcom_bytes: int | str = MAX_XCOM_BYTES,
        **kwargs: Any,
    ) -> None:
        super().__init__(run_id=run_id, **kwargs)
        self.from_checkpoint = from_checkpoint
        self.strait_conn_id = strait_conn_id
        self.project_id = project_id
        self.stream_logs = stream_logs
        self.push_result = push_result
        self.push_outputs = push_outputs
        self.max_xcom_bytes = max_xcom_bytes


class StraitCancelRunOperator(CancelRunOperator):
    """
    Cancel Strait runs (https://docs.strait.dev).

    Further arguments: :class:`~airflow_provider_runs.base.operator.CancelRunOperator`.

    Give ``run_id`` or ``filters``. With filters only runs are cancelled that have not begun yet, and the task
    returns the list of their ids. Several ids are cancelled 100 with each request, and only those are read
    back that Strait does not report as cancelled.

    :param run_id: the run's id or a template of it; or a list of them, such as another task's ``output``.
    :param filters: which runs: at least one of ``job_id`` (or slug), ``batch_id``, ``triggered_by`` and
        ``status``; a mapping, or the text of a JSON object.
    :param strait_conn_id: the Airflow connection.
    :param project_id: the project; None takes the connection's. An API key has its own.
    """

    hook_class = StraitHook
    template_fields = ("strait_conn_id", "project_id", "filters", *CancelRunOperator.template_fields)
    ui_color = COLOR

    def __init__(
        self,
        *,
        run_id: str | Sequence[str] | None = None,
        filters: Mapping[str, str] | str | None = None,
        strait_conn_id: str = StraitHook.default_conn_name,
        project_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(run_id=() if run_id is None else run_id, **kwargs)
        self.filters = filters
        self.strait_conn_id = strait_conn_id
        self.project_id = project_id

    def execute(self, context: Any) -> str | list[str]:
        """
        Cancel the runs.

        :param context: Airflow's context.
        :return: the id or the list of ids of ``run_id``; with ``filters`` the ids of the cancelled runs.
        :raises RequestRefused: if Strait refuses for good, or an argument is wrong.
        :raises RunTimedOut: if a run of ``run_id`` has not ended in time.
        :raises RunsError: if Strait cannot be asked.
        """
        filters = self._checked(self._filters)
        if filters is None:
            return super().execute(context)
        done = self._answered(lambda: self._strait.drive(lambda api: as_strait(api).bulk_cancel_all(filters)))
        self._tell_of(done["failed"])
        self.log.info("Strait has cancelled %s runs that had not begun", done["canceled"])
        return [str(run_id) for run_id in done["run_ids"]]

    def _filters(self) -> dict[str, Any] | None:
        """
        Return what chooses the runs, None where their ids do.

        :raises BadInput: if both are given, or neither.
        """
        if (self.filters is None) == (self.run_id == ()):
            raise BadInput("give either run_id or filters")
        return None if self.filters is None else json_object("filters", self.filters)

    def _cancel_runs(self, run_ids: Sequence[str]) -> tuple[list[str], dict[str, RunsError]]:
        if len(run_ids) == 1:
            return super()._cancel_runs(run_ids)
        try:
            done = self._strait.bulk_cancel_runs(run_ids)
        except RunsError as error:
            self.log.error("The Strait runs were not cancelled: %s", error)
            return [], dict.fromkeys(run_ids, error)
        rows = [row for row in done["results"] if isinstance(row, dict)]
        self._tell_of([row for row in rows if row.get("error")])
        words = StraitRunApi.statuses.words(RunState.CANCELLED)
        cancelled = {row.get("id") for row in rows if row.get("status") in words and not row.get("error")}
        self.log.info("Strait has cancelled %s of %s runs", len(cancelled), len(run_ids))
        # One that was not cancelled may have ended, which is no failure: reading it back tells.
        return [run_id for run_id in run_ids if run_id not in cancelled], {}

    def _tell_of(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            said = [one_line(str(row.get(name)), self.hook.api.redact) for name in ("id", "error")]
            self.log.info("Strait run %s was not cancelled: %s", *said)

    @property
    def _strait(self) -> StraitHook:
        hook = self.hook
        assert isinstance(hook, StraitHook)
        return hook
