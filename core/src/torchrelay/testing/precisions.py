"""How exactly each precision has to train to the numbers of one process."""

from __future__ import annotations

from torchrelay.plugin.registry import get_registry
from torchrelay.testing.case import Case

TOLERANCES = {
    "64-true": 1e-10,
    "32-true": 1e-4,
    "bf16-mixed": 2e-2,
    "16-mixed": 4e-3,
    "bf16-true": 6e-2,
    "16-true": 8e-3,
}
"""Relative and absolute difference of weights after some ten updates; best precision first.

Ranks add up parts of a batch in another order than one process does, so each update may be off by a few roundings of
the format (1e-16, 1e-7, 8e-3 for bf16's products, 1e-3 for half's), and an optimizer that divides by the size of small
gradients makes more of them. A true 16-bit format rounds the weights as well, at each update.
"""

OWN = 0.1
"""For a backend's own formats, which are compared with 32 bits; they may have eight bits or fewer."""


def precisions(case: Case) -> tuple[str, ...]:
    """The precisions that strategy and accelerator both take."""
    known = {each.spec.name: each.spec for each in get_registry().accelerators}
    hardware = known[case.kit.accelerator].precisions if case.kit.accelerator in known else None
    own = case.capabilities.precisions
    named = own if own is not None else hardware if hardware is not None else tuple(TOLERANCES)
    return tuple(name for name in named if hardware is None or own is None or name in hardware)


def best(case: Case) -> str:
    """The precision in which numbers are compared: the subject's own, or else the best that it takes."""
    if "precision" in case.subject.trainer:
        return str(case.subject.trainer["precision"])
    taken = precisions(case)
    certain = [name for name in TOLERANCES if name in taken and not condition(case, name)]
    return next(iter([*certain, *taken]))


def condition(case: Case, name: str) -> str:
    """The condition under which the strategy declares to take a precision; "" if it always does."""
    return case.capabilities.conditions.get(name, "")


def tolerance(name: str) -> float:
    """The tolerance of a precision."""
    return TOLERANCES.get(name, OWN)


def of_reference(name: str) -> str:
    """The precision that one process computes in, to compare with."""
    return name if name in TOLERANCES else "32-true"
