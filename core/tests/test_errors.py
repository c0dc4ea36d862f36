"""The exception tree, and what a user's mistake prints. No torch here."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import textwrap

import pytest

from torchrelay import errors
from torchrelay.errors import ConfigurationError, TorchrelayError, UserError, WorkerError, one_line

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, TorchrelayError)
}


def drawn() -> dict[str, tuple[str | None, list[str]]]:
    """The tree in the module's docstring: name -> parent, further bases."""
    found, path = {}, []
    for line in errors.__doc__.splitlines():
        match = re.match(r"    ([ │├└─]*)(\w+Error)\b(.*)", line)
        if match:
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            also = re.findall(r"\(also (\w+)\)", match[3])
            found[match[2]] = (path[depth - 1] if depth else None, also)
    return found


def test_the_tree_is_as_it_is_drawn():
    tree = {}
    for name, kind in CLASSES.items():
        parents = [base.__name__ for base in kind.__bases__]
        own = [parent for parent in parents if parent in CLASSES]
        tree[name] = (
            own[0] if own else None,
            [p for p in parents if p not in own and p != "Exception"],
        )
    assert tree == drawn()


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_errors_travel_between_processes(kind):
    error = kind("message", rank=3, report="report") if kind is WorkerError else kind("message")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_a_workers_report_stands_below_its_message():
    assert str(WorkerError("rank 1 failed", rank=1, report="Traceback\n  ...\n")) == (
        "rank 1 failed\n\nTraceback\n  ..."
    )
    assert str(WorkerError("rank 1 was killed", rank=1)) == "rank 1 was killed"


def test_one_line_names_the_users_line():
    with pytest.raises(ConfigurationError) as caught:
        raise ConfigurationError("one\n  two")
    line = caught.tb.tb_lineno
    assert one_line(caught.value) == f"{__file__}:{line}: error: one two"
    assert one_line(UserError("never raised")) == "error: never raised"


def test_one_line_passes_over_frames_that_are_not_the_users():
    """torchrelay, its packages and torch may stand between the user's line and the error."""

    def layer(name, inner):
        scope = {"__name__": name, "inner": inner}
        exec(compile("def call():\n    inner()", f"{name}.py", "exec"), scope)
        return scope["call"]

    def fail():
        raise UserError("no")

    fail = layer("torchrelay.trainer.fit", fail)
    for name in (
        "torch.optim.sgd",
        "torchrelay_ddp.strategy",
        "importlib._bootstrap",
        "torchrelay",
    ):
        scope = {"__name__": name, "UserError": UserError}
        exec(compile("def inner():\n    raise UserError('no')", f"{name}.py", "exec"), scope)
        users = layer("train", layer("torchrelay.trainer.run", scope["inner"]))
        with pytest.raises(UserError) as caught:
            users()
        assert one_line(caught.value) == "train.py:2: error: no"


def run(tmp_path, body, **environ):
    """Run a script that has asked for one-line errors; its exit status and what it printed."""
    script = tmp_path / "train.py"
    script.write_text(
        "from torchrelay.errors import *\n"
        "from torchrelay.errors import ConfigurationError, WorkerError, show_user_errors_as_one_line\n"
        f"{textwrap.dedent(body)}"
    )
    inherited = {k: v for k, v in os.environ.items() if k != errors.FULL_TRACEBACK_VARIABLE}
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env=inherited | environ,
        timeout=60,
    )
    return done.returncode, done.stderr, str(script)


MISTAKE = """
    def configure():
        raise ConfigurationError("devices=0 cannot be;\\n  write devices=1")

    show_user_errors_as_one_line()
    configure()
"""
BUG = """
    show_user_errors_as_one_line()
    1 / 0
"""


def test_a_mistake_prints_one_line(tmp_path):
    status, printed, script = run(tmp_path, MISTAKE)
    assert status == 1
    assert printed == f"{script}:5: error: devices=0 cannot be; write devices=1\n"


def test_a_bug_prints_its_traceback(tmp_path):
    status, printed, script = run(tmp_path, BUG)
    assert status == 1
    assert printed.startswith("Traceback (most recent call last):\n")
    assert f'File "{script}", line 5' in printed
    assert printed.endswith("ZeroDivisionError: division by zero\n")


def test_the_traceback_of_a_mistake_can_be_asked_for(tmp_path):
    status, printed, _ = run(tmp_path, MISTAKE, TORCHRELAY_TRACEBACK="1")
    assert status == 1
    assert printed.startswith("Traceback (most recent call last):\n")
    assert "torchrelay.errors.ConfigurationError: devices=0 cannot be;" in printed


def test_a_failed_worker_prints_its_own_traceback_alone(tmp_path):
    body = """
    show_user_errors_as_one_line()
    raise WorkerError("rank 1 failed first", rank=1, report="Traceback of rank 1\\n  boom\\n")
    """
    status, printed, _ = run(tmp_path, body)
    assert (status, printed) == (1, "error: rank 1 failed first\n\nTraceback of rank 1\n  boom\n")


def test_somebody_elses_hook_is_left_alone(tmp_path):
    body = """
    import sys
    sys.excepthook = lambda kind, error, trace: print("mine:", kind.__name__, file=sys.stderr)
    show_user_errors_as_one_line()
    raise ConfigurationError("no")
    """
    assert run(tmp_path, body)[1] == "mine: ConfigurationError\n"
