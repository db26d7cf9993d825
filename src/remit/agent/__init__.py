"""Agents that live within their remit."""

from __future__ import annotations

from remit.agent.conversable import ConversableAgent
from remit.agent.functions import JailedFunction, function, sandboxed
from remit.agent.messages import Message, Reply, ToolRequest
from remit.agent.models import Model, ScriptedModel

__all__ = [
    "ConversableAgent",
    "JailedFunction",
    "Message",
    "Model",
    "Reply",
    "ScriptedModel",
    "ToolRequest",
    "function",
    "sandboxed",
]
