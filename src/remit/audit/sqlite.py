"""The trail in one SQLite file (WAL): `Store` appends; `reader.Reader` reads.

Tables: `event` (the exact bytes, by number from 1), `head` (size and right edge of the tree: read and advanced in one
BEGIN IMMEDIATE, which is what lets several processes append), `node` (roots of whole subtrees of 2**8, 2**16 leaves),
`checkpoint` (signed notes) and `trail` (origin and verifier key, as the trail itself says them: believed in nothing).

The schema must be to the letter the one below: a trigger or a view that somebody added could drop or fake events.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from remit.audit.keys import sync_folder
from remit.audit.record import MAX_RECORD, Draft
from remit.audit.tree import Edge, leaf_hash
from remit.errors import AuditError

__all__ = ["HEAD", "STORAGE_ERRORS", "Head", "Store", "Tampered", "check_file", "connect", "storage_error"]

_APPLICATION_ID = 0x72656D74  # "remt", in the file's header
_USER_VERSION = 1
_MAGIC = b"SQLite format 3\x00"
_SCHEMA = (
    "CREATE TABLE trail (one INTEGER PRIMARY KEY CHECK (one = 1), origin TEXT NOT NULL, verifier TEXT NOT NULL)",
    "CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), size INTEGER, signed INTEGER, edge BLOB)",
    "CREATE TABLE event (seq INTEGER PRIMARY KEY, record BLOB NOT NULL CHECK (typeof(record) = 'blob'))",
    "CREATE TABLE node (level INTEGER, position INTEGER, hash BLOB, PRIMARY KEY (level, position)) WITHOUT ROWID",
    "CREATE TABLE checkpoint (size INTEGER PRIMARY KEY, note TEXT NOT NULL)",
)

HEAD = "SELECT size, signed, edge FROM head WHERE one = 1"
_ADVANCE = "UPDATE head SET size = ?, edge = ? WHERE one = 1"
_EVENT = "INSERT INTO event (seq, record) VALUES (?, ?)"
_NODE = "INSERT INTO node (level, position, hash) VALUES (?, ?, ?)"

_WAL_PAGES = 1000  # fold the WAL back into the file at about so many pages (SQLite's own default)
_WAL_PAGES_TOO_MANY = 16_000  # 64 MiB: other processes never left a gap; wait for one
_PAGE = 4096


class Tampered(AuditError):
    """The file is not what this process last left: it was changed, replaced or cut by something else."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where the trail stands: the number of events, how many a checkpoint in the file covers, and the root."""

    size: int
    signed: int
    root: bytes


STORAGE_ERRORS = (sqlite3.Error, OSError, UnicodeDecodeError)
"""What comes out of the file's use. The last: SQLite's message about a damaged schema quotes its bytes."""


def storage_error(error: Exception, path: Path) -> AuditError:
    """What went wrong with the file, in words: one reason and one remedy for each kind of failure."""
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return AuditError(
            f"the audit trail `{path}` cannot be used: {error.strerror}",
            path=str(path),
            remedy=_SPACE if full else "use a folder and a file that this user can write",
            retryable=full,
        )
    damaged = sqlite3.SQLITE_CORRUPT if isinstance(error, UnicodeDecodeError) else sqlite3.SQLITE_ERROR
    code = getattr(error, "sqlite_errorcode", damaged) & 0xFF
    reason, remedy, retryable = _FAILURES.get(code, (f"failed: {error}", "look at the file and its disk", False))
    kind = Tampered if code in _DAMAGE else AuditError
    return kind(f"the audit trail `{path}` {reason}", path=str(path), remedy=remedy, retryable=retryable)


_SPACE = "free some space, or name a trail on another disk"
_FAILURES = {
    sqlite3.SQLITE_BUSY: (
        "is locked by another process",
        "end what holds it open in a transaction (a backup, a database tool)",
        True,
    ),
    sqlite3.SQLITE_LOCKED: ("is locked by another connection", "end what holds it open in a transaction", True),
    sqlite3.SQLITE_READONLY: ("is read-only", "make the file and its folder writable, or name another trail", False),
    sqlite3.SQLITE_PERM: ("is not this user's to write", "make it writable, or name another trail", False),
    sqlite3.SQLITE_CANTOPEN: (
        "cannot be opened",
        "use a folder and a file that this user can read and write",
        False,
    ),
    sqlite3.SQLITE_FULL: ("is on a disk that is full", _SPACE, True),
    sqlite3.SQLITE_IOERR: (
        "could not be read or written (disk full, quota, file size limit or a failing disk)",
        "free some space, raise the limit, or look at the disk",
        True,
    ),
    sqlite3.SQLITE_CORRUPT: (
        "is damaged",
        "keep the file, run `remit audit verify` on it, and begin a new trail at another path",
        False,
    ),
    sqlite3.SQLITE_TOOBIG: ("holds a record that is too large to be one", "keep the file to look into", False),
    sqlite3.SQLITE_NOTADB: ("is not an audit trail", "name another path; this file was left as it is", False),
}


