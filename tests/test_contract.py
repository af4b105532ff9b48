"""What every system fulfils, whichever it is."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import airflow_provider_runs
from airflow_provider_runs.base.events import HAS_SHARED_STREAMS
from airflow_provider_runs.base.operator import CancelRunOperator, RetryRunOperator, TriggerRunOperator
from airflow_provider_runs.base.sensor import RunSensor
from airflow_provider_runs.core.api import CanCancel, CanRetry, RunApi
from airflow_provider_runs.core.errors import BadInput
from airflow_provider_runs.core.run import RunState
from airflow_provider_runs.provider_info import SYSTEMS, get_provider_info

PACKAGE = Path(airflow_provider_runs.__file__).parent
ROOT = Path(__file__).parent.parent
MODULES = ("api", "hooks", "operators", "sensors", "triggers", "simulator")

each_system = pytest.mark.parametrize("system", SYSTEMS)


def part(system: str, module: str, pattern: str) -> Any:
    loaded = import_module(f"airflow_provider_runs.{system}.{module}")
    return getattr(loaded, pattern.format(system.capitalize()))


def make(kind: type, system: str, **changes: Any) -> Any:
    least: dict[str, Any] = {"task_id": "task"}
    for name, parameter in inspect.signature(kind.__init__).parameters.items():  # type: ignore[misc]
        if parameter.default is inspect.Parameter.empty and parameter.kind is parameter.KEYWORD_ONLY:
            least[name] = "1"
    return kind(**{**least, **changes})


def test_the_systems_are_the_folders() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/api.py")} - {"core"}
    assert folders == set(SYSTEMS)


@each_system
def test_a_system_has_every_module(system: str) -> None:
    assert [name for name in MODULES if not (PACKAGE / system / f"{name}.py").exists()] == []


@each_system
def test_a_systems_classes_are_tied_together(system: str) -> None:
    api = part(system, "api", "{}RunApi")
    hook = part(system, "hooks", "{}Hook")
    trigger = part(system, "triggers", "{}RunTrigger")
    operator = part(system, "operators", "{}TriggerRunOperator")
    sensor = part(system, "sensors", "{}RunSensor")
    assert issubclass(api, RunApi) and hook.api_class is api and trigger.hook_class is hook
    assert operator.hook_class is sensor.hook_class is hook
    assert operator.trigger_class is sensor.trigger_class is trigger
    assert hook.conn_name_attr == f"{system}_conn_id"
    assert hook.default_conn_name == f"{system}_default"
    assert hook.conn_type == api.connection.conn_type
    assert "__" not in hook.conn_type


@each_system
def test_trigger_class_paths_are_those_that_databases_keep(system: str) -> None:
    golden = json.loads((ROOT / "tests/golden/triggers.json").read_text())
    made = part(system, "triggers", "{}RunTrigger")(conn_id="c", run_id="r")
    path, arguments = made.serialize()
    assert path == golden[system]
    assert type(made)(**json.loads(json.dumps(arguments))).serialize() == (path, arguments)
    every = json.loads((ROOT / "tests/golden/trigger.json").read_text())
    assert set(arguments) <= set(every)
    assert {name: getattr(type(made)(**every), name) for name in every} == every


@each_system
def test_every_documented_word_is_in_the_table(system: str) -> None:
    table = part(system, "api", "{}RunApi").statuses
    documented = import_module(f"tests.{system}.conftest").DOCUMENTED_WORDS
    assert {word: table.state(word).value for word in documented} == documented
    reachable = {state for state in RunState if table.words(state)}
    assert reachable >= {RunState.RUNNING, RunState.SUCCEEDED, RunState.FAILED}


TASKS = [
    (system, kind)
    for system in SYSTEMS
    for module in ("operators", "sensors")
    for kind in vars(import_module(f"airflow_provider_runs.{system}.{module}")).values()
    if inspect.isclass(kind) and kind.__module__ == f"airflow_provider_runs.{system}.{module}"
]


def test_a_system_that_can_cancel_or_retry_has_tasks_for_it() -> None:
    named = {kind.__name__ for _, kind in TASKS}
    for system in SYSTEMS:
        api = part(system, "api", "{}RunApi")
        for capability, verb in ((CanCancel, "Cancel"), (CanRetry, "Retry")):
            # Strait calls it a replay.
            verb = "Replay" if (system, verb) == ("strait", "Retry") else verb
            assert (
                part(system, "hooks", "{}Hook").__name__.replace("Hook", f"{verb}RunOperator") in named
            ) == (issubclass(api, capability))


@pytest.mark.parametrize(("system", "kind"), TASKS)
def test_template_fields_are_arguments_and_attributes(system: str, kind: Any) -> None:
    known = {
        name
        for base in kind.__mro__
        if "__init__" in base.__dict__
        for name in inspect.signature(base.__init__).parameters
    }
    made = make(kind, system)
    assert set(kind.template_fields) <= known
    assert all(hasattr(made, name) for name in kind.template_fields)
    hook_arguments = set(inspect.signature(kind.hook_class.__init__).parameters) - {"self"}
    assert hook_arguments <= known
    assert hook_arguments <= set(kind.template_fields)


@each_system
def test_every_argument_of_a_run_is_templated(system: str) -> None:
    kind = part(system, "operators", "{}TriggerRunOperator")
    own = {
        name
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    # Rules of the task, like wait_for_completion.
    own -= {"retry_from_failure", "on_unknown_start", "stream_logs", "push_result", "push_outputs"}
    assert own == set(kind.template_fields) - set(TriggerRunOperator.shared_template_fields)
    assert set(kind.resource_fields) <= set(kind.run_fields) <= own


@each_system
@pytest.mark.parametrize("module", ["hooks", "operators", "sensors"])
def test_every_public_argument_is_documented(system: str, module: str) -> None:
    loaded = import_module(f"airflow_provider_runs.{system}.{module}")
    classes = [
        kind for kind in vars(loaded).values() if inspect.isclass(kind) and kind.__module__ == loaded.__name__
    ]
    assert classes
    for kind in (*classes, TriggerRunOperator, RetryRunOperator, CancelRunOperator, RunSensor):
        names = set(inspect.signature(kind.__init__).parameters) - {"self", "kwargs"}  # type: ignore[misc]
        missing = [name for name in sorted(names) if f":param {name}:" not in (kind.__doc__ or "")]
        assert missing == [], kind


@each_system
def test_arguments_can_be_mapped(system: str) -> None:
    from airflow.providers.common.compat.sdk import DAG

    kind = part(system, "operators", "{}TriggerRunOperator")
    field, shared = kind.resource_fields[0], "poll_interval"
    with DAG("d", schedule=None):
        kind.partial(task_id="a", deferrable=True).expand(**{field: ["1", "2"]})
        kind.partial(task_id="b", **{field: "1"}).expand(**{shared: [1, 2]})
        kind.partial(task_id="c").expand_kwargs([{field: "1", "timeout": 5}, {field: "2"}])
        part(system, "sensors", "{}RunSensor").partial(task_id="e").expand(run_id=["1", "2"])
        start = kind.partial(task_id="f", wait_for_completion=False).expand(**{field: ["1", "2"]})
        wait = part(system, "sensors", "{}RunSensor")(task_id="g", run_ids=start.output)
        assert wait.upstream_task_ids == {"f"}


@each_system
@pytest.mark.parametrize("run_id", ["7", "007", "j-1", "a b", "a/b", "..", "-1", "9" * 40, "", "None", "²"])
def test_an_id_is_refused_without_a_request_where_asking_would_refuse_it(system: str, run_id: str) -> None:
    def refuses(work: Callable[[], Any]) -> bool:
        try:
            work()
        except BadInput:
            return True
        return False

    api = import_module(f"tests.{system}.conftest").make_api()
    assert refuses(lambda: api.check_run_id(run_id)) == refuses(lambda: next(api.get(run_id)))


@each_system
def test_constructing_reads_no_connection(system: str, mocker: Any) -> None:
    read = mocker.patch("airflow_provider_runs.base.hook.RunHook.get_connection")
    for owner, kind in TASKS:
        if owner == system:
            make(kind, system)
    part(system, "hooks", "{}Hook")()
    assert not read.called


@each_system
def test_constructing_a_task_makes_no_hook(system: str, mocker: Any) -> None:
    hook = part(system, "hooks", "{}Hook")
    mocker.patch.object(hook, "__init__", side_effect=AssertionError("a hook was made"), autospec=True)
    assert [make(kind, system) for owner, kind in TASKS if owner == system]


@pytest.fixture(scope="module")
def deferrable_by() -> Callable[[str], dict[str, dict[str, bool]]]:
    """Return a function that tells which tasks of each system are deferrable with a setting of Airflow's."""
    script = (
        "import json, sys; from importlib import import_module\n"
        "def tell(system, name, need):\n"
        "    module = 'sensors' if name.endswith('Sensor') else 'operators'\n"
        "    kind = getattr(import_module(f'airflow_provider_runs.{system}.{module}'), name)\n"
        "    return kind(task_id='t', **need).deferrable\n"
        "tasks = json.loads(sys.argv[1])\n"
        "print(json.dumps({system: {name: tell(system, name, need) for name, need in named.items()}\n"
        "                  for system, named in tasks.items()}))"
    )
    tasks: dict[str, Any] = {}
    for system in SYSTEMS:
        operator, sensor = (
            part(system, "operators", "{}TriggerRunOperator"),
            part(system, "sensors", "{}RunSensor"),
        )
        tasks[system] = {
            operator.__name__: {operator.resource_fields[0]: "1"},
            sensor.__name__: {"run_id": "1"},
        }

    @cache
    def tell(setting: str) -> dict[str, dict[str, bool]]:
        shown = subprocess.run(
            [sys.executable, "-c", script, json.dumps(tasks)],
            env={**os.environ, "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE": setting},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        told: dict[str, dict[str, bool]] = json.loads(shown.stdout.splitlines()[-1])
        return told

    return tell


@each_system
@pytest.mark.parametrize("default", ["True", "False"])
def test_deferrable_follows_airflows_setting(
    deferrable_by: Callable[[str], dict[str, dict[str, bool]]], system: str, default: str
) -> None:
    told = deferrable_by(default)[system]
    assert len(told) == 2 and set(told.values()) == {default == "True"}


# The provider's metadata


def test_the_metadata_fits_airflows_schema() -> None:
    import airflow
    import jsonschema

    folder = Path(airflow.__file__).parent
    validated = []
    for name in ("provider_info.schema.json", "provider.yaml.schema.json"):
        schema = folder / name
        if not schema.exists():
            continue
        described = get_provider_info()
        content = json.loads(schema.read_text())
        if name == "provider.yaml.schema.json":
            # The stricter one is for packages in Airflow's own tree; only what it says of forms concerns us.
            content = {
                **content,
                "required": [],
                "properties": {"connection-types": content["properties"]["connection-types"]},
                "additionalProperties": True,
            }
        jsonschema.validate(described, content)
        validated.append(name)
    assert "provider_info.schema.json" in validated


@each_system
def test_every_named_class_and_module_can_be_imported(system: str) -> None:
    described = get_provider_info()
    for kind in ("operators", "sensors", "hooks", "triggers"):
        for entry in described[kind]:
            for module in entry["python-modules"]:
                import_module(module)
    for entry in (*described["connection-types"],):
        module, name = entry["hook-class-name"].rsplit(".", 1)
        assert getattr(import_module(module), name).conn_type == entry["connection-type"]
    for path in described["extra-links"]:
        module, name = path.rsplit(".", 1)
        getattr(import_module(module), name)


def hooks_of(manager: Any) -> Any:
    try:
        from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime
    except ImportError:
        return manager.hooks
    return ProvidersManagerTaskRuntime().hooks


# Airflow 2 imports Flask's old extensions for its forms, which warn of themselves.
forms_of_airflow_2 = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@forms_of_airflow_2
def test_airflow_finds_the_provider() -> None:
    from airflow.providers_manager import ProvidersManager

    found = ProvidersManager()
    assert found.providers["airflow-provider-runs"].version == airflow_provider_runs.__version__
    hooks = hooks_of(found)
    types = {name: part(name, "hooks", "{}Hook").conn_type for name in SYSTEMS}
    assert {name: hooks[types[name]].connection_id_attribute_name for name in SYSTEMS} == {
        name: f"{name}_conn_id" for name in SYSTEMS
    }
    assert "airflow_provider_runs.base.link.RunLink" in found.extra_links_class_names


def test_the_command_line_lists_the_whole_provider() -> None:
    shown = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "airflow"),
            *("providers", "get", "airflow-provider-runs", "--full", "--output", "json"),
        ],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    (entry,) = json.loads(shown.stdout[shown.stdout.index("[{") :])
    listed = json.dumps(entry)
    for system in SYSTEMS:
        for kind in ("operators", "sensors", "hooks", "triggers"):
            assert f"airflow_provider_runs.{system}.{kind}" in listed
    assert "airflow_provider_runs.base.link.RunLink" in listed


