"""Why nothing here answers to a name, and what to do about it.

Three troubles, three messages: not installed; installed, but its plugin does not load; unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from torchrelay.errors import (
    BrokenPluginError,
    ConfigurationError,
    NotInstalledError,
    UnknownNameError,
    UserError,
)
from torchrelay.plugin import catalogue
from torchrelay.plugin.catalogue import Backend
from torchrelay.plugin.discovery import DISABLE_VARIABLE, Discovery
from torchrelay.plugin.installing import (
    install,
    install_a_backend,
    install_backend,
    reinstall,
)
from torchrelay.plugin.lookup import split_pin
from torchrelay.plugin.offers import of_kind
from torchrelay.plugin.records import Offer, did_you_mean, normalized
from torchrelay.plugin.specs import AcceleratorSpec, StrategySpec

What = Literal["strategy", "strategy class", "accelerator", "precision", "checkpoint IO"]


@dataclass(frozen=True)
class Absence:
    """A name that nothing here answers to.

    Args:
        what: the kind of thing that was asked for.
        asked: what the user wrote, with its pin if there is one.
        discovery: what there is.
        available: the names that would have been answered to.
        accelerator: the accelerator that it was asked for.
    """

    what: What
    asked: str
    discovery: Discovery
    available: tuple[str, ...] = ()
    accelerator: str | None = None

    @property
    def name(self) -> str:
        """The name without its pin."""
        return split_pin(self.asked)[1]

    @property
    def pin(self) -> str | None:
        """The distribution that was pinned."""
        return split_pin(self.asked)[0]

    @property
    def subject(self) -> str:
        """What was asked for, in words."""
        return f"{self.what} {self.asked!r}"

    @property
    def backend(self) -> Backend | None:
        """The backend of the family that would answer to the name."""
        found = None
        if self.what == "strategy":
            found = catalogue.backend_of_alias(self.name, self.accelerator)
        elif self.what == "strategy class":
            found = catalogue.backend_of_class(self.name)
        elif self.what == "accelerator":
            found = catalogue.backend_of_accelerator(self.name)
        return found if found and self.pin in (None, found.distribution) else None

    def error(self) -> UserError:
        """The error to raise."""
        return self.known_error() or self._unknown()

    def known_error(self) -> UserError | None:
        """The error to raise if it is known who would answer to the name, or what became of it."""
        return (
            self._broken()
            or self._disabled()
            or self._retired()
            or self._not_installed()
            or self._misplaced()
        )

    def _broken(self) -> UserError | None:
        for failure in self.discovery.failures:
            if self._would_answer(failure.name, failure.distribution):
                return BrokenPluginError(
                    f"{self.subject} cannot be had: {failure.distribution} is installed, but "
                    f"broken. {failure}. Reinstall or upgrade it: "
                    f"{reinstall(failure.distribution)}"
                )
        return None

    def _disabled(self) -> UserError | None:
        for plugin in self.discovery.disabled:
            if self._would_answer(plugin.name, plugin.distribution):
                return ConfigurationError(
                    f"{self.subject} cannot be had: {plugin.distribution} is installed, but the "
                    f"environment variable {DISABLE_VARIABLE} switches it off; take it out of there"
                )
        return None

    def _retired(self) -> UserError | None:
        advice = catalogue.RETIRED.get(self.name)
        if self.what != "strategy" or self.pin or advice is None:
            return None
        return UnknownNameError(f"strategy {self.name!r} is not a name of torchrelay's: {advice}")

    def _not_installed(self) -> UserError | None:
        backend = self.backend
        if backend is None:
            return None
        for plugin in self.discovery.plugins:
            if normalized(plugin.distribution) == backend.distribution:
                return NotInstalledError(
                    f"{self.subject} is not in {plugin.owner}, which is installed; "
                    f"{install(backend.distribution, '--upgrade')}"
                )
        if not backend.published:
            return NotInstalledError(
                f"{self.subject} needs a backend for which torchrelay has no package yet "
                f"({backend.summary}); `torchrelay list` shows what can be used here"
            )
        return NotInstalledError(
            f"{self.subject} comes with {backend.distribution}, which is not installed: "
            f"{install_backend(backend)}"
        )

    def _misplaced(self) -> UserError | None:
        """The error for a strategy's name that is given as an accelerator, or the other way round."""
        trouble = f"no {self.what} is called {self.asked!r}"
        strategies, accelerators = self._names(StrategySpec), self._names(AcceleratorSpec)
        if self.what == "accelerator" and self.name in catalogue.RETIRED:
            return UnknownNameError(f"{trouble}: {catalogue.RETIRED[self.name]}")
        if self.what == "accelerator" and self.name in strategies:
            return UnknownNameError(f"{trouble}, it is a strategy: write strategy={self.name!r}")
        if self.what == "strategy" and self.name in accelerators:
            return UnknownNameError(
                f"{trouble}, it is an accelerator: write accelerator={self.name!r}"
            )
        return None

    def _names(self, kind: type[StrategySpec | AcceleratorSpec]) -> set[str]:
        """The names of a kind, of backends that are installed and of those that could be."""
        offered = {offer.spec.name for offer in of_kind(self.discovery.offers, kind)}
        if kind is StrategySpec:
            return offered.union(*(backend.aliases for backend in catalogue.BACKENDS))
        known = (backend.accelerators for backend in catalogue.BACKENDS)
        return offered.union(catalogue.CHOICES, *known) - {"auto"}

    def _unknown(self) -> UserError:
        installable = self._installable()
        available, more = self.available, list(_aliases(installable))
        if self.what == "accelerator":
            available = (*catalogue.CHOICES, *available)
            more = sorted(self._names(AcceleratorSpec))
        parts = [
            f"no {self.what} is called {self.asked!r}"
            + did_you_mean(self.name, [*available, *more]),
            f"available: {_some(available, 8) or 'none'}",
        ]
        if self.pin:
            pinnable = dict.fromkeys(plugin.distribution for plugin in self.discovery.plugins)
            parts.append(f"distributions that can be pinned: {', '.join(pinnable)}")
        if installable:
            names = ", ".join(backend.extra for backend in installable)
            how = install_a_backend(installable[0])
            parts.append(f"more with {how}, where NAME is one of {names}")
        parts += [f"installed, but broken: {failure}" for failure in self.discovery.failures]
        parts += [
            f"switched off by the environment variable {DISABLE_VARIABLE}: {plugin.distribution}"
            for plugin in self.discovery.disabled
        ]
        return UnknownNameError("; ".join(parts))

    def _would_answer(self, plugin: str, distribution: str) -> bool:
        if self.pin:
            return normalized(distribution) == self.pin
        backend = self.backend
        own = backend is not None and normalized(distribution) == backend.distribution
        return own or plugin == self.name

    def _installable(self) -> list[Backend]:
        if self.what != "strategy":
            return []
        groups = (self.discovery.plugins, self.discovery.disabled, self.discovery.failures)
        installed = {normalized(each.distribution) for group in groups for each in group}
        return [b for b in catalogue.BACKENDS if b.published and b.distribution not in installed]


