"""Every call in `vendor.py`, and every name of the simulator, against the sources in Bagua's own wheel."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import bagua
import pytest
import wheel
from uses import binds, uses

from torchrelay_bagua import algorithms as ours
from torchrelay_bagua import vendor
from torchrelay_bagua.plugin import RELEASE

HERE = Path(__file__).parent
SIMULATED = HERE / "simulator" / "bagua"
TOP = wheel.TOP
IMPLEMENTATION = f"{TOP}.algorithms.async_model_average.AsyncModelAverageAlgorithmImpl"
ROOTS = {
    "communication": f"{TOP}.communication",
    "algorithms": f"{TOP}.algorithms",
    "q_adam": f"{TOP}.algorithms.q_adam",
    "parallel": f"{TOP}.data_parallel",
    "wrapper": f"{TOP}.data_parallel.distributed.DistributedDataParallel_V1_9_0",
    "averaging": IMPLEMENTATION,
}
SOURCE = Path(vendor.__file__).read_text()
USES = list(uses(SOURCE, ROOTS))


# --- what the strategy calls ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "call"), USES, ids=[f"{name}, {at}" for at, (name, _) in enumerate(USES)]
)
def test_every_use_in_vendor_is_the_wheel_s_and_fits(name, call):
    if call is None:
        wheel.find(name)
    else:
        binds(wheel.signature(name), call)


def test_every_module_that_vendor_asks_for_is_watched():
    asked = set(re.findall(r'(?<!import_)module\("([^"]*)"\)', SOURCE)) - {""}
    watched = {name.removeprefix(f"{TOP}.") for name in ROOTS.values()}
    assert asked <= watched
    assert len(asked) == 4


def test_the_flag_that_vendor_sets_is_the_wrapper_s():
    assert "inner.require_backward_grad_sync" in SOURCE
    inner = f"{TOP}.data_parallel.bagua_distributed.BaguaDistributedDataParallel"
    wheel.find(f"{inner}.require_backward_grad_sync")
    assert "self.inner = BaguaDistributedDataParallel(" in wheel.text(
        f"{TOP}.data_parallel.distributed", "DistributedDataParallel_V1_9_0"
    )


def test_the_name_that_vendor_gives_is_the_one_that_the_wrapper_reads():
    assert "model.bagua_module_name = name" in SOURCE
    wheel.find(f"{TOP}.distributed.BaguaModule.bagua_module_name")
    setter = wheel.text(f"{TOP}.distributed", "BaguaModule")
    assert "@bagua_module_name.setter" in setter


def test_the_operations_are_the_wheel_s():
    _, kind = wheel.find(f"{TOP}.communication.ReduceOp")
    assert {each.targets[0].id for each in kind.body if isinstance(each, ast.Assign)} == {
        *("SUM", "PRODUCT", "MIN", "MAX", "BOR", "BAND", "BXOR", "AVG")
    }


def test_the_formats_are_the_wheel_s():
    import torch

    text = wheel.text(f"{TOP}.utils", "to_bagua_datatype")
    named = {getattr(torch, name) for name in re.findall(r"torch\.(\w+)", text)}
    assert named == set(vendor.TYPES)


def test_what_vendor_takes_off_is_what_the_wheel_puts_on():
    text = wheel.text(f"{TOP}.tensor", "BaguaTensor.ensure_bagua_tensor")
    assert set(re.findall(r"self\.(\w+) = ", text)) == set(vendor.OF_A_TENSOR)
    inner = f"{TOP}.data_parallel.bagua_distributed.BaguaDistributedDataParallel"
    text = wheel.text(
        f"{TOP}.data_parallel.bagua_distributed",
        f"{inner.rpartition('.')[2]}._register_optimizer_hooks",
    )
    assert set(re.findall(r"optimizer\.(\w+) = ", text)) == {vendor.OF_AN_OPTIMIZER, "step"}


def test_the_wheel_communicates_on_the_device_of_the_local_rank():
    for name in ("get_communicator", "get_backend"):
        assert "device_id=get_local_rank()" in wheel.text(f"{TOP}.communication", name)


def test_the_wheel_s_search_for_unused_parameters_is_what_the_simulator_s_does():
    inner = f"{TOP}.data_parallel.bagua_distributed"
    kind = "BaguaDistributedDataParallel"
    again = wheel.text(inner, f"{kind}._bagua_autotune_get_buckets")
    assert "self._bagua_tensor_map[y['name']]" in again  # all that were registered
    assert "init_post_backward_hook(self)()" in wheel.text(inner, f"{kind}._delay_allreduce")
    hooks = wheel.text(inner, f"{kind}._register_autograd_hooks")
    first, second = "init_post_backward_hook(self)()", "self._delay_allreduce()"
    assert hooks.index(first) < hooks.index("self._reset_buckets()") < hooks.index(second)


# --- algorithms -----------------------------------------------------------------------------------------


def test_the_algorithms_are_the_wheel_s():
    assert set(wheel.registered()) == set(ours.ALGORITHMS)


@pytest.mark.parametrize("name", ours.ALGORITHMS)
def test_an_algorithm_has_the_wheel_s_options_and_defaults(name):
    theirs = wheel.signature(wheel.registered()[name]).parameters
    options = {each.name: each.default for each in dataclasses.fields(ours.ALGORITHMS[name])}
    given = {"q_adam_optimizer"} if name == "qadam" else set()
    assert options == {key: each.default for key, each in theirs.items() if key not in given}
    assert given <= set(theirs)


# --- what is documented of the service ------------------------------------------------------------------


def test_the_service_listens_everywhere_whatever_is_set():
    server = wheel.text(f"{TOP}.communication", "run_flask_app")
    assert "listener=('0.0.0.0', port)" in server
    start = wheel.text(f"{TOP}.communication", "start_autotune_server")
    assert "args=(service_port,)" in start
    begun = wheel.text(f"{TOP}.communication", "init_process_group")
    # Rank 0 starts it without a condition but that it has not been started.
    assert "if get_rank() == 0:" in begun
    assert "start_autotune_server(_autotune_service_port)" in begun
    assert not re.search(r"autotune_level|BAGUA_AUTOTUNE\b", begun)


def test_the_service_is_a_process_of_its_own_that_a_kill_leaves():
    start = wheel.text(f"{TOP}.communication", "start_autotune_server")
    assert "multiprocessing.Process(target=run_flask_app" in start
    assert "_autotune_server.daemon = True" in start


def test_tuning_makes_the_buckets_anew():
    inner = f"{TOP}.data_parallel.bagua_distributed"
    kind = "BaguaDistributedDataParallel"
    step = wheel.text(inner, f"{kind}._bagua_autotune_step")
    assert "CYCLE_STEP = 100" in step
    assert "self._reset_buckets()" in step
    assert "init_operations" in wheel.text(inner, f"{kind}._reset_buckets")
    assert "autotune_level=env.get_autotune_level()" in wheel.text(
        f"{TOP}.communication", "run_flask_app"
    )


def test_no_variable_of_bagua_s_names_an_interface():
    text = "\n".join(path.read_text() for path in sorted((wheel.root() / "bagua").rglob("*.py")))
    assert set(re.findall(r"environ(?:\.get\(|\[)\s*[\"'](BAGUA_\w+)", text)) == {
        *("BAGUA_SERVICE_PORT", "BAGUA_DEFAULT_BUCKET_SIZE", "BAGUA_REPORT_METRICS"),
        *("BAGUA_AUTOTUNE", "BAGUA_AUTOTUNE_MAX_SAMPLES", "BAGUA_AUTOTUNE_SERVER_WAIT_TIME"),
        *("BAGUA_AUTOTUNE_SAMPLING_CONFIDENCE_TIME_S", "BAGUA_AUTOTUNE_WARMUP_TIME_S"),
        *("BAGUA_IS_OUTPUT_AUTOTUNE_LOG", "BAGUA_NODE_DOMAIN_NAMES", "BAGUA_SSH_PORT"),
    }


def test_nothing_ends_the_connection():
    defined = [
        n.name for n in wheel.tree(f"{TOP}.communication").body if isinstance(n, ast.FunctionDef)
    ]
    assert not [each for each in defined if re.search("destroy|finalize|shutdown|close", each)]


def test_the_variables_are_those_that_the_wheel_reads():
    text = (wheel.root() / "bagua/torch_api/env.py").read_text()
    read = set(re.findall(r"environ\.get\(\s*\"(\w+)\"", text))
    assert set(vendor.VARIABLES) <= read


# --- the simulator --------------------------------------------------------------------------------------


def modules():
    for path in sorted(SIMULATED.rglob("*.py")):
        parts = path.relative_to(SIMULATED.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def offered():
    """Functions, classes and methods that the simulator has under Bagua's names."""
    for module in modules():
        for name, value in vars(importlib.import_module(module)).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module:
                continue
            yield f"{module}.{name}", value
            if isinstance(value, type):
                for own, member in vars(value).items():
                    if not own.startswith("_") and callable(getattr(member, "__func__", member)):
                        yield f"{module}.{name}.{own}", getattr(member, "__func__", member)


