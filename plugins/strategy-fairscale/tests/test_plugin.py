"""What the distribution says of itself, which costs no torch and no FairScale to hear."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import torchrelay.strategies
import torchrelay_fairscale
from torchrelay.errors import ConfigurationError
from torchrelay.plugin.catalogue import BACKENDS, RETIRED
from torchrelay.plugin.targets import missing
from torchrelay_fairscale import vendor
from torchrelay_fairscale.plugin import (
    FULLY_SHARDED,
    SHARDED,
    torchrelay_diagnostics,
    torchrelay_strategies,
)

SPECS = {spec.alias: spec for spec in torchrelay_strategies()}


def test_it_gives_the_aliases_that_the_catalogue_says():
    (backend,) = [each for each in BACKENDS if each.extra == "fairscale"]
    assert backend.published
    assert set(SPECS) == set(backend.aliases)


def test_fsdp_stays_free_for_torch_s_own():
    assert "fsdp" not in SPECS
    assert "'ddp_fully_sharded'" in RETIRED["fsdp"]


@pytest.mark.parametrize(
    ("alias", "name", "presets", "capabilities"),
    [
        ("ddp_sharded", "DDPShardedStrategy", {}, SHARDED),
        ("ddp_sharded_spawn", "DDPSpawnShardedStrategy", {}, SHARDED),
        (
            "ddp_sharded_find_unused_parameters_false",
            "DDPShardedStrategy",
            {"find_unused_parameters": False},
            SHARDED,
        ),
        (
            "ddp_sharded_spawn_find_unused_parameters_false",
            "DDPSpawnShardedStrategy",
            {"find_unused_parameters": False},
            SHARDED,
        ),
        ("ddp_fully_sharded", "DDPFullyShardedStrategy", {}, FULLY_SHARDED),
    ],
)
def test_each_alias_stands_for_a_class_and_its_settings(alias, name, presets, capabilities):
    spec = SPECS[alias]
    kind = getattr(torchrelay_fairscale, name)
    assert getattr(torchrelay.strategies, name) is kind
    assert spec.target.endswith(f":{name}")
    assert spec.presets == presets
    assert spec.capabilities is capabilities is kind.capabilities
    kind(**spec.presets)


def test_without_fairscale_the_specs_name_the_command(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "fairscale"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (need,) = missing(SPECS["ddp_sharded"].requires)
    assert need.install == 'pip install "fairscale>=0.4.13,<0.5"'


def test_hearing_of_it_imports_neither_torch_nor_fairscale():
    code = (
        "import sys, torchrelay_fairscale.plugin as plugin; "
        "list(plugin.torchrelay_strategies()), list(plugin.torchrelay_diagnostics()); "
        "sys.exit(bool({'torch', 'fairscale'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_making_strategies_imports_no_fairscale():
    code = (
        "import sys, torchrelay_fairscale as package; "
        "package.DDPShardedStrategy(), package.DDPFullyShardedStrategy(); "
        "sys.exit('fairscale' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_check_of_the_machine_can_be_made():
    (spec,) = torchrelay_diagnostics()
    assert spec.target == "torchrelay_fairscale.vendor:tested"
    assert vendor.version() is not None
    assert vendor.tested() is None


@pytest.mark.parametrize(
    ("version", "well"),
    [("0.4.13", True), ("0.4.14+cu12", True), ("0.4.12", False), ("0.5.0", False), ("1.0", False)],
)
def test_a_version_that_was_not_run_is_told(monkeypatch, version, well):
    monkeypatch.setattr(vendor, "version", lambda: version)
    complaint = vendor.tested()
    if well:
        assert complaint is None
    else:
        assert complaint.startswith(f"FairScale {version} is not one that torchrelay-fairscale was")
        assert complaint.endswith('pip install "fairscale>=0.4.13,<0.5"')


def test_no_fairscale_is_told(monkeypatch):
    monkeypatch.setattr(vendor, "version", lambda: None)
    assert vendor.tested() == 'FairScale is not installed: pip install "fairscale>=0.4.13,<0.5"'


def test_outside_of_a_run_wrap_gives_back_the_layer():
    layer = torch.nn.Linear(2, 2)
    assert torchrelay_fairscale.wrap(layer) is layer


def test_checkpoint_wrapper_goes_inside():
    class Unit(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self._fsdp_wrapped_module = torch.nn.Linear(2, 2)

    with pytest.raises(ConfigurationError, match="wrap\\(checkpoint_wrapper\\(layer\\)\\)"):
        torchrelay_fairscale.checkpoint_wrapper(Unit())
