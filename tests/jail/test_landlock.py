"""Each right alone, in a process of its own, under each ABI there is: the oracle is whether the file changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from remit.jail import _syscall_unsafe as system
from remit.jail import _uapi, landlock

ABIS = [abi for abi in range(1, 8) if abi <= system.landlock_abi()]


def confined(abi: int, paths: list[tuple[str, int]], work: Callable[[], object]) -> bool:
    """Whether `work` goes through without an error under these rules, in a fork."""
    pid = os.fork()
    if pid == 0:
        try:
            system.prctl(_uapi.PR_SET_NO_NEW_PRIVS, 1)
            landlock.restrict(abi, paths)
        except BaseException:
            os._exit(2)
        try:
            work()
        except OSError:
            os._exit(1)
        finally:
            os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 1), "the confinement itself failed"
    return code == 0


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    if not ABIS:
        pytest.skip("needs landlock: this kernel has none")
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("text")
    return tmp_path


@pytest.mark.parametrize("abi", ABIS)
@pytest.mark.parametrize("right", ["READ", "WRITE", "LIST", "EXECUTE"])
def test_a_right_allows_what_it_says_and_nothing_else(tree: Path, abi: int, right: str) -> None:
    paths = [(str(tree / "in"), getattr(landlock, right))]
    work = {
        "read": lambda where: (tree / where / "file").read_text,
        "list": lambda where: lambda: sorted(os.listdir(tree / where)),
        "write": lambda where: lambda: os.open(tree / where / "file", os.O_WRONLY),
        "create": lambda where: lambda: os.open(tree / where / f"new{right}{abi}", os.O_CREAT | os.O_WRONLY),
        "folder": lambda where: lambda: os.mkdir(tree / where / f"dir{right}{abi}"),
        "remove": lambda where: lambda: os.remove(tree / where / "file"),
        "fifo": lambda where: lambda: os.mkfifo(tree / where / f"fifo{right}{abi}"),
    }
    allowed = {
        "READ": {"read", "list"},
        "LIST": {"list"},
        "WRITE": {"write", "create", "folder", "remove"},
        "EXECUTE": set(),
    }
    for name, attempt in work.items():
        assert not confined(abi, paths, attempt("out")), (name, "outside")
        assert confined(abi, paths, attempt("in")) == (name in allowed[right]), name


@pytest.mark.parametrize("abi", [abi for abi in ABIS if abi >= 3])
def test_truncation_is_writing(tree: Path, abi: int) -> None:
    paths = [(str(tree / "in"), landlock.READ)]
    assert not confined(abi, paths, lambda: os.truncate(tree / "in/file", 1))
    assert not confined(abi, paths, lambda: os.open(tree / "in/file", os.O_RDONLY | os.O_TRUNC))
    assert confined(abi, [(str(tree / "in"), landlock.WRITE)], lambda: os.truncate(tree / "in/file", 1))


def test_a_path_that_became_a_link_is_not_followed(tree: Path) -> None:
    (tree / "link").symlink_to("out")
    with pytest.raises(OSError, match="link"):
        landlock.restrict(ABIS[-1], [(str(tree / "link"), landlock.READ)])
    with pytest.raises(OSError, match="nothing"):
        landlock.restrict(ABIS[-1], [(str(tree / "nothing"), landlock.READ)])
    (tree / "out/file").read_text()  # this process was not confined by the attempts


def test_siblings_cannot_signal_each_other(tree: Path) -> None:
    if ABIS[-1] < 6:
        pytest.skip("needs landlock: scopes came with ABI 6")
    reading, writing = os.pipe()
    layers = [landlock.sibling_layer(ABIS[-1]) for _ in range(2)]
    pids = []
    for number, layer in enumerate(layers):
        pid = os.fork()
        if pid == 0:
            code = 9
            try:
                system.prctl(_uapi.PR_SET_NO_NEW_PRIVS, 1)
                system.landlock_restrict(layer)
                if number == 0:
                    os.write(writing, b".")
                    os.read(os.pipe()[0], 1)
                os.kill(pids[0], 0)
                code = 0
            except PermissionError:
                code = 1
            finally:
                os._exit(code)
        pids.append(pid)
        if number == 0:
            os.read(reading, 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pids[1], 0)[1]) == 1
    os.kill(pids[0], 9)
    os.waitpid(pids[0], 0)
    for descriptor in (reading, writing, *layers):
        os.close(descriptor)
