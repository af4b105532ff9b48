"""Hook for Strait."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from datetime import datetime
from typing import Any

from airflow_provider_runs.base.hook import FlowOf, RunHook
from airflow_provider_runs.core.api import RunApi
from airflow_provider_runs.core.http import Request
from airflow_provider_runs.core.inputs import list_bounds
from airflow_provider_runs.core.run import Run
from airflow_provider_runs.core.sse import Event
from airflow_provider_runs.strait.api import StraitRunApi

COLOR = "#fdf0e0"
"""What Airflow paints tasks in that use this hook."""

Row = dict[str, Any]


class StraitHook(RunHook):
    """
    Start runs of Strait's jobs, ask about them, list, cancel, replay and change them, and follow them live.

    See https://docs.strait.dev. Methods that return a mapping give it as Strait does.

    :param strait_conn_id: the Airflow connection.
    :param project_id: the project; None takes the connection's. An API key has its own.
    """

    api_class = StraitRunApi
    conn_name_attr = "strait_conn_id"
    default_conn_name = "strait_default"

    def __init__(self, strait_conn_id: str = default_conn_name, project_id: str | None = None) -> None:
        super().__init__(strait_conn_id, {"project_id": project_id})

    # Jobs

    def trigger_run(
        self,
        job_id: str,
        payload: Any = None,
        *,
        tags: Mapping[str, str] | str | None = None,
        scheduled_at: datetime | str | None = None,
        priority: int | str | None = None,
        ttl_secs: int | str | None = None,
        concurrency_key: str | None = None,
        debounce_key: str | None = None,
        batch_key: str | None = None,
        allow_no_run_id: bool = False,
        idempotency_key: str | None = None,
    ) -> Run:
        """
        Start a run of a job.

        :param job_id: the job's id, or its slug, which takes one request more.
        :param payload: what the job gets: any JSON value. A text is read as the text of one.
        :param tags: texts by name, 18 at most; ``airflow_provider_runs`` and ``airflow_run_key`` are set too.
        :param scheduled_at: when it is to begin, within 30 days: datetime or ISO 8601; without zone it is
            UTC. None: now.
        :param priority: 0 to 10.
        :param ttl_secs: seconds that it may wait in the queue before it expires, 2592000 at most; 0 or None:
            as the job has it.
        :param concurrency_key: runs with one key share the job's limit of runs at once.
        :param debounce_key: starts with one key are one run, where the job has a debounce window.
        :param batch_key: starts with one key are gathered, where the job has a batch window.
        :param allow_no_run_id: whether a start may be gathered in such a window. Then the run that is
            returned has an empty id and the status ``debounced`` or ``buffered``.
        :param idempotency_key: starts with one key within 24 h are one run, also if that has failed. Without
            it, a start whose answer is lost is not sent again.
        :return: the run.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises ApiError: if Strait refuses (Unauthorized and NotFound among it), or gathers the start.
        :raises ConnectionFailed: if Strait does not answer; the run may have been started if ``sent``.
        """
        given = {
            **_start(job_id, payload, tags, scheduled_at, priority, ttl_secs, concurrency_key),
            "debounce_key": debounce_key,
            "batch_key": batch_key,
            "allow_no_run_id": allow_no_run_id,
        }
        return self.start(given, idempotency_key)

    def dry_run(
        self,
        job_id: str,
        payload: Any = None,
        *,
        tags: Mapping[str, str] | str | None = None,
        scheduled_at: datetime | str | None = None,
        priority: int | str | None = None,
        ttl_secs: int | str | None = None,
        concurrency_key: str | None = None,
    ) -> Row:
        """
        Have Strait check the arguments of a start, its payload among them, and start nothing.

        :param job_id: the job's id or slug.
        :param payload: as for :meth:`trigger_run`.
        :param tags: as there.
        :param scheduled_at: as there.
        :param priority: as there.
        :param ttl_secs: as there.
        :param concurrency_key: as there.
        :return: ``job``, ``payload_hash``, ``expires_at`` and maybe ``validation_warnings``.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises RunsError: if Strait refuses them or does not answer.
        """
        given = _start(job_id, payload, tags, scheduled_at, priority, ttl_secs, concurrency_key)
        return self.drive(lambda api: as_strait(api).dry_run(given))

    async def adry_run(
        self,
        job_id: str,
        payload: Any = None,
        *,
        tags: Mapping[str, str] | str | None = None,
        scheduled_at: datetime | str | None = None,
        priority: int | str | None = None,
        ttl_secs: int | str | None = None,
        concurrency_key: str | None = None,
    ) -> Row:
        """
        Have Strait check the arguments of a start, as :meth:`dry_run`.

        :param job_id: the job's id or slug.
        :param payload: as for :meth:`trigger_run`.
        :param tags: as there.
        :param scheduled_at: as there.
        :param priority: as there.
        :param ttl_secs: as there.
        :param concurrency_key: as there.
        """
        given = _start(job_id, payload, tags, scheduled_at, priority, ttl_secs, concurrency_key)
        return await self.adrive(lambda api: as_strait(api).dry_run(given))

    def get_job(self, job: str) -> Row:
        """
        Return what Strait knows about a job: ``id``, ``slug``, ``enabled``, ``max_attempts`` and more.

        :param job: its id or slug.
        :raises NotFound: if there is no such job.
        :raises RunsError: if Strait cannot be asked.
        """
        return self.drive(lambda api: as_strait(api).get_job(job))

    async def aget_job(self, job: str) -> Row:
        """
        Return what Strait knows about a job, as :meth:`get_job`.

        :param job: its id or slug.
        """
        return await self.adrive(lambda api: as_strait(api).get_job(job))

    # Lists

    def list_runs(
        self,
        job_id: str | None = None,
        *,
        status: str | Sequence[str] | None = None,
        tag_key: str | None = None,
        tag_value: str | None = None,
        metadata_key: str | None = None,
        metadata_value: str | None = None,
        triggered_by: str | None = None,
        batch_id: str | None = None,
        payload_contains: Mapping[str, Any] | str | None = None,
        execution_mode: str | None = None,
        error_class: str | None = None,
        since: datetime | str | None = None,
        limit: int | None = 100,
    ) -> list[Run]:
        """
        List the project's runs, the newest first.

        :param job_id: those of this job: its id or slug. Strait cannot filter by it, so all are read.
        :param status: those with this status, or one of these: Strait's words.
        :param tag_key: those with this tag.
        :param tag_value: those whose tag ``tag_key`` has this value.
        :param metadata_key: those with this metadata; not together with ``tag_key``.
        :param metadata_value: those whose metadata ``metadata_key`` has this value.
        :param triggered_by: those started so: ``manual``, ``cron``, ...
        :param batch_id: those of this batch.
        :param payload_contains: those whose payload holds this JSON object.
        :param execution_mode: ``http`` or ``worker``.
        :param error_class: those that failed so: ``timeout``, ``client``, ...
        :param since: those created since then: datetime or ISO 8601 with offset.
        :param limit: so many at most; None: all.
        :return: the runs.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises IncompleteList: if the list has no end: more than 1,000 pages or 10 minutes, or nothing new.
        :raises RunsError: if Strait cannot be asked.
        """
        filters = {
            "job_id": job_id,
            "status": status,
            "tag_key": tag_key,
            "tag_value": tag_value,
            "metadata_key": metadata_key,
            "metadata_value": metadata_value,
            "triggered_by": triggered_by,
            "batch_id": batch_id,
            "payload_contains": payload_contains,
            "execution_mode": execution_mode,
            "error_class": error_class,
        }
        return self.drive(_listing(filters, since, limit))

    async def alist_runs(
        self,
        job_id: str | None = None,
        *,
        status: str | Sequence[str] | None = None,
        tag_key: str | None = None,
        tag_value: str | None = None,
        metadata_key: str | None = None,
        metadata_value: str | None = None,
        triggered_by: str | None = None,
        batch_id: str | None = None,
        payload_contains: Mapping[str, Any] | str | None = None,
        execution_mode: str | None = None,
        error_class: str | None = None,
        since: datetime | str | None = None,
        limit: int | None = 100,
    ) -> list[Run]:
        """
        List the project's runs, as :meth:`list_runs`.

        :param job_id: as there.
        :param status: as there.
        :param tag_key: as there.
        :param tag_value: as there.
        :param metadata_key: as there.
        :param metadata_value: as there.
        :param triggered_by: as there.
        :param batch_id: as there.
        :param payload_contains: as there.
        :param execution_mode: as there.
        :param error_class: as there.
        :param since: as there.
        :param limit: as there.
        """
        filters = {
            "job_id": job_id,
            "status": status,
            "tag_key": tag_key,
            "tag_value": tag_value,
            "metadata_key": metadata_key,
            "metadata_value": metadata_value,
            "triggered_by": triggered_by,
            "batch_id": batch_id,
            "payload_contains": payload_contains,
            "execution_mode": execution_mode,
            "error_class": error_class,
        }
        return await self.adrive(_listing(filters, since, limit))

    def list_dlq_runs(self, *, limit: int | None = 100) -> list[Run]:
        """
        List the project's dead letters, the newest first.

        :param limit: so many at most; None: all.
        :return: the runs.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises IncompleteList: if the list has no end: more than 1,000 pages or 10 minutes, or nothing new.
        :raises RunsError: if Strait cannot be asked.
        """
        return self.drive(_dead_letters(limit))

    async def alist_dlq_runs(self, *, limit: int | None = 100) -> list[Run]:
        """
        List the project's dead letters, as :meth:`list_dlq_runs`.

        :param limit: so many at most; None: all.
        """
        return await self.adrive(_dead_letters(limit))

    # What belongs to a run

    def get_details(self, run_id: str) -> Row:
        """
        Return a run as Strait shows it: ``status``, ``result``, ``error``, ``payload`` and more.

        Fields that are empty are left out.

        :param run_id: the run.
        :raises RunsError: if Strait cannot be asked.
        """
        return self.drive(lambda api: as_strait(api).get_details(run_id))

    async def aget_details(self, run_id: str) -> Row:
        """
        Return a run as Strait shows it, as :meth:`get_details`.

        :param run_id: the run.
        """
        return await self.adrive(lambda api: as_strait(api).get_details(run_id))

    def list_children(self, run_id: str) -> list[Run]:
        """
        Return the runs that a run has started, the first 100 of them, the oldest first.

        :param run_id: the run.
        :raises RunsError: if Strait cannot be asked.
        """
        return self.drive(lambda api: as_strait(api).list_children(run_id))

    async def alist_children(self, run_id: str) -> list[Run]:
        """
        Return the runs that a run has started, as :meth:`list_children`.

        :param run_id: the run.
        """
        return await self.adrive(lambda api: as_strait(api).list_children(run_id))

    def list_events(self, run_id: str, *, level: str | None = None, type: str | None = None) -> list[Row]:
        """
        Return a run's events, the first 100 of them, the oldest first.

        Each has ``type``, ``message`` and ``created_at``, maybe ``level`` and ``data``.

        :param run_id: the run.
        :param level: those of this level: ``info``, ``error``, ...
        :param type: those of this type: ``log``, ``state_change``, ``error`` or ``progress``.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises RunsError: if Strait cannot be asked.
        """
        return self.drive(lambda api: as_strait(api).list_events(run_id, level=level, type=type))

    async def alist_events(
        self, run_id: str, *, level: str | None = None, type: str | None = None
    ) -> list[Row]:
        """
        Return a run's events, as :meth:`list_events`.

        :param run_id: the run.
        :param level: as there.
        :param type: as there.
        """
        return await self.adrive(lambda api: as_strait(api).list_events(run_id, level=level, type=type))

    def list_checkpoints(self, run_id: str) -> list[Row]:
        """
        Return a run's checkpoints, the last 100 of them, the newest first.

        Each has ``sequence``, ``source``, ``state`` and ``created_at``.

        :param run_id: the run.
        :raises RunsError: if Strait cannot be asked.
        """
        return self.drive(lambda api: as_strait(api).list_checkpoints(run_id))

    async def alist_checkpoints(self, run_id: str) -> list[Row]:
        """
        Return a run's checkpoints, as :meth:`list_checkpoints`.

        :param run_id: the run.
        """
        return await self.adrive(lambda api: as_strait(api).list_checkpoints(run_id))

    def list_usage(self, run_id: str) -> list[Row]:
        """
        Return a run's use of language models. Today's servers have no such call: then it is empty.

        Each row has ``provider``, ``model``, ``prompt_tokens``, ``completion_tokens``, ``total_tokens``,
        ``cost_microusd`` and ``created_at``.

        :param run_id: the run.
        :raises RunsError: if Strait cannot be asked.
        """
        return self.drive(lambda api: as_strait(api).list_usage(run_id))

    async def alist_usage(self, run_id: str) -> list[Row]:
        """
        Return a run's use of language models, as :meth:`list_usage`.

        :param run_id: the run.
        """
        return await self.adrive(lambda api: as_strait(api).list_usage(run_id))

    def list_tool_calls(self, run_id: str) -> list[Row]:
        """
        Return a run's tool calls. Today's servers have no such call: then it is empty.

        Each has ``tool_name``, ``input``, ``output``, ``duration_ms``, ``status`` and ``created_at``.

        :param run_id: the run.
        :raises RunsError: if Strait cannot be asked.
        """
        return self.drive(lambda api: as_strait(api).list_tool_calls(run_id))

    async def alist_tool_calls(self, run_id: str) -> list[Row]:
        """
        Return a run's tool calls, as :meth:`list_tool_calls`.

        :param run_id: the run.
        """
        return await self.adrive(lambda api: as_strait(api).list_tool_calls(run_id))

    def list_outputs(self, run_id: str) -> list[Row]:
        """
        Return a run's structured outputs, 100 of them at most: ``output_key``, ``value`` and more of each.

        :param run_id: the run.
        :raises RunsError: if Strait cannot be asked.
        """
        return self.drive(lambda api: as_strait(api).list_outputs(run_id))

    async def alist_outputs(self, run_id: str) -> list[Row]:
        """
        Return a run's structured outputs, 100 of them at most, as :meth:`list_outputs`.

        :param run_id: the run.
        """
        return await self.adrive(lambda api: as_strait(api).list_outputs(run_id))

    def get_debug_bundle(self, run_id: str) -> Row:
        """
        Return a run with what belongs to it in one answer, which may be large.

        It has ``run``, ``events``, ``checkpoints`` and ``outputs``, from today's servers also
        ``resource_snapshots``, from older ones ``usage`` and ``tool_calls``.

        :param run_id: the run.
        :raises RunsError: if Strait cannot be asked.
        """
        return self.drive(lambda api: as_strait(api).get_debug_bundle(run_id))

    async def aget_debug_bundle(self, run_id: str) -> Row:
        """
        Return a run with what belongs to it, as :meth:`get_debug_bundle`.

        :param run_id: the run.
        """
        return await self.adrive(lambda api: as_strait(api).get_debug_bundle(run_id))

    def list_lineage(self, run_id: str) -> list[Run]:
        """
        Return the chain of runs, each of which went on with the one before, that a run belongs to.

        :param run_id: the run.
        :raises RunsError: if Strait cannot be asked.
        """
        return self.drive(lambda api: as_strait(api).list_lineage(run_id))

    async def alist_lineage(self, run_id: str) -> list[Run]:
        """
        Return the chain of runs that a run belongs to, as :meth:`list_lineage`.

        :param run_id: the run.
        """
        return await self.adrive(lambda api: as_strait(api).list_lineage(run_id))

    def get_dependency_status(self, run_id: str) -> Row:
        """
        Return what a waiting run waits for: ``dependencies`` and ``dependencies_satisfied``.

        :param run_id: the run.
        :raises RunsError: if Strait cannot be asked.
        """
        return self.drive(lambda api: as_strait(api).get_dependency_status(run_id))

    async def aget_dependency_status(self, run_id: str) -> Row:
        """
        Return what a waiting run waits for, as :meth:`get_dependency_status`.

        :param run_id: the run.
        """
        return await self.adrive(lambda api: as_strait(api).get_dependency_status(run_id))

    def get_state(self, run_id: str) -> list[Row]:
        """
        Return a run's state: ``state_key``, ``value`` and ``updated_at`` of each entry.

        :param run_id: the run.
        :raises RunsError: if Strait cannot be asked.
        """
        return self.drive(lambda api: as_strait(api).get_state(run_id))

    async def aget_state(self, run_id: str) -> list[Row]:
        """
        Return a run's state, as :meth:`get_state`.

        :param run_id: the run.
        """
        return await self.adrive(lambda api: as_strait(api).get_state(run_id))

    def run_url(self, run_id: str) -> str | None:
        """
        Return the address of a run's page, None where the connection does not tell. Nothing is sent.

        :param run_id: the run.
        :raises ConnectionUnreadable: if Airflow does not hand out the connection.
        :raises BadInput: if a field of it is wrong.
        """
        return as_strait(self.api).run_url(run_id)

    # Cancelling, replaying, changing

    def bulk_cancel_runs(self, run_ids: Sequence[str]) -> Row:
        """
        Cancel runs, 100 with each request.

        :param run_ids: the runs.
        :return: ``results`` (``id``, ``status`` and maybe ``error`` of each), ``total``, ``canceled`` and
            ``failed``. A run that has ended is one that failed to be cancelled.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises RunsError: if Strait refuses or does not answer.
        """
        return self.drive(lambda api: as_strait(api).bulk_cancel(run_ids))

    async def abulk_cancel_runs(self, run_ids: Sequence[str]) -> Row:
        """
        Cancel runs, 100 with each request, as :meth:`bulk_cancel_runs`.

        :param run_ids: the runs.
        """
        return await self.adrive(lambda api: as_strait(api).bulk_cancel(run_ids))

    def bulk_cancel_all_runs(
        self,
        *,
        job_id: str | None = None,
        batch_id: str | None = None,
        triggered_by: str | None = None,
        status: str | None = None,
    ) -> Row:
        """
        Cancel the runs that have never started and match all that is given; something must be.

        :param job_id: those of this job: its id or slug.
        :param batch_id: those of this batch.
        :param triggered_by: those started so.
        :param status: ``delayed`` or ``queued``.
        :return: ``canceled`` (their number), ``run_ids``, and ``failed``, which only older servers tell.
        :raises BadInput: if nothing is given; nothing was sent.
        :raises RunsError: if Strait refuses or does not answer.
        """
        filters = {"job_id": job_id, "batch_id": batch_id, "triggered_by": triggered_by, "status": status}
        return self.drive(lambda api: as_strait(api).bulk_cancel_all(filters))

    async def abulk_cancel_all_runs(
        self,
        *,
        job_id: str | None = None,
        batch_id: str | None = None,
        triggered_by: str | None = None,
        status: str | None = None,
    ) -> Row:
        """
        Cancel the runs that have never started, as :meth:`bulk_cancel_all_runs`.

        :param job_id: those of this job: its id or slug.
        :param batch_id: those of this batch.
        :param triggered_by: those started so.
        :param status: ``delayed`` or ``queued``.
        """
        filters = {"job_id": job_id, "batch_id": batch_id, "triggered_by": triggered_by, "status": status}
        return await self.adrive(lambda api: as_strait(api).bulk_cancel_all(filters))

    def retry_run(self, run_id: str, *, from_checkpoint: int | str | None = None) -> Run:
        """
        Go on with a run that failed: queue a dead letter again, or begin a new run with its payload.

        :param run_id: the ended run.
        :param from_checkpoint: sequence of one of its checkpoints, whose state the new run gets as payload.
        :return: the run to wait for: a dead letter keeps its id.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises ApiError: if the run goes, has succeeded, was cancelled or has expired.
        :raises ConnectionFailed: if Strait does not answer; the run may go again if ``sent``.
        """
        return self.drive(_retrying(run_id, from_checkpoint))

    async def aretry_run(self, run_id: str, *, from_checkpoint: int | str | None = None) -> Run:
        """
        Go on with a run that failed, as :meth:`retry_run`.

        :param run_id: the ended run.
        :param from_checkpoint: sequence of one of its checkpoints, whose state the new run gets as payload.
        """
        return await self.adrive(_retrying(run_id, from_checkpoint))

    def replay_run(self, run_id: str, *, from_checkpoint: int | str | None = None) -> Run:
        """
        Begin a new run with the payload of one that failed, timed out or crashed.

        :param run_id: the ended run.
        :param from_checkpoint: sequence of one of its checkpoints, whose state the new run gets as payload.
        :return: the new run.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises RunsError: if Strait refuses or does not answer.
        """
        return self.drive(lambda api: as_strait(api).replay(run_id, from_checkpoint))

    async def areplay_run(self, run_id: str, *, from_checkpoint: int | str | None = None) -> Run:
        """
        Begin a new run with the payload of one that failed, timed out or crashed, as :meth:`replay_run`.

        :param run_id: the ended run.
        :param from_checkpoint: sequence of one of its checkpoints, whose state the new run gets as payload.
        """
        return await self.adrive(lambda api: as_strait(api).replay(run_id, from_checkpoint))

    def dlq_replay_run(self, run_id: str) -> Run:
        """
        Queue a dead letter again.

        :param run_id: the dead letter.
        :return: the run, queued again under its id.
        :raises RunsError: if Strait refuses or does not answer.
        """
        return self.drive(lambda api: as_strait(api).dlq_replay(run_id))

    async def adlq_replay_run(self, run_id: str) -> Run:
        """
        Queue a dead letter again, as :meth:`dlq_replay_run`.

        :param run_id: the dead letter.
        """
        return await self.adrive(lambda api: as_strait(api).dlq_replay(run_id))

    def bulk_dlq_replay_runs(
        self, run_ids: Sequence[str] | None = None, *, project_id: str | None = None, limit: int | None = None
    ) -> list[Run]:
        """
        Queue dead letters again. The runs keep their ids.

        :param run_ids: the dead letters, 500 at most.
        :param project_id: instead, those of a project.
        :param limit: so many of a project's at most, up to 500; None: 100.
        :return: the runs.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises RunsError: if Strait refuses or does not answer.
        """
        return self.drive(
            lambda api: as_strait(api).bulk_dlq_replay(run_ids, project_id=project_id, limit=limit)
        )

    async def abulk_dlq_replay_runs(
        self, run_ids: Sequence[str] | None = None, *, project_id: str | None = None, limit: int | None = None
    ) -> list[Run]:
        """
        Queue dead letters again, as :meth:`bulk_dlq_replay_runs`.

        :param run_ids: as there.
        :param project_id: instead, those of a project.
        :param limit: as there.
        """
        return await self.adrive(
            lambda api: as_strait(api).bulk_dlq_replay(run_ids, project_id=project_id, limit=limit)
        )

    def bulk_replay_runs(self, run_ids: Sequence[str]) -> list[Row]:
        """
        Begin a new run for each of several that failed.

        :param run_ids: the ended runs, 100 at most.
        :return: ``status`` (``replayed``, ``skipped`` or ``failed``) of each, ``new_run_id`` if there is
            one, and, but for older servers, ``original_run_id`` and maybe ``error``.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises RunsError: if Strait refuses or does not answer.
        """
        return self.drive(lambda api: as_strait(api).bulk_replay(run_ids))

    async def abulk_replay_runs(self, run_ids: Sequence[str]) -> list[Row]:
        """
        Begin a new run for each of several that failed, as :meth:`bulk_replay_runs`.

        :param run_ids: the ended runs, 100 at most.
        """
        return await self.adrive(lambda api: as_strait(api).bulk_replay(run_ids))

    def set_debug_mode(self, run_id: str, on: bool = True) -> None:
        """
        Switch a run's debug mode.

        :param run_id: the run.
        :param on: whether it is on from now on.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises RunsError: if Strait refuses or does not answer.
        """
        self.drive(lambda api: as_strait(api).set_debug_mode(run_id, on))

    async def aset_debug_mode(self, run_id: str, on: bool = True) -> None:
        """
        Switch a run's debug mode, as :meth:`set_debug_mode`.

        :param run_id: the run.
        :param on: whether it is on from now on.
        """
        await self.adrive(lambda api: as_strait(api).set_debug_mode(run_id, on))

    def reset_idempotency_key(self, run_id: str) -> None:
        """
        Have Strait forget the key that a run was started with, so that it can be used again.

        :param run_id: the run.
        :raises RunsError: if Strait refuses or does not answer.
        """
        self.drive(lambda api: as_strait(api).reset_idempotency_key(run_id))

    async def areset_idempotency_key(self, run_id: str) -> None:
        """
        Have Strait forget the key of a run, as :meth:`reset_idempotency_key`.

        :param run_id: the run.
        """
        await self.adrive(lambda api: as_strait(api).reset_idempotency_key(run_id))

    def reschedule_run(self, run_id: str, scheduled_at: datetime | str, payload: Any = None) -> Run:
        """
        Have a run that has never started begin at another time.

        :param run_id: the run.
        :param scheduled_at: when: datetime or ISO 8601; without zone it is UTC.
        :param payload: what it gets instead of its payload; None leaves that as it is.
        :return: the run as it is after the call.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises RunsError: if Strait refuses or does not answer.
        """
        return self.drive(lambda api: as_strait(api).reschedule(run_id, scheduled_at, payload))

    async def areschedule_run(self, run_id: str, scheduled_at: datetime | str, payload: Any = None) -> Run:
        """
        Have a run that has never started begin at another time, as :meth:`reschedule_run`.

        :param run_id: the run.
        :param scheduled_at: when: datetime or ISO 8601; without zone it is UTC.
        :param payload: what it gets instead of its payload; None leaves that as it is.
        """
        return await self.adrive(lambda api: as_strait(api).reschedule(run_id, scheduled_at, payload))

    def pause_run(self, run_id: str) -> Run:
        """
        Pause a run that is executing. Nothing but :meth:`resume_run` or a cancel ends the pause.

        :param run_id: the run.
        :return: the run as it is after the call.
        :raises RunsError: if Strait refuses or does not answer.
        """
        return self.drive(lambda api: as_strait(api).pause(run_id))

    async def apause_run(self, run_id: str) -> Run:
        """
        Pause a run that is executing, as :meth:`pause_run`.

        :param run_id: the run.
        """
        return await self.adrive(lambda api: as_strait(api).pause(run_id))

    def resume_run(self, run_id: str) -> Run:
        """
        Queue a paused run again.

        :param run_id: the run.
        :return: the run as it is after the call.
        :raises RunsError: if Strait refuses or does not answer.
        """
        return self.drive(lambda api: as_strait(api).resume(run_id))

    async def aresume_run(self, run_id: str) -> Run:
        """
        Queue a paused run again, as :meth:`resume_run`.

        :param run_id: the run.
        """
        return await self.adrive(lambda api: as_strait(api).resume(run_id))

    def restart_run(self, run_id: str, machine_preset: str | None = None) -> Run:
        """
        Queue a run again that is executing or paused. It keeps its id.

        :param run_id: the run.
        :param machine_preset: the machine that it gets; today's servers ignore it.
        :return: the run as it is after the call.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises RunsError: if Strait refuses or does not answer.
        """
        return self.drive(lambda api: as_strait(api).restart(run_id, machine_preset))

    async def arestart_run(self, run_id: str, machine_preset: str | None = None) -> Run:
        """
        Queue a run again that is executing or paused, as :meth:`restart_run`.

        :param run_id: the run.
        :param machine_preset: the machine that it gets; today's servers ignore it.
        """
        return await self.adrive(lambda api: as_strait(api).restart(run_id, machine_preset))

    # Live

    def stream_run(self, run_id: str) -> Generator[Event, None, None]:
        """
        Yield what happens to a run, as Strait tells it live, until Strait ends the stream.

        Strait does not tell everything, and does not end the stream with the run: the run is to be asked
        about. To be closed by whoever does not read it to its end (``contextlib.closing``).

        :param run_id: the run.
        :raises ApiError: if Strait refuses: 410 where the run has ended, 503 beside too many streams.
        :raises ConnectionFailed: if Strait does not answer, or the stream broke off or fell silent.
        """
        return self._events(as_strait(self.api).stream_request(run_id))

    def astream_run(self, run_id: str) -> AsyncGenerator[Event, None]:
        """
        Yield what happens to a run, as :meth:`stream_run`. To be closed by ``contextlib.aclosing``.

        :param run_id: the run.
        """
        return self._aevents(lambda api: api.stream_request(run_id))

    def stream_chunks(self, run_id: str) -> Generator[Event, None, None]:
        """
        Yield what a run's language model says, live, as :meth:`stream_run` does what happens to the run.

        :param run_id: the run.
        :raises RunsError: as there.
        """
        return self._events(as_strait(self.api).chunks_request(run_id))

    def astream_chunks(self, run_id: str) -> AsyncGenerator[Event, None]:
        """
        Yield what a run's language model says, as :meth:`stream_chunks`.

        :param run_id: the run.
        """
        return self._aevents(lambda api: api.chunks_request(run_id))

    def _events(self, request: Request) -> Generator[Event, None, None]:
        with closing(self._driver.stream_events(request)) as frames:
            yield from (frame for frame in frames if isinstance(frame, Event))

    async def _aevents(self, request_of: Callable[[StraitRunApi], Request]) -> AsyncGenerator[Event, None]:
        driver = await self.async_driver()
        async with aclosing(driver.stream_events(request_of(as_strait(driver.api)))) as frames:
            async for frame in frames:
                if isinstance(frame, Event):
                    yield frame


def as_strait(api: RunApi) -> StraitRunApi:
    """
    Narrow a hook's API to Strait's, for type checkers.

    :param api: the hook's API.
    :return: the same.
    """
    assert isinstance(api, StraitRunApi)
    return api


def _start(
    job_id: str,
    payload: Any,
    tags: Mapping[str, str] | str | None,
    scheduled_at: datetime | str | None,
    priority: int | str | None,
    ttl_secs: int | str | None,
    concurrency_key: str | None,
) -> Row:
    return {
        "job_id": job_id,
        "payload": payload,
        "tags": tags,
        "scheduled_at": scheduled_at,
        "priority": priority,
        "ttl_secs": ttl_secs,
        "concurrency_key": concurrency_key,
    }


def _listing(filters: Row, since: datetime | str | None, limit: int | None) -> FlowOf[list[Run]]:
    moment, most = list_bounds(since, limit)
    return lambda api: as_strait(api).list_runs(filters, since=moment, limit=most)


def _dead_letters(limit: int | None) -> FlowOf[list[Run]]:
    _, most = list_bounds(None, limit)
    return lambda api: as_strait(api).list_dlq_runs(limit=most)


def _retrying(run_id: str, from_checkpoint: int | str | None) -> FlowOf[Run]:
    arguments = {} if from_checkpoint is None else {"from_checkpoint": from_checkpoint}
    return lambda api: as_strait(api).retry(run_id, arguments)
