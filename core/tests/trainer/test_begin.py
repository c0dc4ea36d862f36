"""What runs in each process before the loop, and after it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchrelay import Callback, LightningDataModule
from torchrelay.trainer import begin


def noting(calls, who, *names):
    """Methods that write who they are of, their names and their last argument into `calls`."""

    def method(name):
        return lambda self, *args: calls.append(" ".join([who, name, *args]))

    return {name: method(name) for name in names}


NAMES = ("prepare_data", "setup", "configure_model", "teardown")


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_the_order(boring, make_trainer, stage):
    calls = []

    class Listener(Callback):
        def setup(self, trainer, pl_module, stage):
            calls.append(f"callback setup {stage}")

        def teardown(self, trainer, pl_module, stage):
            calls.append(f"callback teardown {stage}")

    loaders = {
        n: lambda self: boring.loader(4)
        for n in ("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader")
    }
    data = type(
        "Data",
        (LightningDataModule,),
        {**noting(calls, "data", "prepare_data", "setup", "teardown"), **loaders},
    )()
    module = boring.regression(**noting(calls, "module", *NAMES))
    getattr(make_trainer(callbacks=Listener()), stage)(module, datamodule=data)
    assert calls == [
        "data prepare_data",
        "module prepare_data",
        f"data setup {stage}",
        f"callback setup {stage}",
        f"module setup {stage}",
        "module configure_model",
        f"data teardown {stage}",
        f"callback teardown {stage}",
        f"module teardown {stage}",
    ]


def test_a_model_made_in_setup_is_trained(boring, make_trainer):
    def setup(self, stage):
        self.net = nn.Sequential(nn.Linear(4, 1, bias=stage == "fit"))

    module = boring.regression(setup=setup)
    make_trainer().fit(module, boring.loader())
    assert set(module.state_dict()) == {"net.0.weight", "net.0.bias"}


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true"])
def test_a_model_is_made_in_the_format_of_the_run(boring, make_trainer, precision):
    seen = []

    def configure_model(self):
        self.net = nn.Sequential(nn.Linear(4, 1))
        seen.append(self.net[0].weight.dtype)

    module = boring.regression(configure_model=configure_model)
    make_trainer(precision=precision).test(module, boring.loader())
    expected = {"32-true": torch.float32, "64-true": torch.float64, "bf16-true": torch.bfloat16}
    assert seen == [expected[precision]]
    assert torch.get_default_dtype() == torch.float32


def test_teardown_is_called_after_an_exception_too(boring, make_trainer):
    calls = []

    def fail(self, batch, batch_idx):
        raise ZeroDivisionError

    module = boring.regression(training_step=fail, **noting(calls, "module", "teardown"))
    with pytest.raises(ZeroDivisionError):
        make_trainer().fit(module, boring.loader())
    assert calls == ["module teardown fit"]


class Ranks:
    """As much of a session as `prepare_data` looks at."""

    def __init__(self, module, node_rank, local_rank):
        self.job = type("Job", (), {"datamodule": None})
        self.module = module
        self.waits = []
        self.strategy = self
        self.collectives = self
        self.node_rank, self.local_rank = node_rank, local_rank

    def barrier(self, name):
        self.waits.append(name)


@pytest.mark.parametrize("per_node", [True, False])
def test_one_process_of_each_node_or_of_all_prepares_and_every_one_waits(boring, per_node):
    prepared = []
    for place in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        module = boring.regression(
            prepare_data=lambda self, place=place: prepared.append(place),
            prepare_data_per_node=per_node,
        )
        session = Ranks(module, *place)
        begin.prepare_data(session)
        assert session.waits == ["prepare_data"]
    assert prepared == ([(0, 0), (1, 0)] if per_node else [(0, 0)])


def test_nobody_waits_where_nothing_is_prepared(boring):
    session = Ranks(boring.regression(), 0, 0)
    begin.prepare_data(session)
    assert session.waits == []
