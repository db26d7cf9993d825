"""Monitoring: events to listeners."""

from __future__ import annotations

from remit.monitoring.emitter import Emitter
from remit.monitoring.seat import Listener, ListenerStats

__all__ = ["Emitter", "Listener", "ListenerStats"]
