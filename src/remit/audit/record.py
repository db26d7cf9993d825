"""The bytes that are hashed: one canonical JSON object per event, and the ids of events.

Canonical means: keys sorted, no white space, UTF-8, control characters as JSON escapes, empty fields left out, no NaN.
These exact bytes are stored and are the leaves of the tree, so nothing is ever encoded a second time to be verified.

All of an event but its number is known before the writer has it. The number's key, `seq`, sorts behind most others, so
an event is encoded in two halves in the caller's thread (`Draft`), and the writer only joins them around the number.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from remit.errors import AuditError
from remit.model.event import EventType, SecurityEvent

__all__ = ["MAX_RECORD", "PRIVILEGED", "VERSION", "Draft", "Record", "decode", "draft", "is_durable", "new_id"]

VERSION = 1
MAX_TEXT = 4096  # bytes of UTF-8 of one string
MAX_ITEMS = 1000  # entries of one list or object
MAX_DEPTH = 32
MAX_INTEGER = 1024  # bits; Python itself refuses to write or read much longer ones
MAX_CONTEXT = 64 * 1024  # bytes of the encoded context, and of the encoded usage
MAX_RECORD = 1024 * 1024  # bytes of a whole record; a larger one was not written by this module

PRIVILEGED = frozenset(
    {EventType.STARTED, EventType.STOPPED, EventType.CONFIGURED, EventType.REGISTERED, EventType.KILLED}
    | {"grant", "granted", "revoked", "approved", "refused"}
)
"""Types of event that are on disk before the caller hears, whatever their result."""

_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}\Z")
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: no I, L, O, U
_PAIRS = tuple(a + b for a in _ALPHABET for b in _ALPHABET)
_SHIFTS = tuple(range(120, -1, -10))

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True).encode


@dataclass(frozen=True, slots=True)
class Draft:
    """An event that is encoded but for its number. `durable`: must be on disk (fsync) before the caller hears."""

    id: str
    before: bytes
    after: bytes
    durable: bool

    def encode(self, sequence: int) -> bytes:
        """The record's exact bytes once its number is known."""
        return b"%b%d%b" % (self.before, sequence, self.after)


@dataclass(frozen=True, slots=True)
class Record:
    """A stored event: its number (from 1) and what was recorded."""

    sequence: int
    event: SecurityEvent


def new_id(now_ms: int) -> str:
    """An id that sorts by time and is unique across processes: 48 bits of milliseconds, 80 random bits, 26 characters.

    The form is that of a ULID (Crockford base 32).
    """
    number = ((now_ms & 0xFFFF_FFFF_FFFF) << 80) | int.from_bytes(os.urandom(10), "big")
    return "".join([_PAIRS[(number >> shift) & 1023] for shift in _SHIFTS])


def is_durable(event: SecurityEvent) -> bool:
    """Whether the event is denied or privileged, and so must be on disk before the caller hears."""
    return event.result == "denied" or event.type in PRIVILEGED


def draft(event: SecurityEvent, *, now_ms: int, durable: bool = False) -> Draft:
    """Encode an event but for its number.

    Args:
        event: what happened. Strings above 4 KiB are cut and marked; a context above 64 KiB is kept as its beginning.
        now_ms: milliseconds since the epoch, used where the event has no timestamp of its own.
        durable: ask for the disk also where the event is neither denied nor privileged.

    Raises:
        AuditError: the event is not one (a type or id of the wrong form), or holds what is not plain JSON data.
    """
    if not _TYPE.match(event.type):
        raise AuditError(f"`{event.type[:80]!s}` is not a type of event", remedy="use at most 64 of A-Z a-z 0-9 _ . -")
    if event.result not in ("allowed", "denied"):
        raise AuditError(f"`{event.result}` is not a result", remedy="use `allowed` or `denied`")
    timestamp = now_ms if event.timestamp is None else event.timestamp
    if type(timestamp) is not int or not 0 <= timestamp < 1 << 48:
        raise AuditError(f"`{timestamp}` is not a time", remedy="use integer milliseconds since the epoch")
    if event.id and not _ID.match(event.id):
        raise AuditError(f"`{event.id[:80]}` is not an id", remedy="use at most 64 of A-Z a-z 0-9 _ . : -, or leave it")
    identity = event.id or new_id(timestamp)

    # Keys up to `seq`, then those behind it. A test compares the joined halves with one encoding of the whole.
    before: dict[str, Any] = {
        "action": _text(event.action),
        "enforced_by": _text(event.enforced_by),
        "id": identity,
        "principal": _text(event.principal),
        "result": event.result,
    }
    if event.arguments_digest:
        before["arguments_digest"] = _text(event.arguments_digest)
    if event.call_id:
        before["call_id"] = _text(event.call_id)
    if event.chain:
        before["chain"] = _plain(event.chain, "chain", 1)
    if event.context:
        before["context"] = _bounded(event.context, "context")
    if event.policy_hash:
        before["policy_hash"] = _text(event.policy_hash)
    if event.resource:
        before["resource"] = _text(event.resource)
    after: dict[str, Any] = {"timestamp": timestamp, "type": event.type, "v": VERSION}
    if event.usage:
        after["usage"] = _bounded(event.usage, "usage")
    head, tail = _encode(before), _encode(after)
    return Draft(
        identity,
        f'{head[:-1]},"seq":'.encode(),
        f",{tail[1:]}".encode(),
        durable or is_durable(event),
    )


