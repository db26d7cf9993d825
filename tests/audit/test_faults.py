"""What goes wrong with the file: a clear error, nothing half written, and the writer lives on."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from remit.audit.keys import SigningKey
from remit.audit.reader import Reader
from remit.audit.sqlite import Tampered
from remit.audit.verify import verify
from remit.audit.writer import Trail
from remit.errors import AuditError
from tests.audit.trails import event, program, records, tampering, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "audit.db"
    write(path, 3)
    return path


def refused(path: Path, says: str) -> AuditError:
    with pytest.raises(AuditError, match=says) as caught:
        Trail.open(path, lock_timeout=0.05)
    assert caught.value.path == str(path)
    assert caught.value.remedy
    return caught.value


def test_a_lock_that_lasts_is_an_error_and_then_it_works_again(path: Path) -> None:
    with Trail.open(path, lock_timeout=0.05) as trail:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            futures = [trail.submit(event()) for _ in range(20)]
            for future in futures:
                error = future.exception(30)
                assert isinstance(error, AuditError)
                assert "is locked by another process" in error.reason
                assert error.retryable
        assert trail.record_now(event()).sequence == 4
        assert trail._own()._queue.qsize() == 0
    assert verify(path).events == 4


@pytest.mark.anyio
async def test_every_waiter_of_a_failed_batch_hears_and_none_of_it_is_written(path: Path) -> None:
    with Trail.open(path, lock_timeout=0.05) as trail:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            found = await asyncio.gather(*[trail.record(event()) for _ in range(50)], return_exceptions=True)
        assert all(isinstance(one, AuditError) for one in found)
        assert len({id(one) for one in found}) == 50
        assert (await trail.record(event())).sequence == 4
    assert verify(path).ok


def test_a_trail_that_is_locked_at_the_start_is_an_error(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert refused(path, "is locked by another process").retryable
    write(path, 1)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_read_only(tmp_path: Path, what: str) -> None:
    # As another user where the tests run as root, whom no mode stops.
    folder = tmp_path / "folder"
    path = folder / "audit.db"
    write(path, 3)
    body = """
    if os.geteuid() == 0:
        for item in (path.parent, *path.parent.iterdir()):
            os.chown(item, 65534, 65534)
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
    Trail.open(path).close()
    (path if arguments[0] == "file" else path.parent).chmod(0o400 if arguments[0] == "file" else 0o500)
    try:
        Trail.open(path)
        print("opened")
    except AuditError as error:
        print(error)
    """
    # The parents of pytest's folders let only their owner in: go by a path that everybody may walk.
    with closing(Walkable(path)) as walkable:
        done = subprocess.run(
            program(body, walkable.path, what), check=True, timeout=60, capture_output=True, text=True
        )
    assert "is read-only" in done.stdout or "cannot be opened" in done.stdout, done
    assert str(walkable.path) in done.stdout
    assert done.stdout.count(";") == 1


class Walkable:
    """A copy of a trail's folder in a place whose parents every user may enter."""

    def __init__(self, path: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="remit-test-"))
        self._folder.chmod(0o755)
        shutil.copytree(path.parent, self._folder / "inner")
        self.path = self._folder / "inner" / path.name

    def close(self) -> None:
        (self._folder / "inner").chmod(0o700)
        shutil.rmtree(self._folder)


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditError, match="cannot be written") as caught:
        Trail.open(tmp_path / "file" / "audit.db")
    assert str(tmp_path / "file") in caught.value.path


@pytest.mark.parametrize("content", [b"hello\n" * 100, b"SQLite format 3\x00" + b"\x00" * 200, b"\x00" * 5000])
def test_what_is_not_a_trail_is_refused_and_left_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    refused(path, "is not an audit trail")
    with pytest.raises(AuditError, match="is not an audit trail"):
        verify(path)
    assert path.read_bytes() == content


