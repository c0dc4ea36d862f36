from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from torchrelay.checkpoint import TorchCheckpointIO, files
from torchrelay.errors import CheckpointError, ConfigurationError, NotInstalledError
from torchrelay.testing.forkserver import shared_server


@pytest.fixture(params=["path", "file", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder that is not there yet, by path, by a local URL, and by a URL that is fsspec's."""
    root = {"path": f"{tmp_path}", "file": f"file://{tmp_path}", "memory": "memory://tests"}
    yield f"{root[request.param]}/run [1]*"
    if request.param == "memory":
        pytest.importorskip("fsspec").filesystem("memory").rm("/tests", recursive=True)


def write(path: str, content: bytes) -> None:
    with files.open_to_write(path) as file:
        file.write(content)


def read(path: str) -> bytes:
    with files.open_to_read(path) as file:
        return file.read()


def test_a_files_life(folder: str) -> None:
    path = files.join(folder, "deep", "a.ckpt")
    assert not files.exists(path)
    assert files.list_folder(folder) == []
    files.remove(path)
    write(path, b"one")
    write(path, b"two")
    assert read(path) == b"two"
    assert files.exists(path)
    assert not files.is_folder(path)
    assert files.is_folder(folder)
    write(files.join(folder, "b.ckpt"), b"")
    assert files.list_folder(folder) == ["b.ckpt", "deep"]
    assert files.list_folder(files.join(folder, "deep")) == ["a.ckpt"]
    files.remove(path)
    assert not files.exists(path)
    files.make_folder(files.join(folder, "new", "er"))
    files.make_folder(files.join(folder, "new", "er"))
    assert files.is_folder(files.join(folder, "new", "er"))
    with pytest.raises(OSError, match=r"folder|directory|not permitted"):
        files.remove(folder)


def test_a_failure_leaves_the_old_file_and_nothing_else(folder: str) -> None:
    path = files.join(folder, "a.ckpt")
    write(path, b"old")

    def fail() -> None:
        with files.open_to_write(path) as file:
            file.write(b"new" * 100_000)
            assert read(path) == b"old"
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        fail()
    assert read(path) == b"old"
    assert files.list_folder(folder) == ["a.ckpt"]


def test_another_name_for_the_newest(folder: str) -> None:
    last = files.join(folder, "last.ckpt")
    for name in ("a", "b"):
        write(files.join(folder, name), name.encode())
        files.link(last, files.join(folder, name))
        assert read(last) == name.encode()
    assert files.list_folder(folder) == ["a", "b", "last.ckpt"]
    if not files.is_remote(folder):
        place = files.absolute(last)
        assert os.readlink(place) == "b"


def test_a_link_takes_the_place_of_a_file(tmp_path: Path) -> None:
    last = tmp_path / "last.ckpt"
    last.write_bytes(b"file")
    (tmp_path / "a").write_bytes(b"a")
    files.link(last, tmp_path / "a")
    assert last.is_symlink()
    last.unlink()
    last.mkdir()
    with pytest.raises(OSError, match="irectory"):
        files.link(last, tmp_path / "a")
    assert sorted(os.listdir(tmp_path)) == ["a", "last.ckpt"]


def test_checkpoints_by_url(folder: str) -> None:
    io, path = TorchCheckpointIO(), files.join(folder, "a.ckpt")
    io.save_checkpoint({"state_dict": {}, "epoch": 2}, path)
    assert io.load_checkpoint(path)["epoch"] == 2
    whole = read(path)
    with pytest.raises(CheckpointError, match="holds what cannot be saved"):
        io.save_checkpoint({"callback": lambda: None}, path)
    assert read(path) == whole
    with pytest.raises(CheckpointError, match="is a folder"):
        io.load_checkpoint(folder)
    write(path, whole[:-100])
    with pytest.raises(CheckpointError, match=r"\(\d+ bytes\): it was cut off or damaged"):
        io.load_checkpoint(path)
    io.remove_checkpoint(path)
    with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
        io.load_checkpoint(path)
    assert files.list_folder(folder) == []


def test_pickled_code_is_listed_by_url(folder: str) -> None:
    io, path = TorchCheckpointIO(), files.join(folder, "a.ckpt")
    io.save_checkpoint({"state_dict": {}, "place": Path("a")}, path)
    with pytest.raises(CheckpointError, match="import pathlib"):
        io.load_checkpoint(path)


def test_an_error_of_the_other_side_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = pytest.importorskip("fsspec.implementations.memory")

    class DeniedError(Exception):
        """As the clients of object stores have them: no OSError."""

    def denied(*_: object, **__: object) -> None:
        raise DeniedError("no such bucket")

    write("memory://tests/a.ckpt", b"old")
    monkeypatch.setattr(memory.MemoryFileSystem, "cp_file", denied)
    with pytest.raises(
        CheckpointError, match=r"cannot write .*a\.ckpt: DeniedError: no such bucket"
    ):
        TorchCheckpointIO().save_checkpoint({"epoch": 1}, "memory://tests/a.ckpt")
    assert files.list_folder("memory://tests") == ["a.ckpt"]
    assert read("memory://tests/a.ckpt") == b"old"
    files.remove("memory://tests/a.ckpt")


def test_urls_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="Protocol not known: nonsense"):
        files.exists("nonsense://a")
    with pytest.raises(ConfigurationError, match="Protocol not known"):
        TorchCheckpointIO().save_checkpoint({}, "nonsense://a/b")
    for name in [name for name in sys.modules if name.startswith("fsspec.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(NotInstalledError, match="pip install fsspec"):
        files.exists("memory://a")


def test_fsspec_is_imported_for_urls_alone(tmp_path: Path) -> None:
    code = (
        "import sys; from torchrelay.checkpoint import TorchCheckpointIO, files; io = TorchCheckpointIO(); "
        "io.save_checkpoint({'a': 1}, sys.argv[1]); io.load_checkpoint(sys.argv[1]); files.exists(sys.argv[1]); "
        "io.remove_checkpoint(sys.argv[1]); print('fsspec' in sys.modules)"
    )
    for path in (tmp_path / "a", f"file://{tmp_path}/a"):
        done = shared_server().run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60
        )
        assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize(
    ("path", "remote"),
    [
        ("s3://bucket/a", True),
        ("memory://a", True),
        ("simplecache::s3://bucket/a", True),
        ("file:///a", False),
        ("/a/b", False),
        ("a:b", False),
        ("C:/a", False),
        (Path("a"), False),
    ],
)
def test_which_paths_are_remote(path: str | Path, remote: bool) -> None:
    assert files.is_remote(path) is remote


def test_joining() -> None:
    assert files.join("s3://bucket/run/", "a", "b.ckpt") == "s3://bucket/run/a/b.ckpt"
    assert files.join("run", "a") == os.path.join("run", "a")
    assert files.absolute("s3://bucket/run/../a") == "s3://bucket/run/../a"
    assert files.absolute("file:///run/../a") == os.path.abspath("/a")


def test_what_is_in_the_way_of_writing(tmp_path):
    (tmp_path / "file").touch()
    assert files.obstacle(tmp_path / "a" / "b") == ""
    assert files.obstacle("memory://a") == ""
    assert files.obstacle(tmp_path / "file" / "a") == f"{tmp_path / 'file'} is a file"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_folder_of_somebody_elses_is_in_the_way():
    reads, writes = os.pipe()
    if not (child := os.fork()):
        if os.getuid() == 0:
            os.setgroups([])
            os.setuid(65534)
        os.write(writes, files.obstacle("/usr/lib/a/b").encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reads, 1000) == b"/usr/lib is not writable"
    os.close(reads)
    os.close(writes)
