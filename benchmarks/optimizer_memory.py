"""Bytes that a rank keeps for Adam at each ZeRO stage, counted from the tensors of a DeepSpeed engine.

Run it by `python benchmarks/optimizer_memory.py` where torchrelay-deepspeed is installed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from measure import run
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from workload import peak_megabytes

from torchrelay import LightningModule, Trainer
from torchrelay.callbacks import Callback
from torchrelay_deepspeed.layout import places, torch_optimizer

PRECISIONS = ("32-true", "bf16-mixed")
STAGES = (0, 1, 2, 3)
PROCESSES = 2
WIDTH, LAYERS = 1024, 20
"""Of the perceptron: 21 million parameters."""

STEPS = 2
MEGABYTE = 1024**2


@dataclass(frozen=True)
class Kept:
    """What one rank keeps after some updates, in MiB.

    Attributes:
        state: the optimizer's own tensors, for Adam two moments.
        masters: fp32 weights that the optimizer updates in the place of the module's.
        parameters: the module's, as this rank has them.
        resident: growth of the process's resident memory since before the module was made.
        peak: the most memory that was resident.
    """

    state: float
    masters: float
    parameters: float
    resident: float
    peak: float


class Network(LightningModule):
    """A perceptron that is all weights and next to no activations."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.layers(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-4)


class Count(Callback):
    """Counts at the end of training, while the engine is there, and writes a report for each rank."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.before = resident_megabytes()

    def on_train_end(self, trainer: Any, module: Any) -> None:
        engine = trainer.strategy.model
        found = places(engine, module)
        optimizer = torch_optimizer(engine)
        state = optimizer.state.values() if optimizer else ()
        own = [getattr(each, "ds_tensor", each) for each in module.parameters()]
        kept = Kept(
            state=_megabytes([value for entry in state for value in entry.values()]),
            masters=_megabytes([p.master for p in found if p.master is not p.parameter]),
            parameters=_megabytes(own),
            resident=resident_megabytes() - self.before,
            peak=peak_megabytes(),
        )
        Path(self.folder, f"{trainer.global_rank}.json").write_text(json.dumps(asdict(kept)))


def _megabytes(values: list[Any]) -> float:
    """Of tensors, each storage once."""
    storages = [each.untyped_storage() for each in values if isinstance(each, torch.Tensor)]
    return sum({each.data_ptr(): each.nbytes() for each in storages}.values()) / MEGABYTE


def resident_megabytes() -> float:
    """Memory of this process that is resident, as Linux counts it."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def train(stage: int, precision: str, folder: Path) -> None:
    """Train on one rank, or on all from there."""
    torch.manual_seed(0)
    count = Count(folder)
    data = TensorDataset(torch.randn(2 * STEPS * PROCESSES, WIDTH))
    trainer = Trainer(
        strategy=f"deepspeed_stage_{stage}",
        accelerator="cpu",
        devices=PROCESSES,
        precision=precision,
        max_steps=STEPS,
        callbacks=[count],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Network(), DataLoader(data, batch_size=2))


def measure_all() -> dict[tuple[str, int], Kept]:
    """Of each precision and stage, what the rank that keeps most keeps.

    Raises:
        MeasurementError: a run failed.
    """
    results = {}
    for precision in PRECISIONS:
        for stage in STAGES:
            with tempfile.TemporaryDirectory() as folder:
                run([sys.executable, __file__, str(stage), precision, folder])
                ranks = [Kept(**json.loads(file.read_text())) for file in Path(folder).iterdir()]
            results[precision, stage] = max(ranks, key=lambda kept: kept.state + kept.masters)
    return results


def to_markdown(results: dict[tuple[str, int], Kept]) -> str:
    """A table, with the optimizer's memory over that of stage 0."""
    lines = [
        "| precision | stage | moments | masters | together | of stage 0 | parameters | RSS grew by | peak RSS |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for (precision, stage), kept in results.items():
        whole = results[precision, 0]
        together, of_all = kept.state + kept.masters, whole.state + whole.masters
        sizes = (kept.state, kept.masters, together)
        cells = [*(f"{size:.0f}" for size in sizes), f"{together / of_all:.2f}"]
        cells += [f"{size:.0f}" for size in (kept.parameters, kept.resident, kept.peak)]
        lines.append(f"| {precision} | {stage} | {' | '.join(cells)} |")
    count = sum(p.numel() for p in Network().parameters())
    note = f"MiB on the rank that keeps most of {PROCESSES}, after {STEPS} updates by Adam of {count:,} parameters."
    return "\n".join(lines) + f"\n\n{note}\n"


if __name__ == "__main__":
    if sys.argv[1:]:
        train(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
    else:
        print(to_markdown(measure_all()))
