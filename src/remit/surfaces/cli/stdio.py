"""Standard input, output and error of a program in a jail: never the user's terminal.

A pipe, or a file that is open in one direction, is handed over as it is. For a terminal, a socket or a device the
program gets a pipe or a pseudo-terminal of its own, and a thread for each direction carries the bytes: on their way to
a terminal everything is made visible that would move its cursor, set its title or answer in the user's name.
"""

from __future__ import annotations

import codecs
import errno
import os
import select
import stat
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

__all__ = ["Neutral", "Stdio", "pass_on"]

_CHUNK: Final = 1 << 16


class Neutral:
    """Makes a stream of bytes fit for a terminal, chunk by chunk.

    Line feeds and tabs stay, a carriage return before a line feed goes; whatever else does not print as itself is
    written as an escape (see `text.visible`), and so is what is not UTF-8.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._return = False

    def feed(self, data: bytes, *, last: bool = False) -> bytes:
        """What to print for `data`; `last` also lets out what waited for its other half."""
        text = ("\r" if self._return else "") + self._decoder.decode(data, last)
        self._return = text.endswith("\r") and not last
        if self._return:
            text = text[:-1]
        text = text.replace("\r\n", "\n")
        if not text.isprintable():
            text = "".join(
                letter if letter in "\n\t" or letter.isprintable() else letter.encode("unicode_escape").decode()
                for letter in text
            )
        return text.encode()


class _Kept:
    """Takes bytes up to a bound, and lets the rest go."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._data = bytearray()

    def __call__(self, data: bytes) -> None:
        self._data += data[: max(0, self._bound - len(self._data))]

    def __bytes__(self) -> bytes:
        return bytes(self._data)


class Stdio:
    """What a program gets, and the threads that carry what it does not get directly.

    Args:
        keep: keep up to so many bytes of its output and of its errors instead of passing them on; None passes them on.

    Attributes:
        descriptors: the three for the jail; closed by `finish`.
        terminal: whether one of them is a pseudo-terminal.
    """

    def __init__(self, keep: int | None = None) -> None:
        self._threads: list[threading.Thread] = []
        self._ours: list[int] = []  # the jail's ends, which must go before the other ends see the end
        self._kept: tuple[_Kept, ...] = ()
        self._stop_read, self._stop_write = os.pipe()
        self.terminal = False
        self._shared: int | None = None  # output and errors to one terminal come through one pseudo-terminal, in order
        first = self._input()
        if keep is None:
            self.descriptors = [first, self._output(1), self._output(2)]
        else:
            self._kept = (_Kept(keep), _Kept(keep))
            self.descriptors = [first, *(self._carried(sink) for sink in self._kept)]

    def finish(self) -> tuple[bytes, bytes]:
        """Carry what is left, after the program has ended; returns what was kept of its output and its errors."""
        for descriptor in dict.fromkeys(self._ours):
            os.close(descriptor)
        os.write(self._stop_write, b".")
        for thread in self._threads:
            thread.join()
        os.close(self._stop_read)
        os.close(self._stop_write)
        return (bytes(self._kept[0]), bytes(self._kept[1])) if self._kept else (b"", b"")

    # --- directions

    def _input(self) -> int:
        if _fit(0, os.O_RDONLY):
            return 0
        if not _open(0):
            self._ours.append(os.open(os.devnull, os.O_RDONLY))
            return self._ours[-1]
        theirs, ours = os.pipe()
        self._ours.append(theirs)
        self._start("input", self._carry_in, ours)
        return theirs

    def _output(self, number: int) -> int:
        if _fit(number, os.O_WRONLY):
            return number
        if not _open(number):
            self._ours.append(os.open(os.devnull, os.O_WRONLY))
            return self._ours[-1]
        if not os.isatty(number):
            return self._carried(_writer(number))
        if self._shared is not None and os.path.sameopenfile(1, 2):
            return self._shared
        import termios
        import tty

        ours, theirs = os.openpty()
        tty.setraw(theirs)
        with suppress(OSError, termios.error):
            termios.tcsetwinsize(theirs, termios.tcgetwinsize(number))
        self.terminal = True
        self._shared = theirs
        self._ours.append(theirs)
        self._start("output", _carry_out, ours, _neutral_writer(number))
        return theirs

    def _carried(self, sink: Callable[[bytes], None]) -> int:
        ours, theirs = os.pipe()
        self._ours.append(theirs)
        self._start("output", _carry_out, ours, sink)
        return theirs

    def _start(self, name: str, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, name=f"remit-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _carry_in(self, sink: int) -> None:
        """Carry the user's input until it ends, or the program has."""
        try:
            poll = select.poll()
            poll.register(0, select.POLLIN)
            poll.register(self._stop_read, select.POLLIN)
            while not any(descriptor == self._stop_read for descriptor, _ in poll.poll()):
                data = os.read(0, _CHUNK)
                if not data:
                    return
                _write_all(sink, data)
        except OSError:
            return  # the terminal hung up, or the program reads no more
        finally:
            os.close(sink)


def _carry_out(source: int, sink: Callable[[bytes], None]) -> None:
    """Carry what the program writes until no one can write there any more."""
    try:
        while data := _read(source):
            sink(data)
        sink(b"")
    except OSError:
        return  # nobody reads it any more: closing our end tells the program so
    finally:
        os.close(source)


def _read(source: int) -> bytes:
    try:
        return os.read(source, _CHUNK)
    except OSError as error:
        if error.errno == errno.EIO:  # a pseudo-terminal's way to say that the other side is closed
            return b""
        raise


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _writer(descriptor: int) -> Callable[[bytes], None]:
    return lambda data: _write_all(descriptor, data)


def _neutral_writer(descriptor: int) -> Callable[[bytes], None]:
    neutral = Neutral()
    return lambda data: _write_all(descriptor, neutral.feed(data, last=not data))


def _open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _fit(descriptor: int, direction: int) -> bool:
    """Whether a descriptor of ours may be a jail's: a pipe or file that is open in this one direction, or /dev/null."""
    import fcntl

    try:
        status = os.fstat(descriptor)
        access = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
    except OSError:
        return False
    if stat.S_ISCHR(status.st_mode):
        return status.st_rdev == os.makedev(1, 3)  # /dev/null, null(4)
    return access == direction and (stat.S_ISFIFO(status.st_mode) or stat.S_ISREG(status.st_mode))


def pass_on(data: bytes, number: int) -> None:
    """Write what a function wrote to our own output (1) or errors (2); made visible where that is a terminal."""
    stream = sys.stdout if number == 1 else sys.stderr
    if not data or stream is None:
        return
    stream.flush()
    if stream.isatty():
        data = Neutral().feed(data, last=True)
    stream.buffer.write(data)
    stream.buffer.flush()
