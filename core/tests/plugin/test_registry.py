from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import replace

import pytest

from torchrelay.errors import (
    AmbiguousNameError,
    BrokenPluginError,
    ConfigurationError,
    NotInstalledError,
    UnavailableError,
    UnknownNameError,
)
from torchrelay.plugin import catalogue
from torchrelay.plugin import registry as registry_module
from torchrelay.plugin.discovery import discover
from torchrelay.plugin.registry import Owner, Registry, get_registry, refresh
from torchrelay.plugin.scan import core_version, version_of


def strategies(*calls: str) -> str:
    specs = ", ".join(
        f"StrategySpec(description='One.', {call})"
        if "target=" in call
        else f"StrategySpec(description='One.', target='m:C', {call})"
        for call in calls
    )
    return f"@hookimpl\ndef torchrelay_strategies(): return [{specs}]\n"


def make(site, environ=None) -> Registry:
    return Registry(discover(site.search, environ or {}))


@pytest.fixture
def unpublished(monkeypatch):
    """Backends that are known and have no package yet."""
    known = [replace(each, published=each.extra == "ddp") for each in catalogue.BACKENDS]
    monkeypatch.setattr(catalogue, "BACKENDS", tuple(known))


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    return text


class TestStrategy:
    def test_an_alias_is_found_with_its_owner(self, site):
        site.plugin("acme-npu", strategies("alias='npu'"), version="2.0")
        offer = make(site).strategy("npu", "cpu")
        assert offer.spec.alias == "npu"
        assert offer.owner == Owner("acme-npu", "2.0")

    def test_core_answers_for_its_own(self, site):
        assert make(site).strategy("single_device", "mps").owner.distribution == "torchrelay"

    @pytest.mark.parametrize(
        ("accelerator", "owner"), [("tpu", "xla"), ("cpu", "plain"), ("cuda", "plain")]
    )
    def test_a_claim_for_the_accelerator_wins_over_one_for_every(self, site, accelerator, owner):
        site.plugin("plain", strategies("alias='x'"))
        site.plugin("xla", strategies("alias='x', accelerators=('tpu',)"))
        assert make(site).strategy("x", accelerator).owner.distribution == owner

    def test_two_owners_of_one_claim_are_both_named(self, site):
        site.plugin("acme-relay", strategies("alias='x', accelerators=('cpu', 'npu')"))
        site.plugin("other", strategies("alias='x', accelerators=('cpu',)"), version="3")
        made = make(site)
        with pytest.raises(AmbiguousNameError) as caught:
            made.strategy("x", "cpu")
        text = one_line(caught.value)
        assert "acme-relay 1.0 and by other 3" in text
        assert "'acme-relay:x' or 'other:x'" in text
        assert text.endswith("TORCHRELAY_DISABLE_PLUGINS=other")
        assert made.strategy("x", "npu").owner.distribution == "acme-relay"

    def test_the_advice_of_the_conflict_works(self, site):
        site.plugin("acme-relay", strategies("alias='x'"))
        site.plugin("other", strategies("alias='x'"))
        for pin in ("other:x", "OTHER:x"):
            assert make(site).strategy(pin, "cpu").owner.distribution == "other"
        assert make(site).strategy("Acme_Relay:x", "cpu").owner.distribution == "acme-relay"
        environ = {"TORCHRELAY_DISABLE_PLUGINS": "other"}
        assert make(site, environ).strategy("x", "cpu").owner.distribution == "acme-relay"

    def test_a_conflict_with_core_is_not_solved_by_switching_core_off(self, site):
        site.plugin("acme", strategies("alias='single_device'"))
        with pytest.raises(AmbiguousNameError, match=r"TORCHRELAY_DISABLE_PLUGINS=acme$"):
            make(site).strategy("single_device", "cpu")
        pinned = make(site).strategy("torchrelay:single_device", "cpu")
        assert pinned.owner.distribution == "torchrelay"

    def test_an_unknown_alias_is_answered_with_everything_that_helps(self, site):
        site.plugin("acme", strategies("alias='acme_fast'"))
        site.plugin("broken", "import no_such_sdk")
        with pytest.raises(UnknownNameError) as caught:
            make(site).strategy("acme-fats", "cpu")
        text = one_line(caught.value)
        assert text.startswith("no strategy is called 'acme-fats', did you mean 'acme_fast'?")
        assert "available: single_device, acme_fast" in text
        assert 'pip install "torchrelay[NAME]", where NAME is one of ddp, ' in text
        assert "installed, but broken: broken 1.0: " in text
        assert "No module named 'no_such_sdk'" in text

    def test_an_alias_that_could_be_installed_is_suggested_too(self, site):
        with pytest.raises(UnknownNameError, match=r"did you mean 'ddp_spawn'"):
            make(site).strategy("ddp_spwan", "cpu")

    def test_a_known_alias_that_is_not_installed_ends_in_the_command(self, site):
        for alias in ("ddp", "ddp_spawn", "torchrelay-ddp:ddp"):
            with pytest.raises(NotInstalledError) as caught:
                make(site).strategy(alias, "cpu")
            assert one_line(caught.value).endswith('pip install "torchrelay[ddp]"')

    @pytest.mark.parametrize(
        ("alias", "accelerator"),
        [("bagua", "cuda"), ("hpu_parallel", "hpu"), ("ddp", "hpu")],
    )
    @pytest.mark.usefixtures("unpublished")
    def test_nobody_is_told_to_install_what_does_not_exist(self, site, alias, accelerator):
        with pytest.raises(NotInstalledError) as caught:
            make(site).strategy(alias, accelerator)
        assert "torchrelay has no package yet" in one_line(caught.value)
        assert "pip install" not in str(caught.value)

    def test_an_installed_backend_without_the_alias_is_to_be_upgraded(self, site):
        site.plugin("torchrelay-ddp", strategies("alias='ddp'"), version="0.0.1")
        with pytest.raises(NotInstalledError) as caught:
            make(site).strategy("ddp_fork", "cpu")
        text = one_line(caught.value)
        assert "torchrelay-ddp 0.0.1, which is installed" in text
        assert text.endswith("pip install --upgrade torchrelay-ddp")

    @pytest.mark.parametrize("alias", ["ddp_cpu", "fsdp", "fsdp_native", "xla"])
    def test_a_name_of_the_past_says_what_to_use(self, site, alias):
        with pytest.raises(
            UnknownNameError, match=f"^strategy '{alias}' is not a name of"
        ) as caught:
            make(site).strategy(alias, "cpu")
        assert "available:" not in one_line(caught.value)

    def test_a_plugin_may_bring_a_retired_name_to_life(self, site):
        site.plugin("acme-fsdp", strategies("alias='fsdp'"))
        assert make(site).strategy("fsdp", "cpu").owner.distribution == "acme-fsdp"

    @pytest.mark.parametrize(
        ("distribution", "alias"),
        [("torchrelay-ddp", "ddp_spawn"), ("acme-npu", "npu"), ("acme-npu", "acme-npu:any")],
    )
    def test_a_broken_plugin_is_named_with_its_cause(self, site, distribution, alias):
        site.plugin(distribution, "import no_such_sdk", version="4.2")
        with pytest.raises(BrokenPluginError) as caught:
            make(site).strategy(alias, "cpu")
        text = one_line(caught.value)
        assert f"{distribution} 4.2" in text
        assert "No module named 'no_such_sdk'" in text

    def test_a_plugin_of_the_future_is_named_with_the_command(self, site):
        site.plugin("torchrelay-ddp", "", contract="v7")
        with pytest.raises(BrokenPluginError, match=r"pip install --upgrade torchrelay"):
            make(site).strategy("ddp", "cpu")

    @pytest.mark.parametrize("alias", ["ddp", "torchrelay-ddp:ddp"])
    def test_a_disabled_plugin_is_said_to_be(self, site, alias):
        site.plugin("torchrelay-ddp", strategies("alias='ddp'"))
        with pytest.raises(ConfigurationError, match=r"TORCHRELAY_DISABLE_PLUGINS switches it off"):
            make(site, {"TORCHRELAY_DISABLE_PLUGINS": "*"}).strategy(alias, "cpu")

    def test_an_unknown_name_may_be_that_of_a_disabled_plugin(self, site):
        site.plugin("torchrelay-ddp", strategies("alias='ddp'"))
        with pytest.raises(UnknownNameError) as caught:
            make(site, {"TORCHRELAY_DISABLE_PLUGINS": "*"}).strategy("acme_npu", "cpu")
        text = one_line(caught.value)
        assert (
            "switched off by the environment variable TORCHRELAY_DISABLE_PLUGINS: torchrelay-ddp"
            in text
        )
        assert "torchrelay[ddp]" not in text

    def test_a_pin_to_nobody_lists_who_can_be_pinned(self, site):
        site.plugin("acme", strategies("alias='x'"))
        with pytest.raises(UnknownNameError, match=r"can be pinned: torchrelay, acme"):
            make(site).strategy("acne:x", "cpu")

    def test_the_wrong_accelerator_is_answered_with_the_right_ones_and_the_reason(self, site):
        call = "alias='x', accelerators=('npu', 'cuda'), refusals={'cpu': 'it needs peer copies'}"
        site.plugin("acme", strategies(call))
        with pytest.raises(ConfigurationError) as caught:
            make(site).strategy("x", "cpu")
        text = one_line(caught.value)
        assert "not for accelerator 'cpu', only for npu, cuda" in text
        assert "it needs peer copies" in text

    def test_a_refusal_limits_a_claim_for_every_accelerator(self, site):
        site.plugin("acme", strategies("alias='x', refusals={'cpu': 'too slow'}"))
        with pytest.raises(ConfigurationError, match=r"but for every other; too slow"):
            make(site).strategy("x", "cpu")
        assert make(site).strategy("x", "cuda").spec.alias == "x"

    @pytest.mark.usefixtures("unpublished")
    def test_the_wrong_accelerator_knows_whose_it_would_be(self, site):
        site.plugin("torchrelay-ddp", strategies("alias='ddp', accelerators=('cpu',)"))
        with pytest.raises(ConfigurationError, match=r"Habana.*no package for it yet"):
            make(site).strategy("ddp", "hpu")

    def test_a_missing_sdk_says_how_to_get_it(self, site):
        requires = "requires=(Requirement(module='npu_sdk.torch', install='run npu-install'),)"
        site.plugin("acme", strategies(f"alias='x', {requires}"))
        with pytest.raises(UnavailableError) as caught:
            make(site).strategy("x", "cpu")
        text = one_line(caught.value)
        assert "acme 1.0 needs the module npu_sdk.torch" in text
        assert text.endswith("run npu-install")
        site.write("npu_sdk/torch.py", "")
        assert make(site).strategy("x", "cpu").spec.alias == "x"


