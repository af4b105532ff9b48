"""What a simulated Strait reads in requests, and how it refuses them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from airflow_provider_runs.core import clock
from airflow_provider_runs.simulator.world import Json
from airflow_provider_runs.strait.simulated import (
    ACTIVE,
    NANO,
    TERMINAL,
    Asked,
    Job,
    StraitRun,
    parse_rfc3339,
)

if TYPE_CHECKING:
    from multidict import MultiMapping

CODES = {
    400: "bad_request",
    401: "authentication_required",
    403: "forbidden",
    404: "not_found",
    409: "conflict",
    422: "validation_failed",
    429: "rate_limited",
    503: "service_unavailable",
}
TEXTS = {401: "authentication required", 403: "forbidden", 404: "run not found", 429: "rate limit exceeded"}
SERVER_ERROR = "internal server error"
FARTHEST = 30 * 86400
LONGEST_TTL = 2592000
LONGEST_PAGE = 100


class Refused(Exception):
    """Carry an error of the service."""

    def __init__(
        self,
        status: int,
        message: str | None = None,
        *,
        code: str | None = None,
        details: Iterable[str] = (),
        headers: dict[str, str] | None = None,
        body: dict[str, Json] | str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.body = status, code or CODES.get(status, "internal_error"), body
        self.message = SERVER_ERROR if status == 500 else message or TEXTS.get(status, "simulated answer")
        self.details, self.headers = list(details), headers or {}


def refuse_idle(job: Job) -> None:
    """Refuse to trigger a job that is paused or disabled."""
    if not job.enabled:
        raise Refused(400, "job is disabled")
    if job.paused:
        raise Refused(409, "job is paused")


def read_trigger(job: Job, body: dict[str, Json], key: str | None, where: str = "") -> Asked:
    """Check what a trigger asks for.

    :param where: what precedes the text of an error
    """
    tags = body.get("tags") or {}
    if (
        not is_texts(tags)
        or len(tags) > 20
        or not all(0 < len(k) <= 64 and len(tags[k]) <= 256 for k in tags)
    ):
        raise Refused(400, where + "tags must be at most 20 pairs of at most 64 and 256 characters")
    payload = body.get("payload")
    if missing := [name for name in job.requires if not isinstance(payload, dict) or name not in payload]:
        raise Refused(400, f"{where}payload does not match the schema: {', '.join(missing)} is required")
    scheduled = None
    if body.get("scheduled_at") is not None:
        scheduled = moment(body["scheduled_at"], where)
        ahead = scheduled - clock.time()
        if ahead < 0:
            raise Refused(400, where + "scheduled_at must not be in the past")
        if ahead > FARTHEST:
            raise Refused(400, where + "scheduled_at must be at most 30 days ahead")
    numbers = {"priority": 10, "ttl_secs": LONGEST_TTL}
    for name, most in numbers.items():
        value = body.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise Refused(422, where + "validation failed", details=[f"{name} must be between 0 and {most}"])
    for name in ("concurrency_key", "debounce_key", "batch_key"):
        value = body.get(name, "")
        if not isinstance(value, str) or len(value) > 256:
            raise Refused(
                422, where + "validation failed", details=[f"{name} must have at most 256 characters"]
            )
    return Asked(
        payload=payload,
        tags=dict(job.tags) | tags,
        scheduled=scheduled,
        priority=body.get("priority", 0),
        ttl=body.get("ttl_secs", 0),
        concurrency_key=body.get("concurrency_key"),
        key=key,
        body=body,
    )


def run_filter(query: MultiMapping[str], seed: bool) -> Callable[[StraitRun], bool]:
    """Return what decides whether a run is listed.

    :param seed: whether the seed's server is asked, which knows fewer filters
    """
    statuses = set(query.getall("status", []))
    if not seed:
        statuses |= set(query.getall("statuses", [])) | set(query.getall("statuses[]", []))
    if bad := sorted(statuses - {""} - TERMINAL - ACTIVE):
        raise Refused(400, f"invalid status: {', '.join(bad)}")
    wanted = {name: query.get(name) for name in ("triggered_by", "batch_id")}
    tag = None
    metadata = bool(query.get("metadata_key"))
    if not seed:
        wanted |= {name: query.get(name) for name in ("execution_mode", "error_class")}
        if query.get("tag_value") and not query.get("tag_key"):
            raise Refused(400, "tag_value requires tag_key")
        if query.get("tag_key"):
            tag = query["tag_key"], query.get("tag_value")
        if tag and metadata:
            raise Refused(400, "metadata and tag filters cannot be combined")
    part: Json = None
    if query.get("payload_contains"):
        try:
            part = json.loads(query["payload_contains"])
        except ValueError:
            raise Refused(400, "payload_contains must be a JSON object") from None

    def matches(run: StraitRun) -> bool:
        own = {
            "triggered_by": run.triggered_by,
            "batch_id": run.batch,
            "execution_mode": run.job.mode,
            "error_class": run.error_class,
        }
        return (
            (not statuses - {""} or run.status in statuses)
            and all(not value or own[name] == value for name, value in wanted.items())
            and has_pair(run.asked.tags, tag)
            and not metadata  # no run has any: a trigger takes none
            and (part is None or contains(run.payload, part))
        )

    return matches


def ids_of(body: dict[str, Json], most: int) -> list[str]:
    """Return the run ids of a bulk call."""
    found = body.get("run_ids")
    if (
        not isinstance(found, list)
        or not 1 <= len(found) <= most
        or not all(isinstance(i, str) for i in found)
    ):
        raise Refused(422, "validation failed", details=[f"run_ids must have 1 to {most} entries"])
    return found


def whole(text: str | None, default: int, most: float = LONGEST_PAGE) -> int:
    """Return the number of a query parameter, cut to the most there can be."""
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not int(text):
        raise Refused(400, f"{text!r} is not a positive number")
    return int(min(int(text), most))


def moment(value: Json, where: str = "") -> float:
    """Return the epoch seconds of a time in a request."""
    try:
        return parse_rfc3339(value) / NANO
    except (ValueError, AttributeError):
        raise Refused(400, f"{where}{value!r} is no RFC 3339 time") from None


def is_texts(value: Json) -> bool:
    """Say whether a value is a map of texts."""
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def has_pair(pairs: dict[str, str], wanted: tuple[str, str | None] | None) -> bool:
    """Say whether a map has a key, with a value if one is wanted."""
    if wanted is None:
        return True
    key, value = wanted
    return key in pairs and value in (None, "", pairs[key])


def contains(whole: Json, part: Json) -> bool:
    """Say whether a JSON value contains another, as PostgreSQL's ``@>`` does."""
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(name in whole and contains(whole[name], value) for name, value in part.items())
    if isinstance(whole, list) and isinstance(part, list):
        return all(any(contains(one, each) for one in whole) for each in part)
    return bool(whole == part)
