"""The reference monitor: the one place through which every call passes.

The order is that of design.md: admit, validate, authorize, approve, record the intent, execute in a jail, inspect the
result, record the outcome. Each step takes the type of the step before it. Steps raise; only `Monitor.call` catches,
records and tells. Where the intent cannot be recorded, the call does not run.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, TypeVar

from remit.audit import Recorded, Trail
from remit.errors import (
    AuditError,
    Denied,
    FunctionRaised,
    LimitExceeded,
    RateLimited,
    RemitError,
    SandboxUnavailable,
    ValidationFailed,
)
from remit.jail import channel
from remit.jail.spec import Ending, JailSpec
from remit.jail.supervisor import Call, Supervisor, Template, Unfit, Unheld
from remit.model.call import Admitted, Authorized, Intended, Outcome, ToolCall, Validated
from remit.model.event import EventType, SecurityEvent
from remit.model.grants import GrantSet
from remit.model.limits import Constraints, Limits, RateLimit
from remit.model.permission import access
from remit.model.principal import Principal, SecurityContext
from remit.model.units import Bound, Unlimited
from remit.monitoring import Emitter
from remit.policy.compile import compile_spec
from remit.policy.decide import AgentPolicy, RegisteredFunction, authorize, permit, unknown_function
from remit.policy.outcome import enforced_by, fit_for_an_event, outcome_of, short, unfit
from remit.ratelimit import Demand, MemoryLimiter
from remit.shipping import Shipped
from remit.validation import FunctionSchema, Validator, digest

__all__ = ["Function", "Holder", "Jails", "Monitor", "new_id"]

_T = TypeVar("_T")
_UNRECORDED: Final = ""
_ACCEPT: Final = ', or Security(accept_without=["{}"])'
_LAST_SECONDS: Final = 5.0  # for a killed jail to end; it takes milliseconds
_RUNS: Final = GrantSet.of(["basic_execution"])


def new_id() -> str:
    """A new unique id of a call, 16 bytes of randomness in hex."""
    return secrets.token_hex(16)


@dataclass(slots=True)
class Function:
    """A function that is registered with an agent.

    Attributes:
        name, description: what a model sees.
        registered: what policy says of it and its agent.
        schema: how it is called.
        shipped: how it gets into a jail.
        limits, constraints: its own beneath its agent's.
        specs: the jails that were compiled for it, by the grants that were left.
    """

    name: str
    description: str
    registered: RegisteredFunction
    schema: FunctionSchema
    shipped: Shipped
    limits: Limits
    constraints: Constraints
    specs: dict[Any, JailSpec] = field(default_factory=dict)


@dataclass(slots=True)
class Holder:
    """Who holds functions: an agent, as the monitor sees it.

    Attributes:
        policy: its grants.
        functions: by name.
        functions_rate: how many calls it may attempt.
        slots: how many of its calls may live at a time; 0 for no bound.
        require, accept_without: guarantees, beside and below the default.
    """

    policy: AgentPolicy
    functions: dict[str, Function]
    functions_rate: RateLimit
    slots: int = 0
    require: tuple[str, ...] = ()
    accept_without: tuple[str, ...] = ()


class Jails(Protocol):
    """Where jails come from."""

    def running(self) -> Supervisor | None:
        """The supervisor that serves, or None."""

    def start(self) -> Supervisor:
        """The supervisor that serves, started if there is none; may block. Raises Unheld where there can be none."""

    def lease(self, spec: JailSpec) -> tuple[Supervisor, Template]:
        """The template for `spec` and who serves it; it is kept until it is released. Raises Unheld, Unfit."""

    def release(self, template: Template) -> None:
        """Let go of what `lease` gave."""


class Monitor:
    """Decides on every call, and has it run.

    Args:
        trail: where events are recorded; None only where the operator accepted that by name.
        limiter: None where rate limits are turned off.
        validator: the bounds of what comes in and goes out.
        emitter: whom to tell.
        jails: gives the running supervisor of jails, or starts one.
        policy_hash: of the policy that is in force.
        policies: gives the policy of a principal by name, for chains.
    """

    def __init__(
        self,
        *,
        trail: Trail | None,
        limiter: MemoryLimiter | None,
        validator: Validator,
        emitter: Emitter,
        jails: Jails,
        policy_hash: str,
        policies: Callable[[str], AgentPolicy | None],
    ) -> None:
        self._trail = trail
        self._limiter = limiter
        self._validator = validator
        self._emitter = emitter
        self._jails = jails
        self._policy_hash = policy_hash
        self._policies = policies
        self._flights = _Flights()

    def settle(self, seconds: float) -> bool:
        """Wait in this thread until no call is under way, at most `seconds`; whether that is so."""
        return self._flights.wait(seconds)

    # --- the pipeline

    async def call(self, holder: Holder, call: ToolCall, *, stdio: Sequence[int] | None = None) -> Outcome:
        """Take one call the whole way.

        Args:
            holder: whose function.
            call: what is asked of it.
            stdio: of a program: the descriptors that become its standard input, output and error.

        Returns:
            How it ended. What the function did is never an exception here.

        Raises:
            RateLimited, ValidationFailed, Denied, SandboxUnavailable, AuditError: it did not run; recorded.
        """
        with self._flights:
            return await self._call(holder, call, stdio)

    async def _call(self, holder: Holder, call: ToolCall, stdio: Sequence[int] | None) -> Outcome:
        function = holder.functions.get(call.function) if type(call.function) is str else None
        digest_of = ""
        try:
            admitted = self._admit(holder, call)  # (1) rate: an attempt counts, whatever becomes of it
            known = self._find(holder, admitted, function)
            validated = self._validate(known, admitted)  # (2) size, encoding, structure, signature: a checked copy
            digest_of = validated.digest
            authorized = self._authorize(known, validated)  # (3) agent, function and chain, intersected
            spec = self._compile(holder, known, authorized)  # (3) a grant that nothing can enforce refuses here
            # (4) approve: no rule of this version asks a person; the step takes Authorized and gives it back
            intended = await self._record_intent(authorized)  # (5) or the call does not run
        except Exception as error:
            refusal = _as_refusal(error)
            await self._refuse(call, refusal, digest_of)
            if refusal is error:
                raise
            raise refusal from error
        outcome = await self._execute(holder, known, intended, spec, stdio)  # (6)
        outcome = self._inspect(outcome)  # (7) what came out is data of a stranger
        return await self._record_outcome(intended, outcome)  # (8)

    async def attempt(self, holder: Holder, call: ToolCall, work: Callable[[], Awaitable[_T]]) -> _T:
        """Do what is no call of a function, but an attempt all the same: it counts, and its refusal is recorded.

        Raises:
            RateLimited: `work` was not begun; recorded.
            RemitError: what `work` raises; recorded, if it was not.
        """
        try:
            self._admit(holder, call)
            return await work()
        except RemitError as error:
            if error.event_id is None:
                await self._refuse(call, error, "")
            raise

    def _admit(self, holder: Holder, call: ToolCall) -> Admitted:
        rate = holder.functions_rate
        if self._limiter is not None and not isinstance(rate.limit, Unlimited):
            demand = Demand(("functions", call.context.principal), rate.limit, rate.window_ms)
            verdict = self._limiter.take((demand,))
            if not verdict:
                raise verdict.error(fit_for_an_event(call.function))
        return Admitted(call)

    def _find(self, holder: Holder, admitted: Admitted, function: Function | None) -> Function:
        if function is None:
            decision = unknown_function(fit_for_an_event(admitted.call.function), holder.policy, holder.functions)
            raise Denied(decision.reason, rule=decision.rule, remedy=decision.remedy, stage="authorize")
        return function

    def _validate(self, function: Function, admitted: Admitted) -> Validated:
        call = admitted.call
        arguments = self._validator.arguments(function.schema, call.args, call.kwargs)
        return Validated(admitted, arguments, digest(arguments))

    def _authorize(self, function: Function, validated: Validated) -> Authorized:
        context = validated.admitted.call.context
        chain = []
        for principal in context.chain[:-1]:
            policy = self._policies(principal.name)
            if policy is None:
                raise Denied(
                    f"`{principal.name}` stands in the chain, and nothing is known of what it may do",
                    rule="chain",
                    remedy="register it with this runtime",
                    stage="authorize",
                )
            chain.append(policy)
        decision = authorize(function.registered, chain)
        if not decision.allowed:
            raise Denied(decision.reason, rule=decision.rule, remedy=decision.remedy, stage="authorize")
        grants = decision.grants
        if function.registered.agent.enforced and context.grants != function.registered.agent.grants:
            grants = grants.intersect(context.grants)  # a context that was narrowed on the way
        if function.shipped.code.kind == "program":
            _check_program(grants, validated.arguments["program"])
        return Authorized(validated, grants, decision.rule)

    def _compile(self, holder: Holder, function: Function, authorized: Authorized) -> JailSpec:
        call = authorized.validated.admitted.call
        spec = function.specs.get(authorized.grants)
        if spec is None:
            spec = compile_spec(
                owner=holder.policy.name,
                code=function.shipped.code,
                grants=authorized.grants,
                limits=function.limits,
                constraints=function.constraints,
                require=holder.require,
                accept_without=holder.accept_without,
            )
            if len(function.specs) >= 64:  # chains differ; what they leave seldom does
                function.specs.clear()
            function.specs[authorized.grants] = spec
        if call.timeout is not None and (not spec.timeout or call.timeout < spec.timeout):
            spec = replace(spec, timeout=call.timeout)
        return spec

    async def _record_intent(self, authorized: Authorized) -> Intended:
        call = authorized.validated.admitted.call
        event = self._event(
            call,
            EventType.CALL,
            "allowed",
            arguments_digest=authorized.validated.digest,
            context={"grants": authorized.grants.as_text(), "rule": authorized.rule},
        )
        recorded = await self._record(event)
        return Intended(authorized, recorded.id if recorded else _UNRECORDED)

    async def _execute(
        self, holder: Holder, function: Function, intended: Intended, spec: JailSpec, stdio: Sequence[int] | None
    ) -> Outcome:
        call = intended.authorized.validated.admitted.call
        arguments = intended.authorized.validated.arguments
        if function.shipped.code.kind == "program":
            request = dict(arguments)
        else:
            args, kwargs = function.schema.spread(arguments)
            request = {"args": args, "kwargs": kwargs}
        try:
            ending = await self._run(holder, function, spec, request, stdio)
        except _CutShort as cut:
            outcome = outcome_of(call, cut.ending, accepted=holder.accept_without)
            with contextlib.suppress(AuditError):  # the cancellation goes on, whatever becomes of the trail
                await self._record_outcome(intended, outcome)
            raise cut.cancelled from None
        except Exception as error:
            refusal = _as_unavailable(error)
            await self._refuse(call, refusal, intended.authorized.validated.digest)
            if refusal is error:
                raise
            raise refusal from error
        return outcome_of(call, ending, accepted=holder.accept_without)

    async def _run(
        self,
        holder: Holder,
        function: Function,
        spec: JailSpec,
        request: Mapping[str, Any],
        stdio: Sequence[int] | None,
    ) -> Ending:
        """Have one request run in a jail, and wait for its end.

        Raises:
            SandboxUnavailable: this machine does not hold what the call needs.
            _CutShort: the wait was cancelled; the jail has ended before this is raised.
        """
        template: Template | None = None
        pending: Call | None = None
        supervisor: Supervisor | None = None
        try:
            supervisor, template = await self._leased(spec)
            if not template.ready.done():
                await _arrival(template.ready)
            template.ready.result()
            pending = supervisor.submit(
                template,
                channel.pack(request),
                spec,
                slots=holder.slots,
                stdio=None if stdio is None else list(stdio),
            )
            return await _end_of(supervisor, pending, function.constraints.queue_timeout)
        except Unfit as error:
            return unfit(error, function.name, function.shipped.code)
        except asyncio.CancelledError as cancelled:
            ending = Ending("killed", what="cancelled")
            if supervisor is not None and pending is not None:
                supervisor.kill(pending, "cancelled")
                ending = await _last(pending) or ending
            raise _CutShort(ending, cancelled) from None
        finally:
            if template is not None:
                self._jails.release(template)

    async def _leased(self, spec: JailSpec) -> tuple[Supervisor, Template]:
        """The template for `spec`, to be released, and who serves it.

        Raises:
            SandboxUnavailable: this machine does not hold what the call needs.
            Unfit: a path of the spec is not there.
        """
        try:
            if self._jails.running() is None:  # starting takes tens of milliseconds, for which the loop does not wait
                await asyncio.to_thread(self._jails.start)
            return self._jails.lease(spec)
        except Unheld as error:
            raise SandboxUnavailable(
                f"`{error.guarantee}` cannot be held on this machine: no {error.missing}",
                guarantee=error.guarantee,
                remedy=error.remedy + (_ACCEPT.format(error.guarantee) if self._jails.running() is not None else ""),
            ) from None

    def _inspect(self, outcome: Outcome) -> Outcome:
        if outcome.status != "returned":
            return outcome
        try:
            checked = self._validator.result(outcome.value)
        except ValidationFailed as error:
            return replace(outcome, status="raised", value=None, what="ValidationFailed", message=str(error))
        return outcome if checked is outcome.value else replace(outcome, value=checked)

    async def _record_outcome(self, intended: Intended, outcome: Outcome) -> Outcome:
        authorized = intended.authorized
        call = authorized.validated.admitted.call
        context: dict[str, Any] = {"status": outcome.status, "tier": outcome.tier}
        if outcome.what:
            context["what"] = short(outcome.what)
        if outcome.refusals:
            context["refusals"] = [f"{r.what} {short(r.resource)} ({r.seen_by})" for r in outcome.refusals[:20]]
        if outcome.accepted:
            context["accepted_without"] = list(outcome.accepted)
        kind = EventType.LIMIT_EXCEEDED if outcome.status == "limit" else EventType.OUTCOME
        event = self._event(
            call,
            kind,
            "denied" if outcome.status in ("limit", "denied") else "allowed",
            arguments_digest=authorized.validated.digest,
            context=context,
            usage=outcome.usage.as_dict(),
            enforced_by=enforced_by(outcome),
        )
        recorded = await self._record(event)
        if outcome.status == "limit":
            self._tell("limit_exceeded", event)
        elif outcome.status == "denied":
            self._tell("violation", event)
        else:
            self._tell("outcome", event)
        return replace(outcome, event_id=recorded.id if recorded else None)

    # --- what the steps share

    def _event(self, call: ToolCall, kind: str, result: Any, **more: Any) -> SecurityEvent:
        return SecurityEvent(
            type=kind,
            principal=call.context.principal,
            chain=call.context.names,
            action=fit_for_an_event(call.function),
            result=result,
            call_id=call.id,
            policy_hash=self._policy_hash,
            **more,
        )

    async def _refuse(self, call: ToolCall, error: RemitError, arguments_digest: str) -> None:
        """Record and tell a refusal; the error gets its event's id. A refusal that cannot be recorded stays one."""
        limited = isinstance(error, (RateLimited, LimitExceeded))
        event = self._event(
            call,
            EventType.RATE_LIMITED if isinstance(error, RateLimited) else EventType.VIOLATION,
            "denied",
            arguments_digest=arguments_digest or None,
            context={
                "stage": error.stage,
                "reason": short(error.reason),
                "rule": getattr(error, "rule", ""),
                "error": type(error).__name__,
            },
        )
        if not isinstance(error, AuditError):
            with contextlib.suppress(AuditError):
                recorded = await self._record(event)
                error.event_id = recorded.id if recorded else None
        self._tell("limit_exceeded" if limited else "violation", event)

    async def describe(
        self,
        owner: str,
        shipped: Shipped,
        *,
        grants: GrantSet = _RUNS,
        limits: Limits | None = None,
        constraints: Constraints | None = None,
        require: Sequence[str] = (),
        accept_without: Sequence[str] = (),
    ) -> Mapping[str, Any]:
        """Import a function in a jail, and return its signature as plain data of a stranger.

        Args:
            owner: for whom.
            shipped: the function.
            grants: what the import may do; by default nothing but run. With these, `limits` and the guarantees those
                of later calls, the calls are forked from the very same import.
            limits: as of a call.
            constraints: likewise.
            require: likewise.
            accept_without: likewise.

        Raises:
            RemitError: the import failed, or no jail could be made; recorded.
        """
        call = ToolCall(
            id=new_id(),
            function=shipped.code.attribute,
            context=SecurityContext(chain=(Principal(owner),), grants=grants, timestamp=0),
        )
        event = self._event(
            call,
            EventType.IMPORTED,
            "allowed",
            resource=shipped.code.module,
            context={"grants": grants.as_text()},
        )
        await self._record(event)
        try:
            spec = compile_spec(
                owner=owner,
                code=shipped.code,
                grants=grants,
                limits=limits or Limits(),
                constraints=constraints or Constraints(),
                require=require,
                accept_without=accept_without,
            )
            described = await self._described(call, shipped, spec)
        except FunctionRaised as error:
            context = {"status": "raised", "what": short(error.type_name)}
            recorded = await self._record(self._event(call, EventType.OUTCOME, "allowed", context=context))
            error.event_id = recorded.id if recorded else None
            raise
        except RemitError as error:
            await self._refuse(call, error, "")
            raise
        return described

    async def _described(self, call: ToolCall, shipped: Shipped, spec: JailSpec) -> Mapping[str, Any]:
        try:
            _, template = await self._leased(spec)
            try:
                described = (await _arrival(template.ready)).get("describe")
            finally:
                self._jails.release(template)
        except Unfit as error:
            outcome = outcome_of(call, unfit(error, shipped.code.attribute, shipped.code))
            failure = outcome.error()
            raise failure if failure is not None else SandboxUnavailable(str(error)) from None
        if not isinstance(described, dict):
            raise ValidationFailed("the jail did not describe the function", remedy="is it a plain function?")
        return described

    async def record(self, event: SecurityEvent) -> Recorded | None:
        """Write an event of somebody else's to the trail and tell listeners by its type.

        Raises:
            AuditError: it is not on the trail.
        """
        recorded = await self._record(event)
        self._tell(event.type, event)
        return recorded

    async def _record(self, event: SecurityEvent) -> Recorded | None:
        return await self._trail.record(event) if self._trail is not None else None

    def _tell(self, name: str, event: SecurityEvent) -> None:
        self._emitter.emit(name, event)


