"""GradientReducer: averages gradients over ranks by Horovod, while the rest of backward runs.

It is what `hvd.DistributedOptimizer` does, beside the user's optimizer instead of in its place. That one is made by the
constructor of the user's class, which may ask for more than parameters, and begins with no state and other defaults;
takes no `zero_grad(set_to_none=...)`; forbids to clear gradients before the update; reduces before it calls a closure;
and does not see parameters that are added later.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import is_

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from torchrelay.errors import UnsupportedError
from torchrelay_horovod import vendor
from torchrelay_horovod.collectives import NAME, HorovodCollectives
from torchrelay_horovod.groups import Group, Sent, divide


class GradientReducer:
    """Averages the gradients of optimizers' parameters.

    Args:
        collectives: connected; the parameters are the same on all ranks.
        names: of the parameters, the same on all ranks.
        compression: a name of `vendor.COMPRESSIONS`: what becomes of gradients on their way.
        predivide: by which gradients are divided before they are summed; the rest of the division comes after.
    """

    def __init__(
        self,
        collectives: HorovodCollectives,
        names: Mapping[nn.Parameter, str],
        *,
        compression: str = "none",
        predivide: float = 1.0,
    ) -> None:
        self.sending = False
        self._collectives = collectives
        self._names = dict(names)
        self._compression = vendor.compression(compression)
        self._averaging = vendor.Averaging(predivide)
        self._hooks: dict[nn.Parameter, RemovableHandle] = {}
        self._watched: dict[int, list[nn.Parameter]] = {}
        self._groups: dict[int, list[Group]] = {}
        self._group_of: dict[torch.Tensor, Group] = {}
        self._twice = ""

    def watch(self, optimizer: Optimizer) -> list[nn.Parameter]:
        """Let the gradients of an optimizer's parameters be sent as soon as they are there; those that are trained.

        Those that it has not seen before, as they were added since, begin with rank 0's values. Collective then.
        """
        every = [p for group in optimizer.param_groups for p in group["params"]]
        trained = [p for p in every if p.requires_grad]
        known = self._watched.get(id(optimizer), ())
        if len(trained) == len(known) and all(map(is_, trained, known)):
            return trained
        added = [p for p in every if p not in self._names]
        if added:
            first = len(self._names)
            self._names |= {p: f"added.{first + i}" for i, p in enumerate(added)}
            self._collectives.share({self._names[p]: p for p in added})
        for parameter in trained:
            if parameter not in self._hooks:
                hook = parameter.register_post_accumulate_grad_hook(self._on_gradient)
                self._hooks[parameter] = hook
        self._watched[id(optimizer)] = trained
        self._group(id(optimizer), trained)
        return trained

    def _group(self, owner: int, trained: list[nn.Parameter]) -> None:
        """Put an optimizer's parameters into groups; those stay whose parameters are all still trained."""
        wanted, kept = set(trained), []
        for group in self._groups.get(owner, ()):
            if wanted.issuperset(group.members):
                kept.append(group)
                wanted.difference_update(group.members)
            else:
                for parameter in group.members:
                    self._group_of.pop(parameter, None)
        made = [
            Group(f"{NAME}.gradients.{self._names[part[0]]}.{len(part)}", part)
            for part in divide(p for p in trained if p in wanted)
        ]
        self._groups[owner] = kept + made
        self._group_of |= {p: group for group in made for p in group.members}

    def average(self, optimizer: Optimizer) -> None:
        """Make each gradient of an optimizer the mean over ranks. Collective.

        A parameter without a gradient on some ranks counts as zero there; without one anywhere it stays so.

        Raises:
            UnsupportedError: a gradient was added to while it was under way.
        """
        trained = self.watch(optimizer)
        used = [parameter.grad is not None for parameter in trained]
        groups = self._groups[id(optimizer)]
        for group in groups:
            if group.sent is None:
                self._send(group)
        for group in groups:
            self._receive(group)
        self._leave_out(trained, used)
        if self._twice:
            raise UnsupportedError(
                f"the gradient of {self._twice} was computed twice in one backward pass, after Horovod had begun to "
                "average it, as reentrant activation checkpoints do; take "
                "torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
            )

    def close(self) -> None:
        """Leave parameters as they were; nothing is waited for."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()
        self._watched.clear()
        self._groups.clear()
        self._group_of.clear()

    def _on_gradient(self, parameter: torch.Tensor) -> None:
        # None for a layer that was unfrozen since the last update: `average` will meet it.
        group = self._group_of.get(parameter) if self.sending else None
        if group is None:
            return
        if group.sent is not None:
            # Said when nothing is under way any more, so that all ranks come to say it.
            self._twice = self._names[parameter]  # type: ignore[index]
            return
        group.missing.discard(parameter)
        if not group.missing:
            self._send(group)

    def _send(self, group: Group) -> None:
        gradients, wires, contexts = [], [], []
        for parameter in group.members:
            gradient = parameter.grad
            if gradient is None:
                gradient = parameter.grad = torch.zeros_like(parameter)
            wire = gradient.to_dense() if gradient.is_sparse else gradient
            wire, context = self._compression.compress(wire)
            wires.append((wire if wire.dtype in vendor.TYPES else wire.float()).contiguous())
            gradients.append(gradient)
            contexts.append(context)
        handle = self._averaging.begin(wires, group.name)
        group.sent = Sent(handle, gradients, contexts)

    def _receive(self, group: Group) -> None:
        sent = group.sent
        if sent is None:
            return
        means = self._averaging.wait(sent.handle)
        for parameter, mean, gradient, context in zip(
            group.members, means, sent.gradients, sent.contexts, strict=True
        ):
            if mean is not gradient:
                whole = self._compression.decompress(mean, context).to(gradient.dtype)
                parameter.grad = whole.to_sparse() if gradient.is_sparse else whole
        group.reset()

    def _leave_out(self, trained: list[nn.Parameter], used: list[bool]) -> None:
        """Take away the gradients of parameters that no rank has used. Collective where some gradient is zero.

        Such a gradient has come out as zero, as have those of none but zeros, on all ranks alike. So ranks need to ask
        each other only then, and a usual step pays for a look at the first number of each.

        Args:
            trained: parameters, with averaged gradients.
            used: whether this rank had a gradient of each.
        """
        gradients = [parameter.grad for parameter in trained]
        if _all_begin_with_a_number(gradients):
            return
        doubtful = [i for i, g in enumerate(gradients) if g is not None and not _has_number(g)]
        if not doubtful:
            return
        votes = torch.tensor([float(used[i]) for i in doubtful], device=trained[0].device)
        name = f"{NAME}.has_gradient.{self._names[trained[0]]}.{len(doubtful)}"
        (shares,) = self._averaging.wait(self._averaging.begin([votes], name))
        for i, share in zip(doubtful, shares.tolist(), strict=True):
            if not share:
                trained[i].grad = None


def _all_begin_with_a_number(gradients: list[torch.Tensor | None]) -> bool:
    """Whether the first element of each differs from zero; also False where that takes longer to find out."""
    first: list[torch.Tensor] = []
    for gradient in gradients:
        if gradient is None or gradient.is_sparse or not gradient.numel():
            return False
        first.append(gradient.as_strided((1,), (1,)))
    one_type = len({number.dtype for number in first}) == 1
    return not first or (one_type and bool(torch.cat(first).all()))


def _has_number(gradient: torch.Tensor) -> bool:
    """Whether some element differs from zero."""
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    return bool(values.any())
