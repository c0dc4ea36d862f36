from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from torchrelay.checkpoint.canonical import to_canonical
from torchrelay.checkpoint.conversion import FORMS, convert
from torchrelay.checkpoint.torch_io import TorchCheckpointIO
from torchrelay.errors import CheckpointError, ConfigurationError

DATA = Path(__file__).with_name("data")


def load(path):
    return TorchCheckpointIO().load_checkpoint(path)


def test_lightnings_becomes_canonical(tmp_path):
    source, target = DATA / "inside_epoch.ckpt", tmp_path / "deep" / "new.ckpt"
    convert(source, target)
    expected = to_canonical(load(source))
    found = load(target)
    assert found.keys() == expected.keys()
    assert found["torchrelay"]["lightning"] == "2.6.6"
    assert found["loops"] == expected["loops"]
    for name, value in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][name], value)
    again = tmp_path / "again.ckpt"
    convert(target, again)
    assert load(again)["loops"] == found["loops"]


def test_weights_alone(tmp_path):
    convert(DATA / "finished.ckpt", tmp_path / "w.ckpt", "weights")
    found = load(tmp_path / "w.ckpt")
    assert set(found) == {
        "state_dict",
        "epoch",
        "global_step",
        "hyper_parameters",
        "hparams_name",
        "torchrelay",
    }
    assert found["hyper_parameters"] == {"width": 2, "rate": 0.1, "extra": None}


def test_weights_of_a_file_that_carries_code_come_without_it(tmp_path):
    source, target = DATA / "objects.ckpt", tmp_path / "w.ckpt"
    with pytest.raises(CheckpointError, match=r"argparse\.Namespace.*--to weights"):
        convert(source, target)
    assert list(tmp_path.iterdir()) == []
    convert(source, target, "weights")
    found = load(target)
    assert set(found) == {"state_dict", "epoch", "global_step", "torchrelay"}
    assert len(found["state_dict"]) == 4


def test_a_model_that_is_code_itself_is_refused(tmp_path):
    source = tmp_path / "odd.ckpt"
    torch.save({"state_dict": {"weight": Path("x")}}, source)
    with pytest.raises(CheckpointError, match="the model itself holds objects that need code"):
        convert(source, tmp_path / "w.ckpt", "weights")


def read_safetensors(path):
    """By the format's description: the header's length, the header, the tensors."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert (8 + length) % 8 == 0
    assert header.pop("__metadata__") == {"format": "pt"}
    types = {"F32": torch.float32, "BF16": torch.bfloat16, "I64": torch.int64, "BOOL": torch.bool}
    found, place = {}, 0
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        assert start == place
        place = end
        raw = torch.frombuffer(bytearray(data[8 + length :]), dtype=torch.uint8)[start:end]
        found[name] = raw.clone().view(types[entry["dtype"]]).reshape(entry["shape"])
    assert 8 + length + place == len(data)
    return found


def state():
    base = torch.randn(4, 3)
    return {
        "plain": base,
        "tied": base,
        "turned": base.t(),
        "half": torch.randn(5).bfloat16(),
        "count": torch.tensor(3),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 2),
    }


def test_safetensors(tmp_path):
    source, target = tmp_path / "m.ckpt", tmp_path / "m.safetensors"
    torch.save({"state_dict": state()}, source)
    expected = torch.load(source)["state_dict"]
    convert(source, target, "safetensors")
    found = read_safetensors(target)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


def test_safetensors_as_its_own_library_reads_it(tmp_path):
    library = pytest.importorskip("safetensors.torch")
    source, target = tmp_path / "m.ckpt", tmp_path / "m.safetensors"
    torch.save({"state_dict": {k: v for k, v in state().items() if k != "empty"}}, source)
    convert(source, target, "safetensors")
    expected = torch.load(source)["state_dict"]
    found = library.load_file(target)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_safetensors_has_no_place_for_other_types(tmp_path):
    source = tmp_path / "m.ckpt"
    torch.save({"state_dict": {"z": torch.zeros(2, dtype=torch.complex64)}}, source)
    with pytest.raises(CheckpointError, match=r"no place for 'z'.*complex64.*--to weights"):
        convert(source, tmp_path / "m.safetensors", "safetensors")
    assert not (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_overwritten(form, tmp_path):
    target = tmp_path / "there.ckpt"
    target.write_text("precious")
    with pytest.raises(ConfigurationError, match="is there already"):
        convert(DATA / "finished.ckpt", target, form)
    assert target.read_text() == "precious"


def test_an_unknown_form_and_bare_weights_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="no form is called 'onnx'; known: canonical"):
        convert(DATA / "finished.ckpt", tmp_path / "x", "onnx")
    torch.save({"a": torch.zeros(1)}, tmp_path / "bare.pt")
    with pytest.raises(CheckpointError, match="no 'state_dict'"):
        convert(tmp_path / "bare.pt", tmp_path / "x")
