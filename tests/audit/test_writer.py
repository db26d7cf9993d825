from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sqlite3
import stat
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from remit.audit.checkpoint import Anchor, Checkpoint, open_note
from remit.audit.keys import SigningKey
from remit.audit.reader import Reader
from remit.audit.record import Draft, decode, draft
from remit.audit.sqlite import Store
from remit.audit.verify import verify
from remit.audit.writer import Recorded, Trail
from remit.errors import AuditError
from tests.audit.trails import event, program, records, write


def locked(path: Path) -> sqlite3.Connection:
    """Another process's write lock, as far as SQLite can tell."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    return connection


def wait_until_taken(trail: Trail) -> None:
    """Until the writer has in hand what was queued; the test's own time limit ends it."""
    while trail._own()._queue.qsize():
        time.sleep(0)


class Batches:
    """What the store took, batch by batch; the store itself does its work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[int, bool]] = []
        append = Store.append

        def spy(store: Store, drafts: Sequence[Draft], *, durable: bool) -> int:
            first = append(store, drafts, durable=durable)
            self.seen.append((len(drafts), durable))
            return first

        monkeypatch.setattr(Store, "append", spy)


def test_a_new_trail_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "audit.db"
    with Trail.open(path, anchor=tmp_path / "points") as trail:
        trail.record_now(event())
        modes = {item.name: stat.S_IMODE(item.stat().st_mode) for item in path.parent.iterdir()}
        assert trail.key_path == path.with_suffix(".key")
    assert modes == dict.fromkeys(["audit.db", "audit.db-wal", "audit.db-shm", "audit.key"], 0o600)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "points").stat().st_mode) == 0o600


@pytest.mark.anyio
async def test_events_are_numbered_in_order_and_read_back(tmp_path: Path) -> None:
    with Trail.open(tmp_path / "audit.db", clock_ms=lambda: 1_700_000_000_000) as trail:
        told = [await trail.record(event(number)) for number in range(3)]
        told.append(trail.record_now(event(3, id="mine")))
        told.append(trail.submit(event(4)).result(10))
    stored = [decode(data) for data in records(tmp_path / "audit.db")]
    assert [one.sequence for one in told] == [1, 2, 3, 4, 5] == [record.sequence for record in stored]
    assert [one.id for one in told] == [record.event.id for record in stored]
    assert told[3].id == "mine"
    assert [record.event.resource for record in stored] == [f"/data/{number}" for number in range(5)]
    assert {record.event.timestamp for record in stored} == {1_700_000_000_000}


@pytest.mark.anyio
async def test_what_waits_is_committed_together_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Batches(monkeypatch)
    with Trail.open(tmp_path / "audit.db") as trail:
        with closing(locked(tmp_path / "audit.db")):
            tasks = [asyncio.ensure_future(trail.record(event(number))) for number in range(200)]
            await asyncio.sleep(0)  # each task has queued its event
        told = await asyncio.gather(*tasks)
    assert sorted(one.sequence for one in told) == list(range(1, 201))
    assert [one.sequence for one in told] == list(range(1, 201))
    assert sum(count for count, _ in batches.seen) == 200
    assert len(batches.seen) <= 3


@pytest.mark.anyio
async def test_denied_privileged_and_durable_events_ask_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = Batches(monkeypatch)
    with Trail.open(tmp_path / "audit.db") as trail:
        await trail.record(event())
        await trail.record(event(result="denied"))
        await trail.record(event(type="killed"))
        await trail.record(event(), durable=True)
        await trail.record(event())
    with Trail.open(tmp_path / "audit.db", fsync="all") as trail:
        await trail.record(event())
    assert [durable for _, durable in batches.seen] == [False, True, True, True, False, True]


def test_durable_means_that_sqlite_syncs_each_commit(tmp_path: Path) -> None:
    write(tmp_path / "audit.db", 0)
    store = Store(tmp_path / "audit.db", busy_ms=1000)
    found = []
    for durable in (False, True, False, True, True, False):
        store.append([draft(event(), now_ms=1)], durable=durable)
        found.append(store._use().execute(f"PRAGMA synchronous -- {len(found)}").fetchone()[0])
    store.add_checkpoint(6, "a note")
    found.append(store._use().execute("PRAGMA synchronous -- last").fetchone()[0])
    store.close()
    assert found == [1, 2, 1, 2, 2, 1, 2]  # 1: NORMAL, 2: FULL


def test_many_threads_lose_nothing(tmp_path: Path) -> None:
    told: list[Recorded] = []
    with Trail.open(tmp_path / "audit.db", queue_size=8) as trail:

        def work(name: int) -> None:
            told.extend(trail.record_now(event(principal=f"p{name}")) for _ in range(100))

        threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(one.sequence for one in told) == list(range(1, 601))
    assert verify(tmp_path / "audit.db").ok


@pytest.mark.anyio
async def test_a_full_queue_makes_record_wait_and_submit_raise(tmp_path: Path) -> None:
    with Trail.open(tmp_path / "audit.db", queue_size=4) as trail:
        with closing(locked(tmp_path / "audit.db")):
            first = trail.submit(event())
            wait_until_taken(trail)
            # The writer now waits for the lock with the first one; four more fill the queue.
            queued = [trail.submit(event()) for _ in range(4)]
            with pytest.raises(AuditError, match="more than 4 events wait") as caught:
                trail.submit(event())
            assert caught.value.retryable
            waiting = [asyncio.ensure_future(trail.record(event())) for _ in range(20)]
            await asyncio.sleep(0)
            assert not any(task.done() for task in waiting)
            assert trail._own()._queue.qsize() == 4
        told = await asyncio.gather(*waiting)
    numbers = [one.sequence for one in [first.result(0), *(future.result(0) for future in queued), *told]]
    assert sorted(numbers) == list(range(1, 26))


@pytest.mark.anyio
async def test_a_cancelled_waiter_disturbs_nobody(tmp_path: Path) -> None:
    with Trail.open(tmp_path / "audit.db", queue_size=4) as trail:
        with closing(locked(tmp_path / "audit.db")):
            tasks = [asyncio.ensure_future(trail.record(event(number))) for number in range(20)]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.sleep(0)
            future = None
            while future is None:  # a submitted one too, which may have to wait for its place
                try:
                    future = trail.submit(event())
                except AuditError:
                    break
            if future is not None:
                future.cancel()
        told = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(one, Recorded) for one in told[1::2])
        assert (await trail.record(event())).sequence > 10
    assert verify(tmp_path / "audit.db").ok


def test_events_of_several_loops_each_come_back_to_their_own(tmp_path: Path) -> None:
    with Trail.open(tmp_path / "audit.db") as trail:
        told: list[Any] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            for _ in range(50):
                told.append(await trail.record(event()))
                assert asyncio.get_running_loop() is loop

        threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(one.sequence for one in told) == list(range(1, 151))


def test_a_loop_that_ends_while_its_event_is_written_does_not_stop_the_writer(tmp_path: Path) -> None:
    with Trail.open(tmp_path / "audit.db") as trail:
        loop = asyncio.new_event_loop()
        with closing(locked(tmp_path / "audit.db")):
            task = loop.create_task(trail.record(event()))
            loop.call_soon(loop.stop)
            loop.run_forever()
            task.cancel()
            loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            loop.close()
        assert trail.record_now(event()).sequence == 2


def test_close_writes_what_is_queued_signs_it_and_can_be_repeated(tmp_path: Path) -> None:
    trail = Trail.open(tmp_path / "audit.db")
    futures = [trail.submit(event(number)) for number in range(3000)]
    trail.close()
    trail.close()
    assert not (tmp_path / "audit.db-wal").exists()
    assert [future.result(0).sequence for future in futures] == list(range(1, 3001))
    report = verify(tmp_path / "audit.db")
    assert (report.ok, report.events, report.signed) == (True, 3000, 3000)
    for attempt in (trail.submit, trail.record_now):
        with pytest.raises(AuditError, match="is closed"):
            attempt(event())


def test_a_trail_that_is_dropped_ends_its_thread_and_signs(tmp_path: Path) -> None:
    trail = Trail.open(tmp_path / "audit.db")
    trail.record_now(event())
    thread = trail._own()._thread
    del trail
    gc.collect()
    assert not thread.is_alive()
    assert verify(tmp_path / "audit.db").signed == 1


def test_a_process_that_ends_without_closing_still_writes_and_signs(tmp_path: Path) -> None:
    body = """
    trail = Trail.open(path)
    for number in range(500):
        trail.submit(event(number))
    """
    subprocess.run(program(body, tmp_path / "audit.db"), check=True, timeout=60)
    report = verify(tmp_path / "audit.db")
    assert (report.ok, report.events, report.signed) == (True, 500, 500)


def test_checkpoints_are_signed_by_count(tmp_path: Path) -> None:
    path, anchor = tmp_path / "audit.db", tmp_path / "points"
    key = SigningKey.generate()
    with Trail.open(path, key=key, anchor=anchor, checkpoint_every=10) as trail:
        for number in range(35):
            trail.record_now(event(number))
    with Reader(path) as reader:
        origin, verifier = reader.identity()
        assert verifier == str(key.verifier(origin))
        notes = [note for _, note in reader.notes()]
    sizes = [Checkpoint.parse(open_note(note, [key.verifier(origin)])).size for note in notes]
    assert sizes == [0, 10, 20, 30, 35]
    assert list(Anchor(anchor).notes()) == notes


def test_checkpoints_are_signed_by_time(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    with Trail.open(path, checkpoint_seconds=0.01) as trail, Reader(path) as reader:
        trail.record_now(event())
        while [size for size, _ in reader.notes()] != [0, 1]:
            pass  # the test's own time limit ends it
        assert verify(path).signed == 1


def test_a_checkpoint_can_be_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    with Trail.open(path) as trail:
        trail.record_now(event())
        assert verify(path).signed == 0
        trail.checkpoint()
        trail.checkpoint()
        assert verify(path).signed == 1


def test_what_a_killed_process_left_unsigned_is_signed_at_the_next_start(tmp_path: Path) -> None:
    path, anchor = tmp_path / "audit.db", tmp_path / "points"
    body = """
    trail = Trail.open(path, anchor=Path(arguments[0]))
    for number in range(7):
        trail.record_now(event(number))
    os.kill(os.getpid(), 9)
    """
    assert subprocess.run(program(body, path, anchor), check=False, timeout=60).returncode == -signal.SIGKILL
    assert verify(path, anchor=anchor).anchored == 0
    with Trail.open(path, anchor=anchor):
        assert verify(path, anchor=anchor).anchored == 7
    assert verify(path, anchor=anchor).ok


def test_a_second_place_that_missed_the_last_checkpoint_gets_it_at_the_next_start(tmp_path: Path) -> None:
    path, anchor = tmp_path / "audit.db", tmp_path / "points"
    write(path, 3, anchor=anchor)
    write(path, 3)
    assert verify(path, anchor=anchor).anchored == 3
    write(path, 0, anchor=anchor)
    assert verify(path, anchor=anchor).anchored == 6
    before = anchor.read_bytes()
    write(path, 0, anchor=anchor)
    assert anchor.read_bytes() == before


def test_four_processes_append_to_one_trail_without_a_gap(tmp_path: Path) -> None:
    path, anchor = tmp_path / "audit.db", tmp_path / "points"
    body = """
    sys.stdin.readline()
    with Trail.open(path, anchor=Path(arguments[1]), checkpoint_every=40) as trail:
        futures = [trail.submit(event(n, principal=arguments[0], result="denied" if n % 50 == 0 else "allowed"))
                   for n in range(125)]
        print(*[future.result().sequence for future in futures])
        print(*[trail.record_now(event(n, principal=arguments[0])).sequence for n in range(125, 250)])
    """
    started = [
        subprocess.Popen(
            program(body, path, name, anchor), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=0
        )
        for name in "abcd"
    ]
    for process in started:  # all at once: who is first makes the key and the trail
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.close()
    numbers = {}
    for name, process in zip("abcd", started, strict=True):
        with process:
            assert process.stdout
            numbers[name] = [int(word) for word in process.stdout.read().split()]
        assert process.returncode == 0
    assert sorted(number for own in numbers.values() for number in own) == list(range(1, 1001))
    for own in numbers.values():
        assert own == sorted(own)
    by = {name: [] for name in "abcd"}
    for data in records(path):
        record = decode(data)
        by[record.event.principal].append((record.sequence, record.event.resource))
    assert {name: [number for number, _ in rows] for name, rows in by.items()} == numbers
    assert [resource for _, resource in by["a"]] == [str(number) for number in range(250)]
    report = verify(path, anchor=anchor)
    assert (report.ok, report.events, report.signed, report.anchored) == (True, 1000, 1000, 1000), report.problems


@pytest.mark.parametrize("round_", range(15))
def test_kill_9_loses_no_acknowledged_event(tmp_path: Path, round_: int) -> None:
    path, anchor = tmp_path / "audit.db", tmp_path / "points"
    body = """
    import threading
    trail = Trail.open(path, anchor=Path(arguments[0]), checkpoint_every=7)
    os.write(1, b"ready\\n")
    def work(name):
        for number in range(100_000):
            result = "denied" if number % 5 == 0 else "allowed"
            told = trail.record_now(event(number, principal=str(name), result=result))
            os.write(1, b"%d %s\\n" % (told.sequence, told.id.encode()))
    for name in range(3):
        threading.Thread(target=work, args=(name,)).start()
    """
    with subprocess.Popen(program(body, path, anchor), stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        heard = [process.stdout.readline() for _ in range(3 + round_ * 17)]
        process.kill()  # wherever its threads are: SIGKILL waits for nobody
        heard += process.stdout.read().splitlines(keepends=True)
    acknowledged = dict(line.decode().split() for line in heard if line.endswith(b"\n"))
    assert len(acknowledged) >= 3 + round_ * 17
    stored = {str(json.loads(data)["seq"]): json.loads(data)["id"] for data in records(path)}
    assert acknowledged.items() <= stored.items()
    report = verify(path, anchor=anchor)
    assert report.ok, report.problems
    with Trail.open(path, anchor=anchor) as trail:
        assert trail.record_now(event()).sequence == len(stored) + 1
    assert verify(path, anchor=anchor).ok


def test_a_forked_child_writes_through_a_writer_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    body = """
    import threading
    trail = Trail.open(path)
    trail.record_now(event(0))
    stop = threading.Event()
    busy = threading.Thread(target=lambda: [trail.record_now(event(1)) for _ in iter(lambda: stop.is_set(), True)])
    busy.start()
    children = []
    for turn in range(6):
        child = os.fork()
        if child == 0:
            if turn % 3 == 0:      # uses it and closes it
                [trail.record_now(event(principal="child")) for _ in range(20)]
                trail.close()
                os._exit(0)
            if turn % 3 == 1:      # uses it and leaves in order
                [trail.record_now(event(principal="child")) for _ in range(20)]
                raise SystemExit(0)
            del trail              # never touches it, and lets go of it
            raise SystemExit(0)
        children.append(child)
    codes = [os.waitpid(child, 0)[1] for child in children]
    stop.set()
    busy.join()
    trail.record_now(event(2))
    trail.close()
    print(codes)
    """
    done = subprocess.run(
        [*program(body, path)[:1], "-W", "ignore::DeprecationWarning", *program(body, path)[1:]],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[0, 0, 0, 0, 0, 0]", done.stderr
    assert done.stderr == ""
    report = verify(path)
    assert report.ok, report.problems
    principals = [decode(data).event.principal for data in records(path)]
    assert principals.count("child") == 80
    assert principals[-1] == "p"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fsync": "never"}, "is not a way to wait"),
        ({"queue_size": 0}, "must be above 0"),
        ({"checkpoint_every": 0}, "must be above 0"),
        ({"checkpoint_seconds": 0}, "must be above 0"),
        ({"key": SigningKey.generate(), "key_path": Path("x")}, "not with both"),
    ],
)
def test_options_that_cannot_be_are_refused_and_nothing_is_made(
    tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(AuditError, match=says):
        Trail.open(tmp_path / "audit.db", **options)
    assert not os.listdir(tmp_path)


@pytest.mark.anyio
async def test_an_ordinary_event_that_finds_the_writer_at_rest_is_committed_by_its_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    append = Store.append

    def spy(store: Store, drafts: Sequence[Draft], *, durable: bool) -> int:
        threads.append((threading.current_thread().name, durable))
        return append(store, drafts, durable=durable)

    monkeypatch.setattr(Store, "append", spy)
    with Trail.open(tmp_path / "audit.db") as trail:
        await trail.record(event())
        await trail.record(event(result="denied"))
    own = threading.current_thread().name
    assert threads == [(own, False), ("remit-audit", True)]


@pytest.mark.anyio
async def test_what_another_process_locks_never_stops_the_loop(tmp_path: Path) -> None:
    with Trail.open(tmp_path / "audit.db", lock_timeout=30) as trail:
        await trail.record(event(1))
        with closing(locked(tmp_path / "audit.db")):
            waiting = asyncio.ensure_future(trail.record(event(2)))
            # The loop turns while the event waits: were the lock waited for here, this would take 30 s and time out.
            async with asyncio.timeout(10):
                for _ in range(100):
                    await asyncio.sleep(0.001)
            assert not waiting.done()
        assert (await waiting).sequence == 2


@pytest.mark.anyio
async def test_events_that_callers_commit_are_signed_in_time(tmp_path: Path) -> None:
    anchor = tmp_path / "points"
    with Trail.open(tmp_path / "audit.db", anchor=anchor, checkpoint_every=10, checkpoint_seconds=3600) as trail:
        for number in range(40):
            await trail.record(event(number))
        async with asyncio.timeout(20):
            while anchor.read_text().count("remit.audit/") < 4:  # noqa: ASYNC110  # another thread's file has no event
                await asyncio.sleep(0.01)
