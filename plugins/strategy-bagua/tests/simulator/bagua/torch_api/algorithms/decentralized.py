"""Averages of weights with peers."""

from __future__ import annotations

from bagua_simulated.algorithms import Peers, Ring

from bagua.torch_api.algorithms.base import Algorithm


class DecentralizedAlgorithm(Algorithm):
    def __init__(self, hierarchical=True, peer_selection_mode="all", communication_interval=1):
        self.options = (hierarchical, peer_selection_mode, communication_interval)

    def reify(self, process_group):
        return Peers(process_group, *self.options)


class LowPrecisionDecentralizedAlgorithm(Algorithm):
    def __init__(self, hierarchical=True, communication_interval=1):
        self.options = (hierarchical, communication_interval)

    def reify(self, process_group):
        return Ring(process_group, *self.options)
