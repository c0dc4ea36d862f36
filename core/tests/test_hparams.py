from __future__ import annotations

import argparse
import copy
import dataclasses
import pathlib
import pickle

import pytest
import torch
from torch import nn

from torchrelay import LightningModule
from torchrelay.errors import CheckpointError, ConfigurationError
from torchrelay.hparams import HyperParameters


class Net(LightningModule):
    def __init__(self, width=2, rate=0.1, names=("a", "b"), extra=None):
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(4, width)
        self.head = nn.Linear(width, 1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.mse_loss(self.head(self.layer(x)), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.rate)


class Wider(Net):
    def __init__(self, width, depth=1, **others):
        super().__init__(width=width * 2, **others)


class FromConfig(LightningModule):
    def __init__(self, config, scale=1.0):
        super().__init__()
        self.save_hyperparameters(config)
        self.config, self.scale = config, scale
        self.layer = nn.Linear(4, config.width)

    def forward(self, x):
        return self.layer(x)


@dataclasses.dataclass
class Config:
    width: int = 3
    rate: float = 0.5


class Foreign:
    pass


@pytest.fixture
def saved(boring, make_trainer, tmp_path):
    """Writes a checkpoint of a module after an epoch, and returns its path."""

    def save(module):
        trainer = make_trainer()
        if isinstance(module, Net):
            trainer.fit(module, boring.loader())
        else:
            trainer.predict(module, [torch.ones(1, 4)])
        trainer.save_checkpoint(tmp_path / "saved.ckpt")
        return tmp_path / "saved.ckpt"

    return save


def test_arguments_are_kept_and_had_as_attributes():
    module = Net(width=3, rate=0.2)
    assert module.hparams == {"width": 3, "rate": 0.2, "names": ("a", "b"), "extra": None}
    assert module.hparams.rate == 0.2
    module.hparams.rate = 0.3
    assert (module.hparams["rate"], module.hparams_initial["rate"]) == (0.3, 0.2)
    with pytest.raises(
        AttributeError, match=r"no hyper-parameter 'depth' was saved; there are: width, rate, names"
    ):
        module.hparams.depth  # noqa: B018


def test_those_of_a_subclass_count_too_and_win():
    assert Wider(2, rate=0.3).hparams == {
        "width": 2,
        "rate": 0.3,
        "names": ("a", "b"),
        "extra": None,
        "depth": 1,
    }


def test_another_object_made_meanwhile_is_not_mixed_up():
    class Outer(LightningModule):
        def __init__(self, inner_width, unused=1):
            super().__init__()
            self.inner = Net(width=inner_width)
            self.save_hyperparameters()

    outer = Outer(5)
    assert outer.hparams == {"inner_width": 5, "unused": 1}
    assert outer.inner.hparams.width == 5
    assert "unused" not in outer.inner.hparams


@pytest.mark.parametrize(
    ("arguments", "options", "expected"),
    [
        (("a",), {}, {"a": 1}),
        (("a", "c"), {}, {"a": 1, "c": 3}),
        ((), {"ignore": "a"}, {"b": 2, "c": 3}),
        ((), {"ignore": ["a", "b"]}, {"c": 3}),
    ],
)
def test_some_of_them(arguments, options, expected):
    class Some(LightningModule):
        def __init__(self, a=1, b=2, c=3):
            super().__init__()
            self.save_hyperparameters(*arguments, **options)

    assert Some().hparams == expected


@pytest.mark.parametrize(
    "container",
    [{"width": 3}, argparse.Namespace(width=3), Config(width=3, rate=0.5)],
    ids=lambda c: type(c).__name__,
)
def test_a_container_in_their_place(container):
    class Holder(LightningModule):
        def __init__(self, config):
            super().__init__()
            self.save_hyperparameters(config)

    module = Holder(container)
    assert module.hparams.width == 3
    assert module.hparams_state()["hparams_name"] == "config"


def test_misuse_says_what_there_is():
    class Misused(LightningModule):
        def __init__(self, a=1, what="b"):
            super().__init__()
            self.save_hyperparameters(what)

    with pytest.raises(
        ConfigurationError, match=r"Misused.__init__ has no argument 'b'; it has: a, what"
    ):
        Misused()
    with pytest.raises(ConfigurationError, match="got a int; give names of arguments, or one dict"):
        Misused(what=3)
    with pytest.raises(ConfigurationError, match="none, or this was called outside of it"):
        LightningModule().save_hyperparameters("a")


def test_the_object_is_made_again(saved):
    module = Net(width=3, names=("x",))
    again = Net.load_from_checkpoint(saved(module))
    assert again.hparams == module.hparams
    for name, value in module.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


@pytest.mark.parametrize(("where", "expected"), [(None, "cpu"), ("cpu", "cpu"), ("meta", "meta")])
def test_the_device_of_the_weights(saved, where, expected):
    again = Net.load_from_checkpoint(saved(Net()), map_location=where)
    assert {p.device.type for p in again.parameters()} == {expected}


def test_a_file_that_lightning_wrote():
    class Regression(LightningModule):
        def __init__(self, width, rate=0.0, extra=None):
            super().__init__()
            self.save_hyperparameters()
            self.layers = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 1))

    file = pathlib.Path(__file__).parent / "checkpoint" / "data" / "weights.ckpt"
    again = Regression.load_from_checkpoint(file, rate=0.2)
    assert again.hparams == {"width": 2, "rate": 0.2, "extra": None}
    written = torch.load(file, weights_only=True)["state_dict"]
    assert all(torch.equal(again.state_dict()[name], value) for name, value in written.items())


