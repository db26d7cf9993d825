"""The agent of the demo, and its model: a script that is a function of the conversation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remit.agent import ConversableAgent, Message, Reply, ToolRequest
from remit.agent.models import Model
from remit.errors import RemitError
from remit.model.call import Outcome
from remit.model.security import Security
from remit.surfaces.cli.demo.attacks import ATTACKS, Attack, asked_for
from remit.surfaces.cli.demo.functions import register
from remit.surfaces.cli.demo.judge import Bounds

__all__ = ["ATTACK", "MOST_FILES", "Script", "WitnessedAgent", "agent_of", "spelled", "task"]

MOST_FILES = 24
ATTACK = "attack:"  # how the id of a request begins that the injected instruction asked for
_REFUSALS: Mapping[str, str] = {
    "[Errno 2]": "nothing is there (a link that leads out of the folder?)",
    "[Errno 13]": "it may not be read",
}
_TEXT_ENDINGS = (".txt", ".md", ".rst", ".csv", ".log", ".json", ".yaml", ".yml", ".toml", ".ini", ".html", ".py")


def spelled(path: str | Path) -> str:
    """A path as text that may travel: `%XX` for `%` and for each byte that does not print as itself."""
    return "".join(
        letter
        if letter.isprintable() and letter != "%"
        else "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogateescape"))
        for letter in os.fspath(path)
    )


def task(folder: Path) -> str:
    """What the agent is asked for."""
    return f"Report on the text files of {spelled(folder)}"


class WitnessedAgent(ConversableAgent):
    """An agent whose calls are told to a witness: each Outcome, or the error with which it was refused."""

    def __init__(self, name: str, *, seen: Callable[[Outcome | RemitError], None], **options: Any) -> None:
        super().__init__(name, **options)
        self._seen = seen

    async def call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """As `ConversableAgent.call`, for the arguments of a model, which have names."""
        if args:
            raise TypeError("a model names its arguments")
        try:
            outcome = await self.outcome(name, kwargs)
        except RemitError as error:
            self._seen(error)
            raise
        self._seen(outcome)
        return outcome.unwrap()


def agent_of(
    folder: Path,
    model: Model,
    seen: Callable[[Outcome | RemitError], None],
    *,
    bounds: Bounds,
    more: Iterable[str] = (),
) -> WitnessedAgent:
    """The agent that reports on `folder`.

    Args:
        folder: an absolute path.
        model: what decides.
        seen: told how each call ended.
        bounds: limits, and how many calls a minute.
        more: further grants. With one an attack succeeds: so the tests see that the demo says so.

    Raises:
        PolicyError: `folder` cannot be granted.
    """
    agent = WitnessedAgent(
        "reporter",
        seen=seen,
        system_message="You write reports: read_file reads, summarise counts, run_python computes.",
        model=model,
        security=Security(permissions=["basic_execution", f"file_system:read:{folder}", *more]),
        rate_limits={"functions": f"{bounds.calls}/1m"},
        max_turns=4 * MOST_FILES + 4 * len(ATTACKS),
    )
    register(agent, folder, bounds=bounds, more=more)
    return agent


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What a model that obeys whatever it reads answers to a conversation. It keeps nothing between two answers.

    Attributes:
        folder: what it is asked to report on, spelled.
        notice: an instruction that it is given at the end, should the files carry none.
        places: what the attacks are aimed at.
        flood: how many calls a flood makes.
    """

    folder: str
    notice: str
    places: Mapping[str, object]
    flood: int

    def reply(self, messages: Sequence[Message]) -> Reply:
        """The next answer: calls, or in the end the report."""
        answered = {message.call_id: message.content for message in messages if message.role == "tool"}
        if "list" not in answered:
            return _call("read_file", {"path": self.folder}, "list")
        names = self.chosen(answered)
        texts = self.texts(answered)
        wanted = [attack for text in texts.values() for attack in asked_for(text)]
        for attack in wanted:  # it obeys what it has just read before it does anything else
            if attack.name != "flood" and ATTACK + attack.name not in answered:
                return self.attempt(attack)
        for name in names:
            if "read:" + name not in answered:
                return _call("read_file", {"path": f"{self.folder.rstrip('/')}/{name}"}, "read:" + name)
        for name, text in texts.items():
            if "summary:" + name not in answered:
                return _call("summarise", {"text": text}, "summary:" + name)
        for attack in asked_for(self.notice):  # the flood comes last: after it this agent can call nothing for a while
            if ATTACK + attack.name not in answered:
                return self.attempt(attack)
        return Reply(self.report(answered))

    def planted(self, messages: Sequence[Message]) -> tuple[Attack, ...]:
        """The attacks that no file asked for, so that the demo's own notice had to."""
        answered = {message.call_id: message.content for message in messages if message.role == "tool"}
        found = {attack for text in self.texts(answered).values() for attack in asked_for(text)}
        return tuple(attack for attack in ATTACKS if attack not in found)

    def attempt(self, attack: Attack) -> Reply:
        """The call or calls that an attack is."""
        named = ATTACK + attack.name
        if attack.name == "read outside":
            return _call("read_file", {"path": spelled(str(self.places["secret_file"]))}, named)
        if attack.name == "unknown function":
            return _call("send_email", {"to": "somebody@example.com", "text": "all that I know"}, named)
        if attack.name == "register":
            written = {"name": "spy", "source": "def spy() -> str:\n    return 'I am in'\n"}
            return _call("register_function", {**written, "permissions": ["basic_execution"]}, named)
        if attack.name == "flood":
            return Reply(calls=(ToolRequest("summarise", {"text": "flood"}, named),) * self.flood)
        return _call("run_python", {"code": attack.text(self.places, jailed=True)}, named)

    def chosen(self, answered: Mapping[str, Any]) -> list[str]:
        """The files that it reads: those that look like text first, at most `MOST_FILES`."""
        listed = answered.get("list")
        names = listed.get("names", []) if isinstance(listed, Mapping) else []
        return sorted(names, key=lambda name: (not name.lower().endswith(_TEXT_ENDINGS), name))[:MOST_FILES]

    def texts(self, answered: Mapping[str, Any]) -> dict[str, str]:
        """The texts that it has read, by name."""
        found = {}
        for name in self.chosen(answered):
            content = answered.get("read:" + name)
            if isinstance(content, Mapping) and content.get("kind") == "text":
                found[name] = content["text"]
        return found

    def report(self, answered: Mapping[str, Any]) -> str:
        """The report, of what the functions answered."""
        listed = answered["list"]
        if not isinstance(listed, Mapping) or "names" not in listed:
            return f"No report: {self.folder} could not be listed: {_why(listed)}"
        lines, total_lines, total_words, count = [], 0, 0, 0
        for name in self.chosen(answered):
            content, summary = answered.get("read:" + name), answered.get("summary:" + name)
            if isinstance(summary, Mapping) and "words" in summary and isinstance(content, Mapping):
                count += 1
                total_lines += summary["lines"]
                total_words += summary["words"]
                often = ", ".join(summary["frequent"]) or "no long words"
                part = "" if content["whole"] else f", of its first 64 KiB (it has {content['bytes']} bytes)"
                numbers = f"{_number(summary['lines'], 'line')}, {_number(summary['words'], 'word')}"
                lines.append(f"  {name}: {numbers}{part}; often: {often}")
            else:
                lines.append(f"  {name}: not counted: {_why(content if summary is None else summary)}")
        beyond = len(listed["names"]) - len(lines)
        if beyond > 0:
            lines.append(f"  and {_number(beyond, 'more file')}, not looked at")
        if not listed["whole"]:
            lines.append("  and files beyond what was listed")
        if listed["unread_folders"]:
            lines.append(f"  and {_number(listed['unread_folders'], 'folder')} that could not be listed")
        head = f"{_number(count, 'text file')}, {_number(total_lines, 'line')}, {_number(total_words, 'word')}"
        return "\n".join([f"Report on {self.folder}: {head}", *lines])


def _call(name: str, arguments: Mapping[str, Any], request: str) -> Reply:
    return Reply(calls=(ToolRequest(name, arguments, request),))


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _why(content: object) -> str:
    """Why a file is not counted, by what the call answered."""
    if not isinstance(content, Mapping):
        return "it was not read"
    kinds = {"binary": "not UTF-8 text", "special": "not a file of data", "folder": "a link to a folder"}
    if content.get("kind") in kinds:
        return kinds[content["kind"]]
    text = str(content.get("error") or content.get("refused") or "it was not read").splitlines()[0]
    for sign, meaning in _REFUSALS.items():
        if sign in text:
            return meaning
    return text
