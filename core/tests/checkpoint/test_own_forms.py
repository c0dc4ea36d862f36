"""A checkpoint in a form of a backend's own, under a strategy that does not know it."""

from __future__ import annotations

import types

import pytest
import torch

from torchrelay.checkpoint import own_forms
from torchrelay.checkpoint.inspection import inspect
from torchrelay.plugin import CheckpointFormatSpec

MODULE = """
import pathlib, torch

def recognizes(path):
    return (pathlib.Path(path) / "part-0").is_file()

def read(path):
    return {"state_dict": {}, **torch.load(pathlib.Path(path) / "part-0", weights_only=True)}
"""


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """A form of folders, and the registry that knows it."""
    (tmp_path / "folder_of_parts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    spec = CheckpointFormatSpec(
        name="parts",
        target="folder_of_parts:read",
        recognizes="folder_of_parts:recognizes",
        description="A folder of parts.",
    )
    offer = types.SimpleNamespace(spec=spec)
    registry = types.SimpleNamespace(checkpoint_formats=(offer,))
    monkeypatch.setattr(own_forms, "get_registry", lambda: registry)


@pytest.mark.usefixtures("parts")
def test_any_strategy_goes_on_from_it(boring, make_trainer, tmp_path):
    whole = boring.regression()
    make_trainer(max_epochs=4).fit(whole, boring.loader())
    half = make_trainer(max_epochs=2)
    half.fit(boring.regression(), boring.loader())
    folder = tmp_path / "it.ckpt"
    folder.mkdir()
    half.save_checkpoint(folder / "part-0")
    resumed = boring.regression()
    make_trainer(max_epochs=4).fit(resumed, boring.loader(), ckpt_path=folder)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0)
    assert inspect(folder).kind == "a folder in the form parts"


@pytest.mark.usefixtures("parts")
def test_what_nobody_knows_has_no_form(tmp_path):
    assert own_forms.form_of(tmp_path) is None
    assert own_forms.form_of(tmp_path / "missing") is None
