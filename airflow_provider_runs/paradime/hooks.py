"""Hook for Paradime."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any

from airflow_provider_runs.base.hook import FlowOf, RunHook
from airflow_provider_runs.base.storage import put_whole, target_path
from airflow_provider_runs.core.api import RunApi
from airflow_provider_runs.core.download import Download, download
from airflow_provider_runs.core.errors import BadInput, RunsError
from airflow_provider_runs.core.http import Flow
from airflow_provider_runs.core.inputs import integer, list_bounds, required_text, without_none
from airflow_provider_runs.core.retry import NO_RETRY
from airflow_provider_runs.core.run import Run
from airflow_provider_runs.core.text import one_line
from airflow_provider_runs.paradime.answers import CommandLogs
from airflow_provider_runs.paradime.api import ParadimeRunApi
from airflow_provider_runs.paradime.artifacts import MAX_BYTES, choose_artifact
from airflow_provider_runs.paradime.lookups import run_number
from airflow_provider_runs.paradime.operations import int32
from airflow_provider_runs.paradime.reasons import (
    RUN_RESULTS,
    describe_digest,
    digest_run_results,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

COLOR = "#e3edfb"
"""What Airflow paints tasks in that use this hook."""

RUN_RESULTS_BYTES = 16 * 2**20
"""Length in bytes, at most, of a ``run_results.json`` that is read for an explanation."""


class ParadimeHook(RunHook):
    """
    Start runs of Bolt schedules in Paradime, ask about them, list, retry and cancel them.

    See https://docs.paradime.io/app-help/documentation/bolt. Methods that return a mapping give it as
    Paradime does. The connection may also be one that was made for the vendor's provider
    (``airflow-provider-paradime-dbt``).

    :param paradime_conn_id: the Airflow connection.
    :param workspace_uid: UID of the workspace, for tokens of a company or a workspace; None takes the
        connection's.
    """

    api_class = ParadimeRunApi
    conn_name_attr = "paradime_conn_id"
    default_conn_name = "paradime_default"

    def __init__(self, paradime_conn_id: str = default_conn_name, workspace_uid: str | None = None) -> None:
        super().__init__(paradime_conn_id, {"workspace_uid": workspace_uid})

    def trigger_run(
        self,
        slug: str | None = None,
        *,
        schedule_name: str | None = None,
        commands: Sequence[str] | str | None = None,
        branch: str | None = None,
        pr_number: int | str | None = None,
        reason: str | None = None,
        command_configs: Sequence[Mapping[str, Any]] | str | None = None,
        continue_on_error: bool | None = None,
    ) -> Run:
        """
        Start a run of a schedule. The answer tells the run's id only: its status is empty.

        :param slug: the schedule's slug.
        :param schedule_name: the older name of the same argument, for servers that know no slugs.
        :param commands: commands to run instead of the schedule's.
        :param branch: branch or commit to run on instead of the schedule's.
        :param pr_number: number of the pull request that the run belongs to: a positive whole number.
        :param reason: why it is started, for people. Left out where the server takes none yet.
        :param command_configs: as ``commands``, each a mapping of ``command`` and ``continue_on_error``.
        :param continue_on_error: whether the run goes on after a command that fails.
        :return: the run.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises ApiError: if Paradime refuses (Unauthorized, NotFound and AlreadyRunning among it).
        :raises ConnectionFailed: if Paradime does not answer; the run may have been started if ``sent``.
        """
        given = {
            "slug": slug,
            "schedule_name": schedule_name,
            "commands": commands,
            "branch": branch,
            "pr_number": pr_number,
            "reason": reason,
            "command_configs": command_configs,
            "continue_on_error": continue_on_error,
        }
        return self.start(given, None)

    def list_runs(
        self,
        slug: str | None = None,
        *,
        schedule_name: str | None = None,
        state: str | Sequence[str] | None = None,
        since: datetime | str | None = None,
        limit: int | None = 100,
    ) -> list[Run]:
        """
        List a schedule's runs, the newest first.

        :param slug: the schedule's slug.
        :param schedule_name: the older name of the same argument.
        :param state: those in this state, or one of these: Paradime's words.
        :param since: those started since then: datetime or ISO 8601 with offset.
        :param limit: so many runs at most; None: all.
        :return: the runs.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises NotFound: if there is no such schedule.
        :raises IncompleteList: if the list has no end: more than 1,000 pages or 10 minutes, or nothing new.
        :raises RunsError: if Paradime cannot be asked.
        """
        return self.drive(_listing(slug, schedule_name, state, since, limit))

    async def alist_runs(
        self,
        slug: str | None = None,
        *,
        schedule_name: str | None = None,
        state: str | Sequence[str] | None = None,
        since: datetime | str | None = None,
        limit: int | None = 100,
    ) -> list[Run]:
        """
        List a schedule's runs, as :meth:`list_runs`.

        :param slug: the schedule's slug.
        :param schedule_name: the older name of the same argument.
        :param state: those in this state, or one of these: Paradime's words.
        :param since: those started since then: datetime or ISO 8601 with offset.
        :param limit: so many runs at most; None: all.
        """
        return await self.adrive(_listing(slug, schedule_name, state, since, limit))

    def run_url(self, run_id: str) -> str:
        """
        Return the address of a run's page. Nothing is sent.

        :param run_id: the run.
        :return: the address, in Paradime's app.
        :raises BadInput: if that is no run's id.
        """
        return as_paradime(self.api).run_url(run_number(run_id))

    def retry_run(self, run_id: str, *, all_commands: bool = False) -> Run:
        """
        Begin a new run that repeats the failed commands of an ended run.

        :param run_id: the ended run.
        :param all_commands: whether to repeat all its commands instead.
        :return: the new run.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises ApiError: if the run goes, or has succeeded and only failed commands were to be repeated.
        :raises ConnectionFailed: if Paradime does not answer; the new run may have begun if ``sent``.
        """
        return self.drive(_retrying(run_id, all_commands))

    async def aretry_run(self, run_id: str, *, all_commands: bool = False) -> Run:
        """
        Begin a new run that repeats the failed commands of an ended run, as :meth:`retry_run`.

        :param run_id: the ended run.
        :param all_commands: whether to repeat all its commands instead.
        """
        return await self.adrive(_retrying(run_id, all_commands))

    def retry_from_failure(self, slug: str | None = None, *, schedule_name: str | None = None) -> Run:
        """
        Begin a new run that repeats the failed commands of a schedule's newest run.

        Whichever run is the newest at that moment is taken, whoever started it. :meth:`retry_run` names one.

        :param slug: the schedule's slug.
        :param schedule_name: the older name of the same argument.
        :return: the new run.
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises ApiError: if Paradime refuses (Unauthorized, NotFound and AlreadyRunning among it).
        :raises ConnectionFailed: if Paradime does not answer; the new run may have begun if ``sent``.
        """
        return self.drive(lambda api: as_paradime(api).retry_from_failure(_schedule(slug, schedule_name)))

    async def aretry_from_failure(self, slug: str | None = None, *, schedule_name: str | None = None) -> Run:
        """
        Begin a new run from a schedule's newest run, as :meth:`retry_from_failure`.

        :param slug: the schedule's slug.
        :param schedule_name: the older name of the same argument.
        """
        named = _schedule(slug, schedule_name)
        return await self.adrive(lambda api: as_paradime(api).retry_from_failure(named))

    def list_commands(self, run_id: str) -> list[dict[str, Any]]:
        """
        Return a run's commands in their order, without their output. The first are Paradime's own steps.

        :param run_id: the run.
        :return: ``id``, ``command``, ``startDttm``, ``endDttm`` and ``returnCode`` of each.
        :raises NotFound: if Paradime does not know the run.
        :raises RunsError: if Paradime cannot be asked.
        """
        return self.drive(lambda api: as_paradime(api).list_commands(run_id))

    async def alist_commands(self, run_id: str) -> list[dict[str, Any]]:
        """
        Return a run's commands, as :meth:`list_commands`.

        :param run_id: the run.
        """
        return await self.adrive(lambda api: as_paradime(api).list_commands(run_id))

    def get_command(self, command_id: int | str) -> dict[str, Any]:
        """
        Return what Paradime knows about a command.

        :param command_id: the command.
        :return: ``command``, ``startDttm``, ``endDttm``, ``stdout``, ``stderr``, ``returnCode``,
            ``scheduleRunId`` and ``resources`` (``id`` and ``path`` of each file).
        :raises NotFound: if Paradime does not know the command.
        :raises RunsError: if Paradime cannot be asked.
        """
        return self.drive(lambda api: as_paradime(api).get_command(command_id))

    async def aget_command(self, command_id: int | str) -> dict[str, Any]:
        """
        Return what Paradime knows about a command, as :meth:`get_command`.

        :param command_id: the command.
        """
        return await self.adrive(lambda api: as_paradime(api).get_command(command_id))

    def get_command_logs(self, command_id: int | str, cursor: str = "0:0") -> CommandLogs:
        """
        Return the piece of a command's output that begins at a cursor.

        :param command_id: the command.
        :param cursor: where it begins, as the piece before said; ``0:0``: at the beginning.
        :return: ``lines``, each (stream, text) with stream ``STDOUT`` or ``STDERR``; ``cursor``, where the
            next piece begins; and ``finished``, whether the command has ended and there is no further piece.
        :raises NotFound: if Paradime does not know the command.
        :raises RunsError: if Paradime cannot be asked.
        """
        return self.drive(lambda api: as_paradime(api).get_command_logs(command_id, cursor))

    async def aget_command_logs(self, command_id: int | str, cursor: str = "0:0") -> CommandLogs:
        """
        Return a piece of a command's output, as :meth:`get_command_logs`.

        :param command_id: the command.
        :param cursor: where it begins, as the piece before said; ``0:0``: at the beginning.
        """
        return await self.adrive(lambda api: as_paradime(api).get_command_logs(command_id, cursor))

    def list_resources(self, run_id: str) -> list[dict[str, Any]]:
        """
        Return the files that a run's commands have left.

        :param run_id: the run.
        :return: ``id``, ``path``, ``command_id`` and ``command`` (its text) of each, in the order of the
            commands.
        :raises NotFound: if Paradime does not know the run.
        :raises RunsError: if Paradime cannot be asked.
        """
        return self.drive(lambda api: as_paradime(api).list_resources(run_id))

    async def alist_resources(self, run_id: str) -> list[dict[str, Any]]:
        """
        Return the files that a run's commands have left, as :meth:`list_resources`.

        :param run_id: the run.
        """
        return await self.adrive(lambda api: as_paradime(api).list_resources(run_id))

    def get_resource_url(self, resource_id: int | str) -> str:
        """
        Return the address of a file. Whoever has it can read the file: it belongs in no log and no XCom.

        :param resource_id: the file: an ``id`` of :meth:`list_resources`.
        :return: the address, which is valid for a short time.
        :raises NotFound: if Paradime does not know the file.
        :raises RunsError: if Paradime cannot be asked.
        """
        return self.drive(lambda api: as_paradime(api).get_resource_url(resource_id))

    async def aget_resource_url(self, resource_id: int | str) -> str:
        """
        Return the address of a file, as :meth:`get_resource_url`.

        :param resource_id: the file: an ``id`` of :meth:`list_resources`.
        """
        return await self.adrive(lambda api: as_paradime(api).get_resource_url(resource_id))

    def download_artifact(
        self,
        run_id: str,
        path: str,
        target: str | os.PathLike[str] | ObjectStoragePath,
        *,
        command_id: int | str | None = None,
        command: str | None = None,
        max_bytes: int | str = MAX_BYTES,
    ) -> dict[str, Any]:
        """
        Copy a file that a command has left, byte by byte, to an ``ObjectStoragePath``.

        The file is first streamed to the worker's temporary folder, and appears at its place only when all of
        it has come. What was there is replaced. The download is tried 5 times, 1 s apart at first, then each
        time twice as long, less up to a half at random.

        :param run_id: the run.
        :param path: the artifact's path, such as ``target/manifest.json``.
        :param target: where to: an ``ObjectStoragePath``, its URL, or an absolute local path.
        :param command_id: the command that has left it. None: the last one that has left such a file, also
            if it failed.
        :param command: instead, the text of that command; the last one with that text counts.
        :param max_bytes: its length in bytes at most; 1 GiB by default.
        :return: ``path`` (the target), ``bytes`` (its length) and ``sha256`` (hexadecimal).
        :raises BadInput: if an argument is wrong; nothing was sent.
        :raises NotFound: if there is no such artifact; the message names those that there are.
        :raises RunsError: if Paradime or its store does not give it.
        """
        number, wanted = run_number(run_id), required_text("path", path)
        if command_id is not None and command is not None:
            raise BadInput("give either command_id or command, not both")
        only_id = None if command_id is None else int32("command_id", command_id)
        only_text = None if command is None else required_text("command", command)
        most = integer("max_bytes", max_bytes, at_least=1)
        place = target_path(target)

        def choose(api: RunApi) -> Flow[Mapping[str, Any]]:
            resources = yield from as_paradime(api).list_resources(run_id)
            return choose_artifact(
                f"run {number}", wanted, resources, api.redact, command_id=only_id, command=only_text
            )

        artifact = self.drive(choose)
        with tempfile.NamedTemporaryFile(prefix="paradime-") as file:
            got = self._download(run_id, artifact, file, most)
            put_whole(file.name, place)
        return {"path": str(place), "bytes": got.size, "sha256": got.sha256}

    def _download(
        self, run_id: str, artifact: Mapping[str, Any], file: IO[bytes], max_bytes: int
    ) -> Download:
        return download(
            self._driver,
            f"artifact {one_line(artifact['path'])!r} of run {run_id}",
            lambda: self.drive(lambda api: as_paradime(api).get_resource_url(artifact["id"]), NO_RETRY),
            file,
            max_bytes=max_bytes,
        )

    def read_json(self, run_id: str, artifact: Mapping[str, Any], max_bytes: int) -> Any:
        """
        Return the content of a JSON file that a command has left.

        :param run_id: the run.
        :param artifact: the file: ``id`` and ``path``, see :meth:`list_resources`.
        :param max_bytes: its length in bytes at most.
        :return: the JSON value.
        :raises RunsError: if Paradime or its store does not give it, or it is longer.
        :raises ValueError: if it is not JSON.
        """
        with tempfile.TemporaryFile() as file:
            self._download(run_id, artifact, file, max_bytes)
            file.seek(0)
            return json.load(file)

    def explain_run(self, run_id: str) -> str | None:
        """
        Return which command ended a run badly, the end of its output, and what dbt says about its nodes.

        :param run_id: the run.
        :return: the text, in several lines; None where the run did not end badly.
        :raises NotFound: if Paradime does not know the run.
        :raises RunsError: if Paradime cannot be asked.
        """
        text, files = self.drive(lambda api: as_paradime(api).explain_with_files(run_id))
        for artifact in files:
            if artifact.get("path") == RUN_RESULTS:
                text = f"{text}\n{self._digest(run_id, artifact)}"
        return text

    def _digest(self, run_id: str, artifact: Mapping[str, Any]) -> str:
        """Return what ``run_results.json`` says, or why it cannot be read."""
        try:
            results = self.read_json(run_id, artifact, RUN_RESULTS_BYTES)
            return describe_digest(digest_run_results(results, self.api.redact))
        except (RunsError, OSError) as error:
            return f"({RUN_RESULTS} cannot be read: {error})"
        except (ValueError, RecursionError):
            return f"({RUN_RESULTS} is not JSON)"

    def list_schedules(
        self, *, show_inactive: bool = False, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """
        Return the workspace's schedules as Paradime shows them.

        :param show_inactive: whether to list inactive ones too.
        :param limit: so many schedules at most; None: all.
        :return: ``id``, ``uuid``, ``name``, ``slug``, ``schedule``, ``owner``, ``lastRunAt``,
            ``lastRunState``, ``nextRunAt``, ``source``, ``suspended``, ``commands``, ``gitBranch``, and
            ``turboCi`` and ``deferredSchedule`` (``enabled``, ``deferredScheduleName`` and
            ``successfulRunOnly`` of each) of each schedule. Older servers tell no ``slug`` and no
            ``suspended``.
        :raises BadInput: if ``limit`` is wrong; nothing was sent.
        :raises IncompleteList: if the list has no end: more than 1,000 pages or 10 minutes, or nothing new.
        :raises RunsError: if Paradime cannot be asked.
        """
        return self.drive(_schedules(show_inactive, limit))

    async def alist_schedules(
        self, *, show_inactive: bool = False, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """
        Return the workspace's schedules, as :meth:`list_schedules`.

        :param show_inactive: whether to list inactive ones too.
        :param limit: so many schedules at most; None: all.
        """
        return await self.adrive(_schedules(show_inactive, limit))

    def get_schedule(self, slug: str | None = None, *, schedule_name: str | None = None) -> dict[str, Any]:
        """
        Return what Paradime knows about a schedule.

        :param slug: the schedule's slug.
        :param schedule_name: the older name of the same argument.
        :return: ``ok``, ``latestRunId``, ``commands``, ``owner``, ``schedule``, ``uuid``, ``source`` and
            ``suspended``. Older servers tell no ``suspended``.
        :raises BadInput: if not one of the two is given; nothing was sent.
        :raises NotFound: if there is no such schedule.
        :raises RunsError: if Paradime cannot be asked.
        """
        return self.drive(lambda api: as_paradime(api).get_schedule(_schedule(slug, schedule_name)))

    async def aget_schedule(
        self, slug: str | None = None, *, schedule_name: str | None = None
    ) -> dict[str, Any]:
        """
        Return what Paradime knows about a schedule, as :meth:`get_schedule`.

        :param slug: the schedule's slug.
        :param schedule_name: the older name of the same argument.
        """
        named = _schedule(slug, schedule_name)
        return await self.adrive(lambda api: as_paradime(api).get_schedule(named))

    def suspend_schedule(
        self, slug: str | None = None, *, schedule_name: str | None = None, suspend: bool = True
    ) -> None:
        """
        Suspend a schedule that was made in the app or by API, not by YAML, or have it run again.

        :param slug: the schedule's slug.
        :param schedule_name: the older name of the same argument.
        :param suspend: whether it is suspended from now on.
        :raises BadInput: if not one of the two names is given; nothing was sent.
        :raises NotFound: if there is no such schedule.
        :raises RunsError: if Paradime refuses or does not answer.
        """
        named = _schedule(slug, schedule_name)
        self.drive(lambda api: as_paradime(api).suspend_schedule(named, suspend=suspend))

    async def asuspend_schedule(
        self, slug: str | None = None, *, schedule_name: str | None = None, suspend: bool = True
    ) -> None:
        """
        Suspend a schedule or have it run again, as :meth:`suspend_schedule`.

        :param slug: the schedule's slug.
        :param schedule_name: the older name of the same argument.
        :param suspend: whether it is suspended from now on.
        """
        named = _schedule(slug, schedule_name)
        await self.adrive(lambda api: as_paradime(api).suspend_schedule(named, suspend=suspend))


def as_paradime(api: RunApi) -> ParadimeRunApi:
    """
    Narrow a hook's API to Paradime's, for type checkers.

    :param api: the hook's API.
    :return: the same.
    """
    assert isinstance(api, ParadimeRunApi)
    return api


def _schedule(slug: str | None, schedule_name: str | None) -> dict[str, Any]:
    return without_none({"slug": slug, "schedule_name": schedule_name})


def _schedules(show_inactive: bool, limit: int | None) -> FlowOf[list[dict[str, Any]]]:
    _, most = list_bounds(None, limit)
    return lambda api: as_paradime(api).list_schedules(show_inactive=show_inactive, limit=most)


def _listing(
    slug: str | None,
    schedule_name: str | None,
    state: str | Sequence[str] | None,
    since: datetime | str | None,
    limit: int | None,
) -> FlowOf[list[Run]]:
    filters = {**_schedule(slug, schedule_name), "state": state}
    moment, most = list_bounds(since, limit)
    return lambda api: as_paradime(api).list_runs(filters, since=moment, limit=most)


def _retrying(run_id: str, all_commands: bool) -> FlowOf[Run]:
    arguments = {"all_commands": all_commands}

    def flow(api: RunApi) -> Flow[Run]:
        yield from as_paradime(api).check_retry(run_id, arguments)
        return (yield from as_paradime(api).retry(run_id, arguments))

    return flow
