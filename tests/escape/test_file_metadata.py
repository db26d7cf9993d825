"""G2: nothing outside the grants can be seen to exist, which needs own mounts. Without, changes are refused."""

from __future__ import annotations

from tests.escape.harness import Attacks
from tests.escape.prelude import call, os

attack = Attacks(__file__)


@attack(needs="file_metadata")
def stat_a_secret(bait):
    return os.stat(bait["secret"]).st_size


@attack(needs="file_metadata")
def access_a_secret(bait):
    return os.access(bait["secret"], os.F_OK) or None


@attack(needs="file_metadata")
def read_a_link_outside(bait):
    return os.readlink("/proc/self/exe")


@attack(needs="file_metadata")
def open_a_path_descriptor(bait):
    return os.open(bait["secret"], os.O_PATH)


@attack(needs="file_metadata")
def change_folder(bait):
    os.chdir(bait["secrets"])
    return os.getcwd()


@attack(needs="file_metadata")
def space_of_the_disk(bait):
    return os.statvfs(bait["outside"]).f_blocks


@attack
def change_a_mode(bait):
    os.chmod(bait["outside"] + "/file", 0o600)
    return "changed"


@attack
def change_a_mode_in_a_read_grant(bait):
    os.chmod(bait["read"] + "/data", 0o644)
    return "changed"


@attack(control="root")
def change_an_owner(bait):
    os.chown(bait["outside"] + "/file", bait["user"], bait["user"])
    return "changed"


@attack
def change_a_time(bait):
    os.utime(bait["outside"] + "/file", (1, 1))
    return "changed"


@attack
def set_an_attribute(bait):
    os.setxattr(bait["outside"] + "/file", "user.remit", b"x")
    return "set"


@attack
def watch_a_folder(bait):
    watch = call("inotify_init1", 0)
    return call("inotify_add_watch", watch, bait["secrets"].encode(), 0xFFF)


@attack(control="root")
def watch_everything(bait):
    return call("fanotify_init", 0, os.O_RDONLY) + 1


@attack
def make_a_folder(bait):
    os.mkdir(bait["outside"] + "/made")
    os.rmdir(bait["outside"] + "/made")
    return "made"


@attack
def lock_a_file(bait):
    import fcntl

    fcntl.flock(os.open(bait["outside"] + "/file", os.O_RDONLY), fcntl.LOCK_EX)
    return "locked"


test_stopped = attack.stopped()
test_control = attack.controlled()
