"""The README's code where nothing is installed but torch and the wheels, with what these declare: no numpy, no tool.

An environment of `make_environment` lends all that the tests themselves need. These have links to the distributions
that the wheels require, and to those that these require, and to nothing else.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from conftest import Environment

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BACKENDS = {path.name.removeprefix("strategy-") for path in ROOT.glob("plugins/strategy-*")}

RUNS = {
    "": [("auto", 1), ("single_device", 1)],
    "ddp": [("ddp", 2), ("ddp_spawn", 2), ("ddp", 1)],
    "deepspeed": [("deepspeed_stage_2", 2)],
    "fairscale": [("ddp_sharded", 2), ("ddp_sharded_spawn", 2)],
    "rich": [("auto", 1)],
    "tqdm": [("auto", 1)],
}
"""Extras, and the strategies and numbers of devices under which the README's script runs with each."""

SDKS = {"deepspeed", "fairscale"}
"""Extras that bring an SDK, which requires numpy, and warns of what it likes."""

COMPILED = 400
"""Seconds for a run whose SDK compiles first."""

USE = """
from torchrelay import Trainer
print(type(Trainer(strategy="acme", accelerator="cpu").strategy).__name__)
"""

LEFT_OUT = {
    "bagua": "Bagua's wheels stop at Python 3.10 and CUDA 11.7",
    "horovod": "Horovod has no wheels: `tox run -e horovod` builds one",
    "hpu": "the PyTorch bridge comes with Gaudi's SDK, which is on no index",
    "ipu": "PopTorch comes with Graphcore's SDK, which is on no index",
    "tpu": "torch-xla holds torch to 2.9, which is not the torch that is lent here",
}
"""Backends whose SDK cannot be lent, and why."""


def block(beginning: str) -> str:
    blocks = re.findall(r"```(?:python|toml)\n(.*?)```", README, re.DOTALL)
    (found,) = [text for text in blocks if text.startswith(beginning)]
    return found


def script(strategy: str, devices: int) -> str:
    """The README's training script under another strategy."""
    text, asked = block("import torch"), 'strategy="ddp", accelerator="cpu", devices=2'
    assert asked in text
    return text.replace(asked, f'strategy="{strategy}", accelerator="cpu", devices={devices}')


def required(requirements: Iterable[str], extras: Iterable[str] = ("",)) -> Iterator[Requirement]:
    """What of a distribution's requirements applies here."""
    for each in map(Requirement, requirements):
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras):
            yield each


def closure(wanted: str, wheels: Path) -> set[str]:
    """The distributions besides the family's own to which a requirement leads."""
    family = {
        canonicalize_name(each.name): each
        for each in metadata.distributions(path=[*map(str, wheels.glob("*.whl"))])
    }
    found: set[tuple[str, frozenset[str]]] = set()
    left = [Requirement(wanted)]
    while left:
        each = left.pop()
        name, extras = canonicalize_name(each.name), frozenset(each.extras)
        if (name, extras) not in found:
            found.add((name, extras))
            declared = (family.get(name) or metadata.distribution(name)).requires or []
            left += required(declared, {"", *extras})
    return {name for name, _ in found} - family.keys()


def link(name: str, packages: Path) -> None:
    """Put what an installed distribution consists of into another environment, by links."""
    distribution = metadata.distribution(name)
    for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
        target = packages / top
        if not target.is_symlink():
            target.symlink_to(Path(str(distribution.locate_file(top))))


@dataclass(frozen=True)
class Bare:
    """An environment, and the names of the distributions that are lent to it."""

    environment: Environment
    lent: frozenset[str]


@pytest.fixture
def make_bare(make_environment: Callable[[], Environment], wheels: Path) -> Callable[[str], Bare]:
    """Makes an environment that holds a requirement on torchrelay and nothing that it does not lead to."""

    def make(wanted: str) -> Bare:
        environment = make_environment()
        (packages,) = environment.path.glob("lib/python*/site-packages")
        (packages / "base.pth").unlink()
        lent = closure(wanted, wheels)
        for name in lent:
            link(name, packages)
        environment.pip_install(wanted)
        return Bare(environment, frozenset(lent))

    return make


def installed(environment: Environment) -> set[str]:
    code = "from importlib.metadata import *; print(*(d.name for d in distributions()))"
    return {
        canonicalize_name(name) for name in environment.run("python", "-c", code).stdout.split()
    }


def without(noise: str, text: str) -> str:
    """A text without the lines of another."""
    return "\n".join(line for line in text.splitlines() if line not in noise.splitlines())


def test_every_backend_is_run_or_left_out_with_a_reason() -> None:
    assert {*RUNS} & BACKENDS | {*LEFT_OUT} == BACKENDS
    assert not {*RUNS} & {*LEFT_OUT}


@pytest.mark.timeout(2 * COMPILED)
@pytest.mark.parametrize("extra", RUNS)
def test_the_training_script_runs(
    extra: str,
    make_bare: Callable[[str], Bare],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if extra == "deepspeed" and shutil.which("c++") is None:
        pytest.skip(
            "DeepSpeed compiles what its ranks communicate by, and there is no C++ compiler"
        )
    # A build that is ended leaves a lock, for which the next would wait.
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    bare = make_bare(f"torchrelay[{extra}]" if extra else "torchrelay")
    family = {"torchrelay", *({f"torchrelay-{extra}"} if extra in BACKENDS else set())}
    assert installed(bare.environment) == bare.lent | family
    numpy = bare.environment.run("python", "-c", "import numpy")
    assert (numpy.returncode == 0) is ("numpy" in bare.lent) is (extra in SDKS), numpy.stderr
    torch = bare.environment.run("python", "-c", "import torch")

    path = tmp_path / "line.py"
    for strategy, devices in RUNS[extra]:
        path.write_text(script(strategy, devices), encoding="utf-8")
        done = bare.environment.run("python", path, timeout=COMPILED)
        assert done.returncode == 0, (strategy, devices, done.stderr)
        assert re.search(r"[Ee]poch 3/3", done.stdout + done.stderr), (done.stdout, done.stderr)
        # Without numpy, torch warns when it is imported.
        said = without(torch.stderr, done.stderr)
        assert extra in SDKS or "warn" not in said.lower(), (strategy, devices, said)


def test_the_plugin_is_a_package_whose_alias_is_there(
    make_bare: Callable[[str], Bare], tmp_path: Path
) -> None:
    project = tmp_path / "acme-relay"
    package = project / "src" / "acme_relay"
    package.mkdir(parents=True)
    build = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    name = '[project]\nname = "acme-relay"\nversion = "1.0"\n'
    (project / "pyproject.toml").write_text(build + name + block("# pyproject.toml"))
    (package / "__init__.py").touch()
    (package / "plugin.py").write_text(block("# acme_relay/plugin.py"))
    (package / "strategy.py").write_text(block("# acme_relay/strategy.py"))
    # Built beside the tests, where there is a build backend.
    pip = [sys.executable, "-m", "pip", "wheel", "--no-index", "--no-build-isolation", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", tmp_path, project], check=True, capture_output=True)

    environment = make_bare("torchrelay").environment
    environment.pip_install(*map(str, tmp_path.glob("acme_relay-*.whl")))
    listed = environment.run("torchrelay", "list")
    assert listed.stderr == ""
    assert re.search(r"^acme .*AcmeStrategy.*acme-relay 1\.0.*yes$", listed.stdout, re.MULTILINE)
    path = tmp_path / "use.py"
    path.write_text(USE)
    used = environment.run("python", path)
    assert used.stdout.split() == ["AcmeStrategy"], used.stderr
