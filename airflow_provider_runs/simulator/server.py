"""The HTTP server of the simulator: systems under their prefixes, faults, controls."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from importlib import import_module
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp import web
from aiohttp.payload import Payload

from airflow_provider_runs.provider_info import SYSTEMS
from airflow_provider_runs.simulator.controls import control
from airflow_provider_runs.simulator.world import (
    INNER_FAULT,
    NOTE,
    ControlError,
    Fault,
    Handler,
    Json,
    Plan,
    Route,
    System,
    World,
    as_json,
    read_options,
    read_rule,
)

T = TypeVar("T")

HOST = "127.0.0.1"
MAX_BODY = 16 * 1024 * 1024
SECRET_ARGUMENTS = re.compile(r"(?i)\b(api_key|token|http_authorization|signature)=[^&]*")
GATEWAY_PAGE = "<html><head><title>{0} Error</title></head><body><h1>{0} Error</h1></body></html>"


def system_class(name: str) -> type[System]:
    """Return the simulator class of a system, from ``airflow_provider_runs.<system>.simulator``."""
    try:
        module = import_module(f"airflow_provider_runs.{name}.simulator")
    except ModuleNotFoundError as error:
        if not str(error.name).startswith(__name__.partition(".")[0]):
            extra = "pip install 'airflow-provider-runs[simulator]'"
            raise ControlError(f"the simulator of {name!r} needs {error.name}: {extra}") from error
        raise ControlError(f"there is no simulator of {name!r}; known: {', '.join(SYSTEMS)}") from error
    found: type[System] = getattr(module, f"{name.capitalize()}Simulator")
    return found


class Server:
    """Serve simulated systems on a loopback port, inside the caller's event loop.

    :param systems: names of the systems, each served under ``/<name>``
    :param system: serve this one only, at the root
    :param port: port to listen on; 0 takes a free one
    :param speed: factor by which run times, queue times and holds are shortened
    :param duration: seconds that a run takes if no plan says otherwise
    :param options: options per system, for example ``{"mage": {"auth": True}}``
    """

    def __init__(
        self,
        systems: Iterable[str] = SYSTEMS,
        *,
        system: str | None = None,
        port: int = 0,
        speed: float = 1.0,
        duration: float = 5.0,
        options: Mapping[str, Mapping[str, Json]] | None = None,
    ) -> None:
        names = (system,) if system else tuple(systems)
        given = options or {}
        if strangers := sorted(set(given) - set(names)):
            raise ControlError(f"options for systems that are not served: {', '.join(strangers)}")
        self.world = World(speed=speed, duration=duration)
        self.systems: dict[str, System] = {}
        for name in names:
            kind = system_class(name)
            self.systems[name] = kind(self.world, read_options(kind.options_type, given.get(name, {})))
        self._at_root = system is not None
        self._port = port
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Return the server's address."""
        return f"http://{HOST}:{self._port}"

    def url_of(self, system: str) -> str:
        """Return the address of one system."""
        if system not in self.systems:
            raise ControlError(f"{system!r} is not served")
        return self.url + self._prefix(system)

    async def start(self) -> None:
        """Listen."""
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_routes(self._controls())
        for system in self.systems.values():
            prefix = self._prefix(system.name)
            for route in system.routes():
                handler = self._guarded(system, route)
                app.router.add_route(route.method, prefix + route.path, handler)
            app.router.add_route("*", prefix + "/{rest:.*}", self._guarded(system, self._fallback(system)))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, self._port, backlog=1024)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Cut what hangs and close the port."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def reset(self) -> None:
        """Forget runs, plans, faults, tokens and requests."""
        self.world.plans.clear()
        self.world.faults.clear()
        self.world.clear_requests()
        for system in self.systems.values():
            system.reset()

    def expire_tokens(self, system: str | None = None) -> None:
        """Make all issued tokens of a system, or of all, invalid."""
        for found in self._chosen(system):
            found.expire_tokens()

    def runs(self, system: str | None = None) -> list[dict[str, Json]]:
        """Return all runs, of one system or of all."""
        return [run for found in self._chosen(system) for run in found.runs()]

    def _chosen(self, system: str | None) -> list[System]:
        if system is None or system == "*":
            return list(self.systems.values())
        if system not in self.systems:
            raise ControlError(f"{system!r} is not served")
        return [self.systems[system]]

    def _prefix(self, system: str) -> str:
        return "" if self._at_root else f"/{system}"

    def _fallback(self, system: System) -> Route:
        prefix = self._prefix(system.name)

        async def handler(request: web.Request) -> web.StreamResponse:
            return await system.fallback(request, request.path.removeprefix(prefix))

        return Route("*", "/{rest:.*}", "unknown", handler)

    def _guarded(self, system: System, route: Route) -> Handler:
        world = self.world
        prefix = self._prefix(system.name)

        async def handler(request: web.Request) -> web.StreamResponse:
            wanted = route.operation
            operation = wanted if isinstance(wanted, str) else await wanted(request)
            fault = world.fault_for(system.name, operation)
            kind = fault.fault if fault else None
            INNER_FAULT.set(None)
            path = prefix + system.redacted(request.path.removeprefix(prefix))
            if request.query_string:
                path += "?" + SECRET_ARGUMENTS.sub(r"\1=***", request.query_string)

            def note(status: int | None) -> None:
                if NOTE.get() is note:
                    met = kind or INNER_FAULT.get()
                    world.record(system.name, operation, request.method, path, status, met)
                    NOTE.set(None)

            NOTE.set(note)

            if fault and kind == "slow":
                await request.read()  # or a client that is gone by then has sent nothing
                await asyncio.sleep(fault.seconds or 0)
            works = fault is None or (fault.works_first and (kind == "slow" or not route.streams))
            answer = await route.handler(request) if works else None
            if fault and kind == "hang":
                note(None)
                await (asyncio.sleep(fault.seconds) if fault.seconds is not None else asyncio.Event().wait())
                return cut(request)
            if kind in ("reset_before", "reset_after", "cut_body", "two_lengths"):
                note(None)
                if kind == "cut_body" and not route.streams:
                    return await cut_in_the_middle(request, answer)
                if kind == "two_lengths" and not route.streams:
                    return with_two_lengths(request)
                return cut(request)
            if fault and (answer is None or kind != "slow"):
                answer = spoiled(system, fault)
            assert answer is not None
            note(answer.status)
            return answer

        return handler

    def _controls(self) -> list[web.RouteDef]:
        world = self.world

        async def add_plan(request: web.Request) -> Json:
            plan = read_rule(Plan, await request.json())
            world.plans.add(plan)
            return {"plan": as_json(plan)}

        async def add_fault(request: web.Request) -> Json:
            fault = read_rule(Fault, await request.json())
            world.add_fault(fault)
            return {"fault": as_json(fault)}

        async def expire_tokens(request: web.Request) -> Json:
            body = await request.json() if request.can_read_body else {}
            self.expire_tokens(body.get("system"))
            return {"expired": True}

        async def runs(request: web.Request) -> Json:
            return self.runs(request.query.get("system"))

        def simple(action: Callable[[], Json]) -> Callable[[web.Request], Coroutine[Any, Any, Json]]:
            async def handler(_: web.Request) -> Json:
                return action()

            return handler

        def health() -> Json:
            return {"status": "ok", "systems": {name: self.url_of(name) for name in self.systems}}

        return [
            web.post("/_plans", control(add_plan)),
            web.delete("/_plans", control(simple(lambda: {"deleted": world.plans.clear()}))),
            web.post("/_faults", control(add_fault)),
            web.delete("/_faults", control(simple(lambda: {"deleted": world.faults.clear()}))),
            web.post("/_expire_tokens", control(expire_tokens)),
            web.get("/_runs", control(runs)),
            web.get("/_requests", control(simple(world.requests))),
            web.delete("/_requests", control(simple(world.clear_requests))),
            web.post("/_reset", control(simple(self.reset))),
            web.get("/_health", control(simple(health))),
        ]


