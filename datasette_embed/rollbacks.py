"""Rollbacks: what SQLite says to a reader while a writer undoes what it wrote.

Layer 0: imports nothing of ours.
"""

from __future__ import annotations

#: https://sqlite.org/rescode.html#readonly_rollback
_READONLY_ROLLBACK = 776


def is_rollback(error: BaseException) -> bool:
    """Say whether SQLite took another connection's rollback for that of a killed program.

    A connection that may not write sees a journal, and by the time it looks for the lock the
    writer has rolled back, deleted the journal and let go. SQLite then assumes that the
    journal was left behind, which only a writer may undo, and says "attempt to write a
    readonly database" to one that only reads. A moment later all is well.
    """
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # pysqlite3 of old; a real attempt to write has the same words
        return "readonly database" in str(error)
    return bool(code == _READONLY_ROLLBACK)
