"""The families of checks, each a module of this package."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from torchrelay.errors import UnknownNameError
from torchrelay.testing.checks import Check

FAMILIES = (
    "declaration",
    "composition",
    "collectives",
    "numerics",
    "loop",
    "state",
    "failure",
    "teardown",
)
"""In the order in which they are examined: what later ones stand on comes first."""


def checks_of(family: str) -> tuple[Check, ...]:
    """The checks of a family, in the order in which its module defines them.

    Raises:
        UnknownNameError: there is no such family.
    """
    if family not in FAMILIES:
        raise UnknownNameError(f"no family {family!r}; there are {', '.join(FAMILIES)}")
    module = import_module(f"torchrelay.testing.{family}")
    return tuple(each for each in vars(module).values() if isinstance(each, Check))


def all_checks(families: Iterable[str] = FAMILIES) -> tuple[Check, ...]:
    """The checks of several families."""
    return tuple(check for family in families for check in checks_of(family))
