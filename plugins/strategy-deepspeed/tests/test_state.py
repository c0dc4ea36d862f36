"""The state of DeepSpeed engines: by name, into other engines, into torch and back; and in DeepSpeed's own form."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("deepspeed")

from torchrelay.checkpoint.conversion import convert
from torchrelay.errors import CheckpointError
from torchrelay.testing.forkserver import shared_server
from torchrelay_deepspeed.conversion import read_native
from torchrelay_deepspeed.folder import is_native

pytestmark = pytest.mark.timeout(960)

SCRIPT = Path(__file__).parent / "scripts" / "states.py"
LIMIT = 900
"""Seconds that a program may take; it makes some fifty engines, and compiles before where nothing else has."""

MOMENTS = {"exp_avg", "exp_avg_sq", "step"}
TRAINED = {"first.weight", "first.bias", "scale", "norm.weight", "norm.bias", "second.weight"}


def run(task, folder, ranks=2, **variables):
    """Run a task of states.py in some processes, and return what the first of them left."""
    folder.mkdir(exist_ok=True)
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    address = [
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "127.0.0.1:0",
        "--local-addr",
        "127.0.0.1",
    ]
    done = shared_server().run(
        [sys.executable, *launcher, *address, str(SCRIPT), task],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "DS_ACCELERATOR": "cpu",
            "OUT": str(folder),
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return torch.load(folder / "result-0.pt", weights_only=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("states")


@pytest.fixture(scope="module")
def resumed(folder):
    return run("resume", folder / "resume")


@pytest.fixture(scope="module")
def chained(folder):
    return run("chain", folder / "chain")


@pytest.fixture(scope="module")
def first(folder):
    return run("first", folder / "first")


@pytest.fixture(scope="module")
def native(folder):
    return run("native", folder / "two")


@pytest.fixture(scope="module")
def alone(native, folder):
    return run("one", folder / "one", ranks=1, FROM=str(folder / "two"))


def distance(one, other):
    """The largest difference between two sets of tensors of the same names."""
    assert one.keys() == other.keys()
    return max((float((one[n].double() - other[n].double()).abs().max()) for n in one), default=0.0)


def apart(one, other, *, options=True):
    """The largest difference between the weights and moments of two states; the rest must be the same."""
    mine, theirs = one["optimizer"], other["optimizer"]
    if options:
        assert mine["param_groups"] == theirs["param_groups"]
    assert mine["state"].keys() == theirs["state"].keys()
    moments = [distance(mine["state"][name], theirs["state"][name]) for name in mine["state"]]
    return max([distance(one["weights"], other["weights"]), *moments])


def test_a_run_that_another_engine_goes_on_with_is_the_same_to_the_bit(resumed):
    assert len(resumed) == 27
    for name, kind in resumed.items():
        assert apart(kind["saved"], kind["loaded"]) == 0, name
        assert apart(kind["whole"], kind["resumed"]) == 0, name
        assert kind["whole"]["scale"] == kind["resumed"]["scale"], name
        assert distance(kind["saved"]["weights"], kind["whole"]["weights"]) > 1e-2, name


def test_the_state_is_that_of_a_torch_optimizer(resumed):
    for name, kind in resumed.items():
        state = kind["saved"]["optimizer"]
        keys = {"momentum_buffer"} if name.endswith("sgd") else MOMENTS
        assert state["state"].keys() == TRAINED, name
        for entry in state["state"].values():
            assert entry.keys() == keys, name
            assert {value.dtype for value in entry.values()} == {torch.float32}, name
        if keys is MOMENTS:
            assert {float(entry["step"]) for entry in state["state"].values()} == {3.0}, name
        groups = [group["params"] for group in state["param_groups"]]
        assert groups[0] == [
            *(f"{p}.{w}" for p in ("first", "frozen") for w in ("weight", "bias")),
            "scale",
        ]
        assert groups[1] == ["norm.weight", "norm.bias", "second.weight"]
        assert [group["lr"] for group in state["param_groups"]][1] == 0.02 or name.endswith("sgd")


def test_weights_are_whole_in_fp32_with_buffers_frozen_and_tied_ones(resumed):
    for name, kind in resumed.items():
        weights = kind["saved"]["weights"]
        assert {value.dtype for value in weights.values()} == {torch.float32}, name
        assert {"shift", "frozen.weight", "tied.weight"} < weights.keys(), name
        assert weights["tied.weight"].data_ptr() == weights["second.weight"].data_ptr(), name
        # More than a 16-bit number holds: the masters, not their copies.
        short = weights["first.weight"].bfloat16().float()
        assert not torch.equal(short, weights["first.weight"]), name


def test_the_scale_of_gradients_goes_on(resumed):
    for stage in (0, 1, 2, 3):
        kind = resumed[f"{stage}-16"]
        assert (kind["saved"]["scale"]["scale"], kind["resumed"]["scale"]["scale"]) == (
            256.0,
            512.0,
        )
        assert kind["resumed"]["scale"]["calm_steps"] == 6
    assert resumed["2-bf16"]["saved"]["scale"] == {}


@pytest.mark.parametrize(("name", "tolerance"), [("sgd", 1e-6), ("adam", 1e-6), ("adamw", 5e-6)])
def test_torch_then_each_stage_then_torch_is_torch_alone(chained, name, tolerance):
    whole, handed_on = chained[name]["whole"], chained[name]["chained"]
    # DeepSpeedCPUAdam has an option more than AdamW.
    assert apart(whole, handed_on, options=name != "adamw") <= tolerance


def test_a_state_without_a_step_is_taken_up(first):
    for stage in (0, 1, 2, 3):
        states = first[f"fresh-{stage}"]
        assert states["fresh"]["optimizer"]["state"] == states["back"]["optimizer"]["state"] == {}
        assert apart(states["fresh"], states["back"]) == 0


def test_unequal_steps_of_a_group_are_told(first):
    assert first["uneven-0"] == []
    for stage in (1, 2, 3):
        (message,) = first[f"uneven-{stage}"]
        assert "parameters of 1 and of 2 steps" in message


def test_what_does_not_fit_is_told(first):
    for stage in (0, 1, 2, 3):
        messages = first[f"wrong-{stage}"]
        assert messages.keys() == {"shape", "missing", "moment"}  # and nothing of strict=False
        assert all(message.startswith("CheckpointError: ") for message in messages.values())
        assert "of another shape first.bias (3,) for (7,)" in messages["shape"]
        assert "missing first.bias" in messages["missing"]
        assert "'exp_avg' of shape (3,) for first.bias" in messages["moment"]


def test_the_step_that_deepspeed_makes_at_stage_0_in_16_bits_is_taken_back(first):
    for mine, theirs in zip(first["undone"], first["stage 1"], strict=True):
        assert apart(mine, theirs) == 0
    # Should this fail, DeepSpeed has ceased to make it.
    left, sound = first["left"][0], first["stage 1"][0]
    assert distance(left["weights"], sound["weights"]) > 1e-3


def test_the_native_form_is_exact_with_as_many_processes(native):
    for name, kind in native.items():
        assert apart(kind["saved"], kind["loaded"]) == 0, name
        assert apart(kind["whole"], kind["resumed"]) == 0, name
        assert kind["kept"] == {"epoch": 1, "loops": {"batch": 3}}, name
        assert kind["counts"] == (6, 0), name


def test_the_native_form_is_taken_up_by_another_number_of_processes_and_another_stage(
    native, alone
):
    assert len(alone) == 53
    for name, outcome in alone.items():
        kind = native[name.partition(" ")[0]]
        assert apart(kind["saved"], outcome["loaded"]) == 0, name
        short = "-bf16" in name or "-16" in name
        # In 16 bits gradients of half the batch are rounded before they are added, and Adam makes much of it.
        assert apart(kind["whole"], outcome["resumed"]) <= (5e-3 if short else 1e-6), name
        assert outcome["kept"] == {"epoch": 1, "loops": {"batch": 3}}, name
        assert outcome["counts"] == (6, 0), name


def test_the_native_form_is_converted_without_an_engine(native, folder, tmp_path):
    for name, kind in native.items():
        source = folder / "two" / "native" / name
        assert is_native(source)
        convert(source, tmp_path / f"{name}.ckpt")
        found = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)
        state = {"weights": found["state_dict"], "optimizer": found["optimizer_states"][0]}
        assert apart(kind["saved"], state) == 0, name
        tied = [found["state_dict"][f"{which}.weight"].data_ptr() for which in ("second", "tied")]
        assert tied[0] == tied[1], name
        assert (found["epoch"], found["global_step"], found["loops"]) == (1, 3, {"batch": 3}), name


def test_conversion_needs_no_deepspeed(native, folder, tmp_path):
    program = (
        "import sys; sys.modules['deepspeed'] = None\n"
        "from torchrelay.checkpoint.conversion import convert; convert(*sys.argv[1:])"
    )
    source = folder / "two" / "native" / "3-bf16"
    done = subprocess.run(
        [sys.executable, "-c", program, str(source), str(tmp_path / "c.ckpt")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "c.ckpt").exists()


def test_a_file_with_code_is_refused(native, folder, tmp_path):
    source = folder / "two" / "native" / "2-32"
    (tag,) = [each for each in source.iterdir() if each.is_dir()]
    for each in tag.iterdir():
        torch.save({**torch.load(each, weights_only=False), "hook": Trap()}, tmp_path / each.name)
    with pytest.raises(CheckpointError, match="cannot be read as a DeepSpeed checkpoint"):
        read_native(tmp_path)
    assert not Trap.sprung


def test_a_folder_that_is_not_whole_is_refused(native, folder, tmp_path):
    source = folder / "two" / "native" / "3-32"
    (tag,) = [each for each in source.iterdir() if each.is_dir()]
    for each in sorted(tag.iterdir())[:-1]:
        (tmp_path / each.name).write_bytes(each.read_bytes())
    with pytest.raises(CheckpointError, match="the model of 2 ranks and the optimizer of 1"):
        read_native(tmp_path)
    with pytest.raises(CheckpointError, match="is no DeepSpeed checkpoint"):
        read_native(tmp_path / "..")


class Trap:
    """Tells whether it was unpickled."""

    sprung = False

    def __reduce__(self):
        return _spring, ()


def _spring():
    Trap.sprung = True
