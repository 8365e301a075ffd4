"""Triggers on a watched table, which note the keys of its rows that change.

Layer 3: imports ``database`` and ``schema``. They touch plain tables only and run on SQLite
3.34, so that every tool can go on writing the table. What is done about a noted key belongs
in the layers above.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from . import schema
from .database import quoted, sqlite3

#: How the name of every such trigger begins; the number of the collection follows.
PREFIX = "_embed_watch_"
#: Noted in place of a key: compare every row.
EVERYTHING = ""
#: Names of the row number, which no column has to have.
ROWIDS = ("rowid", "_rowid_", "oid")
#: The triggers every watched table has.
_NEEDED = ("inserted", "updated", "deleted")


def create_triggers(
    conn: sqlite3.Connection,
    collection_id: int,
    table: str,
    key_column: str | None,
    columns: Sequence[str] | None,
) -> None:
    """Make the triggers of a collection anew, in the caller's transaction.

    Args:
        table: the table to watch.
        key_column: the column that is the entry's id; None where several are, and any change
            means to compare every row.
        columns: those whose change matters; None: any.
    """
    drop_triggers(conn, collection_id)
    for statement in _statements(conn, collection_id, table, key_column, columns):
        conn.execute(statement)


def drop_triggers(conn: sqlite3.Connection, collection_id: int) -> int:
    """Drop the triggers of a collection, whatever table they are on. Returns how many."""
    names = [name for name, owner, _ in list_triggers(conn) if owner == collection_id]
    for name in names:
        conn.execute(f"drop trigger {quoted(name)}")
    return len(names)


def list_triggers(conn: sqlite3.Connection) -> list[tuple[str, int, str]]:
    """Return (name, collection id, table) of every trigger of this kind in the file."""
    rows = conn.execute(
        "select name, tbl_name from sqlite_master where type = 'trigger'"
        " and substr(name, 1, ?) = ? order by name",
        (len(PREFIX), PREFIX),
    )
    found = []
    for name, table in rows:
        number = str(name)[len(PREFIX) :].partition("_")[0]
        if number.isdecimal() and number.isascii():
            found.append((str(name), int(number), str(table)))
    return found


def has_wanted_triggers(
    conn: sqlite3.Connection,
    collection_id: int,
    table: str,
    key_column: str | None,
    columns: Sequence[str] | None,
) -> bool:
    """Say whether the triggers of a collection are those ``create_triggers`` would make now.

    They are others after an index was added, which makes more rows be replaced.
    """
    rows = conn.execute(
        "select sql from sqlite_master where type = 'trigger' and substr(name, 1, ?) = ?"
        " and tbl_name = ? collate nocase",
        (len(f"{PREFIX}{collection_id}_"), f"{PREFIX}{collection_id}_", table),
    ).fetchall()
    wanted = _statements(conn, collection_id, table, key_column, columns)
    # SQLite keeps the statement as it was, but for its first two words.
    first = len("create trigger ")
    return {str(sql)[first:] for (sql,) in rows} == {statement[first:] for statement in wanted}


def drop_failing_triggers(conn: sqlite3.Connection) -> int:
    """Drop every trigger whose tables are gone, so that its table can be written again.

    Runs in the caller's transaction. Returns how many there were.
    """
    if has_watch_tables(conn):
        return 0
    owners = {owner for _, owner, _ in list_triggers(conn)}
    return sum(drop_triggers(conn, owner) for owner in owners)


def has_triggers(conn: sqlite3.Connection, collection_id: int, table: str) -> bool:
    """Say whether the triggers of a collection are on its table; a rebuilt table lost them."""
    present = {
        name.rpartition("_")[2]
        for name, owner, where in list_triggers(conn)
        if owner == collection_id and where.lower() == table.lower()
    }
    return present.issuperset(_NEEDED)


def _statements(
    conn: sqlite3.Connection,
    collection_id: int,
    table: str,
    key_column: str | None,
    columns: Sequence[str] | None,
) -> Iterator[str]:
    """Yield one ``create trigger`` after the other."""
    start = f"create trigger {PREFIX}{collection_id}_"
    # Where another tool deleted the collection, nothing is noted for nobody.
    guard = f"exists (select 1 from _embed_watches where collection_id = {collection_id})"
    key = {row: _key(row, key_column) for row in ("old", "new", "other")}
    on = f"on {quoted(table)} when {guard}"

    def note(row: str) -> str:
        return _note(collection_id, f"select {key[row]} as key")

    yield f"{start}inserted after insert {on} begin\n{note('new')}end"
    yield f"{start}deleted after delete {on} begin\n{note('old')}end"
    changed = "" if columns is None else f" and ({' or '.join(map(_differs, columns))})"
    yield f"{start}updated after update {on}{changed} begin\n{note('new')}end"
    if key_column is None:
        return
    moved = f"{key['old']} is not {key['new']} collate binary"
    yield f"{start}moved after update {on} and {moved} begin\n{note('old')}end"
    # A row that goes because it was in the way of another one (OR REPLACE) fires no deletion.
    others = _others(conn, table, key_column)
    if others:
        for name, event, row in (("replaced", "insert", "new"), ("displaced", "update", "old")):
            notes = "".join(
                _note(
                    collection_id,
                    f"select {key['other']} as key from {quoted(table)} as other where {same}"
                    f" and {key['other']} is not {key[row]} collate binary"
                    if same
                    else f"select '{EVERYTHING}' as key",
                )
                for same in others
            )
            yield f"{start}{name} before {event} {on} begin\n{notes}end"


def _key(row: str, key_column: str | None) -> str:
    """Return the SQL of the entry id of a row: what ``sources.entry_id_of`` makes of it.

    A real number is written differently by Python and by SQLite, and NULL or a BLOB is no
    id: those stand for every row.
    """
    if key_column is None:
        return f"'{EVERYTHING}'"
    column = f"{row}.{_expression(key_column)}"
    return (
        f"case typeof({column}) when 'integer' then cast({column} as text)"
        f" when 'text' then {column} else '{EVERYTHING}' end"
    )


def _expression(column: str) -> str:
    return column if column in ROWIDS else quoted(column)


def _note(collection_id: int, keys: str) -> str:
    """Return the statements that note the keys a query returns (its column ``key``).

    No upsert and no "insert or replace": the conflict rule of the statement that fired the
    trigger would override it.
    """
    return (
        f"  delete from _embed_changes where collection_id = {collection_id}"
        f" and key in (select key from ({keys}));\n"
        f"  insert into _embed_changes (collection_id, key, change)"
        f" select {collection_id}, key, random() from ({keys});\n"
    )


def _differs(column: str) -> str:
    """Return the condition that a column was changed, whatever its collation takes as equal."""
    old, new = f"old.{_expression(column)}", f"new.{_expression(column)}"
    return f"{old} is not {new} collate binary or typeof({old}) is not typeof({new})"


def _others(conn: sqlite3.Connection, table: str, key_column: str) -> list[str]:
    """Return, for each key of a table, the condition that a row ``other`` has that of the new one.

    One is empty where it cannot be told which row that is: the key is an expression, or holds
    for some rows only.
    """
    found = set()
    has_key = False
    rows = conn.execute(
        'select name, origin, partial from pragma_index_list(?) where "unique"', (table,)
    ).fetchall()
    for index, origin, is_partial in rows:
        has_key |= origin == "pk"
        parts = conn.execute(
            "select name, coll from pragma_index_xinfo(?) where key order by seqno", (index,)
        ).fetchall()
        if is_partial or any(name is None for name, _ in parts):
            return [""]
        # Two ids that the key takes as one are two entries, unless it compares their bytes.
        if [(name, coll.lower()) for name, coll in parts] != [(key_column, "binary")]:
            found.add(
                " and ".join(
                    f"other.{quoted(name)} = new.{quoted(name)} collate {quoted(coll)}"
                    for name, coll in parts
                )
            )
    number = _row_number(conn, table, has_key)
    if number and key_column not in (number, *ROWIDS):
        found.add(f"other.{_expression(number)} = new.{_expression(number)}")
    return sorted(found)


def _row_number(conn: sqlite3.Connection, table: str, has_key: bool) -> str | None:
    """Return the column that is a table's row number, or its name; None without one.

    Args:
        has_key: whether the primary key has an index of its own, so is not the number.
    """
    columns = conn.execute("select name, pk from pragma_table_info(?)", (table,)).fetchall()
    keys = [str(name) for name, place in columns if place]
    if keys and not has_key:
        return keys[0]
    names = {str(name).lower() for name, _ in columns}
    for alias in ROWIDS:
        if alias not in names:
            try:
                conn.execute(f"select {alias} from {quoted(table)} limit 0")
            except sqlite3.OperationalError:
                return None  # WITHOUT ROWID
            return alias
    return None


def has_watch_tables(conn: sqlite3.Connection) -> bool:
    """Say whether the file has the tables these triggers write; an earlier version had none."""
    return schema.has_table(conn, "_embed_watches") and schema.has_table(conn, "_embed_changes")
