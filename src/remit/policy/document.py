"""The text of a policy file, read strictly: YAML, TOML or JSON to plain data, with the place of each key.

YAML is read from its events, without the machinery that builds objects: no tags, no anchors and aliases (so no bombs),
no merge keys, no duplicate keys, and none of the words that YAML 1.1 takes for something else (`no`, `1:30`, `0777`, a
date), which must be quoted. Sources: YAML 1.1 (yaml.org/type), TOML 1.0, RFC 8259.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from remit.errors import PolicyError
from remit.model.spelling import did_you_mean, shown

__all__ = ["FORMATS", "LARGEST", "Document", "load", "parse"]

LARGEST: Final = 1 << 20
"""The largest policy file, in bytes."""
_DEEPEST: Final = 32
_MOST_NODES: Final = 100_000
FORMATS: Final[Mapping[str, str]] = {".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}
"""The format by the ending of a file's name."""

Path_ = tuple[str | int, ...]
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,18})", re.ASCII)
_FLOAT: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,18})\.[0-9]{1,18}", re.ASCII)
_LOADER: Final[type[Any]] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data, and where it stands.

    Attributes:
        data: mappings, lists, texts, integers, floats, booleans and None.
        source: the path of the file, or what stands for it.
        places: line and column, from 1, of each key and entry, where the format tells.
    """

    data: Mapping[str, Any]
    source: str
    places: Mapping[Path_, tuple[int, int]] = field(default_factory=dict)

    def place(self, *path: str | int) -> str:
        """Where `path`, or the nearest known above it, stands: `remit.yaml:12:5`, or `remit.toml: agents.a`."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                line, column = self.places[path[:length]]
                return f"{self.source}:{line}:{column}"
        return f"{self.source}: {_dotted(path)}" if path else self.source


def load(path: Path) -> Document:
    """The document in a file.

    Raises:
        PolicyError: it is not there, is not a regular file, is too large, anybody may write to it, or `parse` refuses
            it.
    """
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise PolicyError(
            f"a policy file ends in {', '.join(f'`{ending}`' for ending in FORMATS)}",
            place=str(path),
            remedy="rename it",
        )
    try:
        # a FIFO in its place must not hang the start
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise PolicyError("the policy file is not a regular file", place=str(path))
            if status.st_mode & stat.S_IWOTH:
                raise PolicyError("anybody may write to the policy file", place=str(path), remedy=f"chmod o-w {path}")
            raw = file.read(LARGEST + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise PolicyError(f"the policy file cannot be read: {reason}", place=str(path)) from None
    if len(raw) > LARGEST:
        raise PolicyError(f"the policy file is larger than {LARGEST} bytes", place=str(path))
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PolicyError(f"the policy file is not UTF-8 at byte {error.start}", place=str(path)) from None
    return parse(text, form=form, source=str(path))


def parse(text: str, *, form: str, source: str) -> Document:
    """The document in a text.

    Args:
        text: what the file holds.
        form: `yaml`, `toml` or `json`.
        source: what to call it in messages.

    Raises:
        PolicyError: anything that is not plain data once over, with line and column where the format tells.
    """
    readers = {"yaml": _yaml, "toml": _toml, "json": _json}
    if form not in readers:
        raise PolicyError(f"unknown format {shown(form)}", place=source, remedy=did_you_mean(form, readers))
    if len(text) > LARGEST:
        raise PolicyError(f"the policy is larger than {LARGEST} characters", place=source)
    try:
        data, places = readers[form](text, source)
    except RecursionError:
        raise PolicyError("the policy is nested too deeply", place=source) from None
    if data is None:
        data = {}  # an empty file gives nothing
    if not isinstance(data, dict):
        raise PolicyError(f"a policy is a mapping, found {type(data).__name__}", place=source)
    return Document(data, source, places)


_Read = tuple[Any, dict[Path_, tuple[int, int]]]


def _dotted(path: Path_) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _toml(text: str, source: str) -> _Read:
    try:
        return tomllib.loads(text), {}
    except tomllib.TOMLDecodeError as error:
        match = re.search(r"\(at line (\d+), column (\d+)\)$", str(error))
        place = f"{source}:{match[1]}:{match[2]}" if match else source
        reason = re.sub(r" \(at .*\)$", "", str(error))
        raise PolicyError(f"not TOML: {_lower(reason)}", place=place) from None
    except ValueError as error:  # an integer with more digits than Python converts
        raise PolicyError(f"not TOML: {_lower(str(error))}", place=source) from None


def _json(text: str, source: str) -> _Read:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise PolicyError(f"the key {shown(key)} is given twice", place=source)
            found[key] = value
        return found

    def number(word: str) -> Any:
        raise PolicyError(f"{shown(word)} is not a number that JSON has", place=source)

    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=number), {}
    except json.JSONDecodeError as error:
        raise PolicyError(f"not JSON: {_lower(error.msg)}", place=f"{source}:{error.lineno}:{error.colno}") from None
    except ValueError as error:
        raise PolicyError(f"not JSON: {_lower(str(error))}", place=source) from None


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(".")


