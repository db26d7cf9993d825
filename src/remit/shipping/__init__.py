"""How a function gets into a jail: by reference (its module's own sources) or by value (a pickle, loaded inside)."""

from __future__ import annotations

from remit.shipping.ship import Shipped, from_file, from_source, plain, program, ship
from remit.shipping.sources import functions_of_file

__all__ = ["Shipped", "from_file", "from_source", "functions_of_file", "plain", "program", "ship"]
