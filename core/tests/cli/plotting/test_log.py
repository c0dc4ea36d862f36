from __future__ import annotations

import math

import pytest

from torchrelay.cli.plotting.log import Log, names_of
from torchrelay.errors import ConfigurationError


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "metrics.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return Log(str(path), "run")

    return read


def test_cells_that_hold_numbers(read):
    log = read('step,epoch,loss,note,"a, b"\n1,0,0.5,text,\n2,0,,,nan\n3,,inf,,-1e-3\n')
    assert list(log.columns) == ["step", "epoch", "loss", "a, b"]
    assert (list(log.columns["loss"].rows), list(log.columns["loss"].values)) == (
        [0, 2],
        [0.5, math.inf],
    )
    assert list(log.columns["a, b"].rows) == [1, 2]
    assert math.isnan(log.columns["a, b"].values[0])
    assert log.axis("epoch")[:2] == [0, 0]
    assert math.isnan(log.axis("epoch")[2])
    assert all(map(math.isnan, log.axis("time")))


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("step,loss\n1,0.5\n2,0.2", 2),
        ("step,loss\n1,0.5\n2", 1),
        ("\ufeffstep,loss\r\n1,0.5\r\n", 1),
    ],
    ids=["no last newline", "a torn last row", "a spreadsheet's"],
)
def test_files_that_are_not_quite_whole(read, text, rows):
    assert len(read(text).columns["loss"].values) == rows


@pytest.mark.parametrize(
    "text",
    ["", "\n", "name,loss\na,1\n", "hello\n", b"\x89PNG\r\n\x1a\n\x00\xff", b"step,loss\n1,\xff\n"],
    ids=["empty", "a blank line", "no step or epoch", "prose", "a picture", "no UTF-8"],
)
def test_what_is_no_log_is_refused_with_what_was_expected(read, text):
    with pytest.raises(
        ConfigurationError,
        match=r"metrics\.csv is no log of metrics: expected a CSV file whose first",
    ):
        read(text)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigurationError, match=r"cannot be read: Is a directory$"):
        Log(str(tmp_path), "run")


@pytest.mark.parametrize(
    ("times", "expected", "processes"),
    [
        ([0, 1, 2], [0, 1, 2], [0, 0, 0]),
        ([0, 5, 5, 6], [0, 5, 5, 6], [0, 0, 1, 1]),
        ([0, 5, 0, 1, 0, 2], [0, 5, 5, 6, 6, 8], [0, 0, 1, 1, 2, 2]),
    ],
    ids=["one process", "a process that went on", "processes that began from 0"],
)
def test_time_only_goes_forward(read, times, expected, processes):
    rows = "".join(f"{step},{time}\n" for step, time in enumerate(times))
    log = read(f"step,time\n{rows}")
    assert log.axis("time") == expected
    assert list(log.process) == processes


def test_names_tell_runs_apart():
    assert names_of(["/a/version_0/metrics.csv"]) == ["version_0"]
    assert names_of(["/a/b/version_0/m.csv", "/a/c/version_0/m.csv"]) == [
        "b/version_0",
        "c/version_0",
    ]
    assert names_of(["/a/one.csv", "/a/two.csv"]) == ["one.csv", "two.csv"]
