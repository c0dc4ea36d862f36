"""Distributions of strangers beside ours, as users get them: one that does all as it should, and those that do not."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import pytest

if TYPE_CHECKING:
    from conftest import Environment

ROOT = Path(__file__).parents[1]
TRAIN: str = runpy.run_path(str(Path(__file__).with_name("test_packages.py")))["TRAIN"]
EXAMPLE = ROOT / "examples" / "third-party" / "acme-local-sgd"

GOOD = """
from torchrelay.plugin import StrategySpec, hookimpl

@hookimpl
def torchrelay_strategies():
    return [StrategySpec(
        alias="{alias}", target="torchrelay.strategies:SingleDeviceStrategy", description="Somebody's."
    )]
"""
NEEDY = GOOD.replace("StrategySpec,", "Requirement, StrategySpec,").replace(
    'description="',
    'requires=(Requirement(module="npu_sdk", install="pip install npu-sdk"),), description="',
)


def run(*command: str | Path, cwd: Path, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    """Run a command outside the tree, with none of its modules on the path."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
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
class Stranger:
    """A distribution of one module.

    Args:
        code: of the module.
        alias: of its strategy, for the code that has one.
        contract: what it says that it was written for.
    """

    code: str
    alias: str = "theirs"
    contract: str = "v1"


def wheel(folder: Path, name: str, stranger: Stranger) -> None:
    """Build a wheel by hand, as the specification of the format has it; nothing needs building."""
    module, info = f"{name}_plugin", f"{name}-1.0.dist-info"
    files = {
        f"{module}.py": textwrap.dedent(stranger.code).replace("{alias}", stranger.alias),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": (
            f"[torchrelay]\n{name} = {module}\n[torchrelay.contract]\n{stranger.contract} = {module}\n"
        ),
    }
    record = "".join(f"{file},,\n" for file in (*files, f"{info}/RECORD"))
    with ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(file, text)