@each_system
def test_secrets_in_the_form_are_masked(system: str) -> None:
    conn_type = part(system, "api", "CONNECTION").conn_type
    entry = next(
        item for item in get_provider_info()["connection-types"] if item["connection-type"] == conn_type
    )
    for name, field in entry["conn-fields"].items():
        secret = any(word in name for word in ("token", "secret", "password", "api_key", "proxy"))
        assert (field["schema"].get("format") == "password") == secret, name
        assert field["label"] and field["description"]
        assert "null" in field["schema"]["type"]


@forms_of_airflow_2
@each_system
def test_the_form_of_airflow_2_has_the_same_fields(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_provider_runs.base import forms

    pytest.importorskip("flask_appbuilder", reason="Airflow 3 has no such form")
    hook = part(system, "hooks", "{}Hook")
    assert set(hook.get_connection_form_widgets()) == {item.name for item in hook.api_class.connection.fields}
    behaviour = hook.get_ui_field_behaviour()
    assert set(behaviour) == {"hidden_fields", "relabeling", "placeholders"}
    assert not forms.DECLARED_FORMS


# Example DAGs


def test_every_example_dag_can_be_imported() -> None:
    from airflow.providers.common.compat.sdk import DAG

    dags = {}
    for path in sorted((ROOT / "example_dags").glob("*.py")):
        if "Needs Airflow 3.3" in path.read_text() and not HAS_SHARED_STREAMS:
            continue
        space: dict[str, Any] = {"__name__": path.stem}
        exec(compile(path.read_text(), str(path), "exec"), space)
        dags |= {dag.dag_id: dag for dag in space.values() if isinstance(dag, DAG)}
        assert space["__doc__"]
    assert len(dags) >= len(SYSTEMS)
    assert all(dag.tags for dag in dags.values())


@pytest.mark.parametrize("path", sorted((ROOT / "example_dags").glob("*.py")), ids=lambda path: path.stem)
def test_what_an_example_asks_of_its_dag_run_is_known_to_this_airflow(path: Path) -> None:
    try:
        from airflow.sdk.api.datamodels._generated import DagRun

        known = set(DagRun.model_fields)
    except ImportError:
        from airflow.models import DagRun

        known = set(vars(DagRun))
    assert set(re.findall(r"\bdag_run\.(\w+)", path.read_text())) <= known


@pytest.mark.parametrize("path", sorted((ROOT / "example_dags").glob("*.py")), ids=lambda path: path.stem)
def test_an_example_retries_unless_it_is_there_to_fail(path: Path) -> None:
    text = path.read_text()
    assert ("expect:failed" in text) == bool(re.search(r'"retries": 0', text))
    assert re.search(r'"retries": [0-9]|retries=[1-9]', text)
