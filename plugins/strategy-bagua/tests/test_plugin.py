"""What the distribution says of itself, which costs no torch and no Bagua to hear."""

from __future__ import annotations

import importlib.metadata
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import bagua_rules as rules
import pytest
import torch
from bagua.torch_api import communication
from bagua.torch_api.data_parallel import DistributedDataParallel
from bagua_simulated import compression
from bagua_simulated.machine import Machine, machine

import torchrelay.strategies
import torchrelay_bagua
from torchrelay.collectives import NoCollectives
from torchrelay.errors import ConfigurationError, LaunchError, TorchrelayError, UnavailableError
from torchrelay.plugin.catalogue import BACKENDS
from torchrelay.plugin.registry import get_registry
from torchrelay.plugin.specs import Capability, Support
from torchrelay.plugin.targets import missing
from torchrelay_bagua import (
    AsyncAverage,
    BaguaCollectives,
    BaguaEnvironment,
    BaguaStrategy,
    Decentralized,
    GradientAllreduce,
    LowPrecisionDecentralized,
    algorithms,
    collectives,
    vendor,
)
from torchrelay_bagua.others import Others
from torchrelay_bagua.plugin import (
    CAPABILITIES,
    RELEASE,
    WHEELS,
    torchrelay_cluster_environments,
    torchrelay_diagnostics,
    torchrelay_strategies,
)

HERE = Path(__file__).parent
SPECS = {spec.alias: spec for spec in torchrelay_strategies()}


def test_it_gives_the_aliases_that_the_catalogue_says():
    (backend,) = [each for each in BACKENDS if each.extra == "bagua"]
    assert backend.published
    assert set(SPECS) == set(backend.aliases)


@pytest.mark.parametrize("alias", SPECS)
def test_an_alias_stands_for_an_algorithm(alias):
    spec = SPECS[alias]
    made = BaguaStrategy(**spec.presets)
    assert torchrelay.strategies.BaguaStrategy is torchrelay_bagua.BaguaStrategy
    assert made.capabilities is spec.capabilities is CAPABILITIES[made.algorithm.name]
    assert spec.accelerators == ("cuda",)
    assert alias == (
        "bagua" if made.algorithm.name == "gradient_allreduce" else f"bagua_{made.algorithm.name}"
    )


def test_what_does_not_average_gradients_exactly_says_so():
    exact = {
        name
        for name, each in CAPABILITIES.items()
        if each[Capability.EXACT_AVERAGING].support is Support.FULL
    }
    assert exact == {"gradient_allreduce"}


@pytest.mark.parametrize("alias", SPECS)
def test_other_accelerators_are_refused_before_anything_is_made(alias):
    for accelerator in ("cpu", "mps"):
        with pytest.raises(TorchrelayError, match="NCCL") as caught:
            get_registry().strategy(alias, accelerator)
        assert "strategy='ddp'" in str(caught.value)


def test_hearing_of_it_imports_neither_torch_nor_bagua():
    code = (
        "import sys, torchrelay_bagua.environment, torchrelay_bagua.plugin as plugin; "
        "list(plugin.torchrelay_strategies()), list(plugin.torchrelay_diagnostics()); "
        "sys.exit(bool({'torch', 'bagua'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_making_a_strategy_imports_no_bagua():
    code = "import sys, torchrelay_bagua as p; p.BaguaStrategy('async'); sys.exit('bagua' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_strategy_travels():
    made = pickle.loads(
        pickle.dumps(BaguaStrategy(Decentralized(communication_interval=3), autotune=True))
    )
    assert made.algorithm == Decentralized(communication_interval=3)


# --- options --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: BaguaStrategy("allreduce"),
            ("'allreduce'", "gradient_allreduce", "Decentralized"),
        ),
        (lambda: BaguaStrategy("async", flatten=False), ("flatten=False",)),
        (lambda: BaguaStrategy(start_method="thread"), ("'thread'", "spawn")),
        (
            lambda: BaguaStrategy(autotune=True, collectives=NoCollectives()),
            ("autotune", "collectives"),
        ),
        (lambda: Decentralized(peer_selection_mode="ring"), ("'ring'", "'shift_one'")),
        (lambda: AsyncAverage(peer_selection_mode="shift_one"), ("'shift_one'", "'all'")),
        (lambda: AsyncAverage(sync_interval_ms=0), ("sync_interval_ms=0", "from 1")),
        (lambda: AsyncAverage(warmup_steps=-1), ("warmup_steps=-1",)),
        (
            lambda: LowPrecisionDecentralized(communication_interval=True),
            ("communication_interval=True",),
        ),
    ],
)
def test_options_that_cannot_be_are_refused(make, words):
    with rules.refused(ConfigurationError, *words):
        make()


