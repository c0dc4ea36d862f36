"""What a plugin returns from its hooks: frozen descriptions of components, as data.

A spec names its component by a target string, `"package.module:Attribute"`, so that listing what is
installed imports no component. Specs check themselves when they are made (`SpecError`).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torchrelay.errors import SpecError

CONTRACT_VERSION = 1
"""The version of the Strategy contract that this torchrelay implements."""

OLDEST_CONTRACT_VERSION = 1
"""The oldest version of the contract that plugins may still be written for."""

_ALIAS = re.compile(r"[a-z][a-z0-9_]*\Z")
_PRECISION = re.compile(r"[a-z0-9][a-z0-9_-]*\Z")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z")
_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*\Z")


class Capability(enum.Enum):
    """What a run may need of a strategy. A strategy is taken to support what it does not mention."""

    MANUAL_OPTIMIZATION = "manual optimization"
    MULTIPLE_OPTIMIZERS = "several optimizers"
    CLOSURE_OPTIMIZERS = "an optimizer that calls its closure several times, such as LBFGS"
    CUSTOM_OPTIMIZER_STEP = "overriding optimizer_step in the module"
    GRADIENT_ACCUMULATION = "accumulate_grad_batches above 1"
    CLIP_BY_NORM = "gradient_clip_algorithm='norm'"
    CLIP_BY_VALUE = "gradient_clip_algorithm='value'"
    SKIPPED_STEPS = "training_step returning None, to make no update"
    EXACT_AVERAGING = "gradients averaged over all ranks at every update"
    GRADIENTS_VISIBLE = "hooks and code that read parameter gradients before the update"
    SYNC_BATCHNORM = "sync_batchnorm=True"
    MULTIPLE_NODES = "num_nodes above 1"
    ITERABLE_DATASETS = "data sets without a length"
    EVALUATION = "validate and test"
    UNEVEN_EVALUATION = "evaluating different numbers of batches on different ranks"
    PREDICTION = "predict"
    WHOLE_WEIGHTS = "whole weights on each rank, as weight averaging needs"
    UNUSED_LEFT_OUT = "leaving a parameter without a gradient out of the update"
    EAGER_STEPS = "running the Python of a step at every batch, rather than when it is traced"


class Support(enum.Enum):
    """How far a capability is supported."""

    FULL = "full"
    PARTIAL = "partial"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True)
class Declaration:
    """A capability's support, and the reason when it is not full."""

    support: Support
    reason: str = ""


_FULL = Declaration(Support.FULL)


@dataclass(frozen=True)
class Capabilities(Mapping[Capability, Declaration]):
    """What a strategy declares of itself: `capabilities[Capability.X]` is always answered.

    Args:
        declared: the capabilities whose support is not full, each with its reason.
        precisions: names of the precisions that the strategy takes; None for any that the
            accelerator takes.
        conditions: precision -> the condition under which the strategy takes it, as a refusal says it; for what the
            hardware decides, which a declaration does not look at.
    """

    declared: Mapping[Capability, Declaration] = field(default_factory=dict)
    precisions: tuple[str, ...] | None = None
    conditions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for capability, declaration in self.declared.items():
            if not isinstance(capability, Capability):
                raise SpecError(f"unknown capability {capability!r}; known: {_names(Capability)}")
            if not isinstance(declaration, Declaration):
                raise SpecError(f"{capability}: {declaration!r} is not a Declaration")
            if declaration.support is not Support.FULL and not declaration.reason:
                raise SpecError(f"{capability}: support below full needs a reason")
        _check_precisions(self.precisions)
        _check_conditions(self.conditions, self.precisions)

    def __getitem__(self, capability: Capability) -> Declaration:
        return self.declared.get(capability, _FULL)

    def __iter__(self) -> Iterator[Capability]:
        return iter(Capability)

    def __len__(self) -> int:
        return len(Capability)


def unsupported(reason: str) -> Declaration:
    """The declaration of a capability that a strategy does not have, and why."""
    return Declaration(Support.UNSUPPORTED, reason)


