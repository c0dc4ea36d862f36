"""docs/writing-a-plugin.md, followed as a vendor would: its files made into a wheel, in an environment of its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Environment

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "writing-a-plugin.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(?:python|toml|yaml)\n(.*?)^```", re.DOTALL | re.MULTILINE)
HEADER = re.compile(r"# ([\w./-]+\.(?:py|toml|yml))\n")


def files_of_the_page() -> dict[str, str]:
    """Path -> text, of the blocks that begin with the name of their file."""
    blocks = FENCE.findall(PAGE)
    return {found[1]: text for text in blocks if (found := HEADER.match(text))}


def write_package(folder: Path) -> Path:
    """Put the page's files where it says, but for the script; the package's `__init__.py` stays empty."""
    project = folder / "thrifty-relay"
    for name, text in files_of_the_page().items():
        if name != "train.py":
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            (project / name).write_text(text, encoding="utf-8")
    (project / "src" / "thrifty_relay" / "__init__.py").touch()
    return project


@pytest.fixture
def installed(make_environment: Callable[[], Environment], tmp_path: Path) -> Environment:
    environment = make_environment()
    environment.pip_install("torchrelay")
    environment.pip_install("--no-build-isolation", str(write_package(tmp_path)))
    return environment


def test_the_files_are_all_there() -> None:
    assert set(files_of_the_page()) == {
        "pyproject.toml",
        "src/thrifty_relay/plugin.py",
        "src/thrifty_relay/strategy.py",
        "train.py",
        "tests/test_conformance.py",
        ".github/workflows/ci.yml",
    }


@pytest.mark.parametrize("block", [b for b in FENCE.findall(PAGE) if not HEADER.match(b)])
def test_a_fragment_is_python(block: str) -> None:
    assert ast.parse(block).body


def test_the_package_is_listed_and_sound(installed: Environment) -> None:
    listed = installed.run("torchrelay", "list").stdout
    for row in (r"thrifty +ThriftyStrategy", r"thrifty_bf16 +RoundedStrategy"):
        assert re.search(rf"^{row} .*thrifty-relay 0\.1\.0 +yes$", listed, re.MULTILINE), listed
    examined = installed.run("torchrelay", "doctor")
    assert re.search(r"^thrifty .* usable", examined.stdout, re.MULTILINE), examined.stdout


@pytest.mark.timeout(240)
def test_the_script_trains_in_two_processes(installed: Environment, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(files_of_the_page()["train.py"], encoding="utf-8")
    done = installed.run("python", script)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        "0 RoundedStrategy bfloat16",
        "1 RoundedStrategy bfloat16",
    ]


@pytest.mark.timeout(240)
def test_its_tests_are_those_of_the_kit(installed: Environment, tmp_path: Path) -> None:
    tests = tmp_path / "thrifty-relay" / "tests"
    options = ["-q", "-p", "no:cacheprovider", "-k", "declaration", "--rootdir", tests.parent]
    done = installed.run("python", "-m", "pytest", *options, tests)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^\d+ passed", done.stdout, re.MULTILINE), done.stdout
    (overridden,) = re.findall(r"def (test_\w+)\(self\)", PAGE)
    named = f"from torchrelay.testing import BasicTier; BasicTier.{overridden}"
    assert installed.run("python", "-c", named).returncode == 0, overridden
