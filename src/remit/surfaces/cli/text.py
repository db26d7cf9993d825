"""Text that somebody else chose, made safe to look at in a terminal."""

from __future__ import annotations

__all__ = ["visible"]


def visible(text: str, limit: int = 200) -> str:
    r"""The text with everything that does not print as itself written as an escape, and cut to `limit` characters.

    A file name, an argument or an error from inside a jail may hold sequences that move the cursor, set the window's
    title or turn the direction of writing (Trojan Source, CVE-2021-42574). Whatever Unicode does not call printable
    (controls, bidi and other format characters, line and paragraph separators, surrogates, unassigned code points,
    spaces other than U+0020) becomes `\n`, `\x1b`, `\u202e` and so on; a backslash stays a backslash.

    Args:
        text: what is to be shown.
        limit: at most so many characters are returned; what is cut ends with `…`. At least 1.
    """
    whole = len(text) <= limit
    kept = text if whole else text[:limit]
    if not kept.isprintable():
        kept = "".join(
            character if character.isprintable() else character.encode("unicode_escape").decode() for character in kept
        )
        whole = whole and len(kept) <= limit
    return kept if whole else f"{kept[: limit - 1]}…"