def _some(names: Sequence[str], at_most: int) -> str:
    """The first names, and how many more there are."""
    more = len(names) - at_most
    rest = f" and {more} more (`torchrelay list`)" if more > 0 else ""
    return ", ".join(names[:at_most]) + rest


def _aliases(backends: Iterable[Backend]) -> Iterable[str]:
    return (alias for backend in backends for alias in backend.aliases)


def wrong_accelerator(
    alias: str, offers: Sequence[Offer[StrategySpec]], accelerator: str
) -> ConfigurationError:
    """The error for an alias that there is, but not for this accelerator.

    Args:
        alias: what the user wrote.
        offers: everything that the alias means, on whatever accelerator.
        accelerator: the one that was asked for.
    """
    reasons = [o.spec.refusals[accelerator] for o in offers if accelerator in o.spec.refusals]
    claimed = dict.fromkeys(name for offer in offers for name in offer.spec.accelerators)
    only_for = f"only for {', '.join(claimed)}" if claimed else "but for every other"
    parts = [
        f"strategy {alias!r} is not for accelerator {accelerator!r}, {only_for}",
        *dict.fromkeys(reasons),
    ]
    backend = catalogue.backend_of_alias(split_pin(alias)[1], accelerator)
    if backend is not None and accelerator in backend.accelerators:
        how = (
            install_backend(backend)
            if backend.published
            else "torchrelay has no package for it yet"
        )
        parts.append(f"there it would come with {backend.summary}: {how}")
    return ConfigurationError("; ".join(parts))
