"""A program that a fork server starts is like one that an interpreter runs, to its parent and to itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from torchrelay.testing.forkserver import ForkServer, ForkServerError
from torchrelay.testing.processes import all_processes
from torchrelay.testing.programs import gone

pytestmark = [
    pytest.mark.timeout(100),
    pytest.mark.skipif(sys.platform != "linux", reason="needs prctl(2)"),
]

MODULES = ("logging", "torchrelay.environments.program")
"""What the server of most tests imports: torch takes a second, and changes nothing here."""


@pytest.fixture(scope="module")
def server():
    with ForkServer(MODULES) as made:
        yield made


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **variables}


def run(popen, *command: str, **options):
    """Status, standard output and error of a program."""
    options = {
        "env": environment(),
        "stdin": subprocess.DEVNULL,
        "start_new_session": True,
        **options,
    }
    process = popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


PROGRAMS = {
    "nothing": "",
    "exit status": "raise SystemExit(3)",
    "exit text": "raise SystemExit('said at the end')",
    "exception": "def f():\n    raise KeyError('x')\nf()",
    "cause": "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise ValueError('y') from error",
    "syntax": "x = (",
    "keyboard": "raise KeyboardInterrupt",
    "killed": "import os; os.kill(os.getpid(), 9)",
    "terminated": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "interrupted": "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
    "left": "import os; print('unseen'); os._exit(4)",
    "abort": "import os; os.abort()",
    "at exit": "import atexit, sys; atexit.register(print, 'last'); print('first'); sys.exit(2)",
    "hook": "import sys; sys.excepthook = lambda *a: print(a[0].__name__, a[1], a[2] is None); 1 / 0",
    "last value": "import atexit, sys; atexit.register(lambda: print(repr(sys.last_value))); 1 / 0",
    "thread": "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.2), print('in it'))).start()",
    "warning": "import warnings; warnings.warn('w')",
    "main": "import sys\nm = sys.modules['__main__']\n"
    "print(sorted(vars(m)), m.__file__, m.__spec__ and m.__spec__.name, __name__)",
    "words": "import sys; print(sys.argv, sys.orig_argv)",
    "path": "import sys; print(sys.path)",
    "pickle": "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A)",
    "spawn": "import multiprocessing as mp\ndef f(x): print('got', x, flush=True)\n"
    "if __name__ == '__main__':\n    p = mp.get_context('spawn').Process(target=f, args=(1,)); p.start(); p.join()",
    "streams": "import sys; print(sys.stdin.read(), file=sys.stderr); print(sys.stdout.encoding)",
    "ignored": "import signal; print([signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)])",
    "temporary": "import tempfile; print(tempfile.gettempdir())",
    "descriptors": "import os; print(sorted(os.listdir('/proc/self/fd'))[:3])",
    "mask": "import os; old = os.umask(0); print(old)",
    "random": "import random; random.seed(1); print(random.random())",
    "child": "import subprocess, sys\n"
    "c = 'import os, sys; print(os.getppid() == int(sys.argv[1]), flush=True); sys.exit(5)'\n"
    "import os\nprint(subprocess.run([sys.executable, '-c', c, str(os.getpid())]).returncode)",
}


@pytest.mark.parametrize("kind", ["-c", "file", "relative", "-m"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_it_does_what_an_interpreter_does(server, tmp_path, name, kind):
    if kind == "-c" and name in ("main", "spawn", "pickle"):
        pytest.skip("needs a file")
    (tmp_path / "program.py").write_text(PROGRAMS[name])
    command = {
        "-c": ("-c", PROGRAMS[name]),
        "file": (str(tmp_path / "program.py"),),
        "relative": ("program.py",),
        "-m": ("-m", "program"),
    }[kind]
    options = {"cwd": tmp_path, "env": environment(TMPDIR=str(tmp_path), PYTHONPATH="/nowhere")}
    expected = run(subprocess.Popen, "-W", "error", *command, "a b", **options)
    found = run(server.popen, "-W", "error", *command, "a b", **options)
    if kind == "-c" and sys.version_info >= (3, 13):
        # There the interpreter alone knows the lines of code from a command line.
        expected, found = without_source(expected), without_source(found)
    assert found == expected


def without_source(done):
    status, out, err = done
    return status, out, [line for line in err.splitlines() if not line.startswith("    ")]


@pytest.mark.parametrize(
    "command", [("absent.py",), ("-m", "absent"), ("-u", "-c", "print(1)"), (".",)]
)
def test_what_is_not_there_and_what_a_copy_cannot_run(server, tmp_path, command):
    expected = run(subprocess.Popen, *command, cwd=tmp_path)
    assert run(server.popen, *command, cwd=tmp_path) == expected


FACTS = """
import os, sys
print(os.getppid(), os.getpid(), os.getsid(0) == os.getpid(), os.getcwd(), os.environ["WORD"], "logging" in sys.modules)
print(sys.stdin.read())
"""


@pytest.mark.parametrize("session", [True, False])
def test_its_parent_session_folder_variables_and_input(server, tmp_path, session):
    process = server.popen(
        [sys.executable, "-c", FACTS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment(WORD="w"),
        start_new_session=session,
    )
    out, _ = process.communicate("asked\n", timeout=60)
    facts = f"{os.getpid()} {process.pid} {session} {tmp_path} w True"
    assert out == f"{facts}\nasked\n\n"


def test_a_signal_reaches_it_and_its_group(server, tmp_path):
    for send in (
        subprocess.Popen.terminate,
        lambda process: os.killpg(process.pid, signal.SIGTERM),
    ):
        process = server.popen(
            [sys.executable, "-uc", "import time; print('on'); time.sleep(60)"],
            stdout=subprocess.PIPE,
            env=environment(),
            start_new_session=True,
        )
        assert process.stdout.read(3) == b"on\n"
        assert process.poll() is None
        send(process)
        assert process.wait(30) == -signal.SIGTERM
        process.stdout.close()


NESTED = """
import os, subprocess, sys, time
loaded = "import os, sys, time; os.write(1, str('logging' in sys.modules).encode()); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", loaded], stdout=subprocess.PIPE)
os.write(1, b"%d %s" % (child.pid, child.stdout.read(4)))
time.sleep(60)
"""


def test_what_it_starts_is_a_copy_too_and_its_server_ends_with_it(server):
    process = server.popen(
        [sys.executable, "-c", NESTED],
        stdout=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    )
    pid, loaded = os.read(process.stdout.fileno(), 64).split()
    child = int(pid)
    assert loaded == b"True"
    assert Path(f"/proc/{child}/status").read_text().count(f"PPid:\t{process.pid}\n") == 1
    assert os.getsid(child) == os.getpgid(child) == process.pid
    helpers = named("fork-server", process.pid)
    assert len(helpers) == 1
    # What is sent to the group is not for the server.
    os.kill(helpers[0], signal.SIGTERM)
    time.sleep(0.1)
    assert named("fork-server", process.pid) == helpers
    process.kill()
    process.wait(30)
    assert gone(*helpers)
    os.kill(child, signal.SIGKILL)
    process.stdout.close()


def named(name: str, parent: int) -> list[int]:
    return [each.pid for each in all_processes() if each.name == name and each.parent == parent]


def test_startup_variables_and_options_have_servers_of_their_own(server):
    code = "import os, sys; print(sys.flags.hash_randomization, sys.flags.utf8_mode, os.environ['OMP_NUM_THREADS'])"
    for variables, options, expected in (
        ({"PYTHONHASHSEED": "0"}, (), "0 0 1"),
        ({"OMP_NUM_THREADS": "2"}, ("-X", "utf8"), "1 1 2"),
    ):
        env = environment(**variables)
        assert run(server.popen, *options, "-c", code, env=env) == (0, expected + "\n", "")


def test_a_module_that_cannot_be_imported_is_an_error():
    with (
        ForkServer(("torchrelay.absent",)) as broken,
        pytest.raises(ForkServerError, match="ended with status 1 while it started"),
    ):
        run(broken.popen, "-c", "")


def test_a_module_that_starts_a_thread_is_refused(tmp_path, monkeypatch):
    code = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    (tmp_path / "threaded.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (
        ForkServer(("threaded",)) as broken,
        pytest.raises(ForkServerError, match="importing threaded has started 1 thread"),
    ):
        run(broken.popen, "-c", "")


def test_further_modules_are_imported_by_servers_that_are_still_to_start():
    with ForkServer(("logging",)) as server:
        server.preload("wave")
        code = "import sys; print('wave' in sys.modules)"
        assert run(server.popen, "-c", code) == (0, "True\n", "")


def test_what_customizes_its_start_is_no_copy(server, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.customized = True")
    code = "import sys; print(sys.customized)"
    done = run(server.popen, "-c", code, env=environment(PYTHONPATH=str(tmp_path)))
    assert done == (0, "True\n", "")


def test_it_can_be_switched_off(server, monkeypatch):
    monkeypatch.setenv("TORCHRELAY_FORK_SERVER", "0")
    code = "import sys; print('torchrelay.environments.program' in sys.modules)"
    assert run(server.popen, "-c", code) == (0, "False\n", "")


def test_torch_computes_in_a_copy_and_in_what_it_forks(tmp_path):
    code = textwrap.dedent(
        """
        import os, torch
        from torch.utils.data import DataLoader
        x = torch.ones(3, requires_grad=True)
        (x * 2).sum().backward()
        loader = DataLoader(torch.arange(8), num_workers=1, persistent_workers=True)
        total = sum(batch.sum().item() for batch in loader)
        print(x.grad.tolist(), total)
        """
    )
    (tmp_path / "program.py").write_text(code)
    expected = run(subprocess.Popen, "program.py", cwd=tmp_path)
    assert expected[0] == 0, expected
    with ForkServer() as server:
        assert run(server.popen, "program.py", cwd=tmp_path) == expected


DRAWS = (
    "import numpy, random, torch; print(torch.rand(1).item(), numpy.random.rand(), random.random())"
)


def test_copies_draw_random_numbers_of_their_own():
    with ForkServer(("torch", "numpy", "random")) as server:
        drawn = [run(server.popen, "-c", DRAWS) for _ in range(2)]
    assert [status for status, _, _ in drawn] == [0, 0], drawn
    one, other = (out.split() for _, out, _ in drawn)
    assert not set(one) & set(other)
