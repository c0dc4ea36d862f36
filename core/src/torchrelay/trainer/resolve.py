"""From what the user asked for to what will run, each choice with its reason.

Pure: everything that is known of this machine comes in as a `Machine`. Imports no torch and no vendor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from torchrelay.accelerators.devices import parse_devices
from torchrelay.errors import BrokenPluginError, ConfigurationError, UnavailableError
from torchrelay.plugin.lookup import named
from torchrelay.plugin.records import cause_of
from torchrelay.plugin.registry import Offer, Registry
from torchrelay.plugin.specs import AcceleratorSpec, Hardware, PrecisionSpec, StrategySpec
from torchrelay.plugin.targets import load_target, probe

if TYPE_CHECKING:
    from torchrelay.accelerators.accelerator import Accelerator
    from torchrelay.checkpoint.checkpoint_io import CheckpointIO
    from torchrelay.environments.environment import ClusterEnvironment
    from torchrelay.precision.precision import Precision
    from torchrelay.strategies.strategy import Strategy

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for, under the Trainer's names. Components may be names or instances."""

    strategy: str | Strategy = "auto"
    accelerator: str | Accelerator = "auto"
    devices: int | str | Sequence[int] = "auto"
    num_nodes: int | str = "auto"
    precision: str | int | Precision | None = None
    cluster_environment: str | ClusterEnvironment | None = None
    checkpoint_io: str | CheckpointIO | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What is known of the place where the run will start.

    Attributes:
        environ: environment variables.
        interactive: whether there is no script that other processes could run again.
        probe: finds an accelerator's hardware.
    """

    environ: Mapping[str, str]
    interactive: bool = False
    probe: Callable[[AcceleratorSpec], Hardware] = probe


@dataclass(frozen=True)
class Choice(Generic[Value]):
    """A decision and why it was taken."""

    value: Value
    reason: str


@dataclass(frozen=True)
class DeviceKind:
    """The accelerator that was chosen: by spec, or the user's instance."""

    name: str
    hardware: Hardware
    indexed: bool = True
    default_strategy: str | None = None
    precisions: tuple[str, ...] | None = None
    spec: AcceleratorSpec | None = None
    instance: Accelerator | None = None


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """What will run, and why."""

    accelerator: DeviceKind
    cluster_environment: ClusterEnvironment
    num_nodes: int
    devices: tuple[int, ...]
    strategy: Offer[StrategySpec] | Strategy
    precision: Offer[PrecisionSpec] | Precision
    reasons: tuple[str, ...] = field(repr=False)

    def explain(self) -> str:
        """The choices and their reasons, a line each."""
        return "\n".join(self.reasons)

    def check_environment(self) -> None:
        """Refuse processes that are other than what was chosen needs, or that nobody starts.

        Raises:
            LaunchError: with the command that starts the right ones.
        """
        processes = len(self.devices) if _process_per_device(self.strategy) else 1
        self.cluster_environment.check(devices=processes, num_nodes=self.num_nodes)


def resolve(request: Request, registry: Registry, machine: Machine) -> Resolution:
    """Decide what will run.

    Raises:
        UserError: something asked for cannot be had; the message says why and what to do next.
    """
    refuse_conflicts(request)
    reasons: list[str] = []

    def note(title: str, choice: Choice[Value]) -> Value:
        reasons.append(f"{title}: {choice.reason}")
        return choice.value

    kind = note("accelerator", choose_accelerator(request, registry, machine))
    asked = named_strategy(request, registry, kind)
    environment = note("cluster environment", choose_environment(request, registry, machine))
    nodes = note("num_nodes", choose_nodes(request, environment))
    devices = note("devices", choose_devices(request, kind, environment, asked))
    strategy = note(
        "strategy", asked or default_strategy(registry, machine, kind, len(devices), nodes)
    )
    precision = note("precision", choose_precision(request, registry, kind))
    return Resolution(
        accelerator=kind,
        cluster_environment=environment,
        num_nodes=nodes,
        devices=devices,
        strategy=strategy,
        precision=precision,
        reasons=tuple(reasons),
    )


def refuse_conflicts(request: Request) -> None:
    """Refuse a component that is given twice: in the strategy instance and as the Trainer's argument."""
    unasked = {"accelerator": "auto", "devices": "auto"}
    for name, part in _given(request).items():
        asked = getattr(request, name, None)
        if asked != unasked.get(name):
            raise ConfigurationError(
                f"{name} is given twice: {_show(asked)} to the Trainer, and {_show(part)} inside "
                f"{type(request.strategy).__name__}; leave one of them out"
            )