class TestOthers:
    ACCELERATOR = """
    @hookimpl
    def torchrelay_accelerators():
        return [AcceleratorSpec(name="npu", target="m:C", probe="m:p", description="An NPU.",
                                precisions=("32-true", "bf16-mixed"))]
    """

    def test_accelerators(self, site):
        site.plugin("acme", self.ACCELERATOR)
        assert make(site).accelerator("npu").owner.distribution == "acme"
        assert make(site).accelerator("cuda").spec.priority == 50

    def test_an_unknown_accelerator(self, site):
        with pytest.raises(
            UnknownNameError, match=r"did you mean 'cuda'.*available: auto, gpu, cpu, cuda, mps$"
        ):
            make(site).accelerator("cudda")

    @pytest.mark.usefixtures("unpublished")
    def test_a_known_accelerator_without_a_package(self, site):
        with pytest.raises(NotInstalledError, match=r"has no package yet \(Habana's Gaudi\)"):
            make(site).accelerator("hpu")

    def test_an_accelerator_of_two_owners(self, site):
        site.plugin("one", self.ACCELERATOR)
        site.plugin("two", self.ACCELERATOR)
        with pytest.raises(AmbiguousNameError, match=r"'one:npu' or 'two:npu'"):
            make(site).accelerator("npu")
        assert make(site).accelerator("two:npu").owner.distribution == "two"

    @pytest.mark.parametrize(
        ("asked", "name"),
        [
            ("32-true", "32-true"),
            (32, "32-true"),
            ("32", "32-true"),
            (64, "64-true"),
            (16, "16-mixed"),
            ("bf16", "bf16-mixed"),
            ("bf16-true", "bf16-true"),
        ],
        ids=repr,
    )
    def test_precisions_and_their_older_spellings(self, site, asked, name):
        offer = make(site).precision(asked, "cpu")
        assert offer.spec.name == name
        assert offer.spec.presets == {"name": name}

    def test_a_precision_that_the_hardware_lacks(self, site):
        site.plugin("acme", self.ACCELERATOR)
        made = make(site)
        with pytest.raises(ConfigurationError) as caught:
            made.precision("64-true", "npu")
        assert one_line(caught.value) == (
            "accelerator 'npu' has no precision '64-true'; it has 32-true, bf16-mixed"
        )
        with pytest.raises(ConfigurationError, match=r"'mps' has no precision '64-true'"):
            made.precision(64, "mps")
        assert made.precision("bf16-mixed", "npu").spec.name == "bf16-mixed"

    def test_a_precision_for_one_accelerator(self, site):
        code = """
        @hookimpl
        def torchrelay_precision_plugins():
            return [PrecisionSpec(name=name, target="m:C", description="One.", accelerators=("npu",))
                    for name in ("fp8", "16-mixed")]
        """
        site.plugin("acme", self.ACCELERATOR)
        site.plugin("other", code)
        made = make(site)
        assert made.precision("16-mixed", "npu").owner.distribution == "other"
        assert made.precision("16-mixed", "cpu").owner.distribution == "torchrelay"
        assert made.precision("fp8", "npu").owner.distribution == "other"
        with pytest.raises(
            ConfigurationError, match=r"'cpu' has no precision 'fp8'; it has 32-true"
        ):
            made.precision("fp8", "cpu")

    def test_an_unknown_precision(self, site):
        with pytest.raises(UnknownNameError, match=r"did you mean 'bf16-mixed'"):
            make(site).precision("bf16-mix", "cpu")

    def test_checkpoint_ios(self, site):
        assert make(site).checkpoint_io("torch").spec.target.endswith(":TorchCheckpointIO")
        with pytest.raises(UnknownNameError, match=r"no checkpoint IO is called 'zarr'"):
            make(site).checkpoint_io("zarr")

    def test_environments_come_by_priority(self, site):
        code = """
        @hookimpl
        def torchrelay_cluster_environments():
            return [EnvironmentSpec(name="flux", target="m:C", description="Flux.", priority=35)]
        """
        site.plugin("acme", code)
        names = [offer.spec.name for offer in make(site).environments]
        assert names == ["torchrun", "slurm", "flux", "lsf", "kubeflow", "mpi", "local"]

    def test_diagnostics(self, site):
        code = """
        @hookimpl
        def torchrelay_diagnostics():
            return [DiagnosticSpec(name="driver", target="m:check", description="The driver.")]
        """
        site.plugin("acme", code)
        assert [offer.spec.name for offer in make(site).diagnostics] == ["driver"]


