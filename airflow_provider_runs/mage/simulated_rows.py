"""How a simulated Mage shows its runs, triggers, pipelines and logs, and how it orders lists."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_provider_runs.core import clock
from airflow_provider_runs.mage.simulated import (
    REPO_PATH,
    BlockRun,
    LogLine,
    Pipeline,
    Schedule,
    log_text,
)
from airflow_provider_runs.mage.simulated_scheduler import ACTIVE, MageRun
from airflow_provider_runs.simulator.world import Json

RUN_COLUMNS = (
    "backfill_id",
    "completed_at",
    "created_at",
    "event_variables",
    "execution_date",
    "executor_type",
    "id",
    "metrics",
    "passed_sla",
    "pipeline_schedule_id",
    "pipeline_uuid",
    "started_at",
    "status",
    "updated_at",
    "variables",
)


class Rows:
    """Write what a server holds as its answers show it; ``started`` is when the server started."""

    def __init__(self, database: str, started: float) -> None:
        self._database = database
        self._started = started

    def time(self, seconds: float | None, whole: bool = False) -> str | None:
        """Return epoch seconds as the database writes them; ``whole`` drops the fraction on SQLite."""
        if seconds is None:
            return None
        return self.date(datetime.fromtimestamp(seconds, UTC), whole)

    def date(self, value: datetime, whole: bool = False) -> str:
        """Return a date as the database writes it."""
        if self._database == "postgres":
            return str(value)
        return str(value.replace(tzinfo=None, microsecond=0 if whole else value.microsecond))

    def row(self, run: MageRun) -> dict[str, Json]:
        """Return a run."""
        return {
            "id": run.id,
            "created_at": self.time(run.created, whole=True),
            "updated_at": self.time(run.updated, whole=True),
            "pipeline_schedule_id": run.schedule.id,
            "pipeline_uuid": run.pipeline.uuid,
            "execution_date": self.date(run.execution_date),
            "status": run.status,
            "started_at": self.time(run.started),
            "completed_at": self.time(run.completed),
            "variables": run.variables,
            "passed_sla": False,
            "event_variables": run.event_variables,
            "metrics": run.metrics,
            "backfill_id": None,
            "executor_type": "local_python",
        }

    def basic(self, run: MageRun) -> dict[str, Json]:
        """Return a run, with basic details only."""
        return {"execution_date": self.date(run.execution_date), "id": run.id, "status": run.status}

    def list_row(self, run: MageRun) -> dict[str, Json]:
        """Return a run as lists show it, with its blocks."""
        row = self.row(run)
        return {
            **row,
            "block_runs": [self.block_row(run, block) for block in run.blocks],
            "block_runs_count": len(run.blocks),
            "completed_block_runs_count": sum(block.status == "completed" for block in run.blocks),
            "pipeline_schedule_name": run.schedule.name,
            "pipeline_schedule_token": run.schedule.token,
            "pipeline_schedule_type": run.schedule.type,
            "pipeline_tags": None,
            "pipeline_type": None,
            "repo_path": REPO_PATH,
        }

    def block_row(self, run: MageRun, block: BlockRun) -> dict[str, Json]:
        """Return a block of a run."""
        return {
            "id": block.id,
            "created_at": self.time(block.created, whole=True),
            "updated_at": self.time(block.updated, whole=True),
            "pipeline_run_id": run.id,
            "block_uuid": block.uuid,
            "status": block.status,
            "started_at": self.time(block.started),
            "completed_at": self.time(block.completed),
            "metrics": block.metrics,
        }

    def schedule_row(self, schedule: Schedule) -> dict[str, Json]:
        """Return a trigger."""
        started = self.time(self._started, whole=True)
        daily = schedule.type == "time"
        tomorrow = datetime.fromtimestamp(clock.time(), UTC).replace(
            hour=0, minute=0, second=0, microsecond=0
        ) + timedelta(days=1)
        return {
            "id": schedule.id,
            "created_at": started,
            "updated_at": started,
            "name": schedule.name,
            "description": None,
            "pipeline_uuid": schedule.pipeline_uuid,
            "schedule_type": schedule.type,
            "schedule_interval": "@daily" if daily else None,
            "start_time": "2024-01-01 00:00:00",
            "status": schedule.status,
            "last_enabled_at": self.time(self._started) if schedule.status == "active" else None,
            "variables": {},
            "sla": None,
            "token": schedule.token,
            "repo_path": REPO_PATH,
            "settings": schedule.settings,
            "global_data_product_uuid": None,
            "event_matchers": [],
            "next_pipeline_run_date": str(tomorrow) if daily else None,
            "tags": [],
        }

    def schedule_list_row(self, schedule: Schedule, among: Iterable[MageRun]) -> dict[str, Json]:
        """Return a trigger as lists show it, with what its runs among all runs are doing."""
        runs = [run for run in among if run.schedule is schedule]
        going = sum(run.status in ACTIVE for run in runs)
        return {
            **self.schedule_row(schedule),
            "last_pipeline_run_status": runs[-1].status if runs else None,
            "pipeline_in_progress_runs_count": going if runs else None,
            "pipeline_runs_count": len(runs) or None,
        }

    def pipeline_row(self, pipeline: Pipeline, left_out: set[str]) -> dict[str, Json]:
        """Return a pipeline, its blocks without the fields that are left out."""
        return {
            "cache_block_output_in_memory": False,
            "concurrency_config": {},
            "created_at": None,
            "data_integration": None,
            "description": None,
            "executor_config": {},
            "executor_count": 1,
            "executor_type": None,
            "name": pipeline.uuid,
            "notification_config": {},
            "remote_variables_dir": None,
            "retry_config": {},
            "run_pipeline_in_one_process": False,
            "settings": {"triggers": None},
            "tags": [],
            "type": "python",
            "uuid": pipeline.uuid,
            "variables_dir": REPO_PATH,
            "spark_config": {},
            "blocks": [_block_of(pipeline, uuid, left_out) for uuid in pipeline.upstream],
            "callbacks": [],
            "conditionals": [],
            "widgets": [],
            "extensions": {},
            "updated_at": datetime.fromtimestamp(self._started, UTC).isoformat(),
        }


def log_file(run: MageRun, of: BlockRun | str) -> dict[str, Json]:
    """Return the log of a block, or one of the run's own by its name."""
    lines: list[LogLine] = run.log if of == "scheduler.log" else []
    name, last = of, {}
    if isinstance(of, BlockRun):
        name, lines = f"{of.uuid}.log", of.log
        last = {"block_type": run.pipeline.types[of.uuid]}
    shared = {
        "pipeline_run_id": run.id,
        "pipeline_schedule_id": run.schedule.id,
        "pipeline_uuid": run.pipeline.uuid,
    }
    content = log_text(lines, shared, last)
    folder = f"{REPO_PATH}/pipelines/{run.pipeline.uuid}/.logs/{run.variables['execution_partition']}"
    return {
        "name": name,
        "path": f"{folder}/{name}",
        "size": len(content),
        "modified_timestamp": lines[-1].at if lines else run.created,
        "content": content,
    }


