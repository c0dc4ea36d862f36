from __future__ import annotations

import os
import re
import signal
import sys
import time
from types import SimpleNamespace

import pytest

from torchrelay.environments.local import LocalEnvironment
from torchrelay.environments.program import Program
from torchrelay.environments.seat import Seat
from torchrelay.errors import LaunchError
from torchrelay.launchers.script import ScriptLauncher, command_line

pytestmark = pytest.mark.timeout(120)


def test_the_program_runs_once_per_rank_with_the_same_arguments(program):
    done = program.run(
        """
        before = dict(os.environ)
        result = launch(total)
        rank = int(os.environ.get("RANK", "0"))
        # One write each: the ranks share the stream.
        sys.stdout.write(f"rank {rank} of {sys.argv[1:]} got {result}\\n")
        if rank == 0:
            assert dict(os.environ) == before
        else:
            assert sys.stdin.read() == ""
            assert os.environ["LOCAL_RANK"] == "1" and os.environ["WORLD_SIZE"] == "2"
        """,
        "--name",
        "a b",
    )
    assert done.returncode == 0, done.stderr
    expected = [f"rank {rank} of ['--name', 'a b'] got 3.0" for rank in (0, 1)]
    assert sorted(done.stdout.splitlines()) == expected
    assert done.stderr == ""


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "program"),
        ("-X", "dev", "-um", "program"),
        ("-u", "program.py"),
        ("-c", "import program"),
        (".",),
    ],
    ids=["module", "options and module", "option and relative path", "code", "folder"],
)
def test_every_way_of_starting_python(program, command):
    if command == (".",):
        (program.folder / "__main__.py").write_text("import program\n")
    done = program.run(
        """
        # Code and folders leave no trace of where they were started.
        if sys.argv[0].endswith("program.py"):
            os.chdir("/")
        result = launch(total)
        sys.stdout.write(f"{result} {sys.argv[1:]} {sys.flags.dev_mode}\\n")
        """,
        "x",
        command=command,
    )
    line = f"3.0 ['x'] {'dev' in command}"
    assert done.stdout.splitlines() == [line, line], done.stderr
    assert done.returncode == 0


