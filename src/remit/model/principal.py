"""Principals, the chains that they act in, and the security context of an operation."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from remit.errors import PolicyError
from remit.model.grants import GrantSet
from remit.model.permission import access
from remit.model.spelling import did_you_mean, shown

__all__ = ["Chain", "Check", "Principal", "SecurityContext"]

_KINDS: Final = ("agent", "person", "service")
_LONGEST_NAME: Final = 128
_LONGEST_CHAIN: Final = 64
_CHECK_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Principal:
    """Who acts.

    Attributes:
        name: 1 to 128 printable characters.
        kind: `agent`, `person` or `service`.
    """

    name: str
    kind: str = "agent"

    def __post_init__(self) -> None:
        if not _is_name(self.name):
            raise PolicyError(
                f"{shown(self.name)} cannot be the name of a principal", remedy="1 to 128 printable characters"
            )
        if self.kind not in _KINDS:
            raise PolicyError(f"unknown kind of principal {shown(self.kind)}", remedy=did_you_mean(self.kind, _KINDS))

    def __str__(self) -> str:
        return self.name


Chain = tuple[Principal, ...]
"""On whose behalf, outermost first; the last one acts."""

Check = Callable[[str, Mapping[str, Any]], "bool | Awaitable[bool]"]
"""A user's own check: permission name and context to yes or no; asked after the policy, and only to say no."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityContext:
    """Who acts, with what authority, where and since when. It can be narrowed and labelled, never widened.

    Attributes:
        chain: the principals, outermost first; never empty.
        grants: the effective authority: what every principal of the chain holds, intersected.
        timestamp: integer milliseconds since the epoch.
        scope: what the operation belongs to, such as `application`.
        environment: such as `production`.
        labels: what has flowed in, such as `untrusted`; only ever added to.
        check: a user's own check, or None.
    """

    chain: Chain
    grants: GrantSet
    timestamp: int
    scope: str = "application"
    environment: str = "production"
    labels: frozenset[str] = frozenset()
    check: Check | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.chain or not all(isinstance(principal, Principal) for principal in self.chain):
            raise PolicyError("a security context needs a principal", remedy='write chain=(Principal("agent-1"),)')
        if len(self.chain) > _LONGEST_CHAIN:
            raise PolicyError(
                f"a chain of {len(self.chain)} principals is too long", remedy=f"at most {_LONGEST_CHAIN}"
            )
        if type(self.timestamp) is not int:
            raise PolicyError(f"the timestamp {shown(self.timestamp)} is not whole milliseconds")

    @property
    def principal(self) -> str:
        """The name of who acts: the last of the chain."""
        return self.chain[-1].name

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the chain, outermost first."""
        return tuple(principal.name for principal in self.chain)

    @property
    def permissions(self) -> tuple[str, ...]:
        """The effective grants as text, in canonical order."""
        return tuple(self.grants.as_text())

    def acting(self, principal: Principal, grants: GrantSet) -> SecurityContext:
        """The context in which `principal`, who holds `grants`, acts on behalf of this chain."""
        return replace(self, chain=(*self.chain, principal), grants=self.grants.intersect(grants))

    def narrowed(self, grants: GrantSet) -> SecurityContext:
        """The same chain with no more than `grants`."""
        return replace(self, grants=self.grants.intersect(grants))

    def labelled(self, *labels: str) -> SecurityContext:
        """The same with more labels."""
        return replace(self, labels=self.labels.union(labels))

    async def check_permission(self, action: str, context: Mapping[str, Any] | None = None) -> bool:
        """Whether a request is within the effective grants, and the user's own check, where there is one, agrees.

        Args:
            action: the name of a permission, such as `network`.
            context: the request: `{"host": "api.github.com", "port": 443}` (without a port: every port), `{"path":
                "/data/x", "mode": "read"}` (without a mode: read and write), `{"name": "TOKEN"}`, `{"model":
                "gpt-5"}`, `{"program": "/usr/bin/git"}`. Without one, the bare kind is asked about.

        Returns:
            False also for a value that no request can have, and when the user's check raises, answers anything but
            True, or takes over a second.

        Raises:
            PolicyError: `action` or a key of `context` is unknown: a mistake in the calling code.
        """
        given = dict(context or {})
        try:
            request = access(action, given)
        except ValueError:
            return False
        if not self.grants.allows(request):
            return False
        return self.check is None or await _agrees(self.check, action, given)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and value.isprintable()


async def _agrees(check: Check, action: str, context: dict[str, Any]) -> bool:
    async def ask() -> bool:
        if inspect.iscoroutinefunction(check):
            answer: object = await check(action, context)
        else:
            # a plain function may block: in a thread it holds up nobody else
            answer = await asyncio.to_thread(check, action, context)
            if inspect.isawaitable(answer):
                answer = await answer
        return answer is True

    task = asyncio.ensure_future(ask())
    try:
        # asyncio.wait_for would wait on for a check that swallows its cancellation; asyncio.wait does not
        await asyncio.wait({task}, timeout=_CHECK_SECONDS)
        return task.done() and not task.cancelled() and task.exception() is None and task.result()
    finally:
        task.cancel()
        task.add_done_callback(_looked_at)


def _looked_at(task: asyncio.Future[bool]) -> None:
    """Take the exception of a check that came too late: the answer was no already."""
    if not task.cancelled():
        task.exception()
