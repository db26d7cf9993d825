"""What an agent, or a function that stands alone, holds: the settled policy, the functions, the way to the monitor."""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Final, TypeVar

from remit.config import AgentSettings, SecurityConfig
from remit.context import acting_as, current_context, current_runtime
from remit.errors import AuditError, Denied, PolicyError
from remit.model.call import Outcome, ToolCall
from remit.model.event import EventType, SecurityEvent
from remit.model.grants import GrantSet
from remit.model.limits import Constraints, Limits, RateLimits
from remit.model.permission import Grant, Permission
from remit.model.principal import Principal
from remit.model.security import Security, words
from remit.model.spelling import shown
from remit.model.units import AnyDuration, Unlimited, milliseconds_of
from remit.monitor import Function, Holder, new_id
from remit.policy.compile import required
from remit.policy.decide import FunctionPolicy, RegisteredFunction, check_registration
from remit.policy.paths import resolve_all, resolve_deny
from remit.runtime import ALONE, HOST, Runtime, active_runtime, environment
from remit.shipping import Shipped, program, ship
from remit.validation import FunctionSchema, Parameter

__all__ = ["Declared", "Holding", "Settled"]

_T = TypeVar("_T")
_MOST_FUNCTIONS: Final = 1_000  # of one agent: what its own code registers must not fill the memory
_MOST_CONFIGURATIONS: Final = 8
_LONGEST_NAME: Final = 128
_OF_AN_AGENT: Final = frozenset({"connections", "pool_size"})
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
        place = str(name or getattr(function, "__name__", type(function).__name__))
        if not callable(function):
            raise PolicyError(f"a `{place}` cannot be called", place=place, remedy="give a function")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise PolicyError(
                f"`{place}` is a generator, whose values would come one by one", place=place, remedy="return a list"
            )
        named = name or getattr(function, "__name__", "")
        if not isinstance(named, str) or not _is_name(named):
            raise PolicyError(
                f"`{named}` cannot be the name of a function", remedy="give it a `name` of letters, digits, `_` and `-`"
            )
        if ship not in ("auto", "reference", "value"):
            raise PolicyError(f"`ship={ship}` is not known", place=named, remedy="`auto`, `reference` or `value`")
        if limits is not None and not isinstance(limits, Limits):
            limits = Limits.from_mapping(limits)
        length = None if timeout is None else milliseconds_of(timeout, name="timeout")
        asked = None if permissions is None else words(permissions, where=f"{named}.permissions")
        refused = words(deny, where=f"{named}.deny")
        for text in (*(asked or ()), *refused):  # what can never be meant is said here; what is not there, later
            Grant.parse(text, base=PurePath("/"), home="/")
        return cls(
            name=named,
            description=description if description is not None else inspect.getdoc(function) or "",
            permissions=asked,
            deny=refused,
            limits=limits,
            timeout=None if isinstance(length, Unlimited) else length,
            ship=ship,
        )

    def beneath(self, above: Declared) -> Declared:
        """This declaration where it says something, and what was declared of the function before elsewhere."""
        limits = self.limits
        if above.limits is not None:
            limits = above.limits if limits is None else above.limits.narrow(limits)
        return replace(
            self,
            description=self.description or above.description,
            permissions=above.permissions if self.permissions is None else self.permissions,
            deny=(*above.deny, *self.deny),
            limits=limits,
            timeout=min((time for time in (self.timeout, above.timeout) if time is not None), default=None),
            ship=above.ship if self.ship == "auto" else self.ship,
        )


@dataclass(frozen=True, slots=True)
class Settled:
    """What a principal holds under one configuration."""

    config: SecurityConfig
    settings: AgentSettings
    holder: Holder


