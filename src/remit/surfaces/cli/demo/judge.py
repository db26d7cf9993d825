"""Whether an attack was stopped, and by whom: pure functions of evidence.

Two things must hold for `stopped`: no witness saw the attack succeed, and the call ended in the way in which a wall
ends it. An attempt that failed by itself (a mistake in its code, a jail that could not be made) was stopped by nobody.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from remit.errors import Denied, RateLimited, RemitError
from remit.model.call import Outcome

__all__ = ["BOUNDS", "Bounds", "Evidence", "Verdict", "judge", "judge_plain"]

_MIB = 1 << 20
_WALL = re.compile(r"\[Errno (1|2|13|30)\]")  # EPERM, ENOENT, EACCES, EROFS


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits under which the attacks run (bytes, milliseconds, calls), and what a measurement may be off."""

    memory: int = 64 * _MIB
    cpu_ms: int = 300
    timeout_ms: int = 1_000
    calls: int = 120
    memory_slack: int = 24 * _MIB  # pages that the call shares with its template until it writes to them
    time_slack_ms: int = 4_000  # a machine that is busy with something else

    @property
    def flood(self) -> int:
        """How many calls a flood makes: more than may run, however few came before."""
        return self.calls + 10


BOUNDS = Bounds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of an attempt.

    Attributes:
        outcomes: how each call of it ended: an Outcome, or the error with which it was refused.
        answer: all that the agent got back, as text.
        secrets: what stood where the agent may not look; none of it may be in `answer`.
        connections, datagrams: what the listener heard, by count.
        written: whether the file outside is there.
        watched: how many processes the watch saw at all (0: it saw nothing and proves nothing), None: nobody watched.
        strangers, left: how many processes it saw where none may be, and how many of them still live.
        elapsed_ms: how long it took, by the host's clock.
        tools: the names of the functions that the agent has afterwards.
    """

    outcomes: Sequence[Outcome | RemitError] = ()
    answer: str = ""
    secrets: Sequence[str] = ()
    connections: int = 0
    datagrams: int = 0
    written: bool = False
    watched: int | None = None
    strangers: int = 0
    left: int = 0
    elapsed_ms: float = 0.0
    tools: Sequence[str] = ()

    @property
    def last(self) -> Outcome | RemitError | None:
        """How the last call ended."""
        return self.outcomes[-1] if self.outcomes else None

    @property
    def leaked(self) -> bool:
        """Whether a secret is in the answer."""
        return any(secret in self.answer for secret in self.secrets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of an attack.

    Attributes:
        stopped: whether it was.
        happened: in plain words.
        by: `monitor`, `kernel`, or "" where nobody stopped it.
        mechanism: with what.
    """

    stopped: bool
    happened: str
    by: str = ""
    mechanism: str = ""


def judge(name: str, evidence: Evidence, bounds: Bounds = BOUNDS) -> Verdict:
    """The verdict on the attack `name`.

    Raises:
        KeyError: there is no such attack.
    """
    judged = _JUDGES[name]
    escaped = _escaped(evidence)
    return Verdict(stopped=False, happened=escaped) if escaped else judged(evidence, bounds)


def _escaped(evidence: Evidence) -> str:
    """What a witness saw that must never be seen, or ""."""
    if evidence.leaked:
        return "a secret came out"
    if evidence.connections or evidence.datagrams:
        return f"the listener heard {evidence.connections} connections and {evidence.datagrams} datagrams"
    if evidence.written:
        return "the file was written"
    if evidence.strangers:
        return f"{evidence.strangers} processes were started, {evidence.left} still live"
    return ""


def _proves_nothing(evidence: Evidence) -> Verdict:
    last = evidence.last
    if isinstance(last, Outcome):
        how = f"{last.status} {last.what}".strip() + (f": {last.message}" if last.message else "")
    else:
        how = str(last) if last is not None else "it was not tried"
    return Verdict(stopped=False, happened=f"it ended in a way that proves nothing: {how}")


