"""Namespaces and the new root. See namespaces(7), user_namespaces(7), mount_setattr(2), pivot_root(2).

The zygote takes one set of namespaces for all its jails (pids, network, hostname, SysV IPC, and a user namespace when
it is not root). Each template takes a mount namespace with a root of its own, made of read-only binds.
"""

from __future__ import annotations

import os
import signal
import socket

from remit.jail import _syscall_unsafe as system
from remit.jail import _uapi

__all__ = ["Unavailable", "enter", "give_scratch", "mount_proc", "new_root"]

_SHARED = _uapi.CLONE_NEWNS | _uapi.CLONE_NEWPID | _uapi.CLONE_NEWNET | _uapi.CLONE_NEWIPC | _uapi.CLONE_NEWUTS
_READ_ONLY = _uapi.MOUNT_ATTR_RDONLY | _uapi.MOUNT_ATTR_NOSUID | _uapi.MOUNT_ATTR_NODEV
_WRITABLE = _uapi.MOUNT_ATTR_NOEXEC | _uapi.MOUNT_ATTR_NOSUID | _uapi.MOUNT_ATTR_NODEV
_DEVICE = _uapi.MOUNT_ATTR_NOEXEC | _uapi.MOUNT_ATTR_NOSUID
_LAST_ID = (1 << 32) - 1  # it stands for "no id"
_PLACES = ("/tmp", "/run", "/mnt", "/var", "/usr")  # noqa: S108 - only a place to mount on, in our own namespace


class Unavailable(Exception):
    """This machine refuses a namespace; the message says which step."""


