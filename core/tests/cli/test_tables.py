from __future__ import annotations

from torchrelay.cli.tables import Table, plain, show

TABLE = Table("Things", ("name", "why"), [("a", "because"), ("longer", "")])


def test_columns_are_aligned_and_nothing_is_cut():
    assert plain(TABLE) == "Things\nname    why\na       because\nlonger"


def test_tables_without_rows_are_not_shown(capsys):
    show([TABLE, Table("Empty", ("x",), []), TABLE])
    assert capsys.readouterr().out == f"{plain(TABLE)}\n\n{plain(TABLE)}\n"
