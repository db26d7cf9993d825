"""G1: nothing outside the grants can be read, written or listed."""

from __future__ import annotations

from tests.escape.harness import Attacks
from tests.escape.prelude import call, ctypes, os, struct

attack = Attacks(__file__)


def reading(bait):
    return {"read": [bait["read"]]}


def writing(bait):
    return {"read": [bait["read"]], "write": [bait["write"]]}


@attack
def read_by_path(bait):
    return open(bait["secret"]).read()


@attack(spec=reading)
def read_through_a_symlink_in_a_grant(bait):
    return open(bait["read"] + "/link").read()


@attack(spec=reading)
def read_through_a_linked_folder(bait):
    return open(bait["read"] + "/up/token").read()


@attack(spec=reading)
def read_by_dotdot(bait):
    return open(bait["read"] + "/../secret/token").read()


@attack(spec=reading)
def read_by_dotdot_from_a_folder_descriptor(bait):
    folder = os.open(bait["read"], os.O_RDONLY)
    return os.read(os.open("../secret/token", os.O_RDONLY, dir_fd=folder), 99).decode()


@attack(spec=reading)
def read_through_a_path_descriptor(bait):
    folder = os.open(bait["root"], os.O_PATH)
    return os.read(os.open("secret/token", os.O_RDONLY, dir_fd=folder), 99).decode()


@attack
def list_a_folder(bait):
    return os.listdir(bait["secrets"])


@attack
def list_the_host(bait):
    return [name for name in os.listdir("/") if name in ("boot", "home", "root", "srv", "opt")] or None


@attack
def list_the_users_home(bait):
    return ["home", *os.listdir("/home")]


@attack
def read_etc_passwd(bait):
    return open("/etc/passwd").read()[:20]


@attack
def read_etc_hostname_by_raw_openat2(bait):
    how = struct.pack("=QQQ", os.O_RDONLY, 0, 0)
    return os.read(call("openat2", -100, b"/etc/hostname", how, 24), 99).decode()


@attack
def read_own_environ(bait):
    return len(open("/proc/self/environ", "rb").read()) + 1


@attack
def read_own_maps(bait):
    return open("/proc/self/maps").read()[:20]


@attack
def read_own_memory(bait):
    text = ctypes.create_string_buffer(b"here")
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        return os.pread(memory.fileno(), 4, ctypes.addressof(text)).decode()


@attack
def read_the_parents_memory_map(bait):
    return open(f"/proc/{os.getppid()}/maps").read()[:20]


@attack
def read_through_the_root_of_another(bait):
    return open(f"/proc/{bait['victim']}/root{bait['secret']}").read()


@attack
def read_through_own_root_and_cwd(bait):
    for name in ("root", "cwd"):
        try:
            return open(f"/proc/self/{name}{bait['secret']}").read()
        except OSError as error:
            last = error
    raise last


@attack
def read_through_thread_self(bait):
    return open("/proc/thread-self/status").read()[:20]


@attack
def read_the_first_process(bait):
    return open("/proc/1/status").read()[:20]


@attack
def list_processes(bait):
    return [name for name in os.listdir("/proc") if name.isdigit()] or None


@attack
def read_core_pattern(bait):
    return open("/proc/sys/kernel/core_pattern").read()


@attack(control="root")
def write_core_pattern(bait):
    with open("/proc/sys/kernel/core_pattern", "r+") as file:
        return file.write("")  # opened for writing is enough: nothing is changed


@attack
def read_cgroups(bait):
    return ["cgroup", *os.listdir("/sys/fs/cgroup")]


@attack
def read_a_device(bait):
    return os.open("/dev/null", os.O_RDWR)


@attack(control="root")
def make_a_device(bait):
    place = bait["outside"] + "/null"
    os.mknod(place, 0o020666, os.makedev(1, 3))
    os.remove(place)
    return "made"


@attack(spec=writing, control="root")
def make_a_device_in_a_grant(bait):
    place = bait["write"] + "/null"
    os.mknod(place, 0o020666, os.makedev(1, 3))
    os.remove(place)
    return "made"


@attack
def write_outside(bait):
    with open(bait["outside"] + "/file", "a") as file:
        return file.write("x")


@attack
def truncate_by_name(bait):
    os.truncate(bait["outside"] + "/file", 2)
    return "cut"


@attack(spec=reading)
def write_in_a_read_grant(bait):
    with open(bait["read"] + "/data", "a") as file:
        return file.write("x")


@attack(spec=reading)
def truncate_in_a_read_grant(bait):
    os.truncate(bait["read"] + "/data", 2)
    return "cut"


@attack(spec=reading)
def truncate_in_a_read_grant_by_opening_for_reading(bait):
    return os.open(bait["read"] + "/data", os.O_RDONLY | os.O_TRUNC)


@attack(spec=reading)
def create_in_a_read_grant(bait):
    return os.open(bait["read"] + "/new", os.O_CREAT | os.O_WRONLY)


@attack(spec=reading)
def remove_in_a_read_grant(bait):
    os.remove(bait["read"] + "/new")
    return "removed"


