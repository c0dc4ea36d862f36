"""What users write, and what they are told when it cannot be."""

from __future__ import annotations

import inspect
from datetime import timedelta

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import torchrelay_ddp
from torchrelay import LightningModule, Trainer
from torchrelay.accelerators import CPUAccelerator
from torchrelay.checkpoint import TorchCheckpointIO
from torchrelay.collectives import TorchCollectives
from torchrelay.environments import LocalEnvironment, TorchrunEnvironment
from torchrelay.errors import (
    ConfigurationError,
    LaunchError,
    NotInstalledError,
    UnavailableError,
    UnsupportedError,
)
from torchrelay.launchers import MultiProcessingLauncher, ScriptLauncher
from torchrelay.plugin import Capability
from torchrelay.plugin.registry import get_registry
from torchrelay.precision import MixedPrecision, TruePrecision
from torchrelay.strategies import DDPSpawnStrategy, DDPStrategy, Parts
from torchrelay_ddp import DataParallelStrategy, DDP2Strategy
from torchrelay_ddp.ddp_options import DDP_ARGUMENTS

pytestmark = pytest.mark.timeout(100)

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
REPLICAS = "torch.nn.DataParallel replicates a module between GPUs only"


def trainer(**arguments) -> Trainer:
    quiet = {"enable_progress_bar": False, "logger": False, "accelerator": "cpu"}
    return Trainer(**{**quiet, **arguments})


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


ALIASES = {
    alias + suffix: (kind, method, unused)
    for alias, kind, method in (
        ("ddp", DDPStrategy, "script"),
        ("ddp_spawn", DDPSpawnStrategy, "spawn"),
        ("ddp_fork", DDPSpawnStrategy, "fork"),
        ("ddp_notebook", DDPSpawnStrategy, "fork"),
    )
    for suffix, unused in (
        ("", None),
        ("_find_unused_parameters_false", False),
        ("_find_unused_parameters_true", True),
    )
}


@pytest.mark.parametrize("alias", ALIASES)
def test_each_alias_is_its_class_with_its_presets(alias):
    kind, method, unused = ALIASES[alias]
    made = trainer(strategy=alias, devices=3).strategy
    assert type(made) is kind
    assert made.start_method == method
    assert made.ddp_arguments.get("find_unused_parameters") is unused
    assert made.ddp_arguments["gradient_as_bucket_view"] is True
    assert (made.world_size, made.num_nodes, made.global_rank) == (3, 1, 0)
    expected = ScriptLauncher if method == "script" else MultiProcessingLauncher
    assert type(made.launcher) is expected
    assert made.launcher.num_processes == 3
    assert getattr(made.launcher, "start_method", "script") == method


def test_every_alias_of_this_distribution_is_tested():
    owned = {
        offer.spec.alias
        for offer in get_registry().strategies
        if offer.owner.distribution == "torchrelay-ddp"
    }
    assert owned == {*ALIASES, "dp", "ddp2"}


def test_ddp2_with_one_device_a_node():
    made = trainer(strategy="ddp2").strategy
    assert type(made) is DDP2Strategy
    assert (made.world_size, made.devices) == (1, (0,))


def test_the_classes_come_through_core_s_facade_too():
    import torchrelay.strategies as facade

    for name in torchrelay_ddp.__all__:
        assert getattr(facade, name) is getattr(torchrelay_ddp, name)
    assert (DDPStrategy, DDPSpawnStrategy) == (
        torchrelay_ddp.DDPStrategy,
        torchrelay_ddp.DDPSpawnStrategy,
    )


# --- the calls of Lightning's reference page ------------------------------------------------------------


def test_three_processes_on_the_cpu():
    assert trainer(strategy="ddp", accelerator="cpu", devices=3).world_size == 3


@NO_GPU
def test_spawn_on_whatever_there_is():
    made = trainer(strategy="ddp_spawn", accelerator="auto", devices=4)
    assert made.world_size == 4
    assert made.strategy.accelerator.name == "cpu"


@NO_GPU
@pytest.mark.parametrize("strategy", ["ddp", "an instance", "auto"])
def test_a_gpu_that_is_not_there(strategy):
    strategy = DDPStrategy(find_unused_parameters=True) if strategy == "an instance" else strategy
    with pytest.raises(
        UnavailableError, match=r'accelerator="gpu" needs a GPU; no cuda: .+; no mps: .+'
    ):
        trainer(strategy=strategy, accelerator="gpu", devices=4)


@NO_GPU
def test_data_parallel_needs_a_gpu():
    with pytest.raises(ConfigurationError, match=f"'dp' is not for accelerator 'cpu'.*{REPLICAS}"):
        trainer(strategy="dp", accelerator="cpu", devices=2)
    with pytest.raises(UnsupportedError, match=REPLICAS):
        trainer(strategy=DataParallelStrategy(), accelerator="cpu", devices=2)
    with pytest.raises(UnavailableError, match="strategy='dp' runs on cuda; no cuda: "):
        trainer(strategy="dp", accelerator="auto", devices=2)


