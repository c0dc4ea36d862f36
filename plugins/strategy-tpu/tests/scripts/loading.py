"""What goes wrong with data, or could, on one XLA device."""

from __future__ import annotations

import threading
from typing import Any

import torch
from problems import BATCH, BATCHES, OUT, Regression, Stream, leave, loader, quiet, state_of
from torch.utils.data import DataLoader, Dataset

from torchrelay import seed_everything
from torchrelay_tpu import XLACheckpointIO
from torchrelay_tpu.loader import DeviceLoader

ONE = {"strategy": "single_tpu", "accelerator": "tpu"}


class Broken(Dataset[Any]):
    """Fails in the middle."""

    def __len__(self) -> int:
        return BATCH * BATCHES

    def __getitem__(self, index: int) -> Any:
        if index == BATCH * 3:
            raise ValueError("sample 24 is broken")
        return torch.zeros(8), torch.zeros(1)


def swallowed() -> int:
    """The batches that torch-xla's own loader gives of a data set that fails, without an error."""
    import torch_xla
    from torch_xla.distributed.parallel_loader import MpDeviceLoader

    hook, threading.excepthook = threading.excepthook, lambda _: None
    try:
        return sum(1 for _ in MpDeviceLoader(DataLoader(Broken(), BATCH), torch_xla.device()))
    finally:
        threading.excepthook = hook


def broken() -> str:
    try:
        quiet(**ONE).fit(Regression(), DataLoader(Broken(), BATCH))
    except ValueError as error:
        return str(error)
    return ""


def left_by_a_break(strategy: Any) -> list[str]:
    before = set(threading.enumerate())
    wrapped = strategy.process_dataloader(loader(), "train")
    for _ in wrapped:
        break
    return [each.name for each in threading.enumerate() if each not in before]


def seeded(seed: int) -> Any:
    seed_everything(seed, verbose=False)
    module = Regression(dropout=0.5)
    quiet(**ONE, max_epochs=1).fit(module, loader())
    return state_of(module)


class Masks(Regression):
    """Keeps what dropout leaves of ones, at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[list[float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        ones = torch.ones(64, device=self.device)
        self.masks.append(torch.nn.functional.dropout(ones, 0.5).tolist())
        return super().training_step(batch, batch_idx)


def masks() -> list[list[float]]:
    """Those of three epochs over data that draws nothing."""
    module = Masks()
    quiet(**ONE, max_epochs=3).fit(module, list(loader())[:2])
    return module.masks


def devices_written() -> set[str]:
    """Where the tensors of a checkpoint are that XLACheckpointIO has written of one on XLA's device."""
    import torch_xla

    path = OUT / "own.ckpt"
    on_device = {"weights": [torch.ones(2).to(torch_xla.device()) * 2]}
    XLACheckpointIO().save_checkpoint(on_device, path)
    (tensor,) = torch.load(path)["weights"]
    return {tensor.device.type, *map(str, tensor.tolist())}


def main() -> None:
    found: dict[str, Any] = {"broken": broken()}
    trainer = quiet(**ONE, max_epochs=1)
    trainer.fit(Regression(), loader())
    given = loader()
    wrapped: Any = trainer.strategy.process_dataloader(given, "train")
    found["length"] = (
        type(wrapped) is DeviceLoader,
        len(wrapped),
        wrapped.dataset is given.dataset,
    )
    found["threads"] = left_by_a_break(trainer.strategy)
    found["swallowed"] = swallowed()
    module = Regression()
    streaming = quiet(**ONE, max_epochs=1)
    streaming.fit(module, DataLoader(Stream(), BATCH))
    found["stream"] = (streaming.global_step, state_of(module))
    module = Regression()
    quiet(**ONE, max_epochs=1).fit(module, loader())
    found["sized"] = state_of(module)
    module = Regression()
    quiet(**ONE, max_epochs=1).fit(module, loader(num_workers=1))
    found["workers"] = state_of(module)
    found["seeds"] = [seeded(seed) for seed in (1, 1, 2)]
    found["masks"] = masks()
    found["written"] = devices_written()
    leave("loading", found)


if __name__ == "__main__":
    main()
