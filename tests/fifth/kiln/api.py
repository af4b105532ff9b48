from airflow_provider_runs.core.api import RunApi
from airflow_provider_runs.core.connection import ConnectionSpec
from airflow_provider_runs.core.errors import ApiError, NotFound
from airflow_provider_runs.core.http import Request, read_object
from airflow_provider_runs.core.inputs import required_text, unknown_names
from airflow_provider_runs.core.run import Run, RunState, StatusTable
from airflow_provider_runs.core.schedule import Pace

DOCUMENTATION = "https://kiln.invalid/docs"
CONNECTION = ConnectionSpec(
    conn_type="kiln", hook_name="Kiln", default_host="https://kiln.invalid", default_scheme="https"
)


class KilnRunApi(RunApi):
    service, connection, takes_key = "Kiln", CONNECTION, True
    statuses = StatusTable(
        {RunState.RUNNING: ("firing",), RunState.SUCCEEDED: ("fired",), RunState.FAILED: ("cracked",)}
    )
    pace = Pace(min_poll_interval=1, poll_interval=30, max_requests_per_minute=60)

    def trigger_body(self, arguments, key):
        unknown_names("Kiln run", arguments, ("glaze",))
        return {"glaze": required_text("glaze", arguments.get("glaze")), "key": key}

    def trigger(self, arguments, key=None, began=None):
        body = self.trigger_body(arguments, key)
        return self._run((yield self._request("POST", json=body, safe_to_repeat=key is not None)))

    def get(self, run_id):
        wanted = {"id": required_text("run_id", run_id)}
        return self._run((yield self._request("GET", params=wanted, safe_to_repeat=True)))

    def check(self):
        read_object((yield self._request("GET", safe_to_repeat=True)), self.service, self.redact)
        return "Connected to Kiln"

    def auth_headers(self):
        return {"Authorization": f"Bearer {self.settings.password}"}

    def _request(self, method, **kwargs):
        return Request(method, f"{self.settings.base_url}/firings", **kwargs)

    def _run(self, response):
        if response.status != 200:
            kind = NotFound if response.status == 404 else ApiError
            raise kind(f"Kiln answered {response.status}", status=response.status)
        answer = read_object(response, self.service, self.redact)
        return Run(answer["id"], self.statuses.state(answer["status"]), answer["status"], DOCUMENTATION)
