"""Numeric formats of parameters, inputs and arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.lazy import attach

if TYPE_CHECKING:
    from torchrelay.precision.mixed import MixedPrecision as MixedPrecision
    from torchrelay.precision.names import canonical as canonical
    from torchrelay.precision.precision import Precision as Precision
    from torchrelay.precision.true import TruePrecision as TruePrecision
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "MixedPrecision": ".mixed",
            "Precision": ".precision",
            "TruePrecision": ".true",
            "canonical": ".names",
        },
    )
