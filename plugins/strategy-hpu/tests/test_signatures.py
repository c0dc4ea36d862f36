"""The recorded signatures, every call in `vendor.py` and the simulator agree, both ways."""

from __future__ import annotations

import inspect
import types
from functools import reduce
from importlib import import_module
from pathlib import Path

import habana_frameworks
import habana_frameworks.torch as bridge
import pytest

from torchrelay.testing import signatures
from torchrelay_hpu import vendor

HERE = Path(__file__).parent
TOP = "habana_frameworks.torch"
ROOTS = {
    "bridge": TOP,
    "core": f"{TOP}.core",
    "hpu": f"{TOP}.hpu",
    "hccl": f"{TOP}.distributed.hccl",
    "internal": f"{TOP}.utils.internal",
    "loader": f"{TOP}.utils.library_loader",
    "optimizers": f"{TOP}.hpex.optimizers",
    "normalization": f"{TOP}.hpex.normalization",
    "clipper": f"{TOP}.hpex.normalization.FusedClipNorm",
    "engine": f"{TOP}.hpex.experimental.transformer_engine",
    "fp8": f"{TOP}.hpex.experimental.transformer_engine.fp8",
}

ENTRIES = signatures.read(HERE / "signatures.json")
USES = list(signatures.uses(Path(vendor.__file__).read_text(), ROOTS))
TORCH_ASKS = ("is_initialized", "get_amp_supported_dtype", "Stream", "Event")
"""What torch asks of any device's module."""

INNER = {"installed", "is_lazy", "get_device_name", "mark_step", "contextmanager", "dataclass"}
"""What modules of the simulator take from each other or from the library."""


def simulated(name):
    """What the simulator has under a recorded name: in the longest part of it that is a module."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        try:
            found = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        return reduce(getattr, parts[end:], found)
    raise AssertionError(name)


@pytest.mark.parametrize(
    ("name", "call"), USES, ids=[f"{name}, {at}" for at, (name, _) in enumerate(USES)]
)
def test_every_use_in_vendor_is_recorded_and_fits(name, call):
    entry = ENTRIES[name]
    if call is None:
        return
    assert entry["kind"] == "callable"
    signatures.binds(entry, call)


def test_every_record_says_whether_vendor_uses_it():
    assert {name for name, _ in USES} == {name for name, e in ENTRIES.items() if e["used"]}


def test_every_module_that_vendor_asks_for_is_watched():
    source = Path(vendor.__file__).read_text()
    asked = {part.partition('"')[0] for part in source.split('module("')[1:]}
    assert {f"{TOP}.{each}" for each in asked} <= set(ROOTS.values())


CALLABLES = [name for name, entry in ENTRIES.items() if entry["kind"] == "callable"]


def _default(value):
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize("name", CALLABLES)
def test_the_simulator_has_what_is_recorded(name):
    found = inspect.signature(simulated(name)).parameters.values()
    expected = signatures.signature(ENTRIES[name]).parameters.values()
    assert [(p.name, p.kind, p.default) for p in found if p.name != "self"] == [
        (p.name, p.kind, _default(p.default)) for p in expected
    ]


def test_the_simulator_has_nothing_that_is_not_recorded():
    offered = set()
    for name in set(ROOTS.values()) - {f"{TOP}.hpex.normalization.FusedClipNorm", TOP}:
        module = import_module(name)
        for own, value in vars(module).items():
            if own.startswith("_") or own in INNER - {"is_lazy", "mark_step", "get_device_name"}:
                continue
            defined = getattr(value, "__module__", None)
            if isinstance(value, (types.FunctionType, type)) and defined == name:
                offered.add(f"{name}.{own}")
    offered |= {f"{TOP}.hpu.{name}" for name in bridge.hpu.__all__}
    # And a class whose method is recorded.
    torch_s = {f"{TOP}.hpu.{name}" for name in TORCH_ASKS}
    holders = {name.rpartition(".")[0] for name in ENTRIES}
    assert offered - torch_s - holders <= set(ENTRIES)


def test_a_call_that_departs_is_found():
    wrong = "core.mark_step(1, 2, 3)\nhccl.initialize_distributed_hpu(size=2)\nhpu.run_all()"
    found = list(signatures.uses(wrong, ROOTS))
    for name, call in found:
        if name in ENTRIES:
            with pytest.raises(TypeError):
                signatures.binds(ENTRIES[name], call)
    assert {name for name, _ in found} - set(ENTRIES) == {f"{TOP}.hpu.run_all"}


def test_the_simulator_says_what_it_is():
    assert "simulated" in bridge.__version__
    assert habana_frameworks.__doc__.startswith("A SIMULATOR")
    assert Path(bridge.__file__).is_relative_to(HERE)


def test_the_simulator_is_not_in_the_wheel():
    project = (HERE.parent / "pyproject.toml").read_text()
    assert 'packages = ["src/torchrelay_hpu"]' in project
    assert not list((HERE.parent / "src").rglob("*simulat*"))
