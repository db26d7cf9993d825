"""What the supervisor knows of templates, jails and calls; and what it hears from them, which it does not believe."""

from __future__ import annotations

import base64
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from remit.jail import channel
from remit.jail.pool import Demand
from remit.jail.spec import Ending, JailSpec, Refusal

__all__ = ["Call", "Jail", "Template", "Unfit", "Unheld", "receive", "report"]

_OVERHEAD = 256 * 1024  # of a result frame: the JSON around the value, or an exception's text
_CHUNK = 1 << 16  # below what malloc(3) maps and unmaps for each buffer
_ANCILLARY = socket.CMSG_SPACE(12) + socket.CMSG_SPACE(4 * 253) if hasattr(socket, "CMSG_SPACE") else 0


class Unheld(Exception):
    """This machine does not hold a guarantee that the call needs: `guarantee`, `missing`, `remedy`."""

    def __init__(self, guarantee: str, missing: str, remedy: str) -> None:
        super().__init__(f"`{guarantee}` does not hold here: no {missing}")
        self.guarantee, self.missing, self.remedy = guarantee, missing, remedy


class Unfit(Exception):
    """The template could not be made: its import failed, or the zygote ended. `error` is what it said."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(
            str(error.get("wall") or error.get("unfit") or error.get("gone") or error.get("message") or error)
        )
        self.error = error


class Template:
    """One imported function under one set of walls, from which calls are forked."""

    def __init__(self, number: int, spec: JailSpec) -> None:
        self.number = number
        self.spec = spec
        self.ready: Future[Mapping[str, Any]] = Future()
        self.warm: deque[Jail] = deque()
        self.waiting: deque[Call] = deque()
        self.demand = Demand()
        self.live = 0
        self.gone = ""
        self.used = time.monotonic()
        self.refused: list[Refusal] = []
        self.listener = -1
        self.pid = 0  # as the zygote sees it
        self.tid = 0  # as this process sees it, once that has been found out
        self.call_flags = 0


class Jail:
    """A locked-down process that waits for its request, or has had it."""

    def __init__(
        self, number: int, pid: int, sock: socket.socket, output: list[int], template: Template, base: int
    ) -> None:
        self.number = number
        self.pid = pid
        self.sock: socket.socket | None = sock
        self.output = output
        self.template = template
        self.base = base  # resident bytes that it has from its template
        self.sender = 0  # its pid as this process sees it, told by the kernel with what it sends
        self.call: Call | None = None


class Call:
    """One request on its way: `future` becomes its Ending."""

    def __init__(self, template: Template, request: bytes, spec: JailSpec, stdio: list[int] | None) -> None:
        self.template = template
        self.spec = spec
        self.request = memoryview(request)
        self.stdio = stdio
        self.future: Future[Ending] = Future()
        self.started: Future[None] = Future()  # done when the call has its jail, or never will
        self.jail: Jail | None = None
        self.reader = channel.FrameReader(spec.result + _OVERHEAD)
        self.frame: bytes | None = None
        self.broken = ""
        self.closed = False
        self.oversize = 0
        self.refusals: list[Refusal] = []
        self.began = 0
        self.deadline = 0
        self.answered = 0
        self.killed = ""


def receive(sock: socket.socket) -> tuple[bytes, int]:
    """Return what a jail sent, and who of it, as the kernel says: -1 when descriptors came along, which are closed.

    Raises:
        OSError: nothing is there, or the connection is broken.
    """
    data, ancillary, _, _ = sock.recvmsg(_CHUNK, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    sender = 0
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            for at in range(0, len(content) - 3, 4):
                os.close(int.from_bytes(content[at : at + 4], sys.byteorder))
            sender = -1
        elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and not sender:
            sender = int.from_bytes(content[:4], sys.byteorder)
    return data, sender


def report(said: str) -> dict[str, Any]:
    """Return what a template said of its import: hostile, so known names with text, and `describe` as plain data."""
    try:
        answer = channel.unpack(base64.b64decode(said))
    except (channel.ProtocolError, ValueError) as error:
        return {"unfit": f"its import said what cannot be read: {error}"}
    if not isinstance(answer, dict):
        return {"unfit": "its import said what cannot be read"}
    kept = {name: answer[name] for name in ("wall", "type", "message", "traceback", "needs") if name in answer}
    report: dict[str, Any] = {name: value for name, value in kept.items() if isinstance(value, str)}
    if "describe" in answer:
        report["describe"] = answer["describe"]
    return report
