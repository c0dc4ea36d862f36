"""The recorded signatures, every call in `vendor.py` and the simulator agree, both ways."""

from __future__ import annotations

import inspect
from functools import reduce
from pathlib import Path

import poptorch
import pytest

from torchrelay.testing import signatures
from torchrelay_ipu import vendor

HERE = Path(__file__).parent
ROOTS = {
    "sdk": "poptorch",
    "options": "poptorch.Options",
    "model": "poptorch.PoplarExecutor",
    "optimizer": "poptorch.optim.Optimizer",
}


ENTRIES = signatures.read(HERE / "signatures.json")
USES = list(signatures.uses(Path(vendor.__file__).read_text(), ROOTS))


def simulated(name):
    """What the simulator has under a recorded name; options in groups are looked for in an instance."""
    parts = name.split(".")[1:]
    if parts[:1] == ["Options"] and len(parts) > 1:
        return reduce(getattr, parts[1:], poptorch.Options())
    if parts[-1] in ("max_grad_norm", "rng_state", "options"):
        return None
    return reduce(getattr, parts, poptorch)


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


CALLABLES = [name for name, entry in ENTRIES.items() if entry["kind"] == "callable"]


@pytest.mark.parametrize("name", CALLABLES)
def test_the_simulator_has_what_is_recorded(name):
    found = inspect.signature(simulated(name))
    parameters = [p for p in found.parameters.values() if p.name != "self"]
    expected = signatures.signature(ENTRIES[name]).parameters.values()
    assert [(p.name, p.kind, p.default) for p in parameters] == [
        (p.name, p.kind, p.default) for p in expected
    ]


def test_the_simulator_has_nothing_that_is_not_recorded():
    options = poptorch.Options()
    offered = {f"poptorch.{name}" for name in poptorch.__all__} - {
        "poptorch.OutputMode",
        "poptorch.PoplarExecutor",
        "poptorch.optim",
    }
    offered |= {f"poptorch.Options.{n}" for n in signatures.members(poptorch.Options, object)}
    for group in ("Training", "Jit"):
        kind = type(getattr(options, group))
        names = set(vars(kind)) - set(vars(poptorch.options.OptionsDict))
        offered |= {f"poptorch.Options.{group}.{n}" for n in names if not n.startswith("_")}
    executor = poptorch.PoplarExecutor
    offered |= {f"poptorch.PoplarExecutor.{n}" for n in signatures.members(executor, object)}
    optimizer = poptorch.optim.Optimizer
    offered |= {f"poptorch.optim.Optimizer.{n}" for n in signatures.members(optimizer, object)}
    offered |= {f"poptorch.optim.{name}" for name in poptorch.optim.PREFIXES}
    offered |= {f"poptorch.OutputMode.{mode.name}" for mode in poptorch.OutputMode}
    assert offered <= set(ENTRIES)


def test_a_call_that_departs_is_found():
    wrong = "sdk.ipuHardwareIsAvailable(ipus=2)\noptions.deviceIterations(1, 2)\nmodel.runAll()"
    found = list(signatures.uses(wrong, ROOTS))
    assert found[-1][0] not in ENTRIES or found[0][0] in ENTRIES
    for name, call in found:
        if name in ENTRIES:
            with pytest.raises(TypeError):
                signatures.binds(ENTRIES[name], call)
    assert {name for name, _ in found} - set(ENTRIES) == {"poptorch.PoplarExecutor.runAll"}


def test_the_simulator_says_what_it_is():
    assert "simulated" in poptorch.__version__
    assert poptorch.__doc__.startswith("A SIMULATOR")
    assert Path(poptorch.__file__).is_relative_to(HERE)


def test_the_simulator_is_not_in_the_wheel():
    project = (HERE.parent / "pyproject.toml").read_text()
    assert 'packages = ["src/torchrelay_ipu"]' in project
    assert not list((HERE.parent / "src").rglob("*simulat*"))