class Holding:
    """One principal's functions and authority in the current runtime.

    Args:
        name: the principal's.
        security, limits, rate_limits: as its code declares them.
        alone: it is a function that stands alone, whose name no agent may have.
        base: the folder that relative paths start from; by default the current one.

    Raises:
        PolicyError: they cannot hold; the message says where and why.
    """

    def __init__(
        self,
        name: str,
        security: Security | Mapping[str, Any] | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        rate_limits: RateLimits | Mapping[str, Any] | None = None,
        *,
        alone: bool = False,
        base: Path | None = None,
    ) -> None:
        if not alone and (name == HOST or name.startswith(ALONE)):
            raise PolicyError(
                f"no agent may be called {shown(name)}",
                place="name",
                remedy="that is how the trail names the deployer's own code, and functions that stand alone",
            )
        self.name = Principal(name).name  # refuses what no principal can be called
        self._alone = alone
        self._security = Security.of(security)
        self._limits = limits
        self._rate_limits = rate_limits
        self._base = Path.cwd() if base is None else base
        self._declared: dict[str, tuple[Declared, FunctionSchema, Shipped, GrantSet | None]] = {}
        self._unrecorded: list[SecurityEvent] = []
        self._lock = threading.RLock()
        self._settled: dict[str, Settled] = {}
        runtime = current_runtime()
        self.config = runtime.config if runtime is not None else SecurityConfig.load()
        self._settle(self.config)

    def _settle(self, config: SecurityConfig) -> Settled:
        """What is held under `config`. Each has its own: calls in two runtimes do not see each other's policy."""
        with self._lock:
            known = self._settled.get(config.policy_hash)
            if known is not None:
                return known
            settings = config.agent(
                self.name,
                security=self._security,
                limits=self._limits,
                rate_limits=self._rate_limits,
                base=self._base,
            )
            required(settings.require, settings.accept_without)
            slots = settings.limits.pool_size
            holder = Holder(
                policy=settings.policy,
                functions={},
                functions_rate=settings.rate_limits.functions,
                slots=0 if isinstance(slots, Unlimited) else slots,
                require=settings.require,
                accept_without=settings.accept_without,
            )
            made = Settled(config, settings, holder)
            for declared, schema, shipped, ceiling in self._declared.values():
                holder.functions[declared.name] = self._made(made, declared, schema, shipped, ceiling)
            while len(self._settled) >= _MOST_CONFIGURATIONS:
                del self._settled[next(iter(self._settled))]
            self._settled[config.policy_hash] = made
            return made

    @property
    def settings(self) -> AgentSettings:
        """What is held in the current runtime, or under the configuration of the beginning where there is none."""
        return self._now().settings

    @property
    def holder(self) -> Holder:
        """The same, as the monitor sees it."""
        return self._now().holder

    def _now(self) -> Settled:
        runtime = current_runtime()
        return self._settle(self.config if runtime is None else runtime.config)

    def runtime(self) -> Runtime:
        """The runtime that this call goes to."""
        return self.entered()[0]

    def entered(self) -> tuple[Runtime, Settled]:
        """The runtime that this call goes to, and what is held there.

        Raises:
            PolicyError: its configuration does not allow what was declared.
        """
        runtime = active_runtime()
        settled = self._settle(runtime.config)
        runtime.know(settled.settings.policy, alone=self._alone)
        return runtime, settled

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
        try:
            ceiling = self.may_register(declared)
        except Denied as error:
            self._record_denial(declared, error)
            raise
        with self._lock:
            if declared.name not in self._declared and len(self._declared) >= _MOST_FUNCTIONS:
                raise PolicyError(
                    f"{shown(self.name)} has {_MOST_FUNCTIONS} functions",
                    remedy="register fewer, or make a second agent",
                )
            now = self._now()
            made = self._made(now, declared, schema, shipped, ceiling)
            self._declared[declared.name] = (declared, schema, shipped, ceiling)
            self._settled = {now.config.policy_hash: now}  # under other configurations it is settled anew
            now.holder.functions[declared.name] = made
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
                    **_registrar(),
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

    async def describe(
        self, declared: Declared, shipped: Shipped, ceiling: GrantSet | None = None
    ) -> Mapping[str, Any]:
        """Import a function that is not imported here in a jail that may do what it is declared to need.

        Returns:
            Its name, docstring and parameters, as plain data of a stranger; `FunctionSchema.from_description` reads it.

        Raises:
            PolicyError: as `add`.
            RemitError: the import failed, or no jail could be made; recorded.
        """
        runtime, settled = self.entered()
        registered, limits, constraints = self._beneath(settled, declared, ceiling)
        return await runtime.describe(
            self.name,
            shipped,
            grants=registered.grants,
            limits=limits,
            constraints=constraints,
            require=settled.settings.require,
            accept_without=settled.settings.accept_without,
        )

    def may_register(self, declared: Declared) -> GrantSet | None:
        """While an agent acts, adding a function needs the permission; what it adds is at most what the agent holds.

        Returns:
            That ceiling; None for the deployer's own code.

        Raises:
            Denied: it has no permission, or the function is the deployer's; not recorded yet.
        """
        context = current_context()
        if context is None or not self.settings.policy.enforced:
            return None
        taken = self._declared.get(declared.name)
        if not context.grants.covers(_REGISTERS):
            reason = f"`{context.principal}` may not register `{declared.name}`"
            remedy = "grant `function_registration`"
        elif taken is not None and taken[3] is None:
            reason = (
                f"`{declared.name}` is a function of `{self.name}` already, and not `{context.principal}`'s to replace"
            )
            remedy = "give it another name"
        else:
            return context.grants
        raise Denied(reason, rule="function_registration", remedy=remedy, stage="authorize")

    def _record_denial(self, declared: Declared, error: Denied) -> None:
        """Bring to the trail, and tell, that something acting for an agent may not register a function. Waits."""
        runtime, context = active_runtime(), current_context()
        event = SecurityEvent(
            type=EventType.VIOLATION,
            principal=runtime.principal(),
            chain=context.names if context is not None else (),
            action="register_function",
            resource=declared.name,
            result="denied",
            context={"stage": error.stage, "reason": error.reason},
        )
        if runtime.audit is not None:
            with contextlib.suppress(AuditError):  # a refusal that cannot be recorded stays one
                error.event_id = runtime.audit.record_now(event).id
        runtime.emitter.emit("violation", event)

    def _made(
        self, settled: Settled, declared: Declared, schema: FunctionSchema, shipped: Shipped, ceiling: GrantSet | None
    ) -> Function:
        registered, limits, constraints = self._beneath(settled, declared, ceiling)
        if shipped.code.kind == "program":
            if "cpu" not in limits.given:
                limits = limits.replace(cpu="unlimited")
            if "timeout" not in constraints.given:
                constraints = constraints.replace(timeout="unlimited")
        return Function(
            name=declared.name,
            description=declared.description,
            registered=registered,
            schema=schema,
            shipped=shipped,
            limits=limits,
            constraints=constraints,
        )

    def _beneath(
        self, settled: Settled, declared: Declared, ceiling: GrantSet | None
    ) -> tuple[RegisteredFunction, Limits, Constraints]:
        """What a function may do and use, beneath its agent and whoever registers it."""
        settings = settled.settings
        policy = settings.policy
        place = f"{self.name}.{declared.name}"
        permissions = (
            None if declared.permissions is None else self._grants(settled.config, declared.permissions, place)
        )
        deny = resolve_deny(self._parsed(settled.config, declared.deny, place))
        registered = check_registration(FunctionPolicy(name=declared.name, permissions=permissions, deny=deny), policy)
        if ceiling is not None:
            over = ceiling.exceeding(registered.grants)
            if over:
                raise PolicyError(
                    f"`{declared.name}` would hold {', '.join(f'`{g}`' for g in over)}, more than who registers it",
                    place=place,
                    remedy="ask for less",
                )
        counted = () if declared.limits is None or self._alone else declared.limits.given & _OF_AN_AGENT
        if counted:
            raise PolicyError(
                f"`{min(counted)}` counts over all live calls of an agent, so no function has one of its own",
                place=place,
                remedy=f"give it to {shown(self.name)}",
            )
        limits = settings.limits if declared.limits is None else settings.limits.narrow(declared.limits)
        constraints: Constraints = settings.constraints
        if declared.timeout is not None:
            own = Constraints(timeout=f"{declared.timeout}ms")
            constraints = constraints.narrow(constraints.replace(timeout=f"{own.timeout}ms"))
        return registered, limits, constraints

    def _parsed(self, config: SecurityConfig, texts: Sequence[str], place: str) -> tuple[Grant, ...]:
        found = []
        for position, text in enumerate(texts):
            try:
                found.append(config.parse_grant(text, base=self._base))
            except PolicyError as error:
                raise PolicyError(error.reason, place=f"{place}[{position}]", remedy=error.remedy) from None
        return tuple(found)

    def _grants(self, config: SecurityConfig, texts: Sequence[str], place: str) -> tuple[Grant, ...]:
        try:
            return resolve_all(self._parsed(config, texts, place))
        except PolicyError as error:
            raise PolicyError(error.reason, place=error.place or place, remedy=error.remedy) from None

    # --- calls

    async def outcome(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        timeout: AnyDuration | None = None,  # noqa: ASYNC109  # the zygote's deadline, not the loop's
        stdio: Sequence[int] | None = None,
    ) -> Outcome:
        """Call a function through the monitor; see `Monitor.call`."""
        length = None if timeout is None else milliseconds_of(timeout, name="timeout")
        runtime, settled = await self._ready()
        context = runtime.context_of(settled.settings.policy)
        call = ToolCall(
            id=new_id(),
            function=str.__str__(name),
            args=tuple(args),
            kwargs=dict(kwargs),
            context=context,
            timeout=None if isinstance(length, Unlimited) else length,
        )
        with acting_as(context):
            return await runtime.monitor.call(settled.holder, call, stdio=stdio)

    async def attempt(self, name: str, work: Callable[[], Awaitable[_T]]) -> _T:
        """Do what is no call of a function, but an attempt all the same: it counts, and its refusal is recorded.

        Args:
            name: what was attempted.
            work: does it; what it raises is raised.

        Raises:
            RateLimited: too many attempts; `work` was not begun.
        """
        runtime, settled = await self._ready()
        context = runtime.context_of(settled.settings.policy)
        call = ToolCall(id=new_id(), function=name, context=context)
        return await runtime.monitor.attempt(settled.holder, call, work)

    async def _ready(self) -> tuple[Runtime, Settled]:
        runtime, settled = self.entered()
        if runtime.closed:
            raise Denied("the runtime is shut down", rule="shutdown", remedy="make the call before", stage="rate")
        await self.record_pending(runtime)
        return runtime, settled

    async def record_pending(self, runtime: Runtime) -> None:
        """Bring registrations that are not on the trail yet to it."""
        while self._unrecorded:
            event = self._unrecorded.pop(0)
            try:
                await runtime.monitor.record(event)
            except BaseException:
                self._unrecorded.insert(0, event)
                raise


def _unlimited(function: Function) -> dict[str, list[str]]:
    """What is not bounded, for the trail."""
    bounds = (*function.limits.items(), ("timeout", function.constraints.timeout))
    found = sorted(name for name, bound in bounds if isinstance(bound, Unlimited))
    return {"unlimited": found} if found else {}


def _registrar() -> dict[str, str]:
    """Who registers, where that is not the deployer's own code."""
    context = current_context()
    return {} if context is None else {"by": context.principal}


def _is_name(text: str) -> bool:
    """An identifier of Python, or what models may call their tools."""
    plain = len(text) <= 64 and text.isascii() and all(letter.isalnum() or letter in "_-" for letter in text)
    return 0 < len(text) <= _LONGEST_NAME and (plain or text.isidentifier())
