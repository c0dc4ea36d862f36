"""The processes of a data loader: deaf to SIGTERM, and gone when the program ends, in whatever way it ends."""

from __future__ import annotations

import signal
import sys

import pytest
from torch.utils.data import DataLoader

from torchrelay.launchers.interruption import handling
from torchrelay.testing.forkserver import shared_server
from torchrelay.trainer.workers import opened

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals"),
]

PROGRAM = """
import os, signal, subprocess, sys, torch
from torch.utils.data import DataLoader, Dataset
from torchrelay import LightningModule, Trainer

how = sys.argv[1]

class Rows(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        if how == "group":
            os.kill(os.getpid(), signal.SIGTERM)
        if how == "child":
            child = subprocess.Popen(["sleep", "300"])
            child.terminate()
            assert child.wait() == -signal.SIGTERM
        return torch.ones(4)

class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_idx):
        if how == "exception":
            raise RuntimeError("no such thing")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

def loader():
    context = "spawn" if how == "spawn" else "fork"
    return DataLoader(Rows(), 2, num_workers=2, persistent_workers=True, multiprocessing_context=context)

if __name__ == "__main__":
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )
    train, validation = loader(), loader()
    trainer.fit(Module(), train, validation)
    workers = train._iterator._workers + validation._iterator._workers
    print("worked", all(worker.is_alive() for worker in workers))
"""


@pytest.fixture
def run(tmp_path):
    def run(how):
        script = tmp_path / "script.py"
        script.write_text(PROGRAM)
        return shared_server().run(
            [sys.executable, str(script), how], capture_output=True, text=True, timeout=60
        )

    return run


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_workers_that_live_to_the_end_of_the_program_end_with_it(run, how):
    done = run(how)
    assert (done.returncode, done.stdout, done.stderr) == (0, "worked True\n", "")


def test_an_exception_ends_a_program_that_has_workers(run):
    done = run("exception")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "RuntimeError: no such thing"


def test_sigterm_does_not_reach_a_worker(run):
    done = run("group")
    assert (done.returncode, done.stdout, done.stderr) == (0, "worked True\n", "")


def test_what_a_worker_starts_hears_sigterm(run):
    done = run("child")
    assert (done.returncode, done.stdout, done.stderr) == (0, "worked True\n", "")


@pytest.mark.parametrize("init", [None, print])
def test_the_loader_is_left_as_it_was(init):
    loader = DataLoader([1, 2], num_workers=1, worker_init_fn=init)
    with handling([signal.SIGTERM], print):
        assert len(list(opened(loader))) == 2
    assert loader.worker_init_fn is init


def test_where_nobody_handles_sigterm_it_ends_a_worker_as_ever():
    rest = opened(DataLoader([1, 2], num_workers=1, persistent_workers=True))
    next(rest)  # by now it has torch's handler, which ends it with status 0 when its parent asks
    (worker,) = rest._workers
    worker.terminate()
    worker.join(30)
    assert worker.exitcode == 0
