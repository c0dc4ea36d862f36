"""What is installed, and on what machine, in the tests of resolution. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from torchrelay.plugin import Hardware
from torchrelay.plugin.discovery import discover
from torchrelay.plugin.registry import Registry
from torchrelay.trainer.resolve import Machine

_DDP = """
    @hookimpl
    def torchrelay_strategies():
        for alias in ("ddp", "ddp_spawn", "ddp_notebook"):
            yield StrategySpec(alias=alias, target="m:C", description="Processes.")
        yield StrategySpec(
            alias="dp", target="m:C", description="Threads.", accelerators=("cuda",), process_per_device=False,
            refusals={"cpu": "threads share one interpreter"},
        )
"""

_NPU = """
    @hookimpl
    def torchrelay_accelerators():
        yield AcceleratorSpec(
            name="npu", target="m:A", probe="m:probe", description="Fast.", priority=60,
            default_strategy="npu_parallel", precisions=("32-true", "8-npu"),
        )

    @hookimpl
    def torchrelay_strategies():
        for alias in ("npu_parallel", "ddp_spawn"):
            yield StrategySpec(alias=alias, target="m:C", description="Fast.", accelerators=("npu",))

    @hookimpl
    def torchrelay_precision_plugins():
        yield PrecisionSpec(name="8-npu", target="m:P", description="Eight.", accelerators=("npu",))
"""

_SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NNODES": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_JOB_NODELIST": "n[1-2]",
}

_TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "x",
    "MASTER_ADDR": "h",
    "MASTER_PORT": "1",
    "WORLD_SIZE": "4",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "0",
}


@pytest.fixture
def registry(site: Any) -> Registry:
    """Core, the DDP family and a backend of somebody else's, as far as resolution sees them."""
    site.plugin("torchrelay-ddp", _DDP)
    site.plugin("acme-npu", _NPU, version="2")
    return Registry(discover(site.search, {}))


@pytest.fixture
def machine() -> Callable[..., Machine]:
    """Makes machines of 8 cores with so many devices of each other kind, in a cluster or in none."""

    def make(cluster: str = "", interactive: bool = False, **counts: int) -> Machine:
        environ = {"": {}, "slurm": _SLURM, "torchrun": _TORCHRUN}[cluster]

        def probe(spec: Any) -> Hardware:
            count = {"cpu": 8, **counts}.get(spec.name, 0)
            return Hardware(count=count, reason="" if count else f"no {spec.name} driver")

        return Machine(environ=environ, interactive=interactive, probe=probe)

    return make