class TestClasses:
    def test_a_class_is_found_by_its_name(self, site):
        targets = ("alias='a', target='acme.s:Fast'", "alias='b', target='acme.s:Fast'")
        site.plugin("acme", strategies(*targets))
        offer = make(site).strategy_class_offer("Fast")
        assert offer is not None
        assert offer.spec.alias == "a"
        assert make(site).strategy_class_offer("Slow") is None
        assert make(site).strategy_class_error("Slow") is None

    def test_a_class_of_two_owners(self, site):
        site.plugin("one", strategies("alias='a', target='one:Fast'"))
        site.plugin("two", strategies("alias='b', target='two:Fast'"))
        with pytest.raises(AmbiguousNameError, match=r"one 1.0 and by two 1.0"):
            make(site).strategy_class_offer("Fast")

    def test_a_known_class_that_is_absent(self, site):
        error = make(site).strategy_class_error("DDPStrategy")
        assert isinstance(error, ImportError)
        assert one_line(error).endswith('pip install "torchrelay[ddp]"')
        assert isinstance(make(site).strategy_class_error("HorovodStrategy"), NotInstalledError)
        site.plugin("torchrelay-ddp", "import no_such_sdk")
        assert isinstance(make(site).strategy_class_error("DDPStrategy"), BrokenPluginError)


