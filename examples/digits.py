"""Train a small convolutional network on the 1,797 handwritten digits that ship with scikit-learn.

    python examples/digits.py                                   # one device
    python examples/digits.py --strategy ddp --devices 2        # two processes, whatever the accelerator
    python examples/digits.py --strategy ddp --accelerator gpu --devices 4 --precision bf16-mixed

The script is the same for every strategy. It trains, keeps the best checkpoint, tests it on digits that training
never saw, and resumes from it for one epoch more.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from torchrelay import LightningModule, Trainer, seed_everything
from torchrelay.callbacks import ModelCheckpoint

GLOBAL_BATCH = 64


class DigitNet(LightningModule):
    """Two convolutions and a linear layer, for images of shape (batch, 1, 8, 8)."""

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64 * 4 * 4, 10),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of shape (batch, 10)."""
        return self.net(images)

    def training_step(self, batch, batch_idx):
        """Cross entropy of a batch."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        """Accuracy on the validation digits, over all processes."""
        self.log("val_acc", self.accuracy(batch), prog_bar=True, sync_dist=True)

    def test_step(self, batch, batch_idx):
        """Accuracy on the held-out digits, over all processes."""
        self.log("test_acc", self.accuracy(batch), sync_dist=True)

    def accuracy(self, batch) -> torch.Tensor:
        """Share of correct predictions, a 0-dim tensor."""
        images, labels = batch
        return (self(images).argmax(dim=1) == labels).float().mean()

    def configure_optimizers(self):
        """AdamW whose learning rate falls along a cosine."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=1e-4)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def digits() -> list[TensorDataset]:
    """Training, validation and held-out digits: images of shape (1, 8, 8) between 0 and 1, and labels."""
    raw = load_digits()
    images = torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1) / 16
    everything = TensorDataset(images, torch.tensor(raw.target))
    return random_split(everything, [1297, 200, 300], torch.Generator().manual_seed(0))


def main() -> None:
    """Train, test, resume; append the figures to a file if one is named."""
    args = arguments()
    seed_everything(1)
    started = time.perf_counter()
    best = ModelCheckpoint(monitor="val_acc", mode="max")
    first = trainer(args, args.epochs, best)
    share = GLOBAL_BATCH // first.world_size
    training, validation, held_out = digits()
    train_loader = DataLoader(training, batch_size=share, shuffle=True)
    val_loader = DataLoader(validation, batch_size=share)
    test_loader = DataLoader(held_out, batch_size=share)

    model = DigitNet()
    first.fit(model, train_loader, val_loader)
    tested = first.test(model, test_loader, ckpt_path="best")[0]["test_acc"]

    done = torch.load(best.best_model_path, weights_only=True)["epoch"]
    again = trainer(args, done + 1)
    again.fit(model, train_loader, val_loader, ckpt_path=best.best_model_path)
    resumed = again.test(model, test_loader)[0]["test_acc"]

    if first.is_global_zero:
        result = {
            "strategy": args.strategy,
            "processes": first.world_size,
            "best epoch": done,
            "validation accuracy": round(best.best_model_score, 4),
            "test accuracy": round(tested, 4),
            "after one epoch more": round(resumed, 4),
            "seconds": round(time.perf_counter() - started, 1),
        }
        print("  ".join(f"{name}: {value}" for name, value in result.items()))
        if args.results:
            with open(args.results, "a") as file:
                file.write(json.dumps(result) + "\n")


def trainer(args: argparse.Namespace, epochs: int, *callbacks) -> Trainer:
    """A Trainer as the command line asks for it."""
    return Trainer(
        strategy=args.strategy,
        accelerator=args.accelerator,
        devices=args.devices,
        precision=args.precision,
        max_epochs=epochs,
        callbacks=list(callbacks),
        default_root_dir=args.out,
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--devices", default="auto")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", default="digits-run", help="folder for checkpoints")
    parser.add_argument("--results", help="file to append a line of JSON to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
