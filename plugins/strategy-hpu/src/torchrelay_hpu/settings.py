"""Settings: the user's options that both strategies have, and what contradicts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torchrelay.errors import ConfigurationError
from torchrelay_hpu import vendor

COMPILER = "hpu_backend"
"""The bridge's name for `torch.compile(backend=...)`."""


@dataclass(frozen=True)
class Settings:
    """What the user gave to a strategy.

    Attributes:
        compile: compile steps; a dict has further arguments of `torch.compile`.
        hpu_graphs: names of submodules that are captured into graphs while evaluating; "" is the module itself.
        fused_adamw: put the bridge's AdamW in the place of torch's.
        fused_clip_norm: clip by norm with the bridge's operation.

    Raises:
        ConfigurationError: an option is of another kind, or compile names a backend.
    """

    compile: bool | dict[str, Any] = False
    hpu_graphs: Sequence[str] = ()
    fused_adamw: bool = False
    fused_clip_norm: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.hpu_graphs, str) or not isinstance(self.hpu_graphs, Sequence):
            raise ConfigurationError(
                f"hpu_graphs={self.hpu_graphs!r} must be a sequence of submodules' names, such as ['net']; [''] is the "
                "module's own forward"
            )
        if not isinstance(self.compile, bool | dict):
            raise ConfigurationError(
                f"compile={self.compile!r} must be True, False or a dict of further arguments of torch.compile, such "
                "as {'dynamic': False}"
            )
        for name in ("fused_adamw", "fused_clip_norm"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(
                    f"{name}={getattr(self, name)!r} must be True or False; leave it out for False"
                )
        if isinstance(self.compile, dict) and "backend" in self.compile:
            raise ConfigurationError(
                f"compile has a backend, and on an HPU that is {COMPILER!r}; leave it out"
            )

    @property
    def compiles(self) -> bool:
        """Whether steps are compiled; an empty dict says yes."""
        return self.compile is not False

    @property
    def compile_arguments(self) -> dict[str, Any]:
        """Arguments of `torch.compile`."""
        given = self.compile if isinstance(self.compile, dict) else {}
        return {"backend": COMPILER, **given}

    def refusals(self) -> list[str]:
        """Why the options cannot be had in the mode that the bridge is in."""
        lazy = vendor.lazy()
        reasons = []
        if self.compiles and lazy:
            reasons.append(
                f"compile needs eager mode, as {COMPILER!r} is not for lazy mode; set PT_HPU_LAZY_MODE=0 before Python "
                "starts, or leave compile out"
            )
        if self.hpu_graphs and not lazy:
            reasons.append(
                "hpu_graphs need lazy mode, in which alone the bridge has graphs; set PT_HPU_LAZY_MODE=1 before Python "
                "starts, or take compile=True"
            )
        return reasons
