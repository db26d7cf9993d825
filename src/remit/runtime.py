"""Runtime: the composition root. A configuration in, the parts wired; started once, ended in order."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar, overload

from remit.audit import Recorded, Trail
from remit.config import SecurityConfig, host_environment, prepare_state_dir
from remit.context import current_context, current_runtime, in_runtime
from remit.errors import AuditError, PolicyError, RemitError
from remit.jail.spec import JailSpec, Refusal
from remit.jail.supervisor import Supervisor, Template
from remit.model.event import EventType, SecurityEvent
from remit.model.principal import Chain, Principal, SecurityContext
from remit.model.units import AnyCount, AnyDuration, Unlimited, count_of, milliseconds_of
from remit.monitor import Monitor
from remit.monitoring import Emitter
from remit.policy.decide import AgentPolicy
from remit.ratelimit import Demand, MemoryLimiter, WindowUsage
from remit.resources import Endings, ResourceManager
from remit.resources.cleanup import shielded
from remit.shipping import Shipped
from remit.validation import Bounds, Validator

__all__ = [
    "ALONE",
    "HOST",
    "PolicyHandle",
    "Runtime",
    "SecurityValidator",
    "active_runtime",
    "log_security_event",
    "run_sync",
]

HOST: Final = "host"
"""How the deployer's own code is called on the trail and in rate limits. No agent may be called so."""

ALONE: Final = "function "
"""How the principals of functions that stand alone begin. No agent may be called so."""

_T = TypeVar("_T")
_L = TypeVar("_L", bound=Callable[..., Any])
_EVENTS = (
    "violation",
    "limit_exceeded",
    "outcome",
    "message",
    *(value for name, value in vars(EventType).items() if name.isupper()),
)
_MOST_TEMPLATES: Final = 64
_OTHERS_END: Final = 30.0  # seconds for a shutdown that somebody else has begun
_UNWINDS: Final = 1.0  # seconds for a program to put away what is its own
_LAST_OUTCOMES: Final = 1.0  # seconds for loops to record how their calls ended; one that is blocked never does
_LOG = logging.getLogger("remit")


class _Supervised:
    """The supervisor of a runtime's jails: started at the first call that needs one, replaced when it has died."""

    def __init__(self, budget: int, told: Callable[[str, Refusal], None], simulate: Mapping[str, Any] | None) -> None:
        self._budget = budget
        self._told = told
        self._simulate = simulate
        self._lock = threading.Lock()
        self._one: Supervisor | None = None
        self._closed = False
        self._leases: dict[Template, int] = {}  # how many calls hold each; the one that was wanted last stands last

    def running(self) -> Supervisor | None:
        one = self._one
        return one if one is not None and one.alive else None

    def start(self) -> Supervisor:
        with self._lock:
            one = self.running()
            if one is not None:
                return one
            if self._closed:
                raise RemitError("the runtime is closed", remedy="make the call before it is shut down")
            if self._one is not None:
                self._one.close()
            self._leases = {}
            self._one = Supervisor(
                bootstrap="remit.inside",
                on_refusal=self._told,
                memory_budget=self._budget,
                simulate=self._simulate,
            )
            return self._one

    def lease(self, spec: JailSpec) -> tuple[Supervisor, Template]:
        supervisor = self.start()
        with self._lock:
            template = supervisor.template(spec)
            self._leases[template] = self._leases.pop(template, 0) + 1
            if len(self._leases) > _MOST_TEMPLATES:
                self._drop_idle(supervisor)
        return supervisor, template

    def release(self, template: Template) -> None:
        with self._lock:
            if template in self._leases:
                self._leases[template] -= 1

    def _drop_idle(self, supervisor: Supervisor) -> None:
        """Each template is a process with warm calls: those that nobody has wanted for longest go."""
        for template in [template for template, holders in self._leases.items() if not holders]:
            if len(self._leases) <= _MOST_TEMPLATES:
                return
            del self._leases[template]
            if not template.gone:
                supervisor.drop(template)
                template.gone = "dropped"  # from now on a call gets a new one

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._one is not None:
                self._one.close()


