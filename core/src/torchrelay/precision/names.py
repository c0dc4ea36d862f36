"""Names of precisions: today's, and the old spellings that stand for them. Imports no torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from torchrelay.errors import UnknownNameError

NAMES = ("32-true", "64-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed")
"""The precisions that core brings."""

OLD_SPELLINGS = {
    "16": "16-mixed",
    "bf16": "bf16-mixed",
    "32": "32-true",
    "64": "64-true",
}
"""What the short names have always meant: 16 bits are mixed, the others are true."""


def canonical(name: str | int, known: Iterable[str] = NAMES) -> str:
    """Today's name of a precision.

    Args:
        name: a name, or an old spelling: 16, "16", "bf16", 32, 64, ...
        known: the names to choose from; a registry passes those of plugins too.

    Raises:
        UnknownNameError: no such precision; the message says what there is.
    """
    names = tuple(known)
    asked = str(name).strip().lower()
    found = OLD_SPELLINGS.get(asked, asked)
    if found in names and not isinstance(name, bool):
        return found
    near = difflib.get_close_matches(asked, [*names, *OLD_SPELLINGS], n=1)
    hint = f"did you mean {OLD_SPELLINGS.get(near[0], near[0])!r}? " if near else ""
    raise UnknownNameError(
        f"there is no precision {name!r}; {hint}choose one of {', '.join(names)} "
        f"({', '.join(f'{old} is {new}' for old, new in OLD_SPELLINGS.items() if new in names)})"
    )