def _block_of(pipeline: Pipeline, uuid: str, left_out: set[str]) -> dict[str, Json]:
    row: dict[str, Json] = {
        "all_upstream_blocks_executed": not pipeline.upstream[uuid],
        "color": None,
        "configuration": {},
        "downstream_blocks": [other for other, up in pipeline.upstream.items() if uuid in up],
        "executor_config": None,
        "executor_type": "local_python",
        "has_callback": None,
        "name": uuid,
        "language": "python",
        "retry_config": None,
        "status": "not_executed",
        "timeout": None,
        "type": pipeline.types[uuid],
        "upstream_blocks": list(pipeline.upstream[uuid]),
        "uuid": uuid,
        "callback_blocks": [],
        "conditional_blocks": [],
        "content": f"@{pipeline.types[uuid]}\ndef {uuid}(*args, **kwargs):\n    ...\n",
        "outputs": [],
        "metadata": {},
        "tags": [],
    }
    return {name: value for name, value in row.items() if name not in left_out}


def ordered(runs: list[MageRun], order: str) -> list[MageRun]:
    """Sort runs by ``column dir`` words, comma-separated."""
    for part in reversed(order.split(",")):
        column, _, direction = part.strip().partition(" ")
        if column not in RUN_COLUMNS:
            raise AttributeError(f"type object 'PipelineRun' has no attribute {column!r}")
        if direction.lower() not in ("", "asc", "desc"):
            both = (
                "Neither 'InstrumentedAttribute' object nor 'Comparator' object associated with PipelineRun"
            )
            raise AttributeError(f"{both}.{column} has an attribute {direction.lower()!r}")
        runs = sorted(runs, key=lambda run: column_of(run, column), reverse=direction.lower() == "desc")
    return runs


def column_of(run: MageRun, column: str) -> tuple[bool, Any]:
    """Return a sort key for a column; nulls come first."""
    names = {
        "created_at": "created",
        "updated_at": "updated",
        "started_at": "started",
        "completed_at": "completed",
    }
    value: Any = getattr(run, names.get(column, column), None)
    if column == "pipeline_schedule_id":
        value = run.schedule.id
    elif column == "pipeline_uuid":
        value = run.pipeline.uuid
    elif isinstance(value, dict):
        value = json.dumps(value)
    return value is not None, value


def with_retries_grouped(runs: list[MageRun], rows: list[MageRun]) -> list[MageRun]:
    """Pull the runs that share the last row's execution date to the end of the page, as Mage does."""
    first, last = rows[0], rows[-1]
    dropped = {last.execution_date}
    if next(run for run in runs if run.execution_date == first.execution_date) is not first:
        dropped.add(first.execution_date)
    kept = [run for run in rows if run.execution_date not in dropped]
    return kept + [run for run in runs if run.execution_date == last.execution_date]


def read_date(value: Json, now: float, database: str) -> datetime:
    """Read an execution date as Python 3.10 does, without ``Z``; SQLite drops an offset."""
    if value is None:
        return datetime.fromtimestamp(now, UTC)
    if str(value).endswith("Z"):
        raise ValueError(f"Invalid isoformat string: {value!r}")
    date = datetime.fromisoformat(value)
    keeps = database == "postgres" and date.tzinfo is not None
    return date.astimezone(UTC) if keeps else date.replace(tzinfo=UTC)