class TestObservers:
    OBSERVER = """
    seen = []

    @hookimpl
    def torchrelay_after_setup(strategy):
        seen.append(strategy)

    @hookimpl
    def torchrelay_on_exception(error):
        seen.append(error)
    """
    RAISING = "@hookimpl\ndef torchrelay_after_setup(): raise OSError('disk full')"

    def test_every_observer_is_called_with_what_it_asks_for(self, site):
        for name in ("one", "two"):
            site.plugin(name, self.OBSERVER)
        made = make(site)
        made.notify("torchrelay_after_setup", strategy="s")
        made.notify("torchrelay_on_exception", strategy="s", error="e")
        for name in ("one_plugin", "two_plugin"):
            assert sys.modules[name].seen == ["s", "e"]

    def test_one_that_raises_is_warned_about_and_the_others_are_called(self, site):
        site.plugin("one", self.OBSERVER)
        site.plugin("raising", self.RAISING)
        site.plugin("zeta", self.OBSERVER)
        with pytest.warns(
            RuntimeWarning, match=r"raising:raising failed in torchrelay_after_setup: OSError: disk"
        ):
            make(site).notify("torchrelay_after_setup", strategy="s")
        assert sys.modules["one_plugin"].seen == sys.modules["zeta_plugin"].seen == ["s"]

    def test_an_unknown_hook_is_a_bug(self, site):
        with pytest.raises(AttributeError):
            make(site).notify("torchrelay_after_lunch")

    def test_the_hooks_can_be_called_through_pluggy(self, site):
        site.plugin("one", self.OBSERVER)
        made = make(site)
        made.hook.torchrelay_after_setup(strategy="s")
        assert sys.modules["one_plugin"].seen == ["s"]