def test_an_algorithm_s_options_stay():
    with pytest.raises(FrozenInstanceError):
        Decentralized().communication_interval = 2


def test_an_option_that_nobody_has_is_refused():
    with rules.refused(
        ConfigurationError, "BaguaStrategy(sync_interval=1)", "is called 'sync_interval'"
    ):
        BaguaStrategy(sync_interval=1)


@pytest.mark.parametrize("alias", SPECS)
def test_a_scaled_loss_is_refused_where_a_rank_must_not_skip_a_step(alias):
    algorithm = SPECS[alias].presets["algorithm"]
    if algorithm in ("low_precision_decentralized", "qadam"):
        with rules.refused(TorchrelayError, "precision='16-mixed'", "32-true", "bf16-mixed"):
            rules.trainer(algorithm, precision="16-mixed")
        return
    rules.trainer(algorithm, precision="16-mixed").fit(rules.momentum(), rules.data())


def test_sums_are_refused_in_manual_optimization():
    module = rules.momentum()
    module.automatic_optimization = False
    with rules.refused(TorchrelayError, "average=False", "manual optimization"):
        rules.trainer(GradientAllreduce(average=False)).fit(module, rules.data())


def test_what_bagua_says_while_it_wraps_is_what_is_told(monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("sparse gradient not supported yet")

    monkeypatch.setattr(vendor, "wrap", broken)
    with pytest.raises(RuntimeError, match="sparse gradient"):
        rules.trainer().fit(rules.momentum(), rules.data())


# --- the environment ------------------------------------------------------------------------------------

LAUNCHED = {
    "BAGUA_SERVICE_PORT": "29600",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "RANK": "5",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "NODE_RANK": "1",
}
ELASTIC = {
    **{name: value for name, value in LAUNCHED.items() if name != "NODE_RANK"},
    "GROUP_RANK": "1",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_RESTART_COUNT": "2",
}


@pytest.mark.parametrize("variables", [LAUNCHED, ELASTIC], ids=["launch", "run"])
def test_the_launcher_s_variables_are_read(variables):
    assert BaguaEnvironment.detect(variables)
    found = BaguaEnvironment(variables)
    assert found.creates_processes
    assert (found.global_rank, found.local_rank, found.node_rank) == (5, 1, 1)
    assert (found.world_size, found.local_world_size) == (8, 4)
    assert (found.main_address, found.main_port, found.service_port) == ("10.0.0.1", 29500, 29600)
    assert found.elastic is found.store_is_hosted is (variables is ELASTIC)
    assert found.restart_count == (2 if variables is ELASTIC else 0)
    found.check(devices=4, num_nodes=2)
    with rules.refused(LaunchError, "devices=2", "started 4", "--nproc_per_node"):
        found.check(devices=2, num_nodes=4)
    with rules.refused(LaunchError, "num_nodes=3"):
        found.check(devices=4, num_nodes=3)


def test_a_port_alone_is_a_user_s_choice():
    assert not BaguaEnvironment.detect({"BAGUA_SERVICE_PORT": "29600"})


def test_a_variable_that_is_missing_is_named():
    without = {name: value for name, value in LAUNCHED.items() if name != "LOCAL_WORLD_SIZE"}
    with rules.refused(LaunchError, "LOCAL_WORLD_SIZE", "bagua"):
        BaguaEnvironment(without).check(devices=4, num_nodes=2)


def test_it_comes_before_torchrun_s():
    (spec,) = torchrelay_cluster_environments()
    others = {offer.spec.name: offer.spec.priority for offer in get_registry().environments}
    assert spec.priority > others["torchrun"]


# --- the doctor -----------------------------------------------------------------------------------------


def test_the_check_of_the_machine_can_be_made():
    (spec,) = torchrelay_diagnostics()
    assert spec.target == "torchrelay_bagua.vendor:examined"
    assert vendor.examined() is None


def complaint():
    """What is wrong; it says which wheels there are."""
    text = vendor.examined()
    assert "\n" not in text
    assert all(
        word in text for word in (RELEASE, "3.7 to 3.10", *WHEELS, "github.com/BaguaSys/bagua")
    )
    return text


@pytest.mark.parametrize(("python", "told"), [((3, 11), True), ((3, 10), False), ((3, 6), True)])
def test_a_python_without_wheels_is_told(monkeypatch, python, told):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "version_info", python)
    assert ("no wheel for Python" in complaint()) is told
    assert complaint().startswith("Bagua is not installed")


