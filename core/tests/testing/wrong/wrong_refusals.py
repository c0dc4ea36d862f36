"""Strategies that declare that they cannot do something, and what comes of asking for it."""

from __future__ import annotations

from typing import Any

from wrong_numerics import NeverNone

from torchrelay.errors import UnsupportedError
from torchrelay.plugin import Capabilities, Capability, partial, unsupported
from torchrelay.strategies import SingleDeviceStrategy


class Refuses(SingleDeviceStrategy):
    """As it should be."""

    capabilities = Capabilities(
        declared={Capability.CLOSURE_OPTIMIZERS: unsupported("it cannot go back")}
    )


class DoesIt(SingleDeviceStrategy):
    """Does not look."""

    capabilities = Refuses.capabilities

    def check_optimizers(self) -> None:
        pass


class SaysOtherwise(SingleDeviceStrategy):
    """Gives another reason."""

    capabilities = Refuses.capabilities

    def check_optimizers(self) -> None:
        raise UnsupportedError("it does not feel like it")


class Partial(SingleDeviceStrategy):
    """Has a condition."""

    capabilities = Capabilities(declared={Capability.PREDICTION: partial("only on Sundays")})


class OnSundays(SingleDeviceStrategy):
    """Takes a precision under a condition, which does not hold."""

    capabilities = Capabilities(
        precisions=("32-true", "bf16-mixed"), conditions={"bf16-mixed": "only on Sundays"}
    )

    def refusals(self, needs: Any) -> list[str]:
        reasons = super().refusals(needs)
        if needs.precision == "bf16-mixed":
            reasons.append(f"precision={needs.precision!r}: {self.says()}")
        return reasons

    def says(self) -> str:
        return "only on Sundays"


class OnMondays(OnSundays):
    """Refuses it by another reason."""

    def says(self) -> str:
        return "only on Mondays"


class Whenever(OnSundays):
    """Declares no condition."""

    capabilities = Capabilities(precisions=("32-true", "bf16-mixed"))


class CountsAsZero(NeverNone):
    """Takes every missing gradient for zero, and says so."""

    capabilities = Capabilities(
        declared={
            **NeverNone.capabilities.declared,
            Capability.UNUSED_LEFT_OUT: unsupported("it counts as having one of zero"),
        }
    )


class OneMachine(SingleDeviceStrategy):
    """As it should be."""

    capabilities = Capabilities(
        declared={Capability.MULTIPLE_NODES: unsupported("it is one process")}
    )