class PolicyHandle:
    """`rt.policy`: rate limits of the caller's own, who may do what, and listeners of violations."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def enforce_rate_limit(
        self,
        action: str,
        *,
        limit: AnyCount | None = None,
        window: AnyDuration | None = None,
        weight: int = 1,
    ) -> None:
        """Count one attempt at `action` by the current principal.

        Args:
            action: any name; each has a window of its own.
            limit: how many in any window; the configured default (100 in 60 s) if left out.
            window: how long, such as "60s".
            weight: what this attempt counts.

        Raises:
            RateLimited: too many; recorded.
        """
        await self._runtime.enforce_rate_limit(action, limit=limit, window=window, weight=weight)

    def rate_usage(self, principal: str | None = None, action: str | None = None) -> tuple[WindowUsage, ...]:
        """What `principal` (by default the current one) has used of the windows of `action` (else `functions`)."""
        limiter = self._runtime.limiter
        if limiter is None:
            return ()
        who = principal if principal is not None else self._runtime.principal()
        return limiter.usage(("functions", who) if action is None else ("action", action, who))

    @overload
    def on(self, name: str, listener: None = None, *, once: bool = False) -> Callable[[_L], _L]: ...
    @overload
    def on(self, name: str, listener: _L, *, once: bool = False) -> _L: ...
    def on(self, name: str, listener: _L | None = None, *, once: bool = False) -> _L | Callable[[_L], _L]:
        """Call `listener` with each event called `name`, such as `violation`; also a decorator."""
        return self._runtime.on(name, listener, once=once)  # type: ignore[no-any-return]

    def off(self, name: str, listener: Callable[..., Any] | None = None) -> int:
        """Stop calling `listener`, or all of `name`; returns how many were taken off."""
        return self._runtime.emitter.off(name, listener)


class Runtime:
    """One set of parts: configuration, audit trail, rate limits, jails, resources, listeners.

    Use it with `async with`, which makes it the current one, or leave it out: the first call makes a default one.

    Args:
        config: a SecurityConfig, a mapping of a policy file's form, the path of one, or None for the file in the
            current folder, else the defaults.
        handle_signals: end in order on SIGTERM, SIGINT and SIGHUP (in the main thread), and at exit.
        simulate: take features of the kernel away, for tests: `{"namespaces": False}`.

    Attributes:
        config, policy, resources, audit (None only where its absence was accepted), emitter, monitor.
    """

    def __init__(
        self,
        config: SecurityConfig | Mapping[str, Any] | Path | str | None = None,
        *,
        handle_signals: bool = True,
        simulate: Mapping[str, Any] | None = None,
    ) -> None:
        self.config = _config(config)
        self.emitter = Emitter(names=_EVENTS)
        self.resources = ResourceManager(self.emitter)
        self.policy = PolicyHandle(self)
        self.limiter = MemoryLimiter() if self.config.rate_limiting.enabled else None
        self.validator = Validator(
            Bounds(max_bytes=self.config.validation.max_size), enabled=self.config.validation.enabled
        )
        self.audit = self._open_trail()
        self._policies: dict[str, AgentPolicy] = {}
        self._jails = _Supervised(self._budget(), self._refused, simulate)
        self.monitor = Monitor(
            trail=self.audit,
            limiter=self.limiter,
            validator=self.validator,
            emitter=self.emitter,
            jails=self._jails,
            policy_hash=self.config.policy_hash,
            policies=self._policies.get,
        )
        self._lock = threading.Lock()
        self._state: Literal["open", "closing", "closed"] = "open"
        self._entered: AbstractContextManager[Runtime] | None = None
        try:
            self._note(EventType.STARTED, {"policy": str(self.config.path or "defaults"), "pid": os.getpid()})
        except BaseException:
            if self.audit is not None:
                with suppress(AuditError):
                    self.audit.close()
            raise
        if self.audit is None:
            _LOG.error("the audit trail is turned off: %s", self.config.monitoring.i_accept_no_audit)
        self._awaited = False  # somebody leaves the block while another ends the runtime
        self._endings = Endings(_OnSignal(self)) if handle_signals else None
        if self._endings is not None:
            self._endings.install()

    # --- parts

    def _open_trail(self) -> Trail | None:
        if not self.config.monitoring.audit_trail:
            return None
        settings = self.config.audit
        if settings.path.parent == self.config.state_dir:
            prepare_state_dir(self.config.state_dir)
        return Trail.open(
            settings.path,
            anchor=settings.anchor,
            fsync="all" if settings.fsync == "all" else "denied",
        )

    def _budget(self) -> int:
        budget = self.config.memory_budget
        if isinstance(budget, Unlimited):
            return 0
        return machine_memory() // 2 if budget is None else budget

    def _refused(self, owner: str, refusal: Refusal) -> None:
        """Tell listeners what a jail tried, as the kernel saw it, while it runs. On the supervisor's thread."""
        event = SecurityEvent(
            type=EventType.VIOLATION,
            principal=owner,
            action=refusal.what,
            resource=refusal.resource,
            result="denied",
            timestamp=time.time_ns() // 1_000_000,
            enforced_by="seccomp",
        )
        if self.audit is not None:
            with suppress(AuditError):
                self.audit.submit(event)
        self.emitter.emit("violation", event)

    def start_jails(self) -> Supervisor:
        """Start the zygote now instead of at the first call; blocks for some tens of milliseconds.

        Raises:
            remit.jail.supervisor.Unheld: this machine cannot jail at all.
        """
        return self._jails.start()

    def end_jails(self) -> None:
        """End every jail now: calls in flight end as `killed`, which is recorded, and no call can be made any more.

        Blocks until the zygote is gone. For whoever ends the process on a signal: `shutdown` comes after.
        """
        self._jails.close()

    async def describe(self, owner: str, shipped: Shipped, **options: Any) -> Mapping[str, Any]:
        """Import a function in a jail and return its name, docstring and parameters, as plain data of a stranger.

        Args:
            owner: for whom.
            shipped: the function.
            options: `grants`, `limits`, `constraints`, `require`, `accept_without`, as `Monitor.describe`.

        Raises:
            Denied, FunctionRaised, LimitExceeded: its import failed.
            SandboxUnavailable: no jail could be made.
        """
        return await self.monitor.describe(owner, shipped, **options)

    # --- who

    def principal(self) -> str:
        """The name of who acts now: the current context's principal, or the deployer's own code."""
        context = current_context()
        return context.principal if context is not None else HOST

    def know(self, policy: AgentPolicy, *, alone: bool = False) -> None:
        """Remember what a principal holds, for chains that it stands in.

        Args:
            policy: what it holds.
            alone: it is a function that stands alone: of two declarations of one function, both hold in a chain.

        Raises:
            PolicyError: another agent of that name, with other grants, lives in this runtime.
        """
        known = self._policies.get(policy.name)
        if known is not None and known != policy and alone:
            policy = replace(known, grants=known.grants.intersect(policy.grants))
        elif known is not None and known != policy:
            raise PolicyError(
                f"two agents are called `{policy.name}`, with different grants",
                place=policy.name,
                remedy="give each agent a name of its own: rate limits, audit trail and chains go by it",
            )
        self._policies[policy.name] = policy

    def context_of(self, policy: AgentPolicy, labels: frozenset[str] = frozenset()) -> SecurityContext:
        """The context in which an agent acts: on behalf of the current one, if there is one."""
        me = Principal(policy.name)
        above = current_context()
        now = time.time_ns() // 1_000_000
        if above is None:
            return SecurityContext(chain=(me,), grants=policy.grants, timestamp=now, labels=labels)
        acting = above.narrowed(policy.grants) if above.chain[-1] == me else above.acting(me, policy.grants)
        return replace(acting, chain=_folded(acting.chain), timestamp=now, labels=above.labels | labels)

    # --- events

    def on(self, name: str, listener: Any = None, *, once: bool = False) -> Any:
        """Call `listener` with each event called `name`, or with every event for `*`; also a decorator."""
        return self.emitter.on(name, listener, once=once)

    async def log(self, event: SecurityEvent) -> Recorded | None:
        """Write an event of the user's own to the trail.

        Raises:
            AuditError: it is not on the trail.
        """
        recorded = await self.audit.record(event) if self.audit is not None else None
        self.emitter.emit(event.type, event)
        return recorded

    async def enforce_rate_limit(
        self, action: str, *, limit: AnyCount | None = None, window: AnyDuration | None = None, weight: int = 1
    ) -> None:
        """See `PolicyHandle.enforce_rate_limit`."""
        general = self.config.rate_limiting.limits.default
        most = general.limit if limit is None else count_of(limit, name="limit", least=1)
        length = general.window_ms if window is None else milliseconds_of(window, name="window")
        if self.limiter is None or isinstance(most, Unlimited) or isinstance(length, Unlimited):
            return
        who = self.principal()
        verdict = self.limiter.take((Demand(("action", action, who), most, length, weight),))
        if verdict:
            return
        error = verdict.error(action)
        event = SecurityEvent(
            type=EventType.RATE_LIMITED,
            principal=who,
            action=action,
            result="denied",
            context={"limit": most, "window_ms": length, "retry_after": error.retry_after},
        )
        recorded = await self.audit.record(event) if self.audit is not None else None
        error.event_id = recorded.id if recorded else None
        self.emitter.emit("limit_exceeded", event)
        raise error

    def _note(self, kind: str, context: Mapping[str, Any]) -> None:
        if self.audit is not None:
            self.audit.record_now(
                SecurityEvent(
                    type=kind,
                    principal=HOST,
                    action=kind,
                    result="allowed",
                    context=context,
                    policy_hash=self.config.policy_hash,
                ),
                durable=True,
            )

    # --- life

    @property
    def closed(self) -> bool:
        """Whether it has been shut down, or is being."""
        return self._state != "open"

    async def __aenter__(self) -> Self:
        self._entered = in_runtime(self)
        self._entered.__enter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._entered is not None:
            entered, self._entered = self._entered, None
            with suppress(ValueError):  # left in another context than it was entered in
                entered.__exit__(None, None, None)
        await self.shutdown()

    async def shutdown(self) -> None:
        """End in order: the user's resources, last in first out; the jails; the trail.

        Idempotent; where it is ending already - on a signal, or in another task - this waits for that.
        """
        if not self._begin_end():
            self._awaited = True
            deadline = time.monotonic() + _OTHERS_END
            while self._state != "closed" and time.monotonic() < deadline:  # noqa: ASYNC110  # it may run in any thread
                await asyncio.sleep(0.01)
            return
        report = None
        try:
            report = await self.resources.shutdown()
        finally:  # also where that was cancelled: what is below must end
            # A future, not a task: `asyncio.run` cancels every task when the program's main one has ended.
            await shielded(asyncio.get_running_loop().run_in_executor(None, self._finish_end, report))
            self._stop_watching()

    def close(self) -> None:
        """As `shutdown`, without a loop."""
        if self._begin_end():
            report = None
            try:
                report = self.resources.close()
            finally:
                self._finish_end(report)
                self._stop_watching()

    def hurry(self) -> None:
        """Let a shutdown that is under way wait for nothing more."""
        self.resources.hurry()

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for an end that another has begun."""
        return self._awaited

    def _begin_end(self) -> bool:
        with self._lock:
            if self._state != "open":
                return False
            self._state = "closing"
            return True

    def _finish_end(self, report: Any) -> None:
        self._jails.close()
        self.monitor.settle(_LAST_OUTCOMES)  # calls in flight have ended as killed; their outcomes come first
        failures = [str(failure) for failure in getattr(report, "failures", ())]
        try:
            self._note(EventType.STOPPED, {"cleanup_failures": failures} if failures else {})
        finally:
            if self.audit is not None:
                self.audit.close()
            self.emitter.close()
            self._state = "closed"

    def _stop_watching(self) -> None:
        """Put signal handlers back: in the thread of the caller, as Python lets only the main thread do that."""
        if self._endings is not None:
            self._endings.uninstall()


class _OnSignal:
    """Ends a runtime before the signal is raised again, which most likely ends the process.

    A program that is leaving the runtime's block then may put away what is its own - a folder, a socket - for a while;
    `asyncio.run` cuts that while short when the program has come to its end.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def shutdown(self) -> None:
        await self._runtime.shutdown()
        if self._runtime.awaited:
            await asyncio.sleep(_UNWINDS)

    def close(self) -> None:
        self._runtime.close()

    def hurry(self) -> None:
        self._runtime.hurry()


