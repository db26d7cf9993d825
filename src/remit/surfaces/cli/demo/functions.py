"""The agent's functions: closures, so that they travel into the jail by value, where remit itself is not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from remit.agent import ConversableAgent
from remit.surfaces.cli.demo.judge import Bounds

__all__ = ["register"]


def register(agent: ConversableAgent, folder: Path, *, bounds: Bounds, more: Iterable[str] = ()) -> None:
    """Register `read_file`, `summarise` and `run_python`, each with the least that it needs.

    Args:
        agent: whose functions they become.
        folder: what `read_file` may read, an absolute path.
        bounds: the limits of `run_python`.
        more: further grants of `read_file` and `run_python`.

    Raises:
        PolicyError: `folder` cannot be granted.
    """

    @agent.function(permissions=["basic_execution", f"file_system:read:{folder}", *more])
    def read_file(path: str) -> dict[str, Any]:
        """Read a text file, or list what lies beneath a folder. `%XX` in the path stands for one byte."""
        import os
        import stat
        from codecs import getincrementaldecoder
        from itertools import islice
        from urllib.parse import unquote_to_bytes

        most_bytes, most_entries, most_names, deepest = 1 << 16, 2000, 200, 6
        # It opens what it is told to, wherever that is: a function that is talked into things is what a jail is for.
        place = unquote_to_bytes(path)

        def spell(name: bytes) -> str:
            return "".join(
                letter
                if letter.isprintable() and letter != "%"
                else "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogateescape"))
                for letter in name.decode("utf-8", "surrogateescape")
            )

        def listing() -> dict[str, Any]:
            names: list[str] = []
            left, unread, waiting = most_entries, 0, [(place, b"", 0)]
            deeper = False
            while waiting and left > 0:
                where, prefix, depth = waiting.pop(0)
                try:
                    with os.scandir(where) as found:
                        entries = sorted(islice(found, left), key=lambda entry: entry.name)
                except OSError:
                    if not prefix:
                        raise
                    unread += 1
                    continue
                left -= len(entries)
                for entry in entries:
                    if entry.name.startswith(b"."):
                        continue
                    if not entry.is_dir(follow_symlinks=False):
                        names.append(spell(prefix + entry.name))
                    elif depth < deepest:
                        waiting.append((entry.path, prefix + entry.name + b"/", depth + 1))
                    else:
                        deeper = True
            whole = left > 0 and not waiting and not deeper and len(names) <= most_names
            return {"kind": "folder", "names": names[:most_names], "whole": whole, "unread_folders": unread}

        # O_NONBLOCK: to open a FIFO must not wait for somebody who writes to it (open(2))
        descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            os.close(descriptor)
            return listing() if stat.S_ISDIR(mode) else {"kind": "special"}
        with open(descriptor, "rb") as file:
            size = os.fstat(descriptor).st_size
            data = file.read(most_bytes + 1)
        whole = len(data) <= most_bytes
        try:
            text = getincrementaldecoder("utf-8-sig")().decode(data[:most_bytes], whole)
        except UnicodeDecodeError:
            return {"kind": "binary", "bytes": size}
        if "\0" in text:
            return {"kind": "binary", "bytes": size}
        shown = "".join(letter if letter.isprintable() or letter in "\n\r\t" else " " for letter in text)
        return {"kind": "text", "text": shown, "bytes": size, "whole": whole}

    @agent.function(permissions=["basic_execution"])
    def summarise(text: str) -> dict[str, Any]:
        """Count the lines and words of a text, and name its most frequent words of five letters or more."""
        import re
        from collections import Counter

        words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*", text)
        long = Counter(word.lower() for word in words if len(word) > 4)
        frequent = sorted(long.items(), key=lambda pair: (-pair[1], pair[0]))[:5]
        return {"lines": len(text.splitlines()), "words": len(words), "frequent": dict(frequent)}

    @agent.function(
        permissions=["basic_execution", *more],
        limits={"memory": bounds.memory, "cpu": bounds.cpu_ms},
        timeout=bounds.timeout_ms,
    )
    def run_python(code: str) -> str:
        """Run Python code and return what it printed."""
        import contextlib
        import io

        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, {"__name__": "__main__"})  # noqa: S102  # code that a model wrote, in a jail: the point of it
        return printed.getvalue()[:100_000]
