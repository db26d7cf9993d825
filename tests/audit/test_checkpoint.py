from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.audit.checkpoint import Anchor, Checkpoint, open_note, sign_note, split_notes
from remit.audit.keys import SigningKey, VerifierKey
from remit.errors import AuditError

# The example of the Go checksum database's note package, from which the C2SP form comes.
PETER = VerifierKey.parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
NOTE = (
    f"{TEXT}\n\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZ"
    "InNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
KEY = SigningKey.generate()
ORIGIN = "remit.audit/0123"
POINT = Checkpoint(ORIGIN, 5, b"r" * 32, 1_700_000_000_000)


def test_a_note_of_another_implementation_opens() -> None:
    assert open_note(NOTE, [PETER]) == TEXT


@pytest.mark.parametrize(
    "note",
    [
        NOTE.replace("answer", "Answer"),
        NOTE.replace("x08go/ZJ", "x08go/ZK"),
        NOTE.replace("PeterNeumann x", "PeterNeumanm x"),
        NOTE.replace("\n\n", "\n"),
        NOTE[:-1],
        TEXT,
        "",
        "\n\n",
        NOTE + "x",
        NOTE + "\u2014 other\n",
        NOTE + "\u2014 other !!\n",
    ],
)
def test_a_note_that_was_changed_does_not_open(note: str) -> None:
    with pytest.raises(ValueError):
        open_note(note, [PETER])


def test_a_signature_of_an_unknown_key_is_passed_over_and_is_not_enough() -> None:
    other = SigningKey.generate()
    note = sign_note(POINT.text(), ORIGIN, other)
    with pytest.raises(ValueError, match="not signed by the key"):
        open_note(note, [KEY.verifier(ORIGIN)])
    both = POINT.sign(KEY) + note.rpartition("\n\n")[2]
    assert Checkpoint.parse(open_note(both, [KEY.verifier(ORIGIN)])) == POINT


def test_a_checkpoint_is_read_back() -> None:
    assert Checkpoint.parse(open_note(POINT.sign(KEY), [KEY.verifier(ORIGIN)])) == POINT


def test_extension_lines_of_others_are_passed_over() -> None:
    assert Checkpoint.parse(f"{POINT.text()}something else\n") == POINT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\n1\n",
        POINT.text().replace("\n5\n", "\n05\n"),
        POINT.text().replace("\n5\n", "\n-5\n"),
        POINT.text().replace("\n5\n", "\n\u0665\n"),
        POINT.text().replace("time", "tide"),
        POINT.text() + "time 5\n",
        POINT.text().replace("cnJy", "c!Jy", 1),
        POINT.text().replace("cnJy", "", 1),
        POINT.text()[:-1],
        "\n" + POINT.text(),
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Checkpoint.parse(text)


def test_notes_come_back_from_the_second_place_in_order(tmp_path: Path) -> None:
    anchor = Anchor(tmp_path / "elsewhere" / "points")
    assert list(anchor.notes()) == []
    notes = [Checkpoint(ORIGIN, size, b"r" * 32, size).sign(KEY) for size in range(5)]
    for note in notes:
        anchor.append(note)
    assert list(anchor.notes()) == notes == list(anchor.last_notes())
    assert stat.S_IMODE(anchor.path.stat().st_mode) == 0o600


@given(st.integers(0, 400), st.lists(st.integers(0, 9), max_size=3), st.text(max_size=30))
def test_a_note_that_was_cut_short_costs_no_other(length: int, sizes: list[int], junk: str) -> None:
    torn = Checkpoint(ORIGIN, 99, b"t" * 32, 1).sign(KEY)[:length]
    notes = [Checkpoint(ORIGIN, size, b"r" * 32, size).sign(KEY) for size in sizes]
    # What stands before a whole note without its end is the torn one; junk that itself begins a signature is a forgery.
    junk = junk.replace("\u2014", "")
    file = "".join(f"\n\n{part}" for part in [junk, *notes, torn, *notes])
    found = []
    for note in split_notes(file.splitlines(keepends=True)):
        try:
            found.append(Checkpoint.parse(open_note(note, [KEY.verifier(ORIGIN)])).size)
        except ValueError:
            continue
    assert [size for size in found if size != 99] == sizes + sizes


def test_a_second_place_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditError, match="cannot be written: File exists") as caught:
        Anchor(tmp_path / "file" / "points").append("")
    assert caught.value.remedy
    os.symlink(tmp_path / "file", tmp_path / "link")
    with pytest.raises(AuditError, match="cannot be written"):
        Anchor(tmp_path / "link").append("")