def _yaml(text: str, source: str) -> _Read:
    try:
        return _Builder(source).build(_events(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise PolicyError(f"not YAML: {_lower(error.problem or error.context or 'malformed')}", place=place) from None
    except yaml.YAMLError as error:
        raise PolicyError(f"not YAML: {_lower(str(error).splitlines()[0])}", place=source) from None
    except ValueError as error:
        raise PolicyError(f"not YAML: {_lower(str(error))}", place=source) from None


def _events(text: str) -> Iterator[Any]:
    loader = _LOADER(text)
    try:
        while loader.check_event():
            yield loader.get_event()
    finally:
        loader.dispose()


class _Builder:
    """Plain data from YAML's events, with a stack of its own, so that depth costs no recursion."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.places: dict[Path_, tuple[int, int]] = {}
        self.nodes = 0
        self.documents = 0
        self.root: Any = None
        self.stack: list[dict[str, Any] | list[Any]] = []
        self.path: list[str | int] = []  # of the node that comes next, without its last part in a mapping
        self.key: list[str | None] = []  # the key that waits for its value, for each open mapping

    def build(self, events: Iterator[Any]) -> _Read:
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                self.documents += 1
                if self.documents > 1:
                    raise self.error(event, "a policy file holds one document", "take the second one out")
            elif isinstance(event, yaml.AliasEvent):
                raise self.error(event, "aliases are not taken in a policy", "write it out")
            elif isinstance(event, yaml.NodeEvent):
                self.node(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self.stack.pop()
                self.key.pop()
                if self.stack:
                    self.path.pop()
        return self.root, self.places

    def node(self, event: Any) -> None:
        self.nodes += 1
        if self.nodes > _MOST_NODES:
            raise self.error(event, f"a policy of more than {_MOST_NODES} entries", "split it")
        if event.anchor is not None:
            raise self.error(event, f"the anchor {shown(event.anchor)} is not taken in a policy", "take it out")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise self.error(event, f"the tag {shown(tag)} is not taken in a policy", "take it out")
        if self.stack and isinstance(self.stack[-1], dict) and self.key[-1] is None:
            self.take_key(event)
            return
        if isinstance(event, yaml.ScalarEvent):
            self.put(event, self.scalar(event))
            return
        opened: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
        where = self.put(event, opened)
        if self.stack:
            self.path.append(where)
        self.stack.append(opened)
        self.key.append(None)
        if len(self.stack) > _DEEPEST:
            raise self.error(event, f"nested deeper than {_DEEPEST} levels", "flatten it")

    def take_key(self, event: Any) -> None:
        top = self.stack[-1]
        if not isinstance(event, yaml.ScalarEvent):
            raise self.error(event, "a key must be text", "quote it")
        if event.value == "<<" and event.implicit[0]:
            raise self.error(event, "merge keys are not taken in a policy", "write it out")
        key = event.value if not event.implicit[0] else self.scalar(event)
        if not isinstance(key, str):
            raise self.error(event, f"the key {shown(event.value)} is not text", f'write "{event.value}"')
        if key in top:
            raise self.error(event, f"the key {shown(key)} is given twice", "keep one")
        self.key[-1] = key
        self.places[(*self.path, key)] = self.at(event)

    def put(self, event: Any, value: Any) -> str | int:
        if not self.stack:
            self.root = value
            return ""
        top = self.stack[-1]
        if isinstance(top, list):
            self.places[(*self.path, len(top))] = self.at(event)
            top.append(value)
            return len(top) - 1
        key = self.key[-1]
        assert key is not None  # noqa: S101 - for the type checker: node() sends a key to take_key first
        top[key] = value
        self.key[-1] = None
        return key

    def scalar(self, event: Any) -> str | int | float | bool | None:
        """Quoted text is text; plain text is what YAML 1.1 and 1.2 agree that it is."""
        text: str = event.value
        if not event.implicit[0]:
            return text
        if text in ("", "~", "null"):
            return None
        if text in ("true", "false"):
            return text == "true"
        if _INTEGER.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        tag = yaml.SafeLoader.yaml_implicit_resolvers.get(text[0], [])
        if any(pattern.match(text) for _, pattern in tag):
            raise self.error(
                event, f"{shown(text)} means different things to different readers", f'write "{text}", or true or false'
            )
        return text

    def error(self, event: Any, reason: str, remedy: str) -> PolicyError:
        line, column = self.at(event)
        return PolicyError(reason, place=f"{self.source}:{line}:{column}", remedy=remedy)

    def at(self, event: Any) -> tuple[int, int]:
        return event.start_mark.line + 1, event.start_mark.column + 1