OFFERED = dict(offered())
OWN = {
    # Their operations are named by numbers, which `test_the_operations_are_the_wheel_s` reads.
    f"{TOP}.communication.ReduceOp",
    # What is theirs in it is the flag, which another test reads.
    f"{TOP}.data_parallel.bagua_distributed.BaguaDistributedDataParallel.parameters",
}


def test_there_is_something_of_each_module():
    assert len(OFFERED) > 30


@pytest.mark.parametrize("name", sorted(set(OFFERED) - OWN))
def test_the_simulator_s_name_is_the_wheel_s_and_is_called_alike(name):
    theirs = wheel.signature(name) if not _plain_class(name) else None
    if theirs is None:
        wheel.find(name)
        return
    mine = [
        p
        for p in inspect.signature(OFFERED[name]).parameters.values()
        if p.name not in ("self", "cls")
    ]
    assert [p.name for p in mine] == list(theirs.parameters)
    for one, other in zip(mine, theirs.parameters.values(), strict=True):
        if isinstance(other.default, str) and other.default.endswith((")", "SUM")):
            assert one.default is not inspect.Parameter.empty  # computed
        else:
            assert one.default == other.default


def _plain_class(name):
    return isinstance(OFFERED[name], type) and "__init__" not in vars(OFFERED[name])


