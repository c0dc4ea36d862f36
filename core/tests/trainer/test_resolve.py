"""Resolution is a function of what was asked for, what is installed and what the machine has. No torch here."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from torchrelay.environments.local import LocalEnvironment
from torchrelay.errors import (
    BrokenPluginError,
    ConfigurationError,
    NotInstalledError,
    UnavailableError,
)
from torchrelay.plugin.discovery import discover
from torchrelay.plugin.registry import Registry
from torchrelay.trainer.resolve import Machine, Request, resolve

GPUS = {"cuda": 4}
CHOICES = {
    # What was asked for, the machine, and the accelerator, devices, nodes, strategy and precision that it comes to.
    "nothing, on a laptop": ({}, {}, "cpu 1 1 single_device 32-true"),
    "nothing, on a Mac": ({}, {"mps": 1}, "mps 1 1 single_device 32-true"),
    "nothing, with one GPU": ({}, {"cuda": 1}, "cuda 1 1 single_device 32-true"),
    "nothing, with GPUs": ({}, GPUS, "cuda 4 1 ddp 32-true"),
    "nothing, with GPUs, in a notebook": (
        {},
        {**GPUS, "interactive": True},
        "cuda 4 1 ddp_notebook 32-true",
    ),
    "nothing, with a plugin's device": ({}, {**GPUS, "npu": 2}, "npu 2 1 npu_parallel 32-true"),
    "the CPU beside GPUs": ({"accelerator": "cpu"}, GPUS, "cpu 1 1 single_device 32-true"),
    "a GPU": ({"accelerator": "gpu", "devices": 1}, GPUS, "cuda 1 1 single_device 32-true"),
    "a GPU, on a Mac": ({"accelerator": "gpu"}, {"mps": 1}, "mps 1 1 single_device 32-true"),
    "all GPUs": ({"accelerator": "gpu", "devices": -1}, GPUS, "cuda 4 1 ddp 32-true"),
    "two of the GPUs": ({"devices": [1, 3]}, GPUS, "cuda 2 1 ddp 32-true"),
    "processes": ({"devices": 3, "accelerator": "cpu"}, {}, "cpu 3 1 ddp 32-true"),
    "ddp": ({"strategy": "ddp"}, GPUS, "cuda 4 1 ddp 32-true"),
    "ddp, on a laptop": ({"strategy": "ddp"}, {}, "cpu 1 1 ddp 32-true"),
    "ddp, pinned": ({"strategy": "torchrelay-ddp:ddp"}, {}, "cpu 1 1 ddp 32-true"),
    "a strategy for one accelerator": (
        {"strategy": "dp"},
        {**GPUS, "npu": 2},
        "cuda 4 1 dp 32-true",
    ),
    "an alias that an accelerator redefines": (
        {"strategy": "ddp_spawn", "accelerator": "npu"},
        {"npu": 2},
        "npu 2 1 ddp_spawn 32-true",
    ),
    "a precision": ({"precision": "bf16-mixed"}, {}, "cpu 1 1 single_device bf16-mixed"),
    "an older spelling": ({"precision": 16}, {}, "cpu 1 1 single_device 16-mixed"),
    "a plugin's precision": ({"precision": "8-npu"}, {"npu": 1}, "npu 1 1 npu_parallel 8-npu"),
    "torchrun": ({}, {"cluster": "torchrun"}, "cpu 2 2 ddp 32-true"),
    "torchrun, with GPUs": ({}, {"cluster": "torchrun", **GPUS}, "cuda 2 2 ddp 32-true"),
    "torchrun, as it is": (
        {"devices": 2, "num_nodes": 2},
        {"cluster": "torchrun"},
        "cpu 2 2 ddp 32-true",
    ),
    "SLURM": ({}, {"cluster": "slurm"}, "cpu 2 2 ddp 32-true"),
}


@pytest.mark.parametrize(("asked", "has", "expected"), CHOICES.values(), ids=CHOICES)
def test_what_is_chosen(registry, machine, asked, has, expected):
    found = resolve(Request(**asked), registry, machine(**has))
    summary = [found.accelerator.name, len(found.devices), found.num_nodes]
    summary += [found.strategy.spec.alias, found.precision.spec.name]
    assert " ".join(map(str, summary)) == expected


def test_every_choice_has_its_reason(registry, machine):
    explanation = resolve(Request(strategy="ddp", precision=16), registry, machine(mps=1)).explain()
    assert explanation.splitlines() == [
        "accelerator: mps (the best that is available; no npu: no npu driver; no cuda: no cuda driver)",
        "cluster environment: local (no cluster's variables are set)",
        "num_nodes: 1 (nothing else is asked for)",
        "devices: [0] (all there are)",
        "strategy: ddp of torchrelay-ddp 1.0 (asked for)",
        "precision: 16-mixed (asked for)",
    ]
    explanation = resolve(Request(), registry, machine(cluster="torchrun")).explain()
    assert "cluster environment: torchrun (recognised by its variables)" in explanation
    assert "devices: 2 (what torchrun started on this node)" in explanation
    assert "strategy: ddp of torchrelay-ddp 1.0 (2 nodes)" in explanation


def test_more_than_one_device_without_the_package(site, machine):
    core_alone = Registry(discover(site.search, {}))
    with pytest.raises(
        NotInstalledError, match=r'strategy \'ddp\' .* pip install "torchrelay\[ddp\]"$'
    ):
        resolve(Request(devices=2), core_alone, machine())


def strategy(**given):
    """What resolution needs of a user's own strategy."""
    return type("Own", (), {"given": given, "process_per_device": True})()