@pytest.mark.parametrize(("cuda", "told"), [("13.0", True), ("11.7", False), (None, False)])
def test_a_cuda_without_wheels_is_told(monkeypatch, cuda, told):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    assert ("no wheel for CUDA" in complaint()) is told


def installed(monkeypatch, name):
    def version(asked):
        if asked != name:
            raise importlib.metadata.PackageNotFoundError(asked)
        return RELEASE

    monkeypatch.setattr("importlib.metadata.version", version)


def test_a_wheel_for_another_cuda_is_told(monkeypatch):
    installed(monkeypatch, "bagua-cuda117")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert complaint().startswith("bagua-cuda117 is for CUDA 11.7, and torch")
    with rules.refused(TorchrelayError, "CUDA 11.7", "12.8"):
        rules.trainer().fit(rules.momentum(), rules.data())
    installed(monkeypatch, "bagua")  # built from its sources
    assert vendor.examined() is None


@pytest.mark.parametrize("kind", [ImportError, OSError, AttributeError])
def test_bagua_that_cannot_be_imported_is_told(monkeypatch, kind):
    def broken(name):
        raise kind("libnccl.so.2: cannot open shared object file\nmore")

    monkeypatch.setattr(vendor, "import_module", broken)
    assert complaint().startswith("Bagua cannot be imported (libnccl.so.2: cannot open")
    with pytest.raises(UnavailableError, match="libnccl"):
        vendor.is_started()


def test_another_release_is_told(monkeypatch):
    monkeypatch.setattr("bagua.version.__version__", "0.9.2")
    assert complaint().startswith("Bagua 0.9.2 is not the release")