def test_overrides_take_the_place_of_what_was_kept(saved):
    again = Net.load_from_checkpoint(saved(Net(width=3)), rate=0.7)
    assert (again.hparams.width, again.hparams.rate) == (3, 0.7)


def test_a_config_is_made_again_under_its_name(saved):
    again = FromConfig.load_from_checkpoint(saved(FromConfig(Config(width=5))), scale=2.0)
    assert (again.config.width, again.config.rate, again.scale) == (5, 0.5, 2.0)


def test_strictness(saved):
    class Larger(Net):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.more = nn.Linear(1, 1)

    path = saved(Net())
    with pytest.raises(CheckpointError, match=r"missing more\.weight, more\.bias"):
        Larger.load_from_checkpoint(path)
    assert Larger.load_from_checkpoint(path, strict=False).hparams.width == 2


def test_layers_of_configure_model_are_there_to_be_loaded(boring, make_trainer, tmp_path):
    class Late(Net):
        def __init__(self):
            LightningModule.__init__(self)
            self.layer = self.head = None
            self.hparams.rate = 0.1

        def configure_model(self):
            if self.layer is None:
                self.layer, self.head = nn.Linear(4, 2), nn.Linear(2, 1)

    module, trainer = Late(), make_trainer(precision="64-true")
    trainer.fit(module, boring.loader())
    assert module.layer.weight.dtype == torch.float64
    trainer.save_checkpoint(tmp_path / "late.ckpt")
    again = Late.load_from_checkpoint(tmp_path / "late.ckpt")
    torch.testing.assert_close(
        again.layer.weight.double(),
        module.layer.weight.detach(),
        rtol=1e-6,
        atol=0,
        check_dtype=False,
    )


def test_what_the_constructor_lacks_or_does_not_take_is_named(saved):
    path = saved(Net())

    class Demanding(Net):
        def __init__(self, needed, width):
            super().__init__(width=width)

    with pytest.raises(
        ConfigurationError,
        match=r"Demanding needs 'needed', which the checkpoint .* needed=\.\.\.\)",
    ):
        Demanding.load_from_checkpoint(path)
    assert Demanding.load_from_checkpoint(path, needed=1).hparams.needed == 1
    with pytest.raises(
        ConfigurationError,
        match="Net takes no argument 'colour'; it takes: width, rate, names, extra",
    ):
        Net.load_from_checkpoint(path, colour="red")
    with pytest.raises(
        CheckpointError, match=r"cannot read the checkpoint .*absent\.ckpt: No such file"
    ):
        Net.load_from_checkpoint("absent.ckpt")


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (
            Foreign(),
            r"'extra' of Net is a Foreign,.*ignore=\"extra\"\), or allow it: .*add_safe_globals\(\[.*Foreign",
        ),
        ({"deep": [1, Foreign()]}, r"'extra\.deep\.1' of Net is a Foreign"),
        (lambda: 1, r"'extra' of Net is a function.*it cannot be pickled"),
    ],
)
def test_what_needs_pickled_code_is_named_before_the_run(boring, make_trainer, value, advice):
    steps = []
    module = Net(extra=value)
    module.on_train_start = lambda: steps.append(1)
    with pytest.raises(CheckpointError, match=advice):
        make_trainer(enable_checkpointing=True).fit(module, boring.loader())
    assert steps == []
    trainer = make_trainer()
    trainer.fit(module, boring.loader())  # nothing is saved, so nothing is wrong
    with pytest.raises(CheckpointError, match=advice):
        trainer.save_checkpoint("never.ckpt")


@pytest.mark.parametrize(
    "value", [torch.ones(2), {"a": [1, {2.0}]}, torch.float64, torch.Size([1]), b"x"], ids=str
)
def test_plain_values_load_again(saved, value):
    again = Net.load_from_checkpoint(saved(Net(extra=value)))
    assert str(again.hparams.extra) == str(value)


def test_what_was_allowed_loads_again(saved):
    path = pathlib.PurePosixPath("data")
    with torch.serialization.safe_globals([pathlib.PurePosixPath]):
        assert Net.load_from_checkpoint(saved(Net(extra=path))).hparams.extra == path


def test_loggers_are_told_unless_asked_not_to(boring, make_trainer):
    class Logger:
        def __init__(self):
            self.told = []

        def log_metrics(self, metrics, step):
            pass

        def log_hyperparams(self, params):
            self.told.append(params)

    class Secretive(Net):
        def __init__(self):
            super().__init__()
            self.save_hyperparameters(logger=False)

    class Plain:
        def log_metrics(self, metrics, step):
            pass

    logger = Logger()
    module = Net()
    module.hparams.rate = 0.05
    make_trainer(logger=[logger, Plain()]).fit(module, boring.loader())
    assert [told["rate"] for told in logger.told] == [0.1]
    make_trainer(logger=logger).fit(Secretive(), boring.loader())
    assert len(logger.told) == 1


def test_they_survive_copies_and_pickling():
    values = HyperParameters(a=1)
    for again in (copy.deepcopy(values), pickle.loads(pickle.dumps(values))):
        assert again.a == 1
        assert type(again) is HyperParameters
    assert copy.deepcopy(Net(width=3)).hparams.width == 3