def _check_program(grants: GrantSet, path: str) -> None:
    """That the program at `path`, which is resolved, is granted: Landlock would refuse it too, and say less.

    Raises:
        Denied: no grant covers it, or a deny does.
    """
    try:
        request = access("basic_execution", {"program": path})
    except ValueError as error:
        raise Denied(f"{short(repr(path))} cannot be granted: {error}", rule="no grant", stage="authorize") from None
    decision = permit(grants, request)
    if not decision.allowed:
        raise Denied(decision.reason, rule=decision.rule, remedy=decision.remedy, stage="authorize")


class _Flights:
    """Counts the calls under way, so that the end of a runtime is recorded after theirs."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            self._count += 1

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._count -= 1
            if not self._count:
                self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._count, seconds)


class _CutShort(Exception):
    """The wait for a call was cancelled; how the jail ended all the same."""

    def __init__(self, ending: Ending, cancelled: asyncio.CancelledError) -> None:
        super().__init__()
        self.ending = ending
        self.cancelled = cancelled


async def _end_of(supervisor: Supervisor, pending: Call, queue: Bound) -> Ending:
    """Wait for a jail, as long as `queue` (ms) allows, and for its end."""
    if not pending.started.done():
        try:
            await asyncio.wait_for(_arrival(pending.started), None if isinstance(queue, Unlimited) else queue / 1000)
        except TimeoutError:
            supervisor.kill(pending, "queue_timeout")
            ending = await _arrival(pending.future)
            if (ending.status, ending.what) != ("killed", "queue_timeout"):
                return ending  # it had its jail at the last moment
            return replace(ending, status="limit", bound=None if isinstance(queue, Unlimited) else queue)
    return await _arrival(pending.future)


async def _last(pending: Call) -> Ending | None:
    """Wait for the end of a call that was killed; further cancellations do not cut that short, only the clock does."""
    waiting = asyncio.ensure_future(_arrival(pending.future))
    deadline = asyncio.get_running_loop().time() + _LAST_SECONDS
    while not waiting.done() and (left := deadline - asyncio.get_running_loop().time()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({waiting}, timeout=left)
    if not waiting.done():
        waiting.cancel()
        return None
    return waiting.result()


def _as_refusal(error: Exception) -> RemitError:
    """An error while deciding denies."""
    if isinstance(error, RemitError):
        return error
    return Denied(
        f"deciding failed with `{type(error).__name__}`, which denies",
        rule="error",
        remedy="look at what it was caused by: a check of your own, or a defect of remit",
    )


def _as_unavailable(error: Exception) -> RemitError:
    """Where no jail could be had for a reason that nobody foresaw, there was no call."""
    if isinstance(error, RemitError):
        return error
    return SandboxUnavailable(f"no jail could be had: {type(error).__name__}: {short(str(error))}")


async def _arrival(future: Future[_T]) -> _T:
    """Wait for what another thread will set, without cancelling it when the wait is cancelled.

    `asyncio.wrap_future` would chain the two states both ways, which costs a call several times as much.
    """
    if not future.done():
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()

        def wake(_: Future[_T]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
                loop.call_soon_threadsafe(_wake, woken)

        future.add_done_callback(wake)
        await woken
    return future.result()


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
