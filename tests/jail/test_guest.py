from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from remit.jail import guest


@pytest.fixture
def watch() -> guest.Watch:
    return guest.Watch(["/data", "/usr"], ["/out"])


def heard(watch: guest.Watch, event: str, *arguments: Any) -> None:
    watch._events[event](arguments)


def error(number: int, name: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), name) if name else OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("event", "arguments", "raised", "grant"),
    [
        ("open", ("/etc/passwd", "r", os.O_RDONLY), error(errno.ENOENT, "/etc/passwd"), "file_system:read:/etc/passwd"),
        ("open", ("/data/x", "w", os.O_WRONLY), error(errno.EACCES, "/data/x"), "file_system:write:/data/x"),
        ("open", ("/data/x", "r", os.O_RDONLY), error(errno.ENOENT, "/data/x"), ""),
        ("open", ("/etc/passwd", "r", os.O_RDONLY), error(errno.ENOENT, "/data/other"), ""),
        ("open", ("/etc/passwd", "r", os.O_RDONLY), error(errno.EPERM), ""),
        ("open", ("/etc/passwd", "r", os.O_RDONLY), error(errno.EISDIR, "/etc/passwd"), ""),
        ("open", ("/database", "r", os.O_RDONLY), error(errno.ENOENT, "/database"), "file_system:read:/database"),
        ("os.listdir", ("/home",), error(errno.EACCES, "/home"), "file_system:read:/home"),
        ("os.mkdir", ("/home/x", 0o777, -1), error(errno.EROFS, "/home/x"), "file_system:write:/home/x"),
        ("os.remove", ("/out/x", -1), error(errno.ENOENT, "/out/x"), ""),
        ("socket.__new__", (None, 2, 1, 0), error(errno.EACCES), "network:HOST:PORT"),
        ("socket.connect", (None, ("example.org", 443)), error(errno.EACCES), "network:example.org:443"),
        ("socket.connect", (None, ("::1", 443)), error(errno.EACCES), "network:[::1]:443"),
        ("socket.getaddrinfo", ("a.example", 80, 0, 0, 0), socket.gaierror(-3, "again"), "network:a.example:80"),
        ("open", ("/etc/hosts", "r", os.O_RDONLY), socket.gaierror(-3, "again"), ""),
        ("subprocess.Popen", ("git", ["git"], None, None), error(errno.EPERM), "basic_execution:git"),
        ("subprocess.Popen", ("git", ["git"], None, None), error(errno.ENOENT, "git"), "basic_execution:git"),
        ("os.system", (b"ls",), error(errno.EPERM), "basic_execution:sh"),
        ("os.fork", (), error(errno.EPERM), "limit processes=2 or more"),
    ],
)
def test_the_missing_grant_is_named_when_it_is_the_cause(
    watch: guest.Watch, event: str, arguments: tuple[Any, ...], raised: OSError, grant: str
) -> None:
    heard(watch, event, *arguments)
    assert watch.missing(raised) == grant


def test_what_is_no_error_of_the_system_names_nothing(watch: guest.Watch) -> None:
    assert watch.missing(error(errno.EACCES)) == ""
    heard(watch, "socket.__new__", None, 2, 1, 0)
    assert watch.missing(ValueError()) == ""


@pytest.fixture
def small() -> Iterator[int]:
    """A file that cannot grow past 8 bytes."""
    import fcntl

    descriptor = os.memfd_create("small", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 8)
    fcntl.fcntl(descriptor, 1033, 4 | 2)  # F_ADD_SEALS: F_SEAL_GROW, F_SEAL_SHRINK
    yield descriptor
    os.close(descriptor)


def test_output_ends_quietly_at_its_end(small: int) -> None:
    with guest.Output(small, "w", closefd=False) as output:
        assert output.write(b"12345678") == 8
        assert output.write(b"more") == 4
    assert os.pread(small, 99, 0) == b"12345678"


def test_other_errors_of_the_output_are_errors() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with guest.Output(writing, "w") as output, pytest.raises(BrokenPipeError):
        output.write(b"x")


def test_an_exception_is_told_as_text_whatever_it_is() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise SystemExit

    told = guest.explain(Odd())
    assert told["message"] == "<its __str__ raised>"
    assert told["type"].endswith("Odd")
    assert guest.explain(ValueError("\ud800"))["message"] == "?"
    assert len(guest.explain(ValueError("x" * 1_000_000))["message"]) <= 16_384


def test_the_projects_modules_come_from_their_text(tmp_path: Path) -> None:
    sources = guest.Sources({"a": ["/x/a.py", "VALUE = 7", False], "p": ["", "", True]})
    assert sources.find_spec("b") is None
    spec = sources.find_spec("a")
    assert spec is not None
    assert spec.origin == "/x/a.py"
    assert sources.get_code("a").co_filename == "/x/a.py"
    assert sources.get_source("a") == "VALUE = 7"
    package = sources.find_spec("p")
    assert package is not None
    assert package.submodule_search_locations is not None
