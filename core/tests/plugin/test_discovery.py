from __future__ import annotations

import sys

import pytest

from torchrelay.plugin.discovery import DisabledPlugin, Discovery, discover

GOOD = """
@hookimpl
def torchrelay_strategies():
    return [StrategySpec(alias="good", target="good:Good", description="Good.")]
"""


def run(site, environ=None) -> Discovery:
    return discover(site.search, environ or {})


def theirs(discovery: Discovery) -> list[str]:
    return [plugin.distribution for plugin in discovery.plugins if plugin.name != "torchrelay"]


def aliases(discovery: Discovery) -> list[str]:
    return [o.spec.name for o in discovery.offers if o.owner.distribution != "torchrelay"]


def test_core_alone_offers_its_own_and_has_no_failure(site):
    found = run(site)
    assert [plugin.name for plugin in found.plugins] == ["torchrelay"]
    assert found.failures == ()
    assert "single_device" in [offer.spec.name for offer in found.offers]


def test_a_plugin_is_loaded_and_described(site):
    module = site.plugin("acme-relay-npu", GOOD, version="2.5")
    found = run(site)
    plugin = found.plugins[-1]
    assert (plugin.name, plugin.distribution, plugin.version) == ("npu", "acme-relay-npu", "2.5")
    assert (plugin.module, plugin.contract) == (module, 1)
    assert 0 < plugin.import_seconds < 60
    assert aliases(found) == ["good"]
    assert found.offers[-1].owner == plugin.owner
    assert found.failures == ()


def test_import_seconds_are_those_of_the_module(site):
    site.plugin("slow", f"import time\ntime.sleep(0.2)\n{GOOD}")
    assert run(site).plugins[-1].import_seconds >= 0.2


