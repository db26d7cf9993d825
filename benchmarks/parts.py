"""The parts of a run: each measures its rows together, ours and the peer's in turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from benchmarks import peers
from benchmarks.call import Agent
from benchmarks.jail import Jail, wait_until_full
from benchmarks.measure import Effort, Pairs, timed

__all__ = ["PARTS", "Figures", "Part", "callers"]

_WARM_UP = 0.3  # seconds of a rate that is thrown away: the pool grows to what is asked of it
_CORES_OF_FLOOR = 2
_MANY = 8

Figures = dict[str, tuple[float, float]]
"""By the row's name: the value, and ours / theirs."""

Say = Callable[[str], None]
"""Tells what is not measured, and why."""

Part = Callable[[Effort, Say, frozenset[str]], Figures]
"""Measures its rows; of those that cost much, only the named ones that are wanted."""


def callers(count: int, once: Callable[[], object], seconds: float) -> float:
    """Calls per second of `count` threads, each of which calls and waits, again and again.

    Raises:
        whatever a call raised.
    """
    begun = time.perf_counter()
    made = [0] * count
    failed: list[BaseException] = []

    def call(place: int) -> None:
        try:
            while time.perf_counter() - begun < seconds and not failed:
                once()
                made[place] += 1
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=call, args=(place,), name=f"caller-{place}") for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return sum(made) / (time.perf_counter() - begun)


def warm(effort: Effort, _say: Say, _wanted: frozenset[str]) -> Figures:
    """The jail with warm calls ready, beside a worker that is reused."""
    pairs = Pairs()
    with Jail() as jail, peers.Pool(1) as pool:
        _, pauses = jail.block(effort.block)
        pool.block(pauses)
        for _ in range(effort.blocks):
            ours, pauses = jail.block(effort.block)
            pairs.add(ours, pool.block(pauses))
    return _latency(pairs, "jail.warm", "process_pool_executor")


