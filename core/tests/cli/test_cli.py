from __future__ import annotations

import pytest

from torchrelay import cli
from torchrelay.errors import ConfigurationError
from torchrelay.plugin.scan import core_version


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
    for command in cli.COMMANDS:
        assert f"    {command.__name__.rpartition('.')[2]} " in out


@pytest.mark.parametrize("argv", [[], ["lits"], ["list", "--yaml"]], ids=repr)
def test_a_wrong_command_line_is_exit_code_2(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2
    assert "torchrelay" in capsys.readouterr().err


def failing(error):
    """A subcommand `fail` that raises `error`."""

    class Command:
        @staticmethod
        def add(commands):
            def run(arguments):
                raise error

            commands.add_parser("fail").set_defaults(run=run)

    return Command


def test_a_users_error_is_one_line_and_exit_code_2(capsys, monkeypatch):
    monkeypatch.setattr(cli, "COMMANDS", (failing(ConfigurationError("not\nthat way")),))
    assert cli.main(["fail"]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "torchrelay: error: not that way\n")


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "COMMANDS", (failing(ZeroDivisionError("bug")),))
    with pytest.raises(ZeroDivisionError, match=r"bug"):
        cli.main(["fail"])
