from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import torch

from torchrelay.checkpoint import TorchCheckpointIO, rng
from torchrelay.testing.forkserver import shared_server


def test_every_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")

    def draw() -> list[float]:
        return [
            random.random(),
            random.gauss(0, 1),
            float(numpy.random.rand()),
            float(numpy.random.randn()),
            torch.rand(()).item(),
        ]

    draw()  # so that a second normal number waits in Python and NumPy
    io, path = TorchCheckpointIO(), tmp_path / "rng.ckpt"
    io.save_checkpoint({"rng": [rng.capture()]}, path)
    wanted = [draw(), draw()]
    random.seed(1)
    numpy.random.seed(1)
    torch.manual_seed(1)
    rng.restore(io.load_checkpoint(path)["rng"][0])
    assert [draw(), draw()] == wanted


def test_what_is_not_in_the_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    state = {"python": rng.capture()["python"]}
    rng.restore(state)
    assert torch.equal(torch.get_rng_state(), before)


def test_numpy_is_not_imported_for_it() -> None:
    code = (
        "import sys; sys.modules['numpy'] = None; "
        "import warnings; warnings.simplefilter('ignore'); import torch; del sys.modules['numpy']; "
        "from torchrelay.checkpoint import rng; s = rng.capture(); rng.restore(s); "
        "print(sorted(s), 'numpy' in sys.modules)"
    )
    found = shared_server().run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.strip() == "['python', 'torch'] False"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_cuda_goes_on_where_it_was() -> None:
    torch.rand(1, device="cuda")
    state = rng.capture()
    wanted = torch.rand(3, device="cuda")
    torch.cuda.manual_seed_all(1)
    rng.restore(state)
    assert torch.equal(torch.rand(3, device="cuda"), wanted)
