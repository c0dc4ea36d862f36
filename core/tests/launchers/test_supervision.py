from __future__ import annotations

import os
import subprocess
import sys

import pytest

from torchrelay.environments.seat import VARIABLE, Seat
from torchrelay.errors import LaunchError
from torchrelay.launchers.failure import read_reports
from torchrelay.launchers.supervision import guard_worker, importing_main, refuse_nested_launch

pytestmark = pytest.mark.timeout(60)

GUARD = "import os, sys, time; from torchrelay.launchers.supervision import guard_worker, watch_parent\n"


def worker(code, folder, parent=None, fingerprint=None):
    seat = Seat(
        1, 1, 2, 2, 0, "127.0.0.1", 1, parent or os.getpid(), str(folder), fingerprint or {}
    )
    return subprocess.run(
        [sys.executable, "-c", GUARD + code],
        env={**os.environ, **seat.variables()},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_elsewhere_it_does_nothing(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    hook = sys.excepthook
    guard_worker()
    assert sys.excepthook is hook
    assert VARIABLE not in os.environ


def test_an_uncaught_exception_is_left_for_the_parent(tmp_path):
    done = worker("guard_worker(); hook = sys.excepthook; guard_worker()\n"
                  "assert hook is sys.excepthook\nraise ValueError('x')", tmp_path)  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "")
    (report,) = read_reports(tmp_path).values()
    assert report.text.endswith("ValueError: x\n")


def test_a_worker_whose_parent_is_gone_already_ends(tmp_path):
    done = worker("guard_worker(); print('still here')", tmp_path, parent=1)
    assert (done.returncode, done.stdout) == (1, "")


def test_a_failed_worker_that_cannot_end_is_ended(tmp_path):
    code = "import atexit\natexit.register(time.sleep, 1000)\nguard_worker()\nraise ValueError('x')"
    assert worker(code, tmp_path).returncode == -14
    assert read_reports(tmp_path)[1].kind == "Exception"


def test_a_process_that_a_worker_starts_is_no_worker(tmp_path):
    code = (
        "guard_worker()\n"
        "import subprocess\n"
        f"code = {GUARD!r} + 'guard_worker(); print(7)'\n"
        "subprocess.run([sys.executable, '-c', code], check=True)\n"
    )
    done = worker(code, tmp_path)
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr


def test_other_plugins_are_refused(tmp_path):
    done = worker("guard_worker()", tmp_path, fingerprint={"torch": "0.1"})
    assert done.returncode == 1
    report = read_reports(tmp_path)[1]
    assert report.kind == "LaunchError"
    assert "torch: " in report.text
    assert "0.1 there" in report.text


def test_where_the_system_does_not_tell_the_parent_is_watched(gone):
    child = GUARD + "watch_parent(int(sys.argv[1]))"
    code = (
        "import os, subprocess, sys, time\n"
        f"command = [sys.executable, '-c', {child!r}, str(os.getpid())]\n"
        "print(subprocess.Popen(command, stdout=subprocess.DEVNULL).pid, flush=True)\n"
        "time.sleep(100)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as parent:
        child_pid = int(parent.stdout.readline())
        parent.kill()
    assert gone(child_pid)


def test_nothing_is_launched_while_main_is_imported():
    refuse_nested_launch()
    with importing_main(), pytest.raises(LaunchError, match="__main__"):
        refuse_nested_launch()
    refuse_nested_launch()
