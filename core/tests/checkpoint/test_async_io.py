from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from torchrelay.checkpoint import AsyncCheckpointIO, CheckpointIO, TorchCheckpointIO
from torchrelay.errors import CheckpointError
from torchrelay.testing.forkserver import shared_server


class Gated(TorchCheckpointIO):
    """Writes real files, but only when it is let; tells how many writes were under way at once."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.writing = 0
        self.most = 0

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Any) -> None:
        self.writing += 1
        self.most = max(self.most, self.writing)
        if not self.open.wait(20):
            raise TimeoutError("nobody opened the gate")
        super().save_checkpoint(checkpoint, path)
        self.writing -= 1


def state(value: float) -> dict[str, Any]:
    return {"state_dict": {"w": torch.full((1000,), value)}, "epoch": int(value)}


def read(path: Path) -> Any:
    return torch.load(path, weights_only=True)["epoch"]


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return shared_server().run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=50,
    )


def test_the_file_is_the_one_that_is_written_at_once(tmp_path: Path) -> None:
    checkpoint = {**state(3), "tied": [torch.ones(5)] * 2, "hyper_parameters": {"lr": 0.1}}
    io = AsyncCheckpointIO()
    io.save_checkpoint(checkpoint, tmp_path / "new" / "a.ckpt")
    io.teardown()
    TorchCheckpointIO().save_checkpoint(checkpoint, tmp_path / "b.ckpt")
    at_once, later = tmp_path / "b.ckpt", tmp_path / "new" / "a.ckpt"
    assert later.stat().st_size == at_once.stat().st_size
    found = io.load_checkpoint(later)
    assert torch.equal(found["state_dict"]["w"], checkpoint["state_dict"]["w"])
    assert found["tied"][0].data_ptr() == found["tied"][1].data_ptr()
    assert found["hyper_parameters"] == {"lr": 0.1}


def test_training_goes_on_and_changes_nothing_that_is_written(tmp_path: Path) -> None:
    gate, path = Gated(), tmp_path / "a.ckpt"
    io, checkpoint = AsyncCheckpointIO(gate), {**state(1), "callbacks": {"a": {"seen": [1]}}}
    io.save_checkpoint(checkpoint, path)
    checkpoint["state_dict"]["w"].fill_(9)
    checkpoint["callbacks"]["a"]["seen"].append(2)
    assert not path.exists()
    gate.open.set()
    found = io.load_checkpoint(path)  # which waits
    assert found["state_dict"]["w"].unique().tolist() == [1]
    assert found["callbacks"] == {"a": {"seen": [1]}}


def test_one_write_at_a_time(tmp_path: Path) -> None:
    gate = Gated()
    io = AsyncCheckpointIO(gate)
    io.save_checkpoint(state(1), tmp_path / "1.ckpt")
    threading.Timer(0.2, gate.open.set).start()
    io.save_checkpoint(state(2), tmp_path / "2.ckpt")
    assert read(tmp_path / "1.ckpt") == 1
    io.wait()
    assert read(tmp_path / "2.ckpt") == 2
    assert gate.most == 1


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    gate, old, new = Gated(), tmp_path / "old.ckpt", tmp_path / "new.ckpt"
    TorchCheckpointIO().save_checkpoint(state(1), old)
    io = AsyncCheckpointIO(gate)
    io.save_checkpoint(state(2), new)
    io.remove_checkpoint(old)
    assert old.exists()
    gate.open.set()
    io.wait()
    assert os.listdir(tmp_path) == ["new.ckpt"]


def test_the_old_file_stays_for_good_if_the_new_one_fails(tmp_path: Path) -> None:
    gate, old, linked = Gated(), tmp_path / "old.ckpt", []
    TorchCheckpointIO().save_checkpoint(state(1), old)
    io = AsyncCheckpointIO(gate)
    io.save_checkpoint(state(2), old / "in" / "a" / "file.ckpt")
    io.remove_checkpoint(old)
    io.when_written(lambda: linked.append(1))
    gate.open.set()
    with pytest.raises(CheckpointError, match=r"background failed: .*Not a directory"):
        io.wait()
    assert read(old) == 1
    assert linked == []


def test_what_is_being_written_can_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gated()
    io = AsyncCheckpointIO(gate)
    monkeypatch.chdir(tmp_path)
    io.save_checkpoint(state(1), tmp_path / "a.ckpt")
    threading.Timer(0.1, gate.open.set).start()
    io.remove_checkpoint("a.ckpt")
    assert os.listdir(tmp_path) == []


def test_a_relative_path_is_meant_where_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gated()
    io = AsyncCheckpointIO(gate)
    monkeypatch.chdir(tmp_path)
    io.save_checkpoint(state(1), "a.ckpt")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    gate.open.set()
    io.wait()
    assert read(tmp_path / "a.ckpt") == 1


@pytest.mark.parametrize("call", ["save", "load", "remove", "teardown"])
def test_an_error_reaches_the_user_once(tmp_path: Path, call: str) -> None:
    (tmp_path / "file").touch()
    good = tmp_path / "good.ckpt"
    io = AsyncCheckpointIO()
    io.save_checkpoint(state(1), good)
    io.save_checkpoint(state(2), tmp_path / "file" / "a.ckpt")
    while io._background.busy:
        time.sleep(0.01)
    calls = {
        "save": lambda: io.save_checkpoint(state(3), good),
        "load": lambda: io.load_checkpoint(good),
        "remove": lambda: io.remove_checkpoint(good),
        "teardown": io.teardown,
    }
    with pytest.raises(CheckpointError, match=r"background failed: cannot write .*file") as caught:
        calls[call]()
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, CheckpointError)
    assert isinstance(caught.value.__cause__.__cause__, OSError)
    assert read(good) == 1
    calls[call]()


def test_any_error_of_another_io_is_told(tmp_path: Path) -> None:
    class Broken(CheckpointIO):
        def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Any) -> None:
            raise ZeroDivisionError

        def load_checkpoint(self, path: Any, **options: Any) -> dict[str, Any]:
            return {}

        def remove_checkpoint(self, path: Any) -> None: ...

    io = AsyncCheckpointIO(Broken())
    io.save_checkpoint({}, tmp_path / "a")
    with pytest.raises(CheckpointError, match="background failed: ZeroDivisionError"):
        io.wait()


def test_what_cannot_be_saved_is_told_at_once(tmp_path: Path) -> None:
    io = AsyncCheckpointIO()
    with pytest.raises(CheckpointError, match="holds what cannot be saved"):
        io.save_checkpoint({"callback": lambda: None}, tmp_path / "a.ckpt")
    io.teardown()
    assert os.listdir(tmp_path) == []


def test_another_process_gets_one_with_nothing_under_way(tmp_path: Path) -> None:
    gate = Gated()
    io = AsyncCheckpointIO(gate)
    io.save_checkpoint(state(1), tmp_path / "a.ckpt")
    gate.open.set()
    io.wait()
    other = pickle.loads(pickle.dumps(AsyncCheckpointIO(TorchCheckpointIO())))
    assert isinstance(other, AsyncCheckpointIO)
    assert other.load_checkpoint(tmp_path / "a.ckpt")["epoch"] == 1


@pytest.mark.timeout(60)
def test_the_interpreter_waits(tmp_path: Path) -> None:
    code = """
        import sys, time, torch
        from torchrelay.checkpoint import AsyncCheckpointIO, TorchCheckpointIO

        class Slow(TorchCheckpointIO):
            def save_checkpoint(self, checkpoint, path):
                time.sleep(0.5)
                super().save_checkpoint(checkpoint, path)

        AsyncCheckpointIO(Slow()).save_checkpoint({"epoch": 1}, sys.argv[1])
    """
    done = run(code, tmp_path / "a.ckpt")
    assert (done.returncode, done.stderr) == (0, "")
    assert read(tmp_path / "a.ckpt") == 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize("numel", [100_000, 1000])
@pytest.mark.parametrize("told", [True, False])
def test_a_full_disk(tmp_path: Path, numel: int, told: bool) -> None:
    good = tmp_path / "good.ckpt"
    TorchCheckpointIO().save_checkpoint(state(1), good)
    before = good.read_bytes()
    code = """
        import resource, sys, torch
        from torchrelay.checkpoint import AsyncCheckpointIO
        from torchrelay.errors import CheckpointError

        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        numel, io = int(sys.argv[2]), AsyncCheckpointIO()
        io.save_checkpoint({"w": [torch.randn(numel) for _ in range(100_000 // numel)]}, sys.argv[1])
        told = sys.argv[3] == "True"
        try:
            io.remove_checkpoint(sys.argv[1] + ".older")
            if told:
                io.teardown()
        except CheckpointError as error:
            if not told:
                raise
            print(error)
    """
    older = tmp_path / "good.ckpt.older"
    older.write_bytes(before)
    done = run(code, good, numel, told)
    if told:
        assert done.stdout.startswith("saving checkpoints in the background failed: cannot write")
        assert done.stderr == ""
    assert "File too large" in (done.stdout if told else done.stderr)
    assert good.read_bytes() == older.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["good.ckpt", "good.ckpt.older"]


@pytest.mark.timeout(60)
def test_a_process_that_is_killed_while_writing_loses_nothing(tmp_path: Path) -> None:
    good = tmp_path / "good.ckpt"
    TorchCheckpointIO().save_checkpoint(state(1), good)
    code = """
        import os, signal, sys, torch
        from torchrelay.checkpoint import AsyncCheckpointIO

        io = AsyncCheckpointIO()
        io.save_checkpoint({"state_dict": {"w": torch.zeros(20_000_000)}, "epoch": 2}, sys.argv[1])
        while not any(name.endswith(".partial") for name in os.listdir(os.path.dirname(sys.argv[1]))):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run(code, good).returncode == -9
    assert read(good) == 1


def test_by_url() -> None:
    fsspec = pytest.importorskip("fsspec")
    io = AsyncCheckpointIO()
    io.save_checkpoint(state(4), "memory://async/a.ckpt")
    assert io.load_checkpoint("memory://async/a.ckpt")["epoch"] == 4
    io.remove_checkpoint("memory://async/a.ckpt")
    assert fsspec.filesystem("memory").find("/async") == []