def enter() -> None:
    """Take the namespaces that all jails share. The pid namespace holds from the next fork on.

    Raises:
        Unavailable: the machine refuses (a default container, AppArmor, `user.max_user_namespaces`).
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        if uid != 0:
            system.unshare(_uapi.CLONE_NEWUSER)
            # The same ids inside as outside: there is no root in here to confuse anybody with.
            for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
                with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                    file.write(text)
        system.unshare(_SHARED)
        system.mount("", "/", "", _uapi.MS_REC | _uapi.MS_PRIVATE)
        socket.sethostname("remit")
    except OSError as error:
        raise Unavailable(str(error)) from error


def mount_proc() -> None:
    """Show the new pid namespace in /proc; called by its first process.

    Raises:
        Unavailable: a container that masks parts of /proc does not let another one be mounted.
    """
    try:
        system.mount("proc", "/proc", "proc", _uapi.MS_NOSUID | _uapi.MS_NODEV | _uapi.MS_NOEXEC)
    except OSError as error:
        raise Unavailable(str(error)) from error


def new_root(
    *,
    read_only: list[str],
    writable: list[str],
    granted: set[str],
    hide: list[str],
    devices: list[str],
    links: list[list[str]],
    owner: list[int] | None,
) -> None:
    """Take a mount namespace and a root of binds: `read_only` and `writable` trees, `devices`, symbolic `links`.

    Args:
        granted: which of the trees are grants, and not the interpreter's own.
        hide: paths within them that are masked by an empty, unreadable, read-only mount.
        owner: as root, uid and gid of the jail: within a grant the files of whoever owns the granted path appear as
            theirs (an idmapped mount), so that what root may read, root's agent may be granted.

    Raises:
        OSError: a path is gone or has become a symbolic link, or the kernel refuses.
    """
    system.unshare(_uapi.CLONE_NEWNS)
    system.mount("", "/", "", _uapi.MS_REC | _uapi.MS_PRIVATE)
    wanted = [(path, _READ_ONLY) for path in read_only] + [(path, _WRITABLE) for path in writable]
    wanted += [(path, _DEVICE) for path in devices]
    # Copies of the trees first: the new root is mounted over a folder that may hold some of them.
    trees = []
    spaces: dict[tuple[int, int], int] = {}
    for path, attributes in sorted(wanted):
        place = system.open_real(path)
        tree = system.open_tree(place)
        if owner is not None and path in granted:
            _give_to(tree, owner, os.fstat(place), spaces)
        system.mount_setattr(tree, attributes)
        os.close(place)
        trees.append((path, tree))
    for space in spaces.values():
        os.close(space)
    root = _empty_root(1000 + 20 * (len(trees) + len(hide)))
    os.umask(0o022)
    for link, target in links:
        place_of = "." + link
        if not os.path.lexists(place_of):
            os.makedirs(os.path.dirname(place_of), exist_ok=True)
            os.symlink(target, place_of)
    for path, tree in trees:
        _attach(tree, "." + path)
    os.makedirs("./scratch/tmp", exist_ok=True)
    if not os.path.lexists("./tmp"):
        os.symlink("/scratch/tmp", "./tmp")
    _mask(hide)
    system.mount_setattr(root, _READ_ONLY, recursive=False)
    os.close(root)
    system.pivot_root(".", ".")
    system.umount_detach(".")
    os.chdir("/")


def _empty_root(inodes: int) -> int:
    """Mount a small tmpfs somewhere, go there, and return it."""
    root = _tmpfs("1m", inodes, "0755")
    base = next(place for place in _PLACES if os.path.isdir(place) and not os.path.islink(place))
    system.move_mount(root, base)
    os.chdir(base)
    return root


def _tmpfs(size: str, inodes: int, mode: str) -> int:
    context = system.fsopen("tmpfs")
    for key, value in (("size", size), ("nr_inodes", str(inodes)), ("mode", mode)):
        system.fsconfig_set(context, key, value)
    system.fsconfig_set(context, "", None)
    mounted = system.fsmount(context, _uapi.MOUNT_ATTR_NOSUID | _uapi.MOUNT_ATTR_NODEV | _uapi.MOUNT_ATTR_NOEXEC)
    os.close(context)
    return mounted


def give_scratch(pid: int, size: int) -> None:
    """Mount an empty tmpfs of `size` bytes as /tmp of the call `pid`, in its own mount namespace, from outside."""
    scratch = _tmpfs(str(size), max(64, size >> 12), "0777")
    theirs = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    ours = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        system.setns(theirs, _uapi.CLONE_NEWNS)
        try:
            system.move_mount(scratch, "/scratch/tmp")
        finally:
            system.setns(ours, _uapi.CLONE_NEWNS)
    finally:
        for descriptor in (scratch, theirs, ours):
            os.close(descriptor)


def _attach(tree: int, place: str) -> None:
    if not os.path.lexists(place):
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if _is_folder(tree):
            os.mkdir(place)
        else:
            os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))
    system.move_mount(tree, place)
    os.close(tree)


def _mask(hide: list[str]) -> None:
    """Mount an empty folder or file without any permission over each of `hide`, beneath the folder that we are in."""
    for path in hide:
        place = "." + path
        folder = os.path.isdir(place)
        mask = _tmpfs("4k", 4, "0000" if folder else "0700")
        if not folder:  # a file is masked by a file, which is made in a mount that then goes away
            system.move_mount(mask, "./scratch/tmp")
            os.close(os.open("./scratch/tmp/nothing", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o000))
            os.close(mask)
            source = system.open_real(os.path.realpath("./scratch/tmp/nothing"))
            mask = system.open_tree(source)
            os.close(source)
            system.umount_detach("./scratch/tmp")
        system.mount_setattr(mask, _READ_ONLY | _uapi.MOUNT_ATTR_NOEXEC)
        system.move_mount(mask, place)
        os.close(mask)


def _give_to(tree: int, owner: list[int], held: os.stat_result, spaces: dict[tuple[int, int], int]) -> None:
    """Have the files of the granted path's owner appear as the jail's, where the file system can (mount_setattr(2)).

    Where it cannot, they stay as they are, and `contain.template` finds out whether the jail can use the grant.
    """
    ids = (held.st_uid, held.st_gid)
    try:
        if ids not in spaces:
            spaces[ids] = _user_namespace(ids, owner)
        system.mount_setattr(tree, _uapi.MOUNT_ATTR_IDMAP, userns=spaces[ids])
    except OSError:
        return


def _user_namespace(ids: tuple[int, int], owner: list[int]) -> int:
    """Return a user namespace, as a descriptor, that maps the first ids to the second and every other to itself."""
    ready, go = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            system.unshare(_uapi.CLONE_NEWUSER)
            os.write(go, b".")
            signal.pause()
        finally:
            os._exit(1)
    os.close(go)
    try:
        if os.read(ready, 1):
            for name, inside, outside in (("uid_map", ids[0], owner[0]), ("gid_map", ids[1], owner[1])):
                with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
                    file.write(_swapped(inside, outside))
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _swapped(inside: int, outside: int) -> str:
    """Return the lines of an id map (user_namespaces(7)): one id to another, the rest but these two to themselves."""
    low, high = sorted((inside, outside))
    gaps = [(0, low), (low + 1, high), (high + 1, _LAST_ID)]
    lines = [f"{start} {start} {end - start}" for start, end in gaps if end > start]
    return "\n".join([f"{inside} {outside} 1", *lines])


def _is_folder(descriptor: int) -> bool:
    return os.path.isdir(f"/proc/self/fd/{descriptor}")
