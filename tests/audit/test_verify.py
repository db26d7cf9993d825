"""Every way to tamper, each beside the same trail untouched."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remit.audit.checkpoint import Anchor, Checkpoint
from remit.audit.keys import SigningKey
from remit.audit.reader import Reader
from remit.audit.record import draft
from remit.audit.sqlite import Store
from remit.audit.tree import (
    Edge,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from remit.audit.verify import Report, verify
from remit.audit.writer import Trail
from remit.errors import AuditError
from tests.audit.trails import event, forged, records, rehash, resign, tampering, write

COUNT = 600  # two stored nodes, three checkpoints
KEY = SigningKey.generate()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    with Trail.open(folder / "audit.db", key=KEY, anchor=folder / "points", checkpoint_every=200) as trail:
        for start in range(0, COUNT, 200):
            for future in [trail.submit(event(number)) for number in range(start, start + 200)]:
                future.result(30)
    return folder


@pytest.fixture
def trail(original: Path, tmp_path: Path) -> Path:
    """A copy that may be tampered with; as it is, it verifies: the control of every attack."""
    shutil.copytree(original, tmp_path / "copy")
    path = tmp_path / "copy" / "audit.db"
    report = check(path)
    assert (report.ok, report.events, report.signed, report.anchored) == (True, COUNT, COUNT, COUNT), report.problems
    return path


def check(path: Path, *, anchored: bool = True) -> Report:
    return verify(path, key=KEY.public, anchor=path.with_name("points") if anchored else None)


def says(report: Report) -> str:
    assert report.ok is (not report.problems)
    return "\n".join(f"{sequence}: {what}" for sequence, what in report.problems)


def test_an_untouched_trail_says_what_is_proven_and_what_is_not(trail: Path) -> None:
    report = check(trail)
    assert report.proven[0].startswith(f"events 1 to {COUNT} are those that were signed, at 20")
    assert report.proven[1].startswith(f"the second place knows of events 1 to {COUNT}")
    assert any("no other hands" in line for line in report.not_proven)
    assert any("clock" in line for line in report.not_proven)
    edge = Edge()
    for data in records(trail):
        edge.append(leaf_hash(data))
    assert report.root == edge.root().hex()
    assert report.checkpoints == report.anchors >= 4
    assert report.first_ms is not None
    assert report.last_ms is not None
    assert report.first_ms <= report.last_ms


def test_without_a_trusted_key_it_is_not_proven_who_wrote_it(trail: Path) -> None:
    report = verify(trail)
    assert report.ok
    assert not report.key_trusted
    assert report.anchored is None
    assert any(line.startswith("who wrote the trail") for line in report.not_proven)
    assert any("no second place" in line for line in report.not_proven)


# -- in the hands of somebody who can write the file -----------------------------------------------------------------

Attack = Callable[[sqlite3.Connection], object]


def edit(connection: sqlite3.Connection) -> None:
    (data,) = connection.execute("SELECT record FROM event WHERE seq = 300").fetchone()
    connection.execute("UPDATE event SET record = ? WHERE seq = 300", (data.replace(b"agent-1", b"agent-2"),))


def delete(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM event WHERE seq = 300")


def delete_and_renumber(connection: sqlite3.Connection) -> None:
    rows = [(seq, forged(seq)) for seq in range(300, COUNT)]
    connection.execute("DELETE FROM event WHERE seq >= 300")
    connection.executemany("INSERT INTO event VALUES (?, ?)", rows)


def insert(connection: sqlite3.Connection) -> None:
    rows = connection.execute("SELECT seq, record FROM event WHERE seq >= 300 ORDER BY seq").fetchall()
    connection.execute("DELETE FROM event WHERE seq >= 300")
    connection.execute("INSERT INTO event VALUES (300, ?)", (forged(300),))
    for seq, data in rows:
        shifted = data.replace(b'"seq":%d,' % seq, b'"seq":%d,' % (seq + 1))
        connection.execute("INSERT INTO event VALUES (?, ?)", (seq + 1, shifted))


def insert_before_the_first(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO event VALUES (0, ?)", (forged(0),))


def append(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO event VALUES (?, ?)", (COUNT + 1, forged(COUNT + 1)))


def reorder(connection: sqlite3.Connection) -> None:
    one, two = (connection.execute("SELECT record FROM event WHERE seq = ?", (n,)).fetchone()[0] for n in (300, 301))
    connection.execute("UPDATE event SET record = ? WHERE seq = 300", (two,))
    connection.execute("UPDATE event SET record = ? WHERE seq = 301", (one,))


def swap_fields(connection: sqlite3.Connection) -> None:
    one, two = (connection.execute("SELECT record FROM event WHERE seq = ?", (n,)).fetchone()[0] for n in (300, 301))
    connection.execute("UPDATE event SET record = ? WHERE seq = 300", (one.replace(b"/data/299", b"/data/300"),))
    connection.execute("UPDATE event SET record = ? WHERE seq = 301", (two.replace(b"/data/300", b"/data/299"),))


def cut(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM event WHERE seq > 450")


def empty(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM event")


def not_bytes(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA ignore_check_constraints = ON")
    connection.execute("UPDATE event SET record = 'text' WHERE seq = 300")


ON_EVENTS = [
    edit,
    delete,
    delete_and_renumber,
    insert,
    insert_before_the_first,
    append,
    reorder,
    swap_fields,
    cut,
    empty,
    not_bytes,
]


@pytest.mark.parametrize("attack", ON_EVENTS)
def test_a_change_of_events_shows(trail: Path, attack: Attack) -> None:
    with tampering(trail) as connection:
        attack(connection)
    assert says(check(trail, anchored=False))


@pytest.mark.parametrize("attack", [one for one in ON_EVENTS if one not in (append, not_bytes)])
def test_a_change_of_events_shows_when_all_that_is_not_signed_was_made_to_fit(trail: Path, attack: Attack) -> None:
    with tampering(trail) as connection:
        attack(connection)
        rehash(connection)
    assert says(check(trail, anchored=False))


@pytest.mark.parametrize("attack", [one for one in ON_EVENTS if one not in (append, not_bytes)])
def test_with_a_second_place_it_shows_also_when_the_checkpoints_were_taken_out(trail: Path, attack: Attack) -> None:
    with tampering(trail) as connection:
        attack(connection)
        rehash(connection)
        connection.execute("DELETE FROM checkpoint WHERE size > 200")
    assert says(check(trail))


@pytest.mark.parametrize("attack", [edit, cut, reorder, swap_fields])
def test_with_a_second_place_it_shows_also_when_the_key_was_stolen(trail: Path, attack: Attack) -> None:
    with Reader(trail) as reader:
        origin, _ = reader.identity()
    with tampering(trail) as connection:
        attack(connection)
        resign(connection, origin, KEY)
    forged_report = check(trail, anchored=False)
    assert forged_report.ok is (attack is not reorder), "the numbers inside the events still show"
    assert any("no other hands" in line or "anything" in line for line in forged_report.not_proven)
    assert says(check(trail))


def test_what_a_thief_of_the_key_forges_behind_the_second_place_is_said_not_to_be_shown(trail: Path) -> None:
    with Reader(trail) as reader:
        origin, _ = reader.identity()
    with tampering(trail) as connection:
        append(connection)
        resign(connection, origin, KEY)
    report = check(trail)
    assert report.ok
    assert (report.events, report.anchored) == (COUNT + 1, COUNT)
    assert any("forge what the second place does not know" in line for line in report.not_proven)


def test_a_cut_tail_with_its_checkpoints_shows_only_with_a_second_place(trail: Path) -> None:
    with tampering(trail) as connection:
        connection.execute("DELETE FROM event WHERE seq > 400")
        connection.execute("DELETE FROM checkpoint WHERE size > 400")
        rehash(connection)
    alone = check(trail, anchored=False)
    assert alone.ok
    assert any("the tail was not cut" in line for line in alone.not_proven)
    assert f"the tail is cut: the second place vouches for {COUNT} events" in says(check(trail))


def test_an_old_copy_put_back_shows_with_a_second_place(tmp_path: Path) -> None:
    path, anchor = tmp_path / "audit.db", tmp_path / "points"
    write(path, 5, anchor=anchor)
    shutil.copy(path, tmp_path / "old")
    write(path, 5, anchor=anchor)
    assert verify(path, anchor=anchor).ok
    os.replace(tmp_path / "old", path)
    assert verify(path).ok
    assert "the tail is cut" in says(verify(path, anchor=anchor))


def test_another_consistent_trail_in_its_place_shows(trail: Path, tmp_path: Path) -> None:
    write(tmp_path / "other.db", COUNT)
    os.replace(tmp_path / "other.db", trail)
    assert verify(trail).ok
    assert "another key than the one that is trusted" in says(check(trail, anchored=False))
    assert "holds no checkpoint of this trail" in says(verify(trail, anchor=trail.with_name("points")))


def test_another_trail_of_the_same_key_in_its_place_shows_with_a_second_place(trail: Path, tmp_path: Path) -> None:
    write(tmp_path / "other.db", COUNT, key=KEY)
    os.replace(tmp_path / "other.db", trail)
    assert check(trail, anchored=False).ok
    assert "one of the two was replaced; it holds" in says(check(trail))


def test_a_new_trail_that_took_the_name_of_the_old_one_shows_with_a_second_place(trail: Path) -> None:
    with tampering(trail) as connection:
        connection.execute("DELETE FROM event")
        connection.execute("DELETE FROM checkpoint WHERE size > 0")
        rehash(connection)
    assert check(trail, anchored=False).ok
    assert "vouches for 600 events, but there are 0" in says(check(trail))


def test_an_emptied_file_shows(trail: Path) -> None:
    trail.write_bytes(b"")
    assert "is empty" in says(check(trail))


def test_a_deleted_file_is_an_error(trail: Path) -> None:
    trail.unlink()
    with pytest.raises(AuditError, match="is not a file"):
        check(trail)


def test_a_file_that_was_cut_short_shows(trail: Path) -> None:
    whole = trail.read_bytes()
    for length in (len(whole) - 4096, len(whole) // 2, 4096, 200):
        trail.write_bytes(whole[:length])
        assert says(check(trail, anchored=False))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_any_bit_of_any_event(trail: Path, data: st.DataObject) -> None:
    sequence = data.draw(st.integers(1, COUNT))
    with tampering(trail) as connection:
        (stored,) = connection.execute("SELECT record FROM event WHERE seq = ?", (sequence,)).fetchone()
        at, bit = data.draw(st.integers(0, len(stored) - 1)), data.draw(st.integers(0, 7))
        changed = stored[:at] + bytes([stored[at] ^ 1 << bit]) + stored[at + 1 :]
        connection.execute("UPDATE event SET record = ? WHERE seq = ?", (changed, sequence))
        rehash(connection)
    assert says(check(trail, anchored=False))
    with tampering(trail) as connection:
        connection.execute("UPDATE event SET record = ? WHERE seq = ?", (stored, sequence))
        rehash(connection)
    assert check(trail).ok


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(at=st.integers(0, 1 << 30), value=st.binary(min_size=1, max_size=8))
def test_any_bytes_of_the_file_change_nothing_or_show(trail: Path, at: int, value: bytes) -> None:
    whole = trail.read_bytes()
    expected = records(trail)
    at %= len(whole) - len(value)
    trail.write_bytes(whole[:at] + value + whole[at + len(value) :])
    try:
        report = check(trail)
        if report.ok:
            assert records(trail) == expected
    except AuditError:
        pass
    finally:
        for rest in ("-wal", "-shm"):
            Path(f"{trail}{rest}").unlink(missing_ok=True)
        trail.write_bytes(whole)
    assert check(trail).ok


# -- checkpoints, head, nodes, second place --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        (
            "UPDATE checkpoint SET note = replace(note, 'time 1', 'time 2') WHERE size = 200",
            "checkpoint of 200 events does not hold",
        ),
        ("UPDATE checkpoint SET size = 201 WHERE size = 200", "checkpoint of 201 events does not hold"),
        ("UPDATE checkpoint SET size = -5 WHERE size = 200", "checkpoint of -5 events does not hold"),
        ("UPDATE checkpoint SET size = 999 WHERE size = 200", "the tail is cut: a checkpoint in the file is of 999"),
        ("UPDATE checkpoint SET note = 'x'", "does not hold: not a signed note"),
        ("UPDATE checkpoint SET note = x'ff' WHERE size = 200", "checkpoint of 200 events does not hold"),
        ("UPDATE head SET size = 599", "says that it has 599 events"),
        ("UPDATE head SET size = 'many'", "says that it has 'many' events"),
        ("UPDATE head SET edge = zeroblob(length(edge))", "the head of the trail is not that of its events"),
        ("UPDATE head SET edge = NULL", "the head of the trail is not that of its events"),
        ("DELETE FROM head", "has lost its head"),
        ("UPDATE node SET hash = zeroblob(32) WHERE position = 1", "stored nodes of the tree"),
        ("DELETE FROM node", "stored nodes of the tree"),
        ("INSERT INTO node VALUES (8, 9, zeroblob(32))", "nodes of events that are not there"),
        ("DELETE FROM trail", "has lost its name"),
        ("UPDATE trail SET verifier = 'x'", "does not name its key"),
        ("UPDATE trail SET origin = 'x'", "another key than the one that is trusted"),
        ("UPDATE trail SET origin = 'a b'", "does not name its key"),
        ("UPDATE trail SET origin = x'ff'", "has lost its name"),
        ("UPDATE event SET record = cast(zeroblob(3000000) AS BLOB) WHERE seq = 300", "too large"),
        ("UPDATE event SET record = zeroblob(1500000) WHERE seq = 300", "not the bytes of an event"),
        ("UPDATE event SET record = x'5b5d' WHERE seq = 300", "what is stored is not an event"),
    ],
)
def test_a_change_of_anything_else_shows(trail: Path, statement: str, what: str) -> None:
    with tampering(trail) as connection:
        connection.execute(statement)
    assert what in says(check(trail))


def test_a_checkpoint_of_another_trail_is_not_one_of_this(trail: Path) -> None:
    note = Checkpoint("remit.audit/other", 200, b"r" * 32, 1).sign(KEY)
    with tampering(trail) as connection:
        connection.execute("UPDATE checkpoint SET note = ? WHERE size = 200", (note,))
    assert "checkpoint of 200 events does not hold" in says(check(trail))


def test_a_second_place_that_was_tampered_with_shows(trail: Path) -> None:
    points = trail.with_name("points")
    points.write_text(points.read_text().replace("\n200\n", "\n201\n"))
    assert "the second place holds a checkpoint that does not hold" in says(check(trail))


def test_an_empty_second_place_shows(trail: Path) -> None:
    trail.with_name("points").write_text("")
    assert "holds no checkpoint of this trail" in says(check(trail))


def test_a_second_place_that_is_behind_is_fine_and_said(trail: Path) -> None:
    points = trail.with_name("points")
    notes = list(Anchor(points).notes())
    points.unlink()
    for note in notes[:2]:
        Anchor(points).append(note)
    report = check(trail)
    assert report.ok
    assert report.anchored == 200
    assert any("nothing was cut behind event 200" in line for line in report.not_proven)


def test_a_second_place_may_hold_the_checkpoints_of_several_trails(trail: Path, tmp_path: Path) -> None:
    points = trail.with_name("points")
    write(tmp_path / "other.db", 5, key=KEY, anchor=points)
    assert check(trail).ok
    assert verify(tmp_path / "other.db", key=KEY.public, anchor=points).anchored == 5


def test_the_wrong_key_shows(trail: Path) -> None:
    assert "another key" in says(verify(trail, key=SigningKey.generate().public))


def test_a_broken_trail_says_between_which_checkpoints(trail: Path) -> None:
    with tampering(trail) as connection:
        edit(connection)
        rehash(connection)
    report = check(trail)
    assert "of 400 events has another root: an event between 201 and 400" in says(report)
    assert report.proven == ["events 1 to 200 are those that were signed"]
    assert len(report.problems) == 1


# -- what is said about an honest trail ------------------------------------------------------------------------------


def test_events_that_are_not_signed_yet_are_said_not_to_be_proven(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    with Trail.open(path) as trail:
        for number in range(5):
            trail.record_now(event(number))
        report = verify(path)
        assert report.ok
        assert any(line.startswith("events 1 to 5 are not signed yet") for line in report.not_proven)
    assert not any("not signed yet" in line for line in verify(path).not_proven)


def test_calls_without_an_outcome_are_counted_and_no_problem(tmp_path: Path) -> None:
    with Trail.open(tmp_path / "audit.db") as trail:
        for number in range(4):
            trail.record_now(event(call_id=f"c{number}"))
        trail.record_now(event(call_id="c9", result="denied"))
        trail.record_now(event(type="outcome", call_id="c1"))
    report = verify(tmp_path / "audit.db")
    assert report.ok
    assert report.unfinished == 3
    assert any("how 3 calls ended" in line for line in report.not_proven)


def test_a_clock_that_was_set_back_is_said(tmp_path: Path) -> None:
    with Trail.open(tmp_path / "audit.db") as trail:
        for moment in (1_000_000, 2_000_000, 1_999_500, 1_500_000, 1_600_000, 1_599_500):
            trail.record_now(event(timestamp=moment))
    report = verify(tmp_path / "audit.db")
    assert report.ok
    assert [line for line in report.not_proven if "went back" in line] == [
        "the times around event 4: the clock went back by 500.0 s"
    ]


def test_a_trail_that_is_being_written_is_checked_as_it_stood(tmp_path: Path) -> None:
    path, anchor = tmp_path / "audit.db", tmp_path / "points"
    with Trail.open(path, anchor=anchor, checkpoint_every=5) as trail:
        for round_ in range(20):
            futures = [trail.submit(event(number)) for number in range(50)]
            report = verify(path, anchor=anchor)
            assert report.ok, report.problems
            assert report.events >= round_ * 50
            for future in futures:
                future.result(30)


def test_a_writer_that_bypasses_the_library_shows(trail: Path) -> None:
    with tampering(trail) as connection:
        connection.execute("INSERT INTO event VALUES (?, ?)", (COUNT + 1, b'{"a":1}'))
        connection.execute("UPDATE head SET size = size + 1")
    report = says(check(trail))
    assert "601: what is stored is not an event" in report
    assert "the head of the trail is not that of its events" in report


def test_a_trail_on_a_read_only_medium_is_read(original: Path, tmp_path: Path) -> None:
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("needs mount: only root can make a medium that root cannot write")
    medium = tmp_path / "medium"
    medium.mkdir()
    if subprocess.run([mount, "-t", "tmpfs", "none", medium], capture_output=True, check=False).returncode:
        pytest.skip("needs mount: a container may refuse it")
    try:
        for name in ("audit.db", "points"):
            shutil.copy(original / name, medium / name)
        subprocess.run([mount, "-o", "remount,ro", medium], check=True)
        with pytest.raises(OSError, match="Read-only file system"):
            (medium / "audit.db-shm").touch()
        report = check(medium / "audit.db")
        assert (report.ok, report.anchored) == (True, COUNT)
        with pytest.raises(AuditError, match=r"read-only|cannot be opened"):
            Trail.open(medium / "audit.db", key=KEY)
    finally:
        subprocess.run(["umount", medium], check=True)


# -- proofs out of the file ------------------------------------------------------------------------------------------


def test_range_hashes_from_stored_nodes_are_those_of_the_leaves(tmp_path: Path) -> None:
    count = 66_500  # a node of 2**16, some of 2**8, and a rest
    path = tmp_path / "audit.db"
    write(path, 0)
    store = Store(path, busy_ms=1000)
    drafts = [draft(event(number, id=f"e{number}"), now_ms=1) for number in range(count)]
    for start in range(0, count, 1024):
        store.append(drafts[start : start + 1024], durable=False)
    root = store.head().root
    store.close()
    leaves = [leaf_hash(one.encode(sequence)) for sequence, one in enumerate(drafts, 1)]
    assert root == root_of(leaves)
    with Reader(path) as reader:
        for index in (0, 1, 255, 256, 65_535, 65_536, 66_499, 33_333):
            proof = inclusion_proof(index, count, reader.range_hash)
            assert verify_inclusion(leaves[index], index, count, proof, root)
            assert not verify_inclusion(leaves[index - 1], index, count, proof, root)
        for old in (1, 255, 256, 40_000, 65_536, 65_537, 66_499, count):
            proof = consistency_proof(old, count, reader.range_hash)
            assert verify_consistency(old, count, root_of(leaves[:old]), root, proof)
