from __future__ import annotations

import os
import sys
import textwrap
import threading
import time
import weakref

import pytest

from torchrelay.checkpoint.background import Background
from torchrelay.testing.forkserver import shared_server


def fail() -> None:
    raise OSError("no room")


def test_jobs_are_done_in_order_and_one_at_a_time() -> None:
    background, gate, done = Background(), threading.Event(), []

    def slow() -> None:
        gate.wait(10)
        done.append(1)

    background.start(slow)
    background.start(done.append, 2)
    assert background.busy
    assert done == []
    gate.set()
    background.finish()
    assert done == [1, 2]
    assert not background.busy
    background.finish()


def test_what_comes_after_a_failure_is_not_done() -> None:
    background, gate, done = Background(), threading.Event(), []

    def slow_failure() -> None:
        gate.wait(10)
        fail()

    background.start(slow_failure)
    background.start(done.append, 1)
    gate.set()
    with pytest.raises(OSError, match="no room"):
        background.finish()
    assert done == []
    background.finish()  # it was told once
    background.start(done.append, 2)
    background.finish()
    assert done == [2]


class Big:
    """Something that should not be kept for longer than it is needed."""


def test_what_a_job_held_is_let_go() -> None:
    background, held = Background(), Big()
    seen = weakref.ref(held)
    background.start(lambda value: None, held)
    del held
    while background.busy:
        time.sleep(0.01)
    assert seen() is None
    background.finish()


@pytest.mark.timeout(60)
def test_the_interpreter_waits_and_then_tells() -> None:
    code = """
        import time
        from torchrelay.checkpoint.background import Background

        def slow(): time.sleep(0.3); print("done", flush=True)
        def fail(): raise OSError("no room")

        background = Background()
        background.start(slow)
        background.start(fail)
    """
    ended = shared_server().run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=50
    )
    assert ended.stdout == "done\n"
    assert "OSError: no room" in ended.stderr


@pytest.mark.timeout(60)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing can be forked here")
def test_a_forked_process_waits_for_nobody_elses_work() -> None:
    code = """
        import os, time
        from torchrelay.checkpoint.background import Background

        background = Background()
        background.start(time.sleep, 1)
        child = os.fork()
        if child == 0:
            background.finish()
            background.start(print, "own work")
            raise SystemExit(3)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    ended = shared_server().run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert ended.stdout == "own work\n3\n"
    assert ended.stderr == ""