def test_ddp2_replicates_on_gpus_only():
    with pytest.raises(
        UnsupportedError, match=f"devices=2 on accelerator 'cpu': {REPLICAS}.*devices=1 ddp2 runs"
    ):
        trainer(strategy="ddp2", accelerator="cpu", devices=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"strategy": "ddp_spawn", "accelerator": "tpu", "devices": 8},
            r"accelerator 'tpu' comes with torchrelay-tpu.*pip install .*tpu",
        ),
        (
            {"accelerator": "ipu", "devices": 8},
            r"accelerator 'ipu' comes with torchrelay-ipu.*pip install .*ipu",
        ),
        (
            {"strategy": "bagua", "devices": "auto"},
            r"strategy 'bagua' comes with torchrelay-bagua.*pip install .*bagua",
        ),
    ],
    ids=["tpu", "ipu", "bagua"],
)
def test_backends_whose_package_is_not_installed(arguments, message):
    with pytest.raises(NotInstalledError, match=message):
        trainer(**arguments)


def test_several_nodes_without_a_launcher_name_the_command():
    command = r"torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d .*FIRST_NODE"
    with pytest.raises(LaunchError, match=command):
        trainer(strategy="ddp", devices=4, num_nodes=2)


# --- custom strategies ----------------------------------------------------------------------------------


def test_custom_strategies_train(programs, reference, distance):
    for rank in programs.train("custom.py", name="custom"):
        assert rank["wrapped"] == ["MyDistributedDataParallel"] * 2
        assert distance(rank["overridden"], reference) <= 1e-12
        assert distance(rank["components"], reference) <= 1e-12
        assert rank["converted"] > 0
        assert rank["set_up"] == ["cpu"]


# --- components -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "arguments", "name"),
    [
        (DDPStrategy(accelerator=CPUAccelerator()), {"accelerator": "cpu"}, "accelerator"),
        (DDPStrategy(precision_plugin=TruePrecision("64-true")), {"precision": "32"}, "precision"),
        (DDPStrategy(parallel_devices=[torch.device("cpu")] * 2), {"devices": 2}, "devices"),
        (
            DDPStrategy(cluster_environment=LocalEnvironment()),
            {"plugins": LocalEnvironment()},
            "cluster_environment",
        ),
        (
            DDPStrategy(checkpoint_io=TorchCheckpointIO()),
            {"plugins": TorchCheckpointIO()},
            "checkpoint_io",
        ),
    ],
    ids=["accelerator", "precision", "devices", "cluster environment", "checkpoint IO"],
)
def test_a_component_given_twice(strategy, arguments, name):
    if name != "accelerator":
        arguments = {"accelerator": "auto", **arguments}
    with pytest.raises(
        ConfigurationError, match=f"{name} is given twice: .* inside DDPStrategy; leave one"
    ):
        trainer(strategy=strategy, **arguments)


def test_bind_fills_only_what_is_missing():
    accelerator, environment = CPUAccelerator(), LocalEnvironment({})
    collectives = TorchCollectives("gloo")
    strategy = DDPStrategy(
        accelerator=accelerator,
        precision_plugin=MixedPrecision("bf16-mixed"),
        cluster_environment=environment,
        collectives=collectives,
        parallel_devices=[torch.device("cpu")] * 2,
    )
    mine = strategy.precision_plugin
    made = trainer(strategy=strategy, accelerator="auto").strategy
    assert made is strategy
    assert made.accelerator is accelerator
    assert made.precision_plugin is mine
    assert made.cluster_environment is environment
    assert made.collectives is collectives
    assert isinstance(made.checkpoint_io, TorchCheckpointIO)
    assert isinstance(made.launcher, ScriptLauncher)
    assert made.world_size == 2
    assert made.root_device == torch.device("cpu")


def test_the_parts_of_a_resolution_fill_the_rest():
    strategy = DDPStrategy(timeout=timedelta(seconds=40), process_group_backend="gloo")
    parts = Parts(
        accelerator=CPUAccelerator(),
        precision_plugin=TruePrecision("32-true"),
        checkpoint_io=TorchCheckpointIO(),
        cluster_environment=LocalEnvironment({}),
        devices=(0, 1),
    )
    strategy.bind(parts)
    assert strategy.accelerator is parts.accelerator
    assert strategy.collectives.backend == "gloo"
    assert strategy.world_size == 2


def test_an_environment_that_made_the_processes_needs_no_launcher():
    environ = {
        "TORCHELASTIC_RUN_ID": "x",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
        "WORLD_SIZE": "6",
        "RANK": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "3",
        "GROUP_RANK": "1",
    }
    strategy = DDPStrategy(cluster_environment=TorchrunEnvironment(environ))
    made = trainer(strategy=strategy)
    assert (made.world_size, made.global_rank, made.local_rank) == (6, 4, 1)
    assert (made.strategy.node_rank, made.strategy.num_nodes) == (1, 2)
    assert made.strategy.launcher is None
    assert made.strategy.sampler_arguments == {"num_replicas": 6, "rank": 4}


# --- options --------------------------------------------------------------------------------------------


