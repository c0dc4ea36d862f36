"""The four kinds of pass over data, and what each is called where."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One pass over data.

    Attributes:
        name: "train", "validate", "test" or "predict".
        short: its name within arguments, as in `limit_val_batches`.
        hook: its name within hooks, as in `on_validation_start`.
        step: the module's method for a batch.
    """

    name: str
    short: str
    hook: str
    step: str

    @property
    def loader_method(self) -> str:
        """The method of a module or data module that gives the data."""
        return f"{self.short}_dataloader"

    @property
    def limit(self) -> str:
        """The Trainer's argument for how much of the data to read."""
        return f"limit_{self.short}_batches"

    @property
    def in_fit(self) -> str:
        """The argument of `Trainer.fit` for the data; the other methods call theirs `dataloaders`."""
        return f"{self.short}_dataloaders"


STAGES = {
    stage.name: stage
    for stage in (
        Stage("train", "train", "train", "training_step"),
        Stage("validate", "val", "validation", "validation_step"),
        Stage("test", "test", "test", "test_step"),
        Stage("predict", "predict", "predict", "predict_step"),
    )
}
