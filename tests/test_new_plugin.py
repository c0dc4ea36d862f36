"""What `torchrelay new-plugin` writes, as a vendor would go on with it: built, installed, examined by its own tests."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest

if TYPE_CHECKING:
    from conftest import Environment

OPTIONS = {"plain": [], "accelerator": ["--accelerator"]}


@pytest.fixture
def install(make_environment: Callable[[], Environment]) -> Callable[[str], Environment]:
    """Makes an environment with torchrelay and a new plugin, written there and installed from its folder."""

    def make(kind: str) -> Environment:
        environment = make_environment()
        environment.pip_install("torchrelay")
        written = environment.run("torchrelay", "new-plugin", "acme-relay", *OPTIONS[kind])
        assert written.returncode == 0, written.stderr
        folder = str(environment.path / "acme-relay")
        environment.pip_install("--no-deps", "--no-build-isolation", folder)
        return environment

    return make


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.timeout(300)
def test_the_new_plugin_is_usable_at_once(kind: str, install: Callable[[str], Environment]) -> None:
    environment = install(kind)
    doctor = environment.run("torchrelay", "doctor", "--json", "acme")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    (found,) = json.loads(doctor.stdout)["plugins"]
    assert (found["distribution"], found["result"]) == ("acme-relay", "usable")

    accelerator = "acme" if kind == "accelerator" else "cpu"
    asked = ["--strategy", "acme", "--accelerator", accelerator, "--devices", "2"]
    explained = environment.run("torchrelay", "explain", *asked, "--build")
    assert explained.returncode == 0, explained.stderr
    assert "strategy: acme of acme-relay 0.1.0 (asked for)" in explained.stdout


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.timeout(1200)
def test_the_new_plugin_conforms(kind: str, install: Callable[[str], Environment]) -> None:
    """Its own tests, which are the conformance kit's, under the configuration that it brings."""
    environment = install(kind)
    done = subprocess.run(
        [environment.path / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=environment.path / "acme-relay",
        capture_output=True,
        text=True,
        timeout=1100,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_the_templates_are_in_the_wheel(wheels: Path) -> None:
    (path,) = wheels.glob("torchrelay-[0-9]*.whl")
    names = ZipFile(path).namelist()
    source = Path(__file__).parents[1] / "core" / "src"
    templates = {
        file.relative_to(source).as_posix() for file in source.glob("torchrelay/templates/*/*")
    }
    assert templates
    assert templates <= set(names)
