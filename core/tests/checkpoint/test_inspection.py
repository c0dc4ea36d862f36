from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from torchrelay.checkpoint.inspection import UNREADABLE, Inert, TensorFacts, inspect, load_inert
from torchrelay.checkpoint.schema import make_manifest
from torchrelay.errors import CheckpointError

DATA = Path(__file__).with_name("data")


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


class Settings:
    """A class of the user's own, as hyper-parameters may hold."""

    def __init__(self):
        self.width = 3

    def __setstate__(self, state):
        raise RuntimeError("its code ran")


def checkpoint(**more):
    model = torch.nn.Linear(3, 2)
    state = {**model.state_dict(), "steps": torch.tensor(7)}
    named = {"state": {"weight": {"exp_avg": torch.zeros(2, 3)}}}
    named["param_groups"] = [{"lr": 0.1, "params": ["weight"]}, {"lr": 0.2, "params": ["bias"]}]
    return {
        "state_dict": state,
        "optimizer_states": [named],
        "epoch": 2,
        "global_step": 40,
        "callbacks": {"ModelCheckpoint": {"best": torch.tensor(0.5), "path": "x.ckpt"}},
        "hyper_parameters": {"width": 3, "name": "a\nb"},
        "precision": {},
        "torchrelay": make_manifest(strategy="DDPStrategy", alias="ddp", world_size=2),
        **more,
    }


@pytest.fixture
def saved(tmp_path):
    """Saves a checkpoint and returns its path."""

    def save(content, **options):
        path = tmp_path / "some.ckpt"
        torch.save(content, path, **options)
        return path

    return save


def test_a_checkpoint_of_torchrelay(saved):
    path = saved(checkpoint())
    facts = inspect(path)
    assert (facts.path, facts.kind, facts.size) == (str(path), "torchrelay", path.stat().st_size)
    assert facts.manifest["alias"] == "ddp"
    assert facts.manifest["torch"] == torch.__version__
    assert facts.progress == {"epoch": 2, "global_step": 40}
    assert facts.tensors == (
        TensorFacts("weight", (2, 3), "float32", 24),
        TensorFacts("bias", (2,), "float32", 8),
        TensorFacts("steps", (), "int64", 8),
    )
    (optimizer,) = facts.optimizers
    assert (optimizer.groups, optimizer.by_name, optimizer.kept) == ((1, 1), True, ("exp_avg",))
    assert (optimizer.size, optimizer.options) == (24, {"lr": "0.1"})
    assert facts.callbacks == {"ModelCheckpoint": "{best: 0.5, path: 'x.ckpt'}"}
    assert facts.hyper_parameters == {"width": "3", "name": "'a\\nb'"}
    assert facts.other == {"precision": "{}"}
    assert facts.code == ()


def test_a_checkpoint_of_lightning():
    facts = inspect(DATA / "inside_epoch.ckpt")
    assert (facts.kind, set(facts.manifest)) == ("Lightning", {"lightning"})
    assert [each.name for each in facts.tensors][:2] == ["layers.0.weight", "layers.0.bias"]
    assert not facts.optimizers[0].by_name
    assert any(key.startswith("EarlyStopping") for key in facts.callbacks)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before torch 1.6"])
def test_bare_weights_of_any_format(old, saved):
    path = saved({"a.weight": torch.zeros(4)}, _use_new_zipfile_serialization=not old)
    facts = inspect(path)
    assert (facts.kind, facts.other) == ("a dict", {})
    assert facts.tensors == (TensorFacts("a.weight", (4,), "float32", 16),)


def test_nothing_that_a_file_contains_is_executed(saved, tmp_path):
    hyper = {"evil": Evil(tmp_path / "made"), "settings": Settings(), "width": 3}
    facts = inspect(saved(checkpoint(hyper_parameters=hyper)))
    assert not (tmp_path / "made").exists()
    assert facts.code == (f"{Settings.__module__}.Settings", f"{os.mkdir.__module__}.mkdir")
    assert (facts.kind, facts.tensors) == (UNREADABLE, ())
    with pytest.raises(
        CheckpointError, match=r"carries: .*Settings, .*mkdir; .* only if you trust"
    ):
        load_inert(tmp_path / "some.ckpt")


def test_objects_of_unknown_classes_are_left_out_and_the_rest_is_told(saved):
    path = saved(checkpoint(hyper_parameters={"settings": Settings(), "width": 3}))
    allowed = torch.serialization.get_safe_globals()
    facts = inspect(path)
    assert facts.code == (f"{Settings.__module__}.Settings",)
    assert facts.hyper_parameters == {"settings": "<not loaded>", "width": "3"}
    assert len(facts.tensors) == 3
    loaded, _ = load_inert(path)
    assert isinstance(loaded["hyper_parameters"]["settings"], Inert)
    # What was allowed for this one look is not allowed afterwards.
    assert set(torch.serialization.get_safe_globals()) == set(allowed)
    assert "Settings" in str(torch.serialization.get_unsafe_globals_in_checkpoint(path))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_tensors_stay_on_the_disk(saved):
    path = saved(checkpoint(state_dict={"big": torch.ones(1 << 20)}))
    loaded, _ = load_inert(path)
    assert str(path) in Path("/proc/self/maps").read_text()
    assert loaded["state_dict"]["big"][-1] == 1


def test_a_folder_of_shards_is_listed_and_none_is_opened(tmp_path):
    folder = tmp_path / "shards"
    (folder / "rank0").mkdir(parents=True)
    (folder / ".metadata").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    (folder / "rank0" / "0.distcp").write_bytes(b"12345")
    facts = inspect(folder)
    assert (facts.kind, facts.size) == ("a folder", 29)
    assert facts.files == {".metadata": 24, os.path.join("rank0", "0.distcp"): 5}


def test_what_is_none_is_refused(tmp_path):
    torn = tmp_path / "torn.ckpt"
    torn.write_bytes((DATA / "finished.ckpt").read_bytes()[:3000])
    for path, message in (
        (tmp_path / "absent.ckpt", "cannot read the checkpoint"),
        (torn, "cut off or damaged"),
    ):
        with pytest.raises(CheckpointError, match=message):
            inspect(path)
    torch.save([1, 2], torn)
    with pytest.raises(CheckpointError, match="holds a list"):
        inspect(torn)