def partial(reason: str) -> Declaration:
    """The declaration of a capability that a strategy has under a condition, and which."""
    return Declaration(Support.PARTIAL, reason)


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A vendor's SDK: the module that must be importable, and how to get it.

    Args:
        module: dotted name of a module; looked for, never imported, when availability is asked.
        install: the command, or the sentence, that gets it.
    """

    module: str
    install: str

    def __post_init__(self) -> None:
        _check_name(self.module, _MODULE, "module")
        _check_text(self.install, "install")


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What an accelerator's probe found: the number of devices, and why there are none."""

    count: int
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class StrategySpec:
    """A strategy under one alias.

    Args:
        alias: what a user writes in `Trainer(strategy=...)`: lower case, digits, underscores.
        target: `"package.module:Class"`, imported only when the alias is chosen.
        description: one sentence for `torchrelay list`.
        accelerators: the accelerators for which the alias is claimed; empty for every accelerator.
            A claim for a particular accelerator wins over one for every accelerator.
        presets: keyword arguments of the constructor that the alias stands for.
        capabilities: the same object that the class carries.
        requires: the SDKs without which the target cannot be imported.
        refusals: accelerator -> why the strategy does not run there, for the error message.
        process_per_device: as the class says; whether each device has a process of its own.
    """

    alias: str
    target: str
    description: str
    accelerators: tuple[str, ...] = ()
    presets: Mapping[str, Any] = field(default_factory=dict)
    capabilities: Capabilities = field(default_factory=Capabilities)
    requires: tuple[Requirement, ...] = ()
    refusals: Mapping[str, str] = field(default_factory=dict)
    process_per_device: bool = True

    def __post_init__(self) -> None:
        _check_name(self.alias, _ALIAS, "alias")
        _check_target(self.target)
        _check_text(self.description, "description")
        _check_tuple(self.accelerators, str, "accelerators")
        _check_tuple(self.requires, Requirement, "requires")
        if not isinstance(self.capabilities, Capabilities):
            raise SpecError(f"capabilities of {self.alias!r} must be a Capabilities")
        _check_presets(self.presets)
        _check_refusals(self.refusals, self.accelerators)

    @property
    def name(self) -> str:
        """The alias; every kind of spec has a name."""
        return self.alias


@dataclass(frozen=True, kw_only=True)
class AcceleratorSpec:
    """A kind of device.

    Args:
        name: what a user writes in `Trainer(accelerator=...)`.
        target: `"package.module:Class"` of an Accelerator.
        probe: `"package.module:function"`, torch-free and quick, returning `Hardware`.
        description: one sentence.
        priority: `accelerator="auto"` takes the available one of highest priority; the CPU has 0.
        indexed: whether devices are told apart by index (a list of them may be asked for). Without,
            `devices` is a number of processes and may exceed the number of cores.
        default_strategy: alias for one device or several when the user names no strategy; None to
            leave the choice to the general rule.
        precisions: names of the precisions that the hardware takes; None for any.
        requires: the SDKs without which the target cannot be imported.
    """

    name: str
    target: str
    probe: str
    description: str
    priority: int = 10
    indexed: bool = True
    default_strategy: str | None = None
    precisions: tuple[str, ...] | None = None
    requires: tuple[Requirement, ...] = ()

    def __post_init__(self) -> None:
        _check_name(self.name, _ALIAS, "name")
        _check_target(self.target)
        _check_target(self.probe)
        _check_text(self.description, "description")
        _check_precisions(self.precisions)
        _check_tuple(self.requires, Requirement, "requires")


@dataclass(frozen=True, kw_only=True)
class EnvironmentSpec:
    """A cluster environment; of those whose `detect` says yes, the highest priority is taken.

    Args:
        name: name for messages and for `Trainer(plugins=...)`.
        target: `"package.module:Class"` of a ClusterEnvironment; its module imports no torch.
        description: one sentence.
        priority: torchrun has 50, SLURM 40, LSF 30, Kubeflow 20, MPI 10, local 0.
    """

    name: str
    target: str
    description: str
    priority: int = 5

    def __post_init__(self) -> None:
        _check_name(self.name, _ALIAS, "name")
        _check_target(self.target)
        _check_text(self.description, "description")


@dataclass(frozen=True, kw_only=True)
class PrecisionSpec:
    """A numeric precision, for every accelerator or for particular ones.

    Args:
        name: what a user writes in `Trainer(precision=...)`, such as `"bf16-mixed"`.
        target: `"package.module:Class"` of a Precision.
        description: one sentence.
        accelerators: the accelerators for which the name is claimed; empty for every accelerator.
        presets: keyword arguments of the constructor.
    """

    name: str
    target: str
    description: str
    accelerators: tuple[str, ...] = ()
    presets: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_name(self.name, _PRECISION, "name")
        _check_target(self.target)
        _check_text(self.description, "description")
        _check_tuple(self.accelerators, str, "accelerators")
        _check_presets(self.presets)


