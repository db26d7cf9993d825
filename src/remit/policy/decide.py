"""The decision point: pure functions from what was declared to allow or deny, with the reason.

Deny by default; a deny wins over a grant; whatever is raised while deciding denies. What a call may do is what its
agent holds, the function was given, and every principal of the chain holds: intersected, so that authority only
shrinks. The meeting of agent and function is worked out once, at registration; a call without a chain costs a look at
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from remit.errors import PolicyError
from remit.model.grants import GrantSet
from remit.model.permission import Grant, Permission
from remit.model.spelling import did_you_mean, shown

__all__ = [
    "RESTRICTED",
    "AgentPolicy",
    "Decision",
    "FunctionPolicy",
    "RegisteredFunction",
    "authorize",
    "check_agent",
    "check_registration",
    "permit",
    "unknown_function",
]

RESTRICTED = (Permission.FILE_SYSTEM, Permission.ENV)
"""Never had by default, and never bare on an agent."""

_RUNS = Grant(Permission.BASIC_EXECUTION)
_NOTHING = GrantSet()
# A bare kind of these, on a function, is what its agent holds of it. `basic_execution` means itself, to run and no
# more: it is the default of every function, and the default must not hand on the programs that an agent may start.
_EXPANDING = frozenset({Permission.NETWORK, Permission.FILE_SYSTEM, Permission.ENV, Permission.LLM})


@dataclass(frozen=True, slots=True)
class Decision:
    """Allow or deny.

    Attributes:
        allowed: whether the call may go on.
        rule: what decided, such as `deny file_system:write:/etc`, `grant network`, `chain agent-1`, `functions`.
        reason: one sentence without a full stop.
        remedy: what would change it, or "".
        grants: what the call may do; empty when denied.
    """

    allowed: bool
    rule: str
    reason: str
    remedy: str = ""
    grants: GrantSet = field(default=_NOTHING)


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionPolicy:
    """What is declared of a function: `permissions` is None when they were left out."""

    name: str
    permissions: tuple[Grant, ...] | None = None
    deny: tuple[Grant, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPolicy:
    """What an agent holds.

    Attributes:
        name: the agent's.
        grants: what it holds, its denies inside.
        default: what a function has whose permissions were left out, within `grants`.
        enforced: False only where the operator's file turns permissions off, with the reason spelled out.
    """

    name: str
    grants: GrantSet
    default: tuple[Grant, ...] = (_RUNS,)
    enforced: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredFunction:
    """A function with its agent, and what follows from the two; made by `check_registration`."""

    policy: FunctionPolicy
    agent: AgentPolicy
    decision: Decision

    @property
    def grants(self) -> GrantSet:
        """What a call without a chain may do."""
        return self.decision.grants


def check_agent(agent: AgentPolicy, *, restricted: Iterable[Permission] = RESTRICTED, place: str = "") -> None:
    """Refuse what no agent may be given: a bare kind among `restricted`, or bare `file_system` or `env` at all.

    Raises:
        PolicyError: with the scope that is wanted as the remedy.
    """
    never_bare = {*RESTRICTED, *restricted} - {Permission.BASIC_EXECUTION, Permission.FUNCTION_REGISTRATION}
    for grant in agent.grants:
        if grant.bare and grant.permission in never_bare:
            raise PolicyError(
                f"`{grant}` without a scope would give {shown(agent.name)} all of it",
                place=place or agent.name,
                remedy=f"name what it needs, such as `{_EXAMPLES[grant.permission]}`",
            )


_EXAMPLES = {
    Permission.FILE_SYSTEM: "file_system:read:/data",
    Permission.ENV: "env:GITHUB_TOKEN",
    Permission.NETWORK: "network:api.github.com:443",
    Permission.LLM: "llm:gpt-5*",
}


def check_registration(function: FunctionPolicy, agent: AgentPolicy) -> RegisteredFunction:
    """Join a function to its agent.

    Raises:
        PolicyError: the function could never run, or a kind of permission that it declares meets nothing that its agent
            holds.
    """
    place = f"{agent.name}.{function.name}"
    declared = agent.default if function.permissions is None else function.permissions
    wanted = GrantSet(declared, function.deny)
    if not agent.enforced:
        grants = wanted if wanted.covers(_RUNS) else GrantSet((*wanted, _RUNS), wanted.denied)
        decision = Decision(True, "permissions.enabled", "permissions are not enforced", "", grants)
        return RegisteredFunction(policy=function, agent=agent, decision=decision)
    if not wanted.covers(_RUNS):
        raise PolicyError(
            f"{shown(function.name)} is not given `basic_execution`, without which no function runs",
            place=place,
            remedy="add `basic_execution` to its permissions",
        )
    grants = _effective(declared, function.deny, agent)
    for kind in sorted(wanted.kinds() - grants.kinds()):
        asked = ", ".join(f"`{grant}`" for grant in wanted.of_kind(kind))
        held = ", ".join(f"`{grant}`" for grant in agent.grants.of_kind(kind)) or f"no `{kind}`"
        raise PolicyError(
            f"{shown(function.name)} asks for {asked}, and {shown(agent.name)} holds {held}: nothing is left",
            place=place,
            remedy=f"give {shown(agent.name)} {asked}, or take it from the function",
        )
    decision = Decision(
        True, "permissions", f"{shown(agent.name)} holds what {shown(function.name)} was given", "", grants
    )
    return RegisteredFunction(policy=function, agent=agent, decision=decision)


def authorize(function: RegisteredFunction, chain: Sequence[AgentPolicy] = ()) -> Decision:
    """Whether a call may go on, and what it may do. Never raises: an error while deciding denies.

    Args:
        function: what is called, as registered.
        chain: the agents on whose behalf, outermost first; the function's own agent may be among them.
    """
    decision = function.decision
    if not chain or not decision.allowed or not function.agent.enforced:
        return decision
    try:
        grants = decision.grants
        for policy in chain:
            if policy == function.agent:
                continue
            grants = grants.intersect(policy.grants)
            if not grants.covers(_RUNS):
                return Decision(
                    False,
                    f"chain {policy.name}",
                    f"{shown(policy.name)}, on whose behalf {shown(function.policy.name)} is called, may not run it",
                    f"give {shown(policy.name)} `basic_execution`",
                )
        return Decision(True, decision.rule, decision.reason, "", grants)
    except Exception as error:
        return Decision(
            False, "error", f"deciding failed with {type(error).__name__}, which denies", "report it: a defect of remit"
        )


def permit(grants: GrantSet, request: Grant) -> Decision:
    """Whether one concrete request (`remit.model.permission.access`) is within `grants`. Never raises."""
    try:
        allowed, rule = grants.explain(request)
    except Exception as error:
        return Decision(
            False, "error", f"deciding failed with {type(error).__name__}, which denies", "report it: a defect of remit"
        )
    if allowed:
        return Decision(True, rule, f"`{request}` is granted", "", grants)
    if rule:
        return Decision(
            False, rule, f"`{request}` is refused by `{rule}`", "take the deny away, if it should be allowed"
        )
    return Decision(False, "no grant", f"no grant covers `{request}`", f"grant `{request}`, if it should be allowed")


def unknown_function(name: str, agent: AgentPolicy, known: Iterable[str]) -> Decision:
    """The denial of a call to a function that the agent was never given."""
    names = list(known)
    remedy = did_you_mean(name, names) if names else "register it with the agent"
    return Decision(False, "functions", f"{shown(name)} is not a function of {shown(agent.name)}", remedy)


def _effective(declared: Iterable[Grant], deny: Iterable[Grant], agent: AgentPolicy) -> GrantSet:
    expanded: list[Grant] = []
    for grant in declared:
        if grant.bare and grant.permission in _EXPANDING:
            expanded += agent.grants.of_kind(grant.permission)
        else:
            expanded.append(grant)
    return agent.grants.intersect(GrantSet(expanded, deny))
