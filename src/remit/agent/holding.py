"""What an agent, or a function that stands alone, holds: the settled policy, the functions, and the way to the monitor."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remit.config import AgentSettings, SecurityConfig
from remit.context import acting_as, current_context, current_runtime
from remit.errors import Denied, PolicyError
from remit.model.call import Outcome, ToolCall
from remit.model.event import EventType, SecurityEvent
from remit.model.grants import GrantSet
from remit.model.limits import Constraints, Limits, RateLimits
from remit.model.permission import Grant, Permission
from remit.model.security import Security, words
from remit.model.units import AnyDuration, Unlimited, milliseconds_of
from remit.monitor import Function, Holder, new_id
from remit.policy.decide import FunctionPolicy, RegisteredFunction, check_registration
from remit.policy.paths import resolve_all, resolve_deny
from remit.runtime import Runtime, active_runtime, environment
from remit.shipping import Shipped, program, ship
from remit.validation import FunctionSchema, Parameter

__all__ = ["Declared", "Holding"]

_REGISTERS = Grant(Permission.FUNCTION_REGISTRATION)
_PROGRAM = (  # what `jail.guest.execute` reads
    Parameter("program", "keyword_only", required=True, annotation=str),
    Parameter("argv", "keyword_only", required=True, annotation=list[str]),
    Parameter("cwd", "keyword_only", required=True, annotation=str),
    Parameter("environment", "keyword_only", required=True, annotation=dict[str, str]),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What is declared of a function: `permissions` None means the configured default."""

    name: str
    description: str = ""
    permissions: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    limits: Limits | None = None
    timeout: int | None = None
    ship: str = "auto"

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        permissions: Iterable[str] | None = None,
        deny: Iterable[str] = (),
        limits: Limits | Mapping[str, Any] | None = None,
        timeout: AnyDuration | None = None,
        ship: str = "auto",
    ) -> Declared:
        """Read what a decorator or `register_function` was given.

        Raises:
            PolicyError: a value that cannot be meant.
        """
        named = name or getattr(function, "__name__", "")
        if not isinstance(named, str) or not named.isidentifier() and not _is_tool_name(named):
            raise PolicyError(f"`{named}` cannot be the name of a function", remedy="letters, digits, `_` and `-`")
        if ship not in ("auto", "reference", "value"):
            raise PolicyError(f"`ship={ship}` is not known", place=named, remedy="`auto`, `reference` or `value`")
        if limits is not None and not isinstance(limits, Limits):
            limits = Limits.from_mapping(limits)
        length = None if timeout is None else milliseconds_of(timeout, name="timeout")
        return cls(
            name=named,
            description=description if description is not None else inspect.getdoc(function) or "",
            permissions=None if permissions is None else words(permissions, where=f"{named}.permissions"),
            deny=words(deny, where=f"{named}.deny"),
            limits=limits,
            timeout=None if isinstance(length, Unlimited) else length,
            ship=ship,
        )


