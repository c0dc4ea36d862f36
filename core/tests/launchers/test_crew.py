from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from torchrelay.environments.seat import Seat
from torchrelay.launchers import crew as module
from torchrelay.launchers.crew import Crew, start_in_thread
from torchrelay.launchers.failure import write_report

pytestmark = pytest.mark.timeout(60)


def python(code):
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def crew_of(tmp_path):
    processes = []

    def make(*codes):
        mine = {rank: python(code) for rank, code in enumerate(codes)}
        processes.extend(mine.values())
        return Crew(mine, tmp_path)

    yield make
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def test_ends_are_noticed_when_they_happen(crew_of):
    crew = crew_of("", "raise SystemExit(3)")
    assert crew.wait_until(lambda: crew.all_gone, 30)
    assert crew.failed
    assert {rank: end.status for rank, end in crew.exits.items()} == {0: 0, 1: 3}
    (failure,) = crew.failures(since=0)
    assert (failure.rank, failure.kind, failure.status) == (1, "Exit", 3)


def test_those_that_do_not_listen_are_killed_and_are_no_failure(crew_of, monkeypatch):
    monkeypatch.setattr(module, "TERMINATION", 0.3)
    deaf = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(99)"
    )
    crew = crew_of(deaf, "import time; print(flush=True); time.sleep(99)")
    for process in crew._processes.values():
        process.stdout.readline()
    crew.stop()
    assert crew.all_gone
    assert {rank: end.status for rank, end in crew.exits.items()} == {0: -9, 1: -15}
    assert not crew.failed
    assert crew.failures(since=0) == []


def test_an_old_report_counts_only_if_its_process_died_of_it(crew_of, tmp_path):
    for rank in range(3):
        seat = Seat(rank, rank, 3, 3, 0, "127.0.0.1", 1, 1, str(tmp_path))
        assert write_report(seat, ValueError(f"handled by {rank}"))
    crew = crew_of("", "raise SystemExit(1)", "import os; os.kill(os.getpid(), 9)")
    assert crew.wait_until(lambda: crew.all_gone, 30)
    found = {failure.rank: failure.kind for failure in crew.failures(since=time.monotonic())}
    assert found == {1: "Exception", 2: "Exit"}
    assert len(crew.failures(since=0)) == 3


def test_the_starting_thread_lives_until_it_may_end():
    until = threading.Event()
    thread = start_in_thread(threading.current_thread, until)
    assert thread is not threading.current_thread()
    assert thread.is_alive()
    until.set()
    thread.join(10)
    assert not thread.is_alive()


def test_an_error_at_the_start_is_raised_here():
    until = threading.Event()
    with pytest.raises(ZeroDivisionError):
        start_in_thread(lambda: 1 // 0, until)
    assert until.is_set()
