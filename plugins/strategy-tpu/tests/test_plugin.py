"""What the distribution says of itself, which costs no torch and no torch-xla to hear, and what it finds here."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import torchrelay.strategies
import torchrelay_tpu
from torchrelay.environments import LocalEnvironment
from torchrelay.plugin.catalogue import BACKENDS
from torchrelay.plugin.targets import load_target, missing
from torchrelay_tpu import vendor
from torchrelay_tpu.plugin import (
    torchrelay_accelerators,
    torchrelay_checkpoint_ios,
    torchrelay_cluster_environments,
    torchrelay_diagnostics,
    torchrelay_strategies,
)
from torchrelay_tpu.probe import CORES, found
from torchrelay_tpu.spmd import dimension_of

SPECS = {spec.alias: spec for spec in torchrelay_strategies()}


def test_it_gives_the_aliases_that_the_catalogue_says():
    (backend,) = [each for each in BACKENDS if each.extra == "tpu"]
    assert backend.published
    assert set(backend.aliases) == set(SPECS)
    assert {spec.accelerators for spec in SPECS.values()} == {("tpu",)}


def test_no_name_is_called_that_torch_xla_has_deprecated():
    names = ("torch_xla", "torch_xla.core.xla_model", "torch_xla.runtime")
    members = [item for name in names for item in vars(import_module(name)).items()]
    old = {name for name, value in members if hasattr(value, "__deprecated__")}
    assert {"mark_step", "xla_device"} <= old
    assert not old & set(re.findall(r"\.(\w+)\(", Path(vendor.__file__).read_text()))


@pytest.mark.parametrize("alias", SPECS)
def test_an_alias_stands_for_its_class(alias):
    spec = SPECS[alias]
    kind = load_target(spec.target)
    assert getattr(torchrelay.strategies, kind.__name__) is kind
    assert spec.capabilities is kind.capabilities
    assert spec.process_per_device is kind.process_per_device
    kind(**spec.presets)


def test_every_other_target_can_be_loaded():
    (accelerator,) = torchrelay_accelerators()
    assert load_target(accelerator.target) is torchrelay_tpu.XLAAccelerator
    (environment,) = torchrelay_cluster_environments()
    assert load_target(environment.target) is torchrelay_tpu.XLAEnvironment
    (checkpoint_io,) = torchrelay_checkpoint_ios()
    assert load_target(checkpoint_io.target) is torchrelay_tpu.XLACheckpointIO
    (diagnostic,) = torchrelay_diagnostics()
    assert load_target(diagnostic.target) is vendor.examined


def test_without_torch_xla_the_spec_names_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_xla"]:
        monkeypatch.delitem(sys.modules, name)
    (need,) = missing(SPECS["single_tpu"].requires)
    assert need.install == 'pip install "torch==2.9.*" "torch-xla==2.9.*"'


@pytest.mark.parametrize("module", ["plugin", "environment", "probe"])
def test_hearing_of_it_imports_neither_torch_nor_torch_xla(module):
    code = (
        f"import sys, torchrelay_tpu.{module}, torchrelay_tpu.plugin as plugin; "
        "list(plugin.torchrelay_strategies()), list(plugin.torchrelay_accelerators()); "
        "sys.exit(bool({'torch', 'torch_xla'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_making_a_strategy_imports_no_torch_xla():
    code = (
        "import sys, torchrelay_tpu as package; "
        "package.SingleTPUStrategy(), package.XLASPMDStrategy(), package.TPUSpawnStrategy(); "
        "sys.exit('torch_xla' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- what is here ---------------------------------------------------------------------------------------


def chips(folder, *ids, vendor="0x1ae0"):
    for number, device in enumerate(ids):
        chip = folder / f"{vendor}-{number}"
        chip.mkdir()
        (chip / "vendor").write_text(f"{vendor}\n")
        (chip / "device").write_text(f"{device}\n")


@pytest.mark.parametrize(("device", "number"), [("0x0027", 2), ("0x005e", 1), ("0x0063", 1)])
def test_chips_are_counted_by_their_devices(tmp_path, device, number):
    chips(tmp_path, device, device)
    chips(tmp_path, device, vendor="0x10de")
    assert found({}, tmp_path).count == 2 * number


def test_the_chips_are_those_that_torch_xla_knows():
    source = Path(find_spec("torch_xla").origin).with_name("_internal") / "tpu.py"
    listed = re.search(r"_TPU_PCI_DEVICE_IDS = \[(.*?)\]", source.read_text(), re.DOTALL)
    assert set(re.findall(r"'(0x\w+)'", listed[1])) == set(CORES)


def test_without_a_chip_the_reason_is_told(tmp_path):
    assert found({}, tmp_path).reason.startswith("no TPU is attached to this machine")
    chips(tmp_path, "0xffff")
    assert found({}, tmp_path).count == 0


def test_the_processor_stands_in_only_where_it_is_asked_for(tmp_path):
    assert found({"PJRT_DEVICE": "CPU"}, tmp_path).count == 1
    assert found({"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "4"}, tmp_path).count == 4
    assert "PJRT_DEVICE=NEURON" in found({"PJRT_DEVICE": "NEURON"}, tmp_path).reason


def test_a_torch_of_another_release_is_told(monkeypatch):
    assert vendor.examined() is None
    monkeypatch.setattr(vendor, "version", lambda: "2.8.0")
    assert "torch-xla 2.8.0 is compiled against torch 2.8" in str(vendor.examined())
    monkeypatch.setattr(vendor, "version", lambda: None)
    assert str(vendor.examined()).startswith("torch-xla is not installed: pip install")


def test_outside_of_a_replica_the_environment_is_as_ever():
    assert not torchrelay_tpu.XLAEnvironment.detect({})
    assert issubclass(torchrelay_tpu.XLAEnvironment, LocalEnvironment)


@pytest.mark.parametrize(
    ("shape", "parts", "dimension"),
    [((8, 16), 2, 1), ((16, 8), 2, 0), ((3, 8), 4, 1), ((3, 5), 2, None), ((), 2, None)],
)
def test_the_largest_dimension_that_divides_is_divided(shape, parts, dimension):
    assert dimension_of(shape, parts) == dimension
