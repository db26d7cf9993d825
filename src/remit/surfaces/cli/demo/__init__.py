"""`remit demo`: an agent that was talked into attacks, and what stops each of them."""

from __future__ import annotations

from remit.surfaces.cli.demo.command import demo

__all__ = ["demo"]
