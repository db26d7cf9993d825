"""`python -m remit` is `remit`."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # `-m` looks for modules in the current folder first, where anybody's files may lie: none of them is imported here.
    if not sys.flags.safe_path and sys.path[:1] in ([""], [os.getcwd()]):
        del sys.path[0]
    from remit.surfaces.cli import main

    main()
