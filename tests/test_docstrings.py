"""Every public class and function says what it does and what each of its arguments is."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any
from urllib.parse import urlsplit

import pytest

import airflow_provider_runs
from airflow_provider_runs.base.hook import RunHook
from airflow_provider_runs.provider_info import SYSTEMS
from airflow_provider_runs.simulator import Simulator
from tests.test_contract import part

PACKAGE = Path(airflow_provider_runs.__file__).parent
# The simulated services have one public face, whose controls the package's docstring describes.
MODULES = [
    ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in sorted(PACKAGE.rglob("*.py"))
    if "simulat" not in str(path.relative_to(PACKAGE)) and not path.stem.startswith("__")
]

HOOKS = [part(system, "hooks", "{}Hook") for system in SYSTEMS]


def functions(module: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield a module's own public functions and methods: name, function, and the class that has it."""
    for name, one in vars(module).items():
        if name.startswith("_") or getattr(one, "__module__", None) != module.__name__:
            continue
        if isinstance(one, FunctionType):
            yield name, one, None
        elif inspect.isclass(one):
            for method, held in vars(one).items():
                plain = getattr(held, "__func__", held)
                # The forms of Airflow 2 are methods that base/forms.py hangs in.
                own = getattr(plain, "__module__", None) == module.__name__
                if own and not method.startswith("_") and isinstance(plain, FunctionType):
                    yield f"{name}.{method}", plain, one


def told(one: Any, owner: Any) -> str:
    """Return what is written about a function, where it is written: with it or with what it overrides."""
    for kind in owner.__mro__ if owner else ():
        doc = getattr(vars(kind).get(one.__name__), "__doc__", None)
        if doc:
            return str(doc)
    return one.__doc__ or ""


def undescribed(arguments: Iterable[str], text: str) -> list[str]:
    """Return the arguments that a description leaves out."""
    return [each for each in sorted(arguments) if f":param {each}:" not in text]


def test_every_module_describes_itself() -> None:
    assert [name for name in MODULES if not import_module(name).__doc__] == []


def test_every_function_describes_itself_and_its_arguments() -> None:
    faults: dict[str, Any] = {}
    for name in MODULES:
        for called, one, owner in functions(import_module(name)):
            text = told(one, owner)
            if not text.strip():
                faults[f"{name}.{called}"] = "no description"
            if owner is not None and not vars(one).get("__doc__") and one.__doc__ is None:
                continue  # what it overrides is described there, perhaps by Airflow
            if missing := undescribed(set(inspect.signature(one).parameters) - {"self", "cls"}, text):
                faults[f"{name}.{called}"] = missing
    assert faults == {}


def test_every_class_describes_itself_and_what_it_is_made_of() -> None:
    faults: dict[str, Any] = {}
    for name in MODULES:
        for called, kind in vars(import_module(name)).items():
            if called.startswith("_") or not inspect.isclass(kind) or kind.__module__ != name:
                continue
            if not (kind.__doc__ and kind.__doc__.strip()):
                faults[f"{name}.{called}"] = "no description"
            if "__init__" not in vars(kind) or issubclass(kind, tuple):
                continue
            texts = "".join(
                each.__doc__ or "" for each in kind.__mro__ if each.__module__.startswith(PACKAGE.name)
            )
            arguments = set(inspect.signature(kind.__init__).parameters) - {"self", "args", "kwargs"}
            if missing := undescribed(arguments, texts):
                faults[f"{name}.{called}"] = missing
    assert faults == {}


def methods(kind: type) -> Iterator[tuple[str, Any, str]]:
    """Yield a class's own public methods, with what is written about them."""
    for name, one in vars(kind).items():
        if isinstance(one, FunctionType) and not name.startswith("_") and one.__module__ == kind.__module__:
            yield name, one, inspect.getdoc(one) or ""


def is_twin(name: str, text: str) -> bool:
    """Tell whether a method for event loops leaves the rest to the one that it is named after."""
    return f"as :meth:`{name.removeprefix('a')}`" in text


@pytest.mark.parametrize("kind", [RunHook, *HOOKS, Simulator], ids=lambda kind: kind.__name__)
def test_every_method_says_what_it_returns(kind: type) -> None:
    for name, one, text in methods(kind):
        if is_twin(name, text):
            continue
        if inspect.signature(one).return_annotation != "None":
            first = text.partition(".")[0].split()[0]
            assert first in ("Return", "Yield") or ":return:" in text, name


@pytest.mark.parametrize("kind", HOOKS, ids=lambda kind: kind.__name__)
def test_every_call_of_a_service_says_what_it_raises(kind: type) -> None:
    for name, _, text in methods(kind):
        assert ":raises" in text or is_twin(name, text), name


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_class_that_dags_use_names_the_vendors_page(system: str) -> None:
    module = import_module(f"{PACKAGE.name}.{system}.api")
    host = urlsplit(module.DOCUMENTATION).hostname
    for kind in ("hooks", "operators", "sensors", "triggers"):
        for name, one in vars(import_module(f"{PACKAGE.name}.{system}.{kind}")).items():
            if inspect.isclass(one) and one.__module__.endswith(f"{system}.{kind}"):
                assert host in (one.__doc__ or ""), name