@pytest.mark.parametrize("name", sorted({name for name, _ in USES}))
def test_the_simulator_has_what_vendor_uses(name):
    parts = name.split(".")
    module = next(
        ".".join(parts[:end])
        for end in range(len(parts), 0, -1)
        if ".".join(parts[:end]) in set(modules())
    )
    found = importlib.import_module(module)
    for part in parts[len(module.split(".")) :]:
        if part == "inner":
            return  # an object's own, which the tests of training read
        found = getattr(found, part)


def test_a_call_that_departs_is_found():
    wrong = "communication.barrier(1, 2)\ncommunication.init_process_group(size=2)\ncommunication.destroy()"
    found = list(uses(wrong, ROOTS))
    assert len(found) == 3
    for name, call in found:
        with pytest.raises((TypeError, LookupError)):
            binds(wheel.signature(name), call)


def test_the_release_is_the_wheel_s():
    assert f'__version__ = "{RELEASE}"' in (wheel.root() / "bagua/version.py").read_text()


def test_the_simulator_says_what_it_is():
    assert "simulated" in bagua.__version__
    assert bagua.__doc__.startswith("A SIMULATOR")
    assert Path(bagua.__file__).is_relative_to(HERE)


def test_the_simulator_is_not_in_the_wheel():
    project = (HERE.parent / "pyproject.toml").read_text()
    assert 'packages = ["src/torchrelay_bagua"]' in project
    assert not list((HERE.parent / "src").rglob("*simulat*"))
