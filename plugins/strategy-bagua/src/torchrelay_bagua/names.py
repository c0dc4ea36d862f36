"""Names by which Bagua's service knows a model."""

from __future__ import annotations

import itertools
import weakref

from torch import nn

_numbers = itertools.count()
_names: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()


def name_of(module: nn.Module) -> str:
    """A module's name, the same whenever it is trained, and on all ranks that train the same modules in one order.

    While a module is trained Bagua has it on each parameter, and refuses another one there; its own is the object's
    address.
    """
    if module not in _names:
        _names[module] = f"torchrelay_{type(module).__name__}_{next(_numbers)}"
    return _names[module]
