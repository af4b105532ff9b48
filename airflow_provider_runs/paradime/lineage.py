"""What dbt read and wrote in a run, as OpenLineage events. Its provider asks when a task has ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_runs.base.task import RunTask
from airflow_provider_runs.core.errors import RunsError
from airflow_provider_runs.core.text import one_line
from airflow_provider_runs.paradime.hooks import RUN_RESULTS_BYTES, ParadimeHook, as_paradime
from airflow_provider_runs.paradime.reasons import RUN_RESULTS

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage

MANIFEST = "target/manifest.json"
CATALOG = "target/catalog.json"
MOST_BYTES = 128 * 2**20
"""Length of a manifest or a catalog that is read."""
ERROR_CHARACTERS = 300


class ReportsLineage(RunTask):
    """Base of tasks that tell OpenLineage, where Airflow has it, what dbt did in the run they waited for."""

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """
        Emit events of what dbt did in the run, if that has ended, well or badly.

        OpenLineage's provider calls this, also for a task that has failed. Whatever goes wrong here is a
        warning in the log.

        :param task_instance: Airflow's task instance, the parent of the events.
        :return: nothing: the datasets stand in the events of dbt's models, not in that of the task.
        """
        from airflow.providers.openlineage.extractors import OperatorLineage

        if self._ended_run is not None:
            hook = self.hook
            assert isinstance(hook, ParadimeHook)
            try:
                emit_lineage(hook, self._ended_run, task_instance, self.log)
            except Exception as error:
                self.log.warning(
                    "No lineage of Paradime run %s can be told: %s", self._ended_run, _said(hook, error)
                )
        return OperatorLineage()


def emit_lineage(hook: ParadimeHook, run_id: str, task_instance: Any, log: Any) -> None:
    """
    Emit OpenLineage events of all models, snapshots and tests of a run, as dbt's artifacts tell of them.

    A command that leaves no manifest or no results has nothing to tell. One whose artifacts cannot be read
    takes nothing from the others.

    :param hook: the service.
    :param run_id: the run.
    :param task_instance: Airflow's task instance, the parent of the events.
    :param log: where to write.
    :raises ImportError: if the extra ``openlineage`` is not installed.
    :raises RunsError: if Paradime cannot be asked.
    """
    from airflow.providers.openlineage.api import emit

    by_command: dict[int, dict[str, Mapping[str, Any]]] = {}
    catalogs = []
    for one in hook.list_resources(run_id):
        by_command.setdefault(one["command_id"], {})[one["path"]] = one
        if one["path"] == CATALOG:
            catalogs.append(one)
    told = [files for files in by_command.values() if files.keys() >= {MANIFEST, RUN_RESULTS}]
    if not told:
        return
    catalog = None
    if catalogs:
        try:
            catalog = hook.read_json(run_id, catalogs[-1], MOST_BYTES)
        except Exception as error:
            log.warning("Lineage of Paradime run %s lacks the catalog: %s", run_id, _said(hook, error))
    seen: set[str] = set()
    emitted = 0
    for files in told:
        try:
            results = hook.read_json(run_id, files[RUN_RESULTS], RUN_RESULTS_BYTES)
            # What is no dbt command may leave the results of the one before it once more.
            invocation = results["metadata"]["invocation_id"]
            if invocation not in seen:
                seen.add(invocation)
                manifest = hook.read_json(run_id, files[MANIFEST], MOST_BYTES)
                namespace = as_paradime(hook.api).dataset_namespace
                for event in _events(manifest, results, catalog, namespace, task_instance, log):
                    emit(event)
                    emitted += 1
        except Exception as error:
            command = one_line(files[MANIFEST]["command"], hook.api.redact, ERROR_CHARACTERS)
            log.warning(
                "No lineage of command %r of Paradime run %s can be told: %s",
                *(command, run_id, _said(hook, error)),
            )
    if emitted:
        log.info("Emitted %s OpenLineage events about Paradime run %s", emitted, run_id)


def _events(
    manifest: Any, results: Any, catalog: Any, namespace: str | None, task_instance: Any, log: Any
) -> list[Any]:
    """Return the events of one invocation of dbt, in their order."""
    from airflow.providers.openlineage.plugins import macros
    from airflow.providers.openlineage.plugins.adapter import _PRODUCER  # type: ignore[attr-defined]
    from openlineage.common.provider.dbt import DbtCloudArtifactProcessor, ParentRunMetadata
    from openlineage.common.provider.dbt.facets import DbtRunRunFacet

    class Processor(DbtCloudArtifactProcessor):  # type: ignore[misc]
        def extract_dataset_namespace(self, profile: dict[str, str]) -> None:
            # As a rule it is made up of the warehouse's address, which neither Paradime nor dbt tells.
            self.dataset_namespace = profile["namespace"]

        def dbt_run_run_facet(self) -> dict[str, DbtRunRunFacet]:
            invocation_id = self.run_metadata["invocation_id"]
            return {"dbt_run": DbtRunRunFacet(invocation_id=invocation_id, project_name=self.project_name)}

    # OpenLineage takes a test that was skipped for one that has failed.
    ran = [one for one in results["results"] if one["status"] != "skipped"]
    adapter = manifest["metadata"]["adapter_type"]
    parent = ParentRunMetadata(
        run_id=macros.lineage_run_id(task_instance),
        job_name=macros.lineage_job_name(task_instance),
        job_namespace=macros.lineage_job_namespace(),  # type: ignore[no-untyped-call]
        root_parent_run_id=macros.lineage_root_run_id(task_instance),
        root_parent_job_name=macros.lineage_root_job_name(task_instance),
        root_parent_job_namespace=macros.lineage_root_job_namespace(task_instance),
    )
    processor = Processor(
        producer=_PRODUCER,
        job_namespace=parent.job_namespace,
        # A node in a state for which there is no event takes nothing from the others.
        skip_errors=True,
        logger=log,
        manifest=manifest,
        run_result={**results, "results": ran},
        profile={"type": adapter, "namespace": namespace or adapter},
        catalog=catalog,
        project_name=manifest["metadata"].get("project_name"),
    )
    processor.dbt_run_metadata = parent
    return list(processor.parse().events())


def _said(hook: ParadimeHook, error: Exception) -> str:
    if isinstance(error, RunsError):
        return str(error)
    return one_line(f"{type(error).__name__}: {error}", hook.api.redact, ERROR_CHARACTERS)