STRANGERS = {
    "good": Stranger(GOOD, "good"),
    "raises": Stranger("raise RuntimeError('no licence found')"),
    "hooked": Stranger(
        "from torchrelay.plugin import hookimpl\n"
        "@hookimpl\ndef torchrelay_strategies(trainer):\n    return []"
    ),
    "twin": Stranger(GOOD, "good"),
    "future": Stranger("raise SystemExit('imported')", contract="v9"),
    "needy": Stranger(NEEDY, "needy"),
    "slow": Stranger(f"import time\ntime.sleep(0.6)\n{GOOD}", "slow"),
}


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wheels, one for each stranger and one for the example."""
    folder = tmp_path_factory.mktemp("strangers")
    for name, stranger in STRANGERS.items():
        wheel(folder, f"acme_{name}", stranger)
    flags = ["--no-index", "--no-build-isolation", "--no-deps", "--wheel-dir", folder]
    python = sys.executable
    built = run(python, "-m", "pip", "wheel", *flags, EXAMPLE, cwd=folder)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture
def install(
    make_environment: Callable[[], Environment], strangers: Path
) -> Callable[..., Environment]:
    """Makes an environment with core and some strangers."""

    def make(*names: str) -> Environment:
        environment = make_environment()
        environment.pip_install("--find-links", str(strangers), "torchrelay", *names)
        return environment

    return make


def listed(environment: Environment) -> dict[str, Any]:
    done = environment.run("torchrelay", "list", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def train(environment: Environment, folder: Path, *arguments: str) -> Any:
    script = folder / "train.py"
    script.write_text(TRAIN, encoding="utf-8")
    return environment.run("python", script, *arguments)


def works(environment: Environment, folder: Path) -> bool:
    """Whether core still trains by itself."""
    return train(environment, folder, "auto", "1").stdout.split() == [
        "SingleDeviceStrategy",
        "1",
        "learnt",
    ]


# --- the one that does all as it should -------------------------------------------------------------------


def test_the_example_trains_under_its_aliases(install, tmp_path: Path) -> None:
    environment = install("acme-local-sgd")
    generic = train(environment, tmp_path, "local_sgd", "2")
    assert generic.returncode == 0, generic.stderr
    assert generic.stdout.split() == ["LocalSGDStrategy", "2", "learnt"]

    wrong = train(environment, tmp_path, "local_sgd_sim", "2")
    assert wrong.returncode == 1
    assert "acme_sim" in wrong.stderr.splitlines()[-1]

    rows = {row["alias"]: row for row in listed(environment)["strategies"]}
    assert rows["local_sgd_sim"]["accelerators"] == "acme_sim"
    assert rows["local_sgd_sim"]["distribution"] == "acme-local-sgd"
    assert rows["local_sgd_sim"]["usable"]

    script = tmp_path / "train.py"
    script.write_text(TRAIN.replace('accelerator="cpu", ', ""), encoding="utf-8")
    specific = environment.run("python", script, "local_sgd_sim", "2")
    assert specific.returncode == 0, specific.stderr
    assert specific.stdout.split() == ["LocalSGDStrategy", "2", "learnt"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("tests", ["test_local_sgd.py", "test_conformance.py"])
def test_the_example_passes_its_own_tests(tests, install, tmp_path: Path) -> None:
    environment = install("acme-local-sgd")
    python = environment.path / "bin" / "python"
    # The kit on the second alias is the same again, for whoever has the time.
    options = ("-q", "-p", "no:cacheprovider", "-c", EXAMPLE / "pytest.ini", "-k", "not Simulated")
    done = run(
        python, "-m", "pytest", EXAMPLE / "tests" / tests, *options, cwd=tmp_path, timeout=580
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_imports_only_what_is_public() -> None:
    for path in EXAMPLE.rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("from torchrelay"):
                module, _, names = line.removeprefix("from ").partition(" import ")
                parts = [*module.split("."), *names.strip("() ").split(", ")]
                assert not [part for part in parts if part.startswith("_")], f"{path}: {line}"
                assert module.count(".") <= 1, f"{path}: {line}"


def test_core_works_on_after_a_plugin_is_uninstalled(install, tmp_path: Path) -> None:
    environment = install("acme-local-sgd", "torchrelay-ddp")
    gone = environment.run(
        "python", "-m", "pip", "uninstall", "--yes", "acme-local-sgd", "torchrelay-ddp"
    )
    assert gone.returncode == 0, gone.stderr
    assert works(environment, tmp_path)
    refused = train(environment, tmp_path, "local_sgd", "2")
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert "'local_sgd'" in line


# --- those that do not ------------------------------------------------------------------------------------

TROUBLES = {
    "raises": ("import", "RuntimeError: no licence found"),
    "hooked": ("register", "{'trainer'}"),
    "future": ("contract", "written for contract v9"),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_a_broken_plugin_is_told_and_takes_nothing_with_it(name, install, tmp_path: Path) -> None:
    stage, cause = TROUBLES[name]
    environment = install(f"acme-{name}", "acme-good")
    found = listed(environment)
    (trouble,) = found["troubles"]
    assert (trouble["plugin"], trouble["stage"]) == (f"acme_{name}", stage)
    assert cause in trouble["cause"]
    assert "good" in {row["alias"] for row in found["strategies"]}
    assert works(environment, tmp_path)


def test_one_alias_of_two_distributions_has_to_be_told_apart(install, tmp_path: Path) -> None:
    environment = install("acme-good", "acme-twin")
    assert listed(environment)["troubles"] == []
    torn = train(environment, tmp_path, "good", "1")
    assert torn.returncode == 1
    (line,) = torn.stderr.splitlines()
    assert "acme_good" in line
    assert "acme_twin" in line
    assert train(environment, tmp_path, "acme_twin:good", "1").stdout.split()[-1] == "learnt"


def test_a_missing_sdk_is_named_with_the_command_that_gets_it(install, tmp_path: Path) -> None:
    environment = install("acme-needy")
    (row,) = [row for row in listed(environment)["strategies"] if row["alias"] == "needy"]
    assert (row["usable"], row["reason"]) == (False, "needs npu_sdk: pip install npu-sdk")
    refused = train(environment, tmp_path, "needy", "1")
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert "pip install npu-sdk" in line


def test_a_plugin_that_is_slow_to_import_is_measured(install) -> None:
    environment = install("acme-slow")
    code = (
        "from torchrelay.plugin.registry import get_registry; "
        "print(*(p.distribution for p in get_registry().plugins if p.import_seconds > 0.5))"
    )
    told = environment.run("python", "-c", code)
    assert told.stdout.split() == ["acme_slow"], told.stderr


def test_a_plugin_can_be_switched_off(install, tmp_path: Path, monkeypatch) -> None:
    environment = install("acme-raises", "acme-good")
    monkeypatch.setenv("TORCHRELAY_DISABLE_PLUGINS", "acme-raises,acme_good")
    found = listed(environment)
    assert {(t["plugin"], t["stage"]) for t in found["troubles"]} == {
        ("acme_good", "disabled"),
        ("acme_raises", "disabled"),
    }
    assert "good" not in {row["alias"] for row in found["strategies"]}
    assert works(environment, tmp_path)
    refused = train(environment, tmp_path, "good", "1")
    assert "no strategy is called 'good'" in refused.stderr
