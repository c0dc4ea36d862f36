"""What the distribution says of itself, which costs no torch and no PopTorch to hear."""

from __future__ import annotations

import subprocess
import sys

import ipu_rules as rules
import pytest

import torchrelay.strategies
import torchrelay_ipu
from torchrelay import Trainer
from torchrelay.plugin.catalogue import BACKENDS
from torchrelay.plugin.targets import missing
from torchrelay_ipu import probe, vendor
from torchrelay_ipu.plugin import (
    CAPABILITIES,
    GUIDE,
    SDK,
    torchrelay_accelerators,
    torchrelay_diagnostics,
    torchrelay_strategies,
)


@pytest.fixture(autouse=True)
def fresh():
    probe._ask.cache_clear()


def test_it_gives_the_aliases_that_the_catalogue_says():
    (backend,) = [each for each in BACKENDS if each.extra == "ipu"]
    assert backend.published
    assert backend.aliases == tuple(spec.alias for spec in torchrelay_strategies())
    assert backend.accelerators == tuple(spec.name for spec in torchrelay_accelerators())


def test_the_aliases_stand_for_the_class():
    kind = torchrelay_ipu.IPUStrategy
    assert torchrelay.strategies.IPUStrategy is kind
    for spec in torchrelay_strategies():
        assert spec.target == "torchrelay_ipu.strategy:IPUStrategy"
        assert spec.capabilities is CAPABILITIES is kind.capabilities
        assert spec.process_per_device is kind.process_per_device is False


def test_hearing_of_it_imports_neither_torch_nor_poptorch():
    code = (
        "import sys, torchrelay_ipu.probe, torchrelay_ipu.plugin as plugin; "
        "list(plugin.torchrelay_strategies()), list(plugin.torchrelay_diagnostics()); "
        "sys.exit(bool({'torch', 'poptorch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_making_a_strategy_imports_no_poptorch():
    code = (
        "import sys, torchrelay_ipu as package; package.IPUStrategy(); "
        "sys.exit('poptorch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_eight_devices_select_it(monkeypatch):
    monkeypatch.setenv("IPU_SIMULATOR_IPUS", "8")
    made = Trainer(**rules.QUIET, accelerator="ipu", devices=8)
    assert type(made.strategy) is torchrelay_ipu.IPUStrategy
    assert type(made.strategy.accelerator) is torchrelay_ipu.IPUAccelerator
    made.fit(rules.Regression(), rules.DataLoader(rules.samples(32), 8))
    assert made.global_step == 4


def without(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_the_probe_counts(monkeypatch):
    assert probe.ipus().count == 2
    monkeypatch.setenv("POPTORCH_IPU_MODEL", "1")
    assert probe.ipus().count == 1
    without(monkeypatch)
    assert probe.ipus().count == 0


def test_the_probe_gives_its_reason(monkeypatch):
    monkeypatch.setenv("IPU_SIMULATOR_IPUS", "0")
    assert "POPTORCH_IPU_MODEL=1" in probe.ipus().reason
    probe._ask.cache_clear()
    monkeypatch.setattr(probe, "_ASK", "raise AssertionError('only works with torch==0')")
    assert probe.ipus().reason == (
        "PopTorch cannot be imported: AssertionError: only works with torch==0"
    )


def test_without_poptorch_the_spec_names_the_sdk(monkeypatch):
    spec = next(iter(torchrelay_strategies()))
    monkeypatch.delitem(sys.modules, "poptorch", raising=False)
    without(monkeypatch)
    (need,) = missing(spec.requires)
    assert "Poplar SDK" in need.install
    assert SDK in need.install
    assert GUIDE in need.install


# --- the doctor -----------------------------------------------------------------------------------------


def test_the_check_of_the_machine_can_be_made():
    (spec,) = torchrelay_diagnostics()
    assert spec.target == "torchrelay_ipu.vendor:examined"
    assert vendor.examined() is None


def complaint():
    """What is wrong; it ends with the SDK, its release and its guide."""
    text = vendor.examined()
    assert "\n" not in text
    assert all(word in text for word in ("Poplar SDK", SDK, GUIDE))
    return text


def test_no_poptorch_is_told(monkeypatch):
    without(monkeypatch)
    assert complaint().startswith("PopTorch is not installed")


def test_a_poptorch_for_another_torch_is_told(monkeypatch):
    def broken(name):
        raise AssertionError("only works with torch==2.0\nmore")

    monkeypatch.setattr(vendor, "import_module", broken)
    assert complaint().startswith("PopTorch cannot be imported (only works with torch==2.0)")


def test_another_release_is_told(monkeypatch):
    import poptorch

    monkeypatch.setattr(poptorch, "__version__", "4.0.0+1")
    assert complaint().startswith("PopTorch 4.0.0+1 is not the release")
