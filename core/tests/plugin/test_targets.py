from __future__ import annotations

import importlib
import sys

import pytest

from torchrelay.errors import BrokenPluginError, UnavailableError
from torchrelay.plugin import AcceleratorSpec, Hardware, Requirement
from torchrelay.plugin.targets import load_target, missing, needs, probe


def need(module: str) -> Requirement:
    return Requirement(module=module, install=f"pip install {module}")


def accelerator(probe: str, *requires: Requirement) -> AcceleratorSpec:
    return AcceleratorSpec(
        name="npu", target="npu:NPU", probe=probe, description="An NPU.", requires=requires
    )


def test_a_target_is_imported(site):
    site.write("acme/strategy.py", "class AcmeStrategy: pass")
    assert load_target("acme.strategy:AcmeStrategy").__module__ == "acme.strategy"


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("nowhere.strategy:X", "ModuleNotFoundError: No module named 'nowhere'"),
        ("acme.strategy:Absent", "acme.strategy has no 'Absent'"),
        ("acme.broken:X", "NameError: name 'undefined' is not defined"),
    ],
)
def test_a_target_that_cannot_be_loaded_names_the_cause_and_its_package(site, target, cause):
    site.write("acme/strategy.py", "")
    site.write("acme/broken.py", "undefined")
    with pytest.raises(BrokenPluginError) as caught:
        load_target(target)
    assert cause in str(caught.value)
    assert str(caught.value).endswith(target.partition(".")[0])
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_the_place_of_the_fault_is_named(site):
    file = site.write("acme/broken.py", "x = 1\nundefined")
    with pytest.raises(BrokenPluginError, match=f"{file}:2"):
        load_target("acme.broken:X")


def test_what_a_module_raises_on_purpose_passes_through(site):
    site.write(
        "acme/vendor.py",
        "from torchrelay.errors import UnavailableError\nraise UnavailableError('no SDK')",
    )
    with pytest.raises(UnavailableError, match=r"^no SDK$"):
        load_target("acme.vendor:X")


def test_missing_tells_what_is_there_from_what_is_not():
    absent = need("no_such_module")
    assert missing([need("json"), absent, need("json.decoder")]) == (absent,)
    assert missing([]) == ()


def test_missing_imports_neither_a_module_nor_its_parent(site):
    site.write("heavy/__init__.py", "raise RuntimeError('the SDK was imported')")
    assert missing([need("heavy"), need("heavy.torch.core")]) == ()
    assert "heavy" not in sys.modules


def test_missing_looks_inside_a_package_that_is_imported_already(site):
    site.write("light/core.py", "raise RuntimeError('imported')")
    site.write("flat.py", "")
    importlib.import_module("light")
    importlib.import_module("flat")
    gone = (need("light.absent"), need("flat.absent"))
    assert missing([need("light.core"), *gone]) == gone


def test_missing_respects_a_module_that_was_blocked(monkeypatch):
    monkeypatch.setitem(sys.modules, "blocked", None)
    assert missing([need("blocked")]) == (need("blocked"),)


def test_needs_says_what_to_do():
    assert needs([need("a"), need("b.c")]) == ("needs a: pip install a; needs b.c: pip install b.c")
    assert needs([]) == ""


def test_a_probe_is_run(site):
    site.write(
        "npu.py",
        "from torchrelay.plugin import Hardware\ndef probe(): return Hardware(count=3)",
    )
    assert probe(accelerator("npu:probe")) == Hardware(count=3)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (accelerator("npu:raises"), "its probe npu:raises failed: OSError: no driver"),
        (accelerator("npu:wrong"), "its probe npu:wrong returned 4"),
        (accelerator("absent:probe"), "No module named 'absent'"),
        (accelerator("npu:raises", need("npu_sdk")), "needs npu_sdk: pip install npu_sdk"),
    ],
)
def test_a_probe_that_cannot_be_run_finds_nothing_and_says_why(site, spec, reason):
    site.write("npu.py", "def raises(): raise OSError('no driver')\ndef wrong(): return 4")
    found = probe(spec)
    assert found.count == 0
    assert reason in found.reason