def test_another_database_is_refused_and_left_as_it_is(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE mine (x)")
        other.commit()
    before = path.read_bytes()
    refused(path, "is not an audit trail")
    assert path.read_bytes() == before


def test_a_folder_is_not_a_trail(path: Path) -> None:
    path.unlink()
    path.mkdir()
    refused(path, "is not a file")


def test_an_emptied_file_is_refused_not_begun_anew(path: Path) -> None:
    path.write_bytes(b"")
    refused(path, "is empty")
    assert path.read_bytes() == b""


def test_a_wal_without_its_trail_is_refused(path: Path) -> None:
    with Trail.open(path) as trail:
        trail.record_now(event())
        shutil.copy(f"{path}-wal", path.with_name("kept"))
    path.unlink()
    path.with_name("kept").rename(f"{path}-wal")
    with pytest.raises(AuditError, match="is gone, but"):
        Trail.open(path)
    os.unlink(f"{path}-wal")
    write(path, 1)


def test_a_trail_whose_key_is_gone_is_refused_and_no_new_key_is_made(path: Path) -> None:
    path.with_suffix(".key").unlink()
    with pytest.raises(AuditError, match=r"audit\.key` cannot be read"):
        Trail.open(path)
    assert not path.with_suffix(".key").exists()


def test_a_trail_that_was_begun_with_another_key_is_refused(path: Path) -> None:
    with pytest.raises(AuditError, match="begun with another signing key"):
        Trail.open(path, key=SigningKey.generate())


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON event BEGIN DELETE FROM event WHERE seq = new.seq; END",
        "CREATE VIEW v AS SELECT 1",
        "CREATE INDEX i ON event (record)",
        "ALTER TABLE event ADD COLUMN more",
        "DROP TABLE node",
    ],
)
def test_a_changed_schema_is_refused(path: Path, statement: str) -> None:
    with tampering(path) as connection:
        connection.execute(statement)
    refused(path, "other tables, triggers or views")
    report = verify(path)
    assert not report.ok
    assert "triggers" in report.problems[0][1]


