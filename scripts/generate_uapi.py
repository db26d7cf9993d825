"""Write `src/remit/jail/_uapi.py` from the kernel's headers.

Usage: python3 scripts/generate_uapi.py [--include /usr/include] [--check]

System call numbers of x86_64 come from `asm/unistd_64.h`, those of aarch64 from `asm-generic/unistd.h`. Other
constants come from the headers named in `CONSTANTS`; what the installed headers are too old to know stands in
`SUPPLEMENT` with the kernel that brought it (each value is checked against the headers as soon as they know it).
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import textwrap
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "src/remit/jail/_uapi.py"

CONSTANTS = {
    "linux/landlock.h": r"LANDLOCK_(CREATE_RULESET_VERSION|ACCESS_FS_\w+|ACCESS_NET_\w+|SCOPE_\w+)",
    "linux/seccomp.h": r"SECCOMP_(SET_MODE_FILTER|GET_NOTIF_SIZES|RET_\w+|FILTER_FLAG_\w+|USER_NOTIF_FLAG_CONTINUE)",
    "linux/prctl.h": r"PR_(SET_PDEATHSIG|SET_DUMPABLE|SET_NO_NEW_PRIVS|GET_NO_NEW_PRIVS|CAPBSET_DROP|CAP_AMBIENT|"
    r"CAP_AMBIENT_CLEAR_ALL|SET_NAME|GET_NAME|SET_SECUREBITS|GET_TID_ADDRESS|SET_THP_DISABLE|SET_CHILD_SUBREAPER|"
    r"SET_TIMERSLACK|GET_TIMERSLACK|GET_DUMPABLE|GET_PDEATHSIG|GET_SECCOMP|SET_VMA|GET_KEEPCAPS|GET_SECUREBITS|"
    r"CAPBSET_READ|GET_THP_DISABLE)",
    "linux/audit.h": r"(AUDIT_ARCH_X86_64|AUDIT_ARCH_AARCH64)",
    "linux/mount.h": r"(MS_\w+|MOUNT_ATTR_\w+)",
    "linux/sched.h": r"(CLONE_\w+)",
    "linux/fcntl.h": r"(AT_RECURSIVE|AT_EMPTY_PATH|F_ADD_SEALS|F_SEAL_\w+|F_SETPIPE_SZ)",
    "linux/memfd.h": r"(MFD_CLOEXEC|MFD_ALLOW_SEALING|MFD_NOEXEC_SEAL)",
    "asm-generic/fcntl.h": r"(O_PATH)",
}

SUPPLEMENT = {
    "LANDLOCK_ACCESS_FS_TRUNCATE": (1 << 14, "6.2"),
    "LANDLOCK_ACCESS_FS_IOCTL_DEV": (1 << 15, "6.10"),
    "LANDLOCK_ACCESS_NET_BIND_TCP": (1 << 0, "6.7"),
    "LANDLOCK_ACCESS_NET_CONNECT_TCP": (1 << 1, "6.7"),
    "LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET": (1 << 0, "6.12"),
    "LANDLOCK_SCOPE_SIGNAL": (1 << 1, "6.12"),
    "MFD_NOEXEC_SEAL": (8, "6.3"),
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": (1 << 5, "5.19"),
    "F_SEAL_GROW": (4, "3.17"),
    "F_SEAL_SHRINK": (2, "3.17"),
    "F_SEAL_SEAL": (1, "3.17"),
    "AT_RECURSIVE": (0x8000, "5.2"),
    "PR_SET_VMA": (0x53564D41, "5.17"),
}

# System calls newer than the installed headers: the same number on every architecture since 424.
NEWER_CALLS = {
    "set_mempolicy_home_node": 450, "cachestat": 451, "fchmodat2": 452, "map_shadow_stack": 453, "futex_wake": 454,
    "futex_wait": 455, "futex_requeue": 456, "statmount": 457, "listmount": 458, "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460, "lsm_list_modules": 461, "mseal": 462, "setxattrat": 463, "getxattrat": 464,
    "listxattrat": 465, "removexattrat": 466, "open_tree_attr": 467, "file_getattr": 468, "file_setattr": 469,
}  # fmt: skip


def find(include: Path, name: str) -> Path:
    """Return the header, also where it lies in a folder of the machine's triplet."""
    for candidate in (include / name, *sorted(include.glob(f"*-linux-gnu/{name}"))):
        if candidate.exists():
            return candidate
    raise SystemExit(f"no `{name}` beneath {include}; install the kernel's user-space headers (linux-libc-dev)")