def _folded(chain: Chain) -> Chain:
    """The chain without its last round, where that repeats the one before: two agents may talk for long.

    The same principals stand in it, and what was intersected on the way stays.
    """
    for length in range(1, len(chain) // 2 + 1):
        if chain[-length:] == chain[-2 * length : -length]:
            return chain[:-length]
    return chain


def _config(config: SecurityConfig | Mapping[str, Any] | Path | str | None) -> SecurityConfig:
    if isinstance(config, SecurityConfig):
        return config
    if isinstance(config, Mapping):
        return SecurityConfig.from_mapping(config)
    return SecurityConfig.load(config)


def machine_memory() -> int:
    """The memory of this machine or of the cgroup around this process, in bytes, whichever is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            total = min(total, int(Path(path).read_text(encoding="ascii")))
    return total


class _Process:
    """What there is once in a process: the default runtime, and the loop of code that is not asynchronous."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: a signal may come while it is held, and ask again
        self._runtime: Runtime | None = None
        self._portal: _Portal | None = None

    def runtime(self) -> Runtime:
        with self._lock:
            if self._runtime is None or self._runtime.closed:
                self._runtime = Runtime()
            return self._runtime

    def portal(self) -> _Portal:
        with self._lock:
            if self._portal is None:
                self._portal = _Portal()
            return self._portal


@functools.lru_cache(maxsize=1)
def _process(process: int) -> _Process:  # noqa: ARG001  # what the cache goes by
    """What this process has; a forked child starts anew."""
    return _Process()


# Made while nobody else runs - at import, and in a forked child at once - so that two threads cannot make two.
_process(os.getpid())
os.register_at_fork(after_in_child=lambda: _process(os.getpid()))


def active_runtime() -> Runtime:
    """The current runtime: the innermost `async with Runtime(...)`, else the process's default one, made if need be.

    A current one that was shut down stays the current one: what it refuses is not to be tried under another policy.
    """
    current = current_runtime()
    return current if current is not None else _process(os.getpid()).runtime()


class SecurityValidator:
    """Validation by the current runtime."""

    @staticmethod
    async def validate_input(value: object, context: SecurityContext | None = None) -> Any:
        """Check a value that comes in: size, encoding, structure. Returns the checked copy, which is what to use.

        Args:
            value: text, UTF-8 bytes, or plain data.
            context: on whose behalf; a refusal is recorded under its principal.

        Raises:
            ValidationFailed: with the place, the reason and the mend; recorded.
        """
        runtime = active_runtime()
        try:
            return runtime.validator.message(value)
        except RemitError as error:
            who = context.principal if context is not None else runtime.principal()
            event = SecurityEvent(
                type=EventType.VIOLATION,
                principal=who,
                chain=context.names if context is not None else (),
                action="validate_input",
                result="denied",
                context={"stage": error.stage, "reason": error.reason[:500]},
            )
            recorded = await runtime.log(event)
            error.event_id = recorded.id if recorded else None
            raise


async def log_security_event(event: SecurityEvent) -> Recorded | None:
    """Write an event to the audit trail of the current runtime.

    Raises:
        AuditError: it is not on the trail.
    """
    return await active_runtime().log(event)


class _Portal:
    """An event loop in a thread of its own, for code that is not asynchronous."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="remit-sync", daemon=True)
        self.thread.start()


def run_sync(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine from code that is not asynchronous, also where a loop runs already (Jupyter). Blocks.

    The coroutine runs on a loop in another thread, in a copy of the current context.
    """
    portal = _process(os.getpid()).portal()
    loop = portal.loop
    if threading.current_thread() is portal.thread:
        work.close()
        raise RemitError("run_sync was called on its own loop", remedy="await it instead")
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        raise


def environment() -> dict[str, str]:
    """The host's variables: what must not travel by value."""
    return host_environment()
