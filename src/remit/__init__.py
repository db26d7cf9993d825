"""remit keeps an AI agent within its remit.

What an agent may do is declared once and enforced twice: at the call, by a reference monitor, and in the kernel, by a
fresh sandbox around every function that the agent calls. Names are loaded when they are first used: a jail imports
`remit.jail` and nothing else of this package.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remit.agent import ConversableAgent as ConversableAgent
    from remit.agent import JailedFunction as JailedFunction
    from remit.agent import Message as Message
    from remit.agent import Reply as Reply
    from remit.agent import ScriptedModel as ScriptedModel
    from remit.agent import ToolRequest as ToolRequest
    from remit.agent import function as function
    from remit.agent import sandboxed as sandboxed
    from remit.config import SecurityConfig as SecurityConfig
    from remit.context import current_context as current_context
    from remit.errors import AuditError as AuditError
    from remit.errors import Crashed as Crashed
    from remit.errors import Denied as Denied
    from remit.errors import FunctionRaised as FunctionRaised
    from remit.errors import Killed as Killed
    from remit.errors import LimitExceeded as LimitExceeded
    from remit.errors import MemoryLimit as MemoryLimit
    from remit.errors import PolicyError as PolicyError
    from remit.errors import RateLimited as RateLimited
    from remit.errors import RemitError as RemitError
    from remit.errors import SandboxUnavailable as SandboxUnavailable
    from remit.errors import TimeLimit as TimeLimit
    from remit.errors import ValidationFailed as ValidationFailed
    from remit.model.call import Outcome as Outcome
    from remit.model.event import SecurityEvent as SecurityEvent
    from remit.model.limits import UNLIMITED as UNLIMITED
    from remit.model.limits import Constraints as Constraints
    from remit.model.limits import Limits as Limits
    from remit.model.limits import RateLimit as RateLimit
    from remit.model.limits import RateLimits as RateLimits
    from remit.model.limits import Usage as Usage
    from remit.model.permission import Grant as Grant
    from remit.model.permission import Permission as Permission
    from remit.model.principal import Principal as Principal
    from remit.model.principal import SecurityContext as SecurityContext
    from remit.model.security import Security as Security
    from remit.runtime import Runtime as Runtime
    from remit.runtime import SecurityValidator as SecurityValidator
    from remit.runtime import log_security_event as log_security_event
    from remit.runtime import run_sync as run_sync

__version__ = "0.1.0.dev0"

_HOMES = (
    ("remit.agent", "ConversableAgent JailedFunction Message Reply ScriptedModel ToolRequest function sandboxed"),
    ("remit.config", "SecurityConfig"),
    ("remit.context", "current_context"),
    (
        "remit.errors",
        (
            "AuditError Crashed Denied FunctionRaised Killed LimitExceeded MemoryLimit PolicyError RateLimited "
            "RemitError SandboxUnavailable TimeLimit ValidationFailed"
        ),
    ),
    ("remit.model.call", "Outcome"),
    ("remit.model.event", "SecurityEvent"),
    ("remit.model.limits", "UNLIMITED Constraints Limits RateLimit RateLimits Usage"),
    ("remit.model.permission", "Grant Permission"),
    ("remit.model.principal", "Principal SecurityContext"),
    ("remit.model.security", "Security"),
    ("remit.runtime", "Runtime SecurityValidator log_security_event run_sync"),
)

__all__ = ["__version__", *(name for _, names in _HOMES for name in names.split())]  # noqa: PLE0604  # the table is it


def __getattr__(name: str) -> object:
    for home, names in _HOMES:
        if name in names.split():
            from importlib import import_module

            value: object = getattr(import_module(home), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module `remit` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
