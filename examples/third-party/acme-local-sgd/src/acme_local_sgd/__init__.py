"""Local SGD for torchrelay. Importing it imports no torch: `LocalSGDStrategy` comes when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acme_local_sgd.strategy import LocalSGDStrategy as LocalSGDStrategy

__all__ = ["LocalSGDStrategy"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from acme_local_sgd.strategy import LocalSGDStrategy

    return LocalSGDStrategy
