"""Functions that tests run in jails. Their module is imported there, so it imports next to nothing."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator


def double(x: int) -> int:
    return 2 * x


def total(items: list[int]) -> int:
    return sum(items)


def read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def wait(seconds: int) -> int:
    import time

    time.sleep(seconds)
    return 1


def spin(seconds: int) -> int:
    import time

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return 1


def take(size: int) -> int:
    return len(bytearray(size))


def mark(folder: str) -> int:
    with open(f"{folder}/mark", "w", encoding="utf-8"):
        return 1


def count_events(path: str) -> list[int]:
    """How many intents and outcomes stand in the bytes of a trail."""
    with open(path, "rb") as file:
        data = file.read()
    return [data.count(b'"type":"call"'), data.count(b'"type":"outcome"')]


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def literal(text: str) -> object:
    import ast

    return ast.literal_eval(text)


def explode(value: int) -> int:
    raise KeyError(value)


def checked(x: Annotated[int, AfterValidator(explode)]) -> int:
    return x


def forge(text: str) -> int:
    """Answer with bytes of one's own making: the jail's socket is the one that it has."""
    import os
    import struct

    data = text.encode()
    for number in range(3, 64):
        try:
            os.write(number, struct.pack("<4sII", b"rmt1", len(data), 0) + data)
        except OSError:
            continue
    os._exit(0)