class Holding:
    """One principal's functions and authority in the current runtime.

    Args:
        name: the principal's.
        security, limits, rate_limits: as its code declares them.

    Raises:
        PolicyError: they cannot hold; the message says where and why.
    """

    def __init__(
        self,
        name: str,
        security: Security | Mapping[str, Any] | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        rate_limits: RateLimits | Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self._security = Security.of(security)
        self._limits = limits
        self._rate_limits = rate_limits
        self._base = Path.cwd()
        self._declared: dict[str, tuple[Declared, FunctionSchema, Shipped, GrantSet | None]] = {}
        self._unrecorded: list[SecurityEvent] = []
        runtime = current_runtime()
        self.config = runtime.config if runtime is not None else SecurityConfig.load()
        self._settle()

    def _settle(self) -> None:
        self.settings: AgentSettings = self.config.agent(
            self.name,
            security=self._security,
            limits=self._limits,
            rate_limits=self._rate_limits,
            base=self._base,
        )
        slots = self.settings.limits.pool_size
        self.holder = Holder(
            policy=self.settings.policy,
            functions={},
            functions_rate=self.settings.rate_limits.functions,
            slots=0 if isinstance(slots, Unlimited) else slots,
            require=self.settings.require,
            accept_without=self.settings.accept_without,
        )
        for declared, schema, shipped, ceiling in self._declared.values():
            self._put(declared, schema, shipped, ceiling)

    def runtime(self) -> Runtime:
        """The runtime that this call goes to; policy is settled anew where it has another configuration."""
        runtime = active_runtime()
        if runtime.config.policy_hash != self.config.policy_hash:
            self.config = runtime.config
            self._settle()
        runtime.know(self.settings.policy)
        return runtime

    # --- functions

    def add(self, function: Callable[..., Any], declared: Declared) -> Function:
        """Register a Python function.

        Raises:
            PolicyError: it could never run, cannot be shipped, or has a signature that cannot be checked.
            Denied: code that acts for an agent adds it, and may not.
        """
        shipped = ship(function, declared.ship, environment=environment())  # type: ignore[arg-type]
        schema = FunctionSchema.from_callable(getattr(function, "__wrapped__", function), name=declared.name)
        return self.add_shipped(declared, schema, shipped)

    def add_shipped(self, declared: Declared, schema: FunctionSchema, shipped: Shipped) -> Function:
        """Register a function that is ready for a jail. Raises as `add`."""
        ceiling = self._may_register(declared)
        made = self._put(declared, schema, shipped, ceiling)
        self._declared[declared.name] = (declared, schema, shipped, ceiling)
        self._unrecorded.append(
            SecurityEvent(
                type=EventType.REGISTERED,
                principal=self.name,
                action=declared.name,
                result="allowed",
                context={
                    "grants": made.registered.grants.as_text(),
                    "how": shipped.how,
                    **_unlimited(made),
                    "takes": dict(list(shipped.takes.items())[:100]),
                },
                timestamp=time.time_ns() // 1_000_000,
            )
        )
        return made

    def add_program(self, path: str, permissions: Sequence[str]) -> Function:
        """Register a program under its path. Its time is bounded only where somebody says so: it may be a server.

        Args:
            path: absolute and resolved.
            permissions: grants, `basic_execution:PATH` among them.

        Raises:
            PolicyError: as `add`.
        """
        declared = Declared(name=path, permissions=words(permissions, where=f"{path}.permissions"))
        return self.add_shipped(declared, FunctionSchema(path, _PROGRAM), program())

    async def describe(self, declared: Declared, shipped: Shipped) -> Mapping[str, Any]:
        """Import a function that is not imported here in a jail that may do what it is declared to need.

        Returns:
            Its name, docstring and parameters, as plain data of a stranger; `FunctionSchema.from_description` reads it.

        Raises:
            PolicyError: as `add`.
            RemitError: the import failed, or no jail could be made; recorded.
        """
        runtime = self.runtime()
        registered, limits, constraints = self._settled(declared, None)
        return await runtime.describe(
            self.name,
            shipped,
            grants=registered.grants,
            limits=limits,
            constraints=constraints,
            require=self.settings.require,
            accept_without=self.settings.accept_without,
        )

    def _may_register(self, declared: Declared) -> GrantSet | None:
        """While an agent acts, adding a function needs the permission; what it adds is at most what the agent holds."""
        context = current_context()
        if context is None or not self.settings.policy.enforced:
            return None
        if context.grants.covers(_REGISTERS):
            return context.grants
        reason = f"`{context.principal}` may not register `{declared.name}`"
        event = SecurityEvent(
            type=EventType.VIOLATION,
            principal=context.principal,
            chain=context.names,
            action="register_function",
            resource=declared.name,
            result="denied",
            context={"stage": "authorize", "reason": reason},
        )
        runtime = active_runtime()
        if runtime.audit is not None:
            runtime.audit.submit(event, durable=True)
        runtime.emitter.emit("violation", event)
        raise Denied(reason, rule="no grant", remedy="grant `function_registration`", stage="authorize")

    def _put(self, declared: Declared, schema: FunctionSchema, shipped: Shipped, ceiling: GrantSet | None) -> Function:
        registered, limits, constraints = self._settled(declared, ceiling)
        if shipped.code.kind == "program":
            if "cpu" not in limits.given:
                limits = limits.replace(cpu="unlimited")
            if "timeout" not in constraints.given:
                constraints = constraints.replace(timeout="unlimited")
        made = Function(
            name=declared.name,
            description=declared.description,
            registered=registered,
            schema=schema,
            shipped=shipped,
            limits=limits,
            constraints=constraints,
        )
        self.holder.functions[declared.name] = made
        return made

    def _settled(self, declared: Declared, ceiling: GrantSet | None) -> tuple[RegisteredFunction, Limits, Constraints]:
        """What a function may do and use, beneath its agent and whoever registers it."""
        policy = self.settings.policy
        place = f"{self.name}.{declared.name}"
        permissions = None if declared.permissions is None else self._grants(declared.permissions, place, policy.grants)
        deny = resolve_deny(self._parsed(declared.deny, place))
        registered = check_registration(FunctionPolicy(name=declared.name, permissions=permissions, deny=deny), policy)
        if ceiling is not None:
            over = ceiling.exceeding(registered.grants)
            if over:
                raise PolicyError(
                    f"`{declared.name}` would hold {', '.join(f'`{g}`' for g in over)}, more than who registers it",
                    place=place,
                    remedy="ask for less",
                )
        limits = self.settings.limits if declared.limits is None else self.settings.limits.narrow(declared.limits)
        constraints: Constraints = self.settings.constraints
        if declared.timeout is not None:
            own = Constraints(timeout=f"{declared.timeout}ms")
            constraints = constraints.narrow(constraints.replace(timeout=f"{own.timeout}ms"))
        return registered, limits, constraints

    def _parsed(self, texts: Sequence[str], place: str) -> tuple[Grant, ...]:
        found = []
        for position, text in enumerate(texts):
            try:
                found.append(self.config.parse_grant(text, base=self._base))
            except PolicyError as error:
                raise PolicyError(error.reason, place=f"{place}[{position}]", remedy=error.remedy) from None
        return tuple(found)

    def _grants(self, texts: Sequence[str], place: str, held: GrantSet) -> tuple[Grant, ...]:
        try:
            return resolve_all(self._parsed(texts, place))
        except PolicyError as error:
            raise PolicyError(error.reason, place=error.place or place, remedy=error.remedy) from None

    # --- calls

    async def outcome(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        timeout: AnyDuration | None = None,
        stdio: Sequence[int] | None = None,
    ) -> Outcome:
        """Call a function through the monitor; see `Monitor.call`."""
        runtime = self.runtime()
        if runtime.closed:
            raise Denied("the runtime is shut down", rule="shutdown", remedy="make the call before", stage="rate")
        await self.record_pending(runtime)
        length = None if timeout is None else milliseconds_of(timeout, name="timeout")
        context = runtime.context_of(self.settings.policy)
        call = ToolCall(
            id=new_id(),
            function=name,
            args=tuple(args),
            kwargs=kwargs,
            context=context,
            timeout=None if isinstance(length, Unlimited) else length,
        )
        with acting_as(context):
            return await runtime.monitor.call(self.holder, call, stdio=stdio)

    async def record_pending(self, runtime: Runtime) -> None:
        """Bring registrations that were made before there was a runtime to the trail."""
        while self._unrecorded:
            await runtime.monitor.record(self._unrecorded.pop(0))


def _unlimited(function: Function) -> dict[str, list[str]]:
    """What is not bounded, for the trail."""
    bounds = (*function.limits.items(), ("timeout", function.constraints.timeout))
    found = sorted(name for name, bound in bounds if isinstance(bound, Unlimited))
    return {"unlimited": found} if found else {}


def _is_tool_name(text: str) -> bool:
    return 0 < len(text) <= 64 and all(letter.isalnum() or letter in "_-" for letter in text) and text.isascii()
