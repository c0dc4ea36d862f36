from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from torchrelay import LightningDataModule
from torchrelay.errors import ConfigurationError

STAGES = ("fit", "validate", "test", "predict")


class Data(LightningDataModule):
    """Notes what it is asked for."""

    def __init__(self, number: int = 8):
        super().__init__()
        self.save_hyperparameters()
        self.calls = []
        self.seen = 0

    def prepare_data(self):
        self.calls.append("prepare_data")

    def setup(self, stage):
        self.calls.append(f"setup {stage}")
        x = torch.arange(self.hparams.number * 4.0).reshape(-1, 4) / 100
        self.dataset = TensorDataset(x, x.sum(1, keepdim=True))

    def loader(self, name):
        self.calls.append(name)
        return DataLoader(self.dataset, batch_size=4)

    def train_dataloader(self):
        return self.loader("train")

    def val_dataloader(self):
        return self.loader("val")

    def test_dataloader(self):
        return self.loader("test")

    def predict_dataloader(self):
        return self.loader("predict")

    def teardown(self, stage):
        self.calls.append(f"teardown {stage}")

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state_dict):
        self.calls.append("load_state_dict")
        self.seen = state_dict["seen"]


LOADERS = {"fit": ["train", "val"], "validate": ["val"], "test": ["test"], "predict": ["predict"]}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("positional", [True, False])
def test_the_order_in_which_it_is_asked(boring, make_trainer, stage, positional):
    data, trainer = Data(), make_trainer()
    run = getattr(trainer, stage)
    run(boring.regression(), data) if positional else run(boring.regression(), datamodule=data)
    assert data.calls == ["prepare_data", f"setup {stage}", *LOADERS[stage], f"teardown {stage}"]
    assert trainer.datamodule is data
    assert data.trainer is None


def test_its_data_is_what_is_trained_on(boring, make_trainer):
    data = Data(number=12)
    module = boring.regression()
    trainer = make_trainer()
    trainer.fit(module, datamodule=data)
    assert trainer.num_training_batches == 3
    direct = boring.regression()
    make_trainer().fit(direct, DataLoader(data.dataset, batch_size=4))
    assert boring.difference(boring.weights(module), boring.weights(direct)) == 0


def test_it_takes_the_place_of_the_modules_loaders(boring, make_trainer):
    module = boring.regression(
        train_dataloader=lambda self: boring.loader(20),
        test_dataloader=lambda self: boring.loader(4),
    )

    class TrainingAlone(LightningDataModule):
        def train_dataloader(self):
            return boring.loader(8)

    trainer = make_trainer()
    trainer.fit(module, datamodule=TrainingAlone())
    assert trainer.num_training_batches == 2
    with pytest.raises(
        ConfigurationError, match=r"test has no data: .* test_dataloader\(\) in TrainingAlone"
    ):
        trainer.test(module, datamodule=TrainingAlone())


@pytest.mark.parametrize(
    ("stage", "arguments", "message"),
    [
        ("fit", {"train_dataloaders": []}, "fit got both train_dataloaders and datamodule=Data"),
        (
            "fit",
            {"train_dataloaders": [], "val_dataloaders": []},
            "fit got both train_dataloaders and val_dataloaders and datamodule=Data",
        ),
        ("test", {"dataloaders": []}, "test got both dataloaders and datamodule=Data; leave one"),
        ("predict", {"datamodule": []}, r"datamodule=\[\] is no torchrelay.LightningDataModule"),
    ],
)
def test_contradicting_arguments_are_named_together(
    boring, make_trainer, stage, arguments, message
):
    with pytest.raises(ConfigurationError, match=message):
        getattr(make_trainer(), stage)(boring.regression(), **{"datamodule": Data(), **arguments})


def test_its_state_travels_in_checkpoints(boring, make_trainer, tmp_path):
    data, trainer = Data(number=12), make_trainer()
    module = boring.regression(
        on_train_batch_end=lambda self, *args: self.trainer.datamodule.__dict__.update(
            seen=self.trainer.datamodule.seen + 1
        )
    )
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    resumed = Data(number=12)
    make_trainer(max_epochs=2).fit(module, datamodule=resumed, ckpt_path=tmp_path / "it.ckpt")
    assert resumed.calls[:3] == ["prepare_data", "setup fit", "load_state_dict"]
    assert (data.seen, resumed.seen) == (3, 6)
    again = Data.load_from_checkpoint(tmp_path / "it.ckpt")
    assert (again.hparams.number, again.seen) == (12, 3)
    assert boring.Regression.load_from_checkpoint(tmp_path / "it.ckpt").hparams == {}


def test_hyper_parameters_that_differ_from_the_modules_are_refused(boring, make_trainer):
    module = boring.regression()
    module.save_hyperparameters({"number": 9, "other": 1})
    with pytest.raises(
        ConfigurationError, match=r"Regression and Data have different hyper-parameters 'number'"
    ):
        make_trainer().fit(module, datamodule=Data())
    module.save_hyperparameters({"number": 8})
    make_trainer().fit(module, datamodule=Data())


def test_an_exception_reaches_it_and_it_is_torn_down(boring, make_trainer):
    class Hearing(Data):
        def on_exception(self, exception):
            self.calls.append(type(exception).__name__)

    def fail(self, batch, batch_idx):
        raise ZeroDivisionError

    data = Hearing()
    with pytest.raises(ZeroDivisionError):
        make_trainer().fit(boring.regression(training_step=fail), datamodule=data)
    assert data.calls[-2:] == ["ZeroDivisionError", "teardown fit"]
    assert data.trainer is None


def test_from_datasets(boring, make_trainer):
    train, val = boring.samples(12), boring.samples(8)
    data = LightningDataModule.from_datasets(train, val, predict_dataset=[val, train], batch_size=4)
    trainer = make_trainer()
    trainer.fit(boring.regression(), datamodule=data)
    assert trainer.num_training_batches == 3
    assert "val_loss" in trainer.callback_metrics
    assert [len(loader) for loader in data.predict_dataloader()] == [2, 3]
    first, second = (torch.cat([x for x, _ in data.train_dataloader()]) for _ in range(2))
    assert not torch.equal(first, second)  # shuffled
    assert torch.equal(torch.cat([x for x, _ in data.val_dataloader()]), val.tensors[0])
    with pytest.raises(ConfigurationError, match="test has no data"):
        trainer.test(boring.regression(), datamodule=data)
    assert Data.from_datasets(train, number=3).hparams.number == 3


def test_its_transfer_hooks_win_over_the_modules(boring, make_trainer):
    class Doubling(Data):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return [tensor * 2 for tensor in batch]

    seen = []
    module = boring.regression(
        on_before_batch_transfer=lambda self, batch, idx: [tensor + 1 for tensor in batch],
        on_after_batch_transfer=lambda self, batch, idx: [tensor * 1000 for tensor in batch],
        test_step=lambda self, batch, batch_idx: seen.append(batch[0]),
    )
    data = Doubling()
    make_trainer().test(module, datamodule=data)
    assert torch.equal(torch.cat(seen), (data.dataset.tensors[0] + 1) * 2)
