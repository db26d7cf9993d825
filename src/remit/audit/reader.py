"""The reading side of a trail in SQLite: for `verify`, `tail` and proofs."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from remit.audit.sqlite import HEAD, STORAGE_ERRORS, Tampered, check_file, connect, storage_error
from remit.audit.tree import STORED_LEVELS, Edge, leaf_hash

__all__ = ["Reader"]


class Reader:
    """The reading side: never writes, never waits for a writer. A context manager.

    Raises:
        AuditError: from every method, where the file cannot be read or is damaged.
    """

    def __init__(self, path: Path) -> None:
        check_file(path)
        self.path = path
        try:
            try:
                self._connection = connect(path, "mode=ro", 5000)
            except sqlite3.OperationalError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF not in (
                    sqlite3.SQLITE_CANTOPEN,
                    sqlite3.SQLITE_READONLY,
                ):
                    raise
                # A WAL needs its shared memory beside it, which a read-only folder cannot hold (sqlite.org/wal.html,
                # "read-only databases"). Without a WAL, nobody is writing, and the file alone is the whole trail.
                wal = Path(f"{path}-wal")
                if wal.exists() and wal.stat().st_size:
                    raise
                self._connection = connect(path, "mode=ro&immutable=1", 5000)
        except STORAGE_ERRORS as error:
            raise storage_error(error, path) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """One state of the trail for all that is read inside, whatever is appended meanwhile."""
        self._rows("BEGIN")
        try:
            yield
        finally:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def identity(self) -> tuple[str, str]:
        """Origin and verifier key, as the trail itself says them."""
        row = self._row("SELECT origin, verifier FROM trail")
        if row is None or not all(isinstance(field, str) for field in row):
            raise Tampered(f"the audit trail `{self.path}` has lost its name", path=str(self.path))
        return row[0], row[1]

    def head(self) -> tuple[int, bytes] | None:
        """Size and right edge as the file says them; not checked, and of any type."""
        row = self._row(HEAD)
        return None if row is None else (row[0], row[2])

    def records(self, start: int | None = None, end: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Number and bytes of the events, start <= number < end, in order, streaming; all where a bound is None."""
        low, high = -(1 << 63) if start is None else start, (1 << 63) - 1 if end is None else end - 1
        return self._rows("SELECT seq, record FROM event WHERE seq BETWEEN ? AND ? ORDER BY seq", (low, high))

    def newest(self, last: int) -> Generator[tuple[int, bytes], None, None]:
        """Number and bytes of the events up to number `last`, newest first, streaming."""
        return self._rows("SELECT seq, record FROM event WHERE seq <= ? ORDER BY seq DESC", (last,))

    def last(self) -> int:
        """The number of the newest event, 0 where there is none."""
        row = self._row("SELECT max(seq) FROM event")
        return int(row[0]) if row and row[0] is not None else 0

    def notes(self) -> Iterator[tuple[int, str]]:
        """Size and note of the checkpoints in the file, by size, streaming; not checked."""
        return self._rows("SELECT size, note FROM checkpoint ORDER BY size")

    def nodes(self) -> Iterator[tuple[int, int, bytes]]:
        """Level, position and hash of the stored nodes; not checked."""
        return self._rows("SELECT level, position, hash FROM node ORDER BY (position + 1) << level, level")

    def changes(self) -> int:
        """A number that changes when another process writes."""
        row = self._row("PRAGMA data_version")
        return int(row[0]) if row else 0

    def range_hash(self, start: int, end: int) -> bytes:
        """The root over the leaves start <= index < end (from 0), for proofs: at most 256 rows a level are read.

        `start` must be where a subtree of at least that many leaves begins, as it is in every proof.
        """
        edge = Edge()
        width = 1 << STORED_LEVELS
        if end - start < width:
            for _, data in self.records(start + 1, end + 1):
                edge.append(leaf_hash(data))
        else:
            # The widest stored level that fits; what is beyond its last whole node is a narrower range of its own.
            level = STORED_LEVELS
            while end - start >= 1 << (level + STORED_LEVELS):
                level += STORED_LEVELS
            low, high = start >> level, end >> level
            query = "SELECT hash FROM node WHERE level = ? AND position >= ? AND position < ? ORDER BY position"
            roots = [row[0] for row in self._rows(query, (level, low, high))]
            if len(roots) != high - low:
                raise Tampered(f"the audit trail `{self.path}` has lost nodes of its tree", path=str(self.path))
            for root in roots:
                edge.append(root)
            rest = high << level
            if rest < end:
                return edge.root(self.range_hash(rest, end))
            return edge.root()
        if edge.size != end - start:
            raise Tampered(f"the audit trail `{self.path}` has lost events", path=str(self.path))
        return edge.root()

    def _row(self, query: str) -> tuple[Any, ...] | None:
        with contextlib.closing(self._rows(query)) as rows:
            return next(rows, None)

    def _rows(self, query: str, arguments: Sequence[int] = ()) -> Generator[Any, None, None]:
        """Run the query now; the rows come as they are asked for. Until the last, or `close()`, a snapshot is kept."""
        try:
            cursor = self._connection.execute(query, arguments)
        except STORAGE_ERRORS as error:
            raise storage_error(error, self.path) from error

        def rows() -> Generator[Any, None, None]:
            try:
                # `yield from` would close the cursor with the generator, which a closed connection does not allow.
                for row in cursor:  # noqa: UP028 - see above
                    yield row
            except STORAGE_ERRORS as error:
                raise storage_error(error, self.path) from error

        return rows()