def test_without_bagua_the_spec_names_the_wheels(monkeypatch):
    for name in [each for each in sys.modules if each.partition(".")[0] == "bagua"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (need,) = missing(SPECS["bagua"].requires)
    assert f"bagua-cuda117=={RELEASE}" in need.install


FIRST_RUN = """
import os, sys
sys.path[:0] = {path!r}
import bagua_rules as rules
from torchrelay.testing.numerics_problems import Trained

class Looks(Trained):
    def on_train_start(self):
        print("level", os.environ["BAGUA_AUTOTUNE"])

for asked in (True, None, True):
    rules.trainer(own={{"autotune": asked}}).fit(Looks(), rules.data())
"""


def test_the_first_run_may_be_tuned():
    path = [str(HERE / "support"), str(HERE / "simulator")]
    done = subprocess.run(
        [sys.executable, "-c", FIRST_RUN.format(path=path)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    levels = [line for line in done.stdout.splitlines() if line.startswith("level")]
    assert levels == ["level 1", "level 0", "level 1"]


def test_the_warning_comes_before_the_service(monkeypatch):
    told = []
    monkeypatch.setattr(vendor, "is_started", lambda: False)
    monkeypatch.setattr(collectives, "open_store", lambda environment: None)
    monkeypatch.setattr(collectives._logger, "warning", told.append)

    def fails(*args):
        told.append("started")
        raise LaunchError("on purpose")

    monkeypatch.setattr(vendor, "start", fails)
    with pytest.raises(LaunchError):
        BaguaCollectives().connect(BaguaEnvironment({**LAUNCHED, "RANK": "0"}), torch.device("cpu"))
    assert [each[:24] for each in told] == ["Bagua's service, a proce", "started"]


def test_a_start_that_fails_says_first_what_bagua_said(monkeypatch):
    def fails(**options):
        raise OSError("no port\nmore")

    monkeypatch.setattr(communication, "init_process_group", fails)
    with pytest.raises(LaunchError, match=r"^OSError: no port: Bagua did not meet"):
        vendor.start(None, 0, 1, 1)


# --- collectives ----------------------------------------------------------------------------------------


def test_collectives_that_are_not_connected_say_so():
    made = BaguaCollectives()
    for call in (
        made.barrier,
        lambda: made.reduce(1.0),
        lambda: made.rank,
        lambda: made.world_size,
    ):
        with rules.refused(TorchrelayError, "connect("):
            call()


def test_another_number_of_processes_is_refused():
    rules.trainer().fit(rules.momentum(), rules.data())
    made = BaguaCollectives()
    with rules.refused(ConfigurationError, "1 processes", "8", "another program"):
        made.connect(BaguaEnvironment(LAUNCHED), torch.device("cpu"))


# --- the simulator's own rules --------------------------------------------------------------------------


def test_only_gpus_take_part_unless_it_is_declared(monkeypatch):
    rules.trainer().fit(rules.momentum(), rules.data())
    communication.allreduce_inplace(torch.ones(1))
    monkeypatch.setattr(machine, "kind", Machine().kind)
    for call in (communication.allreduce_inplace, communication.broadcast):
        with pytest.raises(AssertionError, match="must be CUDA"):
            call(torch.ones(1))


def test_what_bagua_does_not_send_is_refused():
    rules.trainer().fit(rules.momentum(), rules.data())
    for dtype in (torch.float64, torch.bfloat16, torch.int32, torch.bool):
        with pytest.raises(ValueError, match="unsupported data type"):
            communication.allreduce_inplace(torch.ones(1).to(dtype))
    with pytest.raises(RuntimeError, match="NCCL has no operation BAND"):
        communication.allreduce_inplace(torch.ones(1), communication.ReduceOp.BAND)


def test_a_second_connection_is_an_error():
    rules.trainer().fit(rules.momentum(), rules.data())
    with pytest.raises(RuntimeError, match="there already"):
        communication.init_process_group()


def test_bagua_s_own_search_for_unused_parameters_sends_twice_or_not_at_all(monkeypatch):
    rules.trainer().fit(rules.momentum(), rules.data())
    monkeypatch.setenv("BAGUA_DEFAULT_BUCKET_SIZE", "1")  # a bucket for each

    class Either(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.ways = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(2))

        def forward(self, x, way):
            return self.ways[way](x)

    algorithm = vendor.algorithm("gradient_allreduce", {})
    wrapper = DistributedDataParallel(Either(), find_unused_parameters=True, algorithm=algorithm)
    with rules.events() as found:
        wrapper(torch.ones(1, 2), 1).sum().backward()
        assert found == ["reduced"] * 4  # two buckets
        wrapper(torch.ones(1, 2), 0).sum().backward()
        assert found == ["reduced"] * 4  # whole ones wait for those before them


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_8_bits_are_half_a_level_off_at_most(scale):
    values = torch.randn(1000, generator=torch.Generator().manual_seed(1)) * scale
    off = float((compression.rounded(values) - values).abs().max())
    assert 0 < off <= compression.half_a_level(values) * (1 + 1e-3)
    ends, levels = compression.compressed(values)
    assert (int(levels.min()), int(levels.max())) == (0, 255)
    assert ends.tolist() == [float(values.min()), float(values.max())]


def test_the_catalog_of_algorithms_is_complete():
    assert set(algorithms.ALGORITHMS) == set(CAPABILITIES)


def test_after_a_failure_nobody_is_met_any_more():
    made = Others()
    environment = BaguaEnvironment(LAUNCHED)
    made.check(environment, False)
    made.met(environment, False)
    made.check(environment, False)
    with rules.refused(LaunchError, "connects once", "start the program again"):
        made.check(BaguaEnvironment({**LAUNCHED, "MASTER_PORT": "29501"}), False)
    made.lose(ValueError("on purpose\nmore"))
    made.lose(ValueError("what came of it"))
    with rules.refused(LaunchError, "ValueError: on purpose", "start_method='spawn'"):
        made.check(environment, False)
