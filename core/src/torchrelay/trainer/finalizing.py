"""Whether gradients need anything after backward, found once, so that an update which needs nothing pays nothing."""

from __future__ import annotations

from torchrelay.module import is_overridden
from torchrelay.precision.precision import Precision
from torchrelay.strategies.strategy import Strategy


def has_to_finalize(strategy: Strategy) -> bool:
    """Whether the strategy's `finalize_gradients` does anything after the backward of this strategy."""
    own = ("finalize_gradients", "reduce_gradients")
    if any(is_overridden(name, strategy, Strategy) for name in own):
        return True
    return is_overridden("unscale", strategy.precision_plugin, Precision)
