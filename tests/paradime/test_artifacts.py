"""Artifacts on the simulated Paradime and its store: whole, byte by byte, and the address in no text."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_runs.base.exceptions import RequestRefused
from airflow_provider_runs.base.storage import put_whole, target_path
from airflow_provider_runs.core import clock
from airflow_provider_runs.core.errors import ApiError, BadInput, ConnectionFailed, NotFound, RunsError
from airflow_provider_runs.core.retry import RetryPolicy
from airflow_provider_runs.paradime.artifacts import choose_artifact
from airflow_provider_runs.paradime.hooks import ParadimeHook
from airflow_provider_runs.paradime.operators import ParadimeDownloadArtifactOperator
from airflow_provider_runs.paradime.simulated import GRAPH, binary
from airflow_provider_runs.simulator import Simulator
from tests.base.conftest import callable_operators, told  # noqa: F401
from tests.base.fakes import FakeTaskInstance
from tests.memory import needs_proc
from tests.paradime.conftest import connection

try:
    from airflow.sdk.io import attach
except ImportError:
    from airflow.io.store import attach

ENDED = "76035"
RESULTS = "target/run_results.json"
FAST = RetryPolicy(attempts=3, base=0.01, cap=0.02)


@pytest.fixture
def ended(sim: Simulator) -> Callable[[str], str]:
    """Run a schedule to its end and return the run's id."""

    def run(slug: str) -> str:
        started = ParadimeHook().trigger_run(slug)
        while not ParadimeHook().get_run(started.id).state.is_terminal:
            clock.sleep(0.1)
        return started.id

    return run


def content(path: str, size: int) -> bytes:
    return b"".join(binary(path, size))


def operator(**arguments: Any) -> ParadimeDownloadArtifactOperator:
    return ParadimeDownloadArtifactOperator(task_id="download", **arguments)


def context() -> dict[str, Any]:
    return {"ti": FakeTaskInstance(max_tries=0)}


@pytest.fixture
def memory() -> MemoryFileSystem:
    """A store in memory under memory://, as a provider of a filesystem would bring it."""
    store = MemoryFileSystem(skip_instance_cache=True)
    store.store = {}
    attach("memory", fs=store, alias="memory")
    return store


