from __future__ import annotations

import os
import signal
import sys
import time

import pytest
import torch

from torchrelay.environments.local import LocalEnvironment
from torchrelay.errors import ConfigurationError, LaunchError
from torchrelay.launchers import multiprocess
from torchrelay.launchers.multiprocess import MultiProcessingLauncher

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform == "win32", reason="needs fork"),
]

START = """
def launch(function, *args, n=2):
    environment = LocalEnvironment()
    return MultiProcessingLauncher(environment, n, sys.argv[1]).launch(function, environment, *args)
"""


@pytest.fixture(params=["spawn", "fork"])
def run(request, program):
    """Runs a program whose `launch` uses one start method; the last lines go under the guard."""

    def run(source, guarded, **options):
        program.write(START)
        whole = program.path.read_text()
        body = "\n".join("    " + line for line in guarded.strip().splitlines())
        program.path.write_text(f'{whole}\n{source}\nif __name__ == "__main__":\n{body}\n')
        return program.start(request.param, **options)

    run.method = request.param
    return run


def finish(process):
    out, err = process.communicate(timeout=90)
    return process.returncode, out, err


def test_rank_0s_result_comes_back(run):
    done = finish(
        run(
            """
def work(environment, weights):
    value = total(environment)
    return {
        "total": value,
        "rank": environment.global_rank,
        "seat": (environment.creates_processes, environment.world_size, environment.local_world_size),
        "environ": os.environ["RANK"] + os.environ["WORLD_SIZE"],
        "weights": weights + 1,
    }
""",
            """
before = dict(os.environ)
result = launch(work, torch.zeros(2))
print(result)
print(launch(work, torch.ones(2))["weights"])
assert dict(os.environ) == before
assert not LocalEnvironment().creates_processes
""",
        )
    )
    expected = (
        "{'total': 3.0, 'rank': 0, 'seat': (True, 2, 2), 'environ': '02', 'weights': tensor([1., 1.])}\n"
        "tensor([2., 2.])\n"
    )
    assert done == (0, expected, "")


def test_the_processes_work_on_copies(run):
    done = finish(
        run(
            """
def work(environment, model, base, view):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(environment.global_rank + 1)
        base.add_(1)
    tied = model[0].weight is model[1].weight
    return [p.mean().item() for p in model.parameters()], tied, view.tolist()
""",
            """
model = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False))
model[1].weight = model[0].weight
torch.nn.init.zeros_(model[0].weight)
base = torch.zeros(4)
print(launch(work, model, base, base[:2]), model[0].weight.item(), base.sum().item())
print(model[0].weight.is_shared())
""",
        )
    )
    assert done == (0, "([1.0], True, [1.0, 1.0]) 0.0 0.0\nFalse\n", "")


def test_random_numbers_and_settings_are_taken_over(run):
    done = finish(
        run(
            """
import random
import numpy

def work(environment):
    return (
        random.random(), numpy.random.rand(), torch.rand(1).item(), torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark,
    )
""",
            """
random.seed(1); numpy.random.seed(2); torch.manual_seed(3)
torch.set_default_dtype(torch.float64)
torch.use_deterministic_algorithms(True, warn_only=True)
torch.backends.cudnn.deterministic = True
there = launch(work)
assert there == work(None), there
print(there[3:])
""",
        )
    )
    assert done == (0, "(torch.float64, True, True, True, False)\n", "")


def test_computing_with_threads_in_parent_and_children(run):
    done = finish(
        run(
            """
def compute():
    x = torch.randn(1500, 1500)
    return torch.isfinite((x @ x).exp().sum()) is not None

def work(environment):
    return compute(), torch.get_num_threads()
""",
            """
torch.set_num_threads(4)
compute()
print(launch(work))
""",
            OMP_NUM_THREADS="",
        )
    )
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert done == (0, f"(True, {share})\n", "")


def test_the_rank_that_raises_is_shown_first_and_once(run):
    code, _, err = finish(
        run(
            """
def work(environment):
    connect(environment)
    if environment.global_rank == 1:
        raise ValueError("the reason itself")
    dist.barrier()
""",
            """
try:
    launch(work)
except Exception as error:
    assert type(error).__name__ == "WorkerError" and error.rank == 1
    assert error.report.rstrip().endswith("ValueError: the reason itself")
    raise
""",
        )
    )
    assert code == 1
    assert err.startswith("error: rank 1 failed first"), err
    assert err.count("ValueError: the reason itself") == 1
    assert err.count("Traceback") == 1


def test_a_user_error_in_a_worker_is_one_line(run):
    code, _, err = finish(
        run(
            """
from torchrelay.errors import ConfigurationError

def work(environment):
    raise ConfigurationError("batch_size=0 must be positive")
""",
            "launch(work)",
        )
    )
    assert code == 1
    assert err.count("batch_size=0") == err.count("\n") == 1, err
    assert "program.py" in err


def test_a_killed_rank_is_named_with_its_signal(run):
    code, _, err = finish(
        run(
            """
def work(environment):
    connect(environment)
    if environment.global_rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()
""",
            "launch(work)",
        )
    )
    assert code == 1
    assert err.startswith("error: rank 0 was killed by signal 9 (SIGKILL); "), err
    assert err.count("\n") == 1


