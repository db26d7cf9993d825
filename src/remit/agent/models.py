"""Models: what decides an agent's next step. A scripted one needs no key, for tests and demos."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from remit.agent.messages import Message, Reply, ToolRequest
from remit.errors import RemitError

__all__ = ["Model", "ModelFunction", "ScriptedModel", "as_model"]

ModelFunction = Callable[[Sequence[Message], Sequence[Mapping[str, Any]]], "Reply | str | Awaitable[Reply | str]"]
Step = Reply | str | ToolRequest | Callable[[Sequence[Message]], "Reply | str"]


class Model(Protocol):
    """Anything that answers a conversation."""

    async def respond(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Reply:
        """Answer.

        Args:
            messages: the conversation so far, oldest first.
            tools: the functions on offer: `{"name", "description", "parameters"}`, the last a JSON Schema.
        """


class ScriptedModel:
    """Answers by a script, one step after the other.

    Args:
        steps: each a Reply, text, a ToolRequest, or a callable that makes a Reply or text of the conversation.

    Raises:
        RemitError: from `respond`, when the script has ended.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = list(steps)
        self._at = 0

    async def respond(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],  # noqa: ARG002  # a Model has them
    ) -> Reply:
        """Answer with the next step; `tools` does not matter to a script."""
        if self._at >= len(self._steps):
            raise RemitError(f"the script has {len(self._steps)} steps, and all are told", remedy="write a longer one")
        step = self._steps[self._at]
        self._at += 1
        if isinstance(step, ToolRequest):
            return Reply(calls=(step,))
        return _reply(step(messages) if callable(step) else step)


class _FunctionModel:
    def __init__(self, function: ModelFunction) -> None:
        self._function = function

    async def respond(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Reply:
        answer = self._function(messages, tools)
        return _reply(await answer if inspect.isawaitable(answer) else answer)


def as_model(model: Model | ModelFunction) -> Model:
    """A model, or a function of (messages, tools) as one."""
    return model if hasattr(model, "respond") else _FunctionModel(model)


def _reply(answer: object) -> Reply:
    if isinstance(answer, Reply):
        return answer
    if isinstance(answer, str):
        return Reply(answer)
    raise RemitError(f"a model answered with a `{type(answer).__name__}`", remedy="answer with text or a Reply")
