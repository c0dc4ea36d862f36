from __future__ import annotations

import os
import pickle
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from torchrelay.checkpoint import TorchCheckpointIO
from torchrelay.errors import CheckpointError
from torchrelay.testing.forkserver import shared_server

IO = TorchCheckpointIO()


class Mine:
    """A class of the user's own, which only its pickled code can make again."""


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("pwned",)


def refused(call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "er" / "good.ckpt"
    IO.save_checkpoint({"state_dict": {"w": torch.arange(1000.0)}, "epoch": 3}, path)
    return path


def test_round_trip(good: Path) -> None:
    found = IO.load_checkpoint(str(good))
    assert found["epoch"] == 3
    assert torch.equal(found["state_dict"]["w"], torch.arange(1000.0))
    assert os.listdir(good.parent) == ["good.ckpt"]
    assert torch.load(good, weights_only=True)["epoch"] == 3
    meta = IO.load_checkpoint(good, map_location="meta")
    assert meta["state_dict"]["w"].device.type == "meta"


def test_remove(good: Path) -> None:
    IO.remove_checkpoint(good)
    assert not good.exists()
    IO.remove_checkpoint(good)
    assert "cannot remove" in refused(IO.remove_checkpoint, good.parent)


def test_missing_and_folder(tmp_path: Path, good: Path) -> None:
    message = refused(IO.load_checkpoint, tmp_path / "none.ckpt")
    assert "none.ckpt" in message
    assert "No such file" in message
    assert "is a folder" in refused(IO.load_checkpoint, good.parent)


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_torn(good: Path, fraction: float) -> None:
    whole = good.read_bytes()
    good.write_bytes(whole[: int(len(whole) * fraction)])
    assert "cut off or damaged" in refused(IO.load_checkpoint, good)


@pytest.mark.parametrize("content", [b"hello\n" * 20, b"\x00" * 500, b"PK\x03\x04 not really"])
def test_not_a_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.ckpt"
    path.write_bytes(content)
    assert "no checkpoint at all" in refused(IO.load_checkpoint, path)


def test_not_a_dict(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    assert "holds a list" in refused(IO.load_checkpoint, tmp_path / "list.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_code_is_named_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.ckpt"
    if legacy:
        path.write_bytes(pickle.dumps({"state_dict": {}, "x": Evil()}, protocol=2))
    else:
        torch.save({"state_dict": {}, "x": Evil()}, path)
    message = refused(IO.load_checkpoint, path)
    assert "posix.mkdir" in message or "nt.mkdir" in message
    assert "add_safe_globals" in message
    assert "weights_only=False" in message
    assert not (tmp_path / "pwned").exists()


def test_own_classes_load_once_allowed(tmp_path: Path) -> None:
    path = tmp_path / "mine.ckpt"
    IO.save_checkpoint({"state_dict": {}, "mine": Mine()}, path)
    assert f"{Mine.__module__}.Mine" in refused(IO.load_checkpoint, path)
    assert isinstance(IO.load_checkpoint(path, weights_only=False)["mine"], Mine)
    with torch.serialization.safe_globals([Mine]):
        assert isinstance(IO.load_checkpoint(path)["mine"], Mine)


def test_a_wrong_map_location_is_told(good: Path) -> None:
    assert "nonsense" in refused(IO.load_checkpoint, good, map_location="nonsense")


def test_what_cannot_be_pickled_is_told_and_the_old_file_stays(good: Path) -> None:
    before = good.read_bytes()
    message = refused(IO.save_checkpoint, {"callback": lambda: None}, good)
    assert "holds what cannot be saved" in message
    assert good.read_bytes() == before
    assert os.listdir(good.parent) == ["good.ckpt"]


def test_a_place_that_cannot_be_written_to(good: Path) -> None:
    # A folder without write permission does not stop root; a path through a file stops everybody.
    message = refused(IO.save_checkpoint, {"epoch": 1}, good / "in" / "it.ckpt")
    assert "cannot write the checkpoint" in message
    assert "Not a directory" in message
    assert "cannot write" in refused(IO.save_checkpoint, {"epoch": 1}, good.parent)
    assert os.listdir(good.parent) == ["good.ckpt"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("numel", [100_000, 1000])
def test_a_full_disk(good: Path, numel: int) -> None:
    before = good.read_bytes()
    code = """
        import resource, sys, torch
        from torchrelay.checkpoint import TorchCheckpointIO
        from torchrelay.errors import CheckpointError

        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        numel = int(sys.argv[2])
        try:
            TorchCheckpointIO().save_checkpoint(
                {"w": [torch.randn(numel) for _ in range(100_000 // numel)]}, sys.argv[1])
        except CheckpointError as error:
            print(error)
    """
    done = shared_server().run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), str(good), str(numel)],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    assert done.stdout.startswith(f"cannot write the checkpoint {good}: File too large")
    assert good.read_bytes() == before
    assert os.listdir(good.parent) == ["good.ckpt"]
