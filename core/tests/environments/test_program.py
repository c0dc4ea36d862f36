from __future__ import annotations

import subprocess
import sys

import pytest

from torchrelay.environments.program import Program


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("train.py --lr 1", "torchrun --nnodes 2 train.py --lr 1"),
        ("-m pkg.train a", "torchrun --nnodes 2 -m pkg.train a"),
        # What is no script cannot be started again; nor does torchrelay's own command train.
        ("-c print(1) a", "torchrun --nnodes 2 train.py"),
        ("", "torchrun --nnodes 2 train.py"),
        ("/usr/bin/torchrelay explain --num-nodes 2", "torchrun --nnodes 2 train.py"),
        ("-m torchrelay explain", "torchrun --nnodes 2 train.py"),
    ],
)
def test_the_command_for_torchrun(words, command):
    assert Program.parse(["python", *words.split()]).torchrun("--nnodes 2") == command


@pytest.mark.parametrize(
    ("words", "options", "target", "arguments"),
    [
        ("train.py --lr 1", (), ("train.py",), ("--lr", "1")),
        (
            "-u -X dev -Werror train.py -m",
            ("-u", "-X", "dev", "-W", "error"),
            ("train.py",),
            ("-m",),
        ),
        ("-m pkg.train -c x", (), ("-m", "pkg.train"), ("-c", "x")),
        ("-um pkg.train", ("-u",), ("-m", "pkg.train"), ()),
        ("-Bumpkg a", ("-Bu",), ("-m", "pkg"), ("a",)),
        ("-c print(1) a", (), ("-c", "print(1)"), ("a",)),
        (
            "--check-hash-based-pycs always train.py",
            ("--check-hash-based-pycs", "always"),
            ("train.py",),
            (),
        ),
        ("-- -odd.py x", (), ("-odd.py",), ("x",)),
        ("-u - a", ("-u",), (), ("a",)),
        ("-i", ("-i",), (), ()),
    ],
)
def test_a_command_line_is_taken_apart(words, options, target, arguments):
    assert Program.parse(["python", *words.split()]) == Program(options, target, arguments)


def test_the_real_interpreter_agrees(tmp_path):
    script = tmp_path / "show.py"
    script.write_text(
        "import sys\n"
        "from torchrelay.environments.program import Program\n"
        "program = Program.current()\n"
        "print(program.target[-1] == sys.argv[0], list(program.arguments) == sys.argv[1:])\n"
    )
    command = [sys.executable, "-Xutf8", "-uB", "-Wdefault", str(script), "-m", "x", "--", "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "True True\n"


@pytest.mark.parametrize("how", ["script", "module"])
def test_the_starting_folder_is_found_after_the_program_has_left_it(tmp_path, how):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "prog.py").write_text(
        "import os\n"
        "from torchrelay.environments.program import Program, start_directory\n"
        "os.chdir('/')\n"
        "print(start_directory(Program.current()))\n"
    )
    target = ["inner/prog.py"] if how == "script" else ["-m", "inner.prog"]
    done = subprocess.run(
        [sys.executable, *target], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.stdout.strip() == str(tmp_path), done.stderr
