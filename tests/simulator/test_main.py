from __future__ import annotations

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from airflow_provider_runs.core import clock
from airflow_provider_runs.simulator import ControlError, Server, Simulator
from airflow_provider_runs.simulator.__main__ import main, parser, read_settings

STATUS = "/api/status"


def mage(sim: Simulator, path: str = STATUS, **options: Any) -> requests.Response:
    return requests.get(sim.url_of("mage") + path, timeout=options.pop("timeout", 10), **options)


def start(sim: Simulator) -> requests.Response:
    url = sim.url_of("mage") + "/api/pipeline_schedules/1/api_trigger"
    return requests.post(url, headers={"Authorization": "Bearer tok123"}, timeout=10)


HANGS = 300
"""Seconds after which another process hangs, on however slow a machine."""


@pytest.mark.real_time  # another process answers
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process(number: signal.Signals) -> None:
    """The process prints its address on one line when it is ready, and a signal stops it cleanly."""
    command = [sys.executable, "-m", "airflow_provider_runs.simulator", "--port", "0", "--system", "chalk"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        word, _, url = process.stdout.readline().strip().partition(" ")
        try:
            assert word == "simulator:"
            assert url.startswith("http://127.0.0.1:")
            health = requests.get(url + "/_health", timeout=HANGS).json()
            assert health == {"status": "ok", "systems": {"chalk": url}}
            assert requests.get(url + "/v1/who-am-i", timeout=HANGS).status_code == 401
            process.send_signal(number)
            out, err = process.communicate(timeout=HANGS)
        finally:
            process.kill()
        assert (process.returncode, out, err) == (0, "", "")


def test_no_airflow_is_imported() -> None:
    code = (
        "import sys, airflow_provider_runs.simulator, airflow_provider_runs.chalk.simulator,"
        " airflow_provider_runs.mage.simulator; sys.exit('airflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=HANGS).returncode == 0


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The help names the credentials, and wrong options are refused with a reason."""
    text = parser().format_help()
    assert 'chalk.client_secret="chalk-secret"' in text
    assert "mage.auth=false" in text
    assert read_settings(["mage.auth=true", "mage.password=a=b", "chalk.expires_in=5"]) == {
        "mage": {"auth": True, "password": "a=b"},
        "chalk": {"expires_in": 5},
    }
    assert main(["--set", "mage.nothing=1"]) == 2
    assert "unknown option: nothing" in capsys.readouterr().err
    assert main(["--set", "nothing"]) == 2
    assert main(["--system", "chalk", "--set", "mage.auth=true"]) == 2
    assert main(["--speed", "0"]) == 2


def test_unknown_system() -> None:
    with pytest.raises(ControlError, match="no simulator of 'nothing'"):
        Server(["nothing"])
    with Simulator(system="mage") as sim:
        assert sim.url_of("mage") == sim.url
        with pytest.raises(ControlError, match="'chalk' is not served"):
            sim.url_of("chalk")
        with pytest.raises(ControlError, match="'chalk' is not served"):
            sim.runs("chalk")


def test_port_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    """A simulator that cannot start says so and leaves no thread behind."""
    with Simulator() as sim:
        port = int(sim.url.rpartition(":")[2])
        with pytest.raises(OSError, match="address already in use"):
            Simulator(port=port).start()
        assert main(["--port", str(port)]) == 1
        assert "cannot listen" in capsys.readouterr().err


async def test_asynchronous_context() -> None:
    async with Simulator() as sim:
        assert sim.count("mage", "status") == 0
    with pytest.raises(RuntimeError, match="does not run"):
        sim.runs()
    sim.stop()


def test_controls_over_http(sim: Simulator) -> None:
    """The controls over HTTP are those of the Python interface."""
    url = sim.url
    plan = {"system": "mage", "resource": "exa*", "outcome": "failed", "error": "no", "times": 1}
    assert requests.post(url + "/_plans", json=plan, timeout=10).json()["plan"]["message"] == "no"
    fault = {"system": "mage", "operation": "status", "fault": "status", "status": 418, "body": {"a": 1}}
    assert requests.post(url + "/_faults", json=fault, timeout=10).status_code == 200
    answer = mage(sim)
    assert (answer.status_code, answer.json()) == (418, {"a": 1})
    assert requests.delete(url + "/_faults", timeout=10).json() == {"deleted": 1}
    assert mage(sim).status_code == 200
    assert start(sim).status_code == 200
    runs = requests.get(url + "/_runs?system=mage", timeout=10).json()
    assert [(run["id"], run["resource"]) for run in runs] == [(1, "example")]
    assert requests.get(url + "/_runs?system=other", timeout=10).status_code == 400
    seen = requests.get(url + "/_requests", timeout=10).json()
    assert {"system": "mage", "operation": "status", "status": 418, "count": 1} in seen["counts"]
    assert [entry["operation"] for entry in seen["last"]] == ["status", "status", "trigger"]
    assert sim.count("mage", "status") == 2
    assert sim.count("mage", "status", 418) == 1
    requests.delete(url + "/_requests", timeout=10)
    assert sim.requests() == {"counts": [], "last": []}
    assert requests.delete(url + "/_plans", timeout=10).json() == {"deleted": 1}
    assert requests.post(url + "/_expire_tokens", json={"system": "chalk"}, timeout=10).ok
    assert requests.post(url + "/_expire_tokens", timeout=10).ok
    requests.post(url + "/_reset", timeout=10)
    assert sim.runs() == []


CONTROLS = (
    *(("POST", f"/_{name}") for name in ("plans", "faults", "expire_tokens", "reset")),
    *(("DELETE", f"/_{name}") for name in ("plans", "faults", "requests")),
    *(("GET", f"/_{name}") for name in ("runs", "requests", "health")),
)
each_control = pytest.mark.parametrize(("method", "path"), CONTROLS)


def test_every_control_is_tried() -> None:
    server = Server(["mage"])
    assert {(route.method, route.path) for route in server._controls()} == set(CONTROLS)


@each_control
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example.com"},
        {"Host": "evil.example.com:{port}"},
        {"Host": "127.0.0.1.evil.example.com:{port}"},
        {"Host": "localhost.evil.example.com"},
        {"Host": "169.254.169.254"},
        {"Host": "[::1"},
        {"Origin": "https://evil.example.com"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://localhost:{port}"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Origin": "http://127.0.0.1:{port}.evil.example.com"},
    ],
    ids=str,
)
def test_controls_refuse_pages_of_other_origins(
    sim: Simulator, method: str, path: str, headers: dict[str, str]
) -> None:
    assert start(sim).ok
    port = sim.url.rpartition(":")[2]
    shown = {name: value.replace("{port}", port) for name, value in headers.items()}
    body = {} if method == "GET" else {"json": {"fault": "reset_before", "system": "mage", "operation": "*"}}
    answer = requests.request(method, sim.url + path, headers=shown, timeout=10, **body)  # type: ignore[arg-type]
    assert answer.status_code == 403
    assert set(answer.json()) == {"error"}
    # Nothing was done.
    assert mage(sim).ok and len(sim.runs()) == 1 and sim.count("mage", "trigger") == 1


@pytest.mark.parametrize(
    "host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:1", "localhost", "[::1]:8080"]
)
def test_controls_are_for_this_machine_by_any_of_its_names(sim: Simulator, host: str) -> None:
    host = host.replace("{port}", sim.url.rpartition(":")[2])
    for headers in ({"Host": host}, {"Host": host, "Origin": f"http://{host}"}):
        assert requests.post(f"{sim.url}/_reset", headers=headers, timeout=10).ok


@pytest.mark.parametrize("path", ["/_plans", "/_faults", "/_expire_tokens", "/_reset"])
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
def test_controls_refuse_bodies_that_any_page_may_send(sim: Simulator, path: str, kind: str | None) -> None:
    assert start(sim).ok
    body = json.dumps({"fault": "reset_before", "system": "mage", "operation": "*"})
    headers = {} if kind is None else {"Content-Type": kind}
    answer = requests.post(sim.url + path, data=body.encode(), headers=headers, timeout=10)
    assert answer.status_code == 415 and "application/json" in answer.json()["error"]
    assert mage(sim).ok and len(sim.runs()) == 1


def test_controls_take_json_with_a_character_set(sim: Simulator) -> None:
    kind = {"Content-Type": "Application/JSON; charset=utf-8"}
    answer = requests.post(f"{sim.url}/_expire_tokens", data=b'{"system": "mage"}', headers=kind, timeout=10)
    assert answer.json() == {"expired": True}


@pytest.mark.parametrize(
    ("control", "body", "reason"),
    [
        ("_plans", {"outcomes": "failed"}, "unknown: outcomes"),
        ("_plans", {"duration": "long"}, "duration must be a number"),
        ("_plans", {"times": -1}, "times must be a number"),
        ("_plans", [], "JSON object"),
        ("_faults", {"fault": "fire"}, "fault must be one of"),
        ("_faults", {"status": 500}, "fault"),
    ],
)
def test_controls_refuse(sim: Simulator, control: str, body: Any, reason: str) -> None:
    answer = requests.post(f"{sim.url}/{control}", json=body, timeout=10)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


def test_newest_plan_wins_and_times_run_out(sim: Simulator) -> None:
    sim.plan(resource="example", outcome="first")
    sim.plan(resource="1", outcome="second", times=1, ends_at_once=True)
    sim.plan(system="chalk", outcome="third")
    for _ in range(2):
        start(sim)
    deadline = clock.monotonic() + 10
    while [run["status"] for run in sim.runs()] != ["second", "first"]:
        assert clock.monotonic() < deadline
        clock.sleep(0.01)
    sim.clear_plans()
    start(sim)
    while sim.runs()[-1]["status"] != "completed":
        assert clock.monotonic() < deadline
        clock.sleep(0.01)


def test_status_fault(sim: Simulator) -> None:
    sim.fault("status", system="mage", status=429, retry_after="3", times=1)
    answer = mage(sim)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "3")
    assert mage(sim).status_code == 200
    sim.fault("status", system="chalk", operation="who_am_i", status=404)
    assert "trace" in requests.get(sim.url_of("chalk") + "/v1/who-am-i", timeout=10).json()
    sim.fault("status", system="mage", body="busy")
    assert (mage(sim).status_code, mage(sim).text) == (503, "busy")
    sim.clear_faults()
    for status in (401, 403, 404):
        sim.fault("status", system="mage", status=status)
        assert mage(sim).json()["error"]["code"] == status
    sim.fault("status", system="mage")
    assert "<h1>503" in mage(sim).text


def test_unreadable_answers(sim: Simulator) -> None:
    """An answer that cannot be read leaves a run behind where the service did the work."""
    sim.fault("html", operation="trigger", times=1)
    answer = start(sim)
    assert (answer.status_code, answer.headers["Content-Type"]) == (502, "text/html; charset=utf-8")
    assert sim.runs() == []
    sim.fault("empty", operation="trigger", times=1)
    assert (start(sim).text, len(sim.runs())) == ("", 1)
    sim.fault("not_json", operation="trigger", times=1)
    assert (start(sim).text, len(sim.runs())) == ("this is not JSON", 2)
    sim.fault("status", operation="trigger", times=1, status=504, acts=True)
    assert (start(sim).status_code, len(sim.runs())) == (504, 3)
    sim.fault("empty", operation="trigger", times=1, acts=False)
    assert (start(sim).text, len(sim.runs())) == ("", 3)


@pytest.mark.parametrize(("fault", "runs"), [("reset_before", 0), ("reset_after", 1), ("two_lengths", 1)])
def test_resets(sim: Simulator, fault: str, runs: int) -> None:
    sim.fault(fault, operation="trigger")
    with pytest.raises((requests.ConnectionError, requests.exceptions.InvalidHeader)):
        start(sim)
    assert len(sim.runs()) == runs
    assert sim.count("mage", "trigger", None) == 1
    assert sim.requests()["last"][0]["status"] is None
    assert sim.requests()["last"][0]["fault"] == fault


def test_hang_and_slow(sim: Simulator) -> None:
    sim.fault("hang", operation="status", times=1)
    with pytest.raises(requests.ReadTimeout):
        mage(sim, timeout=0.2)
    sim.fault("hang", operation="status", times=1, seconds=0.1)
    with pytest.raises(requests.ConnectionError):
        mage(sim)
    sim.fault("slow", operation="status", times=1, seconds=0.3)
    begun = clock.monotonic()
    assert mage(sim).json()["statuses"]
    assert clock.monotonic() - begun >= 0.3


def test_a_hanging_call_does_not_delay_the_end() -> None:
    with ThreadPoolExecutor() as pool:
        with Simulator() as sim:
            sim.fault("hang")
            waiting = pool.submit(mage, sim)
            while not sim.count("mage", "status"):
                clock.sleep(0.01)
            begun = clock.monotonic()
        assert clock.monotonic() - begun < 5
        with pytest.raises(requests.ConnectionError):
            waiting.result()


def test_outage(sim: Simulator) -> None:
    """A full outage of one system for a while leaves the other one alone."""
    sim.fault("status", system="mage", status=503, for_seconds=0.3)
    assert mage(sim).status_code == 503
    assert mage(sim, "/api/pipeline_runs").status_code == 503
    assert requests.get(sim.url_of("chalk") + "/v1/who-am-i", timeout=10).status_code == 401
    clock.sleep(0.35)
    assert mage(sim).status_code == 200


def test_probability(sim: Simulator) -> None:
    sim.fault("status", system="mage", probability=0)
    assert mage(sim).status_code == 200
    sim.fault("status", system="mage", probability=0.5)
    statuses = {mage(sim).status_code for _ in range(60)}
    assert statuses == {200, 503}


def test_secrets_stay_out_of_the_log(sim: Simulator) -> None:
    url = sim.url_of("mage")
    requests.post(f"{url}/api/pipeline_schedules/1/pipeline_runs/tok123", timeout=10)
    requests.get(f"{url}/api/pipeline_runs?api_key=secret&_limit=1", timeout=10)
    paths = [entry["path"] for entry in sim.requests()["last"]]
    assert paths == [
        "/mage/api/pipeline_schedules/1/pipeline_runs/***",
        "/mage/api/pipeline_runs?api_key=***&_limit=1",
    ]
