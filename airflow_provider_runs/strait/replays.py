"""Going on with ended runs of Strait: replays, dead letters, and the search for a replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import CanRetry, Unsure
from airflow_provider_runs.core.errors import ApiError, BadInput
from airflow_provider_runs.core.http import Flow
from airflow_provider_runs.core.inputs import integer, json_value, required_text, unknown_names
from airflow_provider_runs.core.run import Run
from airflow_provider_runs.strait.answers import DEAD_LETTER, REPLAYABLE, Row
from airflow_provider_runs.strait.lists import RUN_KEY_TAG, StraitLists, run_path, segment

# The clocks of Strait and of a worker may differ.
CLOCK_SLACK = 300.0
MOST_REPLAYS = 100
MOST_DLQ_REPLAYS = 500


class StraitReplays(StraitLists, CanRetry):
    """Replay runs, for :class:`~airflow_provider_runs.strait.api.StraitRunApi`."""

    def replay(self, run_id: str, from_checkpoint: int | str | None = None) -> Flow[Run]:
        """
        Begin a new run with the payload of one that failed, timed out or crashed.

        :param run_id: the ended run.
        :param from_checkpoint: sequence of one of its checkpoints; the new run gets its state as payload.
        """
        params = _checkpoint(from_checkpoint)
        response = yield self._request("POST", run_path(run_id, "replay"), params)
        return self._run_of(response, f"replaying run {run_id}")

    def dlq_replay(self, run_id: str) -> Flow[Run]:
        """
        Queue a dead letter again. The run keeps its id.

        :param run_id: the dead letter.
        """
        response = yield self._request("POST", run_path(run_id, "dlq-replay"))
        return self._run_of(response, f"replaying dead letter {run_id}", run_id)

    def bulk_dlq_replay(
        self, run_ids: Sequence[str] | None = None, *, project_id: str | None = None, limit: int | None = None
    ) -> Flow[list[Run]]:
        """
        Queue dead letters again. The runs keep their ids.

        :param run_ids: the dead letters, 500 at most.
        :param project_id: instead, those of a project.
        :param limit: so many of a project's at most, up to 500; None: 100.
        """
        if (run_ids is None) == (project_id is None):
            raise BadInput("give either run_ids or project_id" + (", not both" if project_id else ""))
        body: Row = {}
        if run_ids is not None:
            body["run_ids"] = ids_of(run_ids, MOST_DLQ_REPLAYS)
        else:
            body["project_id"] = required_text("project_id", project_id)
        if limit is not None and run_ids is not None:
            raise BadInput("limit is for the dead letters of a project")
        if limit is not None:
            body["limit"] = integer("limit", limit, at_least=1, at_most=MOST_DLQ_REPLAYS)
        what = "replaying dead letters"
        response = yield self._request("POST", "/v1/runs/bulk-dlq-replay", json=body)
        rows = self._object(response, what).get("replayed")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self._unusable(response, what, "without the runs")
        return [self._run(row, what) for row in rows]

    def bulk_replay(self, run_ids: Sequence[str]) -> Flow[list[Row]]:
        """
        Begin a new run for each of several that failed.

        :param run_ids: the ended runs, 100 at most.
        :return: ``new_run_id`` and ``status`` of each, and of today's servers ``original_run_id`` and maybe
            ``error``, too. One that was not replayed has no ``new_run_id``.
        """
        what = "replaying runs"
        response = yield self._request(
            "POST", "/v1/runs/bulk-replay", json={"run_ids": ids_of(run_ids, MOST_REPLAYS)}
        )
        self._check(response, what)
        if response.body.lstrip().startswith(b"["):
            runs = [self._run(row, what) for row in self._rows(response, what)]
            return [{"new_run_id": run.id, "status": "replayed"} for run in runs]
        results = self._object(response, what).get("results")
        if not isinstance(results, list) or not all(isinstance(row, dict) for row in results):
            raise self._unusable(response, what, "without results")
        return results

    def prepare_retry(self, run_id: str, arguments: Mapping[str, Any]) -> None:
        segment("run_id", run_id)
        unknown_names("replay of a Strait run", arguments, ("from_checkpoint",))
        _checkpoint(arguments.get("from_checkpoint"))

    def check_retry(self, run_id: str, arguments: Mapping[str, Any]) -> Flow[Row]:
        """
        Refuse to replay a run that Strait would not replay, and say what to do instead.

        :param run_id: the run.
        :param arguments: ``from_checkpoint``, the sequence of a checkpoint, or nothing.
        """
        run, row = yield from self._ended_badly(run_id, arguments)
        found: list[Run] = []
        if run.status != DEAD_LETTER and RUN_KEY_TAG in _tags_of(row):
            found = yield from self._replays(row, _end_of(run) or 0.0, whole=False)
        return {"finished_at": _end_of(run), "replays": [one.id for one in found]}

    def _ended_badly(self, run_id: str, arguments: Mapping[str, Any]) -> Flow[tuple[Run, Row]]:
        """Return a run that can be replayed, and what Strait says of it; raise why another one cannot."""
        self.prepare_retry(run_id, arguments)
        row = yield from self._current(run_id)
        run = self._run(row, f"run {run_id}")
        if run.status == DEAD_LETTER:
            if arguments.get("from_checkpoint") is not None:
                raise _no_replay(
                    run, "it is a dead letter, which goes on as it is. Replay it without from_checkpoint"
                )
        elif not run.state.is_terminal:
            raise _no_replay(run, f"it is {run.status}; only an ended run can be replayed")
        elif run.status not in REPLAYABLE:
            raise _no_replay(
                run,
                f"it is {run.status}, and Strait replays only runs that are {', '.join(REPLAYABLE)} or "
                f"{DEAD_LETTER}. Start the job anew",
            )
        return run, row

    def retry(self, run_id: str, arguments: Mapping[str, Any]) -> Flow[Run]:
        """
        Queue a dead letter again, which keeps its id, or begin a new run with the payload of a failed one.

        :param run_id: the ended run.
        :param arguments: as for :meth:`check_retry`.
        """
        run, _ = yield from self._ended_badly(run_id, arguments)
        if run.status == DEAD_LETTER:
            return (yield from self.dlq_replay(run_id))
        return (yield from self.replay(run_id, arguments.get("from_checkpoint")))

    def find_retried(
        self,
        run_id: str,
        arguments: Mapping[str, Any],
        since: float,
        known: Mapping[str, Any] | None = None,
    ) -> Flow[Run | None]:
        row = yield from self._current(run_id)
        run = self._run(row, f"run {run_id}")
        if run.status not in (*REPLAYABLE, DEAD_LETTER):
            # It was a dead letter, and goes again or has gone.
            return run
        late = _has_ended_again(run, since, known)
        if run.status == DEAD_LETTER:
            return run if late else None
        found = yield from self._replay_of(row, run, arguments, since, known)
        return found or (run if late else None)

    def _replay_of(
        self,
        row: Row,
        run: Run,
        arguments: Mapping[str, Any],
        since: float,
        known: Mapping[str, Any] | None,
    ) -> Flow[Run | None]:
        """Return the replay of a run whose answer was lost; the arguments are those of the search."""
        # By Strait's own clock nothing replays a run before it has ended. Where nobody knows which replays
        # there were before, the worker's clock tells.
        is_told = bool(known) and RUN_KEY_TAG in _tags_of(row)
        after = max(since - (clock.WORKER_SLACK if is_told else CLOCK_SLACK), _end_of(run) or 0.0)
        found = yield from self._replays(row, after, whole=arguments.get("from_checkpoint") is None)
        found = [one for one in found if one.id not in (known or {}).get("replays", ())]
        if not found:
            return None
        named = ", ".join(f"{one.id} ({one.status})" for one in found)
        created = found[0].created_at
        may_be_older = not known and created is not None and created.timestamp() < since
        # Without the key it may be anybody's run of the same job.
        if may_be_older or RUN_KEY_TAG not in _tags_of(row):
            raise Unsure(
                f"Strait run {run.id} may have been replayed, and nothing tells whether by one of the runs "
                f"that were started since: {named}",
                found,
            )
        return found[0]

    def _replays(self, row: Row, after: float, *, whole: bool) -> Flow[list[Run]]:
        """
        Return the runs that may be replays of a run, the newest first.

        A replay has the tags of the run, and by the key among them it is known for sure. Without it, it is
        known by what else Strait copies.

        :param row: the run that was replayed.
        :param after: UTC epoch seconds before which it surely was not.
        :param whole: whether it was replayed with the payload that it had.
        """
        what = f"looking for replays of run {row['id']}"
        tags = _tags_of(row)
        same = ["job_id", "tags", *(["payload"] if whole else [])]
        params = {"triggered_by": "manual"}
        if RUN_KEY_TAG in tags:
            same = ["job_id"]
            params = {"tag_key": RUN_KEY_TAG, "tag_value": str(tags[RUN_KEY_TAG])}
        found: list[Run] = []

        def take(rows: list[Row]) -> bool:
            for one in rows:
                run = self._run(one, what)
                if run.created_at and run.created_at.timestamp() < after:
                    return False
                alike = all(one.get(name) == row.get(name) for name in same)
                marked = _tags_of(one).get(RUN_KEY_TAG) == tags.get(RUN_KEY_TAG)
                if run.id != row["id"] and alike and marked and not one.get("idempotency_key"):
                    found.append(run)
            return True

        yield from self._walk("/v1/runs", params, what, take)
        return found


def _has_ended_again(run: Run, since: float, known: Mapping[str, Any] | None) -> bool:
    """Tell whether a run has ended since a replay of it was sent, or may have."""
    ended = _end_of(run)
    if ended is None:
        return False
    # By Strait's own clock, where it was read before. Else a clock that is ahead of ours may have told: a run
    # that follows it tells more.
    return ended != known.get("finished_at") if known else ended >= since


def _end_of(run: Run) -> float | None:
    """Return when a run ended, in epoch seconds of Strait's clock."""
    return None if run.finished_at is None else run.finished_at.timestamp()


def ids_of(run_ids: Any, most: int | None = None) -> list[str]:
    """
    Return a list of ids that is not empty, given as such or as JSON text.

    :param run_ids: the ids.
    :param most: so many at most; None: any number.
    :raises BadInput: if it is anything else.
    """
    given = json_value("run_ids", run_ids)
    if not isinstance(given, list) or not given:
        raise BadInput("run_ids must be a list of run ids that is not empty")
    if most is not None and len(given) > most:
        raise BadInput(f"run_ids must be {most} at most, not {len(given)}")
    return [required_text(f"run_ids[{index}]", run_id) for index, run_id in enumerate(given)]


def _checkpoint(given: Any) -> dict[str, str]:
    """Return the query of a replay."""
    if given is None:
        return {}
    return {"from_checkpoint": str(integer("from_checkpoint", given, at_least=1))}


def _tags_of(row: Row) -> Row:
    tags = row.get("tags")
    return tags if isinstance(tags, dict) else {}


def _no_replay(run: Run, why: str) -> ApiError:
    return ApiError(f"Strait run {run.id} is not replayed: {why}", status=409, permanent=True)