def calls_x86_64(include: Path) -> dict[str, int]:
    text = find(include, "asm/unistd_64.h").read_text()
    return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", text)}


def calls_aarch64(include: Path) -> dict[str, int]:
    text = find(include, "asm-generic/unistd.h").read_text()
    raw = dict(re.findall(r"#define (__NR3264_\w+|__NR_\w+)\s+(\S+)", text))
    found = {}
    for name, value in raw.items():
        while value in raw:
            value = raw[value]  # noqa: PLW2901 - the header defines one name by another
        if value.isdigit():
            found[name.removeprefix("__NR_").removeprefix("__NR3264_")] = int(value)
    # The header also defines the names of 32-bit machines (`fcntl64`, `futex_time64`, ...): a 64-bit one has none.
    known = calls_x86_64(include)
    return {name: number for name, number in found.items() if name in known}


def constants(include: Path) -> dict[str, int]:
    values: dict[str, int] = {}
    for header, pattern in CONSTANTS.items():
        text = re.sub(r"\\\n", " ", find(include, header).read_text())
        text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
        entries = re.findall(rf"^\s*#\s*define\s+({pattern})\s+(.+)$", text, flags=re.MULTILINE)
        entries += re.findall(r"^\s*(MS_\w+)\s*=\s*([^,]+),", text, flags=re.MULTILINE)
        for entry in entries:
            name, expression = entry[0], entry[-1].strip()
            expression = re.sub(r"\b(0x[0-9a-fA-F]+|\d+)(ULL|UL|LL|U|L)\b", r"\1", expression)
            expression = expression.replace("(__u64)", "").replace("~0", "0xFFFFFFFF")
            for word in sorted(values, key=len, reverse=True):
                expression = re.sub(rf"\b{word}\b", str(values[word]), expression)
            if header == "linux/audit.h":
                expression = re.sub(r"\bEM_X86_64\b", "62", expression)
                expression = re.sub(r"\bEM_AARCH64\b", "183", expression)
                expression = expression.replace("__AUDIT_ARCH_64BIT", "0x80000000").replace(
                    "__AUDIT_ARCH_LE", "0x40000000"
                )
            try:
                values[name] = int(eval(compile(ast.parse(expression, mode="eval"), header, "eval"), {}))  # noqa: S307
            except (SyntaxError, NameError):
                continue
    # linux/fcntl.h gives the seals and the pipe's size relative to F_LINUX_SPECIFIC_BASE (1024).
    values["F_ADD_SEALS"] = 1024 + 9
    values["F_SETPIPE_SZ"] = 1024 + 7
    for name, (value, since) in SUPPLEMENT.items():
        if name in values and values[name] != value:
            raise SystemExit(f"`{name}` is {values[name]} in the headers, {value} (since {since}) in the supplement")
        values[name] = value
    return dict(sorted(values.items()))


def table(name: str, calls: dict[str, int]) -> str:
    for call, number in NEWER_CALLS.items():
        if calls.setdefault(call, number) != number:
            raise SystemExit(f"`{call}` is {calls[call]} in the headers, {number} in the supplement")
    words = " ".join(f"{call}={number}" for call, number in sorted(calls.items(), key=lambda pair: pair[1]))
    lines = textwrap.wrap(words, 112)
    body = "\n".join(f'    "{line} "' for line in lines)
    return f"_{name.upper()} = (\n{body}\n)\n"


def generate(include: Path) -> str:
    values = "\n".join(f"{name} = {value:#x}" for name, value in constants(include).items())
    return f'''"""The kernel's numbers, generated by `scripts/generate_uapi.py` from its headers: do not edit."""

from __future__ import annotations

{values}

{table("x86_64", calls_x86_64(include))}
{table("aarch64", calls_aarch64(include))}

def calls(machine: str) -> dict[str, int]:
    """Return the numbers of all system calls of `machine` (`x86_64` or `aarch64`), by name; KeyError for others."""
    text = {{"x86_64": _X86_64, "aarch64": _AARCH64}}[machine]
    return {{name: int(number) for name, _, number in (word.partition("=") for word in text.split())}}
'''


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--include", type=Path, default=Path("/usr/include"))
    parser.add_argument("--check", action="store_true", help="exit 1 if the file is not what would be written")
    arguments = parser.parse_args()
    text = generate(arguments.include)
    if arguments.check:
        return 0 if TARGET.read_text() == text else 1
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
