from __future__ import annotations

import os
import subprocess
import sys

import pytest

from torchrelay import cli
from torchrelay.plugin.scan import core_version

if sys.platform == "win32":
    resource = None
else:
    import resource


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"torchrelay {core_version()}\n"


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    listed = [line.split()[0] for line in out.splitlines() if line.startswith("    ")]
    assert [word for word in listed if word in cli.COMMANDS] == [*cli.COMMANDS]


@pytest.mark.parametrize("argv", [[], ["lits"], ["list", "--yaml"]], ids=repr)
def test_a_wrong_command_line_is_exit_code_2(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2
    assert "torchrelay" in capsys.readouterr().err


@pytest.fixture
def fail_with(site, monkeypatch):
    """Makes a subcommand `fail` that raises something."""

    def make(error):
        site.write(
            "fail_command.py",
            f"""
            from torchrelay.errors import ConfigurationError

            def add(commands):
                commands.add_parser("fail").set_defaults(run=run)

            def run(arguments):
                raise {error}
            """,
        )
        monkeypatch.setattr(cli, "COMMANDS", {"fail": "fail_command"})

    return make


def test_a_users_error_is_one_line_and_exit_code_2(capsys, fail_with):
    fail_with("ConfigurationError('not\\nthat way')")
    assert cli.main(["fail"]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "torchrelay: error: not that way\n")


def test_a_bug_keeps_its_traceback(fail_with):
    fail_with("ZeroDivisionError('bug')")
    with pytest.raises(ZeroDivisionError, match=r"bug"):
        cli.main(["fail"])


def test_only_the_command_that_is_asked_for_is_imported():
    code = (
        "import sys; from torchrelay.cli import main; main(['explain', '--accelerator', 'cpu'])\n"
        "print(sorted(n for n in sys.modules if n.startswith('torchrelay.cli.')), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "['torchrelay.cli.explain'] False"


def test_a_reader_that_has_seen_enough_gets_no_traceback(site):
    for number in range(2000):
        site.distribution(f"acme-{number:04}", "1", f"[torchrelay]\nx{number} = nothing\n")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site.path), *sys.path])}
    command = [sys.executable, "-m", "torchrelay.cli", "list"]
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        process.stderr.close()
        assert process.wait() == 1


def cpu_seconds(*command):
    """The least that a command computes of five times; others are at work on the machine too."""
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


@pytest.mark.skipif(resource is None, reason="needs getrusage")
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["--help"], ["list", "--json"], ["explain", "--accelerator", "cpu"]],
    ids=" ".join,
)
def test_commands_that_import_no_torch_are_quick(arguments):
    """The bound is 0.3 s where starting Python takes 20 ms, and grows with that on a slower machine."""
    command = cpu_seconds("-m", "torchrelay.cli", *arguments)
    assert command < 0.3 * max(1.0, cpu_seconds("-c", "pass") / 0.02)
