from __future__ import annotations

import dataclasses

import pytest

from torchrelay.errors import PluginError, SpecError
from torchrelay.plugin import (
    AcceleratorSpec,
    Capabilities,
    Capability,
    CheckpointFormatSpec,
    CheckpointIOSpec,
    Declaration,
    DiagnosticSpec,
    EnvironmentSpec,
    PrecisionSpec,
    Requirement,
    StrategySpec,
    Support,
    partial,
    unsupported,
)

GOOD = {
    StrategySpec: {"alias": "ddp", "target": "a.b:C", "description": "One."},
    AcceleratorSpec: {"name": "npu", "target": "a:C", "probe": "a:p", "description": "One."},
    EnvironmentSpec: {"name": "flux", "target": "a:C", "description": "One."},
    PrecisionSpec: {"name": "bf16-mixed", "target": "a:C", "description": "One."},
    CheckpointIOSpec: {"name": "torch", "target": "a:C", "description": "One."},
    CheckpointFormatSpec: {
        "name": "acme",
        "target": "a:read",
        "recognizes": "a:is_one",
        "description": "One.",
    },
    DiagnosticSpec: {"name": "driver", "target": "a:c", "description": "One."},
}


@pytest.mark.parametrize("kind", GOOD, ids=lambda kind: kind.__name__)
class TestEveryKind:
    def test_it_has_a_name_and_is_frozen(self, kind):
        spec = kind(**GOOD[kind])
        assert spec.name == (GOOD[kind].get("name") or GOOD[kind]["alias"])
        with pytest.raises(dataclasses.FrozenInstanceError):
            spec.description = "Another."

    @pytest.mark.parametrize(
        "name", ["", "Ddp", "ddp spawn", "ddp:x", "-x", "ddp\n", None, 3], ids=repr
    )
    def test_a_bad_name_is_refused(self, kind, name):
        field = "alias" if kind is StrategySpec else "name"
        with pytest.raises(SpecError):
            kind(**{**GOOD[kind], field: name})

    @pytest.mark.parametrize("target", ["", "a.b", "a.b:", ":C", "a.b:C.d", "a b:C", "a:C\n", None])
    def test_a_bad_target_is_refused(self, kind, target):
        with pytest.raises(SpecError, match=r"must read 'package.module:Attribute'"):
            kind(**{**GOOD[kind], "target": target})

    @pytest.mark.parametrize("description", ["", "  ", None])
    def test_a_description_is_needed(self, kind, description):
        with pytest.raises(SpecError, match=r"must be a sentence"):
            kind(**{**GOOD[kind], "description": description})


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (StrategySpec, "accelerators", "cpu"),
        (StrategySpec, "accelerators", ["cpu"]),
        (StrategySpec, "requires", ("torch",)),
        (StrategySpec, "capabilities", {}),
        (StrategySpec, "presets", ["stage"]),
        (StrategySpec, "presets", {"not an argument": 1}),
        (StrategySpec, "refusals", {"cpu": ""}),
        (StrategySpec, "refusals", ("cpu",)),
        (AcceleratorSpec, "probe", "nowhere"),
        (AcceleratorSpec, "precisions", "32-true"),
        (AcceleratorSpec, "requires", ("sdk",)),
        (PrecisionSpec, "accelerators", "cpu"),
        (PrecisionSpec, "presets", {1: 2}),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused(kind, field, value):
    with pytest.raises(SpecError):
        kind(**{**GOOD[kind], field: value})


def test_an_accelerator_cannot_be_claimed_and_refused():
    with pytest.raises(SpecError, match=r"both name cpu"):
        StrategySpec(
            **GOOD[StrategySpec], accelerators=("cpu", "npu"), refusals={"cpu": "too slow"}
        )


@pytest.mark.parametrize(("module", "install"), [("a b", "x"), ("", "x"), ("a.b", "")])
def test_a_requirement_says_what_and_how(module, install):
    with pytest.raises(SpecError):
        Requirement(module=module, install=install)


class TestCapabilities:
    def test_what_is_not_mentioned_is_supported(self):
        declared = Capabilities()
        assert len(declared) == len(Capability)
        assert {declared[capability].support for capability in declared} == {Support.FULL}

    def test_what_is_declared_is_answered_with_its_reason(self):
        declared = Capabilities(
            {
                Capability.CLIP_BY_VALUE: unsupported("the engine clips by norm"),
                Capability.PREDICTION: partial("on one node"),
            }
        )
        assert declared[Capability.CLIP_BY_VALUE].support is Support.UNSUPPORTED
        assert declared[Capability.PREDICTION] == Declaration(Support.PARTIAL, "on one node")
        assert declared[Capability.EVALUATION].support is Support.FULL

    @pytest.mark.parametrize(
        "declared",
        [
            {"clip": unsupported("why")},
            {Capability.PREDICTION: Support.UNSUPPORTED},
            {Capability.PREDICTION: Declaration(Support.UNSUPPORTED)},
        ],
    )
    def test_nonsense_is_refused(self, declared):
        with pytest.raises(SpecError) as caught:
            Capabilities(declared)
        assert isinstance(caught.value, PluginError)

    def test_precisions_are_names(self):
        with pytest.raises(SpecError):
            Capabilities(precisions="32-true")
