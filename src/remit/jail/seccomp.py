"""Which system calls a jail may make: rules, a pure compiler to BPF, and an evaluator for the tests.

Mechanism (`assemble`, `evaluate`) and policy (`template_rules`, `tail_rules`) are apart. The filter is an allowlist:
a call that the table knows and the rules do not name is EPERM, a number that the table does not know is ENOSYS, so
that libraries fall back. Calls that a program makes only when it wants out go to the supervisor (`NOTIFY`), which
denies and records them. Integer arguments are compared by their low 32 bits, as the kernel itself reads them; a
pointer is compared with all 64. Sources: seccomp(2), `Documentation/userspace-api/seccomp_filter.rst`.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from remit.jail import _uapi

__all__ = [
    "ALLOW",
    "KILL",
    "NOTIFY",
    "PID_PLACE",
    "Clause",
    "Test",
    "assemble",
    "deny",
    "evaluate",
    "tail_rules",
    "template_rules",
]

ALLOW = _uapi.SECCOMP_RET_ALLOW
NOTIFY = _uapi.SECCOMP_RET_USER_NOTIF
KILL = _uapi.SECCOMP_RET_KILL_PROCESS
PID_PLACE = 0x7E57AB1E  # larger than any pid (pid_max is at most 1 << 22), and no flag or errno


def deny(number: int = errno.EPERM) -> int:
    """Return the action that fails the call with errno `number`."""
    return _uapi.SECCOMP_RET_ERRNO | number


@dataclass(frozen=True, slots=True)
class Test:
    """Whether `argument & mask == value` (or not, with `negate`); `wide` compares 64 bits instead of the low 32."""

    argument: int
    value: int
    mask: int = 0xFFFFFFFF
    negate: bool = False
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Clause:
    """`action` when all `tests` hold. A rule is a sequence of clauses: the first that holds decides."""

    action: int
    tests: tuple[Test, ...] = ()


Rules = Mapping[str, int | tuple[Clause, ...]]

# --- policy ---------------------------------------------------------------------------------------------------------

_ALLOWED = """
read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 close close_range stat fstat lstat newfstatat
statx access faccessat faccessat2 lseek getdents getdents64 readlink readlinkat getcwd chdir fchdir dup dup2 dup3 pipe
pipe2 poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd
eventfd2 timerfd_create timerfd_settime timerfd_gettime signalfd signalfd4 brk munmap mprotect msync madvise mincore
mlock munlock membarrier pkey_alloc pkey_free pkey_mprotect rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending
rt_sigtimedwait rt_sigsuspend sigaltstack clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time
getpid gettid getppid getuid geteuid getgid getegid getresuid getresgid getgroups getpgrp getpgid getsid uname sysinfo
getrlimit getrusage times getcpu sched_yield sched_getaffinity sched_getparam sched_getscheduler sched_getattr
sched_get_priority_max sched_get_priority_min sched_rr_get_interval futex futex_waitv set_robust_list get_robust_list
set_tid_address rseq exit exit_group wait4 waitid restart_syscall fsync fdatasync sync_file_range fallocate ftruncate
rename renameat renameat2 mkdir mkdirat rmdir unlink unlinkat link linkat symlink symlinkat flock umask
copy_file_range sendfile splice tee fadvise64 readahead getrandom timer_create timer_settime timer_gettime
timer_getoverrun timer_delete setitimer getitimer alarm pause recvfrom recvmsg shutdown getsockopt getsockname
getpeername statfs fstatfs capget getpriority ioprio_get get_mempolicy setsid setpgid mlock2 accept accept4
""".split()  # noqa: SIM905 - a table that is read as text

# What a program calls only when it wants more than a jail gives: the supervisor hears of it.
_NOTIFIED = """
socket connect bind listen execve execveat ptrace mount umount2 pivot_root chroot bpf perf_event_open keyctl add_key
request_key userfaultfd kexec_load kexec_file_load init_module finit_module delete_module unshare setns
open_by_handle_at name_to_handle_at process_vm_readv process_vm_writev kcmp pidfd_getfd fsopen fsmount fsconfig fspick
open_tree move_mount mount_setattr open_tree_attr swapon swapoff reboot acct quotactl iopl ioperm fanotify_init
lookup_dcookie
""".split()  # noqa: SIM905 - a table that is read as text

# Absent, as on an older kernel, so that libraries fall back to what is there.
_ABSENT = """
clone3 io_uring_setup io_uring_enter io_uring_register memfd_create memfd_secret rseq_slice map_shadow_stack cachestat
statmount listmount mseal futex_wake futex_wait futex_requeue landlock_create_ruleset landlock_add_rule pidfd_open
pidfd_send_signal process_madvise process_mrelease set_mempolicy_home_node lsm_get_self_attr lsm_set_self_attr
lsm_list_modules setxattrat getxattrat listxattrat removexattrat file_getattr file_setattr openat2
""".split()  # noqa: SIM905 - a table that is read as text

# As on a file system that has none: libraries copy a file without them.
_EXTENDED = """
setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr
fremovexattr
""".split()  # noqa: SIM905 - a table that is read as text

# They change a file by name outside of what Landlock governs: only where every mount outside the grants is read-only.
_ATTRIBUTES = """
chmod fchmod fchmodat fchmodat2 chown fchown fchownat lchown utime utimes utimensat futimesat
""".split()  # noqa: SIM905 - a table that is read as text

# Which argument is the mode of a file that is made or changed: set-uid and set-gid bits are refused, because in a
# write grant the file is the host's.
_MODES = {"open": 2, "openat": 3, "creat": 1, "chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2}
_O_ACCMODE, _O_TRUNC = 0o3, 0o1000

_THREAD = _uapi.CLONE_VM | _uapi.CLONE_FS | _uapi.CLONE_FILES | _uapi.CLONE_SIGHAND | _uapi.CLONE_THREAD
_NAMESPACES = (
    _uapi.CLONE_NEWNS
    | _uapi.CLONE_NEWCGROUP
    | _uapi.CLONE_NEWUTS
    | _uapi.CLONE_NEWIPC
    | _uapi.CLONE_NEWUSER
    | _uapi.CLONE_NEWPID
    | _uapi.CLONE_NEWNET
    | _uapi.CLONE_PARENT
    | _uapi.CLONE_PTRACE
)
_MSG_OOB, _MSG_FASTOPEN = 0x1, 0x20000000
_SOCK_TYPE = 0xFFFFFFFF & ~(0o4000 | 0o2000000)  # without SOCK_NONBLOCK and SOCK_CLOEXEC
_MAP_SHARED_ANONYMOUS = 0x01 | 0x20
_MAP_GROWSDOWN = 0x100
_SIGKILL = 9
_SOL_SOCKET = 1
_SOCKET_OPTIONS = (
    2,  # SO_REUSEADDR
    6,  # SO_BROADCAST
    7,  # SO_SNDBUF
    8,  # SO_RCVBUF
    9,  # SO_KEEPALIVE
    10,  # SO_OOBINLINE
    13,  # SO_LINGER
    15,  # SO_REUSEPORT
    16,  # SO_PASSCRED
    20,  # SO_RCVTIMEO
    21,  # SO_SNDTIMEO
    66,  # SO_RCVTIMEO_NEW
    67,  # SO_SNDTIMEO_NEW
)
_ARCH_SEGMENTS = (0x1001, 0x1002, 0x1003, 0x1004)  # set and get GS and FS
_PRCTL_ALLOWED = (
    _uapi.PR_SET_NAME,
    _uapi.PR_GET_NAME,
    _uapi.PR_GET_DUMPABLE,
    _uapi.PR_GET_PDEATHSIG,
    _uapi.PR_GET_NO_NEW_PRIVS,
    _uapi.PR_GET_SECCOMP,
    _uapi.PR_GET_TIMERSLACK,
    _uapi.PR_GET_TID_ADDRESS,
    _uapi.PR_GET_THP_DISABLE,
    _uapi.PR_CAPBSET_READ,
    _uapi.PR_SET_VMA,
)
_FCNTL_ALLOWED = (
    *range(8),  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_SETLK, F_SETLKW
    9,  # F_GETOWN
    36,  # F_OFD_GETLK
    37,  # F_OFD_SETLK
    38,  # F_OFD_SETLKW
    1030,  # F_DUPFD_CLOEXEC
    1032,  # F_GETPIPE_SZ
    1034,  # F_GET_SEALS
)
_IOCTL_ALLOWED = (
    0x5401,  # TCGETS
    0x5402,  # TCSETS
    0x5403,  # TCSETSW
    0x5404,  # TCSETSF
    0x5413,  # TIOCGWINSZ
    0x540F,  # TIOCGPGRP
    0x5410,  # TIOCSPGRP
    0x541B,  # FIONREAD
    0x5421,  # FIONBIO
    0x5450,  # FIONCLEX
    0x5451,  # FIOCLEX
)


def template_rules(
    *,
    programs: bool,
    processes: bool,
    threads: bool,
    own_mounts: bool,
    child_flags: int,
    lean: bool = False,
    signals: bool = True,
    truncation: bool = True,
    remap: bool = True,
) -> Rules:
    """Return the rules of the long filter, which a template carries before it imports anything.

    Args:
        programs: whether exec is decided by Landlock (a program was granted) or refused.
        processes: whether the call may fork, vfork and reap.
        threads: whether the call may start threads.
        own_mounts: whether every mount outside the write grants is read-only, so that chmod and the like may run.
        child_flags: the exact clone flags by which the template forks a call.
        lean: calls add no filter of their own, so this one closes what the tail would; the supervisor lets the
            template's own clone go on, and nobody else's.
        signals: whether something else (Landlock's scope, a uid of its own) keeps a template's signals to itself.
        truncation: whether something else (Landlock ABI 3, read-only mounts) governs truncation by name.
        remap: whether the stack is sealed, or mremap(2) would grow it past the memory limit, which does not count it.
    """
    rules: dict[str, int | tuple[Clause, ...]] = dict.fromkeys(_ALLOWED, ALLOW)
    rules.update(dict.fromkeys(_NOTIFIED, NOTIFY))
    rules.update(dict.fromkeys(_ABSENT, deny(errno.ENOSYS)))
    rules.update(dict.fromkeys(_EXTENDED, deny(errno.EOPNOTSUPP)))
    refused, allowed = Clause(deny()), Clause(ALLOW)
    if own_mounts:
        rules.update(dict.fromkeys(_ATTRIBUTES, ALLOW))
    for name, place in _MODES.items():
        if own_mounts or name not in _ATTRIBUTES:
            setting = tuple(Clause(deny(), (Test(place, bit, mask=bit),)) for bit in (0o4000, 0o2000))
            rules[name] = (*setting, allowed)
    if truncation:
        rules["truncate"] = ALLOW
    else:  # O_RDONLY | O_TRUNC truncates, and before ABI 3 Landlock takes it for reading
        for name, place in (("open", 1), ("openat", 2)):
            known = rules[name]
            quiet = Clause(deny(errno.EACCES), (Test(place, _O_TRUNC, mask=_O_TRUNC | _O_ACCMODE),))
            rules[name] = (quiet, *(known if isinstance(known, tuple) else ()))
    rules["mremap"] = ALLOW if remap else deny(errno.ENOMEM)
    rules["arch_prctl"] = (*(Clause(ALLOW, (Test(0, code),)) for code in _ARCH_SEGMENTS), Clause(deny(errno.EINVAL)))
    options = (Clause(ALLOW, (Test(1, _SOL_SOCKET), Test(2, option))) for option in _SOCKET_OPTIONS)
    rules["setsockopt"] = (*options, Clause(deny(errno.ENOPROTOOPT)))
    clauses = [Clause(NOTIFY if lean else ALLOW, (Test(0, child_flags),))]
    thread = (Test(0, _THREAD, mask=_THREAD), Test(0, 0, mask=_NAMESPACES))
    clauses.append(Clause(ALLOW if threads else deny(errno.EAGAIN), thread))
    if processes:
        clauses.append(Clause(ALLOW, (Test(0, 0, mask=_NAMESPACES | _uapi.CLONE_THREAD),)))
        rules.update({"fork": ALLOW, "vfork": ALLOW, "pidfd_open": ALLOW, "pidfd_send_signal": ALLOW})
    else:
        rules.update({"fork": NOTIFY, "vfork": NOTIFY})
    rules["clone"] = (*clauses, Clause(NOTIFY))
    if programs:
        rules.update({"execve": ALLOW, "execveat": ALLOW})
    # RLIMIT_DATA counts neither shared anonymous memory nor a mapping that grows like a stack (THREAT_MODEL.md, G5).
    uncounted = (_MAP_SHARED_ANONYMOUS, _MAP_GROWSDOWN)
    rules["mmap"] = (*(Clause(deny(errno.ENOMEM), (Test(3, flags, mask=flags),)) for flags in uncounted), allowed)
    pair = [Clause(ALLOW, (Test(0, 1), Test(1, kind, mask=_SOCK_TYPE))) for kind in (1, 5)]  # STREAM, SEQPACKET
    rules["socketpair"] = (*pair, Clause(deny(errno.EACCES)))
    out_of_band = Clause(deny(errno.EOPNOTSUPP), (Test(3, _MSG_OOB, mask=_MSG_OOB),))
    fast_open = Clause(deny(errno.EOPNOTSUPP), (Test(3, _MSG_FASTOPEN, mask=_MSG_FASTOPEN),))
    rules["sendto"] = (Clause(NOTIFY, (Test(4, 0, negate=True, wide=True),)), out_of_band, fast_open, allowed)
    message = tuple(Clause(deny(errno.EOPNOTSUPP), (Test(2, flag, mask=flag),)) for flag in (_MSG_OOB, _MSG_FASTOPEN))
    rules["sendmsg"] = (*message, allowed)
    rules["prctl"] = (
        *(Clause(ALLOW, (Test(0, option),)) for option in _PRCTL_ALLOWED),
        # The call sets it once more, to the same; without it a stray child of a template would outlive the zygote.
        Clause(ALLOW, (Test(0, _uapi.PR_SET_PDEATHSIG), Test(1, _SIGKILL))),
        refused,
    )
    rules["fcntl"] = (*(Clause(ALLOW, (Test(1, command),)) for command in _FCNTL_ALLOWED), refused)
    rules["ioctl"] = (
        *(Clause(ALLOW, (Test(1, request),)) for request in _IOCTL_ALLOWED),
        Clause(deny(errno.ENOTTY)),
    )
    rules["personality"] = (Clause(ALLOW, (Test(0, 0xFFFFFFFF),)), refused)
    # Signals, limits and one more filter stay open for the template; the tail filter closes them for the call.
    rules["landlock_restrict_self"] = ALLOW
    # A filter of the call's own could turn what is notified into a quiet error, and nobody would see what it tries.
    rules["seccomp"] = deny() if lean else ALLOW
    if signals:
        rules.update(dict.fromkeys(("kill", "tgkill"), ALLOW))
    if not processes and not programs:  # by its session the zygote knows whose a stray child is
        rules["setsid"] = deny()
    if processes:  # a pid namespace of its own keeps everybody else out of sight
        rules.update(dict.fromkeys(("tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"), ALLOW))
    # The zygote sets every limit from outside; inside they can only be read, and only one's own.
    rules["prlimit64"] = (Clause(deny(), (Test(2, 0, negate=True, wide=True),)), Clause(ALLOW, (Test(0, 0),)), refused)
    rules["capset"] = ALLOW  # it can only lower; the call empties what its own user namespace gave
    return rules


def tail_rules(*, single: bool) -> Rules:
    """Return the rules of the short filter that a call adds for itself; what they do not name stays as it was.

    Args:
        single: the call is one process, so that it may signal only itself: `PID_PLACE` stands for its own pid, which
            `contain.call` fills in. A call that may have children has a pid namespace of its own instead.
    """
    refused = Clause(deny())
    rules: dict[str, int | tuple[Clause, ...]] = {
        "clone": (Clause(deny(), (Test(0, _uapi.CLONE_PARENT, mask=_uapi.CLONE_PARENT),)), Clause(ALLOW)),
        "seccomp": deny(),
        "prctl": (Clause(deny(), (Test(0, _uapi.PR_SET_PDEATHSIG),)), Clause(ALLOW)),
    }
    if single:
        rules.update(dict.fromkeys(("kill", "tgkill"), (Clause(ALLOW, (Test(0, PID_PLACE),)), refused)))
    return rules


# --- mechanism ------------------------------------------------------------------------------------------------------

_LD, _JEQ, _JGE, _JA, _AND, _RET = 0x20, 0x15, 0x35, 0x05, 0x54, 0x06
_NR, _ARCH, _ARGS = 0, 4, 16
_X32 = 0x40000000
_ARCHITECTURES = {"x86_64": _uapi.AUDIT_ARCH_X86_64, "aarch64": _uapi.AUDIT_ARCH_AARCH64}
_NEAR = 255

Instruction = tuple[int, int, int, int]


def _clauses(clauses: tuple[Clause, ...]) -> list[Instruction]:
    """Compile one rule, from its last clause to its first, so that each knows how far the next one is."""
    code: list[Instruction] = []
    for clause in reversed(clauses):
        block: list[Instruction] = [(_RET, 0, 0, clause.action)]
        for test in reversed(clause.tests):
            block = _test(test, len(block)) + block
        code = block + code
    return code


def _test(test: Test, skip: int) -> list[Instruction]:
    """Compile one test that falls through when it holds and skips `skip` instructions when it does not."""
    offset = _ARGS + 8 * test.argument

    def word(at: int, mask: int, value: int, hit: int, miss: int) -> list[Instruction]:
        code: list[Instruction] = [(_LD, 0, 0, at)]
        if mask != 0xFFFFFFFF:
            code.append((_AND, 0, 0, mask))
        return [*code, (_JEQ, hit, miss, value & 0xFFFFFFFF)]

    if not test.wide:
        hit, miss = (skip, 0) if test.negate else (0, skip)
        return word(offset, test.mask, test.value, hit, miss)
    high = test.value >> 32
    if test.negate:  # differs when the low or the high half differs: a low half that differs jumps to the block
        tail = word(offset + 4, 0xFFFFFFFF, high, skip, 0)
        return word(offset, 0xFFFFFFFF, test.value, 0, len(tail)) + tail
    tail = word(offset + 4, 0xFFFFFFFF, high, 0, skip)
    return word(offset, 0xFFFFFFFF, test.value, 0, len(tail) + skip) + tail


def _tree(leaves: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """Compile a binary search over system call numbers: each leaf holds from its number to the next leaf's."""
    if len(leaves) == 1:
        return leaves[0][1]
    middle = len(leaves) // 2
    left, right = _tree(leaves[:middle]), _tree(leaves[middle:])
    if len(left) <= _NEAR:
        return [(_JGE, len(left), 0, leaves[middle][0]), *left, *right]
    return [(_JGE, 0, 1, leaves[middle][0]), (_JA, 0, 0, len(left)), *left, *right]


def assemble(rules: Rules, *, machine: str, default: int | None = None, notify: bool = True) -> bytes:
    """Compile `rules` to a BPF program for `machine`.

    Args:
        rules: an action, or clauses, by the name of a system call; names that `machine` does not have are left out.
        machine: `x86_64` or `aarch64`.
        default: the action of calls without a rule; None means EPERM for known calls and ENOSYS for unknown ones.
        notify: False turns each NOTIFY into an error, where there is no listener to ask.

    Raises:
        KeyError: for another machine.
        ValueError: when the program is longer than the kernel takes (4,096 instructions).
    """
    table = _uapi.calls(machine)

    def settled(action: int) -> int:
        return deny(errno.EACCES) if action == NOTIFY and not notify else action

    bodies: dict[int, list[Instruction]] = {}
    for name, rule in rules.items():
        if name in table:
            clauses = (Clause(rule),) if isinstance(rule, int) else rule
            bodies[table[name]] = _clauses(tuple(Clause(settled(c.action), c.tests) for c in clauses))
    known = set(table.values())
    unknown = [(_RET, 0, 0, deny(errno.ENOSYS) if default is None else default)]
    refused = [(_RET, 0, 0, deny() if default is None else default)]
    leaves: list[tuple[int, list[Instruction]]] = []
    for number in range(max(known) + 2):
        body = bodies.get(number, refused if number in known else unknown)
        if not leaves or leaves[-1][1] != body:
            leaves.append((number, body))
    code: list[Instruction] = [
        (_LD, 0, 0, _ARCH),
        (_JEQ, 1, 0, _ARCHITECTURES[machine]),
        (_RET, 0, 0, KILL),
        (_LD, 0, 0, _NR),
    ]
    if machine == "x86_64":  # x32 numbers carry bit 30; no number is negative on any machine
        code += [(_JGE, 0, 1, _X32), (_RET, 0, 0, deny(errno.ENOSYS))]
    code += _tree(leaves)
    if len(code) > 4096:
        raise ValueError(f"the filter has {len(code)} instructions, the kernel takes 4096")
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def evaluate(
    program: bytes, *, machine: str, number: int, arguments: tuple[int, ...] = (), arch: int | None = None
) -> int:
    """Run `program` on one system call as the kernel would; returns the action. For tests.

    Raises:
        ValueError: for an instruction that `assemble` never emits, or a jump out of the program.
    """
    words = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack(
        "=iIQ6Q",
        number if number < 1 << 31 else number - (1 << 32),
        _ARCHITECTURES[machine] if arch is None else arch,
        0,
        *(word & 0xFFFFFFFFFFFFFFFF for word in words),
    )
    code = list(struct.iter_unpack("=HBBI", program))
    at, accumulator = 0, 0
    while 0 <= at < len(code):
        operation, true, false, value = code[at]
        at += 1
        if operation == _LD:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif operation == _AND:
            accumulator &= value
        elif operation == _JEQ:
            at += true if accumulator == value else false
        elif operation == _JGE:
            at += true if accumulator >= value else false
        elif operation == _JA:
            at += value
        elif operation == _RET:
            return int(value)
        else:
            raise ValueError(f"unknown instruction {operation:#x}")
    raise ValueError("the program ran out of its end")
