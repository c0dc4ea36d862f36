from __future__ import annotations

import copy
import importlib.util
import pickle
import sys
from types import SimpleNamespace

import pytest

from torchrelay.loggers import CSVLogger, TensorBoardLogger, share
from torchrelay.loggers.ranks import adopt, tell_rank, versions

KINDS = [CSVLogger]
if importlib.util.find_spec("tensorboard") is not None:
    KINDS.append(TensorBoardLogger)


class Metrics:
    """A logger with nothing but what is needed."""

    def log_metrics(self, metrics, step):
        pass


def shared(loggers):
    """The loggers of rank 0 and of rank 1, after both have shared."""
    ours, theirs = loggers, copy.deepcopy(loggers)
    sent = []
    share(ours, 0, lambda value: sent.append(value) or value)
    share(theirs, 1, lambda value: sent[0])
    return ours, theirs


@pytest.mark.parametrize("kind", KINDS)
def test_only_rank_0_records_and_all_know_where(tmp_path, kind):
    kind(tmp_path).log_metrics({"loss": 1.0}, step=1)  # an earlier run
    (ours, _), (theirs, _) = shared([kind(tmp_path), Metrics()])
    assert ours.log_dir == theirs.log_dir == str(tmp_path / "lightning_logs" / "version_1")
    theirs.log_metrics({"loss": 1.0}, step=1)
    theirs.log_hyperparams({"lr": 0.1})
    assert theirs.experiment.add_image("a", [1], global_step=3) is None
    theirs.save()
    theirs.finalize("success")
    assert list((tmp_path / "lightning_logs" / "version_1").iterdir()) == []
    ours.log_metrics({"loss": 1.0}, step=1)
    ours.finalize("success")
    assert list((tmp_path / "lightning_logs" / "version_1").iterdir()) != []
    assert sorted(p.name for p in tmp_path.glob("*/*")) == ["version_0", "version_1"]


def test_a_follower_travels_to_other_processes(tmp_path):
    _, (theirs,) = shared([CSVLogger(tmp_path)])
    again = pickle.loads(pickle.dumps(theirs))
    again.log_metrics({"loss": 1.0}, step=1)
    assert (again.follows, again.version) == (True, 0)
    pickle.loads(pickle.dumps(copy.deepcopy(theirs.experiment)))


def test_the_versions_of_a_launched_process_come_home(tmp_path):
    here = [CSVLogger(tmp_path), Metrics(), CSVLogger(tmp_path, version="mine")]
    there = pickle.loads(pickle.dumps(here))
    assert versions(there) == [None, None, "mine"]
    assert list(tmp_path.iterdir()) == []
    there[0].log_metrics({"loss": 1.0}, step=1)
    adopt(here, versions(there))
    assert here[0].log_dir == there[0].log_dir
    assert versions(here) == [0, None, "mine"]


def test_a_version_is_assigned(tmp_path):
    logger = CSVLogger(tmp_path)
    logger.version = 7
    assert logger.log_dir == str(tmp_path / "lightning_logs" / "version_7")


def test_lightnings_loggers_learn_which_rank_this_is(monkeypatch):
    module = SimpleNamespace(rank_zero_only=SimpleNamespace(rank=0))
    monkeypatch.setitem(sys.modules, "lightning_utilities.core.rank_zero", module)
    tell_rank(3)
    assert module.rank_zero_only.rank == 3


def test_lightning_itself_learns_it():
    rank_zero = pytest.importorskip("lightning.pytorch.utilities").rank_zero
    before = rank_zero.rank_zero_only.rank
    try:
        tell_rank(1)
        assert rank_zero.rank_zero_only(lambda: "ran")() is None
    finally:
        tell_rank(before)