class TestFingerprint:
    def test_it_has_core_torch_and_the_plugins_that_were_loaded(self, site):
        site.plugin("acme", strategies("alias='x'"), version="5")
        site.plugin("broken", "import no_such_sdk")
        assert make(site).fingerprint() == {
            "torch": version_of("torch"),
            "torchrelay": core_version(),
            "acme": "5",
        }

    def test_equal_fingerprints_do_not_differ(self):
        assert Registry.compare_fingerprints({"a": "1", "b": "2"}, {"b": "2", "a": "1"}) == ""

    def test_differences_are_named(self):
        mine, theirs = {"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "3", "d": "4"}
        assert Registry.compare_fingerprints(mine, theirs) == (
            "b: 2 here, 3 there; c: 3 here, absent there; d: absent here, 4 there"
        )


def test_the_registry_of_the_process_is_made_once_and_can_be_made_anew(site, monkeypatch):
    registry_module.get_registry.cache_clear()
    first = get_registry()
    assert get_registry() is first
    site.plugin("acme-late", strategies("alias='late'"))
    second = refresh()
    assert second is not first
    assert get_registry() is second
    assert second.strategy("late", "cpu").owner.distribution == "acme-late"
    registry_module.get_registry.cache_clear()


def test_failures_and_plugins_are_told(site):
    site.plugin("acme", strategies("alias='x'"))
    site.plugin("broken", "import no_such_sdk")
    site.plugin("off", strategies("alias='y'"))
    made = make(site, {"TORCHRELAY_DISABLE_PLUGINS": "off"})
    assert [plugin.name for plugin in made.plugins] == ["torchrelay", "acme"]
    assert [failure.name for failure in made.failures] == ["broken"]
    assert [plugin.name for plugin in made.disabled] == ["off"]
    assert [offer.spec.name for offer in made.strategies] == ["single_device", "x"]


@pytest.mark.timeout(60)
def test_looking_up_an_alias_imports_neither_torch_nor_the_strategy(site):
    site.plugin("acme", strategies("alias='x', target='acme_strategy:X'"))
    site.write("acme_strategy.py", "raise AssertionError('imported')")
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(site.path)!r})\n"
        "from torchrelay.plugin.discovery import discover\n"
        "from torchrelay.plugin.registry import Registry\n"
        f"made = Registry(discover([{str(site.path)!r}], {{}}))\n"
        "print(made.strategy('x', 'cpu').owner, made.fingerprint()['torchrelay'])\n"
        "print({'torch', 'numpy', 'acme_strategy'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"acme 1.0 {core_version()}", "set()"]


def test_discovery_warns_of_nothing(site):
    site.plugin("acme", strategies("alias='x'"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(site)