def test_a_trail_of_a_later_format_is_refused(path: Path) -> None:
    with tampering(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    assert "newer remit" in refused(path, "has the format 2").remedy


@pytest.mark.parametrize("how", ["deleted", "replaced", "cut", "emptied", "headless", "edge"])
def test_a_file_that_changes_under_the_writer_stops_it(path: Path, how: str) -> None:
    with Trail.open(path) as trail:
        trail.record_now(event())
        if how == "deleted":
            path.unlink()
        elif how == "replaced":
            shutil.copy(path, path.with_name("copy"))
            os.replace(path.with_name("copy"), path)
        else:
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                if how == "cut":
                    other.execute("DELETE FROM event WHERE seq = 4")
                    other.execute("UPDATE head SET size = 3")
                elif how == "emptied":
                    other.execute("DELETE FROM event")
                    other.execute("UPDATE head SET size = 0, edge = x''")
                elif how == "headless":
                    other.execute("DELETE FROM head")
                else:
                    other.execute("UPDATE head SET size = 9, edge = x'00'")
        for _ in range(2):
            with pytest.raises(AuditError, match=r"in use|lost its head|head that is none") as caught:
                trail.record_now(event())
            assert caught.value.remedy
        with pytest.raises(AuditError):
            trail.close()


def test_an_event_behind_the_head_is_not_written_over(path: Path) -> None:
    with Trail.open(path) as trail:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("INSERT INTO event VALUES (4, x'00')")
        with pytest.raises(AuditError, match="already holds an event behind its own head"):
            trail.record_now(event())
    assert not verify(path).ok


def test_a_damaged_page_is_an_error_and_verify_says_so(path: Path) -> None:
    write(path, 2000)
    assert verify(path).ok
    with path.open("r+b") as file:
        for page in range(2, path.stat().st_size // 4096, 3):
            file.seek(page * 4096)
            file.write(b"\xff" * 64)
    report = verify(path)
    assert not report.ok
    assert any("damaged" in what for _, what in report.problems)
    with pytest.raises(AuditError, match="is damaged"), Trail.open(path) as trail:
        for _ in range(100):
            trail.record_now(event())


def test_a_header_that_is_scribbled_over_is_never_fine(path: Path) -> None:
    whole = path.read_bytes()
    for at in range(16, 100):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            report = verify(path)
        except AuditError:
            continue
        # A few header bytes (counters, versions) have no say in what is read.
        assert report.events == 3 or not report.ok


def test_a_full_disk_is_an_error_and_then_it_works_again(tmp_path: Path) -> None:
    # RLIMIT_FSIZE stands for the full disk where nothing can be mounted: a write is refused in the middle of a batch.
    path = tmp_path / "audit.db"
    body = """
    import resource
    trail = Trail.open(path)
    told = [trail.record_now(event(n)).sequence for n in range(10)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, resource.RLIM_INFINITY))
    failure = None
    while failure is None:
        try:
            told.append(trail.record_now(event(context={"text": "x" * 4000})).sequence)
        except AuditError as error:
            failure = error
    print(failure)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    told += [trail.record_now(event(n)).sequence for n in range(10)]
    trail.close()
    assert told == list(range(1, len(told) + 1)), told
    print(len(told))
    """
    done = subprocess.run(program(body, path), check=True, timeout=60, capture_output=True, text=True)
    failure, count = done.stdout.splitlines()
    assert "could not be read or written (disk full" in failure
    assert "; free some space" in failure
    report = verify(path)
    assert (report.ok, report.events) == (True, int(count))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("needs mount: only root can make a disk that is full")
    made = subprocess.run([mount, "-t", "tmpfs", "-o", "size=512k", "none", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("needs mount: a container may refuse it")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full(small_disk: Path) -> None:
    path = small_disk / "audit.db"
    key = SigningKey.generate()
    told = 0
    with Trail.open(path, key=key) as trail:
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"x" * 200_000)
        failures: list[AuditError] = []
        for _ in range(300):
            try:
                told = trail.record_now(event(context={"text": "x" * 3000})).sequence
            except AuditError as error:
                failures.append(error)
                if len(failures) == 3:
                    break
        assert [("full" in error.reason, error.retryable) for error in failures] == [(True, True)] * 3
        ballast.unlink()
        assert trail.record_now(event()).sequence == told + 1
    report = verify(path)
    assert (report.ok, report.events) == (True, told + 1)


def test_a_trail_on_a_full_disk_cannot_be_begun(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(b"x" * 500_000)
    with pytest.raises(AuditError, match=r"full|No space") as caught:
        Trail.open(small_disk / "audit.db", key=SigningKey.generate())
    assert "free some space" in caught.value.remedy
    assert os.listdir(small_disk) == ["ballast"]


def test_no_event_is_taken_while_the_second_place_cannot_be_written(tmp_path: Path) -> None:
    path, anchor = tmp_path / "audit.db", tmp_path / "elsewhere" / "points"
    with Trail.open(path, anchor=anchor, checkpoint_every=2) as trail:
        trail.record_now(event())
        kept = anchor.read_bytes()
        shutil.rmtree(anchor.parent)
        anchor.parent.write_text("in the way")
        trail.record_now(event())  # the checkpoint behind this one has nowhere to go
        for _ in range(2):
            with pytest.raises(AuditError, match="second place for checkpoints") as caught:
                trail.record_now(event())
            assert caught.value.retryable
        anchor.parent.unlink()
        anchor.parent.mkdir()
        anchor.write_bytes(kept)
        assert trail.record_now(event()).sequence == 3
    report = verify(path, anchor=anchor)
    assert (report.ok, report.events, report.anchored) == (True, 3, 3)


def test_a_second_place_that_cannot_be_written_is_known_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditError, match="second place"):
        Trail.open(tmp_path / "audit.db", anchor=tmp_path / "file" / "points")


def test_a_failing_signer_stops_the_trail_and_is_heard(tmp_path: Path) -> None:
    real = SigningKey.generate()
    broken = False

    def sign(message: bytes) -> bytes:
        if broken:
            raise ConnectionError("the key service is away")
        return real.sign(message)

    with Trail.open(tmp_path / "audit.db", key=SigningKey(real.public, sign), checkpoint_every=2) as trail:
        trail.record_now(event())
        broken = True
        trail.record_now(event())
        with pytest.raises(AuditError, match="the key service is away"):
            trail.record_now(event())
        broken = False
        assert trail.record_now(event()).sequence == 3
    assert verify(tmp_path / "audit.db").signed == 3


def test_a_cut_trail_is_not_gone_on_with(tmp_path: Path) -> None:
    path, anchor = tmp_path / "audit.db", tmp_path / "points"
    write(path, 3, anchor=anchor)
    shutil.copy(path, tmp_path / "old")
    write(path, 3, anchor=anchor)
    os.replace(tmp_path / "old", path)
    with pytest.raises(AuditError, match=r"has 3 events, but .* holds a signed checkpoint of 6"):
        Trail.open(path, anchor=anchor)


def test_a_forged_note_in_the_second_place_cannot_stop_the_trail(tmp_path: Path) -> None:
    path, anchor = tmp_path / "audit.db", tmp_path / "points"
    write(path, 3, anchor=anchor)
    with anchor.open("a") as file:
        file.write(anchor.read_text().replace("\n3\n", "\n9\n"))
    write(path, 1, anchor=anchor)
    assert not verify(path, anchor=anchor).ok


def test_a_reader_needs_no_write_access(path: Path) -> None:
    with Reader(path) as reader, pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._connection.execute("DELETE FROM event")
    assert len(records(path)) == 3


def test_lost_rows_do_not_yield_a_proof(path: Path) -> None:
    write(path, 600)
    with Reader(path) as reader:
        assert len(reader.range_hash(0, 603)) == 32
    with tampering(path) as connection:
        connection.execute("DELETE FROM node WHERE position = 1")
        connection.execute("DELETE FROM event WHERE seq = 600")
    with Reader(path) as reader:
        for start, end in ((0, 512), (512, 603)):
            with pytest.raises(Tampered):
                reader.range_hash(start, end)
