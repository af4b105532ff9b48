"""
Strait's job runs: connection and endpoints.

See https://docs.strait.dev. What the answers mean stands in :mod:`~airflow_provider_runs.strait.answers`, how
runs are listed in :mod:`~airflow_provider_runs.strait.lists`, what is kept about a run in
:mod:`~airflow_provider_runs.strait.details`, how it is cancelled and changed in
:mod:`~airflow_provider_runs.strait.controls`, and how it is replayed in
:mod:`~airflow_provider_runs.strait.replays`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_runs.core import clock
from airflow_provider_runs.core.api import (
    CanFindStarted,
    CanGetMany,
    CanListActive,
    Scope,
    header_text,
)
from airflow_provider_runs.core.connection import (
    ConnectionSpec,
    Field,
    Settings,
)
from airflow_provider_runs.core.errors import ApiError, BadInput, RunsError, WrongScope
from airflow_provider_runs.core.http import Flow, Request, Response
from airflow_provider_runs.core.inputs import (
    boolean,
    integer,
    iso_utc,
    json_value,
    required_text,
    unknown_names,
    without_none,
)
from airflow_provider_runs.core.run import Run, RunState
from airflow_provider_runs.core.schedule import Pace
from airflow_provider_runs.core.text import one_line
from airflow_provider_runs.strait.answers import Row
from airflow_provider_runs.strait.controls import StraitControls
from airflow_provider_runs.strait.details import StraitDetails
from airflow_provider_runs.strait.lists import BROKEN, RUN_KEY_TAG, TAG, run_path, segment
from airflow_provider_runs.strait.replays import StraitReplays

DOCUMENTATION = "https://docs.strait.dev"
CLOUD_HOST = "api.strait.dev"
CLOUD_APP = "https://app.strait.dev"
API_KEY = "strait_"
KEY_LENGTH = 256
MOST_TAGS = 20
TAG_KEY_LENGTH, TAG_VALUE_LENGTH = 64, 256
# Seconds between two looks at a start that is under way. Strait takes 30 s for a request at most.
BUSY_DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0)
BODY_BYTES = 1_048_576
ARGUMENTS = (
    "job_id",
    "payload",
    "tags",
    "scheduled_at",
    "priority",
    "ttl_secs",
    "concurrency_key",
    "debounce_key",
    "batch_key",
    "idempotency_key",
    "allow_no_run_id",
)

log = logging.getLogger(__name__)

CONNECTION = ConnectionSpec(
    conn_type="strait",
    hook_name="Strait",
    default_host=f"https://{CLOUD_HOST}",
    default_scheme="https",
    relabeling={"host": "API URL", "password": "API key"},
    placeholders={"host": f"https://{CLOUD_HOST}", "password": f"{API_KEY}...", "port": "443"},
    hidden=("schema", "login"),
    own_fields=(
        Field(
            "project_id",
            "Project",
            description="Project ID. An API key has its project; older servers want it nevertheless.",
        ),
        Field(
            "app_url",
            "Dashboard URL",
            description=f"Base of the links to runs. Empty: {CLOUD_APP} for Strait's cloud, else no links.",
        ),
    ),
    former_fields=("max_streams",),
)


class StraitRunApi(StraitReplays, StraitControls, StraitDetails, CanFindStarted, CanListActive, CanGetMany):
    """Describe Strait's run API for one connection and project."""

    connection = CONNECTION
    # A server takes 100 requests a minute from one address, starts among them.
    pace = Pace(min_poll_interval=2, poll_interval=60, max_requests_per_minute=90)
    scope_fields = ("project_id",)
    takes_key = True
    broken_words = BROKEN
    # A few pages of a list serve all who wait for neighbours.
    batch_size = 1000
    draw_share = 0.6

    def __init__(self, settings: Settings, scope: Scope | None = None, **kwargs: Any) -> None:
        super().__init__(settings, scope, **kwargs)
        self.project_id = self.scope.get("project_id") or settings.text("project_id")
        cloud = urlsplit(settings.base_url).hostname == CLOUD_HOST
        app_url = settings.text("app_url") or (CLOUD_APP if cloud else None)
        self.app_url = app_url and app_url.rstrip("/")
        named = f"connection {settings.conn_id!r}"
        if settings.password is None:
            raise BadInput(f"{named}: the API key is not set")
        key = header_text(f"{named}: the API key", settings.password)
        self._headers = {"Authorization": f"Bearer {key}"}
        if self.project_id and not key.startswith(API_KEY):
            # Other bearers have no project.
            self._headers["X-Project-Id"] = header_text("project_id", self.project_id)
        self._job_ids: dict[str, str] = {}
        """Jobs that were looked up for a start."""

    def auth_headers(self) -> dict[str, str]:
        return dict(self._headers)

    # Starting

    def trigger(
        self, arguments: Mapping[str, Any], key: str | None = None, began: float | None = None
    ) -> Flow[Run]:
        body = self.trigger_body(arguments, key)
        key = _key(arguments, key)
        job = required_text("job_id", arguments.get("job_id"))
        what = f"starting job {job!r}"
        path = yield from self._trigger_path(job)
        headers = {} if key is None else {"Idempotency-Key": key}
        request = self._request("POST", path, json=body, headers=headers, safe_to_repeat=key is not None)
        response = yield request
        for delay in BUSY_DELAYS:
            if key is None or response.status != 409 or self._error(response, what).permanent:
                break
            response = yield replace(request, delay=delay)
        self._check_start(response, what, body)
        answer = self._object(response, what)
        if answer.get("id") is None:
            return self._without_id(response, answer, what, arguments)
        run = self._run(answer, what)
        if answer.get("idempotency_hit") is True or response.headers.get("idempotency-replayed") == "true":
            log.info("Strait knew the key of this start already: run %s", run.id)
            try:
                # The answer may be the one that was given long ago.
                return (yield from self.get(run.id))
            except RunsError:
                return run
        return run

    def ready(self, arguments: Mapping[str, Any]) -> Flow[None]:
        job = required_text("job_id", arguments.get("job_id"))
        self._job_ids[job] = yield from self._job_id(job)

    def dry_run(self, arguments: Mapping[str, Any]) -> Flow[Row]:
        """
        Have Strait check the arguments of a start, and start nothing.

        :param arguments: as for :meth:`trigger`.
        """
        body = {**self.trigger_body(arguments, None), "dry_run": True}
        job = required_text("job_id", arguments.get("job_id"))
        what = f"checking a start of job {job!r}"
        path = yield from self._trigger_path(job)
        response = yield self._request("POST", path, json=body, safe_to_repeat=True)
        self._check_start(response, what, body)
        return self._object(response, what)

    def _trigger_path(self, job: str) -> Flow[str]:
        job_id = self._job_ids.pop(job, None) or (yield from self._job_id(job))
        return f"/v1/jobs/{segment('job_id', job_id)}/trigger"

    def _check_start(self, response: Response, what: str, body: Row) -> None:
        try:
            self._check(response, what)
        except ApiError as error:
            length = len(json.dumps(body))
            if error.status == 400 and length > BODY_BYTES:
                raise ApiError(
                    f"{error}. The request had {length} bytes; Strait takes {BODY_BYTES} unless it is set to "
                    "more",
                    status=400,
                ) from None
            raise

    def _without_id(self, response: Response, answer: Row, what: str, arguments: Mapping[str, Any]) -> Run:
        """Return what stands for a run that a job's debounce or batch window will bring later."""
        words = [word for word in ("debounced", "buffered") if answer.get(word) is True]
        if not words:
            raise self._unusable(response, what, "without a run id")
        when = answer.get("fire_at")
        message = f"{words[0]}" + (f" until {one_line(str(when), self.redact, 40)}" if when else "")
        if not boolean("allow_no_run_id", arguments.get("allow_no_run_id"), default=False):
            raise ApiError(
                f"Strait took the start of job {arguments['job_id']!r}, but it is {message}: the job has a "
                "window in which it gathers starts, and the run that comes of them has no id yet. Nobody can "
                "wait for it; allow_no_run_id=True starts it without",
                status=response.status,
                permanent=True,
            )
        return Run("", RunState.PENDING, words[0], message=message)

    def trigger_body(self, arguments: Mapping[str, Any], key: str | None) -> Row:
        unknown_names("Strait run", arguments, ARGUMENTS)
        required_text("job_id", arguments.get("job_id"))
        boolean("allow_no_run_id", arguments.get("allow_no_run_id"), default=False)
        given = without_none(arguments)
        body: Row = {"tags": self._tags(given.get("tags"), _key(arguments, key))}
        if "payload" in given:
            body["payload"] = json_value("payload", given["payload"])
        if "scheduled_at" in given:
            body["scheduled_at"] = iso_utc("scheduled_at", given["scheduled_at"])
        for name, highest in (("priority", 10), ("ttl_secs", 2_592_000)):
            if name in given:
                body[name] = integer(name, given[name], at_least=0, at_most=highest)
        for name in ("concurrency_key", "debounce_key", "batch_key"):
            if name in given:
                body[name] = required_text(name, given[name], longest=KEY_LENGTH)
        return body

    def _tags(self, given: Any, key: str | None) -> dict[str, str]:
        """Return a run's tags: the user's, and those by which it is found again."""
        given = {} if given is None else json_value("tags", given)
        if not isinstance(given, dict):
            raise BadInput("tags must be a mapping or the text of a JSON object")
        tags = {TAG: self.tag_value()} | ({} if key is None else {RUN_KEY_TAG: key})
        for name, value in given.items():
            required_text(f"the tag {name!r}", name, longest=TAG_KEY_LENGTH)
            if name in (TAG, RUN_KEY_TAG):
                raise BadInput(f"tags must not hold {name}: runs are found again by it")
            if not isinstance(value, str) or len(value) > TAG_VALUE_LENGTH:
                raise BadInput(f"tag {name!r} must be a text of {TAG_VALUE_LENGTH} characters at most")
        if len(given) + 2 > MOST_TAGS:
            raise BadInput(f"tags must be {MOST_TAGS - 2} at most, beside two of our own, not {len(given)}")
        return {**given, **tags}

    def find_started(self, arguments: Mapping[str, Any], key: str, since: float) -> Flow[Run | None]:
        filters = {"tag_key": RUN_KEY_TAG, "tag_value": _key(arguments, key)}
        runs = yield from self.list_runs(filters, since=since - clock.WORKER_SLACK)
        # Replays have the tags of their run; ours is the oldest.
        return runs[-1] if runs else None

    def active_filters(self, arguments: Mapping[str, Any]) -> Row:
        return {"job_id": arguments.get("job_id"), "status": list(self.statuses.active_words())}

    # Asking

    @staticmethod
    def check_run_id(run_id: str) -> None:
        run_path(run_id)

    def check(self) -> Flow[str]:
        page = yield from self._one_page("/v1/runs", {}, "listing runs", size=1)
        project = page.rows[0].get("project_id") if page.rows else None
        if project and self.project_id and project != self.project_id:
            # A key has its project; Strait takes no notice of another one.
            owner = one_line(str(project), self.redact, 100)
            raise WrongScope(f"the API key belongs to project {owner}, not to {self.project_id}", status=403)
        project = project or self.project_id
        named = f", project {one_line(str(project), self.redact, 100)}" if project else ""
        return f"Connected to Strait at {self.settings.base_url}{named}"

    # Live

    def stream_request(self, run_id: str) -> Request:
        """
        Return the request that opens the stream of what happens to a run.

        :param run_id: the run.
        """
        return self._request("GET", run_path(run_id, "stream"))

    def chunks_request(self, run_id: str) -> Request:
        """
        Return the request that opens the stream of what a run's language model says.

        :param run_id: the run.
        """
        return self._request("GET", run_path(run_id, "stream/chunks"))


def _key(arguments: Mapping[str, Any], key: str | None) -> str | None:
    """Return the key of a start, the user's own if there is one."""
    own = arguments.get("idempotency_key")
    key = key if own is None else own
    if key is None:
        return None
    return header_text("idempotency_key", required_text("idempotency_key", key, longest=KEY_LENGTH))
