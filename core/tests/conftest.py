"""Fixtures that several folders of tests use."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from torchrelay.plugin import installing
from torchrelay.testing.fixtures import pytest_configure as pytest_configure


@pytest.fixture(autouse=True)
def _from_an_index(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands in messages are those for an installation from an index, whatever the tests are run from."""
    if request.path.name != "test_installing.py":
        monkeypatch.setattr(installing, "direct_url", lambda _: {})


class Site:
    """A site-packages of a test's own, with real distributions and modules in it."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path

    @property
    def search(self) -> list[str]:
        """The path for discovery to search."""
        return [str(self.path)]

    def write(self, name: str, text: str) -> Path:
        """Write a file, and an `__init__.py` into each package above it."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        for folder in file.relative_to(self.path).parents[:-1]:
            (self.path / folder / "__init__.py").touch()
        file.write_text(textwrap.dedent(text), encoding="utf-8")
        return file

    def distribution(
        self, name: str, version: str = "1.0", entries: str = "", folder: str = ""
    ) -> Path:
        """Write the metadata of an installed distribution; `entries` is its entry_points.txt."""
        info = self.path / (folder or f"{name.replace('-', '_')}-{version}.dist-info")
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        if entries:
            (info / "entry_points.txt").write_text(textwrap.dedent(entries))
        return info

    def plugin(
        self,
        name: str,
        code: str,
        *,
        version: str = "1.0",
        contract: str = "v1",
        files: Mapping[str, str] | None = None,
    ) -> str:
        """Write the distribution `name`, whose plugin module holds `code`, and return the module's name.

        The module is `<name>_plugin`, its entry point has the last word of `name`, and its code begins with
        everything of `torchrelay.plugin`.
        """
        module = f"{name.replace('-', '_').replace('.', '_').lower()}_plugin"
        entries = f"[torchrelay]\n{name.rpartition('-')[2]} = {module}\n"
        if contract:
            entries += f"[torchrelay.contract]\n{contract} = {module}\n"
        self.distribution(name, version, entries)
        self.write(f"{module}.py", f"from torchrelay.plugin import *\n\n{textwrap.dedent(code)}")
        for file, text in (files or {}).items():
            self.write(file, text)
        return module


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An importable site-packages; what a test imports from it is forgotten afterwards."""
    made = Site(tmp_path / "site")
    monkeypatch.syspath_prepend(str(made.path))
    before = set(sys.modules)
    yield made
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(made.path)):
            del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture(scope="session")
def boring() -> ModuleType:
    """The module `boring.py`: a small model and its data."""
    file = Path(__file__).with_name("boring.py")
    spec = importlib.util.spec_from_file_location("boring", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Any]:
    """Makes Trainers on the CPU that are silent and keep nothing unless told otherwise."""
    from torchrelay import Trainer
    from torchrelay.callbacks import Checkpointer, ProgressBar

    def make(**options: Any) -> Any:
        quiet = {"enable_model_summary": False, "logger": False}
        given = options.get("callbacks")
        each = given if isinstance(given, (list, tuple)) else [given]
        kinds = {"enable_checkpointing": Checkpointer, "enable_progress_bar": ProgressBar}
        for name, kind in kinds.items():
            if not any(isinstance(callback, kind) for callback in each):
                quiet[name] = False
        return Trainer(
            **{
                "accelerator": "cpu",
                "max_epochs": 1,
                "default_root_dir": tmp_path,
                **quiet,
                **options,
            }
        )

    return make
