"""Check a trail offline, in one streaming pass, and say what that proves and what it does not.

The protocol; each step is marked in the code:

(0) the file is a trail, to the letter of its schema;
(1) the key: one that the caller trusts, else the one that the trail names (then it does not show *who* wrote it);
(2) every note in the second place that is of this trail is signed by that key;
(3) every event: numbered without a gap from 1, the number in the record is that of its row, plain and bounded;
(4) at the size of every checkpoint, in the file or in the second place: signature, and the root over the bytes so far;
(5) at the end: size, right edge and stored nodes of the file are those of the events;
(6) no checkpoint covers more events than there are: a cut tail.

Everything in the file is taken as hostile: types are checked, sizes bounded, and only what is signed is believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from remit.audit.checkpoint import Anchor, Checkpoint, open_note, origin_of
from remit.audit.keys import VerifierKey
from remit.audit.reader import Reader
from remit.audit.record import MAX_RECORD, Record, decode
from remit.audit.sqlite import Tampered
from remit.audit.tree import EMPTY_ROOT, Edge, leaf_hash
from remit.model.event import EventType

__all__ = ["Report", "verify"]

_MAX_PROBLEMS = 100
_ENDINGS = frozenset({EventType.OUTCOME, EventType.LIMIT_EXCEEDED, EventType.VIOLATION})  # each ends the call it names
_MAX_OPEN_CALLS = 100_000
_CLOCK_SLACK_MS = 1000  # events are stamped before they are queued, so neighbours may be a little out of order


@dataclass(slots=True, kw_only=True)
class Report:
    """What a trail was found to be.

    Attributes:
        path: the file.
        ok: no problem was found. What could not be proven is no problem: it stands in `not_proven`.
        origin: the name of the trail, as it says itself.
        key: the verifier key that was used.
        key_trusted: whether the caller brought that key, or the trail itself.
        events: how many were read.
        first_ms, last_ms: the times of the first and the last event, ms since the epoch, by the clock of the host.
        root: the root of the tree (hex).
        checkpoints: signed heads in the file that hold.
        anchors: signed heads in the second place that hold.
        signed, signed_ms: events 1..signed are those that were signed, and when.
        anchored: events 1..anchored are those of which the second place knows; None where none was given.
        unfinished: calls whose intent has no outcome: they were running, or their process was killed.
        proven, not_proven: sentences.
        problems: (number of the event, or None; what is wrong with it), at most 100.
    """

    path: str
    ok: bool = True
    origin: str = ""
    key: str = ""
    key_trusted: bool = False
    events: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    root: str = EMPTY_ROOT.hex()
    checkpoints: int = 0
    anchors: int = 0
    signed: int = 0
    signed_ms: int | None = None
    anchored: int | None = None
    unfinished: int = 0
    proven: list[str] = field(default_factory=list)
    not_proven: list[str] = field(default_factory=list)
    problems: list[tuple[int | None, str]] = field(default_factory=list)


def verify(path: Path, *, key: VerifierKey | bytes | None = None, anchor: Path | None = None) -> Report:
    """Check a trail.

    Args:
        path: the file; it is only read.
        key: the public key that is trusted: a verifier key, or the 32 bytes of an Ed25519 key.
        anchor: the second place for checkpoints.

    Raises:
        AuditError: the file is missing, cannot be read, or is not an audit trail. What is wrong *in* a trail is in the
            report.
    """
    report = Report(path=str(path))
    check = _Check(report)
    try:
        with Reader(path) as reader:  # (0)
            check.run(reader, key, anchor)
    except Tampered as error:
        check.problem(None, error.reason)
    report.ok = not report.problems
    check.conclude(anchor is not None)
    return report


class _Check:
    """One pass over one trail; fills in the report."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._edge = Edge()
        self._open_calls: set[str] = set()
        self._latest_ms = 0
        self._set_back: list[tuple[int, int]] = []
        self._broken = False  # a root did not hold, or the numbers have a gap: later roots cannot hold either
        self._held = 0  # the last size at which a signed root held

    def problem(self, sequence: int | None, what: str) -> None:
        if len(self._report.problems) < _MAX_PROBLEMS:
            self._report.problems.append((sequence, what))

    def run(self, reader: Reader, trusted: VerifierKey | bytes | None, anchor: Path | None) -> None:
        report = self._report
        report.origin, named = reader.identity()
        key = self._key(trusted, named)
        if key is None:
            return
        # The second place before the snapshot: where somebody is writing, a note must not be newer than the events.
        points = self._anchored(anchor, key) if anchor is not None else {}  # (2)
        with reader.snapshot():
            self._read(reader, points, key)

    def _read(self, reader: Reader, points: dict[int, set[bytes]], key: VerifierKey) -> None:
        """(3) to (6), in one state of the trail."""
        report = self._report
        notes = _Ahead(reader.notes())
        nodes = _Ahead(reader.nodes())
        self._point(notes, points, key)
        expected = 1
        for sequence, data in reader.records():
            self._record(sequence, expected, data)
            for level, position, node in self._append(data):
                stored = nodes.take()
                if stored != (level, position, node) and not self._broken:
                    self.problem(sequence, "the stored nodes of the tree are not those of the events")
                    self._broken = True
            expected = max(expected, sequence) + 1
            report.events += 1
            self._point(notes, points, key)
        report.root = self._edge.root().hex()
        self._end(reader, notes, nodes, points)

    def _key(self, trusted: VerifierKey | bytes | None, named: str) -> VerifierKey | None:
        """(1) The key to check with."""
        report = self._report
        try:
            own = VerifierKey.parse(named)
            if isinstance(trusted, bytes):
                trusted = VerifierKey(report.origin, trusted)
        except ValueError as error:
            self.problem(None, f"the trail does not name its key: {error}")
            return None
        key = own if trusted is None else trusted
        report.key, report.key_trusted = str(key), trusted is not None
        if own != key:
            self.problem(None, "the trail was begun with another key than the one that is trusted: it is another trail")
            return None
        if own.name != report.origin:
            self.problem(None, "the name of the trail is not that of its key")
            return None
        return key

    def _anchored(self, path: Path, key: VerifierKey) -> dict[int, set[bytes]]:
        """(2) Size -> roots, from the second place."""
        points: dict[int, set[bytes]] = {}
        others = 0
        anchor = Anchor(path)
        for note in anchor.notes():
            if origin_of(note) != key.name:
                others += 1
                continue
            try:
                point = Checkpoint.parse(open_note(note, [key]))
            except ValueError as error:
                self.problem(None, f"the second place holds a checkpoint that does not hold: {error}")
                continue
            points.setdefault(point.size, set()).add(point.root)
            self._report.anchors += 1
        if not points:
            # A trail that has a second place has put its first checkpoint there before it took an event.
            foreign = f"; it holds {others} of other trails" if others else ""
            self.problem(
                None, f"the second place holds no checkpoint of this trail: one of the two was replaced{foreign}"
            )
        self._report.anchored = 0
        return points

    def _append(self, data: object) -> list[tuple[int, int, bytes]]:
        return self._edge.append(leaf_hash(data if isinstance(data, bytes) else repr(data).encode()))

    def _record(self, sequence: int, expected: int, data: object) -> None:
        """(3) One event."""
        report = self._report
        if sequence != expected:
            what = f"event {expected} is" if sequence == expected + 1 else f"events {expected} to {sequence - 1} are"
            self.problem(
                sequence, f"{what} missing" if sequence > expected else "an event has a number below the first"
            )
        if not isinstance(data, bytes) or len(data) > MAX_RECORD:
            self.problem(sequence, "what is stored is not the bytes of an event")
            return
        try:
            record = decode(data)
        except ValueError as error:
            self.problem(sequence, f"what is stored is not an event: {error}")
            return
        if record.sequence != sequence:
            self.problem(sequence, f"the event in this place says that it is number {record.sequence}")
        moment = record.event.timestamp or 0
        report.first_ms = moment if report.first_ms is None else report.first_ms
        report.last_ms = moment
        if moment < self._latest_ms - _CLOCK_SLACK_MS and len(self._set_back) < _MAX_PROBLEMS:
            self._set_back.append((sequence, self._latest_ms - moment))
            self._latest_ms = moment  # one step back is one finding, not one for each event behind it
        self._latest_ms = max(self._latest_ms, moment)
        self._pair(record)

    def _pair(self, record: Record) -> None:
        event = record.event
        if not event.call_id:
            return
        if event.type == EventType.CALL and event.result == "allowed":
            if len(self._open_calls) < _MAX_OPEN_CALLS:
                self._open_calls.add(event.call_id)
        elif event.type in _ENDINGS:
            self._open_calls.discard(event.call_id)

    def _point(self, notes: _Ahead, points: dict[int, set[bytes]], key: VerifierKey) -> None:
        """(4) The checkpoints at this size."""
        report, size = self._report, self._edge.size
        while (row := notes.next) is not None and isinstance(row[0], int) and row[0] <= size:
            notes.take()
            try:
                if not isinstance(row[1], str):
                    raise ValueError("not text")  # noqa: TRY004 - the same finding as any other malformed note
                point = Checkpoint.parse(open_note(row[1], [key]))
                if (point.origin, point.size) != (key.name, row[0]) or row[0] != size:
                    raise ValueError("it is of another trail or another size")
            except ValueError as error:
                self.problem(None, f"the checkpoint of {row[0]} events does not hold: {error}")
                continue
            if self._root(point.root, "the signed checkpoint"):
                report.checkpoints += 1
                report.signed, report.signed_ms = size, point.time_ms
        for root in points.pop(size, ()):
            if self._root(root, "the second place's checkpoint"):
                report.anchored = size
                report.signed = max(report.signed, size)

    def _root(self, root: bytes, whose: str) -> bool:
        size = self._edge.size
        if root == self._edge.root():
            self._held = size
            return True
        if not self._broken:
            self.problem(
                None,
                f"{whose} of {size} events has another root: an event between {self._held + 1} and {size} was changed, "
                "added, taken out or moved",
            )
            self._broken = True
        return False

    def _end(self, reader: Reader, notes: _Ahead, nodes: _Ahead, points: dict[int, set[bytes]]) -> None:
        """(5) The end of the file, and (6) what reaches beyond it."""
        report, size = self._report, self._edge.size
        head = reader.head()
        if head is None:
            self.problem(None, "the trail has lost its head")
        elif head[0] != size:
            self.problem(None, f"the trail says that it has {head[0]!r:.40} events, but there are {size}")
        elif head[1] != self._edge.to_bytes() and not self._broken:
            self.problem(
                None,
                f"the head of the trail is not that of its events: one behind {self._held} was changed, added or moved",
            )
        if nodes.take() is not None and not self._broken:
            self.problem(None, "the trail has nodes of events that are not there")
        beyond = [row[0] for row in iter(notes.take, None)]
        if beyond:
            self.problem(
                None, f"the tail is cut: a checkpoint in the file is of {beyond[-1]!r:.40} events, but there are {size}"
            )
        if points:
            self.problem(
                None, f"the tail is cut: the second place vouches for {max(points)} events, but there are {size}"
            )
        report.unfinished = len(self._open_calls)

    def conclude(self, has_anchor: bool) -> None:
        """Say what the findings prove, and what they leave open."""
        report = self._report
        if report.problems:
            if report.signed:
                report.proven.append(f"events 1 to {self._held} are those that were signed")
            report.not_proven.append("anything behind that" if report.signed else "anything")
            return
        if report.signed:
            when = f", at {_time(report.signed_ms)}" if report.signed_ms is not None else ""
            report.proven.append(
                f"events 1 to {report.signed} are those that were signed{when}: none changed, added, taken out or moved"
            )
        if report.anchored:
            report.proven.append(
                f"the second place knows of events 1 to {report.anchored}: the trail was not cut before"
            )
        if report.events > report.signed:
            report.not_proven.append(
                f"events {report.signed + 1} to {report.events} are not signed yet: who can write the file could have "
                "changed them without a trace"
            )
        if not has_anchor:
            report.not_proven.append(
                "that the tail was not cut or an old copy put back: no second place to compare with (`--anchor`)"
            )
        elif report.events >= (report.anchored or 0):
            report.not_proven.append(
                f"that nothing was cut behind event {report.anchored or 0}, the last that the second place knows"
            )
        report.not_proven.append(
            "that the signing key was in no other hands: who has it can forge what the second place does not know"
            if report.key_trusted
            else "who wrote the trail: the key is the one that it names itself (`--key` brings one that you trust)"
        )
        report.not_proven.append("that the clock of the host was right: the times are its own")
        for sequence, back in self._set_back[:3]:
            report.not_proven.append(f"the times around event {sequence}: the clock went back by {back / 1000:.1f} s")
        if len(self._set_back) > 3:
            report.not_proven.append(f"the times around {len(self._set_back) - 3} more events, likewise")
        if report.unfinished:
            report.not_proven.append(
                f"how {report.unfinished} calls ended: their intent is recorded, their outcome is not (they are "
                "running, or their process was killed)"
            )


class _Ahead:
    """An iterator of which the next item can be looked at."""

    __slots__ = ("_rows", "next")

    def __init__(self, rows: Iterator[tuple[object, ...]]) -> None:
        self._rows = rows
        self.next = next(rows, None)

    def take(self) -> tuple[object, ...] | None:
        row, self.next = self.next, next(self._rows, None) if self.next is not None else None
        return row


def _time(moment_ms: int) -> str:
    """UTC, to the millisecond."""
    try:
        return datetime.fromtimestamp(moment_ms / 1000, UTC).isoformat(sep=" ", timespec="milliseconds")
    except (ValueError, OverflowError, OSError):  # a year that no calendar has
        return f"{moment_ms} ms"
