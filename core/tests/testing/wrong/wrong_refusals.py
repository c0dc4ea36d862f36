"""Strategies that declare that they cannot do something, and what comes of asking for it."""

from __future__ import annotations

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


class OneMachine(SingleDeviceStrategy):
    """As it should be."""

    capabilities = Capabilities(
        declared={Capability.MULTIPLE_NODES: unsupported("it is one process")}
    )
