"""The audit trail: events are leaves of a Merkle tree whose signed heads show what was changed, taken out or cut.

`Trail` writes (one writer thread a process, several processes a trail), `verify` checks, `Reader` reads. What is hashed
is in `record`, the tree in `tree`, the signatures in `keys` and `checkpoint`, the store in `sqlite`.
"""

from __future__ import annotations

from remit.audit.keys import SigningKey, VerifierKey
from remit.audit.reader import Reader
from remit.audit.record import Record
from remit.audit.verify import Report, verify
from remit.audit.writer import Recorded, Trail

__all__ = ["Reader", "Record", "Recorded", "Report", "SigningKey", "Trail", "VerifierKey", "verify"]
