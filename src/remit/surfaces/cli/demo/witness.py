"""Witnesses that do not ask the agent: a listener on loopback, the table of processes, a place outside FOLDER."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from remit.errors import RemitError

__all__ = ["Listener", "Outside", "ProcessWatch", "beneath", "descendants", "place_outside", "still_alive"]

_SAMPLE_SECONDS = 0.005


class Listener:
    """A TCP and a UDP port on loopback. Nothing is answered: what arrives waits in the kernel until `heard` is asked.

    Raises:
        RemitError: there is no loopback to listen on, or the listener does not hear its own test.
    """

    def __init__(self) -> None:
        self._tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._tcp.bind(("127.0.0.1", 0))
            self._tcp.listen(16)
            self._udp.bind(("127.0.0.1", 0))
            self._tcp.setblocking(False)
            self._udp.setblocking(False)
            self.tcp_port: int = self._tcp.getsockname()[1]
            self.udp_port: int = self._udp.getsockname()[1]
            self._test()
        except OSError as error:
            self.close()
            reason = (error.strerror or str(error)).lower()
            raise RemitError(
                f"the demo cannot listen on 127.0.0.1: {reason}", remedy="bring the loopback interface up"
            ) from None

    def _test(self) -> None:
        """A witness that hears nothing proves nothing: let it hear this process once."""
        word = secrets.token_bytes(8)
        with socket.create_connection(("127.0.0.1", self.tcp_port), 2) as connection:
            connection.sendall(word)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
                datagrams.sendto(word, ("127.0.0.1", self.udp_port))
            heard = self.heard()
        if heard != ([word], [word]):
            raise OSError(0, "the listener did not hear its own test")

    def heard(self) -> tuple[list[bytes], list[bytes]]:
        """What has come since this was asked last: the first bytes of each TCP connection, and the datagrams."""
        connections, datagrams = [], []
        while True:
            try:
                connection, _ = self._tcp.accept()
            except BlockingIOError:
                break
            with connection:
                connection.settimeout(0.5)
                try:
                    connections.append(connection.recv(4096))
                except OSError:
                    connections.append(b"")
        while True:
            try:
                datagrams.append(self._udp.recv(4096))
            except BlockingIOError:
                break
        return connections, datagrams

    def close(self) -> None:
        """Stop listening. Idempotent."""
        self._tcp.close()
        self._udp.close()


def beneath(path: str | Path, folder: str | Path) -> bool:
    """Whether `path` is `folder` or lies in it, links followed."""
    real, root = os.path.realpath(path), os.path.realpath(folder)
    return real == root or real.startswith(root.rstrip("/") + "/")


def place_outside(folder: Path, prefix: str, more: Iterable[str | Path] = ()) -> Path:
    """A new private folder that is not in `folder`.

    Args:
        folder: where it must not be.
        prefix: how its name begins.
        more: where else to look than in the usual places for temporary files.

    Raises:
        RemitError: there is no place to write outside of `folder`.
    """
    places = [tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm", *more]  # noqa: S108  # mkdtemp makes it private
    for place in places:
        if os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK) and not beneath(place, folder):
            try:
                return Path(tempfile.mkdtemp(prefix=prefix, dir=os.path.realpath(place)))
            except OSError:
                continue
    raise RemitError(
        f"there is no place to write outside of `{folder}`, so nothing outside can be attacked",
        remedy="name a narrower folder",
    )


class Outside:
    """A place outside FOLDER that everybody may read and write by the permissions of its files: only a jail keeps it.

    Attributes:
        secret: what stands in `secret_file`.
        new_file: a file that is not there.
    """

    def __init__(self, folder: Path, more: Iterable[str | Path] = ()) -> None:
        self._place = place_outside(folder, "remit-demo-outside-", more)
        self._place.chmod(0o755)
        self.secret = f"secret-{secrets.token_hex(16)}"
        self.secret_file = self._place / "secret.txt"
        self.secret_file.write_text(self.secret, encoding="ascii")
        self.secret_file.chmod(0o644)
        drop = self._place / "drop"
        drop.mkdir()
        drop.chmod(0o777)
        self.new_file = drop / f"planted-{secrets.token_hex(8)}"

    def take_new_file(self) -> bool:
        """Whether somebody made `new_file`; it is taken away."""
        there = os.path.lexists(self.new_file)
        if there:
            self.new_file.unlink()
        return there

    def close(self) -> None:
        """Take the place away. Idempotent."""
        shutil.rmtree(self._place, ignore_errors=True)


def descendants(root: int) -> dict[tuple[int, int], int]:
    """The living processes below `root`: (pid, start time in clock ticks) -> how far below. From proc_pid_stat(5)."""
    parents: dict[int, list[tuple[int, int]]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if fields[0] not in (b"Z", b"X"):
            parents.setdefault(int(fields[1]), []).append((int(name), int(fields[19])))
    found: dict[tuple[int, int], int] = {}
    waiting = [(root, 1)]
    while waiting:
        parent, depth = waiting.pop()
        for process in parents.get(parent, ()):
            if process not in found:
                found[process] = depth
                waiting.append((process[0], depth + 1))
    return found


class ProcessWatch:
    """Looks at the table of processes again and again while something runs. A context manager.

    Args:
        root: whose descendants.
        depth: those further below than this are counted.

    Attributes:
        strangers: (pid, start time) of each process that was seen too far below.
        seen: how many descendants were seen at all; 0 means that it saw nothing, and proves nothing.
    """

    def __init__(self, root: int, depth: int) -> None:
        self._root = root
        self._depth = depth
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="remit-demo-watch", daemon=True)
        self.strangers: set[tuple[int, int]] = set()
        self.seen = 0

    def _look(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            self.look()

    def look(self) -> None:
        """Take one look."""
        now = descendants(self._root)
        self.seen = max(self.seen, len(now))
        self.strangers |= {process for process, depth in now.items() if depth > self._depth}

    def left(self) -> int:
        """How many of the strangers are still alive, wherever they are in the tree by now."""
        return still_alive(self.strangers, 0.0)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.look()


def still_alive(processes: Iterable[tuple[int, int]], seconds: float) -> int:
    """How many of these (pid, start time) are alive, after they had at most `seconds` to end."""
    deadline = time.monotonic() + seconds
    while True:
        alive = sum(_started(pid) == start for pid, start in processes)
        if not alive or time.monotonic() >= deadline:
            return alive
        time.sleep(_SAMPLE_SECONDS)


def _started(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
