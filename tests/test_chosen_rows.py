"""Chosen rows: the same source to a collection, and only some of its rows."""

from __future__ import annotations

from contextlib import closing

import pytest

from datasette_embed.chosen_rows import ChosenRows
from datasette_embed.database import open_database
from datasette_embed.sources import Source, SourceSpec
from tests.storage import make_docs


@pytest.mark.parametrize("only", [set(), {"0"}, {"3", "9", "99", "1,2"}, set(map(str, range(10)))])
def test_chosen_rows_yields_those_with_the_ids(tmp_path, only):
    """In windows no larger than asked; a window without any is left out."""
    path = make_docs(tmp_path / "a.db", [(n, f"text {n}") for n in range(10)])
    with closing(open_database(path)) as conn:
        whole = Source(conn, SourceSpec(table="docs", columns=("body",)), str(path))
        chosen = ChosenRows(whole, frozenset(only))
        windows = list(chosen.iter_windows(4))
        assert all(0 < len(window) <= 4 for window in windows)
        found = {row.entry_id: row.content for window in windows for row in window}
        assert found == {str(n): f"text {n}" for n in range(10) if str(n) in only}
        for name in ("path", "name", "definition", "is_binary"):
            assert getattr(chosen, name) == getattr(whole, name)