STUCK = """
def work(environment):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    open(f"pid{environment.global_rank}", "w").write(f"{os.getpid()}\\n")
    while not os.path.exists("fail"):
        time.sleep(0.02)
    if environment.global_rank == 1:
        raise ValueError("the reason itself")
    import ctypes
    # Waits in native code and keeps the GIL, so no Python thread runs here any more.
    ctypes.PyDLL(None).sleep(1000)
"""


def test_the_others_are_gone_soon_even_if_they_ignore_the_request(run, program, gone):
    process = run(STUCK, "launch(work)")
    pids = list(map(int, program.wait_for("pid0", "pid1")))
    (program.folder / "fail").write_text("now")
    begun = time.monotonic()
    code, _, err = finish(process)
    assert time.monotonic() - begun < 10
    assert code == 1
    assert err.count("ValueError: the reason itself") == 1
    assert gone(*pids, within=0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_orphan_when_the_parent_is_ended(run, program, gone, number):
    process = run(STUCK, "launch(work)")
    pids = list(map(int, program.wait_for("pid0", "pid1")))
    os.kill(process.pid, number)
    begun = time.monotonic()
    code, _, err = finish(process)
    assert gone(*pids)
    assert time.monotonic() - begun < 10
    assert code != 0
    assert err.count("KeyboardInterrupt") == (number == signal.SIGINT)


def test_each_rank_has_its_session_and_is_told_of_an_interruption(run, program, gone):
    process = run(
        """
def work(environment):
    rank = environment.global_rank
    open(f"pid{rank}", "w").write(f"{os.getpid()} {os.getsid(0)}\\n")
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        open(f"asked{rank}", "w").write("yes\\n")
        raise
""",
        "launch(work)",
    )
    lines = [line.split() for line in program.wait_for("pid0", "pid1")]
    assert len({session for _, session in lines} | {str(process.pid)}) == 3
    # As a terminal does it, in whose foreground no rank is.
    os.kill(process.pid, signal.SIGINT)
    code, _, err = finish(process)
    assert code != 0
    assert err.count("KeyboardInterrupt") == 1, err
    assert program.wait_for("asked0", "asked1") == ["yes", "yes"]
    assert gone(*(int(pid) for pid, _ in lines), within=0)


def test_a_result_that_cannot_be_sent_back(run):
    code, _, err = finish(
        run(
            "def work(environment): return {'fine': 1, 'bad': lambda: None}",
            "launch(work)",
        )
    )
    assert code == 1
    assert (
        "error: rank 0: the result['bad'], a function 'work.<locals>.<lambda>', cannot be sent"
        in err
    )


def test_the_missing_guard_is_explained(program):
    done = program.run(START + "def work(environment): return 1\nlaunch(work)\n", "spawn")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert 'under `if __name__ == "__main__":`' in done.stderr


def test_as_a_module_the_guard_holds_too(program):
    source = (
        START
        + "def work(e): return total(e)\nif __name__ == '__main__':\n    print(launch(work))\n"
    )
    done = program.run(source, command=("-m", "program", "spawn"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "3.0\n", "")


def test_what_cannot_be_pickled_is_named_before_any_process(monkeypatch):
    class Holder:
        pass

    holder = Holder()
    started = []
    monkeypatch.setattr(multiprocess, "start_in_thread", lambda *a, **k: started.append(a))
    launcher = MultiProcessingLauncher(LocalEnvironment({}), 2)
    model = torch.nn.Linear(1, 1)
    model.transform = lambda x: x
    with pytest.raises(LaunchError, match=r"^args\[1\]\['m'\].transform, a function ") as caught:
        launcher.launch(print, 1, {"ok": 1, "m": model})
    assert "ddp_fork" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(LaunchError, match=r"^function, a function .*<lambda>"):
        launcher.launch(lambda: None)
    with pytest.raises(LaunchError, match="Holder"):
        launcher.launch(print, holder)
    assert not started


def test_functions_of_a_typed_program_cannot_be_spawned(program):
    source = START + "def work(e): return 1\nprint(launch(work))\n"
    program.write(source)
    code = f"import sys; sys.argv[1:] = ['spawn']; exec(open({str(program.path)!r}).read())"
    process = program.start(command=("-c", code))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "cannot find what the run uses" in err
    assert "ddp_notebook" in err
    assert err.count("\n") == 1


def test_fork_takes_what_cannot_be_pickled(program):
    done = program.run(START + "print(launch(lambda e, f: f(total(e)), lambda x: x + 1))", "fork")
    assert (done.returncode, done.stdout, done.stderr) == (0, "4.0\n", "")


def test_fork_after_cuda_is_refused_with_the_cause(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    launcher = MultiProcessingLauncher(LocalEnvironment({}), 2, "fork")
    with pytest.raises(LaunchError, match="has initialised it already"):
        launcher.launch(print)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_fork_after_real_cuda_is_refused():
    torch.zeros(1, device="cuda")
    with pytest.raises(LaunchError, match="has initialised it already"):
        MultiProcessingLauncher(LocalEnvironment({}), 2, "fork").launch(print)


def test_an_unknown_start_method_is_refused():
    with pytest.raises(ConfigurationError, match="start_method='forkserver'"):
        MultiProcessingLauncher(LocalEnvironment({}), 2, "forkserver")