def test_every_argument_of_distributed_data_parallel_is_an_option():
    theirs = set(inspect.signature(DistributedDataParallel).parameters)
    ours = {"module", "device_ids", "output_device", "process_group", "device_mesh"}
    assert set(DDP_ARGUMENTS) == theirs - ours - {"self"}
    made = DDPStrategy(bucket_cap_mb=5, broadcast_buffers=False, gradient_as_bucket_view=False)
    assert made.ddp_arguments == {
        "bucket_cap_mb": 5,
        "broadcast_buffers": False,
        "gradient_as_bucket_view": False,
    }


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            DDPStrategy,
            {"find_unused_parameter": True},
            r"DDPStrategy has no option 'find_unused_parameter'; did you mean 'find_unused_parameters'\?",
        ),
        (DDPStrategy, {"presicion_plugin": None}, r"did you mean 'precision_plugin'\?"),
        (
            DDP2Strategy,
            {"static_grph": True},
            r"DDP2Strategy has no option .*did you mean 'static_graph'\?",
        ),
        (DDPStrategy, {"timeuot": 1}, r"did you mean 'timeout'\?"),
        (DDPStrategy, {"colour": 1}, r"DDPStrategy has no option 'colour'"),
        (DDPStrategy, {"start_method": "forkserver"}, "must be one of script, spawn, fork"),
        (DDPStrategy, {"ddp_comm_state": object()}, "do nothing without ddp_comm_hook"),
        (DDPStrategy, {"model_averaging_period": 4}, "needs ddp_comm_state=PostLocalSGDState"),
        (DDP2Strategy, {"model_averaging_period": 4}, "needs ddp_comm_state=PostLocalSGDState"),
        (
            DDPStrategy,
            {"timeout": timedelta(seconds=9), "collectives": TorchCollectives("gloo")},
            r"timeout and collectives are both given to DDPStrategy.*leave one out",
        ),
        (
            DDP2Strategy,
            {"process_group_backend": "gloo", "collectives": TorchCollectives("gloo")},
            r"process_group_backend and collectives are both given to DDP2Strategy",
        ),
    ],
)
def test_an_option_that_cannot_be(kind, options, message):
    with pytest.raises(ConfigurationError, match=message) as raised:
        kind(**options)
    assert "\n" not in str(raised.value)


class Unconnected(CPUAccelerator):
    """A device that torch.distributed has no backend for."""

    process_group_backend = None


@pytest.mark.parametrize("kind", [DDPStrategy, DDP2Strategy])
def test_an_accelerator_without_collectives(kind):
    message = "torch.distributed has no backend for accelerator .* process_group_backend"
    with pytest.raises(UnsupportedError, match=message):
        trainer(strategy=kind(accelerator=Unconnected()), accelerator="auto", devices=1)


@pytest.mark.parametrize("kind", [DDPStrategy, DDP2Strategy])
@pytest.mark.parametrize(
    "given", [{"collectives": TorchCollectives("gloo")}, {"process_group_backend": "gloo"}]
)
def test_collectives_of_the_user_s_own_need_no_backend_of_the_accelerator(kind, given):
    strategy = kind(accelerator=Unconnected(), **given)
    made = trainer(strategy=strategy, accelerator="auto", devices=1).strategy
    assert made.collectives.backend == "gloo"


@pytest.mark.parametrize("kind", [DDPStrategy, DDP2Strategy])
def test_nothing_is_wrapped_where_nothing_is_trained(kind):
    made = trainer(strategy=kind(), devices=1).strategy
    made.adopt(Module().requires_grad_(False))
    made.wrap()
    assert made.model is made.module


@pytest.mark.parametrize("kind", [DDPStrategy, DDP2Strategy])
def test_a_step_that_some_ranks_skip_is_declared_unsupported(kind):
    with pytest.raises(UnsupportedError, match=r"refuses it: ranks that skip leave .* by zero"):
        kind().require(Capability.SKIPPED_STEPS, "None")


def test_ddp2_takes_ddp_s_options():
    made = DDP2Strategy(timeout=timedelta(seconds=9), static_graph=True)
    assert made.timeout == timedelta(seconds=9)
    assert made.ddp_arguments == {"gradient_as_bucket_view": True, "static_graph": True}


def test_sync_batchnorm_needs_gpus():
    with pytest.raises(
        UnsupportedError, match=r"sync_batchnorm=True: torch.nn.SyncBatchNorm runs on GPUs only"
    ):
        trainer(strategy="ddp", devices=2, sync_batchnorm=True)


def test_a_hook_that_nobody_would_call():
    class ByHand(Module):
        automatic_optimization = False

    made = trainer(strategy=DDPStrategy(ddp_comm_hook=lambda state, bucket: None), devices=2)
    with pytest.raises(UnsupportedError, match=r"ByHand optimizes by hand.*without ddp_comm_hook"):
        made.fit(ByHand(), [torch.ones(2)])


def test_lbfgs_is_refused_alike_on_every_rank(programs):
    done = programs.run("lbfgs.py")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert "error: LBFGS needs an optimizer that calls its closure several times" in lines[0]
    assert "DDPStrategy refuses it: each rank would judge its own loss" in lines[0]
    first, second = programs.results("lbfgs")
    assert first == second
    assert first in lines[0]
