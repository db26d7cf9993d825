"""The stage: sets up the witnesses and a runtime, lets the agent act, judges each attack, verifies the trail."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from remit.agent import Message, Reply
from remit.audit.keys import read_public_key
from remit.audit.verify import Report, verify
from remit.config import SecurityConfig
from remit.errors import RemitError, SandboxUnavailable
from remit.jail.probe import guarantees
from remit.jail.supervisor import Supervisor, Unheld
from remit.model.call import Outcome
from remit.policy.compile import required
from remit.runtime import Runtime
from remit.surfaces.cli.demo.attacks import ATTACKS, Attack, asked_for, by_name
from remit.surfaces.cli.demo.control import run_plain
from remit.surfaces.cli.demo.judge import BOUNDS, Bounds, Evidence, Verdict, judge, judge_plain
from remit.surfaces.cli.demo.story import ATTACK, Script, WitnessedAgent, agent_of, spelled, task
from remit.surfaces.cli.demo.witness import Listener, Outside, ProcessWatch, descendants, place_outside, still_alive

__all__ = ["Canary", "Display", "Result", "Row", "Setting", "perform"]

_PLAIN_PROCESSES = 20
_PLAIN_CHUNKS = 50  # of 8 MiB
_MANY = 1_000_000
_GRACE_SECONDS = 2.0  # what is killed ends when the kernel gets to it


@dataclass(frozen=True, slots=True)
class Canary:
    """A variable of this process's environment that nothing in a jail may see."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the demo is asked for.

    Attributes:
        folder: what is reported on; absolute, links followed.
        notice: a text with the injected instruction.
        canary: the variable that is set.
        environment: this process's variables.
        control: whether each attack is first shown to succeed in a plain process.
        keep: whether the trail stays where it is.
        simulate: features of the kernel that are taken away.
        more: further grants of the agent.
        bounds: the limits.
    """

    folder: Path
    notice: str
    canary: Canary
    environment: Mapping[str, str]
    control: bool = False
    keep: bool = True
    simulate: Mapping[str, Any] | None = None
    more: Sequence[str] = ()
    bounds: Bounds = BOUNDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One attack and what became of it; `plain` is how it succeeded without a jail, None where that was not shown."""

    attack: Attack
    verdict: Verdict
    ms: float
    planted: bool
    plain: str | None = None

    @property
    def ok(self) -> bool:
        """Whether it was stopped, and would have succeeded without a jail, where that was tried."""
        return self.verdict.stopped and self.plain != ""

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        said: dict[str, Any] = {"name": self.attack.name, "tried": self.attack.tried, **asdict(self.verdict)}
        said |= {"ms": round(self.ms, 3), "planted": self.planted}
        if self.plain is not None:
            said["control"] = {"succeeded": bool(self.plain), "happened": self.plain or "it did not succeed"}
        return said


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All that the demo has shown.

    Attributes:
        folder, tier: what was reported on, and under which mechanisms.
        rows: the attacks, in order.
        report: what the agent answered.
        produced: whether that is a report.
        trail: what verifying the trail found.
        kept: where the trail is, "" where it was taken away.
        left: how many processes were left when all was over.
        seconds: how long all took.
        unheld: guarantees that do not hold here, with what is missing.
    """

    folder: str
    tier: str
    rows: tuple[Row, ...]
    report: str
    produced: bool
    trail: Report
    kept: str
    left: int
    seconds: float
    unheld: Mapping[str, str] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """Why the demo did not show what it is to show; empty where it did."""
        tried = {row.attack.name for row in self.rows}
        found = [f"`{attack.tried}` was not tried" for attack in ATTACKS if attack.name not in tried]
        for row in self.rows:
            if not row.verdict.stopped:
                found.append(f"`{row.attack.tried}` was not stopped: {row.verdict.happened}")
            if row.plain == "":
                found.append(f"`{row.attack.tried}` did not succeed in a plain process, so stopping it shows nothing")
        if not self.produced:
            found.append(f"the report was not produced: {self.report.splitlines()[0] if self.report else 'no answer'}")
        if not self.trail.ok:
            found.append("the audit trail does not verify: " + "; ".join(what for _, what in self.trail.problems[:3]))
        if self.left:
            found.append(f"{self.left} processes were left behind")
        return found

    def as_dict(self) -> dict[str, Any]:
        """As one JSON document."""
        return {
            "ok": not self.problems,
            "folder": self.folder,
            "tier": self.tier,
            "unheld": dict(self.unheld),
            "attacks": [row.as_dict() for row in self.rows],
            "report": {"produced": self.produced, "text": self.report},
            "audit": {**asdict(self.trail), "kept": bool(self.kept)},
            "processes_left": self.left,
            "seconds": round(self.seconds, 3),
            "problems": self.problems,
        }


class Display(Protocol):
    """What shows the demo while it runs."""

    def begin(self, setting: Setting, tier: str) -> None:
        """The agent gets its task."""

    def attempt(self, attack: Attack, *, planted: bool) -> None:
        """An attack begins."""

    def ended(self, row: Row) -> None:
        """It is over."""

    def end(self) -> None:
        """The agent has answered, or something failed. Idempotent."""


class _Model:
    """The scripted model, watched: between two answers of it lies exactly what it asked for."""

    def __init__(self, script: Script, scene: _Scene) -> None:
        self._script = script
        self._scene = scene

    async def respond(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Reply:
        await self._scene.close(messages, [str(tool["name"]) for tool in tools])
        reply = self._script.reply(messages)
        first = reply.calls[0].id if reply.calls else ""
        if first.startswith(ATTACK):
            attack = by_name(first.removeprefix(ATTACK))
            await self._scene.open(attack, planted=attack in self._script.planted(messages))
        return reply


class _Scene:
    """One attack after the other: what the witnesses see between its beginning and its end."""

    def __init__(self, setting: Setting, outside: Outside, listener: Listener, display: Display, depth: int) -> None:
        self._setting = setting
        self._outside = outside
        self._listener = listener
        self._display = display
        self._depth = depth
        self._attack: Attack | None = None
        self._planted = False
        self._plain: str | None = None
        self._watch: ProcessWatch | None = None
        self._began = 0
        self._outcomes: list[Outcome | RemitError] = []
        self.word = f"word-{secrets.token_hex(16)}".encode("ascii")
        self.rows: list[Row] = []

    def places(self, *, jailed: bool) -> dict[str, object]:
        """What the code of the attacks is aimed at; a plain process gets bounds that do no harm."""
        bounds = self._setting.bounds
        return {
            "secret_file": str(self._outside.secret_file),
            "new_file": str(self._outside.new_file),
            "tcp_port": self._listener.tcp_port,
            "udp_port": self._listener.udp_port,
            "host_pid": os.getpid(),
            "word": self.word,
            "flood": bounds.flood,
            "processes": _MANY if jailed else _PLAIN_PROCESSES,
            "nap": 30.0 if jailed else 0.4,
            "chunks": _MANY if jailed else _PLAIN_CHUNKS,
            "spin": 60.0 if jailed else 5 * bounds.cpu_ms / 1000,
            "sleep": 60.0 if jailed else 1.5 * bounds.timeout_ms / 1000,
        }

    def saw(self, outcome: Outcome | RemitError) -> None:
        """Be told how a call ended."""
        if self._attack is not None:
            self._outcomes.append(outcome)

    async def open(self, attack: Attack, *, planted: bool) -> None:
        """An attack begins: first, where it is asked for, without a jail."""
        self._display.attempt(attack, planted=planted)
        self._plain = await asyncio.to_thread(self._without_jail, attack) if self._setting.control else None
        self._attack, self._planted, self._outcomes = attack, planted, []
        if attack.name in ("fork", "program"):
            self._watch = ProcessWatch(os.getpid(), self._depth)
            self._watch.__enter__()
        self._began = time.monotonic_ns()

    async def close(self, messages: Sequence[Message], tools: Sequence[str]) -> None:
        """The attack that was open, if one was, is over."""
        attack, self._attack = self._attack, None
        if attack is None:
            return
        elapsed = (time.monotonic_ns() - self._began) / 1e6
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.__exit__()
        connections, datagrams = self._listener.heard()
        answer = [message.content for message in messages if message.call_id == ATTACK + attack.name]
        evidence = Evidence(
            outcomes=tuple(self._outcomes),
            answer=json.dumps(answer, ensure_ascii=False) + "".join(map(_printed, self._outcomes)),
            secrets=(self._outside.secret, self._setting.canary.value, "started-42"),
            connections=len(connections),
            datagrams=len(datagrams),
            written=self._outside.take_new_file(),
            watched=None if watch is None else watch.seen,
            strangers=0 if watch is None else len(watch.strangers),
            left=0 if watch is None else watch.left(),
            elapsed_ms=elapsed,
            tools=tuple(tools),
        )
        verdict = judge(attack.name, evidence, self._setting.bounds)
        row = Row(attack=attack, verdict=verdict, ms=elapsed, planted=self._planted, plain=self._plain)
        self.rows.append(row)
        self._display.ended(row)

    def abandon(self) -> None:
        """Stop watching, whatever is still open."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.__exit__()

    def _without_jail(self, attack: Attack) -> str:
        setting = self._setting
        environment = {**setting.environment, setting.canary.name: setting.canary.value}
        run = run_plain(attack.text(self.places(jailed=False), jailed=False), environment)
        connections, datagrams = self._listener.heard()
        run = replace(run, connections=connections, datagrams=datagrams, written=self._outside.take_new_file())
        known = (self._outside.secret, setting.canary.value)
        return judge_plain(attack.name, run, known, self.word, setting.bounds)


