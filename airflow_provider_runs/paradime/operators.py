"""Operators for Paradime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_runs.base.link import RUN_URL
from airflow_provider_runs.base.logs import StreamsLogs
from airflow_provider_runs.base.operator import CancelRunOperator, RetryRunOperator, TriggerRunOperator
from airflow_provider_runs.base.task import ServiceTask
from airflow_provider_runs.paradime.api import ARGUMENTS
from airflow_provider_runs.paradime.artifacts import MAX_BYTES
from airflow_provider_runs.paradime.hooks import COLOR, ParadimeHook
from airflow_provider_runs.paradime.lineage import ReportsLineage
from airflow_provider_runs.paradime.logs import OutputFollower
from airflow_provider_runs.paradime.triggers import ParadimeRunTrigger

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

REASON = (
    "Airflow DAG {{ dag.dag_id }}, run {{ run_id }}, task {{ ti.task_id }}"
    "{% if ti.map_index >= 0 %} [{{ ti.map_index }}]{% endif %}"
)


class ParadimeTriggerRunOperator(ReportsLineage, StreamsLogs):
    """
    Start a run of a Bolt schedule and wait for it.

    See https://docs.paradime.io/app-help/documentation/bolt. Further arguments:
    :class:`~airflow_provider_runs.base.operator.TriggerRunOperator`.

    :param slug: the schedule's slug.
    :param schedule_name: the older name of the same argument, for servers that know no slugs.
    :param commands: commands to run instead of the schedule's: a list of texts, or the text of a JSON list.
    :param branch: branch or commit to run on instead of the schedule's.
    :param pr_number: number of the pull request that the run belongs to: a positive whole number.
    :param reason: why it is started, for people; None sends none. Default: the DAG, its run and the task.
        Left out where the server takes none yet.
    :param command_configs: as ``commands``, each a mapping of ``command`` and ``continue_on_error``. Needs
        the workspace's feature "continue on error".
    :param continue_on_error: whether the run goes on after a command that fails. Needs the same feature.
    :param paradime_conn_id: the Airflow connection.
    :param workspace_uid: UID of the workspace; None takes the connection's.
    :param retry_from_failure: whether a retry of the task repeats the failed commands of this task's own run,
        where that ended badly, instead of starting another run from its beginning. A cleared task starts
        anew. Needs Airflow 3.3 or later; before that, a retry starts another run and says so.
    :param on_unknown_start: what a retry of the task does where the answer to the start was lost and other
        runs of the schedule have been started since. Paradime's runs carry no key: a run is told for this
        task's only by ``commands`` that the schedule does not have, best by some that no other task has
        either (``--vars`` with ``{{ run_id }}``). Where nothing tells: ``fail`` without a retry and with the
        list of the runs; ``adopt`` the run if it is the only one, which is never cancelled then, and else
        fail; or ``start`` another one. Where there is no such run after ``request_timeout``, another one is
        started, and a server that is slower than that may start both. Needs Airflow 3.3 or later; before
        that, a retry starts another run.
    :param stream_logs: whether to write the output of the run's commands into the task's log while the task
        waits: 10000 lines at most. Only on a worker (``deferrable=False``). It adds a request every 1 to 10
        seconds, which counts in ``max_requests_per_minute``.
    """

    hook_class = ParadimeHook
    trigger_class = ParadimeRunTrigger
    follower_class = OutputFollower
    run_fields = ARGUMENTS
    resource_fields = ("slug", "schedule_name")
    template_fields = (
        "paradime_conn_id",
        "workspace_uid",
        *run_fields,
        *TriggerRunOperator.shared_template_fields,
    )
    template_fields_renderers = {"commands": "json", "command_configs": "json"}  # noqa: RUF012
    ui_color = COLOR

    def __init__(
        self,
        *,
        slug: str | None = None,
        schedule_name: str | None = None,
        commands: Sequence[str] | str | None = None,
        branch: str | None = None,
        pr_number: int | str | None = None,
        reason: str | None = REASON,
        command_configs: Sequence[Mapping[str, Any]] | str | None = None,
        continue_on_error: bool | str | None = None,
        paradime_conn_id: str = ParadimeHook.default_conn_name,
        workspace_uid: str | None = None,
        retry_from_failure: bool = False,
        on_unknown_start: str = "fail",
        stream_logs: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.stream_logs = stream_logs
        self.slug = slug
        self.schedule_name = schedule_name
        self.commands = commands
        self.branch = branch
        self.pr_number = pr_number
        self.reason = reason
        self.command_configs = command_configs
        self.continue_on_error = continue_on_error
        self.paradime_conn_id = paradime_conn_id
        self.workspace_uid = workspace_uid
        self.retry_from_failure = retry_from_failure
        self.on_unknown_start = on_unknown_start


class ParadimeRetryRunOperator(ReportsLineage, StreamsLogs, RetryRunOperator):
    """
    Begin a new Paradime run that repeats the failed commands of an ended one, and wait for it.

    See https://docs.paradime.io/app-help/documentation/bolt. Further arguments:
    :class:`~airflow_provider_runs.base.operator.RetryRunOperator`. The task returns the new run's id. A run
    that goes is refused, and so is one that has succeeded, unless ``all_commands``.

    :param run_id: the ended run's id, or a template of it.
    :param all_commands: whether to repeat all its commands instead.
    :param slug: slug of the run's schedule, in whose list a retry whose answer was lost is looked for. None:
        in the list of all runs, which not every server may give.
    :param schedule_name: the older name of the same argument.
    :param paradime_conn_id: the Airflow connection.
    :param workspace_uid: UID of the workspace; None takes the connection's.
    :param stream_logs: whether to write the output of the new run's commands into the task's log, as
        :class:`ParadimeTriggerRunOperator` does.
    """

    hook_class = ParadimeHook
    trigger_class = ParadimeRunTrigger
    follower_class = OutputFollower
    run_fields = ("all_commands", "slug", "schedule_name")
    resource_fields = ("run_id", "all_commands")
    template_fields = (
        "paradime_conn_id",
        "workspace_uid",
        *run_fields,
        *RetryRunOperator.shared_template_fields,
    )
    ui_color = COLOR

    def __init__(
        self,
        *,
        run_id: str,
        all_commands: bool | str = False,
        slug: str | None = None,
        schedule_name: str | None = None,
        paradime_conn_id: str = ParadimeHook.default_conn_name,
        workspace_uid: str | None = None,
        stream_logs: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(run_id=run_id, **kwargs)
        self.stream_logs = stream_logs
        self.all_commands = all_commands
        self.slug = slug
        self.schedule_name = schedule_name
        self.paradime_conn_id = paradime_conn_id
        self.workspace_uid = workspace_uid


class ParadimeCancelRunOperator(CancelRunOperator):
    """
    Cancel Paradime runs (https://docs.paradime.io/app-help/documentation/bolt).

    See :class:`~airflow_provider_runs.base.operator.CancelRunOperator`.

    :param run_id: the run's id or a template of it; or a list of them, such as another task's ``output``.
    :param paradime_conn_id: the Airflow connection.
    :param workspace_uid: UID of the workspace; None takes the connection's.
    """

    hook_class = ParadimeHook
    template_fields = ("paradime_conn_id", "workspace_uid", *CancelRunOperator.template_fields)
    ui_color = COLOR

    def __init__(
        self,
        *,
        run_id: str | Sequence[str],
        paradime_conn_id: str = ParadimeHook.default_conn_name,
        workspace_uid: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(run_id=run_id, **kwargs)
        self.paradime_conn_id = paradime_conn_id
        self.workspace_uid = workspace_uid


class ParadimeDownloadArtifactOperator(ServiceTask):
    """
    Copy a file that a command of a Paradime run has left, byte by byte, to an ``ObjectStoragePath``.

    See https://docs.paradime.io/app-help/documentation/bolt. The file is first streamed to the worker's
    temporary folder and appears at its place only when all of it has come; what was there is replaced. The
    task returns ``path`` (the target), ``bytes`` (its length) and ``sha256`` (hexadecimal); it pushes the
    run's page as ``run_url``.

    :param run_id: the run's id, or a template of it.
    :param path: the artifact's path, such as ``target/manifest.json`` or ``target/run_results.json``.
    :param target: where to: an ``ObjectStoragePath``, its URL (``s3://conn_id@bucket/key``), or an absolute
        local path.
    :param command_id: the command that has left it. None: the last one that has left such a file, also if it
        failed.
    :param command: instead, the text of that command, such as ``dbt test``; the last with that text counts.
    :param max_bytes: its length in bytes at most. Default: 1 GiB.
    :param paradime_conn_id: the Airflow connection.
    :param workspace_uid: UID of the workspace; None takes the connection's.
    """

    hook_class = ParadimeHook
    template_fields = (
        "paradime_conn_id",
        "workspace_uid",
        "run_id",
        "path",
        "target",
        "command_id",
        "command",
        "max_bytes",
    )
    ui_color = COLOR

    def __init__(
        self,
        *,
        run_id: str,
        path: str,
        target: str | ObjectStoragePath,
        command_id: int | str | None = None,
        command: str | None = None,
        max_bytes: int | str = MAX_BYTES,
        paradime_conn_id: str = ParadimeHook.default_conn_name,
        workspace_uid: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.run_id = run_id
        self.path = path
        self.target = target
        self.command_id = command_id
        self.command = command
        self.max_bytes = max_bytes
        self.paradime_conn_id = paradime_conn_id
        self.workspace_uid = workspace_uid

    def execute(self, context: Any) -> dict[str, Any]:
        """
        Download the artifact.

        :param context: Airflow's context.
        :return: ``path`` (the target), ``bytes`` (its length) and ``sha256`` (hexadecimal).
        :raises RequestRefused: if there is no such artifact, it is too long, the store refuses it, or an
            argument is wrong.
        :raises RunsError: if Paradime or its store does not answer.
        """
        hook = self.hook
        assert isinstance(hook, ParadimeHook)

        def download() -> dict[str, Any]:
            context["ti"].xcom_push(key=RUN_URL, value=hook.run_url(self.run_id))
            return hook.download_artifact(
                self.run_id,
                self.path,
                self.target,
                command_id=self.command_id,
                command=self.command,
                max_bytes=self.max_bytes,
            )

        got = self._answered(download)
        self.log.info(
            "Artifact %s of run %s: %s bytes, SHA-256 %s, in %s",
            *(self.path, self.run_id, got["bytes"], got["sha256"], got["path"]),
        )
        return got
