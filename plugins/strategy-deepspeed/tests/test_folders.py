"""Checkpoints that are folders of DeepSpeed's, written and read through the Trainer."""

from __future__ import annotations

import importlib.util
import shutil
import sys

import pytest

from torchrelay.checkpoint.conversion import convert
from torchrelay.checkpoint.inspection import inspect
from torchrelay.errors import CheckpointError, ConfigurationError, UnsupportedError
from torchrelay_deepspeed import sharded

if importlib.util.find_spec("deepspeed") is None:
    pytest.skip("needs DeepSpeed", allow_module_level=True)

pytestmark = pytest.mark.timeout(960)

KINDS = ("0-32-true", "1-bf16-mixed", "2-32-true", "3-32-true", "3-bf16-mixed")
RATES = [0.01 * 0.9**epoch for epoch in range(8)]
UPDATES = 7
"""In an epoch."""

DEEPSPEED = {
    True: [
        "zero_pp_rank_0_mp_rank_00_model_states.pt",
        "zero_pp_rank_1_mp_rank_00_model_states.pt",
    ],
    False: ["mp_rank_00_model_states.pt"],
}
"""Files of the model, where ranks divide it and where not."""


def torchrun(devices):
    """The command that starts so many processes."""
    return (
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--local-addr", "127.0.0.1", "--nproc-per-node", str(devices)),
    )


@pytest.fixture(scope="module")
def run(shared):
    """Runs a task of folders.py in so many processes; gives what rank 0 left."""

    def run(task, devices, kinds=KINDS):
        process = shared.start(
            "folders.py", task, str(devices), str(shared.folder), *kinds, launcher=torchrun(devices)
        )
        out, err = process.communicate(timeout=900)
        assert process.returncode == 0, out[-3000:] + err[-6000:]
        return shared.results(f"{task}-{devices}", ranks=devices)[0]

    return run


@pytest.fixture(scope="module")
def saved(run):
    return run("save", 2)


def test_each_rank_adds_its_part_and_one_folder_is_kept(saved, shared):
    for kind, outcome in saved.items():
        assert outcome["files"] == ["epoch=3.ckpt", "last.ckpt"]
        (tag,) = (shared.folder / kind / "last.ckpt").glob("global_step*")
        names = [each.name for each in tag.iterdir()]
        assert [n for n in sorted(names) if "model_states" in n] == DEEPSPEED[kind[0] == "3"]
        assert len([n for n in names if "optim_states" in n]) == (0 if kind[0] == "0" else 2)


@pytest.fixture(scope="module")
def resumed(saved, run):
    return run("resume", 2)


def test_as_many_processes_go_on_to_the_bit(saved, resumed, distance):
    for kind, outcome in resumed.items():
        whole, went_on = saved[kind]["whole"], outcome["resumed"]
        assert distance(whole["state"], went_on["state"]) == 0, kind
        assert went_on["rates"] == pytest.approx(RATES[4:]), kind
        assert went_on["steps"] == 8 * UPDATES, kind
        assert distance(saved[kind]["half"]["state"], whole["state"]) > 1e-3, kind


def test_the_module_sees_the_checkpoint_before_it_is_taken_up(resumed):
    for outcome in resumed.values():
        facts = outcome["resumed"]["facts"]
        assert {"loops", "callbacks", "rng", "state_dict", "optimizer_states"} <= {*facts["loaded"]}
        assert facts["names"] == ["first.weight", "first.bias", "second.weight", "second.bias"]


@pytest.mark.parametrize(("task", "devices"), [("resume", 1), ("ddp", 2)])
def test_others_go_on_too(saved, run, distance, task, devices):
    for kind, outcome in run(task, devices).items():
        # In 16 bits gradients of half a batch are rounded before they are added.
        near = 1e-3 if "bf16" in kind else 1e-6
        assert distance(saved[kind]["whole"]["state"], outcome["resumed"]["state"]) <= near, kind
        assert outcome["resumed"]["rates"] == pytest.approx(RATES[4:]), kind
        assert outcome["resumed"]["steps"] == 8 * UPDATES, kind


def test_a_folder_that_deepspeed_alone_wrote_is_gone_on_from(run, distance):
    for kind, outcome in run("bare", 2, ["2-32-true", "3-bf16-mixed"]).items():
        assert distance(outcome["whole"]["state"], outcome["resumed"]["state"]) == 0, kind
        assert distance(outcome["whole"]["state"], outcome["half"]["state"]) > 1e-3, kind
        assert outcome["resumed"]["steps"] == 8 * UPDATES, kind


def test_what_was_there_stays_where_writing_fails(run):
    for outcome in run("full", 2, ["3-32-true"]).values():
        (message,) = outcome["messages"]
        assert "No space left on device; what was there is still there" in message
        assert outcome["files"] == ["it"]


def test_a_folder_is_inspected_and_converted(saved, shared, tmp_path):
    folder = shared.folder / "3-32-true" / "last.ckpt"
    assert inspect(folder).kind == "a folder in the form deepspeed"
    convert(folder, tmp_path / "one.ckpt")
    facts = inspect(tmp_path / "one.ckpt")
    assert (facts.kind, facts.progress) == ("torchrelay", {"epoch": 4, "global_step": 28})


def test_of_a_link_the_link_is_removed(tmp_path):
    folder, link = tmp_path / "epoch=3.ckpt", tmp_path / "last.ckpt"
    (folder / "global_step28").mkdir(parents=True)
    link.symlink_to(folder.name)
    sharded.remove(link)
    assert [each.name for each in tmp_path.iterdir()] == [folder.name]
    sharded.remove(folder)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CheckpointError, match="No such file or directory; remove it by hand"):
        sharded.remove(folder)


def test_a_checkpoint_io_beside_it_is_refused():
    from torchrelay.checkpoint import AsyncCheckpointIO

    message = _refusal(checkpoint_io=AsyncCheckpointIO())
    assert "the checkpoint_io that is given beside it would not be used" in message


def test_state_on_nvme_is_refused(tmp_path):
    disk = {"device": "nvme", "nvme_path": str(tmp_path)}
    message = _refusal(config={"zero_optimization": {"stage": 3, "offload_optimizer": disk}})
    assert "goes on from such a folder without ever updating a weight" in message


def test_a_folder_with_state_that_nvme_held_is_refused(run, saved, shared):
    kind = "3-32-true"
    copy = shared.folder / f"held-{kind}" / "last.ckpt"
    shutil.copytree(shared.folder / kind / "last.ckpt", copy)
    step = (copy / "latest").read_text()
    (copy / step / "offloaded_tensors").mkdir()
    message = run("held", 2, (kind,))[kind]["message"]
    assert f"{step} has the optimizer's state as NVMe held it" in message
    assert "save checkpoints that are not sharded" in message


def _refusal(**components):
    import torch

    from torchrelay import LightningModule, Trainer
    from torchrelay_deepspeed import DeepSpeedStrategy

    class Module(LightningModule):
        def training_step(self, batch, batch_idx):
            """Never comes to it."""

        def configure_optimizers(self):
            return torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)

    quiet = {"enable_progress_bar": False, "logger": False, "enable_checkpointing": False}
    strategy = DeepSpeedStrategy(sharded_checkpoints=True, **components)
    with pytest.raises((ConfigurationError, UnsupportedError)) as raised:
        Trainer(strategy=strategy, accelerator="cpu", devices=2, **quiet).fit(Module(), [1])
    return str(raised.value)
