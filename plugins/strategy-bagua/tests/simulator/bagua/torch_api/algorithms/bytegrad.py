"""Averages of gradients in 8 bits."""

from __future__ import annotations

from bagua_simulated.algorithms import Bytes

from bagua.torch_api.algorithms.base import Algorithm


class ByteGradAlgorithm(Algorithm):
    def __init__(self, hierarchical=True, average=True):
        self.options = (hierarchical, average)

    def reify(self, process_group):
        return Bytes(process_group, *self.options)
