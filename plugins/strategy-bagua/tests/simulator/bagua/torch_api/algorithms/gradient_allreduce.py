"""Exact averages of gradients."""

from __future__ import annotations

from bagua_simulated.algorithms import Gradients

from bagua.torch_api.algorithms.base import Algorithm


class GradientAllReduceAlgorithm(Algorithm):
    def __init__(self, hierarchical=False, average=True):
        self.options = (hierarchical, average)

    def reify(self, process_group):
        return Gradients(process_group, *self.options)
