from __future__ import annotations

import pytest

from torchrelay.plugin import CONTRACT_VERSION
from torchrelay.plugin.discovery import discover
from torchrelay.plugin.registry import Registry
from torchrelay.plugin.targets import load_target, probe


@pytest.fixture(scope="module")
def core() -> Registry:
    return Registry(discover([], {}))


def test_core_is_a_plugin_like_any_other(core):
    (plugin,) = core.plugins
    assert (plugin.name, plugin.distribution) == ("torchrelay", "torchrelay")
    assert plugin.contract == CONTRACT_VERSION
    assert core.failures == ()


def test_what_core_offers(core):
    assert [o.spec.name for o in core.strategies] == ["single_device"]
    assert {o.spec.name: o.spec.priority for o in core.accelerators} == {
        "cpu": 0,
        "cuda": 50,
        "mps": 40,
    }
    assert [o.spec.name for o in core.accelerators if not o.spec.indexed] == ["cpu"]
    assert {o.spec.name: o.spec.priority for o in core.environments} == {
        "torchrun": 50,
        "slurm": 40,
        "lsf": 30,
        "kubeflow": 20,
        "mpi": 10,
        "local": 0,
    }
    assert {o.spec.name for o in core.precisions} == {
        "32-true",
        "64-true",
        "16-true",
        "bf16-true",
        "16-mixed",
        "bf16-mixed",
    }
    assert [o.spec.name for o in core.checkpoint_ios] == ["torch", "async"]


def test_every_probe_runs(core):
    for offer in core.accelerators:
        found = probe(offer.spec)
        assert bool(found.count) != bool(found.reason)
        assert "failed" not in found.reason


def test_every_environment_is_there_without_torch(core):
    for offer in core.environments:
        assert load_target(offer.spec.target).name == offer.spec.name


def test_every_target_is_there(core):
    pytest.importorskip("torch")
    offers = (*core.strategies, *core.accelerators, *core.precisions, *core.checkpoint_ios)
    for offer in offers:
        assert isinstance(load_target(offer.spec.target), type)
