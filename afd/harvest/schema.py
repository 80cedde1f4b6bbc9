"""SQLite schema and transactions of the ledger, `<store>/harvest/ledger.sqlite`.

sqlite rather than JSON lines, since "spent + reserved + next never exceeds the cap" and "one owner
an order" are statements about many rows, and its transactions hold between processes and through a
kill. A rollback journal rather than WAL: WAL needs shared memory, which network disks do not have.
Every commit is fsynced (synchronous=FULL): a row is on the disk before its POST leaves.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from afd.store import StoreError

VERSION = 1
PATIENCE_S = 60.0  # another process's transaction takes milliseconds
SCHEMA = """
CREATE TABLE owners (
    id TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, created REAL NOT NULL,
    beat_at REAL NOT NULL
);
CREATE TABLE asked (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, provider TEXT NOT NULL,
    model TEXT NOT NULL, content TEXT NOT NULL
);
CREATE TABLE orders (
    key TEXT PRIMARY KEY,
    slot TEXT NOT NULL, attempt INTEGER NOT NULL, asked INTEGER NOT NULL REFERENCES asked (id),
    provider TEXT NOT NULL, model TEXT NOT NULL,
    prompt TEXT NOT NULL, prompt_id TEXT NOT NULL, category TEXT, sample INTEGER NOT NULL,
    state TEXT NOT NULL, vendor_state TEXT, reason TEXT,
    task_id TEXT, poll_url TEXT, owner TEXT,
    reserved INTEGER NOT NULL DEFAULT 0, spent INTEGER NOT NULL DEFAULT 0,
    returned_seed INTEGER, facts TEXT,
    planned_at REAL NOT NULL, submitted_at REAL, finished_at REAL,
    UNIQUE (slot, attempt)
) WITHOUT ROWID;
CREATE INDEX orders_by_state ON orders (provider, model, state);
CREATE INDEX orders_by_owner ON orders (owner) WHERE owner IS NOT NULL;
CREATE UNIQUE INDEX orders_by_task ON orders (provider, task_id) WHERE task_id IS NOT NULL;
CREATE TABLE totals (provider TEXT PRIMARY KEY, reserved INTEGER NOT NULL, spent INTEGER NOT NULL);
CREATE TRIGGER orders_paid AFTER UPDATE OF reserved, spent ON orders BEGIN
    INSERT OR IGNORE INTO totals VALUES (new.provider, 0, 0);
    UPDATE totals SET reserved = reserved + new.reserved - old.reserved,
        spent = spent + new.spent - old.spent
    WHERE provider = new.provider;
END;
CREATE TRIGGER orders_unpaid BEFORE INSERT ON orders WHEN new.reserved OR new.spent BEGIN
    SELECT RAISE(ABORT, 'an order begins without money');
END;
CREATE TRIGGER orders_kept BEFORE DELETE ON orders BEGIN
    SELECT RAISE(ABORT, 'orders are never deleted: they say what was paid');
END;
"""


class LedgerError(StoreError):
    """The ledger cannot be read or written; the text names file, reason and cure."""


def ledger_path(root: Path) -> Path:
    """Return the path of a store's ledger."""
    return root / "harvest" / "ledger.sqlite"


def connect(path: Path) -> sqlite3.Connection:
    """Open the ledger; create it if it does not exist. Errors: LedgerError."""
    with ledger_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = TRUNCATE")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -65536")  # 64 MB: 100,000 rows in 1 s, not 4
        with transaction(connection):
            (found,) = connection.execute("PRAGMA user_version").fetchone()
            if found == 0:
                for statement in _statements(SCHEMA):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {VERSION}")
        if found not in (0, VERSION):
            connection.close()
            raise LedgerError(
                f"{path}: written by another version of AFD (schema {found}, here {VERSION}); "
                "nothing was changed: use the version that wrote it"
            )
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit all writes inside, or none; one writer at a time over all processes."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # sqlite rolls back by itself when the disk is full
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


@contextlib.contextmanager
def savepoint(connection: sqlite3.Connection) -> Iterator[None]:
    """Keep all writes inside, or none; the transaction around goes on either way."""
    connection.execute("SAVEPOINT one")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK TO one")
            connection.execute("RELEASE one")
        raise
    connection.execute("RELEASE one")


@contextlib.contextmanager
def ledger_errors(path: Path) -> Iterator[None]:
    """Raise LedgerError with a cure for errors of sqlite and the disk."""
    try:
        yield
    except OSError as error:
        raise LedgerError(f"{path}: {error.strerror}; {_CLIPS_ARE_SAFE}") from error
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
            raise  # a bug
        reason = _REASONS.get(error.sqlite_errorcode & 0xFF, str(error))
        raise LedgerError(f"{path}: {reason}; {_CLIPS_ARE_SAFE}") from error


_CLIPS_ARE_SAFE = "every finished clip is kept, and the same command goes on"
_REASONS = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space",
    sqlite3.SQLITE_READONLY: "it cannot be written; make the file and its folder writable",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; make its folder readable and writable",
    sqlite3.SQLITE_BUSY: f"another process has held it for {PATIENCE_S:.0f} s; stop that one",
    sqlite3.SQLITE_CORRUPT: "it is damaged; restore it from a backup (move it away only if you "
    "know that no paid task is open: what stands in clips/ is found without it)",
    sqlite3.SQLITE_NOTADB: "it is not a ledger; restore it from a backup",
    sqlite3.SQLITE_IOERR: "the disk failed to read or write it; see `df -h` and the system's log",
}


def _statements(script: str) -> Iterator[str]:
    """Yield single statements: `executescript` would commit the transaction around it."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
