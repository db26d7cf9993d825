"""What `python3 run.py bench` measures: remit beside its peers, on one machine, in one run."""

from __future__ import annotations
