"""What an ending means: what the zygote did, what the jail said, how the process ended - the first that decides."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from remit.jail import channel
from remit.jail.spec import Ending, Refusal, Usage

if TYPE_CHECKING:
    from remit.jail.calls import Call

__all__ = ["ending", "is_process", "used"]

_SILENT = ((b"", False), (b"", False))
_TICK = 0.01  # USER_HZ is 100 on both machines (proc_pid_stat(5))
_NSTGID = re.compile(rb"^NStgid:\s*(.*)$", re.MULTILINE)
_HWM = re.compile(rb"^VmHWM:\s*(\d+) kB$", re.MULTILINE)


def ending(call: Call, output: list[int], message: Mapping[str, Any], tier: str) -> Ending:
    """Return how a call ended. What the zygote did on purpose comes first, then what the jail said.

    Args:
        output: descriptors of what it wrote to its standard output and error; none for a program with its own.
        message: what the zygote tells of its end: wait status, why it was killed, times, memory.
    """
    now = time.monotonic_ns()
    bound = call.spec.output
    (stdout, cut_out), (stderr, cut_err) = (_written(file, bound) for file in output) if output else _SILENT
    usage = Usage(
        wall_ms=((call.answered or now) - call.began) / 1e6,
        cpu_user_ms=message["user"] * 1e3,
        cpu_system_ms=message["system"] * 1e3,
        peak_memory=message["peak"],
        output_bytes=len(stdout) + len(stderr),
    )
    common: dict[str, Any] = {
        "stdout": stdout,
        "stderr": stderr,
        "output_truncated": cut_out or cut_err,
        "usage": usage,
        "refusals": tuple(call.refusals),
        "tier": tier,
    }
    spec, why = call.spec, message["why"]
    cpu_ms = int(usage.cpu_user_ms + usage.cpu_system_ms)
    in_time = call.answered and (not call.deadline or call.answered <= call.deadline)
    late = call.answered and call.deadline and call.answered > call.deadline
    if late or (why == "timeout" and not in_time):
        return Ending("limit", what="timeout", used=int(usage.wall_ms), bound=spec.timeout, **common)
    if why == "cpu" and not in_time:
        return Ending("limit", what="cpu", used=cpu_ms, bound=spec.cpu, **common)
    if why == "refusals":
        return Ending("denied", what="too many refused attempts", **common)
    if call.killed:
        return Ending("killed", what=call.killed, **common)
    if call.oversize:
        return Ending("limit", what="result", used=call.oversize, bound=spec.result, **common)
    if call.broken:
        return Ending("crashed", what=f"channel: {call.broken}", **common)
    if call.frame is not None:
        return _said(call, common)
    status = message["status"]
    if call.closed and why == "channel" and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return Ending("crashed", what="channel: it closed its end and lived on", **common)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number in (signal.SIGXCPU, signal.SIGKILL) and spec.cpu and cpu_ms >= spec.cpu:
            return Ending("limit", what="cpu", used=cpu_ms, bound=spec.cpu, **common)
        name = signal.Signals(number).name if number in signal.Signals.__members__.values() else str(number)
        return Ending("crashed", what=name, **common)
    if spec.code.kind == "program":
        return Ending("returned", exit_status=os.WEXITSTATUS(status), **common)
    return Ending("crashed", what=f"it exited with status {os.WEXITSTATUS(status)} and no answer", **common)


def _said(call: Call, common: dict[str, Any]) -> Ending:
    """Read the frame of a jail: hostile text, of which only the known keys with the known types are taken."""
    if call.frame is None:
        raise AssertionError("no frame")
    try:
        answer = channel.unpack(call.frame)
    except channel.ProtocolError as error:
        return Ending("crashed", what=f"channel: {error}", **common)
    if not isinstance(answer, dict) or len(answer) != 1:
        return Ending("crashed", what="channel: not an answer", **common)
    ((kind, content),) = answer.items()
    if kind == "value":
        size = len(call.frame)
        if size > call.spec.result + 64:
            return Ending("limit", what="result", used=size, bound=call.spec.result, **common)
        return Ending("returned", value=content, **common)
    if kind == "unplain" and isinstance(content, str):
        return Ending("raised", what="NotPlain", message=content, **common)
    if kind == "exec" and isinstance(content, list) and len(content) == 2:
        return Ending("raised", what="exec", message=str(content[1]), used=_number(content[0]), **common)
    if kind in ("raised", "memory") and isinstance(content, dict):
        text = {name: content.get(name) for name in ("type", "message", "traceback", "needs")}
        shown = {name: value if isinstance(value, str) else "" for name, value in text.items()}
        if kind == "memory":
            bound = call.spec.memory
            return Ending("limit", what="memory", message=shown["message"], bound=bound, **common)
        if shown["needs"]:
            refusal = Refusal(None, shown["needs"], "", "guest")
            common["refusals"] = (*common["refusals"], refusal)
            return Ending(
                "denied", what=shown["needs"], message=shown["message"], traceback=shown["traceback"], **common
            )
        return Ending("raised", what=shown["type"], message=shown["message"], traceback=shown["traceback"], **common)
    return Ending("crashed", what="channel: not an answer", **common)


def _number(value: object) -> int | None:
    return value if type(value) is int else None


def _written(file: int, bound: int) -> tuple[bytes, bool]:
    """Return at most `bound` bytes of what a jail wrote to its output, and whether it wrote more.

    It can move its position, but not past the sealed size of the file, which is a little more than `bound`.
    """
    position = os.lseek(file, 0, os.SEEK_CUR)
    if position <= 0:
        return b"", False
    position = min(os.fstat(file).st_size, position)
    return os.pread(file, min(position, bound), 0), position > bound


def is_process(sender: int, pid: int, depth: int) -> bool:
    """Whether the pid that a message came from is `pid`, `depth` pid namespaces further in."""
    try:
        group = _NSTGID.search(_read(f"/proc/{sender}/status"))
        return group is not None and int(group[1].split()[depth]) == pid
    except (OSError, IndexError, ValueError):
        return False


def used(sender: int, pid: int, depth: int, base: int) -> dict[str, Any] | None:
    """Return what a call that has answered and waits has used so far, in the form in which the zygote tells of an end.

    The processor time is exact; what of it was spent in the system the kernel tells in ticks of 10 ms.

    Args:
        sender: the pid that the answer came from, as the kernel says.
        pid: the call's, `depth` pid namespaces further in: they must be the same process.
        base: resident bytes that it has from its template.

    Returns:
        None when it is not there to be read.
    """
    try:
        total = time.clock_gettime((~sender << 3) | 2)
        status = _read(f"/proc/{sender}/status")
        group, peak = _NSTGID.search(status), _HWM.search(status)
        if group is None or peak is None or int(group[1].split()[depth]) != pid:
            return None
        system = 0.0
        if total > _TICK:
            ticks = int(_read(f"/proc/{sender}/stat").rsplit(b")", 1)[1].split()[12])
            system = min(total, ticks * _TICK)
    except (OSError, IndexError, ValueError):
        return None
    resident = max(0, int(peak[1]) * 1024 - base)
    return {"why": "", "status": 0, "user": total - system, "system": system, "peak": resident}


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 8192)
    finally:
        os.close(descriptor)