@dataclass(frozen=True, kw_only=True)
class CheckpointIOSpec:
    """A way of writing and reading checkpoints.

    Args:
        name: what a user writes in `Trainer(plugins=...)`.
        target: `"package.module:Class"` of a CheckpointIO.
        description: one sentence.
    """

    name: str
    target: str
    description: str

    def __post_init__(self) -> None:
        _check_name(self.name, _ALIAS, "name")
        _check_target(self.target)
        _check_text(self.description, "description")


@dataclass(frozen=True, kw_only=True)
class CheckpointFormatSpec:
    """A form of checkpoint that a backend writes by its own means, and how it becomes torchrelay's.

    Args:
        name: short name of the form.
        target: `"package.module:function"`; takes a path, returns the checkpoint in the canonical form, whole tensors
            and plain data, and runs nothing that it contains.
        recognizes: `"package.module:function"`; takes a path, returns whether this is such a checkpoint; imports no
            torch.
        description: one sentence.
    """

    name: str
    target: str
    recognizes: str
    description: str

    def __post_init__(self) -> None:
        _check_name(self.name, _ALIAS, "name")
        _check_target(self.target)
        _check_target(self.recognizes)
        _check_text(self.description, "description")


@dataclass(frozen=True, kw_only=True)
class DiagnosticSpec:
    """A check that a backend wants made of the machine.

    Args:
        name: short name of what is checked.
        target: `"package.module:function"`; takes nothing, returns None if all is well, else one
            line that says what is wrong and the command that mends it.
        description: one sentence.
        optional: whether the backend works without it, but for something that not everybody uses.
    """

    name: str
    target: str
    description: str
    optional: bool = False

    def __post_init__(self) -> None:
        _check_name(self.name, _ALIAS, "name")
        _check_target(self.target)
        _check_text(self.description, "description")


Spec = (
    StrategySpec
    | AcceleratorSpec
    | EnvironmentSpec
    | PrecisionSpec
    | CheckpointIOSpec
    | CheckpointFormatSpec
    | DiagnosticSpec
)
"""Any spec. Each has a `name`, a `target` and a `description`."""


def _names(kind: type[enum.Enum]) -> str:
    return ", ".join(member.name for member in kind)


def _check_name(value: object, pattern: re.Pattern[str], what: str) -> None:
    if not isinstance(value, str) or not pattern.match(value):
        raise SpecError(
            f"{what} {value!r} must match {pattern.pattern.removesuffix(chr(92) + 'Z')}"
        )


def _check_target(value: object) -> None:
    if not isinstance(value, str) or not _TARGET.match(value):
        raise SpecError(f"target {value!r} must read 'package.module:Attribute'")


def _check_text(value: object, what: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise SpecError(f"{what} must be a sentence, not {value!r}")


def _check_tuple(value: object, kind: type, what: str) -> None:
    if not isinstance(value, tuple) or not all(isinstance(item, kind) for item in value):
        raise SpecError(f"{what} must be a tuple of {kind.__name__}, not {value!r}")


def _check_precisions(value: object) -> None:
    if value is not None:
        _check_tuple(value, str, "precisions")


def _check_conditions(value: object, precisions: tuple[str, ...] | None) -> None:
    if not isinstance(value, Mapping):
        raise SpecError(f"conditions must map precisions to reasons, not {value!r}")
    for name, reason in value.items():
        if precisions is not None and name not in precisions:
            raise SpecError(f"conditions name {name!r}, which precisions do not")
        _check_text(reason, f"the condition of {name!r}")


def _check_presets(value: object) -> None:
    if not isinstance(value, Mapping) or not all(
        isinstance(key, str) and key.isidentifier() for key in value
    ):
        raise SpecError(f"presets must be a mapping of keyword arguments, not {value!r}")


def _check_refusals(value: object, accelerators: tuple[str, ...]) -> None:
    if not isinstance(value, Mapping) or not all(
        isinstance(text, str) and text for pair in value.items() for text in pair
    ):
        raise SpecError(f"refusals must map accelerators to reasons, not {value!r}")
    both = sorted(set(value) & set(accelerators))
    if both:
        raise SpecError(f"accelerators and refusals both name {', '.join(both)}")