def _printed(outcome: Outcome | RemitError) -> str:
    """What a call wrote to its output is a way out as well."""
    return (outcome.stdout + outcome.stderr).decode("utf-8", "replace") if isinstance(outcome, Outcome) else ""


async def perform(setting: Setting, display: Display) -> Result:
    """Let the agent report on the folder, and judge what it tried.

    Raises:
        RemitError: the demo cannot begin: no place for its files, no loopback, an unusable trail, a folder that cannot
            be granted, a kernel that does not hold what a call needs. Nothing was run then.
    """
    began = time.monotonic_ns()
    asked = asked_for(setting.notice)
    if len(asked) != len(ATTACKS):
        raise RemitError("the notice of the demo does not ask for every attack", remedy="install remit again")
    own_state = not {"REMIT_STATE_DIR", "REMIT_AUDIT_PATH"} & {
        name for name, value in setting.environment.items() if value
    }
    state = place_outside(setting.folder, "remit-demo-") if own_state else None
    done = False
    try:
        config = SecurityConfig.from_mapping({}, setting.environment, state_dir=state)
        told = await _tell(setting, config, display)
        tier, rows, report, produced, left, unheld = told
        trail = _verified(config)
        done = True
    finally:
        display.end()
        if state is not None and not (done and setting.keep):
            shutil.rmtree(state, ignore_errors=True)
    kept = str(config.audit.path) if state is None or setting.keep else ""
    return Result(
        folder=spelled(setting.folder),
        tier=tier,
        rows=rows,
        report=report,
        produced=produced,
        trail=trail,
        kept=kept,
        left=left,
        seconds=(time.monotonic_ns() - began) / 1e9,
        unheld=unheld,
    )


