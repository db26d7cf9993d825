"""Resources: what is held, its cleanup, and the endings of the process."""

from __future__ import annotations

from remit.resources.endings import Ending, Endings
from remit.resources.held import CleanupFailure, CleanupReport, Events, ResourceManager, ResourceUsage

__all__ = ["CleanupFailure", "CleanupReport", "Ending", "Endings", "Events", "ResourceManager", "ResourceUsage"]
