"""ConversableAgent: talks, calls functions, and can do nothing beyond its remit."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar, overload

from remit.agent.functions import JailedFunction
from remit.agent.holding import Declared, Holding, Settled
from remit.agent.messages import Message, ToolRequest
from remit.agent.models import Model, ModelFunction, as_model
from remit.context import acting_as, current_context
from remit.errors import Denied, FunctionRaised, LimitExceeded, RemitError
from remit.model.call import Outcome
from remit.model.event import EventType, SecurityEvent
from remit.model.limits import Limits, RateLimit, RateLimits
from remit.model.permission import Grant, Permission
from remit.model.principal import SecurityContext
from remit.model.security import Security
from remit.model.units import AnyDuration, Unlimited
from remit.ratelimit import Demand
from remit.runtime import Runtime, SecurityValidator, active_runtime, run_sync
from remit.shipping import from_source, plain
from remit.validation import FunctionSchema

__all__ = ["ConversableAgent"]

_T = TypeVar("_T")
_REGISTER = "register_function"
_REGISTERS = Grant(Permission.FUNCTION_REGISTRATION)
_ANSWER = 600  # characters of a refusal that a model reads


class ConversableAgent:
    """An agent with a name, a model, functions, and a declaration of what it may do.

    Args:
        name: unique within the runtime: rate limits, audit trail and chains go by it.
        system_message: told to the model first.
        model: a Model, or a function of (messages, tools).
        functions: functions to register, decorated by `remit.function` or plain.
        security: permissions, denies, constraints; a `Security` or a mapping of its form.
        limits: memory, CPU, ...; a `Limits` or a mapping of its form.
        rate_limits: how often it may call and speak.
        max_turns: how often the model may answer within one `run`.
        history: how many messages are kept.

    Raises:
        PolicyError: the declaration cannot hold.
    """

    def __init__(
        self,
        name: str,
        *,
        system_message: str = "",
        model: Model | ModelFunction | None = None,
        functions: Iterable[Callable[..., Any]] = (),
        security: Security | Mapping[str, Any] | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        rate_limits: RateLimits | Mapping[str, Any] | None = None,
        max_turns: int = 10,
        history: int = 1000,
    ) -> None:
        self._holding = Holding(name, security, limits, rate_limits)
        self.name = name
        self.system_message = system_message
        self.max_turns = max_turns
        self._model = as_model(model) if model is not None else None
        self._history: deque[Message] = deque(maxlen=history)
        self._owed: SecurityContext | None = None  # with whose authority the next answer is made
        self._answered = True
        self._received = 0
        for item in functions:
            self._add(item)

    # --- functions

    def register_function(
        self,
        name: str,
        handler: Callable[..., Any],
        *,
        description: str | None = None,
        permissions: Iterable[str] | None = None,
        deny: Iterable[str] = (),
        limits: Limits | Mapping[str, Any] | None = None,
        timeout: AnyDuration | None = None,
        ship: str = "auto",
    ) -> JailedFunction:
        """Register a function; the result may be awaited.

        Args:
            name: what the model calls it.
            handler: the function.
            description: what the model reads of it; by default its docstring.
            permissions: what it needs, at most what the agent holds; None means the configured default.
            deny: what is refused all the same.
            limits: its own, which only narrow the agent's.
            timeout: likewise.
            ship: `reference`, `value`, or `auto`.

        Raises:
            PolicyError: it could never run, or cannot be shipped.
            Denied: code that acts for an agent registers it, without `function_registration`.
        """
        inner = plain(handler)
        declared = Declared.of(
            inner,
            name=name,
            description=description,
            permissions=permissions,
            deny=deny,
            limits=limits,
            timeout=timeout,
            ship=ship,
        )
        if isinstance(handler, JailedFunction):
            declared = declared.beneath(handler.declared)
        self._holding.add(inner, declared)
        return JailedFunction(inner, declared, self._holding)

    @overload
    def function(self, wrapped: Callable[..., Any], /) -> JailedFunction: ...
    @overload
    def function(self, wrapped: None = None, /, **options: Any) -> Callable[[Callable[..., Any]], JailedFunction]: ...
    def function(self, wrapped: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """`@agent.function` or `@agent.function(permissions=[...])`: register the decorated function."""
        if wrapped is not None:
            return self._add(wrapped)

        def register(wrapped: Callable[..., Any]) -> JailedFunction:
            return self.register_function(**{"name": wrapped.__name__, **options, "handler": wrapped})

        return register

    def _add(self, item: Callable[..., Any]) -> JailedFunction:
        if isinstance(item, JailedFunction):
            self._holding.add(item.__wrapped__, item.declared)
            return JailedFunction(item.__wrapped__, item.declared, self._holding)
        declared = Declared.of(item)
        self._holding.add(item, declared)
        return JailedFunction(item, declared, self._holding)

    @property
    def tools(self) -> list[dict[str, Any]]:
        """What a model is offered: name, description and JSON Schema of each function."""
        offered = [
            {"name": made.name, "description": made.description, "parameters": made.schema.json_schema()}
            for made in self._holding.holder.functions.values()
        ]
        if self._holding.settings.policy.grants.covers(_REGISTERS):
            offered.append(_REGISTER_TOOL)
        return offered

    # --- calls

    async def call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call one of the agent's functions and return its value.

        Raises:
            RemitError: see `remit.errors`; each names the reason and the remedy.
        """
        return (await self._holding.outcome(name, args, kwargs)).unwrap()

    async def outcome(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: AnyDuration | None = None,  # noqa: ASYNC109  # the zygote's deadline, not the loop's
    ) -> Outcome:
        """Call one of the agent's functions; how it ended.

        Raises:
            RateLimited, ValidationFailed, Denied, SandboxUnavailable, AuditError: it was refused and did not run. What
                the function did is never an exception here.
        """
        return await self._holding.outcome(name, (), arguments or {}, timeout=timeout)

    # --- conversations

    @property
    def history(self) -> tuple[Message, ...]:
        """The conversation so far, oldest first."""
        return tuple(self._history)

    async def send(self, message: Any, to: ConversableAgent) -> Message:
        """Say something to another agent, with this agent's authority and no more.

        Raises:
            ValidationFailed: it is not text or plain data within the bounds.
            RateLimited: too many messages.
        """
        runtime, settled = self._holding.entered()
        await self._holding.record_pending(runtime)
        context = runtime.context_of(settled.settings.policy)
        checked = await self._checked(runtime, message, context, to.name, settled.settings.rate_limits.messages)
        await runtime.monitor.record(self._message_event(context, to.name, "allowed", {}))
        sent = Message(role="user", content=checked, sender=self.name, context=context)
        self._history.append(Message(role="assistant", content=checked, sender=self.name))
        await to.receive(sent)
        return sent

    async def _checked(
        self, runtime: Runtime, message: Any, context: SecurityContext, receiver: str, rate: RateLimit
    ) -> Any:
        try:
            if runtime.limiter is not None and not isinstance(rate.limit, Unlimited):
                verdict = runtime.limiter.take((Demand(("messages", self.name), rate.limit, rate.window_ms),))
                if not verdict:
                    raise verdict.error("message")
            return runtime.validator.message(message)
        except RemitError as error:
            refused = {"stage": error.stage, "reason": error.reason[:300]}
            event = self._message_event(context, receiver, "denied", refused)
            recorded = await runtime.monitor.record(event)
            error.event_id = recorded.id if recorded else None
            runtime.emitter.emit("limit_exceeded" if error.stage == "rate" else "violation", event)
            raise

    def _message_event(
        self, context: SecurityContext, receiver: str, result: Any, more: Mapping[str, Any]
    ) -> SecurityEvent:
        return SecurityEvent(
            type=EventType.MESSAGE,
            principal=context.principal,
            chain=context.names,
            action="message",
            resource=receiver,
            result=result,
            context=more,
            timestamp=time.time_ns() // 1_000_000,
        )

    async def receive(self, message: Message) -> None:
        """Take a message into the conversation. Its chain travels with it: an answer has no more authority."""
        self._owe(message.context)
        self._history.append(message)

    async def generate_reply(self) -> str:
        """Answer what was received last: ask the model, make the calls that it asks for, until it has only text.

        Raises:
            LimitExceeded: the model asked for calls more than `max_turns` times.
            RemitError: there is no model.
        """
        if self._model is None:
            raise RemitError(f"`{self.name}` has no model", remedy="give it one: ConversableAgent(..., model=...)")
        runtime, settled = self._holding.entered()
        await self._holding.record_pending(runtime)
        for _ in range(self.max_turns):
            received, last = self._received, self._owed  # anew in each turn: more may have come meanwhile
            with acting_as(self._context(runtime, settled, last)) as context:
                reply = await self._model.respond(self._conversation(), self.tools)
                text = await SecurityValidator.validate_input(reply.text, context) if reply.text else ""
                self._history.append(
                    Message(role="assistant", content=text, sender=self.name, calls=reply.calls, context=last)
                )
                if not reply.calls:
                    self._answered = self._received == received
                    return str(text)
                for request in reply.calls:
                    answer = await self._answer(runtime, request)
                    self._history.append(
                        Message(
                            role="tool",
                            content=answer,
                            sender=runtime_name(request),
                            call_id=request.id,
                            context=last,
                        )
                    )
        raise LimitExceeded(
            f"`{self.name}` asked for calls in each of {self.max_turns} turns",
            limit="max_turns",
            value=self.max_turns,
            used=self.max_turns,
            remedy="raise `max_turns`",
            stage="conversation",
        )

    def _owe(self, sent: SecurityContext | None) -> None:
        """Remember with whose authority that came which is to be answered: of several messages, no more than each's."""
        self._received += 1
        if self._answered:
            self._owed, self._answered = sent, False
        elif sent is not None:
            self._owed = sent if self._owed is None else sent.narrowed(self._owed.grants)

    def _context(self, runtime: Runtime, settled: Settled, sent: SecurityContext | None) -> SecurityContext:
        """On whose behalf an answer is made: the sender's chain, this agent and who asks for it, intersected."""
        policy = settled.settings.policy
        above = current_context()
        if sent is None:
            return runtime.context_of(policy)
        with acting_as(sent):
            context = runtime.context_of(policy)
        return context if above is None else context.narrowed(above.grants)

    def _conversation(self) -> Sequence[Message]:
        first = [Message(role="system", content=self.system_message)] if self.system_message else []
        return [*first, *self._history]

    async def _answer(self, runtime: Runtime, request: ToolRequest) -> Any:
        """Make one call that the model asked for; a refusal is told to it in a sentence that it can act on."""
        name = runtime_name(request)
        try:
            if name == _REGISTER and _REGISTER not in self._holding.holder.functions:
                return await self._holding.attempt(name, lambda: self._register_written(runtime, request))
            arguments, problem = self._arguments(runtime, request)
            if problem is not None:
                return await self._holding.attempt(name, lambda: _raise(problem))
            return await self.call(name, **arguments)
        except FunctionRaised as error:
            return {"error": f"{error.type_name}: {error.message}"[:_ANSWER]}
        except RemitError as error:
            return {"refused": str(error)[:_ANSWER]}

    def _arguments(self, runtime: Runtime, request: ToolRequest) -> tuple[dict[str, Any], RemitError | None]:
        """The arguments that a model named, or why they are none."""
        given = request.arguments
        try:
            if isinstance(given, (str, bytes)):
                given = runtime.validator.json(given or "{}", allow_null=True, path="arguments")
            if isinstance(given, Mapping) and all(isinstance(name, str) for name in given):
                return dict(given), None
        except RemitError as error:
            return {}, error
        return {}, Denied(
            "the arguments of a call are an object",
            rule="arguments",
            remedy='such as {"text": "..."}',
            stage="validate",
        )

    async def _register_written(self, runtime: Runtime, request: ToolRequest) -> Any:
        """Register a function that the model wrote. Its text only ever runs in a jail; its signature comes from one."""
        given, problem = self._arguments(runtime, request)
        if problem is not None:
            raise problem
        arguments = runtime.validator.message(given)
        name, source = arguments.get("name"), arguments.get("source")
        wanted = arguments.get("permissions")
        if not isinstance(name, str) or not isinstance(source, str) or not name.isidentifier():
            raise Denied("`name` and `source` are text, `name` an identifier", rule="arguments")
        if wanted is not None and not (isinstance(wanted, list) and all(isinstance(text, str) for text in wanted)):
            raise Denied("`permissions` is a list of text", rule="arguments")
        declared = Declared.of(
            lambda: None, name=name, description=str(arguments.get("description", "")), permissions=wanted
        )
        ceiling = self._holding.may_register(declared)  # before anything of it is looked at
        shipped = from_source(source, name)
        described = await self._holding.describe(declared, shipped, ceiling)
        schema = FunctionSchema.from_description({**described, "name": name}, name=name)
        self._holding.add_shipped(declared, schema, shipped)
        await self._holding.record_pending(runtime)
        return {"registered": name}

    async def run(self, task: str) -> str:
        """Give the agent a task, in the deployer's or a person's name, and return its answer.

        Raises:
            as `generate_reply`, and ValidationFailed for the task itself.
        """
        context = current_context()
        checked = await SecurityValidator.validate_input(task, context)
        self._owe(context)
        self._history.append(Message(role="user", content=checked, sender="user", context=context))
        return await self.generate_reply()

    async def initiate_chat(self, other: ConversableAgent, message: Any, max_turns: int = 4) -> tuple[Message, ...]:
        """Talk with another agent: say `message`, and answer each other, `max_turns` messages in all.

        Returns:
            The messages, in order.
        """
        said = [await self.send(message, other)]
        speaker, listener = other, self
        while len(said) < max_turns and speaker._model is not None:  # noqa: SLF001  # the same class
            text = await speaker.generate_reply()
            owed = speaker._owed  # noqa: SLF001  # the same class
            with acting_as(owed) if owed is not None else nullcontext():
                said.append(await speaker.send(text, listener))
            speaker, listener = listener, speaker
        return tuple(said)

    def run_sync(self, work: str | Coroutine[Any, Any, _T]) -> Any:
        """`run` a task, or any coroutine, from code that is not asynchronous; also where a loop runs already."""
        active_runtime()  # made here, where it can hear signals if this is the main thread
        return run_sync(self.run(work) if isinstance(work, str) else work)

    def __repr__(self) -> str:
        return f"<ConversableAgent {self.name}: {', '.join(self._holding.settings.policy.grants.as_text())}>"


async def _raise(error: RemitError) -> Any:
    raise error


def runtime_name(request: ToolRequest) -> str:
    """The name that a model asked for, fit to be shown."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(request.name))[:128]


_REGISTER_TOOL: dict[str, Any] = {
    "name": _REGISTER,
    "description": "Add a Python function of your own. It runs in a jail with at most what you hold.",
    "parameters": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "source": {"type": "string", "description": "Python source that defines the function"},
            "description": {"type": "string"},
            "permissions": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["name", "source"],
        "additionalProperties": False,
    },
}
