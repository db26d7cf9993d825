"""The jail alone, without the monitor around it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from benchmarks import subject
from benchmarks.measure import timed
from remit.jail import channel, interpreter
from remit.jail.spec import Ending, JailSpec
from remit.jail.supervisor import Call, Supervisor, Template
from remit.policy.compile import required
from remit.shipping import ship

__all__ = ["Jail", "full", "wait_until_full"]

_PAUSE = 0.002  # seconds between two samples, at least
_STEP = 0.0005
_PATIENCE = 10.0


def full(templates: Sequence[Template]) -> bool:
    """Whether as many warm calls stand ready as recent demand asks for."""
    return all(len(template.warm) >= max(1, template.demand.target) for template in templates)


def wait_until_full(templates: Sequence[Template]) -> float:
    """Wait until warm calls stand ready; the seconds that this took.

    Raises:
        TimeoutError: they do not come.
    """
    begun = time.perf_counter()
    time.sleep(_PAUSE)
    while not full(templates):
        if time.perf_counter() - begun > _PATIENCE:
            raise TimeoutError("no warm calls stand ready")
        time.sleep(_STEP)
    return time.perf_counter() - begun


class Jail:
    """A supervisor of its own, and one template, with the limits and the guarantees that a call has by default.

    Args:
        what: the function, of `benchmarks.subject`.
        args: what it is called with.

    Raises:
        Unheld: this machine lacks a guarantee, so that what would be measured is less than what is promised.
        Unfit: no template could be made.
    """

    def __init__(self, what: str = "f", args: Sequence[object] = (1,)) -> None:
        shipped = ship(getattr(subject, what), "reference")
        self._request = channel.pack({"args": list(args), "kwargs": {}})
        self.supervisor = Supervisor(bootstrap="remit.inside")
        self.spec = JailSpec(
            owner="benchmark",
            code=shipped.code,
            path=interpreter.python_path(),
            interpreter=interpreter.python_roots(),
            required=required(),
        )
        try:
            self.template = self.supervisor.template(self.spec)
            self.template.ready.result(_PATIENCE)
        except BaseException:
            self.supervisor.close()
            raise
        self._null = [os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC) for _ in range(3)]

    @property
    def tier(self) -> str:
        """The mechanisms under which it runs."""
        return self.supervisor.features.tier

    def _submit(self, stdio: list[int] | None = None) -> Call:
        return self.supervisor.submit(self.template, self._request, self.spec, stdio=stdio)

    def once(self) -> object:
        """One call; what the function answered."""
        return _value(self._submit().future.result(_PATIENCE))

    def on_demand(self) -> object:
        """One call for which a process is forked after it was asked for, although others stand ready.

        A call with descriptors of its own takes no warm one: what differs from a call that comes when none is ready is
        only that its output goes to /dev/null instead of two files in memory.
        """
        return _value(self._submit(self._null).future.result(_PATIENCE))

    def block(self, samples: int) -> tuple[list[float], list[float]]:
        """So many warm calls in milliseconds, each with every warm call ready; and the seconds before each."""
        taken, pauses = [], []
        for _ in range(samples):
            pauses.append(wait_until_full([self.template]))
            taken.append(timed(self.once, 2))
        return taken, pauses

    def block_on_demand(self, pauses: Sequence[float]) -> list[float]:
        """One call that has to be forked first, in milliseconds, after each pause."""
        taken = []
        for pause in pauses:
            time.sleep(pause)
            taken.append(timed(self.on_demand, 2))
        return taken

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.supervisor.close()
        for descriptor in self._null:
            os.close(descriptor)


def _value(ending: Ending) -> object:
    if ending.status != "returned":
        raise RuntimeError(f"the call ended as {ending.status}: {ending.what} {ending.message}")
    return ending.value