FAILURES = {
    "import": (
        "import no_such_sdk",
        "import",
        "ModuleNotFoundError: No module named 'no_such_sdk'",
    ),
    "syntax": ("def broken(:", "import", "SyntaxError"),
    "exit": ("raise SystemExit(3)", "import", "SystemExit: 3"),
    "signature": (
        "@hookimpl\ndef torchrelay_strategies(trainer): return []",
        "register",
        "{'trainer'}",
    ),
    "unknown": (
        "@hookimpl\ndef torchrelay_strategys(): return []",
        "register",
        "unknown hook torchrelay_strategys, did you mean 'torchrelay_strategies'?",
    ),
    "none": ("x = 1", "register", "it has no hook"),
    "wrapper": (
        "@hookimpl(wrapper=True)\ndef torchrelay_strategies():\n    return (yield)",
        "register",
        "torchrelay_strategies is a hook wrapper",
    ),
    "raises": (
        "@hookimpl\ndef torchrelay_strategies(): raise ValueError('two\\nlines')",
        "hook",
        "torchrelay_strategies(): ValueError: two lines",
    ),
    "lazy": (
        "@hookimpl\ndef torchrelay_strategies():\n    yield from ()\n    raise KeyError('late')",
        "hook",
        "KeyError: 'late'",
    ),
    "nothing": (
        "@hookimpl\ndef torchrelay_strategies(): pass",
        "hook",
        "TypeError: 'NoneType' object is not iterable",
    ),
    "not-a-spec": (
        "@hookimpl\ndef torchrelay_strategies(): return ['ddp']",
        "spec",
        "an item of type str, not StrategySpec",
    ),
    "other-spec": (
        "@hookimpl\ndef torchrelay_accelerators(): return "
        "[CheckpointIOSpec(name='a', target='a:A', description='A.')]",
        "spec",
        "an item of type CheckpointIOSpec, not AcceleratorSpec",
    ),
    "bad-alias": (
        "@hookimpl\ndef torchrelay_strategies(): return "
        "[StrategySpec(alias='My-Alias', target='a:A', description='A.')]",
        "hook",
        "SpecError: alias 'My-Alias'",
    ),
    "twice": (
        "@hookimpl\ndef torchrelay_strategies(): return 2 * "
        "[StrategySpec(alias='a', target='a:A', description='A.', accelerators=('cpu', 'npu'))]",
        "spec",
        "'a' is offered twice for accelerator cpu, npu",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_is_recorded_and_takes_nothing_else_with_it(site, case):
    code, stage, cause = FAILURES[case]
    site.plugin("acme-bad", code, version="0.3")
    site.plugin("zeta", GOOD)
    found = run(site)
    (failure,) = found.failures
    assert (failure.name, failure.distribution, failure.version) == ("bad", "acme-bad", "0.3")
    assert failure.stage == stage
    assert cause in failure.cause
    assert "\n" not in str(failure)
    assert "good" in aliases(found)
    assert theirs(found)[-1] == "zeta"


def test_the_cause_says_where(site):
    site.plugin("acme", "\n\nimport no_such_sdk")
    (failure,) = run(site).failures
    line = (site.path / "acme_plugin.py").read_text().splitlines().index("import no_such_sdk") + 1
    assert failure.cause.endswith(f"({site.path / 'acme_plugin.py'}:{line})")


def test_of_a_plugin_that_fails_in_part_the_rest_is_heard(site):
    site.plugin(
        "acme",
        GOOD + "@hookimpl\ndef torchrelay_accelerators(): raise OSError('no driver')\n",
    )
    found = run(site)
    assert aliases(found) == ["good"]
    assert [failure.stage for failure in found.failures] == ["hook"]
    assert theirs(found) == ["acme"]


def test_of_a_plugin_that_is_refused_no_hook_is_kept(site):
    site.plugin("acme", f"{GOOD}\n@hookimpl\ndef torchrelay_zzz(): pass\n")
    found = run(site)
    assert aliases(found) == []
    assert theirs(found) == []


def test_a_hook_of_a_newer_core_may_be_marked_optional(site):
    site.plugin("acme", f"{GOOD}\n@hookimpl(optionalhook=True)\ndef torchrelay_zzz(): pass\n")
    found = run(site)
    assert found.failures == ()
    assert aliases(found) == ["good"]


@pytest.mark.parametrize(
    ("contract", "cause", "command"),
    [
        ("", "does not state for which version", "pip install --upgrade acme;"),
        ("version-1", "it was written (version-1)", "pip install --upgrade acme;"),
        ("v0", "written for contract v0", "pip install --upgrade acme"),
        ("v2", "written for contract v2", "pip install --upgrade torchrelay"),
    ],
)
def test_a_plugin_of_another_contract_is_refused_unimported(site, contract, cause, command):
    module = site.plugin("acme", "raise AssertionError('imported')", contract=contract)
    (failure,) = run(site).failures
    assert failure.stage == "contract"
    assert cause in failure.cause
    assert command in failure.cause
    assert module not in sys.modules


def test_the_newest_contract_that_both_know_is_taken(site):
    module = site.plugin("acme", GOOD, contract="")
    entries = site.path / "acme-1.0.dist-info" / "entry_points.txt"
    text = entries.read_text()
    entries.write_text(f"{text}[torchrelay.contract]\nv9 = {module}\nv1 = {module}\n")
    assert run(site).plugins[-1].contract == 1


@pytest.mark.parametrize("value", ["npu", "NPU", "acme-relay-npu", "Acme_Relay.NPU", "x, npu", "*"])
def test_a_plugin_is_switched_off_by_its_name_or_its_distributions(site, value):
    module = site.plugin("acme-relay-npu", "raise AssertionError('imported')")
    found = run(site, {"TORCHRELAY_DISABLE_PLUGINS": value})
    assert found.failures == ()
    assert found.disabled == (
        DisabledPlugin(name="npu", distribution="acme-relay-npu", version="1.0"),
    )
    assert module not in sys.modules


@pytest.mark.parametrize("value", ["", "torchrelay", "*", " , "])
def test_core_is_never_switched_off(site, value):
    found = run(site, {"TORCHRELAY_DISABLE_PLUGINS": value})
    assert [plugin.name for plugin in found.plugins] == ["torchrelay"]
    assert found.disabled == ()


def test_an_empty_variable_switches_nothing_off(site):
    site.plugin("acme", GOOD)
    assert theirs(run(site, {"TORCHRELAY_DISABLE_PLUGINS": ""})) == ["acme"]


def test_entry_points_of_one_name_in_two_distributions_live_together(site):
    site.plugin("first-x", GOOD)
    site.plugin("second-x", GOOD.replace("good", "better"))
    found = run(site)
    assert aliases(found) == ["good", "better"]
    assert found.failures == ()


def test_one_module_declared_by_two_distributions_is_loaded_once(site):
    site.plugin("first", GOOD)
    site.distribution(
        "second", entries="[torchrelay]\ns = first_plugin\n[torchrelay.contract]\nv1 = first_plugin"
    )
    found = run(site)
    assert theirs(found) == ["first"]
    assert [(f.distribution, f.stage) for f in found.failures] == [("second", "register")]


def test_an_entry_point_may_name_an_object(site):
    site.write(
        "acme.py",
        """
        from torchrelay.plugin import StrategySpec, hookimpl

        class Plugin:
            @hookimpl
            def torchrelay_strategies(self):
                return [StrategySpec(alias="good", target="good:Good", description="Good.")]

        plugin = Plugin()
        """,
    )
    site.distribution(
        "acme", entries="[torchrelay]\na = acme:plugin\n[torchrelay.contract]\nv1 = acme:plugin"
    )
    found = run(site)
    assert found.failures == ()
    assert aliases(found) == ["good"]


def test_a_bad_entry_point_is_a_failure_like_any_other(site):
    bad = "no-module"
    entries = f"[torchrelay]\na = {bad}\n[torchrelay.contract]\nv1 = {bad}"
    site.distribution("acme", entries=entries)
    site.plugin("zeta", GOOD)
    found = run(site)
    (failure,) = found.failures
    assert failure.distribution == "acme"
    assert failure.stage in ("metadata", "import")  # older importlib-metadata validate sooner
    assert bad in failure.cause
    assert aliases(found) == ["good"]