def _verified(config: SecurityConfig) -> Report:
    """Verify the trail, offline, as `remit audit verify` does: with the key beside it and the second place, if any."""
    path = config.audit.path
    beside = path.with_suffix(".key")
    return verify(path, key=read_public_key(beside) if beside.is_file() else None, anchor=config.audit.anchor)


async def _tell(
    setting: Setting, config: SecurityConfig, display: Display
) -> tuple[str, tuple[Row, ...], str, bool, int, dict[str, str]]:
    """Run the agent. Everything that was set up is taken down again, also when the process is told to end."""
    async with Runtime(config, simulate=setting.simulate) as runtime:
        outside = Outside(setting.folder)
        runtime.resources.register_resource(id="demo-outside", type="folder", cleanup=outside.close)
        listener = Listener()
        runtime.resources.register_resource(id="demo-listener", type="connection", cleanup=listener.close)
        supervisor = await asyncio.to_thread(_jails, runtime)
        features = supervisor.features
        scene = _Scene(setting, outside, listener, display, 3 if features.namespaces else 2)
        script = Script(
            folder=spelled(setting.folder),
            notice=setting.notice,
            places=scene.places(jailed=True),
            flood=setting.bounds.flood,
        )
        agent = agent_of(setting.folder, _Model(script, scene), scene.saw, bounds=setting.bounds, more=setting.more)
        display.begin(setting, features.tier)
        try:
            report, produced = await _answer(agent, setting.folder)
        finally:
            scene.abandon()
            display.end()
        unheld = {name: held.missing for name, held in guarantees(features).items() if not held.held}
        processes = set(descendants(os.getpid()))
    left = await asyncio.to_thread(still_alive, processes, _GRACE_SECONDS)
    return features.tier, tuple(scene.rows), report, produced, left, unheld


async def _answer(agent: WitnessedAgent, folder: Path) -> tuple[str, bool]:
    """The agent's answer to its task, and whether that is a report."""
    try:
        report = await agent.run(task(folder))
    except RemitError as error:
        return str(error), False
    return report, report.startswith("Report on ")


def _jails(runtime: Runtime) -> Supervisor:
    """Start the jails, and make sure that this machine holds what the agent's calls need.

    Raises:
        SandboxUnavailable: it does not, with the guarantee and the mend.
    """
    try:
        supervisor = runtime.start_jails()
        held = guarantees(supervisor.features)
        for name in required():
            if not held[name].held:
                raise Unheld(name, held[name].missing, held[name].remedy)
    except Unheld as error:
        raise SandboxUnavailable(
            f"`{error.guarantee}` cannot be held on this machine: no {error.missing}",
            guarantee=error.guarantee,
            remedy=error.remedy,
        ) from None
    return supervisor
