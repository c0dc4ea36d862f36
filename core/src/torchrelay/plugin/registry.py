"""What a name means here. Read-only; made once per process from what discovery found."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Mapping
from typing import Any

import pluggy

from torchrelay.errors import ConfigurationError, UnavailableError, UserError
from torchrelay.plugin.absence import Absence, What, wrong_accelerator
from torchrelay.plugin.catalogue import PRECISION_SPELLINGS
from torchrelay.plugin.discovery import Discovery, discover
from torchrelay.plugin.lookup import most_specific, named, only, takes
from torchrelay.plugin.offers import of_kind
from torchrelay.plugin.records import (
    DisabledPlugin,
    Offer,
    Owner,
    Plugin,
    PluginFailure,
    SpecT,
    cause_of,
)
from torchrelay.plugin.scan import version_of
from torchrelay.plugin.specs import (
    AcceleratorSpec,
    CheckpointFormatSpec,
    CheckpointIOSpec,
    DiagnosticSpec,
    EnvironmentSpec,
    PrecisionSpec,
    StrategySpec,
)
from torchrelay.plugin.targets import missing

__all__ = ["Offer", "Owner", "Registry", "get_registry", "refresh"]


class Registry:
    """Looks names up among what the installed distributions offer.

    A name may be pinned to a distribution: `"torchrelay-ddp:ddp"`.

    Args:
        discovery: what was found.

    Attributes:
        strategies: every strategy on offer, core's first, then by distribution.
        accelerators: every accelerator.
        environments: every cluster environment, highest priority first.
        precisions: every precision.
        checkpoint_ios: every way of writing checkpoints.
        checkpoint_formats: every form of a backend's own.
        diagnostics: every check of the machine.
    """

    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery
        self.strategies = of_kind(discovery.offers, StrategySpec)
        self.accelerators = of_kind(discovery.offers, AcceleratorSpec)
        self.environments = tuple(
            sorted(
                of_kind(discovery.offers, EnvironmentSpec), key=lambda offer: -offer.spec.priority
            )
        )
        self.precisions = of_kind(discovery.offers, PrecisionSpec)
        self.checkpoint_ios = of_kind(discovery.offers, CheckpointIOSpec)
        self.checkpoint_formats = of_kind(discovery.offers, CheckpointFormatSpec)
        self.diagnostics = of_kind(discovery.offers, DiagnosticSpec)

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """The plugins that were loaded, core's own first."""
        return self._discovery.plugins

    @property
    def failures(self) -> tuple[PluginFailure, ...]:
        """The plugins that were not loaded, and the hooks and specs that were left out."""
        return self._discovery.failures

    @property
    def disabled(self) -> tuple[DisabledPlugin, ...]:
        """The plugins that the user switched off."""
        return self._discovery.disabled

    @property
    def hook(self) -> pluggy.HookRelay:
        """Pluggy's hooks; `notify` calls one of them with each observer behind a guard."""
        return self._discovery.manager.hook

    def strategy(self, alias: str, accelerator: str) -> Offer[StrategySpec]:
        """The strategy that `alias` means on `accelerator`; the most specific claim wins.

        Raises:
            UnknownNameError: nobody knows the alias, or it is of the past.
            NotInstalledError: the distribution that gives it is known, but absent.
            BrokenPluginError: it is installed, but its plugin does not load.
            AmbiguousNameError: several distributions give it.
            ConfigurationError: it is not for this accelerator.
            UnavailableError: the vendor's SDK is missing.
        """
        offers = named(self.strategies, alias)
        if not offers:
            raise self._absence("strategy", alias, self.strategies, accelerator).error()
        willing = [offer for offer in offers if accelerator not in offer.spec.refusals]
        fitting = most_specific(willing, accelerator)
        if not fitting:
            raise wrong_accelerator(alias, offers, accelerator)
        offer = only(fitting, f"strategy {alias!r} for accelerator {accelerator!r}")
        absent = missing(offer.spec.requires)
        if absent:
            raise UnavailableError(
                f"strategy {alias!r} of {offer.owner} needs the module "
                f"{' and '.join(need.module for need in absent)}, which is not here: "
                f"{'; '.join(need.install for need in absent)}"
            )
        return offer

    def accelerator(self, name: str) -> Offer[AcceleratorSpec]:
        """The accelerator of that name, whether or not the machine has one.

        Raises:
            UserError: as `strategy` does, except that the SDK is not looked for.
        """
        return self._one("accelerator", name, self.accelerators)

    def precision(self, name: str | int, accelerator: str) -> Offer[PrecisionSpec]:
        """The precision that `name` means on `accelerator`; Lightning's older spellings too.

        Raises:
            ConfigurationError: the accelerator lacks the format, or the precision is not for it.
            UserError: as `strategy` does.
        """
        asked = PRECISION_SPELLINGS.get(str(name), str(name))
        offers = named(self.precisions, asked)
        if not offers:
            raise self._absence("precision", asked, self.precisions, accelerator).error()
        # An accelerator that the user made may have a name that no plugin knows: nothing is known against it.
        known = [offer.spec for offer in named(self.accelerators, accelerator)]
        usable = [o for o in self.precisions if all(takes(spec, o.spec) for spec in known)]
        fitting = most_specific([o for o in offers if o in usable], accelerator)
        if not fitting:
            raise ConfigurationError(
                f"accelerator {accelerator!r} has no precision {asked!r}; it has "
                f"{', '.join(dict.fromkeys(o.spec.name for o in usable))}"
            )
        return only(fitting, f"precision {asked!r} for accelerator {accelerator!r}")

    def checkpoint_io(self, name: str) -> Offer[CheckpointIOSpec]:
        """The way of writing checkpoints that has that name.

        Raises:
            UserError: as `strategy` does.
        """
        return self._one("checkpoint IO", name, self.checkpoint_ios)

    def strategy_class_offer(self, class_name: str) -> Offer[StrategySpec] | None:
        """The first strategy whose class has that name, for `from torchrelay.strategies import X`.

        Raises:
            AmbiguousNameError: several distributions have a class of that name.
        """
        offers = {
            offer.spec.target: offer
            for offer in reversed(self.strategies)
            if offer.spec.target.partition(":")[2] == class_name
        }
        return only(tuple(offers.values()), f"strategy class {class_name!r}") if offers else None

    def strategy_class_error(self, class_name: str) -> UserError | None:
        """Why a strategy class that we know of is not here; None if we know of none."""
        return Absence("strategy class", class_name, self._discovery).known_error()

    def notify(self, hook_name: str, **arguments: Any) -> None:
        """Call a lifecycle hook of every observer; one that raises is warned about, not fatal.

        Args:
            hook_name: such as `"torchrelay_after_setup"`.
            arguments: the hook's arguments.
        """
        for impl in reversed(getattr(self.hook, hook_name).get_hookimpls()):
            try:
                impl.function(*(arguments[name] for name in impl.argnames))
            except Exception as error:
                warnings.warn(
                    f"plugin {impl.plugin_name} failed in {hook_name}: {cause_of(error)}",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def fingerprint(self) -> dict[str, str]:
        """Distribution -> version, of torchrelay, torch and every loaded plugin."""
        return {
            "torch": version_of("torch"),
            **{plugin.distribution: plugin.version for plugin in self.plugins},
        }

    @staticmethod
    def compare_fingerprints(mine: Mapping[str, str], theirs: Mapping[str, str]) -> str:
        """What differs between two fingerprints, in one line; "" if nothing does."""
        return "; ".join(
            f"{name}: {mine.get(name, 'absent')} here, {theirs.get(name, 'absent')} there"
            for name in sorted({*mine, *theirs})
            if mine.get(name) != theirs.get(name)
        )

    def _one(self, what: What, name: str, offers: tuple[Offer[SpecT], ...]) -> Offer[SpecT]:
        found = named(offers, name)
        if not found:
            raise self._absence(what, name, offers).error()
        return only(found, f"{what} {name!r}")

    def _absence(
        self,
        what: What,
        name: str,
        offers: tuple[Offer[SpecT], ...],
        accelerator: str | None = None,
    ) -> Absence:
        available = tuple(dict.fromkeys(offer.spec.name for offer in offers))
        return Absence(what, name, self._discovery, available, accelerator)


@functools.cache
def get_registry() -> Registry:
    """The registry of this process; made when it is first asked for."""
    return Registry(discover())


def refresh() -> Registry:
    """Look again, after distributions were installed or removed, or the environment was changed."""
    importlib.invalidate_caches()
    get_registry.cache_clear()
    return get_registry()
