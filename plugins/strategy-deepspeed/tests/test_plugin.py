"""What the distribution says of itself, which costs no torch and no DeepSpeed to hear."""

from __future__ import annotations

import subprocess
import sys

import pytest

from torchrelay.plugin import Capability, Support
from torchrelay.plugin.catalogue import BACKENDS
from torchrelay.plugin.targets import missing
from torchrelay_deepspeed import vendor
from torchrelay_deepspeed.plugin import (
    CAPABILITIES,
    torchrelay_diagnostics,
    torchrelay_strategies,
)
from torchrelay_deepspeed.presets import NVME, PRESETS
from torchrelay_deepspeed.user_config import read

SPECS = {spec.alias: spec for spec in torchrelay_strategies()}

SETTINGS = {
    "deepspeed_stage_0": {"stage": 0},
    "deepspeed_stage_1": {"stage": 1},
    "deepspeed_stage_2": {"stage": 2},
    "deepspeed_stage_3": {"stage": 3},
    "deepspeed_stage_2_offload": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
    "deepspeed_stage_3_offload": {
        "stage": 3,
        "offload_optimizer": {"device": "cpu"},
        "offload_param": {"device": "cpu"},
    },
    "deepspeed_stage_3_offload_nvme": {
        "stage": 3,
        "offload_optimizer": {"device": "nvme", "nvme_path": NVME},
        "offload_param": {"device": "nvme", "nvme_path": NVME},
    },
}


def test_it_gives_the_aliases_that_the_catalogue_says():
    (backend,) = [each for each in BACKENDS if each.extra == "deepspeed"]
    assert backend.published
    assert set(SPECS) == set(backend.aliases)


@pytest.mark.parametrize("alias", SETTINGS)
def test_each_alias_stands_for_its_settings(alias):
    assert SPECS[alias].presets == {"config": PRESETS[alias]}
    assert PRESETS[alias].as_dict() == {"zero_optimization": SETTINGS[alias]}


def test_the_plain_alias_is_stage_2():
    assert SPECS["deepspeed"].presets == {}
    assert read().values == {"zero_optimization": {"stage": 2}}


@pytest.mark.parametrize("alias", SPECS)
def test_a_spec_carries_the_capabilities_of_its_stage(alias):
    stage = PRESETS[alias].stage if alias in PRESETS else 2
    assert SPECS[alias].capabilities is CAPABILITIES[stage]


def test_what_stages_can_do_differs():
    def support(capability):
        return [CAPABILITIES[stage][capability].support for stage in (0, 1, 2, 3)]

    no, some, full = Support.UNSUPPORTED, Support.PARTIAL, Support.FULL
    assert support(Capability.GRADIENTS_VISIBLE) == [some, no, no, no]
    assert support(Capability.WHOLE_WEIGHTS) == [full, full, full, no]
    assert support(Capability.UNEVEN_EVALUATION) == [full, full, full, no]
    assert support(Capability.CLIP_BY_VALUE) == [no] * 4


def test_without_deepspeed_the_specs_name_the_command(monkeypatch):
    monkeypatch.delitem(sys.modules, "deepspeed", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (need,) = missing(SPECS["deepspeed"].requires)
    assert need.install == 'pip install "deepspeed>=0.19.8,<0.20"'


def test_hearing_of_it_imports_neither_torch_nor_deepspeed():
    code = (
        "import sys, torchrelay_deepspeed.plugin as plugin; "
        "list(plugin.torchrelay_strategies()), list(plugin.torchrelay_diagnostics()); "
        "sys.exit(bool({'torch', 'deepspeed'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_check_of_the_machine_can_be_made():
    for spec in torchrelay_diagnostics():
        module, _, name = spec.target.partition(":")
        answer = getattr(sys.modules.get(module) or __import__(module, fromlist=[name]), name)()
        assert answer is None or "\n" not in answer


@pytest.mark.parametrize(
    ("version", "well"),
    [
        ("0.19.8", True),
        ("0.19.9+cu128", True),
        ("0.19.7", False),
        ("0.20.0", False),
        ("1.0", False),
    ],
)
def test_a_version_that_was_not_run_is_told(monkeypatch, version, well):
    monkeypatch.setattr(vendor, "version", lambda: version)
    complaint = vendor.tested()
    if well:
        assert complaint is None
    else:
        assert complaint.startswith(f"DeepSpeed {version} is not one that torchrelay-deepspeed was")
        assert complaint.endswith('pip install "deepspeed>=0.19.8,<0.20"')


def test_the_installed_deepspeed_is_one_that_was_run():
    assert vendor.version() is not None
    assert vendor.tested() is None


def test_no_deepspeed_is_told(monkeypatch):
    monkeypatch.setattr(vendor, "version", lambda: None)
    assert vendor.tested().endswith('pip install "deepspeed>=0.19.8,<0.20"')