@attack(spec=reading)
def rename_in_a_read_grant(bait):
    os.rename(bait["read"] + "/other", bait["read"] + "/another")
    os.rename(bait["read"] + "/another", bait["read"] + "/other")
    return "renamed"


@attack(spec=reading)
def map_a_read_grant_for_writing(bait):
    return os.open(bait["read"] + "/data", os.O_RDWR)


@attack(spec=writing)
def move_a_secret_into_a_grant(bait):
    os.rename(bait["secret"], bait["write"] + "/moved")
    with open(bait["write"] + "/moved") as file:
        text = file.read()
    os.rename(bait["write"] + "/moved", bait["secret"])
    return text


@attack(spec=writing)
def hardlink_a_secret_into_a_grant(bait):
    place = bait["write"] + "/hard"
    os.link(bait["secret"], place)
    with open(place) as file:
        text = file.read()
    os.remove(place)
    return text


@attack(spec=writing)
def symlink_out_of_a_grant_and_read(bait):
    place = bait["write"] + f"/soft{os.getpid()}"
    os.symlink(bait["secret"], place)
    try:
        return open(place).read()
    finally:
        os.remove(place)


@attack(spec=writing)
def symlink_out_of_a_grant_and_write(bait):
    place = bait["write"] + f"/out{os.getpid()}"
    os.symlink(bait["outside"] + "/planted", place)
    try:
        with open(place, "w") as file:
            return file.write("x")
    finally:
        os.remove(place)


@attack(spec=lambda bait: {"write": [bait["write"]]})
def read_in_a_write_grant(bait):
    return open(bait["write"] + "/seen").read()


@attack(spec=writing)
def plant_a_set_uid_file_by_chmod(bait):
    place = bait["write"] + f"/suid{os.getpid()}"
    os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o755))
    try:
        os.chmod(place, 0o4755)
        return os.stat(place).st_mode & 0o4000 or None
    finally:
        os.remove(place)


@attack(spec=writing)
def plant_a_set_uid_file_by_open(bait):
    place = bait["write"] + f"/sgid{os.getpid()}"
    os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o6755))
    try:
        return os.stat(place).st_mode & 0o6000 or None
    finally:
        os.remove(place)


@attack(
    spec=lambda bait: {"read": [bait["read"]], "write": [bait["write"]], "hide": [bait["write"] + "/kept"]},
    needs="file_metadata",
)
def read_what_is_hidden_beneath_a_grant(bait):
    try:
        os.chmod(bait["write"] + "/kept", 0o755)
    except OSError:
        pass
    return os.listdir(bait["write"] + "/kept") or None


@attack(spec=lambda bait: {"read": [bait["read"]], "hide": [bait["read"] + "/data"]}, needs="file_metadata")
def read_a_hidden_file(bait):
    return open(bait["read"] + "/data").read() + "."


@attack(spec=lambda bait: {"write": [bait["write"]], "freeze": [bait["write"] + "/kept"]}, needs="file_metadata")
def write_what_is_frozen_beneath_a_grant(bait):
    with open(bait["write"] + "/kept/file", "a") as file:
        return file.write("x")


@attack(spec=lambda bait: {"write": [bait["write"]], "freeze": [bait["write"] + "/kept"]}, needs="file_metadata")
def move_what_is_frozen_beneath_a_grant(bait):
    os.rename(bait["write"] + "/kept", bait["write"] + "/gone")
    os.rename(bait["write"] + "/gone", bait["write"] + "/kept")
    return "moved"


@attack
def change_the_interpreter(bait):
    return os.open(os.__file__, os.O_RDWR) if os.getuid() == 0 else os.open(bait["outside"] + "/file", os.O_RDWR)


@attack(control="root")
def open_by_handle(bait):
    handle = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0) + bytes(128))
    mount_id = ctypes.create_string_buffer(8)
    call("name_to_handle_at", -100, bait["secret"].encode(), handle, mount_id, 0)
    place = os.open("/", os.O_RDONLY)
    return os.read(call("open_by_handle_at", place, handle, os.O_RDONLY), 99).decode()


@attack(control="root")
def chroot_out(bait):
    os.chroot(bait["root"])
    return os.listdir("/secret")


@attack(control="root")
def mount_something(bait):
    try:
        call("unshare", 0x20000)
    except OSError:
        pass  # so that what is tried is the mount itself
    call("mount", b"none", b"/mnt", b"tmpfs", 0, None)
    return "mounted"


@attack(control="root")
def mount_by_the_new_calls(bait):
    return call("open_tree", -100, b"/", 1)


@attack(spec=writing)
def execute_from_a_grant(bait):
    place = bait["write"] + f"/run{os.getpid()}"
    with open(place, "w") as file:
        file.write("#!/bin/sh\nexit 7\n")
    os.chmod(place, 0o755)
    try:
        return os.spawnv(os.P_WAIT, place, [place]) == 7 or None
    finally:
        os.remove(place)


test_stopped = attack.stopped()
test_control = attack.controlled()