def choose_accelerator(
    request: Request, registry: Registry, machine: Machine
) -> Choice[DeviceKind]:
    """The kind of device: as asked, or the best that is there."""
    given = _given(request)
    asked = given.get("accelerator", request.accelerator)
    if not isinstance(asked, str):
        return Choice(_instance_kind(asked, registry), f"{asked.name} (the instance given)")
    if asked == "auto" and "devices" in given:
        asked = str(given["devices"][0].type)
    if asked == "gpu":
        return _best(("cuda", "mps"), registry, machine, 'accelerator="gpu" needs a GPU')
    if asked != "auto":
        spec = registry.accelerator(asked).spec
        hardware = machine.probe(spec)
        if not hardware.count:
            raise UnavailableError(
                f"accelerator={asked!r} is not available here: {hardware.reason}; "
                f'take accelerator="auto", or "cpu", or run where there is one'
            )
        return Choice(_kind(spec, hardware), f"{asked} (asked for)")
    limited = _accelerators_of(request.strategy, registry)
    if limited:
        return _best(
            limited, registry, machine, f"strategy={request.strategy!r} runs on {_or(limited)}"
        )
    ranked = sorted(registry.accelerators, key=lambda offer: -offer.spec.priority)
    return _best([o.spec.name for o in ranked], registry, machine, "no accelerator is available")


def choose_environment(
    request: Request, registry: Registry, machine: Machine
) -> Choice[ClusterEnvironment]:
    """The cluster environment: as asked, or the first that recognises its variables."""
    asked = _given(request).get("cluster_environment", request.cluster_environment)
    if asked is not None and not isinstance(asked, str):
        return Choice(asked, f"{_show(asked)} (the instance given)")
    offers = sorted(registry.environments, key=lambda offer: -offer.spec.priority)
    for offer in offers:
        if asked is not None and offer.spec.name != asked:
            continue
        try:
            kind = load_target(offer.spec.target)
            found = asked is not None or kind.detect(machine.environ)
            environment = kind(machine.environ) if found else None
        except Exception as error:
            raise BrokenPluginError(
                f"cluster environment {offer.spec.name!r} of {offer.owner} fails: {cause_of(error)}; "
                f"TORCHRELAY_DISABLE_PLUGINS={offer.owner.distribution} leaves it out"
            ) from error
        if environment is not None:
            why = "asked for"
            if asked is None:
                cluster = offer.spec.priority > 0
                why = "recognised by its variables" if cluster else "no cluster's variables are set"
            return Choice(environment, f"{offer.spec.name} ({why})")
    known = ", ".join(sorted(offer.spec.name for offer in offers))
    raise ConfigurationError(f"unknown cluster environment {asked!r}; known: {known}")


