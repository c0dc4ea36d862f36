"""Averages of weights in the background."""

from __future__ import annotations

from bagua_simulated.algorithms import Background

from bagua.torch_api.algorithms.base import Algorithm


class AsyncModelAverageAlgorithmImpl(Background):
    def __init__(
        self, process_group, peer_selection_mode="all", sync_interval_ms=500, warmup_steps=0
    ):
        super().__init__(process_group, peer_selection_mode, sync_interval_ms, warmup_steps)

    def abort(self, bagua_ddp):
        self.abort_in(bagua_ddp.inner)

    def resume(self, bagua_ddp):
        self.resume_in(bagua_ddp.inner)


class AsyncModelAverageAlgorithm(Algorithm):
    def __init__(self, peer_selection_mode="all", sync_interval_ms=500, warmup_steps=0):
        self.options = (peer_selection_mode, sync_interval_ms, warmup_steps)

    def reify(self, process_group):
        return AsyncModelAverageAlgorithmImpl(process_group, *self.options)
