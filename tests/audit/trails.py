"""Events and trails for the tests."""

from __future__ import annotations

import sqlite3
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import remit.audit
from remit.audit.checkpoint import Checkpoint
from remit.audit.keys import SigningKey
from remit.audit.reader import Reader
from remit.audit.record import draft
from remit.audit.tree import Edge, leaf_hash
from remit.audit.writer import Trail
from remit.model.event import SecurityEvent


def event(number: int = 0, **changes: Any) -> SecurityEvent:
    fields: dict[str, Any] = {
        "type": "call",
        "principal": "agent-1",
        "action": "word_count",
        "resource": f"/data/{number}",
        "result": "allowed",
    }
    return SecurityEvent(**{**fields, **changes})


def write(path: Path, count: int, **options: Any) -> None:
    with Trail.open(path, **options) as trail:
        for future in [trail.submit(event(number)) for number in range(count)]:
            future.result(30)


@contextmanager
def tampering(path: Path) -> Iterator[sqlite3.Connection]:
    """The file in the hands of somebody who can write it; what they do is folded into the one file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def records(path: Path) -> list[bytes]:
    with Reader(path) as reader:
        return [data for _, data in reader.records()]


def rehash(connection: sqlite3.Connection) -> Edge:
    """Make everything that is not signed fit the events again."""
    edge = Edge()
    connection.execute("DELETE FROM node")
    for (data,) in connection.execute("SELECT record FROM event ORDER BY seq").fetchall():
        for node in edge.append(leaf_hash(data)):
            connection.execute("INSERT INTO node VALUES (?, ?, ?)", node)
    connection.execute("UPDATE head SET size = ?, edge = ?", (edge.size, edge.to_bytes()))
    return edge


def resign(connection: sqlite3.Connection, origin: str, key: SigningKey) -> None:
    """Forge the checkpoints too, with a key."""
    edge = rehash(connection)
    connection.execute("DELETE FROM checkpoint WHERE size > 0")
    note = Checkpoint(origin, edge.size, edge.root(), 1_700_000_000_000).sign(key)
    connection.execute("INSERT INTO checkpoint VALUES (?, ?)", (edge.size, note))
    connection.execute("UPDATE head SET signed = size")


def forged(sequence: int, **changes: Any) -> bytes:
    return draft(event(sequence, **changes), now_ms=1_700_000_000_000).encode(sequence)


def program(body: str, *arguments: object) -> list[str]:
    """The command of a Python process of its own that has `path`, `arguments`, `Trail` and `event(...)`."""
    source = Path(remit.audit.__file__).parents[2]
    head = f"""
import os, sys, time
sys.path.insert(0, {str(source)!r})
from pathlib import Path
from remit.audit.writer import Trail
from remit.errors import AuditError
from remit.model.event import SecurityEvent
path, arguments = Path(sys.argv[1]), sys.argv[2:]
def event(number=0, **changes):
    fields = dict(type="call", principal="p", action="a", resource=str(number), result="allowed")
    return SecurityEvent(**{{**fields, **changes}})
"""
    return [sys.executable, "-c", head + textwrap.dedent(body), *map(str, arguments)]
