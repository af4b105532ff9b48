from aiohttp import web

from airflow_provider_runs.simulator.world import Route, System, TimeLine, run_entry


class KilnSimulator(System):
    name = "kiln"

    def reset(self):
        self._firings = {}

    def routes(self):
        yield Route("POST", "/firings", "trigger", self._trigger)
        yield Route("GET", "/firings", "get", self._get)

    def runs(self):
        return [
            run_entry(
                **{"system": "kiln", "id": key, "resource": body["glaze"], "status": self._status(key)},
                **{"created": line.created, "started": line.begins, "finished": line.ends},
                **{"scope": {}, "key": body["key"], "body": body},
            )
            for key, (body, plan, line) in self._firings.items()
        ]

    def error_answer(self, status):
        return web.json_response({"error": "as planned"}, status=status)

    def _status(self, key):
        _, plan, line = self._firings[key]
        return ("fired" if plan.outcome == "succeeded" else "cracked") if line.has_ended() else "firing"

    async def _trigger(self, request):
        body = await request.json()
        plan = self.world.plan_for("kiln", [body["glaze"]])
        key = body["key"] or f"f-{len(self._firings)}"
        self._firings.setdefault(key, (body, plan, TimeLine.of(self.world, plan)))
        return web.json_response({"id": key, "status": self._status(key)})

    async def _get(self, request):
        key = request.query.get("id")
        if key is None:
            return web.json_response({})
        if key not in self._firings:
            return self.error_answer(404)
        return web.json_response({"id": key, "status": self._status(key)})
