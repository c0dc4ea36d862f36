"""The folders on NVMe that are a process's own."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest

from torchrelay_deepspeed.swap_folders import PREFIX, SwapFolders, leftovers

KILLED = """
import os, signal, sys
from torchrelay_deepspeed.swap_folders import SwapFolders
zero = {"offload_param": {"device": "nvme", "nvme_path": sys.argv[1]}}
made = SwapFolders().redirect({"zero_optimization": zero})["zero_optimization"]["offload_param"]
with open(os.path.join(made["nvme_path"], "0_param.tensor.swp"), "wb") as file:
    file.truncate(3 * 2**20)
os.kill(os.getpid(), signal.SIGKILL)
"""


def on(*paths):
    names = ("offload_optimizer", "offload_param")
    pairs = zip(names, paths, strict=False)
    zero = {name: {"device": "nvme", "nvme_path": str(path)} for name, path in pairs}
    return {"zero_optimization": {"stage": 3, **zero}, "gradient_clipping": 1.0}


def test_what_names_no_folder_stays_as_it_is():
    values = {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}}
    assert SwapFolders().redirect(values) == values
    assert SwapFolders().redirect({}) == {}


def test_each_process_has_its_own_and_removes_it_alone(tmp_path):
    (tmp_path / "file").touch()
    mine, other = SwapFolders(), SwapFolders()
    values = on(tmp_path, tmp_path)
    first, second = (each.redirect(values)["zero_optimization"] for each in (mine, other))
    assert values == on(tmp_path, tmp_path)
    own = first["offload_param"]["nvme_path"]
    assert (
        own
        == first["offload_optimizer"]["nvme_path"]
        == mine.redirect(values)["zero_optimization"]["offload_param"]["nvme_path"]
    )
    assert own != second["offload_param"]["nvme_path"]
    (tmp_path / own / "swapped").touch()
    mine.remove()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left[0] == "file"
    assert str(tmp_path / left[1]) == second["offload_param"]["nvme_path"]
    other.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_two_folders_are_two(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.mkdir()
    folders = SwapFolders()
    folders.redirect(on(*paths))
    assert [len(list(path.iterdir())) for path in paths] == [1, 1]
    folders.remove()
    assert [len(list(path.iterdir())) for path in paths] == [0, 0]


def test_what_a_run_that_was_killed_has_left_is_told_with_the_command(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False, timeout=60)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(PREFIX)
    assert list(leftovers(str(tmp_path))) == [left]
    folders = SwapFolders(tells=True)
    with pytest.warns(UserWarning, match=rf"killed have left 3 MiB in .*: rm -r {left}$"):
        folders.redirect(on(tmp_path))
    assert list(leftovers(str(tmp_path))) == [left]  # that of the living is not among them
    folders.remove()
    assert list(tmp_path.iterdir()) == [left]


def test_a_run_beside_this_one_is_no_leftover(tmp_path):
    beside, folders = SwapFolders(), SwapFolders(tells=True)
    beside.redirect(on(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folders.redirect(on(tmp_path))
    beside.remove()
    folders.remove()
