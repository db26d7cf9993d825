"""A host of jails, as a process of its own: takes pickled jobs on standard input, answers with pickled endings.

The tests start one per setting, as the user and with the features of that setting. Arguments: the folder of the
sources, what to simulate as JSON, and `refuse` to have the kernel itself refuse user namespaces.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import struct
import sys


def refuse_user_namespaces() -> None:
    """Enter a user namespace in which no other may be made, and give up the capabilities that it came with."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(0x10000000) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    with open("/proc/sys/user/max_user_namespaces", "w", encoding="ascii") as file:
        file.write("0")
    if libc.capset(struct.pack("=Ii", 0x20080522, 0), bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def main() -> None:
    source, simulate, refuse = sys.argv[1:4]
    if refuse:
        refuse_user_namespaces()
    sys.path.insert(0, source)
    from remit.jail import channel
    from remit.jail.spec import JailSpec
    from remit.jail.supervisor import Supervisor, Unfit, Unheld

    jobs, answers = sys.stdin.buffer, sys.stdout.buffer

    def answer(value: object) -> None:
        pickle.dump(value, answers)
        answers.flush()

    supervisor = Supervisor(simulate=json.loads(simulate))
    answer(supervisor.features)
    while True:
        try:
            fields, request = pickle.load(jobs)
        except EOFError:
            break
        try:
            spec = JailSpec(**fields)
            template = supervisor.template(spec)
            template.ready.result(40)
            ending = supervisor.submit(template, channel.pack(request), spec).future.result(60)
            answer((ending, tuple(template.refused)))
        except Unheld as error:
            answer((("unheld", error.guarantee), ()))
        except Unfit as error:
            answer((("unfit", str(error)), ()))
    supervisor.close()


if __name__ == "__main__":
    main()
