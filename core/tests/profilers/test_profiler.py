from __future__ import annotations

import os
import pickle

import pytest

from torchrelay.errors import ConfigurationError
from torchrelay.profilers import PassThroughProfiler, Profiler, SimpleProfiler


class Counting(Profiler):
    """As a user writes one: without a call of the base's constructor."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def start(self, action_name):
        self.calls.append(f"+{action_name}")

    def stop(self, action_name):
        self.calls.append(f"-{action_name}")

    def summary(self):
        return f"{len(self.calls)} calls"


def test_profile_starts_and_stops():
    profiler = Counting()
    with profiler.profile("a") as name, profiler.profile("b"):
        assert name == "a"
    assert profiler.calls == ["+a", "+b", "-b", "-a"]


def test_profile_stops_after_an_exception():
    profiler = Counting()
    with pytest.raises(KeyError), profiler.profile("a"):
        raise KeyError
    assert profiler.calls == ["+a", "-a"]


def test_what_never_started_is_not_stopped():
    profiler = SimpleProfiler()
    with (
        profiler.profile("a"),
        pytest.raises(ConfigurationError, match="under way"),
        profiler.profile("a"),
    ):
        pass
    assert profiler.recorded["a"].calls == 1


@pytest.mark.parametrize(("rank", "printed"), [(None, "0 calls\n"), (0, "0 calls\n"), (1, "")])
def test_rank_0_prints(capsys, rank, printed):
    profiler = Counting()
    if rank is not None:
        profiler.connect(None, rank)
    profiler.describe()
    assert capsys.readouterr() == ("", printed)


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        ({"dirpath": "D", "filename": "perf"}, "D/fit-perf-3.txt"),
        ({"dirpath": "D"}, "D/fit-3.txt"),
        ({"filename": "perf"}, "L/fit-perf-3.txt"),
        ({"filename": "a/b: c"}, "L/fit-a_b_c-3.txt"),
    ],
    ids=str,
)
def test_each_rank_writes_its_file(tmp_path, monkeypatch, capsys, arguments, file):
    monkeypatch.chdir(tmp_path)
    profiler = SimpleProfiler(**arguments)
    for _ in range(2):
        profiler.connect(None, 3)
        profiler.setup("fit", 1, "L")
        with profiler.profile("act"):
            pass
        profiler.describe()
        profiler.teardown("fit")
    report = (tmp_path / file).read_text()
    assert report.count("FIT Profiler Report, rank 3") == report.count("\nact ") == 2
    assert capsys.readouterr() == ("", "")


def test_nothing_is_written_unless_asked_for(tmp_path):
    profiler = SimpleProfiler()
    profiler.setup("fit", 0, str(tmp_path / "logs"))
    profiler.describe()
    assert not list(tmp_path.iterdir())


def test_by_itself_it_writes_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SimpleProfiler(filename="perf").describe()
    assert (tmp_path / "perf.txt").read_text().startswith("Profiler Report\n")


@pytest.mark.parametrize(
    ("folder", "reason"),
    [("file", "exists"), ("file/below", "ot a directory"), ("s3://bucket", "local disk")],
)
def test_a_folder_that_cannot_be_written_is_refused_before_the_run(
    tmp_path, monkeypatch, folder, reason
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=reason) as caught:
        SimpleProfiler(folder).setup("fit", 0, None)
    assert repr(folder) in str(caught.value)
    assert "another dirpath" in str(caught.value)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigurationError, match="no permission"):
        SimpleProfiler(tmp_path).setup("fit", 0, None)


def test_a_report_that_is_lost_is_warned_of(tmp_path):
    profiler = SimpleProfiler(tmp_path, "perf")
    profiler.setup("fit", 0, None)
    (tmp_path / "fit-perf.txt").mkdir()
    with pytest.warns(UserWarning, match="cannot write"):
        profiler.describe()


@pytest.mark.parametrize("arguments", [{"dirpath": 3}, {"filename": 3}], ids=str)
def test_a_bad_argument_is_refused(arguments):
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        SimpleProfiler(**arguments)


def test_passing_through_measures_and_reports_nothing(capsys):
    profiler = pickle.loads(pickle.dumps(PassThroughProfiler()))
    with profiler.profile("a"), profiler.profile("a"):
        pass
    profiler.start("b")
    profiler.stop("c")
    profiler.describe()
    assert capsys.readouterr() == ("", "")
