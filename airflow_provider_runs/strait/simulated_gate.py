"""Who may come in to a simulated Strait, and how often."""

from __future__ import annotations

import hmac
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from aiohttp import web

from airflow_provider_runs.core import clock
from airflow_provider_runs.strait.simulated import Job, StraitOptions
from airflow_provider_runs.strait.simulated_requests import Refused

LOCKOUTS = ((5, 15), (2.5, 5), (1, 1))
"""How many failed logins, in limits, lead to how long a refusal, in windows."""


@dataclass(frozen=True)
class Call:
    """Hold who calls: the project, the caller's name and its scopes (None: all)."""

    project: str
    caller: str
    scopes: frozenset[str] | None

    def needs(self, *scopes: str) -> None:
        """Refuse a caller without one of these scopes."""
        for scope in scopes:
            if self.scopes is not None and scope not in self.scopes:
                raise Refused(403, f"requires {scope}")


class Window:
    """Count requests per key as a sliding window does: the share of the window before, and this one."""

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit, self.seconds = limit, seconds
        self._counts: Counter[tuple[str, int]] = Counter()

    def take(self, key: str) -> int | None:
        """Count a request; return how many are left, None if it is one too many."""
        number, share = divmod(clock.time() / self.seconds, 1)
        now = int(number)
        rate = self._counts[key, now - 1] * (1 - share) + self._counts[key, now]
        if rate >= self.limit:
            return None
        self._counts[key, now] += 1
        for old in [each for each in self._counts if each[1] < now - 1]:
            del self._counts[old]
        return max(0, int(self.limit - rate) - 1)


class Gate:
    """Check credentials and limits; ``triggered`` counts towards the plan's quota."""

    def __init__(self, options: StraitOptions, jobs: Iterable[Job]) -> None:
        self._options = options
        self.triggered = 0
        self.requests = Window(options.rate_limit, options.window)
        self.triggers = Window(options.trigger_limit, options.window)
        self.bulk_triggers = Window(options.bulk_trigger_limit, options.window)
        self._keys = Window(options.key_limit, options.window)
        self._jobs = {job.id: Window(job.rate_limit, options.window) for job in jobs}
        self._failures: Counter[str] = Counter()
        self._locked: dict[str, float] = {}

    def enter(self, request: web.Request, headers: dict[str, str]) -> Call:
        """Count a request and return who calls.

        :param headers: those of the answer, to which what is left is added
        """
        self.limit(self.requests, request, headers)
        call = self._admit(request)
        if self._options.key_limit and self._keys.take(call.caller) is None:
            raise Refused(429, headers={"Retry-After": str(math.ceil(self._options.window))})
        return call

    def limit(self, window: Window, request: web.Request, headers: dict[str, str] | None = None) -> None:
        """Count a request against one of the limits that are kept per address."""
        if not window.limit:
            return
        left = window.take(request.remote or "")
        if left is None:
            raise too_many(math.ceil(window.seconds), window.limit)
        if headers is not None:
            headers |= {"X-RateLimit-Limit": str(window.limit), "X-RateLimit-Remaining": str(left)}

    def _admit(self, request: web.Request) -> Call:
        """Check the credentials and return who calls."""
        options, headers, address = self._options, request.headers, request.remote or ""
        wait = self._locked.get(address, 0) - clock.time()
        if wait > 0:
            text = "too many failed authentication attempts"
            raise Refused(429, text, headers={"Retry-After": str(math.ceil(wait))})
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        token = token if scheme == "Bearer" else ""
        secret = headers.get("X-Internal-Secret") or ("" if token.startswith("strait_") else token)
        if secret and hmac.compare_digest(secret.encode(), options.internal_secret.encode()):
            project = headers.get("X-Project-Id") or request.query.get("project_id", "")
            return Call(project, "internal", None)
        if token and hmac.compare_digest(token.encode(), options.api_key.encode()):
            scopes = frozenset(options.scopes.replace(" ", "").split(",")) - {""}
            return Call(options.project_id, "key", scopes or None)
        self._failures[address] += 1
        for limits, windows in LOCKOUTS:
            if options.login_limit and self._failures[address] >= limits * options.login_limit:
                self._locked[address] = clock.time() + windows * options.window
                break
        raise Refused(401)

    def admit_run(self, job: Job) -> None:
        """Check the limits of the plan and of the job."""
        quota = self._options.monthly_runs
        if quota and self.triggered >= quota:
            text = f"monthly run limit of {quota} reached"
            limits = {"kind": "monthly_runs", "limit": quota, "current": self.triggered, "plan": "free"}
            raise Refused(402, body={"code": "quota_exceeded", "message": text, **limits})
        if job.rate_limit and self._jobs[job.id].take(job.id) is None:
            text = "job rate limit exceeded"
            raise Refused(429, text, details=["retry_after_seconds=5"], headers={"Retry-After": "5"})

    def plan_headers(self) -> dict[str, str]:
        """Return what the service tells of the plan's quota."""
        limit = self._options.monthly_runs
        if not limit:
            return {}
        return {
            "X-Strait-Plan": "free",
            "X-Strait-Usage-Limit": str(limit),
            "X-Strait-Usage-Remaining": str(max(0, limit - self.triggered)),
        }


def too_many(seconds: int, limit: int | None = None) -> Refused:
    """Return the answer of the limiters that are kept per address."""
    headers = {"Retry-After": str(seconds)}
    if limit is not None:
        headers |= {"X-RateLimit-Limit": str(limit), "X-RateLimit-Remaining": "0"}
        headers["X-RateLimit-Reset"] = str(int(clock.time()) + seconds)
    return Refused(429, headers=headers, body="Too Many Requests\n")