async def cancel_others() -> None:
    """End the other tasks of the event loop, such as handlers whose client has gone."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def cut(request: web.Request) -> web.StreamResponse:
    """Drop the connection; the answer that is returned reaches nobody."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def cut_in_the_middle(request: web.Request, answer: web.StreamResponse | None) -> web.StreamResponse:
    """Send half of an answer whose head tells of the whole, then drop the connection."""
    assert isinstance(answer, web.Response)
    whole = answer.content_length or 0
    writer = await answer.prepare(request)
    assert writer is not None
    writer.length = whole // 2
    body = answer.body
    await (body.write(writer) if isinstance(body, Payload) else writer.write(body or b""))
    if request.transport is not None:
        request.transport.close()
    return web.Response()


def with_two_lengths(request: web.Request) -> web.StreamResponse:
    """Send an answer that cannot be read, and drop the connection."""
    if request.transport is not None:
        request.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}")
        request.transport.close()
    return web.Response()


def spoiled(system: System, fault: Fault) -> web.Response:
    """Return the wrong answer that a fault asks for."""
    if fault.fault == "empty":
        answer = web.Response(status=fault.status or 200)
    elif fault.fault == "not_json":
        answer = web.Response(status=fault.status or 200, text=str(fault.body or "this is not JSON"))
    elif fault.fault == "html":
        status = fault.status or 502
        text = fault.body or GATEWAY_PAGE.format(status)
        answer = web.Response(status=status, text=str(text), content_type="text/html")
    elif fault.body is None:
        answer = system.error_answer(fault.status or 503)
    elif isinstance(fault.body, str):
        answer = web.Response(status=fault.status or 503, text=fault.body)
    else:
        answer = web.json_response(fault.body, status=fault.status or 503)
    if fault.retry_after is not None:
        answer.headers["Retry-After"] = str(fault.retry_after)
    return answer


