"""Buckets: tensors that travel together once all of them are ready."""

from __future__ import annotations

import torch
from bagua.torch_api import env


class Bucket:
    """Some parameters and what of each is sent: itself, its gradient, or its momentum.

    Args:
        parameters: by name.
        get: what of a parameter is sent.
        put: puts another tensor in its place; None writes into the parameter itself.
        flatten: let them lie side by side.
        alignment: of the number of elements, zeros at the end making it up.
    """

    def __init__(self, parameters, get, put, flatten, alignment=1):
        self.parameters, self.get = dict(parameters), get
        self.missing = set(self.parameters)
        size = sum(each.numel() for each in self.parameters.values())
        first = get(next(iter(self.parameters.values())))
        self.padding = first.new_zeros(-size % alignment)
        self.flat = None
        if flatten:
            self._flatten(put)
        self.addresses = {name: get(each).data_ptr() for name, each in self.parameters.items()}

    @torch.no_grad()
    def _flatten(self, put):
        self.flat = torch.cat(
            [*(self.get(each).reshape(-1) for each in self.parameters.values()), self.padding]
        )
        at = 0
        for each in self.parameters.values():
            view = self.flat[at : at + each.numel()].view(each.shape)
            at += each.numel()
            if put is None:
                each.data = view
            else:
                put(each, view)

    @torch.no_grad()
    def together(self):
        """What is sent, (n,): the bucket's memory, or a copy."""
        if self.flat is not None:
            return self.flat
        return torch.cat(
            [*(self.get(each).reshape(-1) for each in self.parameters.values()), self.padding]
        )

    @torch.no_grad()
    def put_back(self, flat):
        """What came, where `together` gave a copy."""
        at = 0
        for each in self.parameters.values():
            if flat is not self.flat:
                self.get(each).copy_(flat[at : at + each.numel()].view(each.shape))
            at += each.numel()

    def check(self, name, parameter, what):
        """Refuse a tensor that has left the bucket's memory."""
        found = self.get(parameter)
        there = found is not None and found.data_ptr() == self.addresses[name]
        assert there, f"simulated: bagua backend tensor data_ptr should match {what}"


def buckets_of(parameters, make):
    """Buckets of at most BAGUA_DEFAULT_BUCKET_SIZE bytes, last parameters first, as the service suggests."""
    limit, groups, size = env.get_default_bucket_size(), [[]], 0
    for name, each in reversed(list(parameters)):
        bytes_ = each.numel() * each.element_size()
        if groups[-1] and size + bytes_ > limit:
            groups.append([])
            size = 0
        groups[-1].append((name, each))
        size += bytes_
    return [make(group) for group in groups]
