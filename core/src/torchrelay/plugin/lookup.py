"""Which of the offers a name means. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from torchrelay.errors import AmbiguousNameError
from torchrelay.plugin.records import Offer, SpecT, normalized
from torchrelay.plugin.scan import CORE
from torchrelay.plugin.specs import AcceleratorSpec, PrecisionSpec, StrategySpec

ClaimT = TypeVar("ClaimT", StrategySpec, PrecisionSpec)


def split_pin(asked: str) -> tuple[str | None, str]:
    """`"distribution:name"` into the normalized distribution, None where there is none, and name."""
    distribution, colon, name = asked.rpartition(":")
    return (normalized(distribution), name) if colon else (None, asked)


def named(offers: Iterable[Offer[SpecT]], asked: str) -> tuple[Offer[SpecT], ...]:
    """The offers of that name, of the pinned distribution if one is pinned."""
    pin, name = split_pin(asked)
    return tuple(
        offer
        for offer in offers
        if offer.spec.name == name and pin in (None, normalized(offer.owner.distribution))
    )


def most_specific(offers: Sequence[Offer[ClaimT]], accelerator: str) -> tuple[Offer[ClaimT], ...]:
    """Those that claim the name for `accelerator` in particular, else those that do for all."""
    particular = tuple(offer for offer in offers if accelerator in offer.spec.accelerators)
    return particular or tuple(offer for offer in offers if not offer.spec.accelerators)


def takes(accelerator: AcceleratorSpec, precision: PrecisionSpec) -> bool:
    """Whether the precision is for the accelerator, and the hardware has the format.

    A precision that names the accelerator is taken at its word.
    """
    if precision.accelerators:
        return accelerator.name in precision.accelerators
    return accelerator.precisions is None or precision.name in accelerator.precisions


def only(offers: Sequence[Offer[SpecT]], what: str) -> Offer[SpecT]:
    """The one offer.

    Args:
        offers: at least one.
        what: what is looked for, for the message, such as `strategy 'ddp' for accelerator 'cpu'`.

    Raises:
        AmbiguousNameError: there are several.
    """
    if len(offers) == 1:
        return offers[0]
    owners = sorted({offer.owner for offer in offers}, key=str)
    others = [owner.distribution for owner in owners if owner.distribution != CORE]
    raise AmbiguousNameError(
        f"{what} is provided by {' and by '.join(map(str, owners))}; write "
        f"{' or '.join(repr(f'{o.distribution}:{offers[0].spec.name}') for o in owners)}, "
        f"or switch one off: TORCHRELAY_DISABLE_PLUGINS={others[-1]}"
    )
