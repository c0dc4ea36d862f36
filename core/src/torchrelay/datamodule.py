"""LightningDataModule: everything about the data of a model, apart from the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from torch.utils.data import DataLoader, IterableDataset

from torchrelay.data_hooks import DataHooks
from torchrelay.hparams import HyperParameterMixin

if TYPE_CHECKING:
    from torchrelay.trainer.trainer import Trainer

T = TypeVar("T", bound="LightningDataModule")


class LightningDataModule(DataHooks, HyperParameterMixin):
    """Makes, loads and moves the data of a run; give it to the Trainer as `datamodule`.

    Its `*_dataloader` methods take the place of the module's, and each transfer hook that it overrides does too.
    """

    hparams_keys: ClassVar[tuple[str, str]] = (
        "datamodule_hyper_parameters",
        "datamodule_hparams_name",
    )

    trainer: Trainer | None = None
    """The Trainer that runs at present, or None."""

    @classmethod
    def from_datasets(
        cls: type[T],
        train_dataset: Any = None,
        val_dataset: Any = None,
        test_dataset: Any = None,
        predict_dataset: Any = None,
        batch_size: int = 1,
        num_workers: int = 0,
        **arguments: Any,
    ) -> T:
        """Make one from data sets; that of training is shuffled unless it is iterable.

        Args:
            train_dataset: a data set, or a list or dict of them, for as many loaders.
            val_dataset: the same for validation.
            test_dataset: the same for test.
            predict_dataset: the same for prediction.
            batch_size: samples in a batch.
            num_workers: processes that load.
            arguments: of the constructor.
        """
        made = cls(**arguments)
        options: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers}
        given = {
            "train": train_dataset,
            "val": val_dataset,
            "test": test_dataset,
            "predict": predict_dataset,
        }
        for name, dataset in given.items():
            if dataset is not None:
                load = partial(_loaders, dataset, shuffle=name == "train", options=options)
                setattr(made, f"{name}_dataloader", load)
        return made

    @property
    def state_key(self) -> str:
        """Key of this object's state in a checkpoint."""
        return type(self).__qualname__

    def state_dict(self) -> dict[str, Any]:
        """State to keep in a checkpoint: tensors and plain data."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state of a checkpoint, after `setup`."""

    def on_exception(self, exception: BaseException) -> None:
        """Act on an exception in this process; never communicate with the other ranks here."""

    def load_from(self, checkpoint: dict[str, Any], *, strict: bool = True) -> None:
        """Take up the state of a checkpoint; see `load_from_checkpoint`."""
        if self.state_key in checkpoint:
            self.load_state_dict(checkpoint[self.state_key])

    def __getstate__(self) -> dict[str, Any]:
        """Leave the driver behind: a process that is launched has its own."""
        return {**self.__dict__, "trainer": None}


def _loaders(dataset: Any, *, shuffle: bool, options: dict[str, Any]) -> Any:
    if isinstance(dataset, Mapping):
        return {name: _loaders(d, shuffle=shuffle, options=options) for name, d in dataset.items()}
    if isinstance(dataset, Sequence) and not isinstance(dataset, str):
        return [_loaders(each, shuffle=shuffle, options=options) for each in dataset]
    shuffle = shuffle and not isinstance(dataset, IterableDataset)
    return DataLoader(dataset, shuffle=shuffle, **options)