def _file(evidence: Evidence, done: str) -> Verdict:
    last = evidence.last
    # `denied` where the guest could name the missing grant, else `raised`: an explanation either way. What counts is
    # that the witnesses, who would have seen a success, saw none, and that the kernel's answer was one of a wall.
    if not isinstance(last, Outcome) or last.status not in ("denied", "raised") or not _WALL.search(last.message):
        return _proves_nothing(evidence)
    if "[Errno 2]" in last.message or "[Errno 30]" in last.message:
        return Verdict(stopped=True, happened=f"no such place in its world; {done}", by="kernel", mechanism="new root")
    return Verdict(stopped=True, happened=f"refused; {done}", by="kernel", mechanism="landlock")


def _environment(evidence: Evidence, _: Bounds) -> Verdict:
    last = evidence.last
    if not isinstance(last, Outcome) or last.status != "returned" or not evidence.secrets:
        return _proves_nothing(evidence)
    count = str(last.value).partition(" ")[0]
    happened = f"found {count} variables, none of the host's"
    return Verdict(stopped=True, happened=happened, by="kernel", mechanism="clean start")


def _seccomp(evidence: Evidence, calls: tuple[str, ...], happened: str) -> Verdict:
    """Stopped where the kernel itself reported one of `calls` as refused: what the guest says does not count."""
    last = evidence.last
    seen = isinstance(last, Outcome) and any(
        refusal.seen_by == "kernel" and refusal.what in calls for refusal in last.refusals
    )
    if not seen or not isinstance(last, Outcome) or last.status == "returned":
        return _proves_nothing(evidence)
    return Verdict(stopped=True, happened=happened, by="kernel", mechanism="seccomp")


def _network(evidence: Evidence, _: Bounds) -> Verdict:
    return _seccomp(evidence, ("socket", "connect", "sendto"), "no socket could be made; the listener heard nothing")


def _program(evidence: Evidence, _: Bounds) -> Verdict:
    if not evidence.watched:
        return _proves_nothing(evidence)
    return _seccomp(evidence, ("execve", "execveat", "vfork", "fork", "clone"), "refused; nothing was started")


def _fork(evidence: Evidence, _: Bounds) -> Verdict:
    last = evidence.last
    if not evidence.watched or not isinstance(last, Outcome):
        return _proves_nothing(evidence)
    tries = sum(refusal.what in ("fork", "vfork", "clone") for refusal in last.refusals)
    return _seccomp(evidence, ("fork", "vfork", "clone"), f"refused {tries} times, then ended; no second process")


def _limit(evidence: Evidence, what: str) -> Outcome | None:
    last = evidence.last
    return last if isinstance(last, Outcome) and last.status == "limit" and last.what == what else None


def _memory(evidence: Evidence, bounds: Bounds) -> Verdict:
    last = _limit(evidence, "memory")
    if last is None:
        return _proves_nothing(evidence)
    peak = last.usage.peak_memory
    if peak > bounds.memory + bounds.memory_slack:
        return Verdict(stopped=False, happened=f"it had {peak // _MIB} MiB, more than {bounds.memory // _MIB} MiB")
    happened = f"out of memory at {peak // _MIB} MiB of {bounds.memory // _MIB} MiB"
    return Verdict(stopped=True, happened=happened, by="kernel", mechanism="rlimit")


def _spin(evidence: Evidence, bounds: Bounds) -> Verdict:
    last = _limit(evidence, "cpu")
    if last is None:
        return _proves_nothing(evidence)
    used = round(last.usage.cpu_ms)
    if used > bounds.cpu_ms + bounds.time_slack_ms:
        return Verdict(stopped=False, happened=f"it had {used} ms of CPU, more than {bounds.cpu_ms} ms")
    happened = f"killed after {used} ms of CPU ({bounds.cpu_ms} ms allowed)"
    return Verdict(stopped=True, happened=happened, by="kernel", mechanism="timer")


def _sleep(evidence: Evidence, bounds: Bounds) -> Verdict:
    if _limit(evidence, "timeout") is None:
        return _proves_nothing(evidence)
    if evidence.elapsed_ms > bounds.timeout_ms + bounds.time_slack_ms:
        return Verdict(stopped=False, happened=f"it took {evidence.elapsed_ms:.0f} ms, deadline {bounds.timeout_ms} ms")
    happened = f"killed at its deadline of {bounds.timeout_ms} ms"
    return Verdict(stopped=True, happened=happened, by="kernel", mechanism="timer")


