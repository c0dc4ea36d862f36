"""The reference strategy, driven without a Trainer: the contract needs none."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from torchrelay.accelerators import CPUAccelerator
from torchrelay.checkpoint import TorchCheckpointIO
from torchrelay.collectives import NoCollectives
from torchrelay.environments import LocalEnvironment
from torchrelay.errors import CheckpointError, ConfigurationError
from torchrelay.precision import MixedPrecision, TruePrecision
from torchrelay.strategies import Clip, Needs, Parts, Plan, SingleDeviceStrategy, Strategy

CPU = torch.device("cpu")


def bind(strategy: Strategy, **parts) -> Strategy:
    strategy.bind(
        Parts(
            **{
                "accelerator": CPUAccelerator(),
                "precision_plugin": TruePrecision("64-true"),
                "checkpoint_io": TorchCheckpointIO(),
                "cluster_environment": LocalEnvironment({}),
                **parts,
            }
        )
    )
    return strategy


@pytest.fixture
def ready(boring):
    """A strategy that has been set up with a module and its optimizer."""
    strategy = bind(SingleDeviceStrategy())
    strategy.setup_environment()
    module = boring.regression()
    module.log = lambda *args, **options: None
    strategy.setup(module, lambda m: ([torch.optim.SGD(m.parameters(), lr=0.1)], []))
    yield strategy
    strategy.teardown()


def batch(boring):
    x, y = boring.samples(4).tensors
    return x, y


def train(strategy, data, updates=3):
    optimizer = strategy.optimizers[0]
    for i in range(updates):

        def closure(i=i):
            strategy.zero_grad(optimizer)
            loss = strategy.training_step(strategy.batch_to_device(data), i)
            strategy.backward(loss)
            strategy.finalize_gradients(optimizer)
            strategy.clip_gradients(optimizer, Clip(0.5))
            return loss

        strategy.optimizer_step(optimizer, closure)


def test_a_loop_of_ones_own_equals_a_raw_one(boring, ready):
    train(ready, batch(boring))
    raw = boring.regression().double()
    optimizer = torch.optim.SGD(raw.parameters(), lr=0.1)
    x, y = (t.double() for t in batch(boring))
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.mse_loss(raw(x), y).backward()
        nn.utils.clip_grad_norm_(raw.parameters(), 0.5)
        optimizer.step()
    assert boring.difference(boring.weights(ready.module), boring.weights(raw)) <= 1e-12


def test_a_world_of_one():
    strategy = bind(SingleDeviceStrategy())
    ranks = (strategy.world_size, strategy.global_rank, strategy.local_rank, strategy.node_rank)
    assert ranks == (1, 0, 0, 0)
    assert strategy.is_global_zero
    assert strategy.sampler_arguments is None
    assert strategy.launcher is None
    assert isinstance(strategy.collectives, NoCollectives)
    assert strategy.negotiate(Plan(accumulate=3)) == Plan(accumulate=3)
    assert strategy.process_dataloader([1], "train") == [1]


def test_the_device():
    assert bind(SingleDeviceStrategy()).root_device == CPU
    strategy = bind(SingleDeviceStrategy(device="meta"))
    assert strategy.root_device == torch.device("meta")
    assert strategy.refusals(Needs()) == [
        "its device='meta' is not of accelerator 'cpu'; give the Trainer the accelerator that it is of"
    ]
    assert bind(SingleDeviceStrategy(device="cpu")).refusals(Needs()) == []


def test_what_the_user_gave_stays_and_the_rest_is_filled():
    mine = MixedPrecision("bf16-mixed")
    strategy = SingleDeviceStrategy(device="cpu", precision_plugin=mine)
    assert strategy.given == {"precision": mine, "devices": [CPU]}
    bind(strategy)
    assert strategy.precision_plugin is mine
    assert isinstance(strategy.accelerator, CPUAccelerator)
    assert isinstance(strategy.checkpoint_io, TorchCheckpointIO)


@pytest.mark.parametrize(
    "part", ["accelerator", "precision_plugin", "checkpoint_io", "collectives", "module"]
)
def test_parts_are_there_after_bind_and_setup_only(part):
    with pytest.raises(
        ConfigurationError, match=rf"the strategy's {part} is not there yet; call bind\(\) first"
    ):
        getattr(SingleDeviceStrategy(), part)


def test_several_devices_or_nodes_are_refused():
    strategy = bind(SingleDeviceStrategy(), devices=(0, 1))
    assert "devices=2 and num_nodes=1 ask for several processes" in strategy.refusals(Needs())[0]
    strategy = bind(SingleDeviceStrategy())
    assert (
        "devices=1 and num_nodes=2 ask for several processes"
        in strategy.refusals(Needs(num_nodes=2))[0]
    )
    assert strategy.refusals(Needs()) == []


def test_evaluation_builds_no_optimizer(boring):
    strategy = bind(SingleDeviceStrategy())
    strategy.setup_environment()
    module = boring.regression()
    strategy.setup(module, None)
    assert (strategy.optimizers, strategy.model) == ([], module)
    with strategy.stage("predict"), strategy.grad_off():
        out = strategy.evaluation_step("predict_step", strategy.batch_to_device(batch(boring)), 0)
    assert (out.dtype, out.requires_grad) == (torch.float64, False)


def test_gradients_are_finalized_once_until_the_next_backward(boring):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    strategy = bind(
        SingleDeviceStrategy(), precision_plugin=MixedPrecision("16-mixed", scaler=scaler)
    )
    strategy.setup_environment()
    weight = nn.Linear(1, 1, bias=False)
    strategy.setup(weight, lambda m: ([torch.optim.SGD(m.parameters(), lr=0.1)], []))
    (optimizer,) = strategy.optimizers
    for expected in (3.0, 6.0):
        strategy.backward(weight.weight.sum() * expected)
        strategy.finalize_gradients(optimizer)
        strategy.finalize_gradients(optimizer)
        assert weight.weight.grad.item() == expected
        strategy.optimizer_step(optimizer, lambda: None)
        strategy.zero_grad(optimizer)


@pytest.mark.parametrize(
    ("clip", "expected"), [(Clip(1.0), [0.6, 0.8]), (Clip(3.5, "value"), [3.0, 3.5])]
)
def test_clipping(clip, expected):
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    SingleDeviceStrategy().clip_gradients(torch.optim.SGD([weight], lr=1.0), clip)
    torch.testing.assert_close(weight.grad, torch.tensor(expected))


def test_state_goes_out_and_in_by_name(boring, ready, tmp_path):
    ready.optimizers[0].param_groups[0]["momentum"] = 0.9
    train(ready, batch(boring))
    optimizer_state = copy.deepcopy(ready.optimizer_state(ready.optimizers[0]))
    assert set(optimizer_state["state"]) == set(dict(ready.module.named_parameters()))
    state = copy.deepcopy(ready.model_state())
    ready.save_checkpoint(
        {"state_dict": state, "optimizer_states": [optimizer_state]}, tmp_path / "it.ckpt"
    )
    train(ready, batch(boring))
    assert boring.difference(state, ready.model_state()) > 0
    loaded = ready.load_checkpoint(tmp_path / "it.ckpt")
    ready.load_model_state(loaded["state_dict"])
    ready.load_optimizer_state(ready.optimizers[0], loaded["optimizer_states"][0])
    assert boring.difference(state, ready.model_state()) == 0
    assert repr(ready.optimizer_state(ready.optimizers[0])) == repr(optimizer_state)
    ready.remove_checkpoint(tmp_path / "it.ckpt")
    assert not (tmp_path / "it.ckpt").exists()
    with pytest.raises(CheckpointError, match=r"missing net\.0\.weight"):
        ready.load_model_state({})


def test_schedulers_follow_an_optimizer_that_takes_the_place_of_another(ready):
    old = ready.optimizers[0]
    ready.schedulers = [torch.optim.lr_scheduler.StepLR(old, 1)]
    new = torch.optim.SGD(ready.module.parameters(), lr=1.0)
    ready.swap_optimizer(0, new)
    assert ready.optimizers == [new]
    new.step()
    ready.schedulers[0].step()
    assert new.param_groups[0]["lr"] != 1.0
    assert old.param_groups[0]["lr"] == 0.1


def test_after_teardown_the_module_is_the_users_again(boring):
    strategy = bind(SingleDeviceStrategy())
    strategy.setup_environment()
    module = boring.regression()
    strategy.setup(module, None)
    strategy.teardown()
    assert module.device == CPU
    assert strategy.module is module
    with pytest.raises(ConfigurationError, match="the strategy's model is not there yet"):
        strategy.model  # noqa: B018


def test_a_run_stays_behind_when_it_is_sent_to_another_process(ready):
    again = pickle.loads(pickle.dumps(ready))
    assert (again.optimizers, again.schedulers) == ([], [])
    assert again.precision_plugin.name == "64-true"
    with pytest.raises(ConfigurationError, match="the strategy's module is not there yet"):
        again.module  # noqa: B018


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_training_on_a_gpu_is_close_to_training_on_the_cpu(boring, make_trainer):
    weights = []
    for accelerator in ("cpu", "cuda"):
        module = boring.regression()
        trainer = make_trainer(
            accelerator=accelerator, devices=1, precision="64-true", max_epochs=3
        )
        trainer.fit(module, boring.loader(), boring.loader())
        assert trainer.strategy.root_device.type == accelerator
        assert module.device == CPU
        weights.append(boring.weights(module))
    assert boring.difference(*weights) <= 1e-10