class Simulator:
    """Run the simulator in a thread of its own, with its controls as methods.

    The parameters are those of :class:`Server`::

        with Simulator(speed=10, options={"mage": {"auth": True}}) as sim:
            sim.plan(system="chalk", resource="neobank.*", outcome="failed")
            hook = ChalkHook(...sim.url_of("chalk")...)

    It is also an asynchronous context manager. What is called before it runs raises RuntimeError.

    :param systems: names of the systems.
    :param settings: the other parameters of :class:`Server`.
    """

    def __init__(self, systems: Iterable[str] = SYSTEMS, **settings: Any) -> None:
        self._server = Server(systems, **settings)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """
        Start the thread and return when the server listens.

        :return: the simulator itself.
        :raises OSError: if the port is not free.
        """
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="simulator", daemon=True)
        self._thread.start()
        try:
            self._wait_for(self._server.start())
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the server and the thread."""
        if self._loop is None or self._thread is None:
            return
        self._wait_for(self._server.stop())
        self._wait_for(cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    @property
    def url(self) -> str:
        """Return the server's address."""
        return self._server.url

    def url_of(self, system: str) -> str:
        """
        Return the address of one system, for a connection's host.

        :param system: its name, such as ``chalk``.
        :raises ControlError: if it is not served.
        """
        return self._server.url_of(system)

    def plan(self, **plan: Json) -> None:
        """
        Say how coming runs shall end, as ``POST /_plans``.

        :param plan: the fields of a plan, which the package's docstring lists.
        :raises ControlError: if a field is unknown or has a wrong value.
        """
        self._call(lambda: self._server.world.plans.add(read_rule(Plan, plan)))

    def clear_plans(self) -> None:
        """Forget all plans."""
        self._call(self._server.world.plans.clear)

    def fault(self, fault: str, **rest: Json) -> None:
        """
        Make coming requests go wrong, as ``POST /_faults``.

        :param fault: in which way: a word that the package's docstring lists.
        :param rest: the other fields of a fault, listed there, too.
        :raises ControlError: if a field is unknown or has a wrong value.
        """
        self._call(lambda: self._server.world.add_fault(read_rule(Fault, {"fault": fault, **rest})))

    def clear_faults(self) -> None:
        """Forget all faults."""
        self._call(self._server.world.faults.clear)

    def expire_tokens(self, system: str | None = None) -> None:
        """
        Make all issued tokens invalid.

        :param system: those of this system; None: of all.
        :raises ControlError: if it is not served.
        """
        self._call(lambda: self._server.expire_tokens(system))

    def runs(self, system: str | None = None) -> list[dict[str, Json]]:
        """
        Return the runs, each with the fields that the package's docstring lists.

        :param system: those of this system; None: of all.
        :raises ControlError: if it is not served.
        """
        return self._call(lambda: self._server.runs(system))

    def requests(self) -> dict[str, Json]:
        """Return ``counts`` of requests by system, operation and status, and the ``last`` requests."""
        return self._call(self._server.world.requests)

    def count(self, system: str, operation: str, status: int | None = None) -> int:
        """
        Return how often an operation was called.

        :param system: the system's name.
        :param operation: the operation, such as ``trigger``, ``get`` or ``cancel``.
        :param status: calls that were answered with this HTTP status; None: all.
        """
        counts = self.requests()["counts"]
        return sum(
            entry["count"]
            for entry in counts
            if (entry["system"], entry["operation"]) == (system, operation)
            and status in (None, entry["status"])
        )

    def clear_requests(self) -> None:
        """Forget the counts and the last requests."""
        self._call(self._server.world.clear_requests)

    def reset(self) -> None:
        """Forget runs, plans, faults, tokens and requests."""
        self._call(self._server.reset)

    def _call(self, action: Callable[[], T]) -> T:
        async def in_loop() -> T:
            return action()

        return self._wait_for(in_loop())

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            work.close()
            raise RuntimeError("the simulator does not run")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