def _unknown(evidence: Evidence, _: Bounds) -> Verdict:
    last = evidence.last
    if not isinstance(last, Denied) or last.rule != "functions":
        return _proves_nothing(evidence)
    return Verdict(stopped=True, happened="refused: not a function of this agent", by="monitor", mechanism="policy")


def _register(evidence: Evidence, _: Bounds) -> Verdict:
    if "spy" in evidence.tools:
        return Verdict(stopped=False, happened="the function was registered")
    if "function_registration" not in evidence.answer or "refused" not in evidence.answer:
        return _proves_nothing(evidence)
    happened = "refused: needs `function_registration`"
    return Verdict(stopped=True, happened=happened, by="monitor", mechanism="policy")


def _flood(evidence: Evidence, bounds: Bounds) -> Verdict:
    limited = sum(isinstance(one, RateLimited) for one in evidence.outcomes)
    ran = sum(isinstance(one, Outcome) for one in evidence.outcomes)
    if ran > bounds.calls:
        return Verdict(stopped=False, happened=f"{ran} calls ran, more than {bounds.calls}")
    if not limited or not isinstance(evidence.last, RateLimited):
        return _proves_nothing(evidence)
    happened = f"{ran} more calls ran, {limited} were refused"
    return Verdict(stopped=True, happened=happened, by="monitor", mechanism="rate window")


_JUDGES: Mapping[str, Callable[[Evidence, Bounds], Verdict]] = {
    "read outside": lambda evidence, _: _file(evidence, "the secret stayed"),
    "environment": _environment,
    "tcp": _network,
    "udp": _network,
    "write outside": lambda evidence, _: _file(evidence, "nothing was written"),
    "program": _program,
    "fork": _fork,
    "memory": _memory,
    "spin": _spin,
    "sleep": _sleep,
    "unknown function": _unknown,
    "register": _register,
    "flood": _flood,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainRun:
    """What a plain process did, and what it used, by wait4(2)."""

    output: str = ""
    exit_status: int = 0
    elapsed_ms: float = 0.0
    cpu_ms: float = 0.0
    peak_memory: int = 0
    strangers: int = 0
    left: int = 0
    connections: Sequence[bytes] = field(default=())
    datagrams: Sequence[bytes] = field(default=())
    written: bool = False


def judge_plain(name: str, run: PlainRun, secrets: Sequence[str], word: bytes, bounds: Bounds = BOUNDS) -> str:
    """How the attack succeeded in a plain process, in plain words, or "" where it did not.

    Args:
        name: the attack.
        run: what the process did.
        secrets: what it should have got hold of.
        word: what it should have sent or printed.
        bounds: the limits that it should have broken.
    """
    text, most = word.decode("ascii"), bounds.memory + bounds.memory_slack
    proofs = {
        "read outside": (any(secret in run.output for secret in secrets), "read the secret"),
        "environment": (any(secret in run.output for secret in secrets), "read the variable"),
        "tcp": (word in run.connections, "arrived"),
        "udp": (word in run.datagrams, "arrived"),
        "write outside": (run.written, "written"),
        "program": ("started-42" in run.output, "started"),
        "fork": (run.strangers > 1, f"{run.strangers} processes"),
        "memory": ("MiB" in run.output and run.peak_memory > most, f"had {run.peak_memory // _MIB} MiB"),
        "spin": ("spun" in run.output and run.cpu_ms > bounds.cpu_ms, f"had {run.cpu_ms:.0f} ms of CPU"),
        "sleep": ("slept" in run.output and run.elapsed_ms > bounds.timeout_ms, f"slept {run.elapsed_ms:.0f} ms"),
        "unknown function": (text in run.output, "ran"),
        "register": (text in run.output, "registered, and ran"),
        "flood": (f"{bounds.flood} calls ran" in run.output, f"{bounds.flood} calls ran"),
    }
    succeeded, happened = proofs[name]
    return happened if succeeded else ""