def demand(effort: Effort, say: Say, _wanted: frozenset[str]) -> Figures:
    """The jail with nothing ready, beside a fork, exit and wait of an equal process."""
    pairs = Pairs()
    with Jail() as jail, peers.Forkers(1, loaded()) as floor:
        if floor.lacking:
            say(f"the floor has not loaded {', '.join(floor.lacking)}, which a call has: it is lower than an equal one")
        pauses = [0.002] * (effort.block // 2)
        jail.block_on_demand(pauses)
        floor.block(pauses)
        for _ in range(effort.blocks // 2):
            pairs.add(jail.block_on_demand(pauses), floor.block(pauses))
    ours, theirs, ratio = pairs.p50()
    return {"jail.on_demand.p50": (ours, ratio), "fork_exit_wait.p50": (theirs, 1.0)}


def rate(effort: Effort, _say: Say, _wanted: frozenset[str]) -> Figures:
    """How many calls there are room for, beside the floor and beside a worker for each core."""
    floor, two, eight = Pairs(), Pairs(), Pairs()
    with Jail() as jail, peers.Pool(peers.cores()) as pool, peers.Forkers(_CORES_OF_FLOOR, loaded()) as forkers:
        callers(_MANY, jail.once, _WARM_UP)
        forkers.rate(_WARM_UP)
        for _ in range(effort.spans):
            ours = callers(_MANY, jail.once, effort.seconds)
            _quiet(jail)
            floor.add([ours], [forkers.rate(effort.seconds)])
            eight.add([ours], [callers(_MANY, pool.once, effort.seconds)])
            ours = callers(2, jail.once, effort.seconds)
            _quiet(jail)
            two.add([ours], [callers(2, pool.once, effort.seconds)])
    figures: Figures = {}
    for name, pairs in (("jail.rate.floor", floor), ("jail.rate.2", two), ("jail.rate.8", eight)):
        ours, _, ratio = pairs.p50()
        figures[name] = ours, ratio
    figures["fork_exit_wait.rate"] = floor.p50()[1], 1.0
    return figures


def programs(effort: Effort, say: Say, wanted: frozenset[str]) -> Figures:
    """The jail beside those that start a program for each call."""
    figures: Figures = {}
    made = (("subprocess", peers.plain_python), ("bubblewrap", peers.bubblewrap), ("sandlock", peers.sandlock))
    with Jail() as jail:
        callers(_MANY, jail.once, _WARM_UP)
        for name, make in made:
            p50, warm_p50, many = f"{name}.p50", f"jail.warm.{name}", f"jail.rate.{name}"
            if not wanted & {p50, warm_p50, many}:
                continue
            try:
                once = make()
            except peers.Absent as absent:
                say(f"{name} is not measured: {absent}")
                continue
            if wanted & {p50, warm_p50}:
                pairs = Pairs()
                for _ in range(effort.starts):
                    ours, pauses = jail.block(10)
                    time.sleep(max(pauses))
                    pairs.add(ours, [timed(once, 2)])
                value, theirs, ratio = pairs.p50()
                figures |= {p50: (theirs, 1.0), warm_p50: (value, ratio)}
            if many in wanted:
                rates = Pairs()
                for _ in range(effort.spans):
                    mine = callers(_MANY, jail.once, effort.seconds)
                    _quiet(jail)
                    rates.add([mine], [callers(_MANY, once, effort.seconds)])
                value, _, ratio = rates.p50()
                figures[many] = value, ratio
    return figures


def call(effort: Effort, _say: Say, _wanted: frozenset[str]) -> Figures:
    """The whole call, beside a worker that is reused."""
    pairs, rates = Pairs(), Pairs()
    with Agent() as agent, peers.Pool(1) as pool, peers.Pool(peers.cores()) as pools:
        _, pauses = agent.block(effort.block)
        pool.block(pauses)
        for _ in range(effort.blocks):
            ours, pauses = agent.block(effort.block)
            pairs.add(ours, pool.block(pauses))
        agent.rate(_MANY, _WARM_UP)
        for _ in range(effort.spans):
            mine = agent.rate(_MANY, effort.seconds)
            agent.settle()
            rates.add([mine], [callers(_MANY, pools.once, effort.seconds)])
        agent.check()
    figures = _latency(pairs, "call.warm", "")
    mine, _, ratio = rates.p50()
    return {**figures, "call.rate.8": (mine, ratio)}


def startup(effort: Effort, _say: Say, _wanted: frozenset[str]) -> Figures:
    """A new runtime, from nothing to its first answer, beside a fresh interpreter that imports the same module."""
    pairs = Pairs()
    once = peers.import_subject()
    timed(once, 2)
    for _ in range(max(3, effort.starts // 2)):
        with Agent() as agent:
            ours = agent.started_ms
        pairs.add([ours], [timed(once, 2)])
    ours, _, ratio = pairs.p50()
    return {"startup.first_call": (ours, ratio)}


def loaded() -> list[str]:
    """The names of the modules that a call of ours has loaded, by its own word: the floor loads the same."""
    with Jail("modules", ()) as jail:
        answer = jail.once()
    if not isinstance(answer, list):
        raise TypeError(f"measured something that answers {answer!r:.80}")
    return [str(name) for name in answer if name != "__main__"]


def _latency(pairs: Pairs, ours: str, theirs: str) -> Figures:
    figures: Figures = {}
    for what, (value, peer, ratio) in (("p50", pairs.p50()), ("p99", pairs.p99())):
        figures[f"{ours}.{what}"] = value, ratio
        if theirs:
            figures[f"{theirs}.{what}"] = peer, 1.0
    return figures


def _quiet(jail: Jail) -> None:
    """Let what a block of ours still does after its last answer end, before the peer's begins."""
    wait_until_full([jail.template])


PARTS: Mapping[str, Part] = {
    "warm": warm,
    "demand": demand,
    "rate": rate,
    "programs": programs,
    "call": call,
    "startup": startup,
}
"""By the name that `rows.Row.part` has, in the order in which they are run."""