def decode(data: bytes) -> Record:
    """Read a record's bytes back.

    Raises:
        ValueError: these are not the bytes of a record of this version.
    """
    if len(data) > MAX_RECORD:
        raise ValueError(f"a record of {len(data)} bytes")
    try:
        fields = json.loads(data)  # malformed UTF-8 is a ValueError too
        if not isinstance(fields, dict) or fields.get("v") != VERSION:
            raise ValueError("not a record of version 1")
        sequence, timestamp, result = fields["seq"], fields["timestamp"], fields["result"]
        if type(sequence) is not int or type(timestamp) is not int or result not in ("allowed", "denied"):
            raise ValueError("a record whose number, time or result is none")
        texts = [fields.get(name, "") for name in ("type", "principal", "action", "resource", "enforced_by", "id")]
        chain, context, usage = fields.get("chain", []), fields.get("context", {}), fields.get("usage")
        optional = [fields.get(name) for name in ("call_id", "policy_hash", "arguments_digest")]
        well_formed = (
            all(isinstance(text, str) for text in texts)
            and all(text is None or isinstance(text, str) for text in optional)
            and isinstance(chain, list)
            and all(isinstance(name, str) for name in chain)
            and isinstance(context, dict)
            and (usage is None or isinstance(usage, dict))
        )
        if not well_formed:
            raise ValueError("a record with a field of the wrong type")
        event = SecurityEvent(
            type=texts[0],
            principal=texts[1],
            action=texts[2],
            resource=texts[3],
            result=cast("Literal['allowed', 'denied']", result),
            timestamp=timestamp,
            chain=tuple(chain),
            context=context,
            call_id=optional[0],
            policy_hash=optional[1],
            arguments_digest=optional[2],
            enforced_by=texts[4],
            usage=usage,
            id=texts[5],
        )
    except (KeyError, RecursionError) as error:
        raise ValueError(f"a record without what a record has: {error!r}") from error
    return Record(sequence, event)


def _text(text: str) -> str:
    """The text, at most 4 KiB of UTF-8, cut at a character and marked. Lone surrogates become visible escapes."""
    if not isinstance(text, str):
        raise AuditError(f"`{text!r:.80}` is not text")
    if len(text) <= MAX_TEXT // 4 and text.isprintable():  # no surrogate is printable, no character is above 4 bytes
        return text
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= MAX_TEXT:
        return data.decode()
    return f"{data[:MAX_TEXT].decode('utf-8', 'ignore')}…[cut: {len(text)} characters in all]"


def _plain(value: Any, place: str, depth: int) -> Any:
    """A bounded copy of plain JSON data.

    Raises:
        AuditError: it is something else; the message names the place.
    """
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if value.bit_length() <= MAX_INTEGER:
            return value
        raise AuditError(f"`{place}` is a number of {value.bit_length()} bits", remedy="write it as text")
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise AuditError(f"`{place}` is `{value}`, which JSON cannot hold", remedy="leave it out or write it as text")
    if depth > MAX_DEPTH:
        raise AuditError(f"`{place}` is nested more than {MAX_DEPTH} deep", remedy="record a summary of it")
    if isinstance(value, Mapping):
        kept: dict[str, Any] = {}
        for count, (key, item) in enumerate(value.items()):
            if not isinstance(key, str):
                raise AuditError(f"`{place}` has the key `{key!r:.80}`, which is not text", remedy="use text for keys")
            if count == MAX_ITEMS:
                kept["…"] = f"[cut: {len(value)} entries in all]"
                break
            kept[_text(key)] = _plain(item, f"{place}.{key:.80}", depth + 1)
        return kept
    if isinstance(value, list | tuple):
        items = [_plain(item, f"{place}[{count}]", depth + 1) for count, item in enumerate(value[:MAX_ITEMS])]
        return items if len(value) <= MAX_ITEMS else [*items, f"…[cut: {len(value)} items in all]"]
    raise AuditError(
        f"`{place}` is of type `{type(value).__name__}`, which is not plain JSON data",
        remedy="use text, numbers, booleans, lists and objects",
    )


def _bounded(value: Mapping[str, Any], place: str) -> Any:
    """Like `_plain`, but at most 64 KiB of JSON; of more, the beginning is kept as text."""
    plain = _plain(value, place, 1)
    if len(value) > 8 or any(not isinstance(item, str | int | float | None) for item in plain.values()):
        whole = _encode(plain)
        if len(whole) * 4 > MAX_CONTEXT and len(whole.encode()) > MAX_CONTEXT:
            return {"cut": _text(whole)}
    return plain
