"""Wheels of the working tree, and environments to put them in."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
Run = subprocess.CompletedProcess[str]


def run(*command: str | Path, cwd: Path, timeout: float = 100) -> Run:
    """Run a command as a user would: outside the tree, with none of its modules on the path."""
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    return subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@dataclass(frozen=True)
class Environment:
    """A virtual environment that sees torch and what core depends on, and no torchrelay but what it is given."""

    path: Path
    wheels: Path

    def pip_install(self, *arguments: str) -> Run:
        """Install from the wheels of the working tree alone."""
        offline = ["--no-index", "--find-links", str(self.wheels)]
        pip = [sys.executable, "-m", "pip", "--python", str(self.path / "bin" / "python")]
        done = run(*pip, "install", *offline, *arguments, cwd=self.path)
        assert done.returncode == 0, done.stderr
        return done

    def run(self, program: str, *arguments: str | Path, timeout: float = 100) -> Run:
        return run(self.path / "bin" / program, *arguments, cwd=self.path, timeout=timeout)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one wheel of each distribution of the working tree."""
    folder = tmp_path_factory.mktemp("wheels")
    projects = [ROOT / "core", *sorted(ROOT.glob("plugins/strategy-*"))]
    flags = ["--no-index", "--no-build-isolation", "--no-deps", "--wheel-dir", folder]
    built = run(sys.executable, "-m", "pip", "wheel", *flags, *projects, cwd=folder)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture
def make_environment(tmp_path: Path, wheels: Path) -> Callable[[], Environment]:
    """Makes environments; fails where torchrelay is installed beside the tests, for they would see it."""
    family = {d.name for d in importlib.metadata.distributions() if d.name.startswith("torchrelay")}
    if family:
        pytest.fail(f"{', '.join(sorted(family))} installed beside the tests: tox run -e packages")

    def make() -> Environment:
        path = tmp_path / f"environment{len(list(tmp_path.iterdir()))}"
        made = run(sys.executable, "-m", "venv", "--without-pip", path, cwd=tmp_path)
        assert made.returncode == 0, made.stderr
        (packages,) = path.glob("lib/python*/site-packages")
        (packages / "base.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
        return Environment(path, wheels)

    return make
