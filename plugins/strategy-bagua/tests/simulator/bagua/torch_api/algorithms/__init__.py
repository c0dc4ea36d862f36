"""The algorithms, by name."""

from __future__ import annotations

from bagua.torch_api.algorithms import (
    async_model_average,
    bytegrad,
    decentralized,
    gradient_allreduce,
    q_adam,
)
from bagua.torch_api.algorithms.base import Algorithm as Algorithm
from bagua.torch_api.algorithms.base import GlobalAlgorithmRegistry as GlobalAlgorithmRegistry

for _name, _kind in {
    "gradient_allreduce": gradient_allreduce.GradientAllReduceAlgorithm,
    "bytegrad": bytegrad.ByteGradAlgorithm,
    "decentralized": decentralized.DecentralizedAlgorithm,
    "low_precision_decentralized": decentralized.LowPrecisionDecentralizedAlgorithm,
    "qadam": q_adam.QAdamAlgorithm,
    "async": async_model_average.AsyncModelAverageAlgorithm,
}.items():
    GlobalAlgorithmRegistry[_name] = _kind
