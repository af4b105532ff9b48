"""What is published: the contents of wheel and sdist, and the wheel alone in a bare environment."""

from __future__ import annotations

import email
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_runs import __version__
from airflow_provider_runs.provider_info import SYSTEMS, get_provider_info
from tools.speed import scaled

ROOT = Path(__file__).parents[2]
PACKAGE = "airflow_provider_runs"
NAME = f"{PACKAGE}-{__version__}"
EXTRAS = {"simulator", "openlineage"}
# What only an extra brings.
NEEDS_AN_EXTRA = {f"{PACKAGE}.paradime.simulator", f"{PACKAGE}.paradime.lineage"}


def files(folder: str) -> set[str]:
    """Return the files of a folder of the project, as they lie in it."""
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not {"__pycache__", ".pytest_cache"} & set(path.parts)
    }


@pytest.fixture(scope="module")
def wheel() -> Path:
    (found,) = (ROOT / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def sdist() -> Path:
    (found,) = (ROOT / "dist").glob("*.tar.gz")
    return found


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(f"{NAME}.dist-info/METADATA"))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    described = {name for name in names if name.startswith(f"{NAME}.dist-info/")}
    assert names - described == files(PACKAGE)
    assert f"{PACKAGE}/py.typed" in names
    assert {name.partition("/")[2] for name in described} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }


def test_the_wheel_fits_every_python_from_3_11_on(wheel: Path, metadata: Message) -> None:
    assert wheel.name == f"{NAME}-py3-none-any.whl"
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_sdist_holds_what_building_and_testing_take(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    folders = (PACKAGE, "tests", "example_dags", "tools", "benchmarks", "constraints", "docs", ".ci")
    single = {"README.rst", "CHANGELOG.rst", "LICENSE", "Makefile", "pyproject.toml"}
    assert names - {"PKG-INFO", ".gitignore"} == single.union(*map(files, folders))


def test_the_metadata_is_as_complete_as_that_of_an_official_provider(metadata: Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("airflow-provider-runs", __version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Summary"] and metadata["Author"] and metadata["Keywords"]
    assert metadata["Description-Content-Type"] == "text/x-rst"
    payload = metadata.get_payload(decode=True)
    assert isinstance(payload, bytes) and payload.decode() == (ROOT / "README.rst").read_text()
    assert set(metadata.get_all("Provides-Extra", ())) == EXTRAS
    told = metadata.get_all("Classifier", ())
    for part in (
        "Environment :: Console",
        "Environment :: Web Environment",
        "Framework :: Apache Airflow",
        "Framework :: Apache Airflow :: Provider",
        "Intended Audience :: Developers",
        "Intended Audience :: System Administrators",
        "Programming Language :: Python :: 3.11",
        "Topic :: System :: Monitoring",
        "Typing :: Typed",
    ):
        assert part in told


class Bare:
    """An environment with the wheel and what it requires, and with nothing of this checkout."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder, self.wheel = folder, wheel
        self.python = folder / "bin/python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.install(str(wheel))

    def install(self, *requirements: str) -> None:
        uv = Path(sys.executable).with_name("uv")
        pinned = ("--python", self.python, "-c", ROOT / "constraints/airflow-3.3.txt")
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--compile-bytecode", *pinned, *requirements], check=True
        )

    def run(self, *arguments: Any, **options: Any) -> str:
        shown = subprocess.run(
            [self.python, *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
        )
        assert shown.returncode == 0, shown.stdout
        return shown.stdout


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bare]:
    folder = tmp_path_factory.mktemp("bare")
    yield Bare(folder / "environment", wheel)
    shutil.rmtree(folder)


def test_everything_but_what_an_extra_brings_can_be_imported(bare: Bare, tmp_path: Path) -> None:
    modules = {
        str(Path(name).with_suffix("")).replace("/", ".").removesuffix(".__init__")
        for name in files(PACKAGE)
        if name.endswith(".py") and not name.endswith("__main__.py")
    }
    script = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    bare.run("-I", "-W", "ignore", "-c", script, *sorted(modules - NEEDS_AN_EXTRA), cwd=tmp_path)


def test_airflow_lists_the_provider(bare: Bare, tmp_path: Path) -> None:
    shown = bare.run(
        *("-I", "-W", "ignore", "-m", "airflow", "providers", "get", "airflow-provider-runs", "--full"),
        *("--output", "json"),
        cwd=tmp_path,
        env={"AIRFLOW_HOME": str(tmp_path), "PATH": ""},
    )
    (listed,) = json.loads(shown[shown.index("[{") :])
    assert listed["versions"] == get_provider_info()["versions"]
    for system in SYSTEMS:
        assert f"{PACKAGE}.{system}.operators" in json.dumps(listed)


def test_the_example_dags_run_from_the_wheel(bare: Bare, sdist: Path, tmp_path: Path) -> None:
    bare.install(f"airflow-provider-runs[simulator] @ {bare.wheel.as_uri()}")
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 and later
        archive.extractall(tmp_path)
    (unpacked,) = tmp_path.iterdir()
    shutil.rmtree(unpacked / PACKAGE)
    shown = bare.run("-m", "tools.demo", cwd=unpacked, timeout=scaled(300))
    assert "DAGs ended as they should." in shown
