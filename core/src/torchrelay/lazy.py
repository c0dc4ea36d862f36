"""Public names that are imported when they are first used (PEP 562).

In a package's `__init__.py`::

    if TYPE_CHECKING:
        from torchrelay.accelerators.cpu import CPUAccelerator as CPUAccelerator
    else:
        __getattr__, __dir__, __all__ = attach(__name__, {"CPUAccelerator": ".cpu"})

The assignment stands under `else`, because a type checker that sees a module's `__getattr__` takes every name
for a good one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def attach(
    package: str, names: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Make a package's `__getattr__`, `__dir__` and `__all__`.

    Args:
        package: the package's `__name__`.
        names: public name -> the module that defines it, absolute or relative to `package` (`".cpu"`).
    """

    def get(name: str) -> Any:
        module = names.get(name)
        if module is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(module, package), name)
        setattr(sys.modules[package], name, value)
        return value

    def listing() -> list[str]:
        return sorted({*vars(sys.modules[package]), *names})

    return get, listing, sorted(names)
