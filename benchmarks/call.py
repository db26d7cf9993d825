"""The whole call: `await agent.call(...)`, with rate limit, validation, authorization, jail, audit and events on."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from benchmarks import subject
from benchmarks.jail import wait_until_full
from benchmarks.peers import ROOT
from remit import ConversableAgent, Runtime
from remit.audit.reader import Reader
from remit.audit.record import decode
from remit.config import SecurityConfig

__all__ = ["Agent"]

_T = TypeVar("_T")
_TURN = 0.001  # seconds
_RATE = "1000000/1h"  # every attempt is counted; a limit that is never reached is the one that lets itself be measured


class Agent:
    """An agent in a runtime of its own, on an event loop that goes on between blocks.

    Attributes:
        made: calls so far.
        started_ms: how long it took from nothing to the answer of the first call, in milliseconds.

    The audit trail is in a folder of the checkout's `build`: on the disk that a user's would be on, not on a tmpfs.
    """

    def __init__(self) -> None:
        build = ROOT / "build"
        build.mkdir(exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="bench-", dir=build)
        self._runner = asyncio.Runner()
        self._entered = contextlib.AsyncExitStack()
        self._heard = 0
        self.made = 0
        # One context for all blocks: the runtime that is entered in it stays the current one.
        self._context = contextvars.copy_context()
        try:
            self._runner.get_loop()
            begun = time.perf_counter()
            self._run(self._begin())
            self.started_ms = (time.perf_counter() - begun) * 1e3
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self._runner.run(work, context=self._context)

    async def _begin(self) -> None:
        config = SecurityConfig.from_mapping({}, env={}, state_dir=str(Path(self._folder.name, "state")))
        self.runtime = Runtime(config, handle_signals=False)
        await self._entered.enter_async_context(self.runtime)
        self.runtime.on("outcome", self._hear)
        self.agent = ConversableAgent("benchmark", functions=[subject.f], rate_limits={"functions": _RATE})
        await self._once()

    async def _hear(self, _event: object) -> None:
        self._heard += 1

    async def _once(self) -> None:
        self.made += 1
        answer = await self.agent.call("f", x=1)
        if answer != 2:
            raise RuntimeError(f"measured something that answers {answer!r}")

    def block(self, samples: int) -> tuple[list[float], list[float]]:
        """So many calls in milliseconds, each with every warm jail ready; and the seconds before each."""
        return self._run(self._block(samples))

    def settle(self) -> float:
        """Wait until warm jails stand ready; the seconds that this took."""
        supervisor = self.runtime.start_jails()
        # No public word for it: how many stand ready is nobody else's business.
        return wait_until_full(list(supervisor._by_number.values()))  # noqa: SLF001

    async def _block(self, samples: int) -> tuple[list[float], list[float]]:
        taken, pauses = [], []
        for _ in range(samples):
            begun = time.perf_counter()
            await asyncio.sleep(_TURN)  # what the last call told is heard before the next one is timed
            self.settle()
            pauses.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            await self._once()
            taken.append((time.perf_counter() - begun) * 1e3)
        return taken, pauses

    def rate(self, tasks: int, seconds: float) -> float:
        """Calls per second of so many tasks, each of which makes one after the other."""
        return self._run(self._rate(tasks, seconds))

    async def _rate(self, tasks: int, seconds: float) -> float:
        begun, before = time.perf_counter(), self.made

        async def caller() -> None:
            while time.perf_counter() - begun < seconds:
                await self._once()

        await asyncio.gather(*(caller() for _ in range(tasks)))
        return (self.made - before) / (time.perf_counter() - begun)

    def check(self) -> None:
        """Hold the run to what it claims: each call is on the trail twice, and was told.

        Raises:
            RuntimeError: something was measured that does less.
        """
        self._run(self.runtime.shutdown())
        path = self.runtime.config.audit.path
        with Reader(path) as trail:
            types = [decode(data).event.type for _, data in trail.records()]
        found = types.count("call"), types.count("outcome")
        if found != (self.made, self.made) or not self._heard:
            raise RuntimeError(f"{self.made} calls, but {found[0]} intents and {found[1]} outcomes on the trail")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._run(self._entered.aclose())
        finally:
            self._runner.close()
            self._folder.cleanup()
