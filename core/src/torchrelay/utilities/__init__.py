"""Small helpers that scripts import by name, where Lightning's `lightning.pytorch.utilities` has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.lazy import attach

if TYPE_CHECKING:
    from torchrelay.combined_loader import CombinedLoader as CombinedLoader
    from torchrelay.utilities.grads import grad_norm as grad_norm
    from torchrelay.utilities.rank_zero import rank_zero_info as rank_zero_info
    from torchrelay.utilities.rank_zero import rank_zero_only as rank_zero_only
    from torchrelay.utilities.rank_zero import rank_zero_warn as rank_zero_warn
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "CombinedLoader": "torchrelay.combined_loader",
            "grad_norm": ".grads",
            "rank_zero_info": ".rank_zero",
            "rank_zero_only": ".rank_zero",
            "rank_zero_warn": ".rank_zero",
        },
    )