def test_later_launches_meet_the_same_processes(program):
    done = program.run(
        """
        first = launch(total), os.getpid()
        second = launch(total), os.getpid()
        assert first == second
        sys.stdout.write(f"{first[0]}\\n")
        try:
            launch(total, n=3)
        except Exception as error:
            sys.stdout.write(f"{type(error).__name__}: {error}\\n")
        """
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines.count("3.0") == 2
    assert any(
        line.startswith("LaunchError: devices=3, but this program runs in 2") for line in lines
    )


def test_a_rank_that_has_left_is_not_waited_for(program):
    done = program.run(
        """
        launch(total)
        if os.environ.get("RANK"):
            sys.exit()
        from torchrelay.launchers.script import _runs
        run = _runs[os.getpid()]
        assert run._crew.wait_until(lambda: run._crew.all_gone, 30)
        launch(total)
        """
    )
    assert done.returncode == 1
    assert "error: no launch is possible any more: rank 1 has come to the end" in done.stderr


def test_one_process_needs_no_other(program):
    done = program.run("print(launch(total, n=1))")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1.0\n", "")


def test_the_rank_that_raises_is_shown_first_and_once(program, gone):
    done = program.run(
        """
        open(f"pid{os.environ.get('RANK', '0')}", "w").write(f"{os.getpid()}\\n")

        def work(environment):
            connect(environment)
            try:
                if environment.global_rank == 1:
                    raise ValueError("the reason itself")
                dist.barrier()
            except Exception as error:
                mark(error)
                raise
            finally:
                dist.destroy_process_group()

        if os.environ.get("RANK"):
            guard_worker()
            work(LocalEnvironment())
        launch(work)
        """
    )
    assert done.returncode == 1
    assert done.stderr.count("the reason itself") == 2, (
        done.stderr
    )  # the source line and the message
    assert done.stderr.count("ValueError: the reason itself") == 1
    # torch puts the rank before each line once a process group has been made.
    assert done.stderr.startswith("[rank0]: error: rank 1 failed first"), done.stderr
    assert "Traceback" in done.stderr
    assert done.stderr.count("Traceback") == 1
    assert gone(*map(int, program.wait_for("pid0", "pid1")), within=0)


def test_rank_0s_own_exception_is_raised_unchanged(program, gone):
    begun = time.monotonic()
    done = program.run(
        """
        open(f"pid{os.environ.get('RANK', '0')}", "w").write(f"{os.getpid()}\\n")

        def work(environment):
            connect(environment)
            if environment.global_rank == 0:
                open("failing", "w").write(f"{time.monotonic()}\\n")
                raise KeyError("mine")
            time.sleep(100)

        try:
            launch(work)
        except KeyError as error:
            open("caught", "w").write(f"{error} {time.monotonic()}\\n")
            raise
        """
    )
    assert done.returncode == 1
    assert done.stderr.count("KeyError: 'mine'") == 1
    failing, caught = program.wait_for("failing", "caught")
    assert caught.startswith("'mine'")
    assert float(caught.split()[1]) - float(failing) < 10
    assert gone(*map(int, program.wait_for("pid1")), within=0)
    assert time.monotonic() - begun < 60


def test_the_same_refusal_on_every_rank_is_rank_0s_to_raise(program):
    done = program.run(
        """
        from torchrelay.errors import ConfigurationError

        def work(environment):
            connect(environment)
            if environment.global_rank == 0:
                time.sleep(0.5)
            raise ConfigurationError("batch_size=0 must be positive")

        try:
            launch(work)
        except ConfigurationError as error:
            if not os.environ.get("RANK"):
                print("caught", error)
        """
    )
    assert done.stdout == "caught batch_size=0 must be positive\n", done.stderr
    assert done.returncode == 0


def test_a_killed_rank_is_named_with_its_signal(program):
    done = program.run(
        """
        def work(environment):
            connect(environment)
            if environment.global_rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            dist.barrier()

        launch(work)
        """
    )
    assert done.returncode == 1
    shown = done.stderr.removeprefix("[rank0]: ")
    assert shown.startswith("error: rank 1 was killed by signal 9 (SIGKILL); "), done.stderr
    assert done.stderr.count("\n") == 1


def test_a_stuck_rank_0_is_ended_with_the_report(program):
    program.write(
        """
        def work(environment):
            if environment.global_rank == 1:
                open("failing", "w").write("now\\n")
                raise ValueError("the reason itself")
            # In native code, which no exception reaches: rank 1 never comes.
            dist.TCPStore(environment.main_address, environment.main_port, is_master=False).wait(["x"])

        launch(work)
        """
    )
    process = program.start()
    program.wait_for("failing")
    begun = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - begun < 10
    assert process.returncode == 1
    assert err.startswith("error: rank 1 failed first")
    assert err.count("ValueError: the reason itself") == 1


HOG = """
    def work(environment):
        connect(environment)
        dist.barrier()
        open(f"pid{environment.global_rank}", "w").write(f"{os.getpid()}\\n")
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if environment.global_rank == 1:
            import ctypes
            # Waits in native code and keeps the GIL, so no Python thread runs here any more.
            ctypes.PyDLL(None).sleep(1000)
        time.sleep(1000)

    launch(work)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_orphan_when_the_parent_is_killed(program, gone, number):
    program.write(HOG)
    process = program.start()
    parent, child = map(int, program.wait_for("pid0", "pid1"))
    assert parent == process.pid
    os.kill(parent, number)
    process.wait(timeout=30)
    assert gone(child)


def test_an_interrupted_parent_ends_the_others(program, gone):
    program.write(HOG.replace("signal.signal(signal.SIGINT, signal.SIG_IGN)", "", 1))
    process = program.start()
    parent, child = map(int, program.wait_for("pid0", "pid1"))
    os.kill(parent, signal.SIGINT)
    begun = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - begun < 10
    assert process.returncode != 0
    assert err.count("KeyboardInterrupt") == 1
    assert gone(child, within=0)


INTERRUPTED = """
    def work(environment):
        connect(environment)
        dist.barrier()
        open(f"pid{environment.global_rank}", "w").write(f"{os.getpid()} {os.getsid(0)}\\n")
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            open(f"asked{environment.global_rank}", "w").write("yes\\n")
            raise

    launch(work)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs sessions")
def test_each_rank_has_its_session_and_is_told_of_an_interruption(program, gone):
    program.write(INTERRUPTED)
    process = program.start()
    lines = [line.split() for line in program.wait_for("pid0", "pid1")]
    (parent, first), (child, second) = (map(int, line) for line in lines)
    assert first != second
    # As a terminal does it, in whose foreground the other rank is not.
    os.kill(parent, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    assert err.count("KeyboardInterrupt") == 1, err
    assert program.wait_for("asked0", "asked1") == ["yes", "yes"]
    assert gone(child, within=0)


@pytest.mark.parametrize(
    ("end", "status", "message"),
    [
        ("raise ValueError('after it')", 1, "ValueError: after it"),
        ("os._exit(7)", 7, "rank 1 ended with exit status 7"),
        ("os.abort()", 1, "rank 1 was killed by signal 6 (SIGABRT)"),
        ("sys.exit()", 0, ""),
    ],
)
def test_a_rank_that_fails_after_the_launch_decides_the_exit_code(program, end, status, message):
    done = program.run(
        f"""
        launch(total)
        if os.environ.get("RANK"):
            {end}
        print("rank 0 is through")
        """
    )
    assert done.stdout == "rank 0 is through\n"
    assert done.returncode == status, done.stderr
    assert message in done.stderr


def test_a_launch_after_a_failure_says_what_failed(program):
    done = program.run(
        """
        launch(total)
        if os.environ.get("RANK"):
            raise ValueError("between the launches")
        from torchrelay.launchers.script import _runs
        crew = _runs[os.getpid()]._crew
        assert crew.wait_until(lambda: crew.all_gone, 30)
        for _ in range(2):
            try:
                launch(total)
            except Exception as error:
                print(type(error).__name__, "between the launches" in str(error))
        """
    )
    assert done.stdout == "WorkerError True\nLaunchError False\n", done.stderr


def test_an_exception_outside_a_launch_ends_the_others_too(program, gone):
    begun = time.monotonic()
    done = program.run(
        """
        launch(total)
        if os.environ.get("RANK"):
            open("pid1", "w").write(f"{os.getpid()}\\n")
            time.sleep(1000)
        while not os.path.exists("pid1"):
            time.sleep(0.02)
        raise ValueError("in rank 0 alone")
        """
    )
    assert done.returncode == 1
    assert done.stderr.count("ValueError: in rank 0 alone") == 1
    assert gone(*map(int, program.wait_for("pid1")), within=0)
    assert time.monotonic() - begun < 60


def test_two_runs_at_once_do_not_meet(program):
    program.write("print(launch(total))")
    processes = [program.start() for _ in range(3)]
    for process in processes:
        out, err = process.communicate(timeout=90)
        assert out == "3.0\n3.0\n", err
        assert process.returncode == 0


def test_the_store_listens_on_loopback_alone(program):
    done = program.run(
        """
        def listening(environment):
            port = f"{environment.main_port:04X}"
            rows = [line.split() for name in ("tcp", "tcp6") for line in open(f"/proc/net/{name}")]
            if environment.global_rank == 0:
                print([row[1] == f"0100007F:{port}" for row in rows if row[1].endswith(port) and row[3] == "0A"])

        launch(listening)
        """
    )
    assert done.stdout == "[True]\n", done.stderr


def test_the_cores_are_shared(program):
    source = """
        outside = torch.get_num_threads()
        inside = launch(lambda environment: (total(environment), torch.get_num_threads())[1])
        first = "RANK" not in os.environ
        sys.stdout.write(f"{inside} {inside == outside} {outside == torch.get_num_threads()} {first}\\n")
        """
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    done = program.run(source, OMP_NUM_THREADS="")
    (own, other) = sorted(line.split() for line in done.stdout.splitlines())
    assert own[0] == other[0] == str(share)
    assert sorted([own[3], other[3]]) == ["False", "True"]
    assert own[2] == other[2] == "True"
    done = program.run(source, OMP_NUM_THREADS="2")
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["True", "True"], done.stderr


def test_a_worker_with_other_plugins_is_refused(program, site):
    site.plugin("acme-relay", "@hookimpl\ndef torchrelay_strategies():\n    return []\n")
    done = program.run(
        """
        if os.environ.get("RANK"):
            os.environ["TORCHRELAY_DISABLE_PLUGINS"] = "*"
        launch(total)
        """,
        PYTHONPATH=str(site.path),
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: rank 1: this process found other plugins"), done.stderr
    assert "acme-relay: absent here, 1.0 there" in done.stderr


@pytest.mark.parametrize("words", [["python"], ["python", "-"], ["python", "-i", "x.py"]])
def test_without_a_program_there_is_nothing_to_run_again(monkeypatch, words):
    monkeypatch.setattr(sys, "orig_argv", words)
    if "-i" in words:
        monkeypatch.setattr(sys, "flags", SimpleNamespace(interactive=1))
    assert Program.current().options == (("-i",) if "-i" in words else ())
    with pytest.raises(LaunchError, match="ddp_notebook"):
        command_line()


def test_the_real_standard_input_has_no_program_to_run_again(program):
    program.write("launch(total)")
    process = program.start(command=("-c", "exec(open('program.py').read())"))
    process.communicate(timeout=60)
    assert process.returncode == 0
    import subprocess

    done = subprocess.run(
        [sys.executable],
        input=program.path.read_text(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "ddp_notebook" in done.stderr


def test_in_a_launched_process_the_function_just_runs_and_rank_0_can_see_that_it_came(tmp_path):
    seat = Seat(1, 1, 2, 2, 0, "127.0.0.1", 4321, 77, str(tmp_path))
    launcher = ScriptLauncher(LocalEnvironment(seat.variables()), 2)
    assert launcher.launch(lambda a, b: a + b, 1, 2) == 3
    (arrival,) = tmp_path.iterdir()
    assert re.fullmatch(r"launch-\d+-rank-1", arrival.name)
