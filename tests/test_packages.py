"""The distributions as users get them: built wheels in environments that hold nothing else of the family."""

from __future__ import annotations

import email
import json
import re
from collections.abc import Callable
from configparser import ConfigParser
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest

if TYPE_CHECKING:
    from conftest import Environment

ROOT = Path(__file__).parents[1]
BACKENDS = sorted(path.name.removeprefix("strategy-") for path in ROOT.glob("plugins/strategy-*"))
DISTRIBUTIONS = ["torchrelay", *(f"torchrelay-{backend}" for backend in BACKENDS)]
EXTRAS = {
    **{backend: {f"torchrelay-{backend}"} for backend in BACKENDS},
    # torch-xla wants a torch of its own.
    "all": {f"torchrelay-{backend}" for backend in BACKENDS if backend != "tpu"},
    "plot": set(),
    "rich": set(),
    "tensorboard": set(),
    "testing": set(),
    "tqdm": set(),
}
TRAIN = """
import sys

import torch
from torch.utils.data import DataLoader, TensorDataset

from torchrelay import LightningModule, Trainer


class Line(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return torch.nn.functional.mse_loss(self.layer(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


if __name__ == "__main__":
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    strategy, devices = sys.argv[1], int(sys.argv[2])
    trainer = Trainer(strategy=strategy, accelerator="cpu", devices=devices, max_epochs=20, **quiet)
    x = torch.linspace(-1, 1, 32).unsqueeze(1)
    model = Line()
    trainer.fit(model, DataLoader(TensorDataset(x, 3 * x), batch_size=4))
    if trainer.global_rank == 0:
        close = abs(model.layer.weight.item() - 3) < 0.01
        print(type(trainer.strategy).__name__, trainer.world_size, "learnt" if close else "lost")
"""


def wheel_of(distribution: str, wheels: Path) -> ZipFile:
    (path,) = wheels.glob(f"{distribution.replace('-', '_')}-[0-9]*.whl")
    return ZipFile(path)


def read(wheel: ZipFile, file: str) -> str:
    """A file of the wheel's `.dist-info`."""
    (name,) = [
        n
        for n in wheel.namelist()
        if n.partition("/")[0].endswith(".dist-info") and n.endswith(file)
    ]
    return wheel.read(name).decode()


def metadata_of(wheel: ZipFile) -> Message:
    return email.message_from_string(read(wheel, "METADATA"))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_wheel_carries_its_package_and_nothing_else(distribution: str, wheels: Path) -> None:
    wheel = wheel_of(distribution, wheels)
    package = distribution.replace("-", "_")
    code = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert f"{package}/__init__.py" in code
    assert f"{package}/py.typed" in code
    assert {name.partition("/")[0] for name in code} == {package}
    assert [n for n in code if {"tests", "conftest.py"} & set(n.split("/")) or "/test_" in n] == []


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_wheel_says_its_license_and_describes_itself(distribution: str, wheels: Path) -> None:
    wheel = wheel_of(distribution, wheels)
    metadata = metadata_of(wheel)
    assert read(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert str(metadata.get_payload()).strip(), "README.md is empty"


@pytest.mark.parametrize("backend", BACKENDS)
def test_plugin_declares_a_module_that_it_ships(backend: str, wheels: Path) -> None:
    wheel = wheel_of(f"torchrelay-{backend}", wheels)
    declared = ConfigParser(delimiters=("=",))
    declared.read_string(read(wheel, "entry_points.txt"))
    assert dict(declared["torchrelay"]) == {backend: f"torchrelay_{backend}.plugin"}
    assert f"torchrelay_{backend}/plugin.py" in wheel.namelist()


def test_each_backend_has_its_extra(wheels: Path) -> None:
    assert set(metadata_of(wheel_of("torchrelay", wheels)).get_all("Provides-Extra")) == set(EXTRAS)


# The torch that is lent here is not that of `tpu`.
@pytest.mark.parametrize("extra", sorted(EXTRAS.keys() - {"tpu"}))
def test_extra_resolves_to_the_distributions_it_names(
    extra: str, make_environment: Callable[[], Environment], tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    wanted = ["--dry-run", "--report", str(report), f"torchrelay[{extra}]"]
    done = make_environment().pip_install(*wanted)
    found = {each["metadata"]["name"] for each in json.loads(report.read_text())["install"]}
    assert found == {"torchrelay", *EXTRAS[extra]}
    assert "WARNING" not in done.stderr


def test_core_alone_trains_and_names_the_missing_extra(
    make_environment: Callable[[], Environment], tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(TRAIN, encoding="utf-8")
    environment = make_environment()
    environment.pip_install("torchrelay")

    alone = environment.run("python", script, "auto", "1")
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout.split() == ["SingleDeviceStrategy", "1", "learnt"]

    refused = environment.run("python", script, "ddp", "2")
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert line.endswith('pip install "torchrelay[ddp]"')

    environment.pip_install("torchrelay[ddp]")
    together = environment.run("python", script, "ddp", "2")
    assert together.returncode == 0, together.stderr
    assert together.stdout.split() == ["DDPStrategy", "2", "learnt"]


def test_list_shows_what_is_installed(make_environment: Callable[[], Environment]) -> None:
    environment = make_environment()
    environment.pip_install("torchrelay")
    alone = environment.run("torchrelay", "list")
    assert alone.returncode == 0, alone.stderr
    assert "single_device" in alone.stdout
    assert "DDPStrategy" not in alone.stdout

    environment.pip_install("torchrelay-ddp")
    together = environment.run("torchrelay", "list")
    assert together.returncode == 0, together.stderr
    (row,) = [line for line in together.stdout.splitlines() if re.search(r"\bddp_spawn\b", line)]
    version = metadata_of(wheel_of("torchrelay-ddp", environment.wheels))["Version"]
    assert "torchrelay-ddp" in row
    assert version in row
