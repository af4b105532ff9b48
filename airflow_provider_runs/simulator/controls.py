"""Who may use the simulator's controls: what runs on this machine, and no page that a browser on it shows."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import web

from airflow_provider_runs.simulator.world import Handler, Json

# A page whose name leads to this machine (DNS rebinding) shows its name here.
LOCAL_HOST = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
JSON_TYPE = "application/json"


def control(action: Callable[[web.Request], Coroutine[Any, Any, Json]]) -> Handler:
    """
    Return the handler of a control, which answers in JSON.

    It answers 403 to a foreign ``Host`` or ``Origin``, 415 to a body that is not sent as JSON, which any page
    may send without being asked for its origin, and 400 with the reason to a body that does not fit.

    :param action: does it, and returns what is answered.
    """

    async def handler(request: web.Request) -> web.StreamResponse:
        if refusal := _refusal(request):
            return refusal
        try:
            return web.json_response(await action(request))
        except ValueError as error:
            return _refused(400, str(error))

    return handler


def _refusal(request: web.Request) -> web.Response | None:
    """Return what is answered to who may not use the controls, None to who may."""
    host = request.headers.get("Host", "")
    if not LOCAL_HOST.fullmatch(host):
        return _refused(403, "controls are for this machine only: the Host must be 127.0.0.1 or localhost")
    if any(origin.lower() != f"http://{host.lower()}" for origin in request.headers.getall("Origin", ())):
        return _refused(403, "controls are not for pages of other origins")
    if request.can_read_body and request.content_type != JSON_TYPE:
        return _refused(415, f"a body must be sent as JSON (Content-Type: {JSON_TYPE})")
    return None


def _refused(status: int, reason: str) -> web.Response:
    return web.json_response({"error": reason}, status=status)
