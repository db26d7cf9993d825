"""Rate limits: an exact sliding window, with weights."""

from __future__ import annotations

from remit.ratelimit.memory import Demand, MemoryLimiter, Ticket, Verdict, WindowUsage

__all__ = ["Demand", "MemoryLimiter", "Ticket", "Verdict", "WindowUsage"]