_DAMAGE = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH})


def _text(data: bytes) -> str:
    """A TEXT of the file. What is not UTF-8 was not written by remit, and is found wrong where it is looked at."""
    return data.decode("utf-8", "replace")


def _script(connection: sqlite3.Connection, text: str) -> None:
    """Run a PRAGMA that acts while it is compiled: taken from the cache of statements, it might not act again."""
    connection.executescript(text)


def connect(path: Path, options: str, busy_ms: int) -> sqlite3.Connection:
    """A connection to a trail, its schema checked; `options` are those of an SQLite URI.

    Raises:
        AuditError: other tables than a trail has.
        sqlite3.Error: as SQLite says.
    """
    # check_same_thread: opened by the caller, used by the writer thread only.
    connection = sqlite3.connect(
        f"file:{quote(os.fspath(path.absolute()))}?{options}",
        uri=True,
        isolation_level=None,
        timeout=busy_ms / 1000,
        check_same_thread=False,
    )
    try:
        connection.text_factory = _text
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2 * MAX_RECORD)
        _script(connection, "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;")
        _check_schema(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def check_file(path: Path) -> None:
    """Refuse what is not a trail before SQLite sees it: it takes an empty file for a new database.

    Raises:
        AuditError: not a file, empty, or of another kind.
    """
    try:
        if not path.is_file():
            raise AuditError(f"`{path}` is not a file", path=str(path), remedy="name the file of an audit trail")
        with path.open("rb") as file:
            header = file.read(72)
    except OSError as error:
        raise storage_error(error, path) from error
    if not header:
        raise Tampered(
            f"the audit trail `{path}` is empty: a trail never is, so it was emptied or was never one",
            path=str(path),
            remedy="move it away to begin a new trail; compare with the second place first, if there is one",
        )
    if not header.startswith(_MAGIC) or header[68:72] != _APPLICATION_ID.to_bytes(4, "big"):
        raise AuditError(
            f"`{path}` is not an audit trail",
            path=str(path),
            remedy="name another path; this file was left as it is",
        )


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != _USER_VERSION:
        raise AuditError(
            f"the audit trail `{path}` has the format {version}; this version knows {_USER_VERSION}",
            path=str(path),
            remedy="use a newer remit" if version > _USER_VERSION else "name another path",
        )
    found = connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid").fetchall()
    if tuple(text for (text,) in found) != _SCHEMA:
        raise Tampered(
            f"the audit trail `{path}` has other tables, triggers or views than remit makes",
            path=str(path),
            remedy="keep the file to look into, and begin a new trail at another path",
        )


class Store:
    """The writing side of a trail that exists. Not thread-safe: one thread at a time; any number of processes.

    Raises:
        AuditError: it cannot be opened for writing, or is not a trail.
    """

    def __init__(self, path: Path, *, busy_ms: int) -> None:
        self.path = path
        self._busy_ms = busy_ms
        self._full: bool | None = None
        self._pages = 0
        self._edge = Edge()
        self._edge_bytes = b""
        self._files: tuple[tuple[int, int], ...] = ()
        self._origin = self._verifier = ""
        self._connection: sqlite3.Connection | None = self._connect()

    @property
    def origin(self) -> str:
        """The name of the trail."""
        return self._origin

    @property
    def verifier(self) -> str:
        """The verifier key with which the trail says it was begun."""
        return self._verifier

    @staticmethod
    def create(path: Path, origin: str, verifier: str, note: str) -> None:
        """Begin a trail, whole or not at all; where another process was quicker, its trail stands.

        Args:
            path: where; nothing may be there.
            origin: the name of the trail.
            verifier: its verifier key.
            note: the checkpoint of the empty tree.

        Raises:
            AuditError: it cannot be written there, or what is left of another trail is in the way.
        """
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # SQLite would play a left-over WAL into the new file. An empty one is what a reader leaves behind.
            if os.path.exists(f"{path}-wal") and os.path.getsize(f"{path}-wal") and not path.exists():
                raise Tampered(
                    f"the audit trail `{path}` is gone, but `{path}-wal` is still there",
                    path=str(path),
                    remedy="restore the trail, or move what is left of it away to begin a new one",
                )
            os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            try:
                with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as connection:
                    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                    connection.execute(f"PRAGMA user_version = {_USER_VERSION}")
                    connection.execute(f"PRAGMA page_size = {_PAGE}")
                    connection.execute("BEGIN IMMEDIATE")
                    for statement in _SCHEMA:
                        connection.execute(statement)
                    connection.execute("INSERT INTO trail VALUES (1, ?, ?)", (origin, verifier))
                    connection.execute("INSERT INTO head VALUES (1, 0, 0, x'')")
                    connection.execute("INSERT INTO checkpoint VALUES (0, ?)", (note,))
                    connection.execute("COMMIT")
                    connection.execute("PRAGMA journal_mode = WAL")
                with contextlib.suppress(FileExistsError):
                    os.link(draft, path)
            finally:
                for rest in ("", "-journal", "-wal", "-shm"):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(f"{draft}{rest}")
            sync_folder(path.parent)
        except STORAGE_ERRORS as error:
            raise storage_error(error, path) from error

    def append(self, drafts: Sequence[Draft], *, durable: bool) -> int:
        """Add events in one transaction: all of them or none.

        Args:
            drafts: the events, in order.
            durable: wait for the disk (fsync); else the events are the kernel's and survive this process only.

        Returns:
            The number of the first; the others follow it.

        Raises:
            AuditError: nothing was added; the next attempt may work.
        """
        with self._transaction(full=durable) as connection:
            head = connection.execute(HEAD).fetchone()
            edge = self._current(head).copy()
            first = edge.size + 1
            rows: list[tuple[int, bytes]] = []
            nodes: list[tuple[int, int, bytes]] = []
            pages = 3
            for sequence, draft in enumerate(drafts, first):
                data = draft.encode(sequence)
                rows.append((sequence, data))
                nodes += edge.append(leaf_hash(data))
                pages += len(data) // _PAGE
            if len(rows) == 1:
                connection.execute(_EVENT, rows[0])
            else:
                connection.executemany(_EVENT, rows)
                pages += len(rows) // 10
            if nodes:
                connection.executemany(_NODE, nodes)
            edge_bytes = edge.to_bytes()
            connection.execute(_ADVANCE, (edge.size, edge_bytes))
        self._edge, self._edge_bytes = edge, edge_bytes
        self._pages += pages
        return first

    def head(self) -> Head:
        """Where the trail stands.

        Raises:
            AuditError: it cannot be read.
        """
        connection = self._use()
        try:
            self._same_files()
            row = connection.execute(HEAD).fetchone()
            edge = self._current(row)
            return Head(edge.size, row[1], edge.root())
        except STORAGE_ERRORS as error:
            raise storage_error(error, self.path) from error

    def add_checkpoint(self, size: int, note: str) -> None:
        """Keep a signed head, and wait for the disk.

        It always waits: a checkpoint that has left for a second place while the events that it covers are lost with the
        power would make an honest trail look cut.

        Raises:
            AuditError: it was not kept.
        """
        with self._transaction(full=True) as connection:
            connection.execute("INSERT OR IGNORE INTO checkpoint VALUES (?, ?)", (size, note))
            connection.execute("UPDATE head SET signed = max(signed, ?) WHERE one = 1", (size,))
        self._pages += 2

    def last_note(self) -> tuple[int, str]:
        """Size and note of the widest checkpoint.

        Raises:
            AuditError: there is none, or it cannot be read.
        """
        connection = self._use()
        try:
            row = connection.execute("SELECT size, note FROM checkpoint ORDER BY size DESC LIMIT 1").fetchone()
        except STORAGE_ERRORS as error:
            raise storage_error(error, self.path) from error
        if row is None:
            raise self._tampered("has no checkpoint, not even its first")
        return int(row[0]), str(row[1])

    def fold(self) -> None:
        """Move what the WAL holds into the file once there is enough of it; call it when nobody waits.

        A failure loses nothing and shows at the next append: it is passed over here.
        """
        connection = self._connection
        if self._pages < _WAL_PAGES or connection is None:
            return
        self._pages = 0
        with contextlib.suppress(sqlite3.Error):
            _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if pages > _WAL_PAGES_TOO_MANY:
                busy = self._busy_ms
                self.set_busy(min(busy, 20))
                connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
                self.set_busy(busy)

    @property
    def wants_fold(self) -> bool:
        """Whether `fold` would do something."""
        return self._pages >= _WAL_PAGES

    def set_busy(self, busy_ms: int) -> None:
        """How long to wait for another process's lock, in milliseconds."""
        if busy_ms != self._busy_ms:
            self._busy_ms = busy_ms
            _script(self._use(), f"PRAGMA busy_timeout = {busy_ms}")

    def close(self) -> None:
        """Close the file; the last process to do so folds the WAL away."""
        self.release()

    def release(self) -> None:
        """Let go of the file until the next use: before a fork, as a child must not inherit SQLite's idea of locks."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _use(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        path = self.path
        check_file(path)
        try:
            connection = connect(path, "mode=rw", self._busy_ms)
            try:
                _script(connection, "PRAGMA wal_autocheckpoint = 0")  # the writer does it when nobody waits
                if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                    raise AuditError(
                        f"the audit trail `{path}` is on a file system without shared memory",
                        path=str(path),
                        remedy="name a trail on a local disk",
                    )
                name = connection.execute("SELECT origin, verifier FROM trail WHERE one = 1").fetchone()
                if name is None:
                    raise self._tampered("has lost its name")
                # Take the write lock once: whatever forbids writing is to be known now, not at the first event.
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("UPDATE head SET size = size WHERE one = 1")
                connection.execute("ROLLBACK")
                files = self._identify()
                # The WAL is another one where the last process to close the file folded it away.
                if self._files and (files[0] != self._files[0] or (self._origin, self._verifier) != name):
                    raise self._tampered("was deleted or replaced while in use")
            except BaseException:
                connection.close()
                raise
        except STORAGE_ERRORS as error:
            raise storage_error(error, path) from error
        self._files, self._full = files, None
        self._origin, self._verifier = str(name[0]), str(name[1])
        return connection

    @contextlib.contextmanager
    def _transaction(self, *, full: bool) -> Iterator[sqlite3.Connection]:
        connection = self._use()
        try:
            self._same_files()
            if full is not self._full:
                # Between transactions only (sqlite.org/pragma.html#pragma_synchronous); FULL syncs the WAL at a commit.
                _script(connection, f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")
                self._full = full
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except BaseException as error:
            if connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.IntegrityError):
                raise self._tampered("already holds an event behind its own head") from error
            if isinstance(error, STORAGE_ERRORS):
                raise storage_error(error, self.path) from error
            raise

    def _current(self, row: tuple[int, int, bytes] | None) -> Edge:
        """The right edge as the file has it: the one that we left, or one that another process advanced."""
        if row is None:
            raise self._tampered("has lost its head")
        size, _, data = row
        if data == self._edge_bytes and size == self._edge.size:
            return self._edge
        if size <= self._edge.size:
            raise self._tampered(f"was cut or changed while in use: it had {self._edge.size} events, now {size}")
        try:
            edge = Edge.parse(size, data)
        except (ValueError, TypeError) as error:
            raise self._tampered("has a head that is none") from error
        self._edge, self._edge_bytes = edge, data
        return edge

    def _identify(self) -> tuple[tuple[int, int], ...]:
        found = []
        for path in (self.path, f"{self.path}-wal"):
            status = os.stat(path)
            found.append((status.st_dev, status.st_ino))
        return tuple(found)

    def _same_files(self) -> None:
        """An open file that was deleted or replaced still takes writes, which nobody would ever read."""
        try:
            same = self._identify() == self._files
        except OSError:
            same = False
        if not same:
            raise self._tampered("was deleted or replaced while in use")

    def _tampered(self, what: str) -> Tampered:
        return Tampered(
            f"the audit trail `{self.path}` {what}",
            path=str(self.path),
            remedy="keep the file, run `remit audit verify` on it, and begin a new trail at another path",
        )
