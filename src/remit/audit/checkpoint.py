"""Checkpoints: signed heads of the tree, in the forms of C2SP (https://c2sp.org/tlog-checkpoint and /signed-note).

::

    remit.audit/5f0c...            the origin: which trail
    1000                           the size of the tree
    ZzHo...=                       its root, base64
    time 1763803921123             when it was signed, ms since the epoch (an extension line)
                                   a blank line ends the text that is signed
    — remit.audit/5f0c... x08g...  signatures: the key's name, and base64 of its four-byte hash and the signature

A second place (`Anchor`) is a file to which such notes are only ever appended, blank lines before each. It may hold the
notes of several trails.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from remit.audit.keys import SigningKey, VerifierKey
from remit.errors import AuditError

__all__ = ["Anchor", "Checkpoint", "open_note", "origin_of", "sign_note", "split_notes"]

_MARK = "— "
_NUMBER = re.compile(r"(0|[1-9][0-9]{0,18})\Z")
_NOTE_LIMIT = 64  # lines of one note
_LINE_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A head of the tree. `time_ms`: when it was signed, milliseconds since the epoch."""

    origin: str
    size: int
    root: bytes
    time_ms: int

    def text(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\ntime {self.time_ms}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read the text of a checkpoint; extension lines that are not ours are passed over, as the form asks.

        Raises:
            ValueError: it is not one.
        """
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1] or not lines[0] or not _NUMBER.match(lines[1]):
            raise ValueError("not the text of a checkpoint")
        try:
            root = base64.b64decode(lines[2], validate=True)
        except binascii.Error as error:
            raise ValueError("the root of a checkpoint is not base64") from error
        times = [line[5:] for line in lines[3:-1] if line.startswith("time ")]
        if len(root) != 32 or len(times) != 1 or not _NUMBER.match(times[0]):
            raise ValueError("a checkpoint without a root or a time")
        return cls(lines[0], int(lines[1]), root, int(times[0]))

    def sign(self, key: SigningKey) -> str:
        """The checkpoint as a signed note; the key signs under the name of the origin."""
        return sign_note(self.text(), self.origin, key)


def sign_note(text: str, name: str, key: SigningKey) -> str:
    """A signed note over a text that ends with a newline."""
    signature = base64.b64encode(key.verifier(name).hash + key.sign(text.encode())).decode()
    return f"{text}\n{_MARK}{name} {signature}\n"


def open_note(note: str, keys: Sequence[VerifierKey]) -> str:
    """The text of a signed note, if one of `keys` signed it and no signature in the name of one of them is wrong.

    Signatures of unknown keys are passed over, as the form asks.

    Raises:
        ValueError: it is not a signed note, or the signatures do not hold.
    """
    text, blank, tail = note.rpartition("\n\n")
    if not blank or not tail.endswith("\n"):
        raise ValueError("not a signed note")
    text += "\n"
    held = False
    for line in tail[:-1].split("\n"):
        name, _, encoded = line.removeprefix(_MARK).partition(" ")
        try:
            data = base64.b64decode(encoded, validate=True)
        except binascii.Error as error:
            raise ValueError("a signature that is not base64") from error
        if not line.startswith(_MARK) or not name or len(data) < 5:
            raise ValueError("a line that is not a signature")
        for key in keys:
            if key.name == name and key.hash == data[:4]:
                if not key.verify(text.encode(), data[4:]):
                    raise ValueError(f"the signature of `{name}` is wrong")
                held = True
    if not held:
        raise ValueError("not signed by the key that is trusted")
    return text


def origin_of(note: str) -> str:
    """The first line of a note, which says whose it is; believed in nothing until the note is opened."""
    return note.partition("\n")[0]


def split_notes(lines: Iterable[str]) -> Iterator[str]:
    """The notes in a file of notes, in order; what is cut short (power failed while it was written) is passed over."""
    text: list[str] = []
    signatures: list[str] = []
    ended = False
    for line in lines:
        if line.startswith(_MARK) and ended and text and line.endswith("\n"):
            signatures.append(line)
            continue
        if signatures:
            yield f"{''.join(text)}\n{''.join(signatures)}"
        if signatures or ended or len(text) >= _NOTE_LIMIT:
            text, signatures, ended = [], [], False
        if line != "\n":
            text.append(line)
        elif text:
            ended = True
    if signatures:
        yield f"{''.join(text)}\n{''.join(signatures)}"


class Anchor:
    """A second place for checkpoints: a file that is only appended to, best on another disk or of another owner."""

    __slots__ = ("path",)

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, note: str) -> None:
        """Add a note and wait until it is on disk. An empty note only shows that the file can be written.

        One write with O_APPEND: notes of several processes do not mix. The blank lines keep a note that was cut short
        by a power failure apart from the next.

        Raises:
            AuditError: the file cannot be written.
        """
        data = f"\n\n{note}".encode() if note else b""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path, flags, 0o600)
            try:
                if data and os.write(descriptor, data) != len(data):
                    raise OSError(0, "it took only a part")
                if data and self.path.is_file():  # a pipe or a device has no disk to wait for
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise AuditError(
                f"the second place for checkpoints `{self.path}` cannot be written: {error.strerror}",
                path=str(self.path),
                remedy="make it writable, name another place, or configure none; until then no event is taken",
                retryable=True,
            ) from error

    def notes(self) -> Iterator[str]:
        """The notes, in order; nothing where there is no file.

        Raises:
            AuditError: the file cannot be read.
        """
        return self._notes(0)

    def last_notes(self) -> Iterator[str]:
        """The notes in the last 64 KiB, in order."""
        return self._notes(64 * 1024)

    def _notes(self, last: int) -> Iterator[str]:
        try:
            with self.path.open("rb") as file:
                if last:
                    file.seek(max(0, os.fstat(file.fileno()).st_size - last))
                yield from split_notes(
                    line.decode("utf-8", "replace") for line in iter(lambda: file.readline(_LINE_LIMIT), b"")
                )
        except FileNotFoundError:
            return
        except OSError as error:
            raise AuditError(
                f"the second place for checkpoints `{self.path}` cannot be read: {error.strerror}", path=str(self.path)
            ) from error
