"""The command that a message ends in works where the message was read, wherever torchrelay was installed from."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Environment

ROOT = Path(__file__).parents[1]
NO_NETWORK = "--no-index --no-build-isolation"
ASK = "from torchrelay import Trainer; Trainer(strategy='ddp', accelerator='cpu', devices=2)"


def copy_of_the_repository(folder: Path) -> None:
    leave = shutil.ignore_patterns("tests", "__pycache__", "changelog.d")
    for name in ("core", "plugins/strategy-ddp"):
        shutil.copytree(ROOT / name, folder / name, ignore=leave)


def pip(environment: Environment, command: str) -> None:
    """Run a `pip install` in an environment that has no pip, and without an index."""
    python = shlex.quote(str(environment.path / "bin" / "python"))
    ours = f"{shlex.quote(sys.executable)} -m pip --python {python} install {NO_NETWORK} "
    line = command.replace("pip install ", ours, 1)
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, (line, done.stderr)


def hint(environment: Environment) -> str:
    refused = environment.run("python", "-c", ASK)
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    found = re.search(r"which is not installed: (pip install .*)$", line)
    assert found, line
    return found[1]


@pytest.mark.parametrize("options", ["", "-e "])
@pytest.mark.parametrize("name", ["source", "my source"])
def test_from_a_checkout(
    name: str, options: str, make_environment: Callable[[], Environment], tmp_path: Path
) -> None:
    root, environment = tmp_path / name, make_environment()
    copy_of_the_repository(root)
    pip(environment, f"pip install {options}{shlex.quote(str(root / 'core'))}")
    named = hint(environment)
    assert shlex.split(named)[2:] == [*options.split(), str(root / "plugins" / "strategy-ddp")]

    doctor = environment.run("torchrelay", "doctor", "ddp")
    assert named in doctor.stdout
    pip(environment, named)
    assert "DDPStrategy" in environment.run("torchrelay", "list").stdout
    assert environment.run("python", "-c", ASK).returncode == 0

    bar = "from torchrelay.plugin.installing import install_extra; print(install_extra('tqdm'))"
    pip(environment, environment.run("python", "-c", bar).stdout.strip())
    shutil.rmtree(root / "plugins")
    again = "from torchrelay.plugin.installing import reinstall; print(reinstall('torchrelay-ddp'))"
    assert environment.run("python", "-c", again).stdout.endswith("--no-deps torchrelay-ddp\n")


def test_from_a_folder_of_wheels(make_environment: Callable[[], Environment], wheels: Path) -> None:
    environment = make_environment()
    (core,) = wheels.glob("torchrelay-[0-9]*.whl")
    pip(environment, f"pip install {shlex.quote(str(core))}")
    named = hint(environment)
    assert named == f"pip install --find-links {wheels} torchrelay-ddp"
    pip(environment, named)
    assert environment.run("python", "-c", ASK).returncode == 0


def test_from_an_index(make_environment: Callable[[], Environment]) -> None:
    environment = make_environment()
    environment.pip_install("torchrelay")
    assert hint(environment) == 'pip install "torchrelay[ddp]"'
