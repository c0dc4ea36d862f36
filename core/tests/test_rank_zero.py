"""What one process says for all is shown once, wherever the program wants to have it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SAY = "from torchrelay.utilities import rank_zero_info; rank_zero_info('%d of %s', 3, 'four')"
BASIC = (
    "import logging; logging.basicConfig(format='[%(levelname)s:%(name)s:%(lineno)d] %(message)s')"
)
LINE = "3 of four\n"
ROOT_LINE = "[INFO:torchrelay:{}] 3 of four\n"


def stderr_of(*lines, **variables):
    environ = {k: v for k, v in os.environ.items() if k not in ("RANK", "TORCHRELAY_RANK")}
    command = [sys.executable, "-W", "error", "-c", "\n".join(lines)]
    options = {"capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run(command, env={**environ, **variables}, **options)
    assert done.returncode == 0, done.stderr
    return done.stderr


LEVEL = "import logging; logging.getLogger('torchrelay').setLevel(logging.{})"
OWN = "import sys; logging.getLogger('torchrelay').addHandler(logging.StreamHandler(sys.stderr))"
PROGRAMS = {
    "unconfigured": ([SAY], LINE),
    "said twice": ([SAY, SAY], LINE * 2),
    "root configured before": ([BASIC, SAY], ROOT_LINE.format(2)),
    "root configured after": ([SAY, BASIC, SAY], LINE + ROOT_LINE.format(3)),
    "root configured after the import": (
        ["import torchrelay.utilities.rank_zero", BASIC, SAY],
        ROOT_LINE.format(3),
    ),
    "a handler of the logger's": (["import logging", OWN, SAY], LINE),
    "a handler of the logger's, later": ([SAY, "import logging", OWN, SAY], LINE * 2),
    "silenced before": ([LEVEL.format("WARNING"), SAY], ""),
    "silenced after": ([SAY, LEVEL.format("WARNING"), SAY], LINE),
    "not propagated": (
        [BASIC, "logging.getLogger('torchrelay').propagate = False", SAY],
        LINE,
    ),
    "a warning": (
        [SAY, "import logging; logging.getLogger('torchrelay').warning('look')"],
        f"{LINE}look\n",
    ),
    "the seed": (
        ["from torchrelay import seed_everything; seed_everything(5)"],
        "seed set to 5\n",
    ),
    "the seed, quietly": (
        ["from torchrelay import seed_everything; seed_everything(5, verbose=False)"],
        "",
    ),
}


@pytest.mark.parametrize(("lines", "expected"), PROGRAMS.values(), ids=PROGRAMS)
def test_a_message_is_shown_once(lines, expected):
    assert stderr_of(*lines) == expected


@pytest.mark.parametrize(
    "line", [SAY, "from torchrelay import seed_everything; seed_everything(5)"]
)
def test_another_rank_says_nothing(line):
    assert stderr_of(line, RANK="1") == ""
    assert stderr_of(line, RANK="0") != ""


def test_importing_configures_nothing():
    code = (
        "import logging; from torchrelay import Trainer, seed_everything; import torchrelay.utilities.rank_zero; "
        "ours = logging.getLogger('torchrelay'); assert (ours.handlers, ours.level) == ([], logging.NOTSET); "
        "assert (logging.root.handlers, logging.root.level) == ([], logging.WARNING)"
    )
    assert stderr_of(code) == ""


def test_pytest_sees_it(caplog):
    from torchrelay.utilities import rank_zero_info

    rank_zero_info("seen")
    assert [(r.name, r.levelname, r.message, r.filename) for r in caplog.records] == [
        ("torchrelay", "INFO", "seen", "test_rank_zero.py")
    ]


def test_a_run_shows_what_its_parts_log(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        """
import logging
import torch
from torchrelay import LightningModule, Trainer

class Line(LightningModule):
    def predict_step(self, batch, batch_idx):
        logging.getLogger("torchrelay").info("a part's message")

Trainer(
    accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_checkpointing=False
).predict(Line(), torch.utils.data.DataLoader(torch.ones(1)))
"""
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr.count("a part's message\n")) == (0, 1), done.stderr
