"""What agents and models say to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from remit.model.principal import SecurityContext

__all__ = ["Message", "Reply", "ToolRequest"]

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """A call that a model asks for: `arguments` is a mapping, or the JSON text of one; nothing of it is believed."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answers: text, calls that it asks for, or both."""

    text: str = ""
    calls: tuple[ToolRequest, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One entry of a conversation.

    Attributes:
        role: `system`, `user`, `assistant` or `tool`.
        content: text or plain data, validated.
        sender: the name of who said it.
        calls: the calls that an assistant's message asks for.
        call_id: of a tool's message, the request that it answers.
        context: with whose authority it was sent; None for a person's or the deployer's own.
    """

    role: Role
    content: Any
    sender: str = ""
    calls: tuple[ToolRequest, ...] = ()
    call_id: str = ""
    context: SecurityContext | None = field(default=None, repr=False)