def choose_nodes(request: Request, environment: ClusterEnvironment) -> Choice[int]:
    """The number of machines: as asked, or as many as the environment started processes on."""
    asked = request.num_nodes
    if asked == "auto":
        if not environment.creates_processes:
            return Choice(1, "1 (nothing else is asked for)")
        nodes = max(1, environment.world_size // environment.local_world_size)
        return Choice(nodes, f"{nodes} (what {environment.name} started)")
    if not isinstance(asked, int) or isinstance(asked, bool) or asked < 1:
        raise ConfigurationError(f'num_nodes={asked!r} must be "auto" or a number from 1')
    return Choice(asked, f"{asked} (asked for)")


def choose_devices(
    request: Request,
    kind: DeviceKind,
    environment: ClusterEnvironment,
    strategy: Choice[Any] | None,
) -> Choice[tuple[int, ...]]:
    """The indices of this node's devices."""
    given = _given(request).get("devices")
    if given is not None:
        devices = tuple(range(len(given)))
        return Choice(devices, f"{len(given)} (the strategy's parallel_devices)")
    asked: Any = request.devices
    why = "asked for"
    if asked == "auto":
        why = "all there are" if kind.indexed else "one process is enough"
    a_process_each = strategy is None or _process_per_device(strategy.value)
    if asked == "auto" and environment.creates_processes and a_process_each:
        asked, why = environment.local_world_size, f"what {environment.name} started on this node"
    devices = parse_devices(
        asked, accelerator=kind.name, available=kind.hardware.count, indexed=kind.indexed
    )
    return Choice(devices, f"{list(devices) if kind.indexed else len(devices)} ({why})")


def named_strategy(request: Request, registry: Registry, kind: DeviceKind) -> Choice[Any] | None:
    """The strategy that the user named or made; None if the choice is left to us."""
    asked = request.strategy
    if not isinstance(asked, str):
        return Choice(asked, f"{type(asked).__name__} (the instance given)")
    if asked == "auto":
        return None
    offer = registry.strategy(asked, kind.name)
    return Choice(offer, f"{offer.spec.alias} of {offer.owner} (asked for)")


def default_strategy(
    registry: Registry, machine: Machine, kind: DeviceKind, devices: int, nodes: int
) -> Choice[Any]:
    """The accelerator's default strategy, or the one that the number of processes calls for."""
    if kind.default_strategy is not None:
        alias, why = kind.default_strategy, f"the default of accelerator {kind.name}"
    elif nodes > 1:
        alias, why = "ddp", f"{nodes} nodes"
    elif devices == 1:
        alias, why = "single_device", "one device"
    elif machine.interactive:
        alias, why = "ddp_notebook", f"{devices} devices, and no script to run again"
    else:
        alias, why = "ddp", f"{devices} devices"
    offer = registry.strategy(alias, kind.name)
    return Choice(offer, f"{alias} of {offer.owner} ({why})")


def choose_precision(request: Request, registry: Registry, kind: DeviceKind) -> Choice[Any]:
    """The precision: as asked, or 32-true."""
    asked = _given(request).get("precision", request.precision)
    if asked is not None and not isinstance(asked, (str, int)):
        return Choice(asked, f"{_show(asked)} (the instance given)")
    offer = registry.precision("32-true" if asked is None else asked, kind.name)
    why = "nothing else is asked for" if asked is None else "asked for"
    return Choice(offer, f"{offer.spec.name} ({why})")


def _best(
    names: Sequence[str], registry: Registry, machine: Machine, why_needed: str
) -> Choice[DeviceKind]:
    """The first of the accelerators that has hardware here."""
    missing: list[str] = []
    for name in names:
        spec = registry.accelerator(name).spec
        hardware = machine.probe(spec)
        if hardware.count:
            because = f"; {'; '.join(missing)}" if missing else ""
            return Choice(_kind(spec, hardware), f"{name} (the best that is available{because})")
        missing.append(f"no {name}: {hardware.reason}")
    raise UnavailableError(
        f"{why_needed}; {'; '.join(missing)}; run where there is one, or take another accelerator"
    )


def _kind(spec: AcceleratorSpec, hardware: Hardware) -> DeviceKind:
    return DeviceKind(
        spec.name, hardware, spec.indexed, spec.default_strategy, spec.precisions, spec
    )


def _instance_kind(accelerator: Any, registry: Registry) -> DeviceKind:
    """The user's accelerator; what is known of its name, if anything is, holds for it as well."""
    hardware = Hardware(count=accelerator.count(), reason=f"{_show(accelerator)} counts none")
    if not hardware.count:
        raise UnavailableError(f"{_show(accelerator)} finds no device here")
    known = [o.spec for o in registry.accelerators if o.spec.name == accelerator.name]
    if not known:
        return DeviceKind(accelerator.name, hardware, instance=accelerator)
    spec = known[0]
    return DeviceKind(
        spec.name, hardware, spec.indexed, spec.default_strategy, spec.precisions, spec, accelerator
    )


def _process_per_device(strategy: Any) -> bool:
    return bool(getattr(strategy, "spec", strategy).process_per_device)


def _accelerators_of(strategy: Any, registry: Registry) -> tuple[str, ...]:
    """The accelerators that an alias is limited to; empty when it is not."""
    if not isinstance(strategy, str):
        return ()
    claims = [offer.spec.accelerators for offer in named(registry.strategies, strategy)]
    if not claims or () in claims:
        return ()
    return tuple(dict.fromkeys(name for claim in claims for name in claim))


def _given(request: Request) -> dict[str, Any]:
    """The components inside a strategy instance."""
    return {} if isinstance(request.strategy, str) else request.strategy.given


def _show(value: object) -> str:
    if isinstance(value, (str, int, list, tuple)):
        return repr(value)
    return type(value).__name__


def _or(names: Sequence[str]) -> str:
    return " or ".join(names)
