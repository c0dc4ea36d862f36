"""What the distribution says of itself, which costs no torch and no bridge to hear."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager, nullcontext

import hpu_rules as rules
import pytest

import torchrelay.strategies
import torchrelay_hpu
from torchrelay import Trainer
from torchrelay.errors import ConfigurationError, UnsupportedError, UserError
from torchrelay.plugin import Hardware
from torchrelay.plugin.catalogue import BACKENDS
from torchrelay.plugin.targets import missing
from torchrelay_hpu import HPUParallelStrategy, SingleHPUStrategy, probe, vendor
from torchrelay_hpu.plugin import (
    GUIDE,
    SDK,
    torchrelay_accelerators,
    torchrelay_diagnostics,
    torchrelay_precision_plugins,
    torchrelay_strategies,
)


class BrokenError(Exception):
    """What fails is not this package."""


@pytest.fixture(autouse=True)
def fresh():
    probe._ask.cache_clear()


def test_it_gives_the_aliases_that_the_catalogue_says():
    (backend,) = [each for each in BACKENDS if each.extra == "hpu"]
    assert backend.published
    own = {spec.alias for spec in torchrelay_strategies()}
    assert own == {*backend.aliases, *backend.shared}
    assert backend.accelerators == tuple(spec.name for spec in torchrelay_accelerators())


def test_the_aliases_stand_for_the_classes():
    for spec in torchrelay_strategies():
        kind = getattr(torchrelay_hpu, spec.target.rpartition(":")[2])
        assert getattr(torchrelay.strategies, kind.__name__) is kind
        assert spec.capabilities is kind.capabilities
        assert spec.process_per_device is kind.process_per_device is True
        assert spec.accelerators == ("hpu",)


def test_fp8_is_a_precision_of_this_accelerator():
    (spec,) = torchrelay_precision_plugins()
    assert (spec.name, spec.accelerators) == ("fp8", ("hpu",))


def test_hearing_of_it_imports_neither_torch_nor_the_bridge():
    code = (
        "import sys, torchrelay_hpu.probe, torchrelay_hpu.plugin as plugin; "
        "list(plugin.torchrelay_strategies()), list(plugin.torchrelay_diagnostics()); "
        "sys.exit(bool({'torch', 'habana_frameworks'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_making_a_strategy_imports_no_bridge():
    code = (
        "import sys, torchrelay_hpu as p; p.SingleHPUStrategy(), p.HPUParallelStrategy(); "
        "sys.exit('habana_frameworks' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def hpus(monkeypatch):
    """The bridge is there, so that torch knows the device, and the probe has found two."""
    vendor.load()
    monkeypatch.setattr(probe, "_ask", lambda: Hardware(count=2))


@pytest.mark.parametrize(
    ("asked", "devices", "kind"),
    [
        ({}, 1, SingleHPUStrategy),
        ({"strategy": "hpu_single"}, 1, SingleHPUStrategy),
        ({"strategy": "single_device"}, 1, SingleHPUStrategy),
        ({"strategy": "hpu_parallel"}, 2, HPUParallelStrategy),
        ({"strategy": "ddp"}, 2, HPUParallelStrategy),
    ],
    ids=str,
)
def test_the_shipped_specs_give_the_strategies(hpus, asked, devices, kind):
    made = Trainer(**rules.QUIET, accelerator="hpu", devices=devices, **asked)
    assert type(made.strategy) is kind
    assert type(made.strategy.accelerator) is torchrelay_hpu.HPUAccelerator
    assert made.strategy.world_size == devices


def test_the_shipped_specs_train(hpus):
    made = Trainer(**rules.QUIET, accelerator="hpu", devices=1)
    made.fit(rules.Regression(), rules.data())
    assert made.global_step == rules.BATCHES


def test_several_hpus_have_to_be_asked_for_by_a_strategy(hpus):
    with rules.refused(UserError, "devices=2", 'take strategy="ddp"'):
        Trainer(**rules.QUIET, accelerator="hpu", devices=2).fit(rules.Regression(), rules.data())


def without(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_the_probe_counts(monkeypatch):
    assert probe.hpus().count == 2
    without(monkeypatch)
    assert probe.hpus().count == 0


def test_the_probe_gives_its_reason(monkeypatch):
    monkeypatch.setenv("HPU_SIMULATOR_DEVICES", "0")
    assert probe.hpus().reason == "habana_frameworks finds no HPU"
    probe._ask.cache_clear()
    monkeypatch.setattr(probe, "_ASK", "raise AssertionError('differs from run-time')")
    assert probe.hpus().reason == (
        "habana_frameworks cannot be imported: AssertionError: differs from run-time"
    )


def test_without_the_bridge_the_spec_names_the_sdk(monkeypatch):
    spec = next(iter(torchrelay_strategies()))
    for name in [each for each in sys.modules if each.startswith("habana_frameworks")]:
        monkeypatch.delitem(sys.modules, name)
    without(monkeypatch)
    (need,) = missing(spec.requires)
    assert all(word in need.install for word in ("Intel's Gaudi software", SDK, GUIDE))


# --- the doctor -----------------------------------------------------------------------------------------


def test_the_check_of_the_machine_can_be_made():
    (spec,) = torchrelay_diagnostics()
    assert spec.target == "torchrelay_hpu.vendor:examined"
    assert vendor.examined() is None


def complaint():
    """What is wrong; it ends with the SDK, its release and its guide."""
    text = vendor.examined()
    assert "\n" not in text
    assert all(word in text for word in ("Intel's Gaudi software", SDK, GUIDE))
    return text


def test_no_bridge_is_told(monkeypatch):
    without(monkeypatch)
    assert complaint().startswith("habana-torch-plugin is not installed")


@pytest.mark.parametrize(
    "error",
    [
        AssertionError("2.5 differs from run-time 2.13\nmore"),
        OSError("libSynapse.so: cannot open shared object file"),
        RuntimeError("the driver is of another release"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_bridge_that_cannot_be_imported_is_told(monkeypatch, error):
    def broken(name):
        raise error

    monkeypatch.delitem(sys.modules, "habana_frameworks.torch")
    monkeypatch.setattr(vendor, "import_module", broken)
    assert complaint().startswith(
        f"habana_frameworks cannot be imported ({str(error).partition(chr(10))[0]})"
    )


def test_another_release_is_told(monkeypatch):
    import habana_frameworks.torch as bridge

    monkeypatch.setattr(bridge, "__version__", "2.0.0+1")
    assert complaint().startswith("habana-torch-plugin 2.0.0+1 is not the release")


@pytest.mark.parametrize("older", [False, True])
def test_a_driver_that_is_not_there_is_told(monkeypatch, older):
    from habana_frameworks.torch.utils import library_loader

    monkeypatch.setenv("HPU_SIMULATOR_DEVICES", "0")
    if older:
        monkeypatch.delattr(library_loader, "is_habana_available")
    assert complaint().startswith("hl-smi finds no HPU")


def test_fp8_is_asked_of_later_releases(monkeypatch):
    from habana_frameworks.torch.hpex.experimental.transformer_engine import fp8

    monkeypatch.delattr(fp8, "is_fp8_available")
    monkeypatch.setattr(
        fp8.FP8GlobalStateManager, "is_fp8_available", classmethod(lambda kind: (False, "no"))
    )
    assert vendor.fp8_available() == (False, "no")


# --- options --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hpu_graphs": "net"}, "['net']"),
        ({"hpu_graphs": True}, "sequence"),
        ({"compile": {"backend": "inductor"}}, "hpu_backend"),
        ({"compile": None}, "compile=None"),
        ({"compile": 1}, "compile=1"),
        ({"compile": "yes"}, "compile='yes'"),
        ({"fused_adamw": "no"}, "fused_adamw='no'"),
        ({"fused_clip_norm": 0}, "fused_clip_norm=0"),
    ],
)
def test_options_of_another_kind_are_refused(options, words):
    with rules.refused(ConfigurationError, words):
        SingleHPUStrategy(**options)


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_a_submodule_that_is_not_there_is_refused(stage):
    made = rules.trainer(SingleHPUStrategy(hpu_graphs=["nets"]))
    with rules.refused(ConfigurationError, "'nets'", "'net'"):
        getattr(made, stage)(rules.Regression(), rules.data())
    assert made.global_step == 0


def test_graphs_that_cannot_be_made_leave_everything_as_it_was(monkeypatch):
    left = []

    def refuse(layer):
        raise BrokenError

    @contextmanager
    def noting(self, name):
        # Not `finally`, which a context that nobody leaves comes to as well, once it is collected.
        try:
            yield
        except BrokenError:
            left.append(name)
            raise

    module = rules.Regression()
    monkeypatch.setattr(vendor, "in_graph", refuse)
    monkeypatch.setattr("torchrelay.strategies.Strategy.stage", noting)
    with pytest.raises(BrokenError):
        rules.trainer(SingleHPUStrategy(hpu_graphs=["net"])).validate(module, rules.data())
    assert left == ["validate"]
    assert "forward" not in module.net.__dict__


def test_another_backend_is_refused():
    with rules.refused(UnsupportedError, "'gloo'", "'hccl'"):
        rules.trainer(HPUParallelStrategy(process_group_backend="gloo")).fit(
            rules.Regression(), rules.data()
        )


def test_unused_parameters_are_refused_in_lazy_mode():
    with rules.refused(UnsupportedError, "find_unused_parameters", "PT_HPU_LAZY_MODE=0"):
        rules.trainer(HPUParallelStrategy(find_unused_parameters=True)).fit(
            rules.Regression(), rules.data()
        )


def test_only_adamw_is_fused():
    with rules.refused(UnsupportedError, "SGD", "AdamW"):
        rules.trainer(SingleHPUStrategy(fused_adamw=True)).fit(rules.Regression(), rules.data())


@pytest.fixture
def given(monkeypatch):
    """What the compiler was given; steps stay what they are."""
    found = []

    def compile_(step, **arguments):
        found.append(arguments)
        return step

    monkeypatch.setattr("torch.compile", compile_)
    return found


def test_steps_are_given_to_the_compiler(given):
    with rules.mode(lazy=False):
        strategy = SingleHPUStrategy(compile={"dynamic": False})
        rules.trainer(strategy).fit(rules.Regression(), rules.data(), rules.data())
    assert given == [{"backend": "hpu_backend", "dynamic": False}] * 2


def not_released(self):
    raise BrokenError


@pytest.mark.parametrize("broken", [False, True])
def test_a_module_keeps_its_own_logging(given, monkeypatch, broken):
    module, heard = rules.Regression(), []
    mine = module.log = lambda name, value, **options: heard.append(name)
    if broken:
        monkeypatch.setattr("torchrelay.strategies.Strategy.release", not_released)
    with rules.mode(lazy=False), pytest.raises(BrokenError) if broken else nullcontext():
        rules.trainer(SingleHPUStrategy(compile=True)).fit(module, rules.data(), rules.data())
    assert given
    assert heard
    assert module.__dict__["log"] is mine
    assert "log_dict" not in module.__dict__
