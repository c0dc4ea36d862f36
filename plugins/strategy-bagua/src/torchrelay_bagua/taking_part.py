"""Which parameters take part in a backward pass.

Bagua sends a bucket when all gradients in it are there. One that is missing keeps back the others, which each rank then
takes for averages: nothing is said, and ranks part. Its option `find_unused_parameters` does not mend that: it makes
buckets of all parameters again (`_reset_buckets` in bagua/torch_api/data_parallel/bagua_distributed.py), marks those
that were used (`_delay_allreduce`), so that the same bucket still waits, and combines the whole ones a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from torchrelay.errors import UnsupportedError

FEW = 3


class TakingPart:
    """Counts the gradients of a backward pass, by hooks on the parameters.

    Args:
        parameters: those that are trained, by name.
    """

    def __init__(self, parameters: Sequence[tuple[str, nn.Parameter]]) -> None:
        self._names = {id(parameter): name for name, parameter in parameters}
        self._seen: set[int] = set()
        self._hooks = [_watched(each, self._see) for _, each in parameters]

    def _see(self, parameter: nn.Parameter) -> None:
        self._seen.add(id(parameter))

    def begin(self) -> None:
        """A backward pass begins."""
        self._seen.clear()

    def check(self) -> None:
        """It has ended.

        Raises:
            UnsupportedError: some parameter had no gradient.
        """
        if len(self._seen) == len(self._names):
            return
        missing = [name for key, name in self._names.items() if key not in self._seen]
        more = f" and {len(missing) - FEW} more" if len(missing) > FEW else ""
        raise UnsupportedError(
            f"unused in this step: {', '.join(missing[:FEW])}{more}; Bagua then sends none of the gradients beside "
            "them; add 0 * p.sum() to the loss for each such parameter p"
        )

    def close(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()


def _watched(parameter: nn.Parameter, see: Callable[[nn.Parameter], None]) -> Any:
    register: Any = parameter.register_post_accumulate_grad_hook
    return register(see)
