from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from torchrelay.checkpoint import atomic_write, replace_folder
from torchrelay.testing.forkserver import shared_server


def test_the_name_appears_only_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_write(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail() -> None:
        with atomic_write(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "file") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    real = tmp_path / "elsewhere" / "file"
    link = tmp_path / "link"
    link.symlink_to(real)
    with atomic_write(link) as file:
        file.write(b"x")
    assert link.is_symlink()
    assert real.read_bytes() == b"x"


def test_a_long_name_is_no_trouble(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    with atomic_write(path) as file:
        file.write(b"x")
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    (os.mkdir if kind == "folder" else os.mkfifo)(path)
    with pytest.raises(FileExistsError), atomic_write(path):
        pytest.fail("there is something else")
    assert os.listdir(tmp_path) == [kind]


def test_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "no" / "file"):
        pytest.fail("there is nowhere to write")


@pytest.mark.timeout(60)
def test_a_writer_that_is_killed_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = (
        "import sys, time\nfrom torchrelay.checkpoint.atomic import atomic_write\n"
        "with atomic_write(sys.argv[1]) as file:\n"
        "    file.write(b'new' * 100000); file.flush(); print('written', flush=True); time.sleep(60)"
    )
    writer = shared_server().popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    with writer.stdout:
        assert writer.stdout.readline() == "written\n"
        time.sleep(0.05)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert path.read_bytes() == b"old"


# --- folders --------------------------------------------------------------------------------------------


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A complete folder without its name."""
    folder = tmp_path / ".new.partial"
    (folder / "inside").mkdir(parents=True)
    (folder / "inside" / "file").write_bytes(b"new")
    return folder


@pytest.mark.parametrize("before", ["nothing", "a folder", "a file", "a link"])
def test_a_folder_takes_the_place_of_what_was_there(tmp_path: Path, new: Path, before: str) -> None:
    path = tmp_path / "it"
    if before == "a file":
        path.write_bytes(b"old")
    elif before == "a link":
        (tmp_path / "elsewhere").mkdir()
        path.symlink_to("elsewhere")
    elif before == "a folder":
        path.mkdir()
        (path / "old").write_bytes(b"old")
    replace_folder(new, path)
    assert os.listdir(path) == ["inside"]
    assert (path / "inside" / "file").read_bytes() == b"new"
    assert path.is_symlink() == (before == "a link")
    others = {"elsewhere"} if before == "a link" else set()
    assert {*os.listdir(tmp_path)} == {"it", *others}


def test_the_old_folder_stays_where_the_new_one_cannot_come(tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.mkdir()
    (path / "old").write_bytes(b"old")
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "missing", path)
    assert os.listdir(path) == ["old"]
    assert os.listdir(tmp_path) == ["it"]
