"""Namespaces and the new root. See namespaces(7), user_namespaces(7), mount_setattr(2), pivot_root(2).

The zygote takes one set of namespaces for all its jails (pids, network, hostname, SysV IPC, and a user namespace when
it is not root). Each template takes a mount namespace with a root of its own, made of read-only binds.
"""

from __future__ import annotations

import os
import socket

from remit.jail import _syscall_unsafe as system
from remit.jail import _uapi

__all__ = ["Unavailable", "enter", "mount_proc", "new_root"]

_SHARED = _uapi.CLONE_NEWNS | _uapi.CLONE_NEWPID | _uapi.CLONE_NEWNET | _uapi.CLONE_NEWIPC | _uapi.CLONE_NEWUTS
_READ_ONLY = _uapi.MOUNT_ATTR_RDONLY | _uapi.MOUNT_ATTR_NOSUID | _uapi.MOUNT_ATTR_NODEV
_WRITABLE = _uapi.MOUNT_ATTR_NOEXEC | _uapi.MOUNT_ATTR_NOSUID | _uapi.MOUNT_ATTR_NODEV
_DEVICE = _uapi.MOUNT_ATTR_NOEXEC | _uapi.MOUNT_ATTR_NOSUID
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
    devices: list[str],
    links: list[list[str]],
    owner: tuple[int, int] | None,
) -> None:
    """Take a mount namespace and a root of binds: `read_only` and `writable` trees, `devices`, symbolic `links`.

    Args:
        owner: as root, (uid, gid) of the jail: files of root appear as theirs within the grants (an idmapped mount),
            so that what root may read, root's agent may be granted.

    Raises:
        OSError: a path is gone, or the kernel refuses.
    """
    system.unshare(_uapi.CLONE_NEWNS)
    system.mount("", "/", "", _uapi.MS_REC | _uapi.MS_PRIVATE)
    wanted = [(path, _READ_ONLY) for path in read_only] + [(path, _WRITABLE) for path in writable]
    wanted += [(path, _DEVICE) for path in devices]
    # Copies of the trees first: the new root is mounted over a folder that may hold some of them.
    trees = []
    for path, attributes in sorted(wanted):
        tree = system.open_tree(path)
        system.mount_setattr(tree, attributes)
        trees.append((path, tree))
    context = system.fsopen("tmpfs")
    for key, value in (("size", "1m"), ("nr_inodes", str(1000 + 20 * len(trees))), ("mode", "0755")):
        system.fsconfig_set(context, key, value)
    system.fsconfig_set(context, "", None)
    root = system.fsmount(context, _uapi.MOUNT_ATTR_NOSUID | _uapi.MOUNT_ATTR_NODEV)
    os.close(context)
    base = next(place for place in _PLACES if os.path.isdir(place) and not os.path.islink(place))
    system.move_mount(root, base)
    os.chdir(base)
    os.umask(0o022)
    for link, target in links:
        place = "." + link
        if not os.path.lexists(place):
            os.makedirs(os.path.dirname(place), exist_ok=True)
            os.symlink(target, place)
    for path, tree in trees:
        place = "." + path
        if not os.path.lexists(place):
            os.makedirs(os.path.dirname(place), exist_ok=True)
            if _is_folder(tree):
                os.mkdir(place)
            else:
                os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))
        system.move_mount(tree, place)
        os.close(tree)
    os.makedirs("./scratch/tmp", exist_ok=True)
    if not os.path.lexists("./tmp"):
        os.symlink("/scratch/tmp", "./tmp")
    system.mount_setattr(root, _READ_ONLY, recursive=False)
    os.close(root)
    system.pivot_root(".", ".")
    system.umount_detach(".")
    os.chdir("/")


def _is_folder(descriptor: int) -> bool:
    return os.path.isdir(f"/proc/self/fd/{descriptor}")