def test_a_strategy_instance_and_what_it_carries_are_kept(registry, machine):
    accelerator = SimpleNamespace(name="mine", count=lambda: 2)
    precision, environment = SimpleNamespace(name="half"), LocalEnvironment({})
    own = strategy(accelerator=accelerator, precision=precision, cluster_environment=environment)
    found = resolve(Request(strategy=own, devices=1), registry, machine())
    assert found.strategy is own
    assert found.accelerator.instance is accelerator
    assert found.precision is precision
    assert found.cluster_environment is environment
    assert "strategy: Own (the instance given)" in found.explain()
    assert resolve(Request(accelerator=accelerator, devices=2), registry, machine()).devices == (
        0,
        1,
    )


def test_the_devices_of_a_strategy_instance_are_kept(registry, machine):
    own = strategy(devices=[SimpleNamespace(type="cpu")] * 3)
    found = resolve(Request(strategy=own), registry, machine(cuda=4))
    assert found.devices == (0, 1, 2)
    assert found.accelerator.name == "cpu"


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("accelerator", "cpu"),
        ("devices", 2),
        ("precision", 16),
        ("cluster_environment", LocalEnvironment({})),
        ("checkpoint_io", "torch"),
    ],
)
def test_a_component_given_twice_is_refused_by_name(registry, machine, name, asked):
    own = strategy(**{name: SimpleNamespace()})
    shown = repr(asked) if isinstance(asked, (str, int)) else "LocalEnvironment"
    match = f"^{name} is given twice: {shown} to the Trainer, and SimpleNamespace inside Own; leave one of them out$"
    with pytest.raises(ConfigurationError, match=match):
        resolve(Request(strategy=own, **{name: asked}), registry, machine())


def test_an_accelerator_without_a_device_is_refused(registry, machine):
    none = SimpleNamespace(name="mine", count=lambda: 0)
    with pytest.raises(UnavailableError, match="SimpleNamespace finds no device here"):
        resolve(Request(accelerator=none), registry, machine())


def test_a_probe_that_fails_breaks_nobody_else(registry, site):
    site.write("m.py", "def probe(): raise OSError('no answer')")
    found = resolve(Request(devices=1), registry, Machine(environ={}))
    assert found.accelerator.name != "npu"
    assert "no npu: its probe m:probe failed: OSError: no answer" in found.explain()


def test_an_environment_that_fails_is_named_and_how_to_leave_it_out(site, machine):
    code = """
        @hookimpl
        def torchrelay_cluster_environments():
            yield EnvironmentSpec(name="acme", target="acme_broken:E", description="Broken.", priority=90)
    """
    site.plugin("acme-cluster", code)
    match = "cluster environment 'acme' of acme-cluster 1.0 fails: .*TORCHRELAY_DISABLE_PLUGINS=acme-cluster"
    with pytest.raises(BrokenPluginError, match=match):
        resolve(Request(), Registry(discover(site.search, {})), machine())


def test_it_needs_no_torch():
    import subprocess

    code = "import sys, torchrelay.trainer.resolve; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("False\n", "")
