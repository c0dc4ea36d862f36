"""In which order fit calls a strategy: the listing in docs/contract.md is what is recorded here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import StepLR

from torchrelay.callbacks import ModelCheckpoint
from torchrelay.strategies import SingleDeviceStrategy, Strategy

DOC = Path(__file__).parents[3] / "docs" / "contract.md"


CONTEXTS = ("stage", "accumulating", "grad_off")
# Before everything, once for each step function, or once for each tensor of a batch.
QUIET = ("bind", "raw_step", "step_function", "tensor_to_device")


def recorded(name: str, method: Any) -> Any:
    def call(self: Recorder, *args: Any, **kwargs: Any) -> Any:
        line = f"{name}({args[0]!r})" if name == "stage" else name
        if name in CONTEXTS:
            return self.inside(line, method(self, *args, **kwargs))
        with self.inside(line):
            return method(self, *args, **kwargs)

    return call


class Recorder(SingleDeviceStrategy):
    """Notes each call, indented under the call or the context that it is made in."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.depth = 0

    @contextmanager
    def inside(self, line: str, context: Any = None) -> Iterator[None]:
        self.lines.append("    " * self.depth + line)
        self.depth += 1
        with context or nullcontext():
            yield
        self.depth -= 1


for member in dir(Strategy):
    method = getattr(SingleDeviceStrategy, member)
    if not member.startswith("_") and callable(method) and member not in QUIET:
        setattr(Recorder, member, recorded(member, method))


@pytest.fixture
def trace(make_trainer, boring, tmp_path):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return {"optimizer": optimizer, "lr_scheduler": StepLR(optimizer, 1)}

    def make(**options):
        strategy = Recorder()
        trainer = make_trainer(strategy=strategy, **options)
        strategy.lines.clear()
        module = boring.regression(configure_optimizers=configure_optimizers)
        trainer.fit(module, boring.loader(12), boring.loader(4))
        return strategy.lines

    return make


def listing() -> list[str]:
    [text] = re.findall(r"```text\n(refusals.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    return [line.partition("#")[0].rstrip() for line in text.splitlines()]


def test_the_listing_is_what_happens(trace, tmp_path):
    lines = trace(
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        num_sanity_val_steps=0,
        callbacks=[ModelCheckpoint(dirpath=tmp_path)],
    )
    assert lines == listing()