def test_a_binary_file_comes_over_byte_by_byte(sim: Simulator, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "graph.gpickle"
    got = operator(run_id=ENDED, path=GRAPH, target=str(target)).execute(context())
    wanted = content(GRAPH, 4096)
    assert target.read_bytes() == wanted
    assert got == {"path": str(target), "bytes": 4096, "sha256": hashlib.sha256(wanted).hexdigest()}
    assert json.loads(json.dumps(got)) == got
    assert [one.name for one in target.parent.iterdir()] == ["graph.gpickle"]


def test_its_button_leads_to_the_run_also_where_there_is_no_such_file(sim: Simulator, tmp_path: Path) -> None:
    page = f"https://app.paradime.io/bolt/run_id/{ENDED}"
    ways: list[tuple[str, AbstractContextManager[Any]]]
    ways = [(GRAPH, nullcontext()), ("none", pytest.raises(RequestRefused))]
    for path, raised in ways:
        task = context()
        with raised:
            operator(run_id=f" {ENDED}", path=path, target=f"{tmp_path}/x").execute(task)
        assert task["ti"].pushed == {"run_url": page}


def test_it_goes_wherever_object_storage_reaches(
    sim: Simulator, tmp_path: Path, memory: MemoryFileSystem
) -> None:
    wanted = content(GRAPH, 4096)
    for target in (f"file://{tmp_path}/one", ObjectStoragePath(f"file://{tmp_path}/two"), tmp_path / "three"):
        ParadimeHook().download_artifact(ENDED, GRAPH, target)
    assert [(tmp_path / name).read_bytes() for name in ("one", "two", "three")] == [wanted] * 3
    got = operator(run_id=ENDED, path=GRAPH, target="memory://bucket/graph").execute(context())
    assert got["path"] == str(ObjectStoragePath("memory://bucket/graph"))
    assert {name: bytes(file.getvalue()) for name, file in memory.store.items()} == {"/bucket/graph": wanted}


def test_the_failing_commands_file_is_found(ended: Callable[[str], str], tmp_path: Path) -> None:
    run_id = ended("broken")
    operator(run_id=run_id, path=RESULTS, target=f"{tmp_path}/results.json").execute(context())
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert "error" in {result["status"] for result in results}


def test_of_several_commands_the_last_counts_unless_one_is_named(sim: Simulator, tmp_path: Path) -> None:
    hook = ParadimeHook()
    ids = {row["command"]: row["id"] for row in hook.list_commands(ENDED)}

    def nodes(**chosen: Any) -> set[str]:
        hook.download_artifact(ENDED, RESULTS, tmp_path / "it", **chosen)
        return {
            one["unique_id"].partition(".")[0] for one in json.loads((tmp_path / "it").read_text())["results"]
        }

    assert nodes() == {"test"}
    assert nodes(command="dbt run") == {"model"} == nodes(command_id=str(ids["dbt run"]))
    assert nodes(command_id=ids["dbt test"]) == {"test"}


def test_what_is_missing_is_refused_and_what_there_is_named(sim: Simulator, tmp_path: Path) -> None:
    with pytest.raises(RequestRefused, match=r"no artifact 'manifest\.json'") as error:
        operator(run_id=ENDED, path="manifest.json", target=f"{tmp_path}/x").execute(context())
    assert "'dbt run': target/manifest.json, target/run_results.json" in str(error.value)
    with pytest.raises(RequestRefused, match="of command 'dbt seed'"):
        operator(run_id=ENDED, path=RESULTS, command="dbt seed", target=f"{tmp_path}/x").execute(context())
    with pytest.raises(NotFound):
        ParadimeHook().download_artifact("99", RESULTS, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"run_id": "None"}, "run_id"),
        ({"run_id": "12x"}, "run_id"),
        ({"path": " "}, "path is empty"),
        ({"target": "reports/x.json"}, "absolute path"),
        ({"target": ""}, "target"),
        ({"target": "None"}, "target"),
        ({"target": "/tmp/folder/"}, "not a folder"),
        ({"target": 7}, "target"),
        ({"target": "nosuch://x/y"}, "cannot be used"),
        ({"command_id": 5, "command": "dbt run"}, "not both"),
        ({"command_id": "x"}, "command_id"),
        ({"command": " "}, "command is empty"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"max_bytes": "much"}, "max_bytes"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_sent(
    sim: Simulator, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(RequestRefused, match=said):
        operator(**{"run_id": ENDED, "path": GRAPH, "target": "/tmp/never", **wrong}).execute(context())
    assert sim.requests()["last"] == []


def test_a_folder_is_not_overwritten(sim: Simulator, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(RequestRefused, match="is a folder"):
        operator(run_id=ENDED, path=GRAPH, target=f"{tmp_path}/there").execute(context())
    assert list((tmp_path / "there").iterdir()) == []


def test_a_download_cut_in_the_middle_is_begun_anew(sim: Simulator, tmp_path: Path) -> None:
    sim.fault("cut_body", operation="download", times=1)
    ParadimeHook().download_artifact(ENDED, GRAPH, tmp_path / "it")
    assert (tmp_path / "it").read_bytes() == content(GRAPH, 4096)
    assert sim.count("paradime", "download") == 2
    assert sim.count("paradime", "resource_url") == 2, "each attempt has an address of its own"


def test_a_download_that_never_comes_whole_leaves_what_was_there(sim: Simulator, tmp_path: Path) -> None:
    (tmp_path / "it").write_text("yesterday's")
    sim.fault("cut_body", operation="download")
    with pytest.raises(ConnectionFailed, match=f"artifact '{GRAPH}' of run {ENDED} broke off"):
        ParadimeHook().download_artifact(ENDED, GRAPH, tmp_path / "it")
    assert {one.name: one.read_text() for one in tmp_path.iterdir()} == {"it": "yesterday's"}


def test_the_size_limit_holds(sim: Simulator, tmp_path: Path) -> None:
    arguments = {"run_id": ENDED, "path": GRAPH, "target": f"{tmp_path}/it"}
    with pytest.raises(RequestRefused, match=r"longer than max_bytes allows \(4095\): 4096 bytes"):
        operator(**arguments, max_bytes="4095").execute(context())
    assert list(tmp_path.iterdir()) == []
    assert operator(**arguments, max_bytes=4096).execute(context())["bytes"] == 4096


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_of_the_store_is_final(sim: Simulator, tmp_path: Path, status: int) -> None:
    sim.fault("status", operation="download", status=status)
    with pytest.raises(RequestRefused, match=f"the store answered {status} to the download of artifact"):
        operator(run_id=ENDED, path=GRAPH, target=f"{tmp_path}/it").execute(context())
    assert sim.count("paradime", "download") == 1


def test_an_address_that_is_not_told_is_asked_for_again(sim: Simulator, tmp_path: Path) -> None:
    sim.fault("status", operation="resource_url", status=503, times=1)
    got = ParadimeHook().download_artifact(ENDED, GRAPH, tmp_path / "it")
    assert got["bytes"] == 4096


@pytest.mark.parametrize("fault", [None, "cut_body", "reset_before", "status", "html", "slow"])
def test_no_text_holds_the_address(
    sim: Simulator,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    told: Callable[[], str],  # noqa: F811
    fault: str | None,
) -> None:
    caplog.set_level(logging.DEBUG)
    if fault is not None:
        seconds = {"seconds": 0.05} if fault == "slow" else {}
        sim.fault(fault, operation="download", times=5, **seconds)
    address = ParadimeHook().get_resource_url(ParadimeHook().list_resources(ENDED)[0]["id"])
    signature = address.rpartition("Signature=")[2].partition("&")[0]
    assert len(signature) > 30
    text = ""
    try:
        got = ParadimeHook().download_artifact(ENDED, GRAPH, tmp_path / "it")
        text += repr(got)
    except RunsError as error:
        text += "".join(traceback.format_exception(error)) + repr(error)
    text += told()
    assert "urllib3.connectionpool" in {record.name for record in caplog.records}
    # Each address has a signature of its own.
    for word in (signature, "Signature=", "X-Amz", "/storage/", "paradime-secret", "company-simulator"):
        assert word not in text


@needs_proc
@pytest.mark.real_time  # a process of its own downloads
def test_fifty_megabytes_come_over_in_little_memory(
    ended: Callable[[str], str], sim: Simulator, tmp_path: Path
) -> None:
    """The highest resident memory of a process of its own, beyond what it has before the download."""
    run_id = ended("large")
    script = """
        import json, sys
        from airflow_provider_runs.paradime.hooks import ParadimeHook
        from tests.memory import forget_peak, peak

        run_id, small, path, target = sys.argv[1:]
        hook = ParadimeHook()
        hook.download_artifact(small, path, target + ".small")
        before = forget_peak()
        got = hook.download_artifact(run_id, path, target)
        print(json.dumps({**got, "grown": peak() - before}))
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), run_id, ENDED, GRAPH, f"{tmp_path}/large"],
        env={**os.environ, "AIRFLOW_CONN_PARADIME_DEFAULT": json.dumps(connection(sim))},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    got = json.loads(ran.stdout.splitlines()[-1])
    digest = hashlib.sha256()
    for piece in binary(GRAPH, 50_000_000):
        digest.update(piece)
    assert got["bytes"] == 50_000_000 == (tmp_path / "large").stat().st_size
    with (tmp_path / "large").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == got["sha256"] == digest.hexdigest()
    assert got["grown"] < 20_000


# Explanations


def test_an_explanation_says_what_dbt_says_of_its_nodes(ended: Callable[[str], str]) -> None:
    text = ParadimeHook().explain_run(ended("broken"))
    assert text is not None
    first, *rest = text.splitlines()
    assert first == "command 'dbt build' ended with return code 1"
    assert 'relation "raw.orders" does not exist' in text
    assert rest[-2].startswith("dbt's results after ") and "1 error" in rest[-2]
    assert rest[-1] == "failed: model.shop.orders"


def test_a_run_without_a_failing_command_has_no_explanation(sim: Simulator) -> None:
    assert ParadimeHook().explain_run(ENDED) is None


@pytest.mark.parametrize(
    ("fault", "said"),
    [({"fault": "status", "status": 403}, "answered 403"), ({"fault": "html"}, "answered 502")],
)
def test_results_that_cannot_be_read_hide_no_explanation(
    ended: Callable[[str], str],
    sim: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    fault: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.setattr("airflow_provider_runs.core.download.DEFAULT_RETRY", FAST)
    run_id = ended("broken")
    sim.fault(operation="download", **fault)
    text = ParadimeHook().explain_run(run_id) or ""
    assert text.startswith("command 'dbt build' ended")
    assert text.splitlines()[-1].startswith(f"({RESULTS} cannot be read: ") and said in text


def test_results_that_are_no_json_hide_no_explanation(
    ended: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_runs.paradime.hooks.RUN_RESULTS", GRAPH)
    assert (ParadimeHook().explain_run(ended("broken")) or "").endswith(f"({GRAPH} is not JSON)")


# Which one, and where to


def row(number: int, path: str, command_id: int, command: str = "dbt run") -> dict[str, Any]:
    return {"id": number, "path": path, "command_id": command_id, "command": command}


def test_the_last_file_of_the_last_command_is_chosen() -> None:
    rows = [row(3, "a", 2), row(2, "a", 2), row(9, "a", 1), row(8, "b", 3)]
    assert choose_artifact("run 1", "a", rows, str)["id"] == 3


def test_an_error_about_a_missing_artifact_is_masked_and_bounded() -> None:
    rows = [row(number, f"target/{number}", number, "dbt run --vars hush") for number in range(100)]
    with pytest.raises(NotFound) as error:
        choose_artifact("run 1", "a", rows, lambda text: text.replace("hush", "***"), command="hush")
    assert "hush" not in str(error.value) and "target/99" in str(error.value)
    assert str(error.value).count("target/") == 30
    with pytest.raises(NotFound, match="It has no artifacts"):
        choose_artifact("run 1", "a", [], str)


@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from("ab"), st.integers(1, 3))))
def test_what_is_chosen_has_the_path(drawn: list[tuple[int, str, int]]) -> None:
    rows = [row(*one) for one in drawn]
    try:
        chosen = choose_artifact("run 1", "a", rows, str)
    except NotFound:
        assert "a" not in {one["path"] for one in rows}
    else:
        assert chosen["path"] == "a"
        assert all(one["command_id"] <= chosen["command_id"] for one in rows if one["path"] == "a")


class Breaking(LocalFileSystem):
    """A file system that is full after some bytes."""

    protocol = ("breaking",)

    def put_file(self, path1: str, path2: str, callback: Any = None, **kwargs: Any) -> None:
        Path(self._strip_protocol(path2)).write_bytes(Path(path1).read_bytes()[:10])
        raise OSError(28, "No space left on device")


def test_a_full_file_system_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").write_bytes(b"new" * 100)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "it").write_text("old")
    target = target_path(str(tmp_path / "there" / "it"))
    monkeypatch.setattr(LocalFileSystem, "put_file", Breaking.put_file)
    with pytest.raises(OSError, match="No space"):
        put_whole(str(tmp_path / "source"), target)
    assert {one.name: one.read_text() for one in (tmp_path / "there").iterdir()} == {"it": "old"}


def test_a_store_that_uploads_as_a_whole_gets_the_file_under_its_own_name() -> None:
    """Such as S3, here of a connection that is named in the address."""

    class Store(MemoryFileSystem):
        protocol = ("s3",)
        calls: list[tuple[str, str]] = []  # noqa: RUF012

        def put_file(self, lpath: str, rpath: str, callback: Any = None, **kwargs: Any) -> None:
            self.calls.append((lpath, rpath))

    attach("s3", conn_id="aws_testing", fs=Store(skip_instance_cache=True))
    put_whole("/tmp/source", target_path("s3://aws_testing@bucket/a/key"))
    assert Store.calls == [("/tmp/source", "bucket/a/key")]


def test_templates_reach_every_argument() -> None:
    task = operator(run_id="{{ one }}", path="{{ one }}", target="/{{ one }}/x", max_bytes="{{ one }}")
    task.render_template_fields({"one": "1"})
    assert (task.run_id, task.path, task.target, task.max_bytes) == ("1", "1", "/1/x", "1")
    task = operator(run_id="1", path="x", target=ObjectStoragePath("file:///tmp/{{ one }}"))
    task.render_template_fields({"one": "1"})
    assert str(task.target) == "file:///tmp/1"


def test_an_error_that_may_pass_is_not_final(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any, **named: Any) -> Any:
        raise ApiError("try later", status=503)

    monkeypatch.setattr(ParadimeHook, "download_artifact", fails)
    with pytest.raises(ApiError, match="try later"):
        operator(run_id=ENDED, path=GRAPH, target="/tmp/x").execute(context())


def test_a_bad_target_is_a_bad_input() -> None:
    with pytest.raises(BadInput):
        target_path(b"/tmp/x")
